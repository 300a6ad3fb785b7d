"""Reads the source repeatedly, and passes on each new Snapshot.

Owns when the source is read, and what was last read. A thread reads the source and makes the
Snapshot. It rests so often that clients do not notice it. The reactor only takes over the result.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from .. import messages
from ..ops.bugs import bug, log_bug
from ..ops.logs import Log
from ..ops.retry import Backoff, Retry
from ..ops.stats import RELOAD_BOUNDS, Histogram
from ..tenants.documents import Changes, FullRead, Problem, ReadFailure, ReadSummary, Update
from ..tenants.enrolment import NAMED, Enrolment, no_yield
from ..tenants.model import Snapshot
from .hints import ChangeQueue
from .throttle import Throttle, in_daemon_thread

#: Seconds to wait after the first failed refresh. The wait is doubled after each further failure,
#: up to the refresh interval.
FIRST_RETRY = 1.0
#: Seconds between a hint and the read that it causes, so that changes of one burst are read
#: together.
GATHER = 0.1
#: Changes that follow a read of changes wait as long as that read took, but at most this many
#: seconds. Without this pause, endless changes would keep a full read from ever ending.
LONGEST_PAUSE = 0.2
#: Lines that are logged in one turn of the reactor. Thousands at once would block the reactor, as
#: when a cluster removes the proxy's rights.
LINES_AT_ONCE = 20


class Source(Protocol):
    """A place from which namespaces and secrets are read."""

    def read(self, yield_cpu: Callable[[], None] = no_yield) -> FullRead:
        """Reads everything. Blocks; called in a thread, never twice at once.

        yield_cpu: called between pieces of work; may sleep.
        """

    def stop(self) -> None:
        """Lets a read under way end early: its result will not be used."""


@runtime_checkable
class ChangingSource(Source, Protocol):
    """A source that can be watched."""

    def read_changes(self, changes: Changes, yield_cpu: Callable[[], None] = no_yield) -> Update:
        """Reads single objects again, otherwise like `read`.

        It may be called from the `yield_cpu` of a `read` that is under way.
        """


class _Job(enum.Enum):
    """What the thread has to do."""

    READ = "read everything"
    CHANGES = "read what has changed"
    RESOLVE = "read nothing"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of the thread's work.

    job: what the thread had to do.
    failures: of the read.
    snapshot: None until a read succeeded.
    lines: what to log about problems.
    databases: how many databases Redis was assumed to have.
    without_secret: see `Enrolment`.
    again: seconds until the source must be read again, or None.
    summary: what the read established; None if nothing was read.
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
    """Reads a source and calls listeners with each new Snapshot.

    interval: seconds between two refreshes.
    in_thread: calls a blocking function in a thread and returns a Deferred; None:
        `in_daemon_thread`.
    throttle: makes the Throttle of that thread, which is used once a Snapshot exists.
    changes: the queue of hints from a watch of the source.
    in_reactor: calls a function in the reactor; used by that thread.
    """

    name = "reading"
    _log = Log()

    def __init__(
        self,
        clock: IReactorTime,
        source: Source,
        enrolment: Enrolment,
        interval: float,
        in_thread: Callable[..., defer.Deferred[_Outcome]] | None = None,
        throttle: Callable[[], Throttle] = Throttle,
        changes: ChangeQueue | None = None,
        in_reactor: Callable[..., object] | None = None,
    ) -> None:
        self._clock = clock
        self.source = source
        self._enrolment = enrolment
        self._interval = interval
        self._make_throttle = throttle
        self._throttle = throttle()
        self._changes = ChangeQueue() if changes is None else changes
        self._in_reactor: Callable[..., object] = (
            getattr(clock, "callFromThread", _at_once) if in_reactor is None else in_reactor
        )
        self._in_thread: Callable[..., defer.Deferred[_Outcome]]
        self._in_thread = in_thread or partial(in_daemon_thread, self._in_reactor)
        #: None until the namespaces were read once
        self.snapshot: Snapshot | None = None
        #: what an operator has to fix
        self.problems: list[Problem] = []
        #: namespaces without any secret that enrols a tenant
        self.without_secret: tuple[str, ...] = ()
        #: how many databases Redis has; None while that is unknown
        self.databases: int | None = None
        #: when a refresh last succeeded completely, in the clock's seconds
        self.reloaded_at: float | None = None
        #: full reads so far, by result, and how long they took in seconds
        self.reads = {"ok": 0, "failed": 0}
        self.durations = Histogram(RELOAD_BOUNDS)
        self._began = 0.0
        #: called with each new Snapshot
        self.listeners: list[Callable[[Snapshot], None]] = []
        #: called after each full read, and after a read that found namespaces created or deleted.
        #: Arguments: the summary, and when the read began. The listeners have the new Snapshot by
        #: then.
        self.on_read: list[Callable[[ReadSummary, float], object]] = []
        self._existing: frozenset[str] | None = None
        self._loop = task.LoopingCall(self.refresh)
        self._loop.clock = clock
        self._working: defer.Deferred[_Outcome] | None = None
        self._again = False
        self._resolved_for: int | None = None
        #: the Snapshot that the listeners have since the start
        self._published: Snapshot | None = None
        self._retry = Retry(clock, Backoff(FIRST_RETRY, interval, shorten=0.25), self.refresh)
        self._gathering: IDelayedCall | None = None
        #: reads again what the source did not put in force at once
        self._reread: IDelayedCall | None = None
        #: when changes may be read again, in the clock's seconds: see LONGEST_PAUSE
        self._not_before = 0.0
        #: the problems that the thread found last
        self._found: list[Problem] = []
        self._unlogged: deque[tuple[messages.LogLine, Problem]] = deque()
        self._logging: IDelayedCall | None = None

    @property
    def age(self) -> float | None:
        """Seconds since a refresh last succeeded completely; None if none did yet."""
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
        for call in (self._logging, self._gathering, self._reread):
            if call is not None and call.active():
                call.cancel()
        self.source.stop()
        self._throttle.stop()

    def refresh(self) -> None:
        """Reads the source now, or as soon as the work under way is done."""
        if self._working is not None:
            self._again = True
            return
        self._retry.cancel()
        self._work(_Job.READ)

    def changed(self) -> None:
        """Reads what is in `changes` soon. A full read under way reads it in between."""
        if not self.running or self._working is not None or (self._gathering is not None and self._gathering.active()):
            return  # the work under way checks for changes
        delay = max(GATHER, self._not_before - self._clock.seconds())
        self._gathering = self._clock.callLater(delay, self._read_changes)

    def _read_changes(self) -> None:
        # A change can be made only to the result of a full read.
        if self._working is None and self.snapshot is not None and self._changes:
            self._work(_Job.CHANGES)

    def use_databases(self, databases: int | None) -> None:
        """Sets how many databases Redis has; None if Redis does not say."""
        if databases != self.databases:
            self.databases = databases
            self.resolve()

    def resolve(self) -> None:
        """Makes the Snapshot again from what was last read, because `databases` has changed."""
        if self._working is None:
            self._work(_Job.RESOLVE)

    def _work(self, job: _Job) -> None:
        # The first read does not rest: nobody is served until it is done.
        throttle = self._throttle if self.snapshot is not None else None
        self._began = self._clock.seconds()
        working = self._working = self._in_thread(self._throttled, job, throttle)
        taken = working.addCallbacks(self._on_outcome, self._crashed)
        taken.addErrback(bug(self._log, "using a new snapshot"))
        taken.addBoth(self._over)

    def _throttled(self, job: _Job, throttle: Throttle | None) -> _Outcome:
        """Does one job in the thread. It never runs twice at once, so only one thread uses the
        enrolment.
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
        """Reads everything. Objects that change meanwhile are read in between, without waiting for
        the end.
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
        # Results of incremental reads replace older pages. If a later page is newer still, a watch
        # event for it will follow.
        self._enrolment.use_incremental_read(meanwhile)
        return reading

    def _amended(self, yield_cpu: Callable[[], None]) -> Update:
        began = self._clock.seconds()
        if not isinstance(self.source, ChangingSource):
            raise TypeError(f"a change of single objects was reported for {self.source}, which can only be read whole")
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
        """Takes over the result in the reactor. Almost nothing here takes longer with more
        tenants.
        """
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
        self._unlogged += outcome.lines
        if self._logging is None or not self._logging.active():
            self._log_lines()
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
        self._log_paused(messages.PAUSED_NOW, snapshot.paused - (before.paused if before else frozenset()))
        self._log_paused(messages.RESUMED, (before.paused if before else frozenset()) - snapshot.paused)
        for listener in list(self.listeners):
            listener(snapshot)

    def _log_paused(self, line: messages.LogLine, namespaces: Set[str]) -> None:
        if namespaces:
            names = sorted(namespaces)
            more = f" and {len(names) - NAMED} more" if names[NAMED:] else ""
            self._log.write(line, namespaces=f"{', '.join(names[:NAMED])}{more}")

    def _retry_later(self, asked: float = 0.0) -> None:
        if self.running:
            self._retry.failed(at_least=min(asked, self._interval))

    def _log_lines(self) -> None:
        for _ in range(min(LINES_AT_ONCE, len(self._unlogged))):
            message, problem = self._unlogged.popleft()
            self._log.write(message, problem=problem, problem_code=problem.reason.code)
        if self._unlogged and self.running:
            self._logging = self._clock.callLater(0, self._log_lines)


def _news(before: list[Problem], after: list[Problem]) -> list[tuple[messages.LogLine, Problem]]:
    """Returns the lines to log: new problems, and fixed ones. A lasting problem is logged once."""
    if after == before:
        return []
    lines = [(messages.TENANT_PROBLEM, problem) for problem in sorted(set(after) - set(before))]
    return lines + [(messages.FIXED, problem) for problem in sorted(set(before) - set(after))]


def _at_once(call: Callable[..., object], *arguments: object) -> None:
    call(*arguments)
