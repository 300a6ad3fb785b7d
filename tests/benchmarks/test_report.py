"""Tests how the benchmark evaluates its measurements. Only a run shows that the benchmark itself
works.
"""

from __future__ import annotations

import math
import unittest

from benchmarks.cases import HAPROXY, STRAIGHT, Case, Goal
from benchmarks.load import LoadError, RedisBenchmark, Sample, Timeline, parse_csv, percentile
from benchmarks.peers import ROOT, Variant
from benchmarks.report import Idle, Rates, Refresh, Results, table, tables, verdicts

CSV = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"\n'
    '"GET","20968.76","2.335","0.632","2.119","3.559","6.183","13.879"\n'
)


class ParseTests(unittest.TestCase):
    def test_redis_benchmark(self) -> None:
        self.assertEqual(
            parse_csv(CSV, "WARNING: Could not fetch server CONFIG\n", 9.0), Sample(20968.76, 2.119, 6.183, 9.0)
        )

    def test_an_error_reply_is_no_result(self) -> None:
        with self.assertRaisesRegex(LoadError, "Error from server: NOAUTH"):
            parse_csv("Error from server: NOAUTH Authentication required.\n", "WARNING: something else\n")
        with self.assertRaisesRegex(LoadError, "no result"):
            parse_csv("")

    def test_variants(self) -> None:
        self.assertEqual(
            Variant.parse("shared=--connections multiplexed"), Variant("shared", ROOT, ("--connections", "multiplexed"))
        )
        self.assertEqual(Variant.parse(f"other={ROOT} --acl off"), Variant("other", ROOT, ("--acl", "off")))
        for text in ("--connections multiplexed", "=--connections", "x=/nowhere/at/all"):
            with self.assertRaises(ValueError):
                Variant.parse(text)


class ArithmeticTests(unittest.TestCase):
    def test_percentile(self) -> None:
        hundred = [float(number) for number in range(1, 101)]
        self.assertEqual([percentile(hundred, share) for share in (0.5, 0.99, 1.0)], [50.0, 99.0, 100.0])
        self.assertEqual(percentile([7.0], 0.99), 7.0)
        self.assertTrue(math.isnan(percentile([], 0.5)))

    def rates(self, *goals: Goal) -> Rates:
        rates = Rates(Case("some", "some load", RedisBenchmark(()), goals))
        rates.samples["proxy"] = [Sample(rate, p50, 9.0, 1.0) for rate, p50 in ((50.0, 4.0), (100.0, 2.0), (90.0, 3.0))]
        rates.samples[HAPROXY] = [Sample(rate, p50, 9.0, 1.0) for rate, p50 in ((100.0, 2.0), (50.0, 2.0), (300.0, 8.0))]
        return rates

    def test_goals_are_judged_by_ratios_of_medians(self) -> None:
        rates = self.rates(Goal(HAPROXY, 0.9), Goal(HAPROXY, 0.91), Goal(HAPROXY, 1.5, True), Goal(HAPROXY, 1.4, True))
        found = verdicts(Results([Variant("proxy")], 3, [rates]))
        self.assertEqual([verdict.met for verdict in found], [True, False, True, False])
        self.assertEqual(rates.shown_ratio("proxy", HAPROXY), "0.90 (0.30..2.00)")

    def test_what_was_not_measured_is_shown_as_such_and_reaches_no_goal(self) -> None:
        rates = self.rates(Goal(STRAIGHT, 0.1))
        rates.failed[STRAIGHT] = "it was away"
        results = Results([Variant("proxy")], 3, [rates])
        self.assertEqual([verdict.met for verdict in verdicts(results)], [False])
        self.assertIn("some load: straight: it was away", tables(results))

    def test_a_machine_that_others_used_is_told(self) -> None:
        results = Results([Variant("proxy")], 3, [self.rates()])
        self.assertNotIn("Others took", tables(results))
        results.others = 0.4
        self.assertIn("Others took 40% of the machine's CPU time", tables(results))

    def test_idle_sessions_and_refreshes(self) -> None:
        refresh = Refresh("proxy", 1000.0, 7)
        refresh.quiet = [Timeline(1.0, p99, ()) for p99 in (2.0, 3.0, 90.0)]
        refresh.busy = [Timeline(1.0, p99, ()) for p99 in (7.0, 8.5, 8.0)]
        refresh.reads = [1.0]
        idle = [Idle("proxy", 12 * 1024.0, 11), Idle(HAPROXY, 1e9, 5000)]
        found = verdicts(Results([Variant("proxy")], 3, [], idle, [refresh]))
        self.assertEqual([verdict.met for verdict in found], [True, False, True])
        self.assertEqual(found[-1].measured, "+5.00")


class TableTests(unittest.TestCase):
    def test_is_markdown_and_can_be_read_as_it_is(self) -> None:
        self.assertEqual(
            table(["a", "b"], [["one", "1"], ["two", "22"]]), "| a   |  b |\n| --- | -: |\n| one |  1 |\n| two | 22 |"
        )
