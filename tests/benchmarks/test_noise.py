"""Tests how the benchmark of a noisy tenant evaluates its measurements."""

from __future__ import annotations

import unittest

from benchmarks.load import Timeline
from benchmarks.noise import Result, table


class ResultTests(unittest.TestCase):
    def test_medians_and_their_ratio(self) -> None:
        alone = [Timeline(0.1, p99, ()) for p99 in (1.0, 9.0, 2.0)]
        beside = [Timeline(0.2, p99, ()) for p99 in (3.0, 0.5, 50.0)]
        result = Result("proxy, no limit", alone, beside, [5.0, 20_000.4, 30_000.0])
        self.assertEqual(result.ratio, 1.5)
        self.assertEqual(
            table([result]).splitlines()[2], "| proxy, no limit | 0.10 ms | 0.20 ms | 2.00 ms | 3.00 ms | 1.5 | 20,000/s |"
        )
