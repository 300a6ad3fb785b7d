"""When something that failed is tried again.

Owns the delays and the timer. It does not know what is tried, nor what a failure is. Three rules
apply everywhere in the proxy: a delay grows with each failure in a row, up to a bound; chance
spreads the attempts of those that failed together; and at most one attempt is scheduled at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from twisted.application.internet import backoffPolicy
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after so many failures in a row.

    first, longest: seconds after the first failure, and at most; factor: by which each delay is
    longer than the one before. spread: up to so many seconds are added by chance, past `longest`
    too: many connections that broke together do not return in one moment. shorten: up to this part
    of a delay is taken off by chance: replicas of the proxy do not all ask at once. chance: returns
    a number from 0 to 1. It is called only where there is a spread or a part to take off.
    """

    first: float
    longest: float
    factor: float = 2.0
    spread: float = 0.0
    shorten: float = 0.0
    chance: Callable[[], float] = random.random

    def delay(self, failures: int) -> float:
        """Seconds until the next attempt, after so many failures in a row: at least 1. Fits
        `ClientService.retryPolicy`.
        """
        seconds = backoffPolicy(self.first, self.longest, self.factor, self._added)(failures - 1)
        return seconds * (1 - self.shorten * self.chance()) if self.shorten else seconds

    def _added(self) -> float:
        return self.spread * self.chance() if self.spread else 0.0


class Retry:
    """Tries one thing again after it failed. call, arguments: the attempt."""

    __slots__ = ("_arguments", "_backoff", "_call", "_clock", "_timer", "failures")

    def __init__(self, clock: IReactorTime, backoff: Backoff, call: Callable[..., object], *arguments: object) -> None:
        self._clock = clock
        self._backoff = backoff
        self._call = call
        self._arguments = arguments
        self._timer: IDelayedCall | None = None
        #: failures in a row
        self.failures = 0

    @property
    def due(self) -> float | None:
        """When the next attempt is, in the clock's seconds; None: none is scheduled."""
        return None if self._timer is None else self._timer.getTime()

    def failed(self, at_least: float = 0.0) -> float:
        """Schedules the next attempt: seconds until then. at_least: seconds to wait in any case.

        If an attempt is scheduled already, nothing changes: both failures have one cause.
        """
        if self._timer is not None:
            return self._timer.getTime() - self._clock.seconds()
        self.failures += 1
        delay = max(at_least, self._backoff.delay(self.failures))
        self._timer = self._clock.callLater(delay, self._try)
        return delay

    def succeeded(self) -> None:
        """The next failure is the first in a row. What is scheduled stays so."""
        self.failures = 0

    def cancel(self) -> None:
        """Nothing is scheduled any more. Failures still count."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _try(self) -> None:
        self._timer = None
        self._call(*self._arguments)
