"""The client for all that the proxy itself asks of Redis or a sentinel: txredisapi under
ClientService.

Owns the connection: its log-in, the time limit and the size limit of each reply, and when to
connect again. `control`, `probe`, `queries` and `sentinel` decide what is asked, and what the
answers mean. No tenant's command goes over it.

The module avoids two traps of ClientService. If `prepareConnection` fails, ClientService logs
`NoTransition` when that connection ends later. So the log-in begins after the connection is made,
and a refused log-in closes the connection, as Redis could have done. `whenConnected` must not be
called from its own errback. So it is never called: see `RedisClient.connect`. This module is longer
than other modules: the errors, the connection and the service belong to one interface, `Commands`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import txredisapi
from twisted.application import service
from twisted.application.internet import ClientService
from twisted.internet import defer
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import bounds, messages
from ..messages import MessageError
from ..net.time_limit import within
from ..net.waiters import Waiters
from ..ops.bugs import bug
from ..ops.retry import Backoff
from ..printable import printable, shown_error
from ..resp.framing import ProtocolError, ReplyMeasurer, encode
from ..resp.value import Answer, AnswerError, ErrorReply, values_of
from ..tenants.model import BackendAddress
from .endpoint import CaFileError, connect, connected, why
from .hold import is_lasting
from .redis_errors import is_busy, is_full

#: Seconds from a refused log-in to the next attempt, if the error does not pass by itself: with a
#: wrong password an early attempt would not help. A Redis with too many clients takes one soon.
_REFUSED_RETRY = 5.0
#: The delay before the next attempt to connect. It is short: tenants' ACL users are created over a
#: client, so nobody is served before.
BACKOFF = Backoff(0.1, 1.0, factor=1.5, spread=0.1)

Result = TypeVar("Result")
#: A word of a command.
Word = bytes | str | int


class ControlError(MessageError):
    """Redis cannot be asked, or answered with an error. client_reply: for the client."""

    def __init__(self, reason: messages.Text, client_reply: str = messages.UNANSWERED.text, passing: bool = True) -> None:
        super().__init__(reason)
        self.client_reply = client_reply
        self.passing = passing  #: see `hold.PassingError`


class ReplyError(ControlError):
    """Redis answered with an error. reply: what it answered."""

    def __init__(self, text: str) -> None:
        # While Redis is busy with a script nothing is held: clients get its error.
        busy = is_busy(text)
        client_reply = printable(text) if busy else messages.UNANSWERED.text
        passing = not busy and not is_lasting(text.encode())
        super().__init__(messages.redis_error(shown_error(text)), client_reply, passing)
        self.args = (text,)  # whole: what follows from an error hangs on Redis's own words
        self.reply = ErrorReply(text)


class NoReplyError(ControlError):
    """Redis did not answer in time. The connection is closed: a late reply could come next."""


class TooLargeError(ControlError):
    """The reply was larger than the limit, and was discarded. The connection stays open."""


class Commands(Protocol):
    """Asks Redis: a connection, or a service that keeps one (`RedisClient`,
    `control.ControlService`).
    """

    @property
    def connected(self) -> bool:
        """Whether Redis can be asked at once."""

    def ask(self, *words: Word) -> Awaitable[Answer]:
        """Returns Redis's answer to one command. Raises ReplyError if Redis answers with an error,
        and ControlError if it does not answer.
        """


class Connection(txredisapi.BaseRedisProtocol):  # type: ignore[misc]  # txredisapi has no annotations
    """One connection. `resp.framing` finds and bounds replies; txredisapi matches them to commands.

    reply_timeout: seconds to wait for a reply, None if the caller has its own time limits;
    reply_limit: bytes of a reply; made, lost: called when it is connected, and when it is gone.
    """

    transport: ITCPTransport

    def __init__(
        self,
        clock: IReactorTime,
        reply_timeout: float | None,
        reply_limit: int,
        made: Callable[[Connection], object] = lambda _: None,
        lost: Callable[[Connection, Failure], object] = lambda *_: None,
    ) -> None:
        super().__init__(charset=None, replyTimeout=reply_timeout, convertNumbers=False)
        self.callLater = clock.callLater
        self._reply_limit = reply_limit
        self._made = made
        self._lost = lost
        self._measurer = ReplyMeasurer()
        # Why commands are not answered, if the connection is lost.
        self._reason = messages.REDIS_CONNECTION_LOST()
        # The reply that is arriving, and its size in bytes. A reply over the limit is measured, but
        # not kept.
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> int:
        """The number of replies that are expected."""
        return len(self.replyQueue.waiting)

    def connectionMade(self) -> None:
        super().connectionMade()
        self._made(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.value is not None and not reason.check(ConnectionClosed):  # a TLS error, which says more
            self._reason = why(reason.value)
        super().connectionLost(reason)
        self._lost(self, reason)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        position = 0
        try:
            while position < len(data):
                end, ended = self._measurer.measure(data, position, 1)
                self._keep(data[position:end])
                position = end
                if ended:
                    self._reply_ended()
        except ProtocolError:
            self.transport.abortConnection()

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._reply_limit:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _reply_ended(self) -> None:
        reply, size = b"".join(self._pieces), self._size
        self._pieces.clear()
        self._size = 0
        if not self.pending:
            raise ProtocolError("a reply without a command")
        value: Answer | ControlError
        if size > self._reply_limit:
            value = TooLargeError(messages.REDIS_REPLY_TOO_LARGE(size=size), passing=False)
        else:
            try:
                [value] = values_of(reply, 1)
            except AnswerError as error:
                value = ReplyError(str(error))
        self.replyReceived(value)

    def ask(self, *words: Word) -> defer.Deferred[Answer]:
        """See `Commands`. The caller may cancel this; the reply is then discarded."""
        asked: defer.Deferred[Answer]
        try:
            asked = self.execute_command(*words)
        except txredisapi.ConnectionError:
            asked = defer.fail(ControlError(self._reason))
        return asked.addErrback(self._translated)

    def _build_command(self, *words: Word) -> bytes:
        """As txredisapi's, in a tenth of the time: a query may have 28,000 words."""
        return encode(word if isinstance(word, bytes) else self._encode_value(word) for word in words)

    def _translated(self, failure: Failure) -> Failure:
        if failure.check(txredisapi.TimeoutError):
            return Failure(NoReplyError(messages.REDIS_NO_REPLY(seconds=self.replyTimeout)))
        if failure.check(txredisapi.RedisError):
            return Failure(ControlError(self._reason))
        return failure

    async def ask_all(self, commands: Iterable[Sequence[Word]]) -> list[Answer | ErrorReply]:
        """Sends commands in one write. Returns their answers, with an ErrorReply for each that
        Redis refused.

        Raises ControlError if one of them is not answered.
        """

        def refused(failure: Failure) -> ErrorReply:
            failure.trap(ReplyError)
            return ErrorReply(str(failure.value))

        asked = [self.ask(*words).addErrback(refused) for words in commands]
        answers: list[Answer | ErrorReply] = []
        for success, result in await defer.DeferredList(asked, consumeErrors=True):
            if isinstance(result, Failure) and not success:
                result.raiseException()
            answers.append(result)
        return answers

    async def close(self) -> None:
        """Closes the connection after the last write, and waits until it is closed."""
        closed = self.whenDisconnected()
        self.transport.loseConnection()
        await closed

    async def log_in(self, address: BackendAddress, name: str = "") -> None:
        """Sends AUTH, if there is a password, and the name that CLIENT LIST shows. Raises
        ControlError.
        """
        if address.password:
            await self.ask("AUTH", *([address.username] if address.username else []), address.password)
        if name:
            [named] = await self.ask_all([("CLIENT", "SETNAME", name)])  # some servers do not have this command
            if isinstance(named, ErrorReply) and is_full(named.text):
                raise ReplyError(named.text)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Makes a new endpoint for each attempt, because the CA file may have changed.

    failed: called with the error of an attempt that failed.
    """

    def __init__(
        self, clock: IReactorTime, make: Callable[[], IStreamClientEndpoint], failed: Callable[[BaseException], object]
    ) -> None:
        self._clock = clock
        self._make = make
        self._failed = failed

    def connect(self, protocolFactory: IProtocolFactory) -> defer.Deferred[IProtocol]:
        """See IStreamClientEndpoint."""
        connecting: defer.Deferred[IProtocol]
        try:
            connecting = connected(self._make(), protocolFactory)
        except CaFileError as error:
            connecting = defer.fail(ControlError(error.reason))
        return connecting.addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> Failure:
        if not failure.check(defer.CancelledError):
            # Later, after ClientService has noticed the failure: a caller that learns of it may
            # stop this at once.
            self._clock.callLater(0, self._failed, failure.value)
        return failure


@implementer(ILogObserver)
class _Nobody:
    def __call__(self, event: LogEvent) -> None:
        """Logs nothing."""


class _KeptConnection(ClientService):
    """A ClientService that does not log each attempt. The caller that needs the connection logs
    failures.
    """

    _log = Logger(observer=_Nobody())


class RedisClient(service.Service):
    """Keeps one logged-in connection to one address, and connects again whenever it is lost.

    endpoint: makes an endpoint that leads to the address, may raise CaFileError; timeout: seconds
    to log in, and for `connect`; changed: called whenever `connection` or `failure` changes;
    backoff: delays before another attempt; for the other arguments see `Connection` and
    `Connection.log_in`.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        address: BackendAddress,
        endpoint: Callable[[], IStreamClientEndpoint],
        timeout: float,
        changed: Callable[[RedisClient], object] = lambda _: None,
        *,
        name: str = "",
        reply_timeout: float | None = bounds.CONTROL_REPLY_SECONDS,
        reply_limit: int = bounds.CONTROL_REPLY_BYTES,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self.address = address
        #: the connection, logged in; None if there is none
        self.connection: Connection | None = None
        #: why there is none; None if there is one, or the first attempt has not ended
        self.failure: BaseException | None = None
        self._clock = clock
        self._timeout = timeout
        self._changed = changed
        self._client_name = name
        self._reply_timeout = reply_timeout
        self._reply_limit = reply_limit
        self._backoff = backoff
        self._waiting: Waiters[Connection] = Waiters()
        # Connected, but perhaps not logged in yet.
        self._open: Connection | None = None
        factory = Factory.forProtocol(self._build)
        factory.noisy = False
        self._service = _KeptConnection(_Endpoint(clock, endpoint, self._not_connected), factory, self.retry_delay, clock)

    def _build(self) -> Connection:
        return Connection(self._clock, self._reply_timeout, self._reply_limit, self._connected, self._lost)

    def retry_delay(self, attempt: int) -> float:
        """Returns the seconds until the next attempt to connect. attempt: failures in a row."""
        refused = isinstance(self.failure, ReplyError) and is_lasting(str(self.failure).encode())
        return _REFUSED_RETRY if refused else self._backoff.delay(attempt)

    def startService(self) -> None:
        super().startService()
        self._service.startService()

    def stopService(self) -> defer.Deferred[None]:
        """Fires when it is disconnected. Commands that are not answered by now fail."""
        super().stopService()
        stopped = self._service.stopService()
        if self._open is not None:
            # Without waiting for unsent bytes: a server that hangs would never read them.
            self._open.transport.abortConnection()
        self._waiting.fire(Failure(ControlError(messages.STOPPING())))
        return stopped

    @property
    def connected(self) -> bool:
        """See `Commands`."""
        return self.connection is not None

    @property
    def full(self) -> bool:
        """Whether there is no connection because Redis has as many clients as it takes."""
        return isinstance(self.failure, ReplyError) and is_full(str(self.failure))

    async def connect(self) -> Connection:
        """Returns the connection. Waits for the next one until the time limit.

        Raises ControlError after that, and as soon as an attempt has failed.
        """
        if self.connection is not None:
            return self.connection
        try:
            return await within(self._waiting.wait(), self._timeout, self._clock)
        except defer.TimeoutError:
            raise ControlError(messages.REDIS_SILENT(address=self.address.shown)) from None

    async def ask(self, *words: Word) -> Answer:
        """See `Commands`."""
        return await (await self.connect()).ask(*words)

    def _connected(self, connection: Connection) -> None:
        self._open = connection
        # Later, after ClientService has noticed the connection: a caller that learns of it may stop
        # this at once.
        self._clock.callLater(0, self._log_in, connection)

    def _log_in(self, connection: Connection) -> None:
        if self._open is not connection:
            return
        logging_in = defer.Deferred.fromCoroutine(connection.log_in(self.address, self._client_name))
        logging_in.addTimeout(self._timeout, self._clock)
        logging_in.addCallbacks(self._ready, self._refused, callbackArgs=(connection,), errbackArgs=(connection,))
        logging_in.addErrback(bug(self._log, "a log-in"))

    def _ready(self, _: None, connection: Connection) -> None:
        if self._open is connection and self.running:
            self.connection, self.failure = connection, None
            self._changed(self)
            self._waiting.fire(connection)

    def _refused(self, failure: Failure, connection: Connection) -> None:
        failure.trap(ControlError, defer.TimeoutError)
        if self._open is connection:
            self._open = None
            connection.transport.abortConnection()
            self._failed(failure.value)

    def _lost(self, connection: Connection, reason: Failure) -> None:
        if self._open is connection:
            self._open = None
            self._failed(reason.value)

    def _not_connected(self, error: BaseException) -> None:
        if self._open is None:
            self._failed(error)

    def _failed(self, error: BaseException | None) -> None:
        self.connection, self.failure = None, error or ControlError(messages.REDIS_CONNECTION_LOST())
        if self.running:
            self._changed(self)
            self._waiting.fire(
                Failure(ControlError(messages.REDIS_UNREACHABLE(address=self.address.shown, reason=why(self.failure))))
            )


async def ask_once(
    clock: IReactorTime,
    address: BackendAddress,
    endpoint: IStreamClientEndpoint,
    timeout: float,
    asking: Callable[[Connection], Awaitable[Result]],
) -> Result:
    """Connects, logs in, awaits `asking`, and closes the connection. Returns what `asking`
    returned.

    timeout: seconds to connect, and as many to log in and ask. Raises ControlError, TimeoutError,
    and any error of connecting.
    """
    connecting = connect(endpoint, lambda: Connection(clock, None, bounds.CONTROL_REPLY_BYTES))
    connection = await connecting.addTimeout(timeout, clock)

    async def asked() -> Result:
        await connection.log_in(address)
        return await asking(connection)

    try:
        return await defer.Deferred.fromCoroutine(asked()).addTimeout(timeout, clock)
    finally:
        connection.transport.abortConnection()
