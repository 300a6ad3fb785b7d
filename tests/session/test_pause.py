"""A session's tenant is paused: what the session gives up, and when it ends."""

from __future__ import annotations

from redisproxy.session.errors import OK
from redisproxy.session.route import DEDICATED, MULTIPLEXED, NONE

from ..support.conversations import Conversation, ConversationCase, SharedConversation, logged_in, logged_in_multiplexed


class DedicatedTests(ConversationCase):
    """With `--connections dedicated`."""

    def test_at_rest_it_gives_up_its_connection_and_acquires_another_for_the_next_command(self) -> None:
        talk = logged_in()
        self.assertFalse(talk.session.pause())
        self.assertEqual((talk.upstream.released, talk.session.route.state), (True, NONE))
        talk.upstreams_at_once = False
        talk.command(b"SET", b"a", b"1").command(b"GET", b"a")
        self.assertHears(talk)
        talk.open_upstream()
        self.assertEqual(talk.session.route.state, DEDICATED)
        talk.redis(b"+OK\r\n$1\r\n1\r\n")
        self.assertHears(talk, b"+OK\r\n$1\r\n1\r\n")

    def test_what_is_in_flight_is_answered_first(self) -> None:
        talk = logged_in()
        talk.command(b"SET", b"a", b"1")
        talk.gets()
        self.assertFalse(talk.session.pause())
        talk.upstreams_at_once = False
        talk.command(b"SET", b"a", b"2")
        self.assertEqual(talk.gets(), b"")
        talk.redis(b"+OK\r\n")
        self.assertHears(talk, OK)
        self.assertEqual((talk.upstream.released, len(talk.upstreams)), (True, 1))
        talk.open_upstream()
        talk.redis(b"+OK\r\n")
        self.assertHears(talk, OK)

    def test_the_time_is_over(self) -> None:
        talk = logged_in(upstreams_at_once=True)
        talk.session.pause()
        talk.upstreams_at_once = False
        talk.command(b"GET", b"a")
        talk.refuse_upstream("ERR gone", closes=True)
        self.assertEqual((talk.hears(), talk.closed), (b"", "redis-away"))

    def test_another_protocol_is_kept(self) -> None:
        talk = logged_in(3)
        talk.session.pause()
        talk.command(b"GET", b"a")
        self.assertEqual(talk.asked_protocol, 3)

    def ends(self, talk: Conversation, blocked: bool = False) -> None:
        self.assertTrue(talk.session.pause())
        self.assertEqual(talk.upstream.given_up, blocked)
        talk.command(b"GET", b"behind")
        self.assertFalse(talk.session.pause(), "it has ended")

    def test_state_at_redis_ends_it(self) -> None:
        for words, reply in (
            ((b"MULTI",), b"+OK\r\n"),
            ((b"WATCH", b"a"), b"+OK\r\n"),
            ((b"SUBSCRIBE", b"c"), b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:c\r\n:1\r\n"),
        ):
            with self.subTest(words):
                talk = logged_in().command(*words)
                talk.redis(reply)
                self.ends(talk)
                talk.session.ending.close_if_drained()
                self.assertEqual((talk.closed, talk.upstream.released), ("tenant-paused", False))

    def test_a_blocked_command_is_given_up(self) -> None:
        talk = logged_in().command(b"BLPOP", b"l", b"0")
        self.ends(talk, blocked=True)
        talk.session.ending.close_if_drained()
        self.assertIsNone(talk.closed)
        talk.session.upstream_lost()
        self.assertEqual((talk.hears(), talk.closed), (b"", "tenant-paused"))

    def test_a_command_that_was_sent_in_part_ends_it(self) -> None:
        talk = logged_in().client(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000000\r\nbegun")
        self.ends(talk)
        talk.session.ending.close_if_drained()
        self.assertEqual((talk.closed, talk.upstream.released), ("tenant-paused", False))

    def test_it_waits_for_something_else(self) -> None:
        """For the answer to INFO, for example: it could not give up its connection now."""
        talk = logged_in().command(b"INFO")
        self.ends(talk)
        talk.session.ending.close_if_drained()
        self.assertEqual(talk.closed, "tenant-paused")

    def test_who_is_not_logged_in_notices_nothing(self) -> None:
        talk = Conversation()
        self.assertFalse(talk.session.pause())
        self.assertHears(talk.command(b"AUTH", b"blue"), OK)


class MultiplexedTests(ConversationCase):
    def test_it_does_nothing_over_multiplexed_connections(self) -> None:
        """Their pool takes no more commands."""
        talk = logged_in_multiplexed()
        self.assertFalse(talk.session.pause())
        self.assertEqual(talk.session.route.state, MULTIPLEXED)

    def test_a_client_that_does_not_read_goes_back(self) -> None:
        talk = logged_in_multiplexed()
        talk.session.client_slow(True)
        talk.command(b"GET", b"a")
        self.assertEqual(talk.session.route.state, DEDICATED)
        talk.redis(b"$1\r\n1\r\n")
        self.assertFalse(talk.session.pause())
        self.assertEqual((talk.upstream.released, talk.session.route.state), (True, MULTIPLEXED))

    def test_a_client_that_does_not_read_is_closed_when_the_time_is_over(self) -> None:
        """It may read nothing before it has sent everything. So to wait until it reads would be for
        ever.
        """
        talk = logged_in_multiplexed(upstreams_at_once=False)
        talk.session.client_slow(True)
        talk.command(b"GET", b"a")
        talk.refuse_upstream("ERR gone", closes=True)
        self.assertEqual((talk.hears(), talk.closed), (b"", "redis-away"))

    def test_what_it_waits_for_there_is_answered_first(self) -> None:
        talk: SharedConversation = logged_in_multiplexed()
        talk.session.client_slow(True)
        talk.command(b"GET", b"a")
        self.assertFalse(talk.session.pause())
        talk.command(b"GET", b"b")
        self.assertEqual(talk.session.route.state, DEDICATED)
        talk.redis(b"$1\r\n1\r\n")
        self.assertEqual(talk.upstreams[0].released, True)
        self.assertHears(talk, b"$1\r\n1\r\n")
