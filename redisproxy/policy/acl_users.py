"""Decides which of the proxy's ACL users, and which of their passwords, are removed from Redis.

Owns what was seen of the users in Redis, since when, and what reads of the source say about them.
This module only decides: `upstream.acl_maintenance` sends the commands. Times are seconds of one
clock, given by the caller.

Replicas of the proxy decide alone, without talking to each other, and learn of changes at different
moments. So a replica removes something from Redis only after a successful read of the source that
began after it was seen in Redis. The replica that put it there had read the source before it did
so. Therefore the later read knows at least as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from ..tenants.documents import ReadSummary
from ..tenants.model import Tenant
from . import acl

#: Full reads in a row that find no tenant for a user, before the user is removed.
READS = 2


@dataclass(slots=True)
class _Unclaimed:
    """A user without a tenant.

    namespace: of the tenant that the user belonged to; since: when the user was first seen without
    a tenant; reads: number of full reads since then that found no tenant for it; deleted: when a
    read first missed the namespace, or None; confirmed: whether a later full read missed it again.
    """

    namespace: str
    since: float
    reads: int = 0
    deleted: float | None = None
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class _Passwords:
    """All passwords of a user, in Redis's order: the oldest first. A password that is removed and
    added again becomes the last.

    hashes: see `acl.hashed`; since: when exactly these passwords were first seen.
    """

    hashes: tuple[bytes, ...]
    since: float


class Inventory:
    """The users of the namespaces with one prefix. All other users belong to somebody else, and are
    not touched.

    prefix: of the namespaces' names; interval: seconds for which a password that is not derived
    from the present master password stays valid, so that all replicas learn the present one.
    """

    def __init__(self, prefix: str, interval: float) -> None:
        self._prefix = prefix
        self._interval = interval
        self._tenants: Set[Tenant] = frozenset()
        self._namespaces: frozenset[str] | None = None
        #: by user name
        self._unclaimed: dict[str, _Unclaimed] = {}
        #: by user name: users that have a password not derived from the present master password
        self._passwords: dict[str, _Passwords] = {}
        #: when the last successful read of the master secret began
        self._master_read = float("-inf")

    # Observations.

    def claim(self, tenants: Set[Tenant], now: float) -> None:
        """Replaces the set of tenants."""
        before, self._tenants = self._tenants, tenants
        for tenant in before - tenants:
            self._unclaimed.setdefault(acl.username(tenant), _Unclaimed(tenant.namespace, now))
        for tenant in tenants - before:
            self._unclaimed.pop(acl.username(tenant), None)

    def listed(self, names: Iterable[str], now: float) -> list[str]:
        """Takes the list of all users that Redis has. Returns those that are the proxy's."""
        ours: dict[str, Tenant] = {}
        for name in names:
            tenant = acl.owner(name)
            if tenant is not None and tenant.namespace.startswith(self._prefix):
                ours[name] = tenant
        for known in (self._unclaimed, self._passwords):
            for name in known.keys() - ours.keys():
                del known[name]
        for name, tenant in ours.items():
            if tenant not in self._tenants:
                self._unclaimed.setdefault(name, _Unclaimed(tenant.namespace, now))
        return list(ours)

    def take_read(self, summary: ReadSummary, began: float, now: float) -> None:
        """Takes the result of a read of the source. `claim` must be called before, with the tenants
        that the read found.

        began: when the read began.
        """
        if summary.whole and summary.master:
            self._master_read = began
        if summary.namespaces is None:
            return
        before, self._namespaces = self._namespaces, summary.namespaces
        deleted = (before or frozenset()) - summary.namespaces
        for user in self._unclaimed.values():
            namespace = user.namespace
            if namespace in summary.namespaces:
                user.deleted, user.confirmed = None, False
            elif namespace in deleted:
                user.deleted = now
            elif summary.whole and user.deleted is not None and began >= user.deleted:
                user.confirmed = True
            if summary.whole and namespace not in summary.uncertain:
                # A read that began before the user was seen counts as the first at most.
                user.reads = user.reads + 1 if began >= user.since else 1

    # Decisions.

    def removable(self) -> tuple[list[str], list[str]]:
        """The users to remove: (always, only if no connection uses them).

        A user is in the first list if its namespace was deleted, and a later full read has not
        found it again. If another replica served a new namespace of that name, the later read would
        have found it.
        """
        certain = [name for name, user in self._unclaimed.items() if user.confirmed]
        unless_used = [
            name
            for name, user in self._unclaimed.items()
            if not user.confirmed and (user.deleted is not None or user.reads >= READS)
        ]
        return certain, unless_used

    def removed(self, names: Iterable[str]) -> None:
        """Redis does not have these users any more."""
        for name in names:
            self._unclaimed.pop(name, None)
            self._passwords.pop(name, None)

    def password_rules(self, name: str, hashes: Sequence[bytes], own: bytes, now: float) -> list[bytes]:
        """The rules for the next ``ACL SETUSER name``, so that in the end the user has only its
        present password; empty if there is nothing to do now.

        hashes: of all passwords that the user has now, in Redis's order; own: the hash of the
        password that is derived from the present master password. The rules remove a password that
        the user has. If somebody else removed it or the user meanwhile, Redis refuses all rules.
        """
        others = [each for each in hashes if each != own]
        if not others:
            self._passwords.pop(name, None)
            return []  # with no password at all nobody logs in: the next provisioning adds one
        if own not in hashes:
            self._passwords[name] = _Passwords((*hashes, own), now)
            # Removing the last password and adding it again changes nothing, not even the order.
            return [b"!" + hashes[-1], b"#" + hashes[-1], b"#" + own]
        seen = self._passwords.get(name)
        if seen is None or seen.hashes != tuple(hashes):
            self._passwords[name] = _Passwords(tuple(hashes), now)
            return []
        if not self._is_due(seen, now):
            return []
        return [b"#" + own, *(b"!" + each for each in others)]

    def settled(self, name: str) -> None:
        """Redis accepted the rules that remove the user's other passwords, or somebody else changed
        the user first.
        """
        self._passwords.pop(name, None)

    def due(self, now: float) -> list[str]:
        """The users to check because the time of their other passwords is over."""
        return [name for name, seen in self._passwords.items() if self._is_due(seen, now)]

    def next_due(self) -> float | None:
        """When `due` will next return a user, in seconds; None if that is not known.

        A user whose passwords were seen after the last successful read of the master secret needs
        another read first.
        """
        known = [seen.since for seen in self._passwords.values() if seen.since <= self._master_read]
        return min(known) + self._interval if known else None

    def _is_due(self, seen: _Passwords, now: float) -> bool:
        return now >= seen.since + self._interval and seen.since <= self._master_read
