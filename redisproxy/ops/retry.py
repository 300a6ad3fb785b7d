"""Decides when something that failed is tried again.

Owns the delays and the timer. Must not know what is tried, or what a failure is. Three rules apply
everywhere in the proxy. A delay grows with each failure in a row, up to a bound. Random parts
spread the attempts of those that failed together. At most one attempt is scheduled at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from twisted.application.internet import backoffPolicy
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after a number of failures in a row.

    first: seconds after the first failure.
    longest: the most seconds, before `spread` is added.
    factor: each delay is so many times as long as the one before.
    spread: up to so many seconds are added at random, even beyond `longest`. So many connections
        that broke together do not return at one moment.
    shorten: up to this part of a delay is taken off at random, so that replicas of the proxy do not
        all ask at once.
    chance: returns a number from 0 to 1; called only if `spread` or `shorten` is set.
    """

    first: float
    longest: float
    factor: float = 2.0
    spread: float = 0.0
    shorten: float = 0.0
    chance: Callable[[], float] = random.random

    def delay(self, failures: int) -> float:
        """Returns the seconds until the next attempt. failures: in a row, at least 1.

        The method fits `ClientService.retryPolicy`.
        """
        seconds = backoffPolicy(self.first, self.longest, self.factor, self._added)(failures - 1)
        return seconds * (1 - self.shorten * self.chance()) if self.shorten else seconds

    def _added(self) -> float:
        return self.spread * self.chance() if self.spread else 0.0


class Retry:
    """Tries one thing again after a failure. call, arguments: the attempt."""

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
        """When the next attempt is, in the clock's seconds; None if none is scheduled."""
        return None if self._timer is None else self._timer.getTime()

    def failed(self, at_least: float = 0.0) -> float:
        """Schedules the next attempt. Returns the seconds until then.

        If an attempt is already scheduled, nothing changes, because both failures have one cause.

        at_least: the least number of seconds to wait.
        """
        if self._timer is not None:
            return self._timer.getTime() - self._clock.seconds()
        self.failures += 1
        delay = max(at_least, self._backoff.delay(self.failures))
        self._timer = self._clock.callLater(delay, self._try)
        return delay

    def succeeded(self) -> None:
        """Makes the next failure the first in a row. A scheduled attempt stays scheduled."""
        self.failures = 0

    def cancel(self) -> None:
        """Cancels the scheduled attempt. The failures still count."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _try(self) -> None:
        self._timer = None
        self._call(*self._arguments)
