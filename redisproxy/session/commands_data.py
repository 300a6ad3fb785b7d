"""Commands about the tenant's data that are rewritten, or that need a dedicated connection: they
leave a state on it, or keep it waiting.

Owns what of them Redis gets, and what the session remembers of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .. import messages
from ..resp.framing import INSPECT_FIRST, encode
from .handler import Need
from .pending import ReplyBatch
from .route import DEDICATED

if TYPE_CHECKING:
    from .session import Session

#: Blocking commands that wait only where they say BLOCK.
_READERS = frozenset((b"XREAD", b"XREADGROUP"))
#: Those that are about what the connection wrote before.
_WAITERS = frozenset((b"WAIT", b"WAITAOF"))
_UNHEARD = b"\0redisproxy"


def block(session: Session, words: list[bytes]) -> None:
    """What may wait for other commands, and must not have them wait behind it."""
    name = words[0].upper()
    if _blocks(words):
        if name in _WAITERS and session.route.pool is not None and not session.multi:
            _mark(session)
        # also in a MULTI, where it does not wait: one that stands before the MULTI may
        session.blocked = True
    session.pass_on(words)


def block_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    return Need.DEDICATED if _blocks(words) else 0


def _blocks(words: list[bytes]) -> bool:
    return words[0].upper() not in _READERS or b"BLOCK" in map(bytes.upper, words)


def _mark(session: Session) -> None:
    """Before a WAIT: it waits until replicas have what its connection wrote; the session wrote over
    another one.

    What is sent to a channel that nobody has goes to replicas, too, behind all that was written
    before. Redis before 7 has no such channels; there any command counts.
    """
    sharded = session.policy.table.get(b"SPUBLISH") == INSPECT_FIRST
    mark = [b"SPUBLISH", session.tenant.channel_prefix + _UNHEARD, b""] if sharded else [b"PING"]
    session.expect(encode(mark), ReplyBatch(session.replies, 1, discard=1))


def multi(session: Session, words: list[bytes]) -> None:
    """MULTI: one that is here up to its EXEC, and plain, goes out in one piece, over a multiplexed
    connection as well.
    """
    if session.route.state is DEDICATED:
        return _open_multi(session, words)
    whole = session.scanner.transaction() if len(words) == 1 else None
    if whole is None:
        return session.route.acquire(session, partial(_open_multi, session, words))
    commands, count = whole
    session.commands += count
    return session.forward(encode(words) + commands, 1 + count)


def _open_multi(session: Session, words: list[bytes]) -> None:
    if session.protocol == 2 and session.subscriptions:
        # As Redis does. Not left to it: where a SUBSCRIBE fails, it would not, and the MULTI would
        # not be noticed.
        return session.refuse(messages.MULTI_SUBSCRIBED.reply())
    session.multi = session.multi or len(words) == 1
    return session.pass_on(words)


def exec_or_discard(session: Session, words: list[bytes]) -> None:
    """EXEC ends a MULTI even with arguments too many. Without a MULTI neither ends anything, a
    WATCH included.
    """
    if session.multi and (words[0].upper() == b"EXEC" or len(words) == 1):
        session.multi = session.watching = False
    session.pass_on(words)


def watch(session: Session, words: list[bytes]) -> None:
    """WATCH: an error inside MULTI."""
    session.watching = session.watching or not session.multi
    session.pass_on(words)


def unwatch(session: Session, words: list[bytes]) -> None:
    """UNWATCH: inside MULTI it is not run before EXEC."""
    session.watching = session.watching and (session.multi or len(words) > 1)
    session.pass_on(words)


def publish(session: Session, words: list[bytes]) -> None:
    """PUBLISH and SPUBLISH: to a channel of the tenant's."""
    session.pass_on([words[0], session.tenant.channel_prefix + words[1], *words[2:]])


def stream_publish(session: Session, head: list[bytes]) -> None:
    """The same, of which the second argument is large, and streams behind this."""
    session.streaming = True
    beginning = encode([head[0], session.tenant.channel_prefix + head[1]])
    session.forward(b"*3\r\n" + beginning.split(b"\r\n", 1)[1])


def flushall(session: Session, words: list[bytes]) -> None:
    """FLUSHALL empties the tenant's whole world, which is one database."""
    session.pass_on([b"FLUSHDB", *words[1:]])


def copy(session: Session, words: list[bytes]) -> None:
    """COPY source destination [DB index] [REPLACE]: only within the own database."""
    index = b"%d" % session.tenant.index
    options = words[3:]
    for position, option in enumerate(options):
        if option.upper() == b"DB" and options[position + 1 : position + 2] != [index]:
            return session.forbid(b"copy", messages.COPY_ELSEWHERE.reply(index=index))
    return session.pass_on(words)
