"""Tests that answers to wrong passwords are delayed more and more."""

from __future__ import annotations

import unittest

from redisproxy import bounds
from redisproxy.tenants.login_backoff import LoginBackoff, source


class LoginBackoffTests(unittest.TestCase):
    def test_the_first_are_free_then_each_takes_longer(self) -> None:
        guarded = LoginBackoff()
        delays = [guarded.wrong("a", 0.0) for _ in range(14)]
        self.assertEqual(delays[:7], [0.0] * 5 + [0.1, 0.2])
        self.assertEqual(delays[-1], bounds.LOGIN_DELAY_SECONDS)

    def test_addresses_are_apart_and_forgiven(self) -> None:
        guarded = LoginBackoff()
        for _ in range(10):
            guarded.wrong("a", 0.0)
        self.assertEqual(guarded.wrong("b", 0.0), 0.0)
        self.assertGreater(guarded.wrong("a", bounds.LOGIN_BACKOFF_SECONDS), 0.0)
        self.assertEqual(guarded.wrong("a", 3 * bounds.LOGIN_BACKOFF_SECONDS), 0.0)

    def test_a_network_of_ipv6_is_one_source(self) -> None:
        self.assertEqual(source("2001:db8:1:2:3:4:5:6"), source("2001:db8:1:2:ffff::"))
        self.assertNotEqual(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"))
        self.assertEqual(source("fe80::1%eth0"), source("fe80::2%eth1"))
        # One socket may serve IPv4 as well: IPv4 addresses must not count as one network of IPv6.
        self.assertEqual(source("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual((source("192.0.2.1"), source("")), ("192.0.2.1", ""))
        guarded = LoginBackoff()
        delays = [guarded.wrong(f"2001:db8::{number:x}", 0.0) for number in range(8)]
        self.assertGreater(delays[-1], 0.0)
        self.assertEqual(len(guarded), 1)

    def test_memory_is_bounded(self) -> None:
        guarded = LoginBackoff()
        for number in range(bounds.LOGIN_BACKOFF_ADDRESSES + 500):
            guarded.wrong(str(number), 0.0)
        self.assertEqual(len(guarded), bounds.LOGIN_BACKOFF_ADDRESSES)
