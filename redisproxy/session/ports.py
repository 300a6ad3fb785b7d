"""What a conversation needs of the rest: the client's connection, and upstream connections.

Owns three interfaces. The Twisted side implements them (`clients.connection`, `upstream.connection`), and so do the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..policy import policy
from ..tenants.model import Credential
from .pending import ReplyBatch


class Upstream(Protocol):
    """A connection to Redis, authenticated and SELECTed for one tenant: shared, or lent to one session."""

    #: whether a shared one takes no more for now
    busy: bool
    #: which it speaks
    protocol: int

    def send(self, data: bytes, *batches: ReplyBatch) -> None:
        """Takes commands and what they will be answered with; without reply batches, what answers them was expected before.

        A multiplexed connection takes whole commands only.
        """

    def latest(self) -> ReplyBatch | None:
        """The newest of what it is expected to answer."""

    # Of an upstream connection that is lent to one session.

    def withdraw(self, batch: ReplyBatch) -> None:
        """The newest of what it is expected to answer will not be answered."""

    def pause(self, paused: bool) -> None:
        """Whether no replies are to be taken from Redis for now: the client does not read them."""

    def give_up(self, blocked: bool) -> None:
        """Sends nothing more of what it took. blocked: and has Redis give up what it has not run.

        See `upstream.connection`.
        """

    def release(self, clean: bool) -> None:
        """Gives it back. clean: no state of this session is left on it."""

    # Of a multiplexed connection.

    def slow_reader(self, session: object, size: int) -> None:
        """So many bytes more wait for a client that does not read."""

    def read_everything(self, session: object) -> None:
        """It has read all, or is gone."""


class Home(Protocol):
    """The multiplexed connections of one tenant that speak one protocol."""

    protocol: int
    #: what a session that has nothing pending sends to; None: there is none right now
    upstream: Upstream | None
    #: without an upstream connection: the error reply (without ``-``) that commands fail with; empty: wait, one is being
    #: opened
    away: str

    def wait(self, session: object) -> None:
        """`Session.upstream_ready` is called when that changes, or the upstream connection is not busy any more."""

    def leave(self) -> None:
        """One session less uses them."""


class Link(Protocol):
    """What carries a session: the client's connection, and the way to the rest of the proxy."""

    id: int
    #: the client's address, for CLIENT INFO
    peer: str
    #: seconds since it came
    age: int
    #: bytes that came from it
    taken: int
    #: whether sessions share upstream connections
    shares: bool

    def policy(self) -> policy.Policy:
        """What tenants may do on the server as it is now."""

    def ask(self, commands: list[list[bytes]]) -> None:
        """Asks Redis with the master's rights: `Session.told` is called with the list of its answers, at once or later."""

    def permit(self, patterns: list[bytes]) -> None:
        """Has the tenant's ACL user allowed these patterns, which Redis takes literally: `Session.told` is called."""

    def write(self, data: bytes) -> None:
        """To the client."""

    def close(self, close_reason: str) -> None:
        """Closes the client's connection when what was written has left. close_reason: how it ended, for the log."""

    def abort(self, close_reason: str) -> None:
        """Closes it at once, whatever is on its way."""

    def stats(self) -> Mapping[str, int]:
        """What INFO tells of the tenant's clients: each of `info.CLIENT_STATS`."""

    def pause_reading(self) -> None:
        """Read no more from the client."""

    def resume_reading(self) -> None:
        """Read on."""

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        """Whose password it is. Raises AuthenticationError, TenantFullError where its tenant has too many connections."""

    def inspected(self, name: bytes) -> None:
        """One of the session's commands was not passed on unseen: it can be counted by its name."""

    def forbidden(self, name: str) -> None:
        """A command was refused that the tenant may not use: for the log. name: fit for it."""

    def delay_login_error(self, error: bytes) -> None:
        """A log-in was wrong: `Session.login_error_due` is called with its error, the later the more there were."""

    def logged_out(self) -> None:
        """The client is not logged in any more: it has as much time for that as at the beginning."""

    def acquire(self, credential: Credential, protocol: int) -> None:
        """Asks for a dedicated connection: `Session.upstream_opened` or `upstream_refused` is called, at once or later."""

    def share(self, credential: Credential, protocol: int) -> None:
        """Asks for multiplexed connections, of which one is open: `Session.multiplexed_ready` or `upstream_refused`, at once
        or
        later.
        """
