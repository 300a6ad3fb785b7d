"""What a conversation needs of the rest: the client's connection, and a lane.

Owns two interfaces. The Twisted side implements them (`net.client`, `net.lane`), and so does the tests' own.
"""

from __future__ import annotations

from typing import Protocol

from . import policy
from .lane import Owed
from .tenants import Credential


class Lane(Protocol):
    """A connection to Redis, authenticated and SELECTed for one tenant."""

    def send(self, data: bytes) -> None:
        """Writes whole commands, or pieces of one."""

    def expect(self, owed: Owed) -> None:
        """What the bytes sent next will be answered with."""

    def forgo(self, owed: Owed) -> None:
        """The newest of what it is expected to answer will not be answered."""

    def latest(self) -> Owed | None:
        """The newest of what it is expected to answer."""

    def release(self, clean: bool) -> None:
        """Gives it back. clean: no state of this session is left on it."""


class Link(Protocol):
    """What carries a session: the client's connection, and the way to the rest of the proxy."""

    id: int
    #: the client's address, for CLIENT INFO
    peer: str
    #: seconds since it came
    age: int

    def policy(self) -> policy.Policy:
        """What tenants may do on the server as it is now."""

    def ask(self, words: list[bytes]) -> None:
        """Asks Redis over the control connection: `Session.told` is called with its answer, at once or later."""

    def permit(self, patterns: list[bytes]) -> None:
        """Has the tenant's ACL user allowed these patterns, which Redis takes literally: `Session.permitted` is called."""

    def write(self, data: bytes) -> None:
        """To the client."""

    def close(self, mood: str) -> None:
        """Closes the client's connection when what was written has left. mood: how it ended, for the log."""

    def peers_of_tenant(self) -> int:
        """How many clients of the same tenant are connected."""

    def patterns_of_tenant(self) -> int:
        """How many patterns they are subscribed to."""

    def hold(self) -> None:
        """Read no more from the client."""

    def unhold(self) -> None:
        """Read on."""

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError."""

    def forbidden(self, name: str) -> None:
        """A command was refused that the tenant may not use: for the log. name: fit for it."""

    def punish(self, error: bytes) -> None:
        """A log-in was wrong: `Session.punished` is called with its error, the later the more there were."""

    def logged_out(self) -> None:
        """The client is not logged in any more: it has as much time for that as at the beginning."""

    def lease(self, credential: Credential) -> None:
        """Asks for a lane: `Session.lane_opened` or `lane_refused` is called, at once or later."""
