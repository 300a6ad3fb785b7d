"""Reads /proc for facts about processes, because minimal machines have no ps."""

from __future__ import annotations

import re
from pathlib import Path


def children(pid: int) -> dict[int, str]:
    """Returns the child processes of a process that it has not waited for yet: the names of their
    programs, by process id.
    """
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, name, parent = re.match(r"(\d+) \((.*)\) \S (\d+) ", path.read_text(), re.DOTALL).groups()
        except OSError:
            continue  # it has ended meanwhile
        if int(parent) == pid:
            found[int(number)] = name
    return found


def runs(pid: int) -> bool:
    """Returns whether a process runs. A zombie does not: perhaps no process is there to wait for
    it.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it ended before the file was opened, or before it was read
        return False
