"""The watch: what a line says, what waits to be read, how a change gets into the directory, and what becomes of a stream.

Over real HTTP where there is a stream, with the small API on the other side.
"""

from __future__ import annotations

import functools
import json
import threading
import time
import unittest as plain
from collections.abc import Callable, Iterator

from twisted.internet import defer, task
from twisted.logger import capturedLogs, formatEvent
from twisted.trial import unittest

from redisproxy.ops.retry import Backoff
from redisproxy.sources import kubernetes, reload, watch
from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.sources.watch import (
    BATCH,
    LONGEST,
    MANY,
    MOST_OF_ONE,
    SHARE,
    ChangeQueue,
    Event,
    Watched,
    WatchFailure,
    WatchService,
    read_event,
    split_lines,
)
from redisproxy.tenants.enrolment import ITSELF, Changes, Enrolment, SecretDocument, Update
from redisproxy.tenants.model import AuthenticationError

from ..support.apiserver import ANY, HANG, NAMESPACES, ApiServer, refusal
from ..support.kept import KeptDirectory
from ..support.proxy import PREFIX, master, namespace, secret, tenant
from ..support.waiting import LIMIT, until

MASTER = ("kube-system", "redis-secret-master")
CLIENT = "redis-secret-master"
BLUE = ("team-blue", CLIENT)


def line(kind: str = "ADDED", **metadata: object) -> bytes:
    """As the API server writes it."""
    shown = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return json.dumps({"type": kind, "object": shown}, separators=(",", ":")).encode()


class EventTests(plain.TestCase):
    def test_what_matters_of_an_event(self) -> None:
        for kind in ("ADDED", "MODIFIED", "DELETED"):
            self.assertEqual(
                read_event(line(kind, name="a", namespace="team-blue", uid="u", resourceVersion="7", labels={"x": "y"})),
                Event(kind, "team-blue", "a", "7"),
            )
        self.assertEqual(
            read_event(line(name="team-blue", uid="u", resourceVersion="7")), Event("ADDED", "", "team-blue", "7")
        )
        bookmark = line("BOOKMARK", resourceVersion="9", creationTimestamp=None)
        self.assertEqual(read_event(bookmark), Event("BOOKMARK", "", "", "9"))

    def test_the_short_way_and_the_whole_parser_agree(self) -> None:
        """The short way looks at the beginning alone, so nothing that somebody wrote into an object can mislead it."""
        planted = '"},"metadata":{"name":"x","namespace":"y","uid":"z","resourceVersion":"1"'
        names = {"name": "a", "generateName": "a-", "namespace": "team-blue", "uid": "u", "resourceVersion": "7"}
        for metadata in (
            names,
            {**names, "selfLink": "/x"},
            {**names, "annotations": {"a": planted, "name": "x"}},
            {**names, "name": 'quote"d', "annotations": {"a": planted}},
            {**names, "name": "back\\slash"},
            {**names, "name": "é"},
            {"annotations": {"a": planted}, **names},
            dict(reversed(names.items())),
        ):
            written = line("MODIFIED", **metadata)
            self.assertEqual(read_event(written), read_event(b" " + written))

    def test_what_says_that_it_is_over(self) -> None:
        status = {"kind": "Status", "code": 410, "message": "too old resource version: planted", "reason": "Expired"}
        with self.assertRaises(WatchFailure) as caught:
            read_event(json.dumps({"type": "ERROR", "object": status}).encode())
        self.assertEqual(caught.exception.status, 410)
        self.assertNotIn("planted", caught.exception.reason)

    def test_what_is_no_event(self) -> None:
        for text in (
            b"", b"{", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, b"{}", b'{"type":"ADDED"}', b'{"type":"ADDED","object":[]}',
            b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}', line(name=7, resourceVersion="7"), b'{"type":"ERROR","object":7}',
            line(name="a", resourceVersion=""), line(name="a", resourceVersion=7), b"<html>",
        ):  # fmt: skip
            with self.assertRaises(WatchFailure, msg=text[:50]) as caught:
                read_event(text)
            self.assertEqual(caught.exception.status, 0)


class LineTests(plain.TestCase):
    def test_however_they_are_cut(self) -> None:
        lines = [line(name=f"n{number}", uid="u", resourceVersion=str(number)) for number in range(4)]
        text = b"\n".join(lines) + b"\n"
        for size in (1, 2, 7, 100, len(text)):
            chunks = [text[at : at + size] for at in range(0, len(text), size)]
            self.assertEqual(list(split_lines(chunks)), lines)
        self.assertEqual(list(split_lines([b"\n", b"a\n\nb", b"", b"\nrest"])), [b"a", b"b"])

    def test_the_longest(self) -> None:
        self.assertEqual([len(found) for found in split_lines([b"x" * LONGEST, b"\n"])], [LONGEST])

        def endless() -> Iterator[bytes]:
            for _ in range(LONGEST // 65536 + 2):
                yield b"x" * 65536
            raise AssertionError("it is read on and on")

        for chunks in (endless(), [b"x" * LONGEST, b"x\n"]):
            with self.assertRaisesRegex(WatchFailure, "too long"):
                list(split_lines(chunks))


class QueueTests(plain.TestCase):
    def setUp(self) -> None:
        self.queue = ChangeQueue()

    def test_each_once_whatever_happened_to_it(self) -> None:
        told = [self.queue.note("team-blue", "a"), self.queue.note("team-blue", "a"), self.queue.note("team-green", None)]
        self.assertEqual(told, [True, False, False], "who takes them is woken up once")
        self.queue.note("team-green", "a")
        self.assertTrue(self.queue)
        self.assertEqual(self.queue.take(), Changes(frozenset({"team-green"}), frozenset({("team-blue", "a")})))
        self.assertFalse(self.queue)
        self.assertEqual(self.queue.take(), Changes())
        self.assertTrue(self.queue.note("team-blue", "a"))

    def test_one_namespace_does_not_hold_up_the_others(self) -> None:
        for number in range(MOST_OF_ONE):
            self.queue.note("team-loud", str(number))
        for number in range(5):
            self.queue.note(f"team-{number}", "a")
        first = self.queue.take().secrets
        self.assertEqual(len([1 for where, _ in first if where == "team-loud"]), SHARE)
        self.assertEqual(len(first), SHARE + 5)
        seen = set(first)
        while self.queue:
            seen |= self.queue.take().secrets
        self.assertEqual(len(seen), MOST_OF_ONE + 5)

    def test_it_is_bounded(self) -> None:
        for number in range(10 * MOST_OF_ONE):
            self.queue.note("team-loud", str(number))
        self.assertEqual(self.queue.take(), Changes(frozenset({"team-loud"}), frozenset()))
        for number in range(3 * BATCH):
            self.queue.note(f"team-{number}", f"redis-secret-temp-{number}")
        self.assertEqual([len(self.queue.take().secrets) for _ in range(4)], [BATCH] * 3 + [0])

    def test_a_rotation_of_all_is_one_piece(self) -> None:
        for number in range(BATCH + MANY):
            self.queue.note(f"team-{number}", "a")
        self.queue.note("team-last", "b")
        self.queue.note("team-last", "a")
        self.assertEqual(len(self.queue.take().secrets), BATCH + MANY + 1)
        self.assertEqual(self.queue.take().secrets, {("team-last", "b")})
        self.assertFalse(self.queue)


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


class SourceCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.api = ApiServer(
            master("redis://:master-password@redis:6379/0"),
            *tenant("team-blue", 3, "blue-password"),
            *tenant("team-green", 5, "green-password"),
        ).start()
        self.addCleanup(self.api.remove)
        self.source = ClusterSource(
            PREFIX, CLIENT, MASTER, 443, {"KUBECONFIG": str(self.api.kubeconfig)}, timeout=(LIMIT, LIMIT)
        )
        self.queue = ChangeQueue()

    def put(self, name: str, password: str, index: int = 3) -> None:
        self.api.put(secret(name, CLIENT, redis_connection_string=f"redis://:{password}@redis:6379/{index}"))

    def lists(self) -> int:
        """How many times everything was read."""
        return len([r for r in self.api.requests if r.path == NAMESPACES and not {"fieldSelector", "watch"} & set(r.query)])


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

    def test_an_answer_about_others_is_none(self) -> None:
        """As of a gateway that knows no field selectors: it is neither this object nor its absence."""
        self.patch(kubernetes.ClusterSource, "_pages", lambda *_, **__: iter([{"metadata": {"name": "other"}}]))
        update = self.read(BLUE, namespaces=("team-green",))
        self.assertEqual({f.reason for f in update.failures}, {"the answer has objects that were not asked for"})
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
    """The service that reads, told of changes as a watch would."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = task.Clock()
        self.clock.advance(time.time())
        self.seen: list[object] = []

    def start(self, in_thread: Callable = defer.maybeDeferred) -> KeptDirectory:
        service = KeptDirectory(
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
        names = [f"redis-secret-temp-{number}" for number in range(3 * SHARE)]
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
        self.assertIsNone(self.service.directory)
        self.api.fix()
        self.clock.advance(reload.FIRST_RETRY)
        self.assertTrue(self.holds("blue-password"))
        self.clock.advance(reload.GATHER)
        self.assertFalse(self.queue)

    # While everything is read.

    def interrupt(self, change: Callable[[], None], namespace: str = "team-green") -> None:
        """Does something just before the secrets of this namespace are asked for, in the reading of everything."""
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


class Calls:
    """A reactor of which only callFromThread is used: what is called waits for `run`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable, tuple, dict]] = []

    def callFromThread(self, call: Callable, *arguments: object, **options: object) -> None:
        with self._lock:
            self._waiting.append((call, arguments, options))

    def run(self) -> bool:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for call, arguments, options in waiting:
            call(*arguments, **options)
        return bool(waiting)


class WatchTests(SourceCase):
    """The threads and the streams."""

    def setUp(self) -> None:
        super().setUp()
        self.calls = Calls()
        self.refreshes = 0
        self.patch(watch, "BACKOFF", Backoff(0.01, 10.0))
        self.watch = WatchService(self.calls, self.source, MASTER, self.queue, lambda: None, self.refresh)
        self.addCleanup(self.stop)

    def refresh(self) -> None:
        self.refreshes += 1

    def stop(self) -> None:
        if not self.watch.running:
            return
        threads = [follower.thread for follower in self.watch._followers]
        self.watch.stopService()
        for thread in threads:
            thread.join(LIMIT)
            self.assertFalse(thread.is_alive(), thread.name)

    def start(self) -> None:
        """Returns when all are open."""
        self.watch.startService()
        self.wait(lambda: self.watch.watching, "all are open")
        self.wait(lambda: len(self.api.watches()) == 3, "the server has them")
        self.wait(lambda: self.watch.events == 1, "the master secret is told at the start")
        self.queue.take()
        self.assertEqual(self.refreshes, 2, "all is read after it is known where the watches begin")

    def wait(self, probe: Callable[[], object], what: str) -> None:
        until(lambda: (self.calls.run(), probe())[1], what)

    def seen(self, *secrets: tuple[str, str], namespaces: tuple[str, ...] = ()) -> None:
        """Just these have changed."""
        found = Changes()

        def all_there() -> bool:
            nonlocal found
            more = self.queue.take()
            found = Changes(found.namespaces | more.namespaces, found.secrets | more.secrets)
            return found.secrets >= set(secrets) and found.namespaces >= set(namespaces)

        self.wait(all_there, "the changes are told")
        self.assertEqual(found, Changes(frozenset(namespaces), frozenset(secrets)))

    def test_what_changes(self) -> None:
        self.start()
        self.put("team-blue", "second")
        self.seen(BLUE)
        self.api.put(*tenant("team-red", 7, "red-password"))
        self.wait(lambda: self.watch.events == 4, "both are told")
        self.seen(namespaces=("team-red",))
        self.api.put(namespace("other"), secret("other", CLIENT), secret("team-blue", "other"))
        self.api.put(master("redis://:second@redis:6379/0"))
        self.seen(MASTER)
        self.api.put(namespace("team-blue"))
        self.seen(("team-blue", ITSELF))
        self.assertEqual((self.watch.reconnects, self.refreshes), (0, 2))
        self.assertLess(self.watch.quiet, LIMIT)

    def test_an_end_by_the_server_is_the_normal_course(self) -> None:
        self.patch(watch, "LASTS", (1, 1))
        self.patch(watch, "GOOD", 0.0)  # as if it had lasted for the usual time
        with capturedLogs() as events:
            self.start()
            self.put("team-blue", "second")
            self.wait(lambda: self.watch.reconnects >= 3, "each was opened again")
            self.put("team-green", "second", 5)
            self.seen(BLUE, ("team-green", CLIENT))
        self.assertEqual(self.refreshes, 2, "from where they stood")
        self.assertEqual([formatEvent(event) for event in events], [
            "namespaces and secrets are watched: what changes takes effect at once"
        ])  # fmt: skip

    def test_bookmarks_keep_it_young(self) -> None:
        self.patch(watch, "LASTS", (1, 1))
        self.patch(watch, "GOOD", 0.0)  # as if it had lasted for the usual time
        self.start()
        self.put("other", "x")
        # Nothing that matters to them happens, but for the versions that go on.
        self.wait(lambda: sum(self.begins_now().values()) == 3, "each begins where the last bookmark was")

    def begins_now(self) -> dict[str, bool]:
        """By path: whether the last watch that was asked for began at the version that there is now."""
        asked = {
            (r.path, r.query.get("fieldSelector")): r.query.get("resourceVersion") for r in self.api.requests if r.watches
        }
        return {where: version == str(self.api._version) for where, version in asked.items()}

    def test_a_stall_is_noticed(self) -> None:
        self.patch(kubernetes, "SILENCE", 0.3)
        self.start()
        self.api.stall_watches()
        self.put("team-blue", "second")
        self.wait(lambda: self.watch.reconnects >= 3, "each was opened again")
        self.api.fix()
        self.seen(BLUE)

    def test_a_broken_connection_is_resumed(self) -> None:
        self.start()
        self.api.fail_watches(ANY, refusal(500))
        self.api.cut_watches()
        self.wait(lambda: not self.watch.watching, "it is known")
        self.put("team-blue", "second")
        self.api.fix()
        self.wait(lambda: self.watch.watching, "they are open again")
        self.seen(BLUE)
        self.assertEqual(self.refreshes, 2)

    def test_an_answer_that_is_too_old(self) -> None:
        """In the stream; and at its opening, where each attempt until `fix` finds out anew where to begin."""
        self.start()
        for fault in (None, refusal(410)):
            self.refreshes = 0
            self.api.fail_watches(ANY, fault or refusal(500))
            self.api.cut_watches()
            before = len(self.api.requests)
            self.wait(lambda before=before: len(self.api.requests) >= before + 6, "it asks again and again")
            self.api.put(namespace("other"))
            self.api.compact()
            self.api.fix()
            # Those that begin before compact() count as open, for this service, until they are told.
            self.wait(lambda: len(set(self.api.watches())) == 3 and self.watch.watching, "all begin after compact()")
            self.calls.run()
            self.assertGreaterEqual(self.refreshes, 2, "all is read")
            if fault is None:
                self.assertEqual(self.refreshes, 2, "once for each of the two")
        self.queue.take()
        self.put("team-blue", "second")
        self.seen(BLUE)

    def test_what_is_too_old_after_an_outage_is_begun_anew_at_once_and_only_once(self) -> None:
        follower = watch._Follower(self.watch, self.source, Watched.SECRETS, MASTER)
        away, too_old = WatchFailure("away"), WatchFailure("too old", 410)
        for failures, failure, at_once in (
            (5, away, False),
            (6, away, False),
            (7, too_old, True),
            (8, too_old, False),
            (9, away, False),
            (10, too_old, True),
        ):
            self.assertEqual(follower._delay(failures, failure) == 0, at_once, failures)

    def test_garbage(self) -> None:
        self.start()
        for said in (b"\x00garbage\n", b'{"type":"ADDED"}\n', b'{"type":"ERROR","object":{"code":500}}\n'):
            self.refreshes, opened = 0, self.watch.reconnects
            self.api.say(said)
            self.wait(lambda opened=opened: self.refreshes >= 2 and self.watch.reconnects == opened + 3, "all is read")
            self.wait(lambda: self.watch.watching, "they are open again")
        self.queue.take()
        self.put("team-blue", "second")
        self.seen(BLUE)

    def test_without_the_right_it_is_told_once_and_tried_again(self) -> None:
        self.patch(watch, "FORBIDDEN", Backoff(0.02, 0.02))
        self.api.fail_watches("/api/v1/secrets", refusal(403, "planted"))
        with capturedLogs() as events:
            self.watch.startService()
            tries = lambda: [r for r in self.api.requests if r.path == "/api/v1/secrets" and r.watches]  # noqa: E731
            self.wait(lambda: len(tries()) > 3, "it is tried again")
            self.assertFalse(self.watch.watching)
            self.api.fix()
            self.wait(lambda: self.watch.watching, "the right was given")
        told = [formatEvent(event) for event in events]
        self.assertEqual(len(told), 2, told)
        self.assertRegex(told[0], "^secrets cannot be watched: 403 Forbidden: the right to watch secrets in all namespaces")
        self.assertNotIn("planted", told[0])

    def test_a_bug_costs_no_more_than_that(self) -> None:
        self.start()
        self.patch(self.source, "concerns", lambda *_: 1 / 0)
        self.put("team-blue", "second")
        self.wait(lambda: self.refreshes > 2, "all is read")
        self.patch(self.source, "concerns", functools.partial(ClusterSource.concerns, self.source))
        self.wait(lambda: self.watch.reconnects >= 1 and self.watch.watching, "it goes on")
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))

    def test_it_ends_at_once_whatever_it_waits_for(self) -> None:
        for fault in (None, refusal(500), refusal(403)):
            if fault:
                self.api.fail_watches(ANY, fault)
            self.watch.startService()
            self.wait(lambda: self.watch.watching or any(self.watch._state.values()), "it is under way")
            began = time.monotonic()
            self.stop()
            self.assertLess(time.monotonic() - began, 20)  # what it waits for takes half a minute or more

    def test_a_server_that_does_not_answer_does_not_hold_up_the_end(self) -> None:
        self.api.fail(ANY, HANG)
        self.watch.startService()
        until(lambda: len(self.api.requests) >= 3, "they ask")
        self.assertTrue(all(follower.thread.daemon for follower in self.watch._followers))
        self.watch.stopService()
        self.api.stop()


class ConcernsTests(SourceCase):
    def test_which_objects_matter(self) -> None:
        for what, where, name, matters in (
            (Watched.NAMESPACES, "team-blue", "", True),
            (Watched.NAMESPACES, "other", "", False),
            (Watched.NAMESPACES, MASTER[0], "", False),
            (Watched.SECRETS, *BLUE, True),
            (Watched.SECRETS, "team-blue", "redis-secret-temp-a", True),
            (Watched.SECRETS, "team-blue", "redis-secret-masters", False),
            (Watched.SECRETS, "other", CLIENT, False),
            (Watched.SECRETS, *MASTER, True),
            (Watched.SECRETS, MASTER[0], "redis-secret-temp-a", False),
            (Watched.MASTER, *MASTER, True),
            (Watched.MASTER, *BLUE, False),
        ):
            self.assertEqual(self.source.concerns(what, where, name), matters, (what, where, name))
