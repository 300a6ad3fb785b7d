"""Whether Redis answers: a PING each second over the control connection.

Owns what Redis is known to do by its answers to these, and since when one waits. A Redis that hangs
keeps its connections open, so nothing else would tell. A Redis that is busy with a script, or loads
its data, answers, and says so.
"""

from __future__ import annotations

from enum import Enum

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IReactorTime

from .. import bounds, messages
from ..ops.bugs import bug
from ..ops.log_once import Condition
from ..ops.logs import Log
from .client import Commands, ControlError, NoReplyError, ReplyError


class Answers(Enum):
    """What Redis does, by its answer to the latest PING."""

    UP = "up"
    BUSY = "busy"  #: a script or a function runs for too long: all other commands are refused
    LOADING = "loading"  #: it reads its data from disk: most commands are refused
    HUNG = "hung"  #: it has not answered for HUNG_SECONDS


_FAULTS = {
    Answers.HUNG: messages.REDIS_HUNG(seconds=bounds.HUNG_SECONDS),
    Answers.BUSY: messages.REDIS_BUSY(),
}


class Health(service.Service):
    """control: over which Redis is asked."""

    name = "health"
    _log = Log()

    def __init__(self, clock: IReactorTime, control: Commands) -> None:
        self._clock = clock
        self._control = control
        self._loop = task.LoopingCall(self._look)
        self._loop.clock = clock
        self._asking: defer.Deferred[None] | None = None
        # The clock's seconds when the PING was sent that is not answered; kept where its connection
        # was given up for that.
        self._since: float | None = None
        self._answer = Answers.UP
        self._condition = Condition()

    def startService(self) -> None:
        super().startService()
        self._loop.start(bounds.HEALTH_CHECK_SECONDS, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._asking is not None:
            self._asking.cancel()

    @property
    def unanswered(self) -> float:
        """Seconds for which the oldest PING has waited; 0: none waits."""
        return 0.0 if self._since is None else self._clock.seconds() - self._since

    @property
    def state(self) -> Answers:
        """What Redis does now. Nothing is known where there is no connection: it is taken to be UP
        then.
        """
        return Answers.HUNG if self.unanswered >= bounds.HUNG_SECONDS else self._answer

    @property
    def fault(self) -> messages.Text | None:
        """What is wrong with its answers; None: nothing, or nothing is known."""
        return _FAULTS.get(self.state)

    def _look(self) -> None:
        if self._asking is None and self._control.connected:
            if self._since is None:
                self._since = self._clock.seconds()
            self._asking = defer.Deferred.fromCoroutine(self._ask())
            self._asking.addErrback(bug(self._log, "asking Redis whether it is there", defer.CancelledError))
            self._asking.addBoth(self._asked)
        self._tell()

    async def _ask(self) -> None:
        try:
            await self._control.ask("PING")
        except NoReplyError:
            return  # it hangs: that lasts until it answers
        except ReplyError as error:
            word = str(error).partition(" ")[0]
            self._answer = {"BUSY": Answers.BUSY, "LOADING": Answers.LOADING}.get(word, Answers.UP)
        except ControlError:
            self._answer = Answers.UP  # the connection was lost, which is told elsewhere
        else:
            self._answer = Answers.UP
        self._since = None

    def _asked(self, _: None) -> None:
        self._asking = None
        self._tell()

    def _tell(self) -> None:
        fault = self.fault
        if fault is not None and self._condition.fault(fault):
            self._log.write(messages.REDIS_NOT_WELL, fault=fault)
        elif fault is None and self._condition.over():
            self._log.write(messages.REDIS_WELL_AGAIN)
