"""Reads the source again and again, and tells of each Snapshot that follows from it.

Owns when a source is read, and what the last good answer is. The reading and the making of the
Snapshot run in a thread, at a pace that the reactor does not feel; the reactor takes over what is
finished.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from twisted.application import service
from twisted.internet import defer, task, threads
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from .. import messages
from ..ops.bugs import bug, log_bug
from ..ops.logs import Log
from ..ops.retry import Backoff, Retry
from ..ops.stats import RELOAD_BOUNDS, Histogram
from ..tenants.documents import Changes, FullRead, Problem, ReadFailure, ReadSummary, Update
from ..tenants.enrolment import Enrolment, no_yield
from ..tenants.model import Snapshot
from .hints import ChangeQueue
from .throttle import Throttle

#: Seconds to wait after the first failed refresh; doubled at each further one, up to the refresh
#: interval.
FIRST_RETRY = 1.0
#: Seconds after a change is told of until it is read: what comes in one burst is read together.
GATHER = 0.1
#: Seconds, at most, for which the next changes wait after the last ones were read: as long as that
#: took. Without an end of changes everything would never be read.
LONGEST_PAUSE = 0.2
#: Lines that are logged in one turn of the reactor: thousands, as of a cluster whose rights were
#: taken away, stop it.
TOLD_AT_ONCE = 20


class Source(Protocol):
    """Where namespaces and secrets are read."""

    def read(self, yield_cpu: Callable[[], None] = no_yield) -> FullRead:
        """What it says now. Blocks; called in a thread, never twice at once. yield_cpu: called
        between pieces of work.
        """

    def stop(self) -> None:
        """A reading under way may end early: it will not be used."""


@runtime_checkable
class ChangingSource(Source, Protocol):
    """A source of which there is a watch."""

    def read_changes(self, changes: Changes, yield_cpu: Callable[[], None] = no_yield) -> Update:
        """What it says now of these. As `read`, but for that it may be called by the `rest` of a
        reading under way.
        """


class _Job(enum.Enum):
    """What a thread is to do."""

    READ = "read everything"
    CHANGES = "read what has changed"
    RESOLVE = "read nothing"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a thread's work has led to.

    job: what it was to do; failures: of the reading; snapshot: None until something was read;
    lines: what is to be said of the problems; databases: how many Redis was taken to have;
    without_secret: see `Enrolment`; again: seconds after which the source is to be read again, or
    None; summary: what was established, None where nothing was read.
    """

    job: _Job
    failures: Sequence[ReadFailure]
    snapshot: Snapshot | None
    problems: list[Problem]
    lines: list[tuple[messages.LogLine, Problem]]
    databases: int | None
    without_secret: tuple[str, ...] = ()
    again: float | None = None
    summary: ReadSummary | None = None


class ReloadService(service.Service):
    """Reads a source.

    interval: seconds between two refreshes; in_thread: calls a blocking function and returns a
    Deferred; pace: when that thread rests, once somebody is served; changes: what a watch of the
    source says; in_reactor: what that thread calls.
    """

    name = "reading"
    _log = Log()

    def __init__(
        self,
        clock: IReactorTime,
        source: Source,
        enrolment: Enrolment,
        interval: float,
        in_thread: Callable[..., defer.Deferred[_Outcome]] = threads.deferToThread,
        throttle: Callable[[], Throttle] = Throttle,
        changes: ChangeQueue | None = None,
        in_reactor: Callable[..., object] | None = None,
    ) -> None:
        self._clock = clock
        self.source = source
        self._enrolment = enrolment
        self._interval = interval
        self._in_thread = in_thread
        self._make_throttle = throttle
        self._throttle = throttle()
        self._changes = ChangeQueue() if changes is None else changes
        self._in_reactor: Callable[..., object] = (
            getattr(clock, "callFromThread", _at_once) if in_reactor is None else in_reactor
        )
        #: None until something was read
        self.snapshot: Snapshot | None = None
        #: what an operator has to fix
        self.problems: list[Problem] = []
        #: namespaces to which nobody gave a secret yet
        self.without_secret: tuple[str, ...] = ()
        #: how many databases Redis has, None while that is not known
        self.databases: int | None = None
        #: when a refresh last succeeded in full, in the clock's seconds
        self.reloaded_at: float | None = None
        #: readings so far, by how they went, and how long they took
        self.reads = {"ok": 0, "failed": 0}
        self.durations = Histogram(RELOAD_BOUNDS)
        self._began = 0.0
        #: called with each Snapshot that is another one than before
        self.listeners: list[Callable[[Snapshot], None]] = []
        #: called after each whole read, and when namespaces have come or gone, with when the read
        #: began, and after the listeners have had the Snapshot that follows
        self.on_read: list[Callable[[ReadSummary, float], object]] = []
        self._existing: frozenset[str] | None = None
        self._loop = task.LoopingCall(self.refresh)
        self._loop.clock = clock
        self._working: defer.Deferred[_Outcome] | None = None
        self._again = False
        self._resolved_for: int | None = None
        #: what the listeners know of, since the start
        self._published: Snapshot | None = None
        self._retry = Retry(clock, Backoff(FIRST_RETRY, interval, shorten=0.25), self.refresh)
        self._gathering: IDelayedCall | None = None
        #: of what the source did not believe at first sight
        self._reread: IDelayedCall | None = None
        #: when changes may be read again: not all the time, however many there are
        self._not_before = 0.0
        #: the problems as the thread last found them
        self._found: list[Problem] = []
        self._to_tell: deque[tuple[messages.LogLine, Problem]] = deque()
        self._telling: IDelayedCall | None = None

    @property
    def age(self) -> float | None:
        """Seconds since a refresh last succeeded in full; None: none did yet."""
        return None if self.reloaded_at is None else self._clock.seconds() - self.reloaded_at

    def startService(self) -> None:
        super().startService()
        self._throttle = self._make_throttle()
        self._published = None
        self._found = self.problems
        self._loop.start(self._interval, now=True)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        self._retry.cancel()
        for call in (self._telling, self._gathering, self._reread):
            if call is not None and call.active():
                call.cancel()
        self.source.stop()
        self._throttle.stop()

    def refresh(self) -> None:
        """Reads the source, now or as soon as the work under way is over."""
        if self._working is not None:
            self._again = True
            return
        self._retry.cancel()
        self._work(_Job.READ)

    def changed(self) -> None:
        """There is something in `changes`: it is read in a moment, whatever else is under way."""
        if not self.running or self._working is not None or (self._gathering is not None and self._gathering.active()):
            return  # who works looks for changes
        delay = max(GATHER, self._not_before - self._clock.seconds())
        self._gathering = self._clock.callLater(delay, self._read_changes)

    def _read_changes(self) -> None:
        # Until all was read once there is nothing to which a change could be made.
        if self._working is None and self.snapshot is not None and self._changes:
            self._work(_Job.CHANGES)

    def use_databases(self, databases: int | None) -> None:
        """How many Redis has, None where it does not tell."""
        if databases != self.databases:
            self.databases = databases
            self.resolve()

    def resolve(self) -> None:
        """Makes the Snapshot anew from what was last read: `databases` is another."""
        if self._working is None:
            self._work(_Job.RESOLVE)

    def _work(self, job: _Job) -> None:
        # The first reading is done as fast as it can be: until it is over nobody is served.
        throttle = self._throttle if self.snapshot is not None else None
        self._began = self._clock.seconds()
        working = self._working = self._in_thread(self._throttled, job, throttle)
        taken = working.addCallbacks(self._on_outcome, self._crashed)
        taken.addErrback(bug(self._log, "using what was read"))
        taken.addBoth(self._over)

    def _throttled(self, job: _Job, throttle: Throttle | None) -> _Outcome:
        """What runs in the thread: never twice at once, so that the enrolment is this thread's
        own.
        """
        yield_cpu = no_yield
        if throttle is not None:
            throttle.start()
            yield_cpu = throttle.yield_cpu
        if job is _Job.READ:
            reading = self._read(yield_cpu)
            outcome = self._resolved(job, reading.failures(), yield_cpu, self._enrolment.summary(reading))
            return replace(outcome, again=reading.again)
        if job is _Job.CHANGES:
            update = self._amended(yield_cpu)
            return self._resolved(job, update.failures, yield_cpu, self._enrolment.summary(None))
        return self._resolved(job, (), yield_cpu)

    def _read(self, yield_cpu: Callable[[], None]) -> FullRead:
        """Reads everything. What is said to change meanwhile is read in between, and does not wait
        for the end.
        """
        meanwhile = Update()

        def yield_and_read_changes() -> None:
            nonlocal meanwhile
            yield_cpu()
            if self._changes and self._enrolment.loaded and self._clock.seconds() >= self._not_before:
                update = self._amended(yield_cpu)
                meanwhile = meanwhile.followed_by(update)
                summary = self._enrolment.summary(None)
                self._in_reactor(self._on_outcome, self._resolved(_Job.CHANGES, update.failures, yield_cpu, summary))

        reading = self.source.read(yield_and_read_changes)
        self._enrolment.use_full_read(reading)
        # What was read in between is younger than the answers before it. Where it is older than one
        # that came after it, that is for a change that is told of yet.
        self._enrolment.use_incremental_read(meanwhile)
        return reading

    def _amended(self, yield_cpu: Callable[[], None]) -> Update:
        began = self._clock.seconds()
        if not isinstance(self.source, ChangingSource):
            raise TypeError(f"something was said to have changed in {self.source}, of which single objects cannot be read")
        update = self.source.read_changes(self._changes.pop_batch(), yield_cpu)
        self._enrolment.use_incremental_read(update)
        now = self._clock.seconds()
        self._not_before = now + min(now - began, LONGEST_PAUSE)
        return update

    def _resolved(
        self, job: _Job, failures: Sequence[ReadFailure], yield_cpu: Callable[[], None], summary: ReadSummary | None = None
    ) -> _Outcome:
        databases = self.databases
        snapshot, problems = self._enrolment.resolve(databases, yield_cpu)
        lines = _news(self._found, problems)
        self._found = problems
        return _Outcome(
            job,
            failures,
            snapshot if self._enrolment.loaded else None,
            problems,
            lines,
            databases,
            self._enrolment.without_secret,
            summary=summary,
        )

    def _over(self, _: object) -> None:
        self._working = None
        if not self.running:
            return
        if self._again:
            self._again = False
            self.refresh()
        elif self._changes and self.snapshot is not None:
            self.changed()
        elif self._resolved_for != self.databases:
            self.resolve()

    def _crashed(self, failure: Failure) -> None:
        log_bug(self._log, "reading {source}", failure, source=str(self.source))
        self._resolved_for = self.databases
        self._retry_later()

    def _on_outcome(self, outcome: _Outcome) -> None:
        """The reactor's part: next to nothing here takes longer the more tenants there are."""
        if not self.running:
            return
        self._resolved_for = outcome.databases
        if outcome.job is _Job.READ:
            self.reads["failed" if outcome.failures else "ok"] += 1
            self.durations.observe(self._clock.seconds() - self._began)
            if self._reread is not None and self._reread.active():
                self._reread.cancel()
            if outcome.again is not None:
                self._reread = self._clock.callLater(outcome.again, self.refresh)
        if outcome.failures:
            asked = [failure.retry_after for failure in outcome.failures if failure.retry_after is not None]
            self._retry_later(max(asked, default=0.0))
        elif outcome.job is _Job.READ:
            if self._retry.failures:
                self._log.write(messages.READ_AGAIN, source=str(self.source))
            self._retry.succeeded()
            self.reloaded_at = self._clock.seconds()
        self.problems = outcome.problems
        self.without_secret = outcome.without_secret
        self._to_tell += outcome.lines
        if self._telling is None or not self._telling.active():
            self._tell()
        if outcome.snapshot is not None:
            self._use(outcome.snapshot)
            self._report_read(outcome.summary)

    def _report_read(self, summary: ReadSummary | None) -> None:
        if summary is None or not (summary.whole or summary.namespaces != self._existing):
            return
        if summary.namespaces is not None:
            self._existing = summary.namespaces
        for listener in list(self.on_read):
            listener(summary, self._began)

    def _use(self, snapshot: Snapshot) -> None:
        before = self.snapshot
        if snapshot is self._published:
            return
        self.snapshot = self._published = snapshot
        if before is None or before.tenants != snapshot.tenants:
            self._log.write(
                messages.LOADED,
                tenants=len(snapshot.tenants),
                credentials=len(snapshot.credentials),
                source=str(self.source),
            )
        for listener in list(self.listeners):
            listener(snapshot)

    def _retry_later(self, asked: float = 0.0) -> None:
        if self.running:
            self._retry.failed(at_least=min(asked, self._interval))

    def _tell(self) -> None:
        for _ in range(min(TOLD_AT_ONCE, len(self._to_tell))):
            message, problem = self._to_tell.popleft()
            self._log.write(message, problem=problem, problem_code=problem.reason.code)
        if self._to_tell and self.running:
            self._telling = self._clock.callLater(0, self._tell)


def _news(before: list[Problem], after: list[Problem]) -> list[tuple[messages.LogLine, Problem]]:
    """What to log: what is new and what is over. A lasting fault is told once, not at every
    refresh.
    """
    if after == before:
        return []
    lines = [(messages.TENANT_PROBLEM, problem) for problem in sorted(set(after) - set(before))]
    return lines + [(messages.FIXED, problem) for problem in sorted(set(before) - set(after))]


def _at_once(call: Callable[..., object], *arguments: object) -> None:
    call(*arguments)
