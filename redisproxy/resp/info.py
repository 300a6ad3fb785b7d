"""Reads Redis's answer to INFO: sections with a heading line each, and fields as NAME:VALUE.

Owns that form alone. Which fields matter, and who may see them, is decided by whoever asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

#: A line of the section ``keyspace``.
_DATABASE = re.compile(r"db([0-9]+)", re.ASCII)
_KEYS = re.compile(r"keys=([0-9]+),", re.ASCII)


@dataclass(slots=True)
class Section:
    """One section. heading: its first line, as Redis wrote it; fields: (name, value), in Redis's
    order.
    """

    heading: str
    fields: list[tuple[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """In lower case, as a client asks for it."""
        return self.heading[1:].strip().lower()


def sections(info: object) -> Iterator[Section]:
    """All sections of an answer. info: bytes, or a text. What stands before the first heading has
    an empty one.
    """
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else str(info)
    section = Section("")
    for line in text.splitlines():
        if line.startswith("#"):
            yield section
            section = Section(line)
            continue
        name, separator, value = line.partition(":")
        if separator:
            section.fields.append((name, value))
    yield section


def fields(info: object) -> dict[str, str]:
    """All fields of an answer, whatever their sections. See `sections`."""
    return {name: value for section in sections(info) for name, value in section.fields}


def keys(info: object) -> dict[int, int]:
    """How many keys each database has, from an answer to INFO keyspace. Databases without keys are
    not named there.
    """
    found: dict[int, int] = {}
    for name, value in fields(info).items():
        database, count = _DATABASE.fullmatch(name), _KEYS.match(value)
        if database and count:
            found[int(database[1])] = int(count[1])
    return found
