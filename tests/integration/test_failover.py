"""Redis's master moves: sentinels are followed, replicas are recognised, and sessions stay."""

from __future__ import annotations

import re
import threading
import time
import unittest

import redis

from ..support.proxy import Manifests, ProxyProcess, master, tenant
from ..support.relay import Relay
from ..support.sentinels import NAME, Sentinels
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, valkey
from ..support.waiting import until

#: What a client may be told while there is no master.
CLEAR = re.compile(
    "Redis cannot be reached from the proxy right now, try again"
    "|the connection to Redis was lost: it may have run this command, or not"
    "|You can't write against a read only replica"
)


class Load(threading.Thread):
    """One session that writes and reads its own key, and keeps count of what it was told."""

    def __init__(self, proxy: ProxyProcess, name: str) -> None:
        super().__init__(daemon=True)
        self._client = proxy.client("blue-password", 3)
        self._client.ping()
        self.name = name
        self.acknowledged: list[tuple[float, int]] = []
        self.refused = 0
        self.wrong: list[object] = []
        self._over = threading.Event()

    def run(self) -> None:
        session = self._client.client_id()
        number = 0
        while not self._over.is_set():
            number += 1
            since = time.monotonic()
            try:
                if self._client.rpush(self.name, number) < 1 or self._client.echo(f"{self.name} {number}") != (
                    f"{self.name} {number}".encode()
                ):
                    self.wrong.append("an answer that was not its own")
                self.acknowledged.append((since, number))
            except redis.ResponseError as error:
                self.refused += 1
                if not CLEAR.search(str(error)):
                    self.wrong.append(error)
                time.sleep(0.005)
            except redis.RedisError as error:
                self.wrong.append(error)
                return
        if self._client.client_id() != session:
            self.wrong.append("it is another session")

    def stop(self) -> None:
        self._over.set()
        self.join(30)


class FailoverCase(unittest.TestCase):
    def proxy(self, document: dict, *options: str) -> ProxyProcess:
        self.manifests = Manifests([document, *tenant("team-blue", 3, "blue-password")])
        self.addCleanup(self.manifests.remove)
        proxy = ProxyProcess("--manifests", str(self.manifests.path), "--lanes", "shared", *options)
        self.addCleanup(proxy.stop)
        return proxy.ready()


class SentinelTests(FailoverCase):
    def test_a_failover_is_followed_there_and_back(self) -> None:
        group = Sentinels(password="the-sentinels-own").start()
        self.addCleanup(group.stop)
        first, second = group.servers
        # One of the sentinels that are named is away, for good.
        url = group.url.replace("/" + NAME, f",127.0.0.1:{free_port()}/{NAME}")
        proxy = self.proxy(master(url, sentinel_password="the-sentinels-own"))
        loads = [Load(proxy, f"load-{number}") for number in range(4)]
        for load in loads:
            load.start()
        blue = proxy.client("blue-password", 3)
        self.assertEqual(blue.eval("return redis.call('set', KEYS[1], 'first')", 1, "key"), b"OK")

        first.kill()
        proxy.logged(rf"(?m)failover: .* {NAME} is no longer at redis://127.0.0.1:{first.port}$")
        proxy.logged(rf"(?m)Redis is at redis://127.0.0.1:{second.port}$")
        moved = time.monotonic()
        until(
            lambda: all(load.acknowledged and load.acknowledged[-1][0] > moved for load in loads), "all sessions write again"
        )
        # Its ACL users are not replicated: they were made there, and hold the limits.
        self.assertEqual(blue.eval("return redis.call('set', KEYS[1], 'second')", 1, "key"), b"OK")
        with self.assertRaisesRegex(redis.ResponseError, "(?i)permission"):
            blue.eval("return redis.call('select', 5)", 0)
        self.assertIn("redisproxy:team-blue:3", second.client(decode_responses=True).acl_users())

        # The old master comes back, as a replica, and then, by a failover that kills nobody, as the master.
        first.start()
        group.until_replicated()
        self.assertEqual(first.client(3).get("key"), b"second")
        group.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", NAME)
        until(lambda: proxy.log.count(f"Redis is at redis://127.0.0.1:{first.port}") == 2, "it is followed back")
        back = time.monotonic()
        until(lambda: all(load.acknowledged[-1][0] > back for load in loads), "all sessions write again")
        for load in loads:
            load.stop()
        for load in loads:
            self.assertEqual(load.wrong, [])
            self.assertGreater(load.refused, 0)
            kept = set(map(int, first.client(3).lrange(load.name, 0, -1)))
            self.assertLessEqual({number for since, number in load.acknowledged if since > back}, kept)

        # Without any sentinel it stays where it is.
        for sentinel in group.sentinels:
            sentinel.kill()
        proxy.logged(rf"(?m)none of the sentinels tells where {NAME} is; Redis is still taken to be at \S+:{first.port}$")
        self.assertTrue(blue.set("key", "third"))
        self.assertEqual(first.client(3).get("key"), b"third")
        self.assertEqual(proxy.log.count("none of the sentinels"), 1)
        self.assertNotRegex(proxy.log, "a bug|Traceback|the-sentinels-own|" + MASTER_PASSWORD)


class ReplicaTests(FailoverCase):
    def test_an_address_that_leads_to_another_master(self) -> None:
        """A Service without sentinels: open connections stay with the server that is a replica now."""
        first, second = RedisServer(valkey), RedisServer(valkey)
        for server in (first, second):
            server.start()
            self.addCleanup(server.stop)
            server.client().config_set("masterauth", MASTER_PASSWORD)
        relay = Relay(first.port)
        self.addCleanup(relay.stop)
        proxy = self.proxy(master(f"redis://:{MASTER_PASSWORD}@127.0.0.1:{relay.port}/0"))
        blue = proxy.client("blue-password", 3)
        session = blue.client_id()
        self.assertTrue(blue.set("key", "first"))

        first.client().execute_command("REPLICAOF", "127.0.0.1", second.port)
        with self.assertRaises(redis.ReadOnlyError):
            blue.set("key", "refused")
        proxy.logged("says that it is a replica")
        relay.lead_to(second.port)

        def written() -> bool:
            try:
                return blue.set("key", "second")
            except redis.ReadOnlyError:
                return False

        until(written, "it is written where the address leads to")
        self.assertEqual(second.client(3).get("key"), b"second")
        self.assertEqual(blue.client_id(), session)
        self.assertNotRegex(proxy.log, "a bug|Traceback")
