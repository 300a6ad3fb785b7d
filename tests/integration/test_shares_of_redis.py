"""Redis is at its maxclients, in a real process: what one tenant has does not keep others out."""

from __future__ import annotations

import time
import unittest

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.status import metrics, status_port
from ..support.waiting import until

BLUE = (b"AUTH", Installation.BLUE.encode())
GREEN = (b"AUTH", Installation.GREEN.encode())
CLIENTS = 40
#: Seconds in which a command succeeds "at once", on a busy machine.
SOON = 3.0


class FullRedisCase(unittest.TestCase):
    processes = 1

    def setUp(self) -> None:
        self.installation = Installation("--processes", str(self.processes), "--status", "tcp:0", "--hold-seconds", "20")
        self.addCleanup(self.installation.stop)
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

    @property
    def connected(self) -> int:
        return int(self.server.info("clients")["connected_clients"])

    def fill(self, commands: tuple[tuple[bytes, ...], ...] = ((b"BLPOP", b"nothing", b"0"),)) -> list[RawClient]:
        """Blue takes all connections, and wants more."""
        of_blue = []
        for number in range(CLIENTS + 10):
            connection = self.connect(*BLUE)
            connection.send(commands[number % len(commands)])
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
        self.fill(((b"SUBSCRIBE", b"a"),))
        self.check_green()
        until(lambda: self.ended() >= 1, "it is counted")

    def test_one_with_state_ends_before_a_blocked_one(self) -> None:
        self.fill(((b"BLPOP", b"nothing", b"0"), (b"SUBSCRIBE", b"a")))
        before = self.blocked
        self.check_green()
        self.assertEqual(self.blocked, before)

    def test_one_tenant_alone(self) -> None:
        """Nobody has less, so nobody gives way: it waits as without shares."""
        of_blue = self.fill()
        time.sleep(1.0)
        self.assertEqual(self.ended(), 0)
        self.assertTrue(of_blue[-1].is_silent())
        self.server.config_set("maxclients", "1000")
        until(lambda: self.blocked == len(of_blue), "all are served")

    def test_the_control_connection_comes_back(self) -> None:
        self.fill()
        for client in self.server.client_list():
            if client["name"] == "redisproxy-control":
                self.server.client_kill_filter(_id=client["id"])
        until(lambda: any(each["name"] == "redisproxy-control" for each in self.server.client_list()), "it is there again")
        self.check_green()


class SeveralProcessesTests(FullRedisCase):
    processes = 2

    def test_each_process_decides_about_its_own(self) -> None:
        self.fill()
        self.check_green()
        until(lambda: self.ended() >= 1, "it is counted")
