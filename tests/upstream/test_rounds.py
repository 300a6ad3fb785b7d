"""`upstream.rounds`: commands that may keep Redis busy wait in a multiplexed connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from twisted.internet import defer, task
from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds
from redisproxy.resp.framing import encode
from redisproxy.session.pending import WINDOWED, PendingReplies, ReplyBatch
from redisproxy.tenants.model import Tenant
from redisproxy.tenants.window import Window
from redisproxy.upstream.multiplexed import MultiplexedConnection
from redisproxy.upstream.tenant_pool import TenantPool

KEYS, GET, TIME, PING = (encode([word]) for word in (b"KEYS", b"GET", b"TIME", b"PING"))
WIDE = bounds.WINDOW_MOST


def time(seconds: float) -> bytes:
    """Returns Redis's reply to TIME."""
    micro = b"%d" % round(seconds % 1 * 1_000_000)
    return b"*2\r\n$1\r\n%d\r\n$%d\r\n%b\r\n" % (seconds, len(micro), micro)


class Connection:
    """A connection to a Redis that the test plays."""

    def __init__(self) -> None:
        self.written = b""
        self.paused = self.stale = False
        self.released: bool | None = None

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

    def pause_reading(self, reason: object) -> None:
        self.paused = True

    def resume_reading(self, reason: object) -> None:
        self.paused = False

    def release(self, clean: bool) -> None:
        self.released = clean


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


@dataclass(eq=False)
class Session:
    """A session whose client does not read."""

    replies: Client
    wants_replies = ended = False
    usage = SimpleNamespace(stopped=False)


class Waiter:
    """Another session of the tenant, which waits for places. then: what it does with them."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self._then = then

    def finish(self, result: None) -> bool:
        self._then()
        return True


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
        pool = TenantPool(SimpleNamespace(forget=lambda _: None), self.clock, Tenant("team-blue", 3), 2)
        pool._open = lambda: None
        self.pool = pool
        self.upstream = MultiplexedConnection(self.connection, pool, self.clock)
        self.client = Client()
        self.session = Session(self.client)

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def run_of(self, count: int, needed: int | None = None, discard: int = 0) -> None:
        self.send(KEYS * count, count, count if needed is None else needed, discard)

    def send(self, data: bytes, count: int, needed: int, discard: int = 0) -> None:
        batch = ReplyBatch(self.client, count, WINDOWED, discard)
        self.client.items.append(batch)
        self.upstream.send_in_rounds(data, batch, needed, self.window)

    def plain(self, data: bytes = GET) -> None:
        batch = ReplyBatch(self.client, 1)
        self.client.items.append(batch)
        self.upstream.send(data, batch)

    def narrow(self) -> None:
        """Long commands have left one place."""
        self.window.size = self.window._most = 1
        self.window._count()

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

    def test_what_stands_behind_a_run_that_was_divided_keeps_its_place(self) -> None:
        """Runs knew their places in the queue, and a run that was divided did not tell them that
        they have others now. A transaction was sent in parts, with a TIME in it.
        """
        transaction = encode([b"MULTI"]) + KEYS + encode([b"EXEC"])
        self.narrow()
        self.plain()
        self.run_of(3)
        self.plain()
        self.send(transaction, 3, 1)
        self.plain()
        self.run_of(2)
        self.plain()
        one = KEYS + TIME
        self.assertEqual(self.turn(), GET + one)
        self.assertEqual(self.redis(b":0\r\n:1\r\n" + time(1)), one)
        self.assertEqual(self.redis(b":2\r\n" + time(1)), one + GET)
        self.assertEqual(self.redis(b":3\r\n" + time(1) + b":4\r\n"), transaction + TIME + GET)
        self.assertEqual(self.redis(b":5\r\n:6\r\n:7\r\n" + time(1) + b":8\r\n"), one)
        self.assertEqual(self.redis(b":9\r\n" + time(1)), one + GET)
        self.redis(b":10\r\n" + time(1) + b":11\r\n")
        self.assertEqual(self.client.heard, b"".join(b":%d\r\n" % number for number in range(12)))
        self.assertEqual((self.client.items, self.window.unused), ([], self.window.size))

    def test_bytes_that_wait_are_counted(self) -> None:
        """The bytes of the TIMEs counted, too, so that a queue could grow beyond its limit."""
        self.narrow()
        self.plain()
        for _ in range(9):
            self.run_of(1)
            self.plain()
        self.turn()
        self.redis(b":0\r\n")
        for number in range(9):
            self.assertEqual(self.upstream._queued_size, sum(map(len, self.upstream._queued)), number)
            self.redis(b":0\r\n" + time(1) + b":0\r\n")
        self.assertEqual((self.upstream._queued_size, self.client.items), (0, []))

    def test_others_do_not_wait_behind_long_ones(self) -> None:
        """Sessions use another connection. What waits for a moment is not worth one."""
        replaced: list[object] = []
        self.pool.replace_upstream = replaced.append
        self.plain()
        self.run_of(WIDE)
        self.run_of(2)
        self.turn()
        self.assertEqual(replaced, [])
        self.clock.advance(0.5)
        self.redis(b":0\r\n" + time(1) + b":1\r\n" * WIDE + time(1.5))
        self.assertEqual(replaced, [self.upstream])
        self.redis(time(2) + b":2\r\n" + time(2.1))
        self.redis(time(3) + b":3\r\n" + time(3.1))
        self.assertEqual((self.client.items, len(replaced)), ([], 1))

    def test_a_client_that_does_not_read_has_no_further_rounds(self) -> None:
        """The TIME behind a round counted as a reply that somebody waits for."""
        self.plain()
        self.run_of(WIDE)
        self.run_of(WIDE)
        self.turn()
        self.redis(b":0\r\n" + time(1))
        self.upstream.slow_reader(self.session, bounds.BACKLOG_BYTES)
        self.upstream.settle()
        self.assertTrue(self.connection.paused)
        self.window.wait(waiter := Waiter(), 1)  # as of another session of the tenant
        self.assertFalse(self.connection.paused)
        self.window.leave(waiter)
        self.upstream.settle()
        self.assertTrue(self.connection.paused)
        self.client = Client()
        self.plain()
        self.upstream.settle()
        self.assertFalse(self.connection.paused, "another session waits behind it")
        self.connection.paused = False
        self.upstream.give_up()

    def test_others_that_get_places_write_nothing_before_the_round(self) -> None:
        """Who goes on because a connection is read again may have the queue written at once."""
        self.plain()
        self.turn()
        self.run_of(1)
        self.window.sent(flight := Flight(WIDE))
        self.turn()
        self.plain()

        def settle() -> None:
            self.plain(PING)
            self.upstream.flush()

        self.upstream._rounds._settle = settle
        self.window.wait(Waiter(), WIDE)
        self.window.answered(flight)
        self.assertEqual(self.connection.takes(), KEYS + TIME + GET + PING)
        self.redis(b":0\r\n:1\r\n" + time(1) + b":2\r\n:3\r\n")
        self.assertEqual((self.client.heard, self.client.items), (b":0\r\n:1\r\n:2\r\n:3\r\n", []))
        self.turn()

    def test_a_round_takes_its_places_once(self) -> None:
        """One that began while others went on is still in the window's queue when it ends."""
        self.plain()
        self.turn()
        self.window.sent(flight := Flight(WIDE))
        self.window.wait(Waiter(self.upstream.flush), 1)
        self.run_of(WIDE)
        self.run_of(1)
        self.turn()
        self.window.answered(flight)
        self.assertEqual(self.connection.takes(), TIME + KEYS * WIDE + TIME)
        self.assertEqual(self.redis(b":0\r\n" + time(1) + b":1\r\n" * WIDE + time(1)), KEYS + TIME)
        self.redis(b":2\r\n" + time(1))
        self.assertEqual((self.client.items, self.window.unused), ([], self.window.size))

    def in_use(self) -> None:
        """Redis has one of three commands that wait in the connection that the pool uses."""
        self.pool.enter()
        self.pool.upstream = self.upstream
        self.pool.upstreams.add(self.upstream)
        self.narrow()
        self.plain()
        self.run_of(3)
        self.turn()

    def test_if_nobody_uses_it_any_more_what_waits_is_sent_for_a_moment(self) -> None:
        self.in_use()
        self.pool.leave()
        self.clock.advance(bounds.ROUNDS_SECONDS)
        self.assertFalse(self.upstream.in_rounds)

    def test_if_redis_is_elsewhere_what_waits_is_sent_for_a_moment(self) -> None:
        for stale in (False, True):
            self.setUp()
            self.in_use()
            self.connection.stale = stale
            opening = self.pool._opening = defer.Deferred()
            self.pool._opened(Connection(), opening)
            self.clock.advance(bounds.ROUNDS_SECONDS)
            self.assertEqual(self.upstream.in_rounds, not stale)

    def test_if_its_tenant_is_paused_what_waits_is_sent_for_a_moment(self) -> None:
        self.in_use()
        self.pool.pause()
        self.assertEqual(self.redis(b":0\r\n:1\r\n" + time(1)), KEYS + TIME)
        self.clock.advance(bounds.ROUNDS_SECONDS)
        self.assertFalse(self.upstream.in_rounds)
        self.assertEqual(self.redis(b":2\r\n" + time(1)), b"")
        self.upstream.upstream_lost()
        self.assertEqual(self.client.lost, 1)

    def test_one_that_was_left_and_has_answered_in_time_is_given_back(self) -> None:
        self.pool.upstreams.add(self.upstream)
        self.plain()
        self.run_of(WIDE + 1)
        self.turn()
        self.upstream.retire()
        self.upstream.hurry()
        self.redis(b":0\r\n" + time(1) + b":1\r\n" * WIDE + time(1))
        self.redis(b":2\r\n" + time(1))
        self.assertEqual((self.client.items, self.connection.released), ([], True))

    def test_a_transaction_is_not_divided(self) -> None:
        self.plain()
        self.run_of(WIDE - 1)
        self.run_of(4, needed=2)
        self.assertEqual(self.turn(), GET + TIME + KEYS * (WIDE - 1) + TIME)
        self.narrow()
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
