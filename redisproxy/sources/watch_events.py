"""The events of a watch: finds lines in its bytes, and reads an event from each line.

Owns what a line of the stream means, and how long it may be. The bytes are a peer's: what is no
event ends the watch.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .. import messages

#: Bytes of one event. Metadata cannot be as large: an object has 1.5 MiB at most, its annotations
#: 256 KiB of that, which JSON can make six times as long.
LONGEST = 4 * 1024 * 1024


class Watched(enum.Enum):
    """What there is a watch of. The value is what an operator is told."""

    NAMESPACES = "namespaces"
    SECRETS = "secrets"
    MASTER = "the master secret"


#: In place of a status: the connection of a watch ended before its time.
BROKEN_OFF = -1


class WatchFailure(messages.MessageError):
    """A watch cannot be opened, or does not go on.

    reason: fit for a log; status: what HTTP or the stream said, or BROKEN_OFF; retry_after:
    seconds, where the server asked.
    """

    def __init__(self, reason: messages.Text, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Event:
    """One event. namespace: empty for what has none."""

    kind: str
    namespace: str
    name: str
    version: str


#: What all events but the rarest begin with, in the order in which the API server writes it: what
#: follows, which can be megabytes of annotations, need not be parsed. Anchored, so that no value
#: can pass for one of these fields.
_TEXT = rb'[^"\\\x00-\x1f]+'
_BEGINNING = re.compile(
    rb'\{"type":"(ADDED|MODIFIED|DELETED)","object":\{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",'
    rb'"metadata":\{"name":"(%b)",(?:"generateName":"%b",)?(?:"namespace":"(%b)",)?(?:"selfLink":"%b",)?"uid":"%b",'
    rb'"resourceVersion":"(%b)"' % ((_TEXT,) * 6)
)


def read_event(line: bytes) -> Event:
    """One line of a stream. Raises WatchFailure for what is none, and, with its status, for the one
    that says it is over.
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
    """Whole lines, without their ends. Raises WatchFailure for one that is longer than LONGEST."""
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
