"""The table of inspected commands: what each needs before it runs, and which handler runs it.

Owns the order of checks, so which error a client gets where several apply: no log-in; unknown or
refused by the policy; wrong number of arguments; subscribed in RESP2; inside MULTI. Then the
session waits, if the command needs that: until no reply is pending, then for a dedicated
connection. Then the command's handler runs, once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .. import bounds, messages, probes
from ..policy.policy import CALLS, Policy
from ..resp.framing import COMMAND, OVERSIZE, REFUSE, STREAM
from . import commands_connection as connection
from . import commands_data as data
from . import commands_pubsub as channels
from . import commands_scripts as scripts
from . import commands_server as server
from . import commands_slow_log as slow_log
from . import commands_standing as standing
from . import costs, windowed
from .errors import LONG_NAME, NOAUTH
from .handler import Handler, Need, arity_error, full_name, refuse_as, unknown
from .route import DEDICATED

if TYPE_CHECKING:
    from .session import Session

_LOGIN, _NO_MULTI, _DEDICATED = Need.LOGIN, Need.NO_MULTI, Need.DEDICATED
_UNSUBSCRIBED = Need.UNSUBSCRIBED
_ALONE = Need.LOGIN | Need.NO_MULTI | Need.DEDICATED

#: Handlers by name. An inspected command that is not here is a container, or may block.
HANDLERS = {
    b"ACL": Handler(standing.acl, (2, -1), _LOGIN, standing.needs),
    b"AUTH": Handler(connection.auth, (2, -1), _UNSUBSCRIBED, connection.auth_needs),
    b"CLIENT": Handler(connection.client, (2, -1), _LOGIN, connection.client_needs),
    b"CLUSTER": Handler(standing.cluster, (2, -1), _LOGIN, standing.needs),
    b"CONFIG": Handler(server.config, (2, -1), _LOGIN, server.config_needs),
    b"COPY": Handler(data.copy, (3, -1), _LOGIN | _UNSUBSCRIBED),
    b"DISCARD": Handler(data.exec_or_discard),
    b"EVAL": Handler(scripts.run, (2, -1), _LOGIN | Need.SCRIPT),
    b"EVALSHA": Handler(scripts.run, (2, -1), _LOGIN | Need.SCRIPT),
    b"EVALSHA_RO": Handler(scripts.run, (2, -1), _LOGIN | Need.SCRIPT),
    b"EVAL_RO": Handler(scripts.run, (2, -1), _LOGIN | Need.SCRIPT),
    b"EXEC": Handler(data.exec_or_discard),
    b"FLUSHALL": Handler(data.flushall, needs=_LOGIN | _UNSUBSCRIBED),
    b"HELLO": Handler(connection.hello, (1, -1), _UNSUBSCRIBED, connection.hello_needs),
    b"HOST:": Handler(connection.cross_protocol, needs=0),
    b"INFO": Handler(server.info, (1, -1), _LOGIN | _UNSUBSCRIBED, server.info_needs),
    b"MODULE": Handler(standing.module, (2, -1), _LOGIN, standing.needs),
    b"MULTI": Handler(data.multi, (1, 1), _LOGIN | _UNSUBSCRIBED),
    b"POST": Handler(connection.cross_protocol, needs=0),
    b"PSUBSCRIBE": Handler(channels.subscribe, (2, -1), _ALONE),
    b"PUBLISH": Handler(data.publish, (2, -1)),
    b"PUBSUB": Handler(channels.pubsub, (2, -1), _LOGIN, channels.pubsub_needs),
    b"PUNSUBSCRIBE": Handler(channels.unsubscribe, (1, -1), _ALONE),
    b"QUIT": Handler(connection.quit_, needs=0),
    b"RESET": Handler(connection.reset, (1, 1), Need.DRAINED),
    b"ROLE": Handler(standing.role, (1, 1), _LOGIN | _NO_MULTI | _UNSUBSCRIBED),
    b"SCRIPT": Handler(scripts.script, (2, -1), _LOGIN, server.container_needs),
    b"SELECT": Handler(connection.select, (2, 2), _LOGIN | _UNSUBSCRIBED),
    b"SLOWLOG": Handler(slow_log.slow_log, (2, -1), _LOGIN, slow_log.needs),
    b"SPUBLISH": Handler(data.publish, (2, -1)),
    b"SSUBSCRIBE": Handler(channels.subscribe, (2, -1), _ALONE),
    b"SUBSCRIBE": Handler(channels.subscribe, (2, -1), _ALONE),
    b"SUNSUBSCRIBE": Handler(channels.unsubscribe, (1, -1), _ALONE),
    b"UNSUBSCRIBE": Handler(channels.unsubscribe, (1, -1), _ALONE),
    b"UNWATCH": Handler(data.unwatch, (1, 1), _LOGIN | _UNSUBSCRIBED),
    b"WATCH": Handler(data.watch, (2, -1), _LOGIN | _DEDICATED | _UNSUBSCRIBED),
    **dict.fromkeys(costs.PLAIN, Handler(data.pass_on)),
}
#: The name of a command that is streamed.
_STREAMED_NAME = re.compile(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n")
#: A command that may wait for other sessions' commands. Those must not wait behind it.
BLOCKING = Handler(data.block, also=data.block_needs)
#: A command of which only some subcommands are passed on.
CONTAINER = Handler(server.container, (2, -1), _LOGIN, server.container_needs)


def receive(session: Session, kind: int, what: bytes | list[bytes]) -> None:
    """Handles a command that is not plain, or the beginning of a large one.

    kind, what: as the scanner found it, see `resp.framing`.
    """
    if isinstance(what, list):
        session.accounts.inspected(what[0])
        if kind == COMMAND:
            return dispatch(session, what)
        session.streaming = False  # HEADED
        if what[0].upper() in CALLS:
            return _acquire_for_script(session, partial(scripts.stream, session, what, session.policy))
        return session.route.acquire(session, partial(data.stream_publish, session, what))
    if kind == STREAM:
        session.streaming = False
        begin = partial(_begin_stream, session, what, session.policy)
        return (_acquire_for_script if _may_call(what) else session.route.acquire)(session, begin)
    session.accounts.inspected(what)
    if kind == OVERSIZE:
        if session.credential is not None and what.upper() not in session.policy.table:
            return unknown(session, [what])
        return session.refuse(messages.ARGUMENTS_TOO_LARGE.reply(command=what.lower(), most=bounds.INSPECTED_BYTES))
    if session.credential is None:
        return session.answer(NOAUTH)
    if what:
        return session.forbid(what)
    return session.forbid(b"unknown", LONG_NAME)


def _acquire_for_script(session: Session, then: Callable[[], None]) -> None:
    """Calls `then` when the session has a dedicated connection for what may be a script."""
    scripts.unblocked(session, partial(session.route.acquire, session, then))


def _may_call(piece: bytes) -> bool:
    """Returns whether a streamed command may run a script. piece: its first one."""
    found = _STREAMED_NAME.match(piece)
    return found is None or found[1].upper() in CALLS


def _begin_stream(session: Session, piece: bytes, judge: Policy) -> None:
    """Sends the first piece of a streamed command.

    judge: the policy that let the command pass, perhaps a while ago.
    """
    if judge != session.policy:
        probes.reached("Redis was replaced while a large command waited")
        return session.refuse_waiting(messages.REPLACED.text)
    if session.blocked and windowed.is_large(session, piece):
        probes.reached("large command of the window waits for one that blocks")
        again = partial(_begin_stream, session, piece, judge)
        return session.when_drained(partial(session.route.acquire, session, again))
    session.route.runs_scripts()  # it may be one: only its first piece is known here
    return windowed.begin_large(session, piece)


def dispatch(session: Session, words: list[bytes]) -> None:
    """Checks a command, waits for what it needs, and runs it. words: its name and arguments."""
    name = words[0].upper()
    handler = HANDLERS.get(name)
    if session.credential is None:
        if handler is None or handler.needs & _LOGIN:
            return session.answer(NOAUTH)
    elif not _passes(session, name, words):
        return None
    if handler is None:
        handler = BLOCKING if name in session.policy.blocking else CONTAINER
    least, most = handler.arity
    if len(words) < least or 0 <= most < len(words):
        return arity_error(session, words)
    if name in costs.CHECKS and (error := costs.CHECKS[name](session, words)):
        return session.refuse(error)
    needs = handler.needs
    if handler.also is not None:
        needs |= handler.also(session, words)
    if needs & _UNSUBSCRIBED and session.subscriptions is not None and session.protocol == 2:
        # Whether Redis takes a SUBSCRIBE or an UNSUBSCRIBE before it is known when it has answered.
        return session.when_drained(partial(_unless_subscribed, session, name, words, handler, needs))
    return _meet(session, name, words, handler, needs)


def _meet(session: Session, name: bytes, words: list[bytes], handler: Handler, needs: int) -> None:
    """Waits for what a command needs, if it may run, and runs it."""
    if needs & _NO_MULTI and session.multi:
        return session.refuse(messages.MULTI_INSIDE.reply(command=name))
    if needs & Need.SCRIPT and session.blocked:
        return scripts.unblocked(session, partial(_unblocked, session, name, words, handler, needs))
    if needs & Need.SCRIPT and not session.route.takes_scripts():
        return session.route.run_scripts(session, 1, partial(_run_later, session, name, words, handler.run))
    if needs & _DEDICATED and session.route.state is not DEDICATED:
        return session.route.acquire(session, partial(_run_later, session, name, words, handler.run))
    if needs & Need.DRAINED and not session.replies.drained:
        return session.when_drained(partial(_run_later, session, name, words, handler.run))
    return handler.run(session, words)


def _unblocked(session: Session, name: bytes, words: list[bytes], handler: Handler, needs: int) -> None:
    """Goes on with a command that has waited for one that may block."""
    if _passes(session, name, words):
        _meet(session, name, words, handler, needs)


def _unless_subscribed(session: Session, name: bytes, words: list[bytes], handler: Handler, needs: int) -> None:
    """Goes on with a command that Redis refuses to RESP2 subscribers, unless the client is one.

    Redis itself refuses then, but a harmless command: it would not check the client's own before
    the rights of the tenant's ACL user, which has none to it, perhaps.
    """
    if session.subscriptions:
        return refuse_as(session, full_name(session, words), [b"ECHO", b""])
    if session.credential is None or _passes(session, name, words):
        return _meet(session, name, words, handler, needs)
    return None


def expects_dedicated(session: Session, name: bytes) -> bool:
    """Returns whether a command of this name mostly needs a dedicated connection."""
    name = name.upper()
    handler = HANDLERS.get(name)
    if handler is None:
        return name in session.policy.blocking
    return bool(handler.needs & _DEDICATED) or name == b"MULTI"


def _passes(session: Session, name: bytes, words: list[bytes]) -> bool:
    """Returns whether the policy lets the command pass. If not, answers with the error."""
    verdict = session.policy.table.get(name)
    if verdict is None:
        unknown(session, words)
        return False
    if verdict == REFUSE:  # by a policy that came after the command was read
        session.forbid(words[0])
        return False
    return True


def _run_later(session: Session, name: bytes, words: list[bytes], run: Callable[[Session, list[bytes]], None]) -> None:
    """Runs a command that waited, unless the policy has changed and refuses it now."""
    if session.credential is None or _passes(session, name, words):
        run(session, words)
