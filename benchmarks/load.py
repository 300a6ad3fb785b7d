"""Makes the load: with redis-benchmark where possible, else with a generator in its own process.

The generator is the same for all peers, speaks over raw sockets, and compares every reply with the
expected one.

    python -m benchmarks.load closed|open|idle|pubsub JSON
"""

from __future__ import annotations

import csv
import json
import math
import resource
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.raw import RawClient
from tests.support.servers import debian

from .peers import ROOT, Peer

#: Seconds after which a measurement that should take a few seconds is given up.
LIMIT = 90.0
#: Bytes of a message.
SIZE = 64
#: Seconds of each piece of the timeline of an open-loop measurement.
SLICE = 0.1


class LoadError(Exception):
    """A measurement without a result. The text gives the reason."""


@dataclass(frozen=True)
class Sample:
    """One measurement. rate: requests per second; p50, p99: ms; cpu: µs of the peer's CPU time per
    request.
    """

    rate: float
    p50: float
    p99: float
    cpu: float = math.nan


# redis-benchmark


@dataclass(frozen=True)
class RedisBenchmark:
    """Load that redis-benchmark makes. arguments: those of redis-benchmark, and the command if it
    is not one of its tests.
    """

    arguments: tuple[str, ...]
    tls: bool = False

    def run(self, peer: Peer, requests: int, ca: Path) -> Sample:
        """Sends this many requests and returns the measurement."""
        command = [debian("redis-benchmark"), "-h", "127.0.0.1", "-a", peer.password, "--csv", "-n", str(requests)]
        if self.tls:
            command += ["-p", str(peer.tls_port), "--tls", "--cacert", str(ca)]
        else:
            command += ["-p", str(peer.port)]
        before = peer.cpu()
        try:
            done = subprocess.run([*command, *self.arguments], capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise LoadError(f"redis-benchmark did not end within {LIMIT:g} s") from None
        cpu = (peer.cpu() - before) * 1e6 / requests
        return parse_csv(done.stdout, done.stderr, cpu)


def parse_csv(text: str, errors: str = "", cpu: float = math.nan) -> Sample:
    """Reads the output of ``redis-benchmark --csv`` for one test. Raises LoadError, because an
    error reply ends redis-benchmark without a result.
    """
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != 1 or rows[0].get("p99_latency_ms") is None:
        # Its warnings, for example about CONFIG, are no errors.
        told = [line for line in [*text.splitlines(), *errors.splitlines()] if line and not line.startswith("WARNING")]
        raise LoadError(f"redis-benchmark: {' '.join(told)[-300:] or 'no result'}")
    row = rows[0]
    return Sample(float(row["rps"]), float(row["p50_latency_ms"]), float(row["p99_latency_ms"]), cpu)


# The generator's caller


@dataclass(frozen=True)
class ClosedLoop:
    """Connections that each send `request` as one write, wait for `reply`, and begin again.

    commands: the number of commands in `request`.
    """

    request: bytes
    reply: bytes
    commands: int
    connections: int

    def run(self, peer: Peer, requests: int, ca: Path) -> Sample:
        """Sends this many requests and returns the measurement."""
        trips = max(requests // self.commands, self.connections)
        before = peer.cpu()
        answer = _generate(
            "closed",
            port=peer.port,
            password=peer.password,
            request=self.request.decode(),
            reply=self.reply.decode(),
            connections=self.connections,
            trips=trips,
        )
        cpu = (peer.cpu() - before) * 1e6 / (trips * self.commands)
        return Sample(answer["rate"] * self.commands, answer["p50"], answer["p99"], cpu)


@dataclass(frozen=True)
class PubSub:
    """Pairs of a subscriber and a publisher with a channel of their own.

    Again and again the subscriber subscribes, the publisher sends a message, and the subscriber
    unsubscribes.
    """

    pairs: int

    def run(self, peer: Peer, requests: int, ca: Path) -> Sample:
        """Sends this many requests, three for each message, and returns the measurement.

        p50, p99: of all three together.
        """
        trips = max(requests // 3, self.pairs)
        before = peer.cpu()
        answer = _generate("pubsub", port=peer.port, password=peer.password, pairs=self.pairs, trips=trips)
        cpu = (peer.cpu() - before) * 1e6 / (trips * 3)
        return Sample(answer["rate"] * 3, answer["p50"], answer["p99"], cpu)


@dataclass(frozen=True)
class Timeline:
    """An open-loop measurement. slices: the p99 of each 0.1 s, in ms."""

    p50: float
    p99: float
    slices: tuple[float, ...]


@contextmanager
def open_loop(peer: Peer, rate: float, seconds: float, connections: int = 50) -> Iterator[list[Timeline]]:
    """Sends GETs at a steady rate while the context runs. The list has the result after the
    context.
    """
    found: list[Timeline] = []
    process = _start("open", port=peer.port, password=peer.password, rate=rate, seconds=seconds, connections=connections)
    try:
        yield found
        answer = _answer(process, seconds + LIMIT)
        found.append(Timeline(answer["p50"], answer["p99"], tuple(answer["slices"])))
    finally:
        _end(process)


@contextmanager
def idle_sessions(peer: Peer, count: int) -> Iterator[None]:
    """Keeps this many clients that have logged in and sent one GET, idle while the context runs."""
    process = _start("idle", port=peer.port, password=peer.password, count=count)
    try:
        if not process.stdout.readline():
            raise LoadError(f"no {count} idle sessions: {process.stderr.read().strip()[-300:]}")
        yield
    finally:
        _end(process)


def _start(kind: str, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.load", kind, json.dumps(options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _answer(process: subprocess.Popen, limit: float) -> dict:
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise LoadError(f"the generator did not end within {limit:g} s") from None
    if process.returncode:
        raise LoadError(f"the generator: {errors.strip()[-300:]}")
    return json.loads(out)


def _generate(kind: str, **options: object) -> dict:
    process = _start(kind, **options)
    try:
        return _answer(process, LIMIT)
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


# The generator's process


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the smallest of the ordered values that this share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def _connect(port: int, password: str) -> socket.socket:
    """Returns the socket of a connection that has logged in. The loops below read the socket
    themselves, because they are what is measured.
    """
    return RawClient(port, b"AUTH", password.encode(), timeout=30).socket


def _summary(latencies: list[float]) -> dict[str, float]:
    latencies.sort()
    return {"p50": percentile(latencies, 0.5) * 1e3, "p99": percentile(latencies, 0.99) * 1e3}


def _closed(port: int, password: str, request: str, reply: str, connections: int, trips: int) -> dict[str, float]:
    sent, expected = request.encode(), reply.encode()
    sockets = {c.fileno(): c for c in (_connect(port, password) for _ in range(connections))}
    epoll = select.epoll()
    clock = time.perf_counter
    parts: dict[int, bytes] = {}
    began: dict[int, float] = {}
    latencies: list[float] = []
    left = trips - connections
    start = clock()
    for number, connection in sockets.items():
        epoll.register(number, select.EPOLLIN)
        began[number] = clock()
        connection.sendall(sent)
    while len(latencies) < trips:
        for number, _ in epoll.poll(30):
            connection = sockets[number]
            data = connection.recv(65536)
            if data != expected:
                if not data:
                    raise SystemExit("a connection was closed")
                data = parts.pop(number, b"") + data
                if data != expected:
                    if not expected.startswith(data):
                        raise SystemExit(f"an unexpected reply: {data[:200]!r}")
                    parts[number] = data
                    continue
            now = clock()
            latencies.append(now - began[number])
            if left > 0:
                left -= 1
                began[number] = now
                connection.sendall(sent)
    return {"rate": trips / (clock() - start), **_summary(latencies)}


def _open(port: int, password: str, rate: float, seconds: float, connections: int) -> dict[str, object]:
    """Sends each request when it is due, even if earlier ones are unanswered: a stall counts for
    all requests that became due meanwhile.
    """
    request, expected = b"*2\r\n$3\r\nGET\r\n$10\r\nbench:open\r\n", b"$64\r\n%s\r\n" % (b"x" * 64)
    size = len(expected)
    sockets = [_connect(port, password) for _ in range(connections)]
    sockets[0].sendall(b"*3\r\n$3\r\nSET\r\n$10\r\nbench:open\r\n" + expected)
    if sockets[0].recv(100) != b"+OK\r\n":
        raise SystemExit("SET was refused")
    epoll = select.epoll()
    clock = time.perf_counter
    waiting: dict[int, deque[float]] = {}
    parts: dict[int, bytes] = {}
    by_number = {}
    for connection in sockets:
        epoll.register(connection, select.EPOLLIN)
        by_number[connection.fileno()] = connection
        waiting[connection.fileno()] = deque()
    turn = [(connection, waiting[connection.fileno()]) for connection in sockets]
    latencies: list[float] = []
    slices: list[list[float]] = [[] for _ in range(math.ceil(seconds / SLICE))]
    total, count = int(rate * seconds), 0
    start = clock()
    while len(latencies) < total:
        due = min(total, int((clock() - start) * rate) + 1)
        while count < due:
            connection, queue = turn[count % connections]
            queue.append(clock())
            connection.sendall(request)
            count += 1
        # Python's epoll waits for whole milliseconds. Requests that become due meanwhile are sent
        # together.
        events = epoll.poll(0.001 if count < total else 30)
        if not events and count == total:
            raise SystemExit("no reply for 30 s")
        for number, _ in events:
            data = parts.pop(number, b"") + by_number[number].recv(65536)
            now = clock()
            whole = len(data) // size
            if data[: whole * size] != expected * whole or not data:
                raise SystemExit(f"an unexpected reply: {data[:200]!r}")
            if whole * size != len(data):
                parts[number] = data[whole * size :]
            queue = waiting[number]
            for _ in range(whole):
                began = queue.popleft()
                latencies.append(now - began)
                slices[min(int((began - start) / SLICE), len(slices) - 1)].append(now - began)
    return {"slices": [percentile(sorted(each), 0.99) * 1e3 for each in slices], **_summary(latencies)}


class _Pair:
    """A subscriber and a publisher, and what each has to hear before the next step."""

    def __init__(self, port: int, password: str, number: int) -> None:
        self.subscriber, self.publisher = _connect(port, password), _connect(port, password)
        channel = b"bench:%d" % number
        name = b"$%d\r\n%s\r\n" % (len(channel), channel)
        value = b"$%d\r\n%s\r\n" % (SIZE, b"x" * SIZE)
        #: for each step: who sends what, and what the subscriber and the publisher hear
        self.steps = (
            (self.subscriber, b"*2\r\n$9\r\nSUBSCRIBE\r\n" + name, b"*3\r\n$9\r\nsubscribe\r\n" + name + b":1\r\n", b""),
            (
                self.publisher,
                b"*3\r\n$7\r\nPUBLISH\r\n" + name + value,
                b"*3\r\n$7\r\nmessage\r\n" + name + value,
                b":1\r\n",
            ),
            (
                self.subscriber,
                b"*2\r\n$11\r\nUNSUBSCRIBE\r\n" + name,
                b"*3\r\n$11\r\nunsubscribe\r\n" + name + b":0\r\n",
                b"",
            ),
        )
        self.step = 0
        self.began = 0.0
        self.expected: dict[int, bytes] = {}

    def send(self) -> None:
        sender, sent, heard, answered = self.steps[self.step]
        self.expected = {self.subscriber.fileno(): heard, self.publisher.fileno(): answered}
        sender.sendall(sent)

    def received(self, number: int, data: bytes) -> bool:
        """Returns whether all three steps are over."""
        expected = self.expected[number]
        if not data or not expected.startswith(data):
            raise SystemExit(f"an unexpected reply: {data[:200]!r}" if data else "a connection was closed")
        self.expected[number] = expected[len(data) :]
        if any(self.expected.values()):
            return False
        self.step = (self.step + 1) % 3
        if self.step:
            self.send()
        return not self.step


def _pubsub(port: int, password: str, pairs: int, trips: int) -> dict[str, float]:
    epoll = select.epoll()
    clock = time.perf_counter
    by_number: dict[int, tuple[_Pair, socket.socket]] = {}
    all_pairs = [_Pair(port, password, number) for number in range(pairs)]
    for pair in all_pairs:
        for connection in (pair.subscriber, pair.publisher):
            by_number[connection.fileno()] = pair, connection
            epoll.register(connection, select.EPOLLIN)
    latencies: list[float] = []
    left = trips - pairs
    start = clock()
    for pair in all_pairs:
        pair.began = clock()
        pair.send()
    while len(latencies) < trips:
        for number, _ in epoll.poll(30):
            pair, connection = by_number[number]
            if pair.received(number, connection.recv(65536)):
                now = clock()
                latencies.append(now - pair.began)
                if left > 0:
                    left -= 1
                    pair.began = now
                    pair.send()
    return {"rate": trips / (clock() - start), **_summary(latencies)}


def _idle(port: int, password: str, count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for _ in range(count):
        connection = _connect(port, password)
        connection.sendall(b"*2\r\n$3\r\nGET\r\n$10\r\nbench:idle\r\n")
        reply = connection.recv(1000)
        if reply != b"$-1\r\n":
            raise SystemExit(f"GET was answered with {reply!r}")
        held.append(connection)
    print("ready", flush=True)
    sys.stdin.read()


def main() -> None:
    """Runs the process of the generator."""
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    answer = {"closed": _closed, "open": _open, "idle": _idle, "pubsub": _pubsub}[kind](**options)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
