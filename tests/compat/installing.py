"""Installs client libraries of several languages, each with its language's own tool, into a folder
of a cache outside the tree.

An installer takes the folder with the sources and the list of packages, and the folder of the
cache. It installs again only if a source has changed. It returns the begin of the command that
starts a program. Skips if a compiler, a tool or a registry is missing, and says which.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

Installer = Callable[[Path, Path], list[str]]


def cache_folder() -> Path:
    """Returns the cache of the tests."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("REDISPROXY_CACHE") or home / "redisproxy-tests")


def installed(installer: Installer, source: Path, folder: Path) -> list[str]:
    """Installs what is missing, one process at a time, and returns the begin of the command. Raises
    subprocess.CalledProcessError if a program does not compile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return installer(source, folder)


def _fetch(command: list[str], registry: str, **options: object) -> None:
    """Runs a command that downloads packages. Skips if it fails."""
    try:
        subprocess.run(command, check=True, stdout=sys.stderr, **options)
    except subprocess.CalledProcessError:
        raise SkipTest(f"{command[0]} could not install the packages: is {registry} there?") from None


def needs(*programs: str, package: str) -> None:
    """Skips unless these programs are installed."""
    for program in programs:
        if shutil.which(program) is None:
            raise SkipTest(f"{program} is not installed: apt-get install {package}")


def _changed(folder: Path, *files: Path) -> str:
    """Returns a digest of these files, or nothing if it is the one in the folder."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = folder / "installed"
    return "" if stamp.exists() and stamp.read_text() == digest else digest


def _version(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def python(source: Path, folder: Path) -> list[str]:
    """Makes an environment with the packages of requirements.txt. Returns the interpreter."""
    requirements = source / "requirements.txt"
    interpreter = str(folder / "venv" / "bin" / "python")
    if digest := _changed(folder, requirements):
        venv.create(folder / "venv", with_pip=True, clear=True)
        pip = [interpreter, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        _fetch([*pip, "-r", str(requirements)], "PyPI")
        (folder / "installed").write_text(digest)
    return [interpreter]


def node(source: Path, folder: Path) -> list[str]:
    """Installs the packages of package-lock.json. Node looks for them beside the program, so the
    programs are copied.
    """
    needs("node", "npm", package="nodejs npm")
    lock = source / "package-lock.json"
    found = subprocess.run(["node", "--version"], capture_output=True, check=True, text=True).stdout.strip()
    if _version(found) < [20]:
        raise SkipTest(f"node {found} is older than 20")
    if digest := _changed(folder, lock):
        for file in (lock, source / "package.json"):
            shutil.copy(file, folder)
        npm = ["npm", "--prefix", str(folder), "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _fetch(npm, "the npm registry")
        (folder / "installed").write_text(digest)
    for file in source.glob("*.mjs"):
        shutil.copy(file, folder)
    return ["node"]


def go(source: Path, folder: Path) -> list[str]:
    """Builds the program. Skips if Go is older than go.mod asks for."""
    needs("go", package="golang-go")
    files = sorted(source.iterdir())
    wanted = re.search(r"(?m)^go ([\d.]+)$", (source / "go.mod").read_text())[1]
    have = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, check=True, text=True).stdout.strip()
    if _version(have) < _version(wanted):
        raise SkipTest(f"{have} is older than {wanted}: see go.dev/dl")
    if digest := _changed(folder, *files):
        for file in files:
            shutil.copy(file, folder)
        _fetch(["go", "mod", "download"], "the Go module proxy", cwd=folder)
        build = ["go", "build", "-mod=readonly", "-o", "program", "."]
        subprocess.run(build, cwd=folder, check=True, stdout=sys.stderr, env={**os.environ, "CGO_ENABLED": "0"})
        (folder / "installed").write_text(digest)
    return []


def java(source: Path, folder: Path) -> list[str]:
    """Fetches the packages of pom.xml and compiles the programs, and those beside the folder of
    the sources, which several have in common.
    """
    needs("javac", "mvn", package="default-jdk-headless maven")
    files = [*sorted(source.iterdir()), *sorted(source.parent.glob("*.java"))]
    if digest := _changed(folder, *files):
        for file in files:
            shutil.copy(file, folder)
        mvn = [
            "mvn",
            "-q",
            "-B",
            "-Dstyle.color=never",
            "dependency:build-classpath",
            f"-Dmdep.outputFile={folder / 'classpath'}",
        ]
        _fetch(mvn, "Maven Central", cwd=folder)
        classpath = (folder / "classpath").read_text().strip()
        sources = [file.name for file in files if file.suffix == ".java"]
        subprocess.run(["javac", "-cp", classpath, "-d", "classes", *sources], cwd=folder, check=True, stdout=sys.stderr)
        (folder / "installed").write_text(digest)
    classpath = (folder / "classpath").read_text().strip()
    return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{folder / 'classes'}:{classpath}"]


def rust(source: Path, folder: Path) -> list[str]:
    """Builds the programs into target/debug. The first time takes 10 minutes and more."""
    needs("cargo", "cc", package="gcc; for a cargo that is new enough see rustup.rs")
    where = ["--locked", "--manifest-path", str(source / "Cargo.toml")]
    _fetch(["cargo", "fetch", "--quiet", *where], "crates.io")
    build = ["cargo", "build", "--quiet", "--offline", *where]
    environ = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target")}
    subprocess.run(build, check=True, stdout=sys.stderr, env=environ)
    return []


def ruby(source: Path, folder: Path) -> list[str]:
    """Sidekiq and redis-rb are Debian's."""
    needs("ruby", "sidekiq", package="ruby-sidekiq ruby-redis")
    return ["ruby"]


def php(source: Path, folder: Path) -> list[str]:
    """phpredis and Predis are Debian's."""
    packages = "php-cli php-redis php-nrk-predis"
    needs("php", package=packages)
    found = subprocess.run(["php", "-m"], capture_output=True, check=True, text=True).stdout.split()
    if "redis" not in found or not Path("/usr/share/php/Predis").is_dir():
        raise SkipTest(f"phpredis or Predis is not installed: apt-get install {packages}")
    return ["php", "-d", "display_errors=stderr"]
