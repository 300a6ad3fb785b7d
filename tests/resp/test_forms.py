"""Tests both forms of the framing. The tests of the framing run once more with the interpreted
form. Some tests are for one form only.
"""

from __future__ import annotations

import inspect
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from redisproxy.resp import framing
from tests.fuzz import targets
from tests.fuzz.strategies import replies, requests
from tests.support.forms import SOURCE, interpreted

if framing.COMPILED:
    MISSING = ""
else:
    MISSING = (
        "the framing is not compiled here: install gcc and Python's headers (Debian: python3-dev), then: make clean test"
    )

test_framing, test_corpus, test_differential = interpreted(
    "tests.resp.test_framing", "tests.fuzz.test_corpus", "tests.fuzz.test_differential"
)
plain = test_framing.framing

for module in (test_framing, test_corpus, test_differential):
    for name, case in inspect.getmembers(module, inspect.isclass):
        if issubclass(case, unittest.TestCase) and case.__module__ == module.__name__:
            # If the interpreted form is the installed one, these tests ran already.
            globals()[name] = unittest.skipIf(MISSING, MISSING)(type(name, (case,), {"__module__": __name__}))
del module, name, case  # otherwise trial takes them for tests of this module


class InterpretedTests(unittest.TestCase):
    def test_is_interpreted(self) -> None:
        self.assertFalse(plain.COMPILED)
        self.assertIsNot(plain, framing)
        self.assertIs(test_corpus.targets.RequestScanner, plain.RequestScanner)
        self.assertIs(test_corpus.targets.pending_module.ReplyMeasurer, plain.ReplyMeasurer)

    def test_arguments_that_were_scanned_are_not_scanned_again(self) -> None:
        """No argument is scanned twice. The test counts calls, which is only possible in the
        interpreted form; the compiled form makes the same ones.
        """
        scanner = plain.RequestScanner(plain.AUTHENTICATED, {}, plain.FORWARD)
        data = plain.encode([b"MSET", *[b"x"] * 5000])
        # One look for each byte, not one for each argument at each byte.
        looks = iter([plain._short_header] * 40_000)
        with mock.patch.object(plain, "_short_header", lambda *header: next(looks)(*header)):
            for chunk in test_framing.bytewise(data):
                scanner.feed(chunk)
                found = scanner.next()
        self.assertEqual(found, (plain.RUN, data, 1))


@unittest.skipIf(MISSING, MISSING)
class CompiledTests(unittest.TestCase):
    def test_is_not_older_than_its_source(self) -> None:
        """The compiled form is newer than its source: Python prefers it, so every test would be of
        old code.
        """
        compiled = Path(framing.__file__).stat().st_mtime
        for source in (SOURCE, SOURCE.with_suffix(".pxd")):
            self.assertGreaterEqual(
                compiled, source.stat().st_mtime, "framing.py was edited: `make .venv/installed` compiles it"
            )

    def test_has_all_that_the_interpreted_form_has(self) -> None:
        public = {name for name in vars(plain) if not name.startswith("_")}
        self.assertEqual(public - set(vars(framing)), {"annotations"})  # from __future__
        for name in ("RequestScanner", "ReplyMeasurer"):
            one, other = getattr(plain, name), getattr(framing, name)
            self.assertEqual({n for n in dir(one) if n[0] != "_"} - {n for n in dir(other) if n[0] != "_"}, set())

    @settings(max_examples=500)
    @given(st.binary(max_size=4), st.sampled_from(["AUTHENTICATED", "UNAUTHENTICATED"]), requests)
    def test_both_forms_say_the_same_of_requests(self, sizes: bytes, limits: str, parts: list[bytes]) -> None:
        def said(targets: ModuleType) -> tuple[object, ...]:
            scanned = targets.Scanned(getattr(targets.framing, limits), targets.TABLE, targets.FORWARD)
            for chunk in targets.cut(b"".join(parts), sizes):
                if not scanned.feed(chunk):
                    break
            return scanned.said, scanned.error, scanned.sent, scanned.scanner.buffered, scanned.scanner.forwarding

        self.assertEqual(said(targets), said(test_corpus.targets))

    @settings(max_examples=500)
    @given(st.binary(max_size=4), st.booleans(), replies)
    def test_both_forms_say_the_same_of_replies(self, sizes: bytes, pushes: bool, parts: list[bytes]) -> None:
        def chunks() -> Iterator[bytes]:
            return targets.cut(b"".join(parts), sizes)

        self.assertEqual(targets._measured(chunks(), pushes), test_corpus.targets._measured(chunks(), pushes))
