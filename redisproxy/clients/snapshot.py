"""Holds the Snapshot that is in force, in a process that serves clients.

Owns who may log in at this moment: it tells those who act on a change of another Snapshot, and of
each expiry. Where Snapshots come from is the business of `sources.reload`, here or in another
process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.application import service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import bounds
from ..ops.bugs import log_bug
from ..tenants.model import NOT_LOADED, AuthenticationError, Credential, Snapshot


class CurrentSnapshot(service.Service):
    """The Snapshot in force.

    clock: for the time between two looks; wall_clock: seconds since the epoch, which may be set at
    any moment.
    """

    name = "snapshot"
    _log = Logger()

    def __init__(self, clock: IReactorTime, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        #: seconds since the epoch now: credentials expire by these alone
        self.wall_clock = wall_clock
        # The wall clock at the last look: no credential that had not expired then has been told of
        # as expired.
        self._looked = 0.0
        #: None until there was one
        self.snapshot: Snapshot | None = None
        #: called with the Snapshot after each change, and after an expiry; one that fails is a bug,
        #: and costs no other
        self.listeners: list[Callable[[Snapshot], object]] = []
        self._next_look: IDelayedCall | None = None

    def stopService(self) -> None:
        super().stopService()
        self._stop_looking()

    def use(self, snapshot: Snapshot) -> None:
        """It is in force from now on."""
        self.snapshot = snapshot
        self._changed(snapshot)

    def _changed(self, snapshot: Snapshot) -> None:
        """The Snapshot is another one, or the time has come for some of it."""
        self._looked = self.wall_clock()
        self._look_later(snapshot)
        for listener in list(self.listeners):
            try:
                listener(snapshot)
            except Exception:
                log_bug(self._log, "a listener to the snapshot", Failure())

    def _look(self, snapshot: Snapshot) -> None:
        """Has a credential expired since the last look? The clock may have been set forward
        meanwhile, or back.
        """
        now = self.wall_clock()
        expires = snapshot.next_expiry(self._looked)
        self._looked = now
        if expires is not None and expires <= now:
            self._changed(snapshot)
        else:
            self._look_later(snapshot)

    def _look_later(self, snapshot: Snapshot) -> None:
        self._stop_looking()
        if not self.running or snapshot.next_expiry(0.0) is None:
            return  # nothing ever expires
        expires = snapshot.next_expiry(self._looked)
        delay = bounds.WALL_CLOCK_CHECK_SECONDS
        if expires is not None:
            delay = min(delay, expires - self._looked)
        self._next_look = self._clock.callLater(delay, self._look, snapshot)

    def _stop_looking(self) -> None:
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError."""
        if self.snapshot is None:
            raise AuthenticationError(NOT_LOADED, "not-loaded")
        return self.snapshot.authenticate(username, password, self.wall_clock())
