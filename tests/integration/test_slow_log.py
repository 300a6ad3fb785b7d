"""Tests that a tenant sees its own slow commands and nobody else's, and that they are counted for
it, with real servers.
"""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable

from ..support.proxy import Installation
from ..support.raw import raw_client
from ..support.servers import RedisServer, on_every_server, redis_5, valkey
from ..support.status import metrics, status_port
from ..support.waiting import until

#: Answered as the server itself answers.
SAME = (
    [b"SLOWLOG"],
    [b"SLOWLOG", b"GET", b"x"],
    [b"SLOWLOG", b"GET", b"1", b"2"],
    [b"SLOWLOG", b"GET", b"0"],
    [b"SLOWLOG", b"LEN", b"x"],
    [b"SLOWLOG", b"HELP", b"x"],
    [b"SLOWLOG", b"NOSUCH"],
)


class Case(unittest.TestCase):
    def installation(self, binary: Callable[[], str], *options: str, settings: tuple[str, ...] = ()) -> Installation:
        installation = Installation(
            *options, server=RedisServer(binary, "slowlog-log-slower-than 0", "slowlog-max-len 1000", *settings)
        )
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        return installation

    def sees_its_own(self, installation: Installation, protocol: int) -> None:
        blue, green = installation.blue(protocol=protocol), installation.green(protocol=protocol)
        self.addCleanup(blue.close)
        self.addCleanup(green.close)
        for client, word in ((blue, "azure"), (green, "olive")):
            client.set(word, word)
            client.keys(f"{word}*")
            client.publish(f"channel-{word}", word)
        for client, own, other in ((blue, b"azure", b"olive"), (green, b"olive", b"azure")):
            log = client.slowlog_get(-1)
            shown = b"\n".join(entry["command"] for entry in log)
            for command in (b"SET %b %b", b"KEYS %b*", b"PUBLISH channel-%b %b"):
                self.assertIn(command % ((own,) * command.count(b"%b")), shown)
            for foreign in (other, b"AUTH", b"SELECT", b"SETNAME", b"SLOWLOG", b"ACL", b"team-"):
                self.assertNotIn(foreign, shown)
            ids = [entry["id"] for entry in log]
            self.assertEqual(ids, sorted(set(ids), reverse=True))
            self.assertGreaterEqual(client.slowlog_len(), len(log))
            self.assertEqual(len(client.slowlog_get(1)), 1)


@on_every_server
class SlowLogTests(Case):
    def each_tenant_sees_its_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        self.sees_its_own(installation, 2)
        self.sees_its_own(installation, 3)
        names = {client["name"] for client in installation.server.client().client_list() if client["name"].count(":") == 3}
        self.assertTrue(names)
        for name in names:
            self.assertRegex(name, r"^redisproxy:team-(blue|green):\d+:[0-9a-f]{8}$")
        through = raw_client(self, installation.proxy.port, b"AUTH", installation.BLUE.encode())
        straight = raw_client(self, installation.server.port, b"AUTH", installation.server.password.encode())
        for words in SAME:
            self.assertEqual(through.ask(words), straight.ask(words), words)
        self.assertEqual(through.ask([b"CLIENT", b"GETNAME"]), b"$-1\r\n")
        self.assertRegex(through.ask([b"SLOWLOG", b"RESET"]), b"^-NOPERM ")
        self.assertRegex(through.ask([b"EVAL", b"return redis.call('SLOWLOG', 'GET')", b"0"]), rb"^-(NOPERM|ERR|ACL).*")
        for protocol in (b"2", b"3"):
            through.ask([b"HELLO", protocol])
            straight.ask([b"HELLO", protocol])
            shapes = [
                re.sub(rb":\d+", b":N", client.ask([b"SLOWLOG", b"GET", b"1"]).partition(b"$")[0])[:21]
                for client in (through, straight)
            ]
            self.assertEqual(shapes[0], shapes[1])


class CountTests(Case):
    def test_they_are_counted_for_the_tenant_by_one_process(self) -> None:
        """Also with several processes, each of which reads the log."""
        installation = self.installation(valkey, "--processes", "2", "--status", "tcp:0")
        blue = installation.blue()
        self.addCleanup(blue.close)
        for _ in range(20):
            blue.keys("*")
        port = status_port(installation)

        def counted() -> dict[str, float]:
            found = metrics(port)
            names = ("redisproxy_tenant_slow_commands_total", "redisproxy_tenant_slow_command_seconds_total")
            return {name: found.get((name, frozenset({("namespace", "team-blue")})), 0.0) for name in names}

        until(lambda: min(counted().values()) > 0 and max(counted().values()) >= 20, "they are counted", 30)
        self.assertLess(counted()["redisproxy_tenant_slow_commands_total"], 40)


class WithoutAclTests(Case):
    def test_redis_5(self) -> None:
        """There AUTH is in the log, with its password."""
        installation = self.installation(redis_5, settings=("bind 127.0.0.1",))
        self.sees_its_own(installation, 2)
