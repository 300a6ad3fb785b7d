"""Tests that Redis's master may move: the proxy follows sentinels and recognises replicas, and
sessions stay.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading
import time
import unittest
from pathlib import Path

import redis

from redisproxy.upstream.failover import DOUBT

from ..support.certificates import Authority
from ..support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from ..support.relay import Relay
from ..support.sentinels import NAME, SentinelProcess, Sentinels, sentinel_url
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, redis_7, valkey
from ..support.waiting import until

#: The errors that a client may get while there is no master: straight ones get them as well.
CLEAR = re.compile("You can't write against a read only replica")


class Load(threading.Thread):
    """A session that writes and reads its own key, and records the answers."""

    def __init__(self, proxy: ProxyProcess, name: str) -> None:
        super().__init__(daemon=True)
        self._client = proxy.client("blue-password", 3)
        self._client.ping()
        self.name = name
        self.acknowledged: list[tuple[float, int]] = []
        self.refused = 0
        self.closed = 0
        self.wrong: list[object] = []
        self._over = threading.Event()

    def run(self) -> None:
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
            except redis.ConnectionError:
                self.closed += 1  # with a command in flight; the next one connects again
            except redis.RedisError as error:
                self.wrong.append(error)
                return

    def stop(self) -> None:
        self._over.set()
        self.join(30)
        self._client.close()


class FailoverCase(unittest.TestCase):
    TENANT = tenant("team-blue", 3, "blue-password")

    def starting_proxy(self, document: dict, *options: str) -> ProxyProcess:
        self.manifests = Manifests([document, *self.TENANT])
        self.addCleanup(self.manifests.remove)
        proxy = ProxyProcess("--manifests", str(self.manifests.path), "--connections", "multiplexed", *options)
        self.addCleanup(proxy.stop)
        return proxy

    def proxy(self, document: dict, *options: str) -> ProxyProcess:
        return self.starting_proxy(document, *options).ready()

    def client(self, proxy: ProxyProcess) -> redis.Redis:
        client = proxy.client("blue-password", 3)
        self.addCleanup(client.close)  # otherwise the proxy would wait for it at its end
        return client


class SentinelTests(FailoverCase):
    def test_a_failover_is_followed_there_and_back(self) -> None:
        group = Sentinels(password="the-sentinels-own").start()
        self.addCleanup(group.stop)
        first, second = group.servers
        # One of the named sentinels is permanently gone.
        url = group.url.replace("/" + NAME, f",127.0.0.1:{free_port()}/{NAME}")
        proxy = self.proxy(master(url, sentinel_password="the-sentinels-own"))
        loads = [Load(proxy, f"load-{number}") for number in range(4)]
        for load in loads:
            load.start()
        blue = self.client(proxy)
        self.assertEqual(blue.eval("return redis.call('set', KEYS[1], 'first')", 1, "key"), b"OK")

        group.until_replicated()
        os.kill(first.pid, signal.SIGSTOP)  # it hangs: the proxy must not wait for its pending replies
        proxy.logged(rf"(?m)failover: .* {NAME} is at \S+:{second.port}, no longer at \S+:{first.port}$")
        proxy.logged(rf"(?m)Redis is at redis://127.0.0.1:{second.port}$")
        moved = time.monotonic()
        until(
            lambda: all(load.acknowledged and load.acknowledged[-1][0] > moved for load in loads), "all sessions write again"
        )
        # ACL users are not replicated. The proxy made them on the new master, and they enforce the
        # rights.
        self.assertEqual(blue.eval("return redis.call('set', KEYS[1], 'second')", 1, "key"), b"OK")
        with self.assertRaisesRegex(redis.ResponseError, "(?i)permission"):
            blue.eval("return redis.call('select', 5)", 0)
        self.assertIn("redisproxy:team-blue:3", second.client(decode_responses=True).acl_users())

        first.kill()

        # The old master returns as a replica. Then a failover without a crash makes it the master
        # again.
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
            self.assertGreater(load.refused + load.closed, 0)
            kept = set(map(int, first.client(3).lrange(load.name, 0, -1)))
            self.assertLessEqual({number for since, number in load.acknowledged if since > back}, kept)

        # Without any sentinel the proxy stays with the last master.
        for sentinel in group.sentinels:
            sentinel.kill()
        proxy.logged(rf"(?m)no sentinel reports the address of {NAME}; the proxy still uses \S+:{first.port}$")
        self.assertTrue(blue.set("key", "third"))
        self.assertEqual(first.client(3).get("key"), b"third")
        self.assertEqual(proxy.log.count("no sentinel reports"), 1)
        self.assertNotRegex(proxy.log, "a bug|Traceback|the-sentinels-own|" + MASTER_PASSWORD)

    def test_a_failover_is_noticed_within_two_seconds(self) -> None:
        """The proxy follows a failover within 2 s of the first sentinel that knows of it. The old
        master hangs, so only the sentinels can report that it is no longer the master.
        """
        group = Sentinels().start()
        self.addCleanup(group.stop)
        first, second = group.servers
        proxy = self.proxy(master(group.url))
        group.until_replicated()
        asked = [sentinel.client() for sentinel in group.sentinels]
        for client in asked:
            self.addCleanup(client.close)

        def one_knows() -> bool:
            return any(
                int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1]) == second.port
                for client in asked
            )

        os.kill(first.pid, signal.SIGSTOP)
        until(one_knows, "a sentinel knows the new master")
        proxy.logged(rf"failover: .* {NAME} is at \S+:{second.port}, no longer at \S+:{first.port}", limit=2.0)

    def test_the_latest_failover_counts_and_a_replica_is_not_used(self) -> None:
        # The servers do not replicate each other. Otherwise the sentinels would find each other
        # that way, and agree.
        old, new = RedisServer(valkey).start(), RedisServer(valkey, f"replicaof 127.0.0.1 {free_port()}").start()
        for server in (old, new):
            self.addCleanup(server.stop)
        sentinels = [
            SentinelProcess(valkey, f"127.0.0.1 {server.port}", more=[f"sentinel config-epoch {NAME} {epoch}"]).start()
            for server, epoch in ((old, 1), (old, 1), (new, 5))
        ]
        for sentinel in sentinels:
            self.addCleanup(sentinel.stop)
        proxy = self.starting_proxy(master(sentinel_url(*sentinels)))
        proxy.logged(rf"the sentinels say that {NAME} is at \S+:{new.port}, which reports that it is a replica")
        blue = proxy.client("blue-password", 3, socket_timeout=0.5)
        with self.assertRaises(redis.TimeoutError):
            blue.ping()
        new.client().execute_command("REPLICAOF", "NO", "ONE")
        proxy.logged(rf"(?m)Redis is at redis://127.0.0.1:{new.port}$")
        self.assertTrue(self.client(proxy).set("key", "there"))
        self.assertEqual(new.client(3).get("key"), b"there")

        # A new master secret has a name that no sentinel knows: Redis stays where it was, and the
        # log gives the reason.
        self.manifests.write([master(sentinel_url(*sentinels).replace(NAME, "another")), *self.TENANT])
        proxy.refresh()
        proxy.logged(rf"sentinel 127.0.0.1:{sentinels[0].port}: .*No such master with that name")
        proxy.logged(rf"no sentinel reports the address of another; the proxy still uses \S+:{new.port}")
        self.assertTrue(self.client(proxy).ping())
        self.manifests.write([master("redis+sentinel://:s3cret@127.0.0.1:1,nobody"), *self.TENANT])
        proxy.refresh()
        proxy.logged("kube-system/redis-secret-master: the master secret is malformed: .* the master's name is missing")
        self.assertNotIn("s3cret", proxy.log)

    def test_tls_to_names_that_are_announced(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            authority = Authority(Path(directory))
            certificate, key = authority.issue("redis", "localhost")
            ports = free_port(), free_port()
            server, sentinel = (
                [
                    f"tls-port {port}",
                    f"tls-cert-file {certificate}",
                    f"tls-key-file {key}",
                    f"tls-ca-cert-file {authority.path}",
                    "tls-auth-clients no",
                    "tls-replication yes",
                ]
                for port in ports
            )
            names = ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
            redis_server = RedisServer(redis_7, *server).start()
            self.addCleanup(redis_server.stop)
            asked = SentinelProcess(redis_7, f"localhost {ports[0]}", settings=[*sentinel, *names]).start()
            self.addCleanup(asked.stop)
            url = f"rediss+sentinel://:{MASTER_PASSWORD}@{{}}:{ports[1]}/{NAME}"
            proxy = self.proxy(master(url.format("localhost")), "--redis-ca", str(authority.path))
            self.assertTrue(self.client(proxy).set("key", "there"))
            self.assertEqual(redis_server.client(3).get("key"), b"there")
            # The certificate does not have this address, so the proxy neither trusts this sentinel
            # nor sends it a password.
            proxy = self.starting_proxy(master(url.format("127.0.0.1")), "--redis-ca", str(authority.path))
            proxy.logged(f"sentinel 127.0.0.1:{ports[1]}: it cannot be reached: .*(?i:verif|certificate)")
            self.assertNotIn("the connection was lost", proxy.log)
            self.assertNotIn("Traceback", proxy.log)


class ReplicaTests(FailoverCase):
    def moved(self) -> tuple[RedisServer, RedisServer, Relay]:
        """Starts two masters, and a relay to the first."""
        first, second = RedisServer(valkey), RedisServer(valkey)
        for server in (first, second):
            server.start()
            self.addCleanup(server.stop)
            server.client().config_set("masterauth", MASTER_PASSWORD)
        relay = Relay(first.port)
        self.addCleanup(relay.stop)
        return first, second, relay

    def test_an_address_that_leads_to_another_master(self) -> None:
        """Behind a Service without sentinels, a session moves to the new master. Its open
        connections stay with the server that has become a replica.
        """
        first, second, relay = self.moved()
        proxy = self.proxy(master(f"redis://:{MASTER_PASSWORD}@127.0.0.1:{relay.port}/0"))
        blue = self.client(proxy)
        session = blue.client_id()
        self.assertTrue(blue.set("key", "first"))

        first.client().execute_command("REPLICAOF", "127.0.0.1", second.port)
        with self.assertRaises(redis.ReadOnlyError):
            blue.set("key", "refused")
        proxy.logged("reports that it is a replica")
        relay.lead_to(second.port)

        until(lambda: self.written(blue), "it is written where the address leads to")
        self.assertEqual(second.client(3).get("key"), b"second")
        self.assertEqual(blue.client_id(), session)
        self.assertNotRegex(proxy.log, "a bug|Traceback")

    def test_a_session_with_a_connection_of_its_own_is_closed_there(self) -> None:
        first, second, relay = self.moved()
        proxy = self.proxy(master(f"redis://:{MASTER_PASSWORD}@127.0.0.1:{relay.port}/0"), "--connections", "dedicated")
        blue = self.client(proxy)
        session = blue.client_id()
        first.client().execute_command("REPLICAOF", "127.0.0.1", second.port)
        relay.lead_to(second.port)
        with self.assertRaises(redis.ReadOnlyError):
            blue.set("key", "refused")
        until(lambda: self.written(blue), "it is written where the address leads to")
        self.assertNotEqual(blue.client_id(), session)
        self.assertEqual(second.client(3).get("key"), b"second")

    def written(self, client: redis.Redis) -> bool:
        try:
            return client.set("key", "second")
        except (redis.ReadOnlyError, redis.ConnectionError):
            return False

    def test_a_script_that_says_so_costs_next_to_nothing(self) -> None:
        """A tenant's script can return a replica's error as often as it likes: the proxy checks the
        role no more often than once per DOUBT seconds.
        """
        installation = Installation("--connections", "multiplexed")
        self.addCleanup(installation.stop)
        blue, green = installation.blue(), installation.green()
        for client in (blue, green):
            self.addCleanup(client.close)
        green.set("key", "kept")
        session = blue.client_id()

        def asked() -> int:
            # Counts the INFO commands of others: this one counts as well.
            self.asking += 1
            return installation.server.client().info("commandstats")["cmdstat_info"]["calls"] - self.asking

        def upstreams() -> set[str]:
            listed = installation.server.client().client_list()
            return {upstream["id"] for upstream in listed if upstream["user"] == "redisproxy:team-green:5"}

        self.asking = -1
        before, since, of_green = asked(), time.monotonic(), upstreams()
        self.assertEqual(len(of_green), 1)
        for _ in range(300):
            with self.assertRaises(redis.ReadOnlyError):
                blue.eval("return redis.error_reply('READONLY as if')", 0)
        until(lambda: asked() > before, "the role was asked for")
        self.assertLessEqual(asked() - before, 1 + (time.monotonic() - since) / DOUBT)
        self.assertEqual(upstreams(), of_green)
        self.assertEqual(blue.client_id(), session)
        self.assertEqual(green.get("key"), b"kept")
        self.assertNotRegex(installation.proxy.log, "replica|a bug|Traceback")
