"""The states of a session: why it reads no next command (`Gate`), how near its end is (`Phase`),
what it waits for (`Step`).

Owns these words. Who closes and opens a gate is written beside it: each has one owner.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

#: What a Step finishes with. A Step that takes more kinds of results is fit for whoever has fewer.
Result = TypeVar("Result", contravariant=True)


class BugError(Exception):
    """Two structures that have to agree do not. The connection that finds out is logged as a bug,
    and closed alone.
    """


class Gate:
    """Why a session reads no next command for now: a sum of these. Plain numbers: an IntFlag costs
    as much as a command.

    A gate is opened when its reason is gone. If the reason is still there when the session looks
    again, it is closed again.
    """

    # : the client does not read its replies, or too many wait for their turn. Owner: ReplyQueue
    BACKLOG = 1
    PENDING = 2  #: too many replies are pending. Owner: ReplyQueue
    # : the multiplexed connection takes no more for now, or is left for another one. Owner: Route
    UPSTREAM = 4
    # : the tenant is over its rate. Owner: Session.throttle, called by the tenant's rate limiter
    RATE = 8
    STEP = 32  #: the session waits for its Step. Owner: Session.suspend
    # : no more commands are read: the phase is CLOSING or CLOSED. Owner: Session, with the phase
    CLOSING = 64


def names(gates: int) -> str:
    """The closed gates, as a repr shows them."""
    return "+".join(name for name, value in vars(Gate).items() if name.isupper() and gates & value) or "none"


class Phase(Enum):
    """How near the end of a session is. It never goes back."""

    OPEN = "open"
    DRAINING = "draining"  #: what has come is still run, then the session closes
    # : nothing more is run; the client gets the replies that are pending, then the session closes
    CLOSING = "closing"
    CLOSED = "closed"  #: the client's connection is closed, or gone


class Until(Enum):
    """What a Step waits for. Each has one source, which finishes the Step once."""

    DRAINED = "drained"  #: no reply is pending. Source: ReplyQueue
    # : a dedicated connection, or the error why there is none. Source: Backend.acquire
    DEDICATED = "dedicated"
    # : connections of a tenant, or the error why there are none. Source: Backend.join,
    # Backend.acquire
    LOGIN = "login"
    # : what Redis answers to a control query. Source: Backend.query, Backend.allow_patterns
    QUERY = "query"
    DELAY = "delay"  #: the time after a wrong password. Source: Session.time_is
    HELLO = "hello"  #: Redis's answer to a HELLO. Source: ReplyQueue


class ReplyMode(Enum):
    """CLIENT REPLY: which commands are answered."""

    ON = "on"
    SKIP = "skip"  #: the next one is not
    OFF = "off"


class Waiting(Protocol):
    """What a Step suspends: the session."""

    def step_finished(self, step: Step[Result], result: Result) -> None:
        """It goes on, with the result."""

    def bug(self, error: Exception) -> None:
        """It cannot go on."""


class Step(Generic[Result]):
    """The one suspension: the session waits for one thing, and then goes on with `then`. Result:
    what it can finish with.

    then: called with the result. deadline: for one that waits for a time, when that is; None for
    all others. cancel: may be set by whoever works for this Step; called if nobody waits any more.
    """

    __slots__ = ("_session", "_then", "cancel", "deadline", "until")

    def __init__(
        self, session: Waiting, until: Until, then: Callable[[Result], None], deadline: float | None = None
    ) -> None:
        self._session: Waiting | None = session
        self._then = then
        self.until = until
        self.deadline = deadline
        self.cancel: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Step until {self.until.value}{'' if self.waits else ', over'}>"

    @property
    def waits(self) -> bool:
        """Whether the session still waits for it."""
        return self._session is not None

    def finish(self, result: Result) -> bool:
        """The session goes on. False if it does not wait any more: what was meant for it then goes
        back.

        A bug in what it goes on with costs its connection alone, not whoever calls this.
        """
        session, self._session = self._session, None
        if session is None:
            return False
        self.cancel = None
        try:
            session.step_finished(self, result)
        except Exception as error:
            session.bug(error)
        return True

    def fail(self, error: Exception) -> bool:
        """A bug in what the session waits for: it costs its connection, which would wait for ever.
        False: see `finish`.
        """
        session, self._session = self._session, None
        if session is None:
            return False
        self.cancel = None
        session.bug(error)
        return True

    def go_on(self, result: Result) -> None:
        """Does what the session waited with. Called by the session."""
        self._then(result)

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._session = None
        cancel, self.cancel = self.cancel, None
        if cancel is not None:
            cancel()
