"""Measures the framing: nanoseconds per command or reply, compiled and interpreted, in turns.

    .venv/bin/python benchmarks/framing.py [another/framing.py ...]

Each further file is another version of the framing's source, and runs interpreted. The result is
the best of many short rounds, so that other work of the machine does not count.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from redisproxy.resp import framing as installed

ROUNDS = 60
ROUND_SECONDS = 0.01


def source(path: Path) -> ModuleType:
    """Returns the framing of a source file, interpreted."""
    spec = importlib.util.spec_from_file_location(f"redisproxy.resp.framing_{abs(hash(path))}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def scanning(resp: ModuleType, data: bytes, commands: int) -> Callable[[], None]:
    # As large as the policy's table for a real server.
    table = {b"COMMAND%d" % n: resp.FORWARD for n in range(400)} | {b"GET": resp.FORWARD, b"SET": resp.FORWARD}
    scanner = resp.RequestScanner(resp.AUTHENTICATED, table, resp.REFUSE)

    def run() -> None:
        scanner.feed(data)
        found = scanner.next()
        assert found[2] == commands
        assert scanner.next() is None

    return run


def measuring(resp: ModuleType, data: bytes, replies: int) -> Callable[[], None]:
    measurer = resp.ReplyMeasurer()
    expected = (len(data), replies)

    def run() -> None:
        assert measurer.measure(data, 0, replies) == expected

    return run


def best(run: Callable[[], None], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    encode = installed.encode
    get, large = encode([b"GET", b"user:1000:name"]), encode([b"SET", b"user:1000:name", b"x" * 4096])
    bulk = b"$64\r\n" + b"x" * 64 + b"\r\n"
    lrange = b"*100\r\n" + b"$10\r\n0123456789\r\n" * 100
    cases = [
        ("scan, 1 GET", scanning, get, 1),
        ("scan, 16 GETs", scanning, get * 16, 16),
        ("scan, SET of 4 KiB", scanning, large, 1),
        ("measure, 1 reply of 64 bytes", measuring, bulk, 1),
        ("measure, 16 of them", measuring, bulk * 16, 16),
        ("measure, 16 times +OK", measuring, b"+OK\r\n" * 16, 16),
        ("measure, 1 LRANGE of 100", measuring, lrange, 1),
    ]
    here = Path(installed.__file__)
    forms = {"interpreted": source(here.with_name("framing.py"))}
    if here.suffix != ".py":
        forms = {"compiled": installed, **forms}
    forms |= {name: source(Path(name)) for name in sys.argv[1:]}
    print(f"{'ns for each command or reply':<30}", *(f"{name[-20:]:>20}" for name in forms))
    for label, make, data, count in cases:
        runs = [make(resp, data, count) for resp in forms.values()]
        repeats = [max(1, int(ROUND_SECONDS / best(run, 100))) for run in runs]
        stats = [float("inf")] * len(runs)
        for _ in range(ROUNDS):
            for n, run in enumerate(runs):
                stats[n] = min(stats[n], best(run, repeats[n]))
        print(f"{label:<30}", *(f"{figure / count * 1e9:>20.0f}" for figure in stats))


if __name__ == "__main__":
    main()
