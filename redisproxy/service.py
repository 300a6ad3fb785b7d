"""The whole proxy as one Twisted service: what it consists of, and how it starts and stops.

Owns the wiring: settings become explicit arguments of the parts, and the parts know nothing of settings.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import signal
import sys
from functools import partial

from twisted.application import service
from twisted.internet import defer
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from .core import resp
from .core.enrolment import Enrolment
from .core.policy import make_policy
from .core.tenants import Directory
from .directory.cluster import ClusterSource
from .directory.current import DirectoryService, Source
from .directory.manifests import ManifestsSource
from .embedded import EmbeddedError, EmbeddedRedis
from .net.admission import Admission
from .net.client import ClientFactory, Timeouts, shown_address
from .net.control import ControlService, Server
from .net.lanes import LanePool
from .net.master import MasterService
from .net.wall import Wall
from .ops.logs import observer
from .ops.outcomes import Outcomes
from .quickstart import tour
from .settings import Settings, SettingsError

#: Connections that the kernel may hold for us while we are busy; it takes less where net.core.somaxconn is lower.
BACKLOG = 4096
#: Seconds that another thread may run Python while the reactor waits for its turn; Python's own 5 ms are felt by clients.
SWITCH_INTERVAL = 0.001


#: Bytes of free memory that the C library keeps, rather than give it to the system and take it again for each large read.
KEPT_FREE = 8 * 1024 * 1024
# mallopt's names for it (malloc.h of glibc): what is kept, and from what size on a block is the system's.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_free_memory() -> None:
    """Large reads need no new pages from the system. Where the C library has no mallopt, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)
        mallopt(_M_MMAP_THRESHOLD, KEPT_FREE)


def settle() -> None:
    """What is in memory by now stays: it is taken from the garbage collector, each full run of which stops the process."""
    gc.collect()
    gc.freeze()


class StartError(SystemExit):
    """The proxy cannot start. twistd ends with status 1, and this one line on the standard error."""

    def __init__(self, text: str) -> None:
        super().__init__(f"redisproxy: {text}")


class ProxyService(service.MultiService):
    """The proxy. Raises SettingsError for what only shows when the parts are made."""

    _log = Logger()

    def __init__(self, settings: Settings, reactor: object) -> None:
        super().__init__()
        self._settings = settings
        self._reactor = reactor
        self._endpoints = []
        for description in settings.listen:
            try:
                self._endpoints.append(serverFromString(reactor, _with_backlog(description)))
            except Exception as error:
                raise SettingsError(
                    f"--listen is {description!r} ({error}); it takes a Twisted endpoint such as tcp:6379"
                ) from None
        self._ports: list[IListeningPort] = []
        self.source = self._make_source()
        embedded = None
        if settings.embedded:
            try:
                embedded = EmbeddedRedis(died=self._stop_reactor)
            except EmbeddedError as error:
                raise SettingsError(str(error)) from None
            embedded.setServiceParent(self)
        self.directory = DirectoryService(
            reactor,
            self.source,
            Enrolment(settings.redis_secret, settings.master, None if embedded is None else embedded.backend),
            settings.refresh,
        )
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
        self.master = MasterService(
            reactor, settings.connect_timeout, settings.redis_ca, self.control, self.wall, self.lanes
        )
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
        )
        self.directory.listeners += [self._settle, self._directory_changed]
        if settings.embedded and settings.manifests:
            self.directory.listeners.append(self._first_directory)
        for part in (self.lanes, self.control, self.master, self.directory):
            part.setServiceParent(self)

    def _make_source(self) -> Source:
        settings = self._settings
        if settings.manifests is not None:
            return ManifestsSource(settings.manifests, settings.ns_prefix, settings.master)
        return ClusterSource(settings.ns_prefix, settings.redis_secret, settings.master, settings.kubernetes_port)

    def setServiceParent(self, parent: object) -> None:
        """Also makes our log observer the application's: this is the one moment before twistd starts to log."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, observer(self._settings.log_format, self._settings.log_level))
        super().setServiceParent(parent)

    # Starting.

    def privilegedStartService(self) -> None:
        """Listens, as whom twistd was started, and before anything else runs. Raises StartError."""
        # First of all: a signal that comes early must not end the process; and process 1 of a container would not even
        # be sent a SIGTERM that it has no handler for.
        for number in (signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, partial(self._on_signal, self.directory.refresh))
        self._take_over_ends()
        super().privilegedStartService()
        self._raise_descriptor_limit()
        for description, endpoint in zip(self._settings.listen, self._endpoints, strict=True):
            failed: list[Failure] = []
            endpoint.listen(self.clients).addCallbacks(self._ports.append, failed.append)
            if failed:
                reason = failed[0].value
                if isinstance(reason, CannotListenError):
                    reason = reason.socketError
                raise StartError(f"cannot listen on {description}: {reason}; choose another with --listen")

    def startService(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        keep_free_memory()
        self._reactor.callWhenRunning(self._take_over_ends)  # again: the reactor has put in its own meanwhile
        try:
            super().startService()
        except EmbeddedError as error:
            raise StartError(str(error)) from None
        if resp.COMPILED:
            self._log.info("the framing is compiled")
        else:
            self._log.info(
                "the framing is interpreted, which costs several times as much: to have it compiled, "
                "install redisproxy where gcc and Python's headers are (Debian: gcc, python3-dev)"
            )
        for port in self._ports:
            self._log.info("listening on {address}", address=shown_address(port.getHost()))

    def _on_signal(self, call: object, number: int, frame: object) -> None:
        self._reactor.callFromThread(call)

    def _take_over_ends(self) -> None:
        """SIGTERM and SIGINT end the process with status 0; with Twisted's own handling twistd ends by the signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, partial(self._on_signal, self._end))

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        self._stop_reactor()

    def _stop_reactor(self) -> None:
        if self._reactor.running:
            self._reactor.stop()

    def _raise_descriptor_limit(self) -> None:
        """A session takes two descriptors: as many as the operator allows, and a warning when those are too few."""
        settings = self._settings
        needed = 2 * settings.max_workers + settings.work_queue_size + settings.base_workers + 64
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        if soft != resource.RLIM_INFINITY and soft < needed:
            self._log.warn(
                "the limit of open files is {limit}, but --max-workers and --work-queue-size may need {needed}",
                limit=soft,
                needed=needed,
            )

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
        )
        if policy.unknown != self.clients.policy.unknown and policy.unknown:
            self._log.warn(
                "--allow-commands or --deny-commands names what this Redis does not have: {names}",
                names=", ".join(policy.unknown),
            )
        self.wall.use(server, policy)
        self.lanes.redis_told(policy.needs_wall)
        self.clients.use(policy)
        self.master.told(server)
        if server.databases != self.directory.databases:
            self.directory.databases = server.databases
            self.directory.resolve()

    def _settle(self, directory: Directory) -> None:
        self.directory.listeners.remove(self._settle)
        settle()

    def _first_directory(self, directory: Directory) -> None:
        self.directory.listeners.remove(self._first_directory)
        host = self._ports[0].getHost()
        address = getattr(host, "host", "")
        reading = self.source.read()
        showing = defer.Deferred.fromCoroutine(
            tour(
                self._reactor,
                reading,
                self._settings.redis_secret,
                "127.0.0.1" if address in ("", "0.0.0.0") else address,  # noqa: S104 - compared, not bound
                getattr(host, "port", 0),
            )
        )
        showing.addErrback(lambda failure: self._log.failure("the quick start could not be shown", failure))

    # Stopping.

    async def _stop(self) -> None:
        await defer.gatherResults([defer.maybeDeferred(port.stopListening) for port in self._ports])
        await self.clients.shut_down()
        await super().stopService()

    def stopService(self) -> defer.Deferred:
        """Accepts no more, lets clients have what they are owed, then stops the parts."""
        return defer.Deferred.fromCoroutine(self._stop())


def _with_backlog(description: str) -> str:
    """Twisted's default of 50 is less than one busy application opens at once."""
    kind = description.split(":", 1)[0]
    if kind in ("tcp", "tcp6", "ssl", "unix") and ":backlog=" not in description:
        return f"{description}:backlog={BACKLOG}"
    return description
