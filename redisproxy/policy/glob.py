"""Patterns as Redis reads them: ``*``, ``?``, classes in brackets, and the backslash.

Owns their parsing and matching. Source: util.c of Redis 7 (stringmatchlen). Python's fnmatch cannot
be used: it negates with ! and does not know the backslash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Stands for ``*`` in a parsed pattern: any characters.
ANY = None
#: One character in a parsed pattern: (whether it must be in the ranges or must not, the ranges with
#: both ends included).
Character = tuple[bool, list[tuple[int, int]]]


def parse(pattern: bytes) -> list[Character | None]:
    """The pieces of a pattern."""
    return [piece for piece, _ in pieces(pattern)]


def pieces(pattern: bytes) -> Iterator[tuple[Character | None, int]]:
    """Parses a pattern: each piece, and where it begins. Several ``*`` in a row are one piece."""
    pos = 0
    while pos < len(pattern):
        start = pos
        char = pattern[pos : pos + 1]
        pos += 1
        if char == b"*":
            while pattern[pos : pos + 1] == b"*":
                pos += 1
            yield ANY, start
        elif char == b"?":
            yield (True, [(0, 255)]), start
        elif char == b"[":
            piece, pos = _class(pattern, pos)
            yield piece, start
        else:
            if char == b"\\" and pos < len(pattern):
                char = pattern[pos : pos + 1]
                pos += 1
            yield (True, [(char[0], char[0])]), start


def _class(pattern: bytes, pos: int) -> tuple[Character, int]:
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


def matches(pattern: Sequence[Character | None], name: bytes) -> bool:
    """Whether a pattern matches the whole name.

    After a mismatch the last ``*`` takes one character more. No earlier ``*`` is tried again, so a
    name of n characters takes n * n steps at most.
    """
    at = pos = 0
    star = star_pos = -1
    while pos < len(name):
        piece = pattern[at] if at < len(pattern) else (True, [])
        if piece is ANY:
            star, star_pos = at, pos
            at += 1
        elif accepts(piece, name[pos]):
            at += 1
            pos += 1
        elif star >= 0:
            star_pos += 1
            at, pos = star + 1, star_pos
        else:
            return False
    return all(piece is ANY for piece in pattern[at:])


def accepts(piece: Character, char: int) -> bool:
    """Whether a piece that is not ANY matches this byte."""
    wanted, ranges = piece
    return any(first <= char <= last for first, last in ranges) == wanted
