"""Interfaces of everything outside a session: the client's connection, accounts, Redis, connections
to Redis.

Owns these interfaces, and implements none but `Unavailable`. `clients` and `upstream` implement
them with Twisted; the tests implement them as well. A method that takes a Step calls `step.finish`
once, at once or later, with a result or an `Unavailable`. If `step.finish` returns False, that
method gives the result back.

This module is longer than other modules because it is the only one of interfaces.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from .. import messages
from ..policy.policy import Policy
from ..resp.value import Answer
from ..tenants.memory import Usage
from ..tenants.model import Credential, Tenant
from ..tenants.window import Window
from ..tenants.work import Budget
from .order import Order
from .pending import ReplyBatch
from .pubsub import SubscriptionChange
from .scripts import Scripts
from .state import BugError, Step
from .transactions import Transactions

if TYPE_CHECKING:
    from .client_visit import ClientVisit


class ClientConnection(Protocol):
    """One client's connection."""

    id: int

    @property
    def peer(self) -> str:
        """The client's address, for CLIENT INFO."""

    @property
    def local(self) -> str:
        """The proxy's own address on this connection, for CLIENT INFO."""

    @property
    def age(self) -> int:
        """Whole seconds since the client connected."""

    @property
    def bytes_received(self) -> int:
        """Bytes received from the client so far."""

    @property
    def has_left(self) -> bool:
        """Whether the client sent its end of file a while ago, so that it must get no item."""

    @property
    def bytes_unread(self) -> int:
        """Bytes that were written and that the client has not read, without its `Backlog`.

        The number changes while the client reads.
        """

    def write(self, data: bytes) -> None:
        """Writes to the client."""

    def gather(self) -> None:
        """Keeps what is written, until `write_gathered`."""

    def write_gathered(self) -> None:
        """Writes all that was kept, at once."""

    def pause_reading(self) -> None:
        """Reads no more from the client for now."""

    def resume_reading(self) -> None:
        """Reads from the client again."""

    def upstream_full(self, full: bool) -> None:
        """Stops reading from the client while full is True: Redis reads its commands too slowly."""

    def close(self, close_reason: str) -> None:
        """Closes after everything written has left. close_reason: for the log."""

    def abort(self, close_reason: str) -> None:
        """Closes at once, even if written bytes have not left. close_reason: for the log."""

    def give_way(self, close_reason: str) -> None:
        """Closes the client after the replies to what Redis has. Its session sends no more.

        close_reason: for the log.
        """

    def bug(self, error: BaseException) -> None:
        """Logs a bug of the proxy, and aborts this connection alone."""

    def deadline_changed(self) -> None:
        """The session's `deadline` changed: calls the session's `time_is` at the new one."""

    def sends_much_early(self) -> None:
        """The client has sent more than a log-in, and is not logged in."""

    def identity_changed(self, credential: Credential | None) -> None:
        """The client is logged in with this credential from now on.

        None: it is not logged in any more, and must log in again within the login timeout.
        """


class Reservation(Protocol):
    """One of a tenant's connections (`max-connections`), while a log-in is under way."""

    def keep(self) -> None:
        """The log-in succeeded: keeps the reservation until the client logs out or leaves."""

    def cancel(self) -> None:
        """The log-in failed: gives the reservation back."""


class Accounts(Protocol):
    """Who may log in, and what is counted of a client, as that client's session sees it."""

    def authenticate(self, user: str | None, password: bytes) -> Credential:
        """Returns the credential that this password belongs to. Raises AuthenticationError."""

    def look_again(self, user: str | None, password: bytes) -> Credential | None:
        """Returns the credential of a password that was wrong a moment ago, and is right by now.

        Counts nothing. None: it is still wrong.
        """

    def reserve(self, credential: Credential) -> Reservation:
        """Reserves one of the tenant's connections.

        Raises TenantFullError if the tenant has too many connections.
        """

    def inspected(self, name: bytes) -> None:
        """The session inspected a command. name: as the client spelt it, for the counts."""

    def forbidden(self, name: str) -> None:
        """The session refused a command that the tenant may not use. name: fit for a log."""

    def take_slot_at_once(self, tenant: Tenant) -> bool:
        """Returns whether the session has a slot: it had one before, or one is free."""

    def take_slot(self, tenant: Tenant, step: Step[bool]) -> None:
        """Finishes the Step, now or later, with whether the session has a slot."""

    def wrong_password(self) -> tuple[float, bool]:
        """Counts a wrong password. Returns when to answer it, and whether to close the client then.

        The time is in seconds of the connection's clock, and later the more wrong passwords came.
        """

    def may_track(self, tenant: Tenant) -> bool:
        """Returns whether the tenant may use client-side caching."""

    def stats(self) -> Mapping[str, float]:
        """Returns what INFO says about the tenant's clients: each of `info.CLIENT_STATS`."""

    def visit(self, visit: ClientVisit, step: Step[ClientVisit]) -> None:
        """Has the visit see each of the tenant's sessions, in all processes of this proxy, and then
        finishes the Step with it. Never at once: others get their turn between two such commands of
        a tenant.
        """

    def charge(self, answer: bytes) -> None:
        """Charges an answer of the proxy's own, as if Redis had sent it."""


class Upstream(Protocol):
    """A connection to Redis that carries a tenant's commands, multiplexed or dedicated, or an
    `Unavailable`.
    """

    #: whether it takes no more commands for now
    busy: bool

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        """Sends whole commands. A dedicated connection also takes parts of commands.

        batch: the replies to expect; None: the newest batch was enlarged for them already.
        """

    def expect(self, batch: ReplyBatch) -> None:
        """Expects the replies to commands that are sent next, by `send`."""

    def newest(self) -> ReplyBatch | None:
        """Returns the newest batch that Redis has to answer, if there is one."""


class Dedicated(Upstream, Protocol):
    """A connection to Redis that carries the commands of one session."""

    #: RESP version, 2 or 3
    protocol: int
    #: the tenant whose commands it can carry; None: it was never SELECTed
    tenant: Tenant | None
    #: whether it is logged in as its tenant's ACL user, so that Redis enforces the tenant's limits
    has_acl_user: bool
    #: set once a script was sent that may still run: see `upstream.script_watch`
    runs_scripts: bool

    @property
    def local_address(self) -> str:
        """The proxy's address of the connection, as CLIENT LIST of Redis shows it.

        Empty if the address does not identify the connection: on a Unix socket.
        """

    @property
    def waits(self) -> bool:
        """Whether a reply is pending of which no byte has come."""

    @property
    def unsent(self) -> int:
        """Bytes of commands that Redis's machine has not taken yet."""

    @property
    def in_kernel(self) -> int:
        """Bytes that the kernel uses for the connection."""

    def carry_session(self, session: DedicatedUser) -> None:
        """Carries this session's commands from now on."""

    def withdraw(self, batch: ReplyBatch) -> None:
        """Expects the newest batch no more: Redis did not get its command whole."""

    def pause(self, paused: bool) -> None:
        """Stops reading replies, because the client does not read them. paused: False: reads on."""

    def give_up(self, blocked: bool) -> None:
        """Sends nothing more, not even bytes that it took and Redis did not get yet.

        blocked: True: Redis must also give up the commands that it has not run.
        """

    def lend_no_more(self) -> None:
        """No other session gets the connection when this one releases it."""

    def release(self, clean: bool) -> None:
        """The session uses the connection no more.

        clean: no state of the session is left on it, so another session may use it.
        """


class Multiplexed(Upstream, Protocol):
    """A connection to Redis that carries the commands of many sessions."""

    @property
    def overloaded(self) -> bool:
        """Whether it takes no more commands for another reason than the tenant's order."""

    @property
    def in_rounds(self) -> bool:
        """Whether commands wait in it for places in their tenant's window."""

    def send_in_rounds(self, data: bytes, batch: ReplyBatch, needed: int, window: Window) -> None:
        """Sends whole commands when there are places for them in the window, in order.

        batch: one that no later command enlarges; needed: how many places they need. If that is the
        number of replies, the commands may be divided.
        """

    def slow_reader(self, user: MultiplexedUser, size: int) -> None:
        """The session's client does not read. size: bytes that its backlog grew by."""

    def settle(self) -> None:
        """Decides again whether replies are read: a session waits for them now, or not any more."""

    def others_wait(self, user: MultiplexedUser) -> bool:
        """Whether sessions whose clients do read wait for this connection. user: not this one."""

    def read_everything(self, user: MultiplexedUser) -> None:
        """The session's client has read its backlog, or is gone."""


class DedicatedUser(Protocol):
    """A session, as its dedicated connection sees it."""

    #: its tenant's share of the proxy's work
    work: Budget

    @property
    def midway(self) -> bool:
        """Whether Redis got the beginning of a command, and not yet its end."""

    @property
    def rank(self) -> int:
        """How much is lost if it ends. 0: it is idle, and has no state; 1: idle, with state at
        Redis (subscriptions, MULTI, WATCH); 2: its command is blocked; 3: others are pending.
        """

    def give_way(self) -> None:
        """It has to end: its tenant has most connections to Redis, and another one needs one."""

    def upstream_full(self, full: bool) -> None:
        """Redis reads commands too slowly (full is True), or fast enough again (False)."""

    def upstream_lost(self) -> None:
        """The connection is gone."""


class MultiplexedUser(Protocol):
    """A session, as the multiplexed connections see it."""

    @property
    def replies(self) -> ReplyReceiver:
        """What receives the session's replies."""

    @property
    def ended(self) -> bool:
        """Whether the session reads no more commands, and never will."""

    @property
    def wants_replies(self) -> bool:
        """Whether the session waits for its pending replies, although its client does not read."""

    @property
    def usage(self) -> Usage:
        """The memory that the session uses."""

    def upstream_ready(self) -> None:
        """The pool's connection takes commands, or an attempt to open one failed."""


class ScriptPool(Protocol):
    """The multiplexed connection for one tenant's scripts in one protocol version.

    While a script runs, Redis reads nothing behind it on the same connection. So scripts do not go
    where other commands go.
    """

    @property
    def upstream(self) -> Multiplexed | Unavailable:
        """The connection that scripts go to, or why there is none."""

    @property
    def slow(self) -> bool:
        """Whether a script takes long there. No other script should wait behind it."""

    @property
    def available(self) -> Multiplexed | None:
        """`upstream`, if a script can be sent there now; else None."""

    def wait_until_free(self, step: Step[None]) -> None:
        """Finishes the Step when `upstream` is not busy any more."""


class TenantPool(Protocol):
    """One tenant's multiplexed connections in one protocol version."""

    #: RESP version, 2 or 3
    protocol: int

    @property
    def upstream(self) -> Multiplexed | Unavailable:
        """The connection that new commands go to, or why there is none."""

    @property
    def scripts(self) -> ScriptPool:
        """The connection for scripts, which is opened at the first use."""

    def wait(self, session: MultiplexedUser) -> None:
        """Calls the session's `upstream_ready` once, when `upstream` is not busy any more."""

    def leave(self) -> None:
        """One session fewer uses the pool."""


class Backend(Protocol):
    """One Redis."""

    #: what tenants may do there now
    policy: Policy
    #: whether sessions share connections
    multiplexes: bool

    def acquire(self, tenant: Tenant, protocol: int, step: Step[Dedicated | Unavailable]) -> None:
        """Finishes the Step with a dedicated connection, or with an Unavailable.

        protocol: RESP version, 2 or 3.
        """

    def join_at_once(self, tenant: Tenant, protocol: int) -> TenantPool | None:
        """Returns the tenant's multiplexed connections, if one is open: the usual case, in which
        nobody waits. None: the session has to `join` them.

        Only where `multiplexes` is true. protocol: RESP version, 2 or 3. The session must call
        `TenantPool.leave` when it does not use them any more.
        """

    def join(self, tenant: Tenant, protocol: int, step: Step[TenantPool | Unavailable]) -> None:
        """Finishes the Step with the tenant's multiplexed connections, or with an Unavailable.

        See `join_at_once`. If Redis is busy with a script, the
        pool has no connection yet, and its `upstream` is an Unavailable that has a `hello`.
        """

    def prepare(self, tenant: Tenant, protocol: int) -> None:
        """A dedicated connection will probably be acquired soon."""

    def order(self, tenant: Tenant) -> Order:
        """Returns the order of the tenant's commands, the same object for all of its sessions."""

    def window(self, tenant: Tenant) -> Window:
        """Returns the tenant's window, the same object for all of its sessions."""

    def table(self, tenant: Tenant, usual: dict[bytes, int]) -> dict[bytes, int]:
        """Returns the scanner's table for the tenant: the usual one, unless some of its plain
        commands go through its window, because they are slow.

        usual: that of the policy.
        """

    def holds(self, tenant: Tenant) -> bool:
        """Whether the tenant's work waits because Redis is away, or the tenant is paused."""

    def busy_error(self) -> str:
        """Returns Redis's error if it is busy with a script, and what it is is not known yet; else
        an empty string.
        """

    def query(self, tenant: Tenant, commands: list[list[bytes]], step: Step[list[Answer] | Unavailable]) -> None:
        """Runs commands with the master's rights, for a tenant.

        Finishes the Step with an Answer for each command, or with an Unavailable.
        """

    def transactions(self, tenant: Tenant) -> Transactions:
        """Returns the tenant's open transactions, the same object for all of its sessions."""

    def script_error(self, tenant: Tenant) -> bytes:
        """Returns the error reply to commands about scripts, if the tenant may run none now; else
        empty.
        """

    def scripts(self, tenant: Tenant) -> Scripts:
        """Returns the tenant's scripts that publish, the same object for all of its sessions."""

    def allow_patterns(self, tenant: Tenant, patterns: list[bytes], step: Step[Unavailable | None]) -> None:
        """Lets the tenant PSUBSCRIBE to these patterns, literally.

        Finishes the Step with None, or with an Unavailable. After None the session has a use of
        each different pattern, until `leave_patterns`.
        """

    def leave_patterns(self, tenant: Tenant, patterns: Collection[bytes]) -> None:
        """The session does not use these patterns any more: see `allow_patterns`."""

    def allow_tracking(self, tenant: Tenant, step: Step[Unavailable | None]) -> None:
        """Allows the tenant's ACL user the commands of client-side caching.

        Finishes the Step with None, or with an Unavailable.
        """


class ReplyReceiver(Protocol):
    """Receives the replies of a batch."""

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """Takes the next bytes of the batch's replies. ended: how many replies end in them."""

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """The multiplexed connection is gone: this batch and all later ones get no more replies."""


class Subscriber(Protocol):
    """Receives confirmations and messages of channels."""

    def confirmed(self, update: SubscriptionChange, refused: bool) -> bool:
        """All confirmations of a (P|S)(UN)SUBSCRIBE have come, or one error instead.

        refused: it was the error. Returns whether messages may come now.
        """

    def cancelled(self, count: int) -> None:
        """So many confirmations will not come: Redis refused the SUBSCRIBE with one error."""

    def message(self, piece: bytes, whole: bool) -> None:
        """Takes bytes of messages. whole: the last message ends with them."""

    @property
    def hidden(self) -> int:
        """How many patterns Redis has besides those that the client knows, and counts in each
        confirmation.
        """

    def bare(self, channel: bytes) -> bytes:
        """Returns a channel or pattern as the client knows it: without the tenant's prefix."""

    def pattern_of(self, pattern: bytes, channel: bytes) -> bytes | None:
        """Returns the client's pattern that a message is for. pattern, channel: as Redis names
        them.

        None: the client does not get this message, because it gets the one for another pattern.
        """


class Tracker(Protocol):
    """Receives the messages of client-side caching."""

    def confirmed(self, on: bool, refused: bool) -> bool:
        """A CLIENT TRACKING was answered. Returns whether messages may come now.

        on: what it asked for; refused: Redis answered with an error.
        """

    def message(self, piece: bytes, whole: bool) -> None:
        """See `Subscriber`."""


class Unavailable:
    """The result where there is no connection to Redis, or no answer of Redis.

    As an Upstream, it answers each command with its error. error: an error reply without ``-``.
    busy: a connection is being opened, so commands wait instead of failing. closes: the time to
    wait is over, so clients are closed instead of answered, as Redis would close them. hello:
    Redis's answer to a HELLO, if Redis is there, but runs a script for too long; else empty. Then
    log-ins succeed, as in Redis.
    """

    __slots__ = ("busy", "close_reason", "closes", "error", "hello")

    def __init__(
        self, error: str = messages.UNREACHABLE.text, busy: bool = False, closes: bool = False, hello: bytes = b""
    ) -> None:
        self.error, self.busy = error, busy
        self.closes, self.close_reason = closes, messages.NOT_HELD.code
        self.hello = hello

    def __repr__(self) -> str:
        return f"<Unavailable: {self.error}>"

    @property
    def overloaded(self) -> bool:
        """See Multiplexed."""
        return self.busy

    @property
    def reply(self) -> bytes:
        """The error reply, with ``-`` and CR LF."""
        return b"-%b\r\n" % self.error.encode()

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        """See Upstream."""
        if batch is not None:
            count, heard = batch.count, batch.count - batch.discard
            batch.count = batch.discard = 0
            batch.receiver.reply(batch, self.reply * heard, count)

    def expect(self, batch: ReplyBatch) -> None:
        """See Upstream. Raises BugError: nothing is sent here but what `send` answers."""
        raise BugError("a reply is expected of a Redis that is away")

    def newest(self) -> ReplyBatch | None:
        """See Upstream."""
        return None
