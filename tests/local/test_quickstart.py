"""What `make run` prints: of a password, a word that a shell takes as that password; of a proxy
that is gone, that it is.
"""

from __future__ import annotations

import io
import subprocess
import unittest

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from redisproxy.local.quickstart import _quoted, tour
from redisproxy.tenants.documents import FullRead, SecretDocument
from tests.support.servers import free_port


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


class TourTests(TestCase):
    async def test_a_proxy_that_does_not_answer_is_no_bug(self) -> None:
        data = {"redis-connection-string": b"redis://:blue@redis/3"}
        secrets = {"tenant-blue": (SecretDocument("tenant-blue", "master", None, data),)}
        out = io.StringIO()
        await tour(reactor, FullRead(None, (), secrets), "master", "127.0.0.1", free_port(), ["further"], out)
        self.assertRegex(out.getvalue(), r"tried: no answer from the proxy \(.*ConnectionRefusedError.*\)")
        self.assertIn("further", out.getvalue())
