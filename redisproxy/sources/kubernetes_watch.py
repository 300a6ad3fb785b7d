"""Opens watches of the Kubernetes API: where each begins, what is requested, and the answer's body.

Owns the connection of a watch: keep-alive, and how another thread ends it. When a watch is opened
is decided in `watch`.
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
    METADATA,
    METADATA_LIST,
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

#: Seconds without a byte after which a watch counts as dead. The API server ends each watch earlier
#: (`watch.LASTS`).
SILENCE = 90.0
#: Bytes read from a watch at once.
CHUNK = 64 * 1024
#: TCP keep-alive: seconds of silence before the first probe, seconds between probes, and failed
#: probes before the connection ends.
KEEPALIVE = (30, 5, 3)


class ClusterWatches:
    """The watches of the Kubernetes API: see `watch.Watchable`. They run in other threads than
    reads.

    prefix, secret_name, master: as in `kubernetes.ClusterSource`.
    """

    def __init__(self, api: KubernetesApi, prefix: str, secret_name: str, master: tuple[str, str]) -> None:
        self._api = api
        self._prefix = prefix
        self._secret_name = secret_name
        self._master = master

    def version(self, what: Watched) -> str:
        """See `watch.Watchable`. For the master secret the version is empty: such a watch begins
        with an event for the current state.
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
        """Returns a client, and a response on its connection whose body is not read yet.

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
    """The body of a watch's answer, which does not end by itself: see `watch.Stream`."""

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
            pass  # the connection has ended already: the next read raises an error

    def __iter__(self) -> Iterator[bytes]:
        """Yields the body in pieces as they arrive. Raises WatchFailure."""
        try:
            yield from self._response.stream(CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError may occur when another thread has cut the connection.
            raise WatchFailure(messages.WATCH_BROKE_OFF(error=error_kind(error)), BROKEN_OFF) from None

    def close(self) -> None:
        self._response.close()
        self._client.close()

    def cut(self) -> None:
        # SSLSocket.shutdown would also discard the TLS state, which the other thread is using.
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass
