"""Tests how whole replies become values."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from redisproxy.resp.framing import ProtocolError
from redisproxy.resp.value import Answer, AnswerError, values_of

ELEMENTS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=50))
NESTED = st.recursive(ELEMENTS, lambda elements: st.lists(elements, max_size=5), max_leaves=30)


def reply(value: object) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(reply, value))
    return b"$%d\r\n%b\r\n" % (len(value), value)


def value_of(data: bytes) -> Answer:
    return values_of(data, 1)[0]


class ValueTests(unittest.TestCase):
    @given(st.one_of(ELEMENTS, st.lists(ELEMENTS, max_size=20)))
    def test_what_redis_writes(self, value: object) -> None:
        self.assertEqual(value_of(reply(value)), value)

    @given(NESTED)
    def test_lists_of_lists(self, value: object) -> None:
        """Nested lists are read, because the reply to COMMAND has them."""
        self.assertEqual(value_of(reply(value)), value)

    def test_however_deep(self) -> None:
        deep = value_of(b"*1\r\n" * 50_000 + b":1\r\n")
        depth = 0
        while isinstance(deep, list):
            [deep] = deep
            depth += 1
        self.assertEqual((deep, depth), (1, 50_000))

    @given(st.lists(st.one_of(ELEMENTS, st.lists(ELEMENTS, max_size=5)), max_size=8))
    def test_several_in_a_row(self, values: list) -> None:
        self.assertEqual(values_of(b"".join(map(reply, values)) + b":1\r\n", len(values)), values)

    @given(st.lists(ELEMENTS, min_size=1, max_size=5), st.data())
    def test_what_is_cut_off(self, value: list, data: st.DataObject) -> None:
        whole = reply(value)
        cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
        self.assertRaises(ProtocolError, value_of, cut)

    def test_errors(self) -> None:
        with self.assertRaisesRegex(AnswerError, "LOADING Redis is"):
            value_of(b"-LOADING Redis is loading\r\n")
        with self.assertRaisesRegex(AnswerError, "^BUSY$"):
            values_of(b":1\r\n-BUSY\r\n+OK\r\n", 3)
        self.assertEqual(value_of(b"+OK\r\n"), b"OK")
        self.assertEqual(value_of(b"*0\r\n"), [])

    def test_what_was_not_expected(self) -> None:
        for strange in (b"*1\r\n-ERR\r\n", b"%1\r\n", b"*x\r\n", b":x\r\n", b"$x\r\n", b"*2\r\n:1\r\n", b""):
            self.assertRaises(ProtocolError, value_of, strange)
