"""Shared lanes: one connection to Redis that carries whole commands of all sessions of a tenant.

Owns when their bytes are written (at once on an idle lane, else once in a turn of the reactor), and what happens at
its bounds: a lane takes no more for now, is left for another one, or closes a client that does not read. `SharedLanes`
is a tenant's `session.ports.Home`; the connections come from the pool (`pool`) and go back there.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import probes
from ..net.protocol import Hold
from ..net.waiters import Waiters
from ..ops.bugs import bug
from ..ops.retry import Backoff, Retry
from ..session.pending import Owed
from ..session.session import Session
from ..tenants.model import Tenant
from .connection import LaneError, LaneProtocol

#: Bytes that wait for the end of the turn before a lane takes no more.
QUEUED_LIMIT = 256 * 1024
#: Debts (at least as many commands) of one lane before it takes no more.
DEBTS_LIMIT = 16 * 1024
#: Bytes of one lane's replies that clients have not read, before it is not read any more, and left for another.
UNREAD_LIMIT = 4 * 1024 * 1024
#: Seconds that others may wait then for a client that does not read. It is closed after that.
PATIENCE = 1.0
#: Lanes that a tenant may have shared at once with one protocol: the one in use, and others that were left for it.
LANES_LIMIT = 4
#: When a connection is opened again. Redis is mostly away for as long as a restart takes: sessions that are there already
#: come back soon.
BACKOFF = Backoff(0.075, 2.0, factor=1.5, spread=1.0)


class Pool(Protocol):
    """Where connections come from."""

    async def lease(self, tenant: Tenant, protocol: int) -> LaneProtocol:
        """Raises LaneError."""

    def forget_home(self, home: SharedLanes) -> None:
        """No session uses it any more."""


class SharedLane:
    """One of these connections. See `session.ports.Lane`."""

    def __init__(self, connection: LaneProtocol, home: SharedLanes, reactor: object) -> None:
        self.connection = connection
        #: no other session begins to use it
        self.retired = False
        #: it takes no more commands for now
        self.busy = False
        self._home = home
        self._reactor = reactor
        self._ledger = connection.carry(self, self._pressed, self._received)
        self._debts = self._ledger.debts
        self._queued: list[bytes] = []
        self._queued_size = 0
        self._full = False
        self._unread: dict[Session, int] = {}
        self._unread_size = 0
        self._patience: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<shared {self.connection!r} debts={len(self._debts)}{' busy' * self.busy}{' retired' * self.retired}>"

    # What sessions ask.

    def send(self, data: bytes, *debts: Owed) -> None:
        """See `session.ports.Lane`. An idle one writes at once: a lone client must not pay for the others."""
        idle = not self._debts
        self._debts.extend(debts)
        if idle:
            self.connection.write(data)
            return
        if not self._queued:
            self._reactor.callLater(0, self._flush)
        self._queued.append(data)
        self._queued_size += len(data)
        if self._queued_size >= QUEUED_LIMIT or len(self._debts) >= DEBTS_LIMIT:
            probes.reached("shared connection takes no more for now")
            self.busy = True

    def latest(self) -> Owed | None:
        """See `session.ports.Lane`."""
        return self._debts[-1] if self._debts else None

    def fell_behind(self, session: Session, size: int) -> None:
        """See `session.ports.Lane`. Past UNREAD_LIMIT others use another lane; those behind it on this have PATIENCE."""
        self._unread[session] = self._unread.get(session, 0) + size
        self._unread_size += size
        if self._unread_size >= UNREAD_LIMIT and self._patience is None:
            probes.reached("shared connection is not read: clients do not read")
            self.busy = True
            self.connection.hold(Hold.PEER)
            self._patience = self._reactor.callLater(PATIENCE, self._out_of_patience)
            self._home.leave_lane(self)

    def caught_up(self, session: Session) -> None:
        """See `session.ports.Lane`."""
        self._unread_size -= self._unread.pop(session, 0)
        if self._patience is not None and self._unread_size < UNREAD_LIMIT:
            self._stop_waiting()
            self.connection.unhold(Hold.PEER)
            self._take_more()

    def _out_of_patience(self) -> None:
        worst = max(self._unread, key=self._unread.__getitem__)
        self._patience = self._reactor.callLater(PATIENCE, self._out_of_patience)
        if self._home.wanted(self, worst) or any(owed.owner is not worst and not owed.silent for owed in self._debts):
            worst.too_slow()

    def _stop_waiting(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None

    # Its connection.

    def _flush(self) -> None:
        queued, self._queued = self._queued, []
        self._queued_size = 0
        if queued:
            self.connection.write(b"".join(queued))
            self._take_more()

    def _pressed(self, full: bool) -> None:
        self._full = full
        if full:
            probes.reached("Redis reads a shared connection slowly")
            self.busy = True
        else:
            self._take_more()

    def _received(self, data: bytes) -> None:
        self._ledger.received(data)
        if self.busy:
            self._take_more()
        if self.retired and not self._debts:
            self._give_back()

    def _take_more(self) -> None:
        """It is not busy any more, unless something is still in the way."""
        if self.busy and not (
            self._full or self._patience or self._queued_size >= QUEUED_LIMIT or len(self._debts) > DEBTS_LIMIT // 2
        ):
            self.busy = False
            self._home.tell_waiting()

    def retire(self) -> None:
        """No session begins to use it any more; when it owes nothing, it is given back."""
        self.retired = True
        if not self._debts:
            self._give_back()

    def give_up(self) -> None:
        """Its tenant is no tenant any more: what Redis was not sent by now is never sent."""
        if self._queued:
            probes.reached("tenant is gone while its commands wait for the end of the turn")
            self._queued.clear()
            self._queued_size = 0
            self.connection.finish()
        else:
            self.connection.give_up(blocked=False)

    def _give_back(self) -> None:
        if self in self._home.lanes:  # not yet
            self._stop_waiting()
            self._home.lanes.discard(self)
            self.connection.release(clean=True)

    def lane_lost(self) -> None:
        """See `connection.User`. Every command in flight is answered: it may have run, or not."""
        begun = self._ledger.begun
        debts = self._ledger.abandon()
        self._queued.clear()
        self._stop_waiting()
        self._home.lost(self)
        # A session that was told may close others: each is told once, and only what concerns it.
        first = debts[0].owner if debts and begun and not debts[0].silent else None
        for owner in dict.fromkeys(owed.owner for owed in debts):
            owner.lane_broke(owner is first)


class SharedLanes:
    """All sessions of one tenant that speak one protocol share these. See `session.ports.Home`."""

    _log = Logger()

    def __init__(self, pool: Pool, reactor: object, tenant: Tenant, protocol: int) -> None:
        self.tenant = tenant
        self.protocol = protocol
        self.lane: SharedLane | None = None
        self.away = ""
        #: the one in use, and those that were left for it and still owe something
        self.lanes: set[SharedLane] = set()
        self._pool = pool
        self._reactor = reactor
        self._users = 0
        self._waiting: deque[Session] = deque()
        self._opening: defer.Deferred | None = None
        self._comers: Waiters[None] = Waiters()
        self._retry = Retry(reactor, BACKOFF, self._open)

    def __repr__(self) -> str:
        return f"<shared lanes of {self.tenant.namespace} in RESP{self.protocol} users={self._users}>"

    # Sessions.

    def enter(self) -> None:
        """One more session uses it; a lane is open."""
        self._users += 1

    def come(self) -> defer.Deferred[None]:
        """One more session uses it: fires when a lane is open. Fails with LaneError; `leave` must be called then, too."""
        self._users += 1
        if self.lane is not None:
            return defer.succeed(None)
        if self.away:
            return defer.fail(LaneError("Redis was away a moment ago", self.away))
        comer = self._comers.wait()
        self._open()
        return comer

    def leave(self) -> None:
        """See `session.ports.Home`."""
        self._users -= 1
        if not self._users:
            self._pool.forget_home(self)
            self._give_up_opening()
            lane, self.lane = self.lane, None
            if lane is not None:
                lane.retire()

    def wait(self, session: Session) -> None:
        """See `session.ports.Home`."""
        if len(self._waiting) > 2 * self._users:  # those that left are not searched for one by one
            self._waiting = deque(each for each in self._waiting if not each.ended)
        self._waiting.append(session)

    def wanted(self, lane: SharedLane, but: Session) -> bool:
        """Whether others than one session wait for this lane to take more."""
        return lane is self.lane and any(session is not but and not session.ended for session in self._waiting)

    def tell_waiting(self) -> None:
        """A lane can be used, or it is known that there is none. Once it is busy again, the others keep their turns."""
        waiting = self._waiting
        for _ in range(len(waiting)):
            if not waiting or (self.lane is not None and self.lane.busy):
                break
            waiting.popleft().home_ready()

    # Lanes.

    def leave_lane(self, lane: SharedLane) -> None:
        """Another one is opened for the sessions, unless the tenant has many already."""
        if lane is self.lane and len(self.lanes) < LANES_LIMIT:
            probes.reached("shared connection is left for another")
            self.lane = None
            lane.retire()
            self._open()

    def lost(self, lane: SharedLane) -> None:
        """Its connection broke."""
        self.lanes.discard(lane)
        if lane is self.lane:
            self.lane = None
            if self._users:
                self._open()

    def renew(self) -> None:
        """Redis is elsewhere, or back: opens another lane at once, and then leaves the one in use."""
        self._retry.succeeded()
        if self._users:
            self._give_up_opening()
            self._open()

    def retry_now(self) -> None:
        """Redis is there again."""
        if self.lane is None and self._users:
            self._give_up_opening()
            self._open()

    def _open(self) -> None:
        if self._opening is not None:
            return
        opening = defer.Deferred.fromCoroutine(self._pool.lease(self.tenant, self.protocol))
        self._opening = opening
        opening.addCallbacks(self._opened, self._not_opened, (opening,), None, (opening,))
        opening.addErrback(bug(self._log, "opening a shared lane"))

    def _opened(self, connection: LaneProtocol, opening: defer.Deferred) -> None:
        if self._opening is not opening:
            probes.reached("shared connection opened after it was given up")
            connection.drop()  # given up in its last moment
            return
        self._opening = None
        self._retry.succeeded()
        self.away = ""
        before, self.lane = self.lane, SharedLane(connection, self, self._reactor)
        self.lanes.add(self.lane)
        if before is not None:
            before.retire()
        self._comers.fire(None)
        self.tell_waiting()

    def _not_opened(self, failure: Failure, opening: defer.Deferred) -> None:
        if self._opening is not opening:
            failure.trap(LaneError, defer.CancelledError)  # given up
            return
        self._opening = None
        failure.trap(LaneError, defer.CancelledError)
        if self.lane is None:
            self.away = failure.value.told
        self._comers.fire(failure)
        self.tell_waiting()
        if self._users:
            self._retry.failed()

    def _give_up_opening(self) -> None:
        self._retry.cancel()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
