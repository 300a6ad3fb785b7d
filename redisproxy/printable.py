"""Text that is fit to be shown: in a log, in a terminal, on a page, in a metric, in an error.

Owns which characters are shown as they are, and what of another server's error is repeated. Names
come from files, clusters and clients: each may hold escape sequences, line ends, marks that turn
the direction of writing, or bytes that are no text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Letters without a shape of their own: they look like nothing, or like a space.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
#: Characters of a server's error that are repeated.
ERROR_CHARACTERS = 200
#: Redis repeats the arguments of a command that it does not know, and the rule of a user that it
#: does not take. Rules that begin with + or - name commands; the others are passwords, their
#: hashes, keys and channels.
_ARGUMENTS = re.compile(r"(with args beginning with: ).*", re.DOTALL)
_RULE = re.compile(r"(SETUSER modifier ')(?![+-])[^']*", re.DOTALL)


def printable(text: str) -> str:
    """The text in one line. What is no visible character, and no plain space, is written as an
    escape, as Python does.

    The result is the same when it is made printable again.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    before = ""
    for character in text:
        category = unicodedata.category(character)
        # A combining mark belongs to a letter; anywhere else it changes how what stands before it
        # is shown.
        fits = before[:1] == "L" if category[0] == "M" else character.isprintable() and character not in _BLANK
        shown.append(character if fits else character.encode("unicode_escape").decode("ascii"))
        if category[0] != "M" or not fits:
            before = category
    return "".join(shown)


def server_error(text: str) -> str:
    """What a server said of a command, without the arguments of that: a password may be among
    them.
    """
    return _RULE.sub(r"\1…", _ARGUMENTS.sub(r"\1…", text))


def shown_error(error: str | bytes) -> str:
    """What a server said, as a part of a line of the log: its first ERROR_CHARACTERS, without
    arguments or a full stop.
    """
    text = error[: 4 * ERROR_CHARACTERS].decode("utf-8", "replace") if isinstance(error, bytes) else error
    return printable(server_error(clause(text[:ERROR_CHARACTERS])))


def clause(text: str) -> str:
    """The text without the full stop at its end: our own sentence goes on behind it, or ends
    there.
    """
    return text if text.endswith("..") else text.removesuffix(".")


def sentence(text: str) -> str:
    """The text with one full stop at its end: another sentence follows."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def listed(names: Sequence[str]) -> str:
    """Names within a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
