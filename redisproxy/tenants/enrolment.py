"""The rules of enrolment: makes a Snapshot from the namespaces and secrets that were read.

Owns the rules and the last good results of reading. `redisproxy.sources` decides what is read, and
how. No value of a secret is ever part of a Problem. This module is longer than other modules,
because each rule needs the results of the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .. import bounds, messages
from .documents import (
    PASSWORD,
    SENTINEL_PASSWORD,
    SENTINEL_USERNAME,
    TEMPORARY_PREFIX,
    VALID_HOURS,
    FullRead,
    NamespaceDocument,
    NeverRead,
    Problem,
    ReadFailure,
    ReadSummary,
    SecretDocument,
    Update,
    newest,
)
from .limits import UNLIMITED, Limits, read_limits, read_paused
from .model import BackendAddress, Credential, Snapshot, Tenant, digest
from .urls import CONNECTION_STRING, MalformedError, possible_indexes, read_master, read_tenant

#: A DNS label of Kubernetes.
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)

#: How many other namespaces a Problem names. It only counts further ones.
NAMED = 10

#: A thousand years, so that no date overflows.
_MOST_HOURS = 24 * 366 * 1000
#: The last second of the year 9999. Later dates cannot be shown.
_LATEST = 253402300799.0


def parse_backend(data: Mapping[str, bytes]) -> BackendAddress:
    """The backend address in the master secret. data: values by key. Raises MalformedError."""
    backend = read_master(data.get(CONNECTION_STRING))
    for key in (PASSWORD, SENTINEL_USERNAME, SENTINEL_PASSWORD):
        if data.get(key, b"").endswith(b"\n"):
            raise MalformedError(messages.MASTER_NEWLINE(key=key))
    backend = replace(backend, password=data.get(PASSWORD, backend.password))
    if not backend.sentinels:
        return backend
    try:
        username = data.get(SENTINEL_USERNAME, b"").decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(messages.MASTER_USER_NOT_UTF8()) from None
    return replace(backend, sentinel_username=username, sentinel_password=data.get(SENTINEL_PASSWORD, b""))


def parse_tenant(data: Mapping[str, bytes]) -> tuple[str, bytes, int]:
    """(user name, password, database index) of a tenant's secret. data: values by key. Raises
    MalformedError.
    """
    return read_tenant(data.get(CONNECTION_STRING))


def parse_valid_hours(data: Mapping[str, bytes]) -> int | None:
    """Hours for which a temporary credential is valid, None if it does not expire. Raises
    MalformedError.
    """
    value = data.get(VALID_HOURS)
    if value is None:
        return None
    digits = value.strip()
    if not re.fullmatch(rb"0|[1-9][0-9]{0,7}", digits) or int(digits) > _MOST_HOURS:
        raise MalformedError(messages.VALID_HOURS_MALFORMED(most=_MOST_HOURS))
    return int(digits)


def no_yield() -> None:
    """Does nothing. The yield_cpu of callers that keep nobody waiting: see `Enrolment.resolve`."""


@dataclass(frozen=True, slots=True)
class _Enrolled:
    """The result of one namespace's secrets alone.

    credentials: the first one decides which database the namespace names; meant: if all secrets are
    malformed, the database that they probably name, None if that cannot be said.
    """

    secrets: tuple[SecretDocument, ...]
    credentials: list[Credential]
    problems: list[Problem]
    meant: int | None

    @property
    def malformed(self) -> bool:
        return bool(self.problems) and not self.credentials


_NO_SECRETS = _Enrolled((), [], [], None)


class Enrolment:
    """Keeps the last good result of each part that is read, and makes the Snapshot from them.

    The result of a namespace's secrets is reused while the secrets stay the same.

    secret_name: of the client secret in each namespace; master: (namespace, name) of the master
    secret; backend: replaces the address in the master secret; limits: defaults for namespaces that
    have no annotations.
    """

    def __init__(
        self,
        secret_name: str,
        master: tuple[str, str],
        backend: BackendAddress | None = None,
        limits: Limits = UNLIMITED,
    ) -> None:
        self._secret_name = secret_name
        self._default_limits = limits
        self._master = master
        self._fixed_backend = backend is not None
        self._namespaces: dict[str, NamespaceDocument] | None = None
        self._secrets: dict[str, tuple[SecretDocument, ...]] = {}
        self._unreadable: tuple[Problem, ...] = ()
        self._backend = backend
        self._master_problem: Problem | None = None
        self._failures: tuple[Problem, ...] = ()
        self._never_read: tuple[NeverRead, ...] = ()
        # Whether the namespaces of the last full read were all that exist.
        self._complete = False
        self._enrolled: dict[str, _Enrolled] = {}
        #: by index: the namespace that has the database. It stays the owner if ages are not known
        self._owners: dict[int, str] = {}
        self._snapshot: Snapshot | None = None
        self._shared: list[Problem] = []
        #: namespaces without a secret that would enrol them, as of the last `resolve`
        self.without_secret: tuple[str, ...] = ()

    def use_full_read(self, reading: FullRead) -> None:
        """Takes the results of a full read. Parts that could not be read keep their older
        results.
        """
        self._failures = tuple(_failures(reading, self._master))
        if not isinstance(reading.master, ReadFailure) and not self._fixed_backend:
            self._use_master(reading.master)
        if not isinstance(reading.namespaces, ReadFailure):
            self._namespaces = {namespace.name: namespace for namespace in reading.namespaces}
            self._secrets = {name: kept for name, kept in self._secrets.items() if name in self._namespaces}
            self._enrolled = {name: kept for name, kept in self._enrolled.items() if name in self._namespaces}
            self._unreadable = reading.unreadable
            self._never_read = reading.never_read
            # A file that cannot be read keeps its older contents in force, if it has any.
            self._complete = reading.complete and not (reading.never_read or reading.stale)
        for namespace, secrets in reading.secrets.items():
            if not isinstance(secrets, ReadFailure) and self._secrets.get(namespace) != secrets:
                self._secrets[namespace] = secrets

    def use_incremental_read(self, update: Update) -> None:
        """Takes the results of an incremental read. Does nothing before the first full read, and
        ignores secrets of namespaces that are not known.
        """
        if self._namespaces is None:
            return
        for name, document in update.namespaces.items():
            if document is not None:
                self._namespaces[name] = document
                continue
            for known in (self._namespaces, self._secrets, self._enrolled):
                known.pop(name, None)
        for name, secrets in update.listed.items():
            if name in self._namespaces and self._secrets.get(name) != secrets:
                self._secrets[name] = secrets
        for (namespace, name), secret in update.secrets.items():
            if (namespace, name) == self._master:
                if not self._fixed_backend:
                    self._use_master(secret)
            elif namespace in self._namespaces and namespace in self._secrets:
                others = [kept for kept in self._secrets[namespace] if kept.name != name]
                now = others if secret is None else sorted([*others, secret], key=lambda s: s.name)
                # One more than are valid, as in a full read, so that it is known that there are too
                # many.
                self._secrets[namespace] = tuple(newest(now, bounds.TEMPORARY_SECRETS + 1))

    def summary(self, reading: FullRead | None) -> ReadSummary:
        """What a read proved. reading: one that `use_full_read` has taken; None for the last
        `use_incremental_read`.
        """
        namespaces = frozenset(self._namespaces or ()) if self._complete else None
        if reading is None:
            return ReadSummary(False, False, namespaces)
        in_doubt = isinstance(reading.master, ReadFailure) or self._master_problem or reading.never_read or reading.stale
        uncertain = frozenset(name for name, secrets in reading.secrets.items() if isinstance(secrets, ReadFailure))
        listed = not isinstance(reading.namespaces, ReadFailure)
        return ReadSummary(True, bool(self._fixed_backend or not in_doubt), namespaces if listed else None, uncertain)

    def _use_master(self, master: SecretDocument | None) -> None:
        """Takes the master secret. If it is gone or malformed, the last good backend stays in
        force, because without it no tenant would be served.
        """
        self._master_problem = None
        if master is None:
            self._master_problem = Problem(*self._master, messages.MASTER_MISSING())
            return
        try:
            if master.error:
                raise MalformedError(master.error)
            self._backend = parse_backend(master.data)
        except MalformedError as error:
            self._master_problem = Problem(*self._master, messages.MASTER_MALFORMED(reason=error.reason))

    @property
    def loaded(self) -> bool:
        """Whether the namespaces were read at least once."""
        return self._namespaces is not None

    def resolve(
        self, databases: int | None = None, yield_cpu: Callable[[], None] = no_yield
    ) -> tuple[Snapshot, list[Problem]]:
        """The Snapshot, and the problems that an operator has to fix. While nothing changes in the
        Snapshot, the same object is returned.

        databases: how many Redis has, None if that is not known; yield_cpu: called between any two
        namespaces, may sleep.
        """
        problems: list[Problem] = [*self._failures, *self._unreadable]
        if self._master_problem:
            problems.append(self._master_problem)
        credentials: list[Credential] = []
        limits: dict[str, Limits] = {}
        paused: set[str] = set()
        found: dict[str, _Enrolled] = {}
        claims: dict[int, list[NamespaceDocument]] = {}
        had = {namespace: index for index, namespace in self._owners.items()}
        namespaces = sorted((self._namespaces or {}).values(), key=_by_age)
        for namespace in namespaces:
            yield_cpu()
            if not _NAMESPACE.fullmatch(namespace.name):
                # Only a manifest can have such a name. It could make the names of channels and ACL
                # users ambiguous.
                problems.append(Problem(ascii(namespace.name[:63]), "", messages.NAMESPACE_NAME()))
                continue
            enrolled = found[namespace.name] = self._enrol(namespace.name)
            problems += enrolled.problems
            index = enrolled.meant
            if enrolled.credentials:
                index = enrolled.credentials[0].tenant.index
            elif index is None and enrolled.malformed:
                index = had.get(namespace.name)
            if index is not None and (databases is None or index < databases):
                claims.setdefault(index, []).append(namespace)
        owners: dict[int, str] = {}
        for index, claimants in claims.items():
            yield_cpu()
            owner = self._owner(index, claimants, found)
            if owner is not None:
                owners[index] = owner
        self._owners = owners
        without_secret = []
        for namespace in namespaces:
            yield_cpu()
            enrolled = found.get(namespace.name, _NO_SECRETS)
            allowed, wrong = read_limits(namespace.annotations, self._default_limits)
            pauses, malformed = read_paused(namespace.annotations)
            if namespace.name in found:
                problems += [Problem(namespace.name, "", reason) for reason in (*wrong, *malformed)]
            if not enrolled.credentials:
                # Secrets that could not be read may exist, so they do not count as missing.
                if namespace.name in found and namespace.name in self._secrets and not enrolled.problems:
                    without_secret.append(namespace.name)
                continue
            first = enrolled.credentials[0]
            index = first.tenant.index
            if databases is not None and index >= databases:
                reason = messages.DATABASE_MISSING(index=index, last=databases - 1)
                problems.append(Problem(namespace.name, first.secret, reason))
            elif self._owners.get(index) != namespace.name:
                problems.append(self._kept_out(namespace.name, first, claims[index]))
            else:
                credentials += enrolled.credentials
                if allowed != UNLIMITED:
                    limits[namespace.name] = allowed
                if pauses:
                    paused.add(namespace.name)
        self.without_secret = tuple(sorted(without_secret))
        before = self._snapshot
        if before is None or before.backend != self._backend or before.credentials != tuple(credentials):
            snapshot = Snapshot(self._backend, _resting(credentials, yield_cpu), limits, paused)
            self._shared = _shared_passwords(snapshot, yield_cpu)
        elif before.limits != limits or before.paused != paused:
            snapshot = Snapshot(self._backend, _resting(credentials, yield_cpu), limits, paused)
        else:
            snapshot = before
        self._snapshot = snapshot
        return snapshot, sorted(problems + self._shared)

    def _owner(self, index: int, claimants: list[NamespaceDocument], enrolled: Mapping[str, _Enrolled]) -> str | None:
        """The namespace that gets a database, of those that name it; None: nobody gets it.

        The oldest namespace by creationTimestamp gets the database. If one of several has no
        creationTimestamp, the former owner keeps the database; without a former owner, as at the
        start, nobody gets it. A namespace whose secrets are malformed keeps other namespaces out,
        but takes the database from no former owner. If the database may belong to a namespace that
        was never read, only a former owner has it.

        claimants: the oldest first; enrolled: by namespace.
        """
        former_owner = self._owners.get(index)
        if former_owner not in {namespace.name for namespace in claimants}:
            former_owner = None
        owner = former_owner
        if not claimants[1:] or all(namespace.created is not None for namespace in claimants):
            oldest = claimants[0].name
            owner = former_owner if former_owner is not None and enrolled[oldest].malformed else oldest
        return former_owner if any(part.may_name(index) for part in self._never_read) else owner

    def _kept_out(self, namespace: str, credential: Credential, claimants: list[NamespaceDocument]) -> Problem:
        """The problem of a namespace that does not get the database that it names."""
        index = credential.tenant.index
        owner = self._owners.get(index)
        others = [claimant.name for claimant in claimants if claimant.name != namespace]
        ages = all(claimant.created is not None for claimant in claimants)
        if owner is not None and ages and claimants[0].name == owner:
            reason = messages.DATABASE_OF_OLDER(index=index, owner=owner)
        elif owner is not None:
            reason = messages.DATABASE_OF_FORMER(index=index, owner=owner)
        elif others and not ages:
            named = f"{', '.join(others[:NAMED])}{f' and {len(others) - NAMED} more' if others[NAMED:] else ''}"
            reason = messages.DATABASE_OF_NOBODY(index=index, others=named)
        else:
            file = next(part.name for part in self._never_read if part.may_name(index))
            reason = messages.DATABASE_IN_DOUBT(index=index, file=file)
        return Problem(namespace, credential.secret, reason)

    def _enrol(self, namespace: str) -> _Enrolled:
        """The result of a namespace's secrets: the same object while the secrets stay the same."""
        secrets = self._secrets.get(namespace, ())
        kept = self._enrolled.get(namespace)
        if kept is None or kept.secrets != secrets:
            kept = self._enrolled[namespace] = self._enrol_anew(namespace, secrets)
        return kept

    def _enrol_anew(self, namespace: str, secrets: tuple[SecretDocument, ...]) -> _Enrolled:
        found: list[Credential] = []
        problems: list[Problem] = []
        meant: int | None = None
        candidates = [
            secret for secret in secrets if secret.name == self._secret_name or secret.name.startswith(TEMPORARY_PREFIX)
        ]
        valid = newest(candidates, bounds.TEMPORARY_SECRETS)
        if len(valid) < len(candidates):
            problems.append(Problem(namespace, "", messages.TOO_MANY_TEMPORARY(most=bounds.TEMPORARY_SECRETS)))
            candidates = valid
        candidates.sort(key=lambda s: (s.name != self._secret_name, *_by_age(s)))
        for secret in candidates:
            try:
                if secret.error:
                    raise MalformedError(secret.error)
                username, password, index = parse_tenant(secret.data)
                expires = self._expiry(secret)
                tenant = Tenant(namespace, index)
                if found and found[0].tenant != tenant:
                    own = found[0]
                    raise MalformedError(messages.OTHER_DATABASE(index=index, secret=own.secret, own=own.tenant.index))
                found.append(Credential(tenant, secret.name, digest(password), username, expires))
            except MalformedError as error:
                problems.append(Problem(namespace, secret.name, error.reason))
                if meant is None:
                    meant = next(reversed(possible_indexes(secret.data.get(CONNECTION_STRING))), None)
        return _Enrolled(secrets, found, problems, None if found else meant)

    @staticmethod
    def _expiry(secret: SecretDocument) -> float | None:
        """When a secret's credential expires, in seconds since the epoch; None if it does not.
        Raises MalformedError.
        """
        if not secret.name.startswith(TEMPORARY_PREFIX):
            return None
        hours = parse_valid_hours(secret.data)
        if hours is None:
            return None
        if secret.created is None:
            raise MalformedError(messages.VALID_HOURS_WITHOUT_START())
        return min(secret.created + hours * 3600, _LATEST)


def _failures(reading: FullRead, master: tuple[str, str]) -> Iterator[Problem]:
    """A Problem for each part that could not be read. If the source itself failed, it is one
    Problem with the number of namespaces that were not read.
    """
    first = reading.master
    if isinstance(first, ReadFailure):
        if first.of_source and isinstance(reading.namespaces, ReadFailure):
            yield Problem("all namespaces and the master secret", "", messages.NOT_READ(reason=first.reason))
            return
        yield Problem(*master, messages.NOT_READ(reason=first.reason))
    if isinstance(reading.namespaces, ReadFailure):
        yield Problem("all namespaces", "", messages.NOT_READ(reason=reading.namespaces.reason))
    failed = {name: held for name, held in reading.secrets.items() if isinstance(held, ReadFailure)}
    together = [held for held in failed.values() if held.of_source]
    if len(together) > 1:
        where = "all namespaces" if len(together) == len(reading.secrets) else "some namespaces"
        reason = messages.MANY_NOT_READ(count=len(together), all=len(reading.secrets), reason=together[0].reason)
        yield Problem(where, "", reason)
    for namespace, held in failed.items():
        if not held.of_source or len(together) == 1:
            yield Problem(namespace, "", messages.SECRETS_NOT_READ(reason=held.reason))


def _by_age(document: NamespaceDocument | SecretDocument) -> tuple[bool, float, str]:
    """A sort key: the oldest document first. Documents without a creationTimestamp are last, sorted
    by name.
    """
    return document.created is None, document.created or 0.0, document.name


def _resting(credentials: Iterable[Credential], yield_cpu: Callable[[], None]) -> Iterator[Credential]:
    for credential in credentials:
        yield_cpu()
        yield credential


def _shared_passwords(snapshot: Snapshot, yield_cpu: Callable[[], None]) -> list[Problem]:
    problems = []
    for sharing in snapshot.shared():
        namespaces = sorted({credential.tenant.namespace for credential in sharing})
        if len(namespaces) == 1:
            continue
        for credential in sharing:
            yield_cpu()
            others = [name for name in namespaces[: NAMED + 1] if name != credential.tenant.namespace][:NAMED]
            more = len(namespaces) - 1 - len(others)
            problems.append(
                Problem(
                    credential.tenant.namespace,
                    credential.secret,
                    messages.PASSWORD_SHARED(others=f"{', '.join(others)}{f' and {more} more' if more else ''}"),
                )
            )
    return problems
