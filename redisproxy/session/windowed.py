"""Commands that may keep Redis busy: how a session sends them within its tenant's window.

Owns who waits for a place, and how Redis is asked for its own time: by a TIME before such commands
and one behind them, in the same write. `tenants.window` decides how many may be under way. A
command larger than WHOLE_COMMAND_BYTES is sent in pieces, and needs its place for the last one:
Redis does not run it before.

Inside MULTI such a command needs no place, because Redis only keeps it. EXEC needs a place for each
of them. With more than the window has, it waits until it has the window for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from .. import messages, probes
from ..policy.policy import Policy, windowed_in
from ..resp.framing import UNLIMITED, encode
from .pending import WINDOWED, ReplyBatch, RewrittenReply, WindowedBatch
from .ports import Multiplexed, ReplyReceiver, Unavailable
from .route import DEDICATED, MULTIPLEXED
from .state import Step, Until

if TYPE_CHECKING:
    from ..tenants.window import Window
    from .session import Session

#: The command that asks Redis for its time.
TIME = encode([b"TIME"])
#: The reply to TIME: an array of two bulk strings, seconds and microseconds.
_TOLD = 5


def use(session: Session, window: Window) -> None:
    """Uses this window from now on. The session must not be inside a MULTI."""
    session.window = session.scanner.window = window


def open_multi(session: Session) -> None:
    """A MULTI is sent: such commands need no place."""
    session.multi = True
    session.scanner.window = UNLIMITED


def close_multi(session: Session) -> None:
    """The MULTI ends, and with it a WATCH."""
    session.multi = session.watching = False
    session.end_transaction()
    session.windowed_in_multi = 0
    session.scanner.window = session.window


def forward(session: Session, data: bytes, count: int) -> None:
    """Sends a run of such commands, for which there are places, as the scanner found it.

    count: 0: there is no place for the next one, so the session waits. Also behind a command that
    may block: its place would be taken until that one ends.
    """
    if session.multi:
        session.windowed_in_multi += count
        return session.forward(data, count)
    if not count:
        return _wait(session, 1, lambda: None)
    if session.blocked:
        probes.reached("commands of the window wait for one that blocks")
        return send(session, data, count, count)
    if not session.window.wide:
        return _send(session, data, count, count)
    upstream = session.route.for_rounds
    if upstream is not None:
        return _send_in_rounds(session, upstream, data, count, count)
    return send(session, data, count, count)


def _send_in_rounds(session: Session, upstream: Multiplexed, data: bytes, count: int, needed: int) -> None:
    """Sends commands over a multiplexed connection, which writes them when there are places."""
    replies = session.replies
    batch = ReplyBatch(replies, count, WINDOWED, replies.muted(count))
    replies.expect_batch(batch)
    upstream.send_in_rounds(data, batch, needed, session.window)


def pass_on(session: Session, words: list[bytes]) -> None:
    """Sends one command, given as its words, that may be such a command."""
    if not session.policy.is_windowed(words):
        session.pass_on(words)
    elif session.multi:
        session.windowed_in_multi += 1
        session.pass_on(words)
    else:
        send(session, encode(words), 1, 1)


def begin_large(session: Session, piece: bytes) -> None:
    """Sends the first piece of a large command over the dedicated connection. `go_on` sends the
    others.

    No command that blocks may be before it, if it is such a command: see `forward`.
    """
    session.streaming = True
    if not is_large(session, piece):
        return session.forward(piece)
    if session.multi:
        session.windowed_in_multi += 1
        return session.forward(piece)
    replies, hasten = session.replies, partial(session.route.settle, session)
    batch = session.large = WindowedBatch(replies, 1, 1, session.window, hasten, replies.muted(1))
    return session.expect(piece, batch)


def is_large(session: Session, piece: bytes) -> bool:
    """Whether the large command that begins with this piece is such a command."""
    return windowed_in(session.scanner.table, piece.split(b"\r\n", 3)[2])


def go_on(session: Session, batch: WindowedBatch, piece: bytes) -> None:
    """Sends the next piece of such a command: the last one when there is a place, at once or later.

    batch: of its reply. Until then the session is `midway`, and may give the command up.
    """
    if session.scanner.forwarding:
        return session.route.upstream.send(piece)

    def then() -> None:
        session.large = None
        batch.window.sent(batch)
        session.route.upstream.send(piece)

    if batch.window.has(1):
        return then()
    probes.reached("end of a large command waits for a place in its tenant's window")
    return _wait(session, 1, then)


def send(session: Session, data: bytes, count: int, needed: int) -> None:
    """Sends whole commands when there are places, at once or later.

    count: how many replies they have; needed: how many of them need a place.
    """
    when_free(session, count, needed, partial(_send_later, session, data, count, needed, session.policy))


def send_exec(session: Session, data: bytes) -> None:
    """Sends the EXEC of the open MULTI when there are places, at once or later."""
    needed = session.windowed_in_multi

    def then() -> None:
        close_multi(session)
        _send(session, data, 1, needed, timed=False)

    when_free(session, 1, needed, then)


def when_free(session: Session, count: int, needed: int, then: Callable[[], None]) -> None:
    """Calls `then` when there are places, at once or later.

    Later no reply is pending, and `route.upstream` may be another one. If there is no connection to
    be had, `count` commands are answered with an error instead.
    """
    if session.window.has(needed) and not session.blocked:
        return then()
    return session.when_drained(partial(_when_free, session, needed, partial(session.route.renew, session, count, then)))


def _when_free(session: Session, needed: int, then: Callable[[], None]) -> None:
    if session.window.has(needed):
        return then()
    return _wait(session, needed, then)


def _wait(session: Session, needed: int, then: Callable[[], None]) -> None:
    """Suspends the session until there are so many places."""
    window = session.window
    step: Step[None] = session.suspend(Until.WINDOW, lambda _: then())
    step.cancel = partial(window.leave, step)
    window.wait(step, needed)


def _send_later(session: Session, data: bytes, count: int, needed: int, judge: Policy) -> None:
    """Sends commands that waited. judge: the policy that let them pass."""
    if judge != session.policy and session.route.state is not DEDICATED:
        probes.reached("Redis was replaced while commands waited for the window")
        return session.refuse_waiting(messages.REPLACED.text, count)
    _send(session, data, count, needed)
    upstream = session.route.upstream
    if session.route.state is MULTIPLEXED and not isinstance(upstream, Unavailable):
        cast(Multiplexed, upstream).settle()  # it may be one that is not read: nobody has asked it
    return None


def _send(session: Session, data: bytes, count: int, needed: int, timed: bool = True) -> None:
    """Sends commands now. timed: False: Redis cannot be asked for its time."""
    upstream, replies, window = session.route.upstream, session.replies, session.window
    if isinstance(upstream, Unavailable):
        return session.forward(data, count)
    dedicated = session.route.dedicated
    if dedicated is None and needed and cast(Multiplexed, upstream).in_rounds:
        # Behind others that wait for places, these must not take any.
        return _send_in_rounds(session, cast(Multiplexed, upstream), data, count, needed)
    hasten = partial(session.route.settle, session) if dedicated is not None else cast(Multiplexed, upstream).settle
    # Other commands end a CLIENT CACHING YES, and are errors to subscribers in RESP2.
    timed = timed and session.subscriptions is None and session.tracking is None
    if not (timed and window.times(needed)):
        batch = WindowedBatch(replies, count, needed, window, hasten, replies.muted(count))
        session.expect(data, batch)
        return window.sent(batch)  # has it read if others wait, so it has to be expected by now
    start = Clock()
    upstream.expect(ReplyBatch(start, 1))
    commands = replies.expect(count, upstream)
    if TYPE_CHECKING:
        assert commands is not None, "the upstream's newest batch is another one"
    upstream.expect(commands)
    end = TimedReply(replies, needed, window, hasten, start)
    session.expect(TIME + data + TIME, end)
    return window.sent(end)


class Clock:
    """Receives the reply to a TIME. Implements `ports.ReplyReceiver`."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer = b""

    def since(self, before: Clock) -> float | None:
        """Returns the seconds since an earlier TIME; None if Redis has not told."""
        began, ended = seconds(before.answer), seconds(self.answer)
        return None if began is None or ended is None else max(0.0, ended - began)

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """See `ports.ReplyReceiver`."""
        self.answer += piece

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """See `ports.ReplyReceiver`."""


class TimedReply(RewrittenReply):
    """The reply to the TIME behind such commands, which the client does not get.

    Implements `tenants.window.Flight`. start: has the reply to the TIME before them.
    """

    __slots__ = ("_start", "commands", "hasten", "since", "window")

    def __init__(
        self, receiver: ReplyReceiver, needed: int, window: Window, hasten: Callable[[], None], start: Clock
    ) -> None:
        super().__init__(receiver, 0, b"*-", self._ended)
        self.commands = needed
        self.since = 0.0
        self.window = window
        self.hasten = hasten
        self._start = start

    @property
    def waited_for(self) -> bool:
        """See `pending.ReplyBatch`."""
        return self.window.waited_for

    def lost(self) -> None:
        """See `pending.ReplyBatch`."""
        self.window.lost(self)

    def _ended(self, answer: bytes) -> bytes:
        end = Clock()
        end.answer = answer
        self.window.answered(self, end.since(self._start))
        return b""


def seconds(answer: bytes) -> float | None:
    """Returns the seconds in a reply to TIME; None if it is none, as where TIME is refused."""
    words = answer.split(b"\r\n")
    if len(words) < _TOLD or not (words[2].isdigit() and words[4].isdigit()):
        return None
    return int(words[2]) + int(words[4]) / 1e6
