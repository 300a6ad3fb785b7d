"""What waits to be read again: its bounds, and what is read together."""

from __future__ import annotations

import unittest

from redisproxy.sources.hints import BATCH, BATCH_PER_NAMESPACE, MANY, MOST_OF_ONE, ChangeQueue
from redisproxy.tenants.documents import Changes


class QueueTests(unittest.TestCase):
    def setUp(self) -> None:
        self.queue = ChangeQueue()

    def test_each_once_whatever_happened_to_it(self) -> None:
        woken = [self.queue.note("team-blue", "a"), self.queue.note("team-blue", "a"), self.queue.note("team-green", None)]
        self.assertEqual(woken, [True, False, False], "who takes them is woken up once")
        self.queue.note("team-green", "a")
        self.assertTrue(self.queue)
        self.assertEqual(self.queue.pop_batch(), Changes(frozenset({"team-green"}), frozenset({("team-blue", "a")})))
        self.assertFalse(self.queue)
        self.assertEqual(self.queue.pop_batch(), Changes())
        self.assertTrue(self.queue.note("team-blue", "a"))

    def test_one_namespace_does_not_hold_up_the_others(self) -> None:
        for number in range(MOST_OF_ONE):
            self.queue.note("team-loud", str(number))
        for number in range(5):
            self.queue.note(f"team-{number}", "a")
        first = self.queue.pop_batch().secrets
        self.assertEqual(len([1 for where, _ in first if where == "team-loud"]), BATCH_PER_NAMESPACE)
        self.assertEqual(len(first), BATCH_PER_NAMESPACE + 5)
        seen = set(first)
        while self.queue:
            seen |= self.queue.pop_batch().secrets
        self.assertEqual(len(seen), MOST_OF_ONE + 5)

    def test_it_is_bounded(self) -> None:
        for number in range(10 * MOST_OF_ONE):
            self.queue.note("team-loud", str(number))
        self.assertEqual(self.queue.pop_batch(), Changes(frozenset({"team-loud"}), frozenset()))
        for number in range(3 * BATCH):
            self.queue.note(f"team-{number}", f"redis-secret-temp-{number}")
        self.assertEqual([len(self.queue.pop_batch().secrets) for _ in range(4)], [BATCH] * 3 + [0])

    def test_a_rotation_of_all_is_one_piece(self) -> None:
        for number in range(BATCH + MANY):
            self.queue.note(f"team-{number}", "a")
        self.queue.note("team-last", "b")
        self.queue.note("team-last", "a")
        self.assertEqual(len(self.queue.pop_batch().secrets), BATCH + MANY + 1)
        self.assertEqual(self.queue.pop_batch().secrets, {("team-last", "b")})
        self.assertFalse(self.queue)
