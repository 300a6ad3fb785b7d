"""Fakes for tests of the connection pool: a reactor with the test's clock, and receivers that
record calls.
"""

from __future__ import annotations

from twisted.internet import reactor, task

from redisproxy.session.pending import ReplyBatch


class Silent:
    """Holds a connection to Redis as a session does, and counts how often it was lost."""

    def __init__(self) -> None:
        self.lost = 0

    def upstream_lost(self) -> None:
        self.lost += 1


class ClockedReactor:
    """The real reactor's sockets, and a Clock's time."""

    def __init__(self) -> None:
        self.clock = task.Clock()
        self.callLater = self.clock.callLater
        self.seconds = self.clock.seconds
        self.getDelayedCalls = self.clock.getDelayedCalls

    def __getattr__(self, name: str) -> object:
        return getattr(reactor, name)


class Heard:
    """Records the pieces of replies that it gets."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        self.heard.append(piece)
