"""The states of a session: why it reads no next command (`Gate`), how near its end is (`Phase`),
what it waits for (`Step`).

Owns these types. Each gate has one owner, named beside it: only the owner closes and opens it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

#: The type that a Step finishes with. Contravariant: a Step that takes more kinds of results can be
#: given to a function that has fewer.
Result = TypeVar("Result", contravariant=True)


class BugError(Exception):
    """Two structures that must agree do not.

    The proxy logs the bug, and aborts only the connection where it was found.
    """


class Gate:
    """Why a session reads no next command for now: a sum of these numbers.

    They are plain numbers because an operation on an IntFlag costs as much as a command. A gate
    that was opened too early does no harm: the session's loop closes it again.
    """

    #: the client does not read its replies, and is not logged in. Owner: Session.client_slow
    BACKLOG = 1
    #: the tenant's memory is used up. Owner: Session.memory_full, called by `tenants.memory`
    MEMORY = 2
    #: the multiplexed connection takes no more for now, or the session waits for its replies before
    #: it changes its connection. Owner: Route
    UPSTREAM = 4
    #: the tenant is over its rate. Owner: Session.throttle, called by the tenant's rate limiter
    RATE = 8
    #: the tenant's share of the proxy's work is used up. Owner: Session, for
    #: `tenants.work`
    WORK = 16
    STEP = 32  #: the session waits for its Step. Owner: Session.suspend
    #: a command of the same tenant that was read before waits for a connection. Owner: Order
    ORDER = 128
    #: no more commands are read: the phase is CLOSING or CLOSED. Owner: Ending, with the phase
    CLOSING = 64


def names(gates: int) -> str:
    """The names of the closed gates, for a repr. gates: a sum of `Gate` values."""
    return "+".join(name for name, value in vars(Gate).items() if name.isupper() and gates & value) or "none"


class Phase(Enum):
    """How near the end of a session is. A session never goes back to an earlier phase."""

    OPEN = "open"
    DRAINING = "draining"  #: commands received so far are still run, then the session closes
    #: no more commands are run; the client gets the pending replies, then the session closes
    CLOSING = "closing"
    CLOSED = "closed"  #: the client's connection is closed, or gone

    __hash__ = object.__hash__  # Enum's own is written in Python, and each connection pays for it


class Until(Enum):
    """What a Step waits for. Each has one source, which finishes the Step once."""

    DRAINED = "drained"  #: no reply is pending. Source: ReplyQueue
    #: a dedicated connection, or the error why there is none. Source: Backend.acquire
    DEDICATED = "dedicated"
    SLOT = "slot"  #: a slot, or that there is none. Source: Accounts.take_slot
    #: connections of a tenant, or the error why there are none. Source: Backend.join,
    #: Backend.acquire
    LOGIN = "login"
    #: Redis's answer to a control query. Source: Backend.query, Backend.allow_patterns
    QUERY = "query"
    DELAY = "delay"  #: the delay after a wrong password. Source: Session.time_is
    HELLO = "hello"  #: Redis's answer to a HELLO. Source: ReplyQueue
    #: the connection for scripts takes commands. Source: ScriptPool.wait_until_free
    SCRIPTS = "scripts"
    TURN = "turn"  #: its tenant's next turn of the proxy's work. Source: `tenants.work`
    WINDOW = "window"  #: a place in its tenant's window. Source: `tenants.window`
    SESSIONS = "sessions"  #: a visit of the tenant's sessions. Source: Accounts.visit


class ReplyMode(Enum):
    """CLIENT REPLY: which commands are answered."""

    ON = "on"
    SKIP = "skip"  #: the next command is not answered
    OFF = "off"


class Waiting(Protocol):
    """A session, as its Step sees it."""

    def step_finished(self, step: Step[Result], result: Result) -> None:
        """Goes on with the Step's result. Raises BugError if the session waits for another Step."""

    def bug(self, error: Exception) -> None:
        """Reports a bug: the session cannot go on."""


class Step(Generic[Result]):
    """A suspension: the session waits for one thing, and then goes on with `then`.

    Result: the type that the Step can finish with. then: called with the result. deadline: when the
    Step finishes, in seconds of the connection's clock; None if it does not wait for a time.
    cancel: the source of the Step may set it; called when the session does not wait any more.
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
        """Whether the session still waits for this Step."""
        return self._session is not None

    def finish(self, result: Result) -> bool:
        """Makes the session go on with the result. Returns False if it does not wait any more.

        If False, the caller gives back what it got for the session, a connection for example. An
        exception in the code that goes on aborts this session's connection; it is not raised here.
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
        """Reports a bug in the source of this Step. Returns False as `finish` does.

        The client's connection is aborted, because it would wait for ever.
        """
        session, self._session = self._session, None
        if session is None:
            return False
        self.cancel = None
        session.bug(error)
        return True

    def go_on(self, result: Result) -> None:
        """Calls `then` with the result. Called by the session alone."""
        self._then(result)

    def abandon(self) -> None:
        """Cancels the Step: the session does not wait any more."""
        self._session = None
        cancel, self.cancel = self.cancel, None
        if cancel is not None:
            cancel()
