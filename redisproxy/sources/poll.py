"""Looks at a directory of manifests every moment, so that what changes takes effect at once, not
only at the next refresh.

Owns what of a look is a change. The looks themselves are `ops.file_watch`'s.
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

#: Seconds between two looks. A change is one that two of them find alike: a file that is being
#: written is left alone.
INTERVAL = 0.2
#: A look takes this part of the time at most, however many files there are.
TIME_FRACTION = 0.05


class Polled(Protocol):
    """What is polled."""

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
        self._source = source
        self._changed = changed
        failed = bug(self._log, "the look at {source}", source=str(source))
        self._watch = FileWatch(clock, lambda *_: source.stamp(), self._compare, failed, INTERVAL, in_thread, TIME_FRACTION)
        self._settled = Settled()
        self._reported_stamp: object = None
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
        self._watch.start()

    def stopService(self) -> None:
        super().stopService()
        self._watch.stop()

    def _compare(self, stamp: object) -> None:
        settled = self._settled.look(stamp)
        # Until it was read once somebody else sees to that.
        if settled and stamp != self._reported_stamp and self._source.stamp_read not in (None, stamp):
            self._reported_stamp = stamp
            self.events += 1
            self._changed()
