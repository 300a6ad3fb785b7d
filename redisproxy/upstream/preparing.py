"""Makes a connection to Redis ready for a tenant: an idle one of that tenant, or another one.

Owns the steps. If a step fails, the connection is closed, and the next one may work. `pool` decides
who may have a connection, and how long that may take.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine

from twisted.internet import defer

from .. import messages, probes
from ..tenants.model import Tenant
from .acl_users import AclUserError, AclUsers
from .connection import RedisBusy, RedisConnection, RedisUnreachable, UpstreamError, UserUnknown
from .endpoint import why
from .faults import Faults
from .idle import IdleConnections
from .redis_errors import is_busy

#: Opens a connection.
OpenNew = Callable[[], Coroutine[defer.Deferred[object], object, RedisConnection]]


class Preparation:
    """Makes connections ready for tenants.

    acl_users: gives the ACL users that connections log in as; reached: called when Redis has
    answered; keep: called with a connection that works, and that nobody uses now.
    """

    def __init__(
        self,
        acl_users: AclUsers,
        idle: IdleConnections,
        faults: Faults,
        reached: Callable[[], None],
        keep: Callable[[RedisConnection], None],
    ) -> None:
        self._acl_users = acl_users
        self._idle = idle
        self._faults = faults
        self._reached = reached
        self._keep = keep

    async def prepare(self, tenant: Tenant, protocol: int, open_new: OpenNew) -> RedisConnection:
        """Returns a connection that works, for the tenant in this protocol. Raises UpstreamError if
        none can be made ready.

        open_new: opens a connection, or raises UpstreamError.
        """
        while (upstream := self._idle.pop((tenant, protocol))) is not None:
            try:
                return await self._after(upstream, upstream.check())
            except UpstreamError:
                probes.reached("idle connection had died unnoticed")
                # it had died unnoticed: the next one, or a new one, shows whether Redis is there
                continue
        try:
            return await self._bound(tenant, protocol, open_new)
        except UserUnknown:
            self._acl_users.forget(tenant)
        try:
            return await self._bound(tenant, protocol, open_new)
        except UserUnknown as error:
            # the first time this is normal, after a restart or a failover of Redis
            self._faults.of_one(error.reason)
            raise

    async def _bound(self, tenant: Tenant, protocol: int, open_new: OpenNew) -> RedisConnection:
        """Returns a spare or new connection, logged in for the tenant. Raises UpstreamError."""
        upstream = await self._living_spare() or await open_new()
        try:
            login = await self._acl_users.login(tenant, upstream.address.password)
        except BaseException as error:
            if isinstance(error, AclUserError) and is_busy(error.answer):
                return await self._after(upstream, _raise(upstream.busy_error(error.answer, protocol)))
            upstream.drop()
            if not isinstance(error, AclUserError):
                raise
            self._faults.of_one(error.reason)
            raise UpstreamError(
                error.reason,
                messages.UNREACHABLE.text if error.passing else messages.LOGIN_REFUSED.text,
                error.passing,
            ) from None
        return await self._after(upstream, upstream.bind(tenant, login, protocol))

    async def _living_spare(self) -> RedisConnection | None:
        """Returns a spare connection, without a SELECTed database, that still works; None if there
        is none.
        """
        while (upstream := self._idle.pop(None)) is not None:
            try:
                return await self._after(upstream, upstream.check())
            except UpstreamError:
                continue  # it had died unnoticed
        return None

    async def _after(self, upstream: RedisConnection, step: Awaitable[None]) -> RedisConnection:
        """Returns the connection after a step of its log-in.

        If the step fails, closes the connection and raises UpstreamError. If Redis is busy with a
        script, the connection waits for the next user instead, who will come soon. `health` logs
        that Redis is busy.
        """
        try:
            await step
        except defer.CancelledError:
            upstream.drop()
            raise
        except RedisBusy:
            self._reached()
            self._keep(upstream)
            raise
        except UpstreamError as error:
            upstream.drop()
            if not isinstance(error, UserUnknown):
                self._faults.of_one(error.reason)
            raise
        except Exception as error:
            upstream.drop()
            raise RedisUnreachable(messages.REDIS_LOST_EARLY(reason=why(error))) from None
        self._reached()
        return upstream


async def _raise(error: Awaitable[Exception]) -> None:
    raise await error
