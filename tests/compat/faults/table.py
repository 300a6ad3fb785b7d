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
HEAD = ("library", "fault", "straight to Redis", "through the proxy")


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
    if result["dead"]:
        words.append("dead: " + ", ".join(_together(result["dead"])))
    if result.get("trouble"):
        words.append(result["trouble"])
    return "; ".join(words)


def _together(dead: Sequence[str]) -> list[str]:
    """Returns how many clients of each role there are."""
    roles: dict[str, int] = {}
    for client in dead:
        role = client.split()[0]
        roles[role] = roles.get(role, 0) + 1
    return [f"{count} {role}" for role, count in roles.items()]


def rows(results: Iterable[dict], libraries: Sequence[str], faults: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns a row for each library and fault that has a result, in the order of the two lists."""
    by_cell = {(result["library"], result["fault"], result["way"]): result for result in results}
    return [
        (library, fault, *(cell(by_cell.get((library, fault, way))) for way in WAYS))
        for library in libraries
        for fault in faults
        if any((library, fault, way) in by_cell for way in WAYS)
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def plain(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in (HEAD, *rows)
    )
