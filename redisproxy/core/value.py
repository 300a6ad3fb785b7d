"""One whole reply of Redis's as a value, for the few that the proxy itself reads.

Owns the small part of RESP2 that INFO and PUBSUB are answered in: an error, a number, a bulk string, and a list of these.
"""

from __future__ import annotations

from .resp import CRLF, ProtocolError

Value = bytes | int | None


class AnswerError(Exception):
    """Redis answered with this error."""


def value_of(reply: bytes) -> Value | list[Value]:
    """What a whole reply says. Raises AnswerError, and ProtocolError for what is none of the above."""
    kind, line, pos = reply[:1], *_line(reply, 0)
    if kind == b"-":
        raise AnswerError(line.decode("utf-8", "replace"))
    if kind != b"*":
        return _element(reply, 0)[0]
    found = []
    for _ in range(_number(line)):
        element, pos = _element(reply, pos)
        found.append(element)
    return found


def _line(reply: bytes, pos: int) -> tuple[bytes, int]:
    """(what is behind the type's byte at pos, where the line ended)."""
    end = reply.find(CRLF, pos)
    if end < 0:
        raise ProtocolError("an answer that is cut off")
    return reply[pos + 1 : end], end + 2


def _element(reply: bytes, pos: int) -> tuple[Value, int]:
    kind = reply[pos : pos + 1]
    line, pos = _line(reply, pos)
    if kind == b"+":
        return line, pos
    number = _number(line)
    if kind == b":":
        return number, pos
    if kind != b"$":
        raise ProtocolError("an answer of a type that was not expected")
    if number < 0:
        return None, pos
    end = pos + number
    if end + 2 > len(reply):
        raise ProtocolError("an answer that is cut off")
    return reply[pos:end], end + 2


def _number(line: bytes) -> int:
    try:
        return int(line)
    except ValueError:
        raise ProtocolError("an answer's number is none") from None
