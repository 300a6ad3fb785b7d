"""What is built: the sdist, and wheels of it with and without a compiler, made by the backend that pip would call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from .support.proxy import Manifests, ProxyProcess, master, tenant
from .support.servers import RedisServer

ROOT = Path(__file__).parents[1]


class BuildTests(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="redisproxy-test-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def build(self, what: str, source: Path, **environ: str) -> Path:
        """A sdist or wheel of a source tree."""
        code = f"import setuptools.build_meta as b; print(b.build_{what}({str(self.directory)!r}))"
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=source, env=os.environ | environ, capture_output=True, text=True, timeout=300
        )
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return self.directory / result.stdout.split()[-1]

    def source(self) -> Path:
        """What is in an sdist of this tree."""
        tree = self.directory / "tree"
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "dropin.cache")
        for name in ("redisproxy", "twisted"):
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        shutil.unpack_archive(self.build("sdist", tree), self.directory)
        (made,) = self.directory.glob("redisproxy-*/")
        return made

    def unpacked(self, wheel: Path) -> Path:
        shutil.unpack_archive(wheel, self.directory / "installed", "zip")
        return self.directory / "installed"

    def test_with_a_compiler(self) -> None:
        if shutil.which("cc") is None and shutil.which("gcc") is None:
            raise unittest.SkipTest("no C compiler: apt-get install gcc libc6-dev")
        source = self.source()
        self.assertEqual(list(source.rglob("*.c")), [])
        installed = self.unpacked(self.build("wheel", source))
        (scripts,) = installed.glob("*.dist-info/entry_points.txt")
        self.assertIn("redisproxy = redisproxy.cli.main:main", scripts.read_text().splitlines())
        said = subprocess.run(
            [sys.executable, "-c", "from redisproxy.core import resp; print(resp.COMPILED, resp.__file__)"],
            cwd=installed,
            capture_output=True,
            text=True,
        ).stdout.split()
        self.assertEqual(said[0], "True")
        self.assertTrue(said[1].startswith(str(installed)), said)

    def test_without_a_compiler(self) -> None:
        """The wheel is built all the same, and the proxy says once that it is slower than it need be."""
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
