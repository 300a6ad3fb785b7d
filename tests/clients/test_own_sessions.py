"""Visits of a tenant's sessions: turns, pauses, and who is visited."""

from __future__ import annotations

import unittest
from types import SimpleNamespace

from twisted.internet import defer, task

from redisproxy import bounds
from redisproxy.clients.own_sessions import PAUSE_FACTOR, OwnSessions
from redisproxy.session.client_filter import ClientFilter
from redisproxy.session.client_visit import ClientVisit
from redisproxy.session.state import Phase, Step, Until
from redisproxy.tenants.model import Tenant

BLUE, GREEN = Tenant("blue", 3), Tenant("green", 5)


class Turns(task.Clock):
    """A clock whose turns can be told apart: `advance` runs calls that come up meanwhile, too."""

    def turn(self) -> None:
        """Runs what is due at its beginning."""
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


class Visit(ClientVisit):
    """Records whom it sees. takes: seconds for each."""

    def __init__(self, clock: task.Clock, takes: float = 0.0) -> None:
        super().__init__(ClientFilter(), False, 1)
        self.seen: list[int] = []
        self._clock, self._takes = clock, takes

    def see(self, session: object) -> None:
        self.seen.append(session.number)
        self._clock.rightNow += self._takes


class Waiting:
    """A session whose Step waits for a visit."""

    def __init__(self) -> None:
        self.result: object = None
        self.error: Exception | None = None
        self._takes: tuple[task.Clock, float] | None = None
        self.step: Step = Step(self, Until.SESSIONS, lambda _: None)

    def answer_takes(self, clock: task.Clock, seconds: float) -> None:
        self._takes = clock, seconds

    def step_finished(self, step: Step, result: object) -> None:
        self.result = result
        if self._takes is not None:
            clock, seconds = self._takes
            clock.rightNow += seconds

    def bug(self, error: Exception) -> None:
        self.error = error


def account(number: int, tenant: Tenant = BLUE, phase: Phase = Phase.OPEN) -> SimpleNamespace:
    session = SimpleNamespace(number=number, ending=SimpleNamespace(phase=phase))
    own = SimpleNamespace(number=number, session=session, tenant=tenant)
    own.session_of = lambda tenant: own.session if own.tenant == tenant else None
    return own


class OwnSessionsTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = Turns()
        self.members: dict[Tenant, list] = {}
        self.own = OwnSessions(self.clock, self.members)

    def ask(self, tenant: Tenant = BLUE, takes: float = 0.0) -> tuple[Visit, Waiting]:
        visit, waiting = Visit(self.clock, takes), Waiting()
        self.own.visit(tenant, visit, waiting.step)
        self.assertEqual(visit.seen, [], "never at once")
        return visit, waiting

    def test_the_tenants_own_in_the_order_of_their_ids(self) -> None:
        closed, gone = account(2, phase=Phase.CLOSED), account(6)
        self.members[BLUE] = [account(5), closed, account(1), account(7, phase=Phase.CLOSING), gone]
        self.members[GREEN] = [account(3, GREEN)]
        gone.tenant = GREEN  # it has logged in as another tenant since
        visit, waiting = self.ask()
        self.clock.advance(0)
        self.assertEqual((visit.seen, waiting.result), ([1, 5, 7], visit))

    def test_many_are_visited_in_several_turns(self) -> None:
        most = bounds.VISITED_PER_TURN
        self.members[BLUE] = [account(number) for number in range(2 * most + 1)]
        visit, waiting = self.ask()
        for seen in (most, 2 * most):
            self.clock.turn()
            self.assertEqual((len(visit.seen), waiting.result), (seen, None))
        left = self.members[BLUE].pop()
        left.tenant = None
        self.clock.turn()
        self.assertEqual((len(visit.seen), waiting.result), (2 * most, visit))

    def test_one_at_a_time_of_a_tenant_and_a_pause_after_it(self) -> None:
        self.members[BLUE] = [account(1), account(2)]
        self.members[GREEN] = [account(3, GREEN)]
        first, second, other = self.ask(takes=0.01), self.ask(), self.ask(GREEN)
        self.clock.advance(0)
        self.assertEqual((first[0].seen, second[0].seen, other[0].seen), ([1, 2], [], [3]))
        self.clock.advance(0.02 * PAUSE_FACTOR - 0.001)
        third = self.ask()
        self.assertEqual(second[0].seen, [])
        self.clock.rightNow += 0.002
        self.clock.turn()
        self.assertEqual((second[0].seen, third[0].seen), ([1, 2], []))
        self.clock.turn()
        self.assertEqual(third[0].seen, [1, 2])
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        long, next_one = self.ask(takes=10.0), self.ask()
        self.clock.advance(0)
        self.clock.advance(bounds.VISIT_PAUSE_SECONDS)
        self.assertEqual((long[0].seen, next_one[0].seen), ([1, 2], [1, 2]))

    def test_the_answer_counts(self) -> None:
        """An answer of 8 MiB takes longer than the visit: it is joined, or sent as JSON."""
        self.members[BLUE] = [account(1)]
        first, second = self.ask(takes=0.01), self.ask()
        first[1].answer_takes(self.clock, 0.02)
        self.clock.advance(0)
        self.assertIs(first[1].result, first[0])
        self.clock.advance(0.03 * PAUSE_FACTOR - 0.001)
        self.assertEqual(second[0].seen, [])
        self.clock.advance(0.002)
        self.assertEqual(second[0].seen, [1])

    def test_one_whose_session_has_ended_does_not_begin(self) -> None:
        self.members[BLUE] = [account(1)]
        first, second = self.ask(), self.ask()
        first[1].step.abandon()
        self.clock.advance(0)
        self.assertEqual((first[0].seen, second[0].seen), ([], [1]))

    def test_a_bug_ends_one_session_alone(self) -> None:
        broken = account(1)
        del broken.session.ending
        self.members[BLUE] = [broken]
        _, waiting = self.ask()
        self.clock.advance(0)
        self.assertIsInstance(waiting.error, AttributeError)
        self.members[BLUE] = [account(2)]
        visit, waiting = self.ask()
        self.clock.pump([0] * 2)
        self.assertEqual((visit.seen, waiting.result), ([2], visit))

    # With several processes.

    def test_other_processes_come_after_this_one(self) -> None:
        self.members[BLUE] = [account(1)]
        asked: list[tuple[Tenant, ClientVisit, defer.Deferred]] = []

        def elsewhere(tenant: Tenant, visit: ClientVisit) -> defer.Deferred:
            asked.append((tenant, visit, defer.Deferred()))
            return asked[-1][2]

        self.own.elsewhere = elsewhere
        visit, waiting = self.ask()
        self.clock.advance(0)
        self.assertEqual((visit.seen, waiting.result), ([1], None))
        ((tenant, passed_on, answered),) = asked
        self.assertEqual((tenant, passed_on), (BLUE, visit))
        # The other process asks about sessions of this one meanwhile: it must not wait.
        foreign = Visit(self.clock)
        done = self.own.visit_here(BLUE, foreign)
        self.clock.pump([0] * 2)
        self.assertEqual(foreign.seen, [1])
        self.assertTrue(done.called)
        answered.callback(None)
        self.assertIs(waiting.result, visit)
        self.assertEqual(len(asked), 1, "what another process asks is not passed on")

    def test_another_process_that_waits_no_more_keeps_nobody_waiting(self) -> None:
        self.members[BLUE] = [account(1)]
        first, given_up, last = Visit(self.clock, takes=2.0), Visit(self.clock), Visit(self.clock)
        self.own.visit_here(BLUE, first)
        done = self.own.visit_here(BLUE, given_up)
        self.clock.advance(0)
        self.clock.rightNow += bounds.WORKER_ANSWER_SECONDS
        self.own.visit_here(BLUE, last)
        self.clock.turn()
        self.assertEqual((first.seen, given_up.seen, done.called, last.seen), ([1], [], False, [1]))

    def test_the_next_one_begins_when_the_other_processes_have_answered(self) -> None:
        """Each keeps its lines meanwhile, up to 8 MiB."""
        self.members[BLUE] = [account(1)]
        asked: list[defer.Deferred] = []

        def elsewhere(_: Tenant, __: ClientVisit) -> defer.Deferred:
            asked.append(defer.Deferred())
            return asked[-1]

        self.own.elsewhere = elsewhere
        first, second, third = self.ask(), self.ask(), self.ask()
        self.clock.advance(1)
        self.assertEqual((first[0].seen, second[0].seen, len(asked)), ([1], [], 1))
        first[1].step.abandon()
        self.clock.advance(1)
        self.assertEqual((second[0].seen, len(asked)), ([], 1))
        asked[0].callback(None)
        self.clock.pump([0] * 2)
        self.assertEqual((second[0].seen, third[0].seen, len(asked)), ([1], [], 2))
        asked[1].errback(ValueError("bug"))
        self.clock.pump([0] * 2)
        self.assertIsInstance(second[1].error, ValueError)
        self.assertEqual((third[0].seen, len(asked)), ([1], 3))
        asked[2].callback(None)
        self.assertIs(third[1].result, third[0])
        self.clock.pump([0] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_bug_while_other_processes_are_asked(self) -> None:
        self.own.elsewhere = lambda tenant, visit: defer.fail(ValueError("bug"))
        _, waiting = self.ask()
        self.clock.advance(0)
        self.assertIsInstance(waiting.error, ValueError)
