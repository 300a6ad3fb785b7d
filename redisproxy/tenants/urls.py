"""Reads and writes Redis URLs, for the proxy and for the operator's command.

Owns the grammar of the URLs. A URL is read as it is meant, or it is refused. No error shows any
part of a URL, because text that looks like a host or a port may be a piece of a password.
`enrolment` knows which secret a URL is from, and uses the result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import quote_from_bytes, unquote_plus, unquote_to_bytes

from .. import messages
from ..messages import MessageError
from .model import BackendAddress

#: The key in a Secret whose value is the URL. Errors name it.
CONNECTION_STRING = "redis-connection-string"

_HOST = r"\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)"
_LOCATION = re.compile(rf"(?:{_HOST})(?::([0-9]{{0,5}}))?", re.ASCII)
_PORT = 6379
_SENTINEL_PORT = 26379
#: A database's number: canonical decimal digits.
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_TENANTS = ("redis", "rediss")
_MASTERS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")


class MalformedError(MessageError, ValueError):
    """A secret's value is malformed. reason: why, without the value."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a URL, not decoded.

    start: scheme and ``://``, as written; info: the authority up to its last @, None without an @;
    location: the rest of the authority; path: with its /; query: without its ?, None without a
    query; fragment: without its #, None without one.
    """

    start: str = field(repr=False)
    info: str | None = field(repr=False)
    location: str = field(repr=False)
    path: str = field(repr=False)
    query: str | None = field(repr=False)
    fragment: str | None = field(repr=False)

    @property
    def scheme(self) -> str:
        return self.start.removesuffix("://").lower()

    def log_in(self) -> tuple[str, bytes]:
        """User name and password, decoded. Raises MalformedError."""
        username, _, password = (self.info or "").partition(":")
        try:
            return unquote_to_bytes(username).decode("utf-8"), unquote_to_bytes(password)
        except UnicodeDecodeError:
            raise MalformedError(messages.URL_USER_NOT_UTF8()) from None

    def with_password(self, password: bytes) -> _Parts:
        username = (self.info or "").partition(":")[0]
        return replace(self, info=f"{username}:{quote_from_bytes(password, safe='')}")

    def text(self) -> str:
        """The URL, joined again from its parts."""
        info = "" if self.info is None else f"{self.info}@"
        query = "" if self.query is None else f"?{self.query}"
        fragment = "" if self.fragment is None else f"#{self.fragment}"
        return f"{self.start}{info}{self.location}{self.path}{query}{fragment}"


def _text(value: bytes | None) -> str:
    if value is None:
        raise MalformedError(messages.URL_MISSING())
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(messages.URL_NOT_UTF8()) from None
    if text != text.strip():
        raise MalformedError(messages.URL_WHITE_SPACE())
    if any(ord(character) < 33 or ord(character) == 127 for character in text):
        raise MalformedError(messages.URL_CONTROL_CHARACTER())
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise MalformedError(messages.URL_PERCENT())
    return text


def _cut(text: str, schemes: tuple[str, ...]) -> _Parts:
    """Cuts a URL into its parts. Raises MalformedError.

    The authority ends at the first / ? or #, as in any URL. The password ends at the last @ of the
    authority. So a later @ means that the password has one of these three characters, unescaped.
    The text before it would be used as the host, and that host would get the password.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in schemes:
        raise MalformedError(messages.URL_SCHEME(schemes=" or ".join(f"{one}://" for one in schemes)))
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    if "@" in behind:
        raise MalformedError(messages.URL_UNESCAPED())
    info, at, location = authority.rpartition("@")
    behind, number, fragment = behind.partition("#")
    path, mark, query = behind.partition("?")
    return _Parts(
        scheme + separator, info if at else None, location, path, query if mark else None, fragment if number else None
    )


def _host_and_port(location: str, default: int, which: str = "") -> tuple[str, int]:
    """(host, port) of a location. default: the port if there is none; which: says in an error which
    of several hosts it means. Raises MalformedError.
    """
    found = _LOCATION.fullmatch(location)
    if not found:
        raise MalformedError(messages.URL_HOST())
    port = int(found[3] or default)
    if not 0 < port < 65536:
        raise MalformedError(messages.URL_PORT(which=which))
    return found[1] or found[2], port


def read_tenant(value: bytes | None) -> tuple[str, bytes, int]:
    """(user name, password, database index) of a tenant's URL. Raises MalformedError.

    The query is for the client library, so it is ignored. But a database in the query must be the
    same as in the path.
    """
    parts = _cut(_text(value), _TENANTS)
    username, password = parts.log_in()
    if parts.location:  # may be missing: the proxy does not use it
        _host_and_port(parts.location, _PORT)
    if not password:
        raise MalformedError(messages.URL_NO_PASSWORD())
    index = parts.path.removeprefix("/")
    if not _INDEX.fullmatch(index):
        raise MalformedError(messages.URL_NO_INDEX())
    for option in re.split("[&;]", parts.query or ""):
        name, _, number = option.partition("=")
        # In some libraries the query wins over the path: redis-py has db, Lettuce database.
        if unquote_plus(name).lower() in ("db", "database") and number != index:
            raise MalformedError(messages.URL_TWO_INDEXES())
    return username, password, int(index)


def read_master(value: bytes | None) -> BackendAddress:
    """The backend address in the master's URL. Raises MalformedError."""
    parts = _cut(_text(value), _MASTERS)
    username, password = parts.log_in()
    if parts.query is not None or parts.fragment is not None:
        raise MalformedError(messages.MASTER_OPTIONS())
    if parts.scheme == "unix":
        return BackendAddress(path=_socket(parts), username=username, password=password)
    tls = parts.scheme.startswith("rediss")
    if parts.scheme.endswith("+sentinel"):
        sentinels, name = _sentinels(parts)
        return BackendAddress(tls=tls, username=username, password=password, sentinels=sentinels, master_name=name)
    host, port = _host_and_port(parts.location, _PORT)
    if parts.path not in ("", "/") and not _INDEX.fullmatch(parts.path[1:]):
        raise MalformedError(messages.MASTER_PATH())
    return BackendAddress(host=host.lower(), port=port, tls=tls, username=username, password=password)


def _socket(parts: _Parts) -> str:
    """The path of a Unix socket."""
    if parts.location not in ("", "localhost"):
        raise MalformedError(messages.MASTER_SOCKET_HOST())
    try:
        path = unquote_to_bytes(parts.path).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(messages.MASTER_PATH_NOT_UTF8()) from None
    if not path.startswith("/") or not path.isprintable():
        raise MalformedError(messages.MASTER_SOCKET_PATH())
    return path


def _sentinels(parts: _Parts) -> tuple[tuple[tuple[str, int], ...], str]:
    """(host and port of each sentinel, each once; the name of the master there). A /N at the end, a
    database's number, has no meaning here.
    """
    addresses = []
    for number, location in enumerate(parts.location.split(","), 1):
        if not _LOCATION.fullmatch(location):
            raise MalformedError(messages.MASTER_SENTINEL_HOST(number=number))
        addresses.append(_host_and_port(location, _SENTINEL_PORT, f" for sentinel {number}"))
    name, _, index = parts.path.removeprefix("/").partition("/")
    # The names that Sentinel itself accepts.
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name, re.ASCII):
        raise MalformedError(messages.MASTER_SENTINEL_NAME())
    if index and not _INDEX.fullmatch(index):
        raise MalformedError(messages.MASTER_SENTINEL_INDEX())
    return tuple(dict.fromkeys(addresses)), name


def possible_indexes(value: bytes | None) -> tuple[int, ...]:
    """Each database that a URL may name, even if it is malformed. The likeliest is the last."""
    try:
        return (read_tenant(value)[2],)
    except MalformedError:
        text = (value or b"").decode("utf-8", "replace")
    found = re.findall(r"[?&;](?:db|database)=([0-9]{1,9})(?![0-9])", text, re.ASCII | re.IGNORECASE)
    found += re.findall(r"/([0-9]{1,9})(?![0-9])", text, re.ASCII)
    return tuple(dict.fromkeys(map(int, found)))


# Writing.


def parse_address(text: str) -> str:
    """The proxy's URL for clients, without a tenant's parts: ``SCHEME://HOST:PORT``.

    text: ``HOST`` or ``HOST:PORT``, also with redis:// or rediss:// before it. Raises ValueError;
    its text is the expected form.
    """
    found = re.fullmatch(rf"(?:(rediss?)://)?((?:{_HOST})(?::[0-9]{{1,5}})?)/?", text, re.ASCII)
    try:
        if found:
            return _address(found[1] or "redis", found[2])
    except MalformedError:
        pass
    raise ValueError("HOST, HOST:PORT or rediss://HOST:PORT")


def tenant_url(address: str, password: str, index: int) -> str:
    """The URL for a tenant's applications. address: as `parse_address` returns it."""
    scheme, _, location = address.partition("://")
    return f"{scheme}://:{quote_from_bytes(password.encode(), safe='')}@{location}/{index}"


def with_password(url: str, password: str) -> str:
    """A tenant's URL with another password, and otherwise unchanged. Raises MalformedError."""
    return _cut(url, _TENANTS).with_password(password.encode()).text()


def at_address(url: str, address: str) -> str:
    """A tenant's URL with another scheme, host and port, and otherwise unchanged.

    address: as `parse_address` returns it. Raises MalformedError.
    """
    scheme, separator, location = address.partition("://")
    return replace(_cut(url, _TENANTS), start=scheme + separator, location=location).text()


def address_of(url: str) -> str:
    """Scheme, host and port of a tenant's URL, as `parse_address` returns them; empty if the URL
    has no host. Raises MalformedError.
    """
    parts = _cut(url, _TENANTS)
    return _address(parts.scheme, parts.location) if parts.location else ""


def _address(scheme: str, location: str) -> str:
    host, port = _host_and_port(location, _PORT)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
