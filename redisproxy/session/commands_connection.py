"""Commands about the client's connection: AUTH, HELLO, RESET, QUIT, SELECT, CLIENT, and the first
words of HTTP requests.

Owns the syntax of these commands, and what they change in the session. `login` does the log-ins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .. import bounds, messages
from . import login
from .errors import BAD_NAME, NOAUTH_HELLO, OK, SYNTAX
from .handler import Need, bulk, forbid_subcommand, help_reply, wrong_number
from .state import ReplyMode

if TYPE_CHECKING:
    from .session import Session

#: Subcommands of CLIENT that the proxy answers, with their number of words, CLIENT included. 0:
#: three or more.
_CLIENT = {b"CAPA": 0, b"GETNAME": 2, b"HELP": 2, b"ID": 2, b"INFO": 2, b"REPLY": 3, b"SETINFO": 4, b"SETNAME": 3}
_CLIENT_HELP = help_reply(
    "CLIENT",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are LIB-NAME and LIB-VER.",
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
    if words[1] not in (b"2", b"3"):
        if words[1].isdigit():
            return _ParsedHello(messages.NOPROTO.reply())
        return _ParsedHello(messages.PROTOCOL_NOT_AN_INTEGER.reply())
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
            shown = b"".join(rest[0].split()).decode("ascii", "replace")[:32]
            return _ParsedHello(messages.HELLO_OPTION.reply(option=shown))
    if name is not None and not is_client_name(name):
        return _ParsedHello(BAD_NAME)
    return _ParsedHello(hello=login.Hello(words[:2], int(words[1]), name), login=who)


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
    text = words[1]
    if not (text.removeprefix(b"-").isdigit() and len(text) < 12):
        session.refuse(messages.NOT_AN_INTEGER.reply())
    elif text != b"%d" % index:
        session.forbid(b"select", messages.WRONG_DATABASE.reply(index=index))
    elif session.multi:
        # SELECT is not allowed on this connection. ECHO gives EXEC's reply an element in its place.
        session.pass_on([b"ECHO", b"OK"])
    else:
        session.answer(OK)


# CLIENT.


def client(session: Session, words: list[bytes]) -> None:
    """CLIENT: the subcommands that concern the client's own connection. The proxy answers them."""
    subcommand = words[1].upper()
    count = _CLIENT.get(subcommand)
    if count is None or (subcommand == b"CAPA" and subcommand not in session.policy.known.get(b"CLIENT", ())):
        return forbid_subcommand(session, words)
    if session.multi:
        return session.forbid(b"client|" + words[1])
    if len(words) != count and (count or len(words) == 2):
        return wrong_number(session, words)
    if subcommand == b"HELP":
        return session.answer(_CLIENT_HELP)
    if subcommand == b"CAPA":
        # the client's capabilities, which the proxy does not use
        return session.answer(OK)
    if subcommand == b"ID":
        return session.answer(b":%d\r\n" % session.connection.id)
    if subcommand == b"INFO":
        return session.answer(bulk(_describe(session)))
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
        if not is_client_name(words[2]):
            return session.refuse(BAD_NAME)
        session.name = words[2]
        return session.answer(OK)
    option = words[2].upper()
    if option not in session.client_library:
        return session.refuse(messages.SETINFO.reply())
    if not is_client_name(words[3]):
        return session.refuse(BAD_NAME.replace(b"Client names", words[2].lower()))
    session.client_library[option] = words[3]
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


def _describe(session: Session) -> bytes:
    """Returns the line of CLIENT INFO, with all of Redis's fields, because libraries ask for them.

    What does not concern the tenant, such as buffers of a connection that others use, is 0.
    """
    connection, tenant, subscriptions = session.connection, session.tenant, session.subscriptions
    library = session.client_library
    channels, patterns, sharded = (0, 0, 0) if subscriptions is None else subscriptions.counts()
    flags = b"P" * bool(channels or patterns or sharded) + b"x" * session.multi
    return (
        b"id=%d addr=%b laddr=%b fd=0 name=%b age=%d idle=0 flags=%b db=%d sub=%d psub=%d ssub=%d multi=%d watch=%d "
        b"qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=client|info "
        b"user=%b redir=-1 resp=%d lib-name=%b lib-ver=%b\n"
    ) % (
        connection.id,
        _endpoint(connection.peer),
        _endpoint(connection.local),
        session.name,
        connection.age,
        flags or b"N",
        tenant.index,
        channels,
        patterns,
        sharded,
        0 if session.multi else -1,
        session.watching,
        tenant.namespace.encode(),
        session.protocol,
        library[b"LIB-NAME"],
        library[b"LIB-VER"],
    )


def _endpoint(address: str) -> bytes:
    """Returns an address as a field's value, which has no spaces: a Unix socket has no port."""
    return b"?:0" if " " in address else address.encode()


def is_client_name(name: bytes) -> bool:
    """Returns whether Redis takes this as a client's name: printable ASCII without spaces.

    The proxy keeps the name, so its length has a limit (CLIENT_NAME_BYTES).
    """
    return len(name) <= bounds.CLIENT_NAME_BYTES and all(33 <= byte <= 126 for byte in name)
