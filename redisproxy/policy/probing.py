"""Concludes what a Redis is and can do, from its answers to the proxy's probe.

Owns the questions, the meaning of an error reply to each, and the conclusions. It must not conclude
anything from a temporary error: a busy Redis does not say what it can do. `upstream.probe` has the
connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Generic, TypeVar

from .. import messages
from ..messages import Text
from ..printable import shown_error
from ..resp.info import fields as fields
from ..resp.value import ErrorReply
from .acl import PREFIX
from .costs import CommandLimits
from .facts import Command, builtin, parse, without
from .policy import DEFAULT_LIMITS, Policy, make_policy

#: The user that the probe creates, to find out whether the proxy can create ACL users. Nobody can
#: log in as this user, and it is deleted at once.
PROBE_USER = f"{PREFIX}probe"
#: A script that returns 1 if the scripts of all users share things that one of them can change, as
#: in CVE-2025-46818, else 0. It changes nothing.
_UNSEALED = """
    local writable = pcall(function() local shared = getmetatable('') shared.__index = shared.__index end)
    return (writable or rawget(_G, 'setfenv')) and 1 or 0
"""
#: Error codes of Redis and Valkey that mean "not now". They only decide what the log advises: the
#: proxy also asks again after any other error that it does not understand.
_CODES_THAT_PASS = {
    *("BUSY", "LOADING", "OOM", "MASTERDOWN", "READONLY", "TRYAGAIN", "MISCONF", "NOREPLICAS", "CLUSTERDOWN"),
    *("NOAUTH", "WRONGPASS"),
}
# Texts of Redis 5 to 8 and Valkey up to 9.1: `processCommand`, `addReplySubcommandSyntaxError` and
# `ACLSetUserStringError`. A renamed command is unknown, too.
_ABSENT = re.compile(r"(?:ERR )?(?:unknown (?:sub)?command\b|error in acl setuser modifier .*: syntax error$)", re.I | re.S)
_UNFIT_NAME = re.compile(r"(?:ERR )?Error in ACL SETUSER modifier '\+([^']*)': ", re.I)
_EXISTS = re.compile(r"(?:ERR )?Error in ACL SETUSER modifier '[~%].*': Adding a pattern after the \*", re.I | re.S)


class Refusal(Enum):
    """The meaning of an error reply to a question of the probe."""

    #: The server has no such command, subcommand or ACL rule. That does not change before the
    #: server restarts.
    ABSENT = "absent"
    #: The master's user has no right to the command (NOPERM).
    FORBIDDEN = "forbidden"
    #: Anything else. The proxy concludes nothing, and asks Redis again.
    PASSING = "passing"


def refusal(error: ErrorReply, lenient: bool = False) -> Refusal:
    """The meaning of an error reply.

    lenient: set with ``--acl off``. Then any ERR counts as ABSENT, because some hosted servers have
    error texts of their own, and the operator has decided that Redis enforces no limits. Errors
    with other codes keep their meaning.
    """
    if error.code == "NOPERM":
        return Refusal.FORBIDDEN
    if _ABSENT.match(error.text) or (lenient and error.code == "ERR"):
        return Refusal.ABSENT
    return Refusal.PASSING


def unfit_name(error: ErrorReply) -> bytes | None:
    """The command, in upper case, whose rule ``+name`` made ACL SETUSER fail; None if ACL SETUSER
    failed for another reason.
    """
    found = _UNFIT_NAME.match(error.text)
    return None if found is None else found[1].upper().encode()


def user_exists(error: ErrorReply) -> bool:
    """Whether ACL SETUSER with the rules of a new user failed because the user exists."""
    return _EXISTS.match(error.text) is not None


_T = TypeVar("_T")


@dataclass(frozen=True)
class Question(Generic[_T]):
    """One question to a server.

    name: for the log; words: the command; read: decodes the reply, and raises ValueError for a
    reply that is no answer; refused: the answer that holds if the server has no such command, or
    the master's user no right to it.
    """

    name: str
    words: tuple[str, ...] = field(repr=False)
    read: Callable[[Any], _T] = field(repr=False)
    refused: _T = field(repr=False, compare=False)


def _databases(reply: object) -> int | None:
    if reply == []:
        return None  # a hosted server that does not say
    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], bytes) or not reply[1].isdigit():
        raise ValueError("not an answer to CONFIG GET databases")
    return int(reply[1])


def _done(reply: object) -> bool:
    if reply not in ("OK", b"OK"):
        raise ValueError("not an answer to ACL SETUSER")
    return True


def _sealed(reply: object) -> bool:
    if reply not in (0, 1):
        raise ValueError("not an answer to EVAL")
    return reply == 0


DATABASES = Question("CONFIG GET databases", ("CONFIG", "GET", "databases"), _databases, None)
COMMANDS: Question[Mapping[bytes, Command] | None] = Question("COMMAND", ("COMMAND",), parse, None)
#: Redis 6.0 refuses this. Its ACLs do not know channels, so a script could PUBLISH to any tenant.
ACL = Question("ACL SETUSER", ("ACL", "SETUSER", PROBE_USER, "off", "resetchannels", "-@all"), _done, False)
ACL_DATABASES = Question("ACL SETUSER with db=", ("ACL", "SETUSER", PROBE_USER, "resetdbs", "db=0"), _done, False)
SEALED = Question("EVAL", ("EVAL", _UNSEALED, "0"), _sealed, False)
#: Deletes the probe's user. The answer has no meaning.
CLEAN_UP = ("ACL", "DELUSER", PROBE_USER)
#: Stands among the commands that a tenant's user needs the right to, for SELECT of its own index.
#: The probe tries it with this index.
SELECT_RULE = b"SELECT|0"
#: The name in the log of the check of a tenant user's rights.
RIGHTS = "ACL SETUSER with the commands of tenants"

_ALWAYS = (DATABASES, COMMANDS)
_OF_ACLS = (ACL, ACL_DATABASES, SEALED)


def questions(acl: bool) -> tuple[Question[Any], ...]:
    """The questions to a server. acl: whether the proxy wants ACL users. Without them tenants
    cannot run scripts, so EVAL is not tried either.
    """
    return _ALWAYS + _OF_ACLS if acl else _ALWAYS


@dataclass(frozen=True)
class Facts:
    """The answers of one server (one run id) so far.

    answers: also those that follow from a refusal; refused: the questions that the server refused;
    fit, unfit: commands, in upper case, that the server accepts or does not accept in an ACL rule.
    """

    answers: Mapping[Question[Any], Any] = field(default_factory=dict)
    refused: frozenset[Question[Any]] = frozenset()
    fit: frozenset[bytes] = frozenset()
    unfit: frozenset[bytes] = frozenset()

    @property
    def has_acl(self) -> bool:
        """Whether the proxy can create users whose rights name channels."""
        return self.answer(ACL) is True

    def answer(self, question: Question[_T]) -> _T | None:
        """The answer to a question, also one that follows from a refusal. None also if there is no
        answer yet.
        """
        return self.answers.get(question)


def learn(
    facts: Facts, replies: Mapping[Question[Any], object], lenient: bool = False
) -> tuple[Facts, dict[Question[Any], ErrorReply]]:
    """Adds replies to facts. Returns the new facts, and the questions to ask again, each with the
    error.

    replies: values, or ErrorReply; lenient: see `refusal`. An error does not remove an earlier
    answer: a server does not lose a command, so something is faulty, or the master's user has lost
    a right. If the proxy cannot create ACL users, questions that only concern these are not asked
    again.
    """
    answers, refused = dict(facts.answers), set(facts.refused)
    again: dict[Question[Any], ErrorReply] = {}
    for question, reply in replies.items():
        if not isinstance(reply, ErrorReply):
            try:
                answers[question] = question.read(reply)
            except ValueError as error:
                reply = ErrorReply(str(error))
            else:
                refused.discard(question)
                continue
        meaning = refusal(reply, lenient)
        if meaning is Refusal.PASSING or (question in answers and question not in refused):
            again[question] = reply
        else:
            answers[question] = question.refused
            refused.add(question)
    if answers.get(ACL) is False:
        for question in (ACL_DATABASES, SEALED):
            again.pop(question, None)
    return replace(facts, answers=answers, refused=frozenset(refused)), again


@dataclass(frozen=True)
class Server:
    """The connected Redis, as far as the proxy has to know it.

    version: for logs and pages; databases: how many it has, None if it does not say; commands: by
    name; acl: whether the proxy can create users whose rights name channels (from Redis 6.2 on),
    False if that was not asked; acl_databases: whether these rights can name databases (from
    Valkey 9.1 on); replica: whether it calls itself a replica; before_7: whether its errors have
    the words of Redis before 7; sealed: whether one user's scripts cannot change what another
    user's scripts do, None if that is not known yet; run_id: of this run of the server, empty if it
    does not say; select_rule: whether ACL rules can allow SELECT of one index.
    """

    version: str
    databases: int | None
    commands: Mapping[bytes, Command]
    acl: bool
    acl_databases: bool
    replica: bool = False
    before_7: bool = False
    sealed: bool | None = False
    run_id: str = ""
    select_rule: bool = True


#: An ordinary Redis, for callers that have not asked one.
USUAL = Server("an ordinary Redis", None, builtin(), acl=True, acl_databases=True, sealed=True)


def conclude(info: Mapping[str, str], facts: Facts, acl: bool) -> Server | None:
    """The server that the facts describe, or None if they are not enough yet.

    info: fields of INFO, sections server and replication; acl: whether the proxy wants ACL users.
    """
    answers = facts.answers
    if any(question not in answers for question in _ALWAYS) or (acl and ACL not in answers):
        return None
    if facts.has_acl and ACL_DATABASES not in answers:
        return None
    acl = acl and facts.has_acl
    # Valkey has this field, too: the version of Redis that it is compatible with.
    before_7 = info.get("redis_version", "7").partition(".")[0] in ("2", "3", "4", "5", "6")
    return Server(
        _version(info),
        facts.answer(DATABASES),
        without(known_commands(facts), facts.unfit),
        acl,
        acl and facts.answer(ACL_DATABASES) is True,
        is_replica(info),
        before_7,
        acl and facts.answer(SEALED),
        info.get("run_id", ""),
        SELECT_RULE not in facts.unfit,
    )


def known_commands(facts: Facts) -> Mapping[bytes, Command]:
    """The commands that the server listed, or the built-in ones if it did not."""
    commands = facts.answer(COMMANDS)
    return builtin() if commands is None else commands


def rights_words(names: Iterable[bytes]) -> tuple[bytes | str, ...]:
    """The command that tests whether a user can have the right to these commands. The probe's user
    stays off, so nobody can log in as it.
    """
    return ("ACL", "SETUSER", PROBE_USER, "off", "resetchannels", "-@all", *(b"+" + name.lower() for name in names))


def policy_for(
    server: Server, acl: bool, *, allow: frozenset[bytes], deny: frozenset[bytes], limits: CommandLimits = DEFAULT_LIMITS
) -> Policy:
    """The policy for tenants on a server.

    acl: whether their connections log in as ACL users if the server has these; allow, deny, limits:
    see `policy.make_policy`.
    """
    return make_policy(
        server.commands,
        scripts=acl and server.acl,
        databases=server.acl_databases,
        allow=allow,
        deny=deny,
        before_7=server.before_7,
        sealed=bool(server.sealed),
        select_rule=server.select_rule,
        limits=limits,
    )


def needed(policy: Policy) -> frozenset[bytes]:
    """The commands, in upper case, that a tenant's user needs the right to."""
    names = {name.upper().encode() for name in policy.forwarded}
    return frozenset(names | {SELECT_RULE} if policy.selects else names)


def explain(again: Mapping[str, ErrorReply]) -> Text:
    """The text for the operator: the questions that Redis did not answer, and what to do.

    again: the errors, by name of the question.
    """
    by_error: dict[str, list[str]] = {}
    for name, error in again.items():
        by_error.setdefault(shown_error(error.text), []).append(name)
    text = "; ".join(f"{', '.join(names)}: {error}" for error, names in by_error.items())[:600]
    odd = any(error.code not in _CODES_THAT_PASS and error.code != "NOPERM" for error in again.values())
    message = messages.REDIS_ODD_ANSWERS if odd else messages.REDIS_QUESTIONS
    return message(text=text, cause=messages.redis_error(next(iter(by_error), "")))


def is_replica(info: Mapping[str, str]) -> bool:
    """Whether Redis calls itself a replica. info: fields of INFO's section ``replication``."""
    return info.get("role") == "slave"


def _version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of unknown version')}"
