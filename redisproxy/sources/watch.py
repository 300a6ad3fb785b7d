"""Watches the Kubernetes API, so that what changes takes effect at once and not only at the next
refresh.

Owns the threads that read the streams: one each for namespaces, secrets and the master secret,
where each stands, when it is opened again, and which of its events matter. `watch_events` reads
what a stream says. An event is a hint: it says what to read again, and nothing of an event is ever
taken over. So it does not matter how late, how often or in which order they come, and a deletion is
believed only from a read that succeeded. The API server is asked for metadata alone: no content of
a secret comes this way.

Threads, because the official client blocks; three, however many tenants there are. They rest as
those that read do (`throttle`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from twisted.application import service
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from .. import messages
from ..ops.bugs import bug
from ..ops.logs import Log
from ..ops.retry import Backoff
from ..ops.stats import WatchState
from ..tenants.documents import ITSELF
from .hints import ChangeQueue
from .throttle import Throttle
from .watch_events import BROKEN_OFF, Event, Watched, WatchFailure, read_event, split_lines

#: Seconds, least and most, after which the API server ends a watch: it is opened again where it
#: stood.
LASTS = (60, 75)
#: When a watch is opened again. Chance takes a part off, so that replicas of the proxy do not
#: return all at once.
BACKOFF = Backoff(0.25, 10.0, shorten=0.5)
#: The same where the right to watch is missing: it may be given meanwhile.
FORBIDDEN = Backoff(60.0, 60.0, shorten=0.5)
#: Seconds after which a watch that ends has been a good one: it is opened again at once.
GOOD = 5.0


class Stream(Protocol):
    """A watch that is open."""

    def __iter__(self) -> Iterator[bytes]:
        """What comes, in pieces of any size, until the server ends it. Blocks. Raises
        WatchFailure.
        """

    def close(self) -> None:
        """Gives the connection up; called by who reads it."""

    def cut(self) -> None:
        """Ends the reading; called in another thread."""


class Watchable(Protocol):
    """What can be watched. All of it blocks, and raises WatchFailure."""

    def version(self, what: Watched) -> str:
        """The resourceVersion to watch from: what was changed earlier is seen by a reading that
        begins now. May be empty.
        """

    def watch(self, what: Watched, version: str, seconds: int) -> Stream:
        """Opens a watch that the server ends after so many seconds."""

    def concerns(self, what: Watched, namespace: str, name: str) -> bool:
        """Whether a change of this object may change the Snapshot."""


class _Follower:
    """One watch, opened again and again, in a thread of its own."""

    _log = Log()

    def __init__(self, watch: WatchService, source: Watchable, what: Watched, master: tuple[str, str]) -> None:
        self._watch = watch
        self._source = source
        self._what = what
        self._master = master
        self._stopped = threading.Event()
        self._stream: Stream | None = None
        self._throttle = Throttle()
        #: where the stream stands, None: to be found out, and everything to be read
        self._version: str | None = None
        #: whether the last attempt failed because the version was too old
        self._expired = False
        #: when the stream was opened, None: it is not
        self._opened: float | None = None
        #: how many times it was opened, how many events came, bookmarks included, and when the last
        #: did (time.monotonic)
        self.openings = 0
        self.events = 0
        self.last_event: float | None = None
        # A daemon: one that is about to connect cannot be woken up, and must not delay the end of
        # the process.
        self.thread = threading.Thread(target=self._run, name=f"watch of {what.value}", daemon=True)

    def stop(self) -> None:
        """Called in the reactor. The thread ends at once, unless it is about to connect."""
        self._stopped.set()
        self._throttle.stop()
        stream = self._stream
        if stream is not None:
            stream.cut()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._opened = None
            failure = WatchFailure(messages.WATCH_CLOSED())
            try:
                self._follow()
            except WatchFailure as caught:
                failure = caught
            except Exception:
                self._watch.crashed(self._what, Failure())
                self._version = None
                failure = WatchFailure(messages.WATCH_BUG())
            if self._stopped.is_set():
                return
            good = self._opened is not None and time.monotonic() - self._opened >= GOOD
            failures = 0 if good else failures + 1
            delay = self._delay(failures, failure)
            if self._opened is None or delay > 1.0:
                self._watch.lost(self._what, failure)
            self._stopped.wait(delay)

    def _delay(self, failures: int, failure: WatchFailure) -> float:
        """Seconds until the next attempt."""
        # Whatever was before it, the first 410 in a row says what to do: to begin anew, now.
        expired, self._expired = self._expired, failure.status == 410
        if failure.status == 403:
            delay = FORBIDDEN.delay(1)
        elif failures == 0 or (self._expired and not expired):
            delay = 0.0
        else:
            delay = BACKOFF.delay(failures)
        return delay if failure.retry_after is None else max(delay, min(failure.retry_after, FORBIDDEN.longest))

    def _follow(self) -> None:
        """Opens the stream and reads it, until the server ends it."""
        if self._version is None:
            version = self._source.version(self._what)
            self._start_over()
            self._version = version
        seconds = random.randint(*LASTS)  # noqa: S311 - so that replicas do not return all at once
        try:
            stream = self._stream = self._source.watch(self._what, self._version, seconds)
        except WatchFailure as failure:
            # What the server does not accept at all may be the version.
            if 400 <= failure.status < 500 and failure.status not in (401, 403, 429):
                self._version = None
            raise
        try:
            if self._stopped.is_set():
                return
            self._opened = time.monotonic()
            self.openings += 1
            self._watch.opened(self._what)
            self._throttle.start()
            for line in split_lines(stream):
                self._on_event(read_event(line))
                self._throttle.yield_cpu()
        except WatchFailure as failure:
            # The stream broke off: it goes on where it stood. After whatever else, everything is
            # read anew.
            if failure.status != BROKEN_OFF:
                self._version = None
            raise
        finally:
            self._stream = None
            stream.close()

    def _start_over(self) -> None:
        """What the watch does not tell is read: all that there is."""
        if self._what is Watched.MASTER:
            self._watch.changed(*self._master)
        else:
            self._watch.start_over()

    def _on_event(self, event: Event) -> None:
        self._version = event.version
        self.events += 1
        self.last_event = time.monotonic()
        if event.kind == "BOOKMARK":
            return
        namespaces = self._what is Watched.NAMESPACES
        namespace, name = (event.name, ITSELF) if namespaces else (event.namespace, event.name)
        if self._source.concerns(self._what, namespace, name):
            # Of a namespace that changes the annotations may be others, but its secrets are the
            # same.
            whole = namespaces and event.kind != "MODIFIED"
            self._watch.changed(namespace, None if whole else name)


class WatchService(service.Service):
    """The watches, and how they are.

    source: what is watched; master: (namespace, name) of the master secret; queue: where changes
    are put; changed: called in the reactor when something is put there; refresh: called in the
    reactor when everything is to be read.
    """

    name = "watch"
    _log = Log()

    def __init__(
        self,
        reactor: IReactorFromThreads,
        source: Watchable,
        master: tuple[str, str],
        queue: ChangeQueue,
        changed: Callable[[], object],
        refresh: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._source = source
        self._master = master
        self._queue = queue
        self._changed = changed
        self._refresh = refresh
        self._followers: list[_Follower] = []
        #: of each: None while it is open, else why not; empty: not yet
        self._state: dict[Watched, str | None] = dict.fromkeys(Watched, "")

    # For metrics.

    @property
    def watching(self) -> bool:
        """Whether a change takes effect at once, whatever it is in."""
        return bool(self.running) and all(reason is None for reason in self._state.values())

    @property
    def reconnects(self) -> int:
        """How many times a watch was opened again since the start; each is about once a minute, in
        the normal course.
        """
        return sum(max(0, follower.openings - 1) for follower in self._followers)

    @property
    def events(self) -> int:
        """How many events came since the start, those included that do not matter here."""
        return sum(follower.events for follower in self._followers)

    @property
    def quiet(self) -> float | None:
        """For how many seconds no event has come, None before the first."""
        moments = [follower.last_event for follower in self._followers if follower.last_event is not None]
        return time.monotonic() - max(moments) if moments else None

    def state(self) -> WatchState:
        """All of that."""
        return {"watching": self.watching, "events": self.events, "reconnects": self.reconnects, "quiet": self.quiet}

    # Starting and stopping.

    def startService(self) -> None:
        super().startService()
        self._state = dict.fromkeys(Watched, "")
        self._followers = [_Follower(self, self._source, what, self._master) for what in Watched]
        for follower in self._followers:
            follower.thread.start()

    def stopService(self) -> None:
        super().stopService()
        for follower in self._followers:
            follower.stop()

    # What the threads tell.

    def changed(self, namespace: str, secret: str | None) -> None:
        """To be read again. secret: see `ChangeQueue.note`."""
        if self._queue.note(namespace, secret):
            self._reactor.callFromThread(self._changed)

    def start_over(self) -> None:
        """All is to be read again: there may have been changes that no watch tells of."""
        self._reactor.callFromThread(self._refresh)

    def opened(self, what: Watched) -> None:
        """A watch is open."""
        self._reactor.callFromThread(self._set, what, None)

    def lost(self, what: Watched, failure: WatchFailure) -> None:
        """A watch is not open, and will not be for a while."""
        self._reactor.callFromThread(self._set, what, failure.reason)

    def crashed(self, what: Watched, failure: Failure) -> None:
        """There is a bug."""
        self._reactor.callFromThread(bug(self._log, "the watch of {what}", what=what.value), failure)

    def _set(self, what: Watched, reason: messages.Text | None) -> None:
        """Tells of each change once: not of every attempt, nor of one reason for each watch."""
        known_reasons = set(self._state.values())
        before, self._state[what] = self._state[what], reason
        if not self.running:
            return
        if reason is None:
            if before is not None and self.watching:
                self._log.write(messages.WATCHED)
        elif not before and reason not in known_reasons:
            self._log.write(messages.NOT_WATCHED_NOW, what=what.value, reason=reason)
