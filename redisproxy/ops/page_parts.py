"""Parts of the status page: its content, cells, tables, small plots, and numbers as text.

Owns how many rows a table may have, and the pauses in long tables, in which clients are served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.web.template import Tag, tags

from .history import Recent
from .problems import OpenProblem
from .stats import REDIS_BOUNDS, Stats

#: Called after each row of a long table. If it returns a Deferred, the page waits for that, and
#: clients are served meanwhile.
Pause = Callable[[], "Deferred[str] | None"]
#: Rows of a table, and names of a list. If there are more tenants, the busiest are shown.
ROWS = 500


@dataclass(frozen=True, slots=True)
class PageContent:
    """What the page shows.

    recent: the last minutes.
    problems: all open problems.
    since: returns how many seconds a problem has been known, or None if unknown.
    runbooks: names of the runbooks that can be shown.
    """

    stats: Stats
    recent: Recent = field(default_factory=Recent)
    problems: Sequence[OpenProblem] = ()
    since: Callable[[OpenProblem], float | None] = lambda _: None
    runbooks: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """The fixed properties of a table.

    name: its class, and the name of its sort order in the browser.
    columns: their titles; # before a title means numbers, and ~ long texts.
    most: rows that are shown.
    """

    name: str
    columns: Sequence[str]
    most: int = ROWS


def marked(text: str, kind: str) -> Tag:
    """Returns a text with a colour. kind: good, bad or warn; empty for none."""
    return tags.span(text, class_=kind) if kind else tags.span(text)


def sorted_cell(value: float | None, *shown: str | Tag) -> Tag:
    """Returns a cell that shows something else than a plain number.

    value: the number to sort by; infinity sorts as the largest; None if nothing is known.
    """
    # A tag without attributes costs half as much. So the style sets how a column looks, by its
    # position in the table.
    return (
        tags.td(*shown) if value is None else tags.td(*shown, **{"data-v": "1e99" if math.isinf(value) else f"{value:.6g}"})
    )


def table_of(table: Table, rows: Iterable[Tag], count: int, pause: Pause = lambda: None) -> Tag:
    """Returns a table with these rows. count: how many rows there are, with those that are not
    shown.
    """
    heads = [
        tags.th(title[1:], scope="col", class_="number") if title[0] == "#" else tags.th(title.lstrip("~"), scope="col")
        for title in table.columns
    ]
    shown = tags.table(
        tags.thead(tags.tr(*heads)), tags.tbody(_paused(rows, pause)), class_=table.name, **{"data-sort": table.name}
    )
    scrolls = tags.div(shown, class_="scroll", tabindex="0")
    return tags.div(scrolls, *not_shown(count, table.most))


def _paused(rows: Iterable[Tag], pause: Pause) -> Generator[Tag | Deferred[str], None, None]:
    for row in rows:
        yield row
        wait = pause()
        if wait is not None:
            yield wait


def not_shown(count: int, most: int) -> Iterable[Tag]:
    """Returns a line that says how many of `count` are not shown, if any."""
    return [tags.p(f"{count - most:,} more are not shown.", class_="soft")] if count > most else []


#: Size of a plot in pixels, without its margins: see `svg` in the style.
_WIDTH, _HEIGHT = 87, 20


def plot(text: Callable[[float], str], *lines: Iterable[float]) -> Iterable[Tag]:
    """Returns a small plot of some lines, or nothing if all numbers are 0.

    text: formats a number.
    lines: the numbers of each line, oldest first; NaN where one is missing.
    """
    drawn = [[None if math.isnan(number) else number for number in line] for line in lines]
    known = [number for line in drawn for number in line if number is not None]
    most = max((number for number in known if not math.isinf(number)), default=0.0)
    if not most:
        return []
    paths = [_path([None if number is None else min(number / most, 1.0) for number in line]) for line in drawn]
    return [
        Tag("svg")(Tag("title")(f"at most {text(max(known))}"), *(Tag("path")(d=path) for path in paths if path)),
    ]


def _path(numbers: Sequence[float | None]) -> str:
    """Returns the path of an SVG: a line for each run of numbers, which are from 0 to 1."""
    step = _WIDTH / max(1, len(numbers) - 1)
    runs: list[list[str]] = [[]]
    for position, number in enumerate(numbers):
        if number is not None:
            runs[-1].append(f"{position * step:.0f} {1 + _HEIGHT - _HEIGHT * number:.0f}")
        elif runs[-1]:
            runs.append([])
    # A line of length 0 is a dot, because line ends are round.
    return "".join(f"M{run[0]}{'L' + ' '.join(run[1:]) if run[1:] else 'h0'}" for run in runs if run)


def rate_text(value: float) -> str:
    """Formats a number per second."""
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def size_text(value: float) -> str:
    """Formats a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{rate_text(value)} {unit}"
        value /= 1000
    return f"{rate_text(value)} GB"


def seconds_text(value: float | None) -> str:
    """Formats a duration. Infinity means longer than the last bound; None means unknown."""
    if value is None:
        return "-"
    if math.isinf(value):
        return f"over {REDIS_BOUNDS[-1]:g} s"
    for unit, size in (("s", 1.0), ("ms", 0.001)):
        if value >= size:
            shown = value / size
            return f"{shown:.0f} {unit}" if shown >= 10 else f"{shown:.1f} {unit}"
    return f"{value * 1000:.2f} ms"
