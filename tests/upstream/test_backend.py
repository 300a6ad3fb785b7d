"""One Redis and everything that belongs to it. Two Backends in one process share nothing."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import defer, reactor, task
from twisted.internet.testing import MemoryReactorClock
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.policy.acl import username
from redisproxy.policy.facts import builtin
from redisproxy.policy.probing import Server
from redisproxy.settings import Settings
from redisproxy.tenants.model import BackendAddress, Credential, Snapshot, Tenant
from redisproxy.upstream.acl_users import AclUserError
from redisproxy.upstream.backend import Backend
from redisproxy.upstream.client import ControlError
from redisproxy.upstream.connection import UpstreamError

from ..support.reasons import reason
from ..support.servers import RedisServer, redis_7, valkey
from ..support.waiting import LIMIT

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 3)


class TwoBackendsTests(unittest.TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.servers = [RedisServer(binary).start() for binary in (valkey, redis_7)]
        for server in self.servers:
            self.addCleanup(server.stop)
        settings = Settings(ns_prefix="team-", connect_timeout=5.0)
        self.first, self.second = Backend(settings, reactor), Backend(settings, reactor)
        self.databases: dict[Backend, list[int | None]] = {self.first: [], self.second: []}
        for backend, server, tenant in ((self.first, self.servers[0], BLUE), (self.second, self.servers[1], GREEN)):
            backend.databases_reported = self.databases[backend].append
            self.assertEqual(backend.not_ready(), "the master secret, which says where Redis is, has not been read yet")
            backend.startService()
            self.addCleanup(backend.stopService)
            address = BackendAddress(host="127.0.0.1", port=server.port, password=server.password.encode())
            backend.use_snapshot(Snapshot(address, [Credential(tenant, "a-secret", tenant.namespace.encode())]))

    async def until(self, probe: Callable[[], object], what: str) -> None:
        for _ in range(int(LIMIT / 0.02)):
            if probe():
                return
            await task.deferLater(reactor, 0.02)
        self.fail(f"it did not come to it: {what}")

    async def both_are_ready(self) -> None:
        await self.until(lambda: not (self.first.not_ready() or self.second.not_ready()), "both are ready")

    async def info(self, backend: Backend, tenant: Tenant) -> bytes:
        [answer] = await backend.queries.ask(tenant, [[b"INFO", b"server"]])
        return answer

    async def test_each_knows_its_own_redis(self) -> None:
        await self.both_are_ready()
        self.assertRegex(self.first.state()["version"], "^Valkey ")
        self.assertRegex(self.second.state()["version"], "^Redis 7")
        self.assertIn(b"valkey_version", await self.info(self.first, BLUE))
        self.assertNotIn(b"valkey_version", await self.info(self.second, GREEN))
        self.assertEqual(self.databases, {self.first: [64], self.second: [64]})
        # The policy follows from each server's own commands.
        self.assertIn("delifeq", self.first.policy.forwarded)
        self.assertNotIn("delifeq", self.second.policy.forwarded)
        # Each has connections and ACL users in its own Redis alone.
        for backend, tenant, other in ((self.first, BLUE, GREEN), (self.second, GREEN, BLUE)):
            connection = await backend.pool.acquire(tenant, 2)
            self.assertEqual(backend.pool.users, {tenant})
            self.assertEqual(backend.connections()["dedicated"], 1)
            connection.drop()
            users = self.servers[backend is self.second].client().acl_users()
            self.assertIn(username(tenant), users)
            self.assertNotIn(username(other), users)

    async def test_when_one_redis_is_away_the_other_serves(self) -> None:
        await self.both_are_ready()
        self.servers[0].kill()
        await self.until(self.first.not_ready, "it is seen that the first is away")
        self.assertEqual(self.first.not_ready(), "the proxy cannot use Redis")
        self.assertFalse(self.first.state()["connected"])
        address = f"redis://127.0.0.1:{self.servers[0].port}"
        await self.until(lambda: "refused" in self.first.state()["fault"].lower(), "it is told why")
        self.assertIn(address, self.first.state()["fault"])
        self.assertEqual((self.second.not_ready(), self.second.state()["fault"]), (None, ""))
        (await self.second.pool.acquire(GREEN, 2)).drop()
        self.assertIn(b"redis_version", await self.info(self.second, GREEN))
        with self.assertRaises(ControlError):
            await self.info(self.first, BLUE)
        with self.assertRaises(UpstreamError):
            await self.first.pool.acquire(BLUE, 2)
        self.assertIsNone(self.second.not_ready())
        self.servers[0].start()
        await self.both_are_ready()
        self.assertEqual(self.first.state()["fault"], "")
        (await self.first.pool.acquire(BLUE, 2)).drop()
        self.assertIn(b"valkey_version", await self.info(self.first, BLUE))

    async def test_a_snapshot_of_the_one_is_nothing_to_the_other(self) -> None:
        await self.both_are_ready()
        self.second.use_snapshot(Snapshot(None, []))
        self.assertEqual(self.second.not_ready(), "the master secret, which says where Redis is, has not been read yet")
        self.assertIsNone(self.first.not_ready())
        (await self.first.pool.acquire(BLUE, 2)).drop()
        await defer.maybeDeferred(self.second.stopService)
        self.assertIn(b"valkey_version", await self.info(self.first, BLUE))


class FaultTests(unittest.SynchronousTestCase):
    """The status says why Redis cannot be used, in the words of the part that knows."""

    def setUp(self) -> None:
        self.backend = Backend(Settings(ns_prefix="team-"), MemoryReactorClock())
        self.backend.use_snapshot(
            Snapshot(BackendAddress(host="redis", password=b"s3cret"), [Credential(BLUE, "a", b"blue")])
        )

    def test_before_anything_was_tried_nothing_is_known(self) -> None:
        self.assertEqual((self.backend.not_ready(), self.backend.state()["fault"]), ("the proxy cannot use Redis", ""))

    def test_each_part_has_its_own(self) -> None:
        control, pool, master = self.backend.control, self.backend.pool, self.backend.master
        control._unreachable.fault(messages.NET_TIMEOUT())
        self.assertEqual(self.backend.state()["fault"], "redis://redis:6379 cannot be asked: no answer came in time")
        pool._not_opened(pool._address, reason("redis://redis:6379 cannot be reached: no answer came in time"))
        self.assertEqual(self.backend.state()["fault"], "redis://redis:6379 cannot be reached: no answer came in time")
        master._helpless.fault(messages.SENTINELS_SILENT(name="m"))
        master._helpless.fault(messages.SENTINELS_SILENT(name="m"), 1e9)
        self.assertEqual(self.backend.state()["fault"], "no sentinel reports the address of m")
        # Nothing is known of another address yet.
        master._helpless.over()
        self.backend.use_snapshot(Snapshot(BackendAddress(host="other", password=b"s3cret"), []))
        self.assertEqual(self.backend.state()["fault"], "")

    def test_a_redis_that_hangs_is_waited_for_before_the_proxy_is_not_ready(self) -> None:
        """The proxy stays ready until Redis has hung for --hold-seconds: until then clients just
        wait.
        """
        backend, clock = self.backend, task.Clock()
        backend.health._clock = clock
        backend.control._connection = object()
        self.patch(backend, "_ready_at", clock.seconds())
        backend.health._since = clock.seconds()
        for seconds, answers, ready in ((5.9, "up", True), (0.1, "hung", True), (8.9, "hung", True), (0.1, "hung", False)):
            clock.advance(seconds)
            self.assertEqual((backend.state()["answers"], backend.not_ready() is None), (answers, ready))
            self.assertEqual(backend.state()["connected"], answers == "up")
            # The control connection is given up after 10 s.
            backend.control._connection = object() if clock.seconds() < bounds.CONTROL_REPLY_SECONDS else None
        self.assertEqual(backend.not_ready(), "the proxy cannot use Redis")
        self.assertRegex(backend.state()["fault"], "^Redis has not answered a PING")
        backend.health._since = None
        self.assertEqual((backend.state()["answers"], backend.state()["unanswered"]), ("down", 0.0))

    def test_what_redis_says_of_itself(self) -> None:
        self.backend.control._state.fault(messages.REDIS_IS_LOADING())
        self.assertRegex(self.backend.state()["fault"], "^redis://redis:6379 is loading its data")

    def test_of_a_redis_that_is_used_none_is_told(self) -> None:
        self.backend.pool._faults.reason = messages.REDIS_SILENT(address="redis://redis:6379")
        self.patch(self.backend, "_unready", lambda: None)
        self.assertEqual(self.backend.state()["fault"], "")

    def test_latency_is_kept_of_those_who_are_tenants(self) -> None:
        for namespace in ("team-blue", "team-gone"):
            self.backend._observe_tenant(namespace, 0.0004)
        self.backend.use_snapshot(Snapshot(None, [Credential(BLUE, "a", b"blue")]))
        self.assertEqual(list(self.backend.tenant_latency), ["team-blue"])
        self.assertEqual(self.backend.tenant_latency["team-blue"].samples(), {"counts": {"0.0005": 1}, "sum": 0.0004})


class RightsTests(unittest.SynchronousTestCase):
    """If Redis reports another command, users get the right to it before sessions do."""

    def setUp(self) -> None:
        self.clock = MemoryReactorClock()
        self.backend = Backend(Settings(ns_prefix="team-"), self.clock)
        self.policies: list[bool] = []
        self.backend.policy_changed = lambda policy, everywhere: self.policies.append("get" in policy.forwarded)
        self.asked: list[bytes] = []
        self.patch(self.backend.acl_users, "login", self.login)
        self.use(BackendAddress(host="redis", password=b"first"))
        self.patch(type(self.backend.acl_users), "users", {BLUE})

    def use(self, address: BackendAddress | None) -> None:
        self.backend.use_snapshot(Snapshot(address, [Credential(BLUE, "a-secret", b"blue")]))

    async def login(self, tenant: Tenant, master_password: bytes) -> None:
        self.asked.append(master_password)
        raise AclUserError("busy", passing=True)

    def told(self, commands: set[bytes]) -> None:
        """The same run of Redis reports the built-in commands, without these."""
        had = {name: command for name, command in builtin().items() if name not in commands}
        self.backend._server_probed(Server("a Redis", 64, had, True, False, run_id="a run"))

    def test_they_are_tried_again_until_redis_is_elsewhere(self) -> None:
        self.told({b"GET"})
        self.assertEqual(self.policies, [False])
        self.told(set())
        self.clock.advance(1)
        self.assertEqual(self.asked, [b"first", b"first"])
        self.use(None)
        self.clock.advance(10)
        self.assertEqual(self.asked, [b"first", b"first"])
        self.use(BackendAddress(host="redis", password=b"second"))
        self.told(set())
        self.clock.advance(1)
        self.assertEqual(self.asked[2:], [b"second", b"second"])
        self.assertEqual(self.policies, [False])
        self.use(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])
