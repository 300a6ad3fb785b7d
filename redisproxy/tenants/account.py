"""Counts what each tenant's sessions do, with commands counted by family.

Owns the counters and the families. A run of plain commands is counted as a whole, whatever its
commands are. Only the commands that the policy has inspected or refused are known by name, so only
they can be counted by family.
"""

from __future__ import annotations

from collections.abc import Collection

from .. import bounds, messages
from .rates import Rates

#: Commands that are forwarded without inspection: mostly reads and writes of keys.
PLAIN = "plain"
#: Commands in no other family.
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

#: All families.
FAMILIES = (PLAIN, *_FAMILIES, OTHER)


def family(name: bytes) -> str:
    """The family of a command. name: ``NAME`` or ``CONTAINER|SUBCOMMAND``, upper or lower case."""
    return _BY_NAME.get(name.partition(b"|")[0].upper(), OTHER)


class TenantCounters:
    """The counters of one tenant's sessions, since the process began."""

    __slots__ = (
        "commands",
        "inspected",
        "logins",
        "rates",
        "received",
        "refused",
        "refused_names",
        "scripts_ended",
        "slow_commands",
        "slow_confirmed",
        "slow_seconds",
        "turned_away",
        "wrong",
    )

    def __init__(self) -> None:
        #: connections that logged in as this tenant
        self.logins = 0
        #: all commands, refused ones included
        self.commands = 0
        #: by family: commands that are known by name
        self.inspected: dict[str, int] = {}
        #: by family: refused commands, which the tenant may not use
        self.refused: dict[str, int] = {}
        #: by name: the same, for up to bounds.REFUSED_NAMES names
        self.refused_names: dict[str, int] = {}
        #: bytes that clients sent
        self.received = 0
        #: of commands, bytes received and bytes of replies, for INFO
        self.rates = Rates()
        #: log-ins refused because the tenant has as many connections as it may
        self.turned_away = 0
        #: log-ins with a wrong password and this tenant's name as the user name
        self.wrong = 0
        #: scripts that were ended because they ran for too long
        self.scripts_ended = 0
        #: commands that Redis has logged as slow, and the seconds that they took
        self.slow_commands = 0
        self.slow_seconds = 0.0
        #: how often that has confirmed that a command is slow: see `upstream.slow_commands`
        self.slow_confirmed = 0

    def inspected_one(self, name: bytes) -> None:
        """Counts a command that is known by name."""
        increase(self.inspected, family(name))

    def refuse(self, name: str) -> None:
        """Counts a refused command. name: see `policy.Policy.known_name`."""
        increase(self.refused, family(name.encode()))
        if name not in self.refused_names and len(self.refused_names) >= bounds.REFUSED_NAMES:
            name = OTHER
        increase(self.refused_names, name)

    def by_family(self) -> dict[str, int]:
        """All commands by family, the plain ones as `PLAIN`."""
        return {PLAIN: self.commands - sum(self.inspected.values()), **self.inspected}


class Counts:
    """The counters of one process. Each number only grows."""

    def __init__(self) -> None:
        #: by namespace
        self.by_tenant: dict[str, TenantCounters] = {}
        #: log-ins by outcome: ``ok``, or see `model.AuthenticationError`
        self.logins: dict[str, int] = {}
        #: refused commands by name; see `policy.Policy.known_name`, which has few different results
        self.refused_names: dict[str, int] = {}
        #: closed connections by close reason. Those of an alert start at 0, so that Prometheus sees
        #: the first increase
        self.ended: dict[str, int] = dict.fromkeys(
            (
                messages.TURNED_AWAY.code,
                messages.OVER_SHARE.code,
                messages.OVER_REDIS_SHARE.code,
                messages.MADE_ROOM.code,
            ),
            0,
        )
        #: bytes of replies that Redis sent, by namespace
        self.replied: dict[str, int] = {}

    def of(self, namespace: str) -> TenantCounters:
        """The counters of a tenant, made at the first call for it."""
        found = self.by_tenant.get(namespace)
        if found is None:
            found = self.by_tenant[namespace] = TenantCounters()
        return found

    def keep(self, namespaces: Collection[str]) -> None:
        """Forgets the counters of all other namespaces, which are no tenants any more."""
        for counted in (self.by_tenant, self.replied):
            for gone in counted.keys() - namespaces:
                del counted[gone]


def increase(counts: dict[str, int], key: str, by: int = 1) -> None:
    """Adds to a counter, which starts at 0 if it is not there yet."""
    counts[key] = counts.get(key, 0) + by
