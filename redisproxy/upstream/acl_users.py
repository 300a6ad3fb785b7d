"""The ACL user of each tenant: creates it, and gives connections its password.

This is the second isolation layer. Owns which users Redis knows already, and their provisioning
over the control connection.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from twisted.internet import defer
from twisted.python.failure import Failure

from .. import bounds, messages
from ..net.waiters import Waiters
from ..ops.logs import Log
from ..policy import acl
from ..policy.policy import Policy
from ..policy.probing import Server, user_exists
from ..printable import printable
from ..resp.value import ErrorReply
from ..tenants.model import Tenant
from .client import Commands, ControlError, ReplyError
from .redis_errors import is_busy

#: Bytes that an ACL rule cannot contain (ACLStringHasSpaces in Redis's acl.c).
_UNFIT = re.compile(rb"[\0 \t\n\v\f\r]")


class AclUserError(messages.MessageError):
    """The tenant's ACL user is not available.

    passing: whether a later attempt may succeed; answer: the error that Redis answered; empty if it
    did not answer.
    """

    def __init__(self, reason: messages.Text, passing: bool, answer: str = "") -> None:
        super().__init__(reason)
        self.passing = passing
        self.answer = answer


class AclUsers:
    """The ACL users that tenants' connections log in as.

    mode: ``auto`` uses ACL users if Redis has them; ``require`` refuses to serve without them;
    ``off`` uses none. control: the connection that asks Redis.
    """

    _log = Log()

    def __init__(self, mode: str, control: Commands) -> None:
        self._mode = mode
        self._control = control
        self._server: Server | None = None
        self._policy: Policy | None = None
        # The password that each tenant's user has in Redis. It can differ from the one that a
        # connection needs: while Redis moves, or the master password changes, older connections
        # still log in.
        self._provisioned: dict[Tenant, bytes] = {}
        # Callers that wait for a tenant's user, which is created once for all of them.
        self._waiting: dict[tuple[Tenant, bytes], Waiters[None]] = {}
        # The patterns that Redis has granted to sessions of this process.
        self._patterns: dict[Tenant, set[bytes]] = {}
        # The namespaces of tenants that may use client-side caching; and those tenants whose users
        # Redis lets use it.
        self._trackers: Collection[str] = frozenset()
        self._tracking: set[Tenant] = set()
        # The tenants that may run no scripts.
        self._scriptless: Collection[Tenant] = frozenset()
        self._logged: tuple[messages.LogLine, dict[str, str]] | None = None
        #: called when a tenant's user could not be created
        self.user_refused: Callable[[], None] = lambda: None

    def enforced_by(self, server: Server) -> bool:
        """Whether tenants' connections to this server will log in as ACL users."""
        return self._mode != "off" and server.acl

    @property
    def serves(self) -> bool:
        """Whether the mode allows the proxy to serve tenants on the present Redis."""
        return self._mode != "require" or (self._server is not None and self.enforced_by(self._server))

    @property
    def users(self) -> set[Tenant]:
        """The tenants whose users Redis knows."""
        return set(self._provisioned)

    def use(self, server: Server, policy: Policy) -> None:
        """Uses what is known of Redis, and the policy, from now on.

        Redis may have been restarted and may have lost its users, so all of them are forgotten.
        """
        self._server, self._policy = server, policy
        self._provisioned.clear()
        self._patterns.clear()
        self._tracking.clear()
        line = self._layers(server, policy)
        if line != self._logged:
            self._logged = line
            message, fields = line
            self._log.write(message, **fields)

    def _layers(self, server: Server, policy: Policy) -> tuple[messages.LogLine, dict[str, str]]:
        """The line of the log that says what isolates tenants, and its fields."""
        if not self.enforced_by(server):
            return (messages.NO_LAYER if self._mode == "require" else messages.ONE_LAYER), {}
        users = "which Redis limits to the tenant's database" if server.acl_databases else "for the tenant's database"
        if server.sealed is not False:
            return messages.TWO_LAYERS, {"users": users}
        return messages.SCRIPTS_ALLOWED if policy.runs_scripts else messages.SCRIPTS_REFUSED, {"users": users}

    async def login(self, tenant: Tenant, master_password: bytes) -> tuple[bytes, bytes] | None:
        """Returns (user, password) of the tenant's user, after Redis knows that user.

        Returns None if connections keep the master's rights. Raises AclUserError.
        """
        if self._mode == "off":
            return None
        try:
            if self._server is None or not (self._server.acl or self._control.connected):
                # This waits until the proxy knows what Redis is now. A former Redis without ACL
                # users says nothing about this one.
                await self._control.ask("PING")
            assert self._server is not None, "Redis is asked nothing else before it is probed"  # noqa: S101
            if not self._server.acl:
                if self._mode == "require":
                    raise AclUserError(messages.REDIS_NO_ACL(), passing=False)
                return None
            name = acl.username(tenant)
            secret = acl.password(master_password, name)
            if self._provisioned.get(tenant) != secret:
                await self._provisioned_once(tenant, name, secret)
        except ControlError as error:
            answer = printable(str(error)) if isinstance(error, ReplyError) else ""
            if not is_busy(answer):  # else Redis refuses everything for now, not this user
                self.user_refused()
            raise AclUserError(
                messages.REDIS_NO_USER(namespace=tenant.namespace, error=error.reason),
                passing=error.passing,
                answer=answer,
            ) from None
        return name.encode(), secret

    def _provisioned_once(self, tenant: Tenant, name: str, secret: bytes) -> defer.Deferred[None]:
        """Fires when Redis knows the user. Fails with ControlError."""
        wanted = (tenant, secret)
        if wanted in self._waiting:
            return self._waiting[wanted].wait()
        self._waiting[wanted] = Waiters()
        made = self._waiting[wanted].wait()
        # The work does not belong to the first caller: that one may cancel while others wait.
        defer.Deferred.fromCoroutine(self._provision(tenant, name, secret)).addBoth(self._notify_waiting, wanted)
        return made

    def _notify_waiting(self, result: object, wanted: tuple[Tenant, bytes]) -> None:
        self._waiting.pop(wanted).fire(result if isinstance(result, Failure) else None)

    async def _provision(self, tenant: Tenant, name: str, secret: bytes) -> None:
        policy: Policy | None = None
        tracking = scriptless = False
        # The policy may have changed while Redis answered. Then the user gets the new rights.
        while policy is not self._policy or (tracking, scriptless) != (
            tenant.namespace in self._trackers,
            tenant in self._scriptless,
        ):
            server, policy = self._server, self._policy
            assert server is not None and policy is not None, "login() has waited for them"  # noqa: S101
            tracking = tenant.namespace in self._trackers
            scriptless = tenant in self._scriptless
            granted = policy.without_scripts(messages.SCRIPTS_DENIED.reply()) if scriptless else policy
            rules = partial(acl.rules, tenant, granted, secret, server.acl_databases, tracking=tracking)
            try:
                await self._control.ask("ACL", "SETUSER", name, *rules(new=True))
            except ControlError as error:
                # Any other error may pass. The rules for an existing user do not reset its
                # channels, so they suit only a user that was created with the rules for a new one.
                if not user_exists(ErrorReply(str(error))):
                    raise
                # The user exists: another process, another replica or an earlier run created it.
                await self._control.ask("ACL", "SETUSER", name, *rules(new=False))
        self._provisioned[tenant] = secret
        self._tracking.discard(tenant)
        self._patterns.pop(tenant, None)

    def forget(self, tenant: Tenant) -> None:
        """Forgets that Redis knows the tenant's user: it was deleted, or Redis restarted."""
        self._provisioned.pop(tenant, None)
        self._tracking.discard(tenant)

    def keep_only(self, tenants: Collection[Tenant]) -> None:
        """Forgets the users of all other tenants. This process or another replica may remove them
        from Redis.
        """
        for tenant in self._provisioned.keys() - tenants:
            del self._provisioned[tenant]
        for tenant in self._patterns.keys() - tenants:
            del self._patterns[tenant]
        self._tracking.intersection_update(tenants)

    def forget_all(self) -> None:
        """Forgets all users: Redis is another server, and ACL users are not replicated."""
        self._provisioned.clear()
        self._patterns.clear()
        self._tracking.clear()

    def let_track(self, namespaces: Collection[str]) -> None:
        """Only tenants of these namespaces may use client-side caching from now on.

        A user keeps a right that its tenant has lost until the next connection logs in. The
        sessions refuse the commands at once.
        """
        for tenant in list(self._provisioned):
            if (tenant.namespace in namespaces) != (tenant.namespace in self._trackers):
                self.forget(tenant)
        self._trackers = namespaces

    def deny_scripts(self, tenants: Collection[Tenant], changed: Collection[Tenant]) -> None:
        """These tenants may run no scripts from now on. changed: those whose users have to change,
        which `login` does.
        """
        self._scriptless = tenants
        for tenant in changed:
            self.forget(tenant)

    async def permit_tracking(self, tenant: Tenant) -> None:
        """Lets the tenant's user use client-side caching. Raises ControlError.

        Does nothing where tenants have no ACL users.
        """
        if self._server is None or self._policy is None or not self.enforced_by(self._server):
            return
        if tenant in self._tracking or tenant.namespace not in self._trackers:
            return
        await self._control.ask("ACL", "SETUSER", acl.username(tenant), *acl.tracking_rules(self._policy))
        if tenant.namespace in self._trackers:
            self._tracking.add(tenant)
        else:
            self.forget(tenant)  # the next log-in takes the right away again

    def check(self, patterns: Collection[bytes]) -> None:
        """Raises ControlError if there are no ACL rules for some of these patterns, where tenants
        have ACL users.
        """
        if self._uses_users and any(map(_UNFIT.search, patterns)):
            raise ControlError(messages.UNFIT_PATTERN(), messages.UNFIT_PATTERN(), passing=False)

    def granted(self, tenant: Tenant, patterns: Collection[bytes]) -> bool:
        """Whether the tenant's user may PSUBSCRIBE to these patterns. True where tenants have no
        ACL users.
        """
        return not self._uses_users or self._patterns.get(tenant, set()).issuperset(patterns)

    async def permit(
        self, tenant: Tenant, patterns: Collection[bytes], cleaned: Callable[[Tenant], Awaitable[object]]
    ) -> None:
        """Lets the tenant's user PSUBSCRIBE to these patterns. Raises ControlError.

        cleaned: waits until nobody removes patterns of that user. Does nothing where tenants have
        no ACL users.
        """
        while self._uses_users:
            granted = self._patterns.setdefault(tenant, set())
            new = list(set(patterns) - granted)
            if not new:
                return
            self.check(new)
            await cleaned(tenant)
            for first in range(0, len(new), bounds.PATTERNS_PER_CALL):
                rules = acl.pattern_rules(new[first : first + bounds.PATTERNS_PER_CALL])
                await self._control.ask("ACL", "SETUSER", acl.username(tenant), *rules)
            # If the user was made anew meanwhile, they are granted again.
            if self._patterns.get(tenant) is granted:
                granted.update(new)

    @property
    def _uses_users(self) -> bool:
        return self._server is not None and self.enforced_by(self._server)

    def forget_patterns(self, tenant: Tenant, patterns: Collection[bytes]) -> bool:
        """Forgets that Redis has granted these patterns, because anybody may remove them from now
        on. Returns whether tenants have ACL users.
        """
        if tenant in self._patterns:
            self._patterns[tenant].difference_update(patterns)
        return self._uses_users

    def forget_all_patterns(self) -> None:
        """Forgets all patterns that Redis has granted: they had no markers for a while."""
        self._patterns.clear()
