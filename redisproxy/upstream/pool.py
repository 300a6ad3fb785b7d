"""Opens connections to Redis, lends them to sessions and tenants, takes them back and closes them.

Owns the set of all upstream connections. A connection is acquired by one session, or by a tenant's
pool of `multiplexed` connections. If it is released clean, it waits for the next user of the same
tenant and protocol. It never goes from one tenant to another. `preparing` makes a connection ready
for a tenant; `base` opens some before anybody asks. This module is longer than other modules:
whether a connection is lent again depends on all that can happen to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from functools import partial
from pathlib import Path

from twisted.application import service
from twisted.internet import defer
from twisted.internet.error import ConnectionDone, ConnectionLost

from .. import bounds, messages, probes
from ..net.rate_limit import TenantLimits
from ..net.reactor import IConnectingReactor
from ..net.time_limit import within
from ..net.waiters import Waiters
from ..ops.logs import Log
from ..tenants.account import Counts, increase
from ..tenants.model import BackendAddress, Tenant
from ..tenants.slow_log import ConnectionNames
from .acl_users import AclUsers
from .base import Base
from .connection import PausedError, RedisCloses, RedisConnection, RedisFull, RedisUnreachable, UpstreamError
from .crowd import Claim, Crowd
from .endpoint import CaFileError, connect, endpoint_for, why
from .faults import Faults
from .handover import Handover
from .hold import HeldWork, TenantPaused
from .idle import IdleConnections
from .multiplexed import MultiplexedConnection
from .opening import Openings, RedisMoved
from .order import TenantOrder
from .preparing import Preparation
from .script_pool import ScriptPool
from .tenant_pool import TenantPool
from .turns import Turns


class ConnectionPool(service.Service):
    """All connections to Redis that carry tenants' commands.

    acl_users: gives the ACL users that connections log in as; base: how many connections are opened
    at start and kept; idle_timeout: seconds after which an idle one beyond those is closed;
    connect_timeout: seconds to open one, its log-in included; ca_file: see `endpoint.endpoint_for`;
    counts: counts what Redis sends; tenant_limits: charges it; hold: seconds for which work waits
    while Redis is away.
    """

    name = "connections"
    _log = Log()

    def __init__(
        self,
        reactor: IConnectingReactor,
        acl_users: AclUsers,
        base: int,
        idle_timeout: float,
        connect_timeout: float,
        ca_file: Path | None = None,
        counts: Counts | None = None,
        tenant_limits: TenantLimits | None = None,
        hold: float = 0.0,
    ) -> None:
        self._counts = counts or Counts()
        self._tenant_limits = tenant_limits or TenantLimits(reactor)
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._address: BackendAddress | None = None
        self._connections: set[RedisConnection] = set()
        self._openings = Openings(reactor, connect_timeout, self._connect)
        #: whether tenants may do something, such as scripts, that only an ACL user can restrict
        self._needs_acl_users = False
        # By tenant, protocol, and whether they are for scripts.
        self._tenant_pools: dict[tuple[Tenant, int, bool], TenantPool] = {}
        self._orders: dict[Tenant, TenantOrder] = {}
        #: the names that connections have in Redis
        self.names = ConnectionNames()
        self._idle = IdleConnections(reactor, idle_timeout, lambda: len(self._connections) <= base)
        self._faults = Faults(reactor)
        self._preparation = Preparation(acl_users, self._idle, self._faults, self._answered, self._keep)
        self._base_size = base
        self._base = Base(reactor, self._base_missing, self._open, self._opened_for_base, lambda: self.hold.waits)
        #: holds work while Redis is away
        self.hold = HeldWork(reactor, hold, self._base.hurry)
        self._turns = Turns(bounds.ACQUIRING)
        #: how a full Redis is shared out
        self.crowd = Crowd(reactor, self._idle, self._base.replenish)
        # How often Redis was reached: a log-in succeeded, or an idle connection answered a PING.
        self._reached = 0
        #: whether the latest attempt to open a connection failed, or its log-in was refused, or a
        #: connection was not ready in time
        self.refused = False
        self._empty: Waiters[None] = Waiters()
        self._like_replica: set[RedisConnection] = set()
        # None until the first snapshot.
        self._tenants: Collection[Tenant] | None = None
        #: makes the next owner of a database wait for the former one's connections
        self.handover = Handover(reactor)
        #: called once for each connection that gives a reply which only a replica gives
        self.found_replica: Callable[[], None] = lambda: None
        #: called with the tenant, each time a connection ends while Redis may be running its script
        self.script_left: Callable[[Tenant], object] = lambda _: None

    def __len__(self) -> int:
        """The number of open connections to Redis."""
        return len(self._connections)

    @property
    def fault(self) -> messages.Text | None:
        """Why no connection was available at the last attempt; None if one was."""
        return self._faults.reason

    @property
    def refuses_all(self) -> bool:
        """Whether a tenant that has no connection would get none: `refused`, and nobody would have
        to make room for it.
        """
        return self.refused and not (self.crowd.full and self.crowd.divisible)

    @property
    def idle(self) -> int:
        """The number of connections that nobody uses."""
        return len(self._idle)

    @property
    def multiplexed(self) -> list[MultiplexedConnection]:
        """The multiplexed connections in use."""
        return [upstream for tenant_pool in self._tenant_pools.values() if (upstream := tenant_pool.open) is not None]

    @property
    def users(self) -> set[Tenant]:
        """The tenants whose ACL users are logged in."""
        return {upstream.tenant for upstream in self._connections if upstream.has_acl_user and upstream.tenant is not None}

    def await_scripts(self) -> list[RedisConnection]:
        """Returns the connections of which Redis may be running a script."""
        return [upstream for upstream in self._connections if upstream.awaits_script]

    def add_up(self) -> None:
        """Adds what Redis has sent so far to the counts."""
        for upstream in self._connections:
            self._count(upstream)

    def _count(self, upstream: RedisConnection) -> None:
        if upstream.tenant is not None:
            increase(self._counts.replied, upstream.tenant.namespace, upstream.bytes_received - upstream.counted)
            upstream.counted = upstream.bytes_received

    def startService(self) -> None:
        super().startService()
        self._base.start()

    def stopService(self) -> defer.Deferred[None]:
        """Fires when all connections are closed."""
        super().stopService()
        self._base.stop()
        self.hold.stop()
        self.handover.stop()
        self.crowd.stop()
        self._openings.give_up()
        stopped = self._empty.wait()
        for upstream in list(self._connections):
            upstream.drop()
        self._check_empty()
        return stopped

    def use(self, address: BackendAddress | None, abandon: bool = False) -> None:
        """Opens new connections at this address from now on.

        Idle connections to another address are closed; busy ones continue until they are released.
        abandon: the former Redis failed, so busy ones are closed, too, and their pending commands
        get an error.
        """
        if address == self._address:
            return
        self._address = address
        self._idle.close()
        self._base.forget_failures()
        self._faults.forget()
        self.crowd.moved()
        self.refused = False
        self.hold.reached()
        if address is not None:
            self._log.write(messages.REDIS_AT, address=address.shown)
            self._base.replenish()
            for tenant_pool in list(self._tenant_pools.values()):
                tenant_pool.renew()
        if abandon:
            # Last, when the tenant pools are opening others: each connection that breaks before
            # that would start another attempt.
            self._openings.give_up(keep=address)
            for upstream in list(self._connections):
                if upstream.address != address:
                    upstream.drop()

    def use_tenants(self, tenants: Collection[Tenant], elsewhere: Collection[int] = ()) -> None:
        """Takes the set of tenants from now on. The connections of all others end.

        Bytes that Redis has not got from these by now are never sent. Some of these connections may
        lead to a database that is another tenant's now. The new owner gets no connection before
        they are gone. elsewhere: indices of such databases to which other processes may have
        connections.
        """
        self._tenants = tenants
        self._idle.close(lambda upstream: not self._tenants_own(upstream))
        for key, tenant_pool in list(self._tenant_pools.items()):
            if tenant_pool.tenant not in tenants:
                del self._tenant_pools[key]  # its last sessions keep it, and no new ones come
                for multiplexed in list(tenant_pool.upstreams):
                    multiplexed.give_up()
        for gone in self._orders.keys() - set(tenants):
            del self._orders[gone]  # its last sessions keep it
        owned = {tenant.index: tenant for tenant in tenants}
        former = [
            upstream
            for upstream in self._connections
            if (tenant := upstream.tenant) is not None and tenant not in tenants and tenant.index in owned
        ]
        self.handover.begin(former, {index: owned[index] for index in elsewhere if index in owned})

    def pause(self, tenants: Set[Tenant]) -> None:
        """These tenants are paused from now on, and no others.

        Nothing more is sent over their multiplexed connections. Their sessions give up their
        dedicated ones themselves.
        """
        begins, ends = self.hold.pause(tenants)
        pools = list(self._tenant_pools.values())
        for tenant_pool in pools:
            if tenant_pool.tenant in begins:
                tenant_pool.pause()
        self.hold.resume(ends)
        for tenant_pool in pools:
            if tenant_pool.tenant in ends:
                tenant_pool.redis_back()

    def _tenants_own(self, upstream: RedisConnection) -> bool:
        return upstream.tenant is None or self._tenants is None or upstream.tenant in self._tenants

    def answered_wrongly(self, upstream: RedisConnection, reason: str) -> None:
        """See `connection.Pool`."""
        self._faults.wrong_answer(upstream, reason)

    def answered_like_replica(self, upstream: RedisConnection) -> None:
        """See `connection.Pool`."""
        upstream.stale = True
        self._like_replica.add(upstream)
        self.found_replica()

    def left_script(self, upstream: RedisConnection) -> None:
        """See `connection.Pool`."""
        if upstream.tenant is not None:
            self.script_left(upstream.tenant)

    def leave_replicas(self) -> None:
        """The address leads to a master: replaces connections that gave a reply which only a
        replica gives.

        They lead to another server. Sessions do not notice that a multiplexed connection is
        replaced. A session's dedicated connection is closed.
        """
        former, self._like_replica = self._like_replica, set()
        if gone := former & self._connections:
            keys = {None, *(upstream.key for upstream in gone)}
            self._idle.close(lambda idle: idle.key in keys)
        for tenant_pool in list(self._tenant_pools.values()):
            multiplexed = tenant_pool.open
            if multiplexed is not None and multiplexed.connection in former:
                tenant_pool.renew()
            former -= {each.connection for each in tenant_pool.upstreams}
        for upstream in former & self._connections:
            upstream.drop()

    def renew(self) -> None:
        """The address leads to another server than before: replaces all connections.

        Each tenant pool opens another connection, and after that leaves its present one.
        """
        self._openings.renew()
        self.crowd.moved()
        for upstream in self._connections:
            upstream.stale = True
        self._idle.close()
        for tenant_pool in list(self._tenant_pools.values()):
            tenant_pool.renew()

    def redis_probed(self, needs_acl_users: bool) -> None:
        """Redis was probed, and may be another one than before.

        needs_acl_users: no connection with the master's rights may be used from now on.
        """
        self._needs_acl_users = needs_acl_users
        if self.refused:
            self._base.retry_now()
        for tenant_pool in list(self._tenant_pools.values()):
            for upstream in list(tenant_pool.upstreams):
                if needs_acl_users and not upstream.connection.has_acl_user:
                    upstream.connection.drop()
            tenant_pool.retry_now()

    # Lending.

    def tenant_pool(self, tenant: Tenant, protocol: int) -> TenantPool:
        """Returns the tenant's multiplexed connections in this protocol."""
        tenant_pool = self._tenant_pools.get((tenant, protocol, False))
        if tenant_pool is None:
            tenant_pool = self._tenant_pools[tenant, protocol, False] = TenantPool(
                self, self._reactor, tenant, protocol, self.order(tenant)
            )
        return tenant_pool

    def script_pool(self, tenant: Tenant, protocol: int) -> ScriptPool:
        """See `tenant_pool.Pool`."""
        script_pool = self._tenant_pools[tenant, protocol, True] = ScriptPool(
            self, self._reactor, tenant, protocol, self.order(tenant)
        )
        return script_pool

    def order(self, tenant: Tenant) -> TenantOrder:
        """Returns the order of the tenant's commands."""
        order = self._orders.get(tenant)
        if order is None:
            order = self._orders[tenant] = TenantOrder(self._reactor, lambda: self.refused or self.hold.paused(tenant))
        return order

    def has_idle(self, tenant: Tenant, protocol: int) -> bool:
        """Whether the tenant has an idle connection in this protocol."""
        return self._idle.newest((tenant, protocol)) is not None

    def forget(self, tenant_pool: TenantPool) -> None:
        """See `tenant_pool.Pool`."""
        key = tenant_pool.tenant, tenant_pool.protocol, tenant_pool.for_scripts
        if self._tenant_pools.get(key) is tenant_pool:
            del self._tenant_pools[key]

    def fresh(self, tenant: Tenant, protocol: int) -> RedisConnection | None:
        """Returns an idle connection that was used at most FRESH_SECONDS ago; None if there is
        none.
        """
        upstream = self._idle.newest((tenant, protocol))
        if (
            upstream is None
            or self.hold.paused(tenant)
            or self._reactor.seconds() - upstream.idle_since > bounds.FRESH_SECONDS
            or (self._needs_acl_users and not upstream.has_acl_user)
        ):
            return None
        self._idle.remove(upstream)
        upstream.tenant_limit = self._tenant_limits.of(tenant.namespace)
        upstream.order = self.order(tenant)
        return upstream

    async def acquire(self, tenant: Tenant, protocol: int = 2, wanted: Callable[[], bool] = lambda: True) -> RedisConnection:
        """Returns a connection for the tenant in this protocol. Raises UpstreamError.

        wanted: whether somebody waits for it; otherwise a full Redis gets no room for it.

        While Redis takes no connections, loads its data or fails over, or while the tenant is
        paused, the caller waits: see `hold`. The caller may cancel this: no other caller notices,
        and nothing is logged.
        """
        try:
            return await self.hold.keep_trying(tenant, partial(self._acquire, tenant, protocol, wanted))
        except TenantPaused:
            raise PausedError from None

    async def _acquire(self, tenant: Tenant, protocol: int, wanted: Callable[[], bool]) -> RedisConnection:
        """Makes one attempt.

        At most bounds.ACQUIRING callers are served at a time, each within the connect time limit:
        more at once would each take too long. The others wait in one queue for each tenant. They
        fail at once if Redis turns out to be away. A database that was another tenant's has to be
        free first: see `handover`.
        """
        while (over := self.handover.over(tenant.index)) is not None:
            probes.reached("database still has connections of its former owner")
            await over
        await self._turns.begin(tenant)
        reached = self._reached
        try:
            upstream = await self._acquired_where_redis_is(tenant, protocol, wanted)
            if self._needs_acl_users and not upstream.has_acl_user:
                # It was opened before the proxy knew that Redis has ACLs. Over it a script could
                # leave the database.
                upstream.drop()
                raise UpstreamError(messages.REDIS_MASTER_RIGHTS(), messages.UNREACHABLE.text, passing=True)
            if self.hold.paused(tenant):
                self._keep(upstream)
                raise TenantPaused
            upstream.tenant_limit = self._tenant_limits.of(tenant.namespace)
            if self._faults.reason is not None and not self.crowd.full:
                self._faults.over(upstream.address.shown, ready=True)
            upstream.order = self.order(tenant)
            return upstream
        except RedisUnreachable as error:
            # If another caller reached Redis in the same time, only this one failed.
            if self._reached == reached:
                probes.reached("all that wait for a connection fail")
                reason = error.reason
                # A full Redis may take connections of a tenant that has less.
                only = tenant if isinstance(error, RedisFull) else None
                self._turns.fail_all(lambda: RedisUnreachable(reason), only)
            raise
        finally:
            self._turns.end(tenant)

    async def _acquired_where_redis_is(self, tenant: Tenant, protocol: int, wanted: Callable[[], bool]) -> RedisConnection:
        """Acquires a connection to the present address, with a second attempt if Redis moved
        meanwhile.

        A connection to the former address is not for new work.
        """
        for _ in range(2):
            address = self._address
            try:
                upstream = await self._acquired_in_time(tenant, protocol, wanted)
            except UpstreamError:
                if address == self._address:
                    raise
                continue
            if upstream.address == self._address and not upstream.stale:
                return upstream
            probes.reached("Redis moved while a connection was opened")
            upstream.drop()
        raise RedisMoved

    async def _acquired_in_time(self, tenant: Tenant, protocol: int, wanted: Callable[[], bool]) -> RedisConnection:
        if (upstream := self.fresh(tenant, protocol)) is not None:
            return upstream
        address = self._address
        claim = Claim(tenant, wanted)
        opening = partial(self._open, claim)
        preparing = defer.Deferred.fromCoroutine(self._preparation.prepare(tenant, protocol, opening))
        try:
            upstream = await within(preparing, self._connect_timeout, self._reactor)
            self.crowd.add(upstream)
            return upstream
        except defer.TimeoutError:
            probes.reached("connection could not be had in time")
            # The tenant's other idle connections would take as long.
            self._idle.close(lambda upstream: upstream.key == (tenant, protocol))
            reason = messages.REDIS_SILENT(address=address.shown if address else "Redis")
            if address is not None:
                # The base tries again: perhaps nobody else notices that Redis is back.
                self._not_opened(address, reason, although_open=True)
            raise RedisUnreachable(reason) from None
        finally:
            self.crowd.end(claim)

    def _answered(self) -> None:
        """Records that Redis has answered."""
        self._base.reached()
        self._reached += 1
        self.hold.reached()

    async def _open(self, claim: Claim | None = None) -> RedisConnection:
        """Returns a new connection, logged in. Raises UpstreamError.

        claim: who needs it, so that others make room at a full Redis; None: nobody yet.
        """
        address = self._address
        if address is None or not self.running:
            raise RedisUnreachable(messages.REDIS_UNKNOWN())
        try:
            attempt = partial(self._openings.open, address)
            if claim is None:
                upstream = await self.crowd.attempt(attempt)
            else:
                upstream = await self.crowd.open(claim, attempt, self._connect_timeout / 2)
        except (defer.CancelledError, RedisMoved):
            raise
        except UpstreamError as error:
            self._not_opened(address, error.reason)
            raise
        except Exception as error:
            reason = messages.REDIS_UNREACHABLE(address=address.shown, reason=why(error))
            self._not_opened(address, reason)
            raise RedisUnreachable(reason) from None
        upstream.opened = self._reactor.seconds()
        if claim is not None:
            self._opened(address)
        return upstream

    def _opened(self, address: BackendAddress) -> None:
        """Redis has taken a connection: what waits for one is tried again."""
        self._reached += 1
        if self.refused:
            self.refused = False
            for tenant_pool in list(self._tenant_pools.values()):
                tenant_pool.redis_back()
        if not self.crowd.full:
            self._faults.over(address.shown, ready=False)
        self.hold.reached()

    def _not_opened(self, address: BackendAddress, reason: messages.Text, although_open: bool = False) -> None:
        """No tenant can get a connection. although_open: see `Faults.of_all`."""
        if address != self._address:
            return  # says nothing about the present address
        self._faults.of_all(reason, although_open)
        self.refused = True
        self.hold.away()
        self._base.not_opened()

    async def _connect(self, address: BackendAddress) -> RedisConnection:
        try:
            endpoint = endpoint_for(self._reactor, address, self._connect_timeout, self._ca_file)
        except CaFileError as error:
            raise UpstreamError(error.reason, messages.LOGIN_REFUSED.text) from None
        with self.hold.connecting():
            upstream = await connect(endpoint, lambda: RedisConnection(address, self))
        self._connections.add(upstream)
        try:
            await upstream.log_in()
        except (ConnectionDone, ConnectionLost):
            probes.reached("Redis closes connections before they are ready")
            raise RedisCloses(messages.REDIS_CLOSES(address=address.shown)) from None
        except BaseException:
            upstream.drop()
            raise
        return upstream

    def usable(self, upstream: RedisConnection) -> bool:
        """Whether the connection may be lent again: it leads where a new one would, for a present
        tenant.
        """
        current = upstream in self._connections and upstream.address == self._address and not upstream.stale
        return bool(self.running) and current and self._tenants_own(upstream)

    def release(self, upstream: RedisConnection, clean: bool) -> None:
        """See `connection.Pool`."""
        if upstream.detach() and clean:
            self._keep(upstream)
        else:
            upstream.drop()

    def _keep(self, upstream: RedisConnection) -> None:
        """Keeps a connection for its next user."""
        if self.usable(upstream):
            self._idle.put(upstream)
        else:
            upstream.drop()

    # Keeping.

    def lost(self, upstream: RedisConnection) -> None:
        """See `connection.Pool`."""
        self._connections.discard(upstream)
        self._like_replica.discard(upstream)
        self.handover.lost(upstream)
        self.crowd.lost(upstream)
        self._count(upstream)
        self._idle.remove(upstream)
        self._check_empty()
        if (
            upstream.tenant is None
            and upstream.opened is not None
            and self._reactor.seconds() - upstream.opened < bounds.SHORT_LIVED_SECONDS
        ):
            probes.reached("Redis closes connections as soon as they are open")
            # Something accepts connections and closes them. To open the next one at once would be a
            # storm.
            self._faults.of_all(messages.REDIS_CLOSES(address=upstream.address.shown))
            self._base.replenish_later()
        else:
            self._base.replenish()

    def _check_empty(self) -> None:
        if not self._connections:
            self._empty.fire(None)

    def _base_missing(self) -> bool:
        """Whether the base has to open one more.

        While Redis takes no connections, or only those that room was made for, the base tries
        again, because perhaps nobody else does.
        """
        if self.crowd.promising:
            return False  # it would take the place that was made for a tenant
        return self._address is not None and (self.refused or self.crowd.full or len(self._connections) < self._base_size)

    def _opened_for_base(self, upstream: RedisConnection) -> None:
        # A full Redis may have had this place only. What waits gets this connection, as another one
        # would come too early for the place of one that was just closed.
        if self.usable(upstream) and (len(self._connections) <= self._base_size or self.hold.waits):
            self._idle.put(upstream)
        else:
            upstream.drop()
        self._opened(upstream.address)
