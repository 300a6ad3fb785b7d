"""Commands that may keep Redis busy: a session sends few of them at once."""

from __future__ import annotations

import unittest

from redisproxy import bounds, messages
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import encode
from redisproxy.session.pending import WindowedBatch
from redisproxy.session.ports import Unavailable
from redisproxy.session.replies import NOBODY
from redisproxy.session.state import Gate

from ..support.conversations import BLUE, Conversation, RecordingUpstream, logged_in, logged_in_multiplexed

KEYS, GET = encode([b"KEYS", b"*"]), encode([b"GET", b"a"])
TIME, MULTI, EXEC = encode([b"TIME"]), encode([b"MULTI"]), encode([b"EXEC"])


def time(seconds: float) -> bytes:
    """Returns Redis's reply to TIME."""
    whole, micro = b"%d" % seconds, b"%d" % round(seconds % 1 * 1_000_000)
    return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(whole), whole, len(micro), micro)


class RunTests(unittest.TestCase):
    """Over a connection of its own, and over a shared one."""

    def conversations(self) -> list[Conversation]:
        return [logged_in(), logged_in_multiplexed()]

    def upstream(self, conversation: Conversation) -> RecordingUpstream:
        return conversation.session.route.upstream

    def test_few_at_first_and_more_as_answers_come(self) -> None:
        for conversation in self.conversations():
            upstream = self.upstream(conversation)
            conversation.client(KEYS * 10 + GET)
            self.assertEqual(upstream.sent, KEYS * 2)
            upstream.pending.received(b"*0\r\n")
            self.assertEqual(upstream.sent, KEYS * 2)
            upstream.pending.received(b"*0\r\n")
            self.assertEqual(upstream.sent, KEYS * 6)
            upstream.pending.received(b"*0\r\n" * 4)
            self.assertEqual(upstream.sent, KEYS * 10 + GET)
            upstream.pending.received(b"*0\r\n" * 4 + b"$1\r\na\r\n")
            self.assertEqual(conversation.hears(), b"*0\r\n" * 10 + b"$1\r\na\r\n")
            self.assertTrue(conversation.session.replies.drained)

    def test_what_stands_before_and_between_is_sent_in_order(self) -> None:
        for conversation in self.conversations():
            upstream = self.upstream(conversation)
            conversation.client(GET * 2 + KEYS + GET + KEYS * 2 + GET)
            self.assertEqual(upstream.sent, GET * 2 + KEYS + GET + KEYS)
            upstream.pending.received(b"$1\r\na\r\n" * 2 + b"*0\r\n" + b"$1\r\nb\r\n")
            self.assertEqual(upstream.sent, GET * 2 + KEYS + GET + KEYS * 2 + GET)
            upstream.pending.received(b"*0\r\n" * 2 + b"$1\r\nc\r\n")
            self.assertEqual(
                conversation.hears(), b"$1\r\na\r\n" * 2 + b"*0\r\n" + b"$1\r\nb\r\n" + b"*0\r\n" * 2 + b"$1\r\nc\r\n"
            )

    def test_byte_by_byte_and_inline(self) -> None:
        for data in (KEYS * 4, b"keys *\r\n" * 4):
            conversation = logged_in()
            for number in range(len(data)):
                conversation.client(data[number : number + 1])
            self.assertEqual(conversation.upstream.sent.upper(), KEYS * 2)
            conversation.redis(b"*0\r\n*0\r\n")
            self.assertEqual(conversation.upstream.sent.upper(), KEYS * 4)

    def test_a_late_answer_leaves_one_which_redis_times(self) -> None:
        for conversation in self.conversations():
            upstream = self.upstream(conversation)
            conversation.client(KEYS * 9)
            conversation.now += 0.5
            upstream.pending.received(b"*0\r\n" * 2)
            self.assertEqual(upstream.sent, KEYS * 2 + TIME + KEYS + TIME)
            conversation.now += 0.5
            answer = time(7.9995) + b"*0\r\n" + time(8.4)
            for number in range(len(answer)):
                upstream.pending.received(answer[number : number + 1])
            self.assertEqual(conversation.session.window.size, 1)
            self.assertEqual(upstream.sent, KEYS * 2 + (TIME + KEYS + TIME) * 2)
            # Now another tenant keeps Redis busy.
            conversation.now += 5.0
            upstream.pending.received(time(9) + b"*0\r\n" + time(9.001))
            self.assertEqual(conversation.session.window.size, 2)
            self.assertEqual(conversation.hears(), b"*0\r\n" * 4)

    def test_a_time_that_redis_does_not_tell(self) -> None:
        conversation = logged_in()
        conversation.client(KEYS * 3)
        conversation.now += 0.5
        conversation.redis(b"*0\r\n" * 2)
        conversation.now += 0.5
        conversation.redis(b"-NOPERM a\r\n*0\r\n-NOPERM b\r\n")
        self.assertEqual(conversation.hears(), b"*0\r\n" * 3)
        self.assertEqual(conversation.session.window.size, 1)
        self.assertTrue(conversation.session.replies.drained)

    def test_a_client_that_hears_nothing(self) -> None:
        conversation = logged_in().command(b"CLIENT", b"REPLY", b"OFF").client(KEYS * 3)
        conversation.redis(b"*0\r\n" * 2)
        self.assertEqual(conversation.upstream.sent, KEYS * 3)
        conversation.redis(b"*0\r\n").command(b"CLIENT", b"REPLY", b"ON")
        conversation.command(b"CLIENT", b"REPLY", b"SKIP").client(KEYS * 2)
        conversation.redis(b"*0\r\n" + b"*1\r\n$1\r\na\r\n")
        self.assertEqual(conversation.hears(), b"+OK\r\n*1\r\n$1\r\na\r\n")

    def test_another_session_of_the_tenant_waits_and_goes_on(self) -> None:
        first, second = logged_in(), logged_in()
        second.session.window = second.session.scanner.window = first.session.window
        first.client(KEYS * 2)
        second.client(KEYS + GET)
        self.assertEqual(second.upstream.sent, b"")
        first.redis(b"*0\r\n" * 2)
        self.assertEqual(second.upstream.sent, KEYS + GET)

    def widened(self, conversation: Conversation) -> Conversation:
        window = conversation.session.window
        while not window.wide:
            window.sent(flight := WindowedBatch(NOBODY, 0, window.size, window, lambda: None))
            window.answered(flight)
        return conversation

    def test_while_it_is_wide_a_shared_connection_waits_in_place_of_the_session(self) -> None:
        conversation = self.widened(logged_in_multiplexed())
        upstream = self.upstream(conversation)
        conversation.client(KEYS)
        self.assertEqual((upstream.sent, upstream.rounds), (KEYS, []), "an idle one sends at once")
        conversation.client(KEYS * 20 + GET)
        self.assertEqual(upstream.rounds, [(16, 16), (4, 4)])
        self.assertFalse(conversation.session.gates)
        upstream.pending.received(b"*0\r\n" * 21 + b"$-1\r\n")
        self.assertEqual(conversation.hears(), b"*0\r\n" * 21 + b"$-1\r\n")

    def test_no_command_waits_for_places_in_the_connection_for_scripts(self) -> None:
        """There it would look as if a script took long."""
        conversation = self.widened(logged_in_multiplexed())
        conversation.client(encode([b"EVAL", b"x", b"0"]) + KEYS)
        scripts = conversation.tenant_pool.scripts.upstream
        self.assertTrue(scripts.sent.endswith(KEYS))
        self.assertEqual((scripts.rounds, self.upstream(conversation).rounds), ([], []))

    def test_what_has_waited_is_read_for(self) -> None:
        """Its connection may be one that is not read, as others do not read their replies."""
        conversation = logged_in_multiplexed()
        upstream = self.upstream(conversation)
        conversation.client(KEYS * 2).command(b"COPY", b"a", b"b")
        before = upstream.settled
        upstream.pending.received(b"*0\r\n" * 2)
        self.assertIn(b"COPY", upstream.sent)
        self.assertGreater(upstream.settled, before)

    def test_no_place_is_taken_behind_others_that_wait_in_a_shared_connection(self) -> None:
        conversation = logged_in_multiplexed()
        upstream = self.upstream(conversation)
        upstream.in_rounds = True
        conversation.client(KEYS)
        self.assertEqual((upstream.rounds, conversation.session.window.unused), ([(1, 1)], 2))
        upstream.pending.received(b"*0\r\n")
        conversation.client(MULTI + KEYS * 2 + EXEC)
        self.assertEqual(upstream.rounds, [(1, 1), (4, 2)])
        upstream.pending.received(b"+OK\r\n" + b"+QUEUED\r\n" * 2 + b"*0\r\n")
        conversation.client(MULTI + GET + EXEC)
        self.assertEqual(len(upstream.rounds), 2, "it needs no place")

    def test_while_it_is_wide_a_session_with_its_own_connection_waits(self) -> None:
        conversation = self.widened(logged_in())
        conversation.client(KEYS * 20 + GET)
        self.assertEqual(conversation.upstream.sent.count(KEYS), 16)
        self.assertTrue(conversation.session.gates & Gate.STEP)
        conversation.redis(time(1) + b"*0\r\n" * 16 + time(1.001))
        self.assertEqual(conversation.upstream.sent.count(KEYS), 20)

    def test_not_behind_a_command_that_blocks(self) -> None:
        conversation = logged_in().client(encode([b"BLPOP", b"q", b"0"]), KEYS)
        self.assertNotIn(KEYS, conversation.upstream.sent)
        self.assertTrue(conversation.session.window.has(2))
        conversation.redis(b"*2\r\n$1\r\nq\r\n$1\r\na\r\n")
        self.assertTrue(conversation.upstream.sent.endswith(KEYS))
        conversation.redis(b"*0\r\n")
        self.assertEqual(conversation.hears(), b"*2\r\n$1\r\nq\r\n$1\r\na\r\n*0\r\n")

    def test_inspected_ones(self) -> None:
        usage, read = [b"MEMORY", b"USAGE", b"a"], [b"XREAD", b"STREAMS", b"s", b"0"]
        conversation = logged_in().command(*usage).command(*read).command(b"COPY", b"a", b"b").client(GET)
        self.assertEqual(conversation.upstream.sent, encode(usage) + encode(read))
        conversation.redis(b":1\r\n*-1\r\n")
        self.assertEqual(conversation.upstream.sent, encode(usage) + encode(read) + encode([b"COPY", b"a", b"b"]) + GET)

    def test_those_that_are_inspected_above_a_number_of_arguments(self) -> None:
        few, many = encode([b"SUNION", b"a", b"b"]), encode([b"SUNION", *(b"k%d" % number for number in range(30))])
        random = encode([b"SRANDMEMBER", b"s", b"-3"])
        for first, second, third in ((few, few, many), (many, many, few), (random, random, b"SUNION a b\r\n")):
            conversation = logged_in().client(first + second + third + GET)
            self.assertEqual(conversation.upstream.sent, first + second)
            conversation.redis(b"*0\r\n*0\r\n")
            self.assertTrue(conversation.upstream.sent.endswith(GET))
            self.assertGreater(len(conversation.upstream.sent), len(first + second + GET))

    def test_those_that_make_a_value_longer(self) -> None:
        """Redis fills it with up to 512 MiB of zeros, for a command of 30 bytes."""
        for words in (
            [b"SETBIT", b"k", b"4294967295", b"1"],
            [b"SETRANGE", b"k", b"536870911", b"x"],
            [b"BITFIELD", b"k", b"SET", b"u1", b"4294967295", b"1"],
        ):
            conversation = logged_in().client(encode(words) * 3 + GET)
            self.assertEqual(conversation.upstream.sent, encode(words) * 2)
            conversation.redis(b":0\r\n" * 2)
            self.assertEqual(conversation.upstream.sent, encode(words) * 3 + GET)

    def test_before_the_log_in_and_after_a_reset(self) -> None:
        conversation = logged_in().client(KEYS).redis(b"*0\r\n").command(b"RESET")
        conversation.hears()
        self.assertEqual(conversation.client(KEYS).hears()[:7], b"-NOAUTH")


class TransactionTests(unittest.TestCase):
    def test_exec_needs_a_place_for_each(self) -> None:
        conversation = logged_in().client(MULTI + KEYS * 5)
        self.assertEqual(conversation.upstream.sent, MULTI + KEYS * 5, "Redis only keeps them")
        other = logged_in()
        other.session.window = other.session.scanner.window = conversation.session.window
        other.client(KEYS)
        conversation.client(EXEC + GET)
        self.assertTrue(conversation.session.stateful, "so it keeps its connection")
        self.assertNotIn(EXEC, conversation.upstream.sent)
        other.redis(b"*0\r\n")
        self.assertNotIn(EXEC, conversation.upstream.sent, "its own replies are pending")
        conversation.redis(b"+OK\r\n" + b"+QUEUED\r\n" * 5)
        self.assertTrue(conversation.upstream.sent.endswith(EXEC + GET))
        other.client(KEYS)
        self.assertEqual(other.upstream.sent, KEYS)
        conversation.redis(b"*0\r\n")
        self.assertEqual(other.upstream.sent, KEYS * 2)

    def test_in_one_piece(self) -> None:
        conversation = logged_in_multiplexed()
        upstream = conversation.session.route.upstream
        conversation.client(MULTI + KEYS * 3 + EXEC + MULTI + KEYS + EXEC + GET)
        self.assertEqual(upstream.sent, MULTI + KEYS * 3 + EXEC)
        upstream.pending.received(b"+OK\r\n" + b"+QUEUED\r\n" * 3 + b"*0\r\n")
        self.assertEqual(upstream.sent, MULTI + KEYS * 3 + EXEC + MULTI + KEYS + EXEC + GET)
        upstream.pending.received(b"+OK\r\n+QUEUED\r\n*0\r\n$-1\r\n")
        self.assertTrue(conversation.session.replies.drained)
        self.assertEqual(conversation.session.window.free, conversation.session.window.size)

    def test_exec_is_never_timed(self) -> None:
        """A TIME in front of it would be a part of the transaction."""
        conversation = logged_in().client(KEYS)
        conversation.now += 0.5
        conversation.redis(b"*0\r\n")
        conversation.client(MULTI + KEYS).redis(b"+OK\r\n+QUEUED\r\n").client(EXEC)
        self.assertNotIn(TIME, conversation.upstream.sent)
        conversation.redis(b"*1\r\n*0\r\n")
        conversation.client(KEYS)
        self.assertTrue(conversation.upstream.sent.endswith(TIME + KEYS + TIME))

    def test_what_was_discarded_counts_no_more(self) -> None:
        for end in ([b"DISCARD"], [b"EXEC", b"too", b"many"], [b"RESET"]):
            conversation = logged_in().client(MULTI + KEYS * 5)
            conversation.redis(b"+OK\r\n" + b"+QUEUED\r\n" * 5).command(*end)
            if end == [b"RESET"]:
                conversation.command(b"AUTH", b"blue")
            else:
                conversation.redis(b"+OK\r\n")
            conversation.client(KEYS * 3)
            self.assertEqual(conversation.upstream.sent.count(KEYS), 2 if end == [b"RESET"] else 7, end)


class EndTests(unittest.TestCase):
    """All ways in which places come back."""

    def assertFree(self, conversation: Conversation) -> None:
        for call in conversation.later:
            call()
        window = conversation.window(BLUE.tenant)
        self.assertEqual(window.free, window.size)
        self.assertFalse(window.waited_for)

    def test_the_client_leaves_while_it_waits(self) -> None:
        conversation = logged_in().client(KEYS * 3)
        self.assertEqual(conversation.session.gates, Gate.STEP)
        conversation.session.ending.at_once()
        self.assertFree(conversation)

    def test_the_client_leaves_and_a_shared_connection_stays(self) -> None:
        conversation = logged_in_multiplexed().client(KEYS * 2)
        upstream = conversation.session.route.upstream
        conversation.session.ending.at_once()
        self.assertEqual(conversation.window(BLUE.tenant).free, 0)
        upstream.pending.received(b"*0\r\n" * 2)
        self.assertFree(conversation)

    def test_the_connection_is_lost(self) -> None:
        conversation = logged_in().client(KEYS * 3)
        conversation.upstream.pending.lost()
        conversation.session.upstream_lost()
        self.assertFree(conversation)

    def test_a_client_that_sends_its_end_of_file_gets_all_replies(self) -> None:
        conversation = logged_in().client(KEYS * 3)
        conversation.session.ending.half_closed()
        conversation.redis(b"*0\r\n" * 2).redis(b"*0\r\n")
        self.assertEqual(conversation.hears(), b"*0\r\n" * 3)
        self.assertIsNotNone(conversation.closed)
        self.assertFree(conversation)

    def test_a_drain_runs_what_has_come(self) -> None:
        conversation = logged_in().client(KEYS * 3)
        conversation.session.ending.drain()
        conversation.redis(b"*0\r\n" * 2).redis(b"*0\r\n")
        self.assertEqual(conversation.hears(), b"*0\r\n" * 3)
        self.assertIsNotNone(conversation.closed)

    def test_redis_goes_away_while_a_command_waits(self) -> None:
        conversation = logged_in_multiplexed()
        upstream, copy = conversation.session.route.upstream, [b"COPY", b"a", b"b"]
        conversation.client(KEYS * 2).command(*copy)
        conversation.tenant_pool.upstream = Unavailable("ERR away")
        upstream.pending.received(b"*0\r\n" * 2)
        self.assertEqual(conversation.hears(), b"*0\r\n" * 2 + b"-ERR away\r\n")
        self.assertFree(conversation)

    def test_another_policy_refuses_what_waited(self) -> None:
        conversation = logged_in_multiplexed()
        upstream = conversation.session.route.upstream
        conversation.client(KEYS * 2).command(b"COPY", b"a", b"b")
        conversation.use_policy(make_policy(builtin(), scripts=True, databases=False))
        upstream.pending.received(b"*0\r\n" * 2)
        self.assertEqual(conversation.hears(), b"*0\r\n" * 2 + b"-%b\r\n" % messages.REPLACED.text.encode())
        self.assertFree(conversation)

    def test_a_client_that_does_not_read_is_read_for_while_others_wait(self) -> None:
        first, second = logged_in(), logged_in()
        second.session.window = second.session.scanner.window = first.session.window
        first.client(KEYS * 2)
        first.session.client_slow(True)
        self.assertTrue(first.upstream.paused)
        second.client(KEYS)
        self.assertFalse(first.upstream.paused)
        first.redis(b"*0\r\n" * 2)
        self.assertEqual(second.upstream.sent, KEYS)


class BoundTests(unittest.TestCase):
    def test_what_it_sends_while_others_wait_is_read_at_once(self) -> None:
        first, slow, last = logged_in(), logged_in(), logged_in()
        for other in (slow, last):
            other.session.window = other.session.scanner.window = first.session.window
        first.client(KEYS * 2)
        slow.session.client_slow(True)
        slow.client(KEYS * 4)
        last.client(KEYS)
        first.redis(b"*0\r\n" * 2)
        self.assertEqual((slow.upstream.sent, last.upstream.sent), (KEYS * 4, b""))
        self.assertFalse(slow.upstream.paused)

    def test_the_places_are_the_tenants(self) -> None:
        conversation = logged_in().client(KEYS * 100)
        sent = 0
        while conversation.upstream.sent.count(KEYS) < 100:
            now = conversation.upstream.sent.count(KEYS)
            self.assertLessEqual(now - sent, bounds.WINDOW_MOST)
            timed = conversation.upstream.pending.newest().kind != 1
            answer = time(1) + b"*0\r\n" * (now - sent) + time(1) if timed else b"*0\r\n" * (now - sent)
            sent = now
            conversation.redis(answer)


class ConfirmedTests(unittest.TestCase):
    """Plain commands of a tenant that are slow, as Redis's log says."""

    SET, MSET = encode([b"SET", b"k", b"v"]), encode([b"mset", b"k", b"v"])

    def slow(self, conversation: Conversation) -> Conversation:
        """SET and MSET are slow from now on, but not GET."""
        conversation.slow[BLUE.tenant] = [b"SET", b"MSET", b"mset"]
        conversation.session.use_table()
        conversation.session.window.narrow()
        return conversation

    def test_they_go_one_at_a_time_from_then_on(self) -> None:
        for conversation in (logged_in(), logged_in_multiplexed()):
            upstream = conversation.session.route.upstream
            conversation.client(self.SET * 5)
            self.assertEqual(upstream.sent, self.SET * 5)
            upstream.pending.received(b"+OK\r\n" * 5)
            self.slow(conversation).client(self.SET + self.MSET + GET)
            timed = TIME + self.SET + TIME
            self.assertEqual(upstream.sent, self.SET * 5 + timed)
            upstream.pending.received(time(1) + b"+OK\r\n" + time(1.2))
            self.assertEqual(upstream.sent, self.SET * 5 + timed + TIME + self.MSET + TIME + GET)
            upstream.pending.received(time(2) + b"+OK\r\n" + time(2.2) + b"$1\r\na\r\n")
            self.assertEqual(conversation.hears(), b"+OK\r\n" * 7 + b"$1\r\na\r\n")
            self.assertEqual(conversation.session.window.size, 1)

    def test_half_a_command_goes_on_as_it_began(self) -> None:
        conversation = logged_in().client(self.SET[:-4])
        self.slow(conversation).client(self.SET[-4:] + self.SET)
        self.assertEqual(conversation.upstream.sent, self.SET + TIME + self.SET + TIME)

    def test_they_are_quick_again_while_one_waits(self) -> None:
        conversation = self.slow(logged_in()).client(self.SET * 3)
        conversation.slow.clear()
        conversation.session.use_table()
        self.assertEqual(conversation.upstream.sent, TIME + self.SET + TIME)
        conversation.redis(time(1) + b"+OK\r\n" + time(1.2))
        self.assertTrue(conversation.upstream.sent.endswith(TIME + self.SET * 2))
        conversation.redis(b"+OK\r\n" * 2)
        self.assertEqual(conversation.hears(), b"+OK\r\n" * 3)

    def test_in_a_transaction_and_as_a_large_command(self) -> None:
        conversation = self.slow(logged_in()).client(MULTI + self.SET * 2 + GET)
        self.assertEqual(conversation.session.windowed_in_multi, 2)
        conversation.redis(b"+OK\r\n" + b"+QUEUED\r\n" * 3).client(EXEC).redis(b"*3\r\n+OK\r\n+OK\r\n$-1\r\n")
        conversation.client(encode([b"set", b"k", b"v" * (bounds.WHOLE_COMMAND_BYTES + 1)]))
        window = conversation.session.window
        self.assertEqual(window.free, window.size - 1)
        conversation.redis(b"+OK\r\n")
        self.assertEqual(window.free, window.size)

    def test_after_a_log_in_as_another_tenant(self) -> None:
        conversation = self.slow(logged_in()).command(b"AUTH", b"green")
        conversation.client(self.SET * 3)
        self.assertTrue(conversation.upstream.sent.endswith(self.SET * 3))
        conversation.redis(b"+OK\r\n" * 3).command(b"AUTH", b"blue").client(self.SET * 3)
        self.assertEqual(conversation.upstream.sent.count(self.SET), 1)


class LargeTests(unittest.TestCase):
    """A command that is sent in pieces needs a place for its last piece."""

    LARGE = encode([b"BITCOUNT", b"k" * (bounds.WHOLE_COMMAND_BYTES + 1000)])

    def gets(self, conversation: Conversation) -> bytes:
        sent, conversation.upstream.sent = conversation.upstream.sent, b""
        return sent

    def begun(self) -> Conversation:
        """Sends a large command, whose end waits: two others have the places."""
        conversation, self.others = logged_in(), logged_in()
        self.others.session.window = self.others.session.scanner.window = conversation.session.window
        conversation.client(self.LARGE[:-10])
        self.assertEqual(self.gets(conversation), self.LARGE[:-10])
        self.others.client(KEYS * 2)
        return conversation.client(self.LARGE[-10:] + GET)

    def test_its_end_waits_for_a_place(self) -> None:
        conversation = self.begun()
        window = conversation.session.window
        self.assertEqual(self.gets(conversation), b"")
        self.assertTrue(conversation.session.midway)
        self.others.redis(b"*0\r\n" * 2)
        self.assertEqual(self.gets(conversation), self.LARGE[-10:] + GET)
        self.assertFalse(conversation.session.midway)
        self.assertEqual(window.free, window.size - 1)
        conversation.redis(b":0\r\n$1\r\na\r\n")
        self.assertEqual(conversation.hears(), b":0\r\n$1\r\na\r\n")
        self.assertEqual(window.free, window.size)

    def test_it_takes_no_place_before(self) -> None:
        conversation = logged_in().client(self.LARGE[:-10])
        window = conversation.session.window
        self.assertEqual(window.free, window.size)
        conversation.client(self.LARGE[-10:])
        self.assertEqual(window.free, window.size - 1)
        conversation.redis(b":0\r\n")
        self.assertEqual(window.free, window.size)

    def test_the_session_ends_while_it_waits(self) -> None:
        for end in (
            lambda session: session.ending.at_once(),
            lambda session: session.ending.hurry(),
            lambda session: session.upstream_lost(),
            lambda session: session.ending.give_up("paused"),
        ):
            conversation = self.begun()
            window, upstream = conversation.session.window, conversation.upstream
            end(conversation.session)
            conversation.session.ending.close_if_drained()
            self.others.redis(b"*0\r\n" * 2)
            self.assertEqual(window.free, window.size)
            self.assertNotIn(self.LARGE[-10:], upstream.sent)
            self.assertTrue(conversation.session.replies.drained)

    def test_a_client_that_hears_nothing(self) -> None:
        conversation = logged_in().command(b"CLIENT", b"REPLY", b"SKIP").client(self.LARGE + GET)
        conversation.redis(b":0\r\n$1\r\na\r\n")
        self.assertEqual(conversation.hears(), b"$1\r\na\r\n")

    def test_behind_a_command_that_blocks(self) -> None:
        conversation = logged_in().client(encode([b"BLPOP", b"q", b"0"]), self.LARGE)
        self.assertNotIn(b"BITCOUNT", self.gets(conversation))
        conversation.redis(b"*2\r\n$1\r\nq\r\n$1\r\na\r\n")
        self.assertEqual(self.gets(conversation), self.LARGE)
        conversation.redis(b":0\r\n")
        self.assertTrue(conversation.session.replies.drained)

    def test_inside_multi_exec_needs_the_place(self) -> None:
        conversation = logged_in().client(MULTI).redis(b"+OK\r\n").client(self.LARGE).redis(b"+QUEUED\r\n")
        self.assertEqual(self.gets(conversation), MULTI + self.LARGE)
        conversation.client(EXEC)
        self.assertEqual(conversation.session.window.free, conversation.session.window.size - 1)

    def test_others_need_none(self) -> None:
        conversation = logged_in().client(encode([b"SET", b"k", b"x" * (bounds.WHOLE_COMMAND_BYTES + 1000)]))
        self.assertEqual(conversation.session.window.free, conversation.session.window.size)
