"""Makes text safe to show: in a log, in a terminal, on a page, in a metric, in an error.

Owns which characters are shown unchanged, and which parts of another server's error are repeated.
Names come from files, clusters and clients. Each may contain escape sequences, line ends, marks
that change the direction of writing, or bytes that are no text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Letters that look like nothing, or like a space.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
#: Characters of a server's error that are repeated.
ERROR_CHARACTERS = 200
#: Redis repeats the arguments of an unknown command, and an ACL rule that it does not accept. Rules
#: that begin with + or - name commands. Other rules have passwords, hashes, keys and channels.
_ARGUMENTS = re.compile(r"(with args beginning with: ).*", re.DOTALL)
_RULE = re.compile(r"(SETUSER modifier ')(?![+-])[^']*", re.DOTALL)


def printable(text: str) -> str:
    """The text in one line. A character that is neither visible nor a plain space becomes an
    escape, as in Python.

    Calling it again on the result changes nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    before = ""
    for character in text:
        category = unicodedata.category(character)
        # A combining mark belongs to a letter. Anywhere else it changes the character before it.
        fits = before[:1] == "L" if category[0] == "M" else character.isprintable() and character not in _BLANK
        shown.append(character if fits else character.encode("unicode_escape").decode("ascii"))
        if category[0] != "M" or not fits:
            before = category
    return "".join(shown)


def server_error(text: str) -> str:
    """A server's error without the arguments of the command, because a password may be among
    them.
    """
    return _RULE.sub(r"\1…", _ARGUMENTS.sub(r"\1…", text))


def shown_error(error: str | bytes) -> str:
    """A server's error for use in a line of the log: its first ERROR_CHARACTERS characters, without
    arguments, and without a full stop at the end.
    """
    text = error[: 4 * ERROR_CHARACTERS].decode("utf-8", "replace") if isinstance(error, bytes) else error
    return printable(server_error(clause(text[:ERROR_CHARACTERS])))


def clause(text: str) -> str:
    """The text without the full stop at its end, for use inside a sentence of the proxy's."""
    return text if text.endswith("..") else text.removesuffix(".")


def sentence(text: str) -> str:
    """The text with one full stop at its end, for use before another sentence."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def listed(names: Sequence[str]) -> str:
    """Names within a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
