"""Tests the two time limits: one timer for many peers, and a limit that the reactor's own delays
extend.
"""

from __future__ import annotations

import unittest

from twisted.internet import defer, task
from twisted.trial.unittest import SynchronousTestCase

from redisproxy.net.time_limit import PATIENCE, TimeLimit, within


class TimeLimitTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.passed: list[tuple[str, float]] = []
        self.limit: TimeLimit[str] = TimeLimit(self.clock, 10, lambda who: self.passed.append((who, self.clock.seconds())))

    def test_each_has_its_own_time_and_one_timer_does(self) -> None:
        for second in range(4):
            self.limit.begin(f"client {second}")
            self.clock.advance(1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.limit.end("client 1")
        self.limit.end("nobody")
        self.clock.pump([0.5] * 40)
        self.assertEqual(self.passed, [("client 0", 10), ("client 2", 12), ("client 3", 13)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_time_that_begins_again(self) -> None:
        self.limit.begin("a")
        self.limit.begin("b")
        self.clock.advance(6)
        self.limit.begin("a")
        self.clock.pump([1] * 20)
        self.assertEqual(self.passed, [("b", 10), ("a", 16)])

    def test_what_is_called_may_begin_and_end_others(self) -> None:
        def passed(who: str) -> None:
            self.passed.append((who, self.clock.seconds()))
            if who == "a":
                self.limit.end("b")
                self.limit.begin("c")

        self.limit = TimeLimit(self.clock, 10, passed)
        for who in ("a", "b", "d"):
            self.limit.begin(who)
        self.clock.pump([1] * 30)
        self.assertEqual(self.passed, [("a", 10), ("d", 10), ("c", 20)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_end_of_all(self) -> None:
        self.limit.stop()
        self.limit.begin("a")
        self.limit.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(20)
        self.assertEqual(self.passed, [])


class WithinTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def within(self, work: defer.Deferred) -> defer.Deferred:
        return within(work, 5.0, self.clock)

    def test_what_ends_in_time(self) -> None:
        works = [defer.Deferred(), defer.Deferred()]
        limited = [self.within(work) for work in works]
        self.clock.advance(4.9)
        works[0].callback("done")
        works[1].errback(ValueError())
        self.assertEqual(self.successResultOf(limited[0]), "done")
        self.failureResultOf(limited[1], ValueError)

    def test_what_takes_too_long_is_cancelled(self) -> None:
        cancelled: list[object] = []
        limited = self.within(defer.Deferred(cancelled.append))
        self.clock.advance(5)
        self.failureResultOf(limited, defer.TimeoutError)
        self.assertEqual(len(cancelled), 1)

    def test_what_it_makes_of_the_cancellation(self) -> None:
        limited = self.within(defer.Deferred(lambda work: work.callback("at the last moment")))
        self.clock.advance(5)
        self.assertEqual(self.successResultOf(limited), "at the last moment")

    def test_who_gives_it_up_hears_no_timeout(self) -> None:
        limited = self.within(defer.Deferred())
        limited.cancel()
        self.failureResultOf(limited, defer.CancelledError)

    def test_delays_of_the_reactor_are_added(self) -> None:
        limited = self.within(defer.Deferred())
        self.clock.advance(8)  # the timer is 3 seconds late
        self.clock.advance(2.9)
        self.assertNoResult(limited)
        self.clock.advance(0.1)
        self.failureResultOf(limited, defer.TimeoutError)

    def test_but_not_without_end(self) -> None:
        limited = self.within(defer.Deferred())
        late = 0
        while not limited.called:
            late += 1
            self.clock.advance(6)
        self.failureResultOf(limited, defer.TimeoutError)
        self.assertLess(late * 6, 5 * (1 + PATIENCE) + 15)
