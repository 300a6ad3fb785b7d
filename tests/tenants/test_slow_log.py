"""Whose an entry of Redis's log of slow commands is, by the name of its connection."""

from __future__ import annotations

import unittest

from redisproxy.tenants.model import Tenant
from redisproxy.tenants.slow_log import ConnectionNames, entries, newest

BLUE = Tenant("team-blue", 3)


def entry(number: int, name: bytes, *words: bytes) -> list:
    return [number, 1000, 250, list(words or (b"KEYS", b"*")), b"10.0.0.1:7", name]


class SlowLogTests(unittest.TestCase):
    def test_names_are_those_of_one_process(self) -> None:
        names, others = ConnectionNames(), ConnectionNames()
        self.assertEqual(names.of(BLUE), b"redisproxy:team-blue:3:" + names.token)
        self.assertNotEqual(names.token, others.token)
        [found] = entries([entry(7, names.of(BLUE))])
        self.assertEqual(found, (7, 1000, 250, [b"KEYS", b"*"], BLUE, names.token))

    def test_all_others_are_left_out(self) -> None:
        name = ConnectionNames().of(BLUE)
        for other in (
            b"",
            b"redisproxy-queries",
            b"redisproxy:team-blue:3",
            b"redisproxy:team-blue:x:00",
            b"x" + name,
            name + b"\n",
        ):
            self.assertEqual(list(entries([entry(7, other)])), [], other)
        for words in ((b"AUTH", b"s3cret"), (b"select", b"3"), (b"HELLO", b"3"), (b"CLIENT", b"SETNAME", b"x")):
            self.assertEqual(list(entries([entry(7, name, *words)])), [])
        for odd in (None, 7, b"x", [7], [[]], [[1, 2, 3, [b"GET"]]], [[1, 2, 3, [], b"", name]]):
            self.assertEqual(list(entries(odd)), [], odd)

    def test_a_large_command(self) -> None:
        name = ConnectionNames().of(BLUE)
        for words, large in (
            ((b"MSET", b"a", b"b", b"... (7 more arguments)"), True),
            ((b"SET", b"k", b"v" * 128 + b"... (100000 more bytes)"), True),
            ((b"SET", b"k", b"v" * 128 + b"... (99999 more bytes)"), False),
            ((b"SET", b"k", b"... (100000 more bytes) or so"), False),
            ((b"GET", b"k"), False),
        ):
            [found] = entries([entry(7, name, *words)])
            self.assertEqual(found.large, large, words)

    def test_the_newest(self) -> None:
        self.assertEqual(newest([entry(9, b""), entry(7, b"")]), 9)
        for none in (None, [], [[]], [7], b"x"):
            self.assertIsNone(newest(none))
