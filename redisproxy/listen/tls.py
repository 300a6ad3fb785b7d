"""TLS for those who connect to us: `ssl:` endpoints, and what they show of themselves.

Owns what such an endpoint may say, what its files have to hold, and the OpenSSL context that is
made of them: once for each change of the files, not for each connection. `certificates` decides
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
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from .. import messages
from ..messages import MessageError
from ..ops.file_watch import Stamp, stamp

#: For TLS 1.2: with forward secrecy and authenticated encryption alone, which every client of it
#: has. 1.3 has nothing else.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
#: Bytes of one file. The certificates that a whole system trusts are a quarter of that.
FILE_LIMIT = 1024 * 1024

# In Twisted's order, for those that are given without their names.
_PARAMETERS = ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog", "extraCertChain", "dhParameters")
_REFUSED = {
    "sslmethod": "TLS 1.2 and newer are spoken, whatever else is asked for",
    "dhParameters": "forward secrecy is by elliptic curves, which every client of TLS 1.2 has",
}
# Why a client's certificate is refused, by OpenSSL's numbers (X509_V_ERR_…).
_REFUSALS = {
    9: "it is not valid yet",
    10: "it has ended",
    18: "it is signed by itself",
    **dict.fromkeys((2, 19, 20, 21), "its CA is not trusted"),
    26: "it is not for clients",
    **dict.fromkeys((66, 67, 68), "its key or digest is too weak"),
}
# What may stand before and after it in the same file is left alone: certificates, EC PARAMETERS.
_KEY = re.compile(rb"-----BEGIN ((?:[A-Z0-9]+ )?PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)


class CertificateError(MessageError, ValueError):
    """A certificate, its key, or a client CA cannot be used. reason: names the file, never its
    content.
    """


@dataclass(frozen=True, slots=True)
class Material:
    """What the files of an endpoint hold, as PEM. Not for logs."""

    key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    client_ca: bytes = field(repr=False)

    def dump(self) -> dict[str, str]:
        """As JSON can hold it."""
        return {name: content.decode("latin-1") for name, content in asdict(self).items()}

    @classmethod
    def load(cls, dumped: dict[str, str]) -> Material:
        """What `dump` made."""
        return cls(**{name: content.encode("latin-1") for name, content in dumped.items()})


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the material of one endpoint is. chain, client_ca: None where there is to be none."""

    key: Path
    certificate: Path
    chain: Path | None
    client_ca: Path | None

    def _paths(self) -> dict[str, Path | None]:
        return {name: getattr(self, name) for name in ("key", "certificate", "chain", "client_ca")}

    def stamp(self) -> Stamp:
        """Of all of them: see `file_watch.stamp`. Blocks."""
        return tuple(stamp(path) for path in self._paths().values() if path is not None)

    def read(self) -> Material:
        """What they hold now. Blocks. Raises CertificateError."""
        return Material(**{name: b"" if path is None else _read(path) for name, path in self._paths().items()})


def _read(path: Path) -> bytes:
    try:
        # A pipe would be waited for.
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
    """What material was made into. begins, expires: of the certificate, in seconds since the
    epoch.
    """

    material: Material
    context: SSL.Context
    begins: float
    expires: float


def make(files: TlsFiles, material: Material) -> Made:
    """A context that shows this certificate. files: what to name in an error. Raises
    CertificateError.
    """
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
        # For a key of another kind it raises TypeError.
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
        # Its checks of an RSA key take up to a second, and OpenSSL's own way from a file has none.
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
    """The public half of a private key, or the key of a certificate."""
    return source.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _context() -> SSL.Context:
    """As for any server of ours. Not of Twisted's CertificateOptions, whose contexts are not to be
    changed any more.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # No sessions are resumed. A client would come back without a check of its certificate, though
    # it or its CA be gone by now; and one of several processes does not know the sessions of
    # another. Clients of Redis stay connected.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    options = SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
    # An older OpenSSL lets a client ask for one handshake after the other.
    context.set_options(options | getattr(SSL, "OP_NO_RENEGOTIATION", 0))
    # Without one, OpenSSL fails a client that tries to resume where certificates are asked for.
    context.set_session_id(b"redisproxy")
    # A connection that is idle keeps no buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS)
    return context


def _ask_for_certificates(context: SSL.Context, authorities: list[x509.Certificate]) -> None:
    """Of clients: OpenSSL also looks whether they are for clients."""
    store = context.get_cert_store()
    assert store is not None, "each context has one"  # noqa: S101
    # Whoever stands in the file is trusted, also one that another has signed.
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    for authority in map(X509.from_cryptography, authorities):
        store.add_cert(authority)
        context.add_client_ca(authority)  # by which clients know which one to show
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verified)


class ServerConnection(SSL.Connection):
    """Knows what was wrong with a client's certificate: OpenSSL's error says only that something
    was.
    """

    refused = ""


def _verified(connection: SSL.Connection, _certificate: X509, number: int, _depth: int, good: int) -> bool:
    """Of each certificate in a client's chain: OpenSSL's word is the last. number: one of its
    X509_V_ERR_…
    """
    if not good and isinstance(connection, ServerConnection) and not connection.refused:
        connection.refused = _REFUSALS.get(number, f"OpenSSL calls it error {number}")
    return bool(good)


def why_tls(error: BaseException, connection: object = None) -> str:
    """What OpenSSL says went wrong, in a few words of its own. connection: with whom."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list | tuple) else []
    reasons = [entry[-1] for entry in queue if isinstance(entry, tuple) and entry and entry[-1]]
    reason = ", ".join(dict.fromkeys(reasons)) or "it does not say why"
    refused = getattr(connection, "refused", "")
    return f"{reason}: {refused}" if refused else reason


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """TLS of one endpoint. listener: its name, for logs and metrics."""

    #: what `use` gave, before anything is accepted
    _context: SSL.Context

    def __init__(self, listener: str, files: TlsFiles) -> None:
        self.listener = listener
        self.files = files

    def use(self, made: Made) -> None:
        """For connections that come from now on."""
        self._context = made.context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See IOpenSSLServerConnectionCreator."""
        return ServerConnection(self._context, None)


@implementer(IStreamServerEndpoint)
class TlsEndpoint:
    """Another endpoint, with TLS. It may listen before `tls` has anything to show, but not
    accept.
    """

    def __init__(self, clock: IReactorTime, endpoint: IStreamServerEndpoint, tls: ServerTls) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._tls = tls

    def listen(self, factory: IProtocolFactory) -> defer.Deferred[IListeningPort]:
        """See IStreamServerEndpoint."""
        return self._endpoint.listen(TLSMemoryBIOFactory(self._tls, False, factory, self._clock))


def parse(description: str, client_ca: Path | None) -> tuple[str, ServerTls]:
    """Of an `ssl:` endpoint: the plain one below it, and its TLS. Takes what Twisted's takes.
    Raises ValueError.
    """
    given: dict[str, str] = {}
    for name, value in _arguments(description):
        if name not in _PARAMETERS:
            takes = ", ".join(p for p in _PARAMETERS if p not in _REFUSED)
            raise ValueError(f"ssl: has no {name}; it has {takes}")
        if name in _REFUSED:
            raise ValueError(f"{name} has to be left out: {_REFUSED[name]}")
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
    """What an endpoint's description says behind its kind: (name, value). Its rules are
    Twisted's.
    """
    position = 0
    for argument in re.findall(r":((?:\\.|[^\\:])*)", description.removeprefix("ssl"), re.DOTALL):
        named = re.fullmatch(r"((?:\\.|[^\\=])*)=(.*)", argument, re.DOTALL)
        if named is None:
            name, value = _PARAMETERS[position] if position < len(_PARAMETERS) else "more", argument
            position += 1
        else:
            name, value = named[1], named[2]
        yield re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL), re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
