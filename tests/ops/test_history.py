"""The last minutes of the numbers: what is kept of them, and how much."""

from __future__ import annotations

import copy
import math
import sys
import unittest
from array import array
from unittest import mock

from redisproxy.ops import history
from redisproxy.ops.history import INTERVAL, SAMPLES, History, Rate, quantile
from redisproxy.ops.stats import REDIS_BOUNDS, Counts, no_tenant_stats
from redisproxy.processes.merge import nothing


def buckets(**counts: int) -> list[int]:
    """Samples, by the number of their bucket."""
    found = [0] * (len(REDIS_BOUNDS) + 1)
    for number, count in counts.items():
        found[int(number.lstrip("_"))] = count
    return found


class QuantileTests(unittest.TestCase):
    def test_samples_are_spread_evenly_within_a_bucket(self) -> None:
        self.assertIsNone(quantile(buckets(), 0.5))
        self.assertAlmostEqual(quantile(buckets(_0=10), 0.5), 0.00005)
        # 98 of up to 1 ms, and 2 of 0.1 to 0.25 s: the 99th of 100 is in the middle of these.
        many = buckets(_3=98, _10=2)
        self.assertAlmostEqual(quantile(many, 0.99), 0.175)
        self.assertTrue(0.0005 < quantile(many, 0.5) < 0.001)
        self.assertEqual(quantile(buckets(_3=98, _15=2), 0.99), math.inf)


class HistoryTests(unittest.TestCase):
    def setUp(self) -> None:
        self.history = History()
        self.now = 1000.0
        self.counts: Counts = nothing()

    def tenant(self, name: str, commands: int = 0, size: int = 0, slow: int = 0, refused: int = 0) -> None:
        """It has done so much more. slow: so many of its commands took 7 ms."""
        one = self.counts["tenants"].setdefault(name, copy.deepcopy(no_tenant_stats()))
        one["commands"]["plain"] = one["commands"].get("plain", 0) + commands
        one["received"] += size // 2
        one["replied"] += size - size // 2
        one["turned_away"] += refused
        latency = one["latency"]["counts"]
        latency["0.01"] = latency.get("0.01", 0) + slow

    def sample(self) -> None:
        self.history.add(self.now, copy.deepcopy(self.counts))
        self.now += INTERVAL

    def recent(self) -> history.Recent:
        return self.history.recent(self.now, self.counts)

    def test_before_the_first_sample_there_is_nothing(self) -> None:
        self.tenant("blue", 5)
        recent = self.recent()
        self.assertEqual((recent.rates, recent.series, recent.total.latency(0.5)), ({}, {}, None))

    def test_rates_are_those_of_the_last_two_samples_until_now(self) -> None:
        self.sample()
        self.tenant("blue", 1000, 5000)
        self.sample()
        self.tenant("blue", 40, 600)
        self.sample()
        self.tenant("blue", 60, 400)
        self.assertEqual(self.recent().rates, {"blue": Rate(5.0, 50.0)})
        # One that was forgotten and counted anew has done nothing less.
        self.counts["tenants"]["blue"]["commands"]["plain"] = 3
        self.assertEqual(self.recent().rates["blue"].commands, 0)

    def test_the_series_of_a_tenant(self) -> None:
        self.sample()
        for commands, size, slow in ((10, 2000, 4), (0, 0, 0), (30, 4000, 1)):
            self.tenant("blue", commands, size, slow)
            self.sample()
        series = self.recent().series["blue"]
        self.assertEqual(list(series.commands)[-3:], [1, 0, 3])
        self.assertEqual(list(series.bytes)[-3:], [200, 0, 400])
        slow = list(series.slow)
        self.assertTrue(0.005 < slow[-3] < 0.01 and 0.005 < slow[-1] < 0.01, slow)
        self.assertTrue(math.isnan(slow[-2]), "nothing was timed then")
        self.assertTrue(math.isnan(next(iter(series.bytes))), "it is not known what was before")
        self.assertEqual(series.timed, 5)
        self.assertAlmostEqual(series.latency(0.5), 0.0075)

    def test_what_is_older_than_the_samples_is_forgotten(self) -> None:
        self.sample()
        self.tenant("blue", 10, 1000, slow=7, refused=3)
        self.counts["redis_seconds"]["counts"][4] = 9
        self.sample()
        for _ in range(SAMPLES - 1):
            self.sample()
        recent = self.recent()
        self.assertEqual((recent.series["blue"].timed, recent.series["blue"].turned_away), (7, 3))
        self.assertEqual((next(iter(recent.series["blue"].bytes)), recent.total.timed), (100, 9))
        self.sample()
        recent = self.recent()
        self.assertEqual((recent.series["blue"].timed, recent.series["blue"].turned_away), (0, 0))
        self.assertEqual((sum(recent.series["blue"].bytes), recent.total.timed), (0, 0))
        self.assertEqual(len(list(recent.series["blue"].bytes)), SAMPLES)

    def test_the_sum_of_all(self) -> None:
        self.sample()
        self.tenant("blue", 10, 1000)
        self.tenant("green", 20, 3000)
        self.counts["redis_seconds"]["counts"][0] = 5
        self.sample()
        total = self.recent().total
        self.assertEqual((list(total.commands)[-1], list(total.bytes)[-1], total.timed), (3, 400, 5))

    def test_log_ins_of_the_last_minutes(self) -> None:
        self.counts["logins"] = {"ok": 5, "wrong": 100}
        for _ in range(SAMPLES + 5):
            self.sample()
        self.counts["logins"] = {"ok": 6, "wrong": 103, "tenant-full": 2}
        recent = self.recent()
        self.assertEqual(recent.logins, {"ok": 1, "wrong": 3, "tenant-full": 2})
        self.assertEqual(recent.seconds, (SAMPLES + 1) * INTERVAL)

    def test_a_tenant_that_is_gone_is_forgotten(self) -> None:
        self.sample()
        self.tenant("blue", 10)
        self.sample()
        del self.counts["tenants"]["blue"]
        self.sample()
        self.assertEqual(self.recent().series, {})

    def test_of_many_tenants_those_are_kept_that_did_most_of_late(self) -> None:
        with mock.patch.object(history, "TENANTS", 3):
            self.sample()
            for number in range(6):
                self.tenant(f"tenant-{number}", 10 * number)
            self.sample()
            self.assertEqual(set(self.recent().series), {"tenant-3", "tenant-4", "tenant-5"})
            # One short pause costs no tenant its series.
            self.tenant("tenant-0", 20)
            self.sample()
            self.assertEqual(set(self.recent().series), {"tenant-3", "tenant-4", "tenant-5"})
            self.tenant("tenant-0", 1000)
            self.sample()
            kept = self.recent().series
            self.assertEqual(len(kept), 3)
            self.assertIn("tenant-0", kept)
            # What it did before is not taken for what it did in this interval.
            self.assertEqual(list(kept["tenant-0"].commands)[-1], 100)
            # Of all others the rates are known.
            self.assertEqual(len(self.recent().rates), 6)

    def test_a_series_has_a_bounded_size(self) -> None:
        self.sample()
        self.tenant("blue", 10**12, 10**15, slow=10**9, refused=10**9)
        for _ in range(3 * SAMPLES):
            self.sample()
        series = self.recent().series["blue"]
        arrays = [series._buckets, series._refused, *(ring._numbers for ring in (series.commands, series.bytes))]
        self.assertTrue(all(isinstance(each, array) for each in arrays))
        self.assertLess(sum(map(sys.getsizeof, arrays)), 2048)
