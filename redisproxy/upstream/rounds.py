"""Commands that may keep Redis busy wait in the queue of a multiplexed connection, in its order.

Owns which of the queued bytes are written, and how Redis is asked how long it took. A round is what
the tenant's window (`tenants.window`) lets Redis have at once. The next one is written when Redis
has answered the last one. So sessions do not wait, and need no Step. They go on, and their commands
wait here, with what other sessions of the tenant have sent behind them.

A run of such commands has a batch of its own, which no later command enlarges. A round may end
within a run: then the run is divided, and its batch too. Each run is one piece of the queue, also
what is still to come of a divided one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast

from .. import probes
from ..resp.framing import AUTHENTICATED, WINDOWED, RequestScanner
from ..session.pending import WINDOWED as WINDOWED_BATCH
from ..session.pending import ReplyBatch
from ..session.replies import NOBODY, ReplyQueue
from ..session.state import BugError
from ..session.windowed import TIME, Clock
from ..tenants.window import Window


class _Run(NamedTuple):
    """Commands that wait. before: pieces of the queue between these and the run before; needed:
    places for them.
    """

    before: int
    batch: ReplyBatch
    needed: int
    window: Window
    #: whether each command has one reply and needs one place, so that they can be divided
    divisible: bool


class _Places:
    """The places that the first part of a run gets. See `resp.framing.FreePlaces`."""

    def __init__(self, free: int) -> None:
        self.free = free


class Rounds:
    """The rounds of one multiplexed connection. Implements `tenants.window.Waiter`.

    batches: what Redis has to answer, and what it will have to, in order; queued: bytes that were
    not written, in the same order; flush: writes what may be written; settle: see
    `tenants.window.Flight.hasten`.
    """

    __slots__ = ("_batches", "_counted", "_flush", "_queued", "_settle", "_waits_in", "runs", "under_way")

    def __init__(
        self, batches: deque[ReplyBatch], queued: deque[bytes], flush: Callable[[], None], settle: Callable[[], None]
    ) -> None:
        self._batches = batches
        self._queued = queued
        self._flush = flush
        self._settle = settle
        #: the runs that wait, the first one first
        self.runs: deque[_Run] = deque()
        # How many pieces of the queue are runs, or stand before one.
        self._counted = 0
        #: the end of the round that Redis has; None: it has none
        self.under_way: _End | None = None
        self._waits_in: Window | None = None

    def add(self, data: bytes, batch: ReplyBatch, needed: int, window: Window, divisible: bool) -> None:
        """Adds a run at the end of the queue. `batch` must be one that nothing enlarges."""
        queued = self._queued
        self.runs.append(_Run(len(queued) - self._counted, batch, needed, window, divisible))
        queued.append(data)
        self._counted = len(queued)
        self._batches.append(batch)

    @property
    def held_up(self) -> bool:
        """Whether what waits here may wait for long, because the tenant's commands took long."""
        return bool(self.runs) and self.runs[0].window.slow

    def due(self) -> tuple[list[bytes], int]:
        """Takes from the queue what is to be written now: up to the first run without a place.

        Returns that, and how many bytes of the queue it is: the TIMEs were not in the queue. The
        caller must call `written` at once.
        """
        queued, runs = self._queued, self.runs
        out: list[bytes] = []
        first = last = None
        free = commands = begin = end = 0
        while runs:
            run = runs[0]
            if run.before:
                out.extend(queued.popleft() for _ in range(run.before))
                self._counted -= run.before
                run = runs[0] = run._replace(before=0)
            if self.under_way is not None:
                break
            if first is None:
                # All of an empty window are for one that needs more.
                window, free = run.window, run.window.unused
                if not run.divisible and window.has(run.needed):
                    free = max(free, run.needed)
            if run.window is window and commands + run.needed <= free:
                runs.popleft()
                data = queued.popleft()
                self._counted -= 1
            elif first is None and free and run.divisible:
                run, data = self._divide(run, free)
            else:
                break
            if first is None:
                first, begin = run.batch, len(out)
            out.append(data)
            last, end = run.batch, len(out)
            commands += run.needed
        if not runs:
            out.extend(queued)
            queued.clear()
        size = sum(map(len, out))
        if first is not None and last is not None:
            self._begin(window, commands, first, last, out, begin, end)
        return out, size

    def _begin(
        self, window: Window, commands: int, first: ReplyBatch, last: ReplyBatch, out: list[bytes], begin: int, end: int
    ) -> None:
        """A round is written: puts a TIME behind its last run, and another before its first one."""
        batches = self._batches
        before = Clock() if window.times(commands) else None
        self.under_way = marker = _End(self, commands, window, self._settle, before)
        out.insert(end, TIME)
        if last is batches[-1]:
            batches.append(marker)
        else:
            batches.insert(batches.index(last) + 1, marker)
        if before is not None:
            out.insert(begin, TIME)
            batches.insert(batches.index(first), ReplyBatch(before, 1))

    def written(self) -> None:
        """What was due is written: takes its places, or waits for some. Not before, because others
        may go on then, and have what waits here written.
        """
        end = self.under_way
        if end is not None:
            if not end.window.holds(end):
                end.window.sent(end)
        elif self.runs and self._waits_in is None:
            run = self.runs[0]
            self._waits_in = run.window
            run.window.wait(self, 1 if run.divisible else run.needed)

    def _divide(self, run: _Run, count: int) -> tuple[_Run, bytes]:
        """Takes the first `count` commands of the run that is first in the queue. Returns them."""
        probes.reached("run of commands is divided, because its tenant's window became smaller")
        scanner = RequestScanner(AUTHENTICATED, {}, WINDOWED)
        scanner.window = _Places(count)
        whole, batch = self._queued[0], run.batch
        scanner.feed(whole)
        found = scanner.next()
        if found is None or found[2] != count:
            raise BugError(f"a run of {run.needed} commands has no first {count}")
        data = cast(bytes, found[1])
        self._queued[0] = whole[len(data) :]
        part = ReplyBatch(batch.receiver, count, WINDOWED_BATCH, min(count, batch.discard))
        batch.count -= count
        batch.discard -= part.discard
        self._batches.insert(self._batches.index(batch), part)
        if batch.receiver is not NOBODY:
            cast(ReplyQueue, batch.receiver).divide(batch, part)
        self.runs[0] = run._replace(needed=run.needed - count)
        return run._replace(batch=part, needed=count), data

    def finish(self, result: None) -> bool:
        """See `tenants.window.Waiter`."""
        self._waits_in = None
        self._flush()
        return True

    def go_on(self) -> None:
        """Redis has answered a round: writes the next one."""
        if self.runs:
            self._flush()

    def clear(self) -> None:
        """What waits is never written."""
        self.runs.clear()
        self._counted = 0
        window, self._waits_in = self._waits_in, None
        if window is not None:
            window.leave(self)


class _End(ReplyBatch):
    """The reply to the TIME behind a round. Receives itself. Implements `tenants.window.Flight`.

    before: has the reply to the TIME before the round; None: Redis is not asked how long it takes.
    """

    __slots__ = ("_before", "_clock", "_rounds", "commands", "hasten", "since", "window")

    def __init__(
        self, rounds: Rounds, commands: int, window: Window, hasten: Callable[[], None], before: Clock | None
    ) -> None:
        super().__init__(self, 1)
        self._rounds = rounds
        self._before = before
        self._clock = Clock()
        self.commands = commands
        self.since = 0.0
        self.window = window
        self.hasten = hasten

    @property
    def waited_for(self) -> bool:
        """See `pending.ReplyBatch`.

        Whoever waits here for the next round has a batch of its own, which says so.
        """
        return self.window.waited_for

    def lost(self) -> None:
        """See `pending.ReplyBatch`."""
        self.window.lost(self)

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """See `ports.ReplyReceiver`."""
        self._clock.reply(batch, piece, ended)
        if ended:
            # First of all: others of the tenant may get the places, and so may the next round.
            self._rounds.under_way = None
            self.window.answered(self, None if self._before is None else self._clock.since(self._before))
            self._rounds.go_on()

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """See `ports.ReplyReceiver`."""
