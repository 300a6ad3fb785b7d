"""The `redisproxy` command as a process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .fork_server import ForkedProcess, can_fork

#: As pip installs it, beside the interpreter.
COMMAND = str(Path(sys.executable).with_name("redisproxy"))
#: Seconds for a command.
LIMIT = 180


def run_command(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, with nothing to read and no terminal.

    As a copy of a process that has imported it, which spares a second of a processor: see
    `fork_server`. Whoever wants it as an operator calls it starts COMMAND.
    """
    args = [COMMAND, *arguments]
    if not can_fork(environ):
        return subprocess.run(
            args, stdin=subprocess.DEVNULL, capture_output=True, env=environ, encoding="utf-8", timeout=LIMIT, check=False
        )
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = ForkedProcess("redisproxy", args, environ, output.fileno(), errors.fileno())
        try:
            status = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(args, status, *(_content(file) for file in (output, errors)))


def _content(file: object) -> str:
    file.seek(0)
    return file.read().decode()
