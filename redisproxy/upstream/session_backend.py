"""One Redis as sessions see it: their connections, control queries, and what their tenants may do.

Implements `session.ports.Backend` with the pool, the control queries and the ACL users of that
Redis. If the session of a Step has ended, the work for it is cancelled. A connection that still
comes goes back to the pool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Never, TypeVar

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import messages
from ..net.rate_limit import TenantLimits
from ..ops.bugs import log_bug
from ..policy.facts import builtin
from ..policy.policy import Policy, make_policy
from ..resp.value import Answer
from ..session import ports
from ..session.order import Order
from ..session.ports import Dedicated, Unavailable
from ..session.scripts import Scripts
from ..session.state import Step
from ..session.transactions import Transactions
from ..tenants.model import Tenant
from ..tenants.window import Window
from .acl_users import AclUsers
from .client import ControlError
from .connection import PausedError, RedisConnection, UpstreamError
from .hold import TenantPaused
from .patterns import Patterns
from .pool import ConnectionPool
from .queries import ControlQueries
from .slow_commands import SlowCommands
from .spares import Spares
from .tenant_pool import unavailable

Result = TypeVar("Result")


class SessionBackend:
    """Implements `session.ports.Backend` for one Redis.

    multiplexes: whether sessions share connections; tenant_limits: charges the answers to control
    queries; busy_error, script_error: see `session.ports.Backend`; clock: times the commands in
    tenants' windows.
    """

    _log = Logger()

    def __init__(
        self,
        pool: ConnectionPool,
        queries: ControlQueries,
        acl_users: AclUsers,
        patterns: Patterns,
        tenant_limits: TenantLimits,
        multiplexes: bool,
        busy_error: Callable[[], str] = str,
        script_error: Callable[[Tenant], bytes] = lambda _: b"",
        *,
        clock: IReactorTime,
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._spares = Spares(pool)
        self._queries = queries
        self._acl_users = acl_users
        self._patterns = patterns
        self._tenant_limits = tenant_limits
        self.multiplexes = multiplexes
        self.busy_error = busy_error
        self.script_error = script_error
        self.policy: Policy = make_policy(builtin(), scripts=False)
        self._scripts: dict[Tenant, Scripts] = {}
        self._transactions: dict[Tenant, Transactions] = {}
        self._windows: dict[Tenant, Window] = {}
        #: the commands that go through these windows because they are slow
        self.slow_commands = SlowCommands(clock, self.window)
        self.table = self.slow_commands.table

    def keep_only(self, tenants: Collection[Tenant]) -> None:
        """Forgets the scripts, the open transactions, the windows and the slow commands of all
        other tenants.
        """
        for kept in (self._scripts, self._transactions, self._windows):
            for tenant in kept.keys() - tenants:
                del kept[tenant]
        self.slow_commands.keep_only(tenants)

    def window(self, tenant: Tenant) -> Window:
        """See `session.ports.Backend`."""
        found = self._windows.get(tenant)
        if found is None:
            found = self._windows[tenant] = Window(self._clock.seconds, self._clock.callLater)
        return found

    def transactions(self, tenant: Tenant) -> Transactions:
        """See `session.ports.Backend`."""
        found = self._transactions.get(tenant)
        if found is None:
            found = self._transactions[tenant] = Transactions()
        return found

    def scripts(self, tenant: Tenant) -> Scripts:
        """See `session.ports.Backend`."""
        found = self._scripts.get(tenant)
        if found is None:
            found = self._scripts[tenant] = Scripts(tenant.channel_prefix)
        return found

    def add_up(self) -> None:
        """Adds what Redis has sent so far to the counts."""
        self._pool.add_up()

    # Connections.

    def holds(self, tenant: Tenant) -> bool:
        """See `session.ports.Backend`."""
        return self._pool.hold.holds(tenant)

    def acquire(self, tenant: Tenant, protocol: int, step: Step[Dedicated | Unavailable]) -> None:
        """See `session.ports.Backend`."""

        def opened(upstream: RedisConnection) -> None:
            if not step.finish(upstream):
                upstream.release(clean=True)
            elif self.multiplexes:
                self._spares.keep_one((tenant, protocol))

        upstream = self._pool.fresh(tenant, protocol)
        if upstream is not None:
            opened(upstream)
            return
        work = self._spares.claim((tenant, protocol))
        if work is None:
            work = defer.Deferred.fromCoroutine(self._pool.acquire(tenant, protocol))
        step.cancel = work.cancel
        work.addCallbacks(opened, self._not_opened, errbackArgs=(step,))
        work.addErrback(self._bug, step)

    def prepare(self, tenant: Tenant, protocol: int) -> None:
        """See `session.ports.Backend`."""
        self._spares.open((tenant, protocol))

    def order(self, tenant: Tenant) -> Order:
        """See `session.ports.Backend`."""
        return self._pool.order(tenant)

    def join_at_once(self, tenant: Tenant, protocol: int) -> ports.TenantPool | None:
        """See `session.ports.Backend`."""
        tenant_pool = self._pool.tenant_pool(tenant, protocol)
        if not tenant_pool.open:
            return None
        tenant_pool.enter()
        return tenant_pool

    def join(self, tenant: Tenant, protocol: int, step: Step[ports.TenantPool | Unavailable]) -> None:
        """See `session.ports.Backend`."""
        tenant_pool = self._pool.tenant_pool(tenant, protocol)

        def joined(_: object = None) -> None:
            if not step.finish(tenant_pool):
                tenant_pool.leave()

        def failed(failure: Failure) -> None:
            tenant_pool.leave()
            self._not_opened(failure, step)

        work = tenant_pool.come()
        step.cancel = work.cancel
        work.addCallbacks(joined, failed)
        work.addErrback(self._bug, step)

    def _not_opened(self, failure: Failure, step: Step[Unavailable]) -> None:
        failure.trap(UpstreamError, defer.CancelledError)  # CancelledError: nobody waits any more
        if isinstance(failure.value, UpstreamError):
            step.finish(unavailable(failure.value))

    # Control queries.

    def query(self, tenant: Tenant, commands: list[list[bytes]], step: Step[list[Answer] | Unavailable]) -> None:
        """See `session.ports.Backend`."""
        work = self._asked(tenant, partial(self._queries.ask, tenant, commands))

        def cancel() -> None:
            work.cancel()
            # What was cancelled stays in memory until the garbage collector finds it, and the words
            # may be megabytes.
            commands.clear()

        step.cancel = cancel

        def answered(answers: list[Answer]) -> None:
            self._tenant_limits.of(tenant.namespace).answered(answers)
            step.finish(answers)

        work.addCallbacks(answered, self._not_answered, errbackArgs=(step,))
        work.addErrback(self._bug, step)

    def allow_patterns(self, tenant: Tenant, patterns: list[bytes], step: Step[Unavailable | None]) -> None:
        """See `session.ports.Backend`.

        The work is not cancelled with the session: Redis may have the patterns by then.
        """
        work = self._asked(tenant, partial(self._patterns.use, tenant, patterns))

        def allowed(_: None) -> None:
            if not step.finish(None):
                self._patterns.leave(tenant, patterns)

        work.addCallbacks(allowed, self._not_answered, errbackArgs=(step,))
        work.addErrback(self._bug, step)

    def leave_patterns(self, tenant: Tenant, patterns: Collection[bytes]) -> None:
        """See `session.ports.Backend`."""
        self._patterns.leave(tenant, patterns)

    def allow_tracking(self, tenant: Tenant, step: Step[Unavailable | None]) -> None:
        """See `session.ports.Backend`."""
        work = self._asked(tenant, partial(self._acl_users.permit_tracking, tenant))
        work.addCallbacks(lambda _: step.finish(None), self._not_answered, errbackArgs=(step,))
        work.addErrback(self._bug, step)

    def _asked(self, tenant: Tenant, asking: Callable[[], Awaitable[Result]]) -> defer.Deferred[Result]:
        """Asks over a connection of the proxy's own, also again when Redis takes one."""
        return defer.Deferred.fromCoroutine(self._pool.hold.keep_trying(tenant, partial(self._pool.crowd.ask, asking)))

    def _not_answered(self, failure: Failure, step: Step[Unavailable]) -> None:
        failure.trap(ControlError, UpstreamError, TenantPaused, defer.CancelledError)
        error = failure.value
        if isinstance(error, TenantPaused):
            step.finish(unavailable(PausedError()))
        elif isinstance(error, ControlError | UpstreamError):
            step.finish(Unavailable(error.client_reply, closes=error.passing))
        else:
            step.finish(Unavailable(messages.UNANSWERED.text))

    def _bug(self, failure: Failure, step: Step[Never]) -> None:
        error = failure.value
        if not isinstance(error, Exception) or not step.fail(error):
            log_bug(self._log, "work at Redis for a session that has ended", failure)
