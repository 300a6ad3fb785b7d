"""How log lines look: for people, or as JSON lines.

Owns the format and the level. Where lines go is twistd's business (``--logfile``, ``--syslog``), but that with
``-n`` and no file they go to the standard output, as a container's should.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TextIO

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
)

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("text", "json")

# Fields of Twisted's own, and such as cannot be JSON.
_INTERNAL = ("log_", "isError", "message", "format", "time", "system", "why", "failure")


def _json_line(event: LogEvent) -> str:
    """An event as one JSON object: time, level, namespace, message, and its fields."""
    line: dict[str, object] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": event["log_level"].name if event.get("log_level") else "info",
        "logger": event.get("log_namespace", ""),
        "message": formatEvent(event) or eventAsText(event, includeTimestamp=False, includeSystem=False),
    }
    if "log_failure" in event:
        line["traceback"] = eventAsText(event, includeTimestamp=False, includeSystem=False)
    for key, value in event.items():
        if not key.startswith(_INTERNAL) and key not in line:
            line[key] = value if isinstance(value, int | float | str | None) else str(value)
    return json.dumps(line, ensure_ascii=False) + "\n"


def _text_line(event: LogEvent) -> str | None:
    return formatEventAsClassicLogText(event)


def observer(log_format: str, level: str, stream: TextIO | None = None) -> ILogObserver:
    """A log observer.

    log_format: one of FORMATS; level: one of LEVELS, the least that is told; stream: the standard output by default.
    """
    out = sys.stdout if stream is None else stream
    write = FileLogObserver(out, _json_line if log_format == "json" else _text_line)
    return FilteringLogObserver(write, [LogLevelFilterPredicate(LogLevel.lookupByName(level))])
