"""Bytes that wait for a client, or for a session."""

from __future__ import annotations

import random
import unittest

from redisproxy import bounds
from redisproxy.session.pieces import Pieces


class PiecesTests(unittest.TestCase):
    def test_they_come_in_order(self) -> None:
        rng = random.Random(7)
        pieces, expected, size = Pieces(), bytearray(), 0
        for _ in range(3000):
            data = rng.randbytes(rng.choice([0, 1, 50, bounds.SMALL_READ_BYTES, bounds.READ_BYTES]))
            action = rng.randrange(3)
            if action == 0:
                pieces.add(data)
                expected += data
            elif action == 1 and pieces.size:
                got = pieces.next(rng.choice([None, 1, 5000]))
                self.assertEqual(got, expected[: len(got)])
                self.assertTrue(got)
                del expected[: len(got)]
                if size % 2:
                    pieces.put_back(got)
                    expected[:0] = got
                size += 1
            self.assertEqual(pieces.size, len(expected))
        pieces.clear()
        self.assertEqual(pieces.size, 0)

    def test_many_small_ones_are_few(self) -> None:
        pieces = Pieces()
        for _ in range(100_000):
            pieces.add(b"xy")
        sizes = []
        while pieces.size:
            sizes.append(len(pieces.next()))
        self.assertEqual(sizes, [bounds.READ_BYTES] * 3 + [200_000 - 3 * bounds.READ_BYTES])

    def test_no_more_than_that(self) -> None:
        pieces = Pieces()
        pieces.add(b"x" * 100_000)
        self.assertEqual([len(pieces.next(60_000)), len(pieces.next(60_000)), pieces.size], [60_000, 40_000, 0])
