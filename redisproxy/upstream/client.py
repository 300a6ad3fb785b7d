"""The control connection: asks Redis, with the master password, what it is, and has it know the tenants' users.

Owns the connection, and when Redis is asked again; what is asked at its beginning is `probe`'s. It is a txredisapi client,
kept connected; it is not on the path of tenants' commands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import txredisapi
from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..net.time_limit import within
from ..net.waiters import Waiters
from ..policy import probing
from ..policy.probing import Server
from ..session.answering import UNANSWERED
from ..tenants.model import Backend
from .endpoint import endpoint_for
from .probe import Memory, Probe, Rights

#: Seconds after a refused log-in until the next try. What refuses is a password: haste would not help.
_RETRY = 5.0
#: Seconds to wait for an answer.
_ANSWER = 10
#: Seconds until Redis is asked again what it could not tell, at first and at most. Soon, since between two scripts of a
#: tenant that keeps it busy there may be little time.
_SOON, _AGAIN = 0.05, 1.0


class ControlError(Exception):
    """Redis cannot be asked, or answered with an error. The text is for the log; `told` is the client's error reply."""

    def __init__(self, text: str, told: str = UNANSWERED) -> None:
        super().__init__(text)
        self.told = told


class _ControlFactory(txredisapi.RedisFactory):
    """One connection that is made again whenever it is lost."""

    #: Seconds, at most, between two attempts. Tenants' users are made over it, so nobody is served before it is back.
    maxDelay = 2.0

    def __init__(self, backend: Backend, connected: Callable, refused: Callable[[_ControlFactory], None]) -> None:
        super().__init__(
            uuid=None,
            dbid=None,
            poolsize=1,
            isLazy=True,
            charset=None,
            password=backend.password or None,
            username=backend.username or None,
            replyTimeout=_ANSWER,
            convertNumbers=False,
        )
        # Nobody waits for the first connection.
        self.deferred.addErrback(lambda _: None)
        self._connected = connected
        self._refused = refused

    def buildProtocol(self, addr: object) -> txredisapi.RedisProtocol:
        protocol = super().buildProtocol(addr)
        protocol.whenConnected().addCallback(self._connected)
        return protocol

    def delConnection(self, conn: txredisapi.RedisProtocol) -> None:
        super().delConnection(conn)
        # Where txredisapi keeps it for a caller of its own, of whom there is none.
        with contextlib.suppress(ValueError):
            self.connectionQueue.remove(conn)

    def connectionError(self, why: str) -> None:
        super().connectionError(why)
        self._refused(self)


class ControlService(service.Service):
    """The control connection, and what it was told.

    told: called with a Server after each connection, before anything else is asked over it, and when more is known of it;
    acl: whether ACL users are wanted; rights: the commands that these need the right to, on a server.
    """

    name = "control"
    _log = Logger()

    def __init__(
        self,
        reactor: object,
        connect_timeout: float,
        ca_file: Path | None,
        told: Callable[[Server], None],
        acl: bool = True,
        rights: Rights = lambda _: frozenset(),
    ) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._told = told
        self._acl = acl
        self._rights = rights
        self._backend: Backend | None = None
        self._factory: _ControlFactory | None = None
        self._retry: IDelayedCall | None = None
        self._memory = Memory()
        #: while Redis is asked what it is, which lasts until it has told all
        self._probing: defer.Deferred | None = None
        #: what Redis was when it was connected last; None: it never was
        self.server: Server | None = None
        #: whether Redis lets nobody make tenants' users now, though it did before
        self.users_refused = False
        self._last_version = ""
        self._last_state = ""
        self._connection: txredisapi.RedisProtocol | None = None
        self._waiting: Waiters[None] = Waiters()
        #: called when the connection is lost, but not when we close it
        self.lost: Callable[[], None] = lambda: None

    @property
    def connected(self) -> bool:
        """Whether Redis is there, and was asked what it is."""
        return self._connection is not None

    @property
    def asking(self) -> bool:
        """Whether Redis is there, and has not told all that it is asked."""
        return self._probing is not None

    def use(self, backend: Backend | None) -> None:
        """Where Redis is from now on."""
        if backend == self._backend:
            return
        self._backend = backend
        self.reconnect()

    def reconnect(self) -> None:
        """Connects anew, at once: the address may lead to another server by now."""
        self._disconnect()
        self._connect()

    def startService(self) -> None:
        super().startService()
        self._connect()

    def stopService(self) -> defer.Deferred:
        """Fires when it is disconnected."""
        super().stopService()
        return self._disconnect()

    async def ask(self, *words: bytes | str) -> object:
        """Redis's answer. Waits for the connection as long as opening one may take. Raises ControlError."""
        if self._connection is None:
            try:
                await within(self._waiting.wait(), self._connect_timeout, self._reactor)
            except defer.TimeoutError:
                raise ControlError("the control connection is not there") from None
        try:
            return await self._connection.execute_command(*words)
        except txredisapi.RedisError as error:
            raise ControlError(str(error)) from None

    async def is_replica(self) -> bool:
        """Whether Redis calls itself a replica by now. Raises ControlError."""
        return probing.is_replica(probing.fields(await self.ask("INFO", "replication")))

    def probe_again(self) -> None:
        """Redis refused to make a tenant's user: it is asked anew, in a moment, what it is."""
        if self._connection is not None and self._probing is None:
            self._start_probing(self._connection, again=True)

    def _disconnect(self) -> defer.Deferred:
        self._connection = None
        self._stop_probing()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        factory, self._factory = self._factory, None
        return defer.succeed(None) if factory is None else factory.disconnect()

    def _connect(self) -> None:
        if self._backend is None or not self.running:
            return
        try:
            endpoint = endpoint_for(self._reactor, self._backend, self._connect_timeout, self._ca_file)
        except (OSError, ValueError):
            self._retry_later()  # the upstream connections, which need the same file, have said so
            return
        self._factory = _ControlFactory(self._backend, self._connected, self._refused)
        self._factory.startConnecting(endpoint)

    def _refused(self, factory: _ControlFactory) -> None:
        # txredisapi gives up for good where a password is refused; but passwords are rotated.
        if factory is self._factory:
            self._disconnect()
            self._retry_later()

    def _retry_later(self) -> None:
        if self.running:
            self._retry = self._reactor.callLater(_RETRY, self._connect)

    def _connected(self, connection: txredisapi.RedisProtocol) -> txredisapi.RedisProtocol:
        if connection.factory is not self._factory:
            return connection  # Redis is elsewhere now
        connection.whenDisconnected().addCallback(self._disconnected)
        self._start_probing(connection)
        return connection

    def _disconnected(self, connection: txredisapi.RedisProtocol) -> None:
        if connection.factory is self._factory:
            self._stop_probing()
        if self._connection is connection:
            self._connection = None
            self.lost()

    def _start_probing(self, connection: txredisapi.RedisProtocol, again: bool = False) -> None:
        asking = self._probing = defer.Deferred.fromCoroutine(self._probe(connection, again))
        asking.addErrback(self._failed, connection)
        asking.addBoth(self._probed, asking)

    def _stop_probing(self) -> None:
        asking, self._probing = self._probing, None
        if asking is not None:
            asking.cancel()

    def _probed(self, _: object, asking: defer.Deferred) -> None:
        if self._probing is asking:
            self._probing = None

    def _failed(self, failure: Failure, connection: txredisapi.RedisProtocol) -> None:
        if failure.check(txredisapi.TimeoutError) and connection.factory is self._factory:
            self._tell_state(f"did not tell what it is within {_ANSWER} s, and is asked again")
        elif not failure.check(txredisapi.RedisError, defer.CancelledError):
            # Of these two, the one is gone already, and will be connected again; the other we gave up.
            self._log.failure("asking Redis what it is failed in a way that is a bug", failure)

    async def _probe(self, connection: txredisapi.RedisProtocol, again: bool) -> None:
        """Asks until Redis has told all that is to be known of it; some of that can be used before.

        again: whether it is for tenants' users alone, in a moment: tenants may bring it about.
        """
        if again:
            await task.deferLater(self._reactor, _AGAIN)
        with contextlib.suppress(txredisapi.ResponseError):
            await connection.execute_command("CLIENT", "SETNAME", "redisproxy-control")  # for whoever reads CLIENT LIST
        probe = Probe(connection.execute_command, self._backend.address, self._memory, self._acl, self._rights, again)
        delay = _SOON
        while True:
            await probe.ask()
            if connection.factory is not self._factory:
                return
            self._use(probe, connection)
            if not probe.again:
                return
            await task.deferLater(self._reactor, delay)
            delay = min(2 * delay, _AGAIN)

    def _use(self, probe: Probe, connection: txredisapi.RedisProtocol) -> None:
        """What is known by now."""
        state = probe.state
        if probe.again and not state:
            state = f"did not tell what it is, and is asked again: {probing.explain(probe.again)}"
        self._tell_state(state)
        self.users_refused = probe.users_refused
        server = probe.server
        if server is None or (self._connection is connection and server == self.server):
            return
        if server.version != self._last_version:
            self._last_version = server.version
            self._log.info(
                "Redis is {version}, with {databases} databases",
                version=server.version,
                databases="an untold number of" if server.databases is None else server.databases,
            )
        self.server = server
        self._told(server)
        self._connection = connection
        self._waiting.fire(None)

    def _tell_state(self, text: str) -> None:
        """Logs what its operator has to know, when it is new."""
        if text and text != self._last_state:
            self._log.warn("Redis at {address} {text}", address=self._backend.address, text=text)
        self._last_state = text
