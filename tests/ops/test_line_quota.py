"""How many lines each tenant and address may fill, and how the others are reported."""

from __future__ import annotations

import unittest

from twisted.internet import task

from redisproxy.ops.line_quota import (
    ADDRESS_LINES,
    ADDRESSES,
    PERIOD,
    TENANT_LINES,
    UNAUTHENTICATED_LINES,
    LeftOut,
    LineQuota,
)


class LineQuotaTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.clock.advance(1000)
        self.reports: list[LeftOut] = []
        self.quota = LineQuota(self.clock, self.reports.append)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.quota.stop)

    def written(self, count: int, namespace: str | None = "blue", peer: str = "192.0.2.1:5") -> int:
        """How many of so many lines may be."""
        return sum(self.quota.allows(namespace, peer) for _ in range(count))

    def test_each_tenant_has_its_own(self) -> None:
        self.assertEqual(self.written(10_000), TENANT_LINES)
        for number in range(2000):
            self.assertEqual(self.written(1, f"tenant-{number}"), 1)
        self.clock.advance(PERIOD / 2)
        self.assertEqual(self.written(1), 0)
        self.assertEqual(self.reports, [])
        self.clock.advance(PERIOD / 2)
        self.assertEqual(self.reports, [LeftOut(10_000 - TENANT_LINES + 1, "blue")])
        self.assertEqual(self.written(10_000), TENANT_LINES)

    def test_nothing_waits_where_nothing_was_left_out(self) -> None:
        self.written(TENANT_LINES)
        self.written(ADDRESS_LINES, None)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(PERIOD)
        self.assertEqual(self.written(TENANT_LINES), TENANT_LINES)
        self.assertEqual(self.reports, [])

    def test_each_address_without_a_log_in_has_its_own(self) -> None:
        self.assertEqual(self.written(1000, None), ADDRESS_LINES)
        self.assertEqual(self.written(1000, None, "192.0.2.2:5"), ADDRESS_LINES)
        # One network is one machine; ports make no difference.
        self.assertEqual(self.written(1, None, "192.0.2.1:6"), 0)
        self.assertEqual(self.written(1000, None, "[2001:db8::1]:5"), ADDRESS_LINES)
        self.assertEqual(self.written(1, None, "[2001:db8::ffff]:5"), 0)
        self.assertEqual(self.written(1, None, "[2001:db8:0:1::1]:5"), 1)
        self.assertEqual(self.written(1, "blue"), 1)
        self.clock.advance(PERIOD)
        (report,) = self.reports
        self.assertEqual((report.lines, report.namespace), (3 * (1000 - ADDRESS_LINES) + 2, None))
        self.assertIn(report.most, ("192.0.2.1", "2001:db8::"))

    def test_all_addresses_have_a_bound_but_for_the_first_line_of_each(self) -> None:
        noisy = UNAUTHENTICATED_LINES // ADDRESS_LINES
        for number in range(noisy + 5):
            count = self.written(100, None, f"192.0.2.{number}:5")
            self.assertEqual(count, ADDRESS_LINES if number < noisy else 1, number)

    def test_addresses_are_bounded(self) -> None:
        written = sum(self.written(1, None, f"10.0.{number // 256}.{number % 256}:5") for number in range(ADDRESSES + 500))
        self.assertEqual(written, ADDRESSES)
        self.assertEqual(len(self.quota._addresses), ADDRESSES)
        self.clock.advance(PERIOD)
        self.assertEqual(self.reports, [LeftOut(500)])
        self.assertEqual((self.quota._addresses, self.quota._tenants), ({}, {}))

    def test_what_was_left_out_is_told_at_the_end(self) -> None:
        self.written(TENANT_LINES + 3)
        self.quota.stop()
        self.assertEqual(self.reports, [LeftOut(3, "blue")])
        self.quota.stop()
        self.assertEqual(len(self.reports), 1)

    def test_processes_share_it(self) -> None:
        quotas = [LineQuota(self.clock, self.reports.append, 4) for _ in range(4)]
        self.assertLess(sum(quota.allows("blue", "") for quota in quotas for _ in range(1000)), TENANT_LINES + 4)
        self.assertLess(sum(quota.allows(None, "192.0.2.1:5") for quota in quotas for _ in range(1000)), ADDRESS_LINES + 4)
        for quota in quotas:
            quota.stop()
        self.assertEqual(len(self.reports), 8)

    def test_a_clock_that_is_set_back(self) -> None:
        self.written(TENANT_LINES)
        self.clock.rightNow -= 500
        self.assertEqual(self.written(1), 1)
