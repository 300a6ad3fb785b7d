"""The multiplexed connection for scripts: when a script takes long there, and who waits for it."""

from __future__ import annotations

import unittest

from twisted.internet import defer, task

from redisproxy import bounds
from redisproxy.session.pending import PendingReplies, ReplyBatch
from redisproxy.session.ports import Unavailable
from redisproxy.session.state import Gate, Step, Until
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.connection import RedisBusy
from redisproxy.upstream.script_pool import ScriptPool
from redisproxy.upstream.tenant_pool import BUSY_BACKOFF, TenantPool

from ..support.upstreams import Heard

BLUE = Tenant("team-blue", 3)
TICK = bounds.SCRIPT_CHECK_SECONDS


class Connection:
    """A connection to a Redis that the test plays."""

    def __init__(self) -> None:
        self.pending = PendingReplies()
        self.sent = b""
        self.released = self.given_up = self.stale = False

    def carry(self, user: object, pressed: object, received: object) -> PendingReplies:
        self.received = received
        return self.pending

    def write(self, data: bytes) -> None:
        self.sent += data

    def release(self, clean: bool) -> None:
        self.released = clean


class Session:
    """A session that waits, as its Step sees it."""

    def __init__(self) -> None:
        self.told = 0
        self.step: Step[None] = Step(self, Until.SCRIPTS, lambda _: None)

    def step_finished(self, step: Step[None], result: None) -> None:
        self.told += 1


class BehindScript:
    """A session whose command waits, as its tenant's order sees it."""

    def __init__(self, replies: object) -> None:
        self.replies = replies
        self.gates = 0

    def close_gate(self, gate: int) -> None:
        self.gates |= gate

    def turn_came(self, later: int) -> None:
        self.gates = 0


class Receiver(Heard):
    """Receives replies, and learns that there will be none."""

    def upstream_lost(self, batch: ReplyBatch) -> None:
        self.heard.append(b"lost")


class PoolCase(unittest.TestCase):
    """The test plays the pool of connections. It finishes the acquisitions in `asked`."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.asked: list[defer.Deferred] = []
        self.forgotten: list[TenantPool] = []
        self.tenant_pool = TenantPool(self, self.clock, BLUE, 2)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    async def acquire(self, tenant: Tenant, protocol: int) -> Connection:
        self.asked.append(defer.Deferred())
        return await self.asked[-1]

    def forget(self, tenant_pool: TenantPool) -> None:
        self.forgotten.append(tenant_pool)

    def script_pool(self, tenant: Tenant, protocol: int) -> ScriptPool:
        return ScriptPool(self, self.clock, tenant, protocol)


class ScriptPoolTests(PoolCase):
    def setUp(self) -> None:
        super().setUp()
        self.tenant_pool.enter()
        self.pool = self.tenant_pool.scripts
        self.connection = Connection()
        self.asked.pop().callback(self.connection)
        self.upstream = self.pool.upstream
        self.heard = Receiver()

    def send(self) -> None:
        self.upstream.send(b"*1\r\n$1\r\nX\r\n", ReplyBatch(self.heard, 1))

    def reply(self) -> None:
        self.connection.received(b"+OK\r\n")

    def wait(self, seconds: float) -> bool:
        """Waits. Returns whether a script takes long then."""
        self.clock.pump([TICK / 10] * round(seconds / TICK * 10))
        return self.pool.slow

    def tearDown(self) -> None:
        self.tenant_pool.leave()
        while self.upstream._batches:
            self.reply()
        self.assertEqual((self.connection.released, len(self.forgotten)), (True, 2))

    def test_one_that_is_not_answered_for_a_while_takes_long(self) -> None:
        for _ in range(2):
            self.send()
            self.assertFalse(self.wait(0.9 * TICK))
            self.assertTrue(self.wait(1.4 * TICK))
            self.assertTrue(self.wait(100 * TICK))
            self.reply()
            self.assertFalse(self.pool.slow)

    def test_many_that_are_answered_do_not(self) -> None:
        self.send()
        for _ in range(50):
            self.send()
            self.assertFalse(self.wait(TICK * 0.7))
            self.reply()
        self.assertEqual(len(self.heard.heard), 50)
        self.assertTrue(self.wait(2.4 * TICK))

    def test_time_without_a_script_does_not_count(self) -> None:
        for _ in range(3):
            self.send()
            self.assertFalse(self.wait(TICK * 0.9))
            self.reply()
            self.assertFalse(self.wait(TICK))
            self.send()
            self.assertFalse(self.wait(TICK))
            self.reply()
            self.assertFalse(self.wait(10 * TICK))

    def test_only_whether_there_is_progress_counts(self) -> None:
        """One that takes long before others does not count once it is answered."""
        self.send()
        self.send()
        self.assertTrue(self.wait(2.4 * TICK))
        self.reply()
        self.assertFalse(self.wait(0.9 * TICK))
        self.assertTrue(self.wait(1.4 * TICK))

    def test_then_nobody_waits_for_what_stands_behind_it(self) -> None:
        """A command that a session sent behind its script waits for a dedicated connection."""
        order = self.pool.order
        for receiver, waits in ((self.heard, False), (Receiver(), True)):
            behind = BehindScript(receiver)
            self.send()
            order.begin(behind)
            self.assertTrue(order.closed)
            self.assertFalse(self.wait(0.9 * TICK))
            self.assertTrue(order.closed)
            self.wait(1.4 * TICK)
            self.assertEqual((order.closed, behind.gates), (waits, Gate.ORDER if waits else 0))
            order.settled(behind)
            self.reply()

    def test_a_lost_connection_is_replaced(self) -> None:
        self.send()
        self.upstream.upstream_lost()
        self.assertEqual((self.pool.slow, self.heard.heard), (False, [b"lost"]))
        waiting, gone = Session(), Session()
        for session in (waiting, gone):
            self.pool.wait_until_free(session.step)
        gone.step.abandon()
        self.assertEqual((self.pool.upstream.busy, waiting.told), (True, 0))
        self.connection = Connection()
        self.asked.pop().callback(self.connection)
        self.assertEqual((waiting.told, gone.told), (1, 0))
        self.upstream = self.pool.upstream

    def test_a_full_connection(self) -> None:
        while not self.upstream.busy:
            self.upstream.send(b"x" * 65536, ReplyBatch(self.heard, 1))
        waiting = Session()
        self.pool.wait_until_free(waiting.step)
        self.assertTrue(self.pool.wanted(self.upstream, waiting))
        self.clock.advance(0)
        self.assertEqual((self.upstream.busy, waiting.told), (False, 1))
        self.assertFalse(self.pool.wanted(self.upstream, waiting))

    def test_it_is_the_same_one_for_all(self) -> None:
        self.tenant_pool.enter()
        self.assertIs(self.tenant_pool.scripts, self.pool)
        self.tenant_pool.leave()
        self.assertEqual(self.forgotten, [])


class BusyTests(PoolCase):
    """A pool for which no connection can be made ready, because Redis is busy with a script."""

    def busy(self) -> None:
        self.asked.pop().errback(RedisBusy("-BUSY Redis is busy", b"*0\r\n"))

    def joined(self) -> bool:
        """Adds a session. Returns whether it may go on at once."""
        joined: list[object] = []
        self.tenant_pool.come().addBoth(joined.append)
        return joined == [None]

    def test_sessions_join_it(self) -> None:
        joined: list[object] = []
        self.tenant_pool.come().addBoth(joined.append)
        self.assertEqual(joined, [])
        self.busy()
        self.assertEqual(joined, [None])
        upstream = self.tenant_pool.upstream
        self.assertEqual(
            (isinstance(upstream, Unavailable), upstream.busy, upstream.reply, upstream.hello),
            (True, False, b"-BUSY Redis is busy\r\n", b"*0\r\n"),
        )
        self.assertTrue(self.joined())
        # It tries again soon, and each time as soon as before.
        for _ in range(10):
            self.assertEqual(self.asked, [])
            self.clock.advance(BUSY_BACKOFF.first)
            self.busy()
        self.clock.advance(BUSY_BACKOFF.first)
        self.asked.pop().callback(Connection())
        self.assertIsNotNone(self.tenant_pool.open)
        self.tenant_pool.leave()
        self.tenant_pool.leave()

    def test_nobody_is_left(self) -> None:
        self.tenant_pool.come()
        self.busy()
        self.tenant_pool.leave()
        self.clock.advance(10)
        self.assertEqual((self.asked, self.tenant_pool.upstream.busy), ([], True))

    def test_the_one_for_scripts(self) -> None:
        self.tenant_pool.enter()
        scripts = self.tenant_pool.scripts
        waiting = Session()
        scripts.wait_until_free(waiting.step)
        self.busy()
        self.assertEqual((waiting.told, scripts.slow, scripts.upstream.reply), (1, False, b"-BUSY Redis is busy\r\n"))
        self.tenant_pool.leave()
