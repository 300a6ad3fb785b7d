"""Tests sessions whose credential is revoked: their blocked commands, and the commands behind
these.
"""

from __future__ import annotations

import datetime
import os
import signal
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path

import redis

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.certificates import Authority
from ..support.proxy import Installation, has_ended, namespace, secret, tenant
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, on_every_server, redis_5, redis_7, valkey
from ..support.status import metrics, status_port
from ..support.waiting import LIMIT, until

#: Seconds within which blocked commands are given up after idle sessions have ended. That happens
#: at once, but machines are busy. Less than the time for pending replies.
GIVEN_UP = 0.8 * bounds.REVOKED_SECONDS
#: The blocking commands.
BLOCKING = (
    (b"BLPOP", b"q", b"0"),
    (b"BZPOPMIN", b"z", b"0"),
    (b"BLMOVE", b"m", b"elsewhere", b"LEFT", b"RIGHT", b"0"),
    (b"XREAD", b"BLOCK", b"0", b"STREAMS", b"s", b"$"),
    (b"WAIT", b"1", b"0"),
)
#: The commands behind a blocked command.
BEHIND = encode([b"GET", b"private"]) + encode([b"SET", b"late", b"1"]) + encode([b"KEYS", b"*"])
THROTTLED = frozenset({("namespace", "team-blue")})
BLUE, GREEN, TEMPORARY = "blue-password", "green-password", "temporary-password"


def temporary(hours_ago: float) -> dict:
    """Returns a temporary secret of team-blue that was made this many hours ago, and is valid for
    one hour.
    """
    created = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours_ago)
    return secret(
        "team-blue",
        "redis-secret-temp-1",
        created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        redis_connection_string=f"redis://:{TEMPORARY}@redisproxy:6379/3",
        valid_hours="1",
    )


class _Elsewhere(RedisServer):
    way = ""

    @property
    def url(self) -> str:
        return self.way


class RevocationCase(unittest.TestCase):
    def start(
        self, *options: str, binary: Callable[[], str] = valkey, settings: tuple[str, ...] = (), way: str = ""
    ) -> None:
        """way: the master's URL, if it is not the server's own."""
        server = RedisServer(binary, *settings)
        if way:
            server = _Elsewhere(binary, *settings)
            server.way = way
        self.installation = Installation(*options, server=server)
        self.addCleanup(self.installation.stop)
        self.addCleanup(self.check_log)
        self.direct = self.installation.server.client(3)
        self.addCleanup(self.direct.close)

    def check_log(self) -> None:
        self.assertNotIn("Traceback", self.installation.proxy.log)

    def raw(self, password: str, *words: bytes, behind: bytes = b"") -> RawClient:
        """Returns a session that has sent a command, and in the same write the commands
        behind it.
        """
        client = raw_client(self, self.installation.proxy.port, b"AUTH", password.encode(), timeout=20)
        client.send(encode(list(words)) + behind)
        return client

    def blocked(self, count: int, limit: float = LIMIT) -> None:
        """Waits until Redis has this many blocked clients."""
        until(lambda: self.direct.info("clients")["blocked_clients"] == count, f"{count} are blocked", limit)

    def witnesses(self, password: str) -> list[RawClient]:
        """Returns idle sessions, at least some in each process: they end at a revocation."""
        idle = [self.raw(password, b"PING") for _ in range(2 * self.installation.proxy.processes)]
        for connection in idle:
            self.assertEqual(connection.reply(), b"+PONG\r\n")
        return idle

    def given_up(self, witnesses: list[RawClient]) -> None:
        """Waits for the revocation. Blocked commands must be given up then."""
        for connection in witnesses:
            connection.socket.settimeout(LIMIT)
            self.assertEqual(connection.rest(or_reset=True), b"")
        self.blocked(0, GIVEN_UP)

    def without_blue(self, green_at: int = 5, *more: dict) -> None:
        documents = self.installation.documents()
        self.installation.manifests.write([documents[0], *tenant("team-green", green_at, GREEN), *more])

    def as_new_owner(self) -> redis.Redis:
        """Returns a client of Green, as soon as Green has database 3."""

        def logged_in() -> redis.Redis | None:
            try:
                client = self.installation.proxy.client(GREEN, 3, protocol=2, single_connection_client=True)
            except (redis.exceptions.NoPermissionError, redis.ConnectionError):
                return None  # database 5 is Green's, or was a moment ago
            self.addCleanup(client.close)
            return client

        return until(logged_in, "green has database 3")

    def hand_over(self, sessions: int = 1) -> None:
        """Blue's sessions block. Then Green gets the database, and writes the items that they wait
        for.
        """
        connections = [self.raw(BLUE, *words, behind=BEHIND) for words in BLOCKING for _ in range(sessions)]
        self.blocked(len(connections))
        self.without_blue(green_at=3)
        green = self.as_new_owner()
        with green.pipeline(transaction=False) as pipeline:
            pipeline.set("private", "secret").sadd("more", "secret")
            for number in range(sessions):
                pipeline.rpush("q", f"item-{number}").rpush("m", f"item-{number}")
                pipeline.zadd("z", {f"item-{number}": number}).xadd("s", {"item": number})
            pipeline.execute()
        for connection in connections:
            self.assertEqual(connection.rest(or_reset=True), b"")
        self.assertEqual([green.llen("q"), green.llen("m"), green.zcard("z"), green.xlen("s")], [sessions] * 4)
        self.assertEqual(sorted(green.keys()), [b"m", b"more", b"private", b"q", b"s", b"z"])
        self.assertEqual(self.direct.info("clients")["blocked_clients"], 0)
        self.installation.proxy.logged("team-blue/redis-secret-master: revoked after")


@on_every_server
class ServersTests(RevocationCase):
    def each_database_that_is_given_to_another(self, binary: Callable[[], str]) -> None:
        self.start(binary=binary)
        self.hand_over()


class HandoverTests(RevocationCase):
    def test_with_several_processes(self) -> None:
        self.start("--processes", "2")
        self.hand_over(4)

    def test_the_new_owner_waits_for_all_processes(self) -> None:
        self.start("--processes", "2")
        proxy = self.installation.proxy
        stuck, other = proxy.workers[1], proxy.workers[2]
        blocked = until(lambda: self.on_worker(1), "a session on worker 1")
        idle = until(lambda: self.on_worker(2), "a session on worker 2")
        blocked.send(encode([b"BLPOP", b"q", b"0"]) + BEHIND)
        self.blocked(1)
        os.kill(stuck, signal.SIGSTOP)
        self.addCleanup(os.kill, stuck, signal.SIGCONT)
        self.without_blue(green_at=3)
        self.assertEqual(idle.rest(or_reset=True), b"")
        proxy.logged(rf"worker-2/{other}/.*team-blue/redis-secret-master: revoked after")
        green = raw_client(self, proxy.port, timeout=20)
        green.send(encode([b"AUTH", GREEN.encode()]) + encode([b"RPUSH", b"q", b"item"]))
        green.socket.settimeout(0.5)
        self.assertRaises(TimeoutError, green.reply)
        os.kill(stuck, signal.SIGCONT)
        green.socket.settimeout(20)
        self.assertEqual((green.reply(), green.reply()), (b"+OK\r\n", b":1\r\n"))
        self.assertEqual(blocked.rest(or_reset=True), b"")
        self.assertEqual(self.direct.keys(), [b"q"])

    def on_worker(self, number: int) -> RawClient | None:
        """Returns a session of Blue's if it is served by this worker, else None. The client ids of
        workers alternate.
        """
        connection = self.raw(BLUE, b"CLIENT", b"ID")
        if int(connection.reply().strip(b":\r\n")) % 2 == number % 2:
            return connection
        connection.close()
        return None

    def test_with_connections_of_their_own(self) -> None:
        self.start("--connections", "dedicated")
        self.hand_over()

    def test_without_acl_users(self) -> None:
        self.start("--acl", "off")
        self.hand_over()

    def test_on_a_server_without_acls(self) -> None:
        self.start(binary=redis_5, settings=("bind 127.0.0.1",))  # Redis 5 does not know "-::1"
        # BLMOVE is new in Redis 6.2.
        connections = [self.raw(BLUE, b"BLPOP", b"q", b"0", behind=BEHIND)]
        self.blocked(1)
        self.without_blue(green_at=3)
        green = self.as_new_owner()
        green.rpush("q", "item")
        self.assertEqual(connections[0].rest(or_reset=True), b"")
        self.assertEqual(green.keys(), [b"q"])

    def test_with_threads_of_redis_that_read(self) -> None:
        self.start(binary=redis_7, settings=("io-threads 3", "io-threads-do-reads yes"))
        self.hand_over()

    def test_over_a_unix_socket(self) -> None:
        directory = self.directory()
        settings = (f"unixsocket {directory}/redis.sock", "unixsocketperm 700")
        self.start(settings=settings, way=f"unix://:{MASTER_PASSWORD}@{directory}/redis.sock")
        self.hand_over()

    def test_over_tls(self) -> None:
        directory = self.directory()
        authority = Authority(directory)
        certificate, key = authority.issue("redis", "localhost")
        port = free_port()
        settings = (
            f"tls-port {port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            f"tls-ca-cert-file {authority.path}",
            "tls-auth-clients no",
        )
        url = f"rediss://:{MASTER_PASSWORD}@localhost:{port}/0"
        self.start("--redis-ca", str(authority.path), binary=redis_7, settings=settings, way=url)
        self.hand_over()

    def directory(self) -> Path:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        return Path(temporary.name)

    def test_what_a_rate_held_back_is_never_run(self) -> None:
        self.start("--status", "tcp:0")
        documents = self.installation.documents()
        documents[1] = namespace("team-blue", annotations={"redisproxy/commands-per-second": "1"})
        self.installation.manifests.write(documents)
        blocked = self.raw(BLUE, b"BLPOP", b"q", b"0", behind=BEHIND)
        self.blocked(1)
        held = self.raw(BLUE, b"PING")
        port = status_port(self.installation)

        def is_held() -> bool:
            """Returns whether its commands have to wait from now on, for a quarter of an hour."""
            held.send(encode([b"PING"]) * 1000)
            return metrics(port).get(("redisproxy_tenant_throttled_connections", THROTTLED), 0) > 0

        until(is_held, "it is held")
        held.send(encode([b"SET", b"late", b"1"]) + encode([b"BLPOP", b"q", b"0"]))
        self.without_blue(green_at=3)
        green = self.as_new_owner()
        green.rpush("q", "item")
        self.assertEqual(blocked.rest(or_reset=True), b"")
        self.assertEqual(held.rest(or_reset=True).replace(b"+PONG\r\n", b""), b"")
        self.assertEqual(green.keys(), [b"q"])


class SameTenantTests(RevocationCase):
    """A temporary password ends, and its namespace stays: items that are pushed later are not for
    the session that ended.
    """

    def ends(self, end: Callable[[], None]) -> None:
        with self.installation.blue() as blue:
            connections = [self.raw(TEMPORARY, *words, behind=BEHIND) for words in BLOCKING]
            self.blocked(len(connections))
            idle = self.witnesses(TEMPORARY)
            end()
            self.given_up(idle)
            blue.rpush("q", "item")
            blue.rpush("m", "item")
            blue.zadd("z", {"item": 1})
            self.assertEqual((blue.llen("q"), blue.llen("m"), blue.zcard("z")), (1, 1, 1))
            for connection in connections:
                self.assertEqual(connection.rest(or_reset=True), b"")
            self.assertIsNone(blue.get("late"))
            self.assertTrue(blue.ping())

    def test_a_deleted_secret(self) -> None:
        self.start()
        documents = self.installation.documents()
        self.installation.manifests.write([*documents, temporary(0)])
        until(lambda: self.takes(TEMPORARY), "the temporary password is taken")
        self.ends(lambda: self.installation.manifests.write(documents))

    def test_an_expiry(self) -> None:
        self.start()
        # A busy machine may need more than the first of these times to accept the password.
        for seconds in (8, 30, 120):
            expires = time.time() + seconds
            self.installation.manifests.write([*self.installation.documents(), temporary(1 - seconds / 3600)])
            until(lambda: self.takes(TEMPORARY) or time.time() > expires, "the temporary password is taken", seconds + LIMIT)  # noqa: B023
            if time.time() < expires - 5 / 6 * seconds:
                break
        self.ends(lambda: until(lambda: time.time() > expires, "it expires", 4 * LIMIT))
        self.installation.proxy.logged("team-blue/redis-secret-temp-1: revoked after")

    def takes(self, password: str) -> bool:
        try:
            with self.installation.proxy.client(password, 3, single_connection_client=True) as client:
                return client.ping()
        except redis.AuthenticationError:
            return False


class OtherSessionsTests(RevocationCase):
    def test_what_redis_has_run_is_answered_and_an_open_transaction_is_not_run(self) -> None:
        self.start()
        large = b"x" * 200_000
        self.direct.set("large", large)
        connection = self.raw(BLUE, b"GET", b"large", behind=encode([b"BLPOP", b"q", b"0"]) + BEHIND)
        transaction = self.raw(BLUE, b"MULTI", behind=encode([b"SET", b"late", b"1"]))
        self.assertEqual(transaction.exactly(14), b"+OK\r\n+QUEUED\r\n")
        subscriber = self.raw(BLUE, b"SUBSCRIBE", b"c")
        self.assertIn(b"subscribe", subscriber.reply())
        self.blocked(1)
        idle = self.witnesses(BLUE)
        self.without_blue()
        self.given_up(idle)
        self.assertEqual(connection.rest(or_reset=True), b"$200000\r\n" + large + b"\r\n")
        self.assertEqual((transaction.rest(or_reset=True), subscriber.rest(or_reset=True)), (b"", b""))
        self.assertEqual(self.direct.keys(), [b"large"])

    def test_one_that_said_goodbye_behind_what_blocks(self) -> None:
        self.start()
        connection = self.raw(BLUE, b"BLPOP", b"q", b"0", behind=encode([b"QUIT"]))
        self.blocked(1)
        self.without_blue()
        self.blocked(0)
        self.assertEqual(connection.rest(or_reset=True), b"")

    def ends(self, *options: str) -> None:
        self.start("--drain-seconds", "25", *options)
        connection = self.raw(BLUE, b"BLPOP", b"q", b"0", behind=BEHIND)
        self.blocked(1)
        self.installation.proxy.process.send_signal(signal.SIGTERM)
        self.installation.proxy.logged("draining: 1 sessions")
        self.without_blue()
        self.blocked(0, 15)
        self.assertEqual(connection.rest(or_reset=True), b"")
        self.assertEqual(self.installation.proxy.process.wait(20), 0)
        self.assertEqual(self.direct.keys(), [])

    def test_while_the_proxy_ends(self) -> None:
        self.ends()

    def test_while_a_worker_ends(self) -> None:
        self.ends("--processes", "2")

    def test_a_tenant_that_goes_on_is_not_disturbed(self) -> None:
        self.start()
        with self.installation.green(single_connection_client=True) as green:
            green.ping()
            waiting = self.raw(GREEN, b"BLPOP", b"q", b"0")
            self.blocked(1)
            blue = self.installation.blue(single_connection_client=True)
            self.addCleanup(blue.close)
            blue.ping()
            self.without_blue()
            until(lambda: has_ended(blue), "blue's session ends")
            green.rpush("q", "item")
            self.assertIn(b"item", waiting.reply())
