"""Starts the proxy and its command as copies of a process that has imported them: a tenth of the
processor time of a start.

To import the proxy takes half a second of a processor, and the suite starts it hundreds of times.
So each process of the tests has a server of its own (this file as a program), which imports, and
forks for each process that is asked for. A copy gets arguments, environment, directory, limit of
open files, input and output, and a reactor made anew; it ends as a program does.

What Python or the loader reads before any import cannot be given to a copy: see `can_fork`; nor are
signals ignored there that a test ignores. Tests of that, of the start itself, and of twistd's own
options, start a program as an operator does.
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

#: What each program imports before its copies are made. The last is where its call is, without
#: arguments.
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


# In the tests.


@functools.cache
def _works_here() -> bool:
    if os.environ.get("TEST_FRESH") or "coverage" in sys.modules or sys.platform != "linux":
        return False  # coverage is measured from a process's start
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # a kernel before 5.3
        return False
    return True


def can_fork(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment may be a copy. TEST_FRESH=1: none is."""
    early = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_")
    differs = {name for name in {*environ, *os.environ} if environ.get(name) != os.environ.get(name)}
    return _works_here() and not any(name.startswith(early) for name in differs)


class ForkedProcess:
    """A copy that runs a program of PROGRAMS. It has what tests use of `subprocess.Popen`.

    output, errors: descriptors, which the caller may close afterwards. imports: modules besides
    those of the program.
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
        with theirs, open(os.devnull) as nothing:  # noqa: PTH123 - no file
            request = " ".join(name.partition(":")[0] for name in (*imports, *PROGRAMS[program])).encode()
            socket.send_fds(_server(), [request], [nothing.fileno(), output, errors, theirs.fileno()])
        start = {
            "call": PROGRAMS[program][-1],
            "args": list(args),
            "environ": dict(environ),
            "directory": os.getcwd(),  # noqa: PTH109 - as text
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        self._control.send(json.dumps(start).encode())
        self.pid = self._number()

    def _number(self) -> int:
        told = self._control.recv(64)
        if not told:
            raise AssertionError("the server of forked processes has ended")
        return int(told)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or the negative number of the signal that ended it. Raises
        subprocess.TimeoutExpired.
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
    """Where the server of this process takes requests. It ends when this process does."""
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


# In the server.


def _serve(requests: socket.socket) -> list[int] | None:
    """Forks for each request. Returns the request's descriptors in a copy; None in the server, once
    the tests have ended.
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
                with control, suppress(OSError):  # whoever asked may have ended
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
    """What cannot be imported is left to the copies, whose output says so."""
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        with suppress(Exception):
            importlib.import_module(name)
    if missing:
        gc.collect()
        gc.freeze()  # or a copy's first collection would copy all pages


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
    """As a program runs and ends, but that nothing is freed at the end: to free all modules takes
    longer than most tests do.
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
    """The epoll descriptor and the waker of the reactor that was imported are one for all copies,
    and modules keep that reactor.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is not None:
        reactor.waker.connectionLost(None)
        reactor.__init__()


if __name__ == "__main__":
    sys.path[0] = ""  # as for ``python -c``, not where this file is
    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        _become(found)
