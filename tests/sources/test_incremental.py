"""Incremental reads: single objects are read again, and how what changed gets into the directory.

Over real HTTP, with the small API on the other side.
"""

from __future__ import annotations

import functools
import time
import unittest as plain
from collections.abc import Callable

from twisted.internet import defer, task

from redisproxy.sources import kubernetes, reload
from redisproxy.sources.hints import BATCH_PER_NAMESPACE, MANY
from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.tenants.documents import ITSELF, Changes, SecretDocument, Update
from redisproxy.tenants.enrolment import Enrolment
from redisproxy.tenants.model import AuthenticationError

from ..support.apiserver import ANY, NAMESPACES, refusal
from ..support.cluster_source import BLUE, CLIENT, MASTER, SourceCase
from ..support.kept import KeptSnapshot
from ..support.proxy import namespace, secret, tenant


class AmendTests(plain.TestCase):
    """What becomes of the last good answers."""

    def test_before_everything_was_read_nothing_is_known(self) -> None:
        enrolment = Enrolment(CLIENT, MASTER)
        enrolment.use_incremental_read(Update({"team-blue": None}, {}, {BLUE: None, MASTER: None}))
        self.assertFalse(enrolment.loaded)
        self.assertEqual(enrolment.resolve()[1], [])

    def test_the_later_answer_wins(self) -> None:
        old, new = (SecretDocument(*BLUE, 0.0, {"a": value}) for value in (b"old", b"new"))
        other = SecretDocument("team-blue", "other", 0.0, {})
        first = Update({"team-blue": None}, {}, {BLUE: old, ("team-green", CLIENT): None})
        listed = first.followed_by(Update({}, {"team-blue": (other,)}, {}))
        self.assertEqual((listed.listed, set(listed.secrets)), ({"team-blue": (other,)}, {("team-green", CLIENT)}))
        last = listed.followed_by(Update({}, {}, {BLUE: new}))
        self.assertEqual((last.listed, last.secrets[BLUE]), ({"team-blue": (other,)}, new))


class ReadChangesTests(SourceCase):
    def read(self, *secrets: tuple[str, str], namespaces: tuple[str, ...] = ()) -> Update:
        return self.source.read_changes(Changes(frozenset(namespaces), frozenset(secrets)))

    def test_what_is_there_and_what_is_not(self) -> None:
        self.api.put(secret("team-blue", "unrelated", redis_password="x"))
        update = self.read(BLUE, ("team-blue", "redis-secret-temp-a"), MASTER, namespaces=("team-green", "team-none"))
        self.assertEqual(update.failures, ())
        self.assertEqual(update.namespaces["team-green"].name, "team-green")
        self.assertIsNone(update.namespaces["team-none"])
        self.assertEqual([found.name for found in update.listed["team-green"]], [CLIENT])
        self.assertEqual(set(update.listed), {"team-green"})
        self.assertEqual({key: found and found.name for key, found in update.secrets.items()}, {
            BLUE: CLIENT, ("team-blue", "redis-secret-temp-a"): None, MASTER: CLIENT,
        })  # fmt: skip
        self.assertNotIn("password", repr(update))

    def test_a_namespace_that_changed_is_read_without_its_secrets(self) -> None:
        annotations = {"redisproxy/max-connections": "5"}
        self.api.put(namespace("team-blue", annotations=annotations))
        before = len(self.api.requests)
        update = self.read(("team-blue", ITSELF), ("team-none", ITSELF))
        self.assertEqual((update.failures, dict(update.listed), dict(update.secrets)), ((), {}, {}))
        self.assertEqual(update.namespaces["team-blue"].annotations, annotations)
        self.assertIsNone(update.namespaces["team-none"])
        self.assertEqual(len(self.api.requests) - before, 2)

    def test_many_that_changed_are_one_list(self) -> None:
        for number in range(MANY):
            self.api.put(namespace(f"team-{number}", annotations={"redisproxy/max-connections": str(number)}))
        before = len(self.api.requests)
        update = self.read(*((f"team-{number}", ITSELF) for number in range(1, MANY + 1)))
        self.assertEqual(update.failures, ())
        found = {name: one.annotations["redisproxy/max-connections"] for name, one in update.namespaces.items()}
        self.assertEqual(found, {f"team-{number}": str(number) for number in range(1, MANY)}, "none is taken for deleted")
        self.assertEqual(len(self.api.requests) - before, 3, "102 namespaces, 50 a page")
        self.api.fail(NAMESPACES, refusal(500))
        update = self.read(*((f"team-{number}", ITSELF) for number in range(MANY)))
        self.assertEqual((len(update.failures), dict(update.namespaces)), (1, {}))

    def test_a_failure_is_no_deletion(self) -> None:
        for fault in (refusal(500), refusal(403), refusal(503)):
            self.api.fail(ANY, fault)
            update = self.read(BLUE, MASTER, ("team-blue", ITSELF), namespaces=("team-green",))
            self.assertTrue(update.failures)
            self.assertEqual((dict(update.namespaces), dict(update.listed), dict(update.secrets)), ({}, {}, {}))

    def test_many_of_one_name_are_one_list(self) -> None:
        for number in range(MANY + 5):
            self.api.put(*tenant(f"team-{number}", number, f"password-{number}"))
        wanted = [(f"team-{number}", CLIENT) for number in range(MANY)] + [("team-none", CLIENT), ("team-blue", "other")]
        before = len(self.api.requests)
        update = self.read(*wanted)
        self.assertEqual((update.failures, set(update.secrets)), ((), set(wanted)))
        self.assertEqual(
            [key for key, found in update.secrets.items() if found is None], [("team-none", CLIENT), wanted[-1]]
        )
        for number in range(MANY):
            found = update.secrets[f"team-{number}", CLIENT]
            self.assertIn(f"password-{number}@".encode(), found.data["redis-connection-string"])
        self.assertEqual(len(self.api.requests) - before, 3 + 1, "108 secrets, 50 a page, and the other one")
        self.api.fail("/api/v1/secrets", refusal(500))
        update = self.read(*wanted)
        self.assertEqual((len(update.failures), dict(update.secrets)), (1, {("team-blue", "other"): None}))

    def test_an_object_whose_namespace_is_no_text_is_left_out(self) -> None:
        items = [{"metadata": {"name": CLIENT, "namespace": namespace}} for namespace in ({}, [], 7, None)]
        self.patch(kubernetes.ClusterSource, "_pages", lambda *_, **__: iter(items))
        wanted = [(f"team-{number}", CLIENT) for number in range(MANY)]
        update = self.read(*wanted)
        self.assertEqual((update.failures, dict(update.secrets)), ((), dict.fromkeys(wanted)))

    def test_an_answer_about_others_is_none(self) -> None:
        """As of a gateway that knows no field selectors: it is neither this object nor its
        absence.
        """
        self.patch(kubernetes.ClusterSource, "_pages", lambda *_, **__: iter([{"metadata": {"name": "other"}}]))
        update = self.read(BLUE, namespaces=("team-green",))
        expected = f"the answer of {self.api.url} has objects that the proxy did not ask for"
        self.assertEqual({failure.reason for failure in update.failures}, {expected})
        self.assertEqual((dict(update.secrets), dict(update.namespaces)), ({}, {}))


class Threads:
    """Takes the place of deferToThread: a call waits until the test lets it run."""

    def __init__(self) -> None:
        self.waiting: list[tuple[defer.Deferred, Callable]] = []

    def __call__(self, call: Callable, *arguments: object) -> defer.Deferred:
        done: defer.Deferred = defer.Deferred()
        self.waiting.append((done, functools.partial(call, *arguments)))
        return done

    def finish(self) -> None:
        [(done, call)], self.waiting = self.waiting, []
        defer.maybeDeferred(call).chainDeferred(done)


class DirectoryTests(SourceCase):
    """The service that reads, with changes reported as by a watch."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = task.Clock()
        self.clock.advance(time.time())
        self.seen: list[object] = []

    def start(self, in_thread: Callable = defer.maybeDeferred) -> KeptSnapshot:
        service = KeptSnapshot(
            self.clock, self.source, Enrolment(CLIENT, MASTER), 86400, in_thread, changes=self.queue
        )  # fmt: skip
        service.listeners.append(self.seen.append)
        service.startService()

        def stop() -> None:
            service.stopService()
            self.assertEqual(self.clock.getDelayedCalls(), [])

        self.addCleanup(stop)
        self.service = service
        return service

    def note(self, where: str, name: str | None) -> None:
        if self.queue.note(where, name):
            self.service.changed()

    def holds(self, password: str) -> bool:
        try:
            return bool(self.service.authenticate(None, password.encode()))
        except AuthenticationError:
            return False

    def test_a_change_takes_effect_after_a_moment(self) -> None:
        self.start()
        self.put("team-blue", "second")
        self.note(*BLUE)
        self.clock.advance(reload.GATHER / 2)
        self.assertFalse(self.holds("second"))
        self.clock.advance(reload.GATHER / 2)
        self.assertTrue(self.holds("second"))
        self.assertEqual((len(self.seen), self.lists()), (2, 1))

    def test_a_burst_is_one_piece_of_work(self) -> None:
        for number in range(30):
            self.api.put(*tenant(f"team-{number}", 10 + number, f"first-{number}"))
        self.start()
        for turn in range(5):
            for number in range(30):
                self.put(f"team-{number}", f"turn-{turn}-{number}", 10 + number)
                self.note(f"team-{number}", CLIENT)
        self.clock.advance(reload.GATHER)
        self.assertTrue(all(self.holds(f"turn-4-{number}") for number in range(30)))
        self.assertEqual((len(self.seen), self.lists()), (2, 1))

    def test_more_than_a_piece(self) -> None:
        names = [f"redis-secret-temp-{number}" for number in range(3 * BATCH_PER_NAMESPACE)]
        self.start()
        for name in names:
            self.api.put(secret("team-blue", name, redis_connection_string=f"redis://:{name}@redis:6379/3"))
            self.note("team-blue", name)
        self.clock.pump([1.0] * 3)
        self.assertTrue(all(map(self.holds, names)))
        self.assertEqual(len(self.seen), 4)

    def test_a_namespace_comes_and_goes(self) -> None:
        self.start()
        self.api.put(*tenant("team-red", 7, "red-password"))
        self.note("team-red", CLIENT)
        self.clock.advance(1)
        self.assertFalse(self.holds("red-password"), "its namespace is not known yet")
        self.note("team-red", None)
        self.clock.advance(1)
        self.assertTrue(self.holds("red-password"))
        self.api.delete("team-red")
        self.note("team-red", None)
        self.clock.advance(1)
        self.assertFalse(self.holds("red-password"))
        self.api.put(namespace("team-red"))
        self.note("team-red", None)
        self.clock.advance(1)
        self.assertFalse(self.holds("red-password"))

    def test_a_change_that_cannot_be_read_leads_to_a_refresh(self) -> None:
        service = self.start()
        self.put("team-blue", "second")
        self.api.fail(ANY, refusal(503))
        self.note(*BLUE)
        self.clock.advance(reload.GATHER)
        self.assertTrue(self.holds("blue-password"))
        self.api.fix()
        self.clock.advance(reload.FIRST_RETRY)
        self.assertTrue(self.holds("second"))
        self.assertEqual(service.reloaded_at, self.clock.seconds())

    def test_changes_before_the_first_reading(self) -> None:
        self.api.fail(ANY, refusal(503))
        self.start()
        self.note(*BLUE)
        self.clock.advance(reload.GATHER)
        self.assertIsNone(self.service.snapshot)
        self.api.fix()
        self.clock.advance(reload.FIRST_RETRY)
        self.assertTrue(self.holds("blue-password"))
        self.clock.advance(reload.GATHER)
        self.assertFalse(self.queue)

    # While everything is read.

    def interrupt(self, change: Callable[[], None], namespace: str = "team-green") -> None:
        """Does something just before the secrets of this namespace are asked for, in the reading of
        everything.
        """
        read, pending = kubernetes.ClusterSource._secrets, [change]

        def interrupted(source: ClusterSource, api: object, name: str, unreadable: list) -> object:
            if name == namespace and pending:
                pending.pop()()
            return read(source, api, name, unreadable)

        self.patch(kubernetes.ClusterSource, "_secrets", interrupted)

    def test_a_change_during_a_reading_does_not_wait_for_its_end(self) -> None:
        self.start()

        def change() -> None:  # the secrets of team-blue have been read by now
            self.put("team-blue", "second")
            self.note(*BLUE)

        self.interrupt(change)
        self.api.put(*tenant("team-red", 7, "red-password"))
        held: list[tuple[bool, bool]] = []
        self.service.listeners.append(lambda _: held.append((self.holds("second"), self.holds("red-password"))))
        self.service.refresh()
        # Once in between, once at the end, where the older answer does not win.
        self.assertEqual(held, [(True, False), (True, True)])

    def test_a_namespace_that_comes_and_one_that_goes_during_a_reading(self) -> None:
        self.start()

        def change() -> None:
            self.api.put(*tenant("team-red", 7, "red-password"))
            self.api.delete("team-blue")
            self.note("team-red", None)
            self.note("team-blue", None)

        self.interrupt(change)
        self.service.refresh()
        self.assertTrue(self.holds("red-password"))
        self.assertFalse(self.holds("blue-password"))

    def test_what_comes_after_the_stop_starts_nothing(self) -> None:
        service = self.start()
        self.note(*BLUE)
        service.stopService()
        service.changed()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_a_thread_works_it_waits(self) -> None:
        threads = Threads()
        self.start(threads)
        threads.finish()
        self.service.refresh()
        self.put("team-blue", "second")
        self.note(*BLUE)
        self.assertEqual(len(threads.waiting), 1)
        threads.finish()
        self.assertTrue(self.holds("second"))
