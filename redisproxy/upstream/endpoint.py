"""Makes the endpoint that connects to a BackendAddress.

Owns addresses and TLS on the way to Redis. The server's certificate is always verified, its name
included.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, cast

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import VerificationError
from twisted.internet import defer, protocol, ssl
from twisted.internet.abstract import isIPAddress
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
)
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint, ITCPTransport
from twisted.python.failure import Failure

from .. import messages
from ..messages import MessageError, Reason, Text
from ..net.reactor import IConnectingReactor
from ..printable import shown_error
from ..tenants.model import BackendAddress

Made = TypeVar("Made", bound=protocol.Protocol)


class _Connected(Protocol):
    """A protocol with its transport, which IProtocol does not declare."""

    transport: ITCPTransport


class CaFileError(MessageError):
    """The file with the CAs to trust for Redis cannot be used. The text names the file and the
    reason.
    """


def _certificates(ca_file: Path) -> list[ssl.Certificate]:
    """Returns the certificates of a PEM file, at least one. Raises CaFileError."""
    try:
        certificates = x509.load_pem_x509_certificates(ca_file.read_bytes())
    except OSError as error:
        raise CaFileError(messages.CA_FILE(file=ca_file, reason=error.strerror)) from None
    except ValueError:
        # The error text of `cryptography` differs from version to version.
        raise CaFileError(messages.CA_FILE(file=ca_file, reason="it has no certificate in PEM")) from None
    return [ssl.Certificate(X509.from_cryptography(certificate)) for certificate in certificates]


def endpoint_for(
    reactor: IConnectingReactor, address: BackendAddress, timeout: float, ca_file: Path | None
) -> IStreamClientEndpoint:
    """Returns an endpoint for one connection to Redis.

    timeout: seconds to connect; ca_file: the CAs to trust for rediss://, None for the system's.
    Raises CaFileError.
    """
    if address.path:
        return UNIXClientEndpoint(reactor, address.path, timeout=timeout)
    endpoint: IStreamClientEndpoint
    # An address is not looked up: that takes a thread, and most of the time of a new connection.
    if isIPAddress(address.host):
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port, timeout=timeout)
    else:
        endpoint = HostnameEndpoint(reactor, address.host, address.port, timeout=timeout)
    if not address.tls:
        return endpoint
    trust = ssl.platformTrust() if ca_file is None else ssl.trustRootFromCertificates(_certificates(ca_file))
    return wrapClientTLS(ssl.optionsForClientTLS(address.host, trustRoot=trust), endpoint)


def connected(endpoint: IStreamClientEndpoint, factory: IProtocolFactory) -> defer.Deferred[IProtocol]:
    """Connects. Fails with CancelledError if the caller cancels this.

    Endpoints fail with other errors then: `HostnameEndpoint` says that the name was not found, or
    that it could not connect. The caller would take that for a fault of Redis, and a time limit
    (`addTimeout`) would not end in TimeoutError.
    """
    connecting = endpoint.connect(factory)
    given_up = False

    def give_up(_: object) -> None:
        nonlocal given_up
        given_up = True
        connecting.cancel()

    def ended(outcome: IProtocol | Failure) -> None:
        if not given_up:
            result.callback(outcome)
        elif not isinstance(outcome, Failure):
            cast(_Connected, outcome).transport.abortConnection()

    result: defer.Deferred[IProtocol] = defer.Deferred(give_up)
    connecting.addBoth(ended)
    return result


def connect(endpoint: IStreamClientEndpoint, make: Callable[[], Made]) -> defer.Deferred[Made]:
    """Connects as `connected` does, with a protocol that `make` makes."""
    factory = protocol.Factory.forProtocol(make)
    factory.noisy = False
    return cast("defer.Deferred[Made]", connected(endpoint, factory))  # the factory makes no other protocol


def why(error: BaseException) -> Text:
    """Says why a connection failed."""
    if isinstance(error, MessageError):
        return error.reason
    if isinstance(error, defer.TimeoutError):
        return messages.NET_TIMEOUT()
    if isinstance(error, ConnectionAborted):
        return messages.NET_ABORTED()
    text = str(error) or type(error).__name__
    if isinstance(error, ConnectError) and error.osError is not None:
        text = f"{type(error).__name__}: errno {error.osError}"
    kind = next((message for kinds, message in _KINDS if isinstance(error, kinds)), messages.NET_OTHER)
    return kind(error=shown_error(" ".join(text.split())))


#: What an error of a connection is about, the first that fits.
_KINDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Reason], ...] = (
    (ConnectionRefusedError, messages.NET_REFUSED),
    (DNSLookupError, messages.NET_NAME),
    ((TCPTimedOutError, NoRouteError), messages.NET_UNREACHABLE),
    ((SSL.Error, VerificationError), messages.NET_TLS),
    ((ConnectionDone, ConnectionLost), messages.NET_CLOSED),
)
