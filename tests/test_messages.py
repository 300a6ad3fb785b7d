"""The table of messages: codes, texts and fields, and that everything the proxy says is in it."""

from __future__ import annotations

import ast
import io
import json
import re
import string
import unittest
from collections.abc import Iterator
from pathlib import Path

from redisproxy import messages
from redisproxy.messages import ClientError, CloseReason, LogLine, Message, Text
from redisproxy.ops.logs import LEVELS, Log, observer

from .support.punctuation import DOUBLED

PACKAGE = Path(messages.__file__).parent
NAMES = dict(messages.all_messages())
#: Fields that a call adds itself, beside those that it is given.
ADDED = {"worker", "pid"}
#: What is said as Redis says it, in the version that answers.
REDIS_OWN = {"policy/unknown.py"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if name != "messages.py":
            yield name, ast.parse(path.read_text())


def fields(message: Message) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(message.text) if name}


def named(node: ast.AST) -> list[str]:
    """The names of messages that an expression may be: ``messages.X``, or one of two."""
    if isinstance(node, ast.IfExp):
        return named(node.body) + named(node.orelse)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "messages":
        return [node.attr] if node.attr in NAMES else []
    return []


def calls() -> Iterator[tuple[str, Message, set[str]]]:
    """(where, message, fields) of each place where a message is filled in."""
    for module, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or any(keyword.arg is None for keyword in node.keywords):
                continue  # with ** its fields are not known here
            given = {str(keyword.arg) for keyword in node.keywords}
            found = named(node.func)
            if isinstance(node.func, ast.Attribute):
                if node.func.attr == "reply":
                    found = named(node.func.value)
                elif node.func.attr in ("write", "log") and node.args:
                    found = named(node.args[0])
            for name in found:
                yield f"{module}:{node.lineno}", NAMES[name], given


class TableTests(unittest.TestCase):
    def test_codes_are_unique_words(self) -> None:
        codes = [message.code for message in NAMES.values()]
        self.assertEqual(len(codes), len(set(codes)))
        for code in codes:
            self.assertRegex(code, r"^[a-z0-9]+(-[a-z0-9]+)*$")

    def test_each_message_is_used(self) -> None:
        used = {node.attr for _, tree in modules() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= set(
            re.findall(r"\b[A-Z][A-Z0-9_]+\b", (PACKAGE / "messages.py").read_text().partition("\ndef redis_error")[2][:900])
        )
        unused = {name for name in NAMES if name not in used and not name.startswith("REDIS_ERRORS[")}
        self.assertEqual(unused, set())

    def test_each_use_has_the_fields_of_the_text(self) -> None:
        count = 0
        for where, message, given in calls():
            count += 1
            missing = fields(message) - given - ADDED
            self.assertEqual(missing if message.code != "worker-ended" else set(), set(), f"{where}: {message.code}")
            if not isinstance(message, LogLine):  # a line may have more, for JSON
                self.assertEqual(given - fields(message) - {"cause"}, set(), f"{where}: {message.code}")
        self.assertGreater(count, 200)

    def test_lines_of_the_log_have_a_level(self) -> None:
        for message in NAMES.values():
            if isinstance(message, LogLine):
                self.assertIn(message.level, (*LEVELS, "critical"))

    def test_errors_begin_with_their_kind(self) -> None:
        for message in NAMES.values():
            if isinstance(message, ClientError):
                self.assertRegex(message.text, "^(BUSY|ERR|NOAUTH|NOPERM|NOPROTO|WRONGPASS) ")

    def test_punctuation(self) -> None:
        for name, message in NAMES.items():
            self.assertNotRegex(message.text + message.remedy, DOUBLED, name)
            self.assertFalse(message.remedy and message.remedy[-1] not in ".:?", f"{name}: a remedy is a sentence")
            if isinstance(message, CloseReason):
                self.assertTrue(message.text.endswith("."), name)
            elif not (
                (isinstance(message, ClientError) and message.code == "error-client-name") or name in ("NOAUTH", "WRONGPASS")
            ):
                self.assertFalse(message.text.endswith("."), f"{name}: it stands within a sentence")

    def test_remedies_are_short_sentences(self) -> None:
        for name, message in NAMES.items():
            for sentence in re.split(r"(?<=[.?!]) ", message.remedy):
                self.assertLessEqual(len(sentence.split()), 30, f"{name}: {sentence}")


class EverywhereTests(unittest.TestCase):
    """Nothing is said past the table."""

    def test_lines_of_the_log(self) -> None:
        levels = {"debug", "info", "warn", "error", "critical", "emit"}
        for module, tree in modules():
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in levels:
                    self.assertFalse(ast.unparse(node.func.value).endswith("_log"), f"{module}:{node.lineno}: use Log.write")

    def test_errors_to_clients(self) -> None:
        for module, tree in modules():
            if module in REDIS_OWN:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                    text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                    self.assertNotRegex(
                        text, r"^-?(ERR|NOPERM|NOAUTH|WRONGPASS|NOPROTO) [a-zA-Z]+ \w", f"{module}:{node.lineno}"
                    )

    def test_reasons(self) -> None:
        """An exception that is a MessageError is given a message."""
        count = 0
        kinds = {"Problem", "ReadFailure"}
        for _, tree in modules():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and any("MessageError" in ast.unparse(base) for base in node.bases):
                    kinds.add(node.name)
        self.assertGreater(len(kinds), 8)
        for module, tree in modules():
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                    count += 1
                    last = node.args[-1] if node.args else None
                    self.assertNotIsInstance(last, ast.JoinedStr, f"{module}:{node.lineno}")
        self.assertGreater(count, 60)


class TextTests(unittest.TestCase):
    def test_it_is_a_text_that_knows_its_code(self) -> None:
        text = messages.DATABASE_OF_OLDER(index=3, owner="team-a")
        self.assertEqual(text, "database 3 belongs to the older team-a")
        self.assertEqual((text.code, text.runbook), ("tenant-database-of-older", ""))
        self.assertEqual(text.remedy, messages.DATABASE_OF_OLDER.remedy)

    def test_without_a_remedy_it_has_that_of_its_cause(self) -> None:
        cause = messages.NET_REFUSED(error="ConnectionRefusedError: errno 111")
        text = messages.REDIS_UNREACHABLE(address="redis://r", reason=cause)
        self.assertEqual((text.code, text.remedy, text.runbook), (cause.code, cause.remedy, "RedisUnreachable"))
        outer = messages.MASTER_MALFORMED(reason=messages.URL_NO_PASSWORD())
        self.assertEqual((outer.code, outer.remedy), ("master-malformed", messages.MASTER_MALFORMED.remedy))

    def test_it_is_one_printable_line(self) -> None:
        self.assertEqual(messages.NET_OTHER(error="a\nb\x1b[31m"), r"a\nb\x1b[31m")

    def test_it_comes_through_json(self) -> None:
        text = messages.REDIS_BUSY()
        again = messages.restored(*json.loads(json.dumps([text, text.code])))
        assert again is not None
        self.assertEqual((again, again.code, again.remedy), (text, text.code, text.remedy))
        self.assertIsNone(messages.restored("", ""))

    def test_redis_s_own_errors_have_their_advice(self) -> None:
        for error, code in (
            ("-BUSY Redis is busy running a script", "redis-error-busy"),
            ("WRONGPASS invalid username-password pair", "redis-error-wrongpass"),
            ("ERR invalid password", "redis-error-wrongpass-old"),
            ("ERR max number of clients reached", "redis-error-maxclients"),
            ("ERR something that nobody has thought of", "redis-error"),
            ("", "redis-error"),
        ):
            text = messages.redis_error(error)
            self.assertEqual((text, text.code), (error, code))
            self.assertEqual(bool(text.remedy), code != "redis-error")

    def test_an_error_repeats_no_line_end(self) -> None:
        self.assertEqual(
            messages.ARITY.reply(command=b"get\r\n+OK"), b"-ERR wrong number of arguments for 'get  +OK' command\r\n"
        )
        self.assertEqual(messages.HELLO_OPTION.reply(option="\u20ac"), b"-ERR Syntax error in HELLO option '?'\r\n")

    def test_json_lines_have_the_code_and_that_of_each_reason(self) -> None:
        out = io.StringIO()
        log = Log(namespace="here", observer=observer("json", "info", out))
        log.write(messages.REDIS_NO_CONNECTION, reason=messages.NET_TIMEOUT())
        line = json.loads(out.getvalue())
        self.assertEqual(line["message"], "no connection to Redis: no answer came in time")
        self.assertEqual((line["code"], line["reason_code"]), ("redis-no-connection", "net-timeout"))
        self.assertEqual((line["level"], line["reason"]), ("error", "no answer came in time"))

    def test_text_lines_are_the_text_alone(self) -> None:
        out = io.StringIO()
        Log(namespace="here", observer=observer("text", "info", out)).write(messages.WATCHED)
        self.assertTrue(out.getvalue().endswith(f"[here#info] {messages.WATCHED.text}\n"), out.getvalue())

    def test_a_text_may_be_compared_and_hashed_as_a_str(self) -> None:
        self.assertEqual({messages.WATCH_CLOSED()}, {"the connection was closed"})
        self.assertIsInstance(messages.WATCH_CLOSED(), Text)
