"""Tests how names that anybody may choose are shown."""

from __future__ import annotations

import unicodedata
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from redisproxy.printable import ERROR_CHARACTERS, clause, listed, printable, sentence, server_error, shown_error


class PrintableTests(unittest.TestCase):
    def test_what_is_visible_stays(self) -> None:
        for text in (
            "",
            "team-blue/redis-secret: it's (no) $ \\ path",
            "Zürich",
            "日本語",
            "भारत",
            "e\u0301te\u0301",
            "“…”",
        ):
            self.assertEqual(printable(text), text)

    def test_what_is_not_is_written_as_an_escape(self) -> None:
        for text, shown in (
            ("a\x1b]0;x\x07b", r"a\x1b]0;x\x07b"),
            ("a\x9b2Jb", r"a\x9b2Jb"),
            ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
            ("a\nb\r\tc\u2028d\x85", r"a\nb\r\tc\u2028d\x85"),
            ("a\u00a0b\u2003c\u200bd\ufeff", r"a\xa0b\u2003c\u200bd\ufeff"),
            ("a\udcffb", r"a\udcffb"),
            ("a\U000e0041b\U0010ffff", r"a\U000e0041b\U0010ffff"),
            ("\u0301a/\u0301", r"\u0301a/\u0301"),
            ("\u3164\u2800", r"\u3164\u2800"),
        ):
            self.assertEqual(printable(text), shown)

    @settings(deadline=None)
    @given(st.text(st.characters(codec=None), max_size=30))
    def test_any_text(self, text: str) -> None:
        shown = printable(text)
        self.assertTrue(shown.isprintable())
        self.assertEqual(printable(shown), shown)
        shown.encode()
        self.assertFalse({unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class ServerErrorTests(unittest.TestCase):
    def test_no_argument_is_repeated(self) -> None:
        for text, shown in (
            ("WRONGPASS invalid username-password pair or user is disabled.", None),
            (
                "ERR unknown command 'AUTH', with args beginning with: 'default' 'hunter2' ",
                "ERR unknown command 'AUTH', with args beginning with: …",
            ),
            (
                "ERR Error in ACL SETUSER modifier '>hunter2': Syntax error",
                "ERR Error in ACL SETUSER modifier '…': Syntax error",
            ),
            ("ERR Error in ACL SETUSER modifier '+clusterscan': Unknown command", None),
        ):
            self.assertEqual(server_error(text), text if shown is None else shown)

    def test_an_error_for_the_log_is_bounded_and_printable_and_has_no_argument(self) -> None:
        error = "ERR unknown command 'AUTH', with args beginning with: 'default' 'hunter2' "
        shown = "ERR unknown command 'AUTH', with args beginning with: …"
        self.assertEqual((shown_error(error), shown_error(error.encode())), (shown, shown))
        self.assertEqual(shown_error("ERR \x1b\n"), r"ERR \x1b\n")
        self.assertEqual(shown_error(b"ERR \xff\n"), "ERR \ufffd\\n")
        self.assertEqual(shown_error("WRONGPASS user is disabled."), "WRONGPASS user is disabled")
        for long in ("é" * 1000, ("é" * 1000).encode()):
            self.assertEqual(shown_error(long), "é" * ERROR_CHARACTERS)


class PunctuationTests(unittest.TestCase):
    """A foreign text within a sentence of the proxy's: no full stop is doubled, and none is
    missing.
    """

    def test_a_clause_has_no_full_stop(self) -> None:
        for text, shown in (("refused.", "refused"), ("refused", "refused"), ("and so on...", "and so on..."), ("", "")):
            self.assertEqual(clause(text), shown)

    def test_a_sentence_has_one(self) -> None:
        for text, shown in (("refused.", "refused."), ("refused", "refused."), ("is it there?", "is it there?")):
            self.assertEqual(sentence(text), shown)

    def test_a_list_of_names(self) -> None:
        self.assertEqual([listed("abc"[:count]) for count in range(4)], ["", "a", "a and b", "a, b and c"])
