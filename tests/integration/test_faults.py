"""Tests faults of production: a Redis that is killed, away, slow or has another password, and
clients that send garbage.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import unittest
from collections.abc import Iterator

import redis

from redisproxy import bounds

from ..support.proxy import Installation, Manifests, ProxyProcess, master, shared, tenant
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer
from ..support.waiting import LIMIT, until

AUTH = b"AUTH blue-password\r\n"
LOGIN = (b"AUTH", b"blue-password")


class RedisGoneTests(unittest.TestCase):
    def assertNoTraceback(self, proxy: ProxyProcess) -> None:
        self.assertNotIn("Traceback", proxy.log)
        self.assertNotIn("Unhandled", proxy.log)

    def test_killed_and_started_again(self) -> None:
        # If the proxy waited for the connect timeout, the raw client would time out first.
        installation = Installation("--connections", "dedicated", "--connect-timeout", str(2 * LIMIT))
        self.addCleanup(installation.stop)
        idle, busy = raw_client(self, installation.proxy.port, *LOGIN), raw_client(self, installation.proxy.port, *LOGIN)
        busy.send(b"BLPOP nothing 0\r\n")
        until(lambda: any(c["cmd"] == "blpop" for c in installation.server.client().client_list()), "Redis has the BLPOP")
        installation.server.kill()
        self.assertEqual((idle.rest(), busy.rest()), (b"", b""))
        late = raw_client(self, installation.proxy.port)
        late.send(AUTH)
        installation.server.start()
        self.assertEqual(late.reply(), b"+OK\r\n")
        self.assertEqual(late.ask(b"PING\r\n"), b"+PONG\r\n")
        self.assertTrue(installation.blue().set("again", 1))
        installation.proxy.logged("can be used again")
        self.assertNoTraceback(installation.proxy)

    def test_the_session_of_an_upstream_connection_that_is_killed_ends_alone(self) -> None:
        installation = Installation("--connections", "dedicated")
        self.addCleanup(installation.stop)
        first, second = raw_client(self, installation.proxy.port, *LOGIN), raw_client(self, installation.proxy.port, *LOGIN)
        first.ask(b"SET mark 1\r\n")
        upstream = next(c for c in installation.server.client().client_list() if c["cmd"] == "set")
        installation.server.client().client_kill_filter(_id=upstream["id"])
        self.assertEqual(first.rest(), b"")
        self.assertEqual(second.ask(b"PING\r\n"), b"+PONG\r\n")
        installation.proxy.logged("redis-lost")
        self.assertNoTraceback(installation.proxy)

    def test_a_redis_that_does_not_answer(self) -> None:
        hole = socket.socket()
        self.addCleanup(hole.close)
        hole.bind(("127.0.0.1", 0))
        hole.listen(50)
        manifests = Manifests(
            [master(f"redis://:x@127.0.0.1:{hole.getsockname()[1]}/0"), *tenant("team-blue", 3, "blue-password")]
        )
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path), "--connect-timeout", "0.5", "--hold-seconds", "1").ready()
        self.addCleanup(proxy.stop)
        raw = raw_client(self, proxy.port)
        raw.send(AUTH)
        self.assertEqual(raw.rest(), b"")
        proxy.logged("no answer came in time")
        self.assertNoTraceback(proxy)

    def test_a_redis_that_hangs_is_noticed_within_the_connect_timeout(self) -> None:
        """A log-in fails within the connect timeout, however many idle connections to Redis there
        are.
        """
        installation = Installation("--connect-timeout", "8", "--base-workers", "0", "--hold-seconds", "0")
        self.addCleanup(installation.stop)
        for raw in [raw_client(self, installation.proxy.port, *LOGIN) for _ in range(8)]:
            raw.ask(b"QUIT\r\n")
            self.assertEqual(raw.rest(), b"")
        time.sleep(bounds.FRESH_SECONDS + 0.1)  # a connection used a moment ago would be used without a PING
        os.kill(installation.server.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, installation.server.pid, signal.SIGCONT)
        late = raw_client(self, installation.proxy.port)
        started = time.monotonic()
        late.send(AUTH)
        self.assertEqual(late.rest(), b"")
        self.assertLess(time.monotonic() - started, 15.5)  # two tries would take 16 s

    def test_a_redis_that_closes_every_connection_is_not_stormed(self) -> None:
        server = socket.socket()
        self.addCleanup(server.close)
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        accepted: list[float] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                accepted.append(time.monotonic())
                connection.recv(1000)
                connection.sendall(b"+OK\r\n")
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        manifests = Manifests([master(f"redis://:x@127.0.0.1:{server.getsockname()[1]}/0")])
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path)).ready()
        self.addCleanup(proxy.stop)
        proxy.logged("closes connections as soon as they are open")
        time.sleep(1)
        self.assertLess(len(accepted), 15)

    def test_another_master_password(self) -> None:
        server = RedisServer(password="the-right-one").start()
        self.addCleanup(server.stop)
        manifests = Manifests(
            [master(f"redis://:the-wrong-one@127.0.0.1:{server.port}/0"), *tenant("team-blue", 3, "blue-password")]
        )
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path)).ready()
        self.addCleanup(proxy.stop)
        raw = raw_client(self, proxy.port)
        self.assertIn(b"-ERR Redis refused the proxy's own login", raw.ask(AUTH))
        self.assertEqual(raw.rest(), b"")
        proxy.logged("Redis answered AUTH with: -WRONGPASS")
        manifests.write(
            [
                master(f"redis://:the-wrong-one@127.0.0.1:{server.port}/0", redis_password="the-right-one"),
                *tenant("team-blue", 3, "blue-password"),
            ]
        )
        proxy.refresh()
        until(lambda: raw_client(self, proxy.port).ask(AUTH) == b"+OK\r\n", "the new master password is in use")
        self.assertNotIn("-one", proxy.log)
        self.assertNoTraceback(proxy)

    def test_an_index_that_redis_does_not_have(self) -> None:
        installation = Installation()
        self.addCleanup(installation.stop)
        installation.manifests.write([*installation.documents(), *tenant("team-far", 64, "far-password")])
        installation.proxy.refresh()
        installation.proxy.logged("team-far/redis-secret-master: Redis has no database 64: it has databases 0 to 63")
        self.assertRaises(redis.AuthenticationError, installation.proxy.client("far-password", 64).ping)

    def test_a_new_address_is_used_by_new_sessions_and_old_ones_drain(self) -> None:
        installation = Installation("--connections", "dedicated")
        self.addCleanup(installation.stop)
        old = raw_client(self, installation.proxy.port, *LOGIN)
        self.assertEqual(old.ask(b"SET where first\r\n"), b"+OK\r\n")
        second = RedisServer(password="another").start()
        self.addCleanup(second.stop)
        installation.manifests.write([master(second.url), *installation.documents()[1:]])
        installation.proxy.refresh()
        installation.proxy.logged(f"Redis is at redis://127.0.0.1:{second.port}")
        new = raw_client(self, installation.proxy.port, *LOGIN)
        self.assertEqual(new.ask(b"GET where\r\n"), b"$-1\r\n")
        self.assertEqual(old.ask(b"EXISTS where\r\n"), b":1\r\n")


class ClientFaultTests(unittest.TestCase):
    def setUp(self) -> None:
        self.installation = shared()
        self.port = self.installation.proxy.port

    def raw(self, login: bool = True) -> RawClient:
        return raw_client(self, self.port, *(LOGIN if login else ()))

    def test_malformed_framing_is_told_and_closed(self) -> None:
        for login in (True, False):
            for data, text in (
                (b"*1\r\n+PING\r\n", b"expected '$', got '+'"),
                (b"*x\r\n", b"invalid multibulk length"),
                (b"*1\r\n$04\r\nPING\r\n", b"invalid bulk length"),
                (b'PING "x\r\n', b"unbalanced quotes in request"),
                (b"x" * 70000, b"too big inline request"),
            ):
                raw = self.raw(login)
                raw.send(data)
                self.assertEqual(raw.rest(), b"-ERR Protocol error: " + text + b"\r\n")

    def test_limits_before_the_login(self) -> None:
        raw = self.raw(login=False)
        raw.send(b"*11\r\n")
        self.assertEqual(raw.rest(), b"-ERR Protocol error: unauthenticated multibulk length\r\n")
        raw = self.raw(login=False)
        raw.send(b"*2\r\n$4\r\nAUTH\r\n$2000000000\r\n")
        self.assertEqual(raw.rest(), b"-ERR Protocol error: invalid bulk length\r\n")
        raw = self.raw(login=False)
        raw.send(b"*2\r\n$4\r\nAUTH\r\n$20000\r\n")
        self.assertEqual(raw.rest(), b"-ERR Protocol error: unauthenticated bulk length\r\n")

    def test_a_flood_before_the_login_ends(self) -> None:
        raw = self.raw(login=False)

        def answers() -> Iterator[bytes]:
            for _ in range(100):
                raw.send(b"*1\r\n$4\r\nPING\r\n" * 1000)
                for _ in range(1000):
                    yield raw.reply()

        last = next(answer for answer in answers() if answer != b"-NOAUTH Authentication required.\r\n")
        self.assertEqual(last, b"-ERR Protocol error: too much was sent without authentication\r\n")
        self.assertEqual(raw.rest(or_reset=True), b"")

    def test_a_flood_before_the_login_by_one_that_does_not_read_is_cut_off(self) -> None:
        raw = self.raw(login=False)

        def cut_off() -> bool:
            try:
                raw.send(b"*1\r\n$4\r\nPING\r\n" * 1000)
            except OSError:
                return True
            return False

        until(cut_off, "the proxy closes the connection")

    def test_after_an_error_in_a_pipeline_the_rest_runs(self) -> None:
        raw = self.raw()
        raw.send(b"SET a 1\r\nSELECT 5\r\nINCR a\r\nCONFIG SET x y\r\nINCR a\r\n")
        starts = [raw.reply()[:7] for _ in range(5)]
        self.assertEqual(starts, [b"+OK\r\n", b"-NOPERM", b":2\r\n", b"-NOPERM", b":3\r\n"])

    def test_cross_protocol_requests_are_cut_off(self) -> None:
        raw = self.raw(login=False)
        raw.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nAUTH blue-password\r\n")
        self.assertEqual(raw.rest(), b"")

    def test_a_client_that_has_no_more_to_send_gets_its_replies(self) -> None:
        raw = self.raw(login=False)
        raw.send(AUTH + b"SET half closed\r\nGET half\r\n")
        raw.half_close()
        self.assertEqual(raw.rest(), b"+OK\r\n+OK\r\n$6\r\nclosed\r\n")

    def test_a_client_that_left_in_a_blpop_does_not_take_the_item(self) -> None:
        raw = self.raw()
        raw.send(b"BLPOP left 0\r\n")
        straight = self.installation.server.client(3)
        until(lambda: any(c["cmd"] == "blpop" for c in straight.client_list()), "Redis has the BLPOP")
        raw.close()
        until(lambda: not any(c["cmd"] == "blpop" for c in straight.client_list()), "the BLPOP is given up")
        straight.rpush("left", "item")
        self.assertEqual(straight.lpop("left"), b"item")

    def test_values_of_any_bytes(self) -> None:
        blue = self.installation.blue()
        for value in (b"", b"\r\n", b"+OK\r\n", b"$-1\r\n", b"*1\r\n$7\r\nmessage\r\n", bytes(range(256)) * 1000):
            blue.set("any", value)
            self.assertEqual(blue.get("any"), value)

    def test_nothing_of_this_is_a_traceback_or_tells_a_password(self) -> None:
        self.raw(login=False).ask(b"AUTH not-a-password-of-anybody\r\n")
        log = self.installation.proxy.log
        for word in ("Traceback", "not-a-password", "blue-password", self.installation.server.password):
            self.assertNotIn(word, log)
