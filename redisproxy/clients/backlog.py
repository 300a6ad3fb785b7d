"""The replies that one client has not read yet.

Owns their order and their size. A transport would keep them in one buffer, which it copies as a
whole, and would not say how much of it the client has read. So the transport gets the next bytes
only when the client has read what it had. The tenant's account is charged for all of them.
"""

from __future__ import annotations

from ..session.pieces import Pieces
from ..tenants.memory import Usage


class Backlog:
    """Unread replies. usage: what they are charged to; sent: how many bytes the transport has."""

    __slots__ = ("_pieces", "_sent", "_usage")

    def __init__(self, usage: Usage, sent: int) -> None:
        self._usage = usage
        self._pieces = Pieces()
        self._sent = sent

    def __bool__(self) -> bool:
        return self._pieces.size > 0

    def charge(self) -> None:
        """Charges all of it, with the bytes that the transport has."""
        self._usage.backlog(self._sent + self._pieces.size)

    def add(self, data: bytes) -> None:
        """Adds bytes, behind all others."""
        self._pieces.add(data)
        self.charge()

    def next(self) -> bytes:
        """Returns the next bytes for the transport."""
        piece = self._pieces.next()
        self._sent += len(piece)
        return piece

    def read(self) -> None:
        """The client has read all that the transport had."""
        self._sent = 0
        self.charge()

    def end(self) -> None:
        """Drops what is left."""
        self._pieces.clear()
        self._usage.backlog(0)
