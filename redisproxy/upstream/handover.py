"""Makes the new owner of a database wait until the former owner's connections have ended.

Owns when the new owner may have connections to Redis. Until then, what the new owner writes cannot
reach a blocked command of the former owner. What the former owner asked for cannot run on the new
owner's data. A half-closed connection has ended when Redis has closed it, too: then Redis runs
nothing more for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds
from ..net.waiters import Waiters
from ..tenants.model import Tenant
from .connection import RedisConnection


class Handover:
    """The connections of former owners, and the callers that wait for their end."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        # Connections of former owners in this process, and when each is cut.
        self._connections: dict[RedisConnection, float] = {}
        # Databases to which other processes may have such connections, by index and new owner, and
        # until when that counts.
        self._elsewhere: dict[tuple[int, Tenant], float] = {}
        self._cutting: IDelayedCall | None = None
        self._lapsing: IDelayedCall | None = None
        # By the index of the database; None for callers that wait for all connections of this
        # process.
        self._waiting: dict[int | None, Waiters[None]] = {}

    def begin(self, upstreams: Collection[RedisConnection], elsewhere: Mapping[int, Tenant]) -> None:
        """Starts to wait for the end of these connections, and of those that other processes may
        have.

        elsewhere: the databases to which other processes may have connections: the new owner, by
        index. Another snapshot gives no more time for what an earlier one began.
        """
        self.stop()
        now = self._clock.seconds()
        connections, due = self._connections, now + bounds.HANDOVER_SECONDS
        self._connections = {upstream: connections.get(upstream, due) for upstream in upstreams}
        if self._connections:
            self._cut_at(min(self._connections.values()))
        before, due = self._elsewhere, now + bounds.HANDOVER_ELSEWHERE_SECONDS
        self._elsewhere = {owner: before.get(owner, due) for owner in elsewhere.items()}
        self._lapse_at_next()
        self._notify_waiting()

    def _cut_at(self, due: float) -> None:
        self._cutting = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._cut)

    def _lapse_at_next(self) -> None:
        now = self._clock.seconds()
        later = [due for due in self._elsewhere.values() if due > now]
        if later:
            self._lapsing = self._clock.callLater(min(later) - now, self._lapsed)

    def _lapsed(self) -> None:
        self._lapse_at_next()
        self._notify_waiting()

    def stop(self) -> None:
        """Stops the time limits."""
        for timer in (self._cutting, self._lapsing):
            _cancel(timer)

    def lost(self, upstream: RedisConnection) -> None:
        """A connection is gone."""
        if upstream in self._connections:
            del self._connections[upstream]
            if not self._connections:
                _cancel(self._cutting)
            self._notify_waiting()

    def over_elsewhere(self) -> None:
        """The other processes have no such connections any more."""
        self._elsewhere = {}
        _cancel(self._lapsing)
        self._notify_waiting()

    def over(self, index: int) -> defer.Deferred[None] | None:
        """Fires when only its owner has connections to the database. None if that is so already."""
        return self._wait(index) if self._busy(index) else None

    def over_here(self) -> defer.Deferred[None]:
        """Fires when this process has no connections of former owners."""
        return self._wait(None) if self._connections else defer.succeed(None)

    def _busy(self, index: int) -> bool:
        now = self._clock.seconds()
        if any(at == index and due > now for (at, _), due in self._elsewhere.items()):
            return True
        here = (upstream.tenant for upstream in self._connections)
        return any(tenant is not None and tenant.index == index for tenant in here)

    def _wait(self, index: int | None) -> defer.Deferred[None]:
        return self._waiting.setdefault(index, Waiters()).wait()

    def _notify_waiting(self) -> None:
        for index in list(self._waiting):
            if index in self._waiting and not (self._connections if index is None else self._busy(index)):
                self._waiting.pop(index).fire(None)

    def _cut(self) -> None:
        now = self._clock.seconds()
        for upstream, due in list(self._connections.items()):
            if due <= now:
                upstream.drop()
        later = [due for due in self._connections.values() if due > now]
        if later:
            self._cut_at(min(later))


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
