"""The client's side, where it cannot be driven from outside."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

from twisted.internet import task
from twisted.internet.testing import StringTransport
from twisted.trial import unittest

from redisproxy.core.tenants import Directory
from redisproxy.net.admission import Admission
from redisproxy.net.client import CHECKED_AT_ONCE, ClientFactory, ClientProtocol, Timeouts
from redisproxy.ops.outcomes import Outcomes


class FactoryTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.directory = SimpleNamespace(listeners=[], directory=Directory(None, []))
        self.factory = ClientFactory(
            self.clock, self.directory, None, None, None, Admission(1000, 0), Outcomes(self.clock), Timeouts(60.0)
        )

    def connect(self) -> ClientProtocol:
        client = self.factory.buildProtocol(None)
        client.makeConnection(StringTransport())
        return client

    def test_thousands_are_not_checked_in_one_turn(self) -> None:
        checked = []
        for _ in range(CHECKED_AT_ONCE * 2 + 1):
            client = self.connect()
            client.recheck = lambda directory, now, client=client: checked.append((client, directory))
        (changed,) = self.directory.listeners
        changed(self.directory.directory)
        self.assertEqual(len(checked), CHECKED_AT_ONCE)
        # A newer one comes meanwhile: all are compared with that.
        checked.clear()
        self.directory.directory = newer = Directory(None, [])
        changed(newer)
        for _ in range(4):
            self.clock.advance(0)
        self.assertEqual({client for client, _ in checked}, self.factory.clients)
        self.assertTrue(all(directory is newer for _, directory in checked))
        changed(newer)
        self.factory.stopFactory()
        before = len(checked)
        self.clock.advance(0)
        self.assertEqual(len(checked), before)

    def test_a_client_that_left_leaves_nothing_to_the_garbage_collector(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)
        client = self.connect()
        client.dataReceived(b"PING\r\n")
        # Twisted's transports let go of their producer and their protocol by themselves.
        client.transport.unregisterProducer()
        client.connectionLost()
        left = weakref.ref(client), weakref.ref(client.factory)
        del client
        self.assertIsNone(left[0]())
        self.assertIsNotNone(left[1]())
