"""Tests that the proxy works on while somebody sets the machine's clock. Only the expiry of
credentials follows the clock.
"""

from __future__ import annotations

import re
import signal
import time
import unittest
import urllib.request
from collections.abc import Callable

from ..support.proxy import Installation, has_ended, namespace, secret, tenant
from ..support.raw import RawClient, raw_client
from ..support.waiting import until
from ..support.wall_clock import WallClock

#: Seconds by which the clock is set back.
BACK = 30
#: Seconds for what takes 1 s or 2 s. Much less than BACK, because timers on the wall clock would
#: all be BACK seconds late.
SOON = 15


class WithTemporary(Installation):
    """The first tenant has a second password for an hour."""

    TEMPORARY = "temporary-password"

    def documents(self) -> list[dict]:
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        url = f"redis://:{self.TEMPORARY}@redisproxy:6379/3"
        more = secret("team-blue", "redis-secret-temp-a", created, redis_connection_string=url, valid_hours="1")
        return [*super().documents(), more]


class WallClockTests(unittest.TestCase):
    OPTIONS: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.clock = WallClock()
        self.addCleanup(self.clock.remove)
        options = ("--log-format=json", "--status", "tcp:0", *self.OPTIONS)
        self.installation = WithTemporary(*options, environ=self.clock.environ)
        self.addCleanup(self.installation.stop)
        self.proxy = self.installation.proxy

    def connect(self) -> RawClient:
        return raw_client(self, self.proxy.port, timeout=SOON)

    def ask(self, path: str) -> str:
        address = self.proxy.logged(r"the status page is at ([\d.]+:\d+)")[1]
        with urllib.request.urlopen(f"http://{address}{path}", timeout=SOON) as answer:
            return answer.read().decode()

    def test_set_back(self) -> None:
        backend, *_ = self.installation.documents()
        for number, claim in enumerate((self.revocation, self.rate, self.end), 1):
            claim(backend, lambda number=number: self.clock.set(-BACK * number))

    def revocation(self, backend: dict, set_back: Callable[[], None]) -> None:
        """A revocation still takes effect."""
        blue = self.installation.blue(single_connection_client=True)
        self.assertTrue(blue.ping())
        set_back()
        self.installation.manifests.write([backend, *tenant("team-green", 5, Installation.GREEN)])
        until(lambda: has_ended(blue), "the session of a tenant that is gone is ended", SOON)

    def rate(self, backend: dict, set_back: Callable[[], None]) -> None:
        """A tenant at its limit is still answered."""
        limited = namespace("team-red", annotations={"redisproxy/commands-per-second": "100"})
        self.installation.manifests.write(
            [backend, limited, *tenant("team-red", 7, "red-password")[1:], *tenant("team-green", 5, Installation.GREEN)]
        )
        self.proxy.logged("2 tenants with 2 credentials", SOON)
        until(self.red_logs_in, "the new tenant is known", SOON)
        red = self.connect()
        self.assertEqual(red.ask(b"AUTH red-password\r\n"), b"+OK\r\n")
        # commands of one read are answered; those that follow have to wait for 2 s
        red.send(b"PING\r\n" * 300)
        self.assertEqual([red.reply() for _ in range(300)], [b"+PONG\r\n"] * 300)
        set_back()
        self.assertEqual(red.ask(b"PING\r\n"), b"+PONG\r\n")

    def red_logs_in(self) -> bool:
        with self.connect() as connection:
            return connection.ask(b"AUTH red-password\r\n") == b"+OK\r\n"

    def end(self, backend: dict, set_back: Callable[[], None]) -> None:
        """SIGTERM still ends the proxy, after the time that a blocked session may stay."""
        self.connect().send(b"AUTH green-password\r\nBLPOP queue 0\r\n")
        straight = self.installation.server.client(5)
        until(lambda: any(c["cmd"] == "blpop" for c in straight.client_list()), "Redis has the BLPOP", SOON)
        self.proxy.process.send_signal(signal.SIGTERM)
        self.proxy.logged("draining: .* 1 of them wait for Redis", SOON)
        set_back()
        self.assertEqual(self.proxy.process.wait(SOON), 0)

    def test_set_forward(self) -> None:
        unknown = self.connect()
        self.assertEqual(unknown.ask(b"PING\r\n"), b"-NOAUTH Authentication required.\r\n")
        temporary = self.proxy.client(WithTemporary.TEMPORARY, 3, single_connection_client=True)
        lasting = self.installation.blue(single_connection_client=True)
        self.assertTrue(temporary.ping() and lasting.ping())
        self.clock.set(3500)
        for _ in range(10):  # so that each process serves a client
            self.assertTrue(self.installation.green(single_connection_client=True).ping())
        self.assertEqual(unknown.ask(b"AUTH blue-password\r\n"), b"+OK\r\n", "who has not logged in yet is not cut")
        self.assertTrue(temporary.ping(), "it has another hundred seconds")
        age = re.search(r"^redisproxy_snapshot_age_seconds (\S+)", self.ask("/metrics"), re.MULTILINE)
        self.assertLess(float(age[1]), 60, "what was read is not older")
        self.clock.set(4000)
        until(lambda: has_ended(temporary), "the session ends with its password", SOON)
        self.assertTrue(lasting.ping())
        # Dates are by the wall clock, as in the log.
        self.clock.set(400 * 86400)
        self.assertIn(f"{time.gmtime(time.time() + 400 * 86400).tm_year}-", self.ask("/"))
        self.assertNotIn("wall clock", self.proxy.log)


class WallClockInWorkersTests(WallClockTests):
    OPTIONS = ("--processes", "2")


class OtherReactorTests(unittest.TestCase):
    def test_it_is_warned_of(self) -> None:
        installation = Installation(twistd=("--reactor", "poll"))
        self.addCleanup(installation.stop)
        self.assertIn("the timers of PollReactor run on the wall clock", installation.proxy.log)
        self.assertTrue(installation.blue().ping())
