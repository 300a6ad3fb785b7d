"""Tests rules of the tree: code that several test modules need is in `tests/support/`, and code
that the proxy needs once is in one place.
"""

from __future__ import annotations

import ast
import re
import unittest
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

TESTS = Path(__file__).parent


def imported(source: str, package: str) -> Iterator[str]:
    """Yields the full dotted names that a module of this package may import, in functions, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def modules_of_tests(source: str, package: str) -> list[str]:
    """Returns those of the imported names that are test modules, or are in one."""
    return [
        name
        for name in imported(source, package)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]


class ImportsTests(unittest.TestCase):
    def test_no_module_imports_a_test_module(self) -> None:
        """No module imports a test module. `support.forms.interpreted` loads some by name, on
        purpose, without an import statement.
        """
        for path in sorted(TESTS.rglob("*.py")):
            package = ".".join(path.relative_to(TESTS.parent).parent.parts)
            found = modules_of_tests(path.read_text(), package)
            self.assertEqual(found, [], f"{path.relative_to(TESTS.parent)}: move what it takes from there to tests/support/")

    def test_each_way_to_import_one_is_seen(self) -> None:
        for source in (
            "import tests.session.test_session",
            "import tests.session.test_session as other",
            "from tests.session import test_session",
            "from tests.session.test_session import BLUE",
            "from .test_session import BLUE",
            "from . import test_session",
            "from ..session.test_session import BLUE",
            "def later():\n    from ..session import test_session",
        ):
            self.assertEqual(len(modules_of_tests(source, "tests.session")), 1, source)
        for source in ("from ..support.status import ask", "import tests", "from twisted.test import test_tcp"):
            self.assertEqual(modules_of_tests(source, "tests.session"), [], source)


#: Code that exists in one place: a pattern of it, and the files that may contain it, its own place
#: first.
ONE_OF_EACH = (
    (
        "delays that grow",
        r"\bbackoffPolicy\b|\* 2 \*\*|\bmin\(2 \* ",
        ("ops/retry.py", "tenants/login_backoff.py"),
    ),
    ("times as text", r"\bstrftime\(|\bfromtimestamp\(", ("ops/time_text.py", "ops/logs.py")),
    ("stamps of files", r"\bst_mtime", ("ops/file_watch.py",)),
    ("the line of a bug", r"messages\.BUG|log\.failure\(", ("ops/bugs.py",)),
    ("errors of a server in the log", r"\bserver_error\(", ("printable.py", "ops/logs.py")),
    ("the rules of enrolment", r"\bEnrolment\(|\bpolicy_for\(", ("settings.py", "policy/probing.py")),
)


class OneOfEachTests(unittest.TestCase):
    def test_what_is_made_in_one_place_is_made_nowhere_else(self) -> None:
        package = TESTS.parent / "redisproxy"
        for what, pattern, files in ONE_OF_EACH:
            found = {
                str(path.relative_to(package)) for path in package.rglob("*.py") if re.search(pattern, path.read_text())
            }
            self.assertEqual(found - set(files), set(), f"{what}: use {files[0]}")
            self.assertIn(files[0], found, f"{what}: the pattern finds nothing")


class LengthTests(unittest.TestCase):
    def test_a_long_module_says_why_it_is_not_two(self) -> None:
        for path in sorted((TESTS.parent / "redisproxy").rglob("*.py")):
            source = path.read_text()
            if source.count("\n") > 420:
                docstring = " ".join((ast.get_docstring(ast.parse(source)) or "").split())
                self.assertIn("is longer than other modules", docstring, path.name)
