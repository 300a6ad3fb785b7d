"""What Redis is, concluded from its answers to the proxy's probe.

Owns the questions, what an error reply to one of them means, and what may be concluded. It must not
conclude anything from an error that passes: that Redis is busy says nothing of what it can do.
Connections are `upstream.probe`'s.
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
from .facts import Command, builtin, parse, without
from .policy import Policy, make_policy

#: The user that shows whether ACL users can be had. It can do nothing, and is deleted at once.
PROBE_USER = f"{PREFIX}probe"
#: Whether all users' scripts have things in common that one of them can change, as in
#: CVE-2025-46818. It changes nothing.
_UNSEALED = """
    local writable = pcall(function() local shared = getmetatable('') shared.__index = shared.__index end)
    return (writable or rawget(_G, 'setfenv')) and 1 or 0
"""
#: Codes of errors by which Redis or Valkey says that it cannot answer now. They only decide what
#: the log advises: any other error that is not understood is asked again as well.
_CODES_THAT_PASS = {
    *("BUSY", "LOADING", "OOM", "MASTERDOWN", "READONLY", "TRYAGAIN", "MISCONF", "NOREPLICAS", "CLUSTERDOWN"),
    *("NOAUTH", "WRONGPASS"),
}
# Redis 5 to 8, Valkey to 9.1: `processCommand`, `addReplySubcommandSyntaxError` and
# `ACLSetUserStringError`. A renamed command is unknown, too.
_ABSENT = re.compile(r"(?:ERR )?(?:unknown (?:sub)?command\b|error in acl setuser modifier .*: syntax error$)", re.I | re.S)
_UNFIT_NAME = re.compile(r"(?:ERR )?Error in ACL SETUSER modifier '\+([^']*)': ", re.I)
_EXISTS = re.compile(r"(?:ERR )?Error in ACL SETUSER modifier '[~%].*': Adding a pattern after the \*", re.I | re.S)


class Refusal(Enum):
    """What an error reply to a question of the probe means."""

    #: The server has no such command, subcommand or ACL rule, and will not have it before it is
    #: restarted.
    ABSENT = "absent"
    #: The master's user has no right to it (NOPERM).
    FORBIDDEN = "forbidden"
    #: Anything else: nothing is concluded, and Redis is asked again.
    PASSING = "passing"


def refusal(error: ErrorReply, lenient: bool = False) -> Refusal:
    """What an error reply means.

    lenient: with ``--acl off``, an ERR of unknown words counts as ABSENT: some hosted servers have
    words of their own, and the operator has decided that Redis holds no limits. Codes other than
    ERR stay what they are.
    """
    if error.code == "NOPERM":
        return Refusal.FORBIDDEN
    if _ABSENT.match(error.text) or (lenient and error.code == "ERR"):
        return Refusal.ABSENT
    return Refusal.PASSING


def unfit_name(error: ErrorReply) -> bytes | None:
    """The command, in upper case, whose rule ``+name`` made ACL SETUSER fail; None: that is not
    why.
    """
    found = _UNFIT_NAME.match(error.text)
    return None if found is None else found[1].upper().encode()


def user_exists(error: ErrorReply) -> bool:
    """Whether ACL SETUSER with the rules of a new user failed for the one reason that the user is
    there already.
    """
    return _EXISTS.match(error.text) is not None


_T = TypeVar("_T")


@dataclass(frozen=True)
class Question(Generic[_T]):
    """One thing to be known of a server.

    name: for the log; words: the command; read: what its reply says, raises ValueError for what is
    no answer; refused: what is true of a server that has no such command, or where it is forbidden.
    """

    name: str
    words: tuple[str, ...] = field(repr=False)
    read: Callable[[Any], _T] = field(repr=False)
    refused: _T = field(repr=False, compare=False)


def _databases(reply: object) -> int | None:
    if reply == []:
        return None  # a hosted one, that does not tell
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
#: Not of Redis 6.0: its ACLs do not know channels, and a script could PUBLISH to anybody.
ACL = Question("ACL SETUSER", ("ACL", "SETUSER", PROBE_USER, "off", "resetchannels", "-@all"), _done, False)
ACL_DATABASES = Question("ACL SETUSER with db=", ("ACL", "SETUSER", PROBE_USER, "resetdbs", "db=0"), _done, False)
SEALED = Question("EVAL", ("EVAL", _UNSEALED, "0"), _sealed, False)
#: Deletes the probe's user. What is answered tells nothing.
CLEAN_UP = ("ACL", "DELUSER", PROBE_USER)
#: How the log names the check of a tenant user's rights.
RIGHTS = "ACL SETUSER with the commands of tenants"

_ALWAYS = (DATABASES, COMMANDS)
_OF_ACLS = (ACL, ACL_DATABASES, SEALED)


def questions(acl: bool) -> tuple[Question[Any], ...]:
    """What is asked of a server. acl: whether ACL users are wanted; without them nobody may run
    scripts either.
    """
    return _ALWAYS + _OF_ACLS if acl else _ALWAYS


@dataclass(frozen=True)
class Facts:
    """What one server (one run id) has told so far.

    answers: what it answered, and what follows from what it refused; refused: the questions of
    which that is so. fit, unfit: names of commands that it takes, or does not take, in an ACL rule.
    """

    answers: Mapping[Question[Any], Any] = field(default_factory=dict)
    refused: frozenset[Question[Any]] = frozenset()
    fit: frozenset[bytes] = frozenset()
    unfit: frozenset[bytes] = frozenset()

    @property
    def has_acl(self) -> bool:
        """Whether it lets us make users whose rights name channels."""
        return self.answer(ACL) is True

    def answer(self, question: Question[_T]) -> _T | None:
        """What it told, or what follows from a refusal; None, too, where it has not told yet."""
        return self.answers.get(question)


def learn(
    facts: Facts, replies: Mapping[Question[Any], object], lenient: bool = False
) -> tuple[Facts, dict[Question[Any], ErrorReply]]:
    """Facts with what replies tell besides, and the questions that have to be asked again, with
    why.

    replies: values, or ErrorReply. What a server told once is not unlearned by an error, whatever
    it says: it has not lost a command, so it is a fault, or the master's user has lost a right. Of
    a server whose ACL users cannot be had, nothing is asked that concerns only these.
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
    """What the connected Redis is.

    version: for people; databases: how many, None where it does not tell; acl: whether it lets us
    make users whose rights name channels (Redis 6.2 on), False where it was not asked;
    acl_databases: whether these can name databases (Valkey 9.1 on); replica: whether it calls
    itself one; before_7: whether it words its errors as Redis before 7 does; sealed: whether one
    user's scripts cannot change what another's do, None where it cannot be seen now; run_id: of
    this run of the server, empty where it does not tell.
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


#: What a Redis usually is: for whoever has not asked one.
USUAL = Server("an ordinary Redis", None, builtin(), acl=True, acl_databases=True, sealed=True)


def conclude(info: Mapping[str, str], facts: Facts, acl: bool) -> Server | None:
    """What the server is; None: it has not told enough yet. info: fields of INFO, of the sections
    server and replication.
    """
    answers = facts.answers
    if any(question not in answers for question in _ALWAYS) or (acl and ACL not in answers):
        return None
    if facts.has_acl and ACL_DATABASES not in answers:
        return None
    acl = acl and facts.has_acl
    # Valkey tells which Redis it is like.
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
    )


def known_commands(facts: Facts) -> Mapping[bytes, Command]:
    """The commands that the server told, or the built-in ones."""
    commands = facts.answer(COMMANDS)
    return builtin() if commands is None else commands


def rights_words(names: Iterable[bytes]) -> tuple[bytes | str, ...]:
    """The command that tries whether a user can have the right to these commands. The user can do
    nothing all the same.
    """
    return ("ACL", "SETUSER", PROBE_USER, "off", "resetchannels", "-@all", *(b"+" + name.lower() for name in names))


def policy_for(server: Server, acl: bool, *, allow: frozenset[bytes], deny: frozenset[bytes]) -> Policy:
    """What tenants may do on a server.

    acl: whether their connections log in as ACL users, where the server has these; allow, deny: see
    `policy.make_policy`.
    """
    return make_policy(
        server.commands,
        scripts=acl and server.acl,
        databases=server.acl_databases,
        allow=allow,
        deny=deny,
        before_7=server.before_7,
        sealed=bool(server.sealed),
    )


def needed(policy: Policy) -> frozenset[bytes]:
    """The commands, in upper case, that a tenant's user has to have the right to."""
    return frozenset(name.upper().encode() for name in policy.forwarded)


def explain(again: Mapping[str, ErrorReply]) -> Text:
    """For the operator: what Redis did not tell, and what can be done. again: by names of
    questions.
    """
    by_error: dict[str, list[str]] = {}
    for name, error in again.items():
        by_error.setdefault(shown_error(error.text), []).append(name)
    text = "; ".join(f"{', '.join(names)}: {error}" for error, names in by_error.items())[:600]
    odd = any(error.code not in _CODES_THAT_PASS and error.code != "NOPERM" for error in again.values())
    message = messages.REDIS_ODD_ANSWERS if odd else messages.REDIS_QUESTIONS
    return message(text=text, cause=messages.redis_error(next(iter(by_error), "")))


def is_replica(info: Mapping[str, str]) -> bool:
    """Whether Redis calls itself one. info: fields of INFO's section ``replication``."""
    return info.get("role") == "slave"


def _version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of unknown version')}"
