"""CONFIG GET as a tenant may read it: a short list of harmless names.

Owns the list, which of it a tenant's patterns name, and the reply. No pattern reaches Redis: the
proxy asks, with the master's rights, for names of this list alone. A name of a newer server stays
out until it is listed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import bounds, messages
from ..resp.value import Answer

#: What client libraries and frameworks look for: how many databases there are, what happens when
#: memory is full, whether there are notifications about keys, and whether data outlives a restart.
NAMES = (b"databases", b"maxmemory", b"maxmemory-policy", b"notify-keyspace-events", b"appendonly", b"save")
TOO_LONG = messages.CONFIG_PATTERNS.reply(most=bounds.CONFIG_PATTERN_BYTES)

#: What stands for any characters in a pattern that was read.
_ANY = None
#: One character of it: whether it must be in the ranges, or must not, and the ranges, both ends
#: included.
_Character = tuple[bool, list[tuple[int, int]]]


class PatternError(Exception):
    """The patterns are longer than bounds.CONFIG_PATTERN_BYTES."""


def named(words: Iterable[bytes]) -> list[bytes]:
    """Which of NAMES the arguments of a CONFIG GET name, each once.

    Redis from 7 on repeats a name as the client spelt it, so that spelling is kept. Raises
    PatternError. Source: config.c of Redis 7 (configGetCommand).
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

    names: those that Redis was asked for; answers: what it said to each, a name and a value, or
    nothing where it has no such name. protocol: 2 or 3.
    """
    pairs = []
    for name, answer in zip(names, answers, strict=True):
        match answer:
            case [bytes(own), bytes(value)] if own.lower() == name.lower():
                pairs.append((own, value))
    head = b"%%%d\r\n" % len(pairs) if protocol == 3 else b"*%d\r\n" % (2 * len(pairs))
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for pair in pairs for part in pair)


# Patterns, as Redis reads them. Source: util.c of Redis 7 (stringmatchlen). Neither this nor
# Python's fnmatch would do for the other: fnmatch negates by ! and knows no backslash.


def _read(pattern: bytes) -> list[_Character | None]:
    """A pattern in lower case, piece by piece."""
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
    """(what stands in brackets, where it ends). pos: behind the opening one. The closing one may be
    missing.
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
    """Whether a pattern is the whole name. Where it fails behind a ``*``, that takes one character
    more: no other is tried again, so a name of n characters takes n * n steps at most.
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
