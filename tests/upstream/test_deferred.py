"""Messages and confirmations that wait for their tenant's turn."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from twisted.internet.address import UNIXAddress
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds
from redisproxy.session.pending import CONFIRMATIONS, ReplyBatch
from redisproxy.session.pubsub import SubscriptionChange
from redisproxy.tenants.model import BackendAddress
from redisproxy.tenants.work import WorkQueue
from redisproxy.upstream.connection import RedisConnection

SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
MESSAGE = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
#: More pieces than a tenant's work of one turn.
MANY = 2 * bounds.WORK_BUDGET * bounds.WORK_PIECES


class Session:
    """A session that hears messages."""

    hidden = 0

    def __init__(self, queue: WorkQueue, namespace: str) -> None:
        self.work = queue.of(namespace)
        self.heard = b""
        self.lost = False

    def upstream_full(self, full: bool) -> None:
        pass

    def upstream_lost(self, *_: object) -> None:
        self.lost = True

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        self.heard += piece

    def confirmed(self, update: SubscriptionChange, refused: bool) -> bool:
        return update.joins

    def message(self, piece: bytes, whole: bool) -> None:
        self.heard += piece

    def bare(self, channel: bytes) -> bytes:
        return channel


class DeferredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.queue = WorkQueue(lambda: 0.0, self.calls.append)
        self.pool = SimpleNamespace(
            release=lambda upstream, clean: upstream.detach(),
            lost=lambda upstream: None,
            answered_wrongly=lambda upstream, reason: self.wrong.append(reason),
        )
        self.wrong: list[str] = []

    def subscribed(self, namespace: str = "blue") -> tuple[RedisConnection, Session]:
        upstream = RedisConnection(BackendAddress("redis"), self.pool)
        upstream.makeConnection(StringTransport(hostAddress=UNIXAddress(None)))
        session = Session(self.queue, namespace)
        upstream.carry_session(session)
        self.change(upstream, session, True)
        upstream.dataReceived(SUBSCRIBED)
        session.heard = b""
        return upstream, session

    def change(self, upstream: RedisConnection, session: Session, joins: bool) -> None:
        change = (session, SubscriptionChange(b"", joins, ()))
        upstream.send(b"", ReplyBatch(session, 1, CONFIRMATIONS, subscription=change))

    def turn(self) -> None:
        calls, self.calls[:] = self.calls[:], []
        for call in calls:
            call()

    def waiting(self) -> tuple[RedisConnection, Session]:
        """Returns a connection with a message that waits."""
        upstream, _ = self.subscribed()
        late, session = self.subscribed()
        upstream.dataReceived(MESSAGE * MANY)
        late.dataReceived(MESSAGE)
        self.assertEqual((session.heard, late.transport.producerState), (b"", "paused"))
        return late, session

    def test_another_tenant_does_not_wait(self) -> None:
        blue = [self.subscribed() for _ in range(10)]
        green, listener = self.subscribed("green")
        for upstream, _ in blue:
            upstream.dataReceived(MESSAGE * MANY)
        self.assertEqual(sum(bool(session.heard) for _, session in blue), 1)
        green.dataReceived(MESSAGE)
        self.assertEqual(listener.heard, MESSAGE)
        for done in range(2, 11):
            self.turn()
            self.assertEqual(sum(bool(session.heard) for _, session in blue), done)
            self.assertEqual(sum(upstream.transport.producerState == "paused" for upstream, _ in blue), 10 - done)
        self.assertEqual({session.heard for _, session in blue}, {MESSAGE * MANY})

    def test_without_a_flood_none_waits(self) -> None:
        upstream, session = self.subscribed()
        for _ in range(100):
            upstream.dataReceived(MESSAGE * (bounds.WORK_BUDGET * bounds.WORK_PIECES // 2 - 2))
            self.assertEqual(upstream.transport.producerState, "producing")
            self.turn()
        self.assertEqual(session.heard.count(MESSAGE), 100 * (bounds.WORK_BUDGET * bounds.WORK_PIECES // 2 - 2))

    def test_more_that_comes_waits_behind(self) -> None:
        upstream, session = self.waiting()
        upstream.dataReceived(MESSAGE[:10])
        self.turn()
        upstream.dataReceived(MESSAGE[10:])
        self.assertEqual((session.heard, upstream.transport.producerState), (MESSAGE * 2, "producing"))

    def test_who_uses_the_connection_next_gets_none_of_it(self) -> None:
        upstream, session = self.waiting()
        upstream.release(clean=False)
        self.assertEqual((self.queue.waiting, upstream.transport.producerState), (0, "producing"))
        other = Session(self.queue, "blue")
        upstream.carry_session(other)
        self.turn()
        self.assertEqual((session.heard, other.heard), (b"", b""))

    def test_one_that_is_released_in_its_turn(self) -> None:
        upstream, session = self.waiting()
        self.change(upstream, session, False)
        session.confirmed = lambda *_: upstream.release(clean=True)
        upstream.dataReceived(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n")
        self.turn()
        self.assertIn(MESSAGE, session.heard)
        self.assertEqual((upstream.carries(session), upstream.transport.producerState), (False, "producing"))

    def test_a_lost_connection_has_no_turn(self) -> None:
        upstream, session = self.waiting()
        upstream.connectionLost()
        self.turn()
        self.assertEqual((self.queue.waiting, session.heard, session.lost), (0, b"", True))

    def test_one_that_was_half_closed_passes_on_all_that_redis_has_written(self) -> None:
        upstream, session = self.waiting()
        upstream.transport.loseWriteConnection = lambda: None
        upstream.finish()
        self.assertEqual(upstream.transport.producerState, "producing")
        upstream.connectionLost()
        self.assertEqual((self.queue.waiting, session.heard, session.lost), (0, MESSAGE, True))

    def test_what_resp_does_not_allow_closes_this_connection_alone(self) -> None:
        upstream, _ = self.waiting()
        upstream.dataReceived(b"?")
        other, session = self.subscribed("green")
        self.turn()
        self.assertEqual((len(self.wrong), upstream.transport.disconnected), (1, True))
        other.dataReceived(MESSAGE)
        self.assertEqual(session.heard, MESSAGE)

    def test_a_bug_closes_this_connection_alone(self) -> None:
        upstream, session = self.waiting()
        session.message = None
        self.turn()
        self.assertEqual((len(self.flushLoggedErrors(TypeError)), upstream.transport.disconnected), (1, True))
