"""Commands about channels: (P|S)(UN)SUBSCRIBE and PUBSUB.

Owns the form in which Redis gets these commands, and the parts of its answers that the client gets.
`pubsub` owns the names of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING

from .. import bounds
from ..resp.framing import encode
from ..resp.value import Answer
from . import pubsub as names
from .handler import Need, allow_patterns, bulk, forbid_subcommand, in_turns, query, syntax_error, wrong_number
from .pending import CONFIRMATIONS, ReplyBatch

if TYPE_CHECKING:
    from .session import Session

#: Subcommands of PUBSUB, with their largest number of words, PUBSUB included. 0: no limit.
_PUBSUB = {b"CHANNELS": 3, b"HELP": 2, b"NUMPAT": 2, b"NUMSUB": 0, b"SHARDCHANNELS": 3, b"SHARDNUMSUB": 0}
#: Those whose last word may be missing. Redis has another error for too many words.
_OPTIONAL = frozenset((b"CHANNELS", b"SHARDCHANNELS"))
#: Those that no server before Redis 7 has, although its built-in list of subcommands names them.
_PUBSUB_SINCE_7 = frozenset((b"SHARDCHANNELS", b"SHARDNUMSUB"))


def subscribe(session: Session, words: list[bytes]) -> None:
    """SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE."""
    name = words[0].upper()
    kind = name.removesuffix(b"SUBSCRIBE")  # none, P or S
    subscriptions = _subscriptions(session)
    work = subscriptions.joining(session.tenant, kind, words[1:])
    in_turns(session, _or_error(work), partial(_subscribe, session, subscriptions, name))


def _or_error(
    work: names.Work,
) -> Generator[int, None, names.SubscriptionChange | names.ForeignChannelError | names.TooManyError]:
    """Does the work, and returns its error instead of raising it."""
    try:
        return (yield from work)
    except (names.ForeignChannelError, names.TooManyError) as error:
        return error


def _subscribe(
    session: Session,
    subscriptions: names.Subscriptions,
    name: bytes,
    update: names.SubscriptionChange | names.ForeignChannelError | names.TooManyError,
) -> None:
    if isinstance(update, names.ForeignChannelError):
        return session.forbid(name, update.reply)
    if isinstance(update, names.TooManyError):
        return session.refuse(update.reply)
    if update.kind == b"P":
        patterns = [*update.channels, *update.hidden]
        return allow_patterns(session, patterns, partial(_send_allowed, session, subscriptions, name, update))
    return _send(session, subscriptions, name, update)


def _send_allowed(
    session: Session, subscriptions: names.Subscriptions, name: bytes, update: names.SubscriptionChange, _: None
) -> None:
    subscriptions.may_use([*update.channels, *update.hidden])
    _send(session, subscriptions, name, update)


def unsubscribe(session: Session, words: list[bytes]) -> None:
    """UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE.

    Without arguments, the proxy names all channels of the session, so that it knows how many
    confirmations will come.
    """
    name = words[0].upper()
    subscriptions = _subscriptions(session)
    update = subscriptions.leaving(session.tenant, name.removesuffix(b"UNSUBSCRIBE"), words[1:])
    return _send(session, subscriptions, name, update)


def _subscriptions(session: Session) -> names.Subscriptions:
    """Returns the session's subscriptions, and makes them at the first call."""
    if session.subscriptions is None:
        leave = partial(session.backend.leave_patterns, session.tenant)
        session.subscriptions = names.Subscriptions(session.replies, session.tenant.channel_prefix, leave)
        session.subscriptions.changed = session.charge_state
    return session.subscriptions


def _send(session: Session, subscriptions: names.Subscriptions, name: bytes, update: names.SubscriptionChange) -> None:
    """Sends the command. Redis confirms each channel that it names, but at least one.

    What the client does not hear of comes last. Redis accepts all of the patterns, or none.
    """
    session.replies.heard()  # the client gets confirmations in any mode; they use up a SKIP
    subscriptions.ask(update)
    hidden = update.hidden
    count = max(1, len(update.channels)) + len(hidden)
    batch = ReplyBatch(session.replies, count, CONFIRMATIONS, subscription=(subscriptions, update))
    session.expect_at_once(encode([name, *update.channels, *hidden]), batch, always=update.joins)


# PUBSUB: about the tenant's channels, by the names that the tenant uses.


def pubsub_needs(session: Session, words: list[bytes]) -> int:
    """See `handler.Handler`."""
    refuse = _pubsub_error(session, words)
    if refuse is not None:
        # Redis 7 checks the subcommand first, but for the number of optional words.
        return Need.UNSUBSCRIBED if session.policy.before_7 or refuse is syntax_error else 0
    return Need.UNSUBSCRIBED if words[1].upper() == b"HELP" else Need.UNSUBSCRIBED | Need.NO_MULTI | Need.DRAINED


def _pubsub_error(session: Session, words: list[bytes]) -> Callable[[Session, list[bytes]], None] | None:
    """Returns what refuses a subcommand that the server does not have, or that is malformed."""
    subcommand = words[1].upper()
    most = _PUBSUB.get(subcommand)
    if session.policy.before_7 and subcommand in _PUBSUB_SINCE_7:
        return syntax_error
    if most is None or subcommand not in session.policy.known.get(b"PUBSUB", ()):
        return forbid_subcommand
    if most and len(words) > most:
        return syntax_error if subcommand in _OPTIONAL else wrong_number
    return None


def pubsub(session: Session, words: list[bytes]) -> None:
    """PUBSUB: a control query with the master's rights. The client gets only the tenant's part."""
    refuse = _pubsub_error(session, words)
    subcommand = words[1].upper()
    if refuse is not None:
        refuse(session, words)
    elif subcommand == b"HELP":
        session.pass_on(words)
    elif subcommand == b"NUMPAT":
        # Redis's number is that of all tenants, and is ignored. The query only slows the client
        # down, as for INFO: counting takes longer the more sessions the tenant has, and a thousand
        # such commands in one read would block the reactor.
        query(
            session,
            [[b"PUBSUB", b"NUMPAT"]],
            lambda _: session.answer(b":%d\r\n" % session.accounts.stats()["pubsub_patterns"]),
        )
    else:
        prefix = session.tenant.channel_prefix
        of_channels = subcommand in (b"CHANNELS", b"SHARDCHANNELS")
        asked = (words[2:] or [b"*"]) if of_channels else words[2:]
        then = _channels if of_channels else _numbers
        own = [prefix + name for name in asked]
        # In parts, as each answer is taken apart in one turn of the reactor.
        parts = [own[at : at + bounds.CHANNELS_PER_ANSWER] for at in range(0, len(own), bounds.CHANNELS_PER_ANSWER)] or [own]
        query(session, [[b"PUBSUB", subcommand, *part] for part in parts], partial(then, session, prefix))


def _channels(session: Session, prefix: bytes, answers: list[Answer]) -> None:
    found = answers[0] if isinstance(answers[0], list) else []
    own = [name[len(prefix) :] for name in found if isinstance(name, bytes) and name.startswith(prefix)]
    session.answer(b"*%d\r\n" % len(own) + b"".join(map(bulk, own)))


def _numbers(session: Session, prefix: bytes, answers: list[Answer]) -> None:
    """Answers with channels and numbers in turn: a flat array, in RESP3 as well."""
    found = [each for answer in answers if isinstance(answer, list) for each in answer]
    parts = [b"*%d\r\n" % len(found)]
    for channel, number in zip(found[::2], found[1::2], strict=True):
        if isinstance(channel, bytes) and isinstance(number, int):
            parts.append(b"%b:%d\r\n" % (bulk(channel.removeprefix(prefix)), number))
    session.answer(b"".join(parts))
