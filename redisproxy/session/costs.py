"""Checks the arguments of commands whose time in Redis depends on them: numbers of keys, counts.

Owns where these arguments are, and the errors. `policy.costs` says which commands these are, and
why. A malformed command passes: Redis refuses it without the work. What a script calls is not seen
here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from .. import bounds, messages
from .handler import integer

if TYPE_CHECKING:
    from .session import Session

#: Returns the error to a command; empty if there is none.
Check = Callable[["Session", list[bytes]], bytes]


def _from(first: int, words: list[bytes]) -> list[bytes]:
    """All words from this one on."""
    return words[first:]


def _before_timeout(words: list[bytes]) -> list[bytes]:
    """BLPOP key [key …] timeout."""
    return words[1:-1]


def _numbered(at: int, words: list[bytes]) -> list[bytes]:
    """As many keys as the word at this place says, which stands before them.

    None if there are not so many words: then Redis looks at no key.
    """
    number = integer(words[at]) if len(words) > at else None
    return words[at + 1 : at + 1 + number] if number is not None and 0 < number < len(words) - at else []


def _streams(words: list[bytes]) -> list[bytes]:
    """XREAD … STREAMS key [key …] id [id …]. A group may be called STREAMS: then one key too many
    is found, which is harmless.
    """
    behind = next((number for number, word in enumerate(words, 1) if word.upper() == b"STREAMS"), len(words))
    return words[behind : behind + (len(words) - behind + 1) // 2]


def _patterns(words: list[bytes]) -> list[bytes]:
    """SORT key … [GET pattern …]."""
    return [words[1], *(word for before, word in pairwise(words[2:]) if before.upper() == b"GET")]


#: By name: where the keys are, of commands that may block.
_WAITED_FOR: Mapping[bytes, Callable[[list[bytes]], list[bytes]]] = {
    **dict.fromkeys((b"BLPOP", b"BRPOP", b"BZPOPMAX", b"BZPOPMIN"), _before_timeout),
    **dict.fromkeys((b"BLMPOP", b"BZMPOP"), partial(_numbered, 2)),
    **dict.fromkeys((b"XREAD", b"XREADGROUP"), _streams),
}
#: The same, of commands that go through the values of all keys.
_READ: Mapping[bytes, Callable[[list[bytes]], list[bytes]]] = {
    **dict.fromkeys((b"PFCOUNT", b"SDIFF", b"SINTER", b"SUNION"), partial(_from, 1)),
    **dict.fromkeys((b"PFMERGE", b"SDIFFSTORE", b"SINTERSTORE", b"SUNIONSTORE"), partial(_from, 2)),
    b"BITOP": partial(_from, 3),
    **dict.fromkeys((b"SINTERCARD", b"ZDIFF", b"ZINTER", b"ZINTERCARD", b"ZUNION"), partial(_numbered, 1)),
    **dict.fromkeys((b"ZDIFFSTORE", b"ZINTERSTORE", b"ZUNIONSTORE"), partial(_numbered, 2)),
    **dict.fromkeys((b"SORT", b"SORT_RO"), _patterns),
}
_COUNTED = (b"HRANDFIELD", b"SRANDMEMBER", b"VRANDMEMBER", b"ZRANDMEMBER")
_WITH = (b"WITHVALUES", b"WITHSCORES")


def _waited_for(session: Session, words: list[bytes]) -> bytes:
    return _too_many(session, words, _WAITED_FOR[words[0].upper()](words))


def _read(session: Session, words: list[bytes]) -> bytes:
    keys = _READ[words[0].upper()](words)
    error = _too_many(session, words, keys)
    if error or not session.policy.limits.keys or len(keys) <= bounds.KEY_REPEATED:
        return error
    found = max(Counter(keys).values())
    if found <= bounds.KEY_REPEATED:
        return b""
    return messages.KEY_REPEATED.reply(command=words[0].lower(), found=found, most=bounds.KEY_REPEATED)


def _too_many(session: Session, words: list[bytes], keys: list[bytes]) -> bytes:
    most = session.policy.limits.keys
    if not most or len(keys) <= most:
        return b""
    return messages.TOO_MANY_KEYS.reply(command=words[0].lower(), found=len(keys), most=most)


def _count(session: Session, words: list[bytes]) -> bytes:
    """SRANDMEMBER key [count], and its kind. A positive count is bounded by the value.

    At most one more word is behind it, which asks for values.
    """
    most = session.policy.limits.count
    count = integer(words[2]) if len(words) > 2 else None
    malformed = len(words) > 3 and (len(words) > 4 or words[3].upper() not in _WITH)
    if not most or count is None or count >= -most or malformed:
        return b""
    return messages.COUNT_TOO_LARGE.reply(command=words[0].lower(), found=count, most=most)


def _lolwut(_: Session, words: list[bytes]) -> bytes:
    """LOLWUT [VERSION number]: further arguments are the size of the picture."""
    usual = len(words) == 1 or (len(words) == 3 and words[1].upper() == b"VERSION")
    return b"" if usual else messages.LOLWUT_FORM.reply()


class Watched:
    """The keys that a session watches: only their hashes, in 8 bytes each.

    A key that is watched again costs Redis nothing, and counts once.
    """

    __slots__ = ("_hashes",)

    def __init__(self) -> None:
        self._hashes = array("q")

    def __len__(self) -> int:
        return len(self._hashes)

    def new(self, keys: list[bytes]) -> list[int]:
        """Returns the hashes of those that are not watched yet."""
        return [key for key in set(map(hash, keys)) if self._at(key) is None]

    def add(self, hashes: list[int]) -> None:
        """Adds what `new` returned."""
        self._hashes = array("q", sorted([*self._hashes, *hashes]))

    def _at(self, key: int) -> int | None:
        at = bisect_left(self._hashes, key)
        return at if at < len(self._hashes) and self._hashes[at] == key else None


def _watch(session: Session, words: list[bytes]) -> bytes:
    """WATCH key [key …]. Inside MULTI it is an error."""
    most = session.policy.limits.keys
    if not most or session.multi:
        return b""
    watched = _watched(session)
    found = len(watched) + len(watched.new(words[1:]))
    return messages.TOO_MANY_WATCHED.reply(found=found, most=most) if found > most else b""


def watches(session: Session, words: list[bytes]) -> None:
    """A WATCH is sent: remembers its keys."""
    if session.policy.limits.keys:
        watched = session.watched = _watched(session)
        watched.add(watched.new(words[1:]))


def _watched(session: Session) -> Watched:
    """What the session watches. The WATCH before the last EXEC does not count any more."""
    return session.watched if session.watching and session.watched is not None else Watched()


#: By name, upper case: what is checked before the command runs.
CHECKS: Mapping[bytes, Check] = {
    **dict.fromkeys(_WAITED_FOR, _waited_for),
    **dict.fromkeys(_READ, _read),
    **dict.fromkeys(_COUNTED, _count),
    b"LOLWUT": _lolwut,
    b"WATCH": _watch,
}
#: Those that are inspected for nothing else.
PLAIN = (*_READ, *_COUNTED, b"LOLWUT")
