"""Log-ins as transactions: AUTH, HELLO with AUTH, and a HELLO that needs other connections.

Owns the state of a log-in under way: the credential, the reservation, the HELLO that it is part of.
`Login.start` asks for a slot, and for connections of the tenant. `Login.commit` logs the session
in. `Login.rollback` leaves the session as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .. import messages, probes
from ..policy.policy import UNAUTHENTICATED_TABLE
from ..resp.framing import AUTHENTICATED, UNAUTHENTICATED
from ..tenants.model import AuthenticationError, Credential, TenantFullError
from ..tenants.window import NO_WINDOW
from . import windowed
from .errors import OK
from .ports import Dedicated, Reservation, TenantPool, Unavailable
from .route import DEDICATED
from .state import Until

if TYPE_CHECKING:
    from .session import Session


class Hello(NamedTuple):
    """A HELLO without its AUTH.

    words: the command as Redis gets it; protocol: 2 or 3; 0: it names none; name: of SETNAME.
    """

    words: list[bytes]
    protocol: int
    name: bytes | None = None


def authenticate(session: Session, user: bytes | None, password: bytes, hello: Hello | None) -> None:
    """Handles AUTH, or the AUTH of a HELLO. No reply may be pending, and no transaction open.

    hello: the HELLO without its AUTH, sent after a success; None for AUTH.
    """
    accounts = session.accounts
    name = None if user is None else user.decode("utf-8", "replace")
    try:
        credential = accounts.authenticate(name, password)
    except AuthenticationError as wrong:
        error = b"-%b\r\n" % str(wrong).encode()
        answered_at, last = accounts.wrong_password()

        def answer(_: None) -> None:
            # A rotation may come to the proxy after its clients.
            now_valid = accounts.look_again(name, password)
            if now_valid is not None:
                probes.reached("password became right while its answer was delayed")
                return _log_in(session, now_valid, hello)
            session.answer(error)
            if last:
                session.ending.begin(messages.TOO_MANY_WRONG.code)
            return None

        session.suspend(Until.DELAY, answer, answered_at)
        return
    _log_in(session, credential, hello)


def _log_in(session: Session, credential: Credential, hello: Hello | None) -> None:
    try:
        reservation = session.accounts.reserve(credential)
    except TenantFullError as full:
        # Not counted as a wrong password. Redis, too, closes a connection that is one too many.
        session.answer(b"-%b\r\n" % str(full).encode())
        session.ending.begin(full.outcome)
        return
    Login(session, credential, hello, reservation).start()


def send_hello(session: Session, hello: Hello) -> None:
    """Passes a HELLO on, so that the client gets Redis's answer.

    No reply may be pending, unless `hello_stays`. A multiplexed connection keeps its protocol. For
    another protocol, the session moves to the tenant's multiplexed connections that speak it.
    """
    if hello.name is not None:
        session.name = hello.name
        session.charge_state()
    upstream = session.route.upstream
    if isinstance(upstream, Unavailable) and upstream.hello and hello.protocol in (0, session.protocol):
        session.answer(session.with_own_id(upstream.hello))  # Redis is busy with a script, and answers a HELLO still
    elif session.route.state is DEDICATED:
        session.expect_hello(hello.words, hello.protocol)
    elif hello_stays(session, hello.protocol):
        session.pass_hello_on(hello.words)
    elif session.credential is not None:
        Login(session, session.credential, hello, None).start()


def hello_stays(session: Session, protocol: int) -> bool:
    """Returns whether a HELLO can be sent over the connection that the session uses.

    Over a dedicated one it always can. Over a multiplexed one it cannot if it asks for another
    protocol, or if the pool uses another connection by now.
    """
    route = session.route
    if route.state is DEDICATED:
        return True
    return protocol in (0, session.protocol) and route.pool is not None and route.upstream is route.pool.upstream


def log_out(session: Session) -> None:
    """Handles RESET: the session is as it was at its beginning."""
    session.route.end(session.leaves_nothing)
    session.route.use_order(session)
    if session.credential is not None:
        session.sent_unauthenticated = session.scanner.buffered
        session.connection.identity_changed(None)
    session.credential = None
    session.protocol = 2
    session.multi = session.watching = False
    session.end_transaction()
    session.windowed_in_multi = 0
    windowed.use(session, NO_WINDOW)
    _unsubscribe(session)
    session.tracking = None
    session.name = b""
    session.charge_state()
    session.scanner.limits = UNAUTHENTICATED
    session.scanner.table = UNAUTHENTICATED_TABLE
    session.replies.reset_mode()


def _unsubscribe(session: Session) -> None:
    """The session has left its connection to Redis, and with it its subscriptions."""
    if session.subscriptions is not None:
        session.subscriptions.leave_all()
        session.subscriptions = None


class Login:
    """A log-in under way: the session's `pending_login`.

    hello: the HELLO to send after it; None for AUTH. reservation: one of the tenant's connections;
    None for a HELLO without AUTH, because the session has its reservation already.
    """

    __slots__ = ("_hello", "_reservation", "_session", "credential")

    def __init__(
        self, session: Session, credential: Credential, hello: Hello | None, reservation: Reservation | None
    ) -> None:
        self._session = session
        self.credential = credential
        self._hello = hello
        self._reservation = reservation

    def start(self) -> None:
        """Asks for a slot and connections of the tenant, unless the session has them already."""
        session = self._session
        before = session.credential
        if self._reservation is not None and before is not None and before.tenant == self.credential.tenant:
            self._reservation.keep()
            session.credential = self.credential
            return self._answer()
        session.pending_login = self
        if self._reservation is None or session.accounts.take_slot_at_once(self.credential.tenant):
            self._connect(True)
        else:
            session.accounts.take_slot(self.credential.tenant, session.suspend(Until.SLOT, self._connect))
        return None

    def _connect(self, slot: bool) -> None:
        """Asks for connections of the tenant, if the session has a slot."""
        session = self._session
        if not slot:
            session.answer(messages.FULL.reply())
            session.ending.begin(messages.TURNED_AWAY.code)
            return
        backend, tenant = session.backend, self.credential.tenant
        if not backend.multiplexes:
            backend.acquire(tenant, self._protocol, session.suspend(Until.LOGIN, self._acquired))
        elif (pool := backend.join_at_once(tenant, self._protocol)) is not None:
            self._joined(pool)
        else:
            backend.join(tenant, self._protocol, session.suspend(Until.LOGIN, self._joined))

    @property
    def _protocol(self) -> int:
        """The RESP version of the connections that it asks for."""
        session, hello = self._session, self._hello
        return session.protocol if hello is None else hello.protocol or session.protocol

    def renew(self, renewed: Callable[[Credential], Credential | None]) -> bool:
        """Renews the credential after a change of snapshot. Returns whether it is still valid."""
        credential = renewed(self.credential)
        if credential is not None:
            self.credential = credential
        return credential is not None

    def _joined(self, result: TenantPool | Unavailable) -> None:
        session = self._session
        if isinstance(result, Unavailable):
            self.rollback(result)
        elif session.may_move():
            session.pending_login = None
            session.route.join(result, session.leaves_nothing)
            self.commit(result.protocol)
        else:
            result.leave()

    def _acquired(self, result: Dedicated | Unavailable) -> None:
        session = self._session
        if isinstance(result, Unavailable) and not result.hello:
            self.rollback(result)
        elif session.may_move():
            session.pending_login = None
            if isinstance(result, Unavailable):
                session.route.use_none(result, session.leaves_nothing)
            else:
                session.route.use(session, result)
            self.commit(self._protocol)
        elif not isinstance(result, Unavailable):
            result.release(clean=True)

    def commit(self, protocol: int) -> None:
        """Logs the session in. `route` has the tenant's connections already.

        protocol: RESP version of these connections, 2 or 3.
        """
        session = self._session
        backend, tenant = session.backend, self.credential.tenant
        session.credential = self.credential
        if session.tracking is not None:
            tracking, session.tracking = session.tracking, None
            if session.protocol == 3:
                tracking.lost()
        session.route.use_order(session, backend.order(tenant))
        if session.subscriptions:
            # Another tenant's subscriptions. Redis would keep them, so the client is told. In RESP2
            # subscribers cannot log in.
            session.replies.message(session.subscriptions.ended(), True)
        session.protocol = protocol
        session.multi = session.watching = False
        session.end_transaction()
        session.windowed_in_multi = 0
        windowed.use(session, backend.window(tenant))
        _unsubscribe(session)
        if session.usage.size:
            session.charge_state()
        session.scanner.limits = AUTHENTICATED
        session.scanner.known = backend.scripts(tenant).known
        session.use_policy()
        if self._reservation is not None:
            session.connection.identity_changed(self.credential)
            self._reservation.keep()
        self._answer()

    def rollback(self, error: Unavailable) -> None:
        """Leaves the session as it was. Closes the client, unless it was logged in before.

        Otherwise a client library would keep a connection that is never logged in.
        """
        session = self._session
        self.abandon()
        session.pending_login = None
        session.not_held(error)
        if session.credential is None:
            session.ending.begin(messages.NOT_LOGGED_IN.code)

    def abandon(self) -> None:
        """Gives the reservation back: the log-in failed, or the session ended."""
        if self._reservation is not None:
            self._reservation.cancel()

    def _answer(self) -> None:
        if self._hello is None:
            self._session.answer(OK)
        else:
            send_hello(self._session, self._hello)
