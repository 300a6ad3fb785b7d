"""Patterns in several processes of the proxy: what is counted, what is refused, and that a clean-up
never removes a pattern that somebody was just granted.

Redis is a model here, in which a test decides which command runs next. tests/integration has the
real one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from unittest import mock

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.policy import acl
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.policy.probing import Server
from redisproxy.tenants.limits import Limits
from redisproxy.tenants.model import Tenant
from redisproxy.upstream import markers
from redisproxy.upstream.acl_users import AclUsers
from redisproxy.upstream.client import ControlError, ReplyError
from redisproxy.upstream.pattern_cleaner import PatternCleaner
from redisproxy.upstream.patterns import Patterns

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
NAME = acl.username(BLUE)
NOPERM = "NOPERM this user has no permissions to run the 'pubsub' command"


class ModelRedis:
    """Channels with subscribers, and the channels of one ACL user.

    waiting: commands that have not run yet, by process; None: each runs at once. A command is a
    function with the Deferred of its answer.
    """

    def __init__(self) -> None:
        self.subscribers: dict[bytes, set[str]] = {}
        self.channels = set(acl.channel_rules(BLUE))
        self.passwords = [b"hash"]
        self.waiting: dict[str, deque[tuple[Callable[[], object], defer.Deferred]]] | None = None
        #: by the beginning of a command: the error of the next one
        self.errors: dict[str, Exception] = {}
        self.asked: list[tuple] = []

    def ask(self, process: str, *words: object) -> defer.Deferred:
        answered: defer.Deferred = defer.Deferred()
        self.asked.append(words)

        def runs() -> object:
            for beginning in list(self.errors):
                if " ".join(map(str, words[:2])).startswith(beginning):
                    raise self.errors.pop(beginning)
            return self._answer(process, *words)

        if self.waiting is None:
            self.run(runs, answered)
        else:
            self.waiting.setdefault(process, deque()).append((runs, answered))
        return answered

    def run(self, runs: Callable[[], object], answered: defer.Deferred) -> None:
        try:
            answer = runs()
        except Exception:
            answered.errback()
        else:
            answered.callback(answer)

    def _answer(self, process: str, command: str, *words: object) -> object:
        if command == "SUBSCRIBE":
            for channel in words:
                self.subscribers.setdefault(channel, set()).add(process)
        elif command == "UNSUBSCRIBE":
            for channel in words:
                self.subscribers.get(channel, set()).discard(process)
                if not self.subscribers.get(channel):
                    self.subscribers.pop(channel, None)
        elif (command, words[0]) == ("PUBSUB", "CHANNELS"):
            return [channel for channel in self.subscribers if channel.startswith(words[1].removesuffix(b"*"))]
        elif (command, words[0]) == ("PUBSUB", "NUMSUB"):
            return [words[1], len(self.subscribers.get(words[1], ()))]
        elif (command, words[0]) == ("ACL", "GETUSER"):
            return [b"passwords", list(self.passwords), b"channels", b" ".join(sorted(self.channels))]
        elif (command, words[0]) == ("ACL", "SETUSER"):
            for rule in words[2:]:
                if rule == b"resetchannels":
                    self.channels.clear()
                elif rule.startswith(b"&"):
                    self.channels.add(rule)
                else:
                    assert rule in (b"!hash", b"#hash"), rule
        else:
            raise AssertionError(f"{command} {words}")
        return None

    def granted(self, pattern: bytes) -> bool:
        return b"&" + pattern in self.channels


class ModelMarkers:
    """The markers of one process. Implements what is used of `markers.Markers`."""

    def __init__(self, redis: ModelRedis, process: str) -> None:
        self._redis, self._process = redis, process
        self.generation = 0
        self.refused: list[ControlError] = []

    async def mark(self, names: Collection[bytes]) -> None:
        await self._redis.ask(self._process, "SUBSCRIBE", *names)

    def unmark(self, names: Iterator[bytes]) -> None:
        self._redis.ask(self._process, "UNSUBSCRIBE", *names)

    def log_refused(self, error: ControlError) -> None:
        self.refused.append(error)


class Process:
    """One process of the proxy."""

    connected = True

    def __init__(self, clock: task.Clock, redis: ModelRedis, name: str = "one", mode: str = "require") -> None:
        self.redis, self.name = redis, name
        self.markers = ModelMarkers(redis, name)
        self.acl_users = AclUsers(mode, self)
        self.acl_users.use(Server("a Redis", 64, builtin(), True, False), make_policy(builtin(), scripts=False))
        queries = mock.Mock(ask=self.query)
        self.cleaner = PatternCleaner(clock, self, queries, self.markers)
        self.cleaner.keep_only({BLUE, GREEN})
        self.patterns = Patterns(clock, self, queries, self.markers, self.acl_users, self.cleaner)
        self.limit(3)

    def limit(self, most: int) -> None:
        self.patterns.use_limits({BLUE.namespace: Limits(max_patterns=most)})

    def ask(self, *words: object) -> defer.Deferred:
        return self.redis.ask(self.name, *words)

    async def query(self, tenant: Tenant, commands: list[list[bytes]]) -> list[object]:
        [[command, subcommand, pattern]] = commands
        return [await self.ask(command.decode(), subcommand.decode(), pattern)]

    def use(self, *patterns: bytes, tenant: Tenant = BLUE) -> defer.Deferred:
        return defer.Deferred.fromCoroutine(self.patterns.use(tenant, list(patterns)))


class PatternsCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.redis = ModelRedis()
        self.one, self.two = (Process(self.clock, self.redis, name) for name in ("one", "two"))

    def uses(self, process: Process, *patterns: bytes) -> None:
        self.successResultOf(process.use(*patterns))

    def refused(self, process: Process, *patterns: bytes) -> str:
        error = self.failureResultOf(process.use(*patterns), ControlError).value
        self.assertFalse(error.passing)
        return error.client_reply

    def marked(self) -> int:
        return len(self.redis.subscribers)


class CountTests(PatternsCase):
    def test_the_limit_is_for_all_processes_together(self) -> None:
        self.uses(self.one, b"team-blue:a*", b"team-blue:b*")
        self.uses(self.two, b"team-blue:b*", b"team-blue:c*")  # one of them is the same
        for process in (self.one, self.two):
            self.assertEqual(self.refused(process, b"team-blue:d*"), messages.TOO_MANY_PATTERNS(count=3))
            self.assertEqual(self.marked(), 3)
            self.uses(process, b"team-blue:b*")
        self.assertFalse(self.redis.granted(b"team-blue:d*"))
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.uses(self.two, b"team-blue:d*")
        self.assertTrue(self.redis.granted(b"team-blue:d*"))

    def test_another_tenant_has_its_own(self) -> None:
        self.uses(self.one, b"team-blue:a*", b"team-blue:b*", b"team-blue:c*")
        self.successResultOf(self.one.use(b"team-green:a*", tenant=GREEN))
        self.assertEqual(self.marked(), 4)

    def test_a_command_is_refused_whole(self) -> None:
        self.refused(self.one, *(b"team-blue:%d" % number for number in range(4)))
        self.assertEqual((self.redis.asked, self.marked()), ([], 0))  # without asking Redis
        self.uses(self.two, b"team-blue:a*")
        self.refused(self.one, b"team-blue:1", b"team-blue:2", b"team-blue:3")
        self.assertEqual(self.marked(), 1)
        self.assertEqual(self.one.patterns.used(BLUE), frozenset())

    def test_sessions_of_a_process_share_one_marker(self) -> None:
        for _ in range(3):
            self.uses(self.one, b"team-blue:a*")
        asked = len(self.redis.asked)
        self.uses(self.one, b"team-blue:a*")
        self.assertEqual(len(self.redis.asked), asked)  # and Redis is asked nothing any more
        for left in (1, 1, 1, 0):
            self.one.patterns.leave(BLUE, [b"team-blue:a*", b"team-blue:a*"])
            self.assertEqual(self.marked(), left)

    def test_none_is_the_largest_limit(self) -> None:
        self.one.limit(0)
        self.uses(self.one, *(b"team-blue:%d" % number for number in range(600)))
        with mock.patch.object(bounds, "TENANT_PATTERNS", 700):
            self.refused(self.one, *(b"team-blue:%d" % number for number in range(550, 750)))

    def test_a_lower_limit_leaves_what_is_in_use(self) -> None:
        self.uses(self.one, b"team-blue:a*", b"team-blue:b*")
        self.one.limit(1)
        self.uses(self.one, b"team-blue:a*", b"team-blue:b*")
        self.assertEqual(self.refused(self.one, b"team-blue:c*"), messages.TOO_MANY_PATTERNS(count=1))

    def test_their_sizes_add_up(self) -> None:
        half = b"x" * (bounds.TENANT_PATTERN_BYTES // 2)
        self.uses(self.one, half)
        error = messages.PATTERNS_TOO_LARGE(most=bounds.TENANT_PATTERN_BYTES)
        self.assertEqual(self.refused(self.two, half + b"y"), error)
        self.assertEqual(self.refused(self.two, half * 2 + b"y"), error)
        self.uses(self.two, half[1:])

    def test_without_acl_users_the_limit_holds_too(self) -> None:
        one = Process(self.clock, self.redis, mode="off")
        self.uses(one, b"team-blue:a*", b"team-blue:b*", b"team-blue:c*")
        self.refused(one, b"team-blue:d*")
        one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.assertEqual(one.cleaner.unused(BLUE), 0)
        self.assertFalse([words for words in self.redis.asked if words[0] == "ACL"])

    def test_two_commands_for_the_same_at_once(self) -> None:
        """The second one waits for what the first one counts."""
        self.redis.waiting = {}
        first, second = self.one.use(b"team-blue:a*"), self.one.use(b"team-blue:a*", b"team-blue:b*")
        self.assertEqual(len(self.redis.waiting["one"]), 1)
        self.drain()
        self.successResultOf(first), self.successResultOf(second)
        self.assertEqual(self.marked(), 2)
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.drain()
        self.assertEqual(self.marked(), 2)

    def test_the_first_one_is_refused_and_the_second_waits(self) -> None:
        self.redis.waiting = {}
        first, second = self.one.use(b"team-blue:a*"), self.one.use(b"team-blue:a*")
        self.redis.errors["PUBSUB CHANNELS"] = ControlError("no")
        self.drain()
        self.failureResultOf(first, ControlError)
        self.successResultOf(second)
        self.assertEqual(self.marked(), 1)

    def drain(self) -> None:
        assert self.redis.waiting is not None
        while any(self.redis.waiting.values()):
            for waiting in self.redis.waiting.values():
                while waiting:
                    self.redis.run(*waiting.popleft())

    def test_each_question_may_fail(self) -> None:
        """Nothing is left of a command that failed, and the next one succeeds."""
        for beginning in ("SUBSCRIBE", "PUBSUB CHANNELS", "ACL SETUSER", "PUBSUB NUMSUB"):
            self.redis.errors[beginning] = ControlError("no")
            self.assertTrue(self.failureResultOf(self.one.use(b"team-blue:a*"), ControlError).value.passing)
            self.assertEqual((self.marked(), self.one.patterns.used(BLUE)), (0, frozenset()))
            self.uses(self.one, b"team-blue:a*")
            self.assertTrue(self.redis.granted(b"team-blue:a*"))
            self.one.patterns.leave(BLUE, [b"team-blue:a*"])

    def test_slow_grants_have_a_tenth_of_redis(self) -> None:
        """An ACL of 1,000 patterns costs Redis 6.2 5 ms, however often the same one is granted."""
        ask = self.redis.ask

        def slow(process: str, *words: object) -> defer.Deferred:
            if words[:2] != ("ACL", "SETUSER"):
                return ask(process, *words)
            return task.deferLater(self.clock, 0.01, ask, process, *words)

        self.redis.ask = slow
        first, second = self.one.use(b"team-blue:a*"), self.one.use(b"team-blue:b*")
        green = self.one.use(b"team-green:a*", tenant=GREEN)
        self.clock.advance(0.01)
        self.successResultOf(first), self.successResultOf(green)
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        asked = len(self.redis.asked)
        self.clock.advance(0.08)
        self.assertEqual(len(self.redis.asked), asked)
        self.clock.advance(0.011)
        self.assertGreater(len(self.redis.asked), asked)
        self.assertNoResult(second)
        self.clock.advance(0.01)
        self.successResultOf(second)
        self.one.patterns.leave(BLUE, [b"team-blue:b*"])
        self.assertIn(BLUE, self.one.patterns._used)  # until the pause is over
        self.clock.advance(0.091)
        self.assertNotIn(BLUE, self.one.patterns._used)
        last = self.one.use(b"team-blue:a*")
        self.clock.advance(0.01)
        self.successResultOf(last)
        waits = self.one.use(b"team-blue:b*")
        self.one.patterns.stop()
        self.clock.advance(0.01)
        self.one.patterns.stop()
        self.successResultOf(waits)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_marker_was_lost_meanwhile(self) -> None:
        self.redis.waiting = {}
        using = self.one.use(b"team-blue:a*")
        self.redis.run(*self.redis.waiting["one"].popleft())
        self.redis.subscribers.clear()
        self.redis.run(*self.redis.waiting["one"].popleft())
        self.assertTrue(self.failureResultOf(using, ControlError).value.passing)

    def test_the_master_has_no_right_to_count(self) -> None:
        """PSUBSCRIBE is refused, and the log says why."""
        self.redis.errors["PUBSUB CHANNELS"] = ControlError(NOPERM, messages.NOT_ALLOWED.text, passing=False)
        self.assertEqual(self.refused(self.one, b"team-blue:a*"), messages.NOT_ALLOWED.text)
        self.assertEqual([str(error) for error in self.one.markers.refused], [NOPERM])

    def test_an_answer_of_another_form(self) -> None:
        for answer in ([None], [7], b"OK", None):
            with self.assertRaises(ControlError):
                markers.listed(BLUE, answer)
        found = [markers.of_cleaning(BLUE), b"other", markers.of_pattern(GREEN, b"a"), markers.of_pattern(BLUE, b"b")]
        self.assertEqual(markers.listed(BLUE, found), {b"b"})

    def test_what_was_left_counts_until_it_is_removed(self) -> None:
        self.enterContext(mock.patch.object(bounds, "UNUSED_PATTERNS", 4))
        for number in range(4):
            self.uses(self.one, b"team-blue:%d" % number)
            self.one.patterns.leave(BLUE, [b"team-blue:%d" % number])
        self.assertEqual(self.refused(self.one, b"team-blue:new"), messages.PATTERNS_CHANGE(count=4))
        self.assertEqual(self.marked(), 0)
        self.uses(self.two, b"team-blue:new")
        for later in range(3, 0, -1):
            self.one.cleaner.taken(BLUE, [b"team-blue:%d" % later])
        self.uses(self.one, b"team-blue:0")


class CleanerTests(PatternsCase):
    def setUp(self) -> None:
        super().setUp()
        for process in (self.one, self.two):
            process.cleaner.startService()
            self.addCleanup(process.cleaner.stopService)
        self.clock.advance(bounds.FIRST_CLEANING_SECONDS)

    def later(self, seconds: float) -> None:
        self.clock.pump([1.0] * int(seconds))

    def test_an_unused_pattern_is_removed_after_two_looks(self) -> None:
        self.uses(self.one, b"team-blue:a*", b"team-blue:b*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.later(bounds.UNUSED_PATTERN_SECONDS + 5)
        self.assertTrue(self.redis.granted(b"team-blue:a*"))
        self.later(bounds.UNUSED_PATTERN_SECONDS)
        self.assertEqual(self.redis.channels, {*acl.channel_rules(BLUE), b"&team-blue:b*"})
        self.assertEqual((self.marked(), self.one.cleaner.unused(BLUE)), (1, 0))
        asked = len(self.redis.asked)
        self.later(5 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertEqual(len(self.redis.asked), asked)  # nobody looks any more
        # another session gets it again
        self.uses(self.one, b"team-blue:a*")
        self.assertTrue(self.redis.granted(b"team-blue:a*"))

    def test_one_that_another_process_uses_stays(self) -> None:
        self.uses(self.one, b"team-blue:a*")
        self.uses(self.two, b"team-blue:a*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.later(5 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertTrue(self.redis.granted(b"team-blue:a*"))
        self.two.patterns.leave(BLUE, [b"team-blue:a*"])
        self.later(3 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertFalse(self.redis.granted(b"team-blue:a*"))

    def test_one_that_is_used_again_meanwhile_stays(self) -> None:
        self.uses(self.one, b"team-blue:a*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.later(bounds.UNUSED_PATTERN_SECONDS + 5)
        self.uses(self.two, b"team-blue:a*")
        self.later(bounds.UNUSED_PATTERN_SECONDS)
        self.assertTrue(self.redis.granted(b"team-blue:a*"))

    def test_a_process_that_has_just_started_waits(self) -> None:
        """Replicas of an earlier version set no markers."""
        three = Process(self.clock, self.redis, "three")
        three.cleaner.startService()
        self.addCleanup(three.cleaner.stopService)
        self.uses(three, b"team-blue:a*")
        three.patterns.leave(BLUE, [b"team-blue:a*"])
        self.later(bounds.FIRST_CLEANING_SECONDS)
        self.assertTrue(self.redis.granted(b"team-blue:a*"))
        self.later(2 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertFalse(self.redis.granted(b"team-blue:a*"))

    def test_what_a_process_that_died_has_left(self) -> None:
        """Whoever looks at the tenants' users finds it."""
        self.redis.channels.add(b"&team-blue:a*")
        answer = self.redis._answer("one", "ACL", "GETUSER", NAME)
        self.one.cleaner.seen(Tenant("team-gone", 3), answer)
        for odd in (None, [], [b"channels", 7], [[b"channels"], b"x", b"channels"], [b"channels", [[b"x"]]]):
            self.one.cleaner.seen(BLUE, odd)
        self.assertEqual(self.one.cleaner._suspects, {})
        self.one.cleaner.seen(BLUE, answer)
        self.later(3 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertFalse(self.redis.granted(b"team-blue:a*"))

    def test_a_rotation_of_the_master_password_is_not_disturbed(self) -> None:
        self.redis.passwords.append(b"another")
        self.uses(self.one, b"team-blue:a*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.later(5 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertTrue(self.redis.granted(b"team-blue:a*"))
        self.redis.passwords.pop()
        self.later(2 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertFalse(self.redis.granted(b"team-blue:a*"))

    def test_a_look_that_fails_is_made_again(self) -> None:
        for beginning in ("ACL GETUSER", "PUBSUB CHANNELS", "ACL SETUSER"):
            self.uses(self.one, b"team-blue:a*")
            self.one.patterns.leave(BLUE, [b"team-blue:a*"])
            self.redis.errors[beginning] = ReplyError("ERR no")
            self.later(2 * bounds.UNUSED_PATTERN_SECONDS + 5)
            self.assertEqual((self.redis.errors, self.marked()), ({}, 0))
            self.assertTrue(self.redis.granted(b"team-blue:a*"))
            self.later(2 * bounds.UNUSED_PATTERN_SECONDS)
            self.assertFalse(self.redis.granted(b"team-blue:a*"))

    def test_the_markers_are_lost_during_a_look(self) -> None:
        """A clean-up that others cannot see any more removes nothing."""
        self.uses(self.one, b"team-blue:a*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.later(bounds.UNUSED_PATTERN_SECONDS + 5)
        ask = self.redis.ask

        def lost(process: str, *words: object) -> defer.Deferred:
            if words[:2] == ("PUBSUB", "CHANNELS"):
                self.one.markers.generation += 1
            return ask(process, *words)

        with mock.patch.object(self.redis, "ask", lost):
            self.later(bounds.UNUSED_PATTERN_SECONDS)
        self.assertTrue(self.redis.granted(b"team-blue:a*"))
        self.later(2 * bounds.UNUSED_PATTERN_SECONDS)
        self.assertFalse(self.redis.granted(b"team-blue:a*"))

    def test_a_tenant_that_is_gone_and_another_redis(self) -> None:
        self.uses(self.one, b"team-blue:a*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.one.cleaner.keep_only({GREEN})
        self.assertEqual(self.one.cleaner.unused(BLUE), 0)
        self.one.cleaner.keep_only({BLUE})
        self.uses(self.one, b"team-blue:a*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        self.one.cleaner.forget_all()
        self.assertEqual(self.one.cleaner.unused(BLUE), 0)

    def test_nothing_is_left_when_it_stops(self) -> None:
        self.uses(self.one, b"team-blue:a*")
        self.one.patterns.leave(BLUE, [b"team-blue:a*"])
        for process in (self.one, self.two):
            process.cleaner.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RaceTests(unittest.SynchronousTestCase):
    """One process removes a pattern while another one grants it."""

    def play(self, choices: list[int]) -> list[int]:
        """Plays one order of all commands of both. Returns how many processes had a command to run
        each time.

        choices: whose command runs next each time; behind them always the first one's.
        """
        clock, redis = task.Clock(), ModelRedis()
        one, two = (Process(clock, redis, name) for name in ("one", "two"))
        redis.channels.add(b"&" + self.removed)
        one.cleaner.released(BLUE, [self.removed])
        one.cleaner._suspects[BLUE].unmarked = {self.removed: -bounds.UNUSED_PATTERN_SECONDS}
        redis.waiting = {}
        cleaning = defer.Deferred.fromCoroutine(one.cleaner._look(BLUE, one.cleaner._suspects[BLUE]))
        using = two.use(b"team-blue:a*")
        found: list[int] = []
        while True:
            ready = [name for name in ("one", "two") if redis.waiting.get(name)]
            if not ready and not clock.getDelayedCalls():
                break
            if not ready:
                clock.advance(0.05)
                continue
            choice = choices[len(found)] if len(found) < len(choices) else 0
            found.append(len(ready))
            redis.run(*redis.waiting[ready[choice]].popleft())
        self.successResultOf(cleaning)
        self.successResultOf(using)
        self.assertEqual(redis.channels, {*acl.channel_rules(BLUE), b"&team-blue:a*"}, choices)
        self.assertEqual(list(redis.subscribers), [markers.of_pattern(BLUE, b"team-blue:a*")])
        return found

    def test_in_any_order_of_their_commands_the_pattern_is_granted_at_the_end(self) -> None:
        """The pattern that is removed is the one that is granted, or is another one."""
        for self.removed in (b"team-blue:a*", b"team-blue:other"):
            self.assertGreater(self.play_all(), 40)

    def play_all(self) -> int:
        """Plays each order. Returns how many there are."""
        choices: list[int] = []
        played = 0
        while True:
            found = self.play(choices)
            played += 1
            choices += [0] * (len(found) - len(choices))
            while choices and choices[-1] + 1 >= found[len(choices) - 1]:
                choices.pop()
            if not choices:
                break
            choices[-1] += 1
        return played

    def test_a_clean_up_that_does_not_end(self) -> None:
        clock, redis = task.Clock(), ModelRedis()
        one = Process(clock, redis)
        redis.subscribers[markers.of_cleaning(BLUE)] = {"two"}
        using = one.use(b"team-blue:a*")
        clock.pump([0.05] * 200)
        self.assertTrue(self.failureResultOf(using, ControlError).value.passing)
        self.assertEqual(clock.getDelayedCalls(), [])
