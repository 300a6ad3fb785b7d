"""A tenant's commands reach Redis in the order in which they were sent, as straight to Redis, also
where the first one has to wait for a connection.
"""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable

import redis

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.proxy import Installation, shared
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, on_every_server
from ..support.waiting import LIMIT

TIMES = 100
#: What one session sends first, what another one sends then, and the last reply to that, if the
#: order was kept. {}: a number that is another one each time.
PAIRS = {
    "SUBSCRIBE": ("SUBSCRIBE ch{}", "PUBLISH ch{} x", b":1\r\n"),
    "PSUBSCRIBE": ("PSUBSCRIBE p{}*", "PUBLISH p{}x x", b":1\r\n"),
    "SSUBSCRIBE": ("SSUBSCRIBE ch{}", "SPUBLISH ch{} x", b":1\r\n"),
    "XREAD": ("XREAD BLOCK 5000 STREAMS st{} $", "XADD st{} * k v", b""),
    "BLPOP": ("BLPOP li{} 5", "LPUSH li{} x; LPOP li{}", b"$-1\r\n"),
    "MULTI": ("MULTI; SET mu{} 1; EXEC", "EXISTS mu{}", b":1\r\n"),
}


def words(text: str, number: int) -> bytes:
    commands = [each.format(number).encode().split(b" ") for each in text.replace("100 kB", "100kB").split("; ")]
    return b"".join(encode([b"x" * 100_000 if word == b"<100kB>" else word for word in each]) for each in commands)


class OrderTests(unittest.TestCase):
    """Sessions of one client process: it does not wait for the first reply."""

    def setUp(self) -> None:
        self.installation = shared()

    def straight(self, protocol: int = 2) -> RawClient:
        client = raw_client(self, self.installation.server.port, *self.hello(self.installation.server.password, protocol))
        client.ask([b"SELECT", b"3"])
        return client

    def proxied(self, protocol: int = 2) -> RawClient:
        return raw_client(self, self.installation.proxy.port, *self.hello(Installation.BLUE, protocol))

    def hello(self, password: str, protocol: int) -> list[bytes]:
        return [b"HELLO", b"%d" % protocol, b"AUTH", b"default", password.encode()]

    def kept(
        self, name: str, connect: Callable[[], RawClient], other: RawClient, times: int = TIMES, idle: float = 0
    ) -> int:
        """Returns how often the order was kept. idle: seconds before each time."""
        first, then, last = PAIRS[name]
        kept = 0
        for number in range(times):
            time.sleep(idle)
            with connect() as client:
                client.send(words(first, number))
                other.send(words(then, number))
                for _ in then.split("; "):
                    reply = other.reply()
                kept += reply.replace(b"_", b"$-1") == last if last else client.reply().startswith((b"*1", b"%1"))
        self.installation.server.client(3).flushdb()
        return kept

    def each_pair(self, first: int, then: int) -> None:
        for name in PAIRS:
            with self.subTest(name):
                straight = self.kept(name, lambda: self.straight(first), self.straight(then))
                self.assertEqual(straight, TIMES)
                self.assertEqual(self.kept(name, lambda: self.proxied(first), self.proxied(then)), TIMES)

    def test_in_resp2(self) -> None:
        self.each_pair(2, 2)

    def test_in_resp3(self) -> None:
        self.each_pair(3, 3)

    def test_one_that_waits_in_resp2_and_one_in_resp3(self) -> None:
        self.each_pair(2, 3)

    def test_one_that_waits_in_resp3_and_one_in_resp2(self) -> None:
        self.each_pair(3, 2)


if __name__ == "__main__":
    unittest.main()
