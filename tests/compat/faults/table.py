"""Results as JSON lines, and as a table for people: plain text or Markdown.

Does not measure anything: a result is a dictionary with the fields of `events.Outcome`, and
library, fault, way (``straight`` or ``through``), and perhaps ``skipped`` (why it did not run) or
``trouble`` (what went wrong with the program or the proxy).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

WAYS = ("straight", "through")
HEAD = ("library", "fault", "straight to Redis", "through the proxy", "worse in")
#: Seconds that a failover takes at most, if the sentinels agree at once.
USUAL_FAILOVER = 4.0
#: By field: through the proxy a result is worse if it is more than the straight one times a factor,
#: and something. A connection that is lost may cost one item, and what is in flight is a matter of
#: chance: a program has some 20 connections. Where no command fails straight, none may fail through
#: the proxy.
MARGINS = {
    "failed": (1.2, 20),
    "longest_wait": (1.2, 1.5),
    "lost": (1.5, 2),
    "twice": (1.5, 4),
    "missed": (1.5, 20),
    "dead": (1, 0),
}


def write(path: Path, result: dict) -> None:
    """Appends a result to a file."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def read(paths: Iterable[Path]) -> list[dict]:
    """Returns the results of files of JSON lines. The last result of a cell counts."""
    found = {}
    for path in paths:
        for line in path.read_text().splitlines():
            result = json.loads(line)
            key = (result["library"], result["fault"], result["way"])
            found.pop(key, None)
            found[key] = result
    return list(found.values())


def cell(result: dict | None) -> str:
    """Returns a result as a short text: ``3 of 4,512 failed until 2.1 s; 1 lost``."""
    if result is None:
        return ""
    if "skipped" in result:
        return f"not run: {result['skipped']}"
    words = [f"{result['failed']:,} of {result['tried']:,}"]
    if result["last_error"] is not None:
        words[0] += f" until {result['last_error']:.1f} s"
    if result["longest_wait"] >= 0.5:
        words.append(f"waits {result['longest_wait']:.1f} s")
    words += [f"{result[name]} {name}" for name in ("lost", "twice", "missed") if result[name]]
    if _slow_failover(result):
        words.append(f"the failover took {result['fault_seconds']:.1f} s")
    if result["dead"]:
        words.append("dead: " + ", ".join(_together(result["dead"])))
    if result.get("trouble"):
        words.append(result["trouble"])
    return "; ".join(words)


def _slow_failover(result: dict) -> float:
    """Returns how many seconds longer than usual the sentinels took: sometimes they vote
    again.
    """
    return max(0.0, result["fault_seconds"] - USUAL_FAILOVER) if result["fault"] == "failover" else 0.0


def _together(dead: Sequence[str]) -> list[str]:
    """Returns how many clients of each role there are."""
    roles: dict[str, int] = {}
    for client in dead:
        role = client.split()[0]
        roles[role] = roles.get(role, 0) + 1
    return [f"{count} {role}" for role, count in roles.items()]


def worse(straight: dict | None, through: dict | None) -> list[str]:
    """Returns what is worse through the proxy. Nothing if a way was not measured."""
    if straight is None or through is None or "skipped" in straight or "skipped" in through:
        return []

    # Whether clients are at an INCR or at a GET when the fault begins is a matter of chance.
    more_under_way = max(1.0, through.get("under_way", 0) / max(1, straight.get("under_way", 0)))

    def number(result: dict, name: str) -> float:
        if name == "twice" and result is straight:
            return result[name] * more_under_way
        if name == "longest_wait":
            return max(0.0, result[name] - _slow_failover(result))
        return len(result[name]) if name == "dead" else result[name]

    found = [
        _WORDS.get(name, name)
        for name, (factor, more) in MARGINS.items()
        if number(through, name) > factor * number(straight, name) + more
        or (name == "failed" and through["failed"] and not straight["failed"])
    ]
    return [*found, *(["trouble"] if through.get("trouble") and not straight.get("trouble") else [])]


_WORDS = {"longest_wait": "waits"}


def rows(results: Iterable[dict], libraries: Sequence[str], faults: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns a row for each library and fault that has a result, in the order of the two lists."""
    by_cell = {(result["library"], result["fault"], result["way"]): result for result in results}
    found = []
    for library in libraries:
        for fault in faults:
            ways = [by_cell.get((library, fault, way)) for way in WAYS]
            if any(ways):
                found.append((library, fault, *map(cell, ways), ", ".join(worse(*ways))))
    return found


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def plain(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in (HEAD, *rows)
    )
