"""Limits what runs at once for all tenants together. In front of that limit, each tenant has a
queue.

Owns who is next: the first waiter of the tenant that has the fewest running. Tenants that have
equally many take turns. So if one tenant has a thousand waiters, another tenant's first waiter is
delayed by one turn. Knows no time and no Deferred: the caller decides what a waiter is, and starts
it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from ..tenants.model import Tenant

Waiter = TypeVar("Waiter", bound=Hashable)


class FairQueue(Generic[Waiter]):
    """A limit with a queue for each tenant. most: how many may run at once.

    `begin`, `end`, `wait`, `leave` and `next` take constant time, however many tenants and waiters
    there are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[Tenant, int] = {}
        self._total = 0
        self._waiting: dict[Tenant, OrderedDict[Waiter, None]] = {}
        # The tenants that have waiters, by how many they have running. Within a level the next
        # tenant is the first. The numbers add up to at most `most`, so there are few levels: at
        # most 23 if `most` is 256.
        self._levels: dict[int, OrderedDict[Tenant, None]] = {}

    def __len__(self) -> int:
        """The number of waiters."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """The number that are running."""
        return self._total

    def begin(self, tenant: Tenant) -> bool:
        """Starts one more for the tenant. Returns False if the limit is reached: the caller has to
        `wait`.
        """
        if self._waiting or self._total >= self._most:
            return False
        self._count(tenant, 1)
        return True

    def end(self, tenant: Tenant) -> None:
        """Ends one that ran for the tenant. The caller must then call `next`."""
        self._count(tenant, -1)

    def wait(self, tenant: Tenant, waiter: Waiter) -> None:
        """Adds a waiter to the end of its tenant's queue."""
        waiters = self._waiting.get(tenant)
        if waiters is None:
            waiters = self._waiting[tenant] = OrderedDict()
            self._enter_level(tenant)
        waiters[waiter] = None

    def leave(self, tenant: Tenant, waiter: Waiter) -> None:
        """Removes a waiter from its queue, if it is there."""
        waiters = self._waiting.get(tenant)
        if waiters is not None and waiter in waiters:
            del waiters[waiter]
            if not waiters:
                self._leave_level(tenant)
                del self._waiting[tenant]

    def next(self) -> Waiter | None:
        """Starts the next waiter, and returns it. None if nobody waits, or the limit is reached."""
        if not self._levels or self._total >= self._most:
            return None
        tenant = next(iter(self._levels[min(self._levels)]))
        waiter, _ = self._waiting[tenant].popitem(last=False)
        if not self._waiting[tenant]:
            self._leave_level(tenant)
            del self._waiting[tenant]
        self._count(tenant, 1)
        return waiter

    def clear(self, tenant: Tenant | None = None) -> list[Waiter]:
        """Empties all queues, or that of one tenant. Returns the waiters that were in them."""
        if tenant is not None:
            waiters = self._waiting.get(tenant, OrderedDict())
            if waiters:
                self._leave_level(tenant)
                del self._waiting[tenant]
            return list(waiters)
        found = [waiter for waiters in self._waiting.values() for waiter in waiters]
        self._waiting.clear()
        self._levels.clear()
        return found

    def _count(self, tenant: Tenant, more: int) -> None:
        """Adds to the number that the tenant has running, and moves it to the end of its level."""
        waits = tenant in self._waiting
        if waits:
            self._leave_level(tenant)
        self._total += more
        running = self._running.get(tenant, 0) + more
        if running:
            self._running[tenant] = running
        else:
            del self._running[tenant]
        if waits:
            self._enter_level(tenant)

    def _enter_level(self, tenant: Tenant) -> None:
        self._levels.setdefault(self._running.get(tenant, 0), OrderedDict())[tenant] = None

    def _leave_level(self, tenant: Tenant) -> None:
        number = self._running.get(tenant, 0)
        level = self._levels[number]
        del level[tenant]
        if not level:
            del self._levels[number]
