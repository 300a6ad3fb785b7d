"""A script runs for too long: what all others hear, straight to Redis and through the proxy. Both
must be the same, at once, and what was refused must not run later.
"""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Callable, Iterator

import redis

from redisproxy.resp.framing import encode

from ..support.proxy import Installation, ProxyProcess
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server
from ..support.waiting import LIMIT, until

#: Milliseconds after which Redis answers BUSY to others.
THRESHOLD = 300
ENDLESS = [b"EVAL", b"while true do end", b"0"]
#: What a session sends meanwhile, each on a session that has sent a PING before.
COMMANDS = (
    [b"GET", b"a"],
    [b"SET", b"a", b"b"],
    [b"PING"],
    [b"INFO"],
    [b"CONFIG", b"GET", b"maxmemory"],
    [b"PUBSUB", b"CHANNELS"],
    [b"PUBLISH", b"c", b"m"],
    [b"SUBSCRIBE", b"c"],
    [b"PSUBSCRIBE", b"c*"],
    [b"BLPOP", b"q", b"1"],
    [b"XREAD", b"BLOCK", b"1", b"STREAMS", b"s", b"$"],
    [b"EVAL", b"return 1", b"0"],
    [b"EVAL", b"return redis.call('PUBLISH', 'c', 'm')", b"0"],
    [b"EVALSHA", b"0" * 40, b"0"],
    [b"EVAL", b"return 1", b"0", b"x" * 100_000],
    [b"SCRIPT", b"LOAD", b"return 1"],
    [b"SET", b"a", b"x" * 100_000],
    [b"DBSIZE"],
)
#: The same, in one piece: how many replies.
PIPELINES = (
    ([[b"MULTI"], [b"GET", b"a"], [b"EXEC"]], 3),
    ([[b"GET", b"a"], [b"EVAL", b"return 1", b"0"], [b"GET", b"a"]], 3),
    ([[b"INCR", b"counted"]] * 100, 100),
)
#: A HELLO's answer has the number of the connection.
HELLOS = ([b"HELLO"], [b"HELLO", b"2"], [b"HELLO", b"3"], [b"HELLO", b"3", b"SETNAME", b"me"])


class BusyCase(unittest.TestCase):
    options: tuple[str, ...] = ()

    def start(self, binary: Callable[[], str], *options: str) -> Installation:
        # Redis renamed this setting in 7, and still takes the old name. On Redis 6.2 the operator
        # has to allow scripts.
        server = RedisServer(binary, f"lua-time-limit {THRESHOLD}")
        self.installation = Installation(
            "--allow-commands", "EVAL", "--script-seconds", "0", *self.options, *options, server=server
        )
        self.addCleanup(self.installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", self.installation.proxy.log))
        self.killer = self.installation.server.client(socket_timeout=LIMIT)
        self.addCleanup(self.killer.close)
        self.addCleanup(self.kill)
        return self.installation

    def through(self, *login: bytes, password: str = Installation.BLUE) -> RawClient:
        login = login or (b"AUTH",)
        return raw_client(self, self.installation.proxy.port, *login, password.encode())

    def straight(self, *login: bytes) -> RawClient:
        return raw_client(self, self.installation.server.port, *(login or (b"AUTH",)), MASTER_PASSWORD.encode())

    def sides(self, *login: bytes) -> tuple[RawClient, RawClient]:
        """Returns a session straight to Redis and one through the proxy, with database 3."""
        straight, through = self.straight(*login), self.through(*login)
        straight.ask([b"SELECT", b"3"])
        for client in (straight, through):
            self.assertEqual(client.ask([b"PING"]), b"+PONG\r\n")
        return straight, through

    def is_busy(self) -> bool:
        try:
            self.killer.ping()
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    def kill(self) -> bool:
        """Ends the script. Returns whether none runs any more."""
        try:
            self.killer.script_kill()
        except redis.ResponseError as error:
            return "NOTBUSY" in str(error)
        return False

    @contextlib.contextmanager
    def busy(self, runner: RawClient, *more: list[bytes]) -> Iterator[None]:
        """Redis is busy with a script of this session. more: commands right behind it."""
        runner.send(ENDLESS)
        for words in more:
            runner.send(words)
        try:
            until(self.is_busy, "Redis is busy")
            yield
        finally:
            until(self.kill, "the script is killed")

    def assertSame(self, straight: list[bytes], through: list[bytes], what: object) -> None:
        self.assertEqual(through, straight, what)
        self.assertIn(b"BUSY ", b"".join(straight), what)


@on_every_server
class BusyTests(BusyCase):
    def each_existing_session(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        runners = self.sides()
        clients = [self.sides() for _ in (*COMMANDS, *PIPELINES, "a transaction", *HELLOS)]
        found = iter(clients)
        with self.busy(runners[1]):
            for words in COMMANDS:
                straight, through = (client.ask(words) for client in next(found))
                self.assertSame([straight], [through], words)
            for pipeline, count in PIPELINES:
                heard = []
                for client in next(found):
                    client.send(b"".join(map(encode, pipeline)))
                    heard.append([client.reply() for _ in range(count)])
                self.assertSame(*heard, pipeline)
            # Redis takes the MULTI. The proxy needs a connection for it, and has none.
            transaction = b"".join(map(encode, ([b"MULTI"], [b"EVAL", b"return 1", b"0"], [b"EXEC"])))
            for client in next(found):
                client.send(transaction)
                self.assertIn(b"BUSY", [client.reply() for _ in range(3)][2])
            for words in HELLOS:
                straight, through = next(found)
                self.assertEqual(_unnumbered(through.ask(words)), _unnumbered(straight.ask(words)), words)
                self.assertSame([straight.ask([b"GET", b"a"])], [through.ask([b"GET", b"a"])], words)
        self.assertTrue(runners[1].reply().startswith(b"-"))
        # All sessions work again, and what was refused has not run.
        for straight, through in clients:
            until(lambda through=through: not through.ask([b"PING"]).startswith(b"-BUSY"), "it is over")
            self.assertEqual(through.ask([b"EXISTS", b"a", b"counted"]), straight.ask([b"EXISTS", b"a", b"counted"]))
            self.assertEqual(through.ask([b"EVAL", b"return 1", b"0"]), b":1\r\n")

    def each_new_session(self, binary: Callable[[], str]) -> None:
        """Also one of a tenant that has no connection to Redis."""
        self.start(binary)
        runner, _ = self.sides()
        lines = len(self.installation.proxy.lines)
        logins = ((b"AUTH",), (b"HELLO", b"3", b"AUTH", b"default"), (b"HELLO", b"2", b"AUTH", b"default"))
        with self.busy(runner):
            clients = []
            for login in logins:
                straight = raw_client(self, self.installation.server.port)
                hello = straight.ask([*login, MASTER_PASSWORD.encode()])
                for password in (Installation.BLUE, Installation.GREEN):
                    through = raw_client(self, self.installation.proxy.port)
                    self.assertEqual(_unnumbered(through.ask([*login, password.encode()])), _unnumbered(hello))
                    for words in ([b"GET", b"a"], [b"EVAL", b"return 1", b"0"], [b"BLPOP", b"q", b"1"], [b"INFO"]):
                        self.assertSame([straight.ask(words)], [through.ask(words)], words)
                    self.assertEqual(_unnumbered(through.ask([b"HELLO"])), _unnumbered(straight.ask([b"HELLO"])))
                    clients.append(through)
            refused = raw_client(self, self.installation.proxy.port)
            self.assertTrue(refused.ask([b"AUTH", b"wrong"]).startswith(b"-WRONGPASS"))
            for _ in range(30):
                with self.through(password=Installation.GREEN) as client:
                    self.assertTrue(client.ask([b"SET", b"a", b"b"]).startswith(b"-BUSY"))
            # `health` asks once a second
            self.installation.proxy.logged("is busy with a script")
        for client in clients:
            until(lambda client=client: client.ask([b"EXISTS", b"a"]) == b":0\r\n", "it is over", 5.0)
            self.assertEqual(client.ask([b"SET", b"b", b"c"]), b"+OK\r\n")
        logged = [line for line in self.installation.proxy.lines[lines:] if "BUSY" in line or "busy" in line]
        self.assertEqual(len(logged), 1, logged)
        self.assertNotIn("no connection to Redis", self.installation.proxy.log)

    def each_is_not_held(self, binary: Callable[[], str]) -> None:
        """The proxy itself is refused: a pattern in the rights of a tenant's ACL user, and the user
        of another tenant, whom Redis does not know yet. What is held waits for longer than a client
        here.
        """
        self.start(binary, "--hold-seconds", str(10 * LIMIT))
        runner, patterns = self.through(), self.sides()
        # Then a dedicated connection is idle, and only the pattern is refused.
        self.assertEqual(patterns[1].ask([b"BLPOP", b"q", b"0.01"]), b"*-1\r\n")
        with self.busy(runner):
            straight, through = (client.ask([b"PSUBSCRIBE", b"c*"]) for client in patterns)
            self.assertSame([straight], [through], "PSUBSCRIBE")
            for words in ([b"PSUBSCRIBE", b"c*"], [b"GET", b"a"], [b"PUBSUB", b"CHANNELS"]):
                with self.through(password=Installation.GREEN) as green:
                    self.assertSame([self.straight().ask(words)], [green.ask(words)], words)
        for password in (Installation.BLUE, Installation.GREEN):
            client = self.through(password=password)
            until(lambda client=client: client.ask([b"GET", b"a"]) == b"$-1\r\n", "it is over", 5.0)
            self.assertEqual(client.ask([b"PSUBSCRIBE", b"c*"]), b"*3\r\n$10\r\npsubscribe\r\n$2\r\nc*\r\n:1\r\n")

    def each_start(self, binary: Callable[[], str]) -> None:
        """The proxy starts while Redis is busy, so it does not know yet what Redis is."""
        installation = self.start(binary)
        installation.proxy.stop()
        runner, _ = self.straight(), self.straight()
        with self.busy(runner):
            options = ("--allow-commands", "EVAL", "--manifests", str(installation.manifests.path), *self.options)
            installation.proxy = ProxyProcess(*options).ready()
            installation.proxy.logged("did not report its version and settings")
            clients = [self.through() for _ in range(10)]
            for client in clients:
                self.assertTrue(client.ask([b"GET", b"a"]).startswith(b"-BUSY"))
            # What the operator allowed (EVAL on some servers), and scripts, are known later.
            pipeline = ([b"EVAL", b"return 1", b"0"], [b"SCRIPT", b"LOAD", b"return 1"], [b"EVALSHA", b"0" * 40, b"0"])
            clients[0].send(b"".join(map(encode, pipeline)))
            for words in pipeline:
                self.assertTrue(clients[0].reply().startswith(b"-BUSY"), words)
            self.assertTrue(clients[0].ask([b"EVAL", b"return 1", b"0", b"x" * 2_000_000]).startswith(b"-BUSY"))
            self.assertEqual(clients[1].ask([b"MULTI"])[:5], b"-BUSY")
            self.assertNotIn("refused eval", installation.proxy.log)
        for client in clients:
            until(lambda client=client: client.ask([b"EXISTS", b"a"]) == b":0\r\n", "it is over", 5.0)
        until(lambda: clients[0].ask([b"EVAL", b"return 1", b"0"]) == b":1\r\n", "scripts run", 5.0)
        self.assertNotIn("no connection to Redis", installation.proxy.log)

    def each_sent_before_the_threshold(self, binary: Callable[[], str]) -> None:
        """Redis answers BUSY at the threshold, and does not run it later."""
        self.start(binary)
        runners, others, probes = self.sides(), self.sides(), [self.straight() for _ in range(2)]
        for runner, other, probe in zip(runners, others, probes, strict=True):
            runner.send(ENDLESS)
            until(lambda probe=probe: _is_silent(probe), "the script runs")
            for _ in range(3):
                other.send([b"INCR", b"counted"])
            for _ in range(3):
                self.assertTrue(other.reply().startswith(b"-BUSY"))
            until(self.kill, "the script is killed")
            self.assertTrue(runner.reply().startswith(b"-"))
            self.assertEqual(other.ask([b"EXISTS", b"counted"]), b":0\r\n")

    def each_behind_its_own_script(self, binary: Callable[[], str]) -> None:
        """What a session sent behind its script runs after that, as on one connection to Redis."""
        self.start(binary)
        for runner in self.sides():
            with self.busy(runner, [b"INCR", b"counted"], [b"EVAL", b"return redis.call('INCR', 'counted')", b"0"]):
                runner.send([b"INCR", b"counted"])
            self.assertTrue(runner.reply().startswith(b"-"))
            self.assertEqual([runner.reply() for _ in range(3)], [b":1\r\n", b":2\r\n", b":3\r\n"])
            self.assertEqual(runner.ask([b"DEL", b"counted"]), b":1\r\n")

    def each_scripts_of_others_go_on(self, binary: Callable[[], str]) -> None:
        """Scripts that come while one takes long do not wait for it, once Redis reads again."""
        self.start(binary)
        runner, other = self.through(), self.through()
        self.assertEqual(runner.ask([b"EVAL", b"return 1", b"0"]), b":1\r\n")
        with self.busy(runner):
            for _ in range(20):
                self.assertTrue(other.ask([b"EVAL", b"return 1", b"0"]).startswith(b"-BUSY"))
        self.assertTrue(runner.reply().startswith(b"-"))
        until(lambda: other.ask([b"EVAL", b"return 1", b"0"]) == b":1\r\n", "scripts run", 5.0)

    def each_script_kill(self, binary: Callable[[], str]) -> None:
        """Where the operator allows SCRIPT KILL, a tenant ends its own script."""
        self.start(binary, "--allow-commands", "EVAL,SCRIPT|KILL")
        runner, other = self.through(), self.through()
        runner.send(ENDLESS)
        until(self.is_busy, "Redis is busy")
        self.assertEqual(other.ask([b"SCRIPT", b"KILL"]), b"+OK\r\n")
        self.assertTrue(runner.reply().startswith(b"-"))

    def each_order(self, binary: Callable[[], str]) -> None:
        """Plain commands and scripts in one pipeline run in the order in which they were sent."""
        self.start(binary)
        script = [b"EVAL", b"return redis.call('INCR', KEYS[1])", b"1", b"counted"]
        sha = self.through().ask([b"SCRIPT", b"LOAD", script[1]])[5:45]
        for _ in range(5):
            client = self.through()
            expected = 0
            for words in ([b"INCR", b"counted"], script, script, [b"INCR", b"counted"], [b"EVALSHA", sha, *script[2:]]) * 40:
                client.send(words)
                expected += 1
            self.assertEqual([client.reply() for _ in range(expected)], [b":%d\r\n" % n for n in range(1, expected + 1)])
            self.assertEqual(client.ask([b"DEL", b"counted"]), b":1\r\n")


class DedicatedBusyTests(BusyTests):
    """The same with `--connections dedicated`."""

    options = ("--connections", "dedicated")


def _is_silent(client: RawClient) -> bool:
    """Returns whether Redis does not answer at once, or is busy."""
    client.socket.settimeout(THRESHOLD / 10_000)
    try:
        return client.ask([b"PING"]).startswith(b"-BUSY")
    except TimeoutError:
        return True


def _unnumbered(hello: bytes) -> bytes:
    """Returns the answer to a HELLO without the connection's number."""
    before, found, rest = hello.partition(b"$2\r\nid\r\n:")
    return before + found + rest.partition(b"\r\n")[2]
