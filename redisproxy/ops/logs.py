"""Formats log lines as text or JSON, and logs a worker's events in its parent's log.

Owns the format, the level, and where lines go. With twistd's ``-n`` that is standard output, as a
container expects. Otherwise it is the file of twistd's option, or its default as a daemon. Every
event that anything logs passes through here. All text is made printable. An event is one line,
except for its traceback. Must not repeat the text of an exception, which may quote a password.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO, cast

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    eventAsText,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import provider

from ..messages import LogLine, Text
from ..printable import printable, server_error

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("text", "json")
#: Exceptions in one traceback, each the cause of the one before it.
CHAINED = 8

_LEVELS = {level.name: level for level in LogLevel.iterconstants()}


class Log(Logger):
    """A logger of `redisproxy.messages`. It is made and bound as Twisted's own is."""

    def __get__(self, instance: object, owner: type | None = None) -> Log:
        return cast("Log", super().__get__(instance, owner))

    def write(self, message: LogLine, /, **fields: object) -> None:
        """Logs a message. fields: those of its text, and others that JSON lines show besides."""
        self.emit(_LEVELS[message.level], message.text, code=message.code, **fields)


# Twisted's own fields, and those that cannot be JSON.
_INTERNAL = ("log_", "isError", "message", "format", "time", "system", "why", "failure")


def record(event: LogEvent) -> dict[str, object]:
    """Returns an event as JSON values: time, level, logger, message, and its fields.

    All texts are printable.
    """
    found: dict[str, object] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": event["log_level"].name if event.get("log_level") else "info",
        "logger": event.get("log_namespace", ""),
        "message": _message(event),
    }
    if lines := _traceback(event):
        found["traceback"] = "\n".join(lines)
    for key, value in event.items():
        if not key.startswith(_INTERNAL) and key not in found:
            plain = value if isinstance(value, int | float | None) else _text(str(_named(value)))
            found[printable(key)] = plain
            if isinstance(value, Text):
                found[f"{printable(key)}_code"] = value.code
    return found


def _message(event: LogEvent) -> str:
    """Returns the text of an event, in one line."""
    if "log_failure" not in event and _failure(event) is not None:
        # An event of Twisted's older interface. Its text has the traceback and the exception's
        # text.
        return _text(str(event.get("why") or "Unhandled Error"))
    return _text(formatEvent({key: _named(value) for key, value in event.items()}))


def _text(text: str) -> str:
    return printable(server_error(text))


def _failure(event: LogEvent) -> Failure | None:
    found = event.get("log_failure", event.get("failure"))
    return found if isinstance(found, Failure) else None


class _TypeName(str):
    """Takes the place of a Failure in a text. Some libraries' texts use ``{log_failure.value}``."""

    __slots__ = ()

    @property
    def value(self) -> str:
        """The same name, because the text of an exception is not repeated."""
        return str(self)


def _named(value: object) -> object:
    """Returns what takes the place of a value in a text: for an exception its type.

    The text of an exception may quote any input.
    """
    if isinstance(value, Failure):
        return _TypeName(_type_name(type(value.value)))
    return _type_name(type(value)) if isinstance(value, BaseException) else value


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _traceback(event: LogEvent) -> list[str]:
    """Returns the lines of a traceback: positions and types of exceptions, the first cause
    first.
    """
    failure = _failure(event)
    if failure is None or failure.value is None:
        # A traceback that a worker has already turned into lines.
        return [_text(line) for line in str(event.get("traceback", "")).split("\n") if line]
    chain: list[tuple[BaseException, TracebackType | None]] = [(failure.value, failure.getTracebackObject())]
    while len(chain) < CHAINED:
        error = chain[-1][0]
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or any(cause is known for known, _ in chain):
            break
        chain.append((cause, cause.__traceback__))
    lines = []
    for error, frames in reversed(chain):
        lines.append("Traceback (most recent call last):")
        for frame in traceback.format_tb(frames):
            lines += frame.rstrip("\n").split("\n")
        text = _type_name(type(error))
        if isinstance(error, OSError) and isinstance(error.errno, int):
            text += f": {os.strerror(error.errno)}"
        lines.append(text)
    return [printable(line) for line in lines]


def replay(event: Mapping[str, Any], worker: int, pid: int) -> None:
    """Logs an event that `record` made in a worker. worker: its number; pid: its process id."""
    fields = {key: value for key, value in event.items() if key not in ("time", "level", "logger", "message")}
    globalLogPublisher(
        {
            **fields,
            "worker": worker,
            "pid": pid,
            "log_time": datetime.fromisoformat(event["time"]).timestamp(),
            "log_level": LogLevel.lookupByName(event["level"]),
            "log_namespace": event["logger"],
            "log_system": f"worker-{worker}/{pid}/{event['logger']}#{event['level']}",
            "log_format": "{log_text}",
            "log_text": event["message"],
        }
    )


def _json_line(event: LogEvent) -> str:
    return json.dumps(record(event), ensure_ascii=False) + "\n"


def _text_line(event: LogEvent) -> str | None:
    message = _message(event)
    more = _traceback(event)
    if not message and not more:
        return None
    heads: LogEvent = {key: event[key] for key in ("log_time", "log_level", "log_namespace", "log_system") if key in event}
    line = eventAsText({**heads, "log_format": "{log_text}", "log_text": message or "-"}, includeTraceback=False)
    return "\n\t".join([printable(line), *more]) + "\n"


def observer(log_format: str, level: str, stream: TextIO | None = None) -> ILogObserver:
    """Returns a log observer.

    log_format: one of FORMATS; level: the lowest level that is logged, one of LEVELS; stream:
    standard output by default.
    """
    out = sys.stdout if stream is None else stream
    return filtered(FileLogObserver(out, _json_line if log_format == "json" else _text_line), level)


def filtered(to: ILogObserver, level: str) -> ILogObserver:
    """Returns an observer that passes on events of at least this level, one of LEVELS."""
    predicates: list[ILogFilterPredicate] = [LogLevelFilterPredicate(LogLevel.lookupByName(level))]
    if level != "debug":
        predicates.insert(0, _hide_older_log)
    return FilteringLogObserver(to, predicates)


@provider(ILogFilterPredicate)
def _hide_older_log(event: LogEvent) -> object:
    """Hides what Twisted logs by its older interface, except for errors.

    These lines say that a port was opened or closed, and name classes. The proxy logs its ports in
    its own words.
    """
    older = event.get("log_namespace") == "log_legacy" and not event.get("isError")
    return PredicateResult.no if older else PredicateResult.maybe


def log_file(path: str) -> TextIO:
    """Opens a log file like twistd's own: a large one is renamed and a new one begun. Raises
    OSError.
    """
    # An observer needs only write() and flush() of it.
    file: TextIO = LogFile.fromFullPath(path)
    return file
