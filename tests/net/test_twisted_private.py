"""Compares `write_at_once` with Twisted's own `write`: both run the same sequences on real sockets,
with the real reactor.
"""

from __future__ import annotations

import gc
import os
import random
import select
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from twisted.internet import defer, reactor, ssl, task
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer, IPushProducer
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.trial import unittest
from zope.interface import implementer

from redisproxy.net.twisted_private import close_if_written, unacknowledged, write_at_once

from ..support.certificates import Authority
from ..support.waiting import LIMIT

KINDS = ("tcp server", "tcp client", "unix server", "unix client")


@implementer(IPushProducer)
class Recorder(Protocol):
    """Records what its transport calls, as a protocol and as a streaming producer."""

    def __init__(self) -> None:
        self.made: defer.Deferred = defer.Deferred()
        self.lost: defer.Deferred = defer.Deferred()
        self.events: list[str] = []
        self.received = b""
        self.paused = False
        self.leaving = False
        self.writing = False

    def connectionMade(self) -> None:
        self.made.callback(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason) -> None:
        assert not self.writing, "from within a write"
        self.events.append(reason.type.__name__)
        self.lost.callback(None)

    def pauseProducing(self) -> None:
        assert queued(self.transport) > self.transport.bufferSize
        self.paused = True

    def resumeProducing(self) -> None:
        assert not queued(self.transport)
        self.paused = False
        if self.leaving:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.paused = False
        self.events.append("stopProducing")


@implementer(IHalfCloseableProtocol)
class HalfCloseableRecorder(Recorder):
    def readConnectionLost(self) -> None:
        self.events.append("readConnectionLost")

    def writeConnectionLost(self) -> None:
        self.events.append("writeConnectionLost")


@implementer(IPullProducer)
class Pieces:
    """A pull producer that writes some pieces."""

    def __init__(self, transport, write: Callable[[bytes], None], pieces: list[bytes]) -> None:
        self._transport, self._write, self._pieces = transport, write, pieces
        self.stopped = False

    def resumeProducing(self) -> None:
        if self._pieces:
            self._write(self._pieces.pop(0))
        else:
            self.stopProducing()
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


def queued(transport: Connection) -> int:
    """Bytes that are queued, counted as Twisted does when it pauses a producer."""
    return len(transport.dataBuffer) + transport._tempDataLen


def turn() -> defer.Deferred:
    """Fires after one turn of the reactor."""
    return task.deferLater(reactor, 0)


@defer.inlineCallbacks
def until(probe: Callable[[], object]):
    """Waits until the probe is true, or trial's time limit is over."""
    while not probe():
        yield turn()


def take(peer: socket.socket, count: int = 1 << 20) -> bytes | None:
    """Returns what has arrived at the peer: b"" at the end, None if nothing has arrived yet."""
    try:
        return peer.recv(count)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def take_now(peer: socket.socket) -> bytes:
    """Returns what arrives at the peer without a turn of the reactor."""
    select.select([peer], [], [], LIMIT)
    return peer.recv(1 << 20)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@defer.inlineCallbacks
def take_all(peer: socket.socket, count: int | None = None):
    """Returns so many bytes, or all until the end if `count` is None."""
    taken = bytearray()
    while count is None or len(taken) < count:
        piece = take(peer, 1 << 20 if count is None else count - len(taken))
        if piece is None:
            yield turn()
        elif piece:
            taken += piece
        else:
            break
    return bytes(taken)


class TransportTestCase(unittest.TestCase):
    @defer.inlineCallbacks
    def connect(self, kind: str = "tcp server", protocol: Recorder | None = None):
        """Returns (protocol, peer). The protocol is connected to one of Twisted's transports. The
        peer is a plain socket that does not block.
        """
        protocol = protocol or HalfCloseableRecorder()
        family, side = kind.split()
        if side == "server":
            factory = Factory.forProtocol(lambda: protocol)
            if family == "unix":
                ours, peer = socket.socketpair()
            else:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    ours = socket.create_connection(listener.getsockname())
                    peer, _ = listener.accept()
            with ours:
                ours.setblocking(False)
                reactor.adoptStreamConnection(ours.fileno(), ours.family, factory)
        else:
            factory = ClientFactory.forProtocol(lambda: protocol)
            factory.noisy = False
            listener = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET)
            with listener:
                if family == "unix":
                    path = self.mktemp()
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    listener.bind(path)
                    listener.listen()
                    reactor.connectUNIX(path, factory)
                else:
                    listener.bind(("127.0.0.1", 0))
                    listener.listen()
                    reactor.connectTCP(*listener.getsockname(), factory)
                yield protocol.made
                peer, _ = listener.accept()
        peer.setblocking(False)
        self.addCleanup(self.end, protocol, peer)
        return protocol, peer

    @defer.inlineCallbacks
    def end(self, protocol: Recorder, peer: socket.socket):
        peer.close()
        if protocol.transport.connected:
            protocol.transport.abortConnection()
            yield protocol.lost
        self.assertNotIn(protocol.transport, reactor.getReaders() + reactor.getWriters())


class Sequence:
    """Plays what one seed gives on a transport, and keeps what was written and what arrived."""

    def __init__(self, lot: random.Random, protocol: Recorder, peer: socket.socket, write: Callable[[bytes], None]) -> None:
        self.lot, self.protocol, self.peer = lot, protocol, peer
        self.transport = protocol.transport
        self._write = write
        self.written, self.got = bytearray(), bytearray()

    def write(self, data: bytes) -> None:
        self.protocol.writing = True
        try:
            self._write(data)
        finally:
            self.protocol.writing = False
        if data and self.transport.producer is self.protocol:
            assert self.protocol.paused or queued(self.transport) <= self.transport.bufferSize

    def piece(self) -> bytes:
        data = self.lot.randbytes(self.lot.choice([0, 1, 1, 100, 100, 5_000, 70_000, 131_072, 131_073, 300_000]))
        if self.lot.random() < 0.02:
            data *= 8
        self.written += data
        return data

    @defer.inlineCallbacks
    def take(self, share: float = 1.0):
        """The peer reads a part of what is on its way, from 0 to 1."""
        self.got += yield take_all(self.peer, int(share * (len(self.written) - len(self.got))))
        if share == 1.0:
            yield until(lambda: not self.protocol.paused)

    @defer.inlineCallbacks
    def take_the_rest(self):
        self.got += yield take_all(self.peer)
        assert self.got == self.written

    @defer.inlineCallbacks
    def step(self):
        step = self.lot.randrange(8)
        if step < 3:
            self.write(self.piece())
        elif step == 3:
            yield self.take(self.lot.random())
        elif step == 4:
            yield turn()
        elif step == 5 and self.transport.producer is None:
            self.transport.registerProducer(self.protocol, True)
        elif step == 5:
            self.protocol.paused = False
            self.transport.unregisterProducer()
        elif step == 6 and self.transport.producer is None:
            pieces = Pieces(self.transport, self.write, [data for _ in range(5) if (data := self.piece())])
            self.transport.registerProducer(pieces, False)
            while not pieces.stopped:
                self.got += take(self.peer) or b""
                yield turn()
        elif step == 7:
            self.protocol.received = b""
            self.peer.send(b"ping")
            yield until(lambda: self.protocol.received == b"ping")

    # The ways to end. Each writes once more, and some also write when it is too late.

    @defer.inlineCallbacks
    def lose(self):
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self.write(self.piece())  # is still sent, because this is the same turn
        yield self.take_the_rest()
        yield self.protocol.lost
        self.write(b"for nobody")

    @defer.inlineCallbacks
    def lose_with_producer(self):
        if self.transport.producer is None:
            self.transport.registerProducer(self.protocol, True)
        self.write(self.piece())
        self.protocol.leaving = True
        self.transport.loseConnection()
        yield self.take_the_rest()
        yield self.protocol.lost
        # A paused producer unregisters itself before the end.
        self.protocol.events = [event for event in self.protocol.events if event != "stopProducing"]

    @defer.inlineCallbacks
    def lose_write(self):
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        self.write(self.piece())
        yield self.take_the_rest()
        self.write(b"for nobody")
        self.peer.send(b"last words")
        self.peer.shutdown(socket.SHUT_WR)
        yield until(lambda: self.protocol.received.endswith(b"last words"))
        if isinstance(self.protocol, HalfCloseableRecorder):
            yield until(lambda: "readConnectionLost" in self.protocol.events)
        self.write(b"for nobody")
        self.transport.loseConnection()
        yield self.take_the_rest()

    @defer.inlineCallbacks
    def abort(self):
        while data := take(self.peer):
            self.got += data
        self.transport.abortConnection()
        self.write(self.lot.randbytes(100))
        self.got += yield take_all(self.peer)
        assert self.written.startswith(self.got)
        self.got.clear()  # how much was sent before is not specified

    @defer.inlineCallbacks
    def peer_closes(self):
        yield self.take()
        self.transport.unregisterProducer()
        self.peer.shutdown(socket.SHUT_WR)
        if isinstance(self.protocol, HalfCloseableRecorder):
            yield until(lambda: self.protocol.events)
            self.write(self.piece())
            yield self.take()
            self.transport.loseConnection()
        yield self.take_the_rest()

    @defer.inlineCallbacks
    def peer_resets(self):
        self.transport.unregisterProducer()
        if self.lot.random() < 0.5:
            self.transport.pauseProducing()
        reset(self.peer)
        for _ in range(3):
            self.write(self.lot.randbytes(1_000))
        yield self.protocol.lost
        self.write(b"for nobody")
        self.got.clear()
        # A socket reports a reset once. If a write got the report, the next read sees an ordinary
        # end.
        self.protocol.events = ["lost" for event in self.protocol.events if event in ("ConnectionLost", "ConnectionDone")]

    ENDINGS = (lose, lose_with_producer, lose_write, abort, peer_closes, peer_resets)


class SequenceTests(TransportTestCase):
    """Plays random sequences, each with Twisted's own `write` and with `write_at_once`."""

    @defer.inlineCallbacks
    def play(self, seed: int, kind: str, choose: Callable[[Connection], Callable[[bytes], None]]):
        """Returns (what was written, what the peer got of it, the protocol's events)."""
        lot = random.Random(seed)
        protocol, peer = yield self.connect(kind, lot.choice([Recorder, HalfCloseableRecorder])())
        transport = protocol.transport
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, lot.choice([1 << 17, 1 << 19]))
        transport.bufferSize = lot.choice([1 << 10, 1 << 16])
        sequence = Sequence(lot, protocol, peer, choose(transport))
        for _ in range(lot.randrange(40)):
            yield sequence.step()
        if lot.random() < 0.5:
            yield sequence.take()
        yield lot.choice(Sequence.ENDINGS)(sequence)
        peer.close()
        yield protocol.lost
        return sequence.written, sequence.got, protocol.events

    @defer.inlineCallbacks
    def test_the_same_comes_of_it(self):
        yield turn()  # after this the reactor has opened its own descriptors
        gc.collect()  # or those that earlier tests left would be closed meanwhile
        before = len(list(Path("/dev/fd").iterdir()))
        for kind in KINDS:
            for seed in range(40):
                plain = yield self.play(seed, kind, lambda transport: transport.write)
                at_once = yield self.play(seed, kind, write_at_once)
                self.assertTrue(at_once == plain, f"{kind}, seed {seed}: {at_once[2]}; Twisted's own: {plain[2]}")
        gc.collect()
        self.assertLessEqual(len(list(Path("/dev/fd").iterdir())), before)


class WriteAtOnceTests(TransportTestCase):
    @defer.inlineCallbacks
    def test_it_is_sent_when_write_returns(self):
        for kind in KINDS:
            protocol, peer = yield self.connect(kind)
            write_at_once(protocol.transport)(b"at once")
            self.assertEqual(take_now(peer), b"at once", kind)
            self.assertNotIn(protocol.transport, reactor.getWriters())

    @defer.inlineCallbacks
    def test_what_the_kernel_does_not_take_is_queued_and_pauses_the_producer(self):
        for kind in KINDS:
            protocol, peer = yield self.connect(kind)
            protocol.transport.registerProducer(protocol, True)
            write = write_at_once(protocol.transport)
            written = b""
            while not protocol.paused:
                self.assertLess(len(written), 100_000_000)
                data = random.randbytes(100_000)
                written += data
                write(data)
            self.assertIn(protocol.transport, reactor.getWriters())
            write(b"behind it")
            got = yield take_all(peer, len(written) + 9)
            self.assertTrue(got == written + b"behind it")
            yield until(lambda: not protocol.paused)  # noqa: B023
            write(b"and at once again")
            self.assertEqual(take_now(peer), b"and at once again")

    @defer.inlineCallbacks
    def test_a_pause_outlives_its_producer_no_longer_than_with_twisted(self):
        protocol, peer = yield self.connect()
        transport, count = protocol.transport, 0
        transport.registerProducer(protocol, True)
        write = write_at_once(transport)
        while not protocol.paused:
            write(bytes(100_000))
            count += 100_000
        transport.unregisterProducer()
        yield take_all(peer, count)
        yield until(lambda: transport not in reactor.getWriters())
        transport.registerProducer(protocol, True)
        write(b"x")
        yield take_all(peer, 1)
        yield until(lambda: transport not in reactor.getWriters())
        transport.loseConnection()  # would wait for a producer that Twisted believes is paused
        yield protocol.lost

    @defer.inlineCallbacks
    def test_an_aborted_connection_sends_no_more(self):
        for kind in KINDS:
            protocol, peer = yield self.connect(kind)
            protocol.transport.abortConnection()
            write_at_once(protocol.transport)(b"too late")
            self.assertIsNone(take(peer))

    @defer.inlineCallbacks
    def test_what_the_peer_said_last_is_read_although_a_write_fails(self):
        protocol, peer = yield self.connect()
        peer.send(b"-ERR max number of clients reached\r\n")
        reset(peer)
        write_at_once(protocol.transport)(b"PING\r\n")
        yield protocol.lost
        self.assertEqual(protocol.received, b"-ERR max number of clients reached\r\n")
        self.assertEqual(protocol.events, ["ConnectionLost"])

    @defer.inlineCallbacks
    def test_only_bytes(self):
        protocol, peer = yield self.connect()
        write = write_at_once(protocol.transport)
        for data in ("text", bytearray(b"x"), memoryview(b"x"), None):
            self.assertRaises(TypeError, write, data)
        write(b"")
        self.assertIsNone(take(peer))

    @defer.inlineCallbacks
    def test_a_huge_piece_is_not_copied(self):
        protocol, peer = yield self.connect()
        data = random.Random(0).randbytes(1 << 20) * 64
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        write_at_once(protocol.transport)(data)
        self.assertLess(tracemalloc.get_traced_memory()[1], 1 << 20)
        tracemalloc.stop()
        got = yield take_all(peer, len(data))
        self.assertTrue(got == data)

    @defer.inlineCallbacks
    def test_a_descriptor_goes_with_its_byte(self):
        protocol, peer = yield self.connect("unix server")
        with Path(os.devnull).open("rb") as sent:
            protocol.transport.sendFileDescriptor(sent.fileno())
            write_at_once(protocol.transport)(b"x")
            data, descriptors, *_ = socket.recv_fds(peer, 10, 1)
            self.assertEqual(data, b"x")
            self.assertTrue(os.path.sameopenfile(sent.fileno(), descriptors[0]))
            os.close(descriptors[0])


class Closer(HalfCloseableRecorder):
    """Closes when its peer sends no more, in the same turn if possible."""

    closed: bool | None = None

    def readConnectionLost(self) -> None:
        super().readConnectionLost()
        self.closed = close_if_written(self.transport)


class CloseTests(TransportTestCase):
    @defer.inlineCallbacks
    def test_when_all_is_written_it_is_closed_within_the_turn_and_the_peer_gets_it(self):
        for kind in KINDS:
            protocol, peer = yield self.connect(kind, Closer())
            write_at_once(protocol.transport)(b"the last words")
            peer.shutdown(socket.SHUT_WR)
            yield protocol.lost
            self.assertEqual((yield take_all(peer)), b"the last words")
            self.assertEqual(protocol.events, ["readConnectionLost", "ConnectionDone"])
            yield turn()  # `lost` fires before the call returns
            self.assertIs(protocol.closed, True)
            self.assertNotIn(protocol.transport, reactor.getReaders() + reactor.getWriters())

    @defer.inlineCallbacks
    def test_what_is_queued_is_written_first(self):
        for kind in KINDS:
            protocol, peer = yield self.connect(kind, Closer())
            data = random.randbytes(1 << 24)
            write_at_once(protocol.transport)(data)
            peer.shutdown(socket.SHUT_WR)
            yield until(lambda: protocol.closed is not None)  # noqa: B023
            self.assertIs(protocol.closed, False)
            protocol.transport.loseConnection()
            self.assertTrue((yield take_all(peer)) == data)
            yield protocol.lost


class UnacknowledgedTests(TransportTestCase):
    @defer.inlineCallbacks
    def test_it_falls_while_the_peer_reads(self):
        """Also where the kernel alone has all of it, so that Twisted notices nothing."""
        for kind in KINDS:
            protocol, peer = yield self.connect(kind)
            yield protocol.made
            write, size = write_at_once(protocol.transport), 0
            while not queued(protocol.transport):
                write(b"x" * 4096)
                size += 4096
            seen, taken = [unacknowledged(protocol.transport)], 0
            self.assertGreater(seen[0], queued(protocol.transport))
            while taken < size:
                taken += len(take(peer, 4096) or b"")
                yield turn()
                seen.append(unacknowledged(protocol.transport))
            yield until(lambda protocol=protocol: not unacknowledged(protocol.transport))
            self.assertGreater(len(set(seen)), 4)

    def test_where_that_is_unknown(self) -> None:
        self.assertEqual(unacknowledged(StringTransport()), 0)


class OtherTransportsTests(TransportTestCase):
    """Transports other than Twisted's own sockets keep their own `write`."""

    def test_in_tests(self) -> None:
        transport = StringTransport()
        self.assertEqual(write_at_once(transport), transport.write)
        self.assertFalse(close_if_written(transport))
        self.assertFalse(transport.disconnecting)

    def test_a_twisted_that_keeps_its_queue_elsewhere(self) -> None:
        transport = Connection.__new__(Connection)
        self.assertEqual(write_at_once(transport), transport.write)
        self.assertFalse(close_if_written(transport))

    def certificates(self) -> tuple[ssl.PrivateCertificate, object]:
        """Returns (the server's certificate, the options of a client)."""
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        authority = Authority(directory)
        certificate, key = authority.issue("server", "localhost")
        return (
            ssl.PrivateCertificate.loadPEM(key.read_bytes() + certificate.read_bytes()),
            ssl.optionsForClientTLS("localhost", ssl.Certificate.loadPEM(authority.path.read_bytes())),
        )

    @defer.inlineCallbacks
    def test_tls(self):
        certificate, options = self.certificates()
        server, client = Recorder(), Recorder()
        port = reactor.listenSSL(0, Factory.forProtocol(lambda: server), certificate.options(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        endpoint = wrapClientTLS(options, HostnameEndpoint(reactor, "127.0.0.1", port.getHost().port))
        yield endpoint.connect(Factory.forProtocol(lambda: client))
        yield server.made
        for one, other in ((server, client), (client, server)):
            write = write_at_once(one.transport)
            self.assertEqual(write, one.transport.write)
            data = random.Random(0).randbytes(1 << 20)
            write(data)
            yield until(lambda: len(other.received) == len(data))  # noqa: B023
            self.assertTrue(other.received == data)
            self.assertFalse(close_if_written(one.transport))
        client.transport.loseConnection()
        yield defer.gatherResults([server.lost, client.lost])

    @defer.inlineCallbacks
    def test_nothing_passes_by_a_tls_that_starts_later(self):
        certificate, options = self.certificates()
        server, socket_of_client = yield self.connect()
        client = Recorder()
        reactor.adoptStreamConnection(socket_of_client.fileno(), socket.AF_INET, Factory.forProtocol(lambda: client))
        socket_of_client.close()
        write = write_at_once(server.transport)
        write(b"in the clear")
        yield until(lambda: client.received)
        server.transport.startTLS(certificate.options())
        # Twisted adopted this socket as a server's
        client.transport.startTLS(options, normal=False)
        write(b", a secret")
        yield until(lambda: client.received == b"in the clear, a secret")
        client.transport.loseConnection()
        yield defer.gatherResults([server.lost, client.lost])
