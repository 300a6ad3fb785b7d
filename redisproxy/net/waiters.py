"""Lets many callers wait for one result.

Owns the waiting Deferreds. A caller that gets the result may cancel other waiters: a session that
closes does so, for example. Only the cancelled waiters get no result.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .. import bounds, probes

Result = TypeVar("Result")


class Waiters(Generic[Result]):
    """Deferreds that fire together."""

    def __init__(self) -> None:
        # A dict keeps the order, and removes a cancelled Deferred without a search.
        self._waiting: dict[defer.Deferred[Result], None] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wait(self) -> defer.Deferred[Result]:
        """Returns a Deferred that fires with the next result. The caller may cancel it."""
        waiter: defer.Deferred[Result] = defer.Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiter] = None
        return waiter

    def fire_first(self, result: Result) -> None:
        """Gives the result to the one that has waited longest, if any waits."""
        if self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            waiter.callback(result)

    def fire(self, result: Result | Failure) -> None:
        """Gives the result to all that wait now, in the order of their calls. A waiter that calls
        `wait` again meanwhile gets the next result.
        """
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(result)  # a Failure calls the errbacks

    def fire_in_turns(self, result: Result | Failure, clock: IReactorTime) -> None:
        """As `fire`, for waiters that may be thousands, each of which goes on with work of its own:
        RESUMED_PER_TURN now, and as many in each later turn of the reactor.
        """
        waiting, self._waiting = self._waiting, {}
        self._fire_some(waiting, result, clock)

    def _fire_some(self, waiting: dict[defer.Deferred[Result], None], result: Result | Failure, clock: IReactorTime) -> None:
        for waiter in list(waiting)[: bounds.RESUMED_PER_TURN]:
            del waiting[waiter]
            if not waiter.called:
                waiter.callback(result)  # a Failure calls the errbacks
        if waiting:
            probes.reached("many that waited go on in several turns")
            clock.callLater(0, self._fire_some, waiting, result, clock)
