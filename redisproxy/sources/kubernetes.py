"""Reads namespaces and secrets from the Kubernetes API: all, or single ones that have changed.

Owns which lists are requested, page by page. Must not take a malformed answer for a deletion. An
object that has not changed since the last read is not parsed again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kubernetes import client as kubernetes_client

from .. import messages
from ..tenants.documents import (
    ITSELF,
    TEMPORARY_PREFIX,
    Changes,
    FullRead,
    NamespaceDocument,
    Problem,
    ReadFailure,
    SecretDocument,
    Update,
)
from ..tenants.enrolment import no_yield
from .documents import DocumentError, read_namespace, read_secret
from .hints import MANY
from .kubernetes_api import SELECTOR, KubernetesApi, Method, Unreachable, address_asked

#: Items in one page. Nothing else in this process runs while the JSON of a page is parsed, which
#: takes some 10 us an item. The API server's documentation advises a few hundred.
PAGE = 50

_Document = TypeVar("_Document", NamespaceDocument, SecretDocument)
_Key = TypeVar("_Key")
_Answer = TypeVar("_Answer")


class _ParsedObjects(Generic[_Document]):
    """Cache of parsed objects, by location and name: unchanged objects are not parsed again."""

    def __init__(self) -> None:
        #: by location and name: (uid, resourceVersion) of the parsed object, and the result
        self._held: dict[str, dict[str, tuple[tuple[object, object], _Document]]] = {}

    def parse(
        self, item: Mapping[str, object], read: Callable[[Mapping[str, object]], _Document], where: str, name: str
    ) -> _Document:
        """Returns the parsed object: from the cache if its version is the same, else from `read`.

        Raises DocumentError, from `read`.
        """
        metadata = _metadata(item)
        version = (metadata.get("uid"), metadata.get("resourceVersion"))
        held = self._held.setdefault(where, {})
        kept = held.get(name)
        if kept is not None and kept[0] == version:
            return kept[1]
        document = read(item)
        if all(isinstance(part, str) and part for part in version):
            held[name] = (version, document)
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


@dataclass(slots=True)
class _Found:
    """The answers about single objects so far. The fields are those of Update."""

    namespaces: dict[str, NamespaceDocument | None] = field(default_factory=dict)
    listed: dict[str, tuple[SecretDocument, ...]] = field(default_factory=dict)
    secrets: dict[tuple[str, str], SecretDocument | None] = field(default_factory=dict)
    failures: list[ReadFailure] = field(default_factory=list)

    def add(self, answers: dict[_Key, _Answer], key: _Key, answer: _Answer | ReadFailure) -> None:
        """Records one answer, or the reason why there is none."""
        if isinstance(answer, ReadFailure):
            self.failures.append(answer)
        else:
            answers[key] = answer

    def update(self) -> Update:
        """Returns everything that was recorded."""
        return Update(self.namespaces, self.listed, self.secrets, tuple(self.failures))


class ClusterSource:
    """The Kubernetes API as a source: see `reload.ChangingSource`.

    prefix: the beginning of the names of tenants' namespaces.
    secret_name: the name of the client secret in each namespace.
    master: (namespace, name) of the master secret.
    """

    def __init__(self, prefix: str, secret_name: str, master: tuple[str, str], api: KubernetesApi) -> None:
        self.api = api
        self._prefix = prefix
        self._secret_name = secret_name
        self._master = master
        self._stopped = threading.Event()
        self._rest: Callable[[], None] = no_yield
        #: all namespaces are at one location, whose name is empty
        self._parsed_namespaces = _ParsedObjects[NamespaceDocument]()
        #: the location of a secret is its namespace
        self._parsed_secrets = _ParsedObjects[SecretDocument]()

    def __str__(self) -> str:
        return "the Kubernetes API"

    def stop(self) -> None:
        """Makes no further request. A request under way ends after its time-out at the latest."""
        self._stopped.set()

    def read(self, yield_cpu: Callable[[], None] = no_yield) -> FullRead:
        """Reads everything. Blocks for a few time-outs at most.

        yield_cpu: called before each request; may sleep.
        """
        self._rest = yield_cpu
        try:
            client = self.api.connect()
        except Unreachable as unreachable:
            return FullRead(unreachable.failure, unreachable.failure, {})
        try:
            return self._read(kubernetes_client.CoreV1Api(client))
        finally:
            client.close()

    def read_changes(self, changes: Changes, yield_cpu: Callable[[], None] = no_yield) -> Update:
        """Reads single objects again, otherwise like `read`.

        It may be called from the `yield_cpu` of a `read` that is under way.
        """
        outer, self._rest = self._rest, yield_cpu
        found = _Found()
        try:
            client = self.api.connect()
            try:
                self._read_changes(kubernetes_client.CoreV1Api(client), changes, found)
            finally:
                client.close()
        except Unreachable as unreachable:
            found.failures.append(unreachable.failure)
        finally:
            self._rest = outer
        return found.update()

    # Reading single objects.

    def _read_changes(self, api: kubernetes_client.CoreV1Api, changes: Changes, found: _Found) -> None:
        """Reads changed objects into `found`.

        Raises Unreachable. Answers that came before stay in `found`.
        """
        for name in sorted(changes.namespaces):
            found.add(found.namespaces, name, self._namespace(api, name))
            if found.namespaces.get(name) is not None:
                found.add(found.listed, name, self._secrets(api, name, []))
        counted = Counter(name for _, name in changes.secrets)
        many = {name for name, count in counted.items() if count >= MANY}
        for name in sorted(many - {ITSELF}):
            self._read_all_of_that_name(api, name, {where for where, other in changes.secrets if other == name}, found)
        if ITSELF in many:
            self._read_many_namespaces(api, {where for where, name in changes.secrets if name == ITSELF}, found)
        for namespace, name in sorted(changes.secrets):
            if name in many:
                continue
            if name == ITSELF:
                found.add(found.namespaces, namespace, self._namespace(api, namespace))
            elif (namespace, name) == self._master:
                found.add(found.secrets, self._master, self._master_secret(api))
            else:
                found.add(found.secrets, (namespace, name), self._secret(api, namespace, name))

    def _read_all_of_that_name(self, api: kubernetes_client.CoreV1Api, name: str, wanted: Set[str], found: _Found) -> None:
        secrets = self._of_that_name(api, name, wanted)
        if isinstance(secrets, ReadFailure):
            found.failures.append(secrets)
        else:
            found.secrets |= {(namespace, name): secret for namespace, secret in secrets.items()}

    def _read_many_namespaces(self, api: kubernetes_client.CoreV1Api, wanted: Set[str], found: _Found) -> None:
        namespaces = self._namespaces(api, [])
        if isinstance(namespaces, ReadFailure):
            found.failures.append(namespaces)
        else:
            found.namespaces |= {one.name: one for one in namespaces if one.name in wanted}

    def _namespace(self, api: kubernetes_client.CoreV1Api, name: str) -> NamespaceDocument | ReadFailure | None:
        return self._one(api.list_namespace, self._parsed_namespaces, read_namespace, "", name)

    def _secret(self, api: kubernetes_client.CoreV1Api, namespace: str, name: str) -> SecretDocument | ReadFailure | None:
        return self._one(api.list_namespaced_secret, self._parsed_secrets, read_secret, namespace, name, namespace)

    def _of_that_name(
        self, api: kubernetes_client.CoreV1Api, name: str, wanted: Set[str]
    ) -> dict[str, SecretDocument | None] | ReadFailure:
        """Returns the secrets with one name in some namespaces, None where there is none.

        This is one list of all namespaces. Secrets in other namespaces are left out.
        """
        found: dict[str, SecretDocument | None] = dict.fromkeys(wanted)
        for item in self._pages(api.list_secret_for_all_namespaces, field_selector=f"metadata.name={name}"):
            if isinstance(item, ReadFailure):
                return item
            if _name(item) != name:
                address = address_asked(api.list_secret_for_all_namespaces)
                return ReadFailure(messages.API_OTHER_OBJECTS(address=address))
            namespace = _metadata(item).get("namespace")
            if isinstance(namespace, str) and namespace in wanted:
                try:
                    found[namespace] = self._parsed_secrets.parse(item, read_secret, namespace, name)
                except DocumentError as error:
                    return ReadFailure(error.reason)
        for namespace in [namespace for namespace, secret in found.items() if secret is None]:
            self._parsed_secrets.forget(namespace, name)
        return found

    def _one(
        self,
        method: Method,
        parsed: _ParsedObjects[_Document],
        read: Callable[[Mapping[str, object]], _Document],
        where: str,
        name: str,
        *arguments: str,
    ) -> _Document | ReadFailure | None:
        """Returns one object, or None if it does not exist.

        The request is a list of the objects with this name, because a list needs no right to get.
        """
        found: _Document | None = None
        for item in self._pages(method, *arguments, field_selector=f"metadata.name={name}"):
            if isinstance(item, ReadFailure):
                return item
            if _name(item) != name:
                return ReadFailure(messages.API_OTHER_OBJECTS(address=address_asked(method)))
            try:
                found = parsed.parse(item, read, where, name)
            except DocumentError as error:
                return ReadFailure(error.reason)
        if found is None:
            parsed.forget(where, name)
        return found

    # Reading everything.

    def _read(self, api: kubernetes_client.CoreV1Api) -> FullRead:
        unreadable: list[Problem] = []
        master: SecretDocument | ReadFailure | None = None
        secrets: dict[str, tuple[SecretDocument, ...] | ReadFailure] = {}
        try:
            master = self._master_secret(api)
            namespaces = self._namespaces(api, unreadable)
        except Unreachable as unreachable:
            failure = unreachable.failure
            return FullRead(failure if master is None else master, failure, {})
        if isinstance(namespaces, ReadFailure):
            return FullRead(master, namespaces, {})
        complete = not unreadable
        gone: ReadFailure | None = None
        for namespace in namespaces:
            if gone is None:
                try:
                    secrets[namespace.name] = self._secrets(api, namespace.name, unreadable)
                    continue
                except Unreachable as unreachable:
                    gone = unreachable.failure
            secrets[namespace.name] = gone
        self._parsed_secrets.forget_other_namespaces({self._master[0], *secrets})
        return FullRead(master, namespaces, secrets, tuple(unreadable), complete=complete)

    def _master_secret(self, api: kubernetes_client.CoreV1Api) -> SecretDocument | ReadFailure | None:
        namespace, name = self._master
        answer = self._call(api.read_namespaced_secret, name, namespace)
        if isinstance(answer, ReadFailure):
            return None if answer.reason.code == messages.API_NOT_FOUND.code else answer
        try:
            return self._parsed_secrets.parse(answer, read_secret, namespace, name)
        except DocumentError as error:
            return ReadFailure(error.reason)

    def _namespaces(
        self, api: kubernetes_client.CoreV1Api, unreadable: list[Problem]
    ) -> tuple[NamespaceDocument, ...] | ReadFailure:
        found: dict[str, NamespaceDocument] = {}
        for item in self._pages(api.list_namespace):
            if isinstance(item, ReadFailure):
                return item
            name = _name(item)
            if name and not name.startswith(self._prefix):
                continue
            try:
                found[name] = self._parsed_namespaces.parse(item, read_namespace, "", name)
            except DocumentError as error:
                unreadable.append(Problem("a namespace", name, error.reason))
        self._parsed_namespaces.forget_others("", found.keys())
        return tuple(found.values())

    def _secrets(
        self, api: kubernetes_client.CoreV1Api, namespace: str, unreadable: list[Problem]
    ) -> tuple[SecretDocument, ...] | ReadFailure:
        found: dict[str, SecretDocument] = {}
        for item in self._pages(api.list_namespaced_secret, namespace, field_selector=SELECTOR):
            if isinstance(item, ReadFailure):
                return item
            name = _name(item)
            if name != self._secret_name and not name.startswith(TEMPORARY_PREFIX):
                continue
            if (namespace, name) == self._master:
                continue
            try:
                found[name] = self._parsed_secrets.parse(item, read_secret, namespace, name)
            except DocumentError as error:
                unreadable.append(Problem(namespace, name, error.reason))
        self._parsed_secrets.forget_others(namespace, found.keys())
        return tuple(found.values())

    def _pages(self, method: Method, *arguments: str, **options: str) -> Iterator[dict[str, object] | ReadFailure]:
        """Yields the items of all pages of a list.

        If a page fails, a ReadFailure takes the place of the remaining items.
        """
        token: str | None = None
        while True:
            paging = {"_continue": token} if token else {}
            answer = self._call(method, *arguments, limit=PAGE, **options, **paging)
            if isinstance(answer, ReadFailure):
                # An expired continue token (410 Gone) is a failure like any other: the next read
                # starts again.
                yield answer
                return
            items, metadata = answer.get("items", "missing"), answer.get("metadata", {})
            if items is None:
                items = []  # Go may write an empty list as null
            # An object of another kind must not pass for an empty list, because that would delete
            # everything.
            if not (
                str(answer.get("kind", "")).endswith("List")
                and isinstance(metadata, dict)
                and isinstance(items, list)
                and all(isinstance(item, dict) for item in items)
            ):
                yield ReadFailure(messages.API_NOT_A_LIST(address=address_asked(method)))
                return
            yield from items
            before, token = token, metadata.get("continue") or None
            if token is None:
                return
            if token == before:
                yield ReadFailure(messages.API_ENDLESS())
                return

    def _call(self, method: Method, *arguments: str, **options: str | int) -> dict[str, object] | ReadFailure:
        """Returns the JSON object that a method answers with, or the failure. Raises
        Unreachable.
        """
        self._rest()
        if self._stopped.is_set():
            raise Unreachable(ReadFailure(messages.STOPPING()))
        return self.api.ask(method, *arguments, **options)


def _metadata(item: Mapping[str, object]) -> Mapping[str, object]:
    metadata = item.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _name(item: Mapping[str, object]) -> str:
    name = _metadata(item).get("name")
    return name if isinstance(name, str) else ""
