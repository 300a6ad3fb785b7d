"""The body of a watch's answer, as it comes.

Owns the connection that it comes by: how that is kept alive, and how another thread ends it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import urllib3
from kubernetes import client as kubernetes_client

from .kubernetes_api import error_kind
from .watch_events import BROKEN_OFF, WatchFailure

#: Bytes that are taken from a watch at once.
CHUNK = 64 * 1024
#: The kernel asks a peer that has been silent for so many seconds whether it is there, every so many, so many times.
KEEPALIVE = (30, 5, 3)


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
            raise WatchFailure(f"it broke off: {error_kind(error)}", BROKEN_OFF) from None

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
