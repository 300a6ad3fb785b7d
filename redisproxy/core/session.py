"""One client's conversation: its state, and the ordered queue of what it is owed.

Owns the order of replies to one client. Bytes come in by `received`; what must happen goes out through a `Link`
(the client's connection) and a `Lane`. Knows no Twisted, no clock and no socket.

States: a session is unauthenticated, or logged in with a lane of its own. Reasons to wait (`Wait`) stop the
scanning of what the client sent, and the reading of more; the last of them is that the session is ending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, IntFlag
from typing import Protocol

from . import policy, pubsub
from .info import tenants_info
from .lane import CONFIRMATIONS, HELLO, REPLIES, Owed
from .resp import (
    AUTHENTICATED,
    COMMAND,
    DROP,
    FORWARD,
    HEADED,
    OVERSIZE,
    TAKE,
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
#: Bytes that are taken from a client while it waits: reading goes on that long, so that it is noticed when it leaves.
HELD_LIMIT = 64 * 1024
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
    #: the client's address, for CLIENT INFO
    peer: str
    #: seconds since it came
    age: int

    def policy(self) -> policy.Policy:
        """What tenants may do on the server as it is now."""

    def ask(self, words: list[bytes]) -> None:
        """Asks Redis over the control connection: `Session.told` is called with its answer, at once or later."""

    def permit(self, patterns: list[bytes]) -> None:
        """Has the tenant's ACL user allowed these patterns, which Redis takes literally: `Session.permitted` is called."""

    def write(self, data: bytes) -> None:
        """To the client."""

    def close(self, mood: str) -> None:
        """Closes the client's connection when what was written has left. mood: how it ended, for the log."""

    def peers_of_tenant(self) -> int:
        """How many clients of the same tenant are connected."""

    def patterns_of_tenant(self) -> int:
        """How many patterns they are subscribed to."""

    def hold(self) -> None:
        """Read no more from the client."""

    def unhold(self) -> None:
        """Read on."""

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError."""

    def punish(self, error: bytes) -> None:
        """A log-in was wrong: `Session.punished` is called with its error, the later the more there were."""

    def logged_out(self) -> None:
        """The client is not logged in any more: it has as much time for that as at the beginning."""

    def lease(self, credential: Credential) -> None:
        """Asks for a lane: `Session.lane_opened` or `lane_refused` is called, at once or later."""


class Wait(IntFlag):
    """Why a session reads no more commands for now."""

    LANE = 1  #: a lane is being opened
    ORDER = 2  #: a command must not start before all replies are here
    UNREAD = 4  #: the client does not read its answers
    OWED = 8  #: too many replies are outstanding
    ENDING = 16  #: no more commands will be read
    CONTROL = 32  #: the control connection was asked something
    HELLO = 64  #: whether the protocol changes is not known yet
    PENALTY = 128  #: a wrong password is answered later and later


class Reply(Enum):
    """CLIENT REPLY: which commands are answered."""

    ON = "on"
    SKIP = "skip"  #: the next one is not
    OFF = "off"


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
        self._scanner = RequestScanner(UNAUTHENTICATED, policy.UNAUTHENTICATED_TABLE, TAKE)
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
        self._library = {b"LIB-NAME": b"", b"LIB-VER": b""}
        self._policy: policy.Policy | None = None
        self._subscriptions = pubsub.Subscriptions()
        self._reply = Reply.ON
        # What is done with the answer of the control connection.
        self._then: Callable[[object], None] | None = None
        self._advancing = False
        self._mid_message = False

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
        if self._wait and self._scanner.buffered > HELD_LIMIT:
            self.link.hold()

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
        if self._nothing_owed:
            self._finish()

    @property
    def _nothing_owed(self) -> bool:
        """Whether the client has all that it is owed, and what it has ends where a reply or message ends."""
        return not (self._queue or self._mid_message)

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
            if credential is not None:
                renewed = directory.renewed(credential, now)
                if renewed is None:
                    self.end("revoked")
                elif credential is self.credential:
                    self.credential = renewed
                else:
                    self.candidate = renewed

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
        self._subscriptions = pubsub.Subscriptions()
        if self.protocol == 3:
            # It moved here from another tenant, and still speaks RESP3.
            self._lane_clean = False
            self._expect(1, HELLO, silent=True, protocol=3)
            lane.send(encode([b"HELLO", b"3"]))
        self._scanner.limits = AUTHENTICATED
        self._policy = self.link.policy()
        self._scanner.table = self._policy.table
        self._scanner.default = DROP
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
            self._queue.popleft()
            if owed.kind == HELLO and not owed.silent:
                self.protocol = owed.protocol or self.protocol
                if self.protocol != 2:
                    self._lane_clean = False
                self._go_on(Wait.HELLO)
            self._flush()
        if self._wait & Wait.OWED and self._owed <= OWED_LIMIT // 2:
            self._go_on(Wait.OWED)

    def _flush(self) -> None:
        """Tells the client what was waiting for its turn, as far as it has come."""
        queue = self._queue
        while queue and isinstance(queue[0], bytes):
            answer = queue.popleft()
            self._answers -= len(answer)
            self.link.write(answer)
        if not queue:
            self._drained()

    def published(self, piece: bytes, whole: bool) -> None:
        """See `lane.Owner`."""
        self.link.write(piece)
        waited, self._mid_message = self._mid_message, not whole
        if waited and whole:
            self._flush()

    def excused(self, count: int) -> None:
        """See `lane.Owner`."""
        self._owed -= count

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
        self._wait |= reason
        if self._scanner.buffered > HELD_LIMIT:
            self.link.hold()

    def _go_on(self, reason: Wait) -> None:
        if not self._wait & reason:
            return
        self._wait &= ~reason
        if not self._wait:
            self.link.unhold()
            self._advance()

    # What the client sent.

    def _advance(self) -> None:
        if self._advancing:
            return  # the loop below goes on by itself, when what it is in the middle of is done
        self._advancing = True
        try:
            self._take_commands()
        finally:
            self._advancing = False

    def _take_commands(self) -> None:
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
            elif kind == HEADED:
                self.commands += 1
                self._publish(what, count)
            elif kind == OVERSIZE:
                self.commands += 1
                self._refuse(b"-ERR the arguments of '%b' are larger than %d bytes\r\n" % (what.lower(), TAKE_LIMIT))
            else:
                self.commands += 1
                self._refuse(NOAUTH if self.credential is None else policy.refusal(what))

    def _forward(self, data: bytes, count: int, kind: int = REPLIES) -> None:
        """Passes commands on, or a further piece of one (count 0)."""
        if count:
            self.commands += count
            self._expect(count, kind)
        self.lane.send(data)

    def _expect(
        self, count: int, kind: int, silent: bool = False, subscribed_after: bool = False, protocol: int = 0
    ) -> None:
        if self._reply is not Reply.ON and kind == REPLIES and not silent:
            silent = True
            if self._reply is Reply.SKIP:
                self._reply = Reply.ON
                if count > 1:
                    self._expect(1, kind, silent=True)
                    self._expect(count - 1, kind)
                    return
        queue = self._queue
        last = queue[-1] if queue else None
        if (
            kind == REPLIES
            and last is not None
            and last is self.lane.latest()
            and (last.kind, last.silent) == (kind, silent)
        ):
            last.count += count
        else:
            owed = Owed(self, count, kind, silent, subscribed_after, protocol)
            queue.append(owed)
            self.lane.expect(owed)
        self._owed += count
        if self._owed >= OWED_LIMIT:
            self._stop(Wait.OWED)

    def _answer(self, data: bytes) -> None:
        """The proxy's own answer, in its place."""
        if self._reply is not Reply.ON:
            if self._reply is Reply.SKIP:
                self._reply = Reply.ON
            return
        if self._nothing_owed:
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
            self._expect(1, REPLIES, silent=True)
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
        _METHODS.get(arguments[0].upper(), Session._container)(self, arguments)

    def _in_order(self, arguments: list[bytes]) -> bool:
        """Whether nothing is outstanding. If something is, the command is done when it has come."""
        if self._nothing_owed:
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
            self._stop(Wait.PENALTY)
            self.link.punish(b"-%b\r\n" % str(error).encode())
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

    def punished(self, error: bytes, last: bool) -> None:
        """The time for a wrong password is over: its error may be told. last: and no other will be tried."""
        if self.ended:
            return
        self._answer(error)
        if last:
            self.end("wrong-passwords")
        self._go_on(Wait.PENALTY)

    def _hello(self, arguments: list[bytes]) -> None:
        """HELLO [2|3 [AUTH user password] [SETNAME name]]. What AUTH leaves is asked of Redis, so it is its own answer."""
        if len(arguments) == 1:
            if self.credential is None:
                return self._answer(NOAUTH_HELLO)
            if self._multi:
                return self._refuse(b"-ERR HELLO inside MULTI is not allowed\r\n")
            return self._pass_hello(arguments, 0)
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
        self._pass_hello(arguments[:2], int(arguments[1]))

    def _pass_hello(self, arguments: list[bytes], protocol: int) -> None:
        """Whatever follows waits until it is known which protocol that is answered in."""
        self._expect(1, HELLO, protocol=protocol)
        self._stop(Wait.HELLO)
        self.lane.send(encode(arguments))

    def _quit(self, arguments: list[bytes]) -> None:
        self._answer(OK)
        self.end("quit")

    def _reset(self, arguments: list[bytes]) -> None:
        if len(arguments) != 1:
            return self._arity_error(arguments)
        if not self._in_order(arguments):
            return
        self._let_go_of_lane()
        if self.credential is not None:
            self._received = self._scanner.buffered
            self.link.logged_out()
        self.credential = None
        self.protocol = 2
        self._multi = self._watching = False
        self._subscriptions = pubsub.Subscriptions()
        self._name = b""
        self._scanner.limits = UNAUTHENTICATED
        self._scanner.table = policy.UNAUTHENTICATED_TABLE
        self._scanner.default = TAKE
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
            self._pass_on([b"ECHO", b"OK"])  # the lane may not SELECT any more; this keeps its place in EXEC's reply
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
        elif subcommand == b"INFO":
            line = self._describe()
            self._answer(b"$%d\r\n%b\r\n" % (len(line), line))
        elif subcommand == b"REPLY":
            self._client_reply(arguments[2].upper())
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
        elif arguments[2].upper() not in self._library:
            self._refuse(b"-ERR Unrecognized option for CLIENT SETINFO: it takes LIB-NAME or LIB-VER\r\n")
        elif not _is_client_name(arguments[3]):
            self._refuse(b"-ERR %b cannot contain spaces, newlines or special characters.\r\n" % arguments[2].lower())
        else:
            self._library[arguments[2].upper()] = arguments[3]
            self._answer(OK)

    def _client_reply(self, mode: bytes) -> None:
        """ON, OFF or SKIP. Redis goes on answering; what is not to be heard is thrown away here."""
        if mode == b"ON":
            self._reply = Reply.ON
            self._answer(OK)
        elif mode == b"OFF":
            self._reply = Reply.OFF
        elif mode == b"SKIP":
            if self._reply is Reply.ON:
                self._reply = Reply.SKIP
        else:
            self._refuse(SYNTAX)

    def _describe(self) -> bytes:
        """A line as CLIENT INFO has it, of what is the tenant's to know."""
        tenant = self.credential.tenant
        channels, patterns, sharded = self._subscriptions.counts()
        return (
            b"id=%d addr=%b name=%b age=%d db=%d sub=%d psub=%d ssub=%d multi=%d user=%b lib-name=%b lib-ver=%b resp=%d\n"
        ) % (
            self.link.id,
            self.link.peer.encode(),
            self._name,
            self.link.age,
            tenant.index,
            channels,
            patterns,
            sharded,
            0 if self._multi else -1,
            tenant.namespace.encode(),
            self._library[b"LIB-NAME"],
            self._library[b"LIB-VER"],
            self.protocol,
        )

    def _container(self, arguments: list[bytes]) -> None:
        """A command of which some subcommands are passed on."""
        if len(arguments) == 1:
            return self._arity_error(arguments)
        if arguments[1].upper() not in self._policy.subcommands.get(arguments[0].upper(), ()):
            return self._refuse(policy.refusal(arguments[0] + b"|" + arguments[1]))
        self._pass_on(arguments)

    # Questions that Redis answers about the whole server: asked over the control connection, and cut to the tenant's own.

    def _question(self, arguments: list[bytes], words: list[bytes], then: Callable[[object], None]) -> None:
        """Asks, once nothing is outstanding; then: called with the answer, an Exception where it failed."""
        if self._multi:
            return self._refuse(b"-ERR %b inside MULTI is not allowed\r\n" % arguments[0].upper())
        if not self._in_order(arguments):
            return
        self._then = then
        self._stop(Wait.CONTROL)
        self.link.ask(words)

    def told(self, answer: object) -> None:
        """What the control connection was asked for."""
        then, self._then = self._then, None
        if self.ended or then is None:
            return
        if isinstance(answer, Exception):
            self._answer(b"-ERR Redis did not answer the proxy, try again\r\n")
        else:
            then(answer)
        self._go_on(Wait.CONTROL)

    def _info(self, arguments: list[bytes]) -> None:
        tenant = self.credential.tenant

        def then(answer: object) -> None:
            text = tenants_info(answer, tenant.index, self.link.peers_of_tenant())
            if self.protocol == 3:
                self._answer(b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text))
            else:
                self._answer(b"$%d\r\n%b\r\n" % (len(text), text))

        self._question(arguments, [b"INFO", *arguments[1:]], then)

    def _pubsub(self, arguments: list[bytes]) -> None:
        """PUBSUB: about own channels, by their own names."""
        if len(arguments) == 1:
            return self._arity_error(arguments)
        subcommand = arguments[1].upper()
        prefix = self.credential.tenant.channel_prefix
        if subcommand in (b"CHANNELS", b"SHARDCHANNELS") and len(arguments) <= 3:
            pattern = arguments[2] if len(arguments) == 3 else b"*"
            self._question(
                arguments,
                [b"PUBSUB", subcommand, prefix + pattern],
                lambda found: self._answer(_array([c[len(prefix) :] for c in found if c.startswith(prefix)])),
            )
        elif subcommand in (b"NUMSUB", b"SHARDNUMSUB"):
            self._question(
                arguments,
                [b"PUBSUB", subcommand, *(prefix + channel for channel in arguments[2:])],
                lambda found: self._answer(self._numbers(found)),
            )
        elif subcommand == b"NUMPAT" and len(arguments) == 2:
            self._answer(b":%d\r\n" % self.link.patterns_of_tenant())
        else:
            self._refuse(policy.refusal(b"pubsub|" + arguments[1]))

    def _numbers(self, found: list[object]) -> bytes:
        """Channels and numbers in turn, as PUBSUB NUMSUB has them."""
        parts = [b"%%%d\r\n" % (len(found) // 2) if self.protocol == 3 else b"*%d\r\n" % len(found)]
        for channel, number in zip(found[::2], found[1::2], strict=True):
            bare = self.bare(channel)
            parts.append(b"$%d\r\n%b\r\n:%d\r\n" % (len(bare), bare, number))
        return b"".join(parts)

    # Commands that leave a state on the lane.

    def _transaction(self, arguments: list[bytes]) -> None:
        """MULTI, EXEC, DISCARD, WATCH, UNWATCH: passed on, and remembered."""
        name = arguments[0].upper()
        if name == b"MULTI":
            # Redis refuses it to a subscriber that speaks RESP2.
            self._multi = self._multi or (len(arguments) == 1 and not (self.protocol == 2 and self._subscriptions))
        elif name == b"WATCH":
            self._watching = self._watching or not self._multi
        elif name == b"UNWATCH":
            self._watching = self._watching and (self._multi or len(arguments) > 1)
        elif self._multi and (name == b"EXEC" or len(arguments) == 1):
            # EXEC ends it even with arguments too many. Without a MULTI neither ends anything, a WATCH included.
            self._multi = self._watching = False
        self._pass_on(arguments)

    def bare(self, channel: bytes) -> bytes:
        """See `lane.Owner`."""
        return channel.removeprefix(self.credential.tenant.channel_prefix)

    @property
    def patterns(self) -> frozenset[bytes]:
        """Those that it is subscribed to, as Redis knows them."""
        return self._subscriptions.of(b"P")

    def _publish(self, arguments: list[bytes], count: int | None = None) -> None:
        """PUBLISH and SPUBLISH: into an own channel. count: how many arguments it has, when these are only the first."""
        if count is None:
            count = len(arguments)
        if len(arguments) == 1:
            return self._arity_error(arguments)
        head = [arguments[0], self.credential.tenant.channel_prefix + arguments[1], *arguments[2:]]
        self._expect(1, REPLIES)
        self.lane.send(b"*%d\r\n" % count + encode(head).split(b"\r\n", 1)[1])

    def _subscription(self, arguments: list[bytes]) -> None:
        """(P|S)(UN)SUBSCRIBE: as many confirmations as it names channels."""
        if self._multi:
            return self._refuse(b"-ERR %b inside MULTI is not allowed\r\n" % arguments[0].upper())
        name = arguments[0].upper()
        kind = name.removesuffix(b"SUBSCRIBE").removesuffix(b"UN")  # none, P or S
        if len(arguments) == 1 and b"UNSUBSCRIBE" not in name:
            return self._arity_error(arguments)
        try:
            channels = [pubsub.own_channel(self.credential.tenant, kind, channel) for channel in arguments[1:]]
        except pubsub.ForeignChannelError as error:
            return self._refuse(b"-NOPERM %b\r\n" % str(error).encode())
        if b"UNSUBSCRIBE" in name:
            # Those that it has by name: their number is then known, whatever became of the SUBSCRIBE.
            channels = channels or sorted(self._subscriptions.of(kind))
            self._subscriptions.leave(kind, channels)
        elif self._subscriptions.room_for(kind, channels):
            self._subscriptions.join(kind, channels)
        else:
            return self._refuse(b"-ERR this would be more than %d subscriptions\r\n" % pubsub.MOST)
        if kind == b"P" and name == b"PSUBSCRIBE":
            self._then = lambda _: self._subscribe(name, channels)
            self._stop(Wait.CONTROL)
            self.link.permit(channels)
        else:
            self._subscribe(name, channels)

    def _subscribe(self, name: bytes, channels: list[bytes]) -> None:
        self._lane_clean = False
        self._expect(max(1, len(channels)), CONFIRMATIONS, subscribed_after=bool(self._subscriptions))
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


def _array(items: list[bytes]) -> bytes:
    """A reply of bulk strings."""
    return b"*%d\r\n" % len(items) + b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in items)


def _is_client_name(name: bytes) -> bool:
    """What Redis takes as a client's name: printable ASCII without spaces."""
    return all(33 <= byte <= 126 for byte in name)


_BAD_NAME = b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n"

#: (subcommand, number of arguments) of CLIENT that the proxy answers.
_CLIENT = frozenset(((b"ID", 2), (b"INFO", 2), (b"GETNAME", 2), (b"SETNAME", 3), (b"SETINFO", 4), (b"REPLY", 3)))

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
    b"INFO": Session._info,
    b"MULTI": Session._transaction,
    b"POST": Session._cross_protocol,
    b"PSUBSCRIBE": Session._subscription,
    b"PUBLISH": Session._publish,
    b"PUBSUB": Session._pubsub,
    b"PUNSUBSCRIBE": Session._subscription,
    b"QUIT": Session._quit,
    b"RESET": Session._reset,
    b"SELECT": Session._select,
    b"SPUBLISH": Session._publish,
    b"SSUBSCRIBE": Session._subscription,
    b"SUBSCRIBE": Session._subscription,
    b"SUNSUBSCRIBE": Session._subscription,
    b"UNSUBSCRIBE": Session._subscription,
    b"UNWATCH": Session._transaction,
    b"WATCH": Session._transaction,
}
