"""Slots, and the queue for them."""

from __future__ import annotations

import unittest

from redisproxy.clients.admission import Admission


class Visitor:
    def __init__(self) -> None:
        self.inside = False

    def admitted(self) -> None:
        assert not self.inside
        self.inside = True


class AdmissionTests(unittest.TestCase):
    def test_served_then_waiting_then_turned_away(self) -> None:
        admission = Admission(2, 1)
        visitors = [Visitor() for _ in range(4)]
        self.assertEqual([admission.arrive(v) for v in visitors], [True, True, True, False])
        self.assertEqual([v.inside for v in visitors], [True, True, False, False])
        self.assertEqual((admission.served, admission.waiting), (2, 1))
        admission.leave(visitors[3])
        self.assertEqual((admission.served, admission.waiting), (2, 1))
        admission.leave(visitors[0])
        self.assertTrue(visitors[2].inside)
        self.assertEqual((admission.served, admission.waiting), (2, 0))

    def test_in_order_of_arrival_without_those_that_left(self) -> None:
        admission = Admission(1, 3)
        first, second, third, fourth = (Visitor() for _ in range(4))
        for visitor in (first, second, third, fourth):
            admission.arrive(visitor)
        admission.leave(second)
        admission.leave(first)
        self.assertEqual([v.inside for v in (second, third, fourth)], [False, True, False])
        admission.leave(third)
        self.assertTrue(fourth.inside)

    def test_no_place_to_wait(self) -> None:
        admission = Admission(1, 0)
        first, second = Visitor(), Visitor()
        admission.arrive(first)
        self.assertFalse(admission.arrive(second))
