"""Clients' connections, in cases that no test from outside can cause."""

from __future__ import annotations

import gc
import ssl
import weakref
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from twisted.internet import task
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.clients import connection as connection_module
from redisproxy.clients.admission import Admission
from redisproxy.clients.connection import ClientProtocol
from redisproxy.clients.factory import ClientFactory, Timeouts
from redisproxy.listen.proxy_protocol import NO_HEADER, HeaderFactory, HeaderReader
from redisproxy.listen.tls import ServerTls, TlsFiles, make
from redisproxy.net.protocol import PauseReason
from redisproxy.ops.access_log import AccessLog, ConnectionRecord
from redisproxy.ops.line_quota import ADDRESS_LINES
from redisproxy.session.errors import NOAUTH
from redisproxy.session.pending import BLOCKING, ReplyBatch
from redisproxy.tenants.model import AuthenticationError, Credential, Snapshot
from redisproxy.upstream.session_backend import SessionBackend

from ..support.certificates import Authority
from ..support.conversations import BLUE, GREEN
from ..support.proxy_headers import LOCAL, binary, line
from ..support.transports import Socket


class Poll:
    """The part of the module `select` that shows whether a client has sent its end of file."""

    POLLRDHUP = 1

    def __init__(self, hung_up: bool = False) -> None:
        self.hung_up = hung_up

    def poll(self, *timeout: int) -> object:
        return ([(0, 1)] if self.hung_up else []) if timeout else self

    def register(self, number: int, _: int) -> None:
        pass


#: No session in these tests needs a Redis.
NO_REDIS = SessionBackend(None, None, None, None, None, True, clock=task.Clock())


class FactoryTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.snapshot = SimpleNamespace(listeners=[], snapshot=Snapshot(None, []), wall_clock=self.clock.seconds)
        self.factory = ClientFactory(
            self.clock, self.snapshot, NO_REDIS, Admission(1000, 0), AccessLog(self.clock), Timeouts(60.0)
        )

    def connect(self) -> ClientProtocol:
        client = self.factory.buildProtocol(None)
        client.makeConnection(Socket())
        return client

    def log_in(self, credential: Credential) -> ClientProtocol:
        client = self.connect()
        client.session.credential = credential
        return client

    def closed(self, clients: list[ClientProtocol]) -> int:
        return sum(client._closing for client in clients)

    def test_thousands_are_revoked_in_one_turn_and_closed_in_some(self) -> None:
        clients = [self.log_in(BLUE) for _ in range(bounds.REVOKED_PER_TURN * 2 + 1)]
        others = [self.log_in(GREEN) for _ in range(2)]
        (changed,) = self.snapshot.listeners
        changed(Snapshot(None, [GREEN]))
        self.assertTrue(all(client.session.ended for client in clients))
        self.assertEqual(self.closed(clients), bounds.REVOKED_PER_TURN)
        gone = next(client for client in clients if not client._closing)
        gone.connectionLost()
        # A newer snapshot comes meanwhile: no client is revoked twice, and none is forgotten.
        changed(Snapshot(None, [GREEN]))
        self.assertEqual(self.closed(clients), bounds.REVOKED_PER_TURN)
        self.clock.pump([0] * 3)
        self.assertEqual(self.closed(clients), bounds.REVOKED_PER_TURN * 2)
        self.assertFalse(any(client.session.ended for client in others))
        more = [self.log_in(BLUE) for _ in range(bounds.REVOKED_PER_TURN + 1)]
        changed(Snapshot(None, []))
        # The ports close, and revoked clients are still closed: a drain would wait for them.
        self.factory.stopFactory()
        self.clock.advance(0)
        self.assertEqual(self.closed(more + others), len(more + others))

    def test_one_that_does_not_read_its_replies_is_cut_off(self) -> None:
        client = self.log_in(BLUE)
        client.session.replies.expect_batch(ReplyBatch(client.session.replies, 1))
        (changed,) = self.snapshot.listeners
        changed(Snapshot(None, []))
        self.clock.advance(bounds.REVOKED_SECONDS / 2)
        changed(Snapshot(None, [GREEN]))
        self.assertFalse(client._closing)
        self.clock.advance(bounds.REVOKED_SECONDS / 2)
        self.assertTrue(client._closing)
        self.assertTrue(client.session.replies.drained)
        self.clock.advance(bounds.CLOSE_SECONDS)
        self.assertTrue(client.transport.disconnected or client.transport.disconnecting)

    def test_one_that_gave_its_slot_and_is_cut_off_is_told_by_its_own_close_reason(self) -> None:
        client = self.log_in(BLUE)
        client.session.replies.expect_batch(ReplyBatch(client.session.replies, 1))
        client.presence.give_way()
        self.assertFalse(client._closing)
        client.presence.cut()
        client.connectionLost()
        self.assertEqual({reason: ended for reason, ended in self.factory.counts.ended.items() if ended}, {"over-share": 1})

    def taken(self, *clients: ClientProtocol) -> list[tuple[bytes, bool]]:
        return [(client.transport.value(), client.transport.disconnecting) for client in clients]

    def test_one_without_a_password_makes_room_for_a_newer_one(self) -> None:
        self.factory.admission = Admission(1, 0)
        first, second, *others = [self.connect() for _ in range(1 + bounds.LOG_IN_ROOM)]
        first.dataReceived(b"PING\r\n")
        self.assertEqual(self.taken(first, second), [(NOAUTH, False), (b"", False)])
        late = self.connect()
        error = messages.MADE_ROOM_ERROR.reply()
        self.assertEqual(self.taken(first, second, late), [(NOAUTH + error, True), (b"", False), (b"", False)])
        first.dataReceived(b"AUTH blue blue\r\n")  # too late
        self.assertEqual(first.transport.value(), NOAUTH + error)
        # One whose answers are not read is cut off: it gets no time to read this one.
        second.transport.dataBuffer = b"unsent"
        later = self.connect()
        self.assertEqual((second.transport.value(), second.transport.disconnected), (b"", True))
        for client in (first, second, late, later, *others):
            client.connectionLost()
        self.assertEqual(self.factory.counts.ended["made-room"], 2)
        self.assertEqual((self.factory.admission.unauthenticated, self.factory.admission.served), (0, 0))
        self.factory.stopFactory()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_log_in_that_waits_for_redis_has_more_time(self) -> None:
        """Its password was right. How long it waits for Redis is --hold-seconds."""
        client = self.connect()
        client.session.pending_login = mock.Mock()
        self.clock.pump([30.0] * 5)
        self.assertEqual((client.transport.value(), client.transport.disconnecting), (b"", False))
        client.session.pending_login = None
        self.clock.pump([30.0] * 2)
        self.assertIn(b"-ERR no log-in within 60 seconds", client.transport.value())
        client.connectionLost()
        self.factory.stopFactory()

    def test_wrong_passwords_are_counted_by_the_tenant_that_they_name(self) -> None:
        self.snapshot.snapshot = Snapshot(None, [BLUE])
        self.snapshot.authenticate = lambda user, password: self.snapshot.snapshot.authenticate(user, password, 0.0)
        for user in (b"blue", b"blue", b"nobody", b"default", b"\xff"):
            self.connect().dataReceived(b"AUTH %b wrong\r\n" % user)
        self.connect().dataReceived(b"AUTH wrong\r\n")
        self.assertEqual(self.factory.counts.logins, {"wrong": 6})
        self.assertEqual({name: counted.wrong for name, counted in self.factory.counts.by_tenant.items()}, {"blue": 2})

    def test_a_bug_that_clients_bring_about_again_and_again_does_not_fill_the_log(self) -> None:
        clients = [self.connect() for _ in range(ADDRESS_LINES + 10)]
        for client in clients:
            client.respReceived = lambda data: 1 / 0
            client.dataReceived(b"PING\r\n")
            self.assertTrue(client.transport.disconnecting)
            client.connectionLost()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), ADDRESS_LINES)
        self.factory.access_log.stopService()

    def test_one_timer_does_for_the_session_and_the_connection_whichever_is_due_first(self) -> None:
        """One timer serves the session's deadline, a late answer, and the connection's own one."""
        for delay, half_closed in ((1.0, True), (1.0, False), (bounds.HALF_CLOSED_SECONDS + 1, True)):
            client = self.connect()
            transport = client.transport
            self.factory.login_backoff.wrong = mock.Mock(return_value=delay)
            self.snapshot.authenticate = mock.Mock(side_effect=AuthenticationError("WRONGPASS no", "wrong"))
            client.dataReceived(b"AUTH wrong\r\n")
            if half_closed:
                client.readConnectionLost()
            self.assertEqual(len(self.timers_of(client)), 1)
            due = min(delay, bounds.HALF_CLOSED_SECONDS)
            self.clock.advance(due - 0.01)
            self.assertEqual((transport.value(), transport.disconnected), (b"", False))
            self.clock.advance(0.01)
            self.assertEqual(bool(transport.value()), due == delay)
            self.assertEqual(transport.disconnected, due != delay)
            client.connectionLost()
            self.assertEqual(self.timers_of(client), [])

    def test_at_a_socket_for_both_families_wrong_passwords_of_ipv4_are_counted_by_address(self) -> None:
        self.snapshot.authenticate = mock.Mock(side_effect=AuthenticationError("WRONGPASS no", "wrong"))

        def wrong(host: str) -> bool:
            """Sends a wrong password. Returns whether the answer is delayed."""
            client = self.factory.buildProtocol(IPv6Address("TCP", host, 4711))
            client.makeConnection(Socket())
            client.dataReceived(b"AUTH wrong\r\n")
            self.clock.advance(0)
            delayed = not client.transport.value()
            client.connectionLost()
            return delayed

        found = [wrong("::ffff:10.0.0.7") for _ in range(bounds.UNDELAYED_WRONG_PASSWORDS + 1)]
        self.assertEqual(found, [False] * bounds.UNDELAYED_WRONG_PASSWORDS + [True])
        self.assertFalse(wrong("::ffff:10.0.0.8"), "another machine")

    def test_a_client_that_is_not_read_and_left_is_missed(self) -> None:
        """At once if its command is blocked; its end of file need not have been read."""
        for blocked, found_after in ((True, bounds.BLOCKED_CHECK_SECONDS), (False, bounds.PAUSED_CHECK_SECONDS)):
            poll = Poll()
            self.patch(connection_module, "select", poll)
            self.factory.startFactory()
            client = self.log_in(BLUE)
            client.session.replies.expect_batch(ReplyBatch(client.session.replies, 1))
            if blocked:
                client.session._newest_blocking = ReplyBatch(client.session.replies, 1, BLOCKING)
            client.pause_reading()
            self.clock.pump([bounds.PAUSED_CHECK_SECONDS] * 2)
            self.assertFalse(client.has_left)
            poll.hung_up = True
            self.clock.advance(found_after)
            self.assertTrue(client.has_left)
            self.assertEqual(client.session.ended, blocked)
            self.clock.advance(bounds.HALF_CLOSED_SECONDS)
            self.assertTrue(client.transport.disconnected)
            client.connectionLost()
            self.factory.stopFactory()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_client_that_left_while_it_was_not_read_counts_as_gone_when_it_is_read_again(self) -> None:
        self.patch(connection_module, "select", Poll(hung_up=True))
        client = self.log_in(BLUE)
        client.pause_reading(PauseReason.SESSION)
        client.pause_reading(PauseReason.RATE)
        client.resume_reading(PauseReason.SESSION)
        self.assertFalse(client.has_left, "it is still not read")
        client.resume_reading(PauseReason.RATE)
        self.assertTrue(client.has_left)
        client.session.replies.expect_batch(ReplyBatch(client.session.replies, 1))
        client.readConnectionLost()  # as soon as it is read
        self.assertTrue(client.has_left)

    def test_a_client_that_sent_its_end_of_file_counts_as_gone_soon_after(self) -> None:
        client = self.log_in(BLUE)
        client.session.replies.expect_batch(ReplyBatch(client.session.replies, 1))
        client.readConnectionLost()
        self.assertFalse(client.has_left)
        self.clock.advance(bounds.HALF_CLOSED_BLOCKING_SECONDS)
        self.assertTrue(client.has_left)

    def test_the_last_client_that_is_not_read_ends_the_checks(self) -> None:
        clients = [self.connect() for _ in range(2)]
        for client in clients:
            client.pause_reading()
        for client in clients:
            client.connectionLost()
        self.clock.advance(0)
        self.assertFalse(self.factory._probing_blocked.running)
        client = self.connect()
        client.pause_reading()
        client.resume_reading()
        self.clock.advance(bounds.BLOCKED_CHECK_SECONDS)
        self.assertFalse(self.factory._probing_blocked.running)

    def timers_of(self, client: ClientProtocol) -> list[IDelayedCall]:
        return [call for call in self.clock.getDelayedCalls() if call.func == client._time_is_up]

    def test_a_client_that_left_leaves_nothing_to_the_garbage_collector(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        client = self.connect()
        client.dataReceived(b"PING\r\n")
        # Twisted's transports drop their producer and their protocol by themselves.
        client.transport.unregisterProducer()
        client.connectionLost()
        left = weakref.ref(client), weakref.ref(self.factory)
        del client
        self.assertIsNone(left[0]())
        self.assertIsNotNone(left[1]())
        self.assertEqual(gc.collect(), 0)


class TlsTests(unittest.TestCase):
    """A client's connection over TLS from its first byte on. The client uses Python's own TLS."""

    def setUp(self) -> None:
        snapshot = Path(self.mktemp()).absolute()
        snapshot.mkdir(parents=True)
        authority = Authority(snapshot)
        certificate, key = authority.issue("proxy", "localhost")
        files = TlsFiles(key, certificate, None, None)
        secured = ServerTls("ssl:6380", files)
        secured.use(make(files, files.read()))
        self.context = ssl.create_default_context(cafile=authority.path)
        self.clock = task.Clock()
        self.factory = ClientFactory(
            self.clock,
            SimpleNamespace(listeners=[], snapshot=Snapshot(None, [])),
            NO_REDIS,
            Admission(1, 0),
            AccessLog(self.clock),
            Timeouts(60.0),
        )
        self.tls = TLSMemoryBIOFactory(secured, False, self.factory, self.clock)

    def connect(self) -> TLSMemoryBIOProtocol:
        protocol = self.tls.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        protocol.makeConnection(Socket())
        self.received, self.sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = self.context.wrap_bio(self.received, self.sent, server_hostname="localhost")
        return protocol

    @property
    def ended(self) -> dict[str, int]:
        """Numbers of ended connections by close reason, without zeros."""
        return {close_reason: count for close_reason, count in self.factory.counts.ended.items() if count}

    def shake(self, protocol: TLSMemoryBIOProtocol) -> None:
        for _ in range(4):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            self.carry(protocol)

    def carry(self, protocol: TLSMemoryBIOProtocol) -> None:
        """Carries what each side has sent to the other."""
        if data := self.sent.read():
            protocol.dataReceived(data)
        self.clock.advance(0)
        self.received.write(protocol.transport.value())
        protocol.transport.clear()

    def lost(self, protocol: TLSMemoryBIOProtocol) -> None:
        """Ends the connection as the reactor does."""
        if protocol.transport.producer is not None:
            protocol.transport.producer.stopProducing()
        protocol.connectionLost(connectionDone)

    def test_who_does_not_finish_the_handshake_has_the_time_of_the_log_in(self) -> None:
        protocol = self.connect()
        protocol.dataReceived(b"\x16\x03")
        self.clock.advance(59.9)
        self.assertFalse(protocol.transport.disconnecting)
        self.clock.advance(0.1)
        self.assertTrue(protocol.transport.disconnecting)
        self.assertEqual(protocol.transport.value(), b"")
        self.lost(protocol)
        self.assertEqual(self.ended, {"login-timeout": 1})
        self.assertEqual(self.factory.admission.served, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_finishes_it_and_does_not_log_in_is_told(self) -> None:
        protocol = self.connect()
        self.shake(protocol)
        self.clock.advance(60)
        self.carry(protocol)
        self.assertEqual(self.client.read(100), b"-ERR no log-in within 60 seconds\r\n")
        self.lost(protocol)
        self.assertEqual(self.ended, {"login-timeout": 1})

    def test_one_that_makes_room_in_its_handshake_is_aborted(self) -> None:
        protocols = [self.connect() for _ in range(1 + bounds.LOG_IN_ROOM)]
        self.assertFalse(any(protocol.transport.disconnecting for protocol in protocols))
        protocols.append(self.connect())
        self.assertTrue(protocols[0].transport.disconnecting)
        self.assertEqual(protocols[0].transport.value(), b"")
        self.lost(protocols[0])
        self.assertEqual(self.ended, {"made-room": 1})
        for protocol in protocols[1:]:
            self.assertFalse(protocol.transport.disconnecting)
            self.lost(protocol)
        self.factory.stopFactory()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_handshake_that_fails_is_told_by_its_close_reason(self) -> None:
        protocol = self.connect()
        protocol.dataReceived(b"*1\r\n$4\r\nPING\r\n")
        self.assertTrue(protocol.transport.disconnecting)
        self.lost(protocol)
        self.assertEqual(self.ended, {"tls-failed": 1})
        self.assertEqual(self.flushLoggedErrors(), [])
        left = self.connect()
        self.lost(left)
        self.assertEqual(self.ended, {"tls-failed": 1, "client-left": 1})

    def test_before_the_log_in_little_may_be_unread(self) -> None:
        protocol = self.connect()
        self.assertEqual(protocol.transport.bufferSize, Socket.bufferSize)
        self.shake(protocol)
        self.assertEqual(protocol.transport.bufferSize, bounds.UNAUTHENTICATED_BACKLOG_BYTES)
        self.lost(protocol)

    def test_one_that_left_leaves_nothing_to_the_garbage_collector(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)
        protocol = self.connect()
        self.shake(protocol)
        self.client.write(b"PING\r\n")
        self.carry(protocol)
        self.assertIn(b"NOAUTH", self.client.read(100))
        left = weakref.ref(protocol.wrappedProtocol)
        self.lost(protocol)
        self.clock.advance(60)
        del protocol
        self.assertIsNone(left())


class ProxiedTests(unittest.TestCase):
    """Clients behind a load balancer that sends a PROXY header."""

    BALANCER = "10.0.0.9"

    def setUp(self) -> None:
        self.clock = task.Clock()
        snapshot = Snapshot(None, [BLUE])
        snapshots = SimpleNamespace(
            listeners=[],
            snapshot=snapshot,
            wall_clock=self.clock.seconds,
            authenticate=lambda user, password: snapshot.authenticate(user, password, 0.0),
        )
        self.access_log = AccessLog(self.clock)
        self.records: list[ConnectionRecord] = []
        self.access_log.ended = self.records.append
        self.factory = ClientFactory(self.clock, snapshots, NO_REDIS, Admission(2, 1), self.access_log, Timeouts(60.0))
        self.behind = HeaderFactory(self.factory, [ip_network("10.0.0.0/8")])

    def connect(self, host: str = BALANCER, number: int = 40000) -> HeaderReader | None:
        reader = self.behind.buildProtocol(IPv4Address("TCP", host, number))
        if reader is not None:
            reader.makeConnection(Socket())
        return reader

    def client(self, reader: HeaderReader) -> ClientProtocol:
        (found,) = [client for client in self.factory.clients if client.transport is reader.transport]
        return found

    def end(self, *readers: HeaderReader) -> None:
        for reader in readers:
            reader.connectionLost(connectionDone)
        self.factory.stopFactory()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.admission.served, 0)

    def test_the_record_has_the_clients_own_address(self) -> None:
        for header in (line("192.0.2.7", 50123), binary("192.0.2.7", 50123)):
            reader = self.connect()
            reader.dataReceived(header + b"PING\r\n")
            self.assertEqual(reader.transport.value(), NOAUTH)
            client = self.client(reader)
            self.assertEqual((client.peer, client.address), ("192.0.2.7:50123", "192.0.2.7"))
            self.assertEqual(client.bytes_received, len(b"PING\r\n"))
            self.end(reader)
            self.assertEqual((self.records[-1].peer, self.records[-1].detail), ("192.0.2.7:50123", ""))
        reader = self.connect()
        reader.dataReceived(binary("2001:db8::7", 50123))
        self.end(reader)
        self.assertEqual(self.records[-1].peer, "[2001:db8::7]:50123")

    def test_wrong_passwords_of_one_client_delay_no_other(self) -> None:
        def answered_at_once(source: str) -> bool:
            reader = self.connect()
            reader.dataReceived(line(source, 50123) + b"AUTH wrong\r\n")
            self.clock.advance(bounds.FIRST_LOGIN_DELAY_SECONDS / 2)
            answered = reader.transport.value() != b""
            reader.connectionLost(connectionDone)
            return answered

        answers = [answered_at_once("192.0.2.7") for _ in range(bounds.UNDELAYED_WRONG_PASSWORDS + 1)]
        self.assertEqual(answers, [True] * bounds.UNDELAYED_WRONG_PASSWORDS + [False])
        self.assertTrue(answered_at_once("192.0.2.8"))
        self.assertFalse(answered_at_once("192.0.2.7"))
        self.end()

    def test_without_a_header_it_has_the_time_of_the_log_in(self) -> None:
        silent, slow = self.connect(), self.connect()
        header = line("192.0.2.7", 50123)[:-1]
        for second in range(59):
            self.clock.advance(1)
            slow.dataReceived(header[second : second + 1])
        self.assertFalse(silent.transport.disconnecting or slow.transport.disconnecting)
        self.clock.advance(1)
        for reader in (silent, slow):
            self.assertIn(b"-ERR no log-in within 60 seconds", reader.transport.value())
            self.clock.advance(bounds.CLOSE_SECONDS)
            self.assertTrue(reader.transport.disconnecting)
        self.end(silent, slow)
        for record in self.records:
            self.assertEqual(
                (record.close_reason, record.detail, record.peer), ("login-timeout", NO_HEADER, "10.0.0.9:40000")
            )

    def test_the_address_with_most_makes_room(self) -> None:
        """Its own address counts as soon as the header has come."""
        first = self.connect()
        first.dataReceived(line("192.0.2.7", 50123))
        flood = [self.connect() for _ in range(2 + bounds.LOG_IN_ROOM)]
        for number, reader in enumerate(flood):
            reader.dataReceived(line("192.0.2.66", number + 1))
        late = self.connect()
        self.assertEqual([reader.transport.disconnecting for reader in (first, flood[0], flood[1])], [False, True, False])
        late.dataReceived(line("192.0.2.7", 50124))
        self.end(first, late, *flood)
        ended = {record.peer: record.close_reason for record in self.records}
        self.assertEqual([peer for peer, close_reason in ended.items() if close_reason == "made-room"], ["192.0.2.66:1"])

    def test_the_time_for_the_log_in_begins_with_the_connection_and_not_with_the_header(self) -> None:
        reader = self.connect()
        self.clock.advance(50)
        reader.dataReceived(line("192.0.2.7", 50123))
        self.clock.advance(10)
        self.assertIn(b"-ERR no log-in within 60 seconds", reader.transport.value())
        self.end(reader)

    def test_a_bad_header_ends_the_connection(self) -> None:
        reader = self.connect()
        reader.dataReceived(b"PROXY TCP4 \x1b[31m 1 2 3\r\nPING\r\n")
        self.assertTrue(reader.transport.disconnected)
        reader.dataReceived(b"PING\r\n")
        self.assertEqual(reader.transport.value(), b"")
        self.end(reader)
        (record,) = self.records
        self.assertEqual((record.close_reason, record.detail), ("bad-proxy-header", "its PROXY header is malformed"))

    def test_who_is_not_trusted_takes_no_slot_and_is_counted_and_logged(self) -> None:
        for number in range(5):
            self.assertIsNone(self.connect("192.0.2.66", number))
        self.assertEqual((self.factory.admission.served, self.factory.clients), (0, set()))
        self.assertEqual(self.factory.counts.ended["untrusted-proxy"], 5)
        self.assertEqual([record.peer for record in self.records], [f"192.0.2.66:{number}" for number in range(5)])
        self.assertEqual(self.records[0].detail, "its address is not in --trust-proxy")
        self.end()

    def test_their_lines_have_a_quota(self) -> None:
        del self.access_log.ended
        written = []
        self.access_log._log = SimpleNamespace(write=lambda message, **fields: written.append(fields))
        for number in range(ADDRESS_LINES + 10):
            self.connect("192.0.2.66", number)
        self.assertEqual(len(written), ADDRESS_LINES)
        self.access_log.stopService()

    def test_a_health_check_that_leaves_is_ordinary(self) -> None:
        for header, detail in ((LOCAL, ""), (b"", NO_HEADER)):
            reader = self.connect()
            reader.dataReceived(header)
            reader.readConnectionLost()
            self.end(reader)
            record = self.records[-1]
            self.assertEqual((record.close_reason, record.detail, record.peer), ("client-left", detail, "10.0.0.9:40000"))

    def test_a_drain_ends_one_without_a_header(self) -> None:
        reader = self.connect()
        gone: list[None] = []
        self.factory.drain(lambda: gone.append(None))
        self.client(reader).drain()
        self.assertEqual(self.client(reader).state, "ending")
        self.end(reader)
        self.assertIsNone(self.connect())
        self.assertEqual(self.factory.counts.ended["shutdown"], 1)

    def test_one_that_left_leaves_nothing_to_the_garbage_collector(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for sent in (b"", b"PROXY", line("192.0.2.7", 50123) + b"PING\r\n"):
            reader = self.connect()
            reader.dataReceived(sent)
            left = weakref.ref(reader), weakref.ref(self.client(reader))
            reader.transport.unregisterProducer()
            reader.connectionLost(connectionDone)
            self.records.clear()
            del reader
            self.assertEqual([ref() for ref in left], [None, None])
