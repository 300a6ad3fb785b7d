"""`haproxy:` endpoints over real sockets: who is believed, and that nothing stays in between."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from ipaddress import ip_network
from pathlib import Path

from twisted.internet import defer, protocol, reactor, task
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.trial import unittest
from zope.interface import implementer

from redisproxy.listen.endpoints import EndpointError, Listening
from redisproxy.listen.proxy_protocol import NO_HEADER, HeaderReader, is_trusted
from redisproxy.listen.shared_port import adopt
from redisproxy.listen.tls import make

from ..support.certificates import Authority
from ..support.proxy_headers import LOCAL, UNKNOWN, binary, line
from ..support.waiting import LIMIT

LOOPBACK = (ip_network("127.0.0.1"),)
CLIENT = IPv4Address("TCP", "192.0.2.7", 50123)


class TrustTests(unittest.SynchronousTestCase):
    def trusted(self, host: str, *networks: str) -> bool:
        address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 1)
        return is_trusted(address, [ip_network(network) for network in networks])

    def test_networks(self) -> None:
        for host, networks, expected in (
            ("10.1.2.3", ["10.0.0.0/8"], True),
            ("10.1.2.3", ["192.168.0.0/16", "10.1.2.3/32"], True),
            ("11.1.2.3", ["10.0.0.0/8"], False),
            ("10.1.2.3", [], False),
            ("10.1.2.3", ["::/0"], False),
            ("2001:db8::7", ["2001:db8::/32"], True),
            ("2001:db9::7", ["2001:db8::/32"], False),
            ("2001:db8::7", ["0.0.0.0/0"], False),
            # A socket for IPv6 shows clients of IPv4 so.
            ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
            ("::ffff:11.1.2.3", ["10.0.0.0/8"], False),
            ("::ffff:10.1.2.3", ["::ffff:10.0.0.0/104"], True),
            ("fe80::1%eth0", ["fe80::/10"], True),
        ):
            self.assertIs(self.trusted(host, *networks), expected, (host, networks))

    def test_what_has_no_address_is_not_trusted(self) -> None:
        for address in (UNIXAddress(b"/run/s"), UNIXAddress(None), None):
            self.assertIs(is_trusted(address, [ip_network("0.0.0.0/0"), ip_network("::/0")]), False)


@implementer(IHalfCloseableProtocol)
class Client(protocol.Protocol):
    """Notes what happens to it."""

    detail = ""

    def __init__(self, address: IAddress) -> None:
        self.address = address
        self.received = b""
        self.events: list[str] = []
        self.gone = defer.Deferred()

    def connectionMade(self) -> None:
        self.events.append("connected")

    def came_from(self, address: IAddress) -> None:
        self.address = address

    def header_broken(self, why: str) -> None:
        self.events.append(why)
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.transport.write(b"<%b>" % data)

    def readConnectionLost(self) -> None:
        self.events.append("end of file")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        self.events.append("half closed")

    def connectionLost(self, reason: object) -> None:
        self.events.append("lost")
        self.gone.callback(None)


class Clients(protocol.Factory):
    noisy = False

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.refused: list[IAddress] = []
        self.full = False

    def buildProtocol(self, address: IAddress) -> Client | None:
        if self.full:
            return None
        self.clients.append(Client(address))
        return self.clients[-1]

    def untrusted(self, address: IAddress) -> None:
        self.refused.append(address)


class EndpointTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clients = Clients()

    def listen(self, description: str = "haproxy:tcp:0:interface=127.0.0.1", trusted: object = LOOPBACK) -> Listening:
        listening = Listening(reactor, [description], trusted=trusted)
        self.open(listening)
        self.port = listening.addresses[0].port
        return listening

    def open(self, listening: Listening) -> None:
        listening.open(self.clients)
        self.addCleanup(listening.close)
        self.addCleanup(self.end_all)

    async def end_all(self) -> None:
        for client in self.clients.clients:
            if "lost" not in client.events:
                client.transport.abortConnection()
                await client.gone

    def connect(self, source: str = "127.0.0.1", family: int = socket.AF_INET, host: str = "127.0.0.1") -> socket.socket:
        connection = socket.socket(family)
        self.addCleanup(connection.close)
        connection.settimeout(LIMIT)
        if family == socket.AF_INET:
            connection.bind((source, 0))
        connection.connect((host, self.port))
        connection.setblocking(False)
        return connection

    async def some(self, connection: socket.socket) -> bytes:
        while True:
            try:
                return connection.recv(1000)
            except BlockingIOError:
                await task.deferLater(reactor, 0.005)

    async def exactly(self, connection: socket.socket, data: bytes) -> None:
        received = b""
        while len(received) < len(data):
            more = await self.some(connection)
            self.assertTrue(more, received)
            received += more
        self.assertEqual(received, data)

    async def until(self, probe: object) -> None:
        while not probe():
            await task.deferLater(reactor, 0.005)

    async def test_the_header_names_the_client_and_nothing_stays_in_between(self) -> None:
        self.listen()
        for header in (line("192.0.2.7", 50123), binary("192.0.2.7", 50123), binary("192.0.2.7", 50123, bytes(3000))):
            connection = self.connect()
            connection.send(header + b"PING")
            await self.exactly(connection, b"<PING>")
            client = self.clients.clients[-1]
            self.assertEqual((client.address, client.detail), (CLIENT, ""))
            self.assertIsInstance(client.transport, Connection)
            self.assertIs(client.transport.protocol, client)
            connection.send(b"PONG")
            await self.exactly(connection, b"<PONG>")
            connection.shutdown(socket.SHUT_WR)
            self.assertEqual(await self.some(connection), b"")
            await client.gone
            self.assertEqual(client.events, ["connected", "end of file", "lost"])

    async def test_it_comes_byte_by_byte(self) -> None:
        self.listen()
        for header in (line("192.0.2.7", 50123), binary("192.0.2.7", 50123)):
            connection = self.connect()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, byte in enumerate(header):
                connection.send(bytes([byte]))
                if number % 7 == 0:
                    await task.deferLater(reactor, 0.001)
            await self.until(lambda: self.clients.clients and self.clients.clients[-1].address == CLIENT)
            self.assertEqual(self.clients.clients[-1].received, b"")
            connection.send(b"PING")
            await self.exactly(connection, b"<PING>")
            self.clients.clients[-1].address = None

    async def test_a_health_check_keeps_the_load_balancers_own_address(self) -> None:
        self.listen()
        for header in (LOCAL, UNKNOWN):
            connection = self.connect()
            connection.send(header + b"PING")
            await self.exactly(connection, b"<PING>")
            self.assertEqual(self.clients.clients[-1].address, IPv4Address("TCP", *connection.getsockname()))

    async def test_only_the_first_header_is_one(self) -> None:
        """A client behind the load balancer sends one of its own."""
        self.listen()
        connection = self.connect()
        forged = line("203.0.113.9", 1)
        connection.send(line("192.0.2.7", 50123) + forged)
        await self.exactly(connection, b"<" + forged + b">")
        self.assertEqual(self.clients.clients[-1].address, CLIENT)
        connection.send(binary("203.0.113.9", 1))
        await self.until(lambda: b"QUIT" in self.clients.clients[-1].received)
        self.assertEqual(self.clients.clients[-1].address, CLIENT)

    async def test_who_is_not_trusted_is_refused_whatever_it_sends(self) -> None:
        self.listen()
        for sent in (line("192.0.2.7", 50123), binary("127.0.0.1", 1), LOCAL, b"PING\r\n", b""):
            connection = self.connect(source="127.0.0.2")
            with contextlib.suppress(ConnectionError):
                connection.send(sent)
            with contextlib.suppress(ConnectionError):
                self.assertEqual(await self.some(connection), b"")
        self.assertEqual([address.host for address in self.clients.refused], ["127.0.0.2"] * 5)
        self.assertEqual(self.clients.clients, [])

    async def test_who_is_trusted_has_to_send_one(self) -> None:
        self.listen()
        for sent, why in (
            (b"PING\r\n", "no PROXY header came first"),
            (b"\x16\x03\x01", "no PROXY header came first"),
            (b"PROXY nonsense\r\nPING\r\n", "its PROXY header is malformed"),
            (b"PROXY " + b"x" * 101, "its PROXY header does not end within 107 bytes"),
        ):
            connection = self.connect()
            connection.send(sent)
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(await self.some(connection), b"")
            client = self.clients.clients[-1]
            await client.gone
            self.assertEqual((client.events, client.received), (["connected", why, "lost"], b""))

    async def test_it_ends_before_or_within_the_header(self) -> None:
        self.listen()
        for sent, events in (
            (b"", ["connected", "end of file", "lost"]),
            (b"PROXY TCP4", ["connected", "the connection ended within its PROXY header", "lost"]),
        ):
            connection = self.connect()
            connection.send(sent)
            await self.until(lambda: len(self.clients.clients) == 1)
            connection.shutdown(socket.SHUT_WR)
            client = self.clients.clients.pop()
            await client.gone
            self.assertEqual((client.events, client.detail), (events, NO_HEADER))

    async def test_the_client_half_closes_before_the_header_has_come(self) -> None:
        self.listen()
        connection = self.connect()
        await self.until(lambda: self.clients.clients)
        (client,) = self.clients.clients
        client.transport.loseWriteConnection()
        self.assertEqual(await self.some(connection), b"")
        self.assertEqual(client.events, ["connected", "half closed"])
        connection.send(line("192.0.2.7", 50123) + b"PING")
        await self.until(lambda: client.received)
        self.assertEqual(client.address, CLIENT)

    async def test_where_nobody_is_taken_any_more(self) -> None:
        self.listen()
        self.clients.full = True
        connection = self.connect()
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(await self.some(connection), b"")

    async def test_at_a_socket_for_both_versions_of_ip(self) -> None:
        try:
            self.listen("haproxy:tcp6:0")
        except Exception as error:
            raise unittest.SkipTest(f"there is no IPv6 here: {error}") from None
        connection = self.connect()
        connection.send(line("2001:db8::7", 50123) + b"PING")
        await self.exactly(connection, b"<PING>")
        self.assertEqual(self.clients.clients[-1].address, IPv6Address("TCP", "2001:db8::7", 50123))
        refused = self.connect(source="127.0.0.2")
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(await self.some(refused), b"")
        self.assertEqual([address.host for address in self.clients.refused], ["::ffff:127.0.0.2"])

    async def test_at_a_port_of_several_processes(self) -> None:
        descriptions = ["haproxy:tcp:0:interface=127.0.0.1"]
        holder = Listening(reactor, descriptions, trusted=LOOPBACK)
        descriptors = holder.hold()
        self.addCleanup(holder.close)
        holder.listen()
        self.port = holder.addresses[0].port
        self.open(Listening(reactor, descriptions, adopt(map(os.dup, descriptors)), trusted=LOOPBACK))
        connection = self.connect()
        connection.send(binary("192.0.2.7", 50123) + b"PING")
        await self.exactly(connection, b"<PING>")
        (client,) = self.clients.clients
        self.assertEqual(client.address, CLIENT)
        self.assertIs(client.transport.protocol, client)
        refused = self.connect(source="127.0.0.2")
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(await self.some(refused), b"")
        self.assertEqual(len(self.clients.refused), 1)

    async def test_with_tls_behind_the_header(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        authority = Authority(directory)
        certificate, key = authority.issue("proxy", "127.0.0.1")
        listening = Listening(
            reactor,
            [f"haproxy:ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"],
            trusted=LOOPBACK,
        )
        (secured,) = listening.tls
        secured.use(make(secured.files, secured.files.read()))
        self.open(listening)
        self.port = listening.addresses[0].port
        context = ssl.create_default_context(cafile=authority.path)
        for together in (True, False):
            connection = self.connect()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            first = line("192.0.2.7", 50123)
            if not together:
                connection.send(first)
                first = b""
            for step in (client.do_handshake, lambda: client.write(b"PING"), lambda: client.read(100)):  # noqa: B023
                while True:
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer = step()
                        connection.send(first + outgoing.read())
                        break
                    connection.send(first + outgoing.read())
                    first = b""
                    incoming.write(await self.some(connection))
            self.assertEqual(answer, b"<PING>")
            served = self.clients.clients[-1]
            self.assertEqual(served.address, CLIENT)
            self.assertIsInstance(served.transport, TLSMemoryBIOProtocol)
            self.assertIs(served.transport.transport.protocol, served.transport)
        refused = self.connect(source="127.0.0.2")
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(await self.some(refused), b"")
        self.assertEqual(len(self.clients.refused), 1)
        # One that ends before its header, as TLS has no half-closed connections.
        left = self.connect()
        await self.until(lambda: len(self.clients.clients) == 3)
        left.shutdown(socket.SHUT_WR)
        await self.clients.clients[-1].gone

    def test_a_transport_that_does_not_know_its_protocol_is_served_all_the_same(self) -> None:
        client = Client(None)
        reader = HeaderReader(client)
        reader.makeConnection(protocol.Protocol())  # anything

        class Transport:
            def write(self, data: bytes) -> None:
                pass

        client.transport = Transport()
        reader.dataReceived(line("192.0.2.7", 50123))
        reader.dataReceived(b"PING")
        self.assertEqual((client.address, client.received), (CLIENT, b"PING"))


class DescriptionTests(unittest.SynchronousTestCase):
    def test_what_cannot_be_one(self) -> None:
        for description, why in (
            ("haproxy:unix:/run/s", r"; haproxy: takes a tcp:, tcp6: or ssl: endpoint after it"),
            ("haproxy:systemd:domain=INET:index=0", r"; haproxy: takes a tcp:, tcp6: or ssl: endpoint after it"),
            ("haproxy:haproxy:tcp:1", r"; haproxy: takes a tcp:, tcp6: or ssl: endpoint after it"),
            ("haproxy:", r"; haproxy: takes a tcp:, tcp6: or ssl: endpoint after it"),
            ("haproxy:tcp:x", r" \(a text stands where a number is expected\)"),
            ("haproxy:ssl:1:sslmethod=SSLv23_METHOD", r" \(sslmethod must be left out: "),
        ):
            with self.assertRaisesRegex(EndpointError, f"^'{description}'{why}"):
                Listening(reactor, [description], trusted=LOOPBACK)

    def test_without_anybody_to_trust_it_is_refused(self) -> None:
        with self.assertRaisesRegex(EndpointError, r"^'haproxy:tcp:1', which needs --trust-proxy: .* such as 10\.0\.0\.0/8"):
            Listening(reactor, ["haproxy:tcp:1"], trusted=())

    def test_it_is_not_for_the_status_endpoint(self) -> None:
        """Who claims to have connected to loopback would see the metrics."""
        with self.assertRaisesRegex(EndpointError, "^'haproxy:tcp:1', but --status takes no haproxy: endpoint"):
            Listening(reactor, ["haproxy:tcp:1"], option="--status")
