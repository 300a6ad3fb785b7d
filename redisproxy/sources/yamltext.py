"""YAML in which every scalar is the text that was written: `010` is no 8, `1:30` no 90, and `0123`
keeps its zero.

Owns how a manifest's bytes become mappings, lists and texts, JSON included. No tag makes an object
of anything, and `<<` is a key like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

#: Tags that say what a plain text or collection is anyway: they are no problem.
_HARMLESS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")}


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]  # known at run time alone
    """Notes tags that mean something to others."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.tagged: list[int] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _HARMLESS:
            self.tagged.append(node.start_mark.line + 1)
        return super().construct_object(node, deep)


def documents(text: bytes) -> Iterator[tuple[object, list[int]]]:
    """Each document, and the lines on which it has a tag of an application's own; the tag is left
    aside.

    An empty document is an empty text. Raises what PyYAML likes to, mostly YAMLError: its text
    quotes the document.
    """
    loader = _Loader(text)
    try:
        while loader.check_data():
            loader.tagged = []
            document = loader.get_data()
            yield document, loader.tagged
    finally:
        loader.dispose()


def position(error: BaseException) -> str:
    """Where something is no YAML, without any of it."""
    mark = getattr(error, "problem_mark", None)
    return "somewhere" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
