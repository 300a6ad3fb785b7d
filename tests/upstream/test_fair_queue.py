"""Who is next: as many as may run at once, and a queue for each tenant."""

from __future__ import annotations

import unittest
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redisproxy.tenants.model import Tenant
from redisproxy.upstream.fair_queue import FairQueue

BLUE, GREEN, RED = TENANTS = Tenant("blue", 3), Tenant("green", 5), Tenant("red", 6)


def begin(queue: FairQueue[str], tenant: Tenant, *waiters: str) -> list[str]:
    """Begins these of the tenant. Returns those that have to wait."""
    waiting = [waiter for waiter in waiters if not queue.begin(tenant)]
    for waiter in waiting:
        queue.wait(tenant, waiter)
    return waiting


class FairQueueTests(unittest.TestCase):
    def test_up_to_the_bound_nobody_waits(self) -> None:
        queue: FairQueue[str] = FairQueue(3)
        self.assertEqual(begin(queue, BLUE, "1", "2", "3", "4"), ["4"])
        self.assertEqual((queue.running, len(queue)), (3, 1))
        self.assertIsNone(queue.next())
        queue.end(BLUE)
        self.assertFalse(queue.begin(GREEN), "who comes now is not before who waits")
        self.assertEqual((queue.next(), queue.next()), ("4", None))

    def test_a_tenant_with_many_delays_another_by_one_place(self) -> None:
        queue: FairQueue[str] = FairQueue(4)
        begin(queue, BLUE, *(f"b{n}" for n in range(1000)))
        begin(queue, GREEN, "g1", "g2", "g3")
        served = []
        for _ in range(3):
            queue.end(BLUE)
            served.append(queue.next())
        self.assertEqual(served, ["g1", "g2", "b4"])
        queue.end(GREEN)
        self.assertEqual(queue.next(), "g3", "it has fewer than the other")

    def test_tenants_with_as_many_running_take_turns(self) -> None:
        queue: FairQueue[str] = FairQueue(1)
        queue.begin(RED)
        begin(queue, BLUE, "b1", "b2", "b3")
        begin(queue, GREEN, "g1", "g2")
        ended, served = RED, []
        for _ in range(5):
            queue.end(ended)
            served.append(queue.next())
            ended = BLUE if served[-1][0] == "b" else GREEN
        self.assertEqual(served, ["b1", "g1", "b2", "g2", "b3"])

    def test_who_leaves_concerns_nobody_else(self) -> None:
        queue: FairQueue[str] = FairQueue(1)
        queue.begin(RED)
        begin(queue, BLUE, "b1", "b2")
        begin(queue, GREEN, "g1")
        queue.leave(BLUE, "b1")
        queue.leave(BLUE, "b1")
        queue.leave(GREEN, "g1")
        queue.leave(RED, "never came")
        queue.end(RED)
        self.assertEqual((queue.next(), len(queue)), ("b2", 0))

    def test_all_are_told_at_once(self) -> None:
        queue: FairQueue[str] = FairQueue(1)
        queue.begin(RED)
        begin(queue, BLUE, "b1", "b2")
        begin(queue, GREEN, "g1")
        self.assertEqual(sorted(queue.clear()), ["b1", "b2", "g1"])
        queue.end(RED)
        self.assertEqual((queue.next(), len(queue), queue.running), (None, 0, 0))
        self.assertTrue(queue.begin(BLUE))

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["come", "end", "leave"]), st.sampled_from(TENANTS))))
    def test_whatever_comes_ends_and_leaves(self, most: int, steps: list[tuple[str, Tenant]]) -> None:
        queue: FairQueue[tuple[Tenant, int]] = FairQueue(most)
        running: Counter[Tenant] = Counter()
        waiting: dict[Tenant, list[tuple[Tenant, int]]] = {tenant: [] for tenant in TENANTS}
        for number, (step, tenant) in enumerate(steps):
            if step == "come":
                waits = bool(any(waiting.values())) or running.total() >= most
                self.assertEqual(queue.begin(tenant), not waits)
                if waits:
                    waiting[tenant].append((tenant, number))
                    queue.wait(tenant, (tenant, number))
                else:
                    running[tenant] += 1
            elif step == "end" and running[tenant]:
                running[tenant] -= 1
                queue.end(tenant)
            elif step == "leave" and waiting[tenant]:
                queue.leave(tenant, waiting[tenant].pop())
            while (found := queue.next()) is not None:
                fewest = min(running[other] for other in TENANTS if waiting[other])
                self.assertEqual(running[found[0]], fewest)
                self.assertEqual(found, waiting[found[0]].pop(0))
                running[found[0]] += 1
            self.assertTrue(running.total() == most or not any(waiting.values()))
            self.assertEqual((queue.running, len(queue)), (running.total(), sum(map(len, waiting.values()))))
