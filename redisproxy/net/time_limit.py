"""One time limit for many: of the same length for each, so that one timer, for the one that is due
first, does for all.

A timer for each would be made and cancelled for every client that logs in.

And a time limit for work on behalf of a peer (`within`), which the reactor's own delays do not
count against.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

Who = TypeVar("Who")
Result = TypeVar("Result")

#: Seconds by which a timer may be late without a reason to think that the reactor was busy.
LATE = 0.1
#: How many times the limit the reactor's own delays may add to it, in `within`.
PATIENCE = 4


def within(work: defer.Deferred[Result], seconds: float, clock: IReactorTime) -> defer.Deferred[Result]:
    """Cancels the work after its time limit; it then fails with TimeoutError, as with
    `Deferred.addTimeout`.

    If the reactor calls the timer late, it was busy with something else, and what the peer sent
    meanwhile is not read yet. So a delay of the reactor is added to the limit: it does not count
    against the peer.
    """
    began = clock.seconds()
    due = began + seconds
    expired = False
    timer: IDelayedCall

    def check() -> None:
        nonlocal due, expired, timer
        now = clock.seconds()
        late = now - due
        if late > LATE and due - began < seconds * (1 + PATIENCE):
            due = now + late
            timer = clock.callLater(late, check)
        else:
            expired = True
            work.cancel()

    def ended(result: Result | Failure) -> Result | Failure:
        if timer.active():
            timer.cancel()
        if expired and isinstance(result, Failure) and result.check(defer.CancelledError):
            return Failure(defer.TimeoutError(seconds))
        return result

    timer = clock.callLater(seconds, check)
    return work.addBoth(ended)


class TimeLimit(Generic[Who]):
    """seconds: how long it is; passed: called for each that was not ended within it."""

    def __init__(self, clock: IReactorTime, seconds: float, passed: Callable[[Who], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._passed = passed
        #: until when, the earliest first
        self._until: dict[Who, float] = {}
        self._timer: IDelayedCall | None = None

    def begin(self, who: Who) -> None:
        """Its time begins now, also if it had begun before."""
        self._until.pop(who, None)
        self._until[who] = self._clock.seconds() + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._due)

    def end(self, who: Who) -> None:
        """There is no limit for it any more, if there was one."""
        self._until.pop(who, None)

    def pop_overdue(self, seconds: float, most: int) -> list[Who]:
        """Those that have had so many seconds of it, the longest first, and so many at most: it
        ends for them.
        """
        begun = self._clock.seconds() - seconds + self._seconds
        found = [who for who, until in itertools.islice(self._until.items(), most) if until <= begun]
        for who in found:
            del self._until[who]
        return found

    def _due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._until:
            who, until = next(iter(self._until.items()))
            if until > now:
                break
            del self._until[who]
            self._passed(who)
        if self._until and self._timer is None:
            self._timer = self._clock.callLater(until - now, self._due)

    def stop(self) -> None:
        """There is none for anybody."""
        self._until.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
