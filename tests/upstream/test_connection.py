"""What an upstream connection says of itself."""

from __future__ import annotations

import gc
import socket
import unittest
from types import SimpleNamespace
from unittest import mock

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from redisproxy.resp.framing import encode
from redisproxy.session.pending import BLOCKING, ReplyBatch
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.tenants.slow_log import ConnectionNames
from redisproxy.tenants.work import UNLIMITED
from redisproxy.upstream.connection import RedisConnection, RedisFull, UpstreamError
from redisproxy.upstream.endpoint import connect, endpoint_for


class LocalAddressTests(unittest.TestCase):
    def local_address(self, host: IAddress) -> str:
        upstream = RedisConnection(BackendAddress("redis"), pool=None)
        upstream.transport = SimpleNamespace(getHost=lambda: host)
        return upstream.local_address

    def test_is_what_client_list_has(self) -> None:
        self.assertEqual(self.local_address(IPv4Address("TCP", "10.0.0.7", 4711)), "10.0.0.7:4711")
        self.assertEqual(self.local_address(IPv6Address("TCP", "fd00::7", 4711)), "[fd00::7]:4711")

    def test_is_empty_where_that_tells_none_apart(self) -> None:
        self.assertEqual(self.local_address(UNIXAddress(None)), "")


class BindTests(SynchronousTestCase):
    """What is sent to make a connection ready for a tenant."""

    def setUp(self) -> None:
        self.names = ConnectionNames()
        self.transport = StringTransport()
        self.transport.getHost = lambda: UNIXAddress(None)
        self.upstream = RedisConnection(BackendAddress("redis"), mock.Mock(names=self.names))
        self.upstream.makeConnection(self.transport)

    def sent(self) -> bytes:
        sent = self.transport.value()
        self.transport.clear()
        return sent

    def test_a_name_costs_no_round_trip(self) -> None:
        """It goes with SELECT, before the AUTH of the tenant's user, who may not set one."""
        for answer in (b"+OK\r\n", b"-NOPERM this user has no permissions\r\n", b"-ERR unknown command 'CLIENT'\r\n"):
            self.setUp()
            work = Deferred.fromCoroutine(self.upstream.bind(Tenant("team-blue", 3), (b"user", b"password"), 3))
            name = b"redisproxy:team-blue:3:" + self.names.token
            self.assertEqual(self.sent(), encode([b"CLIENT", b"SETNAME", name]) + encode([b"SELECT", b"3"]))
            self.upstream.respReceived(answer + b"+OK\r\n")
            self.assertEqual(self.sent(), encode([b"AUTH", b"user", b"password"]))
            self.upstream.respReceived(b"+OK\r\n")
            self.assertEqual(self.sent(), encode([b"HELLO", b"3"]))
            self.upstream.respReceived(b"%0\r\n")
            self.assertIsNone(self.successResultOf(work))
            self.assertEqual(self.sent(), b"")

    def test_the_connection_is_lost_before_any_answer(self) -> None:
        work = Deferred.fromCoroutine(self.upstream.bind(Tenant("team-blue", 3), None, 2))
        self.upstream.connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(work, ConnectionLost)
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class FullRedisTests(TestCase):
    """Redis has closed the connection before the proxy noticed that it is open."""

    async def refused(self, password: bytes) -> UpstreamError:
        """Returns the error of a log-in at a Redis that has as many clients as it takes."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = BackendAddress("127.0.0.1", server.getsockname()[1], password=password)
            pool = mock.Mock(names=ConnectionNames())
            connecting = connect(endpoint_for(reactor, address, 5.0, None), lambda: RedisConnection(address, pool))

            def refuse() -> None:
                taken, _ = server.accept()
                taken.sendall(b"-ERR max number of clients reached\r\n")
                taken.close()

            # Before the reactor looks at the socket. The kernel has connected it by then.
            reactor.callLater(0, refuse)
            upstream = await connecting
            try:
                await upstream.log_in()
            except UpstreamError as error:
                return error
            finally:
                upstream.drop()
        raise AssertionError("it was not refused")

    async def test_its_error_is_read(self) -> None:
        for password in (b"", b"secret"):
            for _ in range(10):
                self.assertIsInstance(await self.refused(password), RedisFull)


class ScriptTests(unittest.TestCase):
    """Whether Redis may be running a script that was sent over a connection."""

    def setUp(self) -> None:
        self.pool = mock.Mock()
        self.upstream = RedisConnection(BackendAddress("redis"), self.pool)
        self.upstream.makeConnection(mock.Mock(getHost=lambda: UNIXAddress(None)))
        self.upstream.tenant = Tenant("team-blue", 3)
        self.session = SimpleNamespace(upstream_full=None, midway=False, work=UNLIMITED)
        self.upstream.carry_session(self.session)
        self.receiver = mock.Mock()

    def expect(self, count: int = 1, kind: int = 0) -> None:
        self.upstream.expect(ReplyBatch(self.receiver, count, kind))

    def test_not_before_one_was_sent(self) -> None:
        self.expect()
        self.assertFalse(self.upstream.awaits_script)
        self.upstream.runs_scripts = True
        self.assertTrue(self.upstream.awaits_script)

    def test_not_after_its_reply(self) -> None:
        self.upstream.runs_scripts = True
        self.expect()
        self.upstream.respReceived(b"+OK\r\n")
        self.assertFalse(self.upstream.awaits_script)

    def test_not_while_its_reply_comes(self) -> None:
        self.upstream.runs_scripts = True
        self.expect()
        self.upstream.respReceived(b"$5\r\nab")
        self.assertFalse(self.upstream.awaits_script)
        self.expect()
        self.assertTrue(self.upstream.awaits_script, "that may be the next one")

    def test_not_if_a_blocked_command_stands_before_it(self) -> None:
        self.upstream.runs_scripts = True
        self.expect(kind=BLOCKING)
        self.expect()
        self.assertFalse(self.upstream.awaits_script)

    def test_not_if_it_was_sent_in_part(self) -> None:
        self.upstream.runs_scripts = self.session.midway = True
        self.expect()
        self.assertFalse(self.upstream.awaits_script)
        self.expect()
        self.assertTrue(self.upstream.awaits_script)

    def test_one_that_is_left_behind_is_reported_once(self) -> None:
        self.upstream.runs_scripts = True
        self.expect()
        self.upstream.detach()
        self.upstream.connectionLost()
        self.pool.left_script.assert_called_once_with(self.upstream)
        self.assertFalse(self.upstream.runs_scripts)

    def test_the_connection_is_lost(self) -> None:
        self.upstream.runs_scripts = True
        self.expect()
        self.session.upstream_lost = mock.Mock()
        self.upstream.connectionLost()
        self.pool.left_script.assert_called_once_with(self.upstream)

    def test_its_next_bytes_are_seen_before_they_are_dealt_out(self) -> None:
        seen: list[object] = []
        self.receiver.reply.side_effect = lambda _batch, piece, _ended: seen.append(piece)
        self.expect(2)
        for name in ("first", "second"):  # the latest one sees them
            self.upstream.spy(lambda data, name=name: seen.append((name, data)))
        self.upstream.respReceived(b"+A\r\n")
        self.upstream.respReceived(b"+B\r\n")
        self.assertEqual(seen, [("second", b"+A\r\n"), b"+A\r\n", b"+B\r\n"])
