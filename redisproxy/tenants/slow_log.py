"""Redis's log of slow commands: whose an entry is, and what its tenant may see of it.

Owns the names of upstream connections, by which an entry says whose it is: an entry has no user and
no database. Redis keeps a name after AUTH, and no tenant can change it, because the proxy itself
answers CLIENT. Pure: nothing is sent here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import NamedTuple

from ..resp.value import Answer
from .model import Tenant

#: What Redis puts in place of what it does not keep: the arguments from the 32nd on, and the end of
#: an argument of more than 128 bytes.
_MORE = re.compile(rb"\.\.\. \(([0-9]+) more (arguments|bytes)\)\Z")
_NAME = re.compile(rb"redisproxy:([a-z0-9.-]+):([0-9]+):([0-9a-f]+)")
#: Of the number of bytes that Redis does not keep of a large argument: 100,000 or more.
_DIGITS = 6
#: Commands of the proxy itself on a tenant's connection: its log-in. Redis 5 logs AUTH with its
#: password.
_LOG_IN = frozenset((b"AUTH", b"CLIENT", b"HELLO", b"SELECT"))


class Entry(NamedTuple):
    """One entry. number: its id in Redis; at: when the command ended, in seconds since the epoch;
    microseconds: how long it took; words: the command, as far as Redis keeps it; tenant: whose
    connection it came over; token: of the process that named the connection.
    """

    number: int
    at: int
    microseconds: int
    words: list[bytes]
    tenant: Tenant
    token: bytes

    @property
    def large(self) -> bool:
        """Whether the command has many arguments, or one of many bytes."""
        for word in self.words:
            found = _MORE.search(word)
            if found and (found[2] == b"arguments" or len(found[1]) >= _DIGITS):
                return True
        return False


class ConnectionNames:
    """The names that one process gives to its upstream connections. No two processes share one,
    and a process that is started again has others.
    """

    def __init__(self) -> None:
        #: the last part of each name
        self.token = secrets.token_hex(4).encode()

    def of(self, tenant: Tenant) -> bytes:
        """The name of a connection that carries this tenant's commands. It has no spaces."""
        return b"redisproxy:%b:%d:%b" % (tenant.namespace.encode(), tenant.index, self.token)


def newest(answer: Answer) -> int | None:
    """The id of the first entry in an answer to SLOWLOG GET; None: there is none."""
    match answer:
        case [[int(number), *_], *_]:
            return number
        case _:
            return None


def entries(answer: Answer) -> Iterator[Entry]:
    """The entries of tenants in an answer to SLOWLOG GET, the newest first.

    Leaves out all others, and the log-ins of tenants' connections. Before version 4, Redis does not
    log names.
    """
    for one in answer if isinstance(answer, list) else ():
        match one:
            case [int(number), int(at), int(microseconds), [bytes(command), *rest], _, bytes(name), *_]:
                found = _NAME.fullmatch(name)
                if found is not None and command.upper() not in _LOG_IN:
                    words = [command, *(word for word in rest if isinstance(word, bytes))]
                    tenant = Tenant(found[1].decode(), int(found[2]))
                    yield Entry(number, at, microseconds, words, tenant, found[3])
