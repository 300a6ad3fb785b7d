"""How long Redis takes: a PING among the commands of the shared lanes that are busy, once a second.

Owns the samples. A PING waits where commands wait, in the lane's queue, in Redis's, and on the wire; to time commands
themselves would cost each of them. Lanes that carried nothing since the last look are left alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from twisted.application import service
from twisted.internet import task
from twisted.internet.interfaces import IReactorTime

from ..resp.framing import encode
from ..session.pending import Owed
from .connection import LaneProtocol
from .multiplexed import SharedLane

#: Seconds between two looks.
INTERVAL = 1.0
#: Lanes that are sampled at one look; of more, some by chance.
AT_ONCE = 20
_PING = encode([b"PING"])


class _Ping:
    """The owner of one debt: see `session.pending.Owner`. Where the lane was not read for a while, it says nothing."""

    def __init__(self, clock: IReactorTime, connection: LaneProtocol, observe: Callable[[float], None]) -> None:
        self._clock = clock
        self._connection = connection
        self._observe = observe
        self._since = clock.seconds()
        self._pauses = connection.pauses

    def replied(self, owed: Owed, piece: bytes, done: int) -> None:
        if done and self._connection.pauses == self._pauses:
            self._observe(max(0.0, self._clock.seconds() - self._since))

    def lane_broke(self, begun: bool) -> None:
        """There is nothing to tell anybody."""


class Sampler(service.Service):
    """lanes: gives those that are shared and in use; observe: called with the seconds of each sample."""

    name = "sampling"

    def __init__(self, clock: IReactorTime, lanes: Callable[[], list[SharedLane]], observe: Callable[[float], None]) -> None:
        self._clock = clock
        self._lanes = lanes
        self._observe = observe
        self._loop = task.LoopingCall(self._look)
        self._loop.clock = clock
        # What had come over each lane when it was looked at last.
        self._seen: dict[SharedLane, int] = {}

    def startService(self) -> None:
        super().startService()
        self._loop.start(INTERVAL, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        lanes = self._lanes()
        # One that is not read from says nothing about Redis.
        usable = [lane for lane in lanes if not (lane.busy or lane.connection.held)]
        moved = [lane for lane in usable if lane.connection.taken != self._seen.get(lane)]
        sampled = random.sample(moved, min(AT_ONCE, len(moved)))
        for lane in sampled:
            lane.send(_PING, Owed(_Ping(self._clock, lane.connection, self._observe), 1, silent=True))
        # The answer to the PING is no use of the lane: what it brings is counted as seen.
        self._seen = {lane: lane.connection.taken + (len(b"+PONG\r\n") if lane in sampled else 0) for lane in lanes}
