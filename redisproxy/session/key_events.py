"""Patterns of clients that also match the channels of Redis's notifications about keys.

Owns the patterns that Redis gets for these channels. Redis has one set of channels for all
databases: ``*`` would match the notifications of every tenant. So such a pattern is split. Redis
gets the pattern behind the tenant's prefix, for the tenant's own channels, and for each of the two
kinds of notifications a pattern that begins literally with ``__keyspace@N__:`` or
``__keyevent@N__:``, where N is the tenant's own index. What stands behind that is an end of the
client's pattern: `ends` finds it. The tenant's ACL user may use nothing that begins otherwise.

Redis sends one message for each pattern that matches. So each of a client's patterns gets patterns
of its own, even where two clients' patterns mean the same: `spelled` writes the literal beginning
in another way, with backslashes.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from zlib import crc32

from .. import bounds
from ..policy.glob import ANY, Character, accepts, pieces
from ..tenants.model import Tenant

#: The beginnings of the names of all such channels, of any database.
BEGINNINGS = (b"__keyspace@", b"__keyevent@")
#: The literal beginning of a pattern.
_LITERAL = re.compile(rb"[^*?\[\\]*")

#: Patterns in Redis for one pattern of a client. By pattern: what a channel must not match, because
#: the message for another one of these patterns is the one that the client gets.
KeyEvents = Mapping[bytes, tuple[re.Pattern[bytes], ...]]
NO_EVENTS: KeyEvents = {}


class NoSpellingError(Exception):
    """Too many patterns of one session mean the same."""


def may_match(pattern: bytes) -> bool:
    """Returns whether `key_events` may find anything: a cheap look, as most patterns cannot."""
    literal = _LITERAL.match(pattern, 0, bounds.KEY_EVENT_PATTERN_BYTES)
    if literal is None or len(pattern) > bounds.KEY_EVENT_PATTERN_BYTES:
        return False
    begun = literal[0]
    return len(begun) < len(pattern) and any(each.startswith(begun[: len(each)]) for each in BEGINNINGS)


def key_events(tenant: Tenant, pattern: bytes, taken: Container[bytes]) -> KeyEvents:
    """Returns the patterns by which Redis finds notifications for a client's pattern.

    taken: patterns that Redis may not get again for this session. Raises NoSpellingError.
    """
    if not may_match(pattern):
        return NO_EVENTS
    found: dict[bytes, tuple[re.Pattern[bytes], ...]] = {}
    for beginning in tenant.keyspace_channels:
        rests, overlap = ends(pattern, beginning)
        earlier: tuple[re.Pattern[bytes], ...] = ()
        for number, rest in enumerate(rests, 1):
            found[_spelling(beginning, rest, pattern, taken)] = earlier
            if overlap and number < len(rests):
                earlier += (_expression(beginning, rest),)
    return found


def ends(pattern: bytes, beginning: bytes) -> tuple[list[bytes], bool]:
    """Returns the ends of a pattern that match what can stand behind a literal beginning.

    A name with this beginning matches the pattern if, and only if, the rest of the name matches one
    of these ends. The second result: whether a rest may match several of them.

    The pattern is followed through the beginning. Of the ``*`` that are reached, the last one
    matches whatever the others match. Besides, the beginning may end within the piece behind it.
    """
    parser = pieces(pattern)
    known: list[tuple[Character | None, int]] = []

    def piece(number: int) -> tuple[Character | None, int] | None:
        while len(known) <= number:
            following = next(parser, None)
            if following is None:
                return None
            known.append(following)
        return known[number]

    # Numbers of the pieces that the rest of the beginning must match; and of the last `*` reached.
    at = {0}
    star = -1
    for char in beginning:
        reached = set()
        for number in at:
            current = piece(number)
            if current is not None and current[0] is ANY:
                star = max(star, number)
                number += 1
                current = piece(number)
            if current is not None and current[0] is not ANY and accepts(current[0], char):
                reached.add(number + 1)
        if star >= 0:
            reached = {number for number in reached if number > star} | {star}
        if not reached:
            return [], False
        at = reached
    for number in at:
        current = piece(number)
        if current is not None and current[0] is ANY:
            star = max(star, number)
    starts = sorted((number for number in at if number > star), reverse=True)
    if star >= 0:
        starts.append(star)
    rests = []
    for number in starts:
        current = piece(number)
        rests.append(b"" if current is None else pattern[current[1] :])
    # Behind the last `*`, all names that match one end have the same length, and no two ends the
    # same.
    overlap = len(rests) > 1 and any(each is ANY for each, _ in pieces(rests[0]))
    return rests, overlap


def spelled(beginning: bytes, number: int) -> bytes:
    """Returns a pattern that matches a literal beginning and nothing else.

    number: another one gives another pattern; from 0, the beginning itself, to 2 to the power of
    the beginning's length.
    """
    return b"".join(b"\\" * (number >> digit & 1) + beginning[digit : digit + 1] for digit in range(len(beginning)))


def _spelling(beginning: bytes, rest: bytes, pattern: bytes, taken: Container[bytes]) -> bytes:
    """Returns a pattern in Redis that is not taken. It follows from the client's pattern, so that
    all sessions mostly need the same ACL rules.

    Never number 0: that is what a client's own literal pattern is sent as.
    """
    most = (1 << len(beginning)) - 1
    first = crc32(pattern)
    for number in range(first, first + bounds.KEY_EVENT_SPELLINGS):
        found = spelled(beginning, 1 + number % most) + rest
        if found not in taken:
            return found
    raise NoSpellingError


def _expression(beginning: bytes, rest: bytes) -> re.Pattern[bytes]:
    """Returns a regular expression for the names that begin so, and whose rest matches a pattern.

    It never tries an earlier ``*`` again (atomic groups), so the time for it has a bound.
    """
    parts = [re.escape(beginning)]
    behind_star = False
    for piece, _ in pieces(rest):
        if piece is ANY:
            parts.append(b")" * behind_star + b"(?>.*?")
            behind_star = True
        else:
            parts.append(_class(piece))
    if behind_star:
        # the last group: its end is the end of the name
        last = max(number for number, part in enumerate(parts) if part.endswith(b"(?>.*?"))
        parts[last] = parts[last].removesuffix(b"(?>.*?") + b"(?:.*"
        parts.append(b")")
    return re.compile(b"".join(parts) + rb"\Z", re.DOTALL)


def _class(piece: Character) -> bytes:
    wanted, ranges = piece
    if not ranges:
        return b"(?!)" if wanted else b"."
    return b"[%b%b]" % (b"" if wanted else b"^", b"".join(b"\\x%02x-\\x%02x" % each for each in ranges))
