"""Commands about scripts: EVAL, EVALSHA, FCALL, and SCRIPT with what it says of scripts.

Owns the form in which Redis gets these commands, and its answers as the client gets them. A script
that publishes is another one in Redis, with another SHA: see `scripts`. The scanner hands over only
such scripts; EVAL and EVALSHA of all others are plain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .. import messages, probes
from ..policy.policy import TEXT_SCRIPTS, Policy
from ..resp.framing import encode
from . import scripts
from .commands_server import container
from .pending import RewrittenReply
from .scripts import Rewritten

if TYPE_CHECKING:
    from .session import Session

#: The first bytes of replies that are rewritten: errors; errors and bulk strings.
_ERRORS = b"-"
_ERRORS_AND_TEXT = b"-$"


def forward(session: Session, data: bytes, count: int) -> None:
    """Sends whole commands that run scripts, or a transaction with such commands.

    They are sent as they came, when the session has a connection where they may take long.
    """
    if session.blocked:
        return unblocked(session, partial(_forward_unblocked, session, data, count, session.policy))
    if session.route.takes_scripts():
        return session.forward(data, count)
    return session.route.run_scripts(session, count, partial(_forward, session, data, count, session.policy))


def unblocked(session: Session, then: Callable[[], None]) -> None:
    """Calls `then` when no command that may block is before what runs a script, at once or later.

    Redis does not write the reply of the one before while it runs the other. So nobody could tell a
    script that has to be ended from a command that is blocked: see `upstream.script_watch`.
    """
    if not session.blocked:
        return then()
    probes.reached("script waits for a command that may block")
    return session.when_drained(then)


def _forward_unblocked(session: Session, data: bytes, count: int, judge: Policy) -> None:
    """Sends such commands, which have waited for the session's own replies."""
    then = partial(_forward, session, data, count, judge)
    if session.route.takes_scripts():
        return then()
    return session.route.run_scripts(session, count, then)


def _forward(session: Session, data: bytes, count: int, judge: Policy) -> None:
    """Sends such commands. judge: the policy that let them pass, perhaps a while ago."""
    if judge != session.policy:
        probes.reached("Redis was replaced, or scripts are refused by now, while scripts waited")
        return session.refuse_waiting(_changed(session), count)
    return session.forward(data, count)


def _changed(session: Session) -> str:
    """Returns the error, without ``-``, for scripts that waited while the policy changed."""
    error = session.policy.script_error
    return error[1:-2].decode() if error else messages.REPLACED.text


def run(session: Session, words: list[bytes]) -> None:
    """EVAL, EVALSHA and their read-only forms, of a script that publishes."""
    words, rewrite = _in_redis(session, words)
    _send(session, encode(words), _ERRORS, rewrite)


def stream(session: Session, head: list[bytes], judge: Policy) -> None:
    """Sends the head of such a command, whose further arguments stream behind, as they are large.

    head: the command's name and its first arguments; judge: the policy that let the command pass,
    perhaps a while ago.
    """
    if judge != session.policy:
        probes.reached("Redis was replaced while a large command waited")
        return session.refuse_waiting(_changed(session))
    session.route.runs_scripts()
    session.streaming = True
    count = len(head) + session.scanner.arguments_left
    head, rewrite = _in_redis(session, head)
    beginning = encode(head).split(b"\r\n", 1)[1]
    return _send(session, b"*%d\r\n%b" % (count, beginning), _ERRORS, rewrite)


def script(session: Session, words: list[bytes]) -> None:
    """SCRIPT: LOAD, EXISTS and SHOW of scripts that publish; all else as any container."""
    subcommand = words[1].upper()
    if subcommand not in session.policy.subcommands.get(b"SCRIPT", ()):
        return container(session, words)
    if subcommand == b"LOAD" and len(words) == 3 and scripts.publishes(words[2]):
        rewritten = session.scripts.rewrite(words[2])
        return _send(session, encode([*words[:2], rewritten.text]), _ERRORS_AND_TEXT, _with_own_sha(rewritten))
    if subcommand == b"EXISTS":
        return session.pass_on([*words[:2], *map(session.scripts.in_redis, words[2:])])
    if subcommand == b"SHOW" and len(words) == 3 and (found := session.scripts.in_redis(words[2])) != words[2]:
        return _send(session, encode([*words[:2], found]), _ERRORS_AND_TEXT, session.scripts.original)
    return container(session, words)


def _in_redis(session: Session, words: list[bytes]) -> tuple[list[bytes], Callable[[bytes], bytes]]:
    """Returns the command as Redis gets it, and the function that rewrites its reply."""
    if words[0].upper() in TEXT_SCRIPTS:
        rewritten = session.scripts.rewrite(words[1])
        return [words[0], rewritten.text, *words[2:]], _with_own_sha(rewritten)
    found = session.scripts.in_redis(words[1])
    return [words[0], found, *words[2:]], _with_own_sha(Rewritten(b"", words[1].lower(), found))


def _with_own_sha(rewritten: Rewritten) -> Callable[[bytes], bytes]:
    """Returns the function that names the client's SHA in a reply. Redis names it in errors."""
    return lambda reply: reply.replace(rewritten.sha_in_redis, rewritten.sha)


def _send(session: Session, data: bytes, kinds: bytes, rewrite: Callable[[bytes], bytes]) -> None:
    """Sends a command, or its beginning, and has its reply rewritten.

    kinds: the first bytes of the replies that are.
    """
    discard = int(not session.replies.heard())
    session.expect(data, RewrittenReply(session.replies, discard, kinds, rewrite))
