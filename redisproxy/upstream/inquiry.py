"""Asks once what the proxy would find out while it runs: where the master is, and what Redis is
there.

Owns that one look, for who does not stay: the operator's command. What it asks, and what it makes
of the answers, is the control connection's and the sentinels' own.
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
from .client import Connection, ControlError, ReplyError, ask_once
from .endpoint import CaFileError, endpoint_for, why
from .probe import Memory, Probe, Rights
from .sentinel import Answer, NotYet, Sentinel, ask_all, latest

#: Seconds between two looks at sentinels that are being connected to.
_LOOK = 0.05
#: Times that Redis is asked what it did not tell, and seconds between them.
_TRIES, _PAUSE = 4, 0.3


class InquiryError(messages.MessageError):
    """Redis cannot be asked."""


@dataclass(frozen=True)
class SentinelView:
    """What one sentinel said. address: its own; answer: where it takes the master to be; error: why
    it does not tell.
    """

    address: str
    answer: Answer | None = None
    error: messages.Text | None = None


@dataclass(frozen=True)
class Inquiry:
    """What Redis is.

    address: where; state: what its operator has to know of it, or empty; again: what it did not
    tell though it was asked again, and why, or empty; keys: how many each database holds, for those
    that hold any.
    """

    address: str
    server: Server
    state: messages.Text | None
    again: messages.Text | None
    keys: Mapping[int, int]


async def ask_sentinels(
    reactor: IConnectingReactor, address: BackendAddress, timeout: float, ca_file: Path | None
) -> tuple[list[SentinelView], BackendAddress | None]:
    """What each says, and where the master is then; None: none of them tells. timeout: seconds for
    all of it.
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
    """What the Redis at an address is.

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
            raise InquiryError(messages.REDIS_TOLD_NOTHING(address=address.shown, reason=again))
        return Inquiry(address.shown, probe.server, probe.state, again, info.keys(await connection.ask("INFO", "keyspace")))

    try:
        return await ask_once(reactor, address, endpoint_for(reactor, address, timeout, ca_file), timeout, asking)
    except InquiryError:
        raise
    except CaFileError as error:
        raise InquiryError(error.reason) from None
    except ReplyError as error:
        # Redis's own words: it does not repeat what it was sent to log in with.
        raise InquiryError(messages.REDIS_REFUSES(address=address.shown, error=error.reason)) from None
    except ControlError:
        raise InquiryError(messages.REDIS_CLOSED_EARLY(address=address.shown)) from None
    except Exception as error:
        # Whatever a resolver, a socket or a TLS handshake comes up with.
        raise InquiryError(messages.REDIS_NOT_CONNECTED(address=address.shown, reason=why(error))) from None
