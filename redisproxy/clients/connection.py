"""The client's side: one connection of an application.

Owns the client's socket: its place, its time limits, its back-pressure, how it is closed. What the bytes mean is
the session's business.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from OpenSSL.SSL import Error as TlsError
from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import probes
from ..listen.tls import why_tls
from ..net.protocol import PauseReason, Pressure, RespReceiver
from ..net.rate_limit import Reservation
from ..net.twisted_private import close_if_written
from ..ops.access_log import ConnectionRecord
from ..policy.policy import Policy
from ..session import pubsub
from ..session.conversation import REVOKED
from ..session.session import Session
from ..tenants.account import TenantCounters, increase
from ..tenants.login_backoff import WRONG_PASSWORDS_LIMIT
from ..tenants.model import AuthenticationError, Credential, Tenant, TenantFullError
from ..upstream.client import ControlError
from ..upstream.connection import RedisConnection, UpstreamError
from ..upstream.multiplexed import TenantPool

if TYPE_CHECKING:
    from .factory import ClientFactory

#: Bytes taken from a client that waits for a place: a log-in and a few commands.
WAITING_LIMIT = 16 * 1024
#: Bytes that may be on their way to a client that is not logged in.
BACKLOG_LIMIT = 1024
#: Seconds for a client to take its last bytes, before it is cut off.
CLOSE_LIMIT = 10.0
#: Seconds for it to close then, before we do.
LINGER = 2.0
#: The same for one that was pending nothing when the proxy began to end: time for its last reply to arrive.
IDLE_LINGER = 0.5
#: Seconds to log in while others wait for a place, or whoever reaches the port could keep everybody out for a while.
CROWDED = 3.0
#: Seconds for the replies pending to a client that has sent its end of file. Redis gives it none; a proxy has a way to go.
#: It may have left: a BLPOP of its must not wait for long, so there is less time on a dedicated connection.
HALF_CLOSED_GRACE, HALF_CLOSED_GRACE_DEDICATED = 5.0, 0.5
#: Seconds for a session that was revoked to get the replies it waits for, before it gives up its connections to Redis.
REVOKED_GRACE = 10.0

#: Refused commands of one connection that are written down; the others are counted in its outcome.
TOLD = 10

#: What a connection can be doing. shared, dedicated: logged in, and which upstream connection its commands go to.
STATES = ("waiting", "unauthenticated", "multiplexed", "dedicated", "ending")

FULL = b"-ERR max number of clients reached\r\n"


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class ClientProtocol(RespReceiver):
    """One client's connection: the link that carries a session."""

    factory: ClientFactory

    def __init__(self, number: int, address: IAddress) -> None:
        self.id = number
        self.peer = shown_address(address)
        self._address = getattr(address, "host", "")
        self.session = Session(self)
        self._admitted = False
        self._early: list[bytes] = []
        self._early_size = 0
        self._closing = False
        self._read_closed = False
        self._handshaking = False
        self._flushed = False
        self._linger = LINGER
        self._close_reason = ""
        self._detail = ""
        self._since = 0.0
        self._timer: IDelayedCall | None = None
        self._leasing: defer.Deferred | None = None
        # What it asks about the whole server, until that is answered.
        self._asking: defer.Deferred | None = None
        self._usual_buffer = 0
        self._wrong = 0
        self._forbidden = 0
        self._login_delay: IDelayedCall | None = None
        self._tenant: Tenant | None = None
        # Whose commands and bytes these are, and how many of them are in it.
        self._counters: TenantCounters | None = None
        self._counted = (0, 0)
        self._reservation = Reservation(self)

    def __repr__(self) -> str:
        return f"<client {self.id} from {self.peer}>"

    def connectionMade(self) -> None:
        super().connectionMade()
        factory = self.factory
        self._since = factory.clock.seconds()
        self._handshaking = ISSLTransport.providedBy(self.transport)
        self.transport.registerProducer(Pressure(self._full, self._empty), True)
        self._socket = self.transport.transport if self._handshaking else self.transport
        self._usual_buffer = getattr(self._socket, "bufferSize", 0)
        if not self._handshaking:  # of which the server's part is larger
            self._limit_backlog()
        factory.came(self)
        if not factory.admission.arrive(self):
            self.write(FULL)
            self.close("turned-away")
        elif not self._admitted:
            factory.crowded()

    def handshakeCompleted(self) -> None:
        """See IHandshakeListener. The time limit of the log-in is that of the handshake, too."""
        self._handshaking = False
        self._limit_backlog()

    def _limit_backlog(self) -> None:
        """A client that is not logged in may leave little unread."""
        if self._usual_buffer:
            self._socket.bufferSize = BACKLOG_LIMIT

    def admitted(self) -> None:
        """See `admission.Arrival`."""
        self._admitted = True
        self._since = self.factory.clock.seconds()
        self.factory.log_ins.begin(self)
        early, self._early = b"".join(self._early), []
        self.resume_reading(PauseReason.PLACE)
        if early:
            self.taken -= len(early)  # or it would be counted twice
            self.dataReceived(early)

    def login_timeout(self) -> None:
        """It had its time to log in."""
        self.write(b"-ERR no log-in within %d seconds\r\n" % self.factory.timeouts.login)
        self.session.end("login-timeout")

    def make_room(self) -> None:
        """It has not logged in yet, and others wait for a place."""
        if self.session.pending_login is not None:  # its password is right: it is Redis that takes long
            self.factory.log_ins.begin(self)
            return
        self.write(b"-ERR no log-in within %d seconds, and others wait for a place\r\n" % CROWDED)
        self.session.end("login-timeout")
        self.transport.loseConnection()  # without a time to read that

    def respReceived(self, data: bytes) -> None:
        if self._closing:
            return
        if self._admitted:
            if self._reservation.rate_limiter is None:
                self.session.received(data)
            else:
                self._reservation.received(data)
            return
        self._early.append(data)
        self._early_size += len(data)
        if self._early_size >= WAITING_LIMIT:
            probes.reached("client sends much while it waits for a place")
            self.pause_reading(PauseReason.PLACE)

    def readConnectionLost(self) -> None:
        """The client will send no more. It may have gone altogether: what it is still pending gets a moment, not more."""
        self._read_closed = True
        if self._closing or not self._admitted:
            self.transport.loseConnection()
            return
        if self.session.at_rest and close_if_written(self.transport):
            return
        self._give_grace()
        self.session.half_closed()

    def writeConnectionLost(self) -> None:
        """All has been written that will be."""
        self._flushed = True
        if self._read_closed:
            self.transport.loseConnection()
        else:
            # What the kernel still has is delivered after that, too, as long as nothing unread lies here.
            self._restart_timer(self._linger, self.transport.loseConnection)

    def probe(self) -> None:
        """Looks whether a client that is not read from has left: nothing else would tell."""
        if not self._held or self._closing or self._read_closed or not hasattr(select, "POLLRDHUP"):
            return
        poll = select.poll()
        poll.register(self.transport.fileno(), select.POLLRDHUP)
        if poll.poll(0):
            probes.reached("client that is not read from has left")
            self._read_closed = True
            self._give_grace()

    def _give_grace(self) -> None:
        grace = HALF_CLOSED_GRACE_DEDICATED if self.session.dedicated else HALF_CLOSED_GRACE
        self._restart_timer(grace, self.transport.abortConnection)

    def _restart_timer(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        """A connection has one time limit at a time."""
        self._stop_timer()
        self._timer = self.factory.clock.callLater(seconds, call, *arguments)

    def _stop_timer(self) -> None:
        self.factory.log_ins.end(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        if self._login_delay is not None and self._login_delay.active():
            self._login_delay.cancel()
        factory = self.factory
        self._belongs_to(None)
        self._reservation.lost()
        self.session.lost()
        for under_way in (self._leasing, self._asking):
            if under_way is not None:
                under_way.cancel()
        if not self._close_reason and reason.check(TlsError):
            self._close_reason, self._detail = "tls-failed", why_tls(reason.value, self.transport.getHandle())
        close_reason = self._close_reason or "client-left"
        increase(factory.counts.ended, close_reason)
        if factory.access_log.logs(close_reason):
            factory.access_log.ended(self._record(close_reason))
        factory.admission.leave(self)
        factory.left(self)
        # The two hold each other: without this they were left to the garbage collector, whose full runs are felt.
        self.session.link = None

    # Counting: by the chunk, and added up when somebody asks, so that it costs the commands nothing.

    def add_up(self) -> None:
        """Its tenant's counters has all that it did so far."""
        before, self._counted = self._counted, (self.session.commands, self.taken)
        if self._counters is not None:
            self._counters.commands += self._counted[0] - before[0]
            self._counters.received += self._counted[1] - before[1]

    def _belongs_to(self, tenant: Tenant | None) -> None:
        """It is the tenant's from now on; None: nobody's."""
        self.add_up()
        if tenant == self._tenant:
            return
        factory = self.factory
        if self._tenant is not None:
            factory.members[self._tenant].remove(self)
            if not factory.members[self._tenant]:
                del factory.members[self._tenant]
        self._tenant = tenant
        self._counters = None
        if tenant is not None:
            factory.members.setdefault(tenant, set()).add(self)
            self._counters = factory.counts.of(tenant.namespace)
            self._counters.logins += 1

    # The tenant's limits: see `net.rate_limit.Client`.

    def read_at_most(self, size: int) -> None:
        """So many bytes at once."""
        if self._usual_buffer:
            self._socket.bufferSize = min(size, self._usual_buffer)

    def crashed(self) -> None:
        """Called where an exception was caught."""
        self._crashed(Failure())

    @property
    def _namespace(self) -> str | None:
        """Of the tenant that it is logged in as."""
        return None if self._tenant is None else self._tenant.namespace

    @property
    def state(self) -> str:
        """One of STATES."""
        session = self.session
        if self._closing or session.ended:
            return "ending"
        if not self._admitted:
            return "waiting"
        if session.credential is None:
            return "unauthenticated"
        return "dedicated" if session.dedicated else "multiplexed"

    def inspected(self, name: bytes) -> None:
        """See `session.ports.Link`."""
        if self._counters is not None:
            self._counters.inspected_one(name)

    def _record(self, close_reason: str) -> ConnectionRecord:
        credential = self.session.credential
        return ConnectionRecord(
            number=self.id,
            peer=self.peer,
            namespace=credential.tenant.namespace if credential else None,
            secret=credential.secret if credential else None,
            seconds=self.factory.clock.seconds() - self._since,
            commands=self.session.commands,
            refused=self.session.refused,
            close_reason=close_reason,
            detail=self._detail,
        )

    # What the session asks of its link.

    def close(self, close_reason: str) -> None:
        """See `session.ports.Link`. Reads on for a moment: for an unread byte the kernel would drop the last reply."""
        if self._closing:
            return
        self._closing = True
        self._close_reason = close_reason
        if not self._admitted:
            self.factory.admission.leave(self)  # or it would be given a place
        if self._handshaking:
            # Nothing can be told it yet, and to go on with the handshake for that would cost as much as to serve it.
            self.transport.abortConnection()
            return
        secure = ISSLTransport.providedBy(self.transport)
        if self.factory.drained is None:
            self._restart_timer(CLOSE_LIMIT, self.transport.abortConnection)
        elif secure:
            self._restart_timer(self._linger, self._lingered)
        else:
            self._stop_timer()  # the end comes for all
        self.transport.unregisterProducer()
        if not self._read_closed:
            # Of TLS the client's own goodbye is waited for.
            self._held = 0
            self.transport.resumeProducing()
        if self._read_closed or secure:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def abort(self, close_reason: str) -> None:
        """See `session.ports.Link`."""
        self._closing = True
        self._close_reason = close_reason
        self.transport.abortConnection()

    def pause_reading(self, reason: int = PauseReason.SESSION) -> None:
        """See `session.ports.Link`."""
        if not self._closing:
            super().pause_reading(reason)

    def resume_reading(self, reason: int = PauseReason.SESSION) -> None:
        """See `session.ports.Link`."""
        if not self._closing:
            super().resume_reading(reason)

    @property
    def age(self) -> int:
        """See `session.ports.Link`."""
        return int(self.factory.clock.seconds() - self._since)

    @property
    def has_acl_user(self) -> bool:
        """Whether it has a dedicated connection on which Redis holds its tenant's limits."""
        upstream = self.session.upstream
        return isinstance(upstream, RedisConnection) and upstream.has_acl_user

    def policy(self) -> Policy:
        """See `session.ports.Link`."""
        return self.factory.policy

    def ask(self, commands: list[list[bytes]]) -> None:
        """See `session.ports.Link`."""
        asking = self._asking = defer.Deferred.fromCoroutine(self.factory.queries.ask(self._tenant, commands))
        self._on_control(asking)

    def permit(self, patterns: list[bytes]) -> None:
        """See `session.ports.Link`."""
        # Not cancelled when it leaves: Redis may have been told of them, and they are counted.
        self._on_control(
            defer.Deferred.fromCoroutine(self.factory.acl_users.permit(self.session.credential.tenant, patterns))
        )

    def _on_control(self, asked: defer.Deferred) -> None:
        asked.addErrback(self._control_failed)
        asked.addCallback(self._told)
        asked.addErrback(self._crashed)

    def _told(self, answer: object) -> None:
        self._asking = None
        self._reservation.answered(answer)
        self.session.told(answer)

    def _control_failed(self, failure: Failure) -> Exception:
        failure.trap(ControlError, UpstreamError, defer.CancelledError)  # the last one: nobody is there any more
        return failure.value

    def stats(self) -> Mapping[str, int]:
        """See `session.ports.Link`."""
        factory = self.factory
        siblings = factory.members[self._tenant]
        for client in siblings:
            client.add_up()
        factory.pool.add_up()
        sessions = [client.session for client in siblings]
        channels, patterns, sharded = pubsub.counted([session.subscriptions for session in sessions])
        return {
            "connected_clients": len(sessions),
            "blocked_clients": sum(session.blocked for session in sessions),
            "pubsub_clients": sum(map(bool, (session.subscriptions for session in sessions))),
            "total_connections_received": self._counters.logins,
            "total_commands_processed": self._counters.commands,
            "total_net_input_bytes": self._counters.received,
            "total_net_output_bytes": factory.counts.replied.get(self._tenant.namespace, 0),
            "pubsub_channels": channels,
            "pubsub_patterns": patterns,
            "pubsubshard_channels": sharded,
        }

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """See `session.ports.Link`."""
        try:
            credential = self.factory.snapshot.authenticate(username, password)
        except AuthenticationError as error:
            increase(self.factory.counts.logins, error.outcome)
            self.factory.access_log.login_refused(self.peer, error.outcome, self._namespace)
            raise
        before, tenant = self.session.credential, credential.tenant
        if before is None or before.tenant != tenant:
            try:
                self._reservation.reserve(self.factory.tenant_limits.of(tenant.namespace))
            except TenantFullError as error:
                increase(self.factory.counts.logins, error.outcome)
                self.factory.counts.of(tenant.namespace).turned_away += 1
                self.factory.access_log.tenant_full(self.peer, tenant.namespace, credential.secret)
                raise
        # The credential is right; whether an upstream connection can be had is not the client's fault.
        increase(self.factory.counts.logins, "ok")
        return credential

    def forbidden(self, name: str) -> None:
        """See `session.ports.Link`."""
        self._forbidden += 1
        if self._counters is not None:
            self._counters.refuse(name.encode())
        credential = self.session.credential
        if self._forbidden <= TOLD and credential is not None:
            self.factory.access_log.forbidden(self.peer, credential.tenant.namespace, credential.secret, name)

    def delay_login_error(self, error: bytes) -> None:
        """See `session.ports.Link`."""
        self._wrong += 1
        delay = self.factory.login_backoff.wrong(self._address, self.factory.clock.seconds())
        self._login_delay = self.factory.clock.callLater(
            delay, self.session.login_error_due, error, self._wrong >= WRONG_PASSWORDS_LIMIT
        )

    def logged_out(self) -> None:
        """See `session.ports.Link`."""
        self.factory.log_ins.begin(self)
        self._belongs_to(None)
        self._reservation.release()
        self._limit_backlog()

    @property
    def shares(self) -> bool:
        """See `session.ports.Link`."""
        return self.factory.shares

    def acquire(self, credential: Credential, protocol: int) -> None:
        """See `session.ports.Link`."""
        upstream = self.factory.pool.fresh(credential.tenant, protocol)
        if upstream is not None:
            self._leased(upstream)
            return
        self._await_upstream(
            defer.Deferred.fromCoroutine(self.factory.pool.acquire(credential.tenant, protocol)), self._leased
        )

    def share(self, credential: Credential, protocol: int) -> None:
        """See `session.ports.Link`."""
        tenant_pool = self.factory.pool.tenant_pool(credential.tenant, protocol)
        if tenant_pool.upstream is not None:  # as it mostly is: no Deferred
            tenant_pool.enter()
            self._shared(tenant_pool)
            return

        def failed(failure: Failure) -> Failure:
            tenant_pool.leave()
            return failure

        self._await_upstream(tenant_pool.come().addErrback(failed), lambda _: self._shared(tenant_pool))

    def _await_upstream(self, leasing: defer.Deferred, then: Callable[[object], None]) -> None:
        self._leasing = leasing
        leasing.addCallbacks(then, self._not_leased)
        leasing.addErrback(self._crashed)

    def _leased(self, upstream: RedisConnection) -> None:
        upstream.carry(self.session, self._redis_slow)
        self._upstream_there()
        self.session.upstream_opened(upstream)
        if self._read_closed and not self._closing:
            self._give_grace()

    def _shared(self, tenant_pool: TenantPool) -> None:
        self._upstream_there()
        self.session.multiplexed_ready(tenant_pool)

    def _upstream_there(self) -> None:
        self._leasing = None
        if self.session.pending_login is not None:
            self._belongs_to(self.session.pending_login.tenant)
        if self.session.credential is None:
            # The log-in succeeded.
            self.factory.log_ins.end(self)
            self.read_at_most(self._usual_buffer)
        self._reservation.keep()

    def _not_leased(self, failure: Failure) -> None:
        self._leasing = None
        self._reservation.cancel()
        failure.trap(UpstreamError, defer.CancelledError)
        if failure.check(UpstreamError):
            self.session.upstream_refused(failure.value.told)

    def _crashed(self, failure: Failure) -> None:
        # What one client can bring about once, it can bring about all the time.
        if self.factory.access_log.allows(self._namespace, self.peer):
            super()._crashed(failure)
        else:
            self.transport.abortConnection()

    # Back-pressure.

    def _redis_slow(self, slow: bool) -> None:
        if slow:
            self.pause_reading(PauseReason.PEER)
        else:
            self.resume_reading(PauseReason.PEER)

    def _full(self) -> None:
        self.session.unread(True)

    def _empty(self) -> None:
        self.session.unread(False)

    # The end of the proxy: see `drain`.

    def drain(self) -> None:
        """It is asked to leave: after what it has begun."""
        if not self.session.outstanding:
            self._linger = IDLE_LINGER
        if self._admitted:
            self.session.drain()
        else:
            self.close("shutdown")

    def hurry(self) -> RedisConnection | None:
        """The end is near: it begins nothing more. Gives the upstream connection of its own that it waits for, if there is
        one.
        """
        session = self.session
        session.hurry()
        if not (session.dedicated and session.upstream.waits):
            return None
        session.may_be_unblocked()
        return session.upstream

    def cut_off(self) -> None:
        """The end: it is closed now."""
        if self._closing and self._all_written:
            # Not aborted, where that can be helped: it may not have read all yet.
            secure = ISSLTransport.providedBy(self.transport)
            (self.transport.abortConnection if secure else self.transport.loseConnection)()
        else:
            self.abort("cut-off")

    @property
    def _all_written(self) -> bool:
        """Of one that is being closed: whether the kernel has all."""
        if not ISSLTransport.providedBy(self.transport):
            return self._flushed
        # Of these only the client's answer tells, and it need not answer.
        below = self.transport.transport
        return not (getattr(below, "dataBuffer", b"") or getattr(below, "_tempDataBuffer", ()))

    def _lingered(self) -> None:
        if self._all_written:
            self.transport.abortConnection()
        else:
            self._restart_timer(LINGER, self._lingered)

    def end_revoked(self) -> None:
        """Closes it after the replies that it waits for: its session was revoked."""
        if self._closing:
            return
        self.session.end_revoked()
        if not self._closing:
            self._restart_timer(REVOKED_GRACE, self._out_of_grace)

    def _out_of_grace(self) -> None:
        probes.reached("revoked client does not take its last replies")
        self.session.lost()
        self.close(REVOKED)


def shown_address(address: IAddress) -> str:
    """An address, for the log."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    return "a Unix socket"
