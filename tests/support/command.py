"""Runs the `redisproxy` command as a process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .fork_server import ForkedProcess, can_fork

#: Where pip installs the command: beside the interpreter.
COMMAND = str(Path(sys.executable).with_name("redisproxy"))
#: The most seconds that a command may take.
LIMIT = 180


def run_command(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, without standard input and without a terminal.

    The process is a copy of one that has already imported the command, which saves a second of
    processor time: see `fork_server`. A test of the command as an operator starts it runs COMMAND.
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
