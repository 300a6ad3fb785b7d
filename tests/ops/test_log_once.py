"""Which lines are due."""

from __future__ import annotations

import math

from twisted.internet import task
from twisted.trial import unittest

from redisproxy.ops.log_once import ENDS, MOST, QUIET, Condition, LogOnce


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

    def test_what_comes_and_goes_does_not_fill_the_log(self) -> None:
        lines = 0
        for _ in range(1000):
            lines += self.once.due("a")
            lines += self.once.forget()
            self.clock.advance(QUIET / 100)
        self.assertLessEqual(lines, 11 * 2 * (ENDS + 1))
        self.assertGreater(lines, 20)
        self.clock.advance(QUIET)
        self.assertTrue(self.once.due("a") and self.once.forget() and self.once.due("a"))

    def test_many_different_ones_are_bounded(self) -> None:
        self.assertEqual(sum(self.once.due(str(number)) for number in range(MOST + 50)), MOST)
        self.clock.advance(QUIET)
        self.assertTrue(self.once.due("one more"))

    def test_that_it_is_over_is_news_once_if_anything_was_logged(self) -> None:
        self.assertFalse(self.once.forget())
        self.once.due("a")
        self.clock.advance(2 * QUIET)
        self.assertFalse(self.once.due("b") and self.once.due("b"))
        self.assertTrue(self.once.forget())
        self.assertFalse(self.once.forget())

    def test_without_an_end_of_the_quiet_a_text_is_logged_once(self) -> None:
        once = LogOnce(self.clock, quiet=math.inf)
        self.assertTrue(once.due("a"))
        self.clock.advance(1e9)
        self.assertEqual([once.due(text) for text in "ab"], [False, True])


class ConditionTests(unittest.SynchronousTestCase):
    def test_each_fault_is_logged_once(self) -> None:
        condition = Condition()
        self.assertEqual([condition.fault(text) for text in "aabba"], [True, False, True, False, True])
        self.assertEqual(condition.reason, "a")

    def test_that_it_is_over_is_logged_once_if_a_fault_was(self) -> None:
        condition = Condition(lasting=1.0)
        self.assertFalse(condition.over())
        condition.fault("a", 10.0)
        self.assertFalse(condition.over())
        condition.fault("a", 20.0)
        condition.fault("a", 21.0)
        self.assertTrue(condition.over())
        self.assertFalse(condition.over())
        self.assertEqual((condition.reason, condition.since), (None, None))

    def test_a_fault_is_logged_when_it_has_lasted(self) -> None:
        condition = Condition(lasting=1.0)
        self.assertEqual(
            [condition.fault(text, now) for text, now in (("a", 5.0), ("b", 5.9), ("c", 6.0))], [False, False, True]
        )
        self.assertEqual(condition.since, 5.0)
        condition.over()
        self.assertFalse(condition.fault("c", 7.0))
        self.assertTrue(condition.fault("c", 8.0))

    def test_another_fault_in_its_place_is_logged_after_the_quiet(self) -> None:
        condition = Condition(quiet=30.0)
        said = [condition.fault(text, now) for text, now in (("a", 0.0), ("b", 29.9), ("a", 30.0), ("b", 30.0), ("b", 60.0))]
        self.assertEqual(said, [True, False, False, True, False])

    def test_after_it_was_over_there_is_no_quiet(self) -> None:
        condition = Condition(quiet=30.0)
        self.assertTrue(condition.fault("a", 0.0))
        condition.over()
        self.assertTrue(condition.fault("a", 1.0))
