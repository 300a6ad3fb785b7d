"""A tenant's multiplexed connections, without any: who waits for one."""

from __future__ import annotations

import unittest

from twisted.internet import task

from redisproxy.tenants.model import Tenant
from redisproxy.upstream.multiplexed import TenantPool


class Waiting:
    def __init__(self, ended: bool) -> None:
        self.ended = ended
        self.told = 0

    def upstream_ready(self) -> None:
        self.told += 1


class WaitingTests(unittest.TestCase):
    def test_sessions_that_left_are_not_kept_while_redis_stands_still(self) -> None:
        tenant_pool = TenantPool(None, task.Clock(), Tenant("team-blue", 3), 2)
        tenant_pool.enter()
        there = Waiting(ended=False)
        tenant_pool.wait(there)
        for _ in range(100):
            tenant_pool.wait(Waiting(ended=True))
        self.assertLessEqual(len(tenant_pool._waiting), 3)
        tenant_pool.tell_waiting()
        self.assertEqual(there.told, 1)
