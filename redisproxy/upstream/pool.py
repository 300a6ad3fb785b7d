"""Which lane goes to whom: opens connections to Redis, lends them, keeps some, closes the idle.

Owns the set of all lanes. A lane is leased to one session, or to a tenant's `multiplexed` lanes. One that is given back
clean waits for the next of the same tenant and protocol; a lane never goes from one tenant to another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from pathlib import Path

from twisted.application import service
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import probes
from ..net.rate_limit import Allowances
from ..net.time_limit import within
from ..net.waiters import Waiters
from ..ops.bugs import bug
from ..ops.log_once import LogOnce
from ..ops.retry import Backoff, Retry
from ..session.route import UNREACHABLE
from ..tenants.account import Counts, increase
from ..tenants.model import Backend, Tenant
from .acl_users import Wall, WallError
from .connection import LOGIN_REFUSED, LaneError, LaneProtocol, RedisUnreachable, UserUnknown
from .endpoint import connected, endpoint_for, why
from .fair_queue import FairQueue
from .handover import Handover
from .multiplexed import SharedLane, SharedLanes
from .opening import Openings, RedisMoved

#: Leases that are under way at once, of all tenants together.
AT_ONCE = 256
#: Seconds after its last use for which an idle connection is taken to work, without a PING.
FRESH = 1.0
#: Seconds: a connection that nobody used and that lives no longer is taken for a failure.
SHORT_LIVED = 1.0
#: When the base is opened again.
BACKOFF = Backoff(0.75, 10.0, factor=1.5, spread=1.0)


class LanePool(service.Service):
    """All connections to Redis that carry tenants' commands.

    wall: whom lanes log in as; base: how many are opened at start and kept; idle_timeout: seconds after which an idle
    one beyond those is closed; connect_timeout: seconds for opening one, its log-in included; ca_file: see
    `endpoint.endpoint_for`; counts: where what Redis sends is counted; allowances: of the tenants.
    """

    name = "lanes"
    _log = Logger()

    def __init__(
        self,
        reactor: object,
        wall: Wall,
        base: int,
        idle_timeout: float,
        connect_timeout: float,
        ca_file: Path | None = None,
        counts: Counts | None = None,
        allowances: Allowances | None = None,
    ) -> None:
        self._counts = counts or Counts()
        self._allowances = allowances or Allowances(reactor)
        self._reactor = reactor
        self._wall = wall
        self._base = base
        self._idle_timeout = idle_timeout
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._backend: Backend | None = None
        self._lanes: set[LaneProtocol] = set()
        self._openings = Openings(reactor, connect_timeout, self._connect)
        #: whether tenants may do what only an ACL user holds in its limits
        self._needs_wall = False
        self._homes: dict[tuple[Tenant, int], SharedLanes] = {}
        # Idle lanes, the one used last at the end: by their keys.
        self._idle: dict[tuple[Tenant, int] | None, list[LaneProtocol]] = {}
        self._timers: dict[LaneProtocol, IDelayedCall] = {}
        self._replenishing = False
        self._queue: FairQueue[defer.Deferred[None]] = FairQueue(AT_ONCE)
        self._serving = False
        # How often Redis was reached: it answered a log-in, or a PING on an idle connection.
        self._reached = 0
        self._retry = Retry(reactor, BACKOFF, self._replenish)
        # What was logged lately: faults of Redis, which all tenants feel; and those of one tenant or one connection.
        self._faults = LogOnce(reactor)
        self._faults_of_one = LogOnce(reactor)
        #: whether the latest connection could not be opened, or its log-in was refused
        self.refused = False
        self._empty: Waiters[None] = Waiters()
        self._like_replica: set[LaneProtocol] = set()
        # None until it is told.
        self._tenants: Collection[Tenant] | None = None
        #: of databases from one tenant to another
        self.handover = Handover(reactor)
        #: called when a lane answered as only a replica does, once for each such lane
        self.found_replica: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """How many connections to Redis are open."""
        return len(self._lanes)

    @property
    def idle(self) -> int:
        """How many of them carry no session."""
        return sum(map(len, self._idle.values()))

    @property
    def shared(self) -> list[SharedLane]:
        """Those that are shared and in use."""
        return [home.lane for home in self._homes.values() if home.lane is not None]

    @property
    def users(self) -> set[Tenant]:
        """The tenants whose ACL users are logged in."""
        return {lane.tenant for lane in self._lanes if lane.walled and lane.tenant is not None}

    def tally(self) -> None:
        """Has the counts of what Redis sent so far."""
        for lane in self._lanes:
            self._tally(lane)

    def _tally(self, lane: LaneProtocol) -> None:
        if lane.tenant is not None:
            increase(self._counts.replied, lane.tenant.namespace, lane.taken - lane.tallied)
            lane.tallied = lane.taken

    def startService(self) -> None:
        super().startService()
        self._replenish()

    def stopService(self) -> defer.Deferred:
        """Fires when all connections are closed."""
        super().stopService()
        self._retry.cancel()
        self.handover.stop()
        self._openings.give_up()
        stopped = self._empty.wait()
        for lane in list(self._lanes):
            lane.drop()
        self._check_empty()
        return stopped

    def use(self, backend: Backend | None, abandon: bool = False) -> None:
        """Where new lanes are opened from now on. Idle ones to another place are closed; busy ones drain.

        abandon: busy ones are closed as well, and what they still owe is answered with an error: the place failed.
        """
        if backend == self._backend:
            return
        self._backend = backend
        for lanes in list(self._idle.values()):
            for lane in list(lanes):
                self._take_from_idle(lane)
                lane.drop()
        self._retry.cancel()
        self._retry.succeeded()
        self._faults.forget()
        self.refused = False
        if backend is not None:
            self._log.info("Redis is at {address}", address=backend.address)
            self._replenish()
            for home in list(self._homes.values()):
                home.renew()
        if abandon:
            # Not before the homes open others: a lane that breaks would have them open one each.
            self._openings.give_up(keep=backend)
            for lane in list(self._lanes):
                if lane.backend != backend:
                    lane.drop()

    def use_tenants(self, tenants: Collection[Tenant], elsewhere: Collection[int] = ()) -> None:
        """Who is a tenant from now on. Connections of others end; no command is sent over them that was not by now.

        Those to a database that is another tenant's by now have to be gone before that one has a connection. elsewhere:
        indices of such databases to which other processes may have some.
        """
        self._tenants = tenants
        for lanes in list(self._idle.values()):
            for lane in list(lanes):
                if not self._tenants_own(lane):
                    self._take_from_idle(lane)
                    lane.drop()
        for key, home in list(self._homes.items()):
            if home.tenant not in tenants:
                del self._homes[key]  # its last sessions have it, and nobody else comes
                for shared in list(home.lanes):
                    shared.give_up()
        owned = {tenant.index for tenant in tenants}
        former = [lane for lane in self._lanes if not self._tenants_own(lane) and lane.tenant.index in owned]
        self.handover.begin(former, elsewhere)

    def _tenants_own(self, lane: LaneProtocol) -> bool:
        return lane.tenant is None or self._tenants is None or lane.tenant in self._tenants

    def answered_wrongly(self, lane: LaneProtocol, reason: str) -> None:
        """See `connection.Pool`. Logged once in a while: a tenant might cause it as often as it likes."""
        if self._faults_of_one.due(f"{lane}: {reason}"):
            self._log.warn("{lane} answered what it was not asked: {reason}", lane=lane, reason=reason)

    def answered_like_replica(self, lane: LaneProtocol) -> None:
        """See `connection.Pool`."""
        lane.stale = True
        self._like_replica.add(lane)
        self.found_replica()

    def leave_replicas(self) -> None:
        """The address leads to a master: lanes that answered as only a replica does lead elsewhere, and are left.

        Shared ones for others, without anybody's notice; one that a session has to itself is closed.
        """
        left, self._like_replica = self._like_replica, set()
        for lane in left & self._lanes:
            for key in (lane.key, None):
                for idle in list(self._idle.get(key, ())):
                    self._take_from_idle(idle)
                    idle.drop()
        for home in list(self._homes.values()):
            if home.lane is not None and home.lane.connection in left:
                home.renew()
            left -= {lane.connection for lane in home.lanes}
        for lane in left & self._lanes:
            lane.drop()

    def renew(self) -> None:
        """The address leads to another server than before: all homes open other lanes, and then leave theirs."""
        for lane in self._lanes:
            lane.stale = True
        for lanes in list(self._idle.values()):
            for lane in list(lanes):
                self._take_from_idle(lane)
                lane.drop()
        for home in list(self._homes.values()):
            home.renew()

    def redis_told(self, needs_wall: bool) -> None:
        """Redis is there, perhaps another one. needs_wall: no lane with the master's rights may be used from now on."""
        self._needs_wall = needs_wall
        if self.refused:
            self._retry.cancel()
            self._replenish()
        for home in list(self._homes.values()):
            for lane in list(home.lanes):
                if needs_wall and not lane.connection.walled:
                    lane.connection.drop()
            home.retry_now()

    # Lending.

    def home(self, tenant: Tenant, protocol: int) -> SharedLanes:
        """The tenant's shared lanes."""
        home = self._homes.get((tenant, protocol))
        if home is None:
            home = self._homes[tenant, protocol] = SharedLanes(self, self._reactor, tenant, protocol)
        return home

    def forget_home(self, home: SharedLanes) -> None:
        """See `multiplexed.Pool`."""
        if self._homes.get((home.tenant, home.protocol)) is home:
            del self._homes[home.tenant, home.protocol]

    def fresh(self, tenant: Tenant, protocol: int) -> LaneProtocol | None:
        """An idle lane that was used a moment ago, leased at once."""
        idle = self._idle.get((tenant, protocol))
        if not idle or self._reactor.seconds() - idle[-1].idle_since > FRESH or (self._needs_wall and not idle[-1].walled):
            return None
        lane = idle[-1]
        self._take_from_idle(lane)
        lane.allowance = self._allowances.of(tenant.namespace)
        return lane

    async def lease(self, tenant: Tenant, protocol: int = 2) -> LaneProtocol:
        """A lane for the tenant that speaks the protocol, within the connect time-out. Raises LaneError.

        Of a burst, AT_ONCE are served at a time: all at once would each take too long. The others wait, in a queue for
        each tenant, and hear at once if Redis turns out to be away. A database that was another tenant's is waited for:
        see `handover`. The caller may cancel this: no other lease notices, and nothing is logged.
        """
        while (over := self.handover.over(tenant.index)) is not None:
            probes.reached("database still has connections of its former owner")
            await over
        if not self._queue.begin(tenant):
            probes.reached("many connections are opened at once")
            waiter: defer.Deferred[None] = defer.Deferred(lambda cancelled: self._queue.leave(tenant, cancelled))
            self._queue.wait(tenant, waiter)
            await waiter
        reached = self._reached
        try:
            lane = await self._leased_where_redis_is(tenant, protocol)
            if self._needs_wall and not lane.walled:
                # It was opened before it was known that Redis has ACLs: a script could leave the database.
                lane.drop()
                raise LaneError("a connection with the master's rights", UNREACHABLE)
            lane.allowance = self._allowances.of(tenant.namespace)
            return lane
        except RedisUnreachable as error:
            # If another lease reached Redis in the same time, only this one failed.
            if self._reached == reached:
                probes.reached("all that wait for a connection fail")
                for waiter in self._queue.clear():
                    if not waiter.called:  # one that heard it may have given up another
                        waiter.errback(RedisUnreachable(str(error)))
            raise
        finally:
            self._queue.end(tenant)
            self._serve_queue()

    def _serve_queue(self) -> None:
        """Lets waiters begin while there are places."""
        if self._serving:
            return  # a lease ended within the loop below, which goes on: else a long queue would be a deep stack
        self._serving = True
        try:
            while (waiter := self._queue.next()) is not None:
                waiter.callback(None)
        finally:
            self._serving = False

    async def _leased_where_redis_is(self, tenant: Tenant, protocol: int) -> LaneProtocol:
        """Redis may move while a lane is opened: one that leads to where it was is not for new work."""
        for _ in range(2):
            backend = self._backend
            try:
                lane = await self._leased_in_time(tenant, protocol)
            except LaneError:
                if backend == self._backend:
                    raise
                continue
            if lane.backend == self._backend:
                return lane
            probes.reached("Redis moved while a connection was opened")
            lane.drop()
        raise RedisMoved

    async def _leased_in_time(self, tenant: Tenant, protocol: int) -> LaneProtocol:
        if (lane := self.fresh(tenant, protocol)) is not None:
            return lane
        backend = self._backend
        try:
            return await self._in_time(self._leased(tenant, protocol))
        except defer.TimeoutError:
            probes.reached("connection could not be had in time")
            # Its other idle lanes would take as long.
            for lane in list(self._idle.get((tenant, protocol), ())):
                self._take_from_idle(lane)
                lane.drop()
            text = f"{backend.address if backend else 'Redis'} does not answer: it took too long"
            if backend == self._backend:
                self._tell(text)
            raise RedisUnreachable(text) from None

    async def _leased(self, tenant: Tenant, protocol: int) -> LaneProtocol:
        while idle := self._idle.get((tenant, protocol)):
            lane = idle[-1]
            self._take_from_idle(lane)
            try:
                return await self._prepared(lane, lane.check())
            except LaneError:
                probes.reached("idle connection had died unnoticed")
                continue  # it had died unnoticed: the next, or a new one, tells whether Redis is there
        try:
            return await self._bound(tenant, protocol)
        except UserUnknown:
            self._wall.forget(tenant)
        try:
            return await self._bound(tenant, protocol)
        except UserUnknown as error:
            self._tell_of_one(str(error))  # the first time it is what a restart or a failover is like
            raise

    async def _bound(self, tenant: Tenant, protocol: int) -> LaneProtocol:
        """A spare or new lane, given to the tenant. Raises LaneError."""
        lane = await self._spare()
        try:
            login = await self._wall.login(tenant, lane.backend.password)
        except BaseException as error:
            lane.drop()
            if not isinstance(error, WallError):
                raise
            self._tell_of_one(str(error))
            raise LaneError(str(error), UNREACHABLE if error.passing else LOGIN_REFUSED) from None
        return await self._prepared(lane, lane.bind(tenant, login, protocol))

    async def spare(self) -> LaneProtocol:
        """A lane that was never SELECTed, with the master's rights: not for what tenants send. Raises LaneError."""
        try:
            return await self._in_time(self._spare())
        except defer.TimeoutError:
            raise RedisUnreachable("Redis does not answer: it took too long") from None

    async def _spare(self) -> LaneProtocol:
        return await self._living_spare() or await self._open()

    async def _living_spare(self) -> LaneProtocol | None:
        """A lane that was never SELECTed, and still works."""
        while spare := self._idle.get(None):
            lane = spare[-1]
            self._take_from_idle(lane)
            try:
                return await self._prepared(lane, lane.check())
            except LaneError:
                continue  # it had died unnoticed
        return None

    async def _prepared(self, lane: LaneProtocol, step: Coroutine) -> LaneProtocol:
        """The lane, after a step of its log-in. If that fails it is closed, and LaneError raised."""
        try:
            await step
        except defer.CancelledError:
            lane.drop()
            raise
        except LaneError as error:
            lane.drop()
            if not isinstance(error, UserUnknown):
                self._tell_of_one(str(error))
            raise
        except Exception as error:
            lane.drop()
            raise RedisUnreachable(f"lost while it was made ready: {why(error)}") from None
        self._failures = 0
        self._reached += 1
        return lane

    def _in_time(self, step: object) -> defer.Deferred:
        return within(defer.Deferred.fromCoroutine(step), self._connect_timeout, self._reactor)

    async def _open(self) -> LaneProtocol:
        """A new connection, logged in. Raises LaneError."""
        backend = self._backend
        if backend is None or not self.running:
            raise RedisUnreachable("no backend is known")
        try:
            lane = await self._openings.open(backend)
        except (defer.CancelledError, RedisMoved):
            raise
        except LaneError as error:
            self._not_opened(backend, str(error))
            raise
        except Exception as error:
            text = f"{backend.address} cannot be reached: {why(error)}"
            self._not_opened(backend, text)
            raise RedisUnreachable(text) from None
        self._reached += 1
        self.refused = False
        if self._faults.forget():
            self._log.info("Redis at {address} can be used again", address=backend.address)
        lane.opened = self._reactor.seconds()
        return lane

    def _not_opened(self, backend: Backend, text: str) -> None:
        """It is tried again by itself: nobody may come to whom it would show that it can be opened again."""
        if backend != self._backend:
            return  # Redis is elsewhere by now, of which this says nothing
        self._tell(text)
        self.refused = True
        if not self._replenishing:
            self._replenish_later()

    async def _connect(self, backend: Backend) -> LaneProtocol:
        try:
            endpoint = endpoint_for(self._reactor, backend, self._connect_timeout, self._ca_file)
        except (OSError, ValueError) as error:
            raise LaneError(f"the CA file {self._ca_file} cannot be used: {error}", LOGIN_REFUSED) from None
        factory = Factory.forProtocol(lambda: LaneProtocol(backend, self))
        factory.noisy = False
        lane = await connected(endpoint, factory)
        self._lanes.add(lane)
        try:
            await lane.log_in()
        except BaseException:
            lane.drop()
            raise
        return lane

    def usable(self, lane: LaneProtocol) -> bool:
        """Whether it leads to where new ones would."""
        current = lane in self._lanes and lane.backend == self._backend and not lane.stale
        return self.running and current and self._tenants_own(lane)

    def give_back(self, lane: LaneProtocol, clean: bool) -> None:
        """See `connection.Pool`."""
        settled = lane.put_down()
        if clean and settled and self.usable(lane):
            self._keep(lane)
        else:
            lane.drop()

    # Keeping.

    def _keep(self, lane: LaneProtocol) -> None:
        lane.idle_since = self._reactor.seconds()
        self._idle.setdefault(lane.key, []).append(lane)
        self._timers[lane] = self._reactor.callLater(self._idle_timeout, self._idle_for_long, lane)

    def _take_from_idle(self, lane: LaneProtocol) -> None:
        lanes = self._idle[lane.key]
        lanes.remove(lane)
        if not lanes:
            del self._idle[lane.key]
        timer = self._timers.pop(lane)
        if timer.active():
            timer.cancel()

    def _idle_for_long(self, lane: LaneProtocol) -> None:
        if len(self._lanes) > self._base:
            self._take_from_idle(lane)
            lane.drop()
        else:
            self._timers[lane] = self._reactor.callLater(self._idle_timeout, self._idle_for_long, lane)

    def lost(self, lane: LaneProtocol) -> None:
        """See `connection.Pool`."""
        self._lanes.discard(lane)
        self._like_replica.discard(lane)
        self.handover.lost(lane)
        self._tally(lane)
        if lane in self._timers:
            self._take_from_idle(lane)
        self._check_empty()
        if lane.tenant is None and lane.opened is not None and self._reactor.seconds() - lane.opened < SHORT_LIVED:
            probes.reached("Redis closes connections as soon as they are open")
            # Something takes connections and closes them: to open the next one at once would be a storm.
            self._tell(f"{lane.backend.address} closes connections as soon as they are open")
            self._replenish_later()
        else:
            self._replenish()

    def _check_empty(self) -> None:
        if not self._lanes:
            self._empty.fire(None)

    def _replenish(self) -> None:
        """Opens what is missing from the base, one after the other; after a failure, later and later."""
        enough = len(self._lanes) >= self._base and not self.refused
        if not self.running or self._backend is None or self._retry.due is not None or self._replenishing or enough:
            return
        self._replenishing = True
        opened = defer.Deferred.fromCoroutine(self._open())
        opened.addCallbacks(self._opened_for_base, self._not_opened_for_base)
        opened.addErrback(bug(self._log, "opening a lane"))

    def _opened_for_base(self, lane: LaneProtocol) -> None:
        self._replenishing = False
        if self.running and lane in self._lanes and lane.backend == self._backend and len(self._lanes) <= self._base:
            self._keep(lane)
        else:
            lane.drop()
        self._replenish()

    def _not_opened_for_base(self, failure: Failure) -> None:
        self._replenishing = False
        failure.trap(LaneError)
        self._replenish_later()

    def _replenish_later(self) -> None:
        if self.running:
            self._retry.failed()

    def _tell(self, text: str) -> None:
        """Logs why nobody can have a connection to Redis."""
        if self._faults.due(text):
            self._log.error("no connection to Redis: {text}", text=text)

    def _tell_of_one(self, text: str) -> None:
        """Logs why one tenant cannot, or what one connection was answered."""
        if self._faults_of_one.due(text):
            self._log.error("no connection to Redis: {text}", text=text)
