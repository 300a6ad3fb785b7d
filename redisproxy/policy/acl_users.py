"""Which of the proxy's ACL users, and which of their passwords, Redis has to lose.

Owns what was seen of them in Redis, since when, and what reads of the source say about it. It
decides; who asks Redis is `upstream.acl_maintenance`. Times are seconds of one clock, given by the
caller.

Replicas of the proxy decide alone, without talking, and learn of changes at different moments. So
nothing is removed for what was known before it was seen in Redis, but only for a read of the source
that began later and succeeded: whoever put it there had read the source before that, so this read
knows as much as that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from ..tenants.documents import ReadSummary
from ..tenants.model import Tenant
from . import acl

#: Whole reads in a row that find no tenant for a user, before it is removed.
READS = 2


@dataclass(slots=True)
class _Unclaimed:
    """A user without a tenant.

    namespace: whose tenant it was; since: when it was seen; reads: whole reads that ended since
    then and found no tenant for it; deleted: when its namespace was seen to be deleted, None if it
    was not; confirmed: whether a later read has found the same.
    """

    namespace: str
    since: float
    reads: int = 0
    deleted: float | None = None
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class _Passwords:
    """All passwords of a user, in Redis's order, oldest first: one that is removed and comes back
    is the last.

    since: when they were first seen like this.
    """

    hashes: tuple[bytes, ...]
    since: float


class Inventory:
    """The users of the namespaces with one prefix. All others belong to somebody else, and are left
    alone.

    prefix: what namespaces begin with; interval: seconds for which a password that does not follow
    from the present master password goes on, so that all replicas learn of the present one.
    """

    def __init__(self, prefix: str, interval: float) -> None:
        self._prefix = prefix
        self._interval = interval
        self._tenants: Set[Tenant] = frozenset()
        self._namespaces: frozenset[str] | None = None
        #: by user name
        self._unclaimed: dict[str, _Unclaimed] = {}
        #: by user name: of those that have another password than that of the present master
        #: password
        self._passwords: dict[str, _Passwords] = {}
        #: when the last read of the master secret began that succeeded
        self._master_read = float("-inf")

    # What is learnt.

    def claim(self, tenants: Set[Tenant], now: float) -> None:
        """These are all tenants from now on."""
        before, self._tenants = self._tenants, tenants
        for tenant in before - tenants:
            self._unclaimed.setdefault(acl.username(tenant), _Unclaimed(tenant.namespace, now))
        for tenant in tenants - before:
            self._unclaimed.pop(acl.username(tenant), None)

    def listed(self, names: Iterable[str], now: float) -> list[str]:
        """Redis has just these users. Returns which of them are ours."""
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
        """The source was read. `claim` has had the tenants that follow. began: when that read
        began.
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
                # One that began before the user was seen can only be the first.
                user.reads = user.reads + 1 if began >= user.since else 1

    # What follows.

    def removable(self) -> tuple[list[str], list[str]]:
        """Users to be removed: those for certain, whatever uses them, and those unless a connection
        uses them.

        Certain are those whose namespace was seen to be deleted, and still was in a later read: a
        namespace of the same name that another replica serves by now would be known.
        """
        certain = [name for name, user in self._unclaimed.items() if user.confirmed]
        unless_used = [
            name
            for name, user in self._unclaimed.items()
            if not user.confirmed and (user.deleted is not None or user.reads >= READS)
        ]
        return certain, unless_used

    def removed(self, names: Iterable[str]) -> None:
        """Redis does not have these any more."""
        for name in names:
            self._unclaimed.pop(name, None)
            self._passwords.pop(name, None)

    def password_rules(self, name: str, hashes: Sequence[bytes], own: bytes, now: float) -> list[bytes]:
        """What follows ``ACL SETUSER name``, so that in the end the user has its own password
        alone; empty: nothing now.

        hashes: all its passwords now, in Redis's order; own: the one that follows from the present
        master password. Rules name a password that is there: if somebody else removed it, or the
        user, meanwhile, Redis refuses them as a whole.
        """
        others = [each for each in hashes if each != own]
        if not others:
            self._passwords.pop(name, None)
            return []  # without any, nobody logs in: the next provisioning adds its own
        if own not in hashes:
            self._passwords[name] = _Passwords((*hashes, own), now)
            # To take out the last and put it back changes nothing, not even the order.
            return [b"!" + hashes[-1], b"#" + hashes[-1], b"#" + own]
        seen = self._passwords.get(name)
        if seen is None or seen.hashes != tuple(hashes):
            self._passwords[name] = _Passwords(tuple(hashes), now)
            return []
        if not self._is_due(seen, now):
            return []
        return [b"#" + own, *(b"!" + each for each in others)]

    def settled(self, name: str) -> None:
        """Redis took the rules that end its other passwords, or somebody else was quicker."""
        self._passwords.pop(name, None)

    def due(self, now: float) -> list[str]:
        """Users to be checked, for the time of their other passwords is over."""
        return [name for name, seen in self._passwords.items() if self._is_due(seen, now)]

    def next_due(self) -> float | None:
        """When there will be some, as far as that is known: of others a read of the master secret
        has to come first.
        """
        known = [seen.since for seen in self._passwords.values() if seen.since <= self._master_read]
        return min(known) + self._interval if known else None

    def _is_due(self, seen: _Passwords, now: float) -> bool:
        return now >= seen.since + self._interval and seen.since <= self._master_read
