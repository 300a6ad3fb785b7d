"""The wall clock is set while credentials are in force: they expire by that clock alone, at most
WALL_CLOCK_CHECK_SECONDS late.
"""

from __future__ import annotations

from twisted.internet import task
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.clients.snapshot import CurrentSnapshot
from redisproxy.tenants.model import AuthenticationError, Credential, Snapshot, Tenant, digest

HOUR = 3600.0
NOW = 1.8e9


def credential(name: str, expires: float | None) -> Credential:
    return Credential(Tenant("team-blue", 3), name, digest(name.encode()), "", expires)


class WallClockTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        #: seconds by which the wall clock is ahead of the other clock, which begins at 0
        self.offset = NOW
        self.current = CurrentSnapshot(self.clock, self.wall_clock)
        self.current.startService()
        self.addCleanup(self.stop)
        #: secrets whose sessions would be revoked
        self.ended: set[str] = set()
        self.current.listeners.append(self.changed)
        self.notified = 0

    def wall_clock(self) -> float:
        return self.clock.seconds() + self.offset

    def stop(self) -> None:
        self.current.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def changed(self, snapshot: Snapshot) -> None:
        self.notified += 1
        self.ended |= {c.secret for c in snapshot.credentials if not snapshot.renewed(c, self.wall_clock())}

    def use(self, **expires: float | None) -> None:
        self.current.use(Snapshot(None, [credential(name, moment) for name, moment in expires.items()]))

    def passes(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds * 4))

    def logs_in(self, name: str) -> bool:
        try:
            return self.current.authenticate(None, name.encode()).secret == name
        except AuthenticationError:
            return False

    def test_set_forward_past_an_expiry(self) -> None:
        self.use(a=NOW + HOUR, b=NOW + 3 * HOUR, c=None)
        self.passes(10)
        self.offset += 2 * HOUR
        self.assertFalse(self.logs_in("a"), "who logs in now is judged now")
        self.passes(bounds.WALL_CLOCK_CHECK_SECONDS)
        self.assertEqual(self.ended, {"a"})
        self.assertEqual(self.notified, 2)

    def test_set_back_nothing_ends_early_or_late(self) -> None:
        self.use(a=NOW + 60, c=None)
        self.passes(50)
        self.offset -= 30
        self.passes(39.75)
        self.assertEqual((self.ended, self.notified), (set(), 1))
        self.assertTrue(self.logs_in("a"))
        self.passes(0.25)
        self.assertEqual((self.ended, self.notified), ({"a"}, 2))
        self.assertFalse(self.logs_in("a"))

    def test_set_back_behind_an_expiry_it_is_good_again_and_ends_again(self) -> None:
        self.use(a=NOW + 60)
        self.passes(61)
        self.assertEqual((self.ended, self.notified), ({"a"}, 2))
        self.offset -= 30
        self.ended.clear()
        self.passes(5)
        self.assertTrue(self.logs_in("a"), "so the wall clock says")
        self.passes(24)
        self.assertEqual((self.ended, self.notified), ({"a"}, 3))

    def test_set_forward_and_back_at_once_ends_nothing(self) -> None:
        self.use(a=NOW + HOUR)
        self.passes(0.5)
        self.offset += 2 * HOUR
        self.offset -= 2 * HOUR
        self.passes(10)
        self.assertEqual((self.ended, self.notified), (set(), 1))

    def test_a_look_costs_no_change(self) -> None:
        self.use(a=NOW + HOUR)
        self.passes(HOUR - 1)
        self.assertEqual(self.notified, 1)

    def test_a_listener_that_fails_costs_no_other(self) -> None:
        self.current.listeners.insert(0, lambda _: 1 / 0)
        self.use(a=None)
        self.assertEqual(self.notified, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_several_that_expire_in_one_leap(self) -> None:
        self.use(a=NOW + 10, b=NOW + 20, d=NOW + 30)
        self.offset += 25
        self.passes(bounds.WALL_CLOCK_CHECK_SECONDS)
        self.assertEqual((self.ended, self.notified), ({"a", "b"}, 2))
        self.passes(5)
        self.assertEqual((self.ended, self.notified), ({"a", "b", "d"}, 3))
