"""Reads namespaces and secrets from the Kubernetes API, makes others' requests, and asks for watches.

Owns the conversation with the API server: where it is, who we are, pages, time-outs, and what an error means.
Answers are read as raw JSON: the client's models take many times as long to parse, and hold the GIL meanwhile.
Error bodies are never repeated: an API server, or what stands before it, may put anything into them.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader

from ..tenants.enrolment import (
    ITSELF,
    TEMPORARY_PREFIX,
    Changes,
    NamespaceDocument,
    Problem,
    ReadFailure,
    Reading,
    SecretDocument,
    Update,
    no_rest,
)
from .documents import DocumentError, read_namespace, read_secret
from .hints import MANY
from .kubernetes_api import RequestError, Unreachable, error_kind, is_terminating, retry_after, status_text
from .kubernetes_watch import WatchStream
from .watch_events import Watched, WatchFailure

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Items a page. The API server's own advice is a few hundred, but while a page is made of its JSON nothing else in this
#: process runs, however long it takes: some 10 us an item.
PAGE = 50
#: Secrets of this type are left out by the API server: Helm keeps its releases in them, up to 1 MiB each, and many.
SELECTOR = "type!=helm.sh/release.v1"
#: Seconds to connect, and seconds without a byte.
TIMEOUT = (5, 10)
#: What is asked of a watch, and of the list before it: objects without their contents.
_AS = "application/json;as={};g=meta.k8s.io;v=v1"
METADATA, METADATA_LIST = _AS.format("PartialObjectMetadata"), _AS.format("PartialObjectMetadataList")
#: Seconds after which a watch that says nothing is taken for dead. The API server ends each earlier (`watch.LASTS`).
SILENCE = 90.0

_Made = TypeVar("_Made", NamespaceDocument, SecretDocument)


class ClusterSource:
    """The Kubernetes API.

    prefix: of the namespaces' names; secret_name: of the client secret in each; master: (namespace, name) of the
    master secret; port: of the API server, in a pod; service_account: where a pod's token and CA are mounted.
    """

    def __init__(
        self,
        prefix: str,
        secret_name: str,
        master: tuple[str, str],
        port: int,
        environ: Mapping[str, str] = os.environ,
        service_account: Path = SERVICE_ACCOUNT,
        timeout: tuple[float, float] = TIMEOUT,
    ) -> None:
        self._prefix = prefix
        self._secret_name = secret_name
        self._master = master
        self._port = port
        self._environ = environ
        self._service_account = service_account
        self._timeout = timeout
        self._stopped = threading.Event()
        self._rest: Callable[[], None] = no_rest
        #: by namespace, by name: what was made of a secret, and of which uid and resourceVersion; namespaces by an empty one
        self._made: dict[str, dict[str, tuple[tuple[str, str], Any]]] = {}

    def __str__(self) -> str:
        return "the Kubernetes API"

    def stop(self) -> None:
        """No further call is made; one under way ends with its time-out at the latest."""
        self._stopped.set()

    def read(self, rest: Callable[[], None] = no_rest) -> Reading:
        """What the API says now. Blocks, for as long as a few time-outs. rest: called before each request, may sleep."""
        self._rest = rest
        try:
            api = self._connect()
        except Unreachable as unreachable:
            [failure] = unreachable.args
            return Reading(failure, failure, {})
        try:
            return self._read(kubernetes_client.CoreV1Api(api))
        finally:
            api.close()

    def read_changes(self, changes: Changes, rest: Callable[[], None] = no_rest) -> Update:
        """What the API says now of single objects. As `read`; may be called by the rest of a reading that is under way."""
        outer, self._rest = self._rest, rest
        namespaces: dict[str, NamespaceDocument | None] = {}
        listed: dict[str, tuple[SecretDocument, ...]] = {}
        secrets: dict[tuple[str, str], SecretDocument | None] = {}
        failures: list[ReadFailure] = []

        def keep(answers: dict, key: object, answer: object) -> None:
            if isinstance(answer, ReadFailure):
                failures.append(answer)
            else:
                answers[key] = answer

        try:
            client = self._connect()
            try:
                api = kubernetes_client.CoreV1Api(client)
                for name in sorted(changes.namespaces):
                    keep(namespaces, name, self._one(api.list_namespace, read_namespace, "", name))
                    if namespaces.get(name) is not None:
                        keep(listed, name, self._secrets(api, name, []))
                counted = Counter(name for _, name in changes.secrets)
                for many in sorted(name for name, count in counted.items() if count >= MANY and name != ITSELF):
                    wanted = {namespace for namespace, name in changes.secrets if name == many}
                    found = self._of_that_name(api, many, wanted)
                    if isinstance(found, ReadFailure):
                        failures.append(found)
                    else:
                        secrets |= {(namespace, many): secret for namespace, secret in found.items()}
                if counted[ITSELF] >= MANY:
                    there = self._namespaces(api, [])
                    if isinstance(there, ReadFailure):
                        failures.append(there)
                    else:
                        namespaces |= {one.name: one for one in there if (one.name, ITSELF) in changes.secrets}
                for namespace, name in sorted(changes.secrets):
                    if counted[name] >= MANY:
                        continue
                    if name == ITSELF:
                        keep(namespaces, namespace, self._one(api.list_namespace, read_namespace, "", namespace))
                        continue
                    if (namespace, name) == self._master:
                        answer = self._master_secret(api)
                    else:
                        answer = self._one(api.list_namespaced_secret, read_secret, namespace, name, namespace)
                    keep(secrets, (namespace, name), answer)
            finally:
                client.close()
        except Unreachable as unreachable:
            failures.append(unreachable.args[0])
        finally:
            self._rest = outer
        return Update(namespaces, listed, secrets, tuple(failures))

    def _of_that_name(
        self, api: kubernetes_client.CoreV1Api, name: str, wanted: Set[str]
    ) -> dict[str, SecretDocument | None] | ReadFailure:
        """The secrets of one name in some namespaces, None where there is none. One list, the others are left out."""
        found: dict[str, SecretDocument | None] = dict.fromkeys(wanted)
        for item in self._pages(api.list_secret_for_all_namespaces, field_selector=f"metadata.name={name}"):
            if isinstance(item, ReadFailure):
                return item
            if _name(item) != name:
                return ReadFailure("the answer has objects that were not asked for")
            namespace = item["metadata"].get("namespace")
            if namespace in wanted:
                try:
                    found[namespace] = self._made_of(item, read_secret, namespace, name)
                except DocumentError as error:
                    return ReadFailure(str(error))
        for namespace in [namespace for namespace, secret in found.items() if secret is None]:
            self._made.get(namespace, {}).pop(name, None)
        return found

    def _one(
        self, call: Callable[..., Any], read: Callable[[Mapping], _Made], where: str, name: str, *arguments: str
    ) -> _Made | ReadFailure | None:
        """One object, None if there is none. By a list of those with its name, for that takes no right but to list."""
        found: _Made | None = None
        for item in self._pages(call, *arguments, field_selector=f"metadata.name={name}"):
            if isinstance(item, ReadFailure):
                return item
            if _name(item) != name:
                return ReadFailure("the answer has objects that were not asked for")
            try:
                found = self._made_of(item, read, where, name)
            except DocumentError as error:
                return ReadFailure(str(error))
        if found is None:
            self._made.get(where, {}).pop(name, None)
        return found

    def _connect(self) -> kubernetes_client.ApiClient:
        """A client of the API, made anew for each reading: so a rotated token, CA or kubeconfig is taken up.

        Raises Unreachable.
        """
        try:
            return self._make_client()
        except Exception as error:
            # For a malformed kubeconfig the loader raises what it likes, YAMLError and AttributeError included. The text
            # of a ConfigException names files and keys, or quotes what a credential plugin printed; others may quote the
            # file, so that only their kind is shown.
            detail = error_kind(error)
            if isinstance(error, ConfigException):
                plugin = re.match(r"(?:exec|cmd-path):(?: process returned -?[0-9]+)?", str(error))
                detail = plugin[0] if plugin else str(error)
            raise Unreachable(ReadFailure(f"no way to the Kubernetes API: {detail}")) from None

    def _make_client(self) -> kubernetes_client.ApiClient:
        configuration = kubernetes_client.Configuration()
        if self._environ.get("KUBERNETES_SERVICE_HOST") and (self._service_account / "token").is_file():
            environ = dict(self._environ) | {"KUBERNETES_SERVICE_PORT": str(self._port)}
            InClusterConfigLoader(
                token_filename=str(self._service_account / "token"),
                cert_filename=str(self._service_account / "ca.crt"),
                environ=environ,
            ).load_and_set(configuration)
        else:
            kubernetes_config.load_kube_config(
                config_file=self._environ.get("KUBECONFIG"), client_configuration=configuration
            )
        # How often to try again is decided by the service that asks: nothing here may sleep for a Retry-After.
        configuration.retries = urllib3.Retry(total=1, read=0, redirect=0, status=0, respect_retry_after_header=False)
        return kubernetes_client.ApiClient(configuration)

    def request(self, method: str, *arguments: object, **options: object) -> dict[str, Any]:
        """The JSON object that the API answers a single request with. Blocks. Raises RequestError.

        method: of the official client's CoreV1Api, with its arguments.
        """
        try:
            client = self._connect()
        except Unreachable as unreachable:
            raise RequestError(unreachable.args[0].reason) from None
        call = getattr(kubernetes_client.CoreV1Api(client), method)
        try:
            answer = json.loads(call(*arguments, _preload_content=False, _request_timeout=self._timeout, **options).data)
        except ApiException as error:
            if not error.status:
                raise RequestError(f"no answer: {error_kind(error)}") from None
            raise RequestError(status_text(error.status), error.status, is_terminating(error)) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RequestError(f"no answer: {error_kind(error)}") from None
        except (ValueError, RecursionError):
            raise RequestError("what was answered is not JSON, or the token cannot be sent") from None
        finally:
            client.close()
        if not isinstance(answer, dict):
            raise RequestError("the answer is not a JSON object")
        return answer

    # Watching, in other threads than the reading.

    def version(self, what: Watched) -> str:
        """See `watch.Watchable`. Of the master secret it is empty: a watch from there on tells first what there is now."""
        if what is Watched.MASTER:
            return ""
        client, answer = self._watch_call(what, METADATA_LIST, self._timeout, limit=1)
        try:
            body = json.loads(answer.data)
            version = body["metadata"]["resourceVersion"] if str(body["kind"]).endswith("List") else None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise WatchFailure(f"no answer: {error_kind(error)}") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            version = None
        finally:
            client.close()
        if not isinstance(version, str) or not version:
            raise WatchFailure("the answer is not a list of objects")
        return version

    def watch(self, what: Watched, version: str, seconds: int) -> WatchStream:
        """See `watch.Watchable`."""
        at = {"resource_version": version} if version else {}
        options = {"watch": True, "allow_watch_bookmarks": True, "timeout_seconds": seconds, **at}
        return WatchStream(*self._watch_call(what, METADATA, (self._timeout[0], SILENCE), **options))

    def concerns(self, what: Watched, namespace: str, name: str) -> bool:
        """See `watch.Watchable`."""
        if what is Watched.MASTER or (namespace, name) == self._master:
            return (namespace, name) == self._master
        if not namespace.startswith(self._prefix):
            return False
        return what is Watched.NAMESPACES or name == self._secret_name or name.startswith(TEMPORARY_PREFIX)

    def _watch_call(
        self, what: Watched, accept: str, timeout: tuple[float, float], **options: Any
    ) -> tuple[kubernetes_client.ApiClient, urllib3.HTTPResponse]:
        """A response whose body has not been read, and the client whose connection it comes by. Raises WatchFailure."""
        try:
            client = self._connect()
        except Unreachable as unreachable:
            raise WatchFailure(unreachable.args[0].reason) from None
        client.set_default_header("Accept", accept)
        api = kubernetes_client.CoreV1Api(client)
        arguments: tuple[str, ...] = ()
        if what is Watched.NAMESPACES:
            call = api.list_namespace
        elif what is Watched.SECRETS:
            call, options = api.list_secret_for_all_namespaces, {**options, "field_selector": SELECTOR}
        else:
            call, arguments = api.list_namespaced_secret, (self._master[0],)
            options["field_selector"] = f"metadata.name={self._master[1]}"
        try:
            return client, call(*arguments, _preload_content=False, _request_timeout=timeout, **options)
        except ApiException as error:
            if not error.status:
                failure = WatchFailure(f"no answer: {error_kind(error)}")
            else:
                reason = status_text(error.status)
                if error.status == 403:
                    verb = "watch" if options.get("watch") else "list"
                    where = " in all namespaces" if what is Watched.SECRETS else ""
                    reason += f": the right to {verb} {what.value}{where} is missing (deploy/kubernetes/base/rbac.yaml)"
                failure = WatchFailure(reason, error.status, retry_after(error))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failure = WatchFailure(f"no answer: {error_kind(error)}")
        except ValueError:
            failure = WatchFailure("the token or the address cannot be sent: is there a line end in it?")
        client.close()
        raise failure

    # Reading.

    def _read(self, api: kubernetes_client.CoreV1Api) -> Reading:
        unreadable: list[Problem] = []
        master: SecretDocument | ReadFailure | None = None
        secrets: dict[str, tuple[SecretDocument, ...] | ReadFailure] = {}
        try:
            master = self._master_secret(api)
            namespaces = self._namespaces(api, unreadable)
        except Unreachable as unreachable:
            failure = unreachable.args[0]
            return Reading(failure if master is None else master, failure, {})
        if isinstance(namespaces, ReadFailure):
            return Reading(master, namespaces, {})
        complete = not unreadable
        gone: ReadFailure | None = None
        for namespace in namespaces:
            if gone is None:
                try:
                    secrets[namespace.name] = self._secrets(api, namespace.name, unreadable)
                    continue
                except Unreachable as unreachable:
                    gone = unreachable.args[0]
            secrets[namespace.name] = gone
        self._made = {name: held for name, held in self._made.items() if name in {"", self._master[0]} or name in secrets}
        return Reading(master, namespaces, secrets, tuple(unreadable), complete=complete)

    def _master_secret(self, api: kubernetes_client.CoreV1Api) -> SecretDocument | ReadFailure | None:
        namespace, name = self._master
        answer = self._call(api.read_namespaced_secret, name, namespace)
        if isinstance(answer, ReadFailure):
            return None if answer.reason.startswith("404 ") else answer
        try:
            return self._made_of(answer, read_secret, namespace, name)
        except DocumentError as error:
            return ReadFailure(str(error))

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
                found[name] = self._made_of(item, read_namespace, "", name)
            except DocumentError as error:
                unreadable.append(Problem("a namespace", name, str(error)))
        self._forget_others("", found)
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
                found[name] = self._made_of(item, read_secret, namespace, name)
            except DocumentError as error:
                unreadable.append(Problem(namespace, name, str(error)))
        self._forget_others(namespace, found)
        return tuple(found.values())

    def _made_of(self, item: dict[str, Any], read: Callable[[Mapping], _Made], namespace: str, name: str) -> _Made:
        """What an object is made into; what was made of it before, if it has not changed. Raises DocumentError."""
        metadata = item.get("metadata")
        version = (metadata.get("uid"), metadata.get("resourceVersion")) if isinstance(metadata, dict) else ()
        held = self._made.setdefault(namespace, {})
        kept = held.get(name)
        if kept is not None and kept[0] == version:
            return kept[1]
        made = read(item)
        if version and all(isinstance(part, str) and part for part in version):
            held[name] = (version, made)
        return made

    def _forget_others(self, namespace: str, found: Mapping[str, object]) -> None:
        held = self._made.get(namespace, {})
        for name in held.keys() - found.keys():
            del held[name]

    def _pages(self, call: Callable[..., Any], *arguments: str, **options: str) -> Iterator[dict[str, Any] | ReadFailure]:
        """The items of all pages of a list; a ReadFailure in place of the rest when a page fails."""
        token: str | None = None
        while True:
            paging = {"_continue": token} if token else {}
            answer = self._call(call, *arguments, limit=PAGE, **options, **paging)
            if isinstance(answer, ReadFailure):
                # 410 Gone, an expired continue token, is a failure like any: the next reading starts over.
                yield answer
                return
            items, metadata = answer.get("items", "missing"), answer.get("metadata", {})
            if items is None:
                items = []  # how Go writes an empty list, at times
            # An object of another kind must not pass for an empty list: that would be a deletion of everything.
            if not (
                str(answer.get("kind", "")).endswith("List")
                and isinstance(metadata, dict)
                and isinstance(items, list)
                and all(isinstance(item, dict) for item in items)
            ):
                yield ReadFailure("the answer is not a list of objects")
                return
            yield from items
            before, token = token, metadata.get("continue") or None
            if token is None:
                return
            if token == before:
                yield ReadFailure("the list does not end: a page is said to follow itself")
                return

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any] | ReadFailure:
        """The JSON object that a call answers with, or why there is none. Raises Unreachable."""
        self._rest()
        if self._stopped.is_set():
            raise Unreachable(ReadFailure("the proxy stops"))
        try:
            body = call(*arguments, _preload_content=False, _request_timeout=self._timeout, **options).data
        except ApiException as error:
            if not error.status:
                raise Unreachable(ReadFailure(f"no answer: {error_kind(error)}")) from None
            failure = ReadFailure(status_text(error.status), retry_after(error))
            # A 500 may be about this one object, say one that cannot be decrypted: the others are asked all the same.
            if error.status in (401, 429) or error.status > 500:
                raise Unreachable(failure) from None
            return failure
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(ReadFailure(f"no answer: {error_kind(error)}")) from None
        except ValueError:
            raise Unreachable(ReadFailure("the token or the address cannot be sent: is there a line end in it?")) from None
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise Unreachable(ReadFailure("the answer is not JSON")) from None
        if not isinstance(answer, dict):
            raise Unreachable(ReadFailure("the answer is not a JSON object"))
        return answer


def _name(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""
