"""Where a session's commands go: nowhere, over its tenant's multiplexed connections, or over a
dedicated one.

Owns that choice. `Route.move` is the one place where it changes: from a state to another as `LEGAL`
has it, and only when no reply is pending, so that a session's commands run in the order it sent
them. For as long as the session has a pool, its way back to the multiplexed connections is open.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, cast

from .. import messages, probes
from .ports import Dedicated, Multiplexed, TenantPool, Unavailable, Upstream
from .state import BugError, Gate, Until

if TYPE_CHECKING:
    from .replies import ReplyQueue
    from .session import Session


class RouteState(Enum):
    """Over which connections a session's commands go."""

    NONE = "none"  #: not logged in, or over
    MULTIPLEXED = "multiplexed"
    DEDICATED = "dedicated"


NONE, MULTIPLEXED, DEDICATED = RouteState.NONE, RouteState.MULTIPLEXED, RouteState.DEDICATED

#: All moves that there are. Not here: an end where nothing began.
LEGAL = frozenset(
    (
        (NONE, MULTIPLEXED),  # a log-in
        (NONE, DEDICATED),  # a log-in where connections are not multiplexed
        # another connection of the pool, or another pool: a log-in, a HELLO
        (MULTIPLEXED, MULTIPLEXED),
        (MULTIPLEXED, DEDICATED),  # a command needs it, or the client does not read
        (DEDICATED, MULTIPLEXED),  # it is not needed any more; a log-in
        (DEDICATED, DEDICATED),  # a log-in where connections are not multiplexed
        (MULTIPLEXED, NONE),  # a RESET, or the end
        (DEDICATED, NONE),
    )
)
#: Where nobody is logged in. Nothing is sent there.
NOWHERE = Unavailable(messages.NOAUTH.text)


class Route:
    """One session's way to Redis."""

    __slots__ = ("_backlog_at", "_queued", "_replies", "clean", "pool", "state", "upstream")

    def __init__(self, replies: ReplyQueue) -> None:
        self._replies = replies
        self.state = NONE
        #: where commands go
        self.upstream: Upstream = NOWHERE
        #: the tenant's multiplexed connections, if the session uses them or may come back to them
        self.pool: TenantPool | None = None
        #: whether no command has left a state on the dedicated connection that the session does not
        #: know of
        self.clean = True
        # The multiplexed connection that counts what the client has not read.
        self._backlog_at: Multiplexed | None = None
        # Whether the session waits in the pool's queue.
        self._queued = False

    def __repr__(self) -> str:
        return f"<Route {self.state.value}>"

    @property
    def dedicated(self) -> Dedicated | None:
        """The dedicated connection."""
        # `use` has put it there
        return cast(Dedicated, self.upstream) if self.state is DEDICATED else None

    def move(self, to: RouteState, upstream: Upstream, clean: bool | None = False) -> None:
        """Commands go to this upstream from now on.

        clean: whether a dedicated connection that is left has no state of the session; None: it is
        gone.
        """
        before = self.state
        if (before, to) not in LEGAL:
            raise BugError(f"no session moves from {before} to {to}")
        if to is not NONE and not self._replies.drained:
            raise BugError(f"a session moves to {to} while replies are pending")
        former = self.dedicated
        self.state, self.upstream, self.clean = to, upstream, True
        if former is not None and clean is not None:
            former.release(clean)

    def join(self, pool: TenantPool, clean: bool) -> None:
        """Commands go over the multiplexed connections of this pool from now on."""
        self.move(MULTIPLEXED, pool.upstream, clean)
        self.leave_pool()
        self.pool = pool

    def leave_pool(self) -> None:
        """There is no way back to the multiplexed connections."""
        pool, self.pool = self.pool, None
        self._queued = False
        if pool is not None:
            pool.leave()

    def end(self, clean: bool | None = False) -> None:
        """The session needs no connections any more. clean: see `move`."""
        if self.state is not NONE:
            self.move(NONE, NOWHERE, clean)
        self.leave_pool()

    # Over multiplexed connections.

    def ready(self, session: Session) -> bool:
        """Whether the next command can be sent. If not, the session goes on by itself when it
        can.
        """
        pool = self.pool
        if pool is None:
            raise BugError("no pool")
        upstream = pool.upstream
        if self.upstream is not upstream:
            if not self._replies.drained:
                probes.reached("replies are awaited before another shared connection is used")
                session.close_gate(Gate.UPSTREAM)
                return False
            self.move(MULTIPLEXED, upstream)
        if isinstance(upstream, Unavailable) and not upstream.busy:
            probes.reached("commands fail at once: Redis is away")
            return True
        if not upstream.busy:
            if not self._replies.slow:
                return True
            # What the client does not read must not pile up here: on a dedicated connection, it
            # piles up in Redis.
            if not self._replies.drained:
                session.close_gate(Gate.UPSTREAM)
            else:
                probes.reached("client that does not read gets its own connection")
                self._acquire(session, partial(self._acquired_for_slow_client, session))
            return False
        probes.reached("session waits for a shared connection")
        session.close_gate(Gate.UPSTREAM)
        if not self._queued:
            self._queued = True
            pool.wait(session)
        return False

    @property
    def gate_opens_when_drained(self) -> bool:
        """Whether the session waited for its replies, and not in the pool's queue."""
        return not self._queued

    def left_queue(self) -> None:
        """The pool's queue has come to the session."""
        self._queued = False

    # To a dedicated connection, and back.

    def acquire(self, session: Session, then: Callable[[], None]) -> None:
        """then: called when the session has a dedicated connection, at once or later. Without one,
        the command fails.
        """
        if self.state is DEDICATED:
            return then()
        upstream = None if self.pool is None else self.pool.upstream
        if isinstance(upstream, Unavailable) and not upstream.busy:
            return session.refuse_waiting(upstream.error)
        return session.when_drained(partial(self._acquire, session, partial(self._acquired, session, then)))

    def _acquire(self, session: Session, then: Callable[[Dedicated | Unavailable], None]) -> None:
        session.backend.acquire(session.tenant, session.protocol, session.suspend(Until.DEDICATED, then))

    def _acquired(self, session: Session, then: Callable[[], None], result: Dedicated | Unavailable) -> None:
        if isinstance(result, Unavailable):
            session.refuse_waiting(result.error)
        elif self._may_use(session, result):
            self.use(session, result)
            then()

    def _acquired_for_slow_client(self, session: Session, result: Dedicated | Unavailable) -> None:
        if isinstance(result, Unavailable):
            probes.reached("no connection for a client that does not read")
            if self._replies.slow:  # or nothing would open the gate
                self._replies.stop_until_read()
        elif self._may_use(session, result):
            self.use(session, result)

    def _may_use(self, session: Session, upstream: Dedicated) -> bool:
        if session.may_move():
            return True
        upstream.release(clean=True)
        return False

    def use(self, session: Session, upstream: Dedicated) -> None:
        """The session uses this connection from now on."""
        self.move(DEDICATED, upstream, session.leaves_nothing)
        upstream.carry_session(session)
        if self._replies.slow:
            upstream.pause(True)
        session.use_policy()
        session.connection.dedicated()

    def return_if_clean(self, session: Session) -> None:
        """Gives a dedicated connection back if it has no state of the session, and there are
        multiplexed ones.
        """
        if self.state is not DEDICATED or self.pool is None or session.ended:
            return
        if self._replies.drained and not (session.stateful or self._replies.slow or session.midway):
            self.move(MULTIPLEXED, self.pool.upstream, session.leaves_nothing)
            session.use_policy()

    # A client that does not read.

    def fell_behind(self, session: Session, size: int) -> None:
        """The client has so many bytes more that it does not read."""
        if self.state is not MULTIPLEXED:
            return
        if isinstance(self.upstream, Unavailable):
            self._replies.stop_until_read()
            return
        upstream = cast(Multiplexed, self.upstream)  # it is the pool's, or was
        if self._backlog_at is None:
            self._backlog_at = upstream
        # Elsewhere than where it fell behind it hears no more than the answer to a HELLO before it
        # has read all.
        if self._backlog_at is upstream:
            upstream.slow_reader(session, size)

    def caught_up(self, session: Session) -> None:
        """The client has read all, or is gone."""
        upstream, self._backlog_at = self._backlog_at, None
        if upstream is not None:
            upstream.read_everything(session)
