"""How a thread works beside the reactor without being felt.

Owns when such a thread rests. While it runs Python, the reactor does not: it has to wait after each
of its system calls, for up to `sys.getswitchinterval`. Work in small pieces with rests between is
not felt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds of work to a piece. Less, and the timer's own inaccuracy would be most of the rest.
PIECE = 0.0005
#: Which part of the time is for work.
CPU_FRACTION = 0.2


class Throttle:
    """The rests of one thread.

    worked: how long the calling thread has worked, in seconds; sleep: what rests, until `stop` at
    the latest.
    """

    def __init__(
        self, worked: Callable[[], float] = time.thread_time, sleep: Callable[[float], object] | None = None
    ) -> None:
        self._stopped = threading.Event()
        self._worked = worked
        self._sleep = sleep or self._stopped.wait
        self._since = 0.0

    def start(self) -> None:
        """The thread begins to work; called in it."""
        self._since = self._worked()

    def yield_cpu(self) -> None:
        """Sleeps, if the thread has worked for a while; called in it."""
        worked = self._worked() - self._since
        if worked >= PIECE:
            self._sleep(worked * (1 / CPU_FRACTION - 1))
            self._since = self._worked()

    def stop(self) -> None:
        """Nobody is there any more who could feel it."""
        self._stopped.set()


class Unpaced(Throttle):
    """For a process that serves nobody: no rests."""

    def yield_cpu(self) -> None:
        """Goes on."""
