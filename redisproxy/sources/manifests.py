"""Reads namespaces and secrets from a directory of manifests, for where there is no cluster.

Owns the files: ``*.yaml``, ``*.yml`` and ``*.json`` of one directory that are not hidden, each with
any number of documents, ``List`` included; and when a file is believed. The rules are the cluster's
own (`tenants.enrolment`). When a file was written means nothing: `touch`, a copy or a comment would
make its documents older or younger.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import itertools
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import messages
from ..ops.file_watch import Stamp, stamp
from ..printable import printable
from ..tenants.documents import FullRead, NamespaceDocument, NeverRead, Problem, ReadFailure, SecretDocument
from ..tenants.enrolment import no_yield
from ..tenants.urls import CONNECTION_STRING
from . import yamltext
from .documents import (
    DocumentError,
    StoredSecret,
    is_missing,
    names_secret,
    read_ageless_namespace,
    read_namespace,
    read_secret,
    read_stored,
)

_ENDINGS = (".yaml", ".yml", ".json")
#: Where a link that leads nowhere ends: there is no file.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: Seconds after which a file that has become shorter, or has lost something, is read once more
#: before it is believed: it may be half written.
REST = 1.0

#: What a file's documents are made into.
_Made = list[NamespaceDocument | SecretDocument | Problem]


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file says. digest: of its bytes; size: in bytes; documents: what was made of them."""

    digest: bytes
    size: int
    documents: _Made = field(repr=False)

    def takes_away(self, before: _Content) -> bool:
        """Whether it is shorter than before, or lacks a namespace or a secret, or the end of a
        secret's URL.
        """
        if self.size < before.size:
            return True
        now = self._named()
        return any(
            key not in now or (url.startswith(now[key]) and len(url) > len(now[key])) for key, url in before._named().items()
        )

    def _named(self) -> dict[tuple[str, str], bytes]:
        """The URL of each secret, by namespace and name; namespaces have no namespace, and no
        URL.
        """
        found: dict[tuple[str, str], bytes] = {}
        for document in self.documents:
            if isinstance(document, NamespaceDocument):
                found["", document.name] = b""
            elif isinstance(document, SecretDocument):
                found[document.namespace, document.name] = document.data.get(CONNECTION_STRING, b"")
        return found


#: What a file says that is not there.
_GONE = _Content(b"", 0, [])


class ManifestsSource:
    """A directory of manifests, read anew at each call of `read`. Only files that changed are
    parsed again.

    doubt: seconds after which what was taken away is believed, for a source that is read again
    (`REST`); 0: at once, for one that is read once. clock: seconds that only go on.
    """

    def __init__(
        self,
        directory: Path,
        prefix: str,
        master: tuple[str, str],
        doubt: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._prefix = prefix
        self._master = master
        self._doubt = doubt
        self._clock = clock
        #: by name of a file: what it says that is believed
        self._believed: dict[str, _Content] = {}
        #: by name of a file: what it says now and is not believed yet, and since when it says so
        self._doubted: dict[str, tuple[_Content, float]] = {}
        #: what `stamp` was when it was last read, None before
        self.stamp_read: Stamp | None = None

    def __str__(self) -> str:
        return f"the manifests in {self._directory}"

    def stop(self) -> None:
        """Reading files takes no time to speak of."""

    def _files(self) -> list[Path]:
        """May raise OSError.

        Hidden ones are not among them: what is being written, editors' and archivers' own
        (``._tenants.yaml``), and what the kubelet's links lead to (``..data``).
        """
        return sorted(
            path
            for path in self._directory.iterdir()
            if path.suffix in _ENDINGS and not path.name.startswith(".") and _is_file(path)
        )

    def stamp(self) -> Stamp:
        """Differs from what it was when a file was written, replaced, removed or added. Blocks.

        A mounted Secret or ConfigMap is replaced as a whole, by another target of a symbolic link:
        links are followed.
        """
        try:
            return tuple((path.name, *stamp(path)) for path in self._files())
        except OSError as error:
            return ("unreadable", error.errno)  # perhaps just now: what is read next tells

    def read(self, yield_cpu: Callable[[], None] = no_yield) -> FullRead:
        """What the files say now. Blocks. yield_cpu: called after each document that is parsed, may
        sleep.

        A file that cannot be read, or is no YAML, says what it said before, and is named. Where
        that is nothing, what it may say is a `NeverRead` of the reading.
        """
        self.stamp_read = self.stamp()  # before: what changes from now on is another stamp
        try:
            files = self._files()
        except OSError as error:
            failure = ReadFailure(
                messages.DIRECTORY_UNREADABLE(directory=self._directory, error=error.strerror), of_source=True
            )
            return FullRead(failure, failure, {})
        found: dict[str, _Content] = {}
        problems: list[Problem] = []
        never_read: list[NeverRead] = []
        stale: list[ReadFailure] = []
        for path in files:
            name, shown = path.name, printable(path.name)
            before = self._believed.get(name)
            text = None
            try:
                text = path.read_bytes()
                found[name] = self._content(name, text, yield_cpu)
                continue
            except FileNotFoundError:
                continue  # it went a moment ago: see `_believe`
            except OSError as error:
                reason = messages.FILE_UNREADABLE(error=error.strerror)
            except Exception as error:
                # Its text quotes the document. And whatever PyYAML raises, it is about this file
                # alone.
                reason = messages.FILE_NOT_YAML(where=yamltext.position(error))
            stale.append(ReadFailure(messages.FILE_FAILED(file=shown, reason=reason)))
            if before is not None:
                found[name] = before
                problems.append(Problem(shown, "", messages.FILE_STALE(reason=reason)))
            else:
                never_read.append(_never_read(shown, text))
                problems.append(Problem(shown, "", messages.FILE_NEVER_READ(reason=reason)))
        again = self._believe(found)
        documents = [document for name in sorted(self._believed) for document in self._believed[name].documents]
        reading = self._gather(documents, problems)
        return replace(reading, never_read=tuple(never_read), stale=tuple(stale), again=again)

    def stored(self, namespace: str, name: str) -> StoredSecret | None:
        """A secret, whole, as the files have it now; None: none that can be read has it. Blocks.

        Of two documents of one name the later is in force. Raises DocumentError for a malformed
        one, and OSError.
        """
        found = list(self._secrets_named(namespace, name))
        if not found:
            return None
        return read_stored(found[-1][1], tuple(dict.fromkeys(file for file, _ in found)))

    def files_with(self, namespace: str, name: str) -> tuple[str, ...]:
        """The names of all files that have a Secret of that name, malformed ones included. Blocks.
        Raises OSError.
        """
        return tuple(dict.fromkeys(file for file, _ in self._secrets_named(namespace, name)))

    def _secrets_named(self, namespace: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each Secret of that name, with its file."""
        for path in self._files():
            try:
                parsed = [content for content, _ in yamltext.documents(path.read_bytes())]
            except Exception:  # noqa: S112 - whatever PyYAML raises: `read` tells of such a file
                continue
            for document in itertools.chain.from_iterable(map(_flatten, parsed)):
                if isinstance(document, Mapping) and names_secret(document, namespace, name):
                    yield printable(path.name), document

    def _content(self, name: str, text: bytes, yield_cpu: Callable[[], None]) -> _Content:
        digest = hashlib.sha256(text).digest()
        for content in (self._believed.get(name), self._doubted.get(name, (None,))[0]):
            if content is not None and content.digest == digest:
                return content
        return _Content(digest, len(text), self._parse(printable(name), text, yield_cpu))

    def _believe(self, found: Mapping[str, _Content]) -> float | None:
        """Believes what files say, but for what was taken away a moment ago. Seconds until that is
        to be read again.
        """
        now = self._clock()
        believed, doubted = dict(found), {}
        # or it is being made again
        gone = {name: _GONE for name in self._believed if name not in found}
        for name, content in {**found, **gone}.items():
            before = self._believed.get(name)
            if before is None or content.digest == before.digest or not content.takes_away(before):
                continue
            same, since = self._doubted.get(name, (before, now))
            if same.digest != content.digest:
                since = now  # it is being written yet
            if now - since < self._doubt:
                believed[name], doubted[name] = before, (content, since)
        self._believed, self._doubted = believed, doubted
        return max((since + self._doubt - now for _, since in doubted.values()), default=None)

    def _parse(self, file: str, text: bytes, yield_cpu: Callable[[], None]) -> _Made:
        made: _Made = []
        number = 0
        for content, tagged in yamltext.documents(text):
            if tagged:
                made.append(Problem(file, f"document {number + 1}", messages.TAG(line=tagged[0])))
            for document in _flatten(content):
                number += 1
                yield_cpu()
                try:
                    if not isinstance(document, Mapping):
                        raise DocumentError(messages.NOT_A_MAPPING())
                    if document.get("kind") == "Namespace":
                        try:
                            made.append(read_namespace(document))
                        except DocumentError:
                            # Without it, its secrets would be nobody's, and its database another's.
                            made.append(read_ageless_namespace(document))
                            raise
                    elif document.get("kind") == "Secret":
                        made.append(read_secret(document))
                except DocumentError as error:
                    made.append(Problem(file, f"document {number}", error.reason))
        return made

    def _gather(
        self, documents: Collection[NamespaceDocument | SecretDocument | Problem], unreadable: list[Problem]
    ) -> FullRead:
        """Of two documents of one name the later is in force."""
        namespaces: dict[str, NamespaceDocument] = {}
        secrets: dict[tuple[str, str], SecretDocument] = {}
        for document in documents:
            if isinstance(document, Problem):
                unreadable.append(document)
            elif isinstance(document, SecretDocument):
                secrets[document.namespace, document.name] = document
            elif document.name.startswith(self._prefix):
                namespaces[document.name] = document
        by_namespace: dict[str, list[SecretDocument]] = {name: [] for name in namespaces}
        for (namespace, name), secret in secrets.items():
            if namespace in namespaces:
                if (namespace, name) != self._master:
                    by_namespace[namespace].append(secret)
            elif namespace.startswith(self._prefix):
                unreadable.append(Problem(namespace, name, messages.NO_NAMESPACE_DOCUMENT()))
        held = {name: tuple(found) for name, found in by_namespace.items()}
        complete = not any(isinstance(document, Problem) for document in documents)
        return FullRead(secrets.get(self._master), tuple(namespaces.values()), held, tuple(unreadable), complete=complete)


def _is_file(path: Path) -> bool:
    """Whether there is a file, or something of which that cannot be said, as behind a link to where
    nobody may look.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return error.errno not in _ABSENT


def _flatten(document: object, seen: set[int] | None = None) -> Iterator[object]:
    """A document, or those within a List. An empty document, as behind a last ``---``, is none.

    seen: Lists that were read already. An alias names the same one again, and some lines of aliases
    to aliases billions of them.
    """
    if isinstance(document, Mapping) and str(document.get("kind", "")).endswith("List"):
        seen = set() if seen is None else seen
        if id(document) in seen:
            return
        seen.add(id(document))
        items = document.get("items")
        for item in items if isinstance(items, list) else ():
            yield from _flatten(item, seen)
    elif not is_missing(document):
        yield document


def _never_read(name: str, text: bytes | None) -> NeverRead:
    """What a file may name that was never readable. text: what is in it, None: it could not be
    opened.

    The databases of URLs are looked for, in base64 too. A file that ends within a URL may be half
    written.
    """
    if text is None:
        return NeverRead(name)
    text = text.replace(b"\0", b"")  # of UTF-16
    indexes = set(_indexes(text))
    for word in re.findall(rb"[A-Za-z0-9+/]{16,}={0,2}", text):
        try:
            indexes.update(_indexes(base64.b64decode(word[: len(word) // 4 * 4])))
        except (binascii.Error, ValueError):
            continue
    end = re.search(rb"(?:redis|rediss)://[^\s\"']*\Z", text, re.IGNORECASE)
    if end is None:
        return NeverRead(name, frozenset(indexes))
    number = re.search(rb"/([0-9]{1,9})\Z", end[0])
    return NeverRead(name, frozenset(indexes), number[1].decode()) if number else NeverRead(name)


def _indexes(text: bytes) -> Iterator[int]:
    for number in re.findall(rb"/([0-9]{1,9})(?![0-9])", text):
        yield int(number)
