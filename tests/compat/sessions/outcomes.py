"""What a client program printed, how two runs of it differ, and what is known of that.

A program prints a line ``step: outcome`` for each of its steps, and ``version: …`` first. Outcomes
depend neither on the time nor on the address. `REASONS` is written by hand: it has each difference
that is known, with the reason and the way around. `RESULTS` is written by ``run-sessions --write``.
docs/tenants.md shows both (`make docs`).

Does not run anything, and needs no library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
REASONS = HERE / "reasons.yaml"
RESULTS = HERE / "results.json"
#: The outcome of a step that one of the two runs does not have.
MISSING = "(nothing)"
#: Bytes of an outcome that are kept.
LONGEST = 300


@dataclass
class Outcomes:
    """What a program printed. steps: outcomes by step, in the order of the program; end: what went
    wrong with the program as such, if anything did.
    """

    version: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    end: str = ""


def parse(text: str, end: str = "", names: Mapping[str, str] = {}) -> Outcomes:
    """Reads what a program printed. names: words to replace, such as the port. A line that is no
    step is left out: some libraries log to the standard output.
    """
    found = Outcomes(end=end)
    for word, name in names.items():
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", name, text)
    for line in text.splitlines():
        match = re.match(r"([\w][^:]*): (.*)", line)
        if match is None:
            continue
        step, outcome = match[1], match[2].strip()[:LONGEST]
        if step == "version":
            found.version = outcome
        elif step in found.steps:
            found.end = found.end or f"the step {step!r} was printed twice"
        else:
            found.steps[step] = outcome
    return found


def differences(straight: Outcomes, through: Outcomes) -> dict[str, tuple[str, str]]:
    """Returns the steps that differ, each with both outcomes."""
    steps = {**straight.steps, **through.steps}
    found = {step: (straight.steps.get(step, MISSING), through.steps.get(step, MISSING)) for step in steps}
    return {step: both for step, both in found.items() if both[0] != both[1]}


def reasons(path: Path = REASONS) -> list[dict]:
    """Returns what is known: a list of dictionaries.

    - steps: names of steps, in any library, or ``Library: step``. A step that is made in both
      protocols is named without its ``RESP2, ``;
    - what, why, instead: texts for docs/tenants.md;
    - soon: true if the difference will be gone in another version of the proxy.
    """
    return yaml.safe_load(path.read_text()) or []


def reason(library: str, step: str, listed: Iterable[dict]) -> dict | None:
    """Returns what is known of a difference, if anything is."""
    step = re.sub(r"^RESP\d, ", "", step)
    return next((each for each in listed if {step, f"{library}: {step}"} & set(each["steps"])), None)


def known(library: str, step: str, listed: Iterable[dict]) -> dict:
    """Returns what is known of a difference. Raises ValueError if nothing is."""
    found = reason(library, step, listed)
    if found is None:
        raise ValueError(f"{library}: {step}: it differs, and {REASONS.name} does not say why")
    return found


def judged(library: str, straight: Outcomes, through: Outcomes, listed: Iterable[dict]) -> list[str]:
    """Returns what is wrong with two runs: a program that failed, a difference without a reason, a
    reason without a difference.
    """
    listed = list(listed)
    wrong = [f"{way}: {each.end}" for way, each in (("straight", straight), ("through the proxy", through)) if each.end]
    if not straight.steps:
        wrong.append("no step was printed")
    found = differences(straight, through)
    for step in {**straight.steps, **found}:
        why = reason(library, step, listed)
        if step in found and why is None:
            wrong.append(f"{step}: it differs, and reasons.yaml does not say why")
        elif step not in found and why is not None and not why.get("soon"):
            wrong.append(f"{step}: it no longer differs: remove it from reasons.yaml")
    return wrong


def result(straight: Outcomes, through: Outcomes) -> dict:
    """Returns what is kept of two runs."""
    return {
        "version": straight.version,
        "steps": len(straight.steps),
        "differ": {step: list(both) for step, both in differences(straight, through).items()},
    }


def read(path: Path = RESULTS) -> dict[str, dict]:
    return json.loads(path.read_text()) if path.exists() else {}


def write(results: Mapping[str, dict], order: Iterable[str], path: Path = RESULTS) -> None:
    """Writes the results, in this order of the libraries. Those of other libraries stay."""
    merged = {**read(path), **results}
    kept = {name: merged[name] for name in order if name in merged}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def report(library: str, straight: Outcomes, through: Outcomes) -> str:
    """Returns a few lines for people."""
    found = differences(straight, through)
    lines = [f"{library} ({straight.version}): {len(straight.steps)} steps, {len(found)} differ"]
    for step, (one, other) in found.items():
        lines += [f"  {step}", f"    straight: {one}", f"    through:  {other}"]
    return "\n".join(lines)
