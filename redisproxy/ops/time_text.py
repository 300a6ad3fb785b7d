"""Formats times: for people, for JSON, and durations.

All moments are in seconds since the epoch, and are shown in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime


def moment(seconds: float) -> str:
    """Formats a moment for people: ``2026-01-31 09:30:00 UTC``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(seconds: float) -> str:
    """Formats a moment for JSON and manifests, as Kubernetes does: ``2026-01-31T09:30:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """Formats seconds by their two largest units: ``1 d 2 h``, ``3 min 0 s``, ``5 s``."""
    remaining = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if remaining >= size or (unit == "s" and not parts):
            parts.append(f"{remaining // size} {unit}")
            remaining %= size
        if len(parts) == 2:
            break
    return " ".join(parts)
