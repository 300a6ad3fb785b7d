"""Tests the settings of a whole process."""

from __future__ import annotations

import io
import sys
import threading

from twisted.logger import globalLogPublisher
from twisted.trial import unittest

from redisproxy.ops.logs import observer
from redisproxy.processes.os_process import log_uncaught

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
