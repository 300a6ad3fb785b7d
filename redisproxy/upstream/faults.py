"""What the log says when connections to Redis cannot be had, or answer wrongly.

Owns that the same fault is logged once in a while, however many sessions feel it. Faults that all
tenants feel are counted apart from those of one tenant or one connection, of which a tenant can
bring about as many as it likes.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..ops.log_once import LogOnce
from .connection import RedisConnection


class Faults:
    """Logs the faults of connections to one Redis."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._of_all = LogOnce(clock)
        self._of_one = LogOnce(clock)
        #: why nobody can have a connection, as far as is known; empty: they can
        self.text = ""

    def of_all(self, text: str) -> None:
        """Nobody can have a connection. text: why."""
        self.text = text
        if self._of_all.due(text):
            self._log.error("no connection to Redis: {text}", text=text)

    def of_one(self, text: str) -> None:
        """One tenant cannot have a connection. text: why."""
        if self._of_one.due(text):
            self._log.error("no connection to Redis: {text}", text=text)

    def wrong_answer(self, upstream: RedisConnection, reason: str) -> None:
        """Redis sent what it was not asked for. reason: a text without any byte of that."""
        if self._of_one.due(f"{upstream}: {reason}"):
            self._log.warn("{upstream} answered what it was not asked: {reason}", upstream=upstream, reason=reason)

    def over(self, address: str) -> None:
        """A connection could be opened. address: to where."""
        self.text = ""
        if self._of_all.forget():
            self._log.info("Redis at {address} can be used again", address=address)

    def forget(self) -> None:
        """Redis is elsewhere now: what could not be had before says nothing of it."""
        self.text = ""
        self._of_all.forget()
