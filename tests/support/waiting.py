"""Waits for something to become true, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

#: Seconds. Generous: a wait reaches it only if something is wrong or the machine is very busy.
LIMIT = 45.0


def until(probe: Callable[[], Found], what: str, limit: float = LIMIT) -> Found:
    """Returns the first true value that `probe` returns. Calls it every 10 ms. Raises
    AssertionError, which names `what`, after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit} s: {what}")
        time.sleep(0.01)
