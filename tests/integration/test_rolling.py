"""Tests a rolling update under load: replicas are replaced one after the other, as Kubernetes does,
and no client notices.
"""

from __future__ import annotations

import random
import signal
import threading
import time
import unittest
from collections.abc import Callable

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from ..support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from ..support.servers import RedisServer
from ..support.status import ask
from ..support.waiting import LIMIT, until

#: Seconds between two probes of a replica.
PROBE = 0.1
#: Seconds until nodes learn a probe's result. They send new connections to an unready replica for
#: that long.
PROPAGATION = 0.5
#: Seconds that a replica serves on after SIGTERM.
DELAY = 1.5


class Replica:
    def __init__(self, proxy: ProxyProcess) -> None:
        self.proxy = proxy
        self.status = int(proxy.logged(r"the status page is at \S+:(\d+)")[1])
        self.port = proxy.port

    def ready(self) -> bool:
        try:
            return ask(self.status, "/readyz")[0] == 200
        except OSError:
            return False


class Endpoints:
    """Imitates the kubelet and the nodes: a replica gets new connections while its /readyz says so,
    and PROPAGATION seconds longer.
    """

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self._known: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe)
        self._thread.start()

    def _probe(self) -> None:
        heard: list[tuple[float, list[int]]] = []
        while not self._stop.wait(PROBE):
            heard.append((time.monotonic(), [replica.port for replica in list(self.replicas) if replica.ready()]))
            while heard and heard[0][0] <= time.monotonic() - PROPAGATION:
                self._known = heard.pop(0)[1]

    def has(self, replica: Replica) -> bool:
        return replica.port in self._known

    def pick(self) -> int:
        """Returns the port for a new connection: of a ready replica, or one on which nothing
        listens.
        """
        return random.choice(self._known or [1])

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class RollingTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        self.manifests = Manifests([master(self.server.url), *tenant("team-blue", 3, Installation.BLUE)])
        self.addCleanup(self.manifests.remove)
        self.endpoints = Endpoints()
        self.addCleanup(self.endpoints.stop)
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self.rounds: dict[str, int] = {}

    def replica(self) -> Replica:
        """Starts another replica, and waits until it gets connections."""
        options = ("--drain-delay", str(DELAY), "--drain-seconds", str(LIMIT - DELAY))
        proxy = ProxyProcess("--manifests", str(self.manifests.path), "--status", "tcp:0", *options)
        self.addCleanup(proxy.stop)
        found = Replica(proxy)
        self.endpoints.replicas.append(found)
        until(lambda: self.endpoints.has(found), "nodes have heard of it")
        return found

    def roll(self, old: Replica) -> Replica:
        """Replaces a replica as a Deployment does with maxSurge 1 and maxUnavailable 0."""
        new = self.replica()
        old.proxy.process.send_signal(signal.SIGTERM)
        self.assertEqual(old.proxy.process.wait(LIMIT), 0, old.proxy.log)
        old.proxy._reader.join(5)
        self.endpoints.replicas.remove(old)
        self.assertNotIn("cut-off after", old.proxy.log)
        self.assertNotIn("Traceback", old.proxy.log)
        return new

    def client(self, **options: object) -> redis.Redis:
        """Returns a client as an application makes one: it reconnects after a loss, to any
        replica.
        """
        endpoints = self.endpoints

        class Connection(redis.Connection):
            def _connect(self) -> object:
                self.port = endpoints.pick()
                return super()._connect()

        pool = redis.ConnectionPool(
            connection_class=Connection,
            host="127.0.0.1",
            db=3,
            password=Installation.BLUE,
            # longer than any BLPOP here waits: the client must not give up first
            socket_timeout=60,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.005), 10),
            **options,
        )
        client = redis.Redis(connection_pool=pool)
        self.addCleanup(client.close)
        self.addCleanup(pool.disconnect)
        return client

    def load(self, name: str, once: Callable[[int], None]) -> threading.Thread:
        """Starts a thread that calls `once` repeatedly, until the end of the test or until it
        fails.
        """

        def run() -> None:
            number = 0
            try:
                while not self.stop.is_set():
                    once(number)
                    number += 1
            except BaseException as error:
                self.failures.append(error)
            self.rounds[name] = number

        thread = threading.Thread(target=run, name=name)
        thread.start()
        return thread

    # The clients. Each checks its answers, so that a command that ran twice or not at all is found
    # at once.

    def counts(self, name: str, **options: object) -> Callable[[int], None]:
        client = self.client(**options)

        def once(number: int) -> None:
            self.assertEqual(client.incr(name), number + 1)

        return once

    def sets(self, name: str) -> Callable[[int], None]:
        client = self.client()

        def once(number: int) -> None:
            # large values are streamed
            value = f"{number}:{'x' * random.randrange(200_000)}".encode()
            client.set(f"{name}:{number % 50}", value)
            self.assertEqual(client.get(f"{name}:{number % 50}"), value)

        return once

    def transacts(self, name: str) -> Callable[[int], None]:
        client = self.client()

        def once(number: int) -> None:
            # First a transaction in one write; then one command at a time, after a WATCH.
            with client.pipeline() as pipe:
                found = pipe.incr(name).incr(name).execute()
            self.assertEqual(found, [3 * number + 1, 3 * number + 2])

            def increase(pipe: redis.client.Pipeline) -> None:
                value = int(pipe.get(name))
                pipe.multi()
                pipe.set(name, value + 1)

            client.transaction(increase, name)
            self.assertEqual(int(client.get(name)), 3 * number + 3)

        return once

    def pushes(self, name: str, pause: float) -> Callable[[int], None]:
        client = self.client()

        def once(number: int) -> None:
            client.rpush(name, number)
            self.stop.wait(pause)

        return once

    def pops(self, name: str, got: list[int], timeout: int) -> Callable[[int], None]:
        client = self.client()

        def once(_: int) -> None:
            found = client.blpop([name], timeout)
            self.assertTrue(timeout or found)
            if found is not None:
                got.append(int(found[1]))

        return once

    def idles(self, name: str) -> Callable[[int], None]:
        client = self.client()

        def once(number: int) -> None:
            self.assertEqual(client.incr(name), number + 1)
            self.stop.wait(0.7)

        return once

    def test_each_replica_twice(self) -> None:
        replicas = [self.replica(), self.replica()]
        got: list[int] = []
        rarely: list[int] = []
        threads = [
            *(self.load(name, self.counts(name)) for name in ("count:1", "count:2")),
            self.load("count:3", self.counts("count:3", protocol=3)),
            self.load("value", self.sets("value")),
            self.load("transaction", self.transacts("transaction")),
            self.load("push", self.pushes("queue", 0.001)),
            self.load("pop:1", self.pops("queue", got, 1)),
            self.load("pop:2", self.pops("queue", got, 1)),
            # Rare pushes, so that the end of a replica finds clients blocked, without a time limit.
            self.load("push:rare", self.pushes("rare", 3.0)),
            *(self.load(f"pop:rare:{number}", self.pops("rare", rarely, 0)) for number in range(3)),
            self.load("idle", self.idles("idle")),
        ]
        self.addCleanup(self.stop.set)
        for _ in range(2):
            for place, old in enumerate(replicas):
                replicas[place] = self.roll(old)
                self.assertEqual(self.failures, [])
        self.stop.set()
        straight = self.server.client(3)
        until(lambda: "push:rare" in self.rounds, "all is pushed")
        straight.rpush("rare", *([-1] * 3))  # for the clients that still wait
        for thread in threads:
            thread.join(30)
        self.assertEqual(self.failures, [])
        # Every acknowledged write is there, once.
        for name in ("count:1", "count:2", "count:3", "idle"):
            self.assertEqual(int(straight.get(name)), self.rounds[name])
        self.assertEqual(int(straight.get("transaction")), 3 * self.rounds["transaction"])
        left = [int(item) for item in straight.lrange("queue", 0, -1)]
        self.assertEqual(sorted(got + left), list(range(self.rounds["push"])))
        self.assertEqual(sorted(item for item in rarely if item >= 0), list(range(self.rounds["push:rare"])))
        # All clients worked all the time.
        self.assertTrue(all(count > 10 for name, count in self.rounds.items() if "rare" not in name), self.rounds)
