"""Reads namespaces and secrets from a directory of manifests, for where there is no cluster.

Owns the files: ``*.yaml``, ``*.yml`` and ``*.json`` of one directory, each with any number of documents, ``List``
included. The rules are the cluster's own (`core.enrolment`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from ..core.enrolment import NamespaceDocument, Problem, ReadFailure, Reading, SecretDocument, no_rest
from .documents import DocumentError, read_namespace, read_secret

_ENDINGS = (".yaml", ".yml", ".json")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Leaves a time as the text that it is: an impossible one then costs its document, not the whole directory."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


#: What a file's documents are made into.
_Made = list[NamespaceDocument | SecretDocument | Problem]


class ManifestsSource:
    """A directory of manifests, read anew at each call of `read`. Only files that changed are parsed again."""

    def __init__(self, directory: Path, prefix: str, master: tuple[str, str]) -> None:
        self._directory = directory
        self._prefix = prefix
        self._master = master
        #: by name of a file: its time and the digest of its content, and what was made of it. The time is not enough: a
        #: file may be written twice within its resolution. Nor is the content: the time stands in for a creationTimestamp.
        self._made: dict[str, tuple[tuple[float, bytes], _Made]] = {}
        #: what `stamp` was when it was last read, None before
        self.stamp_read: tuple[object, ...] | None = None

    def __str__(self) -> str:
        return f"the manifests in {self._directory}"

    def stop(self) -> None:
        """Reading files takes no time to speak of."""

    def _files(self) -> list[Path]:
        """May raise OSError."""
        return sorted(path for path in self._directory.iterdir() if path.suffix in _ENDINGS and path.is_file())

    def stamp(self) -> tuple[object, ...]:
        """Differs from what it was when a file was written, replaced, removed or added. Blocks.

        A mounted Secret or ConfigMap is replaced as a whole, by another target of a symbolic link: links are followed.
        """
        try:
            stats = [(path.name, path.stat()) for path in self._files()]
        except OSError as error:
            return ("unreadable", error.errno)  # perhaps just now: what is read next tells
        return tuple((name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) for name, found in stats)

    def read(self, rest: Callable[[], None] = no_rest) -> Reading:
        """What the files say now. Blocks. rest: called after each document that is parsed, may sleep."""
        self.stamp_read = self.stamp()  # before: what changes from now on is another stamp
        try:
            files = self._files()
        except OSError as error:
            failure = ReadFailure(f"{self._directory}: {error.strerror}")
            return Reading(failure, failure, {})
        made: dict[str, tuple[tuple[float, bytes], _Made]] = {}
        for path in files:
            try:
                modified = path.stat().st_mtime
                text = path.read_bytes()
            except OSError as error:
                # Half of the files say nothing about what is in the others: nothing may be taken for deleted.
                failure = ReadFailure(f"{path.name}: {error.strerror}")
                return Reading(failure, failure, {})
            version = (modified, hashlib.sha256(text).digest())
            kept = self._made.get(path.name)
            if kept is not None and kept[0] == version:
                made[path.name] = kept
                continue
            try:
                made[path.name] = (version, self._parse(path.name, text, modified, rest))
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                mark = getattr(error, "problem_mark", None)
                where = f"line {mark.line + 1}" if mark else "somewhere"
                failure = ReadFailure(f"{path.name} is not YAML or JSON ({where})")
                return Reading(failure, failure, {})
        self._made = made
        return self._gather([document for _, documents in made.values() for document in documents])

    def _parse(self, file: str, text: bytes, modified: float, rest: Callable[[], None]) -> _Made:
        made: _Made = []
        for number, document in enumerate(_flatten(yaml.load_all(text, Loader=_Loader)), 1):
            rest()
            try:
                if not isinstance(document, Mapping):
                    raise DocumentError("it is not a mapping")
                if document.get("kind") == "Namespace":
                    made.append(read_namespace(document, modified))
                elif document.get("kind") == "Secret":
                    made.append(read_secret(document, modified))
            except DocumentError as error:
                made.append(Problem(file, f"document {number}", str(error)))
        return made

    def _gather(self, documents: Iterable[NamespaceDocument | SecretDocument | Problem]) -> Reading:
        """Of two documents of one name the later is in force."""
        namespaces: dict[str, NamespaceDocument] = {}
        secrets: dict[tuple[str, str], SecretDocument] = {}
        unreadable: list[Problem] = []
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
                unreadable.append(Problem(namespace, name, "no file has a Namespace document of that name"))
        held = {name: tuple(found) for name, found in by_namespace.items()}
        return Reading(secrets.get(self._master), tuple(namespaces.values()), held, tuple(unreadable))


def _flatten(documents: Iterable[object]) -> Iterator[object]:
    """Documents, those within a List included. An empty document, as behind a last ``---``, is none."""
    for document in documents:
        if isinstance(document, Mapping) and str(document.get("kind", "")).endswith("List"):
            items = document.get("items")
            yield from _flatten(items if isinstance(items, list) else [])
        elif document is not None:
            yield document
