"""One Redis, and all that belongs to it: connections, ACL users, what it is, what tenants may do
there, whether it is ready.

Owns the wiring of these parts, and the order in which they hear of a change. It knows no sessions:
who has any is told of another policy. Two Backends in one process share nothing but the tenants'
accounts.
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
from . import acl_maintenance
from .acl_users import AclUserError, AclUsers
from .client import RedisClient
from .control import ControlService
from .endpoint import endpoint_for
from .failover import MasterService
from .health import Answers, Health
from .latency import Sampler
from .pool import ConnectionPool
from .queries import ControlQueries
from .session_backend import SessionBackend

#: Seconds until Redis is told again of a user's new rights, after it could not be.
_AGAIN = 1.0


class Backend(service.MultiService):
    """One Redis, for one process that serves clients.

    settings: of this process; counts, tenant_limits: of the tenants; number: which of the processes
    it is, from 1 on.
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
        #: what tenants may do there; the built-in commands until Redis has told its own
        self.policy = make_policy(builtin(), scripts=False)
        #: called with each policy, and whether Redis is the same as before and its users have these
        #: rights
        self.policy_changed: Callable[[Policy, bool], object] = lambda *_: None
        #: called with how many databases Redis has, None where it does not tell, at each connection
        #: to it
        self.databases_told: Callable[[int | None], object] = lambda _: None
        self.control = ControlService(
            reactor,
            settings.connect_timeout,
            settings.redis_ca,
            self._server_told,
            settings.acl != "off",
            lambda server: needed(settings.policy(server)),
        )
        #: the tenants' ACL users
        self.acl_users = AclUsers(settings.acl, self.control)
        self.acl_users.user_refused = self.control.probe_again
        #: connections that carry tenants' commands
        self.pool = ConnectionPool(
            reactor,
            self.acl_users,
            settings.base_workers,
            settings.worker_idle_timeout,
            settings.connect_timeout,
            settings.redis_ca,
            counts,
            tenant_limits,
        )
        #: INFO, PUBSUB and CONFIG GET for tenants
        self.queries = ControlQueries(reactor, self._query_client)
        #: all of these, as sessions see them
        self.sessions = SessionBackend(
            self.pool,
            self.queries,
            self.acl_users,
            TenantLimits(reactor) if tenant_limits is None else tenant_limits,
            settings.connections == "multiplexed",
        )
        #: whether Redis answers
        self.health = Health(reactor, self.control)
        #: which server is the master
        self.master = MasterService(
            reactor, settings.connect_timeout, settings.redis_ca, self.control, self._moved, self._reconnect, self._is_master
        )
        self.pool.found_replica = self.master.doubt
        #: removes ACL users that are left over; None: another process does
        self.acl_maintenance: acl_maintenance.AclMaintenanceService | None = None
        if number == acl_maintenance.PROCESS and settings.acl != "off":
            self.acl_maintenance = acl_maintenance.AclMaintenanceService(
                reactor, self.control, settings.ns_prefix, settings.refresh, self.acl_users.forget
            )
            self.acl_maintenance.setServiceParent(self)
        #: how long Redis takes
        self.latency = Histogram(REDIS_BOUNDS)
        #: how long it took with each tenant's commands, by namespace
        self.tenant_latency: dict[str, Histogram] = {}
        sampler = Sampler(reactor, lambda: self.pool.shared, self.latency.observe, self._observe_tenant)
        for part in (self.pool, self.control, self.master, self.health, sampler):
            part.setServiceParent(self)
        # All tenants, as of the latest snapshot.
        self._tenants: Collection[Tenant] = ()
        # What Redis was when it told last, and the users that are told of what is new since.
        self._server: Server | None = None
        self._renewing: defer.Deferred[None] | None = None

    def _query_client(self, address: model.BackendAddress, changed: Callable[[RedisClient], object]) -> RedisClient:
        settings = self._settings
        return RedisClient(
            self._reactor,
            address,
            partial(endpoint_for, self._reactor, address, settings.connect_timeout, settings.redis_ca),
            settings.connect_timeout,
            changed,
            name="redisproxy-queries",
            reply_timeout=None,  # each query has its own
            reply_limit=bounds.QUERY_REPLY_BYTES,
        )

    def stopService(self) -> defer.Deferred[list[tuple[bool, object]]]:
        """Fires when all connections are closed."""
        self._stop_renewing()
        self.queries.stop()
        stopped: defer.Deferred[list[tuple[bool, object]]] = super().stopService()
        return stopped

    def use_snapshot(self, snapshot: Snapshot, elsewhere: Collection[int] = ()) -> None:
        """These are the tenants, and this is the master secret, from now on.

        No command is sent any more for who is no tenant. elsewhere: see
        `ConnectionPool.use_tenants`.
        """
        self._tenants = snapshot.tenants
        for gone in self.tenant_latency.keys() - snapshot.namespaces:
            del self.tenant_latency[gone]
        self.pool.use_tenants(snapshot.tenants, elsewhere)
        self.acl_users.keep_only(snapshot.tenants)
        if self.acl_maintenance is not None:
            self.acl_maintenance.claim(snapshot.tenants)
        self.master.use(snapshot.backend)

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """The source was read, and `use_snapshot` has had what follows. began: when, in the
        reactor's seconds.
        """
        if self.acl_maintenance is not None:
            self.acl_maintenance.take_read(summary, began)

    def _observe_tenant(self, namespace: str, seconds: float) -> None:
        histogram = self.tenant_latency.get(namespace)
        if histogram is None:
            histogram = self.tenant_latency[namespace] = Histogram(REDIS_BOUNDS)
        histogram.observe(seconds)

    # What is told of it.

    def not_ready(self) -> messages.Text | None:
        """Why no client should come; None: there is no reason."""
        if not self.master.follows:
            return messages.NO_MASTER()
        if self.health.state is Answers.HUNG:
            if self.health.unanswered >= bounds.HUNG_UNREADY_SECONDS:
                return messages.REDIS_NO_ANSWER()
        elif not self.control.connected:
            return messages.REDIS_NOT_PROBED() if self.control.asking else messages.REDIS_NO_ANSWER()
        if self.control.users_refused:
            return messages.REDIS_REFUSES_USERS()
        if self.pool.refused:
            return messages.REDIS_REFUSES_CONNECTIONS()
        if not self.acl_users.serves:
            return messages.REDIS_WITHOUT_ACL()
        return None

    def state(self) -> RedisState:
        """What is known of Redis."""
        server = self.control.server
        address = self.master.address
        state = self.health.state
        fault = self._fault if self.not_ready() or self.health.fault else None
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
        }

    @property
    def _fault(self) -> messages.Text | None:
        """Why it is not ready: which of its parts knows. Of a Redis that is away each has its own
        error; that of the pool names the address and what failed.
        """
        if self.health.fault:
            return self.health.fault
        if self.master.fault or self.pool.refused:
            return self.master.fault or self.pool.fault
        return self.control.fault or self.pool.fault

    def connections(self) -> dict[str, int]:
        """How many there are that carry tenants' commands, by what they are used for."""
        shared, idle = len(self.pool.shared), self.pool.idle
        return {"multiplexed": shared, "idle": idle, "dedicated": max(0, len(self.pool) - shared - idle)}

    # Where Redis is: see `failover.MasterService`.

    def _moved(self, address: model.BackendAddress | None, failover: bool) -> None:
        """Redis is elsewhere. failover: and where it was, nothing is to be waited for."""
        # the Redis that is there tells what it is, and its users' rights are renewed then
        self._stop_renewing()
        self.acl_users.forget_all()
        # First, so that nothing more is asked of the old one.
        self.control.use(address)
        self.queries.use(address)
        self.pool.use(address, abandon=failover)

    def _reconnect(self) -> None:
        """The address leads to another server than before."""
        self.acl_users.forget_all()
        self.control.reconnect()
        self.queries.renew()
        self.pool.renew()

    def _is_master(self) -> None:
        """The address leads to a master."""
        self.pool.leave_replicas()

    # What Redis is, and so what tenants may do.

    def _server_told(self, server: Server) -> None:
        """Redis is connected, perhaps another one than before; or more is known of it."""
        before, self._server = self._server, server
        address = self.master.address
        assert address is not None, "Redis has told it over a connection to this address"  # noqa: S101
        policy = self._settings.policy(server)
        if policy.unknown != self.policy.unknown and policy.unknown:
            self._log.write(messages.COMMANDS_UNKNOWN, names=", ".join(policy.unknown))
        self._stop_renewing()
        if policy.exposed != self.policy.exposed:
            for command, what in policy.exposed:
                self._log.write(messages.COMMANDS_OPENED, command=command, what=what)
        # Those for whom a connection is being made ready, too.
        users = self.acl_users.users | self.pool.users
        self.acl_users.use(server, policy)
        if self.acl_maintenance is not None:
            self.acl_maintenance.use(address.password if self.acl_users.enforced_by(server) else None)
        self.pool.redis_told(policy.needs_acl_users)
        now, then = set(self.policy.forwarded), set(policy.forwarded)
        known = before is not None and _same_users(before, server)
        if not known or not then > now:
            self._use_policy(policy, everywhere=known)
        if known and then != now:
            # What sessions may do besides they are told when Redis knows it: until then their users
            # may not.
            self._renewing = defer.Deferred.fromCoroutine(self._renew_users(users, policy, address.password))
            self._renewing.addErrback(bug(self._log, "telling Redis of the users' new rights", defer.CancelledError))
        self.master.on_server(server)
        self.databases_told(server.databases)

    def _use_policy(self, policy: Policy, everywhere: bool) -> None:
        self.policy = policy
        self.policy_changed(policy, everywhere)

    async def _renew_users(self, users: Collection[Tenant], policy: Policy, master_password: bytes) -> None:
        """Has Redis know it of these users, and then the sessions. Of who is no tenant any more no
        user is made anew.
        """
        for tenant in users:
            while tenant in self._tenants:
                try:
                    await self.acl_users.login(tenant, master_password)
                    break
                except AclUserError:  # busy with somebody's script, say
                    await task.deferLater(self._reactor, _AGAIN)
        self._use_policy(policy, everywhere=True)

    def _stop_renewing(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()


def _same_users(before: Server, server: Server) -> bool:
    """Whether it is the same run of the same Redis, and tenants are logged in as ACL users
    there.
    """
    return bool(server.run_id) and server.run_id == before.run_id and before.acl and server.acl
