"""When a thread beside the reactor rests, and the thread itself."""

from __future__ import annotations

import queue
import threading
import unittest
from collections.abc import Callable

from twisted.internet import defer
from twisted.python.failure import Failure

from redisproxy.sources.throttle import CPU_FRACTION, PIECE, Throttle, in_daemon_thread

from ..support.waiting import LIMIT


class ThrottleTests(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.throttle = Throttle(lambda: self.now, self.slept.append)
        self.throttle.start()

    def work(self, seconds: float) -> list[float]:
        """How long it rests after this."""
        self.slept.clear()
        self.now += seconds
        self.throttle.yield_cpu()
        return self.slept

    def test_work_is_a_share_of_the_time(self) -> None:
        [slept] = self.work(0.004)
        self.assertAlmostEqual(0.004 / (0.004 + slept), CPU_FRACTION)

    def test_small_pieces_are_added_up(self) -> None:
        self.assertEqual(self.work(PIECE * 0.6), [])
        [slept] = self.work(PIECE * 0.6)
        self.assertAlmostEqual(PIECE * 1.2 / (PIECE * 1.2 + slept), CPU_FRACTION)
        self.assertEqual(self.work(PIECE * 0.6), [])

    def test_what_was_before_the_start_does_not_count(self) -> None:
        self.now += 1000
        self.throttle.start()
        self.assertEqual(self.work(0), [])

    def test_a_stop_ends_a_rest(self) -> None:
        works = iter([0.0, 1e6, 1e6])
        throttle = Throttle(lambda: next(works))
        throttle.start()
        thread = threading.Thread(target=throttle.yield_cpu)
        thread.start()
        throttle.stop()
        thread.join(30)
        self.assertFalse(thread.is_alive())


class DaemonThreadTests(unittest.TestCase):
    def called(self, call: Callable[[], object]) -> tuple[defer.Deferred[object], Callable[[], object]]:
        """Returns the Deferred, and what is to be called in the reactor."""
        back: queue.Queue[tuple[Callable[..., object], object]] = queue.Queue()
        done = in_daemon_thread(lambda function, result: back.put((function, result)), call)
        function, result = back.get(timeout=LIMIT)
        return done, lambda: function(result)

    def test_the_result_comes_in_the_reactor(self) -> None:
        done, in_reactor = self.called(lambda: threading.current_thread().daemon)
        self.assertFalse(done.called)
        in_reactor()
        self.assertIs(done.result, True)

    def test_a_failure(self) -> None:
        done, in_reactor = self.called(lambda: 1 // 0)
        in_reactor()
        failures: list[Failure] = []
        done.addErrback(failures.append)
        self.assertTrue(failures[0].check(ZeroDivisionError))
