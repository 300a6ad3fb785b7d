"""The client libraries: how each client program is started and ended.

A program's environment has REDIS_PORT, REDIS_PASSWORD and REDIS_INDEX, and with sentinels
REDIS_SENTINELS and REDIS_MASTER. The program prints events (see `events`). When its standard input
ends, it adds no more, finishes what is in its queue, and ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.waiting import until

from ..installing import Installer, go, installed, java, node, python, ruby
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


@dataclass(frozen=True)
class Library:
    """A client program. install: a function of `installing`, which returns the begin of a command;
    program: the rest of it, where a path begins with the name of its folder.
    """

    install: Installer
    program: tuple[str, ...]
    clients: Mapping[str, int] = field(default_factory=CLIENTS.copy)

    def prepare(self, cache: Path) -> list[str]:
        """Installs what is missing, and returns the command."""
        language = self.install.__name__
        folder = cache / f"faults-{language}"
        command = installed(self.install, PROGRAMS / language, folder)
        return [*command, *(word.format(cache=folder, source=PROGRAMS) for word in self.program)]

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
