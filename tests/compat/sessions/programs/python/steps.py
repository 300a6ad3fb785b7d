"""What the Python programs have in common: where Redis is, and how an outcome is printed."""

import os
import sys
import threading
import time

PORT = int(os.environ["REDIS_PORT"])
PASSWORD = os.environ["REDIS_PASSWORD"]
INDEX = int(os.environ["REDIS_INDEX"])
URL = f"redis://:{PASSWORD}@127.0.0.1:{PORT}/{INDEX}"
#: Seconds that a step waits at most.
LIMIT = 60


def show(name: str, outcome: object) -> None:
    """Prints an outcome: one write, so lines of several threads do not mix."""
    os.write(1, f"{name}: {' '.join(str(outcome).split())}\n".encode())


def step(name: str):
    """Decorator: runs the function at once, and prints what it returns or raises."""

    def runs(body) -> None:
        try:
            outcome = body()
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        show(name, outcome)

    return runs


def until(probe, limit: float = LIMIT):
    """Returns the first true value of the probe, or None after the limit."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(0.01)
    return None


def beside(body) -> threading.Thread:
    """Runs a function in a thread."""
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def leave() -> None:
    """Ends the program at once: pools and threads of a library may wait."""
    sys.stdout.flush()
    os._exit(0)
