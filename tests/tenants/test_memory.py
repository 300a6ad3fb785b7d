"""The memory of clients: who stops, and who is closed, when it is used up."""

from __future__ import annotations

import unittest
from collections.abc import Callable

from redisproxy import bounds
from redisproxy.tenants.memory import FREE, NOBODY, Memory, Usage


class Session:
    """A session that records what the memory asks of it. stops: whether it can stop."""

    def __init__(self, memory: Memory, account: str, stops: bool = True) -> None:
        self.stops = stops
        self.calls: list[str] = []
        self.usage = Usage(self)
        self.usage.belongs_to(memory, account)

    def memory_full(self) -> bool:
        self.calls.append("full")
        return self.stops

    def memory_free(self) -> None:
        self.calls.append("free")

    def memory_drained(self) -> None:
        self.calls.append("drained")

    def close_for_memory(self) -> None:
        self.calls.append("close")
        self.usage.end()


class MemoryTests(unittest.TestCase):
    def setUp(self) -> None:
        self.later: list[Callable[[], None]] = []
        #: clients may use 700 bytes
        self.memory = Memory(int(700 / FREE) + 1, self.later.append)

    def session(self, account: str = "blue", stops: bool = True) -> Session:
        return Session(self.memory, account, stops)

    def soon(self) -> None:
        later, self.later[:] = list(self.later), []
        for call in later:
            call()

    def test_below_the_bound_nobody_has_a_share(self) -> None:
        one, other = self.session(), self.session("green")
        one.usage.backlog(690)
        other.usage.queue(10)
        self.assertEqual((one.calls, other.calls), ([], []))
        self.assertEqual((self.memory.size, self.memory.of("blue"), self.memory.of("green")), (700, 690, 10))

    def test_the_largest_session_of_the_largest_account_stops_while_it_grows(self) -> None:
        small, large = self.session("green"), self.session()
        small.usage.backlog(100)
        large.usage.backlog(601)
        self.assertEqual((small.calls, large.calls, large.usage.stopped), ([], ["full"], True))
        large.usage.backlog(550)
        self.soon()
        self.assertEqual(large.calls, ["full"])
        large.usage.backlog(500)
        self.soon()
        self.assertEqual((large.calls, large.usage.stopped), (["full", "free"], False))

    def test_one_that_has_stopped_is_checked_again_when_it_has_grown_much(self) -> None:
        """Not for each piece of what was read before: that looks at all sessions."""
        large, small = self.session(), self.session("green")
        small.usage.backlog(100)
        large.usage.backlog(601)
        for size in range(602, 700):
            large.usage.backlog(size)
        self.assertEqual(large.calls, ["full"])
        large.usage.backlog(601 + bounds.READ_BYTES)
        self.assertEqual(large.calls, ["full"] * 2)
        large.stops = False
        large.usage.backlog(700)
        large.usage.backlog(700 + 2 * bounds.READ_BYTES)
        self.soon()
        self.assertEqual((large.calls, small.calls), (["full"] * 3 + ["close"], []))

    def test_it_is_closed_if_another_one_grows(self) -> None:
        large, small, growing = self.session(), self.session(), self.session("green")
        large.usage.backlog(400)
        small.usage.backlog(100)
        growing.usage.backlog(250)
        growing.usage.backlog(300)
        self.assertEqual((large.calls, small.calls, growing.calls), ([], [], []))
        self.soon()
        self.assertEqual((large.calls, small.calls, growing.calls), (["close"], [], []))
        self.assertEqual((self.memory.size, self.memory.of("blue")), (400, 100))

    def test_one_that_cannot_stop_is_closed(self) -> None:
        session = self.session(stops=False)
        session.usage.backlog(701)
        self.soon()
        self.assertEqual(session.calls, ["full", "close"])
        self.assertEqual((self.memory.size, self.memory.accounts, self.memory.stopped), (0, {}, {}))

    def test_one_that_grows_by_what_cannot_stop_is_closed(self) -> None:
        for kind in ("half", "waiting", "state"):
            with self.subTest(kind):
                session = self.session()
                getattr(session.usage, kind)(701)
                self.soon()
                self.assertEqual((session.calls, self.memory.size), (["close"], 0))

    def test_what_ends_later_charges_nobody(self) -> None:
        session = self.session()
        session.usage.state(100)
        session.usage.end()
        session.usage.state(200)
        self.assertEqual((self.memory.size, self.memory.accounts), (0, {}))

    def test_no_more_sessions_are_closed_than_have_to_be(self) -> None:
        sessions = [self.session() for _ in range(7)]
        for session in sessions:
            session.usage.backlog(100)
        growing = self.session("green")
        for size in range(10, 110, 10):
            growing.usage.backlog(size)
        self.soon()
        self.assertEqual([session.calls for session in sessions].count(["close"]), 1)

    def test_commands_alone_are_run_to_free_memory(self) -> None:
        session = self.session()
        session.usage.backlog(300)
        session.usage.commands(650)
        self.assertEqual(session.calls, ["full"])
        session.usage.backlog(0)
        self.soon()
        self.assertEqual((session.calls, session.usage.stopped), (["full", "drained"], True))
        session.usage.commands(0)
        self.soon()
        self.assertEqual(session.calls, ["full", "drained", "free"])

    def test_a_session_that_logs_in_takes_its_usage_along(self) -> None:
        session = self.session(NOBODY)
        session.usage.backlog(300)
        session.usage.belongs_to(self.memory, "blue")
        self.assertEqual((self.memory.of(NOBODY), self.memory.of("blue"), self.memory.size), (0, 300, 300))
        session.usage.end()
        self.assertEqual((self.memory.size, self.memory.accounts), (0, {}))

    def test_one_that_ends_while_it_waits_is_forgotten(self) -> None:
        gone, other = self.session(), self.session("green")
        other.usage.backlog(100)
        gone.usage.backlog(650)
        gone.usage.end()
        self.soon()
        self.assertEqual((gone.calls, self.memory.stopped, self.memory.size), (["full"], {}, 100))

    def test_without_a_limit(self) -> None:
        session = Session(Memory(), "blue")
        session.usage.backlog(1 << 40)
        self.assertEqual(session.calls, [])
