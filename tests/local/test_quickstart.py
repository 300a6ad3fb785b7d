"""What `make run` prints of a password: a word that a shell takes as that password."""

from __future__ import annotations

import subprocess
import unittest

from redisproxy.local.quickstart import _quoted


class QuotedTests(unittest.TestCase):
    def test_a_shell_reads_it_as_it_is(self) -> None:
        for password in (
            b"pass-word_1.",
            b"it's a $HOME `x` \\ !",
            "pä\u20acss".encode(),
            b"\xff\x00"[:1],
            b"a\x1b[2J\nb'",
            b"\\xff",
        ):
            word = _quoted(password)
            self.assertTrue(word.isprintable(), word)
            shown = subprocess.run(["bash", "-c", f"printf %s {word}"], stdout=subprocess.PIPE, check=True).stdout
            self.assertEqual(shown, password)
