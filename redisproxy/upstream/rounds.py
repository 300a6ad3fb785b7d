"""Commands that may keep Redis busy wait in the queue of a multiplexed connection, in its order.

Owns which of the queued bytes are written, and how Redis is asked how long it took. A round is what
the tenant's window (`tenants.window`) lets Redis have at once. The next one is written when Redis
has answered the last one. So sessions do not wait, and need no Step. They go on, and their commands
wait here, with what other sessions of the tenant have sent behind them.

A run of such commands has a batch of its own, which no later command enlarges. A round may end
within a run: then the run is divided, and its batch too.
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
from ..session.windowed import TIME, Clock
from ..tenants.window import Window


class _Run(NamedTuple):
    """Commands that wait. at: which of all queued pieces they are; needed: places for them."""

    at: int
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

    __slots__ = ("_batches", "_flush", "_queued", "_settle", "_taken", "_under_way", "_waits_in", "runs")

    def __init__(
        self, batches: deque[ReplyBatch], queued: deque[bytes], flush: Callable[[], None], settle: Callable[[], None]
    ) -> None:
        self._batches = batches
        self._queued = queued
        self._flush = flush
        self._settle = settle
        #: the runs that wait, the first one first
        self.runs: deque[_Run] = deque()
        # Pieces that were taken from the queue while runs waited.
        self._taken = 0
        self._under_way: _End | None = None
        self._waits_in: Window | None = None

    def add(self, data: bytes, batch: ReplyBatch, needed: int, window: Window, divisible: bool) -> None:
        """Adds a run at the end of the queue. `batch` must be one that nothing enlarges."""
        if not self.runs:
            self._taken = 0
        self.runs.append(_Run(self._taken + len(self._queued), batch, needed, window, divisible))
        self._queued.append(data)
        self._batches.append(batch)

    def due(self) -> list[bytes]:
        """Takes from the queue what is to be written now: up to the first run without a place."""
        queued, runs = self._queued, self.runs
        out: list[bytes] = []
        first = last = None
        free = commands = begin = end = 0
        while runs:
            run = runs[0]
            while self._taken < run.at:
                out.append(queued.popleft())
                self._taken += 1
            if self._under_way is not None:
                break
            if first is None:
                # All of an empty window are for one that needs more.
                window, free = run.window, run.window.unused
                if not run.divisible and window.has(run.needed):
                    free = max(free, run.needed)
            if run.window is window and commands + run.needed <= free:
                runs.popleft()
            elif first is None and free and run.divisible:
                run = self._divide(run, free)
            else:
                if first is None:
                    self._wait(run)
                break
            if first is None:
                first, begin = run.batch, len(out)
            out.append(queued.popleft())
            self._taken += 1
            last, end = run.batch, len(out)
            commands += run.needed
        if not runs:
            out.extend(queued)
            queued.clear()
        if first is not None and last is not None:
            self._begin(window, commands, first, last, out, begin, end)
        return out

    def _begin(
        self, window: Window, commands: int, first: ReplyBatch, last: ReplyBatch, out: list[bytes], begin: int, end: int
    ) -> None:
        """A round is written: puts a TIME behind its last run, and another before its first one."""
        batches = self._batches
        before = Clock() if window.times(commands) else None
        self._under_way = marker = _End(self, commands, window, self._settle, before)
        out.insert(end, TIME)
        if last is batches[-1]:
            batches.append(marker)
        else:
            batches.insert(batches.index(last) + 1, marker)
        if before is not None:
            out.insert(begin, TIME)
            batches.insert(batches.index(first), ReplyBatch(before, 1))
        window.sent(marker)

    def _divide(self, run: _Run, count: int) -> _Run:
        """Divides the first run in the queue. Returns its first `count` commands."""
        probes.reached("run of commands is divided, because its tenant's window became smaller")
        scanner = RequestScanner(AUTHENTICATED, {}, WINDOWED)
        scanner.window = _Places(count)
        whole, batch = self._queued[0], run.batch
        scanner.feed(whole)
        found = scanner.next()
        data = cast(bytes, found[1]) if found is not None else whole
        self._queued[0] = whole[len(data) :]
        self._queued.appendleft(data)
        part = ReplyBatch(batch.receiver, count, WINDOWED_BATCH, min(count, batch.discard))
        batch.count -= count
        batch.discard -= part.discard
        self._batches.insert(self._batches.index(batch), part)
        if batch.receiver is not NOBODY:
            cast(ReplyQueue, batch.receiver).divide(batch, part)
        self.runs[0] = run._replace(at=run.at + 1, needed=run.needed - count)
        return run._replace(batch=part, needed=count)

    def _wait(self, run: _Run) -> None:
        if self._waits_in is None:
            self._waits_in = run.window
            run.window.wait(self, 1 if run.divisible else run.needed)

    def finish(self, result: None) -> bool:
        """See `tenants.window.Waiter`."""
        self._waits_in = None
        self._flush()
        return True

    def ended(self) -> None:
        """All commands of the round are answered."""
        self._under_way = None
        if self.runs:
            self._flush()

    def clear(self) -> None:
        """What waits is never written."""
        self.runs.clear()
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
        """See `pending.ReplyBatch`."""
        return bool(self._rounds.runs) or self.window.waited_for

    def lost(self) -> None:
        """See `pending.ReplyBatch`."""
        self.window.lost(self)

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """See `ports.ReplyReceiver`."""
        self._clock.reply(batch, piece, ended)
        if ended:
            self.window.answered(self, None if self._before is None else self._clock.since(self._before))
            self._rounds.ended()

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """See `ports.ReplyReceiver`."""
