"""Tests which of several processes accepts the next client."""

from __future__ import annotations

import os
import unittest

from redisproxy.listen.balance import SLACK, Balance, shared_memory

PLACES = 1000


class BalanceTests(unittest.TestCase):
    def setUp(self) -> None:
        self.descriptor = shared_memory(3)
        self.addCleanup(os.close, self.descriptor)
        # As two processes have it.
        self.first, self.second = Balance(self.descriptor), Balance(self.descriptor)

    def test_who_has_more_than_another_waits(self) -> None:
        for number in (1, 2, 3):
            self.first.has(number, 5)
        self.assertTrue(self.second.may_take(2, PLACES, False))
        self.second.has(2, 5 + SLACK)
        self.assertTrue(self.second.may_take(2, PLACES, False))
        self.second.has(2, 5 + SLACK + 1)
        self.assertFalse(self.second.may_take(2, PLACES, False))
        self.assertTrue(self.first.may_take(1, PLACES, False))
        self.assertTrue(self.second.may_take(2, PLACES, True), "nobody else did")

    def test_who_has_no_place_left_waits_until_nobody_has_one(self) -> None:
        for number in (1, 2, 3):
            self.first.has(number, 2)
        self.second.has(2, 1)
        for waited in (False, True):
            self.assertFalse(self.first.may_take(1, 2, waited))
            self.assertTrue(self.second.may_take(2, 2, waited))
        self.second.has(2, 2)
        self.assertTrue(self.first.may_take(1, 2, False))
        self.second.has(2, None)
        self.assertTrue(self.first.may_take(1, 2, False), "one that takes none has no place")

    def test_for_who_takes_none_nobody_waits(self) -> None:
        self.first.has(1, 100)
        self.assertTrue(self.first.may_take(1, PLACES, False), "the others have not begun")
        self.second.has(2, 0)
        self.assertFalse(self.first.may_take(1, PLACES, False))
        self.second.has(2, None)
        self.assertTrue(self.first.may_take(1, PLACES, False))
