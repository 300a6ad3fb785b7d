"""Two kinds of time limits: one length for many peers, and one for a single piece of work.

Owns the timers. `TimeLimit` needs one timer for all peers, because the limit is equally long for
each: the timer is for the peer that is due first. A timer for each would be made and cancelled for
every client that logs in. `within` limits work that waits for a peer, and does not count the
reactor's own delays against the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

Who = TypeVar("Who")
Result = TypeVar("Result")

#: Seconds that a timer may be late before the reactor counts as busy.
LATE = 0.1
#: In `within`, the reactor's own delays may add at most so many times the limit.
PATIENCE = 4


def within(work: defer.Deferred[Result], seconds: float, clock: IReactorTime) -> defer.Deferred[Result]:
    """Cancels the work after its time limit. The work then fails with TimeoutError, as with
    `Deferred.addTimeout`.

    If the reactor calls the timer late, it was busy, and it has not yet read what the peer sent
    meanwhile. So the delay of the reactor is added to the limit and does not count against the
    peer.
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
    """One time limit for many. seconds: its length; passed: called for each whose time is over."""

    def __init__(self, clock: IReactorTime, seconds: float, passed: Callable[[Who], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._passed = passed
        #: when each is due, in the clock's seconds, the earliest first
        self._until: dict[Who, float] = {}
        self._timer: IDelayedCall | None = None

    def begin(self, who: Who) -> None:
        """Starts the time of one, or starts it again."""
        self._until.pop(who, None)
        self._until[who] = self._clock.seconds() + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._due)

    def end(self, who: Who) -> None:
        """Removes the limit of one, if it had one."""
        self._until.pop(who, None)

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
        """Removes all limits and cancels the timer."""
        self._until.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
