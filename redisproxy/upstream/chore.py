"""Work in the background that rests until there is something to do."""

from __future__ import annotations

from typing import ClassVar

from twisted.application import service
from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime

from ..ops.bugs import bug
from ..ops.logs import Log


class Chore(service.Service):
    """Runs `_run` while the service does."""

    #: what it does, for the log
    doing: ClassVar[str]
    _log = Log()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._work: defer.Deferred[None] | None = None
        self._idle: defer.Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._work = defer.Deferred.fromCoroutine(self._run())
        self._work.addErrback(bug(self._log, self.doing, defer.CancelledError))

    def stopService(self) -> None:
        super().stopService()
        if self._work is not None:
            self._work.cancel()

    async def _run(self) -> None:
        """Does the work, for ever."""
        raise NotImplementedError

    async def _rest(self, seconds: float | None) -> None:
        """Waits for so many seconds, or until `_wake`. seconds: None: however long that takes."""
        self._idle = defer.Deferred()
        timer = None if seconds is None else self._clock.callLater(seconds, self._wake)
        try:
            await self._idle
        finally:
            self._idle = None
            if timer is not None and timer.active():
                timer.cancel()

    def _wake(self) -> None:
        """Ends a rest: there is something to do, perhaps."""
        if self._idle is not None and not self._idle.called:
            self._idle.callback(None)
