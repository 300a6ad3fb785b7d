"""What bounds the time that one command of a tenant takes in Redis, and in which way.

Owns data only: for each command that tenants may use, and whose documented complexity has an N that
is not within a logarithm, or that has no documented complexity. Source: `complexity` in the answers
to COMMAND DOCS of Redis 7.0 to 8.2 and Valkey 8 and 9, and the sources of these servers where that
text is not the whole truth. A test compares this table with what real servers say.

Times in the reasons: Redis 7.0 on a common machine. Read their order of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag
from typing import NamedTuple

from .. import bounds
from ..resp.framing import INSPECT_ABOVE
from .builtin import FACTS


class Bound(Flag):
    """What bounds a command's time in Redis. Several may apply."""

    #: nothing is needed: the reason says why
    NONE = 0
    #: the bytes of the command itself: a small time for each argument
    SIZE = 1
    #: what the command removes, or reads once: something that cost as much time has put it there
    ONCE = 2
    #: the tenant's window: its arguments do not bound it, so few of them are under way at once
    WINDOW = 4
    #: the number of keys, and how often one of them is repeated; the session checks both
    KEYS = 8
    #: a negative count among its arguments, which the session checks
    COUNT = 16
    #: the form of its arguments, which the session checks
    FORM = 32
    #: the size of one value, which it copies once
    VALUE = 64


class Cost(NamedTuple):
    """What bounds a command.

    reason: one or two sentences; ends with a full stop.
    """

    bound: Bound
    reason: str


_NONE, _SIZE, _ONCE, _WINDOW, _KEYS, _COUNT = Bound.NONE, Bound.SIZE, Bound.ONCE, Bound.WINDOW, Bound.KEYS, Bound.COUNT

_TABLE: tuple[tuple[Bound, str, str], ...] = (
    (
        _SIZE,
        "Each argument costs about as much as a command of its own, 0.2 to 2 us.",
        """
        BITFIELD_RO DEL EXISTS GEOADD GEOHASH GEOPOS HDEL HEXPIRE HEXPIREAT HEXPIRETIME HGETDEL HGETEX HMGET HMSET
        HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HSET HSETEX HTTL LPUSH LPUSHX MGET MSET MSETEX
        MSETNX PFADD RPUSH RPUSHX SADD SCRIPT|EXISTS SMISMEMBER SREM TOUCH UNLINK VREM XACK XACKDEL
        XCLAIM XDEL XDELEX ZADD ZMSCORE ZREM
        """,
    ),
    (
        _SIZE,
        "Each channel costs about as much as a command of its own. Patterns have a limit of their own.",
        "PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE",
    ),
    (_SIZE, "N is the length of the script's text.", "SCRIPT|LOAD"),
    (_SIZE, "N is the number of its arguments, which are not used.", "COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS"),
    (
        _ONCE,
        "An element is removed once, and adding it took longer.",
        """
        FLUSHALL FLUSHDB LMPOP LPOP LTRIM RPOP SPOP XADD XGROUP|DELCONSUMER XGROUP|DESTROY XTRIM ZMPOP
        ZPOPMAX ZPOPMIN ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE
        """,
    ),
    (
        Bound.VALUE,
        "The value is copied once, as by GET, at about 0.1 ms for 1 MiB. Large replies have bounds of their own.",
        "GETRANGE SUBSTR",
    ),
    (_NONE, "N is the number of the server's commands: about 400.", "COMMAND COMMAND|DOCS COMMAND|INFO COMMAND|LIST"),
    (_NONE, "N is the number of queued commands, which DISCARD only frees.", "DISCARD"),
    (
        _NONE,
        "The commands within have bounds of their own, and the bytes between MULTI and EXEC have a limit.",
        "EXEC",
    ),
    (
        _NONE,
        "Nothing bounds what a script does at once: docs/security.md says what is left to the operator.",
        "EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO",
    ),
    (
        _NONE,
        "Its subscribers are the tenant's own sessions, which have a limit; each costs about 1 us.",
        "PUBLISH SPUBLISH",
    ),
    (_NONE, "It answers from a few fields of one value.", "VCARD VDIM VEMB VGETATTR VINFO VISMEMBER VLINKS VSETATTR"),
    (
        _WINDOW,
        "It goes through a whole value, or a part of it that its arguments do not bound.",
        """
        BITCOUNT BITPOS COPY DUMP HGETALL HKEYS HVALS LCS LINDEX LINSERT LPOS LRANGE LREM LSET MEMORY|USAGE
        SMEMBERS XINFO|CONSUMERS XINFO|GROUPS XINFO|STREAM XPENDING XRANGE XREVRANGE ZRANGE
        ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE
        """,
    ),
    (
        _WINDOW,
        "It goes through all members in an area, which its arguments do not bound; COUNT only cuts the reply.",
        "GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GEOSEARCHSTORE",
    ),
    (
        _WINDOW,
        "It makes a value longer by as many zeros as its offset says, up to 512 MiB: 0.15 s for 256 MiB, again and again.",
        "BITFIELD SETBIT SETRANGE",
    ),
    (_WINDOW, "It goes through the whole database.", "KEYS"),
    (
        _WINDOW,
        "COUNT is a wish for how far it goes, up to the whole. More than the rest is never done, so COUNT needs no limit.",
        "CLUSTERSCAN HSCAN SCAN SSCAN XAUTOCLAIM ZSCAN",
    ),
    (_WINDOW, "It compares with as many elements as EF and COUNT say, up to the whole.", "VADD VSIM"),
    (
        _WINDOW | _KEYS,
        "It goes through whole values, and through the same one again for each time that a key is repeated.",
        """
        BITOP PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SUNION SUNIONSTORE ZDIFF
        ZDIFFSTORE ZINTER ZINTERCARD ZINTERSTORE ZUNION ZUNIONSTORE
        """,
    ),
    (
        _WINDOW | _KEYS,
        "It sorts a whole value, and looks up each pattern after GET, which counts as a key, for each element.",
        "SORT SORT_RO",
    ),
    (
        _WINDOW | _COUNT,
        "A negative count is not bounded by the value: elements are repeated, 0.2 us each. Other counts go through it once.",
        "HRANDFIELD SRANDMEMBER VRANDMEMBER ZRANDMEMBER",
    ),
    (
        _WINDOW | _KEYS,
        "Redis keeps a list of waiting clients for each stream. COUNT does not bound what one entry holds.",
        "XREAD XREADGROUP",
    ),
    (
        _ONCE | _KEYS,
        "Redis keeps a list of waiting clients for each key. An element is removed once, and adding it took longer.",
        "BLMPOP BLPOP BRPOP BZMPOP BZPOPMAX BZPOPMIN",
    ),
    (_KEYS, "Each key is compared with all that the client watches already: 7 s for 27,000 keys.", "WATCH"),
    (
        Bound.FORM,
        "It draws a picture, whose size may be said: 0.2 s. Tenants may not say it.",
        "LOLWUT",
    ),
)

#: By command, upper case, ``CONTAINER|SUBCOMMAND``. A command that is not here takes a constant
#: time, or the logarithm of one.
COSTS: Mapping[bytes, Cost] = {
    name.encode(): Cost(bound, reason) for bound, reason, names in _TABLE for name in names.split()
}

#: Commands whose time is not bounded by their arguments. The session inspects some of them for
#: other reasons; XREAD and XREADGROUP may also block, and then take no time.
WINDOWED: frozenset[bytes] = frozenset(name for name, cost in COSTS.items() if Bound.WINDOW in cost.bound)
_KNOWN = frozenset(name.upper().encode() for _, names in FACTS for name in names.split())
_KEYED = frozenset(name.upper().encode() for kinds, names in FACTS if "keys" in kinds.split() for name in names.split())


def windowed(name: bytes) -> bool:
    """Whether a command's time is not bounded by its arguments.

    A command that this module does not know, as of a module of Redis, counts as such. name: upper
    case, ``NAME`` or ``CONTAINER|SUBCOMMAND``.
    """
    return name in WINDOWED or name not in _KNOWN


def slow_from(name: bytes, words: list[bytes], large: bool) -> float | None:
    """From how many seconds on an entry of Redis's log is evidence that a command itself is slow.

    A busy machine makes any command late by some 10 ms, and most of all those that run most often.
    So this is as short only for commands whose size explains it: large ones, and those that copy a
    part of a value. None: never, because the command touches no key.

    name: upper case; words: of the command; large: see `tenants.slow_log.Entry`.
    """
    full = name + b"|" + words[1].upper() if len(words) > 1 else name
    if large or (name in COSTS and Bound.VALUE in COSTS[name].bound):
        return bounds.LATE_SECONDS
    return bounds.WINDOW_LONG_SECONDS if name in _KEYED or full in _KEYED else None


@dataclass(frozen=True)
class CommandLimits:
    """What the operator allows one command to cost. 0: no limit.

    keys: of commands with Bound.KEYS, and of all that a connection watches; count: the largest
    magnitude of a negative count; transaction: bytes in a tenant's open transactions, together.
    """

    keys: int = bounds.COMMAND_KEYS
    count: int = bounds.COMMAND_COUNT
    transaction: int = bounds.TRANSACTION_BYTES


def verdict(name: bytes, limits: CommandLimits) -> int | None:
    """The verdict of `resp.framing` for a plain command of which the session checks some forms.

    None: it need not check any form. name: upper case.
    """
    bound = COSTS[name].bound if name in COSTS else Bound.NONE
    if Bound.FORM in bound:
        return INSPECT_ABOVE
    if Bound.COUNT in bound and limits.count:
        return INSPECT_ABOVE + 1
    if Bound.KEYS in bound and limits.keys:
        return INSPECT_ABOVE + min(bounds.KEY_REPEATED, limits.keys)
    return None
