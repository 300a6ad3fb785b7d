"""Tests large values, many connections and repeated ones: the proxy's memory and descriptors stay
bounded.
"""

from __future__ import annotations

import hashlib
import resource
import selectors
import socket
import time
import unittest

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, valkey
from ..support.waiting import LIMIT, until

MIB = 1 << 20
AUTH = b"AUTH blue-password\r\n"
LOGIN = (b"AUTH", b"blue-password")


class LargeValueTests(unittest.TestCase):
    """The project's limit: a value of 512 MB adds at most 16 MiB of resident memory."""

    SIZE = 512 * MIB

    def setUp(self) -> None:
        self.installation = Installation(server=RedisServer(valkey, "enable-debug-command yes"))
        self.addCleanup(self.installation.stop)
        self.proxy = self.installation.proxy

    def connect(self) -> RawClient:
        return raw_client(self, self.proxy.port, *LOGIN, timeout=120)

    def test_streams_both_ways_in_constant_memory(self) -> None:
        connection = self.connect()
        before = self.proxy.resident()
        self.proxy.reset_peak()
        block = bytes(range(256)) * (MIB // 256)
        connection.send(b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$%d\r\n" % self.SIZE)
        sent, received = hashlib.sha256(), hashlib.sha256()
        for _ in range(self.SIZE // MIB):
            connection.send(block)
            sent.update(block)
        connection.send(b"\r\n")
        self.assertEqual(connection.reply(), b"+OK\r\n")
        connection.send(b"GET large\r\n")
        self.assertEqual(connection.exactly(12), b"$%d\r\n" % self.SIZE)
        for _ in range(self.SIZE // MIB):
            received.update(connection.exactly(MIB))
        self.assertEqual(connection.exactly(2), b"\r\n")
        self.assertEqual(sent.hexdigest(), received.hexdigest())
        grown = self.proxy.peak() - before
        print(f"512 MiB both ways: peak of resident memory grew by {grown / MIB:.1f} MiB")
        self.assertLess(grown, 16 * MIB)

    def test_a_client_that_never_reads_costs_little_and_slows_no_other_tenant(self) -> None:
        """See `test_flow` for what its own tenant waits for."""
        self.installation.server.client(3).set("big", b"x" * (64 * MIB))
        other = raw_client(self, self.proxy.port, b"AUTH", Installation.GREEN.encode())
        before = self.proxy.resident()
        self.proxy.reset_peak()
        deaf = self.connect()
        deaf.send(b"GET big\r\n" * 20)
        slowest = 0.0
        for _ in range(500):
            started = time.monotonic()
            self.assertEqual(other.ask(b"PING\r\n"), b"+PONG\r\n")
            slowest = max(slowest, time.monotonic() - started)
        grown = self.proxy.peak() - before
        print(f"a deaf client: {grown / MIB:.1f} MiB, slowest PING of another {slowest * 1000:.1f} ms")
        self.assertLess(grown, 16 * MIB)

    def test_a_client_that_sends_faster_than_redis_takes(self) -> None:
        """While Redis sleeps, the proxy buffers a bounded amount."""
        connection = self.connect()
        self.proxy.reset_peak()
        before = self.proxy.resident()
        server = self.installation.server
        asleep = raw_client(self, server.port, b"AUTH", server.password.encode())
        asleep.send(b"DEBUG SLEEP 1\r\n")
        block = b"x" * MIB
        connection.send(b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$%d\r\n" % (100 * MIB))
        for _ in range(100):
            connection.send(block)
        connection.send(b"\r\n")
        self.assertEqual(connection.reply(), b"+OK\r\n")
        self.assertLess(self.proxy.peak() - before, 16 * MIB)


class ManyConnectionsTests(unittest.TestCase):
    COUNT = 5000

    def setUp(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = 2 * self.COUNT + 200
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise unittest.SkipTest(
                f"{self.COUNT} connections need a hard limit of {needed} open files: raise it with ulimit -Hn"
            )
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))

    def test_opened_at_once_are_all_served(self) -> None:
        seconds = str(4 * LIMIT)  # a loaded machine needs this long for all of them
        limits = ("--connect-timeout", seconds, "--login-timeout", seconds)
        installation = Installation("--max-workers", str(self.COUNT), *limits)
        self.addCleanup(installation.stop)
        port = installation.proxy.port
        ready = selectors.DefaultSelector()
        self.addCleanup(ready.close)
        started = time.monotonic()
        for _ in range(self.COUNT):
            connection = socket.socket()
            self.addCleanup(connection.close)
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
            ready.register(connection, selectors.EVENT_WRITE, bytearray())
        answered = 0
        while answered < self.COUNT:
            events = ready.select(30)
            self.assertTrue(events, f"only {answered} were answered")
            for key, mask in events:
                if mask & selectors.EVENT_WRITE:
                    key.fileobj.sendall(AUTH + b"PING\r\n")
                    ready.modify(key.fileobj, selectors.EVENT_READ, key.data)
                else:
                    data = key.fileobj.recv(100)
                    self.assertTrue(data, bytes(key.data))
                    key.data.extend(data)
                    if len(key.data) >= 12:
                        self.assertEqual(bytes(key.data), b"+OK\r\n+PONG\r\n")
                        ready.unregister(key.fileobj)
                        answered += 1
        print(f"{self.COUNT} connections were served within {time.monotonic() - started:.1f} s")

    def test_come_and_go_leak_nothing(self) -> None:
        installation = Installation()
        self.addCleanup(installation.stop)
        proxy, redis = installation.proxy, installation.server.client()

        def cycle() -> None:
            with RawClient(proxy.port, *LOGIN) as connection:
                self.assertEqual(connection.ask(b"PING\r\n"), b"+PONG\r\n")
                self.assertEqual(connection.ask(b"QUIT\r\n"), b"+OK\r\n")
                self.assertEqual(connection.rest(), b"")

        for _ in range(300):
            cycle()
        until(lambda: proxy.descriptors(), "settled")
        descriptors, clients, memory = proxy.descriptors(), len(redis.client_list()), proxy.resident()
        for _ in range(1000):
            cycle()
        until(lambda: proxy.descriptors() <= descriptors, "descriptors are closed")
        until(lambda: len(redis.client_list()) <= clients, "connections to Redis are closed")
        grown = proxy.resident() - memory
        print(f"1000 cycles: resident memory grew by {grown / 1024:.0f} KiB")
        self.assertLess(grown, 2 * MIB)
