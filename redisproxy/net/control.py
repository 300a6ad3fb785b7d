"""The control connection: asks Redis, with the master password, what it is, and has it know the tenants' users.

Owns the questions that are not about one tenant's data: version, number of databases, commands, INFO, PUBSUB, ACL. It is
a txredisapi client, kept connected; it is not on the path of tenants' commands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import txredisapi
from twisted.application import service
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.answering import UNANSWERED
from ..core.commands import Command, builtin, parse
from ..core.tenants import Backend
from .backend import connected, endpoint_for
from .time_limit import within

#: Seconds after a refused log-in until the next try. What refuses is a password: haste would not help.
_RETRY = 5.0
#: Seconds to wait for an answer.
_ANSWER = 10
#: Seconds until Redis is asked again what it could not tell, because it is busy or loads its data.
_AGAIN = 1.0
#: Whether all users' scripts have things in common that one of them can change, as in CVE-2025-46818. It changes nothing.
_UNSEALED = """
    local writable = pcall(function() local shared = getmetatable('') shared.__index = shared.__index end)
    return (writable or rawget(_G, 'setfenv')) and 1 or 0
"""
#: The user that shows whether ACLs can be had. It can do nothing, and is deleted at once.
_PROBE = "redisproxy:probe"

_Answer = TypeVar("_Answer")
#: Sends a command; what comes back raises txredisapi.RedisError.
Ask = Callable[..., Awaitable[object]]


class ControlError(Exception):
    """Redis cannot be asked, or answered with an error. The text is for the log; `told` is the client's error reply."""

    def __init__(self, text: str, told: str = UNANSWERED) -> None:
        super().__init__(text)
        self.told = told


@dataclass(frozen=True)
class Server:
    """What the connected Redis is.

    version: for people; databases: how many, None where it does not tell; acl: whether it lets us make users whose
    rights name channels (Redis 6.2 on); acl_databases: whether these can name databases (Valkey 9.1 on); replica: whether
    it calls itself one; before_7: whether it words its errors as Redis before 7 does; sealed: whether one user's scripts
    cannot change what another's do, None where it cannot be seen now.
    """

    version: str
    databases: int | None
    commands: Mapping[bytes, Command]
    acl: bool
    acl_databases: bool
    replica: bool = False
    before_7: bool = False
    sealed: bool | None = False


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

    told: called with a Server after each connection, before anything else is asked over it.
    """

    name = "control"
    _log = Logger()

    def __init__(
        self, reactor: object, connect_timeout: float, ca_file: Path | None, told: Callable[[Server], None]
    ) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._told = told
        self._backend: Backend | None = None
        self._factory: _ControlFactory | None = None
        self._retry: IDelayedCall | None = None
        #: what Redis was when it was connected last; None: it never was
        self.server: Server | None = None
        self._last_version = ""
        self._last_state = ""
        self._connection: txredisapi.RedisProtocol | None = None
        self._waiting: list[defer.Deferred] = []
        #: called when the connection is lost, but not when we close it
        self.lost: Callable[[], None] = lambda: None

    @property
    def connected(self) -> bool:
        """Whether Redis is there, and was asked what it is."""
        return self._connection is not None

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
            waiting: defer.Deferred = defer.Deferred(self._waiting.remove)
            self._waiting.append(waiting)
            try:
                await within(waiting, self._connect_timeout, self._reactor)
            except defer.TimeoutError:
                raise ControlError("the control connection is not there") from None
        try:
            return await self._connection.execute_command(*words)
        except txredisapi.RedisError as error:
            raise ControlError(str(error)) from None

    async def is_replica(self) -> bool:
        """Whether Redis calls itself a replica by now. Raises ControlError."""
        return _is_replica(await self.ask("INFO", "replication"))

    def _disconnect(self) -> defer.Deferred:
        self._connection = None
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
            self._retry_later()  # the lanes, which need the same file, have said so
            return
        self._factory = _ControlFactory(self._backend, self._connected, self._refused)
        self._factory.startConnecting(endpoint)

    def _refused(self, factory: _ControlFactory) -> None:
        # txredisapi gives up for good where a password is refused; but passwords are rotated.
        if factory is self._factory:
            self._disconnect()
            self._retry_later()

    def _reconnect_later(self) -> None:
        if self.running:
            self._retry = self._reactor.callLater(_AGAIN, self.reconnect)

    def _retry_later(self) -> None:
        if self.running:
            self._retry = self._reactor.callLater(_RETRY, self._connect)

    def _connected(self, connection: txredisapi.RedisProtocol) -> txredisapi.RedisProtocol:
        if connection.factory is not self._factory:
            return connection  # Redis is elsewhere now
        connection.whenDisconnected().addCallback(self._disconnected)
        asking = defer.Deferred.fromCoroutine(self._inquire(connection))
        asking.addErrback(self._failed, connection)
        return connection

    def _disconnected(self, connection: txredisapi.RedisProtocol) -> None:
        if self._connection is connection:
            self._connection = None
            self.lost()

    def _failed(self, failure: Failure, connection: txredisapi.RedisProtocol) -> None:
        if failure.check(txredisapi.ResponseError):
            if connection.factory is self._factory:  # busy with somebody's script, say
                self._tell_state(f"did not tell what it is, and is asked again: {failure.getErrorMessage()[:200]}")
                self._reconnect_later()
            return
        if failure.check(txredisapi.RedisError):
            return  # it is gone already, and will be connected again
        self._log.failure("asking Redis what it is failed in a way that is a bug", failure)

    async def _inquire(self, connection: txredisapi.RedisProtocol) -> None:
        """All that is to be known of a server, before it is used."""
        with contextlib.suppress(txredisapi.ResponseError):
            await connection.execute_command("CLIENT", "SETNAME", "redisproxy-control")  # for whoever reads CLIENT LIST
        server, state = await examine(connection.execute_command)
        if server.sealed is None:  # it could not be seen now: it is asked again, over another connection
            self._reconnect_later()
        if server.version != self._last_version:
            self._last_version = server.version
            self._log.info(
                "Redis is {version}, with {databases} databases",
                version=server.version,
                databases="an untold number of" if server.databases is None else server.databases,
            )
        if connection.factory is not self._factory:
            return
        self._tell_state(state)
        self.server = server
        self._told(server)
        self._connection = connection
        waiting, self._waiting = self._waiting, []
        for waits in waiting:
            waits.callback(None)

    def _tell_state(self, text: str) -> None:
        """Logs what its operator has to know, when it is new."""
        if text and text != self._last_state:
            self._log.warn("Redis at {address} {text}", address=self._backend.address, text=text)
        self._last_state = text


async def examine(ask: Ask) -> tuple[Server, str]:
    """What a server is, and what its operator has to know of it, see `_state`. Raises txredisapi.RedisError."""
    fields = _fields(await ask("INFO", "server"))
    state = _state(fields, _fields(await ask("INFO", "persistence")))
    replica = _is_replica(await ask("INFO", "replication"))
    try:
        databases = int((await ask("CONFIG", "GET", "databases"))[1])
    except (txredisapi.ResponseError, IndexError, ValueError):
        databases = None  # hosted Redis often has no CONFIG
    try:
        commands = parse(await ask("COMMAND"))
    except (txredisapi.ResponseError, ValueError):
        commands = builtin()
    # Not of Redis 6.0: its ACLs do not know channels, and a script could PUBLISH to anybody.
    acl = await _can(ask, "off", "resetchannels", "-@all")
    acl_databases = acl and await _can(ask, "resetdbs", "db=0")
    sealed = acl and await _is_sealed(ask)
    # Valkey tells which Redis it is like.
    before_7 = fields.get("redis_version", "7").partition(".")[0] in ("2", "3", "4", "5", "6")
    return Server(_version(fields), databases, commands, acl, acl_databases, replica, before_7, sealed), state


async def _can(ask: Ask, *rules: str) -> bool:
    """Whether a user can be made with these rules."""
    try:
        await ask("ACL", "SETUSER", _PROBE, *rules)
        await ask("ACL", "DELUSER", _PROBE)
    except txredisapi.ResponseError:
        return False
    return True


async def _is_sealed(ask: Ask) -> bool | None:
    """See `Server.sealed`; None: that cannot be seen now."""
    try:
        return await ask("EVAL", _UNSEALED, "0") == 0
    except txredisapi.ResponseError as error:
        return None if str(error).startswith(("LOADING", "BUSY", "MASTERDOWN")) else False


def _fields(info: object) -> Mapping[str, str]:
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _is_replica(info: object) -> bool:
    return _fields(info).get("role") == "slave"


async def ask_once(
    reactor: object,
    backend: Backend,
    timeout: float,
    ca_file: Path | None,
    asking: Callable[[Ask], Awaitable[_Answer]],
) -> _Answer:
    """What asking finds out over a connection of its own, which is logged in, and closed afterwards.

    timeout: seconds to connect, and as many to log in and ask. Raises txredisapi.RedisError where Redis refuses, and
    whatever connecting may raise.
    """
    factory = txredisapi.RedisFactory(None, None, 1, isLazy=True, charset=None, convertNumbers=False)
    factory.deferred.addErrback(lambda _: None)
    connecting = connected(endpoint_for(reactor, backend, timeout, ca_file), factory)
    protocol = await connecting.addTimeout(timeout, reactor)

    async def asked() -> _Answer:
        if backend.password:
            await protocol.auth(backend.password, backend.username or None)
        return await asking(protocol.execute_command)

    try:
        return await defer.Deferred.fromCoroutine(asked()).addTimeout(timeout, reactor)
    finally:
        protocol.transport.abortConnection()


async def calls_itself_replica(reactor: object, backend: Backend, timeout: float, ca_file: Path | None) -> bool:
    """Whether what the address leads to now does. See `ask_once`."""
    return _is_replica(await ask_once(reactor, backend, timeout, ca_file, lambda ask: ask("INFO", "replication")))


def _state(server: Mapping[str, str], persistence: Mapping[str, str]) -> str:
    """What is out of the ordinary, from two sections of INFO; empty: nothing."""
    mode = server.get("server_mode", server.get("redis_mode"))  # Valkey calls it so
    if mode == "sentinel":
        return "is a sentinel: to have it asked where Redis is, write redis+sentinel://HOST:PORT/MASTER-NAME"
    if mode == "cluster":
        return "is a node of a Redis Cluster, which has one database: the proxy needs a Redis without cluster mode"
    if persistence.get("loading") == "1":
        return "is loading its data: until it has, it answers -LOADING to tenants' commands"
    return ""


def _version(fields: Mapping[str, str]) -> str:
    if "valkey_version" in fields:
        return f"Valkey {fields['valkey_version']}"
    return f"Redis {fields.get('redis_version', 'of unknown version')}"
