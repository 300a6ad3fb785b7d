"""Clients that make the proxy keep as much as they can: the rows of `tests.integration.test_memory`
and of `benchmarks.memory`.

Owns what each row sends. The clients send and read in one thread, and stop when nothing moves any
more.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from redisproxy.resp.framing import encode

from .raw import RawClient

KIB, MIB = 1 << 10, 1 << 20
NUMBER = b"~~~~~"
PAGE = 4 * KIB


@dataclass(frozen=True)
class Hoard:
    """One row. So many connections send `data` once, and then stay.

    title: what they do. log_in: whether they log in before. leave: they close when they have sent
    it, and connect again, so many times. reads: they read what comes. prepare: commands that are
    run once before. data: makes it; NUMBER in it stands for the number of the connection.
    """

    title: str
    connections: int
    data: Callable[[], bytes]
    log_in: bool = True
    reads: bool = True
    leave: int = 0
    prepare: tuple[bytes, ...] = ()


def _half(words: Sequence[bytes], missing: int = 1) -> bytes:
    """A command of which the last words never come."""
    whole = encode([*words, *[b"x"] * missing])
    return whole[: -len(b"$1\r\nx\r\n") * missing]


def _names(count: int) -> list[bytes]:
    return [b"%s-%d" % (NUMBER, number) for number in range(count)]


def _set_of(size: int) -> bytes:
    return encode([b"SET", b"k", b"v" * size])


SKIP = encode([b"CLIENT", b"REPLY", b"SKIP"])
HOARDS = {
    "half-subscribe": Hoard("half a SUBSCRIBE of 270 KB", 450, lambda: _half([b"SUBSCRIBE", *[b"cc"] * 27_000])),
    "half-word": Hoard("half a SUBSCRIBE with one word of 900 KB", 450, lambda: _half([b"SUBSCRIBE", b"c" * 900_000])),
    "half-auth": Hoard(
        "half an AUTH of 160 KB, without a password", 1_000, lambda: _half([b"AUTH", *[b"p" * 16_000] * 8]), log_in=False
    ),
    "half-inline": Hoard("half a line of 60 KB, without a password", 1_900, lambda: b"p" * 60_000, log_in=False),
    "behind-runs": Hoard(
        "64 KB of PINGs, and half a command", 900, lambda: encode([b"PING"]) * 4_600 + encode([b"PING"])[:-1]
    ),
    "numsub": Hoard(
        "PUBSUB NUMSUB of 250 KB, then leave",
        300,
        lambda: encode([b"PUBSUB", b"NUMSUB", *[b"cc"] * 28_000]),
        reads=False,
        leave=3,
    ),
    "numsub-stay": Hoard(
        "PUBSUB NUMSUB of 250 KB on each",
        450,
        lambda: encode([b"PUBSUB", b"NUMSUB", *[b"cc"] * 28_000]),
    ),
    "subscriptions": Hoard("10,000 subscriptions", 143, lambda: encode([b"SUBSCRIBE", *_names(9_999)])),
    "long-names": Hoard("a channel name of 1 MB", 262, lambda: encode([b"SUBSCRIBE", NUMBER + b"c" * 1_000_000])),
    "patterns": Hoard(
        "patterns of key events", 100, lambda: encode([b"PSUBSCRIBE", *(b"*_?_?_?*_?_?e*%d" % i for i in range(400))])
    ),
    "skip": Hoard(
        "CLIENT REPLY SKIP and a command each, behind a BLPOP",
        200,
        lambda: (
            encode([b"BLPOP", b"nokey", b"0"]) + (SKIP + encode([b"GET", b"nokey"]) + encode([b"GET", b"nokey"])) * 8_000
        ),
    ),
    "off": Hoard(
        "CLIENT REPLY OFF and commands, behind a BLPOP",
        200,
        lambda: (
            encode([b"BLPOP", b"nokey", b"0"]) + encode([b"CLIENT", b"REPLY", b"OFF"]) + encode([b"GET", b"nokey"]) * 8_000
        ),
    ),
    "own": Hoard(
        "answers of the proxy behind a BLPOP",
        400,
        lambda: encode([b"BLPOP", b"nokey", b"0"]) + encode([b"CLIENT", b"GETNAME"]) * 12_000,
    ),
    "names": Hoard(
        "names of 4 KB",
        900,
        lambda: (
            encode([b"CLIENT", b"SETNAME", NUMBER + b"n" * 4_000])
            + encode([b"CLIENT", b"SETINFO", b"LIB-NAME", NUMBER + b"n" * 4_000])
            + encode([b"CLIENT", b"SETINFO", b"LIB-VER", NUMBER + b"n" * 4_000])
        ),
    ),
    "streams": Hoard("a SET of 8 MiB, not to its end", 300, lambda: _set_of(8 * MIB)[:-100]),
    "pipelines": Hoard("SETs, a pipeline", 900, lambda: encode([b"SET", b"k", b"v"]) * 20_000),
    "watch": Hoard("WATCH of 27,000 keys", 100, lambda: encode([b"WATCH", *[b"k"] * 27_000])),
    "words": Hoard(
        "XREAD of 14,000 streams", 100, lambda: encode([b"XREAD", b"STREAMS", *[b"s"] * 14_000, *[b"0"] * 14_000])
    ),
    "deaf": Hoard(
        "GETs of 1 MiB that are not read",
        900,
        lambda: encode([b"GET", b"large"]) * 5,
        reads=False,
        prepare=(encode([b"SET", b"large", b"v" * MIB]),),
    ),
    "deaf-small": Hoard(
        "GETs of 200 KiB that are not read",
        900,
        lambda: encode([b"GET", b"small"]),
        reads=False,
        prepare=(encode([b"SET", b"small", b"v" * 200 * KIB]),),
    ),
    "deaf-both": Hoard(
        "GETs that are not read, and more commands behind them",
        900,
        lambda: encode([b"GET", b"large"]) * 40 + _set_of(8 * MIB),
        reads=False,
        prepare=(encode([b"SET", b"large", b"v" * MIB]),),
    ),
    "deaf-nobody": Hoard(
        "commands without a password, and their errors are not read",
        1_900,
        lambda: b"NOSUCH\r\n" * 100_000,
        log_in=False,
        reads=False,
    ),
}


class Hoarders:
    """The clients of one row. port: the proxy's; password: of the tenant that does it."""

    def __init__(self, hoard: Hoard, port: int, password: str, scale: float = 1.0) -> None:
        self._hoard = hoard
        self._port = port
        self._password = password.encode()
        self._count = max(1, round(hoard.connections * scale))
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []

    def run(self, watch: Callable[[], object], seconds: float, idle: float = 2.0) -> None:
        """Does it, and calls `watch` ten times a second, until nothing moves for `idle` seconds."""
        for command in self._hoard.prepare:
            with RawClient(self._port, b"AUTH", self._password) as client:
                client.ask(command)
        end = time.monotonic() + seconds
        for turn in range(1 + self._hoard.leave):
            if turn:
                self.leave()
            self._connect()
            self._exchange(watch, end, idle if turn == self._hoard.leave else 0.3)

    def _connect(self) -> None:
        head = encode([b"AUTH", self._password]) if self._hoard.log_in else b""
        data = head + self._hoard.data()
        for number in range(self._count):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", self._port), 10)
                self._sockets.append(connection)
                connection.setblocking(False)
                own = data.replace(NUMBER, b"%05d" % number) if NUMBER in data else data
                events = selectors.EVENT_WRITE | (selectors.EVENT_READ if self._hoard.reads else 0)
                self._selector.register(connection, events, memoryview(own))

    def _exchange(self, watch: Callable[[], object], end: float, idle: float) -> None:
        moved = watched = time.monotonic()
        while (now := time.monotonic()) < end and now - moved < idle:
            if now - watched > 0.1:
                watched = now
                watch()
            for key, events in self._selector.select(0.1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                try:
                    if events & selectors.EVENT_READ:
                        if not connection.recv(MIB):
                            raise ConnectionResetError
                        moved = time.monotonic()
                    if events & selectors.EVENT_WRITE:
                        data = key.data[connection.send(key.data[: 256 * KIB]) :]
                        moved = time.monotonic()
                        wanted = (selectors.EVENT_WRITE if data else 0) | (selectors.EVENT_READ if self._hoard.reads else 0)
                        if wanted:
                            self._selector.modify(connection, wanted, data)
                        else:
                            self._selector.unregister(connection)
                except BlockingIOError:
                    pass
                except OSError:
                    self._selector.unregister(connection)
                    moved = time.monotonic()

    def closed(self) -> int:
        """How many of them the proxy has closed."""
        count = 0
        for connection in self._sockets:
            try:
                count += not connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                pass
            except OSError:
                count += 1
        return count

    def leave(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(connection)
            connection.close()
        self._sockets.clear()


def kernel_memory(port: int, redis_port: int) -> int:
    """The bytes that the kernel keeps for the proxy's sockets: those at its port, and those to
    Redis. Without `ss`: for all sockets of the machine.
    """
    if shutil.which("ss") is None:
        found = re.search(r"^TCP:.* mem (\d+)$", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
        return int(found[1]) * PAGE if found else 0
    of = f"( sport = :{port} or dport = :{redis_port} )"
    text = subprocess.run(["ss", "-tmnH", of], capture_output=True, text=True, check=True).stdout
    return sum(sum(map(int, each)) for each in re.findall(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+)", text))


def image_settings() -> dict[str, str]:
    """What the image sets for the allocator."""
    text = (Path(__file__).parents[2] / "Dockerfile").read_text()
    return dict(re.findall(r"(MALLOC_[A-Z_]+)=(\d+)", text))


@contextlib.contextmanager
def hoarding(
    hoard: Hoard,
    port: int,
    password: str,
    watch: Callable[[], object],
    seconds: float,
    scale: float = 1.0,
    idle: float = 2.0,
) -> Iterator[Hoarders]:
    """Runs a row; its clients leave at the end of the context."""
    hoarders = Hoarders(hoard, port, password, scale)
    try:
        hoarders.run(watch, seconds, idle)
        yield hoarders
    finally:
        hoarders.leave()
