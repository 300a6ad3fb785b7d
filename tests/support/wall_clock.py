"""A wall clock for one process, which a test can set while the process runs. The machine's clock is
left alone.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

#: Python runs this at the start of the process, and of each Python process that it starts: before
#: any module imports `time.time`.
_START = """
import os
import time

_path, _time, _time_ns = os.environ["TEST_WALL_CLOCK"], time.time, time.time_ns


def _offset():
    with open(_path) as file:
        return float(file.read())


time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
"""


class WallClock:
    """The clock that a test sets. environ: the environment variables for the process that gets this
    clock.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        directory = Path(self._temporary.name)
        (directory / "sitecustomize.py").write_text(_START)
        self._offset = directory / "offset"
        self.set(0)
        path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
        self.environ = {"PYTHONPATH": path, "TEST_WALL_CLOCK": str(self._offset)}

    def set(self, seconds: float) -> None:
        """Sets the clock this many seconds ahead of the machine's clock."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._offset)

    def remove(self) -> None:
        self._temporary.cleanup()
