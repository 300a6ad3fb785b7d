"""A tenant's multiplexed connections: who waits for one, and when a slow reader is closed."""

from __future__ import annotations

import unittest
from types import SimpleNamespace

from twisted.internet import defer, task

from redisproxy import bounds
from redisproxy.session.pending import PendingReplies, ReplyBatch
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.connection import RedisConnection
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


class Ordered:
    """A session that takes part in the order."""

    def close_gate(self, gate: int) -> None:
        pass

    def turn_came(self, later: int) -> None:
        pass


class OrderTests(unittest.TestCase):
    """Commands that wait for the end of the turn, or for a command of another session."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.pool = TenantPool(None, self.clock, Tenant("team-blue", 3), 2)
        self.pool.enter()
        self.written: list[bytes] = []
        connection = Connection()
        connection.write = self.written.append
        self.upstream = self.pool.upstream = MultiplexedConnection(connection, self.pool, self.clock)
        self.session = Ordered()

    def batch(self) -> ReplyBatch:
        return ReplyBatch(User(), 1)

    def test_they_are_written_before_a_later_one_on_a_dedicated_connection(self) -> None:
        dedicated = RedisConnection(None, None)
        dedicated._pending, dedicated.write, dedicated.order = PendingReplies(), self.written.append, self.pool.order
        self.upstream.send(b"1", self.batch())
        self.upstream.send(b"2", self.batch())
        self.upstream.send(b"3", self.batch())
        dedicated.send(b"4", self.batch())
        self.upstream.send(b"5", self.batch())
        self.assertEqual(self.written, [b"1", b"23", b"4"])
        self.clock.advance(0)
        self.assertEqual(self.written, [b"1", b"23", b"4", b"5"])
        self.assertFalse(self.pool.order.unflushed)

    def test_while_others_wait_it_is_busy(self) -> None:
        waiting = Waiting(ended=False)
        self.pool.order.begin(self.session)
        self.assertEqual((self.upstream.busy, self.upstream.overloaded), (True, False))
        self.assertTrue(MultiplexedConnection(Connection(), self.pool, self.clock).busy)
        self.pool.wait(waiting)
        self.pool.notify_waiting()
        self.assertEqual(waiting.told, 0)
        self.pool.order.settled(self.session)
        self.assertEqual((self.upstream.busy, waiting.told), (False, 1))

    def test_it_stays_busy_for_another_reason(self) -> None:
        self.upstream._pressed(True)
        self.pool.order.begin(self.session)
        self.pool.order.settled(self.session)
        self.assertEqual((self.upstream.busy, self.upstream.overloaded), (True, True))

    def test_a_pool_without_sessions_takes_no_part(self) -> None:
        self.pool._pool = SimpleNamespace(forget=lambda _: None)
        self.upstream.send(b"1", self.batch())
        self.assertTrue(self.pool.pending)
        self.pool.leave()
        self.assertEqual(self.pool.order.pools, set())
