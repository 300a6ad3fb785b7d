"""The machinery of most attacks: many connections, and the bytes that each of them sends."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from .row import PASSWORD, Counters, Target, words

#: Where attackers connect from. The quiet tenant and the probes come from 127.0.0.1.
SOURCE = "127.0.0.2"
#: The fewest bytes that an attack repeats: fewer are sent several times in one write.
PIECE = 64 * 1024
#: The most bytes that one attack sends, and the most connections that it makes in a second.
MOST_BYTES, MOST_CONNECTS = 4 << 30, 5_000
#: Seconds that log-ins may take before the attack begins.
SET_UP_LIMIT = 5.0
#: Lets connections to different ports have the same port of their own. socket has no name for it.
IP_BIND_ADDRESS_NO_PORT = 24

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
Command = Sequence[str | bytes]


class Renew(Enum):
    """When an attacker connects anew in place of a connection."""

    NEVER = "never"
    CLOSED = "when the server has closed it"
    ANSWERED = "after the first bytes of an answer, which it closes on"
    SENT = "when all is sent, without reading the answer"


@dataclass(eq=False, slots=True)
class _Connection:
    """socket: not blocking; out: bytes to send; log_in: bytes of the answer to a log-in that are
    still to come.
    """

    socket: socket.socket
    out: memoryview
    logging_in: bool
    repeats: bool = True
    events: int = READ | WRITE


@dataclass(frozen=True)
class Streams:
    """An attack: connections that send commands again and again, as fast as they are taken.

    - again: commands, their bytes, or the bytes of the nth time. An empty command is an empty line.
    - first: bytes that each connection sends before, while the attack is prepared.
    - once: each connection sends `again` once.
    - lockstep: it sends `again` again only after some answer.
    - reads: bytes that it reads at once. 0: it never reads.
    - pieces: bytes that it sends at once. 0: all.
    - every: seconds between two turns of all connections.
    - most: bytes that it sends in all.
    - rate: connections that it makes in a second, at most.
    - early: it connects before the attack begins. By default, if connecting is not the attack.
    - port: the name of the target's port.
    - wait: seconds that a turn waits for a socket.
    """

    again: Sequence[Command] | bytes | Callable[[int], bytes] = b""
    connections: int = 1
    log_in: bool = True
    first: bytes = b""
    once: bool = False
    lockstep: bool = False
    reads: int = 1 << 20
    pieces: int = 0
    every: float = 0.0
    renew: Renew = Renew.NEVER
    most: int = MOST_BYTES
    rate: int = MOST_CONNECTS
    early: bool | None = None
    port: str = "port"
    wait: float = 0.02

    def __call__(self, target: Target, counters: Counters) -> Iterator[None]:
        running = _Running(self, target, counters)
        if self.renew is Renew.NEVER if self.early is None else self.early:
            running.prepare()
        yield
        running.attack()
        while True:
            running.turn()
            yield

    def payload(self, password: str) -> Callable[[int], memoryview]:
        """Returns what gives the bytes of the nth time."""
        if callable(self.again):
            make = self.again
            return lambda number: memoryview(make(number))
        if isinstance(self.again, bytes):
            data = self.again
        else:
            data = b"".join(
                words(*(password if word == PASSWORD else word for word in command)) if command else b"\r\n"
                for command in self.again
            )
        single = self.once or self.lockstep or self.pieces or self.renew in (Renew.ANSWERED, Renew.SENT)
        whole = memoryview(data if single or not data else data * (1 + PIECE // len(data)))
        return lambda _: whole


class _Running:
    """The connections of one attack."""

    def __init__(self, streams: Streams, target: Target, counters: Counters) -> None:
        self._streams, self._target, self._counters = streams, target, counters
        self._payload = streams.payload(target.password)
        self._log_in = target.log_in() if streams.log_in else b""
        self._selector = selectors.DefaultSelector()
        self._open: set[_Connection] = set()
        self._number = self._sent = 0
        self._missing, self._made, self._began = streams.connections, 0, time.monotonic()
        self.attacks = False

    def prepare(self) -> None:
        """Connects, and waits until all have logged in."""
        deadline = time.monotonic() + SET_UP_LIMIT
        while time.monotonic() < deadline:
            self._turn()
            if not self._missing and not any(each.logging_in or each.out for each in self._open):
                break
        self._began, self._made = time.monotonic(), 0

    def attack(self) -> None:
        """Begins the attack."""
        self.attacks = True
        for each in list(self._open):
            self._watch(each, each.events | WRITE)

    def turn(self) -> None:
        """Serves all sockets that are ready."""
        self._turn()
        if self._streams.every:
            time.sleep(self._streams.every)

    def _turn(self) -> None:
        if self._missing:
            allowed = int((time.monotonic() - self._began) * self._streams.rate) + 1 - self._made
            for _ in range(min(self._missing, allowed)):
                self._connect()
        if not self._selector.get_map():
            time.sleep(0.005)
            return
        for key, events in self._selector.select(self._streams.wait):
            each = key.data
            try:
                if events & READ:
                    self._read(each)
                if events & WRITE and each in self._open:
                    self._write(each)
            except BlockingIOError:
                pass
            except OSError:
                self._counters.closed += 1
                self._drop(each, self._streams.renew is not Renew.NEVER)

    def _connect(self) -> None:
        self._made += 1
        one = socket.socket()
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.bind((SOURCE, 0))
        failed = one.connect_ex(("127.0.0.1", getattr(self._target, self._streams.port)))
        if failed not in (0, errno.EINPROGRESS):
            one.close()
            return
        self._missing -= 1
        each = _Connection(one, memoryview(self._log_in + self._streams.first), bool(self._log_in))
        each.events = WRITE | (READ if self._streams.reads or each.logging_in else 0)
        self._open.add(each)
        self._selector.register(one, each.events, each)
        self._counters.connected += 1
        self._counters.now += 1
        self._counters.open = max(self._counters.open, self._counters.now)

    def _drop(self, each: _Connection, again: bool) -> None:
        if each.events:
            self._selector.unregister(each.socket)
        each.socket.close()
        self._counters.now -= 1
        self._open.discard(each)
        self._missing += again

    def _watch(self, each: _Connection, events: int) -> None:
        if not self._streams.reads and not each.logging_in:
            events &= ~READ
        if events == each.events:
            return
        if not each.events:
            self._selector.register(each.socket, events, each)
        elif not events:
            self._selector.unregister(each.socket)
        else:
            self._selector.modify(each.socket, events, each)
        each.events = events

    def _fill(self, each: _Connection) -> bool:
        """Gives a connection its next bytes. Returns whether it has any."""
        if each.out:
            return True
        if each.repeats and not each.logging_in and self._sent < self._streams.most:
            each.repeats = not self._streams.once
            each.out = self._payload(self._number)
            self._number += 1
        return bool(each.out)

    def _read(self, each: _Connection) -> None:
        data = each.socket.recv(self._streams.reads or 4096)
        if not data:
            raise ConnectionResetError
        self._counters.received += len(data)
        if each.logging_in:
            each.logging_in = False
            self._counters.refused += not data.startswith(b"+OK")
            self._watch(each, each.events | WRITE)
        if self._streams.renew is Renew.ANSWERED and self.attacks:
            self._drop(each, True)
        elif self._streams.lockstep:
            each.repeats = True
            self._watch(each, each.events | WRITE)

    def _write(self, each: _Connection) -> None:
        if not each.out and not (self.attacks and self._fill(each)):
            if each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise ConnectionResetError
            if self.attacks and self._streams.renew is Renew.SENT and not each.logging_in:
                self._drop(each, True)
            else:
                self._watch(each, each.events & ~WRITE)
            return
        sent = each.socket.send(each.out[: self._streams.pieces or len(each.out)])
        self._counters.sent += sent
        self._sent += sent
        each.out = each.out[sent:]
        if each.out:
            return
        self._counters.rounds += self.attacks
        if self._streams.lockstep:
            each.repeats = False
        if self.attacks and self._streams.renew is Renew.SENT and not each.logging_in:
            self._drop(each, True)
        elif self._streams.renew is Renew.ANSWERED:
            each.repeats = False
