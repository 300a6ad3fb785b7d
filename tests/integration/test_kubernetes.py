"""Tests the proxy as a real process, with the small Kubernetes API server over HTTP and a real
Redis.
"""

from __future__ import annotations

import functools
import signal
import time
import unittest

import redis
import yaml

from redisproxy.sources.kubernetes_api import TIMEOUT

from ..support.apiserver import ANY, BROKEN, HANG, ApiServer, refusal, secrets_path
from ..support.proxy import ProxyProcess, has_ended, master, secret, tenant
from ..support.servers import RedisServer
from ..support.waiting import until

BLUE, GREEN = "blue-password", "green-password"


class KubernetesTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        self.api = ApiServer(master(self.server.url), *tenant("team-blue", 3, BLUE), *tenant("team-green", 5, GREEN))
        self.addCleanup(self.api.remove)
        self.api.start()

    def start(self, *options: str, ready: bool = True, fresh: bool = False) -> ProxyProcess:
        self.proxy = ProxyProcess(*options, environ={"KUBECONFIG": str(self.api.kubeconfig)}, fresh=fresh)
        self.addCleanup(self.check_log)
        self.addCleanup(self.proxy.stop)
        return self.proxy.ready() if ready else self.proxy

    def check_log(self) -> None:
        """No test's log may have a traceback or a password, and each line must have the form of the
        proxy's log.
        """
        self.assertNotIn("Traceback", self.proxy.log)
        self.assertNotIn("-password", self.proxy.log)
        self.assertNotIn(self.server.password, self.proxy.log)
        for line in self.proxy.lines:
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\S+ \[\S+\] ")

    def client(self, password: str, index: int) -> redis.Redis:
        """Returns a client with one connection, which redis-py does not reopen."""
        client = self.proxy.client(password, index, single_connection_client=True)
        self.addCleanup(client.close)
        return client

    def refusal_of(self, password: str) -> str:
        """Returns the error of a log-in, or an empty string if it succeeds."""
        try:
            with self.proxy.client(password, single_connection_client=True) as client:
                client.ping()
        except redis.RedisError as error:
            return str(error)
        return ""

    def exchanged(self, old: str, new: str) -> None:
        """Waits until the new password is accepted and the old one is refused. With several
        processes, these do not change at the same moment.
        """
        until(lambda: not self.refusal_of(new), "the new password is taken")
        until(lambda: "invalid username-password pair" in self.refusal_of(old), "the old one is refused")

    ended = staticmethod(has_ended)

    def test_what_a_credential_plugin_prints_is_not_logged(self) -> None:
        path = self.api.directory / "plugin"
        user = {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "sh",
                "args": ["-c", "echo hunter2 >&2; exit 1"],
            }
        }
        config = yaml.safe_load(self.api.kubeconfig.read_text())
        config["users"][0]["user"] = user
        path.write_text(yaml.safe_dump(config))
        self.proxy = ProxyProcess(environ={"KUBECONFIG": str(path)})
        self.addCleanup(self.check_log)
        self.addCleanup(self.proxy.stop)
        self.proxy.logged("all namespaces and the master secret: not read: 401 Unauthorized")
        self.proxy.stop()
        self.assertNotIn("hunter2", self.proxy.log)

    def test_a_tenant_is_served(self) -> None:
        self.start(fresh=True)
        blue = self.client(BLUE, 3)
        blue.set("key", "value")
        self.assertEqual(self.server.client(3).get("key"), b"value")
        self.assertIsNone(self.client(GREEN, 5).get("key"))
        self.assertRegex(self.refusal_of("wrong-password"), "invalid username-password pair")

    def test_signals_pick_up_a_rotated_secret_and_end_what_used_the_old(self) -> None:
        self.start("--no-watch")
        green = self.client(GREEN, 5)
        password = BLUE
        for number in (signal.SIGUSR1, signal.SIGHUP):
            blue = self.client(password, 3)
            self.assertTrue(blue.ping())
            old, password = password, f"rotated-password-{number}"
            self.api.put(*tenant("team-blue", 3, password))
            self.assertEqual(self.refusal_of(old), "", "the proxy does not know yet")
            self.proxy.process.send_signal(number)
            until(functools.partial(self.ended, blue), "the session that used the old password ends")
            self.exchanged(old, password)
        self.assertTrue(green.ping())
        self.assertIn("revoked", self.proxy.log)

    def test_a_credential_that_disappears_ends_its_session_alone(self) -> None:
        url = "redis://:temp-password@redis:6379/3"
        self.api.put(secret("team-blue", "redis-secret-temp-a", redis_connection_string=url, valid_hours="1"))
        self.start("--no-watch")
        temporary, blue = self.client("temp-password", 3), self.client(BLUE, 3)
        self.assertTrue(temporary.ping() and blue.ping())
        self.api.delete("team-blue", "redis-secret-temp-a")
        self.proxy.refresh()
        until(functools.partial(self.ended, temporary), "the temporary credential's session ends")
        self.assertTrue(blue.ping())
        self.exchanged("temp-password", BLUE)
        self.api.delete("team-blue")
        self.proxy.refresh()
        until(functools.partial(self.ended, blue), "the sessions of a deleted namespace end")

    def test_the_api_server_goes_away_and_comes_back(self) -> None:
        self.start("--refresh", "1")
        blue = self.client(BLUE, 3)
        blue.set("key", "value")
        self.api.stop()
        self.proxy.logged("all namespaces and the master secret: not read: no answer from http.*: .*Connection refused")
        self.assertEqual(blue.get("key"), b"value")
        self.assertEqual(self.refusal_of(GREEN), "", "the last good answer stays in force")
        self.api.put(*tenant("team-red", 7, "red-password"))
        self.api.start()
        self.proxy.logged("the Kubernetes API can be read again")
        until(lambda: not self.refusal_of("red-password"), "the new tenant is served")
        self.assertEqual(blue.get("key"), b"value")

    def test_the_api_server_is_away_at_the_start(self) -> None:
        self.api.stop()
        self.start(ready=False)
        self.proxy.logged("all namespaces and the master secret: not read")
        self.assertNotIn("listening on", self.proxy.log)
        self.api.start()
        # Nobody sends a signal: the proxy retries by itself.
        self.proxy.logged("2 tenants with 2 credentials, from the Kubernetes API")
        self.proxy.logged("listening on")
        until(lambda: not self.refusal_of(BLUE), "it is ready")

    def test_an_api_server_that_answers_nonsense_costs_nobody_a_session(self) -> None:
        self.start("--refresh", "1")
        blue = self.client(BLUE, 3)
        self.assertTrue(blue.ping())
        for fault in (refusal(401, BLUE), refusal(500, BLUE), refusal(429, BLUE, Retry_After="1"), *BROKEN):
            for path in (ANY, secrets_path("team-blue")):
                self.api.fix()
                self.api.fail(path, fault)
                before = len(self.api.requests)
                self.proxy.refresh()
                until(lambda before=before: len(self.api.requests) > before, "the proxy has asked")
                self.assertTrue(blue.ping())
        self.api.fix()
        self.api.put(*tenant("team-red", 7, "red-password"))
        self.proxy.refresh()
        until(lambda: not self.refusal_of("red-password"), "the new tenant is served")
        self.assertTrue(blue.ping())

    def test_sigterm_while_the_api_hangs(self) -> None:
        """The end does not wait for the thread that waits for the API, not even for one
        time-out.
        """
        self.start()
        self.api.fail(ANY, HANG)
        before = len(self.api.requests)
        self.proxy.refresh()
        until(lambda: len(self.api.requests) > before, "the proxy has asked")
        began = time.monotonic()
        self.assertEqual(self.proxy.stop(), 0)
        self.assertLess(time.monotonic() - began, TIMEOUT[1] / 2)
