"""The attacks of one tenant on another, as data: the rows of the table that `benchmarks.noise`
prints.

`row` says what a row is, and `streams` has the machinery of most attackers. The other modules have
the rows, by what is attacked. `python -m benchmarks.attacks` is the process of one attacker.
"""

from __future__ import annotations

from .further import EARLIER, OURS
from .kubernetes import KUBERNETES
from .memory import MEMORY
from .redis_time import REDIS_TIME
from .row import Row
from .work import WORK

#: The rows of each group, by name. `known` are those of the list that the proxy's bounds were
#: designed for.
GROUPS: dict[str, dict[str, Row]] = {
    "known": {**WORK, **MEMORY, **REDIS_TIME, **KUBERNETES},
    "ours": OURS,
    "earlier": EARLIER,
}
ROWS: dict[str, Row] = {name: row for group in GROUPS.values() for name, row in group.items()}
#: The groups that are measured if nothing else is asked for.
USUAL = ("known", "ours")


def chosen(text: str) -> list[str]:
    """Returns the names of rows: of those that the text has, of groups, and with commas between.
    Empty: the usual ones. Raises ValueError.
    """
    found: dict[str, None] = {}
    for name in [name for name in text.split(",") if name] or USUAL:
        if name not in ROWS and name not in GROUPS:
            raise ValueError(f"no such row: {name}; there are: {', '.join((*GROUPS, *ROWS))}")
        found.update(dict.fromkeys(GROUPS.get(name, [name])))
    return list(found)
