"""Tests the proxy before its first snapshot: its port is bound, and refuses connections as the port
of a Redis that is not started.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import time
import unittest
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import redis

from ..support.apiserver import ANY, ApiServer, refusal
from ..support.haproxy import BALANCER, HAProxy
from ..support.proxy import ProxyProcess, master, tenant
from ..support.servers import RedisServer, free_port
from ..support.waiting import LIMIT, until

BLUE = "blue-password"


def ticks(pid: int) -> int:
    """Returns the processor time of a process, in ticks of the kernel (100 a second)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class FirstSnapshotTests(unittest.TestCase):
    processes = "1"

    def setUp(self) -> None:
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        self.api = ApiServer(master(self.server.url), *tenant("team-blue", 3, BLUE))
        self.addCleanup(self.api.remove)
        self.port = free_port()
        self.endpoint = f"tcp:{self.port}:interface=127.0.0.1"

    def start(self, *options: str, listen: str = "") -> ProxyProcess:
        """Starts the proxy while the Kubernetes API is away, and waits until it has asked the
        API.
        """
        proxy = ProxyProcess(
            *("--processes", self.processes, *options),
            environ={"KUBECONFIG": str(self.api.kubeconfig)},
            listen=listen or self.endpoint,
        )
        self.addCleanup(lambda: self.assertNotIn("Traceback", proxy.log))
        self.addCleanup(proxy.stop)
        proxy.logged("all namespaces and the master secret: not read")
        return proxy

    def load(self, proxy: ProxyProcess) -> None:
        """Starts the Kubernetes API, and has the proxy read it."""
        self.api.start()
        proxy.refresh()

    def refuses(self, address: object = None) -> bool:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as probe:
            return probe.connect_ex(address or ("127.0.0.1", self.port)) != 0

    def test_it_refuses_connections_and_serves_from_the_first_snapshot_on(self) -> None:
        proxy = self.start("--status", "tcp:0")
        status = proxy.logged(r"the status page is at (\S+)")[1]
        self.assertTrue(self.refuses())
        self.assertNotIn("listening on", proxy.log)
        with self.assertRaises(HTTPError) as caught:
            urlopen(f"http://{status}/readyz", timeout=LIMIT)
        self.assertEqual(caught.exception.code, 503)
        with urlopen(f"http://{status}/livez", timeout=LIMIT) as alive:
            self.assertEqual(alive.status, 200)
        # Another failed read changes nothing.
        self.api.fail(ANY, refusal(500, BLUE))
        self.load(proxy)
        proxy.logged("500")
        self.assertTrue(self.refuses())
        # redis-py tries again, as with a Redis that starts.
        client = redis.Redis(port=self.port, password=BLUE, db=3)
        self.addCleanup(client.close)
        with self.assertRaisesRegex(redis.ConnectionError, "Connection refused"):
            client.ping()
        self.api.fix()
        proxy.refresh()
        until(lambda: not self.refuses(), "it listens")
        self.assertTrue(client.set("a", 1))
        self.assertEqual(self.server.client(3).get("a"), b"1")
        self.assertEqual(len(re.findall(rf"listening on 127.0.0.1:{self.port}", proxy.log)), 1)
        self.assertNotIn("refused:", proxy.log)

    def test_it_listens_although_redis_is_away(self) -> None:
        proxy = self.start()
        self.server.stop()
        self.load(proxy)
        proxy.logged("listening on")
        self.assertFalse(self.refuses())

    def test_it_waits_without_work(self) -> None:
        """A socket that does not listen is not polled: epoll would report it again and again."""
        proxy = self.start()
        if self.processes != "1":
            until(lambda: len(proxy.workers) == 2, "both workers wait")
        pids = [proxy.process.pid, *proxy.workers.values()]

        def quiet() -> bool:
            before = [ticks(pid) for pid in pids]
            time.sleep(0.5)
            return all(ticks(pid) - earlier < 10 for pid, earlier in zip(pids, before, strict=True))

        until(quiet, "nothing works")

    def test_sigterm(self) -> None:
        proxy = self.start("--drain-delay", "3")
        if self.processes != "1":
            until(lambda: len(proxy.workers) == 2, "both workers wait")
        proxy.process.send_signal(signal.SIGTERM)
        # A snapshot that comes now opens nothing.
        self.load(proxy)
        proxy.logged("1 tenants with 1 credentials")
        self.assertTrue(self.refuses())
        self.assertEqual(proxy.process.wait(LIMIT), 0)
        self.assertNotIn("listening on", proxy.log)
        self.assertNotIn("another is started", proxy.log)

    def test_two_that_wait_for_one_port(self) -> None:
        """Both can bind it. The one whose snapshot comes later ends with an error."""
        both = [self.start(), self.start()]
        # Each also reads again by itself, so either may be the first.
        self.api.start()
        ends = "the proxy ends: "
        until(lambda: any(ends in proxy.log for proxy in both), "one cannot listen")
        (first,) = [proxy for proxy in both if ends not in proxy.log]
        (second,) = [proxy for proxy in both if ends in proxy.log]
        second.logged(
            rf"{ends}cannot listen on {self.endpoint}: \[Errno 98\] Address already in use; "
            "choose another endpoint with --listen"
        )
        self.assertEqual(second.process.wait(LIMIT), 1)
        self.assertNotIn("listening on", second.log)
        self.assertTrue(first.client(BLUE, 3).ping())

    def test_a_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/proxy.sock"
            proxy = self.start(listen=f"unix:{path}:mode=600")
            self.assertEqual(Path(path).stat().st_mode & 0o777, 0o600)
            self.assertTrue(self.refuses(path))
            self.load(proxy)
            proxy.logged("listening on")
            with redis.Redis(unix_socket_path=path, password=BLUE, db=3) as client:
                self.assertTrue(client.ping())
            self.assertEqual(Path(path).stat().st_mode & 0o777, 0o600)
            self.assertEqual(proxy.stop(), 0)
            self.assertEqual(list(Path(directory).iterdir()), [])

    def test_a_load_balancer_sees_that_nobody_serves(self) -> None:
        proxy = self.start("--trust-proxy", f"{BALANCER}/32", listen=f"haproxy:{self.endpoint}")
        haproxy = HAProxy(
            "listen one\n  bind 127.0.0.1:PORT\n"
            f"  server a 127.0.0.1:{self.port} source {BALANCER} send-proxy-v2 check inter 50ms\n"
        )
        self.addCleanup(haproxy.stop)
        until(lambda: haproxy.states()["one", "a"] == ("DOWN", "L4CON"), "its check is refused")
        self.load(proxy)
        until(lambda: haproxy.states()["one", "a"] == ("UP", "L4OK"), "its check is accepted")
        with redis.Redis(port=haproxy.port, password=BLUE, db=3) as client:
            self.assertTrue(client.ping())


class SeveralProcessesTests(FirstSnapshotTests):
    processes = "2"

    def test_a_worker_that_ends_before_the_first_snapshot_is_replaced(self) -> None:
        proxy = self.start()
        until(lambda: len(proxy.workers) == 2, "both workers wait")
        first = proxy.workers[1]
        os.kill(first, signal.SIGKILL)
        until(lambda: proxy.workers[1] != first, "another one waits")
        self.assertTrue(self.refuses())
        self.load(proxy)
        proxy.logged("listening on")
        found = set()

        def at_both() -> bool:
            with redis.Redis(port=self.port, password=BLUE, db=3) as client:
                found.add(client.client_id() % 2)
            return len(found) == 2

        until(at_both, "both serve")
        # A worker that is started later accepts at once.
        os.kill(proxy.workers[1], signal.SIGKILL)
        second = proxy.workers[2]
        os.kill(second, signal.SIGKILL)
        until(lambda: proxy.workers[2] != second, "another one serves")
        with redis.Redis(port=self.port, password=BLUE, db=3) as client:
            self.assertTrue(client.ping())
