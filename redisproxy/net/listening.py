"""The sockets that clients connect to.

Owns what listens: from the operator's endpoints to open ports, which give accepted connections to a factory, until they
are closed.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet import defer
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.python.failure import Failure

#: Connections that the kernel may hold for us while we are busy; it takes less where net.core.somaxconn is lower.
BACKLOG = 4096


class EndpointError(ValueError):
    """What the operator wrote is no endpoint. The text says why, and what is taken."""


class ListenError(Exception):
    """A port cannot be opened. The text is one line, fit for the operator."""


class Listening:
    """Ports that one option names. Raises EndpointError."""

    def __init__(self, reactor: object, descriptions: Sequence[str], option: str = "--listen") -> None:
        self._descriptions = descriptions
        self._option = option
        self._endpoints = []
        for description in descriptions:
            try:
                self._endpoints.append(serverFromString(reactor, _with_backlog(description)))
            except Exception as error:
                raise EndpointError(f"{description!r} ({error}); it takes a Twisted endpoint such as tcp:6379") from None
        #: those that are open
        self.ports: list[IListeningPort] = []

    def open(self, factory: IProtocolFactory) -> None:
        """Listens. Raises ListenError."""
        for description, endpoint in zip(self._descriptions, self._endpoints, strict=True):
            failed: list[Failure] = []
            endpoint.listen(factory).addCallbacks(self.ports.append, failed.append)
            if failed:
                reason = failed[0].value
                if isinstance(reason, CannotListenError):
                    reason = reason.socketError
                raise ListenError(f"cannot listen on {description}: {reason}; choose another with {self._option}")

    @property
    def addresses(self) -> list[IAddress]:
        """Where it listens."""
        return [port.getHost() for port in self.ports]

    def close(self) -> defer.Deferred:
        """Accepts no more. Fires when all ports are closed."""
        ports, self.ports = self.ports, []
        return defer.gatherResults([defer.maybeDeferred(port.stopListening) for port in ports])


def _with_backlog(description: str) -> str:
    """Twisted's default of 50 is less than one busy application opens at once."""
    kind = description.split(":", 1)[0]
    if kind in ("tcp", "tcp6", "ssl", "unix") and ":backlog=" not in description:
        return f"{description}:backlog={BACKLOG}"
    return description
