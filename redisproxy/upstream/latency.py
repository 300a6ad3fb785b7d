"""Samples how long Redis takes to answer, and how long each tenant's commands take.

Owns the samples: PINGs of the proxy's own on multiplexed connections. Once a second, busy
connections get a PING among their commands. The PING waits where commands wait: in the connection's
queue, in Redis's queue, and on the wire. So it measures Redis.

Another PING follows the commands that a tenant's connection writes next, in the same write. Its
reply comes after all their replies. So it measures the tenant's commands. To time each command
would make each command slower.

A connection that carried nothing in the last second gets no PING of the first kind. It gets one of
the second kind only with its next commands.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from twisted.application import service
from twisted.internet import task
from twisted.internet.interfaces import IReactorTime

from .. import bounds
from ..resp.framing import encode
from ..session.pending import ReplyBatch
from .connection import RedisConnection
from .multiplexed import MultiplexedConnection

#: Seconds between two rounds of samples.
INTERVAL = 1.0
_PING = encode([b"PING"])


class _Ping:
    """Receives the reply to one PING: a `session.ports.ReplyReceiver`.

    If reading from the connection was paused meanwhile, the time is not used.
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

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """See `session.ports.ReplyReceiver`."""


class Sampler(service.Service):
    """Samples the latency once a second.

    upstreams: returns the multiplexed connections in use; observe: called with the seconds of each
    sample of Redis; observe_tenant: called with a namespace, and the seconds that commands of its
    tenant took.
    """

    name = "sampling"

    def __init__(
        self,
        clock: IReactorTime,
        upstreams: Callable[[], list[MultiplexedConnection]],
        observe: Callable[[float], None],
        observe_tenant: Callable[[str, float], None],
    ) -> None:
        self._clock = clock
        self._connections = upstreams
        self._observe = observe
        self._observe_tenant = observe_tenant
        self._loop = task.LoopingCall(self._look)
        self._loop.clock = clock
        # The bytes received over each connection at the last round.
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
        # A connection that is not read from says nothing about Redis. Nor does one whose commands
        # wait for their tenant's window.
        usable = [each for each in upstreams if not (each.busy or each.in_rounds or each.connection.held)]
        moved = [upstream for upstream in usable if upstream.connection.bytes_received != self._seen.get(upstream)]
        sampled = random.sample(moved, min(bounds.SAMPLED_CONNECTIONS, len(moved)))
        for upstream in sampled:
            upstream.send_nothing_behind()  # this PING is no command of the tenant
            upstream.send(_PING, self._batch(upstream, self._observe))
        # The answer to the PING does not make the connection busy: its bytes count as seen.
        pong = len(b"+PONG\r\n")
        self._seen = {each: each.connection.bytes_received + (pong if each in sampled else 0) for each in upstreams}
        untimed = [upstream for upstream in usable if not upstream.sends_behind_next]
        for upstream in random.sample(untimed, min(bounds.TIMED_CONNECTIONS, len(untimed))):
            tenant = upstream.connection.tenant
            if tenant is not None:
                observe = partial(self._observe_tenant, tenant.namespace)
                upstream.send_behind_next(_PING, partial(self._batch, upstream, observe))

    def _batch(self, upstream: MultiplexedConnection, observe: Callable[[float], None]) -> ReplyBatch:
        """Makes the batch of a PING that is sent now. No session gets its reply."""
        return ReplyBatch(_Ping(self._clock, upstream.connection, observe), 1, discard=1)
