"""How a session comes to its end: after a drain, an end of file, a revocation, an error, or at
once.

Owns the phase and the reason. What has begun is finished where that can be: pending replies are
passed on, and a transaction comes to its EXEC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import messages, probes
from ..tenants.model import Credential
from .route import MULTIPLEXED
from .state import BugError, Gate, Phase

if TYPE_CHECKING:
    from .session import Session

_ORDER = {phase: number for number, phase in enumerate(Phase)}


class Ending:
    """The end of one session."""

    __slots__ = ("_drain_from", "_session", "close_reason", "phase")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.phase = Phase.OPEN
        #: for the log; empty until there is one
        self.close_reason = ""
        # DRAINING: close when all is answered that the client had sent by this byte; None: the
        # client sends no more.
        self._drain_from: int | None = None

    @property
    def revoked(self) -> bool:
        """Whether the session's credential is not good any more."""
        return self.close_reason == messages.REVOKED.code

    def _enter(self, phase: Phase) -> None:
        """The one place where the phase changes."""
        if _ORDER[phase] < _ORDER[self.phase]:
            raise BugError(f"no session goes from {self.phase} to {phase}")
        self.phase = phase
        if phase is Phase.CLOSING:
            self._session.close_gate(Gate.CLOSING)
        elif phase is Phase.CLOSED:
            # its client is gone, perhaps: nothing is asked of that connection
            self._session.gates |= Gate.CLOSING

    def forget(self) -> None:
        """See `Session.forget`."""
        del self._session

    # CLOSING, and CLOSED when the client has all its replies.

    def begin(self, close_reason: str) -> None:
        """The session reads no more commands, and closes once the client has all its replies."""
        if not self._session.ended:
            self._take_no_more(close_reason)
            self.close_if_drained()

    def _take_no_more(self, close_reason: str) -> None:
        self.close_reason = close_reason
        self._enter(Phase.CLOSING)
        self._session.abandon_step()
        self._session.withdraw()

    def close_if_drained(self) -> None:
        """CLOSING: closes if the client has all its replies."""
        if self._session.replies.drained:
            self.close()

    def close(self) -> None:
        """CLOSING: closes."""
        if self.phase is Phase.CLOSING:
            session = self._session
            self._enter(Phase.CLOSED)
            session.route.end(session.leaves_nothing)
            session.connection.close(self.close_reason)

    def hurry(self) -> None:
        """The time for `drain` is nearly over: what Redis was not sent as a whole will not be
        run.
        """
        self.begin(messages.CUT_OFF.code)

    def expect_unblocking(self) -> None:
        """After `hurry`: Redis is asked to give up the command that blocks. See
        `ReplyQueue.expect_unblocking`.
        """
        self._session.replies.expect_unblocking()

    # CLOSED, whatever is pending.

    def at_once(self) -> None:
        """The client is gone, or must be. Pending replies are discarded."""
        session = self._session
        self._enter(Phase.CLOSED)
        session.route.caught_up(session)
        session.abandon_step()
        clean = session.leaves_nothing
        session.replies.abandon(shared=session.route.state is MULTIPLEXED)
        session.route.end(clean)

    def without_upstream(self) -> None:
        """The connection to Redis is gone, and with it replies, or the state that it had."""
        session = self._session
        self._enter(Phase.CLOSED)
        session.abandon_step()
        session.replies.abandon(shared=False)
        session.route.end(clean=None)
        session.connection.close(self.close_reason or messages.REDIS_LOST.code)

    def within_a_message(self) -> None:
        """The session would use another connection, and the rest of a message of the old one would
        never come.
        """
        probes.reached("session would move within a message")
        self.close_reason = messages.MOVED_WITHIN_A_MESSAGE.code
        self._enter(Phase.CLOSING)
        self.close()

    # DRAINING: what has come is still run.

    def half_closed(self) -> None:
        """The client will send no more; it may still read its replies."""
        if self.phase is Phase.OPEN:
            self._enter(Phase.DRAINING)
        self._drain_from = None
        if not self._session.gates:
            self.begin(messages.CLIENT_LEFT.code)

    def drain(self) -> None:
        """The proxy ends: what has come by now is still run, and what has begun comes to its end, a
        transaction as well.

        What comes later is left undone. The client gets no answer to it, so it knows that it has to
        try again.
        """
        session = self._session
        if session.credential is None:
            self.begin(messages.SHUTDOWN.code)
        elif self.phase is Phase.OPEN:
            self._enter(Phase.DRAINING)
            self._drain_from = session.connection.bytes_received
            session.advance()

    def drained(self, starved: bool) -> None:
        """DRAINING: ends, if nothing of what has come is left. starved: unless more comes."""
        session, scanner = self._session, self._session.scanner
        if self._drain_from is None:
            if starved:
                self.begin(messages.CLIENT_LEFT.code)
        elif session.gates or session.multi or session.watching or scanner.within:
            return
        elif scanner.buffered <= session.connection.bytes_received - self._drain_from:
            self.begin(messages.SHUTDOWN.code)

    # Revocation.

    def recheck(self, renewed: Callable[[Credential], Credential | None]) -> bool:
        """Revokes the session if what it logged in with, or is about to, would not log in now.
        Whether it did so.

        renewed: see the snapshot's method of that name.
        """
        session = self._session
        if self.revoked:
            return False
        good = True
        if session.credential is not None:
            credential = renewed(session.credential)
            good = credential is not None
            session.credential = credential or session.credential
        if good and session.pending_login is not None:
            good = session.pending_login.renew(renewed)
        if not good:
            self._revoke()
        return not good

    def _revoke(self) -> None:
        """From this moment on no command is sent, and no message is passed on.

        What blocks is given up at Redis, also where the session had ended already and only waited
        for that. Replies to what Redis has run are still passed on. `close_if_drained` has to be
        called, soon.
        """
        session = self._session
        if session.ended:
            self.close_reason = messages.REVOKED.code
        else:
            self._take_no_more(messages.REVOKED.code)
        dedicated = session.route.dedicated
        if session.replies.mid_message:
            probes.reached("revoked within a message")
            # The rest of it would come after the revocation, and all other replies come behind it.
            self.close()
        elif dedicated is not None:
            dedicated.give_up(session.blocked)
