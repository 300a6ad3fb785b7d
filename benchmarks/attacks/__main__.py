"""The process of one attacker: `python -m benchmarks.attacks ROW REDIS_URL`."""

import os
import resource
import signal
import sys

from . import ROWS
from .row import run


def main() -> None:
    """Runs it. Its processor time is taken from nobody: attackers run on machines of their own."""
    os.nice(5)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    run(ROWS[sys.argv[1]], sys.argv[2])


if __name__ == "__main__":
    main()
