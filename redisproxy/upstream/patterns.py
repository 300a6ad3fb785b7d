"""The patterns that the sessions of this process use, by tenant: how many a tenant may have, and
since when none uses one any more.

Redis compares each published channel with each pattern that anybody is subscribed to. So a tenant
has a limit, for all processes and replicas of the proxy together. Owns the uses in this process,
and the order of the steps: first the marker (`markers`), then the count of all markers, then the
grant (`acl_users`). A session has a use of a pattern from `use` until `leave`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from twisted.internet import defer, task
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .. import bounds, messages, probes
from ..tenants.limits import Limits
from ..tenants.model import Tenant
from . import markers
from .acl_users import AclUsers
from .client import Commands, ControlError
from .pattern_cleaner import PatternCleaner
from .queries import PAUSE_FACTOR, ControlQueries

#: Seconds until a process asks again whether a clean-up is over, and how often it asks.
_CLEANED_SECONDS = 0.05
_CLEANED_TRIES = 100
#: Seconds. A shorter pause after a grant is not worth a timer.
_LEAST_PAUSE = 0.001


@dataclass(slots=True)
class _Used:
    """The patterns that sessions of one tenant use in this process.

    uses: how many sessions and calls of `use` have each; counted: those that have a marker, and
    were found within the limit; turn: one call after the other counts and grants.
    """

    uses: Counter[bytes] = field(default_factory=Counter)
    counted: set[bytes] = field(default_factory=set)
    turn: defer.DeferredLock = field(default_factory=defer.DeferredLock)


def _refused(error: messages.Text) -> ControlError:
    """What a client is answered that has too many patterns."""
    return ControlError(error, error, passing=False)


class Patterns:
    """Counts and grants patterns."""

    def __init__(
        self,
        clock: IReactorTime,
        control: Commands,
        queries: ControlQueries,
        own: markers.Markers,
        acl_users: AclUsers,
        cleaner: PatternCleaner,
    ) -> None:
        self._clock = clock
        self._control = control
        self._queries = queries
        self._markers = own
        self._acl_users = acl_users
        self._cleaner = cleaner
        self._used: dict[Tenant, _Used] = {}
        # The timer of each tenant whose next turn waits after a slow grant.
        self._pauses: dict[Tenant, IDelayedCall] = {}
        self._stopped = False
        self._limits: Mapping[str, Limits] = {}

    def use_limits(self, limits: Mapping[str, Limits]) -> None:
        """Takes the limits of tenants, by namespace. Patterns in use stay, even above a limit."""
        self._limits = limits

    def _limit(self, tenant: Tenant) -> int:
        limits = self._limits.get(tenant.namespace)
        return (0 if limits is None else limits.max_patterns) or bounds.TENANT_PATTERNS

    def used(self, tenant: Tenant) -> frozenset[bytes]:
        """Returns the patterns that sessions of this process use."""
        used = self._used.get(tenant)
        return frozenset(() if used is None else used.uses)

    async def use(self, tenant: Tenant, patterns: Collection[bytes]) -> None:
        """Adds a use of each pattern, and lets the tenant's user PSUBSCRIBE to them.

        patterns: as Redis knows them. Raises ControlError: then no use was added.
        """
        wanted = set(patterns)
        self._acl_users.check(wanted)
        used = self._used.setdefault(tenant, _Used())
        used.uses.update(wanted)
        try:
            if not (wanted <= used.counted and self._acl_users.granted(tenant, wanted)):
                await used.turn.acquire()
                await self._in_turn(tenant, used, wanted)
        except BaseException as error:
            self.leave(tenant, wanted)
            if isinstance(error, ControlError) and error.client_reply == messages.NOT_ALLOWED.text:
                self._markers.log_refused(error)
            raise

    def leave(self, tenant: Tenant, patterns: Iterable[bytes]) -> None:
        """Takes back a use of each pattern. A pattern that nobody uses loses its marker."""
        used = self._used[tenant]
        gone = []
        for pattern in set(patterns):
            used.uses[pattern] -= 1
            if not used.uses[pattern]:
                del used.uses[pattern]
                gone.append(pattern)
        self._drop_unused(tenant, used)
        released = used.counted.intersection(gone)
        if not released:
            return
        self._markers.unmark(markers.of_pattern(tenant, each) for each in released)
        used.counted -= released
        if self._acl_users.forget_patterns(tenant, released):
            self._cleaner.released(tenant, released)

    async def _in_turn(self, tenant: Tenant, used: _Used, wanted: set[bytes]) -> None:
        """Counts and grants patterns. After a grant the tenant's next turn begins later."""
        took = 0.0
        try:
            await self._count(tenant, used, wanted - used.counted)
            began = self._clock.seconds()
            try:
                await self._acl_users.permit(tenant, wanted, self._cleaned)
            finally:
                took = self._clock.seconds() - began
        finally:
            pause = min(took * PAUSE_FACTOR, bounds.QUERY_PAUSE_SECONDS)
            if pause > _LEAST_PAUSE and not self._stopped:
                self._pauses[tenant] = self._clock.callLater(pause, self._end_turn, tenant, used)
            else:
                self._end_turn(tenant, used)

    def _end_turn(self, tenant: Tenant, used: _Used) -> None:
        self._pauses.pop(tenant, None)
        used.turn.release()
        self._drop_unused(tenant, used)

    def _drop_unused(self, tenant: Tenant, used: _Used) -> None:
        if not (used.uses or used.turn.locked):
            self._used.pop(tenant, None)

    def stop(self) -> None:
        """Ends all pauses, and makes no other."""
        self._stopped = True
        for tenant, pause in list(self._pauses.items()):
            pause.cancel()
            self._end_turn(tenant, self._used[tenant])

    async def _count(self, tenant: Tenant, used: _Used, new: set[bytes]) -> None:
        """Sets the markers of new patterns, and counts the markers of all processes."""
        if not new:
            return  # another call has counted them meanwhile
        limit = self._limit(tenant)
        self._check(limit, len(used.counted) + len(new), sum(map(len, new)))
        if self._cleaner.unused(tenant) + len(new) > bounds.UNUSED_PATTERNS:
            raise _refused(messages.PATTERNS_CHANGE(count=bounds.UNUSED_PATTERNS))
        own = {markers.of_pattern(tenant, pattern) for pattern in new}
        await self._markers.mark(own)
        try:
            [answer] = await self._queries.ask(tenant, [markers.listing(tenant)])
            found = markers.listed(tenant, answer)
            self._check(limit, len(found), sum(map(len, found)))
            if not new <= found:
                # The connection was lost meanwhile, or one of both leads to another server.
                raise ControlError(messages.REDIS_CONNECTION_LOST())
        except BaseException:
            self._markers.unmark(own)
            raise
        used.counted |= new
        self._cleaner.taken(tenant, new)

    def _check(self, limit: int, count: int, size: int) -> None:
        """Raises ControlError if a tenant would have too many patterns, or too large ones."""
        if count > limit:
            probes.reached("a tenant would have too many patterns")
            raise _refused(messages.TOO_MANY_PATTERNS(count=limit))
        if size > bounds.TENANT_PATTERN_BYTES:
            raise _refused(messages.PATTERNS_TOO_LARGE(most=bounds.TENANT_PATTERN_BYTES))

    async def _cleaned(self, tenant: Tenant) -> None:
        """Before patterns are granted whose markers are set: waits until no clean-up is under way.

        A clean-up that begins later sees the markers. Raises ControlError if one takes too long.
        """
        marker = markers.of_cleaning(tenant)
        for _ in range(_CLEANED_TRIES):
            answer = await self._control.ask("PUBSUB", "NUMSUB", marker)
            if not isinstance(answer, list) or answer[:1] != [marker] or len(answer) != 2:
                raise ControlError(messages.REDIS_ODD_ANSWER(), passing=False)
            if not answer[1]:
                return
            probes.reached("patterns are to be granted while others are removed")
            await task.deferLater(self._clock, _CLEANED_SECONDS)
        raise ControlError(messages.REDIS_NO_REPLY(seconds=_CLEANED_SECONDS * _CLEANED_TRIES))
