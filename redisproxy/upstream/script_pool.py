"""The multiplexed connection for one tenant's scripts.

Owns when a script takes long there. While a script runs, Redis reads nothing behind it on the same
connection, and nobody can take back what was sent. So plain commands do not go there: Redis reads
them on another connection, and answers BUSY when a script has run for too long. If the connection
for scripts has not replied for a moment, further scripts do not go there either. What was sent in
that moment waits for the script before it.
"""

from __future__ import annotations

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, probes
from ..net.waiters import Waiters
from ..ops.bugs import bug
from ..session.pending import ReplyBatch
from ..session.ports import MultiplexedUser
from ..session.state import Step
from ..tenants.model import Tenant
from .connection import RedisConnection
from .multiplexed import MultiplexedConnection, Owner
from .order import TenantOrder
from .tenant_pool import Pool, TenantPool


class ScriptConnection(MultiplexedConnection):
    """A multiplexed connection that notices when Redis does not reply."""

    def __init__(self, connection: RedisConnection, tenant_pool: Owner, reactor: IReactorTime) -> None:
        super().__init__(connection, tenant_pool, reactor)
        connection.runs_scripts = True
        #: whether a script takes long, so that no other session's script should be sent behind it
        self.slow = False
        # Whether it has replied, or was idle, since the last check.
        self._moved = True
        self._check_timer: IDelayedCall | None = None

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        """See `session.ports.Upstream`."""
        if not self._batches:
            self._moved = True
            if self._check_timer is None:
                self._check_later()
        super().send(data, batch)

    def _check_later(self) -> None:
        self._check_timer = self._reactor.callLater(bounds.SCRIPT_CHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._check_timer = None
        if self._batches:
            if not self._moved:
                probes.reached("script takes long")
                self.slow = True
                self._order.give_up({batch.receiver for batch in self._batches})
                return
            self._moved = False
            self._check_later()

    def _received(self, data: bytes) -> None:
        self._moved = True
        if self.slow:
            self.slow = False
            self._check_later()
        super()._received(data)

    def _take_more(self) -> None:
        super()._take_more()
        if self.busy:  # else that has notified them
            self._tenant_pool.notify_waiting()

    def _stop_checking(self) -> None:
        timer, self._check_timer = self._check_timer, None
        if timer is not None:
            timer.cancel()

    def _give_back(self) -> None:
        self._stop_checking()
        super()._give_back()

    def upstream_lost(self) -> None:
        """See `connection.User`."""
        self._stop_checking()
        super().upstream_lost()


class ScriptPool(TenantPool):
    """See `session.ports.ScriptPool`. Its only user is the `TenantPool` for plain commands."""

    for_scripts = True

    def __init__(
        self, pool: Pool, reactor: IReactorTime, tenant: Tenant, protocol: int, order: TenantOrder | None = None
    ) -> None:
        super().__init__(pool, reactor, tenant, protocol, order)
        self._free: Waiters[None] = Waiters()

    def begin(self) -> None:
        """Opens the connection."""
        self.enter()
        self._open()

    @property
    def slow(self) -> bool:
        """See `session.ports.ScriptPool`."""
        return isinstance(self.upstream, ScriptConnection) and self.upstream.slow

    @property
    def available(self) -> ScriptConnection | None:
        """See `session.ports.ScriptPool`."""
        upstream = self.upstream
        if not isinstance(upstream, ScriptConnection) or upstream.slow or (upstream.busy and upstream.overloaded):
            return None
        return upstream

    def wait_until_free(self, step: Step[None]) -> None:
        """See `session.ports.ScriptPool`."""
        free = self._free.wait()
        step.cancel = free.cancel
        free.addCallback(step.finish)
        free.addErrback(bug(self._log, "waiting for the connection for scripts", defer.CancelledError))
        if self.open is not None:
            self.open.settle()

    def notify_waiting(self) -> None:
        """Notifies sessions that wait: see `TenantPool.notify_waiting`. If the connection becomes
        busy again meanwhile, they wait again.

        Their turn in the tenant's order has come already, so the order is no reason to wait.
        """
        if len(self._free) and not self.upstream.overloaded:
            self._free.fire(None)

    def wanted(self, upstream: MultiplexedConnection, but: MultiplexedUser | None) -> bool:
        """See `TenantPool.wanted`."""
        return upstream is self.upstream and not upstream.leaving and bool(len(self._free))

    def _carried_by(self, connection: RedisConnection) -> MultiplexedConnection:
        return ScriptConnection(connection, self, self._reactor)
