"""Channels of a tenant: what they are called in Redis, and which a session is subscribed to.

Owns names. Channels are not per database in Redis: each tenant's have a prefix there. Only Redis's own notifications
about keys have fixed names, with the database in them.
"""

from __future__ import annotations

from collections.abc import Iterable

from .tenants import Tenant

#: Channels, patterns and sharded channels of one session, together.
MOST = 10_000


class ForeignChannelError(Exception):
    """A channel that tells of other tenants. The text is fit for the client."""


def own_channel(tenant: Tenant, kind: bytes, channel: bytes) -> bytes:
    """A channel (or a pattern, kind ``P``) as it is called in Redis. Raises ForeignChannelError.

    What begins like a notification about keys must be exactly one about the own database: a pattern such as
    ``__key*`` would match others' too. Any other pattern is safe behind the literal prefix.
    """
    if kind != b"S" and channel.startswith(b"__key"):
        for own in tenant.keyspace_channels:
            if channel.startswith(own):
                return channel
        if kind == b"P" or channel.startswith((b"__keyspace@", b"__keyevent@")):
            shown = " or ".join(f"{own.decode()}…".replace("…", "*") for own in tenant.keyspace_channels)
            raise ForeignChannelError(f"of the notifications about keys only those of the own database can be had: {shown}")
    return tenant.channel_prefix + channel


class Subscriptions:
    """What one session is subscribed to, by kind: channels (empty), patterns (``P``), sharded channels (``S``).

    It holds at least what Redis has: a SUBSCRIBE that Redis refused is in it, too.
    """

    def __init__(self) -> None:
        self._by_kind: dict[bytes, set[bytes]] = {b"": set(), b"P": set(), b"S": set()}

    def __bool__(self) -> bool:
        return any(self._by_kind.values())

    def of(self, kind: bytes) -> frozenset[bytes]:
        """Those of a kind, as they are called in Redis."""
        return frozenset(self._by_kind[kind])

    def counts(self) -> tuple[int, int, int]:
        """How many channels, patterns and sharded channels."""
        return len(self._by_kind[b""]), len(self._by_kind[b"P"]), len(self._by_kind[b"S"])

    def room_for(self, kind: bytes, channels: Iterable[bytes]) -> bool:
        """Whether these can be added."""
        return sum(self.counts()) + len(set(channels) - self._by_kind[kind]) <= MOST

    def join(self, kind: bytes, channels: Iterable[bytes]) -> None:
        """Adds."""
        self._by_kind[kind].update(channels)

    def leave(self, kind: bytes, channels: Iterable[bytes]) -> None:
        """Takes away."""
        self._by_kind[kind].difference_update(channels)
