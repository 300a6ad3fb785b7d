"""Turns samples into medians, tables, verdicts, RESULTS.md and its pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from .cases import (
    HAPROXY,
    IDLE_CONNECTIONS,
    IDLE_MEMORY,
    IDLE_SESSIONS,
    REFRESH_GROWTH,
    REFRESH_TENANTS,
    STRAIGHT,
    TWEMPROXY,
    Case,
)
from .load import SLICE, LoadError, Sample, Timeline
from .peers import Variant, machine, versions

NONE = "-"
#: The share of the machine's CPU time above which the report warns that other processes used it.
MOST_OTHERS = 0.05


@dataclass
class Rates:
    """One case: each peer's samples, or the reason why a peer has none."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, peer: str, of: str) -> float:
        """Returns the median, or NaN if there are no samples."""
        values = [getattr(sample, of) for sample in self.samples.get(peer, ())]
        return median(values) if values else math.nan

    def ratio(self, proxy: str, peer: str, of: str = "rate") -> float:
        """Returns the ratio of two medians."""
        return self.median(proxy, of) / self.median(peer, of)

    def shown_ratio(self, proxy: str, peer: str) -> str:
        """Returns the ratio of medians with the range of the rounds' own ratios, which shows how
        much of it is noise.
        """
        pairs = zip(self.samples.get(proxy, ()), self.samples.get(peer, ()), strict=False)
        own = sorted(one.rate / other.rate for one, other in pairs)
        return f"{self.ratio(proxy, peer):.2f} ({own[0]:.2f}..{own[-1]:.2f})" if own else NONE


@dataclass(frozen=True)
class Idle:
    """memory: bytes per session; connections: those that Redis had because of the sessions."""

    peer: str
    memory: float
    connections: int


@dataclass
class Refresh:
    """The measurements of one variant. rate: requests per second of the clients; requests: to the
    API for one read; reads: per window with reloads.
    """

    peer: str
    rate: float
    requests: int
    quiet: list[Timeline] = field(default_factory=list)
    busy: list[Timeline] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """How much larger the median p99 is with reloads, in ms."""
        return median(each.p99 for each in self.busy) - median(each.p99 for each in self.quiet)


@dataclass
class Results:
    """The results of one run."""

    variants: Sequence[Variant]
    rounds: int
    rates: list[Rates] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    refresh: list[Refresh] = field(default_factory=list)
    #: The share of the machine's CPU time that other processes used meanwhile.
    others: float = 0.0
    #: The parts that failed, with the reason.
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures one part. If it fails, the results of the other parts are kept."""
        try:
            yield
        except (LoadError, AssertionError) as error:
            self.failed.append(f"{name}: {str(error).splitlines()[0]}")

    @property
    def proxies(self) -> list[str]:
        return [variant.name for variant in self.variants]


@dataclass(frozen=True)
class Verdict:
    """Whether one variant reached one goal."""

    what: str
    proxy: str
    goal: str
    measured: str
    met: bool


def verdicts(results: Results) -> list[Verdict]:
    """Returns the verdicts on all goals of the cases that ran."""
    found = []
    for proxy in results.proxies:
        for rates in results.rates:
            for goal in rates.case.goals:
                ratio = rates.ratio(proxy, goal.peer, "p50" if goal.of_p50 else "rate")
                found.append(Verdict(rates.case.title, proxy, str(goal), _number(ratio), goal.met(ratio)))
        sessions = f"{IDLE_SESSIONS:,} idle sessions"
        for idle in results.idle:
            if idle.peer == proxy:
                kib = idle.memory / 1024
                found += [
                    Verdict(
                        sessions, proxy, f"at most {IDLE_MEMORY // 1024} KiB each", f"{kib:.1f}", idle.memory <= IDLE_MEMORY
                    ),
                    Verdict(
                        sessions,
                        proxy,
                        f"at most {IDLE_CONNECTIONS} connections to Redis",
                        f"{idle.connections:,}",
                        idle.connections <= IDLE_CONNECTIONS,
                    ),
                ]
        for refresh in results.refresh:
            if refresh.peer == proxy:
                found.append(
                    Verdict(
                        f"refresh of {REFRESH_TENANTS:,} tenants at half load",
                        proxy,
                        f"p99 grows by at most {REFRESH_GROWTH:g} ms",
                        f"{refresh.growth:+.2f}",
                        refresh.growth <= REFRESH_GROWTH,
                    )
                )
    return found


# Tables


def _number(value: float) -> str:
    """Returns a number with three significant digits, or as a whole number from 100 on."""
    if math.isnan(value):
        return NONE
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a Markdown table that is readable as plain text. left: how many columns are text."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def shown(line: Sequence[str]) -> str:
        cells = [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = [w * "-" if i < left else (w - 1) * "-" + ":" for i, w in enumerate(widths)]
    return "\n".join([shown(lines[0]), f"| {' | '.join(rule)} |", *map(shown, lines[1:])])


def _rates_table(results: Results) -> str:
    ratios = [f"{proxy} ÷ it" for proxy in results.proxies]
    head = ["load", "peer", "req/s", "min..max", "p50 ms", "p99 ms", "CPU µs/req", *ratios]
    rows = []
    for rates in results.rates:
        for number, peer in enumerate([*results.proxies, HAPROXY, TWEMPROXY, STRAIGHT]):
            title = "" if number else rates.case.title
            samples = rates.samples.get(peer)
            if not samples:
                rows.append([title, peer, *[NONE] * (len(head) - 2)])
                continue
            measured = sorted(sample.rate for sample in samples)
            cells = [_number(rates.median(peer, of)) for of in ("rate", "p50", "p99", "cpu")]
            cells.insert(1, f"{_number(measured[0])}..{_number(measured[-1])}")
            rows.append([title, peer, *cells, *[rates.shown_ratio(p, peer) if p != peer else "" for p in results.proxies]])
    return table(head, rows, 2)


def tables(results: Results) -> str:
    """Returns all measurements and the verdicts, as Markdown."""
    parts = []
    if results.others > MOST_OTHERS:
        parts.append(
            f"**Others took {results.others:.0%} of the machine's CPU time meanwhile: rates and latencies, their ratios and "
            "the verdicts are noise to that extent; CPU time per request is less so.**"
        )
    if results.rates:
        parts.append(_rates_table(results))
    if results.idle:
        head = [f"{IDLE_SESSIONS:,} idle sessions", "KiB each", "connections to Redis"]
        parts.append(table(head, [[i.peer, f"{i.memory / 1024:.1f}", f"{i.connections:,}"] for i in results.idle]))
    if results.refresh:
        head = [
            f"{REFRESH_TENANTS:,} tenants",
            "req/s",
            "refreshes/window",
            "p99 ms without",
            "min..max",
            "p99 ms with",
            "min..max",
        ]
        rows = []
        for refresh in results.refresh:
            row = [refresh.peer, _number(refresh.rate), f"{median(refresh.reads):.1f}"]
            for windows in (refresh.quiet, refresh.busy):
                measured = sorted(window.p99 for window in windows)
                row += [_number(median(measured)), f"{_number(measured[0])}..{_number(measured[-1])}"]
            rows.append(row)
        parts.append(table(head, rows))
    failed = [f"{rates.case.title}: {p}: {why}" for rates in results.rates for p, why in rates.failed.items()]
    without = [f"{rates.case.case}: {rates.case.without}" for rates in results.rates if rates.case.without]
    if without or failed or results.failed:
        parts.append("No figures, because:\n\n" + "\n".join(f"- {text}" for text in (*without, *failed, *results.failed)))
    judged = verdicts(results)
    if judged:
        rows = [[v.what, v.proxy, v.goal, v.measured, "PASS" if v.met else "FAIL"] for v in judged]
        parts.append(table(["goal for", "variant", "has to be", "is", ""], rows, 3))
    return "\n\n".join(parts)


# RESULTS.md


def write(results: Results, directory: Path) -> None:
    """Writes RESULTS.md and the pictures beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    known = versions(results.variants[0])
    pictures = []
    if results.rates:
        _plot_rates(results, directory / "rates.svg")
        pictures.append("![requests a second, as shares of what Redis does without a proxy](rates.svg)")
    if results.refresh:
        _plot_refresh(results, directory / "refresh.svg")
        pictures.append("![the clients' p99 over time, without and with refreshes](refresh.svg)")
    lines = [
        "# Results of the last `make bench`",
        "",
        f"- {time.strftime('%Y-%m-%d')}, {machine()}, clients and servers on it.",
        f"- {', '.join(f'{name} {number}' for name, number in known.items())}.",
        *[f"- {variant.name}: {variant.describe()}." for variant in results.variants],
        f"- Medians of {results.rounds} interleaved rounds. Beside a ratio of medians are, in parentheses, the rounds' own,",
        "  from the smallest to the largest. Absolute numbers are this machine's on this day: read the ratios.",
        "- CPU time is that of the peer alone; of `straight`, Redis's own. How it is measured: CONTRIBUTING.md.",
        "",
        *[line for picture in pictures for line in (picture, "")],
        tables(results),
        "",
    ]
    (directory / "RESULTS.md").write_text("\n".join(lines))


_GREYS = {HAPROXY: "#8c96a3", TWEMPROXY: "#b9c0c9", STRAIGHT: "#dde1e6"}
_COLOURS = ("#c8102e", "#1f6fb2", "#2e8b57", "#b8860b")


def _figure(width: float, height: float):
    import matplotlib

    matplotlib.use("svg")
    # The same input gives the same file.
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "font.family": "sans-serif"}
    )
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    # The viewer's font may be wider than the one of the layout.
    figure.get_layout_engine().set(w_pad=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: object, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def _plot_rates(results: Results, path: Path) -> None:
    """Draws bars, a group for each case, as shares of Redis without a proxy: the cases' own rates
    differ by orders of magnitude.
    """
    peers = [*results.proxies, HAPROXY, TWEMPROXY]
    colours = dict(zip(results.proxies, _COLOURS * len(results.proxies), strict=False)) | _GREYS
    figure, axes = _figure(8, 1 + 0.17 * len(results.rates) * (len(peers) + 1))
    thick = 1 / (len(peers) + 1)
    for number, peer in enumerate(peers):
        places = [row + (number - (len(peers) - 1) / 2) * thick for row in range(len(results.rates))]
        shares = [rates.ratio(peer, STRAIGHT) for rates in results.rates]
        drawn = [(place, share) for place, share in zip(places, shares, strict=True) if not math.isnan(share)]
        if drawn:
            axes.barh(*zip(*drawn, strict=True), height=thick * 0.92, color=colours[peer], label=peer)
        for place, share in drawn:
            axes.annotate(f"{share:.2f}", (share, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.axvline(1, color="#444", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(results.rates)), [rates.case.title for rates in results.rates])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("requests a second, as a share of what Redis does without a proxy")
    figure.legend(loc="outside upper center", ncols=len(peers), frameon=False)
    _save(figure, path)


def _plot_refresh(results: Results, path: Path) -> None:
    """Draws the p99 of each 0.1 s as lines, medians of the rounds."""
    figure, axes = _figure(8, 2.8)
    for refresh, colour in zip(results.refresh, _COLOURS * len(results.refresh), strict=False):
        for windows, style, text in ((refresh.quiet, ":", "no refresh"), (refresh.busy, "-", "a refresh each second")):
            drawn = []
            for number, slices in enumerate(zip(*(window.slices for window in windows), strict=True)):
                # Nothing was sent while the generator itself did not run.
                known = [value for value in slices if not math.isnan(value)]
                if known:
                    drawn.append((number * SLICE, median(known)))
            axes.plot(*zip(*drawn, strict=True), style, color=colour, linewidth=1.4, label=f"{refresh.peer}, {text}")
    axes.set_xlabel("seconds")
    axes.set_ylabel("p99, ms")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=2)
    axes.set_title(f"{REFRESH_TENANTS:,} tenants are read anew while clients send at half load", loc="left", fontsize=9)
    _save(figure, path)
