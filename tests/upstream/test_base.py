"""When connections are opened before anybody needs them."""

from __future__ import annotations

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy.upstream.base import BACKOFF, Base
from redisproxy.upstream.connection import RedisUnreachable

#: Seconds after which any delay has passed.
LONG = BACKOFF.longest + BACKOFF.spread


class BaseTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        #: how many there have to be
        self.size = 1
        self.begun: list[defer.Deferred] = []
        self.opened: list[object] = []
        self.base = Base(self.clock, lambda: len(self.opened) < self.size, self.open, self.opened.append)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.base.stop)

    async def open(self) -> object:
        self.begun.append(defer.Deferred())
        return await self.begun[-1]

    def fail(self) -> None:
        self.begun[-1].errback(RedisUnreachable("it is away"))

    def test_one_is_opened_after_the_other(self) -> None:
        self.size = 2
        self.base.replenish()
        self.assertEqual(self.begun, [], "it does not run")
        self.base.start()
        self.base.replenish()
        self.assertEqual(len(self.begun), 1)
        self.begun[0].callback("first")
        self.assertEqual((len(self.begun), self.opened), (2, ["first"]))
        self.begun[1].callback("second")
        self.assertEqual((len(self.begun), self.opened), (2, ["first", "second"]))

    def test_after_a_failure_it_waits_longer_and_longer_until_redis_answers(self) -> None:
        self.base.start()
        waits = []
        for _ in range(20):
            self.fail()
            self.base.replenish()
            (retry,) = self.clock.getDelayedCalls()
            waits.append(retry.getTime() - self.clock.seconds())
            self.clock.advance(waits[-1])
        self.assertEqual(len(self.begun), 21)
        self.assertGreaterEqual(waits[-1], BACKOFF.longest)
        self.base.reached()
        self.fail()
        (retry,) = self.clock.getDelayedCalls()
        self.assertLessEqual(retry.getTime() - self.clock.seconds(), BACKOFF.first + BACKOFF.spread)

    def test_another_opening_that_failed_has_it_try(self) -> None:
        self.size = 0
        self.base.start()
        self.size = 1  # Redis takes no connections
        self.base.not_opened()
        self.base.not_opened()
        self.clock.advance(LONG)
        self.assertEqual(len(self.begun), 1)
        self.base.not_opened()
        self.assertEqual(self.clock.getDelayedCalls(), [], "its own is under way")

    def test_that_redis_is_there_ends_the_wait(self) -> None:
        self.base.start()
        self.fail()
        self.base.retry_now()
        self.assertEqual((len(self.begun), self.clock.getDelayedCalls()), (2, []))

    def test_what_failed_elsewhere_is_not_tried_again(self) -> None:
        self.base.start()
        self.fail()
        self.base.forget_failures()
        self.clock.advance(LONG)
        self.assertEqual(len(self.begun), 1)

    def test_stopped_it_tries_nothing(self) -> None:
        self.base.start()
        self.base.stop()
        self.fail()
        self.clock.advance(LONG)
        self.assertEqual(len(self.begun), 1)
