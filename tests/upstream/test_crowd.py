"""Who makes room at a full Redis, with a clock of the tests and no network."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.client import ControlError
from redisproxy.upstream.connection import RedisCloses, RedisFull, UpstreamError
from redisproxy.upstream.crowd import ASK_AGAIN, FULL_SECONDS, PAUSES, Claim, Crowd
from redisproxy.upstream.idle import IdleConnections

BLUE, GREEN = Tenant("blue", 3), Tenant("green", 5)


class CrowdTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.idle = IdleConnections(self.clock, 30.0, lambda: False)
        self.settled: list[bool] = []
        self.crowd = Crowd(self.clock, self.idle, lambda: self.settled.append(True))
        self.room = 0

    def upstream(self, tenant: Tenant, rank: int | None) -> SimpleNamespace:
        upstream = Upstream(tenant=tenant, rank=rank, key=(tenant, 2), idle_since=0.0)
        upstream.give_way = upstream.drop = lambda: self.gone(upstream)
        self.crowd.add(upstream)
        return upstream

    def gone(self, upstream: SimpleNamespace) -> None:
        if upstream not in self.ended:
            self.ended.append(upstream)
            self.room += 1
            self.clock.callLater(0, self.crowd.lost, upstream)

    @property
    def ended(self) -> list[SimpleNamespace]:
        return self.__dict__.setdefault("_ended", [])

    async def attempt(self) -> str:
        if not self.room:
            raise RedisFull(messages.REDIS_AWAY())
        self.room -= 1
        return "connection"

    def open(self, claim: Claim) -> defer.Deferred[str]:
        opened = defer.Deferred.fromCoroutine(self.crowd.open(claim, self.attempt, 2.0))
        self.clock.pump([0.0, 0.0, *PAUSES])
        return opened

    def test_where_least_is_lost(self) -> None:
        blocked, subscribed, shared = (self.upstream(BLUE, rank) for rank in (2, 1, None))
        claim = Claim(GREEN)
        self.assertEqual(self.successResultOf(self.open(claim)), "connection")
        self.assertEqual(self.ended, [subscribed])
        self.assertTrue(self.crowd.promising)
        self.crowd.end(claim)
        self.assertEqual((self.crowd.promising, self.settled), (False, [True]))
        # What many sessions share stays.
        self.successResultOf(self.open(Claim(GREEN)))
        self.assertNotIn(shared, self.ended)
        self.assertIn(blocked, self.ended)

    def test_nobody_who_has_as_much_or_only_one_more(self) -> None:
        for _ in range(2):
            self.upstream(BLUE, 0)
        self.upstream(GREEN, 0)
        for tenant in (GREEN, BLUE):
            self.failureResultOf(self.open(Claim(tenant)), RedisFull)
        self.assertEqual(self.ended, [])

    def test_an_idle_one_first(self) -> None:
        for _ in range(3):
            self.upstream(BLUE, 0)
        idle = self.upstream(GREEN, None)
        self.idle.put(idle)
        self.clock.advance(2)
        self.successResultOf(self.open(Claim(BLUE)))
        self.assertEqual(self.ended, [idle])

    def test_nothing_for_one_that_nobody_waits_for(self) -> None:
        for _ in range(3):
            self.upstream(BLUE, 0)
        failure = self.failureResultOf(self.open(Claim(GREEN, lambda: False)), UpstreamError)
        self.assertFalse(failure.value.passing)
        self.assertEqual(self.ended, [])
        self.assertTrue(self.crowd.full, "though nobody needed it")

    def test_no_connections_at_all(self) -> None:
        """Others than this process have filled Redis."""
        self.failureResultOf(self.open(Claim(GREEN)), RedisFull)
        self.crowd.make_room()
        self.assertFalse(self.crowd.promising)
        self.assertFalse(self.crowd.divisible)

    def test_what_can_be_divided(self) -> None:
        shared = [self.upstream(BLUE, None) for _ in range(3)]
        self.assertFalse(self.crowd.divisible, "what many sessions share stays")
        self.upstream(BLUE, 2)
        self.assertTrue(self.crowd.divisible)
        for upstream in shared:
            self.crowd.lost(upstream)
        self.assertFalse(self.crowd.divisible, "nobody has two")

    def test_the_caller_leaves(self) -> None:
        """What was given up for it is cut off all the same."""
        for _ in range(3):
            self.upstream(BLUE, 3).give_way = lambda: None
        claim = Claim(GREEN)
        opened = self.open(claim)
        opened.cancel()
        self.failureResultOf(opened, defer.CancelledError)
        self.crowd.end(claim)
        self.assertEqual(self.ended, [])
        self.clock.advance(bounds.GIVING_WAY_SECONDS)
        self.clock.advance(0)
        self.assertEqual(len(self.ended), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_redis_moves(self) -> None:
        for _ in range(3):
            self.upstream(BLUE, 0)
        self.successResultOf(self.open(Claim(GREEN)))
        self.crowd.moved()
        self.assertFalse(self.crowd.full or self.crowd.said_full)
        self.failureResultOf(self.open(Claim(Tenant("red", 7))), RedisFull)
        self.assertEqual(len(self.ended), 1)

    def test_one_reason_for_one_fault(self) -> None:
        """Redis's error can be lost on its way."""
        closes = RedisCloses(messages.REDIS_CLOSES(address="redis"))
        full = RedisFull(messages.REDIS_ANSWERED_PING(error="full"))

        def attempt(error: Exception) -> Exception:
            return self.failureResultOf(
                defer.Deferred.fromCoroutine(self.crowd.attempt(lambda: defer.fail(error))), type(error)
            ).value

        self.assertEqual(attempt(closes).reason, closes.reason)
        self.assertFalse(self.crowd.full)
        self.assertEqual(attempt(full).reason, full.reason)
        again = self.failureResultOf(
            defer.Deferred.fromCoroutine(self.crowd.attempt(lambda: defer.fail(closes))), RedisFull
        ).value
        self.assertEqual(again.reason, full.reason)
        self.clock.advance(FULL_SECONDS + 1)
        self.assertIs(attempt(closes), closes)
        self.assertFalse(self.crowd.full)

    def test_a_query_is_asked_again_only_if_that_helps(self) -> None:
        asked: list[ControlError] = []

        async def asking(passing: bool) -> str:
            asked.append(ControlError(messages.REDIS_CONNECTION_LOST(), passing=passing))
            raise asked[-1]

        def query(passing: bool) -> defer.Deferred[str]:
            asked.clear()
            return defer.Deferred.fromCoroutine(self.crowd.ask(partial(asking, passing)))

        self.failureResultOf(query(True), ControlError)
        self.assertEqual(len(asked), 1, "no room is made")
        for _ in range(3):
            self.upstream(BLUE, 0)
        for passing, times in ((True, 4), (False, 1)):
            self.crowd.make_room()
            queried = query(passing)
            self.clock.pump([0.0, 0.0, ASK_AGAIN, ASK_AGAIN])
            self.crowd.room_used()
            self.clock.advance(ASK_AGAIN)
            self.failureResultOf(queried, ControlError)
            self.assertEqual(len(asked), times)
        self.crowd.stop()

    def test_for_the_proxy_itself(self) -> None:
        for _ in range(2):
            self.upstream(BLUE, 2)
        self.crowd.make_room()
        self.crowd.make_room()
        self.clock.pump([0.0, 0.0])
        self.assertEqual(len(self.ended), 1)
        self.crowd.stop()
        self.assertFalse(self.crowd.promising)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_for_the_proxy_itself_again(self) -> None:
        """Another process has taken the place that was made."""
        for _ in range(4):
            self.upstream(BLUE, 2)
        self.crowd.make_room()
        self.clock.pump([0.0, 0.0])
        self.crowd.make_room()  # this attempt had begun before
        self.clock.pump([0.0, 0.0])
        self.assertEqual(len(self.ended), 1)
        self.clock.advance(ASK_AGAIN)
        self.crowd.make_room()
        self.clock.pump([0.0, 0.0])
        self.assertEqual(len(self.ended), 2)
        self.clock.advance(ASK_AGAIN)
        self.clock.advance(bounds.GIVING_WAY_SECONDS)
        self.assertFalse(self.crowd.promising, "nothing was refused")
        self.assertEqual((len(self.ended), self.clock.getDelayedCalls()), (2, []))


class Upstream(SimpleNamespace):
    """A connection to Redis, as the crowd sees it."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other
