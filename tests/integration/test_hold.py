"""Redis restarts, loads, hangs or has too many clients: sessions wait with what was not sent, and
those with something in flight are closed, as straight to Redis.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import unittest
from collections.abc import Callable

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from redisproxy import bounds
from redisproxy.resp.framing import encode
from redisproxy.upstream.hold import SLOW

from ..support.firsts import FIRST
from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.relay import BlackHole
from ..support.servers import MASTER_PASSWORD, RedisServer, redis_7, valkey
from ..support.status import ask, metrics, status_port
from ..support.waiting import until

LOGIN = (b"AUTH", b"blue-password")
#: Longer than any of these tests takes: what waits is never closed for the time.
LONG = ("--hold-seconds", "120")


class HoldCase(unittest.TestCase):
    def start(self, *options: str, server: RedisServer | None = None) -> Installation:
        self.installation = Installation(*options, server=server)
        self.addCleanup(self.installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", self.installation.proxy.log))
        self.server = self.installation.server
        return self.installation

    def connect(self) -> RawClient:
        return raw_client(self, self.installation.proxy.port, *LOGIN)

    def connect_late(self, *login: bytes) -> RawClient:
        """A client whose log-in is sent while Redis is away."""
        client = raw_client(self, self.installation.proxy.port)
        client.send(list(login or LOGIN))
        return client

    def assertSilent(self, clients: list[RawClient], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.assertTrue(all(client.is_silent() for client in clients))
            time.sleep(0.05)

    def metric(self, name: str) -> float:
        return metrics(status_port(self.installation))[name, frozenset()]

    def logged_away(self) -> None:
        self.installation.proxy.logged("no connection to Redis")


class RestartTests(HoldCase):
    def check(self, *options: str) -> None:
        self.start(*LONG, *options)
        sessions = [(self.connect(), *first) for first in FIRST] if not options else []
        for client, *_ in sessions:
            self.assertEqual(client.ask(b"PING\r\n"), b"+PONG\r\n")
        self.server.kill()
        self.logged_away()
        for client, command, _ in sessions:
            client.send(command)
        late = [self.connect_late(), self.connect_late(b"HELLO", b"3", b"AUTH", b"default", b"blue-password")]
        late[0].send(b"GET a\r\n")
        self.assertSilent([client for client, *_ in sessions] + late, 1.0)
        self.server.start()
        for client, command, begins in sessions:
            with self.subTest(command[:40]):
                self.assertTrue(client.reply().startswith(begins))
        self.assertEqual((late[0].reply(), late[0].reply()), (b"+OK\r\n", b"$-1\r\n"))
        self.assertTrue(late[1].reply().startswith(b"%"))
        self.assertEqual(late[1].ask(b"PING\r\n"), b"+PONG\r\n")

    def test_what_was_not_sent_waits(self) -> None:
        self.check()

    def test_log_ins_wait_with_dedicated_connections_too(self) -> None:
        self.check("--connections", "dedicated")

    def test_log_ins_wait_in_every_process(self) -> None:
        self.check("--processes", "2")

    def test_who_has_something_in_flight_is_closed_at_once(self) -> None:
        """As straight: the connection ends, without an error reply."""
        self.start(*LONG, "--status", "tcp:0:interface=127.0.0.1")
        direct = self.server.client()
        waiting = {
            b"BLPOP l 0\r\n": b"",
            b"SUBSCRIBE c\r\n": b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
            b"MULTI\r\n": b"+OK\r\n",
            b"WATCH a\r\n": b"+OK\r\n",
        }
        sessions = []
        for command, reply in waiting.items():
            client = self.connect()
            client.send(command)
            self.assertEqual(client.exactly(len(reply)), reply)
            sessions.append(client)
        until(lambda: direct.info("clients")["blocked_clients"] == 1, "the BLPOP waits")
        # The server stops, so that commands of the multiplexed connection stay in flight.
        os.kill(self.server.pid, signal.SIGSTOP)
        plain = self.connect()
        plain.send(b"GET a\r\n" * 3)
        until(lambda: self.metric("redisproxy_requests_in_flight") >= 4, "they are sent")
        self.server.kill()
        self.assertEqual([client.rest() for client in sessions] + [plain.rest()], [b""] * 5)
        self.installation.proxy.logged("redis-lost")

    def test_what_a_client_sent_that_is_gone_is_not_run(self) -> None:
        """It sends that again elsewhere: after a time-out for example."""
        self.start(*LONG)
        sessions = [self.connect() for _ in range(4)]
        for client in sessions:
            self.assertEqual(client.ask(b"GET a\r\n"), b"$-1\r\n")
        self.server.kill()
        self.logged_away()
        sessions.append(self.connect_late())
        sessions.append(self.connect_late())
        for client in sessions:
            client.send(b"INCR a\r\n")
        sessions[1].send(encode([b"SET", b"a", b"x" * 200_000]))
        sessions[2].send(b"MULTI\r\nINCR a\r\n")
        time.sleep(0.3)  # until the proxy has read that
        for client in sessions[1:-1]:
            client.close()
        sessions[-1].half_close()
        self.assertEqual(sessions[-1].rest(), b"")
        time.sleep(0.3)
        self.server.start()
        self.assertEqual(sessions[0].reply(), b":1\r\n")
        self.assertEqual(sessions[0].ask(b"GET a\r\n"), b"$1\r\n1\r\n")

    def test_nor_if_it_left_before_redis_was_found_away(self) -> None:
        """Where nothing answers, an attempt to connect takes as long as it may."""
        for connect_timeout in ("0.7", "60"):
            self.start(*LONG, "--connect-timeout", connect_timeout, "--base-workers", "0")
            session = self.connect()
            self.assertEqual(session.ask(b"GET a\r\n"), b"$-1\r\n")
            self.server.kill()
            hole = BlackHole(self.server.port)
            self.addCleanup(hole.close)
            self.installation.proxy.logged("no control connection")
            sessions = [session, self.connect_late()]
            for client in sessions:
                client.send(b"INCR a\r\n")
            time.sleep(0.3)  # until the proxy has read that
            for client in sessions:
                client.close()
            time.sleep(1.5 * SLOW)
            hole.close()
            self.server.start()
            self.assertEqual(self.connect().ask(b"GET a\r\n"), b"$-1\r\n")

    def test_when_the_time_is_over_clients_are_closed(self) -> None:
        self.start("--hold-seconds", "1")
        sessions = [(self.connect(), first) for first, _ in FIRST]
        idle = self.connect()
        self.server.kill()
        self.logged_away()
        for client, first in sessions:
            client.send(first)
        late = [self.connect_late(), self.connect_late(b"HELLO", b"3", b"AUTH", b"default", b"blue-password")]
        for client in [client for client, _ in sessions] + late:
            self.assertEqual(client.rest(or_reset=True), b"")
        self.assertTrue(idle.is_silent())
        self.installation.proxy.logged("redis-away")
        # Whoever comes later is closed at once, as Redis would refuse the connection.
        started = time.monotonic()
        self.assertEqual(self.connect_late().rest(or_reset=True), b"")
        self.assertLess(time.monotonic() - started, 30)
        self.server.start()
        until(self.logs_in, "the proxy is back soon", 10)
        self.assertEqual(idle.ask(b"PING\r\n"), b"+PONG\r\n")

    def logs_in(self) -> bool:
        try:
            return self.connect_late().reply() == b"+OK\r\n"
        except (EOFError, ConnectionResetError):
            return False

    def test_without_time_they_are_closed_at_once(self) -> None:
        self.start("--hold-seconds", "0")
        self.server.kill()
        self.logged_away()
        self.assertEqual(self.connect_late().rest(or_reset=True), b"")

    def test_no_errors_for_applications(self) -> None:
        """Clients with the settings of docs/tenants.md, over a Redis that is away for a second."""
        self.start(*LONG)
        errors: list[BaseException] = []
        done: list[int] = []
        url = f"redis://:blue-password@127.0.0.1:{self.installation.proxy.port}/3"
        going = threading.Event()
        going.set()

        def work(number: int) -> None:
            retry = Retry(ExponentialBackoff(cap=1, base=0.05), 6)
            client = redis.Redis.from_url(url, retry=retry, health_check_interval=30)
            count = 0
            while going.is_set():
                try:
                    client.set(f"key{number}", count)
                    client.get(f"key{number}")
                    count += 1
                except redis.RedisError as error:
                    errors.append(error)
            done.append(count)
            client.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        self.server.kill()
        time.sleep(1)
        self.server.start()
        direct = self.server.client()
        until(lambda: direct.info("stats")["total_commands_processed"] > 500, "they work again")
        going.clear()
        for thread in threads:
            thread.join()
        self.assertEqual((errors, len(done)), ([], 10))


class StateTests(HoldCase):
    """Other states of Redis that pass."""

    def check_held(self, away: Callable[[], object], back: Callable[[], object]) -> None:
        """What needs a new connection to Redis waits meanwhile."""
        session = self.connect()
        away()
        session.send(b"BLPOP l 0.05\r\n")
        late = self.connect_late(b"AUTH", b"green-password")  # a tenant without connections
        late.send(b"GET a\r\n")
        self.assertSilent([session, late], 1.0)
        back()
        self.assertEqual(session.reply(), b"*-1\r\n")
        self.assertEqual((late.reply(), late.reply()[:1]), (b"+OK\r\n", b"$"))

    def test_stopped_for_longer_than_the_connect_timeout(self) -> None:
        self.start(*LONG, "--connect-timeout", "0.3", "--base-workers", "0")
        self.check_held(lambda: os.kill(self.server.pid, signal.SIGSTOP), lambda: os.kill(self.server.pid, signal.SIGCONT))

    def test_at_its_maxclients(self) -> None:
        self.start(*LONG, "--base-workers", "0")
        direct = self.server.client()
        self.check_held(lambda: direct.config_set("maxclients", 1), lambda: direct.config_set("maxclients", 1000))

    def test_while_it_loads(self) -> None:
        server = RedisServer(redis_7)
        self.start(*LONG, server=server)
        direct = server.client(3)
        pipeline = direct.pipeline(transaction=False)
        for number in range(20_000):
            pipeline.set(f"key{number}", "x" * 100)
        pipeline.execute()
        direct.save()
        session = self.connect()
        server.kill()
        self.logged_away()
        session.send(b"GET key1\r\n")
        late = self.connect_late()
        late.send(b"BLPOP l 0.05\r\n")
        server.change("key-load-delay 100", "loading-process-events-interval-bytes 1024")  # two seconds
        server.start()
        straight = raw_client(self, server.port, b"AUTH", MASTER_PASSWORD.encode())
        self.assertTrue(straight.ask(b"GET a\r\n").startswith(b"-LOADING"))
        self.assertEqual(session.reply(), b"$100\r\n" + b"x" * 100 + b"\r\n")
        self.assertEqual((late.reply(), late.reply()), (b"+OK\r\n", b"*-1\r\n"))

    def test_one_that_cannot_save_serves_on(self) -> None:
        """It refuses writes, and answers even PING with that error."""
        server = RedisServer(valkey, "save 3600 1000000")
        self.start("--hold-seconds", "1", "--base-workers", "0", server=server)
        direct = server.client(3)
        direct.set("a", "1")
        session = self.connect()
        self.assertEqual(session.ask(b"BLPOP l 0.05\r\n"), b"*-1\r\n")  # and the connection is idle
        shutil.rmtree(server.directory)
        direct.bgsave()
        until(lambda: direct.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        time.sleep(1.1 * bounds.FRESH_SECONDS)  # from now on an idle connection is checked
        connections = direct.info("stats")["total_connections_received"]
        self.assertTrue(session.ask(b"BLPOP l 0.05\r\n").startswith(b"-MISCONF "))
        self.assertEqual(direct.info("stats")["total_connections_received"], connections)
        late = self.connect_late(b"AUTH", b"green-password")  # a tenant without connections
        self.assertEqual((late.reply(), late.ask(b"GET a\r\n")), (b"+OK\r\n", b"$-1\r\n"))
        self.assertNotIn("no connection to Redis", self.installation.proxy.log)

    def test_it_stays_ready_meanwhile(self) -> None:
        self.start("--hold-seconds", "3", "--status", "tcp:0:interface=127.0.0.1")
        until(self.ready, "the proxy is ready")
        self.assertEqual(self.metric("redisproxy_redis_up"), 1)
        self.server.kill()
        until(lambda: not self.metric("redisproxy_redis_up"), "the metrics show it at once")
        self.assertTrue(self.ready())
        until(lambda: not self.ready(), "the proxy is not ready when the time is over")
        self.server.start()
        until(self.ready, "the proxy is ready again")

    def ready(self) -> bool:
        return ask(status_port(self.installation), "/readyz")[0] == 200
