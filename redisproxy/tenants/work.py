"""The proxy's own work for clients' commands: whose turn it is.

Owns the queue of sessions that have to wait for the work of others. Work is counted in units: one
for each inspected command, and more for one of many words. Plain commands are no work in this
sense, as one run of them costs as little as one inspected command. In each turn of the reactor, the
sessions of a tenant may use WORK_BUDGET units together, however many they are. Then they wait. A
turn of the queue serves one session after the other, one tenant after the other, for
WORK_TURN_SECONDS, and the reactor serves everybody else before the next one. All clients without a
password count as one tenant. They come last, but have a share of each turn, and of them those that
have sent little come first: who logs in does not wait for who only sends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from typing import Protocol

from .. import bounds, probes
from .memory import NOBODY


class Worker(Protocol):
    """The session that does the work."""

    def work_on(self) -> None:
        """Goes on, after `Budget.wait`."""


class Budget:
    """The work of one tenant's sessions. units: what is left in this turn of the reactor."""

    __slots__ = ("_queue", "units", "waiting")

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self.units = bounds.WORK_BUDGET
        #: sessions that wait, the first of them first
        self.waiting: dict[Worker, None] = {}

    def use(self, words: int) -> None:
        """A session handles an inspected command of so many words."""
        self.spend(1 + words // bounds.WORK_WORDS)

    def spend(self, units: int) -> None:
        """So much work is done."""
        self.units -= units
        # Before nothing is left: many clients with little work each must not wait for that turn.
        if self.units <= bounds.WORK_BUDGET // 2:
            self._queue.add(self)

    def wait(self, worker: Worker, new: bool = False) -> None:
        """Adds a session to the queue. new: its client has sent little so far."""
        self.waiting[worker] = None
        self._queue.add(self)

    def leave(self, worker: Worker) -> None:
        """The session does not wait any more: it has ended, or belongs to another budget."""
        self.waiting.pop(worker, None)

    def serve(self, units: int) -> int:
        """Lets the first session go on. It waits again, behind the others, if it has more work.

        units: how many it has. Returns how many it has used.
        """
        worker = self._next()
        self.leave(worker)
        self.units = units
        worker.work_on()
        return units - self.units

    def _next(self) -> Worker:
        """The session whose turn comes next."""
        return next(iter(self.waiting))


class _Nobody(Budget):
    """The work of all clients without a password."""

    __slots__ = ("_newcomers",)

    def __init__(self, queue: WorkQueue) -> None:
        super().__init__(queue)
        # Those of `waiting` that are new: they may be about to log in.
        self._newcomers: dict[Worker, None] = {}

    def wait(self, worker: Worker, new: bool = False) -> None:
        if new:
            self._newcomers[worker] = None
        super().wait(worker)

    def leave(self, worker: Worker) -> None:
        self._newcomers.pop(worker, None)
        super().leave(worker)

    def _next(self) -> Worker:
        return next(iter(self._newcomers or self.waiting))


class WorkQueue:
    """The work of one process.

    seconds: a monotonic clock. call_soon: calls a function in the reactor's next turn.
    """

    def __init__(self, seconds: Callable[[], float], call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._seconds = seconds
        self._call_soon = call_soon
        #: the budget of NOBODY
        self.nobody: Budget = _Nobody(self)
        self._budgets: dict[str, Budget] = {NOBODY: self.nobody}
        # Budgets of which little is left, or for which sessions wait: the next one first.
        self._low: dict[Budget, None] = {}
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many sessions wait."""
        return sum(len(budget.waiting) for budget in self._low)

    def of(self, namespace: str) -> Budget:
        """The budget of a tenant, or of NOBODY."""
        budget = self._budgets.get(namespace)
        if budget is None:
            budget = self._budgets[namespace] = Budget(self)
        return budget

    def keep(self, namespaces: Container[str]) -> None:
        """Forgets the budgets of other tenants, if no session of theirs waits."""
        for namespace, budget in list(self._budgets.items()):
            if namespace != NOBODY and namespace not in namespaces and not budget.waiting:
                del self._budgets[namespace]

    def add(self, budget: Budget) -> None:
        """Little is left of a budget, or a session waits for it: has a turn soon."""
        self._low[budget] = None
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """Begins a turn of the reactor: each budget is whole again, unless sessions wait for it."""
        self._scheduled = False
        budgets, self._low = self._low, {}
        end, units = self._seconds() + bounds.WORK_TURN_SECONDS, bounds.WORK_TURN_UNITS
        waiting = [budget for budget in budgets if budget.waiting and budget is not self.nobody]
        if waiting or self.nobody.waiting:
            probes.reached("session waits for the work of others")
        while waiting and units > 0 and self._seconds() < end:
            budget = waiting.pop(0)
            units -= budget.serve(bounds.WORK_SLICE)
            if budget.waiting:
                waiting.append(budget)
        nobody = self.nobody
        units = max(units, bounds.WORK_TURN_UNITS // 4)
        end = max(end, self._seconds() + bounds.WORK_TURN_SECONDS / 4)
        while nobody.waiting:
            units -= nobody.serve(bounds.UNAUTHENTICATED_WORK_SLICE)
            if units <= 0 or self._seconds() >= end:
                break
        if nobody.waiting:
            self.add(nobody)
        if waiting:  # they are served first next time
            self.add(waiting[0])
            self._low = {**dict.fromkeys(waiting), **self._low}
        for budget in budgets:
            if not budget.waiting:
                budget.units = bounds.WORK_BUDGET


#: The budget of a session that counts no work.
UNLIMITED = Budget(WorkQueue(lambda: 0.0, lambda call: call()))
UNLIMITED.units = sys.maxsize
