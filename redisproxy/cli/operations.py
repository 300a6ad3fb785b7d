"""Writes what the operator's command creates: a tenant's secret, or a temporary one.

Owns the order of the steps, and what is undone if one fails. The decisions are made in
`tenants.allocation`, and `sources.secret_writer` does the writing. A new password for a tenant is
in `rotation`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import task

from ..ops.time_text import iso
from ..printable import sentence
from ..settings import Settings
from ..sources.documents import StoredSecret
from ..sources.kubernetes import ClusterSource
from ..sources.secret_writer import ClusterWriter, WriteError
from ..tenants import allocation
from ..tenants.allocation import ADDRESS, TENANT_LABEL, Refused, Room
from ..tenants.documents import FullRead, ReadFailure
from ..tenants.urls import CONNECTION_STRING, at_address, tenant_url, with_password
from .inspect import NamespaceView, Operator, State, resolve

#: How many indexes are tried, if others take each chosen one at the same moment.
_ATTEMPTS = 5
#: Longest wait in seconds before the next index. It is random, so that two commands that gave way
#: to each other do not collide again.
_JITTER = 0.5


@dataclass(frozen=True)
class Written:
    """A secret that was written, or would be in a dry run.

    url: its connection string.
    valid_hours: for a temporary secret; None for others.
    notes: further lines for the operator.
    """

    namespace: str
    secret: str
    index: int
    url: str = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)
    valid_hours: int | None = None
    notes: tuple[str, ...] = ()


def writer_of(operator: Operator) -> ClusterWriter:
    """Returns what writes secrets. Raises Refused for manifests, which are not written to."""
    if not isinstance(operator.source, ClusterSource):
        raise Refused(
            f"this command does not write to {operator.source}: add --dry-run --output yaml, and put the printed manifest "
            "into a file there"
        )
    return ClusterWriter(operator.source.api)


def must_be_tenants(settings: Settings, namespace: str) -> None:
    """Raises Refused if this namespace's client secret cannot be a tenant's.

    That is so without the prefix, or if it is the master secret, which may be in such a namespace.
    """
    allocation.must_have_prefix(namespace, settings.ns_prefix)
    if (namespace, settings.redis_secret) == settings.master:
        raise Refused(
            f"{namespace}/{settings.redis_secret} is the master secret, with the password of Redis: change both by hand"
        )


def _must_exist(operator: Operator, reading: FullRead, namespace: str) -> None:
    """Raises Refused if the namespace does not exist, or if namespaces could not be read."""
    if namespace in {found.name for found in allocation.must_be_read(reading.namespaces)}:
        return
    if operator.in_cluster:
        raise Refused(f"there is no namespace {namespace}: kubectl create namespace {namespace}")
    raise Refused(
        f"there is no namespace {namespace}: add a Namespace of that name, with a creationTimestamp, to {operator.source}"
    )


def _unlabelled(reading: FullRead, namespace: str) -> tuple[str, ...]:
    """Returns a note if the namespace lacks the label that the network policy requires."""
    label, value = TENANT_LABEL
    labels = {found.name: found.labels for found in allocation.must_be_read(reading.namespaces)}
    if labels.get(namespace, {}).get(label) == value:
        return ()
    return (
        f"{namespace} lacks the label {label}={value}. Where the network policy of deploy/ is in force, its pods cannot "
        f"reach the proxy without the label: kubectl label --overwrite namespace {namespace} {label}={value}",
    )


def _by_hand(operator: Operator, name: str) -> tuple[str, ...]:
    """Returns what the operator has to do with manifests, which are not written to: see
    `writer_of`.
    """
    if operator.in_cluster:
        return ()
    return (f"--output yaml prints the Secret {name}: add it to a file in the directory of manifests",)


async def _create(operator: Operator, writer: ClusterWriter, manifest: Mapping[str, Any], command: str) -> StoredSecret:
    """Creates a secret. Raises Refused and WriteError.

    command: the arguments of redisproxy, for an operator who runs it in the proxy's pod.
    """
    try:
        return await operator.in_thread(writer.create, manifest)
    except WriteError as error:
        if not error.in_pod:
            raise
        raise Refused(
            f"{error}, or add --dry-run --output yaml and let kubectl create the secret with your own rights: kubectl "
            f"-n redisproxy exec deploy/redisproxy -- redisproxy {command} --dry-run --output yaml | kubectl create -f -"
        ) from None


# Enrolling.


async def enroll(
    operator: Operator,
    namespace: str,
    wanted: int | None,
    address: str | None,
    databases: int | None,
    keep_data: bool,
    dry_run: bool,
) -> Written:
    """Gives a namespace a database and a password.

    wanted: index of the database; None for the lowest free one.
    address: where the URL leads. With None it is the address of an existing temporary secret, or
        `tenants.allocation.ADDRESS`.
    databases: how many Redis has, if Redis must not be asked.

    Raises Refused and WriteError.
    """
    settings = operator.settings
    must_be_tenants(settings, namespace)
    writer = None if dry_run else writer_of(operator)
    reading = await operator.read()
    # before any other error of the read
    _must_exist(operator, reading, namespace)
    avoid: set[int] = set()

    def choose(room: Room) -> int:
        return allocation.choose_index(
            reading, settings.redis_secret, settings.ns_prefix, namespace, wanted, room, keep_data, avoid
        )

    if wanted is not None:
        choose(Room(databases))  # fails early, without waiting for Redis
    room = await _room(operator, reading, databases)
    notes = _by_hand(operator, settings.redis_secret)
    if operator.in_cluster:
        notes += _unlabelled(reading, namespace)
    if room.keys is None:
        notes += ("the command did not ask Redis: check by redis-cli -n INDEX DBSIZE that the database is empty",)
    if not operator.in_cluster and address is None:
        notes += ("its URL has the proxy's address in a cluster: use --address HOST:PORT for another one",)
    while True:
        index = choose(room)
        url = _enrolled_url(operator, reading, namespace, address, index)
        manifest = allocation.manifest(namespace, settings.redis_secret, url)
        written = Written(namespace, settings.redis_secret, index, url, manifest, notes=notes)
        if writer is None:
            return written
        made = await _create(operator, writer, manifest, f"enroll {namespace}")
        # Another command may have chosen the same index at the same moment. Each that sees the
        # other gives way. It is harmless if both do, but both must not report success.
        reading = await _read_again(operator, writer, made)
        other = allocation.taken(reading, but=namespace).get(index)
        if other is None:
            return written
        await take_back(operator, writer, made)
        avoid.add(index)
        if wanted is not None or len(avoid) == _ATTEMPTS:
            raise Refused(f"database {index} was given to {other} at the same moment: the new secret was deleted, try again")
        await task.deferLater(operator.reactor, random.uniform(0, _JITTER))  # noqa: S311
        reading = await operator.read()


def _enrolled_url(operator: Operator, reading: FullRead, namespace: str, address: str | None, index: int) -> str:
    password = allocation.make_password()
    if address is None:
        [view] = (view for view in resolve(operator, reading, None).namespaces if view.namespace == namespace)
        if view.credentials:  # only temporary secrets: the client secret was deleted
            return with_password(_own_url(reading, view), password)
    return tenant_url(address or ADDRESS, password, index)


async def _room(operator: Operator, reading: FullRead, databases: int | None) -> Room:
    if databases is not None:
        return Room(databases)
    backend = resolve(operator, reading, None).snapshot.backend
    master = "/".join(operator.settings.master)
    if isinstance(reading.master, ReadFailure):
        why = f"the master secret {master} could not be read: {reading.master.reason}"
    elif backend is None:
        why = f"the master secret {master} does not exist, or is malformed"
    else:
        view = await operator.find_redis(backend)
        if view.room is not None:
            return view.room
        why = "; ".join([*view.problems, *(f"{one.address}: {one.error}" for one in view.sentinels if one.error)])
    where = "in the proxy's pod with --dry-run --output yaml" if operator.in_cluster else "where the proxy runs"
    raise Refused(
        f"{sentence(why)} So the command does not know which databases Redis has, and which are empty: run it where Redis "
        f"can be reached, such as {where}, or use --databases N"
    )


async def _read_again(operator: Operator, writer: ClusterWriter, made: StoredSecret) -> FullRead:
    """Reads everything again after a create.

    If that fails, it deletes the new secret and raises Refused.
    """
    reading = await operator.read()
    failures = [part for part in (reading.namespaces, *reading.secrets.values()) if isinstance(part, ReadFailure)]
    if failures:
        await take_back(operator, writer, made)
        raise Refused(
            f"the command could not check whether two namespaces have the same database ({failures[0].reason}): the new "
            "secret was deleted, try again"
        )
    return reading


async def take_back(operator: Operator, writer: ClusterWriter, made: StoredSecret) -> None:
    """Deletes a secret that was just created. Raises Refused if that fails."""
    try:
        await operator.in_thread(writer.delete, made)
    except WriteError as error:
        raise Refused(
            f"{made.namespace}/{made.name} was created, and could not be deleted again ({error}): kubectl delete secret "
            f"-n {made.namespace} {made.name}"
        ) from None


# Temporary credentials.


async def temporary(operator: Operator, namespace: str, hours: int, end: str, address: str | None, dry_run: bool) -> Written:
    """Gives an enrolled namespace an additional password, which expires after some hours.

    The URL is the tenant's own, with another password.

    hours: valid time from the secret's creation.
    end: end of the secret's name; empty for a random one.
    address: where the URL leads; None for the address in the tenant's own URL.

    Raises Refused and WriteError.
    """
    allocation.must_have_prefix(namespace, operator.settings.ns_prefix)
    writer = None if dry_run else writer_of(operator)
    reading = await operator.read()
    _must_exist(operator, reading, namespace)
    views = {view.namespace: view for view in resolve(operator, reading, None).namespaces}
    view = views[namespace]
    if view.state is State.NOT_READ:
        raise Refused(f"the secrets of {namespace} could not be read: {view.failure}")
    if view.index is None:
        if view.state is State.KEPT_OUT:
            raise Refused(f"{namespace} is kept out: {'; '.join(map(str, view.problems))}")
        raise Refused(f"{namespace} is not enrolled: redisproxy enroll {namespace}")
    name = allocation.temporary_name(end or allocation.make_suffix())
    url = with_password(_own_url(reading, view), allocation.make_password())
    if address is not None:
        url = at_address(url, address)
    manifest = allocation.temporary_manifest(namespace, name, url, hours, iso(time.time()))
    written = Written(namespace, name, view.index, url, manifest, hours, _by_hand(operator, name))
    if writer is not None:
        await _create(operator, writer, manifest, f"temp {namespace} --hours {hours}")
    return written


def _own_url(reading: FullRead, view: NamespaceView) -> str:
    """Returns the URL that gives a namespace its database.

    It is in the client secret or, without one, in a temporary secret.
    """
    held = reading.secrets[view.namespace]
    assert isinstance(held, tuple), "it is served"  # noqa: S101
    return next(secret.data[CONNECTION_STRING].decode() for secret in held if secret.name == view.credentials[0].secret)
