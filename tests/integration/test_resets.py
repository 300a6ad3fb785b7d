"""Tests clients of one tenant that reset their connections while the proxy opens connections to
Redis for others.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import time
import unittest

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.proxy import Installation, master
from ..support.raw import RawClient, raw_client
from ..support.relay import Relay
from ..support.servers import RedisServer
from ..support.waiting import LIMIT, until

#: Connections of the tenant that resets them: more than the proxy acquires at once.
RESET = bounds.ACQUIRING + 124
#: Connections of the other tenant.
OTHERS = 300
BLUE, GREEN = encode([b"AUTH", b"blue-password"]), encode([b"AUTH", b"green-password"])
BLPOP = encode([b"BLPOP", b"queue", b"0"])
OK, ITEM = b"+OK\r\n", b"*2\r\n$5\r\nqueue\r\n$4\r\nitem\r\n"


class ResetCase(unittest.TestCase):
    def setUp(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < 4096:
            more = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def start(self, *options: str) -> None:
        self.installation = Installation(*options, server=RedisServer())
        self.addCleanup(self.installation.stop)

    def connect(self, count: int, first: bytes) -> list[RawClient]:
        """Returns `count` connections. Each has sent `first`, and reads nothing."""
        connections = []
        for _ in range(count):
            connection = raw_client(self, self.installation.proxy.port)
            connection.send(first)
            connections.append(connection)
        return connections

    def reset(self, connections: list[RawClient]) -> None:
        for connection in connections:
            connection.reset()

    def assertEachHears(self, connections: list[RawClient], expected: bytes) -> None:
        heard: dict[socket.socket, bytes] = {connection.socket: b"" for connection in connections}
        with selectors.DefaultSelector() as ready:
            for connection in heard:
                ready.register(connection, selectors.EVENT_READ)
            deadline = time.monotonic() + LIMIT
            while ready.get_map() and time.monotonic() < deadline:
                for key, _ in ready.select(1):
                    data = key.fileobj.recv(len(expected) - len(heard[key.fileobj]))
                    heard[key.fileobj] += data
                    if not data or len(heard[key.fileobj]) == len(expected):
                        ready.unregister(key.fileobj)
        wrong = [data for data in heard.values() if data != expected]
        self.assertEqual(wrong, [], f"{len(wrong)} of {len(heard)} were answered something else")

    def assertServed(self, connections: list[RawClient]) -> None:
        """Each client waits in its BLPOP, and gets an item."""
        straight = self.installation.server.client(5)
        straight.rpush("queue", *["item"] * len(connections))
        self.assertEachHears(connections, ITEM)
        self.assertEqual(straight.llen("queue"), 0)

    def assertNothingLogged(self) -> None:
        log = self.installation.proxy.log
        for text in ("no connection to Redis", "cannot be reached", "DNS", "used again", "Traceback", "Unhandled"):
            self.assertNotIn(text, log)


class StraightTests(ResetCase):
    """All clients reset at once, as fast as possible."""

    def check(self, *options: str) -> None:
        # hundreds of clients at once, perhaps on a busy machine
        self.start("--connect-timeout", "40", *options)
        if "dedicated" in options:  # here the log-in needs a connection to Redis
            blue, green = self.connect(RESET, BLUE + BLPOP), self.connect(OTHERS, GREEN + BLPOP)
            self.reset(blue)
            self.assertEachHears(green, OK)
        else:
            blue, green = self.connect(RESET, BLUE), self.connect(OTHERS, GREEN)
            self.assertEachHears(blue + green, OK)
            for connection in blue + green:
                connection.send(BLPOP)
            self.reset(blue)
        self.assertEachHears(self.connect(20, GREEN), OK)
        self.assertServed(green)
        self.assertNothingLogged()

    def test_shared(self) -> None:
        self.check("--connections", "multiplexed")

    def test_dedicated(self) -> None:
        self.check("--connections", "dedicated")

    def test_two_processes(self) -> None:
        self.check("--processes", "2", "--connections", "multiplexed")

    def test_again_and_again(self) -> None:
        """Nothing accumulates, in the proxy or in Redis."""
        self.start("--connect-timeout", "40", "--connections", "dedicated")
        for _ in range(10):
            self.reset(self.connect(RESET // 2, BLUE + BLPOP))
            self.assertEachHears(self.connect(1, GREEN), OK)
        self.assertNothingLogged()
        straight = self.installation.server.client()
        until(lambda: sum(c["cmd"] == "blpop" for c in straight.client_list()) == 0, "nothing blocks in Redis")


class SlowRedisTests(ResetCase):
    """Redis does not answer for a while, so that it is certain what is in progress."""

    def check(self, *options: str) -> None:
        self.start("--processes", "1", "--connect-timeout", "20", *options)
        relay = Relay(self.installation.server.port)
        self.addCleanup(relay.stop)
        url = self.installation.server.url.replace(f":{self.installation.server.port}/", f":{relay.port}/")
        self.installation.manifests.write([master(url), *self.installation.documents()[1:]])
        self.installation.proxy.refresh()
        self.installation.proxy.logged(f"Redis is at redis://127.0.0.1:{relay.port}")
        # Both tenants' users exist.
        self.assertEachHears(self.connect(1, BLUE) + self.connect(1, GREEN), OK)
        relay.stall()
        before = relay.connections
        blue = self.connect(RESET, BLUE + BLPOP)
        until(lambda: relay.connections > before + bounds.ACQUIRING - 5, "as many as may be are opened at once")
        green = self.connect(100, GREEN + BLPOP)
        time.sleep(0.5)  # by then the proxy has read the log-ins
        self.reset(blue[:1])
        self.reset(blue[1:])
        time.sleep(0.5)
        relay.flow()
        self.assertEachHears(green, OK)
        self.assertServed(green)
        self.assertNothingLogged()

    def test_shared(self) -> None:
        self.check("--connections", "multiplexed")

    def test_dedicated(self) -> None:
        self.check("--connections", "dedicated")


class ControlQueriesTests(ResetCase):
    """The proxy sends no control query for a client that has left. It sends them one at a time,
    with the master's rights.
    """

    def test_clients_that_ask_and_leave(self) -> None:
        self.start("--processes", "1")
        straight = self.installation.server.client()
        numpat = encode([b"PUBSUB", b"NUMPAT"])
        blue = self.connect(100, BLUE)
        self.assertEachHears(blue, OK)
        os.kill(self.installation.server.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.installation.server.pid, signal.SIGCONT)
        for connection in blue:
            connection.send(numpat)
        time.sleep(0.5)
        self.reset(blue)
        time.sleep(0.5)  # by then the proxy has read the resets
        os.kill(self.installation.server.pid, signal.SIGCONT)
        self.assertEachHears(self.connect(1, BLUE + numpat), OK + b":0\r\n")
        self.assertLessEqual(straight.info("commandstats")["cmdstat_pubsub|numpat"]["calls"], 2)
        self.assertNothingLogged()
