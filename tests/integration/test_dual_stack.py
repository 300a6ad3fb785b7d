"""Tests a proxy whose sockets serve both IPv4 and IPv6, as in a dual-stack pod: who may connect,
and how IPv4 clients are named.
"""

from __future__ import annotations

import re
import socket
import tempfile
import unittest
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..support.certificates import Authority
from ..support.proxy import Installation
from ..support.servers import free_port
from ..support.status import ask, status_port
from ..support.waiting import LIMIT, until

#: Every address of both families.
ANY = r"interface=\:\:"
FAMILIES = ("127.0.0.1", "::1")


def both_families() -> None:
    """Skips the test if this machine has no socket that serves both."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            if probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                raise unittest.SkipTest("net.ipv6.bindv6only is 1 on this machine")
            probe.bind(("::1", 0))
    except OSError:
        raise unittest.SkipTest("this machine has no IPv6 loopback address") from None


class DualStackTests(unittest.TestCase):
    def setUp(self) -> None:
        both_families()

    def start(self, *options: str) -> Installation:
        self.installation = Installation(*options)
        self.addCleanup(self.installation.stop)
        self.addCleanup(lambda: self.assertNotIn("::ffff", self.installation.proxy.log))
        return self.installation

    def client(self, host: str, port: int, password: str = Installation.BLUE, **options: object) -> redis.Redis:
        client = redis.Redis(
            host=host,
            port=port,
            db=3,
            password=password,
            socket_timeout=LIMIT,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
            **options,
        )
        self.addCleanup(client.close)
        return client

    def assert_serves_both(self, port: int, **options: object) -> None:
        """Asserts that clients of both families are served, and have an address of their own
        family.
        """
        for host in FAMILIES:
            client = self.client(host, port, **options)
            self.assertTrue(client.set("key", host))
            self.assertEqual(client.get("key"), host.encode())
            own, number, *_ = client.connection._sock.getsockname()
            shown = f"[{own}]:{number}" if ":" in own else f"{own}:{number}"
            self.assertEqual(client.client_info()["addr"], shown)

    def test_one_endpoint_serves_both(self) -> None:
        port = free_port()
        proxy = self.start("--listen", f"tcp6:{port}:{ANY}").proxy
        self.assert_serves_both(port)
        self.assertIn(f"listening on [::]:{port}", proxy.log)

    def test_without_interface_tcp6_is_both_and_tcp_is_ipv4_alone(self) -> None:
        both, old = free_port(), free_port()
        self.start("--listen", f"tcp6:{both}", "--listen", f"tcp:{old}")
        self.assert_serves_both(both)
        self.assertTrue(self.client("127.0.0.1", old).ping())
        with self.assertRaises(redis.ConnectionError):
            self.client("::1", old)

    def test_several_processes(self) -> None:
        port = free_port()
        self.start("--listen", f"tcp6:{port}:{ANY}", "--processes", "2")
        self.assert_serves_both(port)

    def test_tls(self) -> None:
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))
        authority = Authority(directory)
        certificate, key = authority.issue("server", *FAMILIES)
        port = free_port()
        self.start("--listen", f"ssl:{port}:{ANY}:privateKey={key}:certKey={certificate}")
        self.assert_serves_both(port, ssl=True, ssl_ca_certs=str(authority.path))

    def test_the_log_names_an_ipv4_client_as_such(self) -> None:
        port = free_port()
        proxy = self.start("--listen", f"tcp6:{port}:{ANY}").proxy
        for host, shown in (("127.0.0.1", r"127\.0\.0\.1"), ("::1", r"\[::1\]")):
            with self.assertRaises(redis.AuthenticationError):
                self.client(host, port, password="wrong")
            until(lambda shown=shown: re.search(rf"from {shown}:\d+ refused", proxy.log), "the refusal is logged")

    def test_the_status_endpoint(self) -> None:
        self.start("--status", f"tcp6:0:{ANY}")
        port = status_port(self.installation)
        for host in FAMILIES:
            self.assertEqual(ask(port, "/livez", host)[0], 200)
            # Without a token: from this machine alone.
            self.assertEqual(ask(port, "/", host)[0], 200, host)
