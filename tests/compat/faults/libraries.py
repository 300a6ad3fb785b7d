"""The client libraries: how each client program is installed, started and ended.

Packages are installed into a cache outside the tree. A program's environment has REDIS_PORT,
REDIS_PASSWORD and REDIS_INDEX, and with sentinels REDIS_SENTINELS and REDIS_MASTER. The program
prints events (see `events`). When its standard input ends, it adds no more, finishes what is in its
queue, and ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest import SkipTest

from tests.support.waiting import until

from .events import Event, parse, working

PROGRAMS = Path(__file__).resolve().parent / "programs"
#: Seconds until all clients of a program work. A JVM and Celery take several.
START_LIMIT = 60
#: Seconds until a program has ended after its standard input.
END_LIMIT = 25
#: The clients of a program that uses a client library itself. `events` says what waiting means for
#: the role `command`.
CLIENTS = {"command": 12, "large": 1, "transaction": 1, "publisher": 1, "subscriber": 2, "producer": 1, "consumer": 2}
#: The same of one that uses a job queue.
QUEUE = {"producer": 1, "worker": 2}


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


def python(folder: Path) -> list[str]:
    """Makes an environment with the packages of requirements.txt. Returns the interpreter."""
    requirements = PROGRAMS / "python" / "requirements.txt"
    interpreter = str(folder / "venv" / "bin" / "python")
    if digest := _changed(folder, requirements):
        venv.create(folder / "venv", with_pip=True, clear=True)
        pip = [interpreter, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "-r", str(requirements)], check=True, stdout=sys.stderr)
        (folder / "installed").write_text(digest)
    return [interpreter]


def node(folder: Path) -> list[str]:
    """Installs the packages of package-lock.json. Node looks for them beside the program, so the
    programs are copied.
    """
    needs("node", "npm", package="nodejs npm")
    source = PROGRAMS / "node"
    lock = source / "package-lock.json"
    if digest := _changed(folder, lock):
        for file in (lock, source / "package.json"):
            shutil.copy(file, folder)
        npm = ["npm", "--prefix", str(folder), "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(npm, check=True, stdout=sys.stderr)
        (folder / "installed").write_text(digest)
    for file in source.glob("*.mjs"):
        shutil.copy(file, folder)
    return ["node"]


def go(folder: Path) -> list[str]:
    """Builds the program. Skips if Go is older than go.mod asks for."""
    needs("go", package="golang-go")
    files = sorted((PROGRAMS / "go").iterdir())
    wanted = re.search(r"(?m)^go ([\d.]+)$", (PROGRAMS / "go" / "go.mod").read_text())[1]
    have = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, check=True, text=True).stdout.strip()
    if _version(have) < _version(wanted):
        raise SkipTest(f"{have} is older than {wanted}")
    if digest := _changed(folder, *files):
        for file in files:
            shutil.copy(file, folder)
        build = ["go", "build", "-mod=readonly", "-o", "program", "."]
        subprocess.run(build, cwd=folder, check=True, stdout=sys.stderr, env={**os.environ, "CGO_ENABLED": "0"})
        (folder / "installed").write_text(digest)
    return []


def java(folder: Path) -> list[str]:
    """Fetches the packages of pom.xml and compiles the programs."""
    needs("javac", "mvn", package="default-jdk-headless maven")
    files = sorted((PROGRAMS / "java").iterdir())
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
        subprocess.run(mvn, cwd=folder, check=True, stdout=sys.stderr)
        classpath = (folder / "classpath").read_text().strip()
        sources = [file.name for file in files if file.suffix == ".java"]
        subprocess.run(["javac", "-cp", classpath, "-d", "classes", *sources], cwd=folder, check=True, stdout=sys.stderr)
        (folder / "installed").write_text(digest)
    classpath = (folder / "classpath").read_text().strip()
    return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{folder / 'classes'}:{classpath}"]


def ruby(folder: Path) -> list[str]:
    """Sidekiq is Debian's."""
    needs("ruby", "sidekiq", package="ruby-sidekiq ruby-redis")
    return ["ruby"]


@dataclass(frozen=True)
class Library:
    """A client program. install: one of the functions above, which returns the begin of a command;
    program: the rest of it, where a path begins with the name of its folder.
    """

    install: Callable[[Path], list[str]]
    program: tuple[str, ...]
    clients: Mapping[str, int] = field(default_factory=CLIENTS.copy)

    def prepare(self, cache: Path) -> list[str]:
        """Installs what is missing, and returns the command."""
        folder = cache / f"faults-{self.install.__name__}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return [*self.install(folder), *(word.format(cache=folder, source=PROGRAMS) for word in self.program)]

    @property
    def expected(self) -> set[tuple[str, int]]:
        return {(role, number) for role, count in self.clients.items() for number in range(count)}


LIBRARIES = {
    "redis-py": Library(python, ("{source}/python/redis_sync.py",)),
    "redis-py-tenants": Library(python, ("{source}/python/redis_sync.py", "tenants")),
    "redis-py-asyncio": Library(python, ("{source}/python/redis_asyncio.py",)),
    "redis-py-asyncio-tenants": Library(python, ("{source}/python/redis_asyncio.py", "tenants")),
    "ioredis": Library(node, ("{cache}/ioredis.mjs",)),
    "node-redis": Library(node, ("{cache}/node-redis.mjs",)),
    "go-redis": Library(go, ("{cache}/program",)),
    "jedis": Library(java, ("JedisClients",)),
    "lettuce": Library(java, ("LettuceClients",)),
    "rq": Library(python, ("{source}/python/rq_queue.py",), QUEUE),
    "celery": Library(python, ("{source}/python/celery_queue.py",), QUEUE),
    "bullmq": Library(node, ("{cache}/bullmq.mjs",), QUEUE),
    "sidekiq": Library(ruby, ("{source}/ruby/sidekiq_queue.rb",), QUEUE),
}


class Program:
    """A running client program, in a process group of its own."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        self.events: list[Event] = []
        self.trouble = ""
        self._directory = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self._errors = Path(self._directory.name) / "errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._directory.name,
                env={**os.environ, **environ},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            event = parse(line.decode("utf-8", "replace"))
            if event is not None:
                self.events.append(event)

    def until_working(self, expected: set[tuple[str, int]]) -> None:
        """Waits until all these clients have succeeded. Raises AssertionError."""

        def missing() -> set[tuple[str, int]]:
            if self.process.poll() is not None:
                raise AssertionError(f"the program ended with status {self.process.returncode}: {self.said()}")
            return expected - working(list(self.events))

        try:
            until(lambda: not missing(), "all clients work", START_LIMIT)
        except AssertionError as error:
            raise AssertionError(f"{error}; missing: {sorted(missing())}; {self.said()}") from None

    def said(self) -> str:
        """Returns the end of what the program wrote to its standard error."""
        return self._errors.read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """Ends the standard input and waits for the end."""
        if self.process.poll() is not None:
            self.trouble = f"the program ended with status {self.process.returncode}"
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self.trouble = f"the program did not end within {END_LIMIT} s"

    def close(self) -> None:
        """Kills what is left of the program."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)
        self._directory.cleanup()
