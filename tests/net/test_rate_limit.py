"""Who waits, for how long, and whose turn it is."""

from __future__ import annotations

from twisted.internet import task
from twisted.trial import unittest

from redisproxy.net.protocol import READ_SIZE, SMALL_READ_SIZE, Hold
from redisproxy.net.rate_limit import AT_ONCE, TICK, Allowance, Allowances, Place
from redisproxy.tenants.limits import UNLIMITED, Limits
from redisproxy.tenants.model import TenantFullError


class Client:
    """A client's connection and its session, in one: each byte is a command, done in the order that `done` has."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name = name
        self.done = done
        self.session = self
        self.place = Place(self)
        self.taken = self.commands = self.buffered = self.held = 0
        self.throttled = self.ended = False
        self.size = 0
        self.fails = False
        self.crashes = 0

    def send(self, count: int) -> None:
        self.taken += count
        if self.place.shaper is None:
            self.received(b"x" * count)
        else:
            self.place.received(b"x" * count)

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

    def hold(self, reason: int) -> None:
        self.held |= reason

    def unhold(self, reason: int) -> None:
        self.held &= ~reason

    def crashed(self) -> None:
        self.crashes += 1


class LimitingCase(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.clock.advance(1000.0)
        self.allowance = Allowance(self.clock)
        self.done: list[str] = []
        self.clients: list[Client] = []
        self.addCleanup(self.end)

    def end(self) -> None:
        """All leave, and what is owed is paid: nothing is left to happen."""
        for client in self.clients:
            if client.place._client is not None:
                client.place.lost()
        self.clock.advance(1e6)
        self.assertEqual((self.allowance.held, self.clock.getDelayedCalls()), (0, []))

    def client(self, name: str = "a") -> Client:
        client = Client(name, self.done)
        self.clients.append(client)
        client.place.enter(self.allowance)
        client.place.settle()
        return client


class PlaceTests(LimitingCase):
    def test_without_a_clock_no_rate_can_be_limited(self) -> None:
        self.assertRaises(RuntimeError, Allowance(None).use, Limits(commands_per_second=1))

    def test_no_more_than_there_are(self) -> None:
        self.allowance.use(Limits(max_connections=2))
        first, _ = self.client(), self.client()
        self.assertRaises(TenantFullError, self.client)
        first.place.leave()
        self.client()
        self.assertRaises(TenantFullError, self.client)

    def test_one_that_is_about_to_log_in_has_a_place_and_gives_it_back_if_that_fails(self) -> None:
        self.allowance.use(Limits(max_connections=1))
        client = Client("a", self.done)
        client.place.enter(self.allowance)
        self.assertRaises(TenantFullError, self.client)
        client.place.give_up()
        self.client()

    def test_a_lower_limit_ends_nobody(self) -> None:
        clients = [self.client() for _ in range(3)]
        self.allowance.use(Limits(max_connections=2))
        self.assertEqual(len(self.allowance.places), 3)
        for client in clients[:2]:
            self.assertRaises(TenantFullError, self.client)
            client.place.lost()
        self.client()

    def test_who_goes_to_another_tenant_leaves_its_place_when_it_is_there(self) -> None:
        other = Allowance(self.clock)
        for allowance in (self.allowance, other):
            allowance.use(Limits(max_connections=1))
        client = self.client()
        client.place.enter(other)
        self.assertRaises(TenantFullError, self.client)
        client.place.give_up()
        self.assertEqual((len(self.allowance.places), len(other.places)), (1, 0))
        client.place.enter(other)
        client.place.settle()
        self.assertEqual((len(self.allowance.places), len(other.places)), (0, 1))
        # And to the same one again, whose only place it has.
        client.place.enter(other)
        client.place.settle()
        self.assertEqual(len(other.places), 1)
        client.place.enter(other)
        client.place.give_up()
        self.assertEqual(len(other.places), 1)


class RateTests(LimitingCase):
    def test_without_a_limit_nothing_waits(self) -> None:
        client = self.client()
        self.assertIsNone(client.place.shaper)
        self.allowance.use(Limits(max_connections=5))
        self.assertIsNone(client.place.shaper)

    def test_a_burst_and_then_each_in_its_turn(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        a, b, c = (self.client(name) for name in "abc")
        a.send(100)
        self.assertFalse(a.place.shaper.closed)
        a.send(10)  # overdrawn, but done: it was read
        a.send(10)
        b.send(20)
        a.send(10)
        c.send(20)
        self.assertEqual(self.done, ["a", "a"])
        self.assertEqual([client.held for client in (a, b, c)], [Hold.RATE] * 3)
        self.clock.advance(0.09)
        self.assertEqual(len(self.done), 2)
        self.clock.advance(0.0101)
        self.assertEqual(self.done[2:], ["a"], "all that it had sent, and then it is b's turn")
        self.assertEqual((a.held, a.commands, b.held), (0, 130, Hold.RATE))
        a.send(1)
        self.clock.advance(0.2)
        self.assertEqual(self.done[3:], ["b"])
        self.clock.advance(0.2)
        self.assertEqual(self.done[4:], ["c"])
        self.clock.advance(0.2)
        self.assertEqual(self.done[5:], ["a"])
        self.assertEqual(self.allowance.held, 0)

    def test_nobody_who_did_nothing_waits(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.send(1000)
        self.assertEqual((self.allowance.held, b.held), (0, 0))

    def test_however_many_there_are_it_is_the_rate(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        clients = [self.client(str(number)) for number in range(20)]
        began = self.clock.seconds()
        for _ in range(1000):
            for client in clients:
                if not client.held and client.commands + client.buffered < 100:
                    client.send(5)
            self.clock.advance(0.02)
            if sum(client.commands for client in clients) == 2000:
                break
        # What is overdrawn by the last of them is not waited for; the steps of the clock are.
        self.assertLess(abs(self.clock.seconds() - began - 19.0), 0.5)
        counts = [self.done.count(client.name) for client in clients]
        self.assertEqual(counts, [20] * 20)

    def test_bytes_of_both_directions(self) -> None:
        self.allowance.use(Limits(bytes_per_second=1000))
        client, lane = self.client(), Client("lane", [])
        client.send(600)
        client.place.shaper.replied(400, lane)
        self.assertEqual((lane.held, client.place.shaper.closed), (0, False))
        client.place.shaper.replied(500, lane)
        client.send(1)
        self.assertEqual((lane.held, client.held), (Hold.RATE, Hold.RATE))
        self.clock.advance(0.49)
        self.assertEqual((lane.held, client.held), (Hold.RATE, Hold.RATE))
        self.clock.advance(0.0101)
        self.assertEqual((lane.held, client.held, client.buffered), (0, 0, 0))

    def test_replies_do_not_wait_for_what_is_owed_in_commands(self) -> None:
        self.allowance.use(Limits(commands_per_second=10, bytes_per_second=1000))
        client, lane = self.client(), Client("lane", [])
        client.send(110)  # 10 s of commands
        client.place.shaper.replied(100, lane)
        self.assertEqual(lane.held, 0)
        client.place.shaper.replied(1000, lane)
        client.send(1)
        self.clock.advance(0.25)
        self.assertEqual((lane.held, client.held), (0, Hold.RATE))
        self.clock.advance(9.7)
        self.assertEqual(client.held, Hold.RATE)
        self.clock.advance(0.1)
        self.assertEqual(client.held, 0)

    def test_what_came_behind_a_log_in_waits_too(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        self.client("a").send(150)
        b = Client("b", self.done)
        self.clients.append(b)
        b.place.enter(self.allowance)
        b.throttled = True  # as a session that waits for a lane
        b.taken += 30
        b.received(b"x" * 30)
        b.place.settle()
        self.assertEqual((b.held, self.done), (Hold.RATE, ["a"]))
        self.clock.advance(0.5001)
        self.assertEqual((b.held, self.done), (0, ["a", "b"]))
        self.clock.advance(0.29)
        self.assertTrue(b.place.shaper.closed, "it was charged")
        self.clock.advance(0.02)
        self.assertFalse(b.place.shaper.closed)

    def test_who_leaves_is_charged_so_that_it_is_of_no_use_to_come_again(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.commands += 150  # what a session did by itself, when its lane was there
        a.place.lost()
        b.send(1)
        self.assertEqual(b.held, Hold.RATE)

    def test_who_waits_and_leaves(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.send(150)
        for client in (a, b):
            client.send(1)
        a.place.lost()
        self.assertEqual(self.allowance.held, 1)
        self.clock.advance(0.51)
        self.assertEqual(self.done, ["a", "b"])

    def test_who_logs_out_while_it_waits_has_its_turn(self) -> None:
        """As with a RESET that waited for replies while more came behind it."""
        self.allowance.use(Limits(commands_per_second=100))
        a = self.client("a")
        a.send(150)
        a.send(1)
        a.place.leave()
        self.assertEqual((len(self.allowance.places), a.held), (0, Hold.RATE))
        self.clock.advance(0.51)
        self.assertEqual((a.held, a.throttled, self.allowance.held), (0, False, 0))

    def test_who_becomes_anothers_while_it_waits_has_its_turn(self) -> None:
        other = Allowance(self.clock)
        for allowance in (self.allowance, other):
            allowance.use(Limits(commands_per_second=100))
        a = self.client("a")
        a.place.enter(other)  # and the lane is opened
        a.place.shaper.charge(150, 0)
        a.send(1)
        a.place.settle()
        self.clock.advance(0.51)
        self.assertEqual((a.held, a.throttled), (0, False))
        a.send(200)
        a.send(1)
        self.assertEqual((a.held, other.held), (Hold.RATE, 1))
        a.place.lost()
        other.stop()
        self.assertEqual(other.held, 0)

    def test_a_bug_costs_one_alone(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        a, b = self.client("a"), self.client("b")
        a.send(150)
        for client in (a, b):
            client.send(1)
        a.fails = True
        self.clock.advance(0.51)
        self.assertEqual((a.crashes, self.done), (1, ["a", "b"]))

    def test_reads_are_no_larger_than_a_part_of_a_second(self) -> None:
        for limits, size in (
            (Limits(commands_per_second=1), SMALL_READ_SIZE),
            (Limits(commands_per_second=10_000), 8_000),
            (Limits(commands_per_second=10_000, bytes_per_second=100_000), 5_000),
            (Limits(commands_per_second=10**9, bytes_per_second=10**9), READ_SIZE),
        ):
            self.allowance.use(limits)
            client = self.client()
            self.assertEqual(client.size, size)
        self.allowance.use(UNLIMITED)
        self.assertEqual({client.size for client in self.clients}, {READ_SIZE})

    def test_how_long_anybody_waited(self) -> None:
        self.allowance.use(Limits(commands_per_second=100))
        a = self.client()
        a.send(200)
        self.clock.advance(0.5)
        self.assertEqual(self.allowance.throttled, 0.0)
        a.send(1)
        self.clock.advance(0.25)
        self.assertAlmostEqual(self.allowance.throttled, 0.25)
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertLess(abs(self.allowance.throttled - 1.25), 0.01)


class ChangeTests(LimitingCase):
    def test_another_rate_holds_at_once_and_what_is_owed_is_forgiven(self) -> None:
        self.allowance.use(Limits(commands_per_second=1))
        a = self.client()
        a.send(1000)
        a.send(10)
        self.allowance.use(Limits(commands_per_second=1000))
        self.clock.advance(0)
        self.assertEqual((a.held, a.commands), (0, 1010))
        a.send(1090)
        a.send(1)
        self.clock.advance(0.09)
        self.assertEqual(a.held, Hold.RATE)
        self.clock.advance(0.02)
        self.assertEqual(a.held, 0)

    def test_a_limit_for_those_that_are_there_and_none_any_more(self) -> None:
        a = self.client()
        a.send(5000)
        self.allowance.use(Limits(commands_per_second=100))
        a.send(50)
        self.assertFalse(a.place.shaper.closed, "what was before does not count")
        a.send(100)
        a.send(100)
        self.allowance.use(UNLIMITED)
        self.assertIsNone(a.place.shaper)
        a.send(1)
        self.assertEqual(a.buffered, 101, "in order, behind what waits")
        self.clock.advance(0)
        self.assertEqual((a.held, a.buffered, a.commands), (0, 0, 5251))

    def test_many_that_may_go_on_do_not_in_one_turn(self) -> None:
        self.allowance.use(Limits(commands_per_second=1))
        self.client().send(1000)
        clients = [self.client() for _ in range(AT_ONCE + 5)]
        for client in clients:
            client.send(1)
        self.allowance.use(UNLIMITED)
        self.clock.advance(0)
        self.assertEqual(self.allowance.held, 5)
        self.clock.advance(TICK)
        self.assertEqual(self.allowance.held, 0)

    def test_a_lane_is_read_on(self) -> None:
        self.allowance.use(Limits(bytes_per_second=1))
        client, lane = self.client(), Client("lane", [])
        client.place.shaper.replied(1000, lane)
        self.allowance.use(Limits(commands_per_second=1))
        self.clock.advance(0)
        self.assertEqual(lane.held, 0)


class AllowancesTests(unittest.TestCase):
    def test_each_process_holds_its_part(self) -> None:
        allowances = Allowances(task.Clock(), processes=2)
        allowances.use({"team-a": Limits(max_connections=3)}, {"team-a", "team-b"})
        places = [Place(Client(str(number), [])) for number in range(3)]
        for place in places[:2]:
            place.enter(allowances.of("team-a"))
        self.assertRaises(TenantFullError, places[2].enter, allowances.of("team-a"))
        places[2].enter(allowances.of("team-b"))

    def test_tenants_that_are_none_any_more_are_forgotten_when_their_sessions_have_ended(self) -> None:
        allowances = Allowances(task.Clock())
        place = Place(Client("a", []))
        kept = allowances.of("team-a")
        place.enter(kept)
        allowances.use({}, ())
        self.assertIs(allowances.of("team-a"), kept)
        place.lost()
        allowances.use({}, ())
        self.assertIsNot(allowances.of("team-a"), kept)
        self.assertEqual(allowances.figures("team-b"), {"held": 0, "throttled": 0.0})
