"""Tests ports that are bound at the start and listen later, over real sockets."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import tempfile
from ipaddress import ip_network
from pathlib import Path

from twisted.internet import defer, endpoints, protocol, reactor, task
from twisted.python.systemd import ListenFDs
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.listen.endpoints import ListenError, Listening
from redisproxy.listen.shared_port import adopt
from redisproxy.listen.tls import make

from ..support.certificates import Authority
from ..support.proxy_headers import LOCAL
from ..support.servers import free_port
from ..support.waiting import LIMIT

#: Whose PROXY headers are believed.
LOOPBACK = (ip_network("127.0.0.1"),)


class Greeter(protocol.Protocol):
    def connectionMade(self) -> None:
        self.factory.newest = self.transport.socket.dup()
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Greeters(protocol.Factory):
    protocol = Greeter
    noisy = False
    asked = 0
    #: the socket of the newest connection
    newest: socket.socket

    def buildProtocol(self, addr: object) -> protocol.Protocol:
        self.asked += 1
        return super().buildProtocol(addr)


class BoundTests(unittest.TestCase):
    def setUp(self) -> None:
        self.factory = Greeters()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def bind(self, *descriptions: str) -> Listening:
        listening = Listening(reactor, descriptions, trusted=LOOPBACK)
        for secured in listening.tls:
            secured.use(make(secured.files, secured.files.read()))
        self.addCleanup(listening.close)
        listening.bind(self.factory)
        return listening

    def connect(self, address: object) -> socket.socket:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        client = socket.socket(family)
        self.addCleanup(client.close)
        client.settimeout(LIMIT)
        client.connect(address)
        return client

    async def received(self, client: socket.socket) -> bytes:
        client.setblocking(False)
        while True:
            try:
                return client.recv(100)
            except BlockingIOError:
                await task.deferLater(reactor, 0.005)

    async def test_accepted_connections_are_probed_when_they_are_idle(self) -> None:
        path = str(self.directory / "s")
        listening = Listening(
            reactor, ["tcp:0:interface=127.0.0.1", r"tcp6:0:interface=\:\:1", f"unix:{path}"], keepalive=90
        )
        self.addCleanup(listening.close)
        listening.bind(self.factory)
        listening.listen()
        options = socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT
        for number, port in enumerate(listening.ports[:2]):
            client = self.connect(("127.0.0.1" if number == 0 else "::1", port.getHost().port))
            await self.received(client)
            found = [self.factory.newest.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            self.assertEqual(found, [90, 30, 3])
            self.assertTrue(self.factory.newest.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            # and small replies are not delayed
            self.assertTrue(self.factory.newest.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        self.assertEqual(await self.received(self.connect(path)), b"hello")

    async def test_it_refuses_until_it_listens(self) -> None:
        path = str(self.directory / "s")
        listening = self.bind(
            "tcp:0:interface=127.0.0.1", r"tcp6:0:interface=\:\:1", "haproxy:tcp:0:interface=127.0.0.1", f"unix:{path}"
        )
        plain, six, proxied = [(one.host, one.port) for one in listening.addresses[:3]]
        for address in (plain, six, proxied, path):
            self.assertRaises(ConnectionRefusedError, self.connect, address)
        # The reactor must not see the sockets: epoll reports one that does not listen as closed.
        self.assertFalse(set(listening.ports) & set(reactor.getReaders()))
        await task.deferLater(reactor, 0.01)
        listening.listen()
        self.assertEqual([(one.host, one.port) for one in listening.addresses[:3]], [plain, six, proxied])
        for address in (plain, six, path):
            self.assertEqual(await self.received(self.connect(address)), b"hello")
        client = self.connect(proxied)
        client.send(LOCAL)
        self.assertEqual(await self.received(client), b"hello")

    def test_many_that_connect_at_once_are_accepted_in_several_turns(self) -> None:
        listening = self.bind("tcp:0:interface=127.0.0.1")
        listening.listen()
        (port,) = listening.ports
        address = listening.addresses[0]
        waiting = 3 * bounds.ACCEPTED_PER_TURN + 1
        for _ in range(waiting):
            self.connect((address.host, address.port))
        accepted = []
        for _ in range(5):
            before = self.factory.asked
            port.doRead()
            accepted.append(self.factory.asked - before)
        self.assertEqual(accepted, [bounds.ACCEPTED_PER_TURN] * 3 + [1, 0])

    async def test_with_tls(self) -> None:
        certificate, key = Authority(self.directory).issue("proxy", "127.0.0.1")
        listening = self.bind(f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}")
        address = listening.addresses[0]
        self.assertRaises(ConnectionRefusedError, self.connect, (address.host, address.port))
        listening.listen()
        client = self.connect((address.host, address.port))
        hello = ssl.MemoryBIO()
        handshake = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
        self.assertRaises(ssl.SSLWantReadError, handshake.do_handshake)
        client.send(hello.read())
        answer = await self.received(client)
        self.assertEqual(answer[:1], b"\x16", "the proxy's part of the handshake")

    async def test_a_queue_as_long_as_that_of_a_port_that_listens_at_once(self) -> None:
        listening = self.bind("tcp:0:interface=127.0.0.1:backlog=3")
        asked = []
        self.patch(socket.socket, "listen", lambda _, backlog: asked.append(backlog))
        listening.listen()
        self.assertEqual(asked, [3])

    async def test_a_path_has_its_mode_and_its_lock_from_the_start(self) -> None:
        path = self.directory / "s"
        listening = self.bind(f"unix:{path}:mode=640")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)
        with self.assertRaisesRegex(ListenError, f"cannot listen on unix:{path}: Cannot acquire lock; choose another"):
            self.bind(f"unix:{path}")
        await listening.close()
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_one_that_is_closed_before_it_listens_is_free(self) -> None:
        listening = self.bind("tcp:0:interface=127.0.0.1")
        port = listening.addresses[0].port
        await listening.close()
        listening.listen()
        self.assertEqual(listening.ports, [])
        self.assertRaises(ConnectionRefusedError, self.connect, ("127.0.0.1", port))
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))

    async def test_a_port_at_which_another_listens_is_an_error_at_the_start(self) -> None:
        listening = self.bind("tcp:0:interface=127.0.0.1")
        listening.listen()
        description = f"tcp:{listening.addresses[0].port}:interface=127.0.0.1"
        for way in (lambda other: other.bind(self.factory), Listening.hold):
            with self.assertRaisesRegex(ListenError, f"cannot listen on {description}: .*Address already in use"):
                way(Listening(reactor, [description]))

    async def test_of_two_that_are_bound_one_listens_and_the_other_says_so(self) -> None:
        """SO_REUSEADDR, which a restart needs, lets both bind. Only `listen` finds the conflict."""
        description = f"tcp:{free_port()}:interface=127.0.0.1"
        first, second = self.bind(description), self.bind(description)
        second.listen()
        with self.assertRaisesRegex(
            ListenError, f"cannot listen on {description}: .*Address already in use; choose another endpoint with --listen"
        ):
            first.listen()
        address = second.addresses[0]
        self.assertEqual(await self.received(self.connect((address.host, address.port))), b"hello")

    async def test_a_socket_of_systemd_listens_and_its_clients_wait(self) -> None:
        with socket.socket() as given:
            given.bind(("127.0.0.1", 0))
            given.listen()
            address = given.getsockname()
            # The endpoint closes the descriptor that it was given.
            self.patch(endpoints._SystemdParser, "_sddaemon", ListenFDs([os.dup(given.fileno())], ["a"]))
        listening = self.bind("systemd:domain=INET:name=a")
        client = self.connect(address)
        await task.deferLater(reactor, 0.02)
        self.assertEqual(self.factory.asked, 0)
        listening.listen()
        self.assertEqual(await self.received(client), b"hello")

    @defer.inlineCallbacks
    def test_the_parent_of_several_processes_listens_and_accepts_nothing(self):
        description = "tcp:0:interface=127.0.0.1"
        holder = Listening(reactor, [description])
        descriptors = holder.hold()
        self.addCleanup(holder.close)
        address = ("127.0.0.1", holder.addresses[0].port)
        self.assertRaises(ConnectionRefusedError, self.connect, address)
        inherited = adopt([os.dup(descriptors[0])])
        holder.listen()
        client = self.connect(address)
        yield task.deferLater(reactor, 0.02)
        self.assertFalse(set(holder.ports) & set(reactor.getReaders()))
        worker = Listening(reactor, [description], inherited)
        worker.open(self.factory)
        self.addCleanup(worker.close)
        self.assertEqual((yield defer.Deferred.fromCoroutine(self.received(client))), b"hello")
