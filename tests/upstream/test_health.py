"""Whether Redis answers, as its replies to PING show."""

from __future__ import annotations

from twisted.internet import defer, task
from twisted.logger import formatEvent
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.ops.logs import Log
from redisproxy.upstream.client import ControlError, NoReplyError, ReplyError
from redisproxy.upstream.health import Answers, Health


class Control:
    """A control connection whose Redis the test plays."""

    def __init__(self) -> None:
        self.connected = True
        self.asked: list[defer.Deferred] = []

    async def ask(self, *words: str) -> object:
        assert words == ("PING",)
        self.asked.append(defer.Deferred())
        return await self.asked[-1]


class HealthTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.control = Control()
        self.health = Health(self.clock, self.control)
        self.lines: list[str] = []
        self.patch(Health, "_log", Log(observer=lambda event: self.lines.append(formatEvent(event))))
        self.health.startService()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.health.stopService)

    def passes(self, seconds: float) -> None:
        self.clock.pump([0.5] * int(2 * seconds))

    def answers(self, answer: object = b"PONG") -> None:
        self.control.asked[-1].callback(answer)

    def fails(self, error: Exception) -> None:
        self.control.asked[-1].errback(error)

    def test_it_is_asked_each_second_and_not_before_it_answered(self) -> None:
        self.passes(3)
        self.assertEqual((len(self.control.asked), self.health.unanswered), (1, 2.0))
        self.answers()
        self.assertEqual((self.health.unanswered, self.health.state), (0.0, Answers.UP))
        self.passes(1)
        self.assertEqual((len(self.control.asked), self.lines), (2, []))

    def test_one_that_hangs_is_told_once_and_so_is_its_end(self) -> None:
        self.passes(bounds.HEALTH_CHECK_SECONDS + bounds.HUNG_SECONDS - 0.5)
        self.assertEqual((self.health.state, self.lines), (Answers.UP, []))
        self.passes(60)
        self.assertIs(self.health.state, Answers.HUNG)
        self.assertEqual(self.lines, ["Redis has not answered a PING for more than 6 s: commands wait"])
        self.answers()
        self.assertEqual((self.health.state, self.health.unanswered), (Answers.UP, 0.0))
        self.assertEqual(self.lines[1:], ["Redis answers as usual again"])

    def test_it_hangs_until_it_answers_though_its_connection_is_given_up(self) -> None:
        self.passes(bounds.HEALTH_CHECK_SECONDS + bounds.CONTROL_REPLY_SECONDS)
        self.control.connected = False
        self.fails(NoReplyError("no reply within 10 s"))
        self.passes(20)
        waits = bounds.CONTROL_REPLY_SECONDS + 20
        self.assertEqual((self.health.state, self.health.unanswered), (Answers.HUNG, waits))
        self.control.connected = True
        self.passes(1)
        self.assertEqual((len(self.control.asked), self.health.unanswered), (2, waits + 1))
        self.answers()
        self.assertEqual((self.health.state, len(self.lines)), (Answers.UP, 2))

    def test_a_connection_that_is_lost_says_nothing(self) -> None:
        self.passes(4)
        self.control.connected = False
        self.fails(ControlError("the connection was lost"))
        self.passes(60)
        self.assertEqual((len(self.control.asked), self.health.unanswered, self.lines), (1, 0.0, []))

    def test_what_it_says_of_itself(self) -> None:
        for text, state, line in (
            (
                "BUSY Redis is busy running a script.",
                Answers.BUSY,
                "Redis is busy with a script, and answers -BUSY to all other commands",
            ),
            ("LOADING Redis is loading the dataset in memory", Answers.LOADING, "Redis answers as usual again"),
            ("MASTERDOWN Link with MASTER is down", Answers.UP, None),
        ):
            self.passes(1)
            self.fails(ReplyError(text))
            self.assertEqual((self.health.state, self.lines), (state, [line] if line else []))
            self.lines.clear()

    def test_it_ends_while_one_waits(self) -> None:
        self.passes(2)
        self.health.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.health.startService()
