"""An operator pauses a tenant: what was not sent waits, clients with state at Redis are closed, and
other tenants notice nothing.
"""

from __future__ import annotations

import threading
import time
import unittest

import redis

from ..support.firsts import FIRST
from ..support.proxy import Installation, ProxyProcess, namespace
from ..support.raw import RawClient, raw_client
from ..support.status import metrics, status_port
from ..support.waiting import LIMIT, until

LONG = ("--hold-seconds", "120")
BLUE = ("redisproxy_tenant_paused", frozenset({("namespace", "team-blue")}))
#: By connection kind: options of the proxy.
KINDS = ((), ("--connections", "dedicated"))


def increase(client: redis.Redis, done: list[object]) -> None:
    done.append(client.incr("a"))


class PauseCase(unittest.TestCase):
    def start(self, *options: str) -> Installation:
        self.installation = installation = Installation("--status", "tcp:0:interface=127.0.0.1", *options)
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        self.direct = installation.server.client(3)
        return installation

    def annotate(self, value: str) -> None:
        documents = self.installation.documents()
        if value:
            documents[1] = namespace("team-blue", annotations={"redisproxy/paused": value})
        self.installation.manifests.write(documents)

    def pause(self) -> None:
        self.annotate("true")
        self.installation.proxy.logged("paused: team-blue")
        if self.installation.proxy.processes == 1:
            until(lambda: metrics(status_port(self.installation)).get(BLUE) == 1.0, "the page shows the pause")

    def resume(self) -> None:
        self.annotate("")

    def connect(self) -> RawClient:
        return raw_client(self, self.installation.proxy.port, b"AUTH", b"blue-password")

    def connect_late(self, *login: bytes) -> RawClient:
        client = raw_client(self, self.installation.proxy.port)
        client.send(list(login or (b"AUTH", b"blue-password")))
        return client

    def assertSilent(self, clients: list[RawClient], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.assertTrue(all(client.is_silent() for client in clients))
            time.sleep(0.05)


class HeldTests(PauseCase):
    def check(self, *options: str) -> None:
        self.start(*LONG, *options)
        sessions = [(self.connect(), *first) for first in FIRST]
        green = raw_client(self, self.installation.proxy.port, b"AUTH", b"green-password")
        for client, *_ in sessions:
            self.assertEqual(client.ask(b"PING\r\n"), b"+PONG\r\n")
        self.pause()
        time.sleep(0.3 if self.installation.proxy.processes > 1 else 0)
        for client, command, _ in sessions:
            client.send(command)
        late = [self.connect_late(), self.connect_late(b"HELLO", b"3", b"AUTH", b"default", b"blue-password")]
        late[0].send(b"GET a\r\n")
        self.assertSilent([client for client, *_ in sessions] + late, 0.5)
        self.assertEqual(self.direct.dbsize(), 0, "nothing reached Redis")
        self.assertEqual(green.ask(b"SET a 1\r\n"), b"+OK\r\n")
        self.resume()
        for client, command, begins in sessions:
            with self.subTest(command[:40]):
                self.assertEqual(client.reply()[: len(begins)], begins)
        self.assertEqual((late[0].reply(), late[0].reply()), (b"+OK\r\n", b"$-1\r\n"))
        self.assertTrue(late[1].reply().startswith(b"%"))
        self.assertEqual(late[1].ask(b"PING\r\n"), b"+PONG\r\n")
        self.assertEqual(green.ask(b"GET a\r\n"), b"$1\r\n1\r\n")
        self.installation.proxy.logged("not paused any more: team-blue")

    def test_what_was_not_sent_waits(self) -> None:
        self.check()

    def test_dedicated_connections(self) -> None:
        self.check("--connections", "dedicated")

    def test_every_process(self) -> None:
        self.check("--processes", "2")

    def test_held_commands_run_in_the_order_in_which_they_came(self) -> None:
        for kind in KINDS:
            with self.subTest(kind):
                self.start(*LONG, *kind)
                clients = [self.connect() for _ in range(4)]
                for client in clients:
                    self.assertEqual(client.ask(b"PING\r\n"), b"+PONG\r\n")
                self.pause()
                for number in range(12):
                    clients[number % 4].send(b"RPUSH l %d\r\n" % number)
                    time.sleep(0.02)  # each is a read of its own
                self.resume()
                replies = {number: clients[number % 4].reply() for number in range(12)}
                pushed = [int(item) for item in self.direct.lrange("l", 0, -1)]
                self.assertEqual(sorted(pushed), list(range(12)))
                for client in range(4):
                    mine = [number for number in pushed if number % 4 == client]
                    self.assertEqual(mine, sorted(mine), "each client's own are in order")
                for number, reply in replies.items():
                    self.assertEqual(reply, b":%d\r\n" % (pushed.index(number) + 1))

    def test_redis_py_waits_and_goes_on(self) -> None:
        """Its pool has idle connections and opens another one, in both protocols."""
        for kind in KINDS:
            for protocol in (2, 3):
                with self.subTest((kind, protocol)):
                    installation = self.start(*LONG, *kind)
                    with installation.blue(protocol=protocol) as blue, installation.green() as green:
                        blue.set("a", "0")
                        self.pause()
                        done: list[object] = []
                        threads = [threading.Thread(target=increase, args=(blue, done)) for _ in range(5)]
                        for thread in threads:
                            thread.start()
                        green.set("b", "1")
                        time.sleep(0.3)
                        self.assertEqual((done, self.direct.get("a")), ([], b"0"))
                        self.resume()
                        for thread in threads:
                            thread.join(LIMIT)
                        self.assertEqual((sorted(done), blue.get("a")), ([1, 2, 3, 4, 5], b"5"))
                        with blue.pipeline() as pipe:
                            self.assertEqual(pipe.set("c", "1").get("c").execute(), [True, b"1"])

    def test_a_reply_that_is_pending_still_comes(self) -> None:
        """A script runs while the pause begins: it is answered, and what is behind it waits."""
        for kind in KINDS:
            with self.subTest(kind):
                self.start(*LONG, *kind)
                client = self.connect()
                self.assertEqual(client.ask(b"PING\r\n"), b"+PONG\r\n")
                self.direct.execute_command("CLIENT", "PAUSE", "100000", "WRITE")
                client.send(b"SET a 1\r\n")
                until(lambda: self.direct.info("clients")["blocked_clients"] == 1, "Redis has it, and holds it")
                self.annotate("true")
                self.installation.proxy.logged("paused: team-blue")
                client.send(b"SET b 2\r\n")
                self.direct.execute_command("CLIENT", "UNPAUSE")
                self.assertEqual(client.reply(), b"+OK\r\n")
                self.assertSilent([client], 0.3)
                self.assertEqual(self.direct.keys(), [b"a"])
                self.resume()
                self.assertEqual(client.reply(), b"+OK\r\n")


class ClosedTests(PauseCase):
    def test_who_has_state_at_redis_is_closed_at_once(self) -> None:
        for kind in KINDS:
            with self.subTest(kind):
                self.start(*LONG, *kind)
                state = {
                    b"BLPOP l 0\r\n": b"",
                    b"SUBSCRIBE c\r\n": b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
                    b"MULTI\r\n": b"+OK\r\n",
                    b"WATCH a\r\n": b"+OK\r\n",
                    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$10000000\r\nbegun": b"",
                }
                sessions = []
                for command, reply in state.items():
                    client = self.connect()
                    client.send(command)
                    self.assertEqual(client.exactly(len(reply)), reply)
                    sessions.append(client)
                until(lambda: self.direct.info("clients")["blocked_clients"] == 1, "the BLPOP waits")
                self.pause()
                self.assertEqual([client.rest() for client in sessions], [b""] * len(sessions))
                self.direct.rpush("l", "kept")
                self.assertEqual(self.direct.lrange("l", 0, -1), [b"kept"], "the BLPOP was given up")
                self.installation.proxy.logged("tenant-paused")
                self.resume()

    def test_who_waits_is_closed_when_the_time_is_over(self) -> None:
        for kind in KINDS:
            with self.subTest(kind):
                self.start("--hold-seconds", "1", *kind)
                idle, waiting = self.connect(), self.connect()
                for client in (idle, waiting):
                    self.assertEqual(client.ask(b"PING\r\n"), b"+PONG\r\n")
                self.pause()
                waiting.send(b"SET a 1\r\n")
                late = self.connect_late()
                self.assertEqual((waiting.rest(), late.rest()), (b"", b""))
                began = time.monotonic()
                self.assertEqual(self.connect_late().rest(), b"")
                self.assertLess(time.monotonic() - began, 1.0, "the time counts from the pause")
                self.assertTrue(idle.is_silent())
                self.resume()
                self.installation.proxy.logged("not paused any more")
                self.assertEqual(idle.ask(b"GET a\r\n"), b"$-1\r\n")
                self.assertEqual(self.connect().ask(b"GET a\r\n"), b"$-1\r\n")
                self.installation.proxy.logged("tenant-paused")

    def test_without_a_hold(self) -> None:
        self.start("--hold-seconds", "0")
        client = self.connect()
        self.assertEqual(client.ask(b"PING\r\n"), b"+PONG\r\n")
        self.pause()
        client.send(b"GET a\r\n")
        self.assertEqual((client.rest(), self.connect_late().rest()), (b"", b""))

    def test_a_proxy_that_starts_during_a_pause(self) -> None:
        """Its first snapshot has the pause."""
        self.start(*LONG)
        self.annotate("true")
        self.installation.proxy.logged("paused: team-blue")
        self.installation.proxy.stop()
        self.installation.proxy = ProxyProcess("--manifests", str(self.installation.manifests.path), *LONG).ready()
        client = self.connect_late()
        self.assertSilent([client], 0.3)
        with self.installation.green() as green:
            self.assertTrue(green.ping())
        self.resume()
        self.assertEqual(client.reply(), b"+OK\r\n")

    def test_a_wrong_password_is_answered(self) -> None:
        self.start(*LONG)
        self.pause()
        with self.assertRaises(redis.AuthenticationError):
            self.installation.proxy.client("wrong").ping()
