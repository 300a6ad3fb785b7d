"""The Snapshot in force, in a process that serves clients.

Owns who may log in at this moment, and notifies listeners of each new Snapshot and of each expiry
of a credential. `sources.reload` makes the Snapshots, in this process or in another one.
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

    clock: for the time between two checks; wall_clock: returns seconds since the epoch, and may be
    set at any moment.
    """

    name = "snapshot"
    _log = Logger()

    def __init__(self, clock: IReactorTime, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        #: returns seconds since the epoch; only this clock decides when a credential expires
        self.wall_clock = wall_clock
        # The wall clock at the last check. Listeners were notified of no expiry after that moment.
        self._looked = 0.0
        #: None until the first one
        self.snapshot: Snapshot | None = None
        #: called with the Snapshot after each change and each expiry; if one fails, that is logged
        #: as a bug, and the others are still called
        self.listeners: list[Callable[[Snapshot], object]] = []
        self._next_look: IDelayedCall | None = None

    def stopService(self) -> None:
        super().stopService()
        self._stop_looking()

    def use(self, snapshot: Snapshot) -> None:
        """Puts a Snapshot in force."""
        self.snapshot = snapshot
        self._changed(snapshot)

    def _changed(self, snapshot: Snapshot) -> None:
        """Notifies the listeners: the Snapshot is new, or a credential of it has expired."""
        self._looked = self.wall_clock()
        self._look_later(snapshot)
        for listener in list(self.listeners):
            try:
                listener(snapshot)
            except Exception:
                log_bug(self._log, "a listener to the snapshot", Failure())

    def _look(self, snapshot: Snapshot) -> None:
        """Checks whether a credential has expired since the last check.

        The wall clock may have been set meanwhile, forward or back.
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
        """Returns the credential of a password, by the wall clock. Raises AuthenticationError."""
        if self.snapshot is None:
            raise AuthenticationError(NOT_LOADED, "not-loaded")
        return self.snapshot.authenticate(username, password, self.wall_clock())
