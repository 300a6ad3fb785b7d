"""One client's conversation: its state, and the ordered queue of what it is owed.

Owns the order of replies to one client. Bytes come in by `received`; what must happen goes out through a `Link`
(the client's connection) and a `Lane`. Knows no Twisted, no clock and no socket.

States: a session is unauthenticated, or logged in with a lane of its own. Reasons to wait (`Wait`) stop the
scanning of what the client sent, and the reading of more; the last of them is that the session is ending.
"""

from __future__ import annotations

from collections import deque
from enum import IntFlag
from typing import Protocol

from . import policy
from .lane import CONFIRMATIONS, DISCARDED, REPLIES, Owed
from .resp import (
    AUTHENTICATED,
    COMMAND,
    FORWARD,
    OVERSIZE,
    TAKE_LIMIT,
    UNAUTHENTICATED,
    ProtocolError,
    RequestScanner,
    encode,
)
from .tenants import AuthenticationError, Credential, Directory

#: Replies that may be outstanding before no more commands are read.
OWED_LIMIT = 1_000_000
#: Bytes of the proxy's own answers that may wait for their turn before no more commands are read.
ANSWERS_LIMIT = 64 * 1024
#: Bytes that a client may send before it has logged in.
UNAUTHENTICATED_LIMIT = 1024 * 1024

OK = b"+OK\r\n"
NOAUTH = b"-NOAUTH Authentication required.\r\n"
NOAUTH_HELLO = (
    b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
    b"<pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
)
SYNTAX = b"-ERR syntax error\r\n"
#: A command that every server answers with an error: inside MULTI it makes EXEC fail, as the refusal should.
SPOILER = encode([b"SELECT"])


class Lane(Protocol):
    """A connection to Redis, authenticated and SELECTed for one tenant."""

    def send(self, data: bytes) -> None:
        """Writes whole commands, or pieces of one."""

    def expect(self, owed: Owed) -> None:
        """What the bytes sent next will be answered with."""

    def forgo(self, owed: Owed) -> None:
        """The newest of what it is expected to answer will not be answered."""

    def latest(self) -> Owed | None:
        """The newest of what it is expected to answer."""

    def release(self, clean: bool) -> None:
        """Gives it back. clean: no state of this session is left on it."""


class Link(Protocol):
    """What carries a session: the client's connection, and the way to the rest of the proxy."""

    id: int

    def write(self, data: bytes) -> None:
        """To the client."""

    def close(self, mood: str) -> None:
        """Closes the client's connection when what was written has left. mood: how it ended, for the log."""

    def hold(self) -> None:
        """Read no more from the client."""

    def unhold(self) -> None:
        """Read on."""

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError."""

    def lease(self, credential: Credential) -> None:
        """Asks for a lane: `Session.lane_opened` or `lane_refused` is called, at once or later."""


class Wait(IntFlag):
    """Why a session reads no more commands for now."""

    LANE = 1  #: a lane is being opened
    ORDER = 2  #: a command must not start before all replies are here
    UNREAD = 4  #: the client does not read its answers
    OWED = 8  #: too many replies are outstanding
    ENDING = 16  #: no more commands will be read


class Session:
    """One client's conversation."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.credential: Credential | None = None
        #: the credential that a lane is being opened for
        self.candidate: Credential | None = None
        self.protocol = 2
        #: how many commands it sent, refused ones included
        self.commands = 0
        self.refused = 0
        #: what it was lent, and has not let go of
        self.lane: Lane | None = None
        self._lane_clean = True
        self._scanner = RequestScanner(UNAUTHENTICATED, policy.UNAUTHENTICATED_TABLE, policy.UNAUTHENTICATED_DEFAULT)
        self._received = 0
        self._wait = Wait(0)
        self._unread = False
        self._no_more = False
        # What the client is owed, in order: debts of the lane, and the proxy's own answers.
        self._queue: deque[Owed | bytes] = deque()
        self._owed = 0
        self._answers = 0
        self._parked: list[bytes] | None = None
        self._after_login: list[bytes] | None = None
        self._mood = ""
        self._multi = False
        self._watching = False
        self._name = b""
        self._subscriptions: dict[bytes, set[bytes]] = {}

    def __repr__(self) -> str:
        who = self.credential.tenant.namespace if self.credential else "unauthenticated"
        return f"<Session {who} owed={self._owed} wait={self._wait!r}>"

    @property
    def ended(self) -> bool:
        """Whether it reads no more commands, and never will."""
        return bool(self._wait & Wait.ENDING)

    # What the link tells.

    def received(self, data: bytes) -> None:
        """What the client sent."""
        if self.ended:
            return
        if self.credential is None:
            self._received += len(data)
            if self._received > UNAUTHENTICATED_LIMIT:
                self._answer(b"-ERR Protocol error: too much was sent without authentication\r\n")
                self.end("protocol-error")
                return
        self._scanner.feed(data)
        if not self._wait:
            self._advance()

    def half_closed(self) -> None:
        """The client will send no more; it may still read what it is owed."""
        self._no_more = True
        if not self._wait:
            self.end("client-left")

    def lost(self) -> None:
        """The client's connection is gone. Outstanding replies are thrown away with the lane."""
        self._wait |= Wait.ENDING
        self._let_go_of_lane()
        self._queue.clear()

    def unread(self, full: bool) -> None:
        """Whether what was written to the client is piling up."""
        self._unread = full
        if full and self.credential is None:
            self._stop(Wait.UNREAD)
        elif not full:
            self._go_on(Wait.UNREAD)

    def end(self, mood: str) -> None:
        """Reads no more commands, and closes once the client has all that it is owed."""
        if self.ended:
            return
        self._mood = mood
        self._stop(Wait.ENDING)
        self._parked = None
        if self._scanner.forwarding:
            self._forgo()
        if not self._queue:
            self._finish()

    def _forgo(self) -> None:
        """The command that was passed on in part will not be sent to its end, so Redis will not answer it."""
        self._lane_clean = False
        owed = self._queue[-1] if self._queue else None
        if isinstance(owed, Owed) and owed.kind == REPLIES:
            owed.count -= 1
            self._owed -= 1
            if not owed.count:
                self._queue.pop()
                self.lane.forgo(owed)

    def recheck(self, directory: Directory, now: float) -> None:
        """Ends it if what it logged in with would not log in now."""
        for credential in (self.credential, self.candidate):
            if credential is not None and not directory.holds(credential, now):
                self.end("revoked")

    def _finish(self) -> None:
        self._let_go_of_lane()
        self.link.close(self._mood)

    def _let_go_of_lane(self) -> None:
        lane, self.lane = self.lane, None
        if lane is not None:
            clean = self._lane_clean and not (self._queue or self._multi or self._watching)
            lane.release(clean and not self._scanner.forwarding)

    # What the lane tells.

    def lane_opened(self, lane: Lane) -> None:
        """The lane asked for is ready: the log-in is complete."""
        credential, self.candidate = self.candidate, None
        if self.ended or credential is None:
            lane.release(clean=True)
            return
        self._let_go_of_lane()
        self.lane = lane
        self._lane_clean = True
        self.credential = credential
        self._subscriptions = {}
        if self.protocol == 3:
            # It moved here from another tenant, and still speaks RESP3.
            self._lane_clean = False
            self._expect(1, DISCARDED)
            lane.send(encode([b"HELLO", b"3"]))
        self._scanner.limits = AUTHENTICATED
        self._scanner.table = policy.TABLE
        self._scanner.default = policy.DEFAULT
        then, self._after_login = self._after_login, None
        if then is None:
            self._answer(OK)
        else:
            self._hello(then)
        self._go_on(Wait.LANE)

    def lane_refused(self, text: str) -> None:
        """No lane could be had. The session is as it was before the log-in. text: an error reply without ``-``."""
        self.candidate = self._after_login = None
        if self.ended:
            return
        self._answer(b"-%b\r\n" % text.encode())
        self._go_on(Wait.LANE)

    def lane_lost(self) -> None:
        """The lane broke: what it owed will not come, so the conversation cannot go on."""
        self.lane = None
        self._queue.clear()
        self._wait |= Wait.ENDING
        self.link.close(self._mood or "redis-lost")

    def replied(self, owed: Owed, piece: bytes, done: int) -> None:
        """See `lane.Owner`."""
        if piece:
            self.link.write(piece)
        if not done:
            return
        self._owed -= done
        if not owed.count:
            queue = self._queue
            queue.popleft()
            while queue and isinstance(queue[0], bytes):
                answer = queue.popleft()
                self._answers -= len(answer)
                self.link.write(answer)
            if not queue:
                self._drained()
        if self._wait & Wait.OWED and self._owed <= OWED_LIMIT // 2:
            self._go_on(Wait.OWED)

    def published(self, piece: bytes) -> None:
        """See `lane.Owner`."""
        self.link.write(piece)

    def _drained(self) -> None:
        """Nothing is owed any more."""
        if self.ended:
            self._finish()
            return
        if not self._unread:
            self._go_on(Wait.UNREAD)
        if self._parked is not None:
            arguments, self._parked = self._parked, None
            self._wait &= ~Wait.ORDER
            self._perform(arguments)
            if not self._wait:
                self.link.unhold()
                self._advance()

    # Waiting.

    def _stop(self, reason: Wait) -> None:
        if not self._wait:
            self.link.hold()
        self._wait |= reason

    def _go_on(self, reason: Wait) -> None:
        if not self._wait & reason:
            return
        self._wait &= ~reason
        if not self._wait:
            self.link.unhold()
            self._advance()

    # What the client sent.

    def _advance(self) -> None:
        scanner = self._scanner
        while not self._wait:
            try:
                found = scanner.next()
            except ProtocolError as error:
                if self._scanner.forwarding:
                    self._forgo()
                self._answer(b"-ERR Protocol error: %b\r\n" % str(error).encode())
                self.end("protocol-error")
                return
            if found is None:
                if self._no_more:
                    self.end("client-left")
                return
            kind, what, count = found
            if kind == FORWARD:
                self._forward(what, count)
            elif kind == COMMAND:
                self._command(what)
            elif kind == OVERSIZE:
                self.commands += 1
                self._refuse(b"-ERR the arguments of '%b' are larger than %d bytes\r\n" % (what.lower(), TAKE_LIMIT))
            else:
                self.commands += 1
                self._refuse(NOAUTH if self.credential is None else policy.refusal(what))

    def _forward(self, data: bytes, count: int, kind: int = REPLIES) -> None:
        """Passes commands on, or a further piece of one (count 0)."""
        lane = self.lane
        if count:
            self.commands += count
            self._expect(count, kind)
        lane.send(data)

    def _expect(self, count: int, kind: int, subscribed_after: bool = False) -> None:
        queue = self._queue
        last = queue[-1] if queue else None
        if kind == REPLIES and last is not None and last is self.lane.latest() and last.kind == REPLIES:
            last.count += count
        else:
            owed = Owed(self, count, kind, subscribed_after)
            queue.append(owed)
            self.lane.expect(owed)
        self._owed += count
        if self._owed >= OWED_LIMIT:
            self._stop(Wait.OWED)

    def _answer(self, data: bytes) -> None:
        """The proxy's own answer, in its place."""
        if not self._queue:
            self.link.write(data)
            if self._unread:
                self._stop(Wait.UNREAD)
            return
        self._queue.append(data)
        self._answers += len(data)
        if self._unread or self._answers > ANSWERS_LIMIT:
            self._stop(Wait.UNREAD)

    def _refuse(self, error: bytes) -> None:
        """An error instead of a command's reply. Inside MULTI the EXEC fails, as it does where Redis refuses."""
        self.refused += 1
        if self._multi:
            self._expect(1, DISCARDED)
            self.lane.send(SPOILER)
        self._answer(error)

    def _command(self, arguments: list[bytes]) -> None:
        self.commands += 1
        name = arguments[0].upper()
        if self.credential is None and name not in _BEFORE_LOGIN:
            self._answer(NOAUTH)
        else:
            self._perform(arguments)

    def _perform(self, arguments: list[bytes]) -> None:
        _METHODS[arguments[0].upper()](self, arguments)

    def _in_order(self, arguments: list[bytes]) -> bool:
        """Whether nothing is outstanding. If something is, the command is done when it has come."""
        if not self._queue:
            return True
        self._parked = arguments
        self._stop(Wait.ORDER)
        return False

    def _arity_error(self, arguments: list[bytes]) -> None:
        self._refuse(b"-ERR wrong number of arguments for '%b' command\r\n" % arguments[0].lower())

    def _pass_on(self, arguments: list[bytes]) -> None:
        self._expect(1, REPLIES)
        self.lane.send(encode(arguments))

    # Commands that are about the connection.

    def _auth(self, arguments: list[bytes]) -> None:
        if len(arguments) == 2:
            username, password = None, arguments[1]
        elif len(arguments) == 3:
            username, password = arguments[1], arguments[2]
        elif len(arguments) == 1:
            return self._arity_error(arguments)
        else:
            return self._refuse(SYNTAX)
        if self._multi:
            return self._refuse(b"-ERR AUTH inside MULTI is not allowed\r\n")
        self._log_in(arguments, username, password, None)

    def _log_in(self, arguments: list[bytes], username: bytes | None, password: bytes, hello: list[bytes] | None) -> None:
        """AUTH, or the AUTH of a HELLO: hello is what is left of it then, to be done after a success."""
        if not self._in_order(arguments):
            return
        try:
            name = None if username is None else username.decode("utf-8", "replace")
            credential = self.link.authenticate(name, password)
        except AuthenticationError as error:
            self._answer(b"-%b\r\n" % str(error).encode())
            return
        if self.credential is not None and self.credential.tenant == credential.tenant:
            self.credential = credential
            if hello is None:
                self._answer(OK)
            else:
                self._hello(hello)
            return
        self.candidate = credential
        self._after_login = hello
        self._stop(Wait.LANE)
        self.link.lease(credential)

    def _hello(self, arguments: list[bytes]) -> None:
        """HELLO [2|3 [AUTH user password] [SETNAME name]]. What AUTH leaves is asked of Redis, so it is its own answer."""
        if len(arguments) == 1:
            if self.credential is None:
                return self._answer(NOAUTH_HELLO)
            if self._multi:
                return self._refuse(b"-ERR HELLO inside MULTI is not allowed\r\n")
            return self._pass_on(arguments)
        if arguments[1] not in (b"2", b"3"):
            if arguments[1].isdigit():
                return self._refuse(b"-NOPROTO unsupported protocol version\r\n")
            return self._refuse(b"-ERR Protocol version is not an integer or out of range\r\n")
        rest = arguments[2:]
        login = name = None
        while rest:
            option = rest[0].upper()
            if option == b"AUTH" and len(rest) >= 3:
                login = rest[1:3]
                rest = rest[3:]
            elif option == b"SETNAME" and len(rest) >= 2:
                name = rest[1]
                rest = rest[2:]
            else:
                shown = b"".join(rest[0].split()).decode("ascii", "replace")[:32]
                return self._refuse(f"-ERR Syntax error in HELLO option '{shown}'\r\n".encode("ascii", "replace"))
        if name is not None and not _is_client_name(name):
            return self._refuse(_BAD_NAME)
        if self._multi:
            return self._refuse(b"-ERR HELLO inside MULTI is not allowed\r\n")
        if login is not None:
            bare = arguments[:2] + ([] if name is None else [b"SETNAME", name])
            return self._log_in(arguments, login[0], login[1], bare)
        if self.credential is None:
            return self._answer(NOAUTH_HELLO)
        if name is not None:
            self._name = name
        self.protocol = int(arguments[1])
        if self.protocol != 2:
            self._lane_clean = False
        self._pass_on(arguments[:2])

    def _quit(self, arguments: list[bytes]) -> None:
        self._answer(OK)
        self.end("quit")

    def _reset(self, arguments: list[bytes]) -> None:
        if len(arguments) != 1:
            return self._arity_error(arguments)
        if not self._in_order(arguments):
            return
        self._let_go_of_lane()
        self.credential = None
        self.protocol = 2
        self._multi = self._watching = False
        self._subscriptions = {}
        self._name = b""
        self._received = self._scanner.buffered
        self._scanner.limits = UNAUTHENTICATED
        self._scanner.table = policy.UNAUTHENTICATED_TABLE
        self._scanner.default = policy.UNAUTHENTICATED_DEFAULT
        self._answer(b"+RESET\r\n")

    def _cross_protocol(self, arguments: list[bytes]) -> None:
        """``POST`` or ``Host:``: a browser was made to send this. No answer, as Redis does."""
        self.end("cross-protocol")

    def _select(self, arguments: list[bytes]) -> None:
        if len(arguments) != 2:
            return self._arity_error(arguments)
        tenant = self.credential.tenant
        text = arguments[1]
        if not (text.removeprefix(b"-").isdigit() and len(text) < 12):
            return self._refuse(b"-ERR value is not an integer or out of range\r\n")
        if text != b"%d" % tenant.index:
            self._refuse(b"-NOPERM this password opens database %d only: SELECT of any other is refused\r\n" % tenant.index)
        elif self._multi:
            self._pass_on(arguments)
        else:
            self._answer(OK)

    def _client(self, arguments: list[bytes]) -> None:
        if len(arguments) == 1:
            return self._arity_error(arguments)
        subcommand = arguments[1].upper()
        if self._multi or (subcommand, len(arguments)) not in _CLIENT:
            return self._refuse(policy.refusal(b"client|" + arguments[1]))
        if subcommand == b"ID":
            self._answer(b":%d\r\n" % self.link.id)
        elif subcommand == b"GETNAME":
            if self._name:
                self._answer(b"$%d\r\n%b\r\n" % (len(self._name), self._name))
            else:
                self._answer(b"_\r\n" if self.protocol == 3 else b"$-1\r\n")
        elif subcommand == b"SETNAME":
            if not _is_client_name(arguments[2]):
                return self._refuse(_BAD_NAME)
            self._name = arguments[2]
            self._answer(OK)
        elif arguments[2].upper() not in (b"LIB-NAME", b"LIB-VER"):
            self._refuse(b"-ERR Unrecognized option for CLIENT SETINFO: it takes LIB-NAME or LIB-VER\r\n")
        elif not _is_client_name(arguments[3]):
            self._refuse(b"-ERR %b cannot contain spaces, newlines or special characters.\r\n" % arguments[2].lower())
        else:
            self._answer(OK)

    # Commands that leave a state on the lane.

    def _transaction(self, arguments: list[bytes]) -> None:
        """MULTI, EXEC, DISCARD, WATCH, UNWATCH: passed on, and remembered."""
        name = arguments[0].upper()
        if name == b"MULTI":
            self._multi = self._multi or len(arguments) == 1
        elif name == b"WATCH":
            self._watching = self._watching or not self._multi
        elif len(arguments) == 1:
            if name != b"UNWATCH":
                self._multi = self._watching = False
            elif not self._multi:
                self._watching = False
        self._pass_on(arguments)

    def _subscription(self, arguments: list[bytes]) -> None:
        """(P|S)(UN)SUBSCRIBE: as many confirmations as it names channels."""
        if self._multi:
            return self._refuse(b"-ERR %b inside MULTI is not allowed\r\n" % arguments[0].upper())
        name = arguments[0].upper()
        channels = arguments[1:]
        leaving = b"UNSUBSCRIBE" in name
        if not channels and not leaving:
            return self._arity_error(arguments)
        kind = name.removesuffix(b"SUBSCRIBE").removesuffix(b"UN")  # none, P or S
        mine = self._subscriptions.setdefault(kind, set())
        if leaving:
            if not channels:
                # By name: their number is then known, whatever became of the SUBSCRIBE.
                channels = sorted(mine)
            mine.difference_update(channels)
        else:
            mine.update(channels)
        self._lane_clean = False
        self._expect(max(1, len(channels)), CONFIRMATIONS, any(self._subscriptions.values()))
        self.lane.send(encode([name, *channels]))

    # Commands that could leave the database.

    def _flushall(self, arguments: list[bytes]) -> None:
        """FLUSHALL empties the tenant's whole world, which is one database."""
        self._pass_on([b"FLUSHDB", *arguments[1:]])

    def _copy(self, arguments: list[bytes]) -> None:
        """COPY source destination [DB index] [REPLACE]: only within the own database."""
        index = b"%d" % self.credential.tenant.index
        options = arguments[3:]
        for position, option in enumerate(options):
            if option.upper() == b"DB" and options[position + 1 : position + 2] != [index]:
                return self._refuse(b"-NOPERM COPY into another database than %b is refused\r\n" % index)
        self._pass_on(arguments)

    def _script(self, arguments: list[bytes]) -> None:
        if len(arguments) > 1 and arguments[1].upper() in policy.REFUSED_SCRIPT:
            return self._refuse(policy.refusal(b"script|" + arguments[1]))
        self._pass_on(arguments)


def _is_client_name(name: bytes) -> bool:
    """What Redis takes as a client's name: printable ASCII without spaces."""
    return all(33 <= byte <= 126 for byte in name)


_BAD_NAME = b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n"

#: (subcommand, number of arguments) of CLIENT that the proxy answers.
_CLIENT = frozenset(((b"ID", 2), (b"GETNAME", 2), (b"SETNAME", 3), (b"SETINFO", 4)))

#: Commands that are understood without a log-in.
_BEFORE_LOGIN = frozenset((b"AUTH", b"HELLO", b"RESET", b"QUIT", b"POST", b"HOST:"))

_METHODS = {
    b"AUTH": Session._auth,
    b"CLIENT": Session._client,
    b"COPY": Session._copy,
    b"DISCARD": Session._transaction,
    b"EXEC": Session._transaction,
    b"FLUSHALL": Session._flushall,
    b"HELLO": Session._hello,
    b"HOST:": Session._cross_protocol,
    b"MULTI": Session._transaction,
    b"POST": Session._cross_protocol,
    b"PSUBSCRIBE": Session._subscription,
    b"PUNSUBSCRIBE": Session._subscription,
    b"QUIT": Session._quit,
    b"RESET": Session._reset,
    b"SCRIPT": Session._script,
    b"SELECT": Session._select,
    b"SSUBSCRIBE": Session._subscription,
    b"SUBSCRIBE": Session._subscription,
    b"SUNSUBSCRIBE": Session._subscription,
    b"UNSUBSCRIBE": Session._subscription,
    b"UNWATCH": Session._transaction,
    b"WATCH": Session._transaction,
}
