"""Connections of the proxy's own clients to a Redis that the test plays (`upstream.client`)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import defer, task
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from redisproxy import bounds
from redisproxy.tenants.model import BackendAddress
from redisproxy.upstream.client import Connection, RedisClient


class Transport(StringTransport):
    def __init__(self, upstream: Upstream, clock: task.Clock) -> None:
        super().__init__()
        self.upstream = upstream
        self.clock = clock

    def abortConnection(self) -> None:
        self.upstream.dropped = True
        self.clock.callLater(0, self.upstream.lose)


class Upstream:
    """A connection, from the side of Redis."""

    def __init__(self, protocol: Connection, clock: task.Clock) -> None:
        self.protocol = protocol
        self.transport = Transport(self, clock)
        self.dropped = False
        self.lost = False
        protocol.makeConnection(self.transport)

    def gets(self) -> bytes:
        sent = self.transport.value()
        self.transport.clear()
        return sent

    def redis(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(ConnectionLost()))


@implementer(IStreamClientEndpoint)
class Pool:
    """Redis's address: makes connections to it."""

    def __init__(self, clock: task.Clock) -> None:
        self._clock = clock
        self.upstreams: list[Upstream] = []
        #: None if a connection is there at once
        self.opening: defer.Deferred | None = None

    def client(self, address: BackendAddress, changed: Callable[[RedisClient], object]) -> RedisClient:
        return RedisClient(
            self._clock, address, lambda: self, 5.0, changed, reply_timeout=None, reply_limit=bounds.QUERY_REPLY_BYTES
        )

    def connect(self, factory: Factory) -> defer.Deferred:
        connecting = defer.succeed(None) if self.opening is None else self.opening
        return connecting.addCallback(lambda _: self._connected(factory))

    def _connected(self, factory: Factory) -> Connection:
        protocol = factory.buildProtocol(None)
        self.upstreams.append(Upstream(protocol, self._clock))
        return protocol
