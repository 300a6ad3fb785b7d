"""Tests limits of tenants in a real process: what is refused, what is slowed down, and that nothing
is lost.

Times are compared with the minimum that a limit allows, which is safe on a slow machine. Neighbours
are compared with that, too.
"""

from __future__ import annotations

import signal
import threading
import time
import unittest
from collections.abc import Callable

import redis

from redisproxy.resp.framing import encode

from ..support.proxy import Installation, namespace
from ..support.raw import RawClient, raw_client
from ..support.status import ask, metrics, status_port
from ..support.waiting import LIMIT, until

CONNECTIONS, COMMANDS, BYTES = (
    f"redisproxy/{name}" for name in ("max-connections", "commands-per-second", "bytes-per-second")
)
FULL = b"-ERR max number of clients reached for this tenant: "
BLUE = frozenset({("namespace", "team-blue")})
AUTH = b"AUTH blue-password\r\n"


class LimitsCase(unittest.TestCase):
    def start(self, *options: str) -> Installation:
        self.installation = Installation("--status", "tcp:0", *options)
        self.addCleanup(self.check_log)
        self.addCleanup(self.installation.stop)
        self.port = status_port(self.installation)
        return self.installation

    def check_log(self) -> None:
        self.assertNotIn("Traceback", self.installation.proxy.log)
        self.assertNotIn("-password", self.installation.proxy.log)

    def annotate(self, **annotations: str | int) -> None:
        """Sets team-blue's limits (connections, commands, bytes), and waits until the proxy has
        them in force.
        """
        names = {"connections": CONNECTIONS, "commands": COMMANDS, "bytes": BYTES}
        found = {names[name]: str(value) for name, value in annotations.items()}
        documents = self.installation.documents()
        documents[1] = namespace("team-blue", annotations=found)
        self.installation.manifests.write(documents)
        shown = {"connections": "connections", "commands": "commands_per_second", "bytes": "bytes_per_second"}

        def in_force() -> bool:
            numbers = metrics(self.port)
            return {name: numbers.get((f"redisproxy_tenant_limit_{shown[name]}", BLUE)) for name in shown} == {
                name: annotations.get(name) for name in shown
            }

        until(in_force, f"{annotations} are in force")

    def of_blue(self, name: str) -> float:
        """Returns a metric of team-blue, or 0 if there is none yet."""
        return metrics(self.port).get((f"redisproxy_{name}", BLUE), 0)

    def blue(self, **options: object) -> redis.Redis:
        client = self.installation.blue(single_connection_client=True, socket_timeout=180, **options)
        self.addCleanup(client.close)
        self.assertTrue(client.ping())
        return client

    def connect(self) -> RawClient:
        return raw_client(self, self.installation.proxy.port)

    def took(self, call: Callable[[], object]) -> float:
        began = time.monotonic()
        call()
        return time.monotonic() - began

    def push(self, client: redis.Redis, count: int, key: str = "list") -> None:
        """Sends this many commands in one pipeline, and checks that they ran in order."""
        with client.pipeline(transaction=False) as pipe:
            for number in range(count):
                pipe.rpush(key, number)
            self.assertEqual(pipe.execute(), list(range(1, count + 1)))

    def in_background(self, call: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 180)
        return thread


class ConnectionsTests(LimitsCase):
    def test_past_the_limit_they_are_refused_until_one_leaves(self) -> None:
        self.start()
        self.annotate(connections=2)
        served = [self.connect() for _ in range(2)]
        for connection in served:
            self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
        for login in (AUTH, b"HELLO 3 AUTH default blue-password\r\n"):
            refused = self.connect()
            self.assertRegex(refused.ask(login), b"^%b[^\r\n]*\r\n$" % FULL)
            self.assertEqual(refused.rest(), b"")
        with self.assertRaisesRegex(redis.RedisError, "max number of clients reached for this tenant"):
            self.installation.blue().ping()
        # The answer to a wrong password is the same as without a limit, and only this answer is
        # delayed.
        self.assertTrue(self.connect().ask(b"AUTH wrong\r\n").startswith(b"-WRONGPASS"))
        self.assertTrue(self.installation.green().ping())
        self.assertEqual(served[0].ask(AUTH), b"+OK\r\n", "again, with the place that it has")
        served[0].close()
        until(lambda: self.connect().ask(AUTH) == b"+OK\r\n", "its place is free")
        found = metrics(self.port)
        self.assertGreaterEqual(found["redisproxy_tenant_connections_refused_total", BLUE], 3)
        self.assertGreaterEqual(found["redisproxy_logins_total", frozenset({("outcome", "tenant-full")})], 3)
        self.installation.proxy.logged("log-in from .* refused: the tenant of team-blue/redis-secret-master has reached")
        self.assertIn("2 connections", ask(self.port, "/")[2])

    def test_a_place_is_free_after_a_reset_and_when_a_session_becomes_anothers(self) -> None:
        self.start()
        self.annotate(connections=1)
        first, second = self.connect(), self.connect()
        self.assertEqual(first.ask(AUTH), b"+OK\r\n")
        self.assertEqual(first.ask(b"RESET\r\n"), b"+RESET\r\n")
        self.assertEqual(second.ask(AUTH), b"+OK\r\n")
        self.assertEqual(second.ask(b"AUTH green-password\r\n"), b"+OK\r\n")
        self.assertEqual(first.ask(AUTH), b"+OK\r\n")
        self.assertTrue(second.ask(AUTH).startswith(FULL))

    def test_a_default_and_a_malformed_annotation(self) -> None:
        self.start("--tenant-max-connections", "1")
        documents = self.installation.documents()
        documents[1] = namespace("team-blue", annotations={CONNECTIONS: "many"})
        self.installation.manifests.write(documents)
        self.installation.proxy.logged(
            "team-blue: annotation redisproxy/max-connections is not a whole number from 0 to 1000000: the default, 1, applies"
        )
        self.assertEqual(self.connect().ask(AUTH), b"+OK\r\n")
        self.assertTrue(self.connect().ask(AUTH).startswith(FULL))
        self.annotate(connections=2)
        self.installation.proxy.logged("fixed: team-blue: annotation redisproxy/max-connections")
        self.assertEqual(self.connect().ask(AUTH), b"+OK\r\n")

    def test_each_process_has_its_part(self) -> None:
        self.start("--processes", "2")
        self.annotate(connections=3)
        answers = [self.connect().ask(AUTH) for _ in range(8)]
        self.assertEqual(answers.count(b"+OK\r\n"), 4, "half of 3 is 2 for each")
        self.assertEqual(sum(answer.startswith(FULL) for answer in answers), 4)
        until(lambda: self.of_blue("tenant_connections_refused_total") == 4, "the workers told of it")


class RateTests(LimitsCase):
    def test_commands_are_slowed_down_and_none_is_lost(self) -> None:
        self.start()
        self.annotate(commands=200)
        blue, green = self.blue(), self.installation.green()
        took: list[float] = []
        thread = self.in_background(lambda: took.append(self.took(lambda: self.push(blue, 1000))))
        until(lambda: self.of_blue("tenant_throttled_connections"), "it waits")
        self.assertIn("throttled now", ask(self.port, "/")[2])
        # Meanwhile a neighbour runs five times as many commands.
        self.push(green, 5000)
        self.assertEqual(took, [], "the neighbour was not slowed down with it")
        thread.join(180)
        # One second's commands run at once, and those of one read do not wait.
        self.assertGreater(took[0], (1000 - 200 - 150) / 200)
        self.assertEqual(blue.lrange("list", 0, -1), [b"%d" % number for number in range(1000)])
        self.assertGreater(self.of_blue("tenant_throttled_seconds_total"), 2)
        self.assertEqual(
            metrics(self.port)["redisproxy_tenant_throttled_seconds_total", frozenset({("namespace", "team-green")})], 0
        )

    def test_however_many_connections(self) -> None:
        self.start()
        self.annotate(commands=200)
        clients = [self.blue() for _ in range(5)]
        began = time.monotonic()
        threads = [
            self.in_background(lambda client=client, number=number: self.push(client, 200, f"list:{number}"))
            for number, client in enumerate(clients)
        ]
        for thread in threads:
            thread.join(180)
        self.assertGreater(time.monotonic() - began, (1000 - 200 - 150) / 200)
        for number, client in enumerate(clients):
            self.assertEqual(client.llen(f"list:{number}"), 200)

    def test_who_connects_again_for_each_burst_gains_nothing(self) -> None:
        self.start()
        self.annotate(commands=100)
        began, done = time.monotonic(), 0
        while done < 600:
            connection = self.connect()
            # In one segment with the log-in: no read comes after it.
            connection.send(AUTH + b"PING\r\n" * 100)
            answer = b""
            while answer.count(b"+PONG") < 100:
                answer += connection.some()
            connection.close()
            done += 100
        self.assertGreater(time.monotonic() - began, (600 - 100 - 100 - 100) / 100)

    def test_large_values_in_both_directions(self) -> None:
        self.start()
        self.annotate(bytes=2_000_000)
        blue = self.blue()
        value = bytes(range(256)) * 25_000  # 6.4 MB
        self.assertGreater(self.took(lambda: blue.set("large", value)), (6_400_000 - 2_000_000 - 600_000) / 2_000_000)
        time.sleep(1.0)  # the rate saves up at most this burst, which is subtracted below
        took = self.took(lambda: self.assertEqual(blue.get("large"), value))
        self.assertGreater(took, (6_400_000 - 2_000_000 - 600_000) / 2_000_000)

    def test_replies_over_a_dedicated_connection_are_counted(self) -> None:
        self.start()
        self.annotate(bytes=200_000)
        blue = self.blue()
        blue.rpush("list", "x" * 50_000)
        # The dedicated connection is needed for one reply each time.
        rotate = lambda: [blue.blmove("list", "list", 20, "LEFT", "LEFT") for _ in range(12)]  # noqa: E731
        self.assertGreater(self.took(rotate), (600_000 - 200_000 - 50_000) / 200_000)

    def test_what_redis_is_asked_on_its_behalf_is_counted(self) -> None:
        self.start()
        self.annotate(bytes=100_000)
        blue = self.blue()
        # INFO of everything is at least 4 KB.
        took = self.took(lambda: [blue.info("everything") for _ in range(60)])
        self.assertGreater(took, (60 * 4000 - 100_000 - 4000) / 100_000)

    def test_waiting_and_listening_cost_nothing(self) -> None:
        self.start()
        self.annotate(commands=20)
        blue, waiting, listening = self.blue(), self.blue(), self.blue().pubsub()
        listening.subscribe("news")
        self.assertEqual(listening.get_message(timeout=LIMIT)["type"], "subscribe")
        popped: list[object] = []
        thread = self.in_background(lambda: popped.append(waiting.blpop("queue", 30)))
        self.push(blue, 60)  # by then the tenant is throttled
        blue.rpush("queue", "item")
        thread.join(30)
        self.assertEqual(popped, [(b"queue", b"item")])
        self.assertEqual(blue.publish("news", "x" * 1000), 1)
        self.assertEqual(listening.get_message(timeout=LIMIT)["data"], b"x" * 1000)

    def test_with_dedicated_connections(self) -> None:
        self.start("--connections", "dedicated")
        self.annotate(commands=200, bytes=1_000_000)
        blue = self.blue()
        self.assertGreater(self.took(lambda: self.push(blue, 800)), (800 - 200 - 150) / 200)
        self.assertEqual(blue.lrange("list", 0, -1), [b"%d" % number for number in range(800)])

    def test_each_process_holds_its_part(self) -> None:
        self.start("--processes", "2")
        self.annotate(commands=200)
        clients = {client.client_id() % 2: client for client in (self.blue() for _ in range(8))}
        self.assertEqual(len(clients), 2)
        for client in clients.values():
            self.assertGreater(self.took(lambda client=client: self.push(client, 500, str(client.client_id()))), 2.5)


class ChangeTests(LimitsCase):
    def test_another_limit_holds_at_once_for_the_sessions_that_are_there(self) -> None:
        self.start()
        blue = self.blue()
        number = blue.client_id()
        self.push(blue, 1000)
        self.annotate(commands=100)
        self.assertGreater(self.took(lambda: self.push(blue, 400, "slow")), (400 - 100 - 150) / 100)
        self.annotate(commands=1)
        took: list[float] = []
        thread = self.in_background(lambda: took.append(self.took(lambda: self.push(blue, 1000, "stuck"))))
        until(lambda: self.of_blue("tenant_throttled_connections"), "it waits, for a quarter of an hour")
        self.annotate()
        thread.join(20)
        self.assertEqual(len(took), 1)
        self.assertEqual(blue.lrange("stuck", 0, -1), [b"%d" % n for n in range(1000)])
        self.assertEqual(blue.client_id(), number)

    def throttled(self) -> RawClient:
        """Returns a client that waits for a quarter of an hour."""
        self.annotate(commands=1)
        connection = self.connect()
        self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
        for _ in range(2):
            connection.send(encode([b"PING"]) * 1000)  # inline ones would wait for their tenant's turn
            until(
                lambda: metrics(self.port)["redisproxy_commands_total", BLUE | {("family", "plain")}] >= 250, "some are done"
            )
        until(lambda: self.of_blue("tenant_throttled_connections") == 1, "it waits")
        return connection

    def test_a_session_that_waits_is_revoked_all_the_same(self) -> None:
        self.start()
        connection = self.throttled()
        documents = self.installation.documents()
        self.installation.manifests.write([documents[0], *documents[3:]])
        connection.rest()  # the replies that it waits for, and then the end
        self.installation.proxy.logged("team-blue/redis-secret-master: revoked after")

    def test_replies_that_wait_at_the_end_are_told(self) -> None:
        self.start("--drain-seconds", "10")
        self.annotate(bytes=100_000)
        connection = self.connect()
        self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
        with self.installation.server.client(3) as direct:
            direct.set("large", "x" * 3_000_000)
            connection.send(b"GET large\r\nINCR counter\r\n")
            until(lambda: direct.get("counter") == b"1", "Redis has done it")
        until(lambda: self.of_blue("tenant_throttled_connections"), "the upstream connection is not read, for half a minute")
        self.installation.proxy.process.send_signal(signal.SIGTERM)
        self.assertEqual(connection.rest(), b"$3000000\r\n" + b"x" * 3_000_000 + b"\r\n:1\r\n")
        self.assertEqual(self.installation.proxy.process.wait(LIMIT), 0)
        self.installation.proxy.logged("0 of them were cut off")

    def test_others_log_in_while_one_waits_and_it_is_noticed_when_it_leaves(self) -> None:
        self.start()
        connection = self.throttled()
        other = self.connect()
        self.assertEqual(other.ask(AUTH), b"+OK\r\n")
        connection.close()
        other.close()
        until(lambda: self.of_blue("tenant_throttled_connections") == 0, "nobody waits any more")
        until(lambda: self.of_blue("tenant_sessions") == 0, "it is gone")
        self.assertEqual(self.installation.proxy.stop(), 0)
