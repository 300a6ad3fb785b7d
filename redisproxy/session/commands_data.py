"""Commands about the tenant's data that are rewritten, or that need a dedicated connection because
they block it or leave a state on it.

Owns the form in which Redis gets these commands, and the state of the session that they change.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from .. import messages, probes
from ..resp.framing import INSPECT_FIRST, encode
from . import commands_scripts as scripts
from . import costs, windowed
from .handler import Need, send_as
from .pending import ReplyBatch, RewrittenReply
from .route import DEDICATED

if TYPE_CHECKING:
    from .session import Session

#: Blocking commands that block only with the option BLOCK.
_READERS = frozenset((b"XREAD", b"XREADGROUP"))
#: Blocking commands that wait for the replication of what their connection wrote.
_WAITERS = frozenset((b"WAIT", b"WAITAOF"))
_UNHEARD = b"\0redisproxy"
_DIGITS = re.compile(rb"[0-9]")


def pass_on(session: Session, words: list[bytes]) -> None:
    """Sends a command that only had to be checked."""
    windowed.pass_on(session, words)


def block(session: Session, words: list[bytes]) -> None:
    """Runs a command that may block. On a multiplexed connection, others would wait behind it.

    If the client has left, the session ends instead: neither this command nor those behind it are
    run.
    """
    if not _blocks(words):
        return windowed.pass_on(session, words)
    if session.connection.has_left and not session.multi:
        probes.reached("command of a client that left would block")
        return session.ending.begin(messages.CLIENT_LEFT.code)
    if words[0].upper() in _WAITERS and session.route.pool is not None and not session.multi:
        _mark(session)
    # Inside MULTI it does not block. But if Redis refused the MULTI, it does.
    return session.expect_blocking(words)


def block_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    return Need.DEDICATED if _blocks(words) else 0


def _blocks(words: list[bytes]) -> bool:
    return words[0].upper() not in _READERS or b"BLOCK" in map(bytes.upper, words)


def _mark(session: Session) -> None:
    """Sends a command before a WAIT, so that the WAIT covers what the session wrote before.

    WAIT waits until replicas have what its own connection wrote, but the session wrote over a
    multiplexed connection. Replicas get an SPUBLISH, too, behind all earlier writes; nobody
    subscribes to its channel. Redis before 7 has no SPUBLISH; there any command counts.
    """
    sharded = session.policy.table.get(b"SPUBLISH") == INSPECT_FIRST
    mark = [b"SPUBLISH", session.tenant.channel_prefix + _UNHEARD, b""] if sharded else [b"PING"]
    session.expect(encode(mark), ReplyBatch(session.replies, 1, discard=1))


def multi(session: Session, words: list[bytes]) -> None:
    """MULTI: needs a dedicated connection, unless all of it up to EXEC is here and plain.

    Then the whole transaction is sent in one piece over the multiplexed connection.
    """
    if session.route.state is DEDICATED:
        return _open_multi(session, words)
    whole = session.scanner.transaction()
    if whole is None:
        return session.route.acquire(session, partial(_open_multi, session, words))
    commands, count, has_scripts, needed = whole
    session.commands += count
    if has_scripts:
        return scripts.forward(session, encode(words) + commands, 1 + count)
    if needed:
        return windowed.send(session, encode(words) + commands, 1 + count, needed)
    return session.forward(encode(words) + commands, 1 + count)


def _open_multi(session: Session, words: list[bytes]) -> None:
    windowed.open_multi(session)
    if session.transaction is None:
        session.transaction = session.backend.transactions(session.tenant).begin()
    session.pass_on(words)


def exec_or_discard(session: Session, words: list[bytes]) -> None:
    """EXEC, DISCARD: end a MULTI and its WATCH. EXEC does so even with too many arguments.

    Without a MULTI neither ends anything, not even a WATCH.
    """
    if not (session.multi and (words[0].upper() == b"EXEC" or len(words) == 1)):
        return session.pass_on(words)
    if session.windowed_in_multi and words[0].upper() == b"EXEC" and len(words) == 1:
        # See `_end_state`. Its replies are the window's, so nothing learns of a refusal.
        session.route.clean = session.route.clean and not session.policy.before_7
        return windowed.send_exec(session, encode(words))
    dedicated = session.route.dedicated
    if session.blocked and dedicated is not None and dedicated.runs_scripts:
        return scripts.unblocked(session, partial(_end_multi, session, words))
    return _end_multi(session, words)


def _end_multi(session: Session, words: list[bytes]) -> None:
    windowed.close_multi(session)
    return _end_state(session, words)


def _end_state(session: Session, words: list[bytes]) -> None:
    """Sends a command that ends a MULTI or a WATCH: EXEC, DISCARD, UNWATCH.

    Redis 5 may refuse each of them (BUSY, OOM), and then the MULTI or the WATCH stays. So no other
    session may use that connection. Later versions end them, and answer EXECABORT.
    """
    if session.route.state is not DEDICATED or not session.policy.before_7:
        return session.pass_on(words)
    discard = int(not session.replies.heard())
    return session.expect(encode(words), RewrittenReply(session.replies, discard, b"-", partial(_not_ended, session)))


def _not_ended(session: Session, error: bytes) -> bytes:
    if not error.startswith(b"-EXECABORT"):
        session.route.clean = False
    return error


def watch(session: Session, words: list[bytes]) -> None:
    """WATCH. Inside MULTI it is an error, and watches nothing."""
    if not session.multi:
        costs.watches(session, words)
    session.watching = session.watching or not session.multi
    session.pass_on(words)


def unwatch(session: Session, words: list[bytes]) -> None:
    """UNWATCH. Inside MULTI it does not run before EXEC."""
    session.watching = session.watching and session.multi
    _end_state(session, words)


def publish(session: Session, words: list[bytes]) -> None:
    """PUBLISH, SPUBLISH: put the tenant's prefix before the channel."""
    session.pass_on([words[0], session.tenant.channel_prefix + words[1], *words[2:]])


def stream_publish(session: Session, head: list[bytes]) -> None:
    """Sends the head of a PUBLISH or SPUBLISH whose message is large: the message streams behind.

    head: the command's name and the channel.
    """
    session.streaming = True
    beginning = encode([head[0], session.tenant.channel_prefix + head[1]])
    session.forward(b"*3\r\n" + beginning.split(b"\r\n", 1)[1])


def flushall(session: Session, words: list[bytes]) -> None:
    """FLUSHALL: sent as FLUSHDB, because the tenant has only one database."""
    send_as(session, b"flushall", [b"FLUSHDB", *words[1:]])


def copy(session: Session, words: list[bytes]) -> None:
    """COPY source destination [DB index] [REPLACE]: only within the tenant's database.

    Redis refuses an index without a digit, or none at all, in its own words.
    """
    index = b"%d" % session.tenant.index
    options = words[3:]
    for position, option in enumerate(options):
        target = options[position + 1 : position + 2]
        if option.upper() == b"DB" and target != [index] and _DIGITS.search(b"".join(target)):
            return session.forbid(b"copy", messages.COPY_ELSEWHERE.reply(index=index))
    return windowed.pass_on(session, words)
