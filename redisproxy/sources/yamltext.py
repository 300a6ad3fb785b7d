"""Reads YAML, and every scalar as the text that was written.

So `010` is not 8, `1:30` is not 90, and `0123` keeps its zero. Owns how the bytes of a manifest,
which may be JSON, become mappings, lists and texts. Tags create no objects, and `<<` is an ordinary
key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

#: Tags of plain texts and collections, which change nothing here. They are not reported.
_HARMLESS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")}


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]  # known at run time alone
    """Records the lines of tags that would change a value for other readers."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.tagged: list[int] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _HARMLESS:
            self.tagged.append(node.start_mark.line + 1)
        return super().construct_object(node, deep)


def documents(text: bytes) -> Iterator[tuple[object, list[int]]]:
    """Yields each document, and the lines of its application-specific tags, which are ignored.

    An empty document is an empty text. Raises what PyYAML raises, mostly YAMLError. The exception's
    text quotes the document.
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
    """Returns where the YAML is malformed, without quoting it."""
    mark = getattr(error, "problem_mark", None)
    return "somewhere" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
