"""Slots, the queue for them, and the room for log-ins."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from redisproxy import bounds
from redisproxy.clients.admission import Admission, room_for_log_ins
from redisproxy.tenants.model import Tenant
from redisproxy.tenants.shares import Shares

A, B, C = (Tenant(name, number) for number, name in enumerate("abc", 1))


class Visitor:
    """Records what was decided about it."""

    def __init__(self, admission: Admission, source: str = "192.0.2.1", tenant: Tenant | None = None, rank: int = 0) -> None:
        self.admission, self.source, self.rank = admission, source, rank
        self.group: Shares | None = None
        self.owner: object = None
        self.events: list[str] = []
        admission.arrive(self)
        if tenant is not None:
            self.log_in(tenant)

    def log_in(self, tenant: Tenant) -> Visitor:
        self.admission.log_in(self, tenant)
        return self

    @property
    def state(self) -> str:
        return " ".join(self.events)

    def admitted(self) -> None:
        self.events.append("admitted")

    def refused(self) -> None:
        self.events.append("refused")

    def make_room(self) -> None:
        self.events.append("made room")

    def give_way(self) -> None:
        self.events.append("gave way")

    def cut(self) -> None:
        self.events.append("cut")


class AdmissionTests(unittest.TestCase):
    def sessions(self, admission: Admission, tenant: Tenant, count: int, **options: object) -> list[Visitor]:
        return [Visitor(admission, tenant=tenant, **options) for _ in range(count)]

    def states(self, visitors: list[Visitor]) -> list[str]:
        return [visitor.state for visitor in visitors]

    def test_served_then_waiting_then_turned_away(self) -> None:
        admission = Admission(2, 1)
        visitors = self.sessions(admission, A, 4)
        self.assertEqual(self.states(visitors), ["admitted", "admitted", "", "refused"])
        self.assertEqual((admission.served, admission.waiting, admission.unauthenticated), (2, 1, 1))
        admission.leave(visitors[3])
        self.assertEqual((admission.served, admission.waiting, admission.unauthenticated), (2, 1, 0))
        admission.leave(visitors[0])
        self.assertEqual(visitors[2].state, "admitted")
        self.assertEqual((admission.served, admission.waiting), (2, 0))

    def test_in_order_of_arrival_without_those_that_left(self) -> None:
        admission = Admission(1, 3)
        first, second, third, fourth = self.sessions(admission, A, 4)
        admission.leave(second)
        admission.leave(first)
        self.assertEqual(self.states([second, third, fourth]), ["", "admitted", ""])
        admission.withdraw(fourth)  # its session ended, and its connection is still closing
        admission.leave(third)
        self.assertEqual((fourth.state, admission.served, admission.unauthenticated), ("", 0, 1))

    def test_without_pressure_one_tenant_may_have_all(self) -> None:
        admission = Admission(100, 0)
        self.assertEqual(set(self.states(self.sessions(admission, A, 100))), {"admitted"})
        waiting = [Visitor(admission) for _ in range(room_for_log_ins(100))]
        self.assertEqual(set(self.states(waiting)), {""})

    def test_one_tenant_has_all_slots_and_the_queue_and_another_logs_in(self) -> None:
        admission = Admission(10, 5)
        of_a = self.sessions(admission, A, 10)
        queue = self.sessions(admission, A, 5)
        of_b = self.sessions(admission, B, 5)
        self.assertEqual(self.states(of_b), ["admitted"] * 5)
        self.assertEqual(self.states(of_a), ["admitted gave way"] * 5 + ["admitted"] * 5)
        # Now they have equally many. Nobody takes a slot from the other, and they share the queue.
        more = self.sessions(admission, B, 3)
        self.assertEqual(self.states(more), ["", "", "refused"])
        self.assertEqual(self.states(queue), ["", "", "", "refused", "refused"])
        again = self.sessions(admission, A, 2)
        self.assertEqual(self.states(again), ["refused"] * 2)
        # A third tenant takes from both of them.
        of_c = self.sessions(admission, C, 3)
        self.assertEqual(self.states(of_c), ["admitted"] * 3)
        self.assertEqual(sum("gave way" in state for state in self.states(of_a + of_b)), 8)
        self.assertEqual(sorted(map(len, admission._served.owners.values())), [3, 3, 4])

    def test_what_gives_way_is_what_is_lost_least(self) -> None:
        admission = Admission(4, 0)
        ranks = [3, 1, 2, 1]
        of_a = [Visitor(admission, tenant=A, rank=rank) for rank in ranks]
        self.sessions(admission, B, 2)
        self.assertEqual(self.states(of_a), ["admitted", "admitted gave way", "admitted", "admitted gave way"])

    def test_a_free_slot_is_for_the_tenant_with_the_fewest(self) -> None:
        admission = Admission(4, 4)
        of_a, of_b = self.sessions(admission, A, 3), self.sessions(admission, B, 1)
        of_b += self.sessions(admission, B, 1)  # takes one of A's
        first, second = self.sessions(admission, A, 2)
        third = Visitor(admission, tenant=B)
        self.assertEqual(self.states([first, second, third]), ["", "", ""])
        admission.leave(of_b[0])
        self.assertEqual(self.states([first, second, third]), ["", "", "admitted"])
        admission.leave(next(each for each in of_a if each.state == "admitted"))
        self.assertEqual(self.states([first, second]), ["admitted", ""])

    def test_of_those_without_a_password_the_oldest_of_the_address_with_most_makes_room(self) -> None:
        admission = Admission(1, 0)
        places = 1 + bounds.LOG_IN_ROOM
        honest = Visitor(admission, "192.0.2.7")
        flood = [Visitor(admission) for _ in range(places + 100)]
        self.assertEqual([state[:9] for state in self.states(flood[:102])], ["made room"] * 101 + [""])
        self.assertEqual(honest.state, "")
        self.assertEqual(Visitor(admission, "192.0.2.8").state, "")
        # From as many addresses as there are places, the oldest one goes.
        others = [Visitor(admission, f"192.0.2.{number}") for number in range(100, 100 + places)]
        self.assertEqual(honest.state, "made room")
        self.assertEqual(self.states(others), [""] * places)
        self.assertEqual(others[0].log_in(A).state, "admitted")

    def test_behind_one_address_a_newcomer_has_as_long_as_the_flood_needs_for_all_places(self) -> None:
        admission = Admission(1, 0)
        self.sessions(admission, A, 1)
        honest = Visitor(admission)
        for _ in range(bounds.LOG_IN_ROOM - 1):
            Visitor(admission)
        self.assertEqual(honest.state, "")
        Visitor(admission)
        self.assertEqual(honest.state, "made room")

    def test_those_that_had_to_go_and_do_not_are_cut_off(self) -> None:
        admission = Admission(4, 0)
        first = Visitor(admission)
        for _ in range(4 + 2 * bounds.LOG_IN_ROOM - 1):
            Visitor(admission)
        self.assertEqual(first.state, "made room")
        Visitor(admission)
        self.assertEqual(first.state, "made room cut")
        admission.leave(first)
        self.assertEqual(admission.unauthenticated, 4 + bounds.LOG_IN_ROOM)

    def test_a_session_keeps_its_slot_when_it_logs_in_again(self) -> None:
        admission = Admission(2, 0)
        first, second = self.sessions(admission, A, 2)
        admission.belongs_to(first, B)
        first.log_in(B)
        self.assertEqual(first.state, "admitted admitted")
        # Each has one: C gets none.
        self.assertEqual(Visitor(admission, tenant=C).state, "refused")
        admission.moved(first)
        self.assertEqual((admission.served, second.state), (2, "admitted"))

    def test_a_tenant_that_waits_gets_its_share_when_a_session_changes_its_tenant(self) -> None:
        admission = Admission(2, 1)
        of_a, of_b = (Visitor(admission, tenant=tenant) for tenant in (A, B))
        waiting = Visitor(admission, tenant=C)
        self.assertEqual(waiting.state, "")
        admission.belongs_to(of_b, A)  # A has both now
        self.assertEqual(self.states([of_a, of_b, waiting]), ["admitted gave way", "admitted", "admitted"])
        # If the one that had most changes its tenant, the one that it left may wait.
        admission = Admission(2, 1)
        first, _, late = (Visitor(admission, tenant=A) for _ in range(3))
        admission.belongs_to(first, B)
        self.assertEqual(late.state, "")

    def test_the_way_back(self) -> None:
        admission = Admission(3, 1)
        crowd = self.sessions(admission, A, 5) + [Visitor(admission) for _ in range(50)]
        for visitor in crowd:
            admission.leave(visitor)
        self.assertEqual((admission.served, admission.waiting, admission.unauthenticated), (0, 0, 0))
        self.assertEqual(self.states(self.sessions(admission, A, 3)), ["admitted"] * 3)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["arrive", "log_in", "leave", "moved", "withdraw", "belongs_to"]),
                st.integers(0, 30),
                st.integers(0, 2),
            )
        )
    )
    def test_no_more_than_there_is_and_none_stays_idle(self, steps: list[tuple[str, int, int]]) -> None:
        admission = Admission(3, 2)
        there: list[Visitor] = []
        for what, number, which in steps:
            if what == "arrive" or not there:
                for _ in range(number):
                    there.append(Visitor(admission, f"192.0.2.{which}"))
                continue
            visitor = there[number % len(there)]
            if what == "log_in" and not visitor.events:
                if visitor.group is not admission._waiting:
                    visitor.log_in((A, B, C)[which])
            elif what == "leave":
                there.remove(visitor)
                admission.leave(visitor)
            elif what == "moved":
                visitor.source = f"192.0.2.{which}"
                admission.moved(visitor)
            elif what == "withdraw":
                admission.withdraw(visitor)
            elif what == "belongs_to":
                admission.belongs_to(visitor, (A, B, C)[which])
            taken = admission.served + admission.waiting + admission.unauthenticated
            self.assertLessEqual(admission.served, 3)
            self.assertLessEqual(admission.waiting, 2)
            self.assertLessEqual(taken, 5 + bounds.LOG_IN_ROOM)
            self.assertLessEqual(len(admission._leaving), bounds.LOG_IN_ROOM)
            self.assertTrue(admission.served == 3 or not admission.waiting, "nobody waits for a slot that is free")
            most = max(map(len, admission._served.owners.values()), default=0)
            for tenant in admission._waiting.owners:
                self.assertLessEqual(most, len(admission._served.of(tenant)) + 1, "who waits has its share")
            self.assertEqual(taken, sum(visitor.group is not None for visitor in there))
        for visitor in there:
            admission.leave(visitor)
        self.assertEqual(admission.served + admission.waiting + admission.unauthenticated, 0)


class SharesTests(unittest.TestCase):
    def test_who_has_most(self) -> None:
        shares: Shares[str, int] = Shares()
        with self.assertRaises(ValueError):
            shares.largest()
        for owner, member in (("a", 1), ("b", 2), ("b", 3), ("a", 4)):
            shares.add(owner, member)
        self.assertEqual((shares.largest(), list(shares.of("a")), shares.total), ("b", [1, 4], 4))
        shares.remove("b", 2)
        self.assertEqual(shares.largest(), "a")
        shares.remove("a", 4)
        self.assertEqual(shares.largest(), "a", "it had more")
        shares.add("c", 5)
        shares.remove("a", 1)
        self.assertEqual(shares.largest(), "b", "it has one for a longer time")
        shares.remove("b", 3)
        self.assertEqual((shares.largest(), dict(shares.of("b")), list(shares.owners)), ("c", {}, ["c"]))
