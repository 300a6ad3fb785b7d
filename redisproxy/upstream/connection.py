"""An upstream connection: one connection to Redis, logged in, with one tenant's database SELECTed.

Owns the log-in and the checks of Redis's answers to it. Carries the bytes of one session, or of
many (`multiplexed`). `pool` decides who gets which connection. This module is longer than other
modules: the log-in and the carrying of commands read the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from twisted.internet import defer
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from .. import bounds, messages
from ..net import socket_buffers
from ..net.addresses import shown_address
from ..net.keepalive import probe_idle_connection
from ..net.protocol import PauseReason, Pressure, RespReceiver, below_tls
from ..net.rate_limit import UNLIMITED_TENANT, TenantLimit
from ..net.twisted_private import discard_unsent, has_unsent, unsent
from ..printable import printable, shown_error
from ..resp.framing import ProtocolError, ReplyMeasurer, encode
from ..session.pending import BLOCKING, CONFIRMATIONS, TRACKING, PendingReplies, ReplyBatch
from ..session.ports import DedicatedUser
from ..tenants.deferred import DeferredReads
from ..tenants.model import BackendAddress, Tenant
from ..tenants.slow_log import ConnectionNames
from ..tenants.work import UNLIMITED
from .hold import is_away, is_lasting
from .order import TenantOrder
from .redis_errors import first_word, is_busy, is_full


class UpstreamError(messages.MessageError):
    """An upstream connection is not available.

    client_reply: for the client; passing: whether a later attempt may succeed, see `hold`.
    """

    #: why clients are closed that have waited for what may pass
    close_reason = messages.NOT_HELD.code

    def __init__(self, reason: messages.Text, client_reply: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.client_reply = client_reply
        self.passing = passing


class RedisUnreachable(UpstreamError):
    """Redis takes no connections, serves nobody, or does not answer in time. This is so for all
    tenants.
    """

    def __init__(self, reason: messages.Text) -> None:
        super().__init__(reason, messages.UNREACHABLE.text, passing=True)


class RedisFull(RedisUnreachable):
    """Redis has as many clients as it takes. If others have more, they make room: see `crowd`."""


class RedisCloses(RedisUnreachable):
    """The connection was closed before it was ready, without a word that arrived."""


class PausedError(UpstreamError):
    """The tenant is paused, and the time to wait is over."""

    close_reason = messages.PAUSED.code

    def __init__(self) -> None:
        super().__init__(messages.TENANT_PAUSED(), messages.UNREACHABLE.text, passing=True)


class RedisBusy(UpstreamError):
    """A script, or a function, has run for too long. Until it ends, Redis refuses most commands.

    This is so for all tenants, and no fault of the connection. answer: Redis's error; hello: its
    answer to a HELLO in the protocol that was asked for, which it does not refuse. The client gets
    both.
    """

    def __init__(self, answer: str, hello: bytes = b"") -> None:
        super().__init__(messages.REDIS_BUSY(), answer.lstrip("-"))
        self.hello = hello


class UserUnknown(UpstreamError):
    """Redis does not know the tenant's ACL user, or knows another password. It must be provisioned
    again.
    """


def _error(answer: bytes) -> messages.Text:
    return messages.redis_error(shown_error(answer))


def _unreachable(answer: bytes, reason: messages.Text) -> RedisUnreachable:
    return (RedisFull if is_full(_text(answer)) else RedisUnreachable)(reason)


def _text(answer: bytes) -> str:
    """Returns Redis's answer in one line, for a client."""
    return printable(answer.decode("utf-8", "replace"))


class Pool(Protocol):
    """The owner of upstream connections."""

    def release(self, upstream: RedisConnection, clean: bool) -> None:
        """A session releases the connection. clean: the session left no state on it."""

    def lost(self, upstream: RedisConnection) -> None:
        """The connection is gone."""

    @property
    def names(self) -> ConnectionNames:
        """The names that connections have in Redis."""

    def answered_wrongly(self, upstream: RedisConnection, reason: str) -> None:
        """Redis broke RESP, or sent a reply to nothing. reason: a text that contains none of
        Redis's bytes.
        """

    def answered_like_replica(self, upstream: RedisConnection) -> None:
        """The connection may lead to a replica, which refuses writes. A tenant's script can fake
        such a reply.
        """

    def left_script(self, upstream: RedisConnection) -> None:
        """The connection ends, or is released, and Redis may be running a script of it."""


class User(Protocol):
    """The user of an upstream connection: a session, or a `multiplexed.MultiplexedConnection`."""

    def upstream_lost(self) -> None:
        """The connection is gone."""


class RedisConnection(RespReceiver):
    """One connection to Redis.

    pool: learns when a session releases the connection, and when the connection is lost.
    """

    # Else these objects would have more attributes than Python keeps in the fast way: 30.
    __slots__ = (
        "_answers",
        "_asked",
        "_deal_out",
        "_deferred",
        "_finished",
        "_narrow",
        "_pending",
        "_pool",
        "_session",
        "_spied",
        "_user",
        "_work",
        "address",
        "counted",
        "has_acl_user",
        "idle_since",
        "like_replica",
        "opened",
        "order",
        "protocol",
        "runs_scripts",
        "stale",
        "tenant",
        "tenant_limit",
    )

    def __init__(self, address: BackendAddress, pool: Pool) -> None:
        self.address = address
        #: when it was opened, in the reactor's seconds; None before that, and after the proxy
        #: closed it
        self.opened: float | None = None
        #: whether it is logged in as its tenant's ACL user, so that Redis itself restricts the
        #: tenant
        self.has_acl_user = False
        #: None until a database is SELECTed
        self.tenant: Tenant | None = None
        #: the protocol version; 3 after a HELLO 3
        self.protocol = 2
        #: whether it gave a reply that only a replica gives
        self.like_replica = False
        #: whether it must not be used again; for instance because it may lead to another server
        #: than a new one
        self.stale = False
        #: how many of the received bytes are in the counts already
        self.counted = 0
        #: when it became idle, in the reactor's seconds
        self.idle_since = 0.0
        self._pool = pool
        self._pending: PendingReplies | None = None
        # Whether each read is small. Many small messages take long, and many upstream connections
        # may have some in the same turn.
        self._narrow = False
        self._deal_out: Callable[[bytes], None] | None = None
        # Once messages or confirmations may come: each of them is handled alone, which is work of
        # the user's tenant.
        self._deferred: DeferredReads | None = None
        self._work = UNLIMITED
        self._answers = b""
        self._asked: deque[defer.Deferred[bytes]] = deque()
        self._user: User | None = None
        # Whether it was half closed: see `finish`.
        self._finished = False
        #: the order of its tenant's commands; None while it is not lent
        self.order: TenantOrder | None = None
        #: whether a script was sent over it since it was lent; or a command of which the proxy knew
        #: only the beginning
        self.runs_scripts = False
        # The session that it is lent to; None if it is lent to several, or to nobody.
        self._session: DedicatedUser | None = None
        self._spied: Callable[[bytes], bool] | None = None
        #: the limit of its tenant
        self.tenant_limit: TenantLimit = UNLIMITED_TENANT

    def __repr__(self) -> str:
        return f"<connection {self.address.shown} for {self.tenant.namespace if self.tenant else 'nobody yet'}>"

    def connectionMade(self) -> None:
        super().connectionMade()
        if not isinstance(self.transport.getHost(), UNIXAddress):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            probe_idle_connection(self.transport.fileno())
        socket_buffers.limit(self._handle, bounds.SOCKET_BYTES, bounds.SOCKET_BYTES)

    @property
    def key(self) -> tuple[Tenant, int] | None:
        """The tenant and protocol that it can be used for; None if any, because no database was
        SELECTed.
        """
        return None if self.tenant is None else (self.tenant, self.protocol)

    # Logging in.

    def _ask(self, *arguments: bytes) -> defer.Deferred[bytes]:
        """Sends a command. Fires with the answer without the last CR LF, or fails if the connection
        is lost.

        Not at once: a full Redis may have closed the connection before the proxy noticed that it is
        open. A write then resets it. Twisted would find that by a second write, before it reads the
        error that Redis sent. The reactor reads before it writes.
        """
        answered: defer.Deferred[bytes] = defer.Deferred()
        self._asked.append(answered)
        self.transport.write(encode(arguments))
        return answered

    async def log_in(self) -> None:
        """Sends AUTH with the master password, if there is one, and PING. Raises UpstreamError.

        A Redis that loads its data takes AUTH, and refuses what tenants send. Without a password,
        only the PING shows whether Redis keeps the connection.
        """
        address = self.address
        who = [address.username.encode()] if address.username else []
        authenticated = self._ask(b"AUTH", *who, address.password) if address.password else defer.succeed(b"+OK")
        pinged = self._ask(b"PING")
        try:
            answer = await authenticated
            if answer != b"+OK":
                reason = messages.REDIS_ANSWERED_AUTH(error=_error(answer))
                if is_lasting(answer):
                    raise UpstreamError(reason, messages.LOGIN_REFUSED.text)
                raise _unreachable(answer, reason)
        except BaseException:
            pinged.addErrback(lambda _: None)  # it fails with the connection
            raise
        answer = await pinged
        if is_away(answer):
            raise _unreachable(answer, messages.REDIS_ANSWERED_PING(error=_error(answer)))

    async def bind(self, tenant: Tenant, login: tuple[bytes, bytes] | None, protocol: int) -> None:
        """Names the connection, SELECTs the tenant's database, logs in as its ACL user, and sends
        HELLO for another protocol.

        login: user and password of a user without the right to SELECT another database; None: the
        connection keeps the master's rights. protocol: 2 or 3. Raises UpstreamError, UserUnknown,
        or RedisBusy. After RedisBusy the connection is as it was before.
        """
        # In the same write as SELECT. Redis keeps the name after AUTH. Where Redis refuses it, only
        # the tenant's slow commands are not known.
        self._ask(b"CLIENT", b"SETNAME", self._pool.names.of(tenant)).addErrback(lambda _: None)
        answer = await self._ask(b"SELECT", b"%d" % tenant.index)
        if answer != b"+OK":
            text = _text(answer)
            if is_busy(text):
                raise await self.busy_error(text, protocol)
            shown = shown_error(answer)
            refused = messages.SELECT_REFUSED(index=tenant.index, error=shown.lstrip("-"))
            raise UpstreamError(
                messages.REDIS_ANSWERED_SELECT(index=tenant.index, error=messages.redis_error(shown)),
                refused if first_word(text) == "ERR" else text.lstrip("-"),
                not is_lasting(answer),
            )
        if login is not None:
            answer = await self._ask(b"AUTH", *login)
            if answer.startswith(b"-WRONGPASS"):
                raise UserUnknown(
                    messages.REDIS_USER_UNKNOWN(namespace=tenant.namespace), messages.UNREACHABLE.text, passing=True
                )
            if answer != b"+OK":
                raise UpstreamError(
                    messages.REDIS_ANSWERED_TENANT_AUTH(namespace=tenant.namespace, error=_error(answer)),
                    messages.LOGIN_REFUSED.text,
                    not is_lasting(answer),
                )
            self.has_acl_user = True
        if protocol != self.protocol:
            answer = await self._ask(b"HELLO", b"%d" % protocol)
            if answer[:1] not in b"%*":
                shown = shown_error(answer)
                raise UpstreamError(
                    messages.REDIS_ANSWERED_HELLO(protocol=protocol, error=messages.redis_error(shown)),
                    shown.lstrip("-"),
                    not is_lasting(answer),
                )
            self.protocol = protocol
        self.tenant = tenant

    async def busy_error(self, answer: str, protocol: int) -> RedisBusy:
        """Returns the error for a client, after Redis has refused a command because it is busy.

        answer: Redis's error; protocol: 2 or 3. Also asks for the answer to a HELLO, because
        clients may send one, and there is no connection that it could be passed on to.
        """
        hello = await self._ask(b"HELLO", b"%d" % protocol)
        if hello[:1] in b"%*":
            self.protocol = protocol
        return RedisBusy(answer, hello + b"\r\n")

    async def check(self) -> None:
        """Sends PING, to find out whether the connection still works. Raises UpstreamError.

        It works also if Redis is busy with a script.
        """
        answer = await self._ask(b"PING")
        if is_away(answer):
            raise UpstreamError(messages.REDIS_ANSWERED_PING(error=_error(answer)), messages.UNREACHABLE.text, passing=True)

    def respReceived(self, data: bytes) -> None:
        if self._deal_out is not None:
            if self._deferred is None:
                self._deal_out(data)
            else:
                self._deferred.received(data, self._work)
            rate_limiter = self.tenant_limit.rate_limiter
            if rate_limiter is not None:
                # Charged also for the last bytes, when the user may be gone already. Then the
                # connection is not paused: its next user must not wait for these bytes.
                rate_limiter.replied(len(data), None if self._user is None else self)
            return
        self._answers += data
        while self._answers:
            end, done = ReplyMeasurer().measure(self._answers, 0, 1)
            if not self._asked or len(self._answers) > bounds.LOGIN_REPLY_BYTES:
                raise ProtocolError("a reply without a command")
            if not done:
                break
            answer, self._answers = self._answers[: end - 2], self._answers[end:]
            self._asked.popleft().callback(answer)

    def _deal_out_pieces(self, data: bytes) -> int:
        """Handles bytes that have messages or confirmations, perhaps in a later turn. Returns how
        many pieces they had.
        """
        pending, deal_out = self._pending, self._deal_out
        if pending is None or deal_out is None:
            return 0
        before = pending.pieces
        try:
            deal_out(data)
        except ProtocolError as error:
            self.respBroken(str(error))
        except Exception:
            self._crashed(Failure())
        if self._pending is not None and self._pending.small_messages != self._narrow:
            self._read_narrowly(not self._narrow)
        return pending.pieces - before

    def _read_narrowly(self, narrow: bool) -> None:
        self._narrow = narrow
        self._read_up_to(bounds.SMALL_READ_BYTES if narrow else bounds.READ_BYTES)

    def respBroken(self, reason: str) -> None:
        self._pool.answered_wrongly(self, reason)
        self.transport.abortConnection()

    # Carrying commands.

    def carry(
        self, user: User, pressed: Callable[[bool], None], received: Callable[[bytes], None] | None = None
    ) -> PendingReplies:
        """Lends the connection to a user. Returns the user's pending replies.

        pressed: called with True when Redis reads too slowly, and with False when it has caught up;
        received: called with Redis's bytes, must pass them to the pending replies; None: the
        connection passes them itself.
        """
        self._user = user
        self._session = None
        self._pending = pending = PendingReplies(self.protocol, self._found_replica)
        self._deal_out = received or pending.received
        self.transport.registerProducer(Pressure(lambda: pressed(True), lambda: pressed(False)), True)
        return pending

    def carries(self, user: User) -> bool:
        """Whether the connection is still lent to this user."""
        return self._user is user

    def _found_replica(self) -> None:
        if not self.like_replica:
            self.like_replica = True
            self._pool.answered_like_replica(self)

    # Scripts: see `script_watch`.

    @property
    def awaits_script(self) -> bool:
        """Whether Redis may be running a script that was sent over it.

        That is so if the oldest reply that is pending may be a script's: it is not a blocked
        command's, it has not begun to come, and its command was sent whole.
        """
        pending = self._pending
        if not self.runs_scripts or pending is None or not pending.batches:
            return False
        batches = pending.batches
        if batches[0].kind == BLOCKING:
            return False
        midway = self._session is not None and self._session.midway
        return len(batches) > 1 or batches[0].count > pending.partial + midway

    def spy(self, seen: Callable[[bytes], bool]) -> None:
        """Calls `seen` with what Redis sends, before it is dealt out, while it returns True."""
        former, self._spied = self._spied, seen
        deal_out = self._deal_out
        if former is not None or deal_out is None:
            return

        def seen_first(data: bytes) -> None:
            if self._spied is None or not self._spied(data):
                self._deal_out, self._spied = deal_out, None
            deal_out(data)

        self._deal_out = seen_first

    # One session's commands: see `session.ports.Dedicated`.

    busy = False

    @property
    def unsent(self) -> int:
        """See `session.ports.Dedicated`."""
        return unsent(self.transport)

    @property
    def in_kernel(self) -> int:
        """See `session.ports.Dedicated`."""
        return socket_buffers.used(self._handle)

    @property
    def _handle(self) -> object:
        """The socket."""
        below = below_tls(self.transport) if ISSLTransport.providedBy(self.transport) else self.transport
        return below.getHandle() if hasattr(below, "getHandle") else None

    def carry_session(self, session: DedicatedUser) -> None:
        """See `session.ports.Dedicated`."""
        self.carry(session, session.upstream_full)
        self._session = session
        self._work = session.work

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        """See `session.ports.Upstream`."""
        if batch is not None:
            if TYPE_CHECKING:
                assert self._pending is not None, "it is lent to the session"
            self._pending.batches.append(batch)
            if batch.kind in (CONFIRMATIONS, TRACKING):
                self._expect_pieces()
                if batch.kind == CONFIRMATIONS and not self._narrow:
                    self._read_narrowly(True)
        if self.order is not None and self.order.unflushed:
            self.order.flush()
        self.write(data)

    def _expect_pieces(self) -> None:
        """Messages or confirmations may come until the user releases the connection."""
        if self._deferred is None:
            self._deferred = DeferredReads(
                self._deal_out_pieces,
                partial(self.pause_reading, PauseReason.WORK),
                partial(self.resume_reading, PauseReason.WORK),
            )

    def expect(self, batch: ReplyBatch) -> None:
        """See `session.ports.Dedicated`."""
        if TYPE_CHECKING:
            assert self._pending is not None, "it is lent to the session"
        self._pending.batches.append(batch)

    def withdraw(self, batch: ReplyBatch) -> None:
        """See `session.ports.Dedicated`."""
        if TYPE_CHECKING:
            assert self._pending is not None, "it is lent to the session"
        self._pending.withdraw(batch)

    def newest(self) -> ReplyBatch | None:
        """See `session.ports.Upstream`."""
        if TYPE_CHECKING:
            assert self._pending is not None, "it is lent to the session"
        return self._pending.newest()

    def pause(self, paused: bool) -> None:
        """See `session.ports.Dedicated`."""
        if paused:
            self.pause_reading(PauseReason.PEER)
        else:
            self.resume_reading(PauseReason.PEER)

    def lend_no_more(self) -> None:
        """See `session.ports.Dedicated`."""
        self.stale = True

    def release(self, clean: bool) -> None:
        """See `session.ports.Dedicated`."""
        self._pool.release(self, clean)

    @property
    def local_address(self) -> str:
        """See `session.ports.Dedicated`."""
        host = self.transport.getHost()
        return "" if isinstance(host, UNIXAddress) else shown_address(host)

    @property
    def waits(self) -> bool:
        """See `session.ports.Dedicated`."""
        return self._pending is not None and bool(self._pending.batches) and not (self._pending.partial or self._finished)

    def give_up(self, blocked: bool) -> None:
        """See `session.ports.Dedicated`."""
        if blocked or has_unsent(self.transport):
            self.finish()

    @property
    def rank(self) -> int | None:
        """How much is lost if it is given up: see `session.ports.DedicatedUser`. None: it is not
        one session's.
        """
        return None if self._session is None else self._session.rank

    def give_way(self) -> None:
        """Ends its session, because another tenant needs a connection. It is lent no more."""
        self.stale = True
        if self._session is not None:
            self._session.give_way()

    def finish(self) -> None:
        """Sends nothing more, not even bytes that the kernel has not taken, and half closes the
        connection.

        When Redis reads the end of file, it forgets the client. It does not run a blocked command,
        nor the commands behind it. Replies that Redis has written still come. After them comes
        Redis's own end of file, and Redis can run nothing more.
        """
        if self._pending is None or self._finished:
            return  # all replies have come, and it was released
        self._finished = True
        self.stale = True
        self.write = _discard
        # Reads without a pause from now on: only a read shows the end of file. No more can come
        # than the kernel has.
        self.resume_reading(PauseReason.PEER | PauseReason.RATE | PauseReason.WORK)
        # The transport would not close before a paused producer resumes.
        self.transport.unregisterProducer()
        if not discard_unsent(self.transport):
            self.transport.abortConnection()
        elif ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def pause_reading(self, reason: int) -> None:
        """See `RespReceiver`."""
        if not self._finished:
            super().pause_reading(reason)

    def detach(self) -> bool:
        """The user releases the connection. Returns whether nothing is pending, so that it could be
        reused.
        """
        if self.awaits_script:
            self._pool.left_script(self)
        pending, settled = self._pending, True
        if pending is not None:  # else it was never lent
            settled = pending.settled
            self.protocol = pending.protocol
            pending.abandon()  # drops the rest of the bytes that are being read
        if self._deferred is not None:
            settled = settled and not self._deferred.waiting
            self._deferred.end()
            self._deferred = None
        self._user = self._session = None
        self._pending = self._deal_out = self._spied = None
        self.runs_scripts = False
        if self._narrow:
            self._read_narrowly(False)
        self.transport.unregisterProducer()
        self.resume_reading(PauseReason.PEER | PauseReason.RATE | PauseReason.WORK)
        return settled

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._deferred is not None:
            if self._finished:  # the user still gets what Redis has written
                self._deferred.at_once()
            self._deferred.end()
        if self.awaits_script:
            self._pool.left_script(self)
        user, self._user = self._user, None
        self._session = self._spied = self._deferred = None
        pending, self._pending, self._deal_out = self._pending, None, None
        if pending is not None:
            pending.lost()
        self._pool.lost(self)
        while self._asked:
            self._asked.popleft().errback(reason)
        if user is not None:
            user.upstream_lost()

    def drop(self) -> None:
        """Closes the connection at once, whatever is pending."""
        self.opened = None
        self.transport.abortConnection()


def _discard(_: bytes) -> None:
    """Writes nothing."""
