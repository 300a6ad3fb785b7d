"""Tests the status endpoint of a real process, over real HTTP and in a real browser."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import struct
import tempfile
import time
import unittest
from pathlib import Path

import redis

from redisproxy import messages
from redisproxy.ops import http_port
from redisproxy.ops.history import SAMPLES, History
from redisproxy.ops.page import PageContent, render
from redisproxy.ops.problems import open_problems

from ..support.browser import Browser, chromium
from ..support.proxy import Installation, secret, tenant
from ..support.reasons import reason, set_fault, set_unready
from ..support.stats import redis_seconds, stats, tenant_stats
from ..support.status import ask, metrics, status_port
from ..support.waiting import LIMIT, until

EVIL = "<script>document.title='owned'</script>"


def own_address() -> str:
    """Returns an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            raise unittest.SkipTest("this machine has no address but loopback") from None
        return probe.getsockname()[0]


class StatusTests(unittest.TestCase):
    def start(self, *options: str) -> int:
        self.installation = Installation("--status", "tcp:0", *options)
        self.addCleanup(self.installation.stop)
        return status_port(self.installation)

    def test_what_clients_do_is_counted(self) -> None:
        port = self.start("--connections", "multiplexed")  # there the proxy samples how long Redis takes
        blue = self.installation.blue(single_connection_client=True)
        self.addCleanup(blue.close)
        with blue.pipeline(transaction=False) as pipe:
            for number in range(500):
                pipe.set(f"key:{number}", "x" * 100)
            pipe.execute()
        blue.publish("channel", "message")
        for _ in range(3):
            with self.assertRaises(redis.ResponseError):
                blue.execute_command("CONFIG", "REWRITE")
        with self.assertRaises(redis.AuthenticationError):
            self.installation.proxy.client("wrong").ping()
        found = metrics(port)

        def of(name: str, **labels: str) -> float:
            return found[f"redisproxy_{name}", frozenset(labels.items())]

        self.assertEqual(of("commands_total", namespace="team-blue", family="plain"), 500)
        self.assertEqual(of("commands_total", namespace="team-blue", family="pubsub"), 1)
        self.assertEqual(of("commands_refused_total", namespace="team-blue", family="server"), 3)
        self.assertEqual(of("commands_refused_by_name_total", command="CONFIG|REWRITE"), 3)
        self.assertGreater(of("client_received_bytes_total", namespace="team-blue"), 500 * 100)
        self.assertGreaterEqual(of("redis_received_bytes_total", namespace="team-blue"), 500 * len("+OK\r\n"))
        self.assertGreaterEqual(of("tenant_sessions", namespace="team-blue"), 1)
        self.assertGreaterEqual(of("logins_total", outcome="wrong"), 1)
        self.assertEqual((of("ready"), of("redis_up"), of("isolation_layers"), of("tenants")), (1, 1, 2, 2))
        # The proxy measures Redis only while a client uses it.
        until(lambda: blue.ping() and metrics(port)["redisproxy_redis_response_seconds_count", frozenset()], "a sample")
        timed = "redisproxy_tenant_response_seconds_count", frozenset({("namespace", "team-blue")})
        until(lambda: blue.ping() and metrics(port).get(timed), "the tenant's commands are timed")
        # The counts of a session outlast the session.
        blue.close()
        blue.connection_pool.disconnect()
        until(lambda: not metrics(port)["redisproxy_tenant_sessions", frozenset({("namespace", "team-blue")})], "it left")
        self.assertGreaterEqual(
            metrics(port)["redisproxy_commands_total", frozenset({("namespace", "team-blue"), ("family", "plain")})], 500
        )

    def test_limits_that_redis_does_not_have(self) -> None:
        port = self.start("--processes", "2")
        until(lambda: "has no maxmemory" in ask(port, "/")[2], "the page warns")

    def test_of_several_processes_it_is_the_sum(self) -> None:
        port = self.start("--processes", "2")
        until(lambda: ask(port, "/readyz")[0] == 200, "ready")
        clients = [self.installation.blue(single_connection_client=True) for _ in range(6)]
        for client in clients:
            self.addCleanup(client.close)
            for _ in range(10):
                client.set("key", "value")
            with self.assertRaises(redis.ResponseError):
                client.execute_command("MONITOR")
        for _ in range(4):
            with self.assertRaises(redis.AuthenticationError):
                self.installation.proxy.client("wrong", username="team-blue").ping()
        plain = "redisproxy_commands_total", frozenset({("namespace", "team-blue"), ("family", "plain")})
        until(lambda: metrics(port).get(plain) == 60, "all commands are counted")
        blue = frozenset({("namespace", "team-blue")})
        timed = "redisproxy_tenant_response_seconds_count", blue
        until(lambda: [client.get("key") for client in clients] and metrics(port).get(timed), "commands are timed")
        refused = "redisproxy_commands_refused_by_name_total", frozenset({("command", "MONITOR")})
        wrong = "redisproxy_tenant_wrong_passwords_total", blue
        until(lambda: (metrics(port).get(refused), metrics(port).get(wrong)) == (6, 4), "what was refused is counted")
        commands = metrics(port)[plain]
        # The counts of a worker outlast the worker.
        os.kill(self.installation.proxy.workers[1], signal.SIGKILL)
        self.installation.proxy.logged("ended with signal SIGKILL")
        found = metrics(port)
        self.assertGreaterEqual(found[plain], commands)
        self.assertEqual((found[refused], found[wrong]), (6, 4))
        page = ask(port, "/")[2]
        self.assertIn("<td>MONITOR</td><td>6</td><td>team-blue 6</td>", page)
        self.assertIn("team-blue 4, by their user names", page)
        # The number of workers, and the memory of each.
        until(lambda: metrics(port)["redisproxy_workers", frozenset()] == 2, "another serves")
        found = metrics(port)
        self.assertEqual(found["redisproxy_workers_wanted", frozenset()], 2)
        self.assertEqual(found["redisproxy_worker_restarts_total", frozenset()], 1)
        for number in ("1", "2"):
            self.assertGreater(
                found["redisproxy_worker_process_resident_memory_bytes", frozenset({("worker", number)})], 1 << 20
            )
        self.assertRegex(ask(port, "/")[2], r"<dt>Workers</dt>.*2 of 2.*1 restarts")

    def test_probes_say_what_is_wrong(self) -> None:
        port = self.start("--hold-seconds", "0.1")
        until(lambda: ask(port, "/readyz")[0] == 200, "ready")
        self.installation.server.kill()
        until(lambda: ask(port, "/readyz")[0] == 503, "not ready")
        self.assertEqual(ask(port, "/readyz")[2], "the proxy cannot use Redis\n")
        self.assertEqual(ask(port, "/livez")[0], 200)
        until(lambda: "cannot be reached: ConnectionRefusedError" in ask(port, "/")[2], "the page has the cause")
        page = ask(port, "/")[2]
        self.assertRegex(
            page,
            r"Not ready, since 20\d\d-[^<]* UTC \([^<]* s\): the proxy cannot use Redis: redis://127\.0\.0\.1:\d+ cannot",
        )
        self.assertIn("Nothing listens at that address", page)
        self.assertIn('<a href="runbooks/RedisProxyRedisUnreachable">', page)
        self.assertNotIn("None.", page)
        self.assertIn("# RedisProxyRedisUnreachable", ask(port, "/runbooks/RedisProxyRedisUnreachable")[2])
        self.installation.server.start()
        until(lambda: ask(port, "/readyz")[0] == 200, "ready again")

    def test_a_redis_that_hangs_is_told(self) -> None:
        """A hung Redis keeps its connections open, so only a PING shows it."""
        port = self.start()
        until(lambda: ask(port, "/readyz")[0] == 200, "ready")
        os.kill(self.installation.server.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.installation.server.pid, signal.SIGCONT)
        self.installation.proxy.logged("Redis has not answered a PING for more than 6 s: commands wait")
        found = metrics(port)
        self.assertEqual(found["redisproxy_redis_up", frozenset()], 0)
        self.assertEqual(found["redisproxy_redis_state", frozenset({("state", "hung")})], 1)
        self.assertGreater(found["redisproxy_redis_unanswered_seconds", frozenset()], 5)
        page = ask(port, "/")[2]
        self.assertRegex(page, r'<span class="bad">has not answered for \d+ s</span>')
        self.assertIn('<a href="runbooks/RedisProxyRedisHung">', page)
        os.kill(self.installation.server.pid, signal.SIGCONT)
        self.installation.proxy.logged("Redis answers as usual again")
        self.assertEqual(metrics(port)["redisproxy_redis_up", frozenset()], 1)

    def test_on_loopback_a_name_of_another_site_is_refused(self) -> None:
        port = self.start()
        for path in ("/", "/metrics"):
            self.assertEqual(ask(port, path, Host="evil.example:9180")[0], 403)
            for host in ("localhost:1", "127.0.0.1", "[::1]:9"):
                self.assertEqual(ask(port, path, Host=host)[0], 200)
        until(lambda: ask(port, "/readyz", Host="10.1.2.3")[0] == 200, "ready")

    def test_elsewhere_it_takes_the_token_which_can_be_another_later(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        token = Path(directory.name) / "token"
        token.write_text("first-status-token\n")
        port = self.start("--status", "tcp:0:interface=0.0.0.0", "--status-token-file", str(token))
        self.assertEqual(ask(port, "/livez")[0], 200)
        status, headers, _ = ask(port, "/metrics")
        self.assertEqual(status, 401)
        self.assertEqual(headers.get_all("www-authenticate"), ["Bearer", 'Basic realm="redisproxy"'])
        self.assertEqual(ask(port, "/metrics", Authorization="Bearer wrong")[0], 401)
        self.assertEqual(ask(port, "/metrics", Authorization="Bearer first-status-token")[0], 200)
        basic = base64.b64encode(b"anybody:first-status-token").decode()
        self.assertEqual(ask(port, "/", Authorization=f"Basic {basic}", Host="proxy.example")[0], 200)
        for broken in ("Basic !!", "Basic", "Bearer", "Digest x", "Bearer \xff"):
            self.assertEqual(ask(port, "/", Authorization=broken)[0], 401)
        token.write_text("second-status-token")
        self.assertEqual(ask(port, "/", Authorization="Bearer first-status-token")[0], 401)
        self.assertEqual(ask(port, "/", Authorization="Bearer second-status-token")[0], 200)
        token.unlink()
        self.assertEqual(ask(port, "/", Authorization="Bearer ")[0], 503)
        self.assertNotIn("status-token\n", self.installation.proxy.log)

    def test_elsewhere_without_a_token_only_probes_are_answered(self) -> None:
        port = self.start("--status", "tcp:0:interface=0.0.0.0")
        until(lambda: ask(port, "/readyz")[0] == 200, "ready")
        for path in ("/", "/metrics"):
            # A client on the same machine may ask, as if the endpoint listened on loopback: kubectl
            # port-forward leads there.
            self.assertEqual(ask(port, path)[0], 200)
            status, _, text = ask(port, path, host=own_address())
            self.assertEqual(status, 403)
            self.assertIn("--status-token-file", text)
        self.assertEqual(ask(port, "/livez", host=own_address())[0], 200)

    def test_what_is_not_asked_for_is_not_there(self) -> None:
        port = self.start()
        for path in ("/nothing", "/metrics/x", "//", "/livez/x", "/..%2f"):
            self.assertEqual(ask(port, path)[0], 404, path)
        self.assertNotIn("GET /", self.installation.proxy.log)

    def attack(self, port: int, data: bytes = b"") -> socket.socket:
        """Connects from another address than the probes, and sends these bytes."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=LIMIT, source_address=("127.0.0.2", 0))
        self.addCleanup(connection.close)
        connection.sendall(data)
        return connection

    def test_connections_that_send_little_make_room(self) -> None:
        port = self.start()
        blue = self.installation.blue()
        held = []
        for _ in range(6):
            held += [self.attack(port, b"GET /li") for _ in range(http_port.CONNECTIONS // 4)]
            self.assertEqual(ask(port, "/livez")[0], 200)
        self.assertTrue(blue.ping())
        # The oldest of them has made room.
        held[0].settimeout(LIMIT)
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(held[0].recv(1), b"")

    def test_pipelines_do_not_hold_up_tenants_or_probes(self) -> None:
        port = self.start()
        blue = self.installation.blue()
        request = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
        pipelines = []
        for _ in range(60):
            pipelines.append(self.attack(port, request * (http_port.HEAD_BYTES // len(request))))
        # All these answers take seconds, and Twisted alone would write each pipeline's in one turn.
        for _ in range(10):
            self.assertTrue(blue.ping())
            self.assertEqual(ask(port, "/livez")[0], 200)
        answered = 0
        for pipeline in pipelines:
            pipeline.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while data := pipeline.recv(1 << 20):
                    answered += data.count(b"HTTP/1.1 404")
        self.assertLess(answered, len(pipelines) * (http_port.HEAD_BYTES // len(request)) / 2)
        self.assertNotIn("nowhere", self.installation.proxy.log)

    def test_what_attackers_do_leaves_no_line_in_the_log(self) -> None:
        port = self.start()
        until(lambda: ask(port, "/readyz")[0] == 200, "ready")
        before = self.installation.proxy.log
        for data in (
            b"nonsense\r\n\r\n",
            b"\r\n\r\n",
            b"GET /%ff%00?x=%zz&a=b HTTP/1.1\r\n\r\n",
            b"BREW / HTTP/1.1\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: \xff[\r\nAuthorization: Basic \xff\r\nCookie: =;=\r\n\r\n",
            b"GET http://[ HTTP/1.1\r\n\r\n",
            b"x" * (http_port.HEAD_BYTES + 1),
        ):
            connection = self.attack(port, data)
            connection.settimeout(LIMIT)
            with contextlib.suppress(ConnectionResetError):
                connection.recv(65536)
            connection.close()
        self.assertEqual(ask(port, "/livez")[0], 200)
        self.assertEqual(self.installation.proxy.log, before)

    def test_a_body_is_not_taken(self) -> None:
        port = self.start()
        for head in (b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"):
            connection = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
            self.addCleanup(connection.close)
            connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % head)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionResetError:
                pass

    def test_bad_settings_are_named(self) -> None:
        for options, text in (
            (("--status", "tcp:x"), "--status is 'tcp:x"),
            (("--status", "tcp:1 tcp:2"), "it takes one Twisted endpoint"),
            (("--status", "tcp:0", "--status-token-file", "/nowhere"), "--status-token-file is '/nowhere'"),
            (("--status", "tcp:0", "--status-token-file", "/dev/null"), "--status-token-file"),
        ):
            from ..support.proxy import ProxyProcess

            proxy = ProxyProcess("--embedded", *options)
            self.addCleanup(proxy.stop)
            self.assertEqual(proxy.process.wait(LIMIT), 1)
            proxy._reader.join(5)
            self.assertIn(text, proxy.log)
            self.assertNotIn("Traceback", proxy.log)


#: What to do about the secret redis-secret-temp-odd.
FIX = messages.URL_UNESCAPED.remedy


class BrowserTests(unittest.TestCase):
    """Headless Chromium with a real proxy."""

    def setUp(self) -> None:
        chromium()
        self.installation = Installation("--status", "tcp:0", fresh=True)
        self.addCleanup(self.installation.stop)
        (namespace, _) = tenant("team-new", 9, "unused")
        self.installation.manifests.write(
            [
                *self.installation.documents(),
                namespace,
                secret("team-blue", "redis-secret-temp-odd", redis_connection_string=f"redis://:{EVIL}@x:1/3?{EVIL}"),
                secret(
                    "team-green",
                    "redis-secret-temp-hours",
                    time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    redis_connection_string="redis://:p@x:1/5",
                    valid_hours="5",
                ),
            ]
        )
        self.installation.proxy.refresh()
        self.installation.proxy.logged("redis-secret-temp-odd")
        self.url = f"http://127.0.0.1:{status_port(self.installation)}/"

    def browse(self, scripts: bool = True) -> Browser:
        browser = Browser(self.url, scripts)
        self.addCleanup(browser.close)
        return browser

    def test_the_page(self) -> None:
        browser = self.browse()
        self.assertEqual(browser.run("document.title"), "Redis Proxy: ready")
        page = browser.run("document.body.innerText")
        for text in ("team-blue", "redis-secret-temp-odd", FIX, "in 4 h 59 min", "team-new"):
            self.assertIn(text, page)
        html = browser.run("document.documentElement.outerHTML")
        for hidden in ("blue-password", "green-password", self.installation.server.password, EVIL):
            self.assertNotIn(hidden, html)
        # The page's security policy allows its own style and script.
        self.assertEqual(browser.run("getComputedStyle(document.querySelector('dl')).display"), "grid")
        self.assertEqual(browser.run("document.querySelectorAll('.tenants th button').length"), 11)
        self.assertEqual(browser.console, [])
        browser.run("document.querySelector('.problems a').click()")
        browser.loaded()
        self.assertIn("# RedisProxyProblems", browser.run("document.body.innerText"))

    def test_the_order_that_was_chosen_outlasts_the_refresh(self) -> None:
        browser = self.browse()
        namespaces = "Array.from(document.querySelectorAll('.tenants tbody tr')).map(row => row.cells[0].textContent)"
        click = "Array.from(document.querySelectorAll('.tenants button')).find(b => b.textContent === '{}').click()"
        for column, order in (
            ("Database", ["team-green", "team-blue"]),
            ("Database", ["team-blue", "team-green"]),
            ("Credentials", ["team-blue", "team-green"]),
            ("Namespace", ["team-blue", "team-green"]),
            ("Namespace", ["team-green", "team-blue"]),
        ):
            browser.run(click.format(column))
            self.assertEqual(browser.run(namespaces), order, column)
        browser.reload()
        self.assertEqual(browser.run(namespaces), ["team-green", "team-blue"])
        self.assertEqual(
            browser.run("document.querySelector('.tenants [aria-sort]').outerHTML.match(/aria-sort=.(\\w+)/)[1]"),
            "descending",
        )
        browser.loaded()  # the page's own refresh
        self.assertEqual(browser.run(namespaces), ["team-green", "team-blue"])
        self.assertEqual(browser.console, [])

    def test_without_scripts_everything_is_there(self) -> None:
        page = self.browse(scripts=False).run("document.body.innerText")
        for text in ("Tenants (2)", "Namespace", "Commands/s", "team-blue", "team-new", FIX, "Metrics"):
            self.assertIn(text, page)


class WidthTests(unittest.TestCase):
    """Headless Chromium with a page that has much to show."""

    def page(self) -> str:
        """Writes the page to a file, and returns its address."""
        long = "team-catalogue-service-with-a-long-name-of-sixty-three-letters-x"
        tenants = {
            name: tenant_stats(
                sessions=950,
                commands={"plain": 12_345_678_901},
                refused={"server": 123_456},
                refused_names={"CONFIG|SET": 123_456},
                turned_away=12_345,
                throttled=98_765.0,
                held=3,
            )
            for name in (long, *(f"team-{number}" for number in range(20)))
        }
        found = stats(**tenants)
        found["counts"]["logins"] = {"ok": 10**9, "tenant-full": 123_456, "wrong": 98_765}
        found["counts"]["redis_seconds"] = redis_seconds()
        state = found["state"]
        set_unready(state, messages.REDIS_NO_ANSWER())
        fault = messages.REDIS_UNREACHABLE(address=f"rediss://{long}:6379", reason=reason("x" * 200))
        set_fault(state["redis"], fault, connected=False)
        for tenant_state in state["snapshot"]["tenants"].values():
            tenant_state["limits"] = {"max_connections": 1000, "commands_per_second": 500_000, "bytes_per_second": 10**9}
        state["snapshot"]["problems"] = [
            {"namespace": long, "secret": "s" * 200, "reason": "no " + "y" * 300, "code": "net-other"}
        ]
        state["snapshot"]["without_secret"] = [long] * 5
        history = History()
        for sample in range(SAMPLES):
            for one in tenants.values():
                one["received"] += 10**8 * (sample % 5)
                one["latency"]["counts"]["1.0"] = sample
            history.add(10.0 * sample, found["counts"])
        recent = history.recent(10.0 * SAMPLES, found["counts"])
        pages: list[bytes] = []
        render(PageContent(found, recent, open_problems(found, recent), lambda _: 98_765.0)).addCallback(pages.append)
        file = Path(tempfile.mkdtemp(prefix="redisproxy-test-")) / "page.html"
        self.addCleanup(shutil.rmtree, file.parent)
        file.write_bytes(pages[0])
        return file.as_uri()

    def test_nothing_is_cut_off_at_any_width(self) -> None:
        browser = Browser(self.page())
        self.addCleanup(browser.close)
        for width in (1920, 1500, 1200, 1160, 1159, 800, 400, 320):
            browser.show(width)
            self.assertEqual(
                browser.run(
                    "[document.documentElement.scrollWidth, "
                    "...Array.from(document.querySelectorAll('.scroll')).map(each => each.scrollWidth - each.clientWidth)]"
                ),
                [width, *[0] * 5],
                width,
            )

    def test_light_and_dark(self) -> None:
        browser = Browser(self.page())
        self.addCleanup(browser.close)
        colours = []
        for scheme in ("light", "dark"):
            browser.show(400, 900, scheme)
            colours.append(browser.run("getComputedStyle(document.body).backgroundColor"))
            # The screenshot has the size of the screen.
            self.assertEqual(struct.unpack(">II", browser.screenshot()[16:24]), (400, 900))
        self.assertEqual(colours, ["rgb(246, 247, 249)", "rgb(20, 23, 27)"])
