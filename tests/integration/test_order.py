"""A tenant's commands reach Redis in the order in which they were sent, as straight to Redis, also
where the first one has to wait for a connection.

Two connections to Redis are two sockets, and the proxy reads two sockets, too. On a busy machine
some turn of an event loop serves the later one first, straight as well. So a few pairs may miss.
"""

from __future__ import annotations

import subprocess
import time
import unittest
from collections.abc import Callable

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.proxy import Installation, shared
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, debian, on_every_server
from ..support.waiting import LIMIT

#: The share of all pairs whose order has to be kept.
ENOUGH = 0.9
#: What one session sends first, what another one sends then, and the last reply to that, if the
#: order was kept; none: the first session's reply shows it. {}: another number each time.
PAIRS = {
    "SUBSCRIBE": ("SUBSCRIBE ch{}", "PUBLISH ch{} x", b":1\r\n"),
    "PSUBSCRIBE": ("PSUBSCRIBE p{}*", "PUBLISH p{}x x", b":1\r\n"),
    "SSUBSCRIBE": ("SSUBSCRIBE ch{}", "SPUBLISH ch{} x", b":1\r\n"),
    "XREAD": ("XREAD BLOCK 1000 STREAMS st{} $", "XADD st{} * k v", b""),
    "BLPOP": ("BLPOP li{} 1", "LPUSH li{} x; LPOP li{}", b"$-1\r\n"),
    "MULTI": ("MULTI; SET mu{} 1; EXEC", "EXISTS mu{}", b":1\r\n"),
    "a script behind SUBSCRIBE": ("SUBSCRIBE sc{}", "EVAL return(redis.call('publish','sc{}','x')) 0", b":1\r\n"),
    "a script behind MULTI": ("MULTI; SET sm{} 1; EXEC", "EVAL return(redis.call('exists',KEYS[1])) 1 sm{}", b":1\r\n"),
    "a script before": ("EVAL return(redis.call('set',KEYS[1],'1')) 1 sb{}", "EXISTS sb{}", b":1\r\n"),
    "what stands behind": ("SUBSCRIBE be{}; SET be{} 1", "EXISTS be{}", b":1\r\n"),
}
#: Pairs that are kept where many other commands of the tenant are under way.
LOADED = ("SUBSCRIBE", "PSUBSCRIBE", "XREAD")


def pipeline(text: str, number: int) -> bytes:
    return b"".join(encode(each.format(number).encode().split()) for each in text.split("; "))


class PairsCase(unittest.TestCase):
    """Two sessions of one client process: it sends by the second one without a wait for the first
    one's reply.
    """

    installation: Installation

    def straight(self, protocol: int = 2) -> RawClient:
        server = self.installation.server
        client = raw_client(self, server.port, *self.login(server.password, protocol))
        client.ask([b"SELECT", b"3"])
        return client

    def proxied(self, protocol: int = 2) -> RawClient:
        return raw_client(self, self.installation.proxy.port, *self.login(Installation.BLUE, protocol))

    def login(self, password: str, protocol: int) -> list[bytes]:
        return [b"HELLO", b"%d" % protocol, b"AUTH", b"default", password.encode()]

    def kept(self, name: str, connect: Callable[[], RawClient], other: RawClient, times: int, idle: float = 0) -> int:
        """Returns how often the order was kept. idle: seconds before each time."""
        first, then, last = PAIRS[name]
        kept = 0
        for number in range(times):
            time.sleep(idle)
            with connect() as client:
                client.send(pipeline(first, number))
                other.send(pipeline(then, number))
                for _ in then.split("; "):
                    reply = other.reply()
                kept += reply.replace(b"_", b"$-1") == last if last else client.reply().startswith((b"*1", b"%1"))
        self.installation.server.client(3).flushdb()
        return kept

    def assertKept(self, name: str, first: int, then: int, times: int) -> None:
        """The best of three rounds counts: a few turns of a busy machine may spoil one."""
        for connect in (self.straight, self.proxied):
            rounds = (self.kept(name, lambda connect=connect: connect(first), connect(then), times) for _ in range(3))
            self.assertTrue(any(kept >= ENOUGH * times for kept in rounds), (name, connect))


class PairsTests(PairsCase):
    def setUp(self) -> None:
        self.installation = shared()

    def each_pair(self, first: int, then: int, times: int) -> None:
        for name in PAIRS:
            if name != "what stands behind" or first == 3:  # in RESP2 a subscriber can send no SET
                self.assertKept(name, first, then, times)

    def test_in_resp2(self) -> None:
        self.each_pair(2, 2, times=100)

    def test_in_resp3(self) -> None:
        self.each_pair(3, 3, times=40)

    def test_one_that_waits_in_resp2_and_one_in_resp3(self) -> None:
        self.each_pair(2, 3, times=40)

    def test_one_that_waits_in_resp3_and_one_in_resp2(self) -> None:
        self.each_pair(3, 2, times=40)

    def test_after_a_rest(self) -> None:
        """Then an idle connection is checked with a PING first."""
        for name in ("SUBSCRIBE", "XREAD", "BLPOP"):
            self.assertEqual(self.kept(name, self.proxied, self.proxied(), times=3, idle=bounds.FRESH_SECONDS + 0.1), 3)

    def test_where_other_commands_are_under_way(self) -> None:
        for straight in (True, False):
            server = self.installation.server if straight else self.installation.proxy
            password = server.password if straight else Installation.BLUE
            connect = self.straight if straight else self.proxied
            command = [debian("redis-benchmark"), "-p", str(server.port), "-a", password, "-c", "20", "-n", "100000000"]
            quiet = subprocess.DEVNULL
            with subprocess.Popen([*command, "-t", "get", "-q"], stdout=quiet, stderr=quiet) as load:
                try:
                    for name in LOADED:
                        self.assertGreaterEqual(self.kept(name, connect, connect(), times=50), 50 * ENOUGH, (name, straight))
                finally:
                    load.kill()

    def test_of_redis_py(self) -> None:
        for client in (self.installation.server.client(3), self.installation.blue()):
            with client:
                client.ping()
                heard = 0
                for number in range(50):
                    with client.pubsub(ignore_subscribe_messages=True) as subscriber:
                        subscriber.subscribe(f"news{number}")
                        heard += client.publish(f"news{number}", "hello")
                self.assertGreaterEqual(heard, 50 * ENOUGH)


@on_every_server
class EveryServerTests(PairsCase):
    def each_subscriber(self, binary: Callable[[], str]) -> None:
        self.installation = Installation(server=RedisServer(binary))
        self.addCleanup(self.installation.stop)
        for name in ("SUBSCRIBE", "PSUBSCRIBE", "XREAD"):
            self.assertKept(name, 2, 2, times=40)


class NoConnectionTests(unittest.TestCase):
    def test_others_commands_do_not_wait_long_for_one_that_gets_no_connection(self) -> None:
        """Redis is at its maxclients: straight, a connection is refused there."""
        installation = Installation()
        self.addCleanup(installation.stop)
        password = Installation.BLUE.encode()
        first, other = (raw_client(self, installation.proxy.port, b"AUTH", password) for _ in range(2))
        for client in (first, other):
            client.ask([b"PING"])
        server = installation.server.client()
        server.config_set("maxclients", len(server.client_list()))
        began = time.monotonic()
        first.send([b"BLPOP", b"li", b"0.1"])
        for _ in range(20):
            self.assertEqual(other.ask([b"SET", b"k", b"v"]), b"+OK\r\n")
        self.assertLess(time.monotonic() - began, 2 * bounds.ORDER_SECONDS + LIMIT / 10)
        server.config_set("maxclients", 1000)
        first.reply()
