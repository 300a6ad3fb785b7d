"""The markers of this process in Redis: channels whose names say what its sessions use there.

Owns the connection that is subscribed to them, and their names. A marker ends with its process, and
PUBSUB CHANNELS lists the markers of all processes and replicas of the proxy. So nobody has to keep
a list, or to clean one up. `patterns` decides what is marked.

The connection has the master's rights. No tenant can publish or subscribe to a marker: its name has
a character before the first colon that no namespace has, and each name of a tenant's channel begins
with a namespace and a colon, or with ``__key``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from .. import bounds, messages, probes
from ..ops.bugs import bug
from ..ops.log_once import LogOnce
from ..ops.logs import Log
from ..resp.value import Answer, ErrorReply, strings_of
from ..tenants.model import BackendAddress, Tenant
from .client import Connection, ControlError, RedisClient, ReplyError
from .queries import Connect
from .redis_errors import is_busy

_PREFIX = b"redisproxy/patterns:"
#: What follows the tenant: in the marker of a clean-up, and before the pattern in all others.
_CLEANING = b"cleaning"
_USED = b"="


def beginning(tenant: Tenant) -> bytes:
    """The beginning of the names of a tenant's markers."""
    return b"%b%b:%d:" % (_PREFIX, tenant.namespace.encode(), tenant.index)


def of_pattern(tenant: Tenant, pattern: bytes) -> bytes:
    """The marker of a pattern that a tenant uses. pattern: as Redis knows it."""
    return beginning(tenant) + _USED + pattern


def of_cleaning(tenant: Tenant) -> bytes:
    """The marker of a clean-up of a tenant's patterns: see `pattern_cleaner`."""
    return beginning(tenant) + _CLEANING


def listing(tenant: Tenant) -> list[bytes]:
    """The command that lists a tenant's markers."""
    return [b"PUBSUB", b"CHANNELS", beginning(tenant) + b"*"]


def listed(tenant: Tenant, answer: Answer) -> set[bytes]:
    """Returns the patterns that a tenant uses, in all processes.

    answer: to `listing`. Raises ControlError for an answer of another form.
    """
    start = beginning(tenant)
    try:
        names = strings_of(answer)
    except ValueError:
        raise ControlError(messages.REDIS_ODD_ANSWER(), passing=False) from None
    return {name.removeprefix(start + _USED) for name in names if name.startswith(start + _USED)}


def _unanswered(failure: Failure) -> None:
    """The connection is lost, and so the marker is gone, too."""
    failure.trap(ControlError)


class Markers:
    """Keeps one connection while there are markers. connect: makes a client to Redis's address.

    lost: called when the connection is lost, and with it all markers. They are set again as soon as
    there is another one.
    """

    _log = Log()

    def __init__(self, reactor: IReactorTime, connect: Connect, lost: Callable[[], object] = lambda: None) -> None:
        self._reactor = reactor
        self._connect = connect
        self._lost = lost
        self._address: BackendAddress | None = None
        self._client: RedisClient | None = None
        self._marked: set[bytes] = set()
        # How many calls of `mark` are under way.
        self._marking = 0
        self._closing: IDelayedCall | None = None
        self._refused = LogOnce(reactor)
        #: changes whenever the connection is lost
        self.generation = 0

    def use(self, address: BackendAddress | None) -> None:
        """Sets the markers at this address from now on."""
        if address != self._address:
            self._address = address
            self.renew()

    def renew(self) -> None:
        """The address leads to another server than before: sets all markers there."""
        self._close()
        if self._marked and self._address is not None:
            self._open()

    def stop(self) -> None:
        """Closes the connection, and opens no other."""
        self._marked.clear()
        self.use(None)
        self._close()

    async def mark(self, markers: Collection[bytes]) -> None:
        """Sets markers. Raises ControlError: then none of these is set."""
        self._marking += 1
        try:
            connection = await self._open().connect()
            self._marked.update(markers)
            await self._subscribe(connection, markers)
        except BaseException as error:
            self.unmark(markers)
            if isinstance(error, ReplyError) and not (error.passing or is_busy(error.reply.text)):
                raise ControlError(error.reason, messages.NOT_ALLOWED.text, passing=False) from None
            raise
        finally:
            self._marking -= 1
            self._close_later()

    def unmark(self, markers: Iterable[bytes]) -> None:
        """Removes markers."""
        gone = self._marked.intersection(markers)
        self._marked -= gone
        connection = None if self._client is None else self._client.connection
        if connection is not None:
            for marker in gone:
                connection.ask("UNSUBSCRIBE", marker).addErrback(_unanswered)
        self._close_later()

    async def _subscribe(self, connection: Connection, markers: Iterable[bytes]) -> None:
        names = list(markers)
        answers = await connection.ask_all([("SUBSCRIBE", marker) for marker in names])
        for marker, answer in zip(names, answers, strict=True):
            if isinstance(answer, ErrorReply):
                raise ReplyError(answer.text)
            if not isinstance(answer, list) or answer[:2] != [b"subscribe", marker]:
                # A message: somebody with the master's rights publishes to a marker.
                connection.transport.abortConnection()
                raise ControlError(messages.REDIS_ODD_ANSWER())

    # The connection.

    def _open(self) -> RedisClient:
        """Returns the client, which is started at the first call. Raises ControlError."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._client is None:
            if self._address is None:
                raise ControlError(messages.REDIS_UNKNOWN(), messages.UNREACHABLE.text)
            self._client = self._connect(self._address, self._changed)
            self._client.startService()
        return self._client

    def _close_later(self) -> None:
        """Closes the connection after a while, if there are no markers."""
        if not (self._marked or self._marking) and self._client is not None and self._closing is None:
            self._closing = self._reactor.callLater(bounds.QUERY_IDLE_SECONDS, self._close)

    def _close(self) -> None:
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        self._closing = None
        client, self._client = self._client, None
        if client is not None:
            if client.connection is not None:
                self._gone()
            client.stopService()

    def _gone(self) -> None:
        self.generation += 1
        self._lost()

    def _changed(self, client: RedisClient) -> None:
        if client is not self._client:
            return
        if client.connection is None:
            self._gone()
        elif self._marked:
            probes.reached("markers are set again over another connection")
            again = defer.Deferred.fromCoroutine(self._subscribe(client.connection, self._marked))
            again.addErrback(self._not_set_again)
            again.addErrback(bug(self._log, "setting markers"))

    def _not_set_again(self, failure: Failure) -> None:
        failure.trap(ControlError)
        error = failure.value
        if isinstance(error, ReplyError):
            self.log_refused(error)

    def log_refused(self, error: ControlError) -> None:
        """Logs once in a while that Redis refuses to set markers, or to list them."""
        if self._refused.due(error.reason):
            self._log.write(messages.MARKERS_REFUSED, error=error.reason)
