"""Reads Redis's answer to INFO: sections, each with a heading line, and fields as NAME:VALUE.

Owns the form of the answer. The caller decides which fields matter and who may see them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

#: The name of a field in the section ``keyspace``.
_DATABASE = re.compile(r"db([0-9]+)", re.ASCII)
_KEYS = re.compile(r"keys=([0-9]+),", re.ASCII)


@dataclass(slots=True)
class Section:
    """One section. heading: its first line, as Redis wrote it; fields: (name, value) in Redis's
    order.
    """

    heading: str
    fields: list[tuple[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The section's name in lower case, as a client asks for it."""
        return self.heading[1:].strip().lower()


def sections(info: object) -> Iterator[Section]:
    """All sections of an answer. The first one has an empty heading: it has the fields before the
    first heading.

    info: the answer as bytes or str.
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
    """All fields of an answer, from all sections. info: see `sections`."""
    return {name: value for section in sections(info) for name, value in section.fields}


def keys(info: object) -> dict[int, int]:
    """The number of keys of each database, from an answer to INFO keyspace. Redis does not list
    databases without keys there.
    """
    found: dict[int, int] = {}
    for name, value in fields(info).items():
        database, count = _DATABASE.fullmatch(name), _KEYS.match(value)
        if database and count:
            found[int(database[1])] = int(count[1])
    return found
