"""Whole replies of Redis's as values, for those that the proxy itself reads.

Owns RESP2's types: an error, a number, a string, and a list of numbers, strings and lists.
"""

from __future__ import annotations

from dataclasses import dataclass

from .framing import CRLF, ProtocolError

Value = bytes | int | None
#: What a whole reply says. Lists may hold lists.
Answer = Value | list["Answer"]


class AnswerError(Exception):
    """Redis answered with this error."""


@dataclass(frozen=True)
class ErrorReply:
    """An error that Redis answered. text: without the ``-``."""

    text: str

    @property
    def code(self) -> str:
        """Its first word, if that is in capitals."""
        word = self.text.partition(" ")[0]
        return word if word.isupper() else "ERR"


def values_of(replies: bytes, count: int) -> list[Answer]:
    """What so many whole replies in a row say. Raises AnswerError for the first that is an error,
    and ProtocolError for what is none of the above.
    """
    values = []
    pos = 0
    for _ in range(count):
        value, pos = _reply(replies, pos)
        values.append(value)
    return values


def strings_of(answer: Answer) -> list[bytes]:
    """What a list of strings holds. Raises ValueError for any other answer."""
    if isinstance(answer, list):
        strings = [element for element in answer if isinstance(element, bytes)]
        if len(strings) == len(answer):
            return strings
    raise ValueError("no list of strings")


def _reply(reply: bytes, start: int) -> tuple[Answer, int]:
    """(a whole reply's value, where the reply ends)."""
    if reply.startswith(b"-", start):
        raise AnswerError(_line(reply, start)[0].decode("utf-8", "replace"))
    if not reply.startswith(b"*", start):
        return _element(reply, start)
    # The lists that are not complete, the outermost first, and how many elements each lacks. No
    # recursion: a reply may be nested as deep as it likes.
    outer: list[tuple[list[Answer], int]] = []
    whole: list[Answer] = []
    elements, lacking, pos = whole, 1, start
    while True:
        while lacking:
            lacking -= 1
            if reply[pos : pos + 1] != b"*":
                element, pos = _element(reply, pos)
                elements.append(element)
                continue
            line, pos = _line(reply, pos)
            number = _number(line)
            if number < 0:
                elements.append(None)
                continue
            outer.append((elements, lacking))
            inner: list[Answer] = []
            elements.append(inner)
            elements, lacking = inner, number
        if not outer:
            return whole[0], pos
        elements, lacking = outer.pop()


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
