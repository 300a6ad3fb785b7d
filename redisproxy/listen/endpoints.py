"""The sockets that clients connect to.

Owns what listens: from the operator's endpoints to open ports, which give accepted connections to a
factory, until they are closed. Where several processes serve, one of them opens the ports and
accepts nothing (`Listening.hold`), and the others accept at the sockets that they inherit: whatever
an endpoint asks a reactor to listen on, `_Inheriting` has already.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from twisted.internet import defer
from twisted.internet.abstract import FileDescriptor
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IReactorFDSet,
    IReactorSocket,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import bounds, messages
from ..ops.logs import Log
from . import tls

#: Seconds for which a process lets another one take a connection.
_YIELD = 0.002
#: Seconds until the next try after accepting failed, for want of open files above all.
_PAUSE = 1.0


class EndpointError(ValueError):
    """What the operator wrote is no endpoint. The text says why, and what is taken."""


class ListenError(Exception):
    """A port cannot be opened. The text is one line, fit for the operator."""


def _always(_: bool) -> bool:
    return True


def _why_no_endpoint(error: Exception) -> str:
    """In words that do not depend on Python. Twisted calls a function with the arguments of a
    description; what Python says of one that does not fit differs from version to version.
    """
    if isinstance(error, TypeError):
        return "an argument is missing, unknown, or one too many"
    if isinstance(error, ValueError) and str(error).startswith("invalid literal"):
        return "a number is expected where it has another text"
    return str(error)


class Listening:
    """Ports that one option names. Raises EndpointError.

    inherited: listening sockets, one for each endpoint, that another process has opened; may_take:
    whether this process should be the one that takes the next connection, told whether the others
    have had their chance; client_ca: whose certificates clients have to show at `ssl:` endpoints,
    None: they need none.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptions: Sequence[str],
        inherited: Sequence[socket.socket] | None = None,
        may_take: Callable[[bool], bool] = _always,
        option: str = "--listen",
        client_ca: Path | None = None,
    ) -> None:
        self._descriptions = descriptions
        self._option = option
        #: of the `ssl:` endpoints; each has to be given what to show before it accepts
        self.tls: list[tls.ServerTls] = []
        self._endpoints: list[IStreamServerEndpoint] = []
        for number, description in enumerate(descriptions):
            endpoint: IStreamServerEndpoint
            try:
                listens = reactor if inherited is None else _Inheriting(reactor, inherited[number], may_take)
                if inherited is not None and description.startswith("systemd:"):
                    # What systemd opened is for the process that it started, and can be asked for
                    # there alone.
                    endpoint = AdoptedStreamServerEndpoint(listens, 0, 0)
                elif description.startswith("ssl:"):
                    plain, secured = tls.parse(description, client_ca)
                    self.tls.append(secured)
                    endpoint = tls.TlsEndpoint(
                        IReactorTime(reactor), serverFromString(listens, _with_backlog(plain)), secured
                    )
                else:
                    endpoint = serverFromString(listens, _with_backlog(description))
            except Exception as error:
                raise EndpointError(
                    f"{description!r} ({_why_no_endpoint(error)}); it takes a Twisted endpoint such as tcp:6379"
                ) from None
            self._endpoints.append(endpoint)
        #: those that are open
        self.ports: list[IListeningPort] = []

    def open(self, factory: IProtocolFactory) -> None:
        """Listens. Raises ListenError."""
        for description, endpoint in zip(self._descriptions, self._endpoints, strict=True):
            self._open_one(description, endpoint, factory)

    def _open_one(self, description: str, endpoint: IStreamServerEndpoint, factory: IProtocolFactory) -> None:
        failed: list[Failure] = []
        endpoint.listen(factory).addCallbacks(self.ports.append, failed.append)
        if failed:
            reason = failed[0].value
            if isinstance(reason, CannotListenError):
                reason = reason.socketError
            raise ListenError(f"cannot listen on {description}: {reason}; choose another with {self._option}")

    def hold(self) -> list[int]:
        """Opens the ports, and accepts nothing: their descriptors, for others to inherit. Raises
        ListenError.
        """
        descriptors: list[int] = []
        for description, endpoint in zip(self._descriptions, self._endpoints, strict=True):
            before = len(self.ports)
            self._open_one(description, endpoint, _Nobody())
            port = self.ports[-1] if len(self.ports) > before else None
            if not isinstance(port, FileDescriptor) or port.fileno() < 0:
                raise ListenError(
                    f"cannot listen on {description} for several processes: it is no plain socket; --processes 1 can"
                )
            port.stopReading()
            port._shouldShutdown = False  # to close it is not to close it for the others
            descriptors.append(port.fileno())
        return descriptors

    @property
    def addresses(self) -> list[IAddress]:
        """Where it listens."""
        return [port.getHost() for port in self.ports]

    def close(self) -> defer.Deferred[list[None]]:
        """Accepts no more. Fires when all ports are closed."""
        ports, self.ports = self.ports, []
        return defer.gatherResults([defer.Deferred.fromCoroutine(_close(port)) for port in ports])


async def _close(port: IListeningPort) -> None:
    closing = port.stopListening()
    if closing is not None:
        await closing


def _with_backlog(description: str) -> str:
    """Twisted's default of 50 is less than one busy application opens at once."""
    kind = description.split(":", 1)[0]
    if kind in ("tcp", "tcp6", "unix") and ":backlog=" not in description:
        return f"{description}:backlog={bounds.ACCEPT_QUEUE}"
    return description


class _Nobody(Factory):
    """For ports at which this process accepts nothing."""

    protocol = Protocol
    noisy = False

    def logPrefix(self) -> str:
        """See ILoggingContext: the port logs that it starts."""
        return "The parent of the workers"


class _Inheriting:
    """A reactor whose every way to listen is one socket that listens already."""

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
    """Accepts at a socket at which other processes accept, too.

    Twisted's own port takes as many connections at once as it can get, removes a Unix socket's path
    when it is closed, and, where it adopted a Unix socket, ends the listening for everybody.
    """

    _log = Log()

    def __init__(
        self,
        reactor: IReactorFDSet,
        listening: socket.socket,
        factory: IProtocolFactory,
        may_take: Callable[[bool], bool] = _always,
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
        """See IListeningPort. The socket goes on listening as long as another process has it."""
        if self.connected:
            self.connected = 0
            self.stopReading()  # before the close: what others hold open stays registered otherwise
            self._socket.close()
            self._factory.doStop()

    def getHost(self) -> IAddress:
        """See IListeningPort."""
        raise NotImplementedError  # the process that opened it has told it

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends, or reading failed."""
        self.stopListening()

    def logPrefix(self) -> str:
        """See ILoggingContext."""
        return "SharedPort"

    def doRead(self) -> None:
        """See IReadDescriptor. One connection in a turn of the reactor: the next may be another
        process's.
        """
        if self._may_take(False):
            self._accept()
        else:
            self.stopReading()
            self._clock.callLater(_YIELD, self._yielded)

    def _yielded(self) -> None:
        """Who has fewer clients had its chance: if nobody took it, it is ours."""
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
            return  # another process was first, or the client is gone
        except OSError as error:
            if error.errno != errno.EPERM:  # of a firewall
                self._log.write(messages.CANNOT_ACCEPT, error=str(error))
                self.stopReading()
                self._clock.callLater(_PAUSE, self._again)
            return
        with connection:  # what adopts it has a descriptor of its own
            connection.setblocking(False)
            # Its peer may be gone already.
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
    """The listening sockets that a process inherited."""
    return [socket.socket(fileno=number) for number in descriptors]
