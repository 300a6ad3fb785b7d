"""What a tenant may do: decisions, made from facts (`facts`).

Owns decisions, not framing and not replies. A Policy is made once for each server; the scanner
sorts by its table, the session answers or rewrites what is TAKEn, and the upstream connection's ACL
user is given the same commands: the second isolation layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .. import messages
from ..resp.framing import FORWARD, INSPECT, INSPECT_FIRST, REFUSE
from .facts import Command
from .server_config import NAMES


def _names(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


#: No operator's word opens these: they leave the database, or the second layer, or have replies
#: that cannot be counted; or they show the master password (CONFIG; SLOWLOG GET shows AUTH on Redis
#: 5) and what other tenants write and read.
NEVER = _names(
    """ACL ASKING AUTH CLUSTER COMMANDLOG|GET CONFIG DEBUG FAILOVER MIGRATE MODULE MONITOR MOVE PSYNC READONLY READWRITE
    REPLCONF REPLICAOF RESTORE-ASKING SCRIPT|DEBUG SELECT SHUTDOWN SLAVEOF SLOWLOG|GET SWAPDB SYNC"""
)
#: Of those that an operator may have a reason to name: why not, and what to do instead.
_CLOSED = {
    b"CLIENT": "it tells of other tenants' connections and ends them; what is about the own one needs no opening",
    b"COMMANDLOG|GET": "it shows keys and values of all tenants; ask Redis itself",
    b"CONFIG": (
        "it shows and changes the master password; CONFIG GET of "
        + ", ".join(name.decode() for name in NAMES)
        + " needs no opening, for the rest ask Redis itself"
    ),
    b"MONITOR": "it shows keys and values of all tenants; ask Redis itself",
    b"SLOWLOG|GET": "it shows keys and values of all tenants, on Redis 5 passwords, too; ask Redis itself",
}
#: What an operator's word may open, though it tells of other tenants or touches them: what to warn
#: of.
EXPOSES = {
    **dict.fromkeys(
        _names("EVAL EVALSHA EVALSHA_RO EVAL_RO"),
        "on this server one tenant's script can change what another's does (CVE-2025-46818)",
    ),
    b"BGREWRITEAOF": "it has Redis write all tenants' data to disk",
    b"BGSAVE": "it has Redis write all tenants' data to disk",
    b"COMMANDLOG": "it counts and deletes entries of all tenants; COMMANDLOG|GET stays closed",
    b"FCALL": "it calls functions that any tenant may have loaded",
    b"FCALL_RO": "it calls functions that any tenant may have loaded",
    b"FUNCTION": "libraries are one for all: a tenant sees, replaces and deletes those of others",
    b"LATENCY": "it shows and deletes how long commands of all tenants took",
    b"MEMORY": "it shows how large the databases of other tenants are",
    b"MEMORY|DOCTOR": "it tells of the memory of all tenants",
    b"MEMORY|MALLOC-STATS": "it tells of the memory of all tenants",
    b"MEMORY|PURGE": "it keeps Redis busy for all tenants",
    b"MEMORY|STATS": "it shows how large the databases of other tenants are",
    b"PFSELFTEST": "it keeps Redis busy for all tenants",
    b"RESTORE": "Redis reads a value that the tenant made: a crafted one may crash it for all tenants",
    b"ROLE": "it shows the addresses of Redis's replicas",
    b"SAVE": "it stops Redis for all tenants while it writes to disk",
    b"SCRIPT": "it deletes the scripts of other tenants, and ends those that run",
    b"SCRIPT|FLUSH": "it deletes the scripts of other tenants",
    b"SCRIPT|KILL": "it ends the script of whichever tenant runs one",
    b"SLOWLOG": "it counts and deletes entries of all tenants; SLOWLOG|GET stays closed",
}
#: Of what is opened and not in that table; and what needs no warning at all.
EXPOSES_UNKNOWN = "the proxy does not know what it shows of other tenants, or does to them"
EXPOSES_NOTHING = _names("COMMANDLOG|HELP FUNCTION|HELP LASTSAVE LATENCY|HELP SLOWLOG|HELP")
#: Refused, unless an operator allows them, for what their facts do not tell.
REFUSED = _names("FCALL FCALL_RO FUNCTION LASTSAVE LATENCY MEMORY|DOCTOR MEMORY|MALLOC-STATS MEMORY|PURGE MEMORY|STATS")
#: Harmless in the own database, though they name no key, or are called dangerous.
ALLOWED = _names(
    """COMMAND DBSIZE ECHO FLUSHDB KEYS LOLWUT PING RANDOMKEY SCAN SORT SORT_RO TIME WAIT WAITAOF
    COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS COMMAND|HELP COMMAND|INFO COMMAND|LIST
    MEMORY|HELP OBJECT|HELP XGROUP|HELP XINFO|HELP"""
)
#: Where Redis itself enforces the tenant's limits inside scripts.
SCRIPTS = _names("EVAL EVAL_RO EVALSHA EVALSHA_RO SCRIPT|EXISTS SCRIPT|HELP SCRIPT|LOAD SCRIPT|SHOW")

#: What stands for the name of a command that the server does not have.
UNKNOWN = "unknown"
#: Those that run one.
CALLS = _names("EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO")

#: The session has a method for each (see `session.commands`); those that it passes on, in whatever
#: form, its upstream connection may do.
ANSWERED = _names("AUTH CLIENT FLUSHALL HELLO HOST: INFO POST PUBSUB QUIT RESET SELECT")
#: The same of a subcommand whose container is refused otherwise. An operator may refuse it, too.
ANSWERED_SUBCOMMANDS = _names("CONFIG|GET")
PASSED_ON = _names(
    "COPY DISCARD EXEC MULTI PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE UNWATCH WATCH"
)
#: They block, though some servers' facts do not say so.
BLOCKING = _names("WAIT WAITAOF")
#: The session rewrites their first argument, and the second, where it is large, streams.
HEADED = _names("PUBLISH SPUBLISH")


@dataclass(frozen=True)
class Policy:
    """Decisions about every command of one server.

    table: FORWARD, INSPECT, REFUSE or INSPECT_FIRST by name, of every command that the server has,
    and those that the proxy answers. subcommands: of a TAKEn container, those that are passed on.
    forwarded: all that an upstream connection needs the right to, as ACL rules name it. unknown:
    names that the operator allowed or refused and the server does not have.
    """

    table: dict[bytes, int]
    subcommands: Mapping[bytes, frozenset[bytes]]
    forwarded: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    #: those of the forwarded ones, TAKEn, that may wait for what others do
    blocking: frozenset[bytes] = frozenset()
    #: whether it relies on Redis to hold the tenant's limits inside scripts
    needs_acl_users: bool = False
    #: subcommands that the session answers, of containers that are refused otherwise: CONFIG|GET
    answered: frozenset[bytes] = frozenset()
    #: what an operator's word opened that tells of other tenants or touches them, and how
    exposed: tuple[tuple[str, str], ...] = ()
    #: all subcommands that each container of the server has
    known: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict)
    #: whether the server words its errors as Redis before 7 does
    before_7: bool = False
    #: whether tenants can run scripts
    runs_scripts: bool = False

    def known_name(self, name: str) -> str:
        """A command's name, as the server knows it: ``CONFIG|SET``. It is one of few, whatever a
        client calls a command.

        name: as `shown` gives it. Where the server does not have the subcommand, the result is
        ``CONFIG``; where it does not have the command, `UNKNOWN`.
        """
        command, _, subcommand = name.upper().encode().partition(b"|")
        if command not in self.table:
            return UNKNOWN
        known = subcommand in self.known.get(command, ())
        return (command + b"|" + subcommand if known else command).decode()


def make_policy(
    commands: Mapping[bytes, Command],
    scripts: bool,
    databases: bool = False,
    *,
    allow: frozenset[bytes] = frozenset(),
    deny: frozenset[bytes] = frozenset(),
    before_7: bool = False,
    sealed: bool = True,
) -> Policy:
    """The policy for a server.

    scripts: whether Redis enforces the tenant's limits inside them: if not, no operator's word
    opens them; databases: whether these limits can name databases: where they cannot, and scripts
    could call COPY … DB unseen, nobody has COPY. sealed: whether one user's scripts cannot change
    what another's do. allow, deny: an operator's words, upper case, ``NAME`` or
    ``NAME|SUBCOMMAND``. Deny wins, and NEVER over all. before_7: see `Policy`.
    """
    runs_scripts = scripts and (sealed or bool(allow & CALLS))
    if scripts and not databases:
        deny |= {b"COPY"}  # without scripts, too: the second layer alone must hold
    if b"FLUSHDB" in deny:
        deny |= {b"FLUSHALL"}  # which becomes one

    def may(command: Command, container: Command | None = None) -> bool:
        names = {command.name} | ({container.name} if container else set())
        if names & NEVER or names & deny:
            return False
        if not scripts and (names & SCRIPTS or "scripting" in command.facts):
            return False
        if names & REFUSED:
            passes = False
        elif names & SCRIPTS:
            passes = scripts and sealed
        elif command.name in ALLOWED:
            passes = True
        else:
            passes = "keys" in command.facts and not command.facts & {"admin", "dangerous", "pubsub", "scripting"}
        if names & allow and not passes:
            opened.update(names & allow)
            return True
        # Who opens one of the commands that run scripts needs those that load them.
        return passes or (bool(names & SCRIPTS) and runs_scripts)

    # Whatever is not told otherwise is refused; what is not in the table at all, the server does
    # not have.
    table: dict[bytes, int] = dict.fromkeys(commands, REFUSE)
    subcommands: dict[bytes, frozenset[bytes]] = {}
    known: dict[bytes, frozenset[bytes]] = {}
    forwarded: list[bytes] = []
    blocking: set[bytes] = set()
    opened: set[bytes] = set()
    for name, command in commands.items():
        if command.subcommands:
            known[name] = frozenset(map(_subcommand, command.subcommands))
        if name in ANSWERED or (name in PASSED_ON | HEADED and name not in deny):
            continue
        if not command.subcommands:
            if may(command):
                forwarded.append(name)
                table[name] = FORWARD
                if "blocking" in command.facts or name in BLOCKING:
                    table[name] = INSPECT
                    blocking.add(name)
            continue
        allowed = [subcommand for subcommand in command.subcommands if may(subcommand, command)]
        whole = len(allowed) == len(command.subcommands)
        # COMMAND alone is a command, too: the right to it is more than that to all its subcommands.
        forwarded += [name] if whole and name in ALLOWED else [subcommand.name for subcommand in allowed]
        # Where none is allowed, too: one that the server does not have has another error. Redis
        # before 7 would say of it that there is no right to it.
        table[name] = FORWARD if whole and (name in ALLOWED or not before_7) else INSPECT
        subcommands[name] = frozenset(map(_subcommand, allowed))
    for kind, names in ((INSPECT, ANSWERED), (INSPECT, PASSED_ON), (INSPECT_FIRST, HEADED)):
        for name in names - (deny - NEVER):
            if names is ANSWERED:
                table[name] = kind
            elif name in commands:  # or a MULTI would never end where the server's EXEC was renamed
                table[name] = kind
                forwarded.append(name)
    forwarded += [name for name in (b"ECHO", b"FLUSHDB", b"HELLO", b"PING") if name in commands and name not in forwarded]
    subcommands_known = {subcommand.name for command in commands.values() for subcommand in command.subcommands}
    named = set(commands) | subcommands_known
    return Policy(
        _spellings(table),
        subcommands,
        tuple(sorted(name.decode().lower() for name in forwarded)),
        tuple(sorted(name.decode() for name in (allow | deny) - named)),
        frozenset(blocking),
        needs_acl_users=scripts,
        answered=(ANSWERED_SUBCOMMANDS & subcommands_known) - _with_subcommands(deny, ANSWERED_SUBCOMMANDS),
        exposed=tuple((name.decode(), what) for name in sorted(opened) if (what := exposes(name))),
        known=known,
        before_7=before_7,
        runs_scripts=runs_scripts,
    )


def _subcommand(command: Command) -> bytes:
    """Its name without the container's."""
    return command.name.partition(b"|")[2]


def _with_subcommands(names: frozenset[bytes], subcommands: frozenset[bytes]) -> frozenset[bytes]:
    """Those of the subcommands that are among the names, or whose containers are."""
    return frozenset(name for name in subcommands if names & {name, name.partition(b"|")[0]})


def closed(allow: frozenset[bytes]) -> list[str]:
    """Those names of an operator's that nothing opens, each with the reason where an operator could
    not guess it.
    """
    found = []
    for name in sorted(allow):
        never = {name, name.partition(b"|")[0]} & (NEVER | {b"CLIENT"})
        if never:
            why = next((_CLOSED[each] for each in sorted(never) if each in _CLOSED), "")
            found.append(f"{name.decode()} ({why})" if why else name.decode())
    return found


def exposes(name: bytes) -> str:
    """What an opened command tells of other tenants or does to them; empty: nothing. name: as an
    operator gives it.
    """
    if name in EXPOSES_NOTHING:
        return ""
    return EXPOSES.get(name) or EXPOSES.get(name.partition(b"|")[0]) or EXPOSES_UNKNOWN


def _spellings(table: Mapping[bytes, int]) -> dict[bytes, int]:
    """Upper and lower case, the two that clients send, so that most look-ups need no second try."""
    return {spelling: kind for name, kind in table.items() for spelling in (name, name.lower())}


#: Before the log-in every command is inspected: the limits of UNAUTHENTICATED keep it small.
UNAUTHENTICATED_TABLE: dict[bytes, int] = {}


def refusal(name: bytes) -> bytes:
    """The error that answers a refused command. name: as the client spelt it."""
    return messages.FORBIDDEN.reply(command=shown(name))


def shown(name: bytes) -> str:
    """A command's name, as the client spelt it, made fit for an error and for the log."""
    text = name[:128].decode("ascii", "replace").lower() if name.isascii() else ""
    return "".join(c for c in text if c.isalnum() or c in "-_.|")[:64]


def parse_names(text: str) -> frozenset[bytes]:
    """An operator's list of commands, separated by commas or spaces. Raises ValueError for what is
    no name.
    """
    names = text.replace(",", " ").upper().split()
    for name in names:
        if not all(part and all(c.isalnum() or c in "-_." for c in part) for part in name.split("|")) or name.count("|") > 1:
            raise ValueError(name)
    return frozenset(name.encode("ascii", "strict") for name in names)
