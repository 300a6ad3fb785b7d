"""The reactor: Twisted's epoll reactor on a monotonic clock, without what Twisted does for its log
around every event.

Owns one method and the clock. Twisted calls each reader and writer within a context that names it
for the legacy log; nothing of ours reads that, and it is a seventh of the proxy's time. Twisted's
timers run on the wall clock: when that is set back by 30 s, no timer fires for 30 s. An operator
who names a reactor (``twistd --reactor=…``) gets that one, and a warning.
"""

from __future__ import annotations

import sys
import time

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..ops.bugs import log_bug

_log = Logger()


class IConnectingReactor(IReactorTCP, IReactorTime):
    """What connections to Redis take of it, with time limits. Where Redis is at a Unix socket,
    `IReactorUNIX` besides.
    """


class IProxyReactor(IConnectingReactor, IReactorCore, IReactorFDSet, IReactorProcess, IReactorSocket, IReactorThreads):
    """All that a process of the proxy takes of its reactor. Whoever takes less says so:
    `IReactorTime` and the like.
    """

    def run(installSignalHandlers: bool = True) -> None:
        """As `IReactorCore` has it, with an option that Twisted's reactors take."""


def install() -> bool:
    """Makes it the process's reactor; false: there is one already, or no epoll here, or a Twisted
    that is made otherwise.
    """
    if "twisted.internet.reactor" in sys.modules:
        return False
    try:
        from twisted.internet.epollreactor import EPollReactor
    except ImportError:
        return False
    from twisted.internet.main import installReactor

    class Reactor(EPollReactor):
        """Calls readers and writers straight. Its seconds mean nothing but to each other."""

        seconds = staticmethod(time.monotonic)

        def doPoll(self, timeout: float | None) -> None:
            """See EPollReactor: waits for events up to so many seconds, and has each dealt with."""
            selectables = self._selectables
            for fd, event in self._poller.poll(-1 if timeout is None else timeout, len(selectables)):
                selectable = selectables.get(fd)
                if selectable is not None:  # or it was removed by one before it
                    try:
                        self._doReadOrWrite(selectable, fd, event)
                    except Exception:
                        log_bug(_log, "disconnecting {selectable}", Failure(), selectable=selectable)

        doIteration = doPoll

    reactor = Reactor()
    if not all(hasattr(reactor, name) for name in ("_selectables", "_poller", "_doReadOrWrite")):
        return False
    installReactor(reactor)
    return True


def is_monotonic(reactor: IReactorTime) -> bool:
    """Whether setting the wall clock leaves this reactor's timers alone."""
    return reactor.seconds is time.monotonic
