"""What an operator reads."""

from __future__ import annotations

import io
import json
import unittest

from twisted.internet import task
from twisted.logger import Logger, LogLevel, LogPublisher, formatEvent, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure

from redisproxy.ops.line_quota import ADDRESS_LINES, PERIOD, TENANT_LINES
from redisproxy.ops.logs import observer, record, replay
from redisproxy.ops.outcomes import Outcome, Outcomes


class ObserverTests(unittest.TestCase):
    def lines(self, log_format: str, level: str, *events: tuple[str, dict]) -> list[str]:
        stream = io.StringIO()
        log = Logger(namespace="here", observer=observer(log_format, level, stream))
        for event_level, fields in events:
            log.emit(LogLevel.lookupByName(event_level), "got {what}", **fields)
        return stream.getvalue().splitlines()

    def test_json(self) -> None:
        (line,) = self.lines("json", "info", ("info", {"what": "a\nb", "count": 3, "thing": object}))
        event = json.loads(line)
        self.assertEqual((event["message"], event["what"], event["count"]), ("got a\nb", "a\nb", 3))
        self.assertEqual((event["level"], event["logger"]), ("info", "here"))
        self.assertRegex(event["time"], r"^\d{4}-\d\d-\d\dT[\d:.]+\+00:00$")

    def test_json_of_a_failure(self) -> None:
        stream = io.StringIO()
        log = Logger(namespace="here", observer=observer("json", "info", stream))
        try:
            raise KeyError("x")
        except KeyError:
            log.failure("it broke", Failure())
        event = json.loads(stream.getvalue())
        self.assertEqual(event["level"], "critical")
        self.assertIn("Traceback", event["traceback"])

    def test_the_text_of_an_error_that_nobody_expected_is_left_out(self) -> None:
        """It may quote a document, and a secret in it: in a line of the log, of a worker, of Twisted's older log."""
        quoted = "hunter2secret"  # on another line than the error, which the traceback shows
        try:
            try:
                raise ValueError(quoted)
            except ValueError as error:
                raise KeyError(quoted) from error
        except KeyError:
            failure = Failure()
        for log_format in ("text", "json"):
            stream = io.StringIO()
            publisher = LogPublisher(observer(log_format, "info", stream))
            log = Logger(namespace="here", observer=publisher)
            older = legacy.LogPublisher(publishPublisher=publisher)
            log.failure("it broke", failure)
            log.error("it broke: {log_failure.value} {log_failure}", log_failure=failure)
            older.msg(failure=failure, why="it broke", isError=1)
            older.msg(failure=failure, why=None, isError=1)
            text = stream.getvalue()
            self.assertNotIn("hunter2", text)
            self.assertNotIn("Unable to format", text)
            self.assertIn("test_logs.py", text)
            for told in ("it broke", "it broke: builtins.KeyError builtins.KeyError", "Unhandled Error"):
                self.assertIn(told, text)

    def test_what_a_worker_logged_is_told_by_its_parent(self) -> None:
        records: list[dict] = []
        log = Logger(namespace="here", observer=lambda event: records.append(json.loads(json.dumps(record(event)))))
        log.info("got {what}", what="a\nb", thing=object)
        try:
            raise KeyError("x")
        except KeyError:
            log.failure("it {braces} broke", Failure(), braces="{x}")
        for log_format in ("text", "json"):
            stream = io.StringIO()
            told = observer(log_format, "info", stream)
            globalLogPublisher.addObserver(told)
            self.addCleanup(globalLogPublisher.removeObserver, told)
            for one in records:
                replay(one, 2, 1234)
            globalLogPublisher.removeObserver(told)
            lines = stream.getvalue().splitlines()
            if log_format == "text":
                self.assertRegex(lines[0], r"^\d{4}-\d\d-\d\dT\S+ \[worker-2/1234/here#info\] got a$")
                self.assertEqual(lines[1], "\tb")
                self.assertRegex(lines[2], r"\[worker-2/1234/here#critical\] it {x} broke$")
                self.assertRegex(lines[3], r"^\tTraceback")
                self.assertTrue(all(line.startswith("\t") for line in lines[3:]))
                self.assertEqual(sum("builtins.KeyError" in line for line in lines), 1)
            else:
                for one, line in zip(records, map(json.loads, lines), strict=True):
                    self.assertEqual(line, {**one, "worker": 2, "pid": 1234})

    def test_level(self) -> None:
        told = self.lines("text", "warn", ("debug", {"what": "1"}), ("info", {"what": "2"}), ("warn", {"what": "3"}))
        self.assertEqual(len(told), 1)
        self.assertIn("got 3", told[0])


class OutcomesTests(unittest.TestCase):
    def setUp(self) -> None:
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.clock = task.Clock()
        self.outcomes = Outcomes(self.clock)

    def ended(self, mood: str, namespace: str | None = "blue", peer: str = "1.2.3.4:5") -> None:
        self.outcomes.ended(Outcome(1, peer, namespace, namespace and "main", 1.5, 7, 2, mood))

    def lines(self) -> list[str]:
        """What was written since the last time."""
        lines = [formatEvent(event) for event in self.events]
        self.events.clear()
        return lines

    def test_levels(self) -> None:
        for mood in ("client-left", "quit", "revoked"):
            self.ended(mood)
        self.assertEqual([e["log_level"].name for e in self.events], ["debug", "debug", "info"])
        self.assertEqual((self.events[2]["namespace"], self.events[2]["commands"]), ("blue", 7))

    def test_a_storm_of_one_tenant_does_not_hide_anothers_lines(self) -> None:
        for _ in range(TENANT_LINES):
            self.outcomes.forbidden("1.2.3.4:5", "blue", "main", "config|set")
        self.assertEqual(len(self.lines()), TENANT_LINES)
        for _ in range(10):
            self.outcomes.forbidden("1.2.3.4:5", "blue", "main", "config|set")
            self.outcomes.tenant_full("1.2.3.4:5", "blue", "main")
            self.outcomes.login_refused("1.2.3.4:5", "wrong", "blue")
            self.ended("revoked")
        self.assertEqual(self.lines(), [])
        self.outcomes.forbidden("1.2.3.4:6", "green", "main", "keys")
        self.ended("redis-lost", "green")
        self.outcomes.login_refused("1.2.3.4:7", "wrong")
        told = self.lines()
        self.assertEqual(told[0], "refused keys to green/main from 1.2.3.4:6")
        self.assertRegex(told[1], "^client 1 from 1.2.3.4:5, green/main: redis-lost")
        self.assertEqual(told[2:], ["log-in from 1.2.3.4:7 refused: wrong"])
        self.clock.advance(PERIOD)
        self.assertEqual(
            [(event["left_out"], event["namespace"]) for event in self.events if "left_out" in event], [(40, "blue")]
        )
        self.assertEqual(self.lines(), ["40 lines about blue were left out: they came too fast"])

    def test_a_storm_of_one_address_does_not_hide_anothers_lines(self) -> None:
        for number in range(ADDRESS_LINES + 5):
            self.ended("turned-away", None, f"1.2.3.4:{number}")
        self.outcomes.login_refused("[2001:db8::1]:5", "wrong")
        self.ended("turned-away", None, "a Unix socket")
        told = self.lines()
        self.assertEqual(len(told), ADDRESS_LINES + 2)
        self.assertIn("log-in from [2001:db8::1]:5 refused: wrong", told)
        self.outcomes.startService()
        self.outcomes.stopService()
        self.assertEqual(
            self.lines(),
            ["5 lines about clients that are not logged in were left out: most came from 1.2.3.4"],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ordinary_ends_use_nothing_up(self) -> None:
        for _ in range(TENANT_LINES * 2):
            self.ended("client-left")
        self.assertEqual(len(self.lines()), TENANT_LINES * 2)
        self.ended("revoked")
        self.assertEqual(len(self.lines()), 1)
