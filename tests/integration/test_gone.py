"""What becomes of a blocked command, and of what stands behind it, when its client leaves: the same
as straight to Redis. A client that is gone takes no item.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path

import redis
import redis.asyncio

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.certificates import Authority
from ..support.clients import client_once
from ..support.proxy import Installation, namespace
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, on_every_server, redis_7
from ..support.status import metrics, status_port
from ..support.waiting import LIMIT, until

#: Seconds within which a blocked command is given up. At once, but machines are busy; less than the
#: time for the pending replies of a client that sent its end of file.
AT_ONCE = 0.8 * bounds.HALF_CLOSED_SECONDS
#: What blocks; then what would give it an item.
BLOCKING = (
    ("BLPOP l 0", "RPUSH l item"),
    ("BRPOP l 0", "RPUSH l item"),
    ("BLMOVE l other LEFT RIGHT 0", "RPUSH l item"),
    ("BRPOPLPUSH l other 0", "RPUSH l item"),
    ("BLMPOP 0 1 l LEFT", "RPUSH l item"),
    ("BZPOPMIN z 0", "ZADD z 1 item"),
    ("BZPOPMAX z 0", "ZADD z 1 item"),
    ("BZMPOP 0 1 z MIN", "ZADD z 1 item"),
    ("XREADGROUP GROUP g c BLOCK 0 STREAMS s >", "XADD s * item 1"),
    ("XREAD BLOCK 0 STREAMS s $", "XADD s * item 1"),
    ("WAIT 3 0", "PING"),
)
#: What stands behind it.
BEHIND = "SET late 1; MULTI; SET late 2; EXEC; BLPOP l 0; SET late 3"
#: Ways to leave.
WAYS: dict[str, Callable[[RawClient], None]] = {
    "closes": RawClient.close,
    "half closes": RawClient.half_close,
    "resets": RawClient.reset,
}


def pipeline(commands: str) -> bytes:
    return b"".join(encode(command.encode().split()) for command in commands.split("; "))


class GoneCase(unittest.TestCase):
    def start(self, *options: str, server: RedisServer | None = None) -> Installation:
        self.installation = Installation(*options, server=server)
        self.addCleanup(self.installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", self.installation.proxy.log))
        self.direct = self.installation.server.client(3)
        self.addCleanup(self.direct.close)
        return self.installation

    def begin(self) -> None:
        """Empties the database."""
        self.direct.flushdb()
        self.direct.xgroup_create("s", "g", mkstream=True)

    def connect(self, protocol: int = 2, straight: bool = False) -> RawClient:
        """A session with database 3."""
        port, password = (
            (self.installation.server.port, MASTER_PASSWORD)
            if straight
            else (self.installation.proxy.port, Installation.BLUE)
        )
        client = raw_client(self, port, b"HELLO", b"%d" % protocol, b"AUTH", b"default", password.encode())
        self.assertEqual(client.ask([b"SELECT", b"3"]), b"+OK\r\n")
        return client

    def blocked(self, count: int, limit: float = AT_ONCE) -> None:
        """Waits until Redis has so many clients that wait."""
        until(lambda: self.direct.info("clients")["blocked_clients"] == count, f"{count} are blocked", limit)

    def there(self) -> dict[str, object]:
        """Returns what is in the database."""
        found: dict[str, object] = {key: self.direct.lrange(key, 0, -1) for key in ("l", "other")}
        found["z"] = self.direct.zrange("z", 0, -1)
        found["s"] = self.direct.xlen("s"), self.direct.xpending("s", "g")["pending"]
        found["late"] = self.direct.get("late")
        return found


@on_every_server
class BlockedTests(GoneCase):
    """Whatever blocks, and however the client leaves: the item stays, and nothing behind is run."""

    def each_multiplexed(self, binary: Callable[[], str]) -> None:
        self.start(server=RedisServer(binary))
        self.check()

    def each_dedicated(self, binary: Callable[[], str]) -> None:
        self.start("--connections", "dedicated", server=RedisServer(binary))
        self.check()

    def check(self) -> None:
        known = {name.upper() for name in self.direct.command()}
        for words, push in BLOCKING:
            if words.split()[0] not in known:
                continue
            for name, leave in WAYS.items():
                straight, proxied, resp3 = (
                    self.leave_blocked(words, leave, push, *how) for how in ((2, True), (2, False), (3, False))
                )
                with self.subTest(words, leaves=name):
                    self.assertIsNone(straight["late"])
                    self.assertEqual((proxied, resp3), (straight, straight))

    def leave_blocked(
        self, words: str, leave: Callable[[RawClient], None], push: str, protocol: int, straight: bool
    ) -> dict[str, object]:
        self.begin()
        client = self.connect(protocol, straight)
        client.send(pipeline(f"{words}; {BEHIND}"))
        self.blocked(1)
        leave(client)
        self.blocked(0)
        self.direct.execute_command(*push.split())
        found = self.there()
        client.close()
        return found


class WaysTests(GoneCase):
    """One blocked command, on other ways through the proxy."""

    def check(self, client: RawClient, words: str = "BLPOP l 0; SET late 1") -> None:
        """The client blocks, and closes."""
        self.direct.delete("l", "late")
        client.send(pipeline(words))
        self.blocked(1, LIMIT)
        client.close()
        self.blocked(0)
        self.direct.rpush("l", "item")
        self.assertEqual((self.direct.lrange("l", 0, -1), self.direct.get("late")), ([b"item"], None))

    def test_with_several_processes(self) -> None:
        installation = self.start("--processes", "2")
        for number in (1, 2):
            installation.proxy.logged(rf"worker-{number}/.*isolation layers")
        for _ in range(6):
            self.check(self.connect())

    def test_without_acl_users(self) -> None:
        self.start("--acl", "off")
        self.check(self.connect())

    def test_with_redis_over_tls(self) -> None:
        authority = Authority(self.directory())
        certificate, key = authority.issue("redis", "localhost")
        port = free_port()
        server = _Elsewhere(
            redis_7,
            *(f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {key}"),
            *(f"tls-ca-cert-file {authority.path}", "tls-auth-clients no"),
        )
        server.way = f"rediss://:{MASTER_PASSWORD}@localhost:{port}/0"
        self.start("--redis-ca", str(authority.path), server=server)
        self.check(self.connect())

    def test_clients_over_tls(self) -> None:
        authority = Authority(self.directory())
        certificate, key = authority.issue("proxy", "127.0.0.1", "localhost")
        port = free_port()
        self.start("--listen", f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}")
        self.check(
            raw_client(
                self, port, b"AUTH", Installation.BLUE.encode(), tls=ssl.create_default_context(cafile=authority.path)
            )
        )

    def test_others_go_on(self) -> None:
        self.start()
        self.begin()
        other, gone = self.connect(), self.connect()
        other.send(pipeline("BLPOP l 0; GET a"))
        self.blocked(1, LIMIT)
        gone.send(pipeline("BLPOP l 0; SET late 1"))
        self.blocked(2, LIMIT)
        gone.close()
        self.blocked(1)
        self.assertEqual(self.connect().ask([b"RPUSH", b"l", b"item"]), b":1\r\n")
        self.assertEqual(other.reply() + other.reply(), b"*2\r\n$1\r\nl\r\n$4\r\nitem\r\n$-1\r\n")

    def test_what_waits_in_the_proxy_is_not_run(self) -> None:
        """Commands that wait for the blocked one. The proxy does not read all of the last client's
        bytes, nor its end of file.
        """
        self.start()
        for behind in ("INFO; SET late 1", f"AUTH {Installation.BLUE}; SET late 1", "QUIT", "HELLO 3; SET late 1"):
            self.check(self.connect(), f"BLPOP l 0; {behind}")
        client = self.connect()
        self.direct.delete("l")
        client.send(pipeline("BLPOP l 0; INFO"))
        self.blocked(1, LIMIT)
        client.send(encode([b"SET", b"late", b"x" * 1000]) * (2 * bounds.BUFFERED_BYTES // 1000))
        self.check(client, "SET late 1")

    def test_while_the_proxy_ends(self) -> None:
        installation = self.start("--drain-seconds", "30")
        client, other = self.connect(), self.connect()
        client.send(pipeline("BLPOP l 0; SET late 1"))
        other.send(pipeline("BLPOP l 0"))
        self.blocked(2, LIMIT)
        installation.proxy.process.terminate()
        installation.proxy.logged("draining: 2 sessions")
        self.assertEqual(other.rest(), b"")
        client.close()
        self.blocked(0)
        self.direct.rpush("l", "item")
        self.assertEqual(self.direct.llen("l"), 1)
        self.assertIsNone(self.direct.get("late"))

    def test_a_tenant_with_a_rate(self) -> None:
        """Clients leave while their BLPOP waits for the tenant's rate, or behind it other commands
        do. The items of a queue that was full stay, too.
        """
        installation = self.start("--status", "tcp:0")
        documents = installation.documents()
        documents[1] = namespace("team-blue", annotations={"redisproxy/commands-per-second": "10"})
        installation.manifests.write(documents)
        limit = ("redisproxy_tenant_limit_commands_per_second", frozenset({("namespace", "team-blue")}))
        until(lambda: metrics(status_port(installation)).get(limit) == 10, "the limit is in force")
        blocked, held, flood = self.connect(), self.connect(), self.connect()
        blocked.send(pipeline("BLPOP l 0"))
        self.blocked(1, LIMIT)
        flood.send(pipeline("PING; " * 49 + "PING"))  # overdraws the rate by some seconds
        self.assertEqual(flood.reply(), b"+PONG\r\n")
        blocked.send(pipeline("SET late 1"))
        held.send(pipeline("BLPOP l 0; SET late 2"))
        until(
            lambda: metrics(status_port(installation)).get(("redisproxy_tenant_throttled_connections", limit[1]), 0) >= 2,
            "both wait",
        )
        blocked.close()
        held.close()
        self.blocked(0)
        self.direct.rpush("l", "item")
        self.assertEqual([flood.reply() for _ in range(49)], [b"+PONG\r\n"] * 49)
        until(lambda: self.connect().ask([b"PING"]) == b"+PONG\r\n", "the rate has recovered")
        self.assertEqual((self.direct.lrange("l", 0, -1), self.direct.get("late")), ([b"item"], None))

    def directory(self) -> Path:
        return Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))


class _Elsewhere(RedisServer):
    way = ""

    @property
    def url(self) -> str:
        return self.way


class HalfClosedTests(GoneCase):
    """`printf … | nc`: what does not block is answered after the client's end of file."""

    def check(self, *options: str) -> None:
        self.start(*options)
        for commands in (
            "SET a 1; GET a; LRANGE l 0 -1",
            "MULTI; SET a 1; GET a; EXEC; GET a",
            "WATCH a; MULTI; SET a 1; BLPOP l 0; EXEC; GET a",
            "BLPOP l 0",
            "RPUSH m 1; BLPOP m 0; BRPOP l 0; GET a",
            "SET a 1; BLPOP nothing 0; SET a 2; GET a",
            "EVAL return(1) 0; XREAD COUNT 1 STREAMS s 0; SELECT 3; NOSUCHCOMMAND",
        ):
            with self.subTest(commands):
                straight = self.answers(commands, straight=True)
                for _ in range(10):
                    if (found := self.answers(commands, straight=False)) == straight:
                        break
                    # The machine is busy: the BLPOP had no connection in time, and took nothing.
                    self.assertIn("BLPOP", commands)
                    self.assertEqual(found[1]["l"], [b"1", b"2", b"3"])
                self.assertEqual(found, straight)

    def answers(self, commands: str, straight: bool) -> tuple[bytes, dict[str, object]]:
        self.begin()
        self.direct.rpush("l", "1", "2", "3")
        client = self.connect(straight=straight)
        client.ask(pipeline("BLPOP nothing 0.01"))  # the proxy has a dedicated connection ready
        client.send(pipeline(commands))
        client.half_close()
        return client.rest(or_reset=True), {**self.there(), "a": self.direct.get("a")}

    def test_multiplexed(self) -> None:
        self.check()

    def test_dedicated(self) -> None:
        self.check("--connections", "dedicated")

    def test_a_large_reply_to_a_transaction_and_one_that_takes_long(self) -> None:
        self.start()
        self.direct.set("big", b"x" * 3_000_000)
        client = self.connect()
        client.send(pipeline("WATCH a"))
        client.send(pipeline("MULTI; GET big; EXEC"))
        client.half_close()
        self.assertEqual(len(client.rest()), len(b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n$3000000\r\n\r\n") + 3_000_000)


class RedisPyTests(GoneCase):
    """Consumers that wait for less than the time from job to job."""

    ROUNDS = 6

    def test_blocking_with_a_time_limit(self) -> None:
        self.start()
        with client_once(port=self.installation.proxy.port, password=Installation.BLUE, socket_timeout=0.2) as client:
            for number in range(self.ROUNDS):
                self.assertRaises(redis.TimeoutError, client.blpop, [f"jobs {number}"], 10)
                self.push_and_count(number)

    def test_asyncio_with_a_time_limit(self) -> None:
        self.start()

        async def work() -> None:
            client = redis.asyncio.Redis(port=self.installation.proxy.port, password=Installation.BLUE)
            for number in range(self.ROUNDS):
                with self.assertRaises(TimeoutError):
                    await asyncio.wait_for(client.blpop([f"jobs {number}"], 10), 0.2)
                await asyncio.to_thread(self.push_and_count, number)
            await client.aclose()

        asyncio.run(work())

    def push_and_count(self, number: int) -> None:
        self.blocked(0)
        self.direct.rpush(f"jobs {number}", "job")
        self.assertEqual(self.direct.llen(f"jobs {number}"), 1)
