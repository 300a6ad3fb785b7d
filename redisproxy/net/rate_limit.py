"""Enforces the tenants' limits in one process: connections, commands and bytes per second.

Owns the reservations of connections and the queue of clients that wait for their tenant's rate.
Work is charged to a rate after it was done, so a rate can be overdrawn. While it is overdrawn, a
client's next bytes are kept, and the client is not read until its turn. Nothing is dropped, and a
tenant's clients take turns of one read each. A connection to Redis is not read while the tenant's
bytes are overdrawn.

This module is longer than other modules, because a tenant's limit, its rates and its clients'
reservations change each other's state.
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

#: The least size of a command in bytes, most of the time.
COMMAND_SIZE = 16


class Client(Protocol):
    """A client's connection: see `clients.connection.ClientProtocol`."""

    session: Session
    #: bytes that the client sent
    bytes_received: int

    def read_at_most(self, size: int) -> None:
        """Limits one read to `size` bytes."""

    def pause_reading(self, reason: int) -> None:
        """Stops reading. reason: one of PauseReason."""

    def resume_reading(self, reason: int) -> None:
        """Reads on, if there is no other reason to pause."""

    def crashed(self) -> None:
        """Called while an exception is handled: logs it and closes this connection only."""


class Upstream(Protocol):
    """A tenant's connection to Redis: see `protocol.RespReceiver`."""

    def pause_reading(self, reason: int) -> None:
        """Stops reading. reason: one of PauseReason."""

    def resume_reading(self, reason: int) -> None:
        """Reads on, if there is no other reason to pause."""


class RateLimiter:
    """The rates of one tenant. closed: whether a rate is overdrawn, so that what clients send has
    to wait.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._commands: Bucket | None = None
        self._bytes: Bucket | None = None
        self.closed = False
        #: bytes of one read from a client: small enough that one read does not use up many seconds
        #: of a rate
        self.read_size = bounds.READ_BYTES
        # A dict keeps the order, and removes an entry without a search.
        self._waiting: dict[Reservation, None] = {}
        self._upstreams: set[Upstream] = set()
        self._timer: IDelayedCall | None = None
        self._since: float | None = None
        self._throttled = 0.0

    def use(self, limits: Limits) -> None:
        """Applies new rates. What was overdrawn is forgiven: at another rate it could last for
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
        """How many connections, to clients and to Redis, are not read for now."""
        return len(self._waiting) + len(self._upstreams)

    @property
    def throttled(self) -> float:
        """Seconds, so far, in which at least one connection was not read."""
        return self._throttled + (0.0 if self._since is None else max(0.0, self._clock.seconds() - self._since))

    # Clients.

    def charge(self, commands: int, size: int) -> None:
        """Charges what was done for a client. size: bytes that the client sent."""
        now = self._clock.seconds()
        wait = 0.0 if self._commands is None else self._commands.charge(commands, now)
        if self._bytes is not None:
            wait = max(wait, self._bytes.charge(size, now))
        if wait and not self.closed:
            self.closed = True
            self._open_in(wait)

    def wait(self, reservation: Reservation) -> None:
        """Adds a client to the queue. What the client sends is kept until its `go_on` is called."""
        self._waiting[reservation] = None
        self._begin()

    def leave(self, reservation: Reservation) -> None:
        """Removes a client from the queue."""
        del self._waiting[reservation]
        self._end()

    # Connections to Redis.

    def replied(self, size: int, upstream: Upstream | None) -> None:
        """Charges bytes that Redis sent. If that overdraws the rate, the connection is not read
        until the rate recovers.

        upstream: the connection; None if no connection should be paused.
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
        """Has `_open` called in at most so many seconds. `_open` itself checks whether the wait has
        to go on.
        """
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
            # Check at the earlier of the two: connections to Redis wait for the bytes alone, not
            # for the commands.
            self._open_in(min(wait for wait in waits if wait))
        else:
            self.closed = False
            self._serve()
        self._end()

    def _serve(self) -> None:
        """Gives waiting clients their turns, until a rate is overdrawn."""
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
        """Cancels the timer: no client is connected that could go on."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class TenantLimit:
    """The limits of one tenant in this process, and how much of them is in use.

    clock: None if rates will never be limited. `rate_limiter` is None while no rate is limited.
    """

    def __init__(self, clock: IReactorTime | None) -> None:
        self._clock = clock
        self._limits = UNLIMITED
        #: reservations in use
        self.reservations: set[Reservation] = set()
        self.rate_limiter: RateLimiter | None = None
        # Kept after the limit was removed, for clients that still wait and for what was counted.
        self._rate_limiter: RateLimiter | None = None

    def use(self, limits: Limits) -> None:
        """Applies new limits. Connected clients stay, even above `max_connections`."""
        before, self._limits = self._limits, limits
        if (before.commands_per_second, before.bytes_per_second) == (limits.commands_per_second, limits.bytes_per_second):
            return
        if self._rate_limiter is None:
            if self._clock is None:
                raise RuntimeError("no tenant is given whose rates can be limited")
            self._rate_limiter = RateLimiter(self._clock)
        self._rate_limiter.use(limits)
        self.rate_limiter = self._rate_limiter if limits.commands_per_second or limits.bytes_per_second else None
        for reservation in self.reservations:
            reservation.limits_changed()

    def reserve(self, reservation: Reservation) -> bool:
        """Adds a reservation. Returns False if the tenant has `max_connections` others. A
        reservation that was added before is accepted again.
        """
        most = self._limits.max_connections
        if most and len(self.reservations) >= most and reservation not in self.reservations:
            return False
        self.reservations.add(reservation)
        return True

    def release(self, reservation: Reservation) -> None:
        """Removes a reservation, so that another client can have it."""
        self.reservations.discard(reservation)

    def answered(self, answer: object) -> None:
        """Charges an answer of Redis that came over a connection of the proxy itself."""
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
        """Stops the timer of a tenant that is not used any more."""
        if self._rate_limiter is not None:
            self._rate_limiter.stop()


def _size(answer: object) -> int:
    """The approximate size of an answer of Redis in bytes."""
    if isinstance(answer, list):
        return sum(map(_size, answer))
    return len(answer) if isinstance(answer, bytes) else 0


#: For connections that are no tenant's.
UNLIMITED_TENANT = TenantLimit(None)


class Reservation:
    """One client's reservation among its tenant's connections. What the client sends is charged to
    the tenant and may have to wait for its turn.

    `rate_limiter` is None if no rate applies: then nothing waits.
    """

    __slots__ = ("_charged", "_client", "_line", "_reserved", "_tenant_limit", "rate_limiter")

    def __init__(self, client: Client) -> None:
        self._client = client
        self.rate_limiter: RateLimiter | None = None
        # The limit of the tenant that the client is logged in as, and of the one that it is logging
        # in as.
        self._tenant_limit: TenantLimit | None = None
        self._reserved: TenantLimit | None = None
        # Commands and bytes charged so far.
        self._charged = (0, 0)
        # The rate limiter in whose queue the client waits. A client that logs out stays in that
        # queue until its turn.
        self._line: RateLimiter | None = None

    # The tenant.

    def reserve(self, tenant_limit: TenantLimit) -> None:
        """Reserves a connection for a client that logs in. Raises TenantFullError."""
        if not tenant_limit.reserve(self):
            raise TenantFullError
        self._reserved = tenant_limit

    def cancel(self) -> None:
        """Gives up the reservation of a log-in that failed."""
        reserved, self._reserved = self._reserved, None
        if reserved is not None and reserved is not self._tenant_limit:
            reserved.release(self)

    def keep(self) -> None:
        """Makes the reservation of a pending login the client's own. Does nothing without one."""
        if self._reserved is None:
            return
        if self._tenant_limit is not None:
            self.release()
        self._tenant_limit, self._reserved = self._reserved, None
        if self._tenant_limit.rate_limiter is not None:
            self.limits_changed()
        if self.rate_limiter is not None and self.rate_limiter.closed:
            self._wait(self.rate_limiter)  # commands behind the log-in wait, too

    def release(self) -> None:
        """Gives up the reservation: the client is not logged in any more."""
        if self.rate_limiter is not None:
            self._charge()
            self.rate_limiter = None
            self._client.read_at_most(bounds.READ_BYTES)
        tenant_limit, self._tenant_limit = self._tenant_limit, None
        if tenant_limit is not None and tenant_limit is not self._reserved:
            tenant_limit.release(self)

    def lost(self) -> None:
        """Gives up everything: the client is gone."""
        self.release()
        if self._reserved is not None:
            self.cancel()
        if self._line is not None:
            self._line.leave(self)
            self._line = None
        # The client and this object refer to each other: without this they would wait for the
        # garbage collector.
        self._client = None  # type: ignore[assignment]  # this is the last call: nothing uses the client after it

    def limits_changed(self) -> None:
        """Applies the tenant's new limits to this client."""
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

    # Bytes from the client.

    def received(self, data: bytes) -> None:
        """Passes a client's bytes to its session. While the tenant is over its rate, the session
        keeps the bytes until `go_on`.
        """
        client, rate_limiter = self._client, self.rate_limiter
        if rate_limiter is None:
            client.session.received(data)
            return
        # a large read may have raised the size of reads
        client.read_at_most(rate_limiter.read_size)
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
        """The client's turn has come: its session runs what it kept."""
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
    """The numbers of a tenant: see `ops.stats.TenantStats`."""

    held: int
    throttled: float


class TenantLimits:
    """The limits of all tenants.

    processes: how many processes share the limits. Each enforces its part, rounded up.
    """

    def __init__(self, clock: IReactorTime, processes: int = 1) -> None:
        self._clock = clock
        self._processes = processes
        self._limits: Mapping[str, Limits] = {}
        self._known: dict[str, TenantLimit] = {}

    def of(self, namespace: str) -> TenantLimit:
        """Returns the limit of a tenant. It is made at the first call."""
        found = self._known.get(namespace)
        if found is None:
            found = self._known[namespace] = TenantLimit(self._clock)
            found.use(self._per_process(namespace))
        return found

    def _per_process(self, namespace: str) -> Limits:
        limits = self._limits.get(namespace, UNLIMITED)
        return limits if limits is UNLIMITED else limits.per_process(self._processes)

    def use(self, limits: Mapping[str, Limits], namespaces: Collection[str]) -> None:
        """Applies new limits. Tenants that are gone are forgotten once they have no client left.

        limits: by namespace; namespaces: of all tenants.
        """
        self._limits = limits
        for namespace, tenant_limit in list(self._known.items()):
            tenant_limit.use(self._per_process(namespace))
            if namespace not in namespaces and not (tenant_limit.reservations or tenant_limit.held):
                tenant_limit.stop()
                del self._known[namespace]

    def lift(self) -> None:
        """Removes all limits. At the end of the process, clients must get the replies to what Redis
        has done in the time that is left.
        """
        self.use({}, self._known)

    def stats(self, namespace: str) -> RateFigures:
        """What is counted for a tenant."""
        found = self._known.get(namespace)
        return {"held": 0, "throttled": 0.0} if found is None else {"held": found.held, "throttled": found.throttled}
