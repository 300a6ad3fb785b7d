"""Tests the reload of certificates: when files are checked, and what is in force."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from OpenSSL import SSL
from twisted.internet import defer, task
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial import unittest

from redisproxy.listen import tls
from redisproxy.listen.certificates import INTERVAL, RETRY, RotationService
from redisproxy.listen.tls import CertificateError, ServerTls, TlsFiles

from ..support.certificates import Authority

#: Checks until a change takes effect: one sees it, and the next finds it complete.
LOOKS = 2


class RotationCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        self.authority = Authority(self.directory)
        self.mount = self.directory / "mount"
        self.mount.mkdir()
        self.certificate, self.key = self.mount / "tls.crt", self.mount / "tls.key"
        self.clock = task.Clock()
        self.now = time.time()
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.changes = 0

    def issue(self, name: str, **how: object) -> tuple[bytes, bytes]:
        certificate, key = self.authority.issue(name, "localhost", **how)
        return certificate.read_bytes(), key.read_bytes()

    def write(self, certificate: bytes, key: bytes) -> None:
        self.certificate.write_bytes(certificate)
        self.key.write_bytes(key)

    def start(self, client_ca: Path | None = None, in_thread: Callable = defer.maybeDeferred) -> RotationService:
        self.tls = ServerTls("ssl:6380", TlsFiles(self.key, self.certificate, None, client_ca))
        service = RotationService(self.clock, [self.tls], self.changed, in_thread, wall_clock=lambda: self.now)
        service.startService()
        self.addCleanup(self.stop, service)
        return service

    def stop(self, service: RotationService) -> None:
        service.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def changed(self) -> None:
        self.changes += 1

    def look(self, times: int = 1) -> None:
        self.clock.pump([INTERVAL] * times)

    def shown(self) -> bytes:
        """Returns the certificate that a client would see, as PEM."""
        connection = self.tls.serverConnectionForTLS(None)
        return connection.get_certificate().to_cryptography().public_bytes(tls.Encoding.PEM)

    def logged(self, level: str) -> list[str]:
        return [e["log_format"].format(**e) for e in self.events if e["log_level"].name == level]


class RotationTests(RotationCase):
    def test_a_new_pair_is_in_force_after_two_looks_and_once(self) -> None:
        first, second = self.issue("first"), self.issue("second")
        self.write(*first)
        service = self.start()
        self.assertEqual(self.shown(), first[0])
        context = self.tls.serverConnectionForTLS(None).get_context()
        self.look(5)
        self.assertIs(self.tls.serverConnectionForTLS(None).get_context(), context, "it is made once")
        self.write(*second)
        self.look()
        self.assertEqual(self.shown(), first[0])
        self.look()
        self.assertEqual(self.shown(), second[0])
        self.look(20)
        self.assertEqual((self.changes, service.state()["reloads"]), (1, {"ok": 1, "failed": 0}))
        (material,) = service.material([self.tls])
        self.assertEqual((material.certificate, material.key), second)
        self.assertRegex(self.logged("info")[-1], "ssl:6380: the certificate in .*/tls.crt is in force, until")

    def test_the_links_of_a_mounted_secret(self) -> None:
        """A mounted secret that the kubelet replaces is reloaded: its files are links to a
        directory, which is itself a link that is replaced in one step.
        """

        def publish(version: str, certificate: bytes, key: bytes) -> None:
            (self.mount / version).mkdir()
            for name, content in (("tls.crt", certificate), ("tls.key", key)):
                (self.mount / version / name).write_bytes(content)
                os.utime(self.mount / version / name, (1e9, 1e9))
            (self.mount / "..data_tmp").symlink_to(version)
            (self.mount / "..data_tmp").rename(self.mount / "..data")

        first, second = self.issue("first"), self.issue("second")
        publish("..1", *first)
        for path in (self.certificate, self.key):
            path.symlink_to(f"..data/{path.name}")
        self.start()
        publish("..2", *second)
        self.look(LOOKS)
        self.assertEqual(self.shown(), second[0])
        self.assertEqual(self.logged("warn"), [])

    def test_a_pair_that_does_not_match_for_a_while(self) -> None:
        first, second = self.issue("first"), self.issue("second")
        self.write(*first)
        service = self.start()
        self.certificate.write_bytes(second[0])
        self.look(5)
        self.assertEqual(self.shown(), first[0])
        (warning,) = self.logged("warn")
        self.assertRegex(
            warning,
            "ssl:6380: .*/tls.key does not belong to the first certificate in .*/tls.crt.*; the last good certificate stays in force",
        )
        self.assertIn("does not belong", service.state()["certificates"][0]["problem"])
        self.look(3 * round(RETRY / INTERVAL))
        self.assertEqual(len(self.logged("warn")), 1, "a lasting fault is logged once")
        self.assertGreaterEqual(service.state()["reloads"]["failed"], 3)
        self.key.write_bytes(second[1])
        self.look(LOOKS)
        self.assertEqual(self.shown(), second[0])
        self.assertIn("fixed: ssl:6380", self.logged("info"))
        self.assertEqual(service.state()["certificates"][0]["problem"], "")

    def test_what_is_as_it_was_again_is_fixed_and_no_reload(self) -> None:
        first = self.issue("first")
        self.write(*first)
        service = self.start()
        self.certificate.write_bytes(b"half of i")
        self.look(LOOKS)
        self.assertRegex(self.logged("warn")[0], "has no certificate")
        self.certificate.write_bytes(first[0])
        self.look(LOOKS)
        self.assertIn("fixed: ssl:6380", self.logged("info"))
        self.assertEqual((self.changes, service.state()["reloads"]["ok"]), (0, 0))

    def test_a_fault_that_no_stamp_tells_of_is_tried_again(self) -> None:
        first, second = self.issue("first"), self.issue("second")
        self.write(*first)
        self.start()
        real, faults = os.open, [OSError(errno.EMFILE, "Too many open files")]
        self.patch(tls.os, "open", lambda *how: real(*how) if not faults else (_ for _ in ()).throw(faults.pop()))
        self.write(*second)
        self.look(LOOKS)
        self.assertRegex(self.logged("warn")[0], "cannot be read: Too many open files")
        self.look(round(RETRY / INTERVAL) + 1)
        self.assertEqual(self.shown(), second[0])

    def test_a_file_that_is_being_written_is_left_alone(self) -> None:
        self.write(*self.issue("first"))
        self.start()
        second = self.issue("second")
        self.key.write_bytes(second[1])
        with self.certificate.open("wb") as file:
            for start in range(0, len(second[0]), 100):
                file.write(second[0][start : start + 100])
                file.flush()
                self.look()
        self.look(LOOKS)
        self.assertEqual(self.shown(), second[0])
        self.assertEqual(self.logged("warn"), [])

    def test_files_that_change_while_they_are_read_wait_for_the_next_look(self) -> None:
        first, second = self.issue("first"), self.issue("second")
        self.write(*first)
        self.start()
        real = TlsFiles.read

        def read(files: TlsFiles) -> tls.Material:
            self.patch(TlsFiles, "read", real)
            found = real(files)
            self.write(*second)
            return found

        self.certificate.write_bytes(second[0])
        self.patch(TlsFiles, "read", read)
        self.look(LOOKS)
        self.assertEqual((self.shown(), self.logged("warn")), (first[0], []))
        self.look(LOOKS)
        self.assertEqual(self.shown(), second[0])

    def test_a_touch_is_no_reload(self) -> None:
        self.write(*self.issue("first"))
        service = self.start()
        os.utime(self.certificate)
        self.look(LOOKS)
        self.assertEqual((self.changes, service.state()["reloads"]), (0, {"ok": 0, "failed": 0}))

    def test_the_client_ca_alone(self) -> None:
        self.write(*self.issue("first"))
        clients, others = (Authority(self.directory, name).path for name in ("clients", "others"))
        ca = self.mount / "ca.crt"
        ca.write_bytes(clients.read_bytes())
        self.start(client_ca=ca)
        ca.write_bytes(b"nothing")
        self.look(LOOKS)
        self.assertRegex(self.logged("warn")[0], "ca.crt has no certificate")
        names = self.tls.serverConnectionForTLS(None).get_client_ca_list()
        self.assertEqual([name.commonName for name in names], ["clients of the tests"])
        ca.write_bytes(others.read_bytes())
        self.look(LOOKS)
        self.assertRegex(
            self.logged("info")[-1], "from now on, clients must show a certificate that a CA in .*/ca.crt signed"
        )
        self.assertEqual(sum("the certificate in" in line for line in self.logged("info")), 1)
        connection = self.tls.serverConnectionForTLS(None)
        self.assertEqual([name.commonName for name in connection.get_client_ca_list()], ["others of the tests"])
        self.assertTrue(connection.get_context().get_verify_mode() & SSL.VERIFY_FAIL_IF_NO_PEER_CERT)

    def test_at_once_for_who_asks(self) -> None:
        first, second, third = self.issue("first"), self.issue("second"), self.issue("third")
        self.write(*first)
        waiting: list[tuple[defer.Deferred, Callable, tuple]] = []

        def later(call: Callable, *arguments: object) -> defer.Deferred:
            waiting.append((defer.Deferred(), call, arguments))
            return waiting[-1][0]

        def work() -> None:
            done, call, arguments = waiting.pop()
            done.callback(call(*arguments))

        service = self.start(in_thread=later)
        self.write(*second)
        service.look()
        work()
        self.assertEqual(self.shown(), second[0])
        # Asked for while a check is under way, which may already have read the file: there is
        # another check.
        self.look()
        ((done, call, arguments),) = waiting
        waiting.clear()
        found = call(*arguments)
        self.write(*third)
        service.look()
        self.assertEqual(waiting, [], "one at a time")
        done.callback(found)
        self.clock.advance(0)
        work()
        self.assertEqual(self.shown(), third[0])

    def test_a_certificate_that_is_not_good_today_is_told_of(self) -> None:
        self.now = 0.0
        self.write(*self.issue("early"))
        self.start()
        self.assertRegex(self.logged("warn")[0], "is not valid before 20.* clients refuse it until then")
        self.now = 4e9
        self.write(*self.issue("late"))
        self.look(LOOKS)
        self.assertRegex(self.logged("warn")[1], "the certificate in .* expired on 20.*: clients refuse it")

    def test_what_cannot_be_used_from_the_start(self) -> None:
        with self.assertRaisesRegex(CertificateError, "^ssl:6380: .*/tls.key cannot be read: No such file"):
            self.start()

    def test_a_bug_does_not_end_it(self) -> None:
        self.write(*self.issue("first"))
        self.start()
        second = self.issue("second")
        self.write(*second)
        real = TlsFiles.stamp
        self.patch(TlsFiles, "stamp", lambda files: 1 / 0)
        self.look()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(TlsFiles, "stamp", real)
        self.look(LOOKS)
        self.assertEqual(self.shown(), second[0])

    def test_it_ends_while_a_look_is_under_way(self) -> None:
        first = self.issue("first")
        self.write(*first)
        waiting: list[tuple[defer.Deferred, Callable, tuple]] = []

        def later(call: Callable, *arguments: object) -> defer.Deferred:
            waiting.append((defer.Deferred(), call, arguments))
            return waiting[-1][0]

        service = self.start(in_thread=later)
        self.write(*self.issue("second"))
        service.look()
        service.stopService()
        done, call, arguments = waiting.pop()
        done.callback(call(*arguments))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.shown(), self.changes), (first[0], 0))

    def test_without_endpoints_there_is_nothing_to_do(self) -> None:
        service = RotationService(self.clock, [], self.fail, self.fail)
        service.startService()
        service.look()
        self.stop(service)
        self.assertEqual(service.state(), {"certificates": [], "reloads": {"ok": 0, "failed": 0}})
