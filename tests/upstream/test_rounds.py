"""`upstream.rounds`: commands that may keep Redis busy wait in a multiplexed connection."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import task
from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds
from redisproxy.resp.framing import encode
from redisproxy.session.pending import WINDOWED, PendingReplies, ReplyBatch
from redisproxy.tenants.model import Tenant
from redisproxy.tenants.window import Window
from redisproxy.upstream.multiplexed import MultiplexedConnection
from redisproxy.upstream.tenant_pool import TenantPool

KEYS, GET, TIME, PING = (encode([word]) for word in (b"KEYS", b"GET", b"TIME", b"PING"))
WIDE = bounds.WINDOW_WIDE


def time(seconds: float) -> bytes:
    """Returns Redis's reply to TIME."""
    micro = b"%d" % round(seconds % 1 * 1_000_000)
    return b"*2\r\n$1\r\n%d\r\n$%d\r\n%b\r\n" % (seconds, len(micro), micro)


class Connection:
    """A connection to a Redis that the test plays."""

    def __init__(self) -> None:
        self.written = b""

    def carry(self, user: object, pressed: object, received: Callable[[bytes], None]) -> PendingReplies:
        self.received = received
        self.pending = PendingReplies()
        return self.pending

    def write(self, data: bytes) -> None:
        self.written += data

    def takes(self) -> bytes:
        """Returns what was written since the last call."""
        written, self.written = self.written, b""
        return written

    def finish(self) -> None:
        self.written = b""


class Client:
    """Receives replies, as a session's queue does."""

    def __init__(self) -> None:
        self.items: list[ReplyBatch] = []
        self.heard = b""
        self.lost = 0

    def divide(self, batch: ReplyBatch, first: ReplyBatch) -> None:
        self.items.insert(self.items.index(batch), first)

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        self.heard += piece
        if not batch.count:
            assert self.items.pop(0) is batch

    def upstream_lost(self, batch: ReplyBatch) -> None:
        self.lost += 1


class Flight:
    """Commands of the same tenant over another connection."""

    def __init__(self, commands: int) -> None:
        self.commands = commands
        self.since = 0.0

    def hasten(self) -> None:
        pass


class RoundsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.window = Window(self.clock.seconds, self.clock.callLater)
        while not self.window.wide:
            self.window.sent(flight := Flight(self.window.size))
            self.window.answered(flight)
        self.connection = Connection()
        pool = TenantPool(None, self.clock, Tenant("team-blue", 3), 2)
        pool._open = lambda: None
        self.upstream = MultiplexedConnection(self.connection, pool, self.clock)
        self.client = Client()

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def run_of(self, count: int, needed: int | None = None, discard: int = 0) -> ReplyBatch:
        batch = ReplyBatch(self.client, count, WINDOWED, discard)
        self.client.items.append(batch)
        needed = count if needed is None else needed
        self.upstream.send_in_rounds(KEYS * count, batch, needed, self.window)
        return batch

    def plain(self, data: bytes = GET) -> None:
        batch = ReplyBatch(self.client, 1)
        self.client.items.append(batch)
        self.upstream.send(data, batch)

    def turn(self) -> bytes:
        """Ends the turn of the reactor. Returns what Redis got."""
        self.clock.advance(0)
        return self.connection.takes()

    def redis(self, data: bytes) -> bytes:
        self.connection.received(data)
        return self.connection.takes()

    def test_a_round_has_as_many_as_have_places_and_the_next_one_comes_behind_it(self) -> None:
        self.plain()
        for _ in range(3):
            self.run_of(WIDE // 2)
            self.plain()
        half = KEYS * (WIDE // 2)
        self.assertEqual(self.turn(), GET + TIME + half + GET + half + TIME + GET)
        self.assertTrue(self.upstream.in_rounds)
        self.assertEqual(
            self.redis(b":0\r\n" + time(1) + b":1\r\n" * (WIDE // 2) + b":2\r\n" + b":3\r\n" * (WIDE // 2)), b""
        )
        self.assertEqual(self.redis(time(1.001)), TIME + half + TIME + GET)
        self.assertFalse(self.upstream.in_rounds)
        self.redis(b":4\r\n" + time(2) + b":5\r\n" * (WIDE // 2) + time(2) + b":6\r\n")
        order = b":0\r\n" + b":1\r\n" * 8 + b":2\r\n" + b":3\r\n" * 8 + b":4\r\n" + b":5\r\n" * 8 + b":6\r\n"
        self.assertEqual(self.client.heard, order)
        self.assertEqual((self.client.items, self.window.unused), ([], self.window.size))

    def test_plain_commands_do_not_wait_for_a_round_that_is_written(self) -> None:
        self.plain()
        self.run_of(1)
        self.assertEqual(self.turn(), GET + KEYS + TIME)
        self.plain()
        self.assertEqual(self.turn(), GET)
        self.run_of(2)
        self.assertEqual(self.turn(), b"", "one round at a time")
        self.assertEqual(self.redis(b":0\r\n:1\r\n" + time(1)), KEYS * 2 + TIME)
        self.redis(b":2\r\n:3\r\n:4\r\n" + time(1))
        self.assertEqual(self.client.heard, b":0\r\n:1\r\n:2\r\n:3\r\n:4\r\n")

    def test_after_long_ones_each_round_has_one(self) -> None:
        self.plain()
        self.run_of(WIDE)
        self.run_of(3, discard=2)
        self.plain()
        self.turn()
        self.clock.advance(0.5)
        self.assertEqual(self.redis(b":0\r\n" + time(1) + b":1\r\n" * WIDE + time(1.5)), TIME + KEYS + TIME)
        self.assertEqual((self.window.wide, self.window.size), (False, 1))
        self.assertEqual(self.redis(time(2) + b":2\r\n" + time(2.1)), TIME + KEYS + TIME)
        self.assertEqual(self.redis(time(2) + b":3\r\n" + time(2.1)), TIME + KEYS + TIME + GET)
        self.redis(time(2) + b":4\r\n" + time(2.1) + b":5\r\n")
        self.assertEqual(self.client.heard, b":0\r\n" + b":1\r\n" * WIDE + b":4\r\n:5\r\n", "two are discarded")
        self.assertEqual(self.client.items, [])

    def test_a_transaction_is_not_divided(self) -> None:
        self.plain()
        self.run_of(WIDE - 1)
        self.run_of(4, needed=2)
        self.assertEqual(self.turn(), GET + TIME + KEYS * (WIDE - 1) + TIME)
        self.window.size = 1
        self.window._most = 1
        self.assertEqual(self.redis(b":0\r\n" + time(1) + b":1\r\n" * (WIDE - 1) + time(1)), KEYS * 4 + TIME)
        self.redis(b":2\r\n" * 4 + time(1))
        self.assertEqual(self.client.items, [])

    def test_others_of_the_tenant_have_the_places(self) -> None:
        self.window.sent(flight := Flight(WIDE))
        self.plain()
        self.run_of(2)
        self.assertEqual(self.turn(), GET)
        self.assertTrue(self.window.waited_for)
        self.redis(b":0\r\n")
        self.window.answered(flight)
        self.assertEqual(self.connection.takes(), KEYS * 2 + TIME)
        self.redis(b":1\r\n" * 2 + time(1))
        self.assertEqual(self.client.heard, b":0\r\n:1\r\n:1\r\n")

    def test_no_command_of_the_proxy_goes_between_rounds(self) -> None:
        self.plain()
        self.run_of(WIDE)
        self.run_of(1)
        self.upstream.send_behind_next(PING, lambda: ReplyBatch(self.client, 1, discard=1))
        self.assertEqual(self.turn(), GET + TIME + KEYS * WIDE + TIME)
        self.assertEqual(self.redis(b":0\r\n" + time(1) + b":1\r\n" * WIDE + time(1)), KEYS + TIME + PING)

    def test_replies_that_come_in_pieces(self) -> None:
        self.plain()
        self.run_of(WIDE)
        self.turn()
        self.connection.received(b":0\r\n" + time(1)[:5])
        self.connection.received(time(1)[5:] + b":1\r\n" * WIDE + time(1)[:7])
        self.assertEqual(self.window.unused, 0)
        self.connection.received(time(1)[7:])
        self.assertEqual(self.window.unused, self.window.size)

    def test_the_connection_is_lost(self) -> None:
        self.plain()
        self.run_of(WIDE)
        self.run_of(1)
        self.turn()
        self.upstream.upstream_lost()
        self.assertEqual((self.client.lost, self.window.unused), (1, 0))
        self.clock.advance(bounds.WINDOW_LOST_SECONDS)
        self.assertEqual((self.window.unused, self.connection.takes()), (self.window.size, b""))

    def test_it_is_lost_while_it_waits_for_places(self) -> None:
        self.window.sent(flight := Flight(WIDE))
        self.plain()
        self.run_of(1)
        self.turn()
        self.upstream.upstream_lost()
        self.assertFalse(self.window.waited_for)
        self.window.answered(flight)
        self.assertEqual(self.connection.takes(), b"")

    def test_its_tenant_leaves(self) -> None:
        self.plain()
        self.run_of(WIDE)
        self.run_of(1)
        self.turn()
        self.upstream.give_up()
        self.assertFalse(self.upstream.in_rounds)
        self.redis(b":0\r\n" + time(1) + b":1\r\n" * WIDE + time(1))
        self.assertEqual(self.connection.takes(), b"")

    def test_a_long_queue_makes_it_busy(self) -> None:
        self.plain()
        while not self.upstream.busy:
            self.run_of(WIDE)
        self.assertTrue(self.upstream.overloaded)
        self.turn()
        replies = time(1) + b":1\r\n" * WIDE + time(1)
        self.redis(b":0\r\n" + replies)
        while self.client.items:
            self.redis(replies)
        self.assertFalse(self.upstream.busy or self.upstream.overloaded)
