"""The clients of one process: the factory of their connections, and what these share.

Owns who is there, whose each is, and what happens to all of them at once: another Snapshot, another
policy, the end. One connection is `connection`'s business.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twisted.internet import task
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from .. import bounds
from ..net.addresses import shown_address
from ..net.rate_limit import TenantLimits
from ..net.time_limit import TimeLimit
from ..ops.access_log import AccessLog, ConnectionRecord
from ..ops.bugs import bug
from ..policy.policy import Policy
from ..tenants.account import Counts, increase
from ..tenants.login_backoff import LoginBackoff
from ..tenants.model import Snapshot, Tenant
from ..upstream.session_backend import SessionBackend
from .accounts import ClientAccount
from .admission import Admission
from .connection import ClientProtocol
from .snapshot import CurrentSnapshot


@dataclass(frozen=True, slots=True)
class Timeouts:
    """login: seconds from a client's place to its log-in."""

    login: float


class ClientFactory(Factory):
    """Makes a ClientProtocol for each connection, and holds what they share.

    numbers: of the connections, which nobody else gives.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        snapshot: CurrentSnapshot,
        backend: SessionBackend,
        admission: Admission,
        access_log: AccessLog,
        timeouts: Timeouts,
        counts: Counts | None = None,
        numbers: Iterator[int] | None = None,
        tenant_limits: TenantLimits | None = None,
    ) -> None:
        self.clock = clock
        self.tenant_limits = tenant_limits or TenantLimits(clock)
        self.snapshot = snapshot
        #: the Redis of the sessions
        self.backend = backend
        self.login_backoff = LoginBackoff()
        self._probing = task.LoopingCall(self._probe)
        self._probing.clock = clock
        self._making_room = task.LoopingCall(self._make_room)
        self._making_room.clock = clock
        self.admission = admission
        self.access_log = access_log
        #: for those that have not logged in
        self.log_ins: TimeLimit[ClientProtocol] = TimeLimit(clock, timeouts.login, ClientProtocol.login_timeout)
        self.login_timeout = timeouts.login
        self.clients: set[ClientProtocol] = set()
        #: the accounts of each tenant's clients, if it has any
        self.members: dict[Tenant, set[ClientAccount]] = {}
        #: called with how many there are, at each that comes or goes
        self.counted: Callable[[int], object] | None = None
        self.counts = counts or Counts()
        self._numbers = itertools.count(1) if numbers is None else numbers
        #: called at each client that goes, once it is asked for; none comes any more then
        self.drained: Callable[[], object] | None = None
        # Those that were revoked, and have still to be closed.
        self._revoked: list[ClientProtocol] = []
        self._closing: IDelayedCall | None = None
        snapshot.listeners.append(self._changed)

    @property
    def policy(self) -> Policy:
        """What tenants may do on the server as it is; sessions take it over at their log-in."""
        return self.backend.policy

    def startFactory(self) -> None:
        """The first port listens."""
        self._probing.start(bounds.PAUSED_CHECK_SECONDS, now=False)

    def stopFactory(self) -> None:
        """No port listens any more. Clients that are there are still served: those that were
        revoked are closed as ever.
        """
        for loop in (self._probing, self._making_room):
            if loop.running:
                loop.stop()
        self.log_ins.stop()

    def _probe(self) -> None:
        for client in list(self.clients):
            client.probe()

    def crowded(self) -> None:
        """Somebody waits for a place."""
        if not self._making_room.running:
            self._making_room.start(bounds.CROWDED_CHECK_SECONDS).addErrback(bug(self._log, "making room for whoever waits"))

    def _make_room(self) -> None:
        if self.admission.waiting:
            for client in self.log_ins.pop_overdue(bounds.CROWDED_LOGIN_SECONDS, self.admission.waiting):
                client.make_room()
        else:
            self._making_room.stop()

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol | None:
        if self.drained is not None:
            return None
        return ClientProtocol(self, next(self._numbers), addr)

    def untrusted(self, address: IAddress) -> None:
        """See `listen.proxy_protocol.ProxiedClients`. Such a connection gets no protocol, but it is
        counted and logged.
        """
        close_reason = "untrusted-proxy"
        increase(self.counts.ended, close_reason)
        self.access_log.ended(
            ConnectionRecord(
                number=next(self._numbers),
                peer=shown_address(address),
                namespace=None,
                secret=None,
                seconds=0.0,
                commands=0,
                refused=0,
                close_reason=close_reason,
                detail="its address is not in --trust-proxy",
            )
        )

    def drain(self, on_disconnected: Callable[[], object]) -> None:
        """Nobody is taken any more. on_disconnected: called now, and at each client that goes."""
        self.drained = on_disconnected
        on_disconnected()

    def client_connected(self, client: ClientProtocol) -> None:
        """A client is connected."""
        self.clients.add(client)
        if self.counted is not None:
            self.counted(len(self.clients))

    def client_disconnected(self, client: ClientProtocol) -> None:
        """A client's connection is gone."""
        self.clients.discard(client)
        if self.counted is not None:
            self.counted(len(self.clients))
        if self.drained is not None:
            self.drained()

    def use(self, policy: Policy, everywhere: bool = False) -> None:
        """What tenants may do from now on.

        everywhere: Redis is the same as before, and its users have the rights: also for sessions
        with an upstream connection to themselves. One with the master's rights is from a time when
        Redis held no limits, and its session keeps its policy.
        """
        self.backend.policy = policy
        for client in list(self.clients):
            client.session.policy_changed(dedicated=everywhere and client.has_acl_user)

    def _changed(self, snapshot: Snapshot) -> None:
        self.counts.keep(snapshot.namespaces)
        self.tenant_limits.use(snapshot.limits, snapshot.namespaces)
        self._revoke(snapshot)

    def _revoke(self, snapshot: Snapshot) -> None:
        """From this moment on no session sends a command whose credential is not good any more."""
        now = self.snapshot.wall_clock()
        # All in this one turn, however many there are: most have a credential that is in the new
        # one as it is.
        good = {id(credential) for credential in snapshot.credentials if credential.valid_at(now)}
        for client in list(self.clients):
            session = client.session
            if session.pending_login is None and (session.credential is None or id(session.credential) in good):
                continue
            if session.ending.recheck(lambda credential: snapshot.renewed(credential, now)):
                self._revoked.append(client)
        if self._closing is None:
            self._close_revoked()

    def _close_revoked(self) -> None:
        """Some of them now, the others in the turns that follow: thousands at once would keep
        everybody waiting.
        """
        for client in self._revoked[: bounds.REVOKED_PER_TURN]:
            if client in self.clients:
                client.end_revoked()
        del self._revoked[: bounds.REVOKED_PER_TURN]
        self._closing = self.clock.callLater(0, self._close_revoked) if self._revoked else None
