"""Transports of Twisted's tests, as clients' connections need them."""

from __future__ import annotations

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.testing import StringTransport
from zope.interface import implementer


@implementer(ITCPTransport)
class Socket(StringTransport):
    """A TCP socket whose other side is the test."""

    bufferSize = 65536

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def loseWriteConnection(self) -> None:
        pass

    def fileno(self) -> int:
        return 0
