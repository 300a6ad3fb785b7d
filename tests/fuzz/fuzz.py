"""Fuzzes the pure modules with atheris, guided by coverage (``pip install atheris``). Run it from
the top of the repository:

    python tests/fuzz/fuzz.py requests|replies|session [libFuzzer's arguments]

libFuzzer adds new inputs to the first directory that is named. Without a directory it uses the
corpus of the target. To make a corpus small again:

    python tests/fuzz/fuzz.py TARGET -merge=1 SMALL-AND-EMPTY tests/fuzz/corpus/TARGET
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))


def sources_of_resp(path: str) -> FileFinder:
    """Finds only sources, no compiled framing: atheris would see no branch of the compiled form."""
    if Path(path) != ROOT / "redisproxy" / "resp":
        raise ImportError
    return FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES))


sys.path_hooks.insert(0, sources_of_resp)
with atheris.instrument_imports(
    include=["redisproxy.resp", "redisproxy.tenants", "redisproxy.policy", "redisproxy.session"]
):
    import redisproxy.session.session  # noqa: F401 (instrumented before the targets import it)

from tests.fuzz import targets  # noqa: E402

TARGETS = ("requests", "replies", "session")


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or arguments[1] not in TARGETS:
        sys.exit(__doc__)
    target, options = arguments[1], arguments[2:]
    if all(option.startswith("-") for option in options):
        options.append(str(HERE / "corpus" / target))
    # To merge, libFuzzer starts itself again through a shell. The first of these words is its
    # command.
    atheris.Setup([f"{sys.executable} {Path(__file__).resolve()} {target}", *options], getattr(targets, target))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
