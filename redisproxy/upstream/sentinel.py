"""Asks one of Redis's sentinels where the master is.

Owns the connection to the sentinel. The proxy asks each second, and does not subscribe to
`+switch-master`: see docs/decisions/sentinels.md. txredisapi's own `Sentinel` is not used. It takes
the first answer, whichever sentinel gives it. Calls to a sentinel that is away pile up in it. With
several sentinels and TLS, it would verify no names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from .. import bounds, messages
from ..ops.log_once import Condition
from ..ops.retry import Backoff
from ..resp.value import strings_of
from ..tenants.model import BackendAddress
from .client import ControlError, RedisClient, ReplyError
from .endpoint import why

#: The delay before another attempt to connect. A sentinel that accepts connections and closes them
#: is not stormed.
_RETRY = Backoff(0.5, 0.5)
#: Seconds that a fault has to last before it is logged. At the start nothing is connected yet, and
#: some faults are soon over.
LASTING = 0.9
#: Seconds in which no other fault is logged of a sentinel whose faults alternate.
QUIET = 30.0


class SentinelError(messages.MessageError):
    """A sentinel does not tell where the master is."""


class NotYet(SentinelError):
    """It is not known yet whether the sentinel can be reached."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where a sentinel believes the master to be.

    epoch: the number of the failover. Of answers that differ, the one with the highest epoch is the
    latest.
    """

    host: str
    port: int
    epoch: int


def latest(answers: Iterable[Answer]) -> Answer:
    """Returns the answer of the latest failover; of several, the one that most sentinels give.

    A sentinel that was cut off may still name the former master.
    """
    votes = Counter(answers)
    return max(votes, key=lambda answer: (answer.epoch, votes[answer]))


class Sentinel:
    """One sentinel.

    address: of the sentinel, with its own password; endpoint: makes an endpoint that leads there,
    see `endpoint.endpoint_for`; master_name: the sentinel's name for the master; news: called when
    the sentinel is connected, and when it first turns out that it cannot be.
    """

    def __init__(
        self,
        clock: IReactorTime,
        address: BackendAddress,
        endpoint: Callable[[], IStreamClientEndpoint],
        master_name: str,
        news: Callable[[], None],
    ) -> None:
        self.address = address
        self._name = master_name
        self._news = news
        #: whether it is known that it cannot be reached
        self._away = False
        #: what is logged of it
        self.condition = Condition(LASTING, QUIET)
        self._client = RedisClient(
            clock,
            address,
            endpoint,
            bounds.SENTINEL_REPLY_SECONDS,
            self._changed,
            reply_timeout=bounds.SENTINEL_REPLY_SECONDS,
            reply_limit=bounds.SENTINEL_REPLY_BYTES,
            backoff=_RETRY,
        )
        self._client.startService()

    def _changed(self, client: RedisClient) -> None:
        was_away, self._away = self._away, client.connection is None
        if not (was_away and self._away):
            self._news()

    def stop(self) -> defer.Deferred[None]:
        """Fires when it is disconnected. It must not be asked any more."""
        return self._client.stopService()

    async def ask(self) -> Answer:
        """Returns where the master is. Raises SentinelError, at once if there is no connection."""
        connection = self._client.connection
        if connection is None:
            raise self._why_away()
        try:
            fields = strings_of(await connection.ask("SENTINEL", "MASTER", self._name))
            # During a failover, the sentinel that leads it gives the new address here first.
            host, port = strings_of(await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name))
            known = dict(zip(fields[::2], fields[1::2], strict=True))
            return Answer(_host(host), int(port), int(known[b"config-epoch"]))
        except ReplyError as error:
            raise SentinelError(error.reason) from None
        except ControlError as error:
            raise SentinelError(messages.SENTINEL_UNREACHABLE(reason=why(error))) from None
        except (KeyError, ValueError):
            raise SentinelError(messages.SENTINEL_ODD()) from None

    def _why_away(self) -> SentinelError:
        failure = self._client.failure
        if failure is None:
            return NotYet(messages.SENTINEL_UNREACHABLE(reason=messages.NET_TIMEOUT()))
        if isinstance(failure, ReplyError):
            return SentinelError(failure.reason)  # to its log-in
        return SentinelError(messages.SENTINEL_UNREACHABLE(reason=why(failure)))


async def ask_all(sentinels: Sequence[Sentinel]) -> list[Answer | SentinelError]:
    """Returns what each sentinel answers, or why it does not."""
    asked = [defer.Deferred.fromCoroutine(_ask_one(sentinel)) for sentinel in sentinels]
    replies: list[Answer | SentinelError] = []
    for success, one in await defer.DeferredList(asked, consumeErrors=True):
        if isinstance(one, Failure) and not success:
            one.raiseException()
        replies.append(one)
    return replies


async def _ask_one(sentinel: Sentinel) -> Answer | SentinelError:
    try:
        return await sentinel.ask()
    except SentinelError as error:
        return error


def _host(name: bytes) -> str:
    host = name.decode()
    if not host.isprintable():
        raise ValueError("this is not a valid host name")
    return host
