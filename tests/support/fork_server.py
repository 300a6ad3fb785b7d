"""Starts the proxy and its command as copies of a process that has already imported them. A copy
takes a tenth of the processor time of a start.

To import the proxy takes half a second of processor time, and the suite starts it hundreds of
times. So each process of tests has a server process: this file, run as a program. The server
imports the modules once, and forks for each process that a test asks for. A copy gets arguments,
environment, directory, limit of open files, input and output, and a new reactor. It ends as a
program does.

A copy cannot be given what Python or the loader reads before any import: see `can_fork`. Nor does a
copy ignore the signals that a test ignores. Tests of those things, of the start itself, and of
twistd's own options start the program as an operator does.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

#: What each program imports before its copies are made. The last entry names the function that runs
#: it, without arguments.
PROGRAMS = {
    "twistd": (
        *("redisproxy.tap", "redisproxy.status", "twisted.scripts._twistd_unix"),
        # for Twisted's own plugins
        *("twisted.cred.strcred", "twisted.trial.itrial", "twisted.words.iwords"),
        "twisted.scripts.twistd:run",
    ),
    "redisproxy": ("redisproxy.sources.kubernetes", "redisproxy.cli.main:main"),
}
#: The most bytes of a message: the kernel takes no more at once.
_MESSAGE = 256 * 1024


# In the tests' process.


@functools.cache
def _works_here() -> bool:
    if os.environ.get("TEST_FRESH") or "coverage" in sys.modules or sys.platform != "linux":
        return False  # coverage is measured from the start of a process
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # a kernel before 5.3
        return False
    return True


def can_fork(environ: Mapping[str, str]) -> bool:
    """Returns whether a process with this environment may be a copy. With TEST_FRESH=1 none may."""
    early = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_")
    differs = {name for name in {*environ, *os.environ} if environ.get(name) != os.environ.get(name)}
    return _works_here() and not any(name.startswith(early) for name in differs)


class ForkedProcess:
    """A copy that runs a program of PROGRAMS. It has the part of `subprocess.Popen` that tests use.

    output, errors: descriptors, which the caller may close afterwards. imports: modules besides the
    program's own.
    """

    def __init__(
        self,
        program: str,
        args: Sequence[str],
        environ: Mapping[str, str],
        output: int,
        errors: int,
        imports: Sequence[str] = (),
    ) -> None:
        self.args = args
        self.returncode: int | None = None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(os.devnull) as nothing:  # noqa: PTH123 - a device, not a file
            request = " ".join(name.partition(":")[0] for name in (*imports, *PROGRAMS[program])).encode()
            socket.send_fds(_server(), [request], [nothing.fileno(), output, errors, theirs.fileno()])
        start = {
            "call": PROGRAMS[program][-1],
            "args": list(args),
            "environ": dict(environ),
            "directory": os.getcwd(),  # noqa: PTH109 - the path as text
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        self._control.send(json.dumps(start).encode())
        self.pid = self._number()

    def _number(self) -> int:
        received = self._control.recv(64)
        if not received:
            raise AssertionError("the server of forked processes has ended")
        return int(received)

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status, or the negative number of the signal that ended the process.
        Raises subprocess.TimeoutExpired.
        """
        if self.returncode is None:
            self._control.settimeout(timeout)
            try:
                self.returncode = self._number()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self._control.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@functools.cache
def _server() -> socket.socket:
    """Returns the socket on which this process's server takes requests. The server ends when this
    process ends.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# In the server process.


def _serve(requests: socket.socket) -> list[int] | None:
    """Forks for each request. Returns the request's descriptors in a copy, and None in the server
    after the tests have ended.
    """
    running: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                poll.unregister(ready)
                os.close(ready)
                pid, control = running.pop(ready)
                _, status = os.waitpid(pid, 0)
                with control, suppress(OSError):  # the process that asked may have ended
                    control.send(b"%d" % os.waitstatus_to_exitcode(status))
                continue
            names, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE, 4)
            if not names:
                return None
            _import(names.decode().split())
            pid = os.fork()
            if pid == 0:
                requests.close()
                for pidfd, (_, control) in running.items():
                    os.close(pidfd)
                    control.close()
                return descriptors
            *streams, control = descriptors
            for stream in streams:
                os.close(stream)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = (pid, socket.socket(fileno=control))
            running[pidfd][1].send(b"%d" % pid)
            poll.register(pidfd, select.POLLIN)


def _import(names: Sequence[str]) -> None:
    """Imports the modules. A copy tries again if an import fails, and its output shows the
    error.
    """
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        with suppress(Exception):
            importlib.import_module(name)
    if missing:
        gc.collect()
        gc.freeze()  # otherwise the first collection of a copy would copy all pages


def _become(descriptors: list[int]) -> None:
    """Runs the program in a copy."""
    for target, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    with socket.socket(fileno=descriptors[3]) as control:
        start = json.loads(control.recv(_MESSAGE))
    os.chdir(start["directory"])
    os.environ.clear()
    os.environ.update(start["environ"])
    time.tzset()
    resource.setrlimit(resource.RLIMIT_NOFILE, start["files"])
    sys.argv[:] = start["args"]
    _renew_reactor()
    _run(*start["call"].split(":"))


def _run(module: str, name: str) -> None:
    """Runs and ends as a program does, but frees nothing at the end: to free all modules takes
    longer than most tests.
    """
    try:
        status = getattr(importlib.import_module(module), name)()
    except SystemExit as end:
        status = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def _renew_reactor() -> None:
    """Makes a new epoll descriptor and a new waker. All copies would share those of the imported
    reactor, and modules keep that reactor.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is not None:
        reactor.waker.connectionLost(None)
        reactor.__init__()


if __name__ == "__main__":
    sys.path[0] = ""  # as for ``python -c``: not the directory of this file
    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        _become(found)
