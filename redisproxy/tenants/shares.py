"""Who has how much: members by their owner, and which owner has most.

Knows no time and no network. `admission` and `crowd` decide what an owner is: a tenant, or a source
address.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)
Member = TypeVar("Member", bound=Hashable)

_NOTHING: dict[Any, None] = {}


class Shares(Generic[Owner, Member]):
    """Members by owner. `add` and `remove` take constant time, however many there are.

    While nobody asks for the largest owner, nothing is sorted: without pressure nobody does.
    """

    def __init__(self) -> None:
        self._owned: dict[Owner, dict[Member, None]] = {}
        # Owners by how many members they have. There are few levels: at most 63 for 2,000 members.
        # None: nobody has asked for a while.
        self._levels: dict[int, OrderedDict[Owner, None]] | None = None
        # With fewer members than that the pressure is over.
        self._least = 0
        #: the number of members
        self.total = 0

    @property
    def owners(self) -> dict[Owner, dict[Member, None]]:
        """The owners that have members, with these. Only to be read."""
        return self._owned

    def of(self, owner: Owner) -> dict[Member, None]:
        """Returns an owner's members, the first that was added first. Only to be read."""
        return self._owned.get(owner, _NOTHING)

    def largest(self) -> Owner:
        """Returns the owner with the most members; of several, the one that had more last, else
        the one that has so many for the longest time. Raises ValueError if there are no members.

        The first call takes time for each owner.
        """
        levels = self._levels
        if levels is None:
            levels = self._levels = {}
            self._least = self.total // 2
            for owner, owned in self._owned.items():
                levels.setdefault(len(owned), OrderedDict())[owner] = None
        return next(iter(levels[max(levels)]))

    def add(self, owner: Owner, member: Member) -> None:
        """Adds a member, as the owner's last."""
        owned = self._owned.get(owner)
        if owned is None:
            owned = self._owned[owner] = {}
        if self._levels is not None:
            self._move(self._levels, owner, len(owned), len(owned) + 1)
        owned[member] = None
        self.total += 1

    def remove(self, owner: Owner, member: Member) -> None:
        """Removes a member. Raises KeyError if the owner does not have it."""
        owned = self._owned[owner]
        del owned[member]
        self.total -= 1
        if self._levels is not None:
            self._move(self._levels, owner, len(owned) + 1, len(owned))
            if self.total < self._least:
                self._levels = None
        if not owned:
            del self._owned[owner]

    @staticmethod
    def _move(levels: dict[int, OrderedDict[Owner, None]], owner: Owner, before: int, after: int) -> None:
        """Moves an owner to another level. 0 is none."""
        if before:
            level = levels[before]
            del level[owner]
            if not level:
                del levels[before]
        if after:
            level = levels.setdefault(after, OrderedDict())
            level[owner] = None
            if after < before:
                level.move_to_end(owner, last=False)
