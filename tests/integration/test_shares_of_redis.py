"""Redis is at its maxclients, in a real process: what one tenant has does not keep others out."""

from __future__ import annotations

import time
import unittest

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.status import ask, metrics, status_port
from ..support.waiting import until

BLUE = (b"AUTH", Installation.BLUE.encode())
GREEN = (b"AUTH", Installation.GREEN.encode())
BLOCKED = ((b"BLPOP", b"nothing", b"0"),)
SUBSCRIBED = ((b"SUBSCRIBE", b"a"),)
CLIENTS = 40
#: Seconds in which a command succeeds "at once", on a busy machine.
SOON = 3.0


class FullRedisCase(unittest.TestCase):
    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.installation = Installation("--status", "tcp:0", "--hold-seconds", "20", *self.options)
        self.addCleanup(self.installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", self.installation.proxy.log))
        self.port = self.installation.proxy.port
        self.status = status_port(self.installation)
        self.server = self.installation.server.client()
        self.server.config_set("maxclients", str(CLIENTS))

    def connect(self, *login: bytes) -> RawClient:
        return raw_client(self, self.port, *login)

    def ended(self) -> float:
        name = "redisproxy_connections_ended_total"
        return metrics(self.status).get((name, frozenset({("close_reason", "over-redis-share")})), 0.0)

    @property
    def blocked(self) -> int:
        return int(self.server.info("clients")["blocked_clients"])

    def blocked_ids(self) -> set[str]:
        """Which connections are blocked. How many is not enough where one soon follows another."""
        return {each["id"] for each in self.server.client_list() if "b" in each["flags"]}

    @property
    def connected(self) -> int:
        return int(self.server.info("clients")["connected_clients"])

    def has_state(self) -> bool:
        """Whether each of blue's connections is blocked or subscribed, but one for all sessions."""
        of_blue = [each for each in self.server.client_list() if "team-blue" in each["name"]]
        return sum(each["cmd"] in ("blpop", "subscribe") for each in of_blue) >= max(len(of_blue) - 1, CLIENTS / 2)

    def fill(self, *commands: tuple[tuple[bytes, ...], ...]) -> list[RawClient]:
        """Blue takes all connections, and wants more. commands: what its clients send, in turns."""
        commands = commands or (BLOCKED,)
        of_blue = []
        for number in range(CLIENTS + 10):
            connection = self.connect()
            # With dedicated connections, the log-ins of the last ones have to wait, too.
            connection.send(BLUE)
            for command in commands[number % len(commands)]:
                connection.send(command)
            of_blue.append(connection)
        until(lambda: self.connected == CLIENTS, "Redis is full")
        return of_blue

    def check_green(self) -> None:
        """Each kind of connection that green needs is there soon."""
        began = time.monotonic()
        blocked = self.connect(*GREEN)
        blocked.send((b"BLPOP", b"list", b"0"))
        self.assertEqual(self.connect(*GREEN).ask((b"PING",)), b"+PONG\r\n")
        transaction = self.connect(*GREEN)
        for command, reply in (((b"MULTI",), b"+OK\r\n"), ((b"SET", b"k", b"v"), b"+QUEUED\r\n")):
            self.assertEqual(transaction.ask(command), reply)
        self.assertEqual(transaction.ask((b"EXEC",)), b"*1\r\n+OK\r\n")
        subscriber = self.connect(*GREEN)
        self.assertTrue(subscriber.ask((b"SUBSCRIBE", b"a")).startswith(b"*3"))
        self.assertIn(b"psubscribe", subscriber.ask((b"PSUBSCRIBE", b"a*")))
        pusher = self.connect(*GREEN)
        # The order of the two commands is not promised here, only that BLPOP has its connection.
        self.assertIn(pusher.ask((b"RPUSH", b"list", b"item")), (b":1\r\n",))
        self.assertIn(b"item", blocked.reply())
        self.assertIn(b"redis_version", pusher.ask((b"INFO", b"server")))
        self.assertLess(time.monotonic() - began, SOON)


class FullRedisTests(FullRedisCase):
    def test_blocked_sessions_make_room(self) -> None:
        of_blue = self.fill()
        before = self.blocked
        self.assertEqual(self.ended(), 0)
        self.check_green()
        until(lambda: self.ended() >= 1, "it is counted")
        self.assertGreater(self.blocked, before / 2, "blue keeps most of what it has")
        self.installation.proxy.logged(r"team-blue/.* over-redis-share after")
        self.installation.proxy.logged(r"team-blue has most connections")
        # The way back: when blue has left, nobody is limited.
        for connection in of_blue:
            connection.close()
        until(lambda: self.connected < CLIENTS / 2, "they are closed")
        ended = self.ended()
        again = [self.connect(*BLUE) for _ in range(CLIENTS // 4)]
        for connection in again:
            connection.send((b"BLPOP", b"nothing", b"0"))
        until(lambda: self.blocked >= len(again), "all are blocked")
        self.assertEqual(self.ended(), ended)

    def test_subscribers_make_room(self) -> None:
        self.fill(SUBSCRIBED)
        self.check_green()
        until(lambda: self.ended() >= 1, "it is counted")

    def test_transactions_make_room(self) -> None:
        self.fill(((b"MULTI",), (b"GET", b"a")), ((b"WATCH", b"a"),))
        self.check_green()
        until(lambda: self.ended() >= 1, "it is counted")

    def test_one_with_state_ends_before_a_blocked_one(self) -> None:
        self.fill(BLOCKED, SUBSCRIBED)
        until(self.has_state, "Redis has run all commands")
        before = self.blocked
        self.check_green()
        self.assertEqual(self.blocked, before)

    def test_one_tenant_alone(self) -> None:
        """Nobody has less, so nobody gives way: it waits as without shares."""
        of_blue = self.fill()
        time.sleep(1.0)
        self.assertEqual(self.ended(), 0)
        self.server.config_set("maxclients", "1000")
        until(lambda: self.blocked == len(of_blue), "all are served")

    def test_a_place_that_is_free_again_is_taken(self) -> None:
        """By one that waits, though nobody has to make room for it."""
        of_blue = self.fill()
        until(self.has_state, "Redis has run all commands")
        self.installation.proxy.logged("max number of clients reached")
        began = time.monotonic()
        for _ in range(3):
            before = self.blocked_ids()
            of_blue.pop(0).close()
            until(lambda before=before: len(before & self.blocked_ids()) == len(before) - 1, "it has left")
            until(lambda before=before: len(self.blocked_ids()) == len(before), "another one has its place")
        self.assertLess(time.monotonic() - began, 3 * SOON)
        self.assertEqual(self.ended(), 0)

    def test_the_control_connection_comes_back(self) -> None:
        self.fill()
        for client in self.server.client_list():
            if client["name"] == "redisproxy-control":
                self.server.client_kill_filter(_id=client["id"])
        until(lambda: any(each["name"] == "redisproxy-control" for each in self.server.client_list()), "it is there again")
        self.check_green()

    def test_the_fault_lasts_while_room_is_made(self) -> None:
        """It is not over, and does not begin again, each time that a tenant gets a connection."""

        def logged() -> list[str]:
            lines = self.installation.proxy.lines
            return [line for line in lines if "no connection to Redis" in line or "can be used again" in line]

        self.fill(BLOCKED)
        until(self.has_state, "Redis has run all commands")
        until(lambda: any("no connection to Redis" in line for line in logged()[-1:]), "Redis is known to be full")
        before = logged()
        for _ in range(5):
            subscriber = self.connect(*GREEN)
            self.assertTrue(subscriber.ask((b"SUBSCRIBE", b"a")).startswith(b"*3"))
        until(lambda: self.ended() >= 5, "room was made")
        self.assertEqual(logged(), before)
        self.assertEqual(ask(self.status, "/readyz")[0], 200, "a tenant without a connection would get one")

    def test_redis_comes_back_and_takes_less(self) -> None:
        """Clients of both have waited meanwhile, many more of blue."""
        self.server.close()
        self.installation.server.kill()
        self.installation.proxy.logged("no connection to Redis")
        for _ in range(4 * CLIENTS):
            client = self.connect()
            client.send(BLUE)
            client.send(BLOCKED[0])
        green = [self.connect() for _ in range(5)]
        for client in green:
            client.send(GREEN)
            client.send(BLOCKED[0])
        self.installation.server.change(f"maxclients {CLIENTS}")
        self.installation.server.start()
        pusher = self.connect()
        pusher.send(GREEN)
        self.assertEqual(pusher.reply(), b"+OK\r\n")
        self.installation.proxy.logged("max number of clients reached")
        for _ in green:
            pusher.send((b"RPUSH", b"nothing", b"item"))
        for client in green:
            self.assertEqual(client.reply(), b"+OK\r\n")
            self.assertIn(b"item", client.reply())


class DedicatedTests(FullRedisCase):
    options = ("--connections", "dedicated")

    def test_idle_sessions_make_room(self) -> None:
        self.fill(())
        self.check_green()
        until(lambda: self.ended() >= 1, "it is counted")


class SeveralProcessesTests(FullRedisCase):
    options = ("--processes", "2")

    def test_each_process_decides_about_its_own(self) -> None:
        self.fill()
        self.check_green()
        until(lambda: self.ended() >= 1, "it is counted")
