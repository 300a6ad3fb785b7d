"""The status endpoint as a service: it listens, gathers the figures when somebody asks, and knows the rates of late.

Owns what is told to whom outside: the HTTP is `ops.http`'s, the names are `ops.metrics`'s, the page is `ops.page`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .listen.endpoints import EndpointError, Listening
from .listen.tls import ServerTls
from .net.addresses import shown_address
from .net.reactor import IProxyReactor
from .ops import page
from .ops.http import TokenCheck, TokenError, is_here, read_token, site
from .ops.metrics import Exposition
from .ops.stats import Counts, SnapshotState, Stats, TenantState, WatchState
from .printable import printable
from .settings import Settings, SettingsError
from .sources.reload import ReloadService
from .tenants.model import Snapshot

#: Seconds between two looks at how many commands there were.
LOOK = 5.0
#: Looks that a rate is made of.
LOOKS = 3


class StatusService(service.Service):
    """figures, counts: gather them; not_ready: why no client should come, or empty.

    Raises SettingsError for an endpoint or a token that cannot be used.
    """

    name = "status"
    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: IProxyReactor,
        stats: Callable[[], Stats],
        counts: Callable[[], Counts],
        not_ready: Callable[[], str],
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
        self._counts = counts
        self._looking = task.LoopingCall(self._look)
        self._looking.clock = reactor
        self._looks: deque[tuple[float, dict[str, int]]] = deque(maxlen=LOOKS)
        self._guarded = settings.status_token_file is not None
        self._site = site(
            self._page, page.HEADERS, Exposition(stats).render, not_ready, TokenCheck(settings.status_token_file)
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
        self._looking.start(LOOK)
        (address,) = self._listening.addresses
        self._log.info("status is told at {address}", address=shown_address(address))
        if not (self._guarded or is_here(address)):
            self._log.info("only probes are answered there: the page and the metrics take --status-token-file")

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
        if self._looking.running:
            self._looking.stop()
        return self._listening.close()

    def _look(self) -> None:
        self._looks.append((self._clock.seconds(), _commands(self._counts())))

    def _page(self) -> bytes:
        stats = self._stats()
        since, before = self._looks[0]
        seconds = self._clock.seconds() - since
        rates = {}
        if seconds > 0:
            now = _commands(stats["counts"])
            rates = {name: max(0, count - before.get(name, 0)) / seconds for name, count in now.items()}
        return page.render(stats, rates)


def snapshot_state(reading: ReloadService, watch: WatchState | None, now: float) -> SnapshotState:
    """What is known of the credentials. watch: of their source, None without one; now: in seconds since the epoch."""
    snapshot = reading.snapshot
    return {
        "loaded": snapshot is not None,
        "source": printable(str(reading.source)),
        "age": reading.age,
        "refreshes": dict(reading.reads),
        "refresh_seconds": reading.durations.stats(),
        "watch": watch,
        "problems": [
            {"namespace": problem.namespace, "secret": problem.secret, "reason": problem.reason}
            for problem in reading.problems
        ],
        "without_secret": list(reading.without_secret),
        "tenants": {} if snapshot is None else _tenants(snapshot, now),
    }


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


def _commands(counts: Counts) -> dict[str, int]:
    return {name: sum(tenant["commands"].values()) for name, tenant in counts["tenants"].items()}


def with_loopback(description: str) -> str:
    """An endpoint that names no interface is on loopback: the page is for who is on this machine, unless said otherwise."""
    kind = description.partition(":")[0]
    if ":interface=" in description or kind not in ("tcp", "ssl", "tcp6"):
        return description
    return description + (r":interface=\:\:1" if kind == "tcp6" else ":interface=127.0.0.1")
