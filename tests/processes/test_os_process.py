"""Tests the settings of a whole process."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

from twisted.logger import globalLogPublisher
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.ops.logs import observer
from redisproxy.processes.os_process import log_uncaught, memory_limit

SECRET = "hunter2"


class UncaughtTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        for module, name in ((threading, "excepthook"), (sys, "unraisablehook")):
            self.patch(module, name, getattr(module, name))
        self.out = io.StringIO()
        write = observer("text", "info", self.out)
        globalLogPublisher.addObserver(write)
        self.addCleanup(globalLogPublisher.removeObserver, write)
        self.errors = io.StringIO()
        self.patch(sys, "stderr", self.errors)
        log_uncaught()

    def assertTold(self, text: str) -> None:
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertIn(text, self.out.getvalue())
        self.assertIn("builtins.ValueError", self.out.getvalue())
        self.assertNotIn(SECRET, self.out.getvalue() + self.errors.getvalue())

    def test_in_a_thread(self) -> None:
        thread = threading.Thread(target=lambda: int(SECRET), name="watch of nothing")
        thread.start()
        thread.join()
        self.assertTold("the thread watch of nothing failed because of a bug")

    def test_while_an_object_is_deleted(self) -> None:
        class Deleted:
            def __del__(self) -> None:
                int(SECRET)

        Deleted().__class__  # noqa: B018 - and it is gone
        self.assertTold("code that has no caller failed because of a bug")


class MemoryLimitTests(unittest.SynchronousTestCase):
    def limit(self, **files: str) -> int:
        root = Path(self.mktemp())
        for name, text in files.items():
            path = root / name.replace("__", "/").replace("_of_", ".", 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return memory_limit(root)

    def test_of_a_container(self) -> None:
        for files in (
            {"sys__fs__cgroup__memory_of_max": "268435456\n", "proc__self__cgroup": "0::/\n"},
            # It sees the path on its node, but only its own cgroup.
            {"sys__fs__cgroup__memory_of_max": "268435456\n", "proc__self__cgroup": "0::/kubepods/pod1\n"},
            {"sys__fs__cgroup__memory__memory_of_limit_in_bytes": "268435456\n"},
        ):
            with self.subTest(files):
                self.assertEqual(self.limit(**files), 256 << 20)

    def test_the_smallest_limit_of_nested_cgroups_holds(self) -> None:
        own = {"proc__self__cgroup": "0::/a/b\n", "sys__fs__cgroup__a__memory_of_max": "1000000000\n"}
        self.assertEqual(self.limit(**own), 1_000_000_000)
        self.assertEqual(self.limit(**own, sys__fs__cgroup__a__b__memory_of_max="900000000\n"), 900_000_000)
        old = "12:cpu,memory:/a\n3:pids:/b\n"
        files = {"proc__self__cgroup": old, "sys__fs__cgroup__memory__a__memory_of_limit_in_bytes": "500000000\n"}
        self.assertEqual(self.limit(**files), 500_000_000)

    def test_without_a_limit(self) -> None:
        for files in (
            {},
            {"sys__fs__cgroup__memory_of_max": "max\n"},
            {"sys__fs__cgroup__memory__memory_of_limit_in_bytes": "9223372036854771712\n"},
        ):
            with self.subTest(files):
                self.assertEqual(self.limit(**files), bounds.USUAL_MEMORY_BYTES)
