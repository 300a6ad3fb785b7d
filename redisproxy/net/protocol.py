"""The base of both protocols that speak RESP: the client's side and Redis's.

Owns what they have in common: bytes in, reading that stops for several reasons at once, the other
side's back-pressure, and that a bug costs one connection alone. In the way of Twisted's
LineReceiver, subclasses override `respReceived` and `respBroken`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from twisted.internet import protocol, unix
from twisted.internet.interfaces import IConsumer, IPushProducer, ISystemHandle, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Attribute, implementer

from .. import bounds
from ..ops.bugs import log_bug
from ..resp.framing import ProtocolError
from .twisted_private import write_at_once

_UNIX = (unix.Server, unix.Client)


class PauseReason:
    """Why a connection is not read from for now: a sum of these."""

    SESSION = 1  #: the session takes no more commands
    PEER = 2  #: the other side does not take what was read
    PLACE = 4  #: it waits for a place, and has sent enough meanwhile
    RATE = 8  #: its tenant has done as much as it may for now


class IRespTransport(ITCPTransport, IPushProducer, IConsumer, ISystemHandle):
    """For types alone: what Twisted's transports of streams have, be it TCP, TLS or, but for TCP's
    own options, Unix.

    No transport declares it; they declare some of its parts.
    """

    bufferSize = Attribute("bytes that are read at once")

    def fileno() -> int:
        """The descriptor of the socket."""


class _Tls(Protocol):
    """A connection with TLS. ISSLTransport does not declare what is below it."""

    transport: IRespTransport


def below_tls(transport: IRespTransport) -> IRespTransport:
    """The transport that has the socket. transport: one with TLS."""
    return cast(_Tls, transport).transport


class RespReceiver(protocol.Protocol):
    """One connection that RESP comes from."""

    _log = Logger()
    #: bytes that came, for the metrics
    bytes_received = 0
    #: how often reading stopped
    pauses = 0
    transport: IRespTransport
    #: see `twisted_private.write_at_once`
    write: Callable[[bytes], None]

    def connectionMade(self) -> None:
        self._held = 0
        self._wide = False
        self.write = write_at_once(self.transport)
        # A Unix socket has no such options, and in older Twisted the methods to set them all the
        # same.
        if hasattr(self.transport, "setTcpNoDelay") and not isinstance(self.transport, _UNIX):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)

    def dataReceived(self, data: bytes) -> None:
        size = len(data)
        self.bytes_received += size
        if size >= bounds.READ_BYTES:
            if not self._wide:
                self._read_up_to(bounds.WIDE_READ_BYTES)
        elif self._wide and size < bounds.SMALL_READ_BYTES:
            self._read_up_to(bounds.READ_BYTES)
        try:
            self.respReceived(data)
        except ProtocolError as error:
            self.respBroken(str(error))
        except Exception:
            self._crashed(Failure())

    def _crashed(self, failure: Failure) -> None:
        """A bug: it costs this connection alone."""
        log_bug(self._log, "{connection}, which alone is closed,", failure, connection=self)
        self.transport.abortConnection()

    def _read_up_to(self, size: int) -> None:
        self._wide = size > bounds.READ_BYTES
        self.transport.bufferSize = size

    def respReceived(self, data: bytes) -> None:
        """The peer's next bytes. May raise ProtocolError, which leads to `respBroken`."""
        raise NotImplementedError

    def respBroken(self, reason: str) -> None:
        """The peer sent what RESP does not allow. By default the connection is aborted."""
        self.transport.abortConnection()

    def pause_reading(self, reason: int) -> None:
        """Stops reading, until every reason is gone."""
        if not self._held:
            self.pauses += 1
            self.transport.pauseProducing()
        self._held |= reason

    @property
    def held(self) -> bool:
        """Whether it is not read from for now."""
        return self._held != 0

    def resume_reading(self, reason: int) -> None:
        """One reason to stop is gone."""
        if self._held & reason:
            self._held &= ~reason
            if not self._held:
                self.transport.resumeProducing()


def _nothing() -> None:
    pass


@implementer(IPushProducer)
class Pressure:
    """Registered as a transport's producer: tells two callables when its buffer is too full, and
    when it is empty.
    """

    def __init__(self, full: Callable[[], object], empty: Callable[[], object]) -> None:
        self._full = full
        self._empty = empty

    def pauseProducing(self) -> None:
        self._full()

    def resumeProducing(self) -> None:
        self._empty()

    def stopProducing(self) -> None:
        """The transport is gone; its protocol is told by connectionLost. One with TLS would hold on
        to us, and we to it.
        """
        self._full = self._empty = _nothing
