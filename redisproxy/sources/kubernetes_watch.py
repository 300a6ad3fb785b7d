"""The watches of the Kubernetes API: where each begins, what is asked for, and the body of the
answer as it comes.

Owns the connection that a watch comes by: how it is kept alive, and how another thread ends it.
`watch` decides when a watch is opened.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes.client.exceptions import ApiException

from .. import messages
from ..tenants.documents import TEMPORARY_PREFIX
from .kubernetes_api import (
    SELECTOR,
    KubernetesApi,
    Method,
    Unreachable,
    address_of,
    error_kind,
    refusal,
    response_of,
    retry_after,
    status_text,
)
from .watch_events import BROKEN_OFF, Watched, WatchFailure

#: What is asked of a watch, and of the list before it: objects without their contents.
_AS = "application/json;as={};g=meta.k8s.io;v=v1"
METADATA, METADATA_LIST = _AS.format("PartialObjectMetadata"), _AS.format("PartialObjectMetadataList")
#: Seconds after which a watch that says nothing is taken for dead. The API server ends each earlier
#: (`watch.LASTS`).
SILENCE = 90.0
#: Bytes that are taken from a watch at once.
CHUNK = 64 * 1024
#: The kernel asks a peer that has been silent for so many seconds whether it is there, every so
#: many, so many times.
KEEPALIVE = (30, 5, 3)


class ClusterWatches:
    """The watches of the Kubernetes API: see `watch.Watchable`. They are used in other threads than
    the reading.

    prefix, secret_name, master: as of `kubernetes.ClusterSource`.
    """

    def __init__(self, api: KubernetesApi, prefix: str, secret_name: str, master: tuple[str, str]) -> None:
        self._api = api
        self._prefix = prefix
        self._secret_name = secret_name
        self._master = master

    def version(self, what: Watched) -> str:
        """See `watch.Watchable`. Of the master secret it is empty: a watch from there on tells
        first what there is now.
        """
        if what is Watched.MASTER:
            return ""
        client, answer = self._watch_call(what, METADATA_LIST, self._api.timeout, limit=1)
        try:
            body = json.loads(answer.data)
            version = body["metadata"]["resourceVersion"] if str(body["kind"]).endswith("List") else None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise WatchFailure(messages.API_NO_ANSWER(address=address_of(client), error=error_kind(error))) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            version = None
        finally:
            client.close()
        if not isinstance(version, str) or not version:
            raise WatchFailure(messages.API_NOT_A_LIST(address=address_of(client)))
        return version

    def watch(self, what: Watched, version: str, seconds: int) -> WatchStream:
        """See `watch.Watchable`."""
        options: dict[str, str | int] = {"watch": True, "allow_watch_bookmarks": True, "timeout_seconds": seconds}
        if version:
            options["resource_version"] = version
        return WatchStream(*self._watch_call(what, METADATA, (self._api.timeout[0], SILENCE), **options))

    def concerns(self, what: Watched, namespace: str, name: str) -> bool:
        """See `watch.Watchable`."""
        if what is Watched.MASTER or (namespace, name) == self._master:
            return (namespace, name) == self._master
        if not namespace.startswith(self._prefix):
            return False
        return what is Watched.NAMESPACES or name == self._secret_name or name.startswith(TEMPORARY_PREFIX)

    def _watch_call(
        self, what: Watched, accept: str, timeout: tuple[float, float], **options: str | int
    ) -> tuple[kubernetes_client.ApiClient, urllib3.HTTPResponse]:
        """A response whose body has not been read, and the client whose connection it comes by.
        Raises WatchFailure.
        """
        try:
            client = self._api.connect()
        except Unreachable as unreachable:
            raise WatchFailure(unreachable.failure.reason) from None
        client.set_default_header("Accept", accept)
        api = kubernetes_client.CoreV1Api(client)
        call: Method
        arguments: tuple[str, ...] = ()
        if what is Watched.NAMESPACES:
            call = api.list_namespace
        elif what is Watched.SECRETS:
            call, options = api.list_secret_for_all_namespaces, {**options, "field_selector": SELECTOR}
        else:
            call, arguments = api.list_namespaced_secret, (self._master[0],)
            options["field_selector"] = f"metadata.name={self._master[1]}"
        try:
            return client, response_of(call, *arguments, timeout=timeout, **options)
        except ApiException as error:
            if not error.status:
                failure = WatchFailure(messages.API_NO_ANSWER(address=address_of(client), error=error_kind(error)))
            else:
                reason = refusal(error.status)
                if error.status == 403:
                    verb = "watch" if options.get("watch") else "list"
                    where = " in all namespaces" if what is Watched.SECRETS else ""
                    reason = messages.API_RIGHT_MISSING(status=status_text(403), verb=verb, what=f"{what.value}{where}")
                failure = WatchFailure(reason, error.status, retry_after(error))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failure = WatchFailure(messages.API_NO_ANSWER(address=address_of(client), error=error_kind(error)))
        except ValueError:
            failure = WatchFailure(messages.API_UNSENDABLE())
        client.close()
        raise failure


class WatchStream:
    """The body of an answer that does not end: see `watch.Stream`."""

    def __init__(self, client: kubernetes_client.ApiClient, response: urllib3.HTTPResponse) -> None:
        self._client = client
        self._response = response
        connection = getattr(response, "connection", None)
        self._socket = getattr(connection, "sock", None)
        if self._socket is not None:
            self._keep_alive(self._socket)

    def _keep_alive(self, connected: socket.socket) -> None:
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        try:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in zip(names, KEEPALIVE, strict=True):
                if hasattr(socket, name):
                    connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        except OSError:
            pass  # it has ended already: reading it will tell

    def __iter__(self) -> Iterator[bytes]:
        """Pieces as they come. Raises WatchFailure."""
        try:
            yield from self._response.stream(CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # The last two are what reading a connection that was cut in another thread may lead to.
            raise WatchFailure(messages.WATCH_BROKE_OFF(error=error_kind(error)), BROKEN_OFF) from None

    def close(self) -> None:
        self._response.close()
        self._client.close()

    def cut(self) -> None:
        # Not the method of an SSLSocket, which takes apart what the other thread uses.
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass
