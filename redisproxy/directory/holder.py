"""Holds the Directory that is in force, in a process that serves clients.

Owns who may log in at this moment: it tells those who act on a change of another Directory, and of each expiry. Where
Directories come from is the business of `reading`, here or in another process.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.application import service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..core.tenants import NOT_LOADED, AuthenticationError, Credential, Directory

#: Seconds. The clock may be set meanwhile, and no delay is too long for the reactor then.
LONGEST_WAIT = 86400.0


class DirectoryHolder(service.Service):
    """The Directory in force."""

    name = "directory"
    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: None until there was one
        self.directory: Directory | None = None
        #: called with the Directory after each change, and after an expiry; one that fails is a bug, and costs no other
        self.listeners: list[Callable[[Directory], None]] = []
        self._expiry: IDelayedCall | None = None

    def stopService(self) -> None:
        super().stopService()
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()

    def use(self, directory: Directory) -> None:
        """It is in force from now on."""
        self.directory = directory
        self._changed()

    def _changed(self) -> None:
        """The Directory is another one, or the time has come for some of it."""
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        now = self._clock.seconds()
        expires = self.directory.next_expiry(now)
        if expires is not None and self.running:
            self._expiry = self._clock.callLater(min(expires - now, LONGEST_WAIT), self._changed)
        for listener in list(self.listeners):
            try:
                listener(self.directory)
            except Exception:
                self._log.failure("a listener to the directory failed")

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError."""
        if self.directory is None:
            raise AuthenticationError(NOT_LOADED, "not-loaded")
        return self.directory.authenticate(username, password, self._clock.seconds())
