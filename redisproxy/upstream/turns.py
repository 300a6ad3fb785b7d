"""Gives turns to callers that need a connection to Redis: so many at once, the others wait.

Owns the waiting, as Deferreds. `fair_queue` decides who is next; `pool` decides what is done in a
turn.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import defer

from .. import probes
from ..tenants.model import Tenant
from .fair_queue import FairQueue


class Turns:
    """Turns that callers wait for. most: how many there are at once."""

    def __init__(self, most: int) -> None:
        self._queue: FairQueue[defer.Deferred[None]] = FairQueue(most)
        self._beginning = False

    async def begin(self, tenant: Tenant) -> None:
        """Waits for a turn, which the caller must end. The caller may cancel this."""
        if self._queue.begin(tenant):
            return
        probes.reached("many connections are opened at once")
        waiter: defer.Deferred[None] = defer.Deferred(lambda cancelled: self._queue.leave(tenant, cancelled))
        self._queue.wait(tenant, waiter)
        await waiter

    def end(self, tenant: Tenant) -> None:
        """Ends a turn, and begins those of waiters."""
        self._queue.end(tenant)
        if self._beginning:
            # This turn ended within the loop below, which goes on. Otherwise a long queue would
            # make a deep stack.
            return
        self._beginning = True
        try:
            while (waiter := self._queue.next()) is not None:
                waiter.callback(None)
        finally:
            self._beginning = False

    def fail_all(self, error: Callable[[], Exception], tenant: Tenant | None = None) -> None:
        """Fails all waiters, or those of one tenant. error: makes the exception for each."""
        for waiter in self._queue.clear(tenant):
            if not waiter.called:  # a waiter that failed may have cancelled another
                waiter.errback(error())
