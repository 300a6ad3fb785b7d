"""The parent of a proxy with several processes: starts the workers and keeps them running.

Owns the number of workers. It starts them, gives each the snapshot in force, passes on what they
log, and starts another worker where one ended. It serves no clients itself. `worker` is the other
side; `channel` connects the two.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from twisted.application import service
from twisted.internet import defer, task
from twisted.python.failure import Failure

from .. import bounds, messages
from ..listen.balance import Balance, shared_memory
from ..listen.endpoints import Listening
from ..listen.tls import Material
from ..net.reactor import IProxyReactor
from ..ops.logs import Log
from ..ops.retry import Backoff, Retry
from ..ops.stats import Counts, RedisState, WorkersState
from ..tenants import wire_form
from ..tenants.documents import ReadSummary
from ..tenants.model import Snapshot, Tenant, digest_key
from ..upstream import acl_maintenance
from .channel import BALANCE, CHANNEL, FIRST_PORT, Answer, ChannelError, Message, factory_of
from .merge import Reports
from .worker_process import WorkerHandler, WorkerProcess

#: If a worker served and lived for so many seconds, its end starts the backoff anew.
LIVED = 60.0
#: Delays before another worker is started. After the first end it is started almost at once.
BACKOFF = Backoff(0.1, 30.0, spread=1.0)
#: Seconds between two requests for the workers' reports.
REPORT = 1.0


class Workers(service.Service):
    """All workers. See `ports.ServingPort`.

    processes: how many; options: as twistd got them; databases_reported: see `single.Serving`;
    drain_seconds: the time for their clients to leave.
    """

    name = "workers"
    _log = Log()

    def __init__(
        self,
        reactor: IProxyReactor,
        processes: int,
        options: Mapping[str, str],
        databases_reported: Callable[[int | None], object],
        drain_seconds: float,
    ) -> None:
        self._reactor = reactor
        self._end_limit = drain_seconds + bounds.WORKER_END_SECONDS
        self._options = dict(options)
        self._databases_reported = databases_reported
        # Descriptors of the ports' sockets.
        self._ports: list[int] = []
        #: see `ports.ServingPort`; called when all workers have the snapshot in force
        self.on_snapshot: list[Callable[[Snapshot], object]] = []
        #: by kind of message from a worker
        self.handlers: dict[str, WorkerHandler] = {
            "databases": self._take_databases,
            "visit": self._visit_others,
            "script-ended": self._tell_others,
        }
        self._processes: dict[int, WorkerProcess | None] = dict.fromkeys(range(1, processes + 1))
        self._memory = shared_memory(processes)
        self._balance = Balance(self._memory)
        self._retries = {number: Retry(reactor, BACKOFF, self._start, number) for number in self._processes}
        self._restarts = 0
        self._snapshot: Snapshot | None = None
        self._dumped = b""
        # The snapshot's number, and the number of the last one that all workers had in force.
        self._serial = self._confirmed_serial = 0
        # The last owner of each database. And the indices of databases that have another owner now,
        # to which a worker may still have connections of the former owner.
        self._owners: dict[int, Tenant] = {}
        self._handed_over: set[int] = set()
        # The summary of a read and when the read began, until the snapshot that follows is in force
        # in the worker that needs it.
        self._read: tuple[ReadSummary, float] | None = None
        self._material: list[Material] = []
        self._ending = False
        self._all_gone: defer.Deferred[None] | None = None
        self._reports = Reports()
        # Reports are requested regularly, so that whoever asks for stats does not wait.
        self._asking = task.LoopingCall(self._ask_for_reports)
        self._asking.clock = reactor

    @property
    def serves(self) -> int:
        """How many workers accept clients."""
        return sum(process.serves for process in self._running())

    def _running(self) -> list[WorkerProcess]:
        return [process for process in self._processes.values() if process is not None]

    def bind(self, listening: Listening) -> None:
        """See `ports.ServingPort`."""
        self._ports = listening.hold()

    def startService(self) -> None:
        super().startService()
        # The reactor notices the end of a process only while it runs.
        self._reactor.callWhenRunning(self._start_all)

    def _start_all(self) -> None:
        for number in self._processes:
            self._start(number)

    # Stats.

    def collect_stats(self) -> None:
        """See `ports.ServingPort`."""
        self._asking.start(REPORT)

    def _ask_for_reports(self) -> defer.Deferred[None]:
        return self.ask("report", only=lambda process: process.serves).addCallback(self._take_reports)

    def _take_reports(self, answers: list[tuple[int, Message]]) -> None:
        for number, message in answers:
            if self._processes[number] is not None:
                self._reports.update(number, message.fields)

    def stats(self) -> Counts:
        """Returns the sum of the workers' last reports, which are up to about 1 s old."""
        return self._reports.counts()

    def redis(self) -> RedisState:
        """See `ports.ServingPort`."""
        return self._reports.redis()

    def not_ready(self) -> messages.Text | None:
        """See `ports.ServingPort`."""
        return self._reports.unready()

    def workers(self) -> WorkersState:
        """Returns how many workers there are and should be."""
        return {
            "wanted": len(self._processes),
            "serving": self.serves,
            "restarts": self._restarts,
            "pids": {str(process.number): process.pid for process in self._running()},
            "unready": self._reports.unready_workers(),
        }

    def _take_databases(self, _: WorkerProcess, message: Message) -> None:
        self._databases_reported(message.fields["databases"])

    # Sessions, which a session in another worker asks about.

    def _visit_others(self, process: WorkerProcess, message: Message) -> defer.Deferred[Answer]:
        """Passes a visit on to all other workers. results: of each; see `ClientVisit.result`."""
        asked = self.ask("visit", only=lambda other: other.serves and other is not process, **message.fields)
        return asked.addCallback(lambda answers: {"results": [answer.fields for _, answer in answers]})

    def _tell_others(self, process: WorkerProcess, message: Message) -> None:
        """Passes a message on to all other workers."""
        for other in self._running():
            if other.serves and other is not process:
                other.channel.send(message.kind, **message.fields)

    # One worker.

    def _start(self, number: int) -> None:
        if self._ending:
            return
        process = WorkerProcess(self, number)
        process.started = self._reactor.seconds()
        try:
            self._spawn(process)
        except OSError as error:
            self._again(process, messages.WORKER_NOT_STARTED, error=error)
            return
        self._processes[number] = process
        process.channel.send("start", digest_key(), number=number, options=self._options)
        self._show_to(process)
        self._feed(process)
        process.channel.ask("listen").addCallbacks(lambda _: self._serves(process), _gone)

    def _spawn(self, process: WorkerProcess) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, Path(os.devnull).open("rb") as nothing:
            descriptors: dict[int, int | str] = {0: nothing.fileno(), 1: "r", 2: "r"}
            descriptors |= {CHANNEL: theirs.fileno(), BALANCE: self._memory}
            descriptors |= {FIRST_PORT + offset: port for offset, port in enumerate(self._ports)}
            # The worker must find its modules where this process did, wherever that was started.
            environ = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
            arguments = [sys.executable, "-P", "-m", f"{__package__}.worker", str(process.number)]
            self._reactor.spawnProcess(process, sys.executable, arguments, environ, childFDs=descriptors)
            ours.setblocking(False)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory_of(process.channel))
        process.pid = process.transport.pid

    def _serves(self, process: WorkerProcess) -> None:
        process.serves = True
        process.log(messages.WORKER_SERVES)

    def ended(self, process: WorkerProcess, how: str) -> None:
        """Called when a worker's process is gone. how: in a few words."""
        self._balance.has(process.number, None)
        self._processes[process.number] = None
        self._reports.gone(process.number)
        if self._ending:
            self._check_gone()
        elif process.serves:
            self._again(process, messages.WORKER_ENDED, how=how)
        else:
            self._again(process, messages.WORKER_FAILED, why=process.last_line or "it did not say why", how=how)
        self._check_taken()

    def _again(self, process: WorkerProcess, message: messages.LogLine, **fields: object) -> None:
        """Starts another worker with the same number: almost at once after its first end, then
        later and later.
        """
        lived = self._reactor.seconds() - process.started
        retry = self._retries[process.number]
        if process.serves and lived >= LIVED:
            retry.succeeded()
        self._restarts += 1
        delay = retry.failed()
        process.log(message, delay=delay, **fields)

    # Certificates.

    def show_certificates(self, material: Callable[[], list[Material]]) -> None:
        """See `ports.ServingPort`."""
        self._material = material()
        for process in self._running():
            self._show_to(process)

    def _show_to(self, process: WorkerProcess) -> None:
        if self._material:
            process.channel.send("certificates", material=[one.dump() for one in self._material])

    # The snapshot.

    def use_snapshot(self, snapshot: Snapshot) -> None:
        """Puts a snapshot in force. Each worker gets it once the one before is in force there."""
        self._handed_over |= {t.index for t in snapshot.tenants if self._owners.get(t.index, t) != t}
        self._owners |= {tenant.index: tenant for tenant in snapshot.tenants}
        self._snapshot = snapshot
        self._reports.keep(snapshot.namespaces)
        self._dumped = wire_form.dump(snapshot)
        self._serial += 1
        for process in self._running():
            self._feed(process)

    def _feed(self, process: WorkerProcess) -> None:
        if self._snapshot is None or process.taking or process.snapshot == self._serial:
            return
        process.taking = True
        taking = process.channel.ask("snapshot", self._dumped, handed_over=sorted(self._handed_over))
        taking.addCallbacks(self._taken, _gone, callbackArgs=(process, self._serial))

    def _taken(self, _: Message, process: WorkerProcess, serial: int) -> None:
        process.taking = False
        process.snapshot = serial
        self._feed(process)
        self._send_read()
        self._check_taken()

    def _check_taken(self) -> None:
        snapshot, running = self._snapshot, self._running()
        if snapshot is None or self._confirmed_serial == self._serial:
            return
        if running and all(process.snapshot == self._serial for process in running):
            self._confirmed_serial = self._serial
            for listener in list(self.on_snapshot):
                listener(snapshot)
            if self._handed_over:
                self.ask("vacate").addCallback(self._vacated, self._serial)

    def _vacated(self, _: object, serial: int) -> None:
        """Called when no worker has connections of former owners, or when the workers that did not
        answer have had time to close them.
        """
        if serial != self._serial:
            return  # all are asked again once they have the latest snapshot
        self._handed_over.clear()
        for process in self._running():
            process.channel.send("vacated")

    # Summaries of reads, for the one worker that maintains the ACL users.

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """See `ports.ServingPort`."""
        if self._read is not None and self._read[0].whole and not summary.whole:
            waiting, began = self._read
            if waiting.namespaces is not None:
                waiting = replace(waiting, namespaces=summary.namespaces)
            summary = waiting
        self._read = (summary, began)
        self._send_read()

    def _send_read(self) -> None:
        process = self._processes[acl_maintenance.PROCESS]
        if self._read is None or process is None or not self._serial or process.snapshot != self._serial:
            return
        (summary, began), self._read = self._read, None
        process.channel.send(
            "read",
            whole=summary.whole,
            master=summary.master,
            namespaces=None if summary.namespaces is None else sorted(summary.namespaces),
            uncertain=sorted(summary.uncertain),
            age=self._reactor.seconds() - began,
        )

    # Questions.

    def ask(
        self, kind: str, only: Callable[[WorkerProcess], bool] = lambda _: True, **fields: object
    ) -> defer.Deferred[list[tuple[int, Message]]]:
        """Asks all workers, or some. Fires with the answers that came in time, each as (number of
        the worker, Message).

        only: whether to ask a worker; fields: of the question.
        """
        answers: list[tuple[int, Message]] = []

        def asked(process: WorkerProcess) -> defer.Deferred[None]:
            asking = process.channel.ask(kind, b"", **fields).addTimeout(bounds.WORKER_ANSWER_SECONDS, self._reactor)
            return asking.addCallbacks(lambda message: answers.append((process.number, message)), _gone)

        return defer.gatherResults([asked(process) for process in self._running() if only(process)]).addCallback(
            lambda _: sorted(answers, key=lambda answer: answer[0])
        )

    # The end.

    def drain(self) -> defer.Deferred[None]:
        """Has all workers end after their clients have left. Fires when the last worker is gone."""
        self._ending = True
        for retry in self._retries.values():
            retry.cancel()
        gone: defer.Deferred[None] = defer.Deferred()
        self._all_gone = gone
        for process in self._running():
            process.channel.send("stop")
        limit = self._reactor.callLater(self._end_limit, self._kill)

        def over(_: object) -> None:
            if limit.active():
                limit.cancel()
            if self._asking.running:
                self._asking.stop()

        gone.addBoth(over)
        self._check_gone()
        return gone

    def kill(self) -> None:
        """See `ports.ServingPort`."""
        for process in self._running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def _kill(self) -> None:
        for process in self._running():
            process.log(messages.WORKER_HUNG, limit=self._end_limit)
            process.kill()

    def _check_gone(self) -> None:
        if self._all_gone is not None and not self._running():
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)


def _gone(failure: Failure) -> None:
    """Ignores that a worker gave no answer: if it ended, its process reports that."""
    failure.trap(ChannelError, defer.CancelledError, defer.TimeoutError)
