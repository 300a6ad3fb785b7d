"""Checks files repeatedly, so that a change takes effect soon.

Owns when files are checked, how two versions of a file are told apart, and when a change is
complete. Must not know what the files are for. The kernel's notifications (inotify) are not used:
they do not report changes on the other side of a network file system or of a container's mount.
Checking a few files costs almost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

Found = TypeVar("Found")
#: Differs between two versions of a file, or of several files.
Stamp = tuple[object, ...]


def stamp(path: Path) -> Stamp:
    """Returns a stamp that changes when the file, or a link to it, is written or replaced. Blocks.

    If the file cannot be inspected, the stamp is the reason.
    """
    try:
        found = path.stat()
    except OSError as error:
        return ("unreadable", error.errno)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Settled:
    """Detects when a change is complete: two checks in a row found the same state.

    So a file that is being written is left alone. stamp: the state before the first check.
    """

    __slots__ = ("_before",)

    def __init__(self, stamp: object = None) -> None:
        self._before = stamp

    def look(self, stamp: object) -> bool:
        """Whether the previous check found the same state as this one."""
        before, self._before = self._before, stamp
        return stamp == before


class FileWatch(Generic[Found]):
    """Checks files in a thread, one check at a time.

    look: blocks; called in the thread with the clock's seconds and whether `look_now` asked for
        this check.
    found: called in the reactor with what `look` returned, unless the watch was stopped meanwhile.
    failed: an errback for bugs in these two.
    interval: seconds between two checks.
    in_thread: calls a blocking function in a thread and returns a Deferred.
    time_fraction: the part of the time that checks take at most, however long one takes.
    """

    def __init__(
        self,
        clock: IReactorTime,
        look: Callable[[float, bool], Found],
        found: Callable[[Found], object],
        failed: Callable[[Failure], object],
        interval: float,
        in_thread: Callable[[Callable[[], Found]], defer.Deferred[Found]],
        time_fraction: float = 1.0,
    ) -> None:
        self._clock = clock
        self._look_at = look
        self._found = found
        self._failed = failed
        self._interval = interval
        self._in_thread = in_thread
        self._time_fraction = time_fraction
        self._running = False
        self._asked = False
        #: the timer of the next check; None while a check is under way or the watch is stopped
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """Starts. The first check is after one interval, because the caller has just read the
        files.
        """
        self._running = True
        self._next = self._clock.callLater(self._interval, self._look)

    def stop(self) -> None:
        """Stops. `found` is not called any more."""
        self._running = False
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def look_now(self) -> None:
        """Checks at once, or as soon as the check under way is done."""
        self._asked = True
        if self._next is not None:
            self._next.cancel()
            self._look()

    def _look(self) -> None:
        self._next = None
        asked, self._asked = self._asked, False
        began = self._clock.seconds()
        looking = self._in_thread(partial(self._look_at, began, asked))
        looking.addCallback(self._on_found)
        looking.addErrback(self._failed)
        looking.addBoth(self._again, began)

    def _on_found(self, found: Found) -> None:
        if self._running:
            self._found(found)

    def _again(self, _: object, began: float) -> None:
        if self._running and self._next is None:
            took = self._clock.seconds() - began
            pause = 0.0 if self._asked else max(self._interval, took * (1 / self._time_fraction - 1))
            self._next = self._clock.callLater(pause, self._look)
