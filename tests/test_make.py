"""Tests the environment that the Makefile creates: a missing program is named first, and an
unfinished environment is made again.

`python` is a script here that records its arguments. The project consists of the Makefile and the
files that the Makefile checks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Makes an environment out of itself. While there is a file `cut-off`, pip is interrupted after its
#: start.
PYTHON = """#!/bin/sh
echo "$*" >>"$HERE/asked"
case "$*" in
"-c import venv; from ensurepip import bootstrap") test ! -e "$HERE/no-venv" ;;
"-c "*) exec python3 "$@" ;;
"-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
"-m pip "*) touch "${0%/*}/begun"; test ! -e "$HERE/cut-off" || kill -INT $PPID $$ ;;
esac
"""


@unittest.skipIf(shutil.which("make") is None, "make is not installed: apt-get install make")
class EnvironmentTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        for name in ("Makefile", "setup.py", "pyproject.toml", "redisproxy/resp/framing.py", "redisproxy/resp/framing.pxd"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.python = self.root / "python-of-the-test"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def make(self, *targets: str, python: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["make", f"PYTHON={python or self.python}", *targets]
        # Without the settings and the job server of a make around this one, and without trial's
        # PYTHONPATH, which would break another Python.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
        environ["HERE"] = str(self.root)
        return subprocess.run(command, cwd=self.root, env=environ, capture_output=True, text=True, timeout=180, check=False)

    def made(self, *targets: str, python: str | None = None) -> str:
        """Runs make, asserts that it succeeds, and returns its output."""
        ran = self.make(*targets, python=python)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        return ran.stdout

    def asked(self) -> list[str]:
        """Returns python's calls since the last time, without the checks with -c."""
        path = self.root / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split(" --quiet")[0] for line in lines if not line.startswith("-c ")]

    def test_an_environment_is_made_once(self) -> None:
        ran = self.make(".venv/installed")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        # A person who waits 90 s needs the reason.
        self.assertRegex(ran.stdout, "(?s)Making a Python environment .*Installing the proxy .*a minute or two")
        self.assertEqual(self.asked(), ["-m venv --clear .venv", "-m pip install"])
        self.made(".venv/installed", ".venv/installed-test")
        self.assertEqual(self.asked(), ["-m pip install"])
        self.made(".venv/installed", ".venv/installed-test")
        self.assertEqual(self.asked(), [])

    def test_without_venv_its_package_is_named_each_time_and_nothing_is_made(self) -> None:
        (self.root / "no-venv").touch()
        for _ in range(2):
            ran = self.make("run")
            self.assertNotEqual(ran.returncode, 0)
            self.assertRegex(ran.stdout, r"has no venv or no ensurepip; .*apt-get install python3\.\d+-venv")
            self.assertEqual(self.asked(), [])
            self.assertFalse((self.root / ".venv").exists())
        (self.root / "no-venv").unlink()
        self.made(".venv/installed")

    def test_what_an_earlier_makefile_left_without_pip(self) -> None:
        (self.root / ".venv/bin").mkdir(parents=True)
        (self.root / ".venv/bin/python").write_text("#!/bin/sh\necho No module named pip\nexit 1\n")
        self.made(".venv/installed")
        self.assertEqual(self.asked(), ["-m venv --clear .venv", "-m pip install"])

    def test_python_that_is_missing_is_named(self) -> None:
        ran = self.make("test", python="python3.99")
        self.assertRegex(ran.stdout, "^python3.99 is missing; .*apt-get install python3.99 python3.99-venv")
        self.assertFalse((self.root / ".venv").exists())

    def test_what_was_interrupted_is_made_anew(self) -> None:
        (self.root / "cut-off").touch()
        self.assertNotEqual(self.make("run").returncode, 0)
        self.assertTrue((self.root / ".venv/bin/begun").exists(), "pip was at work")
        (self.root / "cut-off").unlink()
        self.asked()
        self.made(".venv/installed")
        self.assertEqual(self.asked(), ["-m venv --clear .venv", "-m pip install"])

    def test_an_interrupted_addition_is_fixed_by_any_target(self) -> None:
        self.made(".venv/installed")
        (self.root / "cut-off").touch()
        self.assertNotEqual(self.make(".venv/installed-test").returncode, 0)
        (self.root / "cut-off").unlink()
        self.asked()
        self.made(".venv/installed")
        self.assertEqual(self.asked(), ["-m pip install"])
        self.made(".venv/installed-test")
        self.assertEqual(self.asked(), ["-m pip install"])
