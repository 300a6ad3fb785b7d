"""Ports at which several processes accept: each worker accepts at the sockets that it inherits.

Owns when this process accepts the next connection, and what closing its port means.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IReactorFDSet,
    IReactorSocket,
    IReactorTime,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import messages
from ..ops.logs import Log

#: Seconds that a process leaves a connection to the others.
_YIELD = 0.002
#: Seconds until the next attempt after accepting failed: most often there were too many open files.
_PAUSE = 1.0


def always(_: bool) -> bool:
    """Whether this process takes the next connection: it does, whatever the others do."""
    return True


class InheritingReactor:
    """A reactor whose methods to listen all return the one socket that already listens."""

    def __init__(self, reactor: IReactorFDSet, listening: socket.socket, may_take: Callable[[bool], bool]) -> None:
        self._reactor = reactor
        self._socket = listening
        self._may_take = may_take

    def __getattr__(self, name: str) -> object:
        return getattr(self._reactor, name)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        port = SharedPort(self._reactor, self._socket, factory, self._may_take)
        port.startListening()
        return port

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 0, interface: str = "") -> IListeningPort:
        return self._listen(factory)

    def listenUNIX(
        self, address: str, factory: IProtocolFactory, backlog: int = 0, mode: int = 0, wantPID: bool = False
    ) -> IListeningPort:
        return self._listen(factory)

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: IOpenSSLContextFactory,
        backlog: int = 0,
        interface: str = "",
    ) -> IListeningPort:
        return self._listen(TLSMemoryBIOFactory(contextFactory, False, factory))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> IListeningPort:
        return self._listen(factory)


@implementer(IListeningPort)
class SharedPort(FileDescriptor):
    """Accepts at a socket at which other processes also accept.

    Twisted's own port does not fit. It accepts as many connections at once as it can. When it
    closes, it removes the path of a Unix socket. If it adopted a Unix socket, it ends listening for
    all processes.
    """

    _log = Log()

    def __init__(
        self,
        reactor: IReactorFDSet,
        listening: socket.socket,
        factory: IProtocolFactory,
        may_take: Callable[[bool], bool] = always,
    ) -> None:
        super().__init__(reactor)
        self._clock = IReactorTime(reactor)
        self._adopter = IReactorSocket(reactor)
        self._may_take = may_take
        self._socket = listening
        self._factory = factory

    def fileno(self) -> int:
        """See IFileDescriptor."""
        return self._socket.fileno()

    def startListening(self) -> None:
        """See IListeningPort."""
        self._factory.doStart()
        self.connected = 1
        self.startReading()

    def stopListening(self) -> None:
        """See IListeningPort. The socket still listens while another process has it open."""
        if self.connected:
            self.connected = 0
            self.stopReading()  # first: epoll keeps a closed socket that others have open
            self._socket.close()
            self._factory.doStop()

    def getHost(self) -> IAddress:
        """See IListeningPort."""
        raise NotImplementedError  # the process that opened the port logged the address

    def connectionLost(self, reason: Failure) -> None:
        """Stops listening: the reactor stops, or reading failed."""
        self.stopListening()

    def logPrefix(self) -> str:
        """See ILoggingContext."""
        return "SharedPort"

    def doRead(self) -> None:
        """See IReadDescriptor. Accepts one connection in a turn of the reactor: the next may be for
        another process.
        """
        if self._may_take(False):
            self._accept()
        else:
            self.stopReading()
            self._clock.callLater(_YIELD, self._yielded)

    def _yielded(self) -> None:
        """The processes with fewer clients have had their chance. If none accepted, this process
        may.
        """
        if not self.connected:
            return
        if self._may_take(True):
            self.startReading()
            self._accept()
        else:
            self._clock.callLater(_YIELD, self._yielded)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return  # another process was faster, or the client is gone
        except OSError as error:
            if error.errno != errno.EPERM:  # of a firewall
                self._log.write(messages.CANNOT_ACCEPT, error=str(error))
                self.stopReading()
                self._clock.callLater(_PAUSE, self._again)
            return
        with connection:  # adopting duplicates the descriptor
            connection.setblocking(False)
            # The peer may be gone already.
            with contextlib.suppress(OSError):
                self._adopter.adoptStreamConnection(
                    connection.fileno(),
                    connection.family,
                    self._factory,  # type: ignore[arg-type] # Twisted's own reactors take any IProtocolFactory
                )

    def _again(self) -> None:
        if self.connected:
            self.startReading()


def adopt(descriptors: Iterable[int]) -> list[socket.socket]:
    """Returns the listening sockets that this process inherited."""
    return [socket.socket(fileno=number) for number in descriptors]
