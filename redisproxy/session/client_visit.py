"""What a CLIENT LIST or a CLIENT KILL does with the sessions that it sees, one after the other.

Owns the result. The sessions may be in several processes, so a visit has a form in which it can be
sent to another process, and its results can be added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from .. import bounds
from .client_filter import ClientFilter
from .client_line import describe

if TYPE_CHECKING:
    from .session import Session


@dataclass(slots=True)
class ClientVisit:
    """A visit of a tenant's sessions.

    wanted: which of them it is about; kills: whether it ends these, or lists them; asks: the id of
    the session that asks.
    """

    wanted: ClientFilter
    kills: bool
    asks: int
    #: one for each session that is listed
    lines: list[bytes] = field(default_factory=list)
    #: bytes of all lines; if there are more than CLIENT_LIST_BYTES, some are missing
    size: int = 0
    #: how many were killed
    killed: int = 0
    #: whether the session that asks is killed: it has to end after its reply
    itself: bool = False

    def see(self, session: Session) -> None:
        """Lists or kills a session of the tenant, if it is wanted."""
        number = session.connection.id
        if not self.wanted.names(session, self.asks):
            return
        if not self.kills:
            self.add([describe(session, b"client|list") if number == self.asks else describe(session)])
            return
        self.killed += 1
        if number == self.asks:
            self.itself = True
        else:
            session.ending.killed()

    def add(self, lines: list[bytes], killed: int = 0) -> None:
        """Adds lines, or what another process did."""
        self.killed += killed
        for line in lines:
            if self.size <= bounds.CLIENT_LIST_BYTES:
                self.size += len(line)
                self.lines.append(line)

    def request(self) -> dict[str, Any]:
        """Returns what another process needs to do the same, in a form that JSON can hold."""
        return {"wanted": self.wanted.dump(), "kills": self.kills, "asks": self.asks}

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Self:
        """The reverse of `request`."""
        return cls(ClientFilter.load(request["wanted"]), request["kills"], request["asks"])

    def result(self) -> dict[str, Any]:
        """Returns what was done, in a form that JSON can hold: see `add_result`."""
        return {"lines": [line.decode("latin-1") for line in self.lines], "killed": self.killed}

    def add_result(self, result: Mapping[str, Any]) -> None:
        """Adds the result of another process."""
        self.add([line.encode("latin-1") for line in result["lines"]], result["killed"])

    @property
    def text(self) -> bytes | None:
        """The lines, in the order of their ids. None: they are more than CLIENT_LIST_BYTES."""
        if self.size > bounds.CLIENT_LIST_BYTES:
            return None
        self.lines.sort(key=_number)
        return b"".join(self.lines)


def _number(line: bytes) -> int:
    return int(line[len("id=") : line.index(b" ")])
