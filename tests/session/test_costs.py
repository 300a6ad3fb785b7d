"""Tests the checks of arguments that cost, and the limit of open transactions."""

from __future__ import annotations

from redisproxy import bounds
from redisproxy.policy.costs import CommandLimits
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import encode
from redisproxy.session.costs import CHECKS, Watched
from redisproxy.session.errors import SPOILER

from ..support.conversations import Conversation, ConversationCase, logged_in


def policy(keys: int = 20, count: int = 50, transaction: int = 1000) -> object:
    return make_policy(builtin(), scripts=True, databases=True, limits=CommandLimits(keys, count, transaction))


def keys(number: int) -> list[bytes]:
    return [b"k%d" % n for n in range(number)]


def n(number: int) -> bytes:
    return b"%d" % number


#: By the number of keys: the command with so many.
NAMED = {
    b"BLPOP": lambda k: [b"BLPOP", *k, b"1"],
    b"BRPOP": lambda k: [b"BRPOP", *k, b"1"],
    b"BZPOPMIN": lambda k: [b"BZPOPMIN", *k, b"1"],
    b"BZPOPMAX": lambda k: [b"BZPOPMAX", *k, b"1"],
    b"BLMPOP": lambda k: [b"BLMPOP", b"1", n(len(k)), *k, b"LEFT", b"COUNT", b"7"],
    b"BZMPOP": lambda k: [b"BZMPOP", b"1", n(len(k)), *k, b"MIN"],
    b"XREAD": lambda k: [b"XREAD", b"BLOCK", b"1", b"streams", *k, *[b"$"] * len(k)],
    b"XREADGROUP": lambda k: [b"XREADGROUP", b"GROUP", b"g", b"c", b"STREAMS", *k, *[b">"] * len(k)],
    b"PFCOUNT": lambda k: [b"PFCOUNT", *k],
    b"PFMERGE": lambda k: [b"PFMERGE", b"to", *k],
    b"SDIFF": lambda k: [b"SDIFF", *k],
    b"SINTER": lambda k: [b"SINTER", *k],
    b"SUNION": lambda k: [b"sunion", *k],
    b"SDIFFSTORE": lambda k: [b"SDIFFSTORE", b"to", *k],
    b"SINTERSTORE": lambda k: [b"SINTERSTORE", b"to", *k],
    b"SUNIONSTORE": lambda k: [b"SUNIONSTORE", b"to", *k],
    b"BITOP": lambda k: [b"BITOP", b"OR", b"to", *k],
    b"SINTERCARD": lambda k: [b"SINTERCARD", n(len(k)), *k, b"LIMIT", b"1"],
    b"ZDIFF": lambda k: [b"ZDIFF", n(len(k)), *k, b"WITHSCORES"],
    b"ZINTER": lambda k: [b"ZINTER", n(len(k)), *k, b"WEIGHTS", *[b"2"] * len(k)],
    b"ZINTERCARD": lambda k: [b"ZINTERCARD", n(len(k)), *k],
    b"ZUNION": lambda k: [b"ZUNION", n(len(k)), *k, b"AGGREGATE", b"MAX"],
    b"ZDIFFSTORE": lambda k: [b"ZDIFFSTORE", b"to", n(len(k)), *k],
    b"ZINTERSTORE": lambda k: [b"ZINTERSTORE", b"to", n(len(k)), *k],
    b"ZUNIONSTORE": lambda k: [b"ZUNIONSTORE", b"to", n(len(k)), *k, b"WEIGHTS", *[b"2"] * len(k)],
    b"SORT": lambda k: [b"SORT", k[0], *(word for key in k[1:] for word in (b"get", key))],
    b"SORT_RO": lambda k: [b"SORT_RO", k[0], *(word for key in k[1:] for word in (b"GET", key))],
}
#: They repeat keys at no one's expense but the tenant's own connection.
BLOCKING = (b"BLPOP", b"BRPOP", b"BZPOPMIN", b"BZPOPMAX", b"BLMPOP", b"BZMPOP", b"XREAD", b"XREADGROUP")


class KeysTests(ConversationCase):
    def test_each_command_is_tested(self) -> None:
        others = {b"WATCH", b"LOLWUT", b"HRANDFIELD", b"SRANDMEMBER", b"VRANDMEMBER", b"ZRANDMEMBER"}
        self.assertEqual(set(CHECKS), set(NAMED) | others)

    def test_up_to_the_limit_redis_gets_it_and_not_beyond(self) -> None:
        for name, make in NAMED.items():
            conversation = logged_in(policy=policy())
            words = make(keys(20))
            conversation.command(*words)
            self.assertEqual(conversation.gets(), encode(words))
            conversation = logged_in(policy=policy()).command(*make(keys(21)))
            self.assertEqual(conversation.gets(), b"")
            error = b"-ERR '%b' names 21 keys: at most 20 are allowed in one command\r\n" % name.lower()
            self.assertHears(conversation, error)
            self.assertEqual(conversation.session.refused, 1)

    def test_inline(self) -> None:
        conversation = logged_in(policy=policy())
        conversation.client(b"SUNION " + b" ".join(keys(20)) + b"\r\n").client(b"SUNION " + b" ".join(keys(21)) + b"\r\n")
        self.assertEqual(conversation.gets(), encode([b"SUNION", *keys(20)]))
        conversation.redis(b"*0\r\n")
        self.assertHears(conversation, b"*0\r\n-ERR 'sunion' names 21 keys: at most 20 are allowed in one command\r\n")

    def test_one_key_may_be_repeated_a_few_times(self) -> None:
        most = bounds.KEY_REPEATED
        for name in NAMED.keys() - set(BLOCKING):
            conversation = logged_in(policy=policy(keys=1000))
            words = NAMED[name]([b"a", *keys(50), *[b"a"] * (most - 1)])
            if name.startswith(b"SORT"):
                words = NAMED[name]([b"first", *keys(50), *[b"a"] * most])
            conversation.command(*words)
            self.assertEqual(conversation.gets(), encode(words), name)
            conversation.redis(b":0\r\n").hears()
            conversation.command(*NAMED[name]([b"first", *[b"a"] * (most + 1)]))
            self.assertEqual(conversation.gets(), b"", name)
            error = b"-ERR '%b' names one key 17 times: at most 16 times are allowed in one command\r\n" % name.lower()
            self.assertHears(conversation, error)
        for name in BLOCKING:
            conversation = logged_in(policy=policy(keys=1000)).command(*NAMED[name]([b"a"] * 100))
            self.assertNotEqual(conversation.gets(), b"", name)

    def test_without_a_limit(self) -> None:
        for name, make in NAMED.items():
            words = make([b"a"] * 2000)
            conversation = logged_in(policy=policy(keys=0)).command(*words)
            self.assertEqual(conversation.gets(), encode(words), name)

    def test_what_is_malformed_is_refused_by_redis(self) -> None:
        many = keys(40)
        for words in (
            [b"ZUNION", b"x", *many],
            [b"ZUNION", b"-5", *many],
            [b"ZUNION", b"+40", *many],
            [b"ZUNION", b"040", *many],
            [b"ZUNION", b"99999999999999999999", *many],
            [b"ZUNION", b"41", *many],
            [b"ZUNIONSTORE", b"to", b"9223372036854775807", *many],
            [b"BZMPOP", b"1", b"42", *many, b"MIN"],
            [b"SRANDMEMBER", b"s", b"-1000000000", b"x"],
            [b"HRANDFIELD", b"s", b"-1000000000", b"x"],
            [b"ZRANDMEMBER", b"s", b"-1000000000", b"WITHSCORES", b"x"],
            [b"ZUNIONSTORE", b"to", b"x", *many],
            [b"BLMPOP", b"1", b"x", *many],
            [b"XREAD", b"COUNT", *many],
            [b"BITOP", b"OR"],
            [b"BLPOP", b"a"],
        ):
            conversation = logged_in(policy=policy()).command(*words)
            self.assertEqual(conversation.gets(), encode(words))

    def test_in_a_transaction_it_makes_exec_fail(self) -> None:
        conversation = logged_in(policy=policy()).command(b"MULTI").command(*NAMED[b"BLPOP"](keys(21))).command(b"EXEC")
        self.assertEqual(conversation.gets(), encode([b"MULTI"]) + SPOILER + encode([b"EXEC"]))


class WatchTests(ConversationCase):
    def watch(self, conversation: Conversation, *names: bytes) -> bool:
        """Returns whether Redis got a WATCH of these keys."""
        sent = conversation.command(b"WATCH", *names).gets() == encode([b"WATCH", *names])
        if sent:
            conversation.redis(b"+OK\r\n")
            self.assertHears(conversation, b"+OK\r\n")
        else:
            self.assertRefused(conversation, b"-ERR this connection would watch ")
        return sent

    def test_keys_add_up_until_the_watch_ends(self) -> None:
        for end, replies in (
            ([[b"UNWATCH"]], b"+OK\r\n"),
            ([[b"MULTI"], [b"EXEC"]], b"+OK\r\n*0\r\n"),
            ([[b"MULTI"], [b"DISCARD"]], b"+OK\r\n+OK\r\n"),
        ):
            conversation = logged_in(policy=policy())
            self.assertTrue(self.watch(conversation, *keys(12)))
            self.assertTrue(self.watch(conversation, *keys(20)))
            self.assertFalse(self.watch(conversation, b"another"))
            self.assertTrue(self.watch(conversation, b"k3"), "it is watched already")
            for words in end:
                conversation.command(*words)
            conversation.redis(replies)
            conversation.hears(), conversation.gets()
            self.assertTrue(self.watch(conversation, b"another", *keys(19)))
            self.assertFalse(self.watch(conversation, b"k19"))

    def test_the_error_names_the_limit(self) -> None:
        conversation = logged_in(policy=policy()).command(b"WATCH", *keys(21))
        self.assertHears(
            conversation,
            b"-ERR this connection would watch 21 keys: at most 20 are allowed until EXEC, DISCARD or UNWATCH\r\n",
        )
        self.assertFalse(conversation.session.watching)

    def test_a_loop_over_the_same_keys_never_ends(self) -> None:
        conversation = logged_in(policy=policy())
        for _ in range(100):
            self.assertTrue(self.watch(conversation, b"a", b"b", b"a"))

    def test_inside_multi_redis_refuses_it(self) -> None:
        conversation = logged_in(policy=policy()).command(b"MULTI").command(b"WATCH", *keys(30))
        self.assertEqual(conversation.gets(), encode([b"MULTI"]) + encode([b"WATCH", *keys(30)]))

    def test_without_a_limit(self) -> None:
        conversation = logged_in(policy=policy(keys=0))
        self.assertTrue(self.watch(conversation, *keys(5000)))
        self.assertIsNone(conversation.session.watched)

    def test_what_is_kept(self) -> None:
        watched = Watched()
        for names in ([b"a", b"b"], [b"b", b"c"], [b"c"], [b"d", b"d"]):
            watched.add(watched.new(names))
        self.assertEqual(len(watched), 4)
        self.assertEqual(watched.new([b"a", b"b", b"c", b"d"]), [])
        self.assertEqual(len(watched.new([b"a", b"e"])), 1)


class CountTests(ConversationCase):
    def test_negative_counts(self) -> None:
        for name in (b"SRANDMEMBER", b"HRANDFIELD", b"ZRANDMEMBER", b"VRANDMEMBER", b"srandmember"):
            for count in (b"-50", b"0", b"7", b"99999999", b"x", b"-", b"-051", b" -51", b"", b"-99999999999999999999"):
                conversation = logged_in(policy=policy()).command(name, b"k", count)
                self.assertEqual(conversation.gets(), encode([name, b"k", count]))
            conversation = logged_in(policy=policy()).command(name, b"k", b"-51", b"WITHVALUES")
            self.assertEqual(conversation.gets(), b"")
            self.assertHears(
                conversation,
                b"-ERR the count of '%b' is -51: at least -50 is allowed, or a positive number\r\n" % name.lower(),
            )
            conversation.command(name, b"k").command(name)
            self.assertEqual(conversation.gets(), encode([name, b"k"]) + encode([name]))
            conversation = logged_in(policy=policy(count=0)).command(name, b"k", b"-99999999")
            self.assertEqual(conversation.gets(), encode([name, b"k", b"-99999999"]))


class LolwutTests(ConversationCase):
    def test_only_the_usual_picture(self) -> None:
        for words in ([b"LOLWUT"], [b"lolwut", b"version", b"5"]):
            self.assertEqual(logged_in().command(*words).gets(), encode(words))
        for more in ([b"1000"], [b"VERSION", b"6", b"1000", b"1000"], [b"1000", b"1000"], [b"VERSION"]):
            conversation = logged_in(policy=policy(0, 0, 0)).command(b"LOLWUT", *more)
            self.assertEqual(conversation.gets(), b"")
            self.assertHears(
                conversation,
                b"-NOPERM 'lolwut' takes no arguments here, or VERSION and a number: a large picture keeps Redis busy\r\n",
            )


ERROR = b"-ERR the open transactions of this namespace have more than 1000 bytes: DISCARD this one, and use smaller ones\r\n"
QUEUED = b"+QUEUED\r\n"
#: 100 bytes
COMMAND = encode([b"SET", b"k", b"x" * 73])


class TransactionTests(ConversationCase):
    def setUp(self) -> None:
        self.assertEqual(len(COMMAND), 100)

    def begun(self, **options: object) -> Conversation:
        """Returns a session with an open MULTI."""
        conversation = logged_in(policy=policy(**options)).command(b"MULTI").redis(b"+OK\r\n")
        self.assertHears(conversation, b"+OK\r\n")
        conversation.gets()
        return conversation

    def size(self, conversation: Conversation) -> int:
        return conversation.transactions(conversation.session.tenant).size

    def test_up_to_the_limit_it_is_sent_and_not_beyond(self) -> None:
        conversation = self.begun()
        for _ in range(10):
            conversation.client(COMMAND)
        self.assertEqual(conversation.gets(), COMMAND * 10)
        conversation.redis(QUEUED * 10)
        self.assertHears(conversation, QUEUED * 10)
        conversation.client(encode([b"PING"]))
        self.assertEqual(conversation.gets(), SPOILER)
        conversation.redis(b"-ERR wrong\r\n")
        self.assertHears(conversation, ERROR)
        # All others are refused, whatever they are, and Redis gets none of them.
        conversation.client(COMMAND * 3 + encode([b"BLPOP", b"a", b"0"]) + b"PING\r\n" + encode([b"NOSUCH"]))
        self.assertEqual(conversation.gets(), b"")
        self.assertHears(conversation, ERROR * 6)
        conversation.command(b"EXEC")
        self.assertEqual(conversation.gets(), encode([b"EXEC"]))
        conversation.redis(b"-EXECABORT discarded\r\n")
        self.assertHears(conversation, b"-EXECABORT discarded\r\n")
        self.assertEqual(self.size(conversation), 0)
        self.assertEqual(conversation.session.commands, 1 + 1 + 10 + 1 + 6 + 1)
        self.assertEqual(conversation.session.refused, 1 + 6)

    def test_a_run_is_sent_or_refused_as_a_whole(self) -> None:
        conversation = self.begun()
        conversation.client(COMMAND * 9)
        conversation.client(COMMAND * 2)
        self.assertEqual(conversation.gets(), COMMAND * 9 + SPOILER)
        conversation.redis(QUEUED * 9 + b"-ERR wrong\r\n")
        self.assertHears(conversation, QUEUED * 9, ERROR * 2)

    def test_each_end_gives_the_bytes_back(self) -> None:
        for words, replies in (
            ([b"EXEC"], b"*0\r\n"),
            ([b"DISCARD"], b"+OK\r\n"),
            ([b"EXEC", b"x"], b"-EXECABORT\r\n"),
        ):
            conversation = self.begun().client(COMMAND).redis(QUEUED)
            self.assertEqual(self.size(conversation), 100)
            conversation.command(*words).redis(replies)
            self.assertEqual(self.size(conversation), 0)
            self.assertIsNone(conversation.session.transaction)
        conversation = self.begun().client(COMMAND).redis(QUEUED)
        transactions = conversation.transactions(conversation.session.tenant)
        conversation.command(b"RESET")
        self.assertEqual(transactions.size, 0)
        conversation = self.begun().client(COMMAND)
        transactions = conversation.transactions(conversation.session.tenant)
        conversation.session.ending.at_once()
        conversation.session.forget()
        self.assertEqual(transactions.size, 0)

    def test_what_does_not_end_it(self) -> None:
        conversation = self.begun().client(COMMAND).redis(QUEUED)
        conversation.command(b"DISCARD", b"x").redis(b"-ERR\r\n")
        conversation.command(b"MULTI").redis(b"-ERR\r\n")
        self.assertGreater(self.size(conversation), 100)

    def test_all_sessions_of_a_tenant_share_it(self) -> None:
        first = self.begun().client(COMMAND * 6).redis(QUEUED * 6)
        second = Conversation(policy=policy())
        second.open_transactions = first.open_transactions
        second.command(b"AUTH", b"blue").command(b"MULTI").redis(b"+OK\r\n")
        second.gets(), second.hears()
        second.client(COMMAND * 4).redis(QUEUED * 4)
        self.assertHears(second, QUEUED * 4)
        second.client(COMMAND).redis(b"-ERR wrong\r\n")
        self.assertHears(second, ERROR)
        other = Conversation(policy=policy())
        other.open_transactions = first.open_transactions
        other.command(b"AUTH", b"green").command(b"MULTI").redis(b"+OK\r\n")
        other.gets(), other.hears()
        other.client(COMMAND).redis(QUEUED)
        self.assertHears(other, QUEUED)
        # What is free again does not fix a transaction that has lost a command.
        first.command(b"EXEC").redis(b"*0\r\n")
        second.client(COMMAND)
        self.assertHears(second, ERROR)

    def test_a_streamed_command(self) -> None:
        most = 2 * bounds.WHOLE_COMMAND_BYTES
        large = encode([b"SET", b"k", b"x" * (most - 100)])
        conversation = self.begun(transaction=most)
        for at in range(0, len(large), 30_000):
            conversation.client(large[at : at + 30_000])
        self.assertEqual(conversation.gets(), large)
        conversation.redis(QUEUED)
        self.assertHears(conversation, QUEUED)
        self.assertEqual(self.size(conversation), len(large))
        # At its beginning it is known that it is too large: its rest is skipped.
        conversation = self.begun(transaction=most)
        large = encode([b"SET", b"k", b"x" * most])
        for at in range(0, len(large), 30_000):
            conversation.client(large[at : at + 30_000])
        self.assertEqual(conversation.gets(), SPOILER)
        conversation.redis(b"-ERR wrong\r\n").command(b"EXEC").redis(b"-EXECABORT\r\n")
        self.assertIn(b"have more than 131072 bytes", conversation.told)
        self.assertTrue(conversation.hears().endswith(b"-EXECABORT\r\n"))

    def test_what_a_large_command_announces_counts_at_once(self) -> None:
        """Otherwise each of many sessions could begin one, before any of them has sent much."""
        most = 4 * bounds.WHOLE_COMMAND_BYTES
        for words in ([b"SET", b"k"], [b"PUBLISH", b"c"], [b"EVAL", b"return redis.call('publish','a',ARGV[1])", b"0"]):
            head, value = encode([*words, b"x" * (most - 1000)]), most - 1000
            conversation = self.begun(transaction=most)
            conversation.client(head[:-value])
            self.assertGreater(self.size(conversation), value, words)
            second = Conversation(policy=policy(transaction=most))
            second.open_transactions = conversation.open_transactions
            second.command(b"AUTH", b"blue").command(b"MULTI").redis(b"+OK\r\n")
            second.gets()
            second.client(head[:-value])
            self.assertEqual(second.gets(), SPOILER, words)
            # What comes is not counted twice.
            conversation.client(head[-value:])
            self.assertLess(self.size(conversation), len(head) + 50, words)
            # It is given back, too, when it never comes.
            conversation = self.begun(transaction=most)
            transactions = conversation.transactions(conversation.session.tenant)
            conversation.client(head[:-value])
            conversation.session.ending.at_once()
            conversation.session.forget()
            self.assertEqual(transactions.size, 0, words)

    def test_one_large_message_is_refused_at_its_beginning(self) -> None:
        most = 2 * bounds.WHOLE_COMMAND_BYTES
        for words in ([b"PUBLISH", b"c"], [b"EVAL", b"return redis.call('publish','a',ARGV[1])", b"0"]):
            conversation = self.begun(transaction=most)
            conversation.client(encode([*words, b"x" * (most + 1)]))
            self.assertEqual(conversation.gets(), SPOILER, words)

    def test_a_streamed_message(self) -> None:
        most = 2 * bounds.WHOLE_COMMAND_BYTES
        conversation = self.begun(transaction=most)
        small = encode([b"SET", b"k", b"x" * 60_000])
        conversation.client(small).client(small).redis(QUEUED * 2)
        conversation.gets(), conversation.hears()
        large = encode([b"PUBLISH", b"c" * 20_000, b"x" * 100_000])
        conversation.client(large)
        self.assertEqual(conversation.gets(), SPOILER)
        conversation.redis(b"-ERR wrong\r\n").command(b"DISCARD").redis(b"+OK\r\n")
        self.assertTrue(conversation.hears().endswith(b"ones\r\n+OK\r\n"))

    def test_without_a_limit(self) -> None:
        conversation = self.begun(transaction=0)
        for _ in range(50):
            conversation.client(COMMAND)
        self.assertEqual(conversation.gets(), COMMAND * 50)
