"""Hold instead of fail: how long work waits while Redis takes no connections, or while its tenant
is paused, and when it is tried again.

Owns these times. Work that has not been sent to Redis waits while Redis restarts, loads its data,
fails over, or has too many clients, or while an operator has paused the tenant. `pool` and
`session_backend` say what is tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, TypeVar

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages, probes
from ..messages import MessageError
from ..net.waiters import Waiters
from ..ops.retry import Backoff
from ..tenants.model import Tenant

#: The delay before the next attempt of one piece of work, if Redis serves others meanwhile.
BACKOFF = Backoff(0.05, 0.5, factor=1.5, spread=0.05)

#: How much work is tried again when Redis takes connections, and then for each connection that it
#: took and each piece of work that ended. All at once would be a storm where Redis has too many
#: clients: it takes one now and then.
TOGETHER = 4

#: Seconds after which an attempt to connect says that Redis is away, though it has not failed yet:
#: nothing answers, as when a machine is gone. The kernel of a busy Redis answers at once.
SLOW = 1.0

#: Words of Redis's errors that do not pass by themselves, and how such errors of the word ERR go
#: on: no such password, right, database, command or protocol version. All others may pass.
_LASTING = (b"WRONGPASS", b"NOPERM", b"NOPROTO", b"NOAUTH")
_LASTING_ERR = (
    b"invalid password",
    b"auth ",
    b"client sent auth, but no password is set",
    b"db index",
    b"invalid db index",
    b"select is not allowed",
    b"unknown",
)

Result = TypeVar("Result")


def is_lasting(error: bytes) -> bool:
    """Whether an error of Redis says that a later attempt cannot succeed either.

    error: with or without its hyphen.
    """
    word, _, text = error.removeprefix(b"-").partition(b" ")
    return word in _LASTING or (word == b"ERR" and text.lower().startswith(_LASTING_ERR))


def is_away(answer: bytes) -> bool:
    """Whether Redis serves nobody, by its answer to PING.

    It serves while a script takes long (BUSY), or while it cannot save its data (MISCONF: it
    refuses writes), though it answers PING with these errors.
    """
    return answer != b"+PONG" and not (is_lasting(answer) or answer.startswith((b"-BUSY ", b"-MISCONF ")))


@contextmanager
def _counted(counter: Counter[Tenant], tenant: Tenant) -> Iterator[None]:
    counter[tenant] += 1
    try:
        yield
    finally:
        counter[tenant] -= 1
        if not counter[tenant]:
            del counter[tenant]


class PassingError(Protocol):
    """An error of Redis, or of a connection to it."""

    #: whether a later attempt may succeed
    passing: bool


class TenantPaused(MessageError):
    """An attempt found that its tenant is paused."""

    def __init__(self) -> None:
        super().__init__(messages.TENANT_PAUSED())


@dataclass(slots=True)
class _Pause:
    """A pause of one tenant. since: when it began, in the clock's seconds; over: fires at its end;
    ends: it is over, and only its work goes on in turns.
    """

    since: float
    over: Waiters[None] = field(default_factory=Waiters)
    ends: bool = False


class HeldWork:
    """Holds the work of all tenants of one Redis.

    seconds: how long work waits, from the moment when Redis was found away or the pause began; 0:
    not at all. hurry: called when work begins to wait until Redis takes connections, so that
    somebody tries soon.
    """

    def __init__(self, clock: IReactorTime, seconds: float, hurry: Callable[[], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._hurry = hurry
        # Since when Redis takes no connections of anybody, in the clock's seconds.
        self._away_since: float | None = None
        # Work that waits until Redis takes connections, by tenant: whose turn is next comes first.
        self._waiting: dict[Tenant, Waiters[None]] = {}
        # Work that waits for a delay.
        self._delayed: Waiters[None] = Waiters()
        # How much of the first is to be tried again now, by the loop in `_go_on`.
        self._due = 0
        # By tenant: how much work is under way, and how much of it failed at least once.
        self._tried: Counter[Tenant] = Counter()
        self._held: Counter[Tenant] = Counter()
        # When the attempts to connect that are under way began, in the clock's seconds.
        self._connecting: dict[object, float] = {}
        self._stopped = False
        self._pauses: dict[Tenant, _Pause] = {}
        # Tenants whose pause is over, and whose work goes on in turns: whose turn is next comes
        # first.
        self._resuming: dict[Tenant, None] = {}
        self._resume_call: IDelayedCall | None = None

    @property
    def waits(self) -> bool:
        """Whether work waits until Redis takes connections."""
        return bool(self._waiting)

    def away(self) -> None:
        """Redis was found away: it takes no connections, or does not answer."""
        if self._away_since is None:
            self._away_since = self._clock.seconds()

    def reached(self) -> None:
        """Redis takes connections. Work that waits is tried again, TOGETHER first."""
        if self._away_since is not None:
            self._away_since = None
            self._delayed.fire_in_turns(None, self._clock)
        self._go_on()

    def _go_on(self) -> None:
        """Has work tried again, unless Redis is away."""
        looping, self._due = self._due > 0, self._due + TOGETHER
        if looping:
            return  # work ended within the loop below, which goes on, and not in a deeper stack
        while self._due and self.waits and self._away_since is None:
            self._try_next()
            self._due -= 1
        self._due = 0

    def _try_next(self) -> None:
        """Has one piece of work tried again, of one tenant after the other.

        A Redis that is back may take fewer connections than one tenant wants.
        """
        tenant, waiters = next(iter(self._waiting.items()))
        del self._waiting[tenant]
        if len(waiters) > 1:
            self._waiting[tenant] = waiters  # behind the others
        waiters.fire_first(None)

    def stop(self) -> None:
        """The proxy ends: work waits no longer."""
        self._stopped = True
        self._delayed.fire(None)
        for waiters in list(self._waiting.values()):
            waiters.fire(None)
        for pause in list(self._pauses.values()):
            pause.over.fire(None)
        self._resuming.clear()
        if self._resume_call is not None:
            self._resume_call.cancel()
            self._resume_call = None

    # Paused tenants.

    def pause(self, tenants: Set[Tenant]) -> tuple[Set[Tenant], Set[Tenant]]:
        """These tenants are paused from now on, and no others.

        Returns those whose pause begins and those whose pause ends. The work of the latter does not
        go on before `resume`.
        """
        paused = {tenant for tenant, pause in self._pauses.items() if not pause.ends}
        begins, ends = tenants - paused, paused - tenants
        now = self._clock.seconds()
        for tenant in begins:
            before = self._pauses.get(tenant)
            self._pauses[tenant] = _Pause(now) if before is None else _Pause(now, before.over)
            self._resuming.pop(tenant, None)
        return begins, ends

    def resume(self, tenants: Set[Tenant]) -> None:
        """The pause of these tenants is over: their work goes on, in the order in which it came.

        RESUMED_PER_TURN now, and as much in each later turn of the reactor, of one tenant after the
        other. Work that comes until then goes behind it.
        """
        for tenant in tenants:
            self._pauses[tenant].ends = True
            self._resuming[tenant] = None
        if self._resume_call is None:
            self._resume_some()

    def _resume_some(self) -> None:
        self._resume_call = None
        for _ in range(bounds.RESUMED_PER_TURN):
            tenant = next(iter(self._resuming), None)
            if tenant is None:
                return
            del self._resuming[tenant]
            over = self._pauses[tenant].over
            if over:
                self._resuming[tenant] = None  # behind the others
                over.fire_first(None)
            else:
                del self._pauses[tenant]
        probes.reached("work of paused tenants goes on in several turns")
        self._resume_call = self._clock.callLater(0, self._resume_some)

    def paused(self, tenant: Tenant) -> bool:
        """Whether this tenant is paused."""
        pause = self._pauses.get(tenant)
        return pause is not None and not pause.ends

    async def _pass_pause(self, tenant: Tenant) -> None:
        """Waits while the tenant is paused. Raises TenantPaused when the time is over."""
        while (pause := self._pauses.get(tenant)) is not None:
            remaining = pause.since + self._seconds - self._clock.seconds()
            if self._stopped or (remaining <= 0 and not pause.ends):
                raise TenantPaused
            probes.reached("work is held while its tenant is paused")
            with _counted(self._held, tenant):
                waiter = pause.over.wait()
                waiter.addTimeout(max(0.0, remaining), self._clock)
                try:
                    await waiter
                except defer.TimeoutError:
                    pass
                if not self._stopped and not self.paused(tenant):
                    return

    def holds(self, tenant: Tenant) -> bool:
        """Whether work of this tenant is held now."""
        return tenant in self._held or (tenant in self._tried and self._silent)

    @property
    def _silent(self) -> bool:
        """Whether an attempt to connect is SLOW."""
        oldest = next(iter(self._connecting.values()), None)
        return oldest is not None and self._clock.seconds() - oldest >= SLOW

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """While this context lasts, an attempt to connect is under way."""
        attempt = object()
        self._connecting[attempt] = self._clock.seconds()
        try:
            yield
        finally:
            del self._connecting[attempt]

    async def keep_trying(self, tenant: Tenant, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Returns the result of an attempt, which is made again while its errors may pass.

        tenant: whose work it is. Raises the attempt's MessageError: at once if a later attempt
        cannot succeed (see `PassingError`), else when the time is over. Raises TenantPaused if the
        tenant is paused for longer. The caller may cancel this.
        """
        with _counted(self._tried, tenant):
            while True:
                if self._pauses:
                    await self._pass_pause(tenant)
                try:
                    return await self._try(tenant, attempt)
                except TenantPaused:
                    probes.reached("tenant is paused while a connection is opened")

    async def _try(self, tenant: Tenant, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """As `keep_trying`, of a tenant that is not paused. Raises an attempt's TenantPaused."""
        try:
            return await attempt()
        except MessageError as error:
            since = self._clock.seconds()
            remaining = self._remaining(error, since)
            if remaining <= 0:
                raise
        probes.reached("work is held while Redis is away")
        with _counted(self._held, tenant):
            return await self._keep_trying(tenant, attempt, since, remaining)

    async def _keep_trying(
        self, tenant: Tenant, attempt: Callable[[], Awaitable[Result]], since: float, remaining: float
    ) -> Result:
        """Makes further attempts. since: when the first one failed; remaining: see `_remaining`."""
        for failures in count(1):
            await self._next_attempt(tenant, failures, remaining)
            try:
                return await attempt()
            except MessageError as error:
                remaining = self._remaining(error, since)
                if remaining <= 0:
                    raise
            finally:
                self._go_on()
        raise AssertionError("it counts for ever")

    def _remaining(self, error: MessageError, since: float) -> float:
        """Seconds that work may still wait after an error. since: when its first attempt failed."""
        if self._stopped or not getattr(error, "passing", False):
            return 0.0
        if self._away_since is not None:
            since = min(since, self._away_since)
        return since + self._seconds - self._clock.seconds()

    async def _next_attempt(self, tenant: Tenant, failures: int, remaining: float) -> None:
        """Waits until Redis is reached if it is away, else for a delay; at most so many seconds."""
        away = self._away_since is not None
        waiters = self._waiting.setdefault(tenant, Waiters()) if away else self._delayed
        waiter = waiters.wait()
        waiter.addTimeout(remaining if away else min(remaining, BACKOFF.delay(failures)), self._clock)
        if away:
            self._hurry()
        try:
            await waiter
        except defer.TimeoutError:
            pass
        finally:
            if not waiters and self._waiting.get(tenant) is waiters:
                del self._waiting[tenant]
