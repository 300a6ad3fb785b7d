"""The client libraries: how the program of each is installed and run.

A program's environment has REDIS_PORT, REDIS_PASSWORD and REDIS_INDEX. Its working directory is
empty and is removed. It prints its outcomes (see `outcomes`), and ends with status 0.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..installing import Installer, go, installed, java, node, php, python, ruby, rust
from .outcomes import Outcomes, parse

PROGRAMS = Path(__file__).resolve().parent / "programs"
#: Seconds that a program may take.
LIMIT = 400


@dataclass(frozen=True)
class Library:
    """A client library and its program. install: a function of `installing`; folder: the sources,
    below `PROGRAMS`; program: the words behind the command that `install` returns.
    """

    install: Installer
    folder: str
    program: tuple[str, ...]

    def prepare(self, cache: Path) -> list[str]:
        """Installs what is missing, and returns the command. Skips if that cannot be."""
        source = PROGRAMS / self.folder
        folder = cache / f"sessions-{self.folder.replace('/', '-')}"
        command = installed(self.install, source, folder)
        return [*command, *(word.format(cache=folder, source=source) for word in self.program)]


def _python(name: str) -> Library:
    return Library(python, "python", ("-u", f"{{source}}/{name}.py"))


def _node(name: str) -> Library:
    return Library(node, "node", (f"{{cache}}/{name}.mjs",))


LIBRARIES = {
    "redis-py": _python("redis_py"),
    "valkey-py": _python("valkey_py"),
    "Celery": _python("celery_session"),
    "RQ": _python("rq_session"),
    "Dramatiq": _python("dramatiq_session"),
    "Django": _python("django_session"),
    "node-redis": _node("node-redis"),
    "ioredis": _node("ioredis"),
    "valkey-glide": _node("valkey-glide"),
    "Bull": _node("bull"),
    "BullMQ": _node("bullmq"),
    "go-redis": Library(go, "go", ("{cache}/program", "go-redis")),
    "rueidis": Library(go, "go", ("{cache}/program", "rueidis")),
    "Jedis": Library(java, "java/jedis", ("JedisSession",)),
    "Lettuce": Library(java, "java/lettuce", ("LettuceSession",)),
    "Redisson": Library(java, "java/redisson", ("RedissonSession",)),
    "Spring": Library(java, "java/spring", ("SpringSession",)),
    "redis-rs": Library(rust, "rust", ("{cache}/target/debug/redis-rs",)),
    "fred": Library(rust, "rust", ("{cache}/target/debug/fred",)),
    "phpredis": Library(php, "php", ("{source}/phpredis.php",)),
    "Predis": Library(php, "php", ("{source}/predis.php",)),
    "redis-rb": Library(ruby, "ruby", ("{source}/redis_rb.rb",)),
    "Sidekiq": Library(ruby, "ruby", ("{source}/sidekiq_session.rb",)),
}


def run(command: list[str], where: Mapping[str, str]) -> tuple[Outcomes, str]:
    """Runs a program in a process group of its own. Returns its outcomes, and what it wrote to its
    standard error. The port and the password are replaced by their names.
    """
    with tempfile.TemporaryDirectory(prefix="redisproxy-test-") as directory, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=directory,
            env={**os.environ, **where},
            start_new_session=True,
        )
        end = ""
        try:
            written, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            end = f"the program did not end within {LIMIT} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if end:
            written, _ = process.communicate()
        elif process.returncode:
            end = f"the program ended with status {process.returncode}"
        errors.seek(0)
        said = errors.read().decode(errors="replace")[-3000:]
    return parse(
        written.decode(errors="replace"), end, {where["REDIS_PORT"]: "PORT", where["REDIS_PASSWORD"]: "PASSWORD"}
    ), said
