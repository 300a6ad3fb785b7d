"""One of Redis's sentinels, as somebody to ask where the master is.

Owns the connections to it: one to ask over, and one that hears at once when it has a new master. txredisapi's own
`Sentinel` is not used: it takes the first answer, whoever gives it; calls to a sentinel that is away pile up in it; and
of several sentinels with TLS it would verify no names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import txredisapi
from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..tenants.model import Backend
from .endpoint import connected, why

#: Seconds to wait for an answer. A sentinel has little else to do.
_ANSWER = 2
#: Seconds between two attempts to connect: one that takes connections and closes them is not stormed.
_RETRY = 0.5
_SWITCHED = "+switch-master"


class SentinelError(Exception):
    """A sentinel does not tell where the master is. The text says why, and is fit for a log."""


class NotYet(SentinelError):
    """It is not known yet whether it can be reached."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a sentinel takes the master to be. epoch: of several that differ, the highest is the latest."""

    host: str
    port: int
    epoch: int


def latest(answers: Iterable[Answer]) -> Answer:
    """Of answers that differ: one that was cut off may still name the old one, so the latest failover counts, then the
    majority.
    """
    votes = Counter(answers)
    return max(votes, key=lambda answer: (answer.epoch, votes[answer]))


class _Asked(txredisapi.RedisProtocol):
    def connectionLost(self, reason: Failure) -> None:
        self.factory.gone(self, reason)
        super().connectionLost(reason)


class _Subscriber(txredisapi.SubscriberProtocol):
    def messageReceived(self, pattern: object, channel: object, message: object) -> None:
        self.factory.heard()

    def connectionLost(self, reason: Failure) -> None:
        self.factory.gone(self, reason)
        super().connectionLost(reason)


class _Connection(txredisapi.RedisFactory):
    """One connection, made when it is asked for and there is none. It is not logged in.

    there: called when it is made, and when it first turns out that it cannot be; heard: when a message came over it.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: Callable[[], IStreamClientEndpoint],
        protocol: type,
        there: Callable[[], None],
        heard: Callable[[], None],
    ) -> None:
        super().__init__(None, None, 1, isLazy=True, charset=None, replyTimeout=_ANSWER, convertNumbers=False)
        # Nobody waits for txredisapi's pool.
        self.deferred.addErrback(lambda _: None)
        self.protocol = protocol
        self.heard = heard
        self._there = there
        self._clock = clock
        self._endpoint = endpoint
        self._tried = float("-inf")
        self._connecting: defer.Deferred | None = None
        self._current: txredisapi.RedisProtocol | None = None
        self._stopped: defer.Deferred | None = None
        #: whether it is logged in
        self.ready = False
        #: why there is none
        self.trouble = ""

    def get(self) -> txredisapi.RedisProtocol | None:
        """The connection; None: it is being made, or will be when it is asked for later."""
        now = self._clock.seconds()
        if self._current is None and self._connecting is None and now - self._tried >= _RETRY:
            self._tried = now
            try:
                endpoint = self._endpoint()
            except (OSError, ValueError) as error:
                self.trouble = f"the CA file cannot be used: {error}"  # which may be fixed
                return None
            connecting = self._connecting = connected(endpoint, self)
            connecting.addCallbacks(self._connected, self._not_connected)
        return self._current

    def addConnection(self, conn: txredisapi.RedisProtocol) -> None:
        """Not into txredisapi's pool: nobody takes it from there, so it would be kept for ever."""

    def _connected(self, protocol: txredisapi.RedisProtocol) -> None:
        self._connecting = None
        if protocol.connected:
            self._current = protocol
            self.ready = False
            self.trouble = ""
            self._there()

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        first = not self.trouble
        self.trouble = why(failure.value)
        if first and not failure.check(defer.CancelledError):
            self._there()  # nobody needs to wait for it

    def gone(self, protocol: txredisapi.RedisProtocol, reason: Failure) -> None:
        """It is lost."""
        if self._current is protocol:
            self._current = None
            self.trouble = why(reason.value)
            if self._stopped is not None:
                self._stopped.callback(None)

    def stop(self) -> defer.Deferred:
        """Fires when it is closed. It must not be asked for any more."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._current is None:
            return defer.succeed(None)
        self._stopped = defer.Deferred()
        self._current.transport.abortConnection()
        return self._stopped


class Sentinel:
    """place: where it is, and its own password; endpoint: makes one that leads there, see `endpoint.endpoint_for`;
    master_name: what it calls the master; news: called when it may have something new to tell.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        place: Backend,
        endpoint: Callable[[], IStreamClientEndpoint],
        master_name: str,
        news: Callable[[], None],
    ) -> None:
        self.place = place
        self._name = master_name
        self._asked = _Connection(clock, endpoint, _Asked, news, news)
        self._hears = _Connection(clock, endpoint, _Subscriber, lambda: None, news)
        #: since when it does not tell, and what was said of that in the log
        self.failing: float | None = None
        self.said = ""
        self.said_at = float("-inf")

    def stop(self) -> defer.Deferred:
        """Fires when it is disconnected."""
        return defer.gatherResults([self._asked.stop(), self._hears.stop()], consumeErrors=True)

    async def ask(self) -> Answer:
        """Where the master is. Raises SentinelError: at once where there is no connection, which is made meanwhile."""
        connection = self._asked.get()
        if connection is None:
            if not self._asked.trouble:
                raise NotYet("it cannot be reached: it took too long")
            raise SentinelError(f"it cannot be reached: {self._asked.trouble}")
        try:
            await self._log_in(self._asked, connection)
            fields = await connection.execute_command("SENTINEL", "MASTER", self._name)
            # While a failover goes on the one who leads it knows the new address here first.
            address = await connection.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            known = dict(zip(fields[::2], fields[1::2], strict=True))
            answer = Answer(_host(address[0]), int(address[1]), int(known[b"config-epoch"]))
        except txredisapi.ResponseError as error:
            raise SentinelError(why(error)) from None
        except txredisapi.RedisError:
            raise SentinelError(f"it cannot be reached: {self._asked.trouble or 'it took too long'}") from None
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
            self._hears.ready = False  # that may pass: it is tried again with the next question
            self._log.debug("{place} lets nobody subscribe: {error}", place=self.place.address, error=str(error))


def _host(name: bytes) -> str:
    host = name.decode()
    if not host.isprintable():
        raise ValueError("no host has such a name")
    return host
