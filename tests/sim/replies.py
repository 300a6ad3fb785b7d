"""Reads RESP replies for the simulated clients, without the code that is under test."""

from __future__ import annotations


class Status(bytes):
    """A simple string."""


class Error(bytes):
    """An error, without its leading ``-``."""


class Push(list):
    """A push of RESP3: a message that no command asked for."""


def parse(buffer: bytes | bytearray, position: int, pushes: list[Push]) -> tuple[object, int] | None:
    """Returns (the reply at a position, where it ends), or None if more bytes are needed.

    A map is returned as a list of keys and values in turn. pushes: gets the pushes within the
    reply, which are no elements of it. Raises ValueError for bytes that begin no reply.
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
        while len(items) < (2 * count if kind == b"%" else count):
            found = parse(buffer, end, pushes)
            if found is None:
                return None
            item, end = found
            if isinstance(item, Push):
                pushes.append(item)
            else:
                items.append(item)
        return items, end
    raise ValueError(f"no reply begins like this: {bytes(buffer[position : position + 40])!r}")


def command(*words: bytes) -> bytes:
    """Returns an encoded command."""
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
