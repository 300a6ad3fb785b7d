"""How long Redis takes, and how long each tenant's commands take, as the proxy's own PINGs measure
it.
"""

from __future__ import annotations

import unittest
from unittest import mock

from twisted.internet import defer, task
from twisted.internet.address import UNIXAddress
from twisted.internet.testing import StringTransport

from redisproxy import bounds
from redisproxy.net.protocol import PauseReason
from redisproxy.session.pending import ReplyBatch
from redisproxy.session.replies import NOBODY
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.tenants.window import Window
from redisproxy.upstream.connection import RedisConnection
from redisproxy.upstream.latency import INTERVAL, Sampler
from redisproxy.upstream.multiplexed import MultiplexedConnection
from redisproxy.upstream.tenant_pool import TenantPool

PING = b"*1\r\n$4\r\nPING\r\n"


class Deaf:
    """Receives replies that do not matter to a test."""

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        pass


class Pool:
    """Takes connections back."""

    def __init__(self) -> None:
        self.released: list[RedisConnection] = []

    def release(self, upstream: RedisConnection, clean: bool) -> None:
        upstream.detach()
        self.released.append(upstream)

    async def acquire(self, tenant: Tenant, protocol: int) -> RedisConnection:
        await defer.Deferred()
        raise AssertionError("nobody opens one")

    def forget(self, tenant_pool: TenantPool) -> None:
        pass


class Sampled(unittest.TestCase):
    """One upstream connection, which is sampled."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.pool = Pool()
        self.upstreams: list[MultiplexedConnection] = []
        self.upstream = self.opened("blue", 3)
        self.connection, self.transport = self.upstream.connection, self.upstream.connection.transport
        self.samples: list[float] = []
        self.of_tenants: list[tuple[str, float]] = []
        self.sampler = Sampler(
            self.clock, lambda: self.upstreams, self.samples.append, lambda *sample: self.of_tenants.append(sample)
        )
        self.sampler.startService()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.sampler.stopService)

    def opened(self, namespace: str, index: int) -> MultiplexedConnection:
        """Returns a tenant's connection, in use."""
        connection = RedisConnection(BackendAddress(host="127.0.0.1", port=6379, password=b""), self.pool)
        connection.makeConnection(StringTransport(UNIXAddress("/redis")))
        connection.tenant = Tenant(namespace, index)
        tenant_pool = TenantPool(self.pool, self.clock, connection.tenant, 2)
        upstream = MultiplexedConnection(connection, tenant_pool, self.clock)
        tenant_pool.upstream = upstream
        tenant_pool.upstreams.add(upstream)
        tenant_pool.enter()
        self.upstreams.append(upstream)
        return upstream

    def send(self, command: bytes = b"GET a\r\n", replies: int = 1) -> None:
        self.upstream.send(command, ReplyBatch(Deaf(), replies))

    def use(self) -> None:
        self.send()
        self.connection.dataReceived(b"$-1\r\n")

    def sent(self) -> bytes:
        sent = self.transport.value()
        self.transport.clear()
        return sent


class SamplerTests(Sampled):
    def test_one_that_is_used_is_asked_once_in_a_while(self) -> None:
        self.use()
        self.sent()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), PING)
        self.clock.advance(0.25)
        self.connection.dataReceived(b"+PONG\r\n")
        self.assertEqual(self.samples, [0.25])
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), b"", "nothing but the PING came over it")

    def test_one_whose_commands_wait_for_their_window_says_nothing(self) -> None:
        self.use()
        window = Window(self.clock.seconds, self.clock.callLater)
        window.size = bounds.WINDOW_MOST
        self.send()
        self.upstream.send_in_rounds(b"*1\r\n$4\r\nKEYS\r\n" * 3, ReplyBatch(NOBODY, 3), 3, window)
        self.clock.advance(0)
        self.assertTrue(self.upstream.in_rounds)
        self.sent()
        self.clock.advance(INTERVAL)
        self.connection.dataReceived(b"$-1\r\n*0\r\n*0\r\n*2\r\n$1\r\n1\r\n$1\r\n1\r\n")
        self.assertEqual(self.sent().count(PING), 0)

    def test_one_that_is_not_read_from_says_nothing(self) -> None:
        self.use()
        self.sent()
        self.connection.pause_reading(PauseReason.RATE)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), b"")
        self.connection.resume_reading(PauseReason.RATE)
        self.use()
        self.sent()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), PING)
        # Redis's time does not include time in which the tenant was over its rate.
        self.connection.pause_reading(PauseReason.RATE)
        self.clock.advance(0.5)
        self.connection.resume_reading(PauseReason.RATE)
        self.connection.dataReceived(b"+PONG\r\n")
        self.assertEqual(self.samples, [])


class TenantTests(Sampled):
    def setUp(self) -> None:
        super().setUp()
        self.clock.advance(INTERVAL)
        # A new connection gets a PING for Redis's time at once.
        self.connection.dataReceived(b"+PONG\r\n")
        self.assertEqual((self.sent(), len(self.samples)), (PING, 1))
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), b"", "nothing is sent before the tenant sends something")

    def test_the_time_of_a_tenants_commands(self) -> None:
        self.send(b"GET a\r\nGET b\r\n", 2)
        self.assertEqual(self.sent(), b"GET a\r\nGET b\r\n" + PING)
        self.clock.advance(0.2)
        self.connection.dataReceived(b"$-1\r\n")
        self.assertEqual(self.of_tenants, [], "one of its replies is missing")
        self.clock.advance(0.1)
        self.connection.dataReceived(b"$-1\r\n+PONG\r\n")
        self.assertEqual([(name, round(seconds, 3)) for name, seconds in self.of_tenants], [("blue", 0.3)])
        self.assertEqual(len(self.samples), 1, "they are no samples of Redis")

    def test_commands_are_timed_once_in_a_second(self) -> None:
        self.use()
        self.sent()
        self.connection.dataReceived(b"+PONG\r\n")
        for _ in range(3):
            self.use()
        self.assertEqual(self.sent(), 3 * b"GET a\r\n")
        self.clock.advance(INTERVAL)
        self.sent()  # the PING that measures Redis
        self.connection.dataReceived(b"+PONG\r\n")
        self.send()
        self.assertEqual(self.sent(), b"GET a\r\n" + PING)
        self.assertEqual(len(self.of_tenants), 1)

    def test_commands_of_one_turn_are_timed_together(self) -> None:
        self.use()
        self.connection.dataReceived(b"+PONG\r\n")
        self.send()
        self.sent()
        self.upstream.send_behind_next(PING, lambda: ReplyBatch(Deaf(), 1, discard=1))
        self.send(b"GET b\r\n")
        self.send(b"GET c\r\n")
        self.clock.advance(0)
        self.assertEqual(self.sent(), b"GET b\r\nGET c\r\n" + PING)
        self.connection.dataReceived(4 * b"$-1\r\n")
        self.assertTrue(self.connection._pending.settled)

    def test_the_proxys_own_ping_is_no_command_of_the_tenants(self) -> None:
        self.use()
        self.connection.dataReceived(b"+PONG\r\n")
        self.clock.advance(INTERVAL)
        # The reply to the PING that measures Redis. From now on the connection waits for the next
        # command.
        self.connection.dataReceived(b"+PONG\r\n")
        self.sent()
        self.connection.bytes_received += 1  # as if the reply to an earlier command had come
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), PING)

    def test_time_for_which_it_was_not_read_says_nothing(self) -> None:
        self.send()
        self.connection.pause_reading(PauseReason.RATE)
        self.clock.advance(0.5)
        self.connection.resume_reading(PauseReason.RATE)
        self.connection.dataReceived(b"$-1\r\n+PONG\r\n")
        self.assertEqual(self.of_tenants, [])

    def test_the_next_user_of_a_connection_is_not_timed(self) -> None:
        """No PING is sent for a connection's next user, who may be in the middle of a value."""
        self.upstream.retire()
        self.assertEqual(self.pool.released, [self.connection])
        self.connection.write(b"*3\r\n$3\r\nSET\r\n")
        self.assertEqual(self.sent(), b"*3\r\n$3\r\nSET\r\n")

    def test_a_connection_that_was_half_closed_writes_nothing_more(self) -> None:
        self.transport.loseWriteConnection = lambda: None
        self.connection.finish()
        self.upstream.send_nothing_behind()
        self.connection.write(b"GET a\r\n")
        self.assertEqual(self.sent(), b"")

    def test_a_connection_that_was_lost_is_let_go_of(self) -> None:
        self.upstream.upstream_lost()
        self.assertFalse(self.upstream.sends_behind_next)

    def test_so_many_begin_to_wait_at_once(self) -> None:
        others = [self.opened(f"tenant-{number}", 10 + number) for number in range(5)]
        with mock.patch.object(bounds, "TIMED_CONNECTIONS", 0):
            self.clock.advance(INTERVAL)
        for upstream in others:
            upstream.connection.dataReceived(b"+PONG\r\n")
        with mock.patch.object(bounds, "TIMED_CONNECTIONS", 2):
            for waiting in (2, 4, 5, 5):
                self.clock.advance(INTERVAL)
                self.assertEqual(sum(upstream.sends_behind_next for upstream in others), waiting)
