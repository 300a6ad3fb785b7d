"""Ends a tenant's script that runs for too long, and says whose it was.

While a script runs for too long, Redis answers BUSY to everything but SCRIPT KILL (for a function
FUNCTION KILL), so it cannot be asked whose script it is. But it answers everything: what remains
without an answer on a connection where a script was sent is that script. So this process ends the
script only if such a connection of its own has had no answer. The script of a session that has
left runs on, and counts until Redis answers as usual.

Owns since when Redis is busy, which of this process's connections have had no answer since then,
and when the script is ended. `health` and `control` notice that Redis is busy; `script_rights` then
refuses the tenant's scripts for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.application import service
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages, probes
from ..ops.bugs import bug
from ..ops.log_once import LogOnce
from ..ops.logs import Log
from ..printable import shown_error
from ..tenants.model import Tenant
from .client import ControlError, ReplyError, Word
from .redis_errors import first_word, is_busy

#: In Redis's error for a script that was ended, by SCRIPT KILL or by FUNCTION KILL.
_KILLED = b"Script killed by user"


class Control(Protocol):
    """The control connection."""

    async def ask_unprobed(self, *words: Word) -> object:
        """Asks Redis even if it is not known yet what Redis is. Raises ControlError."""


class ScriptRunner(Protocol):
    """A connection to Redis over which a script was sent."""

    tenant: Tenant | None

    @property
    def bytes_received(self) -> int:
        """Bytes that Redis has sent so far."""

    @property
    def held(self) -> bool:
        """Whether reading is paused, as when its client does not read. Then what is received later
        may have been there before.
        """

    @property
    def awaits_script(self) -> bool:
        """Whether Redis may be running a script of it."""

    def spy(self, seen: Callable[[bytes], bool]) -> None:
        """Calls `seen` with what Redis sends, before it is dealt out, while it returns True."""


@dataclass(slots=True)
class _Waiting:
    """A script that may be running.

    since: when Redis was already busy with it, in the clock's seconds; seen: when it was first
    seen; received: bytes that its connection had received by the latest look; held: whether it was
    not read then; kept: whether Redis has refused to end it.
    """

    tenant: Tenant
    since: float
    seen: float
    received: int = 0
    held: bool = False
    kept: bool = False


class ScriptWatch(service.Service):
    """Ends scripts that run for too long.

    seconds: how long a script may run; 0: no script is ended. runners: returns the connections over
    which this process has sent scripts, and that have no answer. killed: called with each tenant
    whose script was ended, returns for how many seconds its scripts are refused.
    """

    name = "scripts"
    _log = Log()

    def __init__(
        self,
        clock: IReactorTime,
        control: Control,
        seconds: float,
        runners: Callable[[], Iterable[ScriptRunner]],
        killed: Callable[[Tenant], float],
    ) -> None:
        self._clock = clock
        self._control = control
        self._seconds = seconds
        self._runners = runners
        self._killed = killed
        # Redis's latest error, while it is busy; else empty.
        self._error = ""
        self._waiting: dict[ScriptRunner, _Waiting] = {}
        # Scripts of connections that have ended since Redis last answered as usual.
        self._orphans: dict[Tenant, _Waiting] = {}
        self._timer: IDelayedCall | None = None
        self._ending: defer.Deferred[None] | None = None
        # Until when the scripts of tenants are refused. One that Redis has got before is ended at
        # once.
        self._refused_until: dict[Tenant, float] = {}
        self._lines = LogOnce(clock)
        #: why the script cannot be ended; None: nothing is known. `health` logs it.
        self.fault: messages.Text | None = None

    def stopService(self) -> None:
        super().stopService()
        self._stop_timer()
        if self._ending is not None:
            self._ending.cancel()

    def script_left(self, tenant: Tenant) -> None:
        """A connection has ended on which a script may be running. Redis runs it to its end."""
        now = self._clock.seconds()
        self._orphans.setdefault(tenant, _Waiting(tenant, now, now))

    def answers(self, asked: float) -> None:
        """Redis is not busy. asked: when it was asked, in the clock's seconds."""
        self._orphans = {tenant: one for tenant, one in self._orphans.items() if one.seen >= asked}
        if self._error:
            self._error = ""
            self._waiting.clear()
            self._stop_timer()
            self.fault = None
            now = self._clock.seconds()
            self._refused_until = {tenant: end for tenant, end in self._refused_until.items() if end > now}

    def busy(self, error: str, asked: float) -> None:
        """Redis is busy with a script. error: its error; asked: when it was asked.

        It was busy with this script at that moment already, or it would have answered then.
        """
        if not self._seconds or not self.running:
            return
        now = self._clock.seconds()
        if not self._error:
            for one in self._orphans.values():
                one.since, one.seen = max(one.since, asked), now
        self._error = error
        waiting: dict[ScriptRunner, _Waiting] = {}
        for runner in self._runners():
            if runner.tenant is None:
                continue
            former = self._waiting.get(runner)
            received = runner.bytes_received
            if former is None or (former.received != received and not former.held):
                former = _Waiting(runner.tenant, asked, now)
            former.received, former.held = received, runner.held
            waiting[runner] = former
        self._waiting = waiting
        self._next()

    def _due(self, one: _Waiting) -> float:
        # What Redis answered before may not have been read yet when this was first seen.
        at_once = one.seen < self._refused_until.get(one.tenant, 0.0)
        return max(one.since + (0.0 if at_once else self._seconds), one.seen + bounds.SCRIPT_GRACE_SECONDS)

    def _all(self) -> Iterable[_Waiting]:
        return (one for one in (*self._waiting.values(), *self._orphans.values()) if not one.kept)

    def _next(self) -> None:
        """Ends the script now, or looks again when it is time to."""
        self._stop_timer()
        if self._ending is not None:
            return
        due = min((self._due(one) for one in self._all()), default=None)
        if due is None:
            return
        wait = due - self._clock.seconds()
        if wait > 0:
            self._timer = self._clock.callLater(wait, self._look)
        else:
            self._begin(self._end())

    def _look(self) -> None:
        self._timer = None
        self._begin(self._ask())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._ending = ending = defer.Deferred.fromCoroutine(work)
        ending.addErrback(bug(self._log, "ending a script", defer.CancelledError))
        ending.addBoth(self._ended, ending)

    def _ended(self, _: object, ending: defer.Deferred[None]) -> None:
        self._ending = None

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    async def _ask(self) -> None:
        """Asks whether Redis is still busy. If so, the script may be ended."""
        asked = self._clock.seconds()
        try:
            await self._control.ask_unprobed("PING")
        except ReplyError as error:
            if is_busy(str(error)):
                # `busy` goes on when this work is over.
                self._timer = self._clock.callLater(0, self._still_busy, str(error), asked)
            return
        except ControlError:
            return  # `control` connects again, and notices
        self.answers(asked)

    def _still_busy(self, error: str, asked: float) -> None:
        self._timer = None
        self.busy(error, asked)

    async def _end(self) -> None:
        """Ends the script that Redis runs."""
        now = self._clock.seconds()
        late = [one for one in self._all() if self._due(one) <= now]
        tenants = {one.tenant for one in late}
        errors = _Errors()
        for runner, one in self._waiting.items():
            if one in late:
                runner.spy(errors.among_replies_to(one.tenant))
        kind = "FUNCTION" if "FUNCTION KILL" in self._error else "SCRIPT"
        try:
            await self._control.ask_unprobed(kind, "KILL")
            # The script's own connection gets its error at about the same time.
            await defer.Deferred.fromCoroutine(_pass(self._clock, bounds.SCRIPT_GRACE_SECONDS))
        except ReplyError as error:
            self._refused(str(error), late)
            return
        except ControlError:
            return  # as in `_ask`
        finally:
            errors.awaited = False
        self._was_ended(errors.tenants, tenants)

    def _was_ended(self, killed: Collection[Tenant], tenants: Collection[Tenant]) -> None:
        """A script was ended. killed: the tenants that got Redis's error for that; tenants: those
        whose it may have been.
        """
        for one in tenants:
            self._orphans.pop(one, None)
        self._waiting.clear()
        known = killed or (tenants if len(tenants) == 1 else ())
        if not known:
            probes.reached("it is not known whose script was ended")
            self._write(messages.SCRIPT_ENDED_OF, namespaces=_names(tenants), seconds=self._seconds)
        for tenant in known:
            pause = self._killed(tenant)
            self._refused_until[tenant] = self._clock.seconds() + pause
            self._write(messages.SCRIPT_ENDED, namespace=tenant.namespace, seconds=self._seconds, pause=pause)

    def _write(self, line: messages.LogLine, **fields: object) -> None:
        if self._lines.due(line.text.format(**fields)):
            self._log.write(line, **fields)

    def _refused(self, error: str, late: Collection[_Waiting]) -> None:
        """Redis refused to end the script."""
        word = first_word(error)
        if word == "NOTBUSY":
            return self.answers(self._clock.seconds())
        if is_busy(error):
            return None  # it is a function, and not a script, or the other way round: tries again
        for one in late:
            one.kept = True
        names = _names({one.tenant for one in late})
        if word == "UNKILLABLE":
            self.fault = messages.SCRIPT_UNKILLABLE(namespaces=names)
        else:
            self.fault = messages.SCRIPT_KILL_REFUSED(namespaces=names, error=messages.redis_error(shown_error(error)))
        return None


class _Errors:
    """Finds Redis's error for a script that was ended. It may stand behind large replies."""

    def __init__(self) -> None:
        #: whether it can still come
        self.awaited = True
        #: who got it
        self.tenants: set[Tenant] = set()

    def among_replies_to(self, tenant: Tenant) -> Callable[[bytes], bool]:
        """Returns a function for `ScriptRunner.spy`."""
        tail = b""

        def seen(data: bytes) -> bool:
            nonlocal tail
            data = tail + data
            tail = data[1 - len(_KILLED) :]
            if self.awaited and _KILLED in data:
                self.tenants.add(tenant)
                return False
            return self.awaited

        return seen


async def _pass(clock: IReactorTime, seconds: float) -> None:
    passed: defer.Deferred[None] = defer.Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, passed.callback, None)
    await passed


def _names(tenants: Collection[Tenant]) -> str:
    names = sorted(tenant.namespace for tenant in tenants)
    more = len(names) - bounds.SCRIPT_SUSPECTS
    return ", ".join(names[: bounds.SCRIPT_SUSPECTS]) + (f" and {more} more" if more > 0 else "")
