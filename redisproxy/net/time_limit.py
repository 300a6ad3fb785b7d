"""One time limit for many: of the same length for each, so that one timer, for the one that is due first, does for all.

A timer for each would be made and cancelled for every client that logs in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

Who = TypeVar("Who")


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

    def take(self, seconds: float, most: int) -> list[Who]:
        """Those that have had so many seconds of it, the longest first, and so many at most: it ends for them."""
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
