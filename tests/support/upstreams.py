"""What tests of upstream connections give the pool: a reactor whose clock is the test's, and takers
of upstream connections that note what they are told.
"""

from __future__ import annotations

from twisted.internet import reactor, task

from redisproxy.session.pending import ReplyBatch


class Silent:
    """Takes an upstream connection as a session does."""

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
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        self.heard.append(piece)
