"""Merges the reports of several workers.

Owns the last report of each worker, and what workers that ended had counted: a counter must not
decrease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypedDict, cast

from .. import messages
from ..clients.connection import STATES
from ..ops.stats import REDIS_BOUNDS, Counts, Histogram, RedisState, total

_NOTHING: RedisState = {
    "connected": False,
    "address": "",
    "version": "",
    "databases": None,
    "isolation_layers": 0,
    "answers": "down",
    "unanswered": 0.0,
    "fault": "",
    "fault_code": "",
    "notices": [],
}


def nothing() -> Counts:
    """Returns counts of zero."""
    return {
        "sessions": dict.fromkeys(STATES, 0),
        "logins": {},
        "refused_names": {},
        "ended": {},
        "connections": dict.fromkeys(("multiplexed", "idle", "dedicated"), 0),
        "in_flight": 0,
        "memory": 0,
        "memory_limit": 0,
        "redis_seconds": Histogram(REDIS_BOUNDS).stats(),
        "tenants": {},
    }


class Report(TypedDict):
    """What a worker reports: see `single.Serving.report`."""

    counts: Counts
    redis: RedisState
    unready: str
    unready_code: str


class Reports:
    """The reports of the workers, by number."""

    def __init__(self) -> None:
        self._latest: dict[int, Report] = {}
        self._former = nothing()

    def update(self, worker: int, report: Mapping[str, Any]) -> None:
        """Replaces a worker's report. report: as it came through JSON."""
        self._latest[worker] = cast("Report", report)  # `single.Serving.report` made it

    def gone(self, worker: int) -> None:
        """Forgets a worker that ended. What it counted stays counted; its sessions do not."""
        report = self._latest.pop(worker, None)
        if report is not None:
            last = report["counts"]
            counts: Counts = {
                **nothing(),
                "logins": last["logins"],
                "refused_names": last["refused_names"],
                "ended": last["ended"],
                "redis_seconds": last["redis_seconds"],
                "tenants": {name: {**one, "sessions": 0, "held": 0, "memory": 0} for name, one in last["tenants"].items()},
            }
            self._former = total([self._former, counts])

    def keep(self, namespaces: Collection[str]) -> None:
        """Forgets what was counted for all other namespaces: they are no tenants any more. Workers
        do the same.
        """
        self._former["tenants"] = {name: one for name, one in self._former["tenants"].items() if name in namespaces}

    def counts(self) -> Counts:
        """Returns the sum of all counts, those of ended workers included."""
        return total([self._former, *(report["counts"] for report in self._latest.values())])

    def redis(self) -> RedisState:
        """Returns Redis's state as a worker with a connection sees it, or as the first worker sees
        it. If a worker knows whose script cannot be ended, as that one sees it.
        """
        states = [report["redis"] for report in self._latest.values()]
        connected = [state for state in states if state["connected"]]
        knows = (state for state in connected if state["fault_code"] == messages.SCRIPT_UNKILLABLE.code)
        return next(knows, connected[0] if connected else states[0] if states else _NOTHING)

    def unready_workers(self) -> dict[str, tuple[str, str]]:
        """Why those that are not ready are not, by number: a text, and a code of `messages`."""
        return {
            str(number): (
                ": ".join(filter(None, (report["unready"], report["redis"]["fault"]))),
                report["redis"]["fault_code"] or report["unready_code"],
            )
            for number, report in sorted(self._latest.items())
            if report["unready"]
        }

    def unready(self) -> messages.Text | None:
        """Why none of them is ready; None: at least one is."""
        reasons = [messages.restored(report["unready"], report["unready_code"]) for report in self._latest.values()]
        if not reasons:
            return messages.NO_WORKER()
        return None if None in reasons else reasons[0]
