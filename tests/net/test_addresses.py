"""Tests how addresses are shown as text."""

from __future__ import annotations

import unittest

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from redisproxy.net.addresses import shown_address


class ShownTests(unittest.TestCase):
    def test_each_kind(self) -> None:
        for address, shown in (
            (IPv4Address("TCP", "10.0.0.7", 4711), "10.0.0.7:4711"),
            (IPv6Address("TCP", "fd00::7", 4711), "[fd00::7]:4711"),
            (UNIXAddress(None), "a Unix socket"),
            (None, "a Unix socket"),
        ):
            self.assertEqual(shown_address(address), shown)
