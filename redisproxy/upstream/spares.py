"""Dedicated connections that are opened before a session needs them.

Owns their openings. A tenant that uses dedicated connections has one more, idle, so that the next
command does not wait. If commands wait for their turn that will probably need one, one is opened
for each of their sessions. A spare connection is idle like any other: it is closed after the idle
timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Protocol

from twisted.internet import defer
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..ops.bugs import log_bug
from ..tenants.model import Tenant
from .connection import RedisConnection, UpstreamError

#: Tenant and protocol.
Key = tuple[Tenant, int]


class _Pool(Protocol):
    """Where connections come from."""

    #: whether the latest attempt to open a connection failed
    refused: bool

    def has_idle(self, tenant: Tenant, protocol: int) -> bool:
        """Whether the tenant has an idle connection in this protocol."""

    @property
    def acquire(
        self,
    ) -> Callable[[Tenant, int, Callable[[], bool]], Coroutine[defer.Deferred[object], object, RedisConnection]]:
        """Returns a connection: see `ConnectionPool.acquire`. Raises UpstreamError."""


class Spares:
    """The openings of spare connections. pool: opens them, and keeps them."""

    _log = Logger()

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._openings: dict[Key, list[defer.Deferred[RedisConnection]]] = {}

    def claim(self, key: Key) -> defer.Deferred[RedisConnection] | None:
        """Returns the oldest opening, for the caller alone; None if there is none."""
        openings = self._openings.get(key)
        if not openings:
            return None
        work = openings.pop(0)
        if not openings:
            del self._openings[key]
        return work

    def keep_one(self, key: Key) -> None:
        """Opens a connection, unless one is idle or being opened."""
        if key not in self._openings and not self._pool.has_idle(*key):
            self.open(key)

    def open(self, key: Key) -> None:
        """Opens a connection. Does nothing while Redis takes none."""
        if self._pool.refused:
            return

        def claimed() -> bool:
            return bool(begun) and begun[0] not in self._openings.get(key, ())

        begun: list[defer.Deferred[RedisConnection]] = []
        work = defer.Deferred.fromCoroutine(self._pool.acquire(*key, claimed))
        begun.append(work)
        self._openings.setdefault(key, []).append(work)
        work.addBoth(self._ended, key, work)

    def _ended(
        self, result: RedisConnection | Failure, key: Key, work: defer.Deferred[RedisConnection]
    ) -> RedisConnection | Failure | None:
        openings = self._openings.get(key, [])
        if work not in openings:
            return result  # it was claimed
        openings.remove(work)
        if not openings:
            del self._openings[key]
        if isinstance(result, Failure):
            # `faults` has logged why. Who needs a connection tries again.
            if not result.check(UpstreamError, defer.CancelledError):
                log_bug(self._log, "opening a spare connection", result)
        else:
            result.release(clean=True)
        return None
