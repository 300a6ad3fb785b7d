"""Connections that nobody uses: which one is used next, and when each is closed."""

from __future__ import annotations

from twisted.internet import task
from twisted.trial import unittest

from redisproxy.tenants.model import Tenant
from redisproxy.upstream.idle import IdleConnections, Key

TIMEOUT = 30.0
BLUE, GREEN = (Tenant("team-blue", 3), 2), (Tenant("team-green", 5), 2)


class Connection:
    def __init__(self, key: Key) -> None:
        self.key = key
        self.idle_since = 0.0
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


class IdleConnectionsTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.keeps = False
        self.idle = IdleConnections(self.clock, TIMEOUT, lambda: self.keeps)
        self.addCleanup(lambda: self.assertEqual((len(self.idle), self.clock.getDelayedCalls()), (0, [])))

    def put(self, key: Key) -> Connection:
        connection = Connection(key)
        self.idle.put(connection)
        return connection

    def test_the_one_that_was_used_last_is_used_next_and_by_its_tenant_alone(self) -> None:
        first, second, _spare = self.put(BLUE), self.put(BLUE), self.put(None)
        self.assertIsNone(self.idle.pop(GREEN))
        self.assertIs(self.idle.newest(BLUE), second)
        self.assertEqual([self.idle.pop(BLUE) for _ in range(3)], [second, first, None])
        self.assertEqual(len(self.idle), 1)
        self.idle.close()

    def test_one_that_is_idle_for_long_is_closed_if_it_is_not_kept(self) -> None:
        connection = self.put(BLUE)
        self.keeps = True
        self.clock.advance(TIMEOUT)
        self.assertFalse(connection.dropped)
        self.keeps = False
        self.clock.advance(TIMEOUT - 1)
        self.assertFalse(connection.dropped)
        self.clock.advance(1)
        self.assertTrue(connection.dropped)

    def test_one_that_is_used_or_lost_has_no_time_limit_any_more(self) -> None:
        used, lost = self.put(BLUE), self.put(BLUE)
        self.idle.remove(lost)
        self.idle.remove(lost)
        self.assertIs(self.idle.pop(BLUE), used)
        self.clock.advance(10 * TIMEOUT)
        self.assertEqual([used.dropped, lost.dropped], [False, False])

    def test_some_are_closed(self) -> None:
        blue, green = self.put(BLUE), self.put(GREEN)
        self.idle.close(lambda connection: connection.key == BLUE)
        self.assertEqual([blue.dropped, green.dropped], [True, False])
        self.assertIs(self.idle.pop(GREEN), green)
