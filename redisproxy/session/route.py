"""Which upstream connection a conversation uses: at home, or one to itself; and how it moves.

Owns the upstream connections of one session. It is unauthenticated; or at `home`, where its whole commands go to upstream
connections that others use
as well; or it has a dedicated connection (`dedicated`), for as long as a command needs, or for good where it has no home. It
moves only when it has nothing pending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from .. import probes
from ..policy.policy import Policy
from ..resp.framing import AUTHENTICATED
from ..tenants.model import Credential
from .conversation import REVOKED, Conversation, Reply, Wait
from .pending import ReplyBatch
from .ports import Home, Link, Upstream

#: Why an upstream connection cannot be had, most of the time.
UNREACHABLE = "ERR Redis cannot be reached from the proxy right now, try again"
LOST = b"-ERR the connection to Redis was lost: it may have run this command, or not\r\n"


class MovingConversation(Conversation):
    """A conversation and its upstream connections."""

    __slots__ = ("_after_login", "_when_dedicated", "pending_login")

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        #: the credential that an upstream connection is being opened for
        self.pending_login: Credential | None = None
        # The HELLO that goes on then.
        self._after_login: list[bytes] | None = None
        # What is done when a dedicated connection is there.
        self._when_dedicated: Callable[[], None] | None = None

    def _logged_in(self, then: list[bytes] | None) -> None:
        """The log-in is complete. then: the HELLO that it was part of, None for AUTH."""
        raise NotImplementedError

    def recheck(self, renewed: Callable[[Credential], Credential | None]) -> bool:
        """Revokes the session if what it logged in with, or is about to, would not log in now. Whether it did so.

        renewed: see `Snapshot.renewed`.
        """
        if self._close_reason == REVOKED:
            return False
        credential, pending_login = self.credential, self.pending_login
        if credential is not None:
            credential = renewed(credential)
            if credential is None:
                self.revoke()
                return True
            self.credential = credential
        if pending_login is not None:
            pending_login = renewed(pending_login)
            if pending_login is None:
                self.revoke()
                return True
            self.pending_login = pending_login
        return False

    # Logging in.

    def _move_in(self, credential: Credential, protocol: int, then: list[bytes] | None) -> None:
        """Asks for upstream connections of the credential's tenant; then: the HELLO that goes on when they are there, None
        for AUTH.
        """
        self.pending_login = credential
        self._after_login = then
        self._stop(Wait.UPSTREAM)
        (self.link.share if self.link.shares else self.link.acquire)(credential, protocol)

    def multiplexed_ready(self, tenant_pool: Home) -> None:
        """The multiplexed connections asked for."""
        if self.pending_login is None or self.ended or not self._may_move():
            probes.reached("session ended while its home was opened")
            tenant_pool.leave()
            return
        self._let_go_of_upstream()
        self._leave_tenant_pool()
        self.tenant_pool = tenant_pool
        self.upstream = tenant_pool.upstream
        self.protocol = tenant_pool.protocol
        self._complete_login()

    def upstream_opened(self, upstream: Upstream) -> None:
        """The upstream connection of its own is there that was asked for: for the log-in of the candidate, or by
        `_dedicated`.
        """
        then, self._when_dedicated = self._when_dedicated, None
        if self.ended or (self.pending_login is None and then is None) or not self._may_move():
            probes.reached("session ended while its own connection was opened")
            upstream.release(clean=True)
            return
        self._let_go_of_upstream()
        self.upstream = upstream
        self.dedicated = True
        self._upstream_clean = True
        if self._unread:
            upstream.pause(True)
        if self.pending_login is not None:
            self._leave_tenant_pool()
            self.protocol = upstream.protocol
            self._complete_login()
        else:
            self._use_policy()
            self._wait &= ~Wait.UPSTREAM
            then()
            self._release_if_done()
            self._advance_unless_waiting()

    def upstream_refused(self, text: str) -> None:
        """No upstream connection could be had. The session is as it was before it was asked for. text: an error reply
        without ``-``.
        """
        then, self._when_dedicated = self._when_dedicated, None
        self.pending_login = self._after_login = None
        if self.ended:
            return
        if then is _nothing:
            probes.reached("no connection for a client that does not read")
            if self._unread:  # or nobody would tell that it has read all
                self._stop(Wait.UNREAD)
        else:
            self._refuse_upstream(text)
        self._go_on(Wait.UPSTREAM)

    def _complete_login(self) -> None:
        self.credential, self.pending_login = self.pending_login, None
        self._multi = self._watching = False
        self._scanner.limits = AUTHENTICATED
        self._use_policy()
        then, self._after_login = self._after_login, None
        self._logged_in(then)
        self._go_on(Wait.UPSTREAM)

    def _may_move(self) -> bool:
        """Whether another upstream connection can be used now. If not, the session is closed."""
        if self._mid_message:
            probes.reached("session would move within a message")
            # A message of the old upstream connection began meanwhile, and its rest would never come.
            self._leave()
            self._wait |= Wait.ENDING
            self.link.close("moved-within-a-message")
            return False
        return True

    def _use_policy(self) -> None:
        self._policy = self.link.policy()
        self._scanner.table = self._policy.table

    def policy_changed(self, dedicated: bool = False) -> None:
        """There is another policy. A session with a dedicated connection may have it from another Redis, and keeps its own.

        pinned: also for such a session, since its upstream connection has the rights that the new policy takes for granted.
        """
        if self.credential is not None and (dedicated or not self.dedicated):
            self._use_policy()

    # From home to a dedicated connection, and back.

    def _dedicated(self, then: Callable[[], None]) -> bool:
        """Whether it has a dedicated connection. If not, one is asked for, and then() called when it is there."""
        if self.dedicated:
            return True
        if self.tenant_pool.upstream is None and self.tenant_pool.away:
            self._refuse_upstream(self.tenant_pool.away)
        elif not self._nothing_pending:
            self._parked = partial(self._go_to_dedicated, then)
            self._stop(Wait.ORDER)
        else:
            self._go_to_dedicated(then)
        return False

    def _go_to_dedicated(self, then: Callable[[], None]) -> None:
        self._when_dedicated = then
        self._stop(Wait.UPSTREAM)
        self.link.acquire(self.credential, self.protocol)

    def _refuse_upstream(self, text: str) -> None:
        """The command that needs an upstream connection fails."""
        if self._scanner.forwarding:
            self._scanner.skip()
        self._answer(b"-%b\r\n" % text.encode())

    def _begin_stream(self, data: bytes, judge: Policy | None = None) -> None:
        """The first piece of a command that is not read whole: only a dedicated connection takes that.

        judge: the policy that let it pass, where it had to wait for the upstream connection.
        """
        self._streaming = False
        if self._dedicated(partial(self._begin_stream, data, self._policy)):
            if judge is not None and judge != self._policy:
                probes.reached("Redis was replaced while a large command waited")
                return self._refuse_upstream("ERR Redis was replaced while this command waited, try again")
            self._streaming = True
            self._send(data)
        return None

    def _release_if_done(self) -> None:
        """See `Conversation`."""
        done = self.dedicated and self.tenant_pool is not None and self._nothing_pending
        if done and not (self._stateful or self._unread or self._midway):
            self._let_go_of_upstream()
            self.upstream = self.tenant_pool.upstream
            self._use_policy()

    def _protocol_changed(self, protocol: int) -> None:
        """See `Conversation`. It is a dedicated connection: there is no way home then, where another protocol is spoken."""
        if protocol != self.protocol:
            self.protocol = protocol
            self._upstream_clean = False
            self._leave_tenant_pool()

    # At home.

    def _may_send(self) -> bool:
        """See `Conversation`."""
        tenant_pool = self.tenant_pool
        upstream = tenant_pool.upstream
        if self.upstream is not upstream:
            if self._queue:
                probes.reached("replies are awaited before another shared connection is used")
                self._stop(Wait.MOVING)
                return False
            self.upstream = upstream
        if upstream is None:
            if tenant_pool.away:
                probes.reached("commands fail at once: Redis is away")
                return True  # commands fail at once
        elif not upstream.busy:
            if not self._unread:
                return True
            # What it has not read must not pile up here: on a dedicated connection, it piles up in Redis.
            if self._queue:
                self._stop(Wait.MOVING)
            else:
                probes.reached("client that does not read gets its own connection")
                self._go_to_dedicated(_nothing)
            return False
        probes.reached("session waits for a shared connection")
        self._stop(Wait.HOME)
        tenant_pool.wait(self)
        return False

    def upstream_ready(self) -> None:
        """The multiplexed connection can be used again, or it turned out that there is none."""
        self._go_on(Wait.HOME)

    def _fail(self, count: int) -> None:
        """See `Conversation`."""
        error = b"-%b\r\n" % (self.tenant_pool.away or UNREACHABLE).encode()
        if self._reply is Reply.ON:
            self._answer(error * count)
        else:
            for _ in range(count):
                self._answer(error)

    # The end of an upstream connection, or of its use.

    def _leave(self) -> None:
        """See `Conversation`."""
        self._when_dedicated = None
        self._let_go_of_upstream()
        self._leave_tenant_pool()

    def _let_go_of_upstream(self) -> None:
        """It uses its upstream connection no more: one of its own is given back."""
        upstream, self.upstream = self.upstream, None
        if self.dedicated and upstream is not None:
            clean = self._upstream_clean and not (self._queue or self._stateful)
            upstream.release(clean and not self._midway)
        self.dedicated = False

    def _leave_tenant_pool(self) -> None:
        tenant_pool, self.tenant_pool = self.tenant_pool, None
        if tenant_pool is not None:
            tenant_pool.leave()

    def upstream_lost(self) -> None:
        """Its dedicated connection broke: what it pending will not come, so the conversation cannot go on."""
        self.upstream = None
        self.dedicated = False
        self._leave_tenant_pool()
        self._queue.clear()
        self._wait |= Wait.ENDING
        self.link.close(self._close_reason or "redis-lost")

    def multiplexed_lost(self, begun: bool) -> None:
        """The multiplexed connection broke that has pending it. begun: part of a reply was passed on, and the rest will not
        come.
        """
        self.upstream = None
        if begun:
            probes.reached("shared connection is lost within a reply")
            return self.upstream_lost()
        queue, self._queue = self._queue, deque()
        self._outstanding = 0
        self._answers = 0
        self._spare = ReplyBatch(self, 0)
        for batch in queue:
            if isinstance(batch, bytes):
                self.link.write(batch)
            elif not batch.silent:
                self.link.write(LOST * batch.count)
        self._drained()
        self._go_on(Wait.PENDING)
        return None


def _nothing() -> None:
    """There is no command that waited for the upstream connection."""
