"""Tests the status endpoint as a service: its history, and that a page leaves turns of the reactor
to clients.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

from twisted.internet import defer
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial import unittest

from redisproxy import messages, status
from redisproxy.ops import history
from redisproxy.ops.stats import TenantState
from redisproxy.settings import Settings
from redisproxy.status import SnapshotStates, StatusService
from redisproxy.tenants.limits import Limits
from redisproxy.tenants.model import Credential, Snapshot

from .support.conversations import BLUE, GREEN
from .support.reasons import set_fault, set_unready
from .support.stats import redis_seconds, stats, tenant_stats


class Reactor(MemoryReactorClock):
    """A reactor whose clock advances by `takes` seconds at each reading, as if a page took time."""

    takes = 0.0

    def seconds(self) -> float:
        self.rightNow += self.takes
        return self.rightNow


class StatusServiceTests(unittest.SynchronousTestCase):
    host = IPv4Address("TCP", "127.0.0.1", 9180)

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.stats = stats(**{"team-a": tenant_stats()})
        self.stats["counts"]["redis_seconds"] = redis_seconds()
        self.stats["state"]["snapshot"]["problems"] = []
        self.stats["state"]["workers"] = None
        settings = Settings(ns_prefix="team-", status="tcp:9180")
        self.service = StatusService(settings, self.reactor, lambda: self.stats, self.unready)
        self.service.privilegedStartService()
        self.service.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.service.stopService()
        self.assertEqual([call for call in self.reactor.getDelayedCalls() if call.active()], [])

    def get(self, path: bytes, method: bytes = b"GET", headers: bytes = b"") -> tuple[bytes, bytes]:
        """Returns head and body of an answer, as far as they have arrived."""
        transport = self.ask(path, method, headers)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        return head, body

    def ask(self, path: bytes, method: bytes = b"GET", headers: bytes = b"") -> StringTransport:
        (_, factory, *_), *_ = self.reactor.tcpServers
        protocol = factory.buildProtocol(None)
        transport = StringTransport(self.host)
        transport.abortConnection = lambda: None
        protocol.makeConnection(transport)
        self.protocol = protocol
        protocol.dataReceived(b"%b %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n" % (method, path, headers))
        return transport

    def unready(self) -> messages.Text | None:
        state = self.stats["state"]
        return messages.restored(state["unready"], state["unready_code"])

    def page(self) -> str:
        _, body = self.get(b"/")
        return body.decode()

    def test_since_when_it_is_not_ready(self) -> None:
        self.reactor.advance(100)
        set_unready(self.stats["state"], messages.REDIS_NO_ANSWER())
        fault = messages.REDIS_UNREACHABLE(address="redis://r:6379", reason=messages.NET_TIMEOUT())
        set_fault(self.stats["state"]["redis"], fault, connected=False)
        self.reactor.advance(status.LOOK)
        self.reactor.pump([1.0] * 42)
        # Another reason does not change the beginning.
        set_unready(self.stats["state"], messages.REDIS_NOT_PROBED())
        self.assertIn(
            "Not ready, since 1970-01-01 00:15:58 UTC (42 s): Redis has not reported its version and settings yet",
            self.page(),
        )
        set_unready(self.stats["state"], None)
        self.reactor.advance(status.LOOK)
        set_unready(self.stats["state"], messages.REDIS_NO_ANSWER())
        self.reactor.advance(status.LOOK)
        self.assertIn("(0 s)", self.page())

    def test_since_when_there_is_a_problem(self) -> None:
        self.reactor.advance(history.INTERVAL)
        self.stats["state"]["snapshot"]["problems"] = [
            {"namespace": "team-b", "secret": "", "reason": "it is odd", "code": "net-other"}
        ]
        self.reactor.advance(history.INTERVAL)
        self.reactor.pump([history.INTERVAL] * 3)
        self.assertIn("<small>30 s ago</small>", self.page())

    def test_the_last_minutes_are_kept(self) -> None:
        for _ in range(history.SAMPLES):
            one = self.stats["counts"]["tenants"]["team-a"]
            one["commands"] = {"plain": one["commands"].get("plain", 0) + 700}
            one["received"] += 7000
            one["latency"] = {"counts": {"0.001": one["latency"]["counts"].get("0.001", 0) + 3}, "sum": 0.0}
            self.reactor.advance(history.INTERVAL)
        html = self.page()
        self.assertIn("<td>70</td>", html)
        self.assertRegex(html, "700 B<svg>.*<svg>")

    def test_a_page_leaves_clients_their_turns(self) -> None:
        self.stats = {**self.stats, **stats(**{f"team-{number}": tenant_stats() for number in range(100)})}
        self.stats["counts"]["redis_seconds"] = redis_seconds()
        self.reactor.takes = status.SLICE / 10
        with mock.patch.object(self.reactor, "callLater", wraps=self.reactor.callLater) as turns:
            transport = self.ask(b"/")
            self.assertEqual(transport.value(), b"")
            while not transport.value():
                self.reactor.advance(0)
        self.assertGreater(len([call for call in turns.mock_calls if call.args[0] == status.SLICE]), 5)
        self.assertIn(b"<td>team-99</td>", transport.value())
        self.reactor.takes = 0.0

    def test_metrics_leave_clients_their_turns(self) -> None:
        self.stats = {**self.stats, **stats(**{f"team-{number:03}": tenant_stats() for number in range(100)})}
        self.reactor.takes = status.SLICE / 10
        with mock.patch.object(self.reactor, "callLater", wraps=self.reactor.callLater) as turns:
            transport = self.ask(b"/metrics")
            self.assertEqual(transport.value(), b"")
            while not transport.value():
                self.reactor.advance(0)
        self.reactor.takes = 0.0
        self.assertGreater(len([call for call in turns.mock_calls if call.args[0] == status.SLICE]), 3)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        self.assertIn(b"content-length: %d" % len(body), head.lower())
        self.assertIn(b'namespace="team-099"', body)

    def test_for_who_has_left_no_page_is_made(self) -> None:
        self.stats = {**self.stats, **stats(**{f"team-{number}": tenant_stats() for number in range(100)})}
        self.stats["counts"]["redis_seconds"] = redis_seconds()
        for path in (b"/", b"/metrics"):
            self.reactor.takes = status.SLICE / 10
            transport = self.ask(path)
            self.protocol.connectionLost(mock.Mock())
            self.reactor.takes = 0.0
            before = len(self.reactor.getDelayedCalls())
            self.reactor.advance(0)
            self.assertEqual(transport.value(), b"")
            self.assertEqual(len(self.reactor.getDelayedCalls()), before)
        gc.collect()  # a failure that nobody handled is logged when its Deferred is collected
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_page_that_cannot_be_made_is_an_error(self) -> None:
        with mock.patch("redisproxy.ops.page.render", lambda *_: defer.fail(ValueError("a bug"))):
            head, _ = self.get(b"/")
        self.assertIn(b" 500 ", head)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_its_length_is_told(self) -> None:
        head, body = self.get(b"/")
        self.assertIn(b"200 OK", head)
        self.assertIn(b"%d" % len(body), head.lower().partition(b"content-length: ")[2].splitlines()[0])
        head_alone, body = self.get(b"/", b"HEAD")
        self.assertEqual((head_alone.split(b"\r\n")[0], body), (b"HTTP/1.1 200 OK", b""))

    def test_runbooks(self) -> None:
        head, body = self.get(b"/runbooks")
        self.assertIn(b"text/html", head)
        self.assertIn(b"content-security-policy: default-src 'none'", head.lower())
        self.assertIn(b'<a href="runbooks/RedisProxyRedisUnreachable">', body)
        head, body = self.get(b"/runbooks/RedisProxyRedisUnreachable")
        self.assertIn(b"text/plain", head)
        self.assertTrue(body.startswith(b"# RedisProxyRedisUnreachable\n"))
        for path in (b"/runbooks/", b"/runbooks/Nothing", b"/runbooks/RedisProxyDown/x", b"/runbooks/..%2f..%2fREADME"):
            self.assertIn(b" 404 ", self.get(path)[0], path)
        # The runbooks have the same protection as the page.
        self.host = IPv4Address("TCP", "10.0.0.1", 9180)
        for path in (b"/", b"/runbooks", b"/runbooks/RedisProxyDown"):
            self.assertIn(b" 403 ", self.get(path)[0], path)


class SnapshotStatesTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        durations = SimpleNamespace(stats=dict)
        self.reading = SimpleNamespace(
            snapshot=None, source="x", age=None, reads={}, durations=durations, problems=[], without_secret=("team-new",)
        )
        self.states = SnapshotStates(self.reading)

    def tenants(self, now: float) -> dict[str, TenantState]:
        return self.states.state(None, now)["tenants"]

    def snapshot(self, *credentials: Credential) -> Snapshot:
        return Snapshot(None, credentials, {"blue": Limits(50, 0, 1000)})

    def test_what_is_told_of_a_tenant(self) -> None:
        self.assertEqual((self.tenants(0.0), self.states.state(None, 0.0)["without_secret"]), ({}, ["team-new"]))
        soon = replace(BLUE, secret="redis-secret-temp-a", digest=b"1", expires=100.0)
        later = replace(BLUE, secret="redis-secret-temp-b", digest=b"2", expires=200.0)
        self.reading.snapshot = self.snapshot(BLUE, soon, later, GREEN)
        blue = {"index": 3, "limits": {"max_connections": 50, "bytes_per_second": 1000}, "paused": False}
        self.assertEqual(self.tenants(50.0)["blue"], {**blue, "credentials": 3, "expires": 100.0})
        self.assertEqual(self.tenants(100.0)["blue"], {**blue, "credentials": 2, "expires": 200.0})
        self.assertEqual(self.tenants(200.0)["blue"], {**blue, "credentials": 1, "expires": None})
        self.assertEqual(self.tenants(200.0)["green"]["limits"], {})
        # The wall clock may be set back.
        self.assertEqual(self.tenants(99.0)["blue"]["credentials"], 3)

    def test_it_is_made_again_where_it_has_changed(self) -> None:
        """The state is made again only after a change: with thousands of tenants that takes as long
        as some hundred commands.
        """
        soon = replace(BLUE, secret="redis-secret-temp-a", digest=b"1", expires=100.0)
        self.reading.snapshot = self.snapshot(BLUE, soon)
        found = self.tenants(50.0)
        self.assertIs(self.tenants(99.0), found)
        self.assertIsNot(self.tenants(100.0), found)
        self.assertIs(self.tenants(1e9), self.tenants(100.0))
        self.reading.snapshot = self.snapshot(GREEN)
        self.assertEqual(list(self.tenants(1e9)), ["green"])
