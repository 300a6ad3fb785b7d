"""The order of arrival of one tenant's commands, as its sessions see it.

Owns the interface, which `upstream.order` implements, and the order of a session that is not logged
in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .pending import ReplyBatch

if TYPE_CHECKING:
    from .ports import ReplyReceiver


class OrderedSession(Protocol):
    """A session, as its tenant's order sees it."""

    @property
    def replies(self) -> ReplyReceiver:
        """What receives the session's replies."""

    def close_gate(self, gate: int) -> None:
        """Closes a gate, here `Gate.ORDER`."""

    def turn_came(self, later: int) -> None:
        """Opens `Gate.ORDER`, and runs what the client sent, without the newest `later` bytes."""


class Order(Protocol):
    """The order of arrival of one tenant's commands, in both protocol versions.

    While a command waits for a dedicated connection, those that other sessions send later wait.
    """

    #: whether commands wait, so that each session has to ask `passes`
    closed: bool

    def passes(self, session: OrderedSession) -> bool:
        """Whether it is the session's turn while `closed` is true."""

    def wait(self, session: OrderedSession, size: int) -> None:
        """Closes the session's `Gate.ORDER` until its turn comes. size: bytes that its client sent.

        Only while `closed` is true, and `passes` is not.
        """

    def more(self, session: OrderedSession, size: int) -> None:
        """The client sent so many bytes more while the session's `Gate.ORDER` was closed."""

    def begin(self, session: OrderedSession) -> None:
        """The session's command waits for a connection, or for what it needs besides."""

    def settled(self, session: OrderedSession) -> None:
        """That command was sent, or answered with an error."""

    def fence(self, session: OrderedSession, always: bool) -> ReplyBatch | None:
        """Returns the batch of a PING to send before the session's next command, if one is needed.

        Commands that other sessions send later wait for its reply. always: False: only if the
        command has waited for a connection.
        """

    def connected(self) -> None:
        """A session got the dedicated connection that it waited for."""

    def leave(self, session: OrderedSession) -> None:
        """The session has ended, or its client is logged out."""


class Unordered:
    """The order of a session that is not logged in: it sends no commands."""

    closed = False

    def passes(self, session: OrderedSession) -> bool:
        """See Order."""
        return True

    def wait(self, session: OrderedSession, size: int) -> None:
        """See Order."""

    def more(self, session: OrderedSession, size: int) -> None:
        """See Order."""

    def begin(self, session: OrderedSession) -> None:
        """See Order."""

    def settled(self, session: OrderedSession) -> None:
        """See Order."""

    def fence(self, session: OrderedSession, always: bool) -> ReplyBatch | None:
        """See Order."""
        return None

    def connected(self) -> None:
        """See Order."""

    def leave(self, session: OrderedSession) -> None:
        """See Order."""


UNORDERED = Unordered()
