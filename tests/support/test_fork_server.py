from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from .command import COMMAND, run_command
from .fork_server import ForkedProcess, can_fork
from .proxy import Installation, plain_environment
from .waiting import LIMIT


class CopyTests(unittest.TestCase):
    """A copy does the same as the program."""

    def setUp(self) -> None:
        if not can_fork(plain_environment()):
            raise unittest.SkipTest("TEST_FRESH is set, or coverage is measured, or Linux is older than 5.3")

    def test_the_command_prints_and_ends_as_the_program_does(self) -> None:
        environ = {**plain_environment(), "NS_PREFIX": "Not A Prefix", "COLUMNS": "50"}
        for arguments, status in ((["--version"], 0), (["check", "--help"], 0), (["tenants"], 2), ([], 2)):
            with self.subTest(arguments):
                copied = run_command(*arguments, environ=environ)
                done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, env=environ, timeout=180)
                self.assertEqual(copied.returncode, status)
                self.assertEqual(
                    (copied.returncode, copied.stdout, copied.stderr), (done.returncode, done.stdout, done.stderr)
                )

    def test_a_copy_has_its_own_directory_and_names_its_end_again_and_again(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-"))
        (Path(directory) / "here").mkdir()
        environ = {**plain_environment(), "NS_PREFIX": "team-", "REDISPROXY_MANIFESTS": "here"}
        with contextlib.chdir(directory), tempfile.TemporaryFile() as output:
            process = ForkedProcess("redisproxy", ["a-name", "tenants"], environ, output.fileno(), output.fileno())
            self.assertEqual(process.wait(LIMIT), 0)
            output.seek(0)
            self.assertIn(f"the manifests in {directory}/here", output.read().decode())
        self.assertEqual((process.wait(), process.poll()), (0, 0))
        process.send_signal(signal.SIGTERM)  # no process gets it

    def test_copies_do_not_share_a_reactor(self) -> None:
        first, second = Installation(), Installation()
        self.addCleanup(first.stop)
        self.addCleanup(second.stop)
        for installation in (first, second):
            self.assertIsInstance(installation.proxy.process, ForkedProcess)
            self.assertIsNone(installation.proxy.process.poll())
        with self.assertRaises(subprocess.TimeoutExpired):
            second.proxy.process.wait(0.01)
        first.proxy.process.kill()
        self.assertEqual(first.proxy.process.wait(LIMIT), -signal.SIGKILL)
        self.assertTrue(second.blue().set("a", 1))
        self.assertEqual(second.proxy.stop(), 0)


class RefusalTests(unittest.TestCase):
    def test_what_is_read_before_any_import_cannot_be_given_to_a_copy(self) -> None:
        environ = dict(os.environ)
        for name in ("PYTHONPATH", "LD_PRELOAD", "LC_ALL", "MALLOC_ARENA_MAX"):
            self.assertFalse(can_fork({**environ, name: "another"}), name)
