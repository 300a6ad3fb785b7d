"""TLS for clients: `ssl:` endpoints, their certificates, and the check of clients' certificates.

Owns the arguments of such an endpoint, what its files must contain, and the OpenSSL context that is
made from them: once for each change of the files, not for each connection. `certificates` decides
when the files are checked.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey, X509StoreFlags
from twisted.internet import defer
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from .. import messages
from ..messages import MessageError
from ..ops.file_watch import Stamp, stamp
from .handshakes import HandshakeQueue, QueuedTlsFactory

#: For TLS 1.2: only ciphers with forward secrecy and authenticated encryption, which every client
#: of TLS 1.2 has. TLS 1.3 has no others.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
#: Largest size of one file, in bytes. The CA bundle of a whole system is a quarter of that.
FILE_LIMIT = 1024 * 1024

# In Twisted's order, for arguments without a name.
_PARAMETERS = ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog", "extraCertChain", "dhParameters")
_REFUSED = {
    "sslmethod": "the proxy always uses TLS 1.2 and newer",
    "dhParameters": "the proxy uses elliptic curves for forward secrecy, which every client of TLS 1.2 has",
}
# Why a client's certificate is refused, by OpenSSL's error number (X509_V_ERR_…).
_REFUSALS = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    **dict.fromkeys((2, 19, 20, 21), "its CA is not trusted"),
    26: "it is not for clients",
    **dict.fromkeys((66, 67, 68), "its key or digest is too weak"),
}
# The same file may also have certificates or EC PARAMETERS, before or after the key.
_KEY = re.compile(rb"-----BEGIN ((?:[A-Z0-9]+ )?PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)


class CertificateError(MessageError, ValueError):
    """A certificate, its key, or a client CA cannot be used. reason: names the file, never its
    content.
    """


@dataclass(frozen=True, slots=True)
class Material:
    """The content of an endpoint's files, as PEM. Must not be logged."""

    key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    client_ca: bytes = field(repr=False)

    def dump(self) -> dict[str, str]:
        """Returns it in a form that JSON can hold."""
        return {name: content.decode("latin-1") for name, content in asdict(self).items()}

    @classmethod
    def load(cls, dumped: dict[str, str]) -> Material:
        """The inverse of `dump`."""
        return cls(**{name: content.encode("latin-1") for name, content in dumped.items()})


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The paths of one endpoint's files. chain, client_ca: None if there is none."""

    key: Path
    certificate: Path
    chain: Path | None
    client_ca: Path | None

    def _paths(self) -> dict[str, Path | None]:
        return {name: getattr(self, name) for name in ("key", "certificate", "chain", "client_ca")}

    def stamp(self) -> Stamp:
        """Returns the stamps of all files: see `file_watch.stamp`. Blocks."""
        return tuple(stamp(path) for path in self._paths().values() if path is not None)

    def read(self) -> Material:
        """Reads the files. Blocks. Raises CertificateError."""
        return Material(**{name: b"" if path is None else _read(path) for name, path in self._paths().items()})


def _read(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - has no flags
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CertificateError(messages.TLS_NOT_A_FILE(path=path))
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise CertificateError(messages.TLS_UNREADABLE(path=path, error=error.strerror)) from None
    if len(content) > FILE_LIMIT:
        raise CertificateError(messages.TLS_TOO_LARGE(path=path, kib=FILE_LIMIT // 1024))
    return content


@dataclass(frozen=True, slots=True)
class Made:
    """An OpenSSL context, and the material that it was made of.

    begins, expires: the certificate's period, in seconds since the epoch.
    """

    material: Material
    context: SSL.Context
    begins: float
    expires: float


def make(files: TlsFiles, material: Material) -> Made:
    """Makes a context with this material. files: named in errors. Raises CertificateError."""
    key = _key(files.key, material.key)
    certificate, *chain = _certificates(files.certificate, material.certificate)
    if files.chain is not None:
        chain += _certificates(files.chain, material.chain)
    try:
        belong = _public(certificate) == _public(key)
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(messages.TLS_UNKNOWN_KEY(path=files.certificate)) from None
    if not belong:
        raise CertificateError(messages.TLS_OTHER_KEY(key=files.key, certificate=files.certificate))
    try:
        context = _context()
        context.use_certificate(X509.from_cryptography(certificate))
        # from_cryptography_key raises TypeError for a kind of key that it does not know.
        context.use_privatekey(PKey.from_cryptography_key(key))  # type: ignore[arg-type]
        for one in chain:
            context.add_extra_chain_cert(X509.from_cryptography(one))
    except SSL.Error as error:
        raise CertificateError(messages.TLS_OPENSSL(path=files.certificate, reason=why_tls(error))) from None
    except (UnsupportedAlgorithm, TypeError):
        raise CertificateError(messages.TLS_KIND_OF_KEY(path=files.key)) from None
    if files.client_ca is not None:
        _ask_for_certificates(context, _certificates(files.client_ca, material.client_ca))
    begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Made(material, context, begins.timestamp(), expires.timestamp())


def _key(path: Path, content: bytes) -> PrivateKeyTypes:
    found = _KEY.search(content)
    if found is None:
        raise CertificateError(messages.TLS_NO_KEY(path=path))
    try:
        # The checks of an RSA key take up to a second. OpenSSL's own loading from a file makes
        # none.
        return load_pem_private_key(found[0], None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise CertificateError(messages.TLS_ENCRYPTED_KEY(path=path)) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(messages.TLS_MALFORMED_KEY(path=path)) from None


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise CertificateError(messages.TLS_NO_CERTIFICATE(path=path))
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise CertificateError(messages.TLS_MALFORMED_CERTIFICATE(path=path)) from None


def _public(source: PrivateKeyTypes | x509.Certificate) -> bytes:
    """Returns the public half of a private key, or a certificate's public key."""
    return source.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _context() -> SSL.Context:
    """Returns a context with the settings of all of the proxy's servers.

    Twisted's CertificateOptions is not used, because its contexts must not be changed any more.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # No session is resumed. Otherwise a client could come back without a check of its certificate,
    # even if the certificate or its CA were gone by then. Also, one process does not know the
    # sessions of another. Clients of Redis stay connected, so this costs little.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    options = SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
    # An older OpenSSL lets a client ask for handshakes again and again.
    context.set_options(options | getattr(SSL, "OP_NO_RENEGOTIATION", 0))
    # Without a session id, OpenSSL refuses a client that tries to resume where client certificates
    # are required.
    context.set_session_id(b"redisproxy")
    # An idle connection keeps no buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS)
    return context


def _ask_for_certificates(context: SSL.Context, authorities: list[x509.Certificate]) -> None:
    """Requires client certificates of these authorities. OpenSSL also checks that a certificate is
    for clients.
    """
    store = context.get_cert_store()
    assert store is not None, "each context has one"  # noqa: S101
    # Each certificate in the file is trusted, also an intermediate one.
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    for authority in map(X509.from_cryptography, authorities):
        store.add_cert(authority)
        context.add_client_ca(authority)  # tells clients which certificate to send
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verified)


class ServerConnection(SSL.Connection):
    """Remembers what was wrong with a client's certificate: OpenSSL's error only says that
    something was.
    """

    refused = ""


def _verified(connection: SSL.Connection, _certificate: X509, number: int, _depth: int, good: int) -> bool:
    """Called by OpenSSL for each certificate in a client's chain. Keeps OpenSSL's verdict.

    number: one of X509_V_ERR_…, or 0.
    """
    if not good and isinstance(connection, ServerConnection) and not connection.refused:
        connection.refused = _REFUSALS.get(number, f"OpenSSL gives error {number}")
    return bool(good)


def why_tls(error: BaseException, connection: object = None) -> str:
    """Returns in a few words what OpenSSL says went wrong. connection: the one that failed."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list | tuple) else []
    reasons = [entry[-1] for entry in queue if isinstance(entry, tuple) and entry and entry[-1]]
    reason = ", ".join(dict.fromkeys(reasons)) or "OpenSSL gives no reason"
    refused = getattr(connection, "refused", "")
    return f"{reason}: {refused}" if refused else reason


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """The TLS of one endpoint. listener: its name, for logs and metrics."""

    #: set by `use`, before anything is accepted
    _context: SSL.Context

    def __init__(self, listener: str, files: TlsFiles) -> None:
        self.listener = listener
        self.files = files

    def use(self, made: Made) -> None:
        """Sets the context for connections that come from now on."""
        self._context = made.context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See IOpenSSLServerConnectionCreator."""
        return ServerConnection(self._context, None)


@implementer(IStreamServerEndpoint)
class TlsEndpoint:
    """Another endpoint, with TLS around its connections. It may listen before `tls` has a
    certificate, but must not accept.
    """

    def __init__(
        self, clock: IReactorTime, endpoint: IStreamServerEndpoint, tls: ServerTls, handshakes: HandshakeQueue
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._tls = tls
        self._handshakes = handshakes

    def listen(self, factory: IProtocolFactory) -> defer.Deferred[IListeningPort]:
        """See IStreamServerEndpoint."""
        return self._endpoint.listen(QueuedTlsFactory(self._tls, factory, self._clock, self._handshakes))


def parse(description: str, client_ca: Path | None) -> tuple[str, ServerTls]:
    """Splits an `ssl:` endpoint into the plain endpoint below it and its TLS. Has Twisted's
    arguments, except those in `_REFUSED`. Raises ValueError.
    """
    given: dict[str, str] = {}
    for name, value in _arguments(description):
        if name not in _PARAMETERS:
            takes = ", ".join(p for p in _PARAMETERS if p not in _REFUSED)
            raise ValueError(f"ssl: has no argument {name}; it has {takes}")
        if name in _REFUSED:
            raise ValueError(f"{name} must be left out: {_REFUSED[name]}")
        if name in given:
            raise ValueError(f"{name} is given twice")
        given[name] = value
    if "port" not in given:
        raise ValueError("it has no port")
    key = given.get("privateKey", "server.pem")
    files = TlsFiles(
        Path(key).absolute(),
        Path(given.get("certKey", key)).absolute(),
        Path(given["extraCertChain"]).absolute() if "extraCertChain" in given else None,
        client_ca,
    )
    where = "".join(f":{name}={quoteStringArgument(given[name])}" for name in ("interface", "backlog") if name in given)
    port = quoteStringArgument(given["port"])
    listener = f"ssl:{port}" + (f":interface={given['interface']}" if given.get("interface") else "")
    return f"tcp:{port}{where}", ServerTls(listener, files)


def _arguments(description: str) -> Iterator[tuple[str, str]]:
    """Yields (name, value) of each argument after `ssl`. The rules of quoting are Twisted's."""
    position = 0
    for argument in re.findall(r":((?:\\.|[^\\:])*)", description.removeprefix("ssl"), re.DOTALL):
        named = re.fullmatch(r"((?:\\.|[^\\=])*)=(.*)", argument, re.DOTALL)
        if named is None:
            name, value = _PARAMETERS[position] if position < len(_PARAMETERS) else "more", argument
            position += 1
        else:
            name, value = named[1], named[2]
        yield re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL), re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
