"""Tests how the parts of a serving process work together."""

from __future__ import annotations

from twisted.internet import defer
from twisted.internet.testing import MemoryReactorClock
from twisted.trial import unittest

from redisproxy.policy.acl import username
from redisproxy.policy.facts import builtin
from redisproxy.policy.probing import Server
from redisproxy.processes.single import Serving
from redisproxy.settings import Settings
from redisproxy.tenants.model import BackendAddress, Credential, Snapshot, Tenant
from redisproxy.upstream.client import ControlError

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
BACKEND = BackendAddress("127.0.0.1", password=b"master-password")


class RightsTests(unittest.SynchronousTestCase):
    """Redis reports later that scripts may run there."""

    def setUp(self) -> None:
        self.clock = MemoryReactorClock()
        self.serving = Serving(Settings(ns_prefix="team-"), self.clock, lambda _: None)
        #: the users that Redis was sent
        self.created: list[str] = []
        self.busy = False
        self.serving.backend.control.ask = self.ask
        self.use(BLUE, GREEN)
        self.sealed(None)

    async def ask(self, *words: bytes | str) -> object:
        if self.busy:
            raise ControlError("BUSY Redis is busy running a script")
        self.created.append(str(words[2]))
        return b"OK"

    def use(self, *tenants: Tenant) -> None:
        self.serving.use_snapshot(
            Snapshot(BACKEND, [Credential(tenant, "a-secret", tenant.namespace.encode()) for tenant in tenants])
        )

    def sealed(self, sealed: bool | None) -> None:
        self.serving.backend._server_probed(Server("a Redis", 64, builtin(), True, False, sealed=sealed, run_id="run"))

    def log_in(self, *tenants: Tenant) -> None:
        for tenant in tenants:
            self.successResultOf(
                defer.Deferred.fromCoroutine(self.serving.backend.acl_users.login(tenant, BACKEND.password))
            )

    def test_users_of_connections_that_are_being_made_ready_are_told_of(self) -> None:
        self.log_in(BLUE)
        self.created.clear()
        self.sealed(True)
        self.assertEqual(self.created, [username(BLUE)])
        self.assertIn("eval", self.serving.clients.policy.forwarded)

    def test_of_who_is_no_tenant_any_more_no_user_is_made(self) -> None:
        self.log_in(BLUE, GREEN)
        self.created.clear()
        self.busy = True
        self.sealed(True)
        self.use(GREEN)
        self.busy = False
        self.clock.advance(5)
        self.clock.advance(5)
        self.assertEqual(self.created, [username(GREEN)])
        self.assertIn("eval", self.serving.clients.policy.forwarded)
