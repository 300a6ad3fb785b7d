"""Who may ask Redis for a connection now: so many at once, and the others in a fair queue, as
Deferreds.

Owns the waiting. Who is next is decided in `fair_queue`, and what is done in a turn is the business
of the pool.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import defer

from .. import probes
from ..tenants.model import Tenant
from .fair_queue import FairQueue


class Turns:
    """most: how many turns there are at once."""

    def __init__(self, most: int) -> None:
        self._queue: FairQueue[defer.Deferred[None]] = FairQueue(most)
        self._beginning = False

    async def begin(self, tenant: Tenant) -> None:
        """Waits for a turn, which the caller has to end. The caller may cancel this."""
        if self._queue.begin(tenant):
            return
        probes.reached("many connections are opened at once")
        waiter: defer.Deferred[None] = defer.Deferred(lambda cancelled: self._queue.leave(tenant, cancelled))
        self._queue.wait(tenant, waiter)
        await waiter

    def end(self, tenant: Tenant) -> None:
        """A turn is over: others begin."""
        self._queue.end(tenant)
        if self._beginning:
            # a turn ended within the loop below, which goes on: else a long queue would be a deep
            # stack
            return
        self._beginning = True
        try:
            while (waiter := self._queue.next()) is not None:
                waiter.callback(None)
        finally:
            self._beginning = False

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """None of those that wait gets a turn. error: makes what each is told."""
        for waiter in self._queue.clear():
            if not waiter.called:  # one that heard it may have given up another
                waiter.errback(error())
