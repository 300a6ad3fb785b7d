"""The control connection: finds out what Redis is, and creates the tenants' users there.

Logs in with the master password. Owns what is known of Redis, and when Redis is asked again;
`probe` has the questions. Tenants' commands do not use this connection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from twisted.application import service
from twisted.internet import defer, task
from twisted.python.failure import Failure

from .. import bounds, messages
from ..net.reactor import IConnectingReactor
from ..net.time_limit import within
from ..net.waiters import Waiters
from ..ops.bugs import bug
from ..ops.log_once import Condition
from ..ops.logs import Log
from ..ops.retry import Backoff
from ..policy import probing
from ..policy.probing import Server
from ..printable import printable
from ..resp.value import Answer
from ..tenants.model import BackendAddress
from .client import Connection, ControlError, NoReplyError, RedisClient, ReplyError, Word
from .endpoint import endpoint_for, why
from .probe import Memory, Probe, Rights
from .redis_errors import is_busy

#: The delay before unanswered questions are asked again. It is short: where a tenant's scripts keep
#: Redis busy, there may be little time between two of them.
BACKOFF = Backoff(0.05, 1.0)


class ControlService(service.Service):
    """Keeps the control connection, and finds out what Redis is.

    on_server: called with a Server after each connection, before anything else is asked over it,
    and when more is known of it; acl: whether ACL users are wanted; rights: gives the commands that
    these users need the right to, on a server.
    """

    name = "control"
    _log = Log()

    def __init__(
        self,
        reactor: IConnectingReactor,
        connect_timeout: float,
        ca_file: Path | None,
        on_server: Callable[[Server], None],
        acl: bool = True,
        rights: Rights = lambda _: frozenset(),
    ) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._on_server = on_server
        self._acl = acl
        self._rights = rights
        self._address: BackendAddress | None = None
        #: the client of the present address; None if there is no address, or the service does not
        #: run
        self._client: RedisClient | None = None
        self._memory = Memory()
        #: the probe; None after Redis has answered all of it
        self._probing: defer.Deferred[None] | None = None
        #: what Redis was at the latest probe; None before the first
        self.server: Server | None = None
        #: whether Redis refuses to create tenants' users, though it allowed this before
        self.users_refused = False
        # What is logged: what Redis says of itself, and why it cannot be reached.
        self._state = Condition()
        self._unreachable = Condition()
        #: the connection over which Redis was probed; None if there is none
        self._connection: Connection | None = None
        self._waiting: Waiters[None] = Waiters()
        # The error of a Redis that is busy with a script, so that it cannot be probed; else empty.
        self._busy = ""
        #: called when the connection is lost; not when the proxy closes it
        self.lost: Callable[[], None] = lambda: None
        #: called each time that the connection was made, could not be made, or was lost
        self.changed: Callable[[RedisClient], object] = lambda _: None
        #: called with Redis's error while a script keeps it from being probed
        self.busy: Callable[[str], object] = lambda _: None

    @property
    def connected(self) -> bool:
        """Whether Redis is connected, and was probed."""
        return self._connection is not None

    @property
    def asking(self) -> bool:
        """Whether Redis is connected, and a probe is under way."""
        return self._probing is not None

    @property
    def busy_error(self) -> str:
        """Redis's error if it is busy with a script, and was never probed before; else empty."""
        return printable(self._busy) if self.server is None else ""

    @property
    def fault(self) -> messages.Text | None:
        """Why Redis cannot be asked, or cannot be used; None: nothing is known."""
        address = "Redis" if self._address is None else self._address.shown
        if self._unreachable.reason is not None:
            return messages.REDIS_NOT_ASKED(address=address, reason=self._unreachable.reason)
        return None if self._state.reason is None else messages.REDIS_IS(address=address, state=self._state.reason)

    def use(self, address: BackendAddress | None) -> None:
        """Connects to this address from now on."""
        if address == self._address:
            return
        self._address = address
        self._unreachable.over()
        self._state.over()
        self.reconnect()

    def reconnect(self) -> None:
        """Connects anew at once: the address may lead to another server by now."""
        self._disconnect()
        self._connect()

    def startService(self) -> None:
        super().startService()
        self._connect()

    def stopService(self) -> defer.Deferred[None]:
        """Fires when it is disconnected."""
        super().stopService()
        return self._disconnect()

    async def ask(self, *words: Word) -> Answer:
        """See `client.Commands`. Waits for the connection, at most for the connect time limit. Does
        not wait until Redis has ended a script that keeps it busy.
        """
        if self._connection is None:
            if self._busy:
                raise ReplyError(self._busy)
            try:
                await within(self._waiting.wait(), self._connect_timeout, self._reactor)
            except defer.TimeoutError:
                raise ControlError(messages.REDIS_NO_CONTROL_NOW()) from None
        if self._connection is None:
            raise ControlError(messages.REDIS_CONNECTION_LOST())
        return await self._connection.ask(*words)

    async def ask_unprobed(self, *words: Word) -> Answer:
        """Asks even if it is not known yet what Redis is, as while a script keeps it busy. Raises
        ControlError.
        """
        connection = None if self._client is None else self._client.connection
        if connection is None:
            raise ControlError(messages.REDIS_NO_CONTROL_NOW())
        return await connection.ask(*words)

    async def is_replica(self) -> bool:
        """Whether Redis calls itself a replica now. Raises ControlError."""
        return probing.is_replica(probing.fields(await self.ask("INFO", "replication")))

    def probe_again(self) -> None:
        """Probes Redis again, after a delay, because it refused to create a tenant's user."""
        if self._connection is not None and self._probing is None:
            self._start_probing(self._connection, again=True)

    def _connect(self) -> None:
        if self._address is None or not self.running:
            return
        self._client = RedisClient(
            self._reactor,
            self._address,
            partial(endpoint_for, self._reactor, self._address, self._connect_timeout, self._ca_file),
            self._connect_timeout,
            self._changed,
            name="redisproxy-control",
            reply_timeout=bounds.CONTROL_REPLY_SECONDS,
        )
        self._client.startService()

    def _disconnect(self) -> defer.Deferred[None]:
        self._connection = None
        self._busy = ""
        self._stop_probing()
        client, self._client = self._client, None
        return defer.succeed(None) if client is None else client.stopService()

    def _changed(self, client: RedisClient) -> None:
        if client is not self._client:
            return  # Redis is at another address now
        self.changed(client)
        if client.connection is not None:
            self._unreachable.over()
            self._start_probing(client.connection)
            return
        self._log_failure(client)
        self._busy = ""
        self._stop_probing()
        if self._connection is not None:
            self._connection = None
            self.lost()

    def _log_failure(self, client: RedisClient) -> None:
        """Logs why there is no connection, if the reason is new."""
        assert client.failure is not None, "or it would have a connection"  # noqa: S101
        reason = why(client.failure)
        if self._unreachable.fault(reason):
            self._log.write(messages.REDIS_NO_CONTROL, address=client.address.shown, reason=reason)

    def _start_probing(self, connection: Connection, again: bool = False) -> None:
        asking = self._probing = defer.Deferred.fromCoroutine(self._probe(connection, again))
        asking.addErrback(self._failed, connection)
        asking.addBoth(self._probed, asking)

    def _stop_probing(self) -> None:
        asking, self._probing = self._probing, None
        if asking is not None:
            asking.cancel()

    def _probed(self, _: object, asking: defer.Deferred[None]) -> None:
        if self._probing is asking:
            self._probing = None

    def _failed(self, failure: Failure, connection: Connection) -> None:
        if failure.check(NoReplyError) and self._is_current(connection):
            self._log_state(messages.REDIS_NOT_REPORTED_IN_TIME(seconds=bounds.CONTROL_REPLY_SECONDS))
        else:
            # ControlError: the connection is lost, and is made again. CancelledError: the probe was
            # given up.
            bug(self._log, "probing Redis", ControlError, defer.CancelledError)(failure)

    @property
    def _asked(self) -> BackendAddress:
        """The address of the Redis that is probed."""
        assert self._address is not None, "there is a connection to it"  # noqa: S101
        return self._address

    def _is_current(self, connection: Connection) -> bool:
        return self._client is not None and self._client.connection is connection

    async def _probe(self, connection: Connection, again: bool) -> None:
        """Asks until Redis has answered everything. Some answers can be used before that.

        again: asks about tenants' users alone, after a delay, because tenants may cause this.
        """
        if again:
            await task.deferLater(self._reactor, BACKOFF.longest)
        probe = Probe(connection.ask_all, self._asked.shown, self._memory, self._acl, self._rights, again)
        for failures in count(1):
            await probe.ask()
            if not self._is_current(connection):
                return
            self._use(probe, connection)
            if not probe.again:
                return
            await task.deferLater(self._reactor, BACKOFF.delay(failures))

    def _use(self, probe: Probe, connection: Connection) -> None:
        """Uses what is known so far."""
        state = probe.state
        if probe.again and state is None:
            state = messages.REDIS_NOT_REPORTED(reason=probing.explain(probe.again))
        self._log_state(state)
        self.users_refused = probe.users_refused
        server = probe.server
        self._busy = "" if server else next((error.text for error in probe.again.values() if is_busy(error.text)), "")
        if self._busy:
            self._waiting.fire(Failure(ReplyError(self._busy)))
            self.busy(self._busy)
        if server is None or (self._connection is connection and server == self.server):
            return
        if self.server is None or server.version != self.server.version:
            self._log.write(
                messages.REDIS_VERSION,
                version=server.version,
                databases="an unknown number of" if server.databases is None else server.databases,
            )
        self.server = server
        self._on_server(server)
        self._connection = connection
        self._waiting.fire(None)

    def _log_state(self, state: messages.Text | None) -> None:
        """Logs what the operator has to know of Redis, if it is new."""
        if state is None:
            self._state.over()
        elif self._state.fault(state):
            self._log.write(messages.REDIS_STATE, address=self._asked.shown, state=state)
