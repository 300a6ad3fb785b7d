"""The replies that one client has not read yet.

Owns their order and their size. A transport would keep them in one buffer, which it copies as a
whole, and would not say how much of it the client has read. So the transport gets the next bytes
only when the client has read what it had. The tenant's account is charged for all of them.
"""

from __future__ import annotations

from collections import deque

from .. import bounds
from ..tenants.memory import Usage


class Backlog:
    """Unread replies. usage: what they are charged to; sent: how many bytes the transport has."""

    __slots__ = ("_pieces", "_sent", "_size", "_small", "_usage")

    def __init__(self, usage: Usage, sent: int) -> None:
        self._usage = usage
        self._pieces: deque[bytes] = deque()
        # The last pieces, if they are small: each piece would cost as much as an object.
        self._small = bytearray()
        self._sent = sent
        self._size = sent

    def __bool__(self) -> bool:
        return bool(self._pieces or self._small)

    def charge(self) -> None:
        """Charges the bytes that the transport has."""
        self._usage.backlog(self._size)

    def add(self, data: bytes) -> None:
        """Adds bytes, behind all others."""
        if len(data) < bounds.SMALL_READ_BYTES:
            self._small += data
            if len(self._small) >= bounds.READ_BYTES:
                self._take_small()
        else:
            if self._small:
                self._take_small()
            self._pieces.append(data)
        self._size += len(data)
        self._usage.backlog(self._size)

    def _take_small(self) -> None:
        self._pieces.append(bytes(self._small))
        self._small = bytearray()

    def next(self) -> bytes:
        """Returns the next bytes for the transport."""
        if not self._pieces:
            self._take_small()
        piece = self._pieces.popleft()
        self._sent += len(piece)
        return piece

    def read(self) -> None:
        """The client has read all that the transport had."""
        self._size -= self._sent
        self._sent = 0
        self._usage.backlog(self._size)

    def end(self) -> None:
        """Drops what is left."""
        self._pieces.clear()
        self._small.clear()
        self._usage.backlog(0)
