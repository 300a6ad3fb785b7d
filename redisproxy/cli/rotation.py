"""Gives a tenant a new password, and decides what becomes of all other valid passwords.

Owns the order of the steps, and what is undone if one fails. Must name to the operator every
password that stays valid. The decisions are made in `tenants.allocation`, and
`sources.secret_writer` does the writing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..ops.time_text import iso
from ..printable import listed, sentence
from ..sources.documents import DocumentError, StoredSecret
from ..sources.kubernetes import ClusterSource
from ..sources.secret_writer import ClusterWriter, WriteError
from ..tenants import allocation
from ..tenants.allocation import Refused, Rotation
from ..tenants.documents import TEMPORARY_PREFIX, Changes, FullRead, NamespaceDocument, ReadFailure, SecretDocument
from ..tenants.model import digest
from ..tenants.urls import CONNECTION_STRING, address_of
from .inspect import Operator, resolve
from .operations import Written, must_be_tenants, take_back

#: How many times all temporary secrets are deleted, if new ones appear meanwhile.
_ATTEMPTS = 5


@dataclass(frozen=True)
class OtherPassword:
    """A valid password of a tenant that is not the one in its client secret.

    secret: name of the temporary secret with this password.
    expires: seconds since the epoch; None if the password does not expire.
    old: whether it is the password that the client secret had before.
    files: manifest files with this secret; empty in a cluster.
    """

    secret: str
    expires: float | None
    old: bool
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rotated:
    """A client secret with a new password.

    grace: the temporary secret with the old password.
    others: all passwords that are valid beside the new one, with that of `grace`; None if they
        could not be read.
    revoked: names of the temporary secrets that were deleted.
    unfinished: one line for each step that could not be done.
    """

    written: Written
    grace: Written | None
    others: tuple[OtherPassword, ...] | None = ()
    revoked: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


async def rotate(operator: Operator, namespace: str, grace_hours: int, dry_run: bool, revoke_all: bool = False) -> Rotated:
    """Gives a client secret a new password. The old one stays valid for some hours in a temporary
    secret.

    grace_hours: 0 ends the old password at once.
    revoke_all: deletes all temporary secrets of the namespace; allowed only with grace_hours of 0.

    Raises Refused and WriteError.
    """
    settings = operator.settings
    must_be_tenants(settings, namespace)
    assert not (grace_hours and revoke_all), "the command line refuses both"  # noqa: S101
    writer = ClusterWriter(operator.source.api) if isinstance(operator.source, ClusterSource) else None
    if writer is None and not dry_run:
        raise Refused(
            f"this command does not write to {operator.source}: add --dry-run --output yaml, and put the printed manifest "
            "into a file there"
        )
    secret = await _client_secret(operator, writer, namespace)
    rotation = allocation.plan_rotation(secret.data, allocation.make_password())
    _must_be_mutable(secret, rotation)
    url = rotation.changes[CONNECTION_STRING].decode()
    manifest = secret.with_values(rotation.changes)
    manifest["metadata"] = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
    written = Written(namespace, secret.name, rotation.index, url, manifest, notes=_notes(secret, rotation))
    grace = None
    if grace_hours:
        name = allocation.temporary_name(f"rotated-{allocation.make_suffix()}")
        kept = allocation.temporary_manifest(namespace, name, rotation.before, grace_hours, iso(time.time()))
        grace = Written(namespace, name, rotation.index, rotation.before, kept, grace_hours)
        if secret.files:
            written = replace(
                written,
                notes=(
                    *written.notes,
                    f"--output yaml prints the Secret {name}: add it to a file in the directory of manifests",
                ),
            )
    if dry_run or writer is None:
        return await _foreseen(operator, Rotated(written, grace), rotation, revoke_all)
    await _write(operator, writer, secret, rotation, grace)
    revoked: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    if revoke_all:
        revoked, unfinished = await _revoke(operator, writer, namespace)
    held = await _held(operator, namespace)
    if isinstance(held, ReadFailure):
        text = f"the other passwords that are still valid could not be read: {held.reason}: see redisproxy tenants"
        return Rotated(replace(written, notes=(*written.notes, text)), grace, None, revoked, unfinished)
    return Rotated(written, grace, _others(operator, namespace, held, rotation), revoked, unfinished)


async def _client_secret(operator: Operator, writer: ClusterWriter | None, namespace: str) -> StoredSecret:
    """Returns the client secret of a namespace. writer: None for manifests.

    Raises Refused, and WriteError in a cluster.
    """
    name = operator.settings.redis_secret
    if writer is not None:
        secret = await operator.in_thread(writer.secret, namespace, name)
    else:
        assert not isinstance(operator.source, ClusterSource)  # noqa: S101 - it has a writer
        try:
            secret = await operator.in_thread(operator.source.stored, namespace, name)
        except OSError as error:
            raise Refused(f"{operator.source} cannot be read: {error.strerror}") from None
        except DocumentError as error:
            raise Refused(f"{namespace}/{name} is malformed: {error}: fix it") from None
        if secret is None and (never_read := (await operator.read()).never_read):
            raise Refused(
                f"{listed([part.name for part in never_read])} could not be read, and may have {namespace}/{name}: fix "
                "the file"
            )
    if secret is None:
        raise Refused(f"{namespace} has no secret {name}: redisproxy enroll {namespace}")
    return secret


def _must_be_mutable(secret: StoredSecret, rotation: Rotation) -> None:
    # A manifest can be edited even if it says immutable.
    if secret.immutable and not secret.files:
        address = address_of(rotation.before)
        raise Refused(
            f"{secret.namespace}/{secret.name} is immutable: delete it, and run redisproxy enroll {secret.namespace} "
            f"--index {rotation.index} --keep-data{f' --address {address}' if address else ''}"
        )


def _notes(secret: StoredSecret, rotation: Rotation) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if rotation.stale:
        keys = ", ".join(rotation.stale)
        notes = (f"these values also contain the old password, and were not changed: {keys}",)
    if secret.files:
        files = listed(secret.files)
        notes += (f"replace the Secret {secret.name} in {files} with the one that --output yaml prints",)
    return notes


async def _write(
    operator: Operator, writer: ClusterWriter, secret: StoredSecret, rotation: Rotation, grace: Written | None
) -> None:
    """Writes both secrets: the old password first, so that each application always knows a valid
    one.
    """
    made = None if grace is None else await operator.in_thread(writer.create, grace.manifest)
    try:
        await operator.in_thread(writer.replace, secret, rotation.changes)
    except WriteError as error:
        if made is None or grace is None:
            raise
        if error.unsure:
            raise Refused(
                f"{sentence(str(error))} The command does not know whether the password was changed. The old password "
                f"stays valid for {grace.valid_hours} h ({made.name}). Compare the two secrets, and try again if they "
                "have the same password"
            ) from None
        await take_back(operator, writer, made)
        raise


# Other passwords.


async def _held(operator: Operator, namespace: str) -> tuple[SecretDocument, ...] | ReadFailure:
    """Reads again the secrets of one namespace that may have passwords."""
    if isinstance(operator.source, ClusterSource):
        update = await operator.in_thread(operator.source.read_changes, Changes(frozenset({namespace})))
        if update.failures:
            return update.failures[0]
        return update.listed.get(namespace, ())
    reading = await operator.read()
    if isinstance(reading.namespaces, ReadFailure):
        return reading.namespaces
    return reading.secrets.get(namespace, ())


def _others(
    operator: Operator, namespace: str, held: tuple[SecretDocument, ...], rotation: Rotation
) -> tuple[OtherPassword, ...]:
    """Returns the valid passwords in temporary secrets, by the proxy's own rules."""
    reading = FullRead(None, (NamespaceDocument(namespace, None),), {namespace: held})
    now, old = time.time(), digest(rotation.old)
    return tuple(
        OtherPassword(credential.secret, credential.expires, credential.digest == old)
        for credential in resolve(operator, reading, None).snapshot.credentials
        if credential.secret != operator.settings.redis_secret and credential.valid_at(now)
    )


def _temporary(held: Iterable[SecretDocument]) -> list[str]:
    return sorted(secret.name for secret in held if secret.name.startswith(TEMPORARY_PREFIX))


async def _revoke(operator: Operator, writer: ClusterWriter, namespace: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Deletes all temporary secrets of a namespace, with those that are created meanwhile.

    Returns the names of the deleted ones, and one line for each step that failed.
    """
    revoked: list[str] = []
    for _ in range(_ATTEMPTS):
        held = await _held(operator, namespace)
        if isinstance(held, ReadFailure):
            return tuple(revoked), (f"the temporary secrets of {namespace} could not be read: {held.reason}: try again",)
        names = _temporary(held)
        if not names:
            return tuple(revoked), ()
        failures = []
        for name in names:
            try:
                stored = await operator.in_thread(writer.secret, namespace, name)
                if stored is not None and await operator.in_thread(writer.delete, stored):
                    revoked.append(name)
            except WriteError as error:
                failures.append(f"{error}: its password may still be valid")
        if failures:
            return tuple(revoked), tuple(failures)
    return tuple(revoked), (
        f"temporary secrets of {namespace} are still being created, or cannot be deleted: {listed(names)}: try again",
    )


async def _foreseen(operator: Operator, rotated: Rotated, rotation: Rotation, revoke_all: bool) -> Rotated:
    """Returns the result that the rotation would have, for a dry run. Raises Refused."""
    namespace = rotated.written.namespace
    held = await _held(operator, namespace)
    if isinstance(held, ReadFailure):
        raise Refused(f"the secrets of {namespace} could not be read: {held.reason}")
    if revoke_all:
        names = _temporary(held)
        files = {name: await _files(operator, namespace, name) for name in names}
        notes = [f"remove the Secret {name} from {listed(found)}" for name, found in files.items() if found]
        return replace(
            rotated, written=replace(rotated.written, notes=(*rotated.written.notes, *notes)), revoked=tuple(names)
        )
    others = [
        replace(other, files=await _files(operator, namespace, other.secret))
        for other in _others(operator, namespace, held, rotation)
    ]
    grace = rotated.grace
    if grace is not None and grace.valid_hours is not None:
        others.append(OtherPassword(grace.secret, time.time() + grace.valid_hours * 3600, True))
    return replace(rotated, others=tuple(others))


async def _files(operator: Operator, namespace: str, name: str) -> tuple[str, ...]:
    """Returns the names of the manifest files with a secret; empty in a cluster."""
    if isinstance(operator.source, ClusterSource):
        return ()
    return await operator.in_thread(operator.source.files_with, namespace, name)
