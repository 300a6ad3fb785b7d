"""How log lines look: for people, or as JSON lines; and how a worker's events become lines of its parent's log.

Owns the format, the level, and where lines go: the standard output with twistd's ``-n``, as a container's should, or the
file that twistd is told, or takes as a daemon.
"""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    formatEventAsClassicLogText,
    globalLogPublisher,
)
from twisted.python import reflect
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("text", "json")

# Fields of Twisted's own, and such as cannot be JSON.
_INTERNAL = ("log_", "isError", "message", "format", "time", "system", "why", "failure")


class _Discreet:
    """Takes the place of a Failure in an event: what kind of error it is, and where, but not its text.

    Nobody expected the error, so nobody knows what its text quotes: a document, a password.
    """

    def __init__(self, failure: Failure) -> None:
        self.type = failure.type
        self.value = reflect.qual(failure.type)
        self._frames = [(file, line, name) for name, file, line, *_ in failure.frames]

    def __str__(self) -> str:
        return self.value

    def getTraceback(self) -> str:
        """As a Failure's."""
        lines = ["Traceback (most recent call last), without the text of the error, which may quote anything:"]
        for file, line, name in self._frames:
            lines.append(f'  File "{file}", line {line}, in {name}')
            source = linecache.getline(file, line).strip()
            lines += [f"    {source}"] if source else []
        return "\n".join([*lines, self.value, ""])

    getErrorMessage = __str__


def _discreet(event: LogEvent) -> LogEvent:
    """The same event without the text of an error that nobody expected."""
    older = event.get("failure")  # of twisted.python.log.err, which has the traceback in its text
    failure = event.get("log_failure", older)
    if not isinstance(failure, Failure):
        return event
    copy = {**event, "log_failure": _Discreet(failure)}
    copy.pop("log_flattened", None)  # made of the Failure itself
    if older is not None:
        copy["log_text"] = event.get("why") or "Unhandled Error"
    return copy


def record(event: LogEvent) -> dict[str, object]:
    """An event as what JSON can hold: time, level, namespace, message, and its fields."""
    event = _discreet(event)
    found: dict[str, object] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": event["log_level"].name if event.get("log_level") else "info",
        "logger": event.get("log_namespace", ""),
        "message": formatEvent(event) or eventAsText(event, includeTimestamp=False, includeSystem=False),
    }
    if "log_failure" in event:
        found["traceback"] = eventAsText(event, includeTimestamp=False, includeSystem=False)
    for key, value in event.items():
        if not key.startswith(_INTERNAL) and key not in found:
            found[key] = value if isinstance(value, int | float | str | None) else str(value)
    return found


def replay(told: Mapping[str, Any], worker: int, pid: int) -> None:
    """Logs what `record` made in a worker, as that worker's. Where it has a traceback this follows the message."""
    fields = {key: value for key, value in told.items() if key not in ("time", "level", "logger", "message")}
    globalLogPublisher(
        {
            **fields,
            "worker": worker,
            "pid": pid,
            "log_time": datetime.fromisoformat(told["time"]).timestamp(),
            "log_level": LogLevel.lookupByName(told["level"]),
            "log_namespace": told["logger"],
            "log_system": f"worker-{worker}/{pid}/{told['logger']}#{told['level']}",
            "log_format": "{log_text}",
            "log_text": told["message"],
        }
    )


def _json_line(event: LogEvent) -> str:
    return json.dumps(record(event), ensure_ascii=False) + "\n"


def _text_line(event: LogEvent) -> str | None:
    line = formatEventAsClassicLogText(_discreet(event))
    if line is not None and "traceback" in event:
        traceback = event["traceback"].removeprefix(event.get("log_text", "")).strip("\n")
        line += "\t" + traceback.replace("\n", "\n\t") + "\n"
    return line


def observer(log_format: str, level: str, stream: TextIO | None = None) -> ILogObserver:
    """A log observer.

    log_format: one of FORMATS; level: one of LEVELS, the least that is told; stream: the standard output by default.
    """
    out = sys.stdout if stream is None else stream
    return filtered(FileLogObserver(out, _json_line if log_format == "json" else _text_line), level)


def filtered(to: ILogObserver, level: str) -> ILogObserver:
    """Passes on what is of this level at least, one of LEVELS."""
    return FilteringLogObserver(to, [LogLevelFilterPredicate(LogLevel.lookupByName(level))])


def log_file(path: str) -> TextIO:
    """A file to log to, as twistd's own is: it is renamed when it is large, and another one begun. Raises OSError."""
    return LogFile.fromFullPath(path)
