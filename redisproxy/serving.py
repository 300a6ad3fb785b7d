"""What serves clients in one process: sessions, lanes, the control connection, and the Directory in force.

Owns the wiring of these. Directories come from outside, by `use`; where clients come from is the business of
`net.listening`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from twisted.application import service
from twisted.internet import defer
from twisted.logger import Logger

from .core import tally
from .core.policy import make_policy
from .core.tenants import Directory
from .directory.holder import DirectoryHolder
from .net.admission import Admission
from .net.client import STATES
from .net.clients import ClientFactory, Timeouts
from .net.control import ControlService, Server
from .net.drain import Drain
from .net.lanes import LanePool
from .net.limiting import Allowances
from .net.master import MasterService
from .net.questions import Questions
from .net.sampling import Sampler
from .net.wall import Wall
from .ops.figures import REDIS_BOUNDS, Counts, Histogram, RedisState, TenantCounts
from .ops.outcomes import Outcomes
from .process import settle
from .settings import Settings


class Serving(service.MultiService):
    """Serves the clients of one process.

    settings: this process's share of what is set for all; databases_told: called with how many databases Redis has, None
    where it does not tell, at each connection to it; number: which of the processes it is, from 1 on.
    """

    name = "serving"
    _log = Logger()

    def __init__(
        self, settings: Settings, reactor: object, databases_told: Callable[[int | None], object], number: int = 1
    ) -> None:
        super().__init__()
        self._settings = settings
        self._reactor = reactor
        self._databases_told = databases_told
        self.directory = DirectoryHolder(reactor)
        self.control = ControlService(reactor, settings.connect_timeout, settings.redis_ca, self._server_told)
        self.wall = Wall(settings.acl, self.control)
        counted = tally.Counts()
        self.allowances = Allowances(reactor, settings.processes)
        self.lanes = LanePool(
            reactor,
            self.wall,
            settings.base_workers,
            settings.worker_idle_timeout,
            settings.connect_timeout,
            settings.redis_ca,
            counted,
            self.allowances,
        )
        self.master = MasterService(
            reactor, settings.connect_timeout, settings.redis_ca, self.control, self.wall, self.lanes
        )
        outcomes = Outcomes(reactor, settings.log_level == "debug", settings.processes)
        #: the factory for clients' connections
        self.clients = ClientFactory(
            reactor,
            self.directory,
            Questions(reactor, self.lanes),
            self.wall,
            self.lanes,
            Admission(settings.max_workers, settings.work_queue_size),
            outcomes,
            Timeouts(login=settings.login_timeout),
            settings.lanes == "shared",
            numbers=itertools.count(number, settings.processes),
            counts=counted,
            allowances=self.allowances,
        )
        self._redis_seconds = Histogram(REDIS_BOUNDS)
        self.sampler = Sampler(reactor, lambda: self.lanes.shared, self._redis_seconds.observe)
        self.directory.listeners += [self._settle, self._directory_changed]
        for part in (self.lanes, self.control, self.master, self.directory, self.sampler, outcomes):
            part.setServiceParent(self)

    def use(self, directory: Directory) -> None:
        """It is in force from now on."""
        self.directory.use(directory)

    @staticmethod
    def descriptors(settings: Settings) -> int:
        """How many open files may be needed: a session takes two."""
        return 2 * settings.max_workers + settings.work_queue_size + settings.base_workers + 64

    # What is told of it.

    def counts(self) -> Counts:
        """What was counted, and what there is of what can be counted."""
        counts = self.clients.counts
        clients = self.clients.clients
        sessions = dict.fromkeys(STATES, 0)
        for client in clients:
            client.tally()
            sessions[client.state] += 1
        self.lanes.tally()
        tenants: dict[str, TenantCounts] = {
            namespace: {
                "sessions": 0,
                "commands": counted.by_family(),
                "refused": dict(counted.refused),
                "received": counted.received,
                "replied": counts.replied.get(namespace, 0),
                "turned_away": counted.turned_away,
                **self.allowances.figures(namespace),
            }
            for namespace, counted in counts.tallies.items()
        }
        in_flight = 0
        for client in clients:
            in_flight += client.session.outstanding
            credential = client.session.credential
            if credential is not None and credential.tenant.namespace in tenants:
                tenants[credential.tenant.namespace]["sessions"] += 1
        shared, idle = len(self.lanes.shared), self.lanes.idle
        return {
            "sessions": sessions,
            "logins": dict(counts.logins),
            "ended": dict(counts.ended),
            "lanes": {"shared": shared, "idle": idle, "dedicated": max(0, len(self.lanes) - shared - idle)},
            "in_flight": in_flight,
            "redis_seconds": self._redis_seconds.figures(),
            "tenants": tenants,
        }

    def report(self) -> dict[str, object]:
        """All that is told of it, as JSON can hold it."""
        return {"counts": self.counts(), "redis": self.redis(), "unready": self.unready()}

    def redis(self) -> RedisState:
        """What is known of Redis."""
        server = self.control.server
        backend = self.master.backend
        return {
            "connected": self.control.connected,
            "address": "" if backend is None else backend.address,
            "version": "" if server is None else server.version,
            "databases": None if server is None else server.databases,
            "walls": 0 if server is None else 1 + self.wall.stands_on(server),
        }

    def unready(self) -> str:
        """Why no client should come; empty: there is no reason."""
        if self.directory.directory is None:
            return "no credentials have been read yet"
        if self.directory.directory.backend is None:
            return "the master secret, which says where Redis is, has not been read yet"
        if not self.control.connected:
            return "Redis does not answer"
        if not self.wall.serves:
            return "Redis has no ACL users for tenants, and --acl is require"
        return ""

    # What the parts tell each other.

    def _directory_changed(self, directory: Directory) -> None:
        self.master.use(directory.backend)

    def _server_told(self, server: Server) -> None:
        """Redis is connected, perhaps another one than before."""
        settings = self._settings
        policy = make_policy(
            server.commands,
            scripts=self.wall.stands_on(server),
            databases=server.acl_databases,
            allow=settings.allow_commands,
            deny=settings.deny_commands,
            before_7=server.before_7,
            sealed=bool(server.sealed),
        )
        if policy.unknown != self.clients.policy.unknown and policy.unknown:
            self._log.warn(
                "--allow-commands or --deny-commands names what this Redis does not have: {names}",
                names=", ".join(policy.unknown),
            )
        if policy.exposed != self.clients.policy.exposed:
            for command, what in policy.exposed:
                self._log.warn("--allow-commands opens {command}: {what}", command=command, what=what)
        self.wall.use(server, policy)
        self.lanes.redis_told(policy.needs_wall)
        self.clients.use(policy)
        self.master.told(server)
        self._databases_told(server.databases)

    def _settle(self, directory: Directory) -> None:
        self.directory.listeners.remove(self._settle)
        settle()

    # Stopping.

    def shut_down(self) -> defer.Deferred:
        """Has clients leave, after what they have begun. Fires when the last one is gone."""
        return Drain(self._reactor, self.clients, self.control, self._settings.drain_seconds).start()
