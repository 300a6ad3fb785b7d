"""Worlds that a source of snapshots reads from: a directory of manifests, the small API server, and
a real kube-apiserver.

Each world takes the same documents and makes a source over them, so that one suite of tests runs in
all of them. Owns the short makers of documents whose creation time the world sets.
"""

from __future__ import annotations

import calendar
import itertools
import time

from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.sources.kubernetes_api import KubernetesApi
from redisproxy.sources.manifests import ManifestsSource
from redisproxy.sources.reload import Source

from ..cluster.apiserver import KubeApiServer
from .apiserver import ApiServer
from .proxy import Manifests
from .waiting import LIMIT, until

HOUR = 3600


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def namespace(name: str, **annotations: str) -> dict:
    """Returns a Namespace. annotations: the proxy's, with _ for - in their names."""
    metadata: dict = {"name": name}
    if annotations:
        metadata["annotations"] = {f"redisproxy/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def secret(where: str, name: str, part: str = "stringData", **values: str) -> dict:
    """Returns a Secret. values: by key, with _ for - in the keys except valid_hours."""
    data = {key if key == "valid_hours" else key.replace("_", "-"): value for key, value in values.items()}
    metadata = {"name": name, "namespace": where}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, part: data}


def url(password: str, index: int | str, user: str = "") -> str:
    return f"redis://{user}:{password}@redis:6379/{index}"


class ManifestsWorld:
    """Documents in the files of a directory."""

    takes_what_is_not_base64 = True

    def __init__(self) -> None:
        self._manifests = Manifests()
        self._documents: dict[tuple[str, str, str], dict] = {}
        self._created = itertools.count(int(time.time()) - 30 * 24 * HOUR)

    def source(self, prefix: str, secret_name: str, master: tuple[str, str]) -> Source:
        return ManifestsSource(self._manifests.path, prefix, master)

    def put(self, *documents: dict) -> None:
        """Creates or replaces documents. Each new document is a second younger than the one
        before.
        """
        for document in documents:
            metadata = document["metadata"]
            key = (document["kind"], metadata.get("namespace", ""), metadata["name"])
            old = self._documents.get(key)
            created = old["metadata"]["creationTimestamp"] if old else stamp(next(self._created))
            self._documents[key] = {**document, "metadata": {**metadata, "creationTimestamp": created}}
        self._write()

    def delete(self, name: str, secret: str | None = None) -> None:
        """Deletes one secret of a namespace, or the namespace with everything in it."""
        self._documents = {
            (kind, where, found): document
            for (kind, where, found), document in self._documents.items()
            if ((where, found) != (name, secret) if secret else name not in (where, found if kind == "Namespace" else ""))
        }
        self._write()

    def _write(self) -> None:
        self._manifests.write(self._documents.values())

    def created(self, where: str, name: str) -> float:
        """Returns a secret's creationTimestamp, in seconds since the epoch."""
        text = self._documents["Secret", where, name]["metadata"]["creationTimestamp"]
        return _seconds(text)

    def pause(self) -> None:
        """Makes sure that later documents are younger than earlier ones. Here they always are."""

    def remove(self) -> None:
        self._manifests.remove()


def _seconds(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


class SmallApiWorld(ManifestsWorld):
    """The same documents, with the same creation times, behind the small API server."""

    def __init__(self) -> None:
        super().__init__()
        self.api = ApiServer().start()

    def source(self, prefix: str, secret_name: str, master: tuple[str, str]) -> Source:
        api = KubernetesApi(443, {"KUBECONFIG": str(self.api.kubeconfig)}, timeout=(LIMIT, LIMIT))
        return ClusterSource(prefix, secret_name, master, api)

    def _write(self) -> None:
        self.api.put(*self._documents.values())

    def delete(self, name: str, secret: str | None = None) -> None:
        super().delete(name, secret)
        self.api.delete(name, secret)

    def remove(self) -> None:
        super().remove()
        self.api.remove()


class RealApiWorld:
    """A real kube-apiserver, which all tests share: each test uses names of its own."""

    takes_what_is_not_base64 = False

    def __init__(self, server: KubeApiServer) -> None:
        self.server = server
        self._namespaces: set[str] = set()

    def source(self, prefix: str, secret_name: str, master: tuple[str, str]) -> Source:
        environ = {"KUBECONFIG": str(self.server.kubeconfig)}
        return ClusterSource(prefix, secret_name, master, KubernetesApi(443, environ, timeout=(LIMIT, LIMIT)))

    def put(self, *documents: dict) -> None:
        for document in documents:
            if document["kind"] == "Namespace":
                self._namespaces.add(document["metadata"]["name"])
            self.server.put(document)

    def delete(self, name: str, secret: str | None = None) -> None:
        self.server.delete(name, secret)

    def created(self, where: str, name: str) -> float:
        _, answer = self.server.request("GET", f"/api/v1/namespaces/{where}/secrets/{name}")
        return _seconds(answer["metadata"]["creationTimestamp"])

    def pause(self) -> None:
        """Waits for the next second: creation times are whole seconds, so later documents are then
        younger.
        """
        now = int(time.time())
        until(lambda: int(time.time()) > now, "the next second")

    def remove(self) -> None:
        for name in self._namespaces:
            self.delete(name)
