"""What the Python programs have in common: events, the end, and where Redis is."""

import os
import sys
import threading
import time

PORT = int(os.environ["REDIS_PORT"])
PASSWORD = os.environ["REDIS_PASSWORD"]
INDEX = int(os.environ["REDIS_INDEX"])
MASTER = os.environ.get("REDIS_MASTER", "")
SENTINELS = [
    (place.split(":")[0], int(place.split(":")[1])) for place in os.environ.get("REDIS_SENTINELS", "").split(",") if place
]
URL = f"redis://:{PASSWORD}@127.0.0.1:{PORT}/{INDEX}"
#: Seconds between two commands of a client, and of a publisher or a producer.
PAUSE, SLOW_PAUSE = 0.02, 0.05
#: Bytes of a large value.
LARGE = 100_000
#: Seconds that consumers go on after the standard input has ended.
REST = 2.5

ended = threading.Event()


def event(role: str, client: int, kind: str, rest: object = "") -> None:
    """Prints an event: one write, so lines of several threads and processes do not mix."""
    text = " ".join(str(rest).split())[:200]
    os.write(1, f"{time.time():.3f} {role} {client} {kind} {text}".rstrip().encode() + b"\n")


def error(role: str, client: int, problem: BaseException) -> None:
    event(role, client, "error", f"{type(problem).__name__}: {problem}")


def wait_for_the_end() -> None:
    """Returns when the standard input has ended."""
    sys.stdin.read()
    ended.set()
