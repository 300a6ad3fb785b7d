"""Keeps the current Directory: refreshes it, and tells those who act on a change.

Owns when a source is read, and what the last good answer is. A source's blocking `read` runs in a thread; all else
runs in the reactor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from twisted.application import service
from twisted.internet import defer, task, threads
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..core.enrolment import Enrolment, Problem, Reading
from ..core.tenants import NOT_LOADED, AuthenticationError, Credential, Directory

#: Seconds to wait after the first failed refresh; doubled at each further one, up to the refresh interval.
FIRST_RETRY = 1.0


class Source(Protocol):
    """Where namespaces and secrets are read."""

    def read(self) -> Reading:
        """What it says now. Blocks; called in a thread, never twice at once."""

    def stop(self) -> None:
        """A reading under way may end early: it will not be used."""


class DirectoryService(service.Service):
    """The current Directory.

    interval: seconds between two refreshes; in_thread: calls a blocking function and returns a Deferred.
    """

    name = "directory"
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        source: Source,
        enrolment: Enrolment,
        interval: float,
        in_thread: Callable[..., defer.Deferred] = threads.deferToThread,
    ) -> None:
        self._clock = clock
        self._source = source
        self._enrolment = enrolment
        self._interval = interval
        self._in_thread = in_thread
        #: None until something was read
        self.directory: Directory | None = None
        #: what an operator has to mend
        self.problems: list[Problem] = []
        #: how many databases Redis has, None while that is not known
        self.databases: int | None = None
        #: when a refresh last succeeded in full, in the clock's seconds
        self.refreshed: float | None = None
        #: called with the new Directory after each change, and after an expiry
        self.listeners: list[Callable[[Directory], None]] = []
        self._loop = task.LoopingCall(self.refresh)
        self._loop.clock = clock
        self._reading: defer.Deferred | None = None
        self._again = False
        self._failures = 0
        self._retry: IDelayedCall | None = None
        self._expiry: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._interval, now=True)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        for call in (self._retry, self._expiry):
            if call is not None and call.active():
                call.cancel()
        self._source.stop()

    def refresh(self) -> None:
        """Reads the source, now or as soon as the reading under way is over."""
        if self._reading is not None:
            self._again = True
            return
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._reading = self._in_thread(self._source.read)
        self._reading.addCallbacks(self._read, self._crashed)
        self._reading.addErrback(lambda failure: self._log.failure("the reading could not be used", failure))
        self._reading.addBoth(self._over)

    def _over(self, _: object) -> None:
        self._reading = None
        if self._again and self.running:
            self._again = False
            self.refresh()

    def _crashed(self, failure: object) -> None:
        self._log.failure("reading {source} failed in a way that is a bug", failure, source=str(self._source))
        self._retry_later(None)

    def _read(self, reading: Reading) -> None:
        if not self.running:
            return
        failures = reading.failures()
        self._enrolment.absorb(reading)
        if failures:
            asked = [failure.retry_after for failure in failures if failure.retry_after is not None]
            self._retry_later(max(asked, default=None))
        else:
            if self._failures:
                self._log.info("{source} can be read again", source=str(self._source))
            self._failures = 0
            self.refreshed = self._clock.seconds()
        self.resolve()

    def _retry_later(self, asked: float | None) -> None:
        self._failures += 1
        delay = min(self._interval, FIRST_RETRY * 2 ** min(self._failures - 1, 16))
        delay *= random.uniform(0.75, 1.0)  # noqa: S311 - so that replicas do not return all at once
        if asked is not None:
            delay = max(delay, min(asked, self._interval))
        if self.running:
            self._retry = self._clock.callLater(delay, self.refresh)

    def resolve(self) -> None:
        """Makes the Directory anew from what was last read, and tells the listeners."""
        directory, problems = self._enrolment.resolve(self.databases)
        self._tell_problems(problems)
        if not self._enrolment.loaded:
            return
        before = self.directory
        self.directory = directory
        if before is None or before.tenants != directory.tenants:
            self._log.info(
                "{tenants} tenants with {credentials} credentials, from {source}",
                tenants=len(directory.tenants),
                credentials=len(directory.credentials),
                source=str(self._source),
            )
        self._changed()

    def _changed(self) -> None:
        """The Directory is another one, or the time has come for some of it."""
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        now = self._clock.seconds()
        expires = self.directory.next_expiry(now)
        if expires is not None and self.running:
            # A day at most: the clock may be set meanwhile, and no delay is too long for the reactor then.
            self._expiry = self._clock.callLater(min(expires - now, 86400.0), self._changed)
        for listener in list(self.listeners):
            listener(self.directory)

    def _tell_problems(self, problems: list[Problem]) -> None:
        """Logs what is new and what is over: a lasting fault is told once, not at every refresh."""
        before, after = set(self.problems), set(problems)
        self.problems = problems
        for problem in sorted(after - before):
            self._log.warn("{problem}", problem=str(problem))
        for problem in sorted(before - after):
            self._log.info("mended: {problem}", problem=str(problem))

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError."""
        if self.directory is None:
            raise AuthenticationError(NOT_LOADED, "not-loaded")
        return self.directory.authenticate(username, password, self._clock.seconds())
