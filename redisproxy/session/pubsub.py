"""Channels of a tenant: their names in Redis, and which of them a session is subscribed to.

Owns the names. Channels do not belong to a database in Redis, so the proxy puts a prefix before
each tenant's channels. Only Redis's own notifications about keys have fixed names, which contain
the database index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .. import bounds, messages
from ..tenants.model import Tenant

if TYPE_CHECKING:
    from .replies import ReplyQueue

#: Kinds of subscriptions: channels, patterns, sharded channels.
KINDS = (b"", b"P", b"S")


class ForeignChannelError(Exception):
    """A channel of notifications about other tenants' keys. reply: the error for the client."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


def own_channel(tenant: Tenant, kind: bytes, channel: bytes) -> bytes:
    """Returns the name in Redis of a channel or, if kind is ``P``, of a pattern.

    Raises ForeignChannelError for notifications about keys of another database. A pattern that
    begins with ``__key`` must begin with such a channel of the tenant's own database: ``__key*``
    would match others' too. Any other pattern is safe behind the literal prefix.
    """
    if kind != b"S" and channel.startswith(b"__key"):
        for own in tenant.keyspace_channels:
            if channel.startswith(own):
                return channel
        if kind == b"P" or channel.startswith((b"__keyspace@", b"__keyevent@")):
            shown = " or ".join(f"{own.decode()}…".replace("…", "*") for own in tenant.keyspace_channels)
            raise ForeignChannelError(messages.FOREIGN_EVENTS.reply(channel=shown))
    return tenant.channel_prefix + channel


class SubscriptionChange(NamedTuple):
    """What a (P|S)(UN)SUBSCRIBE changes.

    kind: one of KINDS; joins: False for UNSUBSCRIBE; channels: names in Redis.
    """

    kind: bytes
    joins: bool
    channels: Sequence[bytes]


class Subscriptions:
    """What one session is subscribed to, by kind: channels (empty), patterns (``P``), sharded
    channels (``S``).

    While changes are pending, `of` and `counts` assume that Redis will refuse none of them. If
    Redis refused one, they agree with Redis again once no change is pending. Implements
    `ports.Subscriber`: passes messages on to the client's `ReplyQueue`.
    """

    __slots__ = ("_confirmed", "_expected", "_outstanding", "_prefix", "_refused", "_replies", "_size")

    def __init__(self, replies: ReplyQueue, prefix: bytes) -> None:
        self._replies = replies
        self._prefix = prefix
        self._expected = _nothing()
        self._confirmed = _nothing()
        self._outstanding = 0
        self._refused = False
        # Bytes of the names of all that are expected.
        self._size = 0

    def __bool__(self) -> bool:
        return any(self._expected.values())

    def of(self, kind: bytes) -> frozenset[bytes]:
        """Returns the subscriptions of a kind, by their names in Redis."""
        return frozenset(self._expected[kind])

    def counts(self) -> tuple[int, int, int]:
        """Returns the numbers of channels, patterns and sharded channels."""
        channels, patterns, sharded = (len(self._expected[kind]) for kind in KINDS)
        return channels, patterns, sharded

    def room_for(self, kind: bytes, channels: Iterable[bytes]) -> bool:
        """Returns whether these can be added within SUBSCRIPTIONS and SUBSCRIPTION_BYTES."""
        new = set(channels) - self._expected[kind]
        return (
            sum(self.counts()) + len(new) <= bounds.SUBSCRIPTIONS
            and self._size + sum(map(len, new)) <= bounds.SUBSCRIPTION_BYTES
        )

    def ask(self, update: SubscriptionChange) -> None:
        """Records a change that is sent to Redis now."""
        self._outstanding += 1
        before = self._expected[update.kind]
        named = set(update.channels)
        self._size += sum(map(len, named - before)) if update.joins else -sum(map(len, named & before))
        _apply(self._expected, update)

    def confirmed(self, update: SubscriptionChange, refused: bool) -> bool:
        """Records Redis's answer to the oldest pending change.

        refused: Redis answered with an error. Returns whether Redis has any subscription now.
        """
        self._outstanding -= 1
        if refused:
            self._refused = True
        else:
            _apply(self._confirmed, update)
        if self._refused and not self._outstanding:
            self._refused = False
            self._expected = {kind: set(channels) for kind, channels in self._confirmed.items()}
            self._size = sum(sum(map(len, channels)) for channels in self._expected.values())
        return any(self._confirmed.values())

    def ended(self) -> bytes:
        """Returns the confirmations that all subscriptions have ended, as in RESP3."""
        count = {b"": sum(self.counts()[:2]), b"S": len(self._expected[b"S"])}
        pushes = []
        for kind in KINDS:
            word = kind.lower() + b"unsubscribe"
            of = b"S" if kind == b"S" else b""
            for channel in sorted(map(self.bare, self._expected[kind])):
                count[of] -= 1
                head = b">3\r\n$%d\r\n%b\r\n" % (len(word), word)
                pushes.append(head + b"$%d\r\n%b\r\n:%d\r\n" % (len(channel), channel, count[of]))
        return b"".join(pushes)

    def cancelled(self, count: int) -> None:
        """See `ports.Subscriber`."""
        self._replies.cancelled(count)

    def message(self, piece: bytes, whole: bool) -> None:
        """See `ports.Subscriber`."""
        self._replies.message(piece, whole)

    def bare(self, channel: bytes) -> bytes:
        """See `ports.Subscriber`."""
        return channel.removeprefix(self._prefix)


def counted(sessions: Sequence[Subscriptions]) -> tuple[int, int, int]:
    """Returns the numbers of different channels, patterns and sharded channels of several sessions.

    If the sessions have more than COUNTED_SUBSCRIPTIONS of a kind in all, one that several sessions
    have counts several times. To compare so many would keep other clients waiting.
    """
    counts = [session.counts() for session in sessions]

    def total(number: int) -> int:
        found = sum(count[number] for count in counts)
        if found > bounds.COUNTED_SUBSCRIPTIONS:
            return found
        return len(frozenset().union(*(session.of(KINDS[number]) for session in sessions)))

    return total(0), total(1), total(2)


def _nothing() -> dict[bytes, set[bytes]]:
    return {kind: set() for kind in KINDS}


def _apply(subscriptions: dict[bytes, set[bytes]], update: SubscriptionChange) -> None:
    if update.joins:
        subscriptions[update.kind].update(update.channels)
    else:
        subscriptions[update.kind].difference_update(update.channels)
