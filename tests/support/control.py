"""A control connection without a reactor: redis-py asks a real Redis and waits for the answer, so a
coroutine that awaits it has finished when `run` returns.
"""

from __future__ import annotations

from collections.abc import Callable

import redis
from twisted.internet import defer

from redisproxy.upstream.client import ReplyError

from .servers import RedisServer


class Control:
    """A control connection that blocks until Redis answers. before: called once, before the next
    command, with its words.
    """

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()
        self._client.response_callbacks.clear()  # Return replies without conversion.
        self.before: Callable[[tuple], object] | None = None

    async def ask(self, *words: bytes | str) -> object:
        before, self.before = self.before, None
        if before is not None:
            before(words)
        try:
            return self._client.execute_command(*words)
        except redis.ResponseError as error:
            raise ReplyError(str(error)) from None


def run(work: object) -> object:
    """Returns the result of a coroutine that awaits nothing but such a control connection, or
    raises its exception.
    """
    results: list[object] = []
    defer.Deferred.fromCoroutine(work).addBoth(results.append)
    [result] = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result
