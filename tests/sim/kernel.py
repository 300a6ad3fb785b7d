"""The world of a simulation: one clock, one order of events, TCP sockets, and a reactor that runs
Twisted's own transports.

Owns what the operating system does. All randomness comes from one seed, so a run can be repeated
exactly. As on Linux, the sockets have a buffer on each side, a window, FIN, RST and half-closed
connections:

- close() with unread bytes, or with SO_LINGER 0, sends RST and drops what was not sent. Otherwise
  FIN follows the data.
- Data that arrives at a closed socket is answered with RST.
- What arrived before a RST can still be read.

The proxy's process runs one turn at a time, and each turn takes simulated time: see `Reactor`.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import sys
from collections.abc import Callable
from errno import ECONNRESET, EPIPE, EWOULDBLOCK

from twisted.internet import error, main, tcp
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableDescriptor, IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from redisproxy.net.twisted_private import unsent

_RESET = struct.pack("ii", 1, 0)
#: How connections end, by the exception's class. As in Twisted's reactor, there is one Failure for
#: all: a new one for the same exception would keep the frames of all coroutines it was raised in.
_ENDS = {kind: Failure(kind()) for kind in (error.ConnectionDone, error.ConnectionLost)}


class Event:
    """Something that will happen. call: None if it was cancelled or is over."""

    __slots__ = ("arguments", "call", "time")

    def __init__(self, time: float, call: Callable[..., object], arguments: tuple) -> None:
        self.time = time
        self.call: Callable[..., object] | None = call
        self.arguments = arguments

    def cancel(self) -> None:
        """Cancels the event."""
        self.call = None


class World:
    """Time and chance.

    rng: all randomness of the simulation; now: the time in seconds; over: set to stop the
    simulation; latency: seconds from one end of a connection to the other, about; window: bytes
    that a receiver's kernel keeps; buffer: bytes that a sender's kernel keeps.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.over = False
        self.latency = self.rng.choice([0.0002, 0.002, 0.02])
        self.window = self.rng.choice([4096, 65536, 262144])
        self.buffer = self.rng.choice([4096, 65536, 262144])
        self.sockets: dict[int, Socket] = {}
        self._events: list[tuple[float, int, Event]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[..., object], *arguments: object) -> Event:
        """Calls something in so many seconds. Of several calls at the same time, the one that was
        asked for first comes first.
        """
        event = Event(self.now + seconds, call, arguments)
        self._count += 1
        heapq.heappush(self._events, (event.time, self._count, event))
        return event

    def trip(self) -> float:
        """Seconds that a packet takes."""
        return self.latency * self.rng.uniform(0.2, 2)

    def number(self) -> int:
        """Returns a new number each time."""
        self._count += 1
        return self._count

    def run(self, until: float) -> None:
        """Runs events until a time, or until `over` is set."""
        events = self._events
        while events and events[0][0] <= until and not self.over:
            _, _, event = heapq.heappop(events)
            call, event.call = event.call, None
            if call is not None:
                self.now = max(self.now, event.time)
                call(*event.arguments)
        if not self.over:
            self.now = max(self.now, until)


class Socket:
    """One end of a TCP connection, as a program sees it. `connect` connects two of them.

    changed: called when the socket may have become readable or writable.
    """

    def __init__(self, world: World, window: int = 0, buffer: int = 0) -> None:
        self._world = world
        self._number = world.number()
        world.sockets[self._number] = self
        self.window = window or world.window
        self.buffer = buffer or world.buffer
        self.peer: Socket = self
        self.changed: Callable[[], object] = lambda: None
        self.received = bytearray()
        self._sending = bytearray()
        self._flow: Event | None = None
        # When the last packet arrives at the other end: packets keep their order.
        self._last = 0.0
        self._shut = self._fin_sent = self.finished = self._reset = self._closed = False
        self._lingers = True

    # Called by a program.

    def fileno(self) -> int:
        return self._number

    def setblocking(self, on: bool) -> None:
        """Does nothing: this socket never blocks."""

    def setsockopt(self, level: int, option: int, value: object) -> None:
        if (level, option, value) == (socket.SOL_SOCKET, socket.SO_LINGER, _RESET):
            self._lingers = False

    def recv(self, size: int) -> bytes:
        if self.received:
            data = bytes(self.received[:size])
            del self.received[:size]
            self.peer._go_on()  # the window of this end opened
            return data
        if self._reset:
            raise ConnectionResetError(ECONNRESET, "reset")
        if self.finished:
            return b""
        raise BlockingIOError(EWOULDBLOCK, "nothing there")

    def send(self, data: bytes) -> int:
        if self._reset or self._shut:
            raise BrokenPipeError(EPIPE, "not connected")
        size = min(len(data), self.buffer - len(self._sending))
        if size <= 0:
            raise BlockingIOError(EWOULDBLOCK, "full")
        self._sending += data[:size]
        self._go_on()
        return size

    def shutdown(self, how: int) -> None:
        if self._reset:
            raise OSError("not connected")
        if how != socket.SHUT_RD:
            self._shut = True
            self._go_on()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        del self._world.sockets[self._number]
        if self.received or not self._lingers:
            self.reset_peer()
        else:
            self._shut = True
            self._go_on()

    # State.

    @property
    def readable(self) -> bool:
        return bool(self.received) or self.finished or self._reset

    @property
    def writable(self) -> bool:
        return self._reset or (not self._shut and len(self._sending) < self.buffer)

    @property
    def hung_up(self) -> bool:
        """Whether the other end sends no more."""
        return self.finished or self._reset

    @property
    def unsent(self) -> int:
        """Bytes that have not arrived at the other end's kernel."""
        return len(self._sending)

    @property
    def used(self) -> int:
        """Bytes in this end's buffers."""
        return len(self.received) + len(self._sending)

    # The wire.

    def reset_peer(self) -> None:
        """Sends RST. What was not sent yet is dropped."""
        if not self._reset:
            self.drop()
            self._later(self.peer._be_reset)

    def drop(self) -> None:
        """Ends the connection at this end."""
        self._reset = True
        self._sending.clear()
        self._cancel()

    def _cancel(self) -> None:
        if self._flow is not None:
            self._flow.cancel()
            self._flow = None

    def _later(self, call: Callable[[], object]) -> Event:
        self._last = max(self._last, self._world.now + self._world.trip())
        return self._world.after(self._last - self._world.now, call)

    def _go_on(self) -> None:
        if self._flow is None and not self._reset and (self._sending or (self._shut and not self._fin_sent)):
            self._flow = self._later(self._arrive)

    def _arrive(self) -> None:
        self._flow = None
        peer = self.peer
        if peer._closed and self._sending:
            peer.drop()
            self._be_reset()
            return
        size = min(len(self._sending), peer.window - len(peer.received))
        if size > 0:
            peer.received += self._sending[:size]
            del self._sending[:size]
            peer.changed()
            self.changed()
            if self._sending and len(peer.received) < peer.window:
                self._go_on()
        if self._shut and not self._sending and not self._fin_sent:
            self._fin_sent = True
            peer.finished = True
            peer.changed()

    def _be_reset(self) -> None:
        if not self._reset:
            self.drop()
            self.changed()


def connect(one: Socket, other: Socket) -> None:
    """Makes the two sockets the ends of one connection."""
    one.peer, other.peer = other, one


class Connection(tcp.Connection):
    """Twisted's own transport, on a simulated socket."""

    def __init__(self, end: Socket, protocol: IProtocol, reactor: Reactor, peer: IPv4Address | UNIXAddress) -> None:
        super().__init__(end, protocol, reactor)
        self.logstr = "simulated"
        self.connected = 1
        self._peer = peer
        end.changed = lambda: reactor.socket_changed(self)

    def getHost(self) -> UNIXAddress:
        """Returns a Unix address: such a connection sets no options of a real socket."""
        return UNIXAddress(None)

    def getPeer(self) -> IPv4Address | UNIXAddress:
        return self._peer

    def begin(self) -> None:
        """Starts the protocol on the connected socket."""
        self.startReading()
        self.protocol.makeConnection(self)


def unacknowledged(transport: Connection) -> int:
    """Is the function with this name, of `redisproxy.net.twisted_private`."""
    end = getattr(transport, "socket", None)
    return unsent(transport) + (0 if end is None else end.unsent)


def used(handle: Socket) -> int:
    """Is the function with this name, of `redisproxy.net.socket_buffers`."""
    return handle.used


@implementer(IDelayedCall)
class DelayedCall:
    """See IDelayedCall."""

    __slots__ = ("_reactor", "call", "keywords", "place", "time", "words")

    def __init__(self, reactor: Reactor, time: float, call: Callable, words: tuple, keywords: dict) -> None:
        self._reactor = reactor
        self.time = time
        self.call: Callable | None = call
        self.words = words
        self.keywords = keywords

    def active(self) -> bool:
        return self.call is not None

    def getTime(self) -> float:
        return self.time

    def cancel(self) -> None:
        if self.call is None:
            raise error.AlreadyCalled
        self.call = None

    def reset(self, seconds: float) -> None:
        if self.call is None:
            raise error.AlreadyCalled
        self.time = self._reactor.seconds() + seconds
        self._reactor.enter(self)

    def delay(self, seconds: float) -> None:
        if self.call is None:
            raise error.AlreadyCalled
        self.time += seconds
        self._reactor.enter(self)


class Reactor:
    """The proxy's reactor: turns of timers and ready sockets, in an order that the seed decides.

    A turn takes simulated time, in which the process does nothing else. By default that is a little
    for each timer and socket. measured: a turn takes a microsecond for each function that it calls,
    in Python or not, and its clock goes on meanwhile. Then the same work takes the same time on
    every machine, and shows what a command costs in the proxy.
    """

    #: Seconds of a turn, and of each timer and socket in it.
    TURN, PIECE = 20e-6, 5e-6
    #: Seconds of each function call, if turns are measured.
    CALL = 1e-6

    def __init__(self, world: World, failed: Callable[[Failure], object], measured: bool = False) -> None:
        self._world = world
        self._failed = failed
        self._measured = measured
        self._timers: list[tuple[float, int, DelayedCall]] = []
        self._readers: set[Connection] = set()
        self._writers: set[Connection] = set()
        # Sockets that may be ready. A dict keeps the order of insertion, so that no object's
        # address decides anything.
        self._candidates: dict[Connection, None] = {}
        self._turn: Event | None = None
        self._busy_until = 0.0
        self._calls = 0
        #: called at the end of each turn: what happens then comes before the timers of the next one
        self.watchers: list[Callable[[], object]] = []
        #: the longest turn so far, in seconds
        self.longest = 0.0

    def seconds(self) -> float:
        return self._world.now + self._calls * self.CALL

    def callLater(self, seconds: float, call: Callable, *words: object, **keywords: object) -> DelayedCall:
        delayed = DelayedCall(self, self.seconds() + seconds, call, words, keywords)
        self.enter(delayed)
        return delayed

    def enter(self, delayed: DelayedCall) -> None:
        """Adds a call, to be made at its time."""
        heapq.heappush(self._timers, (delayed.time, self._world.number(), delayed))
        self._wake(delayed.time)

    def getDelayedCalls(self) -> list[DelayedCall]:
        return list({id(delayed): delayed for _, _, delayed in self._timers if delayed.active()}.values())

    def addReader(self, reader: Connection) -> None:
        self._readers.add(reader)
        self.socket_changed(reader)

    def addWriter(self, writer: Connection) -> None:
        self._writers.add(writer)
        self.socket_changed(writer)

    def removeReader(self, reader: Connection) -> None:
        self._readers.discard(reader)

    def removeWriter(self, writer: Connection) -> None:
        self._writers.discard(writer)

    def socket_changed(self, connection: Connection) -> None:
        """Called when a socket may have become ready."""
        if self._is_ready(connection):
            self._candidates[connection] = None
            self._wake(self._world.now)

    def _is_ready(self, connection: Connection) -> bool:
        end = getattr(connection, "socket", None)
        if end is None:
            return False
        return (connection in self._readers and end.readable) or (connection in self._writers and end.writable)

    def _wake(self, time: float) -> None:
        time = max(time, self._busy_until, self._world.now)
        if self._turn is not None:
            if self._turn.call is not None and self._turn.time <= time:
                return
            self._turn.cancel()
        self._turn = self._world.after(time - self._world.now, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        pieces = 0
        if self._measured:
            sys.setprofile(self._count)
        try:
            pieces += self._run_timers()
            pieces += self._run_sockets()
            for watcher in list(self.watchers):
                watcher()
        finally:
            if self._measured:
                sys.setprofile(None)
        took = self._calls * self.CALL if self._measured else self.TURN + pieces * self.PIECE
        self._calls = 0
        self.longest = max(self.longest, took)
        self._busy_until = self._world.now + took
        if self._candidates:
            self._wake(self._busy_until)
        while self._timers and not self._timers[0][2].active():
            heapq.heappop(self._timers)
        if self._timers:
            self._wake(self._timers[0][0])

    def _count(self, _: object, event: str, __: object) -> None:
        if event in ("call", "c_call"):
            self._calls += 1

    def _run_timers(self) -> int:
        due = []
        now = self._world.now
        while self._timers and self._timers[0][0] <= now:
            time, _, delayed = heapq.heappop(self._timers)
            if delayed.active() and delayed.time == time:  # otherwise it was moved
                due.append(delayed)
        for delayed in due:
            call, delayed.call = delayed.call, None
            if call is not None:
                try:
                    call(*delayed.words, **delayed.keywords)
                except Exception:
                    self._failed(Failure())
        return len(due)

    def _run_sockets(self) -> int:
        ready, self._candidates = [each for each in self._candidates if self._is_ready(each)], {}
        self._world.rng.shuffle(ready)
        for connection in ready:
            self._do(connection, self._readers, "readable", connection.doRead)
            self._do(connection, self._writers, "writable", connection.doWrite)
            if self._is_ready(connection):
                self._candidates[connection] = None
        return len(ready)

    def _do(self, connection: Connection, wanted: set[Connection], state: str, work: Callable) -> None:
        end = getattr(connection, "socket", None)
        if end is None or connection not in wanted or not getattr(end, state):
            return
        try:
            why = getattr(connection, work.__name__, work)()
        except Exception:
            self._failed(Failure())
            why = main.CONNECTION_LOST
        if why:
            self._disconnect(connection, why, wanted is self._readers)

    def _disconnect(self, connection: Connection, why: Exception, reading: bool) -> None:
        """Does what `PosixReactorBase._disconnectSelectable` does."""
        self.removeReader(connection)
        failure = _ENDS.get(type(why)) or Failure(why)
        if reading and isinstance(why, error.ConnectionDone) and IHalfCloseableDescriptor.providedBy(connection):
            connection.readConnectionLost(failure)
        else:
            self.removeWriter(connection)
            connection.connectionLost(failure)


class Poll:
    """The part of the module `select` that `clients.connection` needs: whether the peer of a socket
    has hung up.
    """

    POLLRDHUP = getattr(select, "POLLRDHUP", 0x2000)

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers: list[int] = []

    def poll(self, *timeout: object) -> object:
        """Is both `select.poll()` and the `poll(0)` of its result."""
        if not timeout:
            return Poll(self._world)
        return [number for number in self._numbers if (end := self._world.sockets.get(number)) and end.hung_up]

    def register(self, number: int, _: int) -> None:
        self._numbers.append(number)
