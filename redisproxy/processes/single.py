"""Serves clients in one process: their sessions and the snapshot in force, wired to one Redis.

Owns this wiring. `use_snapshot` gets the snapshots. `listen.endpoints` accepts clients, and
`upstream.backend` owns all that belongs to Redis.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection

from twisted.application import service
from twisted.internet import defer

from .. import messages
from ..clients.admission import Admission, room_for_log_ins
from ..clients.connection import STATES
from ..clients.drain import Drain
from ..clients.factory import ClientFactory, Timeouts
from ..clients.snapshot import CurrentSnapshot
from ..listen.endpoints import Listening
from ..listen.tls import Material
from ..net.rate_limit import TenantLimits
from ..net.reactor import IProxyReactor
from ..ops.access_log import AccessLog
from ..ops.stats import Counts, RedisState, TenantStats, WorkersState
from ..settings import Settings
from ..tenants import account
from ..tenants.documents import ReadSummary
from ..tenants.model import Snapshot
from ..upstream.backend import Backend
from .merge import Report
from .os_process import memory_limit, raise_descriptor_limit, settle


class Serving(service.MultiService):
    """Serves the clients of one process. See `ports.ServingPort`.

    settings: this process's part of the settings; databases_reported: called at each connection to
    Redis with the number of databases, None if Redis does not say; number: of this process, from 1.
    """

    name = "serving"

    def __init__(
        self, settings: Settings, reactor: IProxyReactor, databases_reported: Callable[[int | None], object], number: int = 1
    ) -> None:
        super().__init__()
        self._settings = settings
        self._reactor = reactor
        self.snapshot = CurrentSnapshot(reactor)
        counted = account.Counts()
        self.tenant_limits = TenantLimits(reactor, settings.processes)
        self.backend = Backend(settings, reactor, counted, self.tenant_limits, number)
        self.backend.databases_reported = databases_reported
        access_log = AccessLog(reactor, settings.log_level == "debug", settings.processes)
        #: the factory for clients' connections
        self.clients = ClientFactory(
            reactor,
            self.snapshot,
            self.backend.sessions,
            Admission(settings.max_workers, settings.work_queue_size),
            access_log,
            Timeouts(login=settings.login_timeout),
            numbers=itertools.count(number, settings.processes),
            counts=counted,
            tenant_limits=self.tenant_limits,
            memory=settings.memory or memory_limit() // settings.processes,
        )
        self.backend.policy_changed = self.clients.use
        self.backend.scripts.rights.changed = self.clients.scripts_changed
        self.backend.sessions.slow_commands.changed = self.clients.tables_changed
        self.on_snapshot = self.snapshot.listeners
        self.on_snapshot.append(self._settle)
        for part in (self.backend, self.snapshot, access_log):
            part.setServiceParent(self)

    def bind(self, listening: Listening) -> None:
        """See `ports.ServingPort`."""
        self.raise_descriptor_limit(self._settings)
        listening.bind(self.clients)

    @staticmethod
    def raise_descriptor_limit(settings: Settings) -> None:
        """Raises the limit of open files to what may be needed. A session takes two. There may be
        as many connections that are closing as have room to log in.
        """
        room = 2 * room_for_log_ins(settings.max_workers)
        needed = 2 * settings.max_workers + settings.work_queue_size + room + settings.base_workers + 64
        raise_descriptor_limit(needed, "--max-workers and --work-queue-size")

    def show_certificates(self, material: Callable[[], list[Material]]) -> None:
        """See `ports.ServingPort`. Does nothing: the endpoints are in this process and have the
        material.
        """

    def use_snapshot(self, snapshot: Snapshot, elsewhere: Collection[int] = ()) -> None:
        """Puts a snapshot in force. After this returns, no command is sent for a credential that is
        not valid any more.

        elsewhere: see `ConnectionPool.use_tenants`.
        """
        self.backend.use_snapshot(snapshot, elsewhere)
        self.snapshot.use(snapshot)

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """See `ports.ServingPort`."""
        self.backend.take_read(summary, began)

    # Stats.

    def collect_stats(self) -> None:
        """See `ports.ServingPort`. Does nothing: this process always counts."""

    def stats(self) -> Counts:
        """Returns what was counted, and how many sessions, connections and pending replies there
        are now.
        """
        counts = self.clients.counts
        clients = self.clients.clients
        sessions = dict.fromkeys(STATES, 0)
        for client in clients:
            client.account.add_up()
            sessions[client.state] += 1
        self.backend.pool.add_up()
        latency = self.backend.tenant_latency
        tenants: dict[str, TenantStats] = {
            namespace: {
                "sessions": 0,
                "commands": counted.by_family(),
                "refused": dict(counted.refused),
                "refused_names": dict(counted.refused_names),
                "received": counted.received,
                "replied": counts.replied.get(namespace, 0),
                "turned_away": counted.turned_away,
                "wrong": counted.wrong,
                "scripts_ended": counted.scripts_ended,
                "slow_commands": counted.slow_commands,
                "slow_seconds": counted.slow_seconds,
                "slow_confirmed": counted.slow_confirmed,
                **self.tenant_limits.stats(namespace),
                "memory": self.clients.memory.of(namespace),
                "latency": latency[namespace].samples() if namespace in latency else {"counts": {}, "sum": 0.0},
            }
            for namespace, counted in counts.by_tenant.items()
        }
        in_flight = 0
        for client in clients:
            in_flight += client.session.outstanding
            credential = client.session.credential
            if credential is not None and credential.tenant.namespace in tenants:
                tenants[credential.tenant.namespace]["sessions"] += 1
        return {
            "sessions": sessions,
            "logins": dict(counts.logins),
            "refused_names": dict(counts.refused_names),
            "ended": dict(counts.ended),
            "connections": self.backend.connections(),
            "in_flight": in_flight,
            "memory": self.clients.memory.size,
            "memory_limit": int(self.clients.memory.bound),
            "redis_seconds": self.backend.latency.stats(),
            "tenants": tenants,
        }

    def report(self) -> Report:
        """Returns all stats in a form that JSON can hold."""
        unready = self.not_ready()
        return {
            "counts": self.stats(),
            "redis": self.redis(),
            "unready": unready or "",
            "unready_code": "" if unready is None else unready.code,
        }

    def redis(self) -> RedisState:
        """See `ports.ServingPort`."""
        return self.backend.state()

    def workers(self) -> WorkersState | None:
        """See `ports.ServingPort`."""
        return None

    def not_ready(self) -> messages.Text | None:
        """See `ports.ServingPort`."""
        return messages.NO_CREDENTIALS() if self.snapshot.snapshot is None else self.backend.not_ready()

    def _settle(self, _: Snapshot) -> None:
        self.on_snapshot.remove(self._settle)
        settle()

    # Stopping.

    def drain(self) -> defer.Deferred[None]:
        """See `ports.ServingPort`."""
        return Drain(self._reactor, self.clients, self.backend.control, self._settings.drain_seconds).start()

    def kill(self) -> None:
        """See `ports.ServingPort`. Does nothing: there are no workers."""
