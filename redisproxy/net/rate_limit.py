"""The tenants' limits, as one process holds them: who has a place, and who is read later because
the tenant did too much.

Owns the places and the order of those that wait. A rate is charged with what was done; while it is
overdrawn, what a client sends next is kept and the client is not read, until its turn comes. So
nothing is dropped, and among a tenant's clients each has a turn of one read. A connection to Redis
is not read while bytes are overdrawn. It is longer than other modules: a tenant's limit, its rates
and its clients' reservations change each other's state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, TypedDict

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds
from ..session.session import Session
from ..tenants.limits import UNLIMITED, Bucket, Limits
from ..tenants.model import TenantFullError
from .protocol import PauseReason

#: Bytes that a command has at least, most of the time.
COMMAND_SIZE = 16


class Client(Protocol):
    """A client's connection: see `clients.connection.ClientProtocol`."""

    session: Session
    #: bytes that it sent
    bytes_received: int

    def read_at_most(self, size: int) -> None:
        """So many bytes at once."""

    def pause_reading(self, reason: int) -> None:
        """Reads no more."""

    def resume_reading(self, reason: int) -> None:
        """Reads on."""

    def crashed(self) -> None:
        """There was an exception, which costs this connection alone."""


class Upstream(Protocol):
    """A tenant's connection to Redis: see `protocol.RespReceiver`."""

    def pause_reading(self, reason: int) -> None:
        """Reads no more."""

    def resume_reading(self, reason: int) -> None:
        """Reads on."""


class RateLimiter:
    """One tenant's rates. closed: whether they are overdrawn, so that what clients send has to
    wait.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._commands: Bucket | None = None
        self._bytes: Bucket | None = None
        self.closed = False
        #: bytes that are read from a client at once, so that no read takes what is allowed in many
        #: seconds
        self.read_size = bounds.READ_BYTES
        # A dict for its order, and so that one which leaves need not be searched for.
        self._waiting: dict[Reservation, None] = {}
        self._upstreams: set[Upstream] = set()
        self._timer: IDelayedCall | None = None
        self._since: float | None = None
        self._throttled = 0.0

    def use(self, limits: Limits) -> None:
        """These hold from now on. What was overdrawn is forgiven: by another rate it could last for
        hours.
        """
        now = self._clock.seconds()
        commands, size = limits.commands_per_second, limits.bytes_per_second
        self._commands = Bucket(commands, now) if commands else None
        self._bytes = Bucket(size, now) if size else None
        portions = [rate * bounds.RATE_READ_SECONDS for rate in (commands * COMMAND_SIZE, size) if rate]
        self.read_size = (
            int(max(bounds.SMALL_READ_BYTES, min(bounds.READ_BYTES, *portions))) if portions else bounds.READ_BYTES
        )
        if self.closed:
            self._open_in(0)

    @property
    def held(self) -> int:
        """Connections that are not read from for now, clients' and those to Redis."""
        return len(self._waiting) + len(self._upstreams)

    @property
    def throttled(self) -> float:
        """Seconds for which there were any, so far."""
        return self._throttled + (0.0 if self._since is None else max(0.0, self._clock.seconds() - self._since))

    # Of a client.

    def charge(self, commands: int, size: int) -> None:
        """So much was done for a client. size: bytes that it sent."""
        now = self._clock.seconds()
        wait = 0.0 if self._commands is None else self._commands.charge(commands, now)
        if self._bytes is not None:
            wait = max(wait, self._bytes.charge(size, now))
        if wait and not self.closed:
            self.closed = True
            self._open_in(wait)

    def wait(self, reservation: Reservation) -> None:
        """What it sent is kept until `go_on` is called."""
        self._waiting[reservation] = None
        self._begin()

    def leave(self, reservation: Reservation) -> None:
        """It waits no more."""
        del self._waiting[reservation]
        self._end()

    # Of a connection to Redis.

    def replied(self, size: int, upstream: Upstream | None) -> None:
        """Redis sent so many bytes. If that was too much, the upstream connection is held until it
        is not. None: nobody uses it now.
        """
        if self._bytes is None:
            return
        wait = self._bytes.charge(size, self._clock.seconds())
        if not wait:
            return
        self.closed = True
        self._open_in(wait)
        if upstream is not None:
            self._upstreams.add(upstream)
            self._begin()
            upstream.pause_reading(PauseReason.RATE)

    # Time.

    def _open_in(self, seconds: float) -> None:
        """At the latest: what must wait longer is found out then."""
        seconds = max(seconds, bounds.RATE_TICK_SECONDS) if seconds else 0
        if self._timer is None or not self._timer.active():
            self._timer = self._clock.callLater(seconds, self._open)
        elif self._timer.getTime() > self._clock.seconds() + seconds:
            self._timer.reset(seconds)

    def _open(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        waits = [0.0 if bucket is None else bucket.charge(0, now) for bucket in (self._commands, self._bytes)]
        if not waits[1]:
            upstreams, self._upstreams = self._upstreams, set()
            for upstream in upstreams:
                upstream.resume_reading(PauseReason.RATE)
        if any(waits):
            # Whichever comes first: upstream connections do not wait for what is pending in
            # commands.
            self._open_in(min(wait for wait in waits if wait))
        else:
            self.closed = False
            self._serve()
        self._end()

    def _serve(self) -> None:
        """Those that wait have their turns, as long as nothing is overdrawn."""
        for _ in range(bounds.RATE_RESUMED_PER_TURN):
            if self.closed or not self._waiting:
                return
            reservation = next(iter(self._waiting))
            del self._waiting[reservation]
            reservation.go_on()
        if self._waiting and not self.closed:
            self.closed = True
            self._open_in(bounds.RATE_TICK_SECONDS)

    def _begin(self) -> None:
        if self._since is None:
            self._since = self._clock.seconds()

    def _end(self) -> None:
        if self._since is not None and not self.held:
            self._throttled = self.throttled
            self._since = None

    def stop(self) -> None:
        """Nobody is there whom it could tell to go on."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class TenantLimit:
    """What one tenant may have in this process, and has.

    clock: None where there will never be a limit of a rate; rate limiter: None where no rate is
    limited.
    """

    def __init__(self, clock: IReactorTime | None) -> None:
        self._clock = clock
        self._limits = UNLIMITED
        #: those that are taken
        self.reservations: set[Reservation] = set()
        self.rate_limiter: RateLimiter | None = None
        # Kept when there is no limit any more, for those that still wait and for what was counted.
        self._rate_limiter: RateLimiter | None = None

    def use(self, limits: Limits) -> None:
        """These hold from now on. Who is there stays, even where that is more than now may come."""
        before, self._limits = self._limits, limits
        if (before.commands_per_second, before.bytes_per_second) == (limits.commands_per_second, limits.bytes_per_second):
            return
        if self._rate_limiter is None:
            if self._clock is None:
                raise RuntimeError("nobody's rates cannot be limited")
            self._rate_limiter = RateLimiter(self._clock)
        self._rate_limiter.use(limits)
        self.rate_limiter = self._rate_limiter if limits.commands_per_second or limits.bytes_per_second else None
        for reservation in self.reservations:
            reservation.limits_changed()

    def reserve(self, reservation: Reservation) -> bool:
        """Whether it can be had. It may be had already."""
        most = self._limits.max_connections
        if most and len(self.reservations) >= most and reservation not in self.reservations:
            return False
        self.reservations.add(reservation)
        return True

    def release(self, reservation: Reservation) -> None:
        """Another may take it."""
        self.reservations.discard(reservation)

    def answered(self, answer: object) -> None:
        """Redis said this on the tenant's behalf, over a connection that is not the tenant's."""
        if self.rate_limiter is not None:
            self.rate_limiter.replied(_size(answer), None)

    @property
    def held(self) -> int:
        """See `RateLimiter.held`."""
        return 0 if self._rate_limiter is None else self._rate_limiter.held

    @property
    def throttled(self) -> float:
        """See `RateLimiter.throttled`."""
        return 0.0 if self._rate_limiter is None else self._rate_limiter.throttled

    def stop(self) -> None:
        """It is used no more."""
        if self._rate_limiter is not None:
            self._rate_limiter.stop()


def _size(answer: object) -> int:
    """Bytes of an answer of Redis's, nearly."""
    if isinstance(answer, list):
        return sum(map(_size, answer))
    return len(answer) if isinstance(answer, bytes) else 0


#: Where nobody is the tenant.
UNLIMITED_TENANT = TenantLimit(None)


class Reservation:
    """One client's place among its tenant's: what the client sends is charged there, and may have
    to wait for its turn.

    rate limiter: None where nothing has to wait, whatever was done.
    """

    __slots__ = ("_charged", "_client", "_line", "_reserved", "_tenant_limit", "rate_limiter")

    def __init__(self, client: Client) -> None:
        self._client = client
        self.rate_limiter: RateLimiter | None = None
        # Of the tenant as which the client is logged in, and of the one as which it is about to be.
        self._tenant_limit: TenantLimit | None = None
        self._reserved: TenantLimit | None = None
        # Commands and bytes, so far.
        self._charged = (0, 0)
        # Where it waits. It may log out meanwhile, and still has its turn there.
        self._line: RateLimiter | None = None

    # Whose it is.

    def reserve(self, tenant_limit: TenantLimit) -> None:
        """The client is about to log in as this tenant. Raises TenantFullError."""
        if not tenant_limit.reserve(self):
            raise TenantFullError
        self._reserved = tenant_limit

    def cancel(self) -> None:
        """The log-in came to nothing."""
        reserved, self._reserved = self._reserved, None
        if reserved is not None and reserved is not self._tenant_limit:
            reserved.release(self)

    def keep(self) -> None:
        """The client is logged in, if it was about to be."""
        if self._reserved is None:
            return
        self.release()
        self._tenant_limit, self._reserved = self._reserved, None
        self.limits_changed()
        if self.rate_limiter is not None and self.rate_limiter.closed:
            self._wait(self.rate_limiter)  # with what came behind the log-in

    def release(self) -> None:
        """The client is not logged in any more."""
        if self.rate_limiter is not None:
            self._charge()
            self.rate_limiter = None
            self._client.read_at_most(bounds.READ_BYTES)
        tenant_limit, self._tenant_limit = self._tenant_limit, None
        if tenant_limit is not None and tenant_limit is not self._reserved:
            tenant_limit.release(self)

    def lost(self) -> None:
        """The client is gone."""
        self.release()
        self.cancel()
        if self._line is not None:
            self._line.leave(self)
            self._line = None
        # Or the two would be left to the garbage collector.
        self._client = None  # type: ignore[assignment]  # this is the last call: nothing uses the client after it

    def limits_changed(self) -> None:
        """The tenant's limits are others than before."""
        if self._tenant_limit is None:
            return
        client = self._client
        before, self.rate_limiter = self.rate_limiter, self._tenant_limit.rate_limiter
        if self.rate_limiter is not None:
            if before is None:
                self._charged = (client.session.commands, client.bytes_received - client.session.buffered)
            client.read_at_most(self.rate_limiter.read_size)
        elif before is not None:
            client.read_at_most(bounds.READ_BYTES)

    # What the client sends.

    def received(self, data: bytes) -> None:
        """It, where there is a rate limiter."""
        client, rate_limiter = self._client, self.rate_limiter
        if rate_limiter is None:
            client.session.received(data)
            return
        client.read_at_most(rate_limiter.read_size)  # a large read may have made that more
        if rate_limiter.closed and not client.session.ended:
            self._wait(rate_limiter)
            client.session.received(data)
        else:
            client.session.received(data)
            self._charge()

    def _wait(self, rate_limiter: RateLimiter) -> None:
        self._client.session.throttle(True)
        self._client.pause_reading(PauseReason.RATE)
        if self._line is None:
            self._line = rate_limiter
            rate_limiter.wait(self)

    def go_on(self) -> None:
        """Its turn has come."""
        client = self._client
        self._line = None
        client.resume_reading(PauseReason.RATE)
        try:
            client.session.throttle(False)
            self._charge()
        except Exception:
            client.crashed()

    def _charge(self) -> None:
        if self.rate_limiter is not None:
            before, self._charged = self._charged, (self._client.session.commands, self._client.bytes_received)
            self.rate_limiter.charge(self._charged[0] - before[0], self._charged[1] - before[1])


class RateFigures(TypedDict):
    """See `ops.stats.TenantStats`."""

    held: int
    throttled: float


class TenantLimits:
    """Those of all tenants. processes: how many hold the limits together, each to its part."""

    def __init__(self, clock: IReactorTime, processes: int = 1) -> None:
        self._clock = clock
        self._processes = processes
        self._limits: Mapping[str, Limits] = {}
        self._known: dict[str, TenantLimit] = {}

    def of(self, namespace: str) -> TenantLimit:
        """The one of a tenant, made when it is asked for first."""
        found = self._known.get(namespace)
        if found is None:
            found = self._known[namespace] = TenantLimit(self._clock)
            found.use(self._per_process(namespace))
        return found

    def _per_process(self, namespace: str) -> Limits:
        limits = self._limits.get(namespace, UNLIMITED)
        return limits if limits is UNLIMITED else limits.per_process(self._processes)

    def use(self, limits: Mapping[str, Limits], namespaces: Collection[str]) -> None:
        """These hold from now on, by namespace. namespaces: of all tenants; others are forgotten
        when they have left.
        """
        self._limits = limits
        for namespace, tenant_limit in list(self._known.items()):
            tenant_limit.use(self._per_process(namespace))
            if namespace not in namespaces and not (tenant_limit.reservations or tenant_limit.held):
                tenant_limit.stop()
                del self._known[namespace]

    def lift(self) -> None:
        """There are none any more: at the end of the process, what Redis has done is told in the
        time that is left.
        """
        self.use({}, self._known)

    def stats(self, namespace: str) -> RateFigures:
        """What is counted of a tenant."""
        found = self._known.get(namespace)
        return {"held": 0, "throttled": 0.0} if found is None else {"held": found.held, "throttled": found.throttled}
