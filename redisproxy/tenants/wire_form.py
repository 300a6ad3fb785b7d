"""Converts a Snapshot to bytes and back, for the other processes of one proxy.

Owns the form of the bytes. Only processes of the same version exchange them. The bytes contain the
master password and the digests of the tenants' passwords, so they must go over a socket pair and
nowhere else. The digests mean something only with the same `model.digest_key`. Each credential, and
the limits of each tenant, has a line of its own, so that the reader can sleep between two lines.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields
from typing import Any

from .enrolment import no_yield
from .limits import Limits
from .model import BackendAddress, Credential, Snapshot, Tenant


def dump(snapshot: Snapshot) -> bytes:
    """The bytes from which `load` makes an equal Snapshot."""
    backend = snapshot.backend
    lines: list[object] = [
        None if backend is None else {field.name: _plain(getattr(backend, field.name)) for field in fields(BackendAddress)}
    ]
    lines.append(sorted(snapshot.paused))
    lines.append(len(snapshot.limits))
    lines += [[namespace, *astuple(limits)] for namespace, limits in snapshot.limits.items()]
    lines += [
        [c.tenant.namespace, c.tenant.index, c.secret, c.digest.hex(), c.username, c.expires] for c in snapshot.credentials
    ]
    return "\n".join(map(json.dumps, lines)).encode()


def load(snapshot: bytes, yield_cpu: Callable[[], None] = no_yield) -> Snapshot:
    """The Snapshot in bytes of `dump`. yield_cpu: called between any two lines, may sleep."""
    lines = iter(snapshot.split(b"\n"))
    values = json.loads(next(lines))
    backend = None
    if values is not None:
        backend = BackendAddress(**{field.name: _as(field.default, values[field.name]) for field in fields(BackendAddress)})
    paused = json.loads(next(lines))
    limits = {}
    for _ in range(json.loads(next(lines))):
        yield_cpu()
        namespace, *values = json.loads(next(lines))
        limits[namespace] = Limits(*values)
    return Snapshot(backend, _credentials(lines, yield_cpu), limits, paused)


def _plain(value: object) -> object:
    """A value in a form that JSON has."""
    return b64encode(value).decode() if isinstance(value, bytes) else value


def _as(default: object, value: Any) -> Any:
    """A value from JSON, in the type of a field's default."""
    if isinstance(default, bytes):
        return b64decode(value)
    return tuple(map(tuple, value)) if isinstance(default, tuple) else value


def _credentials(lines: Iterator[bytes], yield_cpu: Callable[[], None]) -> Iterator[Credential]:
    for line in lines:
        yield_cpu()
        namespace, index, secret, digest, username, expires = json.loads(line)
        yield Credential(Tenant(namespace, index), secret, bytes.fromhex(digest), username, expires)
