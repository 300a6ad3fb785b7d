"""From a Backend to an endpoint that connects to it.

Owns addresses and TLS on the way to Redis: a server's certificate is always verified, its name included.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from OpenSSL.crypto import X509
from twisted.internet import defer, ssl
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from ..printable import shown_error
from ..tenants.model import Backend


def trust_roots(ca_file: Path) -> object:
    """What Twisted takes as a trust root, from a PEM file of one or more certificates.

    Raises OSError where it cannot be read, ValueError where it holds no certificate.
    """
    certificates = x509.load_pem_x509_certificates(ca_file.read_bytes())
    return ssl.trustRootFromCertificates([ssl.Certificate(X509.from_cryptography(c)) for c in certificates])


def endpoint_for(reactor: object, backend: Backend, timeout: float, ca_file: Path | None) -> IStreamClientEndpoint:
    """An endpoint for one connection to Redis.

    timeout: seconds to connect; ca_file: whom to trust for rediss://, None for the system's certificates.
    Raises what `trust_roots` raises.
    """
    if backend.path:
        return UNIXClientEndpoint(reactor, backend.path, timeout=timeout)
    endpoint = HostnameEndpoint(reactor, backend.host, backend.port, timeout=timeout)
    if not backend.tls:
        return endpoint
    trust = ssl.platformTrust() if ca_file is None else trust_roots(ca_file)
    return wrapClientTLS(ssl.optionsForClientTLS(backend.host, trustRoot=trust), endpoint)


def connected(endpoint: IStreamClientEndpoint, factory: IProtocolFactory) -> defer.Deferred[Protocol]:
    """Connects. If the caller cancels this, it fails with CancelledError.

    Endpoints have other errors for that: `HostnameEndpoint` says that the name was not found, or could not be connected to.
    The caller would take these for a fault of Redis, and a time limit (`addTimeout`) would not end in TimeoutError.
    """
    connecting = endpoint.connect(factory)
    given_up = False

    def give_up(_: object) -> None:
        nonlocal given_up
        given_up = True
        connecting.cancel()

    def ended(outcome: Protocol | Failure) -> None:
        if not given_up:
            result.callback(outcome)
        elif not isinstance(outcome, Failure):
            outcome.transport.abortConnection()

    result: defer.Deferred[Protocol] = defer.Deferred(give_up)
    connecting.addBoth(ended)
    return result


def why(error: BaseException) -> str:
    """What went wrong with a connection, in a line."""
    if isinstance(error, defer.TimeoutError):
        return "it took too long"
    text = str(error) or type(error).__name__
    if isinstance(error, ConnectError) and error.osError is not None:
        text = f"{type(error).__name__}: errno {error.osError}"
    return shown_error(" ".join(text.split()))
