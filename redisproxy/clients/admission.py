"""Which connections are served now, which wait for a slot, and which are turned away.

Owns the slots and the queue. As soon as a served connection leaves, the connection that has waited
longest gets its slot.
"""

from __future__ import annotations

from typing import Protocol


class Arrival(Protocol):
    """A connection that wants a slot."""

    def admitted(self) -> None:
        """The connection has a slot now."""


class Admission:
    """Gives slots to connections.

    slots: how many connections are served at once; waiting_slots: how many may wait for a slot.
    """

    def __init__(self, slots: int, waiting_slots: int) -> None:
        self._slots = slots
        self._waiting_slots = waiting_slots
        self._served: set[Arrival] = set()
        # A dict keeps the order, and removes a connection that leaves without a search.
        self._waiting: dict[Arrival, None] = {}

    @property
    def served(self) -> int:
        """Number of connections that have a slot."""
        return len(self._served)

    @property
    def waiting(self) -> int:
        """Number of connections that wait for a slot."""
        return len(self._waiting)

    def arrive(self, arrival: Arrival) -> bool:
        """Admits a connection, now or later. Returns False if all slots and the queue are full."""
        if len(self._served) < self._slots:
            self._served.add(arrival)
            arrival.admitted()
            return True
        if len(self._waiting) < self._waiting_slots:
            self._waiting[arrival] = None
            return True
        return False

    def leave(self, arrival: Arrival) -> None:
        """The connection is gone, whether it was served, waited, or was turned away."""
        if arrival in self._served:
            self._served.remove(arrival)
            if self._waiting:
                following = next(iter(self._waiting))
                del self._waiting[following]
                self._served.add(following)
                following.admitted()
        else:
            self._waiting.pop(arrival, None)
