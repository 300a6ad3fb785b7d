"""Redis's own errors, as clients get them.

Owns which errors are about the state of the server. A client gets such an error in Redis's own
words, because its library knows their first word: BUSY, for example. All other errors answer
commands of the proxy itself, such as its AUTH with the master password. Their words would mislead a
client.
"""

from __future__ import annotations

#: First words of errors about the state of the server.
_OF_THE_SERVER = frozenset(
    ("BUSY", "LOADING", "OOM", "MASTERDOWN", "READONLY", "MISCONF", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN")
)
#: The first word of the error while a script or a function runs for too long.
_BUSY = "BUSY"


def first_word(error: str) -> str:
    """Returns the first word of an error, which says what kind of error it is."""
    return error.lstrip("-").partition(" ")[0]


def is_busy(error: str) -> bool:
    """Returns whether the error says that a script, or a function, has run for too long.

    Then Redis refuses all commands but a few, such as AUTH and HELLO. It refuses SELECT.
    """
    return first_word(error) == _BUSY


def for_client(error: str, otherwise: str) -> str:
    """Returns the error for a client, without hyphen.

    error: Redis's, with or without its hyphen. otherwise: returned instead if Redis's error is not
    about the state of the server.
    """
    return error.lstrip("-") if first_word(error) in _OF_THE_SERVER else otherwise
