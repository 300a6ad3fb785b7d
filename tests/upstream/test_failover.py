"""Where the master is, as its sentinels say: what counts as a failover when the master secret
changes.
"""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy.ops.log_once import Condition
from redisproxy.tenants.model import BackendAddress
from redisproxy.upstream import failover
from redisproxy.upstream.failover import EVERY, MasterService
from redisproxy.upstream.sentinel import Answer

SECRET = BackendAddress(sentinels=(("sentinel", 26379),), master_name="main")


class Sentinels:
    """Sentinels that say where the master is."""

    def __init__(self) -> None:
        self.answer = Answer("first", 6379, 1)

    def connect(self, *_: object) -> Sentinels:
        self.address, self.condition = SECRET, Condition()
        return self

    async def ask(self) -> Answer:
        return self.answer

    def stop(self) -> defer.Deferred:
        return defer.succeed(None)


class FailoverTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.sentinels = Sentinels()
        self.patch(failover, "Sentinel", self.sentinels.connect)
        self.patch(failover, "calls_itself_replica", lambda *_: defer.succeed(False))
        self.moved: list[tuple[str | None, bool]] = []
        self.master = MasterService(self.clock, 5.0, None, SimpleNamespace(), self.move, lambda: None, lambda: None)
        self.master.startService()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.master.stopService)

    def move(self, address: BackendAddress | None, failover: bool) -> None:
        self.moved.append((None if address is None else address.host, failover))

    def use(self, address: BackendAddress | None) -> None:
        self.master.use(address)
        self.clock.advance(EVERY)

    def test_the_sentinels_name_another_one(self) -> None:
        self.use(SECRET)
        self.sentinels.answer = Answer("second", 6379, 2)
        self.clock.advance(EVERY)
        self.assertEqual(self.moved, [("first", False), ("second", True)])

    def test_a_master_secret_that_comes_back_is_no_failover(self) -> None:
        self.use(SECRET)
        self.use(None)
        self.use(SECRET)
        self.assertEqual(self.moved, [("first", False), (None, False), ("first", False)])

    def test_nor_is_one_that_comes_back_instead_of_another(self) -> None:
        self.use(SECRET)
        self.use(BackendAddress("elsewhere"))
        self.use(SECRET)
        self.assertEqual(self.moved, [("first", False), ("elsewhere", False), ("first", False)])
