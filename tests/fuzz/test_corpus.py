"""The fuzzing targets without a fuzzer: what was once found stays fixed, and hypothesis looks a little further."""

from __future__ import annotations

import unittest
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from . import targets

CORPUS = Path(__file__).parent / "corpus"

header = st.binary(min_size=targets.HEADER, max_size=targets.HEADER)
requests = st.lists(
    st.sampled_from(
        [
            b"*1\r\n",
            b"*2\r\n",
            b"*3\r\n",
            b"$4\r\n",
            b"$1\r\n",
            b"$0\r\n",
            b"\r\n",
            b"TAKE",
            b"HEAD",
            b"DROP",
            b"x",
            b'"',
            b" ",
        ]
    )
    | st.binary(max_size=6),
    max_size=30,
)
elements = (
    b"*1\r\n *3\r\n >3\r\n %1\r\n |1\r\n ~2\r\n *-1\r\n +x\r\n -x\r\n :1\r\n $1\r\nx\r\n $-1\r\n \r "
    b"$9\r\nsubscribe\r\n $7\r\nmessage\r\n $8\r\npmessage\r\n $11\r\nunsubscribe\r\n"
)
replies = st.lists(st.sampled_from(elements.split(b" ")) | st.binary(max_size=3), max_size=30)
moves = st.lists(
    st.tuples(st.integers(30, 109), st.integers(0, len(targets.CLIENT) - 1)).map(bytes) | st.binary(min_size=2, max_size=2),
    max_size=40,
)


class CorpusTests(unittest.TestCase):
    """Each file of the corpus, as the fuzzer would run it."""

    def replay(self, name: str) -> None:
        files = sorted((CORPUS / name).iterdir())
        self.assertGreater(len(files), 10)
        for file in files:
            with self.subTest(file.name):
                getattr(targets, name)(file.read_bytes())

    def test_requests(self) -> None:
        self.replay("requests")

    def test_replies(self) -> None:
        self.replay("replies")

    def test_session(self) -> None:
        self.replay("session")


class HypothesisTests(unittest.TestCase):
    """The same targets, from pieces that a fuzzer would have to find."""

    @settings(max_examples=300)
    @given(header, requests)
    def test_requests(self, head: bytes, parts: list[bytes]) -> None:
        targets.requests(head + b"".join(parts))

    @settings(max_examples=300)
    @given(header, st.binary(max_size=7), replies)
    def test_replies(self, head: bytes, debts: bytes, parts: list[bytes]) -> None:
        targets.replies(bytes([head[0] & 0xF8 | len(debts)]) + head[1:] + debts + b"".join(parts))

    @settings(max_examples=300)
    @given(st.binary(min_size=1, max_size=1), moves)
    def test_session(self, login: bytes, steps: list[bytes]) -> None:
        targets.session(login + b"".join(steps))
