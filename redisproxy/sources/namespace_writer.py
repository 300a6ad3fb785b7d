"""Writes one annotation of a Namespace to the Kubernetes API, for the operator's command. The proxy
itself never does.

The request is a merge patch of that annotation alone, so it overwrites nothing else.
"""

from __future__ import annotations

from .kubernetes_api import KubernetesApi, RequestError
from .secret_writer import MANAGER, WriteError

_MERGE_PATCH = "application/merge-patch+json"


def annotation_patch(name: str, value: str | None) -> dict[str, object]:
    """Returns the merge patch that sets an annotation, or removes it if the value is None."""
    return {"metadata": {"annotations": {name: value}}}


def annotate(api: KubernetesApi, namespace: str, name: str, value: str | None) -> None:
    """Sets an annotation of a Namespace, or removes it if the value is None. Blocks.

    Raises WriteError.
    """
    try:
        answer = api.request(
            "patch_namespace",
            namespace,
            annotation_patch(name, value),
            content_type=_MERGE_PATCH,
            field_manager=MANAGER,
        )
    except RequestError as error:
        raise _explained(api, error, namespace) from None
    if answer.get("kind") != "Namespace":
        raise WriteError("the API's answer is not a Namespace: check that the server there is a Kubernetes API server")


def _explained(api: KubernetesApi, error: RequestError, namespace: str) -> WriteError:
    if error.status == 404:
        return WriteError(f"there is no namespace {namespace}")
    text = f"cannot patch the namespace {namespace}: {error}"
    if error.status == 403 and api.in_pod:
        return WriteError(
            f"{text}: this pod's service account may only read, by deploy/kubernetes/base/rbac.yaml. Run redisproxy on a "
            "machine with a kubeconfig that may patch namespaces",
            in_pod=True,
        )
    if error.status == 403:
        return WriteError(
            f"{text}: you need the right to patch namespaces; to check it: kubectl auth can-i patch namespace {namespace}"
        )
    if error.status == 401:
        return WriteError(f"{text}: log in again, or name another kubeconfig in KUBECONFIG")
    unsure = error.status == 0 or error.status >= 500
    if unsure:
        text += ": the change may have been made, or not; check with redisproxy tenants"
    return WriteError(text, unsure)
