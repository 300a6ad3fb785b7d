"""One run of a worker, as its parent sees it: its channel, what it writes, and its end.

Owns the end of one: the process is gone, and so is the channel, which may hold its last words. How
many workers there are, and what they are told, is the business of `supervisor`.
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

#: As `channel.Handler`, of a message from one of the workers.
WorkerHandler = Callable[["WorkerProcess", Message], Answer | defer.Deferred[Answer]]
#: Characters of a line that a worker wrote to its standard output or error.
_LINE = 2000


class Parent(Protocol):
    """What is told of it: see `supervisor.Workers`."""

    #: what is done with each kind of message from a worker
    handlers: dict[str, WorkerHandler]

    def ended(self, process: WorkerProcess, how: str) -> None:
        """A worker's process is gone. how: in a few words."""


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
        #: which Snapshot it has in force, 0 without one
        self.snapshot = 0
        #: whether it is taking one
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
        """Logs something about it."""
        self._log.write(message, worker=self.number, pid=self.pid, **fields)

    # Its standard output and error: of a worker that cannot even start, and of what Python itself
    # writes.

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

    # Its end: that of the process, and of the channel, which may hold its last words.

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
        """It ends at once, if it has not yet."""
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
