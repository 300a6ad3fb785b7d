"""How long is waited before another attempt, and that only one is scheduled."""

from __future__ import annotations

from twisted.internet import task
from twisted.trial import unittest

from redisproxy.ops.retry import Backoff, Retry


class BackoffTests(unittest.SynchronousTestCase):
    def test_delays_grow_up_to_the_bound(self) -> None:
        backoff = Backoff(0.25, 10.0)
        self.assertEqual([backoff.delay(n) for n in range(1, 9)], [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0])
        self.assertEqual(backoff.delay(1_000_000), 10.0)
        self.assertEqual([Backoff(1.0, 9.0, factor=1.5).delay(n) for n in (1, 2, 3)], [1.0, 1.5, 2.25])

    def test_the_same_delay_each_time(self) -> None:
        self.assertEqual({Backoff(5.0, 5.0).delay(n) for n in (1, 2, 100)}, {5.0})

    def test_a_bound_below_the_first_delay_holds(self) -> None:
        self.assertEqual(Backoff(1.0, 0.2).delay(1), 0.2)

    def test_chance_adds_seconds(self) -> None:
        for chance, delays in ((0.0, [1.0, 2.0, 3.0]), (0.5, [1.5, 2.5, 3.5])):
            backoff = Backoff(1.0, 3.0, spread=1.0, chance=lambda: chance)  # noqa: B023
            self.assertEqual([backoff.delay(n) for n in (1, 2, 3)], delays)

    def test_chance_takes_off_a_part(self) -> None:
        for chance, delays in ((0.0, [1.0, 2.0, 3.0]), (1.0, [0.75, 1.5, 2.25])):
            backoff = Backoff(1.0, 3.0, shorten=0.25, chance=lambda: chance)  # noqa: B023
            self.assertEqual([backoff.delay(n) for n in (1, 2, 3)], delays)

    def test_chance_by_default_differs(self) -> None:
        backoff = Backoff(1.0, 60.0, spread=1.0)
        delays = {backoff.delay(1) for _ in range(20)}
        self.assertGreater(len(delays), 1)
        self.assertTrue(all(1.0 <= delay < 2.0 for delay in delays))

    def test_without_a_part_of_chance_none_is_drawn(self) -> None:
        def drawn() -> float:
            raise AssertionError("a number was drawn")

        self.assertEqual(Backoff(1.0, 2.0, chance=drawn).delay(2), 2.0)


class RetryTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.attempts: list[tuple[object, ...]] = []
        self.retry = Retry(self.clock, Backoff(1.0, 4.0), lambda *arguments: self.attempts.append(arguments), "a", 2)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def test_it_is_tried_again_after_the_delay(self) -> None:
        self.assertIsNone(self.retry.due)
        for delay in (1.0, 2.0, 4.0, 4.0):
            self.attempts.clear()
            self.assertEqual(self.retry.failed(), delay)
            self.assertEqual(self.retry.due, self.clock.seconds() + delay)
            self.clock.advance(delay - 0.01)
            self.assertEqual(self.attempts, [])
            self.clock.advance(0.01)
            self.assertEqual(self.attempts, [("a", 2)])
            self.assertIsNone(self.retry.due)

    def test_an_attempt_that_fails_at_once_schedules_the_next(self) -> None:
        retry = Retry(self.clock, Backoff(1.0, 4.0), lambda: retry.failed())
        retry.failed()
        self.clock.advance(1.0)
        self.assertEqual(retry.due, 3.0)
        retry.cancel()

    def test_only_one_attempt_is_scheduled(self) -> None:
        self.retry.failed()
        self.clock.advance(0.25)
        self.assertEqual(self.retry.failed(), 0.75)
        self.assertEqual(self.retry.failures, 1)
        self.clock.advance(10)
        self.assertEqual(self.attempts, [("a", 2)])

    def test_whoever_refuses_may_ask_for_a_longer_wait(self) -> None:
        self.assertEqual(self.retry.failed(at_least=30.0), 30.0)
        self.retry.cancel()
        self.assertEqual(self.retry.failed(at_least=0.1), 2.0)
        self.retry.cancel()

    def test_after_a_success_delays_are_short_again(self) -> None:
        self.retry.failed()
        self.clock.advance(1)
        self.retry.succeeded()
        self.assertEqual(self.retry.failed(), 1.0)
        self.retry.cancel()

    def test_what_is_cancelled_is_not_tried(self) -> None:
        self.retry.cancel()
        self.retry.failed()
        self.retry.cancel()
        self.clock.advance(60)
        self.assertEqual((self.attempts, self.retry.due), ([], None))
        self.assertEqual(self.retry.failed(), 2.0)
        self.retry.cancel()
