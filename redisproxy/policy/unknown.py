"""What Redis says to a command that it does not have, in its own words: clients find out by these
what a server can do.

Owns the two errors and their limits. Source: server.c of Redis 6.2 and 7 (processCommand,
commandCheckExistence), networking.c of Redis 6.2 (addReplySubcommandSyntaxError).
"""

from __future__ import annotations

from collections.abc import Sequence

#: Bytes of the name, and of all arguments with their quotes, that are repeated: %.128s.
SHOWN = 128


def command_error(arguments: Sequence[bytes], before_7: bool = False) -> bytes:
    """The error reply. arguments: the name first; before_7: how Redis 6.2 and older words it."""
    shown = b""
    for argument in arguments[1:]:
        if len(shown) >= SHOWN:
            break
        shown += (b"`%b`, " if before_7 else b"'%b' ") % _text(argument, SHOWN - len(shown))
    quoted = b"`%b`" if before_7 else b"'%b'"
    return _line((b"unknown command " + quoted + b", with args beginning with: %b") % (_text(arguments[0]), shown))


def subcommand_error(container: bytes, subcommand: bytes, before_7: bool = False) -> bytes:
    """The error reply. before_7: the same, for which it is also that to a wrong number of
    arguments.
    """
    what = b"Unknown subcommand or wrong number of arguments for" if before_7 else b"unknown subcommand"
    return _line(b"%b '%b'. Try %b HELP." % (what, _text(subcommand), _text(container).upper()))


def _text(word: bytes, limit: int = SHOWN) -> bytes:
    """A word as C prints it: up to a NUL byte."""
    return word.partition(b"\0")[0][:limit]


def _line(text: bytes) -> bytes:
    """One line, whatever it repeats."""
    return b"-ERR " + text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"
