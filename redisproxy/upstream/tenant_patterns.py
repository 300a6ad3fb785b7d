"""The patterns of all tenants at one Redis: what counts, marks and removes them, wired."""

from __future__ import annotations

from twisted.application import service
from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime

from ..tenants.model import BackendAddress, Snapshot
from .acl_users import AclUsers
from .client import Commands
from .markers import Markers
from .pattern_cleaner import PatternCleaner
from .patterns import Patterns
from .queries import Connect, ControlQueries


class TenantPatterns(service.MultiService):
    """connect: makes the client of the markers; control: the control connection; queries: lists
    markers.
    """

    name = "patterns"

    def __init__(
        self, reactor: IReactorTime, connect: Connect, control: Commands, queries: ControlQueries, acl_users: AclUsers
    ) -> None:
        super().__init__()
        self._markers = Markers(reactor, connect, acl_users.forget_all_patterns)
        #: removes unused patterns
        self.cleaner = PatternCleaner(reactor, control, queries, self._markers)
        self.cleaner.setServiceParent(self)
        #: counts the patterns that sessions use, and grants them
        self.uses = Patterns(reactor, control, queries, self._markers, acl_users, self.cleaner)

    def stopService(self) -> defer.Deferred[list[tuple[bool, object]]]:
        """Closes the connection of the markers."""
        self._markers.stop()
        self.uses.stop()
        stopped: defer.Deferred[list[tuple[bool, object]]] = super().stopService()
        return stopped

    def use_snapshot(self, snapshot: Snapshot) -> None:
        """Takes the tenants and their limits."""
        self.uses.use_limits(snapshot.limits)
        self.cleaner.keep_only(snapshot.tenants)

    def use(self, address: BackendAddress | None) -> None:
        """Redis is at this address from now on."""
        self._markers.use(address)
        self.cleaner.forget_all()

    def renew(self) -> None:
        """The address leads to another server than before."""
        self._markers.renew()
        self.cleaner.forget_all()
