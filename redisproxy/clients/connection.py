"""One client's connection: the socket of an application.

Owns the client's socket: its deadlines, its back-pressure, and how it is closed.
Implements `session.ports.ClientConnection`. Must not know what the bytes mean (that is the
session's part), nor whose password was right (that is `accounts`).

This module is longer than other modules because the states of a socket (handshaking,
half closed, closing) together decide what each event means.
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
from ..net import socket_buffers
from ..net.addresses import host_of, shown_address
from ..net.protocol import PauseReason, Pressure, RespReceiver, below_tls
from ..net.time_limit import TimeLimit
from ..net.twisted_private import close_if_written, has_unsent, unacknowledged, unsent
from ..ops.access_log import ConnectionRecord
from ..session.ports import Dedicated
from ..session.session import Session
from ..tenants.account import increase
from ..tenants.memory import NOBODY
from ..tenants.model import Credential
from ..tenants.work import Budget
from . import accounts
from .accounts import ClientAccount
from .backlog import Backlog
from .departure import Departure, depart
from .presence import Presence

#: The states of a connection, for metrics. multiplexed, dedicated: the client is logged in, and its
#: commands go to this kind of connection to Redis.
STATES = ("waiting", "unauthenticated", "multiplexed", "dedicated", "ending")


class Clients(accounts.Shared, Protocol):
    """What all connections of one process share: see `factory.ClientFactory`."""

    #: seconds that a client has until its log-in
    login_timeout: float
    #: the login deadlines of clients that are not logged in
    log_ins: TimeLimit[ClientProtocol]
    #: called each time a client is gone, once the proxy drains; None before
    drained: Callable[[], object] | None

    def client_connected(self, client: ClientProtocol) -> None:
        """A client is connected."""

    def client_disconnected(self, client: ClientProtocol) -> None:
        """A client's connection is gone."""

    def watch(self, client: ClientProtocol) -> None:
        """A client is not read from now on, or sent its end of file."""


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class ClientProtocol(RespReceiver):
    """One client's connection, with its session.

    number: of this connection, unique; address: the client's.
    """

    # Else these objects would have more attributes than Python keeps in the fast way: 30.
    __slots__ = (
        "_address",
        "_backlog",
        "_clients",
        "_close_reason",
        "_closing",
        "_deadline",
        "_departure",
        "_flushed",
        "_gathered",
        "_handshaking",
        "_left_at",
        "_linger",
        "_patience",
        "_pressed",
        "_read_closed",
        "_received_little",
        "_since",
        "_socket",
        "_timer",
        "_unread_before",
        "_usual_buffer",
        "_write_through",
        "account",
        "detail",
        "id",
        "presence",
        "session",
    )

    def __init__(self, clients: Clients, number: int, address: IAddress | None) -> None:
        self._clients = clients
        self.id = number
        # Its address, as text only when somebody asks: that is one of the dearer parts of a
        # connection that is over after two commands.
        self._address = address
        self.account = ClientAccount(self, clients)
        self.session = Session(self, self.account, clients.backend)
        self.session.usage.belongs_to(clients.memory, NOBODY)
        self.session.work = clients.work.nobody
        self.presence = Presence(self, clients.admission)
        self._closing = False
        self._read_closed = False
        self._departure: Departure | None = None
        # From when on the client counts as gone, in seconds of the clock; None: it does not.
        self._left_at: float | None = None
        self._handshaking = False
        self._flushed = False
        self._linger = bounds.LINGER_SECONDS
        self._close_reason = ""
        #: more about how it ended, or would end now, in words that are not the client's
        self.detail = ""
        self._since = 0.0
        # When, in seconds of the clock, and what is called then.
        self._deadline: tuple[float, Callable[[], object]] | None = None
        # Seconds from each progress of the client to that deadline; None: it does not move.
        self._patience: float | None = None
        # What the client had not read when that deadline was set.
        self._unread_before = 0
        # For this deadline or the session's, whichever is first.
        self._timer: IDelayedCall | None = None
        self._usual_buffer = 0
        # Whether the kernel keeps little of what the client sends: see `sends_much_early`.
        self._received_little = False
        # Replies that the client has not read; None while it reads.
        self._backlog: Backlog | None = None
        # Answers that are written together, while the session runs several commands.
        self._gathered: list[bytes] | None = None
        # Whether the transport takes no more bytes for now.
        self._pressed = False

    def __repr__(self) -> str:
        return f"<client {self.id} from {self.peer}>"

    def connectionMade(self) -> None:
        super().connectionMade()
        self._write_through = self.write
        clients = self._clients
        self._since = clients.clock.seconds()
        self._handshaking = ISSLTransport.providedBy(self.transport)
        self.transport.registerProducer(Pressure(self._full, self._empty), True)
        self._socket = below_tls(self.transport) if self._handshaking else self.transport
        self._usual_buffer = getattr(self._socket, "bufferSize", 0)
        if not self._handshaking:  # the server's part of a handshake is larger than that limit
            self._limit_backlog()
        clients.client_connected(self)
        clients.log_ins.begin(self)
        clients.admission.arrive(self.presence)

    def handshakeCompleted(self) -> None:
        """See IHandshakeListener. The login deadline includes the handshake."""
        self._handshaking = False
        self._limit_backlog()

    def _limit_kernel(self, receive: int = 0, send: int = 0) -> None:
        """Limits what the kernel keeps for the client: see `net.socket_buffers`."""
        if hasattr(self._socket, "getHandle"):
            socket_buffers.limit(self._socket.getHandle(), receive, send)

    def sends_much_early(self) -> None:
        """See `session.ports.ClientConnection`."""
        self._received_little = True
        self._limit_kernel(receive=bounds.UNAUTHENTICATED_RECEIVED_BYTES)

    def charge_kernel(self) -> int:
        """See `kernel_watch.Client`. A dedicated connection to Redis is charged as well, and what
        the transport has that is too little for a backlog.
        """
        handle = getattr(self._socket, "getHandle", lambda: None)()
        dedicated = self.session.dedicated
        size = socket_buffers.used(handle) + (0 if dedicated is None else dedicated.in_kernel)
        if self._backlog is None:
            size += unsent(self.transport)
        size = size if size > bounds.KERNEL_CLIENT_BYTES else 0
        if size or self.session.usage.size:
            self.session.usage.kernel(size)
        return size

    def _limit_backlog(self) -> None:
        """Limits unsent replies, because the client is not logged in."""
        if self._usual_buffer:
            self._socket.bufferSize = bounds.UNAUTHENTICATED_BACKLOG_BYTES

    def login_timeout(self) -> None:
        """Closes the client, because its login deadline has passed.

        If its password was right, and it only waits for a slot or for Redis, the deadline begins
        anew.
        """
        if self.session.pending_login is not None:
            self._clients.log_ins.begin(self)
            return
        self.write(messages.NO_LOGIN.reply(seconds=int(self._clients.login_timeout)))
        self.session.ending.begin(messages.LOGIN_TIMEOUT.code)

    def make_room(self) -> None:
        """See `presence.Client`. What it costs must not depend on the client, so there is no time
        to read the error, and none to close TLS.
        """
        if self._closing or ISSLTransport.providedBy(self.transport) or unsent(self.transport):
            self.cut_short()
            return
        self.write(messages.MADE_ROOM_ERROR.reply())
        self.session.ending.at_once()
        self.close(messages.MADE_ROOM.code)
        self.transport.loseConnection()

    def cut_short(self) -> None:
        """See `presence.Client`."""
        self.abort(self._close_reason or self.session.ending.close_reason or messages.MADE_ROOM.code)

    def _read_much(self, size: int) -> None:
        """See `RespReceiver`. It is work of the tenant, which may have a thousand connections."""
        work = self.session.work
        work.spend(size // bounds.WORK_BYTES)
        if work.units > 0:  # else what was read may have to wait
            super()._read_much(size)

    def respReceived(self, data: bytes) -> None:
        if self._closing:
            return
        reservation = self.account.reservation
        if reservation.rate_limiter is None:
            self.session.received(data)
        else:
            reservation.received(data)

    def readConnectionLost(self) -> None:
        """The client sent its end of file, and may be gone: its pending replies get little time."""
        self._read_closed = True
        if self._departure is None:  # else it was read from again, and the kernel says so again
            self._departure = depart(self.session.work, self._sends_no_more)

    def _sends_no_more(self) -> None:
        if self._closing and self._backlog is not None:
            return  # `_empty` goes on
        if self._closing or self.presence.waits:
            self.transport.loseConnection()
            return
        if self.session.at_rest and close_if_written(self.transport):
            return
        self._leaves(bounds.HALF_CLOSED_BLOCKING_SECONDS)
        self.session.ending.half_closed()
        if not self._closing:
            self._clients.watch(self)

    @property
    def bytes_unread(self) -> int:
        """See `session.ports.ClientConnection`."""
        return unacknowledged(self.transport)

    @property
    def sent_eof(self) -> bool:
        """Whether the client's end of file has come, and was noticed."""
        return self._read_closed

    def _leaves(self, seconds: float) -> None:
        """Closes after HALF_CLOSED_SECONDS in which the client reads nothing.

        seconds: until the client counts as gone.
        """
        if self._left_at is None:
            self._left_at = self._clients.clock.seconds() + seconds
        self._set_deadline(bounds.HALF_CLOSED_SECONDS, self.transport.abortConnection, moves=True)

    @property
    def has_left(self) -> bool:
        """See `session.ports.ClientConnection`."""
        return self._left_at is not None and self._left_at <= self._clients.clock.seconds()

    def writeConnectionLost(self) -> None:
        """The kernel has taken the last byte, and the proxy writes no more."""
        self._flushed = True
        if self._read_closed:
            self.transport.loseConnection()
        else:
            # The kernel still delivers what it has after that, unless unread bytes of the client
            # are in its buffer.
            self._set_deadline(self._linger, self.transport.loseConnection)

    def probe(self) -> None:
        """Checks whether a client has left that is not read: nothing else would find that out.

        If it has left already: whether Redis was found away since.
        """
        if self._closing or not (self._read_closed or self._eof_waits):
            return
        if self._read_closed:
            if self.session.held:
                probes.reached("Redis is found away after the client left")
                self.session.ending.half_closed()
            return
        probes.reached("client that is not read from has left")
        self._read_closed = True
        self._leaves(0)
        if self.session.blocked or self.session.held:
            self.session.ending.half_closed()

    @property
    def _eof_waits(self) -> bool:
        """Whether the end of file of a client that is not read has come, or a reset."""
        if not self._held or not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(self.transport.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def _set_deadline(self, seconds: float, call: Callable[[], object], moves: bool = False) -> None:
        """Replaces the connection's deadline: it has one at a time, besides its session's.

        moves: whether it begins anew each time that the client has read a part of its replies.
        """
        self._clients.log_ins.end(self)
        self._patience = seconds if moves else None
        if moves:
            self._unread_before = self.bytes_unread
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
            if self._patience is not None and self.bytes_unread != self._unread_before:
                probes.reached("client that is to be closed reads slowly")
                self._set_deadline(self._patience, call, moves=True)
            else:
                call()
        if self._timer is None:
            self._restart_timer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        clients, session, account = self._clients, self.session, self.account
        if self._departure is not None:
            self._departure.end()
            self._departure = None
        account.lost()
        session.ending.at_once()
        if session.credential is None:  # else it has no login deadline
            clients.log_ins.end(self)
        self._deadline = None
        if self._timer is not None:
            self._restart_timer()
        error = reason.value
        if not self._close_reason and isinstance(error, TlsError):
            self._close_reason, self.detail = messages.TLS_FAILED.code, why_tls(error, self.transport.getHandle())
        close_reason = self._close_reason or messages.CLIENT_LEFT.code
        increase(clients.counts.ended, close_reason)
        if clients.access_log.logs(close_reason):
            clients.access_log.ended(self._record(close_reason))
        self.presence.lost()
        clients.client_disconnected(self)
        # These objects have references to each other. Otherwise only the garbage collector would
        # free them, and its full runs delay clients noticeably.
        if self._backlog is not None:
            self._drop_backlog()
        session.usage.end()
        session.forget()
        account.forget()

    @property
    def peer(self) -> str:
        """See `session.ports.ClientConnection`."""
        return shown_address(self._address)

    @property
    def address(self) -> str:
        """The client's IP address, or "" for a Unix socket."""
        return host_of(self._address)

    @property
    def local(self) -> str:
        """See `session.ports.ClientConnection`."""
        return shown_address(self.transport.getHost())

    # Behind a load balancer: see `listen.proxy_protocol.ProxiedClient`.

    def came_from(self, address: IAddress) -> None:
        """Its PROXY header is whole. Until now its address was the load balancer's."""
        self._address = address
        self.presence.moved()

    def header_broken(self, why: str) -> None:
        """It began with no PROXY header, or with a malformed one. why: for the log."""
        if not self._closing:
            self.detail = why
            self.abort(messages.BAD_PROXY_HEADER.code)

    # The tenant's limits: see `net.rate_limit.Client`.

    def read_at_most(self, size: int) -> None:
        """Reads at most so many bytes at once."""
        if self._usual_buffer:
            self._socket.bufferSize = min(size, self._usual_buffer)

    def crashed(self) -> None:
        """Logs the exception that is being handled as a bug, and aborts this connection."""
        self._crashed(Failure())

    @property
    def work(self) -> Budget:
        """See `listen.handshakes.Client`."""
        return self.session.work

    @property
    def state(self) -> str:
        """One of STATES."""
        session = self.session
        if self._closing or session.ended:
            return "ending"
        if self.presence.waits:
            return "waiting"
        if session.credential is None:
            return "unauthenticated"
        return "dedicated" if session.dedicated else "multiplexed"

    def identity_changed(self, credential: Credential | None) -> None:
        """See `session.ports.ClientConnection`."""
        if credential is None:
            self._clients.log_ins.begin(self)
            self.account.belongs_to(None)
            self.account.reservation.release()
            self._limit_backlog()
            self._limit_kernel(send=bounds.UNAUTHENTICATED_SENT_BYTES)
        else:
            self._clients.log_ins.end(self)
            if self.presence.owner is not credential.tenant:
                self.presence.belongs_to(credential.tenant)
            self.account.belongs_to(credential.tenant)
            self._limit_kernel(bounds.SOCKET_BYTES if self._received_little else 0, bounds.SOCKET_BYTES)
            self.read_at_most(self._usual_buffer)

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
        credential = self.session.credential or self.presence.turned_away
        return ConnectionRecord(
            number=self.id,
            peer=self.peer,
            namespace=credential.tenant.namespace if credential else None,
            secret=credential.secret if credential else None,
            seconds=self._clients.clock.seconds() - self._since,
            commands=self.session.commands,
            refused=self.session.refused,
            close_reason=close_reason,
            detail=self.detail,
        )

    # What the session asks for.

    def close(self, close_reason: str) -> None:
        """See `session.ports.ClientConnection`.

        Reads on for a moment: if a byte stayed unread, the kernel would drop the last reply.
        """
        if self._closing:
            return
        self.write_gathered()
        self._closing = True
        self._close_reason = close_reason
        if self._handshaking:
            # No error can be sent yet. To finish the handshake for that would cost as much as to
            # serve the client.
            self.transport.abortConnection()
            return
        secure = ISSLTransport.providedBy(self.transport)
        if self._clients.drained is None:
            moves = close_reason != messages.REVOKED.code
            self._set_deadline(bounds.CLOSE_SECONDS, self.transport.abortConnection, moves)
        elif secure:
            self._set_deadline(self._linger, self._lingered)
        else:
            self._no_deadline()  # at the end of the drain, `cut_off` closes all
        if not self._read_closed:
            # With TLS, this also waits for the client's close_notify.
            self._held = 0
            self.transport.resumeProducing()
        if self._backlog is None:
            self._close_transport()

    def _close_transport(self) -> None:
        """Closes after the bytes that the transport has."""
        self.transport.unregisterProducer()
        if self._read_closed or ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def abort(self, close_reason: str) -> None:
        """See `session.ports.ClientConnection`."""
        self._closing = True
        self._close_reason = close_reason
        self._gathered = None
        self._drop_backlog()
        self.transport.abortConnection()

    def pause_reading(self, reason: int = PauseReason.SESSION) -> None:
        """See `session.ports.ClientConnection`."""
        if not self._closing:
            super().pause_reading(reason)
            self._clients.watch(self)

    def resume_reading(self, reason: int = PauseReason.SESSION) -> None:
        """See `session.ports.ClientConnection`."""
        if self._closing:
            return
        if self._held == reason and self._eof_waits:
            # Commands that waited are run before the end of file is read.
            probes.reached("client left before its commands have their turn")
            self._left_at = self._clients.clock.seconds()
        super().resume_reading(reason)

    @property
    def age(self) -> int:
        """See `session.ports.ClientConnection`."""
        return int(self._clients.clock.seconds() - self._since)

    @property
    def has_acl_user(self) -> bool:
        """Whether it has a dedicated connection on which Redis enforces its tenant's limits."""
        upstream = self.session.dedicated
        return upstream is not None and upstream.has_acl_user

    def _crashed(self, failure: Failure) -> None:
        # A client that can cause a bug once can cause it all the time, so its lines have a quota.
        if self._clients.access_log.allows(self.account.namespace, self.peer):
            super()._crashed(failure)
        else:
            self.transport.abortConnection()

    def gather(self) -> None:
        """See `session.ports.ClientConnection`. The backlog of a client that does not read gathers
        by itself.
        """
        if self._backlog is None and self._gathered is None:
            self._gathered = []
            self.write = self._gathered.append

    def write_gathered(self) -> None:
        """See `session.ports.ClientConnection`."""
        gathered, self._gathered = self._gathered, None
        if gathered is None:
            return
        self.write = self._write_through
        if gathered:
            self.write(b"".join(gathered))

    # Back-pressure.

    def _full(self) -> None:
        self._pressed = True
        if self._backlog is None:
            self._backlog = Backlog(self.session.usage, unsent(self.transport))
            self.write = self._backlog.add
            if not self._closing:
                self.session.client_slow(True)
            if self._backlog is not None:
                self._backlog.charge()

    def _empty(self) -> None:
        """The client has read all that the transport had: gives the transport the next bytes."""
        self._pressed = False
        backlog = self._backlog
        if backlog is None:
            return
        backlog.read()
        while backlog and not self._pressed:
            self._write_through(backlog.next())
        if self._patience is not None and self._deadline is not None:
            self._set_deadline(self._patience, self._deadline[1], moves=True)
        if self._pressed:
            return
        self._drop_backlog()
        if self._closing:
            self._close_transport()
        else:
            self.session.client_slow(False)

    def _drop_backlog(self) -> None:
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self.write = self._write_through
            backlog.end()

    # The end of the proxy: see `drain`.

    def drain(self) -> None:
        """Closes the client after what it has begun: see `Ending.drain`."""
        if not self.session.outstanding:
            self._linger = bounds.IDLE_LINGER_SECONDS
        self.session.ending.drain()

    def unblock(self) -> Dedicated | None:
        """Returns the dedicated connection, if the session only waits for a blocked command there.

        The client does not get the error of that command. If Redis answers the command by itself
        before it is asked to unblock it, no other session's command must be there instead.
        """
        session = self.session
        upstream = session.dedicated
        if upstream is None or not (upstream.waits and session.blocked and session.ending.expect_unblocking()):
            return None
        upstream.lend_no_more()
        return upstream

    def hurry(self) -> Dedicated | None:
        """The end is near: sends no more commands to Redis.

        Returns the dedicated connection, if a reply is pending there of which nothing has come.
        """
        session = self.session
        session.ending.hurry()
        upstream = session.dedicated
        if upstream is None or not upstream.waits:
            return None
        session.ending.expect_unblocking()
        return upstream

    def cut_off(self) -> None:
        """Closes the client now: the time of the drain is over."""
        if self._closing and self._all_written:
            # An abort could drop replies that the client has not read yet.
            secure = ISSLTransport.providedBy(self.transport)
            (self.transport.abortConnection if secure else self.transport.loseConnection)()
        else:
            self.abort(messages.CUT_OFF.code)

    @property
    def _all_written(self) -> bool:
        """Whether the kernel has taken all bytes of a connection that is being closed."""
        if not ISSLTransport.providedBy(self.transport):
            return self._flushed
        # With TLS, only the client's close_notify would show that, and a client need not send one.
        return self._backlog is None and not has_unsent(self._socket)

    def _lingered(self) -> None:
        if self._all_written:
            self.transport.abortConnection()
        else:
            self._set_deadline(bounds.LINGER_SECONDS, self._lingered)

    def end_revoked(self) -> None:
        """Closes the client after its pending replies, because its session was revoked, or its
        tenant paused.
        """
        if self._closing:
            return
        self.session.ending.close_if_drained()
        if not self._closing:
            self._set_deadline(bounds.REVOKED_SECONDS, self._out_of_grace)

    def give_way(self, close_reason: str) -> None:
        """See `session.ports.ClientConnection`."""
        if not self.session.ended:
            self.session.ending.give_up(close_reason)
        self.end_revoked()

    def _out_of_grace(self) -> None:
        probes.reached("revoked client does not take its last replies")
        close_reason = self.session.ending.close_reason
        self.session.ending.at_once()
        self.close(close_reason)
