"""SLOWLOG GET, LEN and HELP: the tenant's own part of Redis's log of slow commands.

Owns the replies. Redis's log has the commands of all tenants: of a tenant it shows the entries
whose connections carry that tenant's name (`tenants.slow_log`), among the newest SLOW_LOG_ENTRIES
of all. RESET is refused: the log is common to all.

Redis's ids count the slow commands of all tenants, so a tenant does not get them. An entry's id is
made of its time and of how many entries of the tenant have the same second. It grows with each new
entry, and all processes and replicas give the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import bounds, messages
from ..resp.value import Answer
from ..tenants.model import Tenant
from ..tenants.slow_log import Entry, entries
from .commands_server import container, container_needs
from .handler import Need, bulk, help_reply, integer, query, syntax_error, wrong_number
from .scripts import without_prelude

if TYPE_CHECKING:
    from .session import Session

_ENTRIES = b"%d" % bounds.SLOW_LOG_ENTRIES
#: Entries of one second have ids of their own up to so many: more than are read at once.
_PER_SECOND = 1000
#: How many entries GET shows if it has no argument.
_DEFAULT = 10
_CHANNEL_FIRST = frozenset((b"PUBLISH", b"SPUBLISH"))
_CHANNELS = frozenset(kind + name for kind in (b"", b"P", b"S") for name in (b"SUBSCRIBE", b"UNSUBSCRIBE"))
_TEXTS = frozenset((b"EVAL", b"EVAL_RO", b"SCRIPT"))
_HELP = help_reply(
    "SLOWLOG",
    "GET [<count>]",
    "    Return the top <count> entries of this tenant (default: 10, -1 means all).",
    "    Entries are made of: id, timestamp, time in microseconds, arguments array,",
    "    and client IP, port and name, which are empty.",
    "LEN",
    "    Return the number of entries of this tenant.",
)


def slow_log(session: Session, words: list[bytes]) -> None:
    """SLOWLOG GET [count], LEN, HELP. All other subcommands are refused."""
    name = words[1].upper()
    if not _answers(session, name):
        return container(session, words)
    count = _count(session, words)
    if isinstance(count, bytes):
        return session.refuse(count)
    if count is None:
        return syntax_error(session, words) if name == b"GET" else wrong_number(session, words)
    if name == b"HELP":
        return session.answer(_HELP)

    def then(answers: list[Answer]) -> None:
        [answer] = answers
        session.work.use(sum(8 + len(one[3]) for one in _lists(answer) if len(one) > 3 and isinstance(one[3], list)))
        own = _own(answer, session.tenant)
        if name == b"LEN":
            return session.answer(b":%d\r\n" % len(own))
        shown = own if count < 0 else own[:count]
        reply = b"*%d\r\n" % len(shown) + b"".join(_reply(session.tenant, number, entry) for number, entry in shown)
        return session.answer(reply)

    return query(session, [[b"SLOWLOG", b"GET", _ENTRIES]], then)


def needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    if not _answers(session, words[1].upper()):
        return container_needs(session, words)
    if not isinstance(_count(session, words), int):
        return Need.UNSUBSCRIBED
    return Need.UNSUBSCRIBED | Need.NO_MULTI | Need.DRAINED


def _answers(session: Session, name: bytes) -> bool:
    """Returns whether the proxy answers this subcommand."""
    return b"SLOWLOG|" + name in session.policy.answered


def _count(session: Session, words: list[bytes]) -> int | bytes | None:
    """Returns how many entries a command asks for; -1: all. Bytes: the error. None: it has too many
    words.
    """
    if len(words) == 2:
        return _DEFAULT
    if len(words) > 3 or words[1].upper() != b"GET":
        return None
    count, before_7 = integer(words[2]), session.policy.before_7
    if count is None or (count < -1 and not before_7):
        return messages.NOT_AN_INTEGER.reply() if before_7 else messages.SLOW_LOG_COUNT.reply()
    return max(-1, count)


def _lists(answer: Answer) -> list[list[Answer]]:
    return [one for one in answer if isinstance(one, list)] if isinstance(answer, list) else []


def _own(answer: Answer, tenant: Tenant) -> list[tuple[int, Entry]]:
    """Returns the tenant's entries with their ids, the newest first."""
    own = [entry for entry in entries(answer) if entry.tenant == tenant]
    numbered: list[tuple[int, Entry]] = []
    second, before = 0, 0
    for entry in reversed(own):
        before = before + 1 if entry.at == second else 0
        second = entry.at
        numbered.append((second * _PER_SECOND + before, entry))
    return numbered[::-1]


def _reply(tenant: Tenant, number: int, entry: Entry) -> bytes:
    words = _as_sent(entry.words, tenant.channel_prefix)
    head = b"*6\r\n:%d\r\n:%d\r\n:%d\r\n*%d\r\n" % (number, entry.at, entry.microseconds, len(words))
    return head + b"".join(map(bulk, words)) + bulk(b"") + bulk(b"")


def _as_sent(words: list[bytes], prefix: bytes) -> list[bytes]:
    """Returns the command as the client sent it, as far as Redis keeps it."""
    name = words[0].upper()
    strip: Callable[[bytes], bytes] = lambda word: word.removeprefix(prefix)  # noqa: E731
    if name in _CHANNEL_FIRST:
        return [words[0], *map(strip, words[1:2]), *words[2:]]
    if name in _CHANNELS:
        return [words[0], *map(strip, words[1:])]
    if name in _TEXTS:
        return [words[0], *map(without_prelude, words[1:])]
    return words
