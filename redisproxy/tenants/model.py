"""Tenants, credentials, the backend address, and the Snapshot of all these.

Owns the meaning of these words, and decides who may log in. A Snapshot is immutable and replaced
whole. `redisproxy.sources` makes snapshots. Times are seconds since the epoch, given by the caller.
"""

from __future__ import annotations

import bisect
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .. import messages
from ..printable import printable
from .limits import UNLIMITED, Limits

# Digests mean something in this proxy alone. So a core dump of another proxy, or a rainbow table,
# does not help an attacker.
_digest_key = secrets.token_bytes(32)


def digest_key() -> bytes:
    """The key of this proxy's digests, 32 bytes. For its other processes alone."""
    return _digest_key


def use_digest_key(key: bytes) -> None:
    """Replaces the key by that of another process, so that both make the same digests. Must be
    called before the first `digest`.
    """
    global _digest_key
    _digest_key = key


def digest(password: bytes) -> bytes:
    """The keyed BLAKE2b digest of a password, 32 bytes. It differs from proxy to proxy. The proxy
    keeps only this of a tenant's password.
    """
    return hashlib.blake2b(password, digest_size=32, key=_digest_key).digest()


class Tenant(NamedTuple):
    """An enrolled namespace, and the database index that is allocated to it.

    A tuple, because each log-in looks up its tenant in a dozen of dicts: the hash of a dataclass
    is computed in Python.
    """

    namespace: str
    index: int  # type: ignore[assignment]  # nobody needs the tuple's method of this name

    @property
    def channel_prefix(self) -> bytes:
        """The prefix of the tenant's channels in Redis.

        A namespace's name has no colon, so no tenant's prefix begins with another tenant's. The
        name has no character with a meaning in patterns either.
        """
        return self.namespace.encode() + b":"

    @property
    def keyspace_channels(self) -> tuple[bytes, bytes]:
        """The beginnings of the names of Redis's keyspace notification channels for the tenant's
        database. These channels do not get the tenant's prefix.
        """
        return b"__keyspace@%d__:" % self.index, b"__keyevent@%d__:" % self.index


@dataclass(frozen=True, slots=True)
class Credential:
    """A password that logs in as one tenant, perhaps until a given time."""

    tenant: Tenant
    #: name of the Secret that has it
    secret: str
    #: see `digest`
    digest: bytes = field(repr=False)
    #: the user name in the Secret's URL; may be empty. Clients that use the URL send it
    username: str = ""
    #: seconds since the epoch, None if it does not expire
    expires: float | None = None

    def valid_at(self, now: float) -> bool:
        """Whether the credential has not expired. now: seconds since the epoch."""
        return self.expires is None or now < self.expires


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """Where Redis is, or which sentinels know it, and the master's user name and password."""

    host: str = ""
    #: TCP port
    port: int = 6379
    #: path of a Unix socket. If set, host and port are not used
    path: str = ""
    tls: bool = False
    #: empty: the default user
    username: str = field(default="", repr=False)
    #: empty: Redis needs no password
    password: bytes = field(default=b"", repr=False)
    #: host and port of each sentinel. If set, host, port and path are not used
    sentinels: tuple[tuple[str, int], ...] = ()
    #: the name of the master at the sentinels
    master_name: str = ""
    #: empty: the default user of the sentinels
    sentinel_username: str = field(default="", repr=False)
    #: empty: the sentinels need no password
    sentinel_password: bytes = field(default=b"", repr=False)

    @property
    def shown(self) -> str:
        """The address as text for logs and errors. It has no password."""
        return printable(self._address)

    @property
    def _address(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        scheme = "rediss" if self.tls else "redis"
        if self.sentinels:
            addresses = ",".join(_address(host, port) for host, port in self.sentinels)
            return f"{scheme}+sentinel://{addresses}/{self.master_name}"
        return f"{scheme}://{_address(self.host, self.port)}"

    def at(self, host: str, port: int) -> BackendAddress:
        """The address of the Redis that the sentinels named."""
        return BackendAddress(host, port, tls=self.tls, username=self.username, password=self.password)

    def asked_at(self, host: str, port: int) -> BackendAddress:
        """The address of one of the sentinels, to connect to."""
        return BackendAddress(host, port, tls=self.tls, username=self.sentinel_username, password=self.sentinel_password)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class AuthenticationError(Exception):
    """A log-in is refused. The text is the whole error reply, without ``-`` and CR LF.

    outcome: a word for logs and metrics.
    """

    def __init__(self, text: str, outcome: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class TenantFullError(AuthenticationError):
    """The password is right, but the tenant has as many connections as it may."""

    def __init__(self) -> None:
        super().__init__(
            messages.TENANT_IS_FULL.text,
            messages.OVER_LIMIT.code,
        )


WRONGPASS = messages.WRONGPASS.text
NOT_LOADED = messages.NOT_LOADED.text
#: User names that mean "find the tenant by the password". None: the client sent no user name.
ANYONE = (None, "default")


class Snapshot:
    """Credentials, limits and the backend address at one moment.

    backend: None if no master secret could be read; credentials: read once, in one pass; limits: by
    namespace, for tenants that have any; paused: the namespaces whose tenants are paused.
    """

    def __init__(
        self,
        backend: BackendAddress | None,
        credentials: Iterable[Credential],
        limits: Mapping[str, Limits] | None = None,
        paused: Iterable[str] = (),
    ) -> None:
        self.backend = backend
        # Not in Tenant: when limits change, the tenant stays the same, and its sessions go on.
        self.limits = limits or {}
        self.paused = frozenset(paused)
        found = []
        tenants = set()
        # No list for each digest: thousands of short-lived objects are work for the garbage
        # collector.
        self._by_digest: dict[bytes, Credential] = {}
        self._shared: dict[bytes, list[Credential]] = {}
        # In one pass: the iterator may sleep between two credentials.
        for credential in credentials:
            found.append(credential)
            tenants.add(credential.tenant)
            first = self._by_digest.setdefault(credential.digest, credential)
            if first is not credential:
                self._shared.setdefault(credential.digest, [first]).append(credential)
        self.credentials = tuple(found)
        self.tenants = frozenset(tenants)
        self.namespaces = frozenset(tenant.namespace for tenant in tenants)
        self._expiries = sorted(credential.expires for credential in found if credential.expires is not None)

    def authenticate(self, username: str | None, password: bytes, now: float) -> Credential:
        """The credential that a user name and password log in with. Raises AuthenticationError.

        username: None for ``AUTH password``. The namespace's name, or the user name in the Secret's
        URL, narrows the search: it distinguishes two tenants with the same password. now: seconds
        since the epoch.
        """
        wanted = digest(password)
        found = [
            credential
            for credential in self._having(wanted)
            if hmac.compare_digest(credential.digest, wanted)
            and credential.valid_at(now)
            and (username in ANYONE or username in (credential.tenant.namespace, credential.username))
        ]
        if len(found) == 1:
            return found[0]
        if username not in ANYONE:
            # A namespace's name outranks what another tenant wrote into its URL.
            found = [c for c in found if c.tenant.namespace == username] or found
        if len({credential.tenant for credential in found}) > 1:
            raise AuthenticationError(
                messages.AMBIGUOUS.text,
                "ambiguous",
            )
        if not found:
            raise AuthenticationError(WRONGPASS, "wrong")
        # If two secrets of one namespace have the same password: the one that expires later.
        return max(found, key=lambda c: (c.expires is None, c.expires or 0.0, c.secret))

    def renewed(self, credential: Credential, now: float) -> Credential | None:
        """The present credential with the same password and the same tenant as an older one, or
        None if the older one would not log in now.

        Its expiry and its user name may differ from the older one's. now: seconds since the epoch.
        """
        sharing = self._having(credential.digest)
        if credential in sharing and credential.valid_at(now):
            return credential
        same = [c for c in sharing if c.tenant == credential.tenant and c.valid_at(now)]
        return same[0] if same else None

    def limits_of(self, namespace: str) -> Limits:
        """The limits of a tenant."""
        return self.limits.get(namespace, UNLIMITED)

    @property
    def paused_tenants(self) -> frozenset[Tenant]:
        """The tenants that are paused."""
        if not self.paused:
            return frozenset()
        return frozenset(tenant for tenant in self.tenants if tenant.namespace in self.paused)

    def next_expiry(self, now: float) -> float | None:
        """When the next credential expires after now, in seconds since the epoch; or None."""
        later = bisect.bisect_right(self._expiries, now)
        return self._expiries[later] if later < len(self._expiries) else None

    def shared(self) -> Iterable[Sequence[Credential]]:
        """Credentials with the same password, for each password that several credentials have."""
        return self._shared.values()

    def _having(self, wanted: bytes) -> Sequence[Credential]:
        only = self._by_digest.get(wanted)
        return self._shared.get(wanted) or (() if only is None else (only,))
