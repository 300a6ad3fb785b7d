"""How connections of a tenant that has left end, and how the next owner of a database waits for
that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet import defer, reactor, task
from twisted.internet.protocol import Factory, Protocol
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.net.protocol import PauseReason
from redisproxy.resp.framing import encode
from redisproxy.session.pending import ReplyBatch
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.upstream.acl_users import AclUsers
from redisproxy.upstream.connection import RedisConnection
from redisproxy.upstream.handover import Handover
from redisproxy.upstream.pool import ConnectionPool

from ..support.certificates import Authority
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, redis_7, valkey
from ..support.upstreams import ClockedReactor, Heard, Silent

BLUE, GREEN, NEXT = Tenant("blue", 3), Tenant("green", 5), Tenant("green", 3)
PASSWORD = MASTER_PASSWORD.encode()
BLOCK = encode([b"BLPOP", b"q", b"0"])
LATE = encode([b"SET", b"late", b"1"])


class Sharing(Heard):
    """A session on a multiplexed connection."""

    lost = 0

    def upstream_lost(self, batch: ReplyBatch) -> None:
        self.lost += 1


class PoolCase(unittest.TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.reactor = ClockedReactor()

    def pool(self, address: BackendAddress, ca_file: Path | None = None) -> ConnectionPool:
        pool = ConnectionPool(self.reactor, AclUsers("off", None), 0, 30.0, 5.0, ca_file)
        pool.startService()
        self.addCleanup(self.stop, pool)
        pool.use(address)
        return pool

    def redis(self, *settings: str, binary=valkey) -> BackendAddress:
        self.server = RedisServer(binary, *settings).start()
        self.addCleanup(self.server.stop)
        self.direct = self.server.client(3)
        self.addCleanup(self.direct.close)
        return BackendAddress(host="127.0.0.1", port=self.server.port, password=PASSWORD)

    @defer.inlineCallbacks
    def stop(self, pool: ConnectionPool):
        yield pool.stopService()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    @defer.inlineCallbacks
    def until(self, probe):
        while not probe():
            yield task.deferLater(reactor, 0.005)
            self.reactor.clock.advance(0)

    def acquire(self, pool: ConnectionPool, tenant: Tenant = BLUE) -> defer.Deferred:
        acquired = defer.Deferred.fromCoroutine(pool.acquire(tenant))

        def carry(upstream: RedisConnection) -> RedisConnection:
            upstream.carry(Silent(), lambda slow: None)
            return upstream

        return acquired.addCallback(carry)

    @defer.inlineCallbacks
    def blocked(self, count: int):
        yield self.until(lambda: self.direct.info("clients")["blocked_clients"] == count)


class GivenUpTests(PoolCase):
    """Only Redis takes time here: the clock stands still."""

    @defer.inlineCallbacks
    def gives_up(self, pool: ConnectionPool):
        upstream = yield self.acquire(pool)
        owner = Heard()
        upstream.send(encode([b"SET", b"a", b"1"]) + BLOCK + LATE, ReplyBatch(owner, 3))
        yield self.blocked(1)
        upstream.pause_reading(
            PauseReason.PEER | PauseReason.RATE
        )  # the client does not read, and its tenant is over its rate
        upstream.give_up(blocked=True)
        self.assertFalse(upstream.waits)
        upstream.pause_reading(PauseReason.PEER)
        upstream.send(LATE)
        yield self.until(lambda: len(pool) == 0)
        yield self.blocked(0)
        self.assertEqual(owner.heard, [b"+OK\r\n"])
        self.assertEqual(self.direct.keys(), [b"a"])

    @defer.inlineCallbacks
    def test_what_blocks_and_what_stands_behind_it(self):
        yield self.gives_up(self.pool(self.redis()))

    @defer.inlineCallbacks
    def test_over_tls(self):
        snapshot = tempfile.TemporaryDirectory()
        self.addCleanup(snapshot.cleanup)
        authority = Authority(Path(snapshot.name))
        certificate, key = authority.issue("redis", "localhost")
        port = free_port()
        self.redis(
            f"tls-port {port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            f"tls-ca-cert-file {authority.path}",
            "tls-auth-clients no",
            binary=redis_7,
        )
        yield self.gives_up(self.pool(BackendAddress("localhost", port, tls=True, password=PASSWORD), authority.path))

    @defer.inlineCallbacks
    def test_what_redis_did_not_take_is_never_sent(self):
        taken: list[bytes] = []
        servers: list[Protocol] = []

        class Busy(Protocol):
            """Answers the log-in. Then it does not read until the test resumes it."""

            def connectionMade(self) -> None:
                servers.append(self)

            def dataReceived(self, data: bytes) -> None:
                if b"PING" in data:
                    self.transport.write(b"+PONG\r\n")
                elif b"SELECT" in data:
                    self.transport.write(b"+OK\r\n" * 2)  # CLIENT SETNAME comes with it
                else:
                    taken.append(data)

            def connectionLost(self, reason: object) -> None:
                taken.append(b"end")

        port = reactor.listenTCP(0, Factory.forProtocol(Busy), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        pool = self.pool(BackendAddress(host="127.0.0.1", port=port.getHost().port))
        upstream = yield self.acquire(pool)
        servers[0].transport.pauseProducing()
        size = 64 << 20
        upstream.send(b"x" * size, ReplyBatch(Heard(), 1))
        upstream.give_up(blocked=False)
        servers[0].transport.resumeProducing()
        yield self.until(lambda: taken[-1:] == [b"end"] and not len(pool))
        self.assertLess(sum(map(len, taken)), size)

    @defer.inlineCallbacks
    def test_without_that_its_replies_are_waited_for(self):
        pool = self.pool(self.redis())
        upstream = yield self.acquire(pool)
        owner = Heard()
        upstream.send(LATE, ReplyBatch(owner, 1))
        upstream.give_up(blocked=False)
        yield self.until(lambda: owner.heard)
        upstream.release(clean=True)
        self.assertEqual(pool.idle, 1)

    @defer.inlineCallbacks
    def test_it_is_not_used_again(self):
        pool = self.pool(self.redis())
        upstream = yield self.acquire(pool)
        upstream.send(BLOCK, ReplyBatch(Heard(), 1))
        yield self.blocked(1)
        self.direct.rpush("q", "item")
        yield self.until(lambda: upstream.bytes_received and not upstream._pending.batches)
        upstream.give_up(blocked=True)
        upstream.release(clean=True)
        self.assertEqual(pool.idle, 0)
        yield self.until(lambda: len(pool) == 0)


class NextOwnerTests(PoolCase):
    @defer.inlineCallbacks
    def test_it_waits_until_redis_has_closed_the_former_owners_connections(self):
        pool = self.pool(self.redis())
        pool.use_tenants({BLUE})
        first, second = yield defer.gatherResults([self.acquire(pool), self.acquire(pool)])
        for upstream in (first, second):
            upstream.send(BLOCK, ReplyBatch(Heard(), 1))
        yield self.blocked(2)
        pool.use_tenants({NEXT})
        leasing, other = self.acquire(pool, NEXT), self.acquire(pool, Tenant("red", 7))
        yield other
        first.give_up(blocked=True)
        yield self.blocked(1)
        self.assertFalse(leasing.called)
        second.give_up(blocked=True)
        yield leasing
        self.assertEqual(self.direct.info("clients")["blocked_clients"], 0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    @defer.inlineCallbacks
    def test_but_not_longer_than_there_is_time_for_replies(self):
        pool = self.pool(self.redis())
        upstream = yield self.acquire(pool)
        upstream.send(BLOCK, ReplyBatch(Heard(), 1))
        pool.use_tenants({NEXT})
        leasing = self.acquire(pool, NEXT)
        given_up = self.acquire(pool, NEXT)
        given_up.cancel()
        yield self.assertFailure(given_up, defer.CancelledError)
        self.reactor.clock.advance(bounds.HANDOVER_SECONDS - 0.01)
        self.assertFalse(leasing.called)
        self.reactor.clock.advance(0.01)
        yield leasing

    @defer.inlineCallbacks
    def test_it_waits_for_other_processes(self):
        pool = self.pool(self.redis())
        pool.use_tenants({NEXT, BLUE}, [3])
        leasing = self.acquire(pool, NEXT)
        yield self.acquire(pool, GREEN)
        self.assertFalse(leasing.called)
        pool.handover.over_elsewhere()
        yield leasing
        pool.use_tenants({BLUE}, [3])
        leasing = self.acquire(pool, BLUE)
        self.reactor.clock.advance(bounds.HANDOVER_ELSEWHERE_SECONDS)
        yield leasing

    @defer.inlineCallbacks
    def test_a_database_that_nobody_else_has_is_not_hurried(self):
        pool = self.pool(self.redis())
        upstream = yield self.acquire(pool)
        upstream.send(BLOCK, ReplyBatch(Heard(), 1))
        pool.use_tenants({GREEN})
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertTrue(pool.handover.over_here().called)
        pool.use_tenants({NEXT})
        over = pool.handover.over_here()
        self.assertFalse(over.called)
        self.reactor.clock.advance(bounds.HANDOVER_SECONDS)
        yield over

    @defer.inlineCallbacks
    def test_what_the_former_owner_left_is_closed(self):
        pool = self.pool(self.redis())
        pool.use_tenants({BLUE, GREEN})
        idle, busy, other = yield defer.gatherResults([self.acquire(pool), self.acquire(pool), self.acquire(pool, GREEN)])
        idle.release(clean=True)
        other.release(clean=True)
        pool.use_tenants({GREEN})
        yield self.until(lambda: len(pool) == 2)
        busy.release(clean=True)
        yield self.until(lambda: len(pool) == 1)
        self.assertEqual(pool.idle, 1)

    @defer.inlineCallbacks
    def test_what_waited_for_the_end_of_the_turn_is_never_sent(self):
        pool = self.pool(self.redis())
        pool.use_tenants({BLUE})
        tenant_pool = pool.tenant_pool(BLUE, 2)
        yield tenant_pool.come()
        owner = Sharing()
        tenant_pool.upstream.send(encode([b"SET", b"early", b"1"]), ReplyBatch(owner, 1))
        tenant_pool.upstream.send(LATE, ReplyBatch(owner, 1))
        pool.use_tenants({GREEN})
        yield self.until(lambda: owner.lost)
        self.assertEqual((owner.heard, self.direct.keys()), ([b"+OK\r\n"], [b"early"]))
        tenant_pool.leave()

    @defer.inlineCallbacks
    def test_nobody_comes_to_what_was_shared(self):
        """When a tenant comes back, it gets other connections than those that its old sessions
        still use.
        """
        pool = self.pool(self.redis())
        pool.use_tenants({BLUE})
        tenant_pool = pool.tenant_pool(BLUE, 2)
        yield tenant_pool.come()
        pool.use_tenants({GREEN})
        again = pool.tenant_pool(BLUE, 2)
        self.assertIsNot(again, tenant_pool)
        yield again.come()
        tenant_pool.leave()
        self.assertIs(pool.tenant_pool(BLUE, 2), again)
        again.leave()


class Former:
    """A connection of a former owner."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.drops = 0

    def drop(self) -> None:
        self.drops += 1


class TimeLimitTests(unittest.TestCase):
    """Another snapshot gives what an earlier one began no more time."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.handover = Handover(self.clock)

    def test_of_connections_in_this_process(self) -> None:
        first, second = (Former(BLUE) for _ in range(2))
        self.handover.begin([first], {})
        for _ in range(9):
            self.clock.advance(bounds.HANDOVER_SECONDS / 9.5)
            self.handover.begin([first, second], {})
        self.assertEqual(first.drops, 0)
        self.clock.advance(bounds.HANDOVER_SECONDS / 9.5)
        self.assertEqual((first.drops, second.drops), (1, 0))
        self.handover.lost(first)
        self.clock.advance(bounds.HANDOVER_SECONDS)
        self.assertEqual((first.drops, second.drops), (1, 1))
        self.handover.lost(second)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_of_connections_in_other_processes(self) -> None:
        owners = {3: NEXT}
        self.handover.begin([], owners)
        over = self.handover.over(3)
        for _ in range(9):
            self.clock.advance(bounds.HANDOVER_ELSEWHERE_SECONDS / 9.5)
            self.handover.begin([], owners)
            self.assertFalse(over.called)
        self.clock.advance(bounds.HANDOVER_ELSEWHERE_SECONDS / 9.5)
        self.assertTrue(over.called)
        self.handover.begin([], owners)
        self.assertIsNone(self.handover.over(3), "it is over until the database has another owner")
        self.handover.begin([], {3: BLUE})
        self.assertIsNotNone(self.handover.over(3))
        self.handover.over_elsewhere()
        self.assertIsNone(self.handover.over(3))
        self.assertEqual(self.clock.getDelayedCalls(), [])
