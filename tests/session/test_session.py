"""Conversations of one session: what the client and Redis send, and what each of them must get."""

from __future__ import annotations

import unittest
from unittest import mock

from redisproxy import bounds, messages
from redisproxy.policy import policy, server_config
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import ProtocolError, encode
from redisproxy.session import commands, costs, pubsub
from redisproxy.session.errors import NOAUTH, OK, SPOILER, SYNTAX
from redisproxy.session.info import SECTIONS
from redisproxy.session.pending import ReplyBatch
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.memory import Memory
from redisproxy.tenants.model import AuthenticationError, Credential, Snapshot, Tenant, digest

from ..support.conversations import BLUE, DIRECTORY, GREEN, Conversation, ConversationCase, logged_in


class LoginTests(ConversationCase):
    def test_password_only(self) -> None:
        conversation = Conversation().command(b"AUTH", b"blue")
        self.assertHears(conversation, OK)
        self.assertEqual(conversation.asked, [BLUE.tenant])

    def test_username_and_password(self) -> None:
        for user in (b"blue", b"default"):
            self.assertHears(Conversation().command(b"AUTH", user, b"blue"), OK)
        self.assertRefused(Conversation().command(b"AUTH", b"green", b"blue"), b"-WRONGPASS ")
        self.assertRefused(Conversation().command(b"AUTH", b"blue", b"green"), b"-WRONGPASS ")

    def test_the_username_is_not_the_password(self) -> None:
        self.assertRefused(Conversation().command(b"AUTH", b"blue", b"x"), b"-WRONGPASS ")

    def test_arity(self) -> None:
        self.assertRefused(Conversation().command(b"AUTH"), b"-ERR wrong number of arguments for 'auth' command")
        self.assertRefused(Conversation().command(b"AUTH", b"a", b"b", b"c"), b"-ERR syntax error")

    def test_without_it_nothing_runs_and_the_connection_goes_on(self) -> None:
        conversation = Conversation()
        for words in (
            (b"GET", b"a"),
            (b"SELECT", b"3"),
            (b"NOSUCH",),
            (b"MULTI",),
            (b"CLIENT", b"ID"),
            (b"SUBSCRIBE", b"x"),
        ):
            self.assertHears(conversation.command(*words), NOAUTH)
        self.assertHears(conversation.command(b"N" * 500), NOAUTH)
        self.assertHears(conversation.client(b"GET a\r\n"), NOAUTH)
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.command(b"AUTH", b"blue"), OK)

    def test_pipelined_before_and_across(self) -> None:
        conversation = Conversation()
        conversation.client(
            encode([b"GET", b"a"]), encode([b"AUTH", b"blue"]), encode([b"GET", b"a"]), encode([b"SELECT", b"3"])
        )
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertHears(conversation, NOAUTH, OK)
        self.assertHears(conversation.redis(b"$1\r\nx\r\n"), b"$1\r\nx\r\n", OK)

    def test_commands_wait_for_the_upstream_connection(self) -> None:
        conversation = Conversation(upstreams_at_once=False)
        conversation.client(encode([b"AUTH", b"blue"]), encode([b"GET", b"a"]))
        self.assertTrue(conversation.waits)
        conversation.command(b"GET", b"b")
        self.assertHears(conversation)
        conversation.open_upstream()
        self.assertFalse(conversation.waits)
        self.assertHears(conversation, OK)
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]) + encode([b"GET", b"b"]))

    def test_no_upstream_connection_can_be_had(self) -> None:
        conversation = Conversation(upstreams_at_once=False).command(b"AUTH", b"blue")
        conversation.refuse_upstream("ERR Redis is away")
        # A client library would keep the connection, which would never be logged in.
        self.assertHears(conversation, b"-ERR Redis is away\r\n")
        self.assertEqual(conversation.closed, "redis-refused-login")

    def test_redis_is_not_back_in_time(self) -> None:
        for command in (encode([b"AUTH", b"blue"]), encode([b"HELLO", b"3", b"AUTH", b"default", b"blue"])):
            conversation = Conversation(upstreams_at_once=False).client(command + encode([b"GET", b"a"]))
            conversation.refuse_upstream(closes=True)
            self.assertHears(conversation)
            self.assertEqual(conversation.closed, "redis-away")

    def test_who_was_logged_in_before_stays_so(self) -> None:
        conversation = logged_in()
        conversation.upstreams_at_once = False
        conversation.command(b"AUTH", b"green").refuse_upstream("ERR Redis is away")
        self.assertHears(conversation, b"-ERR Redis is away\r\n")
        self.assertHears(conversation.command(b"GET", b"a").redis(b"+1\r\n"), b"+1\r\n")

    def test_the_upstream_connection_comes_when_the_client_is_gone(self) -> None:
        for leave in (lambda c: c.session.ending.at_once(), lambda c: c.recheck(Snapshot(None, []))):
            conversation = Conversation(upstreams_at_once=False).command(b"AUTH", b"blue")
            leave(conversation)
            conversation.open_upstream()
            self.assertIs(conversation.upstream.released, True)

    def test_before_the_first_snapshot(self) -> None:
        class Unread(Snapshot):
            def authenticate(self, *arguments: object) -> Credential:
                raise AuthenticationError("ERR not yet", "not-loaded")

        self.assertHears(Conversation(Unread(None, [])).command(b"AUTH", b"x"), b"-ERR not yet\r\n")

    def test_again_as_the_same_tenant(self) -> None:
        conversation = logged_in().command(b"AUTH", b"blue")
        self.assertHears(conversation, OK)
        self.assertEqual(len(conversation.upstreams), 1)

    def test_a_wrong_one_leaves_the_session_as_it_was(self) -> None:
        conversation = logged_in()
        self.assertRefused(conversation.command(b"AUTH", b"wrong"), b"-WRONGPASS ")
        conversation.command(b"GET", b"a")
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))

    def test_as_another_tenant_waits_for_what_is_pending(self) -> None:
        conversation = logged_in()
        conversation.client(encode([b"GET", b"a"]), encode([b"AUTH", b"green"]), encode([b"GET", b"b"]))
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertTrue(conversation.waits)
        conversation.redis(b"$-1\r\n")
        self.assertHears(conversation, b"$-1\r\n", OK)
        self.assertEqual(len(conversation.upstreams), 2)
        self.assertIs(conversation.upstreams[0].released, True)
        self.assertEqual(conversation.gets(), encode([b"GET", b"b"]))
        self.assertEqual(conversation.session.credential, GREEN)

    def test_as_another_tenant_whose_upstream_connection_cannot_be_had(self) -> None:
        conversation = logged_in()
        conversation.upstreams_at_once = False
        conversation.command(b"AUTH", b"green")
        conversation.refuse_upstream("ERR no")
        self.assertHears(conversation, b"-ERR no\r\n")
        self.assertEqual(conversation.session.credential, BLUE)
        conversation.command(b"GET", b"a")
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))

    def test_as_another_tenant_keeps_the_protocol(self) -> None:
        conversation = logged_in(3).command(b"AUTH", b"green")
        self.assertHears(conversation, OK)
        self.assertEqual(conversation.upstream.protocol, 3)
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"_\r\n")


class SlotTests(ConversationCase):
    """A log-in whose password was right waits for a slot."""

    def setUp(self) -> None:
        self.talk = Conversation()
        self.talk.slots_taken = True

    def test_it_is_answered_when_there_is_one(self) -> None:
        self.talk.command(b"AUTH", b"blue").command(b"PING")
        self.assertEqual((self.talk.hears(), self.talk.asked), (b"", []))
        self.talk.slot_step.finish(True)
        self.assertEqual(self.talk.hears(), b"+OK\r\n")
        self.assertEqual(self.talk.upstream.sent, encode([b"PING"]))

    def test_there_is_none(self) -> None:
        self.talk.command(b"AUTH", b"blue").command(b"PING")
        self.talk.slot_step.finish(False)
        self.assertEqual(self.talk.hears(), b"-ERR max number of clients reached\r\n")
        self.assertEqual((self.talk.closed, self.talk.asked, self.talk.identities), ("turned-away", [], []))
        self.assertIs(self.talk.reservations[-1].kept, False)

    def test_its_password_is_revoked_meanwhile(self) -> None:
        left = mock.Mock()
        self.talk.command(b"AUTH", b"blue")
        self.talk.slot_step.cancel = left
        self.talk.recheck(Snapshot(None, []))
        left.assert_called_once_with()
        self.assertEqual((self.talk.closed, self.talk.slot_step.waits), ("revoked", False))

    def test_a_session_that_logs_in_again_needs_none(self) -> None:
        self.talk.slots_taken = False
        self.talk.command(b"AUTH", b"blue").hears()
        self.talk.slots_taken = True
        self.talk.command(b"AUTH", b"blue").command(b"HELLO", b"2")
        self.assertIsNone(self.talk.slot_step)
        self.assertEqual(self.talk.hears(), b"+OK\r\n")


class LimitsTests(ConversationCase):
    def full(self) -> Conversation:
        conversation = Conversation()
        conversation.full = {GREEN.tenant}
        return conversation

    def test_a_tenant_with_too_many_connections(self) -> None:
        for login in ((b"AUTH", b"green"), (b"HELLO", b"3", b"AUTH", b"green", b"green")):
            conversation = self.full().client(encode(login) + encode([b"GET", b"a"]))
            self.assertRefused(conversation, b"-ERR max number of clients reached for this tenant")
            self.assertEqual((conversation.closed, conversation.upstreams), ("tenant-full", []))

    def test_it_is_closed_after_what_is_pending(self) -> None:
        conversation = self.full().command(b"AUTH", b"blue").command(b"GET", b"a").command(b"AUTH", b"green")
        self.assertIsNone(conversation.closed)
        conversation.hears()
        conversation.redis(b"$-1\r\n")
        told = conversation.hears()
        self.assertTrue(told.startswith(b"$-1\r\n-ERR max number of clients reached for this tenant"), told)
        self.assertEqual(conversation.closed, "tenant-full")

    def test_a_wrong_password_is_no_secret_of_a_full_tenant(self) -> None:
        self.assertRefused(self.full().command(b"AUTH", b"green", b"wrong"), b"-WRONGPASS ")

    def test_what_is_throttled_is_kept_and_goes_on_in_order(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        conversation.gets()
        conversation.session.throttle(True)
        conversation.command(b"GET", b"b").command(b"SELECT", b"5")
        self.assertEqual((conversation.gets(), conversation.session.commands), (b"", 2))
        self.assertHears(conversation.redis(b"$-1\r\n"), b"$-1\r\n")
        conversation.session.throttle(False)
        self.assertEqual(conversation.gets(), encode([b"GET", b"b"]))
        conversation.redis(b"$1\r\nx\r\n")
        self.assertTrue(conversation.hears().startswith(b"$1\r\nx\r\n-NOPERM "))
        self.assertFalse(conversation.waits)

    def test_within_a_large_value(self) -> None:
        value = b"x" * 100_000
        data = encode([b"SET", b"a", value])
        conversation = logged_in().client(data[:80_000])
        conversation.session.throttle(True)
        conversation.client(data[80_000:])
        self.assertLess(len(conversation.upstream.sent), 90_000)
        conversation.session.throttle(False)
        self.assertEqual(conversation.gets(), data)

    def test_throttled_from_the_log_in_on(self) -> None:
        conversation = Conversation(upstreams_at_once=False).client(encode([b"AUTH", b"blue"]) + encode([b"GET", b"a"]))
        conversation.session.throttle(True)
        conversation.open_upstream()
        self.assertHears(conversation, OK)
        self.assertEqual(conversation.gets(), b"")
        conversation.session.throttle(False)
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))

    def test_revoked_while_it_is_throttled(self) -> None:
        conversation = logged_in()
        conversation.session.throttle(True)
        conversation.command(b"GET", b"a")
        conversation.recheck(Snapshot(None, [GREEN]))
        self.assertEqual(conversation.closed, "revoked")
        conversation.session.throttle(False)
        self.assertEqual(conversation.hears(), b"")


class HelloTests(ConversationCase):
    def test_with_a_login(self) -> None:
        conversation = Conversation().command(b"HELLO", b"3", b"AUTH", b"default", b"blue", b"SETNAME", b"me")
        self.assertEqual(conversation.gets(), encode([b"HELLO", b"3"]))
        self.assertHears(conversation.redis(b"%1\r\n+proto\r\n:3\r\n"), b"%1\r\n+proto\r\n:3\r\n")
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$2\r\nme\r\n")

    def test_without_one(self) -> None:
        self.assertRefused(Conversation().command(b"HELLO"), b"-NOAUTH HELLO must be called")
        self.assertRefused(Conversation().command(b"HELLO", b"3"), b"-NOAUTH HELLO must be called")

    def test_wrong_password(self) -> None:
        self.assertRefused(Conversation().command(b"HELLO", b"2", b"AUTH", b"default", b"no"), b"-WRONGPASS ")

    def test_options(self) -> None:
        conversation = logged_in()
        self.assertRefused(conversation.command(b"HELLO", b"4"), b"-NOPROTO ")
        self.assertRefused(conversation.command(b"HELLO", b"x"), b"-ERR Protocol version is not an integer")
        self.assertRefused(conversation.command(b"HELLO", b"3", b"NONSENSE"), b"-ERR Syntax error in HELLO")
        self.assertRefused(conversation.command(b"HELLO", b"3", b"AUTH", b"x"), b"-ERR Syntax error in HELLO")
        self.assertRefused(conversation.command(b"HELLO", b"3", b"SETNAME", b"a b"), b"-ERR Client names")
        self.assertEqual(conversation.gets(), b"")
        conversation.command(b"HELLO")
        self.assertEqual(conversation.gets(), encode([b"HELLO"]))

    def test_null_of_the_protocol(self) -> None:
        conversation = logged_in()
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$-1\r\n")
        conversation.command(b"HELLO", b"3").redis(b"%0\r\n")
        conversation.hears()
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"_\r\n")

    def test_an_upstream_connection_that_speaks_resp3_is_not_given_back_clean(self) -> None:
        conversation = logged_in().command(b"HELLO", b"3").redis(b"%0\r\n")
        conversation.session.ending.at_once()
        self.assertIs(conversation.upstream.released, False)


class OrderTests(ConversationCase):
    def test_every_reply_in_its_place(self) -> None:
        conversation = logged_in()
        get = encode([b"GET", b"a"])
        conversation.client(
            encode([b"SELECT", b"3"]), get, get, encode([b"SELECT", b"9"]), get, encode([b"CONFIG", b"SET", b"x"]), get
        )
        self.assertEqual(conversation.gets(), get * 4)
        self.assertHears(conversation, OK)
        self.assertHears(conversation.redis(b"+1\r\n+2"), b"+1\r\n+2")
        self.assertHears(conversation.redis(b"\r\n+3\r\n+4\r"), b"\r\n", REFUSED_SELECT, b"+3\r\n", REFUSED_CONFIG, b"+4\r")
        self.assertHears(conversation.redis(b"\n"), b"\n")
        self.assertTrue(conversation.upstream.pending.settled)

    def test_the_same_split_at_each_byte(self) -> None:
        get = encode([b"GET", b"a"])
        sent = get + encode([b"SELECT", b"9"]) + get + encode([b"CONFIG", b"SET", b"x"]) + b"SELECT 3\r\n"
        for size in range(1, 20):
            conversation = logged_in()
            for start in range(0, len(sent), size):
                conversation.client(sent[start : start + size])
            self.assertEqual(conversation.gets(), get * 2)
            replies = b"$3\r\n\r\n+\r\n*2\r\n+a\r\n:1\r\n"
            for start in range(0, len(replies), size):
                conversation.redis(replies[start : start + size])
            self.assertHears(conversation, replies[:9], REFUSED_SELECT, replies[9:], REFUSED_CONFIG, OK)

    def test_a_reply_to_nothing_is_a_broken_upstream_connection(self) -> None:
        self.assertRaises(ProtocolError, logged_in().redis, b"+OK\r\n")
        conversation = logged_in().command(b"GET", b"a")
        self.assertRaises(ProtocolError, conversation.redis, b"+1\r\n+2\r\n")

    def test_quit_after_what_is_pending(self) -> None:
        conversation = logged_in().client(encode([b"GET", b"a"]), encode([b"QUIT"]), encode([b"GET", b"b"]))
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n", OK)
        self.assertEqual(conversation.closed, "quit")
        self.assertIs(conversation.upstream.released, True)

    def test_half_closed(self) -> None:
        conversation = Conversation(upstreams_at_once=False).client(encode([b"AUTH", b"blue"]), encode([b"GET", b"a"]))
        conversation.session.ending.half_closed()
        conversation.open_upstream()
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.redis(b"+1\r\n"), OK, b"+1\r\n")
        self.assertEqual(conversation.closed, "client-left")

    def test_lost_with_replies_outstanding(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        conversation.session.ending.at_once()
        self.assertIs(conversation.upstream.released, False)

    def test_the_upstream_connection_is_lost(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        conversation.session.upstream_lost()
        self.assertEqual(conversation.closed, "redis-lost")
        conversation.command(b"GET", b"a")


REFUSED_SELECT = b"-NOPERM this password opens database 3 only: SELECT of any other is refused\r\n"
REFUSED_CONFIG = b"-NOPERM the command 'config|set' is not available here: it reaches beyond the tenant's own database\r\n"


class ProtocolErrorTests(ConversationCase):
    def test_error_in_its_place_then_closed(self) -> None:
        conversation = logged_in().client(encode([b"GET", b"a"]), b"*1\r\n+x\r\n", encode([b"GET", b"b"]))
        self.assertHears(conversation)
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n", b"-ERR Protocol error: expected '$', got '+'\r\n")
        self.assertEqual(conversation.closed, "protocol-error")

    def test_in_the_middle_of_a_command_that_was_passed_on(self) -> None:
        for before in (b"", encode([b"GET", b"a"])):
            conversation = logged_in().client(before, b"*4\r\n$3\r\nSET\r\n$70000\r\n")
            conversation.client(b"a" * 70000 + b"\r\n$x\r\n")
            if before:
                self.assertHears(conversation)
                conversation.redis(b"+1\r\n")
            self.assertTrue(conversation.hears().endswith(b"-ERR Protocol error: invalid bulk length\r\n"))
            self.assertEqual(conversation.closed, "protocol-error")
            self.assertIs(conversation.upstream.released, False)

    def test_ended_in_the_middle_of_a_command(self) -> None:
        for end in (lambda c: c.session.ending.half_closed(), lambda c: c.recheck(Snapshot(None, []))):
            conversation = logged_in().client(b"*2\r\n$3\r\nGET\r\n$90000\r\nab")
            end(conversation)
            self.assertIsNotNone(conversation.closed)
            self.assertIs(conversation.upstream.released, False)

    def test_before_the_login(self) -> None:
        for data, text in (
            (b"*11\r\n", b"unauthenticated multibulk length"),
            (b"*2\r\n$4\r\nAUTH\r\n$20000\r\n", b"unauthenticated bulk length"),
            (b'AUTH "x\r\n', b"unbalanced quotes in request"),
        ):
            conversation = Conversation().client(data)
            self.assertHears(conversation, b"-ERR Protocol error: %b\r\n" % text)
            self.assertEqual(conversation.closed, "protocol-error")

    def test_too_much_before_the_login(self) -> None:
        conversation = Conversation()
        chunk = encode([b"AUTH", b"x" * 16000])
        for _ in range(bounds.UNAUTHENTICATED_BYTES // len(chunk)):
            conversation.client(chunk)
        self.assertIsNone(conversation.closed)
        conversation.client(chunk)
        self.assertEqual(conversation.closed, "protocol-error")

    def test_cross_protocol(self) -> None:
        for data in (b"POST / HTTP/1.1\r\n", b"Host: redis\r\n", encode([b"post", b"x"])):
            for conversation in (Conversation(), logged_in()):
                conversation.client(data)
                self.assertEqual((conversation.hears(), conversation.closed), (b"", "cross-protocol"))

    def test_who_speaks_tls_where_there_is_none_does_not_wait_for_an_answer(self) -> None:
        hello = bytes.fromhex("16030100c8010000c40303")
        for pieces in ([hello], [hello[:1], hello[1:]]):
            conversation = Conversation().client(*pieces)
            self.assertHears(conversation, b"-ERR Protocol error: there is no TLS at this port\r\n")
            self.assertEqual(conversation.closed, "tls-on-plain-port")
        # Only at the beginning of a connection does this byte mean TLS.
        conversation = Conversation().client(b"ECHO ", hello[:1], b"\r\n")
        self.assertHears(conversation, b"-NOAUTH Authentication required.\r\n")
        self.assertIsNone(conversation.closed)
        self.assertIsNone(logged_in().client(b"*2\r\n$3\r\nGET\r\n$1\r\n", hello[:1], b"\r\n").closed)

    def test_arguments_larger_than_can_be_inspected(self) -> None:
        conversation = logged_in().client(encode([b"WATCH", b"x" * (2 << 20)]), encode([b"SELECT", b"3"]))
        self.assertHears(conversation, b"-ERR the arguments of 'watch' are larger than 1048576 bytes\r\n", OK)


class TransactionTests(ConversationCase):
    def test_multi_and_exec(self) -> None:
        conversation = logged_in()
        sent = encode([b"MULTI"]) + encode([b"SET", b"a", b"1"]) + encode([b"EXEC"])
        self.assertEqual(conversation.client(sent).gets(), sent)
        conversation.redis(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n")
        conversation.session.ending.at_once()
        self.assertIs(conversation.upstream.released, True)

    def test_a_refusal_spoils_the_exec(self) -> None:
        for words, start in (
            ((b"SELECT", b"9"), b"-NOPERM "),
            ((b"CONFIG", b"SET", b"x"), b"-NOPERM "),
            ((b"AUTH", b"green"), b"-ERR "),
            ((b"HELLO", b"3"), b"-ERR "),
            ((b"HELLO",), b"-ERR "),
            ((b"CLIENT", b"ID"), b"-ERR "),
            ((b"SUBSCRIBE", b"x"), b"-ERR "),
            ((b"COPY", b"a", b"b", b"DB", b"5"), b"-NOPERM "),
        ):
            conversation = logged_in().command(b"MULTI").command(*words).command(b"EXEC")
            self.assertEqual(conversation.gets(), encode([b"MULTI"]) + SPOILER + encode([b"EXEC"]))
            conversation.redis(b"+OK\r\n-ERR wrong number of arguments\r\n-EXECABORT discarded\r\n")
            told = conversation.hears()
            self.assertTrue(told.startswith(b"+OK\r\n" + start) and told.endswith(b"\r\n-EXECABORT discarded\r\n"), told)
            self.assertEqual(told.count(b"\r\n"), 3)

    def test_the_own_database_may_be_selected(self) -> None:
        """SELECT of the own database keeps its place in EXEC's reply, though Redis gets an UNWATCH,
        which EXEC has done already. If that is closed, Redis gets an ECHO.
        """
        conversation = logged_in().command(b"MULTI").command(b"SELECT", b"3")
        self.assertEqual(conversation.gets(), encode([b"MULTI"]) + encode([b"UNWATCH"]))
        conversation = logged_in()
        conversation.session.policy = make_policy(builtin(), True, True, deny=frozenset((b"UNWATCH",)))
        conversation.command(b"MULTI").command(b"SELECT", b"3")
        self.assertEqual(conversation.gets(), encode([b"MULTI"]) + encode([b"ECHO", b"OK"]))

    def test_what_leaves_a_state_on_the_upstream_connection(self) -> None:
        exec_, discard = encode([b"EXEC"]), encode([b"DISCARD"])
        for sent, replies, clean in (
            (encode([b"MULTI"]), b"+OK\r\n", False),
            (encode([b"MULTI"]) + discard, b"+OK\r\n+OK\r\n", True),
            (encode([b"WATCH", b"a"]), b"+OK\r\n", False),
            (encode([b"WATCH", b"a"]) + encode([b"UNWATCH"]), b"+OK\r\n+OK\r\n", True),
            (encode([b"WATCH", b"a"]) + encode([b"MULTI"]) + exec_, b"+OK\r\n+OK\r\n*0\r\n", True),
            (encode([b"MULTI"]) + encode([b"EXEC", b"x"]), b"+OK\r\n-EXECABORT\r\n", True),
            (encode([b"MULTI"]) + encode([b"DISCARD", b"x"]), b"+OK\r\n-ERR\r\n", False),
            (encode([b"WATCH", b"a"]) + exec_, b"+OK\r\n-ERR\r\n", False),
            (encode([b"WATCH", b"a"]) + discard, b"+OK\r\n-ERR\r\n", False),
            (encode([b"MULTI"]) + encode([b"UNWATCH"]), b"+OK\r\n+QUEUED\r\n", False),
            (encode([b"SUBSCRIBE", b"a"]), b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", False),
            (encode([b"GET", b"a"]), b"$-1\r\n", True),
        ):
            conversation = logged_in().client(sent).redis(replies)
            conversation.session.ending.at_once()
            self.assertIs(conversation.upstream.released, clean, sent)


class OwnDatabaseTests(ConversationCase):
    def test_select(self) -> None:
        conversation = logged_in()
        self.assertHears(conversation.command(b"select", b"3"), OK)
        for index in (b"0", b"5", b"-1", b"2147483647", b"-2147483648"):
            self.assertRefused(conversation.command(b"SELECT", index), b"-NOPERM this password opens database 3 only")
        for index in (b"x", b"", b"3 ", b"3\r\n", b"+3", b"03", b"-0", b"2147483648", b"-2147483649", b"1" * 20):
            self.assertRefused(conversation.command(b"SELECT", index), b"-ERR value is not an integer")
        self.assertRefused(conversation.command(b"SELECT"), b"-ERR wrong number of arguments")
        self.assertRefused(conversation.command(b"SELECT", b"3", b"3"), b"-ERR wrong number of arguments")
        self.assertEqual(conversation.gets(), b"")

    def test_flushall_becomes_flushdb(self) -> None:
        conversation = logged_in().command(b"flushall", b"ASYNC")
        self.assertEqual(conversation.gets(), encode([b"FLUSHDB", b"ASYNC"]))
        self.assertHears(conversation.redis(OK), OK)
        error = b"-NOPERM User x has no permissions to run the '%b' command\r\n"
        self.assertHears(conversation.command(b"FLUSHALL").redis(error % b"flushdb"), error % b"flushall")

    def test_names_that_redis_does_not_take(self) -> None:
        conversation = logged_in()
        wrong = b" cannot contain spaces, newlines or special characters.\r\n"
        self.assertHears(conversation.command(b"CLIENT", b"SETNAME", b"a b"), b"-ERR Client names" + wrong)
        self.assertHears(conversation.command(b"HELLO", b"3", b"SETNAME", b"a b"), b"-ERR Client names" + wrong)
        self.assertHears(conversation.command(b"CLIENT", b"SETINFO", b"LIB-ver", b"a b"), b"-ERR lib-ver" + wrong)
        self.assertHears(conversation.command(b"CLIENT", b"SETINFO", b"a b", b"a"), b"-ERR Unrecognized option 'a b'\r\n")

    def test_copy(self) -> None:
        conversation = logged_in()
        for words in ((b"a", b"b"), (b"a", b"b", b"DB", b"3"), (b"a", b"b", b"DB"), (b"a", b"b", b"replace", b"db", b"x")):
            self.assertEqual(conversation.command(b"COPY", *words).gets(), encode([b"COPY", *words]))
            conversation.redis(b":1\r\n").hears()
        for words in ((b"DB", b"5"), (b"REPLACE", b"db", b"5"), (b"DB", b"3", b"DB", b"5"), (b"DB", b"03"), (b"DB", b"3x")):
            self.assertRefused(conversation.command(b"COPY", b"a", b"b", *words), b"-NOPERM ")
        self.assertRefused(conversation.command(b"COPY", b"a"), b"-ERR wrong number")

    def test_refused(self) -> None:
        conversation = logged_in()
        for name in (b"SWAPDB", b"move", b"Config", b"MONITOR", b"psync", b"SHUTDOWN", b"ACL", b"REPLCONF", b"DEBUG"):
            words = [name, {b"ACL": b"LIST", b"Config": b"resetstat"}.get(name, b"get")]
            self.assertRefused(conversation.command(*words), b"-NOPERM the command '%b" % name.lower())
        self.assertRefused(conversation.client(b"swapdb 3 5\r\n"), b"-NOPERM the command 'swapdb'")
        self.assertRefused(conversation.command(b"CLIENT", b"PAUSE", b"1"), b"-NOPERM the command 'client|pause'")
        self.assertRefused(conversation.command(b"CLIENT", b"TRACKING", b"ON"), b"-NOPERM the command 'client|tracking'")
        self.assertRefused(conversation.command(b"SCRIPT", b"flush"), b"-NOPERM the command 'script|flush'")
        self.assertEqual(conversation.gets(), b"")
        self.assertEqual(conversation.session.refused, 13)

    def test_client(self) -> None:
        conversation = logged_in()
        self.assertHears(conversation.command(b"CLIENT", b"ID"), b":7\r\n")
        self.assertHears(conversation.command(b"CLIENT", b"SETNAME", b"x"), OK)
        self.assertRefused(conversation.command(b"CLIENT", b"SETNAME", b"a\nb"), b"-ERR Client names")
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$1\r\nx\r\n")
        self.assertHears(conversation.command(b"CLIENT", b"SETINFO", b"lib-name", b"redis-py"), OK)
        self.assertRefused(conversation.command(b"CLIENT", b"SETINFO", b"other", b"x"), b"-ERR Unrecognized")
        self.assertRefused(conversation.command(b"CLIENT", b"SETINFO", b"LIB-VER", b"a b"), b"-ERR lib-ver")
        self.assertRefused(conversation.command(b"CLIENT"), b"-ERR wrong number of arguments")


def confirmation(kind: bytes, channel: bytes, count: int, push: bytes = b"*") -> bytes:
    return b"%b3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:%d\r\n" % (push, len(kind), kind, len(channel), channel, count)


def message(channel: bytes, payload: bytes, push: bytes = b"*") -> bytes:
    return b"%b3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (push, len(channel), channel, len(payload), payload)


class PubSubTests(ConversationCase):
    """Redis knows a tenant's channels with a prefix, the client without it."""

    def test_confirmations_and_messages_whole_and_split(self) -> None:
        for push in (b"*", b">"):

            def replies(prefix: bytes, push: bytes = push) -> bytes:
                return (
                    confirmation(b"subscribe", prefix + b"a", 1, push)
                    + confirmation(b"subscribe", prefix + b"b", 2, push)
                    + message(prefix + b"a", b"\r\n*3\r\n$7\r\nmessage\r\n", push)
                    + confirmation(b"unsubscribe", prefix + b"a", 1, push)
                    + message(prefix + b"b", b"blue:" * 200, push)
                    + message(prefix + b"blue:", b"", push)
                )

            for size in (1, 2, 3, 7, 1000, 5000):
                conversation = (
                    logged_in(3 if push == b">" else 2).command(b"SUBSCRIBE", b"a", b"b").command(b"UNSUBSCRIBE", b"a")
                )
                self.assertEqual(
                    conversation.gets(), encode([b"SUBSCRIBE", b"blue:a", b"blue:b"]) + encode([b"UNSUBSCRIBE", b"blue:a"])
                )
                sent = replies(b"blue:")
                for start in range(0, len(sent), size):
                    conversation.redis(sent[start : start + size])
                self.assertHears(conversation, replies(b""))

    def test_patterns_and_sharded_channels(self) -> None:
        for push in (b"*", b">"):
            conversation = (
                logged_in(3 if push == b">" else 2).command(b"PSUBSCRIBE", b"n?ws*").command(b"SSUBSCRIBE", b"shard")
            )
            self.assertEqual(conversation.permitted, [b"blue:n?ws*"])
            self.assertEqual(
                conversation.gets(), encode([b"PSUBSCRIBE", b"blue:n?ws*"]) + encode([b"SSUBSCRIBE", b"blue:shard"])
            )

            def replies(prefix: bytes, push: bytes = push) -> bytes:
                pattern, channel = prefix + b"n?ws*", prefix + b"news"
                return (
                    confirmation(b"psubscribe", pattern, 1, push)
                    + confirmation(b"ssubscribe", prefix + b"shard", 1, push)
                    + b"%b4\r\n$8\r\npmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nhi\r\n"
                    % (push, len(pattern), pattern, len(channel), channel)
                    + message(prefix + b"shard", b"x", push).replace(b"$7\r\nmessage", b"$8\r\nsmessage")
                )

            sent = replies(b"blue:")
            for start in range(len(sent)):
                conversation.redis(sent[start : start + 1])
            self.assertHears(conversation, replies(b""))

    def test_an_answer_of_the_proxy_waits_for_all_confirmations(self) -> None:
        conversation = logged_in(3).command(b"SUBSCRIBE", b"a", b"b").command(b"SELECT", b"3")
        conversation.redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
        self.assertHears(conversation, confirmation(b"subscribe", b"a", 1, b">"))
        conversation.redis(confirmation(b"subscribe", b"blue:b", 2, b">"))
        self.assertHears(conversation, confirmation(b"subscribe", b"b", 2, b">"), OK)

    def test_ordinary_replies_between_pushes(self) -> None:
        conversation = logged_in(3).command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
        conversation.hears()
        for reply in (
            b"+PONG\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n:1\r\n",
            b"*1\r\n*0\r\n",
            b"*1\r\n$0\r\n\r\n",
        ):
            conversation.command(b"GET", b"a").command(b"SELECT", b"3")
            conversation.redis(message(b"blue:a", b"1", b">") + reply)
            self.assertHears(conversation, message(b"a", b"1", b">"), reply, OK)

    def test_an_ordinary_array_that_looks_like_pub_sub(self) -> None:
        """While nothing is subscribed to, a reply of LRANGE that looks so passes unchanged."""
        for reply in (message(b"blue:a", b"b"), confirmation(b"subscribe", b"blue:a", 7)):
            conversation = logged_in().command(b"LRANGE", b"k", b"0", b"-1").command(b"SUBSCRIBE", b"a")
            conversation.redis(reply + confirmation(b"subscribe", b"blue:a", 1))
            self.assertHears(conversation, reply, confirmation(b"subscribe", b"a", 1))

    def test_an_item_that_looks_like_pub_sub(self) -> None:
        """The reply to a command that may block, whole and byte by byte."""
        for protocol in (2, 3):
            for reply in (
                message(b"blue:a", b"b"),
                confirmation(b"subscribe", b"blue:a", 7),
                b"*2\r\n$7\r\nmessage\r\n$1\r\nx\r\n",
                b"*1\r\n*2\r\n$1\r\ns\r\n*0\r\n",
                b"*-1\r\n",
                b"_\r\n",
                b"-ERR no\r\n",
            ):
                for pieces in ([reply], [reply[n : n + 1] for n in range(len(reply))]):
                    conversation = logged_in(protocol).command(b"GET", b"a").command(b"BLPOP", b"message", b"0")
                    conversation.command(b"GET", b"a").redis(b"+1\r\n")
                    self.assertTrue(conversation.session.blocked)
                    for piece in pieces:
                        conversation.redis(piece)
                    self.assertFalse(conversation.session.blocked)
                    self.assertHears(conversation.redis(b"+2\r\n"), b"+1\r\n", reply, b"+2\r\n")

    def test_after_the_last_channel_is_left_nothing_is_a_message(self) -> None:
        conversation = (
            logged_in().command(b"PSUBSCRIBE", b"a*").command(b"PUNSUBSCRIBE").command(b"LRANGE", b"k", b"0", b"-1")
        )
        self.assertIn(encode([b"PUNSUBSCRIBE", b"blue:a*"]), conversation.gets())
        conversation.command(b"SELECT", b"3")
        reply = message(b"blue:a", b"b")
        conversation.redis(confirmation(b"psubscribe", b"blue:a*", 1) + confirmation(b"punsubscribe", b"blue:a*", 0) + reply)
        confirmed = confirmation(b"psubscribe", b"a*", 1) + confirmation(b"punsubscribe", b"a*", 0)
        self.assertHears(conversation, confirmed, reply, OK)

    def test_to_leave_all_names_them(self) -> None:
        conversation = (
            logged_in().command(b"SUBSCRIBE", b"b", b"a", b"b").command(b"SSUBSCRIBE", b"s").command(b"UNSUBSCRIBE")
        )
        sent = conversation.gets()
        self.assertTrue(sent.endswith(encode([b"UNSUBSCRIBE", b"blue:a", b"blue:b"])), sent)
        conversation.command(b"UNSUBSCRIBE")
        self.assertEqual(conversation.gets(), encode([b"UNSUBSCRIBE"]))
        conversation.command(b"SUNSUBSCRIBE")
        self.assertEqual(conversation.gets(), encode([b"SUNSUBSCRIBE", b"blue:s"]))

    def test_a_message_that_was_sent_before_the_last_channel_is_left_has_its_own_name(self) -> None:
        """A message that Redis sends before it runs the UNSUBSCRIBE still loses the prefix."""
        for protocol, push in ((2, b"*"), (3, b">")):
            conversation = logged_in(protocol).command(b"SUBSCRIBE", b"a")
            conversation.redis(confirmation(b"subscribe", b"blue:a", 1, push)).hears()
            conversation.command(b"PING").command(b"UNSUBSCRIBE", b"a")
            conversation.redis(message(b"blue:a", b"x", push))
            self.assertHears(conversation, message(b"a", b"x", push))
            conversation.redis(b"+PONG\r\n" + message(b"blue:a", b"y", push))
            conversation.redis(confirmation(b"unsubscribe", b"blue:a", 0, push))
            self.assertHears(
                conversation, b"+PONG\r\n", message(b"a", b"y", push), confirmation(b"unsubscribe", b"a", 0, push)
            )

    def test_to_leave_what_was_not_joined(self) -> None:
        nothing = b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"
        for end in (b"", b"+PONG\r\n"):
            conversation = logged_in().command(b"UNSUBSCRIBE").command(b"PING")
            conversation.redis(nothing + end)
            self.assertHears(conversation, nothing, end)

    def test_a_refused_subscription_is_one_error(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"a", b"b").command(b"SELECT", b"3")
        for piece in (b"-NOPERM ", b"no", b"\r\n"):
            conversation.redis(piece)
        self.assertHears(conversation, b"-NOPERM no\r\n", OK)

    def test_a_refused_subscription_is_forgotten(self) -> None:
        for kind in (b"", b"P", b"S"):
            conversation = logged_in().command(kind + b"SUBSCRIBE", b"a", b"b").command(kind + b"SUBSCRIBE", b"c")
            name = kind.lower() + b"subscribe"
            conversation.redis(b"-BUSY\r\n*3\r\n$%d\r\n%b\r\n$6\r\nblue:c\r\n:1\r\n" % (len(name), name)).hears()
            self.assertEqual(conversation.session.subscriptions.of(kind), {b"blue:c"})
            conversation.gets()
            conversation.command(kind + b"UNSUBSCRIBE")
            self.assertEqual(conversation.gets(), encode([kind + b"UNSUBSCRIBE", b"blue:c"]))
            name = kind.lower() + b"unsubscribe"
            conversation.redis(b"*3\r\n$%d\r\n%b\r\n$6\r\nblue:c\r\n:0\r\n" % (len(name), name)).hears()
            self.assertFalse(conversation.session.stateful)
            # Nobody is subscribed to what comes now.
            self.assertRaises(ProtocolError, conversation.redis, message(b"blue:c", b"x"))

    def test_the_same_channel_again_behind_a_refused_one(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"a").command(b"SUBSCRIBE", b"a")
        conversation.redis(b"-BUSY\r\n").redis(b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:a\r\n:1\r\n").hears()
        self.assertEqual(conversation.session.subscriptions.of(b""), {b"blue:a"})
        self.assertTrue(conversation.redis(message(b"blue:a", b"x")).hears().endswith(b"$1\r\nx\r\n"))

    def test_a_pattern_that_redis_is_not_told_of(self) -> None:
        conversation = logged_in()
        conversation.permits_at_once = False
        conversation.command(b"PSUBSCRIBE", b"a*")

        for error, heard in (
            ("ERR no more patterns", b"-ERR no more patterns\r\n"),
            (messages.UNANSWERED.text, b"-ERR Redis did not answer the proxy, try again\r\n"),
        ):
            conversation.finish(Unavailable(error))
            self.assertHears(conversation, heard)
            self.assertEqual(conversation.session.subscriptions.of(b"P"), frozenset())
            self.assertFalse(conversation.session.stateful)
            conversation.command(b"PSUBSCRIBE", b"a*")
        self.assertEqual(conversation.gets(), b"")

    def test_messages_that_come_together_are_written_together(self) -> None:
        """Messages of one read are one write, and a protocol error behind them loses none."""
        # A write for each would take most of the time that a message takes.
        conversation = logged_in(3).command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
        conversation.hears()
        written: list[bytes] = []
        conversation.write = written.append
        conversation.client(encode([b"PING"]))
        theirs, ours = (message(channel, b"x" * 50, b">") for channel in (b"blue:a", b"a"))
        conversation.redis(theirs * 3 + b"+PONG\r\n" + theirs * 2 + theirs[:80])
        self.assertEqual(written, [ours * 3, b"+PONG\r\n", ours * 2 + ours[:75]])
        conversation.redis(theirs[80:] + theirs * 2)
        self.assertEqual(written[3:], [ours[75:] + ours * 2])
        self.assertRaises(ProtocolError, conversation.redis, theirs * 2 + b"+nobody asked\r\n" + theirs)
        self.assertEqual(written[4:], [ours * 2])

    def test_whether_messages_are_small(self) -> None:
        """`small_messages` says whether the messages of the last read were small on average."""
        # Each part of a large message counts as a message. While messages are small,
        # `upstream.connection` reads little at once.
        conversation = logged_in(3).command(b"SUBSCRIBE", b"a")
        pending = conversation.upstream.pending
        self.assertFalse(pending.small_messages)
        conversation.redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
        self.assertTrue(pending.small_messages)
        small, large = (message(b"blue:a", b"x" * size, b">") for size in (10, 5000))
        for data, expected in (
            (small, True),
            (large, False),
            (small * 100, True),
            (small * 10 + large[:4096], True),
            (large[4096:], False),
            (small, True),
            (large[:4096], False),
            (large[4096:] + small * 30, True),
        ):
            conversation.redis(data)
            self.assertIs(pending.small_messages, expected, data)
        conversation.command(b"UNSUBSCRIBE", b"a").redis(confirmation(b"unsubscribe", b"blue:a", 0, b">"))
        self.assertFalse(pending.small_messages)

    def test_a_message_that_nobody_asked_for(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        self.assertRaises(ProtocolError, conversation.redis, message(b"blue:a", b"x", b">"))
        conversation = logged_in().command(b"SUBSCRIBE", b"a")
        self.assertRaises(ProtocolError, conversation.redis, b">2\r\n$10\r\ninvalidate\r\n*0\r\n")

    def test_arity(self) -> None:
        self.assertRefused(logged_in().command(b"SUBSCRIBE"), b"-ERR wrong number of arguments for 'subscribe' command")
        self.assertRefused(logged_in().command(b"PUBLISH"), b"-ERR wrong number of arguments for 'publish' command")

    def test_publish_goes_to_an_own_channel_and_streams(self) -> None:
        for name in (b"PUBLISH", b"spublish"):
            sent = encode([name, b"news", b"x" * 3000])
            for size in (1, 7, 100, 10000):
                conversation = logged_in()
                for start in range(0, len(sent), size):
                    conversation.client(sent[start : start + size])
                self.assertEqual(conversation.gets(), encode([name, b"blue:news", b"x" * 3000]))
                self.assertHears(conversation.redis(b":1\r\n"), b":1\r\n")
        self.assertEqual(logged_in().client(b"publish news hello\r\n").gets(), encode([b"publish", b"blue:news", b"hello"]))
        self.assertEqual(logged_in().command(b"PUBLISH", b"a").gets(), encode([b"PUBLISH", b"blue:a"]))

    def test_notifications_about_keys(self) -> None:
        conversation = logged_in()
        for words in ((b"SUBSCRIBE", b"__keyspace@3__:k"), (b"PSUBSCRIBE", b"__keyevent@3__:*")):
            self.assertEqual(conversation.command(*words).gets(), encode(words))
        conversation = logged_in()
        for words in (
            (b"SUBSCRIBE", b"__keyspace@5__:k"),
            (b"SUBSCRIBE", b"mine", b"__keyevent@33__:del"),
            (b"PSUBSCRIBE", b"__keyspace@5__:*"),
            (b"PSUBSCRIBE", b"mine*", b"__keyevent@[45]__:*"),
            (b"PSUBSCRIBE", b"__keyspace@??__:*"),
        ):
            self.assertRefused(
                conversation.command(*words), b"-NOPERM only keyspace notifications of the tenant's own database"
            )
        self.assertEqual(conversation.gets(), b"")
        for pattern in (b"_x*", b"?_keyspace@5__:*", b"[_]_keyspace@5__:*", b"\\__keyspace@5__:*"):
            conversation = logged_in().command(b"PSUBSCRIBE", pattern)
            self.assertEqual(conversation.gets(), encode([b"PSUBSCRIBE", b"blue:" + pattern]))

    def test_counted_together(self) -> None:
        sessions = [logged_in() for _ in range(3)]
        for number, conversation in enumerate(sessions):
            conversation.command(b"SUBSCRIBE", b"all", b"%d" % number).command(b"PSUBSCRIBE", b"all*")
        subscriptions = [conversation.session.subscriptions for conversation in sessions]
        self.assertEqual(pubsub.counted(subscriptions), (4, 1, 0))
        self.enterContext(mock.patch.object(bounds, "COUNTED_SUBSCRIPTIONS", 4))
        self.assertEqual(pubsub.counted(subscriptions), (6, 1, 0))

    def test_too_long(self) -> None:
        self.enterContext(mock.patch.object(bounds, "SUBSCRIPTION_BYTES", 1000))
        conversation = logged_in().command(b"SUBSCRIBE", b"a" * 700)
        self.assertNotEqual(conversation.gets(), b"")
        conversation.redis(b"-BUSY\r\n").hears()  # refused, so there is room again
        conversation.command(b"SUBSCRIBE", b"a" * 700).command(b"SUBSCRIBE", b"a" * 700)
        reply = b"*3\r\n$9\r\nsubscribe\r\n$705\r\nblue:%b\r\n:1\r\n" % (b"a" * 700)
        conversation.redis(reply * 2).hears()
        for kind in (b"", b"S"):
            self.assertRefused(conversation.command(kind + b"SUBSCRIBE", b"b" * 300), b"-ERR this would be more than ")
        conversation.gets()
        conversation.command(b"UNSUBSCRIBE").command(b"SUBSCRIBE", b"b" * 300)
        self.assertIn(b"blue:bbb", conversation.gets())

    def test_too_many(self) -> None:
        self.enterContext(mock.patch.object(bounds, "SUBSCRIPTIONS", 3))
        conversation = logged_in().command(b"SUBSCRIBE", b"a", b"b").command(b"SUBSCRIBE", b"a", b"c")
        conversation.command(b"SUBSCRIBE", b"d")
        conversation.redis(b"".join(confirmation(b"subscribe", b"blue:x", 1) for _ in range(4)))
        self.assertIn(b"-ERR this would be more than 3 subscriptions, or ", conversation.hears())


class MidMessageTests(ConversationCase):
    """While the client has only a part of a message, it gets nothing else."""

    def half(self, protocol: int) -> tuple[Conversation, bytes, bytes]:
        """Returns a subscriber that got one half of a message, and the other half: as Redis sends
        it, and as the client gets it.
        """
        push = b">" if protocol == 3 else b"*"
        conversation = logged_in(protocol).command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1, push))
        sent, heard = message(b"blue:a", b"x" * 1000, push), message(b"a", b"x" * 1000, push)
        conversation.redis(sent[:500]).hears()
        return conversation, sent[500:], heard[495:]

    def test_answers_come_behind_it(self) -> None:
        conversation, sent, heard = self.half(3)
        conversation.command(b"SELECT", b"3").command(b"CONFIG", b"SET", b"x")
        self.assertHears(conversation)
        self.assertHears(conversation.redis(sent), heard, OK, REFUSED_CONFIG)
        conversation, sent, heard = self.half(2)
        conversation.command(b"CONFIG", b"SET", b"x")
        self.assertHears(conversation)
        self.assertHears(conversation.redis(sent), heard, REFUSED_CONFIG)

    def test_answers_and_replies_keep_their_order(self) -> None:
        conversation, sent, heard = self.half(3)
        conversation.command(b"SELECT", b"3").command(b"GET", b"a").command(b"SELECT", b"3")
        self.assertHears(conversation.redis(sent), heard, OK)
        self.assertHears(conversation.redis(b"_\r\n"), b"_\r\n", OK)

    def test_what_ends_the_session_waits_for_its_end(self) -> None:
        for end in (
            lambda c: c.command(b"QUIT"),
            lambda c: c.client(b"*x\r\n"),
        ):
            conversation, sent, heard = self.half(2)
            end(conversation)
            self.assertIsNone(conversation.closed)
            conversation.redis(sent)
            self.assertTrue(conversation.hears().startswith(heard))
            self.assertIsNotNone(conversation.closed)

    def test_what_else_came_with_the_last_reply_is_for_nobody(self) -> None:
        for last in (b"QUIT", b"RESET"):
            conversation = logged_in(3).command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
            conversation.hears()
            conversation.command(b"PING").command(last)
            conversation.redis(b"+PONG\r\n" + message(b"blue:a", b"x", b">"))
            self.assertIn(conversation.hears(), (b"+PONG\r\n+OK\r\n", b"+PONG\r\n+RESET\r\n"))

    def test_a_message_that_begins_while_another_tenants_upstream_connection_is_opened(self) -> None:
        """The client is closed, because the rest of the message would be lost."""
        conversation = logged_in(3).command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
        conversation.upstreams_at_once = False
        conversation.command(b"AUTH", b"green").redis(message(b"blue:a", b"x" * 100, b">")[:60])
        conversation.open_upstream()
        self.assertEqual(conversation.closed, "moved-within-a-message")

    def test_reset_and_auth_wait_for_its_end(self) -> None:
        for words in ((b"RESET",), (b"AUTH", b"green")):
            conversation, sent, heard = self.half(3)
            conversation.command(*words)
            self.assertHears(conversation)
            told = conversation.redis(sent).hears()
            self.assertIn(told, (heard + b"+RESET\r\n", heard + confirmation(b"unsubscribe", b"a", 0, b">") + OK))


class ProtocolSwitchTests(ConversationCase):
    def test_in_resp3_an_array_is_never_a_message(self) -> None:
        for word in (b"message", b"pmessage", b"smessage", b"subscribe", b"unsubscribe"):
            conversation = logged_in(3).command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
            conversation.hears()
            reply = b"*3\r\n$%d\r\n%b\r\n$6\r\nblue:a\r\n$1\r\nb\r\n" % (len(word), word)
            conversation.command(b"LRANGE", b"l", b"0", b"-1").command(b"SELECT", b"3")
            self.assertHears(conversation.redis(reply), reply, OK)

    def test_back_to_resp2_while_subscribed(self) -> None:
        conversation = logged_in(3).command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1, b">"))
        conversation.command(b"HELLO", b"2").redis(b"*0\r\n").hears()
        self.assertHears(conversation.redis(message(b"blue:a", b"x")), message(b"a", b"x"))
        self.assertEqual(conversation.session.protocol, 2)

    def test_a_hello_that_redis_refuses_changes_nothing(self) -> None:
        """A HELLO that Redis refuses, as it does to a RESP2 subscriber, changes nothing."""
        conversation = logged_in().command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"blue:a", 1))
        conversation.command(b"HELLO", b"3").command(b"PING")
        conversation.hears()
        self.assertHears(conversation.redis(b"-ERR Can't execute 'echo'\r\n"), b"-ERR Can't execute 'hello'\r\n")
        self.assertHears(conversation.redis(message(b"blue:a", b"x")), message(b"a", b"x"))
        self.assertEqual(conversation.session.protocol, 2)

    def test_what_a_resp2_subscriber_may_not_is_left_to_redis(self) -> None:
        """Redis gets a command that it refuses for the same reason, when it is certain that it
        will.
        """
        echo = encode([b"ECHO", b""])
        for words, name in (
            ([b"MULTI"], b"multi"),
            ([b"watch", b"a"], b"watch"),
            ([b"CLIENT", b"Reply", b"SKIP"], b"client|reply"),
            ([b"SELECT", b"3"], b"select"),
            ([b"AUTH", b"green"], b"auth"),
            ([b"FLUSHALL"], b"flushall"),
            ([b"INFO"], b"info"),
            ([b"PUBSUB", b"CHANNELS"], b"pubsub|channels"),
            ([b"CONFIG", b"GET", b"save"], b"config|get"),
        ):
            conversation = logged_in().command(b"SUBSCRIBE", b"a").command(*words).command(b"PING")
            self.assertEqual(conversation.gets(), encode([b"SUBSCRIBE", b"blue:a"]))
            conversation.redis(confirmation(b"subscribe", b"blue:a", 1)).hears()
            self.assertEqual(conversation.gets(), echo + encode([b"PING"]))
            error = b"-ERR Can't execute '%b': only 'echo'\r\n"
            self.assertHears(conversation.redis(error % b"echo"), error % name)
            self.assertEqual((conversation.session.multi, conversation.session.watching), (False, False))
            # If Redis refuses the SUBSCRIBE, the command runs.
            conversation = logged_in().command(b"SUBSCRIBE", b"a").command(*words)
            conversation.redis(b"-BUSY\r\n")
            self.assertNotIn(b"ECHO", conversation.gets())

    def test_hello_has_the_id_of_client_id(self) -> None:
        hello = b"%%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:%d\r\n$7\r\nmodules\r\n*1\r\n%%1\r\n$2\r\nid\r\n:5\r\n"
        conversation = logged_in(3).command(b"HELLO", b"3").command(b"GET", b"a")
        for number in hello % 123456:
            conversation.redis(bytes((number,)))
        self.assertHears(conversation, hello % 7)
        self.assertHears(conversation.redis(b"_\r\n"), b"_\r\n")

    def test_another_tenants_log_in_ends_the_subscriptions(self) -> None:
        """Redis would keep them, so the client is told, as by UNSUBSCRIBE."""
        conversation = logged_in(3).command(b"SUBSCRIBE", b"b", b"a").command(b"SSUBSCRIBE", b"s")
        for word, channel, count in (
            (b"subscribe", b"blue:b", 1),
            (b"subscribe", b"blue:a", 2),
            (b"ssubscribe", b"blue:s", 1),
        ):
            conversation.redis(confirmation(word, channel, count, b">"))
        conversation.hears()
        conversation.command(b"AUTH", b"blue")
        self.assertHears(conversation, OK)
        conversation.command(b"AUTH", b"green")
        left = ((b"unsubscribe", b"a", 1), (b"unsubscribe", b"b", 0), (b"sunsubscribe", b"s", 0))
        self.assertHears(conversation, *(confirmation(*each, b">") for each in left), OK)


class QuestionTests(ConversationCase):
    """Questions about the whole server go over the control connection, as control queries."""

    def test_info_waits_for_what_is_pending_and_is_cut(self) -> None:
        conversation = logged_in().command(b"GET", b"a").command(b"INFO", b"keyspace").command(b"GET", b"b")
        self.assertEqual(conversation.questions, [])
        conversation.redis(b"+1\r\n").hears()
        self.assertEqual(conversation.questions, [[[b"INFO", b"keyspace"]]])
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        conversation.finish([b"# Keyspace\r\ndb0:keys=1\r\ndb3:keys=2\r\ndb33:keys=4\r\n"])
        text = b"# Keyspace\r\ndb3:keys=2\r\n"
        self.assertHears(conversation, b"$%d\r\n%b\r\n" % (len(text), text))
        self.assertEqual(conversation.gets(), encode([b"GET", b"b"]))

    def test_info_asks_for_the_sections_that_are_shown(self) -> None:
        """INFO asks for no other sections: one tenant's scripts can make some of them large."""
        every = [[b"INFO", section.encode()] for section in SECTIONS]
        for words in ((), (b"everything",), (b"Default", b"errorstats")):
            conversation = logged_in().command(b"INFO", *words)
            self.assertEqual(conversation.questions, [every])
            conversation.finish([b"# %b\r\nrole:x\r\n" % section[1] for section in every])
            self.assertIn(b"# replication\r\nrole:x\r\n", conversation.hears())
        conversation = logged_in().command(b"INFO", b"keyspace", b"commandstats", b"SERVER")
        self.assertEqual(conversation.questions, [[[b"INFO", b"server"], [b"INFO", b"keyspace"]]])

    def test_info_of_what_is_not_shown_is_empty_and_redis_is_not_asked(self) -> None:
        for protocol, empty in ((2, b"$0\r\n\r\n"), (3, b"=4\r\ntxt:\r\n")):
            conversation = logged_in(protocol).command(b"GET", b"a").command(b"INFO", b"errorstats").command(b"GET", b"b")
            self.assertHears(conversation)
            self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n", empty)
            self.assertEqual(conversation.questions, [])
            self.assertHears(conversation.redis(b"+2\r\n"), b"+2\r\n")

    def test_redis_before_7_takes_one_section(self) -> None:
        conversation = Conversation(policy=make_policy(builtin(), scripts=False, before_7=True))
        conversation.command(b"AUTH", b"blue").hears()
        self.assertHears(conversation.command(b"INFO", b"server", b"clients"), SYNTAX)
        conversation.command(b"INFO", b"clients")
        self.assertEqual(conversation.questions, [[[b"INFO", b"clients"]]])

    def test_config_get(self) -> None:
        conversation = logged_in().command(b"GET", b"a").command(b"config", b"Get", b"maxmemory*", b"SAVE", b"requirepass")
        conversation.command(b"GET", b"b")
        self.assertEqual(conversation.questions, [])
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n")
        names = [b"maxmemory", b"maxmemory-policy", b"SAVE"]
        self.assertEqual(conversation.questions, [[[b"CONFIG", b"GET", name] for name in names]])
        # The server has no maxmemory-policy.
        conversation.finish([[b"maxmemory", b"100"], [], [b"SAVE", b""]])
        self.assertHears(conversation, b"*4\r\n$9\r\nmaxmemory\r\n$3\r\n100\r\n$4\r\nSAVE\r\n$0\r\n\r\n")
        self.assertHears(conversation.redis(b"+2\r\n"), b"+2\r\n")
        self.assertEqual((conversation.audited, conversation.session.refused), ([], 0))

    def test_config_get_of_what_is_not_shown_is_empty_and_redis_is_not_asked(self) -> None:
        for protocol, empty in ((2, b"*0\r\n"), (3, b"%0\r\n")):
            conversation = logged_in(protocol)
            for words in ((b"requirepass",), (b"*pass*", b"dir"), (b"",)):
                self.assertHears(conversation.command(b"CONFIG", b"GET", *words), empty)
            self.assertEqual(conversation.questions, [])

    def test_config_otherwise(self) -> None:
        conversation = logged_in()
        wrong = b"-ERR wrong number of arguments for 'config%b' command\r\n"
        self.assertHears(conversation.command(b"CONFIG"), wrong % b"")
        self.assertHears(conversation.command(b"CONFIG", b"get"), wrong % b"|get")
        self.assertHears(conversation.command(b"CONFIG", b"GET", b"*" * 1000), server_config.TOO_LONG)
        for words in ((b"SET", b"save", b"1"), (b"REWRITE",), (b"resetstat",), (b"HELP",)):
            self.assertRefused(conversation.command(b"CONFIG", *words), b"-NOPERM the command 'config|")
        self.assertEqual(conversation.questions, [])
        self.assertEqual(conversation.audited, ["config|set", "config|rewrite", "config|resetstat", "config|help"])

    def test_config_of_redis_before_7_takes_one_pattern(self) -> None:
        conversation = Conversation(policy=make_policy(builtin(), scripts=False, before_7=True))
        conversation.command(b"AUTH", b"blue").hears()
        wrong = b"-ERR Unknown subcommand or wrong number of arguments for 'GET'. Try CONFIG HELP.\r\n"
        self.assertHears(conversation.command(b"CONFIG", b"GET"), wrong)
        self.assertHears(conversation.command(b"CONFIG", b"GET", b"save", b"databases"), wrong)

    def test_config_that_the_operator_refuses(self) -> None:
        for names in ("CONFIG", "CONFIG|GET"):
            conversation = Conversation(policy=make_policy(builtin(), True, deny=frozenset((names.encode(),))))
            conversation.command(b"AUTH", b"blue").hears()
            self.assertRefused(conversation.command(b"CONFIG", b"GET", b"save"), b"-NOPERM the command 'config|get'")

    def test_redis_does_not_answer(self) -> None:
        conversation = logged_in().command(b"INFO")
        conversation.finish(Unavailable(messages.UNANSWERED.text))
        self.assertHears(conversation, b"-ERR Redis did not answer the proxy, try again\r\n")

    def test_the_client_leaves_meanwhile(self) -> None:
        conversation = logged_in().command(b"INFO")
        conversation.session.ending.at_once()
        conversation.finish([b""])
        self.assertHears(conversation)

    def test_inside_multi(self) -> None:
        for words in (
            (b"INFO",),
            (b"INFO", b"errorstats"),
            (b"PUBSUB", b"CHANNELS"),
            (b"PUBSUB", b"NUMPAT"),
            (b"CLIENT", b"ID"),
            (b"CONFIG", b"GET", b"save"),
            (b"CONFIG", b"GET", b"nosuch"),
        ):
            conversation = logged_in().command(b"MULTI").command(*words)
            self.assertEqual(conversation.gets(), encode([b"MULTI"]) + SPOILER)
            conversation.redis(b"+OK\r\n-ERR\r\n")
            self.assertIn(b"inside MULTI is not allowed", conversation.hears())

    def test_pubsub(self) -> None:
        conversation = logged_in().command(b"PUBSUB", b"CHANNELS")
        self.assertEqual(conversation.questions.pop(), [[b"PUBSUB", b"CHANNELS", b"blue:*"]])
        conversation.finish([[b"blue:news", b"green:other"]])
        self.assertHears(conversation, b"*1\r\n$4\r\nnews\r\n")
        conversation.command(b"PUBSUB", b"numsub", b"news", b"x")
        self.assertEqual(conversation.questions.pop(), [[b"PUBSUB", b"NUMSUB", b"blue:news", b"blue:x"]])
        conversation.finish([[b"blue:news", 2, b"blue:x", 0]])
        self.assertHears(conversation, b"*4\r\n$4\r\nnews\r\n:2\r\n$1\r\nx\r\n:0\r\n")
        conversation.command(b"PUBSUB", b"NUMSUB")
        self.assertEqual(conversation.questions.pop(), [[b"PUBSUB", b"NUMSUB"]])
        conversation.finish([[]])
        self.assertHears(conversation, b"*0\r\n")
        conversation = logged_in(3).command(b"PUBSUB", b"NUMSUB", b"news")
        conversation.finish([[b"blue:news", 2]])
        self.assertHears(conversation, b"*2\r\n$4\r\nnews\r\n:2\r\n")
        self.assertRefused(
            conversation.command(b"PUBSUB", b"NUMPAT", b"x"), b"-ERR wrong number of arguments for 'pubsub|numpat'"
        )

    def test_many_channels_are_counted_in_parts(self) -> None:
        names = [b"%d" % number for number in range(2 * bounds.CHANNELS_PER_ANSWER + 1)]
        conversation = logged_in().command(b"PUBSUB", b"NUMSUB", *names)
        (asked,) = conversation.questions
        self.assertEqual([len(command) - 2 for command in asked], [bounds.CHANNELS_PER_ANSWER] * 2 + [1])
        self.assertEqual([name for command in asked for name in command[2:]], [b"blue:" + name for name in names])
        conversation.finish([[each for name in command[2:] for each in (name, 7)] for command in asked])
        answer = b"".join(b"$%d\r\n%b\r\n:7\r\n" % (len(name), name) for name in names)
        self.assertHears(conversation, b"*%d\r\n" % (2 * len(names)) + answer)

    def test_the_number_of_patterns_is_counted_once_in_a_while(self) -> None:
        """Each NUMPAT waits for a control query, so that many at once do not block the reactor."""
        conversation = logged_in()
        conversation.client(encode([b"PUBSUB", b"NUMPAT"]) * 3)
        for _ in range(3):
            self.assertHears(conversation)
            self.assertEqual(conversation.questions.pop(), [[b"PUBSUB", b"NUMPAT"]])
            self.assertEqual(conversation.questions, [])
            conversation.finish([99])
            self.assertHears(conversation, b":6\r\n")


class UnknownTests(ConversationCase):
    """The client gets Redis's own error for a command that the server does not have, and Redis gets
    nothing.
    """

    def test_a_command(self) -> None:
        conversation = logged_in()
        conversation.client(
            encode([b"GET", b"a"]), encode([b"NoSuch", b"a", b"b c"]), b"nosuch x\r\n", encode([b"GET", b"b"])
        )
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]) + encode([b"GET", b"b"]))
        conversation.redis(b"+1\r\n+2\r\n")
        errors = b"-ERR unknown command 'NoSuch', with args beginning with: 'a' 'b c' \r\n"
        errors += b"-ERR unknown command 'nosuch', with args beginning with: 'x' \r\n"
        self.assertHears(conversation, b"+1\r\n", errors, b"+2\r\n")
        self.assertEqual((conversation.session.refused, conversation.session.commands), (2, 5))

    def test_a_subcommand(self) -> None:
        for name in (b"CLIENT", b"PUBSUB", b"config", b"MEMORY", b"Acl"):
            conversation = logged_in().command(name, b"NoSuch", b"x")
            self.assertHears(conversation, b"-ERR unknown subcommand 'NoSuch'. Try %b HELP.\r\n" % name.upper())
            self.assertEqual(conversation.session.refused, 1)

    def test_what_this_server_does_not_have_is_not_done_here(self) -> None:
        older = {name: command for name, command in builtin().items() if name not in (b"SSUBSCRIBE", b"COPY", b"GETEX")}
        old = make_policy(older, scripts=False, before_7=True)
        conversation = Conversation(policy=old)
        conversation.command(b"AUTH", b"blue").hears()
        for name in (b"SSUBSCRIBE", b"copy", b"GETEX"):
            error = b"-ERR unknown command `%b`, with args beginning with: `a`, `b`, \r\n" % name
            self.assertHears(conversation.command(name, b"a", b"b"), error)
        self.assertEqual(conversation.gets(), b"")
        wrong = b"-ERR Unknown subcommand or wrong number of arguments for '%b'. Try CLIENT HELP.\r\n"
        self.assertHears(conversation.command(b"CLIENT", b"nosuch"), wrong % b"nosuch")
        self.assertHears(conversation.command(b"CLIENT", b"ID", b"x"), wrong % b"ID")

    def test_what_the_operator_refuses_is_known(self) -> None:
        denied = frozenset((b"SUBSCRIBE", b"INFO", b"GET", b"PUBLISH"))
        conversation = Conversation(policy=make_policy(builtin(), True, True, deny=denied))
        conversation.command(b"AUTH", b"blue").hears()
        for name in sorted(denied):
            self.assertRefused(conversation.command(name, b"a"), b"-NOPERM the command '%b'" % name.lower())

    def test_what_became_refused_while_it_was_read(self) -> None:
        allowed, denied = (make_policy(builtin(), True, True, deny=deny) for deny in (frozenset(), frozenset((b"COPY",))))
        copy = encode([b"COPY", b"a", b"b"])
        conversation = Conversation(policy=allowed)
        conversation.command(b"AUTH", b"blue").client(copy[:-3]).hears()
        conversation.session.policy = denied
        self.assertRefused(conversation.client(copy[-3:]), b"-NOPERM the command 'copy'")
        self.assertEqual(conversation.gets(), b"")

    def test_inside_multi(self) -> None:
        conversation = logged_in().command(b"MULTI").command(b"NOSUCH").command(b"CLIENT", b"NOSUCH").command(b"EXEC")
        self.assertEqual(conversation.gets(), encode([b"MULTI"]) + SPOILER * 2 + encode([b"EXEC"]))
        conversation.redis(b"+OK\r\n-ERR\r\n-ERR\r\n-EXECABORT\r\n")
        unknown = b"-ERR unknown command 'NOSUCH', with args beginning with: \r\n-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n"
        self.assertHears(conversation, OK, unknown, b"-EXECABORT\r\n")

    def test_one_line_of_bounded_length_whatever_they_are(self) -> None:
        conversation = logged_in()
        conversation.command(b"a\r\n+OK\r\n", b"\r\n$1\r\nx", b"y")
        self.assertHears(conversation, b"-ERR unknown command 'a  +OK  ', with args beginning with: '  $1  x' 'y' \r\n")
        conversation.command(b"CLIENT", b"a\r\n+OK\r\n")
        self.assertHears(conversation, b"-ERR unknown subcommand 'a  +OK  '. Try CLIENT HELP.\r\n")
        conversation.command(b"a\0b", b"c\0d")
        self.assertHears(conversation, b"-ERR unknown command 'a', with args beginning with: 'c' \r\n")
        for words in (
            (b"N" * 128, *[b"x" * 1000] * 3),
            (b"N" * 129,),
            (b"CLIENT", b"x" * 70000),
            (b"NOSUCH", b"x" * 2_000_000),
        ):
            told = conversation.command(*words).hears()
            self.assertTrue(told.startswith(b"-ERR unknown ") and told.endswith(b"\r\n"), told)
            self.assertEqual((told.count(b"\r\n"), len(told) < 400), (1, True))
        self.assertEqual(conversation.gets(), b"")


class ClientReplyTests(ConversationCase):
    def test_off_and_on(self) -> None:
        conversation = logged_in().command(b"CLIENT", b"REPLY", b"OFF")
        conversation.command(b"SET", b"a", b"1").command(b"SELECT", b"9").command(b"CLIENT", b"ID")
        conversation.command(b"CLIENT", b"REPLY", b"ON").command(b"GET", b"a")
        self.assertHears(conversation.redis(b"+OK\r\n"), OK)
        self.assertHears(conversation.redis(b"$1\r\n1\r\n"), b"$1\r\n1\r\n")

    def test_skip(self) -> None:
        conversation = logged_in().command(b"CLIENT", b"REPLY", b"SKIP")
        conversation.client(encode([b"SET", b"a", b"1"]) + encode([b"GET", b"a"]) + encode([b"GET", b"b"]))
        self.assertHears(conversation.redis(b"+OK\r\n$1\r\n1\r\n$-1\r\n"), b"$1\r\n1\r\n$-1\r\n")
        conversation.command(b"CLIENT", b"REPLY", b"SKIP").command(b"CLIENT", b"ID").command(b"CLIENT", b"ID")
        self.assertHears(conversation, b":7\r\n")

    def test_other(self) -> None:
        self.assertRefused(logged_in().command(b"CLIENT", b"REPLY", b"MAYBE"), b"-ERR syntax error")


class AuditTests(ConversationCase):
    def test_what_a_tenant_may_not_do_is_written_down_by_name_alone(self) -> None:
        conversation = logged_in()
        for words in (
            (b"CONFIG", b"SET", b"private"),
            (b"select", b"5"),
            (b"CLIENT", b"UNBLOCK", b"private"),
            (b"MEMORY", b"STATS"),
            (b"COPY", b"a", b"b", b"DB", b"5"),
            (b"PSUBSCRIBE", b"__keyspace@5__:private"),
            (b"mistyped-password", b"private"),
            (b"CLIENT", b"mistyped-password"),
            (b"mistyped-password" * 10,),
            (b"GET", b"private"),
        ):
            conversation.command(*words)
        audited = ["config|set", "select", "client|unblock", "memory|stats", "copy", "psubscribe"]
        audited += ["unknown", "unknown"]
        self.assertEqual(conversation.audited, audited)


class ContainerTests(ConversationCase):
    def test_by_subcommand(self) -> None:
        conversation = logged_in()
        for words in ((b"MEMORY", b"USAGE", b"k"), (b"script", b"load", b"return 1"), (b"OBJECT", b"ENCODING", b"k")):
            self.assertEqual(conversation.command(*words).gets(), encode(words))
        conversation = logged_in()
        for words in ((b"MEMORY", b"STATS"), (b"SCRIPT", b"KILL"), (b"COMMANDLOG", b"GET"), (b"ACL", b"USERS")):
            self.assertRefused(conversation.command(*words), b"-NOPERM the command '%b" % words[0].lower())
        self.assertRefused(conversation.command(b"MEMORY"), b"-ERR wrong number of arguments")
        self.assertEqual(conversation.gets(), b"")

    def test_one_of_which_nothing_is_passed_on_alone(self) -> None:
        self.assertRefused(logged_in().command(b"CONFIG"), b"-ERR wrong number of arguments for 'config' command")

    def test_help(self) -> None:
        told = logged_in().command(b"CLIENT", b"help").hears()
        count = int(told[1 : told.index(b"\r\n")])
        self.assertEqual((told[:1], told.count(b"\r\n+")), (b"*", count))
        self.assertTrue(told.startswith(b"*%d\r\n+CLIENT <subcommand>" % count), told)
        self.assertIn(b"+SETNAME <name>\r\n", told)
        self.assertEqual(logged_in().command(b"pubsub", b"help").gets(), encode([b"pubsub", b"help"]))
        for name in (b"CLIENT", b"pubsub"):
            self.assertRefused(
                logged_in().command(name, b"HELP", b"x"), b"-ERR wrong number of arguments for '%b|help'" % name.lower()
            )

    def test_names_that_would_fill_the_memory(self) -> None:
        conversation = logged_in()
        for words in ((b"SETNAME",), (b"SETINFO", b"LIB-NAME"), (b"SETINFO", b"lib-ver")):
            self.assertHears(conversation.command(b"CLIENT", *words, b"x" * 4096), OK)
            self.assertRefused(conversation.command(b"CLIENT", *words, b"x" * 4097), b"-ERR ")
        self.assertRefused(conversation.command(b"HELLO", b"3", b"SETNAME", b"x" * 4097), b"-ERR Client names")

    def test_a_handshake_of_valkeys_clients(self) -> None:
        self.assertHears(logged_in().command(b"CLIENT", b"CAPA", b"redirect", b"other"), OK)
        self.assertRefused(logged_in().command(b"CLIENT", b"CAPA"), b"-ERR wrong number of arguments for 'client|capa'")

    def test_client_info(self) -> None:
        conversation = (
            logged_in().command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"redis-py").command(b"CLIENT", b"SETNAME", b"me")
        )
        conversation.hears()
        told = conversation.command(b"CLIENT", b"INFO").hears()
        for field in (
            b"id=7 ",
            b"addr=192.0.2.1:5555 ",
            b"laddr=192.0.2.9:6379 ",
            b"name=me ",
            b"flags=N ",
            b"db=3 ",
            b"user=blue ",
            b"lib-name=redis-py ",
            b" resp=2 ",
        ):
            self.assertIn(field, told)

    def test_client_info_over_a_unix_socket(self) -> None:
        conversation = logged_in()
        conversation.peer = conversation.local = "a Unix socket"
        self.assertIn(b" addr=?:0 laddr=?:0 ", conversation.command(b"CLIENT", b"INFO").hears())


class LookAgainTests(ConversationCase):
    """A rotation may come to the proxy after its clients."""

    def test_a_password_that_becomes_right_while_its_answer_is_delayed(self) -> None:
        get = encode([b"GET", b"a"])
        for first, sent in (
            ([b"AUTH", b"blue"], get),
            ([b"HELLO", b"2", b"AUTH", b"blue", b"blue"], encode([b"HELLO", b"2"])),
        ):
            conversation = Conversation(Snapshot(None, [GREEN]))
            conversation.login_delay = 2.0
            conversation.command(*first).command(b"GET", b"a")
            conversation.snapshot = Snapshot(None, [GREEN, BLUE])
            conversation.now = 1.9
            conversation.session.time_is(conversation.now)
            self.assertHears(conversation)
            conversation.now = 2.0
            conversation.session.time_is(conversation.now)
            self.assertHears(conversation, OK if sent is get else b"")
            self.assertIs(conversation.session.credential, BLUE)
            self.assertEqual(conversation.gets(), sent)

    def test_by_then_the_tenant_may_be_full(self) -> None:
        conversation = Conversation(Snapshot(None, [GREEN]))
        conversation.login_delay = 2.0
        conversation.command(b"AUTH", b"blue")
        conversation.snapshot = Snapshot(None, [GREEN, BLUE])
        conversation.full.add(BLUE.tenant)
        conversation.session.time_is(2.0)
        self.assertRefused(conversation, b"-")
        self.assertIsNone(conversation.session.credential)


class ResetTests(ConversationCase):
    def test_logs_out(self) -> None:
        conversation = logged_in().command(b"GET", b"a").command(b"RESET").command(b"GET", b"b")
        self.assertHears(conversation)
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n", b"+RESET\r\n", NOAUTH)
        self.assertIs(conversation.upstream.released, True)
        self.assertHears(conversation.command(b"AUTH", b"green"), OK)

    def test_before_the_login(self) -> None:
        self.assertHears(Conversation().command(b"RESET"), b"+RESET\r\n")
        self.assertRefused(Conversation().command(b"RESET", b"x"), b"-ERR wrong number of arguments")


class BoundsTests(ConversationCase):
    def test_a_client_is_read_while_it_waits_but_not_without_limit(self) -> None:
        """The client is read up to BUFFERED_BYTES, because only a read shows that it left."""
        conversation = logged_in().command(b"GET", b"a").command(b"AUTH", b"green")
        self.assertTrue(conversation.waits)
        conversation.client(b"x" * bounds.BUFFERED_BYTES)
        self.assertFalse(conversation.held)
        conversation.client(b"x")
        self.assertTrue(conversation.held)

    def test_a_client_with_a_blocked_command_is_read_as_long_as_there_is_memory(self) -> None:
        """Otherwise the proxy would not find the end of file behind what the client sent."""
        conversation = logged_in().command(b"BLPOP", b"q", b"0").command(b"AUTH", b"blue")
        memory = conversation.has_memory(10 * bounds.BUFFERED_BYTES)
        for _ in range(9):
            conversation.client(b"\r\n" * (bounds.BUFFERED_BYTES // 2))
        self.assertEqual((conversation.held, conversation.session.buffered), (False, 9 * bounds.BUFFERED_BYTES))
        self.assertEqual(memory.of("blue"), 9 * bounds.BUFFERED_BYTES)
        conversation.client(b"\r\n" * bounds.BUFFERED_BYTES, encode([b"GET", b"late"]))
        self.assertTrue(conversation.held)
        conversation.redis(b"*-1\r\n")
        self.assertEqual((conversation.held, conversation.waits, memory.size), (False, False, 0))
        self.assertTrue(conversation.gets().endswith(encode([b"GET", b"late"])))

    def with_much_behind_a_blocked_command(self, size: int) -> tuple[Conversation, Memory, bytes]:
        """Returns a session that waits, its memory, and what the client sent behind."""
        conversation = logged_in().command(b"BLPOP", b"q", b"0").command(b"AUTH", b"blue")
        memory = conversation.has_memory(2 * size)
        commands = [encode([b"SET", b"%d" % number, b"x" * 30_000]) for number in range(size // 30_000)]
        for command in commands:
            conversation.client(command)
        self.assertEqual(memory.of("blue"), len(b"".join(commands)))
        self.assertLess(conversation.session.scanner.buffered, 2 * bounds.BUFFERED_BYTES)
        return conversation, memory, b"".join(commands)

    def test_what_was_kept_is_sent_as_redis_reads_it(self) -> None:
        """Else all of it would be copied several times at once, and charged to nobody."""
        conversation, memory, commands = self.with_much_behind_a_blocked_command(3_000_000)
        upstream, session = conversation.upstream, conversation.session
        send = upstream.send

        def send_slowly(data: bytes, batch: ReplyBatch | None = None) -> None:
            send(data, batch)
            session.upstream_full(True)

        upstream.send = send_slowly
        conversation.upstream_full = lambda _: None
        conversation.gets()
        conversation.redis(b"*-1\r\n")
        sent = conversation.gets()
        while session.kept:
            self.assertEqual(memory.of("blue"), session.kept)
            session.upstream_full(False)
            part = conversation.gets()
            self.assertTrue(0 < len(part) < 4 * bounds.BUFFERED_BYTES)
            sent += part
        self.assertEqual(sent, commands)
        self.assertEqual(memory.size, 0)

    def test_an_end_of_file_behind_what_redis_has_not_read(self) -> None:
        conversation, memory, commands = self.with_much_behind_a_blocked_command(600_000)
        session = conversation.session
        conversation.upstream_full = lambda _: None
        conversation.gets()
        session.upstream_full(True)
        conversation.redis(b"*-1\r\n")
        self.assertLess(len(conversation.gets()), len(commands) / 2)
        session.ending.half_closed()
        session.upstream_full(False)
        self.assertEqual((session.outstanding, memory.size), (commands.count(b"SET"), 0))
        self.assertIsNone(conversation.closed)
        conversation.redis(b"+OK\r\n" * commands.count(b"SET"))
        self.assertEqual(conversation.closed, "client-left")

    def test_a_session_that_ends_keeps_nothing(self) -> None:
        for end in (
            lambda session: session.ending.begin("quit"),
            lambda session: session.ending.at_once(),
            lambda session: session.upstream_lost(),
            lambda session: session.not_held(Unavailable("ERR away", closes=True)),
        ):
            conversation, memory, _ = self.with_much_behind_a_blocked_command(300_000)
            end(conversation.session)
            self.assertEqual((memory.size, conversation.session.kept), (0, 0))

    def test_a_reset_gives_no_more_to_send_without_a_login(self) -> None:
        conversation = Conversation()
        for _ in range(100):
            conversation.client(encode([b"GET", b"x" * 16000]) + encode([b"RESET"]))
        self.assertEqual(conversation.closed, "protocol-error")

    def test_arguments_of_no_length_are_not_kept_without_limit(self) -> None:
        conversation = logged_in().client(b"*2147483647\r\n$6\r\nSELECT\r\n")
        for _ in range(20):
            conversation.client(b"$0\r\n\r\n" * 5000)
        self.assertHears(conversation, b"-ERR the arguments of 'select' are larger than 1048576 bytes\r\n")
        self.assertEqual(conversation.session.scanner._taken, [])

    def test_a_refused_subscription_leaves_nothing_pending(self) -> None:
        conversation = logged_in().command(b"SSUBSCRIBE", *(b"%d" % n for n in range(100))).redis(b"-ERR no\r\n")
        self.assertEqual(conversation.session.outstanding, 0)

    def test_many_refused_logins_at_once_do_not_nest(self) -> None:
        conversation = logged_in()
        conversation.open_upstream = lambda: conversation.refuse_upstream("ERR no")
        conversation.client(encode([b"AUTH", b"green"]) * 2000)
        self.assertHears(conversation, b"-ERR no\r\n" * 2000)

    def test_replies_outstanding(self) -> None:
        """They do not stop a client, as long as there is memory."""
        self.enterContext(mock.patch.object(bounds, "PENDING_REPLIES", 10))
        conversation = logged_in()
        conversation.client(encode([b"GET", b"a"]) * 100)
        self.assertFalse(conversation.waits)
        conversation.redis(b"+1\r\n" * 100)
        conversation.has_memory(9 * bounds.PENDING_REPLY_BYTES)
        conversation.client(encode([b"GET", b"a"]) * 10)
        self.assertTrue(conversation.waits)
        conversation.redis(b"+1\r\n" * 4)
        self.assertTrue(conversation.waits)
        conversation.redis(b"+1\r\n")
        self.assertFalse(conversation.waits)

    def test_confirmations_outstanding(self) -> None:
        """Confirmations count as pending replies, even of an UNSUBSCRIBE from nothing."""
        self.enterContext(mock.patch.object(bounds, "PENDING_REPLIES", 10))
        conversation = logged_in()
        conversation.has_memory(10 * bounds.PENDING_REPLY_BYTES)
        conversation.command(b"UNSUBSCRIBE", *(b"%d" % number for number in range(10)))
        self.assertTrue(conversation.waits)
        conversation.redis(b"".join(b"*3\r\n$11\r\nunsubscribe\r\n$6\r\nblue:%d\r\n:0\r\n" % number for number in range(5)))
        self.assertFalse(conversation.waits)

    def test_answers_that_wait_for_their_turn(self) -> None:
        self.enterContext(mock.patch.object(bounds, "OWN_REPLIES_BYTES", 1000))
        commands = encode([b"GET", b"a"]), encode([b"CONFIG", b"SET"]) * 100, encode([b"GET", b"b"])
        free = logged_in().client(*commands)
        self.assertEqual((free.waits, free.gets()), (False, commands[0] + commands[2]))
        conversation = logged_in()
        conversation.has_memory(2000)
        conversation.client(*commands)
        self.assertTrue(conversation.waits)
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        conversation.redis(b"+1\r\n")
        self.assertFalse(conversation.waits)
        self.assertEqual(conversation.gets(), encode([b"GET", b"b"]))
        self.assertHears(conversation, b"+1\r\n", REFUSED_CONFIG * 100)

    def test_a_client_that_is_not_logged_in_and_does_not_read(self) -> None:
        conversation = Conversation().client(encode([b"PING"]))
        conversation.session.client_slow(True)
        self.assertTrue(conversation.waits)
        conversation.hears()
        self.assertHears(conversation.client(encode([b"PING"]) * 1000))
        conversation.session.client_slow(False)
        self.assertHears(conversation, NOAUTH * 1000)

    def test_a_client_that_does_not_read_its_refusals(self) -> None:
        """Its connection keeps them, and charges the tenant's account."""
        conversation = logged_in()
        conversation.session.client_slow(True)
        conversation.client(encode([b"CONFIG", b"SET"]) * 100)
        self.assertFalse(conversation.waits)
        self.assertHears(conversation, REFUSED_CONFIG * 100)

    def test_a_client_that_does_not_read_while_its_session_waits_for_replies(self) -> None:
        """Redis's replies are read for that long: the session may wait before the client reads."""
        for gate in (encode([b"INFO"]), encode([b"HELLO", b"2"])):
            conversation = logged_in().client(encode([b"GET", b"a"]))
            conversation.session.client_slow(True)
            self.assertTrue(conversation.upstream.paused)
            conversation.client(gate)
            self.assertFalse(conversation.upstream.paused)
        conversation.redis(b"+1\r\n*0\r\n")
        self.assertTrue(conversation.upstream.paused)
        # It became slow while it waited.
        conversation = logged_in().client(encode([b"GET", b"a"]), encode([b"INFO"]))
        conversation.session.client_slow(True)
        self.assertFalse(conversation.upstream.paused)
        # Without memory for more, it has to wait for its client.
        memory = conversation.has_memory(1000)
        conversation.session.usage.backlog(2000)
        self.assertTrue(conversation.upstream.paused)
        conversation.session.usage.backlog(950)
        self.assertTrue(conversation.upstream.paused)
        conversation.session.usage.backlog(800)
        self.assertEqual((conversation.upstream.paused, memory.stopped), (False, {}))

    def test_a_client_without_memory_is_closed(self) -> None:
        conversation = logged_in().client(encode([b"GET", b"a"]))
        conversation.session.close_for_memory()
        self.assertEqual((conversation.closed, conversation.upstream.released), ("out-of-memory", False))


class RevocationTests(ConversationCase):
    def test_after_what_is_pending(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        conversation.recheck(Snapshot(None, [GREEN]))
        self.assertIsNone(conversation.closed)
        conversation.command(b"GET", b"b")
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n")
        self.assertEqual(conversation.closed, "revoked")

    def test_at_once_when_nothing_is_pending(self) -> None:
        conversation = logged_in()
        conversation.recheck(Snapshot(None, [BLUE]))
        self.assertIsNone(conversation.closed)
        conversation.recheck(Snapshot(None, []))
        self.assertEqual(conversation.closed, "revoked")

    def test_expiry(self) -> None:
        temporary = Credential(BLUE.tenant, "redis-secret-temp-1", digest(b"temp"), expires=100.0)
        conversation = Conversation(Snapshot(None, [BLUE, temporary])).command(b"AUTH", b"temp")
        conversation.recheck(conversation.snapshot, 99.9)
        self.assertIsNone(conversation.closed)
        conversation.recheck(conversation.snapshot, 100.0)
        self.assertEqual(conversation.closed, "revoked")

    def test_the_same_password_with_another_expiry_goes_on(self) -> None:
        conversation = logged_in()
        longer = Credential(BLUE.tenant, "redis-secret-temp-1", BLUE.digest, "user", 1000.0)
        conversation.recheck(Snapshot(None, [longer]))
        self.assertIsNone(conversation.closed)
        conversation.recheck(Snapshot(None, [longer]), 1000.0)
        self.assertEqual(conversation.closed, "revoked")

    def test_a_moved_index(self) -> None:
        moved = Credential(Tenant("blue", 4), BLUE.secret, BLUE.digest)
        conversation = logged_in()
        conversation.recheck(Snapshot(None, [moved]))
        self.assertEqual(conversation.closed, "revoked")


class RevokedWhileBlockedTests(ConversationCase):
    BLOCKING = (
        (b"BLPOP", b"q", b"0"),
        (b"XREAD", b"BLOCK", b"0", b"STREAMS", b"s", b"$"),
        (b"BZPOPMIN", b"z", b"0"),
        (b"BLMOVE", b"q", b"r", b"LEFT", b"RIGHT", b"0"),
        (b"WAIT", b"1", b"0"),
    )

    def revoke(self, conversation: Conversation) -> Conversation:
        conversation.recheck(Snapshot(None, [GREEN]))
        return conversation

    def lost(self, conversation: Conversation) -> Conversation:
        conversation.upstream.pending.abandon()
        conversation.session.upstream_lost()
        return conversation

    def test_what_blocks_is_given_up(self) -> None:
        for words in self.BLOCKING:
            conversation = self.revoke(logged_in().command(*words))
            self.assertIs(conversation.upstream.given_up, True, words)
            self.assertIsNone(conversation.closed)
            self.lost(conversation)
            self.assertHears(conversation)
            self.assertEqual(conversation.closed, "revoked")

    def test_what_was_run_before_is_told_and_what_stands_behind_is_not(self) -> None:
        conversation = logged_in().client(
            encode([b"SET", b"a", b"1"]),
            encode([b"BLPOP", b"q", b"0"]),
            encode([b"GET", b"private"]),
            encode([b"PING"]),
            encode([b"CONFIG", b"GET"]),
        )
        self.revoke(conversation).redis(b"+OK\r\n")
        self.assertHears(conversation, b"+OK\r\n")
        self.assertHears(self.lost(conversation))
        self.assertEqual(conversation.closed, "revoked")

    def test_an_item_that_redis_had_given_before_it_heard_of_the_end_is_told(self) -> None:
        conversation = self.revoke(logged_in().command(b"BLPOP", b"q", b"0"))
        item = b"*2\r\n$1\r\nq\r\n$4\r\nitem\r\n"
        self.assertHears(conversation.redis(item), item)
        self.assertEqual((conversation.closed, conversation.upstream.released), ("revoked", True))

    def test_one_that_only_waits_for_what_blocks(self) -> None:
        for end, told in (
            (lambda c: c.command(b"QUIT"), b""),
            (lambda c: c.client(b"*x\r\n"), b""),
            (lambda c: c.session.ending.hurry(), b""),
        ):
            conversation = logged_in().command(b"BLPOP", b"q", b"0")
            end(conversation)
            self.assertTrue(conversation.session.ended)
            self.revoke(conversation)
            self.assertIs(conversation.upstream.given_up, True)
            self.assertHears(self.lost(conversation), told)
            self.assertEqual(conversation.closed, "revoked")

    def test_while_it_drains(self) -> None:
        conversation = logged_in().command(b"BLPOP", b"q", b"0")
        conversation.session.ending.drain()
        self.assertTrue(conversation.session.ended)  # it only waits for the blocked command
        self.assertIs(self.revoke(conversation).upstream.given_up, True)

    def test_what_was_answered_blocks_no_more(self) -> None:
        conversation = logged_in().command(b"BLPOP", b"q", b"1").redis(b"*-1\r\n")
        self.assertHears(conversation, b"*-1\r\n")
        self.revoke(conversation.command(b"GET", b"a"))
        self.assertIs(conversation.upstream.given_up, False)
        self.assertHears(conversation.redis(b"$1\r\n1\r\n"), b"$1\r\n1\r\n")
        self.assertEqual(conversation.closed, "revoked")

    def test_a_transaction_without_its_exec_is_not_run(self) -> None:
        for inside, given_up in ((encode([b"SET", b"a", b"1"]), False), (encode([b"BLPOP", b"q", b"0"]), True)):
            conversation = logged_in().client(encode([b"MULTI"]), inside)
            self.assertIs(self.revoke(conversation).upstream.given_up, given_up)
            conversation.command(b"EXEC")
            self.assertNotIn(b"EXEC", conversation.gets())
            self.assertHears(conversation.redis(b"+OK\r\n+QUEUED\r\n"), b"+OK\r\n+QUEUED\r\n")
            self.assertEqual((conversation.closed, conversation.upstream.released), ("revoked", False))

    def test_what_stands_in_a_transaction_behind_what_blocks(self) -> None:
        block = encode([b"BLPOP", b"q", b"0"])
        conversation = self.revoke(logged_in().client(block, encode([b"MULTI"]), block, encode([b"EXEC"])))
        self.assertIs(conversation.upstream.given_up, True)
        self.assertHears(self.lost(conversation))

    def test_a_blocking_command_that_waits_for_its_connection_is_never_sent(self) -> None:
        conversation = Conversation(upstreams_at_once=False).command(b"AUTH", b"blue")
        self.revoke(conversation.client(encode([b"BLPOP", b"q", b"0"]), encode([b"GET", b"a"])))
        self.assertEqual(conversation.closed, "revoked")
        conversation.open_upstream()
        self.assertEqual((conversation.gets(), conversation.upstream.released), (b"", True))
        self.assertHears(conversation)

    def test_a_subscriber_hears_nothing_more(self) -> None:
        message = b"*3\r\n$7\r\nmessage\r\n$6\r\nblue:c\r\n$2\r\nhi\r\n"
        shown = message.replace(b"$6\r\nblue:c", b"$1\r\nc")
        confirmed = b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:c\r\n:1\r\n"
        subscriber = logged_in().command(b"SUBSCRIBE", b"c").redis(confirmed + message)
        self.assertTrue(subscriber.hears().endswith(shown))
        subscriber.command(b"PING")
        self.revoke(subscriber).redis(message + b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        self.assertHears(subscriber, b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        self.assertEqual(subscriber.closed, "revoked")
        within = logged_in().command(b"SUBSCRIBE", b"c").redis(confirmed).command(b"PING")
        within.redis(message[:-5])
        within.hears()
        self.revoke(within)
        self.assertEqual((within.closed, within.upstream.released), ("revoked", False))
        self.assertHears(within)

    def test_it_is_revoked_once(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        gone = Snapshot(None, [])
        self.assertTrue(conversation.session.ending.recheck(lambda credential: gone.renewed(credential, 0.0)))
        for snapshot in (gone, DIRECTORY):  # also if the credential is valid again
            self.assertFalse(conversation.session.ending.recheck(lambda c, d=snapshot: d.renewed(c, 0.0)))
        self.assertTrue(conversation.session.ended)


class TableTests(unittest.TestCase):
    def test_every_command_that_is_taken_has_a_method(self) -> None:
        containers = {name.partition(b"|")[0] for name in policy.ANSWERED_SUBCOMMANDS}
        rewritten = policy.TEXT_SCRIPTS | policy.SHA_SCRIPTS | {b"SCRIPT"}
        inspected = policy.ANSWERED | policy.PASSED_ON | policy.HEADED | containers | rewritten
        # CLUSTER is refused, in words of its own; some forms of the others are checked
        self.assertEqual(commands.HANDLERS.keys(), inspected | {b"CLUSTER"} | set(costs.PLAIN))

    def test_reprs_show_the_state_and_no_secret(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        self.assertIn("blue pending=1", repr(conversation.session))
        self.assertEqual(repr(conversation.upstream.newest()), "<ReplyBatch 1 replies>")
        self.assertNotIn(BLUE.digest.hex(), repr(BLUE))
        self.assertEqual(conversation.session.gates, 0)
        self.assertIsInstance(conversation.upstream.newest(), ReplyBatch)
