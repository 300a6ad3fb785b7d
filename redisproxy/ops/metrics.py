"""The metrics for Prometheus. Their names and labels are listed in docs/metrics.md.

Owns the names, and the number of series. No label's value comes from a client. At most SERIES
tenants, temporary credentials and problems have series of their own.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import twisted

from .. import __version__
from ..resp import framing
from .stats import ANSWERS, HistogramStats, Stats, TenantStats, WorkersState, total

#: Tenants, and problems, with series of their own. All other tenants have one series, named
#: `_other`; other problems have none.
SERIES = 5000
_OTHER = "_other"
#: Samples that are encoded at once: a millisecond's work.
PIECE = 250

_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


class StatsCollector(Collector):
    """Makes metrics of the stats whenever they are requested. stats: returns the present ones."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._stats()
        yield InfoMetricFamily(
            "redisproxy_build",
            "The versions of the proxy and of its parts.",
            {
                "version": __version__,
                "python": platform.python_version(),
                "twisted": twisted.__version__,
                "framing": "compiled" if framing.COMPILED else "interpreted",
            },
        )
        yield from _of_clients(stats)
        yield from _of_tenants(stats)
        yield from _of_redis(stats)
        yield from _of_snapshot(stats)
        yield from _of_certificates(stats)
        if stats["state"]["workers"] is not None:
            yield from _of_workers(stats["state"]["workers"])

    def describe(self) -> Iterable[Metric]:
        """Returns nothing. Without this method, registering would collect all metrics."""
        return ()


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"redisproxy_{name}", text, value)


def _labelled(family: _Family, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = family(f"redisproxy_{name}", text, labels=[label])
    for key, value in sorted(values.items()):
        metric.add_metric([key], value)
    return metric


def _histogram(name: str, text: str, stats: HistogramStats) -> Metric:
    so_far = 0
    buckets = []
    for bound, count in zip([*map(str, stats["bounds"]), "+Inf"], stats["counts"], strict=True):
        so_far += count
        buckets.append((bound, so_far))
    return HistogramMetricFamily(f"redisproxy_{name}", text, buckets, stats["sum"])


def _of_clients(stats: Stats) -> Iterator[Metric]:
    counts = stats["counts"]
    yield _gauge("ready", "1 if the proxy is ready for clients, as /readyz says.", not stats["state"]["unready"])
    yield _labelled(GaugeMetricFamily, "sessions", "Client connections, by state.", "state", counts["sessions"])
    yield _gauge(
        "sessions_limit",
        "Limit of sessions that are served at the same time (MAX_WORKERS).",
        stats["state"]["most_sessions"],
    )
    yield _labelled(
        CounterMetricFamily,
        "connections_ended",
        "Client connections that have ended, by reason.",
        "close_reason",
        counts["ended"],
    )
    yield _labelled(CounterMetricFamily, "logins", "Log-ins, by outcome.", "outcome", counts["logins"])
    yield _gauge("clients_memory_bytes", "Memory for unread replies, and for commands that wait.", counts["memory"])
    yield _gauge("clients_memory_limit_bytes", "Limit of that memory: 60 % of --memory.", counts["memory_limit"])


#: Metric, key of `TenantStats`, text.
_COMMANDS_BY_TENANT: tuple[tuple[str, Literal["commands", "refused"], str], ...] = (
    ("commands", "commands", "Commands that clients sent, including refused ones."),
    ("commands_refused", "refused", "Commands that the tenant may not use."),
)
_Number = Literal[
    "received",
    "replied",
    "turned_away",
    "wrong",
    "scripts_ended",
    "slow_commands",
    "slow_seconds",
    "slow_confirmed",
    "held",
    "throttled",
    "memory",
]
#: Kind of metric, metric, key of `TenantStats`, text.
_NUMBERS_BY_TENANT: tuple[tuple[_Family, str, _Number, str], ...] = (
    (CounterMetricFamily, "client_received_bytes", "received", "Bytes that clients sent."),
    (CounterMetricFamily, "redis_received_bytes", "replied", "Bytes that Redis answered."),
    (
        CounterMetricFamily,
        "tenant_connections_refused",
        "turned_away",
        "Log-ins refused because the tenant had too many connections.",
    ),
    (CounterMetricFamily, "tenant_wrong_passwords", "wrong", "Log-ins with the tenant's name and a wrong password."),
    (
        CounterMetricFamily,
        "tenant_scripts_ended",
        "scripts_ended",
        "Scripts that the proxy ended because they ran for too long.",
    ),
    (CounterMetricFamily, "tenant_slow_commands", "slow_commands", "Commands that Redis has logged as slow."),
    (CounterMetricFamily, "tenant_slow_command_seconds", "slow_seconds", "Seconds that Redis took for these commands."),
    (
        CounterMetricFamily,
        "tenant_slow_commands_confirmed",
        "slow_confirmed",
        "Kinds of commands that go one at a time because Redis has logged them as slow.",
    ),
    (
        GaugeMetricFamily,
        "tenant_throttled_connections",
        "held",
        "Connections not read now because of the tenant's rate limit.",
    ),
    (CounterMetricFamily, "tenant_throttled_seconds", "throttled", "Seconds in which there were throttled connections."),
    (
        GaugeMetricFamily,
        "tenant_memory_bytes",
        "memory",
        "Memory for unread replies, and for commands that wait, of the tenant's clients.",
    ),
)


def _of_tenants(stats: Stats) -> Iterator[Metric]:
    text = "Commands that tenants may not use, by name."
    names = stats["counts"]["refused_names"]
    yield _labelled(CounterMetricFamily, "commands_refused_by_name", text, "command", names)
    tenants = _bounded(stats["counts"]["tenants"])
    sessions = {namespace: counts["sessions"] for namespace, counts in tenants.items()}
    yield _labelled(GaugeMetricFamily, "tenant_sessions", "Sessions that are logged in.", "namespace", sessions)
    for name, by_family, text in _COMMANDS_BY_TENANT:
        metric = CounterMetricFamily(f"redisproxy_{name}", text, labels=["namespace", "family"])
        for namespace, counts in sorted(tenants.items()):
            for family, count in sorted(counts[by_family].items()):
                metric.add_metric([namespace, family], count)
        yield metric
    for kind, name, number, text in _NUMBERS_BY_TENANT:
        values = {namespace: counts[number] for namespace, counts in tenants.items()}
        yield _labelled(kind, name, text, "namespace", values)
    latency = SummaryMetricFamily(
        "redisproxy_tenant_response_seconds",
        "Seconds from a write of commands to their last reply, sampled.",
        labels=["namespace"],
    )
    for namespace, counts in sorted(tenants.items()):
        samples = counts["latency"]
        if samples["counts"]:
            latency.add_metric([namespace], sum(samples["counts"].values()), samples["sum"])
    yield latency
    known = stats["state"]["snapshot"]["tenants"]
    paused = sorted(namespace for namespace, tenant in known.items() if tenant["paused"])
    text = "1 for each tenant that an operator has paused."
    yield _labelled(GaugeMetricFamily, "tenant_paused", text, "namespace", dict.fromkeys(paused[:SERIES], 1))
    limits = {namespace: tenant["limits"] for namespace, tenant in known.items()}
    for name, key, text in (
        ("tenant_limit_connections", "max_connections", "Connections that the tenant may have."),
        ("tenant_limit_commands_per_second", "commands_per_second", "Commands that the tenant may send in a second."),
        (
            "tenant_limit_bytes_per_second",
            "bytes_per_second",
            "Bytes of commands and replies that the tenant may use in a second.",
        ),
    ):
        limited = sorted((namespace, held[key]) for namespace, held in limits.items() if key in held)
        yield _labelled(GaugeMetricFamily, name, text, "namespace", dict(limited[:SERIES]))


def _bounded(tenants: Mapping[str, TenantStats]) -> dict[str, TenantStats]:
    if len(tenants) <= SERIES:
        return dict(tenants)
    names = sorted(tenants)
    return {name: tenants[name] for name in names[:SERIES]} | {_OTHER: total([tenants[name] for name in names[SERIES:]])}


def _of_redis(stats: Stats) -> Iterator[Metric]:
    counts, redis = stats["counts"], stats["state"]["redis"]
    yield _gauge("redis_up", "1 if Redis answers on the control connection.", redis["connected"])
    yield _labelled(
        GaugeMetricFamily,
        "redis_state",
        "1 for the state of Redis, by its answer to the proxy's latest PING; 0 for the others.",
        "state",
        {state: int(state == redis["answers"]) for state in ANSWERS},
    )
    yield _gauge("redis_unanswered_seconds", "Seconds that the proxy's PING has waited for its answer.", redis["unanswered"])
    yield _gauge(
        "isolation_layers",
        "Layers that enforce the tenants' limits. 1: the proxy alone. 2: Redis's ACLs, too.",
        redis["isolation_layers"],
    )
    if redis["databases"] is not None:
        yield _gauge("redis_databases", "Databases that Redis has. Each tenant uses one.", redis["databases"])
    yield _labelled(GaugeMetricFamily, "redis_connections", "Connections to Redis, by use.", "use", counts["connections"])
    yield _gauge("requests_in_flight", "Commands that Redis has not answered yet.", counts["in_flight"])
    yield _histogram(
        "redis_response_seconds",
        "Seconds from a PING to its reply, sampled once a second on busy multiplexed connections.",
        counts["redis_seconds"],
    )


def _of_snapshot(stats: Stats) -> Iterator[Metric]:
    state = stats["state"]["snapshot"]
    yield _gauge("snapshot_loaded", "1 if credentials are known.", state["loaded"])
    if state["age"] is not None:
        yield _gauge("snapshot_age_seconds", "Seconds since credentials were last read completely.", state["age"])
    yield _labelled(
        CounterMetricFamily,
        "snapshot_refreshes",
        "Full reads of the credentials, by outcome.",
        "outcome",
        state["refreshes"],
    )
    yield _histogram(
        "snapshot_refresh_seconds", "Seconds that a full read of the credentials took.", state["refresh_seconds"]
    )
    watch = state["watch"]
    yield _gauge("watch_up", "1 if changes of secrets take effect at once.", watch is not None and watch["watching"])
    if watch is not None:
        yield CounterMetricFamily(
            "redisproxy_watch_events", "Events from the watches, including bookmarks.", watch["events"]
        )
        yield CounterMetricFamily("redisproxy_watch_reconnects", "Watches that were opened again.", watch["reconnects"])
        if watch["quiet"] is not None:
            yield _gauge("watch_quiet_seconds", "Seconds since the last event from a watch.", watch["quiet"])
    yield _gauge("tenants", "Tenants that are served.", len(state["tenants"]))
    text = "Namespaces with the prefix that have no secret."
    yield _gauge("namespaces_without_secret", text, len(state["without_secret"]))
    yield _gauge("credentials", "Valid passwords.", sum(t["credentials"] for t in state["tenants"].values()))
    expiring = {name: tenant["expires"] for name, tenant in state["tenants"].items() if tenant["expires"] is not None}
    yield _labelled(
        GaugeMetricFamily,
        "credential_expiry_timestamp_seconds",
        "When the next temporary credential of a namespace expires.",
        "namespace",
        dict(sorted(expiring.items())[:SERIES]),
    )
    yield _gauge("problems", "Problems that an operator has to fix.", len(state["problems"]))
    metric = GaugeMetricFamily(
        "redisproxy_problem", "1 for each namespace and secret with a problem.", labels=["namespace", "secret"]
    )
    for labels in sorted({(problem["namespace"], problem["secret"]) for problem in state["problems"]})[:SERIES]:
        metric.add_metric(labels, 1)
    yield metric


def _of_certificates(stats: Stats) -> Iterator[Metric]:
    state = stats["state"]["tls"]
    expires = {certificate["listener"]: certificate["expires"] for certificate in state["certificates"]}
    yield _labelled(
        GaugeMetricFamily,
        "certificate_expiry_timestamp_seconds",
        "When the certificate of an endpoint expires.",
        "listener",
        expires,
    )
    yield _labelled(
        CounterMetricFamily,
        "certificate_reloads",
        "Reloads of certificates that changed on disk, by outcome.",
        "outcome",
        state["reloads"],
    )


def _of_workers(workers: WorkersState) -> Iterator[Metric]:
    yield _gauge("workers", "Processes that serve clients.", workers["serving"])
    yield _gauge("workers_wanted", "Processes that should serve clients (--processes).", workers["wanted"])
    yield CounterMetricFamily(
        "redisproxy_worker_restarts", "Workers that were started to replace others.", workers["restarts"]
    )
    families: dict[str, Metric] = {}
    for number, pid in workers["pids"].items():
        for metric in ProcessCollector("redisproxy_worker", pid=partial(int, pid), registry=None).collect():
            family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            family.samples += [sample._replace(labels={"worker": number}) for sample in metric.samples]
    yield from families.values()


class Exposition:
    """All metrics of the proxy and its process. stats: returns the present numbers."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StatsCollector(stats))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[str, Iterator[bytes]]:
        """Returns (content type, pieces of text) in the format that an Accept header requests. Each
        piece takes some milliseconds at most. The numbers are those of the first piece's moment.
        """
        encode, content_type = choose_encoder(accept)
        return content_type, _pieces(encode, self._registry)


def _pieces(encode: Callable[[Collector], bytes], registry: Collector) -> Iterator[bytes]:
    end = encode(_Samples([]))
    for metric in registry.collect():
        for start in range(0, max(1, len(metric.samples)), PIECE):
            piece = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            piece.samples = metric.samples[start : start + PIECE]
            text = encode(_Samples([piece])).removesuffix(end)
            if start:  # the metric's head is there already
                text = b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"# "))
            yield text
    yield end


class _Samples(Collector):
    """A collector of metrics that are made."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        return self._metrics
