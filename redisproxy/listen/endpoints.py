"""Opens the sockets that clients connect to.

Owns the open ports: it makes them from the operator's endpoints, gives accepted connections to a
factory, and closes the ports. Clients' ports are bound at the start, and listen later (`bind`,
`listen`; see `bound_port`). If several processes serve, the parent opens the ports and accepts
nothing (`Listening.hold`). The workers accept at the sockets that they inherit: see `shared_port`,
whose `InheritingReactor` already has the socket that an endpoint asks for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet import defer
from twisted.internet.abstract import FileDescriptor
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IReactorFDSet,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from .. import bounds
from . import proxy_protocol, tls
from .bound_port import BindingReactor, BoundPort, prepare_accepted_connections, probe_accepted_connections
from .handshakes import HandshakeQueue
from .shared_port import InheritingReactor, always

#: How a description begins if each connection begins with a PROXY header: see `proxy_protocol`.
PROXIED = "haproxy:"


class EndpointError(ValueError):
    """The operator's text is no endpoint. The error says why, and what is accepted."""


class ListenError(Exception):
    """A port cannot be opened. The text is one line for the operator."""


def plain_kind(description: str) -> str:
    """The kind of an endpoint, such as ``tcp``. Of `haproxy:ssl:…` it is ``ssl``."""
    return description.removeprefix(PROXIED).partition(":")[0]


def _why_no_endpoint(error: Exception) -> str:
    """Says what is wrong, in words that do not depend on the Python version.

    Twisted calls a function with the arguments of the description. If they do not fit, Python's own
    error text differs from version to version.
    """
    if isinstance(error, TypeError):
        return "an argument is missing or unknown, or there are too many"
    if isinstance(error, ValueError) and str(error).startswith("invalid literal"):
        return "a text stands where a number is expected"
    return str(error)


class Listening:
    """The ports of one option. Raises EndpointError.

    inherited: listening sockets that another process opened, one for each endpoint; may_take:
    returns whether this process should accept the next connection, and is called with whether the
    other processes have had their chance; option: its name, for errors; client_ca: the file of the
    CAs that must have signed clients' certificates at `ssl:` endpoints, None if clients need no
    certificate; trusted: the networks whose PROXY headers are believed at `haproxy:` endpoints,
    None if there is no such endpoint; keepalive: seconds, see `Settings.keepalive`.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptions: Sequence[str],
        inherited: Sequence[socket.socket] | None = None,
        may_take: Callable[[bool], bool] = always,
        option: str = "--listen",
        client_ca: Path | None = None,
        trusted: Sequence[proxy_protocol.Network] | None = None,
        keepalive: float = 0.0,
    ) -> None:
        self._descriptions = descriptions
        self._option = option
        self._keepalive = keepalive
        self._reactor = BindingReactor(reactor)
        # The ports that do not accept yet, with their descriptions.
        self._waiting: list[tuple[str, FileDescriptor]] = []
        # Whether this process accepts connections, once the ports listen.
        self._accepts = True
        #: of the `ssl:` endpoints. Each needs a certificate (`ServerTls.use`) before it accepts
        self.tls: list[tls.ServerTls] = []
        self._endpoints: list[IStreamServerEndpoint] = []
        handshakes: HandshakeQueue | None = None
        for number, description in enumerate(descriptions):
            endpoint: IStreamServerEndpoint
            proxied = description.startswith(PROXIED)
            if proxied:
                _check_proxied(description, option, trusted)
            try:
                listens = self._reactor if inherited is None else InheritingReactor(reactor, inherited[number], may_take)
                if inherited is not None and description.startswith("systemd:"):
                    # systemd's sockets belong to the process that systemd started. Only that
                    # process can ask for them.
                    endpoint = AdoptedStreamServerEndpoint(listens, 0, 0)
                else:
                    plain, secured = description.removeprefix(PROXIED), None
                    if plain_kind(description) == "ssl":
                        plain, secured = tls.parse(plain, client_ca)
                    endpoint = serverFromString(listens, _with_backlog(plain))
                    if proxied:  # the header comes before the handshake
                        endpoint = proxy_protocol.ProxiedEndpoint(endpoint, trusted or ())
                    if secured is not None:
                        self.tls.append(secured)
                        handshakes = handshakes or HandshakeQueue(IReactorTime(reactor))
                        endpoint = tls.TlsEndpoint(IReactorTime(reactor), endpoint, secured, handshakes)
            except Exception as error:
                raise EndpointError(
                    f"{description!r} ({_why_no_endpoint(error)}); it takes a Twisted endpoint such as tcp:6379"
                ) from None
            self._endpoints.append(endpoint)
        #: the open ports
        self.ports: list[IListeningPort] = []

    def open(self, factory: IProtocolFactory) -> None:
        """Listens, and accepts connections. Raises ListenError."""
        for description, endpoint in zip(self._descriptions, self._endpoints, strict=True):
            self._open_one(description, endpoint, factory)

    def bind(self, factory: IProtocolFactory) -> None:
        """Binds the ports, which refuse connections until `listen`. Raises ListenError.

        A socket of `systemd:` listens already: its clients wait. Endpoints without a socket
        (`stdio:`) accept at once.
        """
        for description, endpoint in zip(self._descriptions, self._endpoints, strict=True):
            before = len(self.ports)
            with self._reactor.binding() as bound:
                self._open_one(description, endpoint, factory)
            waiting: list[FileDescriptor] = [*bound]
            for port in self.ports[before:]:
                if isinstance(port, FileDescriptor) and not isinstance(port, BoundPort):
                    port.stopReading()
                    waiting.append(port)
            self._waiting += [(description, port) for port in waiting]
            for socket_ in waiting if self._keepalive else ():
                probe_accepted_connections(socket_.fileno(), self._keepalive)
            for socket_ in waiting:
                prepare_accepted_connections(socket_.fileno(), bounds.UNAUTHENTICATED_SENT_BYTES)

    def hold(self) -> list[int]:
        """Binds the ports like `bind`, and accepts nothing also after `listen`. Returns their
        descriptors, for other processes to inherit. Raises ListenError.
        """
        self._accepts = False
        self.bind(_Nobody())
        descriptors: list[int] = []
        for number, description in enumerate(self._descriptions):
            port = self.ports[number] if number < len(self.ports) else None
            if not isinstance(port, FileDescriptor) or port.fileno() < 0:
                raise ListenError(
                    f"cannot listen on {description} for several processes: it is not a plain socket; use --processes 1"
                )
            port._shouldShutdown = False  # closing it here must not close it for the others
            descriptors.append(port.fileno())
        return descriptors

    def listen(self) -> None:
        """Listens at the ports that were bound, and accepts connections there. Does nothing once
        the ports are closed. Raises ListenError.
        """
        waiting, self._waiting = self._waiting, []
        for description, port in waiting:
            if isinstance(port, BoundPort):
                try:
                    port.listen(self._accepts)
                except OSError as error:
                    raise self._cannot_listen(description, error) from None
            elif self._accepts:
                port.startReading()

    def _open_one(self, description: str, endpoint: IStreamServerEndpoint, factory: IProtocolFactory) -> None:
        failed: list[Failure] = []
        endpoint.listen(factory).addCallbacks(self.ports.append, failed.append)
        if failed:
            reason = failed[0].value
            raise self._cannot_listen(description, reason.socketError if isinstance(reason, CannotListenError) else reason)

    def _cannot_listen(self, description: str, reason: object) -> ListenError:
        return ListenError(f"cannot listen on {description}: {reason}; choose another endpoint with {self._option}")

    @property
    def addresses(self) -> list[IAddress]:
        """The addresses of the open ports."""
        return [port.getHost() for port in self.ports]

    def close(self) -> defer.Deferred[list[None]]:
        """Stops accepting. Fires when all ports are closed."""
        ports, self.ports, self._waiting = self.ports, [], []
        return defer.gatherResults([defer.Deferred.fromCoroutine(_close(port)) for port in ports])


def _check_proxied(description: str, option: str, trusted: Sequence[proxy_protocol.Network] | None) -> None:
    """Whether a `haproxy:` endpoint may be one. Raises EndpointError."""
    if trusted is None:
        raise EndpointError(
            f"{description!r}, but {option} takes no haproxy: endpoint, because anybody could send it a PROXY header"
        )
    if plain_kind(description) not in proxy_protocol.KINDS:
        raise EndpointError(f"{description!r}; haproxy: takes a tcp:, tcp6: or ssl: endpoint after it")
    if not trusted:
        raise EndpointError(
            f"{description!r}, which needs --trust-proxy: the addresses of the load balancers, such as 10.0.0.0/8; "
            "without it, any client could claim any address"
        )


async def _close(port: IListeningPort) -> None:
    closing = port.stopListening()
    if closing is not None:
        await closing


def _with_backlog(description: str) -> str:
    """Returns the description with a backlog: Twisted's default of 50 is less than one busy
    application opens at once.
    """
    kind = description.split(":", 1)[0]
    if kind in ("tcp", "tcp6", "unix") and ":backlog=" not in description:
        return f"{description}:backlog={bounds.ACCEPT_QUEUE}"
    return description


class _Nobody(Factory):
    """The factory of ports at which this process accepts nothing."""

    protocol = Protocol
    noisy = False

    def logPrefix(self) -> str:
        """See ILoggingContext: the port's log line at its start has this name."""
        return "The parent of the workers"
