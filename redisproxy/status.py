"""The status endpoint as a service: it listens, gathers the numbers on request, and keeps the last
minutes.

Owns the decision what is shown to whom. `ops.http` owns HTTP, `ops.metrics` the names of metrics,
`ops.page` the page, and `ops.history` the last minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReactorTime

from . import messages
from .listen.endpoints import EndpointError, Listening
from .listen.tls import ServerTls
from .net.addresses import shown_address
from .net.reactor import IProxyReactor
from .ops import history, page
from .ops.bugs import bug
from .ops.history import History
from .ops.http import TokenCheck, TokenError, is_here, read_token, site
from .ops.logs import Log
from .ops.metrics import Exposition
from .ops.page_parts import ROWS
from .ops.problems import UNREADY, OpenProblem, Sightings, open_problems
from .ops.runbooks import read_runbooks
from .ops.stats import SnapshotState, Stats, TenantState, WatchState
from .printable import printable
from .settings import Settings, SettingsError
from .sources.reload import ReloadService
from .tenants.model import Snapshot

#: Seconds between two checks whether the proxy is ready. The page shows since when it is not, with
#: this precision.
LOOK = 1.0
#: Seconds of work on a page or on the metrics before clients get a turn, and of the rest after it.
#: So they take half of the time at most.
SLICE = 0.005


class StatusService(service.Service):
    """Serves probes, metrics and the status page.

    stats: gathers the numbers; not_ready: returns why no client should connect, or None.
    Raises SettingsError for an endpoint or a token file that cannot be used.
    """

    name = "status"
    _log = Log()

    def __init__(
        self,
        settings: Settings,
        reactor: IProxyReactor,
        stats: Callable[[], Stats],
        not_ready: Callable[[], messages.Text | None],
    ) -> None:
        try:
            self._listening = Listening(reactor, [with_loopback(settings.status)], option="--status")
        except EndpointError as error:
            raise SettingsError(f"--status is {error}") from None
        if settings.status_token_file is not None:
            try:
                read_token(settings.status_token_file)
            except TokenError as error:
                raise SettingsError(f"--status-token-file: {error}") from None
        self._clock: IReactorTime = reactor
        self._stats = stats
        self._history = History()
        self._problems = Sightings(ROWS)
        self._not_ready = not_ready
        #: since when the proxy is not ready, in the clock's seconds; None if it is ready
        self._unready_since: float | None = None
        self._loops = [(LOOK, task.LoopingCall(self._look)), (history.INTERVAL, task.LoopingCall(self._sample))]
        for _, loop in self._loops:
            loop.clock = reactor
        self._guarded = settings.status_token_file is not None
        self._exposition = Exposition(stats)
        self._runbooks = read_runbooks()
        self._site = site(
            self._page,
            page.HEADERS,
            self._metrics,
            not_ready,
            TokenCheck(settings.status_token_file),
            self._runbooks,
            lambda: page.render_runbooks(self._runbooks),
            reactor,
        )

    @property
    def tls(self) -> list[ServerTls]:
        """See `listen.endpoints.Listening.tls`."""
        return self._listening.tls

    def privilegedStartService(self) -> None:
        """Listens. Raises ListenError."""
        super().privilegedStartService()
        self._listening.open(self._site)
        self._site.limit_accepts(self._listening.ports)

    def startService(self) -> None:
        super().startService()
        for seconds, loop in self._loops:
            loop.start(seconds).addErrback(bug(self._log, "gathering numbers for the status page"))
        (address,) = self._listening.addresses
        self._log.write(messages.STATUS_AT, address=shown_address(address))
        if not (self._guarded or is_here(address)):
            self._log.write(messages.STATUS_PROBES_ONLY)

    @property
    def url(self) -> str:
        """The URL of the page, once it listens; empty if the port is not TCP."""
        (address,) = self._listening.addresses
        if not isinstance(address, IPv4Address | IPv6Address):
            return ""
        return f"{'https' if self.tls else 'http'}://{shown_address(address)}/"

    def stopService(self) -> defer.Deferred[list[None]]:
        """Stops listening. Fires when the port is closed."""
        super().stopService()
        for _, loop in self._loops:
            if loop.running:
                loop.stop()
        self._site.close()
        return self._listening.close()

    def _look(self) -> None:
        if not self._not_ready():
            self._unready_since = None
        elif self._unready_since is None:
            self._unready_since = self._clock.seconds()

    def _sample(self) -> None:
        stats, now = self._stats(), self._clock.seconds()
        self._history.add(now, stats["counts"])
        self._problems.see(open_problems(stats, self._history.recent(now, stats["counts"], rates=False)), now)

    def _metrics(self, accept: str) -> tuple[str, defer.Deferred[bytes]]:
        content_type, pieces = self._exposition.render(accept)
        return content_type, defer.Deferred.fromCoroutine(self._joined(pieces))

    async def _joined(self, pieces: Iterable[bytes]) -> bytes:
        slices, found = _Slices(self._clock), []
        for piece in pieces:
            found.append(piece)
            wait = slices.pause()
            if wait is not None:
                await wait
        return b"".join(found)

    def _page(self) -> defer.Deferred[bytes]:
        self._look()
        stats, now = self._stats(), self._clock.seconds()
        recent = self._history.recent(now, stats["counts"])
        problems = open_problems(stats, recent)
        self._problems.see(problems, now)

        def since(problem: OpenProblem) -> float | None:
            of_proxy = problem.kind == UNREADY and stats["state"]["unready"]
            known = self._unready_since if of_proxy else self._problems.since(problem)
            return None if known is None else now - known

        content = page.PageContent(stats, recent, problems, since, self._runbooks)
        return page.render(content, _Slices(self._clock).pause)


class _Slices:
    """Divides the work on a page or on the metrics into turns of SLICE seconds. Clients have as
    long after each.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._began = clock.seconds()

    def pause(self) -> defer.Deferred[str] | None:
        """See `page_parts.Pause`."""
        if self._clock.seconds() - self._began < SLICE:
            return None

        def cancel(cancelled: defer.Deferred[str]) -> None:
            call.cancel()
            # Added after the page's own callbacks, which pass the failure on. Without this it would
            # be logged as unhandled.
            cancelled.addErrback(lambda _: "")

        wait: defer.Deferred[str] = defer.Deferred(cancel)
        call = self._clock.callLater(SLICE, self._go_on, wait)
        return wait

    def _go_on(self, wait: defer.Deferred[str]) -> None:
        self._began = self._clock.seconds()
        wait.callback("")


class SnapshotStates:
    """Makes the state of the snapshot. The part about tenants is made again only when it has
    changed.
    """

    def __init__(self, reading: ReloadService) -> None:
        self._reading = reading
        # The states of the tenants, the snapshot that they are made of, and the period in which
        # they hold. Callers must not change them.
        self._tenants: dict[str, TenantState] = {}
        self._snapshot: Snapshot | None = None
        self._from = self._until = 0.0

    def state(self, watch: WatchState | None, now: float) -> SnapshotState:
        """Returns what is known now. watch: of the source, None without one; now: in seconds since
        the epoch.
        """
        reading = self._reading
        return {
            "loaded": reading.snapshot is not None,
            "source": printable(str(reading.source)),
            "age": reading.age,
            "refreshes": dict(reading.reads),
            "refresh_seconds": reading.durations.stats(),
            "watch": watch,
            "problems": [
                {
                    "namespace": problem.namespace,
                    "secret": problem.secret,
                    "reason": problem.reason,
                    "code": problem.reason.code,
                }
                for problem in reading.problems
            ],
            "without_secret": list(reading.without_secret),
            "tenants": self._tenants_at(now),
        }

    def _tenants_at(self, now: float) -> dict[str, TenantState]:
        snapshot = self._reading.snapshot
        if snapshot is not self._snapshot or not self._from <= now < self._until:
            self._snapshot = snapshot
            self._tenants = {} if snapshot is None else _tenants(snapshot, now)
            expiry = None if snapshot is None else snapshot.next_expiry(now)
            self._from, self._until = now, math.inf if expiry is None else expiry
        return self._tenants


def _tenants(snapshot: Snapshot, now: float) -> dict[str, TenantState]:
    found: dict[str, TenantState] = {}
    for credential in snapshot.credentials:
        namespace = credential.tenant.namespace
        tenant = found.get(namespace)
        if tenant is None:
            limits = {name: limit for name, limit in asdict(snapshot.limits_of(namespace)).items() if limit}
            tenant = found[namespace] = {
                "index": credential.tenant.index,
                "credentials": 0,
                "expires": None,
                "limits": limits,
                "paused": namespace in snapshot.paused,
            }
        if credential.valid_at(now):
            tenant["credentials"] += 1
            if credential.expires is not None and (tenant["expires"] is None or credential.expires < tenant["expires"]):
                tenant["expires"] = credential.expires
    return found


def with_loopback(description: str) -> str:
    """Returns the endpoint with a loopback interface, if it names no interface. By default only
    programs on this machine can reach the page.
    """
    kind = description.partition(":")[0]
    if ":interface=" in description or kind not in ("tcp", "ssl", "tcp6"):
        return description
    return description + (r":interface=\:\:1" if kind == "tcp6" else ":interface=127.0.0.1")
