"""The status endpoint as a service: it listens, gathers the numbers when somebody asks, and keeps
the last minutes.

Owns what is told to whom outside: the HTTP is `ops.http`'s, the names are `ops.metrics`'s, the page
is `ops.page`'s, what is kept of the last minutes is `ops.history`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

#: Seconds between two looks whether the proxy is ready: since when it is not is known as well as
#: that.
LOOK = 1.0
#: Seconds for which a page is made before clients have their turn.
SLICE = 0.005


class StatusService(service.Service):
    """stats: gathers the numbers; not_ready: why no client should come, or None.

    Raises SettingsError for an endpoint or a token that cannot be used.
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
        #: since when the proxy is not ready, in the clock's seconds; None: it is
        self._unready_since: float | None = None
        self._loops = [(LOOK, task.LoopingCall(self._look)), (history.INTERVAL, task.LoopingCall(self._sample))]
        for _, loop in self._loops:
            loop.clock = reactor
        self._guarded = settings.status_token_file is not None
        self._runbooks = read_runbooks()
        self._site = site(
            self._page,
            page.HEADERS,
            Exposition(stats).render,
            not_ready,
            TokenCheck(settings.status_token_file),
            self._runbooks,
            lambda: page.render_runbooks(self._runbooks),
        )

    @property
    def tls(self) -> list[ServerTls]:
        """See `listen.endpoints.Listening.tls`."""
        return self._listening.tls

    def privilegedStartService(self) -> None:
        """Listens. Raises ListenError."""
        super().privilegedStartService()
        self._listening.open(self._site)

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
        """Of the page, once it listens; empty where it is no TCP port."""
        (address,) = self._listening.addresses
        if not isinstance(address, IPv4Address | IPv6Address):
            return ""
        return f"{'https' if self.tls else 'http'}://{shown_address(address)}/"

    def stopService(self) -> defer.Deferred[list[None]]:
        """Fires when it listens no more."""
        super().stopService()
        for _, loop in self._loops:
            if loop.running:
                loop.stop()
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
    """The turns in which a page is made: each has SLICE seconds, and then clients have theirs."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._began = clock.seconds()

    def pause(self) -> defer.Deferred[str] | None:
        """See `page_parts.Pause`."""
        if self._clock.seconds() - self._began < SLICE:
            return None

        def cancel(cancelled: defer.Deferred[str]) -> None:
            call.cancel()
            # Behind what the page does with it: that leaves the failure where it is, to be logged
            # as one that nobody saw.
            cancelled.addErrback(lambda _: "")

        wait: defer.Deferred[str] = defer.Deferred(cancel)
        call = self._clock.callLater(0, self._go_on, wait)
        return wait

    def _go_on(self, wait: defer.Deferred[str]) -> None:
        self._began = self._clock.seconds()
        wait.callback("")


class SnapshotStates:
    """Makes what is told of the credentials. The part about tenants is made again only where it has
    changed.
    """

    def __init__(self, reading: ReloadService) -> None:
        self._reading = reading
        # Of which Snapshot, and of which time it is: from and until when. It is not changed by
        # whoever has it.
        self._tenants: dict[str, TenantState] = {}
        self._snapshot: Snapshot | None = None
        self._from = self._until = 0.0

    def state(self, watch: WatchState | None, now: float) -> SnapshotState:
        """What is known now. watch: of their source, None without one; now: in seconds since the
        epoch.
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
            }
        if credential.valid_at(now):
            tenant["credentials"] += 1
            if credential.expires is not None and (tenant["expires"] is None or credential.expires < tenant["expires"]):
                tenant["expires"] = credential.expires
    return found


def with_loopback(description: str) -> str:
    """An endpoint that names no interface is on loopback: the page is for who is on this machine,
    unless said otherwise.
    """
    kind = description.partition(":")[0]
    if ":interface=" in description or kind not in ("tcp", "ssl", "tcp6"):
        return description
    return description + (r":interface=\:\:1" if kind == "tcp6" else ":interface=127.0.0.1")
