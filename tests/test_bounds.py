"""Tests the one table of limits: its values are plausible, its page lists each limit, and no limit
is copied.
"""

from __future__ import annotations

import ast
import itertools
import re
import unittest
from pathlib import Path
from unittest import mock

from redisproxy import bounds

from .support.limits import EXTREMES, LIMITS

ROOT = Path(__file__).parents[1]


def shown(name: str, value: float) -> str:
    """Returns a limit's value in the form of the page."""
    if name.endswith("_SECONDS"):
        return f"{value:g} s"
    if name.endswith("_BYTES"):
        for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value % size == 0:
                return f"{value // size:,} {unit}"
        return f"{value:,} bytes"
    return f"{value:,}"


class PageTests(unittest.TestCase):
    def test_the_page_has_each_limit_with_its_value(self) -> None:
        lines = (ROOT / "docs/decisions/bounds.md").read_text().split("\n")
        rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines if line.startswith("| `")]
        self.assertEqual(rows, [[f"`{name}`", shown(name, value)] for name, value in LIMITS.items()])

    def test_other_pages_name_limits_that_are_there(self) -> None:
        for page in (ROOT / "docs/decisions").glob("*.md"):
            named = set(re.findall(r"`([A-Z_]+_(?:BYTES|SECONDS|LIMIT|SIZE))`", page.read_text()))
            self.assertLessEqual(named, {*LIMITS, "WORK_QUEUE_SIZE"}, page.name)


class TableTests(unittest.TestCase):
    def test_a_limit_is_positive_and_has_the_type_of_its_unit(self) -> None:
        for name, value in LIMITS.items():
            with self.subTest(name):
                self.assertGreater(value, 0)
                self.assertIsInstance(value, (int, float) if name.endswith("_SECONDS") else int)

    def test_an_extreme_is_below_the_limit(self) -> None:
        for name, extreme in EXTREMES.items():
            with self.subTest(name):
                self.assertLess(extreme, LIMITS[name])

    def test_each_limit_has_a_reason(self) -> None:
        lines = (ROOT / "redisproxy/bounds.py").read_text().split("\n")
        for before, line in itertools.pairwise(lines):
            if line.split(":")[0].split(" =")[0] in LIMITS:
                self.assertTrue(before.startswith("#"), line)

    def test_limits_that_contradict_each_other_are_found(self) -> None:
        bounds._check()
        with mock.patch.object(bounds, "BACKLOG_BYTES", bounds.READ_BYTES - 1), self.assertRaises(ValueError) as caught:
            bounds._check()
        self.assertIn("one read of replies does not make a slow reader", str(caught.exception))


class UseTests(unittest.TestCase):
    """A test or a simulation that patches `bounds` must change the limit everywhere."""

    def setUp(self) -> None:
        self.sources = {
            path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
            for path in (ROOT / "redisproxy").rglob("*.py")
            if path.name != "bounds.py"
        }

    def test_no_limit_is_imported_by_its_name(self) -> None:
        for path, tree in self.sources.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    self.assertNotEqual((node.module or "").rpartition(".")[2], "bounds", path)

    def test_each_limit_is_used(self) -> None:
        used = {
            node.attr
            for tree in self.sources.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bounds"
        }
        self.assertEqual(used, set(LIMITS))
