"""Redis's own errors, by their first word.

Owns which error says that Redis is busy with a script, or has too many clients. A client gets the
former in Redis's words: its library knows them, and nobody knows how long the script will run. See
also `hold.is_lasting`.
"""

from __future__ import annotations

#: The first word of the error while a script or a function runs for too long.
_BUSY = "BUSY"


def first_word(error: str) -> str:
    """Returns the first word of an error, which says what kind of error it is.

    error: with or without its hyphen.
    """
    return error.lstrip("-").partition(" ")[0]


def is_busy(error: str) -> bool:
    """Returns whether the error says that a script, or a function, has run for too long.

    Then Redis refuses all commands but a few, such as AUTH and HELLO. It refuses SELECT.
    """
    return first_word(error) == _BUSY


def is_full(error: str) -> bool:
    """Returns whether the error says that Redis has as many clients as it takes. It then closes the
    connection.
    """
    return first_word(error) == "ERR" and error.partition(" ")[2].startswith("max number of clients")
