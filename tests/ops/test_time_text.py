"""Times as text."""

from __future__ import annotations

import unittest

from redisproxy.ops.time_text import iso, moment, span


class TimeTextTests(unittest.TestCase):
    def test_moments(self) -> None:
        self.assertEqual(moment(1769851800.9), "2026-01-31 09:30:00 UTC")
        self.assertEqual(iso(1769851800.9), "2026-01-31T09:30:00Z")
        self.assertEqual(iso(253402300799.0), "9999-12-31T23:59:59Z")

    def test_spans_have_their_two_largest_units(self) -> None:
        for seconds, text in (
            (-5, "0 s"),
            (0.9, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min 59 s"),
            (3600, "1 h"),
            (3605, "1 h 5 s"),
            (90061, "1 d 1 h"),
            (400 * 86400, "400 d"),
        ):
            self.assertEqual(span(seconds), text, seconds)
