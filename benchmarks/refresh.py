"""Measures how much the reactor notices a reload and the events of a watch.

Runs the real reload service with 2,000 tenants behind the small Kubernetes API server. Its real
reactor also echoes what clients send at a steady rate. For each phase the script prints:

- the duration in seconds, and the CPU time as a share of it in per cent;
- how late the reactor's timers were: in all, and because of this process's own work;
- the round trips of the clients;
- the longest run of the garbage collector.

All times but the duration are in milliseconds.

    python benchmarks/refresh.py [--tenants N] [--secrets N] [--rate N] [--watch]

With --watch each phase of changes lasts from the first change until the last one is in force.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.apiserver import ApiServer
from tests.support.proxy import PREFIX, master, secret, tenant

MASTER = ("kube-system", "redis-secret-master")
#: Seconds between two checks of how late a timer is.
TICK = 0.001
#: Connections of the clients.
CONNECTIONS = 50
#: Other content that a typical object of a real cluster has.
BALLAST = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 400}


# The API server's process.


def documents(tenants: int, secrets: int) -> Iterator[dict]:
    yield master("redis://:master-password@127.0.0.1:6379/0")
    for number in range(tenants):
        name, url = f"{PREFIX}{number:05}", f"redis://:{{}}-{number}@redis:6379/{number}"
        yield from tenant(name, number, f"password-{number}")
        for which in range(secrets - 1):
            yield secret(
                name, f"redis-secret-temp-{which}", redis_connection_string=url.format(f"temp-{which}"), valid_hours="500"
            )


def serve(options: argparse.Namespace) -> None:
    """Prints the path of its kubeconfig. For each line on the standard input, a number and a word,
    that many tenants get another password.
    """
    api = ApiServer(tls=True)
    for document in documents(options.tenants, options.secrets):
        document["metadata"]["annotations"] = BALLAST
        api.put(document)
    gc.freeze()
    api.start()
    print(api.kubeconfig, flush=True)
    try:
        for line in sys.stdin:
            count, word = line.split()
            for number in range(7, 7 + int(count)):
                _, changed = tenant(f"{PREFIX}{number:05}", number, f"{word}-{number}")
                api.put(changed)
            print("done", flush=True)
    finally:
        api.remove()


# The clients' process.


def send(options: argparse.Namespace) -> None:
    """Makes round trips at a steady rate: a connection sends its next request a random time after
    the last reply. Each line on the standard input asks for the numbers so far.
    """
    waiting = select.epoll()
    waiting.register(sys.stdin, select.EPOLLIN)
    connections = {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", options.port))
        connections[connection.fileno()] = connection
        waiting.register(connection, select.EPOLLIN)
    pause = CONNECTIONS / options.rate
    due = [(time.perf_counter() + pause * random.random(), number) for number in connections]
    heapq.heapify(due)
    sent: dict[int, float] = {}
    took: list[float] = []
    while True:
        now = time.perf_counter()
        while due and due[0][0] <= now:
            _, number = heapq.heappop(due)
            sent[number] = time.perf_counter()
            connections[number].sendall(b"x" * 64)
        for number, _ in waiting.poll(max(0.0, due[0][0] - time.perf_counter()) if due else None):
            if number in connections:
                connections[number].recv(64)
                now = time.perf_counter()
                took.append(now - sent[number])
                heapq.heappush(due, (now + 2 * pause * random.random(), number))
            elif sys.stdin.readline():
                print(json.dumps(stats(took)), flush=True)
                took.clear()
            else:
                return


def stats(values: list[float]) -> dict[str, float]:
    """Returns the p50, p99 and maximum in milliseconds, of values in seconds."""
    values = sorted(values) or [0.0]
    at = {"p50": 0.5, "p99": 0.99}
    return {name: 1000 * values[int(len(values) * part)] for name, part in at.items()} | {"max": 1000 * values[-1]}


# The process that is measured.


class Lateness:
    """How late the reactor's timers are, in seconds; and how much CPU time this process used
    meanwhile, in seconds.

    The CPU time does not include the work of other processes, so that it also has a meaning on a
    busy machine.
    """

    def __init__(self, reactor: object) -> None:
        self._reactor = reactor
        self.values: list[float] = []
        self.own: list[float] = []
        self._tick(time.perf_counter(), time.process_time())

    def _tick(self, due: float, used: float) -> None:
        now, using = time.perf_counter(), time.process_time()
        self.values.append(max(0.0, now - due))
        self.own.append(using - used)
        self._reactor.callLater(TICK, self._tick, now + TICK, using)


class Peer:
    """A process of this script that answers each line with a line. It is asked in a thread."""

    def __init__(self, role: str, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--role", role, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        return self._process.stdout.readline().strip()

    def ask(self, text: str = "") -> str:
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()
        return self.line()

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


def resident() -> int:
    """Returns the resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


async def measure(reactor: object, options: argparse.Namespace) -> None:
    from twisted.internet import protocol, task, threads

    from redisproxy.processes.os_process import settle
    from redisproxy.sources import kubernetes
    from redisproxy.sources.hints import ChangeQueue
    from redisproxy.sources.kubernetes_api import KubernetesApi
    from redisproxy.sources.kubernetes_watch import ClusterWatches
    from redisproxy.sources.reload import ReloadService
    from redisproxy.sources.watch import WatchService
    from redisproxy.tenants.enrolment import Enrolment
    from redisproxy.tenants.model import AuthenticationError

    class Echo(protocol.Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(data)

    parsed = [0]
    parse = kubernetes.read_secret

    def counted(*arguments: object) -> object:
        parsed[0] += 1
        return parse(*arguments)

    kubernetes.read_secret = counted
    api = Peer("api", f"--tenants={options.tenants}", f"--secrets={options.secrets}")
    kubeconfig = await threads.deferToThread(api.line)
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
    clients = Peer("clients", f"--port={port.getHost().port}", f"--rate={options.rate}")
    source = kubernetes.ClusterSource(
        PREFIX, MASTER[1], MASTER, KubernetesApi(443, {"KUBECONFIG": kubeconfig}, timeout=(5, 30))
    )
    queue = ChangeQueue()
    service = ReloadService(reactor, source, Enrolment(MASTER[1], MASTER), 3600, changes=queue)
    watch = WatchService(
        reactor, ClusterWatches(source.api, PREFIX, MASTER[1], MASTER), MASTER, queue, service.changed, lambda: None
    )
    told: list[object] = []
    service.listeners.append(told.append)
    service.listeners.append(lambda _: len(told) == 1 and settle())
    lateness = Lateness(reactor)
    pauses: list[float] = []
    gc.callbacks.append(lambda phase, info: pauses.append(time.perf_counter() * (1 if phase == "stop" else -1)))

    def holds(password: str) -> bool:
        try:
            return bool(service.snapshot.authenticate(None, password.encode(), time.time()))
        except AuthenticationError:
            return False

    async def phase(name: str, start: object, until: str | None = None) -> None:
        """start: begins a reload, or None for a phase without one. until: a password; the phase
        then ends when this password is in force.
        """
        await threads.deferToThread(clients.ask)
        lateness.values.clear()
        lateness.own.clear()
        pauses.clear()
        parsed[0] = 0
        changes, before, spent, began = len(told), service.reloaded_at, time.process_time(), time.perf_counter()
        if start is None:
            await task.deferLater(reactor, 5, lambda: None)
        else:
            start()
            while not holds(until) if until else service.reloaded_at == before:
                await task.deferLater(reactor, 0.01, lambda: None)
            # the delay that the reload causes must be in the numbers
            await task.deferLater(reactor, 0.3, lambda: None)
        took, cpu = time.perf_counter() - began, time.process_time() - spent
        late, own = stats(lateness.values), stats(lateness.own)
        trips = json.loads(await threads.deferToThread(clients.ask))
        longest = max((stop + start for start, stop in zip(pauses[::2], pauses[1::2], strict=False)), default=0.0)
        print(
            f"{name:26} {took:6.2f} s, cpu {100 * cpu / took:3.0f}% | late p99 {late['p99']:6.2f} max {late['max']:7.2f}"
            f" | own p99 {own['p99']:5.2f} max {own['max']:6.2f} | trips p50 {trips['p50']:5.2f} p99 {trips['p99']:6.2f}"
            f" max {trips['max']:7.2f} | gc {1000 * longest:6.2f} ms | {parsed[0]} parsed, told {len(told) - changes},"
            f" {resident()} MiB",
            flush=True,
        )

    await phase("nothing", None)
    await phase("first reading", service.startService)
    for number in range(options.rounds):
        await phase("nothing", None)
        await phase("a refresh, nothing changed", service.refresh)
        await threads.deferToThread(api.ask, f"1 round-{number}")
        await phase("a refresh, one changed", service.refresh)
        if options.watch and not watch.running:
            watch.startService()
            while not watch.watching or queue:
                await task.deferLater(reactor, 0.1, lambda: None)
        for count in (1, 1, 500) if options.watch else ():
            word = f"watched-{number}-{count}-{len(told)}"
            await phase(
                f"watched, {count} changed",
                lambda count=count, word=word: threads.deferToThread(api.ask, f"{count} {word}"),
                f"{word}-{6 + count}",
            )
        if options.watch:
            word = f"during-{number}"

            def both(word: str = word) -> None:
                service.refresh()
                reactor.callLater(2, threads.deferToThread, api.ask, f"1 {word}")

            await phase("watched, 1 in a refresh", both, f"{word}-7")
            while service._working:
                await task.deferLater(reactor, 0.1, lambda: None)
    tenants, credentials = len(service.snapshot.tenants), len(service.snapshot.credentials)
    print(
        f"{tenants} tenants, {credentials} credentials, {len(service.problems)} problems, {threading.active_count()} threads"
    )
    if watch.running:
        print(f"{watch.events} events")
        watch.stopService()
    service.stopService()
    await port.stopListening()
    await threads.deferToThread(clients.stop)
    await threads.deferToThread(api.stop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tenants", type=int, default=2000)
    parser.add_argument("--secrets", type=int, default=3, help="of each tenant")
    parser.add_argument("--rate", type=float, default=4000, help="round trips per second")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--watch", action="store_true", help="changes that a watch tells of, too")
    parser.add_argument("--role", choices=["measure", "api", "clients"], default="measure", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "api":
        serve(options)
    elif options.role == "clients":
        send(options)
    else:
        from twisted.internet import defer, epollreactor, task

        epollreactor.install()
        task.react(lambda reactor: defer.Deferred.fromCoroutine(measure(reactor, options)))


if __name__ == "__main__":
    main()
