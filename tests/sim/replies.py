"""RESP replies as the simulated clients read them: without the code that is under test."""

from __future__ import annotations


class Status(bytes):
    """A simple string."""


class Error(bytes):
    """An error, without its ``-``."""


class Push(list):
    """What comes without being asked for, in RESP3."""


def parse(buffer: bytes | bytearray, position: int = 0) -> tuple[object, int] | None:
    """The reply at a position, and where it ends; None: more is needed. Raises ValueError for what
    is no reply.

    Maps are lists of their keys and values in turn.
    """
    end = buffer.find(b"\r\n", position)
    if end < 0:
        return None
    kind = buffer[position : position + 1]
    line = bytes(buffer[position + 1 : end])
    end += 2
    if kind == b"+":
        return Status(line), end
    if kind == b"-":
        return Error(line), end
    if kind == b":":
        return int(line), end
    if kind == b"_":
        return None, end
    if kind in (b"$", b"="):
        size = int(line)
        if size < 0:
            return None, end
        return (bytes(buffer[end : end + size]), end + size + 2) if len(buffer) >= end + size + 2 else None
    if kind in (b"*", b">", b"%", b"~"):
        count = int(line)
        if count < 0:
            return None, end
        items: list[object] = Push() if kind == b">" else []
        for _ in range(2 * count if kind == b"%" else count):
            found = parse(buffer, end)
            if found is None:
                return None
            item, end = found
            items.append(item)
        return items, end
    raise ValueError(f"no reply begins like this: {bytes(buffer[position : position + 40])!r}")


def command(*words: bytes) -> bytes:
    """A command, encoded."""
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
