"""What the proxy takes of a reactor, all in all. For types alone: each part names what it takes itself."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTCP

from ..listen.endpoints import IListenReactor


class IProxyReactor(IListenReactor, IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTCP):
    """Twisted's epoll reactor is one."""

    def run(installSignalHandlers: bool = True) -> None:
        """As `IReactorCore` has it, with an option that Twisted's reactors have."""
