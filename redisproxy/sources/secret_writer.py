"""Writes secrets to the Kubernetes API, for the operator's command. The proxy itself never does.

Must not overwrite what was not read. A create fails if the secret exists. A replacement names the
resourceVersion that was read, and a deletion names the uid. Each error says what the operator can
do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .documents import DocumentError, StoredSecret, read_stored
from .kubernetes_api import KubernetesApi, RequestError

#: The owner of these fields in `kubectl get --show-managed-fields`.
MANAGER = "redisproxy"
_NO_SECRET = "the API's answer is not a Secret: check that the server there is a Kubernetes API server"  # noqa: S105


class WriteError(Exception):
    """The API server did not make the change. The text is one line, fit for the operator.

    unsure: the change may have been made nevertheless, because no answer said.
    in_pod: a pod's service account lacks the right.
    """

    def __init__(self, text: str, unsure: bool = False, in_pod: bool = False) -> None:
        super().__init__(text)
        self.unsure = unsure
        self.in_pod = in_pod


class ClusterWriter:
    """Reads and writes secrets. All methods block and raise WriteError."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def secret(self, namespace: str, name: str) -> StoredSecret | None:
        """Returns a secret, or None if there is none.

        The request is a list of the secrets with this name. The proxy's own account may do that, so
        a dry run works with it.
        """
        try:
            answer = self._api.request("list_namespaced_secret", namespace, field_selector=f"metadata.name={name}")
        except RequestError as error:
            raise self._explained(error, "list", namespace, name) from None
        items = answer.get("items")
        if not str(answer.get("kind", "")).endswith("List") or not isinstance(items, list | None):
            raise WriteError(_NO_SECRET)
        # The items of a list do not have a kind.
        found = [{"apiVersion": "v1", "kind": "Secret", **item} for item in items or () if isinstance(item, dict)]
        if not found:
            return None
        stored = _stored(found[0])
        if stored.name != name:
            raise WriteError(_NO_SECRET)
        return stored

    def create(self, manifest: Mapping[str, Any]) -> StoredSecret:
        """Creates a secret. An existing one stays as it is, and WriteError is raised."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        try:
            made = self._api.request("create_namespaced_secret", namespace, dict(manifest), field_manager=MANAGER)
        except RequestError as error:
            if error.status == 404:
                raise WriteError(f"there is no namespace {namespace}: kubectl create namespace {namespace}") from None
            if error.status == 409:
                raise WriteError(f"{namespace} already has a secret {name}, which was not changed") from None
            raise self._explained(error, "create", namespace, name) from None
        return _stored(made)

    def replace(self, secret: StoredSecret, changes: Mapping[str, bytes]) -> None:
        """Sets some keys of a secret to new values, unless the secret changed since it was read."""
        # The document has its resourceVersion, which the API server compares.
        document = secret.with_values(changes)
        try:
            self._api.request("replace_namespaced_secret", secret.name, secret.namespace, document, field_manager=MANAGER)
        except RequestError as error:
            if error.status in (404, 409):
                # A deleted secret is a 409, too: no object has the uid that the document names.
                raise WriteError(
                    f"{secret.namespace}/{secret.name} was changed or deleted by somebody else meanwhile: "
                    "nothing was written, try again"
                ) from None
            raise self._explained(error, "update", secret.namespace, secret.name) from None

    def delete(self, secret: StoredSecret) -> bool:
        """Deletes this secret, and no other of its name. Returns False if it was already gone."""
        body = {"preconditions": {"uid": secret.uid}}
        try:
            self._api.request("delete_namespaced_secret", secret.name, secret.namespace, body=body)
        except RequestError as error:
            if error.status not in (404, 409):
                raise self._explained(error, "delete", secret.namespace, secret.name) from None
            return False
        return True

    def _explained(self, error: RequestError, verb: str, namespace: str, name: str) -> WriteError:
        """Returns the error for a refused request. verb: as in Kubernetes' access rules."""
        if error.terminating:
            return WriteError(f"the namespace {namespace} is being deleted: nothing can be created in it any more")
        text = f"cannot {'read' if verb == 'list' else verb} {namespace}/{name}: {error}"
        if error.status == 403:
            return self._forbidden(text, verb, namespace)
        if error.status == 401:
            return WriteError(f"{text}: log in again, or name another kubeconfig in KUBECONFIG")
        if error.status == 422:
            return WriteError(f"{text}: the API server refuses this secret; an existing one may be immutable")
        unsure = error.status == 0 or error.status >= 500
        if unsure and verb != "list":
            text += ": the change may have been made, or not; check with redisproxy tenants"
        return WriteError(text, unsure)

    def _forbidden(self, text: str, verb: str, namespace: str) -> WriteError:
        # A full quota is a 403, too.
        if self._api.in_pod:
            return WriteError(
                f"{text}: this pod's service account may only read secrets, by deploy/kubernetes/base/rbac.yaml. Run "
                f"redisproxy on a machine with a kubeconfig that may {verb} secrets in {namespace}",
                in_pod=True,
            )
        return WriteError(
            f"{text}: you need the right to {verb} secrets in {namespace}; to check it: kubectl auth can-i {verb} secrets "
            f"-n {namespace}"
        )


def _stored(answer: Mapping[str, Any]) -> StoredSecret:
    try:
        stored = read_stored(answer)
        if answer.get("kind") == "Secret" and stored.uid and isinstance(answer["metadata"]["resourceVersion"], str):
            return stored
    except (DocumentError, KeyError):
        pass
    raise WriteError(_NO_SECRET)
