"""How many commands of one tenant that may keep Redis busy are under way at once.

Owns the tenant's window: the number of such commands that Redis may have at once, and the commands
that wait for a place. Redis runs all that it has read from a connection before it serves anybody
else, so only what it does not have yet can wait. The window grows as answers come quickly, and
shrinks to one command after a late one, as TCP's does after a lost packet.

A late answer alone proves nothing: another tenant may have kept Redis busy, or the network is slow.
So it only raises doubts. While there are any, Redis is asked for its own time before and behind
these commands, and only that time counts. Pure: times come in, and nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from .. import bounds, probes


class Flight(Protocol):
    """Commands under way. Their places are given back once: by `answered`, `unsent` or `lost`.

    commands: how many; since: when they were sent, in seconds of the window's clock.
    """

    commands: int
    since: float

    def hasten(self) -> None:
        """Others wait for these places: the replies must be read, even if nobody wants them."""


class Waiter(Protocol):
    """What waits for places."""

    def finish(self, result: None) -> bool:
        """Goes on. Returns False if it does not wait any more."""


class Window:
    """The window of one tenant in one process.

    seconds: a monotonic clock; call_later: calls a function after so many seconds.
    """

    __slots__ = (
        "_call_later",
        "_changed_at",
        "_doubts_until",
        "_flights",
        "_grows_at",
        "_most",
        "_seconds",
        "_serving",
        "_taken",
        "_untimed",
        "_waiting",
        "free",
        "size",
        "unused",
    )

    def __init__(self, seconds: Callable[[], float], call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._seconds = seconds
        self._call_later = call_later
        #: how many commands may be under way now
        self.size = bounds.WINDOW_FIRST
        #: places for more; 0 while others wait that came before
        self.unused = self.size
        #: how many commands a run may have: see `framing.FreePlaces` and `wide`
        self.free = self.size
        # Here and below, a dict keeps the order of insertion.
        self._flights: dict[Flight, None] = {}
        self._taken = 0
        # How many places each needs, the first one first.
        self._waiting: dict[Waiter, int] = {}
        self._serving = False
        # The largest size for now, and when it was changed.
        self._most = bounds.WINDOW_MOST
        self._changed_at = 0.0
        self._grows_at = 0.0
        # Until when Redis is asked how long the commands take.
        self._doubts_until = 0.0
        # Commands that were sent since one was timed.
        self._untimed = 0

    def __repr__(self) -> str:
        return f"<window {self._taken} of {self.size} taken, {len(self._waiting)} wait>"

    @property
    def waited_for(self) -> bool:
        """Whether commands wait for places."""
        return bool(self._waiting)

    @property
    def wide(self) -> bool:
        """Whether it is as wide as it gets, because answers were quick. Then commands may wait
        where they hold up others of their tenant: in a multiplexed connection. And `free` does not
        say whether there is a place.
        """
        return self.size >= bounds.WINDOW_MOST

    @property
    def slow(self) -> bool:
        """Whether commands have kept Redis busy just now, so that others may wait for long."""
        return self.size <= bounds.WINDOW_FIRST and self._seconds() < self._grows_at

    def times(self, commands: int) -> bool:
        """Whether Redis should be asked how long the next commands take.

        commands: how many they are. While there are doubts, each is timed until the window is wider
        again. If many are under way, some are timed, because they may be long ones.
        """
        self._untimed += commands
        if self.size <= bounds.WINDOW_UNTIMED and self._seconds() < self._doubts_until:
            return True
        if self._taken + commands <= bounds.WINDOW_UNTIMED or self._untimed < bounds.WINDOW_SAMPLE:
            return False
        self._untimed = 0
        return True

    def narrow(self) -> None:
        """Commands come here from now on that have kept Redis busy, as its log says. They go one at
        a time until Redis has told how long the next ones take.
        """
        self.size = 1
        self._doubts_until = self._seconds() + bounds.WINDOW_DOUBT_SECONDS
        self._count()

    def has(self, commands: int) -> bool:
        """Whether so many commands may be sent at once now. More than the window are, when they are
        the only ones.
        """
        return self.unused >= min(commands, self.size)

    def wait(self, waiter: Waiter, commands: int) -> None:
        """Has the waiter go on when there are so many places, behind all that wait already."""
        probes.reached("command waits for a place in its tenant's window")
        self._waiting[waiter] = commands
        self._count()
        for flight in list(self._flights):
            flight.hasten()

    def leave(self, waiter: Waiter) -> None:
        """It does not wait any more."""
        if self._waiting.pop(waiter, None) is not None:
            self._serve()

    def sent(self, flight: Flight) -> None:
        """Commands are sent."""
        flight.since = self._seconds()
        self._flights[flight] = None
        self._taken += flight.commands
        self._count()
        if self._waiting:
            flight.hasten()

    def holds(self, flight: Flight) -> bool:
        """Whether these commands are under way."""
        return flight in self._flights

    def lost(self, flight: Flight) -> None:
        """No answer comes any more: the connection is gone, or its session ended.

        Redis may run them still. Without the delay, many sessions that send one command each, and
        end, would have no window.
        """
        if flight in self._flights:
            probes.reached("session ends while its commands are in the window")
            self._call_later(bounds.WINDOW_LOST_SECONDS, partial(self.unsent, flight))

    def unsent(self, flight: Flight) -> None:
        """Redis has not got them, or does not run them any more."""
        if flight in self._flights:
            del self._flights[flight]
            self._taken -= flight.commands
            self._serve()

    def answered(self, flight: Flight, seconds: float | None = None) -> None:
        """All answers have come. seconds: how long Redis took, if it has told."""
        if flight in self._flights:
            self._judge(flight, seconds)
            self.unsent(flight)

    def _judge(self, flight: Flight, seconds: float | None) -> None:
        now = self._seconds()
        late = now - flight.since > bounds.LATE_SECONDS
        doubted = flight.since < self._doubts_until
        if late:
            self._doubts_until = now + bounds.WINDOW_DOUBT_SECONDS
        if seconds is not None and seconds > bounds.LATE_SECONDS:
            probes.reached("commands of a tenant have kept Redis busy")
            if seconds > bounds.WINDOW_LONG_SECONDS:
                self._most = max(bounds.WINDOW_FIRST, self._most // 2)
                self._changed_at = now
            self._grows_at = now + min(bounds.WINDOW_DOUBT_SECONDS, seconds * bounds.WINDOW_REST)
            # As many as Redis runs in the time that is not late.
            self.size = max(1, min(self.size, int(flight.commands * bounds.LATE_SECONDS / seconds)))
        elif not late or seconds is not None:
            if self._most < bounds.WINDOW_MOST and now - self._changed_at >= bounds.WINDOW_DOUBT_SECONDS:
                self._most = min(bounds.WINDOW_MOST, self._most * 2)
                self._changed_at = now
            if now >= self._grows_at:
                self.size = max(self.size, min(self._most, self.size + flight.commands))
        elif not doubted:
            probes.reached("late answer raises doubts, and the next ones are timed by Redis")
            self.size = 1  # until Redis has told how long the next ones take

    def _count(self) -> None:
        """Computes `unused` and `free`. Who waits goes first."""
        self.unused = 0 if self._waiting and not self._serving else max(0, self.size - self._taken)
        self.free = self.size if self.size >= bounds.WINDOW_MOST else self.unused

    def _serve(self) -> None:
        """Lets those that wait go on, as long as there are places."""
        if self._serving:
            return self._count()  # called by one that went on: the loop below goes on
        self._serving = True
        try:
            self._count()
            while self._waiting:
                waiter, commands = next(iter(self._waiting.items()))
                if not self.has(commands):
                    break
                del self._waiting[waiter]
                waiter.finish(None)
                self._count()
        finally:
            self._serving = False
            self._count()
        return None


#: The window of a session that sends nothing, because nobody is logged in.
NO_WINDOW = Window(lambda: 0.0, lambda _, call: call())
