"""Runs the fuzzing targets without a fuzzer: the corpus, so that what was found stays fixed, and
inputs from hypothesis.
"""

from __future__ import annotations

import contextlib
import io
import unittest
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest as trial

from . import __main__, targets
from .strategies import header, moves, replies, requests

CORPUS = Path(__file__).parent / "corpus"


class CorpusTests(unittest.TestCase):
    """Runs each file of the corpus as the fuzzer would."""

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


class MutationTests(trial.TestCase):
    """Tests ``python -m tests.fuzz``."""

    def test_an_input_that_fails_is_shortened_and_kept(self) -> None:
        def fails(data: bytes) -> None:
            assert b"d" not in data[1:], f"{len(data)} bytes"

        found = Path(self.mktemp())
        arguments = ["session", "--seconds", "0.5", "--found", str(found)]
        with mock.patch.object(targets, "session", fails), contextlib.redirect_stdout(io.StringIO()) as told:
            self.assertEqual(__main__.main(arguments), 1)
        kept = [file.read_bytes()[1:] for file in found.iterdir()]
        self.assertEqual(kept, [b"d"], told.getvalue())


class HypothesisTests(unittest.TestCase):
    """Runs the same targets with pieces that a fuzzer would first have to find."""

    @settings(max_examples=300)
    @given(header, requests)
    def test_requests(self, head: bytes, parts: list[bytes]) -> None:
        targets.requests(head + b"".join(parts))

    @settings(max_examples=300)
    @given(header, st.binary(max_size=7), replies)
    def test_replies(self, head: bytes, batches: bytes, parts: list[bytes]) -> None:
        targets.replies(bytes([head[0] & 0xF8 | len(batches)]) + head[1:] + batches + b"".join(parts))

    @settings(max_examples=300)
    @given(st.binary(min_size=1, max_size=1), moves)
    def test_session(self, login: bytes, steps: list[bytes]) -> None:
        targets.session(login + b"".join(steps))
