"""The pool of upstream connections, on a real Redis, with a clock of the tests."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import redis
from twisted.internet import defer, reactor, task
from twisted.internet.address import UNIXAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.ops.log_once import QUIET
from redisproxy.ops.logs import Log
from redisproxy.session.pending import CONFIRMATIONS, ReplyBatch
from redisproxy.session.pubsub import SubscriptionChange
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.upstream.acl_users import AclUserError, AclUsers
from redisproxy.upstream.connection import RedisBusy, RedisConnection, RedisUnreachable, UpstreamError
from redisproxy.upstream.pool import ConnectionPool

from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, redis_7
from ..support.upstreams import ClockedReactor, Heard, Silent
from ..support.waiting import LIMIT

BLUE, GREEN = Tenant("blue", 3), Tenant("green", 5)


class Subscriber(Heard):
    """A subscribed session, as an upstream connection sees it."""

    upstream_lost = None
    hidden = 0

    def confirmed(self, change: SubscriptionChange, refused: bool) -> bool:
        return change.joins

    def message(self, piece: bytes, whole: bool) -> None:
        self.heard.append(piece)

    def bare(self, channel: bytes) -> bytes:
        return channel

    def pattern_of(self, pattern: bytes, channel: bytes) -> bytes:
        return pattern


class NarrowTests(unittest.SynchronousTestCase):
    """How much is read at once of an upstream connection that receives messages."""

    def test_small_messages_are_read_a_few_at_a_time(self) -> None:
        pool = SimpleNamespace(release=lambda upstream, clean: upstream.detach())
        upstream = RedisConnection(BackendAddress("redis"), pool)
        transport = StringTransport(hostAddress=UNIXAddress(None))
        upstream.makeConnection(transport)
        subscriber = Subscriber()
        upstream.carry(subscriber, lambda full: None)
        confirmed = b"*3\r\n$%d\r\n%b\r\n$1\r\nc\r\n:%d\r\n"
        small, large = (b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%b\r\n" % (size, b"x" * size) for size in (5, 70_000))
        upstream.send(
            b"", ReplyBatch(subscriber, 1, CONFIRMATIONS, subscription=(subscriber, SubscriptionChange(b"", True, ())))
        )
        upstream.dataReceived(confirmed % (9, b"subscribe", 1))
        self.assertEqual(transport.bufferSize, bounds.SMALL_READ_BYTES)
        upstream.dataReceived(small * 60)
        self.assertEqual(transport.bufferSize, bounds.SMALL_READ_BYTES)
        upstream.dataReceived(large[: bounds.SMALL_READ_BYTES])
        self.assertEqual(transport.bufferSize, bounds.READ_BYTES)
        # The read was as large as it could be, so the next one may be larger.
        upstream.dataReceived(large[bounds.SMALL_READ_BYTES :])
        self.assertEqual(transport.bufferSize, bounds.WIDE_READ_BYTES)
        upstream.dataReceived(small * 2)
        self.assertEqual(transport.bufferSize, bounds.SMALL_READ_BYTES)
        upstream.send(
            b"", ReplyBatch(subscriber, 1, CONFIRMATIONS, subscription=(subscriber, SubscriptionChange(b"", False, ())))
        )
        upstream.dataReceived(confirmed % (11, b"unsubscribe", 0))
        self.assertEqual(transport.bufferSize, bounds.READ_BYTES)
        self.assertEqual(b"".join(subscriber.heard).count(small), 62)

    def test_many_confirmations_are_read_a_few_at_a_time(self) -> None:
        """One read of 256 KiB had 6,500 of them, and kept everybody else waiting for 27 ms."""
        upstream = RedisConnection(
            BackendAddress("redis"), SimpleNamespace(release=lambda upstream, clean: upstream.detach())
        )
        transport = StringTransport(hostAddress=UNIXAddress(None))
        upstream.makeConnection(transport)
        subscriber = Subscriber()
        upstream.carry(subscriber, lambda full: None)
        upstream.send(b"", ReplyBatch(Heard(), 1))
        upstream.dataReceived(b"$70000\r\n%b\r\n" % bytes(70_000))
        self.assertEqual(transport.bufferSize, bounds.WIDE_READ_BYTES)
        left = SubscriptionChange(b"", False, ())
        upstream.send(b"", ReplyBatch(subscriber, 100, CONFIRMATIONS, subscription=(subscriber, left)))
        self.assertEqual(transport.bufferSize, bounds.SMALL_READ_BYTES)
        for _ in range(99):
            upstream.dataReceived(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n")
            self.assertEqual(transport.bufferSize, bounds.SMALL_READ_BYTES)
        upstream.dataReceived(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n")
        self.assertEqual(transport.bufferSize, bounds.READ_BYTES)

    def test_who_uses_it_next_has_no_part_in_that(self) -> None:
        upstream = RedisConnection(
            BackendAddress("redis"), SimpleNamespace(release=lambda upstream, clean: upstream.detach())
        )
        transport = StringTransport(hostAddress=UNIXAddress(None))
        upstream.makeConnection(transport)
        subscriber = Subscriber()
        upstream.carry(subscriber, lambda full: None)
        left = SubscriptionChange(b"", False, ())
        upstream.send(b"", ReplyBatch(subscriber, 100, CONFIRMATIONS, subscription=(subscriber, left)))
        self.assertEqual(transport.bufferSize, bounds.SMALL_READ_BYTES)
        upstream.release(clean=False)
        self.assertEqual(transport.bufferSize, bounds.READ_BYTES)


class PoolCase(unittest.TestCase):
    def setUp(self) -> None:
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        self.address = BackendAddress(host="127.0.0.1", port=self.server.port, password=MASTER_PASSWORD.encode())
        self.reactor = ClockedReactor()
        # This runs last, after all pools are stopped.
        self.addCleanup(lambda: self.assertEqual(self.reactor.getDelayedCalls(), []))

    def pool(self, base: int = 0, acl_users: object = None, hold: float = 0.0) -> ConnectionPool:
        pool = ConnectionPool(self.reactor, acl_users or AclUsers("off", None), base, 30.0, 5.0, hold=hold)
        pool.startService()
        self.addCleanup(self.stop, pool)
        pool.use(self.address)
        return pool

    @defer.inlineCallbacks
    def stop(self, pool: ConnectionPool):
        yield pool.stopService()
        self.assertEqual(len(pool), 0)

    @defer.inlineCallbacks
    def until(self, probe, passing=0.0):
        """Waits until the probe is true. passing: the clock's seconds that pass in each 5 ms of
        real time.
        """
        while not probe():
            yield task.deferLater(reactor, 0.005)
            self.reactor.clock.advance(passing)

    def acquire(self, pool: ConnectionPool, tenant: Tenant = BLUE) -> defer.Deferred:
        acquired = defer.Deferred.fromCoroutine(pool.acquire(tenant))

        def carry(upstream):
            upstream.carry(Silent(), lambda slow: None)
            return upstream

        return acquired.addCallback(carry)


class ConnectionPoolTests(PoolCase):
    @defer.inlineCallbacks
    def test_given_back_clean_it_waits_for_its_tenant_and_then_is_closed(self):
        pool = self.pool()
        upstream = yield self.acquire(pool)
        self.assertEqual(upstream.tenant, BLUE)
        upstream.release(clean=True)
        self.assertEqual((len(pool), pool.idle), (1, 1))
        other = yield self.acquire(pool, GREEN)
        self.assertIsNot(other, upstream)
        again = yield self.acquire(pool)
        self.assertIs(again, upstream)
        again.release(clean=True)
        other.release(clean=False)
        yield self.until(lambda: len(pool) == 1)
        self.reactor.clock.advance(29.9)
        self.assertEqual(len(pool), 1)
        self.reactor.clock.advance(0.1)
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_what_makes_room_is_not_lent_again(self):
        """Even if its session leaves it clean: it would keep the place."""
        pool = self.pool()
        upstream = yield defer.Deferred.fromCoroutine(pool.acquire(BLUE))
        session = SimpleNamespace(
            upstream_full=lambda full: None, work=None, midway=False, give_way=lambda: upstream.release(clean=True)
        )
        upstream.carry_session(session)
        upstream.give_way()
        self.assertEqual(pool.idle, 0)
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_the_base_is_kept(self):
        pool = self.pool(base=2)
        yield self.until(lambda: pool.idle == 2)
        self.reactor.clock.advance(100)
        self.assertEqual(pool.idle, 2)
        upstream = yield self.acquire(pool)
        self.assertEqual((len(pool), pool.idle), (2, 1))
        upstream.drop()
        yield self.until(lambda: pool.idle == 2)

    @defer.inlineCallbacks
    def test_an_idle_upstream_connection_that_died_unnoticed_is_replaced(self):
        pool = self.pool()
        upstream = yield self.acquire(pool)
        upstream.release(clean=True)
        upstream.transport.stopReading()  # the end of the connection goes unnoticed
        self.server.client().client_kill_filter(skipme=True)
        upstream.transport.startReading()
        self.reactor.clock.advance(bounds.FRESH_SECONDS + 0.1)
        new = yield self.acquire(pool)
        self.assertIsNot(new, upstream)

    @defer.inlineCallbacks
    def test_an_upstream_connection_that_has_replies_pending_is_not_used_again(self):
        pool = self.pool()
        upstream = yield self.acquire(pool)
        upstream.send(b"", ReplyBatch(None, 1))
        upstream.release(clean=True)
        self.assertEqual(pool.idle, 0)
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_another_backend_closes_the_idle_and_drains_the_busy(self):
        pool = self.pool()
        idle, busy = yield defer.gatherResults([self.acquire(pool), self.acquire(pool)])
        idle.release(clean=True)
        pool.use(BackendAddress(host="localhost", port=self.server.port, password=MASTER_PASSWORD.encode()))
        yield self.until(lambda: len(pool) == 1)
        busy.release(clean=True)
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_a_place_that_failed_is_abandoned(self):
        """If Redis has moved after a failure, busy connections close and waiting callers get one to
        the new address.
        """
        silent = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        pool = self.pool()
        busy = yield self.acquire(pool)
        hangs = BackendAddress(host="127.0.0.1", port=silent.getHost().port, password=b"x")
        pool.use(hangs)
        leasing = self.acquire(pool)
        yield self.until(lambda: len(pool) == 2)
        pool.use(self.address, abandon=True)
        new = yield leasing
        self.assertEqual(new.address, self.address)
        yield self.until(lambda: len(pool) == 2)
        self.assertEqual(busy.address, self.address)
        elsewhere = BackendAddress(host="localhost", port=self.server.port, password=MASTER_PASSWORD.encode())
        pool.use(elsewhere, abandon=True)
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_a_place_that_was_left_says_nothing_of_where_redis_is(self):
        """A time-out at the former address is not logged, and does not make the proxy unready."""
        silent = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        pool = self.pool()
        pool.use(BackendAddress(host="127.0.0.1", port=silent.getHost().port, password=b"x"))
        leasing = self.acquire(pool)
        yield self.until(lambda: len(pool) == 1)
        pool.use(self.address)
        told = []
        self.patch(pool._faults, "of_all", told.append)
        self.reactor.clock.advance(5)
        self.assertFalse(pool.refused)
        new = yield leasing
        self.assertEqual((new.address, told), (self.address, []))

    @defer.inlineCallbacks
    def test_upstream_connections_like_a_replica_s_are_not_used_again(self):
        pool = self.pool()
        found = []
        pool.found_replica = lambda: found.append(True)
        idle, refused, other = yield defer.gatherResults([self.acquire(pool), self.acquire(pool), self.acquire(pool, GREEN)])
        idle.release(clean=True)
        other.release(clean=True)
        owner = Heard()
        for _ in range(2):
            refused.send(b"EVAL \"return redis.error_reply('READONLY x')\" 0\r\n", ReplyBatch(owner, 1))
        yield self.until(lambda: len(owner.heard) == 2)
        self.assertEqual(found, [True])
        pool.leave_replicas()
        yield self.until(lambda: len(pool) == 1)
        self.assertIs((yield self.acquire(pool, GREEN)), other)

    @defer.inlineCallbacks
    def test_what_is_opened_while_the_address_comes_to_lead_elsewhere_is_opened_again(self):
        """A connection that is being opened during a failover behind one address is opened anew."""
        client = self.server.client()
        self.addCleanup(client.close)
        before = client.info("stats")["total_connections_received"]
        pool = self.pool()
        acquired = self.acquire(pool, GREEN)
        shared = pool.tenant_pool(BLUE, 2)
        opened = shared.come()
        pool.renew()
        upstream = yield acquired
        yield opened
        self.assertEqual((upstream.stale, shared.open.connection.stale), (False, False))
        self.assertEqual(client.info("stats")["total_connections_received"] - before, 4, "each was opened twice")
        shared.leave()
        upstream.release(clean=True)

    @defer.inlineCallbacks
    def test_failures_are_told_apart(self):
        pool = self.pool()
        for address, told in (
            (BackendAddress(host="127.0.0.1", port=free_port()), messages.UNREACHABLE.text),
            (BackendAddress(host="127.0.0.1", port=self.server.port, password=b"wrong"), messages.LOGIN_REFUSED.text),
            (None, messages.UNREACHABLE.text),
        ):
            pool.use(address)
            failed = []
            self.assertFailure(self.acquire(pool), UpstreamError).addCallback(failed.append)
            # The endpoint waits a moment for another address of the name.
            yield self.until(lambda failed=failed: failed, passing=0.05)
            self.assertEqual(failed[0].client_reply, told)
        pool.use(self.address)
        failure = yield self.assertFailure(self.acquire(pool, Tenant("far", 64)), UpstreamError)
        self.assertIn("ERR Redis refused to select database 64: ERR DB index is out of range", failure.client_reply)
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_a_redis_that_is_busy_with_a_script(self):
        """It refuses SELECT. The error is Redis's own, and its connection is kept for the next
        attempt. A connection that has its database is lent as if nothing were. (Valkey 9.1 does
        not refuse SELECT.)
        """
        self.server.stop()
        self.server = RedisServer(redis_7).start()
        self.addCleanup(self.server.stop)
        self.address = replace(self.address, port=self.server.port)
        pool = self.pool()
        upstream = yield self.acquire(pool, GREEN)
        upstream.release(clean=True)
        client = self.server.client(socket_timeout=LIMIT)
        client.config_set("lua-time-limit", 10)
        script = threading.Thread(target=lambda: _run(self.server, "while true do end"))
        script.start()
        self.addCleanup(script.join)
        self.addCleanup(_kill, client)
        while not _is_busy(client):
            pass
        logged = []
        self.patch(Log, "write", lambda self, message, **fields: logged.append(message))
        for protocol, hello in ((2, b"*14\r\n"), (3, b"%7\r\n"), (2, b"*14\r\n")):
            error = yield self.assertFailure(defer.Deferred.fromCoroutine(pool.acquire(BLUE, protocol)), RedisBusy)
            self.assertTrue(error.client_reply.startswith("BUSY Redis is busy running a script."), error.client_reply)
            self.assertTrue(error.client_reply.endswith("NOSAVE."), error.client_reply)
            self.assertTrue(error.hello.startswith(hello), error.hello)
        self.assertEqual((len(pool), pool.idle, pool.refused, logged), (2, 2, False, []))
        self.reactor.clock.advance(bounds.FRESH_SECONDS + 1)  # it is checked
        self.assertIs((yield self.acquire(pool, GREEN)), upstream)
        _kill(client)
        script.join()
        there = yield self.acquire(pool, BLUE)
        self.assertEqual((there.tenant, there.protocol, len(pool)), (BLUE, 2, 2))

    @defer.inlineCallbacks
    def test_a_fault_that_lasts_is_one_line_although_connections_can_be_opened(self):
        login: defer.Deferred[None] = defer.Deferred()
        pool = self.pool(acl_users=SimpleNamespace(login=lambda *_: login))
        events: list[dict] = []
        pool._faults._log = Log(observer=events.append)
        for _ in range(3):
            failed: list[UpstreamError] = []
            self.assertFailure(self.acquire(pool), RedisUnreachable).addCallback(failed.append)
            yield self.until(lambda failed=failed: failed, passing=0.05)
            login = defer.Deferred()
        login.callback(None)
        yield self.acquire(pool)
        shown = [event["log_format"] for event in events]
        self.assertEqual(shown, [messages.REDIS_NO_CONNECTION.text, messages.REDIS_USABLE_AGAIN.text])

    @defer.inlineCallbacks
    def test_the_base_is_tried_again_later_and_later(self):
        self.server.kill()
        pool = self.pool(base=1)
        waits = []
        for _ in range(4):
            yield self.until(lambda: pool._base._retry.due is not None, passing=0.05)
            waits.append(pool._base._retry.due - self.reactor.seconds())
            self.reactor.clock.advance(waits[-1])
        self.assertLess(waits[0], waits[-1])
        self.server.start()
        yield self.until(lambda: pool.idle == 1, passing=0.5)

    @defer.inlineCallbacks
    def test_a_young_upstream_connection_that_we_close_is_no_fault_of_redis(self):
        """No fault is logged when the proxy itself closes a connection soon after it was opened."""
        pool = self.pool(base=1)
        told = []
        pool._faults.of_all = told.append
        yield self.until(lambda: pool.idle == 1)
        pool.use(BackendAddress(host="localhost", port=self.server.port, password=MASTER_PASSWORD.encode()))
        yield self.until(lambda: pool.idle == 1, passing=0.05)
        yield pool.stopService()
        self.assertEqual(told, [])

    @defer.inlineCallbacks
    def test_a_lease_that_is_given_up_leaves_no_upstream_connection_behind(self):
        pool = self.pool()
        leasing = self.acquire(pool)
        leasing.cancel()
        yield self.assertFailure(leasing, UpstreamError, defer.CancelledError)
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_unasked_bytes_on_an_idle_upstream_connection_close_it(self):
        pool = self.pool()
        upstream = yield self.acquire(pool)
        upstream.release(clean=True)
        upstream.transport.write(b"PING\r\n")  # nobody expects the answer
        yield self.until(lambda: len(pool) == 0)

    @defer.inlineCallbacks
    def test_no_scripts_on_an_upstream_connection_with_the_masters_rights(self):
        """A connection that was opened before Redis was known to have ACLs is not used later."""
        pool = self.pool()
        upstream = yield self.acquire(pool)
        upstream.release(clean=True)
        pool.redis_probed(needs_acl_users=True)
        self.assertIsNone(pool.fresh(BLUE, 2))
        failure = yield self.assertFailure(self.acquire(pool), UpstreamError)
        self.assertEqual(failure.client_reply, messages.UNREACHABLE.text)
        yield self.until(lambda: len(pool) == 0)


NEVER = object()


class Logins:
    """Who upstream connections log in as: a tenant's login, an error, or NEVER; the master if not
    given.
    """

    def __init__(self, **logins: object) -> None:
        self._logins = logins

    async def login(self, tenant: Tenant, master_password: bytes) -> object:
        found = self._logins.get(tenant.namespace)
        if isinstance(found, Exception):
            raise found
        if found is NEVER:
            await defer.Deferred()
        return found

    def forget(self, tenant: Tenant) -> None:
        pass


class QueueTests(PoolCase):
    """More callers wait than are served at once; each has a result of its own."""

    def stopped(self) -> None:
        """Stops Redis: it takes connections and answers nothing until `goes_on`."""
        os.kill(self.server.pid, signal.SIGSTOP)
        self.addCleanup(self.goes_on)

    def goes_on(self) -> None:
        os.kill(self.server.pid, signal.SIGCONT)

    def logged(self, pool: ConnectionPool) -> list[dict]:
        events: list[dict] = []
        pool._faults._log = Log(observer=events.append)
        return events

    @defer.inlineCallbacks
    def test_one_that_is_given_up_concerns_nobody_else(self):
        pool = self.pool()
        events = self.logged(pool)
        self.stopped()
        under_way = [self.acquire(pool) for _ in range(bounds.ACQUIRING)]
        waiting = [self.acquire(pool) for _ in range(5)]
        late = self.acquire(pool, GREEN)
        yield self.until(lambda: len(pool) == bounds.ACQUIRING)
        for given_up in (under_way[0], under_way[100], waiting[0]):
            given_up.cancel()
            self.failureResultOf(given_up, defer.CancelledError)
        for other in (*under_way[1:100], *under_way[101:], *waiting[1:], late):
            self.assertNoResult(other)
        # The attempts of cancelled callers are used by others.
        self.assertEqual(len(pool), bounds.ACQUIRING)
        self.goes_on()
        upstream = yield late
        self.assertEqual(upstream.tenant, GREEN)
        yield defer.gatherResults([*under_way[1:100], *under_way[101:], *waiting[1:]])
        self.assertEqual(events, [])

    @defer.inlineCallbacks
    def test_all_of_a_tenant_are_given_up(self):
        """If all of a tenant's callers cancel, the others get connections and none is left over."""
        pool = self.pool()
        events = self.logged(pool)
        self.stopped()
        blue = [self.acquire(pool) for _ in range(bounds.ACQUIRING + 100)]
        green = [self.acquire(pool, GREEN) for _ in range(20)]
        yield self.until(lambda: len(pool) == bounds.ACQUIRING)
        for given_up in blue:
            given_up.cancel()
            self.failureResultOf(given_up, defer.CancelledError)
        self.goes_on()
        upstreams = yield defer.gatherResults(green)
        self.assertEqual({upstream.tenant for upstream in upstreams}, {GREEN})
        yield self.until(lambda: len(pool) == len(green))
        self.assertEqual(events, [])

    @defer.inlineCallbacks
    def test_while_its_name_is_looked_up(self):
        """A caller that cancels during the name look-up causes no log line about that name."""
        pool = self.pool()
        events = self.logged(pool)
        given_up, other = self.acquire(pool), self.acquire(pool)
        given_up.cancel()
        self.failureResultOf(given_up, defer.CancelledError)
        yield other
        self.assertEqual(events, [])

    @defer.inlineCallbacks
    def test_a_delay_of_the_proxy_s_own_is_not_redis_s(self):
        """Time in which the reactor was busy does not count against Redis."""
        pool = self.pool()
        events = self.logged(pool)
        self.stopped()
        leases = [self.acquire(pool) for _ in range(3)]
        yield self.until(lambda: len(pool) == len(leases))
        self.goes_on()
        self.reactor.clock.advance(12)
        yield defer.gatherResults(leases)
        self.assertEqual(events, [])

    @defer.inlineCallbacks
    def test_one_tenants_fault_is_not_the_others(self):
        """A tenant whose user is unknown, or cannot be created, does not keep others from
        connections.
        """
        for fault in ((b"nobody", b"x"), AclUserError("no user", passing=True), AclUserError("no user", passing=False)):
            pool = self.pool(acl_users=Logins(blue=fault))
            blue = [self.assertFailure(self.acquire(pool), UpstreamError) for _ in range(bounds.ACQUIRING + 5)]
            upstream = yield self.acquire(pool, GREEN)
            self.assertEqual(upstream.tenant, GREEN)
            yield defer.gatherResults(blue)

    @defer.inlineCallbacks
    def test_one_that_takes_too_long_while_redis_can_be_reached(self):
        pool = self.pool(acl_users=Logins(blue=NEVER))
        blue = [self.assertFailure(self.acquire(pool), UpstreamError) for _ in range(bounds.ACQUIRING)]
        late = self.acquire(pool, GREEN)
        yield self.until(
            lambda: len(pool) == bounds.ACQUIRING and all(upstream.opened is not None for upstream in pool._connections)
        )
        self.reactor.clock.advance(5)
        self.assertEqual({error.client_reply for error in (yield defer.gatherResults(blue))}, {messages.UNREACHABLE.text})
        self.assertEqual((yield late).tenant, GREEN)

    @defer.inlineCallbacks
    def test_redis_that_is_away_is_told_to_all_that_wait(self):
        for away in ("closed", "silent"):
            pool = self.pool()
            if away == "closed":
                pool.use(BackendAddress(host="127.0.0.1", port=free_port()))
            else:
                self.stopped()
            leases = [self.acquire(pool, tenant) for tenant in (BLUE, GREEN) for _ in range(bounds.ACQUIRING)]
            failures = defer.gatherResults([self.assertFailure(acquire, UpstreamError) for acquire in leases])
            done: list[object] = []
            failures.addCallback(done.extend)
            began = self.reactor.seconds()
            yield self.until(lambda done=done: done, passing=0.05)
            self.assertEqual({error.client_reply for error in done}, {messages.UNREACHABLE.text})
            # The waiting callers were not tried one after the other.
            self.assertLess(self.reactor.seconds() - began, 9)

    @defer.inlineCallbacks
    def test_many_that_end_at_once(self):
        """Thousands of turns that end at once do not make a stack as deep as the queue is long."""
        pool = self.pool()
        self.stopped()
        under_way = [self.acquire(pool) for _ in range(bounds.ACQUIRING)]
        waiting = [defer.Deferred.fromCoroutine(pool.acquire(GREEN)) for _ in range(3000)]
        pool.fresh = lambda tenant, protocol: SimpleNamespace(address=self.address, stale=False, has_acl_user=True)
        under_way[0].cancel()
        self.failureResultOf(under_way[0], defer.CancelledError)
        for acquire in waiting:
            self.successResultOf(acquire)
        del pool.fresh
        self.goes_on()
        yield defer.gatherResults(under_way[1:])

    @defer.inlineCallbacks
    def test_what_resp_does_not_allow_is_told_twice_a_minute(self):
        pool = self.pool()
        events = self.logged(pool)
        for _ in range(3):
            for _ in range(20):
                upstream = yield self.acquire(pool)
                upstream.dataReceived(b"+what\r\n")
            self.reactor.clock.advance(QUIET)
        self.assertEqual(
            [event["log_format"] for event in events],
            ["{upstream} sent a reply that the proxy did not expect: {reason}"] * 3,
        )
        yield self.until(lambda: len(pool) == 0)


class Fake(Protocol):
    """A server that answers each command with one of `replies`, by the command's name. An empty
    reply closes the connection. After an error, it does not answer the commands behind.
    """

    replies: ClassVar[dict[bytes, bytes]] = {}
    opened: ClassVar[list[Fake]] = []

    def connectionMade(self) -> None:
        self.opened.append(self)

    def dataReceived(self, data: bytes) -> None:
        for name in re.findall(rb"\*\d+\r\n\$\d+\r\n([A-Z]+)\r\n", data):
            reply = self.replies[name]
            self.transport.write(reply)
            if not reply:
                self.transport.loseConnection()
            if not reply or reply.startswith(b"-"):
                break


class HeldTests(PoolCase):
    """What waits while Redis is away."""

    def fake(self, password: bytes = b"x", **replies: bytes) -> BackendAddress:
        Fake.replies.clear()
        Fake.opened.clear()
        self.answer(PING=b"+PONG\r\n", AUTH=b"+OK\r\n", CLIENT=b"+OK\r\n", SELECT=b"+OK\r\n")
        self.answer(**replies)
        port = reactor.listenTCP(0, Factory.forProtocol(Fake), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return BackendAddress(host="127.0.0.1", port=port.getHost().port, password=password)

    def answer(self, **replies: bytes) -> None:
        Fake.replies.update({name.encode(): reply for name, reply in replies.items()})

    @defer.inlineCallbacks
    def test_an_idle_connection_that_hung_shows_when_redis_is_back(self):
        """Nobody else opens a connection: there is no base, and the idle connections are enough."""
        pool = self.pool(hold=60.0)
        upstream, other = yield defer.gatherResults([self.acquire(pool), self.acquire(pool, GREEN)])
        upstream.release(clean=True)
        other.release(clean=True)
        self.reactor.clock.advance(bounds.FRESH_SECONDS + 0.1)
        os.kill(self.server.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.server.pid, signal.SIGCONT)
        acquired = self.acquire(pool)
        self.reactor.clock.advance(5)
        yield self.until(lambda: len(pool) == 1)
        self.assertNoResult(acquired)
        os.kill(self.server.pid, signal.SIGCONT)
        began = self.reactor.seconds()
        yield self.until(lambda: acquired.called, passing=0.05)
        self.assertEqual((yield acquired).tenant, BLUE)
        self.assertLess(self.reactor.seconds() - began, 10)

    @defer.inlineCallbacks
    def test_all_wait_for_one_attempt(self):
        """Whether Redis loads its data, or has too many clients."""
        for password, error in (
            (b"x", b"-LOADING Redis is loading the dataset in memory\r\n"),
            (b"", b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n"),
            (b"", b"-ERR max number of clients reached\r\n"),
            (b"", b""),
        ):
            pool = self.pool(hold=60.0)
            pool.use(self.fake(password, PING=error))
            acquired = [self.acquire(pool, tenant) for tenant in (BLUE, GREEN) for _ in range(20)]
            events = []
            self.patch(Log, "write", lambda _, line, events=events, **fields: events.append(line))
            end = self.reactor.seconds() + 10
            yield self.until(lambda end=end: self.reactor.seconds() >= end, passing=0.02)
            self.assertTrue(pool.refused)
            self.assertEqual(events, [messages.REDIS_NO_CONNECTION])
            self.assertLess(len(Fake.opened), 40 + 10 / 0.1)
            self.assertFalse(any(each.called for each in acquired))
            self.answer(PING=b"+PONG\r\n")
            yield self.until(lambda acquired=acquired: all(each.called for each in acquired), passing=0.02)
            yield defer.gatherResults(acquired)
            self.assertEqual(events, [messages.REDIS_NO_CONNECTION, messages.REDIS_USABLE_AGAIN])
            yield pool.stopService()

    @defer.inlineCallbacks
    def test_an_error_at_the_login_leaves_no_failure_behind(self):
        """Also not the failure of a command that was sent behind the refused one."""
        for name, error in (("AUTH", b"-ERR invalid password\r\n"), ("SELECT", b"-ERR DB index is out of range\r\n")):
            pool = self.pool(hold=60.0)
            pool.use(self.fake(**{name: error}))
            failure = yield self.assertFailure(self.acquire(pool), UpstreamError)
            self.assertFalse(failure.passing)
            yield pool.stopService()
            gc.collect()
            self.assertEqual(self.flushLoggedErrors(), [])


def _run(server: RedisServer, script: str) -> None:
    """Runs a script until somebody ends it."""
    with contextlib.suppress(redis.ResponseError):
        server.client().eval(script, 0)


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def _kill(client: redis.Redis) -> None:
    with contextlib.suppress(redis.ResponseError):
        client.script_kill()
