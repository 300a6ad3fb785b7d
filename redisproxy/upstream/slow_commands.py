"""Which commands of a tenant go through its window because Redis's log shows that they are slow.

Owns the evidence: how many entries of which kind confirm that a command is slow, and for how long
that holds. `policy.costs` names the commands that go through the window from the start. All others
are judged here, by name, for each tenant alone, from what `slow_log` has read.

An entry may be slow for reasons outside the command: the process was stopped, the machine was busy
or swapped, a fork made a page expensive. So one entry proves nothing, and most commands count only
if they took longer than a busy machine explains: see `costs.slow_from`. What is confirmed is not
refused, and is quick again when Redis's own time says so: see `tenants.window`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages, probes
from ..ops.logs import Log
from ..policy import costs
from ..policy.policy import shown
from ..resp.framing import FORWARD, WINDOWED
from ..tenants.model import Tenant
from ..tenants.slow_log import Entry
from ..tenants.window import Window


class _Tenant:
    """What is known of one tenant's slow commands, by name in upper case."""

    __slots__ = ("confirmed", "entries", "made", "usual")

    def __init__(self) -> None:
        #: when the latest entries that count ended, in seconds since the epoch
        self.entries: dict[bytes, deque[int]] = {}
        #: when each command counts as quick again
        self.confirmed: dict[bytes, IDelayedCall] = {}
        # The latest policy's table, and the one that was made of it.
        self.usual: dict[bytes, int] = {}
        self.made: dict[bytes, int] = {}


class SlowCommands:
    """The slow commands of all tenants, in one process.

    window: returns a tenant's window.
    """

    _log = Log()

    def __init__(self, clock: IReactorTime, window: Callable[[Tenant], Window]) -> None:
        self._clock = clock
        self._window = window
        self._tenants: dict[Tenant, _Tenant] = {}
        #: called with the tenants whose sessions have to look again
        self.changed: Callable[[Collection[Tenant]], object] = lambda _: None

    def table(self, tenant: Tenant, usual: dict[bytes, int]) -> dict[bytes, int]:
        """See `session.ports.Backend.table`."""
        found = self._tenants.get(tenant)
        if found is None or not found.confirmed:
            return usual
        if found.usual is not usual:
            # Sessions with an earlier policy are few, and soon have the newest one.
            names = [name for name in found.confirmed if usual.get(name) == FORWARD]
            spellings = (spelling for name in names for spelling in (name, name.lower()))
            found.usual, found.made = usual, usual | dict.fromkeys(spellings, WINDOWED)
        return found.made

    def add(self, entry: Entry, usual: dict[bytes, int]) -> bool:
        """Redis has logged a command. usual: the policy's table.

        Returns whether this entry confirms that the command is slow, so that it goes through the
        window from now on.
        """
        name = entry.words[0].upper()
        seconds = entry.microseconds / 1_000_000
        least = costs.slow_from(name, entry.words, entry.large)
        if usual.get(name) != FORWARD or least is None or seconds < least:
            return False
        found = self._tenants.setdefault(entry.tenant, _Tenant())
        timer = found.confirmed.get(name)
        if timer is not None:
            timer.reset(bounds.CONFIRMED_SECONDS)
            return False
        entries = found.entries.setdefault(name, deque(maxlen=bounds.CONFIRM_ENTRIES))
        entries.append(entry.at)
        if len(entries) < bounds.CONFIRM_ENTRIES or abs(entries[-1] - entries[0]) > bounds.CONFIRM_SECONDS:
            return False
        probes.reached("slow command is confirmed by Redis's log")
        del found.entries[name]
        found.confirmed[name] = self._clock.callLater(bounds.CONFIRMED_SECONDS, self._over, entry.tenant, name)
        found.usual = {}
        self._log.write(
            messages.COMMAND_SLOW, command=shown(name), namespace=entry.tenant.namespace, milliseconds=seconds * 1000
        )
        self._window(entry.tenant).narrow()
        self.changed([entry.tenant])
        return True

    def _over(self, tenant: Tenant, name: bytes) -> None:
        """The log had no entry of a command for long."""
        probes.reached("slow command counts as quick again")
        found = self._tenants[tenant]
        del found.confirmed[name]
        found.usual = {}
        self.changed([tenant])

    def keep_only(self, tenants: Collection[Tenant]) -> None:
        """Forgets all other tenants."""
        for tenant in self._tenants.keys() - tenants:
            for timer in self._tenants.pop(tenant).confirmed.values():
                timer.cancel()

    def stop(self) -> None:
        """Ends all timers."""
        self.keep_only(())
