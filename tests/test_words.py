"""Tests that the project uses the words of its field, and not the jargon of its first version.

The words of `GONE` may be nowhere, prose included, except in the changelog's table of names that
changed. The words of `NO_NAME` are plain English and may stay in prose. As names of code, settings
and metrics they are forbidden: they tell a reader who knows Redis, Twisted or Kubernetes nothing,
or mean several things.
"""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[1]

#: Words that are forbidden anywhere, also as a part of a name: what to write instead.
GONE = {
    "lane": "upstream connection",
    "lanes": "upstream connections",
    "wall": "isolation layer",
    "walls": "isolation layers",
    "walled": "with an ACL user",
    "mood": "close reason",
    "moods": "close reasons",
    "owed": "pending",
    "owe": "have pending",
    "owes": "has pending",
    "debt": "reply batch",
    "debts": "reply batches",
    "ledger": "pending replies",
    "forgo": "withdraw",
    "excused": "cancelled",
    "comer": "waiter",
    "comers": "waiters",
    "looked at": "inspected",
    "mend": "fix",
    "mended": "fixed",
    "mends": "fixes",
    "mending": "fixing",
    "directoryholder": "CurrentSnapshot",
    "tally": "counters",
    "tallies": "counters",
    "allowance": "limit",
    "allowances": "limits",
    "shaper": "rate limiter",
}
#: The same for words in capitals: former names of the scanner's verdicts.
GONE_NAMES = {"KEEP": "FORWARD", "TAKE": "INSPECT", "DROP": "REFUSE"}
#: Whole names that are forbidden.
NO_NAME = frozenset(
    [
        "at_home",
        "candidate",
        "guard",
        "Guard",
        "Figures",
        "Questions",
        "Pace",
        "Directory",
        "Hold",
        "unhold",
        "LAST",
        "AT_ONCE",
        "SHARE",
        "figures",
        "home",
        "homes",
        "pinned",
        "place",
        "places",
        "share",
        "shares",
        "holder",
        "pace",
        "told",
        "unread",
        "left",
        "change",
        "take",
        "punish",
        "penalty",
    ]
)
#: The part of the changelog that lists the changed names for an upgrade.
RENAMED = re.compile(r"^### Names that changed.*?(?=^##)", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_BINARY = frozenset((".png", ".svg", ".ico", ".gz"))


def tracked() -> Iterator[Path]:
    """Yields the files of the project, without this one."""
    try:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # in an unpacked sdist there is no git
        found = [path for path in ROOT.rglob("*") if path.is_file()]
    else:
        found = [ROOT / name for name in names.split("\0") if name]
    for path in found:
        parts = path.relative_to(ROOT).parts
        if (
            path != Path(__file__)
            and path.suffix not in _BINARY
            and path.is_file()
            and not parts[0].startswith((".venv", "_trial"))
        ):
            yield path


def _words(line: str) -> Iterator[str]:
    line = re.sub(r"[Ww]all(?=([- ]|'s )?_?[Cc]lock)|WALL(?=_CLOCK)", "", line)
    for match in _WORD.finditer(line):
        yield match.group()


def jargon(text: str) -> list[str]:
    """Returns ``line number: word`` for each word that is in GONE or GONE_NAMES."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = list(_words(line))
        pairs = [f"{one} {other}" for one, other in itertools.pairwise(words)]
        for word in words + pairs:
            better = GONE.get(word.lower()) or GONE_NAMES.get(word)
            if better is not None:
                found.append(f"{number}: {word!r}, say {better!r}")
    return found


def names(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, name) of what Python code defines: classes, functions, arguments, attributes
    and variables.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


class WordsTests(SynchronousTestCase):
    """A failure names the file, the line and the word to write."""

    def test_no_line_has_the_old_dialect(self) -> None:
        found = []
        for path in tracked():
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                continue
            if path == ROOT / "CHANGELOG.md":
                text = RENAMED.sub(lambda section: "\n" * section[0].count("\n"), text)
            found += [f"{path.relative_to(ROOT)}:{each}" for each in jargon(text)]
        self.assertEqual(found, [])

    def test_no_name_is_a_word_that_says_nothing(self) -> None:
        found = []
        for path in sorted((ROOT / "redisproxy").rglob("*.py")):
            for line, name in names(path.read_text()):
                if name.strip("_") in NO_NAME:
                    found.append(f"{path.relative_to(ROOT)}:{line}: {name}")
        self.assertEqual(found, [])

    def test_it_finds_what_it_looks_for(self) -> None:
        self.assertEqual(jargon("of a Wall clock\nwall_clock, WALL_CLOCK, wall-clock, the wall's clock"), [])
        for text in ("my_lane", "SharedLanes", "MOOD", "is looked at", "mend it", "if KEEP:", "a wall"):
            self.assertEqual(len(jargon(text)), 1, text)
        self.assertEqual(
            sorted(
                name for _, name in names("class Hold:\n    def take(self, place):\n        self.told = home = left(shares)")
            ),
            ["Hold", "home", "place", "self", "take", "told"],
        )
