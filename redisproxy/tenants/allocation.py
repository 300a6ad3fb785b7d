"""The decisions behind the operator's command: which database a namespace gets, the form of its
secrets, and the changes of a rotation.

Owns these decisions, made from the result of a full read. This module reads and writes nothing. The
text of a refusal says what to do.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .documents import TEMPORARY_PREFIX, VALID_HOURS, FullRead, NamespaceDocument, ReadFailure, SecretDocument
from .enrolment import parse_tenant
from .urls import CONNECTION_STRING, MalformedError, possible_indexes, with_password

#: The lowest index that is allocated automatically. Clients that do not SELECT use database 0:
#: redis-cli, backups, clients that used this Redis before.
FIRST = 1
#: Characters of a password: 238 bits.
_PASSWORD = 40
_PASSWORD_LETTERS = string.ascii_letters + string.digits
#: As in Kubernetes' own suffixes: without vowels, so that no words appear.
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_LABELS = {"app.kubernetes.io/managed-by": "redisproxy"}
#: The label of a tenant's namespace, and its value. The network policy of deploy/ admits only
#: namespaces with this label, because it cannot match namespaces by a prefix of their names.
TENANT_LABEL = ("redisproxy/tenant", "true")
#: The proxy's URL for clients, without a tenant's parts: the Service of deploy/kubernetes.
ADDRESS = "redis://redisproxy.redisproxy.svc:6379"


class Refused(Exception):
    """The command is refused. The text is one line, and says what to do."""


@dataclass(frozen=True)
class Room:
    """The databases of Redis that can be allocated.

    databases: how many Redis has, None if it does not say; keys: the number of keys by database,
    for databases that have any, None if Redis was not asked.
    """

    databases: int | None
    keys: Mapping[int, int] | None = None


def make_password() -> str:
    """A new random password. It needs no encoding in a URL, and no quotes in a shell."""
    return "".join(secrets.choice(_PASSWORD_LETTERS) for _ in range(_PASSWORD))


def make_suffix() -> str:
    """A random end for the name of a secret."""
    return "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(6))


def manifest(namespace: str, name: str, url: str) -> dict[str, Any]:
    """The manifest of a tenant's Secret. url: its connection string."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(_LABELS)},
        "type": "Opaque",
        "stringData": {CONNECTION_STRING: url},
    }


def temporary_manifest(namespace: str, name: str, url: str, valid_hours: int, created: str) -> dict[str, Any]:
    """The manifest of a tenant's temporary Secret.

    valid_hours: hours from created until it expires; created: the creationTimestamp. An API server
    replaces it with its own. In a directory of manifests it stays.
    """
    made = manifest(namespace, name, url)
    made["metadata"]["creationTimestamp"] = created
    made["stringData"][VALID_HOURS] = str(valid_hours)
    return made


# Choosing a database.


def named_indexes(secret: SecretDocument) -> tuple[int, ...]:
    """The databases that a secret names. If it is malformed, all that it may name, because its
    owner may fix it.
    """
    return possible_indexes(secret.data.get(CONNECTION_STRING))


def taken(reading: FullRead, but: str = "") -> dict[int, str]:
    """The indexes that secrets name, each with its namespace. but: a namespace that does not count.

    Raises Refused if some secrets could not be read.
    """
    found: dict[int, str] = {}
    for part in reading.never_read:
        raise Refused(
            f"{part.name} could not be read, so the command does not know which databases it gives to namespaces: fix the "
            "file"
        )
    for namespace, held in sorted(reading.secrets.items()):
        if isinstance(held, ReadFailure):
            raise Refused(
                f"the secrets of {namespace} could not be read ({held.reason}), so the command does not know which "
                f"database {namespace} has"
            )
        for secret in held:
            for index in named_indexes(secret) if namespace != but else ():
                found.setdefault(index, namespace)
    return found


def choose_index(
    reading: FullRead,
    secret_name: str,
    prefix: str,
    namespace: str,
    wanted: int | None,
    room: Room,
    keep_data: bool = False,
    avoid: Collection[int] = (),
) -> int:
    """The database for a namespace that is being enrolled. Raises Refused.

    secret_name: of the client secret; prefix: of tenants' namespaces; wanted: the operator's
    choice, None for the first free one; keep_data: whether the wanted database may already have
    keys; avoid: indexes that were tried before.
    """
    held = _may_be_enrolled(reading, secret_name, prefix, namespace)
    others = taken(reading, but=namespace)
    own = sorted({index for secret in held for index in named_indexes(secret)})
    if own and (wanted is None or own != [wanted]):
        names = ", ".join(secret.name for secret in held if named_indexes(secret))
        raise Refused(
            f"{namespace} has temporary secrets that name database {own[0]} ({names}): delete them, or use --index {own[0]}"
        )
    if wanted is not None:
        return _wanted(wanted, others, room, keep_data)
    if room.databases is None:
        raise Refused(
            "Redis does not report how many databases it has: give the number with --databases N, or choose a database "
            "with --index N"
        )
    keys = room.keys or {}
    free = [index for index in range(FIRST, room.databases) if index not in others and index not in avoid]
    for index in free:
        if index not in keys:
            return index
    text = f"none of Redis's {room.databases} databases is free (database 0 is given only with --index 0)"
    if free:
        listed = ", ".join(map(str, free[:10]))
        belong, are = ("belong", "are") if free[1:] else ("belongs", "is")
        text += f"; {listed} {belong} to no namespace, but {are} not empty: run FLUSHDB there"
    raise Refused(f"{text}; or raise `databases` in Redis's configuration")


def _may_be_enrolled(reading: FullRead, secret_name: str, prefix: str, namespace: str) -> tuple[SecretDocument, ...]:
    """The secrets that a namespace already has. Raises Refused if it cannot be enrolled."""
    must_have_prefix(namespace, prefix)
    if namespace not in {found.name for found in must_be_read(reading.namespaces)}:
        # The caller knows how to create a namespace in its source, and says it.
        raise Refused(f"there is no namespace {namespace}")
    held = reading.secrets.get(namespace, ())
    if isinstance(held, ReadFailure):
        raise Refused(f"the secrets of {namespace} could not be read: {held.reason}")
    for secret in held:
        if secret.name == secret_name:
            try:
                if secret.error:
                    raise MalformedError(secret.error)
                index = parse_tenant(secret.data)[2]
            except MalformedError as error:
                raise Refused(
                    f"{namespace} has a secret {secret_name}, which is malformed: {error}: fix it, or delete it first"
                ) from None
            raise Refused(
                f"{namespace} is enrolled already, with database {index}; "
                f"redisproxy rotate {namespace} gives it a new password"
            )
    return held


def must_be_read(namespaces: tuple[NamespaceDocument, ...] | ReadFailure) -> tuple[NamespaceDocument, ...]:
    """The namespaces that were read. Raises Refused if they could not be read."""
    if isinstance(namespaces, ReadFailure):
        raise Refused(f"the namespaces could not be read: {namespaces.reason}")
    return namespaces


def must_have_prefix(namespace: str, prefix: str) -> None:
    """Raises Refused for a namespace that cannot be a tenant's, because its name lacks the
    prefix.
    """
    if not namespace.startswith(prefix):
        raise Refused(
            f"{namespace} does not begin with {prefix!r}, the prefix of tenants' namespaces (NS_PREFIX or --ns-prefix)"
        )


def _wanted(index: int, others: Mapping[int, str], room: Room, keep_data: bool) -> int:
    if room.databases is not None and index >= room.databases:
        raise Refused(f"Redis has no database {index}: it has databases 0 to {room.databases - 1}")
    if index in others:
        raise Refused(f"database {index} belongs to {others[index]}: use --index auto, or another index")
    if room.keys is not None and index in room.keys and not keep_data:
        raise Refused(
            f"database {index} belongs to no namespace, but holds {room.keys[index]} keys, which the new tenant would "
            "see: run FLUSHDB there, or use --keep-data"
        )
    return index


# Rotating a password.


@dataclass(frozen=True)
class Rotation:
    """The changes of a rotation in a client secret.

    changes: new values by key; before: the old connection string; old: the old password; stale:
    keys whose values contain the old password among other text. The operator has to change those.
    """

    index: int
    changes: Mapping[str, bytes] = field(repr=False)
    before: str = field(repr=False)
    old: bytes = field(repr=False)
    stale: tuple[str, ...] = ()


def plan_rotation(data: Mapping[str, bytes], password: str) -> Rotation:
    """The rotation that gives a secret a new password: in the URL, and in each value that is
    exactly the old password.

    data: the secret's values by key. Raises Refused if the secret is malformed.
    """
    try:
        _, old, index = parse_tenant(data)
    except MalformedError as error:
        raise Refused(f"the secret is malformed: {error}: fix it, or delete it and enrol the namespace again") from None
    before = data[CONNECTION_STRING].decode()
    changes = {key: password.encode() for key, value in data.items() if value == old}
    changes[CONNECTION_STRING] = with_password(before, password).encode()
    stale = sorted(key for key, value in data.items() if key not in changes and old in value)
    return Rotation(index, changes, before, old, tuple(stale))


def temporary_name(end: str) -> str:
    """The name of a temporary secret. end: see `make_suffix`."""
    return TEMPORARY_PREFIX + end
