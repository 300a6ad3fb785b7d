"""Which tenants may run scripts and functions now, and the error that the others get.

Owns three reasons why a tenant may not. Its namespace denies scripts (`deny`). It was denied them
before, and Redis has not yet given its ACL user the right back (`granted`). Or one of its scripts
ran for too long a moment ago (`pause`). The session refuses for all three, so Redis's ACL user
needs the right for none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages
from ..tenants.model import Tenant

_DENIED = messages.SCRIPTS_DENIED.reply()


@dataclass(slots=True)
class _Pause:
    """A tenant's scripts are refused for a while.

    kills: how many of its scripts were ended, none of them long before the next; timer: ends the
    pause, or later forgets it; error: the error reply; empty once the pause is over.
    """

    kills: int
    timer: IDelayedCall
    error: bytes


class ScriptRights:
    """Which tenants may run scripts. seconds: how long a script may run."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._denied: frozenset[Tenant] = frozenset()
        # No longer denied, but Redis has not yet given their ACL users the right.
        self._ungranted: set[Tenant] = set()
        self._pauses: dict[Tenant, _Pause] = {}
        #: called with the tenants whose sessions have to look again
        self.changed: Callable[[Collection[Tenant]], object] = lambda _: None

    def error(self, tenant: Tenant) -> bytes:
        """See `session.ports.Backend.script_error`."""
        if tenant in self._denied or tenant in self._ungranted:
            return _DENIED
        pause = self._pauses.get(tenant)
        return b"" if pause is None else pause.error

    @property
    def denied(self) -> frozenset[Tenant]:
        """The tenants whose namespaces deny scripts, so that their ACL users have no right to
        them.
        """
        return self._denied

    def deny(self, denied: frozenset[Tenant], tenants: Collection[Tenant], known: Collection[Tenant]) -> set[Tenant]:
        """Denies scripts to these tenants, and to no others, from now on.

        tenants: all of them; known: those that Redis has an ACL user for. Returns the tenants whose
        ACL users have to change. `granted` has to be called for each of them after that.
        """
        before, self._denied = self._denied, denied
        changed = before ^ denied
        # The user of a tenant that is new to Redis is created with the right rights.
        self._ungranted = {
            tenant for tenant in (self._ungranted | (before - denied)) - denied if tenant in tenants and tenant in known
        }
        if changed:
            self.changed(changed)
        return {tenant for tenant in changed | self._ungranted if tenant in tenants and tenant in known}

    def granted(self, tenant: Tenant) -> None:
        """Redis has given the tenant's ACL user the rights that follow from `deny`."""
        if tenant in self._ungranted:
            self._ungranted.discard(tenant)
            self.changed([tenant])

    def pause(self, tenant: Tenant) -> float:
        """Refuses the tenant's scripts for a while: one was ended because it ran for too long.

        Returns for how many seconds: SCRIPT_PAUSE_FACTOR times as long as the script may run, twice
        as long after each further one, at most SCRIPT_PAUSE_SECONDS.
        """
        former = self._pauses.pop(tenant, None)
        if former is not None and former.timer.active():
            former.timer.cancel()
        kills = 1 if former is None else former.kills + 1
        doubled: int = 2 ** min(kills - 1, 30)
        seconds = min(bounds.SCRIPT_PAUSE_FACTOR * self._seconds * doubled, bounds.SCRIPT_PAUSE_SECONDS)
        error = messages.SCRIPTS_PAUSED.reply(seconds=self._seconds)
        self._pauses[tenant] = _Pause(kills, self._clock.callLater(seconds, self._over, tenant), error)
        self.changed([tenant])
        return seconds

    def _over(self, tenant: Tenant) -> None:
        pause = self._pauses[tenant]
        pause.error = b""
        pause.timer = self._clock.callLater(bounds.SCRIPT_PAUSE_SECONDS, self._pauses.pop, tenant)
        self.changed([tenant])

    def stop(self) -> None:
        """Ends all timers."""
        for pause in self._pauses.values():
            pause.timer.cancel()
        self._pauses.clear()
