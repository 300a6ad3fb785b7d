"""`redisproxy.tenants.work`: whose turn it is."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds
from redisproxy.tenants.memory import NOBODY
from redisproxy.tenants.work import Budget, WorkQueue


class Session:
    """A session with so many units of work, each of which takes some seconds."""

    def __init__(self, turns: Turns, budget: Budget, units: int, seconds: float = 0.0) -> None:
        self.turns, self.budget, self.units, self.seconds = turns, budget, units, seconds
        #: units that were done in each turn of the reactor
        self.done: dict[int, int] = {}
        self.work_on()

    def work_on(self) -> None:
        while self.units:
            if self.budget.units <= 0:
                self.budget.wait(self)
                return
            self.units -= 1
            self.turns.now += self.seconds
            self.turns.order.append(self)
            self.done[self.turns.number] = self.done.get(self.turns.number, 0) + 1
            self.budget.use(1)


class Turns:
    """The turns of a reactor."""

    def __init__(self) -> None:
        self.now, self.number = 0.0, 0
        self.calls: list[Callable[[], None]] = []
        self.order: list[Session] = []
        self.queue = WorkQueue(lambda: self.now, self.calls.append)

    def next(self) -> None:
        """Makes the reactor's next turn."""
        self.number += 1
        calls, self.calls[:] = self.calls[:], []
        for call in calls:
            call()


class WorkQueueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.turns = Turns()
        self.queue = self.turns.queue

    def session(self, namespace: str, units: int, seconds: float = 0.0) -> Session:
        return Session(self.turns, self.queue.of(namespace), units, seconds)

    def test_little_work_waits_for_nothing(self) -> None:
        for _ in range(3):
            self.assertEqual(self.session("blue", bounds.WORK_BUDGET // 2 - 1).units, 0)
            self.assertEqual(self.turns.calls, [])
            self.assertEqual(self.session("blue", bounds.WORK_BUDGET // 2 + 1).units, 0)
            self.turns.next()
        self.assertEqual(self.queue.waiting, 0)
        self.turns.next()
        self.assertEqual(self.turns.calls, [], "and nothing is scheduled while there is none")

    def test_a_share_belongs_to_a_tenant_not_to_a_session(self) -> None:
        sessions = [self.session("blue", 10) for _ in range(100)]
        self.assertEqual(sum(session.done.get(0, 0) for session in sessions), bounds.WORK_BUDGET)
        self.assertEqual(self.session("green", 10).units, 0, "another tenant waits for none of them")

    def test_what_waits_is_done_in_its_order(self) -> None:
        sessions = [self.session("blue", bounds.WORK_BUDGET if number == 0 else bounds.WORK_SLICE) for number in range(5)]
        self.turns.next()
        self.assertEqual([session.units for session in sessions], [0] * 5)
        begun = list(dict.fromkeys(self.turns.order))
        self.assertEqual(begun, sessions)

    def test_sessions_take_turns(self) -> None:
        first, second = (
            self.session("blue", bounds.WORK_BUDGET + 3 * bounds.WORK_SLICE),
            self.session("blue", 3 * bounds.WORK_SLICE),
        )
        del self.turns.order[:]
        self.turns.next()
        self.assertEqual(self.turns.order, [*[first] * bounds.WORK_SLICE, *[second] * bounds.WORK_SLICE] * 3)

    def test_tenants_take_turns(self) -> None:
        for namespace in ("blue", "green"):
            self.session(namespace, bounds.WORK_BUDGET)
        crowd = [self.session("blue", bounds.WORK_SLICE) for _ in range(10)]
        other = self.session("green", bounds.WORK_SLICE)
        del self.turns.order[:]
        self.turns.next()
        self.assertEqual(list(dict.fromkeys(self.turns.order))[:2], [crowd[0], other])

    def test_a_turn_has_an_end(self) -> None:
        unit = bounds.WORK_TURN_SECONDS / bounds.WORK_SLICE / 4
        session = self.session("blue", 1000, unit)
        before = self.turns.now
        self.turns.next()
        self.assertAlmostEqual(self.turns.now - before, bounds.WORK_TURN_SECONDS, delta=bounds.WORK_SLICE * unit)
        self.assertNotEqual(session.units, 0)
        while session.units:
            self.assertNotEqual(self.turns.calls, [])
            self.turns.next()
        self.turns.next()
        self.assertEqual((self.queue.waiting, self.turns.calls), (0, []))

    def test_a_turn_has_an_end_where_the_clock_stands_still(self) -> None:
        session = self.session("blue", 10 * bounds.WORK_TURN_UNITS)
        self.turns.next()
        self.assertEqual(session.done[1], bounds.WORK_TURN_UNITS)

    def test_who_was_not_served_is_first_the_next_time(self) -> None:
        slow = bounds.WORK_TURN_SECONDS / bounds.WORK_SLICE
        for namespace in ("blue", "green", "red"):
            self.session(namespace, bounds.WORK_BUDGET)
        sessions = [self.session(namespace, 10 * bounds.WORK_SLICE, slow) for namespace in ("blue", "green", "red")]
        for session in sessions:
            del self.turns.order[:]
            self.turns.next()
            self.assertEqual(set(self.turns.order), {session})

    def test_clients_without_a_password_come_last_and_are_not_forgotten(self) -> None:
        slow = bounds.WORK_TURN_SECONDS / bounds.WORK_SLICE
        self.session("blue", bounds.WORK_BUDGET)
        self.session(NOBODY, bounds.WORK_BUDGET)
        stranger, session = self.session(NOBODY, 100, slow), self.session("blue", 10 * bounds.WORK_SLICE, slow)
        del self.turns.order[:]
        self.turns.next()
        self.assertEqual(list(dict.fromkeys(self.turns.order)), [session, stranger])
        self.assertEqual(stranger.done[1], bounds.WORK_SLICE // 4, "a quarter of the time")

    def test_who_may_be_about_to_log_in_does_not_wait_for_others_without_a_password(self) -> None:
        """With 900 of them, and a tenant that had much work, a log-in took 8 s."""
        self.session(NOBODY, bounds.WORK_BUDGET)
        others = [self.session(NOBODY, 1000) for _ in range(100)]
        session = self.session(NOBODY, 3)
        session.budget.leave(session)
        gone = self.session(NOBODY, 3)
        session.budget.wait(gone, new=True)
        session.budget.wait(session, new=True)
        gone.budget.leave(gone)
        self.session("blue", 10_000)
        del self.turns.order[:]
        self.turns.next()
        strangers = [each for each in dict.fromkeys(self.turns.order) if each.budget is session.budget]
        self.assertEqual(strangers[:2], [session, others[0]])
        self.assertNotIn(gone, strangers)

    def test_one_that_leaves_is_not_served(self) -> None:
        self.session("blue", bounds.WORK_BUDGET)
        session = self.session("blue", 1)
        session.budget.leave(session)
        self.turns.next()
        self.assertEqual(session.units, 1)
        self.assertEqual(self.queue.of("blue").units, bounds.WORK_BUDGET)

    def test_shares_of_tenants_that_are_gone_are_forgotten(self) -> None:
        blue, green = self.queue.of("blue"), self.queue.of("green")
        self.session("green", bounds.WORK_BUDGET + 1)
        self.queue.keep({"red"})
        self.assertIsNot(self.queue.of("blue"), blue)
        self.assertIs(self.queue.of("green"), green, "one of its sessions waits")
        self.assertIs(self.queue.of(NOBODY), self.queue.of(NOBODY))
