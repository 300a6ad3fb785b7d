"""Multiplexed sessions: what goes over the multiplexed connection, when a session moves to a
dedicated one, and when it goes back.
"""

from __future__ import annotations

from unittest import mock

from redisproxy import bounds
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import encode
from redisproxy.session.errors import OK
from redisproxy.session.ports import Unavailable
from redisproxy.session.session import Session
from redisproxy.tenants.model import Snapshot
from redisproxy.tenants.work import WorkQueue

from ..support.conversations import BLUE, GREEN, RecordingUpstream, SharedCase, SharedConversation
from ..support.conversations import logged_in_multiplexed as logged_in

GET = encode([b"GET", b"a"])
AWAY = b"-ERR away\r\n"


class PlainTests(SharedCase):
    def test_whole_commands_go_over_the_multiplexed_connection(self) -> None:
        conversation = logged_in().client(GET * 2, encode([b"SELECT", b"9"]), GET)
        self.assertEqual(conversation.shared_gets(), GET * 3)
        self.assertEqual(conversation.upstreams, [])
        conversation.shared_redis(b"+1\r\n+2\r\n+3\r\n")
        told = conversation.hears()
        self.assertTrue(told.startswith(b"+1\r\n+2\r\n-NOPERM") and told.endswith(b"+3\r\n"), told)

    def test_a_log_in_does_not_wait_where_a_connection_is_open(self) -> None:
        conversation = SharedConversation()
        with mock.patch.object(Session, "suspend", side_effect=AssertionError("it waits")):
            conversation.command(b"AUTH", b"blue")
        self.assertHears(conversation, OK)

    def test_nothing_of_a_command_that_is_not_whole(self) -> None:
        conversation = logged_in().client(GET + GET[:-1])
        self.assertEqual(conversation.shared_gets(), GET)
        self.assertEqual(conversation.client(GET[-1:]).shared_gets(), GET)

    def test_reply_batches_of_two_sessions_are_dealt_out_in_order(self) -> None:
        first, second = logged_in(), logged_in()
        second.tenant_pool.upstream = first.tenant_pool.upstream
        for number in range(3):
            first.command(b"GET", b"f%d" % number)
            second.command(b"GET", b"s%d" % number)
        self.assertEqual(len(first.tenant_pool.upstream.pending.batches), 6)
        first.shared_redis(b"".join(b"+%d\r\n" % n for n in range(6)))
        self.assertHears(first, b"+0\r\n+2\r\n+4\r\n")
        self.assertHears(second, b"+1\r\n+3\r\n+5\r\n")

    def test_what_a_session_left_behind_is_thrown_away(self) -> None:
        first, second = logged_in(), logged_in()
        second.tenant_pool.upstream = first.tenant_pool.upstream
        first.client(GET)
        second.client(GET)
        first.session.ending.at_once()
        self.assertEqual(first.tenant_pool.users, 0)
        second.shared_redis(b"+for the first\r\n+for the second\r\n")
        self.assertHears(first)
        self.assertHears(second, b"+for the second\r\n")

    def test_quit_leaves_the_multiplexed_connection(self) -> None:
        conversation = logged_in().client(GET, b"QUIT\r\n").shared_redis(b"+1\r\n")
        self.assertHears(conversation, b"+1\r\n", OK)
        self.assertEqual((conversation.closed, conversation.tenant_pool.users), ("quit", 0))

    def test_what_stands_behind_answers_that_waited_overtakes_nothing(self) -> None:
        refused, blocks = encode([b"CONFIG", b"SET"]) * 10, encode([b"BLPOP", b"q", b"0"])
        with mock.patch.object(bounds, "OWN_REPLIES_BYTES", 100):
            conversation = logged_in()
            conversation.has_memory(100)
            conversation.client(GET, refused, GET, blocks)
            self.assertEqual(conversation.shared_gets(), GET)
            conversation.shared_redis(b"+1\r\n")
        self.assertEqual(conversation.shared_gets(), GET)
        self.assertEqual(conversation.upstreams, [], "the second GET has no reply yet")
        conversation.shared_redis(b"+2\r\n").upstreams[0].pending.received(b"*-1\r\n")
        told = conversation.hears()
        self.assertTrue(told.startswith(b"+1\r\n-NOPERM") and told.endswith(b"+2\r\n*-1\r\n"), told)

    def test_client_reply(self) -> None:
        conversation = logged_in().client(encode([b"CLIENT", b"REPLY", b"SKIP"]), GET * 3)
        conversation.shared_redis(b"+1\r\n+2\r\n+3\r\n")
        self.assertHears(conversation, b"+2\r\n+3\r\n")
        conversation.client(encode([b"CLIENT", b"REPLY", b"OFF"]), GET * 3).shared_redis(b"+1\r\n+2\r\n+3\r\n")
        self.assertHears(conversation)
        self.assertHears(conversation.command(b"CLIENT", b"REPLY", b"ON"), OK)
        self.assertHears(conversation.client(GET).shared_redis(b"+1\r\n"), b"+1\r\n")

    def test_a_client_leaves_before_the_reply_to_its_hello(self) -> None:
        """The connection, which others share, does not fail when that reply comes."""
        conversation = logged_in().command(b"HELLO", b"2")
        conversation.session.ending.at_once()
        conversation.session.forget()
        conversation.shared_redis(b"*2\r\n$2\r\nid\r\n:5\r\n")
        self.assertEqual(conversation.tenant_pool.users, 0)

    def test_client_reply_and_what_is_said_all_the_same(self) -> None:
        """Confirmations come in any mode of CLIENT REPLY and use up a SKIP, as in Redis."""
        for mode, ping in ((b"SKIP", b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), (b"OFF", b"")):
            conversation = logged_in().client(*map(encode, ([b"CLIENT", b"REPLY", mode], [b"SUBSCRIBE", b"a"], [b"PING"])))
            conversation.redis(b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:a\r\n:1\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n")
            self.assertHears(conversation, b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", ping)

    def test_client_reply_and_hello_on_a_dedicated_connection(self) -> None:
        conversation = logged_in().command(b"WATCH", b"a").redis(OK)
        conversation.hears()
        for protocol, answer in ((b"3", b"%0\r\n"), (b"2", b"*0\r\n")):
            conversation.client(encode([b"CLIENT", b"REPLY", b"SKIP"]), encode([b"HELLO", protocol])).redis(answer)
            self.assertHears(conversation)
            self.assertEqual(conversation.session.protocol, int(protocol))
            self.assertHears(conversation.client(GET).redis(b"+1\r\n"), b"+1\r\n")

    def test_reset_ends_client_reply(self) -> None:
        for mode, answer in ((b"OFF", b"+RESET\r\n"), (b"SKIP", b"")):
            conversation = logged_in().client(encode([b"CLIENT", b"REPLY", mode]), encode([b"RESET"]))
            self.assertHears(conversation, answer)
            self.assertHears(conversation.command(b"AUTH", b"blue"), OK)

    def test_another_tenant_has_another_multiplexed_connection(self) -> None:
        conversation = logged_in().client(GET, encode([b"AUTH", b"green"]), GET)
        self.assertEqual(len(conversation.pools), 1)
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual([tenant_pool.users for tenant_pool in conversation.pools], [0, 1])
        self.assertEqual((conversation.asked, conversation.shared_gets()), ([BLUE.tenant, GREEN.tenant], GET))

    def test_reset_leaves_the_multiplexed_connection(self) -> None:
        conversation = logged_in().command(b"RESET")
        self.assertHears(conversation, b"+RESET\r\n")
        self.assertEqual(conversation.tenant_pool.users, 0)

    def test_revoked(self) -> None:
        conversation = logged_in().client(GET)
        conversation.recheck(Snapshot(None, []))
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.shared_redis(b"+1\r\n"), b"+1\r\n")
        self.assertEqual((conversation.closed, conversation.tenant_pool.users), ("revoked", 0))

    def test_another_policy(self) -> None:
        conversation = logged_in()
        conversation.use_policy(make_policy(builtin(), scripts=False))
        self.assertRefused(conversation.command(b"EVAL", b"return 1", b"0"), b"-NOPERM")


class ProtocolTests(SharedCase):
    def test_each_has_its_multiplexed_connection(self) -> None:
        conversation = logged_in().client(GET, encode([b"HELLO", b"3", b"SETNAME", b"me"]), GET)
        self.assertEqual(conversation.shared_gets(), GET)
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual([tenant_pool.users for tenant_pool in conversation.pools], [0, 1])
        self.assertEqual(conversation.tenant_pool.protocol, 3)
        self.assertEqual(conversation.shared_gets(), encode([b"HELLO", b"3"]) + GET)
        conversation.shared_redis(b"%0\r\n_\r\n")
        self.assertHears(conversation, b"+1\r\n%0\r\n_\r\n")
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$2\r\nme\r\n")

    def test_a_login_with_hello_goes_there_at_once(self) -> None:
        conversation = SharedConversation().command(b"HELLO", b"3", b"AUTH", b"default", b"blue")
        self.assertEqual((len(conversation.pools), conversation.tenant_pool.protocol), (1, 3))
        self.assertEqual(conversation.shared_gets(), encode([b"HELLO", b"3"]))

    def test_the_same_again(self) -> None:
        conversation = logged_in().client(encode([b"HELLO", b"2"]), encode([b"HELLO"]))
        self.assertEqual(conversation.shared_gets(), encode([b"HELLO", b"2"]) + encode([b"HELLO"]))
        self.assertEqual(len(conversation.pools), 1)

    def test_redis_speaks_no_resp3(self) -> None:
        conversation = logged_in()
        conversation.refuses_pools = "ERR unknown command 'HELLO'"
        self.assertRefused(conversation.command(b"HELLO", b"3"), b"-ERR unknown command")
        conversation.client(GET)
        self.assertEqual(conversation.shared_gets(), GET)

    def test_changed_on_a_dedicated_connection_there_is_no_way_back(self) -> None:
        conversation = logged_in().command(b"WATCH", b"a").redis(OK).command(b"HELLO", b"3").redis(b"%0\r\n")
        conversation.command(b"UNWATCH").redis(OK)
        self.assertTrue(conversation.session.dedicated)
        self.assertEqual(conversation.tenant_pool.users, 0)
        conversation.gets()
        conversation.client(GET)
        self.assertEqual(conversation.gets(), GET)

    def test_after_a_hello_that_stood_behind_a_blocking_command_nothing_is_blocked(self) -> None:
        conversation = logged_in().command(b"BLPOP", b"q", b"0").command(b"HELLO", b"2")
        self.assertTrue(conversation.session.blocked)
        conversation.redis(b"*-1\r\n*0\r\n")
        self.assertHome(conversation)
        self.assertFalse(conversation.session.blocked)


class DedicatedConnectionTests(SharedCase):
    def test_a_whole_transaction_rides_along(self) -> None:
        block = encode([b"MULTI"]) + GET * 2 + encode([b"EXEC"])
        conversation = logged_in().client(GET, block, GET)
        self.assertEqual(conversation.upstreams, [])
        self.assertEqual(conversation.shared_gets(), GET + block + GET)
        conversation.shared_redis(b"+1\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+1\r\n+2\r\n+3\r\n")
        self.assertEqual(conversation.session.commands, 7)
        self.assertTrue(conversation.hears().endswith(b"+3\r\n"))
        self.assertEqual(conversation.session.outstanding, 0)

    def test_a_transaction_in_parts(self) -> None:
        conversation = logged_in().client(GET, encode([b"MULTI"]))
        self.assertEqual((conversation.upstreams, conversation.waits), ([], True))
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual(conversation.gets(), encode([b"MULTI"]))
        conversation.redis(OK).client(GET).redis(b"+QUEUED\r\n").command(b"EXEC")
        self.assertEqual(conversation.gets(), GET + encode([b"EXEC"]))
        self.assertTrue(conversation.session.dedicated)
        conversation.redis(b"*1\r\n+2\r\n")
        self.assertHome(conversation)
        self.assertIs(conversation.upstream.released, True)
        self.assertHears(conversation, b"+1\r\n+OK\r\n+QUEUED\r\n*1\r\n+2\r\n")
        self.assertEqual(conversation.client(GET).shared_gets(), GET * 2)

    def test_a_transaction_with_what_is_refused(self) -> None:
        conversation = logged_in().client(encode([b"MULTI"]), encode([b"CONFIG", b"SET", b"x"]), encode([b"EXEC"]))
        self.assertEqual(conversation.shared_gets(), b"")
        conversation.redis(OK + b"-ERR spoiled\r\n-EXECABORT\r\n")
        self.assertHome(conversation)
        self.assertIn(b"-NOPERM", conversation.hears())

    def test_exec_and_others_without_their_multi(self) -> None:
        for words in ((b"EXEC",), (b"DISCARD",), (b"UNWATCH",), (b"EXEC", b"x")):
            conversation = logged_in().command(*words)
            self.assertEqual((conversation.shared_gets(), conversation.upstreams), (encode(words), []))

    def test_watch(self) -> None:
        conversation = logged_in().command(b"WATCH", b"a").redis(OK)
        self.assertTrue(conversation.session.dedicated)
        conversation.gets()
        block = encode([b"MULTI"]) + GET + encode([b"EXEC"])
        self.assertEqual(conversation.client(block).gets(), block)
        conversation.redis(OK + b"+QUEUED\r\n*-1\r\n")
        self.assertHome(conversation)

    def test_an_unwatch_that_redis_refuses_to_a_subscriber_ends_no_watch(self) -> None:
        """The connection was given to the next session with the watched keys: its EXEC failed."""
        conversation = logged_in().command(b"WATCH", b"a").redis(OK)
        conversation.command(b"SUBSCRIBE", b"c").redis(b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:c\r\n:1\r\n")
        conversation.gets(), conversation.hears()
        self.assertEqual(conversation.command(b"UNWATCH").gets(), encode([b"ECHO", b""]))
        conversation.redis(b"-ERR Can't execute 'echo': only\r\n")
        self.assertHears(conversation, b"-ERR Can't execute 'unwatch': only\r\n")
        conversation.command(b"UNSUBSCRIBE", b"c").redis(b"*3\r\n$11\r\nunsubscribe\r\n$6\r\nblue:c\r\n:0\r\n")
        self.assertIsNone(conversation.upstream.released)
        conversation.command(b"UNWATCH").redis(OK)
        self.assertIs(conversation.upstream.released, True)

    def test_what_an_old_redis_does_not_end_is_not_left_to_the_next(self) -> None:
        """Redis 5 keeps the MULTI and the WATCH if it answers BUSY or OOM."""
        old = make_policy(builtin(), scripts=False, before_7=True)
        for begin, end in (
            ([b"MULTI"], [b"EXEC"]),
            ([b"MULTI"], [b"DISCARD"]),
            ([b"WATCH", b"a"], [b"UNWATCH"]),
        ):
            for answer, clean in ((b"-BUSY\r\n", False), (b"-EXECABORT\r\n", True), (OK, True)):
                conversation = logged_in(policy=old).command(*begin).redis(OK).command(*end).redis(answer)
                self.assertIs(conversation.upstream.released, clean)
                self.assertHears(conversation, OK, answer)
                self.assertHome(conversation)
        skipped = logged_in(policy=old).command(b"WATCH", b"a").redis(OK)
        skipped.command(b"CLIENT", b"REPLY", b"SKIP").command(b"UNWATCH").redis(OK)
        self.assertHears(skipped, OK)
        windowed = logged_in(policy=old).command(b"MULTI").redis(OK).command(b"KEYS", b"*").redis(b"+QUEUED\r\n")
        windowed.command(b"EXEC").redis(b"-BUSY\r\n")
        self.assertIs(windowed.upstream.released, False)

    def test_what_may_block(self) -> None:
        conversation = logged_in().client(GET, encode([b"BLPOP", b"q", b"0"]), GET)
        self.assertEqual(conversation.upstreams, [])
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual(conversation.gets(), encode([b"BLPOP", b"q", b"0"]) + GET)
        self.assertTrue(conversation.session.dedicated)
        conversation.redis(b"*-1\r\n+2\r\n")
        self.assertHome(conversation)
        self.assertHears(conversation, b"+1\r\n*-1\r\n+2\r\n")

    def test_readers_of_streams_block_only_where_they_say_so(self) -> None:
        plain = [b"xread", b"COUNT", b"2", b"STREAMS", b"s", b"0"]
        conversation = logged_in().command(*plain)
        self.assertEqual((conversation.shared_gets(), conversation.upstreams), (encode(plain), []))
        conversation.shared_redis(b"*-1\r\n").command(b"XREAD", b"block", b"0", b"STREAMS", b"s", b"$")
        self.assertEqual(len(conversation.upstreams), 1)

    def test_wait_is_about_what_was_written_over_the_multiplexed_connection(self) -> None:
        """The proxy writes over WAIT's connection first: Redis counts that connection's writes."""
        conversation = logged_in().command(b"WAIT", b"1", b"100")
        marker, wait = conversation.gets().split(encode([b"WAIT", b"1", b"100"]))
        self.assertEqual(wait, b"")
        self.assertEqual(marker, encode([b"SPUBLISH", b"blue:\0redisproxy", b""]))
        self.assertHears(conversation.redis(b":0\r\n:1\r\n"), b":1\r\n")
        self.assertHome(conversation)

    def test_subscriptions(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"a")
        conversation.redis(b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:a\r\n:1\r\n")
        conversation.redis(b"*3\r\n$7\r\nmessage\r\n$6\r\nblue:a\r\n$1\r\nx\r\n")
        conversation.command(b"PING").redis(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        self.assertTrue(conversation.session.dedicated)
        conversation.command(b"UNSUBSCRIBE").redis(b"*3\r\n$11\r\nunsubscribe\r\n$6\r\nblue:a\r\n:0\r\n")
        self.assertHome(conversation)
        self.assertIs(conversation.upstream.released, True)

    def test_a_refused_subscription_comes_back(self) -> None:
        for kind in (b"", b"P", b"S"):
            conversation = logged_in().command(kind + b"SUBSCRIBE", b"a", b"b")
            self.assertTrue(conversation.session.dedicated)
            self.assertHears(conversation.redis(b"-BUSY\r\n"), b"-BUSY\r\n")
            self.assertHome(conversation)
            self.assertEqual(conversation.client(GET).shared_gets(), GET)
            self.assertIn(b"sub=0 psub=0 ssub=0 ", conversation.command(b"CLIENT", b"INFO").shared_redis(b"+1\r\n").hears())

    def test_a_pattern_that_redis_is_not_told_of_comes_back(self) -> None:
        conversation = logged_in()
        conversation.permits_at_once = False
        conversation.command(b"PSUBSCRIBE", b"a*").finish(Unavailable())
        self.assertHome(conversation)

    def test_a_pattern_keeps_the_upstream_connection_while_redis_is_told_of_it(self) -> None:
        conversation = logged_in()
        conversation.permits_at_once = False
        conversation.command(b"PSUBSCRIBE", b"a*").session.client_slow(True)
        conversation.session.client_slow(False)
        self.assertTrue(conversation.session.dedicated)
        conversation.finish(None)
        self.assertEqual(conversation.gets(), encode([b"PSUBSCRIBE", b"blue:a*"]))

    def test_a_command_that_is_too_large_to_be_read_whole(self) -> None:
        large = encode([b"SET", b"a", b"x" * 100_000])
        conversation = logged_in().client(GET, large[:70_000])
        self.assertEqual(conversation.upstreams, [])
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual(conversation.gets(), large[:70_000])
        conversation.client(large[70_000:])
        self.assertEqual(conversation.gets(), large[70_000:])
        self.assertTrue(conversation.session.dedicated)
        self.assertHears(conversation.redis(OK), b"+1\r\n", OK)
        self.assertHome(conversation)
        self.assertIs(conversation.upstream.released, True)

    def test_what_is_refused_keeps_no_upstream_connection(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"__keyspace@5__:a")
        self.assertRefused(conversation, b"-NOPERM")
        self.assertHome(conversation)
        self.assertEqual(conversation.client(GET).shared_gets(), GET)

    def test_another_tenant_while_watching(self) -> None:
        conversation = logged_in().command(b"WATCH", b"a").redis(OK).command(b"AUTH", b"green")
        self.assertIs(conversation.upstream.released, False)
        conversation.command(b"BLPOP", b"q", b"0").redis(b"*-1\r\n")
        self.assertHome(conversation)

    def test_a_large_command_that_another_redis_may_not_be_sent(self) -> None:
        """If the policy changes while the command waits for its connection, the new one decides."""
        large = encode([b"EVAL", b"return 1", b"0", b"x" * 100_000])
        for first in (b"", GET):
            conversation = logged_in(upstreams_at_once=False).client(first, large[:70_000])
            conversation.use_policy(make_policy(builtin(), scripts=False))
            if first:
                conversation.shared_redis(b"+1\r\n")
                conversation.hears()
            conversation.open_upstream()
            self.assertEqual(conversation.gets(), b"")
            self.assertRefused(conversation, b"-")
            self.assertHome(conversation)
            conversation.shared_gets()
            self.assertEqual(conversation.client(large[70_000:], GET).shared_gets(), GET)

    def test_publish(self) -> None:
        conversation = logged_in().command(b"PUBLISH", b"c", b"m")
        self.assertEqual(conversation.shared_gets(), encode([b"PUBLISH", b"blue:c", b"m"]))
        conversation.shared_redis(b":0\r\n")
        conversation.command(b"PUBLISH", b"c", b"m" * 70_000)
        self.assertEqual(conversation.gets(), encode([b"PUBLISH", b"blue:c", b"m" * 70_000]))
        conversation.redis(b":0\r\n")
        self.assertHome(conversation)

    def test_none_can_be_had(self) -> None:
        large = encode([b"SET", b"a", b"x" * 100_000])
        for command, count in (
            (encode([b"MULTI"]), 1),
            (encode([b"BLPOP", b"q", b"0"]), 1),
            (encode([b"SUBSCRIBE", b"c"]), 1),
            (large, 1),
            (encode([b"PUBLISH", b"c", b"m" * 70_000]), 1),
        ):
            conversation = logged_in(upstreams_at_once=False)
            conversation.client(command[:80_000])
            self.assertTrue(conversation.waits)
            conversation.refuse_upstream("ERR none")
            self.assertHears(conversation, b"-ERR none\r\n")
            conversation.client(command[80_000:], GET)
            self.assertEqual(conversation.shared_gets(), GET)
            self.assertHears(conversation.shared_redis(b"+1\r\n"), b"+1\r\n")
            self.assertEqual(conversation.session.commands, 2 + count)

    def test_ended_while_it_waits_for_one(self) -> None:
        for end in (lambda c: c.recheck(Snapshot(None, [])), lambda c: c.session.ending.at_once()):
            conversation = logged_in(upstreams_at_once=False)
            conversation.client(encode([b"SET", b"a", b"x" * 100_000])[:70_000])
            end(conversation)
            conversation.open_upstream()
            self.assertIs(conversation.upstream.released, True)
            self.assertEqual((conversation.gets(), conversation.tenant_pool.users), (b"", 0))

    def test_ended_in_the_middle_of_a_large_command_behind_others(self) -> None:
        conversation = logged_in().client(GET, encode([b"SET", b"a", b"x" * 100_000])[:70_000])
        conversation.recheck(Snapshot(None, []))
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.shared_redis(b"+1\r\n"), b"+1\r\n")
        self.assertEqual(conversation.closed, "revoked")

    def test_its_dedicated_connection_breaks(self) -> None:
        conversation = logged_in().command(b"BLPOP", b"q", b"0")
        conversation.session.upstream_lost()
        self.assertEqual((conversation.closed, conversation.tenant_pool.users), ("redis-lost", 0))

    def test_to_acquire_one_is_work(self) -> None:
        conversation = logged_in()
        work = conversation.session.work = WorkQueue(lambda: 0.0, lambda _: None).of("blue")
        conversation.command(b"GET", b"a")
        self.assertEqual(work.units, bounds.WORK_BUDGET)
        conversation.shared_redis(b"$-1\r\n").command(b"BLPOP", b"a", b"0")
        self.assertEqual(work.units, bounds.WORK_BUDGET - bounds.WORK_CONNECTION - 1)
        conversation.client(encode([b"BLPOP", b"a", b"0"]))
        self.assertEqual(work.units, bounds.WORK_BUDGET - bounds.WORK_CONNECTION - 2, "it has one now")


class RedisAwayTests(SharedCase):
    def test_who_has_a_command_in_flight_is_closed(self) -> None:
        """As Redis's own client would be: only the client knows whether to send again."""
        for sent, answered in ((GET * 3, b""), (GET * 2, b"$5\r\nab"), (encode([b"CLIENT", b"REPLY", b"OFF"]) + GET, b"")):
            conversation = logged_in().client(sent).shared_redis(answered)
            conversation.tenant_pool.breaks()
            self.assertHears(conversation, answered)
            self.assertEqual((conversation.closed, conversation.tenant_pool.users), ("redis-lost", 0))

    def test_all_others_stay_and_their_commands_wait(self) -> None:
        conversation = logged_in().client(GET).shared_redis(b"+1\r\n")
        self.assertHears(conversation, b"+1\r\n")
        tenant_pool = conversation.tenant_pool
        tenant_pool.breaks()
        conversation.client(GET * 2)
        self.assertHears(conversation)
        self.assertIsNone(conversation.closed)
        tenant_pool.upstream = RecordingUpstream(conversation)
        tenant_pool.ready()
        self.assertHears(conversation.shared_redis(b"+2\r\n+3\r\n"), b"+2\r\n+3\r\n")

    def test_commands_fail_at_once_where_redis_refuses_the_tenant(self) -> None:
        conversation = logged_in()
        tenant_pool = conversation.tenant_pool
        tenant_pool.breaks()
        conversation.client(GET * 2)
        tenant_pool.goes_away("ERR away")
        self.assertHears(conversation, AWAY * 2)
        self.assertHears(conversation.client(GET), AWAY)
        tenant_pool.upstream = RecordingUpstream(conversation)
        self.assertHears(conversation.client(GET).shared_redis(b"+2\r\n"), b"+2\r\n")

    def test_who_waits_is_closed_when_the_time_is_over(self) -> None:
        for command in (GET, encode([b"BLPOP", b"q", b"0"]), encode([b"SET", b"a", b"x" * 100_000])):
            conversation = logged_in()
            conversation.tenant_pool.breaks()
            conversation.client(command)
            self.assertHears(conversation)
            conversation.tenant_pool.goes_away(closes=True)
            if conversation.closed is None:  # it waits for a connection of its own
                conversation.refuse_upstream(closes=True)
            self.assertHears(conversation)
            self.assertEqual((conversation.closed, conversation.tenant_pool.users), ("redis-away", 0))

    def test_who_sends_nothing_stays_for_longer(self) -> None:
        conversation = logged_in()
        conversation.tenant_pool.breaks()
        conversation.tenant_pool.goes_away(closes=True)
        self.assertIsNone(conversation.closed)
        self.assertEqual(conversation.client(GET).closed, "redis-away")

    def test_what_waits_goes_over_the_next_upstream_connection(self) -> None:
        conversation = logged_in()
        tenant_pool = conversation.tenant_pool
        tenant_pool.breaks()
        conversation.client(GET)
        tenant_pool.upstream = RecordingUpstream(conversation)
        tenant_pool.ready()
        self.assertEqual(conversation.shared_gets(), GET)

    def test_what_nobody_hears_is_no_answer(self) -> None:
        conversation = logged_in()
        conversation.tenant_pool.goes_away("ERR away")
        conversation.client(encode([b"CLIENT", b"REPLY", b"SKIP"]), GET * 2)
        self.assertHears(conversation, AWAY)

    def test_what_needs_a_dedicated_connection_fails_too(self) -> None:
        conversation = logged_in()
        conversation.tenant_pool.breaks()
        conversation.tenant_pool.goes_away("ERR away")
        large = encode([b"SET", b"a", b"x" * 100_000])
        block = encode([b"MULTI"]) + GET + encode([b"EXEC"])
        for command, count in (
            (encode([b"BLPOP", b"q", b"0"]), 1),
            (encode([b"MULTI"]), 1),
            (block, 3),
            (large, 1),
            (encode([b"EXEC"]), 1),
            (encode([b"PUBLISH", b"a", b"b"]), 1),
        ):
            self.assertHears(conversation.client(command), AWAY * count)
        self.assertEqual(conversation.upstreams, [])
        self.assertFalse(conversation.session.multi)


class BoundsTests(SharedCase):
    def test_an_upstream_connection_that_is_busy(self) -> None:
        conversation = logged_in()
        conversation.tenant_pool.upstream.busy = True
        conversation.client(GET)
        self.assertEqual((conversation.shared_gets(), conversation.waits), (b"", True))
        conversation.tenant_pool.ready()
        self.assertTrue(conversation.waits)  # another session was faster
        conversation.tenant_pool.upstream.busy = False
        conversation.tenant_pool.ready()
        self.assertEqual((conversation.shared_gets(), conversation.waits), (GET, False))

    def test_an_upstream_connection_that_was_left_is_used_until_nothing_is_pending(self) -> None:
        conversation = logged_in().client(GET)
        old = conversation.tenant_pool.upstream
        conversation.tenant_pool.upstream = RecordingUpstream(conversation)
        conversation.client(GET)
        self.assertEqual((old.sent, conversation.shared_gets()), (GET, b""))
        old.pending.received(b"+1\r\n")
        self.assertEqual(conversation.shared_gets(), GET)

    def test_a_client_that_does_not_read_moves_to_a_dedicated_connection(self) -> None:
        conversation = logged_in()
        upstream = conversation.tenant_pool.upstream
        behind: list[int] = []
        upstream.slow_reader = lambda session, size: behind.append(size)
        upstream.read_everything = lambda session: behind.clear()
        conversation.client(GET * 2)
        conversation.session.client_slow(True)
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual(behind, [4])
        conversation.client(GET)
        self.assertEqual((conversation.shared_gets(), conversation.upstreams), (GET * 2, []))
        conversation.shared_redis(b"+2\r\n")
        # From now on Redis keeps the replies that the client does not read.
        self.assertEqual(conversation.gets(), GET)
        self.assertTrue(conversation.upstream.paused)
        conversation.session.client_slow(False)
        self.assertEqual((behind, conversation.upstream.paused), ([], False))
        conversation.redis(b"+3\r\n")
        self.assertHome(conversation)
        self.assertHears(conversation, b"+1\r\n+2\r\n+3\r\n")

    def test_an_upstream_connection_that_is_left_for_what_a_client_did_not_read_is_sent_nothing_more(self) -> None:
        """If its last reply exceeds the backlog's bound, the connection is released at once, and
        the command behind that reply goes over another one.
        """
        conversation = logged_in().client(GET, encode([b"HELLO", b"2", b"AUTH", b"blue", b"blue"]), GET)
        left = conversation.tenant_pool
        old = left.upstream

        def slow_reader(session: object, size: int) -> None:
            left.upstream = RecordingUpstream(conversation)
            old.release(clean=True)

        old.slow_reader = slow_reader
        old.read_everything = lambda session: None
        conversation.session.client_slow(True)
        old.pending.received(b"+1\r\n")
        self.assertEqual(old.sent, GET)
        self.assertEqual(conversation.shared_gets(), encode([b"HELLO", b"2"]))
        conversation.session.client_slow(False)
        conversation.shared_redis(b"*0\r\n")
        self.assertEqual(conversation.shared_gets(), GET)
        conversation.shared_redis(b"+2\r\n")
        self.assertHears(conversation, b"+1\r\n*0\r\n+2\r\n")
        self.assertEqual([tenant_pool.users for tenant_pool in conversation.pools], [0, 1])

    def test_a_client_that_does_not_read_is_counted_where_it_fell_behind(self) -> None:
        """Its backlog counts at the connection that gave it more to read at last, and at no other:
        otherwise the first one would stay paused for ever.
        """
        conversation = logged_in().client(GET, encode([b"HELLO", b"3"]))
        behind: dict[str, int] = {}

        def count(name: str) -> RecordingUpstream:
            upstream = conversation.tenant_pool.upstream
            upstream.slow_reader = lambda session, size: behind.update({name: behind.get(name, 0) + size})
            upstream.read_everything = lambda session: behind.pop(name)
            return upstream

        old = count("first")
        conversation.session.client_slow(True)
        old.pending.received(b"+1\r\n")
        self.assertEqual(behind, {"first": 4})
        self.assertEqual(conversation.shared_gets(), encode([b"HELLO", b"3"]))
        count("second")
        conversation.shared_redis(b"%0\r\n")
        self.assertEqual(behind, {"second": 4})
        conversation.session.client_slow(False)
        self.assertEqual(behind, {})

    def test_a_client_that_does_not_read_and_sends_nothing_stays(self) -> None:
        conversation = logged_in().client(GET)
        conversation.tenant_pool.upstream.slow_reader = conversation.tenant_pool.upstream.read_everything = lambda *_: None
        conversation.session.client_slow(True)
        conversation.shared_redis(b"+1\r\n")
        conversation.session.client_slow(False)
        self.assertEqual(conversation.upstreams, [])

    def test_a_client_that_does_not_read_while_no_upstream_connection_can_be_had(self) -> None:
        conversation = logged_in(upstreams_at_once=False)
        conversation.session.client_slow(True)
        conversation.client(GET)
        conversation.refuse_upstream("ERR none")
        # It may read nothing before it has written all, so it is not stopped.
        self.assertEqual(conversation.shared_gets(), GET)
        conversation.tenant_pool.upstream.slow_reader = lambda *_: None
        conversation.client(GET)
        self.assertEqual((conversation.shared_gets(), len(conversation.asked)), (b"", 2))
        conversation.shared_redis(b"+1\r\n")
        self.assertEqual(len(conversation.asked), 3)  # another attempt for the next command
        conversation.refuse_upstream("ERR none")
        self.assertHears(conversation, b"+1\r\n")
        self.assertEqual(conversation.shared_gets(), GET)

    def test_a_client_that_does_not_read_is_told_that_redis_is_busy(self) -> None:
        """It may read nothing before it has written all, as above."""
        conversation = logged_in()
        conversation.tenant_pool.upstream = Unavailable("BUSY a script runs")
        conversation.session.client_slow(True)
        conversation.client(GET, GET)
        conversation.client(GET)
        self.assertHears(conversation, b"-BUSY a script runs\r\n" * 3)

    def test_a_client_that_has_read_all_before_it_is_known_that_no_upstream_connection_can_be_had(self) -> None:
        conversation = logged_in(upstreams_at_once=False)
        conversation.session.client_slow(True)
        conversation.client(GET)
        conversation.session.client_slow(False)
        conversation.refuse_upstream("ERR none")
        self.assertEqual((conversation.shared_gets(), conversation.waits), (GET, False))

    def test_a_client_that_has_read_all_needs_no_upstream_connection_of_its_own(self) -> None:
        before = logged_in(upstreams_at_once=False)
        before.session.client_slow(True)
        before.client(GET)
        before.session.client_slow(False)
        before.open_upstream()
        after = logged_in()
        after.session.client_slow(True)
        after.client(GET).redis(b"+1\r\n")
        self.assertTrue(after.session.dedicated)
        after.session.client_slow(False)
        for conversation in (before, after):
            self.assertHome(conversation)
        self.assertEqual(before.shared_gets(), GET)

    def test_the_connection_of_a_client_that_does_not_read_is_lost(self) -> None:
        """It is closed only if replies are pending there: all others have come."""
        for pending in (False, True):
            conversation = logged_in()
            conversation.session.client_slow(True)
            conversation.client(GET)
            if not pending:
                conversation.redis(b"+1\r\n")
            self.assertTrue(conversation.session.dedicated)
            conversation.session.upstream_lost()
            self.assertEqual(conversation.closed, "redis-lost" if pending else None)
            if not pending:
                conversation.session.client_slow(False)
                conversation.client(GET)
                self.assertIsNone(conversation.session.dedicated)
                self.assertEqual(conversation.shared_gets(), GET)

    def test_a_client_without_memory_is_closed(self) -> None:
        conversation = logged_in().client(GET)
        conversation.session.close_for_memory()
        self.assertEqual((conversation.closed, conversation.tenant_pool.users), ("out-of-memory", 0))
        conversation.shared_redis(b"+1\r\n")
        self.assertHears(conversation)

    def test_lookahead_of_a_transaction_has_the_limit_of_whole_commands(self) -> None:
        with mock.patch.object(bounds, "WHOLE_COMMAND_BYTES", 100):
            conversation = logged_in().client(encode([b"MULTI"]), encode([b"SET", b"a", b"x" * 200]), encode([b"EXEC"]))
        self.assertEqual(conversation.shared_gets(), b"")
        self.assertEqual(conversation.gets()[:15], encode([b"MULTI"]))
