"""A tenant's patterns with real servers: counted over all processes and replicas of the proxy, and
removed from the ACL when nobody uses them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import unittest
from collections.abc import Callable, Mapping
from pathlib import Path

import redis
import yaml

from redisproxy.policy import acl
from redisproxy.tenants.model import Tenant
from redisproxy.upstream import markers

from ..support.proxy import Installation, Manifests, ProxyProcess, master, namespace, tenant
from ..support.raw import RawClient
from ..support.sentinels import Sentinels
from ..support.servers import RedisServer, on_every_server, redis_5, valkey
from ..support.waiting import LIMIT, until

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
MOST = 3
#: How long a pattern is unused before it is removed, where a test waits for that, in seconds.
HURRIED = """
from redisproxy import bounds
bounds.UNUSED_PATTERN_SECONDS, bounds.FIRST_CLEANING_SECONDS = 0.5, 0.0
"""


class PatternsCase(unittest.TestCase):
    """A Redis, and proxies for it. The tenants may have MOST patterns."""

    def start(self, binary: Callable[[], str] = valkey, *settings: str) -> None:
        #: of each client of a proxy
        self.options: dict[str, object] = {}
        self.server = RedisServer(binary, *settings).start()
        self.addCleanup(self.server.stop)
        self.admin = self.server.client()
        self.addCleanup(self.admin.close)
        (_, blue), (_, green) = tenant("team-blue", 3, Installation.BLUE), tenant("team-green", 5, Installation.GREEN)
        limits = {"redisproxy/max-patterns": str(MOST)}
        spaces = [namespace(name, annotations=limits) for name in ("team-blue", "team-green")]
        self.manifests = Manifests([master(self.server.url), *spaces, blue, green])
        self.addCleanup(self.manifests.remove)

    def proxy(self, *options: str, environ: Mapping[str, str] | None = None) -> ProxyProcess:
        arguments = ("--manifests", str(self.manifests.path), *options)
        proxy = ProxyProcess(*arguments, environ=environ, fresh=environ is not None)
        self.addCleanup(self._end, proxy)
        return proxy.ready()

    def _end(self, proxy: ProxyProcess) -> None:
        if proxy.process.poll() is None:
            proxy.stop()

    def hurried(self, *options: str) -> ProxyProcess:
        directory = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(directory.cleanup)
        (Path(directory.name) / "sitecustomize.py").write_text(HURRIED)
        return self.proxy(*options, environ={"PYTHONPATH": f"{directory.name}:{Path(__file__).parents[2]}"})

    def subscribe(self, proxy: ProxyProcess, *patterns: str, green: bool = False) -> redis.client.PubSub:
        """Returns a client that is subscribed to these patterns. Raises what Redis answers."""
        password, index = (Installation.GREEN, 5) if green else (Installation.BLUE, 3)
        client = proxy.client(password, index, **self.options)
        pubsub = client.pubsub()
        self.addCleanup(client.close)
        self.addCleanup(pubsub.close)
        pubsub.psubscribe(*patterns)
        for _ in patterns:
            self.assertEqual(pubsub.get_message(timeout=LIMIT)["type"], "psubscribe")
        return pubsub

    def assertFull(self, proxy: ProxyProcess, pattern: str) -> None:
        with self.assertRaisesRegex(
            redis.ResponseError, f"more than {MOST} different patterns: see .*redisproxy/max-patterns"
        ):
            self.subscribe(proxy, pattern)

    def hears(self, proxy: ProxyProcess, pubsub: redis.client.PubSub, channel: str) -> bool:
        """Returns whether the client hears what another one of its tenant publishes."""
        with proxy.client(Installation.BLUE, 3, **self.options) as client:
            client.publish(channel, "x")
        message = pubsub.get_message(timeout=LIMIT)
        return message is not None and message["data"] == b"x"

    def marked(self, of: Tenant = BLUE) -> set[bytes]:
        names = self.admin.execute_command("PUBSUB", "CHANNELS", markers.beginning(of) + b"*")
        return markers.listed(of, names)

    def granted(self, of: Tenant = BLUE) -> set[bytes]:
        client = self.server.client()
        client.response_callbacks.clear()
        with client:
            return acl.granted(of, client.execute_command("ACL", "GETUSER", acl.username(of)))[0]


@on_every_server
class CountTests(PatternsCase):
    def each_processes_and_replicas_count_together(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        first, second = self.proxy("--processes", "2"), self.proxy()
        one = self.subscribe(first, "a*")
        two = self.subscribe(first, "b*", "a*")
        three = self.subscribe(second, "c*")
        self.assertEqual(self.marked(), {b"team-blue:a*", b"team-blue:b*", b"team-blue:c*"})
        for proxy in (first, second):
            self.assertFull(proxy, "d*")
            self.subscribe(proxy, "c*")
        self.subscribe(second, "x*", green=True)  # another tenant has its own
        for pubsub, channel in ((one, "a1"), (two, "b1"), (three, "c1")):
            self.assertTrue(self.hears(second, pubsub, channel))
        two.punsubscribe("b*")
        until(lambda: b"team-blue:b*" not in self.marked(), "the pattern is unused")
        four = self.subscribe(second, "d*")
        self.assertFull(first, "e*")
        self.assertTrue(self.hears(first, four, "d1"))

    def each_a_pattern_for_key_events_counts_with_those_of_redis(self, binary: Callable[[], str]) -> None:
        self.start(binary, "notify-keyspace-events KEA")
        proxy = self.proxy()
        events = self.subscribe(proxy, "*")
        self.assertEqual(len(self.marked()), 3)
        self.assertFull(proxy, "a*")
        with proxy.client(Installation.BLUE, 3) as client:
            client.set("key", "value")
        self.assertEqual(events.get_message(timeout=LIMIT)["data"], b"set")
        events.close()
        until(lambda: not self.marked(), "its patterns are unused")
        self.subscribe(proxy, "a*")

    def each_a_process_that_is_killed_leaves_nothing(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        first, second = self.proxy(), self.proxy()
        self.subscribe(first, "a*", "b*")
        self.subscribe(second, "c*")
        self.assertFull(second, "d*")
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(LIMIT)
        until(lambda: self.marked() == {b"team-blue:c*"}, "its markers are gone")
        self.subscribe(second, "d*", "e*")


@on_every_server
class RemovalTests(PatternsCase):
    def each_unused_patterns_leave_the_acl(self, binary: Callable[[], str]) -> None:
        """Other subscribers of the tenant, of each process, stay and hear everything."""
        self.start(binary)
        proxies = [self.hurried(), self.hurried()]
        stays = [self.subscribe(proxy, "stays*") for proxy in proxies]
        for each in stays:
            each.subscribe("plain")
            self.assertEqual(each.get_message(timeout=LIMIT)["type"], "subscribe")
        self.subscribe(proxies[0], "a*").close()
        until(lambda: self.granted() == {b"team-blue:stays*"}, "the unused one is removed")
        self.assertEqual(self.marked(), {b"team-blue:stays*"})
        for proxy, each in zip(proxies, stays, strict=True):
            self.assertTrue(self.hears(proxy, each, "stays1"))
            self.assertTrue(self.hears(proxy, stays[0], "plain"))
        for each in stays:
            while each.get_message(timeout=0.05):
                pass
        again = self.subscribe(proxies[1], "a*")
        self.assertTrue(self.hears(proxies[0], again, "a1"))


class WayOutTests(PatternsCase):
    """Each way in which a session leaves its patterns, over the wire."""

    def test_each_way(self) -> None:
        self.start()
        proxy = self.proxy("--processes", "2")

        def raw(*commands: bytes) -> RawClient:
            client = RawClient(proxy.port)
            self.addCleanup(client.close)
            client.ask(b"HELLO 3 AUTH default " + Installation.BLUE.encode() + b"\r\n")
            client.send(b"PSUBSCRIBE a* b* c*\r\n")
            until(lambda: len(self.marked()) == MOST, "they are in use")
            for command in commands:
                client.send(command + b"\r\n")
            return client

        for commands in (
            [b"PUNSUBSCRIBE"],
            [b"PUNSUBSCRIBE a* b* c*"],
            [b"RESET"],
            [b"QUIT"],
            [b"AUTH " + Installation.GREEN.encode()],
        ):
            raw(*commands)
            until(lambda: not self.marked(), f"{commands} leaves them")
        raw().close()
        until(lambda: not self.marked(), "the client left")
        raw()
        self.admin.execute_command("CLIENT", "KILL", "USER", acl.username(BLUE))
        until(lambda: not self.marked(), "Redis closed the subscriber")

    def test_one_that_redis_refuses(self) -> None:
        """The proxy grants a pattern that somebody removes before the PSUBSCRIBE."""
        self.start()
        proxy = self.proxy()
        keeper = self.subscribe(proxy, "a*")
        self.admin.execute_command("ACL", "SETUSER", acl.username(BLUE), "-psubscribe")
        with self.assertRaises(redis.exceptions.NoPermissionError):
            self.subscribe(proxy, "b*")
        until(lambda: self.marked() == {b"team-blue:a*"}, "the refused one is unused")
        keeper.close()
        until(lambda: not self.marked(), "none is in use")


class RedisTests(PatternsCase):
    """Redis restarts, has one layer, or refuses to count."""

    def test_redis_restarts(self) -> None:
        self.start()
        proxy = self.proxy()
        self.subscribe(proxy, "a*", "b*")
        self.server.kill()
        self.server.start()
        self.assertUsable(proxy)

    def assertUsable(self, proxy: ProxyProcess) -> None:
        """Clients subscribe again, and are counted at Redis as it is now."""
        again: list[redis.client.PubSub] = []

        def subscribed() -> bool:
            with contextlib.suppress(redis.ConnectionError):
                again.append(self.subscribe(proxy, "a*", "b*", "c*"))
            return bool(again)

        until(subscribed, "clients subscribe again", 4 * LIMIT)
        until(lambda: len(self.marked()) == MOST, "they have their markers")
        self.assertFull(proxy, "d*")
        self.assertTrue(self.hears(proxy, again[0], "c1"))

    def test_a_failover(self) -> None:
        """The former master hangs. Its markers and grants mean nothing at the new one."""
        group = Sentinels().start()
        self.addCleanup(group.stop)
        self.start()
        first, second = group.servers
        documents = list(yaml.safe_load_all((self.manifests.path / "all.yaml").read_text()))
        self.manifests.write([master(group.url), *documents[1:]])
        proxy = self.proxy()
        self.subscribe(proxy, "a*", "b*")
        group.until_replicated()
        os.kill(first.pid, signal.SIGSTOP)
        proxy.logged(rf"(?m)Redis is at redis://127.0.0.1:{second.port}$", 4 * LIMIT)
        self.server, self.admin = second, second.client()
        self.addCleanup(self.admin.close)
        self.assertUsable(proxy)

    def test_the_master_password_changes(self) -> None:
        """Sessions stay, and so do their patterns."""
        self.start()
        proxy = self.proxy("--refresh", "1")
        stays = self.subscribe(proxy, "a*")
        self.admin.execute_command("ACL", "SETUSER", "default", ">another")
        documents = list(yaml.safe_load_all((self.manifests.path / "all.yaml").read_text()))
        self.manifests.write([master(f"redis://:another@127.0.0.1:{self.server.port}/0"), *documents[1:]])

        def connections() -> list[str]:
            return [each["id"] for each in self.admin.client_list() if each["name"] == "redisproxy-patterns"]

        [former] = connections()
        until(lambda: connections() not in ([], [former]), "the markers' connection logs in with the new one")
        until(lambda: self.marked() == {b"team-blue:a*"}, "the marker is set again")
        self.assertTrue(self.hears(proxy, stays, "a1"))
        self.subscribe(proxy, "b*", "c*")
        self.assertFull(proxy, "d*")

    def test_the_connection_of_the_markers_is_lost(self) -> None:
        self.start()
        proxy = self.proxy()
        stays = self.subscribe(proxy, "a*")
        [connection] = [each for each in self.admin.client_list() if each["name"] == "redisproxy-patterns"]
        self.admin.client_kill_filter(_id=connection["id"])
        until(lambda: self.marked() == {b"team-blue:a*"}, "the marker is set again")
        self.assertTrue(self.hears(proxy, stays, "a1"))
        self.subscribe(proxy, "b*")

    def test_the_connection_is_closed_when_no_pattern_is_in_use(self) -> None:
        self.start()
        proxy = self.proxy()
        with proxy.client(Installation.BLUE, 3) as client:
            client.ping()
        self.assertNotIn("redisproxy-patterns", [each["name"] for each in self.admin.client_list()])

    def test_one_layer(self) -> None:
        for binary, options in ((valkey, ("--acl", "off")), (redis_5, ())):
            self.start(binary, *(("bind 127.0.0.1",) if binary is redis_5 else ()))
            proxy = self.proxy(*options)
            self.options["protocol"] = 2
            first = self.subscribe(proxy, "a*", "b*", "c*")
            self.assertFull(proxy, "d*")
            self.assertTrue(self.hears(proxy, first, "a1"))

    def test_a_master_that_may_not_count(self) -> None:
        """PSUBSCRIBE is refused, and the log says what is missing."""
        for missing in (("-pubsub",), ("-subscribe",), ("resetchannels", "&team-*", "&__key*")):
            self.start()
            self.admin.execute_command("ACL", "SETUSER", "lesser", "on", ">x", "~*", "&*", "+@all", *missing)
            documents = [
                master(f"redis://lesser:x@127.0.0.1:{self.server.port}/0"),
                *tenant("team-blue", 3, Installation.BLUE),
            ]
            self.manifests.write(documents)
            proxy = self.proxy()
            with self.assertRaisesRegex(redis.ResponseError, "Redis does not let the proxy run this command"):
                self.subscribe(proxy, "a*")
            proxy.logged("PSUBSCRIBE is refused, because the tenants' patterns cannot be counted: ")
            with proxy.client(Installation.BLUE, 3) as client:
                self.assertEqual(client.publish("news", "x"), 0)
