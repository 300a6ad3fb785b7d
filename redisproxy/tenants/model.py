"""Tenants, their credentials, where Redis is, and a Snapshot of all these.

Owns what the words mean and who may log in. A Snapshot is immutable and replaced whole. Where
snapshots come from is the business of `redisproxy.sources`. Times are seconds since the epoch,
given by the caller.
"""

from __future__ import annotations

import bisect
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .. import messages
from ..printable import printable
from .limits import UNLIMITED, Limits

# A digest is of use to this proxy alone: a core dump of another one, or a rainbow table, does not
# help.
_digest_key = secrets.token_bytes(32)


def digest_key() -> bytes:
    """What makes this proxy's digests its own."""
    return _digest_key


def use_digest_key(key: bytes) -> None:
    """Another process's key, before this one has made a digest: its digests mean the same here from
    now on.
    """
    global _digest_key
    _digest_key = key


def digest(password: bytes) -> bytes:
    """What is kept of a password: its keyed BLAKE2b digest, 32 bytes, different in each proxy."""
    return hashlib.blake2b(password, digest_size=32, key=_digest_key).digest()


@dataclass(frozen=True, slots=True)
class Tenant:
    """An enrolled namespace and the one database index allocated to it."""

    namespace: str
    index: int

    @property
    def channel_prefix(self) -> bytes:
        """What its channels begin with in Redis. A namespace's name has no colon, and nothing that
        a pattern gives a meaning to: no tenant's prefix begins another's.
        """
        return self.namespace.encode() + b":"

    @property
    def keyspace_channels(self) -> tuple[bytes, bytes]:
        """What Redis's own channels about the keys of its database begin with. They have no
        prefix.
        """
        return b"__keyspace@%d__:" % self.index, b"__keyevent@%d__:" % self.index


@dataclass(frozen=True, slots=True)
class Credential:
    """A password that authenticates as one tenant, perhaps until a moment."""

    tenant: Tenant
    #: name of the Secret it came from
    secret: str
    #: see `digest`
    digest: bytes = field(repr=False)
    #: the user name in the Secret's URL, which clients built from that URL send; may be empty
    username: str = ""
    #: seconds since the epoch, or None for a credential that does not expire
    expires: float | None = None

    def valid_at(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """Where Redis is, and the master password that opens it; or which sentinels know where it
    is.
    """

    host: str = ""
    #: TCP port
    port: int = 6379
    #: path of a Unix socket; host and port are not used then
    path: str = ""
    tls: bool = False
    #: empty: the default user
    username: str = field(default="", repr=False)
    #: empty: Redis asks for none
    password: bytes = field(default=b"", repr=False)
    #: host and port of each sentinel; host, port and path are not used then
    sentinels: tuple[tuple[str, int], ...] = ()
    #: what they call the master
    master_name: str = ""
    #: empty: the default user of the sentinels
    sentinel_username: str = field(default="", repr=False)
    #: empty: they ask for none
    sentinel_password: bytes = field(default=b"", repr=False)

    @property
    def shown(self) -> str:
        """For logs and errors: no password in it."""
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
        """The Redis that the sentinels named."""
        return BackendAddress(host, port, tls=self.tls, username=self.username, password=self.password)

    def asked_at(self, host: str, port: int) -> BackendAddress:
        """One of the sentinels, as a place to connect to."""
        return BackendAddress(host, port, tls=self.tls, username=self.sentinel_username, password=self.sentinel_password)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class AuthenticationError(Exception):
    """A log-in that is refused. The text is the whole error reply, without ``-`` and CR LF.

    outcome: a word for logs and metrics.
    """

    def __init__(self, text: str, outcome: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class TenantFullError(AuthenticationError):
    """The password is right, but its tenant has as many connections as it may."""

    def __init__(self) -> None:
        super().__init__(
            messages.TENANT_IS_FULL.text,
            messages.OVER_LIMIT.code,
        )


WRONGPASS = messages.WRONGPASS.text
NOT_LOADED = messages.NOT_LOADED.text
#: User names that stand for "whoever this password belongs to".
ANYONE = (None, "default")


class Snapshot:
    """Who may log in, and where Redis is, at one moment.

    backend: None when no master secret was readable; limits: by namespace, of tenants that have
    any.
    """

    def __init__(
        self,
        backend: BackendAddress | None,
        credentials: Iterable[Credential],
        limits: Mapping[str, Limits] | None = None,
    ) -> None:
        self.backend = backend
        # Not a Tenant's: one whose limits change is the same tenant, and its sessions go on.
        self.limits = limits or {}
        found = []
        tenants = set()
        # No list for each: thousands of objects that come and go are work for the garbage
        # collector.
        self._by_digest: dict[bytes, Credential] = {}
        self._shared: dict[bytes, list[Credential]] = {}
        # One pass: whoever gives the credentials may rest between two of them.
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
        """Whose password it is. Raises AuthenticationError.

        username: None for ``AUTH password``. The namespace's name or the user name in the Secret's
        URL narrow the search, and are what tells two tenants with one password apart.
        """
        wanted = digest(password)
        found = [
            credential
            for credential in self._having(wanted)
            if hmac.compare_digest(credential.digest, wanted)
            and credential.valid_at(now)
            and (username in ANYONE or username in (credential.tenant.namespace, credential.username))
        ]
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
        # Of two secrets of one namespace with one password, the one that lasts longer.
        return max(found, key=lambda c: (c.expires is None, c.expires or 0.0, c.secret))

    def renewed(self, credential: Credential, now: float) -> Credential | None:
        """What a credential that logged in before would log in as now: the same password, as the
        same tenant.

        Its expiry may be another by now, and its user name. None: it would not log in.
        """
        sharing = self._having(credential.digest)
        if credential in sharing and credential.valid_at(now):
            return credential
        same = [c for c in sharing if c.tenant == credential.tenant and c.valid_at(now)]
        return same[0] if same else None

    def limits_of(self, namespace: str) -> Limits:
        """What a tenant may have and do."""
        return self.limits.get(namespace, UNLIMITED)

    def next_expiry(self, now: float) -> float | None:
        """When the next credential expires, or None."""
        later = bisect.bisect_right(self._expiries, now)
        return self._expiries[later] if later < len(self._expiries) else None

    def shared(self) -> Iterable[Sequence[Credential]]:
        """Those that have one password, for each password that more than one has."""
        return self._shared.values()

    def _having(self, wanted: bytes) -> Sequence[Credential]:
        only = self._by_digest.get(wanted)
        return self._shared.get(wanted) or (() if only is None else (only,))
