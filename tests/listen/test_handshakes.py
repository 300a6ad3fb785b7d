"""TLS handshakes that have to wait for their turn, and records that are work."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from types import SimpleNamespace

from twisted.internet import protocol, task
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds
from redisproxy.listen.handshakes import HandshakeQueue, QueuedTls, QueuedTlsFactory
from redisproxy.listen.tls import ServerTls, TlsFiles, make
from redisproxy.tenants.work import WorkQueue

from ..support.certificates import Authority
from ..support.transports import Socket
from ..support.turns import turn


class Application(protocol.Protocol):
    """A client's connection, without a session."""

    held = False

    def __init__(self, address: str, work: object) -> None:
        self.address, self.work = address, work
        self.bytes_received = 0
        self.pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self.bytes_received += len(data)
        self.pieces.append(data)


class Client:
    """A client of TLS, and the connection that the proxy has with it."""

    def __init__(self, case: HandshakeCase, address: str = "10.0.0.1") -> None:
        self.application = Application(address, case.work.of("blue"))
        case.applications.append(self.application)
        self.tls = case.factory.buildProtocol(None)
        assert isinstance(self.tls, QueuedTls)
        self.socket = Socket()
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.side = case.context.wrap_bio(self._received, self._sent, server_hostname="localhost")
        self.tls.makeConnection(self.socket)

    def speaks(self) -> bytes:
        """Returns what the client sends next in its handshake."""
        self._received.write(self.socket.value())
        self.socket.clear()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.side.do_handshake()
        return self._sent.read()

    def says(self, *words: bytes) -> bytes:
        """Returns words of the client, each in a record of its own."""
        for word in words:
            self.side.write(word)
        return self._sent.read()

    def begins(self) -> Client:
        self.tls.dataReceived(self.speaks())
        return self

    @property
    def answered(self) -> bool:
        """Whether the proxy has made its part of the handshake."""
        return bool(self.socket.value())


class HandshakeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        authority = Authority(directory)
        certificate, key = authority.issue("proxy", "localhost")
        files = TlsFiles(key, certificate, None, None)
        server = ServerTls("ssl:0", files)
        server.use(make(files, files.read()))
        self.context = ssl.create_default_context(cafile=str(authority.path))
        self.applications: list[Application] = []
        self.work = WorkQueue(self.clock.seconds, lambda call: self.clock.callLater(0, call))
        self.queue = HandshakeQueue(self.clock)
        applications = SimpleNamespace(buildProtocol=lambda address: self.applications[-1])
        self.factory = QueuedTlsFactory(server, applications, self.clock, self.queue)
        self.patch(bounds, "HANDSHAKES_PER_TURN", 2)
        self.queue = self.factory.handshakes = HandshakeQueue(self.clock)

    def turn(self) -> None:
        turn(self.clock)


class TurnTests(HandshakeCase):
    def test_so_many_are_made_in_one_turn(self) -> None:
        clients = [Client(self).begins() for _ in range(5)]
        self.assertEqual([client.answered for client in clients], [True, True, False, False, False])
        self.assertEqual(self.queue.waiting, 3)
        self.turn()
        self.assertEqual([client.answered for client in clients], [True, True, False, True, True], "the newest first")
        self.turn()
        self.assertEqual((self.queue.waiting, clients[2].answered), (0, True))
        self.turn()
        self.assertEqual(self.clock.calls, [])

    def test_so_long_are_they_made_in_one_turn(self) -> None:
        self.patch(bounds, "HANDSHAKES_PER_TURN", 100)
        times = iter(range(1000))
        self.queue._seconds = lambda: next(times) * bounds.HANDSHAKE_TURN_SECONDS * 0.6
        self.turn()
        clients = [Client(self).begins() for _ in range(5)]
        self.assertEqual([client.answered for client in clients], [True, True, False, False, False])

    def test_without_a_flood_none_waits(self) -> None:
        for _ in range(5):
            client = Client(self).begins()
            self.assertTrue(client.answered)
            client.tls.dataReceived(client.speaks() + client.says(b"PING\r\n"))
            self.assertEqual(client.application.pieces, [b"PING\r\n"])
            self.turn()

    def test_one_address_after_the_other(self) -> None:
        flood = [Client(self).begins() for _ in range(20)]
        other = [Client(self, "10.0.0.2").begins() for _ in range(2)]
        self.turn()
        self.assertEqual((sum(client.answered for client in flood), other[1].answered), (3, True))
        self.turn()
        self.assertEqual((sum(client.answered for client in flood), other[0].answered), (4, True))

    def test_who_has_answered_does_not_wait_for_who_only_begins(self) -> None:
        client = Client(self).begins()
        flood = [Client(self).begins() for _ in range(20)]
        client.tls.dataReceived(client.speaks() + client.says(b"PING\r\n"))
        self.assertEqual(client.application.pieces, [])
        self.turn()
        self.assertEqual(client.application.pieces, [b"PING\r\n"])
        self.assertEqual(sum(each.answered for each in flood), 2)

    def test_one_that_has_answered_is_not_read_until_its_turn(self) -> None:
        """Its end of file would come before what it has sent."""
        client = Client(self).begins()
        for _ in range(5):
            Client(self).begins()
        client.tls.dataReceived(client.speaks())
        self.assertEqual(client.socket.producerState, "paused")
        client.tls.dataReceived(client.says(b"PING\r\n"))
        self.turn()
        self.assertEqual((client.application.pieces, client.socket.producerState), ([b"PING\r\n"], "producing"))

    def test_one_that_the_client_itself_must_not_read_stays_so(self) -> None:
        client = Client(self).begins()
        Client(self).begins()
        client.tls.dataReceived(client.speaks())
        client.application.held = True
        self.turn()
        self.assertEqual(client.socket.producerState, "paused")

    def test_nothing_is_done_for_one_that_is_gone(self) -> None:
        clients = [Client(self).begins() for _ in range(4)]
        clients[3].tls.connectionLost(Failure(ConnectionDone()))
        clients[2].tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.queue.waiting, 0)
        clients[3].socket.clear()
        self.turn()
        self.assertFalse(clients[3].answered)

    def test_a_part_of_a_record_has_no_turn(self) -> None:
        client = Client(self)
        hello = client.speaks()
        for at in range(len(hello)):
            self.assertFalse(client.answered)
            client.tls.dataReceived(hello[at : at + 1])
        self.assertTrue(client.answered)

    def test_a_part_of_the_next_record_waits_for_its_end(self) -> None:
        client = Client(self).begins()
        said = client.speaks() + client.says(b"PING\r\n")
        client.tls.dataReceived(said[:-30])
        client.tls.dataReceived(said[-30:])
        self.turn()
        self.assertEqual(client.application.pieces, [b"PING\r\n"])

    def test_what_is_no_tls_is_told_so_at_once(self) -> None:
        client = Client(self)
        client.tls.dataReceived(b"PING\r\n")
        self.assertTrue(client.socket.disconnecting)

    def test_one_that_sends_much_before_its_turn_is_not_read(self) -> None:
        for _ in range(2):
            Client(self).begins()
        client = Client(self).begins()
        self.assertEqual(client.socket.producerState, "producing")
        client.tls.dataReceived(b"\x16\x03\x01\x00\x01x" * 6000)
        self.assertEqual(client.socket.producerState, "paused")
        for _ in range(3):
            self.turn()
        self.assertTrue(client.socket.disconnecting, "OpenSSL refuses it")
        self.assertEqual(self.queue.waiting, 0)


class RecordTests(HandshakeCase):
    def connected(self) -> Client:
        client = Client(self).begins()
        client.tls.dataReceived(client.speaks())
        self.turn()
        return client

    def test_many_small_records_are_work(self) -> None:
        client, other = self.connected(), self.connected()
        many = [b"x"] * 2 * bounds.WORK_BUDGET * bounds.WORK_PIECES
        client.tls.dataReceived(client.says(*many))
        other.tls.dataReceived(other.says(*many))
        self.assertEqual((len(client.application.pieces), len(other.application.pieces)), (len(many), len(many)))
        client.tls.dataReceived(client.says(*many))
        self.assertEqual(client.socket.bufferSize, bounds.SMALL_READ_BYTES)
        other.tls.dataReceived(other.says(*many))
        self.assertEqual((len(client.application.pieces), len(other.application.pieces)), (2 * len(many), len(many)))
        self.assertEqual((client.socket.producerState, other.socket.producerState), ("producing", "paused"))
        self.turn()
        self.assertEqual((len(other.application.pieces), other.socket.producerState), (2 * len(many), "producing"))

    def test_nothing_is_done_for_one_that_is_gone(self) -> None:
        client = self.connected()
        many = [b"x"] * 2 * bounds.WORK_BUDGET * bounds.WORK_PIECES
        for _ in range(3):
            client.tls.dataReceived(client.says(*many))
        self.assertEqual(self.work.waiting, 1)
        client.tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.work.waiting, 0)

    def test_few_records_are_not_counted(self) -> None:
        client = self.connected()
        for _ in range(1000):
            client.tls.dataReceived(client.says(*[b"x" * 1000] * bounds.TLS_RECORDS))
        self.assertEqual(client.application.work.units, bounds.WORK_BUDGET)
