"""What an operator reads."""

from __future__ import annotations

import io
import json
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path

from twisted.internet import task
from twisted.logger import Logger, LogLevel, LogPublisher, formatEvent, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure

from redisproxy.ops.access_log import AccessLog, ConnectionRecord
from redisproxy.ops.line_quota import ADDRESS_LINES, PERIOD, TENANT_LINES
from redisproxy.ops.logs import observer, record, replay


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
        self.assertEqual((event["message"], event["what"], event["count"]), (r"got a\nb", r"a\nb", 3))
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
        """It may quote a document, and a secret in it: in a line of the log, of a worker, of
        Twisted's older log.
        """
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
            for expected in ("it broke", "it broke: builtins.KeyError builtins.KeyError", "Unhandled Error"):
                self.assertIn(expected, text)

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
            write = observer(log_format, "info", stream)
            globalLogPublisher.addObserver(write)
            self.addCleanup(globalLogPublisher.removeObserver, write)
            for one in records:
                replay(one, 2, 1234)
            globalLogPublisher.removeObserver(write)
            lines = stream.getvalue().splitlines()
            if log_format == "text":
                self.assertRegex(lines[0], r"^\d{4}-\d\d-\d\dT\S+ \[worker-2/1234/here#info\] got a\\nb$")
                self.assertRegex(lines[1], r"\[worker-2/1234/here#critical\] it {x} broke$")
                self.assertRegex(lines[2], r"^\tTraceback")
                self.assertTrue(all(line.startswith("\t") for line in lines[2:]))
                self.assertEqual(lines[-1], "\tbuiltins.KeyError")
            else:
                for one, line in zip(records, map(json.loads, lines), strict=True):
                    self.assertEqual(line, {**one, "worker": 2, "pid": 1234})

    def test_level(self) -> None:
        logged = self.lines("text", "warn", ("debug", {"what": "1"}), ("info", {"what": "2"}), ("warn", {"what": "3"}))
        self.assertEqual(len(logged), 1)
        self.assertIn("got 3", logged[0])

    def test_ports_of_twisted_log_nothing_but_at_debug(self) -> None:
        """Twisted names classes there, and the proxy logs its ports in its own words."""
        for level, expected in (("info", ["it broke"]), ("debug", ["_Site starting on 9180", "it broke"])):
            stream = io.StringIO()
            publisher = LogPublisher(observer("json", level, stream))
            older = legacy.LogPublisher(publishPublisher=publisher)
            older.msg("_Site starting on 9180")
            older.msg("it broke", isError=1)
            self.assertEqual([json.loads(line)["message"] for line in stream.getvalue().splitlines()], expected, level)


class PrintableTests(unittest.TestCase):
    """Whatever is logged, by whom."""

    #: sequences for a terminal, the direction of writing, line ends, bytes that are no text
    HOSTILE = "a\x1b[2Jb\x07c\x9bd\u202ee\nf\r\u2028g\udc80h\u0301/\u0301\x00\x7f"
    SHOWN = r"a\x1b[2Jb\x07c\x9bd\u202ee\nf\r\u2028g\udc80h" + "\u0301" + r"/\u0301\x00\x7f"

    SECRET = "hunter2" + HOSTILE

    def written(self, log_format: str, tell: Callable[[Logger], object]) -> list[str]:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
        tell(Logger(namespace="here", observer=observer(log_format, "debug", stream)))
        stream.flush()
        return stream.buffer.getvalue().decode().removesuffix("\n").split("\n")

    def in_all_forms(self, tell: Callable[[Logger], object]) -> Iterator[tuple[str, list[str]]]:
        """(form, lines): as text, as JSON, and both of what a worker says."""

        def of_worker(log: Logger) -> None:
            said: list[dict] = []
            tell(Logger(namespace="here", observer=lambda event: said.append(json.loads(json.dumps(record(event))))))
            globalLogPublisher.addObserver(log.observer)
            try:
                for one in said:
                    replay(one, 1, 2)
            finally:
                globalLogPublisher.removeObserver(log.observer)

        for log_format in ("text", "json"):
            yield log_format, self.written(log_format, tell)
            yield log_format, self.written(log_format, of_worker)

    def test_fields(self) -> None:
        for form, lines in self.in_all_forms(lambda log: log.info("in {place}: {thing!r}", place=self.HOSTILE, thing=1)):
            (line,) = lines
            self.assertTrue(line.isprintable(), line)
            if form == "json":
                event = json.loads(line)
                self.assertEqual((event["message"], event["place"]), (f"in {self.SHOWN}: 1", self.SHOWN))
            else:
                self.assertTrue(line.endswith(f"] in {self.SHOWN}: 1"), line)

    def test_what_libraries_log(self) -> None:
        """By Twisted's older interface, which names a system, too."""

        def tell(log: Logger) -> None:
            publisher = legacy.LogPublisher(observerPublisher=log.observer, publishPublisher=log.observer)
            publisher.msg(self.HOSTILE, system=self.HOSTILE)

        for form in ("text", "json"):
            (line,) = self.written(form, tell)
            self.assertTrue(line.isprintable(), line)
            self.assertEqual(json.loads(line)["message"] if form == "json" else line.partition("] ")[2], self.SHOWN)

    def fail_with(self, secret: str) -> None:
        try:
            {}[secret]
        except KeyError as error:
            raise ValueError(f"invalid literal: {secret!r}") from error

    def check_traceback(self, form: str, lines: list[str]) -> None:
        self.assertNotIn("hunter2", "\n".join(lines))
        self.assertTrue(all(line.lstrip("\t").isprintable() for line in lines), lines)
        self.assertIn("it broke", lines[0])
        traceback = json.loads(lines[0])["traceback"].split("\n") if form == "json" else [line[1:] for line in lines[1:]]
        outside = [line for line in traceback if not line.startswith(" ")]
        head = "Traceback (most recent call last):"
        self.assertEqual(outside, [head, "builtins.KeyError", head, "builtins.ValueError"])
        self.assertTrue(any(line.endswith("in fail_with") for line in traceback), traceback)

    def test_a_traceback_keeps_its_lines_and_not_what_the_exception_says(self) -> None:
        def tell(log: Logger) -> None:
            try:
                self.fail_with(self.SECRET)
            except ValueError:
                log.failure("it broke at {place}", Failure(), place=self.HOSTILE, error=Failure())

        for form, lines in self.in_all_forms(tell):
            self.check_traceback(form, lines)

    def test_nor_one_that_a_library_logs(self) -> None:
        def tell(log: Logger) -> None:
            publisher = legacy.LogPublisher(observerPublisher=log.observer, publishPublisher=log.observer)
            try:
                self.fail_with(self.SECRET)
            except ValueError:
                publisher.msg(failure=Failure(), why="it broke", isError=1)

        for form in ("text", "json"):
            self.check_traceback(form, self.written(form, tell))

    def test_an_exception_in_a_field_is_its_type(self) -> None:
        for _, lines in self.in_all_forms(lambda log: log.warn("no: {error}", error=ValueError("hunter2"))):
            self.assertIn("no: builtins.ValueError", lines[0])
            self.assertNotIn("hunter2", lines[0])

    def test_a_system_error_says_which(self) -> None:
        def tell(log: Logger) -> None:
            try:
                Path("/no/such", self.SECRET.partition("\0")[0]).read_bytes()
            except OSError:
                log.failure("it broke")

        for _, lines in self.in_all_forms(tell):
            self.assertIn("builtins.FileNotFoundError: No such file or directory", "\n".join(lines))
            self.assertNotIn("hunter2", "\n".join(lines))

    def test_what_redis_repeats_of_a_command(self) -> None:
        reason = "Redis error: could not auth: ERR unknown command 'AUTH', with args beginning with: 'hunter2'"
        for _, lines in self.in_all_forms(lambda log: log.info("{reason}", reason=reason)):
            self.assertNotIn("hunter2", lines[0])
            self.assertIn("unknown command 'AUTH', with args beginning with: …", lines[0])


class AccessLogTests(unittest.TestCase):
    def setUp(self) -> None:
        self.events: list[dict] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.clock = task.Clock()
        self.outcomes = AccessLog(self.clock)

    def ended(self, close_reason: str, namespace: str | None = "blue", peer: str = "1.2.3.4:5") -> None:
        self.outcomes.ended(ConnectionRecord(1, peer, namespace, namespace and "main", 1.5, 7, 2, close_reason))

    def lines(self) -> list[str]:
        """What was written since the last time."""
        lines = [formatEvent(event) for event in self.events]
        self.events.clear()
        return lines

    def test_levels(self) -> None:
        for close_reason in ("client-left", "quit", "revoked"):
            self.ended(close_reason)
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
        logged = self.lines()
        self.assertEqual(logged[0], "refused keys to green/main from 1.2.3.4:6")
        self.assertRegex(logged[1], "^client 1 from 1.2.3.4:5, green/main: redis-lost")
        self.assertEqual(logged[2:], ["log-in from 1.2.3.4:7 refused: wrong password"])
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
        logged = self.lines()
        self.assertEqual(len(logged), ADDRESS_LINES + 2)
        self.assertIn("log-in from [2001:db8::1]:5 refused: wrong password", logged)
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
