"""Connections to Redis that are opened before anybody needs them, and kept (``BASE_WORKERS``).

Owns when one is opened: one after the other. After failures in a row, the delay grows. `pool`
decides how many there are, and what they are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..ops.bugs import bug
from ..ops.retry import Backoff, Retry
from .connection import RedisConnection, UpstreamError

#: The delay before the next attempt, after attempts that failed.
BACKOFF = Backoff(0.75, 10.0, factor=1.5, spread=1.0)
#: The same while work waits for Redis. It is short: clients notice the delay.
HURRIED = Backoff(0.1, 0.5, factor=1.5, spread=0.1)


class Base:
    """Opens the base connections.

    missing: whether one more has to be opened; open_new: opens one, or raises UpstreamError;
    opened: called with it; hurried: whether work waits for Redis.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        missing: Callable[[], bool],
        open_new: Callable[[], Coroutine[defer.Deferred[object], object, RedisConnection]],
        opened: Callable[[RedisConnection], None],
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self._missing = missing
        self._open_new = open_new
        self._give = opened
        self._is_hurried = hurried
        self._running = False
        #: whether one is being opened
        self._opening = False
        self._retry = Retry(clock, BACKOFF, self.replenish)
        self._hurried = Retry(clock, HURRIED, self.replenish)

    def start(self) -> None:
        """Opens missing connections, from now on."""
        self._running = True
        self.replenish()

    def stop(self) -> None:
        """Opens no more connections."""
        self._running = False
        self._cancel()

    def replenish(self) -> None:
        """Opens missing connections, unless an attempt is scheduled for later."""
        scheduled = self._retry.due is not None or self._hurried.due is not None
        if not self._running or self._opening or scheduled or not self._missing():
            return
        self._opening = True
        opened = defer.Deferred.fromCoroutine(self._open_new())
        opened.addCallbacks(self._opened, self._failed)
        opened.addErrback(bug(self._log, "opening an upstream connection"))

    def _opened(self, upstream: RedisConnection) -> None:
        self._opening = False
        self._give(upstream)
        self.replenish()

    def _failed(self, failure: Failure) -> None:
        self._opening = False
        failure.trap(UpstreamError)
        self.replenish_later()

    def replenish_later(self) -> None:
        """Opens missing connections after a delay. To open them at once would be a storm."""
        if self._running:
            (self._hurried if self._is_hurried() else self._retry).failed()

    def hurry(self) -> None:
        """Work waits for Redis: does not wait for long until the next attempt."""
        if self._retry.due is not None:
            self._retry.cancel()
            self._hurried.failed()

    def _cancel(self) -> None:
        self._retry.cancel()
        self._hurried.cancel()

    def not_opened(self) -> None:
        """A connection could not be opened, for any caller. Tries again, because perhaps nobody
        else does.
        """
        if not self._opening:  # else its own attempt is under way, and ends soon
            self.replenish_later()

    def retry_now(self) -> None:
        """Redis is there: tries now what was scheduled for later."""
        self._cancel()
        self.replenish()

    def reached(self) -> None:
        """Redis answers: the next failure counts as the first in a row."""
        self._retry.succeeded()
        self._hurried.succeeded()

    def forget_failures(self) -> None:
        """Redis is at another address: forgets failures, and the scheduled attempt."""
        self._cancel()
        self.reached()
