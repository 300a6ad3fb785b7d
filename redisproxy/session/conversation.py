"""One client's conversation: the ordered queue of the pending replies, and why it waits.

Owns the order of replies to one client. Bytes come in by `received`; what must happen goes out through a `Link`
(the client's connection) and a `Upstream`. Knows no Twisted, no clock and no socket; which upstream connection it uses is
`route`'s, what
commands mean is `session`'s.

Reasons to wait (`Wait`) stop the scanning of what the client sent; the last of them is that the conversation is ending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial

from .. import probes
from ..policy import policy
from ..resp.framing import (
    COMMAND,
    HEADED,
    INSPECT,
    NAME_LIMIT,
    OVERSIZE,
    RUN,
    STREAM,
    UNAUTHENTICATED,
    ProtocolError,
    RequestScanner,
    encode,
)
from ..tenants.model import Credential
from .pending import HELLO, REPLIES, ReplyBatch
from .ports import Home, Link, Upstream

#: Replies that may be outstanding before no more commands are read.
PENDING_LIMIT = 1_000_000
#: Bytes of the proxy's own answers that may wait for their turn before no more commands are read.
ANSWERS_LIMIT = 64 * 1024
#: Bytes that are taken from a client while it waits: reading goes on that long, so that it is noticed when it leaves.
BUFFERED_LIMIT = 64 * 1024
#: Bytes that a client may send before it has logged in.
UNAUTHENTICATED_LIMIT = 1024 * 1024
#: What a client that speaks TLS begins with, and no command does. Unanswered, both sides would wait.
TLS_HANDSHAKE = b"\x16"

NOAUTH = b"-NOAUTH Authentication required.\r\n"
LONG_NAME = b"-ERR unknown command: no command has a name of more than %d bytes\r\n" % NAME_LIMIT
#: A command that every server answers with an error: inside MULTI it makes EXEC fail, as the refusal should.
SPOILER = encode([b"SELECT"])
#: Why a session ends whose credential was deleted, has expired, or opens another database by now.
REVOKED = "revoked"


class Wait:
    """Why a session reads no more commands for now: a sum of these. Plain numbers: an IntFlag costs as much as a command."""

    UPSTREAM = 1  #: an upstream connection is being opened
    ORDER = 2  #: a command must not start before all replies are here
    UNREAD = 4  #: the client does not read its answers
    PENDING = 8  #: too many replies are outstanding
    ENDING = 16  #: no more commands will be read
    CONTROL = 32  #: something was asked with the master's rights
    HELLO = 64  #: whether the protocol changes is not known yet
    LOGIN_DELAY = 128  #: a wrong password is answered later and later
    HOME = 256  #: the multiplexed connection takes no more for now, or is being opened
    MOVING = 512  #: what is pending must come before another upstream connection is used
    RATE = 1024  #: its tenant has done as much as it may for now


class Reply(Enum):
    """CLIENT REPLY: which commands are answered."""

    ON = "on"
    SKIP = "skip"  #: the next one is not
    OFF = "off"


class Conversation:
    """One client's conversation, on whichever upstream connection, and whatever its commands mean."""

    # More attributes than Python keeps without a dictionary for each instance.
    __slots__ = (
        "_advancing",
        "_answers",
        "_behind",
        "_came",
        "_close_reason",
        "_mid_message",
        "_multi",
        "_no_more",
        "_outstanding",
        "_parked",
        "_policy",
        "_queue",
        "_received",
        "_reply",
        "_scanner",
        "_spare",
        "_streaming",
        "_unread",
        "_upstream_clean",
        "_wait",
        "_watching",
        "blocked",
        "commands",
        "credential",
        "dedicated",
        "link",
        "protocol",
        "refused",
        "tenant_pool",
        "upstream",
    )

    def __init__(self, link: Link) -> None:
        self.link = link
        self.credential: Credential | None = None
        self.protocol = 2
        #: how many commands it sent, refused ones included
        self.commands = 0
        self.refused = 0
        #: where its commands go. Pinned: lent to it alone. Else: the multiplexed connection that it used last; None: Redis
        #: is away
        self.upstream: Upstream | None = None
        #: whether it has a dedicated connection
        self.dedicated = False
        self.tenant_pool: Home | None = None
        self._upstream_clean = True
        # Whether the beginning of a command that is not read whole was sent; see _midway.
        self._streaming = False
        self._scanner = RequestScanner(UNAUTHENTICATED, policy.UNAUTHENTICATED_TABLE, INSPECT)
        self._received = 0
        self._wait = 0
        self._unread = False
        # Whether it ends when what has come is dealt with: the client will send no more, or the proxy ends, which began
        # when so many bytes had come.
        self._no_more = False
        self._came: int | None = None
        # What the client waits for, in order: reply batches of the upstream connection, and the proxy's own answers.
        self._queue: deque[ReplyBatch | bytes] = deque()
        self._outstanding = 0
        self._answers = 0
        # What is done when nothing is pending any more.
        self._parked: Callable[[], None] | None = None
        # The multiplexed connection that counts what it has not read.
        self._behind: Upstream | None = None
        # A reply batch that is used again while it is the only one: most are.
        self._spare = ReplyBatch(self, 0)
        self._close_reason = ""
        self._multi = False
        self._watching = False
        self._policy: policy.Policy | None = None
        self._reply = Reply.ON
        self._advancing = False
        self._mid_message = False
        #: whether it waits for a command that waits for what others do, or for what stands behind one
        self.blocked = False

    # Upstream connections: see `route`.

    def _leave(self) -> None:
        """It needs no upstream connection any more."""
        raise NotImplementedError

    def _may_send(self) -> bool:
        """Of a session at home: whether the next command can be taken. If not, it goes on by itself when it can."""
        raise NotImplementedError

    def _release_if_done(self) -> None:
        """Gives its dedicated connection back, if nothing is pending and no state is left on it."""
        raise NotImplementedError

    def _begin_stream(self, data: bytes) -> None:
        """The first piece of a command that is not read whole."""
        raise NotImplementedError

    def _fail(self, count: int) -> None:
        """Redis is away: so many commands fail at once."""
        raise NotImplementedError

    def _protocol_changed(self, protocol: int) -> None:
        """Redis agreed to it."""
        raise NotImplementedError

    # Commands: see `session`.

    def _command(self, arguments: list[bytes]) -> None:
        """A command that has to be looked at."""
        raise NotImplementedError

    def _perform(self, arguments: list[bytes]) -> None:
        """The same, once it is known that it may be done."""
        raise NotImplementedError

    def _oversize(self, name: bytes) -> None:
        """A command that has to be looked at, and is too large for that."""
        raise NotImplementedError

    def _headed(self, head: list[bytes]) -> None:
        """The name and first argument of a command whose second, and last, is large: it streams behind them."""
        raise NotImplementedError

    @property
    def _midway(self) -> bool:
        """Whether Redis was sent a part of a command."""
        return self._streaming and self._scanner.forwarding

    @property
    def _stateful(self) -> bool:
        """Whether Redis knows things of its upstream connection that it must not forget."""
        return self._multi or self._watching

    def __repr__(self) -> str:
        who = self.credential.tenant.namespace if self.credential else "unauthenticated"
        return f"<Session {who} pending={self._outstanding} wait={self._reasons()}>"

    def _reasons(self) -> str:
        return "+".join(name for name, value in vars(Wait).items() if name.isupper() and self._wait & value) or "none"

    @property
    def outstanding(self) -> int:
        """How many replies it waits for."""
        return self._outstanding

    @property
    def buffered(self) -> int:
        """Bytes that the client sent and that were not passed on yet."""
        return self._scanner.buffered

    @property
    def at_rest(self) -> bool:
        """Whether it has nothing pending, and waits for nothing."""
        return not self._wait and self._nothing_pending

    @property
    def ended(self) -> bool:
        """Whether it reads no more commands, and never will."""
        return self._wait & Wait.ENDING != 0

    # What the link tells.

    def received(self, data: bytes) -> None:
        """What the client sent."""
        if self._wait & Wait.ENDING:
            return
        if self.credential is None:
            if not self._received and data.startswith(TLS_HANDSHAKE):
                self._answer(b"-ERR Protocol error: there is no TLS at this port\r\n")
                self.end("tls-on-plain-port")
                return
            self._received += len(data)
            if self._received > UNAUTHENTICATED_LIMIT:
                self._answer(b"-ERR Protocol error: too much was sent without authentication\r\n")
                self.end("protocol-error")
                return
        self._scanner.feed(data)
        if not self._wait:
            self._advance()
        if self._wait and self._scanner.buffered > BUFFERED_LIMIT:
            probes.reached("client is not read from: it sent much while it waits")
            self.link.pause_reading()

    def half_closed(self) -> None:
        """The client will send no more; it may still read the pending replies."""
        self._no_more = True
        self._came = None
        if not self._wait:
            self.end("client-left")

    def lost(self) -> None:
        """The client's connection is gone. Outstanding replies are thrown away with the upstream connection."""
        self._wait |= Wait.ENDING
        self._caught_up()
        if not self.dedicated:
            for batch in self._queue:
                if isinstance(batch, ReplyBatch):
                    batch.silent = True
                    batch.owner = NOBODY
        self._leave()
        self._queue.clear()
        self._parked = None
        self._spare.owner = NOBODY

    def unread(self, full: bool) -> None:
        """Whether what was written to the client is piling up."""
        self._unread = full
        if self.dedicated:
            self.upstream.pause(full)
        if full and self.credential is None:
            probes.reached("client that is not logged in does not read")
            self._stop(Wait.UNREAD)
        elif not full:
            self._caught_up()
            self._release_if_done()
            self._go_on(Wait.UNREAD)

    def throttle(self, throttled: bool) -> None:
        """Whether what the client sends is to wait: its tenant has done as much as it may for now."""
        if throttled:
            self._stop(Wait.RATE)
        else:
            self._go_on(Wait.RATE)

    def _caught_up(self) -> None:
        upstream, self._behind = self._behind, None
        if upstream is not None:
            upstream.read_everything(self)

    def end(self, close_reason: str) -> None:
        """Reads no more commands, and closes once the client has all its pending replies."""
        if self.ended:
            return
        self._take_no_more(close_reason)
        if self._nothing_pending:
            self._finish()

    def _take_no_more(self, close_reason: str) -> None:
        self._close_reason = close_reason
        self._stop(Wait.ENDING)
        self._parked = None
        if self._midway:
            self._withdraw()

    def revoke(self) -> None:
        """The credential is not good any more: from this moment on no command is sent, and no message is told.

        What blocks is given up at Redis, also where the session had ended already and only waited for that. Replies to
        what Redis has run are still told. `end_revoked` has to be called, soon.
        """
        if self.ended:
            self._close_reason = REVOKED
        else:
            self._take_no_more(REVOKED)
        if self._mid_message:
            probes.reached("revoked within a message")
            # The rest of it would be told after the revocation, and whatever else waits for comes behind it.
            self._finish()
        elif self.dedicated:
            self.upstream.give_up(self.blocked)

    def end_revoked(self) -> None:
        """Of a session that was revoked: closes the client once it has all its pending replies."""
        if self._nothing_pending:
            self._finish()

    def drain(self) -> None:
        """The proxy ends: what has come by now is still done, and what has begun comes to its end, a transaction as well.

        What comes later is left undone. The client is not told of it, so it knows that it has to try again.
        """
        if self.credential is None:
            self.end("shutdown")
            return
        if self._no_more:
            return  # it ends by itself
        self._no_more = True
        self._came = self.link.taken
        if not self._wait:
            self._advance()

    def _end_if_done(self, starved: bool) -> None:
        """Of one that is to end: ends it, if nothing of what has come is left. starved: unless more comes."""
        scanner = self._scanner
        if self._came is None:
            if starved:
                self.end("client-left")
        elif self._wait or self._multi or self._watching or scanner.within:
            return
        elif scanner.buffered <= self.link.taken - self._came:
            self.end("shutdown")

    def hurry(self) -> None:
        """The time for `drain` is nearly over: what Redis was not sent as a whole will not be done."""
        self.end("cut-off")

    def may_be_unblocked(self) -> None:
        """Redis is asked to give up the command that its dedicated connection waits for.

        If nothing is pending but that, the client is not told: it was not run, and is tried again elsewhere.
        """
        if (
            len(self._queue) == 1
            and isinstance(batch := self._queue[0], ReplyBatch)
            and (batch.kind, batch.count) == (REPLIES, 1)
        ):
            batch.owner = _Unblocked(self)

    @property
    def _nothing_pending(self) -> bool:
        """Whether the client has all its pending replies, and what it has ends where a reply or message ends."""
        return not (self._queue or self._mid_message)

    def _withdraw(self) -> None:
        """The command that was passed on in part will not be sent to its end, so Redis will not answer it."""
        self._upstream_clean = False
        batch = self._queue[-1] if self._queue else None
        if isinstance(batch, ReplyBatch) and batch.kind == REPLIES:
            probes.reached("command that was sent in part is given up")
            batch.count -= 1
            self._outstanding -= 1
            if not batch.count:
                self._queue.pop()
                self.upstream.withdraw(batch)

    def _finish(self) -> None:
        self._leave()
        self.link.close(self._close_reason)

    def close_slow_reader(self) -> None:
        """Others wait for what it does not read."""
        probes.reached("client is closed because others wait for what it does not read")
        self.lost()
        self.link.abort("too-slow")

    # What the upstream connection tells.

    def replied(self, batch: ReplyBatch, piece: bytes, done: int) -> None:
        """See `pending.Owner`."""
        if piece:
            self.link.write(piece)
            if self._unread and not self.dedicated:
                if self._behind is None:
                    self._behind = self.upstream
                # Elsewhere than where it fell behind it hears no more than the answer to a HELLO before it has read all.
                if self._behind is self.upstream:
                    self.upstream.slow_reader(self, len(piece))
        if not done:
            return
        self._outstanding -= done
        if not batch.count:
            queue = self._queue
            queue.popleft()
            if batch.kind == HELLO:
                self._protocol_changed(batch.protocol or self.protocol)
                self._go_on(Wait.HELLO)
            if queue:
                if type(queue[0]) is bytes:
                    self._flush()
            elif self._wait or self.dedicated:
                self._drained()
        if self._wait & Wait.PENDING and self._outstanding <= PENDING_LIMIT // 2:
            self._go_on(Wait.PENDING)

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
        """See `pending.Owner`."""
        if self._close_reason == REVOKED:
            return
        self.link.write(piece)
        waited, self._mid_message = self._mid_message, not whole
        if waited and whole:
            probes.reached("message that came in parts is whole")
            self._flush()

    def cancelled(self, count: int) -> None:
        """See `pending.Owner`."""
        probes.reached("SUBSCRIBE is refused")
        self._outstanding -= count

    def _drained(self) -> None:
        """Nothing is pending any more."""
        self.blocked = False
        if self.ended:
            self._finish()
            return
        self._release_if_done()
        # What waited for this moment comes before any command behind it: to read on first would let that one overtake it.
        waited = self._wait
        self._wait &= ~(Wait.ORDER | Wait.MOVING | (0 if self._unread else Wait.UNREAD))
        parked, self._parked = self._parked, None
        if parked is not None:
            parked()
        if waited:
            self._advance_unless_waiting()

    def _advance_unless_waiting(self) -> None:
        if not self._wait:
            self.link.resume_reading()
            self._advance()

    # Waiting.

    def _stop(self, reason: int) -> None:
        self._wait |= reason
        if self._scanner.buffered > BUFFERED_LIMIT:
            self.link.pause_reading()

    def _go_on(self, reason: int) -> None:
        if not self._wait & reason:
            return
        self._wait &= ~reason
        if not self._wait:
            self.link.resume_reading()
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
            tenant_pool = self.tenant_pool
            if tenant_pool is not None and not self.dedicated:
                upstream = self.upstream
                detour = upstream is None or upstream is not tenant_pool.upstream or upstream.busy or self._unread
                if detour and scanner.buffered and not self._may_send():
                    continue
            try:
                found = scanner.next()
            except ProtocolError as error:
                if self._midway:
                    self._withdraw()
                self._answer(b"-ERR Protocol error: %b\r\n" % str(error).encode())
                self.end("protocol-error")
                return
            if found is None:
                if self._no_more:
                    self._end_if_done(True)
                return
            kind, what, count = found
            if kind == RUN:
                self.commands += count
                self._send(what, count)
                if not scanner.buffered and not self._no_more:
                    return
            elif kind == STREAM:
                if count:
                    self.commands += 1
                    self._begin_stream(what)
                else:
                    self.upstream.send(what)
            elif kind == COMMAND:
                self._command(what)
            elif kind == HEADED:
                self.commands += 1
                self.link.inspected(what[0])
                self._headed(what)
            elif kind == OVERSIZE:
                self.commands += 1
                self.link.inspected(what)
                self._oversize(what)
            else:
                self.commands += 1
                self.link.inspected(what)
                if self.credential is None:
                    self._answer(NOAUTH)
                elif what:
                    self._forbid(what)
                else:
                    self._forbid(b"unknown", LONG_NAME)
            if self._no_more:
                self._end_if_done(False)

    def _send(self, data: bytes, count: int = 1) -> None:
        """Passes whole commands on, each with one reply."""
        upstream = self.upstream
        if upstream is None:
            return self._fail(count)
        queue = self._queue
        if self._reply is not Reply.ON:
            self._send_unheard(data, count)
        elif not queue:
            batch = self._spare
            batch.count = count
            queue.append(batch)
            upstream.send(data, batch)
        else:
            last = queue[-1]
            if last is upstream.latest() and last.kind == REPLIES and not last.silent:
                last.count += count
                upstream.send(data)
            else:
                batch = ReplyBatch(self, count)
                queue.append(batch)
                upstream.send(data, batch)
        self._outstanding += count
        if self._outstanding >= PENDING_LIMIT:
            self._too_many_pending()
        return None

    def _too_many_pending(self) -> None:
        probes.reached("too many replies are outstanding")
        self._stop(Wait.PENDING)

    def _send_unheard(self, data: bytes, count: int) -> None:
        """The same, of which the replies, or the first of them, are not to be heard: after CLIENT REPLY."""
        unheard = 1 if self._reply is Reply.SKIP else count
        self._heard()
        batches = [ReplyBatch(self, unheard, silent=True)]
        if count > unheard:
            batches.append(ReplyBatch(self, count - unheard))
        self._queue.extend(batches)
        self.upstream.send(data, *batches)

    def _expect(self, data: bytes, batch: ReplyBatch) -> None:
        """Sends what is answered in a way of its own, or by nobody heard."""
        self._queue.append(batch)
        self._outstanding += batch.count
        self.upstream.send(data, batch)
        if self._outstanding >= PENDING_LIMIT:
            self._too_many_pending()

    def _heard(self) -> bool:
        """Whether the next reply is to be heard, by CLIENT REPLY. It is asked once for each command."""
        if self._reply is Reply.SKIP:
            self._reply = Reply.ON
            return False
        return self._reply is Reply.ON

    def _answer(self, data: bytes) -> None:
        """The proxy's own answer, in its place."""
        if not self._heard():
            return
        if self._nothing_pending:
            self.link.write(data)
            if self._unread:
                self._stop(Wait.UNREAD)
            return
        self._queue.append(data)
        self._answers += len(data)
        if self._unread or self._answers > ANSWERS_LIMIT:
            probes.reached("too many of the proxy's own answers wait for their turn")
            self._stop(Wait.UNREAD)

    def _refuse(self, error: bytes) -> None:
        """An error instead of a command's reply. Inside MULTI the EXEC fails, as it does where Redis refuses."""
        self.refused += 1
        if self._multi:
            self._expect(SPOILER, ReplyBatch(self, 1, silent=True))
        self._answer(error)

    def _forbid(self, name: bytes, error: bytes = b"") -> None:
        """Refuses what a tenant may not do, and has it written down. name: as the client spelt it; error: the usual one."""
        self.link.forbidden(policy.shown(name))
        self._refuse(error or policy.refusal(name))

    def _in_order(self, arguments: list[bytes]) -> bool:
        """Whether nothing is outstanding. If something is, the command is done when it has come."""
        if self._nothing_pending:
            return True
        self._parked = partial(self._perform, arguments)
        self._stop(Wait.ORDER)
        return False

    def _arity_error(self, arguments: list[bytes]) -> None:
        self._refuse(b"-ERR wrong number of arguments for '%b' command\r\n" % arguments[0].lower())

    def _pass_on(self, arguments: list[bytes]) -> None:
        self._send(encode(arguments))


class _Nobody:
    """Is pending what a session left behind on a multiplexed connection."""

    def replied(self, batch: ReplyBatch, piece: bytes, done: int) -> None:
        """See `pending.Owner`."""

    def multiplexed_lost(self, begun: bool) -> None:
        """See `Conversation`."""


NOBODY = _Nobody()


class _Unblocked:
    """Is pending one reply in a session's place. See `Conversation.may_be_unblocked`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def replied(self, batch: ReplyBatch, piece: bytes, done: int) -> None:
        """See `pending.Owner`."""
        if done and piece.startswith(b"-UNBLOCKED "):
            piece = b""
        self._conversation.replied(batch, piece, done)
