"""Tests the parent of the workers: when it starts another worker, what it sends to workers, and
what it does with a worker that hangs.
"""

from __future__ import annotations

import signal

from twisted.internet import task
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.listen.tls import Material
from redisproxy.processes.channel import Channel, Message
from redisproxy.processes.supervisor import LIVED, Workers
from redisproxy.processes.worker_process import WorkerProcess
from redisproxy.tenants import wire_form
from redisproxy.tenants.documents import ReadSummary
from redisproxy.tenants.model import BackendAddress, Credential, Snapshot, Tenant, digest


class Clock(task.Clock):
    def callWhenRunning(self, call: object) -> None:
        call()


class Child:
    """A fake of a worker's process."""

    def __init__(self, process: WorkerProcess, pid: int) -> None:
        self.process = process
        self.pid = pid
        self.killed = False
        self.directories: list[Snapshot] = []
        self.handed_over: list[list[int]] = []
        self.answers = True
        self.stopped = False
        self.waiting: list[Message] = []
        self.heard: list[str] = []
        self.material: list[list[Material]] = []
        self.reads: list[dict] = []
        takes = {
            "start": self.hear,
            "certificates": self.show,
            "snapshot": self.take,
            "read": lambda message: self.reads.append(dict(message.fields)),
            "listen": self.hear,
            "stop": self.stop,
            "vacate": self.hear,
            "vacated": self.hear,
        }
        self.channel = Channel({**takes, "count": lambda _: {"count": self.pid}}, lambda: None)
        self.channel.makeConnection(StringTransport())
        process.channel.makeConnection(StringTransport())
        process.transport = self

    def hear(self, message: Message) -> None:
        self.heard.append(message.kind)

    def show(self, message: Message) -> None:
        self.hear(message)
        self.material.append([Material.load(dumped) for dumped in message.fields["material"]])

    def take(self, message: Message) -> None:
        self.hear(message)
        self.directories.append(wire_form.load(message.payload))
        self.handed_over.append(message.fields["handed_over"])

    def stop(self, message: Message) -> None:
        self.stopped = True

    def signalProcess(self, name: str) -> None:
        self.killed = name == "KILL"

    def pump(self) -> None:
        """Passes on what both sides have written."""
        for source, target in ((self.process.channel, self.channel), (self.channel, self.process.channel)):
            if source is self.channel and not self.answers:
                return
            data = source.transport.value()
            source.transport.clear()
            target.dataReceived(data)

    def end(self, reason: Exception | None = None) -> None:
        self.process.channel.connectionLost()
        self.process.processEnded(Failure(reason or ProcessDone(0)))


class WorkersUnderTest(Workers):
    fails: OSError | None = None

    def _spawn(self, process: WorkerProcess) -> None:
        if self.fails:
            raise self.fails
        process.pid = 100 + len(self.children)
        self.children.append(Child(process, process.pid))


class WorkersTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.databases: list[int | None] = []
        self.workers = WorkersUnderTest(self.clock, 2, {}, self.databases.append, 8.0)
        self.workers.children = []
        self.taken: list[Snapshot] = []
        self.workers.on_snapshot.append(self.taken.append)
        self.workers.startService()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.stop)

    def stop(self) -> None:
        gone = self.workers.drain()
        for process in self.workers._running():
            process.transport.end()
        self.successResultOf(gone)

    @property
    def last(self) -> Child:
        return self.workers.children[-1]

    def pump(self) -> None:
        for child in self.workers.children:
            child.pump()

    def snapshot(self, name: str) -> Snapshot:
        return Snapshot(BackendAddress(name), [])

    def test_one_that_ends_at_once_is_replaced_later_and_later(self) -> None:
        delays = []
        for _ in range(12):
            self.last.pump()
            started = len(self.workers.children)
            self.last.end(ProcessTerminated(signal=signal.SIGKILL))
            [call] = self.clock.getDelayedCalls()
            delays.append(call.getTime() - self.clock.seconds())
            self.clock.advance(delays[-1])
            self.assertEqual((len(self.workers.children), self.last.process.number), (started + 1, 2))
        self.assertEqual(self.workers.workers()["restarts"], 12)
        for number, delay in enumerate(delays):
            least = min(30.0, 0.1 * 2**number)
            self.assertTrue(least <= delay <= least + 1, delays)
        self.last.pump()
        self.clock.advance(LIVED)
        self.last.end()
        [call] = self.clock.getDelayedCalls()
        self.assertLessEqual(call.getTime() - self.clock.seconds(), 1.1)

    def test_what_a_read_says_follows_its_directory_and_goes_to_one_worker(self) -> None:
        """A read's summary goes to one worker, and not before the snapshot of that read: otherwise
        the worker could remove ACL users of tenants that it does not know yet.
        """
        first, second = self.workers.children
        self.workers.take_read(ReadSummary(True, True, frozenset({"b", "a"}), frozenset({"b"})), self.clock.seconds())
        self.pump()
        self.assertEqual(first.reads, [], "there is no directory yet")
        self.workers.use_snapshot(self.snapshot("a"))
        self.clock.advance(2)
        self.pump()
        summary = {"whole": True, "master": True, "namespaces": ["a", "b"], "uncertain": ["b"], "age": 2.0}
        self.pump()
        self.assertEqual((first.reads, second.reads), ([summary], []))
        # Summaries that come while a snapshot is under way are joined: the whole read counts, and
        # the latest namespaces.
        self.workers.use_snapshot(self.snapshot("b"))
        self.workers.take_read(ReadSummary(True, False, frozenset({"a", "b"})), self.clock.seconds())
        self.clock.advance(1)
        self.workers.take_read(ReadSummary(False, False, frozenset({"a"})), self.clock.seconds())
        self.assertEqual(first.reads, [summary])
        self.pump()
        self.pump()
        joined = {"whole": True, "master": False, "namespaces": ["a"], "uncertain": [], "age": 1.0}
        self.assertEqual(first.reads, [summary, joined])
        # A list of namespaces that was not read stays unknown.
        self.workers.use_snapshot(self.snapshot("c"))
        self.workers.take_read(ReadSummary(True, True, None), self.clock.seconds())
        self.workers.take_read(ReadSummary(False, False, frozenset({"a"})), self.clock.seconds())
        self.pump()
        self.pump()
        self.assertIsNone(first.reads[-1]["namespaces"])
        first.end()
        self.workers.take_read(ReadSummary(True, True, frozenset()), self.clock.seconds())
        self.clock.advance(2)
        for _ in range(3):
            self.workers.children[-1].pump()
        self.assertEqual(len(self.workers.children[-1].reads), 1, "also to one that takes its place")

    def test_each_shows_the_certificates_in_force_before_it_listens(self) -> None:
        first, second = ([Material(key, b"certificate", b"", b"")] for key in (b"\xff1", b"2"))
        self.workers.show_certificates(lambda: first)
        self.pump()
        self.assertEqual([child.material for child in self.workers.children], [[first], [first]])
        self.workers.use_snapshot(self.snapshot("a"))
        self.last.end()
        self.workers.show_certificates(lambda: second)
        (call,) = self.clock.getDelayedCalls()
        self.clock.advance(call.getTime() - self.clock.seconds())
        self.pump()
        self.assertEqual(self.last.heard, ["start", "certificates", "snapshot", "listen"])
        self.assertEqual(self.last.material, [second])
        self.assertEqual(self.workers.children[0].material, [first, second])

    def test_how_many_there_are(self) -> None:
        self.assertEqual(
            self.workers.workers(), {"wanted": 2, "serving": 0, "restarts": 0, "pids": {"1": 100, "2": 101}, "unready": {}}
        )
        self.pump()
        self.assertEqual(self.workers.workers()["serving"], 2)
        self.last.end()
        self.assertEqual(
            self.workers.workers(), {"wanted": 2, "serving": 1, "restarts": 1, "pids": {"1": 100}, "unready": {}}
        )

    def test_what_is_told_of_an_end(self) -> None:
        child = self.last
        with capturedLogs() as events:
            child.process.childDataReceived(2, b"Traceback:\nMemory")
            child.process.childDataReceived(2, b"Error\n")
            child.end(ProcessTerminated(exitCode=1))
        logged = [formatEvent(event) for event in events]
        self.assertEqual(logged[:2], ["worker 2 (101) wrote: Traceback:", "worker 2 (101) wrote: MemoryError"])
        self.assertTrue(
            logged[2].startswith("worker 2 (101) could not start: MemoryError (status 1); another is started in")
        )
        self.pump()
        with capturedLogs() as events:
            self.workers.children[0].end(ProcessTerminated(signal=signal.SIGSEGV))
        logged = formatEvent(events[0])
        self.assertTrue(logged.startswith("worker 1 (100) ended with signal SIGSEGV: its clients have to connect"), logged)

    def test_its_last_words_are_heard_before_it_counts_as_gone(self) -> None:
        child = self.last
        child.process.processEnded(Failure(ProcessDone(0)))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        child.channel.send("databases", databases=16)
        child.pump()
        self.assertEqual(self.databases, [16])
        child.process.channel.connectionLost()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_a_process_that_the_system_refuses(self) -> None:
        self.workers.fails = OSError(11, "Resource temporarily unavailable")
        self.last.end()
        with capturedLogs() as events:
            self.clock.advance(2)
        self.assertIn("could not be started: [Errno 11] Resource temporarily", formatEvent(events[0]))
        self.workers.fails = None
        self.clock.advance(3)
        self.assertEqual(self.last.process.number, 2)

    def test_one_that_is_slow_to_take_a_directory_gets_the_latest_next(self) -> None:
        self.pump()
        slow, quick = self.workers.children
        slow.answers = False
        for name in ("a", "b", "c"):
            self.workers.use_snapshot(self.snapshot(name))
            self.pump()
        self.assertEqual([d.backend.host for d in quick.directories], ["a", "b", "c"])
        self.assertEqual([d.backend.host for d in slow.directories], ["a"])
        self.assertEqual(self.taken, [])
        slow.answers = True
        self.pump()
        self.pump()
        self.assertEqual([d.backend.host for d in slow.directories], ["a", "c"])
        self.assertEqual([d.backend.host for d in self.taken], ["c"])

    def test_one_that_is_new_has_the_directory_before_it_listens(self) -> None:
        self.workers.use_snapshot(self.snapshot("a"))
        self.last.end()
        self.clock.advance(2)
        order = []
        child = self.last
        for kind, handler in list(child.channel._handlers.items()):
            child.channel._handlers[kind] = lambda message, then=handler: (order.append(message.kind), then(message))[1]
        child.pump()
        self.assertEqual(order, ["start", "snapshot", "listen"])
        self.assertTrue(child.process.serves)

    def tenants(self, *tenants: Tenant) -> Snapshot:
        return Snapshot(None, [Credential(tenant, "secret", digest(tenant.namespace.encode())) for tenant in tenants])

    def test_a_database_that_is_given_to_another_is_nobodys_until_all_workers_say_so(self) -> None:
        self.pump()
        first, second = children = self.workers.children
        blue, green = Tenant("blue", 3), Tenant("green", 3)
        for snapshot in (self.tenants(blue, Tenant("red", 1)), self.tenants(Tenant("red", 1))):
            self.workers.use_snapshot(snapshot)
            self.pump()
        for child in children:
            self.assertEqual(child.handed_over, [[], []])
            self.assertNotIn("vacate", child.heard)
            child.heard.clear()
        second.answers = False
        # also if the database had no owner in between
        self.workers.use_snapshot(self.tenants(green, Tenant("red", 1)))
        self.pump()
        self.assertEqual([child.handed_over[-1] for child in children], [[3], [3]])
        self.assertEqual(first.heard, ["snapshot"])
        second.answers = True
        self.pump()  # now the workers are asked
        # Another snapshot comes before they have answered: they are asked again.
        self.workers.use_snapshot(self.tenants(green, Tenant("red", 2)))
        self.pump()
        self.assertEqual(first.heard, ["snapshot", "vacate", "snapshot"])
        self.assertEqual(first.handed_over[-1], [3])
        self.pump()
        self.pump()
        self.assertEqual([child.heard for child in children], [["snapshot", "vacate", "snapshot", "vacate", "vacated"]] * 2)
        self.workers.use_snapshot(self.tenants(green))
        self.pump()
        self.assertEqual([child.handed_over[-1] for child in children], [[], []])

    def test_one_that_is_stuck_keeps_nobody_out_for_ever(self) -> None:
        self.pump()
        first, second = self.workers.children
        for name in ("blue", "green"):
            self.workers.use_snapshot(self.tenants(Tenant(name, 3)))
            self.pump()
        second.answers = False
        self.pump()
        self.assertNotIn("vacated", first.heard)
        self.clock.advance(bounds.WORKER_ANSWER_SECONDS)
        self.pump()
        self.assertEqual(first.heard[-1], "vacated")

    def test_questions_to_all(self) -> None:
        self.pump()
        asked = self.workers.ask("count")
        self.pump()
        answers = self.successResultOf(asked)
        self.assertEqual(
            [(number, message.fields) for number, message in answers], [(1, {"count": 100}), (2, {"count": 101})]
        )
        # A worker that hangs is left out.
        self.workers.children[0].answers = False
        asked = self.workers.ask("count")
        self.pump()
        self.assertNoResult(asked)
        self.clock.advance(bounds.WORKER_ANSWER_SECONDS)
        self.assertEqual([number for number, _ in self.successResultOf(asked)], [2])

    def test_one_that_does_not_end_is_killed(self) -> None:
        self.pump()
        gone = self.workers.drain()
        self.pump()
        first, second = self.workers.children
        self.assertTrue(first.stopped and second.stopped)
        first.end()
        self.assertNoResult(gone)
        self.clock.advance(8.0 + bounds.WORKER_END_SECONDS)
        self.assertEqual((first.killed, second.killed), (False, True))
        second.end(ProcessTerminated(signal=signal.SIGKILL))
        self.successResultOf(gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_started_after_the_end(self) -> None:
        self.last.end()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        gone = self.workers.drain()
        self.workers.children[0].end()
        self.successResultOf(gone)
        self.assertEqual((self.clock.getDelayedCalls(), len(self.workers.children)), ([], 2))
