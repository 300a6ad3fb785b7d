"""What a client's connection does with replies that the client does not read."""

from __future__ import annotations

import unittest
from types import SimpleNamespace

from twisted.internet import task
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from redisproxy import bounds
from redisproxy.clients.admission import Admission
from redisproxy.clients.connection import ClientProtocol
from redisproxy.clients.factory import ClientFactory, Timeouts
from redisproxy.ops.access_log import AccessLog
from redisproxy.tenants.memory import FREE
from redisproxy.tenants.model import Snapshot
from redisproxy.upstream.session_backend import SessionBackend

#: No session in these tests needs a Redis.
NO_REDIS = SessionBackend(None, None, None, None, None, True, clock=task.Clock())


@implementer(ITCPTransport)
class SlowSocket(StringTransport):
    """A socket whose client reads only when the test says so."""

    bufferSize = bounds.READ_BYTES
    dataBuffer = b""
    _tempDataLen = 0
    pressed = False
    shut = False
    aborted = False
    producer: IPushProducer | None = None

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.dataBuffer += data
        if len(self.dataBuffer) > self.bufferSize and not self.pressed and self.producer is not None:
            self.pressed = True
            self.producer.pauseProducing()

    def read(self) -> bytes:
        """Returns all that the transport has."""
        data, self.dataBuffer = self.dataBuffer, b""
        if self.pressed and self.producer is not None:
            self.pressed = False
            self.producer.resumeProducing()
        return data

    def read_a_little(self) -> None:
        """Reads so little that the transport is not empty."""
        self.dataBuffer = self.dataBuffer[1:]

    def loseWriteConnection(self) -> None:
        self.shut = True

    def abortConnection(self) -> None:
        self.aborted = True


class BacklogTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        snapshot = SimpleNamespace(listeners=[], snapshot=Snapshot(None, []), wall_clock=self.clock.seconds)
        self.factory = ClientFactory(
            *(self.clock, snapshot, NO_REDIS, Admission(1000, 0), AccessLog(self.clock), Timeouts(60.0)),
            memory=int((10 << 20) / FREE),
        )
        self.memory = self.factory.memory

    def assertNothingLeft(self) -> None:
        self.factory.log_ins.stop()
        self.assertEqual((self.memory.size, self.clock.getDelayedCalls()), (0, []))

    def connect(self) -> ClientProtocol:
        client = self.factory.buildProtocol(None)
        client.makeConnection(SlowSocket())
        client.transport.bufferSize = bounds.READ_BYTES
        return client

    def test_the_transport_gets_the_next_bytes_when_the_client_has_read_what_it_had(self) -> None:
        client = self.connect()
        pieces = [b"%06d" % number * size for number, size in enumerate([20_000, 1, 2, 30_000, 500, 500, 20_000, 3])]
        for piece in pieces:
            client.write(piece)
        self.assertTrue(client.session.replies.slow)
        self.assertEqual(client.transport.dataBuffer, pieces[0])
        self.assertEqual(self.memory.size, sum(map(len, pieces)))
        read = b""
        sizes = []
        while client.session.replies.slow:
            read += client.transport.read()
            sizes.append(self.memory.size)
        read += client.transport.read()
        self.assertEqual(read, b"".join(pieces))
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertEqual(self.memory.size, 0)
        client.write(b"next")
        self.assertEqual(client.transport.read(), b"next")

    def test_it_is_closed_after_the_client_has_read_everything(self) -> None:
        """However long that takes, as long as it reads."""
        client = self.connect()
        for _ in range(5):
            client.write(b"x" * 100_000)
        client.close("quit")
        size = 0
        for _ in range(5):
            self.clock.advance(0.9 * bounds.CLOSE_SECONDS)
            self.assertFalse(client.transport.shut or client.transport.aborted)
            size += len(client.transport.read())
        self.assertEqual((size, client.transport.shut), (500_000, True))

    def test_one_that_reads_very_slowly_is_not_cut_off(self) -> None:
        """The transport alone has more than it reads in that time."""
        client = self.connect()
        client.write(b"x" * 500_000)
        client.close("quit")
        for _ in range(5):
            client.transport.read_a_little()
            self.clock.advance(bounds.CLOSE_SECONDS)
            self.assertFalse(client.transport.aborted)
        self.clock.advance(bounds.CLOSE_SECONDS)
        self.assertTrue(client.transport.aborted)
        client.connectionLost()
        self.assertNothingLeft()

    def test_one_that_reads_nothing_is_cut_off(self) -> None:
        client = self.connect()
        for _ in range(5):
            client.write(b"x" * 100_000)
        client.close("quit")
        client.transport.read()
        self.clock.advance(bounds.CLOSE_SECONDS)
        self.assertTrue(client.transport.aborted)
        client.connectionLost()
        self.assertNothingLeft()

    def test_what_a_revoked_client_reads_gives_it_no_more_time(self) -> None:
        client = self.connect()
        for _ in range(5):
            client.write(b"x" * 100_000)
        client.close("revoked")
        for _ in range(3):
            self.clock.advance(bounds.CLOSE_SECONDS / 3)
            client.transport.read()
        self.assertTrue(client.transport.aborted)

    def test_without_memory_a_client_that_reads_something_stays(self) -> None:
        clients = [self.connect() for _ in range(2)]
        for client in clients:
            client.session.usage.belongs_to(self.memory, "blue")
            for _ in range(90):
                client.write(b"x" * 65536 * (1 + (client is clients[0])))
        idle = self.connect()
        self.clock.advance(0)
        self.assertEqual([client.session.usage.closing for client in clients], [True, False])
        self.assertTrue(clients[0].transport.aborted)
        clients[0].connectionLost()
        reader = clients[1]
        while not reader.session.usage.stopped:
            reader.write(b"x" * 65536)
        for _ in range(3):
            self.clock.advance(0.9 * bounds.SLOW_READER_SECONDS)
            reader.transport.read()
        while not reader.session.usage.stopped:
            reader.write(b"x" * 65536)
        for _ in range(3):
            self.clock.advance(bounds.SLOW_READER_SECONDS)
            reader.transport.read_a_little()
        self.assertFalse(reader.transport.aborted)
        while not reader.session.usage.stopped:
            reader.write(b"x" * 65536)
        self.clock.pump([bounds.SLOW_READER_SECONDS] * 3)
        self.assertTrue(reader.transport.aborted)
        for client in (reader, idle):
            client.connectionLost()
        self.assertNothingLeft()
        self.assertEqual(self.factory.counts.ended["out-of-memory"], 2)
