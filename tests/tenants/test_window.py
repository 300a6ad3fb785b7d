"""`redisproxy.tenants.window`: how many commands of a tenant may keep Redis busy at once."""

from __future__ import annotations

from twisted.internet import task
from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds
from redisproxy.tenants.window import Window


class Flight:
    """Commands under way."""

    def __init__(self, commands: int = 1) -> None:
        self.commands = commands
        self.since = 0.0
        self.hastened = 0

    def hasten(self) -> None:
        self.hastened += 1


class Waiter:
    """Sends one command when it goes on."""

    def __init__(self, window: Window, commands: int = 1) -> None:
        self.window = window
        self.flight = Flight(commands)
        self.waits = True
        window.wait(self, commands)

    def finish(self, result: None) -> bool:
        assert self.waits
        self.waits = False
        self.window.sent(self.flight)
        return True


class WindowCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.window = Window(self.clock.seconds, self.clock.callLater)

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def sent(self, commands: int = 1) -> Flight:
        flight = Flight(commands)
        self.window.sent(flight)
        return flight

    def answer(self, commands: int = 1, after: float = 0.0, took: float | None = None) -> None:
        """Sends so many commands, which are answered after so many seconds."""
        flight = self.sent(commands)
        self.clock.advance(after)
        self.window.answered(flight, took)

    def opened(self) -> None:
        """Opens the window as far as it goes."""
        while self.window.size < bounds.WINDOW_MOST:
            self.answer(self.window.size)


class SizeTests(WindowCase):
    def test_it_doubles_as_answers_come_quickly(self) -> None:
        sizes = []
        for _ in range(5):
            sizes.append(self.window.size)
            self.answer(self.window.size)
        self.assertEqual(sizes, [2, 4, 8, 16, 16])

    def test_one_after_a_late_answer_until_redis_has_told_its_own_time(self) -> None:
        self.opened()
        self.answer(16, after=0.5)
        self.assertEqual((self.window.size, self.window.times(1)), (1, True))
        # The answers are late still, but another tenant keeps Redis busy.
        for size in (2, 4, 8, 16):
            self.answer(self.window.size, after=0.5, took=0.001)
            self.assertEqual(self.window.size, size)

    def test_one_that_kept_redis_busy_leaves_the_window_small(self) -> None:
        self.opened()
        self.answer(16, after=2.0, took=2.0)
        self.assertEqual(self.window.size, 1)
        self.answer()
        self.assertEqual(self.window.size, 1, "it stays so for ten times as long")
        self.clock.advance(2.0 * bounds.WINDOW_REST)
        for _ in range(9):
            self.answer(self.window.size)
        self.assertEqual(self.window.size, bounds.WINDOW_MOST // 2)
        self.clock.advance(bounds.WINDOW_DOUBT_SECONDS)
        self.answer(8)
        self.answer(8)
        self.assertEqual(self.window.size, bounds.WINDOW_MOST)

    def test_a_run_does_not_need_places_while_it_is_wide(self) -> None:
        self.opened()
        flight = self.sent(bounds.WINDOW_MOST)
        self.assertEqual((self.window.unused, self.window.free, self.window.has(1)), (0, bounds.WINDOW_MOST, False))
        Waiter(self.window)
        self.assertEqual(self.window.free, bounds.WINDOW_MOST)
        self.clock.advance(0.5)
        self.window.answered(flight)
        self.assertEqual((self.window.size, self.window.free), (1, 0))

    def test_it_is_made_narrow(self) -> None:
        """Redis's log says that what comes here now is slow. If it is quick, the window grows."""
        self.opened()
        self.window.narrow()
        self.assertEqual((self.window.size, self.window.free, self.window.times(1)), (1, 1, True))
        self.answer(1, took=0.05)
        self.assertEqual(self.window.size, 1)
        self.clock.advance(0.05 * bounds.WINDOW_REST)
        for size in (2, 4, 8):
            self.answer(self.window.size, took=0.001)
            self.assertEqual(self.window.size, size)

    def test_it_is_slow_while_commands_keep_redis_busy(self) -> None:
        """Not after commands that took a little too long, nor after a late answer."""
        self.opened()
        self.answer(16, took=2 * bounds.LATE_SECONDS)
        self.assertEqual((self.window.size, self.window.slow), (8, False))
        self.clock.advance(1.0)
        self.answer(8, after=0.5)
        self.assertEqual((self.window.size, self.window.slow), (1, False))
        self.answer(1, after=0.5, took=0.2)
        self.assertTrue(self.window.slow)
        self.clock.advance(0.2 * bounds.WINDOW_REST)
        self.assertFalse(self.window.slow)

    def test_as_many_as_redis_runs_in_time(self) -> None:
        self.opened()
        self.answer(16, after=0.5, took=2 * bounds.LATE_SECONDS)
        self.assertEqual(self.window.size, 8)
        self.answer(1, after=0.5, took=2 * bounds.LATE_SECONDS)
        self.assertEqual(self.window.size, 1)
        self.clock.advance(1.0)
        for _ in range(5):
            self.answer(self.window.size)
        self.assertEqual(self.window.size, 16, "none of them took so long that the window stays smaller")

    def test_bursts_become_smaller_and_smaller(self) -> None:
        for most in (16, 8, 4, 2, 2):
            for _ in range(5):
                self.answer(self.window.size)
            self.assertEqual(self.window.size, most)
            self.answer(most, after=1.0, took=1.0)
            self.clock.advance(1.0 * bounds.WINDOW_REST)

    def test_a_time_that_nobody_told_is_no_evidence_while_there_are_doubts(self) -> None:
        self.answer(after=0.5)
        self.answer(after=0.5, took=0.0)
        self.assertEqual(self.window.size, 2)
        self.answer(after=0.5)
        self.assertEqual(self.window.size, 2)

    def test_no_window_is_full_without_a_timed_command(self) -> None:
        self.opened()
        for commands in (1, 2, 5, 16):
            flights, timed = [], 0
            while self.window.has(commands):
                timed += self.window.times(commands)
                flights.append(self.sent(commands))
            self.assertGreaterEqual(timed, 1)
            for flight in flights:
                self.window.answered(flight)

    def test_few_under_way_are_not_timed(self) -> None:
        for _ in range(100):
            self.assertFalse(self.window.times(4))


class WaitingTests(WindowCase):
    def test_the_first_that_waits_goes_first_and_nobody_overtakes(self) -> None:
        one, two = self.sent(), self.sent()
        self.assertFalse(self.window.has(1))
        first, second = Waiter(self.window), Waiter(self.window)
        self.assertEqual((one.hastened, two.hastened), (2, 2))
        self.clock.advance(0.5)
        self.window.answered(one)
        self.assertEqual((first.waits, second.waits, self.window.free), (True, True, 0))
        self.window.answered(two, 0.5)
        self.assertEqual((first.waits, second.waits, self.window.has(1)), (False, True, False))
        self.window.answered(first.flight)
        self.assertFalse(second.waits)

    def test_more_than_the_window_has_wait_until_it_is_empty(self) -> None:
        one = self.sent()
        many = Waiter(self.window, commands=100)
        self.assertTrue(many.waits)
        self.window.answered(one)
        self.assertFalse(many.waits)
        self.assertFalse(self.window.has(1))
        self.window.answered(many.flight)
        self.assertTrue(self.window.has(1))

    def test_who_waits_no_more_holds_nobody_up(self) -> None:
        self.sent()
        many, behind = Waiter(self.window, commands=2), Waiter(self.window)
        self.window.leave(many)
        self.window.leave(many)
        self.assertFalse(behind.waits)
        self.assertTrue(many.waits)

    def test_one_that_goes_on_and_sends_nothing_holds_nobody_up(self) -> None:
        one, two = self.sent(), self.sent()

        class Idle:
            def finish(self, result: None) -> bool:
                return False

        self.window.wait(Idle(), 1)
        behind = Waiter(self.window)
        self.window.answered(one)
        self.assertFalse(behind.waits)
        self.window.answered(two)


class LostTests(WindowCase):
    def test_places_of_a_lost_connection_come_back_after_a_while(self) -> None:
        """Else each of many sessions that end at once could leave a long command to Redis."""
        one, two = self.sent(), self.sent()
        waiter = Waiter(self.window)
        self.window.lost(one)
        self.window.lost(two)
        self.assertTrue(waiter.waits)
        self.clock.advance(bounds.WINDOW_LOST_SECONDS)
        self.assertFalse(waiter.waits)
        self.assertEqual(self.window.size, bounds.WINDOW_FIRST)

    def test_what_was_never_sent_gives_its_places_back_once(self) -> None:
        one = self.sent()
        for end in (self.window.unsent, self.window.answered, self.window.lost, self.window.unsent):
            end(one)
        self.assertEqual(self.window.free, self.window.size)
