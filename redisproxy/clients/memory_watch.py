"""Closes clients that make no progress while their tenant's memory is used up.

Owns when that is checked. A client that reads, however slowly, is not closed here.
"""

from __future__ import annotations

from twisted.internet import task
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .. import bounds
from ..ops.bugs import bug
from ..tenants.memory import Memory, Usage


class MemoryWatch:
    """Watches the sessions that wait for memory. memory: of the process."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, memory: Memory) -> None:
        self._memory = memory
        self._loop = task.LoopingCall(self._check)
        self._loop.clock = clock
        # What each usage had given back at the last check, and what its client had not read.
        self._before: dict[Usage, tuple[int, int]] = {}
        memory.on_stopped = self._start

    def _start(self) -> None:
        if not self._loop.running:
            self._loop.start(bounds.SLOW_READER_SECONDS, now=False).addErrback(bug(self._log, "watching the memory"))

    def _check(self) -> None:
        before, self._before = self._before, {}
        for usage in list(self._memory.stopped):
            if usage.user is not None:
                self._before[usage] = progress = usage.freed, usage.user.bytes_unread
                if before.get(usage) == progress:
                    self._memory.close(usage)
        if not self._before:
            self.stop()

    def stop(self) -> None:
        """Checks no more, until another session has to wait."""
        if self._loop.running:
            self._loop.stop()
