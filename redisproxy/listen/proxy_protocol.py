"""`haproxy:` endpoints: a load balancer in front sends the client's address first, in the header of
the PROXY protocol.

Owns who is believed, and what happens until the header is whole. Then the connection is as any
other: nothing of this module stays between the socket and the client's protocol. The header comes
before the TLS handshake. docs/decisions/proxy-protocol.md says why Twisted's own endpoint of that
name is not used.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Protocol, cast

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from .proxy_header import HeaderError, parse

#: What may stand behind `haproxy:`. A Unix socket has no address that could be trusted.
KINDS = ("tcp", "tcp6", "ssl")
#: The detail of a connection that ends before its header came.
NO_HEADER = "no PROXY header came"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxiedClient(Protocol):
    """What this module needs of a client's protocol: see `clients.connection.ClientProtocol`."""

    detail: str

    def came_from(self, address: IAddress) -> None:
        """The header is whole. address: the client's own."""

    def header_broken(self, why: str) -> None:
        """The connection began with no header, or with a malformed one. why: for the log."""


class ProxiedClients(Protocol):
    """What this module needs of the clients' factory: see `clients.factory.ClientFactory`."""

    def untrusted(self, address: IAddress) -> None:
        """A connection from this address was refused."""


def is_trusted(address: IAddress, networks: Sequence[Network]) -> bool:
    """Whether a connection's own address is in one of the networks. At a socket for IPv6, an IPv4
    address counts as such.
    """
    try:
        host = ipaddress.ip_address(str(getattr(address, "host", "")).partition("%")[0])
    except ValueError:
        return False
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return any(host in network or (mapped is not None and mapped in network) for network in networks)


@implementer(IStreamServerEndpoint)
class ProxiedEndpoint:
    """Another endpoint, at which each connection begins with a PROXY header.

    trusted: the networks of the load balancers. Connections from elsewhere are refused.
    """

    def __init__(self, endpoint: IStreamServerEndpoint, trusted: Sequence[Network]) -> None:
        self._endpoint = endpoint
        self._trusted = trusted

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See IStreamServerEndpoint."""
        return self._endpoint.listen(HeaderFactory(factory, self._trusted))


@implementer(IProtocolFactory)
class HeaderFactory:
    """Has the header of each connection read before another factory's protocol gets any bytes.

    factory: the clients' factory, or one of TLS around it.
    """

    def __init__(self, factory: IProtocolFactory, trusted: Sequence[Network]) -> None:
        self._factory = factory
        self._trusted = trusted

    def doStart(self) -> None:
        """See IProtocolFactory."""
        self._factory.doStart()

    def doStop(self) -> None:
        """See IProtocolFactory."""
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """Refuses whoever is not trusted, before anything is read and before a slot is taken."""
        if not is_trusted(addr, self._trusted):
            factory = self._factory
            clients = factory.wrappedFactory if isinstance(factory, TLSMemoryBIOFactory) else factory
            cast(ProxiedClients, clients).untrusted(addr)
            return None
        built = self._factory.buildProtocol(addr)
        return None if built is None else HeaderReader(built)


def _ignore(data: bytes) -> None:
    pass


@implementer(IHalfCloseableProtocol)
class HeaderReader(protocol.Protocol):
    """A connection until its header is whole.

    The client's protocol is connected from the start, so that the client's slot, its login deadline
    and a drain are as for any other client. Only the bytes do not go to that protocol yet.
    """

    transport: ITCPTransport

    def __init__(self, following: IProtocol) -> None:
        """following: the client's protocol, or one of TLS around it."""
        self._following = following
        client = following.wrappedProtocol if isinstance(following, TLSMemoryBIOProtocol) else following
        self._client = cast(ProxiedClient, client)
        # Of the header. Both bounds of `proxy_header` and one read bound its length.
        self._header = b""
        # Where what comes goes to.
        self._receive = self._receive_header

    def connectionMade(self) -> None:
        self._client.detail = NO_HEADER
        self._following.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._receive(data)

    def _receive_header(self, data: bytes) -> None:
        self._header += data
        try:
            header = parse(self._header)
        except HeaderError as error:
            self._break(str(error))
            return
        if header is None:
            return
        rest, self._header = self._header[header.size :], b""
        self._client.detail = ""
        if header.source is not None:
            self._client.came_from(header.source)
        # Twisted's sockets call their protocol by this name at each event. Anything else calls us,
        # and we pass it on.
        if isinstance(self.transport, Connection):
            self.transport.protocol = self._following
        self._receive = self._following.dataReceived
        if rest:
            self._following.dataReceived(rest)

    def _break(self, why: str) -> None:
        self._header, self._receive = b"", _ignore
        self._client.header_broken(why)

    def readConnectionLost(self) -> None:
        if self._header:
            self._break("the connection ended within its PROXY header")
        elif IHalfCloseableProtocol.providedBy(self._following):
            cast(IHalfCloseableProtocol, self._following).readConnectionLost()
        else:  # as Twisted does for TLS
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._following):
            cast(IHalfCloseableProtocol, self._following).writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._receive = _ignore  # or it would hold us, and we it
        self._following.connectionLost(reason)
