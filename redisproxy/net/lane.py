"""A lane: one connection to Redis, logged in, and SELECTed to one tenant's database.

Owns the log-in and the checks of Redis's answers to it, and carries one session's bytes. Which lane goes to whom is
decided in `lanes`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet import defer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ..core.lane import Ledger, Owed
from ..core.resp import CRLF, ProtocolError, encode
from ..core.session import Session
from ..core.tenants import Backend, Tenant
from .receiver import Hold, Pressure, RespReceiver

#: Bytes of an answer during the log-in; Redis's are a line each.
_LINE_LIMIT = 4096


class LaneError(Exception):
    """A lane that cannot be had. The text is for the log; `told` is the error reply for the client."""

    def __init__(self, text: str, told: str) -> None:
        super().__init__(text)
        self.told = told


class UserUnknown(LaneError):
    """Redis does not know the tenant's ACL user, or knows another password: it has to be provisioned again."""


UNREACHABLE = "ERR Redis cannot be reached from the proxy right now, try again"
LOGIN_REFUSED = "ERR Redis refused the proxy's own login; the operator finds the reason in the proxy's log"


class Pool(Protocol):
    """What owns lanes."""

    def give_back(self, lane: LaneProtocol, clean: bool) -> None:
        """A session let go of it. clean: it left no state on it."""

    def lost(self, lane: LaneProtocol) -> None:
        """Its connection is gone."""


class LaneProtocol(RespReceiver):
    """One connection to Redis.

    pool: told when a session lets go of it, and when it is lost.
    """

    def __init__(self, backend: Backend, pool: Pool) -> None:
        self.backend = backend
        #: when it was opened, in the reactor's seconds; None: not yet, or it is we who closed it
        self.opened: float | None = None
        #: whether it is logged in as its tenant's ACL user, so that Redis holds the tenant's limits
        self.walled = False
        #: None until it was SELECTed
        self.tenant: Tenant | None = None
        self._pool = pool
        self._ledger: Ledger | None = None
        self._lines = b""
        self._asked: deque[defer.Deferred] = deque()
        self._session: Session | None = None

    def __repr__(self) -> str:
        return f"<lane {self.backend.address} for {self.tenant.namespace if self.tenant else 'nobody yet'}>"

    # Logging in.

    def _ask(self, *arguments: bytes) -> defer.Deferred[bytes]:
        """Sends a command that is answered with one line; that line, or the reason why the connection was lost."""
        answered: defer.Deferred[bytes] = defer.Deferred()
        self._asked.append(answered)
        self.transport.write(encode(arguments))
        return answered

    async def log_in(self) -> None:
        """AUTH with the master password. Raises LaneError."""
        backend = self.backend
        if not backend.password:
            return
        who = [backend.username.encode()] if backend.username else []
        answer = await self._ask(b"AUTH", *who, backend.password)
        if answer != b"+OK":
            raise LaneError(f"Redis answered AUTH with: {_shown(answer)}", LOGIN_REFUSED)

    async def bind(self, tenant: Tenant, login: tuple[bytes, bytes] | None) -> None:
        """SELECT of the tenant's database; then, as its ACL user, without the right to another. Raises LaneError.

        login: user and password; None: it keeps the master's rights.
        """
        answer = await self._ask(b"SELECT", b"%d" % tenant.index)
        if answer != b"+OK":
            shown = _shown(answer)
            raise LaneError(
                f"Redis answered SELECT {tenant.index} with: {shown}",
                f"ERR Redis refused to select database {tenant.index}: {shown.lstrip('-')}",
            )
        if login is not None:
            answer = await self._ask(b"AUTH", *login)
            if answer.startswith(b"-WRONGPASS"):
                raise UserUnknown(f"Redis does not know the user of {tenant.namespace}", UNREACHABLE)
            if answer != b"+OK":
                raise LaneError(f"Redis answered AUTH of {tenant.namespace} with: {_shown(answer)}", LOGIN_REFUSED)
            self.walled = True
        self.tenant = tenant

    async def check(self) -> None:
        """Proves that the connection still works. Raises LaneError."""
        answer = await self._ask(b"PING")
        if answer != b"+PONG":
            raise LaneError(f"Redis answered PING with: {_shown(answer)}", UNREACHABLE)

    def respReceived(self, data: bytes) -> None:
        if self._ledger is not None:
            self._ledger.received(data)
            return
        self._lines += data
        while self._asked and (eol := self._lines.find(CRLF)) >= 0:
            line, self._lines = self._lines[:eol], self._lines[eol + 2 :]
            self._asked.popleft().callback(line)
        if len(self._lines) > _LINE_LIMIT or (self._lines and not self._asked):
            raise ProtocolError("an answer to nothing")

    def respBroken(self, reason: str) -> None:
        self._log.warn("{lane} answered what it was not asked: {reason}", lane=self, reason=reason)
        self.transport.abortConnection()

    # Carrying a session.

    def carry(self, session: Session, pressed: Callable[[bool], None]) -> None:
        """Lends it to a session. pressed: told whether Redis takes what is sent too slowly."""
        self._session = session
        self._ledger = Ledger()
        self.transport.registerProducer(Pressure(lambda: pressed(True), lambda: pressed(False)), True)

    def send(self, data: bytes) -> None:
        """See `core.links.Lane`."""
        self.transport.write(data)

    def expect(self, owed: Owed) -> None:
        """See `core.links.Lane`."""
        self._ledger.expect(owed)

    def forgo(self, owed: Owed) -> None:
        """See `core.links.Lane`."""
        self._ledger.forgo(owed)

    def latest(self) -> Owed | None:
        """See `core.links.Lane`."""
        return self._ledger.latest()

    def release(self, clean: bool) -> None:
        """See `core.links.Lane`."""
        self._pool.give_back(self, clean)

    def put_down(self) -> bool:
        """The session let go of it: whether it owes nothing and could carry another one."""
        settled = self._ledger.settled
        self._ledger.abandon()  # what else came in the same bytes is for nobody
        self._session = None
        self._ledger = None
        self._lines = b""
        self.transport.unregisterProducer()
        self.unhold(Hold.PEER)
        return settled

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        session, self._session = self._session, None
        self._ledger = None
        self._pool.lost(self)
        while self._asked:
            self._asked.popleft().errback(reason)
        if session is not None:
            session.lane_lost()

    def drop(self) -> None:
        """Closes it, whatever it still owes."""
        self.opened = None
        self.transport.abortConnection()


def _shown(answer: bytes) -> str:
    """An answer of Redis's, fit for a log."""
    return "".join(c if c.isprintable() else "?" for c in answer[:200].decode("utf-8", "replace"))
