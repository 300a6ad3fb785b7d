"""Which tenants may run scripts, and for how long they may not after one was ended."""

from __future__ import annotations

from twisted.internet import task
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.script_rights import ScriptRights

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
BOTH = frozenset((BLUE, GREEN))


class ScriptRightsTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.rights = ScriptRights(self.clock, 5.0)
        self.changed: list[set[Tenant]] = []
        self.rights.changed = lambda tenants: self.changed.append(set(tenants))
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.rights.stop)

    def error(self, tenant: Tenant = BLUE) -> bytes:
        return self.rights.error(tenant).partition(b" ")[0]

    def test_a_tenant_loses_the_right_at_once(self) -> None:
        self.assertEqual(self.rights.deny(frozenset((BLUE,)), BOTH, BOTH), {BLUE})
        self.assertEqual((self.error(), self.error(GREEN), self.changed), (b"-NOPERM", b"", [{BLUE}]))

    def test_it_gets_it_back_when_redis_has_given_it(self) -> None:
        self.rights.deny(frozenset((BLUE,)), BOTH, BOTH)
        self.assertEqual(self.rights.deny(frozenset(), BOTH, BOTH), {BLUE})
        self.assertEqual(self.error(), b"-NOPERM")
        self.changed.clear()
        self.rights.granted(BLUE)
        self.rights.granted(GREEN)
        self.assertEqual((self.error(), self.changed), (b"", [{BLUE}]))

    def test_denied_again_before_redis_has_given_it(self) -> None:
        self.rights.deny(frozenset((BLUE,)), BOTH, BOTH)
        self.rights.deny(frozenset(), BOTH, BOTH)
        self.rights.deny(frozenset((BLUE,)), BOTH, BOTH)
        self.rights.granted(BLUE)
        self.assertEqual(self.error(), b"-NOPERM")

    def test_one_without_a_user_waits_for_nothing(self) -> None:
        self.rights.deny(frozenset((BLUE,)), BOTH, ())
        self.assertEqual(self.rights.deny(frozenset(), BOTH, ()), set())
        self.assertEqual(self.error(), b"")

    def test_after_one_was_ended_scripts_are_refused_for_longer_each_time(self) -> None:
        for seconds in (50, 100, 200):
            self.assertEqual(self.rights.pause(BLUE), seconds)
            self.clock.advance(seconds - 1)
            self.assertEqual((self.error(), self.error(GREEN)), (b"-BUSY", b""))
            self.clock.advance(1)
            self.assertEqual(self.error(), b"")
        self.assertEqual(self.changed, [{BLUE}] * 6)

    def test_never_for_longer_than_the_bound(self) -> None:
        for _ in range(100):
            longest = self.rights.pause(BLUE)
        self.assertEqual(longest, bounds.SCRIPT_PAUSE_SECONDS)

    def test_after_a_while_without_another_it_is_forgotten(self) -> None:
        self.rights.pause(BLUE)
        self.clock.advance(50)
        self.clock.advance(bounds.SCRIPT_PAUSE_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.rights.pause(BLUE), 50)

    def test_a_tenant_that_goes_and_comes_back_has_its_pause_still(self) -> None:
        """It may delete its own secret, and make it again."""
        self.rights.pause(BLUE)
        self.rights.deny(frozenset(), (GREEN,), (GREEN,))
        self.rights.deny(frozenset(), BOTH, BOTH)
        self.assertEqual(self.error(), b"-BUSY")
        self.clock.advance(50)
        self.assertEqual(self.error(), b"")
        self.clock.advance(bounds.SCRIPT_PAUSE_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [], "it is forgotten")
