"""What a process of the proxy does with itself: its memory, its threads, its limit of open files.

Owns what is for a whole process and was found to be felt by clients. It knows nothing of the parts.
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

#: Seconds that another thread may run Python while the reactor waits for its turn; Python's own 5
#: ms are felt by clients.
SWITCH_INTERVAL = 0.001


def prepare() -> None:
    """For whoever carries clients' bytes."""
    log_uncaught()
    sys.setswitchinterval(SWITCH_INTERVAL)


def quiet_libraries() -> None:
    """What libraries say by Python's logging is not shown: the Kubernetes client quotes a
    credential plugin's output there.

    Without a handler of its own Python prints it to the standard error.
    """
    logging.getLogger().addHandler(logging.NullHandler())


def log_uncaught() -> None:
    """What nobody catches, in a thread or while an object is deleted, becomes a line of the log.

    Python would write it to the standard error, with what the exception says, which may quote
    anything.
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
    """What is in memory by now stays: it is taken from the garbage collector, each full run of
    which stops the process.
    """
    gc.collect()
    gc.freeze()


def raise_descriptor_limit(needed: int, named: str) -> None:
    """As many open files as are needed, as far as the operator allows, and a warning where that is
    too few.

    named: the settings that the number follows from.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        _log.write(messages.OPEN_FILES, limit=soft, named=named, needed=needed)


def end_with(status: int) -> None:
    """What this process will end with, once it does. twistd itself knows only 0, and signals."""

    def end() -> None:
        sys.stdout.flush()
        os._exit(status)

    atexit.register(end)
