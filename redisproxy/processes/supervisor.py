"""The workers of a proxy of several processes: the parent's side.

Owns how many there are: starts them, hands each the Snapshot in force, passes on what they log, and starts another where
one ended. It serves nobody itself. What a worker is: `worker`; how the two talk: `channel`.
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
from twisted.application.internet import backoffPolicy
from twisted.internet import defer, task
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ..listen.balance import Balance, shared_memory
from ..listen.tls import Material
from ..net.reactor import IProxyReactor
from ..ops import logs
from ..ops.stats import Counts, RedisState, WorkersState
from ..tenants import wire_form
from ..tenants.enrolment import ReadSummary
from ..tenants.model import Snapshot, Tenant, digest_key
from ..upstream import acl_maintenance
from .channel import BALANCE, CHANNEL, FIRST_PORT, Answer, Channel, ChannelError, Message, Taker, factory_of
from .merge import Reports

#: Seconds that a worker has to live for its end not to count as one more failure in a row.
LIVED = 60.0
#: Seconds for a worker to end, beyond those for its clients to leave: see `clients.drain`.
END_MARGIN = 1.5
#: Seconds for a worker to answer a question of `Workers.ask`.
ANSWER_LIMIT = 5.0
#: Seconds between two questions for what they tell of themselves.
REPORT = 1.0
#: Characters of a line that a worker wrote to its standard output or error.
_LINE = 2000


#: As Taker, of a message from one of the workers.
_WorkerTaker = Callable[["_Process", Message], Answer | defer.Deferred[Answer]]


class _Process(ProcessProtocol):
    """One run of a worker."""

    _log = Logger()
    transport: IProcessTransport

    def __init__(self, workers: Workers, number: int) -> None:
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
        takes = {kind: self._bound(take) for kind, take in workers.takes.items()}
        self.channel = Channel({**takes, "log": self._take_log}, self._lost)

    def _bound(self, take: _WorkerTaker) -> Taker:
        return lambda message: take(self, message)

    def _take_log(self, message: Message) -> None:
        logs.replay(message.fields["record"], self.number, self.pid)

    def tell(self, level: LogLevel, text: str, **fields: object) -> None:
        """Logs something about it."""
        self._log.emit(level, "worker {worker} ({pid}) " + text, worker=self.number, pid=self.pid, **fields)

    # Its standard output and error: of a worker that cannot even start, and of what Python itself writes.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._unfinished[childFD] + data).split(b"\n")
        self._unfinished[childFD] = rest[:_LINE]
        for line in lines:
            self._wrote(line)

    def _wrote(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace")[:_LINE].rstrip()
        if text:
            self.last_line = text
            self.tell(LogLevel.warn, "wrote: {line}", line=text)

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
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")


class Workers(service.Service):
    """All workers.

    processes: how many; options: as they were given to twistd; databases_told: see `single.Serving`; drain_seconds: for
    their clients to leave.
    """

    name = "workers"
    _log = Logger()

    def __init__(
        self,
        reactor: IProxyReactor,
        processes: int,
        options: Mapping[str, str],
        databases_told: Callable[[int | None], object],
        drain_seconds: float,
    ) -> None:
        self._reactor = reactor
        self._end_limit = drain_seconds + END_MARGIN
        self._options = dict(options)
        self._databases_told = databases_told
        #: descriptors of the listening sockets
        self.ports: list[int] = []
        #: called with a Snapshot when all workers have it in force
        self.taken: list[Callable[[Snapshot], None]] = []
        #: what is done with each kind of message from a worker
        self.takes: dict[str, _WorkerTaker] = {"databases": self._take_databases}
        self._processes: dict[int, _Process | None] = dict.fromkeys(range(1, processes + 1))
        self._memory = shared_memory(processes)
        self._balance = Balance(self._memory)
        self._failures = dict.fromkeys(self._processes, 0)
        self._delay = backoffPolicy(initialDelay=0.1, maxDelay=30.0, factor=2.0)
        self._retries: dict[int, IDelayedCall] = {}
        self._restarts = 0
        self._snapshot: Snapshot | None = None
        self._dumped = b""
        # Which one that is, and which one all workers were known to have.
        self._serial = self._told = 0
        # Whose each database was last; and those that are another tenant's by now, to which some worker may still have
        # connections of the former one.
        self._owners: dict[int, Tenant] = {}
        self._handed_over: set[int] = set()
        # What a read has established, and when it began: until the Snapshot that follows is in force where it matters.
        self._read: tuple[ReadSummary, float] | None = None
        self._material: list[Material] = []
        self._ending = False
        self._all_gone: defer.Deferred[None] | None = None
        self._reports = Reports()
        # What they say of themselves is asked for regularly: whoever wants to know it does not wait.
        self._asking = task.LoopingCall(self._ask_for_reports)
        self._asking.clock = reactor

    @property
    def serves(self) -> int:
        """How many accept clients."""
        return sum(process.serves for process in self._running())

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [process.pid for process in self._running()]

    def _running(self) -> list[_Process]:
        return [process for process in self._processes.values() if process is not None]

    def startService(self) -> None:
        super().startService()
        # Then it is known when a process ends.
        self._reactor.callWhenRunning(self._start_all)

    def _start_all(self) -> None:
        for number in self._processes:
            self._start(number)

    # What they tell of themselves: see `single.Serving`.

    def report_regularly(self) -> None:
        """Somebody wants to know it, from now on."""
        self._asking.start(REPORT)

    def _ask_for_reports(self) -> defer.Deferred[None]:
        return self.ask("report", only=lambda process: process.serves).addCallback(self._take_reports)

    def _take_reports(self, answers: list[tuple[int, Message]]) -> None:
        for number, message in answers:
            if self._processes[number] is not None:
                self._reports.take(number, message.fields)

    def counts(self) -> Counts:
        """The sum of what the workers counted, a moment ago."""
        return self._reports.counts()

    def redis(self) -> RedisState:
        """What is known of Redis."""
        return self._reports.redis()

    def unready(self) -> str:
        """Why no client should come; empty: there is no reason."""
        return self._reports.unready()

    def state(self) -> WorkersState:
        """How many there are, and should be."""
        return {
            "wanted": len(self._processes),
            "serving": self.serves,
            "restarts": self._restarts,
            "pids": {str(process.number): process.pid for process in self._running()},
        }

    def _take_databases(self, _: _Process, message: Message) -> None:
        self._databases_told(message.fields["databases"])

    # One worker.

    def _start(self, number: int) -> None:
        if self._ending:
            return
        process = _Process(self, number)
        process.started = self._reactor.seconds()
        try:
            self._spawn(process)
        except OSError as error:
            self._again(process, f"could not be started: {error}")
            return
        self._processes[number] = process
        process.channel.send("start", digest_key(), number=number, options=self._options)
        self._show_to(process)
        self._feed(process)
        process.channel.ask("listen").addCallbacks(lambda _: self._serves(process), _gone)

    def _spawn(self, process: _Process) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, Path(os.devnull).open("rb") as nothing:
            descriptors: dict[int, int | str] = {0: nothing.fileno(), 1: "r", 2: "r"}
            descriptors |= {CHANNEL: theirs.fileno(), BALANCE: self._memory}
            descriptors |= {FIRST_PORT + place: port for place, port in enumerate(self.ports)}
            # Its modules are found where this process's were, wherever that was started.
            environ = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
            arguments = [sys.executable, "-P", "-m", f"{__package__}.worker", str(process.number)]
            self._reactor.spawnProcess(process, sys.executable, arguments, environ, childFDs=descriptors)
            ours.setblocking(False)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory_of(process.channel))
        process.pid = process.transport.pid

    def _serves(self, process: _Process) -> None:
        process.serves = True
        process.tell(LogLevel.info, "serves")

    def ended(self, process: _Process, how: str) -> None:
        """A worker's process is gone. how: in a few words."""
        self._balance.has(process.number, None)
        self._processes[process.number] = None
        self._reports.gone(process.number)
        if self._ending:
            self._check_gone()
        elif process.serves:
            self._again(process, f"ended with {how}: its clients have to connect again")
        else:
            self._again(process, f"could not start: {process.last_line or 'it did not say why'} ({how})")
        self._check_taken()

    def _again(self, process: _Process, told: str) -> None:
        """Another one in its place: after its first end at once, nearly, then later and later."""
        lived = self._reactor.seconds() - process.started
        failures = 0 if process.serves and lived >= LIVED else self._failures[process.number]
        self._failures[process.number] = failures + 1
        self._restarts += 1
        delay = self._delay(failures)
        self._retries[process.number] = self._reactor.callLater(delay, self._start, process.number)
        process.tell(LogLevel.error, "{told}; another is started in {delay:.1f} s", told=told, delay=delay)

    # Certificates.

    def show(self, material: list[Material]) -> None:
        """What `ssl:` endpoints show to clients from now on, in the order of the endpoints."""
        self._material = material
        for process in self._running():
            self._show_to(process)

    def _show_to(self, process: _Process) -> None:
        if self._material:
            process.channel.send("certificates", material=[one.dump() for one in self._material])

    # The Snapshot.

    def use(self, snapshot: Snapshot) -> None:
        """It is in force from now on: each worker is handed it as soon as it has taken the one before."""
        self._handed_over |= {t.index for t in snapshot.tenants if self._owners.get(t.index, t) != t}
        self._owners |= {tenant.index: tenant for tenant in snapshot.tenants}
        self._snapshot = snapshot
        self._reports.keep({tenant.namespace for tenant in snapshot.tenants})
        self._dumped = wire_form.dump(snapshot)
        self._serial += 1
        for process in self._running():
            self._feed(process)

    def _feed(self, process: _Process) -> None:
        if self._snapshot is None or process.taking or process.snapshot == self._serial:
            return
        process.taking = True
        taking = process.channel.ask("snapshot", self._dumped, handed_over=sorted(self._handed_over))
        taking.addCallbacks(self._taken, _gone, callbackArgs=(process, self._serial))

    def _taken(self, _: Message, process: _Process, serial: int) -> None:
        process.taking = False
        process.snapshot = serial
        self._feed(process)
        self._send_read()
        self._check_taken()

    def _check_taken(self) -> None:
        snapshot, running = self._snapshot, self._running()
        if snapshot is None or self._told == self._serial:
            return
        if running and all(process.snapshot == self._serial for process in running):
            self._told = self._serial
            for listener in list(self.taken):
                listener(snapshot)
            if self._handed_over:
                self.ask("vacate").addCallback(self._vacated, self._serial)

    def _vacated(self, _: object, serial: int) -> None:
        """No worker has connections of former tenants, or those that do not answer have had the time for it."""
        if serial != self._serial:
            return  # all are asked again, when they have the latest
        self._handed_over.clear()
        for process in self._running():
            process.channel.send("vacated")

    # What reads of the source establish, for the one process that looks after the ACL users.

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """The source was read, `use` has had what follows. began: when that read began, in the reactor's seconds."""
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
        self, kind: str, only: Callable[[_Process], bool] = lambda _: True, **fields: object
    ) -> defer.Deferred[list[tuple[int, Message]]]:
        """Asks all workers, or some. Fires with the answers that came in time: (number of the worker, Message)."""
        answers: list[tuple[int, Message]] = []

        def asked(process: _Process) -> defer.Deferred[None]:
            asking = process.channel.ask(kind, b"", **fields).addTimeout(ANSWER_LIMIT, self._reactor)
            return asking.addCallbacks(lambda message: answers.append((process.number, message)), _gone)

        return defer.gatherResults([asked(process) for process in self._running() if only(process)]).addCallback(
            lambda _: sorted(answers, key=lambda answer: answer[0])
        )

    # The end.

    def shut_down(self) -> defer.Deferred[None]:
        """Has all workers end, after their clients have left. Fires when the last one is gone."""
        self._ending = True
        for retry in self._retries.values():
            if retry.active():
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

    def _kill(self) -> None:
        for process in self._running():
            process.tell(LogLevel.error, "did not end within {limit:g} s: it is killed", limit=self._end_limit)
            process.kill()

    def _check_gone(self) -> None:
        if self._all_gone is not None and not self._running():
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)


def _gone(failure: Failure) -> None:
    """Its end is told by the process."""
    failure.trap(ChannelError, defer.CancelledError, defer.TimeoutError)


def _how(reason: Failure) -> str:
    if reason.check(ProcessDone):
        return "status 0"
    number = getattr(reason.value, "signal", None)
    if number is not None:
        return f"signal {signal.Signals(number).name}"
    return f"status {getattr(reason.value, 'exitCode', 'unknown')}"
