"""What is asked for tenants with the master's rights: whose turn it is, and what it may cost
others.
"""

from __future__ import annotations

from twisted.internet import defer, task
from twisted.internet.error import ConnectionRefusedError
from twisted.trial import unittest

from redisproxy import bounds, messages
from redisproxy.resp.framing import encode
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.upstream.client import ControlError
from redisproxy.upstream.queries import PAUSE_FACTOR, TOO_LARGE, ControlQueries

from ..support.client_pool import Pool, Upstream

BLUE, GREEN, RED = Tenant("team-blue", 3), Tenant("team-green", 5), Tenant("team-red", 6)
INFO = [b"INFO", b"server"]


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


class ControlQueriesTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.clock.advance(1000)
        self.pool = Pool(self.clock)
        self.queries = ControlQueries(self.clock, self.pool.client)
        self.queries.use(BackendAddress("here"))
        self.addCleanup(lambda: self.assertEqual(self.queries._turns, {}))
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.queries.stop()
        self.clock.advance(0)
        self.assertEqual([upstream.lost for upstream in self.pool.upstreams], [True] * len(self.pool.upstreams))

    def ask(self, tenant: Tenant = BLUE, words: list[bytes] = INFO) -> defer.Deferred:
        """Asks one command. Fires with its answer alone."""
        asked = self.ask_all([words], tenant)
        return asked.addCallback(lambda answers: answers[0] if len(answers) == 1 else answers)

    def ask_all(self, commands: list[list[bytes]], tenant: Tenant = BLUE) -> defer.Deferred:
        asked = defer.Deferred.fromCoroutine(self.queries.ask(tenant, commands))
        self.clock.advance(0)
        return asked

    def failed(self, asked: defer.Deferred) -> str:
        """Returns the error that the client gets."""
        return self.failureResultOf(asked, ControlError).value.client_reply

    def assertKept(self, upstream: Upstream) -> None:
        """Asserts that the connection is open, and that the next query uses it."""
        self.assertFalse(upstream.dropped)
        self.assertIs(self.queries._current.client.connection.transport, upstream.transport)

    @property
    def upstream(self) -> Upstream:
        return self.pool.upstreams[-1]

    def test_one_connection_for_all_which_is_kept_between_two_questions(self) -> None:
        blue, green = self.ask(), self.ask(GREEN, [b"PUBSUB", b"NUMPAT"])
        (upstream,) = self.pool.upstreams
        self.assertEqual(upstream.gets(), encode(INFO) + encode([b"PUBSUB", b"NUMPAT"]))
        upstream.redis(bulk(b"# Server")[:5])
        self.assertNoResult(blue)
        upstream.redis(bulk(b"# Server")[5:] + b":7\r\n")
        self.assertEqual((self.successResultOf(blue), self.successResultOf(green)), (b"# Server", 7))
        self.assertKept(upstream)

    def test_it_is_closed_when_nobody_has_asked_for_a_while(self) -> None:
        self.ask()
        self.upstream.redis(bulk(b"1"))
        self.clock.advance(bounds.QUERY_IDLE_SECONDS - 1)
        self.ask()
        self.upstream.redis(bulk(b"2"))
        self.clock.advance(bounds.QUERY_IDLE_SECONDS - 1)
        self.assertKept(self.upstream)
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertTrue(self.upstream.lost)
        asked = self.ask()
        self.assertEqual(len(self.pool.upstreams), 2)
        self.upstream.redis(bulk(b"3"))
        self.assertEqual(self.successResultOf(asked), b"3")

    def test_without_a_master_secret_nobody_is_asked(self) -> None:
        self.queries.use(None)
        self.assertEqual(self.failed(self.ask()), messages.UNREACHABLE.text)

    def test_one_at_a_time_for_each_tenant(self) -> None:
        first, second, green = self.ask(), self.ask(BLUE, [b"INFO", b"second"]), self.ask(GREEN)
        self.assertEqual(self.upstream.gets(), encode(INFO) * 2)
        self.upstream.redis(bulk(b"1"))
        self.assertEqual(self.upstream.gets(), encode([b"INFO", b"second"]))
        self.upstream.redis(bulk(b"green") + bulk(b"2"))
        self.assertEqual([self.successResultOf(asked) for asked in (first, second, green)], [b"1", b"2", b"green"])

    def test_after_a_slow_answer_the_tenant_waits_and_others_do_not(self) -> None:
        first, second, green = self.ask(), self.ask(), self.ask(GREEN)
        self.upstream.gets()
        self.clock.advance(0.1)
        self.upstream.redis(bulk(b"1") + bulk(b"green"))
        self.successResultOf(first), self.successResultOf(green)
        green = self.ask(GREEN)  # its own answer was not slow, but waited for the other tenant's
        self.assertEqual(self.upstream.gets(), encode(INFO))
        self.upstream.redis(bulk(b"green"))
        self.successResultOf(green)
        self.clock.advance(0.1 * PAUSE_FACTOR - 0.01)
        self.assertEqual(self.upstream.gets(), b"")
        self.clock.advance(0.02)
        self.assertEqual(self.upstream.gets(), encode(INFO))
        self.clock.advance(5)
        self.upstream.redis(bulk(b"2"))
        self.successResultOf(second)
        third = self.ask()
        self.clock.advance(bounds.QUERY_PAUSE_SECONDS)
        self.upstream.redis(bulk(b"3"))
        self.successResultOf(third)

    def test_what_is_too_large_is_passed_over(self) -> None:
        asked, green = self.ask(), self.ask(GREEN)
        channel = bulk(b"x" * 100)
        count = bounds.QUERY_REPLY_BYTES // len(channel) + 1
        self.upstream.redis(b"*%d\r\n" % count)
        for _ in range(count - 1):
            self.upstream.redis(channel)
        self.assertNoResult(asked)
        self.upstream.redis(channel + bulk(b"green"))
        self.assertEqual(self.failed(asked), TOO_LARGE)
        self.assertEqual(self.successResultOf(green), b"green")

    def test_several_commands_are_one_question(self) -> None:
        asked = self.ask_all([INFO, [b"CONFIG", b"GET", b"save"], INFO])
        green = self.ask(GREEN)
        self.assertEqual(self.upstream.gets(), encode(INFO) + encode([b"CONFIG", b"GET", b"save"]) + encode(INFO) * 2)
        replies = bulk(b"1") + b"*2\r\n" + bulk(b"save") + bulk(b"") + bulk(b"2")
        for byte in range(len(replies) - 1):
            self.upstream.redis(replies[byte : byte + 1])
        self.assertNoResult(asked)
        self.upstream.redis(replies[-1:] + bulk(b"green"))
        self.assertEqual(self.successResultOf(asked), [b"1", [b"save", b""], b"2"])
        self.assertEqual(self.successResultOf(green), b"green")

    def test_an_error_among_several_answers(self) -> None:
        asked = self.ask_all([INFO, INFO, INFO])
        self.upstream.redis(bulk(b"1") + b"-LOADING Redis is loading\r\n" + bulk(b"3"))
        self.assertIn("did not answer", self.failed(asked))
        self.assertKept(self.upstream)

    def test_only_that_redis_is_busy_with_a_script_is_passed_on(self) -> None:
        """It is not held either, unlike the others."""
        for error, heard in (
            ("BUSY Redis is busy.", "BUSY Redis is busy."),
            ("LOADING Redis is loading", messages.UNANSWERED.text),
            ("ERR something else", messages.UNANSWERED.text),
        ):
            asked = self.ask()
            self.upstream.redis(b"-%b\r\n" % error.encode())
            failure = self.failureResultOf(asked, ControlError).value
            self.assertEqual((failure.client_reply, failure.passing), (heard, heard != error))
            self.assertKept(self.upstream)

    def test_what_the_master_may_not_ask_is_told_as_that(self) -> None:
        """If the master may not ask, as on a hosted Redis without CONFIG, the error says so."""
        for error in (b"NOPERM this user has no permissions", b"ERR unknown command 'CONFIG'", b"ERR Unknown subcommand"):
            asked = self.ask()
            self.upstream.redis(b"-%b\r\n" % error)
            self.assertEqual(self.failed(asked), messages.NOT_ALLOWED.text)

    def test_one_that_does_not_answer_is_closed(self) -> None:
        asked, green = self.ask(), self.ask(GREEN)
        self.clock.advance(bounds.QUERY_SECONDS)
        self.assertIn("did not answer", self.failed(asked))
        self.assertIn("did not answer", self.failed(green))
        self.assertTrue(self.upstream.dropped)
        old = self.upstream
        red = self.ask(RED)
        self.assertIsNot(self.upstream, old)
        old.lose()
        self.upstream.redis(bulk(b"red"))
        self.assertEqual(self.successResultOf(red), b"red")
        self.clock.advance(bounds.QUERY_PAUSE_SECONDS)

    def test_one_that_waits_behind_another_s_has_its_own_time(self) -> None:
        asked = self.ask()
        self.clock.advance(bounds.QUERY_SECONDS - 1)
        green = self.ask(GREEN)
        old = self.upstream
        self.clock.advance(1)
        self.assertIn("did not answer", self.failed(asked))
        self.assertNoResult(green)
        self.assertFalse(old.dropped)
        red = self.ask(RED)
        self.assertIsNot(self.upstream, old)
        self.upstream.redis(bulk(b"red"))
        self.assertEqual(self.successResultOf(red), b"red")
        old.redis(bulk(b"late") + bulk(b"green"))
        self.assertEqual(self.successResultOf(green), b"green")
        self.assertKept(self.upstream)
        self.assertTrue(old.dropped)
        self.clock.advance(bounds.QUERY_PAUSE_SECONDS)

    def test_when_nobody_waits_any_more_it_is_closed(self) -> None:
        asked = self.ask()
        self.clock.advance(1)
        green = self.ask(GREEN)
        self.clock.advance(bounds.QUERY_SECONDS - 1)
        self.failed(asked)
        self.assertFalse(self.upstream.dropped)
        self.clock.advance(1)
        self.assertIn("did not answer", self.failed(green))
        self.assertTrue(self.upstream.dropped)
        self.upstream.lose()
        self.clock.advance(bounds.QUERY_PAUSE_SECONDS)

    def test_a_connection_that_breaks(self) -> None:
        asked, green = self.ask(), self.ask(GREEN)
        self.upstream.redis(b"$8\r\n# Ser")
        self.upstream.lose()
        self.assertIn("did not answer", self.failed(asked))
        self.assertIn("did not answer", self.failed(green))
        again = self.ask()
        self.assertEqual(len(self.pool.upstreams), 2)
        self.upstream.redis(bulk(b"1"))
        self.assertEqual(self.successResultOf(again), b"1")

    def test_redis_moved(self) -> None:
        """The former Redis still answers what it was asked; the next query goes to the new one."""
        asked = self.ask()
        old = self.upstream
        self.queries.use(BackendAddress("there"))
        green = self.ask(GREEN)
        self.assertIsNot(self.upstream, old)
        old.redis(bulk(b"old"))
        self.upstream.redis(bulk(b"new"))
        self.assertEqual((self.successResultOf(asked), self.successResultOf(green)), (b"old", b"new"))
        self.assertKept(self.upstream)
        self.assertTrue(old.dropped)

    def test_without_a_connection_all_that_wait_are_told(self) -> None:
        self.pool.opening = defer.Deferred()
        asked = [self.ask(tenant) for tenant in (BLUE, GREEN, RED)]
        self.pool.opening.errback(ConnectionRefusedError())
        self.clock.advance(0)
        self.assertEqual([self.failed(each) for each in asked], [messages.UNREACHABLE.text] * 3)
        self.pool.opening = defer.Deferred()
        asked = [self.ask(tenant) for tenant in (BLUE, GREEN)]
        self.pool.opening.callback(None)
        self.clock.advance(0)
        self.assertEqual(len(self.pool.upstreams), 1)
        self.upstream.redis(bulk(b"1") + bulk(b"2"))
        self.assertEqual([self.successResultOf(each) for each in asked], [b"1", b"2"])

    def test_what_is_given_up_before_its_turn_is_not_asked(self) -> None:
        """A query that is cancelled before its turn is not sent, and leaves nothing behind."""
        first, *given_up, last = [self.ask(BLUE, [b"INFO", b"%d" % number]) for number in range(5)]
        for asked in given_up:
            asked.cancel()
            self.failureResultOf(asked, defer.CancelledError)
        self.assertEqual(self.upstream.gets(), encode([b"INFO", b"0"]))
        self.upstream.redis(bulk(b"0"))
        self.assertEqual(self.upstream.gets(), encode([b"INFO", b"4"]))
        self.upstream.redis(bulk(b"4"))
        self.assertEqual((self.successResultOf(first), self.successResultOf(last)), (b"0", b"4"))

    def test_what_is_given_up_in_its_turn_costs_no_connection(self) -> None:
        asked, last = self.ask(), self.ask()
        asked.cancel()
        self.failureResultOf(asked, defer.CancelledError)
        self.assertEqual(self.upstream.gets(), encode(INFO))
        self.upstream.redis(bulk(b"1"))
        self.assertEqual(self.upstream.gets(), encode(INFO))
        self.upstream.redis(bulk(b"2"))
        self.assertEqual(self.successResultOf(last), b"2")
        self.assertEqual([upstream.dropped for upstream in self.pool.upstreams], [False])
