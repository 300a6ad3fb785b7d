"""The order in which one tenant's commands reach Redis: that in which the proxy read them.

A command that needs a dedicated connection may have to wait for it. Until it was sent, commands
that the tenant's other sessions send later wait in a queue. Owns this queue, and its time limit.
Other tenants never wait. `session.order.Order` is the interface.

An entry of the queue is a part of what one client sent, in the order of arrival. Only the first
entry's session reads commands; if one of them waits for a connection, the queue waits with it. So
there is no circle: a session waits only for entries before its own.

Redis reads a connection that was ready before with all that has come there since. So a command on
an idle connection may be overtaken by one that comes later on a multiplexed connection with other
commands. Where this matters, a fence is an entry, too: a PING before the command. Others wait until
Redis has answered it. A multiplexed connection without pending replies needs no fence.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, probes
from ..session.order import OrderedSession
from ..session.pending import ReplyBatch
from ..session.ports import ReplyReceiver
from ..session.state import Gate


class _TenantPool(Protocol):
    """A tenant's multiplexed connections, in one protocol version."""

    @property
    def pending(self) -> bool:
        """Whether replies are pending on the one in use."""

    def order_changed(self) -> None:
        """The queue is not empty any more, or is empty again."""


class _Unflushed(Protocol):
    """A multiplexed connection with commands that wait for the end of the turn."""

    def flush(self) -> None:
        """Writes these commands now."""


@dataclass(slots=True, eq=False)
class _Entry:
    """What one client sent. size: bytes; since: when it came, in seconds of the clock; waits:
    whether the session waits for a connection, or others for the fence; fence: if this is one, its
    newest batch.
    """

    session: OrderedSession
    size: int
    since: float
    waits: bool = False
    fence: ReplyBatch | None = None


class _FenceReply:
    """Receives the reply to a fence's PING."""

    def __init__(self, answered: Callable[[ReplyBatch], None]) -> None:
        self._answered = answered

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """See `session.ports.ReplyReceiver`."""
        if ended:
            self._answered(batch)

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """See `session.ports.ReplyReceiver`. The connection's session has left the queue."""


class TenantOrder:
    """The queue of one tenant.

    clock: measures how long commands wait; refused: whether Redis takes no connections now.
    """

    def __init__(self, clock: IReactorTime, refused: Callable[[], bool] = lambda: False) -> None:
        #: whether commands wait, so that each session has to ask `passes`
        self.closed = False
        #: the multiplexed connections of the tenant, in both protocol versions. Here and below, a
        #: dict keeps the order of insertion, so that no object's address decides anything.
        self.pools: dict[_TenantPool, None] = {}
        #: its multiplexed connections with commands that were read before, and not written yet
        self.unflushed: dict[_Unflushed, None] = {}
        self._clock = clock
        self._refused = refused
        self._entries: deque[_Entry] = deque()
        # How many entries each session has, and their bytes.
        self._counts: Counter[OrderedSession] = Counter()
        self._sizes: Counter[OrderedSession] = Counter()
        self._passing: OrderedSession | None = None
        self._running = False
        # Whether a command has waited too long, and no connection was acquired since.
        self._late = False
        self._timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<order entries={len(self._entries)}{' late' * self._late}>"

    def flush(self) -> None:
        """Writes what waits for the end of the turn, because a later command is written at once."""
        for upstream in list(self.unflushed):
            upstream.flush()

    # For sessions: see `session.order.Order`.

    def passes(self, session: OrderedSession) -> bool:
        """See `session.order.Order`."""
        return session is self._passing or self._fenced_by(session)

    def _fenced_by(self, session: OrderedSession) -> bool:
        """Whether a fence of this session is all that is in the queue."""
        return len(self._entries) == 1 and self._entries[0].fence is not None and self._entries[0].session is session

    def begin(self, session: OrderedSession) -> None:
        """See `session.order.Order`.

        Does nothing while connections cannot be had in time: then commands would only wait.
        """
        first = self._entries[0] if self._entries else None
        if self._late or self._refused() or self._begun(session):
            return
        if self.passes(session) or first is None:
            entry = _Entry(session, 0, self._clock.seconds(), waits=True)
            self._entries.appendleft(entry)
            self._counts[session] += 1
            session.close_gate(Gate.ORDER)
            self._changed()

    def _begun(self, session: OrderedSession) -> bool:
        """Whether a command of this session waits for a connection."""
        first = self._entries[0] if self._entries else None
        return first is not None and first.session is session and first.waits and first.fence is None

    def fence(self, session: OrderedSession, always: bool) -> ReplyBatch | None:
        """See `session.order.Order`."""
        begun = self._begun(session)
        if self._late or not (begun or always) or not any(pool.pending for pool in self.pools):
            return None
        if self._entries and not begun and not self.passes(session):
            return None  # its turn was given up
        probes.reached("commands wait until Redis has read one on another connection")
        batch = ReplyBatch(_FenceReply(self._answered), 1)
        at = 1 if begun else 0
        if len(self._entries) > at and self._entries[at].fence is not None and self._entries[at].session is session:
            self._entries[at].fence = batch
        else:
            self._entries.insert(at, _Entry(session, 0, self._clock.seconds(), waits=True, fence=batch))
            self._changed()
        return batch

    def _answered(self, batch: ReplyBatch) -> None:
        """Redis has answered a fence."""
        self._late = False
        for entry in self._entries:
            if entry.fence is batch:
                entry.waits = False
                return self._run()
        return None

    def wait(self, session: OrderedSession, size: int) -> None:
        """See `session.order.Order`."""
        probes.reached("command waits for one that was read before it")
        self._entries.append(_Entry(session, size, self._clock.seconds()))
        self._counts[session] += 1
        self._sizes[session] += size
        session.close_gate(Gate.ORDER)
        self._changed()

    def more(self, session: OrderedSession, size: int) -> None:
        """See `session.order.Order`."""
        if not self._counts[session]:
            return
        newest = self._entries[-1]
        if newest.session is session:
            newest.size += size
            self._sizes[session] += size
        else:
            self.wait(session, size)

    def settled(self, session: OrderedSession) -> None:
        """See `session.order.Order`."""
        if self._begun(session):
            self._entries[0].waits = False
            self._run()

    def connected(self) -> None:
        """See `session.order.Order`."""
        self._late = False

    def give_up(self, receivers: Collection[ReplyReceiver]) -> None:
        """These wait for a script that takes long. So nobody waits any more for a command that one
        of their sessions sent behind that script.
        """
        first = self._entries[0] if self._entries else None
        if first is not None and self._begun(first.session) and first.session.replies in receivers:
            probes.reached("order of arrival is given up: a script takes long")
            first.waits = False
            self._run()

    def leave(self, session: OrderedSession) -> None:
        """See `session.order.Order`."""
        waited = self._counts.pop(session, 0)
        self._sizes.pop(session, None)
        if self._entries:
            self._entries = deque(entry for entry in self._entries if entry.session is not session)
            self._run()
        if waited:
            session.turn_came(0)

    # The queue.

    def _run(self) -> None:
        """Lets sessions run their commands, until one of these waits for a connection."""
        if self._running:
            return  # called by a session whose turn it is: the loop below goes on
        self._running = True
        try:
            while self._entries and (self._late or not self._entries[0].waits):
                entry = self._entries.popleft()
                if entry.fence is None:
                    self._pass(entry)
        finally:
            self._running = False
            self._passing = None
            self._changed()

    def _pass(self, entry: _Entry) -> None:
        session = entry.session
        self._counts[session] -= 1
        self._sizes[session] -= entry.size
        later = self._sizes[session]
        if not self._counts[session]:
            del self._counts[session], self._sizes[session]
        self._passing = session
        session.turn_came(later)
        self._passing = None
        if session in self._counts:
            session.close_gate(Gate.ORDER)
        elif later:
            session.turn_came(0)  # it has left the queue, and goes on with the rest

    def _changed(self) -> None:
        closed = bool(self._entries)
        if closed != self.closed:
            self.closed = closed
            for pool in list(self.pools):
                pool.order_changed()
        if len(self._entries) < 2:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._start_timer()

    def _start_timer(self) -> None:
        due = self._entries[1].since + bounds.ORDER_SECONDS - self._clock.seconds()
        self._timer = self._clock.callLater(max(0.0, due), self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        # The second entry waits for the first one, and longer than all others.
        if self._entries[1].since + bounds.ORDER_SECONDS > self._clock.seconds():
            self._start_timer()
            return
        probes.reached("order of arrival is given up: no connection in time")
        self._late = True
        self._run()
