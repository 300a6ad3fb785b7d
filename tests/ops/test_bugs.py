"""What is logged of a bug."""

from __future__ import annotations

from twisted.internet import defer
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.python.failure import Failure
from twisted.trial import unittest

from redisproxy.ops.bugs import bug


class BugTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        self.log = Logger(namespace="redisproxy.somewhere", observer=self.events.append)

    def test_an_unexpected_failure_is_logged_with_its_traceback(self) -> None:
        failed = defer.fail(ZeroDivisionError("secret")).addErrback(bug(self.log, "reading {what}", what="a file"))
        self.assertIsNone(self.successResultOf(failed))
        (event,) = self.events
        self.assertEqual(formatEvent(event), "reading a file failed because of a bug")
        self.assertEqual(event["log_namespace"], "redisproxy.somewhere")
        self.assertEqual(event["log_level"].name, "critical")
        self.assertIs(event["log_failure"].type, ZeroDivisionError)

    def test_an_expected_one_is_not(self) -> None:
        errback = bug(self.log, "looking", defer.CancelledError, KeyError)
        for expected in (defer.CancelledError(), KeyError("a")):
            self.assertIsNone(errback(Failure(expected)))
        self.assertEqual(self.events, [])
        errback(Failure(ValueError("a")))
        self.assertEqual(len(self.events), 1)
