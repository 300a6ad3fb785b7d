"""Looks at files again and again, so that what changes takes effect soon.

Owns when it is looked, what tells one version of a file from another, and when a change is
complete. Whoever looks knows what the files hold. The kernel's notifications (inotify) are not
used: they do not tell of what changes on the other side of a network file system or of a
container's mount, and a look at some files costs next to nothing.
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
#: Tells one version of a file, or of several, from another.
Stamp = tuple[object, ...]


def stamp(path: Path) -> Stamp:
    """Differs from what it was when the file was written or replaced, be it by another target of a
    link. Blocks.

    A file that cannot be inspected has a stamp as well: the reason.
    """
    try:
        found = path.stat()
    except OSError as error:
        return ("unreadable", error.errno)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Settled:
    """Whether a change is complete: two looks in a row found the same. A file that is being written
    is left alone.

    stamp: what was found before the first look.
    """

    __slots__ = ("_before",)

    def __init__(self, stamp: object = None) -> None:
        self._before = stamp

    def look(self, stamp: object) -> bool:
        """Whether the look before found the same as this one."""
        before, self._before = self._before, stamp
        return stamp == before


class FileWatch(Generic[Found]):
    """Inspects files in a thread, one look at a time.

    look: blocks, called in the thread with the clock's seconds and whether `look_now` asked for
    this look; found: called in the reactor with what `look` returned, unless the watch was stopped
    meanwhile; failed: an errback, for bugs in these two; interval: seconds between two looks;
    in_thread: calls a blocking function and returns a Deferred; time_fraction: the part of the time
    that looks may take at most, however long one takes.
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
        #: until the next look; None: a look is under way, or the watch is stopped
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """The first look is after one interval: whoever starts has read the files."""
        self._running = True
        self._next = self._clock.callLater(self._interval, self._look)

    def stop(self) -> None:
        """`found` is not called any more."""
        self._running = False
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def look_now(self) -> None:
        """Looks at once, or as soon as the look under way is over."""
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
