"""All slots, the queue and the room for log-ins are taken, in a real process: what one tenant, or
one address, takes does not keep others from logging in.
"""

from __future__ import annotations

import time
import unittest

from redisproxy import bounds

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.status import metrics, status_port
from ..support.waiting import until

BLUE = (b"AUTH", Installation.BLUE.encode())
GREEN = (b"AUTH", Installation.GREEN.encode())
FULL = b"-ERR max number of clients reached\r\n"
SLOTS, QUEUE = 6, 3


class SlotsTests(unittest.TestCase):
    def setUp(self) -> None:
        sizes = ("--max-workers", str(SLOTS), "--work-queue-size", str(QUEUE))
        self.installation = Installation(*sizes, "--processes", "1", "--status", "tcp:0")
        self.addCleanup(self.installation.stop)
        self.port = self.installation.proxy.port
        self.status = status_port(self.installation)

    def connect(self, *login: bytes, **options: object) -> RawClient:
        return raw_client(self, self.port, *login, **options)

    def ended(self, close_reason: str) -> float:
        name = "redisproxy_connections_ended_total"
        return metrics(self.status).get((name, frozenset({("close_reason", close_reason)})), 0.0)

    def wait_in_queue(self) -> list[RawClient]:
        """As many of blue's log-ins as may wait for a slot."""
        waiting = [self.connect() for _ in range(QUEUE)]
        for connection in waiting:
            connection.send(BLUE)
        state = frozenset({("state", "waiting")})
        until(lambda: metrics(self.status)["redisproxy_sessions", state] == QUEUE, "the queue is full")
        return waiting

    def test_one_tenant_has_all_and_another_logs_in(self) -> None:
        of_blue = [self.connect(*BLUE) for _ in range(SLOTS)]
        # The first two have state at Redis, and one of these has a blocked command.
        self.assertTrue(of_blue[0].ask((b"SUBSCRIBE", b"a")).startswith(b"*3"))
        of_blue[1].send((b"BLPOP", b"nothing", b"0"))
        server = self.installation.server.client()
        until(lambda: server.info("clients")["blocked_clients"] == 1, "it is blocked")
        waiting = self.wait_in_queue()
        self.assertEqual(self.connect().ask(BLUE), FULL)
        of_green = [self.connect(*GREEN) for _ in range(SLOTS // 2)]
        for connection in of_green:
            self.assertEqual(connection.ask((b"PING",)), b"+PONG\r\n")
        # Those that were idle and had no state were closed, and nothing was said to them.
        for connection in of_blue[2:5]:
            self.assertEqual(connection.rest(), b"")
        for connection in (of_blue[0], of_blue[5]):
            self.assertIn(b"PONG", connection.ask((b"PING",)).upper())
        self.assertEqual(self.installation.server.client(3).rpush("nothing", "item"), 1)
        self.assertIn(b"item", of_blue[1].reply())
        until(lambda: self.ended("over-share") == 3, "they are counted")
        self.installation.proxy.logged(r"team-blue/.* over-share after")
        # Green has its half: it takes no more from blue, and waits like blue.
        late = self.connect()
        late.send(GREEN)
        self.assertEqual(waiting[-1].rest(), FULL)
        self.assertTrue(late.is_silent())
        # The way back: those that wait are served, and then nobody is limited.
        for connection in (*of_green, *of_blue):
            connection.close()
        for connection in (late, *waiting[:-1]):
            self.assertEqual(connection.reply(), b"+OK\r\n")
            connection.close()
        until(lambda: self.installation.green().info("clients")["connected_clients"] == 1, "all have left")
        again = [self.connect(*BLUE) for _ in range(SLOTS)]
        self.assertEqual([connection.ask((b"PING",)) for connection in again], [b"+PONG\r\n"] * SLOTS)

    def test_who_is_busy_gets_the_replies_to_what_was_sent(self) -> None:
        """All of blue's sessions wait for Redis: one is told what Redis did, and then it ends."""
        of_blue = [self.connect(*BLUE) for _ in range(SLOTS)]
        for number, connection in enumerate(of_blue):
            connection.send((b"BLPOP", b"list:%d" % number, b"0"))
        server = self.installation.server.client()
        until(lambda: server.info("clients")["blocked_clients"] == SLOTS, "all are blocked")
        self.assertEqual(self.connect(*GREEN).ask((b"PING",)), b"+PONG\r\n")
        self.assertEqual(of_blue[0].rest(), b"")
        until(lambda: server.info("clients")["blocked_clients"] == SLOTS - 1, "Redis has given up its command")

    def test_a_flood_without_a_password(self) -> None:
        """Its connections are made again as soon as they are closed."""
        places = SLOTS + QUEUE + bounds.LOG_IN_ROOM
        flood = [self.connect() for _ in range(places)]
        slow = self.connect(source="127.0.0.2")  # it takes its time, and comes from another address
        took = []
        for _ in range(20):
            for number in range(0, places, 3):
                if not flood[number].is_silent():
                    flood[number].close()
                    flood[number] = self.connect()
            flood.append(self.connect())
            started = time.monotonic()
            with RawClient(self.port, *GREEN, source="127.0.0.2") as late:
                self.assertEqual(late.ask((b"PING",)), b"+PONG\r\n")
            with RawClient(self.port, *GREEN) as from_the_same_address:
                self.assertEqual(from_the_same_address.ask((b"PING",)), b"+PONG\r\n")
            took.append(time.monotonic() - started)
        self.assertLess(min(took), 1.0)
        self.assertEqual(slow.ask(GREEN), b"+OK\r\n")
        error = b"-ERR closed before its log-in: too many connections have not logged in, and newer ones need room\r\n"
        self.assertIn(flood[1].rest(or_reset=True), (b"", error))
        self.assertGreater(self.ended("made-room"), 0)
        lines = [line for line in self.installation.proxy.lines if "made-room" in line]
        self.assertLessEqual(len(lines), 20, "the lines about an address have a quota")
        for connection in flood:
            connection.close()
        again = [self.connect() for _ in range(places - 1)]
        for connection in again:
            self.assertIn(b"NOAUTH", connection.ask((b"PING",)))

    def test_both_at_once(self) -> None:
        """One tenant has all slots and the queue; connections without a password, all the room."""
        for _ in range(SLOTS):
            self.connect(*BLUE)
        self.wait_in_queue()
        for _ in range(3 * bounds.LOG_IN_ROOM):
            self.connect()
        for _ in range(SLOTS // 2):
            self.assertEqual(self.connect(*GREEN).ask((b"PING",)), b"+PONG\r\n")

    def test_one_that_resets_keeps_its_slot(self) -> None:
        of_blue = [self.connect(*BLUE) for _ in range(SLOTS)]
        self.wait_in_queue()
        self.assertEqual(of_blue[0].ask((b"RESET",)), b"+RESET\r\n")
        self.assertEqual(of_blue[0].ask(BLUE), b"+OK\r\n")
