"""Asks Redis something again and again, over the control connection.

Owns when: one question at a time, and none without a connection. What is asked, and what follows
from the answer, is up to the subclass.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IReactorTime

from ..ops.bugs import bug
from ..ops.logs import Log
from .client import Commands


class RegularQuestions(service.Service):
    """clock: gives the times; control: the control connection; seconds: between two questions."""

    #: what it does, for the log
    doing: ClassVar[str]
    _log = Log()

    def __init__(self, clock: IReactorTime, control: Commands, seconds: float) -> None:
        self._clock = clock
        self._control = control
        self._interval = seconds
        self._loop = task.LoopingCall(self._look)
        self._loop.clock = clock
        self._asking: defer.Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._interval, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._asking is not None:
            self._asking.cancel()

    def look_now(self) -> None:
        """Asks now, unless a question is under way. Waits for the connection."""
        if self._asking is None and self._loop.running:
            self._asking = defer.Deferred.fromCoroutine(self._ask())
            self._asking.addErrback(bug(self._log, self.doing, defer.CancelledError))
            self._asking.addBoth(self._asked)

    def _look(self) -> None:
        """It is time for the next question."""
        if self._control.connected:
            self.look_now()

    async def _ask(self) -> None:
        """Asks once. Every ControlError is the subclass's to handle."""
        raise NotImplementedError

    def _asked(self, _: None) -> None:
        """A question is answered, or was given up."""
        self._asking = None
