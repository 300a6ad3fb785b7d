"""Measures what a noisy tenant does to the p99 of a quiet one.

  python -m benchmarks.noise [--limit COMMANDS] [--rounds N] [--seconds N] [--rate N]
    [--variant NAME=[CHECKOUT] [OPTION …]] …

The noise is 50 connections that send pipelines of 1,000 commands as fast as they are answered. The
quiet tenant's p99 is measured alone and beside the noise: without a limit, with a limit, and
without a proxy.

The noise also goes directly to Redis while the quiet tenant uses the proxy. That shows the part of
Redis and of the machine, which all of these processes share.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from tests.support.proxy import PREFIX, Manifests, master, tenant
from tests.support.servers import MASTER_PASSWORD, debian

from .load import Timeline, open_loop
from .peers import TENANT, TENANT_PASSWORD, Bench, Moment, Peer, Variant, install_programs, machine
from .run import ends_with_us, tell

NOISY, NOISY_PASSWORD = f"{PREFIX}noisy", "password-of-the-noisy-one"
#: Connections of the noisy tenant, and commands that each sends at once.
CONNECTIONS, PIPELINE = 50, 1000
#: Connections of the quiet tenant.
QUIET_CONNECTIONS = 10
#: The p99 beside the noise may be at most this many times the p99 alone.
GOAL = 2.0


@dataclass
class Result:
    """alone, beside: measurements of the quiet tenant; noise: commands per second of the
    noisy one.
    """

    name: str
    alone: list[Timeline] = field(default_factory=list)
    beside: list[Timeline] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    def p(self, which: str, of: str) -> float:
        """Returns the median of the rounds, in ms."""
        return median(getattr(each, of) for each in getattr(self, which))

    @property
    def ratio(self) -> float:
        """The ratio of the two p99."""
        return self.p("beside", "p99") / self.p("alone", "p99")


@contextmanager
def noise(port: int, password: str) -> Iterator[None]:
    """Sends as many commands as are answered, while the context runs."""
    command = [debian("redis-benchmark"), "-h", "127.0.0.1", "-p", str(port), "-a", password, "-l", "-q"]
    command += ["-c", str(CONNECTIONS), "-P", str(PIPELINE), "-n", "100000000", "-d", "64", "-t", "set", "-r", "10000"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def documents(bench: Bench, limit: int) -> list[dict]:
    """Returns a quiet tenant and a noisy one. limit: commands per second of the noisy tenant; 0: no
    limit.
    """
    noisy = tenant(NOISY, 1, NOISY_PASSWORD)
    if limit:
        noisy[0]["metadata"]["annotations"] = {"redisproxy/commands-per-second": str(limit)}
    return [master(bench.redis.url), *tenant(TENANT, 0, TENANT_PASSWORD), *noisy]


def measure(bench: Bench, options: argparse.Namespace) -> list[Result]:
    """Measures all cases in turns, so that other work of the machine affects all of them alike."""
    cases: list[tuple[Result, Peer, int, str]] = []
    for variant in options.variant:
        for limit in (0, options.limit):
            manifests = Manifests(documents(bench, limit))
            bench.callback(manifests.remove)
            peer = bench.proxy(variant, ("--manifests", str(manifests.path)))
            name = f"{variant.name}, " + (f"the noisy one limited to {limit:,}/s" if limit else "no limit")
            cases.append((Result(name), peer, peer.port, NOISY_PASSWORD))
            if not limit:
                name = f"{variant.name}, noise straight to Redis"
                cases.append((Result(name), peer, bench.straight.port, MASTER_PASSWORD))
    cases.append((Result("no proxy at all"), bench.straight, bench.straight.port, MASTER_PASSWORD))
    for turn in range(options.rounds):
        for result, peer, port, password in cases:
            result.alone.append(_window(peer, options))
            with noise(port, password):
                before, began = commands(bench), time.monotonic()
                result.beside.append(_window(peer, options))
                done = commands(bench) - before - options.rate * options.seconds
                result.noise.append(done / (time.monotonic() - began))
            tell(
                f"round {turn + 1}/{options.rounds}  {result.name}: p99 {result.alone[-1].p99:.2f} ms alone, "
                f"{result.beside[-1].p99:.2f} ms beside {result.noise[-1]:,.0f}/s"
            )
    return [result for result, *_ in cases]


def commands(bench: Bench) -> int:
    """Returns how many commands Redis has run."""
    with bench.redis.client() as client:
        return client.info("stats")["total_commands_processed"]


def _window(peer: Peer, options: argparse.Namespace) -> Timeline:
    with open_loop(peer, options.rate, options.seconds, QUIET_CONNECTIONS) as result:
        pass
    return result[0]


def table(results: list[Result]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        "| | p50 alone | p50 beside | p99 alone | p99 beside | ratio | noise |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        times = [result.p(which, of) for of in ("p50", "p99") for which in ("alone", "beside")]
        shown = " | ".join(f"{time:.2f} ms" for time in times)
        lines.append(f"| {result.name} | {shown} | {result.ratio:.1f} | {median(result.noise):,.0f}/s |")
    return "\n".join(lines)


def main() -> int:
    """Runs the whole benchmark."""
    parser = argparse.ArgumentParser(prog="benchmarks.noise", description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=20_000, help="commands a second of the noisy one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rate", type=int, default=500, help="requests a second of the quiet one")
    parser.add_argument("--variant", action="append", type=Variant.parse, metavar="NAME=[CHECKOUT] [OPTION …]")
    options = parser.parse_args()
    options.variant = options.variant or [Variant("proxy")]
    install_programs()
    before = Moment.now()
    with ends_with_us(), Bench() as bench:
        results = measure(bench, options)
        others = Moment.now().others_since(before)
    print(f"{machine()}; {others:.0%} of it went to others. {options.rounds} rounds of {options.seconds:g} s.\n")
    print(table(results))
    limited = [result for result in results if "limited" in result.name]
    return 0 if all(result.ratio <= GOAL for result in limited) else 1


if __name__ == "__main__":
    raise SystemExit(main())
