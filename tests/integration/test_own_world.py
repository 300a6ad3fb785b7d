"""Tests what a tenant sees of the server through a real proxy: errors for unknown commands, INFO,
CONFIG GET, and refused subscriptions.
"""

from __future__ import annotations

import re
import threading
import unittest
from collections.abc import Callable

import redis

from redisproxy.policy import server_config

from ..support.proxy import CONNECTIONS, Installation, master
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server
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


#: CONFIG commands with the server's own answers: none matches a parameter that tenants may not see.
CONFIG = (
    *([b"CONFIG", b"GET", name] for name in server_config.NAMES),
    [b"config", b"get", b"MaxMemory"],
    [b"CONFIG", b"GET", b"save", b"maxmemory-policy"],
    [b"CONFIG", b"GET", b"SAVE", b"save"],
    [b"CONFIG", b"GET", b"[c-e]ata*s"],
    [b"CONFIG", b"GET", b"maxmemory-p*", b"appendonl?", b"maxmemory-policy"],
    [b"CONFIG", b"GET", b"nosuch"],
    [b"CONFIG", b"GET", b"nosuch*"],
    [b"CONFIG", b"GET", b""],
    [b"CONFIG", b"GET"],
    [b"CONFIG"],
    [b"CONFIG", b"NOSUCH"],
)
#: With this many codes Redis's report of them has more than 1 MiB. Redis 8 and Valkey stop counting
#: at 128.
ERROR_CODES = 50_000
#: A script that returns many error codes which no reply had before.
ERRORS = """
    local errors = {}
    for n = 1, 1000 do errors[n] = redis.error_reply('X' .. ARGV[1] .. 'Y' .. n .. ' x') end
    return errors
"""


class Hosted(Installation):
    """An installation whose master user is not the default user."""

    def documents(self) -> list[dict]:
        url = self.server.url.replace("redis://:", "redis://operator:")
        return [master(url), *super().documents()[1:]]


@on_every_server
class OwnWorldTests(unittest.TestCase):
    def installation(self, binary: Callable[[], str], *settings: str, options: tuple[str, ...] = ()) -> Installation:
        installation = Installation(*options, server=RedisServer(binary, *settings))
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        return installation

    def through(self, installation: Installation) -> RawClient:
        return raw_client(self, installation.proxy.port, b"AUTH", Installation.BLUE.encode())

    def straight(self, installation: Installation) -> RawClient:
        return raw_client(self, installation.server.port, b"AUTH", installation.server.password.encode())

    def is_busy(self, installation: Installation) -> bool:
        with self.straight(installation) as client:
            return client.ask([b"PING"]).startswith(b"-BUSY")

    def each_errors_are_this_servers_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        through = self.through(installation)
        straight = self.straight(installation)
        for words in UNKNOWN:
            expected = straight.ask(words)
            self.assertRegex(expected, rb"^-ERR [Uu]nknown ")
            self.assertEqual(through.ask(words), expected, words)
        installation.proxy.logged(r"refused unknown to team-blue/")
        self.assertNotIn("Maint_Notifications".lower(), installation.proxy.log.lower())

    def each_client_info_has_all_fields(self, binary: Callable[[], str]) -> None:
        """Libraries ask for them."""
        installation = self.installation(binary)
        straight, through = self.straight(installation), self.through(installation)
        wanted, found = (
            re.findall(rb"([a-z0-9-]+)=", line.ask(words).split(b"\n")[1])
            for line, words in ((straight, [b"CLIENT", b"LIST"]), (through, [b"CLIENT", b"INFO"]))
        )
        # Newer ones: what the connection transferred, which nobody parses.
        self.assertEqual(
            set(wanted) - set(found) - {b"io-thread", b"tot-net-in", b"tot-net-out", b"tot-cmds", b"capa"}, set()
        )

    def each_subscriptions_that_redis_refuses(self, binary: Callable[[], str]) -> None:
        """While a script keeps Redis busy, the proxy forgets the subscriptions that Redis refuses.
        They work later.
        """
        # Redis renamed this setting in 7, and still takes the old name.
        installation = self.installation(binary, "lua-time-limit 10", options=("--worker-idle-timeout", "1"))
        client = installation.blue(protocol=2)
        self.addCleanup(client.close)
        master = installation.server.client(3)
        kinds = [b"", b"P"] + [b"S"] * (b"ssubscribe" in map(_bytes, master.command()))
        lines = [self.through(installation) for _ in kinds]
        for line, kind in zip(lines, kinds, strict=True):
            # The proxy would first allow the pattern at Redis, and a busy Redis refuses that.
            if kind == b"P":
                confirmed = b"*3\r\n$%d\r\n%b\r\n$4\r\nnews\r\n:%d\r\n"
                self.assertEqual(line.ask([b"PSUBSCRIBE", b"news"]), confirmed % (10, b"psubscribe", 1))
                self.assertEqual(line.ask([b"PUNSUBSCRIBE"]), confirmed % (12, b"punsubscribe", 0))
            # A busy Redis refuses log-ins.
            self.assertEqual(line.ask([b"WATCH", b"a"]), b"+OK\r\n")
        script = "while redis.call('GET', KEYS[1]) ~= 'x' do end"
        running = threading.Thread(target=lambda: self.assertRaises(redis.ResponseError, master.eval, script, 1, "stop"))
        running.start()
        try:
            until(lambda: self.is_busy(installation), "Redis is busy")
            for line, kind in zip(lines, kinds, strict=True):
                self.assertTrue(line.ask([kind + b"SUBSCRIBE", b"news"]).startswith(b"-BUSY"), kind)
        finally:
            killer = installation.server.client()
            until(lambda: _killed(killer), "the script is killed")
            running.join()
        for line in lines:
            self.assertEqual(line.ask([b"UNWATCH"]), b"+OK\r\n")
            self.assertRegex(line.ask([b"CLIENT", b"INFO"]), rb"^\$\d+\r\n.* sub=0 psub=0 ssub=0 ")
        counted = client.info("stats")
        self.assertEqual((counted["pubsub_channels"], counted["pubsub_patterns"]), (0, 0))
        # The sessions are back on multiplexed connections, and their dedicated ones are closed.
        for line in lines:
            self.assertEqual(line.ask([b"PING"]), b"+PONG\r\n")
        if CONNECTIONS != "dedicated":  # there each session keeps its own connection
            until(
                lambda: installation.server.client().info("clients")["connected_clients"] <= 6,
                "no upstream connection is kept",
            )

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

    def each_info_whatever_scripts_did(self, binary: Callable[[], str]) -> None:
        """One tenant's scripts make thousands of error codes, and Redis counts each of them: INFO
        still works for others.
        """
        # On Redis 6.2 the operator has to allow scripts.
        installation = self.installation(binary, options=("--allow-commands", "EVAL"))
        blue, green = installation.blue(protocol=2), installation.green(protocol=2)
        self.addCleanup(blue.close)
        self.addCleanup(green.close)
        for number in range(ERROR_CODES // 1000):
            with blue.pipeline(transaction=False) as pipeline:
                pipeline.eval(ERRORS, 0, f"{number}")
                (errors,) = pipeline.execute(raise_on_error=False)
            self.assertEqual(len(errors), 1000)
        several = [("server", "keyspace"), ("clients", "errorstats")] * (green.info("server")["redis_version"] >= "7")
        for sections in ((), ("default",), ("all",), ("everything",), *several):
            self.assertIn("redis_version" if "clients" not in sections else "connected_clients", green.info(*sections))
        self.assertEqual(green.execute_command("INFO", "errorstats"), {})
        self.assertEqual(green.info("clients")["connected_clients"], 1)
        self.assertNotIn("INFO", installation.proxy.log)

    def each_config_get_is_this_servers_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary, "maxmemory 100mb", "maxmemory-policy allkeys-lru")
        through = self.through(installation)
        straight = self.straight(installation)
        for protocol in (b"2", b"3"):
            for line in (through, straight):
                line.ask([b"HELLO", protocol])
            for words in CONFIG:
                # Redis returns several names in the order of an internal table, so the parts are
                # compared.
                expected, answered = straight.ask(words), through.ask(words)
                self.assertEqual(sorted(answered.split(b"\r\n")), sorted(expected.split(b"\r\n")), words)
        # The proxy asks Redis each time, because an operator may change the value.
        self.assertEqual(straight.ask([b"CONFIG", b"SET", b"maxmemory", b"200mb"]), b"+OK\r\n")
        self.assertIn(b"209715200", through.ask([b"CONFIG", b"GET", b"maxmemory"]))
        # No pattern shows anything else.
        for words in (
            [b"*"],
            [b"requirepass"],
            [b"*pass*"],
            [b"[r]equirepass"],
            [b"???????????"],
            [b"masterauth"],
            [b"dir"],
        ):
            answered = through.ask([b"CONFIG", b"GET", *words])
            names = set(answered.split(b"\r\n")[2::4])
            self.assertLessEqual(names, {*server_config.NAMES, b""}, words)
            self.assertNotIn(installation.server.password.encode(), answered)
        self.assertEqual(through.ask([b"CONFIG", b"GET", b"requirepass"]), b"%0\r\n")
        for words in ([b"SET", b"maxmemory", b"1"], [b"REWRITE"], [b"RESETSTAT"], [b"HELP"]):
            self.assertRegex(through.ask([b"CONFIG", *words]), rb"^-NOPERM ")
        self.assertEqual(straight.ask([b"CONFIG", b"GET", b"maxmemory"]).split(b"\r\n")[4], b"209715200")

    def each_config_get_where_the_master_may_not(self, binary: Callable[[], str]) -> None:
        """As with a hosted Redis: the failure is permanent, and the client's error says so."""
        installation = Hosted(server=RedisServer(binary, f"user operator on >{MASTER_PASSWORD} ~* &* +@all -config"))
        self.addCleanup(installation.stop)
        through = self.through(installation)
        self.assertEqual(
            through.ask([b"CONFIG", b"GET", b"save"]), b"-NOPERM Redis does not let the proxy run this command\r\n"
        )
        self.assertEqual(through.ask([b"PING"]), b"+PONG\r\n")


def _bytes(name: str | bytes) -> bytes:
    return name.lower() if isinstance(name, bytes) else name.lower().encode()


def _killed(client: redis.Redis) -> bool:
    try:
        client.script_kill()
    except redis.ResponseError as error:
        return "NOTBUSY" in str(error)
    return False
