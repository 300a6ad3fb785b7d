"""Tests TLS for clients, with a real twistd process and real clients: which certificate is shown,
which clients are refused, and what a rotation does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import tempfile
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path

import redis
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from redisproxy import bounds

from ..support.certificates import Authority
from ..support.clients import client_once
from ..support.proxy import Installation, ProxyProcess
from ..support.raw import RawClient, raw_client
from ..support.servers import debian, free_port
from ..support.status import ask, metrics, status_port
from ..support.waiting import LIMIT, until

LOCAL = Path(__file__).parents[2] / "deploy" / "local"


class TlsCase(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))
        self.authority = Authority(self.directory)
        self.mount = self.directory / "mount"
        self.mount.mkdir()
        self.certificate, self.key = self.mount / "tls.crt", self.mount / "tls.key"
        self.port = free_port()

    def issue(self, name: str, authority: Authority | None = None) -> tuple[bytes, bytes]:
        certificate, key = (authority or self.authority).issue(name, "127.0.0.1", "localhost")
        return certificate.read_bytes(), key.read_bytes()

    def write(self, certificate: bytes, key: bytes) -> None:
        """Writes both files in place."""
        self.certificate.write_bytes(certificate)
        self.key.write_bytes(key)

    @property
    def endpoint(self) -> str:
        return f"ssl:{self.port}:interface=127.0.0.1:privateKey={self.key}:certKey={self.certificate}"

    def start(self, *options: str) -> Installation:
        installation = Installation("--listen", self.endpoint, "--log-level", "debug", *options)
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        return installation

    def client(self, ca: Path | None = None, **options: object) -> redis.Redis:
        client = client_once(
            port=self.port,
            password=Installation.BLUE,
            db=3,
            ssl=True,
            ssl_ca_certs=str(ca or self.authority.path),
            socket_timeout=LIMIT,
            single_connection_client=True,
            **options,
        )
        self.addCleanup(client.close)
        return client

    def context(self, *certificate: Path, **settings: object) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.path)
        if certificate:
            context.load_cert_chain(*certificate)
        for name, value in settings.items():
            setattr(context, name, value)
        return context

    def shake(self, context: ssl.SSLContext) -> RawClient:
        return raw_client(self, self.port, tls=context)

    def shown(self) -> str:
        """Returns the common name of the certificate that a new client sees."""
        with self.shake(self.context()) as connection:
            certificate = x509.load_der_x509_certificate(connection.socket.getpeercert(True))
        return certificate.subject.rfc4514_string().removeprefix("CN=")

    def refusal(self, context: ssl.SSLContext) -> str:
        """Returns the error of a refused client, which comes at the latest when it reads."""
        try:
            connection = self.shake(context)
            connection.send(b"PING\r\n")
            self.assertEqual(connection.some(), b"")
        except ssl.SSLError as error:
            return str(error)
        except ConnectionError as error:
            return f"closed: {error}"
        return "closed"


class ServingTests(TlsCase):
    def test_plain_and_tls_at_once(self) -> None:
        self.write(*self.issue("first"))
        installation = self.start()
        plain, secured = installation.blue(), self.client()
        self.assertTrue(plain.set("a", 1))
        self.assertEqual(secured.get("a"), b"1")
        # Large values pass in both directions, and pipelines; a refusal stays a refusal.
        value = b"x" * 3_000_000
        secured.set("large", value)
        self.assertEqual(plain.get("large"), value)
        self.assertEqual(secured.get("large"), value)
        with secured.pipeline(transaction=False) as pipeline:
            for number in range(3000):
                pipeline.set(f"k{number}", number).get(f"k{number}")
            self.assertEqual(pipeline.execute()[-1], b"2999")
        with self.assertRaisesRegex(redis.ResponseError, "opens database 3 only"):
            secured.execute_command("SELECT", 5)
        with secured.pubsub() as pubsub:
            pubsub.subscribe("news")
            self.assertEqual(pubsub.get_message(timeout=LIMIT)["type"], "subscribe")
            plain.publish("news", "hello")
            self.assertEqual(pubsub.get_message(timeout=LIMIT)["data"], b"hello")

    def test_redis_cli(self) -> None:
        cli = debian("redis-cli")
        self.write(*self.issue("first"))
        self.start()
        command = [cli, "-p", str(self.port), "-n", "3", "-a", Installation.BLUE, "--no-auth-warning"]
        command += ["--tls", "--cacert", str(self.authority.path)]
        for words, said in ((("SET", "a", "1"), "OK"), (("GET", "a"), "1")):
            ran = subprocess.run([*command, *words], capture_output=True, text=True, timeout=180, check=False)
            self.assertEqual((ran.stdout.strip(), ran.stderr), (said, ""))

    def test_who_is_at_the_wrong_port_or_too_old_is_told_at_once(self) -> None:
        self.write(*self.issue("first"))
        installation = self.start("--status", "tcp:0")
        log = installation.proxy.logged
        for words in (b"PING\r\n", b"*1\r\n$4\r\nPING\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            with RawClient(self.port) as plain:
                plain.send(words)
                self.assertIn(plain.rest(or_reset=True)[:1], (b"", b"\x15"), "the end, or an alert of TLS")
        log(r"not logged in: tls-failed \((wrong version number|packet length too long)\) after")
        log(r"not logged in: tls-failed \(http request\) after")
        with self.assertRaisesRegex(ssl.SSLError, "(?i)wrong.version.number|record layer"):
            RawClient(installation.proxy.port, tls=self.context())
        log(r"not logged in: tls-on-plain-port after")
        old = self.context(minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1)
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        self.assertRegex(self.refusal(old), "(?i)protocol.version")
        log(r"tls-failed \(unsupported protocol\) after")
        # A client that trusts another CA; and one that only connects and closes, as a load
        # balancer's check does.
        with self.assertRaisesRegex(redis.ConnectionError, "(?i)certificate.verify.failed"):
            self.client(ca=Authority(self.directory, "others").path).ping()
        log(r"tls-failed \(\w+ alert unknown ca\) after")
        RawClient(self.port).close()
        log(r"client-left after")
        ended = "redisproxy_connections_ended_total"
        until(
            lambda: metrics(status_port(installation))[ended, frozenset({("close_reason", "tls-failed")})] == 5,
            "five failed",
        )
        self.assertTrue(self.client().ping())

    def test_a_handshake_has_the_time_of_the_log_in(self) -> None:
        self.write(*self.issue("first"))
        installation = self.start("--login-timeout", "5", "--processes", "1")
        idle = [raw_client(self, self.port) for _ in range(2)]
        idle[1].send(b"\x16\x03\x01")
        for connection in idle:
            self.assertEqual(connection.rest(or_reset=True), b"")
        until(lambda: len(installation.proxy.log.split("login-timeout after")) == 3, "both had their time")
        self.assertTrue(self.client().ping())

    def test_a_flood_of_first_messages_keeps_nobody_out(self) -> None:
        """They are recorded, and cost the client nothing."""
        self.write(*self.issue("first"))
        installation = self.start()
        sent = ssl.MemoryBIO()
        with self.assertRaises(ssl.SSLWantReadError):
            self.context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
        hello = sent.read()
        flood = [raw_client(self, self.port) for _ in range(200)]
        for connection in flood:
            connection.send(hello)
        self.assertTrue(self.client().ping())
        self.assertTrue(installation.blue().ping())
        for connection in flood:
            self.assertEqual(connection.exactly(1), b"\x16")

    def test_small_records_are_all_read(self) -> None:
        """They are work of the tenant, and have their turns."""
        self.write(*self.issue("first"))
        self.start()
        connections = [self.shake(self.context()) for _ in range(5)]
        for connection in connections:
            self.assertEqual(connection.ask([b"AUTH", Installation.BLUE.encode()]), b"+OK\r\n")
        for connection in connections:
            for _ in range(300):
                for byte in b"PING\r\n":
                    connection.send(bytes([byte]))
        for connection in connections:
            self.assertEqual(connection.exactly(7 * 300), b"+PONG\r\n" * 300)

    def test_one_that_is_not_read_from_and_has_to_go_is_gone_as_soon_as_it_leaves(self) -> None:
        self.write(*self.issue("first"))
        installation = self.start("--tenant-commands-per-second", "1")
        connection = self.shake(self.context())
        self.assertEqual(connection.ask([b"AUTH", Installation.BLUE.encode()]), b"+OK\r\n")
        connection.send(b"PING\r\n" * 10_000)  # all but the first part waits for hours
        self.assertEqual(connection.reply(), b"+PONG\r\n")
        documents = installation.documents()
        installation.manifests.write([documents[0], *documents[3:]])
        self.assertEqual(connection.rest(or_reset=True)[-7:], b"+PONG\r\n")
        connection.close()
        self.assertLess(float(installation.proxy.logged(r"revoked after ([0-9.]+) s")[1]), bounds.CLOSE_SECONDS)

    def test_the_end_of_the_proxy(self) -> None:
        self.write(*self.issue("first"))
        installation = self.start()
        client = self.client()
        client.ping()
        halfway = raw_client(self, self.port)
        halfway.send(b"\x16\x03\x01")
        self.assertEqual(installation.proxy.stop(), 0)
        self.assertEqual(halfway.rest(or_reset=True), b"")
        with self.assertRaises(redis.ConnectionError):
            client.connection.read_response()


class RotationTests(TlsCase):
    def publish(self, version: str, certificate: bytes, key: bytes) -> None:
        """Replaces the files as the kubelet does after a change of the secret."""
        (self.mount / version).mkdir()
        for name, content in (("tls.crt", certificate), ("tls.key", key)):
            (self.mount / version / name).write_bytes(content)
        (self.mount / "..data_tmp").symlink_to(version)
        (self.mount / "..data_tmp").rename(self.mount / "..data")

    def rotates(self, *options: str) -> None:
        self.publish("..1", *self.issue("first"))
        for path in (self.certificate, self.key):
            path.symlink_to(f"..data/{path.name}")
        installation = self.start("--status", "tcp:0", *options)
        self.assertEqual(self.shown(), "first")
        sessions = [self.client() for _ in range(4)]
        busy = self.client()
        busy.delete("n")
        failed: list[BaseException] = []
        going = threading.Event()
        going.set()

        def work() -> None:
            try:
                while going.is_set():
                    busy.incr("n")
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            # First mounted files; then files written in place one after the other, which do not
            # match for a moment.
            self.publish("..2", *self.issue("second"))
            until(lambda: self.shown() == "second", "the second certificate is shown")
            certificate, key = self.issue("third")
            self.certificate.unlink()
            self.certificate.write_bytes(certificate)
            installation.proxy.logged(
                r"\.key does not belong to the first certificate in .*/tls.crt.*; the last good certificate stays in force, until"
            )
            self.assertEqual(self.shown(), "second")
            self.key.unlink()
            self.key.write_bytes(key)
            until(lambda: self.shown() == "third", "the third certificate is shown")
            # A signal makes the proxy read the files at once, without a wait.
            self.write(*self.issue("fourth"))
            installation.proxy.process.send_signal(signal.SIGHUP)
            until(lambda: self.shown() == "fourth", "the fourth certificate is shown")
            for _ in range(8):  # each of several processes shows it
                self.assertEqual(self.shown(), "fourth")
            for session in sessions:
                self.assertTrue(session.ping())
        finally:
            going.clear()
            thread.join(30)
        self.assertEqual(failed, [])
        self.assertGreater(int(busy.get("n")), 100)
        found = metrics(status_port(installation))
        reloads = "redisproxy_certificate_reloads_total"
        self.assertEqual(found[reloads, frozenset({("outcome", "ok")})], 3)
        self.assertGreaterEqual(found[reloads, frozenset({("outcome", "failed")})], 1)
        expiry = "redisproxy_certificate_expiry_timestamp_seconds"
        listener = frozenset({("listener", f"ssl:{self.port}:interface=127.0.0.1")})
        expires = x509.load_pem_x509_certificate(self.certificate.read_bytes()).not_valid_after_utc.timestamp()
        self.assertEqual(found[expiry, listener], expires)
        _, _, page = ask(status_port(installation), "/")
        self.assertRegex(page, rf"ssl:{self.port}:interface=127.0.0.1.*in 1 d 2\d h")
        self.assertNotIn("PRIVATE KEY", installation.proxy.log)

    def test_sessions_go_on_and_who_comes_later_sees_the_new_one(self) -> None:
        self.rotates()

    def test_with_two_processes(self) -> None:
        self.rotates("--processes", "2")

    def test_a_worker_that_comes_while_the_files_are_bad_shows_the_last_good_one(self) -> None:
        self.write(*self.issue("first"))
        ca = self.directory / "clients.pem"
        clients = Authority(self.directory, "clients")
        certificate, key = clients.issue("client", "client")
        installation = self.start("--processes", "2", "--client-ca", str(ca))
        proxy = installation.proxy
        before = proxy.workers
        for path in (self.certificate, self.key, ca):
            path.unlink()
        proxy.logged("tls.key cannot be read: No such file or directory; the last good certificate stays in force")
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not set(proxy.workers.values()) & set(before.values()), "others serve")
        for _ in range(4):
            self.assertTrue(self.client(ssl_certfile=str(certificate), ssl_keyfile=str(key)).ping())
        self.assertNotIn("PRIVATE KEY", proxy.log)
        for pid in proxy.workers.values():
            for name in ("cmdline", "environ"):
                self.assertNotIn(b"PRIVATE KEY", Path(f"/proc/{pid}/{name}").read_bytes())

    def test_the_status_endpoint_has_tls_too(self) -> None:
        self.write(*self.issue("first"))
        port = free_port()
        status = f"ssl:{port}:privateKey={self.key}:certKey={self.certificate}"
        installation = self.start("--status", status)
        self.port = port
        self.assertEqual(self.shown(), "first")
        self.write(*self.issue("second"))
        until(lambda: self.shown() == "second", "the second certificate is shown there")
        with self.shake(self.context()) as connection:
            connection.send(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = connection.rest(or_reset=True).decode()
        for listener in installation.proxy.lines:
            self.assertNotIn("Traceback", listener)
        self.assertIn(f'redisproxy_certificate_expiry_timestamp_seconds{{listener="ssl:{port}', answer)


class ClientCertificateTests(TlsCase):
    def setUp(self) -> None:
        super().setUp()
        self.write(*self.issue("first"))
        self.clients, self.others = Authority(self.directory, "clients"), Authority(self.directory, "others")
        self.ca = self.mount / "ca.crt"
        self.ca.write_bytes(self.clients.path.read_bytes())

    def certificate_of(self, authority: Authority, name: str = "client", **how: object) -> dict[str, str]:
        certificate, key = authority.issue(name, "client", **how)
        return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}

    def who_may_come(self, *options: str) -> None:
        installation = self.start("--client-ca", str(self.ca), *options)
        installation.proxy.logged(r"tcp:0:interface=127.0.0.1 has no TLS, so --client-ca does not apply there")
        good = self.certificate_of(self.clients, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        bad = self.certificate_of(self.others, "other")
        client = self.client(**good)
        self.assertTrue(client.set("a", 1))
        with self.assertRaises(redis.AuthenticationError):
            client_once(
                port=self.port, ssl=True, ssl_ca_certs=str(self.authority.path), password="wrong", **good
            ).ping()  # a certificate is no password
        for number in range(1, 5):  # at each of several processes
            self.assertRegex(self.refusal(self.context()), "(?i)certificate.required|handshake.failure|closed")
            self.assertRegex(self.refusal(self.context(*map(Path, bad.values()))), "(?i)unknown.ca|closed")
            for reason in ("did not return a certificate) after", "verify failed: its CA is not trusted) after"):
                installation.proxy.logged(f"(?s)({re.escape(reason)}.*){{{number}}}")
        self.assertEqual(installation.blue().get("a"), b"1")
        # From now on only the other CA is trusted. Open sessions stay.
        self.ca.write_bytes(self.others.path.read_bytes())
        until(lambda: self.may_come(bad), "the other one may come")
        for _ in range(4):
            self.assertTrue(self.client(**bad).ping())
            self.assertFalse(self.may_come(good))
        self.assertEqual(client.get("a"), b"1")

    def may_come(self, certificate: dict[str, str]) -> bool:
        try:
            with self.client(**certificate) as client:
                return client.ping()
        except redis.ConnectionError:
            return False

    def test_who_may_come(self) -> None:
        self.who_may_come()

    def test_with_two_processes(self) -> None:
        self.who_may_come("--processes", "2")

    def test_where_it_would_not_be_asked_for_it_is_refused(self) -> None:
        for listen, why in (
            ("tcp:0", "redisproxy: --client-ca needs an ssl: endpoint, and --listen has none"),
            (
                f"{self.endpoint} stdio:",
                "redisproxy: --client-ca works only at ssl: endpoints, and --listen also has 'stdio:'",
            ),
        ):
            self.assertIn(why, self.failed_start("--client-ca", str(self.ca), listen=listen))

    def failed_start(self, *options: str, listen: str) -> list[str]:
        proxy = ProxyProcess("--manifests", str(LOCAL), *options, listen=listen)
        self.addCleanup(proxy.stop)
        self.assertEqual(proxy.process.wait(60), 1)
        proxy._reader.join(20)
        self.assertNotIn("Traceback", proxy.log)
        return [line for line in proxy.lines if line]

    def test_what_cannot_be_used_ends_the_start_with_one_line(self) -> None:
        self.issue("another")
        bad = self.directory / "bad.pem"
        bad.write_text("-----BEGIN nothing")
        other = self.directory / "another.pem"
        ssl_only = f"ssl:0:privateKey={self.key}:certKey="
        for listen, options, why in (
            (
                f"{ssl_only}/nowhere/tls.crt",
                (),
                "redisproxy: ssl:0: /nowhere/tls.crt cannot be read: No such file or directory",
            ),
            (f"{ssl_only}{bad}", (), f"redisproxy: ssl:0: {bad} has no certificate: it needs one or more in PEM"),
            (
                f"{ssl_only}{other}",
                (),
                f"redisproxy: ssl:0: {self.key} does not belong to the first certificate in {other}",
            ),
            (self.endpoint, ("--client-ca", str(bad)), f"{bad} has no certificate"),
            (self.endpoint, ("--client-ca", "/nowhere/ca.crt", "--processes", "2"), "/nowhere/ca.crt cannot be read"),
            (
                f"{self.endpoint}:sslmethod=TLSv1_METHOD",
                (),
                "sslmethod must be left out: the proxy always uses TLS 1.2 and newer",
            ),
        ):
            (line,) = self.failed_start(*options, listen=listen)
            self.assertIn(why, line)


class JsonTests(TlsCase):
    def test_a_log_of_json(self) -> None:
        self.write(*self.issue("first"))
        installation = self.start("--log-format", "json")
        with RawClient(self.port) as plain:
            plain.send(b"PING\r\n\r\n")
            plain.rest(or_reset=True)
        installation.proxy.logged('"close_reason": "tls-failed"')
        (event,) = [event for event in self.events(installation) if event.get("close_reason") == "tls-failed"]
        self.assertTrue(event["detail"])
        (event,) = [event for event in self.events(installation) if "is in force, until" in event["message"]]
        self.assertEqual(event["listener"], f"ssl:{self.port}:interface=127.0.0.1")

    def events(self, installation: Installation) -> Iterator[dict]:
        return (json.loads(line) for line in installation.proxy.lines if line.startswith("{"))
