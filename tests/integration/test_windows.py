"""Commands that may keep Redis busy, against a real Redis: they hold other tenants up for about as
long as a few of them take, however many a tenant sends at once.
"""

from __future__ import annotations

import threading
import time
import unittest

from redisproxy.resp.framing import encode

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD

BLUE, GREEN = (b"AUTH", b"blue-password"), (b"AUTH", b"green-password")
COUNT = encode([b"BITCOUNT", b"big"])
#: Commands in one write.
COMMANDS = 60


class Pings:
    """PINGs of another tenant, one after the other. worst: seconds of the slowest one."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._ends = False
        self.worst = 0.0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Pings:
        self._thread.start()
        time.sleep(0.1)
        self.worst = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join()

    def _run(self) -> None:
        while not self._ends:
            began = time.monotonic()
            assert self._client.ask([b"PING"]) == b"+PONG\r\n"
            self.worst = max(self.worst, time.monotonic() - began)
            time.sleep(0.002)


class QuickTests(unittest.TestCase):
    """Many quick ones of many sessions, mixed with other commands."""

    def check(self, connections: str) -> None:
        installation = Installation("--connections", connections)
        self.addCleanup(installation.stop)
        clients = [raw_client(self, installation.proxy.port, *BLUE) for _ in range(20)]
        for number, client in enumerate(clients):
            client.ask([b"RPUSH", b"l%d" % number, *(b"v%d" % index for index in range(number or 1))])
        plain = [b"ECHO", b"x"]
        for turn in range(8):
            expected: list[list[bytes]] = []
            for number, client in enumerate(clients):
                data, replies = b"", []
                for index in range(1 + (turn * 7 + number * 5) % 60):
                    other = (number + index * turn) % 20
                    data += encode([b"LRANGE", b"l%d" % other, b"0", b"-1"])
                    # an array of bulk strings looks like a command
                    replies.append(encode([b"v%d" % each for each in range(other or 1)]))
                    if index % 3 == turn % 4:
                        data += encode(plain) + encode([b"MULTI"]) + encode([b"STRLEN", b"k"])
                        data += encode([b"LLEN", b"l3"]) + encode([b"LINDEX", b"l3", b"1"]) + encode([b"EXEC"])
                        replies += [b"$1\r\nx\r\n", b"+OK\r\n", *[b"+QUEUED\r\n"] * 3, b"*3\r\n:0\r\n:3\r\n$2\r\nv1\r\n"]
                client.send(data)
                expected.append(replies)
            for client, replies in zip(clients, expected, strict=True):
                for reply in replies:
                    self.assertEqual(client.reply(), reply)
        self.assertNotIn("Traceback", installation.proxy.log)

    def test_over_shared_connections(self) -> None:
        self.check("multiplexed")

    def test_over_their_own(self) -> None:
        self.check("dedicated")


class WindowTests(unittest.TestCase):
    def setUp(self) -> None:
        self.installation = Installation("--connections", "multiplexed")
        self.addCleanup(self.installation.stop)
        self.blue = self.client(*BLUE)
        self.green = self.client(*GREEN)
        # Bits are 0, and are counted all the same.
        self.assertEqual(self.blue.ask([b"SETBIT", b"big", b"1000000000", b"1"]), b":0\r\n")

    def client(self, *login: bytes, port: int = 0) -> RawClient:
        return raw_client(self, port or self.installation.proxy.port, *login)

    def worst(self, attacker: RawClient, quiet: RawClient, data: bytes, replies: list[bytes]) -> float:
        """Sends all data at once. Returns the seconds of the other's slowest PING meanwhile."""
        with Pings(quiet) as pings:
            attacker.send(data)
            for expected in replies:
                self.assertEqual(attacker.reply(), expected)
        return pings.worst

    def test_many_in_one_write(self) -> None:
        """Straight to Redis, the other waits for all. Replies are complete, and in order."""
        port = self.installation.server.port
        straight, quiet = (self.client(b"AUTH", MASTER_PASSWORD.encode(), port=port) for _ in range(2))
        index = next(
            tenant for tenant in range(16) if straight.ask([b"SELECT", b"%d" % tenant]) and straight.ask(COUNT) == b":1\r\n"
        )
        self.assertEqual(straight.ask([b"SELECT", b"%d" % index]), b"+OK\r\n")
        all_of_them = self.worst(straight, quiet, COUNT * COMMANDS, [b":1\r\n"] * COMMANDS)
        mixed = (encode([b"ECHO", b"a"]) + COUNT) * COMMANDS
        few = self.worst(self.blue, self.green, mixed, [b"$1\r\na\r\n", b":1\r\n"] * COMMANDS)
        self.assertLess(few, all_of_them / 3)
        self.assertNotIn("Traceback", self.installation.proxy.log)

    def test_long_ones_behind_many_quick_ones(self) -> None:
        """Quick ones open the window. The first burst of long ones is one window."""
        self.assertEqual(self.blue.ask([b"SETBIT", b"small", b"9", b"1"]), b":0\r\n")
        began = time.monotonic()
        self.blue.ask(COUNT)
        one = time.monotonic() - began
        time.sleep(one * 10)
        quick = encode([b"BITCOUNT", b"small"]) * 300
        self.worst(self.blue, self.green, quick * 2, [b":1\r\n"] * 600)
        clients = [self.client(*BLUE) for _ in range(4)]
        with Pings(self.green) as pings:
            for client in clients:
                client.send((encode([b"ECHO", b"a"]) + COUNT) * 20)
            for client in clients:
                for _ in range(20):
                    self.assertEqual((client.reply(), client.reply()), (b"$1\r\na\r\n", b":1\r\n"))
        self.assertLess(pings.worst, 40 * one)
        self.assertNotIn("Traceback", self.installation.proxy.log)

    def test_many_connections(self) -> None:
        """The window is the tenant's. Connections that end at once do not widen it."""
        began = time.monotonic()
        self.blue.ask(COUNT)
        one = time.monotonic() - began
        clients = [self.client(*BLUE) for _ in range(30)]
        with Pings(self.green) as pings:
            for number, client in enumerate(clients):
                client.send(COUNT * 2)
                if number % 3 == 0:
                    client.close()
            for number, client in enumerate(clients):
                if number % 3:
                    self.assertEqual((client.reply(), client.reply()), (b":1\r\n", b":1\r\n"))
        self.assertLess(pings.worst, 60 * one / 3)

    def test_transactions_wait_for_each_other(self) -> None:
        clients = [self.client(*BLUE) for _ in range(10)]
        with Pings(self.green) as pings:
            began = time.monotonic()
            for number, client in enumerate(clients):
                start = [encode([b"MULTI"]), encode([b"WATCH", b"a"]) + encode([b"MULTI"])][number % 2]
                client.send(start + COUNT * 2 + encode([b"EXEC"]))
            for number, client in enumerate(clients):
                for expected in [b"+OK\r\n"] * (1 + number % 2) + [b"+QUEUED\r\n"] * 2 + [b"*2\r\n:1\r\n:1\r\n"]:
                    self.assertEqual(client.reply(), expected)
            all_of_them = time.monotonic() - began
        self.assertLess(pings.worst, all_of_them / 2)
