"""Waiting for something to become true, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

#: Seconds. Generous: it is only reached when something is wrong, or the machine very busy.
LIMIT = 45.0


def until(probe: Callable[[], Found], what: str, limit: float = LIMIT) -> Found:
    """The first true value that probe returns. Raises AssertionError, naming what, after limit
    seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit} s: {what}")
        time.sleep(0.01)
