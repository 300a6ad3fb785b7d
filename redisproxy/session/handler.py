"""What a command needs, and what several handlers share: refusals, control queries, replies.

Owns the types that `commands.HANDLERS` consists of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .. import bounds, messages, probes
from ..policy import unknown as texts
from ..resp.framing import encode
from ..resp.value import Answer
from .pending import RewrittenReply
from .ports import Unavailable
from .state import Step, Until

if TYPE_CHECKING:
    from .session import Session


Result = TypeVar("Result")


class Need:
    """What a command needs before its handler runs: a sum of these numbers. See `state.Gate`."""

    LOGIN = 1
    NO_MULTI = 2  #: no open MULTI: the command is an error there
    DRAINED = 4  #: no reply is pending
    DEDICATED = 8  #: a dedicated connection to Redis; to get one, no reply may be pending
    SCRIPT = 16  #: a connection on which no other session's plain commands wait behind it
    UNSUBSCRIBED = 32  #: no subscription in RESP2: the command is an error there


class Handler(NamedTuple):
    """How one command is run.

    run: runs it. arity: smallest and largest number of words, the name included; -1: no limit.
    also: returns further needs, by the command's words and the session's state; changes nothing.
    """

    run: Callable[[Session, list[bytes]], None]
    arity: tuple[int, int] = (1, -1)
    needs: int = Need.LOGIN
    also: Callable[[Session, list[bytes]], int] | None = None


def arity_error(session: Session, words: list[bytes]) -> None:
    """Refuses a command that has too few words, or too many."""
    session.refuse(messages.ARITY.reply(command=words[0].lower()))


_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_INT64 = 1 << 63


def integer(text: bytes) -> int | None:
    """Returns the number that Redis reads in an argument; None if Redis takes it for none."""
    value = int(text) if _INTEGER.fullmatch(text) else _INT64
    return value if -_INT64 <= value < _INT64 else None


def full_name(session: Session, words: list[bytes]) -> bytes:
    """Returns a command's name as the server's errors have it, such as ``client|id``."""
    name = words[0].lower()
    if session.policy.before_7 or len(words) == 1 or words[1].upper() not in session.policy.known.get(name.upper(), ()):
        return name
    return name + b"|" + words[1].lower()


def refuse_as(session: Session, name: bytes, instead: list[bytes]) -> None:
    """Has Redis refuse a command that it does not get, in its own words.

    instead: a command that Redis refuses for the same reason. name: replaces its name in the error.
    """
    session.refused += 1
    send_as(session, name, instead)


def send_as(session: Session, name: bytes, instead: list[bytes]) -> None:
    """Sends Redis a command in place of the client's. An error names the client's.

    name: of the client's command, as the server's errors have it.
    """
    sent, named = b"'%b'" % instead[0].lower(), b"'%b'" % name
    discard = int(not session.replies.heard())
    batch = RewrittenReply(session.replies, discard, b"-", lambda error: error.replace(sent, named, 1))
    session.expect(encode(instead), batch)


def wrong_number(session: Session, words: list[bytes]) -> None:
    """Refuses a subcommand that has too few words, or too many."""
    if session.policy.before_7:
        syntax_error(session, words)
    else:
        arity_error(session, [b"|".join(words[:2])])


def syntax_error(session: Session, words: list[bytes]) -> None:
    """Refuses a subcommand that has too few words, or too many, where Redis itself counts them."""
    session.refuse(texts.syntax_error(words[0], words[1], session.policy.before_7))


def unknown(session: Session, words: list[bytes]) -> None:
    """Refuses a command that the server is not known to have.

    The server may have a command that it does not list. The name is not logged: it may be anything,
    a mistyped password for example.
    """
    session.forbid(b"unknown", texts.command_error(words, session.policy.before_7))


def forbid_subcommand(session: Session, words: list[bytes]) -> None:
    """Refuses a subcommand that a tenant may not use, or that the server does not have.

    The latter is not logged: clients try such subcommands to find out what the server can do, some
    clients at each connection.
    """
    if words[1].upper() in session.policy.known.get(words[0].upper(), ()):
        session.forbid(words[0] + b"|" + words[1])
    else:
        session.refuse(texts.subcommand_error(words[0], words[1], session.policy.before_7))


def query(session: Session, asked: list[list[bytes]], then: Callable[[list[Answer]], None]) -> None:
    """Suspends the session for a control query, which runs with the master's rights.

    asked: commands; then: called with an answer for each. If Redis does not answer, the client gets
    the error instead.
    """
    step: Step[list[Answer] | Unavailable] = session.suspend(Until.QUERY, partial(_answered, session, then))
    session.charge_waiting(asked)
    session.backend.query(session.tenant, asked, step)


def allow_patterns(session: Session, patterns: list[bytes], then: Callable[[None], None]) -> None:
    """Suspends the session until the tenant's ACL user may use these patterns.

    then: called after that. If it fails, the client gets the error instead.
    """
    step: Step[Unavailable | None] = session.suspend(Until.QUERY, partial(_answered, session, then))
    session.backend.allow_patterns(session.tenant, patterns, step)
    if step.waits:
        session.route.order.begin(session)


def in_turns(session: Session, work: Generator[int, None, Result], then: Callable[[Result], None]) -> None:
    """Does work in parts, as much in one turn as the tenant's budget allows.

    work: gives the units of each part. then: called with its result.
    """
    while True:
        try:
            units = next(work)
        except StopIteration as result:
            return then(result.value)
        session.work.use(bounds.WORK_WORDS * (units - 1))
        if session.work.units <= 0:
            break
    probes.reached("a command goes on in another turn")
    step: Step[None] = session.suspend(Until.TURN, lambda _: in_turns(session, work, then))
    turn, budget = _Turn(step), session.work
    step.cancel = lambda: budget.leave(turn)
    budget.wait(turn)
    return session.route.order.begin(session)


class _Turn:
    """A command that waits for its tenant's next turn. Implements `tenants.work.Worker`."""

    __slots__ = ("_step",)

    def __init__(self, step: Step[None]) -> None:
        self._step = step

    def work_on(self) -> None:
        """See `tenants.work.Worker`."""
        self._step.finish(None)


def allow_tracking(session: Session, then: Callable[[None], None]) -> None:
    """Suspends the session until the tenant's ACL user may use client-side caching.

    then: called after that. If it fails, the client gets the error instead.
    """
    step: Step[Unavailable | None] = session.suspend(Until.QUERY, partial(_answered, session, then))
    session.backend.allow_tracking(session.tenant, step)
    if step.waits:
        session.route.order.begin(session)


def _answered(session: Session, then: Callable[[Result], None], result: Result | Unavailable) -> None:
    if isinstance(result, Unavailable):
        session.not_held(result)
    else:
        then(result)


def help_reply(container: str, *lines: str) -> bytes:
    """Returns a reply like that of Redis to a container's HELP."""
    first = f"{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    lines = (first, *lines, "HELP", "    Print this help.")
    return b"*%d\r\n" % len(lines) + b"".join(b"+%b\r\n" % line.encode() for line in lines)


def verbatim(text: bytes, protocol: int) -> bytes:
    """Returns a text as a reply: a verbatim string in RESP3, a bulk string in RESP2."""
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else bulk(text)


def bulk(data: bytes) -> bytes:
    """Returns a bulk string as a reply."""
    return b"$%d\r\n%b\r\n" % (len(data), data)
