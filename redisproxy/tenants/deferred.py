"""Reads of one connection that cost much time for their size: they are handled when it is their
tenant's turn.

Most bytes cost next to nothing: a run of commands, a long reply. But some connections have
thousands of small pieces in one read, each of which is handled alone: messages of channels, their
confirmations, records of TLS. Owns the bytes of such a connection that wait. There is never more
than one read of them, because the connection is not read meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import bounds, probes
from .work import Budget


class DeferredReads:
    """The reads of one connection.

    handle: handles bytes, and returns how many pieces these were; pause, resume: stop reading the
    connection, and read on.
    """

    __slots__ = ("_budget", "_handle", "_kept", "_pause", "_resume")

    def __init__(self, handle: Callable[[bytes], int], pause: Callable[[], object], resume: Callable[[], object]) -> None:
        self._handle = handle
        self._pause = pause
        self._resume = resume
        self._kept = b""
        # In whose queue the bytes wait.
        self._budget: Budget | None = None

    @property
    def waiting(self) -> bool:
        """Whether bytes wait for their turn."""
        return self._budget is not None

    def received(self, data: bytes, budget: Budget) -> None:
        """Handles the connection's next bytes: now if there is anything left of this budget, else
        when their turn comes.
        """
        if self._budget is not None:
            self._kept += data
            self._pause()
        elif budget.units > 0:
            budget.spend(self._cost(data))
        else:
            probes.reached("small pieces wait for their turn")
            self._kept = data
            self._budget = budget
            self._pause()
            budget.wait(self)

    def _cost(self, data: bytes) -> int:
        return 1 + self._handle(data) // bounds.WORK_PIECES

    def work_on(self) -> None:
        """See `work.Worker`."""
        budget, self._budget = self._budget, None
        data, self._kept = self._kept, b""
        if budget is not None:
            self._resume()  # first: these bytes may end the connection
            budget.spend(self._cost(data))

    def at_once(self) -> None:
        """Handles what waits, out of turn: the connection has to come to its end."""
        if self._budget is not None:
            self._budget.leave(self)
            self.work_on()

    def end(self) -> None:
        """Drops what waits: the connection is gone, or has another user."""
        budget, self._budget = self._budget, None
        self._kept = b""
        if budget is not None:
            budget.leave(self)
