"""Counting by tenant and family."""

from __future__ import annotations

import unittest

from redisproxy.tenants.account import FAMILIES, Counts, TenantCounters, family


class TenantCountersTests(unittest.TestCase):
    def test_families(self) -> None:
        for name, expected in (
            (b"get", "other"),  # it is plain where it is not inspected, and then nobody asks
            (b"SELECT", "database"),
            (b"config|get", "server"),
            (b"eval", "scripting"),
            (b"BLPOP", "blocking"),
            (b"\xff", "other"),
        ):
            self.assertEqual(family(name), expected)
            self.assertIn(expected, FAMILIES)

    def test_what_was_not_inspected_is_plain(self) -> None:
        counters = TenantCounters()
        counters.commands = 10
        for name in (b"MULTI", b"exec", b"PUBLISH"):
            counters.inspected_one(name)
        self.assertEqual(counters.by_family(), {"plain": 7, "transaction": 2, "pubsub": 1})

    def test_who_is_no_tenant_any_more_is_forgotten(self) -> None:
        counts = Counts()
        counts.of("gone").commands = 1
        counts.of("stays").commands = 2
        counts.replied["gone"] = 5
        counts.keep({"stays"})
        self.assertEqual((set(counts.by_tenant), counts.replied), ({"stays"}, {}))
