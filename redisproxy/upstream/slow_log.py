"""Reports the slow commands of each tenant, as Redis logs them.

Owns when the log is read, and which entries are new. Each process reports those of its own
connections, whose names say so: see `tenants.slow_log`. So the counts of all processes and replicas
add up, and a process that was started again counts nothing twice.

What takes Redis long enough to be logged is the operator's decision: `slowlog-log-slower-than`.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from .. import bounds, messages
from ..ops.log_once import Condition
from ..resp.value import Answer
from ..tenants.slow_log import Entry, entries, newest
from .client import Commands, ControlError, ReplyError
from .regular import RegularQuestions


class SlowLogService(RegularQuestions):
    """Reads the log every SLOW_LOG_SECONDS, if it has new entries.

    control: the control connection; token: of this process's connections; report: called with each
    entry, the oldest first.
    """

    name = "slow log"
    doing = "reading Redis's slow log"

    def __init__(self, clock: IReactorTime, control: Commands, token: bytes, report: Callable[[Entry], None]) -> None:
        super().__init__(clock, control, bounds.SLOW_LOG_SECONDS)
        self._token = token
        self._report = report
        # The id of the newest entry that was read; -1: none of this run of Redis.
        self._seen = -1
        self._run_id = ""
        self._refused = Condition()
        # How many rounds to leave out, because Redis has refused the last one.
        self._rest = 0

    def use(self, run_id: str) -> None:
        """Redis was probed. run_id: of its present run, in which the ids of entries only grow."""
        if run_id != self._run_id:
            self._run_id, self._seen, self._rest = run_id, -1, 0

    def _look(self) -> None:
        if self._rest:
            self._rest -= 1
        else:
            super()._look()

    async def _ask(self) -> None:
        run_id = self._run_id
        try:
            latest = newest(await self._get(1))
            if latest is None or latest == self._seen:
                return
            if latest < self._seen:
                self._seen = -1  # another run of Redis, before it is probed
            answer = await self._get(min(latest - self._seen, bounds.SLOW_LOG_ENTRIES))
        except ReplyError as error:
            if error.reply.code in ("ERR", "NOPERM"):  # not while Redis is busy, or loads its data
                self._rest = bounds.SLOW_LOG_REFUSED_ROUNDS
                if self._refused.fault(error.reason):
                    self._log.write(messages.SLOW_LOG_REFUSED, reason=error.reason)
            return
        except ControlError:
            return  # the connection was lost, which the control connection logs
        self._refused.over()
        if run_id == self._run_id:
            self._report_new(answer)

    async def _get(self, count: int) -> Answer:
        return await self._control.ask("SLOWLOG", "GET", count)

    def _report_new(self, answer: Answer) -> None:
        """Reports the entries that are new."""
        seen = self._seen
        # Perhaps newer than the one that the first question found: entries may have come between.
        self._seen = max(seen, newest(answer) or 0)
        for entry in reversed(list(entries(answer))):
            if entry.number > seen and entry.token == self._token:
                self._report(entry)
