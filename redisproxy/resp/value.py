"""Decodes whole replies of Redis to values, for the commands that the proxy itself sends.

Owns RESP2's types: an error, a number, a string, and a list of numbers, strings and lists.
"""

from __future__ import annotations

from dataclasses import dataclass

from .framing import CRLF, ProtocolError

Value = bytes | int | None
#: The value of a whole reply. Lists may hold lists.
Answer = Value | list["Answer"]


class AnswerError(Exception):
    """Redis answered with an error. The text is Redis's, without the ``-``."""


@dataclass(frozen=True)
class ErrorReply:
    """An error reply of Redis. text: without the ``-``."""

    text: str

    @property
    def code(self) -> str:
        """The first word, if it is in capitals; else ``ERR``."""
        word = self.text.partition(" ")[0]
        return word if word.isupper() else "ERR"


def values_of(replies: bytes, count: int) -> list[Answer]:
    """The values of count whole replies in a row.

    Raises AnswerError for the first error among them, and ProtocolError for a reply of another type
    or one that is cut off.
    """
    values = []
    pos = 0
    for _ in range(count):
        value, pos = _reply(replies, pos)
        values.append(value)
    return values


def strings_of(answer: Answer) -> list[bytes]:
    """The strings of an answer that is a list of strings. Raises ValueError for any other
    answer.
    """
    if isinstance(answer, list):
        strings = [element for element in answer if isinstance(element, bytes)]
        if len(strings) == len(answer):
            return strings
    raise ValueError("not a list of strings")


def _reply(reply: bytes, start: int) -> tuple[Answer, int]:
    """(value, where the reply ends) of the whole reply at start. Raises as `values_of`."""
    if reply.startswith(b"-", start):
        raise AnswerError(_line(reply, start)[0].decode("utf-8", "replace"))
    if not reply.startswith(b"*", start):
        return _element(reply, start)
    # The lists that are not complete, the outermost first, and how many elements each lacks. No
    # recursion, because the depth of a reply has no limit.
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
    """(the line at pos without its type byte, where the line ends)."""
    end = reply.find(CRLF, pos)
    if end < 0:
        raise ProtocolError("the reply is cut off")
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
        raise ProtocolError("the reply has an unexpected type")
    if number < 0:
        return None, pos
    end = pos + number
    if end + 2 > len(reply):
        raise ProtocolError("the reply is cut off")
    return reply[pos:end], end + 2


def _number(line: bytes) -> int:
    try:
        return int(line)
    except ValueError:
        raise ProtocolError("a number in the reply is malformed") from None
