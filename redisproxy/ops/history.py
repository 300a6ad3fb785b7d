"""The last minutes of the numbers: rates, latency, and the points of plots.

Owns what is kept, and how much of it: SAMPLES samples of the sum, and as many of each of TENANTS
tenants. Of more tenants those are kept that did most of late. Times are given by the caller, in
seconds of a clock that nobody sets.
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
#: What a tenant did before counts so much less with each sample, when those are chosen that did
#: most.
FADING = 0.9

_BUCKETS = len(REDIS_BOUNDS) + 1
_BUCKET = {str(bound): number for number, bound in enumerate(REDIS_BOUNDS)} | {ABOVE: _BUCKETS - 1}
#: The most that an array of the type "H" holds.
_MOST = 65535


def quantile(counts: Sequence[int], part: float) -> float | None:
    """In seconds: so great a part of the samples took no longer. None: there are none. Infinite:
    longer than the last bound.

    counts: of the samples up to each of REDIS_BOUNDS, and of those above. Within a bucket samples
    are taken to be spread evenly, as Prometheus does.
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
    """The last SAMPLES numbers. Where there is none, it is NaN."""

    __slots__ = ("_begin", "_numbers")

    def __init__(self) -> None:
        self._numbers = array("f", [math.nan]) * SAMPLES
        self._begin = 0

    def add(self, number: float | None) -> None:
        self._numbers[self._begin] = math.nan if number is None else number
        self._begin = (self._begin + 1) % SAMPLES

    def __iter__(self) -> Iterator[float]:
        """The oldest first."""
        yield from self._numbers[self._begin :]
        yield from self._numbers[: self._begin]


class Series:
    """What one tenant did in the last minutes, or all of them together.

    commands, bytes: in a second; medians, slow: the latency of half of the commands, and of all but
    one in a hundred, in seconds: of each interval, NaN where nothing was timed.
    """

    __slots__ = ("_before", "_begin", "_buckets", "_latency", "_refused", "bytes", "commands", "medians", "slow", "weight")

    def __init__(self, latency: Sequence[int], refused: int) -> None:
        self.commands = _Ring()
        self.bytes = _Ring()
        self.medians = _Ring()
        self.slow = _Ring()
        #: how much it did of late
        self.weight = 0.0
        # The counters at the last sample; and of each interval what came to them.
        self._before = (list(latency), refused)
        self._begin = 0
        self._buckets = array("H", [0]) * (SAMPLES * _BUCKETS)
        self._refused = array("H", [0]) * SAMPLES
        # The sum of all intervals' buckets.
        self._latency = [0] * _BUCKETS

    def add(self, commands: float, size: float, latency: Sequence[int], refused: int) -> None:
        """An interval is over. commands, size: in a second; latency, refused: the counters."""
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
        """How many samples of latency there are."""
        return sum(self._latency)

    def latency(self, part: float) -> float | None:
        """See `quantile`."""
        return quantile(self._latency, part)

    @property
    def turned_away(self) -> int:
        """Log-ins that were refused since the tenant had as many connections as it may."""
        return sum(self._refused)


def _buckets(latency: SampleStats) -> list[int]:
    found = [0] * _BUCKETS
    for bound, count in latency["counts"].items():
        found[_BUCKET[bound]] = count
    return found


class Rate(NamedTuple):
    """In a second. bytes: that clients sent and that Redis answered."""

    commands: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Recent:
    """What happened of late.

    seconds: how far it goes back; rates: of each tenant, by namespace; series: of those of which
    samples are kept; logins: by outcome.
    """

    seconds: float = 0.0
    rates: Mapping[str, Rate] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    total: Series = field(default_factory=lambda: Series([0] * _BUCKETS, 0))
    logins: Mapping[str, int] = field(default_factory=dict)


#: Commands and bytes of each tenant, by namespace.
_Done = dict[str, tuple[int, int]]


def _done(counts: Counts) -> _Done:
    return {
        name: (sum(one["commands"].values()), one["received"] + one["replied"]) for name, one in counts["tenants"].items()
    }


class History:
    """Of the numbers of one proxy, all of its processes together."""

    def __init__(self) -> None:
        # What all tenants had done at the last two samples.
        self._looks: deque[tuple[float, _Done]] = deque(maxlen=2)
        # Log-ins at each sample.
        self._logins: deque[tuple[float, dict[str, int]]] = deque(maxlen=SAMPLES + 1)
        self._series: dict[str, Series] = {}
        self._total: Series | None = None

    def add(self, now: float, counts: Counts) -> None:
        """One sample more."""
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

    def _add_tenants(self, tenants: Mapping[str, TenantStats], rates: Mapping[str, Rate], before: _Done) -> None:
        kept: dict[str, Series] = {}
        for name in self._busiest(rates):
            one = tenants[name]
            latency = _buckets(one["latency"])
            series = self._series.get(name)
            if series is None:
                # What it did before its first sample was not within this interval, unless it is
                # new.
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
        """What happened until now. counts: the present ones; rates: whether those are wanted, which
        are of all tenants.
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
        )


def _rates(seconds: float, done: _Done, before: _Done) -> dict[str, Rate]:
    """Of each tenant. One that was counted anew meanwhile has done nothing less."""
    idle = Rate()
    rates = dict.fromkeys(done, idle)
    if seconds > 0:
        for name, now in done.items():
            then = before.get(name, (0, 0))
            if now != then:
                rates[name] = Rate(max(0, now[0] - then[0]) / seconds, max(0, now[1] - then[1]) / seconds)
    return rates
