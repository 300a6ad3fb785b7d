"""Writing at once: a transport's `write` that tries the socket first, and queues only what the
kernel does not take.

Owns when that may be done, when a connection may be closed at once, and how what was queued is
taken back. Twisted's `write` always queues, and asks epoll twice and the reactor once more for each
answer. The queue, the producers, closing and errors stay Twisted's: whatever is not the plain case
goes to its `write`.

A function and no subclass: it serves listening, connecting and adopted sockets, TCP and Unix, and
installs nothing. For whether something is queued, or the connection being aborted, Twisted has no
public name; a Twisted that calls these otherwise gets its own `write`, slower and no less right.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

_PRIVATE = ("dataBuffer", "_tempDataBuffer", "_aborting")


def write_at_once(transport: ITransport) -> Callable[[bytes], None]:
    """A callable to use as `transport.write`, in the reactor's thread, once the transport is
    connected.

    It is `transport.write` itself for all but Twisted's own TCP and Unix sockets, so for TLS and in
    tests.

    Unlike there, a streaming producer is paused only for what the kernel did not take. A reset that
    is found by a write and not by a read can be shown as an orderly end: a socket tells it once.
    Either way the protocol hears of it from the reactor, never from within the write.
    """
    if not isinstance(transport, Connection) or not all(hasattr(transport, name) for name in _PRIVATE):
        return transport.write
    # Where Twisted only wraps the socket's send, the socket's own is worth 5 % of a proxy's time.
    # Unix sockets pass descriptors along, too.
    plain = type(transport).writeSomeData is Connection.writeSomeData
    send = transport.getHandle().send if plain else transport.writeSomeData
    # As much as is read at once; what is left of more would be copied here for little.
    limit = 2 * transport.SEND_LIMIT

    def write(data: bytes) -> None:
        if (
            transport._tempDataBuffer  # the bytes have an order
            or transport.dataBuffer
            or not transport.connected
            or transport._aborting  # nothing may be sent any more
            or transport.TLS  # since a startTLS
            # A pull producer is asked for more, and a paused one resumed, when the queue has run
            # empty.
            or (transport.producer is not None and (transport.producerPaused or not transport.streamingProducer))
            or not isinstance(data, bytes)
            or len(data) > limit
        ):
            transport.write(data)
            return
        try:
            sent = send(data)
        except OSError:
            sent = 0
        if sent == len(data):
            return
        # After an error too (writeSomeData returns it): the next write fails as well, and that one
        # the reactor makes.
        transport.write(data[sent:] if isinstance(sent, int) else data)

    return write


_DONE = Failure(ConnectionDone())


def close_if_written(transport: ITransport) -> bool:
    """For a protocol's `readConnectionLost`: closes the connection in this turn, if all has been
    written. Whether it has.

    As Twisted does where a protocol does not care for half-closed connections: what the kernel
    still has is delivered. `loseConnection` would ask epoll first whether it can write nothing.
    False for all but Twisted's own sockets.
    """
    if not isinstance(transport, Connection) or not all(hasattr(transport, name) for name in _PRIVATE) or transport.TLS:
        return False
    if transport.dataBuffer or transport._tempDataBuffer:
        return False
    transport.connectionLost(_DONE)
    return True


def has_unsent(transport: ITransport) -> bool:
    """Whether the kernel has not taken all that was written."""
    queued: ITransport | None = transport
    if isinstance(transport, TLSMemoryBIOProtocol):
        if getattr(transport, "_appSendBuffer", ()):
            return True
        queued = transport.transport
    return bool(getattr(queued, "dataBuffer", b"") or getattr(queued, "_tempDataBuffer", ()))


def discard_unsent(transport: ITransport) -> bool:
    """Forgets what the kernel has not taken, be it within a command. False: that cannot be done, as
    with TLS.
    """
    if not has_unsent(transport):
        return True
    if not isinstance(transport, Connection) or transport.TLS:
        return False
    transport.dataBuffer, transport.offset = b"", 0
    transport._tempDataBuffer, transport._tempDataLen = [], 0
    return True
