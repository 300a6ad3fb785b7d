"""Visits all sessions of a tenant, for CLIENT LIST and CLIENT KILL.

Owns whose turn it is. A tenant may have thousands of sessions, and ask again and again. So each
turn of the reactor visits a few, one command of a tenant at a time, and after it the tenant's next
one waits nine times as long as it took, its answer included: a tenth of the processor at most. With
several processes, the other ones then do the same for their sessions, as much again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import bounds, probes
from ..ops.bugs import log_bug
from ..session.client_visit import ClientVisit
from ..session.state import Phase, Step
from ..tenants.model import Tenant

if TYPE_CHECKING:
    from .accounts import ClientAccount

#: After a visit the tenant's next one waits so many times as long as it took, at most
#: bounds.VISIT_PAUSE_SECONDS.
PAUSE_FACTOR = 9.0


class _Asking(Protocol):
    """Who waits for a visit: a Step, or another process."""

    @property
    def waits(self) -> bool:
        """Whether it still waits."""

    def finish(self, result: ClientVisit) -> object:
        """All sessions of this process were visited."""

    def fail(self, error: Exception) -> object:
        """A bug ended the visit."""


class _OtherProcess:
    """Another process waits for a visit, for WORKER_ANSWER_SECONDS. Implements `_Asking`."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until = clock.seconds() + bounds.WORKER_ANSWER_SECONDS
        self.done: defer.Deferred[ClientVisit] = defer.Deferred()
        self.finish = self.done.callback
        self.fail = self.done.errback

    @property
    def waits(self) -> bool:
        """See `_Asking`. The sessions there may ask again, so the queue here must not grow."""
        return self._clock.seconds() < self._until


class _Visit:
    """A visit, and who waits for it."""

    def __init__(self, visit: ClientVisit, asking: _Asking) -> None:
        self.visit = visit
        self.asking = asking
        #: those that were not visited yet; None before its turn
        self.rest: Iterator[ClientAccount] | None = None
        #: seconds that it took so far
        self.took = 0.0


class _Queue(NamedTuple):
    """A queue of visits of one tenant's sessions. own: for sessions of this process.

    Those for other processes have another queue, because two processes may wait for each other.
    """

    tenant: Tenant
    own: bool


class OwnSessions:
    """The visits of all tenants. members: the accounts of each tenant's clients, if it has any."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, members: Mapping[Tenant, set[ClientAccount]]) -> None:
        self._clock = clock
        self._members = members
        #: has a visit see the sessions of all other processes; None: there are none
        self.elsewhere: Callable[[Tenant, ClientVisit], defer.Deferred[None]] | None = None
        # The visits of each queue, in the order in which they were asked for. An empty one: the
        # queue's next visit waits.
        self._visits: dict[_Queue, deque[_Visit]] = {}

    def visit(self, tenant: Tenant, visit: ClientVisit, step: Step[ClientVisit]) -> None:
        """See `session.ports.Accounts`."""
        self._add(_Queue(tenant, True), _Visit(visit, step))

    def visit_here(self, tenant: Tenant, visit: ClientVisit) -> defer.Deferred[ClientVisit]:
        """Fires when the visit has seen all of the tenant's sessions in this process; never, if
        nobody waits any more when its turn comes.
        """
        asking = _OtherProcess(self._clock)
        self._add(_Queue(tenant, False), _Visit(visit, asking))
        return asking.done

    def _add(self, queue: _Queue, visit: _Visit) -> None:
        visits = self._visits.get(queue)
        if visits is None:
            visits = self._visits[queue] = deque()
            self._clock.callLater(0, self._go_on, queue)
        visits.append(visit)

    def _go_on(self, queue: _Queue) -> None:
        """Visits some more sessions of the tenant."""
        visits = self._visits[queue]
        while visits and not visits[0].asking.waits:
            visits.popleft()  # the session has ended
        if not visits:
            del self._visits[queue]
            return
        one = visits[0]
        began = self._clock.seconds()
        try:
            over = self._visit_some(queue.tenant, one)
        except Exception as error:
            one.asking.fail(error)
            visits.popleft()
            self._clock.callLater(0, self._go_on, queue)
            return
        one.took += self._clock.seconds() - began
        if not over:
            probes.reached("a tenant's sessions are visited in several turns")
            self._clock.callLater(0, self._go_on, queue)
            return
        visits.popleft()
        if queue.own and self.elsewhere is not None and one.asking.waits:
            # The next one waits for that, too: each keeps lines of up to CLIENT_LIST_BYTES.
            going = self.elsewhere(queue.tenant, one.visit)
            going.addCallbacks(lambda _: self._finish(queue, one), self._bug, errbackArgs=(queue, one))
        else:
            self._finish(queue, one)

    def _finish(self, queue: _Queue, one: _Visit) -> None:
        """Finishes a visit. The queue's next one waits after it."""
        began = self._clock.seconds()
        one.asking.finish(one.visit)  # which takes longer than the visit, if the answer is large
        took = one.took + self._clock.seconds() - began
        self._clock.callLater(min(took * PAUSE_FACTOR, bounds.VISIT_PAUSE_SECONDS), self._go_on, queue)

    def _bug(self, failure: Failure, queue: _Queue, one: _Visit) -> None:
        error = failure.value
        if not isinstance(error, Exception) or not one.asking.fail(error):
            log_bug(self._log, "visiting sessions of other processes", failure)
        self._clock.callLater(0, self._go_on, queue)

    def _visit_some(self, tenant: Tenant, one: _Visit) -> bool:
        """Returns whether it has visited the last one."""
        if one.rest is None:
            one.rest = iter(sorted(self._members.get(tenant, ()), key=lambda account: account.number))
        for _ in range(bounds.VISITED_PER_TURN):
            account = next(one.rest, None)
            if account is None:
                return True
            session = account.session_of(tenant)
            if session is not None and session.ending.phase is not Phase.CLOSED:
                one.visit.see(session)
        return False
