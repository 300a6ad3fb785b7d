"""All that a session knows of outside: the client's connection, accounts, Redis and its
connections.

Owns interfaces. The Twisted side implements them (`clients`, `upstream`), and so do the tests. A
method that takes a Step ends in `step.finish`, once: at once, later, or with an `Unavailable`. If
that returns False, the result goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .. import messages
from ..policy.policy import Policy
from ..resp.value import Answer
from ..tenants.model import Credential, Tenant
from .pending import ReplyBatch
from .pubsub import SubscriptionChange
from .state import Step


class ClientConnection(Protocol):
    """One client's connection."""

    id: int
    #: the client's address, for CLIENT INFO
    peer: str

    @property
    def age(self) -> int:
        """Seconds since it came."""

    @property
    def bytes_received(self) -> int:
        """From the client, so far."""

    def write(self, data: bytes) -> None:
        """To the client."""

    def pause_reading(self) -> None:
        """Reads no more from the client for now."""

    def resume_reading(self) -> None:
        """Reads on."""

    def upstream_full(self, full: bool) -> None:
        """Whether Redis takes what the client sends too slowly, so that the client is not read
        from.
        """

    def close(self, close_reason: str) -> None:
        """Closes when what was written has left. close_reason: for the log."""

    def abort(self, close_reason: str) -> None:
        """Closes at once, whatever is on its way."""

    def bug(self, error: BaseException) -> None:
        """Logs a bug, which costs this connection alone, and aborts it."""

    def deadline_changed(self) -> None:
        """The session's `deadline` is another one: `time_is` is called then."""

    def identity_changed(self, credential: Credential | None) -> None:
        """The client is logged in with this from now on; None: not any more, so a new one must come
        in time.
        """

    def dedicated(self) -> None:
        """The session has a dedicated connection to Redis from now on."""

    def inspected(self, name: bytes) -> None:
        """The session inspected a command: it can be counted by its name."""

    def forbidden(self, name: str) -> None:
        """A command was refused that the tenant may not use: for the log. name: fit for it."""


class Reservation(Protocol):
    """One of a tenant's connections (`max-connections`), while a log-in is under way."""

    def keep(self) -> None:
        """The log-in is complete."""

    def cancel(self) -> None:
        """It came to nothing."""


class Accounts(Protocol):
    """Who may log in, as one client sees it."""

    def authenticate(self, user: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError."""

    def reserve(self, credential: Credential) -> Reservation:
        """Raises TenantFullError if the tenant has too many connections."""

    def wrong_password(self) -> tuple[float, bool]:
        """Counts one: when it is answered, the later the more there were; and whether the client
        may try no more.
        """

    def stats(self) -> Mapping[str, int]:
        """What INFO says about the tenant's clients: each of `info.CLIENT_STATS`."""


class Upstream(Protocol):
    """A connection to Redis that carries a tenant's commands, multiplexed or dedicated, or an
    `Unavailable`.
    """

    #: whether it takes no more commands for now
    busy: bool

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        """Sends whole commands and expects the batch; without a batch, the newest one has grown by
        their replies.

        A dedicated connection also takes parts of commands.
        """

    def newest(self) -> ReplyBatch | None:
        """The newest batch that it expects."""


class Dedicated(Upstream, Protocol):
    """One that carries the commands of one session."""

    protocol: int
    #: whose commands it can carry; None: it was never SELECTed
    tenant: Tenant | None
    #: whether it is logged in as its tenant's ACL user, so that Redis holds the tenant's limits
    has_acl_user: bool

    @property
    def local_address(self) -> str:
        """The proxy's end of it, as Redis's CLIENT LIST has it; empty: that does not tell such
        connections apart.
        """

    @property
    def waits(self) -> bool:
        """Whether Redis has a reply pending of which nothing has come."""

    def carry_session(self, session: DedicatedUser) -> None:
        """The session uses it from now on."""

    def withdraw(self, batch: ReplyBatch) -> None:
        """The newest batch will not be answered: its command was not sent to its end."""

    def pause(self, paused: bool) -> None:
        """Whether no replies are read from Redis for now, since the client does not read them."""

    def give_up(self, blocked: bool) -> None:
        """Sends nothing more, not even what it took. blocked: and has Redis give up what it has not
        run.
        """

    def release(self, clean: bool) -> None:
        """The session uses it no more. clean: no state of the session is left on it, so another one
        may have it.
        """


class Multiplexed(Upstream, Protocol):
    """One that carries the commands of many sessions."""

    def slow_reader(self, user: MultiplexedUser, size: int) -> None:
        """The client of this session does not read, and has so many bytes more in its backlog."""

    def read_everything(self, user: MultiplexedUser) -> None:
        """The client has read all, or is gone."""


class DedicatedUser(Protocol):
    """A session, as its dedicated connection sees it."""

    def upstream_full(self, full: bool) -> None:
        """Whether Redis takes too slowly what it is sent."""

    def upstream_lost(self) -> None:
        """The connection is gone."""


class MultiplexedUser(Protocol):
    """A session, as the multiplexed connections see it."""

    @property
    def replies(self) -> ReplyReceiver:
        """Who gets its replies."""

    @property
    def ended(self) -> bool:
        """Whether it reads no more commands, and never will."""

    def upstream_ready(self) -> None:
        """The multiplexed connection takes commands again, or another one is there, or there is
        none.
        """

    def close_slow_reader(self) -> None:
        """Others wait for replies that its client does not read: it is closed."""


class TenantPool(Protocol):
    """One tenant's multiplexed connections in one protocol version."""

    protocol: int

    @property
    def upstream(self) -> Multiplexed | Unavailable:
        """Where commands go that are sent now."""

    def wait(self, session: MultiplexedUser) -> None:
        """`upstream_ready` is called when that changes, or it is not busy any more."""

    def leave(self) -> None:
        """One session less uses it."""


class Backend(Protocol):
    """One Redis."""

    #: what tenants may do there, now
    policy: Policy
    #: whether sessions share connections
    multiplexes: bool

    def acquire(self, tenant: Tenant, protocol: int, step: Step[Dedicated | Unavailable]) -> None:
        """Finishes with a dedicated connection, or with an Unavailable."""

    def join(self, tenant: Tenant, protocol: int, step: Step[TenantPool | Unavailable]) -> None:
        """Where sessions share connections: finishes with the tenant's, or with an Unavailable."""

    def query(self, tenant: Tenant, commands: list[list[bytes]], step: Step[list[Answer] | Unavailable]) -> None:
        """Asks Redis with the master's rights: finishes with an Answer for each command, or with an
        Unavailable.
        """

    def allow_patterns(self, tenant: Tenant, patterns: list[bytes], step: Step[Unavailable | None]) -> None:
        """Has the tenant's ACL user allowed these patterns, literally: finishes with None, or with
        an Unavailable.
        """


class ReplyReceiver(Protocol):
    """Who gets the replies of a batch."""

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """The next bytes; so many replies end in them."""

    def upstream_lost(self, batch: ReplyBatch, partial: bool) -> None:
        """The multiplexed connection is gone: no more replies will come, of this and of any later
        batch.

        partial: the receiver got a part of a reply, and the rest will not come.
        """


class Subscriber(Protocol):
    """Who gets confirmations and messages of channels."""

    def confirmed(self, update: SubscriptionChange, refused: bool) -> bool:
        """All confirmations of a (P|S)(UN)SUBSCRIBE are here, or one error instead. Whether
        messages may come now.
        """

    def cancelled(self, count: int) -> None:
        """So many confirmations will not come: the SUBSCRIBE was refused with one error."""

    def message(self, piece: bytes, whole: bool) -> None:
        """Bytes of messages. whole: the last one ends with them."""

    def bare(self, channel: bytes) -> bytes:
        """A channel or pattern as the client knows it."""


class Unavailable:
    """Stands where there is no connection to Redis, or no answer. As an Upstream it answers each
    command with its error.

    error: an error reply without ``-``. busy: a connection is being opened, so commands wait rather
    than fail.
    """

    __slots__ = ("busy", "error")

    def __init__(self, error: str = messages.UNREACHABLE.text, busy: bool = False) -> None:
        self.error = error
        self.busy = busy

    def __repr__(self) -> str:
        return f"<Unavailable: {self.error}>"

    @property
    def reply(self) -> bytes:
        """The error as the client gets it."""
        return b"-%b\r\n" % self.error.encode()

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        """See Upstream."""
        if batch is not None:
            count, heard = batch.count, batch.count - batch.discard
            batch.count = batch.discard = 0
            batch.receiver.reply(batch, self.reply * heard, count)

    def newest(self) -> ReplyBatch | None:
        """See Upstream."""
        return None
