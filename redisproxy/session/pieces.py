"""Bytes that wait, in few pieces.

Owns their order and their size. Many small ones are joined, because each piece would cost as much
as an object. They are never joined as a whole, which would need as much memory again.
"""

from __future__ import annotations

from collections import deque

from .. import bounds


class Pieces:
    """Bytes that wait. size: how many."""

    __slots__ = ("_pieces", "_small", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        # The last ones, if they are small.
        self._small = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Adds bytes, behind all others."""
        self.size += len(data)
        if len(data) < bounds.SMALL_READ_BYTES:
            self._small += data
            if len(self._small) >= bounds.READ_BYTES:
                self._take_small()
        else:
            if self._small:
                self._take_small()
            self._pieces.append(data)

    def put_back(self, data: bytes) -> None:
        """Adds bytes, before all others."""
        self.size += len(data)
        self._pieces.appendleft(data)

    def _take_small(self) -> None:
        self._pieces.append(bytes(self._small))
        self._small = bytearray()

    def next(self, most: int | None = None) -> bytes:
        """Removes and returns the first piece. most: no more bytes than that."""
        if not self._pieces:
            self._take_small()
        piece = self._pieces.popleft()
        self.size -= len(piece)
        if most is not None and len(piece) > most:
            self.put_back(piece[most:])
            piece = piece[:most]
        return piece

    def clear(self) -> None:
        """Drops all."""
        self._pieces.clear()
        self._small.clear()
        self.size = 0
