"""Tests how replies to INFO are read."""

from __future__ import annotations

import unittest

from redisproxy.resp.info import fields, keys, sections

INFO = (
    b"stray:1\r\n# Server\r\nredis_version:7.2.4\r\nexecutable:/a:b\r\n\r\n# Modules\r\nmodule:name=a\r\nmodule:name=b\r\n"
    b"\r\n# CPU\r\n\r\n# Keyspace\r\ndb0:keys=12,expires=0,avg_ttl=0\r\ndb10:keys=3,expires=1,avg_ttl=5\r\n"
)


class InfoTests(unittest.TestCase):
    def test_sections_in_order_with_all_their_fields(self) -> None:
        found = list(sections(INFO))
        self.assertEqual([section.name for section in found], ["", "server", "modules", "cpu", "keyspace"])
        self.assertEqual([section.heading for section in found[:2]], ["", "# Server"])
        self.assertEqual(found[0].fields, [("stray", "1")])
        self.assertEqual(found[1].fields, [("redis_version", "7.2.4"), ("executable", "/a:b")])
        self.assertEqual(found[2].fields, [("module", "name=a"), ("module", "name=b")])
        self.assertEqual(found[3].fields, [])

    def test_fields_of_all_sections(self) -> None:
        self.assertEqual(fields(INFO)["executable"], "/a:b")
        self.assertEqual(fields(INFO)["db10"], "keys=3,expires=1,avg_ttl=5")

    def test_texts_and_bytes_that_are_no_text(self) -> None:
        self.assertEqual(fields("role:master\r\n"), {"role": "master"})
        self.assertEqual(fields(b"role:\xff\n"), {"role": "\ufffd"})
        for nothing in (b"", None, b"no field", b"# Heading"):
            self.assertEqual(fields(nothing), {})

    def test_keys_of_each_database(self) -> None:
        self.assertEqual(keys(INFO), {0: 12, 10: 3})
        self.assertEqual(keys(b"# Keyspace\r\n"), {})

    def test_numbers_that_are_none_are_left_out(self) -> None:
        for line in (
            "db1:keys=\u0661,",
            "db\u0661:keys=1,",
            "db:keys=1,",
            "db1:keys=-1,",
            "xdb1:keys=1,",
            "db1:expires=1,keys=2,",
        ):
            self.assertEqual(keys(line), {}, line)
