"""All multiplexed connections of one tenant in one protocol.

Owns when one is opened, and which of them sessions use. `TenantPool` implements
`session.ports.TenantPool`. Connections come from `pool`, and are released to it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import bounds, messages, probes
from ..net.waiters import Waiters
from ..ops.bugs import bug
from ..ops.retry import Backoff, Retry
from ..session.ports import MultiplexedUser, Unavailable
from ..tenants.model import Tenant
from .connection import RedisBusy, RedisConnection, UpstreamError
from .multiplexed import MultiplexedConnection
from .order import TenantOrder

if TYPE_CHECKING:
    from .script_pool import ScriptPool

#: The delay before a connection is opened again. It is short: Redis is mostly away only for a
#: restart, and sessions wait.
BACKOFF = Backoff(0.075, 2.0, factor=1.5, spread=1.0)
#: The same while Redis is busy with a script. An attempt costs no connection, and until it succeeds
#: commands get Redis's error.
BUSY_BACKOFF = Backoff(0.1, 0.1)


class Pool(Protocol):
    """Where connections come from."""

    async def acquire(self, tenant: Tenant, protocol: int) -> RedisConnection:
        """Returns a connection. Raises UpstreamError."""

    def forget(self, tenant_pool: TenantPool) -> None:
        """No session uses this tenant pool any more."""

    def script_pool(self, tenant: Tenant, protocol: int) -> ScriptPool:
        """Returns the tenant's connection for scripts."""


def unavailable(error: UpstreamError) -> Unavailable:
    """What sessions get where there is no connection to Redis."""
    hello = error.hello if isinstance(error, RedisBusy) else b""
    # The time to wait for what may pass is over when it is raised.
    found = Unavailable(error.client_reply, closes=error.passing, hello=hello)
    found.close_reason = error.close_reason
    return found


#: The state of a tenant pool while it opens a connection.
OPENING = Unavailable(busy=True)


class TenantPool:
    """The multiplexed connections of one tenant in one protocol. See `session.ports.TenantPool`."""

    _log = Logger()
    #: whether the connections are for scripts
    for_scripts = False

    def __init__(
        self, pool: Pool, reactor: IReactorTime, tenant: Tenant, protocol: int, order: TenantOrder | None = None
    ) -> None:
        self.tenant = tenant
        self.protocol = protocol
        #: that of all the tenant's commands
        self.order = order or TenantOrder(reactor)
        self.upstream: MultiplexedConnection | Unavailable = OPENING
        #: the connection in use, and replaced ones that still have replies pending
        self.upstreams: set[MultiplexedConnection] = set()
        self._pool = pool
        self._reactor = reactor
        self._users = 0
        self._waiting: deque[MultiplexedUser] = deque()
        self._notifying: IDelayedCall | None = None
        self._opening: defer.Deferred[RedisConnection] | None = None
        self._waiters: Waiters[None] = Waiters()
        self._retry = Retry(reactor, BACKOFF, self._open)
        self._busy_retry = Retry(reactor, BUSY_BACKOFF, self._open)
        self._scripts: ScriptPool | None = None

    def __repr__(self) -> str:
        return f"<multiplexed connections of {self.tenant.namespace} in RESP{self.protocol} users={self._users}>"

    # For sessions.

    @property
    def open(self) -> MultiplexedConnection | None:
        """The connection in use; None if there is none."""
        return None if isinstance(self.upstream, Unavailable) else self.upstream

    @property
    def pending(self) -> bool:
        """Whether replies are pending on the connection in use."""
        upstream = self.open
        return upstream is not None and upstream.newest() is not None

    def enter(self) -> None:
        """Adds a session. A connection must be open."""
        self._users += 1
        self.order.pools[self] = None

    def come(self) -> defer.Deferred[None]:
        """Adds a session. Fires when a connection is open, or Redis is busy with a script.

        Fails with UpstreamError. The caller must call `leave` then, too.
        """
        self._users += 1
        self.order.pools[self] = None
        upstream = self.upstream
        if not isinstance(upstream, Unavailable) or upstream.hello:
            return defer.succeed(None)
        if not upstream.busy:
            if not upstream.closes:
                return defer.fail(UpstreamError(messages.REDIS_AWAY(), upstream.error))
            # Redis may be back.
            self._retry.cancel()
            self.upstream = OPENING
        waiter = self._waiters.wait()
        self._open()
        return waiter

    def leave(self) -> None:
        """See `session.ports.TenantPool`."""
        self._users -= 1
        if not self._users:
            self._pool.forget(self)
            self.order.pools.pop(self, None)
            self._give_up_opening()
            upstream, self.upstream = self.open, OPENING
            if upstream is not None:
                upstream.retire()
            self._hurry(list(self.upstreams))
            scripts, self._scripts = self._scripts, None
            if scripts is not None:
                scripts.leave()

    @property
    def scripts(self) -> ScriptPool:
        """See `session.ports.TenantPool`."""
        if self._scripts is None:
            self._scripts = self._pool.script_pool(self.tenant, self.protocol)
            self._scripts.begin()
        return self._scripts

    def wait(self, session: MultiplexedUser) -> None:
        """See `session.ports.TenantPool`."""
        if len(self._waiting) > 2 * self._users:  # ended sessions are removed many at a time
            self._waiting = deque(each for each in self._waiting if not each.ended)
        self._waiting.append(session)
        if self.open is not None:
            self.open.settle()

    def wanted(self, upstream: MultiplexedConnection, but: MultiplexedUser | None) -> bool:
        """Whether any session but one waits until this connection takes more."""
        if upstream is not self.upstream or upstream.leaving:
            return False
        return any(session is not but and not session.ended for session in self._waiting)

    def notify_waiting(self) -> None:
        """Notifies waiting sessions: a connection can be used, or there will be none for now.

        When the connection is busy again, the remaining sessions stay in the queue. If there are
        many, some are notified in later turns of the reactor.
        """
        waiting = self._waiting
        for _ in range(min(len(waiting), bounds.RESUMED_PER_TURN)):
            if not waiting or self.upstream.busy:
                return
            waiting.popleft().upstream_ready()
        if waiting and self._notifying is None:
            probes.reached("many sessions that wait are notified in several turns")
            self._notifying = self._reactor.callLater(0, self._notify_more)

    def _notify_more(self) -> None:
        self._notifying = None
        if not self.upstream.busy:
            self.notify_waiting()

    def order_changed(self) -> None:
        """See `order.TenantOrder`."""
        if self.open is not None:
            self.open.order_changed()

    # For connections.

    def replace_upstream(self, upstream: MultiplexedConnection) -> None:
        """Opens another connection for the sessions, unless the tenant has many already.

        If that fails, sessions go on with the present one.
        """
        if (
            upstream is self.upstream
            and self._opening is None
            and self._retry.due is None
            and self._busy_retry.due is None
            and len(self.upstreams) < bounds.MULTIPLEXED_CONNECTIONS
        ):
            probes.reached("multiplexed connection is left for another")
            upstream.leave()
            self._open()

    def replace_overfull(self) -> None:
        """One of its connections was given back: replaces the one in use, if that has to be."""
        if self.open is not None and self.open.overfull:
            self.replace_upstream(self.open)

    def lost(self, upstream: MultiplexedConnection) -> None:
        """One of its connections broke."""
        self.upstreams.discard(upstream)
        if upstream is self.upstream:
            self.upstream = OPENING
            if self._users:
                self._open()
        else:
            self.replace_overfull()

    def pause(self) -> None:
        """The tenant is paused: nothing more is sent, but what waits in a connection for places in
        the tenant's window, for a moment. Replies that are pending still come.
        """
        self._give_up_opening()
        upstream, self.upstream = self.open, OPENING
        if upstream is not None:
            upstream.retire()
        self._hurry(list(self.upstreams))
        if self._users:
            self._open()  # which waits: see `hold`

    def _hurry(self, upstreams: list[MultiplexedConnection]) -> None:
        for upstream in upstreams:
            upstream.hurry()

    def renew(self) -> None:
        """Redis is at another address, or is back: replaces the connection in use.

        Opens another one at once, and leaves the one in use after that.
        """
        self._retry.succeeded()
        if self._users:
            self._give_up_opening()
            self._open()

    def redis_back(self) -> None:
        """Redis takes connections again, or the tenant's pause is over: opens one at once, if that
        is scheduled for later.
        """
        if self._retry.due is not None:
            self.retry_now()

    def retry_now(self) -> None:
        """Redis is there again: opens a connection at once, if none is in use."""
        if self.open is None and self._users:
            self._give_up_opening()
            self._open()

    def _open(self) -> None:
        if self._opening is not None:
            return
        opening = defer.Deferred.fromCoroutine(self._pool.acquire(self.tenant, self.protocol))
        self._opening = opening
        opening.addCallbacks(self._opened, self._not_opened, callbackArgs=(opening,), errbackArgs=(opening,))
        opening.addErrback(bug(self._log, "opening a multiplexed connection"))

    def _opened(self, connection: RedisConnection, opening: defer.Deferred[RedisConnection]) -> None:
        if self._opening is not opening:
            probes.reached("multiplexed connection opened after it was given up")
            connection.drop()  # the attempt was given up when it had just succeeded
            return
        self._opening = None
        self._retry.succeeded()
        before, upstream = self.open, self._carried_by(connection)
        self.upstream = upstream
        self.upstreams.add(upstream)
        if before is not None:
            before.retire()
        self._hurry([each for each in self.upstreams if each.connection.stale])
        self._waiters.fire_in_turns(None, self._reactor)
        self.notify_waiting()

    def _carried_by(self, connection: RedisConnection) -> MultiplexedConnection:
        return MultiplexedConnection(connection, self, self._reactor)

    def _not_opened(self, failure: Failure, opening: defer.Deferred[RedisConnection]) -> None:
        if self._opening is not opening:
            failure.trap(UpstreamError, defer.CancelledError)  # the attempt was given up
            return
        self._opening = None
        failure.trap(UpstreamError, defer.CancelledError)
        error, busy = failure.value, isinstance(failure.value, RedisBusy)
        if self.open is None:
            self.upstream = unavailable(error) if isinstance(error, UpstreamError) else Unavailable()
        elif self.open.leaving:
            self.open.stay()
        self._waiters.fire_in_turns(None if busy else failure, self._reactor)
        self.notify_waiting()
        if self._users:
            (self._busy_retry if busy else self._retry).failed()

    def _give_up_opening(self) -> None:
        self._retry.cancel()
        self._busy_retry.cancel()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
