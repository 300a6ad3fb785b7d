"""The control connection: asks Redis, with the master password, what it is.

Owns the questions that are not about one tenant's data: the version, and how many databases there are. It is a
txredisapi client, kept connected; it is not on the path of tenants' commands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import txredisapi
from twisted.application import service
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..core.tenants import Backend
from .backend import endpoint_for

#: Seconds after a refused log-in until the next try. What refuses is a password: haste would not help.
_RETRY = 5.0
#: Seconds to wait for an answer.
_ANSWER = 10


class _ControlFactory(txredisapi.RedisFactory):
    """One connection that is made again whenever it is lost."""

    def __init__(self, backend: Backend, connected: Callable, refused: Callable[[str], None]) -> None:
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

    def connectionError(self, why: str) -> None:
        super().connectionError(why)
        self._refused(why)


class ControlService(service.Service):
    """Tells how many databases Redis has, after each connection to it.

    told: called with that number, or None where Redis does not say.
    """

    name = "control"
    _log = Logger()

    def __init__(self, reactor: object, connect_timeout: float, ca_file: Path | None, told: Callable) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._told = told
        self._backend: Backend | None = None
        self._factory: _ControlFactory | None = None
        self._retry: IDelayedCall | None = None
        self._last_version = ""

    def use(self, backend: Backend | None) -> None:
        """Where Redis is from now on."""
        if backend == self._backend:
            return
        self._backend = backend
        self._disconnect()
        self._connect()

    def startService(self) -> None:
        super().startService()
        self._connect()

    def stopService(self) -> defer.Deferred:
        """Fires when it is disconnected."""
        super().stopService()
        return self._disconnect()

    def _disconnect(self) -> defer.Deferred:
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

    def _refused(self, why: str) -> None:
        # txredisapi gives up for good where a password is refused; but passwords are rotated.
        self._disconnect()
        self._retry_later()

    def _retry_later(self) -> None:
        if self.running:
            self._retry = self._reactor.callLater(_RETRY, self._connect)

    def _connected(self, connection: txredisapi.RedisProtocol) -> txredisapi.RedisProtocol:
        asking = defer.Deferred.fromCoroutine(self._ask(connection))
        asking.addErrback(self._failed)
        return connection

    def _failed(self, failure: Failure) -> None:
        if failure.check(txredisapi.RedisError):
            return  # it is gone already, and will be connected again
        self._log.failure("asking Redis what it is failed in a way that is a bug", failure)

    async def _ask(self, connection: txredisapi.RedisProtocol) -> None:
        version = _version(await connection.execute_command("INFO", "server"))
        try:
            answer = await connection.execute_command("CONFIG", "GET", "databases")
            databases = int(answer[1])
        except (txredisapi.ResponseError, IndexError, ValueError):
            databases = None  # hosted Redis often has no CONFIG
        if version != self._last_version:
            self._last_version = version
            self._log.info(
                "Redis is {version}, with {databases} databases",
                version=version,
                databases="an untold number of" if databases is None else databases,
            )
        self._told(databases)


def _version(info: object) -> str:
    """The name and version in an INFO answer."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "valkey_version" in fields:
        return f"Valkey {fields['valkey_version']}"
    return f"Redis {fields.get('redis_version', 'of unknown version')}"
