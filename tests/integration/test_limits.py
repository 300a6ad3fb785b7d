"""Tests limits of capacity and time: each is reached in a real process."""

from __future__ import annotations

import signal
import time
import unittest

import redis

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.waiting import LIMIT, until

AUTH = b"AUTH blue-password\r\n"


class Limited(unittest.TestCase):
    def start(self, *options: str) -> Installation:
        installation = Installation(*options)
        self.addCleanup(installation.stop)
        self.port = installation.proxy.port
        return installation

    def connect(self, **options: object) -> RawClient:
        return raw_client(self, self.port, **options)

    def upstreams(self, installation: Installation) -> list[dict]:
        """Returns Redis's clients except this one and the proxy's control connections."""
        clients = installation.server.client(client_name="asks").client_list()
        return [c for c in clients if c["name"] not in ("asks", "redisproxy-control", "redisproxy-queries")]

    def assertSilent(self, connection: RawClient) -> None:
        """Nothing has arrived, although another connection, which asked later, was answered."""
        self.assertTrue(connection.is_silent())


class CapacityTests(Limited):
    def test_the_next_wait_in_order_and_the_others_are_told(self) -> None:
        self.start("--max-workers", "2", "--work-queue-size", "2")
        served = [self.connect() for _ in range(2)]
        for connection in served:
            self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
        waiting = []
        for _ in range(2):
            waiting.append(self.connect())
            waiting[-1].send(AUTH + b"PING\r\n")
        refused = self.connect()
        self.assertEqual(refused.ask(AUTH), b"-ERR max number of clients reached\r\n")
        self.assertEqual(refused.some(), b"")
        self.assertEqual(served[0].ask(b"PING\r\n"), b"+PONG\r\n")
        for connection in waiting:
            self.assertSilent(connection)
        served[1].close()
        self.assertEqual(waiting[0].exactly(12), b"+OK\r\n+PONG\r\n")
        self.assertSilent(waiting[1])
        waiting[0].close()
        self.assertEqual(waiting[1].exactly(12), b"+OK\r\n+PONG\r\n")

    def test_one_that_waits_and_leaves_makes_room(self) -> None:
        self.start("--max-workers", "1", "--work-queue-size", "1")
        first = self.connect()
        self.assertEqual(first.ask(AUTH), b"+OK\r\n")
        left = self.connect()
        left.send(AUTH)
        left.close()

        def room() -> RawClient | None:
            """Returns a connection that waits in the queue, or None: the proxy refuses new ones
            until it notices that the other one left.
            """
            connection = self.connect()
            connection.send(AUTH)
            # The second PING was sent after the proxy had seen the log-in.
            for _ in range(2):
                self.assertEqual(first.ask(b"PING\r\n"), b"+PONG\r\n")
            return connection if connection.is_silent() else None

        waiting = until(room, "the place of the one that left is free")
        first.close()
        self.assertEqual(waiting.reply(), b"+OK\r\n")

    def test_one_that_waits_does_not_fill_our_memory(self) -> None:
        installation = self.start("--max-workers", "1", "--work-queue-size", "1")
        first = self.connect()
        self.assertEqual(first.ask(AUTH), b"+OK\r\n")
        waiting = self.connect()
        waiting.send(AUTH)
        waiting.socket.settimeout(0.5)
        installation.proxy.reset_peak()
        before = installation.proxy.resident()
        try:
            for _ in range(1024):
                waiting.send(b"x" * 65536)
        except TimeoutError:
            pass
        self.assertLess(installation.proxy.peak() - before, 2 << 20)


class LoginTimeoutTests(Limited):
    def test_told_and_closed(self) -> None:
        self.start("--login-timeout", "5")
        idle = self.connect()
        self.assertEqual(idle.reply(), b"-ERR no log-in within 5 seconds\r\n")
        self.assertEqual(idle.some(), b"")

    def test_not_once_logged_in(self) -> None:
        self.start("--login-timeout", "5")
        connection = self.connect()
        self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
        idle = self.connect()
        self.assertIn(b"no log-in", idle.reply())
        self.assertEqual(connection.ask(b"PING\r\n"), b"+PONG\r\n")


class ConnectionsTests(Limited):
    def test_base_upstream_connections_are_opened_at_start_and_kept(self) -> None:
        installation = self.start("--connections", "dedicated", "--base-workers", "4", "--worker-idle-timeout", "1")
        until(lambda: len(self.upstreams(installation)) == 4, "four upstream connections are open")
        clients = [installation.blue() for _ in range(8)]
        pings = [client.client() for client in clients]
        for connection in pings:
            connection.ping()
        self.assertEqual(len(self.upstreams(installation)), 8)
        for connection, client in zip(pings, clients, strict=True):
            connection.close()
            client.close()
        until(lambda: len(self.upstreams(installation)) == 4, "the idle ones beyond the base are closed")

    def test_base_upstream_connections_that_die_are_opened_again(self) -> None:
        installation = self.start("--base-workers", "3")
        until(lambda: len(self.upstreams(installation)) == 3, "three upstream connections are open")
        ids = {upstream["id"] for upstream in self.upstreams(installation)}
        for number in ids:
            installation.server.client().client_kill_filter(_id=number)
        until(lambda: len({upstream["id"] for upstream in self.upstreams(installation)} - ids) == 3, "three others are open")

    def test_an_upstream_connection_is_used_again_by_its_own_tenant_only(self) -> None:
        installation = self.start("--base-workers", "0")
        seen = []
        for _ in range(3):
            connection = self.connect()
            self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
            self.assertEqual(connection.ask(b"GET x\r\n"), b"$-1\r\n")
            seen.append({upstream["id"] for upstream in self.upstreams(installation)})
            self.assertEqual(connection.ask(b"QUIT\r\n"), b"+OK\r\n")
            connection.close()
        self.assertEqual(seen, [seen[0]] * 3)
        other = self.connect()
        self.assertEqual(other.ask(b"AUTH green-password\r\n"), b"+OK\r\n")
        self.assertEqual(len(self.upstreams(installation)), 2)

    def test_an_upstream_connection_with_state_on_it_is_not_used_again(self) -> None:
        for state in (b"MULTI\r\n", b"WATCH x\r\n", b"HELLO 3\r\n", b"SUBSCRIBE x\r\n", b"BLPOP x 0\r\n"):
            installation = self.start("--connections", "dedicated", "--base-workers", "0")
            connection = self.connect()
            self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
            connection.send(state)
            if b"BLPOP" not in state:
                connection.reply()
            connection.close()
            until(lambda i=installation: not self.upstreams(i), f"the upstream connection of {state!r} is closed")
            installation.stop()


class LeavingTests(Limited):
    """Clients that leave at odd moments leave nothing behind."""

    def test_a_client_that_leaves_while_it_waits_is_noticed(self) -> None:
        installation = self.start("--base-workers", "0", "--worker-idle-timeout", "1")
        for last in (b"RESET\r\n", b"AUTH green-password\r\n", b"CONFIG SET x y\r\n" * 8000):
            for _ in range(5):
                connection = self.connect()
                self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
                connection.send(b"BLPOP queue 0\r\n" + last)
                connection.close()
        until(lambda: not self.upstreams(installation), "the upstream connections of all that left are closed")
        straight = installation.server.client(3)
        straight.rpush("queue", "item")
        self.assertEqual(straight.llen("queue"), 1)

    def test_shutdown_does_not_wait_for_one_that_waits_for_a_place(self) -> None:
        installation = self.start("--max-workers", "1", "--login-timeout", "60")
        served, waiting = self.connect(), self.connect()
        self.assertEqual(served.ask(AUTH), b"+OK\r\n")
        waiting.send(AUTH)
        installation.proxy.process.send_signal(signal.SIGTERM)
        self.assertEqual(installation.proxy.process.wait(LIMIT), 0)

    def test_a_slow_reader_gets_what_is_pending(self) -> None:
        installation = self.start()
        size = 6 << 20
        installation.server.client(3).set("big", b"x" * size)
        connection = self.connect(receive_buffer=16384)
        self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
        connection.send(b"GET big\r\nQUIT\r\n")
        got, started = 0, time.monotonic()
        tail = b""
        while data := connection.some():
            got += len(data)
            tail = (tail + data)[-5:]
            # At most 1.5 MB a second: longer than a closing client may stay without progress.
            time.sleep(max(0.0, got / 1_500_000 - (time.monotonic() - started)))
        self.assertEqual((got, tail), (size + len(b"$6291456\r\n\r\n+OK\r\n"), b"+OK\r\n"))

    def test_after_a_reset_there_is_a_time_for_the_login_again(self) -> None:
        self.start("--login-timeout", "5")
        connection = self.connect()
        self.assertEqual(connection.ask(AUTH), b"+OK\r\n")
        self.assertEqual(connection.ask(b"RESET\r\n"), b"+RESET\r\n")
        self.assertEqual(connection.reply(), b"-ERR no log-in within 5 seconds\r\n")
        self.assertEqual(connection.some(), b"")


class GuessingTests(Limited):
    def test_wrong_passwords_are_answered_later_and_later_and_then_no_more(self) -> None:
        installation = self.start()
        connection = self.connect()
        started = time.monotonic()
        connection.send(b"AUTH wrong\r\nRESET\r\n" * 8)
        answers = b""
        while answers.count(b"-WRONGPASS") < 8:
            answers += connection.reply()
        self.assertGreater(time.monotonic() - started, 0.5)
        # Clients with the right password are not slowed down. A wrong password would be delayed, by
        # 0.8 s or more each.
        took = []
        for _ in range(10):
            started = time.monotonic()
            self.assertEqual(self.connect().ask(AUTH), b"+OK\r\n")
            took.append(time.monotonic() - started)
        self.assertLess(min(took), 0.5)
        self.assertNotIn("Traceback", installation.proxy.log)


class ControlQueriesTests(Limited):
    """A tenant decides how large Redis's answer about channels is."""

    def test_of_more_channels_than_are_told(self) -> None:
        installation = self.start()
        blue, green = installation.blue(), installation.green()
        for number in range(4):
            pubsub = blue.pubsub()
            self.addCleanup(pubsub.close)
            names = [f"{number}:{channel:028}" for channel in range(9_900)]
            pubsub.subscribe(*names)
            for _ in names:
                pubsub.get_message(timeout=20)
        with self.assertRaisesRegex(redis.ResponseError, "more than 1048576 bytes: ask for fewer channels"):
            blue.pubsub_channels()
        self.assertEqual(len(blue.pubsub_channels("1:*0")), 990)
        self.assertEqual(blue.pubsub_numsub(f"1:{7:028}"), [(f"1:{7:028}".encode(), 1)])
        self.assertEqual(green.pubsub_channels(), [])
        self.assertEqual(green.info("clients")["connected_clients"], 1)
        # The control connection broke: the next query opens another.
        for upstream in self.upstreams(installation):
            if upstream["user"] == "default":
                installation.server.client(client_name="asks").client_kill_filter(_id=upstream["id"])
        self.assertEqual(green.info("clients")["connected_clients"], 1)
