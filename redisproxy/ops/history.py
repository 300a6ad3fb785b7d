"""Keeps the last minutes of the counters: rates, latency, and the points of plots.

Owns what is kept, in bounded memory: SAMPLES samples of the sum, and as many for each of TENANTS
tenants. If there are more tenants, those are kept that were busiest lately. Callers give the times,
in seconds of a monotonic clock.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from .stats import ABOVE, REDIS_BOUNDS, Counts, SampleStats, TenantStats

#: Seconds between two samples.
INTERVAL = 10.0
#: Samples that are kept: five minutes.
SAMPLES = 30
#: Tenants of which samples are kept: 2 KiB each.
TENANTS = 500
#: The weight of what a tenant did before is multiplied by this at each sample. The tenants with the
#: greatest weight are kept.
FADING = 0.9

_BUCKETS = len(REDIS_BOUNDS) + 1
_BUCKET = {str(bound): number for number, bound in enumerate(REDIS_BOUNDS)} | {ABOVE: _BUCKETS - 1}
#: The largest number in an array of type "H".
_MOST = 65535


def quantile(counts: Sequence[int], part: float) -> float | None:
    """Returns the time in seconds that this part of the samples did not exceed.

    Returns None if there are no samples, and infinity above the last bound. Within a bucket,
    samples are assumed to be spread evenly, as Prometheus does.

    counts: how many samples are in the bucket of each of REDIS_BOUNDS, and above the last bound.
    part: from 0 to 1.
    """
    rank = part * sum(counts)
    so_far = 0
    for number, count in enumerate(counts):
        if count and so_far + count >= rank:
            if number == len(REDIS_BOUNDS):
                return math.inf
            lower = REDIS_BOUNDS[number - 1] if number else 0.0
            return lower + (REDIS_BOUNDS[number] - lower) * (rank - so_far) / count
        so_far += count
    return None


class _Ring:
    """The last SAMPLES numbers. A missing number is NaN."""

    __slots__ = ("_begin", "_numbers")

    def __init__(self) -> None:
        self._numbers = array("f", [math.nan]) * SAMPLES
        self._begin = 0

    def add(self, number: float | None) -> None:
        self._numbers[self._begin] = math.nan if number is None else number
        self._begin = (self._begin + 1) % SAMPLES

    def __iter__(self) -> Iterator[float]:
        """Yields the oldest number first."""
        yield from self._numbers[self._begin :]
        yield from self._numbers[: self._begin]


class Series:
    """What one tenant, or all tenants together, did in the last minutes.

    commands, bytes: per second, for each interval.
    medians, slow: the 50th and 99th percentile of the latency in seconds, for each interval; NaN if
        nothing was timed.
    """

    __slots__ = ("_before", "_begin", "_buckets", "_latency", "_refused", "bytes", "commands", "medians", "slow", "weight")

    def __init__(self, latency: Sequence[int], refused: int) -> None:
        self.commands = _Ring()
        self.bytes = _Ring()
        self.medians = _Ring()
        self.slow = _Ring()
        #: commands per second, with older intervals weighted less: see FADING
        self.weight = 0.0
        # The counters at the last sample. The arrays have their growth in each interval.
        self._before = (list(latency), refused)
        self._begin = 0
        self._buckets = array("H", [0]) * (SAMPLES * _BUCKETS)
        self._refused = array("H", [0]) * SAMPLES
        # The sum of all intervals' buckets.
        self._latency = [0] * _BUCKETS

    def add(self, commands: float, size: float, latency: Sequence[int], refused: int) -> None:
        """Adds an interval that has ended. commands, size: per second; latency, refused: the
        counters.
        """
        before, self._before = self._before, (list(latency), refused)
        new = [min(max(0, now - then), _MOST) for now, then in zip(latency, before[0], strict=True)]
        at = self._begin * _BUCKETS
        for number, count in enumerate(new):
            self._latency[number] += count - self._buckets[at + number]
            self._buckets[at + number] = count
        self._refused[self._begin] = min(max(0, refused - before[1]), _MOST)
        self._begin = (self._begin + 1) % SAMPLES
        self.commands.add(commands)
        self.bytes.add(size)
        self.medians.add(quantile(new, 0.5))
        self.slow.add(quantile(new, 0.99))

    @property
    def timed(self) -> int:
        """The number of latency samples."""
        return sum(self._latency)

    def latency(self, part: float) -> float | None:
        """Returns a percentile of the latency in seconds: see `quantile`."""
        return quantile(self._latency, part)

    @property
    def turned_away(self) -> int:
        """Log-ins that were refused because the tenant had as many connections as it may."""
        return sum(self._refused)


def _buckets(latency: SampleStats) -> list[int]:
    found = [0] * _BUCKETS
    for bound, count in latency["counts"].items():
        found[_BUCKET[bound]] = count
    return found


class Rate(NamedTuple):
    """Commands per second, and bytes per second that clients sent and Redis answered."""

    commands: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Recent:
    """What happened in the last minutes.

    seconds: how far back that is.
    rates: of each tenant, by namespace.
    series: of each tenant of which samples are kept, by namespace.
    total: of all tenants together.
    logins: by outcome.
    scripts_ended: scripts that ran for too long, by namespace, if there were any.
    """

    seconds: float = 0.0
    rates: Mapping[str, Rate] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    total: Series = field(default_factory=lambda: Series([0] * _BUCKETS, 0))
    logins: Mapping[str, int] = field(default_factory=dict)
    scripts_ended: Mapping[str, int] = field(default_factory=dict)


#: Commands and bytes of each tenant so far, by namespace.
_Done = dict[str, tuple[int, int]]


def _done(counts: Counts) -> _Done:
    return {
        name: (sum(one["commands"].values()), one["received"] + one["replied"]) for name, one in counts["tenants"].items()
    }


class History:
    """The history of one proxy, with all its processes together."""

    def __init__(self) -> None:
        # When the last two samples were taken, and what all tenants had done by then.
        self._looks: deque[tuple[float, _Done]] = deque(maxlen=2)
        # Log-ins at each sample.
        self._logins: deque[tuple[float, dict[str, int]]] = deque(maxlen=SAMPLES + 1)
        # Scripts that were ended, at each sample.
        self._ended: deque[dict[str, int]] = deque(maxlen=SAMPLES + 1)
        self._series: dict[str, Series] = {}
        self._total: Series | None = None

    def add(self, now: float, counts: Counts) -> None:
        """Adds a sample. now: the clock's seconds."""
        done = _done(counts)
        latency = counts["redis_seconds"]["counts"]
        if self._total is None:
            self._total = Series(latency, 0)
            begun = islice(counts["tenants"].items(), TENANTS)
            self._series = {name: Series(_buckets(one["latency"]), one["turned_away"]) for name, one in begun}
        else:
            then, before = self._looks[-1]
            rates = _rates(now - then, done, before)
            self._add_tenants(counts["tenants"], rates, before)
            total = Rate(sum(rate.commands for rate in rates.values()), sum(rate.bytes for rate in rates.values()))
            self._total.add(total.commands, total.bytes, latency, 0)
        self._looks.append((now, done))
        self._logins.append((now, dict(counts["logins"])))
        self._ended.append(_scripts_ended(counts))

    def _add_tenants(self, tenants: Mapping[str, TenantStats], rates: Mapping[str, Rate], before: _Done) -> None:
        kept: dict[str, Series] = {}
        for name in self._busiest(rates):
            one = tenants[name]
            latency = _buckets(one["latency"])
            series = self._series.get(name)
            if series is None:
                # For a known tenant, earlier work is not part of this interval. A tenant that is
                # new did all its work in this interval.
                series = Series(latency, one["turned_away"]) if name in before else Series([0] * _BUCKETS, 0)
            kept[name] = series
            series.weight = FADING * series.weight + rates[name].commands
            series.add(rates[name].commands, rates[name].bytes, latency, one["turned_away"])
        self._series = kept

    def _busiest(self, rates: Mapping[str, Rate]) -> list[str]:
        if len(rates) <= TENANTS:
            return list(rates)

        def weight(name: str) -> float:
            series = self._series.get(name)
            return rates[name].commands + (0.0 if series is None else FADING * series.weight)

        return heapq.nlargest(TENANTS, rates, weight)

    def recent(self, now: float, counts: Counts, rates: bool = True) -> Recent:
        """Returns what happened until now.

        counts: the present counters; rates: whether to compute the rates, which are of all tenants.
        """
        if self._total is None:
            return Recent()
        then, before = self._looks[0]
        since, logins = self._logins[0]
        return Recent(
            now - since,
            _rates(now - then, _done(counts), before) if rates else {},
            self._series,
            self._total,
            {outcome: max(0, count - logins.get(outcome, 0)) for outcome, count in counts["logins"].items()},
            {
                name: count - self._ended[0].get(name, 0)
                for name, count in _scripts_ended(counts).items()
                if count > self._ended[0].get(name, 0)
            },
        )


def _scripts_ended(counts: Counts) -> dict[str, int]:
    return {name: count for name, one in counts["tenants"].items() if (count := one["scripts_ended"])}


def _rates(seconds: float, done: _Done, before: _Done) -> dict[str, Rate]:
    """Returns the rate of each tenant. A counter that became smaller was restarted, and counts as
    0.
    """
    idle = Rate()
    rates = dict.fromkeys(done, idle)
    if seconds > 0:
        for name, now in done.items():
            then = before.get(name, (0, 0))
            if now != then:
                rates[name] = Rate(max(0, now[0] - then[0]) / seconds, max(0, now[1] - then[1]) / seconds)
    return rates
