"""Removes patterns from the tenants' ACL users that nobody uses any more.

Owns when Redis is asked, and the decision. A pattern goes when it had no marker (see `markers`) at
two looks at least UNUSED_SECONDS apart: a process whose connection is lost sets its markers again
within that time. Each process looks after tenants whose sessions have left patterns there. What a
process that died has left is found by `acl_maintenance`.

Another process may grant a pattern while this one writes the list of those that stay. So this one
first sets a marker of its own, then lists the markers, writes what it found there and what stays,
and removes its marker. The other process sets the pattern's marker, then waits until there is no
marker of a clean-up, then has the pattern granted (`patterns`). So either this one sees that the
pattern is used, or the other one waits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from twisted.internet import task
from twisted.internet.interfaces import IReactorTime

from .. import bounds, messages, probes
from ..policy import acl
from ..resp.value import Answer
from ..tenants.model import Tenant
from . import markers
from .chore import Chore
from .client import Commands, ControlError
from .queries import ControlQueries

#: The shortest pause between two looks, in seconds; else it is so many times as long as the look
#: took, at most LONGEST_PAUSE.
PAUSE, PAUSES, LONGEST_PAUSE = 0.05, 20, 5.0


@dataclass(slots=True)
class _Suspect:
    """A tenant whose ACL user may have patterns that nobody uses.

    due: when to look next, in the clock's seconds; unmarked: since when each pattern was seen
    without a marker; released: patterns that sessions of this process have left, and that may still
    be there.
    """

    due: float
    unmarked: dict[bytes, float] = field(default_factory=dict)
    released: set[bytes] = field(default_factory=set)


class PatternCleaner(Chore):
    """Removes unused patterns of all tenants, one tenant after the other.

    control: the control connection; queries: lists markers; own: this process's markers.
    """

    name = "patterns"
    doing = "removing patterns"

    def __init__(self, clock: IReactorTime, control: Commands, queries: ControlQueries, own: markers.Markers) -> None:
        super().__init__(clock)
        self._control = control
        self._queries = queries
        self._markers = own
        self._suspects: dict[Tenant, _Suspect] = {}
        self._tenants: Collection[Tenant] = ()
        # A replica of an earlier version, which sets no markers, may still serve for a while.
        self._not_before = clock.seconds() + bounds.FIRST_CLEANING_SECONDS

    def unused(self, tenant: Tenant) -> int:
        """How many patterns that sessions of this process have left may still be granted."""
        suspect = self._suspects.get(tenant)
        return 0 if suspect is None else len(suspect.released)

    def released(self, tenant: Tenant, patterns: Collection[bytes]) -> None:
        """No session of this process uses these patterns any more, which Redis has granted."""
        self._suspect(tenant).released.update(patterns)

    def taken(self, tenant: Tenant, patterns: Collection[bytes]) -> None:
        """Sessions of this process use these patterns again."""
        suspect = self._suspects.get(tenant)
        if suspect is not None:
            suspect.released.difference_update(patterns)

    def seen(self, tenant: Tenant, user: Answer) -> None:
        """Takes what Redis says about a tenant's user: the answer to ACL GETUSER.

        A process that died may have left patterns there.
        """
        if tenant not in self._tenants or tenant in self._suspects:
            return
        try:
            patterns, _ = _granted(tenant, user)
        except ControlError:
            return  # the caller needs other parts of the answer
        if patterns:
            self._suspect(tenant)

    def _suspect(self, tenant: Tenant) -> _Suspect:
        suspect = self._suspects.get(tenant)
        if suspect is None:
            due = max(self._not_before, self._clock.seconds() + bounds.UNUSED_PATTERN_SECONDS)
            suspect = self._suspects[tenant] = _Suspect(due)
            self._wake()
        return suspect

    def keep_only(self, tenants: Collection[Tenant]) -> None:
        """Looks at the users of these tenants alone: all others are removed."""
        self._tenants = tenants
        for tenant in self._suspects.keys() - tenants:
            del self._suspects[tenant]

    def forget_all(self) -> None:
        """Redis is another one, or was restarted: its users have no patterns."""
        self._suspects.clear()

    # When Redis is asked.

    async def _run(self) -> None:
        while True:
            tenant = min(self._suspects, key=lambda each: self._suspects[each].due, default=None)
            now = self._clock.seconds()
            if tenant is None or self._suspects[tenant].due > now:
                await self._rest(None if tenant is None else self._suspects[tenant].due - now)
                continue
            suspect = self._suspects[tenant]
            suspect.due = now + bounds.UNUSED_PATTERN_SECONDS
            try:
                await self._look(tenant, suspect)
            except ControlError:
                probes.reached("unused patterns cannot be looked for now")
            took = self._clock.seconds() - now
            await task.deferLater(self._clock, min(max(PAUSE, took * PAUSES), LONGEST_PAUSE))

    async def _look(self, tenant: Tenant, suspect: _Suspect) -> None:
        """Looks for unused patterns, and removes those that were unused at the former look, too.

        Raises ControlError.
        """
        cleaning = [markers.of_cleaning(tenant)]
        removes = bool(suspect.unmarked)
        if removes:
            await self._markers.mark(cleaning)
        try:
            await self._look_and_remove(tenant, suspect, removes)
        finally:
            if removes:
                self._markers.unmark(cleaning)

    async def _look_and_remove(self, tenant: Tenant, suspect: _Suspect, removes: bool) -> None:
        generation, released = self._markers.generation, set(suspect.released)
        user = await self._control.ask("ACL", "GETUSER", acl.username(tenant))
        patterns, passwords = _granted(tenant, user)
        [answer] = await self._queries.ask(tenant, [markers.listing(tenant)])
        used = markers.listed(tenant, answer)
        now = self._clock.seconds()
        unused = patterns - used
        gone = {each for each in unused if now - suspect.unmarked.get(each, now) >= bounds.UNUSED_PATTERN_SECONDS}
        if gone and removes and len(passwords) == 1:
            # With more than one, a rotation of the master password is under way: later, because
            # these rules would change the order of the passwords.
            if generation != self._markers.generation:
                raise ControlError(messages.REDIS_CONNECTION_LOST())
            # Includes those that are just being granted.
            rules = acl.only_patterns(tenant, sorted((patterns | used) - gone), passwords[0])
            await self._control.ask("ACL", "SETUSER", acl.username(tenant), *rules)
            probes.reached("patterns that nobody uses are removed")
            unused -= gone
        # What is neither unused nor there any more; meanwhile sessions may have left others.
        suspect.released -= released - unused
        suspect.unmarked = {each: suspect.unmarked.get(each, now) for each in unused}
        if not unused and not suspect.released and self._suspects.get(tenant) is suspect:
            del self._suspects[tenant]


def _granted(tenant: Tenant, user: Answer) -> tuple[set[bytes], list[bytes]]:
    """See `acl.granted`. Raises ControlError for an answer of another form."""
    try:
        return acl.granted(tenant, user)
    except ValueError:
        raise ControlError(messages.REDIS_ODD_ANSWER(), passing=False) from None
