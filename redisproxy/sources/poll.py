"""Checks a directory of manifests every 0.2 s, so that a change takes effect before the next
refresh.

Owns which difference between two checks is a change. The checks are made by `ops.file_watch`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.application import service
from twisted.internet import defer, threads
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..ops.bugs import bug
from ..ops.file_watch import FileWatch, Settled
from ..ops.stats import WatchState

#: Seconds between two checks. A change counts when two checks in a row find the same state, so a
#: file that is being written is left alone.
INTERVAL = 0.2
#: The checks take at most this part of the time, however many files there are.
TIME_FRACTION = 0.05


class Polled(Protocol):
    """A source that can be polled."""

    @property
    def stamp_read(self) -> object:
        """The `stamp` at the last read; None before the first."""

    def stamp(self) -> object:
        """Returns a value that changes whenever `read` may return something else. Blocks."""


class PollService(service.Service):
    """Calls `changed` when `source` differs from what was last read.

    in_thread: calls a blocking function in a thread and returns a Deferred.
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
        self._source = source
        self._changed = changed
        failed = bug(self._log, "the check of {source} for changes", source=str(source))
        self._watch = FileWatch(clock, lambda *_: source.stamp(), self._compare, failed, INTERVAL, in_thread, TIME_FRACTION)
        self._settled = Settled()
        self._reported_stamp: object = None
        #: number of changes since the start
        self.events = 0

    @property
    def watching(self) -> bool:
        """Whether changes take effect at once."""
        return bool(self.running)

    def state(self) -> WatchState:
        """The state of the watch, for metrics."""
        return {"watching": self.watching, "events": self.events, "reconnects": 0, "quiet": None}

    def startService(self) -> None:
        super().startService()
        self._watch.start()

    def stopService(self) -> None:
        super().stopService()
        self._watch.stop()

    def _compare(self, stamp: object) -> None:
        settled = self._settled.look(stamp)
        # Before the first read there is nothing to compare with. ReloadService makes that read by
        # itself.
        if settled and stamp != self._reported_stamp and self._source.stamp_read not in (None, stamp):
            self._reported_stamp = stamp
            self.events += 1
            self._changed()
