"""The client for what the proxy itself asks: each limit, each time limit, and that it connects
again.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

from twisted.internet import defer, reactor, task
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial import unittest

from redisproxy.ops.retry import Backoff
from redisproxy.resp.framing import encode
from redisproxy.resp.value import ErrorReply
from redisproxy.tenants.model import BackendAddress
from redisproxy.upstream import client as client_module
from redisproxy.upstream.client import (
    Connection,
    ControlError,
    NoReplyError,
    RedisClient,
    ReplyError,
    TooLargeError,
    ask_once,
)
from redisproxy.upstream.endpoint import CaFileError, endpoint_for

from ..support.servers import RedisServer, free_port, valkey
from ..support.waiting import LIMIT

REPLY_TIMEOUT, SMALL = 10.0, 30


class ConnectionTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.connection = Connection(self.clock, REPLY_TIMEOUT, SMALL)
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def redis(self, replies: bytes) -> None:
        self.connection.dataReceived(replies)

    def lose(self) -> None:
        self.connection.connectionLost(Failure(ConnectionLost()))

    def test_each_reply_goes_to_its_command_however_it_is_cut(self) -> None:
        replies = b"+OK\r\n$3\r\na\r\n\r\n*2\r\n:1\r\n*1\r\n$-1\r\n-NOPERM no\r\n"
        for size in (1, 2, 7, len(replies)):
            asked = [self.connection.ask("PING") for _ in range(4)]
            for start in range(0, len(replies), size):
                self.redis(replies[start : start + size])
            self.assertEqual([self.successResultOf(each) for each in asked[:3]], [b"OK", b"a\r\n", [1, [None]]])
            self.assertEqual(self.failureResultOf(asked[3], ReplyError).value.reply, ErrorReply("NOPERM no"))
        self.assertEqual(self.connection.pending, 0)

    def test_words_are_sent_as_they_are(self) -> None:
        asked = self.connection.ask("ACL", b"\xff\r\n", 3, "\u20ac")
        self.assertEqual(self.transport.value(), encode([b"ACL", b"\xff\r\n", b"3", "\u20ac".encode()]))
        self.redis(b"+OK\r\n")
        self.successResultOf(asked)

    def test_a_reply_that_is_too_large_is_not_kept_and_costs_no_other(self) -> None:
        first, large, last = (self.connection.ask("PING") for _ in range(3))
        whole = b"$23\r\n" + SMALL * b"-"
        self.redis(whole[: SMALL - 2] + b"\r\n")  # as large as the limit
        self.assertEqual(self.successResultOf(first), 23 * b"-")
        self.redis(b"$%d\r\n" % (10 * SMALL))
        for _ in range(10 * SMALL):
            self.redis(b"-")
            self.assertLessEqual(sum(map(len, self.connection._pieces)), SMALL)
        self.redis(b"\r\n:7\r\n")
        self.failureResultOf(large, TooLargeError)
        self.assertEqual(self.successResultOf(last), 7)

    def test_commands_that_are_sent_together(self) -> None:
        asked = defer.Deferred.fromCoroutine(self.connection.ask_all([("PING",), ("ACL", "USERS"), ("PING",)]))
        self.redis(b"+PONG\r\n-NOPERM no\r\n+PONG\r\n")
        self.assertEqual(self.successResultOf(asked), [b"PONG", ErrorReply("NOPERM no"), b"PONG"])

    def test_a_reply_to_nothing_ends_it(self) -> None:
        self.redis(b"+OK\r\n")
        self.assertTrue(self.transport.disconnecting)

    def test_what_is_no_reply_ends_it(self) -> None:
        asked = self.connection.ask("PING")
        self.redis(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertTrue(self.transport.disconnecting)
        self.lose()
        self.failureResultOf(asked, ControlError)

    def test_no_reply_in_time_ends_it_for_all(self) -> None:
        first = self.connection.ask("PING")
        self.clock.advance(REPLY_TIMEOUT / 2)
        second = self.connection.ask("PING")
        self.clock.advance(REPLY_TIMEOUT / 2)
        for asked in (first, second):
            self.assertEqual(str(self.failureResultOf(asked, NoReplyError).value), "no reply within 10 s")
        self.assertTrue(self.transport.disconnecting)

    def test_what_was_given_up_is_not_taken_for_another_answer(self) -> None:
        first, second = self.connection.ask("PING"), self.connection.ask("PING")
        first.cancel()
        self.failureResultOf(first, defer.CancelledError)
        self.redis(b":1\r\n:2\r\n")
        self.assertEqual(self.successResultOf(second), 2)

    def test_when_it_is_lost(self) -> None:
        asked = self.connection.ask("PING")
        self.lose()
        for each in (asked, self.connection.ask("PING")):
            self.assertEqual(str(self.failureResultOf(each, ControlError).value), "the connection was lost")

    def test_its_log_in(self) -> None:
        for address, name, sent in (
            (BackendAddress(), "", b""),
            (BackendAddress(password=b"pw"), "", encode([b"AUTH", b"pw"])),
            (BackendAddress(username="me", password=b"pw"), "n", encode([b"AUTH", b"me", b"pw"])),
        ):
            self.transport.clear()
            done = defer.Deferred.fromCoroutine(self.connection.log_in(address, name))
            self.assertEqual(self.transport.value(), sent)
            if sent:
                self.redis(b"+OK\r\n")
            if name:
                self.redis(b"-ERR unknown command\r\n")
            self.successResultOf(done)
        refused = defer.Deferred.fromCoroutine(self.connection.log_in(BackendAddress(password=b"pw")))
        self.redis(b"-WRONGPASS no\r\n")
        self.failureResultOf(refused, ReplyError)


class ReplyErrorTests(unittest.SynchronousTestCase):
    def test_decisions_see_the_whole_text_and_the_log_sees_no_rule(self) -> None:
        """Whether an ACL user exists follows from words that the log must not repeat."""
        text = "ERR Error in ACL SETUSER modifier '>password': Adding a pattern after the * pattern is not valid."
        error = ReplyError(text)
        self.assertEqual((str(error), error.reply), (text, ErrorReply(text)))
        self.assertNotIn("password", error.reason)


class RedisClientTests(unittest.TestCase):
    """With a real Redis, to test ClientService as it is."""

    timeout = 120

    def client(self, port: int, password: bytes = b"") -> RedisClient:
        address = BackendAddress(host="127.0.0.1", port=port, password=password)
        client = RedisClient(reactor, address, partial(endpoint_for, reactor, address, 5.0, None), 5.0)
        client.startService()
        self.addCleanup(client.stopService)
        return client

    def server(self) -> RedisServer:
        server = RedisServer(valkey).start()
        self.addCleanup(server.stop)
        return server

    async def until(self, probe: object, what: str) -> None:
        for _ in range(int(LIMIT / 0.02)):
            if probe():
                return
            await task.deferLater(reactor, 0.02)
        self.fail(f"it did not come to it: {what}")

    async def test_it_comes_back_after_a_restart(self) -> None:
        server = self.server()
        with capturedLogs() as logged:
            client = self.client(server.port, server.password.encode())
            self.assertEqual(await client.ask("PING"), b"PONG")
            first = client.connection
            server.kill()
            await self.until(lambda: client.connection is None, "the loss is seen")
            self.assertIsNotNone(client.failure)
            server.start()
            await self.until(lambda: client.connection is not None, "it is back")
            self.assertIsNot(client.connection, first)
            self.assertIsNone(client.failure)
            self.assertEqual(await client.ask("PING"), b"PONG")
        self.assertEqual([event for event in logged if event["log_level"].name in ("warn", "error", "critical")], [])

    async def test_a_refused_log_in_is_tried_again(self) -> None:
        """A refused log-in is tried again, and ClientService logs no transition that it did not
        expect.
        """
        self.patch(client_module, "_REFUSED_RETRY", 0.1)
        server = self.server()
        with capturedLogs() as logged:
            client = self.client(server.port, b"wrong")
            with self.assertRaisesRegex(ControlError, "cannot be reached: .*WRONGPASS"):
                await client.connect()
            self.assertIsInstance(client.failure, ReplyError)
            self.assertEqual(client.retry_delay(1), 0.1)
            await self.until(lambda: self._refused(server) >= 2, "it is tried again")
            server.client().config_set("requirepass", "wrong")
            await self.until(lambda: client.connection is not None, "it is let in")
            self.assertEqual(await client.ask("PING"), b"PONG")
        self.assertEqual([event for event in logged if event["log_level"].name in ("warn", "error", "critical")], [])

    async def test_too_many_clients_for_a_moment(self) -> None:
        """A log-in that Redis refuses because it has too many clients is tried again soon, as if
        Redis had refused the connection.
        """
        server = self.server()
        others = server.client()
        others.config_set("maxclients", "1")
        # Redis refuses the client after AUTH was sent: otherwise it may be before that.
        os.kill(server.pid, signal.SIGSTOP)
        try:
            client = self.client(server.port, server.password.encode())
            await self.until(lambda: client._open is not None and client._open.pending, "AUTH was sent")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await self.until(lambda: client.failure is not None, "it is refused")
        self.assertRegex(str(client.failure), "max number of clients")
        self.assertLess(max(client.retry_delay(attempt) for attempt in range(1, 50)), 2)
        others.config_set("maxclients", "100")
        await self.until(lambda: client.connection is not None, "it is let in")

    def _refused(self, server: RedisServer) -> int:
        return sum(int(entry["count"]) for entry in server.client(decode_responses=True).acl_log())

    async def test_when_nobody_listens_it_is_told_at_once(self) -> None:
        client = self.client(free_port())
        began = reactor.seconds()
        with self.assertRaisesRegex(ControlError, "cannot be reached: .*(refused|errno)"):
            await client.connect()
        self.assertLess(reactor.seconds() - began, 4)
        self.assertLess(max(client.retry_delay(attempt) for attempt in range(1, 50)), 4)

    async def test_a_ca_file_that_cannot_be_used_may_be_fixed(self) -> None:
        server = self.server()
        address = BackendAddress(host="127.0.0.1", port=server.port, password=server.password.encode())
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "empty.pem").write_text("nothing\n")
        secure = replace(address, tls=True)
        files = [directory / "none.pem", directory / "empty.pem"]

        def endpoint() -> object:
            if files:
                return endpoint_for(reactor, secure, 5.0, files.pop())
            return endpoint_for(reactor, address, 5.0, None)

        client = RedisClient(reactor, address, endpoint, 5.0, backoff=Backoff(0.05, 0.05))
        client.startService()
        self.addCleanup(client.stopService)
        told = f"the CA file {directory}/empty.pem cannot be used: it has no certificate in PEM"
        with self.assertRaisesRegex(ControlError, told):
            await client.connect()
        await self.until(lambda: client.connection is not None, "it is connected")
        self.assertEqual(files, [])
        with self.assertRaisesRegex(CaFileError, f"the CA file {directory}/none.pem cannot be used: No such file"):
            endpoint_for(reactor, secure, 5.0, directory / "none.pem")

    async def test_one_that_takes_connections_and_says_nothing(self) -> None:
        server = self.server()
        address = BackendAddress(host="127.0.0.1", port=server.port, password=server.password.encode())
        os.kill(server.pid, signal.SIGSTOP)
        try:
            client = RedisClient(reactor, address, partial(endpoint_for, reactor, address, 5.0, None), 0.3)
            client.startService()
            self.addCleanup(client.stopService)
            with self.assertRaises(ControlError):
                await client.connect()
            with self.assertRaises(defer.TimeoutError):
                await ask_once(
                    reactor,
                    address,
                    endpoint_for(reactor, address, 5.0, None),
                    0.3,
                    lambda connection: connection.ask("PING"),
                )
        finally:
            os.kill(server.pid, signal.SIGCONT)
        self.assertEqual(await client_ask(client), b"PONG")

    async def test_who_waits_when_it_is_stopped_hears_of_it(self) -> None:
        client = self.client(free_port())
        with self.assertRaises(ControlError):
            await client.connect()
        waiting = defer.Deferred.fromCoroutine(client.connect())
        client.stopService()
        await self.assertFailure(waiting, ControlError)


async def client_ask(client: RedisClient) -> object:
    """Returns the answer to PING, after it has connected."""
    while True:
        try:
            return await client.ask("PING")
        except ControlError:
            await task.deferLater(reactor, 0.05)
