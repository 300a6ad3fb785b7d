"""Commands about the client's connection: AUTH, HELLO, RESET, QUIT, SELECT, CLIENT, and the first
words of HTTP requests.

Owns the syntax of these commands, and what they change in the session. `login` does the log-ins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .. import bounds, messages
from ..resp.framing import INSPECT
from . import commands_clients as clients
from . import login, tracking
from .client_line import describe
from .errors import NOAUTH_HELLO, OK, SYNTAX
from .handler import Need, bulk, forbid_subcommand, help_reply, integer, syntax_error, verbatim, wrong_number
from .state import ReplyMode

if TYPE_CHECKING:
    from .session import Session

#: Subcommands of CLIENT that the proxy answers, with their number of words, CLIENT included. 0:
#: three or more.
_CLIENT = {
    **dict.fromkeys((b"GETNAME", b"HELP", b"ID", b"INFO"), 2),
    **dict.fromkeys((b"NO-EVICT", b"NO-TOUCH", b"REPLY", b"SETNAME"), 3),
    b"SETINFO": 4,
    b"CAPA": 0,
}
#: Those that no server before Redis 7 has, although its built-in list of subcommands names them.
_CLIENT_SINCE_7 = frozenset((b"CAPA", b"NO-EVICT", b"NO-TOUCH", b"SETINFO"))
_CLIENT_HELP = help_reply(
    "CLIENT",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill own connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "    * ID <client-id> [<client-id>...]",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "    * MAXAGE <maxage>",
    "    * SKIPME (YES|NO)",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "    * USER <username>",
    "LIST [options ...]",
    "    Return information about own client connections. Options are those of KILL.",
    "NO-EVICT (ON|OFF)",
    "    Accepted, without effect.",
    "NO-TOUCH (ON|OFF)",
    "    Accepted, without effect.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are LIB-NAME and LIB-VER.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
)


# Log-ins.


def auth(session: Session, words: list[bytes]) -> None:
    """AUTH [user] password."""
    if len(words) > 3:
        return session.refuse(SYNTAX)
    user = words[1] if len(words) == 3 else None
    return login.authenticate(session, user, words[-1], None)


def auth_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    return Need.NO_MULTI | Need.DRAINED if len(words) <= 3 else 0


class _ParsedHello(NamedTuple):
    """A HELLO. error: the reply if it is malformed, else empty; login: user and password."""

    error: bytes = b""
    hello: login.Hello = login.Hello([], 0)
    login: tuple[bytes, bytes] | None = None


def _parse_hello(words: list[bytes]) -> _ParsedHello:
    """Parses HELLO [2|3 [AUTH user password] [SETNAME name]]."""
    if len(words) == 1:
        return _ParsedHello(hello=login.Hello(words, 0))
    protocol = integer(words[1])
    if protocol is None:
        return _ParsedHello(messages.PROTOCOL_NOT_AN_INTEGER.reply())
    if protocol not in (2, 3):
        return _ParsedHello(messages.NOPROTO.reply())
    rest = words[2:]
    who = name = None
    while rest:
        option = rest[0].upper()
        if option == b"AUTH" and len(rest) >= 3:
            who = rest[1], rest[2]
            rest = rest[3:]
        elif option == b"SETNAME" and len(rest) >= 2:
            name = rest[1]
            rest = rest[2:]
        else:
            return _ParsedHello(messages.HELLO_OPTION.reply(option=rest[0].partition(b"\0")[0]))
    if name is not None and (wrong := _name_error(name)):
        return _ParsedHello(wrong)
    return _ParsedHello(hello=login.Hello(words[:2], protocol, name), login=who)


def hello(session: Session, words: list[bytes]) -> None:
    """HELLO. Redis gets it without AUTH and SETNAME, so that the client gets Redis's own answer."""
    parsed = _parse_hello(words)
    if parsed.error:
        session.refuse(parsed.error)
    elif parsed.login is not None:
        login.authenticate(session, *parsed.login, parsed.hello)
    elif session.credential is None:
        session.answer(NOAUTH_HELLO)
    else:
        login.send_hello(session, parsed.hello)


def hello_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    parsed = _parse_hello(words)
    if parsed.error:
        return 0
    if parsed.login is None and (session.credential is None or login.hello_stays(session, parsed.hello.protocol)):
        return Need.NO_MULTI
    return Need.NO_MULTI | Need.DRAINED


def reset(session: Session, words: list[bytes]) -> None:
    """RESET: logs the client out, and forgets everything that it set."""
    login.log_out(session)
    session.answer(b"+RESET\r\n")


# The connection.


def quit_(session: Session, words: list[bytes]) -> None:
    """QUIT."""
    session.answer(OK)
    session.ending.begin(messages.QUIT.code)


def cross_protocol(session: Session, words: list[bytes]) -> None:
    """``POST`` or ``Host:``: closes without an answer, as Redis does.

    A web page made a browser send an HTTP request to this port.
    """
    session.ending.begin(messages.CROSS_PROTOCOL.code)


def select(session: Session, words: list[bytes]) -> None:
    """SELECT index: allowed only for the tenant's own database, where the session is already."""
    index = session.tenant.index
    number = integer(words[1])
    if number is None or not -(1 << 31) <= number < 1 << 31:
        session.refuse(messages.NOT_AN_INTEGER.reply())
    elif number != index:
        session.forbid(b"select", messages.WRONG_DATABASE.reply(index=index))
    elif session.multi:
        # SELECT is not allowed on this connection. UNWATCH gives EXEC's reply the same element in
        # its place, and does nothing: EXEC ends the WATCH before it runs the first command.
        unwatch = session.policy.table.get(b"UNWATCH") == INSPECT
        session.pass_on([b"UNWATCH"] if unwatch else [b"ECHO", b"OK"])
    else:
        session.answer(OK)


# CLIENT.


def client_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    subcommand = words[1].upper()
    if tracking.handles(session, subcommand) or b"CLIENT|" + subcommand in session.policy.answered:
        least, most = clients.WORDS.get(subcommand) or tracking.WORDS[subcommand]
        malformed = len(words) < least or 0 <= most < len(words)
        return 0 if malformed and not session.policy.before_7 else Need.UNSUBSCRIBED
    if _client_error(session, words) is not None:
        # Redis 7 checks the subcommand first.
        return Need.UNSUBSCRIBED if session.policy.before_7 else 0
    return Need.UNSUBSCRIBED | Need.NO_MULTI


def _client_error(session: Session, words: list[bytes]) -> Callable[[Session, list[bytes]], None] | None:
    """Returns what refuses a subcommand that the proxy does not answer, or that is malformed."""
    subcommand = words[1].upper()
    count = _CLIENT.get(subcommand)
    if session.policy.before_7 and subcommand in _CLIENT_SINCE_7:
        return syntax_error
    if count is None or subcommand not in session.policy.known.get(b"CLIENT", ()):
        return forbid_subcommand
    return wrong_number if len(words) != count and (count or len(words) == 2) else None


def client(session: Session, words: list[bytes]) -> None:
    """CLIENT: the proxy answers the subcommands that concern the tenant's own connections."""
    subcommand = words[1].upper()
    if tracking.handles(session, subcommand):
        return tracking.client(session, words)
    if b"CLIENT|" + subcommand in session.policy.answered:
        if session.multi:
            return session.forbid(b"client|" + words[1])
        return clients.SUBCOMMANDS[subcommand](session, words)
    refuse = _client_error(session, words)
    if refuse is not None:
        return refuse(session, words)
    if subcommand == b"HELP":
        return session.answer(_CLIENT_HELP)
    if subcommand in (b"NO-EVICT", b"NO-TOUCH"):
        # They are about the client's own connection to Redis, which others use, too.
        return session.answer(OK) if words[2].upper() in (b"ON", b"OFF") else session.refuse(SYNTAX)
    if subcommand == b"CAPA":
        # the client's capabilities, which the proxy does not use
        return session.answer(OK)
    if subcommand == b"ID":
        return session.answer(b":%d\r\n" % session.connection.id)
    if subcommand == b"INFO":
        return session.answer(verbatim(describe(session, b"client|info"), session.protocol))
    if subcommand == b"REPLY":
        return _client_reply(session, words[2].upper())
    if subcommand == b"GETNAME":
        if session.name:
            return session.answer(bulk(session.name))
        return session.answer(b"_\r\n" if session.protocol == 3 else b"$-1\r\n")
    return _client_set(session, words)


def _client_set(session: Session, words: list[bytes]) -> None:
    """CLIENT SETNAME name, CLIENT SETINFO option value."""
    if words[1].upper() == b"SETNAME":
        if wrong := _name_error(words[2]):
            return session.refuse(wrong)
        session.name = words[2]
        session.charge_state()
        return session.answer(OK)
    option = words[2].upper()
    if option not in session.client_library:
        return session.refuse(messages.SETINFO.reply(option=words[2].partition(b"\0")[0]))
    if wrong := _name_error(words[3], words[2].lower()):
        return session.refuse(wrong)
    session.client_library[option] = words[3]
    session.charge_state()
    return session.answer(OK)


def _client_reply(session: Session, mode: bytes) -> None:
    """CLIENT REPLY ON, OFF or SKIP. Redis still answers; `replies` discards what it must."""
    replies = session.replies
    if mode == b"ON":
        replies.mode = ReplyMode.ON
        session.answer(OK)
    elif mode == b"OFF":
        replies.mode = ReplyMode.OFF
    elif mode == b"SKIP":
        if replies.mode is ReplyMode.ON:
            replies.mode = ReplyMode.SKIP
    else:
        session.refuse(SYNTAX)


def _name_error(name: bytes, what: bytes = b"Client names") -> bytes:
    """Returns the error to what cannot be a client's name, or its library's; empty if it can.

    Redis takes printable ASCII without spaces. The proxy keeps the name, so its length has a limit
    (CLIENT_NAME_BYTES).
    """
    if not all(33 <= byte <= 126 for byte in name):
        return messages.CLIENT_NAME.reply(what=what)
    if len(name) > bounds.CLIENT_NAME_BYTES:
        return messages.CLIENT_NAME_TOO_LONG.reply(what=what, most=bounds.CLIENT_NAME_BYTES)
    return b""
