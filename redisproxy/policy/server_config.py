"""CONFIG GET for tenants: a short list of harmless settings.

Owns the list, the matching of a tenant's patterns with the list, and the reply. No pattern reaches
Redis: the proxy asks, with the master's rights, only for names in the list. A tenant cannot read a
setting of a newer server until it is listed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import bounds, messages
from ..resp.value import Answer

#: Settings that client libraries and frameworks ask for: the number of databases, what happens when
#: memory is full, notifications about keys, and whether data survives a restart.
NAMES = (b"databases", b"maxmemory", b"maxmemory-policy", b"notify-keyspace-events", b"appendonly", b"save")
TOO_LONG = messages.CONFIG_PATTERNS.reply(most=bounds.CONFIG_PATTERN_BYTES)

#: Stands for ``*`` in a parsed pattern: any characters.
_ANY = None
#: One character in a parsed pattern: (whether it must be in the ranges or must not, the ranges with
#: both ends included).
_Character = tuple[bool, list[tuple[int, int]]]


class PatternError(Exception):
    """The patterns are longer than bounds.CONFIG_PATTERN_BYTES."""


def named(words: Iterable[bytes]) -> list[bytes]:
    """The members of NAMES that the arguments of a CONFIG GET name, each once.

    From Redis 7 on the reply repeats a name as the client spelt it, so that spelling is kept.
    Raises PatternError. Source: config.c of Redis 7 (configGetCommand).
    """
    found: dict[bytes, bytes] = {}
    remaining = bounds.CONFIG_PATTERN_BYTES
    for word in words:
        if not any(special in word for special in b"[*?"):
            if word.lower() in NAMES:
                found.setdefault(word.lower(), word)
            continue
        remaining -= len(word)
        if remaining < 0:
            raise PatternError
        pattern = _read(word.lower())
        for name in NAMES:
            if _matches(pattern, name):
                found.setdefault(name, name)
    return list(found.values())


def reply(names: Sequence[bytes], answers: Sequence[Answer], protocol: int) -> bytes:
    """The reply to CONFIG GET.

    names: the settings that Redis was asked for; answers: Redis's answer to each, a name and a
    value, or nothing if it has no such setting; protocol: 2 or 3.
    """
    pairs = []
    for name, answer in zip(names, answers, strict=True):
        match answer:
            case [bytes(own), bytes(value)] if own.lower() == name.lower():
                pairs.append((own, value))
    head = b"%%%d\r\n" % len(pairs) if protocol == 3 else b"*%d\r\n" % (2 * len(pairs))
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for pair in pairs for part in pair)


# Patterns, as Redis reads them. Source: util.c of Redis 7 (stringmatchlen). Python's fnmatch cannot
# be used: it negates with ! and does not know the backslash.


def _read(pattern: bytes) -> list[_Character | None]:
    """Parses a pattern into its pieces. pattern: in lower case."""
    pieces: list[_Character | None] = []
    pos = 0
    while pos < len(pattern):
        char = pattern[pos : pos + 1]
        pos += 1
        if char == b"*":
            if not pieces or pieces[-1] is not _ANY:
                pieces.append(_ANY)
        elif char == b"?":
            pieces.append((True, [(0, 255)]))
        elif char == b"[":
            piece, pos = _class(pattern, pos)
            pieces.append(piece)
        else:
            if char == b"\\" and pos < len(pattern):
                char = pattern[pos : pos + 1]
                pos += 1
            pieces.append((True, [(char[0], char[0])]))
    return pieces


def _class(pattern: bytes, pos: int) -> tuple[_Character, int]:
    """Parses a class in brackets. Returns (the class, the position behind it).

    pos: behind the opening bracket. The closing bracket may be missing.
    """
    wanted = pattern[pos : pos + 1] != b"^"
    if not wanted:
        pos += 1
    ranges = []
    while pos < len(pattern):
        if pattern[pos] == ord("\\") and pos + 1 < len(pattern):
            ranges.append((pattern[pos + 1], pattern[pos + 1]))
            pos += 2
        elif pattern[pos] == ord("]"):
            return (wanted, ranges), pos + 1
        elif pattern[pos + 1 : pos + 2] == b"-" and pos + 2 < len(pattern):
            first, last = sorted((pattern[pos], pattern[pos + 2]))
            ranges.append((first, last))
            pos += 3
        else:
            ranges.append((pattern[pos], pattern[pos]))
            pos += 1
    return (wanted, ranges), pos


def _matches(pattern: Sequence[_Character | None], name: bytes) -> bool:
    """Whether a pattern matches the whole name.

    After a mismatch the last ``*`` takes one character more. No earlier ``*`` is tried again, so a
    name of n characters takes n * n steps at most.
    """
    at = pos = 0
    star = star_pos = -1
    while pos < len(name):
        piece = pattern[at] if at < len(pattern) else (True, [])
        if piece is _ANY:
            star, star_pos = at, pos
            at += 1
        elif _accepts(piece, name[pos]):
            at += 1
            pos += 1
        elif star >= 0:
            star_pos += 1
            at, pos = star + 1, star_pos
        else:
            return False
    return all(piece is _ANY for piece in pattern[at:])


def _accepts(piece: _Character, char: int) -> bool:
    wanted, ranges = piece
    return any(first <= char <= last for first, last in ranges) == wanted
