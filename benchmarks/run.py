"""`make bench`: starts everything, measures in interleaved rounds, and prints and writes the
tables.

  python -m benchmarks.run [--cases NAMES] [--rounds N] [--seconds N]
    [--variant NAME=[CHECKOUT] [OPTION …]] …
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from . import report
from .cases import (
    CASES,
    ELEMENTS,
    HAPROXY,
    IDLE,
    IDLE_SESSIONS,
    KEYS,
    LARGE,
    LARGE_KEY,
    LIST_KEY,
    NAMES,
    REFRESH,
    REFRESH_TENANTS,
    SIZE,
    TWEMPROXY,
    Case,
)
from .load import LoadError, Timeline, idle_sessions, open_loop
from .peers import ROOT, Bench, Moment, Peer, ProxyPeer, Variant, install_programs
from .report import Idle, Rates, Refresh, Results

#: The least seconds of a try from which the number of requests of a measurement is computed.
SHORTEST_TRY = 0.3
#: Seconds of load without reloads, and as many with one after the other: longer than one reload
#: takes.
WINDOW = 10.0
#: Seconds without a request to the API after which a reload is over.
QUIET = 1.0
#: The most checks for such a pause.
SETTLE = 60


def tell(text: str) -> None:
    """Prints progress on the standard error, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def fill(bench: Bench) -> None:
    """Writes the values that the clients read."""
    with bench.redis.client() as client:
        client.mset({f"key:{number:012}": b"x" * SIZE for number in range(KEYS)})
        client.rpush(LIST_KEY, *[b"x" * SIZE] * ELEMENTS)
        client.set(LARGE_KEY, b"x" * LARGE)


# Rates


def calibrate(case: Case, peer: Peer, seconds: float, ca: Path) -> int:
    """Returns how many requests take this many seconds. It is also a warm-up."""
    requests = case.guess
    while True:
        rate = case.load.run(peer, requests, ca).rate
        if requests / rate >= SHORTEST_TRY:
            return max(case.guess, int(rate * seconds * case.longer))
        requests = int(rate * 2 * SHORTEST_TRY)


def measure_rates(
    bench: Bench, cases: Sequence[Case], variants: Sequence[Variant], rounds: int, seconds: float
) -> list[Rates]:
    """Measures all cases in each round, and all peers in each case, so that other work of the
    machine affects all alike.

    Every other round has the reverse order: of two checkouts, the one that was measured first was
    some per cent slower.
    """
    peers: list[Peer] = [bench.proxy(variant) for variant in variants]
    peers += [bench.haproxy(), bench.twemproxy(), bench.straight]
    found = [Rates(case) for case in cases]
    requests: dict[tuple[int, str], int] = {}
    for turn in range(rounds):
        for number, (case, rates) in enumerate(zip(cases, found, strict=True)):
            for peer in reversed(peers) if turn % 2 else peers:
                if (peer.name == TWEMPROXY and case.without) or peer.name in rates.failed:
                    continue
                try:
                    if (number, peer.name) not in requests:
                        requests[number, peer.name] = calibrate(case, peer, seconds, bench.authority.path)
                    sample = case.load.run(peer, requests[number, peer.name], bench.authority.path)
                except LoadError as error:
                    tell(f"{case.title}: {peer.name}: {error}")
                    rates.failed[peer.name] = str(error)
                    continue
                rates.samples.setdefault(peer.name, []).append(sample)
                tell(f"round {turn + 1}/{rounds}  {case.title}: {peer.name} {sample.rate:,.0f}/s, p99 {sample.p99:.2f} ms")
    for peer in peers:
        peer.stop()
    return found


# Idle sessions


def measure_idle(bench: Bench, variants: Sequence[Variant]) -> list[Idle]:
    """Starts a fresh process of each peer: a process that has served many clients has free memory,
    which would hide the need.
    """
    found = []
    for start in (*(lambda v=v: bench.proxy(v) for v in variants), bench.haproxy, bench.twemproxy, lambda: bench.straight):
        peer = start()
        connections = bench.connections()
        with idle_sessions(peer, 50):  # warms up what is made only once
            pass
        memory = peer.resident()
        with idle_sessions(peer, IDLE_SESSIONS):
            grown = (peer.resident() - memory) / IDLE_SESSIONS
            found.append(Idle(peer.name, grown, bench.connections() - connections))
        tell(
            f"{IDLE_SESSIONS:,} idle sessions: {peer.name} {grown / 1024:.1f} KiB each, {found[-1].connections} connections"
        )
        peer.stop()
    return found


# Refreshes


class TenantsApi:
    """The Kubernetes API server of `tenants`, as a process."""

    def __init__(self, redis_url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.tenants", str(REFRESH_TENANTS), redis_url]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.kubeconfig = self._process.stdout.readline().strip()

    def __enter__(self) -> TenantsApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
        self._process.stdout.close()

    def requests(self) -> int:
        """Returns the number of requests so far."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def settle(self) -> None:
        """Waits until no request arrives for QUIET seconds, at most SETTLE times as long: a source
        may watch, and asks again each time that a watch ends.
        """
        before = -1
        for _ in range(SETTLE):
            now = self.requests()
            if now == before:
                return
            before = now
            time.sleep(QUIET)


def measure_refresh(bench: Bench, variants: Sequence[Variant], rounds: int) -> list[Refresh]:
    """Measures at half of the rate that the variant reaches at P=1 with 50 connections: the
    clients' p99 without reloads, and with one per second.
    """
    with TenantsApi(bench.redis.url) as api:
        # The start shows how many requests one read takes.
        found: list[tuple[ProxyPeer, Refresh]] = []
        full = next(case for case in CASES if case.case == "p1-50")
        for variant in variants:
            before = api.requests()
            peer = bench.proxy(variant, (), {"KUBECONFIG": api.kubeconfig})
            api.settle()
            reading = api.requests() - before
            rate = full.load.run(peer, calibrate(full, peer, 2.0, bench.authority.path), bench.authority.path).rate / 2
            found.append((peer, Refresh(peer.name, rate, reading)))
        for turn in range(rounds):
            for peer, refresh in found:
                refresh.quiet.append(_window(peer, refresh.rate, False))
                before = api.requests()
                refresh.busy.append(_window(peer, refresh.rate, True))
                refresh.reads.append((api.requests() - before) / refresh.requests)
                api.settle()
                tell(
                    f"round {turn + 1}/{rounds}  refresh: {peer.name} p99 {refresh.quiet[-1].p99:.2f} ms, "
                    f"with {refresh.reads[-1]:.1f} refreshes in {WINDOW:g} s {refresh.busy[-1].p99:.2f} ms"
                )
        for peer, _ in found:
            peer.stop()
    return [refresh for _, refresh in found]


def _window(peer: ProxyPeer, rate: float, refreshes: bool) -> Timeline:
    with open_loop(peer, rate, WINDOW) as result:
        for _ in range(int(WINDOW)):
            if refreshes:
                peer.refresh()
            time.sleep(1.0)
    return result[0]


# The command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the command's options."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help=f"with commas between, of: {', '.join(NAMES)}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument(
        "--variant",
        action="append",
        type=Variant.parse,
        metavar="NAME=[CHECKOUT] [OPTION …]",
        help="a proxy to measure: of another checkout, or with other options. Several are compared in one run",
    )
    parser.add_argument("--processes", metavar="N", help="also measure the proxy with so many processes that serve")
    parser.add_argument(
        "--output", type=Path, help="where to write RESULTS.md and pictures; default: here, if all cases ran"
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a goal is missed")
    options = parser.parse_args(arguments)
    options.cases = [name for name in options.cases.split(",") if name] or list(NAMES)
    unknown = sorted(set(options.cases) - set(NAMES))
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    options.variant = options.variant or [Variant("proxy")]
    if options.processes:
        options.variant.append(Variant(f"{options.processes} processes", options=("--processes", options.processes)))
    names = [variant.name for variant in options.variant]
    if len(set(names)) != len(names) or {HAPROXY, TWEMPROXY, "straight"} & set(names):
        parser.error("each variant needs a name of its own")
    if options.output is None and set(options.cases) == set(NAMES):
        options.output = ROOT / "benchmarks"
    return options


@contextmanager
def ends_with_us():
    """SIGTERM ends the context with an exception, so that the processes that it started end,
    too.
    """

    def leave(*_: object) -> None:
        raise SystemExit("stopped by a signal")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    """Runs the whole benchmark."""
    options = parse()
    install_programs()
    results = Results(options.variant, options.rounds)
    began, before = time.monotonic(), Moment.now()
    with ends_with_us(), Bench() as bench:
        fill(bench)
        cases = [case for case in CASES if case.case in options.cases]
        # The idle sessions come first, while no other client is connected to Redis.
        if IDLE in options.cases:
            with results.part(IDLE):
                results.idle = measure_idle(bench, options.variant)
        if cases:
            results.rates = measure_rates(bench, cases, options.variant, options.rounds, options.seconds)
        if REFRESH in options.cases:
            with results.part(REFRESH):
                results.refresh = measure_refresh(bench, options.variant, options.rounds)
        results.others = Moment.now().others_since(before)
    tell(f"measured in {(time.monotonic() - began) / 60:.1f} minutes")
    print(report.tables(results))
    if options.output is not None:
        report.write(results, options.output)
        tell(f"written to {options.output}")
    missed = results.failed or not all(verdict.met for verdict in report.verdicts(results))
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
