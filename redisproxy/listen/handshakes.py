"""TLS handshakes: how many are made in one turn of the reactor, and whose is next.

A handshake costs the proxy a signature: a millisecond or more with an RSA key. It costs a client
that only repeats a recorded first message nothing. Owns the queue of handshakes that wait, and the
TLS of each accepted connection. In one turn of the reactor, handshakes are made for
HANDSHAKE_TURN_SECONDS. One source address after the other has its turn. Of one address, clients
that have answered the proxy's part are apart from those that only began, and of the latter the
newest comes first: if more come than the proxy can serve, some are served at once, and not all of
them too late.

After its handshake a connection may have thousands of small records in one read. From then on these
are the work of its tenant: see `tenants.deferred`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from .. import bounds, probes
from ..tenants.deferred import DeferredReads
from ..tenants.work import Budget

#: The head of a record: its type, version, and length.
_HEAD = 5
#: Types of records. Anything else is an error, which OpenSSL reports.
_TYPES = range(20, 25)
#: What a record of TLS 1.3 has besides its content, at least: head, type, and tag.
_RECORD_OVERHEAD = 22


class Client(Protocol):
    """A client's connection."""

    #: decrypted
    bytes_received: int

    @property
    def work(self) -> Budget:
        """The share of work that it uses."""


class HandshakeQueue:
    """The handshakes of some ports."""

    def __init__(self, clock: IReactorTime) -> None:
        self._seconds: Callable[[], float] = clock.seconds
        self._clock = clock
        # What is left of this turn of the reactor.
        self._time = bounds.HANDSHAKE_TURN_SECONDS
        self._steps = bounds.HANDSHAKES_PER_TURN
        # Those that wait, by whether they have begun, and by address: whose turn is next comes
        # first.
        self._waiting: dict[tuple[bool, str], dict[QueuedTls, None]] = {}
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def add(self, handshake: QueuedTls) -> None:
        """Lets a handshake go on: now, or when its turn comes."""
        if self._waiting or self._time <= 0 or self._steps <= 0:
            probes.reached("TLS handshake waits for its turn")
            self._waiting.setdefault(handshake.turn, {})[handshake] = None
        else:
            self._step(handshake)
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._turn)

    def leave(self, handshake: QueuedTls) -> None:
        """The connection is gone."""
        same = self._waiting.get(handshake.turn)
        if same is not None:
            same.pop(handshake, None)
            if not same:
                del self._waiting[handshake.turn]

    def _step(self, handshake: QueuedTls) -> None:
        began = self._seconds()
        handshake.go_on()
        self._time -= self._seconds() - began
        self._steps -= 1

    def _turn(self) -> None:
        """Begins a turn of the reactor."""
        self._scheduled = False
        self._time, self._steps = bounds.HANDSHAKE_TURN_SECONDS, bounds.HANDSHAKES_PER_TURN
        while self._waiting and self._time > 0 and self._steps > 0:
            turn = next(iter(self._waiting))
            same = self._waiting.pop(turn)
            begun, _ = turn
            handshake = next(iter(same)) if begun else next(reversed(same))
            del same[handshake]
            if same:
                self._waiting[turn] = same  # behind the others
            self._step(handshake)
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._turn)


class QueuedTls(BufferingTLSTransport):
    """The TLS of one connection."""

    factory: QueuedTlsFactory
    transport: FileDescriptor
    #: in whose turn its handshake goes on: whether the client has answered, and its address
    turn = (False, "")
    # What the client sent in its handshake, and OpenSSL did not get.
    _bytes = b""
    _queued = False
    # Whether it is not read because of that.
    _paused = False
    _gone = False
    # Whether it is a client of Redis: an HTTP client has no tenant.
    _counted = False
    # None until there are many small records in one read.
    _deferred: DeferredReads | None = None

    def dataReceived(self, data: bytes) -> None:
        """See IProtocol."""
        if self._handshakeDone:
            self._deal_out(data)
            return
        self._bytes += data
        if not self._queued:
            self._queue()
        # Its end of file would end the connection before what stands in front of it.
        if self._queued and (self.turn[0] or len(self._bytes) > bounds.HANDSHAKE_BYTES):
            self._read_no_more()

    def _queue(self) -> None:
        """Waits for the turn of the handshake, if there is anything to do."""
        if _whole_records(self._bytes):
            self._queued = True
            self.turn = self.turn[0], getattr(self.wrappedProtocol, "address", "")
            self.factory.handshakes.add(self)

    def go_on(self) -> None:
        """The turn of its handshake has come."""
        size = _whole_records(self._bytes)
        data, self._bytes = self._bytes[:size], self._bytes[size:]
        self._queued = False
        self.turn = True, self.turn[1]
        super().dataReceived(data)
        if self._handshakeDone:
            self._counted = hasattr(self.wrappedProtocol, "work")
            data, self._bytes = self._bytes, b""
            if data:
                self._deal_out(data)
        elif self._lostTLSConnection or self._aborted:
            self._bytes = b""
        else:
            self._queue()
        if not self._queued:
            self._read_on()

    def _read_no_more(self) -> None:
        self._paused = True
        self.transport.pauseProducing()

    def _read_on(self) -> None:
        paused, self._paused = self._paused, False
        if paused and not (self._gone or self._lostTLSConnection or getattr(self.wrappedProtocol, "held", False)):
            self.transport.resumeProducing()

    def _deal_out(self, data: bytes) -> None:
        if not self._counted:
            super().dataReceived(data)
        elif self._deferred is not None:
            self.transport.bufferSize = min(self.transport.bufferSize, bounds.SMALL_READ_BYTES)
            self._deferred.received(data, self._client.work)
        elif self._records(data) > bounds.TLS_RECORDS and not self._gone:
            probes.reached("many small records of TLS are work")
            self._deferred = DeferredReads(self._records, self._read_no_more, self._read_on)

    def _records(self, data: bytes) -> int:
        """Decrypts bytes, and has their content handled. Returns how many records these were, at
        most.
        """
        client = self._client
        before = client.bytes_received
        super().dataReceived(data)
        return (len(data) - client.bytes_received + before) // _RECORD_OVERHEAD

    @property
    def _client(self) -> Client:
        return cast(Client, self.wrappedProtocol)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See IProtocol."""
        self._gone = True
        if self._queued:
            self.factory.handshakes.leave(self)
        if self._deferred is not None:
            self._deferred.end()
            self._deferred = None
        self._bytes = b""
        super().connectionLost(reason)


def _whole_records(data: bytes) -> int:
    """Returns how many bytes of a handshake OpenSSL can do anything with: whole records, but not
    more than TLS_RECORDS.
    """
    end = 0
    for _ in range(bounds.TLS_RECORDS):
        if len(data) - end < _HEAD:
            break
        if data[end] not in _TYPES:
            return len(data)
        following = end + _HEAD + int.from_bytes(data[end + 3 : end + 5], "big")
        if following > len(data):
            break
        end = following
    return end


class QueuedTlsFactory(TLSMemoryBIOFactory):
    """Adds TLS to connections. handshakes: the queue of their handshakes."""

    protocol = QueuedTls

    def __init__(
        self,
        tls: IOpenSSLServerConnectionCreator,
        factory: IProtocolFactory,
        clock: IReactorTime,
        handshakes: HandshakeQueue,
    ) -> None:
        super().__init__(tls, False, factory, clock)
        self.handshakes = handshakes
