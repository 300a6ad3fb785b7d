"""Tests TLS for clients: arguments of an `ssl:` endpoint, its files, and the OpenSSL context."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.trial import unittest

from redisproxy.listen import tls
from redisproxy.listen.endpoints import EndpointError, Listening
from redisproxy.listen.tls import CertificateError, Material, ServerConnection, TlsFiles, make, parse, why_tls

from ..support.certificates import Authority


class ParseTests(unittest.SynchronousTestCase):
    def parse(self, description: str) -> tuple[str, str, TlsFiles]:
        plain, secured = parse(description, None)
        return plain, secured.listener, secured.files

    def test_as_twisted_takes_it(self) -> None:
        self.assertEqual(
            self.parse("ssl:6380:privateKey=/tls/tls.key:certKey=/tls/tls.crt"),
            ("tcp:6380", "ssl:6380", TlsFiles(Path("/tls/tls.key"), Path("/tls/tls.crt"), None, None)),
        )
        # The default: one file for both, in the current directory.
        here = Path("server.pem").absolute()
        self.assertEqual(self.parse("ssl:6380"), ("tcp:6380", "ssl:6380", TlsFiles(here, here, None, None)))
        # Arguments without names, with characters that have to be escaped.
        self.assertEqual(
            self.parse(r"ssl:6380:/a\:b\=c.key:/a\\b.pem:interface=\:\:1:backlog=7:extraCertChain=/chain=1.pem"),
            (
                r"tcp:6380:interface=\:\:1:backlog=7",
                "ssl:6380:interface=::1",
                TlsFiles(Path("/a:b=c.key"), Path("/a\\b.pem"), Path("/chain=1.pem"), None),
            ),
        )
        self.assertEqual(self.parse("ssl:port=6380:privateKey=/k")[0], "tcp:6380")

    def test_what_it_does_not_take_is_refused_and_not_ignored(self) -> None:
        for description, why in (
            ("ssl:6380:sslmethod=TLSv1_METHOD", "sslmethod must be left out: the proxy always uses TLS 1.2 and newer"),
            (
                "ssl:6380:dhParameters=/dh.pem",
                "dhParameters must be left out: the proxy uses elliptic curves for forward secrecy",
            ),
            (
                "ssl:6380:caCertsDir=/ca",
                "ssl: has no argument caCertsDir; it has port, privateKey, certKey, interface, backlog, extra",
            ),
            ("ssl:6380:certkey=/c", "ssl: has no argument certkey"),
            ("ssl:privateKey=/k", "it has no port"),
            ("ssl:6380:/k:privateKey=/other", "privateKey is given twice"),
            ("ssl:1:2:3:4:5:6:7:8:9", "must be left out|ssl: has no more"),
            ("ssl:x:privateKey=/k", "a number is expected"),
        ):
            with self.assertRaisesRegex(EndpointError, f"^{description!r} .*({why})".replace("\\", r"\\")):
                Listening(reactor, [description])


class MaterialCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        self.authority = Authority(self.directory)
        self.certificate, self.key = self.authority.issue("proxy", "localhost")

    def files(
        self,
        key: Path | None = None,
        certificate: Path | None = None,
        chain: Path | None = None,
        client_ca: Path | None = None,
    ) -> TlsFiles:
        return TlsFiles(key or self.key, certificate or self.certificate, chain, client_ca)

    def make(self, **paths: Path) -> SSL.Context:
        files = self.files(**paths)
        return make(files, files.read()).context

    def written(self, name: str, *parts: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(b"".join(parts))
        return path


class FilesTests(MaterialCase):
    def refused(self, why: str, **paths: Path) -> None:
        with self.assertRaisesRegex(CertificateError, why) as caught:
            self.make(**paths)
        self.assertNotIn("\n", str(caught.exception))
        self.assertNotIn("BEGIN", str(caught.exception))

    def test_what_cannot_be_used_is_told_in_one_line_that_names_the_file(self) -> None:
        self.refused("/away.key cannot be read: No such file or directory", key=self.directory / "away.key")
        self.refused(f"{self.directory} cannot be read: Is a directory|is not a file", certificate=self.directory)
        self.refused("/proxy.pem has no private key: it needs one in PEM", key=self.certificate)
        self.refused("/proxy.key has no certificate: it needs one or more in PEM", certificate=self.key)
        self.refused("/proxy.key has no certificate", client_ca=self.key)
        self.refused("/proxy.key has no certificate", chain=self.key)
        broken = self.certificate.read_bytes().replace(b"MII", b"NII")
        self.refused("certificate in .*/broken.pem is malformed", certificate=self.written("broken.pem", broken))
        self.refused("certificate in .*/broken.pem is malformed", client_ca=self.directory / "broken.pem")
        broken = self.key.read_bytes().replace(b"M", b"N", 1)
        self.refused("key in .*/broken.key is malformed, or of", key=self.written("broken.key", broken))
        _, other = self.authority.issue("other", "localhost")
        self.refused("/other.key does not belong to the first certificate in .*/proxy.pem", key=other)
        # If the chain comes first, the first key is not the server's.
        swapped = self.written("swapped.pem", self.authority.path.read_bytes(), self.certificate.read_bytes())
        self.refused("/proxy.key does not belong to the first certificate in .*/swapped.pem", certificate=swapped)

    def test_what_would_be_waited_for_or_is_huge_is_no_file(self) -> None:
        os.mkfifo(self.directory / "pipe")
        self.refused("/pipe is not a file", key=self.directory / "pipe")
        self.refused("/huge.pem is larger than 1024 KiB", certificate=self.written("huge.pem", b" " * (tls.FILE_LIMIT + 1)))

    def test_a_key_with_a_passphrase_asks_nobody(self) -> None:
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
            encrypted = key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))
            self.refused("key in .*/e.key is encrypted: use one without a passphrase", key=self.written("e.key", encrypted))

    def test_a_key_that_openssl_finds_too_short(self) -> None:
        certificate, key = self.authority.issue("weak", "localhost", key=rsa.generate_private_key(65537, 1024))
        self.refused("OpenSSL refuses the content of .*/weak.pem: ee key too small", certificate=certificate, key=key)

    def test_what_stands_beside_the_key_is_left_alone(self) -> None:
        """A key file may also hold a certificate, as Twisted's server.pem does, or EC PARAMETERS,
        which openssl writes before the key.
        """
        both = self.written("server.pem", self.certificate.read_bytes(), self.key.read_bytes())
        self.make(key=both, certificate=both)
        both = self.written(
            "server.pem",
            b"Bag Attributes\n-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
            self.key.read_bytes(),
            self.certificate.read_bytes(),
        )
        self.make(key=both, certificate=both)

    def test_every_kind_of_key(self) -> None:
        for name, form in (("1", "PKCS8"), ("2", "TraditionalOpenSSL")):
            key = rsa.generate_private_key(65537, 2048)
            certificate, path = self.authority.issue(f"rsa{name}", "localhost", key=key)
            no = serialization.NoEncryption()
            path.write_bytes(key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), no))
            self.make(certificate=certificate, key=path)

    def test_a_stamp_tells_of_every_change(self) -> None:
        link = self.directory / "link.pem"
        link.symlink_to(self.certificate)
        files = self.files(certificate=link)
        stamps = [files.stamp()]
        self.assertEqual(files.stamp(), stamps[0])
        for change in (
            lambda: self.certificate.write_bytes(self.certificate.read_bytes()),
            lambda: os.utime(self.certificate, (1e9, 1e9)),
            lambda: (link.unlink(), link.symlink_to(self.authority.path)),
            link.unlink,
            lambda: link.symlink_to(self.certificate),
        ):
            change()
            self.assertNotEqual(files.stamp(), stamps[-1])
            stamps.append(files.stamp())

    def test_material_goes_through_json_and_into_no_log(self) -> None:
        material = self.files(client_ca=self.authority.path).read()
        self.assertEqual(Material.load(json.loads(json.dumps(material.dump()))), material)
        self.assertNotIn("PRIVATE", repr(material))


class HandshakeTests(MaterialCase):
    """What clients see. Python's own TLS is the client, in memory."""

    def client(self, *, cafile: Path | None = None, **settings: object) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=cafile or self.authority.path)
        for name, value in settings.items():
            setattr(context, name, value)
        return context

    def shake(
        self, server: SSL.Context, client: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> tuple[ssl.SSLObject, SSL.Connection]:
        """Returns both sides' connections after the handshake and one word from the server. Raises
        what the first side to fail raises.
        """
        ours = self.ours = ServerConnection(server, None)
        ours.set_accept_state()
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        theirs = client.wrap_bio(received, sent, server_hostname="localhost", session=session)

        def there(step: Callable[[], object], wants: type[Exception]) -> bool:
            try:
                step()
            except wants:
                return False
            finally:
                if ours_sent := _pending(ours):
                    received.write(ours_sent)
                if theirs_sent := sent.read():
                    ours.bio_write(theirs_sent)
            return True

        words: list[bytes] = []
        steps = [
            (theirs.do_handshake, ssl.SSLWantReadError),
            (ours.do_handshake, SSL.WantReadError),
        ]
        done = [False, False]
        for _ in range(10):
            for side, (step, wants) in enumerate(steps):
                done[side] = done[side] or there(step, wants)
        self.assertEqual(done, [True, True])
        there(lambda: ours.send(b"pong"), SSL.WantReadError)
        there(lambda: words.append(theirs.read(100)), ssl.SSLWantReadError)
        self.assertEqual(words, [b"pong"])
        return theirs, ours

    def test_tls_1_2_and_newer(self) -> None:
        server = self.make()
        versions = []
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            theirs, _ = self.shake(server, self.client(maximum_version=version))
            versions.append(theirs.version())
            self.assertRegex(theirs.cipher()[0], "GCM|CHACHA20|POLY1305")
        self.assertEqual(versions, ["TLSv1.2", "TLSv1.3"])
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            old = self.client(minimum_version=version, maximum_version=version)
            old.set_ciphers("DEFAULT@SECLEVEL=0")
            with self.assertRaisesRegex(SSL.Error, "unsupported protocol"):
                self.shake(server, old)

    def test_ciphers_without_forward_secrecy_or_authentication_are_refused(self) -> None:
        certificate, key = self.authority.issue("rsa", "localhost", key=rsa.generate_private_key(65537, 2048))
        server = self.make(certificate=certificate, key=key)
        for ciphers in ("AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA"):
            client = self.client(maximum_version=ssl.TLSVersion.TLSv1_2)
            client.set_ciphers(ciphers)
            with self.assertRaisesRegex(SSL.Error, "no shared cipher") as caught:
                self.shake(server, client)
            self.assertEqual(why_tls(caught.exception), "no shared cipher")

    def test_protocols_that_clients_propose_are_not_minded(self) -> None:
        client = self.client()
        client.set_alpn_protocols(["h2", "redis"])
        theirs, _ = self.shake(self.make(), client)
        self.assertIsNone(theirs.selected_alpn_protocol())

    def test_a_full_chain_is_sent(self) -> None:
        """The server sends the whole chain, from one file as in cert-manager's tls.crt or from a
        file of its own.
        """
        intermediate = Authority(self.directory, "intermediate", self.authority)
        certificate, key = intermediate.issue("leaf", "localhost")
        full = self.written("full.pem", certificate.read_bytes(), intermediate.path.read_bytes())
        for paths in ({"certificate": full}, {"certificate": certificate, "chain": intermediate.path}):
            self.shake(self.make(key=key, **paths), self.client())
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.shake(self.make(key=key, certificate=certificate), self.client())

    def with_certificate(self, authority: Authority, *chain: Authority, **how: object) -> ssl.SSLContext:
        certificate, key = authority.issue("client", "client", **how)
        whole = self.written("whole.pem", certificate.read_bytes(), *(one.path.read_bytes() for one in chain))
        context = self.client()
        context.load_cert_chain(whole, key)
        return context

    def test_certificates_of_clients(self) -> None:
        clients = Authority(self.directory, "clients")
        others = Authority(self.directory, "others")
        server = self.make(client_ca=clients.path)
        _, ours = self.shake(server, self.with_certificate(clients, usage=ExtendedKeyUsageOID.CLIENT_AUTH))
        self.assertIsNotNone(ours.get_peer_certificate())
        self.shake(server, self.with_certificate(clients))
        for client, why in (
            (self.client(), "peer did not return a certificate"),
            (self.with_certificate(others), "certificate verify failed: its CA is not trusted"),
            # The CA of the server's own certificate.
            (self.with_certificate(self.authority), "certificate verify failed: its CA is not trusted"),
            (
                self.with_certificate(clients, usage=ExtendedKeyUsageOID.SERVER_AUTH),
                "certificate verify failed: it is not for clients",
            ),
            (self.with_certificate(clients, days=-0.01), "certificate verify failed: it has expired"),
        ):
            with self.assertRaises(SSL.Error) as caught:
                self.shake(server, client)
            self.assertEqual(why_tls(caught.exception, self.ours), why)
        # Several CAs may be trusted, and an intermediate CA is enough.
        both = self.written("both.pem", clients.path.read_bytes(), others.path.read_bytes())
        self.shake(self.make(client_ca=both), self.with_certificate(others))
        intermediate = Authority(self.directory, "intermediate", others)
        self.shake(self.make(client_ca=intermediate.path), self.with_certificate(intermediate))
        self.shake(self.make(client_ca=others.path), self.with_certificate(intermediate, intermediate))
        with self.assertRaisesRegex(SSL.Error, "certificate verify failed"):
            self.shake(self.make(client_ca=intermediate.path), self.with_certificate(others))

    def test_no_session_is_resumed(self) -> None:
        """No session is resumed, because a checked certificate would then be good for ever, and a
        client that tries does not fail.
        """
        clients = Authority(self.directory, "clients")
        for server in (self.make(), self.make(client_ca=clients.path)):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                client = self.with_certificate(clients)
                client.maximum_version = version
                theirs, _ = self.shake(server, client)
                again, ours = self.shake(server, client, theirs.session)
                self.assertFalse(again.session_reused)
                self.assertEqual(ours.get_peer_certificate() is None, server.get_verify_mode() == SSL.VERIFY_NONE)


def _pending(connection: SSL.Connection) -> bytes:
    found = b""
    while True:
        try:
            found += connection.bio_read(1 << 16)
        except SSL.WantReadError:
            return found
