"""Logs when connections to Redis are not available, or answer wrongly.

Logs the same fault once in a while, however many sessions meet it. A tenant can cause any number of
faults of one tenant or one connection. So these are counted apart from faults that affect all
tenants.
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
        #: why connections are not available to any tenant; None: they are, as far as is known
        self.reason: messages.Text | None = None
        # Whether that is so although connections can be opened.
        self._although_open = False

    def of_all(self, reason: messages.Text, although_open: bool = False) -> None:
        """No tenant can get a connection, for this reason.

        although_open: perhaps one can be opened all the same, and only what comes after that fails.
        """
        self.reason = reason
        self._although_open = although_open
        if self._of_all.due(reason):
            self._log.write(messages.REDIS_NO_CONNECTION, reason=reason)

    def of_one(self, reason: messages.Text) -> None:
        """One tenant cannot get a connection, for this reason."""
        if self._of_one.due(reason):
            self._log.write(messages.REDIS_NO_CONNECTION, reason=reason)

    def wrong_answer(self, upstream: RedisConnection, reason: str) -> None:
        """Redis sent what it was not asked for. reason: a text without any of Redis's bytes."""
        if self._of_one.due(f"{upstream}: {reason}"):
            self._log.write(messages.REDIS_WRONG_ANSWER, upstream=upstream, reason=reason)

    def over(self, address: str, ready: bool) -> None:
        """A connection was opened. address: of Redis, for the log; ready: it can be used for a
        tenant.
        """
        if self._although_open and not ready:
            return
        self.reason = None
        self._although_open = False
        if self._of_all.forget():
            self._log.write(messages.REDIS_USABLE_AGAIN, address=address)

    def forget(self) -> None:
        """Forgets all faults of the former address: Redis is at another one."""
        self.reason = None
        self._of_all.forget()
