"""Clients that give the proxy more work than their tenant's budget of a turn."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

from twisted.internet import task
from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds
from redisproxy.clients.admission import Admission
from redisproxy.clients.connection import ClientProtocol
from redisproxy.clients.factory import ClientFactory, Timeouts
from redisproxy.ops.access_log import AccessLog
from redisproxy.resp.framing import AUTHENTICATED, encode
from redisproxy.session.errors import NOAUTH
from redisproxy.tenants.model import Credential, Snapshot
from redisproxy.upstream.session_backend import SessionBackend

from ..support.conversations import BLUE, GREEN
from ..support.transports import Socket
from ..support.turns import turn

UNKNOWN = b"-ERR unknown command"


class CountingSocket(Socket):
    """A socket that counts what is written to it."""

    writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)


class WorkCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.snapshot = SimpleNamespace(listeners=[], snapshot=Snapshot(None, [BLUE, GREEN]), wall_clock=self.clock.seconds)
        backend = SessionBackend(
            SimpleNamespace(hold=SimpleNamespace(holds=lambda tenant: False)), None, None, None, None, True, clock=self.clock
        )
        backend.busy_error = lambda: ""
        self.factory = ClientFactory(
            self.clock, self.snapshot, backend, Admission(1000, 0), AccessLog(self.clock), Timeouts(60.0)
        )

    def connect(self, credential: Credential | None = None) -> ClientProtocol:
        client = self.factory.buildProtocol(None)
        client.makeConnection(CountingSocket())
        if credential is not None:
            session = client.session
            session.credential = credential
            session.scanner.limits = AUTHENTICATED
            session.use_policy()
            session.route.use(session, mock.Mock())
            client.identity_changed(credential)
        return client

    def answers(self, client: ClientProtocol) -> int:
        return client.transport.value().count(b"\r\n")

    def turn(self) -> None:
        turn(self.clock)

    def turns_until(self, client: ClientProtocol, answers: int) -> int:
        for turns in range(1000):
            if self.answers(client) >= answers:
                return turns
            self.turn()
        raise AssertionError(f"{self.answers(client)} answers in 1,000 turns")


class WorkTests(WorkCase):
    def test_the_answers_to_one_read_leave_together(self) -> None:
        """All but the first one: mostly there is only one."""
        client = self.connect()
        client.dataReceived(b"PING\r\n" * bounds.WORK_BUDGET)
        self.assertEqual((client.transport.value(), client.transport.writes), (NOAUTH * bounds.WORK_BUDGET, 2))

    def test_another_tenant_does_not_wait(self) -> None:
        busy = [self.connect(BLUE) for _ in range(10)]
        for client in busy:
            client.dataReceived(b"NOSUCH\r\n" * 1000)
        self.assertEqual(sum(map(self.answers, busy)), bounds.WORK_BUDGET)
        quiet, stranger = self.connect(GREEN), self.connect()
        quiet.dataReceived(b"NOSUCH\r\n")
        stranger.dataReceived(b"PING\r\n")
        self.assertEqual((self.answers(quiet), self.answers(stranger)), (1, 1))

    def test_all_of_it_is_answered_in_order(self) -> None:
        client = self.connect(BLUE)
        names = [b"NOSUCH%d" % number for number in range(10 * bounds.WORK_BUDGET)]
        for at in range(0, len(names), 50):
            client.dataReceived(b"".join(encode([name]) for name in names[at : at + 50]))
        self.assertEqual(self.answers(client), bounds.WORK_BUDGET)
        self.turns_until(client, len(names))
        answers = client.transport.value().split(b"\r\n")
        for name, answer in zip(names, answers, strict=False):
            self.assertTrue(answer.startswith(UNKNOWN + b" '%b'" % name), answer)

    def test_long_commands_are_more_work(self) -> None:
        client = self.connect(BLUE)
        client.dataReceived(encode([b"NOSUCH"] + [b"x"] * (bounds.WORK_WORDS * bounds.WORK_BUDGET)) * 10)
        self.assertEqual(self.answers(client), 1)

    def test_to_collect_a_long_command_is_work(self) -> None:
        """Many clients send a command of many words each, in parts."""
        clients = [self.connect(BLUE) for _ in range(20)]
        whole = encode([b"NOSUCH"] + [b"x"] * 10 * bounds.WORK_WORDS * bounds.WORK_BUDGET)
        half = len(whole) // 2
        for client in clients:
            client.dataReceived(whole[:half])
        collected = [client for client in clients if client.session.scanner.collected]
        self.assertEqual(collected, clients[:1])
        other = self.connect(GREEN)
        other.dataReceived(b"NOSUCH\r\n")
        self.assertEqual(self.answers(other), 1)
        self.turn()
        collected = [client for client in clients if client.session.scanner.collected]
        self.assertEqual(collected, clients[:2], "one of these is more than a turn's units")
        for client in clients:
            client.dataReceived(whole[half:])
        for client in clients:
            self.turns_until(client, 1)
        self.assertEqual([self.answers(client) for client in clients], [1] * 20)

    def test_sessions_of_one_tenant_take_turns(self) -> None:
        first, second = self.connect(BLUE), self.connect(BLUE)
        first.dataReceived(b"NOSUCH\r\n" * 10_000)
        second.dataReceived(b"NOSUCH\r\n" * bounds.WORK_SLICE)
        self.turn()
        self.assertEqual(self.answers(second), bounds.WORK_SLICE)

    def test_without_a_password_one_of_many_has_its_turn(self) -> None:
        crowd = [self.connect() for _ in range(20)]
        for client in crowd:
            client.dataReceived(b"PING\r\n" * 100)
        late = self.connect()
        late.dataReceived(b"PING\r\n" * bounds.UNAUTHENTICATED_WORK_SLICE)
        self.turn()
        self.assertEqual(self.answers(late), bounds.UNAUTHENTICATED_WORK_SLICE)

    def test_one_that_ends_its_sending_gets_all_answers(self) -> None:
        client = self.connect(BLUE)
        client.dataReceived(b"NOSUCH\r\n" * 3 * bounds.WORK_BUDGET)
        client.readConnectionLost()
        self.turns_until(client, 3 * bounds.WORK_BUDGET)
        self.assertTrue(client.session.ended)

    def test_one_that_quits_gets_all_answers(self) -> None:
        client = self.connect(BLUE)
        client.dataReceived(b"NOSUCH\r\n" * 3 * bounds.WORK_BUDGET + b"QUIT\r\nNOSUCH\r\n")
        self.turns_until(client, 3 * bounds.WORK_BUDGET + 1)
        self.assertTrue(client.transport.value().endswith(b"+OK\r\n"))
        self.assertTrue(client.session.ended)

    def test_a_drain_waits_for_its_work(self) -> None:
        client = self.connect(BLUE)
        client.dataReceived(b"NOSUCH\r\n" * 3 * bounds.WORK_BUDGET)
        self.factory.drain(lambda: None)
        client.drain()
        self.turns_until(client, 3 * bounds.WORK_BUDGET)
        self.assertTrue(client.session.ended)

    def test_nothing_is_done_for_one_that_is_revoked(self) -> None:
        client = self.connect(BLUE)
        client.dataReceived(b"NOSUCH\r\n" * 3 * bounds.WORK_BUDGET)
        (changed,) = self.snapshot.listeners
        changed(Snapshot(None, [GREEN]))
        self.turn()
        self.turn()
        self.assertEqual(self.answers(client), bounds.WORK_BUDGET)
        self.assertTrue(client.session.ended)

    def test_nothing_is_done_for_one_that_is_gone(self) -> None:
        client = self.connect(BLUE)
        client.dataReceived(b"NOSUCH\r\n" * 3 * bounds.WORK_BUDGET)
        client.connectionLost()
        self.turn()
        self.assertEqual((self.answers(client), self.factory.work.waiting), (bounds.WORK_BUDGET, 0))

    def test_one_that_waits_and_sends_more_is_not_read(self) -> None:
        client = self.connect(BLUE)
        for _ in range(3):
            client.dataReceived(b"NOSUCH\r\n" * 5000)
        self.assertEqual(client.transport.producerState, "paused")
        self.turns_until(client, 15_000)
        self.assertEqual(client.transport.producerState, "producing")


class CostTests(WorkCase):
    """What each client costs, whatever it sends."""

    def test_it_has_no_more_attributes_than_python_keeps_in_the_fast_way(self) -> None:
        client = self.connect(BLUE)
        client.close("")
        self.assertLess(len(vars(client)), 30)

    def test_to_look_up_its_tenant_takes_no_python(self) -> None:
        self.assertIs(type(BLUE.tenant).__hash__, tuple.__hash__)
        self.assertIs(type(BLUE.tenant).__eq__, tuple.__eq__)


class PlainTests(WorkCase):
    """Plain commands, which are work only in large reads."""

    LARGE = encode([b"SET", b"a", b"b"]) * (bounds.READ_BYTES // 27)

    def sent(self, client: ClientProtocol) -> int:
        return sum(len(call.args[0]) for call in client.session.dedicated.send.mock_calls)

    def test_many_large_reads_have_turns(self) -> None:
        clients = [self.connect(BLUE) for _ in range(50)]
        for client in clients:
            client.dataReceived(self.LARGE)
        begun = sum(bool(self.sent(client)) for client in clients)
        self.assertLess(begun * len(self.LARGE), 2 * bounds.WORK_BUDGET * bounds.WORK_BYTES)
        self.assertEqual(sum(client.transport.producerState == "paused" for client in clients), 50 - begun)
        other = self.connect(GREEN)
        other.dataReceived(self.LARGE)
        self.assertEqual(self.sent(other), len(self.LARGE))
        turns = 0
        while self.factory.work.waiting:
            turns += 1
            self.turn()
            now = sum(bool(self.sent(client)) for client in clients)
            self.assertLessEqual((now - begun) * len(self.LARGE), 2 * bounds.WORK_TURN_UNITS * bounds.WORK_BYTES)
            begun = now
        self.assertGreater(turns, 1)
        for client in clients:
            self.assertEqual((self.sent(client), client.transport.producerState), (len(self.LARGE), "producing"))

    def test_one_connection_alone_does_not_wait(self) -> None:
        client = self.connect(BLUE)
        for turns in range(1, 100):
            client.dataReceived(self.LARGE * 4)
            self.turn()
            self.assertEqual(self.sent(client), turns * 4 * len(self.LARGE))
            self.assertEqual(client.transport.producerState, "producing")

    def test_small_reads_are_no_work(self) -> None:
        client = self.connect(BLUE)
        small = self.LARGE[: 27 * (bounds.SMALL_READ_BYTES // 27)]
        for _ in range(1000):
            client.dataReceived(small)
        self.assertEqual((client.session.work.units, self.factory.work.waiting), (bounds.WORK_BUDGET, 0))

    def test_inline_each_is_work(self) -> None:
        """Each is taken apart, and written anew."""
        crowd = [self.connect(BLUE) for _ in range(8)]
        for client in crowd:
            client.dataReceived(b"GET a\r\n" * 500)
        whole = len(encode([b"GET", b"a"]))
        self.assertEqual(sum(map(self.sent, crowd)), bounds.WORK_BUDGET * whole)
        other = self.connect(GREEN)
        other.dataReceived(b"GET a\r\n")
        self.assertEqual(self.sent(other), whole)
        while self.factory.work.waiting:
            before = sum(map(self.sent, crowd))
            self.turn()
            self.assertLessEqual(sum(map(self.sent, crowd)) - before, 2 * bounds.WORK_TURN_UNITS * whole)
        self.assertEqual([self.sent(client) for client in crowd], [500 * whole] * 8)

    def test_empty_lines_and_arrays_are_work(self) -> None:
        """Nobody is answered, and nothing counts them as commands."""
        ping = encode([b"PING"])
        for empty in (b"\r\n", b"\n", b"*0\r\n", b"*-1\r\n", b" \t\r\n"):
            client = self.connect(BLUE)
            client.dataReceived(empty * 5_000 + ping)
            passed = 5_000 * len(empty) + len(ping) - client.session.buffered
            self.assertLessEqual(passed // len(empty), bounds.WORK_BUDGET * bounds.WORK_WORDS + bounds.EMPTY_LINES)
            self.assertEqual((self.sent(client), client.session.commands), (0, 0))
            other = self.connect(GREEN)
            other.dataReceived(empty + ping)
            self.assertEqual(self.sent(other), len(ping))
            while self.factory.work.waiting:
                self.turn()
            self.assertEqual((self.sent(client), client.session.commands), (len(ping), 1))

    def test_empty_lines_within_multi_are_none_of_its_commands(self) -> None:
        client = self.connect(BLUE)
        client.dataReceived(encode([b"MULTI"]) + b"\r\n" * 2 * bounds.EMPTY_LINES + b"*0\r\nGET a\r\n" + encode([b"EXEC"]))
        while self.factory.work.waiting:
            self.turn()
        sent = b"".join(call.args[0] for call in client.session.dedicated.send.mock_calls)
        self.assertEqual(sent, encode([b"MULTI"]) + encode([b"GET", b"a"]) + encode([b"EXEC"]))

    def test_a_few_of_them_wait_for_nothing(self) -> None:
        client = self.connect(BLUE)
        for _ in range(20):
            client.dataReceived(b"\r\n*0\r\nGET a\r\n" * 5)
            self.assertEqual(client.session.gates, 0)
            self.turn()

    def test_ends_of_many_have_turns(self) -> None:
        clients = [self.connect(BLUE) for _ in range(200)]
        quiet = self.connect(GREEN)
        for client in (*clients, quiet):
            client.transport.loseConnection = mock.Mock(wraps=client.transport.loseConnection)
            client.session.dedicated.waits = False
            client.readConnectionLost()

        def left() -> int:
            return sum(client.session.ended or client.transport.disconnecting for client in clients)

        self.assertTrue(quiet.session.ended or quiet.transport.disconnecting)
        self.assertEqual(left(), bounds.WORK_BUDGET // bounds.WORK_END)
        clients[-1].connectionLost()
        while self.factory.work.waiting:
            before = left()
            self.turn()
            self.assertLessEqual(left() - before, 2 * bounds.WORK_TURN_UNITS // bounds.WORK_END)
        self.assertEqual(left(), 200)

    def test_an_end_that_is_noticed_twice_is_handled_once(self) -> None:
        """A client that is read from again, after its end of file."""
        for client in [self.connect(BLUE) for _ in range(bounds.WORK_BUDGET // bounds.WORK_END + 1)]:
            client.readConnectionLost()
        self.assertEqual(self.factory.work.waiting, 1)
        client.readConnectionLost()
        client.connectionLost()
        self.turn()
        self.assertEqual(self.factory.work.waiting, 0)

    def test_what_waits_keeps_its_order(self) -> None:
        clients = [self.connect(BLUE) for _ in range(20)]
        for client in clients:
            client.dataReceived(self.LARGE)
        last = clients[-1]
        self.assertEqual(self.sent(last), 0)
        last.dataReceived(encode([b"NOSUCH"]))
        self.assertEqual(last.session.refused, 0)
        last.readConnectionLost()
        for _ in range(50):
            self.turn()
        self.assertEqual((self.sent(last), last.session.refused), (len(self.LARGE), 1))
