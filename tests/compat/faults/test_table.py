"""Tests results as JSON lines and as a table."""

from __future__ import annotations

import dataclasses
import tempfile
import unittest
from pathlib import Path

from .events import Outcome
from .table import cell, markdown, plain, read, rows, worse, write


def result(library: str = "ioredis", fault: str = "restart", way: str = "straight", **more: object) -> dict:
    fields = {name: value for name, value in more.items() if name in Outcome.__dataclass_fields__}
    rest = {name: value for name, value in more.items() if name not in fields}
    return {
        "library": library,
        "fault": fault,
        "way": way,
        **dataclasses.asdict(Outcome(**fields)),
        "trouble": "",
        "fault_seconds": 2.0,
        **rest,
    }


class CellTests(unittest.TestCase):
    def test_nothing_failed(self) -> None:
        self.assertEqual(cell(result(tried=4512)), "0 of 4,512")

    def test_everything(self) -> None:
        dead = ["subscriber 0", "subscriber 1", "worker 1"]
        found = result(tried=9000, failed=1200, last_error=2.13, longest_wait=2.5, lost=1, twice=2, missed=3, dead=dead)
        text = "1,200 of 9,000 until 2.1 s; waits 2.5 s; 1 lost; 2 twice; 3 missed; dead: 2 subscriber, 1 worker"
        self.assertEqual(cell(found), text)

    def test_trouble(self) -> None:
        self.assertEqual(
            cell(result(tried=1, trouble="the program ended with status 1")), "0 of 1; the program ended with status 1"
        )

    def test_no_result_and_a_skipped_one(self) -> None:
        self.assertEqual(cell(None), "")
        self.assertEqual(cell({"skipped": "ruby is not installed"}), "not run: ruby is not installed")


class WorseTests(unittest.TestCase):
    def test_where_nothing_fails_straight_one_failure_is_worse(self) -> None:
        self.assertEqual(worse(result(), result(failed=1)), ["failed"])
        self.assertEqual(worse(result(failed=1), result(failed=21)), [])
        self.assertEqual(worse(result(failed=100), result(failed=141)), ["failed"])

    def test_chance_is_not_worse(self) -> None:
        self.assertEqual(worse(result(), result(longest_wait=1.5, lost=2, twice=4, missed=20)), [])
        self.assertEqual(
            worse(result(), result(longest_wait=1.6, lost=3, twice=5, missed=21)), ["waits", "lost", "twice", "missed"]
        )

    def test_what_is_done_twice_is_compared_with_what_was_under_way(self) -> None:
        straight = result(fault="stop", twice=4, under_way=4)
        self.assertEqual(worse(straight, result(fault="stop", twice=13, under_way=12)), [])
        self.assertEqual(worse(straight, result(fault="stop", twice=13, under_way=4)), ["twice"])
        # A library that repeats nothing straight must not do so through the proxy.
        self.assertEqual(worse(result(under_way=4), result(twice=13, under_way=12)), ["twice"])

    def test_a_failover_that_took_longer_is_not_worse(self) -> None:
        straight = result(fault="failover", longest_wait=3.0, fault_seconds=2.5)
        self.assertEqual(worse(straight, result(fault="failover", longest_wait=9.0, fault_seconds=8.0)), [])
        self.assertEqual(worse(straight, result(fault="failover", longest_wait=9.0, fault_seconds=3.0)), ["waits"])
        # Where no client sends commands, as in a job queue, nobody waits in either way.
        slow = result(fault="failover", fault_seconds=8.0)
        self.assertEqual(worse(slow, result(fault="failover", fault_seconds=3.0)), [])
        self.assertIn("the failover took 8.0 s", cell(result(fault="failover", fault_seconds=8.0)))

    def test_a_dead_client_and_trouble(self) -> None:
        self.assertEqual(worse(result(), result(dead=["worker 0"], trouble="ended")), ["dead", "trouble"])
        self.assertEqual(worse(result(dead=["worker 1"], trouble="ended"), result(dead=["worker 0"], trouble="ended")), [])

    def test_what_was_not_measured_is_not_compared(self) -> None:
        skipped = {"skipped": "x"}
        for straight, through in (
            (None, result(failed=1)),
            (result(), None),
            (skipped, result(failed=1)),
            (result(), skipped),
        ):
            self.assertEqual(worse(straight, through), [])


class TableTests(unittest.TestCase):
    results = (
        result(way="through", tried=3, failed=1, last_error=0.5),
        result(way="straight", tried=2),
        result("rq", "restart", "through", trouble="a|b"),
    )

    def test_rows_have_both_ways_in_the_order_that_was_asked_for(self) -> None:
        found = rows(self.results, ["rq", "node-redis", "ioredis"], ["stop", "restart"])
        self.assertEqual(
            found,
            [("rq", "restart", "", "0 of 0; a|b", ""), ("ioredis", "restart", "0 of 2", "1 of 3 until 0.5 s", "failed")],
        )

    def test_markdown(self) -> None:
        lines = markdown(rows(self.results, ["rq"], ["restart"])).splitlines()
        self.assertEqual(lines[1:], ["| --- | --- | --- | --- | --- |", "| rq | restart |  | 0 of 0; a\\|b |  |"])

    def test_plain(self) -> None:
        lines = plain(rows(self.results, ["ioredis"], ["restart"])).splitlines()
        self.assertEqual(lines[1], f"ioredis  restart  {'0 of 2':19}{'1 of 3 until 0.5 s':20}failed")

    def test_the_last_result_of_a_cell_counts(self) -> None:
        with tempfile.TemporaryDirectory(prefix="redisproxy-test-") as directory:
            first, second = Path(directory) / "first", Path(directory) / "second"
            write(first, result(tried=1))
            write(first, result("rq", tried=5))
            write(second, result(tried=2))
            self.assertEqual(
                {(each["library"], each["tried"]) for each in read([first, second])}, {("ioredis", 2), ("rq", 5)}
            )
