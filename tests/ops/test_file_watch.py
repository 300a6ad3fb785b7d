"""When files are inspected, and when they have changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from twisted.internet import defer, task
from twisted.python.failure import Failure
from twisted.trial import unittest

from redisproxy.ops.file_watch import FileWatch, Settled, stamp


class StampTests(unittest.SynchronousTestCase):
    def test_it_differs_when_a_file_is_written_replaced_or_gone(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        path, link = directory / "a", directory / "link"
        link.symlink_to("a")
        stamps = [stamp(link)]
        path.write_text("one")
        stamps.append(stamp(link))
        path.write_text("other")
        stamps.append(stamp(link))
        (directory / "b").write_text("other")
        os.utime(directory / "b", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        (directory / "b").rename(path)
        stamps.append(stamp(link))
        self.assertEqual(len(set(stamps)), 4)
        self.assertEqual(stamp(link), stamps[-1])
        path.unlink()
        self.assertEqual(stamp(link), stamps[0])

    def test_a_change_is_complete_when_two_looks_are_alike(self) -> None:
        settled = Settled("a")
        self.assertEqual([settled.look(found) for found in "abcca"], [True, False, False, True, False])
        self.assertFalse(Settled().look("a"))


class FileWatchTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.looks: list[tuple[float, bool]] = []
        self.found: list[object] = []
        self.failures: list[Failure] = []
        #: looks that wait in their threads
        self.threads: list[tuple[defer.Deferred, Callable[[], object]]] = []
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def look(self, now: float, asked: bool) -> object:
        self.looks.append((now, asked))
        return len(self.looks)

    def watch(self, in_thread: Callable = defer.maybeDeferred, **how: object) -> FileWatch:
        how = {"look": self.look, "found": self.found.append, **how}
        watch = FileWatch(self.clock, failed=self.failures.append, interval=1.0, in_thread=in_thread, **how)
        watch.start()
        self.addCleanup(watch.stop)
        return watch

    def slowly(self, call: Callable[[], object]) -> defer.Deferred:
        done: defer.Deferred = defer.Deferred()
        self.threads.append((done, call))
        return done

    def thread_ends(self) -> None:
        done, call = self.threads.pop(0)
        done.callback(call())

    def test_it_is_looked_each_interval(self) -> None:
        self.watch()
        self.clock.pump([0.5] * 6)
        self.assertEqual(self.looks, [(1.0, False), (2.0, False), (3.0, False)])
        self.assertEqual(self.found, [1, 2, 3])

    def test_one_look_at_a_time(self) -> None:
        self.watch(self.slowly)
        self.clock.pump([1.0] * 10)
        self.assertEqual(len(self.threads), 1)
        self.thread_ends()
        self.clock.advance(1.0)
        self.assertEqual(len(self.threads), 1)

    def test_long_looks_take_a_share_of_the_time_at_most(self) -> None:
        self.watch(self.slowly, time_fraction=0.1)
        self.clock.advance(1.0)
        self.clock.advance(2.0)
        self.thread_ends()
        self.clock.advance(17.9)
        self.assertEqual(self.threads, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.threads), 1)

    def test_a_look_that_is_asked_for(self) -> None:
        watch = self.watch()
        watch.look_now()
        self.assertEqual(self.looks, [(0.0, True)])
        self.clock.advance(1.0)
        self.assertEqual(self.looks, [(0.0, True), (1.0, False)])

    def test_one_that_is_asked_for_during_another(self) -> None:
        watch = self.watch(self.slowly)
        self.clock.advance(1.0)
        watch.look_now()
        watch.look_now()
        self.assertEqual(len(self.threads), 1)
        self.thread_ends()
        self.clock.advance(0)
        self.thread_ends()
        self.assertEqual(self.looks, [(1.0, False), (1.0, True)])
        self.clock.advance(0)
        self.assertEqual(self.threads, [])

    def test_after_a_bug_it_is_looked_again(self) -> None:
        self.watch(look=lambda now, asked: 1 / 0)
        self.clock.pump([1.0] * 2)
        self.watch(found=lambda found: 1 / 0)
        self.clock.pump([1.0] * 2)
        self.assertEqual({failure.type for failure in self.failures}, {ZeroDivisionError})
        self.assertGreaterEqual(len(self.failures), 4)

    def test_what_is_found_after_the_end_is_dropped(self) -> None:
        watch = self.watch(self.slowly)
        self.clock.advance(1.0)
        watch.stop()
        watch.look_now()
        self.thread_ends()
        self.clock.pump([1.0] * 3)
        self.assertEqual((self.found, self.threads), ([], []))
