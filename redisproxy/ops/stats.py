"""The numbers for metrics and the status page, as plain data, and their sum over processes.

Owns the form. `Counts` of several processes can be added, key by key. `State` is what one process
knows on behalf of all. Both consist of dicts, lists, numbers, strings and None, so that they can be
JSON.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar

#: Upper bounds of the buckets for Redis's response time, in seconds.
REDIS_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
#: Upper bounds of the buckets for the duration of a reload, in seconds.
RELOAD_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class HistogramStats(TypedDict):
    """A histogram.

    bounds: upper bounds, in seconds.
    counts: number of samples in each bucket; the last bucket is above the last bound.
    sum: of all samples, in seconds.
    """

    bounds: list[float]
    counts: list[int]
    sum: float


class SampleStats(TypedDict):
    """A histogram in a short form, for many of them.

    counts: number of samples by upper bound, as text; empty buckets are left out.
    sum: of all samples, in seconds.
    """

    counts: dict[str, int]
    sum: float


#: The upper bound of the last bucket.
ABOVE = "+Inf"


class Histogram:
    """A histogram of durations. bounds: upper bounds, in seconds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Adds a sample."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def stats(self) -> HistogramStats:
        """Returns the samples so far."""
        return {"bounds": list(self._bounds), "counts": list(self._counts), "sum": self._sum}

    def samples(self) -> SampleStats:
        """Returns the same in a form that is short if few buckets have samples."""
        bounds = (*map(str, self._bounds), ABOVE)
        return {"counts": {bound: n for bound, n in zip(bounds, self._counts, strict=True) if n}, "sum": self._sum}


class TenantStats(TypedDict):
    """What one tenant did.

    commands, refused: by family, see `tenants.account`.
    refused_names: refused commands, by name.
    received: bytes from clients.
    replied: bytes from Redis.
    turned_away: log-ins that were refused because the tenant had as many connections as it may.
    wrong: log-ins with a wrong password that named the tenant.
    scripts_ended: scripts that were ended because they ran for too long.
    slow_commands: commands that Redis has logged as slow; slow_seconds: how long they took;
    slow_confirmed: how often a command went through the window from then on.
    held: connections that are not read now, because the tenant exceeded a rate.
    throttled: seconds in which there were such connections.
    memory: bytes that its sessions use, see `tenants.memory`.
    latency: of the commands that were timed, see `upstream.latency`.
    """

    sessions: int
    commands: dict[str, int]
    refused: dict[str, int]
    refused_names: dict[str, int]
    received: int
    replied: int
    turned_away: int
    wrong: int
    scripts_ended: int
    slow_commands: int
    slow_seconds: float
    slow_confirmed: int
    held: int
    throttled: float
    memory: int
    latency: SampleStats


def no_tenant_stats() -> TenantStats:
    """Returns the numbers of a tenant that no client has logged in as."""
    return {
        "sessions": 0,
        "commands": {},
        "refused": {},
        "refused_names": {},
        "received": 0,
        "replied": 0,
        "turned_away": 0,
        "wrong": 0,
        "scripts_ended": 0,
        "slow_commands": 0,
        "slow_seconds": 0.0,
        "slow_confirmed": 0,
        "held": 0,
        "throttled": 0.0,
        "memory": 0,
        "latency": {"counts": {}, "sum": 0.0},
    }


class Counts(TypedDict):
    """What one process counts.

    sessions: by `clients.connection.STATES`.
    logins: by outcome.
    refused_names: commands that tenants may not use, by name, with those of former tenants.
    ended: connections, by close reason.
    connections: to Redis, by use: multiplexed, dedicated, idle.
    in_flight: commands that Redis has not answered yet.
    memory: bytes that clients use, see `tenants.memory`; memory_limit: what they may use.
    tenants: by namespace.
    """

    sessions: dict[str, int]
    logins: dict[str, int]
    refused_names: dict[str, int]
    ended: dict[str, int]
    connections: dict[str, int]
    in_flight: int
    memory: int
    memory_limit: int
    redis_seconds: HistogramStats
    tenants: dict[str, TenantStats]


class TenantState(TypedDict):
    """One tenant of the snapshot.

    credentials: how many.
    expires: when the next credential expires, in seconds since the epoch, or None.
    limits: those that the tenant has, by the fields of `tenants.limits.Limits`.
    paused: whether an operator has paused the tenant.
    """

    index: int
    credentials: int
    expires: float | None
    limits: dict[str, int]
    paused: bool


class ProblemState(TypedDict):
    """What an operator has to fix.

    secret: empty if the problem is about the namespace.
    code: of the reason, in `messages`.
    """

    namespace: str
    secret: str
    reason: str
    code: str


class WatchState(TypedDict):
    """The watches of the source.

    watching: whether changes take effect at once.
    events, reconnects: number since the start.
    quiet: seconds since the last event, or None.
    """

    watching: bool
    events: int
    reconnects: int
    quiet: float | None


class SnapshotState(TypedDict):
    """The snapshot in force.

    loaded: whether there is one.
    age: seconds since the last read that succeeded completely, or None.
    watch: None if nothing is to be watched.
    without_secret: namespaces with the prefix that have no secret.
    """

    loaded: bool
    source: str
    age: float | None
    refreshes: dict[str, int]
    refresh_seconds: HistogramStats
    watch: WatchState | None
    problems: list[ProblemState]
    without_secret: list[str]
    tenants: dict[str, TenantState]


#: What Redis does: see `upstream.health.Answers`. "down" means that there is no connection.
ANSWERS = ("up", "busy", "loading", "hung", "down")


class RedisState(TypedDict):
    """What is known about Redis.

    connected: whether Redis answers.
    version: empty if unknown.
    isolation_layers: how many enforce the tenants' limits: 1 or 2; 0 if unknown.
    answers: one of ANSWERS.
    unanswered: seconds that a PING of the proxy has waited for its answer; 0 if none waits.
    fault: why Redis cannot be used; empty if it can be, or if the reason is unknown.
    fault_code: of the fault, in `messages`; empty if there is none.
    notices: what should be known about its own limits, and what to do.
    """

    connected: bool
    address: str
    version: str
    databases: int | None
    isolation_layers: int
    answers: str
    unanswered: float
    fault: str
    fault_code: str
    notices: list[str]


class CertificateState(TypedDict):
    """The certificate of an `ssl:` endpoint.

    begins, expires: in seconds since the epoch.
    problem: why the newer content of its files is not in force; empty if it is.
    """

    listener: str
    begins: float
    expires: float
    problem: str


class TlsState(TypedDict):
    """The certificates. reloads: changed certificates, by outcome."""

    certificates: list[CertificateState]
    reloads: dict[str, int]


class WorkersState(TypedDict):
    """The worker processes.

    wanted: how many there should be.
    serving: how many accept clients.
    restarts: how often one was started in place of another.
    pids: process ids, by number of the worker.
    unready: why a serving worker is not ready, with its code, by number of the worker.
    """

    wanted: int
    serving: int
    restarts: int
    pids: dict[str, int]
    unready: dict[str, tuple[str, str]]


class State(TypedDict):
    """What one process knows on behalf of all.

    host: name of the machine or pod.
    uptime: seconds since the process began.
    unready: why no client should connect; empty if the proxy is ready.
    unready_code: of that, in `messages`; empty if the proxy is ready.
    most_sessions: sessions that are served at once.
    workers: None if this process serves clients itself.
    """

    host: str
    uptime: float
    unready: str
    unready_code: str
    most_sessions: int
    workers: WorkersState | None
    snapshot: SnapshotState
    redis: RedisState
    tls: TlsState


class Stats(TypedDict):
    """All numbers at one moment. time: in seconds since the epoch."""

    time: float
    counts: Counts
    state: State


_Summed = TypeVar("_Summed", Counts, TenantStats)


def total(counts: Sequence[_Summed]) -> _Summed:
    """Returns the sum of what several processes counted. There must be at least one."""
    found = counts[0]
    for more in counts[1:]:
        found = _sum(found, more)
    return found


def _sum(one: Any, other: Any) -> Any:
    """Returns the sum of two values of one type, which may be any type in `Counts`.

    Numbers are added, also within dicts and lists. "bounds", which are the same in both, are kept.
    """
    if isinstance(one, dict):
        found = {**other, **one}
        for key in one.keys() & other.keys() - {"bounds"}:
            found[key] = _sum(one[key], other[key])
        return found
    if isinstance(one, list):
        return [_sum(a, b) for a, b in zip(one, other, strict=True)]
    return one + other
