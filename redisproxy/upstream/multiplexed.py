"""Multiplexed connections: one connection to Redis carries whole commands of all sessions of a
tenant.

Owns when their bytes are written: at once on an idle connection, else once in a turn of the
reactor. Also owns what happens at a connection's limits: it takes no more for now, or is replaced
by another one. If clients do not read their replies, it is read only as long as other sessions, or
these clients' further commands, wait for that. `tenant_pool` has all of a tenant's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, probes
from ..net.protocol import PauseReason
from ..session.pending import ReplyBatch
from ..session.ports import MultiplexedUser, ReplyReceiver
from ..tenants.window import Window
from .connection import RedisConnection
from .order import TenantOrder
from .rounds import Rounds


class Owner(Protocol):
    """The tenant's connections, of which it is one."""

    @property
    def order(self) -> TenantOrder:
        """The order of the tenant's commands."""

    @property
    def upstreams(self) -> set[MultiplexedConnection]:
        """The connection in use, and replaced ones that still have replies pending."""

    def wanted(self, upstream: MultiplexedConnection, but: MultiplexedUser | None) -> bool:
        """Whether any session but one waits until this connection takes more."""

    def notify_waiting(self) -> None:
        """The connection takes more: notifies waiting sessions."""

    def replace_upstream(self, upstream: MultiplexedConnection) -> None:
        """Opens another connection for the sessions, if that may be."""

    def replace_overfull(self) -> None:
        """One of the connections was given back: replaces the one in use, if that has to be."""

    def lost(self, upstream: MultiplexedConnection) -> None:
        """One of the connections broke."""


class MultiplexedConnection:
    """One multiplexed connection. See `session.ports.Upstream`."""

    def __init__(self, connection: RedisConnection, tenant_pool: Owner, reactor: IReactorTime) -> None:
        self.connection = connection
        #: no further session may begin to use it
        self.retired = False
        #: it takes no more commands for now; also while sessions have to ask the tenant's order
        self.busy = tenant_pool.order.closed
        # Until when sessions wait for the connection that replaces it; None: they do not wait.
        self._leaving: IDelayedCall | None = None
        # When what waits for places is not sent any more: see `hurry`.
        self._hurrying: IDelayedCall | None = None
        self._tenant_pool = tenant_pool
        self._order = tenant_pool.order
        self._reactor = reactor
        self._pending = connection.carry(self, self._pressed, self._received)
        self._batches = self._pending.batches
        self._queued: deque[bytes] = deque()
        self._queued_size = 0
        self._rounds = Rounds(self._batches, self._queued, self.flush, self.settle)
        self._full = False
        self._backlog_by_session: dict[MultiplexedUser, int] = {}
        self._backlog_size = 0
        # Whether clients have had more to read since that was last checked.
        self._backlog_grew = False
        # Whether it is not read, because only clients that do not read would get its replies.
        self._paused = False
        self._given_back = False
        # The connection's own `write`, and the function that replaces it; None if nothing does: see
        # `send_behind_next`.
        self._writes: tuple[Callable[[bytes], None], Callable[[bytes], None]] | None = None

    def __repr__(self) -> str:
        return (
            f"<multiplexed {self.connection!r} pending={len(self._batches)}{' busy' * self.busy}{' retired' * self.retired}>"
        )

    # For sessions.

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        """See `session.ports.Upstream`.

        An idle connection writes at once: a lone client must not wait for the end of the turn.
        """
        batches = self._batches
        idle = not batches
        if batch is not None:
            batches.append(batch)
        if idle:
            self.connection.write(data)
            return
        if not self._queued:
            self._reactor.callLater(0, self.flush)
            self._order.unflushed[self] = None
        self._queued.append(data)
        self._queued_size += len(data)
        if self._queued_size >= bounds.QUEUED_BYTES or len(batches) >= bounds.PENDING_BATCHES:
            probes.reached("multiplexed connection takes no more for now")
            self.busy = True

    @property
    def in_rounds(self) -> bool:
        """See `session.ports.Multiplexed`."""
        return bool(self._rounds.runs)

    def send_in_rounds(self, data: bytes, batch: ReplyBatch, needed: int, window: Window) -> None:
        """See `session.ports.Multiplexed`."""
        if not self._queued:
            self._reactor.callLater(0, self.flush)
            self._order.unflushed[self] = None
        self._rounds.add(data, batch, needed, window, needed == batch.count)
        self._queued_size += len(data)
        if self._queued_size >= bounds.QUEUED_BYTES or len(self._batches) >= bounds.PENDING_BATCHES:
            self.busy = True

    def expect(self, batch: ReplyBatch) -> None:
        """See `session.ports.Upstream`."""
        self._batches.append(batch)

    def newest(self) -> ReplyBatch | None:
        """See `session.ports.Upstream`."""
        return self._batches[-1] if self._batches else None

    def slow_reader(self, session: MultiplexedUser, size: int) -> None:
        """See `session.ports.Upstream`.

        From BACKLOG_BYTES on, or without memory for more, other sessions use another connection.
        This one is read only for sessions that wait for it. Both is decided after a whole read:
        that takes all sessions and batches into account, and one read may have thousands of pieces.
        """
        self._backlog_by_session[session] = self._backlog_by_session.get(session, 0) + size
        self._backlog_size += size
        self._backlog_grew = True

    def read_everything(self, session: MultiplexedUser) -> None:
        """See `session.ports.Upstream`."""
        self._backlog_size -= self._backlog_by_session.pop(session, 0)
        self.settle()

    @property
    def overfull(self) -> bool:
        """Whether clients have too much to read of what came over it."""
        return self._backlog_size >= bounds.BACKLOG_BYTES or any(user.usage.stopped for user in self._backlog_by_session)

    def settle(self) -> None:
        """See `session.ports.Upstream`."""
        pause = self.overfull and not self._wanted
        if pause == self._paused or self._given_back:
            return
        self._paused = pause
        if pause:
            probes.reached("multiplexed connection is not read: clients do not read")
            self.busy = True
            self.connection.pause_reading(PauseReason.PEER)
        else:
            self.connection.resume_reading(PauseReason.PEER)
            self._take_more()

    @property
    def _wanted(self) -> bool:
        """Whether a session waits for replies, or to send commands."""
        return any(user.wants_replies for user in self._backlog_by_session) or self.others_wait()

    def others_wait(self, but: MultiplexedUser | None = None) -> bool:
        """See `session.ports.Upstream`."""
        if self._tenant_pool.wanted(self, but):
            return True
        slow = {user.replies for user in self._backlog_by_session}
        if but is not None:
            slow.add(but.replies)
        if self._rounds.under_way is not None:
            slow.add(self._rounds.under_way)  # its reply concerns no session
        # What is discarded concerns nobody: that of sessions that left, and the proxy's own PINGs.
        return any(
            (batch.count > batch.discard and batch.receiver not in slow) or batch.waited_for for batch in self._batches
        )

    # For the proxy's own commands.

    def send_behind_next(self, command: bytes, make_batch: Callable[[], ReplyBatch]) -> None:
        """Sends a whole command of the proxy's own once, behind the next commands and in the same
        write.

        make_batch: called at that moment, returns the batch of its reply. Until then another
        function replaces the connection's `write`. So sessions' commands need no check whether
        something has to follow them.
        """
        if self._writes is not None:
            return
        own_write = self.connection.write

        def write_both(data: bytes) -> None:
            self.send_nothing_behind()
            self._batches.append(make_batch())
            own_write(data + command)

        self._writes = own_write, write_both
        self.connection.write = write_both

    @property
    def sends_behind_next(self) -> bool:
        """Whether such a command waits."""
        return self._writes is not None

    def send_nothing_behind(self) -> None:
        """Cancels `send_behind_next`, if nothing was written since."""
        writes, self._writes = self._writes, None
        # else the connection was half closed, and writes nothing more
        if writes is not None and self.connection.write is writes[1]:
            self.connection.write = writes[0]

    # For its connection to Redis.

    def flush(self) -> None:
        """Writes the commands that wait for the end of the turn."""
        self._order.unflushed.pop(self, None)
        if self._rounds.runs:
            return self._flush_rounds()
        data = b"".join(self._queued)
        self._queued.clear()
        self._queued_size = 0
        if data:
            self.connection.write(data)
            self._take_more()
        return None

    def _flush_rounds(self) -> None:
        """Writes what stands before the first command that has no place in its tenant's window."""
        due, size = self._rounds.due()
        self._queued_size -= size
        if due:
            data = b"".join(due)
            if self._writes is not None and self._queued:
                # A command of the proxy's own would be answered before those that wait here.
                self._writes[0](data)
            else:
                self.connection.write(data)
        self._rounds.written()
        if due:
            self._take_more()
        if self._rounds.held_up:
            # Other sessions must not wait behind these.
            self._tenant_pool.replace_upstream(self)

    def _pressed(self, full: bool) -> None:
        self._full = full
        if full:
            probes.reached("Redis reads a multiplexed connection slowly")
            self.busy = True
        else:
            self._take_more()

    def _received(self, data: bytes) -> None:
        self._pending.received(data)
        if self._backlog_grew:
            self._backlog_grew = False
            if self.overfull:
                self._tenant_pool.replace_upstream(self)
                self.settle()
        if self.busy:
            self._take_more()
        if self.retired and not self._batches:
            self._give_back()

    def _take_more(self) -> None:
        """Ends `busy`, unless a reason for it remains."""
        if self.busy and not (self._order.closed or self.overloaded):
            self.busy = False
            self._tenant_pool.notify_waiting()

    @property
    def overloaded(self) -> bool:
        """See `session.ports.Multiplexed`."""
        return bool(
            self._full
            or self._paused
            or self._leaving
            or self._queued_size >= bounds.QUEUED_BYTES
            or len(self._batches) > bounds.PENDING_BATCHES // 2
        )

    def order_changed(self) -> None:
        """Sessions have to ask the tenant's order from now on, or not any more."""
        self.busy = self.busy or self._order.closed
        self._take_more()

    def retire(self) -> None:
        """Lets no further session use it, and releases the connection when nothing is pending."""
        self.retired = True
        self._stop_leaving()
        if not self._batches:
            self._give_back()

    def leave(self) -> None:
        """Another connection is being opened in its place. Sessions wait for that, but not for
        long.
        """
        self.busy = True
        self._leaving = self._reactor.callLater(bounds.REPLACING_SECONDS, self.stay)

    def hurry(self) -> None:
        """Sends what waits for places only for a moment more: the tenant is paused or has no
        session, or Redis is elsewhere. Sessions that wait for the rest are closed then.
        """
        if self._rounds.runs and self._hurrying is None:
            self._hurrying = self._reactor.callLater(bounds.ROUNDS_SECONDS, self._stop_rounds)

    def _stop_rounds(self) -> None:
        self._hurrying = None
        if self._rounds.runs:
            probes.reached("commands of the window are not sent: their connection was left long ago")
            self.give_up()

    def _stop_hurrying(self) -> None:
        hurrying, self._hurrying = self._hurrying, None
        if hurrying is not None:
            hurrying.cancel()

    @property
    def leaving(self) -> bool:
        """Whether sessions wait for the connection that replaces it."""
        return self._leaving is not None

    def stay(self) -> None:
        """No other connection could be opened in its place so far: sessions use it again."""
        probes.reached("multiplexed connection stays in use: no other could be opened")
        self._stop_leaving()
        self.settle()
        self._take_more()

    def _stop_leaving(self) -> None:
        leaving, self._leaving = self._leaving, None
        if leaving is not None and leaving.active():
            leaving.cancel()

    def give_up(self) -> None:
        """Its tenant has left: what Redis has not got by now is never sent."""
        if self._queued:
            probes.reached("tenant is gone while its commands wait for the end of the turn")
            self._queued.clear()
            self._queued_size = 0
            self._order.unflushed.pop(self, None)
            self.connection.finish()
            self._rounds.clear()
        else:
            self.connection.give_up(blocked=False)

    def _give_back(self) -> None:
        if self in self._tenant_pool.upstreams:  # else it was released already
            self._given_back = True
            self._stop_leaving()
            self._stop_hurrying()
            # the next user may be in the middle of a value, or block, where a PING must not follow
            self.send_nothing_behind()
            self._tenant_pool.upstreams.discard(self)
            self.connection.release(clean=True)
            self._tenant_pool.replace_overfull()

    def upstream_lost(self) -> None:
        """See `connection.User`. Each session with a command in flight is closed."""
        batches = self._pending.abandon()
        self._queued.clear()
        self._order.unflushed.pop(self, None)
        self._rounds.clear()
        self._given_back = True
        self._stop_leaving()
        self._stop_hurrying()
        self.send_nothing_behind()
        self._tenant_pool.lost(self)
        # A session that is notified may close others. So each is notified once, with its oldest
        # batch.
        oldest: dict[ReplyReceiver, ReplyBatch] = {}
        for batch in batches:
            oldest.setdefault(batch.receiver, batch)
        self._notify_of_loss(list(oldest.values()))

    def _notify_of_loss(self, batches: list[ReplyBatch]) -> None:
        """Notifies the receivers of these, some now and the others in later turns of the reactor.

        Until then a session sends nothing, as it waits for replies of a connection that the tenant
        does not use any more. One that ends meanwhile is not the receiver of its batch any more.
        """
        for batch in batches[: bounds.RESUMED_PER_TURN]:
            batch.receiver.upstream_lost(batch)
        later = batches[bounds.RESUMED_PER_TURN :]
        if later:
            probes.reached("many sessions notice the loss of a connection in several turns")
            self._reactor.callLater(0, self._notify_of_loss, later)
