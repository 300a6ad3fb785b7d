"""Shares the number of clients of each process in memory, so that new clients spread evenly.

Owns the decision which process accepts the next connection. All processes wait at one socket. The
first to wake would accept the connection, and under load that is the same process again and again.
So a process that has more clients than another leaves a new connection to the others for a moment.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

#: A process with up to so many clients more than another one still accepts the next.
SLACK = 1
_COUNT = struct.Struct("Q")
# Instead of a count: this process accepts no clients.
_ABSENT = 2**64 - 1


def shared_memory(processes: int) -> int:
    """Returns a descriptor of shared memory for so many processes, none of which accepts clients
    yet. The caller owns the descriptor.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("redisproxy-balance")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, _COUNT.pack(_ABSENT) * processes)
    return descriptor


class Balance:
    """The numbers of clients. descriptor: what `shared_memory` returned, here or in the process
    that this one inherited it from.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)

    def has(self, number: int, clients: int | None) -> None:
        """Sets the number of clients of one process.

        number: of the process, from 1; clients: None if the process accepts none.
        """
        _COUNT.pack_into(self._memory, (number - 1) * _COUNT.size, _ABSENT if clients is None else clients)

    def may_take(self, number: int, slots: int, waited: bool) -> bool:
        """Whether this process should accept the next connection.

        number: of this process, from 1; slots: of each process; waited: whether the other processes
        have had their chance. If they have, this process accepts, unless it has no free slot and
        another process has one: a client waits or is turned away only if no process has a free
        slot.
        """
        counts = [count for (count,) in _COUNT.iter_unpack(self._memory)]
        mine, least = counts[number - 1], min(counts)
        if least < slots <= mine:
            return False
        return waited or mine <= least + SLACK
