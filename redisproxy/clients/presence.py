"""One connection among all: with a slot, waiting for one, or not logged in.

Implements `admission.Arrival` for one connection. `admission` decides; this says what is lost, and
passes on what was decided.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Protocol

from .. import messages
from ..session.session import Session
from ..session.state import Step
from ..tenants.login_backoff import source
from ..tenants.model import Credential, Tenant
from ..tenants.shares import Shares
from .admission import Admission, Arrival

#: The source of an IPv6 address. To find it is one of the dearer parts of a connection.
_source = lru_cache(4096)(source)


class Client(Protocol):
    """The connection that this belongs to."""

    session: Session

    @property
    def address(self) -> str:
        """The client's IP address; "" for a Unix socket."""

    def make_room(self) -> None:
        """Closes the client at once, because it has not logged in."""

    def give_way(self, close_reason: str) -> None:
        """See `session.ports.ClientConnection`."""

    def cut_short(self) -> None:
        """Aborts the client, which is being closed."""


class Presence:
    """One client's connection, as `admission` sees it."""

    __slots__ = ("_admission", "_client", "_step", "group", "owner", "turned_away")

    def __init__(self, client: Client, admission: Admission) -> None:
        self._client = client
        self._admission = admission
        #: see `admission.Arrival`
        self.group: Shares[Any, Arrival] | None = None
        self.owner: Hashable = None
        # What the session waits for, while it waits for a slot.
        self._step: Step[bool] | None = None
        #: the credential of a log-in that was refused because there is no slot
        self.turned_away: Credential | None = None

    def moved(self) -> None:
        """The client's address is known better now."""
        self._admission.moved(self)

    def log_in(self, tenant: Tenant, step: Step[bool]) -> None:
        """Finishes the Step, now or later, with whether the session has a slot."""
        self._step = step
        step.cancel = self._withdraw
        self._admission.log_in(self, tenant)

    def belongs_to(self, tenant: Tenant) -> None:
        """The session is logged in as this tenant now."""
        self._admission.belongs_to(self, tenant)

    def lost(self) -> None:
        """The connection is gone."""
        self._admission.leave(self)
        del self._client

    @property
    def waits(self) -> bool:
        """Whether the session waits for a slot."""
        return self._step is not None

    def _withdraw(self) -> None:
        self._step = None
        self._admission.withdraw(self)

    def _finish(self, admitted: bool) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.finish(admitted)

    # See `admission.Arrival`.

    @property
    def source(self) -> str:
        """See `admission.Arrival`."""
        address = self._client.address
        return _source(address) if ":" in address else address

    @property
    def rank(self) -> int:
        """See `admission.Arrival`, and `session.ports.DedicatedUser`."""
        return self._client.session.rank

    def admitted(self) -> None:
        """See `admission.Arrival`."""
        self._finish(True)

    def refused(self) -> None:
        """See `admission.Arrival`."""
        login = self._client.session.pending_login
        if login is not None:
            self.turned_away = login.credential
        self._finish(False)

    def make_room(self) -> None:
        """See `admission.Arrival`."""
        self._client.make_room()

    def give_way(self) -> None:
        """See `admission.Arrival`."""
        self._client.give_way(messages.OVER_SHARE.code)

    def cut(self) -> None:
        """See `admission.Arrival`."""
        self._client.cut_short()
