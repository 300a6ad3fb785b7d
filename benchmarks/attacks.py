"""Measures what one tenant's attacks do to another, quiet one.

  python -m benchmarks.attacks [--rows NAMES] [--rounds N] [--seconds N]
    [--variant NAME=[CHECKOUT] [OPTION …]] …

The quiet tenant sends a PING every 4 ms over one connection, and logs in over a new one once a
second. Each row is measured through the proxy, with the settings as they are shipped, and beside it
directly to Redis with the same attack there. A variant needs `--max-workers 1000` for that.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median

from tests.support.proxy import PREFIX, Manifests, master, tenant
from tests.support.servers import MASTER_PASSWORD

from .peers import ROOT, TENANT, TENANT_PASSWORD, Bench, Moment, Peer, Variant, install_programs, machine
from .run import ends_with_us, tell

NOISY, NOISY_PASSWORD = f"{PREFIX}noisy", "password-of-the-noisy-one"
#: Seconds from one PING of the quiet tenant to the next, and from one log-in to the next.
EVERY, LOGIN_EVERY = 0.004, 1.0
#: Seconds after which a PING or a log-in has failed.
LIMIT = 20.0
#: The most bytes that an attack writes at once.
PIECE = 64 * 1024


def command(*words: str | bytes) -> bytes:
    """Returns one command in RESP."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


@dataclass(frozen=True)
class Attack:
    """One row. An attacker has so many connections, logs in on them or not, and sends the commands
    again and again, as fast as they are taken. Replies are read.

    commands: {password} is the tenant's password; reconnect: it sends the commands once, and after
    the first bytes of the answer it closes, and connects anew; once: it sends the commands once,
    and stays. Connections that the other side closes are made again.
    """

    title: str
    commands: tuple[tuple[str, ...], ...]
    connections: int = 1
    log_in: bool = True
    reconnect: bool = False
    once: bool = False

    def payload(self, password: str) -> bytes:
        """Returns as many of the commands as make about PIECE bytes."""
        once = b"".join(
            b"\r\n" if not words else command(*(word.format(password=password) for word in words)) for words in self.commands
        )
        return once if self.reconnect or self.once else once * (1 + PIECE // len(once))


UNKNOWN = (("NOSUCH",),)
ATTACKS = {
    "unknown": Attack("unknown commands", UNKNOWN),
    "unsubscribe": Attack("UNSUBSCRIBE", (("UNSUBSCRIBE",),)),
    "multi": Attack("MULTI, DISCARD", (("MULTI",), ("DISCARD",))),
    "subscribe": Attack("SUBSCRIBE", (("SUBSCRIBE", "a"),)),
    "reset": Attack("RESET, AUTH", (("RESET",), ("AUTH", "{password}"))),
    "client-info": Attack("CLIENT INFO", (("CLIENT", "INFO"),)),
    "select": Attack("SELECT of its own index", (("SELECT", "1"),)),
    "hello": Attack("HELLO", (("HELLO",),)),
    "lines": Attack("empty lines", ((),)),
    "unknown-20": Attack("unknown commands, 20 connections", UNKNOWN, 20),
    "nobody-50": Attack("50 connections without a password", UNKNOWN, 50, log_in=False),
    "nobody-300": Attack("300 connections without a password", UNKNOWN, 300, log_in=False),
    "nobody-900": Attack("900 connections without a password", UNKNOWN, 900, log_in=False),
    "channels": Attack(
        "SUBSCRIBE to 9,999 channels, UNSUBSCRIBE", (("SUBSCRIBE", *map(str, range(9_999))), ("UNSUBSCRIBE",))
    ),
    "subscribers": Attack(
        "500 connections: SUBSCRIBE, RESET, AUTH", (("SUBSCRIBE", "a"), ("RESET",), ("AUTH", "{password}")), 500
    ),
    "words-unsubscribe": Attack("UNSUBSCRIBE of 28,000 channels", (("UNSUBSCRIBE", *["c"] * 28_000),)),
    "words-numsub": Attack("PUBSUB NUMSUB of 28,000 channels", (("PUBSUB", "NUMSUB", *["c"] * 28_000),)),
    "words-xread": Attack("XREAD of 14,000 streams", (("XREAD", "STREAMS", *["s"] * 14_000, *["0"] * 14_000),)),
    "channels-100": Attack(
        "SUBSCRIBE to 1,000 channels, UNSUBSCRIBE, 100 connections",
        (("SUBSCRIBE", *map(str, range(1_000))), ("UNSUBSCRIBE",)),
        100,
    ),
    "channels-reset": Attack(
        "SUBSCRIBE to 9,999 channels, RESET, AUTH",
        (("SUBSCRIBE", *map(str, range(9_999))), ("RESET",), ("AUTH", "{password}")),
    ),
    "key-events": Attack(
        "PSUBSCRIBE to 400 patterns of key events, RESET, AUTH",
        (("PSUBSCRIBE", *(f"__key*{number}" for number in range(400))), ("RESET",), ("AUTH", "{password}")),
    ),
    "key-events-long": Attack(
        "the same of 300 long patterns that match in several ways",
        (("PSUBSCRIBE", *("*_?_?_?*_?_?e*" * 14 + str(n) for n in range(300))), ("RESET",), ("AUTH", "{password}")),
    ),
    "words-parts": Attack("100 connections with commands of 20,000 words", (("CLIENT", "NOSUCH", *["c"] * 20_000),), 100),
    "words-types": Attack("CLIENT LIST of 14,000 types", (("CLIENT", "LIST", *("TYPE", "normal") * 14_000),)),
    "words-ids": Attack("CLIENT LIST of 28,000 ids", (("CLIENT", "LIST", "ID", *["1"] * 28_000),)),
    "config": Attack("CONFIG GET of 256 patterns, 20 connections", (("CONFIG", "GET", *["*"] * 256),), 20),
    "log-ins": Attack(
        "log-ins on 50 connections, again and again", (("AUTH", "{password}"),), 50, log_in=False, reconnect=True
    ),
    "connects": Attack(
        "2,000 connections without a password, made again and again", (("PING",),), 2_000, log_in=False, reconnect=True
    ),
    "slots": Attack("2,000 connections that log in and stay", (("AUTH", "{password}"),), 2_000, log_in=False, once=True),
    "silent": Attack("2,200 connections without a password", (("PING",),), 2_200, log_in=False, once=True),
    "silent-6000": Attack("6,000 connections without a password", (("PING",),), 6_000, log_in=False, once=True),
    "info": Attack("INFO on 50 connections", (("INFO",),), 50),
    "keys": Attack("PUBLISH, 100 connections", (("PUBLISH", "a", "b"),), 100),
    "plain": Attack("SET, 900 pipelines", (("SET", "a", "b"),), 900),
    "blpop": Attack("BLPOP of nothing, 200 connections, and PING behind", (("BLPOP", "nokey", "0.001"), ("PING",)), 200),
}


# The processes of a measurement: the attacker, and the quiet tenant.


def attack(name: str, port: int, password: str) -> None:
    """Attacks until the process is ended."""
    row = ATTACKS[name]
    payload = row.payload(password)
    selector = selectors.DefaultSelector()
    for _ in range(row.connections):
        _attacker(selector, row, port, password)
    print("begun", flush=True)
    while True:
        for key, events in selector.select(1.0):
            connection, state = key.fileobj, key.data
            assert isinstance(connection, socket.socket)
            try:
                if events & selectors.EVENT_READ and not connection.recv(1 << 20):
                    raise ConnectionResetError
                if events & selectors.EVENT_WRITE:
                    state["sent"] += connection.send(payload[state["sent"] :])
                    if (row.reconnect or row.once) and state["sent"] == len(payload):
                        selector.modify(connection, selectors.EVENT_READ, state)
                    state["sent"] %= len(payload)
                elif row.reconnect:
                    raise ConnectionResetError
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(connection)
                connection.close()
                with suppress(OSError):
                    _attacker(selector, row, port, password)


def _attacker(selector: selectors.BaseSelector, row: Attack, port: int, password: str) -> None:
    connection = socket.create_connection(("127.0.0.1", port), LIMIT)
    if row.log_in:
        connection.sendall(command("AUTH", password))
        connection.recv(100)
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, {"sent": 0})


def _call(connection: socket.socket, *words: str) -> bytes:
    connection.sendall(command(*words))
    return connection.recv(1000)


def quiet(port: int, password: str, seconds: float) -> dict:
    """Returns the times of the quiet tenant's PINGs and log-ins, in ms, and how many failed."""
    pings, log_ins, errors, failed = [], [], 0, 0
    connection: socket.socket | None = None
    end, due = time.monotonic() + seconds, time.monotonic()
    next_login = due
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        log_in = connection is None or due >= next_login
        began = time.monotonic() if log_in else due
        try:
            if log_in:
                fresh = socket.create_connection(("127.0.0.1", port), LIMIT)
                if _call(fresh, "AUTH", password) != b"+OK\r\n":
                    raise OSError
                log_ins.append((time.monotonic() - began) * 1000)
                if connection is not None:
                    connection.close()
                connection = fresh
                next_login += LOGIN_EVERY
                due = time.monotonic()
            assert connection is not None
            if _call(connection, "PING") != b"+PONG\r\n":
                raise OSError
            pings.append((time.monotonic() - due) * 1000)
        except OSError:
            if log_in:
                failed += 1
            else:
                errors += 1
            connection = None
        due = max(due + EVERY, time.monotonic())
    pings.sort()
    return {
        "p50": pings[len(pings) // 2] if pings else LIMIT * 1000,
        "p99": pings[len(pings) * 99 // 100] if pings else LIMIT * 1000,
        "worst": pings[-1] if pings else LIMIT * 1000,
        "log_in": max(log_ins, default=LIMIT * 1000),
        "errors": errors,
        "failed": failed,
    }


# The measurement.


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen]:
    """Runs a part of this module as a process, while the context runs."""
    started = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.attacks", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def window(peer: Peer, password: str, seconds: float) -> dict:
    """Returns what the quiet tenant saw in so many seconds."""
    with process("--quiet", str(peer.port), password, str(seconds)) as started:
        out, _ = started.communicate(timeout=seconds + 3 * LIMIT)
        return json.loads(out)


@dataclass
class Row:
    """The measurements of one attack on one peer."""

    attack: Attack
    peer: str
    alone: list[dict] = field(default_factory=list)
    beside: list[dict] = field(default_factory=list)

    def shown(self) -> str:
        """Returns one row of the table."""

        def of(which: list[dict], key: str, pick: Callable[[list[float]], float]) -> float:
            return pick([each[key] for each in which])

        p50, p99 = of(self.beside, "p50", median), of(self.beside, "p99", median)
        before, worst = of(self.alone, "p99", median), of(self.beside, "worst", max)
        log_in = of(self.beside, "log_in", max)
        errors, failed = of(self.beside, "errors", sum), of(self.beside, "failed", sum)
        return (
            f"| {self.attack.title} | {self.peer} | {p50:.1f} | {before:.1f} -> {p99:.1f} | {worst:.0f} | {log_in:.0f} "
            f"| {errors:.0f} | {failed:.0f} |"
        )


HEAD = """| attack | through | p50 | p99, without it and beside it | worst | worst log-in | errors | failed log-ins |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def measure(bench: Bench, options: argparse.Namespace) -> list[Row]:
    """Measures all rows in turns."""
    manifests = Manifests([master(bench.redis.url), *tenant(TENANT, 0, TENANT_PASSWORD), *tenant(NOISY, 1, NOISY_PASSWORD)])
    bench.callback(manifests.remove)
    proxies = [bench.proxy(variant, ("--manifests", str(manifests.path))) for variant in options.variant]
    ways = [(proxy, TENANT_PASSWORD, NOISY_PASSWORD) for proxy in proxies]
    ways.append((bench.straight, MASTER_PASSWORD, MASTER_PASSWORD))
    rows = [(name, [Row(ATTACKS[name], peer.name) for peer, *_ in ways]) for name in options.rows]
    for turn in range(options.rounds):
        for name, measured in rows:
            for row, (peer, password, noisy) in zip(measured, ways, strict=True):
                row.alone.append(window(peer, password, options.seconds / 4))
                with process("--attack", name, str(peer.port), noisy) as attacker:
                    attacker.stdout.readline()
                    row.beside.append(window(peer, password, options.seconds))
                tell(f"round {turn + 1}/{options.rounds}  {row.shown()}")
    return [row for _, measured in rows for row in measured]


def main() -> int:
    """Runs the whole benchmark, or one process of it."""
    if sys.argv[1:2] == ["--attack"]:
        attack(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    if sys.argv[1:2] == ["--quiet"]:
        print(json.dumps(quiet(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))))
        return 0
    parser = argparse.ArgumentParser(prog="benchmarks.attacks", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ATTACKS), help=", ".join(ATTACKS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--variant", action="append", type=Variant.parse, metavar="NAME=[CHECKOUT] [OPTION …]")
    options = parser.parse_args()
    options.variant = options.variant or [Variant.parse("proxy= --max-workers 1000")]
    install_programs()
    before = Moment.now()
    with ends_with_us(), Bench() as bench:
        rows = measure(bench, options)
        others = Moment.now().others_since(before)
    print(f"{machine()}; {others:.0%} of it went to others. Times in ms.\n")
    print("\n".join([HEAD, *(row.shown() for row in rows)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
