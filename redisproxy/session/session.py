"""One client's session: reads its commands, forwards plain ones, and has `commands` run the others.

Owns the loop over the client's commands, the gates that stop this loop, and the session's Step.
`replies` owns the order of replies, `route` the connections to Redis, `ending` the session's end.
Clocks, sockets and Redis are outside: the session reaches them only through `ports`.

Each gate has one owner (see `state.Gate`), which closes and opens it. While any gate is closed, the
session reads no command. A command that must wait suspends the session with a Step; a session has
at most one. When the Step finishes, the command goes on from there, not from its start.

This module is longer than other modules because all events of a session arrive here, and most of
them make the loop go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .. import bounds, messages, probes
from ..policy import policy
from ..resp.framing import (
    EMPTY,
    INSPECT,
    NO_PLACE,
    RUN,
    SCRIPTS,
    STREAM,
    UNAUTHENTICATED,
    WINDOW,
    ProtocolError,
    RequestScanner,
    encode,
)
from ..tenants.memory import Usage
from ..tenants.model import Credential, Tenant
from ..tenants.window import NO_WINDOW, Window
from ..tenants.work import UNLIMITED, Budget
from . import commands, commands_scripts, transactions, windowed
from .costs import Watched
from .ending import Ending
from .errors import SPOILER
from .login import Login
from .pending import BLOCKING, HELLO, REWRITTEN, ReplyBatch, RewrittenReply, WindowedBatch
from .pieces import Pieces
from .ports import Accounts, Backend, ClientConnection, Dedicated, Unavailable
from .pubsub import Subscriptions
from .replies import ReplyQueue
from .route import DEDICATED, MULTIPLEXED, NONE, Route
from .scripts import Scripts, publishes
from .state import BugError, Gate, Phase, Step, Until, names
from .tracking import Tracking
from .transactions import Transaction

#: The first byte of a TLS handshake. No command begins with it. Without an error reply, both sides
#: would wait for each other.
TLS_HANDSHAKE = b"\x16"

_OPEN, _DRAINING = Phase.OPEN, Phase.DRAINING
#: What a Step waits for that only replies of Redis end.
_FOR_REPLIES = (Until.DRAINED, Until.HELLO, Until.WINDOW)

_PING = encode([b"PING"])
#: In place of that while tracking is on: any other command would end a CLIENT CACHING YES.
_NO_COMMAND = encode([b"CLIENT", b"GETREDIR"])
#: The id of the connection to Redis in an answer to HELLO.
_ID = re.compile(rb"\$2\r\nid\r\n:[0-9]+")

Result = TypeVar("Result")


class Session:
    """One client's session.

    connection: the client's connection; accounts: checks log-ins; backend: the Redis that the
    client's commands go to.
    """

    __slots__ = (
        "_advancing",
        "_client_library",
        "_collected",
        "_cost",
        "_gathers",
        "_kept",
        "_later",
        "_newest_blocking",
        "accounts",
        "backend",
        "commands",
        "connection",
        "credential",
        "ending",
        "gates",
        "large",
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
        "tracking",
        "transaction",
        "usage",
        "watched",
        "watching",
        "window",
        "windowed_in_multi",
        "work",
    )

    def __init__(self, connection: ClientConnection, accounts: Accounts, backend: Backend) -> None:
        self.connection = connection
        self.accounts = accounts
        self.backend = backend
        #: the memory that the session uses
        self.usage = Usage(self)
        #: its tenant's share of the proxy's work
        self.work: Budget = UNLIMITED
        #: its tenant's window: see `windowed`
        self.window: Window = NO_WINDOW
        self.replies = ReplyQueue(connection, self)
        self.route = Route(self.replies)
        self.scanner = RequestScanner(UNAUTHENTICATED, policy.UNAUTHENTICATED_TABLE, INSPECT, publishes)
        #: closed gates, as a sum of `Gate` values; while it is not 0, no command is read
        self.gates = 0
        # Bytes behind those in the scanner, which takes them piece by piece; None: none are kept.
        self._kept: Pieces | None = None
        # How many of these, the newest, have to wait for another turn: see `turn_came`.
        self._later = 0
        self.ending = Ending(self)
        #: what the session waits for, if anything; `state.Until` says which result it gets
        self.step: Step[Any] | None = None
        self.credential: Credential | None = None
        self.pending_login: Login | None = None
        #: what the tenant may do on the Redis that the commands go to
        self.policy = backend.policy
        self.protocol = 2
        #: number of commands received, refused ones included
        self.commands = 0
        self.refused = 0
        # State that Redis keeps for the dedicated connection: an open MULTI, watched keys,
        # subscriptions. The first command about channels makes the Subscriptions.
        self.multi = False
        #: commands in the open MULTI that will need a place in the window
        self.windowed_in_multi = 0
        self.watching = False
        #: what was sent since MULTI; None before the first, and behind EXEC
        self.transaction: Transaction | None = None
        #: the keys of the last WATCH, and of those before it; see `costs`
        self.watched: Watched | None = None
        self.subscriptions: Subscriptions | None = None
        #: client-side caching; None before the first CLIENT TRACKING
        self.tracking: Tracking | None = None
        #: set by CLIENT SETNAME, or by SETNAME in a HELLO
        self.name = b""
        # None until the first CLIENT SETINFO or CLIENT INFO.
        self._client_library: dict[bytes, bytes] | None = None
        # The batch of the newest command that may block.
        self._newest_blocking: ReplyBatch | None = None
        #: whether the beginning of the newest streamed command was sent to Redis: see `midway`
        self.streaming = False
        #: the batch of a large command that has no place in the window yet: see `windowed.go_on`
        self.large: WindowedBatch | None = None
        #: bytes received while the client is not logged in
        self.sent_unauthenticated = 0
        self._advancing = False
        # Words of a command that is inspected, and is not whole yet, that were counted as work.
        self._collected = 0
        # What the latest command that was not plain costs while it waits, in bytes.
        self._cost = 0
        # Whether the client gets the answers to several commands in one write.
        self._gathers = False

    def __repr__(self) -> str:
        who = self.credential.tenant.namespace if self.credential else "unauthenticated"
        state = f"{self.ending.phase.value} {self.route.state.value}"
        return f"<Session {who} pending={self.replies.pending} {state} gates={names(self.gates)} {self.step or ''}>"

    # State that other objects read.

    @property
    def ended(self) -> bool:
        """Whether the session reads no more commands, and never will."""
        return self.gates & Gate.CLOSING != 0

    @property
    def dedicated(self) -> Dedicated | None:
        """The session's dedicated connection to Redis, if there is one."""
        return self.route.dedicated

    @property
    def outstanding(self) -> int:
        """Number of pending replies."""
        return self.replies.pending

    @property
    def buffered(self) -> int:
        """Bytes that the client sent and the session has not passed on yet."""
        return self.scanner.buffered + self.kept

    @property
    def kept(self) -> int:
        """Those of these bytes that stand behind the scanner's."""
        return 0 if self._kept is None else self._kept.size

    @property
    def wants_replies(self) -> bool:
        """Whether the session, or another one of its tenant, waits for its pending replies, so that
        they must be read from Redis.

        Not while there is no memory to keep them until the client reads them.
        """
        step = self.step
        waits = self.gates & Gate.UPSTREAM or (step is not None and step.until in _FOR_REPLIES)
        return bool(waits or self.replies.waited_for) and not self.gates & Gate.MEMORY

    @property
    def at_rest(self) -> bool:
        """Whether no reply is pending, no gate is closed, and nothing waits for Redis to read."""
        return not (self.gates or self.kept) and self.replies.drained

    @property
    def blocked(self) -> bool:
        """Whether the reply to a command that may block is pending."""
        return self._newest_blocking is not None and self._newest_blocking.count > 0

    @property
    def rank(self) -> int:
        """See `session.ports.DedicatedUser`."""
        if self.ended or (self.at_rest and not self.stateful):
            return 0
        if self.blocked:
            return 2
        return 3 if self.outstanding or self.gates else 1

    def give_way(self) -> None:
        """See `session.ports.DedicatedUser`."""
        self.connection.give_way(messages.OVER_REDIS_SHARE.code)

    @property
    def held(self) -> bool:
        """Whether what the client sent was not sent to Redis yet, because Redis is away, or the
        tenant is paused.
        """
        login = self.pending_login
        credential = self.credential if login is None else login.credential
        waits = self.gates & (Gate.UPSTREAM | Gate.STEP) and not self.replies.pending
        return bool(waits) and credential is not None and self.backend.holds(credential.tenant)

    @property
    def midway(self) -> bool:
        """Whether Redis got the beginning of a command, and not yet its end."""
        return self.streaming and (self.scanner.forwarding or self.large is not None)

    @property
    def expects_dedicated(self) -> bool:
        """Whether the next command will probably need a dedicated connection."""
        return self.route.state is MULTIPLEXED and commands.expects_dedicated(self, self.scanner.name)

    @property
    def client_library(self) -> dict[bytes, bytes]:
        """What the client set with CLIENT SETINFO, by option: LIB-NAME and LIB-VER."""
        if self._client_library is None:
            self._client_library = {b"LIB-NAME": b"", b"LIB-VER": b""}
        return self._client_library

    def charge_state(self) -> None:
        """Charges the session's subscriptions and names, if they use much memory."""
        size = len(self.name) + (self.subscriptions.cost if self.subscriptions else 0)
        if self._client_library is not None:
            size += sum(map(len, self._client_library.values()))
        if size > bounds.HELD_BYTES or self.usage.size:
            self.usage.state(size if size > bounds.HELD_BYTES else 0)

    @property
    def leaves_nothing(self) -> bool:
        """Whether it has a dedicated connection, and no state of the session is left on it.

        Then another session may use the connection.
        """
        route = self.route
        own = route.state is DEDICATED and route.clean
        return own and self.replies.drained and not (self.stateful or self.midway)

    @property
    def stateful(self) -> bool:
        """Whether the session needs its dedicated connection because of the state there.

        The state is an open MULTI, watched keys, subscriptions or tracking. A control query, or a
        turn, counts as well: PSUBSCRIBE acquires its connection before it waits for one.
        """
        step = self.step
        within = step is not None and step.until in (Until.QUERY, Until.TURN)
        return self.multi or self.watching or bool(self.subscriptions or self.tracking) or within

    # Events of the client's connection.

    def received(self, data: bytes) -> None:
        """Takes bytes that the client sent, and runs commands unless a gate is closed."""
        if self.gates & Gate.CLOSING:
            return
        if self.credential is None and not self._may_send_unauthenticated(data):
            return
        if self._kept is None and not (self.gates and self.scanner.buffered > bounds.BUFFERED_BYTES):
            self.scanner.feed(data)
        else:
            self._keep().add(data)
        if not self.gates:
            self.advance()
        elif self.gates & Gate.ORDER:
            self.route.order.more(self, len(data))
        if self.gates and self.buffered > bounds.HELD_BYTES:
            self._waits_with_much()

    def _keep(self) -> Pieces:
        """Keeps bytes behind those in the scanner, which would join them each time."""
        if self._kept is None:
            self._kept = Pieces()
        return self._kept

    def _waits_with_much(self, most: int = bounds.BUFFERED_BYTES) -> None:
        """The client sent much while the session waits: charges it. If it is more than `most`, does
        not read the client.

        If a command of the client is blocked, the client is read. Then only a read shows that the
        client left.
        """
        buffered = self.buffered
        self.usage.commands(buffered)
        if buffered <= most:
            return
        if self.blocked and not self.usage.stopped:
            probes.reached("client with a blocked command sends much behind it")
        else:
            probes.reached("client is not read from: it sent much while it waits")
            self.connection.pause_reading()

    def _take_kept(self) -> bool:
        """Gives the scanner the next bytes that were kept. Returns whether some may run now.

        None may while Redis reads too slowly: the dedicated connection would keep all of them.
        """
        kept = self._kept
        if kept is None or kept.size <= self._later or self.route.full:
            return False
        self.scanner.feed(kept.next(kept.size - self._later))
        if not kept.size:
            self._kept = None
        self.usage.commands(kept.size)
        return True

    def discard_kept(self) -> None:
        """The session runs no more commands: drops the bytes that were kept for it."""
        self._kept = None
        self.scanner.drop()
        if self.usage.size:
            self.usage.commands(0)
            self.usage.half(0)

    def _may_send_unauthenticated(self, data: bytes) -> bool:
        if not self.sent_unauthenticated and data.startswith(TLS_HANDSHAKE):
            self.answer(messages.NO_TLS_HERE.reply())
            self.ending.begin(messages.TLS_ON_PLAIN_PORT.code)
            return False
        before = self.sent_unauthenticated
        self.sent_unauthenticated += len(data)
        if before <= bounds.LOG_IN_BYTES < self.sent_unauthenticated:
            self.connection.sends_much_early()
        if self.sent_unauthenticated > bounds.UNAUTHENTICATED_BYTES:
            self.answer(messages.TOO_MUCH_BEFORE_LOGIN.reply())
            self.ending.begin(messages.NOT_RESP.code)
            return False
        return True

    def client_slow(self, slow: bool) -> None:
        """The client stops reading its replies, or has read all of them.

        slow: True when written bytes pile up, False when all of them have left.
        """
        self.replies.slow = slow
        self.route.settle(self)
        if not slow:
            self.route.caught_up(self)
            self.route.return_if_clean(self)
            self.open_gate(Gate.BACKLOG)
        elif self.credential is None:
            probes.reached("client that is not logged in does not read")
            self.close_gate(Gate.BACKLOG)

    def throttle(self, throttled: bool) -> None:
        """Stops reading commands while the tenant is over its rate. throttled: False: goes on."""
        (self.close_gate if throttled else self.open_gate)(Gate.RATE)

    def end_transaction(self) -> None:
        """Redis keeps no open transaction for the session any more."""
        if self.transaction is not None:
            self.transaction.end()
            self.transaction = None

    def forget(self) -> None:
        """Drops references between the parts, after the client's connection is gone.

        Without this, only the garbage collector would free the parts, as they hold each other.
        """
        if self.transaction is not None:
            self.end_transaction()
        self.large = None
        self.replies.forget()
        self.ending.forget()
        if self.subscriptions is not None:
            self.subscriptions.forget()
        del self.connection, self.accounts

    # Events of connections to Redis: see `ports.DedicatedUser`, `ports.MultiplexedUser`.

    def upstream_full(self, full: bool) -> None:
        """Redis reads commands too slowly (full is True), or fast enough again (False)."""
        self.route.full = full
        dedicated = self.route.dedicated
        self.usage.unsent(dedicated.unsent if full and dedicated is not None else 0)
        self.connection.upstream_full(full)
        if self._kept is not None and not (full or self.gates):
            self.advance()

    def upstream_lost(self) -> None:
        """The connection to Redis is gone, and with it pending replies, or state of the session.

        The client is closed, as Redis would close it: only the client knows whether its commands
        can be sent again.
        """
        if not self.route.lost(self):
            self.ending.without_upstream()

    def upstream_ready(self) -> None:
        """A multiplexed connection takes commands again, or the attempt to open one failed."""
        self.route.left_queue()
        self.open_gate(Gate.UPSTREAM)

    # Events of the tenant's share of the work: see `tenants.work.Worker`.

    def works_for(self, budget: Budget) -> None:
        """Uses this budget from now on."""
        if budget is not self.work:
            if self.gates & Gate.WORK:
                self.work.leave(self)
                budget.wait(self)
            self.work = budget

    def work_on(self) -> None:
        """See `tenants.work.Worker`."""
        before = self.buffered
        self.gates &= ~Gate.WORK
        if not self.gates:
            if self.usage.size:
                self.usage.commands(self.kept)  # the others are run now
            self.advance()
            if not self.gates & Gate.WORK:  # else it would be read and paused for each slice of its work
                self.connection.resume_reading()
                if self.gates and self.buffered > bounds.BUFFERED_BYTES:
                    self._waits_with_much()
        self.work.spend((before - self.buffered) // bounds.WORK_BYTES)

    # Events of the tenant's memory: see `tenants.memory.User`.

    def memory_full(self) -> bool:
        """See `tenants.memory.User`: takes no more commands, and has no more replies read.

        If the memory is used by commands alone, to run them frees it.
        """
        if self.usage.outgoing:
            self.close_gate(Gate.MEMORY)
            self.route.settle(self)
        return not (self.replies.slow and self.route.others_wait(self))

    def memory_free(self) -> None:
        """See `tenants.memory.User`."""
        self.memory_drained()
        if self.blocked and not self.ended:
            self.connection.resume_reading()

    @property
    def bytes_unread(self) -> int:
        """See `tenants.memory.User`."""
        return self.connection.bytes_unread

    def memory_drained(self) -> None:
        """See `tenants.memory.User`."""
        if self.gates & Gate.MEMORY:
            self.gates &= ~Gate.MEMORY
            self.route.settle(self)
            self._advance_unless_gated()

    def close_for_memory(self) -> None:
        """See `tenants.memory.User`.

        A client that has read its replies gets an error. To another one it would only be more that
        it does not read.
        """
        may_hear = self.replies.drained and not self.replies.slow and not self.ended
        self.ending.at_once()
        if may_hear:
            self.connection.write(messages.NO_MEMORY.reply())
            self.connection.close(messages.OUT_OF_MEMORY.code)
        else:
            self.connection.abort(messages.OUT_OF_MEMORY.code)

    def close_for_tracking(self) -> None:
        """The tenant may not use client-side caching any more, and this session does.

        The client learns from its end that it must forget what it has cached.
        """
        self.ending.at_once()
        self.connection.abort(messages.TRACKING_ENDED.code)

    def bug(self, error: Exception) -> None:
        """Reports a bug of the proxy. Only this client's connection is aborted."""
        self.ending.at_once()
        self.connection.bug(error)

    # Events of `replies`.

    def drained(self) -> None:
        """No reply is pending any more."""
        if self.gates & Gate.CLOSING:
            return self.ending.close_if_drained()
        self.route.return_if_clean(self)
        # A Step that waited for this moment goes first. If the session read on first, a command
        # behind the waiting one would overtake it.
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
        """Redis answered a HELLO on the dedicated connection.

        protocol: the version that Redis agreed to, 2 or 3; 0: the same as before.
        """
        if protocol and protocol != self.protocol:
            # The pool's connections speak another protocol, so the session cannot go back to them.
            self.protocol = protocol
            self.route.clean = False
            self.route.leave_pool()
        step = self.step
        if step is not None and step.until is Until.HELLO:
            step.finish(protocol)

    def withdraw(self) -> None:
        """Gives up a command that was sent in part. Redis never gets its end, and never answers."""
        if not self.midway:
            return
        self.route.clean, self.large = False, None
        batch, dedicated = self.replies.withdraw(), self.route.dedicated
        if batch is not None and dedicated is not None:
            dedicated.withdraw(batch)

    # Gates and the Step.

    def close_gate(self, gate: int) -> None:
        """Closes a gate: the session reads no next command. Called by the gate's owner."""
        self.gates |= gate
        if self.buffered > bounds.HELD_BYTES and not gate & Gate.CLOSING:
            self._waits_with_much()

    def open_gate(self, gate: int) -> None:
        """Opens a gate whose reason is gone. Called by the gate's owner."""
        if self.gates & gate:
            self.gates &= ~gate
            self._advance_unless_gated()

    def _advance_unless_gated(self) -> None:
        if not self.gates:
            if self.usage.size:
                self.usage.commands(self.kept)  # the others are run now
            self.connection.resume_reading()
            self.advance()

    def turn_came(self, later: int) -> None:
        """See `order.OrderedSession`."""
        self.gates &= ~Gate.ORDER
        before = self._later  # this may be called within the session's turn
        # A session that drains runs all of it now, because afterwards it ends.
        if later and self.ending.phase is _OPEN:
            kept = self._keep()
            if kept.size < later:
                kept.put_back(self.scanner.hold_back(later - kept.size))
            self._later = later
        self._advance_unless_gated()
        self._later = before

    def suspend(self, until: Until, then: Callable[[Result], None], deadline: float | None = None) -> Step[Result]:
        """Suspends the session until the returned Step finishes.

        then: called with the Step's result, unless the session ends before. deadline: see `Step`.
        Raises BugError if the session has a Step already.
        """
        if self.step is not None:
            raise BugError(f"a session waits for {self.step} and for {until} at once")
        self.step = step = Step(self, until, then, deadline)
        if self._cost > bounds.HELD_BYTES:
            probes.reached("large command that waits is charged")
            self.usage.waiting(self._cost)
        self.close_gate(Gate.STEP)
        if self.replies.slow:
            self.route.settle(self)
        if deadline is not None:
            self.connection.deadline_changed()
        return step

    @property
    def deadline(self) -> float | None:
        """When `time_is` must be called, in seconds of the connection's clock.

        None: the session waits for no time.
        """
        return None if self.step is None else self.step.deadline

    def time_is(self, now: float) -> None:
        """Finishes the Step if its deadline has come. now: in seconds of the connection's clock."""
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
            self._waits_no_more()
            if self.replies.slow:
                self.route.settle(self)
            self.route.return_if_clean(self)
            self.open_gate(Gate.STEP)
            self.route.order.settled(self)
            if self.gates and self.ending.phase is _DRAINING:
                self.ending.drained(False)  # the loop does not look, as another gate is closed

    def abandon_step(self) -> None:
        """Cancels the Step and a pending login, because the session ends."""
        step, self.step = self.step, None
        if step is not None:
            step.abandon()
            self._waits_no_more()
        self.route.use_order(self)
        login, self.pending_login = self.pending_login, None
        if login is not None:
            login.abandon()

    def charge_waiting(self, commands: list[list[bytes]]) -> None:
        """Charges these commands, which wait in place of a large one: a tenant's prefix may be
        longer than what it stands before.
        """
        if self._cost > bounds.HELD_BYTES:
            self.usage.waiting(sum(sum(map(len, words)) + len(words) * bounds.WORD_BYTES for words in commands))

    def _waits_no_more(self) -> None:
        """The latest command has been passed on, or is given up."""
        self._cost = 0
        if self.usage.size:
            self.usage.waiting(0)

    # The loop over the client's commands.

    def advance(self) -> None:
        """Runs the commands that the client sent, unless a gate is closed."""
        if self._advancing:
            return  # called from within the loop, which goes on by itself
        self._advancing = True
        try:
            self._take_commands()
        except Exception as error:
            self.bug(error)  # not raised: the caller may be a connection that others use, too
        finally:
            self._advancing = False
            if self._gathers:
                self._gathers = False
                self.connection.write_gathered()

    def _may_take(self) -> bool:
        """Returns whether the next command may be taken now, if the session's connection is its
        own, or if it has none. If not, the session waits.
        """
        route = self.route
        if route.order.closed and not (self.scanner.within or route.in_turn(self)):
            return False
        return route.state is not NONE or self.credential is None or route.attempted(self)

    def _take_commands(self) -> None:
        scanner = self.scanner
        route, ending = self.route, self.ending
        again = False
        while not self.gates:
            if self.work.units <= 0 and (scanner.buffered or self._kept is not None) and not scanner.forwarding:
                self.close_gate(Gate.WORK)
                if self.buffered >= bounds.SMALL_READ_BYTES:  # of a thousand, one more read of each would be much
                    self._waits_with_much(bounds.SMALL_READ_BYTES - 1)
                return self.work.wait(self, self.commands <= bounds.LOG_IN_COMMANDS)
            if route.state is MULTIPLEXED:
                upstream, pool = route.upstream, route.pool
                if TYPE_CHECKING:
                    assert pool is not None, "there is one in this state"
                detour = upstream is not pool.upstream or upstream.busy or self.replies.slow
                if detour and scanner.buffered and not route.ready(self):
                    continue
            elif (route.order.closed or route.state is NONE) and scanner.buffered and not self._may_take():
                continue
            try:
                found = scanner.next()
            except ProtocolError as error:
                return self._malformed(error)
            if scanner.apart:  # inline commands, and what is no command at all
                self.work.use(scanner.apart)
                scanner.apart = 0
                if found is not None and found[0] == EMPTY:
                    continue
            if found is None:
                if scanner.collected > self._collected:
                    # To collect them is a part of the work, and a client may never send the rest.
                    self.work.use(scanner.collected - self._collected)
                    self._collected = scanner.collected
                if self.usage.size or scanner.cost > bounds.HELD_BYTES:
                    self._charge_half()
                if self.kept:
                    if self._take_kept():
                        continue
                elif ending.phase is _DRAINING:
                    ending.drained(True)
                return None
            kind, what, count = found
            if self.multi and not transactions.takes(self, kind, what, count):
                self._collected = 0
            elif kind == RUN:
                if TYPE_CHECKING:
                    assert isinstance(what, bytes)
                self.commands += count
                self.forward(what, count)
                if not scanner.buffered and self._kept is None and ending.phase is _OPEN:
                    if self.usage.size:
                        self.usage.half(0)
                    return None
            elif kind == STREAM and not count:
                if TYPE_CHECKING:
                    assert isinstance(what, bytes)
                if self.large is None:
                    route.upstream.send(what)
                else:
                    windowed.go_on(self, self.large, what)
            elif kind == SCRIPTS:
                if TYPE_CHECKING:
                    assert isinstance(what, bytes)
                self.commands += count
                self._cost = len(what)
                commands_scripts.forward(self, what, count)
            elif kind in (WINDOW, NO_PLACE):
                if TYPE_CHECKING:
                    assert isinstance(what, bytes)
                self.commands += count
                windowed.forward(self, what, count)
            else:
                self.commands += 1
                self._collected = 0
                if isinstance(what, list):
                    self.work.use(len(what))
                    self._cost = scanner.inspected_cost
                else:
                    self.work.use(1)
                    self._cost = len(what)
                if self.usage.size:
                    self.usage.half(0)
                if again and scanner.buffered and not self._gathers:
                    self._gathers = True
                    self.connection.gather()
                again = True
                commands.receive(self, kind, what)
            if ending.phase is _DRAINING:
                ending.drained(False)
        return None

    def _charge_half(self) -> None:
        """Charges what the client has sent of a command that is not whole, if that is much."""
        cost = self.scanner.cost
        if cost > bounds.HELD_BYTES:
            probes.reached("half a command is charged")
        self.usage.half(cost if cost > bounds.HELD_BYTES else 0)

    def _malformed(self, error: ProtocolError) -> None:
        self.withdraw()
        self.answer(messages.NOT_RESP_ERROR.reply(reason=error))
        self.ending.begin(messages.NOT_RESP.code)

    # Called by commands' handlers.

    def forward(self, data: bytes, count: int = 1) -> None:
        """Sends whole commands, each with one reply, or the beginning of one command."""
        upstream = self.route.upstream
        upstream.send(data, self.replies.expect(count, upstream))

    def pass_on(self, words: list[bytes]) -> None:
        """Sends one command, given as its words."""
        self.forward(encode(words))

    def expect(self, data: bytes, batch: ReplyBatch) -> None:
        """Sends a command with a batch of its own: of another kind, or with replies to discard."""
        self.replies.expect_batch(batch)
        self.route.upstream.send(data, batch)

    def expect_blocking(self, words: list[bytes]) -> None:
        """Sends a command that may block over the dedicated connection."""
        batch = ReplyBatch(self.replies, 1, BLOCKING, discard=int(not self.replies.heard()))
        self._newest_blocking = batch
        # $: what comes from now on
        self.expect_at_once(encode(words), batch, always=b"$" in words)

    def expect_at_once(self, data: bytes, batch: ReplyBatch, always: bool = True) -> None:
        """Sends a command over the dedicated connection that other sessions' must not overtake.

        always: False: only if it has waited for the connection.
        """
        dedicated = self.route.dedicated
        # The reply of a client that does not read is not read from Redis either.
        needless = dedicated is None or self.multi or self.replies.slow
        fence = None if needless else self.route.order.fence(self, always)
        if fence is not None and dedicated is not None:
            dedicated.expect(fence)
            data = (_NO_COMMAND if self.tracking else _PING) + data
        self.expect(data, batch)

    def expect_hello(self, words: list[bytes], protocol: int) -> None:
        """Sends a HELLO over the dedicated connection, and suspends the session until its reply.

        Only the reply says in which protocol Redis answers the commands behind it.
        """
        batch = self._hello_batch(HELLO)
        batch.protocol = protocol
        self.suspend(Until.HELLO, _nothing)
        self.expect(encode(words), batch)

    def pass_hello_on(self, words: list[bytes]) -> None:
        """Sends a HELLO that does not change the protocol over a multiplexed connection."""
        self.expect(encode(words), self._hello_batch(REWRITTEN))

    def _hello_batch(self, kind: int) -> RewrittenReply:
        discard = int(not self.replies.heard())
        # The reply may come after `forget`, and a shared connection must not fail then.
        return RewrittenReply(self.replies, discard, b"*%", partial(_with_id, self.connection.id), kind)

    def with_own_id(self, hello: bytes) -> bytes:
        """Returns Redis's answer to a HELLO with the id that CLIENT ID answers."""
        return _with_id(self.connection.id, hello)

    def answer(self, data: bytes) -> None:
        """Sends the proxy's own answer, behind the replies that are pending."""
        self.replies.answer(data)

    def refuse(self, error: bytes) -> None:
        """Answers a command with an error.

        Inside MULTI the EXEC fails then, as after a command that Redis refuses.
        """
        self.refused += 1
        if self.multi:
            self.expect(SPOILER, ReplyBatch(self.replies, 1, discard=1))
        self.answer(error)

    def forbid(self, name: bytes, error: bytes = b"") -> None:
        """Refuses a command that the tenant may not use, and has the refusal logged.

        name: as the client spelt it; error: the whole error reply; empty: the usual one. If it is
        not known yet what the tenant may use on a Redis that is busy, the error is Redis's own.
        """
        busy = self.backend.busy_error()
        if busy:
            return self.refuse(b"-%b\r\n" % busy.encode())
        self.accounts.forbidden(policy.shown(name))
        return self.refuse(error or self.policy.refusal(name))

    def not_held(self, result: Unavailable, count: int = 1) -> None:
        """There is no connection to Redis for a command that waited, or for several: answers each
        with the error.

        If Redis was away, or the tenant paused, for longer than work is held, closes the client
        instead.
        """
        if result.closes:
            self.ending.begin(result.close_reason)
        else:
            self.refuse_waiting(result.error, count)

    def refuse_waiting(self, error: str, count: int = 1) -> None:
        """Answers a command that waited for a connection with an error, or several such commands.

        error: without ``-``.
        """
        if self.scanner.forwarding:
            self.scanner.skip()
        for _ in range(count):
            self.answer(b"-%b\r\n" % error.encode())

    def when_drained(self, then: Callable[[], None]) -> None:
        """Calls `then` when no reply is pending, at once or later."""
        if self.replies.drained:
            then()
        else:
            self.suspend(Until.DRAINED, lambda _: then())

    @property
    def tenant(self) -> Tenant:
        """The tenant that is logged in. Raises BugError if there is none."""
        if self.credential is None:
            raise BugError("nobody is logged in")
        return self.credential.tenant

    @property
    def scripts(self) -> Scripts:
        """The tenant's scripts that publish. Raises BugError if nobody is logged in."""
        return self.backend.scripts(self.tenant)

    # Changes of connection and policy: see `route`.

    def may_move(self) -> bool:
        """Returns whether the session may change its connection now; closes the session if not.

        It may not while the client has only a part of a message.
        """
        if self.replies.mid_message:
            self.ending.within_a_message()
        return not self.replies.mid_message

    def pause(self) -> bool:
        """The session's tenant is paused: nothing more is sent over a dedicated connection.

        Returns whether the session ends, because it has state there, or a blocked command. The
        caller must have `close_if_drained` called soon. Any other session goes on with its next
        command after the pause: its connections are opened again then.
        """
        route, step = self.route, self.step
        if self.ended or route.state is not DEDICATED:
            return False
        # What waits in a pool's session returns to the pool by itself before it goes on.
        moves = step is None or (route.pool is not None and not self.replies.slow)
        if self.stateful or self.blocked or self.midway or not moves:
            return self.ending.pause()
        if step is None:
            self.when_drained(partial(route.leave_dedicated, self))
        return False

    def use_policy(self) -> None:
        """Takes over the backend's policy for the tenant as it is now."""
        credential = self.credential
        error = b"" if credential is None else self.backend.script_error(credential.tenant)
        self.policy = self.backend.policy.without_scripts(error)
        self.use_table()

    def scripts_changed(self) -> None:
        """The tenant may run scripts from now on, or may not any more.

        Otherwise the session keeps its policy: see `policy_changed`.
        """
        self.policy = self.policy.without_scripts(self.backend.script_error(self.tenant))
        self.use_table()

    def use_table(self) -> None:
        """Has the scanner use the policy's table, with the tenant's slow commands in it."""
        table, credential = self.policy.table, self.credential
        self.scanner.table = table if credential is None else self.backend.table(credential.tenant, table)

    def policy_changed(self, dedicated: bool = False) -> None:
        """Takes over a new policy, if the client is logged in.

        A session with a dedicated connection keeps its own policy, because that connection may lead
        to another Redis. dedicated: True: it takes over the new one as well, because its connection
        has the rights that the new policy takes for granted.
        """
        if self.credential is not None and (dedicated or self.route.state is not DEDICATED):
            self.use_policy()


def _with_id(number: int, hello: bytes) -> bytes:
    return _ID.sub(b"$2\r\nid\r\n:%d" % number, hello, count=1)


def _nothing(_: object) -> None:
    """No command goes on after a HELLO's Step."""
