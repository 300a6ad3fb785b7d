"""What each tenant's sessions have done, counted, and in which family a command is counted.

Owns the counters and their families. A run of plain commands is counted as a whole, whatever its
commands are; only what policy has the scanner hand over is known by name, so only that can be told
apart.
"""

from __future__ import annotations

from collections.abc import Collection

from .. import bounds, messages

#: Commands that are forwarded without inspection: reads and writes of keys, mostly.
PLAIN = "plain"
#: What is in no other family.
OTHER = "other"

_FAMILIES = {
    "connection": "AUTH CLIENT HELLO POST QUIT RESET HOST:",
    "database": "COPY FLUSHALL FLUSHDB MIGRATE MOVE SELECT SWAPDB",
    "pubsub": "PSUBSCRIBE PUBLISH PUBSUB PUNSUBSCRIBE SPUBLISH SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE",
    "scripting": "EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO FUNCTION SCRIPT",
    "transaction": "DISCARD EXEC MULTI UNWATCH WATCH",
    "blocking": "BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN WAIT WAITAOF XREAD XREADGROUP",
    "server": (
        "ACL BGREWRITEAOF BGSAVE CLUSTER COMMAND CONFIG DEBUG FAILOVER INFO LASTSAVE LATENCY MEMORY MODULE MONITOR PSYNC "
        "REPLCONF REPLICAOF RESTORE ROLE SAVE SHUTDOWN SLAVEOF SLOWLOG SYNC"
    ),
}
_BY_NAME = {name.encode(): family for family, names in _FAMILIES.items() for name in names.split()}

#: All that a command can be counted in.
FAMILIES = (PLAIN, *_FAMILIES, OTHER)


def family(name: bytes) -> str:
    """Of a command, or of ``CONTAINER|SUBCOMMAND``, in any case of letters."""
    return _BY_NAME.get(name.partition(b"|")[0].upper(), OTHER)


class TenantCounters:
    """What the sessions of one tenant have done since the process began."""

    __slots__ = ("commands", "inspected", "logins", "received", "refused", "refused_names", "turned_away", "wrong")

    def __init__(self) -> None:
        #: connections that logged in as it
        self.logins = 0
        #: all of them, refused ones included
        self.commands = 0
        #: of them, by family, those that were known by name
        self.inspected: dict[str, int] = {}
        #: by family, those that the tenant may not use
        self.refused: dict[str, int] = {}
        #: the same by name, up to bounds.REFUSED_NAMES of them
        self.refused_names: dict[str, int] = {}
        #: bytes that clients sent
        self.received = 0
        #: log-ins that would have been more connections than it may have
        self.turned_away = 0
        #: log-ins with a wrong password that named it
        self.wrong = 0

    def inspected_one(self, name: bytes) -> None:
        """One command more is known by name."""
        increase(self.inspected, family(name))

    def refuse(self, name: str) -> None:
        """One command more that the tenant may not use. name: as the server knows it, see
        `policy.Policy.known_name`.
        """
        increase(self.refused, family(name.encode()))
        if name not in self.refused_names and len(self.refused_names) >= bounds.REFUSED_NAMES:
            name = OTHER
        increase(self.refused_names, name)

    def by_family(self) -> dict[str, int]:
        """All commands."""
        return {PLAIN: self.commands - sum(self.inspected.values()), **self.inspected}


class Counts:
    """What has been counted in one process. Each number only grows."""

    def __init__(self) -> None:
        #: by namespace
        self.by_tenant: dict[str, TenantCounters] = {}
        #: log-ins by outcome: ``ok``, or see `model.AuthenticationError`
        self.logins: dict[str, int] = {}
        #: refused commands by name, see `policy.Policy.known_name`: of few different ones
        self.refused_names: dict[str, int] = {}
        #: connections that are over, by how they ended. Turned away are none, from the start: that
        #: there are some is told by the step from 0, which cannot be seen of a counter that is not
        #: there before
        self.ended: dict[str, int] = {messages.TURNED_AWAY.code: 0}
        #: bytes of replies that Redis sent, by namespace
        self.replied: dict[str, int] = {}

    def of(self, namespace: str) -> TenantCounters:
        """The one of a tenant, made when it is asked for first."""
        found = self.by_tenant.get(namespace)
        if found is None:
            found = self.by_tenant[namespace] = TenantCounters()
        return found

    def keep(self, namespaces: Collection[str]) -> None:
        """Forgets all others: they are no tenants any more."""
        for counted in (self.by_tenant, self.replied):
            for gone in counted.keys() - namespaces:
                del counted[gone]


def increase(counts: dict[str, int], key: str, by: int = 1) -> None:
    """A counter that may not be there yet."""
    counts[key] = counts.get(key, 0) + by
