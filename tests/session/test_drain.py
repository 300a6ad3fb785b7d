"""What a session still does in a drain, what it leaves undone, and what the client gets."""

from __future__ import annotations

from redisproxy import bounds
from redisproxy.resp.framing import encode
from redisproxy.session.errors import OK

from ..support.conversations import Conversation, ConversationCase, SharedConversation, logged_in, logged_in_multiplexed

GET = encode([b"GET", b"a"])
BIG = encode([b"SET", b"a", b"x" * (bounds.WHOLE_COMMAND_BYTES + 1000)])
UNBLOCKED = b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"


class DrainCase(ConversationCase):
    def assertEnded(self, conversation: Conversation, close_reason: str = "shutdown") -> None:
        self.assertEqual(conversation.closed, close_reason)
        self.assertTrue(all(upstream.released is not None for upstream in conversation.upstreams))

    def assertGoesOn(self, conversation: Conversation) -> None:
        self.assertIsNone(conversation.closed)
        self.assertFalse(conversation.session.ended)


class PlainTests(DrainCase):
    def test_an_idle_one_ends_at_once(self) -> None:
        for conversation in (logged_in(), logged_in_multiplexed(), Conversation()):
            conversation.session.ending.drain()
            self.assertEnded(conversation)
            self.assertHears(conversation)

    def test_what_is_under_way_is_answered_and_what_comes_later_is_not_run(self) -> None:
        conversation = logged_in_multiplexed().client(GET * 2)
        conversation.session.ending.drain()
        self.assertIsNone(conversation.closed)
        conversation.client(GET)
        self.assertEqual(conversation.shared_gets(), GET * 2)
        conversation.shared_redis(b"+1\r\n")
        self.assertIsNone(conversation.closed)
        conversation.shared_redis(b"+2\r\n")
        self.assertHears(conversation, b"+1\r\n+2\r\n")
        self.assertEnded(conversation)
        self.assertEqual(conversation.tenant_pool.users, 0)

    def test_what_has_come_but_had_to_wait_is_run(self) -> None:
        # A command that waits until no reply is pending, and then for a dedicated connection or a
        # log-in; and another command behind it.
        block = encode([b"BLPOP", b"q", b"0"])
        conversation = logged_in_multiplexed().client(GET, block, GET)
        conversation.session.ending.drain()
        self.assertGoesOn(conversation)
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual(conversation.gets(), block + GET)
        conversation.redis(b"*-1\r\n+2\r\n")
        self.assertHears(conversation, b"+1\r\n*-1\r\n+2\r\n")
        self.assertEnded(conversation)
        conversation = logged_in_multiplexed().client(GET, encode([b"AUTH", b"green"]), GET)
        conversation.session.ending.drain()
        self.assertGoesOn(conversation)
        conversation.shared_redis(b"+1\r\n")
        # this reply comes over a connection of the other tenant
        conversation.shared_redis(b"+2\r\n")
        self.assertEqual(len(conversation.pools), 2)
        self.assertHears(conversation, b"+1\r\n" + OK + b"+2\r\n")
        self.assertEnded(conversation)

    def test_a_question_over_the_control_connection_is_answered(self) -> None:
        conversation = logged_in_multiplexed().client(encode([b"INFO"]), GET)
        conversation.session.ending.drain()
        self.assertGoesOn(conversation)
        conversation.finish([b"# Server\r\nredis_version:7.0.15\r\n"])
        conversation.shared_redis(b"+1\r\n")
        self.assertTrue(conversation.hears().endswith(b"+1\r\n"))
        self.assertEnded(conversation)

    def test_a_multiplexed_connection_that_takes_no_more_for_now(self) -> None:
        conversation = logged_in_multiplexed()
        conversation.tenant_pool.upstream.busy = True
        conversation.client(GET)
        conversation.session.ending.drain()
        self.assertGoesOn(conversation)
        conversation.tenant_pool.upstream.busy = False
        conversation.tenant_pool.ready()
        conversation.shared_redis(b"+1\r\n")
        self.assertHears(conversation, b"+1\r\n")
        self.assertEnded(conversation)

    def test_what_waits_for_the_limit_of_its_tenant_is_run(self) -> None:
        conversation = logged_in_multiplexed()
        conversation.session.throttle(True)
        conversation.client(GET)
        conversation.session.ending.drain()
        self.assertGoesOn(conversation)
        conversation.client(GET[:9])  # comes too late
        conversation.session.throttle(False)
        conversation.shared_redis(b"+1\r\n")
        self.assertHears(conversation, b"+1\r\n")
        self.assertEnded(conversation)

    def test_a_command_of_which_a_part_has_come_is_run_whole(self) -> None:
        for cut in range(1, len(GET)):
            for conversation in (logged_in(), logged_in_multiplexed()):
                conversation.client(GET[:cut])
                conversation.session.ending.drain()
                self.assertGoesOn(conversation)
                conversation.client(GET[cut:], GET[:7])
                self.assertTrue(conversation.session.ended, cut)
                upstream = getattr(conversation, "tenant_pool", conversation).upstream
                self.assertEqual(upstream.sent, GET)
                upstream.pending.received(b"+1\r\n")
                self.assertHears(conversation, b"+1\r\n")
                self.assertEnded(conversation)

    def test_so_is_one_that_has_to_be_inspected(self) -> None:
        command = encode([b"PUBLISH", b"channel", b"x" * 100])
        for cut in range(1, len(command)):
            conversation = logged_in().client(command[:cut])
            conversation.session.ending.drain()
            self.assertGoesOn(conversation)
            conversation.client(command[cut:], command[:60])
            self.assertTrue(conversation.session.ended, cut)
            conversation.redis(b":0\r\n")
            self.assertHears(conversation, b":0\r\n")
            self.assertEnded(conversation)

    def test_a_large_one_that_streams_comes_to_its_end_and_no_further(self) -> None:
        for conversation in (logged_in(), logged_in_multiplexed()):
            conversation.client(BIG[:-500])
            self.assertEqual(conversation.gets(), BIG[:-500])
            conversation.session.ending.drain()
            self.assertGoesOn(conversation)
            conversation.client(BIG[-500:-1])
            self.assertGoesOn(conversation)
            conversation.client(BIG[-1:] + GET)
            self.assertEqual(conversation.gets(), BIG[-500:])
            conversation.redis(b"+OK\r\n")
            self.assertHears(conversation, OK)
            self.assertEnded(conversation)

    def test_one_that_never_pauses_is_stopped_where_a_command_ends(self) -> None:
        conversation = logged_in_multiplexed().client(GET * 10 + GET[:5])
        conversation.session.ending.drain()
        conversation.client(GET[5:] + GET * 3 + GET[:5])
        self.assertTrue(conversation.session.ended)
        conversation.client(GET[5:] + GET * 100)
        self.assertEqual(conversation.shared_gets(), GET * 14)
        conversation.shared_redis(b"+1\r\n" * 14)
        self.assertHears(conversation, b"+1\r\n" * 14)
        self.assertEnded(conversation)

    def test_a_client_that_leaves_meanwhile(self) -> None:
        conversation = logged_in_multiplexed().client(GET[:9])
        conversation.session.ending.drain()
        conversation.session.ending.half_closed()
        self.assertEnded(conversation, "client-left")
        # Half a command behind the last whole one does not keep the session open.
        conversation = logged_in_multiplexed()
        conversation.tenant_pool.upstream.busy = True
        conversation.client(GET + GET[:9])
        conversation.session.ending.half_closed()
        conversation.session.ending.drain()
        conversation.tenant_pool.upstream.busy = False
        conversation.tenant_pool.ready()
        conversation.shared_redis(b"+1\r\n")
        self.assertEnded(conversation, "client-left")

    def test_an_unauthenticated_one_is_not_waited_for(self) -> None:
        conversation = Conversation(upstreams_at_once=False).client(encode([b"AUTH", b"blue"]), GET)
        conversation.session.ending.drain()
        self.assertEqual(conversation.closed, "shutdown")
        conversation.open_upstream()
        self.assertIs(conversation.upstream.released, True)
        self.assertHears(conversation)

    def test_a_reset_ends_it(self) -> None:
        conversation = logged_in_multiplexed().client(GET, encode([b"RESET"]))
        conversation.session.ending.drain()
        conversation.shared_redis(b"+1\r\n")
        self.assertHears(conversation, b"+1\r\n+RESET\r\n")
        self.assertEnded(conversation)


class StateTests(DrainCase):
    def test_a_transaction_comes_to_its_exec_or_discard(self) -> None:
        for last in (b"EXEC", b"DISCARD"):
            conversation = logged_in_multiplexed().command(b"MULTI").redis(OK)
            conversation.session.ending.drain()
            self.assertGoesOn(conversation)
            conversation.client(GET).redis(b"+QUEUED\r\n")
            self.assertGoesOn(conversation)
            conversation.client(encode([last]), encode([b"MULTI"]), GET)
            self.assertTrue(conversation.session.ended)
            self.assertEqual(conversation.gets(), encode([b"MULTI"]) + GET + encode([last]))
            conversation.redis(b"*1\r\n+1\r\n")
            self.assertHears(conversation, OK, b"+QUEUED\r\n*1\r\n+1\r\n")
            self.assertEnded(conversation)

    def test_what_is_refused_within_one(self) -> None:
        conversation = logged_in().command(b"MULTI").redis(OK)
        conversation.session.ending.drain()
        conversation.command(b"CONFIG", b"SET", b"*").redis(b"-ERR\r\n")
        self.assertGoesOn(conversation)
        conversation.command(b"EXEC").redis(b"-EXECABORT\r\n")
        self.assertEnded(conversation)

    def test_one_that_begins_with_watch(self) -> None:
        conversation = logged_in_multiplexed().command(b"WATCH", b"a").redis(OK)
        conversation.session.ending.drain()
        conversation.client(GET).redis(b"+1\r\n")
        self.assertGoesOn(conversation)
        conversation.client(encode([b"MULTI"]), GET, encode([b"EXEC"])).redis(b"+OK\r\n+QUEUED\r\n*0\r\n")
        self.assertEnded(conversation)
        conversation = logged_in_multiplexed().command(b"WATCH", b"a").redis(OK)
        conversation.session.ending.drain()
        conversation.command(b"UNWATCH").redis(OK)
        self.assertEnded(conversation)

    def test_one_that_does_not_come_to_its_end(self) -> None:
        conversation = logged_in_multiplexed().command(b"MULTI").redis(OK).client(GET)
        conversation.session.ending.drain()
        conversation.session.ending.hurry()
        self.assertIsNone(conversation.closed)
        conversation.command(b"EXEC")
        self.assertEqual(conversation.gets(), encode([b"MULTI"]) + GET)
        conversation.redis(b"+QUEUED\r\n")
        self.assertHears(conversation, OK, b"+QUEUED\r\n")
        self.assertEnded(conversation, "cut-off")
        self.assertIs(conversation.upstream.released, False)  # closed, which discards the transaction

    def test_a_large_command_that_does_not_come_to_its_end(self) -> None:
        conversation = logged_in_multiplexed().client(BIG[:-500])
        conversation.session.ending.drain()
        conversation.session.ending.hurry()
        self.assertHears(conversation)
        self.assertEnded(conversation, "cut-off")
        self.assertIs(conversation.upstream.released, False)

    def test_a_subscriber_gets_the_message_under_way(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"a")
        conversation.redis(b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:a\r\n:1\r\n")
        message = b"*3\r\n$7\r\nmessage\r\n$6\r\nblue:a\r\n$6\r\nabcdef\r\n"
        conversation.redis(message[:-5])
        conversation.hears()
        conversation.session.ending.drain()
        self.assertIsNone(conversation.closed)
        conversation.redis(message[-5:])
        self.assertTrue(conversation.hears().endswith(b"\r\n"))
        self.assertEnded(conversation)
        idle = logged_in().command(b"SUBSCRIBE", b"a")
        idle.redis(b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:a\r\n:1\r\n")
        idle.session.ending.drain()
        self.assertEnded(idle)

    def test_a_client_that_does_not_read(self) -> None:
        conversation = logged_in().client(GET)
        conversation.session.client_slow(True)
        conversation.session.ending.drain()
        self.assertIsNone(conversation.closed)
        conversation.session.client_slow(False)
        conversation.redis(b"+1\r\n")
        self.assertHears(conversation, b"+1\r\n")
        self.assertEnded(conversation)


class BlockedTests(DrainCase):
    def blocked(self, *more: bytes) -> SharedConversation:
        conversation = logged_in_multiplexed().client(encode([b"BLPOP", b"queue", b"0"]), *more)
        conversation.session.ending.drain()
        self.assertIsNone(conversation.closed)
        conversation.session.ending.hurry()
        conversation.session.replies.expect_unblocking()
        self.assertIsNone(conversation.closed)
        return conversation

    def test_one_that_is_given_up_is_not_told_so_that_it_is_tried_again(self) -> None:
        conversation = self.blocked().redis(UNBLOCKED)
        self.assertHears(conversation)
        self.assertEnded(conversation)

    def test_however_the_error_comes(self) -> None:
        for cut in range(1, len(UNBLOCKED)):
            conversation = self.blocked().redis(UNBLOCKED[:cut]).redis(UNBLOCKED[cut:])
            self.assertHears(conversation)
            self.assertEnded(conversation)
        other = b"-UNKILLABLE\r\n"
        for cut in range(1, len(other)):
            conversation = self.blocked().redis(other[:cut]).redis(other[cut:])
            self.assertHears(conversation, other)
            self.assertEnded(conversation)

    def test_one_that_got_its_item_in_the_last_moment_is_told(self) -> None:
        conversation = self.blocked().redis(b"*2\r\n$5\r\nqueue\r\n$4\r\n").redis(b"item\r\n")
        self.assertHears(conversation, b"*2\r\n$5\r\nqueue\r\n$4\r\nitem\r\n")
        self.assertEnded(conversation)

    def test_where_more_is_pending_all_answers_stay_in_their_places(self) -> None:
        conversation = self.blocked(GET).redis(UNBLOCKED + b"+1\r\n")
        self.assertHears(conversation, UNBLOCKED, b"+1\r\n")
        self.assertEnded(conversation)
