"""Tests ports that several processes share. Here one process has all of them, over real sockets."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from twisted.internet import defer, protocol, reactor, task
from twisted.trial import unittest

from redisproxy.listen import shared_port
from redisproxy.listen.endpoints import EndpointError, ListenError, Listening
from redisproxy.listen.shared_port import adopt

from ..support.waiting import LIMIT


class Greeter(protocol.Protocol):
    def connectionMade(self) -> None:
        self.factory.connections.append(self)
        self.transport.write(self.factory.word)


class GreeterFactory(protocol.Factory):
    protocol = Greeter
    noisy = False

    def __init__(self, word: bytes) -> None:
        self.word = word
        self.connections: list[Greeter] = []


class SharedTests(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = f"{directory.name}/s"
        # The answers of `may_take`, before and after the other processes have had their chance. The
        # last answer repeats.
        self.answers = [True]
        self.asks: list[bool] = []

    def asked(self, waited: bool) -> bool:
        self.asks.append(waited)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def hold(self, *descriptions: str) -> tuple[Listening, list[int]]:
        holder = Listening(reactor, descriptions)
        descriptors = holder.hold()
        self.addCleanup(holder.close)
        holder.listen()
        return holder, descriptors

    def serve(self, word: bytes, descriptions: list[str], descriptors: list[int]) -> tuple[Listening, GreeterFactory]:
        """Serves like another process that inherited the descriptors."""
        factory = GreeterFactory(word)
        shared = Listening(reactor, descriptions, adopt(map(os.dup, descriptors)), self.asked)
        shared.open(factory)
        self.addCleanup(shared.close)
        self.addCleanup(lambda: [connection.transport.abortConnection() for connection in factory.connections])
        return shared, factory

    def connect(self, address: object) -> socket.socket:
        client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.addCleanup(client.close)
        client.settimeout(LIMIT)
        client.connect(address)
        return client

    async def greeted(self, client: socket.socket) -> bytes:
        client.setblocking(False)
        while True:
            try:
                return client.recv(100)
            except BlockingIOError:
                await task.deferLater(reactor, 0.005)

    @defer.inlineCallbacks
    def test_each_accepts_until_the_last_has_closed(self):
        descriptions = ["tcp:0:interface=127.0.0.1", f"unix:{self.path}"]
        holder, descriptors = self.hold(*descriptions)
        addresses = [("127.0.0.1", holder.addresses[0].port), self.path]
        waits = self.connect(addresses[0])  # before any process accepts
        first, _ = self.serve(b"first", descriptions, descriptors)
        self.assertEqual((yield defer.Deferred.fromCoroutine(self.greeted(waits))), b"first")
        second, _ = self.serve(b"second", descriptions, descriptors)
        yield first.close()
        yield holder.close()
        self.assertFalse(Path(self.path).exists(), "it is the holder's to remove")
        client = self.connect(addresses[0])
        self.assertEqual((yield defer.Deferred.fromCoroutine(self.greeted(client))), b"second")
        yield second.close()
        self.assertRaises(ConnectionRefusedError, self.connect, addresses[0])

    @defer.inlineCallbacks
    def test_a_unix_socket_outlives_a_process_that_ends(self):
        descriptions = [f"unix:{self.path}"]
        _, descriptors = self.hold(*descriptions)
        first, _ = self.serve(b"first", descriptions, descriptors)
        self.serve(b"second", descriptions, descriptors)
        yield first.close()
        client = self.connect(self.path)
        self.assertEqual((yield defer.Deferred.fromCoroutine(self.greeted(client))), b"second")

    @defer.inlineCallbacks
    def test_who_should_not_take_a_connection_does_if_nobody_else_has(self):
        descriptions = ["tcp:0:interface=127.0.0.1"]
        holder, descriptors = self.hold(*descriptions)
        _, factory = self.serve(b"first", descriptions, descriptors)
        for number in range(3):
            self.answers, self.asks = [False, True], []
            client = self.connect(("127.0.0.1", holder.addresses[0].port))
            self.assertEqual((yield defer.Deferred.fromCoroutine(self.greeted(client))), b"first")
            self.assertEqual(len(factory.connections), number + 1)
            self.assertEqual(self.asks[:2], [False, True])

    @defer.inlineCallbacks
    def test_who_has_no_place_leaves_it_to_who_has_until_nobody_has_one(self):
        descriptions = ["tcp:0:interface=127.0.0.1"]
        holder, descriptors = self.hold(*descriptions)
        self.serve(b"first", descriptions, descriptors)
        self.answers = [False] * 5 + [True]
        client = self.connect(("127.0.0.1", holder.addresses[0].port))
        self.assertEqual((yield defer.Deferred.fromCoroutine(self.greeted(client))), b"first")
        self.assertEqual(self.asks[:6], [False] + [True] * 5)

    @defer.inlineCallbacks
    def test_without_open_files_it_tries_again(self):
        self.patch(shared_port, "_PAUSE", 0.01)
        descriptions = ["tcp:0:interface=127.0.0.1"]
        holder, descriptors = self.hold(*descriptions)
        shared, _ = self.serve(b"first", descriptions, descriptors)
        [port] = shared.ports
        real, failures = port._socket, iter([OSError(24, "Too many open files"), ConnectionAbortedError()])

        class Failing:
            def accept(self) -> object:
                for failure in failures:
                    raise failure
                return real.accept()

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

        port._socket = Failing()
        client = self.connect(("127.0.0.1", holder.addresses[0].port))
        self.assertEqual((yield defer.Deferred.fromCoroutine(self.greeted(client))), b"first")

    def test_what_is_no_endpoint_and_what_cannot_be_shared(self) -> None:
        with self.assertRaisesRegex(EndpointError, "'nonsense:1' .*it takes a Twisted endpoint"):
            Listening(reactor, ["nonsense:1"])
        # The errors have no words of Python's, which differ from version to version.
        for description, why in [
            ("tcp:notaport", "a text stands where a number is expected"),
            ("unix:/x:mode=9x", "a text stands where a number is expected"),
            ("tcp", "an argument is missing or unknown, or there are too many"),
            ("tcp:1:prot=2", "an argument is missing or unknown, or there are too many"),
            ("tcp:1:2:3:4", "an argument is missing or unknown, or there are too many"),
        ]:
            with self.assertRaisesRegex(EndpointError, f"^'{description}' \\({why}\\); it takes a Twisted endpoint"):
                Listening(reactor, [description])
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            description = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            ways = [lambda ports: ports.open(GreeterFactory(b"")), lambda ports: ports.bind(GreeterFactory(b""))]
            for way in (*ways, Listening.hold):
                with self.assertRaisesRegex(ListenError, f"cannot listen on {description}: .*Address already in use"):
                    way(Listening(reactor, [description]))
