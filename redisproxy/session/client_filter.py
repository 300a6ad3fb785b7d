"""The filters of CLIENT LIST and CLIENT KILL.

Owns their syntax, and which sessions they name. The filters are those of Redis 8 and Valkey 9 that
both have, with any of them in either command, whatever the server behind the proxy takes. Only a
tenant's own sessions are ever compared with a filter. Source: networking.c of Redis 7 and 8
(clientListCommand, clientKillCommand) and of Valkey 9 (parseClientFiltersOrReply).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from .. import bounds, messages
from .client_line import endpoint, is_subscriber
from .errors import SYNTAX

if TYPE_CHECKING:
    from .session import Session

#: Redis's types of clients, by all their names: whether such a client is subscribed. None: the
#: proxy has no client of this type.
_TYPES = {b"normal": False, b"pubsub": True, b"master": None, b"primary": None, b"replica": None, b"slave": None}
_SWITCH = {b"yes": True, b"no": False}
#: Digits of a number. Longer ones are more than a signed number of 64 bits.
_DIGITS = 18
#: Bytes. No address that `client_line.endpoint` returns is longer.
_LONGEST_ADDRESS = 128


class FilterError(Exception):
    """The filters are malformed. reply: the error for the client."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass(slots=True)
class ClientFilter:
    """What a session must be to be named. None: anything.

    ids: its id is one of these; address: the client's; local: the proxy's own; user: the name of
    its user; types: it is of all these types; age: it is at least so many seconds old; skip_me: it
    is another session than the one that asks.
    """

    ids: set[int] | None = None
    address: bytes | None = None
    local: bytes | None = None
    types: set[bool | None] = field(default_factory=set)
    age: int = 0
    skip_me: bool = False

    def dump(self) -> dict[str, Any]:
        """Returns the fields in a form that JSON can hold: see `load`."""
        return {
            "ids": None if self.ids is None else list(self.ids),
            "address": None if self.address is None else self.address.decode("latin-1"),
            "local": None if self.local is None else self.local.decode("latin-1"),
            "types": list(self.types),
            "age": self.age,
            "skip_me": self.skip_me,
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """The reverse of `dump`."""
        ids, address, local = dumped["ids"], dumped["address"], dumped["local"]
        return cls(
            None if ids is None else set(ids),
            None if address is None else address.encode("latin-1"),
            None if local is None else local.encode("latin-1"),
            set(dumped["types"]),
            dumped["age"],
            dumped["skip_me"],
        )

    def names(self, session: Session, asks: int) -> bool:
        """Returns whether the filter names a session. asks: the id of the one that sent it."""
        connection = session.connection
        return not (
            (self.ids is not None and connection.id not in self.ids)
            or (self.address is not None and endpoint(connection.peer) != self.address)
            or (self.local is not None and endpoint(connection.local) != self.local)
            or (self.types and self.types != {is_subscriber(session)})
            or connection.age < self.age
            or (self.skip_me and connection.id == asks)
        )


def parse(words: Sequence[bytes], user: bytes, kills: bool) -> ClientFilter:
    """Parses the arguments behind CLIENT LIST or CLIENT KILL. Raises FilterError.

    user: the only user that there is for the tenant; kills: for CLIENT KILL, which skips the
    session that sends it unless the filter says otherwise. CLIENT LIST does not.
    """
    found = ClientFilter(skip_me=kills)
    pos = 0
    while pos < len(words):
        name = words[pos].lower()
        if pos + 1 == len(words):
            raise FilterError(SYNTAX)
        value = words[pos + 1]
        pos += 2
        if name == b"id":
            found.ids = found.ids or set()
            found.ids.add(_id(value, kills))
            while pos < len(words) and words[pos].isdigit():
                found.ids.add(_id(words[pos], kills))
                pos += 1
            if len(found.ids) > bounds.CLIENT_FILTER_IDS:
                raise FilterError(messages.CLIENT_FILTER_TOO_LARGE.reply(most=bounds.CLIENT_FILTER_IDS))
        elif name == b"addr":
            found.address = address(value)
        elif name == b"laddr":
            found.local = address(value)
        elif name == b"user":
            if value != user:
                raise FilterError(messages.NO_SUCH_USER.reply(user=value))
        elif name == b"type":
            if value.lower() not in _TYPES:
                raise FilterError(messages.CLIENT_TYPE.reply(type=value))
            found.types.add(_TYPES[value.lower()])
        elif name == b"maxage":
            if not _is_number(value):
                raise FilterError(messages.MAXAGE.reply())
            found.age = int(value)
            if found.age <= 0:
                raise FilterError(messages.MAXAGE_TOO_SMALL.reply())
        elif name == b"skipme" and value.lower() in _SWITCH:
            found.skip_me = _SWITCH[value.lower()]
        else:
            raise FilterError(SYNTAX)
    return found


def address(word: bytes) -> bytes:
    """Returns the address in a filter; empty if it is longer than any, as it would be kept."""
    return word if len(word) <= _LONGEST_ADDRESS else b""


def _id(word: bytes, kills: bool) -> int:
    """Reads one id of the filter ID. Redis's errors differ between the two commands."""
    if not _is_number(word):
        raise FilterError((messages.CLIENT_ID_TOO_SMALL if kills else messages.CLIENT_ID).reply())
    if kills and int(word) <= 0:
        raise FilterError(messages.CLIENT_ID_TOO_SMALL.reply())
    return int(word)


def _is_number(word: bytes) -> bool:
    return word.removeprefix(b"-").isdigit() and len(word) <= _DIGITS
