"""Channels of a tenant: their names in Redis, and which of them a session is subscribed to.

Owns the names. Channels do not belong to a database in Redis, so the proxy puts a prefix before
each tenant's channels. Only Redis's own notifications about keys have fixed names, which contain
the database index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .. import bounds, messages
from ..tenants.model import Tenant
from .key_events import BEGINNINGS, KeyEvents, NoSpellingError, key_events, may_match

if TYPE_CHECKING:
    from .replies import ReplyQueue

#: Kinds of subscriptions: channels, patterns, sharded channels.
KINDS = (b"", b"P", b"S")
#: The kind of patterns that Redis gets besides those of the client: see `key_events`.
HIDDEN = b"+"


class ForeignChannelError(Exception):
    """A channel of notifications about other tenants' keys. reply: the error for the client."""

    def __init__(self, tenant: Tenant) -> None:
        shown = " or ".join(f"{own.decode()}*" for own in tenant.keyspace_channels)
        self.reply = messages.FOREIGN_EVENTS.reply(channel=shown)
        super().__init__(self.reply)


class TooManyError(Exception):
    """More subscriptions than one session may have. reply: the error for the client."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


def own_name(tenant: Tenant, kind: bytes, channel: bytes) -> bytes:
    """Returns the name in Redis of a channel or, if kind is ``P``, of a pattern.

    Only names of notifications about keys of the tenant's own database stay as they are. Any
    other pattern is safe behind the literal prefix. It may match such notifications, too: see
    `key_events`.
    """
    return own_names(tenant, kind, (channel,))[0]


def own_names(tenant: Tenant, kind: bytes, channels: Sequence[bytes]) -> list[bytes]:
    """Returns `own_name` of each. A command may name 30,000: they are named in one turn."""
    prefix, events = tenant.channel_prefix, tenant.keyspace_channels
    if kind == b"S":
        return [prefix + channel for channel in channels]
    return [channel if channel.startswith(events) else prefix + channel for channel in channels]


def own_channel(tenant: Tenant, channel: bytes) -> bytes:
    """Returns the name in Redis of a channel.

    Raises ForeignChannelError for notifications about keys of another database.
    """
    name = own_name(tenant, b"", channel)
    if name is not channel and channel.startswith(BEGINNINGS):
        raise ForeignChannelError(tenant)
    return name


class SubscriptionChange(NamedTuple):
    """What a (P|S)(UN)SUBSCRIBE changes.

    kind: one of KINDS; joins: False for UNSUBSCRIBE; channels: names in Redis, one for each that
    the client named; events: by such a name, what Redis gets besides. The client does not hear of
    these.
    """

    kind: bytes
    joins: bool
    channels: Sequence[bytes]
    events: Mapping[bytes, KeyEvents] = {}

    @property
    def hidden_count(self) -> int:
        """How many of Redis's confirmations, the last ones, the client does not get."""
        return sum(map(len, self.events.values())) if self.events else 0

    @property
    def hidden(self) -> list[bytes]:
        """What Redis gets besides, in one list."""
        return [pattern for events in self.events.values() for pattern in events]


#: Finds a change in parts, each of which gives units of work: see `Subscriptions.joining`.
Work = Generator[int, None, SubscriptionChange]


class Subscriptions:
    """What one session is subscribed to, by kind: channels (empty), patterns (``P``), sharded
    channels (``S``).

    While changes are pending, `of` and `counts` assume that Redis will refuse none of them. If
    Redis refused one, they agree with Redis again once no change is pending. Implements
    `ports.Subscriber`: passes messages on to the client's `ReplyQueue`.

    leave: called with patterns, as Redis knows them, that the session does not use any more: see
    `ports.Backend.leave_patterns`.
    """

    __slots__ = (
        "_confirmed",
        "_events",
        "_expected",
        "_leave",
        "_outstanding",
        "_prefix",
        "_refused",
        "_replies",
        "_shown",
        "_size",
        "_used",
        "changed",
    )

    def __init__(self, replies: ReplyQueue, prefix: bytes, leave: Callable[[Collection[bytes]], object]) -> None:
        self._replies = replies
        #: called when `cost` has changed
        self.changed: Callable[[], object] = _nobody
        self._leave = leave
        # The patterns that the session uses: those that Redis has, or may get.
        self._used: set[bytes] = set()
        self._prefix = prefix
        self._expected = _nothing()
        self._confirmed = _nothing()
        self._outstanding = 0
        self._refused = False
        # Bytes of the names of all that are expected.
        self._size = 0
        # By a pattern in Redis: the patterns that Redis has besides for the same pattern of the
        # client.
        self._events: dict[bytes, KeyEvents] = {}
        # By each of the latter: the client's pattern, and what a channel must not match.
        self._shown: dict[bytes, tuple[bytes, tuple[re.Pattern[bytes], ...]]] = {}

    def __bool__(self) -> bool:
        return any(self._expected.values())

    def of(self, kind: bytes) -> frozenset[bytes]:
        """Returns the subscriptions of a kind, by their names in Redis."""
        return frozenset(self._expected[kind])

    def counts(self) -> tuple[int, int, int]:
        """Returns the numbers of channels, patterns and sharded channels."""
        channels, patterns, sharded = (len(self._expected[kind]) for kind in KINDS)
        return channels, patterns, sharded

    @property
    def cost(self) -> int:
        """The memory that the subscriptions use, in bytes, about."""
        count = sum(map(len, self._expected.values()))
        expressions = sum(each.__sizeof__() for _, earlier in self._shown.values() for each in earlier) if self._shown else 0
        return self._size + count * bounds.SUBSCRIPTION_COST_BYTES + expressions

    def joining(self, tenant: Tenant, kind: bytes, names: Sequence[bytes]) -> Work:
        """Returns the change that a (P|S)SUBSCRIBE asks for. names: as the client knows them.

        Gives units of work that it has done, after each of its parts. Raises ForeignChannelError or
        TooManyError.
        """
        channels = own_names(tenant, kind, names)
        events: Mapping[bytes, KeyEvents] = {}
        if kind == b"P":
            events = yield from self._events_of(tenant, dict(zip(channels, names, strict=True)))
        if kind != b"S":
            for channel, name in zip(channels, names, strict=True):
                if name.startswith(BEGINNINGS) and channel != name and channel not in events:
                    raise ForeignChannelError(tenant)
        return self._with_room(SubscriptionChange(kind, True, channels, events))

    def _events_of(self, tenant: Tenant, patterns: Mapping[bytes, bytes]) -> Generator[int, None, dict[bytes, KeyEvents]]:
        """Returns the patterns for notifications, for patterns of the client that match any.

        patterns: the client's, by their names in Redis. Gives units of work. Raises TooManyError.
        """
        wide = {pattern: name for pattern, name in patterns.items() if pattern != name and may_match(name)}
        too_many = TooManyError(messages.TOO_MANY_KEY_EVENT_PATTERNS.reply(count=bounds.KEY_EVENT_PATTERNS))
        if len(self._events.keys() | wide.keys()) > bounds.KEY_EVENT_PATTERNS:
            yield len(wide) // 8
            raise too_many
        found: dict[bytes, KeyEvents] = {}
        taken = set(self._shown) if wide else set()
        for pattern, name in wide.items():
            try:
                events = self._events.get(pattern) or key_events(tenant, name, taken)
            except NoSpellingError:
                raise too_many from None
            # An expression takes far longer to make than all else.
            expressions = max(map(len, events.values()), default=0)
            yield 2 + expressions * len(name) // 2
            if events:
                found[pattern] = events
                taken.update(events)
        return found

    def leaving(self, tenant: Tenant, kind: bytes, names: Sequence[bytes]) -> SubscriptionChange:
        """Returns the change that a (P|S)UNSUBSCRIBE asks for. names: as the client knows them.

        Without names: all of the kind. Another tenant's channels are ones that the session is not
        subscribed to.
        """
        channels = own_names(tenant, kind, names) or sorted(self._expected[kind])
        if kind != b"P" or not self._events:
            return SubscriptionChange(kind, False, channels)
        return SubscriptionChange(
            kind, False, channels, {each: self._events[each] for each in channels if each in self._events}
        )

    def _with_room(self, update: SubscriptionChange) -> SubscriptionChange:
        """Returns the change. Raises TooManyError if it is not within the session's bounds."""
        new = set(update.channels) - self._expected[update.kind]
        if update.events:
            new.update(set(update.hidden) - self._expected[HIDDEN])
        if (
            sum(map(len, self._expected.values())) + len(new) > bounds.SUBSCRIPTIONS
            or self._size + sum(map(len, new)) > bounds.SUBSCRIPTION_BYTES
        ):
            raise TooManyError(
                messages.TOO_MANY_SUBSCRIPTIONS.reply(count=bounds.SUBSCRIPTIONS, size=bounds.SUBSCRIPTION_BYTES)
            )
        return update

    def may_use(self, patterns: Sequence[bytes]) -> None:
        """The session has a use of each of these patterns, which a command is about to name."""
        again = self._used.intersection(patterns)
        self._used.update(patterns)
        if again:
            self._leave(again)

    def leave_all(self) -> None:
        """The session is not subscribed to anything any more, or soon not: its connection to Redis
        ends.
        """
        used, self._used = self._used, set()
        if used:
            self._leave(used)

    def _leave_unused(self, patterns: Iterable[bytes]) -> None:
        """Leaves those of these patterns that Redis neither has nor may get."""
        unused = self._used.intersection(patterns).difference(
            *(each[kind] for each in (self._expected, self._confirmed) for kind in (b"P", HIDDEN))
        )
        self._used -= unused
        if unused:
            self._leave(unused)

    def ask(self, update: SubscriptionChange) -> None:
        """Records a change that is sent to Redis now."""
        self._outstanding += 1
        for kind, names in _parts(update):
            before = self._expected[kind]
            named = set(names)
            self._size += sum(map(len, named - before)) if update.joins else -sum(map(len, named & before))
        _apply(self._expected, update)
        if update.joins:
            for pattern, events in update.events.items():
                self._events[pattern] = events
                for hidden, earlier in events.items():
                    self._shown[hidden] = self.bare(pattern), earlier
        self.changed()

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
            self._forget(list(self._events))
            self._leave_unused(list(self._used))
        if update.events:
            self._forget(update.events)
        if not update.joins or refused:
            self.changed()
        if update.kind == b"P" and not update.joins and self._used:
            self._leave_unused([*update.channels, *update.hidden])
        return any(self._confirmed.values())

    def forget(self) -> None:
        """Drops the reference to the session, which has one to this."""
        self.changed = _nobody

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

    def _forget(self, patterns: Iterable[bytes]) -> None:
        """Forgets what Redis had besides for patterns that the session is not subscribed to."""
        for pattern in patterns:
            if pattern not in self._expected[b"P"]:
                for hidden in self._events.pop(pattern, ()):
                    del self._shown[hidden]

    def cancelled(self, count: int) -> None:
        """See `ports.Subscriber`."""
        self._replies.cancelled(count)

    def message(self, piece: bytes, whole: bool) -> None:
        """See `ports.Subscriber`."""
        self._replies.message(piece, whole)

    def bare(self, channel: bytes) -> bytes:
        """See `ports.Subscriber`."""
        return channel.removeprefix(self._prefix)

    @property
    def hidden(self) -> int:
        """See `ports.Subscriber`."""
        return len(self._confirmed[HIDDEN])

    def pattern_of(self, pattern: bytes, channel: bytes) -> bytes | None:
        """See `ports.Subscriber`."""
        shown = self._shown.get(pattern)
        if shown is None:
            return pattern.removeprefix(self._prefix)
        name, earlier = shown
        if earlier and len(channel) <= bounds.MATCHED_CHANNEL_BYTES and any(each.match(channel) for each in earlier):
            return None
        return name


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
    return {kind: set() for kind in (*KINDS, HIDDEN)}


def _parts(update: SubscriptionChange) -> list[tuple[bytes, Sequence[bytes]]]:
    """Returns the names of a change by their kind."""
    return [(update.kind, update.channels), (HIDDEN, update.hidden)] if update.events else [(update.kind, update.channels)]


def _apply(subscriptions: dict[bytes, set[bytes]], update: SubscriptionChange) -> None:
    for kind, names in _parts(update):
        if update.joins:
            subscriptions[kind].update(names)
        else:
            subscriptions[kind].difference_update(names)


def _nobody() -> None:
    """Nobody wants to know of a change."""
