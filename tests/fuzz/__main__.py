"""Mutates the corpus of a target without atheris, and runs the target with the results:

    python -m tests.fuzz session --seconds 600

The same seed tries the same inputs. Inputs that fail are written to a directory, shortened, one for
each kind of failure: put them into the corpus. `fuzz` goes further, as it is guided by coverage.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path

from . import targets

TARGETS = ("requests", "replies", "session")
_HERE = Path(__file__).parent


def mutate(rng: random.Random, corpus: list[bytes], conversation: bool) -> bytes:
    """Returns a mixture of inputs of the corpus, with some bytes changed.

    conversation: an input consists of pairs of bytes, behind the first one: see `targets.Play`.
    """
    size = 2 if conversation else 1
    data = bytearray(rng.choice(corpus) if rng.random() < 0.9 else corpus[0][:1])
    for _ in range(rng.choice((1, 1, 2, 3, 5, 10))):
        at = 1 + size * rng.randrange(1 + len(data) // size)
        what = rng.randrange(5)
        if what == 0:
            data[at : at + size * rng.choice((1, 1, 2, 5, 20))] = b""
        elif what == 1:
            other = rng.choice(corpus)
            start = 1 + size * rng.randrange(1 + len(other) // size)
            data[at:at] = other[start : start + size * rng.choice((1, 2, 5, 20, 100))]
        elif what == 2:
            data[at:at] = rng.randbytes(size)
        elif what == 3 and conversation:  # a whole command, and perhaps what makes it come to its end
            data[at:at] = bytes((100, rng.randrange(len(targets.CLIENT)))) + rng.choice((b"", b"\xcb\0", b"\x96\0"))
        elif data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def failure(target: str, data: bytes) -> str:
    """Runs a target. Returns where it failed and how, without numbers; empty if it did not."""
    try:
        getattr(targets, target)(data)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = re.sub(r"[0-9]+|b'[^']*'", "#", str(error))
        return f"{Path(frame.filename).name} {frame.name}: {type(error).__name__}: {text:.200}"
    return ""


def shorten(target: str, data: bytes, kind: str) -> bytes:
    """Returns a shorter input that fails in the same way, if there is one."""
    size = len(data) // 2
    while size:
        at = 1
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if failure(target, shorter) == kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60, help="of processor time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--found", type=Path, default=Path("_trial_temp_fuzz"), help="a directory (default: %(default)s)")
    given = parser.parse_args(arguments)
    corpus = [file.read_bytes() for file in sorted((_HERE / "corpus" / given.target).iterdir())]
    rng = random.Random(given.seed)
    found: dict[str, bytes] = {}
    runs, end = 0, time.process_time() + given.seconds
    while time.process_time() < end:
        data = mutate(rng, corpus, given.target == "session")
        kind = failure(given.target, data)
        runs += 1
        if kind and kind not in found:
            found[kind] = data = shorten(given.target, data, kind)
            given.found.mkdir(exist_ok=True)
            file = given.found / sha256(data).hexdigest()[:12]
            file.write_bytes(data)
            print(f"{file}: {kind}", flush=True)
    print(f"{runs} inputs, {len(found)} kinds of failure")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
