"""One client's session: reads its commands, forwards the plain ones, and hands the others to
`commands`.

Owns the loop over what the client sent, the gates that stop it, and the one Step that it waits for.
The order of replies is `replies`' business, the connections to Redis are `route`'s, the end is
`ending`'s. Clocks, sockets and Redis are outside: see `ports`. It is longer than other modules
since all events meet here: what each of them opens, the loop goes on with.

How it stops and goes on: each gate has an owner (`state.Gate`), which closes it and opens it. While
any is closed, no command is read. What a command waits for is a Step; a session has one at most,
and goes on with it, not from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .. import bounds, messages, probes
from ..policy import policy
from ..resp.framing import (
    INSPECT,
    RUN,
    STREAM,
    UNAUTHENTICATED,
    ProtocolError,
    RequestScanner,
    encode,
)
from ..tenants.model import Credential, Tenant
from . import commands
from .ending import Ending
from .errors import LOST, SPOILER
from .login import Login
from .pending import HELLO, ReplyBatch
from .ports import Accounts, Backend, ClientConnection, Dedicated
from .pubsub import Subscriptions
from .replies import ReplyQueue
from .route import DEDICATED, MULTIPLEXED, Route
from .state import BugError, Gate, Phase, Step, Until, names

#: What a client that speaks TLS begins with, and no command does. Unanswered, both sides would
#: wait.
TLS_HANDSHAKE = b"\x16"

_OPEN, _DRAINING = Phase.OPEN, Phase.DRAINING

Result = TypeVar("Result")


class Session:
    """One client's session.

    connection: the client's; accounts: who may log in; backend: the Redis that its commands go to.
    """

    __slots__ = (
        "_advancing",
        "_client_library",
        "accounts",
        "backend",
        "blocked",
        "commands",
        "connection",
        "credential",
        "ending",
        "gates",
        "multi",
        "name",
        "pending_login",
        "policy",
        "protocol",
        "refused",
        "replies",
        "route",
        "scanner",
        "sent_unauthenticated",
        "step",
        "streaming",
        "subscriptions",
        "watching",
    )

    def __init__(self, connection: ClientConnection, accounts: Accounts, backend: Backend) -> None:
        self.connection = connection
        self.accounts = accounts
        self.backend = backend
        self.replies = ReplyQueue(connection, self)
        self.route = Route(self.replies)
        self.scanner = RequestScanner(UNAUTHENTICATED, policy.UNAUTHENTICATED_TABLE, INSPECT)
        #: why it reads no next command: a sum of Gates
        self.gates = 0
        self.ending = Ending(self)
        #: with a result that fits what it waits for: see `state.Until`
        self.step: Step[Any] | None = None
        self.credential: Credential | None = None
        self.pending_login: Login | None = None
        #: what the tenant may do: of the Redis that its commands go to
        self.policy = backend.policy
        self.protocol = 2
        #: how many commands came, refused ones included
        self.commands = 0
        self.refused = 0
        # What its connection has: a transaction; keys that are watched; subscriptions, made at the
        # first one.
        self.multi = False
        self.watching = False
        self.subscriptions: Subscriptions | None = None
        #: by CLIENT SETNAME, and by CLIENT SETINFO where that came
        self.name = b""
        self._client_library: dict[bytes, bytes] | None = None
        #: whether it waits for a command that waits for what others do, or for what stands behind
        #: one
        self.blocked = False
        #: whether the beginning of a command that is not read whole was sent: see `midway`
        self.streaming = False
        #: bytes that came without a log-in
        self.sent_unauthenticated = 0
        self._advancing = False

    def __repr__(self) -> str:
        who = self.credential.tenant.namespace if self.credential else "unauthenticated"
        state = f"{self.ending.phase.value} {self.route.state.value}"
        return f"<Session {who} pending={self.replies.pending} {state} gates={names(self.gates)} {self.step or ''}>"

    # What others may know of it.

    @property
    def ended(self) -> bool:
        """Whether it reads no more commands, and never will."""
        return self.gates & Gate.CLOSING != 0

    @property
    def dedicated(self) -> Dedicated | None:
        """Its dedicated connection to Redis."""
        return self.route.dedicated

    @property
    def outstanding(self) -> int:
        """How many replies it waits for."""
        return self.replies.pending

    @property
    def buffered(self) -> int:
        """Bytes that the client sent and that were not passed on yet."""
        return self.scanner.buffered

    @property
    def at_rest(self) -> bool:
        """Whether no reply is pending, and it waits for nothing."""
        return not self.gates and self.replies.drained

    @property
    def midway(self) -> bool:
        """Whether Redis was sent a part of a command."""
        return self.streaming and self.scanner.forwarding

    @property
    def client_library(self) -> dict[bytes, bytes]:
        """What the client says of its library, by CLIENT SETINFO."""
        if self._client_library is None:
            self._client_library = {b"LIB-NAME": b"", b"LIB-VER": b""}
        return self._client_library

    @property
    def leaves_nothing(self) -> bool:
        """Whether its dedicated connection has no state of it, so that another session may have
        it.
        """
        return self.replies.drained and self.route.clean and not (self.stateful or self.midway)

    @property
    def stateful(self) -> bool:
        """Whether Redis knows things of its connection that it must not forget."""
        step = self.step
        within = step is not None and step.until is Until.QUERY
        return self.multi or self.watching or bool(self.subscriptions) or within

    # What the client's connection says.

    def received(self, data: bytes) -> None:
        """What the client sent."""
        if self.gates & Gate.CLOSING:
            return
        if self.credential is None and not self._may_send_unauthenticated(data):
            return
        self.scanner.feed(data)
        if not self.gates:
            self.advance()
        if self.gates and self.scanner.buffered > bounds.BUFFERED_BYTES:
            probes.reached("client is not read from: it sent much while it waits")
            self.connection.pause_reading()

    def _may_send_unauthenticated(self, data: bytes) -> bool:
        if not self.sent_unauthenticated and data.startswith(TLS_HANDSHAKE):
            self.answer(messages.NO_TLS_HERE.reply())
            self.ending.begin(messages.TLS_ON_PLAIN_PORT.code)
            return False
        self.sent_unauthenticated += len(data)
        if self.sent_unauthenticated > bounds.UNAUTHENTICATED_BYTES:
            self.answer(messages.TOO_MUCH_BEFORE_LOGIN.reply())
            self.ending.begin(messages.NOT_RESP.code)
            return False
        return True

    def client_slow(self, slow: bool) -> None:
        """Whether the client does not read: what was written to it piles up."""
        self.replies.slow = slow
        dedicated = self.route.dedicated
        if dedicated is not None:
            dedicated.pause(slow)
        if not slow:
            self.route.caught_up(self)
            self.route.return_if_clean(self)
            self.open_gate(Gate.BACKLOG)
        elif self.credential is None:
            probes.reached("client that is not logged in does not read")
            self.close_gate(Gate.BACKLOG)

    def throttle(self, throttled: bool) -> None:
        """Whether what the client sends is to wait: its tenant has done as much as it may for
        now.
        """
        (self.close_gate if throttled else self.open_gate)(Gate.RATE)

    def forget(self) -> None:
        """The client's connection is gone. The parts hold each other, and would be left to the
        garbage collector.
        """
        self.replies.forget()
        self.ending.forget()
        del self.connection, self.accounts

    # What its connections to Redis say: see `ports.DedicatedUser`, `ports.MultiplexedUser`.

    def upstream_full(self, full: bool) -> None:
        """Redis takes what it is sent too slowly, or not any more."""
        self.connection.upstream_full(full)

    def upstream_lost(self) -> None:
        """The dedicated connection is gone."""
        self.ending.without_upstream()

    def multiplexed_lost(self, partial: bool) -> None:
        """The multiplexed connection is gone. partial: within a reply of which the client got a
        part.
        """
        if partial:
            probes.reached("shared connection is lost within a reply")
            return self.ending.without_upstream()
        self.replies.lost(LOST)
        self.drained()
        return self.open_gate(Gate.PENDING)

    def upstream_ready(self) -> None:
        """The multiplexed connections can be used again, or it turned out that there is none."""
        self.route.left_queue()
        self.open_gate(Gate.UPSTREAM)

    def close_slow_reader(self) -> None:
        """Others wait for what the client does not read."""
        probes.reached("client is closed because others wait for what it does not read")
        self.ending.at_once()
        self.connection.abort(messages.TOO_SLOW.code)

    def bug(self, error: Exception) -> None:
        """Something went wrong that must not: it costs this connection alone."""
        self.ending.at_once()
        self.connection.bug(error)

    # What its replies say: see `replies`.

    def drained(self) -> None:
        """No reply is pending any more."""
        self.blocked = False
        if self.gates & Gate.CLOSING:
            return self.ending.close_if_drained()
        self.route.return_if_clean(self)
        # What waited for this moment comes before any command behind it: to read on first would let
        # that one overtake it.
        gates = self.gates
        if not self.replies.slow:
            self.gates &= ~Gate.BACKLOG
        if self.route.gate_opens_when_drained:
            self.gates &= ~Gate.UPSTREAM
        step = self.step
        if step is not None and step.until is Until.DRAINED:
            step.finish(None)
        elif gates:
            self._advance_unless_gated()
        return None

    def hello_answered(self, protocol: int) -> None:
        """Redis answered a HELLO on the dedicated connection. protocol: the one that it agreed to;
        0: the same as before.
        """
        if protocol and protocol != self.protocol:
            # There is no way back to connections that speak another protocol.
            self.protocol = protocol
            self.route.clean = False
            self.route.leave_pool()
        # nothing is sent behind a HELLO, and this may leave the connection before `drained`
        self.blocked = False
        step = self.step
        if step is not None and step.until is Until.HELLO:
            step.finish(protocol)

    def withdraw(self) -> None:
        """If a command was sent in part, it will not be sent to its end, so Redis will not answer
        it.
        """
        if not self.midway:
            return
        self.route.clean = False
        batch, dedicated = self.replies.withdraw(), self.route.dedicated
        if batch is not None and dedicated is not None:
            dedicated.withdraw(batch)

    # Gates and the Step.

    def close_gate(self, gate: int) -> None:
        """Reads no next command. Called by the gate's owner."""
        self.gates |= gate
        if self.scanner.buffered > bounds.BUFFERED_BYTES:
            self.connection.pause_reading()

    def open_gate(self, gate: int) -> None:
        """The gate's reason is gone. Called by its owner."""
        if self.gates & gate:
            self.gates &= ~gate
            self._advance_unless_gated()

    def _advance_unless_gated(self) -> None:
        if not self.gates:
            self.connection.resume_reading()
            self.advance()

    def suspend(self, until: Until, then: Callable[[Result], None], deadline: float | None = None) -> Step[Result]:
        """Waits. then: called with the Step's result, unless the session ends before. deadline: see
        `Step`.
        """
        if self.step is not None:
            raise BugError(f"a session waits for {self.step} and for {until} at once")
        self.step = step = Step(self, until, then, deadline)
        self.close_gate(Gate.STEP)
        if deadline is not None:
            self.connection.deadline_changed()
        return step

    @property
    def deadline(self) -> float | None:
        """When `time_is` is to be called next, in seconds of its connection's clock; None: it waits
        for no time.
        """
        return None if self.step is None else self.step.deadline

    def time_is(self, now: float) -> None:
        """Goes on if it waited for a time that has come."""
        step = self.step
        if step is not None and step.deadline is not None and step.deadline <= now:
            step.finish(None)

    def step_finished(self, step: Step[Result], result: Result) -> None:
        """See `state.Waiting`."""
        if self.step is not step or not self.gates & Gate.STEP:
            raise BugError(f"{step} is over, and the session waits for {self.step}")
        self.step = None
        step.go_on(result)
        if self.step is None:
            self.route.return_if_clean(self)
            self.open_gate(Gate.STEP)

    def abandon_step(self) -> None:
        """The session ends: it waits for nothing more."""
        step, self.step = self.step, None
        if step is not None:
            step.abandon()
        login, self.pending_login = self.pending_login, None
        if login is not None:
            login.abandon()

    # What the client sent.

    def advance(self) -> None:
        """Goes on with what the client sent, unless a gate is closed."""
        if self._advancing:
            return  # the loop below goes on by itself, when what it is in the middle of is done
        self._advancing = True
        try:
            self._take_commands()
        except Exception as error:
            self.bug(error)  # and of nobody else: a connection that others use may have called
        finally:
            self._advancing = False

    def _take_commands(self) -> None:
        scanner = self.scanner
        route, ending = self.route, self.ending
        while not self.gates:
            if route.state is MULTIPLEXED:
                upstream, pool = route.upstream, route.pool
                if TYPE_CHECKING:
                    assert pool is not None, "there is one in this state"
                detour = upstream is not pool.upstream or upstream.busy or self.replies.slow
                if detour and scanner.buffered and not route.ready(self):
                    continue
            try:
                found = scanner.next()
            except ProtocolError as error:
                return self._malformed(error)
            if found is None:
                if ending.phase is _DRAINING:
                    ending.drained(True)
                return None
            kind, what, count = found
            if kind == RUN:
                if TYPE_CHECKING:
                    assert isinstance(what, bytes)
                self.commands += count
                self.forward(what, count)
                if not scanner.buffered and ending.phase is _OPEN:
                    return None
            elif kind == STREAM and not count:
                if TYPE_CHECKING:
                    assert isinstance(what, bytes)
                route.upstream.send(what)
            else:
                self.commands += 1
                commands.receive(self, kind, what)
            if ending.phase is _DRAINING:
                ending.drained(False)
        return None

    def _malformed(self, error: ProtocolError) -> None:
        self.withdraw()
        self.answer(messages.NOT_RESP_ERROR.reply(reason=error))
        self.ending.begin(messages.NOT_RESP.code)

    # What commands ask for.

    def forward(self, data: bytes, count: int = 1) -> None:
        """Passes whole commands on, each with one reply; or the beginning of one."""
        upstream = self.route.upstream
        upstream.send(data, self.replies.expect(count, upstream))

    def pass_on(self, words: list[bytes]) -> None:
        """The same, of one command by its words."""
        self.forward(encode(words))

    def expect(self, data: bytes, batch: ReplyBatch) -> None:
        """Sends what is answered in a way of its own, or what nobody hears the answer to."""
        self.replies.expect_batch(batch)
        self.route.upstream.send(data, batch)

    def expect_hello(self, words: list[bytes], protocol: int) -> None:
        """Sends a HELLO over the dedicated connection. What follows waits: in which protocol is it
        answered?
        """
        batch = ReplyBatch(self.replies, 1, HELLO, discard=int(not self.replies.heard()))
        batch.protocol = protocol
        self.suspend(Until.HELLO, _nothing)
        self.expect(encode(words), batch)

    def answer(self, data: bytes) -> None:
        """The proxy's own answer, in its place."""
        self.replies.answer(data)

    def refuse(self, error: bytes) -> None:
        """An error instead of a command's reply. Inside MULTI the EXEC fails, as it does where
        Redis refuses.
        """
        self.refused += 1
        if self.multi:
            self.expect(SPOILER, ReplyBatch(self.replies, 1, discard=1))
        self.answer(error)

    def forbid(self, name: bytes, error: bytes = b"") -> None:
        """Refuses what a tenant may not do, and has it logged. name: as the client spelt it; error:
        the usual one.
        """
        self.connection.forbidden(policy.shown(name))
        self.refuse(error or policy.refusal(name))

    def refuse_waiting(self, error: str) -> None:
        """The command that waited for a connection fails. error: without ``-``."""
        if self.scanner.forwarding:
            self.scanner.skip()
        self.answer(b"-%b\r\n" % error.encode())

    def when_drained(self, then: Callable[[], None]) -> None:
        """then: called when no reply is pending, at once or later."""
        if self.replies.drained:
            then()
        else:
            self.suspend(Until.DRAINED, lambda _: then())

    @property
    def tenant(self) -> Tenant:
        """Whose session it is."""
        if self.credential is None:
            raise BugError("nobody is logged in")
        return self.credential.tenant

    # Its connections to Redis: see `route`.

    def may_move(self) -> bool:
        """Whether another connection can be used now. If not, the session is closed."""
        if self.replies.mid_message:
            self.ending.within_a_message()
        return not self.replies.mid_message

    def use_policy(self) -> None:
        """The policy of the Redis that its commands go to, as it is now."""
        self.policy = self.backend.policy
        self.scanner.table = self.policy.table

    def policy_changed(self, dedicated: bool = False) -> None:
        """There is another policy. A session with a dedicated connection may have it from another
        Redis, and keeps its own.

        dedicated: also for such a session, since its connection has the rights that the new policy
        takes for granted.
        """
        if self.credential is not None and (dedicated or self.route.state is not DEDICATED):
            self.use_policy()


def _nothing(_: object) -> None:
    """No command waits."""
