"""The parent's side of one worker process: its channel, its output and its end.

Owns the rule for when a worker is over: the process is gone and the channel is closed, because the
channel may hold its last messages. `supervisor` decides how many workers there are and what they
are sent.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Protocol

from twisted.internet import defer
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from .. import messages
from ..ops import logs
from ..ops.logs import Log
from .channel import Answer, Channel, Handler, Message

#: Like `channel.Handler`, for a message from one of the workers.
WorkerHandler = Callable[["WorkerProcess", Message], Answer | defer.Deferred[Answer]]
#: Characters that are kept of a line of a worker's standard output or error.
_LINE = 2000


class Parent(Protocol):
    """What a WorkerProcess notifies: see `supervisor.Workers`."""

    #: by kind of message from a worker
    handlers: dict[str, WorkerHandler]

    def ended(self, process: WorkerProcess, how: str) -> None:
        """Called when a worker's process is gone. how: in a few words."""


class WorkerProcess(ProcessProtocol):
    """One run of a worker."""

    _log = Log()
    transport: IProcessTransport

    def __init__(self, workers: Parent, number: int) -> None:
        self._workers = workers
        self.number = number
        self.started = 0.0
        self.pid = 0
        #: whether it accepts clients
        self.serves = False
        #: number of the snapshot that it has in force, 0 without one
        self.snapshot = 0
        #: whether it was sent a snapshot and has not answered yet
        self.taking = False
        self.last_line = ""
        self._unfinished = {1: b"", 2: b""}
        self._end: Failure | None = None
        self._channel_lost = False
        handlers = {kind: self._bound(handler) for kind, handler in workers.handlers.items()}
        self.channel = Channel({**handlers, "log": self._take_log}, self._lost)

    def _bound(self, handler: WorkerHandler) -> Handler:
        return lambda message: handler(self, message)

    def _take_log(self, message: Message) -> None:
        logs.replay(message.fields["record"], self.number, self.pid)

    def log(self, message: messages.LogLine, **fields: object) -> None:
        """Logs an event of this worker."""
        self._log.write(message, worker=self.number, pid=self.pid, **fields)

    # Its standard output and error: used by a worker that cannot start, and by Python itself.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._unfinished[childFD] + data).split(b"\n")
        self._unfinished[childFD] = rest[:_LINE]
        for line in lines:
            self._wrote(line)

    def _wrote(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace")[:_LINE].rstrip()
        if text:
            self.last_line = text
            self.log(messages.WORKER_WROTE, line=text)

    # The end of both the process and the channel, which may hold its last messages.

    def processEnded(self, reason: Failure) -> None:
        for rest in self._unfinished.values():
            self._wrote(rest)
        self._end = reason
        self._check_end()

    def _lost(self) -> None:
        self._channel_lost = True
        self._check_end()

    def _check_end(self) -> None:
        if self._end is not None and self._channel_lost:
            self._workers.ended(self, _how(self._end))

    def kill(self) -> None:
        """Ends the process at once, if it has not ended yet."""
        if self.transport is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")


def _how(reason: Failure) -> str:
    if reason.check(ProcessDone):
        return "status 0"
    number = getattr(reason.value, "signal", None)
    if number is not None:
        return f"signal {signal.Signals(number).name}"
    return f"status {getattr(reason.value, 'exitCode', 'unknown')}"
