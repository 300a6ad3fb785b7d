"""What one client gets, in order: replies of Redis, and the proxy's own answers.

Owns this order. No other module of a session writes to the client. If many replies are pending, or
many own answers wait for their turn, the tenant's account is charged for the queue. An item of the
queue is a batch of pending replies, or the bytes of an own answer. The batches are also in the
`PendingReplies` of the connection to Redis, in the same order. If the two orders differ, the
session is closed and a bug is logged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import bounds, probes
from .pending import BLOCKING, HELLO, MUTED, REPLIES, REWRITTEN, WINDOWED, MutedReplies, ReplyBatch
from .route import DEDICATED
from .state import BugError, ReplyMode

if TYPE_CHECKING:
    from .ports import ClientConnection, Upstream
    from .session import Session


_ON = ReplyMode.ON
#: Items of a queue that is charged if it has more.
_LONG = bounds.OWN_REPLIES_BYTES // bounds.QUEUED_REPLY_BYTES


class ReplyQueue:
    """The replies of one client. Implements `ports.ReplyReceiver`."""

    __slots__ = (
        "_answers_size",
        "_charged",
        "_connection",
        "_items",
        "_session",
        "_spare",
        "mid_message",
        "mode",
        "pending",
        "slow",
    )

    def __init__(self, connection: ClientConnection, session: Session) -> None:
        self._connection: ClientConnection | None = connection
        self._session: Session | None = session
        self._items: deque[ReplyBatch | bytes] = deque()
        self._answers_size = 0
        # Whether the tenant's account is charged for the queue.
        self._charged = False
        # The batch of an empty queue, used again each time: most batches are the only one.
        self._spare = ReplyBatch(self, 0)
        #: number of pending replies
        self.pending = 0
        #: set by CLIENT REPLY
        self.mode = _ON
        #: whether the client got a message in part; until its end, nothing else may be written
        self.mid_message = False
        #: whether the client does not read its replies, so that written bytes pile up
        self.slow = False

    def __repr__(self) -> str:
        return f"<ReplyQueue pending={self.pending} items={len(self._items)}>"

    @property
    def drained(self) -> bool:
        """Whether the client has all its replies, and its last message whole."""
        return not (self._items or self.mid_message)

    @property
    def waited_for(self) -> bool:
        """Whether others wait for a pending reply: see `pending.ReplyBatch`."""
        return any(isinstance(item, ReplyBatch) and item.waited_for for item in self._items)

    # Replies that Redis will send.

    def expect(self, count: int, upstream: Upstream) -> ReplyBatch | None:
        """Expects so many replies of an upstream, behind all others.

        Returns the batch to send the commands with; None: the upstream's newest batch was enlarged.
        """
        pending = self.pending = self.pending + count
        if pending >= bounds.PENDING_REPLIES:
            self._charge()
        items = self._items
        if self.mode is not _ON:
            return self._expect_muted(count, upstream)
        if not items:
            batch = self._spare
            batch.count = count
        else:
            last = items[-1]
            if last is upstream.newest():
                if last.kind == REPLIES:  # also behind ones that are discarded
                    last.count += count
                    return None
                if isinstance(last, MutedReplies):
                    last.add(0, count)
                    return None
            batch = ReplyBatch(self, count)
        items.append(batch)
        if len(items) > _LONG:
            self._charge()
        return batch

    def _expect_muted(self, count: int, upstream: Upstream) -> ReplyBatch | None:
        """Expects replies of which CLIENT REPLY discards all (OFF), or the first (SKIP).

        A client may discard every second reply, so a batch for each would cost far too much.
        """
        discard = self.muted(count)
        items = self._items
        last = items[-1] if items else None
        if isinstance(last, ReplyBatch) and last is upstream.newest():
            if isinstance(last, MutedReplies):
                last.add(discard, count)
                return None
            if last.kind == REPLIES and last.discard == last.count:
                last.discard += discard
                last.count += count
                return None
            if last.kind == REPLIES:
                batch: ReplyBatch = MutedReplies(self, discard, count)
                items.append(batch)
                return batch
        batch = ReplyBatch(self, count, discard=discard)
        items.append(batch)
        if len(items) > _LONG:
            self._charge()
        return batch

    def muted(self, count: int) -> int:
        """Returns how many of the next replies CLIENT REPLY discards: none (ON), the first (SKIP)
        or all (OFF).

        Must be called once for them, because the call uses up a SKIP.
        """
        discard = 0 if self.mode is _ON else 1 if self.mode is ReplyMode.SKIP else count
        self.heard()
        return discard

    def expect_batch(self, batch: ReplyBatch) -> None:
        """Expects a batch of another kind, or one to discard."""
        self._items.append(batch)
        self.pending += batch.count
        if self.pending >= bounds.PENDING_REPLIES or len(self._items) > _LONG:
            self._charge()

    def divide(self, batch: ReplyBatch, first: ReplyBatch) -> None:
        """Expects the first replies of a batch as a batch of their own. `batch.count` is smaller
        already.
        """
        self._items.insert(self._items.index(batch), first)

    def _charge(self) -> None:
        """Charges the tenant's account for the queue, if it is long.

        A pending reply is charged although it is in Redis's memory, not here: there, it has no
        bound of its own.
        """
        session = self._session
        if session is None:
            return
        items = len(self._items) * bounds.QUEUED_REPLY_BYTES + self._answers_size
        long = self.pending >= bounds.PENDING_REPLIES or items > bounds.OWN_REPLIES_BYTES
        if not (long or self._charged):
            return
        # Half of the limits ends it, so that it does not begin and end with each reply.
        self._charged = long or self.pending > bounds.PENDING_REPLIES // 2 or items > bounds.OWN_REPLIES_BYTES // 2
        if self._charged:
            probes.reached("long queue of replies is charged")
            session.usage.queue(items + self.pending * bounds.PENDING_REPLY_BYTES)
        else:
            session.usage.queue(0)

    def withdraw(self) -> ReplyBatch | None:
        """Expects no reply to the newest command, because Redis did not get it whole.

        Returns its batch if no other reply is pending there.
        """
        batch = self._items[-1] if self._items else None
        if not isinstance(batch, ReplyBatch) or batch.kind not in (REPLIES, WINDOWED, REWRITTEN, MUTED):
            return None
        probes.reached("command that was sent in part is given up")
        batch.drop_newest()
        self.pending -= 1
        if batch.count:
            return None
        self._items.pop()
        return batch

    # The proxy's own answers.

    def heard(self) -> bool:
        """Returns whether the client gets the next command's reply, by CLIENT REPLY.

        Must be called once for each command, because the call uses up a SKIP.
        """
        if self.mode is ReplyMode.SKIP:
            self.mode = _ON
            return False
        return self.mode is _ON

    def reset_mode(self) -> None:
        """Handles RESET: commands are answered again."""
        if self.mode is ReplyMode.OFF:
            self.mode = _ON

    def answer(self, data: bytes) -> None:
        """Writes the proxy's answer to one command, once all replies before it have come."""
        if self._connection is None or self._session is None or not self.heard():
            return
        if self.drained:
            self._connection.write(data)
            return
        self._items.append(data)
        self._answers_size += len(data)
        if self._answers_size > bounds.OWN_REPLIES_BYTES or len(self._items) > _LONG:
            self._charge()

    # What Redis sends: see `ports.ReplyReceiver`.

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """Takes the next bytes of the oldest batch. ended: how many replies end in them."""
        if TYPE_CHECKING:
            assert self._connection is not None and self._session is not None, "the batch is not abandoned"
        if piece:
            self._connection.write(piece)
            if self.slow:
                self._fell_behind(len(piece))
        if not ended:
            return
        self.pending -= ended
        session = self._session
        if not batch.count:
            items = self._items
            if not items or items.popleft() is not batch:
                return self._disagree(batch)
            if batch.kind == HELLO:
                session.hello_answered(batch.protocol)
            if items:
                if type(items[0]) is bytes:
                    self._flush()
            elif session.gates or session.route.state is DEDICATED:
                session.drained()
        if self._charged:
            self._charge()

    def _fell_behind(self, size: int) -> None:
        if self._session is not None:
            self._session.route.fell_behind(self._session, size)

    def _disagree(self, batch: ReplyBatch) -> None:
        """Closes this session for the bug, not the connection to Redis, which others may use."""
        if self._session is not None:
            self._session.bug(BugError(f"{batch} is answered, which is not the oldest of {self}"))

    def _flush(self) -> None:
        """Writes the proxy's own answers whose turn has come."""
        items = self._items
        data: list[bytes] = []
        while items and isinstance(item := items[0], bytes):
            data.append(item)
            items.popleft()
        if data:
            answers = b"".join(data)
            self._answers_size -= len(answers)
            if self._connection is not None:
                self._connection.write(answers)
            if self._charged:
                self._charge()
        if not items and self._session is not None:
            self._session.drained()

    def message(self, piece: bytes, whole: bool) -> None:
        """Writes bytes of messages. whole: the last message ends with them."""
        session, connection = self._session, self._connection
        if session is None or connection is None or session.ending.revoked:
            return
        connection.write(piece)
        waited, self.mid_message = self.mid_message, not whole
        if waited and whole:
            probes.reached("message that came in parts is whole")
            self._flush()

    def cancelled(self, count: int) -> None:
        """Expects so many confirmations less: Redis refused the SUBSCRIBE with one error."""
        probes.reached("SUBSCRIBE is refused")
        self.pending -= count

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """See `ports.ReplyReceiver`."""
        if self._session is not None:
            self._session.upstream_lost()

    # The end of a connection, or of the client.

    def abandon(self, multiplexed: bool) -> None:
        """Discards all replies, because the client is gone.

        multiplexed: the upstream is, so the replies still come. NOBODY receives them.
        """
        if multiplexed:
            for item in self._items:
                if isinstance(item, ReplyBatch):
                    item.discard_all()
                    item.receiver = NOBODY
        self._spare.receiver = NOBODY
        self._items.clear()
        self.pending = 0
        self._answers_size = 0
        if self._charged:
            self._charge()

    def forget(self) -> None:
        """Drops the references to the session and the client's connection, after that is gone.

        Without this, only the garbage collector would free them.
        """
        self._session = self._connection = None

    def expect_unblocking(self) -> bool:
        """Redis is asked to unblock the command that the session waits for.

        Returns whether no other reply is pending. Then the client does not get the error UNBLOCKED:
        the command was not run, and the client tries it again elsewhere.
        """
        batch = self._items[0] if len(self._items) == 1 else None
        if not isinstance(batch, ReplyBatch) or batch.kind != BLOCKING:
            return False
        batch.receiver = _Unblocked(self.reply)
        return True


class _Nobody:
    """Receives and drops the replies that a session left pending on a multiplexed connection."""

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """See `ports.ReplyReceiver`."""

    def upstream_lost(self, batch: ReplyBatch) -> None:
        """See `ports.ReplyReceiver`."""


NOBODY = _Nobody()


class _Unblocked(_Nobody):
    """Receives one reply for a session, and drops it if it is the error UNBLOCKED.

    See `ReplyQueue.expect_unblocking`.
    """

    _ERROR = b"-UNBLOCKED "

    def __init__(self, reply: Callable[[ReplyBatch, bytes, int], None]) -> None:
        self._reply = reply
        # The beginning of the reply, until it is known whether it is this error.
        self._begun: bytes | None = b""

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        """See `ports.ReplyReceiver`."""
        if self._begun is not None:
            self._begun += piece
            piece = b""
            if not ended and (self._ERROR.startswith(self._begun) or self._begun.startswith(self._ERROR)):
                return
            if not self._begun.startswith(self._ERROR):
                piece = self._begun
            self._begun = None
        self._reply(batch, piece, ended)
