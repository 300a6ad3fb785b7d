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

from twisted.python.failure import Failure

from .. import messages
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


def end_with(status: int) -> None:
    """Sets the exit status of this process. twistd itself knows only 0 and signals."""

    def end() -> None:
        sys.stdout.flush()
        os._exit(status)

    atexit.register(end)
