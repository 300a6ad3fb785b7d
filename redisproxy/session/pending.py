"""Matches the replies of one connection to Redis to the sessions that wait for them.

Owns the order of pending replies. A connection's bytes come in. Pieces of replies, each within one
batch, go to the receivers of the batches. If Redis sends a reply to nothing, or what RESP does not
allow, `PendingReplies.received` raises ProtocolError, and the connection must be closed.

A `ports.Subscriber` gets the messages of channels, and learns which confirmations have come. A
`ports.Tracker` gets the messages of client-side caching. This module removes the tenant's prefix
from the channels in messages and confirmations. In RESP3 a message may come within a reply, at any
depth: Redis before 7.2 sends a client the messages that it causes itself at once. This module is
longer than other modules: therefore one loop reads replies and messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .. import bounds
from ..resp.framing import CRLF, PUSH, ProtocolError, ReplyMeasurer

if TYPE_CHECKING:
    from ..tenants.window import Window
    from .ports import ReplyReceiver, Subscriber, Tracker
    from .pubsub import SubscriptionChange

# Kinds of batches.
REPLIES = 0  #: one reply for each command
#: the same, of commands in the tenant's window: see `WindowedBatch`; no later command enlarges it
WINDOWED = 1
CONFIRMATIONS = 2  #: one for each channel of a (P|S)(UN)SUBSCRIBE: array in RESP2, push in RESP3
HELLO = 3  #: the reply to a HELLO, which may change the protocol
REWRITTEN = 4  #: one reply that may be rewritten: see `RewrittenReply`
BLOCKING = 5  #: the reply to a command that may block; no later command enlarges the batch
TRACKING = 6  #: the reply to a CLIENT TRACKING: see `TrackingReply`
MUTED = 7  #: replies of which CLIENT REPLY SKIP discards some: see `MutedReplies`
_KINDS = ("replies", "windowed", "confirmations", "hello", "rewritten", "blocking", "tracking", "muted")

_MESSAGES = frozenset((b"message", b"pmessage", b"smessage"))
_CONFIRMED = frozenset((b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe"))
#: By the first word: how many elements behind it are channels or patterns.
_CHANNELS = dict.fromkeys(_MESSAGES | _CONFIRMED, 1) | {b"pmessage": 2}
#: Confirmations whose number counts channels and patterns.
_COUNTED = frozenset((b"subscribe", b"psubscribe", b"unsubscribe", b"punsubscribe"))
#: The first word of what Redis tells a client with tracking: a push of two elements.
_INVALIDATE = b"invalidate"
_LONGEST_WORD = max(map(len, _CHANNELS))


def _bulk(data: bytes, pos: int, limit: int) -> tuple[bytes | None, int] | None:
    """Returns content and end position of the bulk string at pos; None: more bytes are needed.

    The content is None if this is no bulk string, is nil, or is larger than limit bytes.
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
    """A number of replies that one receiver expects in a row from one connection."""

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
        #: how many of these, from the next one on, are discarded
        self.discard = discard
        #: for HELLO: the protocol after a success; 0 if it asks for none, or failed
        self.protocol = 0
        #: for CONFIRMATIONS: whether an error came instead
        self.refused = False
        #: for CONFIRMATIONS: who is notified of them, and what they confirm
        self.subscription = subscription

    @property
    def waited_for(self) -> bool:
        """Whether others wait for these replies, whoever receives them."""
        return False

    def lost(self) -> None:
        """The connection was given up: no more of these replies come."""

    def drop_newest(self) -> None:
        """Expects no reply to the newest command."""
        self.count -= 1
        self.discard = min(self.discard, self.count)

    def discard_all(self) -> None:
        """Discards all replies that are still to come."""
        self.discard = self.count

    def __repr__(self) -> str:
        discard = f", {self.discard} discarded" * bool(self.discard)
        return f"<ReplyBatch {self.count} {_KINDS[self.kind]}{discard}>"


class WindowedBatch(ReplyBatch):
    """The replies to commands in the tenant's window. Implements `tenants.window.Flight`.

    window: gets the places back when the last reply has come, or when none will come. hasten: see
    `tenants.window.Flight`.
    """

    __slots__ = ("commands", "hasten", "since", "window")

    def __init__(
        self,
        receiver: ReplyReceiver,
        count: int,
        commands: int,
        window: Window,
        hasten: Callable[[], None],
        discard: int = 0,
    ) -> None:
        super().__init__(receiver, count, WINDOWED, discard)
        self.window = window
        self.commands = commands
        self.since = 0.0
        self.hasten = hasten

    @property
    def waited_for(self) -> bool:
        """See `ReplyBatch`."""
        return self.window.waited_for

    def lost(self) -> None:
        """See `ReplyBatch`."""
        self.window.lost(self)


class MutedReplies(ReplyBatch):
    """Replies of which any may be discarded, not only the first ones. Each costs one byte.

    discard, count: see `add`. `discard` of the batch itself says whether the next reply is.
    """

    __slots__ = ("_at", "_muted")

    def __init__(self, receiver: ReplyReceiver, discard: int, count: int) -> None:
        super().__init__(receiver, 0, MUTED)
        # For each reply whether it is discarded, from the next one on at _at.
        self._muted = bytearray()
        self._at = 0
        self.add(discard, count)

    def add(self, discard: int, count: int) -> None:
        """Expects so many further replies, of which the first ones are discarded."""
        self._muted += b"\1" * discard
        self._muted += bytes(count - discard)
        self.count += count
        self.discard = self._muted[self._at]

    def ended(self) -> None:
        """A reply has ended."""
        self._at += 1
        if self._at >= bounds.MUTED_REPLIES:
            del self._muted[: self._at]
            self._at = 0
        self.discard = self._muted[self._at] if self._at < len(self._muted) else 0

    def drop_newest(self) -> None:
        """See `ReplyBatch`."""
        self.count -= 1
        del self._muted[-1]
        self.discard = self._muted[self._at] if self.count else 0

    def discard_all(self) -> None:
        """See `ReplyBatch`."""
        self._muted, self._at = bytearray(b"\1" * self.count), 0
        self.discard = min(1, self.count)


class RewrittenReply(ReplyBatch):
    """One reply that the client gets in another form.

    kinds: the first bytes of replies that are rewritten, of errors (``-``), bulk strings (``$``),
    arrays and maps (``*%``); rewrite: rewrites a whole reply. A reply of more than REWRITTEN_BYTES
    stays as it is. kind: REWRITTEN or HELLO.
    """

    __slots__ = ("kinds", "rewrite")

    def __init__(
        self,
        receiver: ReplyReceiver,
        discard: int,
        kinds: bytes,
        rewrite: Callable[[bytes], bytes],
        kind: int = REWRITTEN,
    ) -> None:
        super().__init__(receiver, 1, kind, discard)
        self.kinds = kinds
        self.rewrite = rewrite

    def whole(self, data: bytes, pos: int) -> bytes | None:
        """Returns the reply that begins at pos if it is to be rewritten, else nothing.

        None: more bytes are needed.
        """
        if data[pos] not in self.kinds:
            return b""
        if data[pos] == 36:  # b"$"
            found = _bulk(data, pos, bounds.REWRITTEN_BYTES)
            if found is None:
                return None
            return b"" if found[0] is None else data[pos : found[1]]
        if data[pos] in b"*%":
            end, ended = ReplyMeasurer().measure(data, pos, 1)
            if ended:
                return data[pos:end]
            return None if len(data) - pos < bounds.REWRITTEN_BYTES else b""
        eol = data.find(CRLF, pos, pos + bounds.REWRITTEN_BYTES)
        if eol < 0:
            return None if len(data) - pos < bounds.REWRITTEN_BYTES else b""
        return data[pos : eol + 2]


class TrackingReply(ReplyBatch):
    """The reply to a CLIENT TRACKING.

    tracker: gets the messages while tracking is on; on: whether the command turns it on.
    """

    __slots__ = ("on", "tracker")

    def __init__(self, receiver: ReplyReceiver, discard: int, tracker: Tracker, on: bool) -> None:
        super().__init__(receiver, 1, TRACKING, discard)
        self.tracker = tracker
        self.on = on


class PendingReplies:
    """The batches that Redis has to answer on one connection, oldest first.

    protocol: RESP version of the connection, 2 or 3. found_replica: see
    `resp.framing.ReplyMeasurer`; a tenant's script can make such replies, too.
    """

    def __init__(self, protocol: int = 2, found_replica: Callable[[], None] | None = None) -> None:
        #: the oldest first
        self.batches: deque[ReplyBatch] = deque()
        #: RESP version that Redis speaks on this connection now
        self.protocol = protocol
        self._measurer = ReplyMeasurer(found_replica)
        # The measurer of a reply, while `_measurer` measures a message within that reply.
        self._interrupted: ReplyMeasurer | None = None
        self._subscriber: Subscriber | None = None
        self._tracker: Tracker | None = None
        # Whether there is a subscriber or a tracker, so that messages may come.
        self._listened = False
        self._kept = b""  # the beginning of an item whose head is not whole yet
        self._passing_message = False
        # Whether the client does not get this message: see `ports.Subscriber.pattern_of`.
        self._repeated = False
        # Messages that the subscriber did not get yet. Those of one read become one write;
        # otherwise each would cost a send().
        self._messages: list[bytes] = []
        # Pieces of messages in the current read so far.
        self._message_pieces = 0
        #: messages, confirmations, and replies among them so far, or parts of them
        self.pieces = 0
        self._abandoned = False
        #: whether confirmations come, or messages may, and the last ones were small
        #: (SMALL_MESSAGE_BYTES)
        self.small_messages = False

    @property
    def settled(self) -> bool:
        """Whether nothing is pending: no reply, no rest of one, no subscription, no tracking."""
        return not (self.batches or self._listened or self._kept or self.partial)

    @property
    def partial(self) -> bool:
        """Whether a reply has been passed on in part."""
        return self._interrupted is not None or not self._measurer.between

    def newest(self) -> ReplyBatch | None:
        """Returns the newest batch, if any. It may grow (``count += n``) while it is the newest."""
        return self.batches[-1] if self.batches else None

    def withdraw(self, batch: ReplyBatch) -> None:
        """Removes the newest batch: its command was not sent whole, so Redis will not answer it."""
        if self.batches and self.batches[-1] is batch:
            self.batches.pop()

    def received(self, data: bytes) -> None:
        """Passes bytes of Redis to the receivers of the batches. Raises ProtocolError."""
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
            if self._listened or (batches and batches[0].kind > WINDOWED):
                if self._kept:
                    data = self._kept + data[pos:]
                    self._kept = b""
                    pos, end = 0, len(data)
                self.pieces += 1
                pos = self._item(data, pos)
                continue
            if not batches:
                raise ProtocolError("a reply without a command")
            batch = batches[0]
            start = pos
            pos, ended = self._measurer.measure(data, pos, batch.discard or batch.count)
            piece = data if start == 0 and pos == end else data[start:pos]
            self._settle(batch, piece, ended)

    def _pass_messages(self, whole: bool) -> None:
        messages, self._messages = self._messages, []
        listener = self._tracker if self._subscriber is None else self._subscriber
        if listener is not None:
            listener.message(b"".join(messages), whole)

    def _settle(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        batch.count -= ended
        if batch.discard:
            batch.discard -= ended
            piece = b""
        if isinstance(batch, MutedReplies) and ended:
            batch.ended()
        if not batch.count:
            self.batches.popleft()
            if batch.kind != REPLIES:
                self._confirm(batch)
            # Outside of _item() Redis may push nothing.
            self._measurer.pushes = False
        batch.receiver.reply(batch, piece, ended)

    def _confirm(self, batch: ReplyBatch) -> None:
        """Applies what a batch of another kind than REPLIES changes at its end."""
        if isinstance(batch, WindowedBatch):
            batch.window.answered(batch)
        elif batch.subscription is not None:
            subscriber, update = batch.subscription
            self._subscriber = subscriber if subscriber.confirmed(update, batch.refused) else None
            self.small_messages = self._subscriber is not None
            self._listened = self._subscriber is not None or self._tracker is not None
        elif isinstance(batch, TrackingReply):
            self._tracker = batch.tracker if batch.tracker.confirmed(batch.on, batch.refused) else None
            self._listened = self._subscriber is not None or self._tracker is not None
        elif batch.protocol:
            self.protocol = batch.protocol

    def _item(self, data: bytes, pos: int) -> int:
        """Passes on one reply, confirmation or message, where any of them may come next.

        Returns the position behind it, or where a message within the reply begins.
        """
        measurer = self._measurer
        batches = self.batches
        failed = False
        head = whole = b""
        end = pos
        if measurer.between:
            self._passing_message = self._repeated = False
            if data[pos] in b"*>":
                found = self._head(data, pos)
                if found is None:
                    if len(data) - pos > bounds.MESSAGE_HEAD_BYTES:
                        raise ProtocolError("the head of a message does not end")
                    self._kept = data[pos:]
                    return len(data)
                word, head, end = found
                self._passing_message = word in _MESSAGES or word == _INVALIDATE
                confirmation = word in _CONFIRMED and self._interrupted is None
                if data[pos] == PUSH and not (self._passing_message or confirmation):
                    raise ProtocolError("a push that was not asked for")
            else:
                # Redis refuses a SUBSCRIBE with one error, however many channels it names.
                failed = data[pos : pos + 1] == b"-" and bool(batches) and batches[0].kind not in (REPLIES, WINDOWED, MUTED)
            if not self._passing_message and batches and isinstance(batches[0], RewrittenReply):
                found_whole = batches[0].whole(data, pos)
                if found_whole is None:
                    self._kept = data[pos:]
                    return len(data)
                whole = found_whole
        measurer.pushes = True
        start = pos
        pos, ended = measurer.measure(data, pos, 1)
        piece = head + data[max(start, end) : pos]
        interrupted = not ended and pos < len(data)
        if self._passing_message:
            if not self._listened:
                raise ProtocolError("a message that nobody subscribed to")
            if interrupted:
                raise ProtocolError("a push within a push")
            self._message_pieces += 1
            if not self._repeated:
                self._messages.append(piece)
                if not ended:
                    self._pass_messages(False)
            if not ended:
                return pos
            if self._interrupted is not None:
                self._measurer, self._interrupted = self._interrupted, None
                self._passing_message = False
            return pos
        if interrupted:
            self._interrupted, self._measurer = measurer, ReplyMeasurer()
        if self._messages:
            self._pass_messages(True)
        if not batches:
            raise ProtocolError("a reply without a command")
        batch = batches[0]
        if failed:
            batch.refused = True
            batch.protocol = 0
            excess, batch.count = batch.count - 1, 1
            if batch.subscription is not None:
                batch.subscription[0].cancelled(excess)
        elif batch.subscription is not None:
            self.small_messages = True  # until the last confirmation
            if batch.count <= batch.subscription[1].hidden_count:
                piece = b""  # of a pattern that the client does not know
        if whole and isinstance(batch, RewrittenReply):
            piece = batch.rewrite(whole)
        self._settle(batch, piece, ended)
        return pos

    def _head(self, data: bytes, pos: int) -> tuple[bytes, bytes, int] | None:
        """Reads the head of the array or push at pos; None: more bytes are needed.

        Returns the first word, the head as the client gets it, and the end position of the head. A
        message or confirmation has its channels rewritten without the tenant's prefix. For anything
        else, the head is empty and ends at pos.
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
        if word == _INVALIDATE and self._tracker is not None and data[pos] == PUSH and data[pos + 1 : eol] == b"2":
            return word, b"", pos
        channels = _CHANNELS.get(word, 0)
        # A message or confirmation is: word, channels, payload or count. Reading more elements of
        # another array might read past its end.
        if not channels or data[pos + 1 : eol] != b"%d" % (channels + 2) or not self._expects(word, data[pos] == PUSH):
            return b"", b"", pos
        head = data[pos:end]
        pattern = None
        # Compared with None: Subscriptions are false while an UNSUBSCRIBE from the last channel is
        # pending.
        subscriber = self._confirming() if self._subscriber is None else self._subscriber
        for following in range(channels - 1, -1, -1):
            found = _bulk(data, end, bounds.MESSAGE_HEAD_BYTES)
            if found is None:
                return None
            channel, after = found
            if channel is None:  # nil: the confirmation of an UNSUBSCRIBE from nothing
                break
            end = after
            if following and subscriber is not None:
                pattern = channel
                continue
            if pattern is not None and subscriber is not None:
                named = subscriber.pattern_of(pattern, channel)
                self._repeated = named is None
                head += b"$%d\r\n%b\r\n" % (len(named or b""), named or b"")
            bare = channel if subscriber is None else subscriber.bare(channel)
            head += b"$%d\r\n%b\r\n" % (len(bare), bare)
        if word in _COUNTED and subscriber is not None and subscriber.hidden:
            return self._counted(data, word, head, end, subscriber.hidden)
        return word, head, end

    @staticmethod
    def _counted(data: bytes, word: bytes, head: bytes, end: int, hidden: int) -> tuple[bytes, bytes, int] | None:
        """Reads the number in a confirmation as well, and gives the client its own number.

        hidden: how many patterns the client does not know of. See `_head`.
        """
        if data[end : end + 1] in (b"$", b"_"):  # nil: the confirmation of an UNSUBSCRIBE from nothing
            eol = data.find(CRLF, end)
            if eol < 0:
                return None
            head += data[end : eol + 2]
            end = eol + 2
        eol = data.find(CRLF, end)
        if eol < 0:
            return None if len(data) - end < bounds.HEADER_BYTES else (word, head, end)
        if data[end : end + 1] != b":" or not data[end + 1 : eol].isdigit():
            return word, head, end
        return word, head + b":%d\r\n" % (int(data[end + 1 : eol]) - hidden), eol + 2

    def _expects(self, word: bytes, push: bool) -> bool:
        """Returns whether this can be a message or a confirmation now.

        If not, it is the array of an ordinary reply that happens to begin with this word.
        """
        if push != (self.protocol == 3):
            return False
        if word in _MESSAGES:
            return self._subscriber is not None
        return self._confirming() is not None

    def _confirming(self) -> Subscriber | None:
        """Returns the subscriber of the oldest batch, if that batch is of CONFIRMATIONS."""
        if not self.batches or self.batches[0].subscription is None:
            return None
        return self.batches[0].subscription[0]

    def abandon(self) -> list[ReplyBatch]:
        """Removes all batches and returns them: the connection is gone, or gets another use."""
        batches = list(self.batches)
        self.batches.clear()
        self._messages.clear()
        self._subscriber = self._tracker = None
        self._listened = False
        self._abandoned = True
        self._lost(batches)
        return batches

    def lost(self) -> None:
        """The connection is gone. The batches stay, until its user abandons them."""
        self._lost(self.batches)

    @staticmethod
    def _lost(batches: Iterable[ReplyBatch]) -> None:
        for batch in list(batches):
            batch.lost()
