"""The drain of one process: when each client is asked to leave, and what happens to those that are
still busy at the end.

Owns these times, and how a blocked command is given up without losing the item that it may have
taken. `session.ending` decides what a session still finishes.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet import defer, task
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages
from ..ops.bugs import bug
from ..ops.logs import Log
from ..policy import acl
from ..session.ports import Dedicated
from ..upstream.client import Commands, ControlError
from .connection import ClientProtocol
from .factory import ClientFactory


class Drain:
    """Has all clients of a factory leave within so many seconds.

    control: the connection over which Redis is asked to unblock blocked commands.
    """

    _log = Log()

    def __init__(self, clock: IReactorTime, factory: ClientFactory, control: Commands, seconds: float) -> None:
        self._clock = clock
        self._factory = factory
        self._clients = factory.clients
        self._control = control
        self._seconds = seconds
        self._began = 0.0
        self._to_come: list[ClientProtocol] = []
        self._at_once = 0
        self._turns = task.LoopingCall(self._take_turn)
        self._turns.clock = clock
        self._timers: list[IDelayedCall] = []
        # Connections whose blocked commands have to end, and when that is next.
        self._blocked: list[Dedicated] = []
        self._unblocking: IDelayedCall | None = None
        self._count = 0
        self._over: defer.Deferred[None] = defer.Deferred()

    def start(self) -> defer.Deferred[None]:
        """Starts the drain. The Deferred fires when the last client is gone."""
        self._began = self._clock.seconds()
        clients = list(self._clients)
        self._count = len(clients)
        busy = sum(client.session.outstanding > 0 for client in clients)
        self._log.write(
            messages.DRAIN_BEGINS,
            sessions=len(clients),
            busy=busy,
            seconds=self._seconds,
        )
        self._factory.drain(self._on_disconnected)
        if self._over.called:
            return self._over
        last = min(bounds.DRAIN_MARGIN_SECONDS, self._seconds / 4)
        self._timers = [
            self._clock.callLater(self._seconds - last, self._hurry),
            self._clock.callLater(self._seconds, self._cut),
        ]
        # A client that is not logged in has nothing to finish. One that waits for a slot must not
        # get it now.
        for client in clients:
            if client.state in ("waiting", "unauthenticated"):
                client.drain()
            else:
                self._to_come.append(client)
        turns = int(min(self._seconds / 2, len(self._to_come) / bounds.DRAINED_PER_SECOND) / bounds.DRAIN_TURN_SECONDS)
        self._at_once = -(-len(self._to_come) // max(1, turns))
        if self._to_come:
            self._turns.start(bounds.DRAIN_TURN_SECONDS).addErrback(bug(self._log, "a turn of the drain"))
        return self._over

    def _on_disconnected(self) -> None:
        if self._clients or self._over.called:
            return
        if self._turns.running:
            self._turns.stop()
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._log.write(
            messages.DRAINED,
            sessions=self._count,
            seconds=self._clock.seconds() - self._began,
            cut_off=self._factory.counts.ended.get(messages.CUT_OFF.code, 0),
        )
        self._over.callback(None)

    def _take_turn(self) -> None:
        for client in self._to_come[: self._at_once]:
            if client in self._clients:
                client.drain()
                if (upstream := client.unblock()) is not None:
                    self._blocked.append(upstream)
        del self._to_come[: self._at_once]
        if not self._to_come and self._turns.running:
            self._turns.stop()
        if self._blocked and self._unblocking is None:
            self._unblock_some()

    def _unblock_some(self) -> None:
        """Ends the blocked commands of the latest turns. CLIENT LIST is not asked in each turn."""
        self._unblocking = None
        if self._blocked:
            blocked, self._blocked = self._blocked, []
            self._unblock_soon(blocked)
            self._unblocking = self._clock.callLater(bounds.DRAIN_UNBLOCK_SECONDS, self._unblock_some)
            self._timers.append(self._unblocking)

    def _unblock_soon(self, upstreams: Sequence[Dedicated]) -> None:
        defer.Deferred.fromCoroutine(self._unblock(upstreams)).addErrback(bug(self._log, "unblocking blocked commands"))

    def _hurry(self) -> None:
        # A connection to Redis that is paused for its tenant's rate would hold back replies to
        # commands that Redis has run, a popped item for example.
        self._factory.tenant_limits.lift()
        upstreams = [upstream for client in list(self._clients) if (upstream := client.hurry()) is not None]
        if upstreams:
            self._unblock_soon(upstreams)
            # Behind a blocked command may stand another one.
            self._timers.append(self._clock.callLater(bounds.DRAIN_UNBLOCK_SECONDS / 2, self._hurry))

    def _cut(self) -> None:
        for client in list(self._clients):
            client.cut_off()

    # Redis must not send an item that a BLPOP took to a connection that is being closed. Only Redis
    # knows whether the BLPOP took one.

    async def _unblock(self, upstreams: Sequence[Dedicated]) -> None:
        """Has Redis answer the blocked commands now.

        Where that is not possible, half closes the connection to Redis instead.
        """
        # Some were answered, or are gone, since their sessions' turns.
        upstreams = [upstream for upstream in upstreams if upstream.waits]
        known = {upstream.local_address: upstream for upstream in upstreams}
        known.pop("", None)
        found: dict[Dedicated, str] = {}
        if known and self._control.connected:
            try:
                answer = await self._control.ask("CLIENT", "LIST", "TYPE", "normal")
            except ControlError:
                answer = b""
            listed = answer if isinstance(answer, bytes) else b""
            for line in listed.decode("utf-8", "replace").splitlines():
                client = dict(field.partition("=")[::2] for field in line.split(" "))
                upstream = known.get(client.get("addr", ""))
                if upstream is None:
                    continue
                # If addresses are translated on the way, this may be the address of another client.
                user = acl.username(upstream.tenant) if upstream.has_acl_user and upstream.tenant is not None else None
                if user is None or client.get("user") == user:
                    found[upstream] = client.get("id", "")
        await defer.gatherResults(
            [defer.Deferred.fromCoroutine(self._unblock_one(upstream, found.get(upstream))) for upstream in upstreams]
        )

    async def _unblock_one(self, upstream: Dedicated, number: str | None) -> None:
        if not upstream.waits:
            # It was answered meanwhile, or given up. After an UNBLOCK, Redis would run what stands
            # behind the command of a revoked session.
            return
        if number is not None:
            try:
                await self._control.ask("CLIENT", "UNBLOCK", number, "ERROR")
                return
            except ControlError:
                pass
        upstream.give_up(blocked=True)
