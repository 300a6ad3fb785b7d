"""Measures what attacks on the status port do to a quiet tenant and to the kubelet's probes.

  python -m benchmarks.status_attacks [--rows NAMES] [--seconds N]
    [--variant NAME=[CHECKOUT] [OPTION …]] …

Beside the quiet tenant, which sends a PING every 4 ms, the same PING goes straight to Redis: that
shows the machine's own part. Each attack is a process of its own, which connects from 127.0.0.2. So
the proxy can tell it from the probes, as in a cluster. `benchmarks.attacks` has the attacks on the
ports for clients.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import math
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from redisproxy.resp.framing import encode
from tests.support.servers import MASTER_PASSWORD

from .load import percentile
from .peers import ROOT, TENANT_PASSWORD, Bench, Moment, Variant, install_programs, machine
from .run import ends_with_us, tell

ATTACKER = "127.0.0.2"
#: Seconds between two PINGs of the quiet tenant, two of its log-ins, and two probes.
PING_EVERY, LOGIN_EVERY, PROBE_EVERY = 0.004, 1.0, 0.5
#: Seconds until a PING or a log-in counts as failed, and a probe: the readiness probe's timeout.
LIMIT, PROBE_LIMIT = 30.0, 2.0
#: Beside an attack, the slowest PING may take at most so many ms.
WORST_GOAL = 50.0
#: Seconds between the start of an attack and the measurement, and after it.
SETTLE = 1.0


@dataclass
class Noticed:
    """What one window showed. Times in ms: of PINGs through the proxy, of PINGs straight to Redis
    in between, of log-ins, and of probes.
    """

    pings: list[float] = field(default_factory=list)
    straight: list[float] = field(default_factory=list)
    logins: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def _connect(port: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=LIMIT, source_address=(ATTACKER, 0))
    found.settimeout(LIMIT)
    return found


def _pump(port: int, count: int, data: bytes) -> None:
    """Sends the same bytes again and again on so many connections, and reads all answers. Connects
    again when a connection ends.
    """
    selector = selectors.DefaultSelector()

    def add() -> None:
        with contextlib.suppress(OSError):
            one = _connect(port)
            one.setblocking(False)
            selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE, [data])

    for _ in range(count):
        add()
    while True:
        for key, events in selector.select(1.0):
            one, rest = key.fileobj, key.data
            try:
                if events & selectors.EVENT_READ and not one.recv(65536):
                    raise ConnectionResetError
                if events & selectors.EVENT_WRITE:
                    rest[0] = rest[0][one.send(rest[0]) :] or data
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(one)
                one.close()
        for _ in range(count - len(selector.get_map())):
            add()


def _one_by_one(path: bytes, count: int) -> Callable[[int], None]:
    """An attack by requests that each wait for the answer before, on so many connections."""
    request = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path

    def attack(port: int) -> None:
        def ask() -> None:
            while True:
                try:
                    with _connect(port) as one:
                        while True:
                            one.sendall(request)
                            if not one.recv(65536):
                                break
                except OSError:
                    time.sleep(0.001)

        for _ in range(count):
            threading.Thread(target=ask, daemon=True).start()
        threading.Event().wait()

    return attack


def _pipelined(path: bytes, count: int) -> Callable[[int], None]:
    request = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path
    return lambda port: _pump(port, count, request * (65536 // len(request)))


def _slow(port: int) -> None:
    """64 connections, a byte each in 5 s. Connects again when a connection ends."""
    open_: list[socket.socket] = []
    while True:
        for one in open_[:]:
            try:
                one.send(b"G")
                one.setblocking(False)
                if not one.recv(1):
                    raise ConnectionResetError
            except BlockingIOError:
                pass
            except OSError:
                open_.remove(one)
                one.close()
        while len(open_) < 64:
            with contextlib.suppress(OSError):
                open_.append(_connect(port))
        time.sleep(1.0)


def _storm(port: int) -> None:
    """Connects and leaves, as fast as connections are accepted."""
    while True:
        with contextlib.suppress(OSError):
            _connect(port).close()


def _deaf(port: int) -> None:
    """64 connections ask for the metrics and read nothing."""
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    open_: list[socket.socket] = []
    while True:
        for one in open_[:]:
            try:
                one.sendall(request)
            except OSError:
                open_.remove(one)
                one.close()
        while len(open_) < 64:
            with contextlib.suppress(OSError):
                one = _connect(port)
                one.setblocking(False)
                open_.append(one)
        time.sleep(0.05)


#: The attacks, by the name of their row.
ATTACKS: dict[str, Callable[[int], None]] = {
    "livez-pipelined": _pipelined(b"/livez", 1),
    "livez-pipelined-64": _pipelined(b"/livez", 64),
    "slow-bytes": _slow,
    "nowhere": _one_by_one(b"/nowhere", 20),
    "nowhere-pipelined-64": _pipelined(b"/nowhere", 64),
    "metrics": _one_by_one(b"/metrics", 20),
    "page": _one_by_one(b"/", 20),
    "large-heads": lambda port: _pump(
        port, 64, b"GET /livez HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(499)) + b"\r\n"
    ),
    "connect-storm": _storm,
    "deaf": _deaf,
}


@contextmanager
def attack(name: str, port: int) -> Iterator[None]:
    """Runs one attack, in a process of its own, while the context lasts."""
    command = [sys.executable, "-m", "benchmarks.status_attacks", "--attack", name, str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


class _Client:
    """A connection that is logged in. Raises OSError."""

    def __init__(self, port: int, password: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self.ask(b"AUTH", password.encode(), expected=b"+OK\r\n")

    def ask(self, *words: bytes, expected: bytes) -> float:
        """Sends a command and returns how long its answer took, in ms."""
        began = time.perf_counter()
        self._socket.sendall(encode(words))
        answer = self._socket.recv(4096)
        if answer != expected:
            raise ConnectionError(f"the answer was {answer[:80]!r}")
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        self._socket.close()


def notice(port: int, straight_port: int, status_port: int, seconds: float) -> Noticed:
    """Sends PINGs, log-ins and probes for a while."""
    found, end = Noticed(), time.monotonic() + seconds

    def probe() -> None:
        while time.monotonic() < end:
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", status_port, timeout=PROBE_LIMIT)
            try:
                connection.request("GET", "/livez", headers={"Connection": "close"})
                connection.getresponse().read()
                found.probes.append((time.perf_counter() - began) * 1000)
            except (OSError, http.client.HTTPException) as error:
                found.failed.append(f"probe: {error!r}")
            finally:
                connection.close()
            time.sleep(PROBE_EVERY)

    def ping(port: int, password: str, times: list[float], what: str) -> None:
        client = None
        while time.monotonic() < end:
            try:
                client = client or _Client(port, password)
                times.append(client.ask(b"PING", expected=b"+PONG\r\n"))
            except OSError as error:
                client = None
                found.failed.append(f"{what}: {error!r}")
            time.sleep(PING_EVERY)

    def log_in() -> None:
        while time.monotonic() < end:
            began = time.perf_counter()
            try:
                _Client(port, TENANT_PASSWORD).close()
                found.logins.append((time.perf_counter() - began) * 1000)
            except OSError as error:
                found.failed.append(f"log-in: {error!r}")
            time.sleep(LOGIN_EVERY)

    threads = [
        threading.Thread(target=probe),
        threading.Thread(target=log_in),
        threading.Thread(target=ping, args=(straight_port, MASTER_PASSWORD, found.straight, "straight")),
        threading.Thread(target=ping, args=(port, TENANT_PASSWORD, found.pings, "PING")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def table(rows: dict[str, list[Noticed]]) -> str:
    """Returns a Markdown table. rows: the windows, by the name of their attack."""
    lines = [
        "| attack | PING p50 | p99 | worst | straight p99 | worst | slowest log-in | slowest probe | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, windows in rows.items():
        of = {
            kind: sorted(time for window in windows for time in getattr(window, kind)) or [float("nan")]
            for kind in ("pings", "straight", "logins", "probes")
        }
        times = [
            *(percentile(of["pings"], share) for share in (0.5, 0.99)),
            of["pings"][-1],
            percentile(of["straight"], 0.99),
            *(of[kind][-1] for kind in ("straight", "logins", "probes")),
        ]
        failed = [what.partition(":")[0] for window in windows for what in window.failed]
        shown = ", ".join(f"{failed.count(what)} {what}" for what in dict.fromkeys(failed)) or "none"
        lines.append(f"| {name} | {' | '.join(f'{time:.1f}' for time in times)} | {shown} |")
    return "\n".join(lines)


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, list[Noticed]]:
    """Measures each attack, and the time without one before, for each variant."""
    found: dict[str, list[Noticed]] = {}
    for variant in options.variant:
        peer = bench.proxy(replace(variant, options=(*variant.options, "--status", "tcp:0")))
        for name in ("none", *options.rows):
            with nullcontext() if name == "none" else attack(name, peer.status_port):
                time.sleep(SETTLE)
                window = notice(peer.port, bench.straight.port, peer.status_port, options.seconds)
            found.setdefault(f"{variant.name}: {name}", []).append(window)
            tell(f"{variant.name}: {name}: worst PING {max(window.pings, default=math.nan):.1f} ms")
            time.sleep(SETTLE)
    return found


def main() -> int:
    """Runs the whole benchmark, or the process of one attack."""
    if sys.argv[1:2] == ["--attack"]:
        ATTACKS[sys.argv[2]](int(sys.argv[3]))
    parser = argparse.ArgumentParser(prog="benchmarks.status_attacks", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ATTACKS), help=", ".join(ATTACKS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--variant", action="append", type=Variant.parse, metavar="NAME=[CHECKOUT] [OPTION …]")
    options = parser.parse_args()
    options.variant = options.variant or [Variant("proxy")]
    install_programs()
    before = Moment.now()
    with ends_with_us(), Bench() as bench:
        rows = measure(bench, options)
        others = Moment.now().others_since(before)
    print(f"{machine()}; {others:.0%} of it went to others. Times in ms, {options.seconds:g} s each.\n")
    print(table(rows))
    held = all(max(one.pings, default=math.inf) < WORST_GOAL and not one.failed for each in rows.values() for one in each)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
