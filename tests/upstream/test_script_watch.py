"""When a script is ended, and whose it is then said to be."""

from __future__ import annotations

from twisted.internet import defer, task
from twisted.logger import formatEvent
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.ops.logs import Log
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.client import ControlError, ReplyError
from redisproxy.upstream.script_watch import ScriptWatch

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
FUNCTION = "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE."
ERROR = b"-ERR user_script:1: Script killed by user with SCRIPT KILL.\r\n"
GRACE = bounds.SCRIPT_GRACE_SECONDS


class Runner:
    """A connection over which a script was sent."""

    awaits_script = True
    held = False

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.bytes_received = 0
        self.seen: object = None

    def spy(self, seen: object) -> None:
        self.seen = seen

    def receives(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self.seen is not None:
            self.seen(data)


class WatchCase(unittest.SynchronousTestCase):
    seconds = 5.0

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.asked: list[tuple[str, ...]] = []
        self.answers: list[defer.Deferred] = []
        self.runners: list[Runner] = []
        self.killed: list[Tenant] = []
        self.lines: list[str] = []
        self.patch(ScriptWatch, "_log", Log(observer=lambda event: self.lines.append(formatEvent(event))))
        self.watch = ScriptWatch(self.clock, self, self.seconds, lambda: self.runners, self.kill)
        self.watch.startService()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.watch.stopService)

    async def ask_unprobed(self, *words: str) -> object:
        self.asked.append(words)
        self.answers.append(defer.Deferred())
        return await self.answers[-1]

    def kill(self, tenant: Tenant) -> float:
        self.killed.append(tenant)
        return 50.0

    def run_by(self, *tenants: Tenant) -> list[Runner]:
        self.runners = [Runner(tenant) for tenant in tenants]
        return self.runners

    def busy(self, asked_ago: float = 0.0, error: str = BUSY) -> None:
        self.watch.busy(error, self.clock.seconds() - asked_ago)

    def passes(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05))

    def confirm(self, error: str = BUSY) -> None:
        """Redis answers a PING that it is still busy."""
        self.assertEqual(self.asked.pop(), ("PING",))
        self.answers.pop().errback(ReplyError(error))
        self.clock.advance(0)

    def ends(self) -> None:
        """Redis has been busy for long enough, and ends the script when it is asked to."""
        self.busy(asked_ago=5.0)
        self.passes(2 * GRACE)
        self.confirm()
        self.answers[-1].callback(b"OK")


class ScriptWatchTests(WatchCase):
    def test_after_the_time_the_script_is_ended_and_its_tenant_named(self) -> None:
        [runner] = self.run_by(BLUE)
        self.busy()
        self.passes(4.9)
        self.assertEqual(self.asked, [])
        self.passes(0.2)
        self.confirm()
        self.assertEqual(self.asked, [("SCRIPT", "KILL")])
        self.answers[-1].callback(b"OK")
        runner.receives(ERROR)
        self.passes(2 * GRACE)
        self.assertEqual((self.killed, len(self.lines)), ([BLUE], 1))
        self.assertIn("ended a script of team-blue: it ran for more than 5 s", self.lines[0])
        self.assertIn("refused for 50 s", self.lines[0])

    def test_the_time_in_which_redis_did_not_read_counts(self) -> None:
        """Redis says BUSY only after its own limit. Then the script has run for at least as long as
        the PING has waited. But what Redis answered before may not have been read yet.
        """
        self.run_by(BLUE)
        self.busy(asked_ago=5.0)
        self.assertEqual(self.asked, [])
        self.passes(2 * GRACE)
        self.confirm()
        self.assertEqual(self.asked, [("SCRIPT", "KILL")])

    def test_who_has_had_an_answer_runs_nothing(self) -> None:
        blue, green = self.run_by(BLUE, GREEN)
        self.busy(asked_ago=5.0)
        green.receives(BUSY.encode())
        self.runners = [blue]
        self.passes(2 * GRACE)
        self.confirm()
        self.answers[-1].callback(b"OK")
        self.passes(2 * GRACE)
        self.assertEqual(self.killed, [BLUE])  # known although its own error was not read

    def test_the_next_script_of_a_connection_has_its_own_time(self) -> None:
        [runner] = self.run_by(BLUE)
        self.busy()
        for _ in range(4):
            self.passes(3)
            runner.receives(b"+OK\r\n")
            self.busy()
        self.assertNotIn(("SCRIPT", "KILL"), self.asked)

    def test_replies_of_before_that_a_client_reads_slowly_give_no_more_time(self) -> None:
        """Otherwise one that reads a part now and then could keep Redis busy for minutes."""
        [runner] = self.run_by(BLUE)
        runner.held = True
        self.busy()
        for _ in range(5):
            self.passes(0.95)
            runner.receives(b"a part of what Redis has sent before")
            self.busy()
        self.passes(0.3)
        self.confirm()
        self.assertEqual(self.asked, [("SCRIPT", "KILL")])

    def test_a_process_without_a_script_asks_nothing(self) -> None:
        for _ in range(20):
            self.busy(asked_ago=5.0)
            self.passes(1)
        self.assertEqual(self.asked, [])

    def test_one_that_ends_by_itself_is_not_ended(self) -> None:
        self.run_by(BLUE)
        self.busy()
        self.passes(4)
        self.watch.answers(self.clock.seconds())
        self.passes(10)
        self.assertEqual((self.asked, self.clock.getDelayedCalls()), ([], []))

    def test_one_that_has_ended_by_the_last_question_is_not_ended(self) -> None:
        self.run_by(BLUE)
        self.busy(asked_ago=5.0)
        self.passes(2 * GRACE)
        self.answers.pop().callback(b"PONG")
        self.passes(10)
        self.assertEqual(self.asked, [("PING",)])

    def test_a_session_that_has_left(self) -> None:
        self.watch.script_left(BLUE)
        self.busy(asked_ago=5.0)
        self.passes(5.2)
        self.confirm()
        self.answers[-1].callback(b"OK")
        self.passes(2 * GRACE)
        self.assertEqual(self.killed, [BLUE])

    def test_a_session_that_left_before_redis_answered_is_forgotten(self) -> None:
        self.watch.script_left(BLUE)
        self.passes(0.5)
        self.watch.answers(self.clock.seconds())
        self.busy(asked_ago=5.0)
        self.passes(10)
        self.assertEqual(self.asked, [])

    def test_of_several_the_one_with_redis_error_is_named(self) -> None:
        _blue, green = self.run_by(BLUE, GREEN)
        self.ends()
        green.receives(ERROR)
        self.passes(2 * GRACE)
        self.assertEqual(self.killed, [GREEN])

    def test_the_error_may_stand_behind_large_replies(self) -> None:
        """As in a transaction that reads a large value, and then runs the script."""
        blue, green = self.run_by(BLUE, GREEN)
        self.ends()
        for data in (b"*2\r\n$100000\r\n", b"x" * 100_000 + b"\r\n" + ERROR[:30], ERROR[30:]):
            blue.receives(data)
        green.receives(b":1\r\n")
        self.passes(2 * GRACE)
        self.assertEqual(self.killed, [BLUE])
        self.assertFalse(green.seen(ERROR), "it is looked for no more")

    def test_if_it_is_not_known_whose_it_was_nobody_is_refused_scripts(self) -> None:
        self.run_by(BLUE, GREEN)
        self.ends()
        self.passes(2 * GRACE)
        self.assertEqual(self.killed, [])
        self.assertIn("it was of one of: team-blue, team-green", self.lines[0])

    def test_one_that_has_written(self) -> None:
        self.run_by(BLUE)
        self.busy(asked_ago=5.0)
        self.passes(2 * GRACE)
        self.confirm()
        self.answers.pop().errback(ReplyError("UNKILLABLE Sorry the script already executed write commands"))
        for _ in range(10):
            self.passes(1)
            self.busy()
        self.assertEqual(self.asked, [("SCRIPT", "KILL")])
        self.assertIn("cannot end it, because the script has written", self.watch.fault)
        self.assertIn("team-blue", self.watch.fault)
        self.watch.answers(self.clock.seconds())
        self.assertIsNone(self.watch.fault)

    def test_the_masters_user_may_not_end_scripts(self) -> None:
        self.run_by(BLUE)
        self.busy(asked_ago=5.0)
        self.passes(2 * GRACE)
        self.confirm()
        self.answers.pop().errback(ReplyError("NOPERM this user has no permissions"))
        self.assertEqual(self.watch.fault.code, "redis-script-not-ended")

    def test_a_function(self) -> None:
        self.run_by(BLUE)
        self.busy(asked_ago=5.0, error=FUNCTION)
        self.passes(2 * GRACE)
        self.confirm(FUNCTION)
        self.assertEqual(self.asked, [("FUNCTION", "KILL")])
        self.answers.pop().errback(ReplyError(BUSY))  # it was a script after all
        self.passes(1)
        self.busy()
        self.assertEqual(self.asked[-1], ("SCRIPT", "KILL"))

    def test_the_control_connection_is_lost_meanwhile(self) -> None:
        for asked in ("PING", "KILL"):
            self.run_by(BLUE)
            self.busy(asked_ago=5.0)
            self.passes(2 * GRACE)
            if asked == "KILL":
                self.confirm()
            self.answers.pop().errback(ControlError(messages.REDIS_CONNECTION_LOST()))
            self.busy(asked_ago=6.0)  # another one says so
            self.assertEqual(self.asked[-1], ("SCRIPT", "KILL"))
            self.answers.pop().errback(ReplyError("NOTBUSY No scripts in execution right now."))
            self.asked.clear()

    def test_the_next_one_of_its_tenant_is_ended_as_soon_as_redis_says_busy(self) -> None:
        [runner] = self.run_by(BLUE)
        self.ends()
        runner.receives(ERROR)
        self.passes(2 * GRACE)
        self.asked.clear()
        self.busy()
        self.passes(2 * GRACE)
        self.confirm()
        self.assertEqual(self.asked, [("SCRIPT", "KILL")])

    def test_the_line_is_not_repeated(self) -> None:
        [runner] = self.run_by(BLUE)
        for _ in range(5):
            self.ends()
            runner.receives(ERROR)
            self.passes(2 * GRACE)
        self.assertEqual((len(self.killed), len(self.lines)), (5, 1))


class NeverTests(WatchCase):
    """With 0, no script is ended."""

    seconds = 0.0

    def test_none_is_ended(self) -> None:
        self.run_by(BLUE)
        self.busy(asked_ago=500.0)
        self.passes(10)
        self.assertEqual((self.asked, self.clock.getDelayedCalls()), ([], []))
