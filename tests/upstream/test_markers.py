"""The connection that is subscribed to this process's markers: when it is open, what it is
subscribed to, and what is done when it is lost.
"""

from __future__ import annotations

from twisted.internet import defer, task
from twisted.internet.error import ConnectionRefusedError
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.ops.logs import Log
from redisproxy.resp.framing import encode
from redisproxy.session.pubsub import own_name
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.upstream import markers
from redisproxy.upstream.client import ControlError
from redisproxy.upstream.markers import Markers

from ..support.client_pool import Pool, Upstream

BLUE = Tenant("team-blue", 3)
A, B, C = (markers.of_pattern(BLUE, each) for each in (b"team-blue:a*", b"team-blue:b*", b"team-blue:c*"))


def subscribed(*names: bytes, word: bytes = b"subscribe") -> bytes:
    return b"".join(b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(word), word, len(name), name) for name in names)


def asks(word: bytes, *names: bytes) -> set[bytes]:
    return {encode([word, name]) for name in names}


class MarkersTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.pool = Pool(self.clock)
        self.lost: list[int] = []
        self.markers = Markers(self.clock, self.pool.client, lambda: self.lost.append(1))
        self.events: list[dict] = []
        self.markers._log = Log(observer=self.events.append)
        self.markers.use(BackendAddress("here"))
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.markers.stop()
        self.clock.advance(0)
        self.assertEqual([upstream.lost for upstream in self.pool.upstreams], [True] * len(self.pool.upstreams))

    @property
    def upstream(self) -> Upstream:
        return self.pool.upstreams[-1]

    def mark(self, *names: bytes) -> defer.Deferred:
        marking = defer.Deferred.fromCoroutine(self.markers.mark(list(names)))
        self.clock.advance(0)
        return marking

    def marked(self, *names: bytes) -> None:
        marking = self.mark(*names)
        self.assertGets(b"SUBSCRIBE", *names)
        self.upstream.redis(subscribed(*names))
        self.successResultOf(marking)

    def assertGets(self, word: bytes, *names: bytes) -> None:
        """Asserts that Redis was sent this command for each of the names, in any order."""
        sent = self.upstream.gets()
        expected = asks(word, *names)
        self.assertEqual(len(sent), sum(map(len, expected)))
        for command in expected:
            self.assertIn(command, sent)

    def test_one_connection_while_there_are_markers(self) -> None:
        self.assertEqual(self.pool.upstreams, [])
        self.marked(A, B)
        self.markers.unmark([A, C])
        self.assertGets(b"UNSUBSCRIBE", A)
        self.upstream.redis(subscribed(A, word=b"unsubscribe"))
        self.clock.advance(bounds.QUERY_IDLE_SECONDS)
        self.assertFalse(self.upstream.dropped)
        self.markers.unmark([B])
        self.assertGets(b"UNSUBSCRIBE", B)
        self.upstream.redis(subscribed(B, word=b"unsubscribe"))
        self.clock.advance(bounds.QUERY_IDLE_SECONDS - 1)
        self.marked(C)  # within that time it is used again
        self.clock.advance(bounds.QUERY_IDLE_SECONDS)
        self.assertEqual((len(self.pool.upstreams), self.upstream.dropped), (1, False))
        self.markers.unmark([C])
        self.upstream.redis(subscribed(C, word=b"unsubscribe"))
        self.clock.advance(bounds.QUERY_IDLE_SECONDS)
        self.assertTrue(self.upstream.dropped)
        self.clock.advance(bounds.QUERY_IDLE_SECONDS)
        self.assertEqual(len(self.pool.upstreams), 1)

    def test_after_a_loss_all_are_set_again(self) -> None:
        self.marked(A, B)
        before = self.markers.generation
        self.upstream.lose()
        self.assertEqual((self.lost, self.markers.generation > before), ([1], True))
        waits = self.mark(C)
        self.clock.advance(2)
        self.clock.advance(0)
        self.assertEqual(len(self.pool.upstreams), 2)
        sent = self.upstream.transport.value()
        self.assertGets(b"SUBSCRIBE", A, B, C)
        self.assertNoResult(waits)
        order = sorted((A, B, C), key=lambda name: sent.index(encode([b"SUBSCRIBE", name])))
        self.assertEqual(order[2], C)
        self.upstream.redis(subscribed(*order))
        self.successResultOf(waits)
        self.assertFalse(self.upstream.dropped)

    def test_none_can_be_set_while_redis_is_away(self) -> None:
        self.pool.opening = defer.fail(ConnectionRefusedError())
        marking = self.mark(A)
        self.clock.advance(0)
        error = self.failureResultOf(marking, ControlError).value
        self.assertTrue(error.passing)
        self.pool.opening = None
        self.clock.advance(bounds.QUERY_IDLE_SECONDS)
        self.clock.advance(0)
        self.marked(A)

    def test_it_is_lost_before_redis_answers(self) -> None:
        marking = self.mark(A)
        self.upstream.lose()
        self.assertTrue(self.failureResultOf(marking, ControlError).value.passing)
        self.assertEqual(self.markers._marked, set())

    def test_redis_refuses(self) -> None:
        """The client and the log learn of it. No other marker is lost."""
        self.marked(A)
        marking = self.mark(B)
        self.upstream.gets()
        self.upstream.redis(b"-NOPERM this user has no permissions to access one of the channels\r\n")
        error = self.failureResultOf(marking, ControlError).value
        self.assertEqual((error.client_reply, error.passing), (messages.NOT_ALLOWED.text, False))
        self.assertGets(b"UNSUBSCRIBE", B)
        self.upstream.redis(subscribed(B, word=b"unsubscribe"))
        self.assertFalse(self.upstream.dropped)
        for _ in range(3):
            self.markers.log_refused(error)
        self.assertEqual([event["error"] for event in self.events], [error.reason])

    def test_redis_refuses_to_set_them_again(self) -> None:
        self.marked(A)
        self.upstream.lose()
        self.clock.advance(2)
        self.clock.advance(0)
        self.upstream.redis(b"-NOPERM no\r\n")
        self.assertEqual(len(self.events), 1)

    def test_a_message_ends_the_connection(self) -> None:
        """Nobody but an operator can publish there. No client gets it."""
        self.marked(A)
        message = subscribed(A, word=b"message").replace(b":1\r\n", b"$1\r\nx\r\n")
        self.upstream.redis(message)
        self.assertTrue(self.upstream.dropped)
        self.clock.pump([0, 2, 0])
        self.assertGets(b"SUBSCRIBE", A)
        self.upstream.redis(subscribed(A))
        marking = self.mark(B)
        self.upstream.redis(message)  # in place of the answer
        self.assertTrue(self.failureResultOf(marking, ControlError).value.passing)
        self.assertTrue(self.upstream.dropped)

    def test_another_address(self) -> None:
        self.marked(A)
        former = self.upstream
        self.markers.use(BackendAddress("here"))
        self.assertFalse(former.dropped)
        self.markers.use(BackendAddress("there"))
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertTrue(former.lost)
        self.assertEqual(self.lost, [1])
        self.assertGets(b"SUBSCRIBE", A)
        self.upstream.redis(subscribed(A))
        self.markers.renew()
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertGets(b"SUBSCRIBE", A)
        self.upstream.redis(subscribed(A))

    def test_there_is_no_address(self) -> None:
        self.markers.use(None)
        self.failureResultOf(self.mark(A), ControlError)
        self.assertEqual(self.pool.upstreams, [])

    def test_leaving_after_it_has_stopped(self) -> None:
        self.marked(A)
        self.markers.stop()
        self.markers.unmark([A])
        self.failureResultOf(self.mark(B), ControlError)


class NameTests(unittest.SynchronousTestCase):
    def test_no_tenants_channel_or_pattern_is_a_marker(self) -> None:
        """Whatever a tenant names, Redis gets it with the tenant's prefix, or as a notification."""
        for namespace in ("redisproxy", "redisproxy-patterns", "patterns", "r"):
            tenant = Tenant(namespace, 3)
            for kind in (b"", b"P", b"S"):
                for name in (A, b"*", markers.of_cleaning(BLUE), A.partition(b"/")[2], b"/patterns:team-blue:3:*"):
                    found = own_name(tenant, kind, name)
                    self.assertFalse(found.startswith(b"redisproxy/"))
                    self.assertTrue(found.startswith(namespace.encode() + b":"))

    def test_one_tenants_are_not_anothers(self) -> None:
        for other in (Tenant("team-blue", 33), Tenant("team-blu", 3), Tenant("team-blue-2", 3)):
            self.assertFalse(A.startswith(markers.beginning(other)))
            self.assertFalse(markers.of_pattern(other, b"x").startswith(markers.beginning(BLUE)))
