"""What clients ask about the whole server, INFO, PUBSUB and CONFIG GET: over a connection with the master's rights for
nothing else.

Owns whose turn it is, and how large an answer may be. It is not the control connection that asks: all tenants' log-ins
wait for that one, and how large an answer about channels is, and how long it takes, a tenant decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .. import probes
from ..net.waiters import Waiters
from ..resp.framing import ProtocolError, encode
from ..resp.value import Answer, AnswerError, values_of
from ..session.answering import NOT_ALLOWED, UNANSWERED
from ..session.pending import ReplyBatch
from ..tenants.model import Tenant
from .connection import RedisConnection

#: Bytes of an answer to all that is asked at once. What is larger is passed over: to read it would keep all others waiting.
ANSWER_LIMIT = 1024 * 1024
TOO_LARGE = f"ERR the answer has more than {ANSWER_LIMIT} bytes: ask for fewer channels, by a pattern"
#: Seconds to wait for an answer.
TIMEOUT = 10.0
#: Seconds: an answer that takes longer may have kept Redis busy, which does nothing else meanwhile.
SLOW = 0.02
#: Then the tenant's next question comes so many times as long later, but no more than LATER seconds.
SHARE, LATER = 9.0, 2.0


class QueryError(Exception):
    """Redis did not answer, or with an error. `told` is the client's error reply."""

    def __init__(self, text: str, told: str = UNANSWERED) -> None:
        super().__init__(text)
        self.told = told


class Pool(Protocol):
    """Where connections come from."""

    async def spare(self) -> RedisConnection:
        """One that is logged in as the master. Raises UpstreamError."""

    def usable(self, upstream: RedisConnection) -> bool:
        """Whether it may be asked more."""


class _Query:
    """One of them: so many commands, sent together. See `session.pending.Owner`."""

    def __init__(self, count: int) -> None:
        self.answered: defer.Deferred[bytes] = defer.Deferred()
        self._outstanding = count
        self._pieces: list[bytes] = []
        self._size = 0

    def replied(self, batch: ReplyBatch, piece: bytes, done: int) -> None:
        self._size += len(piece)
        if self._size <= ANSWER_LIMIT:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
        self._outstanding -= done
        if not self._outstanding:
            answer: bytes | Failure = b"".join(self._pieces)
            if self._size > ANSWER_LIMIT:
                answer = Failure(QueryError(f"an answer of {self._size} bytes", TOO_LARGE))
            self.answered.callback(answer)

    def lost(self) -> None:
        """There will be no answer."""
        self.answered.errback(QueryError("the connection was lost"))


class _Line:
    """One connection, while it is asked. See `connection.User`."""

    def __init__(self, upstream: RedisConnection, queries: ControlQueries) -> None:
        self.upstream = upstream
        #: how many wait for an answer
        self.waiters = 0
        self._queries = queries
        self._pending = upstream.carry(self, lambda _: None)

    def ask(self, commands: Sequence[list[bytes]]) -> defer.Deferred[bytes]:
        """The replies as they come, or QueryError."""
        query = _Query(len(commands))
        self.upstream.send(b"".join(map(encode, commands)), ReplyBatch(query, len(commands)))
        return query.answered

    @property
    def idle(self) -> bool:
        """Whether nothing is asked."""
        return not self._pending.batches

    def upstream_lost(self) -> None:
        """See `connection.User`."""
        self._queries.leave(self)
        for batch in self._pending.abandon():
            batch.owner.lost()


class ControlQueries:
    """Asks for all tenants, one thing at a time for each."""

    def __init__(self, reactor: IReactorTime, pool: Pool) -> None:
        self._reactor = reactor
        self._pool = pool
        self._turns: dict[Tenant, defer.DeferredLock] = {}
        # The connection in use. One that nothing is asked over is the pool's.
        self._line: _Line | None = None
        self._waiting: Waiters[_Line] = Waiters()
        self._opening = False
        # When there was an answer last, in the reactor's seconds.
        self._answered = 0.0

    async def ask(self, tenant: Tenant, commands: Sequence[list[bytes]]) -> list[Answer]:
        """Redis's answer to each command, within TIMEOUT from the tenant's turn on. They are sent together.

        Raises QueryError, also where one of the answers is an error; UpstreamError without a connection. The caller may
        cancel this: what has not had its turn is not asked then, and what has, nobody hears.
        """
        await self._turns.setdefault(tenant, defer.DeferredLock()).acquire()
        # It goes on without the caller: to give a connection up for each client that leaves would open others.
        heard: defer.Deferred[list[Answer]] = defer.Deferred()
        defer.Deferred.fromCoroutine(self._in_turn(tenant, commands)).addBoth(heard.callback)
        return await heard

    async def _in_turn(self, tenant: Tenant, commands: Sequence[list[bytes]]) -> list[Answer]:
        began = self._reactor.seconds()
        try:
            return values_of(await self._ask(commands), len(commands))
        except AnswerError as error:
            # Of all errors these alone are no passing ones.
            forbidden = str(error).casefold().startswith(("noperm", "err unknown"))
            raise QueryError(str(error), NOT_ALLOWED if forbidden else UNANSWERED) from None
        except ProtocolError as error:
            raise QueryError(str(error)) from None
        finally:
            # What it waited for others' answers is not its own.
            now = self._reactor.seconds()
            took, self._answered = now - max(began, self._answered), now
            if took < SLOW:
                self._end_turn(tenant)
            else:
                probes.reached("control query was slow")
                self._reactor.callLater(min(took * SHARE, LATER), self._end_turn, tenant)

    def _end_turn(self, tenant: Tenant) -> None:
        turn = self._turns[tenant]
        turn.release()
        if not turn.locked:
            self._turns.pop(tenant, None)

    async def _ask(self, commands: Sequence[list[bytes]]) -> bytes:
        line = self._line
        if line is None or not self._pool.usable(line.upstream):
            line = await self._another_line()
        line.waiters += 1
        try:
            return await line.ask(commands).addTimeout(TIMEOUT, self._reactor)
        except defer.TimeoutError:
            probes.reached("control query timed out")
            # Other tenants may wait behind this one, and have their own time: it is closed when nobody waits any more.
            self.leave(line)
            raise QueryError("it took too long") from None
        finally:
            line.waiters -= 1
            if not line.waiters and line.upstream.carries(line):
                self.leave(line)
                if line.idle:
                    line.upstream.release(clean=True)
                else:
                    line.upstream.drop()

    def leave(self, line: _Line) -> None:
        """It is asked nothing more."""
        if self._line is line:
            self._line = None

    def _another_line(self) -> defer.Deferred[_Line]:
        """One for all that wait for it. Fails with UpstreamError."""
        first = not self._opening
        waits = self._waiting.wait()
        if first:
            self._opening = True
            defer.Deferred.fromCoroutine(self._pool.spare()).addCallback(self._opened).addBoth(self._tell_waiting)
        return waits

    def _opened(self, upstream: RedisConnection) -> _Line:
        self._line = _Line(upstream, self)
        return self._line

    def _tell_waiting(self, result: _Line | Failure) -> None:
        self._opening = False
        self._waiting.fire(result)
