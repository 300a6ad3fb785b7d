"""Uses private names of Twisted's transports: to write at once, to close at once, and to discard
what is queued.

Owns the rules for when each is allowed. Twisted's `write` always queues the bytes, and then needs
two epoll calls and one more turn of the reactor for each reply. `write_at_once` tries the socket
first and queues only what the kernel does not accept. Everything that is not the plain case goes to
Twisted's `write`, so the queue, producers, closing and errors stay Twisted's.

`write_at_once` is a function, not a subclass: it works for listening, connecting and adopted
sockets, for TCP and Unix, and installs nothing. Twisted has no public name for "something is
queued" or "the connection is being aborted". With a Twisted that lacks these private names,
Twisted's own `write` is used, which is slower but correct.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import TypeGuard

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

_PRIVATE = ("dataBuffer", "_tempDataBuffer", "_aborting")

# For each class of transports, whether it is Twisted's own and has these names.
_known: dict[type, bool] = {}


def _is_known(transport: ITransport) -> TypeGuard[Connection]:
    kind = type(transport)
    known = _known.get(kind)
    if known is None:
        known = isinstance(transport, Connection) and all(hasattr(transport, name) for name in _PRIVATE)
        _known[kind] = known
    return known


def write_at_once(transport: ITransport) -> Callable[[bytes], None]:
    """Returns a function to use instead of `transport.write`, in the reactor's thread, once the
    transport is connected.

    It is `transport.write` itself for everything but Twisted's own TCP and Unix sockets: for TLS
    and for transports of tests, for example.

    There are two differences from `transport.write`. A streaming producer is paused only for bytes
    that the kernel did not accept. A reset that a write finds before a read does may look like an
    orderly end, because a socket reports it once. In either case the reactor notifies the protocol,
    never the write.
    """
    if not _is_known(transport):
        return transport.write
    # Where Twisted only wraps the socket's `send`, calling that directly saves 5 % of the proxy's
    # time. On Unix sockets Twisted's method also passes descriptors.
    plain = type(transport).writeSomeData is Connection.writeSomeData
    send = transport.getHandle().send if plain else transport.writeSomeData
    # As much as the widest read. Of a larger write the rest would be copied here, for little gain.
    limit = 2 * transport.SEND_LIMIT

    def write(data: bytes) -> None:
        if (
            transport._tempDataBuffer  # the bytes must stay in order
            or transport.dataBuffer
            or not transport.connected
            or transport._aborting  # nothing must be sent any more
            or transport.TLS  # after startTLS
            # Twisted asks a pull producer for more, and resumes a paused one, when its queue
            # becomes empty.
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
        # Also after an error (writeSomeData returns one): the next write fails as well, and the
        # reactor makes that one.
        transport.write(data[sent:] if isinstance(sent, int) else data)

    return write


_DONE = Failure(ConnectionDone())


def close_if_written(transport: ITransport) -> bool:
    """Closes the connection in this turn if nothing is queued. Returns whether it did.

    For a protocol's `readConnectionLost`. Twisted does the same for a protocol that does not handle
    half-closed connections: the kernel still delivers what it has. `loseConnection` would first
    wait until epoll says that the socket is writable. Returns False for all but Twisted's own
    sockets.
    """
    if not _is_known(transport) or transport.TLS:
        return False
    if transport.dataBuffer or transport._tempDataBuffer:
        return False
    transport.connectionLost(_DONE)
    return True


def unsent(transport: ITransport) -> int:
    """How many bytes were written that the kernel has not accepted yet; 0 if that is unknown.

    With TLS these are encrypted bytes.
    """
    below: object = transport.transport if isinstance(transport, TLSMemoryBIOProtocol) else transport
    waiting = len(getattr(below, "dataBuffer", b"")) - getattr(below, "offset", 0)
    return waiting + getattr(below, "_tempDataLen", 0)


def unacknowledged(transport: ITransport) -> int:
    """How many bytes were written that the other side has not acknowledged yet, if that is known.

    It changes while the other side reads. The kernel alone may keep megabytes for a peer that
    reads slowly, and then takes none for a while.
    """
    below: object = transport.transport if isinstance(transport, TLSMemoryBIOProtocol) else transport
    in_kernel = 0
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError):  # closed, or no socket
        in_kernel = struct.unpack("i", fcntl.ioctl(below.fileno(), termios.TIOCOUTQ, bytes(4)))[0]  # type: ignore[attr-defined]
    return unsent(transport) + in_kernel


def has_unsent(transport: ITransport) -> bool:
    """Whether something was written that the kernel has not accepted yet."""
    queued: ITransport | None = transport
    if isinstance(transport, TLSMemoryBIOProtocol):
        if getattr(transport, "_appSendBuffer", ()):
            return True
        queued = transport.transport
    return bool(getattr(queued, "dataBuffer", b"") or getattr(queued, "_tempDataBuffer", ()))


def discard_unsent(transport: ITransport) -> bool:
    """Discards what the kernel has not accepted yet, even in the middle of a command. Returns False
    if that is impossible, as with TLS.
    """
    if not has_unsent(transport):
        return True
    if not isinstance(transport, Connection) or transport.TLS:
        return False
    transport.dataBuffer, transport.offset = b"", 0
    transport._tempDataBuffer, transport._tempDataLen = [], 0
    return True
