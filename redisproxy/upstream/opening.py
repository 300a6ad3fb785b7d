"""Connections to Redis that are being opened.

Owns these attempts, each with its time limit. If the caller that waits for an attempt leaves, the
attempt goes on, and the next caller gets its connection. So clients that come and go do not pile up
name look-ups, connections and log-ins in front of others. If nobody waits when the connection is
there, it is closed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .. import messages, probes
from ..net.time_limit import within
from ..tenants.model import BackendAddress
from .connection import RedisConnection, UpstreamError


class RedisMoved(UpstreamError):
    """The proxy gave up the attempt: Redis is at another address now, or the proxy stops.

    This is no fault of Redis.
    """

    def __init__(self) -> None:
        super().__init__(messages.REDIS_MOVED(), messages.UNREACHABLE.text, passing=True)


class _Opening:
    """One attempt to open a connection.

    work: opens the connection; waiter: gets the connection, None if the waiter left and the next
    caller gets it; outdated: the address leads to another server by now, so the connection is not
    for new work; given_up: the proxy gave up the attempt.
    """

    __slots__ = ("address", "given_up", "outdated", "waiter", "work")

    def __init__(self, address: BackendAddress) -> None:
        self.address = address
        self.given_up = self.outdated = False
        self.waiter: defer.Deferred[RedisConnection] | None = None
        self.work: defer.Deferred[None] | None = None


class Openings:
    """The attempts that are under way.

    timeout: seconds for each attempt; connect: opens a connection and logs in, can be cancelled.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout: float,
        connect: Callable[[BackendAddress], Coroutine[defer.Deferred[object], object, RedisConnection]],
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._connect = connect
        # A dict keeps the order of insertion, so that no object's address decides anything.
        self._under_way: dict[_Opening, None] = {}
        # The attempts without a waiter, the earliest first.
        self._unclaimed: OrderedDict[_Opening, None] = OrderedDict()

    def __len__(self) -> int:
        """The number of attempts under way."""
        return len(self._under_way)

    async def open(self, address: BackendAddress) -> RedisConnection:
        """Returns a new connection, logged in. Raises RedisMoved, TimeoutError, and any error of
        `connect`.

        The caller may cancel this. The attempt then goes on for the next caller.
        """
        while self._unclaimed:
            opening, _ = self._unclaimed.popitem(last=False)
            if opening.address == address:
                probes.reached("opening goes on for the next caller")
                try:
                    return await self._wait_for(opening)
                except defer.TimeoutError:
                    continue  # that attempt began before this call, which has time left
        opening = _Opening(address)
        result = self._wait_for(opening)
        self._under_way[opening] = None
        work = within(defer.Deferred.fromCoroutine(self._connect(address)), self._timeout, self._clock)
        opening.work = work.addBoth(self._ended, opening)
        return await result

    def give_up(self, keep: BackendAddress | None = None) -> None:
        """Gives up all attempts that do not lead to `keep`. Their waiters get RedisMoved."""
        for opening in list(self._under_way):
            if opening.address != keep and opening.work is not None:
                opening.given_up = True
                opening.work.cancel()

    def renew(self) -> None:
        """The address leads to another server than before.

        Attempts under way are not for the next caller. Their connections are stale.
        """
        self._unclaimed.clear()
        for opening in self._under_way:
            opening.outdated = True

    def _wait_for(self, opening: _Opening) -> defer.Deferred[RedisConnection]:
        opening.waiter = defer.Deferred(lambda _: self._leave(opening))
        return opening.waiter

    def _leave(self, opening: _Opening) -> None:
        opening.waiter = None
        if not opening.outdated:
            self._unclaimed[opening] = None

    def _ended(self, result: RedisConnection | Failure, opening: _Opening) -> None:
        self._under_way.pop(opening, None)
        self._unclaimed.pop(opening, None)
        waiter, opening.waiter = opening.waiter, None
        if isinstance(result, Failure):
            if waiter is not None:
                waiter.errback(RedisMoved() if opening.given_up else result)
        elif waiter is not None:
            result.stale = result.stale or opening.outdated
            waiter.callback(result)
        else:
            probes.reached("connection opened for nobody")
            result.drop()
