"""Redis has as many clients as it takes (`maxclients`): which tenant gives up a connection.

Owns how many connections each tenant has, and what is promised to whom. As long as Redis takes
connections, nobody is limited. After that, what a tenant has and needs least makes room for a
tenant that has less, as with slots (`clients.admission`):

- An idle connection is closed first: one that has been idle for a while, or one of a tenant that
  has more.
- Then the tenant that has most gives up the connection of a session, if it has at least two more
  than the tenant that needs one. The session where least is lost ends: see `DedicatedUser.rank`.
- While a place is promised, no other tenant of this process tries to take it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import TypeVar

from twisted.internet import defer, task
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages, probes
from ..net.waiters import Waiters
from ..ops.bugs import bug
from ..ops.log_once import LogOnce
from ..ops.logs import Log
from ..tenants.model import Tenant
from ..tenants.shares import Shares
from .client import ControlError
from .connection import RedisCloses, RedisConnection, RedisFull, UpstreamError
from .idle import IdleConnections

#: Seconds before each attempt to connect after a connection was given up. Redis frees a client a
#: moment after its end, and another process may take the place.
PAUSES = (0.0, 0.01, 0.02, 0.05, 0.1)
#: Seconds until a question for which room is made is asked again, and after which it is not.
ASK_AGAIN, ASK_SECONDS = 0.05, 5.0
#: Seconds after Redis's error that it is full, in which a connection that is closed at once means
#: the same: the error can be lost on its way, and Redis sends it once.
FULL_SECONDS = 10.0

Result = TypeVar("Result")


class Claim:
    """One tenant needs one connection. tenant: None: the proxy itself.

    wanted: whether somebody waits for it; otherwise nobody gives up anything.
    """

    __slots__ = ("promised", "tenant", "wanted")

    def __init__(self, tenant: Tenant | None, wanted: Callable[[], bool] = lambda: True) -> None:
        self.tenant = tenant
        self.wanted = wanted
        #: whether a place was made for it
        self.promised = False


class Crowd:
    """The connections of all tenants to one Redis.

    settled: called when no place is promised any more.
    """

    _log = Log()

    def __init__(self, clock: IReactorTime, idle: IdleConnections, settled: Callable[[], object]) -> None:
        self._clock = clock
        self._idle = idle
        self._settled = settled
        self._connected: Shares[Tenant, RedisConnection] = Shares()
        self._owners: dict[RedisConnection, Tenant] = {}
        # How many places are promised to each tenant, and to the proxy itself.
        self._promised: Counter[Tenant | None] = Counter()
        # For each connection given up: what fires when it is gone, and the call that cuts it off.
        self._leaving: dict[RedisConnection, tuple[defer.Deferred[None], IDelayedCall]] = {}
        #: whether the latest attempt to connect found Redis full, or got only what was made for it
        self.full = False
        # What Redis said then. One text for all attempts, so that the fault is one line of the log.
        self._reason = messages.REDIS_AWAY()
        self._logged = LogOnce(clock)
        # What waits until there is room for a connection of the proxy's own.
        self._made: Waiters[None] = Waiters()
        # When Redis said so last, in the clock's seconds; None: it never did.
        self._said: float | None = None
        self._own: defer.Deferred[None] | None = None
        # After room was made for the proxy's own: fires when Redis refuses one all the same.
        self._refused: defer.Deferred[None] | None = None

    @property
    def promising(self) -> bool:
        """Whether a place is promised, so that nobody else may take it."""
        return bool(self._promised)

    @property
    def said_full(self) -> bool:
        """Whether Redis said a moment ago that it is full."""
        return self._said is not None and self._clock.seconds() - self._said <= FULL_SECONDS

    @property
    def divisible(self) -> bool:
        """Whether room would be made for a tenant without a connection."""
        return self._closable(0) is not None or self._least_lost(0) is not None

    def add(self, upstream: RedisConnection) -> None:
        """A connection is a tenant's from now on."""
        if upstream.tenant is not None and upstream not in self._owners:
            self._owners[upstream] = upstream.tenant
            self._connected.add(upstream.tenant, upstream)

    def lost(self, upstream: RedisConnection) -> None:
        """A connection is gone."""
        self._forget(upstream)
        leaving = self._leaving.pop(upstream, None)
        if leaving is not None:
            closed, cut = leaving
            if cut.active():
                cut.cancel()
            closed.callback(None)

    def moved(self) -> None:
        """Redis is another server from now on. The connections so far take no place there."""
        self._owners.clear()
        self._connected = Shares()
        self.full, self._said = False, None

    def stop(self) -> None:
        """The proxy ends."""
        self.room_used()

    async def attempt(self, attempt: Callable[[], Awaitable[RedisConnection]]) -> RedisConnection:
        """Returns the result of an attempt to connect. Raises what it raises: RedisFull also where
        Redis closed the connection, and said a moment ago that it is full.
        """
        try:
            upstream = await attempt()
        except defer.CancelledError:
            raise
        except RedisFull as error:
            self.full, self._said, self._reason = True, self._clock.seconds(), error.reason
            raise
        except Exception as error:
            self.full = isinstance(error, RedisCloses) and self.said_full
            if self.full:
                raise RedisFull(self._reason) from None
            raise
        self.full = False
        return upstream

    async def open(self, claim: Claim, attempt: Callable[[], Awaitable[RedisConnection]], in_time: float) -> RedisConnection:
        """Returns a new connection. If Redis is full, others may have to make room.

        attempt: opens one; in_time: seconds after which no more room is made. Raises what it
        raises: RedisFull if nobody has to make room. The caller must `end` the claim.
        """
        until = self._clock.seconds() + in_time
        if not (self._promised and self.full):
            try:
                return await self.attempt(attempt)
            except RedisFull:
                pass
        if not claim.wanted():
            raise UpstreamError(self._reason, messages.UNREACHABLE.text)
        while self._clock.seconds() < until and await self._make_room(claim):
            for pause in PAUSES:
                await task.deferLater(self._clock, pause)
                try:
                    upstream = await self.attempt(attempt)
                except RedisFull:
                    continue
                self.full = True
                return upstream
        raise RedisFull(self._reason)

    def end(self, claim: Claim) -> None:
        """The tenant has its connection, or gets none."""
        if claim.promised:
            claim.promised = False
            self._promised[claim.tenant] -= 1
            if not self._promised[claim.tenant]:
                del self._promised[claim.tenant]
            if not self._promised:
                self._settled()

    def make_room(self) -> None:
        """Redis has refused a connection of the proxy's own, which soon tries again. See
        `room_used`.
        """
        if self._own is None:
            claim = Claim(None)
            self._own = defer.Deferred.fromCoroutine(self._room_for_proxy(claim))
            self._own.addErrback(bug(self._log, "making room for the proxy itself", defer.CancelledError))
            self._own.addCallback(self._room_made, claim)
        elif self._refused is not None:
            refused, self._refused = self._refused, None
            refused.callback(None)

    def room_used(self) -> None:
        """The proxy has made a connection of its own."""
        if self._own is not None:
            self._own.cancel()

    async def ask(self, asking: Callable[[], Awaitable[Result]]) -> Result:
        """Returns the result of `asking`, which may need connections of the proxy's own. While room
        is made for them, asks again.
        """
        until = self._clock.seconds() + ASK_SECONDS
        while True:
            try:
                return await asking()
            except ControlError as error:
                if self._own is None or not error.passing or self._clock.seconds() >= until:
                    raise
            if not self._promised[None]:
                await self._made.wait()
            await task.deferLater(self._clock, ASK_AGAIN)

    async def _room_for_proxy(self, claim: Claim) -> None:
        while await self._make_room(claim):
            self._made.fire(None)
            # What is refused in this time had begun before there was room.
            await task.deferLater(self._clock, ASK_AGAIN)
            self._refused = defer.Deferred()
            try:
                await self._refused.addTimeout(bounds.GIVING_WAY_SECONDS - ASK_AGAIN, self._clock)
            except defer.TimeoutError:
                return
            probes.reached("another process takes the place that was made for the proxy itself")

    def _room_made(self, _: None, claim: Claim) -> None:
        self._own = self._refused = None
        self.end(claim)
        self._made.fire(None)

    def _count(self, tenant: Tenant) -> int:
        return len(self._connected.of(tenant)) + self._promised[tenant]

    async def _make_room(self, claim: Claim) -> bool:
        """Has one connection given up, and waits until it is gone. Returns False if nobody has to
        give one up.
        """
        mine = 0 if claim.tenant is None else self._count(claim.tenant) - claim.promised
        idle = self._closable(mine)
        upstream = idle or self._least_lost(mine)
        if upstream is None:
            return False
        if not claim.promised:
            claim.promised = True
            self._promised[claim.tenant] += 1
        owner = self._owners.get(upstream)
        self._forget(upstream)
        closed: defer.Deferred[None] = defer.Deferred()
        # Also if the caller leaves meanwhile.
        self._leaving[upstream] = closed, self._clock.callLater(bounds.GIVING_WAY_SECONDS, upstream.drop)
        if idle is not None:
            probes.reached("idle connection makes room at a full Redis")
            self._idle.remove(upstream)
            upstream.drop()
        else:
            probes.reached("session gives its connection to another tenant")
            if owner is not None and self._logged.due(owner.namespace):
                self._log.write(messages.REDIS_SHARED_OUT, namespace=owner.namespace)
            upstream.give_way()
        await closed
        return True

    def _closable(self, mine: int) -> RedisConnection | None:
        """Returns the connection that has been idle longest, of those that nobody has used just
        now, and those of tenants that have more.
        """
        stale = self._clock.seconds() - bounds.FRESH_SECONDS
        for upstream in self._idle:
            if upstream.tenant is None or upstream.idle_since < stale or len(self._connected.of(upstream.tenant)) > mine + 1:
                return upstream
        return None

    def _owners_with_more(self, mine: int) -> Iterator[dict[RedisConnection, None]]:
        """The connections of each tenant that has at least two more, most first."""
        if not self._connected.total:
            return
        most = self._connected.of(self._connected.largest())
        if len(most) > mine + 1:
            yield most
            # All of these carry many sessions. There are few such connections.
            others = (owned for owned in self._connected.owners.values() if owned is not most)
            yield from sorted((owned for owned in others if len(owned) > mine + 1), key=len, reverse=True)

    def _least_lost(self, mine: int) -> RedisConnection | None:
        """Returns the connection with whose session least is lost, of the tenant that has most."""
        for owned in self._owners_with_more(mine):
            ranked = [(rank, each) for each in islice(owned, bounds.SESSIONS_COMPARED) if (rank := each.rank) is not None]
            if ranked:
                return min(ranked, key=lambda found: found[0])[1]
        return None

    def _forget(self, upstream: RedisConnection) -> None:
        owner = self._owners.pop(upstream, None)
        if owner is not None:
            self._connected.remove(owner, upstream)
