"""The proxy's own work for clients' commands: whose turn it is.

Owns the queue of sessions that have to wait for the work of others. Work is counted in units: one
for each inspected command, and more for one of many words. Plain commands are no work in this
sense, as one run of them costs as little as one inspected command. In each turn of the reactor, the
sessions of a tenant may use `SHARE` units together, however many they are. Then they wait. A turn
of the queue serves one session after the other, one tenant after the other, for `TURN_SECONDS`,
and the reactor serves everybody else before the next one. All clients without a password count as
one tenant. They come last, but one of them has its turn each time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from typing import Protocol

from .. import probes
from .memory import NOBODY

#: Units of a tenant's sessions in one turn of the reactor.
SHARE = 64
#: What is left when the next turn is scheduled, which makes the share whole again. It is more than
#: nothing, so that many clients with little work each do not wait for it.
LOW = SHARE // 2
#: Units of a session that has waited.
SLICE = 16
#: Units of a session that has waited, if it is not logged in.
NOBODYS_SLICE = 4
#: Words of a command that cost another unit.
WORDS = 16
#: Seconds of one turn of the queue.
TURN_SECONDS = 0.002


class Worker(Protocol):
    """The session that does the work."""

    def work_on(self) -> None:
        """Goes on, after `Share.wait`."""


class Share:
    """One tenant's share of the work. left: the units that are left in this turn of the reactor."""

    __slots__ = ("_queue", "_slice", "left", "waiting")

    def __init__(self, queue: WorkQueue, slice_: int) -> None:
        self._queue = queue
        self._slice = slice_
        self.left = SHARE
        #: sessions that wait, the first of them first
        self.waiting: dict[Worker, None] = {}

    def low(self) -> None:
        """No more than LOW is left. Called more than once in a turn, perhaps."""
        self._queue.add(self)

    def wait(self, worker: Worker) -> None:
        """Adds a session to the queue."""
        self.waiting[worker] = None
        self._queue.add(self)

    def leave(self, worker: Worker) -> None:
        """The session does not wait any more: it has ended, or belongs to another share."""
        self.waiting.pop(worker, None)

    def serve(self) -> None:
        """Lets the first session go on. It waits again, behind the others, if it has more work."""
        worker = next(iter(self.waiting))
        del self.waiting[worker]
        self.left = self._slice
        worker.work_on()


class WorkQueue:
    """The work of one process.

    seconds: a monotonic clock. call_soon: calls a function in the reactor's next turn.
    """

    def __init__(self, seconds: Callable[[], float], call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._seconds = seconds
        self._call_soon = call_soon
        self._nobody = Share(self, NOBODYS_SLICE)
        self._shares = {NOBODY: self._nobody}
        # Shares of which little is left, or for which sessions wait: the next one first.
        self._shares_low: dict[Share, None] = {}
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many sessions wait."""
        return sum(len(share.waiting) for share in self._shares_low)

    def of(self, namespace: str) -> Share:
        """The share of a tenant, or of NOBODY."""
        share = self._shares.get(namespace)
        if share is None:
            share = self._shares[namespace] = Share(self, SLICE)
        return share

    def keep(self, namespaces: Container[str]) -> None:
        """Forgets the shares of other tenants, if no session of theirs waits."""
        for namespace, share in list(self._shares.items()):
            if namespace != NOBODY and namespace not in namespaces and not share.waiting:
                del self._shares[namespace]

    def add(self, share: Share) -> None:
        """See `Share.low`."""
        self._shares_low[share] = None
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """Begins a turn of the reactor: each share is whole again, unless sessions wait for it."""
        self._scheduled = False
        shares, self._shares_low = self._shares_low, {}
        end = self._seconds() + TURN_SECONDS
        waiting = [share for share in shares if share.waiting and share is not self._nobody]
        if waiting or self._nobody.waiting:
            probes.reached("session waits for the work of others")
        while waiting and self._seconds() < end:
            share = waiting.pop(0)
            share.serve()
            if share.waiting:
                waiting.append(share)
        nobody = self._nobody
        while nobody.waiting:
            nobody.serve()
            if self._seconds() >= end:
                break
        if nobody.waiting:
            self.add(nobody)
        if waiting:  # they are served first next time
            self.add(waiting[0])
            self._shares_low = {**dict.fromkeys(waiting), **self._shares_low}
        for share in shares:
            if not share.waiting:
                share.left = SHARE


#: The share of a session that counts no work.
UNLIMITED = Share(WorkQueue(lambda: 0.0, lambda call: call()), SLICE)
UNLIMITED.left = sys.maxsize
