"""The parts of a session refuse nonsense: illegal moves, Steps that finish twice, earlier phases,
and two queues that disagree.
"""

from __future__ import annotations

import unittest

from redisproxy import bounds
from redisproxy.resp.framing import encode
from redisproxy.session import commands
from redisproxy.session.client_filter import ClientFilter
from redisproxy.session.client_visit import ClientVisit
from redisproxy.session.ports import Unavailable
from redisproxy.session.route import DEDICATED, LEGAL, MULTIPLEXED, NONE, RouteState
from redisproxy.session.state import BugError, Gate, Phase, Step, Until
from redisproxy.tenants.model import Snapshot
from redisproxy.tenants.work import WorkQueue

from ..support.conversations import Conversation, RecordingUpstream, SharedConversation, logged_in, logged_in_multiplexed

GET = encode([b"GET", b"a"])


class RouteTests(unittest.TestCase):
    def session_in(self, state: RouteState) -> Conversation:
        if state is NONE:
            return SharedConversation()
        return logged_in_multiplexed() if state is MULTIPLEXED else logged_in()

    def test_every_move_that_is_not_in_the_table_is_refused(self) -> None:
        for before in RouteState:
            for to in RouteState:
                conversation = self.session_in(before)
                route = conversation.session.route
                self.assertIs(route.state, before)
                upstream = RecordingUpstream(conversation)
                if (before, to) in LEGAL:
                    route.move(to, upstream)
                    self.assertIs(route.state, to)
                else:
                    self.assertRaises(BugError, route.move, to, upstream)
                    self.assertIs(route.state, before)

    def test_no_move_while_a_reply_is_pending(self) -> None:
        conversation = logged_in_multiplexed().client(GET)
        route = conversation.session.route
        for to in (MULTIPLEXED, DEDICATED):
            self.assertRaises(BugError, route.move, to, RecordingUpstream(conversation))
        route.move(NONE, RecordingUpstream(conversation))


class PhaseTests(unittest.TestCase):
    def test_it_never_goes_back(self) -> None:
        phases = list(Phase)
        for later, phase in enumerate(phases):
            for earlier in phases[:later]:
                ending = logged_in().session.ending
                ending._enter(phase)
                self.assertRaises(BugError, ending._enter, earlier)

    def test_the_gate_is_closed_with_it(self) -> None:
        for phase in Phase:
            session = logged_in().session
            session.ending._enter(phase)
            self.assertIs(session.ended, phase in (Phase.CLOSING, Phase.CLOSED))

    def test_nothing_is_asked_of_a_connection_that_is_gone(self) -> None:
        conversation = logged_in().client(b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$200000\r\n", b"x" * 100_000)
        self.assertGreater(conversation.session.buffered, bounds.BUFFERED_BYTES)
        conversation.session.ending.at_once()
        self.assertIs(conversation.held, False)


class QueuesTests(unittest.TestCase):
    """ReplyQueue and PendingReplies hold the same batches, in the same order."""

    def test_where_they_do_not_agree_one_session_is_closed_and_the_connection_goes_on(self) -> None:
        first, second = logged_in_multiplexed(), logged_in_multiplexed()
        bugs: list[BaseException] = []
        first.bug = bugs.append
        second.tenant_pool.upstream = first.tenant_pool.upstream
        for conversation in (first, second):
            conversation.client(GET)
        first.session.replies._items.rotate()
        first.session.replies._items.appendleft(b"+an answer that has no place\r\n")
        first.shared_redis(b"+1\r\n+2\r\n")
        self.assertEqual((second.hears(), second.closed), (b"+2\r\n", None))
        self.assertIsInstance(bugs.pop(), BugError)
        self.assertEqual(first.session.ending.phase, Phase.CLOSED)

    def test_a_command_that_fails_costs_one_connection_where_a_shared_one_woke_the_session(self) -> None:
        first, second = logged_in_multiplexed(), logged_in_multiplexed()
        bugs: list[BaseException] = []
        first.bug = bugs.append
        first.inspected = lambda _: 1 / 0
        pools = [conversation.tenant_pool for conversation in (first, second)]
        upstreams = [pool.upstream for pool in pools]
        for conversation, pool in zip((first, second), pools, strict=True):
            pool.upstream = Unavailable(busy=True)
            conversation.command(b"SELECT", b"3")
        for pool, upstream in zip(pools, upstreams, strict=True):
            pool.upstream = upstream
        pools[0].waiting.extend(pools[1].waiting)
        pools[0].ready()
        self.assertIsInstance(bugs.pop(), ZeroDivisionError)
        self.assertIs(first.session.ending.phase, Phase.CLOSED)
        self.assertEqual((second.hears(), second.closed), (b"+OK\r\n", None))

    def test_a_handler_that_fails_after_its_step_costs_one_connection(self) -> None:
        conversation = logged_in().command(b"INFO", b"keyspace")
        bugs: list[BaseException] = []
        conversation.bug = bugs.append
        conversation.finish([None, 1 / 3])
        self.assertEqual(len(bugs), 0, "what is no bytes is left out")
        conversation.command(b"PUBSUB", b"NUMSUB", b"a").finish([[b"a"]])
        self.assertIsInstance(bugs.pop(), ValueError)
        self.assertIs(conversation.session.ending.phase, Phase.CLOSED)
        self.assertIsNotNone(conversation.upstream.released)


class StepTests(unittest.TestCase):
    """A Step finishes once, by one source. If the session has ended, a later result goes back."""

    def suspended(self, until: Until) -> Conversation:
        if until is Until.DRAINED:
            return logged_in().command(b"GET", b"a").command(b"AUTH", b"green")
        if until is Until.HELLO:
            return logged_in().command(b"HELLO", b"3")
        if until is Until.DEDICATED:
            return logged_in_multiplexed(upstreams_at_once=False).command(b"BLPOP", b"q", b"0")
        if until is Until.SLOT:
            conversation = Conversation()
            conversation.slots_taken = True
            return conversation.command(b"AUTH", b"blue")
        if until is Until.LOGIN:
            return Conversation(upstreams_at_once=False).command(b"AUTH", b"blue")
        if until is Until.QUERY:
            return logged_in().command(b"INFO")
        if until is Until.SCRIPTS:
            conversation = logged_in_multiplexed()
            conversation.tenant_pool.scripts.upstream = Unavailable(busy=True)
            return conversation.command(b"EVAL", b"x", b"0")
        if until is Until.SESSIONS:
            return logged_in().command(b"CLIENT", b"LIST")
        if until is Until.WINDOW:
            return logged_in().command(b"KEYS", b"*").command(b"KEYS", b"*").command(b"KEYS", b"*")
        conversation = logged_in()
        if until is Until.TURN:
            conversation.session.work = WorkQueue(lambda: 0.0, lambda call: None).of("blue")
            return conversation.command(b"PSUBSCRIBE", *(b"*%d" % number for number in range(bounds.WORK_BUDGET)))
        conversation.login_delay = 1.0
        return conversation.command(b"AUTH", b"wrong")

    def result(self, conversation: Conversation, until: Until) -> object:
        if until in (Until.DEDICATED, Until.LOGIN):
            return RecordingUpstream(conversation)
        if until is Until.SLOT:
            return False
        if until is Until.SESSIONS:
            return ClientVisit(ClientFilter(), False, conversation.id)
        return [b"# Server\r\n"] if until is Until.QUERY else None

    def step(self, conversation: Conversation, until: Until) -> Step:
        step = conversation.session.step
        assert step is not None
        self.assertIs(step.until, until)
        self.assertTrue(conversation.session.gates & Gate.STEP)
        return step

    def test_a_second_finish_does_nothing(self) -> None:
        for until in Until:
            conversation = self.suspended(until)
            step = self.step(conversation, until)
            if until in (Until.DEDICATED, Until.LOGIN):
                conversation.open_upstream()
            elif until is Until.DRAINED:
                conversation.redis(b"+1\r\n")
            else:
                self.assertTrue(step.finish(self.result(conversation, until)))
            self.assertFalse(step.waits)
            told = conversation.told
            self.assertFalse(step.finish(self.result(conversation, until)))
            self.assertEqual(conversation.told, told)

    def test_a_failure_is_answered_and_the_session_goes_on(self) -> None:
        for until in (Until.DEDICATED, Until.LOGIN, Until.QUERY):
            conversation = self.suspended(until)
            conversation.hears()
            self.assertTrue(self.step(conversation, until).finish(Unavailable("ERR none")))
            self.assertEqual(conversation.hears(), b"-ERR none\r\n")
            gates = Gate.CLOSING if until is Until.LOGIN else 0  # nobody is logged in
            self.assertEqual((conversation.session.gates, conversation.session.pending_login), (gates, None))

    def test_the_client_is_closed_if_the_time_to_wait_is_over(self) -> None:
        for until in (Until.DEDICATED, Until.LOGIN, Until.QUERY):
            conversation = self.suspended(until)
            conversation.hears()
            self.assertTrue(self.step(conversation, until).finish(Unavailable("ERR none", closes=True)))
            self.assertEqual((conversation.hears(), conversation.closed), (b"", "redis-away"), until)

    def test_whoever_works_for_it_is_told_to_stop_when_the_session_ends(self) -> None:
        for until in Until:
            for end in (
                lambda c: c.session.ending.at_once(),
                lambda c: c.session.ending.begin("quit"),
                lambda c: c.session.upstream_lost(),
                lambda c: c.session.ending.hurry(),
                lambda c: c.recheck(Snapshot(None, [])),
            ):
                conversation = self.suspended(until)
                step = self.step(conversation, until)
                cancelled: list[bool] = []
                step.cancel = lambda cancelled=cancelled: cancelled.append(True)
                end(conversation)
                self.assertEqual((cancelled, step.waits, conversation.session.step), ([True], False, None))
                self.assertTrue(conversation.session.ended)
                conversation.hears()
                self.assertFalse(step.finish(self.result(conversation, until)))
                self.assertEqual(conversation.hears(), b"")

    def test_a_drain_waits_for_it(self) -> None:
        for until in set(Until) - {Until.LOGIN, Until.SLOT}:
            conversation = self.suspended(until)
            conversation.session.ending.drain()
            self.assertTrue(self.step(conversation, until).waits)
            self.assertFalse(conversation.session.ended)

    def test_a_step_with_a_deadline_is_over_when_that_has_come(self) -> None:
        conversation = self.suspended(Until.DELAY)
        session = conversation.session
        conversation.hears()
        self.assertEqual(session.deadline, 1.0)
        session.time_is(0.99)
        self.assertEqual(conversation.hears(), b"")
        session.time_is(1.0)
        self.assertEqual((conversation.hears()[:11], session.deadline), (b"-WRONGPASS ", None))
        for until in set(Until) - {Until.DELAY}:
            conversation = self.suspended(until)
            step = self.step(conversation, until)
            conversation.session.time_is(1e9)
            self.assertEqual((conversation.session.deadline, step.waits), (None, True))

    def test_a_session_waits_for_one_thing(self) -> None:
        session = self.suspended(Until.QUERY).session
        self.assertRaises(BugError, session.suspend, Until.DELAY, lambda _: None)

    def test_a_log_in_that_comes_to_nothing_gives_its_reservation_back(self) -> None:
        for end, kept in (
            (lambda c: c.open_upstream(), True),
            (lambda c: c.refuse_upstream("ERR none"), False),
            (lambda c: c.session.ending.at_once(), False),
        ):
            conversation = self.suspended(Until.LOGIN)
            end(conversation)
            self.assertEqual([each.kept for each in conversation.reservations], [kept])


class HandlersTests(unittest.TestCase):
    def test_a_handler_runs_once_for_a_command_that_waited_twice(self) -> None:
        ran: list[list[bytes]] = []
        handler = commands.HANDLERS[b"WATCH"]
        commands.HANDLERS[b"WATCH"] = handler._replace(
            run=lambda session, words: (ran.append(words), handler.run(session, words))
        )
        self.addCleanup(commands.HANDLERS.__setitem__, b"WATCH", handler)
        conversation = logged_in_multiplexed(upstreams_at_once=False).client(GET).command(b"WATCH", b"a")
        conversation.shared_redis(b"+1\r\n")
        conversation.open_upstream()
        self.assertEqual(ran, [[b"WATCH", b"a"]])
        self.assertEqual(conversation.gets(), encode([b"WATCH", b"a"]))
