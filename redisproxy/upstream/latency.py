"""How long Redis takes: a PING among the commands of the multiplexed connections that are busy, once a second.

Owns the samples. A PING waits where commands wait, in the upstream connection's queue, in Redis's, and on the wire; to time
commands
themselves would cost each of them. Upstream connections that carried nothing since the last look are left alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.application import service
from twisted.internet import task
from twisted.internet.interfaces import IReactorTime

from .. import bounds
from ..resp.framing import encode
from ..session.pending import ReplyBatch
from .connection import RedisConnection
from .multiplexed import MultiplexedConnection

#: Seconds between two looks.
INTERVAL = 1.0
_PING = encode([b"PING"])


class _Ping:
    """Receives the reply to one PING: a `session.ports.ReplyReceiver`.

    If the upstream connection was not read for a while, the reply says nothing.
    """

    def __init__(self, clock: IReactorTime, connection: RedisConnection, observe: Callable[[float], None]) -> None:
        self._clock = clock
        self._connection = connection
        self._observe = observe
        self._since = clock.seconds()
        self._pauses = connection.pauses

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """See `session.ports.ReplyReceiver`."""
        if ended and self._connection.pauses == self._pauses:
            self._observe(max(0.0, self._clock.seconds() - self._since))

    def upstream_lost(self, batch: ReplyBatch, partial: bool) -> None:
        """See `session.ports.ReplyReceiver`."""


class Sampler(service.Service):
    """upstream connections: gives those that are shared and in use; observe: called with the seconds of each sample."""

    name = "sampling"

    def __init__(
        self, clock: IReactorTime, upstreams: Callable[[], list[MultiplexedConnection]], observe: Callable[[float], None]
    ) -> None:
        self._clock = clock
        self._connections = upstreams
        self._observe = observe
        self._loop = task.LoopingCall(self._look)
        self._loop.clock = clock
        # What had come over each upstream connection at the last look.
        self._seen: dict[MultiplexedConnection, int] = {}

    def startService(self) -> None:
        super().startService()
        self._loop.start(INTERVAL, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        upstreams = self._connections()
        # One that is not read from says nothing about Redis.
        usable = [upstream for upstream in upstreams if not (upstream.busy or upstream.connection.held)]
        moved = [upstream for upstream in usable if upstream.connection.bytes_received != self._seen.get(upstream)]
        sampled = random.sample(moved, min(bounds.SAMPLED_CONNECTIONS, len(moved)))
        for upstream in sampled:
            upstream.send(_PING, ReplyBatch(_Ping(self._clock, upstream.connection, self._observe), 1, discard=1))
        # The answer to the PING is no use of the upstream connection: what it brings is counted as seen.
        pong = len(b"+PONG\r\n")
        self._seen = {each: each.connection.bytes_received + (pong if each in sampled else 0) for each in upstreams}
