"""Where a session's commands go: nowhere, over its tenant's multiplexed connections, or over a
dedicated connection.

Owns this choice. Only `Route.move` changes it: only as `LEGAL` allows, and only when no reply is
pending, so that a session's commands run in the order in which the client sent them. While the
session has a pool, it can go back to the multiplexed connections. This module is longer than other
modules: all ways from one connection to another share the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, cast

from .. import bounds, messages, probes
from .order import UNORDERED, Order
from .ports import Dedicated, Multiplexed, TenantPool, Unavailable, Upstream
from .state import BugError, Gate, Until

if TYPE_CHECKING:
    from .replies import ReplyQueue
    from .session import Session


class RouteState(Enum):
    """Which kind of connection a session's commands go to."""

    NONE = "none"  #: none: the client is not logged in, or the session has ended
    MULTIPLEXED = "multiplexed"
    DEDICATED = "dedicated"

    __hash__ = object.__hash__  # as in `state.Phase`


NONE, MULTIPLEXED, DEDICATED = RouteState.NONE, RouteState.MULTIPLEXED, RouteState.DEDICATED

#: All legal moves. A session that ends without a connection makes no move.
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
#: The upstream while the client is not logged in. Nothing is sent there.
NOWHERE = Unavailable(messages.NOAUTH.text)


class Route:
    """The route of one session's commands to Redis."""

    __slots__ = (
        "_attempted",
        "_backlog_at",
        "_queued",
        "_replies",
        "_with_scripts",
        "clean",
        "full",
        "order",
        "pool",
        "prepared",
        "state",
        "upstream",
    )

    def __init__(self, replies: ReplyQueue) -> None:
        self._replies = replies
        self.state = NONE
        #: the connection that commands go to
        self.upstream: Upstream = NOWHERE
        #: the tenant's multiplexed connections, if the session uses them or may go back to them
        self.pool: TenantPool | None = None
        #: the order of the tenant's commands; set by the log-in
        self.order: Order = UNORDERED
        #: False once a command may have left a state on the dedicated connection that nothing else
        #: here records
        self.clean = True
        #: whether Redis reads too slowly from the dedicated connection
        self.full = False
        #: whether a dedicated connection was prepared for the session, since it moved
        self.prepared = False
        # The multiplexed connection that counts the replies that the client has not read.
        self._backlog_at: Multiplexed | None = None
        # Whether the session waits in the pool's queue.
        self._queued = False
        # Whether `upstream` is the connection for scripts.
        self._with_scripts = False
        # Whether the attempt to acquire a connection has failed: see `attempted` and `ready`.
        self._attempted = False

    def __repr__(self) -> str:
        return f"<Route {self.state.value}>"

    @property
    def dedicated(self) -> Dedicated | None:
        """The dedicated connection, if the session uses one."""
        # `use` has put it there
        return cast(Dedicated, self.upstream) if self.state is DEDICATED else None

    @property
    def for_rounds(self) -> Multiplexed | None:
        """The multiplexed connection, if commands may wait there for places in the tenant's window.

        Not an idle one, where there is nothing to wait behind. Not the one for scripts, which must
        not look as if a script took long.
        """
        if self.state is not MULTIPLEXED or self._with_scripts or self.upstream.newest() is None:
            return None
        return cast(Multiplexed, self.upstream)

    def move(self, to: RouteState, upstream: Upstream, clean: bool | None = False) -> None:
        """Sends commands to this upstream from now on.

        clean: whether the dedicated connection that the session leaves, if any, has no state of the
        session; None: that connection is lost. Raises BugError if the move is not in LEGAL, or if
        replies are pending (except for a move to NONE).
        """
        before = self.state
        if (before, to) not in LEGAL:
            raise BugError(f"no session moves from {before} to {to}")
        if to is not NONE and not self._replies.drained:
            raise BugError(f"a session moves to {to} while replies are pending")
        former = self.dedicated if before is DEDICATED else None
        self.state, self.upstream, self.clean = to, upstream, True
        self.full = self.prepared = self._with_scripts = False
        if former is not None and clean is not None:
            former.release(clean)

    def join(self, pool: TenantPool, clean: bool) -> None:
        """Sends commands over the multiplexed connections of this pool from now on.

        clean: see `move`.
        """
        self.move(MULTIPLEXED, pool.upstream, clean)
        self.leave_pool()
        self.pool = pool

    def leave_pool(self) -> None:
        """Leaves the pool: the session cannot go back to its multiplexed connections."""
        pool, self.pool = self.pool, None
        self._queued = False
        if pool is not None:
            pool.leave()

    def end(self, clean: bool | None = False) -> None:
        """Gives up all connections of the session. clean: see `move`."""
        self.use_none(NOWHERE, clean)

    def use_none(self, upstream: Unavailable, clean: bool | None) -> None:
        """Gives up all connections of the session. `upstream` answers commands from now on.

        clean: see `move`.
        """
        if self.state is not NONE:
            self.move(NONE, upstream, clean)
        self.upstream = upstream
        self.leave_pool()

    def use_order(self, session: Session, order: Order = UNORDERED) -> None:
        """Takes part in this order of commands from now on. Without one: the session sends none."""
        former, self.order = self.order, order
        if former is not order:
            former.leave(session)

    # Over multiplexed connections.

    def ready(self, session: Session) -> bool:
        """Returns whether the next command can be sent over a multiplexed connection now.

        If not, a gate is closed, or the session has a Step. It goes on by itself when the command
        can be sent.
        """
        pool = self.pool
        if pool is None:
            raise BugError("no pool")
        upstream = pool.upstream
        if self._with_scripts and self._replies.drained:
            self._change_upstream(upstream, with_scripts=False)
        if self.upstream is not upstream:
            if not self._replies.drained:
                if self._with_scripts:
                    return self._ready_behind_scripts(session)
                probes.reached("replies are awaited before another multiplexed connection is used")
                session.close_gate(Gate.UPSTREAM)
                self.settle(session)
                return False
            self.move(MULTIPLEXED, upstream)
        if isinstance(upstream, Unavailable) and not upstream.busy:
            if upstream.closes:
                session.not_held(upstream)
                return False
            probes.reached("commands fail at once: Redis refuses connections")
            return True
        busy = upstream.busy
        if self.order.closed:
            if not self.in_turn(session):
                return False
            busy = upstream.overloaded
        if self._replies.slow:
            # Replies that the client does not read must not pile up in the proxy. With a dedicated
            # connection, they pile up in Redis.
            if not self._replies.drained:
                session.close_gate(Gate.UPSTREAM)
                self.settle(session)
                return False
            if not self._attempted:
                probes.reached("client that does not read gets its own connection")
                self._acquire(session, partial(self._acquired_for_slow_client, session))
                return False
            self._attempted = False
        if not busy:
            return True
        probes.reached("session waits for a multiplexed connection")
        session.close_gate(Gate.UPSTREAM)
        if not self._queued:
            self._queued = True
            pool.wait(session)
        return False

    def in_turn(self, session: Session) -> bool:
        """Returns whether it is the session's turn, while commands of its tenant wait.

        If not, a gate is closed until it is.
        """
        order = self.order
        if order.passes(session):
            return True
        order.wait(session, session.buffered)
        if session.expects_dedicated and not self.prepared:
            self.prepared = True  # one for each session: it may send MULTI again and again, and not use it
            session.work.spend(bounds.WORK_CONNECTION)
            session.backend.prepare(session.tenant, session.protocol)
        return False

    @property
    def gate_opens_when_drained(self) -> bool:
        """Whether Gate.UPSTREAM opens when no reply is pending.

        If the session waits in the pool's queue, the gate opens when its turn comes instead.
        """
        return not self._queued

    def left_queue(self) -> None:
        """The session's turn in the pool's queue has come."""
        self._queued = False

    # Over the connection for scripts.

    def _change_upstream(self, upstream: Upstream, with_scripts: bool) -> None:
        """Sends commands over another multiplexed connection. No reply may be pending.

        Does the same as `move`, for less: many sessions do so for each script.
        """
        self.upstream, self._with_scripts = upstream, with_scripts

    def _ready_behind_scripts(self, session: Session) -> bool:
        """Returns whether the next command can be sent behind the session's scripts now."""
        if self.order.closed and not self.in_turn(session):
            return False
        if TYPE_CHECKING:
            assert self.pool is not None, "`ready` has one"
        upstream = cast(Multiplexed, self.upstream)
        # One that was replaced may lead to a Redis that is not the master any more.
        free = upstream is self.pool.scripts.upstream and not (upstream.overloaded or self._replies.slow)
        if not free:
            session.close_gate(Gate.UPSTREAM)
            self.settle(session)
        return free

    def renew(self, session: Session, count: int, then: Callable[[], None]) -> None:
        """Calls `then` when a command that has waited may be sent to `upstream`, at once or later.

        No reply may be pending. If there is no connection to be had, `count` commands are answered
        with an error instead.
        """
        pool = self.pool
        if self.state is not MULTIPLEXED or pool is None:
            return then()
        upstream = pool.upstream
        if self.upstream is not upstream:
            self.move(MULTIPLEXED, upstream)
        if not isinstance(upstream, Unavailable):
            return then()
        if not upstream.busy:
            return session.not_held(upstream, count)
        return self._acquire(session, partial(self._acquired_for_scripts, session, count, then))

    def takes_scripts(self) -> bool:
        """Returns whether commands that run scripts may be sent to `upstream` now.

        If it can be so at once, the session moves to the connection for scripts.
        """
        if self.state is not MULTIPLEXED:
            self.runs_scripts()
            return True
        if not self._replies.drained:
            return self._with_scripts
        pool = self.pool
        available = None if pool is None or isinstance(pool.upstream, Unavailable) else pool.scripts.available
        if available is None:
            return False
        self._change_upstream(available, with_scripts=True)
        return True

    def runs_scripts(self) -> None:
        """A script is sent over the dedicated connection now, if the session uses one."""
        dedicated = self.dedicated
        if dedicated is not None:
            dedicated.runs_scripts = True

    def run_scripts(self, session: Session, count: int, then: Callable[[], None]) -> None:
        """Calls `then` when commands that run scripts may be sent to `upstream`, at once or later.

        Called where `takes_scripts` says no. The session moves to the connection for scripts, and
        stays there until it has all replies. count: the number of commands, which are answered with
        an error instead if there is no connection to be had.

        Later commands of others wait while the session waits for a connection, but not while it
        waits for its own replies: many sessions do so again and again.
        """
        session.when_drained(partial(self._move_to_scripts, session, count, then))

    def _move_to_scripts(self, session: Session, count: int, then: Callable[[], None]) -> None:
        pool = self.pool
        if pool is None:
            raise BugError("no pool")
        if isinstance(pool.upstream, Unavailable) and not pool.upstream.busy:
            return session.not_held(pool.upstream, count)
        scripts = pool.scripts
        if scripts.slow:
            probes.reached("script takes long, and others get connections of their own")
            self._acquire(session, partial(self._acquired_for_scripts, session, count, then))
        elif scripts.upstream.overloaded:
            probes.reached("scripts wait for their connection")
            again = partial(self._free_for_scripts, session, count, then)
            scripts.wait_until_free(session.suspend(Until.SCRIPTS, again))
        else:
            return self._send_scripts(session, scripts.upstream, count, then)
        if session.step is not None:
            self.order.begin(session)
        return None

    def _send_scripts(
        self, session: Session, upstream: Multiplexed | Unavailable, count: int, then: Callable[[], None]
    ) -> None:
        if isinstance(upstream, Unavailable):
            return session.not_held(upstream, count)
        self._change_upstream(upstream, with_scripts=True)
        return then()

    def _free_for_scripts(self, session: Session, count: int, then: Callable[[], None], _: None) -> None:
        self._move_to_scripts(session, count, then)

    def _acquired_for_scripts(
        self, session: Session, count: int, then: Callable[[], None], result: Dedicated | Unavailable
    ) -> None:
        if isinstance(result, Unavailable):
            session.not_held(result, count)
        elif self._may_use(session, result):
            self.order.connected()
            self.use(session, result)
            self.runs_scripts()
            then()

    # Without a connection, because Redis was busy with a script at the log-in.

    def attempted(self, session: Session) -> bool:
        """Returns whether the next command must be answered without a connection.

        If not, the session tries to acquire one, at once or later. It goes on by itself after that.
        Only where connections are not multiplexed: a pool tries by itself.
        """
        attempted, self._attempted = self._attempted, False
        if not attempted:
            self._acquire(session, partial(self._acquired_at_last, session))
        return attempted

    def _acquired_at_last(self, session: Session, result: Dedicated | Unavailable) -> None:
        if isinstance(result, Unavailable) and result.closes:
            session.not_held(result)
        elif isinstance(result, Unavailable):
            self.upstream, self._attempted = result, True
        elif self._may_use(session, result):
            self.use(session, result)

    # To a dedicated connection, and back.

    def acquire(self, session: Session, then: Callable[[], None]) -> None:
        """Calls `then` when the session has a dedicated connection, at once or later.

        If there is none to be had, the waiting command is answered with an error instead.
        """
        if self.state is DEDICATED:
            return then()
        upstream = None if self.pool is None else self.pool.upstream
        if isinstance(upstream, Unavailable) and not upstream.busy:
            return session.not_held(upstream)
        session.when_drained(partial(self._acquire, session, partial(self._acquired, session, then)))
        if session.step is not None and not self._behind_slow_script:
            self.order.begin(session)
        return None

    @property
    def _behind_slow_script(self) -> bool:
        """Whether the session waits for a script of its own that takes long.

        Then others do not wait for what it sends behind that: they must learn that Redis is busy.
        """
        return self._with_scripts and not self._replies.drained and self.pool is not None and self.pool.scripts.slow

    def _acquire(self, session: Session, then: Callable[[Dedicated | Unavailable], None]) -> None:
        session.work.spend(bounds.WORK_CONNECTION)
        session.backend.acquire(session.tenant, session.protocol, session.suspend(Until.DEDICATED, then))

    def _acquired(self, session: Session, then: Callable[[], None], result: Dedicated | Unavailable) -> None:
        if isinstance(result, Unavailable):
            session.not_held(result)
        elif self._may_use(session, result):
            self.order.connected()
            self.use(session, result)
            then()

    def _acquired_for_slow_client(self, session: Session, result: Dedicated | Unavailable) -> None:
        if isinstance(result, Unavailable) and result.closes:
            session.not_held(result)  # it may read nothing before it has sent everything
        elif isinstance(result, Unavailable):
            # Its next commands go over the multiplexed connection, and their replies are charged to
            # its tenant. If it were stopped, one that reads nothing before it has written all would
            # wait for ever.
            probes.reached("no connection for a client that does not read")
            self._attempted = self._replies.slow
        elif self._may_use(session, result):
            self.use(session, result)

    def _may_use(self, session: Session, upstream: Dedicated) -> bool:
        if session.may_move():
            return True
        upstream.release(clean=True)
        return False

    def use(self, session: Session, upstream: Dedicated) -> None:
        """Sends commands over this dedicated connection from now on."""
        self.move(DEDICATED, upstream, session.leaves_nothing)
        upstream.carry_session(session)
        self.settle(session)
        session.use_policy()

    def return_if_clean(self, session: Session) -> None:
        """Goes back to the pool's multiplexed connections, if the session needs no dedicated one.

        It needs one while replies are pending, while it has state there, while its client does not
        read, or while a command is sent in part.
        """
        if not self._replies.slow and self._may_return(session):
            self._return(session, session.leaves_nothing)

    def lost(self, session: Session) -> bool:
        """The dedicated connection is lost. Goes back likewise, also if the client does not read.

        Returns False if replies, or state of the session, went with it.
        """
        if not self._may_return(session):
            return False
        probes.reached("connection of a client that does not read is lost")
        self._return(session, None)
        return True

    def leave_dedicated(self, session: Session) -> None:
        """The tenant is paused: gives up the dedicated connection, which has no state of the
        session.

        Goes back likewise, also if the client does not read. A session without a pool acquires
        another connection for its next command: see `attempted`.
        """
        if self.state is not DEDICATED or session.ended:
            return
        probes.reached("session of a paused tenant gives up its connection")
        if self.pool is None:
            self.use_none(NOWHERE, session.leaves_nothing)
        else:
            self._return(session, session.leaves_nothing)

    def _may_return(self, session: Session) -> bool:
        if self.state is not DEDICATED or self.pool is None or session.ended:
            return False
        return self._replies.drained and not (session.stateful or session.midway)

    def _return(self, session: Session, clean: bool | None) -> None:
        if TYPE_CHECKING:
            assert self.pool is not None
        self.move(MULTIPLEXED, self.pool.upstream, clean)
        session.use_policy()

    # A client that does not read.

    def fell_behind(self, session: Session, size: int) -> None:
        """The client does not read its replies. size: bytes that its backlog grew by."""
        if self.state is not MULTIPLEXED or isinstance(self.upstream, Unavailable):
            return
        upstream = cast(Multiplexed, self.upstream)  # it is the pool's, or was
        former, self._backlog_at = self._backlog_at, upstream
        if former is not None and former is not upstream:
            # It moved since, as a script behind plain commands does: the new connection gives it
            # more to read now, and the former one is not held up by it any more.
            probes.reached("client that does not read goes on to read less over another connection")
            former.read_everything(session)
        upstream.slow_reader(session, size)

    def settle(self, session: Session) -> None:
        """Has Redis's replies read, or not: not if the client does not read them, unless the
        session waits for them.
        """
        slow = self._replies.slow
        dedicated = self.dedicated
        if dedicated is not None:
            dedicated.pause(slow and not session.wants_replies)
        if slow and self._backlog_at is not None:
            self._backlog_at.settle()

    def others_wait(self, session: Session) -> bool:
        """Whether other sessions wait for replies behind those that this session's client does not
        read, so that its connection has to be read.
        """
        upstream = self._backlog_at
        if upstream is None and self.state is MULTIPLEXED and not isinstance(self.upstream, Unavailable):
            upstream = cast(Multiplexed, self.upstream)
        return upstream is not None and upstream.others_wait(session)

    def caught_up(self, session: Session) -> None:
        """The client has read its replies, or is gone."""
        upstream, self._backlog_at = self._backlog_at, None
        if upstream is not None:
            upstream.read_everything(session)
