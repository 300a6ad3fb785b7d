"""How long Redis takes, as the proxy's own PINGs find it."""

from __future__ import annotations

import unittest

from twisted.internet import task
from twisted.internet.address import UNIXAddress
from twisted.internet.testing import StringTransport

from redisproxy.net.protocol import PauseReason
from redisproxy.session.pending import ReplyBatch
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.upstream.connection import RedisConnection
from redisproxy.upstream.latency import INTERVAL, Sampler
from redisproxy.upstream.multiplexed import MultiplexedConnection, TenantPool

PING = b"*1\r\n$4\r\nPING\r\n"


class Deaf:
    """Is pending what a test is not about."""

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        pass


class SamplerTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.transport = StringTransport(UNIXAddress("/redis"))
        self.connection = RedisConnection(BackendAddress(host="127.0.0.1", port=6379, password=b""), pool=None)
        self.connection.makeConnection(self.transport)
        tenant_pool = TenantPool(None, self.clock, Tenant("blue", 3), 2)
        self.upstream = MultiplexedConnection(self.connection, tenant_pool, self.clock)
        self.samples: list[float] = []
        self.sampler = Sampler(self.clock, lambda: [self.upstream], self.samples.append)
        self.sampler.startService()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.sampler.stopService)

    def use(self) -> None:
        self.upstream.send(b"GET a\r\n", ReplyBatch(Deaf(), 1))
        self.connection.dataReceived(b"$-1\r\n")

    def sent(self) -> bytes:
        sent = self.transport.value()
        self.transport.clear()
        return sent

    def test_one_that_is_used_is_asked_once_in_a_while(self) -> None:
        self.use()
        self.sent()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), PING)
        self.clock.advance(0.25)
        self.connection.dataReceived(b"+PONG\r\n")
        self.assertEqual(self.samples, [0.25])
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), b"", "nothing but the PING came over it")

    def test_one_that_is_not_read_from_says_nothing(self) -> None:
        self.use()
        self.sent()
        self.connection.pause_reading(PauseReason.RATE)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), b"")
        self.connection.resume_reading(PauseReason.RATE)
        self.use()
        self.sent()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.sent(), PING)
        # What its tenant may not have yet is not Redis's time.
        self.connection.pause_reading(PauseReason.RATE)
        self.clock.advance(0.5)
        self.connection.resume_reading(PauseReason.RATE)
        self.connection.dataReceived(b"+PONG\r\n")
        self.assertEqual(self.samples, [])
