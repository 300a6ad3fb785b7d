"""The base class of both protocols that speak RESP: the client's side and Redis's side.

Owns reading, pausing for several reasons at once, and reporting the other side's back-pressure. A
bug in a subclass closes one connection only. As with Twisted's LineReceiver, subclasses override
`respReceived` and `respBroken`. Must not know what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from twisted.internet import protocol
from twisted.internet.interfaces import IConsumer, IPushProducer, ISystemHandle, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Attribute, implementer

from .. import bounds
from ..ops.bugs import log_bug
from ..resp.framing import ProtocolError
from .twisted_private import write_at_once


class PauseReason:
    """Why a connection is not read for now. The values are bits, so reasons can be added."""

    SESSION = 1  #: the session takes no more commands
    PEER = 2  #: the other side does not accept what was read
    RATE = 4  #: its tenant is over its rate
    WORK = 8  #: what was read waits for its tenant's turn


class IRespTransport(ITCPTransport, IPushProducer, IConsumer, ISystemHandle):
    """Only for type checks: what Twisted's stream transports have, for TCP, TLS and Unix sockets.

    No transport declares all of it; each declares parts. Unix sockets lack TCP's own options.
    """

    bufferSize = Attribute("bytes that are read at once")

    def fileno() -> int:
        """The descriptor of the socket."""


class _Tls(Protocol):
    """A TLS connection. ISSLTransport does not declare the transport below."""

    transport: IRespTransport


def below_tls(transport: IRespTransport) -> IRespTransport:
    """Returns the transport that has the socket. transport: one with TLS."""
    return cast(_Tls, transport).transport


class RespReceiver(protocol.Protocol):
    """One connection that receives RESP."""

    _log = Logger()
    #: bytes received, for the metrics
    bytes_received = 0
    #: how often reading was paused
    pauses = 0
    transport: IRespTransport
    #: see `twisted_private.write_at_once`
    write: Callable[[bytes], None]

    def connectionMade(self) -> None:
        self._held = 0
        self._wide = False
        self.write = write_at_once(self.transport)

    def dataReceived(self, data: bytes) -> None:
        size = len(data)
        self.bytes_received += size
        if size >= bounds.SMALL_READ_BYTES:
            self._read_much(size)
        elif self._wide:
            self._read_up_to(bounds.READ_BYTES)
        try:
            self.respReceived(data)
        except ProtocolError as error:
            self.respBroken(str(error))
        except Exception:
            self._crashed(Failure())

    def _read_much(self, size: int) -> None:
        """So many bytes were read at once, at least SMALL_READ_BYTES."""
        if size >= bounds.READ_BYTES and not self._wide:
            self._read_up_to(bounds.WIDE_READ_BYTES)

    def _crashed(self, failure: Failure) -> None:
        """Logs a bug and closes this connection only."""
        log_bug(self._log, "{connection} (only this connection is closed)", failure, connection=self)
        self.transport.abortConnection()

    def _read_up_to(self, size: int) -> None:
        self._wide = size > bounds.READ_BYTES
        self.transport.bufferSize = size

    def respReceived(self, data: bytes) -> None:
        """Handles the peer's next bytes. If this raises ProtocolError, `respBroken` is called."""
        raise NotImplementedError

    def respBroken(self, reason: str) -> None:
        """Called when the peer sent what RESP does not allow. By default, aborts the connection."""
        self.transport.abortConnection()

    def pause_reading(self, reason: int) -> None:
        """Stops reading until every reason is removed. reason: one of PauseReason."""
        if not self._held:
            self.pauses += 1
            self.transport.pauseProducing()
        self._held |= reason

    @property
    def held(self) -> bool:
        """Whether reading is paused."""
        return self._held != 0

    def resume_reading(self, reason: int) -> None:
        """Removes one reason. Reads on if no other reason is left."""
        if self._held & reason:
            self._held &= ~reason
            if not self._held:
                self.transport.resumeProducing()


def _nothing() -> None:
    pass


@implementer(IPushProducer)
class Pressure:
    """A producer to register at a transport: calls `full` when the transport's buffer is too full,
    and `empty` when it is empty again.
    """

    def __init__(self, full: Callable[[], object], empty: Callable[[], object]) -> None:
        self._full = full
        self._empty = empty

    def pauseProducing(self) -> None:
        self._full()

    def resumeProducing(self) -> None:
        self._empty()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` notifies its protocol. A TLS transport would keep
        a reference to this object, so the references back are dropped.
        """
        self._full = self._empty = _nothing
