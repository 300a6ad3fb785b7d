"""The watch: its threads, and what becomes of a stream.

Over real HTTP, with the small API on the other side.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

from twisted.logger import capturedLogs, formatEvent

from redisproxy.ops.retry import Backoff
from redisproxy.sources import kubernetes_watch, watch
from redisproxy.sources.kubernetes_watch import ClusterWatches
from redisproxy.sources.watch import WatchService
from redisproxy.sources.watch_events import Watched, WatchFailure
from redisproxy.tenants.documents import ITSELF, Changes

from ..support.apiserver import ANY, HANG, refusal
from ..support.cluster_source import BLUE, CLIENT, MASTER, SourceCase
from ..support.proxy import master, namespace, secret, tenant
from ..support.waiting import LIMIT, until


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
        self.watch = WatchService(self.calls, self.watches, MASTER, self.queue, lambda: None, self.refresh)
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
        self.wait(lambda: self.watch.events == 1, "the master secret is reported at the start")
        self.queue.pop_batch()
        self.assertEqual(self.refreshes, 2, "all is read after it is known where the watches begin")

    def wait(self, probe: Callable[[], object], what: str) -> None:
        until(lambda: (self.calls.run(), probe())[1], what)

    def seen(self, *secrets: tuple[str, str], namespaces: tuple[str, ...] = ()) -> None:
        """Just these have changed."""
        found = Changes()

        def all_there() -> bool:
            nonlocal found
            more = self.queue.pop_batch()
            found = Changes(found.namespaces | more.namespaces, found.secrets | more.secrets)
            return found.secrets >= set(secrets) and found.namespaces >= set(namespaces)

        self.wait(all_there, "the changes are reported")
        self.assertEqual(found, Changes(frozenset(namespaces), frozenset(secrets)))

    def test_what_changes(self) -> None:
        self.start()
        self.put("team-blue", "second")
        self.seen(BLUE)
        self.api.put(*tenant("team-red", 7, "red-password"))
        self.wait(lambda: self.watch.events == 4, "both are reported")
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
            "namespaces and secrets are watched: changes take effect at once"
        ])  # fmt: skip

    def test_bookmarks_keep_it_young(self) -> None:
        self.patch(watch, "LASTS", (1, 1))
        self.patch(watch, "GOOD", 0.0)  # as if it had lasted for the usual time
        self.start()
        self.put("other", "x")
        # Nothing that matters to them happens, but for the versions that go on.
        self.wait(lambda: sum(self.begins_now().values()) == 3, "each begins where the last bookmark was")

    def begins_now(self) -> dict[str, bool]:
        """By path: whether the last watch that was asked for began at the version that there is
        now.
        """
        asked = {
            (r.path, r.query.get("fieldSelector")): r.query.get("resourceVersion") for r in self.api.requests if r.watches
        }
        return {where: version == str(self.api._version) for where, version in asked.items()}

    def test_a_stall_is_noticed(self) -> None:
        self.patch(kubernetes_watch, "SILENCE", 0.3)
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
        """In the stream; and at its opening, where each attempt until `fix` finds out anew where to
        begin.
        """
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
            # Those that begin before compact() count as open, for this service, until they get
            # an answer.
            self.wait(lambda: len(set(self.api.watches())) == 3 and self.watch.watching, "all begin after compact()")
            self.calls.run()
            self.assertGreaterEqual(self.refreshes, 2, "all is read")
            if fault is None:
                self.assertEqual(self.refreshes, 2, "once for each of the two")
        self.queue.pop_batch()
        self.put("team-blue", "second")
        self.seen(BLUE)

    def test_what_is_too_old_after_an_outage_is_begun_anew_at_once_and_only_once(self) -> None:
        follower = watch._Follower(self.watch, self.watches, Watched.SECRETS, MASTER)
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
        self.queue.pop_batch()
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
        logged = [formatEvent(event) for event in events]
        self.assertEqual(len(logged), 2, logged)
        self.assertRegex(
            logged[0], "^secrets cannot be watched: 403 Forbidden: the right to watch secrets in all namespaces"
        )
        self.assertNotIn("planted", logged[0])

    def test_a_bug_costs_no_more_than_that(self) -> None:
        self.start()
        self.patch(self.watches, "concerns", lambda *_: 1 / 0)
        self.put("team-blue", "second")
        self.wait(lambda: self.refreshes > 2, "all is read")
        self.patch(self.watches, "concerns", functools.partial(ClusterWatches.concerns, self.watches))
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
            # what it waits for takes half a minute or more
            self.assertLess(time.monotonic() - began, 20)

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
            self.assertEqual(self.watches.concerns(what, where, name), matters, (what, where, name))
