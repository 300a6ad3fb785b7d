"""What a command needs, and what several handlers share: refusals, questions to Redis, replies.

Owns the words in which `commands.HANDLERS` is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .. import messages
from ..policy import unknown as texts
from ..resp.value import Answer
from .ports import Unavailable
from .state import Step, Until

if TYPE_CHECKING:
    from .session import Session


Result = TypeVar("Result")


class Need:
    """What a command needs before its handler runs: a sum of these. Plain numbers, see
    `state.Gate`.
    """

    LOGIN = 1
    NO_MULTI = 2  #: it is an error inside MULTI
    DRAINED = 4  #: no reply is pending
    DEDICATED = 8  #: a dedicated connection to Redis; to get one, no reply may be pending


class Handler(NamedTuple):
    """A command. arity: how many words it has at least and at most, its name included; -1: any
    number.

    also: what else it needs, by its words and by what the session is doing. It changes nothing.
    """

    run: Callable[[Session, list[bytes]], None]
    arity: tuple[int, int] = (1, -1)
    needs: int = Need.LOGIN
    also: Callable[[Session, list[bytes]], int] | None = None


def arity_error(session: Session, words: list[bytes]) -> None:
    """The command has too few words, or too many."""
    session.refuse(messages.ARITY.reply(command=words[0].lower()))


def wrong_number(session: Session, words: list[bytes]) -> None:
    """The same of a subcommand."""
    if session.policy.before_7:
        session.refuse(texts.subcommand_error(words[0], words[1], before_7=True))
    else:
        arity_error(session, [b"|".join(words[:2])])


def unknown(session: Session, words: list[bytes]) -> None:
    """The server does not have the command. It is not passed on: the server may have one that it
    does not tell of.

    The log has no name: it may be anything, a mistyped password among others.
    """
    session.forbid(b"unknown", texts.command_error(words, session.policy.before_7))


def forbid_subcommand(session: Session, words: list[bytes]) -> None:
    """A subcommand that a tenant may not use, or that the server does not have.

    The latter is not logged: clients try these to find out what the server can do, some at each
    connection.
    """
    if words[1].upper() in session.policy.known.get(words[0].upper(), ()):
        session.forbid(words[0] + b"|" + words[1])
    else:
        session.refuse(texts.subcommand_error(words[0], words[1], session.policy.before_7))


def query(session: Session, asked: list[list[bytes]], then: Callable[[list[Answer]], None]) -> None:
    """Asks Redis with the master's rights. then: called with the answers, if Redis answered them
    all.
    """
    step: Step[list[Answer] | Unavailable] = session.suspend(Until.QUERY, partial(_answered, session, then))
    session.backend.query(session.tenant, asked, step)


def allow_patterns(session: Session, patterns: list[bytes], then: Callable[[None], None]) -> None:
    """Has the tenant's ACL user allowed them. then: called if that is done."""
    step: Step[Unavailable | None] = session.suspend(Until.QUERY, partial(_answered, session, then))
    session.backend.allow_patterns(session.tenant, patterns, step)


def _answered(session: Session, then: Callable[[Result], None], result: Result | Unavailable) -> None:
    if isinstance(result, Unavailable):
        session.answer(result.reply)
    else:
        then(result)


def help_reply(container: str, *lines: str) -> bytes:
    """A reply as Redis's own to a container's HELP."""
    first = f"{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    lines = (first, *lines, "HELP", "    Print this help.")
    return b"*%d\r\n" % len(lines) + b"".join(b"+%b\r\n" % line.encode() for line in lines)


def bulk(data: bytes) -> bytes:
    """A reply that is a bulk string."""
    return b"$%d\r\n%b\r\n" % (len(data), data)
