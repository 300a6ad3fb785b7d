"""Lets a thread work beside the reactor without delaying it.

Owns when such a thread rests, and the thread that reads a source. While it runs Python code, the
reactor waits after each of its system calls, for up to `sys.getswitchinterval` seconds. If the
thread works in short pieces with rests between them, clients do not notice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from twisted.internet import defer
from twisted.python.failure import Failure

#: Seconds of work between two rests. With less, most of a rest would be the timer's inaccuracy.
PIECE = 0.0005
#: The part of the time in which the thread works.
CPU_FRACTION = 0.2


Result = TypeVar("Result")


def in_daemon_thread(
    in_reactor: Callable[..., object], call: Callable[..., Result], *arguments: object
) -> defer.Deferred[Result]:
    """Makes a blocking call in a thread of its own. The result is that of the call.

    in_reactor: calls a function in the reactor.

    As `threads.deferToThread`, but the end of the process does not wait for the call: a request may
    be under way that is never answered.
    """
    done: defer.Deferred[Result] = defer.Deferred()

    def run() -> None:
        try:
            result: Result | Failure = call(*arguments)
        except BaseException:
            result = Failure()
        in_reactor(done.callback, result)

    threading.Thread(target=run, name="reading", daemon=True).start()
    return done


class Throttle:
    """The rests of one thread.

    worked: returns how many seconds the calling thread has worked.
    sleep: sleeps for a number of seconds, but no longer than until `stop`.
    """

    def __init__(
        self, worked: Callable[[], float] = time.thread_time, sleep: Callable[[float], object] | None = None
    ) -> None:
        self._stopped = threading.Event()
        self._worked = worked
        self._sleep = sleep or self._stopped.wait
        self._since = 0.0

    def start(self) -> None:
        """Begins to measure. Called in the thread when it begins its work."""
        self._since = self._worked()

    def yield_cpu(self) -> None:
        """Sleeps if the thread has worked for PIECE seconds. Called in the thread."""
        worked = self._worked() - self._since
        if worked >= PIECE:
            self._sleep(worked * (1 / CPU_FRACTION - 1))
            self._since = self._worked()

    def stop(self) -> None:
        """Ends the current rest and all later ones: no client is served any more."""
        self._stopped.set()


class Unpaced(Throttle):
    """A Throttle without rests, for a process that serves nobody."""

    def yield_cpu(self) -> None:
        """Does nothing."""
