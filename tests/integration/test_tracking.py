"""Client-side caching: refused by default, and for a tenant that may have it what it would be
straight to a Redis. Other databases' keys of the same names are heard, as docs/security.md says.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable

import redis
from redis.cache import CacheConfig

from redisproxy.resp.framing import encode
from redisproxy.tenants.limits import CLIENT_TRACKING

from ..support.proxy import Installation, namespace
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, on_every_server, redis_8, valkey
from ..support.waiting import until

OK = b"+OK\r\n"
EVERYTHING = b">2\r\n$10\r\ninvalidate\r\n_\r\n"
USER = "redisproxy:team-blue:3"
#: Sessions with tracking, as lines. After each ``|`` another client of the tenant sends the next.
#: The second is what rueidis sends for DoCache.
SESSIONS = (
    "CLIENT TRACKING ON; GET a; GET b|SET a 2; SET unread 3|GET a; CLIENT TRACKING OFF; GET a|SET a 4|PING",
    "CLIENT TRACKING ON OPTIN; CLIENT CACHING YES; MULTI; PTTL a; GET a; EXEC; GET b|SET b 1; SET a 3|PING",
    "CLIENT TRACKING ON OPTOUT; CLIENT CACHING NO; GET a; GET b|SET a 1; SET b 2|PING",
    "CLIENT TRACKING ON NOLOOP; GET a; SET a 2; GET b|SET b 2|GET a",
    "CLIENT TRACKING ON; MGET a b c; SET a 2; MULTI; GET b; SET b 3; GET c; INCR c; EXEC; ECHO end|SET a 5|PING",
    "CLIENT TRACKING ON; GET a|FLUSHDB|GET a; CLIENT TRACKING ON OPTIN OPTOUT; CLIENT TRACKING ON; CLIENT CACHING YES",
    "CLIENT TRACKING ON; SUBSCRIBE news; GET a; GET b|PUBLISH news x; SET a 1; PUBLISH news y|UNSUBSCRIBE; GET a|SET b 1|PING",
    "CLIENT TRACKING OFF; CLIENT CACHING YES; CLIENT TRACKING ON; GET a; BLPOP list 0.01|SET a 1|CLIENT GETREDIR",
    "CLIENT TRACKING ON; HSET h f v; HGETALL h; ZADD z 1 a 2 b; ZRANGE z 0 -1|HSET h f w; ZREM z a|CLIENT TRACKINGINFO",
)


def words(line: str) -> list[list[bytes]]:
    return [command.encode().split() for command in line.split("; ")]


class TrackingCase(unittest.TestCase):
    def start(self, binary: Callable[[], str], *options: str, allowed: bool = True) -> Installation:
        self.installation = Installation(*options, server=RedisServer(binary))
        self.addCleanup(self.check_log)
        self.addCleanup(self.installation.stop)
        if allowed:
            self.allow("allow")
            until(self.is_allowed, "the annotation is in force")
        return self.installation

    def check_log(self) -> None:
        self.assertNotIn("Traceback", self.installation.proxy.log)
        self.assertNotIn("redis-lost", self.installation.proxy.log)

    def allow(self, value: str | None) -> None:
        """Sets team-blue's annotation."""
        documents = self.installation.documents()
        documents[1] = namespace("team-blue", annotations={} if value is None else {CLIENT_TRACKING: value})
        self.installation.manifests.write(documents)

    def is_allowed(self) -> bool:
        with self.raw() as client:
            return client.ask([b"CLIENT", b"TRACKING", b"ON"]) == OK

    def raw(self, password: str = Installation.BLUE, protocol: bytes = b"3", port: int = 0) -> RawClient:
        login = (b"HELLO", protocol, b"AUTH", b"default", password.encode())
        return raw_client(self, port or self.installation.proxy.port, *login)

    def rights(self) -> set[str]:
        """Returns which subcommands of CLIENT the tenant's ACL user may use at Redis."""
        with self.installation.server.client(decode_responses=True) as master:
            answer = master.execute_command("ACL", "GETUSER", USER)
            commands = answer["commands"] if isinstance(answer, dict) else answer[answer.index("commands") + 1]
            return {word for word in str(commands).split() if word.startswith("+client")}

    def flags(self) -> list[str]:
        """Returns the flags of all connections with tracking that Redis has."""
        with self.installation.server.client() as master:
            return [client["user"] for client in master.client_list() if "t" in client["flags"]]


@on_every_server
class SameTests(TrackingCase):
    """With the annotation, the client hears what it would hear straight."""

    def heard(self, port: int, password: str, session: str) -> list[bytes]:
        tracker, other = (self.raw(password, protocol, port) for protocol in (b"3", b"2"))
        for client in (tracker, other):
            client.ask([b"SELECT", b"3"])
        for command in words("FLUSHDB; MSET a 1 b 2 c 3"):
            other.ask(command)
        found = []
        for number, line in enumerate(session.split("|")):
            if number % 2:
                for command in words(line):
                    other.ask(command)
                continue
            tracker.send(b"".join(map(encode, [*words(line), [b"ECHO", b"\0end"]])))
            while not found or found[-1] != b"$4\r\n\0end\r\n":
                found.append(tracker.reply())
            found.append(b"")
        for client in (tracker, other):
            client.close()
        return found

    def each_session(self, binary: Callable[[], str]) -> None:
        self.compare(binary)

    def each_session_with_dedicated_connections(self, binary: Callable[[], str]) -> None:
        self.compare(binary, "--connections", "dedicated")

    def compare(self, binary: Callable[[], str], *options: str) -> None:
        self.start(binary, *options)
        alone = RedisServer(binary).start()
        self.addCleanup(alone.stop)
        for session in SESSIONS:
            straight = self.heard(alone.port, alone.password, session)
            self.assertEqual(self.heard(self.installation.proxy.port, Installation.BLUE, session), straight, session)
        until(lambda: not self.flags(), "no connection with tracking is left")


@on_every_server
class OtherTenantsTests(TrackingCase):
    def each_other_database(self, binary: Callable[[], str]) -> None:
        """What such a tenant accepts, and what it never hears."""
        installation = self.start(binary)
        tracker, other = self.raw(), self.raw(Installation.GREEN, b"2")
        tracker.ask([b"CLIENT", b"TRACKING", b"ON"])
        tracker.ask([b"GET", b"a"])
        for command in words("SET unread 1; SET b 1; DEL unread; SET a 1"):
            other.ask(command)
        self.assertEqual(tracker.reply(), b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n")
        other.ask([b"SET", b"a", b"2"])  # it was not read again
        self.assertEqual(tracker.ask([b"PING"]), b"+PONG\r\n")
        other.ask([b"FLUSHDB"])
        self.assertEqual(tracker.reply(), EVERYTHING)
        self.assertTrue(other.ask([b"CLIENT", b"TRACKING", b"ON"]).startswith(b"-NOPERM"))
        for options in ((b"BCAST",), (b"BCAST", b"PREFIX", b"u"), (b"REDIRECT", b"1")):
            self.assertTrue(tracker.ask([b"CLIENT", b"TRACKING", b"ON", *options]).startswith(b"-NOPERM"))
        self.assertNotIn("tracking", installation.server.client().acl_getuser("redisproxy:team-green:5")["commands"])

    def each_connection_is_its_own(self, binary: Callable[[], str]) -> None:
        """Nobody else gets a connection with tracking, and after OFF it is given back."""
        self.start(binary)
        for end in ([b"RESET"], [b"QUIT"], [b"AUTH", Installation.GREEN.encode()], None):
            tracker = self.raw()
            self.assertEqual(tracker.ask([b"CLIENT", b"TRACKING", b"ON"]), OK)
            tracker.ask([b"GET", b"a"])
            until(lambda: self.flags() == [USER], "Redis has one connection with tracking")
            if end is not None:
                answer = tracker.ask(end)
                self.assertEqual(answer == EVERYTHING, end[0] == b"AUTH")
            tracker.close()
            until(lambda: self.flags() == [], "Redis has none with tracking")
        tracker, other = self.raw(), self.raw()
        for _ in range(3):
            self.assertEqual(tracker.ask([b"CLIENT", b"TRACKING", b"ON"]), OK)
            tracker.ask([b"GET", b"a"])
            self.assertEqual(tracker.ask([b"CLIENT", b"TRACKING", b"OFF"]), OK)
            self.assertEqual(self.flags(), [])
            for command in words("SET a 1; WATCH a; MULTI; GET a; EXEC; SUBSCRIBE n; UNSUBSCRIBE"):
                self.assertNotIn(b"invalidate", other.ask(command))
            self.assertEqual(tracker.ask([b"PING"]), b"+PONG\r\n")


@on_every_server
class AnnotationTests(TrackingCase):
    def each_default(self, binary: Callable[[], str]) -> None:
        installation = self.start(binary, allowed=False)
        client = self.raw()
        for options in ((), (b"OPTIN",), (b"BCAST",)):
            self.assertTrue(client.ask([b"CLIENT", b"TRACKING", b"ON", *options]).startswith(b"-NOPERM "))
        self.assertEqual(client.ask([b"CLIENT", b"TRACKING", b"OFF"]), OK)
        self.assertEqual(client.ask([b"PING"]), b"+PONG\r\n")
        self.assertEqual(self.rights(), set())
        with installation.blue(protocol=3, cache_config=CacheConfig()) as cached:
            self.assertRaises(redis.exceptions.NoPermissionError, cached.get, "a")

    def each_one_that_is_taken_back(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        tracker, blocked, plain = self.raw(), self.raw(), self.raw()
        for client in (tracker, blocked):
            self.assertEqual(client.ask([b"CLIENT", b"TRACKING", b"ON"]), OK)
        self.assertIn("+client|tracking", self.rights())
        blocked.send([b"BLPOP", b"q", b"0"])
        plain.ask([b"SET", b"a", b"1"])
        self.allow(None)
        for client in (tracker, blocked):
            self.assertEqual(client.rest(or_reset=True), b"")
        until(lambda: self.flags() == [], "Redis has none with tracking")
        self.assertEqual(plain.ask([b"GET", b"a"]), b"$1\r\n1\r\n")
        self.assertTrue(plain.ask([b"CLIENT", b"TRACKING", b"ON"]).startswith(b"-NOPERM"))
        self.assertRegex(self.installation.proxy.log, "tracking-ended")
        # the next connection that logs in takes the right away
        plain.ask([b"WATCH", b"a"])
        other = self.raw()
        other.ask([b"WATCH", b"a"])
        until(lambda: self.rights() == set(), "Redis lets the tenant not use it")
        self.allow("allow")
        until(self.is_allowed, "it is allowed again")
        self.assertIn("+client|caching", self.rights())

    def test_in_two_processes(self) -> None:
        self.start(valkey, "--processes", "2")
        trackers = [self.raw() for _ in range(6)]
        for tracker in trackers:
            until(lambda tracker=tracker: tracker.ask([b"CLIENT", b"TRACKING", b"ON", b"OPTIN"]) == OK, "allowed everywhere")
        for tracker in trackers:
            self.assertEqual(tracker.ask([b"CLIENT", b"CACHING", b"YES"]), OK)
            tracker.ask([b"GET", b"a"])
        trackers[0].ask([b"SET", b"a", b"1"])
        for tracker in trackers[1:]:
            self.assertIn(b"invalidate", tracker.reply())
        self.allow("deny")
        for tracker in trackers:
            tracker.rest(or_reset=True)


class LibraryTests(TrackingCase):
    def test_redis_py(self) -> None:
        """It wants a Redis of 7.4 at least, and no Valkey."""
        installation = self.start(redis_8)
        from redis.cache import CacheConfig

        with installation.blue(protocol=3, cache_config=CacheConfig()) as cached, installation.blue() as other:
            other.set("a", "1")
            self.assertEqual([cached.get("a"), cached.get("a")], [b"1", b"1"])
            other.set("a", "2")
            until(lambda: cached.get("a") == b"2", "the cache has forgotten the value")
