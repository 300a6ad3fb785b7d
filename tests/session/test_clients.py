"""CLIENT LIST, CLIENT KILL, ROLE, MODULE LIST and the like, in conversations with one session."""

from __future__ import annotations

import json
import unittest
from unittest import mock

from redisproxy import bounds
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.session.client_filter import ClientFilter, FilterError, parse
from redisproxy.session.client_visit import ClientVisit
from redisproxy.session.commands_standing import modules_reply

from ..support.conversations import Conversation, ConversationCase, logged_in

OLD = make_policy(builtin(), scripts=True, databases=True, before_7=True)


def sibling(number: int, **state: object) -> Conversation:
    """Another session of the same tenant."""
    conversation = logged_in()
    conversation.id = number
    for name, value in state.items():
        setattr(conversation, name, value)
    return conversation


class FilterTests(unittest.TestCase):
    def names(self, words: bytes, *, kills: bool = True, asks: int = 1) -> list[int]:
        """Returns which of four sessions the filter names: 1 asks, 2 is subscribed, 3 is old and
        has other addresses, 4 has nothing special.
        """
        found = parse(words.split(), b"blue", kills)
        copied = ClientFilter.load(json.loads(json.dumps(found.dump())))
        self.assertEqual(copied, found)
        sessions = [
            sibling(1),
            sibling(2).command(b"SUBSCRIBE", b"news"),
            sibling(3, age=500, peer="192.0.2.3:3", local="192.0.2.8:1"),
            sibling(4, peer="a Unix socket"),
        ]
        return [each.id for each in sessions if copied.names(each.session, asks)]

    def test_which_sessions_are_named(self) -> None:
        for words, ids in (
            (b"ID 4", [4]),
            (b"id 3 4 9", [3, 4]),
            (b"ID 3 ID 4", [3, 4]),
            (b"ID 1", []),
            (b"ID 1 SKIPME no", [1]),
            (b"SKIPME yes", [2, 3, 4]),
            (b"SKIPME NO", [1, 2, 3, 4]),
            (b"ADDR 192.0.2.3:3", [3]),
            (b"ADDR ?:0", [4]),
            (b"LADDR 192.0.2.9:6379", [2, 4]),
            (b"TYPE normal", [3, 4]),
            (b"TYPE pubsub", [2]),
            (b"TYPE PubSub TYPE normal", []),
            (b"TYPE master", []),
            (b"TYPE replica", []),
            (b"USER blue", [2, 3, 4]),
            (b"MAXAGE 13", [3]),
            (b"MAXAGE 12", [2, 3, 4]),
            (b"ID 2 3 4 TYPE normal MAXAGE 13", [3]),
            (b"ID 2 TYPE normal", []),
        ):
            self.assertEqual(self.names(words), ids, words)
        self.assertEqual(self.names(b"", kills=False), [1, 2, 3, 4])
        self.assertEqual(self.names(b"ID -1 1 3 0", kills=False), [1, 3])

    def test_malformed_ones(self) -> None:
        for words, error in (
            (b"ID", b"-ERR syntax error"),
            (b"nosuch x", b"-ERR syntax error"),
            (b"ID 3 x", b"-ERR syntax error"),
            (b"SKIPME maybe", b"-ERR syntax error"),
            (b"ID x", b"-ERR client-id should be greater than 0"),
            (b"ID 0", b"-ERR client-id should be greater than 0"),
            (b"ID 99999999999999999999", b"-ERR client-id should be greater than 0"),
            (b"TYPE nosuch", b"-ERR Unknown client type 'nosuch'"),
            (b"USER green", b"-ERR No such user 'green'"),
            (b"MAXAGE x", b"-ERR maxage is not an integer or out of range"),
            (b"MAXAGE -1", b"-ERR maxage should be greater than 0"),
        ):
            with self.assertRaises(FilterError) as caught:
                parse(words.split(), b"blue", kills=True)
            self.assertEqual(caught.exception.reply, error + b"\r\n", words)
        self.assertRaises(FilterError, parse, [b"ID", b"x"], b"blue", kills=False)

    def test_a_filter_is_no_larger_than_what_it_means(self) -> None:
        """14,000 types were compared with each session, and made a new tuple for each of them."""
        found = parse([b"TYPE", b"normal", b"TYPE", b"pubsub"] * 1000, b"blue", kills=False)
        self.assertEqual(found.types, {False, True})
        self.assertEqual(ClientFilter.load(json.loads(json.dumps(found.dump()))), found)

    def test_a_filter_that_waits_is_small(self) -> None:
        """A tenant has thousands of sessions, whose filters wait for each other's visits."""
        most = bounds.CLIENT_FILTER_IDS
        self.assertEqual(len(parse([b"ID", *(b"%d" % number for number in range(1, most + 1)), b"1"], b"", True).ids), most)
        for words in ([b"ID", *(b"%d" % number for number in range(1, most + 2))], [b"ID", b"%d"] * (most + 1)):
            words = [word.replace(b"%d", b"%d" % number) for number, word in enumerate(words, 1)]
            with self.assertRaises(FilterError) as caught:
                parse(words, b"", kills=False)
            self.assertEqual(caught.exception.reply, b"-ERR the filter ID takes at most 1000 different ids here\r\n")
        self.assertEqual(parse([b"TYPE", b"normal", b"TYPE", b"master"] * 500, b"", kills=False).types, {False, None})
        self.assertEqual(self.names(b"ADDR %b" % (b"x" * 200)), [])
        for name in (b"ADDR", b"LADDR"):
            self.assertLess(len(json.dumps(parse([name, b"x" * 100_000], b"", kills=True).dump())), 500)


class ListTests(ConversationCase):
    def listed(self, conversation: Conversation, *words: bytes) -> bytes:
        conversation.command(b"CLIENT", b"LIST", *words)
        self.assertTrue(conversation.waits)
        self.assertHears(conversation)
        conversation.finish_visit()
        self.assertFalse(conversation.waits)
        return conversation.hears()

    def test_all_of_the_tenant_in_the_order_of_their_ids(self) -> None:
        conversation = logged_in()
        named = sibling(3).command(b"CLIENT", b"SETNAME", b"bull:x")
        blocked = sibling(20).command(b"BLPOP", b"a", b"0")
        conversation.siblings = [blocked.session, named.session]
        size, three, seven, twenty, end, rest = self.listed(conversation).split(b"\n")
        self.assertEqual((three[:5], seven[:5], twenty[:6]), (b"id=3 ", b"id=7 ", b"id=20 "))
        self.assertEqual(size, b"$%d\r" % sum(len(line) + 1 for line in (three, seven, twenty)))
        self.assertEqual((end, rest), (b"\r", b""))
        self.assertIn(b" name=bull:x ", three)
        self.assertIn(b" cmd=client|list user=blue ", seven)
        self.assertIn(b" flags=b ", twenty)
        self.assertIn(b" cmd=NULL user=blue ", twenty)
        self.assertEqual(conversation.charged, len(three + seven + twenty) + 3)
        self.assertEqual(self.listed(conversation, b"ID", b"99"), b"$0\r\n\r\n")

    def test_a_subscriber_is_found_by_its_command(self) -> None:
        """redis-py's own suite finds the connection to kill by it."""
        conversation = logged_in()
        subscribers = []
        for number, words in ((3, (b"SUBSCRIBE", b"a")), (5, (b"PSUBSCRIBE", b"a*"))):
            subscriber = sibling(number).command(*words)
            subscribers.append(subscriber)
        conversation.siblings = [subscriber.session for subscriber in subscribers]
        lines = self.listed(conversation)
        self.assertIn(b" cmd=subscribe ", lines)
        self.assertIn(b" cmd=psubscribe ", lines)

    def test_in_resp3_it_is_a_verbatim_string(self) -> None:
        conversation = logged_in(protocol=3)
        self.assertRegex(self.listed(conversation), rb"^=\d+\r\ntxt:id=7 .* resp=3 ")
        conversation.command(b"CLIENT", b"INFO")
        self.assertRegex(conversation.hears(), rb"^=\d+\r\ntxt:id=7 .* cmd=client\|info ")

    def test_it_stands_behind_pending_replies_and_before_later_ones(self) -> None:
        conversation = logged_in()
        conversation.command(b"GET", b"a").command(b"CLIENT", b"LIST", b"ID", b"99").command(b"PING")
        conversation.finish_visit()
        self.assertHears(conversation)
        conversation.redis(b"$1\r\nx\r\n+PONG\r\n")
        self.assertHears(conversation, b"$1\r\nx\r\n", b"$0\r\n\r\n", b"+PONG\r\n")

    def test_a_list_that_is_too_long_is_an_error(self) -> None:
        conversation = logged_in()
        conversation.siblings = [sibling(number).session for number in range(10, 20)]
        with mock.patch.object(bounds, "CLIENT_LIST_BYTES", 1000):
            self.assertRegex(self.listed(conversation), rb"^-ERR the answer has more than 1000 bytes")
        self.assertEqual(conversation.charged, 0)

    def test_it_is_refused_in_multi_and_by_the_operator(self) -> None:
        denied = make_policy(builtin(), scripts=True, databases=True, deny=frozenset((b"CLIENT|LIST",)))
        self.assertRefused(logged_in(policy=denied).command(b"CLIENT", b"LIST"), b"-NOPERM ")
        conversation = logged_in().command(b"MULTI").redis(b"+OK\r\n")
        conversation.hears()
        conversation.command(b"CLIENT", b"LIST").redis(b"-ERR\r\n")
        self.assertRefused(conversation, b"-NOPERM ")

    def test_results_of_other_processes(self) -> None:
        visit = ClientVisit(ClientFilter(), False, 7)
        visit.see(sibling(9).session)
        other = ClientVisit.of(json.loads(json.dumps(visit.request())))
        named = sibling(8)
        named.session.name = b"\xfft"
        other.see(named.session)
        visit.add_result(json.loads(json.dumps(other.result())))
        assert visit.text is not None
        self.assertRegex(visit.text, rb"(?s)^id=8 .* name=\xfft .*\nid=9 .*\n$")


class KillTests(ConversationCase):
    def killed(self, conversation: Conversation, *words: bytes) -> bytes:
        conversation.command(b"CLIENT", b"KILL", *words)
        conversation.finish_visit()
        return conversation.hears()

    def test_pending_replies_never_come(self) -> None:
        """A killed session's command may be run, but its reply is not passed on, not even a part
        that has come.
        """
        conversation, other = logged_in(), sibling(9)
        conversation.siblings = [other.session]
        other.command(b"GET", b"a").command(b"GET", b"b").redis(b"$1\r\nx\r\n")
        other.hears()
        upstream = other.upstream
        self.assertEqual(self.killed(conversation, b"ID", b"9"), b":1\r\n")
        self.assertEqual((other.closed, upstream.released), ("killed", False))
        self.assertTrue(other.session.ended)
        upstream.pending.received(b"$1\r\ny\r\n")
        other.command(b"PING")
        self.assertHears(other)

    def test_a_blocked_command_and_what_waits_end(self) -> None:
        conversation, blocked = logged_in(), sibling(9)
        waiting = Conversation(upstreams_at_once=False)
        waiting.id = 10
        waiting.command(b"AUTH", b"blue")
        waiting.open_upstream()
        blocked.command(b"BLPOP", b"a", b"0").command(b"SET", b"a", b"x")
        blocked.gets()
        waiting.command(b"CLIENT", b"LIST")
        step = waiting.step
        conversation.siblings = [blocked.session, waiting.session]
        self.assertEqual(self.killed(conversation, b"TYPE", b"normal"), b":2\r\n")
        self.assertEqual((blocked.closed, waiting.closed), ("killed", "killed"))
        self.assertIs(blocked.upstream.released, False)
        assert step is not None
        self.assertFalse(step.waits)

    def test_itself_after_the_reply(self) -> None:
        for words, reply in (((b"ID", b"7", b"SKIPME", b"no"), b":1\r\n"), ((b"192.0.2.1:5555",), b"+OK\r\n")):
            conversation = logged_in()
            self.assertEqual(self.killed(conversation, *words), reply)
            self.assertEqual(conversation.closed, "killed")
        conversation = logged_in()
        self.assertEqual(self.killed(conversation, b"ID", b"7"), b":0\r\n")
        self.assertIsNone(conversation.closed)

    def test_itself_only_when_its_pending_replies_have_come(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        self.assertEqual(self.killed(conversation, b"SKIPME", b"no"), b"")
        self.assertIsNone(conversation.closed)
        conversation.redis(b"$1\r\nx\r\n")
        self.assertHears(conversation, b"$1\r\nx\r\n:1\r\n")
        self.assertEqual(conversation.closed, "killed")

    def test_nobody(self) -> None:
        self.assertEqual(self.killed(logged_in(), b"192.0.2.1:1"), b"-ERR No such client\r\n")
        self.assertEqual(self.killed(logged_in(), b"ID", b"99"), b":0\r\n")
        self.assertRefused(logged_in().command(b"CLIENT", b"KILL"), b"-ERR wrong number of arguments for 'client|kill'")
        self.assertRefused(logged_in(policy=OLD).command(b"CLIENT", b"KILL"), b"-ERR syntax error")
        self.assertRefused(logged_in().command(b"CLIENT", b"KILL", b"USER", b"green"), b"-ERR No such user 'green'")


class StandingTests(ConversationCase):
    def test_role_and_whoami(self) -> None:
        self.assertHears(logged_in().command(b"Role"), b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")
        self.assertHears(logged_in().command(b"acl", b"WhoAmI"), b"$4\r\nblue\r\n")
        for words in ([b"ACL", b"LIST"], [b"MODULE", b"LOAD", b"x"], [b"CLIENT", b"PAUSE", b"1"]):
            self.assertRefused(logged_in().command(*words), b"-NOPERM ")
        self.assertRefused(logged_in().command(b"CLUSTER", b"NODES"), b"-ERR This instance has cluster support disabled")

    def test_in_multi(self) -> None:
        for words in ([b"ROLE"], [b"ACL", b"WHOAMI"], [b"MODULE", b"LIST"], [b"CLUSTER", b"INFO"]):
            conversation = logged_in().command(b"MULTI").redis(b"+OK\r\n")
            conversation.hears(), conversation.gets()
            self.assertRefused(conversation.command(*words).redis(b"-ERR\r\n"), b"-ERR ")
            self.assertEqual(conversation.gets(), b"*1\r\n$6\r\nSELECT\r\n")

    def test_modules_without_files_and_arguments(self) -> None:
        conversation = logged_in().command(b"MODULE", b"LIST")
        self.assertEqual(conversation.questions, [[[b"MODULE", b"LIST"]]])
        answer = [[b"name", b"bf", b"ver", 7, b"path", b"/secret", b"args", [b"secret"]], [b"odd"], 7]
        conversation.finish([answer])
        entry = b"$4\r\nname\r\n$2\r\nbf\r\n$3\r\nver\r\n:7\r\n"
        empty = b"$4\r\npath\r\n$0\r\n\r\n$4\r\nargs\r\n*0\r\n"
        self.assertHears(conversation, b"*1\r\n*8\r\n", entry, empty)
        self.assertEqual(modules_reply(answer, 3, before_7=False), b"*1\r\n%4\r\n" + entry + empty)
        self.assertEqual(modules_reply(answer, 2, before_7=True), b"*1\r\n*4\r\n" + entry)
        self.assertEqual(modules_reply(None, 2, before_7=True), b"*0\r\n")
