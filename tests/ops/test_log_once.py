"""Which lines are due."""

from __future__ import annotations

from twisted.internet import task
from twisted.trial import unittest

from redisproxy.ops.log_once import MOST, QUIET, LogOnce


class LogOnceTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.once = LogOnce(self.clock)

    def test_the_same_is_said_again_after_a_while(self) -> None:
        self.assertEqual([self.once.due(text) for text in "abab"], [True, True, False, False])
        self.clock.advance(QUIET - 0.1)
        self.assertFalse(self.once.due("a"))
        self.clock.advance(0.1)
        self.assertEqual([self.once.due(text) for text in "aa"], [True, False])

    def test_what_is_over_is_news_when_it_comes_again(self) -> None:
        self.once.due("a")
        self.once.forget()
        self.assertTrue(self.once.due("a"))

    def test_many_different_ones_are_bounded(self) -> None:
        self.assertEqual(sum(self.once.due(str(number)) for number in range(MOST + 50)), MOST)
        self.clock.advance(QUIET)
        self.assertTrue(self.once.due("one more"))
