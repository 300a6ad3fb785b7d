"""One client's conversation: the ordered queue of what it is owed, and why it waits.

Owns the order of replies to one client. Bytes come in by `received`; what must happen goes out through a `Link`
(the client's connection) and a `Lane`. Knows no Twisted, no clock and no socket; what commands mean is the subclass's
(`session.Session`).

States: it is unauthenticated, or logged in with a lane of its own. Reasons to wait (`Wait`) stop the scanning of what
the client sent; the last of them is that the conversation is ending.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, IntFlag

from . import policy
from .lane import HELLO, REPLIES, Owed
from .links import Lane, Link
from .resp import (
    AUTHENTICATED,
    COMMAND,
    DROP,
    FORWARD,
    HEADED,
    OVERSIZE,
    STREAM,
    TAKE,
    TAKE_LIMIT,
    UNAUTHENTICATED,
    ProtocolError,
    RequestScanner,
    encode,
)
from .tenants import Credential, Directory

#: Replies that may be outstanding before no more commands are read.
OWED_LIMIT = 1_000_000
#: Bytes of the proxy's own answers that may wait for their turn before no more commands are read.
ANSWERS_LIMIT = 64 * 1024
#: Bytes that are taken from a client while it waits: reading goes on that long, so that it is noticed when it leaves.
HELD_LIMIT = 64 * 1024
#: Bytes that a client may send before it has logged in.
UNAUTHENTICATED_LIMIT = 1024 * 1024

NOAUTH = b"-NOAUTH Authentication required.\r\n"
#: A command that every server answers with an error: inside MULTI it makes EXEC fail, as the refusal should.
SPOILER = encode([b"SELECT"])


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


class Conversation:
    """One client's conversation, whatever its commands mean: `session.Session` knows that."""

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
        self._policy: policy.Policy | None = None
        self._reply = Reply.ON
        self._advancing = False
        self._mid_message = False

    # What a subclass makes of commands.

    def _command(self, arguments: list[bytes]) -> None:
        """A command that has to be looked at."""
        raise NotImplementedError

    def _perform(self, arguments: list[bytes]) -> None:
        """The same, once it is known that it may be done."""
        raise NotImplementedError

    def _headed(self, head: list[bytes]) -> None:
        """The name and first argument of a command whose second, and last, is large: it follows by `_forward`."""
        raise NotImplementedError

    def _logged_in(self, then: list[bytes] | None) -> None:
        """The log-in is complete. then: the HELLO that it was part of, None for AUTH."""
        raise NotImplementedError

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
        if self._mid_message:
            # A message of the old lane began meanwhile, and its rest would never come.
            lane.release(clean=True)
            self._let_go_of_lane()
            self._wait |= Wait.ENDING
            self.link.close("moved-within-a-message")
            return
        self._let_go_of_lane()
        self.lane = lane
        self._lane_clean = True
        self.credential = credential
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
        self._logged_in(then)
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
            if kind in (FORWARD, STREAM):
                self._forward(what, count)
            elif kind == COMMAND:
                self._command(what)
            elif kind == HEADED:
                self.commands += 1
                self._headed(what)
            elif kind == OVERSIZE:
                self.commands += 1
                self._refuse(b"-ERR the arguments of '%b' are larger than %d bytes\r\n" % (what.lower(), TAKE_LIMIT))
            else:
                self.commands += 1
                if self.credential is None:
                    self._answer(NOAUTH)
                else:
                    self._forbid(what)

    def _forward(self, data: bytes, count: int) -> None:
        """Passes commands on, or a further piece of one (count 0)."""
        if count:
            self.commands += count
            self._expect(count, REPLIES)
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

    def _forbid(self, name: bytes, error: bytes = b"") -> None:
        """Refuses what a tenant may not do, and has it written down. name: as the client spelt it; error: the usual one."""
        self.link.forbidden(policy.shown(name))
        self._refuse(error or policy.refusal(name))

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
