"""Looks at a directory of manifests every moment, so that what changes takes effect at once, not only at the next refresh.

Owns when it is looked, and when a change is complete. Not the kernel's notifications (inotify): they do not tell of what
changes on the other side of a network file system or of a container's mount, and a look at some files costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.application import service
from twisted.internet import defer, threads
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..ops.stats import WatchState

#: Seconds between two looks. A change is one that two of them find alike: a file that is being written is left alone.
INTERVAL = 0.2
#: A look takes this part of the time at most, however many files there are.
SHARE = 0.05


class Polled(Protocol):
    """What is looked at."""

    @property
    def stamp_read(self) -> object:
        """What `stamp` was when it was last read, None before."""

    def stamp(self) -> object:
        """Differs from what it was whenever `read` may give something else. Blocks."""


class PollService(service.Service):
    """Calls `changed` when `source` is another than the one that was read.

    in_thread: calls a blocking function and returns a Deferred.
    """

    name = "watch"
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        source: Polled,
        changed: Callable[[], object],
        in_thread: Callable[[Callable[[], object]], defer.Deferred[object]] = threads.deferToThread,
    ) -> None:
        self._clock = clock
        self._source = source
        self._changed = changed
        self._in_thread = in_thread
        self._next: IDelayedCall | None = None
        self._before: object = None
        self._told: object = None
        #: how many changes there were
        self.events = 0

    @property
    def watching(self) -> bool:
        """Whether a change takes effect at once."""
        return bool(self.running)

    def state(self) -> WatchState:
        """For metrics."""
        return {"watching": self.watching, "events": self.events, "reconnects": 0, "quiet": None}

    def startService(self) -> None:
        super().startService()
        self._next = self._clock.callLater(INTERVAL, self._look)

    def stopService(self) -> None:
        super().stopService()
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _look(self) -> None:
        began = self._clock.seconds()
        looking = self._in_thread(self._source.stamp)
        looking.addCallback(self._compare)
        looking.addErrback(
            lambda failure: self._log.failure("a bug in the look at {source}", failure, source=str(self._source))
        )
        looking.addBoth(lambda _: self._again(self._clock.seconds() - began))

    def _again(self, took: float) -> None:
        if self.running:
            self._next = self._clock.callLater(max(INTERVAL, took * (1 / SHARE - 1)), self._look)

    def _compare(self, stamp: object) -> None:
        before, self._before = self._before, stamp
        # Until it was read once somebody else sees to that.
        if self.running and stamp == before and stamp != self._told and self._source.stamp_read not in (None, stamp):
            self._told = stamp
            self.events += 1
            self._changed()
