"""The whole proxy as one Twisted service: its parts, its start and its end.

Owns the wiring, the signals and the order of stopping. The parts get explicit arguments and know
nothing of settings.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TextIO

from twisted.application import service
from twisted.application.internet import TimerService
from twisted.internet import defer, task
from twisted.logger import ILogObserver
from twisted.python.components import Componentized

from . import messages
from .listen.certificates import RotationService
from .listen.endpoints import PROXIED, EndpointError, ListenError, Listening, plain_kind
from .listen.tls import CertificateError
from .local.embedded import EmbeddedError, EmbeddedRedis
from .local.quickstart import tenants_command, tour
from .net.reactor import IProxyReactor, is_monotonic
from .ops.bugs import bug
from .ops.logs import Log, observer
from .ops.stats import Stats
from .printable import printable
from .processes.opening import Opening
from .processes.os_process import end_with, prepare, quiet_libraries
from .processes.ports import ServingPort
from .processes.single import Serving
from .processes.supervisor import Workers
from .resp import framing
from .settings import Settings, SettingsError, misspelt
from .sources.hints import ChangeQueue
from .sources.manifests import REST, ManifestsSource
from .sources.poll import PollService
from .sources.reload import ReloadService
from .sources.throttle import Throttle, Unpaced
from .sources.watch import WatchService
from .tenants.model import BackendAddress, Snapshot

if TYPE_CHECKING:
    from .sources.kubernetes import ClusterSource
    from .status import SnapshotStates, StatusService

#: Seconds between two checks whether the terminal of a quick start is still open.
TERMINAL = 1.0


def source_of(settings: Settings) -> ManifestsSource | ClusterSource:
    """Returns the source of namespaces and secrets."""
    if settings.manifests is not None:
        return ManifestsSource(settings.manifests, settings.ns_prefix, settings.master, REST)
    # Imported only for a cluster: the Kubernetes client takes a third of the time to start, and 19
    # MiB.
    from .sources.kubernetes import ClusterSource
    from .sources.kubernetes_api import KubernetesApi

    api = KubernetesApi(settings.kubernetes_port)
    return ClusterSource(settings.ns_prefix, settings.redis_secret, settings.master, api)


class StartError(SystemExit):
    """The proxy cannot start. twistd ends with status 1 and writes this one line to the standard
    error.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"redisproxy: {printable(text)}")


class ProxyService(service.MultiService):
    """The proxy, or its parent process if several processes serve clients.

    options: those that the settings were read from, for the workers; log_file: None logs to the
    standard output; start_failed: called with a StartError before it is raised, also in a daemon.
    Raises SettingsError for errors that only show when the parts are made.
    """

    _log = Log()

    def __init__(
        self,
        settings: Settings,
        reactor: IProxyReactor,
        options: Mapping[str, str] | None = None,
        log_file: TextIO | None = None,
        start_failed: Callable[[StartError], object] = lambda _: None,
    ) -> None:
        super().__init__()
        self._log_file = log_file
        self._start_failed = start_failed
        self._ending = False
        # Seconds that the proxy still serves after a signal to end.
        self._delay = 0.0
        self._settings = settings
        self._reactor = reactor
        self._began = reactor.seconds()
        try:
            ca, trusted = settings.client_ca, settings.trust_proxy
            self.listening = Listening(reactor, settings.listen, client_ca=ca, trusted=trusted, keepalive=settings.keepalive)
        except EndpointError as error:
            raise SettingsError(f"--listen is {error}") from None
        self._opening = Opening(self.listening)
        if settings.trust_proxy and not any(endpoint.startswith(PROXIED) for endpoint in settings.listen):
            raise SettingsError("--trust-proxy needs a haproxy: endpoint, and --listen has none")
        self.source = source_of(settings)
        embedded = self._embedded = None
        if settings.embedded:
            try:
                embedded = self._embedded = EmbeddedRedis(died=self._fail)
            except EmbeddedError as error:
                raise SettingsError(str(error)) from None
            embedded.setServiceParent(self)
        changes = ChangeQueue()
        self.reading = ReloadService(
            reactor,
            self.source,
            settings.enrolment(self.embedded_backend),
            settings.refresh,
            throttle=Throttle if settings.processes == 1 else Unpaced,
            changes=changes,
        )
        #: None with --no-watch
        self.watch = self._make_watch(changes) if settings.watch else None
        #: serves clients, in this process or in workers
        self.serving: ServingPort
        if settings.processes == 1:
            self.serving = Serving(settings, reactor, self.reading.use_databases)
        else:
            self.serving = Workers(
                reactor, settings.processes, options or {}, self.reading.use_databases, settings.drain_seconds
            )
        self.reading.listeners.append(self._use_snapshot)
        self.reading.on_read.append(self.serving.take_read)
        if self._is_quick_start:
            self.serving.on_snapshot.append(self._first_snapshot)
            if signal.SIGHUP in self._ends and os.isatty(0):
                look = TimerService(TERMINAL, self._look_at_terminal)
                look.clock = reactor
                look.setServiceParent(self)
        for part in (self.serving, self.reading):
            part.setServiceParent(self)
        if self.watch is not None:
            self.watch.setServiceParent(self)
        #: whether the proxy is about to end: no client should connect any more
        self.draining = False
        self.status: StatusService | None = None
        if settings.status:
            # Imported only if needed: the web server, pages and metrics take 0.1 s of the start.
            from .status import SnapshotStates, StatusService

            stats = partial(self._stats, SnapshotStates(self.reading))
            self.status = StatusService(settings, reactor, stats, self._not_ready)
        self.certificates = self._make_rotation()
        self.certificates.setServiceParent(self)

    @property
    def embedded_backend(self) -> BackendAddress | None:
        """The address of the embedded Redis, or None without one."""
        return None if self._embedded is None else self._embedded.backend

    def _make_watch(self, changes: ChangeQueue) -> WatchService | PollService:
        reading, source, settings = self.reading, self.source, self._settings
        if isinstance(source, ManifestsSource):
            return PollService(self._reactor, source, reading.refresh)
        from .sources.kubernetes_watch import ClusterWatches  # imports the client, as above

        watches = ClusterWatches(source.api, settings.ns_prefix, settings.redis_secret, settings.master)
        return WatchService(self._reactor, watches, settings.master, changes, reading.changed, reading.refresh)

    def _make_rotation(self) -> RotationService:
        tls = self.listening.tls
        try:
            certificates = RotationService(
                self._reactor, tls + (self.status.tls if self.status else []), self._show_certificates
            )
        except CertificateError as error:
            raise SettingsError(str(error)) from None
        if self._settings.client_ca is not None:
            self._check_client_ca()
        return certificates

    def _check_client_ca(self) -> None:
        """Refuses --client-ca without an `ssl:` endpoint, or beside an endpoint of an unknown kind:
        the operator could believe that clients need certificates there. Raises SettingsError.
        """
        others = [endpoint for endpoint in self._settings.listen if plain_kind(endpoint) != "ssl"]
        unknown = [endpoint for endpoint in others if plain_kind(endpoint) not in ("tcp", "tcp6", "unix", "systemd")]
        if unknown:
            raise SettingsError(f"--client-ca works only at ssl: endpoints, and --listen also has {unknown[0]!r}")
        if not self.listening.tls:
            raise SettingsError("--client-ca needs an ssl: endpoint, and --listen has none")

    def _show_certificates(self) -> None:
        self.serving.show_certificates(lambda: self.certificates.material(self.listening.tls))

    def setServiceParent(self, parent: object) -> None:
        """Also makes the proxy's log observer that of the application. This is the only moment
        before twistd starts to log.
        """
        if isinstance(parent, Componentized):
            log_observer = observer(self._settings.log_format, self._settings.log_level, self._log_file)
            parent.setComponent(ILogObserver, log_observer)
        super().setServiceParent(parent)

    # Starting.

    def privilegedStartService(self) -> None:
        """Binds the ports, as the user that twistd was started as, before anything else runs. The
        status endpoint also listens. Raises StartError.
        """
        # First of all, because an early signal must not end the process. Also, process 1 of a
        # container is not even sent a SIGTERM for which it has no handler.
        signal.signal(signal.SIGUSR1, partial(self._on_signal, self._refresh))
        if not self._is_quick_start:
            signal.signal(signal.SIGHUP, partial(self._on_signal, self._refresh))
        self._take_over_ends()
        super().privilegedStartService()
        self._show_certificates()
        try:
            self.serving.bind(self.listening)
            if self.status is not None:
                self.status.privilegedStartService()
        except ListenError as error:
            raise self._cannot_start(error) from None

    def _cannot_start(self, error: Exception) -> StartError:
        start_error = StartError(str(error))
        self._start_failed(start_error)
        return start_error

    def startService(self) -> None:
        prepare()
        quiet_libraries()
        # again, because the reactor has installed its own handlers meanwhile
        self._reactor.callWhenRunning(self._take_over_ends)
        try:
            super().startService()
        except BaseException as error:
            if self._embedded is not None:
                self._embedded.stopService()  # twistd does not stop a service that failed to start
            if isinstance(error, EmbeddedError):
                raise self._cannot_start(error) from None
            raise
        if not is_monotonic(self._reactor):
            self._log.write(messages.WALL_CLOCK, reactor=type(self._reactor).__name__)
        for name, nearest in misspelt(os.environ).items():
            self._log.write(
                messages.SETTING_UNKNOWN,
                name=printable(name),
                nearest=f": did you mean {nearest}?" if nearest else "",
            )
        if framing.COMPILED:
            self._log.write(messages.FRAMING_COMPILED)
        else:
            self._log.write(messages.FRAMING_INTERPRETED)
        if self.status is not None:
            self.status.startService()
            self.serving.collect_stats()
        if self._settings.client_ca is not None:
            for endpoint in self._settings.listen:
                if plain_kind(endpoint) != "ssl":
                    self._log.write(messages.CLIENT_CA_WITHOUT_TLS, endpoint=endpoint)
        for network in self._settings.trust_proxy:
            if network.prefixlen == 0:
                self._log.write(messages.TRUST_ANYBODY, network=str(network))

    def _use_snapshot(self, snapshot: Snapshot) -> None:
        """Puts a snapshot in force. The ports listen from the first one on, whether Redis answers
        or not. If they cannot, the proxy ends with status 1.
        """
        if not self._opening.listens:
            if self._ending:
                return
            if not self._opening.listen():
                self._fail()
                return
        self.serving.use_snapshot(snapshot)

    def _on_signal(self, call: Callable[[], object], number: int, frame: object) -> None:
        self._reactor.callFromThread(call)

    def _refresh(self) -> None:
        self.reading.refresh()
        self.certificates.look()

    @property
    def _ends(self) -> tuple[signal.Signals, ...]:
        """The signals that end the proxy. A closed terminal ends a quick start, unless nohup makes
        it ignore SIGHUP.
        """
        hangs_up = self._is_quick_start and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        return (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangs_up else []))

    def _take_over_ends(self) -> None:
        """Makes these signals end the process with status 0. With Twisted's own handlers, twistd
        would end by the signal.
        """
        for number in self._ends:
            signal.signal(number, partial(self._on_signal, self._end))

    def _end(self) -> None:
        for number in self._ends:
            signal.signal(number, self._end_at_once)
        self._delay = self._settings.drain_delay
        self._stop_reactor()

    def _end_at_once(self, number: int, frame: object) -> None:
        """Handles a second signal: ends the process by that signal, and all processes that it
        started.
        """
        self.serving.kill()
        if self._embedded is not None:
            self._embedded.end_at_once()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # a signal that process 1 of a container sends itself does not end it
        os._exit(128 + number)

    def _stop_reactor(self) -> None:
        if not self._ending:
            self._ending = True
            self._reactor.stop()

    # Stats.

    def _stats(self, snapshot_states: SnapshotStates) -> Stats:
        now, unready = time.time(), self._not_ready()
        return {
            "time": now,
            "counts": self.serving.stats(),
            "state": {
                "host": socket.gethostname(),  # in Kubernetes the name of the pod
                "uptime": self._reactor.seconds() - self._began,
                "unready": unready or "",
                "unready_code": "" if unready is None else unready.code,
                "most_sessions": self._settings.max_workers,
                "workers": self.serving.workers(),
                "snapshot": snapshot_states.state(None if self.watch is None else self.watch.state(), now),
                "redis": self.serving.redis(),
                "tls": self.certificates.state(),
            },
        }

    def _not_ready(self) -> messages.Text | None:
        return messages.DRAINING() if self.draining else self.serving.not_ready()

    def _fail(self) -> None:
        """Ends the proxy with status 1."""
        end_with(1)
        self._stop_reactor()

    # The quick start, which `make run` starts.

    @property
    def _is_quick_start(self) -> bool:
        return self._settings.embedded and self._settings.manifests is not None

    def _look_at_terminal(self) -> None:
        """Ends the proxy when the terminal is closed.

        SIGHUP does not reach every process of a closed terminal. If ``make run`` is the first
        program of the terminal (``ssh -t``, ``xterm -e``), only make gets the signal, and make
        waits for the proxy.
        """
        if not self._ending and not os.isatty(0):
            self._end()

    def _first_snapshot(self, _: Snapshot) -> None:
        self.serving.on_snapshot.remove(self._first_snapshot)
        host = self.listening.addresses[0]
        address = getattr(host, "host", "")
        # a source of its own: none is read twice at once
        reading = source_of(self._settings).read()
        further = [f"The status page: {self.status.url}"] if self.status is not None and self.status.url else []
        if self._settings.manifests is not None:
            further.append(f"To list the tenants: {tenants_command(self._settings.manifests, self._settings.ns_prefix)}")
        showing = defer.Deferred.fromCoroutine(
            tour(
                self._reactor,
                reading,
                self._settings.redis_secret,
                "127.0.0.1" if address in ("", "0.0.0.0") else address,  # noqa: S104 - compared, not bound
                getattr(host, "port", 0),
                further,
            )
        )
        showing.addErrback(bug(self._log, "showing the quick start"))

    # Stopping.

    async def _stop(self) -> None:
        self.draining = True
        if self._delay:
            self._log.write(messages.ABOUT_TO_END, delay=self._delay)
            await task.deferLater(self._reactor, self._delay)
        await self.listening.close()
        await self.serving.drain()
        await super().stopService()
        if self.status is not None:
            # Not one of the parts: it reports until the end that no client should connect.
            await self.status.stopService()

    def stopService(self) -> defer.Deferred[None]:
        """After a signal, serves on for `--drain-delay`. Then stops accepting, asks clients to
        leave, and stops the parts.
        """
        return defer.Deferred.fromCoroutine(self._stop())
