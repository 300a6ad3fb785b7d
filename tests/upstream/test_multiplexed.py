"""A tenant's multiplexed connections: who waits for one, and when a slow reader is closed."""

from __future__ import annotations

import unittest
from types import SimpleNamespace

from twisted.internet import defer, task

from redisproxy import bounds
from redisproxy.session.pending import PendingReplies, ReplyBatch
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.multiplexed import MultiplexedConnection, TenantPool


class Waiting:
    def __init__(self, ended: bool) -> None:
        self.ended = ended
        self.told = 0

    def upstream_ready(self) -> None:
        self.told += 1


class WaitingTests(unittest.TestCase):
    def test_sessions_that_left_are_not_kept_while_redis_stands_still(self) -> None:
        tenant_pool = TenantPool(None, task.Clock(), Tenant("team-blue", 3), 2)
        tenant_pool.enter()
        there = Waiting(ended=False)
        tenant_pool.wait(there)
        for _ in range(100):
            tenant_pool.wait(Waiting(ended=True))
        self.assertLessEqual(len(tenant_pool._waiting), 3)
        tenant_pool.upstream = Unavailable()
        tenant_pool.notify_waiting()
        self.assertEqual(there.told, 1)


class Connection:
    """A connection to a Redis that answers nothing."""

    def __init__(self) -> None:
        self.pending = PendingReplies()

    def carry(self, *_: object) -> PendingReplies:
        return self.pending

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self, reason: int) -> None:
        pass


class User(Waiting):
    """A session, of which only the identity of its replies matters."""

    def __init__(self) -> None:
        super().__init__(ended=False)
        self.replies = self
        self.closed = False

    def close_slow_reader(self) -> None:
        self.closed = True


class SlowReaderTests(unittest.TestCase):
    def closed_while_another_waits_for(self, count: int, discard: int) -> bool:
        clock = task.Clock()
        tenant_pool = TenantPool(SimpleNamespace(acquire=self.never), clock, Tenant("team-blue", 3), 2)
        upstream = tenant_pool.upstream = MultiplexedConnection(Connection(), tenant_pool, clock)
        slow, other = User(), User()
        upstream.send(b"GET", ReplyBatch(slow, 1))
        upstream.send(b"GET", ReplyBatch(other, count, discard=discard))
        upstream.slow_reader(slow, bounds.BACKLOG_BYTES)
        clock.advance(bounds.SLOW_READER_SECONDS)
        return slow.closed

    async def never(self, *_: object) -> None:
        await defer.Deferred()

    def test_it_is_closed_if_another_session_waits_for_a_reply_behind_it(self) -> None:
        self.assertTrue(self.closed_while_another_waits_for(1, discard=0))

    def test_also_for_a_reply_behind_one_that_is_discarded(self) -> None:
        """A slow reader is closed for a reply behind a discarded one (CLIENT REPLY SKIP)."""
        self.assertTrue(self.closed_while_another_waits_for(2, discard=1))

    def test_nobody_waits_for_what_is_discarded(self) -> None:
        self.assertFalse(self.closed_while_another_waits_for(2, discard=2))
