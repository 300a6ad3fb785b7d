"""What the proxy needs of whatever serves its clients: this process (`single.Serving`), or others
(`supervisor.Workers`).

Owns the interface alone, so that nobody has to ask which of the two there is.
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

    #: called with each snapshot that all clients are served by
    on_snapshot: list[Callable[[Snapshot], object]]

    def setServiceParent(self, parent: object) -> None:
        """See IService."""

    def listen(self, listening: Listening) -> None:
        """Opens the ports, as whom twistd was started. Clients are accepted here or elsewhere.
        Raises ListenError.
        """

    def show_certificates(self, material: Callable[[], list[Material]]) -> None:
        """What `ssl:` endpoints show is another. material: gives it, in the order of the
        endpoints.
        """

    def use_snapshot(self, snapshot: Snapshot) -> None:
        """It is in force from now on."""

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """The source was read, and `use_snapshot` has had what follows. began: when, in the
        reactor's seconds.
        """

    def collect_stats(self) -> None:
        """Somebody wants to know the numbers, from now on."""

    def stats(self) -> Counts:
        """What was counted."""

    def redis(self) -> RedisState:
        """What is known of Redis."""

    def workers(self) -> WorkersState | None:
        """What is known of the other processes; None: there are none."""

    def not_ready(self) -> Text | None:
        """Why no client should come; None: there is no reason."""

    def drain(self) -> Deferred[None]:
        """Has clients leave, after what they have begun. Fires when the last one is gone."""

    def kill(self) -> None:
        """Leaves nothing behind: this process ends now."""
