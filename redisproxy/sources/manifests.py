"""Reads namespaces and secrets from a directory of manifests, where there is no cluster.

Owns the files: ``*.yaml``, ``*.yml`` and ``*.json`` in one directory that are not hidden. A file
has any number of documents, which may be a ``List``. Also owns when the content of a file takes
effect. The rules of enrolment are the same as in a cluster (`tenants.enrolment`). Must not use a
file's modification time as a document's age: `touch`, a copy or a new comment would change it.
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
#: Errors that mean that there is no file: a link leads nowhere.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: Seconds until a file that became shorter, lost something or vanished is read again. Only then
#: does the change take effect, because the file may be half written.
REST = 1.0

#: What the documents of a file are parsed to.
_Made = list[NamespaceDocument | SecretDocument | Problem]


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file says.

    digest: SHA-256 of its bytes; size: in bytes; documents: its parsed documents.
    """

    digest: bytes
    size: int
    documents: _Made = field(repr=False)

    def takes_away(self, before: _Content) -> bool:
        """Whether something is missing that was there before.

        The file is shorter, or lacks a namespace or a secret, or a secret's URL lost its end.
        """
        if self.size < before.size:
            return True
        now = self._named()
        return any(
            key not in now or (url.startswith(now[key]) and len(url) > len(now[key])) for key, url in before._named().items()
        )

    def _named(self) -> dict[tuple[str, str], bytes]:
        """The URL of each secret, by (namespace, name).

        A namespace is in it with an empty namespace and an empty URL.
        """
        found: dict[tuple[str, str], bytes] = {}
        for document in self.documents:
            if isinstance(document, NamespaceDocument):
                found["", document.name] = b""
            elif isinstance(document, SecretDocument):
                found[document.namespace, document.name] = document.data.get(CONNECTION_STRING, b"")
        return found


#: The content of a file that does not exist.
_GONE = _Content(b"", 0, [])


class ManifestsSource:
    """A directory of manifests as a source: see `reload.Source`.

    Each `read` reads all files, but parses only those that changed.

    doubt: seconds until a removal takes effect, for a source that is read repeatedly (`REST`). With
        0 it takes effect at once, for a source that is read once.
    clock: returns monotonic seconds.
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
        #: by file name: the content in force
        self._believed: dict[str, _Content] = {}
        #: by file name: the new content that is not in force yet, and the clock's time when it was
        #: first seen
        self._doubted: dict[str, tuple[_Content, float]] = {}
        #: the `stamp` at the last read; None before the first
        self.stamp_read: Stamp | None = None

    def __str__(self) -> str:
        return f"the manifests in {self._directory}"

    def stop(self) -> None:
        """Does nothing: reading files takes little time."""

    def _files(self) -> list[Path]:
        """Returns the manifest files. Raises OSError.

        Hidden files are left out: unfinished files, files of editors and archivers
        (``._tenants.yaml``), and the target of the kubelet's links (``..data``).
        """
        return sorted(
            path
            for path in self._directory.iterdir()
            if path.suffix in _ENDINGS and not path.name.startswith(".") and _is_file(path)
        )

    def stamp(self) -> Stamp:
        """Returns a value that changes when a file is written, replaced, removed or added. Blocks.

        Links are followed, because a mounted Secret or ConfigMap is replaced as a whole: its
        symbolic link gets a new target.
        """
        try:
            return tuple((path.name, *stamp(path)) for path in self._files())
        except OSError as error:
            return ("unreadable", error.errno)  # perhaps for a moment: the next read reports it

    def read(self, yield_cpu: Callable[[], None] = no_yield) -> FullRead:
        """Reads all files. Blocks.

        yield_cpu: called after each parsed document; may sleep.

        A file that cannot be read or is not YAML keeps its last content, and is reported. If it has
        none, `FullRead.never_read` says what the file may name.
        """
        self.stamp_read = self.stamp()  # before the files: a later change has another stamp
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
                continue  # it was removed a moment ago: see `_believe`
            except OSError as error:
                reason = messages.FILE_UNREADABLE(error=error.strerror)
            except Exception as error:
                # The exception's text quotes the document. Whatever PyYAML raises, only this file
                # is wrong.
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
        """Returns a whole secret as the files have it now; None if no readable file has it. Blocks.

        If two documents have this name, the later one is in force. Raises OSError, and
        DocumentError if that document is malformed.
        """
        found = list(self._secrets_named(namespace, name))
        if not found:
            return None
        return read_stored(found[-1][1], tuple(dict.fromkeys(file for file, _ in found)))

    def files_with(self, namespace: str, name: str) -> tuple[str, ...]:
        """Returns the names of all files with a Secret of this name, malformed ones too. Blocks.

        Raises OSError.
        """
        return tuple(dict.fromkeys(file for file, _ in self._secrets_named(namespace, name)))

    def _secrets_named(self, namespace: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yields each Secret with this name, and its file's name."""
        for path in self._files():
            try:
                parsed = [content for content, _ in yamltext.documents(path.read_bytes())]
            except Exception:  # noqa: S112 - PyYAML raises many exceptions: `read` reports such a file
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
        """Puts new contents in force, except where something was taken away less than `doubt` ago.

        Returns the seconds until those files must be read again; None if there are none.
        """
        now = self._clock()
        believed, doubted = dict(found), {}
        # A missing file may be about to be written again.
        gone = {name: _GONE for name in self._believed if name not in found}
        for name, content in {**found, **gone}.items():
            before = self._believed.get(name)
            if before is None or content.digest == before.digest or not content.takes_away(before):
                continue
            same, since = self._doubted.get(name, (before, now))
            if same.digest != content.digest:
                since = now  # it is still being written
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
                            # Without its namespace, the secrets would belong to no tenant, and
                            # another tenant could get the database.
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
        """Builds the FullRead. If two documents have one name, the later one is in force."""
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
    """Whether the path is a file, or may be one: its target may be in a directory without
    access.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return error.errno not in _ABSENT


def _flatten(document: object, seen: set[int] | None = None) -> Iterator[object]:
    """Yields a document, or the documents of a List. An empty document, as after a last ``---``, is
    left out.

    seen: ids of the Lists that were read already. An alias names the same List again, and a few
    lines of aliases to aliases could name billions.
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
    """Returns which databases a file may name that was never readable.

    text: content of the file; None if it could not be opened.

    Database indexes are searched in URLs, also within base64. If the file ends within a URL, it may
    be half written, and the URL's number may go on.
    """
    if text is None:
        return NeverRead(name)
    text = text.replace(b"\0", b"")  # null bytes of UTF-16
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
