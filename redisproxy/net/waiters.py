"""Many that wait for one thing.

Owns the waiting Deferreds. Whoever hears the result may give up others that wait for it: a session
that closes, say. These are left out, and nobody else is.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet import defer
from twisted.python.failure import Failure

Result = TypeVar("Result")


class Waiters(Generic[Result]):
    """Deferreds that fire together."""

    def __init__(self) -> None:
        # A dict for its order, and so that one that is cancelled need not be searched for.
        self._waiting: dict[defer.Deferred[Result], None] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wait(self) -> defer.Deferred[Result]:
        """Fires with the next result. The caller may cancel it."""
        waiter: defer.Deferred[Result] = defer.Deferred(lambda cancelled: self._waiting.pop(cancelled, None))
        self._waiting[waiter] = None
        return waiter

    def fire(self, result: Result | Failure) -> None:
        """Gives the result to all that wait now, who came first first. Whoever waits again
        meanwhile waits for the next.
        """
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(result)  # a Failure has the errbacks called
