"""Reads namespaces and secrets from a directory of manifests, for where there is no cluster.

Owns the files: ``*.yaml``, ``*.yml`` and ``*.json`` of one directory, each with any number of documents, ``List``
included. The rules are the cluster's own (`core.enrolment`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from ..core.enrolment import NamespaceDocument, Problem, ReadFailure, Reading, SecretDocument
from .documents import DocumentError, read_namespace, read_secret

_ENDINGS = (".yaml", ".yml", ".json")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Leaves a time as the text that it is: an impossible one then costs its document, not the whole directory."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class ManifestsSource:
    """A directory of manifests, read anew at each call of `read`."""

    def __init__(self, directory: Path, prefix: str, master: tuple[str, str]) -> None:
        self._directory = directory
        self._prefix = prefix
        self._master = master

    def __str__(self) -> str:
        return f"the manifests in {self._directory}"

    def stop(self) -> None:
        """Reading files takes no time to speak of."""

    def read(self) -> Reading:
        """What the files say now. Blocks."""
        try:
            files = sorted(path for path in self._directory.iterdir() if path.suffix in _ENDINGS and path.is_file())
        except OSError as error:
            failure = ReadFailure(f"{self._directory}: {error.strerror}")
            return Reading(failure, failure, {})
        namespaces: dict[str, NamespaceDocument] = {}
        secrets: dict[tuple[str, str], SecretDocument] = {}
        unreadable: list[Problem] = []
        for path in files:
            try:
                modified = path.stat().st_mtime
                text = path.read_bytes()
            except OSError as error:
                # Half of the files say nothing about what is in the others: nothing may be taken for deleted.
                failure = ReadFailure(f"{path.name}: {error.strerror}")
                return Reading(failure, failure, {})
            try:
                documents = list(_flatten(yaml.load_all(text, Loader=_Loader)))
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                mark = getattr(error, "problem_mark", None)
                where = f"line {mark.line + 1}" if mark else "somewhere"
                failure = ReadFailure(f"{path.name} is not YAML or JSON ({where})")
                return Reading(failure, failure, {})
            for number, document in enumerate(documents, 1):
                try:
                    self._take(document, modified, namespaces, secrets)
                except DocumentError as error:
                    unreadable.append(Problem(path.name, f"document {number}", str(error)))
        for namespace, name in secrets:
            if namespace.startswith(self._prefix) and namespace not in namespaces:
                unreadable.append(Problem(namespace, name, "no file has a Namespace document of that name"))
        master = secrets.get(self._master)
        by_namespace: dict[str, tuple[SecretDocument, ...]] = {
            name: tuple(s for key, s in secrets.items() if key[0] == name and key != self._master) for name in namespaces
        }
        return Reading(master, tuple(namespaces.values()), by_namespace, tuple(unreadable))

    def _take(
        self,
        document: object,
        modified: float,
        namespaces: dict[str, NamespaceDocument],
        secrets: dict[tuple[str, str], SecretDocument],
    ) -> None:
        if not isinstance(document, Mapping):
            raise DocumentError("it is not a mapping")
        if document.get("kind") == "Namespace":
            namespace = read_namespace(document, modified)
            if namespace.name.startswith(self._prefix):
                namespaces[namespace.name] = namespace
        elif document.get("kind") == "Secret":
            secret = read_secret(document, modified)
            secrets[secret.namespace, secret.name] = secret


def _flatten(documents: Iterable[object]) -> Iterator[object]:
    """Documents, those within a List included. An empty document, as behind a last ``---``, is none."""
    for document in documents:
        if isinstance(document, Mapping) and str(document.get("kind", "")).endswith("List"):
            items = document.get("items")
            yield from _flatten(items if isinstance(items, list) else [])
        elif document is not None:
            yield document
