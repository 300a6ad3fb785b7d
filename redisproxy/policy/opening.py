"""What an operator's list of commands may open to tenants, and what that shows of other tenants.

Owns the names that can never be opened, with the reasons, and the warnings. `policy` makes the
table.
"""

from __future__ import annotations

from .facts import named
from .server_config import NAMES

#: Commands that no operator can allow. They leave the tenant's database or its ACL user, or have
#: replies that cannot be counted, or show the master password (CONFIG; SLOWLOG GET shows AUTH on
#: Redis 5) or what other tenants write and read.
NEVER = named(
    """ACL ASKING AUTH CLUSTER COMMANDLOG|GET CONFIG DEBUG FAILOVER MIGRATE MODULE MONITOR MOVE PSYNC READONLY READWRITE
    REPLCONF REPLICAOF RESTORE-ASKING SCRIPT|DEBUG SELECT SHUTDOWN SLAVEOF SLOWLOG|GET SWAPDB SYNC"""
)
#: For such commands, and CLIENT, if an operator may want to allow them: why not, and what to do
#: instead.
_CLOSED = {
    b"CLIENT": "it shows and ends other tenants' connections; those about the tenant's own connections need no opening",
    b"COMMANDLOG|GET": "it shows keys and values of all tenants; ask Redis itself",
    b"CONFIG": (
        "it shows and changes the master password; CONFIG GET of "
        + ", ".join(name.decode() for name in NAMES)
        + " needs no opening, for the rest ask Redis itself"
    ),
    b"MONITOR": "it shows keys and values of all tenants; ask Redis itself",
    b"SLOWLOG|GET": (
        "it shows keys and values of all tenants, and on Redis 5 also passwords; the tenant's own part needs no opening, "
        "for the rest ask Redis itself"
    ),
}
#: Commands that an operator may allow although they show or affect other tenants: the warning.
EXPOSES = {
    **dict.fromkeys(
        named("EVAL EVALSHA EVALSHA_RO EVAL_RO"),
        "on this server one tenant's script can change another tenant's script (CVE-2025-46818)",
    ),
    b"BGREWRITEAOF": "it makes Redis write all tenants' data to disk",
    b"BGSAVE": "it makes Redis write all tenants' data to disk",
    b"COMMANDLOG": "it counts and deletes entries of all tenants; COMMANDLOG|GET stays closed",
    b"FCALL": "it calls functions that any tenant may have loaded",
    b"FCALL_RO": "it calls functions that any tenant may have loaded",
    b"FUNCTION": "all tenants share the libraries: a tenant sees, replaces and deletes those of others",
    b"LATENCY": "it shows and deletes the latencies of all tenants' commands",
    b"MEMORY": "it shows how large the databases of other tenants are",
    b"MEMORY|DOCTOR": "it shows the memory use of all tenants",
    b"MEMORY|MALLOC-STATS": "it shows the memory use of all tenants",
    b"MEMORY|PURGE": "it keeps Redis busy for all tenants",
    b"MEMORY|STATS": "it shows how large the databases of other tenants are",
    b"PFSELFTEST": "it keeps Redis busy for all tenants",
    b"RESTORE": (
        "Redis reads a value that the tenant made: a crafted one may crash it or run code in it, for all tenants, "
        "even with sanitize-dump-payload"
    ),
    b"SAVE": "it stops Redis for all tenants while it writes to disk",
    b"SCRIPT": "it deletes the scripts of other tenants, and ends those that run",
    b"SCRIPT|FLUSH": "it deletes the scripts of other tenants",
    b"SCRIPT|KILL": "it ends a running script of any tenant",
    b"SLOWLOG": "it deletes entries of all tenants; SLOWLOG|GET and SLOWLOG|LEN stay those of the tenant",
}
#: The warning for an allowed command that is not in EXPOSES.
EXPOSES_UNKNOWN = "the proxy does not know whether it shows or affects other tenants"
#: Allowed commands that need no warning.
EXPOSES_NOTHING = named("COMMANDLOG|HELP FUNCTION|HELP LATENCY|HELP SLOWLOG|HELP")


def closed(allow: frozenset[bytes]) -> list[str]:
    """The names in an operator's list that cannot be allowed, each with the reason if an operator
    could not guess it.
    """
    found = []
    for name in sorted(allow):
        never = {name, name.partition(b"|")[0]} & (NEVER | {b"CLIENT"})
        if never:
            why = next((_CLOSED[each] for each in sorted(never) if each in _CLOSED), "")
            found.append(f"{name.decode()} ({why})" if why else name.decode())
    return found


def exposes(name: bytes) -> str:
    """The warning for an allowed command: what it shows of other tenants, or does to them. Empty if
    it needs none.

    name: from the operator's list, upper case.
    """
    if name in EXPOSES_NOTHING:
        return ""
    return EXPOSES.get(name) or EXPOSES.get(name.partition(b"|")[0]) or EXPOSES_UNKNOWN
