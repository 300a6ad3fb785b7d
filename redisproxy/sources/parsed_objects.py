"""Keeps parsed objects of the Kubernetes API, so that one that has not changed is not parsed again.

Owns what follows from an object's metadata alone: whether it has changed, and whether its contents
are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Generic, TypeVar

from .. import bounds
from ..tenants.documents import NamespaceDocument, SecretDocument

Document = TypeVar("Document", NamespaceDocument, SecretDocument)


class ParsedObjects(Generic[Document]):
    """Cache of parsed objects, by location and name: unchanged objects are not parsed again."""

    def __init__(self) -> None:
        #: by location and name: (uid, resourceVersion) of the parsed object, and the result
        self._held: dict[str, dict[str, tuple[tuple[object, object], Document]]] = {}

    def get(self, item: Mapping[str, object], where: str, name: str) -> Document | None:
        """Returns the parsed object of the version that the item's metadata name, or None."""
        kept = self._held.get(where, {}).get(name)
        return kept[1] if kept is not None and kept[0] == _version(item) else None

    def has(self, where: str, name: str) -> bool:
        """Whether some version of this object was parsed."""
        return name in self._held.get(where, {})

    def parse(
        self, item: Mapping[str, object], read: Callable[[Mapping[str, object]], Document], where: str, name: str
    ) -> Document:
        """Returns the parsed object: from the cache if its version is the same, else from `read`.

        Raises DocumentError, from `read`.
        """
        kept = self.get(item, where, name)
        if kept is not None:
            return kept
        document, version = read(item), _version(item)
        if all(isinstance(part, str) and part for part in version):
            self._held.setdefault(where, {})[name] = (version, document)
        return document

    def forget(self, where: str, name: str) -> None:
        """Removes one object, which no longer exists."""
        self._held.get(where, {}).pop(name, None)

    def forget_others(self, where: str, found: Set[str]) -> None:
        """Removes all objects at this location, except those that were found."""
        held = self._held.get(where, {})
        for name in held.keys() - found:
            del held[name]

    def forget_other_namespaces(self, namespaces: Set[str]) -> None:
        """Removes the objects of all namespaces but these."""
        self._held = {where: held for where, held in self._held.items() if where in namespaces}


def metadata_of(item: Mapping[str, object]) -> Mapping[str, object]:
    """Returns an object's metadata; empty if they are malformed."""
    metadata = item.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def name_of(item: Mapping[str, object]) -> str:
    """Returns an object's name; empty if it has none."""
    name = metadata_of(item).get("name")
    return name if isinstance(name, str) else ""


def _version(item: Mapping[str, object]) -> tuple[object, object]:
    metadata = metadata_of(item)
    return metadata.get("uid"), metadata.get("resourceVersion")


def names_to_read(listed: Mapping[str, Mapping[str, object]], secret_name: str) -> list[str]:
    """Returns the names of the secrets whose contents are read: the client secret, and the newest
    temporary ones, one more than are used (see `tenants.documents.newest`).

    listed: metadata by name.
    """
    temporary = [name for name in listed if name != secret_name]
    if len(temporary) > bounds.TEMPORARY_SECRETS:
        # RFC 3339 in UTC, as the API server writes it, is in the order of time.
        temporary.sort(key=lambda name: (str(metadata_of(listed[name]).get("creationTimestamp")), name), reverse=True)
        del temporary[bounds.TEMPORARY_SECRETS + 1 :]
    return [name for name in listed if name == secret_name] + temporary
