"""A tenant's script runs for longer than --script-seconds: the proxy ends it, and says whose it
was. Where it has written, the proxy says that nobody can end it. Tenants that may run no scripts.
"""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable

from redisproxy.resp.framing import encode
from redisproxy.tenants.limits import SCRIPTS

from ..support.proxy import Installation, namespace
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server, redis_7, valkey
from ..support.waiting import until

#: Milliseconds after which Redis answers BUSY to others.
THRESHOLD = 300
SECONDS = 0.6
ENDLESS = [b"EVAL", b"while true do end", b"0"]
WRITES = [b"EVAL", b"redis.call('SET', 'written', '1') while true do end", b"0"]
ENDED = r"ended a script of team-blue: it ran for more than 0\.6 s"
DENIED = b"-NOPERM scripts and functions are not available to this namespace\r\n"
PAUSED = b"-BUSY a script of this namespace ran for more than 0.6 s"
ONE = [b"EVAL", b"return 1", b"0"]


class ScriptCase(unittest.TestCase):
    def start(self, binary: Callable[[], str], *options: str) -> Installation:
        server = RedisServer(binary, f"lua-time-limit {THRESHOLD}")
        allowed = ("--allow-commands", "EVAL,FCALL,FUNCTION")
        self.installation = Installation("--script-seconds", f"{SECONDS}", *allowed, *options, server=server)
        self.addCleanup(self.installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", self.installation.proxy.log))
        return self.installation

    def raw(self, password: str = Installation.BLUE) -> RawClient:
        client = raw_client(self, self.installation.proxy.port, b"AUTH", password.encode())
        until(lambda: client.ask([b"PING"]) == b"+PONG\r\n", "Redis is there")
        return client

    def green_waits(self) -> float:
        """Returns how many seconds pass until the other tenant is served again."""
        began = time.monotonic()
        green = self.raw(Installation.GREEN)
        until(lambda: green.ask([b"SET", b"a", b"b"]) == b"+OK\r\n", "the other tenant is served")
        return time.monotonic() - began

    def assertEnded(self, client: RawClient) -> None:
        self.assertIn(b"Script killed by user", client.reply())

    def set(self, value: str | None) -> None:
        """Sets team-blue's annotation."""
        documents = self.installation.documents()
        documents[1] = namespace("team-blue", annotations={} if value is None else {SCRIPTS: value})
        self.installation.manifests.write(documents)

    def rights(self) -> set[str]:
        """Returns which commands about scripts team-blue's ACL user may use at Redis."""
        with self.installation.server.client(decode_responses=True) as master:
            answer = master.execute_command("ACL", "GETUSER", "redisproxy:team-blue:3")
            commands = answer["commands"] if isinstance(answer, dict) else answer[answer.index("commands") + 1]
            return {word for word in str(commands).split() if word.startswith(("+eval", "+script", "+fcall", "+function"))}


@on_every_server
class EndedTests(ScriptCase):
    def each_script_is_ended_and_its_tenant_named(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        blue, other = self.raw(), self.raw()
        self.assertEqual(other.ask(ONE), b":1\r\n")
        blue.send(ENDLESS)
        self.assertLess(self.green_waits(), SECONDS + 5)
        self.assertEnded(blue)
        self.installation.proxy.logged(ENDED)
        # The other tenant runs scripts, this one runs none for a while, in no session.
        self.assertEqual(self.raw(Installation.GREEN).ask(ONE), b":1\r\n")
        for client in (blue, other, self.raw()):
            self.assertIn(PAUSED, client.ask(ONE))
            self.assertEqual(client.ask([b"SET", b"a", b"b"]), b"+OK\r\n")
        self.assertNotIn("team-green", "".join(line for line in self.installation.proxy.lines if "ended" in line))

    def each_on_a_dedicated_connection_in_a_transaction(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        blue = self.raw()
        self.assertEqual(blue.ask([b"WATCH", b"a"]), b"+OK\r\n")
        for words in ([b"MULTI"], ENDLESS, [b"SET", b"done", b"1"]):
            blue.ask(words)
        blue.send([b"EXEC"])
        self.green_waits()
        self.assertEnded(blue)
        self.installation.proxy.logged(ENDED)

    def each_of_a_session_that_has_left(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        for first in ([b"PING"], [b"WATCH", b"a"]):  # over a shared connection, over its own
            with self.subTest(first):
                blue = self.raw(Installation.BLUE if first == [b"PING"] else Installation.GREEN)
                blue.ask(first)
                blue.send(ENDLESS)
                time.sleep(0.1)
                blue.close()
                other = self.raw(Installation.GREEN if first == [b"PING"] else Installation.BLUE)
                until(lambda other=other: other.ask([b"SET", b"a", b"b"]) == b"+OK\r\n", "it is over")
                name = "team-blue" if first == [b"PING"] else "team-green"
                self.installation.proxy.logged(f"ended a script of {name}")

    def each_that_has_written_cannot_be_ended(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        blue, green = self.raw(), self.raw(Installation.GREEN)
        blue.send(WRITES)
        proxy = self.installation.proxy
        proxy.logged("Redis is busy with a script of team-blue, and cannot end it, because the script has written")
        self.assertIn(b"BUSY", green.ask([b"GET", b"a"]))
        time.sleep(1.5)
        self.assertEqual(proxy.log.count("cannot end it"), 1)
        self.installation.server.kill()


class OthersTests(ScriptCase):
    def test_a_process_without_a_script_ends_none(self) -> None:
        """An administrator's script, past the proxy, runs on."""
        installation = self.start(valkey)
        blue = self.raw()
        self.assertEqual(blue.ask(ONE), b":1\r\n")
        straight = raw_client(self, installation.server.port, b"AUTH", MASTER_PASSWORD.encode())
        straight.send(ENDLESS)
        time.sleep(3 * SECONDS + 1)
        self.assertIn(b"BUSY", blue.ask([b"GET", b"a"]))
        self.assertNotIn("ended a script", installation.proxy.log)
        with installation.server.client() as master:
            master.script_kill()

    def test_zero_ends_none(self) -> None:
        installation = self.start(valkey, "--script-seconds", "0")
        blue = self.raw()
        blue.send(ENDLESS)
        time.sleep(2.5)
        self.assertNotIn("ended a script", installation.proxy.log)
        with installation.server.client() as master:
            master.script_kill()
        self.assertEnded(blue)

    def test_a_function_is_ended(self) -> None:
        self.start(redis_7)
        blue = self.raw()
        code = b"#!lua name=endless\nredis.register_function('endless', function() while true do end end)"
        self.assertEqual(blue.ask([b"FUNCTION", b"LOAD", code]), b"$7\r\nendless\r\n")
        blue.send([b"FCALL", b"endless", b"0"])
        self.green_waits()
        self.assertEnded(blue)
        self.installation.proxy.logged(ENDED)

    def test_several_processes(self) -> None:
        """The process that has the script ends it, and all of them refuse the tenant's scripts."""
        self.start(valkey, "--processes", "2")
        clients = [self.raw() for _ in range(8)]
        clients[0].send(ENDLESS)
        self.green_waits()
        self.assertEnded(clients[0])
        self.installation.proxy.logged(ENDED)
        for client in clients:
            until(lambda client=client: PAUSED in client.ask(ONE), "its scripts are refused")
        self.assertEqual(self.installation.proxy.log.count("ended a script"), 1)

    def test_behind_a_command_that_blocks(self) -> None:
        """Redis runs the script before it writes the reply of the command that was blocked."""
        self.start(valkey)
        blue = self.raw()
        blue.send(encode([b"BLPOP", b"nothing", b"0.2"]) + encode(ENDLESS))
        self.assertEqual(blue.reply(), b"*-1\r\n")
        self.assertEnded(blue)
        self.installation.proxy.logged(ENDED)

    def test_a_pipeline_of_endless_ones(self) -> None:
        """What Redis has got already runs, but each one is ended as soon as Redis says BUSY."""
        self.start(valkey)
        blue = self.raw()
        blue.send(encode(ENDLESS) * 3)
        began = time.monotonic()
        for _ in range(3):
            self.assertEnded(blue)
        self.assertLess(time.monotonic() - began, 12)


class DeniedTests(ScriptCase):
    COMMANDS = (
        ONE,
        [b"EVALSHA", b"0" * 40, b"0"],
        [b"SCRIPT", b"LOAD", b"return 1"],
        [b"script", b"exists", b"0" * 40],
        [b"FCALL", b"f", b"0"],
        [b"FUNCTION", b"LIST"],
        [b"EVAL", b"return redis.call('PUBLISH', 'c', 'm')", b"0"],
        [b"EVAL", b"return 1", b"0", b"x" * 200_000],
    )

    def heard(self, client: RawClient) -> bytes:
        answer = client.ask(ONE)
        self.assertIn(answer, (b":1\r\n", DENIED))
        return answer

    def denied(self, client: RawClient) -> bool:
        return client.ask(ONE) == DENIED

    def allowed(self, client: RawClient) -> bool:
        return client.ask(ONE) == b":1\r\n"

    def test_by_annotation_and_back_for_sessions_of_before(self) -> None:
        self.start(valkey)
        blue, own, green = self.raw(), self.raw(), self.raw(Installation.GREEN)
        own.ask([b"WATCH", b"a"])  # it has a connection of its own
        for client in (blue, own, green):
            self.assertTrue(self.allowed(client))
        self.assertIn("+eval", self.rights())
        for _ in range(2):
            self.set("deny")
            until(lambda: self.denied(blue), "scripts are refused")
            for client in (blue, own, self.raw()):
                for words in self.COMMANDS:
                    self.assertEqual(client.ask(words), DENIED, words)
                self.assertEqual(client.ask([b"SET", b"a", b"b"]), b"+OK\r\n")
            self.assertTrue(self.allowed(green))
            until(lambda: not self.rights(), "Redis refuses them, too")
            self.set("allow")
            # Redis refuses none that the proxy allows.
            until(lambda: self.heard(blue) == b":1\r\n", "scripts run again")
            for client in (blue, own, self.raw()):
                self.assertTrue(self.allowed(client))
        self.set("Deny")
        until(lambda: self.denied(blue), "what is not understood denies")
        self.installation.proxy.logged("annotation redisproxy/scripts is neither allow nor deny: deny applies")

    def test_by_setting(self) -> None:
        self.start(valkey, "--tenant-scripts", "deny")
        blue, green = self.raw(), self.raw(Installation.GREEN)
        self.assertTrue(self.denied(blue))
        self.assertEqual(self.rights(), set())
        self.set("allow")
        until(lambda: self.allowed(blue), "the annotation wins")
        self.assertTrue(self.denied(green))

    def test_in_a_transaction(self) -> None:
        self.start(valkey)
        blue = self.raw()
        blue.ask([b"WATCH", b"a"])
        blue.ask([b"MULTI"])
        self.set("deny")
        until(lambda: blue.ask(ONE) == DENIED, "scripts are refused")
        self.assertIn(b"-EXECABORT", blue.ask([b"EXEC"]))
