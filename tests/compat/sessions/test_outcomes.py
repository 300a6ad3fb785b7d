"""Tests what programs print, and how two runs are compared. Needs no library."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from .libraries import LIBRARIES, PROGRAMS
from .outcomes import MISSING, Outcomes, differences, judged, parse, read, reasons, report, result, write

LISTED = [
    {"steps": ["CLIENT LIST"], "what": "", "why": "", "instead": ""},
    {"steps": ["Bull: workers", "soon gone"], "soon": True, "what": "", "why": "", "instead": ""},
]


def outcomes(**steps: str) -> Outcomes:
    return Outcomes("1.0", {step.replace("_", " "): outcome for step, outcome in steps.items()})


class ParseTests(unittest.TestCase):
    def test_steps_in_order(self) -> None:
        found = parse("version: 1.2\nlog in: OK\n[log] noise\nwait: ['a: b']\n")
        self.assertEqual(found, Outcomes("1.2", {"log in": "OK", "wait": "['a: b']"}))

    def test_port_and_password_are_replaced(self) -> None:
        found = parse("wait: 127.0.0.1:6379 x 63790 secret secrets", names={"6379": "PORT", "secret": "PASSWORD"})
        self.assertEqual(found.steps["wait"], "127.0.0.1:PORT x 63790 PASSWORD secrets")

    def test_a_step_twice_is_an_error_of_the_program(self) -> None:
        self.assertIn("twice", parse("one: 1\none: 2").end)


class CompareTests(unittest.TestCase):
    def test_what_differs(self) -> None:
        found = differences(outcomes(one="1", two="2", three="3"), outcomes(one="1", two="x", four="4"))
        self.assertEqual(found, {"two": ("2", "x"), "three": ("3", MISSING), "four": (MISSING, "4")})

    def test_nothing_wrong(self) -> None:
        straight = outcomes(one="1")
        straight.steps["RESP2, CLIENT LIST"] = "x"
        self.assertEqual(judged("Bull", straight, Outcomes("", {"one": "1", "RESP2, CLIENT LIST": "y"}), LISTED), [])

    def test_a_difference_without_a_reason(self) -> None:
        wrong = judged("RQ", outcomes(workers="1"), outcomes(workers="2"), LISTED)
        self.assertEqual(wrong, ["workers: it differs, and reasons.yaml does not say why"])
        self.assertEqual(judged("Bull", outcomes(workers="1"), outcomes(workers="2"), LISTED), [])

    def test_a_reason_without_a_difference(self) -> None:
        same = Outcomes("", {"CLIENT LIST": "x", "soon gone": "x"})
        self.assertEqual(
            judged("RQ", same, same, LISTED), ["CLIENT LIST: it no longer differs: remove it from reasons.yaml"]
        )

    def test_a_program_that_failed_twice_in_the_same_way_is_wrong(self) -> None:
        failed = Outcomes("", {}, "the program ended with status 1")
        self.assertEqual(len(judged("RQ", failed, failed, LISTED)), 3)


class ResultTests(unittest.TestCase):
    def test_results_of_other_libraries_stay(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "results.json"
            one = result(outcomes(a="1", b="2"), outcomes(a="1", b="3"))
            write({"Bull": one}, ["RQ", "Bull"], path)
            write({"RQ": one}, ["RQ", "Bull"], path)
            self.assertEqual(list(read(path)), ["RQ", "Bull"])
            self.assertEqual(read(path)["Bull"], {"version": "1.0", "steps": 2, "differ": {"b": ["2", "3"]}})

    def test_report(self) -> None:
        self.assertIn("2 steps, 1 differ\n  b\n", report("Bull", outcomes(a="1", b="2"), outcomes(a="1", b="3")))


class FilesTests(unittest.TestCase):
    def test_what_is_kept_is_of_known_libraries_and_has_reasons(self) -> None:
        listed = reasons()
        for library, kept in read().items():
            self.assertIn(library, LIBRARIES)
            straight, through = ({step: both[way] for step, both in kept["differ"].items()} for way in (0, 1))
            if kept["differ"]:
                self.assertEqual(judged(library, Outcomes("", straight), Outcomes("", through), listed), [], library)

    def test_each_library_has_its_sources(self) -> None:
        for library in LIBRARIES.values():
            self.assertTrue((PROGRAMS / library.folder).is_dir(), library)
