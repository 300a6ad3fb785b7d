"""How a session ends: after a drain, an end of file, a revocation or an error, or at once.

Owns the phase and the close reason. Where possible, the session finishes what it has begun: the
client gets the pending replies, and an open transaction may reach its EXEC.
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
        #: for the log; empty while the session goes on
        self.close_reason = ""
        # In the phase DRAINING: close after everything is answered that the client had sent up to
        # this byte. None: the client sends no more, so everything is answered.
        self._drain_from: int | None = None

    @property
    def revoked(self) -> bool:
        """Whether the session ends because its credential is not valid any more."""
        return self.close_reason == messages.REVOKED.code

    def _enter(self, phase: Phase) -> None:
        """Changes the phase; nothing else does. Raises BugError if it would go back."""
        if _ORDER[phase] < _ORDER[self.phase]:
            raise BugError(f"no session goes from {self.phase} to {phase}")
        self.phase = phase
        if phase in (Phase.CLOSING, Phase.CLOSED):
            self._session.discard_kept()
        if phase is Phase.CLOSING:
            self._session.close_gate(Gate.CLOSING)
        elif phase is Phase.CLOSED:
            # Without `close_gate`, which may use the client's connection: that may be gone.
            self._session.gates |= Gate.CLOSING
            if self._session.subscriptions is not None:
                self._session.subscriptions.leave_all()

    def forget(self) -> None:
        """See `Session.forget`."""
        del self._session

    # To CLOSING, and to CLOSED when the client has all its replies.

    def begin(self, close_reason: str) -> None:
        """Reads no more commands, and closes once the client has all its replies.

        Does nothing if the session has ended already. close_reason: for the log.
        """
        if not self._session.ended:
            self._take_no_more(close_reason)
            self.close_if_drained()

    def _take_no_more(self, close_reason: str) -> None:
        self.close_reason = close_reason
        self._enter(Phase.CLOSING)
        self._session.abandon_step()
        self._session.withdraw()

    def close_if_drained(self) -> None:
        """In the phase CLOSING: closes if the client has all its replies."""
        if self._session.replies.drained:
            self.close()

    def close(self) -> None:
        """In the phase CLOSING: closes."""
        if self.phase is Phase.CLOSING:
            session = self._session
            self._enter(Phase.CLOSED)
            session.route.end(session.leaves_nothing)
            session.route.use_order(session)
            session.connection.close(self.close_reason)

    def hurry(self) -> None:
        """The time for `drain` is nearly over: sends no more commands.

        A command that was sent only in part will not run.
        """
        self.begin(messages.CUT_OFF.code)

    def expect_unblocking(self) -> bool:
        """After `drain` or `hurry`: drops the error of the blocked command, which Redis is asked to
        unblock.

        Returns False if other commands of the client still have to run, or have replies pending:
        these would be in the wrong place. See `ReplyQueue.expect_unblocking`.
        """
        return self.phase is Phase.CLOSING and self._session.replies.expect_unblocking()

    # To CLOSED, even while replies are pending.

    def at_once(self) -> None:
        """Ends the session now, because the client is gone or aborted. Discards pending replies."""
        session = self._session
        self._enter(Phase.CLOSED)
        session.route.caught_up(session)
        session.abandon_step()
        clean = session.leaves_nothing
        session.replies.abandon(multiplexed=session.route.state is MULTIPLEXED)
        session.route.end(clean)

    def killed(self) -> None:
        """Closes the client, because another session of its tenant kills it.

        As in Redis, the client gets no further reply, and a blocked command takes no item.
        """
        self.at_once()
        self._session.connection.close(messages.KILLED.code)

    def without_upstream(self) -> None:
        """Closes the client, because the connection to Redis is gone.

        Replies, or the session's state on that connection, went with it.
        """
        session = self._session
        self._enter(Phase.CLOSED)
        session.abandon_step()
        session.replies.abandon(multiplexed=False)
        session.route.end(clean=None)
        session.connection.close(self.close_reason or messages.REDIS_LOST.code)

    def within_a_message(self) -> None:
        """Closes the client, because the session cannot change its connection within a message.

        The rest of the message would never come from the old connection.
        """
        probes.reached("session would move within a message")
        self.close_reason = messages.MOVED_WITHIN_A_MESSAGE.code
        self._enter(Phase.CLOSING)
        self.close()

    # DRAINING: commands received so far are still run.

    def half_closed(self) -> None:
        """The client sent its end of file. It sends no more, but it may still read its replies.

        As in Redis, a blocked command is given up at once, and what stands behind it is not run.
        That holds even if the session had ended before and only waited for that command. What waits
        until Redis is back is not run either: the client sends it again elsewhere.
        """
        if self.phase is Phase.OPEN:
            self._enter(Phase.DRAINING)
        self._drain_from = None
        session = self._session
        if session.blocked or session.held or not (session.gates or session.kept):
            self._client_left()

    def _client_left(self) -> None:
        """Sends no more commands, and has Redis give up a blocked one."""
        session = self._session
        self.begin(messages.CLIENT_LEFT.code)
        dedicated = session.route.dedicated
        if session.blocked and dedicated is not None:
            probes.reached("client left while its command was blocked")
            dedicated.give_up(blocked=True)

    def drain(self) -> None:
        """The proxy ends: runs what has come by now, then closes.

        A command that was sent in part, or an open transaction, may still come to its end. Other
        commands that come later are not run. The client gets no answer to them, so it knows that it
        has to send them again.
        """
        session = self._session
        if session.credential is None:
            self.begin(messages.SHUTDOWN.code)
        elif self.phase is Phase.OPEN:
            self._enter(Phase.DRAINING)
            self._drain_from = session.connection.bytes_received
            session.advance()

    def drained(self, starved: bool) -> None:
        """In the phase DRAINING: ends the session if no command is left that it must still run.

        starved: whether the scanner found no further command in the bytes received.
        """
        session, scanner = self._session, self._session.scanner
        if self._drain_from is None:
            # A blocked command is given up as soon as what is behind it would have to wait.
            if starved or (session.blocked and session.gates):
                self._client_left()
        elif session.gates or session.multi or session.watching or scanner.within:
            return
        elif session.buffered <= session.connection.bytes_received - self._drain_from:
            self.begin(messages.SHUTDOWN.code)

    def pause(self) -> bool:
        """The tenant is paused: ends the session as `_revoke` does. Returns True.

        As when Redis goes away: it has state at Redis, or Redis runs its command.
        """
        probes.reached("session of a paused tenant ends")
        self.give_up(messages.PAUSED.code)
        return True

    def give_up(self, close_reason: str) -> None:
        """Ends the session as `_revoke` does, for another reason. It must not have ended already.

        The caller must have `close_if_drained` called soon.
        """
        self._take_no_more(close_reason)
        self._give_up()

    # Revocation.

    def recheck(self, renewed: Callable[[Credential], Credential | None]) -> bool:
        """Revokes the session if its credential is not valid any more. Returns whether it did so.

        Also if the credential of a pending login is not valid any more. renewed: returns what a
        credential would log in as now, or None; see `Snapshot.renewed`.
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
        """Sends no more commands, and passes on no more messages, from this moment on.

        Redis gives up a blocked command, even if the session had ended before and only waited for
        that command. The client still gets replies to what Redis has run. The caller must have
        `close_if_drained` called soon.
        """
        session = self._session
        if session.ended:
            self.close_reason = messages.REVOKED.code
        else:
            self._take_no_more(messages.REVOKED.code)
        self._give_up()

    def _give_up(self) -> None:
        """Has Redis give up what it has not run yet, if the session has a dedicated connection."""
        session = self._session
        dedicated = session.route.dedicated
        if session.replies.mid_message:
            probes.reached("revoked or paused within a message")
            # The rest of the message would come after the revocation, and every reply behind it.
            self.close()
        elif dedicated is not None:
            dedicated.give_up(session.blocked)
