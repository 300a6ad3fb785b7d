"""What a lane owes, and to whom: deals the replies of one connection to Redis out in the order they were asked for.

Owns the order. A connection's bytes go in; pieces of replies, each within one debt, go to the debts' owners. A lane
that answers more than it was asked, or what RESP does not allow, raises ProtocolError: it must be closed.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from .resp import CRLF, HEADER_LIMIT, PUSH, ProtocolError, ReplyMeasurer

# Kinds of debt.
REPLIES = 0  #: one reply for each command
DISCARDED = 1  #: the same, and nobody is told what they say
CONFIRMATIONS = 2  #: one for each channel of a (P|S)(UN)SUBSCRIBE: arrays in RESP2, pushes in RESP3

#: No first word of a message or confirmation has more bytes.
_LONGEST_WORD = len(b"sunsubscribe")


class Owner(Protocol):
    """Who is owed: a session."""

    def replied(self, owed: Owed, piece: bytes, done: int) -> None:
        """The next bytes of what it is owed, of which `done` replies end in this piece."""

    def published(self, piece: bytes) -> None:
        """Bytes of a message it subscribed to."""


class Owed:
    """So many replies, in a row, of one lane to one owner."""

    __slots__ = ("count", "kind", "owner", "subscribed_after")

    def __init__(self, owner: Owner, count: int, kind: int = REPLIES, subscribed_after: bool = False) -> None:
        self.owner = owner
        self.count = count
        self.kind = kind
        #: of CONFIRMATIONS: whether messages may come once all of them are here
        self.subscribed_after = subscribed_after

    def __repr__(self) -> str:
        return f"<Owed {self.count} {('replies', 'discarded', 'confirmations')[self.kind]}>"


class Ledger:
    """The debts of one lane, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[Owed] = deque()
        self._measurer = ReplyMeasurer()
        self._subscribed: Owner | None = None
        self._held = b""  # the beginning of an item whose head is not whole yet
        self._passing_message = False

    @property
    def settled(self) -> bool:
        """Whether nothing is owed, no message can come, and the bytes so far end where a reply ended."""
        return not self._queue and self._subscribed is None and not self._held and self._measurer.between

    def expect(self, owed: Owed) -> None:
        """Adds a debt behind all others."""
        self._queue.append(owed)

    def latest(self) -> Owed | None:
        """The newest debt, which more may be added to (``count += n``) while it is that."""
        return self._queue[-1] if self._queue else None

    def forgo(self, owed: Owed) -> None:
        """The newest debt will not be paid: its command was never sent to the end."""
        if self._queue and self._queue[-1] is owed:
            self._queue.pop()

    def received(self, data: bytes) -> None:
        """Deals out what Redis sent. Raises ProtocolError."""
        queue = self._queue
        pos = 0
        end = len(data)
        while pos < end:
            if self._subscribed is not None or (queue and queue[0].kind == CONFIRMATIONS):
                if self._held:
                    data = self._held + data[pos:]
                    self._held = b""
                    pos, end = 0, len(data)
                pos = self._item(data, pos)
                continue
            if not queue:
                raise ProtocolError("a reply to nothing")
            owed = queue[0]
            start = pos
            pos, done = self._measurer.measure(data, pos, owed.count)
            piece = data if start == 0 and pos == end else data[start:pos]
            self._settle(owed, piece, done)

    def _settle(self, owed: Owed, piece: bytes, done: int) -> None:
        owed.count -= done
        if not owed.count:
            self._queue.popleft()
            if owed.kind == CONFIRMATIONS:
                self._subscribed = owed.owner if owed.subscribed_after else None
                self._measurer.pushes = owed.subscribed_after
        owed.owner.replied(owed, b"" if owed.kind == DISCARDED else piece, done)

    def _item(self, data: bytes, pos: int) -> int:
        """One reply, confirmation or message, while they can come in any order; the position behind it."""
        measurer = self._measurer
        queue = self._queue
        failed = False
        if measurer.between:
            self._passing_message = False
            if data[pos] in b"*>":
                word = self._first_word(data, pos)
                if word is None:
                    self._held = data[pos:]
                    return len(data)
                self._passing_message = word in (b"message", b"pmessage", b"smessage")
                if data[pos] == PUSH and not self._passing_message and not word.endswith(b"subscribe"):
                    raise ProtocolError("a push that was not asked for")
            else:
                # SUBSCRIBE is refused with one error, however many channels it names.
                failed = data[pos : pos + 1] == b"-" and bool(queue) and queue[0].kind == CONFIRMATIONS
        measurer.pushes = True
        start = pos
        pos, done = measurer.measure(data, pos, 1)
        piece = data[start:pos]
        if self._passing_message:
            if self._subscribed is None:
                raise ProtocolError("a message that nobody subscribed to")
            self._subscribed.published(piece)
            return pos
        if not queue:
            raise ProtocolError("a reply to nothing")
        owed = queue[0]
        if failed:
            owed.subscribed_after = self._subscribed is not None
            owed.count = 1
        self._settle(owed, piece, done)
        return pos

    @staticmethod
    def _first_word(data: bytes, pos: int) -> bytes | None:
        """The first element of an array or push if it is a short bulk string, empty if not; None: more is needed."""
        eol = data.find(CRLF, pos, pos + HEADER_LIMIT)
        if eol < 0:
            return b"" if len(data) - pos >= HEADER_LIMIT else None
        element = eol + 2
        if data[pos + 1 : eol] in (b"0", b"-1"):
            return b""
        if element == len(data):
            return None
        if data[element] != 36:  # b"$"
            return b""
        eol = data.find(CRLF, element, element + HEADER_LIMIT)
        if eol < 0:
            return b"" if len(data) - element >= HEADER_LIMIT else None
        digits = data[element + 1 : eol]
        if not digits.isdigit() or len(digits) > 2 or int(digits) > _LONGEST_WORD:
            return b""
        word = data[eol + 2 : eol + 2 + int(digits)]
        return word if len(word) == int(digits) else None

    def abandon(self) -> list[Owed]:
        """The lane is gone: all debts, which nobody will pay."""
        debts = list(self._queue)
        self._queue.clear()
        return debts
