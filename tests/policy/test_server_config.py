"""Tests CONFIG GET, cut to what a tenant may know: which names a pattern matches, and the reply."""

from __future__ import annotations

import re
import time
import unittest
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from redisproxy import bounds
from redisproxy.policy import server_config
from redisproxy.policy.server_config import NAMES, PatternError, named, reply

#: The names that the patterns of the tests are about.
SOME = (b"databases", b"maxmemory", b"maxmemory-policy", b"notify-keyspace-events", b"appendonly", b"save")


class NamedTests(unittest.TestCase):
    def test_names(self) -> None:
        for words, names in (
            ([b"databases"], [b"databases"]),
            # Redis 7 and later repeat what the client wrote, and only the first spelling of a name.
            ([b"MaxMemory", b"maxmemory", b"SAVE"], [b"MaxMemory", b"SAVE"]),
            ([b"maxmemory*", b"MAXMEMORY"], [b"maxmemory", b"maxmemory-policy"]),
            ([b"requirepass", b"masterauth", b"dir", b"", b"save\0", b" save", b"user"], []),
        ):
            self.assertEqual(named(words), names, words)

    def test_a_name_that_was_found_is_not_looked_for_again(self) -> None:
        """256 patterns took 37 ms, for which the tenant's share of the work counted 17 units."""
        with mock.patch.object(server_config, "matches", wraps=server_config.matches) as matches:
            self.assertEqual(named([b"*"] * bounds.CONFIG_PATTERN_BYTES), list(NAMES))
        self.assertEqual(matches.call_count, len(NAMES))

    def test_patterns_mean_what_they_mean_to_redis(self) -> None:
        """Patterns match as they do on Redis 6.2, 7.0 and 8.2, and on Valkey 8 and 9, where these
        were tried.
        """
        for pattern, names in (
            (b"*", list(SOME)),
            (b"**", list(SOME)),
            (b"?" * 9, [b"databases", b"maxmemory"]),
            (b"*s", [b"databases", b"notify-keyspace-events"]),
            (b"S*E", [b"save"]),
            (b"[D-dX]ata*", [b"databases"]),
            (b"[f-a]atabases", [b"databases"]),
            (b"[^a-c]atabases", [b"databases"]),
            (b"[^d]atabases", []),
            (b"[!x]atabases", []),
            (b"data[]bases", []),
            (b"data[^]ases", [b"databases"]),
            (b"database[s", [b"databases"]),
            (b"databases[", []),
            (b"database[\\s]", [b"databases"]),
            (b"data[b", []),
            (b"data[b-", []),
            (b"s\\a?e", [b"save"]),
            (b"sav\\e*", [b"save"]),
            (b"save*\\", []),
            (b"save\\*", []),
            (b"*-*-*", [b"notify-keyspace-events"]),
            (b"*a*a*b*s", [b"databases"]),
            (b"requirepass*", []),
            (b"*pass*", []),
            (b"[r]equirepass", []),
        ):
            with mock.patch.object(server_config, "NAMES", SOME):
                self.assertEqual(named([pattern]), names, pattern)

    @settings(deadline=None)
    @given(st.text("adeosv-*?", max_size=12))
    def test_stars_and_question_marks(self, pattern: str) -> None:
        form = re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."))
        expected = [name for name in NAMES if form.fullmatch(name.decode())]
        self.assertEqual(named([pattern.encode()]), expected)

    @settings(deadline=None)
    @given(st.lists(st.binary(max_size=40), max_size=6))
    def test_nothing_else_is_ever_named(self, words: list[bytes]) -> None:
        for name in named(words):
            self.assertIn(name.lower(), NAMES)

    def test_hostile_patterns_take_no_time(self) -> None:
        began = time.monotonic()
        longest = b"*" * bounds.CONFIG_PATTERN_BYTES
        for pattern in (b"*a" * 100 + b"b", b"*[a-z]" * 40 + b"0", b"[" + b"a-b" * 80, longest, b"?*" * 128):
            for _ in range(10):
                named([pattern])
        self.assertLess(time.monotonic() - began, 5)

    def test_how_long_patterns_may_be(self) -> None:
        named([b"*" * bounds.CONFIG_PATTERN_BYTES, b"save", b"x" * 100_000])
        named([b"*x"] * (bounds.CONFIG_PATTERN_BYTES // 2))
        for words in ([b"*" * (bounds.CONFIG_PATTERN_BYTES + 1)], [b"*x"] * (bounds.CONFIG_PATTERN_BYTES // 2 + 1)):
            self.assertRaises(PatternError, named, words)


class ReplyTests(unittest.TestCase):
    def test_both_protocols(self) -> None:
        answers = [[b"save", b""], [b"SAVE", b"1"]]
        self.assertEqual(reply([b"save", b"SAVE"], answers, 2)[:4], b"*4\r\n")
        self.assertEqual(reply([b"save"], answers[:1], 2), b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n")
        self.assertEqual(reply([b"save"], answers[:1], 3), b"%1\r\n$4\r\nsave\r\n$0\r\n\r\n")
        self.assertEqual((reply([], [], 2), reply([], [], 3)), (b"*0\r\n", b"%0\r\n"))

    def test_only_what_was_asked_for_passes(self) -> None:
        for answer in ([b"requirepass", b"secret"], [b"save", b"secret", b"x", b"y"], [], b"secret", 7, None, [b"save", 1]):
            self.assertEqual(reply([b"save"], [answer], 2), b"*0\r\n", answer)
