"""What an upstream connection says of itself."""

from __future__ import annotations

import unittest
from types import SimpleNamespace

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from redisproxy.tenants.model import BackendAddress
from redisproxy.upstream.connection import RedisConnection


class LocalAddressTests(unittest.TestCase):
    def local_address(self, host: IAddress) -> str:
        upstream = RedisConnection(BackendAddress("redis"), pool=None)
        upstream.transport = SimpleNamespace(getHost=lambda: host)
        return upstream.local_address

    def test_is_what_client_list_has(self) -> None:
        self.assertEqual(self.local_address(IPv4Address("TCP", "10.0.0.7", 4711)), "10.0.0.7:4711")
        self.assertEqual(self.local_address(IPv6Address("TCP", "fd00::7", 4711)), "[fd00::7]:4711")

    def test_is_empty_where_that_tells_none_apart(self) -> None:
        self.assertEqual(self.local_address(UNIXAddress(None)), "")
