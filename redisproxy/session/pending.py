"""What an upstream connection has pending, and to whom: deals the replies of one connection to Redis out in the order they
were
asked for.

Owns the order. A connection's bytes go in; pieces of replies, each within one reply batch, go to the reply batches' owners.
An upstream
connection
that answers more than it was asked, or what RESP does not allow, raises ProtocolError: it must be closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..resp.framing import CRLF, HEADER_LIMIT, PUSH, ProtocolError, ReplyMeasurer

# Kinds of reply batch.
REPLIES = 0  #: one reply for each command
CONFIRMATIONS = 1  #: one for each channel of a (P|S)(UN)SUBSCRIBE: arrays in RESP2, pushes in RESP3
HELLO = 2  #: the reply to a HELLO, which may change the protocol

_MESSAGES = frozenset((b"message", b"pmessage", b"smessage"))
_CONFIRMED = frozenset((b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe"))
#: How many elements behind the first word are channels or patterns.
_CHANNELS = dict.fromkeys(_MESSAGES | _CONFIRMED, 1) | {b"pmessage": 2}
#: Bytes of a message, on average, that are few.
SMALL_MESSAGE = 512
_LONGEST_WORD = max(map(len, _CHANNELS))
#: Bytes of a message up to its payload: two channels of the size that a session may subscribe to.
_HEAD_LIMIT = 4 * 1024 * 1024


def _bulk(data: bytes, pos: int, limit: int) -> tuple[bytes | None, int] | None:
    """(content, where it ends) of a bulk string at pos; None: more is needed. The content is None where it is no
    bulk string, nil, or larger than limit.
    """
    if pos >= len(data):
        return None
    if data[pos] != 36:  # b"$"
        return None, pos
    eol = data.find(CRLF, pos, pos + HEADER_LIMIT)
    if eol < 0:
        return (None, pos) if len(data) - pos >= HEADER_LIMIT else None
    digits = data[pos + 1 : eol]
    if not digits.isdigit() or len(digits) > 9 or int(digits) > limit:
        return None, pos
    start = eol + 2
    end = start + int(digits)
    return (data[start:end], end + 2) if len(data) >= end + 2 else None


class Owner(Protocol):
    """Who waits for: a session."""

    def replied(self, batch: ReplyBatch, piece: bytes, done: int) -> None:
        """The next bytes of the pending replies, of which `done` replies end in this piece."""

    def published(self, piece: bytes, whole: bool) -> None:
        """Bytes of messages it subscribed to. whole: the last one ends with them."""

    def cancelled(self, count: int) -> None:
        """So many of its confirmations will not come: the SUBSCRIBE was refused with one error."""

    def confirmed(self, change: object, refused: bool) -> bool:
        """All confirmations are here, or one error instead of them. Whether messages may come now."""

    def bare(self, channel: bytes) -> bytes:
        """A channel or pattern as the client knows it."""


class ReplyBatch:
    """So many replies, in a row, of one upstream connection to one owner."""

    __slots__ = ("change", "count", "kind", "owner", "protocol", "refused", "silent")

    def __init__(
        self,
        owner: Owner,
        count: int,
        kind: int = REPLIES,
        silent: bool = False,
        protocol: int = 0,
        change: object = None,
    ) -> None:
        self.owner = owner
        self.count = count
        self.kind = kind
        #: nobody is told what they say
        self.silent = silent
        #: of a HELLO: the protocol if it succeeds; 0 where it asks for none, or failed
        self.protocol = protocol
        #: of CONFIRMATIONS: what they confirm, for the owner to know
        self.change = change
        #: of CONFIRMATIONS: whether an error came instead
        self.refused = False

    def __repr__(self) -> str:
        return f"<Pending {self.count} {('replies', 'confirmations', 'hello')[self.kind]}{' silent' * self.silent}>"


class PendingReplies:
    """The reply batches of one upstream connection, oldest first.

    found_replica: see `resp.framing.ReplyMeasurer`. A tenant's script can make such replies, too.
    """

    def __init__(self, protocol: int = 2, found_replica: Callable[[], None] | None = None) -> None:
        #: all reply batches, the oldest first
        self.batches: deque[ReplyBatch] = deque()
        #: what the server speaks
        self.protocol = protocol
        self._measurer = ReplyMeasurer(found_replica)
        self._subscribed: Owner | None = None
        self._held = b""  # the beginning of an item whose head is not whole yet
        self._passing_message = False
        # Messages that the owner was not told of yet: those of one read are one write, or each would cost a send().
        self._messages: list[bytes] = []
        # How many pieces of messages these bytes had so far.
        self._heard = 0
        self._abandoned = False
        #: whether messages may come, and the last ones were small
        self.small_messages = False

    @property
    def settled(self) -> bool:
        """Whether nothing is pending, no message can come, and the bytes so far end where a reply ended."""
        return not self.batches and self._subscribed is None and not self._held and self._measurer.between

    @property
    def begun(self) -> bool:
        """Whether a part of the oldest reply batch's next reply was dealt out."""
        return not self._measurer.between

    def latest(self) -> ReplyBatch | None:
        """The newest reply batch, which more may be added to (``count += n``) while it is that."""
        return self.batches[-1] if self.batches else None

    def withdraw(self, batch: ReplyBatch) -> None:
        """The newest reply batch will not be paid: its command was never sent to the end."""
        if self.batches and self.batches[-1] is batch:
            self.batches.pop()

    def received(self, data: bytes) -> None:
        """Deals out what Redis sent. Raises ProtocolError."""
        try:
            self._deal_out(data)
        finally:
            if self._heard:
                self.small_messages = len(data) < SMALL_MESSAGE * self._heard
                self._heard = 0
                if self._messages:
                    self._tell_messages(True)

    def _deal_out(self, data: bytes) -> None:
        queue = self.batches
        pos = 0
        end = len(data)
        while pos < end and not self._abandoned:
            if self._subscribed is not None or (queue and queue[0].kind != REPLIES):
                if self._held:
                    data = self._held + data[pos:]
                    self._held = b""
                    pos, end = 0, len(data)
                pos = self._item(data, pos)
                continue
            if not queue:
                raise ProtocolError("a reply to nothing")
            batch = queue[0]
            start = pos
            pos, done = self._measurer.measure(data, pos, batch.count)
            piece = data if start == 0 and pos == end else data[start:pos]
            self._settle(batch, piece, done)

    def _tell_messages(self, whole: bool) -> None:
        messages, self._messages = self._messages, []
        self._subscribed.published(b"".join(messages), whole)

    def _settle(self, batch: ReplyBatch, piece: bytes, done: int) -> None:
        batch.count -= done
        if not batch.count:
            self.batches.popleft()
            if batch.kind == CONFIRMATIONS:
                self._subscribed = batch.owner if batch.owner.confirmed(batch.change, batch.refused) else None
                self.small_messages = self._subscribed is not None
            elif batch.kind == HELLO and batch.protocol:
                self.protocol = batch.protocol
            # Outside of _item() there is nothing that could be pushed.
            self._measurer.pushes = False
        batch.owner.replied(batch, b"" if batch.silent else piece, done)

    def _item(self, data: bytes, pos: int) -> int:
        """One reply, confirmation or message, while they can come in any order; the position behind it."""
        measurer = self._measurer
        queue = self.batches
        failed = False
        head = b""
        end = pos
        if measurer.between:
            self._passing_message = False
            if data[pos] in b"*>":
                found = self._head(data, pos)
                if found is None:
                    if len(data) - pos > _HEAD_LIMIT:
                        raise ProtocolError("the head of a message does not end")
                    self._held = data[pos:]
                    return len(data)
                word, head, end = found
                self._passing_message = word in _MESSAGES
                if data[pos] == PUSH and not self._passing_message and word not in _CONFIRMED:
                    raise ProtocolError("a push that was not asked for")
            else:
                # SUBSCRIBE is refused with one error, however many channels it names.
                failed = data[pos : pos + 1] == b"-" and bool(queue) and queue[0].kind != REPLIES
        measurer.pushes = True
        start = pos
        pos, done = measurer.measure(data, pos, 1)
        piece = head + data[max(start, end) : pos]
        if self._passing_message:
            if self._subscribed is None:
                raise ProtocolError("a message that nobody subscribed to")
            self._messages.append(piece)
            self._heard += 1
            if not done:
                self._tell_messages(False)
            return pos
        if self._messages:
            self._tell_messages(True)
        if not queue:
            raise ProtocolError("a reply to nothing")
        batch = queue[0]
        if failed:
            batch.refused = True
            batch.protocol = 0
            excess, batch.count = batch.count - 1, 1
            batch.owner.cancelled(excess)
        self._settle(batch, piece, done)
        return pos

    def _head(self, data: bytes, pos: int) -> tuple[bytes, bytes, int] | None:
        """(first word, what the client is to see of it, where that ended) of an array or push; None: more is needed.

        Only what pub/sub sends is changed: its channels lose the tenant's prefix. Of all else nothing is taken.
        """
        eol = data.find(CRLF, pos, pos + HEADER_LIMIT)
        if eol < 0:
            return (b"", b"", pos) if len(data) - pos >= HEADER_LIMIT else None
        if data[pos + 1 : eol] in (b"0", b"-1"):
            return b"", b"", pos
        found = _bulk(data, eol + 2, _LONGEST_WORD)
        if found is None:
            return None
        word, end = found
        channels = _CHANNELS.get(word or b"", 0)
        # Word, channels, and a payload or count: of anything else no more may be taken than it has.
        if not channels or data[pos + 1 : eol] != b"%d" % (channels + 2) or not self._expects(word, data[pos] == PUSH):
            return b"", b"", pos
        head = data[pos:end]
        owner = self._subscribed or self.batches[0].owner
        for _ in range(channels):
            found = _bulk(data, end, _HEAD_LIMIT)
            if found is None:
                return None
            channel, after = found
            if channel is None:  # nil: the confirmation of an UNSUBSCRIBE from nothing
                break
            bare = owner.bare(channel)
            head += b"$%d\r\n%b\r\n" % (len(bare), bare)
            end = after
        return word, head, end

    def _expects(self, word: bytes, push: bool) -> bool:
        """Whether pub/sub may say this now; if not, it is an ordinary array that happens to begin so."""
        if push != (self.protocol == 3):
            return False
        if word in _MESSAGES:
            return self._subscribed is not None
        return bool(self.batches) and self.batches[0].kind == CONFIRMATIONS

    def abandon(self) -> list[ReplyBatch]:
        """The upstream connection is gone: all reply batches, which nobody will pay."""
        batches = list(self.batches)
        self.batches.clear()
        self._messages.clear()
        self._subscribed = None
        self._abandoned = True
        return batches
