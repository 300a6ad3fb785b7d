"""What serves clients in one process: sessions, upstream connections, the control connection, and the Snapshot in force.

Owns the wiring of these. Snapshots come from outside, by `use`; where clients come from is the business of
`listen.endpoints`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection

from twisted.application import service
from twisted.internet import defer, task
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..clients.admission import Admission
from ..clients.connection import STATES
from ..clients.drain import Drain
from ..clients.factory import ClientFactory, Timeouts
from ..clients.snapshot import CurrentSnapshot
from ..net.rate_limit import TenantLimits
from ..net.reactor import IProxyReactor
from ..ops.access_log import AccessLog
from ..ops.stats import REDIS_BOUNDS, Counts, Histogram, RedisState, TenantStats
from ..policy.policy import Policy
from ..policy.probing import Server, needed, policy_for
from ..settings import Settings
from ..tenants import account
from ..tenants.enrolment import ReadSummary
from ..tenants.model import Snapshot, Tenant
from ..upstream import acl_maintenance
from ..upstream.acl_users import AclUserError, AclUsers
from ..upstream.client import ControlService
from ..upstream.failover import MasterService
from ..upstream.latency import Sampler
from ..upstream.pool import ConnectionPool
from ..upstream.queries import ControlQueries
from .merge import Report
from .os_process import settle

#: Seconds until a user is told of again that could not be.
_AGAIN = 1.0


class Serving(service.MultiService):
    """Serves the clients of one process.

    settings: this process's share of what is set for all; databases_told: called with how many databases Redis has, None
    where it does not tell, at each connection to it; number: which of the processes it is, from 1 on.
    """

    name = "serving"
    _log = Logger()

    def __init__(
        self, settings: Settings, reactor: IProxyReactor, databases_told: Callable[[int | None], object], number: int = 1
    ) -> None:
        super().__init__()
        self._settings = settings
        self._reactor = reactor
        self._databases_told = databases_told
        self.snapshot = CurrentSnapshot(reactor)
        self.control = ControlService(
            reactor,
            settings.connect_timeout,
            settings.redis_ca,
            self._server_told,
            settings.acl != "off",
            lambda server: needed(self._policy_for(server)),
        )
        self.acl_users = AclUsers(settings.acl, self.control)
        self.acl_users.user_refused = self.control.probe_again
        # What Redis was when it told last, and the users that are told of what is new since.
        self._server: Server | None = None
        self._renewing: defer.Deferred[None] | None = None
        counted = account.Counts()
        self.tenant_limits = TenantLimits(reactor, settings.processes)
        self.pool = ConnectionPool(
            reactor,
            self.acl_users,
            settings.base_workers,
            settings.worker_idle_timeout,
            settings.connect_timeout,
            settings.redis_ca,
            counted,
            self.tenant_limits,
        )
        self.master = MasterService(
            reactor, settings.connect_timeout, settings.redis_ca, self.control, self.acl_users, self.pool
        )
        access_log = AccessLog(reactor, settings.log_level == "debug", settings.processes)
        #: the factory for clients' connections
        self.clients = ClientFactory(
            reactor,
            self.snapshot,
            ControlQueries(reactor, self.pool),
            self.acl_users,
            self.pool,
            Admission(settings.max_workers, settings.work_queue_size),
            access_log,
            Timeouts(login=settings.login_timeout),
            settings.connections == "multiplexed",
            numbers=itertools.count(number, settings.processes),
            counts=counted,
            tenant_limits=self.tenant_limits,
        )
        #: None: another process looks after them
        self.acl_maintenance: acl_maintenance.AclMaintenanceService | None = None
        if number == acl_maintenance.PROCESS and settings.acl != "off":
            self.acl_maintenance = acl_maintenance.AclMaintenanceService(
                reactor, self.control, settings.ns_prefix, settings.refresh, self.acl_users.forget
            )
            self.acl_maintenance.setServiceParent(self)
        self._redis_seconds = Histogram(REDIS_BOUNDS)
        self.sampler = Sampler(reactor, lambda: self.pool.shared, self._redis_seconds.observe)
        self.snapshot.listeners += [self._settle, self._snapshot_changed]
        for part in (self.pool, self.control, self.master, self.snapshot, self.sampler, access_log):
            part.setServiceParent(self)

    def use(self, snapshot: Snapshot, elsewhere: Collection[int] = ()) -> None:
        """It is in force from now on: once this returns, no command is sent for a credential that is none any more.

        elsewhere: see `ConnectionPool.use_tenants`.
        """
        self.pool.use_tenants(snapshot.tenants, elsewhere)
        self.snapshot.use(snapshot)

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """The source was read, `use` has had what follows. began: when that read began, in the reactor's seconds."""
        if self.acl_maintenance is not None:
            self.acl_maintenance.take_read(summary, began)

    @staticmethod
    def descriptors(settings: Settings) -> int:
        """How many open files may be needed: a session takes two."""
        return 2 * settings.max_workers + settings.work_queue_size + settings.base_workers + 64

    # What is told of it.

    def counts(self) -> Counts:
        """What was counted, and what there is of what can be counted."""
        counts = self.clients.counts
        clients = self.clients.clients
        sessions = dict.fromkeys(STATES, 0)
        for client in clients:
            client.add_up()
            sessions[client.state] += 1
        self.pool.add_up()
        tenants: dict[str, TenantStats] = {
            namespace: {
                "sessions": 0,
                "commands": counted.by_family(),
                "refused": dict(counted.refused),
                "received": counted.received,
                "replied": counts.replied.get(namespace, 0),
                "turned_away": counted.turned_away,
                **self.tenant_limits.stats(namespace),
            }
            for namespace, counted in counts.by_tenant.items()
        }
        in_flight = 0
        for client in clients:
            in_flight += client.session.outstanding
            credential = client.session.credential
            if credential is not None and credential.tenant.namespace in tenants:
                tenants[credential.tenant.namespace]["sessions"] += 1
        shared, idle = len(self.pool.shared), self.pool.idle
        return {
            "sessions": sessions,
            "logins": dict(counts.logins),
            "ended": dict(counts.ended),
            "connections": {"multiplexed": shared, "idle": idle, "dedicated": max(0, len(self.pool) - shared - idle)},
            "in_flight": in_flight,
            "redis_seconds": self._redis_seconds.stats(),
            "tenants": tenants,
        }

    def report(self) -> Report:
        """All that is told of it, as JSON can hold it."""
        return {"counts": self.counts(), "redis": self.redis(), "unready": self.unready()}

    def redis(self) -> RedisState:
        """What is known of Redis."""
        server = self.control.server
        backend = self.master.backend
        return {
            "connected": self.control.connected,
            "address": "" if backend is None else backend.address,
            "version": "" if server is None else server.version,
            "databases": None if server is None else server.databases,
            "isolation_layers": 0 if server is None else 1 + self.acl_users.enforced_by(server),
        }

    def unready(self) -> str:
        """Why no client should come; empty: there is no reason."""
        if self.snapshot.snapshot is None:
            return "no credentials have been read yet"
        if self.snapshot.snapshot.backend is None:
            return "the master secret, which says where Redis is, has not been read yet"
        if not self.control.connected:
            return "Redis has not told yet what it is" if self.control.asking else "Redis does not answer"
        if self.control.users_refused:
            return "Redis does not let the proxy make the tenants' ACL users, as it did before"
        if self.pool.refused:
            return "Redis takes no new connections of the proxy's"
        if not self.acl_users.serves:
            return "Redis has no ACL users for tenants, and --acl is require"
        return ""

    # What the parts tell each other.

    def _snapshot_changed(self, snapshot: Snapshot) -> None:
        self.acl_users.keep_only(snapshot.tenants)
        if self.acl_maintenance is not None:
            self.acl_maintenance.claim(snapshot.tenants)
        self.master.use(snapshot.backend)

    def _policy_for(self, server: Server) -> Policy:
        settings = self._settings
        return policy_for(server, settings.acl != "off", allow=settings.allow_commands, deny=settings.deny_commands)

    def _server_told(self, server: Server) -> None:
        """Redis is connected, perhaps another one than before; or more is known of it."""
        before, self._server = self._server, server
        policy = self._policy_for(server)
        if policy.unknown != self.clients.policy.unknown and policy.unknown:
            self._log.warn(
                "--allow-commands or --deny-commands names what this Redis does not have: {names}",
                names=", ".join(policy.unknown),
            )
        self._stop_renewing()
        if policy.exposed != self.clients.policy.exposed:
            for command, what in policy.exposed:
                self._log.warn("--allow-commands opens {command}: {what}", command=command, what=what)
        # Those for whom a connection is being made ready, too.
        users = self.acl_users.users | self.pool.users
        self.acl_users.use(server, policy)
        if self.acl_maintenance is not None:
            backend = self.master.backend
            self.acl_maintenance.use(
                backend.password if backend is not None and self.acl_users.enforced_by(server) else None
            )
        self.pool.redis_told(policy.needs_acl_users)
        now, then = set(self.clients.policy.forwarded), set(policy.forwarded)
        known = before is not None and _same_users(before, server)
        if not known or not then > now:
            self.clients.use(policy, everywhere=known)
        if known and then != now:
            # What sessions may do besides they are told when Redis knows it: until then their users may not.
            self._renewing = defer.Deferred.fromCoroutine(self._renew_users(users, policy))
            self._renewing.addErrback(self._not_renewed)
        self.master.told(server)
        self._databases_told(server.databases)

    async def _renew_users(self, users: Collection[Tenant], policy: Policy) -> None:
        """Has Redis know it of these users, and then the sessions. Of who is no tenant any more no user is made anew."""
        for tenant in users:
            while (backend := self.master.backend) is not None and self._is_tenant(tenant):
                try:
                    await self.acl_users.login(tenant, backend.password)
                    break
                except AclUserError:  # busy with somebody's script, say
                    await task.deferLater(self._reactor, _AGAIN)
        self.clients.use(policy, everywhere=True)

    def _is_tenant(self, tenant: Tenant) -> bool:
        snapshot = self.snapshot.snapshot
        return snapshot is not None and tenant in snapshot.tenants

    def _not_renewed(self, failure: Failure) -> None:
        if not failure.check(defer.CancelledError):
            self._log.failure("telling Redis of the users' new rights failed in a way that is a bug", failure)

    def _stop_renewing(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()

    def stopService(self) -> defer.Deferred[object]:
        """Fires when all parts are stopped."""
        self._stop_renewing()
        stopped: defer.Deferred[object] = super().stopService()
        return stopped

    def _settle(self, snapshot: Snapshot) -> None:
        self.snapshot.listeners.remove(self._settle)
        settle()

    # Stopping.

    def shut_down(self) -> defer.Deferred[None]:
        """Has clients leave, after what they have begun. Fires when the last one is gone."""
        return Drain(self._reactor, self.clients, self.control, self._settings.drain_seconds).start()


def _same_users(before: Server, server: Server) -> bool:
    """Whether it is the same run of the same Redis, and tenants are logged in as ACL users there."""
    return bool(server.run_id) and server.run_id == before.run_id and before.acl and server.acl
