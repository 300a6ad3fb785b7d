"""How long work waits while Redis is away, with a clock of the tests."""

from __future__ import annotations

from contextlib import ExitStack

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.base import BACKOFF as BASE_BACKOFF
from redisproxy.upstream.base import HURRIED, Base
from redisproxy.upstream.connection import RedisUnreachable, UpstreamError
from redisproxy.upstream.hold import BACKOFF, SLOW, TOGETHER, HeldWork, TenantPaused, is_away, is_lasting

from ..support.turns import turn

BLUE, GREEN = Tenant("blue", 3), Tenant("green", 5)


def away() -> RedisUnreachable:
    return RedisUnreachable(messages.REDIS_UNKNOWN())


class _Done(list):
    """Attempts that succeed as soon as they are made."""

    def append(self, attempt: defer.Deferred[str]) -> None:
        super().append(attempt)
        attempt.callback("done")


class HoldTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.hurried = 0
        self.attempts: list[defer.Deferred[str]] = []
        self.hold = HeldWork(self.clock, 15.0, self.hurry)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def hurry(self) -> None:
        self.hurried += 1

    def work(self, tenant: Tenant = BLUE) -> defer.Deferred[str]:
        def attempt() -> defer.Deferred[str]:
            self.attempts.append(defer.Deferred())
            return self.attempts[-1]

        return defer.Deferred.fromCoroutine(self.hold.keep_trying(tenant, attempt))

    def fails(self, error: Exception | None = None, all_of_them: bool = True) -> None:
        if all_of_them:
            self.hold.away()
        self.attempts[-1].errback(error or away())

    def test_what_succeeds_at_once(self) -> None:
        work = self.work()
        self.attempts[0].callback("done")
        self.assertEqual((self.successResultOf(work), self.hurried), ("done", 0))

    def test_it_is_tried_again_as_soon_as_redis_is_reached(self) -> None:
        work = self.work()
        self.fails()
        self.assertTrue(self.hold.waits)
        self.assertEqual((self.hold.holds(BLUE), self.hold.holds(GREEN)), (True, False))
        self.assertEqual(self.hurried, 1)
        self.clock.advance(14.9)
        self.assertEqual(len(self.attempts), 1)
        self.hold.reached()
        self.assertEqual(len(self.attempts), 2)
        self.attempts[1].callback("done")
        self.assertEqual(self.successResultOf(work), "done")
        self.assertFalse(self.hold.waits or self.hold.holds(BLUE))

    def test_tenants_take_turns_when_redis_is_reached(self) -> None:
        """Perhaps Redis takes few connections, and one tenant wants many."""
        of_blue = []
        for _ in range(3 * TOGETHER):
            of_blue.append(self.work())
            self.fails()
        of_green = [self.work(GREEN)]
        self.fails()
        before = len(self.attempts)
        self.hold.reached()
        self.assertEqual(len(self.attempts), before + TOGETHER)
        self.attempts[before + 1].callback("done")
        self.assertEqual(self.successResultOf(of_green[0]), "done")
        # Nothing is kept for work that has ended, or that nobody waits for.
        for work in of_blue:
            work.cancel()
            self.failureResultOf(work, defer.CancelledError)
        self.assertFalse(self.hold.waits)

    def test_work_counts_as_held_while_an_attempt_to_connect_is_slow(self) -> None:
        for then in ("answer", "failure", "end of the caller"):
            with self.subTest(then), ExitStack() as connecting:
                work = self.work()
                self.clock.advance(2 * SLOW)
                self.assertFalse(self.hold.holds(BLUE), "Redis takes long to answer")
                connecting.enter_context(self.hold.connecting())
                self.clock.advance(0.99 * SLOW)
                self.assertFalse(self.hold.holds(BLUE))
                self.clock.advance(0.01 * SLOW)
                self.assertEqual([self.hold.holds(tenant) for tenant in (BLUE, GREEN)], [True, False])
                connecting.close()
                self.assertFalse(self.hold.holds(BLUE))
                connecting.enter_context(self.hold.connecting())
                self.clock.advance(SLOW)
                if then == "failure":
                    self.fails()
                    self.assertTrue(self.hold.holds(BLUE))
                    self.hold.reached()
                if then == "end of the caller":
                    work.cancel()
                    self.failureResultOf(work, defer.CancelledError)
                else:
                    self.attempts[-1].callback("done")
                    self.assertEqual(self.successResultOf(work), "done")
                self.assertFalse(self.hold.holds(BLUE))

    def test_the_time_counts_from_when_redis_was_found_away(self) -> None:
        """Whoever comes late waits less: after the time, Redis would refuse connections at once."""
        first = self.work()
        self.fails()
        self.clock.advance(10)
        second = self.work()
        self.fails()
        self.clock.advance(4.9)
        self.assertNoResult(first)
        self.clock.advance(0.2)  # one attempt more for each
        for attempt in self.attempts[2:]:
            attempt.errback(away())
        for work in (first, second):
            self.failureResultOf(work, RedisUnreachable)
        third = self.work()
        self.fails()
        self.failureResultOf(third, RedisUnreachable)

    def pause(self, *tenants: Tenant) -> None:
        _, ends = self.hold.pause(set(tenants))
        self.hold.resume(ends)

    def test_work_of_a_paused_tenant_is_not_tried(self) -> None:
        self.assertEqual(self.hold.pause({BLUE}), ({BLUE}, set()))
        self.assertEqual(self.hold.pause({BLUE}), (set(), set()), "it goes on")
        work = [self.work(), self.work()]
        self.assertEqual([self.hold.paused(tenant) for tenant in (BLUE, GREEN)], [True, False])
        self.assertEqual([self.hold.holds(tenant) for tenant in (BLUE, GREEN)], [True, False])
        self.clock.advance(14.9)
        self.assertEqual(self.attempts, [])
        self.pause()
        self.assertEqual(len(self.attempts), 2)
        for attempt, waiting in zip(self.attempts, work, strict=True):
            attempt.callback("done")
            self.assertEqual(self.successResultOf(waiting), "done")
        self.assertFalse(self.hold.holds(BLUE))

    def test_the_time_counts_from_the_beginning_of_the_pause(self) -> None:
        self.pause(BLUE)
        first = self.work()
        self.clock.advance(10)
        second = self.work()
        self.clock.advance(4.9)
        self.assertNoResult(first)
        self.clock.advance(0.1)
        for work in (first, second, self.work()):
            self.failureResultOf(work, TenantPaused)
        self.assertEqual((self.attempts, self.hold.holds(BLUE)), ([], False))

    def test_a_pause_begins_during_an_attempt(self) -> None:
        """The attempt finds that itself. It is no failure of Redis, nor of the work."""
        work = self.work()
        self.pause(BLUE)
        self.attempts[0].errback(TenantPaused())
        self.assertNoResult(work)
        self.clock.advance(10)
        self.pause()
        self.attempts[1].callback("done")
        self.assertEqual(self.successResultOf(work), "done")

    def test_a_pause_begins_while_redis_is_away(self) -> None:
        work = self.work()
        self.fails()
        self.pause(BLUE)
        self.hold.reached()
        self.attempts[1].errback(TenantPaused())
        self.assertNoResult(work)
        self.pause()
        self.attempts[2].callback("done")
        self.assertEqual(self.successResultOf(work), "done")

    def test_what_nobody_waits_for_any_more(self) -> None:
        self.pause(BLUE)
        work = self.work()
        work.cancel()
        self.failureResultOf(work, defer.CancelledError)
        self.pause()
        self.assertEqual((self.attempts, self.hold.holds(BLUE)), ([], False))

    def test_the_proxy_ends_during_a_pause(self) -> None:
        self.pause(BLUE)
        work = self.work()
        self.hold.stop()
        self.failureResultOf(work, TenantPaused)
        self.failureResultOf(self.work(), TenantPaused)

    def test_not_all_is_tried_again_at_once(self) -> None:
        """A Redis with too many clients takes one now and then."""
        works = []
        for _ in range(100):
            works.append(self.work())
            self.fails()
        self.hold.reached()
        self.assertEqual(len(self.attempts), 100 + TOGETHER)
        self.fails()  # it is away again
        self.assertEqual(len(self.attempts), 100 + TOGETHER)
        self.hold.reached()
        self.assertEqual(len(self.attempts), 100 + 2 * TOGETHER)
        # Whatever becomes of one, others go on.
        self.attempts[100].callback("done")
        self.assertEqual(len(self.attempts), 100 + 3 * TOGETHER)
        self.fails(all_of_them=False)
        self.assertEqual(len(self.attempts), 100 + 4 * TOGETHER)
        works[1].cancel()
        self.assertEqual(len(self.attempts), 100 + 5 * TOGETHER)
        self.hold.reached()
        self.assertEqual(len(self.attempts), 100 + 6 * TOGETHER)
        for attempt in self.attempts:
            if not attempt.called:
                attempt.callback("done")
        self.clock.advance(BACKOFF.longest)
        self.attempts[-1].callback("done")
        self.assertTrue(all(work.called for work in works))
        self.failureResultOf(works[1], defer.CancelledError)

    def test_many_that_succeed_at_once(self) -> None:
        works = [self.work() for _ in range(5000)]
        for attempt in self.attempts:
            self.hold.away()
            attempt.errback(away())
        self.attempts = _Done()
        self.hold.reached()
        self.assertTrue(all(work.called for work in works))

    def test_where_redis_serves_others_it_is_tried_again_after_a_delay(self) -> None:
        work = self.work()
        while not work.called:
            self.fails(all_of_them=False)
            self.clock.advance(BACKOFF.longest + BACKOFF.spread)
        self.failureResultOf(work, RedisUnreachable)
        self.assertEqual(self.hurried, 0)
        self.assertTrue(15 < self.clock.seconds() < 17, self.clock.seconds())
        self.assertGreater(len(self.attempts), 25)

    def test_what_cannot_pass_fails_at_once(self) -> None:
        work = self.work()
        self.fails(UpstreamError(messages.REDIS_NO_ACL(), "ERR no"))
        self.failureResultOf(work, UpstreamError)

    def test_without_time_it_fails_at_once(self) -> None:
        self.hold = HeldWork(self.clock, 0.0, self.hurry)
        work = self.work()
        self.fails()
        self.failureResultOf(work, RedisUnreachable)

    def test_the_caller_leaves(self) -> None:
        work = self.work()
        self.fails()
        work.cancel()
        self.failureResultOf(work, defer.CancelledError)
        self.assertFalse(self.hold.waits)

    def test_the_proxy_stops(self) -> None:
        work = self.work()
        self.fails()
        self.hold.stop()
        self.attempts[-1].errback(away())
        self.failureResultOf(work, RedisUnreachable)


class LastingTests(unittest.SynchronousTestCase):
    def test_only_no_such_password_right_database_or_command(self) -> None:
        for error in (
            b"WRONGPASS invalid username-password pair or user is disabled.",
            b"ERR invalid password",
            b"ERR AUTH <password> called without any password configured for the default user.",
            b"NOPERM this user has no permissions to run the 'select' command",
            b"ERR DB index is out of range",
            b"ERR unknown command 'HELLO'",
            b"NOPROTO unsupported protocol version",
        ):
            self.assertTrue(is_lasting(error) and is_lasting(b"-" + error), error)
        for error in (
            b"LOADING Redis is loading the dataset in memory",
            b"BUSY Redis is busy running a script.",
            b"MASTERDOWN Link with MASTER is down",
            b"ERR max number of clients reached",
            b"OOM command not allowed",
            b"READONLY You can't write against a read only replica.",
            b"TRYAGAIN",
            b"ERR anything else",
            b"",
        ):
            self.assertFalse(is_lasting(error), error)

    def test_which_answers_to_ping_say_that_it_is_away(self) -> None:
        for answer in (b"+PONG", b"-BUSY Redis is busy", b"-MISCONF Redis is configured to save", b"-NOPERM no 'ping'"):
            self.assertFalse(is_away(answer), answer)
        for answer in (b"-LOADING Redis is loading", b"-MASTERDOWN Link is down", b"-ERR max number of clients", b"+OK"):
            self.assertTrue(is_away(answer), answer)


class ManyTests(unittest.SynchronousTestCase):
    """Much work of a paused tenant goes on in several turns of the reactor."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.hold = HeldWork(self.clock, 15.0, lambda: None)
        self.tried: list[tuple[Tenant, int]] = []
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def work(self, tenant: Tenant, number: int) -> defer.Deferred[None]:
        async def attempt() -> None:
            self.tried.append((tenant, number))

        return defer.Deferred.fromCoroutine(self.hold.keep_trying(tenant, attempt))

    def turn(self) -> int:
        before = len(self.tried)
        turn(self.clock)
        return len(self.tried) - before

    def paused(self, count: int, *tenants: Tenant) -> list[defer.Deferred[None]]:
        self.hold.pause({*tenants})
        return [self.work(tenant, number) for tenant in tenants for number in range(count)]

    def test_some_in_each_turn_in_the_order_in_which_it_came(self) -> None:
        count = 3 * bounds.RESUMED_PER_TURN
        works = self.paused(count, BLUE)
        _, ends = self.hold.pause(set())
        self.hold.resume(ends)
        self.assertFalse(self.hold.paused(BLUE))
        self.assertEqual(len(self.tried), bounds.RESUMED_PER_TURN)
        late = self.work(BLUE, count)
        self.assertEqual((self.turn(), self.turn()), (bounds.RESUMED_PER_TURN, bounds.RESUMED_PER_TURN))
        self.clock.advance(0)
        self.assertEqual(self.tried, [(BLUE, number) for number in range(count + 1)])
        for work in (*works, late):
            self.successResultOf(work)
        self.work(BLUE, 0)
        self.assertEqual(len(self.tried), count + 2, "nothing waits any more")

    def test_one_tenant_after_the_other(self) -> None:
        self.paused(3 * bounds.RESUMED_PER_TURN, BLUE, GREEN)
        _, ends = self.hold.pause(set())
        self.hold.resume(ends)
        blue = sum(tenant is BLUE for tenant, _ in self.tried)
        self.assertLessEqual(abs(2 * blue - bounds.RESUMED_PER_TURN), 1)
        self.clock.pump([0] * 10)
        self.assertEqual(len(self.tried), 6 * bounds.RESUMED_PER_TURN)

    def test_a_pause_that_begins_again_holds_the_rest(self) -> None:
        works = self.paused(2 * bounds.RESUMED_PER_TURN, BLUE)
        _, ends = self.hold.pause(set())
        self.hold.resume(ends)
        self.assertEqual(self.hold.pause({BLUE}), ({BLUE}, set()))
        self.assertTrue(self.hold.paused(BLUE))
        self.assertEqual(self.turn(), 0)
        _, ends = self.hold.pause(set())
        self.hold.resume(ends)
        self.clock.advance(0)
        self.assertEqual(len(self.tried), len(works))

    def test_the_time_of_some_is_over_meanwhile(self) -> None:
        works = self.paused(2 * bounds.RESUMED_PER_TURN, BLUE)
        self.clock.advance(14.9)
        _, ends = self.hold.pause(set())
        self.hold.resume(ends)
        self.clock.advance(1.0)
        for work in works:
            self.successResultOf(work)

    def test_the_proxy_ends_meanwhile(self) -> None:
        works = self.paused(2 * bounds.RESUMED_PER_TURN, BLUE)
        _, ends = self.hold.pause(set())
        self.hold.resume(ends)
        self.hold.stop()
        for work in works[bounds.RESUMED_PER_TURN :]:
            self.failureResultOf(work, TenantPaused)


class HurryTests(unittest.SynchronousTestCase):
    """While work waits, the proxy looks soon whether Redis is back."""

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.attempts = 0
        self.waits = False
        self.base = Base(self.clock, lambda: True, self.open, lambda _: None, lambda: self.waits)
        self.addCleanup(self.base.stop)

    async def open(self) -> None:
        self.attempts += 1
        raise away()

    def test_the_next_attempt_comes_sooner(self) -> None:
        self.base.start()
        self.assertEqual(self.attempts, 1)
        self.clock.advance(BASE_BACKOFF.first - 0.01)
        self.assertEqual(self.attempts, 1)
        self.waits = True
        self.base.hurry()
        self.base.hurry()
        self.clock.advance(HURRIED.first + HURRIED.spread)
        self.assertEqual(self.attempts, 2)
        longest = HURRIED.longest + HURRIED.spread
        self.clock.pump([longest] * 10)
        self.assertEqual(self.attempts, 12)

    def test_it_is_as_patient_as_before_when_nobody_waits(self) -> None:
        self.waits = True
        self.base.start()
        self.waits = False
        self.clock.advance(HURRIED.first + HURRIED.spread)
        self.assertEqual(self.attempts, 2)
        self.clock.advance(BASE_BACKOFF.first - 0.01)
        self.assertEqual(self.attempts, 2)
        self.base.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
