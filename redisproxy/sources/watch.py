"""Watches the Kubernetes API, so that a change takes effect at once instead of at the next refresh.

Owns three threads, one each for the streams of namespaces, secrets and the master secret. Owns how
far each stream was read, when it is opened again, and which events matter. `watch_events` parses
the streams.

An event is only a hint which object to read again. So events may come late, twice or in any order.
Must not take over anything else from an event: a deletion is believed only from a read that
succeeded. The watches request metadata only, so no content of a secret comes this way.

There are threads because the official client blocks, and three however many tenants there are. They
rest like the threads that read (`throttle`).
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

#: Seconds, least and most, after which the API server ends a watch. The watch then goes on where it
#: ended.
LASTS = (60, 75)
#: Delays before a watch is opened again. Part of each is random, so that replicas of the proxy do
#: not return all at once.
BACKOFF = Backoff(0.25, 10.0, shorten=0.5)
#: The same if the right to watch is missing. An operator may grant it meanwhile.
FORBIDDEN = Backoff(60.0, 60.0, shorten=0.5)
#: If a watch lasted at least this many seconds, it is opened again at once.
GOOD = 5.0


class Stream(Protocol):
    """An open watch."""

    def __iter__(self) -> Iterator[bytes]:
        """Yields pieces of any size until the server ends the watch. Blocks. Raises
        WatchFailure.
        """

    def close(self) -> None:
        """Closes the connection. Called by the thread that reads it."""

    def cut(self) -> None:
        """Makes the read end. Called from another thread."""


class Watchable(Protocol):
    """What a watch needs of a source. All methods but `concerns` block and raise WatchFailure."""

    def version(self, what: Watched) -> str:
        """Returns the resourceVersion to watch from. It may be empty.

        A read that begins after this call finds all changes before that version.
        """

    def watch(self, what: Watched, version: str, seconds: int) -> Stream:
        """Opens a watch that the server ends after so many seconds."""

    def concerns(self, what: Watched, namespace: str, name: str) -> bool:
        """Whether a change of this object may change the Snapshot."""


class _Follower:
    """Keeps one watch open, in its own thread."""

    _log = Log()

    def __init__(self, watch: WatchService, source: Watchable, what: Watched, master: tuple[str, str]) -> None:
        self._watch = watch
        self._source = source
        self._what = what
        self._master = master
        self._stopped = threading.Event()
        self._stream: Stream | None = None
        self._throttle = Throttle()
        #: the resourceVersion of the last event; None: a new one is needed, and everything must be
        #: read
        self._version: str | None = None
        #: whether the last attempt failed because the version was too old (410)
        self._expired = False
        #: when the stream was opened (time.monotonic); None while it is closed
        self._opened: float | None = None
        #: how often the stream was opened, how many events came (with bookmarks), and when the last
        #: one came (time.monotonic)
        self.openings = 0
        self.events = 0
        self.last_event: float | None = None
        # A daemon thread, because a thread that is connecting cannot be woken. It must not delay
        # the end of the process.
        self.thread = threading.Thread(target=self._run, name=f"watch of {what.value}", daemon=True)

    def stop(self) -> None:
        """Called in the reactor. The thread ends at once, unless it is connecting."""
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
        """Returns the seconds until the next attempt."""
        # After the first 410 in a row the watch begins anew at once, whatever failed before.
        expired, self._expired = self._expired, failure.status == 410
        if failure.status == 403:
            delay = FORBIDDEN.delay(1)
        elif failures == 0 or (self._expired and not expired):
            delay = 0.0
        else:
            delay = BACKOFF.delay(failures)
        return delay if failure.retry_after is None else max(delay, min(failure.retry_after, FORBIDDEN.longest))

    def _follow(self) -> None:
        """Opens the stream and reads it until the server ends it."""
        if self._version is None:
            version = self._source.version(self._what)
            self._start_over()
            self._version = version
        seconds = random.randint(*LASTS)  # noqa: S311 - random, so that replicas do not all return at once
        try:
            stream = self._stream = self._source.watch(self._what, self._version, seconds)
        except WatchFailure as failure:
            # The server may have refused the version.
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
            # After a broken connection the watch goes on where it was. After any other failure
            # everything is read again.
            if failure.status != BROKEN_OFF:
                self._version = None
            raise
        finally:
            self._stream = None
            stream.close()

    def _start_over(self) -> None:
        """Has everything read that the watch did not report."""
        if self._what is Watched.MASTER:
            self._watch.changed(*self._master)
        else:
            self._watch.start_over()

    def _on_event(self, event: Event) -> None:
        self._version = event.version
        if event.kind != "BOOKMARK":
            self._on_change(event)
        # Last: whoever sees it counted finds it in the queue.
        self.events += 1
        self.last_event = time.monotonic()

    def _on_change(self, event: Event) -> None:
        namespaces = self._what is Watched.NAMESPACES
        namespace, name = (event.name, ITSELF) if namespaces else (event.namespace, event.name)
        if self._source.concerns(self._what, namespace, name):
            # A modified namespace may have new annotations, but its secrets are the same.
            whole = namespaces and event.kind != "MODIFIED"
            self._watch.changed(namespace, None if whole else name)


class WatchService(service.Service):
    """All watches of a source, and their state.

    source: the source to watch.
    master: (namespace, name) of the master secret.
    queue: receives the changes.
    changed: called in the reactor when the queue is no longer empty.
    refresh: called in the reactor when everything must be read.
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
        #: by watch: None while it is open, else the reason; empty until the first attempt has ended
        self._state: dict[Watched, str | None] = dict.fromkeys(Watched, "")

    # For metrics.

    @property
    def watching(self) -> bool:
        """Whether every change takes effect at once."""
        return bool(self.running) and all(reason is None for reason in self._state.values())

    @property
    def reconnects(self) -> int:
        """How many times a watch was opened again since the start. Each watch normally is about
        once a minute.
        """
        return sum(max(0, follower.openings - 1) for follower in self._followers)

    @property
    def events(self) -> int:
        """How many events came since the start, with those that do not matter to the proxy."""
        return sum(follower.events for follower in self._followers)

    @property
    def quiet(self) -> float | None:
        """Seconds since the last event; None before the first."""
        moments = [follower.last_event for follower in self._followers if follower.last_event is not None]
        return time.monotonic() - max(moments) if moments else None

    def state(self) -> WatchState:
        """The state of the watches, for metrics."""
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

    # Called by the threads.

    def changed(self, namespace: str, secret: str | None) -> None:
        """Queues an object to be read again. secret: see `ChangeQueue.note`."""
        if self._queue.note(namespace, secret):
            self._reactor.callFromThread(self._changed)

    def start_over(self) -> None:
        """Has everything read again, because no watch has reported some changes."""
        self._reactor.callFromThread(self._refresh)

    def opened(self, what: Watched) -> None:
        """A watch was opened."""
        self._reactor.callFromThread(self._set, what, None)

    def lost(self, what: Watched, failure: WatchFailure) -> None:
        """A watch is closed, and will be for a while."""
        self._reactor.callFromThread(self._set, what, failure.reason)

    def crashed(self, what: Watched, failure: Failure) -> None:
        """Logs a bug in a thread."""
        self._reactor.callFromThread(bug(self._log, "the watch of {what}", what=what.value), failure)

    def _set(self, what: Watched, reason: messages.Text | None) -> None:
        """Logs each change of state once: not every attempt, and not the same reason for several
        watches.
        """
        known_reasons = set(self._state.values())
        before, self._state[what] = self._state[what], reason
        if not self.running:
            return
        if reason is None:
            if before is not None and self.watching:
                self._log.write(messages.WATCHED)
        elif not before and reason not in known_reasons:
            self._log.write(messages.NOT_WATCHED_NOW, what=what.value, reason=reason)
