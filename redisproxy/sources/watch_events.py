"""Parses the stream of a watch: finds its lines, and reads one event from each.

Owns what a line means, and how long it may be. The bytes come from a peer: anything that is not an
event ends the watch.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .. import messages

#: Bytes in one event. Metadata is always shorter: an object has at most 1.5 MiB, of which
#: annotations have 256 KiB, and JSON can make those six times as long.
LONGEST = 4 * 1024 * 1024


class Watched(enum.Enum):
    """What is watched. Log lines show the value."""

    NAMESPACES = "namespaces"
    SECRETS = "secrets"
    MASTER = "the master secret"


#: Takes the place of a status if the connection of a watch ended too early.
BROKEN_OFF = -1


class WatchFailure(messages.MessageError):
    """A watch cannot be opened, or ended with an error.

    reason: fit for a log.
    status: the status of the HTTP answer or of the stream's ERROR event, or BROKEN_OFF; 0 if there
        is none.
    retry_after: seconds that the server asked to wait, or None.
    """

    def __init__(self, reason: messages.Text, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Event:
    """One event. namespace: empty for an object without one."""

    kind: str
    namespace: str
    name: str
    version: str


#: The beginning of almost every event, with its fields in the order that the API server writes. The
#: rest, which may be megabytes of annotations, need not be parsed. The pattern is anchored, so that
#: no value can pass for one of these fields.
_TEXT = rb'[^"\\\x00-\x1f]+'
_BEGINNING = re.compile(
    rb'\{"type":"(ADDED|MODIFIED|DELETED)","object":\{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",'
    rb'"metadata":\{"name":"(%b)",(?:"generateName":"%b",)?(?:"namespace":"(%b)",)?(?:"selfLink":"%b",)?"uid":"%b",'
    rb'"resourceVersion":"(%b)"' % ((_TEXT,) * 6)
)


def read_event(line: bytes) -> Event:
    """Reads one line of a stream.

    Raises WatchFailure if the line is not an event. An ERROR event, with which the server ends the
    watch, raises it with the event's status.
    """
    found = _BEGINNING.match(line)
    if found:
        kind, name, namespace, version = (part.decode("utf-8", "replace") for part in found.groups(b""))
        return Event(kind, namespace, name, version)
    try:
        event = json.loads(line)
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            code = item.get("code")
            code = code if isinstance(code, int) else 0
            raise WatchFailure(messages.WATCH_ENDED(status=code), code)
        metadata = item["metadata"]
        parts = (kind, metadata.get("namespace", ""), metadata.get("name", ""), metadata["resourceVersion"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise WatchFailure(messages.WATCH_NO_EVENT()) from None
    if not all(isinstance(part, str) for part in parts) or not parts[3]:
        raise WatchFailure(messages.WATCH_NO_EVENT())
    return Event(*parts)


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields whole lines, without line ends or empty lines. Raises WatchFailure if a line is longer
    than LONGEST.
    """
    pieces: list[bytes] = []
    size = 0
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = b"".join([*pieces, end])
            pieces, size = [], 0
            if len(line) > LONGEST:
                raise WatchFailure(messages.WATCH_LONG_LINE())
            if line.strip():
                yield line
        if rest:
            pieces.append(rest)
            size += len(rest)
            if size > LONGEST:
                raise WatchFailure(messages.WATCH_LONG_LINE())
