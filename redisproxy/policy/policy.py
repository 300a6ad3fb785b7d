"""Decides what a tenant may do, from facts about the server's commands (`facts`).

Owns the decisions, not framing and not replies. A Policy is made once for each server. The scanner
sorts commands by its table, and the session answers or rewrites the inspected ones. The ACL user of
the tenant's upstream connections gets the right to the same commands: the second isolation layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .. import messages
from ..resp.framing import (
    FORWARD,
    INSPECT,
    INSPECT_ABOVE,
    INSPECT_FIRST,
    INSPECT_KNOWN,
    INSPECT_TEXT,
    REFUSE,
    SCRIPT,
    WINDOWED,
    WINDOWED_ABOVE,
)
from . import costs
from .costs import CommandLimits, verdict
from .facts import Command, named
from .opening import NEVER, exposes

#: Refused unless an operator allows them, whatever their facts say.
REFUSED = named("FCALL FCALL_RO FUNCTION LATENCY MEMORY|DOCTOR MEMORY|MALLOC-STATS MEMORY|PURGE MEMORY|STATS")
#: Harmless in the tenant's own database, although they name no key or count as dangerous.
ALLOWED = named(
    """COMMAND DBSIZE ECHO FLUSHDB KEYS LASTSAVE LOLWUT PING RANDOMKEY SCAN SORT SORT_RO TIME WAIT WAITAOF
    COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS COMMAND|HELP COMMAND|INFO COMMAND|LIST
    MEMORY|HELP OBJECT|HELP XGROUP|HELP XINFO|HELP"""
)
#: Allowed if Redis itself enforces inside scripts what the tenant may do.
SCRIPTS = named("EVAL EVAL_RO EVALSHA EVALSHA_RO SCRIPT|EXISTS SCRIPT|HELP SCRIPT|LOAD SCRIPT|SHOW")

#: Their first argument is the text of a script. A script that publishes is rewritten.
TEXT_SCRIPTS = named("EVAL EVAL_RO")
#: Their first argument is the SHA of a script. That of a script that publishes is replaced.
SHA_SCRIPTS = named("EVALSHA EVALSHA_RO")
#: Stands for the name of a command that the server does not have.
UNKNOWN = "unknown"
#: Commands that run a script or a function.
CALLS = named("EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO")
#: All commands about scripts and functions, with all their subcommands.
_SCRIPTING = CALLS | named("FUNCTION SCRIPT")

#: The session answers these, or sends Redis something else for them. See `session.commands`.
ANSWERED = named("AUTH CLIENT FLUSHALL HELLO HOST: INFO POST PUBSUB QUIT RESET ROLE SELECT")
#: Subcommands that the session answers, although the others of their container are refused. An
#: operator may refuse them, too.
ANSWERED_SUBCOMMANDS = named(
    """ACL|WHOAMI CLIENT|GETREDIR CLIENT|KILL CLIENT|LIST CLIENT|TRACKINGINFO CONFIG|GET MODULE|LIST
    SLOWLOG|GET SLOWLOG|HELP SLOWLOG|LEN"""
)
#: The session inspects these and sends them to Redis, perhaps rewritten. So the upstream connection
#: needs the right to them.
PASSED_ON = named(
    "COPY DISCARD EXEC MULTI PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE UNWATCH WATCH"
)
#: These block, although some servers' facts do not say so.
BLOCKING = named("WAIT WAITAOF")
#: The session rewrites the first argument of these. The second one is streamed if it is large.
HEADED = named("PUBLISH SPUBLISH")

#: The limits of an operator who sets none.
DEFAULT_LIMITS = CommandLimits()


@dataclass(frozen=True)
class Policy:
    """The decisions about every command of one server.

    table: the verdict of `resp.framing` by name, for each command that the server has or the proxy
    answers. subcommands: by container, which of its subcommands are passed on if the
    container is inspected. forwarded: all commands that an upstream connection needs the right to,
    as ACL rules name them. unknown: names that the operator allowed or refused, and that the server
    does not have.
    """

    table: dict[bytes, int]
    subcommands: Mapping[bytes, frozenset[bytes]]
    forwarded: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    #: inspected commands that are passed on, and may wait for what other clients do
    blocking: frozenset[bytes] = frozenset()
    #: whether it relies on Redis to enforce inside scripts what the tenant may do
    needs_acl_users: bool = False
    #: those of ANSWERED_SUBCOMMANDS that the server has and the operator does not refuse
    answered: frozenset[bytes] = frozenset()
    #: (name, warning) of commands that the operator allowed, and that show or affect other tenants
    exposed: tuple[tuple[str, str], ...] = ()
    #: by container: all subcommands that the server has
    known: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict)
    #: whether the server words its errors as Redis before 7 does
    before_7: bool = False
    #: whether tenants can run scripts
    runs_scripts: bool = False
    #: whether the tenant's ACL user may SELECT its own index, which scripts do. Outside scripts the
    #: session answers SELECT.
    selects: bool = False
    #: what one command may cost
    limits: CommandLimits = DEFAULT_LIMITS
    #: commands and subcommands that need a place in the tenant's window
    windowed: frozenset[bytes] = frozenset()
    #: the whole error reply to commands about scripts, for a tenant that may run none; empty if it
    #: may, or if the policy refuses them to all tenants
    script_error: bytes = b""
    #: that of all other tenants; None: it is this one
    usual: Policy | None = field(default=None, compare=False, repr=False)
    # By error: what `without_scripts` has returned.
    _variants: dict[bytes, Policy] = field(default_factory=dict, compare=False, repr=False)

    def is_windowed(self, words: list[bytes]) -> bool:
        """Whether a command needs a place in the tenant's window. words: its name and arguments."""
        name = words[0].upper()
        return name in self.windowed or (len(words) > 1 and name + b"|" + words[1].upper() in self.windowed)

    def without_scripts(self, error: bytes) -> Policy:
        """The same policy, for a tenant that may run no scripts.

        error: the whole error reply to commands about scripts; empty: the tenant may run them.
        """
        usual = self.usual or self
        if not error:
            return usual
        found = usual._variants.get(error)
        if found is None:
            scripting = _SCRIPTING & usual.table.keys()
            found = usual._variants[error] = replace(
                usual,
                table=usual.table | _spellings(dict.fromkeys(scripting, REFUSE)),
                forwarded=tuple(name for name in usual.forwarded if _container(name.upper().encode()) not in scripting),
                runs_scripts=False,
                selects=False,
                script_error=error,
                usual=usual,
            )
        return found

    def refusal(self, name: bytes) -> bytes:
        """The error reply to a refused command. name: as the client spelt it."""
        scripting = bool(self.script_error) and _container(name.upper()) in _SCRIPTING
        return self.script_error if scripting else refusal(name)

    def known_name(self, name: str) -> str:
        """The name by which the server knows a command, such as ``CONFIG|SET``. The number of
        different results is small, whatever names clients send.

        name: as `shown` returns it. If the server does not have the subcommand, the result is the
        container, such as ``CONFIG``. If it does not have the command, the result is `UNKNOWN`.
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
    select_rule: bool = True,
    limits: CommandLimits = DEFAULT_LIMITS,
) -> Policy:
    """The policy for a server.

    commands: the server's, by name; scripts: whether Redis enforces inside scripts what the tenant
    may do. If not, no operator can allow scripts. databases: whether ACL rules can name databases.
    If not, a script could call COPY … DB unseen, so no tenant has COPY where scripts is true.
    sealed: whether one user's scripts cannot change what another user's scripts do. allow, deny:
    names from the operator, upper case, ``NAME`` or ``NAME|SUBCOMMAND``. deny wins over allow, and
    NEVER over both. before_7: see `Policy`. select_rule: whether ACL rules can allow SELECT of one
    index. limits: what one command may cost.
    """
    runs_scripts = scripts and (sealed or bool(allow & CALLS))
    if scripts and not databases:
        deny |= {b"COPY"}  # outside scripts, too: the ACL user alone must be enough
    if b"FLUSHDB" in deny:
        deny |= {b"FLUSHALL"}  # the session sends it as FLUSHDB

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
        # If the operator allows a command that runs scripts, those that load scripts are needed.
        return passes or (bool(names & SCRIPTS) and runs_scripts)

    # A command is refused if nothing below decides otherwise. The server does not have a command
    # that is not in the table.
    table: dict[bytes, int] = dict.fromkeys(commands, REFUSE)
    subcommands: dict[bytes, frozenset[bytes]] = {}
    known: dict[bytes, frozenset[bytes]] = {}
    forwarded: list[bytes] = []
    blocking: set[bytes] = set()
    opened: set[bytes] = set()
    windowed = frozenset(
        each.name for command in commands.values() for each in (command, *command.subcommands) if costs.windowed(each.name)
    )
    for name, command in commands.items():
        if command.subcommands:
            known[name] = frozenset(map(_subcommand, command.subcommands))
        if name in ANSWERED or (name in PASSED_ON | HEADED and name not in deny):
            continue
        if not command.subcommands:
            if may(command):
                forwarded.append(name)
                table[name] = WINDOWED if name in windowed else FORWARD
                if "blocking" in command.facts or name in BLOCKING:
                    table[name] = INSPECT
                    blocking.add(name)
                elif name in TEXT_SCRIPTS:
                    table[name] = INSPECT_TEXT
                elif name in SHA_SCRIPTS:
                    table[name] = INSPECT_KNOWN
                elif name in CALLS:
                    table[name] = SCRIPT
                elif (inspects := verdict(name, limits)) is not None:
                    table[name] = inspects + (WINDOWED_ABOVE - INSPECT_ABOVE) * (name in windowed)
            continue
        allowed = [subcommand for subcommand in command.subcommands if may(subcommand, command)]
        whole = len(allowed) == len(command.subcommands)
        # COMMAND without a subcommand is a command, too: rights to all subcommands do not include
        # it.
        forwarded += [name] if whole and name in ALLOWED else [subcommand.name for subcommand in allowed]
        # INSPECT also if no subcommand is allowed: a subcommand that the server does not have gets
        # another error. Redis before 7 would answer that the user has no right to it, so there the
        # session answers.
        passes = whole and (name in ALLOWED or not before_7) and name != b"SCRIPT"  # its scripts may be rewritten
        table[name] = INSPECT
        if passes:
            table[name] = WINDOWED if any(subcommand.name in windowed for subcommand in allowed) else FORWARD
        subcommands[name] = frozenset(map(_subcommand, allowed))
    for kind, names in ((INSPECT, ANSWERED), (INSPECT, PASSED_ON), (INSPECT_FIRST, HEADED)):
        for name in names - (deny - NEVER):
            if names is ANSWERED:
                table[name] = kind
            elif name in commands:  # else a MULTI would never end if the server's EXEC was renamed
                table[name] = kind
                forwarded.append(name)
    # Redis's own text, which the session passes on.
    help_text = [each.name for each in commands[b"PUBSUB"].subcommands] if b"PUBSUB" in set(commands) - deny else []
    forwarded += [name for name in help_text if name == b"PUBSUB|HELP"]
    for name in (b"HELLO", b"RESET"):
        if name not in commands:
            table.pop(name, None)  # before Redis 6 and 6.2
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
        windowed=windowed,
        selects=runs_scripts and select_rule and b"SELECT" not in deny,
        limits=limits,
    )


def _container(name: bytes) -> bytes:
    """The name of a subcommand's container; that of any other command as it is."""
    return name.partition(b"|")[0]


def _subcommand(command: Command) -> bytes:
    """The name of a subcommand without its container's."""
    return command.name.partition(b"|")[2]


def _with_subcommands(names: frozenset[bytes], subcommands: frozenset[bytes]) -> frozenset[bytes]:
    """The subcommands that are in names, or whose container is."""
    return frozenset(name for name in subcommands if names & {name, name.partition(b"|")[0]})


def _spellings(table: Mapping[bytes, int]) -> dict[bytes, int]:
    """The table with each name in upper and in lower case. Clients send these two spellings, so
    most look-ups need no second try.
    """
    return {spelling: kind for name, kind in table.items() for spelling in (name, name.lower())}


def windowed_in(table: Mapping[bytes, int], name: bytes) -> bool:
    """Whether a command that is passed on as it came needs a place in the tenant's window.

    table: the scanner's; name: as the client spelt it.
    """
    verdict = table.get(name.upper(), FORWARD)
    return verdict == WINDOWED or verdict >= WINDOWED_ABOVE


#: The table before log-in. It is empty: every command is inspected. The limits of
#: `framing.UNAUTHENTICATED` keep commands small.
UNAUTHENTICATED_TABLE: dict[bytes, int] = {}


def refusal(name: bytes) -> bytes:
    """The error reply to a refused command. name: as the client spelt it."""
    return messages.FORBIDDEN.reply(command=shown(name))


def shown(name: bytes) -> str:
    """A command's name, made safe for errors and the log: lower case, at most 64 characters. Empty
    if it is not ASCII. name: as the client spelt it.
    """
    text = name[:128].decode("ascii", "replace").lower() if name.isascii() else ""
    return "".join(c for c in text if c.isalnum() or c in "-_.|")[:64]


def parse_names(text: str) -> frozenset[bytes]:
    """The names in an operator's list of commands, in upper case. text: names separated by commas
    or spaces. Raises ValueError for a word that cannot be a command's name.
    """
    names = text.replace(",", " ").upper().split()
    for name in names:
        if not all(part and all(c.isalnum() or c in "-_." for c in part) for part in name.split("|")) or name.count("|") > 1:
            raise ValueError(name)
    return frozenset(name.encode("ascii", "strict") for name in names)
