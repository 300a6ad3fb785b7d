"""Wrong passwords cost time, the later the more."""

from __future__ import annotations

import unittest

from redisproxy.core import guard
from redisproxy.core.guard import Guard


class GuardTests(unittest.TestCase):
    def test_the_first_are_free_then_each_takes_longer(self) -> None:
        guarded = Guard()
        delays = [guarded.wrong("a", 0.0) for _ in range(14)]
        self.assertEqual(delays[:7], [0.0] * 5 + [0.1, 0.2])
        self.assertEqual(delays[-1], guard.LONGEST_DELAY)

    def test_addresses_are_apart_and_forgiven(self) -> None:
        guarded = Guard()
        for _ in range(10):
            guarded.wrong("a", 0.0)
        self.assertEqual(guarded.wrong("b", 0.0), 0.0)
        self.assertGreater(guarded.wrong("a", guard.MEMORY), 0.0)
        self.assertEqual(guarded.wrong("a", 3 * guard.MEMORY), 0.0)

    def test_memory_is_bounded(self) -> None:
        guarded = Guard()
        for number in range(guard.ADDRESSES + 500):
            guarded.wrong(str(number), 0.0)
        self.assertEqual(len(guarded), guard.ADDRESSES)
