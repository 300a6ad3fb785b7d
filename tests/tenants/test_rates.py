"""How fast counters grow."""

from __future__ import annotations

import unittest

from redisproxy.tenants.rates import Rates


class RatesTests(unittest.TestCase):
    def test_the_average_since_an_earlier_look(self) -> None:
        rates = Rates()
        self.assertEqual(rates.update(100.0, (50, 1000)), [0.0, 0.0])
        self.assertEqual(rates.update(100.5, (60, 1000)), [0.0, 0.0])  # too soon
        self.assertEqual(rates.update(102.0, (70, 1100)), [10.0, 50.0])
        self.assertEqual(rates.update(102.1, (999, 9999)), [10.0, 50.0])
        self.assertEqual(rates.update(112.0, (70, 1100)), [0.0, 0.0])
