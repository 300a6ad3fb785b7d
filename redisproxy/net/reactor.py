"""Installs the reactor: Twisted's epoll reactor on a monotonic clock, without the log context of
each event.

Owns one method and the clock. Twisted calls each reader and writer within a context that names it
for Twisted's legacy log. Nothing in the proxy reads that context, and it costs a seventh of the
proxy's time. Twisted's timers run on the wall clock: if the clock is set back by 30 s, no timer
fires for 30 s. An operator who names a reactor (``twistd --reactor=…``) gets that reactor, and a
warning if its timers run on the wall clock.
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
    """What connections to Redis need of the reactor, time limits included. Redis at a Unix socket
    needs `IReactorUNIX` as well.
    """


class IProxyReactor(IConnectingReactor, IReactorCore, IReactorFDSet, IReactorProcess, IReactorSocket, IReactorThreads):
    """All that a process of the proxy needs of its reactor. Code that needs less asks for less,
    such as `IReactorTime`.
    """

    def run(installSignalHandlers: bool = True) -> None:
        """Like `IReactorCore.run`, with an option that Twisted's reactors have."""


def install() -> bool:
    """Makes it the reactor of the process.

    Returns False if a reactor is already installed, if there is no epoll, or if this Twisted lacks
    the private names that are needed.
    """
    if "twisted.internet.reactor" in sys.modules:
        return False
    try:
        from twisted.internet.epollreactor import EPollReactor
    except ImportError:
        return False
    from twisted.internet.main import installReactor

    class Reactor(EPollReactor):
        """Calls readers and writers directly. Only differences of `seconds()` have a meaning."""

        seconds = staticmethod(time.monotonic)

        def doPoll(self, timeout: float | None) -> None:
            """See EPollReactor: waits up to `timeout` seconds for events, and handles each."""
            selectables = self._selectables
            for fd, event in self._poller.poll(-1 if timeout is None else timeout, len(selectables)):
                selectable = selectables.get(fd)
                if selectable is not None:  # an event before this one may have removed it
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
    """Whether the reactor's timers are unaffected when the wall clock is set."""
    return reactor.seconds is time.monotonic
