"""One client's account: which tenant it is logged in as, and what is counted and logged for it.

Implements `session.ports.Accounts` for one connection. `snapshot` finds the credential of a
password; `net.rate_limit` enforces how many connections a tenant may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from .. import bounds
from ..net.rate_limit import Client as RateLimited
from ..net.rate_limit import Reservation, TenantLimits
from ..ops.access_log import AccessLog
from ..session import pubsub
from ..session.client_visit import ClientVisit
from ..session.session import Session
from ..session.state import Step
from ..tenants.account import Counts, TenantCounters, increase
from ..tenants.login_backoff import LoginBackoff
from ..tenants.memory import NOBODY, Memory
from ..tenants.model import AuthenticationError, Credential, Tenant, TenantFullError
from ..tenants.work import WorkQueue
from ..upstream.session_backend import SessionBackend
from .admission import Admission
from .own_sessions import OwnSessions
from .presence import Presence
from .snapshot import CurrentSnapshot

#: Refused commands of one connection that are logged. Its record has the number of all.
LOGGED_REFUSALS = 10


class Client(RateLimited, Protocol):
    """The connection that an account belongs to."""

    account: ClientAccount
    #: what it has of the slots
    presence: Presence
    #: the connection's number
    id: int

    @property
    def peer(self) -> str:
        """The client's address, for the log."""

    @property
    def address(self) -> str:
        """The client's IP address, for the login backoff; "" for a Unix socket."""


class Shared(Protocol):
    """What all accounts of one process share: see `factory.ClientFactory`."""

    clock: IReactorTime
    snapshot: CurrentSnapshot
    tenant_limits: TenantLimits
    access_log: AccessLog
    login_backoff: LoginBackoff
    #: who has a slot
    admission: Admission
    counts: Counts
    #: the memory that clients use
    memory: Memory
    #: the work for their commands
    work: WorkQueue
    #: the accounts of each tenant's clients, if it has any
    members: dict[Tenant, set[ClientAccount]]
    #: visits of these clients' sessions
    own_sessions: OwnSessions

    @property
    def backend(self) -> SessionBackend:
        """The Redis of the clients' sessions."""


class ClientAccount:
    """The account of one client's connection."""

    __slots__ = ("_client", "_counted", "_counters", "_refusals", "_shared", "_tenant", "_wrong", "reservation")

    def __init__(self, client: Client, shared: Shared) -> None:
        self._client = client
        self._shared = shared
        self.reservation = Reservation(client)
        self._tenant: Tenant | None = None
        # The tenant's counters, and the client's commands and bytes that were added up so far.
        self._counters: TenantCounters | None = None
        self._counted = (0, 0)
        self._wrong = 0
        self._refusals = 0

    @property
    def namespace(self) -> str | None:
        """The namespace of the tenant that the client is logged in as, or None."""
        return None if self._tenant is None else self._tenant.namespace

    def belongs_to(self, tenant: Tenant | None) -> None:
        """The client is logged in as this tenant from now on; None: not any more."""
        if tenant == self._tenant:
            self.add_up()
            return
        self.add_up()
        if self._tenant is not None:
            self._leave(self._tenant)
        self._tenant = tenant
        session, account = self._client.session, NOBODY if tenant is None else tenant.namespace
        session.usage.belongs_to(self._shared.memory, account)
        session.works_for(self._shared.work.of(account))
        if tenant is not None:
            self._shared.members.setdefault(tenant, set()).add(self)
            self._counters = self._shared.counts.of(tenant.namespace)
            self._counters.logins += 1

    def _leave(self, tenant: Tenant) -> None:
        """The client does not belong to its tenant any more."""
        members = self._shared.members
        of_tenant = members[tenant]
        of_tenant.remove(self)
        if not of_tenant:
            del members[tenant]
        self._tenant = self._counters = None

    def lost(self) -> None:
        """The client's connection is gone."""
        if self._tenant is not None:
            self.add_up()
            self._leave(self._tenant)
        self.reservation.lost()

    def forget(self) -> None:
        """Drops the reference to the connection, which has one to this account."""
        del self._client

    # Counting. Commands and bytes are added up only when somebody asks, so they cost a command
    # nothing.

    def add_up(self) -> None:
        """Adds this client's new commands and bytes to the tenant's counters."""
        before, self._counted = self._counted, (self._client.session.commands, self._client.bytes_received)
        if self._counters is not None:
            self._counters.commands += self._counted[0] - before[0]
            self._counters.received += self._counted[1] - before[1]

    def inspected(self, name: bytes) -> None:
        """See `session.ports.Accounts`."""
        if self._counters is not None:
            self._counters.inspected_one(name)

    def forbidden(self, name: str) -> None:
        """See `session.ports.Accounts`.

        Only the first LOGGED_REFUSALS of the connection are logged.
        """
        self._refusals += 1
        if self._counters is not None:
            known_name = self._shared.backend.policy.known_name(name)
            self._counters.refuse(known_name)
            increase(self._shared.counts.refused_names, known_name)
        credential = self._client.session.credential
        if self._refusals <= LOGGED_REFUSALS and credential is not None:
            tenant, secret = credential.tenant, credential.secret
            self._shared.access_log.forbidden(self._client.peer, tenant.namespace, secret, name)

    # See `session.ports.Accounts`.

    def authenticate(self, user: str | None, password: bytes) -> Credential:
        """See `session.ports.Accounts`."""
        shared = self._shared
        try:
            return shared.snapshot.authenticate(user, password)
        except AuthenticationError as error:
            increase(shared.counts.logins, error.outcome)
            # Anybody may send any user name. It is counted only if it is a tenant's name, so that
            # the counts have a bound.
            snapshot = shared.snapshot.snapshot
            if error.outcome == "wrong" and user is not None and snapshot is not None and user in snapshot.namespaces:
                shared.counts.of(user).wrong += 1
            shared.access_log.login_refused(self._client.peer, error.outcome, self.namespace)
            raise

    def look_again(self, user: str | None, password: bytes) -> Credential | None:
        """See `session.ports.Accounts`."""
        try:
            return self._shared.snapshot.authenticate(user, password)
        except AuthenticationError:
            return None

    def reserve(self, credential: Credential) -> Reservation:
        """See `session.ports.Accounts`."""
        shared, tenant = self._shared, credential.tenant
        if tenant != self._tenant:
            try:
                self.reservation.reserve(shared.tenant_limits.of(tenant.namespace))
            except TenantFullError as error:
                increase(shared.counts.logins, error.outcome)
                shared.counts.of(tenant.namespace).turned_away += 1
                shared.access_log.tenant_full(self._client.peer, tenant.namespace, credential.secret)
                raise
        # The credential is valid. If there is no connection to Redis, that is not the client's
        # fault.
        increase(shared.counts.logins, "ok")
        return self.reservation

    def take_slot_at_once(self, tenant: Tenant) -> bool:
        """See `session.ports.Accounts`."""
        return self._shared.admission.log_in_at_once(self._client.presence, tenant)

    def take_slot(self, tenant: Tenant, step: Step[bool]) -> None:
        """See `session.ports.Accounts`."""
        self._client.presence.log_in(tenant, step)

    def wrong_password(self) -> tuple[float, bool]:
        """See `session.ports.Accounts`."""
        self._wrong += 1
        now = self._shared.clock.seconds()
        delay = self._shared.login_backoff.wrong(self._client.address, now)
        return now + delay, self._wrong >= bounds.WRONG_PASSWORDS

    def may_track(self, tenant: Tenant) -> bool:
        """See `session.ports.Accounts`."""
        snapshot = self._shared.snapshot.snapshot
        return snapshot is not None and snapshot.limits_of(tenant.namespace).client_tracking

    def visit(self, visit: ClientVisit, step: Step[ClientVisit]) -> None:
        """See `session.ports.Accounts`."""
        if self._tenant is None:
            raise LookupError("nobody is logged in")
        self._shared.own_sessions.visit(self._tenant, visit, step)

    def charge(self, answer: bytes) -> None:
        """See `session.ports.Accounts`."""
        if self._tenant is not None:
            self._shared.tenant_limits.of(self._tenant.namespace).answered(answer)

    def stats(self) -> Mapping[str, float]:
        """See `session.ports.Accounts`."""
        shared, tenant, counters = self._shared, self._tenant, self._counters
        if tenant is None or counters is None:
            raise LookupError("nobody is logged in")
        siblings = shared.members[tenant]
        for account in siblings:
            account.add_up()
        shared.backend.add_up()
        sessions = [account.session for account in siblings]
        subscriptions = [session.subscriptions for session in sessions if session.subscriptions]
        channels, patterns, sharded = pubsub.counted(subscriptions)
        replied = shared.counts.replied.get(tenant.namespace, 0)
        numbers = (counters.commands, counters.received, replied)
        commands, received, sent = counters.rates.update(shared.clock.seconds(), numbers)
        return {
            "connected_clients": len(sessions),
            "blocked_clients": sum(session.blocked for session in sessions),
            "pubsub_clients": len(subscriptions),
            "total_connections_received": counters.logins,
            "total_commands_processed": counters.commands,
            "total_net_input_bytes": counters.received,
            "total_net_output_bytes": replied,
            "instantaneous_ops_per_sec": round(commands),
            "instantaneous_input_kbps": round(received / 1024, 2),
            "instantaneous_output_kbps": round(sent / 1024, 2),
            "pubsub_channels": channels,
            "pubsub_patterns": patterns,
            "pubsubshard_channels": sharded,
        }

    @property
    def session(self) -> Session:
        """The client's session."""
        return self._client.session

    @property
    def number(self) -> int:
        """The connection's number."""
        return self._client.id

    def session_of(self, tenant: Tenant) -> Session | None:
        """The client's session, if it is logged in as this tenant and the client is still there."""
        return self._client.session if self._tenant == tenant else None
