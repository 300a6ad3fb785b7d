"""Tests the limits of a tenant: which clients wait, how long, and in which order."""

from __future__ import annotations

from twisted.internet import task
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.net.protocol import PauseReason
from redisproxy.net.rate_limit import Reservation, TenantLimit, TenantLimits
from redisproxy.tenants.limits import UNLIMITED, Limits
from redisproxy.tenants.model import TenantFullError


class Client:
    """A fake of a client's connection and of its session in one.

    Each byte is a command. `done` lists the names of clients in the order in which their commands
    ran.
    """

    def __init__(self, name: str, done: list[str]) -> None:
        self.name = name
        self.done = done
        self.session = self
        self.reservation = Reservation(self)
        self.bytes_received = self.commands = self.buffered = self.held = 0
        self.throttled = self.ended = False
        self.size = 0
        self.fails = False
        self.crashes = 0

    def send(self, count: int) -> None:
        self.bytes_received += count
        if self.reservation.rate_limiter is None:
            self.received(b"x" * count)
        else:
            self.reservation.received(b"x" * count)

    # The session.

    def received(self, data: bytes) -> None:
        self.buffered += len(data)
        self.advance()

    def advance(self) -> None:
        if not self.throttled and self.buffered:
            if self.fails:
                raise RuntimeError
            self.done.append(self.name)
            self.commands += self.buffered
            self.buffered = 0

    def throttle(self, throttled: bool) -> None:
        self.throttled = throttled
        self.advance()

    # The connection.

    def read_at_most(self, size: int) -> None:
        self.size = size

    def pause_reading(self, reason: int) -> None:
        self.held |= reason

    def resume_reading(self, reason: int) -> None:
        self.held &= ~reason

    def crashed(self) -> None:
        self.crashes += 1


class LimitingCase(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.clock.advance(1000.0)
        self.tenant_limit = TenantLimit(self.clock)
        self.done: list[str] = []
        self.clients: list[Client] = []
        self.addCleanup(self.end)

    def end(self) -> None:
        """All clients leave and the rates recover: nothing may be left to happen."""
        for client in self.clients:
            if client.reservation._client is not None:
                client.reservation.lost()
        self.clock.advance(1e6)
        self.assertEqual((self.tenant_limit.held, self.clock.getDelayedCalls()), (0, []))

    def client(self, name: str = "a") -> Client:
        client = Client(name, self.done)
        self.clients.append(client)
        client.reservation.reserve(self.tenant_limit)
        client.reservation.keep()
        return client


class PlaceTests(LimitingCase):
    def test_without_a_clock_no_rate_can_be_limited(self) -> None:
        self.assertRaises(RuntimeError, TenantLimit(None).use, Limits(commands_per_second=1))

    def test_no_more_than_there_are(self) -> None:
        self.tenant_limit.use(Limits(max_connections=2))
        first, _ = self.client(), self.client()
        self.assertRaises(TenantFullError, self.client)
        first.reservation.release()
        self.client()
        self.assertRaises(TenantFullError, self.client)

    def test_one_that_is_about_to_log_in_has_a_place_and_gives_it_back_if_that_fails(self) -> None:
        self.tenant_limit.use(Limits(max_connections=1))
        client = Client("a", self.done)
        client.reservation.reserve(self.tenant_limit)
        self.assertRaises(TenantFullError, self.client)
        client.reservation.cancel()
        self.client()

    def test_a_lower_limit_ends_nobody(self) -> None:
        clients = [self.client() for _ in range(3)]
        self.tenant_limit.use(Limits(max_connections=2))
        self.assertEqual(len(self.tenant_limit.reservations), 3)
        for client in clients[:2]:
            self.assertRaises(TenantFullError, self.client)
            client.reservation.lost()
        self.client()

    def test_who_goes_to_another_tenant_leaves_its_place_when_it_is_there(self) -> None:
        other = TenantLimit(self.clock)
        for tenant_limit in (self.tenant_limit, other):
            tenant_limit.use(Limits(max_connections=1))
        client = self.client()
        client.reservation.reserve(other)
        self.assertRaises(TenantFullError, self.client)
        client.reservation.cancel()
        self.assertEqual((len(self.tenant_limit.reservations), len(other.reservations)), (1, 0))
        client.reservation.reserve(other)
        client.reservation.keep()
        self.assertEqual((len(self.tenant_limit.reservations), len(other.reservations)), (0, 1))
        # The same tenant again, of whose only connection the client has the reservation.
        client.reservation.reserve(other)
        client.reservation.keep()
        self.assertEqual(len(other.reservations), 1)
        client.reservation.reserve(other)
        client.reservation.cancel()
        self.assertEqual(len(other.reservations), 1)


class RateTests(LimitingCase):
    def test_without_a_limit_nothing_waits(self) -> None:
        client = self.client()
        self.assertIsNone(client.reservation.rate_limiter)
        self.tenant_limit.use(Limits(max_connections=5))
        self.assertIsNone(client.reservation.rate_limiter)

    def test_a_burst_and_then_each_in_its_turn(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        a, b, c = (self.client(name) for name in "abc")
        a.send(100)
        self.assertFalse(a.reservation.rate_limiter.closed)
        a.send(10)  # overdraws the rate, but runs: it was read
        a.send(10)
        b.send(20)
        a.send(10)
        c.send(20)
        self.assertEqual(self.done, ["a", "a"])
        self.assertEqual([client.held for client in (a, b, c)], [PauseReason.RATE] * 3)
        self.clock.advance(0.09)
        self.assertEqual(len(self.done), 2)
        self.clock.advance(0.0101)
        self.assertEqual(self.done[2:], ["a"], "all that it had sent, and then it is b's turn")
        self.assertEqual((a.held, a.commands, b.held), (0, 130, PauseReason.RATE))
        a.send(1)
        self.clock.advance(0.2)
        self.assertEqual(self.done[3:], ["b"])
        self.clock.advance(0.2)
        self.assertEqual(self.done[4:], ["c"])
        self.clock.advance(0.2)
        self.assertEqual(self.done[5:], ["a"])
        self.assertEqual(self.tenant_limit.held, 0)

    def test_nobody_who_did_nothing_waits(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.send(1000)
        self.assertEqual((self.tenant_limit.held, b.held), (0, 0))

    def test_however_many_there_are_it_is_the_rate(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        clients = [self.client(str(number)) for number in range(20)]
        began = self.clock.seconds()
        for _ in range(1000):
            for client in clients:
                if not client.held and client.commands + client.buffered < 100:
                    client.send(5)
            self.clock.advance(0.02)
            if sum(client.commands for client in clients) == 2000:
                break
        # Nobody waits for what the last client overdraws. The rest of the difference are the
        # clock's steps.
        self.assertLess(abs(self.clock.seconds() - began - 19.0), 0.5)
        counts = [self.done.count(client.name) for client in clients]
        self.assertEqual(counts, [20] * 20)

    def test_bytes_of_both_directions(self) -> None:
        self.tenant_limit.use(Limits(bytes_per_second=1000))
        client, upstream = self.client(), Client("upstream connection", [])
        client.send(600)
        client.reservation.rate_limiter.replied(400, upstream)
        self.assertEqual((upstream.held, client.reservation.rate_limiter.closed), (0, False))
        client.reservation.rate_limiter.replied(500, upstream)
        client.send(1)
        self.assertEqual((upstream.held, client.held), (PauseReason.RATE, PauseReason.RATE))
        self.clock.advance(0.49)
        self.assertEqual((upstream.held, client.held), (PauseReason.RATE, PauseReason.RATE))
        self.clock.advance(0.0101)
        self.assertEqual((upstream.held, client.held, client.buffered), (0, 0, 0))

    def test_replies_do_not_wait_for_what_is_pending_in_commands(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=10, bytes_per_second=1000))
        client, upstream = self.client(), Client("upstream connection", [])
        client.send(110)  # 10 s of commands
        client.reservation.rate_limiter.replied(100, upstream)
        self.assertEqual(upstream.held, 0)
        client.reservation.rate_limiter.replied(1000, upstream)
        client.send(1)
        self.clock.advance(0.25)
        self.assertEqual((upstream.held, client.held), (0, PauseReason.RATE))
        self.clock.advance(9.7)
        self.assertEqual(client.held, PauseReason.RATE)
        self.clock.advance(0.1)
        self.assertEqual(client.held, 0)

    def test_what_came_behind_a_log_in_waits_too(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        self.client("a").send(150)
        b = Client("b", self.done)
        self.clients.append(b)
        b.reservation.reserve(self.tenant_limit)
        b.throttled = True  # like a session that waits for a connection to Redis
        b.bytes_received += 30
        b.received(b"x" * 30)
        b.reservation.keep()
        self.assertEqual((b.held, self.done), (PauseReason.RATE, ["a"]))
        self.clock.advance(0.5001)
        self.assertEqual((b.held, self.done), (0, ["a", "b"]))
        self.clock.advance(0.29)
        self.assertTrue(b.reservation.rate_limiter.closed, "it was charged")
        self.clock.advance(0.02)
        self.assertFalse(b.reservation.rate_limiter.closed)

    def test_who_leaves_is_charged_so_that_it_is_of_no_use_to_come_again(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.commands += 150  # what a session ran when its connection to Redis was open
        a.reservation.lost()
        b.send(1)
        self.assertEqual(b.held, PauseReason.RATE)

    def test_who_waits_and_leaves(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.send(150)
        for client in (a, b):
            client.send(1)
        a.reservation.lost()
        self.assertEqual(self.tenant_limit.held, 1)
        self.clock.advance(0.51)
        self.assertEqual(self.done, ["a", "b"])

    def test_who_logs_out_while_it_waits_has_its_turn(self) -> None:
        """A client that logs out while it waits still gets its turn: for example a RESET that
        waited for replies, with more commands behind it.
        """
        self.tenant_limit.use(Limits(commands_per_second=100))
        a = self.client("a")
        a.send(150)
        a.send(1)
        a.reservation.release()
        self.assertEqual((len(self.tenant_limit.reservations), a.held), (0, PauseReason.RATE))
        self.clock.advance(0.51)
        self.assertEqual((a.held, a.throttled, self.tenant_limit.held), (0, False, 0))

    def test_who_becomes_anothers_while_it_waits_has_its_turn(self) -> None:
        other = TenantLimit(self.clock)
        for tenant_limit in (self.tenant_limit, other):
            tenant_limit.use(Limits(commands_per_second=100))
        a = self.client("a")
        a.reservation.reserve(other)  # the connection to Redis is being opened
        a.reservation.rate_limiter.charge(150, 0)
        a.send(1)
        a.reservation.keep()
        self.clock.advance(0.51)
        self.assertEqual((a.held, a.throttled), (0, False))
        a.send(200)
        a.send(1)
        self.assertEqual((a.held, other.held), (PauseReason.RATE, 1))
        a.reservation.lost()
        other.stop()
        self.assertEqual(other.held, 0)

    def test_a_bug_costs_one_alone(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.send(150)
        for client in (a, b):
            client.send(1)
        a.fails = True
        self.clock.advance(0.51)
        self.assertEqual((a.crashes, self.done), (1, ["a", "b"]))

    def test_reads_are_no_larger_than_a_part_of_a_second(self) -> None:
        for limits, size in (
            (Limits(commands_per_second=1), bounds.SMALL_READ_BYTES),
            (Limits(commands_per_second=10_000), 8_000),
            (Limits(commands_per_second=10_000, bytes_per_second=100_000), 5_000),
            (Limits(commands_per_second=10**9, bytes_per_second=10**9), bounds.READ_BYTES),
        ):
            self.tenant_limit.use(limits)
            client = self.client()
            self.assertEqual(client.size, size)
        self.tenant_limit.use(UNLIMITED)
        self.assertEqual({client.size for client in self.clients}, {bounds.READ_BYTES})

    def test_how_long_anybody_waited(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=100))
        a = self.client()
        a.send(200)
        self.clock.advance(0.5)
        self.assertEqual(self.tenant_limit.throttled, 0.0)
        a.send(1)
        self.clock.advance(0.25)
        self.assertAlmostEqual(self.tenant_limit.throttled, 0.25)
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertLess(abs(self.tenant_limit.throttled - 1.25), 0.01)


class ChangeTests(LimitingCase):
    def test_another_rate_holds_at_once_and_what_is_pending_is_forgiven(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=1))
        a = self.client()
        a.send(1000)
        a.send(10)
        self.tenant_limit.use(Limits(commands_per_second=1000))
        self.clock.advance(0)
        self.assertEqual((a.held, a.commands), (0, 1010))
        a.send(1090)
        a.send(1)
        self.clock.advance(0.09)
        self.assertEqual(a.held, PauseReason.RATE)
        self.clock.advance(0.02)
        self.assertEqual(a.held, 0)

    def test_a_limit_for_those_that_are_there_and_none_any_more(self) -> None:
        a = self.client()
        a.send(5000)
        self.tenant_limit.use(Limits(commands_per_second=100))
        a.send(50)
        self.assertFalse(a.reservation.rate_limiter.closed, "what was before does not count")
        a.send(100)
        a.send(100)
        self.tenant_limit.use(UNLIMITED)
        self.assertIsNone(a.reservation.rate_limiter)
        a.send(1)
        self.assertEqual(a.buffered, 101, "in order, behind what waits")
        self.clock.advance(0)
        self.assertEqual((a.held, a.buffered, a.commands), (0, 0, 5251))

    def test_many_that_may_go_on_do_not_in_one_turn(self) -> None:
        self.tenant_limit.use(Limits(commands_per_second=1))
        self.client().send(1000)
        clients = [self.client() for _ in range(bounds.RATE_RESUMED_PER_TURN + 5)]
        for client in clients:
            client.send(1)
        self.tenant_limit.use(UNLIMITED)
        self.clock.advance(0)
        self.assertEqual(self.tenant_limit.held, 5)
        self.clock.advance(bounds.RATE_TICK_SECONDS)
        self.assertEqual(self.tenant_limit.held, 0)

    def test_an_upstream_connection_is_read_on(self) -> None:
        self.tenant_limit.use(Limits(bytes_per_second=1))
        client, upstream = self.client(), Client("upstream connection", [])
        client.reservation.rate_limiter.replied(1000, upstream)
        self.tenant_limit.use(Limits(commands_per_second=1))
        self.clock.advance(0)
        self.assertEqual(upstream.held, 0)


class TenantLimitsTests(unittest.TestCase):
    def test_each_process_holds_its_part(self) -> None:
        tenant_limits = TenantLimits(task.Clock(), processes=2)
        tenant_limits.use({"team-a": Limits(max_connections=3)}, {"team-a", "team-b"})
        reservations = [Reservation(Client(str(number), [])) for number in range(3)]
        for reservation in reservations[:2]:
            reservation.reserve(tenant_limits.of("team-a"))
        self.assertRaises(TenantFullError, reservations[2].reserve, tenant_limits.of("team-a"))
        reservations[2].reserve(tenant_limits.of("team-b"))

    def test_tenants_that_are_none_any_more_are_forgotten_when_their_sessions_have_ended(self) -> None:
        tenant_limits = TenantLimits(task.Clock())
        reservation = Reservation(Client("a", []))
        kept = tenant_limits.of("team-a")
        reservation.reserve(kept)
        tenant_limits.use({}, ())
        self.assertIs(tenant_limits.of("team-a"), kept)
        reservation.lost()
        tenant_limits.use({}, ())
        self.assertIsNot(tenant_limits.of("team-a"), kept)
        self.assertEqual(tenant_limits.stats("team-b"), {"held": 0, "throttled": 0.0})
