"""Tests the machinery of attacks against a real Redis, and what the quiet tenant sees of one."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.attacks.row import PASSWORD, Counters, Target, Together, prepared, words
from benchmarks.attacks.streams import Renew, Streams
from benchmarks.meters import kernel
from benchmarks.quiet import Quiet
from tests.support.servers import MASTER_PASSWORD, RedisServer
from tests.support.waiting import until


class AttackTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        port = self.server.port
        self.target = Target(port, port, port, MASTER_PASSWORD, 1, port, MASTER_PASSWORD, self.server.pid, True)

    def begin(self, attack) -> tuple[Counters, Iterator[None]]:
        counters = Counters()
        running = attack(self.target, counters)
        self.addCleanup(running.close)
        next(running)
        return counters, running

    def attack(self, attack, done: Callable[[Counters], bool]) -> Counters:
        """Attacks until the counters say that it is enough."""
        counters, running = self.begin(attack)

        def turn() -> bool:
            next(running)
            return done(counters)

        until(turn, f"an attack does what it should: {counters}")
        return counters

    def called(self, command: str) -> int:
        with self.server.client() as client:
            return client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)

    def test_commands_without_end_on_many_connections(self) -> None:
        before = self.called("echo")
        counters = self.attack(Streams([("ECHO", "a")], 30), lambda found: found.rounds >= 60)
        self.assertEqual((counters.open, counters.connected, counters.refused, counters.closed), (30, 30, 0, 0))
        self.assertGreater(counters.sent, 60 * 64 * 1024)
        until(lambda: self.called("echo") > before + 60 * 1000, "Redis runs them")

    def test_connections_log_in_before_the_attack_begins(self) -> None:
        counters, _ = self.begin(Streams([("PING",)], 10, first=words("SET", "from-first", "1")))
        self.assertEqual((counters.open, counters.refused), (10, 0))
        with self.server.client(1) as client:
            until(lambda: client.get("from-first") == b"1", "the first command arrives, in the attacker's database")
        self.assertEqual(counters.rounds, 0)

    def test_a_wrong_password_is_counted(self) -> None:
        wrong = replace(self.target, password="wrong", straight=False)
        counters = Counters()
        running = Streams(connections=3)(wrong, counters)
        next(running)
        self.assertEqual(counters.refused, 3)

    def test_once_and_in_lockstep(self) -> None:
        before = self.called("incr")
        counters, running = self.begin(Streams([("INCR", "n")], 5, once=True))
        for _ in range(50):
            next(running)
        self.assertEqual(counters.rounds, 5)
        self.assertEqual(self.called("incr"), before + 5)
        counters = self.attack(Streams([("INCR", "n")], 2, lockstep=True), lambda found: found.rounds >= 20)
        self.assertLessEqual(counters.rounds - counters.received // len(b":7\r\n"), 2)

    def test_a_byte_at_a_time(self) -> None:
        before = self.called("ping")
        self.attack(Streams([("PING",)], 3, pieces=1), lambda found: found.rounds >= 6)
        self.assertGreaterEqual(self.called("ping"), before + 3)

    def test_the_nth_time_has_bytes_of_its_own(self) -> None:
        self.attack(Streams(lambda n: words("SET", f"own-{n}", "1"), 4, once=True), lambda found: found.received >= 4 * 5)
        with self.server.client(1) as client:
            self.assertEqual(client.exists(*(f"own-{n}" for n in range(4))), 4)

    def test_the_password_stands_in_a_command(self) -> None:
        counters = self.attack(Streams([("AUTH", PASSWORD)], log_in=False, once=True), lambda found: found.received >= 5)
        self.assertEqual(counters.received, len(b"+OK\r\n"))

    def test_connections_are_made_again(self) -> None:
        for renew, commands in (
            (Renew.ANSWERED, [("NOSUCH",)]),
            (Renew.SENT, [("NOSUCH",)]),
            (Renew.SENT, b""),
            (Renew.CLOSED, [("QUIT",)]),
        ):
            with self.subTest(renew):
                attack = Streams(commands, 5, log_in=False, renew=renew)
                counters = self.attack(attack, lambda found: found.connected >= 25)
                self.assertLessEqual(counters.open, 5)
        counters = self.attack(Streams(connections=5, renew=Renew.ANSWERED), lambda found: found.connected >= 25)
        self.assertEqual(counters.refused, 0, "each of them logs in")

    def test_what_is_not_read_stays_in_the_kernel(self) -> None:
        def fill(client) -> None:
            client.set("large", b"x" * 1_000_000)

        attack = prepared(fill, Streams([("GET", "large")], 4, once=True, reads=0))
        counters, running = self.begin(attack)

        def held() -> bool:
            next(running)
            return kernel([self.server.port]) > 500_000

        until(held, "the kernel keeps replies that nobody reads")
        self.assertLess(counters.received, 1000)

    def test_the_bytes_of_an_attack_are_bounded(self) -> None:
        counters, running = self.begin(Streams([("PING",)], 1, most=100_000))
        for _ in range(200):
            next(running)
        self.assertLess(counters.sent, 300_000)

    def test_several_attacks_take_turns(self) -> None:
        attack = Together(
            Streams(first=words("SUBSCRIBE", "c"), connections=5, wait=0.0),
            Streams([("PUBLISH", "c", "x")], lockstep=True, wait=0.001),
        )
        counters = self.attack(attack, lambda found: found.rounds >= 5 and found.received > 5 * 5 * 20)
        self.assertEqual((counters.connected, counters.open), (6, 6))

    def test_a_port_where_nothing_listens(self) -> None:
        nowhere = replace(self.target, port=1)
        counters = Counters()
        running = Streams([("PING",)], 3, renew=Renew.CLOSED, early=False, rate=100)(nowhere, counters)
        for _ in range(10):
            next(running)
        self.assertEqual(counters.received, 0)


class QuietTests(unittest.TestCase):
    def test_what_it_sees_of_a_healthy_server(self) -> None:
        server = RedisServer().start()
        self.addCleanup(server.stop)
        seen = Quiet(server.port, MASTER_PASSWORD, 0).window(0.1)
        self.assertGreater(len(seen.pings), 1)
        self.assertEqual(seen.pings, sorted(seen.pings))
        self.assertEqual((len(seen.log_ins), seen.errors, seen.failed), (1, [], []))

    def test_what_it_sees_of_none(self) -> None:
        seen = Quiet(1, MASTER_PASSWORD, 1).window(0.02)
        self.assertEqual(seen.pings, [])
        self.assertTrue(any(error.startswith("ping:") for error in seen.errors))
        self.assertTrue(any(error.startswith("probe:") for error in seen.errors))
        self.assertEqual([error.split(":")[0] for error in seen.failed], ["log_in"])

    def test_a_refused_log_in_has_failed(self) -> None:
        server = RedisServer().start()
        self.addCleanup(server.stop)
        seen = Quiet(server.port, "wrong", 0).window(0.02)
        self.assertRegex(seen.failed[0], "WRONGPASS")
        self.assertTrue(seen.errors)
