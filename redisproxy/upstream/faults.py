"""What the log says when connections to Redis cannot be had, or answer wrongly.

Owns that the same fault is logged once in a while, however many sessions feel it. Faults that all
tenants feel are counted apart from those of one tenant or one connection, of which a tenant can
bring about as many as it likes.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from .. import messages
from ..ops.log_once import LogOnce
from ..ops.logs import Log
from .connection import RedisConnection


class Faults:
    """Logs the faults of connections to one Redis."""

    _log = Log()

    def __init__(self, clock: IReactorTime) -> None:
        self._of_all = LogOnce(clock)
        self._of_one = LogOnce(clock)
        #: why nobody can have a connection, as far as is known; None: they can
        self.reason: messages.Text | None = None

    def of_all(self, reason: messages.Text) -> None:
        """Nobody can have a connection, for this reason."""
        self.reason = reason
        if self._of_all.due(reason):
            self._log.write(messages.REDIS_NO_CONNECTION, reason=reason)

    def of_one(self, reason: messages.Text) -> None:
        """One tenant cannot have a connection, for this reason."""
        if self._of_one.due(reason):
            self._log.write(messages.REDIS_NO_CONNECTION, reason=reason)

    def wrong_answer(self, upstream: RedisConnection, reason: str) -> None:
        """Redis sent what it was not asked for. reason: a text without any byte of that."""
        if self._of_one.due(f"{upstream}: {reason}"):
            self._log.write(messages.REDIS_WRONG_ANSWER, upstream=upstream, reason=reason)

    def over(self, address: str) -> None:
        """A connection could be opened. address: to where."""
        self.reason = None
        if self._of_all.forget():
            self._log.write(messages.REDIS_USABLE_AGAIN, address=address)

    def forget(self) -> None:
        """Redis is elsewhere now: what could not be had before says nothing of it."""
        self.reason = None
        self._of_all.forget()
