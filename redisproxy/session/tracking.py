"""Client-side caching: CLIENT TRACKING and CLIENT CACHING, for tenants that may have it.

Owns the forms of these commands that Redis gets, and whether the session has tracking on. Redis
tells a client with tracking that a key which it read was changed: a push `invalidate`. Redis's
tracking knows names of keys, and no databases, so such a message tells also of other tenants: see
docs/security.md. The operator allows it for each namespace. BCAST would send the names of all keys,
and REDIRECT would send messages to another client. Both stay closed.

While tracking is on, the session keeps its dedicated connection, and only there `pending` accepts
such pushes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .. import messages
from ..resp.framing import encode
from .errors import OK, SYNTAX
from .handler import allow_tracking, forbid_subcommand, wrong_number
from .pending import TrackingReply

if TYPE_CHECKING:
    from .replies import ReplyQueue
    from .session import Session

#: Subcommands of CLIENT, with their smallest and largest number of words, CLIENT included.
WORDS = {b"CACHING": (3, 3), b"GETREDIR": (2, 2), b"TRACKING": (3, 7), b"TRACKINGINFO": (2, 2)}
#: Those that only say what the state is. While tracking is off, `commands_connection` answers.
_ASKING = (b"GETREDIR", b"TRACKINGINFO")
_OPTIONS = frozenset((b"OPTIN", b"OPTOUT", b"NOLOOP"))
_CLOSED = frozenset((b"BCAST", b"PREFIX", b"REDIRECT"))
#: Tells the client to forget all that it has cached.
_ALL = b">2\r\n$10\r\ninvalidate\r\n_\r\n"


class Tracking:
    """Whether one session has tracking on. Implements `ports.Tracker`."""

    __slots__ = ("_confirmed", "_expected", "_outstanding", "_replies")

    def __init__(self, replies: ReplyQueue) -> None:
        self._replies = replies
        self._confirmed = self._expected = False
        self._outstanding = 0

    def __bool__(self) -> bool:
        return self._expected or self._confirmed or self._outstanding > 0

    def ask(self, on: bool) -> None:
        """Records a change that is sent to Redis now."""
        self._expected = on
        self._outstanding += 1

    def confirmed(self, on: bool, refused: bool) -> bool:
        """See `ports.Tracker`."""
        self._outstanding -= 1
        if not refused:
            self._confirmed = on
        if not self._outstanding:
            self._expected = self._confirmed
        return self._confirmed

    def message(self, piece: bytes, whole: bool) -> None:
        """See `ports.Tracker`."""
        self._replies.message(piece, whole)

    def lost(self) -> None:
        """The connection with tracking is given up, and the client stays."""
        if self:
            self._replies.message(_ALL, True)


def handles(session: Session, subcommand: bytes) -> bool:
    """Returns whether `client` runs this subcommand of CLIENT."""
    return subcommand in WORDS and (subcommand not in _ASKING or bool(session.tracking))


def client(session: Session, words: list[bytes]) -> None:
    """CLIENT TRACKING, CLIENT CACHING; and while tracking is on CLIENT TRACKINGINFO, GETREDIR."""
    subcommand = words[1].upper()
    if subcommand not in session.policy.known.get(b"CLIENT", ()):
        return forbid_subcommand(session, words)
    if session.multi:
        return session.forbid(b"client|" + words[1])
    least, most = WORDS[subcommand]
    if not least <= len(words) <= most:
        return wrong_number(session, words)
    if subcommand == b"TRACKING":
        return _tracking(session, words)
    if not session.tracking:
        return session.refuse(messages.NO_TRACKING.reply())
    if subcommand == b"CACHING" and words[2].upper() not in (b"YES", b"NO"):
        return session.refuse(SYNTAX)
    return session.pass_on(words)


def _tracking(session: Session, words: list[bytes]) -> None:
    """CLIENT TRACKING ON|OFF [OPTIN|OPTOUT] [NOLOOP]."""
    switch, options = words[2].upper(), {word.upper() for word in words[3:]}
    if switch == b"OFF" and not session.tracking:
        return session.answer(OK) if not options else session.refuse(SYNTAX)
    if not session.accounts.may_track(session.tenant):
        return session.forbid(b"client|tracking", messages.TRACKING_CLOSED.reply())
    if options & _CLOSED:
        return session.forbid(b"client|tracking", messages.TRACKING_MODE.reply())
    if switch not in (b"ON", b"OFF") or not options <= _OPTIONS:
        return session.refuse(SYNTAX)
    if switch == b"OFF":
        return _send(session, words, False)
    if session.protocol != 3:
        return session.refuse(messages.TRACKING_RESP3.reply())
    return session.route.acquire(session, partial(_permit, session, words))


def _permit(session: Session, words: list[bytes]) -> None:
    """Goes on with a dedicated connection: has Redis let the tenant's user use the command."""
    allow_tracking(session, partial(_permitted, session, words))


def _permitted(session: Session, words: list[bytes], _: None) -> None:
    if session.accounts.may_track(session.tenant):
        _send(session, words, True)
    else:  # the annotation was removed meanwhile
        session.forbid(b"client|tracking", messages.TRACKING_CLOSED.reply())


def _send(session: Session, words: list[bytes], on: bool) -> None:
    if session.tracking is None:
        session.tracking = Tracking(session.replies)
    session.tracking.ask(on)
    session.expect(encode(words), TrackingReply(session.replies, not session.replies.heard(), session.tracking, on))
