"""Tests the base class of both RESP protocols: pausing, protocol errors and bugs."""

from __future__ import annotations

import unittest as plain

from twisted.internet.testing import StringTransport
from twisted.trial import unittest

from redisproxy.net.protocol import PauseReason, RespReceiver
from redisproxy.resp.framing import ProtocolError


class Receiver(RespReceiver):
    fault: Exception | None = None
    broken = ""

    def respReceived(self, data: bytes) -> None:
        if self.fault:
            raise self.fault

    def respBroken(self, reason: str) -> None:
        self.broken = reason


class AbortableTransport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class HoldTests(plain.TestCase):
    def test_reads_on_when_every_reason_is_gone(self) -> None:
        receiver, transport = Receiver(), StringTransport()
        receiver.makeConnection(transport)
        receiver.pause_reading(PauseReason.PEER)
        receiver.pause_reading(PauseReason.SESSION)
        receiver.pause_reading(PauseReason.PEER)
        self.assertEqual(transport.producerState, "paused")
        receiver.resume_reading(PauseReason.PEER)
        self.assertEqual(transport.producerState, "paused")
        receiver.resume_reading(PauseReason.SESSION)
        self.assertEqual(transport.producerState, "producing")
        receiver.resume_reading(PauseReason.SESSION)


class FaultTests(unittest.TestCase):
    def test_a_protocol_error_is_the_peers(self) -> None:
        receiver = Receiver()
        receiver.makeConnection(StringTransport())
        receiver.fault = ProtocolError("no RESP")
        receiver.dataReceived(b"x")
        self.assertEqual(receiver.broken, "no RESP")
        self.assertFalse(receiver.transport.disconnecting)

    def test_a_bug_is_logged_and_costs_the_connection(self) -> None:
        receiver = Receiver()
        receiver.makeConnection(AbortableTransport())
        receiver.fault = KeyError("oops")
        receiver.dataReceived(b"x")
        self.assertTrue(receiver.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
