"""Matches the replies of one connection to Redis to those who wait for them.

Owns the order. A connection's bytes go in; pieces of replies, each within one batch, go to the
batches' receivers. A connection that answers more than it was asked, or what RESP does not allow,
raises ProtocolError: it must be closed.

Confirmations and messages of channels go to a subscriber as well, see `ports.Subscriber`: their
channels lose the tenant's prefix here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import bounds
from ..resp.framing import CRLF, PUSH, ProtocolError, ReplyMeasurer

if TYPE_CHECKING:
    from .ports import ReplyReceiver, Subscriber
    from .pubsub import SubscriptionChange

# Kinds of batches.
REPLIES = 0  #: one reply for each command
CONFIRMATIONS = 1  #: one for each channel of a (P|S)(UN)SUBSCRIBE: arrays in RESP2, pushes in RESP3
HELLO = 2  #: the reply to a HELLO, which may change the protocol

_MESSAGES = frozenset((b"message", b"pmessage", b"smessage"))
_CONFIRMED = frozenset((b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe"))
#: How many elements behind the first word are channels or patterns.
_CHANNELS = dict.fromkeys(_MESSAGES | _CONFIRMED, 1) | {b"pmessage": 2}
_LONGEST_WORD = max(map(len, _CHANNELS))


def _bulk(data: bytes, pos: int, limit: int) -> tuple[bytes | None, int] | None:
    """(content, where it ends) of a bulk string at pos; None: more is needed. The content is None
    where it is no bulk string, nil, or larger than limit.
    """
    if pos >= len(data):
        return None
    if data[pos] != 36:  # b"$"
        return None, pos
    eol = data.find(CRLF, pos, pos + bounds.HEADER_BYTES)
    if eol < 0:
        return (None, pos) if len(data) - pos >= bounds.HEADER_BYTES else None
    digits = data[pos + 1 : eol]
    if not digits.isdigit() or len(digits) > 9 or int(digits) > limit:
        return None, pos
    start = eol + 2
    end = start + int(digits)
    return (data[start:end], end + 2) if len(data) >= end + 2 else None


class ReplyBatch:
    """So many replies, expected in a row of one connection, for one receiver."""

    __slots__ = ("count", "discard", "kind", "protocol", "receiver", "refused", "subscription")

    def __init__(
        self,
        receiver: ReplyReceiver,
        count: int,
        kind: int = REPLIES,
        discard: int = 0,
        subscription: tuple[Subscriber, SubscriptionChange] | None = None,
    ) -> None:
        self.receiver = receiver
        #: replies that have not ended
        self.count = count
        self.kind = kind
        #: how many of the next replies nobody hears
        self.discard = discard
        #: of a HELLO: the protocol if it succeeds; 0 where it asks for none, or failed
        self.protocol = 0
        #: of CONFIRMATIONS: whether an error came instead
        self.refused = False
        #: of CONFIRMATIONS: who is told of them, and what they confirm
        self.subscription = subscription

    def __repr__(self) -> str:
        discard = f", {self.discard} discarded" * bool(self.discard)
        return f"<ReplyBatch {self.count} {('replies', 'confirmations', 'hello')[self.kind]}{discard}>"


class PendingReplies:
    """The batches that one connection has to answer, oldest first.

    found_replica: see `resp.framing.ReplyMeasurer`. A tenant's script can make such replies, too.
    """

    def __init__(self, protocol: int = 2, found_replica: Callable[[], None] | None = None) -> None:
        #: the oldest first
        self.batches: deque[ReplyBatch] = deque()
        #: what the server speaks
        self.protocol = protocol
        self._measurer = ReplyMeasurer(found_replica)
        self._subscriber: Subscriber | None = None
        self._kept = b""  # the beginning of an item whose head is not whole yet
        self._passing_message = False
        # Messages that the subscriber did not get yet: those of one read are one write, or each
        # would cost a send().
        self._messages: list[bytes] = []
        # How many pieces of messages these bytes had so far.
        self._message_pieces = 0
        self._abandoned = False
        #: whether messages may come, and the last ones were small
        self.small_messages = False

    @property
    def settled(self) -> bool:
        """Whether no reply is expected, no message can come, and the bytes so far end where a reply
        ended.
        """
        return not self.batches and self._subscriber is None and not self._kept and self._measurer.between

    @property
    def partial(self) -> bool:
        """Whether a part of the oldest batch's next reply was passed on."""
        return not self._measurer.between

    def newest(self) -> ReplyBatch | None:
        """The newest batch, which may grow (``count += n``) while it is that."""
        return self.batches[-1] if self.batches else None

    def withdraw(self, batch: ReplyBatch) -> None:
        """The newest batch will not be answered: its command was never sent to its end."""
        if self.batches and self.batches[-1] is batch:
            self.batches.pop()

    def received(self, data: bytes) -> None:
        """Deals out what Redis sent. Raises ProtocolError."""
        try:
            self._deal_out(data)
        finally:
            if self._message_pieces:
                self.small_messages = len(data) < bounds.SMALL_MESSAGE_BYTES * self._message_pieces
                self._message_pieces = 0
                if self._messages:
                    self._pass_messages(True)

    def _deal_out(self, data: bytes) -> None:
        batches = self.batches
        pos = 0
        end = len(data)
        while pos < end and not self._abandoned:
            if self._subscriber is not None or (batches and batches[0].kind != REPLIES):
                if self._kept:
                    data = self._kept + data[pos:]
                    self._kept = b""
                    pos, end = 0, len(data)
                pos = self._item(data, pos)
                continue
            if not batches:
                raise ProtocolError("a reply to nothing")
            batch = batches[0]
            start = pos
            pos, ended = self._measurer.measure(data, pos, batch.discard or batch.count)
            piece = data if start == 0 and pos == end else data[start:pos]
            self._settle(batch, piece, ended)

    def _pass_messages(self, whole: bool) -> None:
        messages, self._messages = self._messages, []
        if self._subscriber is not None:
            self._subscriber.message(b"".join(messages), whole)

    def _settle(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        batch.count -= ended
        if batch.discard:
            batch.discard -= ended
            piece = b""
        if not batch.count:
            self.batches.popleft()
            if batch.kind != REPLIES:
                self._confirm(batch)
            # Outside of _item() there is nothing that could be pushed.
            self._measurer.pushes = False
        batch.receiver.reply(batch, piece, ended)

    def _confirm(self, batch: ReplyBatch) -> None:
        """What a batch of another kind than REPLIES changes at its end."""
        if batch.subscription is not None:
            subscriber, update = batch.subscription
            self._subscriber = subscriber if subscriber.confirmed(update, batch.refused) else None
            self.small_messages = self._subscriber is not None
        elif batch.protocol:
            self.protocol = batch.protocol

    def _item(self, data: bytes, pos: int) -> int:
        """One reply, confirmation or message, while they can come in any order; the position behind
        it.
        """
        measurer = self._measurer
        batches = self.batches
        failed = False
        head = b""
        end = pos
        if measurer.between:
            self._passing_message = False
            if data[pos] in b"*>":
                found = self._head(data, pos)
                if found is None:
                    if len(data) - pos > bounds.MESSAGE_HEAD_BYTES:
                        raise ProtocolError("the head of a message does not end")
                    self._kept = data[pos:]
                    return len(data)
                word, head, end = found
                self._passing_message = word in _MESSAGES
                if data[pos] == PUSH and not self._passing_message and word not in _CONFIRMED:
                    raise ProtocolError("a push that was not asked for")
            else:
                # SUBSCRIBE is refused with one error, however many channels it names.
                failed = data[pos : pos + 1] == b"-" and bool(batches) and batches[0].kind != REPLIES
        measurer.pushes = True
        start = pos
        pos, ended = measurer.measure(data, pos, 1)
        piece = head + data[max(start, end) : pos]
        if self._passing_message:
            if self._subscriber is None:
                raise ProtocolError("a message that nobody subscribed to")
            self._messages.append(piece)
            self._message_pieces += 1
            if not ended:
                self._pass_messages(False)
            return pos
        if self._messages:
            self._pass_messages(True)
        if not batches:
            raise ProtocolError("a reply to nothing")
        batch = batches[0]
        if failed:
            batch.refused = True
            batch.protocol = 0
            excess, batch.count = batch.count - 1, 1
            if batch.subscription is not None:
                batch.subscription[0].cancelled(excess)
        self._settle(batch, piece, ended)
        return pos

    def _head(self, data: bytes, pos: int) -> tuple[bytes, bytes, int] | None:
        """(first word, what the client is to see of it, where that ended) of an array or push;
        None: more is needed.

        Only what pub/sub sends is changed: its channels lose the tenant's prefix. Of all else
        nothing is taken.
        """
        eol = data.find(CRLF, pos, pos + bounds.HEADER_BYTES)
        if eol < 0:
            return (b"", b"", pos) if len(data) - pos >= bounds.HEADER_BYTES else None
        if data[pos + 1 : eol] in (b"0", b"-1"):
            return b"", b"", pos
        found = _bulk(data, eol + 2, _LONGEST_WORD)
        if found is None:
            return None
        word, end = found[0] or b"", found[1]
        channels = _CHANNELS.get(word, 0)
        # Word, channels, and a payload or count: of anything else no more may be taken than it has.
        if not channels or data[pos + 1 : eol] != b"%d" % (channels + 2) or not self._expects(word, data[pos] == PUSH):
            return b"", b"", pos
        head = data[pos:end]
        # Not by its truth: Subscriptions are false where an UNSUBSCRIBE from the last channel is
        # under way.
        subscriber = self._confirming() if self._subscriber is None else self._subscriber
        for _ in range(channels):
            found = _bulk(data, end, bounds.MESSAGE_HEAD_BYTES)
            if found is None:
                return None
            channel, after = found
            if channel is None:  # nil: the confirmation of an UNSUBSCRIBE from nothing
                break
            bare = channel if subscriber is None else subscriber.bare(channel)
            head += b"$%d\r\n%b\r\n" % (len(bare), bare)
            end = after
        return word, head, end

    def _expects(self, word: bytes, push: bool) -> bool:
        """Whether pub/sub may say this now; if not, it is an ordinary array that happens to begin
        so.
        """
        if push != (self.protocol == 3):
            return False
        if word in _MESSAGES:
            return self._subscriber is not None
        return self._confirming() is not None

    def _confirming(self) -> Subscriber | None:
        """Who gets the next confirmation, if one is next."""
        if not self.batches or self.batches[0].subscription is None:
            return None
        return self.batches[0].subscription[0]

    def abandon(self) -> list[ReplyBatch]:
        """The connection is gone, or used otherwise: all batches, which it will not answer."""
        batches = list(self.batches)
        self.batches.clear()
        self._messages.clear()
        self._subscriber = None
        self._abandoned = True
        return batches
