"""When Redis's log of slow commands is read, and which entries are counted."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.ops.logs import Log
from redisproxy.resp.value import Answer
from redisproxy.tenants.model import Tenant
from redisproxy.tenants.slow_log import ConnectionNames
from redisproxy.upstream.client import ControlError, ReplyError
from redisproxy.upstream.slow_log import SlowLogService

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 4)


class FakeLog:
    """Answers SLOWLOG GET from a list of entries, the newest first, or with an error."""

    connected = True

    def __init__(self) -> None:
        self.entries: list[list] = []
        self.error: Exception | None = None
        self.asked: list[int] = []

    def add(self, number: int, name: bytes, microseconds: int = 250_000) -> None:
        self.entries.insert(0, [number, 1000, microseconds, [b"KEYS", b"*"], b"", name])

    def ask(self, *words: str | int) -> Awaitable[Answer]:
        assert words[:2] == ("SLOWLOG", "GET")
        self.asked.append(int(words[2]))
        return defer.fail(self.error) if self.error else defer.succeed(self.entries[: int(words[2])])


class SlowLogServiceTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.redis = FakeLog()
        self.names = ConnectionNames()
        self.counted: list[tuple[Tenant, float]] = []
        self.logged: list[object] = []
        self.patch(Log, "write", lambda _, line, **fields: self.logged.append(line))
        self.service = SlowLogService(
            self.clock,
            self.redis,
            self.names.token,
            lambda entry: self.counted.append((entry.tenant, entry.microseconds / 1_000_000)),
        )
        self.service.startService()
        self.addCleanup(self.stops)

    def stops(self) -> None:
        self.service.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def look(self) -> list[tuple[Tenant, float]]:
        """Returns what is reported in the next round."""
        self.counted.clear()
        self.clock.advance(bounds.SLOW_LOG_SECONDS)
        return list(self.counted)

    def test_each_entry_is_counted_once(self) -> None:
        self.assertEqual(self.look(), [])
        self.redis.add(5, self.names.of(BLUE))
        self.redis.add(6, b"redisproxy-queries")
        self.redis.add(7, self.names.of(GREEN), 1_500_000)
        self.assertEqual(self.look(), [(BLUE, 0.25), (GREEN, 1.5)], "the oldest first")
        self.assertEqual(self.look(), [])
        self.redis.add(8, self.names.of(BLUE))
        self.assertEqual(self.look(), [(BLUE, 0.25)])
        # One entry tells whether there are new ones. Then only those are read.
        self.assertEqual(self.redis.asked, [1, 1, 8, 1, 1, 1])

    def test_no_more_than_so_many_are_read_at_once(self) -> None:
        for number in range(1000):
            self.redis.add(number, self.names.of(BLUE))
        self.assertEqual(len(self.look()), bounds.SLOW_LOG_ENTRIES)

    def test_those_of_other_processes_are_left_to_them(self) -> None:
        self.redis.add(5, ConnectionNames().of(BLUE))
        self.assertEqual(self.look(), [])

    def test_the_log_is_emptied(self) -> None:
        self.redis.add(5, self.names.of(BLUE))
        self.look()
        self.redis.entries.clear()
        self.assertEqual(self.look(), [])
        self.redis.add(6, self.names.of(BLUE))
        self.assertEqual(len(self.look()), 1)

    def test_another_run_of_redis_begins_with_small_ids(self) -> None:
        self.redis.add(5, self.names.of(BLUE))
        self.look()
        self.redis.entries.clear()
        self.redis.add(0, self.names.of(BLUE))
        self.assertEqual(len(self.look()), 1)
        self.service.use("another")
        self.assertEqual(len(self.look()), 1, "the probe says that it is another one, whatever the ids")
        self.service.use("another")
        self.assertEqual(self.look(), [])

    def test_redis_refuses(self) -> None:
        """The log of the proxy has one line. Redis is asked again after some minutes."""
        self.redis.error = ReplyError("NOPERM this user has no permissions to run the 'slowlog|get' command")
        for _ in range(2 * bounds.SLOW_LOG_REFUSED_ROUNDS):
            self.look()
        self.assertEqual(self.logged, [messages.SLOW_LOG_REFUSED])
        self.assertEqual(len(self.redis.asked), 2)
        self.redis.error = None
        self.redis.add(5, self.names.of(BLUE))
        self.service.use("another")
        self.assertEqual(len(self.look()), 1)

    def test_redis_is_away_or_busy(self) -> None:
        for error in (
            ControlError(messages.REDIS_CONNECTION_LOST()),
            ReplyError("BUSY Redis is busy"),
            ReplyError("LOADING x"),
        ):
            self.redis.error = error
            self.look()
        self.redis.connected = False
        self.look()
        self.assertEqual((len(self.redis.asked), self.logged), (3, []))
        self.redis.connected, self.redis.error = True, None
        self.redis.add(5, self.names.of(BLUE))
        self.assertEqual(len(self.look()), 1)
