"""One Redis, and everything that belongs to it: connections, ACL users, the policy, readiness.

Owns the wiring of these parts, and the order in which they learn of a change. Knows no sessions:
`policy_changed` passes a new policy to their owner. Two Backends in one process share nothing but
the tenants' accounts. This module is longer than other modules: it wires all parts of one Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from twisted.application import service
from twisted.internet import defer, task

from .. import bounds, messages
from ..net.rate_limit import TenantLimits
from ..net.reactor import IConnectingReactor
from ..ops.bugs import bug
from ..ops.logs import Log
from ..ops.stats import REDIS_BOUNDS, Histogram, RedisState
from ..policy.facts import builtin
from ..policy.policy import Policy, make_policy
from ..policy.probing import Server, needed
from ..settings import Settings
from ..tenants import account, model
from ..tenants.documents import ReadSummary
from ..tenants.model import Snapshot, Tenant
from ..tenants.slow_log import Entry
from . import acl_maintenance
from .acl_users import AclUserError, AclUsers
from .client import RedisClient
from .control import ControlService
from .endpoint import endpoint_for
from .failover import MasterService
from .health import Answers, Health
from .latency import Sampler
from .nets import NetsService, connections_needed, missing
from .pool import ConnectionPool
from .queries import ControlQueries
from .scripts import TenantScripts
from .session_backend import SessionBackend
from .slow_log import SlowLogService
from .tenant_patterns import TenantPatterns

#: Reasons that pass by themselves. Until the time to hold work is over, they are none.
_HELD = {messages.REDIS_NO_ANSWER.code, messages.REDIS_NOT_PROBED.code, messages.REDIS_REFUSES_CONNECTIONS.code}
#: Seconds until the proxy asks again to update a user's rights, after an attempt that failed.
_AGAIN = 1.0


class Backend(service.MultiService):
    """One Redis, for one process that serves clients.

    settings: of this process; counts, tenant_limits: of the tenants; number: of this process among
    the proxy's processes, from 1 on.
    """

    name = "backend"
    _log = Log()

    def __init__(
        self,
        settings: Settings,
        reactor: IConnectingReactor,
        counts: account.Counts | None = None,
        tenant_limits: TenantLimits | None = None,
        number: int = 1,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._reactor = reactor
        counts = counts or account.Counts()
        #: what tenants may do there; follows from the built-in table until Redis has answered
        #: COMMAND
        self.policy = make_policy(builtin(), scripts=False)
        #: called with each new policy, and with True if Redis is the same as before and its users
        #: have the rights of that policy
        self.policy_changed: Callable[[Policy, bool], object] = lambda *_: None
        #: called at each probe with the number of databases; None if Redis does not say
        self.databases_reported: Callable[[int | None], object] = lambda _: None
        self.control = ControlService(
            reactor,
            settings.connect_timeout,
            settings.redis_ca,
            self._server_probed,
            settings.acl != "off",
            lambda server: needed(settings.policy(server)),
        )
        #: the tenants' ACL users
        self.acl_users = AclUsers(settings.acl, self.control)
        self.acl_users.user_refused = self.control.probe_again
        #: the connections that carry tenants' commands
        self.pool = ConnectionPool(
            reactor,
            self.acl_users,
            settings.base_workers,
            settings.worker_idle_timeout,
            settings.connect_timeout,
            settings.redis_ca,
            counts,
            tenant_limits,
            settings.hold_seconds,
        )
        #: the scripts of tenants
        self.scripts = TenantScripts(
            reactor, settings.script_seconds, self.control, self.pool, self.acl_users, counts, self._master_password
        )
        #: asks INFO, PUBSUB and CONFIG GET for tenants
        self.queries = ControlQueries(reactor, partial(self._client, "redisproxy-queries", None))
        #: the patterns that sessions are subscribed to
        client = partial(self._client, "redisproxy-patterns", bounds.CONTROL_REPLY_SECONDS)
        self.patterns = TenantPatterns(reactor, client, self.control, self.queries, self.acl_users)
        #: the pool, control queries and ACL users, as sessions see them
        self.sessions = SessionBackend(
            self.pool,
            self.queries,
            self.acl_users,
            self.patterns.uses,
            TenantLimits(reactor) if tenant_limits is None else tenant_limits,
            settings.connections == "multiplexed",
            lambda: self.control.busy_error,
            self.scripts.rights.error,
            clock=reactor,
        )
        #: whether Redis answers
        self.health = Health(reactor, self.control)
        #: Redis's own limits
        self.nets = NetsService(reactor, self.control)
        #: counts the slow commands of tenants
        self.slow_log = SlowLogService(reactor, self.control, self.pool.names.token, self._count_slow)
        self._counts = counts
        self.scripts.notice(self.health)
        #: which server is the master
        self.master = MasterService(
            reactor, settings.connect_timeout, settings.redis_ca, self.control, self._moved, self._reconnect, self._is_master
        )
        self.control.changed = self._own_changed
        self.pool.found_replica = self.master.doubt
        #: removes ACL users that are left over; None with ``--acl off``, or if another process does
        #: so
        self.acl_maintenance: acl_maintenance.AclMaintenanceService | None = None
        if number == acl_maintenance.PROCESS and settings.acl != "off":
            self.acl_maintenance = acl_maintenance.AclMaintenanceService(
                reactor,
                self.control,
                settings.ns_prefix,
                settings.refresh,
                self.acl_users.forget,
                self.patterns.cleaner.seen,
            )
            self.acl_maintenance.setServiceParent(self)
        #: how long Redis takes to answer, in seconds
        self.latency = Histogram(REDIS_BOUNDS)
        #: how long Redis takes with each tenant's commands, in seconds, by namespace
        self.tenant_latency: dict[str, Histogram] = {}
        sampler = Sampler(reactor, lambda: self.pool.multiplexed, self.latency.observe, self._observe_tenant)
        parts = (self.pool, self.control, self.master, self.health, self.nets, self.slow_log, self.scripts, self.patterns)
        for part in (*parts, sampler):
            part.setServiceParent(self)
        # When this process was ready last, in the reactor's seconds; None: it never was.
        self._ready_at: float | None = None
        # All tenants of the latest snapshot.
        self._tenants: Collection[Tenant] = ()
        # What Redis was at the latest probe; and the update of its users after it changed.
        self._server: Server | None = None
        self._renewing: defer.Deferred[None] | None = None

    def _client(
        self,
        name: str,
        reply_timeout: float | None,
        address: model.BackendAddress,
        changed: Callable[[RedisClient], object],
    ) -> RedisClient:
        """Makes a client with the master's rights.

        reply_timeout: in seconds; None if each query has a time limit of its own.
        """
        settings = self._settings

        def asked(client: RedisClient) -> None:
            self._own_changed(client)
            changed(client)

        return RedisClient(
            self._reactor,
            address,
            partial(endpoint_for, self._reactor, address, settings.connect_timeout, settings.redis_ca),
            settings.connect_timeout,
            asked,
            name=name,
            reply_timeout=reply_timeout,
            reply_limit=bounds.QUERY_REPLY_BYTES,
        )

    def _own_changed(self, client: RedisClient) -> None:
        """Has room made for a connection of the proxy's own, if a full Redis has refused it."""
        crowd = self.pool.crowd
        if client.connection is not None:
            crowd.room_used()
        elif self.pool.running and (client.full or crowd.said_full):
            crowd.make_room()

    def _master_password(self) -> bytes | None:
        address = self.master.address
        return None if address is None else address.password

    def stopService(self) -> defer.Deferred[list[tuple[bool, object]]]:
        """Fires when all connections are closed."""
        self._stop_renewing()
        self.queries.stop()
        self.sessions.slow_commands.stop()
        stopped: defer.Deferred[list[tuple[bool, object]]] = super().stopService()
        return stopped

    def use_snapshot(self, snapshot: Snapshot, elsewhere: Collection[int] = ()) -> None:
        """Uses the tenants and the master secret of a snapshot from now on.

        No further command is sent for a tenant that is not in it. elsewhere: see
        `ConnectionPool.use_tenants`.
        """
        self._tenants = snapshot.tenants
        for gone in self.tenant_latency.keys() - snapshot.namespaces:
            del self.tenant_latency[gone]
        self.pool.use_tenants(snapshot.tenants, elsewhere)
        self.pool.pause(snapshot.paused_tenants)
        self.acl_users.keep_only(snapshot.tenants)
        limits = snapshot.limits
        self.acl_users.let_track({namespace for namespace in limits if limits[namespace].client_tracking})
        self.scripts.use(snapshot)
        self.sessions.keep_only(snapshot.tenants)
        self.patterns.use_snapshot(snapshot)
        if self.acl_maintenance is not None:
            self.acl_maintenance.claim(snapshot.tenants)
        self.master.use(snapshot.backend)

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """Takes the result of a read of the source. `use_snapshot` has had the snapshot that
        follows from it.

        began: when that read began, in the reactor's seconds.
        """
        if self.acl_maintenance is not None:
            self.acl_maintenance.take_read(summary, began)

    def _observe_tenant(self, namespace: str, seconds: float) -> None:
        histogram = self.tenant_latency.get(namespace)
        if histogram is None:
            histogram = self.tenant_latency[namespace] = Histogram(REDIS_BOUNDS)
        histogram.observe(seconds)

    def _count_slow(self, entry: Entry) -> None:
        if entry.tenant in self._tenants:
            counters = self._counts.of(entry.tenant.namespace)
            counters.slow_commands += 1
            counters.slow_seconds += entry.microseconds / 1_000_000
            counters.slow_confirmed += self.sessions.slow_commands.add(entry, self.policy.table)

    # For probes, metrics and the status page.

    def not_ready(self) -> messages.Text | None:
        """Why this process should get no clients; None: there is no reason.

        While work is held, there is none either: new clients wait as well.
        """
        reason = self._unready()
        now = self._reactor.seconds()
        if reason is None:
            self._ready_at = now
        elif reason.code in _HELD and self._ready_at is not None:
            away = self.health.unanswered if self.health.state is Answers.HUNG else now - self._ready_at
            if away < self._settings.hold_seconds:
                return None
        return reason

    def _unready(self) -> messages.Text | None:
        if not self.master.follows:
            return messages.NO_MASTER()
        if self.health.state is Answers.HUNG:
            return messages.REDIS_NO_ANSWER()
        elif not self.control.connected:
            return messages.REDIS_NOT_PROBED() if self.control.asking else messages.REDIS_NO_ANSWER()
        if self.control.users_refused:
            return messages.REDIS_REFUSES_USERS()
        if self.pool.refuses_all:
            return messages.REDIS_REFUSES_CONNECTIONS()
        if not self.acl_users.serves:
            return messages.REDIS_WITHOUT_ACL()
        return None

    def state(self) -> RedisState:
        """What is known of Redis."""
        server = self.control.server
        address = self.master.address
        state = self.health.state
        fault = self._fault if self._unready() or self.health.fault else None
        answers = state.value if self.control.connected or state is Answers.HUNG else "down"
        return {
            "connected": answers not in ("hung", "down"),
            "address": "" if address is None else address.shown,
            "version": "" if server is None else server.version,
            "databases": None if server is None else server.databases,
            "isolation_layers": 0 if server is None else 1 + self.acl_users.enforced_by(server),
            "answers": answers,
            "unanswered": self.health.unanswered,
            "fault": fault or "",
            "fault_code": "" if fault is None else fault.code,
            "notices": [f"{text}. {text.remedy}" for text in self._notices()],
        }

    def _notices(self) -> list[messages.Text]:
        """What should be known about Redis's own limits."""
        address, settings = self.master.address, self._settings
        if address is None or settings.embedded:
            return []
        needed_connections = connections_needed(settings, len(self._tenants))
        return missing(self.nets.nets, address.shown, settings.connections == "multiplexed", needed_connections)

    @property
    def _fault(self) -> messages.Text | None:
        """Why Redis is not ready, as the part that knows most about it says.

        Several parts notice that Redis is away, each with its own error. The pool's error names the
        address and what failed.
        """
        if self.health.fault:
            return self.health.fault
        if self.master.fault or self.pool.refused:
            return self.master.fault or self.pool.fault
        return self.control.fault or self.pool.fault

    def connections(self) -> dict[str, int]:
        """The number of connections that carry tenants' commands, by use: multiplexed, idle,
        dedicated.
        """
        multiplexed, idle = len(self.pool.multiplexed), self.pool.idle
        return {"multiplexed": multiplexed, "idle": idle, "dedicated": max(0, len(self.pool) - multiplexed - idle)}

    # Where Redis is: see `failover.MasterService`.

    def _moved(self, address: model.BackendAddress | None, failover: bool) -> None:
        """Moves all parts to another address. failover: the former Redis is not expected to answer
        any more.
        """
        # The Redis at the new address is probed. Its users get their rights after that.
        self._stop_renewing()
        self.acl_users.forget_all()
        # The control connection moves first, so that the former Redis is asked nothing more.
        self.control.use(address)
        self.queries.use(address)
        self.patterns.use(address)
        self.pool.use(address, abandon=failover)

    def _reconnect(self) -> None:
        """Connects anew: the address leads to another server than before."""
        self.acl_users.forget_all()
        self.control.reconnect()
        self.queries.renew()
        self.patterns.renew()
        self.pool.renew()

    def _is_master(self) -> None:
        """Replaces connections that seem to lead to a replica: the address leads to a master."""
        self.pool.leave_replicas()

    # What Redis is, and what tenants may do there.

    def _server_probed(self, server: Server) -> None:
        """Redis was probed: at a new control connection, or because more has become known."""
        before, self._server = self._server, server
        address = self.master.address
        assert address is not None, "Redis was probed over a connection to this address"  # noqa: S101
        policy = self._settings.policy(server)
        if policy.unknown != self.policy.unknown and policy.unknown:
            self._log.write(messages.COMMANDS_UNKNOWN, names=", ".join(policy.unknown))
        self._stop_renewing()
        if policy.exposed != self.policy.exposed:
            for command, what in policy.exposed:
                self._log.write(messages.COMMANDS_OPENED, command=command, what=what)
        # Includes tenants whose connections are still being made ready.
        users = self.acl_users.users | self.pool.users
        self.acl_users.use(server, policy)
        if self.acl_maintenance is not None:
            self.acl_maintenance.use(address.password if self.acl_users.enforced_by(server) else None)
        self.pool.redis_probed(policy.needs_acl_users)
        now, then = set(self.policy.forwarded), set(policy.forwarded)
        known = before is not None and _same_users(before, server)
        if not known or not then > now:
            self._use_policy(policy, everywhere=known)
        if known and then != now:
            # Sessions get additional commands after Redis has granted them: until then Redis would
            # refuse these.
            self._renewing = defer.Deferred.fromCoroutine(self._renew_users(users, policy, address.password))
            self._renewing.addErrback(bug(self._log, "updating the rights of the ACL users", defer.CancelledError))
        self.master.on_server(server)
        self.nets.look_now()
        self.slow_log.use(server.run_id)
        self.databases_reported(server.databases)

    def _use_policy(self, policy: Policy, everywhere: bool) -> None:
        self.policy = policy
        self.policy_changed(policy, everywhere)

    async def _renew_users(self, users: Collection[Tenant], policy: Policy, master_password: bytes) -> None:
        """Has Redis update these users' rights, and then gives the policy to sessions.

        Creates no user for a tenant that no snapshot has any more.
        """
        for tenant in users:
            while tenant in self._tenants:
                try:
                    await self.acl_users.login(tenant, master_password)
                    break
                except AclUserError:  # for example, Redis is busy with a script
                    await task.deferLater(self._reactor, _AGAIN)
        self._use_policy(policy, everywhere=True)

    def _stop_renewing(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()


def _same_users(before: Server, server: Server) -> bool:
    """Whether both are the same run of the same Redis, where tenants log in as ACL users."""
    return bool(server.run_id) and server.run_id == before.run_id and before.acl and server.acl
