"""Tests the twistd process itself: its start, its options, its log, its end.

A test of the start or the end starts the process as an operator does.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from redisproxy.resp import framing

from ..support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, valkey
from ..support.waiting import LIMIT, until

LOCAL = Path(__file__).parents[2] / "deploy" / "local"


class StartTests(unittest.TestCase):
    def assertFails(self, *options: str, environ: dict[str, str] | None = None, says: str, fresh: bool = False) -> None:
        """The process logs one line, ends with status 1, and has no traceback."""
        proxy = ProxyProcess(*options, environ=environ, fresh=fresh)
        self.addCleanup(proxy.stop)
        self.assertEqual(proxy.process.wait(LIMIT), 1)
        proxy._reader.join(10)
        reported = [line for line in proxy.lines if "redisproxy: " in line]
        self.assertEqual(len(reported), 1, proxy.log)
        self.assertIn(says, reported[0])
        self.assertNotIn("Traceback", proxy.log)

    def test_bad_values_name_the_setting_the_value_and_what_it_takes(self) -> None:
        for option, value, says in (
            ("--max-workers", "many", "--max-workers is 'many'; it takes a whole number from 1 to"),
            ("--max-workers", "0", "--max-workers is '0'"),
            ("--base-workers", "1_0", "--base-workers is '1_0'"),
            ("--refresh", "-1", "--refresh is '-1'; it takes a number of seconds from 1 to 86400"),
            ("--ns-prefix", "Team", "--ns-prefix is 'Team'; it takes the beginning"),
            ("--kubernetes-port", "tcp://x", "--kubernetes-port is 'tcp://x'; it takes a port"),
            ("--listen", "nonsense:1", "it takes a Twisted endpoint such as tcp:6379"),
            ("--listen", "tcp:notaport", "it takes a Twisted endpoint such as tcp:6379"),
            ("--manifests", "/no/such", "--manifests is '/no/such'; it takes a directory"),
            ("--redis-ca", "/no/such", "--redis-ca is '/no/such'; it takes a file"),
            (
                "--allow-commands",
                "CONFIG|GET",
                "--allow-commands names commands that can never be opened to tenants: CONFIG|GET (it shows",
            ),
            ("--log-format", "xml", "--log-format is 'xml'; it takes one of: text, json"),
            ("--nonsense", "1", "option --nonsense not recognized"),
        ):
            with self.subTest(option=option, value=value):
                self.assertFails(option, value, says=says)

    def test_bad_values_of_variables(self) -> None:
        for variable, value in (
            ("MAX_WORKERS", "x"),
            ("WORK_QUEUE_SIZE", "-1"),
            ("BASE_WORKERS", "1.5"),
            ("WORKER_IDLE_TIMEOUT_SEC", "soon"),
            ("KUBERNETES_PORT", "tcp://10.0.0.1"),
            ("REDIS_SECRET", "No Name"),
            ("REDISPROXY_EMBEDDED", "perhaps"),
        ):
            with self.subTest(variable):
                self.assertFails(environ={variable: value}, says=f"{variable} is '{value}'; it takes ")

    def test_the_prefix_is_required(self) -> None:
        self.assertFails("--ns-prefix", "", says="--ns-prefix is ''", fresh=True)

    def test_a_taken_port(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.assertFails(
                "--manifests",
                str(LOCAL),
                "--listen",
                f"tcp:{port}:interface=127.0.0.1",
                says=f"cannot listen on tcp:{port}:interface=127.0.0.1: [Errno 98] Address already in use; "
                "choose another endpoint with --listen",
                fresh=True,
            )

    def test_a_daemon_that_cannot_start_tells_whoever_started_it(self) -> None:
        """Twisted's parent process waits for the daemon's report."""
        with socket.socket() as taken, tempfile.TemporaryDirectory(prefix="redisproxy-test-") as directory:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            ended = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from twisted.scripts.twistd import run; run()",
                    "redisproxy",
                    "--ns-prefix",
                    "team-",
                    "--manifests",
                    str(LOCAL),
                    "--listen",
                    endpoint,
                ],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            self.assertEqual(ended.returncode, 1)
            self.assertIn(f"redisproxy: cannot listen on {endpoint}: [Errno 98] Address already in use", ended.stderr)
            self.assertEqual([path.name for path in Path(directory).iterdir()], ["twistd.log"])
            log = Path(directory, "twistd.log")
            until(lambda: "choose another endpoint with --listen" in log.read_text(), "the daemon has logged it, at its end")
            self.assertNotIn("Traceback", log.read_text())

    def test_a_misspelt_setting_is_named(self) -> None:
        proxy = ProxyProcess("--manifests", str(LOCAL), environ={"REDISPROXY_PROCESES": "2"})
        self.addCleanup(proxy.stop)
        proxy.logged(r"REDISPROXY_PROCESES is not a setting, and has no effect: did you mean REDISPROXY_PROCESSES\?")

    def test_help_names_every_option_and_variable(self) -> None:
        proxy = ProxyProcess("--help", fresh=True)
        self.addCleanup(proxy.stop)
        proxy.process.wait(LIMIT)
        proxy._reader.join(10)
        for word in (
            "--ns-prefix",
            "NS_PREFIX",
            "--listen",
            "tcp:6379",
            "WORKER_IDLE_TIMEOUT_SEC",
            "KUBERNETES_PORT",
            "300",
        ):
            self.assertIn(word, proxy.log)

    def test_an_option_wins_over_its_variable(self) -> None:
        manifests = Manifests()
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path), environ={"NS_PREFIX": "x-", "REDISPROXY_LISTEN": "bad:1"})
        self.addCleanup(proxy.stop)
        proxy.logged("listening on 127.0.0.1")

    def test_it_says_once_which_form_of_the_framing_runs(self) -> None:
        installation = Installation(fresh=True)
        self.addCleanup(installation.stop)
        said = re.findall("the framing is (compiled|interpreted)", installation.proxy.log)
        self.assertEqual(said, ["compiled" if framing.COMPILED else "interpreted"])

    def test_several_endpoints(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/proxy.sock"
            installation = Installation("--listen", f"unix:{path}", fresh=True)
            self.addCleanup(installation.stop)
            import redis

            client = redis.Redis(unix_socket_path=path, password=Installation.BLUE, db=3)
            self.assertTrue(client.set("a", 1))
            self.assertEqual(installation.blue().get("a"), b"1")


class EndTests(unittest.TestCase):
    def test_sigterm_and_sigint_end_it_with_status_0(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            installation = Installation(fresh=True)
            self.addCleanup(installation.stop)
            client = installation.blue()
            client.set("a", 1)
            self.assertEqual(installation.proxy.stop(number), 0)
            self.assertNotIn("Traceback", installation.proxy.log)
            self.assertNotIn("Unhandled", installation.proxy.log)

    def test_a_busy_session_gets_its_replies(self) -> None:
        """It has sent something behind a blocked command."""
        installation = Installation(fresh=True)
        self.addCleanup(installation.stop)
        connection = raw_client(self, installation.proxy.port, b"AUTH", b"blue-password")
        connection.send(b"BLPOP queue 0\r\nPING\r\n")
        straight = installation.server.client(3)
        until(lambda: any(c["cmd"] == "blpop" for c in straight.client_list()), "Redis has the BLPOP")
        installation.proxy.process.send_signal(signal.SIGTERM)
        installation.proxy.logged("draining: 1 sessions")
        straight.rpush("queue", "item")
        self.assertEqual(connection.rest(), b"*2\r\n$5\r\nqueue\r\n$4\r\nitem\r\n+PONG\r\n")
        self.assertEqual(installation.proxy.process.wait(LIMIT), 0)


class LogTests(unittest.TestCase):
    def test_twistds_own_options(self) -> None:
        manifests = Manifests()
        self.addCleanup(manifests.remove)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "proxy.log"
            for processes in ("1", "2"):
                proxy = ProxyProcess(
                    *("--manifests", str(manifests.path), "--log-format", "json", "--processes", processes),
                    twistd=("--logfile", str(path)),
                )
                self.addCleanup(proxy.stop)
                # A SIGTERM before the reactor runs ends the process at once, so earlier lines of
                # the log are not enough to wait for.
                wanted = "credentials, from" if processes == "1" else "worker 2 .* serves"
                until(lambda: path.exists() and re.search(wanted, path.read_text()), "the file has the log", 4 * LIMIT)  # noqa: B023
                self.assertEqual(proxy.stop(), 0)
                self.assertEqual(proxy.lines, [], "and nothing else has")
                for line in path.read_text().splitlines():
                    self.assertLessEqual({"time", "level", "message"}, json.loads(line).keys())
                path.unlink()
        for options, says in (
            (("--syslog",), "twistd --syslog is not supported: the log goes to the standard output, or to twistd --logfile"),
            (("--logfile", "/no/such/file"), "twistd --logfile: "),
        ):
            proxy = ProxyProcess("--manifests", str(manifests.path), twistd=options)
            self.addCleanup(proxy.stop)
            self.assertEqual(proxy.process.wait(LIMIT), 1)
            proxy._reader.join(10)
            self.assertIn(f"redisproxy: {says}", proxy.log)
            self.assertNotIn("Traceback", proxy.log)

    def test_json_lines(self) -> None:
        installation = Installation("--log-format", "json", "--log-level", "debug")
        self.addCleanup(installation.stop)
        client = installation.blue(single_connection_client=True)
        client.set("key-that-is-private", "value-that-is-private")
        try:
            client.execute_command("CONFIG", "SET", "argument-that-is-private", "x")
        except Exception:
            pass
        client.close()
        installation.proxy.logged('"close_reason": "client-left"')
        installation.proxy.stop()
        events = [json.loads(line) for line in installation.proxy.lines]
        for event in events:
            self.assertLessEqual({"time", "level", "logger", "message"}, event.keys())
        outcome = next(e for e in events if e.get("close_reason") == "client-left")
        self.assertEqual((outcome["namespace"], outcome["secret"]), ("team-blue", "redis-secret-master"))
        # redis-py's own start may send commands that are refused
        self.assertGreaterEqual(outcome["refused"], 1)
        self.assertRegex(outcome["peer"], r"127\.0\.0\.1:\d+")
        self.assertNotIn("private", installation.proxy.log)

    def test_what_is_opened_and_tells_of_others_is_a_warning(self) -> None:
        installation = Installation(
            *("--allow-commands", "slowlog,MEMORY|STATS,LASTSAVE,KEYS", "--deny-commands", "ROLE"),
            # otherwise a busy machine has entries in it
            server=RedisServer(valkey, "slowlog-log-slower-than -1"),
        )
        self.addCleanup(installation.stop)
        installation.proxy.logged(r"#warn\] --allow-commands opens SLOWLOG: it deletes entries of all tenants")
        installation.proxy.logged(r"#warn\] --allow-commands opens MEMORY\|STATS: it shows how large the databases of other")
        client = installation.blue()
        self.addCleanup(client.close)
        self.assertEqual(client.slowlog_len(), 0)
        self.assertEqual(client.slowlog_get(), [])
        self.assertTrue(client.slowlog_reset())
        self.assertEqual(len(re.findall("allow-commands opens", installation.proxy.log)), 2)

    def test_ordinary_ends_are_not_told_at_info_and_others_are(self) -> None:
        installation = Installation()
        self.addCleanup(installation.stop)
        installation.blue().ping()
        connection = raw_client(self, installation.proxy.port)
        connection.send(b"*x\r\n")
        installation.proxy.logged(
            r"client \d+ from 127\.0\.0\.1:\d+, not logged in: protocol-error after [\d.]+ s, 0 commands"
        )
        connection.close()
        installation.proxy.stop()
        self.assertNotIn("client-left", installation.proxy.log)
        # Twisted's own lines about ports, which name classes.
        self.assertIn("Server Shut Down.", installation.proxy.log)
        self.assertNotRegex(installation.proxy.log, r" starting on \d|Port \d+ Closed|Scheduling retry")

    def test_a_storm_of_faults_is_not_a_storm_of_lines(self) -> None:
        installation = Installation()
        self.addCleanup(installation.stop)
        for _ in range(300):
            with RawClient(installation.proxy.port) as connection:
                self.assertIn(b"-ERR Protocol error", connection.ask(b"*x\r\n"))
        logged = len(re.findall("protocol-error after", installation.proxy.log))
        self.assertGreater(logged, 0)
        self.assertLess(logged, 200)

    def test_a_noisy_tenant_does_not_hide_what_others_are_refused(self) -> None:
        for processes in ("1", "2"):
            with self.subTest(processes=processes):
                self.a_noisy_tenant(processes)

    def a_noisy_tenant(self, processes: str) -> None:
        installation = Installation("--processes", processes)
        self.addCleanup(installation.stop)

        def refused(password: str, count: int) -> None:
            with RawClient(installation.proxy.port) as connection:
                connection.send(f"AUTH {password}\r\n".encode() + b"CONFIG REWRITE\r\n" * count + b"QUIT\r\n")
                self.assertEqual(connection.rest().count(b"-NOPERM"), count)

        for _ in range(10):
            for _ in range(10):
                refused(Installation.BLUE, 10)
            refused(Installation.GREEN, 1)
        installation.proxy.stop()
        log = installation.proxy.log
        self.assertEqual(len(re.findall(r"refused config\|rewrite to team-green/", log)), 10)
        logged = len(re.findall(r"refused config\|rewrite to team-blue/", log))
        left_out = sum(map(int, re.findall(r"([0-9]+) lines about team-blue were left out: they came too fast", log)))
        self.assertEqual(logged + left_out, 1000)
        self.assertGreater(left_out, 200)
        self.assertLessEqual(len(re.findall("were left out", log)), 2 * int(processes) + 4)

    def test_no_password_is_ever_told(self) -> None:
        server = RedisServer(password="master-secret-word").start()
        self.addCleanup(server.stop)
        documents = [
            master(server.url),
            *tenant("team-blue", 3, "tenant-secret-word"),
            *tenant("team-same", 4, "tenant-secret-word"),
            *tenant("team-bad", "x", "malformed-secret-word"),
        ]
        manifests = Manifests(documents)
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path), "--log-level", "debug").ready()
        self.addCleanup(proxy.stop)
        proxy.logged("team-bad/redis-secret-master: redis-connection-string does not end in /N")
        proxy.logged("it has the same password as team-same")
        with RawClient(proxy.port) as connection:
            connection.send(b"AUTH typed-secret-word\r\nAUTH team-blue tenant-secret-word\r\n*1\r\n$-secret-word\r\n")
            connection.rest()
        proxy.stop()
        self.assertNotIn("secret-word", proxy.log)
