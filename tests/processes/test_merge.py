"""Tests how the reports of workers are merged."""

from __future__ import annotations

import unittest

from redisproxy import messages
from redisproxy.ops.stats import TenantStats
from redisproxy.processes.merge import Reports, nothing


def tenant(commands: int, sessions: int = 1) -> TenantStats:
    return {
        "sessions": sessions,
        "commands": {"plain": commands},
        "refused": {"server": 1},
        "refused_names": {"CONFIG|SET": 1},
        "received": 10,
        "replied": 20,
        "turned_away": 2,
        "wrong": 1,
        "scripts_ended": 1,
        "slow_commands": 1,
        "slow_seconds": 0.25,
        "slow_confirmed": 1,
        "held": 1,
        "throttled": 0.5,
        "memory": 700,
        "latency": {"counts": {"0.001": 4}, "sum": 0.25},
    }


def report(**tenants: TenantStats) -> dict[str, object]:
    return {"counts": {**nothing(), "logins": {"ok": 1}, "refused_names": {"MOVE": 2}, "tenants": tenants}}


class ReportsTests(unittest.TestCase):
    def setUp(self) -> None:
        self.reports = Reports()

    def test_what_one_that_is_gone_had_counted_stays_counted(self) -> None:
        self.reports.update(1, report(blue=tenant(5)))
        self.reports.update(2, report(blue=tenant(3), green=tenant(1)))
        before = self.reports.counts()
        self.assertEqual(before["tenants"]["blue"]["commands"], {"plain": 8})
        self.assertEqual((before["tenants"]["blue"]["sessions"], before["tenants"]["blue"]["held"]), (2, 2))
        self.reports.gone(1)
        self.reports.update(1, report(blue=tenant(1)))
        blue = self.reports.counts()["tenants"]["blue"]
        self.assertEqual((blue["commands"], blue["turned_away"], blue["throttled"]), ({"plain": 9}, 6, 1.5))
        self.assertEqual((blue["sessions"], blue["held"]), (2, 2))
        self.assertEqual((blue["wrong"], blue["refused_names"]), (3, {"CONFIG|SET": 3}))
        self.assertEqual(blue["latency"], {"counts": {"0.001": 12}, "sum": 0.75})
        self.assertEqual(self.reports.counts()["logins"], {"ok": 3})
        self.assertEqual(self.reports.counts()["refused_names"], {"MOVE": 6})

    def test_of_redis_the_worker_tells_that_knows_whose_script_it_is(self) -> None:
        busy, kept = messages.REDIS_BUSY(), messages.SCRIPT_UNKILLABLE(namespaces="team-blue")
        for number, fault in ((1, busy), (2, kept), (3, busy)):
            redis = {"connected": True, "version": "", "fault": fault, "fault_code": fault.code}
            self.reports.update(number, {**report(), "redis": redis})
        self.assertEqual(self.reports.redis()["fault"], kept)

    def test_of_redis_the_worker_that_it_answers_tells(self) -> None:
        fault = messages.REDIS_UNREACHABLE(address="redis://redis:6379", reason=messages.NET_TIMEOUT())
        away = {"connected": False, "version": "", "fault": fault, "fault_code": fault.code}
        there = {"connected": True, "version": "Valkey 9", "fault": "", "fault_code": ""}
        unready = {"unready": "the proxy cannot use Redis", "unready_code": messages.REDIS_NO_ANSWER.code}
        self.assertEqual(
            (self.reports.redis()["connected"], self.reports.unready()), (False, "no worker serves clients yet")
        )
        self.reports.update(1, {**report(), "redis": away, **unready})
        self.assertEqual((self.reports.redis()["fault"], self.reports.unready()), (fault, "the proxy cannot use Redis"))
        self.reports.update(2, {**report(), "redis": there, "unready": "", "unready_code": ""})
        self.assertEqual((self.reports.redis(), self.reports.unready()), (there, None))
        # The first worker is still not ready.
        self.assertEqual(self.reports.unready_workers(), {"1": (f"the proxy cannot use Redis: {fault}", "net-timeout")})

    def test_who_is_no_tenant_any_more_is_forgotten(self) -> None:
        self.reports.update(1, report(blue=tenant(5), green=tenant(1)))
        self.reports.gone(1)
        self.reports.keep({"blue"})
        self.assertEqual(self.reports.counts()["tenants"].keys(), {"blue"})
