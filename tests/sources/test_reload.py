"""Tests the reload service: when it reads, what it reports, and when something expires."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

from twisted.internet import defer, task
from twisted.logger import capturedLogs, formatEvent
from twisted.trial import unittest

from redisproxy.sources import reload
from redisproxy.sources.manifests import ManifestsSource
from redisproxy.sources.throttle import Throttle
from redisproxy.tenants.documents import FullRead, ReadSummary, Update
from redisproxy.tenants.enrolment import Enrolment
from redisproxy.tenants.model import NOT_LOADED, AuthenticationError, Snapshot

from ..support.kept import KeptSnapshot
from ..support.proxy import PREFIX, Manifests, master, secret, tenant

MASTER = ("kube-system", "redis-secret-master")
#: 2026-01-01T00:00:00Z, when the tests' documents were created
CREATED = 1767225600
HOUR = 3600


def temporary(name: str, which: str, index: int, hours: float) -> dict:
    url = f"redis://:temp-{which}@redis:6379/{index}"
    return secret(name, f"redis-secret-temp-{which}", "2026-01-01T00:00:00Z", redis_connection_string=url, valid_hours=hours)


class Threads:
    """Takes the place of deferToThread: calls wait until the test lets them run."""

    def __init__(self) -> None:
        self.waiting: list[tuple[defer.Deferred, Callable]] = []
        self.started = 0

    def __call__(self, call: Callable, *arguments: object) -> defer.Deferred:
        self.started += 1
        done: defer.Deferred = defer.Deferred()
        self.waiting.append((done, functools.partial(call, *arguments)))
        return done

    def finish(self) -> None:
        """The one call that is under way ends."""
        [(done, call)] = self.waiting
        self.waiting = []
        defer.maybeDeferred(call).chainDeferred(done)


class CountedSource(ManifestsSource):
    """reads: how many there were."""

    reads = 0

    def read(self, *arguments: object) -> FullRead:
        self.reads += 1
        return super().read(*arguments)


class ServiceCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.manifests = Manifests()
        self.addCleanup(self.manifests.remove)
        self.blue = tenant("team-blue", 3, "blue-password")
        self.write(*self.blue)
        self.clock = task.Clock()
        self.clock.advance(CREATED)
        self.source = CountedSource(self.manifests.path, PREFIX, MASTER)
        self.rested: list[float] = []
        self.seen: list[Snapshot] = []

    def write(self, *documents: dict) -> None:
        self.manifests.write([master("redis://:master-password@redis:6379/0"), *documents])

    def make(self, in_thread: Callable = defer.maybeDeferred, interval: float = 300) -> KeptSnapshot:
        enrolment = Enrolment("redis-secret-master", MASTER)
        # A clock that says at each look that another second was worked.
        throttle = functools.partial(Throttle, itertools.count().__next__, self.rested.append)
        service = KeptSnapshot(self.clock, self.source, enrolment, interval, in_thread, throttle)
        service.listeners.append(self.seen.append)

        def stop() -> None:
            if service.running:
                service.stopService()
            self.assertEqual(self.clock.getDelayedCalls(), [])

        self.addCleanup(stop)
        return service

    def start(self) -> KeptSnapshot:
        service = self.make()
        service.startService()
        return service

    def elapsed(self) -> float:
        return self.clock.seconds() - CREATED


class RefreshTests(ServiceCase):
    def test_one_at_once_and_one_at_each_interval(self) -> None:
        self.start()
        self.assertEqual(self.source.reads, 1)
        self.clock.advance(299)
        self.assertEqual(self.source.reads, 1)
        self.clock.pump([1, 300, 300])
        self.assertEqual(self.source.reads, 4)

    def test_who_acts_on_a_change_hears_of_changes_only(self) -> None:
        service = self.start()
        self.clock.pump([300] * 3)
        service.resolve()
        self.assertEqual(len(self.seen), 1)
        self.write(*self.blue, *tenant("team-green", 5, "green-password"))
        self.clock.pump([300] * 3)
        self.assertEqual(len(self.seen), 2)
        self.manifests.write([master("redis://:another-password@redis:6379/0"), *self.blue])
        self.clock.pump([300] * 3)
        self.assertEqual(
            [snapshot.backend.password for snapshot in self.seen[1:]], [b"master-password", b"another-password"]
        )

    def test_namespaces_without_a_secret_are_told(self) -> None:
        (namespace, _) = tenant("team-new", 7, "new-password")
        self.write(*self.blue, namespace)
        service = self.start()
        self.assertEqual(service.without_secret, ("team-new",))
        self.write(*self.blue, *tenant("team-new", 7, "new-password"))
        self.clock.advance(300)
        self.assertEqual(service.without_secret, ())

    def test_it_rests_once_somebody_is_served(self) -> None:
        service = self.start()
        self.assertEqual(self.rested, [])
        self.write(*self.blue, *tenant("team-green", 5, "green-password"))
        service.refresh()
        self.assertGreaterEqual(len(self.rested), 5 + 2, "after each document, and at each tenant")
        self.assertEqual(len(self.seen), 2)

    def test_a_number_of_databases_that_comes_during_a_reading_is_not_lost(self) -> None:
        threads = Threads()
        service = self.make(threads)
        service.startService()
        threads.finish()
        service.refresh()
        [(done, call)] = threads.waiting
        outcome = call()
        service.use_databases(3)
        self.assertEqual(threads.started, 2, "never two at once")
        threads.waiting.clear()
        done.callback(outcome)
        self.assertEqual((threads.started, len(service.snapshot.tenants)), (3, 1))
        threads.finish()
        self.assertEqual((threads.started, len(service.snapshot.tenants)), (3, 0))

    def test_until_the_first_reading_is_over_nobody_logs_in(self) -> None:
        threads = Threads()
        service = self.make(threads)
        service.startService()
        with self.assertRaises(AuthenticationError) as caught:
            service.authenticate(None, b"blue-password")
        self.assertEqual((str(caught.exception), caught.exception.outcome), (NOT_LOADED, "not-loaded"))
        self.assertIsNone(service.reloaded_at)
        threads.finish()
        self.assertEqual(service.authenticate(None, b"blue-password").tenant.index, 3)
        self.assertEqual(service.reloaded_at, CREATED)

    def test_those_that_come_during_a_reading_make_one_more(self) -> None:
        threads = Threads()
        service = self.make(threads)
        service.startService()
        for _ in range(5):
            service.refresh()
        self.assertEqual(threads.started, 1)
        # What was written after the first reading began is in the second.
        threads.finish()
        self.write(*tenant("team-blue", 4, "blue-password"))
        self.assertEqual((threads.started, len(self.seen)), (2, 1))
        threads.finish()
        self.assertEqual((threads.started, len(self.seen)), (2, 2))
        self.assertEqual(service.authenticate(None, b"blue-password").tenant.index, 4)

    def test_a_reading_that_takes_longer_than_the_interval(self) -> None:
        threads = Threads()
        service = self.make(threads)
        service.startService()
        self.clock.pump([300] * 4)
        self.assertEqual(threads.started, 1)
        threads.finish()
        threads.finish()
        self.assertEqual(threads.started, 2)
        self.clock.advance(300)
        self.assertEqual(threads.started, 3)
        threads.finish()

    def test_a_source_that_crashes_is_a_bug_that_costs_nobody(self) -> None:
        service = self.start()
        self.patch(self.source, "read", lambda yield_cpu: 1 / 0)
        service.refresh()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(service.authenticate(None, b"blue-password").tenant.index, 3)
        self.source = ManifestsSource(self.manifests.path, PREFIX, MASTER)
        self.patch(service.reading, "source", self.source)
        self.write()
        self.clock.advance(1)
        self.assertEqual(service.snapshot.tenants, frozenset())

    def test_a_listener_that_crashes_is_a_bug_and_the_refreshes_go_on(self) -> None:
        service = self.make()
        service.listeners.insert(0, lambda snapshot: 1 / len(snapshot.tenants - service.snapshot.tenants))
        service.startService()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.seen), 1, "it costs no other listener")
        self.clock.advance(300)
        self.assertEqual(self.source.reads, 2)

    def test_a_listener_may_remove_itself(self) -> None:
        service = self.make()

        def once(snapshot: Snapshot) -> None:
            service.listeners.remove(once)

        service.listeners.insert(0, once)
        service.startService()
        self.assertEqual((len(self.seen), len(service.listeners)), (1, 1))

    def test_a_partial_failure_is_tried_again_and_is_no_refresh(self) -> None:
        service = self.start()
        (self.manifests.path / "broken.yaml").write_text("a: [")
        self.clock.advance(100)
        service.refresh()
        self.assertEqual(service.reloaded_at, CREATED)
        self.assertEqual(self.source.reads, 2)
        (self.manifests.path / "broken.yaml").unlink()
        self.clock.advance(1)
        self.assertEqual(service.reloaded_at, CREATED + 101)

    def test_how_many_databases_there_are_is_told_later(self) -> None:
        service = self.make()
        service.use_databases(3)
        self.assertIsNone(service.snapshot, "nothing was read yet")
        service.use_databases(None)
        service.startService()
        used = service.authenticate(None, b"blue-password")
        service.use_databases(3)
        self.assertFalse(self.seen[-1].renewed(used, CREATED))
        self.assertIn("Redis has no database 3", str(service.problems[0]))


class ToldTests(ServiceCase):
    """What an operator reads."""

    def logged(self, call: Callable[[], object]) -> list[tuple[str, str]]:
        with capturedLogs() as events:
            call()
        return [(event["log_level"].name, formatEvent(event)) for event in events]

    def test_a_problem_is_told_once_and_when_it_is_over(self) -> None:
        self.write(*self.blue, *tenant("team-green", "x", "green-password"))
        service = self.make()
        name = "team-green/redis-secret-master"
        problem = f"{name}: redis-connection-string does not end in /N, the number of the database"
        logged = self.logged(service.startService)
        self.assertIn(("warn", problem), logged)
        self.assertIn(("info", f"1 tenants with 1 credentials, from {self.source}"), logged)
        self.assertEqual(self.logged(lambda: self.clock.pump([300] * 5)), [])
        self.write(*self.blue, *tenant("team-green", 3, "green-password"))
        changed = self.logged(service.refresh)
        self.assertEqual([level for level, _ in changed], ["warn", "info"])
        self.assertEqual(changed[0][1], f"{name}: database 3 belongs to the older team-blue")
        self.assertEqual(changed[1][1], f"fixed: {problem}")
        self.write(*self.blue)
        self.assertEqual(self.logged(service.refresh), [("info", f"fixed: {changed[0][1]}")])
        self.assertEqual(self.logged(service.refresh), [])

    def test_a_source_that_fails_for_long_is_told_once(self) -> None:
        service = self.start()
        (self.manifests.path / "broken.yaml").write_text("a: [")
        levels = [level for level, _ in self.logged(service.refresh)]
        self.assertEqual(levels, ["warn"])
        self.assertEqual(self.logged(lambda: self.clock.pump([20] * 100)), [])
        (self.manifests.path / "broken.yaml").unlink()
        self.assertIn(("info", f"{self.source} can be read again"), self.logged(service.refresh))

    def test_a_flood_of_problems_is_told_a_few_at_a_time(self) -> None:
        names = [f"team-{number}" for number in range(50)]
        self.write(*(document for name in names for document in tenant(name, "x", "password")))
        service = self.make()
        turns = [self.logged(service.startService)]
        self.assertEqual(len(service.problems), 50)
        while due := [call for call in self.clock.getDelayedCalls() if call.getTime() == self.clock.seconds()]:
            tell = due[0].func
            due[0].cancel()  # Clock would make them all in one turn
            turns.append(self.logged(tell))
        lines = [[text for level, text in turn if level == "warn"] for turn in turns]
        self.assertEqual([len(turn) for turn in lines], [reload.LINES_AT_ONCE] * 2 + [10])
        self.assertEqual({text.split("/")[0] for turn in lines for text in turn}, set(names))
        # Told in their order, also what comes in between.
        self.write()
        with capturedLogs() as events:
            service.refresh()
            self.write(*tenant("team-1", "x", "password"))
            service.refresh()
            self.clock.pump([0, 0, 0])
        texts = [formatEvent(event) for event in events if "team-1/" in formatEvent(event)]
        self.assertEqual([text.startswith("fixed") for text in texts], [True, False])

    def test_what_is_still_to_be_told_is_no_call_after_the_stop(self) -> None:
        self.write(*(document for number in range(50) for document in tenant(f"team-{number}", "x", "password")))
        service = self.start()
        service.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ExpiryTests(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.moments: list[float] = []

    def watch(self, service: KeptSnapshot) -> None:
        """Notes when which temporary credential stopped working, as a session does."""
        held: dict[str, bool] = {}
        self.ended: dict[str, float] = {}

        def changed(snapshot: Snapshot) -> None:
            self.moments.append(self.elapsed())
            for credential in snapshot.credentials:
                holds = snapshot.renewed(credential, self.clock.seconds())
                if held.get(credential.secret, True) and not holds:
                    self.ended[credential.secret] = self.elapsed()
                held[credential.secret] = holds

        service.listeners.append(changed)

    def test_in_time_whatever_the_refreshes(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 1), temporary("team-blue", "b", 3, 2))
        service = self.make()
        self.watch(service)
        service.startService()
        # Steps that meet neither expiry, and signals in between.
        while self.elapsed() < 3 * HOUR:
            self.clock.advance(7)
            if int(self.elapsed()) % 5 == 0:
                service.refresh()
        self.assertEqual(set(self.ended), {"redis-secret-temp-a", "redis-secret-temp-b"})
        for name, due in (("redis-secret-temp-a", HOUR), ("redis-secret-temp-b", 2 * HOUR)):
            self.assertTrue(due <= self.ended[name] < due + 7, self.ended)
        self.assertEqual(service.authenticate(None, b"blue-password").tenant.index, 3)

    def test_nothing_but_the_expiry_is_needed(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 1))
        service = self.make(interval=86400)
        self.watch(service)
        service.startService()
        self.clock.advance(HOUR - 0.001)
        self.assertEqual(self.moments, [0])
        self.assertTrue(service.authenticate(None, b"temp-a"))
        self.clock.advance(0.001)
        self.assertEqual(self.moments, [0, HOUR])
        self.assertEqual(self.ended, {"redis-secret-temp-a": HOUR})
        self.assertRaises(AuthenticationError, service.authenticate, None, b"temp-a")

    def test_one_hour_that_began_59_minutes_ago(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 1))
        self.clock.advance(59 * 60)
        service = self.make()
        self.watch(service)
        service.startService()
        for _ in range(59):
            self.clock.advance(1)
            service.refresh()
        self.assertTrue(service.authenticate(None, b"temp-a"))
        self.assertEqual(self.ended, {})
        self.clock.advance(1)
        self.assertEqual(self.ended, {"redis-secret-temp-a": HOUR})
        self.assertRaises(AuthenticationError, service.authenticate, None, b"temp-a")

    def test_it_expires_while_the_source_is_away(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 1))
        service = self.make()
        self.watch(service)
        service.startService()
        (self.manifests.path / "broken.yaml").write_text("a: [")
        self.clock.pump([60] * 61)
        self.assertEqual(self.ended, {"redis-secret-temp-a": HOUR})
        self.assertTrue(service.authenticate(None, b"blue-password"))

    def test_far_away_and_never(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 24 * 366 * 1000), temporary("team-blue", "b", 3, 49))
        service = self.make(interval=86400)
        self.watch(service)
        service.startService()
        self.assertLessEqual(max(call.getTime() for call in self.clock.getDelayedCalls()), CREATED + 86400)
        self.clock.pump([HOUR] * 50)
        self.assertEqual(self.ended, {"redis-secret-temp-b": 49 * HOUR})

    def test_without_anything_that_expires_there_is_no_timer(self) -> None:
        self.start()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1, "the next refresh alone")


class SummaryTests(ServiceCase):
    """What listeners are given after each read."""

    def start(self) -> KeptSnapshot:
        service = self.make()
        self.summaries: list[tuple[ReadSummary, float]] = []
        service.on_read.append(lambda summary, began: self.summaries.append((summary, began - CREATED)))
        service.startService()
        return service

    def test_each_whole_read_is_told_also_if_nothing_has_changed(self) -> None:
        self.write(*self.blue)
        self.start()
        self.clock.advance(300)
        summary = ReadSummary(True, True, frozenset({"team-blue"}))
        self.assertEqual(self.summaries, [(summary, 0), (summary, 300)])

    def test_who_acts_on_it_has_the_directory_that_follows(self) -> None:
        self.write(*self.blue)
        service = self.make()
        order = []
        service.listeners.append(lambda _: order.append("directory"))
        service.on_read.append(lambda *_: order.append("read"))
        service.startService()
        self.assertEqual(order, ["directory", "read"])

    def test_when_it_began_is_before_it_was_read(self) -> None:
        threads = Threads()
        service = self.make(threads)
        began = []
        service.on_read.append(lambda _, when: began.append(when - CREATED))
        service.startService()
        self.clock.advance(7)
        threads.finish()
        self.assertEqual(began, [0])

    def test_what_cannot_be_read_says_nothing(self) -> None:
        self.write(*self.blue)
        self.start()
        (self.manifests.path / "broken.yaml").write_text("a: [")
        self.clock.advance(300)
        self.assertEqual(self.summaries[-1], (ReadSummary(True, False, None), 300))

    def test_a_master_secret_that_is_gone_or_malformed_is_not_in_force(self) -> None:
        self.write(*self.blue)
        service = self.start()
        for documents in (self.blue, [master("redis://"), *self.blue]):
            self.manifests.write(documents)
            service.refresh()
            self.assertEqual(self.summaries[-1][0], ReadSummary(True, False, frozenset({"team-blue"})))

    def test_of_single_objects_what_came_and_what_is_gone(self) -> None:
        self.write(*self.blue, *tenant("team-green", 5, "green-password"))
        gone: list[str] = []
        self.source.read_changes = lambda changes, yield_cpu: Update(dict.fromkeys(gone))
        service = self.start()
        for names, expected in (([], 1), (["team-green"], 2), (["team-green"], 2)):
            gone[:] = names
            service._changes.note("team-green", None)
            service.changed()
            self.clock.advance(1)
            self.assertEqual(len(self.summaries), expected)
        self.assertEqual(self.summaries[-1][0], ReadSummary(False, False, frozenset({"team-blue"})))


class StopTests(ServiceCase):
    def test_no_delayed_call_is_left(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 1))
        service = self.start()
        (self.manifests.path / "broken.yaml").write_text("a: [")
        service.refresh()
        self.assertEqual(len(self.clock.getDelayedCalls()), 3, "refresh, retry and expiry")
        service.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_comes_after_the_stop_starts_nothing(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 1))
        service = self.start()
        service.stopService()
        service.use_databases(16)
        service.resolve()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_reading_under_way_is_not_used(self) -> None:
        for crashes in (False, True):
            if crashes:
                self.patch(self.source, "read", lambda yield_cpu: 1 / 0)
            threads = Threads()
            service = self.make(threads)
            service.startService()
            service.refresh()
            service.stopService()
            threads.finish()
            self.assertEqual((threads.started, self.seen, self.clock.getDelayedCalls()), (1, [], []))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_it_can_be_started_again(self) -> None:
        service = self.start()
        service.stopService()
        service.startService()
        self.assertEqual(len(self.seen), 2, "who listens may have been started again, too")
        self.clock.advance(300)
        self.assertEqual(self.source.reads, 3)

    def test_what_expires_does_so_after_a_second_start_too(self) -> None:
        self.write(*self.blue, temporary("team-blue", "a", 3, 1))
        service = self.make(interval=86400)
        service.startService()
        service.stopService()
        service.startService()
        self.clock.advance(HOUR)
        self.assertEqual(len(self.seen), 3)
