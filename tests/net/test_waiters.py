"""Tests Waiters: many callers wait for one result."""

from __future__ import annotations

from twisted.internet import defer, task
from twisted.python.failure import Failure
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.net.waiters import Waiters


class WaitersTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.waiters: Waiters[str] = Waiters()

    def test_all_get_the_result_in_the_order_in_which_they_came(self) -> None:
        heard: list[str] = []
        for name in "abc":
            self.waiters.wait().addCallback(lambda result, name=name: heard.append(name + result))
        self.assertEqual(len(self.waiters), 3)
        self.waiters.fire("!")
        self.assertEqual((heard, len(self.waiters)), (["a!", "b!", "c!"], 0))

    def test_all_get_a_failure(self) -> None:
        waiting = [self.waiters.wait() for _ in range(2)]
        self.waiters.fire(Failure(ValueError("no")))
        for each in waiting:
            self.failureResultOf(each, ValueError)

    def test_one_that_is_cancelled_is_forgotten(self) -> None:
        first, second = self.waiters.wait(), self.waiters.wait()
        first.cancel()
        self.failureResultOf(first, defer.CancelledError)
        self.waiters.fire("x")
        self.assertEqual(self.successResultOf(second), "x")

    def test_one_that_another_gives_up_when_it_hears_costs_nobody_else_the_result(self) -> None:
        for result in ("x", Failure(ValueError("no"))):
            first, second, third = (self.waiters.wait() for _ in range(3))
            first.addBoth(lambda _, second=second: second.cancel())
            self.waiters.fire(result)
            self.failureResultOf(second, defer.CancelledError)
            self.assertTrue(third.called)
            third.addErrback(lambda _: None)

    def test_who_waits_again_waits_for_the_next_result(self) -> None:
        again: list[defer.Deferred] = []
        self.waiters.wait().addCallback(lambda _: again.append(self.waiters.wait()))
        self.waiters.fire("x")
        self.assertNoResult(again[0])
        self.waiters.fire("y")
        self.assertEqual(self.successResultOf(again[0]), "y")

    def test_many_get_it_in_several_turns(self) -> None:
        clock, order = task.Clock(), []
        waiting = [self.waiters.wait() for _ in range(2 * bounds.RESUMED_PER_TURN + 1)]
        for number, each in enumerate(waiting):
            each.addBoth(lambda _, number=number: order.append(number))
        self.waiters.fire_in_turns("x", clock)
        self.assertEqual(len(order), bounds.RESUMED_PER_TURN)
        waiting[-1].cancel()
        later = self.waiters.wait()
        clock.advance(0)
        self.assertEqual(
            order,
            [
                *range(bounds.RESUMED_PER_TURN),
                2 * bounds.RESUMED_PER_TURN,
                *range(bounds.RESUMED_PER_TURN, 2 * bounds.RESUMED_PER_TURN),
            ],
        )
        self.assertNoResult(later)
        clock.advance(0)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_all_get_a_failure_in_several_turns(self) -> None:
        clock = task.Clock()
        waiting = [self.waiters.wait() for _ in range(bounds.RESUMED_PER_TURN + 1)]
        self.waiters.fire_in_turns(Failure(ValueError("no")), clock)
        clock.advance(0)
        for each in waiting:
            self.failureResultOf(each, ValueError)
