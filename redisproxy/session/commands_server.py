"""Commands about the server: INFO, CONFIG GET, and containers of which only some subcommands are
passed on.

Owns which of them run in Redis with the master's rights, and which part of Redis's answer the
tenant gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..policy import server_config
from ..resp.value import Answer
from . import windowed
from .errors import SYNTAX
from .handler import Need, forbid_subcommand, query, verbatim, wrong_number
from .info import sections, tenants_info

if TYPE_CHECKING:
    from .session import Session


def container(session: Session, words: list[bytes]) -> None:
    """Passes on a subcommand that the policy allows, and refuses all others."""
    if words[1].upper() in session.policy.subcommands.get(words[0].upper(), ()):
        windowed.pass_on(session, words)
    else:
        forbid_subcommand(session, words)


def container_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`. Redis 7 checks the subcommand before anything else."""
    return Need.UNSUBSCRIBED if session.policy.before_7 else 0


def info(session: Session, words: list[bytes]) -> None:
    """INFO [section …]: Redis is asked only for sections that the tenant may see.

    Before version 7, INFO takes at most one section.
    """
    if session.policy.before_7 and len(words) > 2:
        return session.refuse(SYNTAX)

    def then(answers: list[Answer]) -> None:
        text = tenants_info(answers, session.tenant.index, session.accounts.stats()) if answers else b""
        session.answer(verbatim(text, session.protocol))

    asked = [[b"INFO", section] for section in sections(words[1:])]
    return query(session, asked, then) if asked else then([])


def info_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    return 0 if session.policy.before_7 and len(words) > 2 else Need.NO_MULTI | Need.DRAINED


def config(session: Session, words: list[bytes]) -> None:
    """CONFIG GET: answers harmless settings only. All other subcommands are refused."""
    if not _is_config_get(session, words):
        return container(session, words)
    if len(words) == 2 or (session.policy.before_7 and len(words) > 3):
        return wrong_number(session, words)
    try:
        names = server_config.named(words[2:])
    except server_config.PatternError:
        return session.refuse(server_config.TOO_LONG)

    def then(answers: list[Answer]) -> None:
        session.answer(server_config.reply(names, answers, session.protocol))

    return query(session, [[b"CONFIG", b"GET", name] for name in names], then) if names else then([])


def config_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    if not _is_config_get(session, words) or len(words) == 2 or (session.policy.before_7 and len(words) > 3):
        return container_needs(session, words)
    try:
        server_config.named(words[2:])
    except server_config.PatternError:
        return Need.UNSUBSCRIBED
    return Need.UNSUBSCRIBED | Need.NO_MULTI | Need.DRAINED


def _is_config_get(session: Session, words: list[bytes]) -> bool:
    return words[1].upper() == b"GET" and b"CONFIG|GET" in session.policy.answered
