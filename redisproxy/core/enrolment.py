"""From what was read of namespaces and secrets to a Directory: the rules of enrolment.

Owns the rules and the last good reading. What is read, and how, is the business of `redisproxy.directory`.
No value of a secret is ever part of a Problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from .limits import UNLIMITED, Limits, read_limits
from .printable import printable
from .tenants import Backend, Credential, Directory, Tenant, digest

CONNECTION_STRING = "redis-connection-string"
PASSWORD = "redis-password"  # noqa: S105 - the name of a key
VALID_HOURS = "valid_hours"
SENTINEL_USERNAME = "sentinel-username"
SENTINEL_PASSWORD = "sentinel-password"  # noqa: S105 - the name of a key
#: The keys of a Secret that are looked at; sources need not keep others.
KEYS = (CONNECTION_STRING, PASSWORD, VALID_HOURS, SENTINEL_USERNAME, SENTINEL_PASSWORD)
TEMPORARY_PREFIX = "redis-secret-temp-"

#: What Kubernetes calls a DNS label.
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)

#: Namespaces with one password that are named to each other; of the rest only the number is told.
NAMED = 10

#: Characters of a name that are shown: Kubernetes has none that is longer, nor do file systems.
LONGEST_NAME = 255

#: A thousand years: no date that it leads to overflows.
_MOST_HOURS = 24 * 366 * 1000


@dataclass(frozen=True, slots=True)
class NamespaceDocument:
    """A namespace. created: seconds since the epoch; annotations: those that begin with `limits.PREFIX`."""

    name: str
    created: float
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class SecretDocument:
    """A secret, as far as it matters here.

    data: values by key, decoded; error: what is wrong with it as a document, or None.
    """

    namespace: str
    name: str
    #: seconds since the epoch
    created: float
    data: Mapping[str, bytes] = field(repr=False)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """Takes the place of what could not be read. reason: fit for a log."""

    reason: str
    #: seconds after which the server asked to be tried again, or None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at a source found."""

    #: None: there is none
    master: SecretDocument | ReadFailure | None
    namespaces: tuple[NamespaceDocument, ...] | ReadFailure
    #: by namespace: those that may hold credentials
    secrets: Mapping[str, tuple[SecretDocument, ...] | ReadFailure]
    #: documents that are not even that: what and why
    unreadable: tuple[Problem, ...] = ()

    def failures(self) -> list[ReadFailure]:
        """All that could not be read."""
        parts = [self.master, self.namespaces, *self.secrets.values()]
        return [part for part in parts if isinstance(part, ReadFailure)]


#: In place of a secret's name: the namespace.
ITSELF = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """Objects that are said to have changed, in whatever way: which they are, not what they are now.

    namespaces: made or deleted, or with more changed secrets than are worth naming; secrets: (namespace, name), the master
    secret among them, and ITSELF as the name of a namespace that was changed, but none of its secrets.
    """

    namespaces: frozenset[str] = frozenset()
    secrets: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Update:
    """What a source said of single objects when asked again: each as it is now, None where it does not exist.

    What could not be read is missing, and there is a failure.
    """

    namespaces: Mapping[str, NamespaceDocument | None] = field(default_factory=dict)
    #: by namespace: all of its secrets
    listed: Mapping[str, tuple[SecretDocument, ...]] = field(default_factory=dict)
    #: by (namespace, name): of namespaces that were not listed since
    secrets: Mapping[tuple[str, str], SecretDocument | None] = field(default_factory=dict)
    failures: tuple[ReadFailure, ...] = ()

    def followed_by(self, later: Update) -> Update:
        """Both, where the later one wins."""
        kept = {key: found for key, found in self.secrets.items() if key[0] not in later.listed}
        return Update(
            {**self.namespaces, **later.namespaces},
            {**self.listed, **later.listed},
            {**kept, **later.secrets},
            self.failures + later.failures,
        )


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that an operator has to mend: where it is and why. secret: empty when it is about the namespace.

    Its texts are printable: a manifest can have any name, and so can a file.
    """

    namespace: str
    secret: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "namespace", printable(self.namespace[:LONGEST_NAME]))
        object.__setattr__(self, "secret", printable(self.secret[:LONGEST_NAME]))
        object.__setattr__(self, "reason", printable(self.reason))

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.secret}" if self.secret else self.namespace
        return f"{where}: {self.reason}"


class MalformedError(ValueError):
    """A secret's value is not what it has to be. The text says why, without the value."""


_EXAMPLE = "redis://:password@host:6379/3"


def _text(value: bytes | None) -> str:
    if value is None:
        raise MalformedError(f"it has no key {CONNECTION_STRING}, which takes the form {_EXAMPLE}")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(f"{CONNECTION_STRING} is not UTF-8") from None
    if text != text.strip():
        raise MalformedError(
            f"{CONNECTION_STRING} begins or ends with white space (echo adds a newline: use echo -n or printf)"
        )
    if any(ord(character) < 33 or ord(character) == 127 for character in text):
        raise MalformedError(f"{CONNECTION_STRING} contains white space or a control character")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise MalformedError(f"{CONNECTION_STRING} has a % that two hexadecimal digits do not follow: write %25 for %")
    return text


def _split(text: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        url = urlsplit(text)
        url.port  # noqa: B018 - raises when it is not a number
    except ValueError:
        raise MalformedError(f"{CONNECTION_STRING} is not a URL of the form {_EXAMPLE}") from None
    if url.scheme not in schemes:
        raise MalformedError(f"{CONNECTION_STRING} does not begin with {' or '.join(s + '://' for s in schemes)}")
    return url


def _user_info(netloc: str) -> tuple[str, bytes]:
    """User name and password of a URL. An @ in a password is taken as such: the last one ends it."""
    info, _, _ = netloc.rpartition("@")
    username, _, password = info.partition(":")
    try:
        return unquote_to_bytes(username).decode("utf-8"), unquote_to_bytes(password)
    except UnicodeDecodeError:
        raise MalformedError(f"the user name in {CONNECTION_STRING} is not UTF-8") from None


def parse_backend(data: Mapping[str, bytes]) -> Backend:
    """Where Redis is, from the master secret. Raises MalformedError."""
    text = _text(data.get(CONNECTION_STRING))
    if sentinels := re.match(r"(rediss?)\+sentinel://", text, re.IGNORECASE):
        return _parse_sentinels(text[sentinels.end() :], sentinels[1].lower() == "rediss", data)
    url = _split(text, ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"))
    username, password = _user_info(url.netloc)
    if PASSWORD in data:
        password = data[PASSWORD]
    if url.scheme == "unix":
        path = unquote_to_bytes(url.path).decode("utf-8", "replace")
        if not path.startswith("/"):
            raise MalformedError(f"{CONNECTION_STRING} names no absolute path: unix:///run/redis.sock")
        return Backend(path=path, username=username, password=password)
    if not url.hostname:
        raise MalformedError(f"{CONNECTION_STRING} names no host")
    port = 6379 if url.port is None else url.port
    if not 0 < port < 65536:
        raise MalformedError(f"{CONNECTION_STRING} names a port that is not within 1 to 65535")
    return Backend(host=url.hostname, port=port, tls=url.scheme == "rediss", username=username, password=password)


#: A sentinel: host, or IPv6 address in brackets, and port.
_SENTINEL = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@,]+))(?::([0-9]{1,5}))?", re.ASCII)
_SENTINEL_PORT = 26379


def _parse_sentinels(rest: str, tls: bool, data: Mapping[str, bytes]) -> Backend:
    """The same of ``redis+sentinel://``; rest: what follows that. The last /N, a database's number, means nothing here."""
    form = f"{CONNECTION_STRING} is not of the form redis+sentinel://:password@host:26379,host:26379/master-name"
    netloc, _, path = rest.partition("/")
    if "?" in rest or "#" in rest:
        # A password that was not percent-encoded, or an option that would be ignored.
        raise MalformedError(f"{form}: it has a ? or #")
    username, password = _user_info(netloc)
    places = []
    for number, place in enumerate(netloc.rpartition("@")[2].split(","), 1):
        found = _SENTINEL.fullmatch(place)
        if not found:
            raise MalformedError(f"{form}: sentinel {number} is no host and port")
        port = int(found[3] or _SENTINEL_PORT)
        if not 0 < port < 65536:
            raise MalformedError(f"{CONNECTION_STRING} names a port that is not within 1 to 65535 for sentinel {number}")
        places.append((found[1] or found[2], port))
    name, _, index = path.partition("/")
    # What Sentinel itself takes as a name.
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name, re.ASCII):
        raise MalformedError(f"{form}: it names no master, or one that is not of letters, digits and . - _")
    if not re.fullmatch(r"[0-9]{0,9}", index, re.ASCII):
        raise MalformedError(f"{form}: what follows the master's name is no database's number")
    sentinel_username = data.get(SENTINEL_USERNAME, b"")
    try:
        sentinel_user = sentinel_username.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(f"{SENTINEL_USERNAME} is not UTF-8") from None
    return Backend(
        tls=tls,
        username=username,
        password=data.get(PASSWORD, password),
        sentinels=tuple(dict.fromkeys(places)),
        master_name=name,
        sentinel_username=sentinel_user,
        sentinel_password=data.get(SENTINEL_PASSWORD, b""),
    )


def parse_tenant(data: Mapping[str, bytes]) -> tuple[str, bytes, int]:
    """(user name, password, database index) of a tenant's secret. Raises MalformedError."""
    url = _split(_text(data.get(CONNECTION_STRING)), ("redis", "rediss"))
    username, password = _user_info(url.netloc)
    if not password:
        raise MalformedError(f"{CONNECTION_STRING} has no password")
    index = url.path.removeprefix("/")
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", index, re.ASCII):
        raise MalformedError(f"{CONNECTION_STRING} does not end in /N, the database's number")
    return username, password, int(index)


def parse_valid_hours(data: Mapping[str, bytes]) -> int | None:
    """For how many hours a temporary credential is good, None without end. Raises MalformedError."""
    value = data.get(VALID_HOURS)
    if value is None:
        return None
    digits = value.strip()
    if not digits.isdigit() or len(digits) > 8 or int(digits) > _MOST_HOURS:
        raise MalformedError(f"{VALID_HOURS} is not a whole number of hours from 0 to {_MOST_HOURS}")
    return int(digits)


def no_rest() -> None:
    """For whom nobody waits; see `Enrolment.resolve`."""


class Enrolment:
    """The last good answer to each question, and the Directory that follows from it.

    What follows from a namespace's secrets is kept as long as they stay the same.

    secret_name: of the client secret in each namespace; master: (namespace, name) of the master secret; backend:
    where Redis is, whatever the master secret says; limits: of tenants whose namespaces say nothing else.
    """

    def __init__(
        self,
        secret_name: str,
        master: tuple[str, str],
        backend: Backend | None = None,
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
        #: by namespace: its secrets, and the credentials and problems that follow from just these
        self._enrolled: dict[str, tuple[tuple[SecretDocument, ...], list[Credential], list[Problem]]] = {}
        self._directory: Directory | None = None
        self._shared: list[Problem] = []

    def absorb(self, reading: Reading) -> None:
        """Takes over what was read. What failed to be read stays as it was."""
        failures = []
        if isinstance(reading.master, ReadFailure):
            failures.append(Problem(*self._master, f"not read: {reading.master.reason}"))
        elif not self._fixed_backend:
            self._absorb_master(reading.master)
        if isinstance(reading.namespaces, ReadFailure):
            failures.append(Problem("all namespaces", "", f"not read: {reading.namespaces.reason}"))
        else:
            self._namespaces = {namespace.name: namespace for namespace in reading.namespaces}
            self._secrets = {name: kept for name, kept in self._secrets.items() if name in self._namespaces}
            self._enrolled = {name: kept for name, kept in self._enrolled.items() if name in self._namespaces}
            self._unreadable = reading.unreadable
        for namespace, secrets in reading.secrets.items():
            if isinstance(secrets, ReadFailure):
                failures.append(Problem(namespace, "", f"its secrets were not read: {secrets.reason}"))
            elif self._secrets.get(namespace) != secrets:
                self._secrets[namespace] = secrets
        self._failures = tuple(failures)

    def amend(self, update: Update) -> None:
        """Takes over what was read again. What is not known yet stays so: the reading of all there is comes first."""
        if self._namespaces is None:
            return
        for name, namespace in update.namespaces.items():
            if namespace is not None:
                self._namespaces[name] = namespace
                continue
            for known in (self._namespaces, self._secrets, self._enrolled):
                known.pop(name, None)
        for name, secrets in update.listed.items():
            if name in self._namespaces and self._secrets.get(name) != secrets:
                self._secrets[name] = secrets
        for (namespace, name), secret in update.secrets.items():
            if (namespace, name) == self._master:
                if not self._fixed_backend:
                    self._absorb_master(secret)
            elif namespace in self._namespaces and namespace in self._secrets:
                others = [kept for kept in self._secrets[namespace] if kept.name != name]
                now = others if secret is None else sorted([*others, secret], key=lambda s: s.name)
                self._secrets[namespace] = tuple(now)

    def _absorb_master(self, master: SecretDocument | None) -> None:
        """A master secret that is gone or malformed leaves the last good backend in force, or nobody would be served."""
        self._master_problem = None
        if master is None:
            self._master_problem = Problem(*self._master, "the master secret does not exist")
            return
        try:
            if master.error:
                raise MalformedError(master.error)
            self._backend = parse_backend(master.data)
        except MalformedError as error:
            self._master_problem = Problem(*self._master, f"the master secret is malformed: {error}")

    @property
    def loaded(self) -> bool:
        """Whether the namespaces were ever read."""
        return self._namespaces is not None

    def resolve(self, databases: int | None = None, rest: Callable[[], None] = no_rest) -> tuple[Directory, list[Problem]]:
        """The Directory, and what keeps some out of it. As long as it stays the same it is the same object.

        databases: how many Redis has, if known; rest: called between any two namespaces, may sleep.
        """
        problems: list[Problem] = [*self._failures, *self._unreadable]
        if self._master_problem:
            problems.append(self._master_problem)
        owners: dict[int, str] = {}
        credentials: list[Credential] = []
        limits: dict[str, Limits] = {}
        namespaces = sorted((self._namespaces or {}).values(), key=lambda n: (n.created, n.name))
        for namespace in namespaces:
            rest()
            if not _NAMESPACE.fullmatch(namespace.name):
                # Of a manifest: Kubernetes has none such. Channels and ACL users are told apart by these names.
                text = "is no name of a namespace, which has up to 63 of a-z, 0-9 and -"
                problems.append(Problem(ascii(namespace.name[:63]), "", text))
                continue
            found, malformed = self._credentials(namespace.name)
            problems += malformed
            allowed, wrong = read_limits(namespace.annotations, self._default_limits)
            problems += [Problem(namespace.name, "", reason) for reason in wrong]
            if not found:
                continue
            index = found[0].tenant.index
            if databases is not None and index >= databases:
                problems.append(
                    Problem(namespace.name, found[0].secret, f"Redis has no database {index}: it has 0 to {databases - 1}")
                )
                continue
            if index in owners:
                problems.append(
                    Problem(namespace.name, found[0].secret, f"database {index} belongs to the older {owners[index]}")
                )
                continue
            owners[index] = namespace.name
            credentials += found
            if allowed != UNLIMITED:
                limits[namespace.name] = allowed
        before = self._directory
        if before is None or before.backend != self._backend or before.credentials != tuple(credentials):
            self._directory = Directory(self._backend, _resting(credentials, rest), limits)
            self._shared = _shared_passwords(self._directory, rest)
        elif before.limits != limits:
            self._directory = Directory(self._backend, _resting(credentials, rest), limits)
        return self._directory, sorted(problems + self._shared)

    def _credentials(self, namespace: str) -> tuple[list[Credential], list[Problem]]:
        """A namespace's credentials, the one that decides on its database first, and its malformed secrets."""
        secrets = self._secrets.get(namespace, ())
        kept, found, problems = self._enrolled.get(namespace, (None, [], []))
        if kept != secrets:
            found, problems = self._enrol(namespace, secrets)
            self._enrolled[namespace] = (secrets, found, problems)
        return found, problems

    def _enrol(self, namespace: str, secrets: Iterable[SecretDocument]) -> tuple[list[Credential], list[Problem]]:
        found: list[Credential] = []
        problems = []
        candidates = [
            secret for secret in secrets if secret.name == self._secret_name or secret.name.startswith(TEMPORARY_PREFIX)
        ]
        candidates.sort(key=lambda s: (s.name != self._secret_name, s.created, s.name))
        for secret in candidates:
            try:
                if secret.error:
                    raise MalformedError(secret.error)
                username, password, index = parse_tenant(secret.data)
                expires = None
                if secret.name.startswith(TEMPORARY_PREFIX):
                    hours = parse_valid_hours(secret.data)
                    expires = None if hours is None else secret.created + hours * 3600
                tenant = Tenant(namespace, index)
                if found and found[0].tenant != tenant:
                    raise MalformedError(
                        f"it names database {index}, but {found[0].secret} gives the namespace {found[0].tenant.index}"
                    )
                found.append(Credential(tenant, secret.name, digest(password), username, expires))
            except MalformedError as error:
                problems.append(Problem(namespace, secret.name, str(error)))
        return found, problems


def _resting(credentials: Iterable[Credential], rest: Callable[[], None]) -> Iterator[Credential]:
    for credential in credentials:
        rest()
        yield credential


def _shared_passwords(directory: Directory, rest: Callable[[], None]) -> list[Problem]:
    problems = []
    for sharing in directory.shared():
        namespaces = sorted({credential.tenant.namespace for credential in sharing})
        if len(namespaces) == 1:
            continue
        for credential in sharing:
            rest()
            others = [name for name in namespaces[: NAMED + 1] if name != credential.tenant.namespace][:NAMED]
            more = len(namespaces) - 1 - len(others)
            problems.append(
                Problem(
                    credential.tenant.namespace,
                    credential.secret,
                    f"its password is also that of {', '.join(others)}{f' and {more} more' if more else ''}:"
                    " only AUTH <namespace> <password> is accepted",
                )
            )
    return problems
