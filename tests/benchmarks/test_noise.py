"""Tests the table of attacks: its rows, its verdicts, and the processes that measure a row."""

from __future__ import annotations

import contextlib
import io
import unittest
from unittest import mock

from benchmarks import noise
from benchmarks.attacks import GROUPS, ROWS, USUAL, chosen
from benchmarks.attacks.kubernetes import documents, large, temporary
from benchmarks.attacks.row import Held, NoProxyCan, Row
from benchmarks.meters import Memory
from benchmarks.noise import Child, Measured, RowError, Table, attempt, line, missed, parse
from benchmarks.peers import Variant
from benchmarks.quiet import Seen
from redisproxy import bounds


def nothing(*_: object):
    yield


def seen(*pings: float, errors: int = 0, failed: int = 0) -> Seen:
    return Seen(sorted(pings), [3.0, 4.0], [], ["ping: closed"] * errors, ["log_in: closed"] * failed)


HELD = Row("an attack", nothing, Held(50.0), {"sent": 100, "worst": 10})
STANDS = Row("a script", nothing, NoProxyCan("it runs alone", 700.0))
ENDLESS = Row("a pattern", nothing, NoProxyCan("nobody can"))


class RowsTests(unittest.TestCase):
    def test_each_row_says_what_is_promised_and_what_proves_it(self) -> None:
        self.assertEqual(sum(map(len, GROUPS.values())), len(ROWS), "two rows have one name")
        for name, row in ROWS.items():
            self.assertRegex(name, r"^[a-z0-9-]+$")
            self.assertTrue(row.least, f"{name}: nothing proves that the attack happened")
            self.assertLess(2 * row.needs, 16_000, name)
            if isinstance(row.kind, NoProxyCan):
                self.assertTrue(row.kind.reason, name)
            else:
                self.assertEqual(row.kind.ms, 50, f"{name}: say why the goal is another one")
        self.assertEqual(len({row.title for row in ROWS.values()}), len(ROWS), "two rows have one title")

    def test_rows_of_our_own_say_why_they_are_tried(self) -> None:
        self.assertGreaterEqual(len(GROUPS["ours"]), 10)
        for name, row in GROUPS["ours"].items():
            self.assertTrue(row.why, name)

    def test_rows_are_chosen_by_name_and_by_group(self) -> None:
        usual = [name for group in USUAL for name in GROUPS[group]]
        self.assertEqual(chosen(""), usual)
        self.assertEqual(chosen("reset,unknown,reset"), ["reset", "unknown"])
        self.assertEqual(chosen("expiry,earlier"), ["expiry", *GROUPS["earlier"]])
        with self.assertRaisesRegex(ValueError, "no such row: nonsense"):
            chosen("unknown,nonsense")

    def test_the_secrets_of_an_attack_are_as_large_as_etcd_takes_them(self) -> None:
        self.assertLess(len(large(0)["stringData"]["value"]) * 4 / 3, 1.5 * 2**20)
        self.assertGreater(len({temporary(number)["metadata"]["name"] for number in range(1000)}), bounds.TEMPORARY_SECRETS)
        kinds = [document["kind"] for document in documents("redis://:x@127.0.0.1:1/0", {"redisproxy/max-keys": "1"})]
        self.assertEqual(kinds, ["Secret", "Namespace", "Secret", "Namespace", "Secret"])


class VerdictTests(unittest.TestCase):
    def measured(self, *pings: float, **more: object) -> Measured:
        errors, failed = more.pop("errors", 0), more.pop("failed", 0)
        return Measured(seen(1.0), seen(*pings, errors=errors, failed=failed), **more)

    def test_a_row_that_can_be_held(self) -> None:
        self.assertEqual(missed(HELD, self.measured(1.0, 2.0), 1.0), [])
        self.assertEqual(missed(HELD, self.measured(1.0, 2.1), 1.0), ["p99"])
        self.assertEqual(missed(HELD, self.measured(*[1.0] * 200, 50.0), 1.0), ["worst"])
        self.assertEqual(missed(HELD, self.measured(1.0, errors=1, failed=1), 1.0), ["errors", "log-ins"])
        self.assertEqual(missed(HELD, self.measured(1.0, peak=Memory(300, 213, 513)), 1.0), ["memory"])
        self.assertEqual(missed(HELD, self.measured(1.0, peak=Memory(300, 300, 500)), 1.0), [], "not at the same time")

    def test_a_row_without_an_answer_is_missed(self) -> None:
        self.assertEqual(missed(HELD, self.measured(), 1.0), ["worst", "p99"])
        self.assertEqual(missed(HELD, Measured(error="the server ended"), 1.0), ["the server ended", "worst", "p99"])

    def test_a_row_that_no_proxy_can_hold(self) -> None:
        self.assertEqual(missed(STANDS, self.measured(600.0, errors=3, failed=1), 1.0), [])
        self.assertEqual(missed(STANDS, self.measured(700.0), 1.0), ["worst"])
        self.assertEqual(missed(ENDLESS, self.measured(), 1.0), [])
        self.assertEqual(missed(ENDLESS, self.measured(peak=Memory(0, 513, 513)), 1.0), ["memory"])

    def test_an_attack_that_did_not_happen_is_told(self) -> None:
        done = self.measured(11.0, attacker={"sent": 100})
        self.assertEqual(done.too_little(HELD), [])
        refused = self.measured(9.0, attacker={"sent": 99})
        self.assertEqual(refused.too_little(HELD), ["sent 99 of 100", "worst 9 of 10"])
        self.assertIn("the attack lacks sent 99 of 100", line("x", HELD, done, refused, 9.0))
        self.assertNotIn("lacks", line("x", HELD, refused, done, 9.0))
        self.assertIn("lacks", line("x", HELD, refused, None, 9.0))


class TableTests(unittest.TestCase):
    def test_a_row_has_as_many_cells_as_the_head(self) -> None:
        cells = noise.HEAD.splitlines()[0].count("|")
        one = Measured(seen(1.0), seen(1.0, 2.0), Memory(80, 4, 84), Memory(60, 0, 60), 15.0)
        for straight in (one, None, Measured(error="it was away")):
            self.assertEqual(line("x", HELD, one, straight, 1.0).count("|"), cells)
        self.assertEqual(
            line("x", HELD, one, None, 1.0),
            "| `x`: an attack | 50 ms | 1.0 | 2.0 | 2.0 | 0 | 0 of 2, 4.0 | 80 + 4, 60 + 0 | 15 | - | - | - | "
            "met; the attack lacks sent 0 of 100, worst 2 of 10 |",
        )

    def test_the_usual_p99_is_that_of_all_rows(self) -> None:
        table = Table()
        for number, p99 in enumerate((1.0, 9.0, 2.0)):
            table.rows[list(ROWS)[number], "proxy"] = Measured(seen(p99), seen(4.0)), None
        self.assertEqual(table.usual, 2.0)
        self.assertEqual(table.missed(), {})
        table.rows["reset", "proxy"] = Measured(seen(2.0), seen(4.1)), None
        self.assertEqual(table.missed(), {"reset": ["p99"]})

    def test_a_busy_machine_is_told(self) -> None:
        table = Table({("reset", "proxy"): (Measured(seen(1.0), seen(1.0), others=0.5), None)})
        self.assertIn("**The machine was not quiet**: others used up to 50%", table.quiet())
        self.assertIn("not quiet", table.text())
        table = Table({("reset", "proxy"): (Measured(seen(1.0), seen(1.0)), None)})
        self.assertIn("The machine was quiet", table.quiet())

    def test_reasons_stand_below_the_table(self) -> None:
        table = Table({(name, "proxy"): (Measured(seen(1.0), seen(1.0)), None) for name in ("string-find", "expiry")})
        self.assertIn("- `string-find`: time inside one function of Lua", table.text())
        self.assertIn("- `expiry`: work that no command asks for", table.text())

    def test_options(self) -> None:
        self.assertEqual(parse(["--rows", "reset", "--seconds", "1"]).rows, ["reset"])
        for wrong in (["--seconds", "0"], ["--seconds", "60"], ["--rows", "nonsense"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                parse(wrong)


class ProcessTests(unittest.TestCase):
    def test_a_row_that_fails_does_not_stop_the_table(self) -> None:
        with mock.patch.object(noise, "measure", side_effect=RowError("the attacker\nended")):
            self.assertEqual(attempt("reset", None, 1.0).error, "not measured: RowError the attacker")

    def test_a_process_that_ends_or_is_silent_is_an_error(self) -> None:
        child = Child("benchmarks.quiet", "1", "password", "0")
        self.addCleanup(child.end)
        with self.assertRaisesRegex(RowError, "said nothing"):
            child.line(0.01)
        child.process.stdin.close()
        with self.assertRaisesRegex(RowError, "ended with status 0"):
            child.line(30.0)
        with self.assertRaises((RowError, ValueError)):
            child.send("1.0")

    def test_a_row_is_measured_through_the_proxy_and_straight(self) -> None:
        """The attacker, the quiet tenant, the proxy and Redis are processes, as in `make noise`."""
        for variant in (None, Variant("proxy")):
            found = noise.measure("unknown-20", variant, 0.6)
            self.assertEqual(found.error, "")
            self.assertGreater(len(found.beside.pings), 5)
            self.assertEqual(found.beside.errors + found.beside.failed, [])
            self.assertGreaterEqual(len(found.beside.log_ins), 1)
            self.assertEqual(found.attacker["open"], 20)
            self.assertGreater(found.attacker["sent"], 0)
            self.assertGreater(found.peak.resident, 1)
            self.assertGreater(found.after.resident, 1)
            self.assertGreater(found.redis, 1)
            self.assertEqual(bool(found.beside.probes), variant is not None)
            self.assertEqual(bool(found.logged), variant is not None)
