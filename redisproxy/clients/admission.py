"""Who is served now, who waits for a place, and who is turned away.

Owns the counts. A waiting connection is served in the order of its arrival, as soon as one that is
served leaves.
"""

from __future__ import annotations

from typing import Protocol


class Arrival(Protocol):
    """A connection that wants to be served."""

    def admitted(self) -> None:
        """It has a place now."""


class Admission:
    """places: how many are served at once; waiting_slots: how many may wait for that."""

    def __init__(self, slots: int, waiting_slots: int) -> None:
        self._slots = slots
        self._waiting_slots = waiting_slots
        self._served: set[Arrival] = set()
        # A dict for its order, and so that one which leaves need not be searched for.
        self._waiting: dict[Arrival, None] = {}

    @property
    def served(self) -> int:
        """How many have a place."""
        return len(self._served)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def arrive(self, arrival: Arrival) -> bool:
        """False: there is neither a place nor one to wait in. Else it is admitted, now or later."""
        if len(self._served) < self._slots:
            self._served.add(arrival)
            arrival.admitted()
            return True
        if len(self._waiting) < self._waiting_slots:
            self._waiting[arrival] = None
            return True
        return False

    def leave(self, arrival: Arrival) -> None:
        """It is gone, whether it was served, waited, or was turned away."""
        if arrival in self._served:
            self._served.remove(arrival)
            if self._waiting:
                following = next(iter(self._waiting))
                del self._waiting[following]
                self._served.add(following)
                following.admitted()
        else:
            self._waiting.pop(arrival, None)
