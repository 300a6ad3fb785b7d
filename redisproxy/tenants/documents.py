"""What a source read: namespaces, secrets, what could not be read, and what is wrong with any of
them.

Owns the form in which sources hand over what they found. What follows from it is the business of
`enrolment`. No value of a secret is ever part of a Problem, and none is in the text of any of
these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..messages import Text
from ..printable import printable
from .urls import CONNECTION_STRING

PASSWORD = "redis-password"  # noqa: S105 - the name of a key
VALID_HOURS = "valid_hours"
SENTINEL_USERNAME = "sentinel-username"
SENTINEL_PASSWORD = "sentinel-password"  # noqa: S105 - the name of a key
#: The keys of a Secret that are read; sources need not keep others.
KEYS = (CONNECTION_STRING, PASSWORD, VALID_HOURS, SENTINEL_USERNAME, SENTINEL_PASSWORD)
TEMPORARY_PREFIX = "redis-secret-temp-"

#: Characters of a name that are shown: Kubernetes has none that is longer, nor do file systems.
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class NamespaceDocument:
    """A namespace.

    created: seconds since the epoch, None where it does not say; annotations, labels: those that
    begin with `limits.PREFIX`.
    """

    name: str
    created: float | None
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class SecretDocument:
    """A secret, as far as it matters here.

    data: values by key, decoded; error: what is wrong with it as a document, or None.
    """

    namespace: str
    name: str
    #: seconds since the epoch, None where it does not say
    created: float | None
    data: Mapping[str, bytes] = field(repr=False)
    error: Text | None = None


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """Takes the place of what could not be read. reason: fit for a log."""

    reason: Text
    #: seconds after which the server asked to be tried again, or None
    retry_after: float | None = None
    #: whether the source itself failed, so that nothing else of it could be read either: one
    #: failure, told once
    of_source: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class NeverRead:
    """A part of a source that was never readable, so that an older owner of a database may be in
    it. name: fit for a log.

    indexes: databases that it may name, None: any; digits: what a number that may go on begins
    with.
    """

    name: str
    indexes: frozenset[int] | None = None
    digits: str = ""

    def may_name(self, index: int) -> bool:
        """Whether it may give this database to somebody."""
        return self.indexes is None or index in self.indexes or (self.digits != "" and str(index).startswith(self.digits))


@dataclass(frozen=True, slots=True)
class FullRead:
    """What one look at a source found."""

    #: None: there is none
    master: SecretDocument | ReadFailure | None
    namespaces: tuple[NamespaceDocument, ...] | ReadFailure
    #: by namespace: those that may hold credentials
    secrets: Mapping[str, tuple[SecretDocument, ...] | ReadFailure]
    #: documents that are not even that: what and why
    unreadable: tuple[Problem, ...] = ()
    #: parts of which nothing is known, since none of their contents was ever read
    never_read: tuple[NeverRead, ...] = ()
    #: of parts that could not be read: those in `never_read`, and those that are here as they were;
    #: also in `unreadable`
    stale: tuple[ReadFailure, ...] = ()
    #: seconds after which the source asks to be read again: something was not believed at first
    #: sight
    again: float | None = None
    #: whether `namespaces` are all that exist; not where one of the documents in `unreadable` may
    #: be a namespace
    complete: bool = True

    def failures(self) -> list[ReadFailure]:
        """All that could not be read."""
        parts = [self.master, self.namespaces, *self.secrets.values(), *self.stale]
        return [part for part in parts if isinstance(part, ReadFailure)]


@dataclass(frozen=True, slots=True)
class ReadSummary:
    """What a read has established: what may be taken for gone, and what may not.

    whole: whether all was read again, not single objects; master: whether the master secret was,
    and is in force; namespaces: those that exist, None where their list could not be read;
    uncertain: of them those whose secrets could not be read, so that the last known ones are in
    force.
    """

    whole: bool
    master: bool
    namespaces: frozenset[str] | None
    uncertain: frozenset[str] = frozenset()


#: In place of a secret's name: the namespace.
ITSELF = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """Objects that are said to have changed, in whatever way: which they are, not what they are
    now.

    namespaces: made or deleted, or with more changed secrets than are worth naming; secrets:
    (namespace, name), the master secret among them, and ITSELF as the name of a namespace that was
    changed, but none of its secrets.
    """

    namespaces: frozenset[str] = frozenset()
    secrets: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Update:
    """What a source said of single objects when asked again: each as it is now, None where it does
    not exist.

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
    """Something that an operator has to fix: where it is and why. secret: empty when it is about
    the namespace.

    Its texts are printable: a manifest can have any name, and so can a file.
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
