"""A real HAProxy in front of a real proxy, with real clients: whose address is shown, and who is
believed.
"""

from __future__ import annotations

import re
import signal
import ssl
import tempfile
import time
import unittest
from pathlib import Path

import redis

from redisproxy import bounds

from ..support.certificates import Authority
from ..support.clients import client_once
from ..support.haproxy import BALANCER, HAProxy, documented
from ..support.proxy import Installation, ProxyProcess
from ..support.proxy_headers import LOCAL, binary, line
from ..support.raw import RawClient, raw_client
from ..support.servers import free_port
from ..support.status import metrics, status_port
from ..support.waiting import LIMIT, until

LOCAL_MANIFESTS = Path(__file__).parents[2] / "deploy" / "local"
AUTH = [b"AUTH", Installation.BLUE.encode()]


class BalancedCase(unittest.TestCase):
    def setUp(self) -> None:
        self.listening = free_port()

    @property
    def endpoint(self) -> str:
        return f"haproxy:tcp:{self.listening}:interface=127.0.0.1"

    def start(self, *options: str, listen: str = "", trust: str = f"{BALANCER}/32") -> Installation:
        installation = Installation(
            *("--listen", listen or self.endpoint, "--trust-proxy", trust, "--log-level", "debug"), *options
        )
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        return installation

    def balance(self, sections: str = "", port: int | None = None) -> HAProxy:
        """Version 1 on its port, version 2 on the second."""
        server = f"server a 127.0.0.1:{port or self.listening} source {BALANCER}"
        haproxy = HAProxy(
            sections
            or f"listen one\n  bind 127.0.0.1:PORT\n  {server} send-proxy\n"
            f"listen two\n  bind 127.0.0.1:SECOND\n  {server} send-proxy-v2\n"
        )
        self.addCleanup(haproxy.stop)
        return haproxy

    def client(self, port: int, **options: object) -> redis.Redis:
        client = client_once(
            port=port, password=Installation.BLUE, db=3, socket_timeout=LIMIT, single_connection_client=True, **options
        )
        self.addCleanup(client.close)
        return client


class AddressTests(BalancedCase):
    def shows_the_clients_own(self, *options: str) -> None:
        installation = self.start(*options)
        haproxy = self.balance()
        for port in (haproxy.port, haproxy.second):
            client = self.client(port)
            self.assertTrue(client.ping())
            host, number = client.connection._sock.getsockname()
            mine = f"{host}:{number}"
            self.assertEqual(client.client_info()["addr"], mine)
            # Large values and pipelines pass behind the header.
            client.set("large", b"x" * 3_000_000)
            self.assertEqual(len(client.get("large")), 3_000_000)
            with client.pipeline(transaction=False) as pipeline:
                for count in range(1000):
                    pipeline.set(f"k{count}", count).get(f"k{count}")
                self.assertEqual(pipeline.execute()[-1], b"999")
            client.close()
            installation.proxy.logged(rf"client \d+ from {re.escape(mine)}, team-blue/\S+: client-left after")
            raw = raw_client(self, port, source="127.0.0.77")
            self.assertIn(b"addr=127.0.0.77:", raw.ask(AUTH) + raw.ask([b"CLIENT", b"INFO"]))
            with self.assertRaises(redis.AuthenticationError):
                client_once(port=port, password="wrong", socket_timeout=LIMIT).ping()
        installation.proxy.logged(r"log-in from 127\.0\.0\.1:\d+ refused: wrong password")
        self.assertNotIn(BALANCER, installation.proxy.log)

    def test_it_shows_the_clients_own(self) -> None:
        self.shows_the_clients_own()

    def test_with_two_processes(self) -> None:
        self.shows_the_clients_own("--processes", "2")

    def test_wrong_passwords_of_one_client_do_not_delay_another(self) -> None:
        self.start("--processes", "1")
        haproxy = self.balance()

        def seconds(source: str) -> float:
            with RawClient(haproxy.port, source=source) as client:
                began = time.monotonic()
                self.assertIn(b"WRONGPASS", client.ask([b"AUTH", b"wrong"]))
                return time.monotonic() - began

        wrong = bounds.UNDELAYED_WRONG_PASSWORDS + 5
        for _ in range(wrong):
            seconds("127.0.0.77")
        delay = bounds.FIRST_LOGIN_DELAY_SECONDS * 2**5
        self.assertGreater(seconds("127.0.0.77"), delay)
        self.assertLess(min(seconds("127.0.0.78") for _ in range(3)), delay)


class TrustTests(BalancedCase):
    def refused(self, client: RawClient, *sent: bytes) -> None:
        for data in sent:
            try:
                client.send(data)
            except ConnectionError:
                return
        self.assertEqual(client.rest(or_reset=True), b"")

    def forged(self, *options: str) -> None:
        installation = self.start("--status", "tcp:0", *options)
        haproxy = self.balance()
        # Past the load balancer, whatever is claimed.
        for header in (line("192.0.2.7", 1), binary("192.0.2.7", 1), binary(BALANCER, 1), LOCAL, b""):
            self.refused(raw_client(self, self.listening, source="127.0.0.66"), header, b"PING\r\n")
        installation.proxy.logged(
            r"client \d+ from 127\.0\.0\.66:\d+, not logged in: untrusted-proxy \(its address is not in --trust-proxy\) after"
        )
        # From the load balancer, but without a header, or with one that is none.
        for data, why in (
            (b"PING\r\n", "no PROXY header came first"),
            (b"PROXY TCP4 \x1b[31mx 1 2 3\r\n", "its PROXY header is malformed"),
            (b"PROXY TCP4 " + b"1" * 200, "its PROXY header does not end within 107 bytes"),
        ):
            self.refused(raw_client(self, self.listening, source=BALANCER), data)
            installation.proxy.logged(rf"from {BALANCER}:\d+, not logged in: bad-proxy-header \({why}\) after")
        # Through the load balancer: a client's own header is what the client sends, no more.
        client = raw_client(self, haproxy.port, source="127.0.0.77")
        self.assertRegex(client.ask(line("192.0.2.7", 1)), rb"^-(NOAUTH|ERR)")
        self.assertEqual(client.ask(AUTH), b"+OK\r\n")
        self.assertIn(b"addr=127.0.0.77:", client.ask([b"CLIENT", b"INFO"]))
        second = raw_client(self, haproxy.second, source="127.0.0.77")
        second.send(binary("192.0.2.7", 1))
        second.rest(or_reset=True)
        self.assertNotIn("192.0.2.7", installation.proxy.log)
        ended = "redisproxy_connections_ended_total"
        for reason, count in (("untrusted-proxy", 5), ("bad-proxy-header", 3)):
            until(
                lambda: metrics(status_port(installation)).get((ended, frozenset({("close_reason", reason)}))) == count,  # noqa: B023
                f"{count} ended with {reason}",
            )

    def test_forged_headers(self) -> None:
        self.forged()

    def test_with_two_processes(self) -> None:
        self.forged("--processes", "2")

    def test_without_a_header_a_connection_has_the_time_of_the_log_in(self) -> None:
        installation = self.start("--login-timeout", "1")
        silent, slow = (raw_client(self, self.listening, source=BALANCER) for _ in range(2))
        slow.send(b"PROXY TCP4 192.0.2.7")
        for client in (silent, slow):
            self.assertEqual(client.rest(or_reset=True), b"-ERR no log-in within 1 seconds\r\n")
        installation.proxy.logged(
            rf"(?s)(from {BALANCER}:\d+, not logged in: login-timeout \(no PROXY header came\) after.*){{2}}"
        )
        self.assertNotIn("192.0.2.7", installation.proxy.log)

    def test_a_plain_endpoint_beside_it_believes_no_header(self) -> None:
        plain = free_port()
        installation = self.start(listen=f"{self.endpoint} tcp:{plain}:interface=127.0.0.1", trust="127.0.0.0/8")
        client = raw_client(self, plain, source=BALANCER)
        self.assertRegex(client.ask(line("192.0.2.7", 1)), rb"^-(NOAUTH|ERR)")
        self.assertEqual(client.ask(AUTH), b"+OK\r\n")
        self.assertIn(f"addr={BALANCER}:".encode(), client.ask([b"CLIENT", b"INFO"]))
        self.assertNotIn("192.0.2.7", installation.proxy.log)


class TlsTests(BalancedCase):
    def test_tls_behind_the_header(self) -> None:
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))
        authority = Authority(directory)
        certificate, key = authority.issue("proxy", "127.0.0.1", "localhost")
        endpoint = f"haproxy:ssl:{self.listening}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        installation = self.start("--processes", "2", "--client-ca", str(authority.path), listen=endpoint)
        self.assertNotIn("at haproxy:", installation.proxy.log)
        haproxy = self.balance()
        mine, my_key = authority.issue("client", "client")
        context = ssl.create_default_context(cafile=authority.path)
        context.load_cert_chain(mine, my_key)
        for port in (haproxy.port, haproxy.second):
            client = self.client(
                port, ssl=True, ssl_ca_certs=str(authority.path), ssl_certfile=str(mine), ssl_keyfile=str(my_key)
            )
            client.set("large", b"x" * 1_000_000)
            self.assertEqual(len(client.get("large")), 1_000_000)
            host, number = client.connection._sock.getsockname()
            self.assertEqual(client.client_info()["addr"], f"{host}:{number}")
            raw = raw_client(self, port, *AUTH, tls=context, source="127.0.0.77")
            self.assertIn(b"addr=127.0.0.77:", raw.ask([b"CLIENT", b"INFO"]))
        with self.assertRaises(ssl.SSLError):
            raw_client(self, haproxy.port, tls=ssl.create_default_context(), source="127.0.0.78")
        installation.proxy.logged(r"from 127\.0\.0\.78:\d+, not logged in: tls-failed \(\w+ alert unknown ca\) after")


class EndTests(BalancedCase):
    def test_the_end_of_the_proxy(self) -> None:
        installation = self.start("--processes", "2")
        haproxy = self.balance()
        client = self.client(haproxy.second)
        client.ping()
        silent = raw_client(self, self.listening, source=BALANCER)
        silent.send(b"PROXY TCP4")
        began = time.monotonic()
        self.assertEqual(installation.proxy.stop(), 0)
        self.assertEqual(silent.rest(or_reset=True), b"")
        with self.assertRaises(redis.ConnectionError):
            client.connection.read_response()
        installation.proxy.logged("drained: ")
        self.assertLess(time.monotonic() - began, LIMIT)
        self.assertNotIn(" 1 of them were cut off", installation.proxy.log)

    def test_health_checks_and_a_drain(self) -> None:
        """With the configuration of the documentation: who drains gets no new clients."""
        (section,) = documented()
        ports = {"a": self.listening, "b": free_port()}
        proxies = {
            name: self.start(
                *("--status", "tcp:0", "--drain-delay", "30"), listen=f"haproxy:tcp:{port}:interface=127.0.0.1"
            ).proxy
            for name, port in ports.items()
        }
        for name, port in ports.items():
            status = proxies[name].logged(r"the status page is at \S+:(\d+)")[1]
            server = f"server {name} 127.0.0.1:{port} check port {status}"
            section, count = re.subn(rf"server {name} \S+ check port \d+", server, section)
            self.assertEqual(count, 1)
        section = section.replace("bind :6379", "bind 127.0.0.1:PORT")
        haproxy = self.balance(section.replace("send-proxy-v2", f"send-proxy-v2 source {BALANCER}"))
        until(lambda: [haproxy.states()["redis", name] for name in ports] == [("UP", "L7OK")] * 2, "both are up")
        clients = [self.client(haproxy.port) for _ in range(4)]
        self.assertEqual([client.ping() for client in clients], [True] * 4)
        proxies["a"].process.send_signal(signal.SIGTERM)
        until(lambda: haproxy.states()["redis", "a"] == ("DOWN", "L7STS"), "the first is not ready")
        self.assertEqual([client.ping() for client in clients], [True] * 4, "who is there is served on")
        later = self.client(haproxy.port)
        host, number = later.connection._sock.getsockname()
        later.close()
        proxies["b"].logged(rf"from {host}:{number}, team-blue/\S+: client-left after")
        for proxy in proxies.values():
            self.assertNotIn("untrusted-proxy", proxy.log)
            self.assertNotIn("bad-proxy-header", proxy.log)
        for proxy in proxies.values():  # that is enough of the delay
            proxy.process.send_signal(signal.SIGTERM)

    def test_a_health_check_with_a_header_of_its_own(self) -> None:
        installation = self.start("--status", "tcp:0")
        server = f"server a 127.0.0.1:{self.listening} source {BALANCER} check inter 100ms"
        haproxy = self.balance(
            f"listen one\n  bind 127.0.0.1:PORT\n  {server} send-proxy\n"
            f"listen two\n  bind 127.0.0.1:SECOND\n  {server} send-proxy-v2\n"
        )
        until(lambda: [haproxy.states()[name, "a"] for name in ("one", "two")] == [("UP", "L4OK")] * 2, "both are up")
        ended = "redisproxy_connections_ended_total", frozenset({("close_reason", "client-left")})
        until(lambda: metrics(status_port(installation)).get(ended, 0) > 4, "some checks")
        for reason in ("bad-proxy-header", "untrusted-proxy"):
            self.assertNotIn(reason, installation.proxy.log)


class StartTests(unittest.TestCase):
    def failed_start(self, listen: str, *options: str) -> str:
        proxy = ProxyProcess("--manifests", str(LOCAL_MANIFESTS), *options, listen=listen)
        self.addCleanup(proxy.stop)
        self.assertEqual(proxy.process.wait(60), 1)
        proxy._reader.join(20)
        (found,) = [line for line in proxy.lines if line]
        return found

    def test_what_is_wrong_is_one_line(self) -> None:
        trust = ("--trust-proxy", "10.0.0.0/8")
        for listen, options, why in (
            (
                "haproxy:tcp:0",
                (),
                "redisproxy: --listen is 'haproxy:tcp:0', which needs --trust-proxy: the addresses of the load balancers, "
                "such as 10.0.0.0/8; without it, any client could claim any address",
            ),
            ("tcp:0", trust, "redisproxy: --trust-proxy needs a haproxy: endpoint, and --listen has none"),
            (
                "haproxy:unix:/run/s",
                trust,
                "redisproxy: --listen is 'haproxy:unix:/run/s'; haproxy: takes a tcp:, tcp6: or ssl: endpoint after it",
            ),
            (
                "haproxy:tcp:0",
                (*trust, "--status", "haproxy:tcp:0"),
                "redisproxy: --status is 'haproxy:tcp:0', but --status takes no haproxy: endpoint, because anybody could send it a PROXY header",
            ),
            (
                "haproxy:tcp:0",
                ("--trust-proxy", "10.0.0.1/8"),
                "redisproxy: --trust-proxy is '10.0.0.1/8'; it takes addresses and networks with commas between, such as "
                "10.0.0.0/8,192.0.2.7; the bits of a network's address after its prefix must be zero",
            ),
        ):
            self.assertEqual(self.failed_start(listen, *options), why)

    def test_to_trust_everybody_is_a_warning(self) -> None:
        installation = Installation("--listen", "haproxy:tcp:0:interface=127.0.0.1", "--trust-proxy", "10.0.0.0/8,0.0.0.0/0")
        self.addCleanup(installation.stop)
        installation.proxy.logged(r"--trust-proxy has 0\.0\.0\.0/0: any client can claim any address")
