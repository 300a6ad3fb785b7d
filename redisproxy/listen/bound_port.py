"""Ports that are bound at the start and listen later.

Owns the time between `bind` and `listen`. A port that is taken is an error at the start, and a
privileged port is bound before the process gives up its rights. Until the port listens, the kernel
refuses connections (ECONNREFUSED), as it does for a Redis that is not started yet.

The ports are Twisted's own. So the rules for addresses, SO_REUSEADDR, and the mode and lock file of
a Unix socket are Twisted's, and so is the way to accept.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorFDSet

from .. import bounds


class _BoundSocket(socket.socket):
    """A socket whose `listen` only keeps the backlog: Twisted calls it directly after `bind`."""

    _backlog = 0

    # Python makes these anew, in eight calls, for each connection that is accepted.

    @cached_property
    def family(self) -> socket.AddressFamily:
        """See `socket.socket`."""
        return super().family

    @cached_property
    def type(self) -> socket.SocketKind:
        """See `socket.socket`."""
        return super().type

    def listen(self, backlog: int = 0, /) -> None:
        self._backlog = backlog

    def listen_now(self) -> None:
        """Listens. Raises OSError."""
        super().listen(self._backlog)


class BoundPort(tcp.Port):
    """A TCP port that `startListening` only binds."""

    _bound: _BoundSocket
    _accepts = False
    _connections = 1

    @property
    def numberAccepts(self) -> int:
        """How many connections Twisted's port accepts in one turn of the reactor.

        Twisted's own number grows while clients wait. Connections come with work, for the first
        command and for the end: many of them at once keep everybody else waiting.
        """
        return self._connections

    @numberAccepts.setter
    def numberAccepts(self, number: int) -> None:
        self._connections = min(number, bounds.ACCEPTED_PER_TURN)

    def createInternetSocket(self) -> socket.socket:
        """See Twisted's port, which binds the result."""
        self._bound = _BoundSocket(fileno=super().createInternetSocket().detach())
        self._bound.setblocking(False)
        return self._bound

    def startReading(self) -> None:
        """Accepts connections, but not before `listen`: epoll reports a socket that does not listen
        as closed.
        """
        if self._accepts:
            super().startReading()

    def listen(self, accept: bool) -> None:
        """Listens. accept: whether this process accepts the connections. Raises OSError: another
        process listens there, and was also bound only when this one was bound.
        """
        self._bound.listen_now()
        self._accepts = accept
        self.startReading()


class BoundUnixPort(BoundPort, unix.Port):
    """A Unix socket that `startListening` only binds."""


def probe_accepted_connections(descriptor: int, seconds: float) -> None:
    """Has the kernel probe connections that are accepted at this socket, as Redis does: after so
    many seconds without a byte, and then three times before it closes the connection.

    Connections inherit these options from the socket. A Unix socket has none.
    """
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        if listening.family not in (socket.AF_INET, socket.AF_INET6):
            return
        idle = max(1, round(seconds))
        wanted = {"TCP_KEEPIDLE": idle, "TCP_KEEPINTVL": max(1, idle // 3), "TCP_KEEPCNT": 3}
        for name, value in wanted.items():
            if hasattr(socket, name):
                listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def prepare_accepted_connections(descriptor: int, size: int) -> None:
    """Has the kernel send small replies at once, and keep little of what is sent, over connections
    that are accepted at this socket. TCP connections inherit that, and that they are probed.

    size: in bytes. What is received has no such limit: from a small one the kernel would choose a
    window scale that a connection keeps for ever.
    """
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        if listening.family in (socket.AF_INET, socket.AF_INET6):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class BindingReactor:
    """A reactor that can be asked to bind only: see `binding`."""

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._reactor: Any = reactor
        # None: ports listen at once.
        self._bound: list[BoundPort] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @contextlib.contextmanager
    def binding(self) -> Iterator[list[BoundPort]]:
        """While this context lasts, ports of TCP and Unix sockets are only bound. Gives a list that
        has them all in the end.
        """
        bound = self._bound = []
        try:
            yield bound
        finally:
            self._bound = None

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        """See IReactorTCP."""
        if self._bound is not None:
            return self._bind(BoundPort(port, factory, backlog, interface, self._reactor), self._bound)
        listening: IListeningPort = self._reactor.listenTCP(port, factory, backlog, interface)
        return listening

    def listenUNIX(
        self, address: bytes, factory: IProtocolFactory, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        """See IReactorUNIX."""
        if self._bound is not None:
            return self._bind(BoundUnixPort(address, factory, backlog, mode, self._reactor, wantPID), self._bound)
        listening: IListeningPort = self._reactor.listenUNIX(address, factory, backlog, mode, wantPID)
        return listening

    def _bind(self, port: BoundPort, bound: list[BoundPort]) -> IListeningPort:
        port.startListening()
        bound.append(port)
        return port
