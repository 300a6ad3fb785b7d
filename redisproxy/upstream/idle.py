"""Connections to Redis that nobody uses, and how long each is kept.

Owns which one is used next: of the same tenant and protocol, the one that was used last. A
connection on which no database was SELECTed has the key None, and can be given to any tenant.
`pool` decides who may have a connection, and which ones are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..tenants.model import Tenant
from .connection import RedisConnection

#: What a connection can be used for: see `RedisConnection.key`.
Key = tuple[Tenant, int] | None


class IdleConnections:
    """The idle connections.

    timeout: seconds after which an idle connection is closed; keep: asked at that time whether the
    connection stays for as long again.
    """

    def __init__(self, clock: IReactorTime, timeout: float, keep: Callable[[], bool]) -> None:
        self._clock = clock
        self._timeout = timeout
        self._keep = keep
        # By key; the one that was used last is at the end.
        self._by_key: dict[Key, list[RedisConnection]] = {}
        self._timers: dict[RedisConnection, IDelayedCall] = {}

    def __len__(self) -> int:
        """The number of idle connections."""
        return len(self._timers)

    def __iter__(self) -> Iterator[RedisConnection]:
        """All of them, the one that has been idle longest first."""
        return iter(self._timers)

    def put(self, connection: RedisConnection) -> None:
        """Adds a connection that nobody uses from now on."""
        connection.idle_since = self._clock.seconds()
        self._by_key.setdefault(connection.key, []).append(connection)
        self._start_timer(connection)

    def newest(self, key: Key) -> RedisConnection | None:
        """Returns the one that was used last. It stays idle."""
        connections = self._by_key.get(key)
        return connections[-1] if connections else None

    def pop(self, key: Key) -> RedisConnection | None:
        """Removes the one that was used last, and returns it."""
        connection = self.newest(key)
        if connection is not None:
            self.remove(connection)
        return connection

    def remove(self, connection: RedisConnection) -> None:
        """Removes a connection, if it is idle."""
        timer = self._timers.pop(connection, None)
        if timer is None:
            return
        if timer.active():
            timer.cancel()
        connections = self._by_key[connection.key]
        connections.remove(connection)
        if not connections:
            del self._by_key[connection.key]

    def close(self, which: Callable[[RedisConnection], bool] = lambda _: True) -> None:
        """Closes all idle connections, or those that `which` selects."""
        for connection in [each for each in self._timers if which(each)]:
            self.remove(connection)
            connection.drop()

    def _start_timer(self, connection: RedisConnection) -> None:
        self._timers[connection] = self._clock.callLater(self._timeout, self._idle_for_long, connection)

    def _idle_for_long(self, connection: RedisConnection) -> None:
        if self._keep():
            self._start_timer(connection)
        else:
            self.remove(connection)
            connection.drop()
