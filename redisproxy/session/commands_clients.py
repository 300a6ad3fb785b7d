"""CLIENT LIST, CLIENT KILL and the like: what a tenant's tools ask about its own sessions.

Owns the replies. `client_filter` has the syntax, `client_visit` does the work for each session, and
`ports.Accounts.visit` finds the sessions: only those of the tenant that asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import bounds, messages
from .client_filter import ClientFilter, FilterError, address, parse
from .client_visit import ClientVisit
from .errors import OK, SYNTAX
from .handler import verbatim, wrong_number
from .state import Step, Until

if TYPE_CHECKING:
    from .session import Session

_TRACKING_OFF = b"$5\r\nflags\r\n%b1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n"


def list_(session: Session, words: list[bytes]) -> None:
    """CLIENT LIST [filter …]: the lines of the tenant's sessions, in the order of their ids."""
    try:
        wanted = parse(words[2:], session.tenant.namespace.encode(), kills=False)
    except FilterError as error:
        return session.refuse(error.reply)

    def visited(visit: ClientVisit) -> None:
        text = visit.text
        if text is None:
            return session.refuse(messages.CLIENT_LIST_TOO_LARGE.reply(most=bounds.CLIENT_LIST_BYTES))
        session.accounts.charge(text)
        return session.answer(verbatim(text, session.protocol))

    return _visit(session, ClientVisit(wanted, False, session.connection.id), visited)


def kill(session: Session, words: list[bytes]) -> None:
    """CLIENT KILL address, or CLIENT KILL filter value …: ends sessions of the tenant."""
    if len(words) == 2:
        return session.refuse(SYNTAX) if session.policy.before_7 else wrong_number(session, words)
    try:
        old = len(words) == 3
        user = session.tenant.namespace.encode()
        wanted = ClientFilter(address=address(words[2])) if old else parse(words[2:], user, kills=True)
    except FilterError as error:
        return session.refuse(error.reply)

    def visited(visit: ClientVisit) -> None:
        if not old:
            session.answer(b":%d\r\n" % visit.killed)
        elif visit.killed:
            session.answer(OK)
        else:
            session.refuse(messages.NO_SUCH_CLIENT.reply())
        if visit.itself:
            session.ending.begin(messages.KILLED.code)

    return _visit(session, ClientVisit(wanted, True, session.connection.id), visited)


def _visit(session: Session, visit: ClientVisit, visited: Callable[[ClientVisit], None]) -> None:
    step: Step[ClientVisit] = session.suspend(Until.SESSIONS, visited)
    session.accounts.visit(visit, step)


def tracking_info(session: Session, words: list[bytes]) -> None:
    """CLIENT TRACKINGINFO: tracking is off."""
    if len(words) != 2:
        return wrong_number(session, words)
    three = session.protocol == 3
    return session.answer((b"%3\r\n" if three else b"*6\r\n") + _TRACKING_OFF % (b"~" if three else b"*"))


def redirection(session: Session, words: list[bytes]) -> None:
    """CLIENT GETREDIR: there is no redirection of tracking messages."""
    return wrong_number(session, words) if len(words) != 2 else session.answer(b":-1\r\n")


#: Their smallest and largest numbers of words, CLIENT included; -1: no limit.
WORDS = {b"GETREDIR": (2, 2), b"KILL": (3, -1), b"LIST": (2, -1), b"TRACKINGINFO": (2, 2)}
#: By name. The policy says which of them the server has, and the operator has not refused.
SUBCOMMANDS: dict[bytes, Callable[[Session, list[bytes]], None]] = {
    b"GETREDIR": redirection,
    b"KILL": kill,
    b"LIST": list_,
    b"TRACKINGINFO": tracking_info,
}
