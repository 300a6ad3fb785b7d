"""What sessions ask of one Redis: the result comes at once, later, never, or after the session
ended.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import messages
from redisproxy.net.rate_limit import TenantLimits
from redisproxy.session.ports import Unavailable
from redisproxy.session.state import Step, Until
from redisproxy.tenants.limits import Limits
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.client import ControlError, ReplyError
from redisproxy.upstream.connection import RedisUnreachable
from redisproxy.upstream.hold import HeldWork
from redisproxy.upstream.session_backend import SessionBackend

BLUE = Tenant("blue", 3)


class Session:
    """Waits for one Step."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self.bugs: list[Exception] = []
        self.step = Step(self, Until.QUERY, self.results.append)

    def step_finished(self, step: Step, result: object) -> None:
        step.go_on(result)

    def bug(self, error: Exception) -> None:
        self.bugs.append(error)


class Upstream:
    def __init__(self) -> None:
        self.released: list[bool] = []

    def release(self, clean: bool) -> None:
        self.released.append(clean)


class TenantPool:
    def __init__(self, is_open: bool) -> None:
        self.open = Upstream() if is_open else None
        self.users = 0
        self.waiter: defer.Deferred[None] = defer.Deferred()

    def enter(self) -> None:
        self.users += 1

    def come(self) -> defer.Deferred[None]:
        self.users += 1
        return self.waiter

    def leave(self) -> None:
        self.users -= 1


class BackendCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.fresh: Upstream | None = None
        self.work: defer.Deferred[object] = defer.Deferred()
        self.tenant_pool = TenantPool(is_open=True)
        self.limits = TenantLimits(self.clock)
        self.pool = SimpleNamespace(
            fresh=lambda *_: self.fresh,
            acquire=self._wait,
            tenant_pool=lambda *_: self.tenant_pool,
            has_idle=lambda *_: self.has_idle,
            refused=False,
            crowd=SimpleNamespace(ask=lambda asking: asking()),
            hold=HeldWork(task.Clock(), 0.0, lambda: None),
        )
        self.has_idle = True
        self.left: list[object] = []
        self.patterns = SimpleNamespace(use=self._wait, leave=lambda *left: self.left.append(left))
        self.backend = SessionBackend(
            self.pool,
            SimpleNamespace(ask=self._wait),
            SimpleNamespace(permit=self._wait),
            self.patterns,
            self.limits,
            multiplexes=True,
            clock=task.Clock(),
        )
        self.session = Session()

    async def _wait(self, *_: object) -> object:
        return await self.work

    def assertFails(self, error: str) -> None:
        (result,) = self.session.results
        self.assertIsInstance(result, Unavailable)
        self.assertEqual(result.error, error)


class DedicatedTests(BackendCase):
    def acquire(self) -> None:
        self.backend.acquire(BLUE, 2, self.session.step)

    def test_one_that_is_fresh_is_there_at_once(self) -> None:
        self.fresh = Upstream()
        self.acquire()
        self.assertEqual(self.session.results, [self.fresh])

    def test_one_that_is_opened(self) -> None:
        self.acquire()
        self.assertEqual(self.session.results, [])
        upstream = Upstream()
        self.work.callback(upstream)
        self.assertEqual((self.session.results, upstream.released), ([upstream], []))

    def test_none(self) -> None:
        self.acquire()
        self.work.errback(RedisUnreachable("away"))
        self.assertFails(messages.UNREACHABLE.text)

    def test_it_is_not_opened_for_a_session_that_ended(self) -> None:
        cancelled: list[object] = []
        self.work = defer.Deferred(cancelled.append)
        self.acquire()
        self.session.step.abandon()
        self.assertEqual((len(cancelled), self.session.results), (1, []))

    def test_it_goes_back_if_it_comes_all_the_same(self) -> None:
        upstream = self.fresh = Upstream()
        self.session.step.abandon()
        self.acquire()
        self.assertEqual((self.session.results, upstream.released), ([], [True]))

    def test_a_bug_in_what_the_session_goes_on_with_is_the_sessions(self) -> None:
        self.session.step = Step(self.session, Until.DEDICATED, lambda _: 1 / 0)
        self.acquire()
        self.work.callback(Upstream())
        self.assertIsInstance(self.session.bugs[0], ZeroDivisionError)
        self.assertEqual(self.flushLoggedErrors(), [])


class SpareTests(BackendCase):
    """A connection that is opened before a session needs it."""

    def setUp(self) -> None:
        super().setUp()
        self.has_idle = False
        self.works: list[defer.Deferred[Upstream]] = []

    async def _wait(self, *_: object) -> object:
        self.works.append(defer.Deferred())
        return await self.works[-1]

    def acquire(self) -> Session:
        session = Session()
        self.backend.acquire(BLUE, 2, session.step)
        return session

    def test_one_is_opened_behind_the_one_that_is_taken(self) -> None:
        self.fresh = Upstream()
        self.acquire()
        self.acquire()
        self.assertEqual(len(self.works), 1)
        spare = Upstream()
        self.works[0].callback(spare)
        self.assertEqual(spare.released, [True])

    def test_none_where_one_is_idle(self) -> None:
        self.fresh, self.has_idle = Upstream(), True
        self.acquire()
        self.assertEqual(self.works, [])

    def test_none_while_redis_takes_none(self) -> None:
        self.fresh, self.pool.refused = Upstream(), True
        self.acquire()
        self.assertEqual(self.works, [])

    def test_none_where_sessions_share_no_connections(self) -> None:
        self.fresh, self.backend.multiplexes = Upstream(), False
        self.acquire()
        self.assertEqual(self.works, [])

    def test_one_that_is_being_opened_is_taken(self) -> None:
        self.backend.prepare(BLUE, 2)
        session, spare = self.acquire(), Upstream()
        self.assertEqual(len(self.works), 1)
        self.works[0].callback(spare)
        self.assertEqual((session.results, spare.released), ([spare], []))
        self.assertEqual(len(self.works), 2)  # the next spare one

    def test_only_by_the_same_tenant_in_the_same_protocol(self) -> None:
        self.backend.prepare(BLUE, 3)
        self.acquire()
        self.assertEqual(len(self.works), 2)

    def test_one_that_fails_harms_nobody(self) -> None:
        self.backend.prepare(BLUE, 2)
        self.works[0].errback(RedisUnreachable("away"))
        self.acquire()
        self.assertEqual(len(self.works), 2)

    def test_who_took_one_that_fails_is_told(self) -> None:
        self.backend.prepare(BLUE, 2)
        self.session = self.acquire()
        self.works[0].errback(RedisUnreachable("away"))
        self.assertFails(messages.UNREACHABLE.text)

    def test_a_bug_is_logged(self) -> None:
        self.backend.prepare(BLUE, 2)
        self.works[0].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class MultiplexedTests(BackendCase):
    def join(self) -> None:
        self.backend.join(BLUE, 2, self.session.step)

    def test_an_open_one_is_there_at_once(self) -> None:
        self.assertIs(self.backend.join_at_once(BLUE, 2), self.tenant_pool)
        self.assertEqual(self.tenant_pool.users, 1)

    def test_none_is_there_at_once_that_is_to_be_opened(self) -> None:
        self.tenant_pool = TenantPool(is_open=False)
        self.assertIsNone(self.backend.join_at_once(BLUE, 2))
        self.assertEqual(self.tenant_pool.users, 0)

    def test_one_that_is_opened(self) -> None:
        self.tenant_pool = TenantPool(is_open=False)
        self.join()
        self.assertEqual(self.session.results, [])
        self.tenant_pool.waiter.callback(None)
        self.assertEqual((self.session.results, self.tenant_pool.users), ([self.tenant_pool], 1))

    def test_none_and_a_session_that_ended_leave_the_pool(self) -> None:
        for end in (lambda: self.tenant_pool.waiter.errback(RedisUnreachable("away")), lambda: self.session.step.abandon()):
            self.tenant_pool, self.session = TenantPool(is_open=False), Session()
            self.join()
            end()
            self.assertEqual(self.tenant_pool.users, 0)


class ScriptsTests(BackendCase):
    def test_each_tenant_has_its_own_until_it_is_gone(self) -> None:
        green = Tenant("green", 5)
        blues = self.backend.scripts(BLUE)
        found = blues.rewrite(b"redis.call('PUBLISH', 'a', 'x')")
        self.assertIs(self.backend.scripts(BLUE), blues)
        self.assertEqual(self.backend.scripts(green).known, {})
        self.backend.keep_only({BLUE})
        self.assertEqual(self.backend.scripts(BLUE).known, {found.sha: found.sha_in_redis})
        self.backend.keep_only({green})
        self.assertEqual(self.backend.scripts(BLUE).known, {})


class QueryTests(BackendCase):
    def test_the_answer_is_charged_to_the_tenant(self) -> None:
        self.limits.use({"blue": Limits(bytes_per_second=10)}, {"blue"})
        self.addCleanup(self.limits.of("blue").stop)
        self.backend.query(BLUE, [[b"INFO"]], self.session.step)
        self.work.callback([b"x" * 1000])
        self.assertEqual(self.session.results, [[b"x" * 1000]])
        self.assertTrue(self.limits.of("blue").rate_limiter.closed)

    def test_what_fails_says_why(self) -> None:
        for error, told in (
            (ControlError(messages.NET_TIMEOUT()), messages.UNANSWERED.text),
            (ControlError("large", "ERR too large"), "ERR too large"),
        ):
            self.session, self.work = Session(), defer.Deferred()
            self.backend.query(BLUE, [[b"INFO"]], self.session.step)
            self.work.errback(error)
            self.assertFails(told)

    def test_patterns_are_allowed_though_the_session_ends(self) -> None:
        """The work goes on after the session has ended: Redis may have the patterns by then."""
        cancelled: list[object] = []
        self.work = defer.Deferred(cancelled.append)
        self.backend.allow_patterns(BLUE, [b"blue:*"], self.session.step)
        self.session.step.abandon()
        self.assertEqual(cancelled, [])
        self.work.callback(None)
        self.assertEqual(self.session.results, [])
        self.assertEqual(self.left, [(BLUE, [b"blue:*"])])

    def test_patterns_that_redis_refuses(self) -> None:
        self.backend.allow_patterns(BLUE, [b"blue:*"], self.session.step)
        self.work.errback(ControlError("no"))
        self.assertFails(messages.UNANSWERED.text)
        self.assertEqual(self.left, [])

    def test_patterns_belong_to_the_session_until_it_leaves_them(self) -> None:
        self.backend.allow_patterns(BLUE, [b"blue:*"], self.session.step)
        self.work.callback(None)
        self.assertEqual((self.session.results, self.left), ([None], []))
        self.backend.leave_patterns(BLUE, {b"blue:*"})
        self.assertEqual(self.left, [(BLUE, {b"blue:*"})])

    def test_a_redis_that_is_busy_with_a_script_is_not_waited_for(self) -> None:
        clock = task.Clock()
        self.pool.hold = HeldWork(clock, 120.0, lambda: None)
        for error, told in ((ReplyError("BUSY Redis is busy"), "BUSY Redis is busy"), (ReplyError("LOADING"), None)):
            for ask in (self.backend.allow_patterns, self.backend.query):
                self.session, self.work = Session(), defer.Deferred()
                ask(BLUE, [b"blue:*"], self.session.step)
                self.work.errback(error)
                if told:
                    self.assertFails(told)
                else:
                    self.assertEqual(self.session.results, [])
                    self.session.step.abandon()
                    self.pool.hold.stop()
                    self.pool.hold = HeldWork(clock, 120.0, lambda: None)


class BugTests(BackendCase):
    """A bug ends the session that waits, which would wait for ever; without one, it is logged."""

    def asks(self) -> list[Callable[[], None]]:
        backend, step = self.backend, self.session.step
        return [
            lambda: backend.acquire(BLUE, 2, step),
            lambda: backend.query(BLUE, [[b"INFO"]], step),
            lambda: backend.allow_patterns(BLUE, [b"blue:*"], step),
        ]

    def test_a_session_that_waits_ends(self) -> None:
        for number in range(3):
            self.session, self.work = Session(), defer.Deferred()
            self.asks()[number]()
            self.work.errback(ZeroDivisionError())
            self.assertIsInstance(self.session.bugs.pop(), ZeroDivisionError)
            self.assertFalse(self.session.step.waits)
        self.session, self.tenant_pool = Session(), TenantPool(is_open=False)
        self.backend.join(BLUE, 2, self.session.step)
        self.tenant_pool.waiter.errback(ZeroDivisionError())
        self.assertIsInstance(self.session.bugs.pop(), ZeroDivisionError)
        self.assertEqual(self.tenant_pool.users, 0)

    def test_it_is_logged_if_nobody_waits(self) -> None:
        self.asks()[2]()
        self.session.step.abandon()
        self.work.errback(ZeroDivisionError())
        self.assertEqual((self.session.bugs, len(self.flushLoggedErrors(ZeroDivisionError))), ([], 1))
