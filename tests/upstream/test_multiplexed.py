"""A tenant's multiplexed connections: who waits for one, and when one is read although clients do
not read.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

from twisted.internet import defer, task

from redisproxy import bounds, messages
from redisproxy.session.pending import PendingReplies, ReplyBatch
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.connection import RedisConnection, UpstreamError
from redisproxy.upstream.multiplexed import MultiplexedConnection
from redisproxy.upstream.tenant_pool import TenantPool

from ..support.turns import turn


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


class ManySessionsTests(unittest.TestCase):
    """Thousands of sessions notice the same in several turns of the reactor."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.tenant_pool = TenantPool(None, self.clock, Tenant("team-blue", 3), 2)
        self.many = 2 * bounds.RESUMED_PER_TURN + 1
        for _ in range(self.many):
            self.tenant_pool.enter()

    def test_those_that_wait(self) -> None:
        sessions = [Waiting(ended=False) for _ in range(self.many)]
        for session in sessions:
            self.tenant_pool.wait(session)
        self.tenant_pool.upstream = Unavailable()
        self.tenant_pool.notify_waiting()
        for turns in (1, 2, 3):
            expected = min(turns * bounds.RESUMED_PER_TURN, self.many)
            self.assertEqual([session.told for session in sessions], [1] * expected + [0] * (self.many - expected))
            turn(self.clock)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_those_that_wait_while_it_becomes_busy_again(self) -> None:
        sessions = [Waiting(ended=False) for _ in range(self.many)]
        for session in sessions:
            self.tenant_pool.wait(session)
        self.tenant_pool.upstream = Unavailable()
        self.tenant_pool.notify_waiting()
        self.tenant_pool.upstream = Unavailable(busy=True)
        self.clock.advance(0)
        self.assertEqual(sum(session.told for session in sessions), bounds.RESUMED_PER_TURN)
        self.tenant_pool.upstream = Unavailable()
        self.tenant_pool.notify_waiting()
        self.clock.pump([0, 0, 0])
        self.assertEqual(sum(session.told for session in sessions), self.many)

    def test_those_with_a_command_on_a_connection_that_is_lost(self) -> None:
        connection = Connection()
        self.tenant_pool._open = lambda: None
        upstream = MultiplexedConnection(connection, self.tenant_pool, self.clock)
        lost: list[object] = []
        receivers = [mock.Mock(upstream_lost=lost.append) for _ in range(self.many)]
        batches = [ReplyBatch(receiver, 1) for receiver in (*receivers, *receivers)]
        for batch in batches:
            upstream.send(b"", batch)
        upstream.upstream_lost()
        self.assertEqual(lost, batches[: bounds.RESUMED_PER_TURN])
        batches[self.many - 1].receiver = SimpleNamespace(upstream_lost=lambda _: None)  # its session has ended
        self.clock.pump([0, 0, 0])
        self.assertEqual(lost, batches[: self.many - 1])


class OpeningTests(unittest.TestCase):
    def test_one_that_is_opened_when_its_attempt_has_just_been_given_up_is_dropped(self) -> None:
        """The end of an attempt may let other work go on, whose end may give up that attempt."""
        asked: defer.Deferred[None] = defer.Deferred()
        dropped: list[bool] = []

        async def acquire(*_: object) -> object:
            await asked
            tenant_pool.leave()
            return SimpleNamespace(drop=lambda: dropped.append(True))

        pool = SimpleNamespace(acquire=acquire, forget=lambda _: None)
        tenant_pool = TenantPool(pool, task.Clock(), Tenant("team-blue", 3), 2)
        coming = tenant_pool.come()
        asked.callback(None)
        self.assertEqual((dropped, tenant_pool.open, coming.called), ([True], None, False))


class Connection:
    """A connection to a Redis that answers nothing."""

    def __init__(self) -> None:
        self.pending = PendingReplies()
        self.paused = self.released = self.stale = False

    def carry(self, user: object, pressed: object, received: Callable[[bytes], None]) -> PendingReplies:
        self.received = received
        return self.pending

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self, reason: int) -> None:
        self.paused = True

    def resume_reading(self, reason: int) -> None:
        self.paused = False

    def release(self, clean: bool) -> None:
        self.released = True


class User(Waiting):
    """A session, of which only the identity of its replies matters."""

    def __init__(self) -> None:
        super().__init__(ended=False)
        self.replies = self
        self.wants_replies = False
        self.usage = SimpleNamespace(stopped=False)


class SlowReaderTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.attempts: list[defer.Deferred[Connection]] = []
        pool = SimpleNamespace(acquire=self.acquire, forget=lambda _: None)
        self.tenant_pool = TenantPool(pool, self.clock, Tenant("team-blue", 3), 2)
        self.tenant_pool.enter()
        self.tenant_pool._open()
        self.slow, self.other = User(), User()

    async def acquire(self, *_: object) -> Connection:
        self.attempts.append(defer.Deferred())
        return await self.attempts[-1]

    def opened(self) -> MultiplexedConnection:
        self.attempts[-1].callback(Connection())
        upstream = self.tenant_pool.open
        assert upstream is not None
        return upstream

    def falls_behind(self, upstream: MultiplexedConnection, user: User, size: int) -> None:
        """In one read, this session gets so many bytes that its client does not read."""
        upstream.slow_reader(user, size)
        upstream.connection.received(b"")

    def overfull(self, user: User) -> MultiplexedConnection:
        """Returns the connection in use, with so much for this session that another one is
        opened.
        """
        upstream = self.tenant_pool.open or self.opened()
        upstream.send(b"GET", ReplyBatch(user, 2))
        self.falls_behind(upstream, user, bounds.BACKLOG_BYTES)
        return upstream

    def test_it_is_not_read_while_nobody_waits(self) -> None:
        upstream = self.opened()
        upstream.send(b"GET", ReplyBatch(self.slow, 2))
        self.falls_behind(upstream, self.slow, bounds.BACKLOG_BYTES - 1)
        self.assertEqual((upstream.connection.paused, upstream.busy), (False, False))
        self.falls_behind(upstream, self.slow, 1)
        self.assertEqual((upstream.connection.paused, upstream.busy), (True, True))
        upstream.read_everything(self.slow)
        self.assertFalse(upstream.connection.paused)

    def test_it_is_read_while_another_session_waits_for_a_reply_behind(self) -> None:
        for count, discard, paused in ((1, 0, False), (2, 1, False), (2, 2, True)):
            upstream = self.opened() if self.tenant_pool.open is None else self.tenant_pool.open
            upstream.send(b"GET", ReplyBatch(self.slow, 1))
            upstream.send(b"GET", ReplyBatch(self.other, count, discard=discard))
            self.falls_behind(upstream, self.slow, bounds.BACKLOG_BYTES)
            self.assertEqual(upstream.connection.paused, paused, (count, discard))
            self.opened()
        self.clock.pump([0.2])

    def test_it_is_not_read_for_another_slow_reader_that_waits_for_nothing(self) -> None:
        upstream = self.opened()
        upstream.send(b"GET", ReplyBatch(self.other, 1))
        self.falls_behind(upstream, self.other, 1)
        self.assertIs(self.overfull(self.slow), upstream)
        self.assertTrue(upstream.connection.paused)
        upstream.read_everything(self.other)
        self.assertFalse(upstream.connection.paused)

    def test_it_is_read_for_a_slow_reader_that_waits_for_its_replies(self) -> None:
        upstream = self.overfull(self.slow)
        self.slow.wants_replies = True
        upstream.settle()
        self.assertFalse(upstream.connection.paused)
        self.slow.wants_replies = False
        upstream.settle()
        self.assertTrue(upstream.connection.paused)

    def test_without_memory_it_is_not_read_and_left_at_once(self) -> None:
        upstream = self.opened()
        upstream.send(b"GET", ReplyBatch(self.slow, 2))
        self.slow.usage.stopped = True
        self.falls_behind(upstream, self.slow, 1)
        self.assertTrue(upstream.connection.paused and upstream.leaving)

    def test_one_read_looks_once_at_all_who_wait(self) -> None:
        """Each of its pieces would: a read of 64 KiB for many kept the proxy busy for 8 s."""
        looked = []

        class Slow(User):
            wants_replies = property(lambda self: bool(looked.append(self)), lambda self, value: None)

            def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
                upstream.slow_reader(self, len(piece))

        upstream = self.opened()
        readers = [Slow() for _ in range(20)]
        self.falls_behind(upstream, readers[0], bounds.BACKLOG_BYTES)
        for reader in readers * 50:
            upstream.send(b"PING", ReplyBatch(reader, 1))
        upstream.send(b"PING", ReplyBatch(self.other, 1))
        looked.clear()
        upstream.connection.received(b"+PONG\r\n" * 1000)
        self.assertLessEqual(len(looked), len(readers))
        self.assertFalse(upstream.connection.paused, "the other session waits for it")
        self.clock.pump([0.2])

    def test_another_takes_its_place(self) -> None:
        upstream = self.overfull(self.slow)
        self.tenant_pool.wait(self.other)
        self.assertTrue(upstream.connection.paused, "the other session waits for the new one")
        new = self.opened()
        self.assertEqual((self.other.told, upstream.retired), (1, True))
        self.assertEqual((new.busy, upstream.connection.paused), (False, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_if_no_other_can_be_opened_soon_it_stays_in_use(self) -> None:
        upstream = self.overfull(self.slow)
        self.tenant_pool.wait(self.other)
        self.clock.advance(bounds.REPLACING_SECONDS)
        self.assertEqual((self.other.told, upstream.busy, upstream.connection.paused), (1, False, False))
        self.opened()
        self.assertTrue(upstream.retired)

    def test_if_no_other_can_be_opened_it_stays_in_use(self) -> None:
        upstream = self.overfull(self.slow)
        self.tenant_pool.wait(self.other)
        self.attempts[-1].errback(UpstreamError(messages.REDIS_UNKNOWN(), "ERR no"))
        self.assertEqual((self.other.told, upstream.busy, upstream.connection.paused), (1, False, False))
        self.tenant_pool.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_of_many_the_last_stays_in_use_until_one_is_given_back(self) -> None:
        readers = [User() for _ in range(bounds.MULTIPLEXED_CONNECTIONS)]
        upstreams = []
        for reader in readers:
            upstreams.append(self.overfull(reader))
            if len(upstreams) < bounds.MULTIPLEXED_CONNECTIONS:
                self.opened()
        attempts = len(self.attempts)
        self.assertEqual(attempts, bounds.MULTIPLEXED_CONNECTIONS)
        last = upstreams[-1]
        self.assertTrue(last.connection.paused)
        self.tenant_pool.wait(self.other)
        self.assertEqual((self.other.told, last.busy, last.connection.paused), (1, False, False))
        upstreams[0].read_everything(readers[0])
        upstreams[0]._batches[0].count = 0
        upstreams[0]._batches.clear()
        upstreams[0].retire()
        self.assertEqual(len(self.attempts), attempts + 1)
        self.assertIsNot(self.opened(), last)


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
        self.assertEqual(self.pool.order.pools, {})
