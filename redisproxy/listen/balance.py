"""How many clients each of several processes has, in memory that they share.

Owns who takes the next connection. All wait at one socket, and the first to wake would take it:
under load that is the same one again and again. So a process that has more clients than another
lets a new one wait, for a moment.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

#: How many clients more than another process one may have, and still take the next.
SLACK = 1
_COUNT = struct.Struct("Q")
# In place of the count of a process that takes none.
_ABSENT = 2**64 - 1


def shared_memory(processes: int) -> int:
    """A descriptor of memory for so many processes, none of which takes clients yet. It is the
    caller's.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("redisproxy-balance")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, _COUNT.pack(_ABSENT) * processes)
    return descriptor


class Balance:
    """The counts. descriptor: what `shared_memory` gave, or another process inherited from it."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)

    def has(self, number: int, clients: int | None) -> None:
        """How many a process has, None if it takes none. number: of the process, from 1 on."""
        _COUNT.pack_into(self._memory, (number - 1) * _COUNT.size, _ABSENT if clients is None else clients)

    def may_take(self, number: int, slots: int, waited: bool) -> bool:
        """Whether no other process should take the next one.

        slots: of each process; waited: whether the others have had their chance. That settles it,
        unless this process has no slot left and another has: only who finds none anywhere is to
        wait, or to be turned away.
        """
        counts = [count for (count,) in _COUNT.iter_unpack(self._memory)]
        mine, least = counts[number - 1], min(counts)
        if least < slots <= mine:
            return False
        return waited or mine <= least + SLACK
