"""The client's side: one connection of an application.

Owns the client's socket: its slot, its time limits, its back-pressure, how it is closed. Implements
`session.ports.ClientConnection`. What the bytes mean is the session's business; who is logged in,
`accounts`'.

It is longer than other modules since the states of a socket (waits for a slot, handshaking, half
closed, closing) decide together what each event means.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Protocol

from OpenSSL.SSL import Error as TlsError
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

from .. import bounds, messages, probes
from ..listen.tls import why_tls
from ..net.addresses import shown_address
from ..net.protocol import PauseReason, Pressure, RespReceiver, below_tls
from ..net.time_limit import TimeLimit
from ..net.twisted_private import close_if_written, has_unsent
from ..ops.access_log import ConnectionRecord
from ..session.ports import Dedicated
from ..session.session import Session
from ..tenants.account import increase
from ..tenants.model import Credential
from . import accounts
from .accounts import ClientAccount
from .admission import Admission

#: What a connection can be doing. multiplexed, dedicated: logged in, and which upstream connection
#: its commands go to.
STATES = ("waiting", "unauthenticated", "multiplexed", "dedicated", "ending")

FULL = messages.FULL.reply()


class Clients(accounts.Shared, Protocol):
    """What the connections of one process share: see `factory.ClientFactory`."""

    admission: Admission
    #: seconds from a client's slot to its log-in
    login_timeout: float
    #: for those that have not logged in
    log_ins: TimeLimit[ClientProtocol]
    #: called at each client that goes, once the proxy ends
    drained: Callable[[], object] | None

    def client_connected(self, client: ClientProtocol) -> None:
        """A client is connected."""

    def client_disconnected(self, client: ClientProtocol) -> None:
        """A client's connection is gone."""

    def crowded(self) -> None:
        """Somebody waits for a slot."""


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class ClientProtocol(RespReceiver):
    """One client's connection, and its session."""

    def __init__(self, clients: Clients, number: int, address: IAddress | None) -> None:
        self._clients = clients
        self.id = number
        self.peer = shown_address(address)
        self.address = getattr(address, "host", "")
        self.account = ClientAccount(self, clients)
        self.session = Session(self, self.account, clients.backend)
        self._admitted = False
        self._early = b""
        self._closing = False
        self._read_closed = False
        self._handshaking = False
        self._flushed = False
        self._linger = bounds.LINGER_SECONDS
        self._close_reason = ""
        self._detail = ""
        self._since = 0.0
        #: what is done at which second of the clock, unless something else happens before
        self._deadline: tuple[float, Callable[[], object]] | None = None
        # For that or for the session's deadline, whichever is first.
        self._timer: IDelayedCall | None = None
        self._usual_buffer = 0

    def __repr__(self) -> str:
        return f"<client {self.id} from {self.peer}>"

    def connectionMade(self) -> None:
        super().connectionMade()
        clients = self._clients
        self._since = clients.clock.seconds()
        self._handshaking = ISSLTransport.providedBy(self.transport)
        self.transport.registerProducer(Pressure(self._full, self._empty), True)
        self._socket = below_tls(self.transport) if self._handshaking else self.transport
        self._usual_buffer = getattr(self._socket, "bufferSize", 0)
        if not self._handshaking:  # of which the server's part is larger
            self._limit_backlog()
        clients.client_connected(self)
        if not clients.admission.arrive(self):
            self.write(FULL)
            self.close(messages.TURNED_AWAY.code)
        elif not self._admitted:
            clients.crowded()

    def handshakeCompleted(self) -> None:
        """See IHandshakeListener. The time limit of the log-in is that of the handshake, too."""
        self._handshaking = False
        self._limit_backlog()

    def _limit_backlog(self) -> None:
        """A client that is not logged in may leave little unread."""
        if self._usual_buffer:
            self._socket.bufferSize = bounds.UNAUTHENTICATED_BACKLOG_BYTES

    def admitted(self) -> None:
        """See `admission.Arrival`."""
        self._admitted = True
        self._since = self._clients.clock.seconds()
        self._clients.log_ins.begin(self)
        early, self._early = self._early, b""
        self.resume_reading(PauseReason.PLACE)
        if early:
            self.bytes_received -= len(early)  # or it would be counted twice
            self.dataReceived(early)

    def login_timeout(self) -> None:
        """It had its time to log in."""
        self.write(messages.NO_LOGIN.reply(seconds=int(self._clients.login_timeout)))
        self.session.ending.begin(messages.LOGIN_TIMEOUT.code)

    def make_room(self) -> None:
        """It has not logged in yet, and others wait for a place."""
        # its password is right: it is Redis that takes long
        if self.session.pending_login is not None:
            self._clients.log_ins.begin(self)
            return
        self.write(messages.NO_LOGIN_WHILE_OTHERS_WAIT.reply(seconds=int(bounds.CROWDED_LOGIN_SECONDS)))
        self.session.ending.begin(messages.LOGIN_TIMEOUT.code)
        self.transport.loseConnection()  # without a time to read that

    def respReceived(self, data: bytes) -> None:
        if self._closing:
            return
        if self._admitted:
            reservation = self.account.reservation
            if reservation.rate_limiter is None:
                self.session.received(data)
            else:
                reservation.received(data)
            return
        self._early += data
        if len(self._early) >= bounds.WAITING_CLIENT_BYTES:
            probes.reached("client sends much while it waits for a place")
            self.pause_reading(PauseReason.PLACE)

    def readConnectionLost(self) -> None:
        """The client will send no more. It may have gone altogether: its pending replies get a
        moment, not more.
        """
        self._read_closed = True
        if self._closing or not self._admitted:
            self.transport.loseConnection()
            return
        if self.session.at_rest and close_if_written(self.transport):
            return
        self._give_grace()
        self.session.ending.half_closed()

    def writeConnectionLost(self) -> None:
        """All has been written that will be."""
        self._flushed = True
        if self._read_closed:
            self.transport.loseConnection()
        else:
            # What the kernel still has is delivered after that, too, as long as nothing unread lies
            # here.
            self._set_deadline(self._linger, self.transport.loseConnection)

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
        grace = bounds.HALF_CLOSED_DEDICATED_SECONDS if self.session.dedicated else bounds.HALF_CLOSED_SECONDS
        self._set_deadline(grace, self.transport.abortConnection)

    def _set_deadline(self, seconds: float, call: Callable[[], object]) -> None:
        """Instead of the one before: a connection has one at a time, beside its session's."""
        self._clients.log_ins.end(self)
        self._deadline = self._clients.clock.seconds() + seconds, call
        self._restart_timer()

    def _no_deadline(self) -> None:
        self._clients.log_ins.end(self)
        self._deadline = None
        self._restart_timer()

    def deadline_changed(self) -> None:
        """See `session.ports.ClientConnection`."""
        self._restart_timer()

    def _restart_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        due = self.session.deadline
        if self._deadline is not None:
            due = self._deadline[0] if due is None else min(due, self._deadline[0])
        if due is not None:
            clock = self._clients.clock
            self._timer = clock.callLater(max(0.0, due - clock.seconds()), self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        now = self._clients.clock.seconds()
        self.session.time_is(now)
        if self._deadline is not None and self._deadline[0] <= now:
            (_, call), self._deadline = self._deadline, None
            call()
        if self._timer is None:
            self._restart_timer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        clients, session, account = self._clients, self.session, self.account
        account.lost()
        session.ending.at_once()
        self._no_deadline()
        error = reason.value
        if not self._close_reason and isinstance(error, TlsError):
            self._close_reason, self._detail = messages.TLS_FAILED.code, why_tls(error, self.transport.getHandle())
        close_reason = self._close_reason or messages.CLIENT_LEFT.code
        increase(clients.counts.ended, close_reason)
        if clients.access_log.logs(close_reason):
            clients.access_log.ended(self._record(close_reason))
        clients.admission.leave(self)
        clients.client_disconnected(self)
        # They hold each other: without this they were left to the garbage collector, whose full
        # runs are felt.
        session.forget()
        account.forget()

    # The tenant's limits: see `net.rate_limit.Client`.

    def read_at_most(self, size: int) -> None:
        """So many bytes at once."""
        if self._usual_buffer:
            self._socket.bufferSize = min(size, self._usual_buffer)

    def crashed(self) -> None:
        """Called where an exception was caught."""
        self._crashed(Failure())

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
        """See `session.ports.ClientConnection`."""
        self.account.inspected(name)

    def forbidden(self, name: str) -> None:
        """See `session.ports.ClientConnection`."""
        self.account.forbidden(name)

    def identity_changed(self, credential: Credential | None) -> None:
        """See `session.ports.ClientConnection`."""
        if credential is None:
            self._clients.log_ins.begin(self)
            self.account.belongs_to(None)
            self.account.reservation.release()
            self._limit_backlog()
        else:
            self._clients.log_ins.end(self)
            self.account.belongs_to(credential.tenant)
            self.read_at_most(self._usual_buffer)

    def dedicated(self) -> None:
        """See `session.ports.ClientConnection`."""
        if self._read_closed and not self._closing:
            self._give_grace()

    def upstream_full(self, full: bool) -> None:
        """See `session.ports.ClientConnection`."""
        if full:
            self.pause_reading(PauseReason.PEER)
        else:
            self.resume_reading(PauseReason.PEER)

    def bug(self, error: BaseException) -> None:
        """See `session.ports.ClientConnection`."""
        self._crashed(Failure(error))

    def _record(self, close_reason: str) -> ConnectionRecord:
        credential = self.session.credential
        return ConnectionRecord(
            number=self.id,
            peer=self.peer,
            namespace=credential.tenant.namespace if credential else None,
            secret=credential.secret if credential else None,
            seconds=self._clients.clock.seconds() - self._since,
            commands=self.session.commands,
            refused=self.session.refused,
            close_reason=close_reason,
            detail=self._detail,
        )

    # What the session asks for.

    def close(self, close_reason: str) -> None:
        """See `session.ports.ClientConnection`.

        Reads on for a moment: for an unread byte the kernel would drop the last reply.
        """
        if self._closing:
            return
        self._closing = True
        self._close_reason = close_reason
        if not self._admitted:
            self._clients.admission.leave(self)  # or it would be given a place
        if self._handshaking:
            # Nothing can be told it yet, and to go on with the handshake for that would cost as
            # much as to serve it.
            self.transport.abortConnection()
            return
        secure = ISSLTransport.providedBy(self.transport)
        if self._clients.drained is None:
            self._set_deadline(bounds.CLOSE_SECONDS, self.transport.abortConnection)
        elif secure:
            self._set_deadline(self._linger, self._lingered)
        else:
            self._no_deadline()  # the end comes for all
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
        """See `session.ports.ClientConnection`."""
        self._closing = True
        self._close_reason = close_reason
        self.transport.abortConnection()

    def pause_reading(self, reason: int = PauseReason.SESSION) -> None:
        """See `session.ports.ClientConnection`."""
        if not self._closing:
            super().pause_reading(reason)

    def resume_reading(self, reason: int = PauseReason.SESSION) -> None:
        """See `session.ports.ClientConnection`."""
        if not self._closing:
            super().resume_reading(reason)

    @property
    def age(self) -> int:
        """See `session.ports.ClientConnection`."""
        return int(self._clients.clock.seconds() - self._since)

    @property
    def has_acl_user(self) -> bool:
        """Whether it has a dedicated connection on which Redis holds its tenant's limits."""
        upstream = self.session.dedicated
        return upstream is not None and upstream.has_acl_user

    def _crashed(self, failure: Failure) -> None:
        # What one client can bring about once, it can bring about all the time.
        if self._clients.access_log.allows(self.account.namespace, self.peer):
            super()._crashed(failure)
        else:
            self.transport.abortConnection()

    # Back-pressure.

    def _full(self) -> None:
        self.session.client_slow(True)

    def _empty(self) -> None:
        self.session.client_slow(False)

    # The end of the proxy: see `drain`.

    def drain(self) -> None:
        """It is asked to leave: after what it has begun."""
        if not self.session.outstanding:
            self._linger = bounds.IDLE_LINGER_SECONDS
        if self._admitted:
            self.session.ending.drain()
        else:
            self.close(messages.SHUTDOWN.code)

    def hurry(self) -> Dedicated | None:
        """The end is near: it begins nothing more. Returns the dedicated connection if the client
        waits for its reply.
        """
        session = self.session
        session.ending.hurry()
        upstream = session.dedicated
        if upstream is None or not upstream.waits:
            return None
        session.ending.expect_unblocking()
        return upstream

    def cut_off(self) -> None:
        """The end: it is closed now."""
        if self._closing and self._all_written:
            # Not aborted, where that can be helped: it may not have read all yet.
            secure = ISSLTransport.providedBy(self.transport)
            (self.transport.abortConnection if secure else self.transport.loseConnection)()
        else:
            self.abort(messages.CUT_OFF.code)

    @property
    def _all_written(self) -> bool:
        """Of one that is being closed: whether the kernel has all."""
        if not ISSLTransport.providedBy(self.transport):
            return self._flushed
        # Of these only the client's answer tells, and it need not answer.
        return not has_unsent(self._socket)

    def _lingered(self) -> None:
        if self._all_written:
            self.transport.abortConnection()
        else:
            self._set_deadline(bounds.LINGER_SECONDS, self._lingered)

    def end_revoked(self) -> None:
        """Closes it after the replies that it waits for: its session was revoked."""
        if self._closing:
            return
        self.session.ending.close_if_drained()
        if not self._closing:
            self._set_deadline(bounds.REVOKED_SECONDS, self._out_of_grace)

    def _out_of_grace(self) -> None:
        probes.reached("revoked client does not take its last replies")
        self.session.ending.at_once()
        self.close(messages.REVOKED.code)
