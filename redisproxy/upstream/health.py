"""Finds out whether Redis answers: sends a PING each second over the control connection.

Owns what the answers say of Redis, and since when a PING is unanswered. A Redis that hangs keeps
its connections open, so nothing else would show that. A Redis that is busy with a script, or loads
its data, answers with an error that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from twisted.internet.interfaces import IReactorTime

from .. import bounds, messages
from ..ops.log_once import Condition
from .client import Commands, ControlError, NoReplyError, ReplyError
from .regular import RegularQuestions


class Answers(Enum):
    """What Redis does, by its answer to the latest PING."""

    UP = "up"
    BUSY = "busy"  #: a script or a function has run for too long: Redis refuses all other commands
    LOADING = "loading"  #: Redis reads its data from disk, and refuses most commands
    HUNG = "hung"  #: Redis has not answered for HUNG_SECONDS


_FAULTS = {
    Answers.HUNG: messages.REDIS_HUNG(seconds=bounds.HUNG_SECONDS),
    Answers.BUSY: messages.REDIS_BUSY(),
}


class Health(RegularQuestions):
    """Checks whether Redis answers. control: the connection that asks Redis."""

    name = "health"
    doing = "sending PING to Redis"

    def __init__(self, clock: IReactorTime, control: Commands) -> None:
        super().__init__(clock, control, bounds.HEALTH_CHECK_SECONDS)
        # When the oldest unanswered PING was sent, in the clock's seconds. Kept if the connection
        # was given up because there was no answer.
        self._since: float | None = None
        self._answer = Answers.UP
        self._condition = Condition()
        #: called with Redis's error while it is busy, and when it was asked, in the clock's seconds
        self.busy: Callable[[str, float], object] = lambda *_: None
        #: called when Redis has answered as usual, with when it was asked
        self.answered: Callable[[float], object] = lambda _: None
        #: returns what more is known of the script that keeps Redis busy, if anything
        self.script_fault: Callable[[], messages.Text | None] = lambda: None

    @property
    def unanswered(self) -> float:
        """Seconds that the oldest unanswered PING has waited; 0 if there is none."""
        return 0.0 if self._since is None else self._clock.seconds() - self._since

    @property
    def state(self) -> Answers:
        """What Redis does now. Without a connection nothing is known, and the state is UP."""
        return Answers.HUNG if self.unanswered >= bounds.HUNG_SECONDS else self._answer

    @property
    def fault(self) -> messages.Text | None:
        """What is wrong with Redis's answers; None: nothing is, or nothing is known."""
        state = self.state
        return (self.script_fault() if state is Answers.BUSY else None) or _FAULTS.get(state)

    def _look(self) -> None:
        if self._asking is None and self._control.connected and self._since is None:
            self._since = self._clock.seconds()
        super()._look()
        self._log_change()

    async def _ask(self) -> None:
        asked = self._clock.seconds() if self._since is None else self._since
        try:
            await self._control.ask("PING")
        except NoReplyError:
            return  # Redis hangs until it answers again
        except ReplyError as error:
            word = str(error).partition(" ")[0]
            self._answer = {"BUSY": Answers.BUSY, "LOADING": Answers.LOADING}.get(word, Answers.UP)
            if self._answer is Answers.BUSY:
                self.busy(str(error), asked)
        except ControlError:
            self._answer = Answers.UP  # the connection was lost, which the control connection logs
        else:
            self._answer = Answers.UP
            self.answered(asked)
        self._since = None

    def _asked(self, _: None) -> None:
        super()._asked(_)
        self._log_change()

    def _log_change(self) -> None:
        fault = self.fault
        if fault is not None and self._condition.fault(fault):
            self._log.write(messages.REDIS_NOT_WELL, fault=fault)
        elif fault is None and self._condition.over():
            self._log.write(messages.REDIS_WELL_AGAIN)
