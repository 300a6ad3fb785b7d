"""Measures how much memory one tenant's clients, or clients without a password, make the proxy and
the kernel use for it.

  python -m benchmarks.memory [--rows NAMES] [--memory SIZE] [--seconds N] [--checkout DIR]

Each row has a proxy and a Redis of its own, with the settings as they are shipped. Resident memory
is the proxy's. Kernel memory is that of its sockets.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.hoards import HOARDS, MIB, hoarding, image_settings, kernel_memory
from tests.support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from tests.support.servers import RedisServer


def measure(name: str, options: argparse.Namespace) -> str:
    """Returns one row of the table."""
    hoard = HOARDS[name]
    server = RedisServer().start()
    manifests = Manifests([master(server.url), *tenant("team-blue", 3, Installation.BLUE)])
    where = {"directory": options.checkout, "python": str(options.checkout / ".venv/bin/python")} if options.checkout else {}
    proxy = ProxyProcess(
        "--manifests", str(manifests.path), "--memory", options.memory, environ=image_settings(), fresh=not where, **where
    ).ready()
    try:
        peak = [0, 0, 0]
        before = proxy.resident()

        def watch() -> None:
            resident, kernel = proxy.resident(), kernel_memory(proxy.port, server.port)
            peak[0] = max(peak[0], resident + kernel)
            peak[1] = max(peak[1], resident)
            peak[2] = max(peak[2], kernel)

        began = time.monotonic()
        with hoarding(hoard, proxy.port, Installation.BLUE, watch, options.seconds) as hoarders:
            watch()
            closed = hoarders.closed()
            took = time.monotonic() - began
        time.sleep(options.settle)
        after = proxy.resident() + kernel_memory(proxy.port, server.port)
        ended = proxy.log.count("out-of-memory")
        assert "Traceback" not in proxy.log, proxy.log
        numbers = [before, *peak, after]
        shown = " | ".join(str(each // MIB) for each in numbers)
        return f"| {name} | {hoard.connections} | {shown} | {closed} ({ended}) | {took:.0f} |"
    finally:
        proxy.stop()
        server.stop()
        manifests.remove()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(HOARDS), help=", ".join(HOARDS))
    parser.add_argument("--memory", default="512Mi")
    parser.add_argument("--seconds", type=float, default=25.0, help="of each row, at most")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds until the memory afterwards is measured")
    parser.add_argument("--checkout", type=Path, help="the directory of another version of the proxy")
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("MiB, at first, then at most: resident and kernel memory, resident, kernel; and after the clients have gone\n")
    print("| row | connections | start | most | resident | kernel | after | closed (out-of-memory) | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.rows:
        print(measure(name, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
