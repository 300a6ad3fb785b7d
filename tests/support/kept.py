"""Joins the service that reads credentials with the one that holds them, as in a proxy of one
process.
"""

from __future__ import annotations

from collections.abc import Callable

from redisproxy.clients.snapshot import CurrentSnapshot
from redisproxy.sources.reload import ReloadService, Source
from redisproxy.tenants.enrolment import Enrolment
from redisproxy.tenants.model import Credential, Snapshot


class KeptSnapshot:
    """A ReloadService and the CurrentSnapshot that it feeds. Attributes that are not defined here
    are the ReloadService's.
    """

    def __init__(
        self, clock: object, source: Source, enrolment: Enrolment, interval: float, *arguments: object, **named: object
    ) -> None:
        self.reading = ReloadService(clock, source, enrolment, interval, *arguments, **named)
        self.current = CurrentSnapshot(clock, clock.seconds)
        self.reading.listeners.append(self.current.use)

    def __getattr__(self, name: str) -> object:
        return getattr(self.reading, name)

    @property
    def listeners(self) -> list[Callable[[Snapshot], None]]:
        return self.current.listeners

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        return self.current.authenticate(username, password)

    def startService(self) -> None:
        self.current.startService()
        self.reading.startService()

    def stopService(self) -> None:
        self.reading.stopService()
        self.current.stopService()
