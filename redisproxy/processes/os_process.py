"""Settings of a whole process of the proxy: memory, threads, the limit of open files.

Owns what applies to a whole process and was found to delay clients. It knows nothing of the other
parts of the proxy.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from twisted.python.failure import Failure

from .. import bounds, messages
from ..ops.bugs import log_bug
from ..ops.logs import Log

_log = Log()

#: Seconds that another thread may run Python while the reactor waits for its turn. With Python's
#: default of 5 ms clients notice the delay.
SWITCH_INTERVAL = 0.001


def prepare() -> None:
    """Prepares a process that carries clients' bytes."""
    log_uncaught()
    sys.setswitchinterval(SWITCH_INTERVAL)


def quiet_libraries() -> None:
    """Discards what libraries log through Python's logging: the Kubernetes client quotes a
    credential plugin's output there.

    Without any handler, Python would print it to the standard error.
    """
    logging.getLogger().addHandler(logging.NullHandler())


def log_uncaught() -> None:
    """Logs exceptions that nobody catches, in a thread or while an object is deleted.

    Python would write them to the standard error with their texts, which may quote anything.
    """

    def in_thread(caught: threading.ExceptHookArgs) -> None:
        if caught.exc_value is not None:
            name = "" if caught.thread is None else caught.thread.name
            log_bug(_log, "the thread {thread}", Failure(caught.exc_value, exc_tb=caught.exc_traceback), thread=name)

    def unraisable(caught: sys.UnraisableHookArgs) -> None:
        if caught.exc_value is not None:
            log_bug(_log, "code that has no caller", Failure(caught.exc_value, exc_tb=caught.exc_traceback))

    threading.excepthook = in_thread
    sys.unraisablehook = unraisable


def settle() -> None:
    """Hides all present objects from the garbage collector, because each full run over them stops
    the process.
    """
    gc.collect()
    gc.freeze()


def raise_descriptor_limit(needed: int, named: str) -> None:
    """Raises the limit of open files to `needed`, as far as the hard limit allows. Logs a warning
    if that is too low.

    named: the settings that `needed` depends on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        _log.write(messages.OPEN_FILES, limit=soft, named=named, needed=needed)


def memory_limit(root: Path = Path("/")) -> int:
    """The memory that this container may use, in bytes: the smallest limit of its cgroups, of
    version 2 or 1. USUAL_MEMORY_BYTES if there is none.

    root: of the file system.
    """
    limits = [bounds.USUAL_MEMORY_BYTES, *_limits(root)]
    return limits[0] if len(limits) == 1 else min(limits[1:])


def _limits(root: Path) -> Iterator[int]:
    """The memory limits of this process's cgroup, and of those above it.

    In a container the file system has only the container's own cgroup, at its top.
    """
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", "0:memory:/", *lines]:
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        if kinds and "memory" not in kinds.split(","):
            continue
        directory, name = (top / "memory", "memory.limit_in_bytes") if kinds else (top, "memory.max")
        for part in ("", *Path(path).parts[1:]):
            directory /= part
            try:
                limit = int((directory / name).read_text())
            except (OSError, ValueError):  # "max": no limit
                continue
            if 0 < limit < _NO_LIMIT:
                yield limit


#: Version 1 says "no limit" with a number close to 2**63.
_NO_LIMIT = 1 << 60


def end_with(status: int) -> None:
    """Sets the exit status of this process. twistd itself knows only 0 and signals."""

    def end() -> None:
        sys.stdout.flush()
        os._exit(status)

    atexit.register(end)
