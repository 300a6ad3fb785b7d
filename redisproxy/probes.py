"""Marks branches that are rarely taken. The simulation (`tests/sim`) reports the branches that it
never reached.

A probe costs a function call, so only rare branches have one. Each call of `probes.reached("…")`
has a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable


def _ignore(name: str) -> None:
    pass


#: Called with the name of the branch. The simulation replaces this function.
reached: Callable[[str], object] = _ignore
