"""The numbers that metrics and the status page are made of, as plain data: what one process has
counted, and their sum.

Owns the form. `Counts` of several processes can be added, key by key; `State` is what one process
knows for all. Both are made of dicts, lists, numbers, strings and None, so that they can go through
JSON.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar

#: Upper bounds in seconds, for how long Redis takes.
REDIS_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
#: The same for a refresh of the credentials.
RELOAD_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class HistogramStats(TypedDict):
    """bounds: upper, in seconds; counts: of the samples up to each, and of those above the last;
    sum: of all, in seconds.
    """

    bounds: list[float]
    counts: list[int]
    sum: float


class SampleStats(TypedDict):
    """The same where there are many: by upper bound, as text, those that have samples; sum: in
    seconds.
    """

    counts: dict[str, int]
    sum: float


#: The upper bound of samples that are above the last one.
ABOVE = "+Inf"


class Histogram:
    """Samples, by how long they took."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """One sample more."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def stats(self) -> HistogramStats:
        """What was observed so far."""
        return {"bounds": list(self._bounds), "counts": list(self._counts), "sum": self._sum}

    def samples(self) -> SampleStats:
        """The same, in a form that is short where there are few."""
        bounds = (*map(str, self._bounds), ABOVE)
        return {"counts": {bound: n for bound, n in zip(bounds, self._counts, strict=True) if n}, "sum": self._sum}


class TenantStats(TypedDict):
    """What one tenant did.

    commands, refused: by family, see `tenants.account`; refused_names: by name; received: bytes
    from clients; replied: bytes from Redis; turned_away: log-ins that would have been more
    connections than the tenant may have; wrong: log-ins with a wrong password that named it; held:
    connections that are not read from now, because the tenant did too much; throttled: seconds for
    which there were any; latency: of its commands, as far as they are timed, see
    `upstream.latency`.
    """

    sessions: int
    commands: dict[str, int]
    refused: dict[str, int]
    refused_names: dict[str, int]
    received: int
    replied: int
    turned_away: int
    wrong: int
    held: int
    throttled: float
    latency: SampleStats


def no_tenant_stats() -> TenantStats:
    """Of a tenant that nobody has logged in as."""
    return {
        "sessions": 0,
        "commands": {},
        "refused": {},
        "refused_names": {},
        "received": 0,
        "replied": 0,
        "turned_away": 0,
        "wrong": 0,
        "held": 0,
        "throttled": 0.0,
        "latency": {"counts": {}, "sum": 0.0},
    }


class Counts(TypedDict):
    """What one process counts.

    sessions: by `clients.connection.STATES`; logins: by outcome; refused_names: commands that
    tenants may not use, by name, of former tenants, too; ended: connections by how they ended;
    connections: to Redis, that are multiplexed, dedicated, idle; in_flight: commands that Redis has
    yet to answer; tenants: by namespace.
    """

    sessions: dict[str, int]
    logins: dict[str, int]
    refused_names: dict[str, int]
    ended: dict[str, int]
    connections: dict[str, int]
    in_flight: int
    redis_seconds: HistogramStats
    tenants: dict[str, TenantStats]


class TenantState(TypedDict):
    """credentials: how many; expires: when the next of them does, in seconds since the epoch, or
    None; limits: those that it has, by the fields of `tenants.limits.Limits`.
    """

    index: int
    credentials: int
    expires: float | None
    limits: dict[str, int]


class ProblemState(TypedDict):
    """What an operator has to fix. secret: empty where it is about the namespace; code: of the
    reason, in `messages`.
    """

    namespace: str
    secret: str
    reason: str
    code: str


class WatchState(TypedDict):
    """watching: whether what changes takes effect at once; events, reconnects: since the start;
    quiet: seconds since the last event, or None.
    """

    watching: bool
    events: int
    reconnects: int
    quiet: float | None


class SnapshotState(TypedDict):
    """loaded: whether there is one; age: seconds since the last reading that succeeded in full, or
    None; watch: None where there is to be none; without_secret: namespaces with the prefix that
    have no secret yet.
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


#: What Redis does: see `upstream.health.Answers`; down: there is no connection to it.
ANSWERS = ("up", "busy", "loading", "hung", "down")


class RedisState(TypedDict):
    """connected: whether it answers; version: empty while that is not known; isolation_layers: how
    many hold the tenants' limits, 1 or 2, 0 while that is not known; answers: one of ANSWERS;
    unanswered: seconds for which it has not answered a PING of the proxy's own, 0 where it has;
    fault: why it cannot be used, empty where it can, or nothing is known of that; fault_code: the
    code of that in `messages`.
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


class CertificateState(TypedDict):
    """What an `ssl:` endpoint shows. begins, expires: in seconds since the epoch; problem: why what
    its files hold now is not in force, or empty.
    """

    listener: str
    begins: float
    expires: float
    problem: str


class TlsState(TypedDict):
    """reloads: changed certificates, by outcome."""

    certificates: list[CertificateState]
    reloads: dict[str, int]


class WorkersState(TypedDict):
    """wanted: how many there are to be; serving: how many of them accept clients; restarts: how
    often one was started in the place of another; pids: of those that run, by number; unready: of
    those that serve and are not ready, why, by number, with the code of that in `messages`.
    """

    wanted: int
    serving: int
    restarts: int
    pids: dict[str, int]
    unready: dict[str, tuple[str, str]]


class State(TypedDict):
    """What one process knows for all. host: of the machine or pod; uptime: seconds since the
    process began; unready: why no client should come, or empty; unready_code: its
    code in `messages`; most_sessions: served at once;
    workers: None where this process serves clients itself.
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
    """The sum of what several processes counted. At least one."""
    found = counts[0]
    for more in counts[1:]:
        found = _sum(found, more)
    return found


def _sum(one: Any, other: Any) -> Any:
    """The sum of two values of one type, which may be any that is in `Counts`.

    Numbers are added, also within dicts and lists; what is the same of both, such as bounds, is
    kept.
    """
    if isinstance(one, dict):
        found = {**other, **one}
        for key in one.keys() & other.keys() - {"bounds"}:
            found[key] = _sum(one[key], other[key])
        return found
    if isinstance(one, list):
        return [_sum(a, b) for a, b in zip(one, other, strict=True)]
    return one + other
