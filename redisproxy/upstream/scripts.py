"""The scripts of all tenants at one Redis: who may run them, and which one is ended.

Owns the wiring of `script_rights` and `script_watch`, and the updates of ACL users whose rights to
scripts change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..ops.bugs import bug
from ..tenants.account import Counts
from ..tenants.model import Snapshot, Tenant
from .acl_users import AclUserError, AclUsers
from .control import ControlService
from .health import Health
from .pool import ConnectionPool
from .script_rights import ScriptRights
from .script_watch import ScriptWatch

#: Seconds until the proxy asks again to update a user's rights, after an attempt that failed.
_AGAIN = 1.0


class TenantScripts(service.MultiService):
    """The scripts of all tenants.

    seconds: how long one may run; counts: of the tenants; master_password: returns the password
    from which those of the ACL users follow; None: it is not known where Redis is.
    """

    name = "tenant scripts"
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        seconds: float,
        control: ControlService,
        pool: ConnectionPool,
        acl_users: AclUsers,
        counts: Counts,
        master_password: Callable[[], bytes | None],
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._pool = pool
        self._acl_users = acl_users
        self._counts = counts
        self._master_password = master_password
        #: which tenants may run scripts
        self.rights = ScriptRights(reactor, seconds)
        #: ends scripts that run for too long
        self.watch = ScriptWatch(reactor, control, seconds, pool.await_scripts, self._ended)
        self.watch.setServiceParent(self)
        pool.script_left = self.watch.script_left
        self._control = control
        #: called with a tenant whose script was ended: other processes refuse its scripts, too
        self.ended: Callable[[Tenant], object] = lambda _: None
        # All tenants of the latest snapshot.
        self._tenants: Collection[Tenant] = ()
        # Updates of the users of tenants that may run scripts now, or may not any more.
        self._regranting: dict[Tenant, defer.Deferred[None]] = {}

    def notice(self, health: Health) -> None:
        """Learns from `health` when Redis is busy, and tells it what keeps Redis so."""
        health.busy, health.answered = self.watch.busy, self.watch.answers
        health.script_fault = lambda: self.watch.fault
        # If the connection was closed because a PING had no answer, the script runs since then.
        self._control.busy = lambda error: self.watch.busy(error, self._reactor.seconds() - health.unanswered)

    def stopService(self) -> defer.Deferred[list[tuple[bool, object]]]:
        """Fires at once."""
        for regranting in list(self._regranting.values()):
            regranting.cancel()
        self.rights.stop()
        stopped: defer.Deferred[list[tuple[bool, object]]] = super().stopService()
        return stopped

    def use(self, snapshot: Snapshot) -> None:
        """Denies scripts to the tenants of a snapshot whose limits say so, and to no others.

        A session loses the right at once. It gets the right back when its ACL user has it.
        """
        self._tenants = snapshot.tenants
        limits = snapshot.limits
        denied = frozenset(
            tenant for tenant in snapshot.tenants if (found := limits.get(tenant.namespace)) and found.deny_scripts
        )
        known = self._acl_users.users | self._pool.users if denied != self.rights.denied else ()
        changed = self.rights.deny(denied, snapshot.tenants, known)
        self._acl_users.deny_scripts(denied, changed)
        for tenant in changed:
            if tenant not in self._regranting:
                self._regranting[tenant] = regranting = defer.Deferred.fromCoroutine(self._regrant(tenant))
                regranting.addErrback(bug(self._log, "updating the rights of an ACL user", defer.CancelledError))
                regranting.addBoth(self._regranted, tenant)

    async def _regrant(self, tenant: Tenant) -> None:
        """Has Redis update a user's rights to scripts."""
        while tenant in self._tenants:
            password = self._master_password()
            try:
                if password is not None:
                    await self._acl_users.login(tenant, password)
                    break
            except AclUserError:  # for example, Redis is busy with a script
                pass
            await task.deferLater(self._reactor, _AGAIN)

    def _regranted(self, _: object, tenant: Tenant) -> None:
        self._regranting.pop(tenant, None)
        self.rights.granted(tenant)

    def _ended(self, tenant: Tenant) -> float:
        """A script of the tenant was ended. Returns for how many seconds its scripts are refused
        now.
        """
        self._counts.of(tenant.namespace).scripts_ended += 1
        self.ended(tenant)
        return self.rights.pause(tenant)
