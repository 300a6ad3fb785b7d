"""The runbooks, for the status endpoint: what to do about each alert.

Owns where they are: in the package, where setup.py puts them, or in docs/ of the source tree.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parents[1]
_DIRECTORIES = (_HERE / "runbooks", _HERE.parent / "docs" / "runbooks")


def read_runbooks() -> dict[str, bytes]:
    """Returns each runbook as Markdown, by the name of its alert. Empty if there are none."""
    directory = next((found for found in _DIRECTORIES if found.is_dir()), None)
    return {} if directory is None else {path.stem: path.read_bytes() for path in sorted(directory.glob("*.md"))}
