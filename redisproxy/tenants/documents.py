"""The results of reading a source: namespaces, secrets, read failures, and problems with them.

Owns the form in which sources hand over what they read. `enrolment` decides what follows. No value
of a secret is ever part of a Problem, or of the text of any of these objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..messages import Text
from ..printable import printable
from .urls import CONNECTION_STRING

PASSWORD = "redis-password"  # noqa: S105 - the name of a key
VALID_HOURS = "valid_hours"
SENTINEL_USERNAME = "sentinel-username"
SENTINEL_PASSWORD = "sentinel-password"  # noqa: S105 - the name of a key
#: The keys of a Secret that are used. Sources need not keep others.
KEYS = (CONNECTION_STRING, PASSWORD, VALID_HOURS, SENTINEL_USERNAME, SENTINEL_PASSWORD)
TEMPORARY_PREFIX = "redis-secret-temp-"

#: Characters of a name that are shown. Names in Kubernetes and in file systems are not longer.
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class NamespaceDocument:
    """A namespace.

    created: creationTimestamp in seconds since the epoch, None if it has none; annotations, labels:
    those that begin with `limits.PREFIX`.
    """

    name: str
    created: float | None
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class SecretDocument:
    """A secret: the parts that the proxy uses.

    data: values by key, decoded; error: why the document is malformed, or None.
    """

    namespace: str
    name: str
    #: creationTimestamp in seconds since the epoch, None if it has none
    created: float | None
    data: Mapping[str, bytes] = field(repr=False)
    error: Text | None = None


def newest(secrets: Iterable[SecretDocument], most: int) -> list[SecretDocument]:
    """Returns the newest temporary secrets, and all others. most: how many temporary ones.

    Those without a creationTimestamp count as the oldest.
    """
    found = list(secrets)
    temporary = [secret for secret in found if secret.name.startswith(TEMPORARY_PREFIX)]
    if len(temporary) <= most:
        return found
    temporary.sort(key=lambda secret: (secret.created or 0.0, secret.name), reverse=True)
    dropped = {secret.name for secret in temporary[most:]}
    return [secret for secret in found if secret.name not in dropped]


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """Stands for something that could not be read. reason: safe for the log."""

    reason: Text
    #: seconds that the server asked to wait before another attempt, or None
    retry_after: float | None = None
    #: whether the source itself failed, so that nothing else could be read from it: that is one
    #: failure, and is logged once
    of_source: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class NeverRead:
    """A part of a source that was never readable. An older owner of a database may be in it.

    name: safe for the log; indexes: the databases that it may name, None for any; digits: the first
    digits of an index whose end may be missing, empty if there is none.
    """

    name: str
    indexes: frozenset[int] | None = None
    digits: str = ""

    def may_name(self, index: int) -> bool:
        """Whether this part may give the database to a namespace."""
        return self.indexes is None or index in self.indexes or (self.digits != "" and str(index).startswith(self.digits))


@dataclass(frozen=True, slots=True)
class FullRead:
    """The result of one full read of a source."""

    #: the master secret; None if it does not exist
    master: SecretDocument | ReadFailure | None
    namespaces: tuple[NamespaceDocument, ...] | ReadFailure
    #: by namespace: the secrets that may have credentials
    secrets: Mapping[str, tuple[SecretDocument, ...] | ReadFailure]
    #: documents that could not be understood, or parts that could not be read
    unreadable: tuple[Problem, ...] = ()
    #: parts whose contents were never read, so nothing is known of them
    never_read: tuple[NeverRead, ...] = ()
    #: failures of parts that could not be read: those in `never_read`, and those whose older
    #: contents are used. Each is also in `unreadable`
    stale: tuple[ReadFailure, ...] = ()
    #: seconds after which the source wants to be read again, because a change in it may be a
    #: half-written file; or None
    again: float | None = None
    #: whether `namespaces` are all that exist. False if a document in `unreadable` may be a
    #: namespace
    complete: bool = True

    def failures(self) -> list[ReadFailure]:
        """All failures of this read."""
        parts = [self.master, self.namespaces, *self.secrets.values(), *self.stale]
        return [part for part in parts if isinstance(part, ReadFailure)]


@dataclass(frozen=True, slots=True)
class ReadSummary:
    """What a read proved: which namespaces exist, and which secrets are up to date.

    whole: True for a full read, False for a read of single objects; master: whether the master
    secret was read, and is in force; namespaces: those that exist, None if that is not known;
    uncertain: the namespaces whose secrets could not be read, so that older ones are in force.
    """

    whole: bool
    master: bool
    namespaces: frozenset[str] | None
    uncertain: frozenset[str] = frozenset()


#: Instead of a secret's name: the namespace itself.
ITSELF = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """Objects that may have changed, by name only: their new contents have to be read.

    namespaces: namespaces to read with all their secrets, because they were created or deleted, or
    have many changed secrets; secrets: (namespace, name), the master secret among them. The name is
    ITSELF if the namespace has changed, but none of its secrets.
    """

    namespaces: frozenset[str] = frozenset()
    secrets: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Update:
    """The result of an incremental read: single objects as they are now, None if one does not
    exist.

    An object that could not be read is missing here, and there is a failure instead.
    """

    namespaces: Mapping[str, NamespaceDocument | None] = field(default_factory=dict)
    #: by namespace: all of its secrets
    listed: Mapping[str, tuple[SecretDocument, ...]] = field(default_factory=dict)
    #: by (namespace, name): single secrets that were read after the last list of their namespace
    secrets: Mapping[tuple[str, str], SecretDocument | None] = field(default_factory=dict)
    failures: tuple[ReadFailure, ...] = ()

    def followed_by(self, later: Update) -> Update:
        """Both results as one. The later one wins."""
        kept = {key: found for key, found in self.secrets.items() if key[0] not in later.listed}
        return Update(
            {**self.namespaces, **later.namespaces},
            {**self.listed, **later.listed},
            {**kept, **later.secrets},
            self.failures + later.failures,
        )


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that an operator has to fix: where it is, and why.

    secret: its name, empty if the problem is with the namespace. The texts are made printable,
    because a manifest or a file can have any name.
    """

    namespace: str
    secret: str
    reason: Text

    def __post_init__(self) -> None:
        object.__setattr__(self, "namespace", printable(self.namespace[:LONGEST_NAME]))
        object.__setattr__(self, "secret", printable(self.secret[:LONGEST_NAME]))

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.secret}" if self.secret else self.namespace
        return f"{where}: {self.reason}"
