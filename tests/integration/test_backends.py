"""Tests the ways to reach Redis (names, IPv4, IPv6, Unix sockets, verified TLS) and the servers of
the matrix.
"""

from __future__ import annotations

import socket
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path

import redis

from ..support.certificates import Authority
from ..support.proxy import Manifests, ProxyProcess, master, tenant
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, on_every_server, redis_7, valkey
from ..support.waiting import LIMIT


class BackendCase(unittest.TestCase):
    def server(self, binary: Callable[[], str], *settings: str) -> RedisServer:
        server = RedisServer(binary, *settings).start()
        self.addCleanup(server.stop)
        return server

    def proxy(self, url: str, *options: str) -> ProxyProcess:
        manifests = Manifests([master(url), *tenant("team-blue", 3, "blue-password")])
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path), "--hold-seconds", "0", *options).ready()
        self.addCleanup(proxy.stop)
        return proxy

    def assertServes(self, proxy: ProxyProcess, server: RedisServer) -> None:
        self.assertTrue(proxy.client("blue-password", 3).set("way", "found"))
        self.assertEqual(server.client(3).get("way"), b"found")

    def assertDoesNotServe(self, proxy: ProxyProcess) -> None:
        with self.assertRaises(redis.ConnectionError):
            proxy.client("blue-password", 3).ping()


class AddressTests(BackendCase):
    def test_ipv4_name_and_user(self) -> None:
        server = self.server(valkey)
        for host, user in (("127.0.0.1", ""), ("localhost", "default")):
            self.assertServes(self.proxy(f"redis://{user}:{MASTER_PASSWORD}@{host}:{server.port}/0"), server)

    def test_ipv6(self) -> None:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            raise unittest.SkipTest("this machine has no IPv6 loopback address") from None
        server = self.server(valkey)
        self.assertServes(self.proxy(f"redis://:{MASTER_PASSWORD}@[::1]:{server.port}/0"), server)

    def test_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            server = self.server(valkey, f"unixsocket {directory}/redis.sock", "unixsocketperm 700")
            self.assertServes(self.proxy(f"unix://:{MASTER_PASSWORD}@{directory}/redis.sock"), server)

    def test_percent_encoded_password(self) -> None:
        server = RedisServer(valkey, password="p@ss:/?#%").start()
        self.addCleanup(server.stop)
        self.assertServes(self.proxy(f"redis://:p%40ss%3A%2F%3F%23%25@127.0.0.1:{server.port}"), server)

    def test_a_redis_without_a_password(self) -> None:
        server = RedisServer(valkey, password="").start()
        self.addCleanup(server.stop)
        self.assertServes(self.proxy(f"redis://127.0.0.1:{server.port}"), server)

    def test_a_name_that_does_not_exist(self) -> None:
        self.assertDoesNotServe(self.proxy("redis://:x@no-such-host.invalid:6379/0"))


class TlsTests(BackendCase):
    """Uses Debian's Redis, because no server on PyPI is built with TLS."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.authority = Authority(self.directory)
        self.tls_port = free_port()

    def tls_server(self, *hosts: str) -> RedisServer:
        certificate, key = self.authority.issue("redis", *hosts)
        return self.server(
            redis_7,
            f"tls-port {self.tls_port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            f"tls-ca-cert-file {self.authority.path}",
            "tls-auth-clients no",
        )

    def url(self, host: str) -> str:
        return f"rediss://:{MASTER_PASSWORD}@{host}:{self.tls_port}/0"

    def test_verified_by_name_and_by_address(self) -> None:
        server = self.tls_server("localhost", "127.0.0.1")
        for host in ("localhost", "127.0.0.1"):
            proxy = self.proxy(self.url(host), "--redis-ca", str(self.authority.path))
            self.assertServes(proxy, server)
            proxy.logged("Redis is Redis 7")  # of the control connection, too

    def test_large_values(self) -> None:
        server = self.tls_server("localhost")
        client = self.proxy(self.url("localhost"), "--redis-ca", str(self.authority.path)).client("blue-password", 3)
        value = bytes(range(256)) * (8 << 12)
        client.set("large", value)
        self.assertEqual(client.get("large"), value)
        self.assertEqual(server.client(3).get("large"), value)

    def test_an_unknown_ca_is_refused(self) -> None:
        self.tls_server("localhost")
        proxy = self.proxy(self.url("localhost"))
        self.assertDoesNotServe(proxy)
        proxy.logged("certificate verify failed")
        self.assertNotIn("Traceback", proxy.log)

    def test_another_hosts_certificate_is_refused(self) -> None:
        self.tls_server("another.example")
        proxy = self.proxy(self.url("localhost"), "--redis-ca", str(self.authority.path))
        self.assertDoesNotServe(proxy)
        self.assertNotIn("Traceback", proxy.log)

    def test_a_ca_file_without_a_certificate(self) -> None:
        (self.directory / "empty.pem").write_text("nothing\n")
        proxy = self.proxy(self.url("localhost"), "--redis-ca", str(self.directory / "empty.pem"))
        with self.assertRaisesRegex(redis.RedisError, "the operator finds the reason in the proxy's log"):
            proxy.client("blue-password", 3).ping()
        proxy.logged("the CA file .* cannot be used")


@on_every_server
class MatrixTests(BackendCase):
    """Each installed server of the matrix serves the same few commands."""

    def each_server_serves(self, binary: Callable[[], str]) -> None:
        server = self.server(binary)
        proxy = self.proxy(server.url)
        for protocol in (2, 3):
            client = proxy.client("blue-password", 3, protocol=protocol)
            self.addCleanup(client.close)
            client.delete("hash", "list")
            client.hset("hash", mapping={"a": "1"})
            self.assertEqual(client.hgetall("hash"), {b"a": b"1"})
            with client.pipeline(transaction=True) as pipeline:
                self.assertEqual(pipeline.rpush("list", *range(100)).lrange("list", 98, -1).execute(), [100, [b"98", b"99"]])
            self.assertRaises(redis.ResponseError, client.execute_command, "SELECT", 0)
            if "scripts are refused: on this server" in proxy.log:
                self.assertRaises(redis.exceptions.NoPermissionError, client.eval, "return 1", 0)
            else:
                self.assertEqual(client.eval("return {1, {2, 'x'}}", 0), [1, [2, b"x"]])
            with client.pubsub() as subscriber:
                subscriber.psubscribe(f"news-{protocol}*")
                self.assertEqual(subscriber.get_message(timeout=LIMIT)["type"], "psubscribe")
                self.assertEqual(client.publish(f"news-{protocol}-a", "told"), 1)
                self.assertEqual(subscriber.get_message(timeout=LIMIT)["data"], b"told")
        self.assertEqual(server.client(0).dbsize(), 0)
