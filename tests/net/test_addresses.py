"""Tests how addresses are shown as text."""

from __future__ import annotations

import unittest

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from redisproxy.net.addresses import host_of, shown_address


class ShownTests(unittest.TestCase):
    def test_each_kind(self) -> None:
        for address, shown in (
            (IPv4Address("TCP", "10.0.0.7", 4711), "10.0.0.7:4711"),
            (IPv6Address("TCP", "fd00::7", 4711), "[fd00::7]:4711"),
            (UNIXAddress(None), "a Unix socket"),
            (None, "a Unix socket"),
        ):
            self.assertEqual(shown_address(address), shown)

    def test_an_ipv4_client_of_a_socket_for_both_families_is_one_of_ipv4(self) -> None:
        # The kernel writes the first form, Python before 3.13 the second.
        for host in ("::ffff:10.0.0.7", "::ffff:a00:7"):
            address = IPv6Address("TCP", host, 4711)
            self.assertEqual((host_of(address), shown_address(address)), ("10.0.0.7", "10.0.0.7:4711"))
        for host in ("::ffff:0:1:2", "::1", "fe80::1%eth0"):
            address = IPv6Address("TCP", host, 4711)
            self.assertEqual((host_of(address), shown_address(address)), (host, f"[{host}]:4711"))
        self.assertEqual((host_of(UNIXAddress(None)), host_of(None)), ("", ""))
