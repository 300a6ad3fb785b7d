"""Figures, metrics and the page, from figures made here."""

from __future__ import annotations

import copy
import json
import os
import re
import unittest

from prometheus_client.parser import text_string_to_metric_families

from redisproxy.ops import metrics, page
from redisproxy.ops.metrics import Exposition
from redisproxy.ops.stats import DRAINING, Histogram, Stats, total

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
            "held": 1,
            "throttled": 70.5,
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
            "redis_seconds": histogram.stats(),
            "tenants": dict(names),
        },
        "state": {
            "host": "redisproxy-5d9c7-x2x4z",
            "uptime": 93784.0,
            "unready": "",
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
                "problems": [{"namespace": "team-b", "secret": EVIL, "reason": f"database 3 belongs to the older {EVIL}"}],
                "tenants": {
                    name: {
                        "index": 3,
                        "credentials": 2,
                        "expires": 1000.0 + 7200,
                        "limits": {"max_connections": 50, "bytes_per_second": 1000000},
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
                "answers": "up",
                "unanswered": 0.0,
                "fault": "",
            },
            "tls": {
                "certificates": [{"listener": "ssl:6380", "begins": 0.0, "expires": 1000.0 + 86400 * 60, "problem": ""}],
                "reloads": {"ok": 3, "failed": 1},
            },
        },
    }


class FiguresTests(unittest.TestCase):
    def test_they_go_through_json(self) -> None:
        found = stats()
        self.assertEqual(json.loads(json.dumps(found)), found)

    def test_the_sum_of_processes(self) -> None:
        one, other = stats()["counts"], stats()["counts"]
        other["tenants"]["team-c"] = copy.deepcopy(other["tenants"]["team-a"])
        found = total([one, other, one])
        self.assertEqual(found["logins"], {"ok": 6, "wrong": 9})
        self.assertEqual(found["in_flight"], 12)
        self.assertEqual(found["tenants"]["team-a"]["commands"], {"plain": 21})
        self.assertEqual(found["tenants"]["team-a"]["latency"], {"counts": {"0.001": 294, "+Inf": 6}, "sum": 37.5})
        self.assertEqual(found["tenants"]["team-c"], other["tenants"]["team-c"])
        self.assertEqual(found["redis_seconds"]["bounds"], [0.1, 1.0])
        self.assertEqual(found["redis_seconds"]["counts"], [6, 3, 3])
        self.assertEqual(one, stats()["counts"])  # what was added stays as it was


def samples(text: bytes) -> dict[tuple[str, tuple], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class ExpositionTests(unittest.TestCase):
    def test_a_parser_finds_them(self) -> None:
        content_type, text = Exposition(stats).render("")
        self.assertIn("text/plain", content_type)
        found = samples(text)
        family = (("family", "plain"), ("namespace", "team-a"))
        self.assertEqual(found["redisproxy_commands_total", family], 7)
        self.assertEqual(found["redisproxy_snapshot_age_seconds", ()], 3)
        self.assertEqual(found["redisproxy_namespaces_without_secret", ()], 2)
        self.assertEqual(found["redisproxy_redis_databases", ()], 16)
        expiry = "redisproxy_certificate_expiry_timestamp_seconds"
        self.assertEqual(found[expiry, (("listener", "ssl:6380"),)], 1000 + 86400 * 60)
        self.assertEqual(found["redisproxy_certificate_reloads_total", (("outcome", "failed"),)], 1)
        self.assertEqual(found["redisproxy_redis_response_seconds_bucket", (("le", "0.1"),)], 2)
        self.assertEqual(found["redisproxy_redis_response_seconds_count", ()], 4)
        one = (("namespace", "team-a"),)
        self.assertEqual(found["redisproxy_tenant_response_seconds_count", one], 100)
        self.assertEqual(found["redisproxy_tenant_response_seconds_sum", one], 12.5)
        self.assertEqual(found["redisproxy_tenant_wrong_passwords_total", one], 2)
        self.assertEqual(found["redisproxy_commands_refused_by_name_total", (("command", "CONFIG|SET"),)], 4)
        self.assertIn(("process_resident_memory_bytes", ()), found)

    def test_open_metrics_for_who_asks(self) -> None:
        content_type, text = Exposition(stats).render("application/openmetrics-text; version=1.0.0")
        self.assertIn("openmetrics", content_type)
        self.assertTrue(text.endswith(b"# EOF\n"))

    def test_each_is_documented(self) -> None:
        from pathlib import Path

        table = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
        _, text = Exposition(stats).render("")
        for family in text_string_to_metric_families(text.decode()):
            if family.name.startswith("redisproxy_"):
                name = family.name + "_total" * (family.type == "counter")
                self.assertIn(f"`{name}`", table)

    def test_thousands_of_tenants_are_no_thousands_of_series(self) -> None:
        one = stats()["counts"]["tenants"]["team-a"] | {"sessions": 1}
        many = {f"team-{number:05}": one for number in range(metrics.SERIES + 7)}
        found = samples(Exposition(lambda: stats(**many)).render("")[1])
        series = [key for key in found if key[0] == "redisproxy_tenant_sessions"]
        self.assertEqual(len(series), metrics.SERIES + 1)
        self.assertEqual(found["redisproxy_tenant_sessions", (("namespace", "_other"),)], 7)
        self.assertEqual(len([key for key in found if key[0] == "redisproxy_tenant_limit_connections"]), metrics.SERIES)

    def test_workers(self) -> None:
        found = samples(Exposition(stats).render("")[1])
        told = {name for name, _ in found}
        counts = [found[f"redisproxy_{name}", ()] for name in ("workers", "workers_wanted", "worker_restarts_total")]
        self.assertEqual(counts, [2, 3, 5])
        of_this = {name: value for (name, labels), value in found.items() if labels == (("worker", "1"),)}
        memory = "process_resident_memory_bytes"
        self.assertAlmostEqual(of_this[f"redisproxy_worker_{memory}"], found[memory, ()], delta=found[memory, ()] / 10)
        self.assertIn(("redisproxy_worker_process_cpu_seconds_total", (("worker", "3"),)), found)
        alone = stats()
        alone["state"]["workers"] = None
        left = {name for name, _ in samples(Exposition(lambda: alone).render("")[1])}
        self.assertEqual({name for name in told - left if "_worker" not in name}, set())
        self.assertEqual({name for name in left if "_worker" in name}, set())

    def test_a_worker_that_has_just_ended(self) -> None:
        gone = stats()
        gone["state"]["workers"]["pids"] = {"1": os.getpid(), "2": 2**22 + 1}  # there is no such process
        found = samples(Exposition(lambda: gone).render("")[1])
        numbers = {label for name, labels in found for label in labels if "worker_process" in name}
        self.assertEqual(numbers, {("worker", "1")})

    def test_limits_and_what_they_do(self) -> None:
        found = samples(Exposition(stats).render("")[1])
        one = (("namespace", "team-a"),)
        self.assertEqual(found["redisproxy_tenant_limit_connections", one], 50)
        self.assertEqual(found["redisproxy_tenant_limit_bytes_per_second", one], 1_000_000)
        self.assertNotIn(("redisproxy_tenant_limit_commands_per_second", one), found)
        self.assertEqual(found["redisproxy_tenant_connections_refused_total", one], 8)
        self.assertEqual(found["redisproxy_tenant_throttled_connections", one], 1)
        self.assertEqual(found["redisproxy_tenant_throttled_seconds_total", one], 70.5)


class PageTests(unittest.TestCase):
    def test_what_others_wrote_is_text(self) -> None:
        html = page.render(stats(), {}).decode()
        self.assertNotIn("<script", html)
        self.assertIn("&lt;script&gt;", html)

    def test_it_says_what_to_do(self) -> None:
        html = page.render(stats(), {"team-a": 12345.6}).decode()
        self.assertIn("Give this namespace another index", html)
        self.assertIn("12,346", html)
        self.assertIn("in 2 h", html)

    def test_workers(self) -> None:
        found = stats()
        self.assertIn('<span class="bad">2 of 3</span><small>5 restarts', page.render(found, {}).decode())
        found["state"]["workers"] |= {"serving": 3, "restarts": 0}
        self.assertIn('<span class="good">3 of 3</span><small>never restarted', page.render(found, {}).decode())
        found["state"]["workers"] = None
        self.assertNotIn("Workers", page.render(found, {}).decode())

    def test_certificates(self) -> None:
        found = stats()
        (certificate,) = found["state"]["tls"]["certificates"]
        html = page.render(found, {}).decode()
        self.assertIn("in 60 d", html)
        self.assertNotIn("clients refuse it", html)
        certificate |= {
            "expires": 1000.0 + 7 * 86400 - 1,
            "begins": 1000.0 - 29 * 86400,
            "problem": f"{EVIL} cannot be read",
        }
        html = page.render(found, {}).decode()
        self.assertRegex(html, 'class="warn">in 6 d 23 h')
        self.assertIn("cannot be read: the last good one stays in force", html)
        self.assertNotIn("<script", html)
        certificate["expires"] = 900.0
        self.assertIn("ended 1 min 40 s ago: clients refuse it", page.render(found, {}).decode())
        found["state"]["tls"]["certificates"] = []
        self.assertNotIn("Certificates", page.render(found, {}).decode())

    def test_limits_and_what_they_do(self) -> None:
        found = stats()
        html = page.render(found, {}).decode()
        self.assertIn("<td>50 connections, 1,000,000 bytes/s</td>", html)
        self.assertIn('<span class="warn">throttled now, throttled for 1 min 10 s, 8 connections refused</span>', html)
        found["counts"]["tenants"]["team-a"] |= {"held": 0, "throttled": 0.0, "turned_away": 0}
        self.assertNotIn("throttled", page.render(found, {}).decode())

    def test_it_says_why_it_is_not_ready(self) -> None:
        found = stats()
        found["state"]["unready"] = "Redis does not answer"
        self.assertIn("Not ready: Redis does not answer", page.render(found, {}).decode())
        found["state"]["unready"] = DRAINING
        html = page.render(found, {}).decode()
        self.assertIn("Draining: it is about to end.", html)
        self.assertNotIn("not ready", html.lower())

    def test_it_needs_nothing_from_elsewhere(self) -> None:
        html = page.render(stats(), {}).decode()
        self.assertNotRegex(html, r"(src|href)=|@import|url\(")
        # The hash of the policy is that of what the browser gets.
        style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
        import base64
        import hashlib

        wanted = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self.assertIn(f"'sha256-{wanted}'", page.HEADERS[b"content-security-policy"].decode())

    def test_every_advice_is_for_something(self) -> None:
        for reason in (
            "its password is also that of team-b",
            "Redis has no database 99",
            "it has no key redis-connection-string",
            "not read: 403 Forbidden",
            "the master secret does not exist",
            "annotation redisproxy/max-connections is not a whole number",
            "not read: no way to the Kubernetes API",
            "not read: /etc/redisproxy/manifests: Permission denied",
            "it is not YAML or JSON (somewhere): what was last read of it stays in force",
            "it has valid_hours, but no metadata.creationTimestamp, from which they count",
            "database 3 is also named by team-b, and not all have a creationTimestamp: none of them gets it",
        ):
            self.assertNotEqual(page.advice(reason), page.advice("what nobody thought of"), reason)
