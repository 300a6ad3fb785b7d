"""Names of branches that are rarely taken: the simulation (`tests/sim`) says which of them it never
reached.

A probe costs a call, so it stands in rare branches alone. `probes.reached("…")` takes a name that
no other place has.
"""

from __future__ import annotations

from collections.abc import Callable


def _ignore(name: str) -> None:
    pass


#: Called with the name of the branch. The simulation puts its own there.
reached: Callable[[str], object] = _ignore
