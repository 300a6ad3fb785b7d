"""Tests the build: the sdist, and wheels of it with and without a compiler, made by the backend
that pip calls.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from .support.proxy import Manifests, ProxyProcess, master, tenant
from .support.servers import RedisServer

ROOT = Path(__file__).parents[1]
#: The parts of the project, which its sdist must contain.
FOLDERS = (".ci", "benchmarks", "deploy", "docs", "redisproxy", "tests", "twisted")
FILES = (
    *("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "LICENSE"),
    *("setup.py", "pyproject.toml", "MANIFEST.in", "Makefile", "Dockerfile", ".dockerignore"),
)


class BuildTests(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="redisproxy-test-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def build(self, what: str, source: Path, **environ: str) -> Path:
        """Builds an sdist or a wheel of a source tree, and returns its path."""
        code = f"import setuptools.build_meta as b; print(b.build_{what}({str(self.directory)!r}))"
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=source, env=os.environ | environ, capture_output=True, text=True, timeout=300
        )
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return self.directory / result.stdout.split()[-1]

    def source(self) -> Path:
        """Returns the unpacked sdist of this tree."""
        tree = self.directory / "tree"
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "dropin.cache")
        for name in FOLDERS:
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        for name in FILES:
            shutil.copy(ROOT / name, tree)
        shutil.unpack_archive(self.build("sdist", tree), self.directory)
        (made,) = self.directory.glob("redisproxy-*/")
        return made

    def unpacked(self, wheel: Path) -> Path:
        shutil.unpack_archive(wheel, self.directory / "installed", "zip")
        return self.directory / "installed"

    def test_the_sdist_has_all_of_the_project(self) -> None:
        made, tree = self.source(), self.directory / "tree"
        wanted = {path.relative_to(tree) for path in tree.rglob("*") if path.is_file() and "egg-info" not in str(path)}
        self.assertGreater(len(wanted), 400)
        self.assertEqual(wanted - {path.relative_to(made) for path in made.rglob("*")}, set())
        self.assertNotIn("Project-URL", (made / "PKG-INFO").read_text())

    def test_who_publishes_it_says_where_it_comes_from(self) -> None:
        home = "https://git.example.com/redisproxy"
        wheel = self.build("wheel", self.source(), CC="/nonexistent/cc", PROJECT_URL=f"{home}/")
        (metadata,) = self.unpacked(wheel).glob("*.dist-info/METADATA")
        pages = dict(re.findall(r"Project-URL: (\w+), (\S+)", metadata.read_text()))
        self.assertEqual(pages["Homepage"], home)
        self.assertEqual(pages["Changelog"], f"{home}/CHANGELOG.md")
        # This file makes a type checker use the annotations.
        self.assertTrue((metadata.parents[1] / "redisproxy/py.typed").exists())
        # The status endpoint shows these.
        shown = {path.name: path.read_bytes() for path in (metadata.parents[1] / "redisproxy/runbooks").iterdir()}
        self.assertEqual(shown, {path.name: path.read_bytes() for path in (ROOT / "docs/runbooks").iterdir()})

    def test_with_a_compiler(self) -> None:
        if shutil.which("cc") is None and shutil.which("gcc") is None:
            raise unittest.SkipTest("no C compiler: apt-get install gcc libc6-dev")
        source = self.source()
        self.assertEqual(list(source.rglob("*.c")), [])
        installed = self.unpacked(self.build("wheel", source))
        (scripts,) = installed.glob("*.dist-info/entry_points.txt")
        self.assertIn("redisproxy = redisproxy.cli.main:main", scripts.read_text().splitlines())
        said = subprocess.run(
            [sys.executable, "-c", "from redisproxy.resp import framing; print(framing.COMPILED, framing.__file__)"],
            cwd=installed,
            capture_output=True,
            text=True,
        ).stdout.split()
        self.assertEqual(said[0], "True")
        self.assertTrue(said[1].startswith(str(installed)), said)

    def test_without_a_compiler(self) -> None:
        """Without a compiler the wheel is still built, and the proxy logs once that it is slower
        than it could be.
        """
        wheel = self.build("wheel", self.source(), CC="/nonexistent/cc")
        installed = self.unpacked(wheel)
        self.assertEqual(list(installed.rglob("*.so")), [])
        server = RedisServer().start()
        self.addCleanup(server.stop)
        manifests = Manifests([master(server.url), *tenant("team-blue", 3, "blue")])
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path), directory=installed).ready()
        self.addCleanup(proxy.stop)
        self.assertEqual(proxy.log.count("the framing is interpreted"), 1, proxy.log)
        client = proxy.client("blue", 3)
        self.assertTrue(client.set("a", "1"))
        self.assertEqual(client.get("a"), b"1")
