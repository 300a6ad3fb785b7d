"""What the table says, and how a refusal reads."""

from __future__ import annotations

import unittest

from redisproxy.core import policy
from redisproxy.core.resp import DROP, TAKE


class TableTests(unittest.TestCase):
    def test_both_spellings_that_clients_send(self) -> None:
        self.assertEqual((policy.TABLE[b"SWAPDB"], policy.TABLE[b"swapdb"]), (DROP, DROP))
        self.assertEqual((policy.TABLE[b"SELECT"], policy.TABLE[b"select"]), (TAKE, TAKE))
        self.assertFalse(policy.REFUSED & policy.TAKEN)

    def test_commands_whose_replies_cannot_be_counted_never_pass(self) -> None:
        for name in (b"MONITOR", b"SYNC", b"PSYNC", b"REPLCONF"):
            self.assertEqual(policy.TABLE[name], DROP)

    def test_a_refusal_is_one_line_whatever_the_name(self) -> None:
        for name in (b"config", b"a\r\n+OK\r\n", b"\xff\xfe", b"x" * 1000, b"client|kill", b""):
            error = policy.refusal(name)
            self.assertTrue(error.startswith(b"-NOPERM ") and error.endswith(b"\r\n"))
            self.assertEqual(error.count(b"\r"), 1)
            self.assertEqual(error.count(b"\n"), 1)
            self.assertLess(len(error), 200)
