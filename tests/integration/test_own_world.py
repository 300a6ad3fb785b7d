"""What a tenant sees of the server through a real proxy: the errors to what is not there, INFO, and refused subscriptions."""

from __future__ import annotations

import socket
import threading
import unittest
from collections.abc import Callable

import redis

from redisproxy.core.resp import encode

from ..support.proxy import LANES, Installation
from ..support.servers import RedisServer, on_every_server
from ..support.waiting import LIMIT, until

#: Commands and subcommands that no server has.
UNKNOWN = (
    [b"NOSUCH"],
    [b"NoSuch", b"a", b"b c", b"'quoted'"],
    [b"nosuch", b"x" * 100, b"y" * 100, b"z"],
    [b"NOSUCH", *[b"word"] * 60],
    [b"NOSUCH", b"x" * 128, b"y"],
    [b"NOSUCH", b"x" * 70000],
    [b"N" * 128, b"a"],
    [b"FT.SEARCH", b"index", b"*"],
    [b"no\r\nsuch", b"a\r\n+OK\r\n"],
    [b"NOSUCH", b"a\0b", b""],
    [b"CLIENT", b"NOSUCH"],
    [b"client", b"Maint_Notifications", b"ON"],
    [b"PUBSUB", b"NOSUCH", b"a"],
    [b"CONFIG", b"nosuch"],
    [b"ACL", b"NOSUCH", b"a"],
    [b"MEMORY", b"NOSUCH"],
    [b"SCRIPT", b"x\r\ny"],
    [b"OBJECT", b"NOSUCH", b"a"],
)


class Line:
    """A connection that says one command and hears one line."""

    def __init__(self, port: int, password: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self._file = self._socket.makefile("rb")
        assert self.ask([b"AUTH", password.encode()]) == b"+OK\r\n"

    def ask(self, words: list[bytes]) -> bytes:
        self._socket.sendall(encode(words))
        return self._file.readline()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@on_every_server
class OwnWorldTests(unittest.TestCase):
    def installation(self, binary: Callable[[], str], *settings: str) -> Installation:
        installation = Installation(server=RedisServer(binary, *settings))
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        return installation

    def each_errors_are_this_servers_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        through = Line(installation.proxy.port, Installation.BLUE)
        straight = Line(installation.server.port, installation.server.password)
        self.addCleanup(straight.close)
        self.addCleanup(through.close)
        for words in UNKNOWN:
            expected = straight.ask(words)
            self.assertRegex(expected, rb"^-ERR [Uu]nknown ")
            self.assertEqual(through.ask(words), expected, words)
        installation.proxy.logged(r"refused unknown to team-blue/")
        self.assertNotIn("Maint_Notifications".lower(), installation.proxy.log.lower())

    def each_subscriptions_that_redis_refuses(self, binary: Callable[[], str]) -> None:
        """A script keeps Redis busy: all that it refuses meanwhile is forgotten, and works later."""
        # Redis names it so from 7 on, and keeps the old name.
        installation = self.installation(binary, "lua-time-limit 10")
        client = installation.blue(protocol=2)
        self.addCleanup(client.close)
        master = installation.server.client(3)
        kinds = [b"", b"P"] + [b"S"] * (b"ssubscribe" in map(_bytes, master.command()))
        lines = [Line(installation.proxy.port, Installation.BLUE) for _ in kinds]
        for line, kind in zip(lines, kinds, strict=True):
            self.addCleanup(line.close)
            if kind == b"P":  # it would have Redis told of the pattern, which a busy one does not take
                self.assertEqual(line.ask([b"PSUBSCRIBE", b"news"]), b"*3\r\n")
                for _ in range(5):
                    line._file.readline()
                self.assertEqual(line.ask([b"PUNSUBSCRIBE"]), b"*3\r\n")
                for _ in range(5):
                    line._file.readline()
            self.assertEqual(line.ask([b"WATCH", b"a"]), b"+OK\r\n")  # a busy Redis lets nobody log in
        script = "while redis.call('GET', KEYS[1]) ~= 'x' do end"
        running = threading.Thread(target=lambda: self.assertRaises(redis.ResponseError, master.eval, script, 1, "stop"))
        running.start()
        try:
            until(
                lambda: Line(installation.server.port, installation.server.password).ask([b"PING"]).startswith(b"-BUSY"),
                "busy",
            )
            for line, kind in zip(lines, kinds, strict=True):
                self.assertTrue(line.ask([kind + b"SUBSCRIBE", b"news"]).startswith(b"-BUSY"), kind)
        finally:
            killer = installation.server.client()
            until(lambda: _killed(killer), "the script is killed")
            running.join()
        for line in lines:
            self.assertEqual(line.ask([b"UNWATCH"]), b"+OK\r\n")
            self.assertRegex(line.ask([b"CLIENT", b"INFO"])[:1], rb"\$")
            self.assertRegex(line._file.readline(), rb" sub=0 psub=0 ssub=0 ")
            self.assertEqual(line._file.readline(), b"\r\n")
        counted = client.info("stats")
        self.assertEqual((counted["pubsub_channels"], counted["pubsub_patterns"]), (0, 0))
        # Home again: what the sessions had to themselves is closed.
        for line in lines:
            self.assertEqual(line.ask([b"PING"]), b"+PONG\r\n")
        if LANES != "dedicated":  # there each session has its own for good
            until(lambda: installation.server.client().info("clients")["connected_clients"] <= 6, "no lane is kept")

    def each_info_has_own_numbers(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        blue, green = installation.blue(protocol=2), installation.green(protocol=2)
        self.addCleanup(blue.close)
        self.addCleanup(green.close)
        before = blue.info()
        with blue.pubsub() as subscriber, green.pubsub() as other:
            for each, count in ((subscriber, 2), (other, 3)):
                each.subscribe(*map(str, range(count)))
                each.psubscribe("x*")
                for _ in range(count + 1):
                    self.assertIsNotNone(each.get_message(timeout=LIMIT))
            waits = threading.Thread(target=lambda: blue.blpop("queue", 20))
            waits.start()
            until(lambda: blue.info("clients")["blocked_clients"] == 1, "one is blocked")
            info = blue.info("everything")
            self.assertEqual(green.info("clients")["blocked_clients"], 0)
            blue.rpush("queue", "x")
            waits.join()
        self.assertEqual(info["connected_clients"], 3)
        self.assertEqual(info["total_connections_received"], before["total_connections_received"] + 2)
        self.assertGreater(info["total_commands_processed"], before["total_commands_processed"] + 4)
        self.assertGreater(info["total_net_input_bytes"], before["total_net_input_bytes"])
        self.assertGreater(info["total_net_output_bytes"], before["total_net_output_bytes"])
        self.assertEqual((info["pubsub_channels"], info["pubsub_patterns"]), (2, 1))
        self.assertEqual(info["role"], "master")
        self.assertNotIn("db5", info)
        self.assertEqual(blue.info("clients")["blocked_clients"], 0)
        if int(before["redis_version"].split(".")[0]) >= 7:
            self.assertEqual(set(blue.info("server", "clients")) - set(blue.info("clients")), set(blue.info("server")))


def _bytes(name: str | bytes) -> bytes:
    return name.lower() if isinstance(name, bytes) else name.lower().encode()


def _killed(client: redis.Redis) -> bool:
    try:
        client.script_kill()
    except redis.ResponseError as error:
        return "NOTBUSY" in str(error)
    return False
