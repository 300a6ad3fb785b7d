"""Reads namespaces and secrets from the Kubernetes API: all, or single ones that have changed.

Owns which lists are requested, page by page, and how much is read of each: what a tenant puts into
its namespace must cost the others nothing. Must not take a malformed answer for a deletion. An
object that has not changed since the last read is not parsed again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from kubernetes import client as kubernetes_client

from .. import bounds, messages, probes
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
from .documents import DocumentError, read_large_secret, read_namespace, read_secret
from .hints import MANY
from .kubernetes_api import METADATA_LIST, SELECTOR, KubernetesApi, Method, Unreachable, address_asked
from .parsed_objects import Document, ParsedObjects, metadata_of, name_of, names_to_read

#: Items in one page. Nothing else in this process runs while the JSON of a page is parsed, which
#: takes some 10 us an item. The API server's documentation advises a few hundred.
PAGE = 50
#: A page that is too large is read again with this many times fewer items.
SMALLER = 5

_Key = TypeVar("_Key")
_Answer = TypeVar("_Answer")


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
        self._parsed_namespaces = ParsedObjects[NamespaceDocument]()
        #: the location of a secret is its namespace
        self._parsed_secrets = ParsedObjects[SecretDocument]()

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
        parsed, most = self._parsed_secrets, bounds.LIST_BYTES
        secret = self._one(api.list_namespaced_secret, parsed, read_secret, namespace, name, namespace, most=most)
        if isinstance(secret, ReadFailure) and secret.reason.code == messages.API_TOO_LARGE.code:
            # One secret must not keep the others from being read.
            return self._too_large(api, namespace, name)
        return secret

    def _too_large(self, api: kubernetes_client.CoreV1Api, namespace: str, name: str) -> SecretDocument | ReadFailure | None:
        """Returns a secret with an error instead of its contents, which are not read."""
        parsed, read = self._parsed_secrets, read_large_secret
        return self._one(api.list_namespaced_secret, parsed, read, namespace, name, namespace, accept=METADATA_LIST)

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
            if name_of(item) != name:
                address = address_asked(api.list_secret_for_all_namespaces)
                return ReadFailure(messages.API_OTHER_OBJECTS(address=address))
            namespace = metadata_of(item).get("namespace")
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
        parsed: ParsedObjects[Document],
        read: Callable[[Mapping[str, object]], Document],
        where: str,
        name: str,
        *arguments: str,
        accept: str = "",
        most: int = bounds.OBJECT_BYTES,
    ) -> Document | ReadFailure | None:
        """Returns one object, or None if it does not exist.

        The request is a list of the objects with this name, because a list needs no right to get.
        accept, most: see `KubernetesApi.ask`.
        """
        found: Document | None = None
        selector = f"metadata.name={name}"
        for item in self._pages(method, *arguments, accept=accept, most=most, field_selector=selector):
            if isinstance(item, ReadFailure):
                return item
            if name_of(item) != name:
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
        with suppress(Unreachable):  # the first list below finds that, too
            self._read_new_client_secrets(api, namespaces)
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

    def _read_new_client_secrets(self, api: kubernetes_client.CoreV1Api, namespaces: Collection[NamespaceDocument]) -> None:
        """Reads the client secrets of many namespaces together, if most are not known yet.

        So the first read makes no second request for each namespace. A failure does no harm: each
        secret that is not known by then is read by itself.
        """
        unknown = {one.name for one in namespaces if not self._parsed_secrets.has(one.name, self._secret_name)}
        if len(unknown) >= MANY:
            self._of_that_name(api, self._secret_name, unknown)

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
            name = name_of(item)
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
        """Returns the secrets of a namespace that may have credentials.

        The list has metadata alone: other secrets may be many and large. The contents of those that
        have changed are read one by one.
        """
        listed: dict[str, Mapping[str, object]] = {}
        for item in self._pages(api.list_namespaced_secret, namespace, field_selector=SELECTOR, accept=METADATA_LIST):
            if isinstance(item, ReadFailure):
                return item
            name = name_of(item)
            if name != self._secret_name and not name.startswith(TEMPORARY_PREFIX):
                continue
            if (namespace, name) != self._master:
                listed[name] = item
        found: dict[str, SecretDocument] = {}
        for name in names_to_read(listed, self._secret_name):
            secret = self._secret_listed(api, namespace, name, listed[name], unreadable)
            if isinstance(secret, ReadFailure):
                return secret
            if secret is not None:
                found[name] = secret
        self._parsed_secrets.forget_others(namespace, found.keys())
        return tuple(found.values())

    def _secret_listed(
        self,
        api: kubernetes_client.CoreV1Api,
        namespace: str,
        name: str,
        item: Mapping[str, object],
        unreadable: list[Problem],
    ) -> SecretDocument | ReadFailure | None:
        """Returns a secret of a list; None if it is gone, or cannot be read at all."""
        known = self._parsed_secrets.get(item, namespace, name)
        if known is not None:
            return known
        if item.get("kind") == "PartialObjectMetadata":
            return self._secret(api, namespace, name)
        # The server does not know lists of metadata.
        try:
            return self._parsed_secrets.parse(item, read_secret, namespace, name)
        except DocumentError as error:
            unreadable.append(Problem(namespace, name, error.reason))
            return None

    def _pages(
        self, method: Method, *arguments: str, accept: str = "", most: int | None = None, **options: str
    ) -> Iterator[dict[str, object] | ReadFailure]:
        """Yields the items of all pages of a list.

        If a page fails, a ReadFailure takes the place of the remaining items. A page that is too
        large is read again with fewer items, unless `most` is given: its bytes. accept: see
        `KubernetesApi.ask`.
        """
        token: str | None = None
        limit = PAGE
        while True:
            paging = {"_continue": token} if token else {}
            bound = most or (bounds.LIST_BYTES if limit > 1 else bounds.OBJECT_BYTES)
            answer = self._call(method, *arguments, limit=limit, accept=accept, most=bound, **options, **paging)
            if isinstance(answer, ReadFailure):
                if answer.reason.code == messages.API_TOO_LARGE.code and limit > 1 and most is None:
                    probes.reached("page of a list is too large, and is read in smaller ones")
                    limit = max(1, limit // SMALLER)
                    continue
                # An expired continue token (410 Gone) is a failure like any other: the next read
                # starts again.
                yield answer
                return
            items, metadata = answer.get("items", "missing"), answer.get("metadata", {})
            if items is None:
                items = []  # Go may write an empty list as null
            kind = str(answer.get("kind", ""))
            # An object of another kind must not pass for an empty list, because that would delete
            # everything.
            if not (
                kind.endswith("List")
                and isinstance(metadata, dict)
                and isinstance(items, list)
                and all(isinstance(item, dict) for item in items)
            ):
                yield ReadFailure(messages.API_NOT_A_LIST(address=address_asked(method)))
                return
            if kind == "PartialObjectMetadataList":
                # Some servers leave out the kind of the items.
                yield from ({**item, "kind": "PartialObjectMetadata"} for item in items)
            else:
                yield from items
            before, token = token, metadata.get("continue") or None
            if token is None:
                return
            limit = min(PAGE, limit * SMALLER)
            if token == before:
                yield ReadFailure(messages.API_ENDLESS())
                return

    def _call(
        self, method: Method, *arguments: str, accept: str = "", most: int = bounds.OBJECT_BYTES, **options: str | int
    ) -> dict[str, object] | ReadFailure:
        """Returns the JSON object that a method answers with, or the failure. Raises Unreachable.

        accept, most: see `KubernetesApi.ask`.
        """
        self._rest()
        if self._stopped.is_set():
            raise Unreachable(ReadFailure(messages.STOPPING()))
        return self.api.ask(method, *arguments, accept=accept, most=most, **options)
