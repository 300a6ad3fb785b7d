"""Reads the source again and again, and tells of each Directory that follows from it.

Owns when a source is read, and what the last good answer is. The reading and the making of the Directory run in a
thread, at a pace that the reactor does not feel; the reactor takes over what is finished.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.application import service
from twisted.internet import defer, task, threads
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

from ..core.enrolment import Enrolment, Problem, ReadFailure, Reading, no_rest
from ..core.tenants import Directory
from ..ops.figures import REFRESH_BOUNDS, Histogram
from .pace import Pace

#: Seconds to wait after the first failed refresh; doubled at each further one, up to the refresh interval.
FIRST_RETRY = 1.0
#: Lines that are logged in one turn of the reactor: thousands, as of a cluster whose rights were taken away, stop it.
TOLD_AT_ONCE = 20


class Source(Protocol):
    """Where namespaces and secrets are read."""

    def read(self, rest: Callable[[], None] = no_rest) -> Reading:
        """What it says now. Blocks; called in a thread, never twice at once. rest: called between pieces of work."""

    def stop(self) -> None:
        """A reading under way may end early: it will not be used."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a thread's work has led to.

    failures: of the reading, None without one; directory: None until something was read; lines: what is to be said of the
    problems; databases: how many Redis was taken to have.
    """

    failures: list[ReadFailure] | None
    directory: Directory | None
    problems: list[Problem]
    lines: list[tuple[LogLevel, str]]
    databases: int | None


class ReadingService(service.Service):
    """Reads a source.

    interval: seconds between two refreshes; in_thread: calls a blocking function and returns a Deferred; pace: when that
    thread rests, once somebody is served.
    """

    name = "reading"
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        source: Source,
        enrolment: Enrolment,
        interval: float,
        in_thread: Callable[..., defer.Deferred] = threads.deferToThread,
        pace: Callable[[], Pace] = Pace,
    ) -> None:
        self._clock = clock
        self.source = source
        self._enrolment = enrolment
        self._interval = interval
        self._in_thread = in_thread
        self._make_pace = pace
        self._pace = pace()
        #: None until something was read
        self.directory: Directory | None = None
        #: what an operator has to mend
        self.problems: list[Problem] = []
        #: how many databases Redis has, None while that is not known
        self.databases: int | None = None
        #: when a refresh last succeeded in full, in the clock's seconds
        self.refreshed: float | None = None
        #: readings so far, by how they went, and how long they took
        self.readings = {"ok": 0, "failed": 0}
        self.durations = Histogram(REFRESH_BOUNDS)
        self._began = 0.0
        #: called with each Directory that is another one than before
        self.listeners: list[Callable[[Directory], None]] = []
        self._loop = task.LoopingCall(self.refresh)
        self._loop.clock = clock
        self._working: defer.Deferred | None = None
        self._again = False
        self._resolved_for: int | None = None
        #: what the listeners know of, since the start
        self._told: Directory | None = None
        self._failures = 0
        self._retry: IDelayedCall | None = None
        self._to_tell: deque[tuple[LogLevel, str]] = deque()
        self._telling: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._pace = self._make_pace()
        self._told = None
        self._loop.start(self._interval, now=True)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        for call in (self._retry, self._telling):
            if call is not None and call.active():
                call.cancel()
        self.source.stop()
        self._pace.stop()

    def refresh(self) -> None:
        """Reads the source, now or as soon as the work under way is over."""
        if self._working is not None:
            self._again = True
            return
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._work(read=True)

    def use_databases(self, databases: int | None) -> None:
        """How many Redis has, None where it does not tell."""
        if databases != self.databases:
            self.databases = databases
            self.resolve()

    def resolve(self) -> None:
        """Makes the Directory anew from what was last read: `databases` is another."""
        if self._working is None:
            self._work(read=False)

    def _work(self, read: bool) -> None:
        # The first reading is done as fast as it can be: until it is over nobody is served.
        pace = self._pace if self.directory is not None else None
        self._began = self._clock.seconds()
        self._working = self._in_thread(self._in_pace, read, pace)
        self._working.addCallbacks(self._take, self._crashed)
        self._working.addErrback(lambda failure: self._log.failure("what was read could not be used", failure))
        self._working.addBoth(self._over)

    def _in_pace(self, read: bool, pace: Pace | None) -> _Outcome:
        """What runs in the thread: never twice at once, so that the enrolment is this thread's own."""
        rest = no_rest
        if pace is not None:
            pace.start()
            rest = pace.rest
        failures = None
        if read:
            reading = self.source.read(rest)
            failures = reading.failures()
            self._enrolment.absorb(reading)
        databases = self.databases
        directory, problems = self._enrolment.resolve(databases, rest)
        lines = _news(self.problems, problems)
        return _Outcome(failures, directory if self._enrolment.loaded else None, problems, lines, databases)

    def _over(self, _: object) -> None:
        self._working = None
        if not self.running:
            return
        if self._again:
            self._again = False
            self.refresh()
        elif self._resolved_for != self.databases:
            self.resolve()

    def _crashed(self, failure: object) -> None:
        self._log.failure("reading {source} failed in a way that is a bug", failure, source=str(self.source))
        self._resolved_for = self.databases
        self._retry_later(None)

    def _take(self, outcome: _Outcome) -> None:
        """The reactor's part: next to nothing here takes longer the more tenants there are."""
        if not self.running:
            return
        self._resolved_for = outcome.databases
        if outcome.failures is not None:
            self.readings["failed" if outcome.failures else "ok"] += 1
            self.durations.observe(self._clock.seconds() - self._began)
        if outcome.failures:
            asked = [failure.retry_after for failure in outcome.failures if failure.retry_after is not None]
            self._retry_later(max(asked, default=None))
        elif outcome.failures is not None:
            if self._failures:
                self._log.info("{source} can be read again", source=str(self.source))
            self._failures = 0
            self.refreshed = self._clock.seconds()
        self.problems = outcome.problems
        self._to_tell += outcome.lines
        if self._telling is None or not self._telling.active():
            self._tell()
        before, directory = self.directory, outcome.directory
        if directory is None or directory is self._told:
            return
        self.directory = self._told = directory
        if before is None or before.tenants != directory.tenants:
            self._log.info(
                "{tenants} tenants with {credentials} credentials, from {source}",
                tenants=len(directory.tenants),
                credentials=len(directory.credentials),
                source=str(self.source),
            )
        for listener in list(self.listeners):
            listener(directory)

    def _retry_later(self, asked: float | None) -> None:
        self._failures += 1
        delay = min(self._interval, FIRST_RETRY * 2 ** min(self._failures - 1, 16))
        delay *= random.uniform(0.75, 1.0)  # noqa: S311 - so that replicas do not return all at once
        if asked is not None:
            delay = max(delay, min(asked, self._interval))
        if self.running:
            self._retry = self._clock.callLater(delay, self.refresh)

    def _tell(self) -> None:
        for _ in range(min(TOLD_AT_ONCE, len(self._to_tell))):
            level, line = self._to_tell.popleft()
            self._log.emit(level, "{problem}", problem=line)
        if self._to_tell and self.running:
            self._telling = self._clock.callLater(0, self._tell)


def _news(before: list[Problem], after: list[Problem]) -> list[tuple[LogLevel, str]]:
    """What to log: what is new and what is over. A lasting fault is told once, not at every refresh."""
    if after == before:
        return []
    told = [(LogLevel.warn, str(problem)) for problem in sorted(set(after) - set(before))]
    return told + [(LogLevel.info, f"mended: {problem}") for problem in sorted(set(before) - set(after))]
