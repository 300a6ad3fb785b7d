"""The status port: which connections it has, and whose request is served next.

Owns the bounds of the port. Anybody who reaches it can send requests, so nobody may slow the data
path or keep the kubelet's probes out:

- A request is parsed and answered when its turn comes, at most WORK_SECONDS of them in one turn of
  the reactor. The queue then rests, so that requests take at most CPU_FRACTION of the time.
- Probes have a queue of their own. Of other requests one is under way at a time.
- A connection has one request in a queue. A pipeline waits in the connection's buffer.
- A request has TIMEOUT seconds to arrive, counted from the connection or the answer before. Bytes
  do not prolong it.
- If all slots are taken, a new connection gets that of another: `HttpSite._make_room`.
- An address that connects too often is turned away before its connection costs anything.

Twisted's `HTTPChannel` parses requests and writes answers. It gets one request at a time here.
`policies.LimitTotalConnectionsFactory` does not suffice, as it can only refuse the newest one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IReactorTime, ITCPTransport
from twisted.internet.tcp import Port
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

#: Connections at the same time.
CONNECTIONS = 64
#: Seconds for a request to arrive, with the time until it begins. As many for what is left of the
#: answers to be sent, after the connection was asked to close.
TIMEOUT = 15
#: The request line and the headers of a request. Also the bytes of a pipeline behind it.
HEAD_BYTES = 16 * 1024
#: Header lines of a request. Browsers and proxies in front send some thirty.
HEADERS = 100
#: Seconds of work on requests before clients of the data path get a turn.
WORK_SECONDS = 0.001
#: The part of the time in which each of the two queues works.
CPU_FRACTION = 0.2
#: Connections that are accepted before the port rests.
ACCEPTS = 32
#: Seconds of the port's rest for each of them.
ACCEPT_SECONDS = 0.0002
#: Connections that one address may open in BURST_SECONDS. The further ones are closed. Clients that
#: wait for their answers open fewer.
BURST = 100
BURST_SECONDS = 0.1


class HttpRequest(Request):
    """A request without a body: nothing here reads one."""

    def gotLength(self, length: int | None) -> None:
        if length != 0:
            self.channel.loseConnection()
        super().gotLength(0)

    def handleContentChunk(self, data: bytes) -> None:
        """Discards the data."""


class HttpChannel(http.HTTPChannel):
    """One connection. It keeps what it receives, and parses one request when its turn comes."""

    factory: HttpSite
    transport: ITCPTransport
    maxHeaders = HEADERS
    totalHeadersSize = HEAD_BYTES

    def __init__(self) -> None:
        super().__init__()
        self._received = bytearray()
        # The length of the first request in it, 0 while that has not arrived.
        self._head_bytes = 0
        # More than a pipeline may have has arrived: the connection ends after this answer.
        self._last = False
        self._closing = False
        # The client does not read its answers.
        self._paused = False
        #: whose turn it waits for; None if it has no whole request
        self.queue: RequestQueue | None = None
        #: whether its request is parsed and not answered yet
        self.serving = False
        self.address = ""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.connected(self)

    def resetTimeout(self) -> None:
        """Does nothing: bytes do not prolong the time that a request has."""

    def dataReceived(self, data: bytes) -> None:
        if self._closing or self._last:
            return
        searched = max(0, len(self._received) - 3)
        self._received += data
        self._look_for_request(searched)
        if len(self._received) - self._head_bytes <= HEAD_BYTES or self._closing:
            return
        if self.queue is None:
            self._refuse_head()
        else:
            del self._received[self._head_bytes :]
            self._last = True

    def _look_for_request(self, searched: int = 0) -> None:
        """Waits for a turn if a whole request is there. searched: bytes without an end in them."""
        if self.queue is not None or self._paused or self._closing:
            return
        end = self._received.find(b"\r\n\r\n", searched)
        if end > HEAD_BYTES:
            self._refuse_head()
        elif end >= 0:
            self._head_bytes = end + 4
            self.queue = self.factory.queue_of(bytes(self._received[: self._received.find(b"\r\n")]))
            self.queue.join(self)

    def _refuse_head(self) -> None:
        self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
        self.loseConnection()

    def serve(self) -> None:
        """Parses the request, and answers it now or later. Called when its turn has come."""
        head = bytes(self._received[: self._head_bytes])
        del self._received[: self._head_bytes]
        self._head_bytes = 0
        self.serving = True
        super().dataReceived(head)
        if self.serving and (self._closing or not self.requests):
            self._end_turn()  # it was no request

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        persists: bool = super().checkPersistence(request, version)
        return persists and not self._last

    def requestDone(self, request: http.Request) -> None:
        if self._last:
            self.persistent = 0
        super().requestDone(request)
        self._end_turn()

    def _end_turn(self) -> None:
        queue, self.queue, self.serving = self.queue, None, False
        if queue is not None:
            queue.leave(self)
        self.factory.answered(self)
        self._look_for_request()

    def pauseProducing(self) -> None:
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        super().resumeProducing()
        self._look_for_request()

    def loseConnection(self) -> None:
        if not self._closing:
            self._closing = True
            self.setTimeout(TIMEOUT)
            self._stop_waiting()
        super().loseConnection()

    def _stop_waiting(self) -> None:
        queue = self.queue
        if queue is not None and not self.serving:
            self.queue = None
            queue.leave(self)

    def timeoutConnection(self) -> None:
        """Closes the connection, and aborts it if the client does not read the rest. Twisted's own
        way has log lines that a client can cause.
        """
        if self._closing:
            self.transport.abortConnection()
        else:
            self.loseConnection()

    def evict(self) -> None:
        """Aborts the connection, because its slot is needed or the port closes."""
        self._closing = True
        self.setTimeout(None)
        self._stop_waiting()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._closing = True
        super().connectionLost(reason)
        self.factory.disconnected(self)
        queue, self.queue = self.queue, None
        if queue is not None:
            queue.leave(self)


class RequestQueue:
    """Connections whose requests wait, the first come first. Each has one, so they take turns.

    one_by_one: whether a request waits until the one before is answered.
    """

    def __init__(self, clock: IReactorTime, one_by_one: bool) -> None:
        self._clock = clock
        self._one_by_one = one_by_one
        self._waiting: dict[HttpChannel, None] = {}
        # Whose answer is not complete, if they are served one by one.
        self._under_way: HttpChannel | None = None
        self._working = False
        self._rests_until = 0.0
        self._call: IDelayedCall | None = None

    def join(self, channel: HttpChannel) -> None:
        """Serves a connection when its turn comes, which may be at once."""
        self._waiting[channel] = None
        self._go_on()

    def leave(self, channel: HttpChannel) -> None:
        """Ends the turn of a connection, or its waiting."""
        self._waiting.pop(channel, None)
        if self._under_way is channel:
            self._under_way = None
        self._go_on()

    def stop(self) -> None:
        """Serves nobody any more."""
        self._waiting.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _go_on(self) -> None:
        """Works now, or plans to when the rest is over, if there is something to do."""
        if self._working or self._call is not None or self._under_way is not None or not self._waiting:
            return
        rest = self._rests_until - self._clock.seconds()
        if rest > 0:
            self._call = self._clock.callLater(rest, self._rested)
        else:
            self._work()

    def _rested(self) -> None:
        self._call = None
        if self._under_way is None and self._waiting:
            self._work()

    def _work(self) -> None:
        began, worked = self._clock.seconds(), 0.0
        self._working = True
        try:
            while self._waiting and self._under_way is None and worked < WORK_SECONDS:
                channel = next(iter(self._waiting))
                del self._waiting[channel]
                channel.serve()
                if self._one_by_one and channel.serving:
                    self._under_way = channel
                worked = self._clock.seconds() - began
        finally:
            self._working = False
        self._rests_until = began + worked / CPU_FRACTION
        if self._waiting and self._under_way is None:
            self._call = self._clock.callLater(max(0.0, self._rests_until - self._clock.seconds()), self._rested)


class HttpSite(Site):
    """Makes the connections of the port. probes: the paths of probes."""

    noisy = False
    displayTracebacks = False
    requestFactory = HttpRequest
    protocol: Any = HttpChannel

    def __init__(self, root: Resource, clock: IReactorTime, probes: Collection[bytes]) -> None:
        super().__init__(root, timeout=TIMEOUT, reactor=clock)
        self._clock = clock
        self._probe_paths = frozenset(probes)
        self._probes = RequestQueue(clock, one_by_one=False)
        self._others = RequestQueue(clock, one_by_one=True)
        # The connections. First is the one that has waited longest, since it was made or answered.
        self._channels: dict[HttpChannel, None] = {}
        self._of_address: Counter[str] = Counter()
        # The ports, the connections accepted since their last rest, and the end of this one.
        self._ports: list[Port] = []
        self._accepted = 0
        self._rest: IDelayedCall | None = None
        # How often each address has connected since then.
        self._burst: Counter[str] = Counter()
        self._burst_began = clock.seconds()

    def logPrefix(self) -> str:
        """Returns the name of the port in Twisted's log line when it opens, which is shown at debug
        level.
        """
        return "The status endpoint"

    def log(self, request: http.Request) -> None:
        """Does nothing: probes every few seconds would fill the log."""

    def limit_accepts(self, ports: Collection[IListeningPort]) -> None:
        """Bounds how many connections these ports accept in one turn."""
        self._ports = [port for port in ports if isinstance(port, Port)]
        for port in self._ports:
            port.numberAccepts = ACCEPTS

    def buildProtocol(self, addr: IAddress | None) -> http.HTTPChannel | None:  # type: ignore[override]
        """Returns the connection, None to close it at once."""
        self._accepted += 1
        if self._accepted >= ACCEPTS and self._ports and self._rest is None:
            self._rest = self._clock.callLater(self._accepted * ACCEPT_SECONDS, self._accept_again)
            for port in self._ports:
                port.stopReading()
        address = getattr(addr, "host", "")
        if self._too_often(address):
            return None
        if len(self._channels) >= CONNECTIONS:
            self._make_room()
        channel: HttpChannel = super().buildProtocol(addr)
        channel.address = address
        return channel

    def _accept_again(self) -> None:
        self._rest = None
        self._accepted = 0
        for port in self._ports:
            if port.connected:
                # Twisted's own bound grows each time that it is reached.
                port.numberAccepts = ACCEPTS
                port.startReading()

    def _too_often(self, address: str) -> bool:
        now = self._clock.seconds()
        if now - self._burst_began >= BURST_SECONDS:
            self._burst_began = now
            self._burst.clear()
        self._burst[address] += 1
        return self._burst[address] > BURST

    def _make_room(self) -> None:
        """Ends a connection of the address that has most of them: the oldest idle one, else the
        oldest whose request waits, else the one that is served.
        """
        victim = max(
            self._channels, key=lambda one: (self._of_address[one.address], one.queue is None, not one.serving)
        )  # of equals, `max` takes the first, which is the oldest
        self.disconnected(victim)
        victim.evict()

    def queue_of(self, line: bytes) -> RequestQueue:
        """Returns the queue of a request. line: its first line."""
        _, _, rest = line.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        return self._probes if path in self._probe_paths else self._others

    def connected(self, channel: HttpChannel) -> None:
        """Gives a connection a slot."""
        self._channels[channel] = None
        self._of_address[channel.address] += 1

    def answered(self, channel: HttpChannel) -> None:
        """Puts a connection behind all that have waited longer."""
        if channel in self._channels:
            del self._channels[channel]
            self._channels[channel] = None

    def disconnected(self, channel: HttpChannel) -> None:
        """Frees the slot of a connection. May be called twice."""
        if channel in self._channels:
            del self._channels[channel]
            self._of_address[channel.address] -= 1
            if not self._of_address[channel.address]:
                del self._of_address[channel.address]

    def close(self) -> None:
        """Ends all connections."""
        for queue in (self._probes, self._others):
            queue.stop()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        for channel in list(self._channels):
            channel.evict()
