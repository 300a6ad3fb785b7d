"""Tests how the suite is run: a failure must be visible."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

FAILING = """
import unittest
import tests

class FailingTests(unittest.TestCase):
    def test_some(self):
        for number in range(3):
            with self.subTest(number):
                {what}
"""


class SubTestTests(unittest.TestCase):
    def test_one_that_fails_is_told_of_by_all_processes(self) -> None:
        root = Path(__file__).parents[1]
        for what, word in (
            ("self.assertEqual(number, 0)", "failures=2"),
            ("0 / (1 - number)", "errors=1"),
            ("pass", "successes=1"),
        ):
            with tempfile.TemporaryDirectory(prefix="redisproxy-test-") as folder:
                (Path(folder) / "test_failing.py").write_text(FAILING.format(what=what))
                ran = subprocess.run(
                    [sys.executable, "-m", "twisted.trial", "-j1", "test_failing"],
                    cwd=folder,
                    env={"PYTHONPATH": f"{folder}:{root}", "PATH": "", "HOME": folder},
                    capture_output=True,
                    text=True,
                    timeout=180,
                    check=False,
                )
            self.assertIn(word, ran.stdout + ran.stderr)
            self.assertEqual(ran.returncode, word != "successes=1", ran.stdout + ran.stderr)
