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

from .core.policy import make_policy
from .core.tenants import Directory
from .directory.holder import DirectoryHolder
from .net.admission import Admission
from .net.client import ClientFactory, Timeouts
from .net.control import ControlService, Server
from .net.lanes import LanePool
from .net.wall import Wall
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
        self._databases_told = databases_told
        self.directory = DirectoryHolder(reactor)
        self.control = ControlService(reactor, settings.connect_timeout, settings.redis_ca, self._server_told)
        self.wall = Wall(settings.acl, self.control)
        self.lanes = LanePool(
            reactor,
            self.wall,
            settings.base_workers,
            settings.worker_idle_timeout,
            settings.connect_timeout,
            settings.redis_ca,
        )
        #: the factory for clients' connections
        self.clients = ClientFactory(
            reactor,
            self.directory,
            self.control,
            self.wall,
            self.lanes,
            Admission(settings.max_workers, settings.work_queue_size),
            Outcomes(reactor),
            Timeouts(login=settings.login_timeout),
            settings.lanes == "shared",
            itertools.count(number, settings.processes),
        )
        self.directory.listeners += [self._settle, self._directory_changed]
        for part in (self.lanes, self.control, self.directory):
            part.setServiceParent(self)

    def use(self, directory: Directory) -> None:
        """It is in force from now on."""
        self.directory.use(directory)

    @staticmethod
    def descriptors(settings: Settings) -> int:
        """How many open files may be needed: a session takes two."""
        return 2 * settings.max_workers + settings.work_queue_size + settings.base_workers + 64

    # What the parts tell each other.

    def _directory_changed(self, directory: Directory) -> None:
        self.lanes.use(directory.backend)
        self.control.use(directory.backend)

    def _server_told(self, server: Server) -> None:
        """Redis is connected, perhaps another one than before."""
        settings = self._settings
        policy = make_policy(
            server.commands,
            scripts=self.wall.stands_on(server),
            databases=server.acl_databases,
            allow=settings.allow_commands,
            deny=settings.deny_commands,
        )
        if policy.unknown != self.clients.policy.unknown and policy.unknown:
            self._log.warn(
                "--allow-commands or --deny-commands names what this Redis does not have: {names}",
                names=", ".join(policy.unknown),
            )
        self.wall.use(server, policy)
        self.lanes.redis_told(policy.needs_wall)
        self.clients.use(policy)
        self._databases_told(server.databases)

    def _settle(self, directory: Directory) -> None:
        self.directory.listeners.remove(self._settle)
        settle()

    # Stopping.

    def shut_down(self) -> defer.Deferred:
        """Lets clients have what they are owed. Fires when the last one is gone."""
        return self.clients.shut_down()
