"""Which connections are served, which wait for a slot, and which make room for others.

Owns the slots, the queue for them, and the room for log-ins. A session takes a slot when its
password was right, so that it is known whose it is. Until then a connection only needs one of the
places that sessions and waiting ones leave, and a part of these is always left. So neither one
tenant's sessions nor connections without a password keep another tenant from logging in.

Rules, each only where nothing is free:

- A connection that arrives takes the place of one that has not logged in: of the source address
  that has most of these, the oldest one.
- A log-in takes the slot of the tenant that has most, if that has at least two more than its own
  tenant. Otherwise it waits. As soon as a slot is free, a waiting one of the tenant with the
  fewest gets it.
- If the queue is full, the last one of the tenant that waits most is refused. A log-in of that
  tenant itself is refused.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import Any, Protocol

from .. import bounds, probes
from ..tenants.model import Tenant
from ..tenants.shares import Shares


class Arrival(Hashable, Protocol):
    """A connection that wants to be served."""

    #: where it is, and under which source or tenant: `Admission` alone sets these; None: nowhere
    group: Shares[Any, Arrival] | None
    owner: Hashable

    @property
    def source(self) -> str:
        """The source address, as `tenants.login_backoff.source` groups addresses."""

    @property
    def rank(self) -> int:
        """How much is lost if its session ends: 0 is little. See `presence.Presence`."""

    def admitted(self) -> None:
        """Its session has a slot now."""

    def refused(self) -> None:
        """Its session gets no slot."""

    def make_room(self) -> None:
        """It has to go now: it has not logged in, and another connection needs its place."""

    def give_way(self) -> None:
        """Its session has to end: its tenant has most, and another tenant needs the slot."""

    def cut(self) -> None:
        """It had to go, and takes too long to do so."""


class Admission:
    """Gives slots to sessions, and places to connections.

    slots: how many sessions are served at once; waiting_slots: how many may wait for a slot.
    """

    def __init__(self, slots: int, waiting_slots: int) -> None:
        self._slots = slots
        self._waiting_slots = waiting_slots
        self._room = room_for_log_ins(slots)
        # Each connection is in one of these, or it is gone.
        self._unauthenticated: Shares[str, Arrival] = Shares()
        self._waiting: Shares[Tenant, Arrival] = Shares()
        self._served: Shares[Tenant, Arrival] = Shares()
        # Those that had to go and are still closing. The first has been there longest.
        self._leaving: dict[Arrival, None] = {}
        # With more connections, one of them has to go.
        self._most = slots + waiting_slots + self._room

    @property
    def served(self) -> int:
        """Number of sessions that have a slot."""
        return self._served.total

    @property
    def waiting(self) -> int:
        """Number of sessions that wait for a slot."""
        return self._waiting.total

    @property
    def unauthenticated(self) -> int:
        """Number of connections that have not logged in."""
        return self._unauthenticated.total

    def arrive(self, arrival: Arrival) -> None:
        """Gives a connection a place. Another one that has not logged in may have to go."""
        self._put(arrival, self._unauthenticated, arrival.source)
        if self._unauthenticated.total + self._waiting.total + self._served.total > self._most:
            probes.reached("connection without a log-in makes room for a newer one")
            (first,) = islice(self._unauthenticated.of(self._unauthenticated.largest()), 1)
            self._forget(first)
            self._leaves(first)
            first.make_room()

    def moved(self, arrival: Arrival) -> None:
        """The source address of a connection is known better now."""
        if arrival.group is self._unauthenticated:
            self._forget(arrival)
            self._put(arrival, self._unauthenticated, arrival.source)

    def log_in_at_once(self, arrival: Arrival, tenant: Tenant) -> bool:
        """Gives a session a slot if one is free. Returns whether it has one now."""
        if arrival.group is self._served:
            return True
        if self._served.total >= self._slots:
            return False
        self._forget(arrival)
        self._put(arrival, self._served, tenant)
        return True

    def log_in(self, arrival: Arrival, tenant: Tenant) -> None:
        """Gives a session a slot, now or later, or refuses it."""
        if self.log_in_at_once(arrival, tenant):
            arrival.admitted()
            return
        self._forget(arrival)
        self._put(arrival, self._waiting, tenant)
        if not self._even_out(tenant) and self._waiting.total > self._waiting_slots:
            longest = self._waiting.largest()
            if len(self._waiting.of(longest)) <= len(self._waiting.of(tenant)):
                longest = tenant
            last = next(reversed(self._waiting.of(longest)))
            self.withdraw(last)
            last.refused()

    def _even_out(self, tenant: Tenant) -> bool:
        """Gives a waiting tenant a slot of the tenant that has most, if that has two more. Returns
        whether it did so.
        """
        most = self._served.largest()
        if len(self._served.of(most)) <= len(self._served.of(tenant)) + 1:
            return False
        probes.reached("session gives its slot to another tenant")
        victim = self._least_lost(self._served.of(most))
        self._forget(victim)
        self._leaves(victim)
        victim.give_way()
        self._serve_next(tenant)
        return True

    def withdraw(self, arrival: Arrival) -> None:
        """A session does not wait for a slot any more: it ended, or was refused."""
        if arrival.group is self._waiting:
            self._forget(arrival)
            self._put(arrival, self._unauthenticated, arrival.source)

    def belongs_to(self, arrival: Arrival, tenant: Tenant) -> None:
        """A session that has a slot is logged in as this tenant now."""
        if arrival.group is self._served and arrival.owner is not tenant:
            self._forget(arrival)
            self._put(arrival, self._served, tenant)
            if self._waiting.total:
                self._even_out(self._fewest())

    def leave(self, arrival: Arrival) -> None:
        """The connection is gone, whatever it was."""
        if self._leaving:
            self._leaving.pop(arrival, None)
        self._forget(arrival)
        if self._waiting.total and self._served.total < self._slots:
            self._serve_next(self._fewest())

    def _fewest(self) -> Tenant:
        """Returns the waiting tenant that has the fewest slots."""
        return min(self._waiting.owners, key=lambda tenant: len(self._served.of(tenant)))

    def _least_lost(self, arrivals: dict[Arrival, None]) -> Arrival:
        """Of those that logged in first, the first one with whose session least is lost."""
        compared = list(islice(arrivals, bounds.SESSIONS_COMPARED))
        found, least = compared[0], compared[0].rank
        for arrival in compared:
            if not least:
                break
            if (rank := arrival.rank) < least:
                found, least = arrival, rank
        return found

    def _leaves(self, arrival: Arrival) -> None:
        """Bounds those that had to go and are not gone, because they still have a socket."""
        self._leaving[arrival] = None
        if len(self._leaving) > self._room:
            probes.reached("connection that makes room is cut off")
            first = next(iter(self._leaving))
            del self._leaving[first]
            first.cut()

    def _serve_next(self, tenant: Tenant) -> None:
        following = next(iter(self._waiting.of(tenant)))
        self._forget(following)
        self._put(following, self._served, tenant)
        following.admitted()

    # Where each connection is.

    def _put(self, arrival: Arrival, group: Shares[Any, Arrival], owner: Hashable) -> None:
        arrival.group, arrival.owner = group, owner
        group.add(owner, arrival)

    def _forget(self, arrival: Arrival) -> None:
        """Removes a connection from where it is, if it is not leaving."""
        group, arrival.group = arrival.group, None
        if group is not None:
            group.remove(arrival.owner, arrival)


def room_for_log_ins(slots: int) -> int:
    """Returns how many connections have a place besides those that have a slot or wait for one."""
    return max(bounds.LOG_IN_ROOM, slots // bounds.LOG_IN_ROOM_PART)
