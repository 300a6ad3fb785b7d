"""One of Redis's sentinels, as somebody to ask where the master is.

Owns the connections to it: one to ask over, and one that hears at once when it has a new master. txredisapi's own
`Sentinel` is not used: it takes the first answer, whoever gives it; calls to a sentinel that is away pile up in it; and
of several sentinels with TLS it would verify no names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import txredisapi
from twisted.internet import defer
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from ..core.tenants import Backend
from .backend import endpoint_for

#: Seconds to wait for an answer. A sentinel has little else to do.
_ANSWER = 2
_SWITCHED = "+switch-master"


class SentinelError(Exception):
    """A sentinel does not tell where the master is. The text says why, and is fit for a log."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a sentinel takes the master to be. epoch: of several that differ, the highest is the latest."""

    host: str
    port: int
    epoch: int


class _Subscriber(txredisapi.SubscriberProtocol):
    def messageReceived(self, pattern: object, channel: object, message: object) -> None:
        self.factory.heard()


class _Connection(txredisapi.RedisFactory):
    """One connection, made when it is asked for and there is none. It is not logged in.

    there: called when it is made; heard: when a message came over it.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, protocol: type, there: Callable[[], None], heard: Callable[[], None]
    ) -> None:
        super().__init__(None, None, 1, isLazy=True, charset=None, replyTimeout=_ANSWER, convertNumbers=False)
        # Nobody waits for txredisapi's pool.
        self.deferred.addErrback(lambda _: None)
        self.protocol = protocol
        self.heard = heard
        self._there = there
        self._endpoint = endpoint
        self._connecting: defer.Deferred | None = None
        self._current: txredisapi.RedisProtocol | None = None
        #: whether it is logged in
        self.ready = False

    def get(self) -> txredisapi.RedisProtocol | None:
        """The connection; None: it is being made."""
        if self._current is None and self._connecting is None:
            connecting = self._connecting = self._endpoint.connect(self)
            connecting.addCallbacks(self._connected, self._not_connected)
        return self._current

    def _connected(self, protocol: txredisapi.RedisProtocol) -> None:
        self._connecting = None
        self._current = protocol
        self.ready = False
        protocol.whenDisconnected().addCallback(self._gone)
        if protocol.connected:
            self._there()
        else:
            self._gone(protocol)

    def _not_connected(self, failure: object) -> None:
        self._connecting = None

    def _gone(self, protocol: txredisapi.RedisProtocol) -> None:
        if self._current is protocol:
            self._current = None

    def stop(self) -> defer.Deferred:
        """Fires when it is closed. It must not be asked for any more."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._current is not None:
            self._current.transport.abortConnection()
        return self.waitForEmptyPool()


class Sentinel:
    """place: where it is, and its own password; master_name: what it calls the master; news: called when it may have
    something new to tell. For the others see `backend.endpoint_for`.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: object,
        place: Backend,
        master_name: str,
        news: Callable[[], None],
        timeout: float,
        ca_file: Path | None,
    ) -> None:
        self.place = place
        self._name = master_name
        endpoint = endpoint_for(reactor, place, timeout, ca_file)
        self._asked = _Connection(endpoint, txredisapi.RedisProtocol, news, news)
        self._hears = _Connection(endpoint, _Subscriber, lambda: None, news)
        #: how often in a row it did not tell, and what was said of that in the log
        self.failures = 0
        self.said = ""

    def stop(self) -> defer.Deferred:
        """Fires when it is disconnected."""
        return defer.gatherResults([self._asked.stop(), self._hears.stop()], consumeErrors=True)

    async def ask(self) -> Answer:
        """Where the master is. Raises SentinelError: at once where there is no connection, which is made meanwhile."""
        connection = self._asked.get()
        if connection is None:
            raise SentinelError("it cannot be reached")
        try:
            await self._log_in(self._asked, connection)
            fields = await connection.execute_command("SENTINEL", "MASTER", self._name)
            # While a failover goes on the one who leads it knows the new address here first.
            address = await connection.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            known = dict(zip(fields[::2], fields[1::2], strict=True))
            answer = Answer(address[0].decode(), int(address[1]), int(known[b"config-epoch"]))
        except txredisapi.ResponseError as error:
            raise SentinelError(" ".join(str(error).split())[:200]) from None
        except txredisapi.RedisError:
            raise SentinelError("it does not answer") from None
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise SentinelError("what it answers is not what a sentinel answers") from None
        await self._hear()
        return answer

    async def _log_in(self, own: _Connection, connection: txredisapi.RedisProtocol) -> None:
        if self.place.password and not own.ready:
            await connection.auth(self.place.password, self.place.username or None)
        own.ready = True

    async def _hear(self) -> None:
        """Has it tell of a new master, if it does not yet. If that fails, we still ask."""
        connection = self._hears.get()
        if connection is None or self._hears.ready:
            return
        try:
            await self._log_in(self._hears, connection)
            await connection.subscribe(_SWITCHED)
        except txredisapi.RedisError as error:
            self._log.debug("{place} lets nobody subscribe: {error}", place=self.place.address, error=str(error))
