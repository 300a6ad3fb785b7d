"""Numbers and metrics, from numbers made here."""

from __future__ import annotations

import copy
import json
import os
import unittest
from collections.abc import Callable
from unittest import mock

from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from redisproxy.ops import metrics
from redisproxy.ops.metrics import Exposition
from redisproxy.ops.stats import Stats, total

from ..support.stats import stats


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


def render(of: Callable[[], Stats], accept: str) -> tuple[str, bytes]:
    content_type, pieces = Exposition(of).render(accept)
    return content_type, b"".join(pieces)


def samples(text: bytes) -> dict[tuple[str, tuple], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class ExpositionTests(unittest.TestCase):
    def test_a_parser_finds_them(self) -> None:
        content_type, text = render(stats, "")
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
        content_type, text = render(stats, "application/openmetrics-text; version=1.0.0")
        self.assertIn("openmetrics", content_type)
        self.assertTrue(text.endswith(b"# EOF\n"))

    def test_the_pieces_are_what_the_library_writes_at_once(self) -> None:
        many = {f"team-{number:05}": stats()["counts"]["tenants"]["team-a"] for number in range(metrics.PIECE * 2 + 1)}
        with mock.patch("time.time", lambda: 0.0):
            for accept in ("", "application/openmetrics-text; version=1.0.0"):
                exposition = Exposition(lambda: stats(**many))
                encode, _ = choose_encoder(accept)
                pieces = list(exposition.render(accept)[1])
                self.assertLess(max(text.count(b"\n") for text in pieces), metrics.PIECE + 10)
                # The process's own numbers change between two collections.
                whole = encode(exposition._registry)
                found = [
                    [line for line in text.splitlines() if b"process_" not in line] for text in (b"".join(pieces), whole)
                ]
                self.assertEqual(*found)

    def test_each_is_documented(self) -> None:
        from pathlib import Path

        table = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
        _, text = render(stats, "")
        for family in text_string_to_metric_families(text.decode()):
            if family.name.startswith("redisproxy_"):
                name = family.name + "_total" * (family.type == "counter")
                self.assertIn(f"`{name}`", table)

    def test_thousands_of_tenants_are_no_thousands_of_series(self) -> None:
        one = stats()["counts"]["tenants"]["team-a"] | {"sessions": 1}
        many = {f"team-{number:05}": one for number in range(metrics.SERIES + 7)}
        found = samples(render(lambda: stats(**many), "")[1])
        series = [key for key in found if key[0] == "redisproxy_tenant_sessions"]
        self.assertEqual(len(series), metrics.SERIES + 1)
        self.assertEqual(found["redisproxy_tenant_sessions", (("namespace", "_other"),)], 7)
        self.assertEqual(len([key for key in found if key[0] == "redisproxy_tenant_limit_connections"]), metrics.SERIES)

    def test_workers(self) -> None:
        found = samples(render(stats, "")[1])
        named = {name for name, _ in found}
        counts = [found[f"redisproxy_{name}", ()] for name in ("workers", "workers_wanted", "worker_restarts_total")]
        self.assertEqual(counts, [2, 3, 5])
        of_this = {name: value for (name, labels), value in found.items() if labels == (("worker", "1"),)}
        memory = "process_resident_memory_bytes"
        self.assertAlmostEqual(of_this[f"redisproxy_worker_{memory}"], found[memory, ()], delta=found[memory, ()] / 10)
        self.assertIn(("redisproxy_worker_process_cpu_seconds_total", (("worker", "3"),)), found)
        alone = stats()
        alone["state"]["workers"] = None
        left = {name for name, _ in samples(render(lambda: alone, "")[1])}
        self.assertEqual({name for name in named - left if "_worker" not in name}, set())
        self.assertEqual({name for name in left if "_worker" in name}, set())

    def test_a_worker_that_has_just_ended(self) -> None:
        gone = stats()
        # there is no such process
        gone["state"]["workers"]["pids"] = {"1": os.getpid(), "2": 2**22 + 1}
        found = samples(render(lambda: gone, "")[1])
        numbers = {label for name, labels in found for label in labels if "worker_process" in name}
        self.assertEqual(numbers, {("worker", "1")})

    def test_limits_and_what_they_do(self) -> None:
        found = samples(render(stats, "")[1])
        one = (("namespace", "team-a"),)
        self.assertEqual(found["redisproxy_tenant_limit_connections", one], 50)
        self.assertEqual(found["redisproxy_tenant_limit_bytes_per_second", one], 1_000_000)
        self.assertNotIn(("redisproxy_tenant_limit_commands_per_second", one), found)
        self.assertEqual(found["redisproxy_tenant_connections_refused_total", one], 8)
        self.assertEqual(found["redisproxy_tenant_throttled_connections", one], 1)
        self.assertEqual(found["redisproxy_tenant_throttled_seconds_total", one], 70.5)
