"""The interface of what serves clients: this process (`single.Serving`) or workers
(`supervisor.Workers`).

Owns the interface alone, so that no caller has to know which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from ..listen.endpoints import Listening
from ..listen.tls import Material
from ..messages import Text
from ..ops.stats import Counts, RedisState, WorkersState
from ..tenants.documents import ReadSummary
from ..tenants.model import Snapshot


class ServingPort(Protocol):
    """A Twisted service that serves clients."""

    #: called with each snapshot once it is in force for all clients
    on_snapshot: list[Callable[[Snapshot], object]]

    def setServiceParent(self, parent: object) -> None:
        """See IService."""

    def bind(self, listening: Listening) -> None:
        """Binds the ports, as the user that twistd was started as. This process or its workers
        accept the clients once there is a snapshot. Raises ListenError.
        """

    def show_certificates(self, material: Callable[[], list[Material]]) -> None:
        """Called when the material of `ssl:` endpoints is set or changed. material: returns it, in
        the order of the endpoints.
        """

    def use_snapshot(self, snapshot: Snapshot) -> None:
        """Puts a snapshot in force. At the first one the ports listen already."""

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """Called after the source was read and `use_snapshot` has had the result.

        summary: what the read established; began: when it began, in the reactor's seconds.
        """

    def collect_stats(self) -> None:
        """Starts to collect numbers. Called once, if there is a status endpoint."""

    def stats(self) -> Counts:
        """Returns what was counted."""

    def redis(self) -> RedisState:
        """Returns the state of Redis."""

    def workers(self) -> WorkersState | None:
        """Returns the state of the workers; None if there are none."""

    def not_ready(self) -> Text | None:
        """Why no client should come; None: there is no reason."""

    def drain(self) -> Deferred[None]:
        """Asks clients to leave after what they have begun. Fires when the last one is gone."""

    def kill(self) -> None:
        """Ends all workers at once, because this process ends now."""
