"""Finds out once where the master is, and what Redis is there.

Owns this single inquiry, for the operator's command, which does not stay connected. Its questions,
and the meaning of the answers, are those of the control connection and the sentinels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twisted.internet import defer, task

from .. import messages
from ..net.reactor import IConnectingReactor
from ..policy import probing
from ..policy.probing import Server
from ..resp import info
from ..tenants.model import BackendAddress
from . import nets
from .client import Connection, ControlError, ReplyError, ask_once
from .endpoint import CaFileError, endpoint_for, why
from .nets import Nets
from .probe import Memory, Probe, Rights
from .sentinel import Answer, NotYet, Sentinel, ask_all, latest

#: Seconds between two rounds of questions, while some sentinel is still being connected to.
_LOOK = 0.05
#: The number of times that Redis is asked what it did not answer, and the seconds in between.
_TRIES, _PAUSE = 4, 0.3


class InquiryError(messages.MessageError):
    """Redis cannot be asked."""


@dataclass(frozen=True)
class SentinelView:
    """What one sentinel said.

    address: of the sentinel; answer: where it believes the master to be; error: why there is no
    answer.
    """

    address: str
    answer: Answer | None = None
    error: messages.Text | None = None


@dataclass(frozen=True)
class Inquiry:
    """What Redis is.

    address: where; state: what the operator has to know of it, or empty; again: what it repeatedly
    did not answer, and why, or empty; keys: how many keys each database holds, for those that hold
    any; limits: Redis's own.
    """

    address: str
    server: Server
    state: messages.Text | None
    again: messages.Text | None
    keys: Mapping[int, int]
    limits: Nets = Nets()


async def ask_sentinels(
    reactor: IConnectingReactor, address: BackendAddress, timeout: float, ca_file: Path | None
) -> tuple[list[SentinelView], BackendAddress | None]:
    """Returns what each sentinel says, and the master's address that follows; None if none of them
    knows.

    timeout: seconds for all of it.
    """
    sentinels = []
    for host, port in address.sentinels:
        at = address.asked_at(host, port)
        endpoint = partial(endpoint_for, reactor, at, timeout, ca_file)
        sentinels.append(Sentinel(reactor, at, endpoint, address.master_name, lambda: None))
    until = reactor.seconds() + timeout
    try:
        while True:
            replies = await ask_all(sentinels)
            if not any(isinstance(one, NotYet) for one in replies) or reactor.seconds() >= until:
                break
            await task.deferLater(reactor, _LOOK)
    finally:
        await defer.gatherResults([sentinel.stop() for sentinel in sentinels], consumeErrors=True)
    views = []
    for sentinel, one in zip(sentinels, replies, strict=True):
        shown = sentinel.address.shown.partition("//")[2]
        views.append(SentinelView(shown, one) if isinstance(one, Answer) else SentinelView(shown, error=one.reason))
    answers = [view.answer for view in views if view.answer is not None]
    if not answers:
        return views, None
    found = latest(answers)
    return views, address.at(found.host, found.port)


async def inquire(
    reactor: IConnectingReactor, address: BackendAddress, timeout: float, ca_file: Path | None, acl: bool, rights: Rights
) -> Inquiry:
    """Returns what the Redis at an address is.

    For timeout see `client.ask_once`, for ca_file `endpoint.endpoint_for`, for acl and rights
    `probe.Probe`. Raises InquiryError.
    """

    async def asking(connection: Connection) -> Inquiry:
        probe = Probe(connection.ask_all, address.shown, Memory(), acl, rights)
        for _ in range(_TRIES):
            await probe.ask()
            if not probe.again or (probe.server is None and probe.state):
                break
            for error in probe.again.values():
                if error.code == "NOAUTH":
                    raise ReplyError(error.text)
            await task.deferLater(reactor, _PAUSE)
        again = probing.explain(probe.again) if probe.again else None
        if probe.server is None:
            if probe.state is not None:
                raise InquiryError(messages.REDIS_IS(address=address.shown, state=probe.state))
            raise InquiryError(messages.REDIS_REPORTS_NOTHING(address=address.shown, reason=again))
        keys = info.keys(await connection.ask("INFO", "keyspace"))
        return Inquiry(address.shown, probe.server, probe.state, again, keys, await nets.ask(connection))

    try:
        return await ask_once(reactor, address, endpoint_for(reactor, address, timeout, ca_file), timeout, asking)
    except InquiryError:
        raise
    except CaFileError as error:
        raise InquiryError(error.reason) from None
    except ReplyError as error:
        # These are Redis's own words. Redis does not repeat the password that it was sent.
        raise InquiryError(messages.REDIS_REFUSES(address=address.shown, error=error.reason)) from None
    except ControlError:
        raise InquiryError(messages.REDIS_CLOSED_EARLY(address=address.shown)) from None
    except Exception as error:
        # Any error of a resolver, a socket or a TLS handshake.
        raise InquiryError(messages.REDIS_NOT_CONNECTED(address=address.shown, reason=why(error))) from None
