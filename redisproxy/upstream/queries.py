"""Asks INFO, PUBSUB, CONFIG GET and MODULE LIST for tenants, with the master's rights.

Owns whose turn it is, and how large an answer may be. These queries do not use the control
connection, because all tenants' log-ins wait for it. A tenant can make an answer about channels as
large and as slow as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages, probes
from ..printable import printable, shown_error
from ..resp.value import Answer, ErrorReply
from ..tenants.model import BackendAddress, Tenant
from .client import ControlError, RedisClient, TooLargeError
from .hold import is_lasting
from .redis_errors import is_busy

TOO_LARGE = messages.REPLY_TOO_LARGE(most=bounds.QUERY_REPLY_BYTES)
#: Seconds. A slower answer may have kept Redis busy, which does nothing else meanwhile.
SLOW = 0.02
#: After a slow answer the tenant's next query waits so many times as long, at most
#: bounds.QUERY_PAUSE_SECONDS.
PAUSE_FACTOR = 9.0


#: Makes a client, which is not started yet. Arguments: Redis's address, and a function that is
#: called when `connection` changes.
Connect = Callable[[BackendAddress, Callable[[RedisClient], object]], RedisClient]


class _QueryConnection:
    """A connection for control queries."""

    def __init__(self, connect: Connect, address: BackendAddress, lost: Callable[[_QueryConnection], object]) -> None:
        self.client = connect(address, lambda client: client.connection or lost(self))
        #: how many queries wait for an answer
        self.waiters = 0


class ControlQueries:
    """Asks for all tenants, one query at a time for each. connect: makes a client to Redis's
    address.
    """

    def __init__(self, reactor: IReactorTime, connect: Connect) -> None:
        self._reactor = reactor
        self._connect = connect
        self._turns: dict[Tenant, defer.DeferredLock] = {}
        # The timer of each tenant whose next query waits after a slow answer.
        self._pauses: dict[Tenant, IDelayedCall] = {}
        self._address: BackendAddress | None = None
        # The connection in use; None if there is none, or nothing more is asked over it.
        self._current: _QueryConnection | None = None
        self._closing: IDelayedCall | None = None
        # When the latest answer came, in the reactor's seconds.
        self._answered = 0.0

    def use(self, address: BackendAddress | None) -> None:
        """Asks at this address from now on. The former Redis still answers what it was asked."""
        if address != self._address:
            self._address = address
            self.renew()

    def renew(self) -> None:
        """The address leads to another server than before: opens a new connection for the next
        query.
        """
        if self._current is not None:
            self._leave(self._current)

    def stop(self) -> None:
        """Closes the connection when no query waits for an answer any more, and opens no other."""
        self.use(None)
        for tenant, pause in list(self._pauses.items()):
            pause.cancel()
            self._end_turn(tenant)  # the tenant's next query fails: there is no address

    async def ask(self, tenant: Tenant, commands: Sequence[list[bytes]]) -> list[Answer]:
        """Sends commands together, and returns Redis's answers.

        Waits for the tenant's turn, and from then on at most QUERY_SECONDS. Raises ControlError,
        also if one of the answers is an error. The caller may cancel this. Then nothing is sent if
        the tenant's turn has not come yet; otherwise the answers are discarded.
        """
        await self._turns.setdefault(tenant, defer.DeferredLock()).acquire()
        # The query goes on if the caller leaves. Otherwise each client that leaves would cost a
        # connection.
        heard: defer.Deferred[list[Answer]] = defer.Deferred()
        defer.Deferred.fromCoroutine(self._in_turn(tenant, list(commands))).addBoth(heard.callback)
        return await heard

    async def _in_turn(self, tenant: Tenant, commands: Sequence[list[bytes]]) -> list[Answer]:
        began = self._reactor.seconds()
        try:
            return [_value(answer) for answer in await self._ask(commands)]
        finally:
            # Time in which Redis answered others is not counted.
            now = self._reactor.seconds()
            took, self._answered = now - max(began, self._answered), now
            if took < SLOW:
                self._end_turn(tenant)
            else:
                probes.reached("control query was slow")
                self._pauses[tenant] = self._reactor.callLater(
                    min(took * PAUSE_FACTOR, bounds.QUERY_PAUSE_SECONDS), self._end_turn, tenant
                )

    def _end_turn(self, tenant: Tenant) -> None:
        self._pauses.pop(tenant, None)
        turn = self._turns[tenant]
        turn.release()
        if not turn.locked:
            self._turns.pop(tenant, None)

    async def _ask(self, commands: Sequence[list[bytes]]) -> list[Answer | ErrorReply]:
        current = self._connection()
        current.waiters += 1
        try:
            try:
                connection = await current.client.connect()
            except ControlError as error:
                raise ControlError(error.reason, messages.UNREACHABLE.text) from None
            asked = defer.Deferred.fromCoroutine(connection.ask_all(commands))
            return await asked.addTimeout(bounds.QUERY_SECONDS, self._reactor)
        except TooLargeError as error:
            raise ControlError(error.reason, TOO_LARGE, passing=False) from None
        except defer.TimeoutError:
            probes.reached("control query timed out")
            # Other tenants may wait behind this query, with their own time limits. The connection
            # is closed when nobody waits any more.
            self._leave(current)
            raise ControlError(messages.NET_TIMEOUT()) from None
        finally:
            current.waiters -= 1
            if not current.waiters:
                if current is self._current:
                    self._closing = self._reactor.callLater(bounds.QUERY_IDLE_SECONDS, self._leave, current)
                else:
                    current.client.stopService()

    # The connection.

    def _connection(self) -> _QueryConnection:
        """Returns the connection to ask over. Raises ControlError."""
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        if self._current is None:
            if self._address is None:
                raise ControlError(messages.REDIS_UNKNOWN(), messages.UNREACHABLE.text)
            # A connection that is lost or cannot be made is left, so that the next query does not
            # wait for its next attempt.
            self._current = _QueryConnection(self._connect, self._address, self._leave)
            self._current.client.startService()
        return self._current

    def _leave(self, current: _QueryConnection) -> None:
        """Asks nothing more over a connection, and closes it when nobody waits for an answer."""
        if self._current is current:
            self._current = None
            if self._closing is not None and self._closing.active():
                self._closing.cancel()
            if not current.waiters:
                current.client.stopService()


def _value(answer: Answer | ErrorReply) -> Answer:
    if not isinstance(answer, ErrorReply):
        return answer
    reason = messages.redis_error(shown_error(answer.text))
    if is_busy(answer.text):
        raise ControlError(reason, printable(answer.text), passing=False)
    if is_lasting(answer.text.encode()):
        raise ControlError(reason, messages.NOT_ALLOWED.text, passing=False)
    raise ControlError(reason)
