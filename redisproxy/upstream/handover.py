"""Makes the new owner of a database wait until the former owner's connections have ended.

Owns when the new owner may have connections to Redis. Until then, what the new owner writes cannot
reach a blocked command of the former owner. What the former owner asked for cannot run on the new
owner's data. A half-closed connection has ended when Redis has closed it, too: then Redis runs
nothing more for it.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds
from ..net.waiters import Waiters
from .connection import RedisConnection


class Handover:
    """The connections of former owners, and the callers that wait for their end."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        # Connections of former owners, in this process.
        self._connections: set[RedisConnection] = set()
        # Indices of databases to which other processes may have such connections.
        self._elsewhere: frozenset[int] = frozenset()
        self._cutting: IDelayedCall | None = None
        self._lapsing: IDelayedCall | None = None
        # By the index of the database; None for callers that wait for all connections of this
        # process.
        self._waiting: dict[int | None, Waiters[None]] = {}

    def begin(self, upstreams: Collection[RedisConnection], elsewhere: Collection[int]) -> None:
        """Starts to wait for the end of these connections, and of those that other processes may
        have.

        elsewhere: the indices of the databases to which other processes may have connections.
        """
        self.stop()
        self._connections = set(upstreams)
        self._elsewhere = frozenset(elsewhere)
        if self._connections:
            self._cutting = self._clock.callLater(bounds.HANDOVER_SECONDS, self._cut)
        if self._elsewhere:
            self._lapsing = self._clock.callLater(bounds.HANDOVER_ELSEWHERE_SECONDS, self.over_elsewhere)
        self._notify_waiting()

    def stop(self) -> None:
        """Stops the time limits."""
        for timer in (self._cutting, self._lapsing):
            _cancel(timer)

    def lost(self, upstream: RedisConnection) -> None:
        """A connection is gone."""
        if upstream in self._connections:
            self._connections.discard(upstream)
            if not self._connections:
                _cancel(self._cutting)
            self._notify_waiting()

    def over_elsewhere(self) -> None:
        """The other processes have no such connections any more."""
        self._elsewhere = frozenset()
        _cancel(self._lapsing)
        self._notify_waiting()

    def over(self, index: int) -> defer.Deferred[None] | None:
        """Fires when only its owner has connections to the database. None if that is so already."""
        return self._wait(index) if self._busy(index) else None

    def over_here(self) -> defer.Deferred[None]:
        """Fires when this process has no connections of former owners."""
        return self._wait(None) if self._connections else defer.succeed(None)

    def _busy(self, index: int) -> bool:
        here = (upstream.tenant for upstream in self._connections)
        return index in self._elsewhere or any(tenant is not None and tenant.index == index for tenant in here)

    def _wait(self, index: int | None) -> defer.Deferred[None]:
        return self._waiting.setdefault(index, Waiters()).wait()

    def _notify_waiting(self) -> None:
        for index in list(self._waiting):
            if index in self._waiting and not (self._connections if index is None else self._busy(index)):
                self._waiting.pop(index).fire(None)

    def _cut(self) -> None:
        for upstream in list(self._connections):
            upstream.drop()


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
