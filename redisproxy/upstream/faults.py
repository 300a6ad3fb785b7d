"""Logs when connections to Redis are not available, or answer wrongly.

Logs the same fault once in a while, however many sessions meet it. A tenant can cause any number of
faults of one tenant or one connection. So these are counted apart from faults that affect all
tenants.
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
        #: why connections are not available to any tenant; empty if they are, as far as is known
        self.text = ""

    def of_all(self, text: str) -> None:
        """No tenant can get a connection. text: the reason."""
        self.text = text
        if self._of_all.due(text):
            self._log.error("no connection to Redis: {text}", text=text)

    def of_one(self, text: str) -> None:
        """One tenant cannot get a connection. text: the reason."""
        if self._of_one.due(text):
            self._log.error("no connection to Redis: {text}", text=text)

    def wrong_answer(self, upstream: RedisConnection, reason: str) -> None:
        """Redis sent what it was not asked for. reason: a text without any of Redis's bytes."""
        if self._of_one.due(f"{upstream}: {reason}"):
            self._log.warn("{upstream} answered what it was not asked: {reason}", upstream=upstream, reason=reason)

    def over(self, address: str) -> None:
        """A connection was opened. address: of Redis, for the log."""
        self.text = ""
        if self._of_all.forget():
            self._log.info("Redis at {address} can be used again", address=address)

    def forget(self) -> None:
        """Forgets all faults of the former address: Redis is at another one."""
        self.text = ""
        self._of_all.forget()
