"""`make noise`: what the attacks of one tenant do to a quiet one, as a table.

  python -m benchmarks.noise [--rows NAMES] [--seconds N] [--list]
    [--variant NAME=[CHECKOUT] [OPTION …]] …

The quiet tenant sends a PING every 4 ms and logs in once a second. The rows are in
`benchmarks/attacks`. For each of them a proxy with the settings as they are shipped and a Redis are
started, and beside them, where the attack makes sense there, a Redis without a proxy. Each row says
before it is measured what is promised: so many ms, or that no proxy can. A row that fails does not
stop the others.

A default run takes 20 minutes, and some rows need 6 GB of free memory. Numbers are worth something
on a machine that does nothing else: the table says if it did.
"""

from __future__ import annotations

import argparse
import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.support.proxy import Manifests
from tests.support.servers import MASTER_PASSWORD

from .attacks import ROWS, chosen
from .attacks.kubernetes import NOISY_PASSWORD, documents
from .attacks.row import Held, Row, Target
from .load import percentile
from .meters import Memory, Meter
from .peers import ROOT, TENANT_PASSWORD, Bench, Moment, Peer, ProxyPeer, Variant, install_programs, machine
from .quiet import LIMIT, Seen
from .run import ends_with_us, tell

#: The memory limit of the shipped manifests, in MiB: the settings of the image, as in a pod.
MEMORY_LIMIT = 512
SHIPPED = ("--memory", f"{MEMORY_LIMIT}Mi", "--status", "tcp:0:interface=127.0.0.1")
#: Seconds: without an attack, after the attacker's end in the same window, and after that until the
#: memory is measured again.
ALONE, LEAVING, AFTER = 1.0, 1.0, 1.0
#: Seconds until an attacker is prepared, and that a process may be late.
BEGIN_LIMIT, LATE = 15.0, 4.0
#: Beside an attack that the proxy can hold, the p99 may be this many times the usual one.
P99_RATIO = 2.0
#: The machine was quiet if other processes had less than this share of it, and its host less still.
OTHERS, STEAL = 0.05, 0.01


class RowError(Exception):
    """A measurement without a result. The text gives the reason."""


@dataclass
class Measured:
    """One row on one server. alone, beside: of the quiet tenant; peak, after: the server's memory;
    redis: MiB of Redis at its peak; attacker: its counters; others, stolen: shares of the machine;
    error: why there is no result, or what went wrong.
    """

    alone: Seen = field(default_factory=Seen)
    beside: Seen = field(default_factory=Seen)
    peak: Memory = field(default_factory=Memory)
    after: Memory = field(default_factory=Memory)
    redis: float = 0.0
    logged: int = 0
    attacker: Mapping[str, float] = field(default_factory=dict)
    others: float = 0.0
    stolen: float = 0.0
    error: str = ""

    @property
    def worst(self) -> float:
        """The slowest PING, in ms; infinite if there was none."""
        return max(self.beside.pings, default=float("inf"))

    def too_little(self, row: Row) -> list[str]:
        """Returns what the attack lacks of what proves that it happened."""
        found = {**self.attacker, "worst": self.worst, "resident": self.peak.resident, "kernel": self.peak.kernel}
        return [
            f"{name} {found.get(name, 0):,.0f} of {least:,.0f}"
            for name, least in row.least.items()
            if found.get(name, 0) < least
        ]


def missed(row: Row, measured: Measured, usual: float) -> list[str]:
    """Returns what of the row's promise did not hold. usual: the p99 of the quiet tenant without an
    attack, in ms.
    """
    found = [measured.error] if measured.error else []
    p99 = percentile(measured.beside.pings, 0.99)
    if row.kind.ms is not None and not measured.worst < row.kind.ms:
        found.append("worst")
    if isinstance(row.kind, Held):
        if not p99 <= P99_RATIO * usual:
            found.append("p99")
        found += ["errors"] * bool(measured.beside.errors) + ["log-ins"] * bool(measured.beside.failed)
    if measured.peak.together > MEMORY_LIMIT:
        found.append("memory")
    return found


# The processes.


class Child:
    """A process that answers by lines."""

    def __init__(self, *command: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self.latest = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(ValueError):
            for line in self.process.stdout:
                self.latest = line.strip()
                self._lines.put(self.latest)
        self._lines.put("")

    def line(self, limit: float) -> str:
        """Returns the next line. Raises RowError."""
        try:
            found = self._lines.get(timeout=limit)
        except queue.Empty:
            raise RowError(f"{self.process.args[2]} said nothing for {limit:g} s") from None
        if not found:
            raise RowError(f"{self.process.args[2]} ended with status {self.process.wait()}")
        return found

    def send(self, line: str) -> None:
        """Sends a line to it. Raises RowError."""
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise RowError(f"{self.process.args[2]}: {error}") from None

    def end(self) -> None:
        """Ends it."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                stream.close()


def start_proxy(bench: Bench, row: Row, variant: Variant, attacker: Child, stack: ExitStack) -> ProxyPeer:
    """Starts the proxy of a row, with the shipped settings."""
    if row.api:
        peer = bench.proxy(variant, (), {"KUBECONFIG": attacker.line(BEGIN_LIMIT)}, SHIPPED)
    else:
        manifests = Manifests(documents(bench.redis.url, row.annotations))
        stack.callback(manifests.remove)
        peer = bench.proxy(variant, ("--manifests", str(manifests.path)), None, SHIPPED)
    # A proxy that is under attack, or before a Redis that stands, takes its time to end.
    stack.callback(peer.end)
    return peer


def measure(name: str, variant: Variant | None, seconds: float) -> Measured:
    """Measures one row through the proxy. variant: None for Redis without a proxy."""
    row, found = ROWS[name], Measured()
    with ExitStack() as stack:
        bench = stack.enter_context(Bench())
        attacker = Child("benchmarks.attacks", name, bench.redis.url)
        stack.callback(attacker.end)
        peer: Peer = bench.straight
        status, password, noisy, upstream = 0, MASTER_PASSWORD, MASTER_PASSWORD, 0
        if variant is not None:
            peer = proxy = start_proxy(bench, row, variant, attacker, stack)
            status, password, noisy, upstream = proxy.status_port, TENANT_PASSWORD, NOISY_PASSWORD, bench.redis.port
        quiet = Child("benchmarks.quiet", str(peer.port), password, str(status))
        stack.callback(quiet.end)
        target = Target(
            peer.port, peer.tls_port, status, noisy, 1, bench.redis.port, MASTER_PASSWORD, peer.pid, variant is None
        )

        def window(length: float) -> Seen:
            return Seen(**json.loads(quiet.line(length + 2 * LIMIT + LATE)))

        quiet.send(str(ALONE))
        found.alone = window(ALONE)
        attacker.send(json.dumps(asdict(target)))
        if attacker.line(BEGIN_LIMIT) != "begun":
            raise RowError("the attacker did not begin")
        meter = Meter(peer, [peer.port, peer.tls_port or 0, status], upstream, bench.straight)
        stack.callback(meter.stop)
        before, ticks = Moment.now(), steal()
        quiet.send(str(seconds + LEAVING))
        attacker.send("go")
        time.sleep(seconds)
        with suppress(json.JSONDecodeError):
            found.attacker = json.loads(attacker.latest)
        if not row.api:
            attacker.end()
        found.beside = window(LEAVING)
        found.others = Moment.now().others_since(before)
        now = steal()
        found.stolen = (now[0] - ticks[0]) / max(1, now[1] - ticks[1])
        time.sleep(AFTER)
        meter.stop()
        found.peak, found.after, found.redis = meter.peak, meter.sample(), meter.redis
        if meter.ended:
            found.error = "the server ended"
        if isinstance(peer, ProxyPeer):
            found.logged = peer.logged
    return found


def attempt(name: str, variant: Variant | None, seconds: float) -> Measured:
    """Measures one row. Whatever goes wrong is the row's error."""
    try:
        return measure(name, variant, seconds)
    except (RowError, AssertionError, OSError, ValueError) as error:
        return Measured(error=f"not measured: {type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}")


def steal() -> tuple[int, int]:
    """Returns the ticks that the machine's host took, and all ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return ticks[7], sum(ticks)


def free() -> int:
    """Returns the MiB of memory that the machine can give."""
    return int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) // 1024


# The table.

HEAD = (
    "| row: one tenant does | promised | p50 | p99 | worst | errors | log-ins failed, worst "
    "| proxy + kernel MiB at the peak, after | Redis MiB "
    "| straight: p50, p99, worst | errors, log-ins failed | Redis + kernel MiB | goal |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | ---: | --- | --- | --- | --- |"
)


def _ms(value: float) -> str:
    return "none" if value in (float("inf"), float("nan")) else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _times(seen: Seen) -> list[str]:
    if not seen.pings:
        return ["none"] * 3
    return [_ms(percentile(seen.pings, part)) for part in (0.5, 0.99, 1.0)]


def _memory(memory: Memory) -> str:
    return f"{memory.resident:,.0f} + {memory.kernel:,.0f}"


def _log_ins(seen: Seen) -> str:
    return f"{len(seen.failed)} of {len(seen.log_ins)}"


def line(name: str, row: Row, measured: Measured, straight: Measured | None, usual: float) -> str:
    """Returns the row's line. straight: None if the attack makes no sense without a proxy."""
    seen = measured.beside
    cells = [f"`{name}`: {row.title}", str(row.kind), *_times(seen), str(len(seen.errors))]
    cells.append(f"{_log_ins(seen)}, {_ms(max(seen.log_ins, default=float('inf')))}")
    cells.append(f"{_memory(measured.peak)}, {_memory(measured.after)}")
    cells.append(f"{measured.redis:,.0f}")
    if straight is None:
        cells += ["-"] * 3
    else:
        cells.append(", ".join(_times(straight.beside)))
        cells.append(f"{len(straight.beside.errors)}, {_log_ins(straight.beside)}")
        cells.append(_memory(straight.peak))
    what = missed(row, measured, usual)
    verdict = f"missed: {', '.join(what)}" if what else "met"
    lacks = (straight or measured).too_little(row)
    if lacks:
        verdict += f"; the attack lacks {', '.join(lacks)}"
    if max(measured.others, straight.others if straight else 0.0) > OTHERS or measured.stolen > STEAL:
        verdict += "; not quiet"
    return "| " + " | ".join([*cells, verdict]) + " |"


@dataclass
class Table:
    """The rows that were measured: (name, name of the variant), through the proxy, and straight."""

    rows: dict[tuple[str, str], tuple[Measured, Measured | None]] = field(default_factory=dict)

    @property
    def usual(self) -> float:
        """The quiet tenant's p99 without an attack, in ms: the median of all rows."""
        return median([percentile(one.alone.pings, 0.99) for one, _ in self.rows.values() if one.alone.pings] or [0.0])

    def missed(self) -> dict[str, list[str]]:
        """Returns what was missed, by row."""
        found = {name: missed(ROWS[name], one, self.usual) for (name, _), (one, _) in self.rows.items()}
        return {name: what for name, what in found.items() if what}

    def text(self) -> str:
        """Returns the table in Markdown, with the reasons of the rows below."""
        variants = {variant for _, variant in self.rows}
        lines = [HEAD]
        for (name, variant), (one, straight) in self.rows.items():
            shown = name if len(variants) == 1 else f"{variant} {name}"
            lines.append(line(shown, ROWS[name], one, straight, self.usual))
        names = dict.fromkeys(name for name, _ in self.rows)
        reasons = [f"- `{name}`: {ROWS[name].kind.reason}." for name in names if not isinstance(ROWS[name].kind, Held)]
        whys = [f"- `{name}`: {ROWS[name].why}." for name in names if ROWS[name].why]
        for title, items in (("Why no proxy can:", reasons), ("Why these rows are tried:", whys)):
            if items:
                lines += ["", title, "", *items]
        return "\n".join(lines)

    def quiet(self) -> str:
        """Says whether the machine was quiet while the rows were measured."""
        every = [one for pair in self.rows.values() for one in pair if one is not None and one.beside.pings]
        others, stolen = (max((getattr(one, name) for one in every), default=0.0) for name in ("others", "stolen"))
        busy = others > OTHERS or stolen > STEAL
        text = f"others used up to {others:.0%} of the machine, and its host took {stolen:.1%}"
        return (
            f"**The machine was not quiet**: {text}. Read orders of magnitude."
            if busy
            else f"The machine was quiet: {text}."
        )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command's options."""
    parser = argparse.ArgumentParser(prog="benchmarks.noise", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=chosen, default=chosen(""), help="names of rows and groups, with commas between")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each attack")
    parser.add_argument("--list", action="store_true", help="print the rows and what is promised, and measure nothing")
    parser.add_argument("--straight", action=argparse.BooleanOptionalAction, default=True, help="also without a proxy")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a goal is missed")
    parser.add_argument("--variant", action="append", type=Variant.parse, metavar="NAME=[CHECKOUT] [OPTION …]")
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= 10:
        parser.error("--seconds: from 0 to 10, so that no row takes more than half a minute")
    options.variant = options.variant or [Variant("proxy")]
    return options


def main() -> int:
    """Measures the rows that the options choose."""
    options = parse()
    if options.list:
        for name in options.rows:
            print(f"{name:22} {ROWS[name].kind!s:24} {ROWS[name].title}")
        return 0
    install_programs()
    table, began = Table(), time.monotonic()
    with ends_with_us():
        for number, name in enumerate(options.rows, 1):
            row, started = ROWS[name], time.monotonic()
            if free() < 2 * row.needs:
                tell(f"{name}: left out, because the machine has no {2 * row.needs:,} MiB of free memory")
                continue
            straight = attempt(name, None, options.seconds) if row.straight and options.straight else None
            for variant in options.variant:
                one = attempt(name, variant, options.seconds)
                table.rows[name, variant.name] = one, straight
                shown = line(name, row, one, straight, table.usual)
                tell(f"{number}/{len(options.rows)} {time.monotonic() - started:.0f} s {shown}")
    print(f"{machine()}. {options.seconds:g} s each, {(time.monotonic() - began) / 60:.0f} minutes. Times in ms.")
    print(f"{table.quiet()} Without an attack, the p99 of a PING is {table.usual:.2f} ms.\n")
    print(table.text())
    return 1 if options.strict and table.missed() else 0


if __name__ == "__main__":
    raise SystemExit(main())
