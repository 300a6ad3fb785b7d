"""Who makes room at a full Redis, with a clock of the tests and no network."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import messages
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.connection import RedisFull, UpstreamError
from redisproxy.upstream.crowd import PAUSES, Claim, Crowd
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


class Upstream(SimpleNamespace):
    """A connection to Redis, as the crowd sees it."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other
