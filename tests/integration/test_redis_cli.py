"""Tests redis-cli, typed by a person and called by scripts, through a real twistd process to Redis
7.0.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import pexpect

from ..support.proxy import Installation
from ..support.servers import RedisServer, debian, redis_7

REFUSED = "is not available here: it reaches beyond the tenant's own database"


@functools.cache
def installation() -> Installation:
    """Returns an installation with Debian's Redis, to which this redis-cli belongs. All tests share
    it and its few keys.
    """
    made = Installation(server=RedisServer(redis_7))
    atexit.register(made.stop)
    blue = made.blue()
    blue.set("greeting", "hello")
    blue.hset("hash", mapping={"field": "value"})
    blue.rpush("list", *range(100))
    for number in range(300):
        blue.set(f"key:{number}", "x" * number)
    blue.close()
    return made


class RedisCliTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.cli = debian("redis-cli")
        self.installation = installation()
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))

    def environ(self, password: str | None) -> dict[str, str]:
        """Returns an environment without the history and the settings of the user who runs the
        tests.
        """
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REDISCLI_")}
        if password is not None:
            environ["REDISCLI_AUTH"] = password
        return environ | {"HOME": str(self.home), "TERM": "xterm"}

    def run_cli(self, *arguments: str, stdin: str = "", straight: bool = False, index: str = "3") -> str:
        """Returns what redis-cli prints. straight: connect directly to Redis, as its master."""
        server = self.installation.server
        port, password = (server.port, server.password) if straight else (self.installation.proxy.port, Installation.BLUE)
        command = [self.cli, "-p", str(port), "-n", index, *arguments]
        ran = subprocess.run(
            command, input=stdin, text=True, capture_output=True, timeout=180, env=self.environ(password), check=False
        )
        return ran.stdout + ran.stderr


class CallsTests(RedisCliTestCase):
    """One call for one task."""

    def assertSame(self, *arguments: str, stdin: str = "") -> str:
        """Asserts that redis-cli prints the same through the proxy and directly, and returns
        that.
        """
        through, straight = (self.run_cli(*arguments, stdin=stdin, straight=straight) for straight in (False, True))
        self.assertEqual(through, straight)
        return through

    def test_commands(self) -> None:
        self.assertEqual(self.assertSame("GET", "greeting"), "hello\n")
        for form in ("-3", "--json", "--csv", "--no-raw", "-c"):
            for words in (("HGETALL", "hash"), ("GET", "none"), ("GET",), ("LRANGE", "list", "0", "2")):
                self.assertSame(form, *words)
        self.assertSame("-r", "3", "-i", "0.01", "STRLEN", "key:7")
        self.assertSame("-x", "SET", "large", stdin="several\nlines\n")
        self.assertSame("-X", "TAG", "SET", "large", "TAG", stdin="several\nlines\n")
        self.assertSame("DEL", "none")
        self.assertSame("COMMAND", "DOCS", "GET")
        where = f"127.0.0.1:{self.installation.proxy.port}"
        self.assertIn("is not configured as a cluster node", self.run_cli("--cluster", "check", where))

    def test_ways_to_log_in(self) -> None:
        port = self.installation.proxy.port
        where = f"127.0.0.1:{port}/3"
        for arguments in (
            ("-a", Installation.BLUE),
            ("--pass", Installation.BLUE, "--user", "team-blue"),
            ("--pass", Installation.BLUE, "--user", "default", "-n", "3"),
            ("-u", f"redis://:{Installation.BLUE}@{where}"),
            ("-u", f"redis://default:{Installation.BLUE}@{where}"),
            ("-u", f"redis://team-blue:{Installation.BLUE}@{where}", "-3"),
        ):
            command = [self.cli, "-p", str(port), "--no-auth-warning", *arguments, "GET", "greeting"]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=180, env=self.environ(None), check=False)
            self.assertEqual((ran.stdout, ran.stderr), ("hello\n", ""), arguments)

    def test_another_database(self) -> None:
        self.assertIn("SELECT 5 failed: NOPERM this password opens database 3 only", self.run_cli("PING", index="5"))
        self.assertIn("database 3 only", self.run_cli("SELECT", "5"))

    def test_from_standard_input(self) -> None:
        output = self.run_cli(stdin="SET a 1\nSELECT 7\nGET a\nCONFIG SET x y\nGET a\nDEL a\n")
        self.assertEqual([line[:6] for line in output.split("\n") if line], ["OK", "NOPERM", "1", "NOPERM", "1", "1"])

    def test_pipe_mode(self) -> None:
        commands = "".join(f"SET key:{n} {n}\r\n" for n in range(300)) * 7
        self.assertIn("errors: 0, replies: 2100", self.run_cli("--pipe", stdin=commands))
        self.assertIn("errors: 1, replies: 3", self.run_cli("--pipe", stdin="PING\r\nSELECT 5\r\nPING\r\n"))

    def test_scan(self) -> None:
        keys = [f"key:{number}" for number in range(300)]
        self.assertEqual(sorted(self.run_cli("--scan", "--pattern", "key:*").split()), sorted(keys))
        self.assertLessEqual({*keys, "greeting", "hash", "list"}, set(self.run_cli("--scan").split()))

    def test_big_keys(self) -> None:
        output = self.run_cli("--bigkeys")
        self.assertIn("""Biggest   list found '"list"' has 100 items""", output)
        self.assertIn("""Biggest   hash found '"hash"' has 1 fields""", output)
        self.assertIn("""Biggest   list found '"list"' has""", self.run_cli("--memkeys"))

    def test_hot_keys(self) -> None:
        self.assertIn("ERR An LFU maxmemory policy is not selected", self.assertSame("--hotkeys"))

    def test_latency(self) -> None:
        # Without a terminal redis-cli measures for a second and prints minimum, maximum, average
        # and count.
        words = self.run_cli("--latency", "-i", "0.2").split()
        self.assertEqual(len(words), 4)
        self.assertGreater(int(words[3]), 0)

    def test_scripts(self) -> None:
        script = self.home / "script.lua"
        script.write_text("return {KEYS[1], ARGV[1], redis.call('GET', KEYS[1])}")
        self.assertEqual(self.assertSame("--eval", str(script), "greeting", ",", "argument"), "greeting\nargument\nhello\n")

    def test_what_is_about_the_whole_server_is_refused_cleanly(self) -> None:
        dump = self.home / "dump.rdb"
        for words in (("--rdb", str(dump)), ("--replica",), ("SYNC",)):
            self.assertIn(f"SYNC with master failed: -NOPERM the command 'sync' {REFUSED}", self.run_cli(*words))
        self.assertFalse(dump.exists())
        for words in (
            ("MONITOR",),
            ("DEBUG", "SLEEP", "0"),
            ("CLIENT", "PAUSE", "1"),
            ("SHUTDOWN",),
            ("SLOWLOG", "RESET"),
            ("CONFIG", "REWRITE"),
        ):
            self.assertIn(REFUSED, self.run_cli(*words), words)


class TerminalTests(RedisCliTestCase):
    """redis-cli in a terminal."""

    def begin(self, *arguments: str, password: str | None = Installation.BLUE) -> pexpect.spawn:
        port = str(self.installation.proxy.port)
        session = pexpect.spawn(
            self.cli,
            ["-p", port, *arguments],
            env=self.environ(password),
            timeout=20,
            encoding="utf-8",
            dimensions=(50, 200),
        )
        self.addCleanup(session.close, force=True)
        self.prompt = f"127.0.0.1:{port}"
        return session

    def says(self, session: pexpect.spawn, line: str, *answer: str, prompt: str = "[3]> ") -> None:
        """Types a line, and waits for the lines of the answer and then the prompt."""
        session.send(line + "\r")
        self.hears(session, *answer, prompt=prompt)

    def hears(self, session: pexpect.spawn, *answer: str, prompt: str = "[3]> ") -> None:
        for part in answer:
            session.expect_exact(part)
        session.expect_exact(self.prompt + prompt)

    def types(self, session: pexpect.spawn, text: str, hint: str) -> None:
        """Types without Enter, waits for the grey hint after the text, and clears the line."""
        session.send(text)
        session.expect_exact(f"\x1b[0;90;49m{hint}\x1b[0m")
        session.send("\x15")

    def test_a_session(self) -> None:
        session = self.begin("-n", "3")
        self.hears(session)
        self.types(session, "get", " key")  # from COMMAND DOCS
        self.types(session, "hset greeting ", "field value [field value ...]")
        self.says(session, "get greeting", '"hello"')
        self.says(session, "hgetall hash", '1) "field"', '2) "value"')
        self.says(session, "help get", "Get the value of a key")
        self.says(session, "select 5", "(error) NOPERM this password opens database 3 only")
        self.says(session, "config rewrite", f"(error) NOPERM the command 'config|rewrite' {REFUSED}")
        self.says(session, "slowlog reset", f"NOPERM the command 'slowlog|reset' {REFUSED}")
        self.says(session, "multi", "OK", prompt="[3](TX)> ")
        self.says(session, "get greeting", "QUEUED", prompt="[3](TX)> ")
        self.says(session, "exec", '1) "hello"')
        self.says(session, "lolwut", "Redis ver. 7.0")
        session.send("quit\r")
        session.expect(pexpect.EOF)

    def test_a_log_in_by_hand(self) -> None:
        session = self.begin(password=None)
        self.hears(session, prompt="> ")
        self.says(session, "get greeting", "(error) NOAUTH Authentication required.", prompt="> ")
        self.says(session, "auth wrong", "(error) WRONGPASS", prompt="> ")
        self.says(session, f"auth {Installation.BLUE}", "OK", prompt="> ")
        self.says(session, "get greeting", '"hello"', prompt="> ")
        self.says(session, "select 3", "OK")
        self.says(session, "reset", "RESET", prompt="> ")
        self.says(session, "get greeting", "(error) NOAUTH", prompt="> ")

    def test_a_refused_monitor_leaves_the_session_as_it_was(self) -> None:
        for arguments in ((), ("-3",)):
            session = self.begin("-n", "3", *arguments)
            self.hears(session)
            self.says(session, "monitor", f"(error) NOPERM the command 'monitor' {REFUSED}")
            self.says(session, "get greeting", '"hello"')

    def test_a_subscription_ends_with_control_c(self) -> None:
        for arguments, kinds in (((), ("subscribe", "psubscribe")), (("-3",), ("subscribe", "ssubscribe"))):
            session = self.begin("-n", "3", *arguments)
            self.hears(session)
            for kind in kinds:
                session.send(f"{kind} news\r")
                self.expect_all(session, f'"{kind}"', '"news"', "(integer) 1")
                publish = "SPUBLISH" if kind == "ssubscribe" else "PUBLISH"
                self.assertEqual(self.run_cli(publish, "news", "told"), "1\n")
                self.expect_all(session, 'message"', '"news"', '"told"')
                session.sendintr()
                self.hears(session)
                self.says(session, "get greeting", '"hello"')

    def expect_all(self, session: pexpect.spawn, *parts: str) -> None:
        for part in parts:
            session.expect_exact(part)

    def test_latency_goes_on_until_control_c(self) -> None:
        session = self.begin("-n", "3", "--latency")
        session.expect(r"min: \d+, max: \d+, avg: \d+\.\d+ \(5 samples\)")
        session.sendintr()
        session.expect(pexpect.EOF)

    def test_statistics(self) -> None:
        session = self.begin("-n", "3", "--stat", "-i", "0.05")
        # Keys, memory, clients, blocked clients, requests, connections.
        session.expect(r"(?m)^\d+ +[\d.]+M +[1-9]\d* +0 +[1-9]\d* \(\+\d+\) +[1-9]\d* ")
        session.sendintr()
