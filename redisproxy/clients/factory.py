"""The clients of one process: the factory of their connections, and what these share.

Owns the set of clients, the accounts of each tenant, and what happens to all clients at once: a new
Snapshot, a new policy, the drain. `connection` owns a single connection.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Set
from dataclasses import dataclass

from twisted.internet import task
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from .. import bounds, messages
from ..net.addresses import shown_address
from ..net.rate_limit import TenantLimits
from ..net.time_limit import TimeLimit
from ..ops.access_log import AccessLog, ConnectionRecord
from ..ops.bugs import bug
from ..policy.policy import Policy
from ..tenants.account import Counts, increase
from ..tenants.login_backoff import LoginBackoff
from ..tenants.memory import Memory
from ..tenants.model import Snapshot, Tenant
from ..tenants.work import WorkQueue
from ..upstream.session_backend import SessionBackend
from .accounts import ClientAccount
from .admission import Admission
from .connection import ClientProtocol
from .kernel_watch import KernelWatch
from .memory_watch import MemoryWatch
from .own_sessions import OwnSessions
from .snapshot import CurrentSnapshot


@dataclass(frozen=True, slots=True)
class Timeouts:
    """login: seconds that a client has from its arrival to its log-in."""

    login: float


class ClientFactory(Factory):
    """Makes a ClientProtocol for each connection, and has what they share.

    numbers: the connections' numbers; no other factory gives the same ones. memory: bytes that the
    process may use, of which clients may use a part; None: no limit.
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
        memory: int | None = None,
    ) -> None:
        self.clock = clock
        #: the memory that clients use
        self.memory = Memory(memory, lambda call: clock.callLater(0, call))
        self._memory_watch = MemoryWatch(clock, self.memory)
        #: the work for clients' commands
        self.work = WorkQueue(clock.seconds, lambda call: clock.callLater(0, call))
        self.tenant_limits = tenant_limits or TenantLimits(clock)
        self.snapshot = snapshot
        #: the Redis of the sessions
        self.backend = backend
        self.login_backoff = LoginBackoff()
        self._probing = task.LoopingCall(self._probe)
        self._probing.clock = clock
        # Clients that were paused, and perhaps go on by now, and those that sent their end of file.
        self._watched: set[ClientProtocol] = set()
        self._probing_blocked = task.LoopingCall(self._probe_blocked)
        self._probing_blocked.clock = clock
        self.admission = admission
        self.access_log = access_log
        #: the login deadlines of clients that are not logged in
        self.log_ins: TimeLimit[ClientProtocol] = TimeLimit(clock, timeouts.login, ClientProtocol.login_timeout)
        self.login_timeout = timeouts.login
        self.clients: set[ClientProtocol] = set()
        self._kernel_watch = KernelWatch(clock, self.clients, self.memory)
        #: the accounts of each tenant's clients, if it has any
        self.members: dict[Tenant, set[ClientAccount]] = {}
        self.own_sessions = OwnSessions(clock, self.members)
        #: called with the number of clients, each time one is connected or gone
        self.counted: Callable[[int], object] | None = None
        self.counts = counts or Counts()
        self._numbers = itertools.count(1) if numbers is None else numbers
        #: called each time a client is gone; once it is set, no new client is accepted
        self.drained: Callable[[], object] | None = None
        self._paused: Set[Tenant] = frozenset()
        # Clients that were revoked, or whose tenants were paused, and that are not closed yet.
        self._revoked: list[ClientProtocol] = []
        self._closing: IDelayedCall | None = None
        snapshot.listeners.append(self._changed)

    @property
    def policy(self) -> Policy:
        """What tenants may do on the server as it is. Sessions take it over at their log-in."""
        return self.backend.policy

    def startFactory(self) -> None:
        """Called by Twisted when the first port is bound."""
        self._probing.start(bounds.PAUSED_CHECK_SECONDS, now=False)

    def stopFactory(self) -> None:
        """Called by Twisted when no port listens any more.

        Connected clients are still served, and revoked ones are still closed.
        """
        for loop in (self._probing, self._probing_blocked):
            if loop.running:
                loop.stop()
        self.log_ins.stop()

    def _probe(self) -> None:
        for client in list(self.clients):
            client.probe()

    def watch(self, client: ClientProtocol) -> None:
        """A client is not read from now on, or sent its end of file."""
        self._watched.add(client)
        if not self._probing_blocked.running:
            self._probing_blocked.start(bounds.BLOCKED_CHECK_SECONDS, now=False).addErrback(
                bug(self._log, "finding blocked clients that left")
            )

    def _probe_blocked(self) -> None:
        for client in list(self._watched):
            if not (client.held or client.sent_eof):
                self._watched.discard(client)
            elif client.session.blocked or client.session.held:
                client.probe()
        self._stop_probing()

    def _stop_probing(self) -> None:
        if not self._watched and self._probing_blocked.running:
            self._probing_blocked.stop()

    def logPrefix(self) -> str:
        """Returns the name of the port in Twisted's log line when it opens, which is shown at debug
        level.
        """
        return "The port for clients"

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol | None:
        if self.drained is not None:
            return None
        return ClientProtocol(self, next(self._numbers), addr)

    def untrusted(self, address: IAddress) -> None:
        """See `listen.proxy_protocol.ProxiedClients`. Such a connection gets no protocol, but it is
        counted and logged.
        """
        close_reason = messages.UNTRUSTED_PROXY.code
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
        """Accepts no more clients. on_disconnected: called now, and each time a client is gone."""
        self.drained = on_disconnected
        on_disconnected()

    def client_connected(self, client: ClientProtocol) -> None:
        """A client is connected."""
        if not self.clients:
            self._kernel_watch.start()
        self.clients.add(client)
        if self.counted is not None:
            self.counted(len(self.clients))

    def client_disconnected(self, client: ClientProtocol) -> None:
        """A client's connection is gone."""
        self.clients.discard(client)
        if not self.clients:
            self._memory_watch.stop()
            self._kernel_watch.stop()
        if client in self._watched:
            self._watched.discard(client)
            self._stop_probing()
        if self.counted is not None:
            self.counted(len(self.clients))
        if self.drained is not None:
            self.drained()

    def use(self, policy: Policy, everywhere: bool = False) -> None:
        """Puts a policy in force.

        everywhere: True if Redis is the same as before and its ACL users have the new rights. Then
        the policy also holds for sessions with a dedicated connection, if that is logged in as an
        ACL user. A dedicated connection with the master's rights was opened before Redis enforced
        limits; its session keeps its policy.
        """
        self.backend.policy = policy
        for client in list(self.clients):
            client.session.policy_changed(dedicated=everywhere and client.has_acl_user)

    def scripts_changed(self, tenants: Collection[Tenant]) -> None:
        """Whether these tenants may run scripts has changed: the backend knows already."""
        for client in list(self.clients):
            credential = client.session.credential
            if credential is not None and credential.tenant in tenants:
                client.session.scripts_changed()

    def tables_changed(self, tenants: Collection[Tenant]) -> None:
        """Which commands of these tenants are slow has changed: the backend knows already."""
        for client in list(self.clients):
            credential = client.session.credential
            if credential is not None and credential.tenant in tenants:
                client.session.use_table()

    def _changed(self, snapshot: Snapshot) -> None:
        self.counts.keep(snapshot.namespaces)
        self.tenant_limits.use(snapshot.limits, snapshot.namespaces)
        self.work.keep(snapshot.namespaces)
        self._revoke(snapshot)
        for client in list(self.clients):
            session = client.session
            if session.tracking and not (session.ended or snapshot.limits_of(session.tenant.namespace).client_tracking):
                session.close_for_tracking()
        self._pause(snapshot.paused_tenants)
        if self._closing is None:
            self._close_revoked()

    def _pause(self, tenants: Set[Tenant]) -> None:
        """These tenants are paused from now on. The backend knows already.

        No session of theirs sends a command after this call.
        """
        begins, self._paused = tenants - self._paused, tenants
        if begins:
            for client in list(self.clients):
                credential = client.session.credential
                if credential is not None and credential.tenant in begins and client.session.pause():
                    self._revoked.append(client)

    def _revoke(self, snapshot: Snapshot) -> None:
        """Revokes all sessions whose credential is not valid any more.

        No such session sends a command after this call. So all sessions are compared in this one
        turn of the reactor, however many there are.
        """
        now = self.snapshot.wall_clock()
        # Fast for most sessions: the new snapshot has the same Credential object.
        good = {id(credential) for credential in snapshot.credentials if credential.valid_at(now)}
        for client in list(self.clients):
            session = client.session
            if session.pending_login is None and (session.credential is None or id(session.credential) in good):
                continue
            if session.ending.recheck(lambda credential: snapshot.renewed(credential, now)):
                self._revoked.append(client)

    def _close_revoked(self) -> None:
        """Closes REVOKED_PER_TURN revoked clients now, and the others in later turns.

        To close thousands in one turn would keep all other clients waiting.
        """
        for client in self._revoked[: bounds.REVOKED_PER_TURN]:
            if client in self.clients:
                client.end_revoked()
        del self._revoked[: bounds.REVOKED_PER_TURN]
        self._closing = self.clock.callLater(0, self._close_revoked) if self._revoked else None
