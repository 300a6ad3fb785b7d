"""How the parts that know of tenants' scripts work together."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import messages
from redisproxy.tenants.account import Counts
from redisproxy.tenants.limits import Limits
from redisproxy.tenants.model import Credential, Snapshot, Tenant
from redisproxy.upstream.acl_users import AclUserError
from redisproxy.upstream.client import ReplyError
from redisproxy.upstream.scripts import TenantScripts

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
CREDENTIALS = [Credential(tenant, "secret", tenant.namespace.encode()) for tenant in (BLUE, GREEN)]
ALLOWED = Snapshot(None, CREDENTIALS)
DENIED = Snapshot(None, CREDENTIALS, {"team-blue": Limits(deny_scripts=True), "team-green": Limits(5)})
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."


class AclUsers:
    """Redis knows the users of both tenants. The test answers log-ins."""

    def __init__(self) -> None:
        self.users = {BLUE, GREEN}
        self.changes: list[tuple[set[Tenant], set[Tenant]]] = []
        self.logins: list[tuple[Tenant, bytes]] = []
        self.answers: list[defer.Deferred] = []

    def deny_scripts(self, tenants: frozenset[Tenant], changed: set[Tenant]) -> None:
        self.changes.append((set(tenants), set(changed)))

    async def login(self, tenant: Tenant, password: bytes) -> None:
        self.logins.append((tenant, password))
        self.answers.append(defer.Deferred())
        await self.answers[-1]


class TenantScriptsTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.acl_users = AclUsers()
        self.counts = Counts()
        self.control = SimpleNamespace()
        self.pool = SimpleNamespace(users=set(), await_scripts=list)
        self.password: bytes | None = b"master"
        self.scripts = TenantScripts(
            self.clock, 5.0, self.control, self.pool, self.acl_users, self.counts, lambda: self.password
        )
        self.scripts.startService()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.scripts.stopService)

    def denied(self) -> bool:
        return bool(self.scripts.rights.error(BLUE))

    def test_the_user_loses_the_right_and_gets_it_back_before_the_sessions(self) -> None:
        self.scripts.use(DENIED)
        self.assertEqual((self.acl_users.changes, self.denied()), ([({BLUE}, {BLUE})], True))
        self.acl_users.answers.pop().callback(None)
        self.scripts.use(ALLOWED)
        self.assertEqual((self.acl_users.changes[-1], self.denied()), ((set(), {BLUE}), True))
        self.acl_users.answers.pop().callback(None)
        self.assertFalse(self.denied())
        self.assertEqual(self.acl_users.logins, [(BLUE, b"master")] * 2)

    def test_what_does_not_change_asks_nothing(self) -> None:
        self.scripts.use(ALLOWED)
        self.scripts.use(ALLOWED)
        self.assertEqual(self.acl_users.logins, [])

    def test_redis_cannot_be_asked_at_first(self) -> None:
        self.scripts.use(DENIED)
        self.acl_users.answers.pop().callback(None)
        self.password = None
        self.scripts.use(ALLOWED)
        self.clock.advance(1)
        self.assertTrue(self.denied())
        self.password = b"another"
        self.clock.advance(1)
        reason = messages.REDIS_CONNECTION_LOST()
        self.acl_users.answers.pop().errback(AclUserError(reason, passing=True))
        self.assertTrue(self.denied())
        self.clock.advance(1)
        self.acl_users.answers.pop().callback(None)
        self.assertFalse(self.denied())

    def test_a_tenant_that_is_gone_is_not_asked_for_any_more(self) -> None:
        self.password = None
        self.scripts.use(DENIED)
        self.scripts.use(Snapshot(None, CREDENTIALS[1:]))
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_was_ended_is_counted_and_told_to_other_processes(self) -> None:
        told: list[Tenant] = []
        self.scripts.ended = told.append
        self.scripts.watch.script_left(BLUE)
        self.control.ask_unprobed = mock.Mock(side_effect=lambda *_: defer.succeed(b"OK"))
        health = SimpleNamespace(unanswered=8.0)
        self.clock.advance(10)
        self.scripts.watch.answers(0.0)  # it was asked before the session left
        self.scripts.notice(health)
        # The control connection was closed because a PING had no answer: that time counts.
        self.control.busy(BUSY)
        self.clock.pump([0.05] * 10)
        self.assertEqual(self.control.ask_unprobed.call_args_list, [mock.call("PING")])
        self.scripts.watch.script_left(BLUE)
        self.control.ask_unprobed.side_effect = lambda *words: (
            defer.fail(_busy()) if words == ("PING",) else defer.succeed(b"OK")
        )
        self.control.busy(BUSY)
        self.clock.pump([0.05] * 110)
        self.assertEqual(self.control.ask_unprobed.call_args_list[1:], [mock.call("PING"), mock.call("SCRIPT", "KILL")])
        self.assertEqual((told, self.counts.of("team-blue").scripts_ended, self.denied()), ([BLUE], 1, True))


def _busy() -> Exception:
    return ReplyError(BUSY)
