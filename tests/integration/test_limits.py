"""Capacity and time limits, each tripped for real."""

from __future__ import annotations

import socket
import unittest

from ..support.proxy import Installation
from ..support.waiting import until

AUTH = b"AUTH blue-password\r\n"


class Limited(unittest.TestCase):
    def start(self, *options: str) -> Installation:
        installation = Installation(*options)
        self.addCleanup(installation.stop)
        self.port = installation.proxy.port
        return installation

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.addCleanup(connection.close)
        return connection

    def ask(self, connection: socket.socket, data: bytes) -> bytes:
        connection.sendall(data)
        return connection.recv(1000)

    def assertSilent(self, connection: socket.socket) -> None:
        """Nothing has come: by then another connection was answered that was asked later."""
        connection.setblocking(False)
        self.assertRaises(BlockingIOError, connection.recv, 1)
        connection.settimeout(20)


class CapacityTests(Limited):
    def test_the_next_wait_in_order_and_the_others_are_told(self) -> None:
        self.start("--max-workers", "2", "--work-queue-size", "2")
        served = [self.connect() for _ in range(2)]
        for connection in served:
            self.assertEqual(self.ask(connection, AUTH), b"+OK\r\n")
        waiting = []
        for _ in range(2):
            waiting.append(self.connect())
            waiting[-1].sendall(AUTH + b"PING\r\n")
        refused = self.connect()
        self.assertEqual(self.ask(refused, AUTH), b"-ERR max number of clients reached\r\n")
        self.assertEqual(refused.recv(1), b"")
        self.assertEqual(self.ask(served[0], b"PING\r\n"), b"+PONG\r\n")
        for connection in waiting:
            self.assertSilent(connection)
        served[1].close()
        self.assertEqual(self.read(waiting[0], 12), b"+OK\r\n+PONG\r\n")
        self.assertSilent(waiting[1])
        waiting[0].close()
        self.assertEqual(self.read(waiting[1], 12), b"+OK\r\n+PONG\r\n")

    def test_one_that_waits_and_leaves_makes_room(self) -> None:
        self.start("--max-workers", "1", "--work-queue-size", "1")
        first = self.connect()
        self.assertEqual(self.ask(first, AUTH), b"+OK\r\n")
        self.connect().close()

        def room() -> socket.socket | None:
            """Turned away as long as the proxy has not noticed."""
            connection = self.connect()
            connection.settimeout(0.2)
            try:
                return None if connection.recv(1) else connection
            except TimeoutError:
                connection.settimeout(20)
                return connection

        waiting = until(room, "the place of the one that left is free")
        first.close()
        self.assertEqual(self.ask(waiting, AUTH), b"+OK\r\n")

    def test_one_that_waits_does_not_fill_our_memory(self) -> None:
        installation = self.start("--max-workers", "1", "--work-queue-size", "1")
        first = self.connect()
        self.assertEqual(self.ask(first, AUTH), b"+OK\r\n")
        waiting = self.connect()
        waiting.settimeout(0.5)
        installation.proxy.reset_peak()
        before = installation.proxy.resident()
        try:
            for _ in range(1024):
                waiting.sendall(b"x" * 65536)
        except TimeoutError:
            pass
        self.assertLess(installation.proxy.peak() - before, 2 << 20)

    def read(self, connection: socket.socket, count: int) -> bytes:
        got = b""
        while len(got) < count and (data := connection.recv(count - len(got))):
            got += data
        return got


class LoginTimeoutTests(Limited):
    def test_told_and_closed(self) -> None:
        self.start("--login-timeout", "1")
        idle = self.connect()
        self.assertEqual(idle.recv(1000), b"-ERR no log-in within 1 seconds\r\n")
        self.assertEqual(idle.recv(1), b"")

    def test_not_once_logged_in(self) -> None:
        self.start("--login-timeout", "1")
        connection = self.connect()
        self.assertEqual(self.ask(connection, AUTH), b"+OK\r\n")
        idle = self.connect()
        self.assertIn(b"no log-in", idle.recv(1000))
        self.assertEqual(self.ask(connection, b"PING\r\n"), b"+PONG\r\n")


class LanesTests(Limited):
    def lanes(self, installation: Installation) -> list[dict]:
        """Redis's clients but the one that asks and the control connection."""
        clients = installation.server.client().client_list()
        return [c for c in clients if c["cmd"] not in ("client|list", "config|get", "client")]

    def test_base_lanes_are_opened_at_start_and_kept(self) -> None:
        installation = self.start("--base-workers", "4", "--worker-idle-timeout", "1")
        until(lambda: len(self.lanes(installation)) == 4, "four lanes are open")
        clients = [installation.blue() for _ in range(8)]
        pings = [client.client() for client in clients]
        for connection in pings:
            connection.ping()
        self.assertEqual(len(self.lanes(installation)), 8)
        for connection, client in zip(pings, clients, strict=True):
            connection.close()
            client.close()
        until(lambda: len(self.lanes(installation)) == 4, "the idle ones beyond the base are closed")

    def test_base_lanes_that_die_are_opened_again(self) -> None:
        installation = self.start("--base-workers", "3")
        until(lambda: len(self.lanes(installation)) == 3, "three lanes are open")
        ids = {lane["id"] for lane in self.lanes(installation)}
        for number in ids:
            installation.server.client().client_kill_filter(_id=number)
        until(lambda: len({lane["id"] for lane in self.lanes(installation)} - ids) == 3, "three others are open")

    def test_a_lane_is_used_again_by_its_own_tenant_only(self) -> None:
        installation = self.start("--base-workers", "0")
        seen = []
        for _ in range(3):
            connection = self.connect()
            self.assertEqual(self.ask(connection, AUTH), b"+OK\r\n")
            self.assertEqual(self.ask(connection, b"GET x\r\n"), b"$-1\r\n")
            seen.append({lane["id"] for lane in self.lanes(installation)})
            self.assertEqual(self.ask(connection, b"QUIT\r\n"), b"+OK\r\n")
            connection.close()
        self.assertEqual(seen, [seen[0]] * 3)
        other = self.connect()
        self.assertEqual(self.ask(other, b"AUTH green-password\r\n"), b"+OK\r\n")
        self.assertEqual(len(self.lanes(installation)), 2)

    def test_a_lane_with_state_on_it_is_not_used_again(self) -> None:
        for state in (b"MULTI\r\n", b"WATCH x\r\n", b"HELLO 3\r\n", b"SUBSCRIBE x\r\n", b"BLPOP x 0\r\n"):
            installation = self.start("--base-workers", "0")
            connection = self.connect()
            self.assertEqual(self.ask(connection, AUTH), b"+OK\r\n")
            connection.sendall(state)
            if b"BLPOP" not in state:
                connection.recv(1000)
            connection.close()
            until(lambda i=installation: not self.lanes(i), f"the lane of {state!r} is closed")
            installation.stop()
