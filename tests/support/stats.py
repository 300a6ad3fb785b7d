"""Made-up stats of a proxy, for tests of the metrics and of the status page."""

from __future__ import annotations

import copy
import os

from redisproxy.ops.stats import REDIS_BOUNDS, Histogram, Stats, TenantStats, no_tenant_stats

EVIL = "<script>alert('x')</script>"


def stats(**tenants: dict) -> Stats:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    names = tenants or {
        "team-a": {
            "sessions": 2,
            "commands": {"plain": 7},
            "refused": {"server": 1},
            "refused_names": {"CONFIG|SET": 1},
            "received": 5,
            "replied": 6,
            "turned_away": 8,
            "wrong": 2,
            "scripts_ended": 3,
            "slow_commands": 4,
            "slow_seconds": 1.5,
            "slow_confirmed": 1,
            "held": 1,
            "throttled": 70.5,
            "memory": 2500,
            "latency": {"counts": {"0.001": 98, "+Inf": 2}, "sum": 12.5},
        }
    }
    return {
        "time": 1000.0,
        "counts": {
            "sessions": {"multiplexed": 2, "waiting": 0},
            "logins": {"ok": 2, "wrong": 3},
            "refused_names": {"CONFIG|SET": 4},
            "ended": {"quit": 1},
            "connections": {"multiplexed": 1, "dedicated": 0, "idle": 2},
            "in_flight": 4,
            "memory": 3000,
            "memory_limit": 7000,
            "redis_seconds": histogram.stats(),
            "tenants": dict(names),
        },
        "state": {
            "host": "redisproxy-5d9c7-x2x4z",
            "uptime": 93784.0,
            "unready": "",
            "unready_code": "",
            "most_sessions": 1000,
            "workers": {
                "wanted": 3,
                "serving": 2,
                "restarts": 5,
                "pids": {"1": os.getpid(), "3": os.getppid()},
                "unready": {},
            },
            "snapshot": {
                "loaded": True,
                "source": "the manifests in /x",
                "age": 3.0,
                "refreshes": {"ok": 2, "failed": 1},
                "refresh_seconds": histogram.stats(),
                "watch": {"watching": True, "events": 7, "reconnects": 1, "quiet": 2.5},
                "without_secret": ["team-new", "team-newer"],
                "problems": [
                    {
                        "namespace": "team-b",
                        "secret": EVIL,
                        "reason": f"database 3 belongs to the older {EVIL}",
                        "code": "tenant-database-of-older",
                    }
                ],
                "tenants": {
                    name: {
                        "index": 3,
                        "credentials": 2,
                        "expires": 1000.0 + 7200,
                        "limits": {"max_connections": 50, "bytes_per_second": 1000000},
                        "paused": False,
                    }
                    for name in names
                },
            },
            "redis": {
                "connected": True,
                "address": "redis://r:6379",
                "version": "Redis 7.0.15",
                "databases": 16,
                "isolation_layers": 2,
                "notices": [],
                "answers": "up",
                "unanswered": 0.0,
                "fault": "",
                "fault_code": "",
            },
            "tls": {
                "certificates": [{"listener": "ssl:6380", "begins": 0.0, "expires": 1000.0 + 86400 * 60, "problem": ""}],
                "reloads": {"ok": 3, "failed": 1},
            },
        },
    }


def tenant_stats(**values: object) -> TenantStats:
    """Returns the stats of one tenant: these values, and 0 for everything else."""
    return {**copy.deepcopy(no_tenant_stats()), **values}


def redis_seconds(*samples: float) -> dict:
    """Returns a histogram of how long Redis took to answer PINGs, from samples in seconds."""
    histogram = Histogram(REDIS_BOUNDS)
    for seconds in samples:
        histogram.observe(seconds)
    return histogram.stats()
