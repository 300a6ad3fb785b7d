"""What clients ask about the whole server, INFO, PUBSUB and CONFIG GET: over a connection with the
master's rights for nothing else.

Owns whose turn it is, and how large an answer may be. It is not the control connection that asks:
all tenants' log-ins wait for that one, and how large an answer about channels is, and how long it
takes, a tenant decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages, probes
from ..printable import shown_error
from ..resp.value import Answer, ErrorReply
from ..tenants.model import BackendAddress, Tenant
from .client import ControlError, RedisClient, TooLargeError

TOO_LARGE = messages.REPLY_TOO_LARGE(most=bounds.QUERY_REPLY_BYTES)
#: Seconds: an answer that takes longer may have kept Redis busy, which does nothing else meanwhile.
SLOW = 0.02
#: Then the tenant's next query comes so many times as long later, but no more than
#: bounds.QUERY_PAUSE_SECONDS.
PAUSE_FACTOR = 9.0


#: Makes a client, which does not run yet. Its arguments: where Redis is, and what is called when
#: `connection` changes.
Connect = Callable[[BackendAddress, Callable[[RedisClient], object]], RedisClient]


class _QueryConnection:
    """One connection, while it is asked."""

    def __init__(self, connect: Connect, address: BackendAddress, lost: Callable[[_QueryConnection], object]) -> None:
        self.client = connect(address, lambda client: client.connection or lost(self))
        #: how many wait for an answer
        self.waiters = 0


class ControlQueries:
    """Asks for all tenants, one thing at a time for each.

    connect: makes a client to where Redis is.
    """

    def __init__(self, reactor: IReactorTime, connect: Connect) -> None:
        self._reactor = reactor
        self._connect = connect
        self._turns: dict[Tenant, defer.DeferredLock] = {}
        # Until when a tenant's next query waits after a slow answer.
        self._pauses: dict[Tenant, IDelayedCall] = {}
        self._address: BackendAddress | None = None
        # The connection in use; None: there is none, or nothing more is asked over it.
        self._current: _QueryConnection | None = None
        self._closing: IDelayedCall | None = None
        # When there was an answer last, in the reactor's seconds.
        self._answered = 0.0

    def use(self, address: BackendAddress | None) -> None:
        """Where Redis is from now on. What was asked is still answered by where it was."""
        if address != self._address:
            self._address = address
            self.renew()

    def renew(self) -> None:
        """The address leads to another server than before."""
        if self._current is not None:
            self._leave(self._current)

    def stop(self) -> None:
        """Closes the connection when nobody waits for an answer any more, and opens none."""
        self.use(None)
        for tenant, pause in list(self._pauses.items()):
            pause.cancel()
            self._end_turn(tenant)  # whose next query is told that nobody can be asked

    async def ask(self, tenant: Tenant, commands: Sequence[list[bytes]]) -> list[Answer]:
        """Redis's answer to each command, within bounds.QUERY_SECONDS from the tenant's turn on.
        They are sent together.

        Raises ControlError, also where one of the answers is an error. The caller may cancel this:
        what has not had its turn is not asked then, and what has, nobody hears.
        """
        await self._turns.setdefault(tenant, defer.DeferredLock()).acquire()
        # It goes on without the caller: to give a connection up for each client that leaves would
        # open others.
        heard: defer.Deferred[list[Answer]] = defer.Deferred()
        defer.Deferred.fromCoroutine(self._in_turn(tenant, commands)).addBoth(heard.callback)
        return await heard

    async def _in_turn(self, tenant: Tenant, commands: Sequence[list[bytes]]) -> list[Answer]:
        began = self._reactor.seconds()
        try:
            return [_value(answer) for answer in await self._ask(commands)]
        finally:
            # What it waited for others' answers is not its own.
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
            raise ControlError(error.reason, TOO_LARGE) from None
        except defer.TimeoutError:
            probes.reached("control query timed out")
            # Other tenants may wait behind this one, and have their own time: it is closed when
            # nobody waits any more.
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
        """The connection that is asked now. Raises ControlError."""
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        if self._current is None:
            if self._address is None:
                raise ControlError(messages.REDIS_UNKNOWN(), messages.UNREACHABLE.text)
            # One that is lost, or cannot be had, is left: who asks next does not wait until it is
            # tried again.
            self._current = _QueryConnection(self._connect, self._address, self._leave)
            self._current.client.startService()
        return self._current

    def _leave(self, current: _QueryConnection) -> None:
        """It is asked nothing more, and closed once nobody waits for an answer."""
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
    # Of all errors these alone are no passing ones.
    if answer.text.casefold().startswith(("noperm", "err unknown")):
        raise ControlError(reason, messages.NOT_ALLOWED.text)
    raise ControlError(reason)
