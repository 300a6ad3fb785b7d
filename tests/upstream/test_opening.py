"""Connections that are being opened, and who gets them; attempts that are cancelled."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet import defer, error, reactor, task
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IResolutionReceiver
from twisted.internet.protocol import Factory, Protocol
from twisted.trial import unittest

from redisproxy.tenants.model import BackendAddress
from redisproxy.upstream.connection import RedisUnreachable, UpstreamError
from redisproxy.upstream.endpoint import connected, endpoint_for
from redisproxy.upstream.opening import Openings, RedisMoved
from redisproxy.upstream.probe import calls_itself_replica

from ..support.servers import free_port

HERE, THERE = BackendAddress("here"), BackendAddress("there")
LIMIT = 5.0


class Connection:
    """A connection to Redis that is open."""

    def __init__(self) -> None:
        self.dropped = self.stale = False

    def drop(self) -> None:
        self.dropped = True


class OpeningsTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.begun: list[tuple[BackendAddress, defer.Deferred]] = []
        self.openings = Openings(self.clock, LIMIT, self.connect)
        self.addCleanup(lambda: self.assertEqual((self.clock.getDelayedCalls(), len(self.openings)), ([], 0)))

    async def connect(self, address: BackendAddress) -> Connection:
        self.begun.append((address, defer.Deferred()))
        return await self.begun[-1][1]

    def open(self, address: BackendAddress = HERE) -> defer.Deferred:
        return defer.Deferred.fromCoroutine(self.openings.open(address))

    def ends(self, number: int, result: object = None) -> object:
        """Ends the attempt of this number: with a connection, or with `result`."""
        result = result or Connection()
        self.begun[number][1].callback(result)
        return result

    def test_each_has_its_own(self) -> None:
        first, second = self.open(), self.open()
        one, other = self.ends(1), self.ends(0)
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (other, one))

    def test_one_that_was_left_is_for_the_next(self) -> None:
        first, second = self.open(), self.open()
        first.cancel()
        self.failureResultOf(first, defer.CancelledError)
        third = self.open()
        self.assertEqual(len(self.begun), 2)
        self.assertIs(self.ends(0), self.successResultOf(third))
        self.assertIs(self.ends(1), self.successResultOf(second))

    def test_one_that_led_to_another_server_is_stale_and_for_nobody_else(self) -> None:
        kept, left, leaves = self.open(), self.open(), self.open()
        left.cancel()
        self.failureResultOf(left, defer.CancelledError)
        self.openings.renew()
        leaves.cancel()
        self.failureResultOf(leaves, defer.CancelledError)
        new = self.open()
        self.assertEqual(len(self.begun), 4)
        former, latter = self.ends(0), self.ends(3)
        self.assertIs(self.successResultOf(kept), former)
        self.assertIs(self.successResultOf(new), latter)
        self.assertEqual((former.stale, latter.stale), (True, False))
        self.assertEqual((self.ends(1).dropped, self.ends(2).dropped), (True, True))

    def test_who_comes_and_goes_again_and_again_opens_one(self) -> None:
        for _ in range(1000):
            asked = self.open()
            asked.cancel()
            self.failureResultOf(asked, defer.CancelledError)
        last = self.open()
        self.assertEqual(len(self.begun), 1)
        self.assertIs(self.ends(0), self.successResultOf(last))

    def test_nobody_waits_for_it_when_it_is_there(self) -> None:
        asked = self.open()
        asked.cancel()
        self.failureResultOf(asked, defer.CancelledError)
        self.assertTrue(self.ends(0).dropped)

    def test_nobody_hears_that_one_failed_which_nobody_waits_for(self) -> None:
        asked = self.open()
        asked.cancel()
        self.failureResultOf(asked, defer.CancelledError)
        self.begun[0][1].errback(error.ConnectionRefusedError())
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_faults_are_passed_on(self) -> None:
        for fault in (error.ConnectionRefusedError(), RedisUnreachable("gone"), ValueError()):
            asked = self.open()
            self.begun[-1][1].errback(fault)
            self.assertIs(self.failureResultOf(asked).value, fault)

    def test_the_limit(self) -> None:
        asked = self.open()
        self.clock.advance(LIMIT)
        self.failureResultOf(asked, defer.TimeoutError)

    def test_the_limit_of_one_that_was_left_is_not_the_next_one_s(self) -> None:
        first = self.open()
        self.clock.advance(LIMIT - 1)
        first.cancel()
        self.failureResultOf(first, defer.CancelledError)
        second = self.open()
        self.clock.advance(1)
        self.assertNoResult(second)
        self.assertEqual(len(self.begun), 2)
        self.assertIs(self.ends(1), self.successResultOf(second))

    def test_another_place_is_another_opening(self) -> None:
        first = self.open()
        first.cancel()
        self.failureResultOf(first, defer.CancelledError)
        second = self.open(THERE)
        self.assertEqual([address for address, _ in self.begun], [HERE, THERE])
        self.assertTrue(self.ends(0).dropped)
        self.assertIs(self.ends(1), self.successResultOf(second))

    def test_those_to_a_place_that_was_left_are_given_up(self) -> None:
        here, there = self.open(), self.open(THERE)
        self.openings.give_up(keep=THERE)
        self.failureResultOf(here, RedisMoved)
        self.assertIs(self.ends(1), self.successResultOf(there))
        last = self.open(THERE)
        self.openings.give_up()
        self.assertIsInstance(self.failureResultOf(last, UpstreamError).value, RedisMoved)


class Resolver:
    """Finds names when the test says so."""

    def __init__(self) -> None:
        self.asked: list[IResolutionReceiver] = []

    def resolveHostName(self, receiver: IResolutionReceiver, *_: object, **__: object) -> None:
        self.asked.append(receiver)


class EndpointTests(unittest.TestCase):
    def test_an_address_is_not_looked_up(self) -> None:
        """A look-up takes a thread for each connection."""
        connects: list[tuple[object, ...]] = []
        fake = SimpleNamespace(connectTCP=lambda *given, **_: connects.append(given[:2]))
        endpoint_for(fake, BackendAddress(host="127.0.0.1", port=6379), LIMIT, None).connect(Factory.forProtocol(Protocol))
        self.assertEqual(connects, [("127.0.0.1", 6379)])
        named = endpoint_for(reactor, BackendAddress(host="redis.example", port=6379), LIMIT, None)
        self.assertIsInstance(named, HostnameEndpoint)


class ConnectedTests(unittest.TestCase):
    """A cancelled attempt fails with CancelledError, whatever error the endpoint has for that."""

    def setUp(self) -> None:
        self.clock = task.Clock()

    def test_while_the_name_is_looked_up(self) -> None:
        resolver = Resolver()
        named = SimpleNamespace(nameResolver=resolver, callLater=self.clock.callLater, seconds=self.clock.seconds)
        endpoint = HostnameEndpoint(named, "127.0.0.1", 6379)
        connecting = connected(endpoint, Factory.forProtocol(Protocol))
        connecting.cancel()
        self.failureResultOf(connecting, defer.CancelledError)
        limited = connected(endpoint, Factory.forProtocol(Protocol)).addTimeout(LIMIT, self.clock)
        self.clock.advance(LIMIT)
        self.failureResultOf(limited, defer.TimeoutError)
        for receiver in resolver.asked:
            receiver.resolutionComplete()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @defer.inlineCallbacks
    def test_while_it_connects(self):
        port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        endpoint = HostnameEndpoint(reactor, "127.0.0.1", port.getHost().port)
        connecting = connected(endpoint, Factory.forProtocol(Protocol))
        yield task.deferLater(reactor, 0)
        connecting.cancel()
        yield self.assertFailure(connecting, defer.CancelledError)

    @defer.inlineCallbacks
    def test_what_is_asked_once(self):
        """A cancelled check of the master fails with CancelledError, and is not taken for an
        answer.
        """
        asked = defer.Deferred.fromCoroutine(
            calls_itself_replica(reactor, BackendAddress(host="127.0.0.1", port=free_port()), LIMIT, None)
        )
        asked.cancel()
        yield self.assertFailure(asked, defer.CancelledError)

    def test_when_it_is_there_all_the_same(self) -> None:
        aborted: list[bool] = []
        connecting: defer.Deferred = defer.Deferred(lambda _: None)
        connecting.cancel = lambda: None  # a canceller that comes too late
        result = connected(SimpleNamespace(connect=lambda _: connecting), None)
        result.cancel()
        self.failureResultOf(result, defer.CancelledError)
        connecting.callback(SimpleNamespace(transport=SimpleNamespace(abortConnection=lambda: aborted.append(True))))
        self.assertEqual(aborted, [True])

    def test_what_comes_of_it(self) -> None:
        for outcome in (object(), error.ConnectionRefusedError()):
            connecting: defer.Deferred = defer.Deferred()
            result = connected(SimpleNamespace(connect=lambda _, c=connecting: c), None)
            if isinstance(outcome, Exception):
                connecting.errback(outcome)
                self.assertIs(self.failureResultOf(result).value, outcome)
            else:
                connecting.callback(outcome)
                self.assertIs(self.successResultOf(result), outcome)
