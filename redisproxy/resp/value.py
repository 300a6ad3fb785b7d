"""Whole replies of Redis's as values, for the few that the proxy itself reads.

Owns the small part of RESP2 that INFO, PUBSUB and CONFIG GET are answered in: an error, a number, a bulk string, and a
list of these.
"""

from __future__ import annotations

from .framing import CRLF, ProtocolError

Value = bytes | int | None
#: What a whole reply says.
Answer = Value | list[Value]


class AnswerError(Exception):
    """Redis answered with this error."""


def values_of(replies: bytes, count: int) -> list[Answer]:
    """What so many whole replies in a row say. Raises AnswerError for the first that is an error, and ProtocolError for
    what is none of the above.
    """
    values = []
    pos = 0
    for _ in range(count):
        value, pos = _reply(replies, pos)
        values.append(value)
    return values


def _reply(reply: bytes, start: int) -> tuple[Answer, int]:
    """(a whole reply's value, where the reply ends)."""
    kind, line, pos = reply[start : start + 1], *_line(reply, start)
    if kind == b"-":
        raise AnswerError(line.decode("utf-8", "replace"))
    if kind != b"*":
        return _element(reply, start)
    found = []
    for _ in range(_number(line)):
        element, pos = _element(reply, pos)
        found.append(element)
    return found, pos


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
