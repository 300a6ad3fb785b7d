"""Tests the counters by tenant and family."""

from __future__ import annotations

import unittest
from unittest import mock

from redisproxy import bounds
from redisproxy.tenants.account import FAMILIES, Counts, TenantCounters, family


class TenantCountersTests(unittest.TestCase):
    def test_families(self) -> None:
        for name, expected in (
            # GET counts as plain if it is not inspected, and then its family does not matter
            (b"get", "other"),
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

    def test_refusals_are_counted_by_name_up_to_a_limit(self) -> None:
        counters = TenantCounters()
        with mock.patch.object(bounds, "REFUSED_NAMES", 2):
            for name in ("CONFIG|SET", "KEYS", "MOVE", "CONFIG|SET", "SAVE"):
                counters.refuse(name)
        self.assertEqual(counters.refused_names, {"CONFIG|SET": 2, "KEYS": 1, "other": 2})
        self.assertEqual(sum(counters.refused.values()), 5)

    def test_who_is_no_tenant_any_more_is_forgotten(self) -> None:
        counts = Counts()
        counts.of("gone").commands = 1
        counts.of("stays").commands = 2
        counts.replied["gone"] = 5
        counts.keep({"stays"})
        self.assertEqual((set(counts.by_tenant), counts.replied), ({"stays"}, {}))
