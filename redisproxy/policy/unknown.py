"""The errors for a command or subcommand that the server does not have, in Redis's own words.
Clients use these errors to find out what a server can do.

Owns these errors and their limits. Source: server.c of Redis 6.2 and 7 (processCommand,
commandCheckExistence), networking.c of Redis 6.2 (addReplySubcommandSyntaxError).
"""

from __future__ import annotations

from collections.abc import Sequence

#: The errors repeat so many bytes of the name, and so many of all arguments with their quotes:
#: Redis prints them with %.128s.
SHOWN = 128


def command_error(arguments: Sequence[bytes], before_7: bool = False) -> bytes:
    """The error reply to an unknown command.

    arguments: the command, the name first; before_7: whether to use the words of Redis 6.2 and
    older.
    """
    shown = b""
    for argument in arguments[1:]:
        if len(shown) >= SHOWN:
            break
        shown += (b"`%b`, " if before_7 else b"'%b' ") % _text(argument, SHOWN - len(shown))
    quoted = b"`%b`" if before_7 else b"'%b'"
    return _line((b"unknown command " + quoted + b", with args beginning with: %b") % (_text(arguments[0]), shown))


def subcommand_error(container: bytes, subcommand: bytes, before_7: bool = False) -> bytes:
    """The error reply to an unknown subcommand.

    before_7: as in `command_error`. Redis 6.2 and older also answer this to a wrong number of
    arguments.
    """
    if before_7:
        return syntax_error(container, subcommand, before_7)
    return _line(b"unknown subcommand '%b'. Try %b HELP." % (_text(subcommand), _text(container).upper()))


def syntax_error(container: bytes, subcommand: bytes, before_7: bool = False) -> bytes:
    """The error reply to a subcommand whose arguments make no sense. before_7: as above."""
    what = b"Unknown" if before_7 else b"unknown"
    text = b"%b subcommand or wrong number of arguments for '%b'. Try %b HELP."
    return _line(text % (what, _text(subcommand), _text(container).upper()))


def _text(word: bytes, limit: int = SHOWN) -> bytes:
    """A word as C prints it: up to a NUL byte, and at most limit bytes."""
    return word.partition(b"\0")[0][:limit]


def _line(text: bytes) -> bytes:
    """The error as one line, whatever bytes the text repeats."""
    return b"-ERR " + text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"
