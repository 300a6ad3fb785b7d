"""Charges tenants for what the kernel keeps for their clients' sockets, and gives memory back that
clients do not use any more.

Owns when that is checked. The kernel gives no notice, and a client that does not read looks like
one that reads until its buffers are full. While all sockets of the machine use little, nothing is
checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from twisted.internet import task
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .. import bounds, probes
from ..net import allocator
from ..net.socket_buffers import used_by_all
from ..ops.bugs import bug
from ..tenants.memory import Memory

#: Checks after which memory is given back once more.
_AGAIN = 12


class Client(Protocol):
    """A client's connection."""

    def charge_kernel(self) -> int:
        """Charges what the kernel keeps for its sockets. Returns these bytes."""


class KernelWatch:
    """Looks at the sockets of these clients, and at the memory that they use."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, clients: Iterable[Client], memory: Memory) -> None:
        self._clients = clients
        self._memory = memory
        # The most that clients used since memory was given back, in bytes.
        self._most = 0
        # Checks until memory is given back once more: connections to Redis end later.
        self._again = 0
        self._ends = False
        self._loop = task.LoopingCall(self._check)
        self._loop.clock = clock
        # Whether any client was charged at the last check.
        self._charged = False

    def start(self) -> None:
        """Looks from now on."""
        self._ends = False
        if not self._loop.running:
            self._loop.start(bounds.KERNEL_CHECK_SECONDS, now=False).addErrback(
                bug(self._log, "watching the kernel's memory")
            )

    def stop(self) -> None:
        """There is no client: looks no more, once memory was given back."""
        self._ends = True
        self._release()
        self._end()

    def _end(self) -> None:
        if self._ends and not self._again and self._loop.running:
            self._loop.stop()

    def _release(self) -> None:
        """Gives memory back if clients used much, and do not any more."""
        size = self._memory.size
        self._most = max(self._most, size)
        if self._most - size > bounds.RELEASED_BYTES:
            probes.reached("memory is given back")
            self._most = size
            self._again = _AGAIN
            allocator.release()
        elif self._again:
            self._again -= 1
            if not self._again:
                allocator.release()

    def _check(self) -> None:
        self._release()
        self._end()
        if not self._charged and used_by_all() < bounds.KERNEL_FREE_BYTES:
            return
        self._charged = sum([client.charge_kernel() for client in list(self._clients)]) > 0
        if self._charged:
            probes.reached("kernel memory of sockets is charged")
