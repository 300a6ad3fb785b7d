"""One client's account: who it is logged in as, and what is counted and logged of that.

Implements `session.ports.Accounts` for one connection. Whose password it is, the snapshot knows;
how many connections a tenant may have, its limits.
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
from ..session.session import Session
from ..tenants.account import Counts, TenantCounters, increase
from ..tenants.login_backoff import LoginBackoff
from ..tenants.model import AuthenticationError, Credential, Tenant, TenantFullError
from ..upstream.session_backend import SessionBackend
from .snapshot import CurrentSnapshot

#: Refused commands of one connection that are logged; the others are counted in its record.
LOGGED_REFUSALS = 10


class Client(RateLimited, Protocol):
    """The connection that an account belongs to."""

    peer: str
    #: where it came from, as the login backoff counts it
    address: str
    account: ClientAccount


class Shared(Protocol):
    """What the accounts of one process share: see `factory.ClientFactory`."""

    clock: IReactorTime
    snapshot: CurrentSnapshot
    tenant_limits: TenantLimits
    access_log: AccessLog
    login_backoff: LoginBackoff
    counts: Counts
    #: of the clients of each tenant that has any
    members: dict[Tenant, set[ClientAccount]]

    @property
    def backend(self) -> SessionBackend:
        """The Redis of the clients' sessions."""


class ClientAccount:
    """The account side of one client's connection."""

    __slots__ = ("_client", "_counted", "_counters", "_refusals", "_shared", "_tenant", "_wrong", "reservation")

    def __init__(self, client: Client, shared: Shared) -> None:
        self._client = client
        self._shared = shared
        self.reservation = Reservation(client)
        self._tenant: Tenant | None = None
        # Whose commands and bytes these are, and how many of them are counted there.
        self._counters: TenantCounters | None = None
        self._counted = (0, 0)
        self._wrong = 0
        self._refusals = 0

    @property
    def namespace(self) -> str | None:
        """Of the tenant that the client is logged in as."""
        return None if self._tenant is None else self._tenant.namespace

    def belongs_to(self, tenant: Tenant | None) -> None:
        """The client is the tenant's from now on; None: nobody's."""
        self.add_up()
        if tenant == self._tenant:
            return
        members = self._shared.members
        if self._tenant is not None:
            members[self._tenant].remove(self)
            if not members[self._tenant]:
                del members[self._tenant]
        self._tenant = tenant
        self._counters = None
        if tenant is not None:
            members.setdefault(tenant, set()).add(self)
            self._counters = self._shared.counts.of(tenant.namespace)
            self._counters.logins += 1

    def lost(self) -> None:
        """The client's connection is gone."""
        self.belongs_to(None)
        self.reservation.lost()

    def forget(self) -> None:
        """Lets go of the connection, which holds it."""
        del self._client

    # Counting: by the chunk, and added up when somebody asks, so that it costs the commands
    # nothing.

    def add_up(self) -> None:
        """The tenant's counters have all that the client did so far."""
        before, self._counted = self._counted, (self._client.session.commands, self._client.bytes_received)
        if self._counters is not None:
            self._counters.commands += self._counted[0] - before[0]
            self._counters.received += self._counted[1] - before[1]

    def inspected(self, name: bytes) -> None:
        """One command more is known by name."""
        if self._counters is not None:
            self._counters.inspected_one(name)

    def forbidden(self, name: str) -> None:
        """One command more was refused that the tenant may not use. name: fit for a log."""
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
            # Anybody may name any tenant, but what is no tenant's name is counted nowhere.
            snapshot = shared.snapshot.snapshot
            if error.outcome == "wrong" and user is not None and snapshot is not None and user in snapshot.namespaces:
                shared.counts.of(user).wrong += 1
            shared.access_log.login_refused(self._client.peer, error.outcome, self.namespace)
            raise

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
        # The credential is right; whether a connection to Redis can be had is not the client's
        # fault.
        increase(shared.counts.logins, "ok")
        return self.reservation

    def wrong_password(self) -> tuple[float, bool]:
        """See `session.ports.Accounts`."""
        self._wrong += 1
        now = self._shared.clock.seconds()
        delay = self._shared.login_backoff.wrong(self._client.address, now)
        return now + delay, self._wrong >= bounds.WRONG_PASSWORDS

    def stats(self) -> Mapping[str, int]:
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
        return {
            "connected_clients": len(sessions),
            "blocked_clients": sum(session.blocked for session in sessions),
            "pubsub_clients": len(subscriptions),
            "total_connections_received": counters.logins,
            "total_commands_processed": counters.commands,
            "total_net_input_bytes": counters.received,
            "total_net_output_bytes": shared.counts.replied.get(tenant.namespace, 0),
            "pubsub_channels": channels,
            "pubsub_patterns": patterns,
            "pubsubshard_channels": sharded,
        }

    @property
    def session(self) -> Session:
        """The client's."""
        return self._client.session
