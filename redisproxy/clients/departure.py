"""A client's end of file, which is handled when it is its tenant's turn.

The end of a session costs as much as several commands, and if another session waits for its slot,
that one's log-in as well. A process that ends with a thousand connections ends all of them at once.
Owns the wait for that turn. Must not know what the end of a client means.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import bounds, probes
from ..tenants.work import Budget


class Departure:
    """One client's end of file. handle: handles it."""

    __slots__ = ("_budget", "_handle")

    def __init__(self, budget: Budget, handle: Callable[[], object]) -> None:
        self._handle = handle
        # In whose queue it waits.
        self._budget: Budget | None = budget
        budget.wait(self)

    def work_on(self) -> None:
        """See `tenants.work.Worker`."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.spend(bounds.WORK_END)
            self._handle()

    def end(self) -> None:
        """The connection is gone."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.leave(self)


def depart(budget: Budget, handle: Callable[[], object]) -> Departure | None:
    """Handles a client's end of file: now if anything is left of this budget, else in its turn.

    Returns what waits for that turn, if anything.
    """
    if budget.units > 0:
        budget.spend(bounds.WORK_END)
        handle()
        return None
    probes.reached("client's end of file waits for its turn")
    return Departure(budget, handle)
