"""Tests the bounds of the status port: time, slots, turns and work.

Resources say how long they take: the clock goes on by that while they work.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.tcp import Port
from twisted.internet.testing import EventLoggingObserver, MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial import unittest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from redisproxy.ops import http_port
from redisproxy.ops.http_port import HttpChannel, HttpSite

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
WORK = b"GET /work HTTP/1.1\r\nHost: localhost\r\n\r\n"
LATER = b"GET /later HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Connection(StringTransport):
    """What a client sees. aborted: whether the connection was aborted."""

    aborted = False

    def __init__(self, site: HttpSite, host: str) -> None:
        super().__init__()
        self.channel: HttpChannel | None = site.buildProtocol(IPv4Address("TCP", host, 1))
        if self.channel is not None:
            self.channel.makeConnection(self)

    def abortConnection(self) -> None:
        self.aborted = True
        self.leave()

    def leave(self) -> None:
        self.channel.connectionLost(Failure(ConnectionError()))

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    @property
    def answers(self) -> int:
        return self.value().count(b"HTTP/1.1 200 OK\r\n")


class Working(Resource):
    """Takes `seconds` to answer. A request of /later is answered by `finish`."""

    isLeaf = True

    def __init__(self, clock: MemoryReactorClock) -> None:
        super().__init__()
        self._clock = clock
        self.seconds = 0.0
        self.worked = 0.0
        self.begun: list[Request] = []

    def render_GET(self, request: Request) -> bytes | int:
        self._clock.rightNow += self.seconds
        self.worked += self.seconds
        if request.path == b"/later":
            self.begun.append(request)
            return NOT_DONE_YET
        return b"ok"

    def finish(self) -> None:
        self.begun.pop(0).finish()


class PortTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = MemoryReactorClock()
        self.work = Working(self.clock)
        self.site = HttpSite(self.work, self.clock, {b"/livez", b"/readyz"})
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.site.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self, host: str = "10.0.0.1") -> Connection:
        return Connection(self.site, host)

    def fill(self, hosts: int, data: bytes = b"") -> list[Connection]:
        """Takes all slots, from so many addresses."""
        found = []
        for number in range(http_port.CONNECTIONS):
            self.clock.advance(http_port.BURST_SECONDS / 10)
            found.append(self.connect(f"10.0.1.{number % hosts}"))
            if data:
                found[-1].send(data)
        return found


class TimeTests(PortTests):
    def test_bytes_do_not_prolong_the_time_of_a_request(self) -> None:
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        connection = self.connect()
        for byte in LIVEZ[: http_port.TIMEOUT - 1]:
            connection.send(bytes([byte]))
            self.clock.advance(1.0)
        self.assertFalse(connection.disconnecting)
        self.clock.advance(1.0)
        self.assertTrue(connection.disconnecting)
        self.assertFalse(connection.aborted)
        self.clock.advance(http_port.TIMEOUT)
        self.assertTrue(connection.aborted)
        self.assertEqual(list(events), [])  # a client cannot fill the log

    def test_the_next_request_has_its_own_time(self) -> None:
        connection = self.connect()
        self.clock.advance(http_port.TIMEOUT - 1)
        connection.send(LIVEZ)
        self.clock.advance(http_port.TIMEOUT - 1)
        connection.send(LIVEZ)
        self.assertEqual(connection.answers, 2)
        self.clock.advance(http_port.TIMEOUT - 1)
        self.assertFalse(connection.disconnecting)
        self.clock.advance(1)
        self.assertTrue(connection.disconnecting)

    def test_an_answer_that_takes_long_is_not_cut_off(self) -> None:
        connection = self.connect()
        connection.send(LATER)
        self.clock.advance(http_port.TIMEOUT * 3)
        self.work.finish()
        self.assertEqual((connection.answers, connection.disconnecting), (1, False))

    def test_a_client_that_does_not_read_its_last_answer_is_aborted(self) -> None:
        connection = self.connect()
        connection.send(LIVEZ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        self.assertTrue(connection.disconnecting)
        self.clock.advance(http_port.TIMEOUT)
        self.assertTrue(connection.aborted)

    def test_a_request_that_waits_for_its_turn_too_long_is_given_up(self) -> None:
        first, second = self.connect(), self.connect()
        first.send(LATER)
        second.send(WORK)
        self.clock.advance(http_port.TIMEOUT)
        self.assertTrue(second.disconnecting)
        self.work.finish()
        self.assertEqual(second.answers, 0)
        self.assertEqual(first.answers, 1)


class SlotTests(PortTests):
    def test_the_oldest_idle_connection_makes_room(self) -> None:
        first, second, *others = self.fill(http_port.CONNECTIONS)
        first.send(LIVEZ)  # so the second has waited longest
        newest = self.connect()
        newest.send(LIVEZ)
        self.assertEqual(newest.answers, 1)
        self.assertTrue(second.aborted)
        self.assertFalse(any(other.aborted for other in (first, *others, newest)))

    def test_half_a_request_is_idle(self) -> None:
        first, *_ = self.fill(http_port.CONNECTIONS, LIVEZ[:-1])
        self.connect()
        self.assertTrue(first.aborted)

    def test_a_request_that_waits_keeps_its_slot_before_idle_ones(self) -> None:
        first, second, third, *_ = self.fill(http_port.CONNECTIONS)
        first.send(LATER)
        second.send(WORK)
        self.connect()
        self.assertEqual([first.aborted, second.aborted, third.aborted], [False, False, True])

    def test_requests_that_wait_do_not_keep_a_probe_out(self) -> None:
        first, second, *_ = self.fill(http_port.CONNECTIONS, LATER)
        probe = self.connect()
        probe.send(LIVEZ)
        self.assertEqual(probe.answers, 1)
        self.assertEqual([first.aborted, second.aborted], [False, True])
        self.assertEqual(len(self.work.begun), 1)

    def test_the_address_with_the_most_connections_makes_room(self) -> None:
        self.clock.advance(1.0)
        alone = self.connect("10.0.2.1")  # the oldest, and idle
        for _ in range(3):
            greedy = self.fill(1, LATER)
        self.assertFalse(alone.aborted)
        # One of those before is served still.
        self.assertEqual(sum(not one.aborted for one in greedy), http_port.CONNECTIONS - 2)

    def test_an_address_that_connects_too_often_is_turned_away_alone(self) -> None:
        found = [self.connect() for _ in range(http_port.BURST * 3)]
        self.assertEqual(sum(one.channel is not None for one in found), http_port.BURST)
        self.assertIsNotNone(self.connect("10.0.0.2").channel)
        self.clock.advance(http_port.BURST_SECONDS)
        self.assertIsNotNone(self.connect().channel)

    def test_slots_of_those_who_left_are_free(self) -> None:
        for one in self.fill(2):
            one.leave()
        again = self.fill(2)
        self.assertFalse(any(one.aborted for one in again))

    def test_the_port_rests_after_many_connections(self) -> None:
        port = Port(0, self.site, interface="127.0.0.1", reactor=self.clock)
        port.startListening()
        self.addCleanup(port.connectionLost, None)
        self.addCleanup(port.socket.close)
        self.site.limit_accepts([port])
        self.assertIn(port, self.clock.getReaders())
        for number in range(http_port.ACCEPTS):
            self.assertIn(port, self.clock.getReaders())
            self.connect(f"10.0.3.{number}")
        self.assertNotIn(port, self.clock.getReaders())
        port.numberAccepts = 1000  # as Twisted raises it
        self.clock.advance(http_port.ACCEPTS * http_port.ACCEPT_SECONDS)
        self.assertIn(port, self.clock.getReaders())
        self.assertEqual(port.numberAccepts, http_port.ACCEPTS)


class TurnTests(PortTests):
    def test_a_pipeline_leaves_the_reactor_its_turns(self) -> None:
        """Twisted's HTTPChannel by itself answers all of them in one turn."""
        self.work.seconds = 0.0002
        connection = self.connect()
        count = http_port.HEAD_BYTES // len(LIVEZ)
        began = self.clock.seconds()
        connection.send(LIVEZ * count)
        turns = 0
        while connection.answers < count:
            before = self.work.worked
            self.clock.advance(0.0005)
            self.assertLess(self.work.worked - before, http_port.WORK_SECONDS + self.work.seconds * 1.1)
            turns += 1
            self.assertLess(turns, 100_000)
        elapsed = self.clock.seconds() - began
        self.assertLess(self.work.worked / elapsed, http_port.CPU_FRACTION * 1.2)
        self.assertFalse(connection.disconnecting)

    def test_64_pipelines_take_no_more_time_than_one(self) -> None:
        self.work.seconds = 0.0002
        for path in (LIVEZ, WORK):
            for one in self.fill(4):
                one.send(path * 100)
        began, before = self.clock.seconds(), self.work.worked
        for _ in range(2000):
            self.clock.advance(0.001)
        elapsed = self.clock.seconds() - began
        # The probes' queue and the other one.
        self.assertLess((self.work.worked - before) / elapsed, 2 * http_port.CPU_FRACTION * 1.2)

    def test_a_pipeline_that_is_too_long_ends_with_the_answer_under_way(self) -> None:
        connection = self.connect()
        connection.send(LATER)
        connection.send(LIVEZ * (http_port.HEAD_BYTES // len(LIVEZ) + 1))
        connection.send(LIVEZ * 1000)
        self.work.finish()
        self.assertEqual(connection.answers, 1)
        self.assertTrue(connection.disconnecting)

    def test_connections_take_turns(self) -> None:
        first, second = self.connect(), self.connect("10.0.0.2")
        self.work.seconds = 1.0
        first.send(LIVEZ * 10)
        second.send(LIVEZ)
        self.assertEqual((first.answers, second.answers), (1, 0))
        # The second request of the first one came before.
        self.clock.pump([1.0 / http_port.CPU_FRACTION] * 2)
        self.assertEqual((first.answers, second.answers), (2, 1))
        self.clock.pump([1.0 / http_port.CPU_FRACTION] * 8)
        self.assertEqual(first.answers, 10)

    def test_probes_are_not_behind_other_requests(self) -> None:
        self.work.seconds = 10.0
        others = [self.connect(f"10.0.4.{number}") for number in range(20)]
        for one in others:
            one.send(WORK)
        self.assertEqual(sum(one.answers for one in others), 1)
        self.work.seconds = 0.0
        for path in (b"/livez", b"/readyz", b"/livez?verbose"):
            probe = self.connect()
            probe.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            self.assertEqual(probe.answers, 1, path)
        self.assertEqual(sum(one.answers for one in others), 1)

    def test_other_requests_go_on_beside_probes(self) -> None:
        self.work.seconds = 0.001
        probes, other = self.fill(4), self.connect()
        for one in probes[1:]:
            one.send(LIVEZ * 100)
        other.send(WORK)
        self.assertEqual(other.answers, 1)

    def test_one_other_request_is_under_way_at_a_time(self) -> None:
        first, second, third = (self.connect() for _ in range(3))
        for one in (first, second, third):
            one.send(LATER)
        self.assertEqual(len(self.work.begun), 1)
        self.work.finish()
        self.assertEqual((first.answers, len(self.work.begun)), (1, 1))
        # Those who leave make room, whether their request has begun or waits.
        second.leave()
        third.leave()
        self.work.begun.clear()
        fourth = self.connect()
        fourth.send(WORK)
        self.assertEqual(fourth.answers, 1)

    def test_a_request_that_is_none_lets_the_next_one_in(self) -> None:
        for broken in (
            b"\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (http_port.HEADERS + 1) + b"\r\n",
        ):
            connection = self.connect()
            connection.send(broken)
            self.assertTrue(connection.disconnecting, broken)
            self.clock.advance(1.0)
            other = self.connect()
            other.send(WORK)
            self.assertEqual(other.answers, 1, broken)

    def test_a_head_that_is_too_long_is_refused(self) -> None:
        for head in (b"x" * (http_port.HEAD_BYTES + 1), b"GET / HTTP/1.1\r\na: %b\r\n\r\n" % (b"x" * http_port.HEAD_BYTES)):
            connection = self.connect()
            connection.send(head)
            self.assertTrue(connection.value().startswith(b"HTTP/1.1 431 "))
            self.assertTrue(connection.disconnecting)

    def test_a_client_that_reads_no_answers_gets_no_more(self) -> None:
        connection = self.connect()
        connection.channel.pauseProducing()  # the transport's buffer is full
        connection.send(LIVEZ * 3)
        self.assertEqual(connection.answers, 0)
        connection.channel.resumeProducing()
        self.assertEqual(connection.answers, 3)

    def test_requests_may_arrive_in_any_pieces(self) -> None:
        data = b"\r\n" + LIVEZ + WORK + b"GET /livez HTTP/1.0\r\n\r\n"
        pieces = [[data], [data[index : index + 1] for index in range(len(data))]]
        pieces += [[data[:index], data[index:]] for index in range(1, len(data))]
        found = set()
        for parts in pieces:
            connection = self.connect()
            for part in parts:
                connection.send(part)
            self.clock.advance(1.0)
            found.add((connection.value().count(b"\r\nok"), connection.disconnecting))
        self.assertEqual(found, {(3, True)})
