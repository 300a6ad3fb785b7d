"""Patterns of clients that match notifications about keys, too: what Redis gets, and what the
client hears.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from redisproxy import bounds
from redisproxy.policy.glob import matches, parse
from redisproxy.resp.framing import encode
from redisproxy.session.key_events import BEGINNINGS, NoSpellingError, ends, key_events, may_match, spelled
from redisproxy.session.pubsub import own_name
from redisproxy.tenants.model import Tenant
from redisproxy.tenants.work import WorkQueue

from ..support.conversations import Conversation, ConversationCase, logged_in

BLUE = Tenant("blue", 3)
#: Indexes of other tenants, some of which begin or end like the own one.
FOREIGN = (0, 5, 33, 30, 13)
EXPIRED = b"__keyevent@3__:expired"

#: Pieces of patterns that follow the names of channels closely enough to match them often.
PIECES = st.sampled_from(
    rb"""* * ** ? [_a-z] [^x] [3-5] [] \_ \* _ __ key event space @ 3 5 33 __: : a user: expired __keyevent@ __keyspace@
    __keyspace@3__:""".split()
)
PATTERNS = st.lists(PIECES, max_size=7).map(b"".join)
RESTS = st.lists(st.sampled_from((b"", b":", b"a", b"__:", b"_", b"user:", b"expired", b"3", b"x", b"key")), max_size=4).map(
    b"".join
)


def match(pattern: bytes, name: bytes) -> bool:
    return matches(parse(pattern), name)


def of(channel: bytes, pattern: bytes) -> list[bytes]:
    """Returns the messages that the client gets for an event: its pattern, once or not at all."""
    heard = []
    for upstream, earlier in key_events(BLUE, pattern, ()).items():
        if match(upstream, channel) and not any(each.match(channel) for each in earlier):
            heard.append(upstream)
    return heard


class PatternsTests(unittest.TestCase):
    @given(PATTERNS, RESTS, st.sampled_from(BEGINNINGS))
    @example(b"__keyspace@*__:user:*", b"a__:user:__:user:", b"__keyspace@")
    @example(b"*:a*a*", b"a:a:a", b"__keyevent@")
    @example(b"*::a*", b":a::a", b"__keyevent@")
    def test_each_own_event_once_and_no_foreign_one(self, pattern: bytes, rest: bytes, kind: bytes) -> None:
        own = kind + b"3__:" + rest
        if own_name(BLUE, b"P", pattern) != pattern:
            self.assertEqual(len(of(own, pattern)), match(pattern, own), key_events(BLUE, pattern, ()))
        for index in FOREIGN:
            foreign = b"%b%d__:%b" % (kind, index, rest)
            self.assertFalse(match(own_name(BLUE, b"P", pattern), foreign))
            self.assertFalse(any(match(upstream, foreign) for upstream in key_events(BLUE, pattern, ())))

    @given(st.binary(max_size=20), st.binary(max_size=20), st.sampled_from(BLUE.keyspace_channels))
    def test_any_bytes(self, pattern: bytes, rest: bytes, beginning: bytes) -> None:
        """Each pattern that Redis gets begins with the tenant's own channels and nothing else."""
        for upstream in key_events(BLUE, pattern, ()):
            plain = [own for own in BLUE.keyspace_channels if self.literally(upstream, own)]
            self.assertEqual(len(plain), 1, upstream)
        self.assertEqual(any(match(end, rest) for end in ends(pattern, beginning)[0]), match(pattern, beginning + rest))

    @staticmethod
    def literally(pattern: bytes, beginning: bytes) -> bool:
        pos = 0
        for place in range(len(beginning)):
            pos += pattern[pos : pos + 1] == b"\\"
            if pattern[pos : pos + 1] != beginning[place : place + 1]:
                return False
            pos += 1
        return True

    def test_spellings(self) -> None:
        beginning = b"__keyevent@3__:"
        found = {spelled(beginning, number) for number in range(1 << len(beginning))}
        self.assertEqual(len(found), 1 << len(beginning))
        self.assertTrue(all(match(each, beginning) for each in list(found)[:1000]))
        first = list(key_events(BLUE, b"*", ()))
        self.assertEqual(first, list(key_events(BLUE, b"*", ())))  # the same for every session
        self.assertFalse(set(first) & set(key_events(BLUE, b"*", first)))

        class All:
            def __contains__(self, _: object) -> bool:
                return True

        self.assertRaises(NoSpellingError, key_events, BLUE, b"*", All())

    def test_what_cannot_match(self) -> None:
        for pattern in (
            b"",
            b"news",
            b"news*",
            b"_x*",
            b"__key",
            b"__keyspace",
            b"*" + b"x" * bounds.KEY_EVENT_PATTERN_BYTES,
        ):
            self.assertFalse(may_match(pattern), pattern)
            self.assertEqual(key_events(BLUE, pattern, ()), {})
        for pattern in (b"*", b"_*", b"__key*", b"?_key*", b"[_]*", b"\\__key*", b"__keyevent@*:expired"):
            self.assertTrue(may_match(pattern), pattern)


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


class HeardTests(ConversationCase):
    """What the client gets is what it would get straight from Redis."""

    def confirm(self, word: bytes, patterns: list[bytes], count: int, step: int) -> bytes:
        parts = []
        for pattern in patterns:
            count += step
            parts.append(self.push + b"3\r\n" + bulk(word) + bulk(pattern) + b":%d\r\n" % count)
        return b"".join(parts)

    def message(self, pattern: bytes, channel: bytes, payload: bytes) -> bytes:
        return self.push + b"4\r\n" + bulk(b"pmessage") + bulk(pattern) + bulk(channel) + bulk(payload)

    def hear(self, talk: Conversation, sent: bytes, heard: bytes, size: int) -> None:
        for start in range(0, len(sent), size):
            talk.redis(sent[start : start + size])
        self.assertHears(talk, heard)

    def test_redisson_and_spring(self) -> None:
        for self.push, protocol in ((b"*", 2), (b">", 3)):
            for size in (1, 7, 10_000):
                for pattern in (b"__keyevent@*:expired", b"__keyevent@*__:expired", b"__keyevent@*", b"*", b"__key*__:*"):
                    talk = logged_in(protocol).command(b"SUBSCRIBE", b"news")
                    talk.redis(self.confirm(b"subscribe", [b"blue:news"], 0, 1)).hears()
                    talk.gets()
                    talk.command(b"PSUBSCRIBE", pattern)
                    upstream = [b"blue:" + pattern, *key_events(BLUE, pattern, ())]
                    self.assertEqual(talk.gets(), encode([b"PSUBSCRIBE", *upstream]))
                    self.assertEqual(talk.permitted, upstream)
                    confirmed = self.confirm(b"psubscribe", upstream, 1, 1)
                    self.hear(talk, confirmed, self.confirm(b"psubscribe", [pattern], 1, 1), size)
                    self.assertEqual(talk.session.subscriptions.counts(), (1, 1, 0))
                    event = next(each for each in upstream if match(each, EXPIRED))
                    sent = self.message(event, EXPIRED, b"key")
                    self.hear(talk, sent, self.message(pattern, EXPIRED, b"key"), size)
                    # numbers of other confirmations are the client's own
                    talk.command(b"SUBSCRIBE", b"more")
                    more = self.confirm(b"subscribe", [b"blue:more"], 1 + len(upstream), 1)
                    self.hear(talk, more, self.confirm(b"subscribe", [b"more"], 2, 1), size)
                    talk.gets()
                    talk.command(b"PUNSUBSCRIBE", pattern)
                    self.assertEqual(talk.gets(), encode([b"PUNSUBSCRIBE", *upstream]))
                    gone = self.confirm(b"punsubscribe", upstream, 2 + len(upstream), -1)
                    self.hear(talk, gone, self.confirm(b"punsubscribe", [pattern], 3, -1), size)
                    talk.command(b"UNSUBSCRIBE")
                    self.hear(
                        talk,
                        self.confirm(b"unsubscribe", [b"blue:more", b"blue:news"], 2, -1),
                        self.confirm(b"unsubscribe", [b"more", b"news"], 2, -1),
                        size,
                    )
                    self.assertFalse(talk.session.subscriptions)
                    self.assertEqual(talk.session.subscriptions._shown, {})

    def test_unsubscribing_from_what_is_refused(self) -> None:
        """Redisson does so after its PSUBSCRIBE was refused."""
        self.push = b"*"
        for name in (b"__keyevent@5__:*", b"__keyevent@*:expired"):
            talk = logged_in().command(b"PUNSUBSCRIBE", name)
            self.assertEqual(talk.gets(), encode([b"PUNSUBSCRIBE", b"blue:" + name]))
            talk.redis(self.confirm(b"punsubscribe", [b"blue:" + name], 1, -1))
            self.assertHears(talk, self.confirm(b"punsubscribe", [name], 1, -1))

    def test_refused_by_redis_it_is_refused_whole(self) -> None:
        self.push = b"*"
        talk = logged_in().command(b"PSUBSCRIBE", b"*", b"n*").command(b"GET", b"a")
        talk.redis(b"-NOPERM no\r\n$1\r\nx\r\n")
        self.assertHears(talk, b"-NOPERM no\r\n$1\r\nx\r\n")
        self.assertFalse(talk.session.subscriptions)
        self.assertEqual((talk.session.subscriptions._events, talk.session.subscriptions._shown), ({}, {}))
        self.assertEqual(talk.session.subscriptions._size, 0)

    def test_all_of_them_at_once(self) -> None:
        self.push = b">"
        talk = logged_in(3).command(b"PSUBSCRIBE", b"*", b"__keyevent@*", b"n*")
        shown = [b"*", b"__keyevent@*", b"n*"]
        first = key_events(BLUE, b"*", ())
        upstream = [*(b"blue:" + each for each in shown), *first, *key_events(BLUE, b"__keyevent@*", first)]
        self.assertEqual(talk.gets(), encode([b"PSUBSCRIBE", *upstream]))
        self.assertEqual(len(set(upstream)), 6)
        talk.redis(self.confirm(b"psubscribe", upstream, 0, 1))
        self.assertHears(talk, self.confirm(b"psubscribe", shown, 0, 1))
        # one message for each pattern of the client that matches, as from Redis
        sent = b"".join(self.message(each, EXPIRED, b"k") for each in upstream if match(each, EXPIRED))
        talk.redis(sent)
        self.assertHears(talk, self.message(b"*", EXPIRED, b"k"), self.message(b"__keyevent@*", EXPIRED, b"k"))
        talk.command(b"PUNSUBSCRIBE").gets()
        talk.redis(self.confirm(b"punsubscribe", upstream, 6, -1))
        self.assertHears(talk, self.confirm(b"punsubscribe", shown, 3, -1))

    def test_a_message_that_two_patterns_in_redis_match_comes_once(self) -> None:
        channel = b"__keyspace@3__:user:x__:user:1"
        for self.push, protocol in ((b"*", 2), (b">", 3)):
            for size in (1, 9, 100_000):
                talk = logged_in(protocol).command(b"PSUBSCRIBE", b"__keyspace@*__:user:*")
                upstream = [b"blue:__keyspace@*__:user:*", *key_events(BLUE, b"__keyspace@*__:user:*", ())]
                self.hear(
                    talk,
                    self.confirm(b"psubscribe", upstream, 0, 1),
                    self.confirm(b"psubscribe", [b"__keyspace@*__:user:*"], 0, 1),
                    size,
                )
                matching = [each for each in upstream if match(each, channel)]
                self.assertEqual(len(matching), 2)
                for payload in (b"set", b"y" * 70_000):
                    for order in (matching, matching[::-1]):
                        sent = b"".join(self.message(each, channel, payload) for each in order)
                        heard = self.message(b"__keyspace@*__:user:*", channel, payload)
                        self.hear(talk, sent, heard, size if len(payload) < 100 else max(size, 999))
                self.assertFalse(talk.session.replies.mid_message)
                long = b"__keyspace@3__:user:" + b"x" * bounds.MATCHED_CHANNEL_BYTES + b"__:user:1"
                sent = b"".join(self.message(each, long, b"set") for each in matching)
                self.hear(talk, sent, self.message(b"__keyspace@*__:user:*", long, b"set") * 2, 10_000)

    def test_within_a_reply(self) -> None:
        """Redis before 7.2 sends what a client causes itself within the reply."""
        self.push = b">"
        channel = b"__keyspace@3__:user:x__:user:1"
        talk = logged_in(3).command(b"PSUBSCRIBE", b"__keyspace@*__:user:*")
        upstream = [b"blue:__keyspace@*__:user:*", *key_events(BLUE, b"__keyspace@*__:user:*", ())]
        talk.redis(self.confirm(b"psubscribe", upstream, 0, 1)).hears()
        sent = b"".join(self.message(each, channel, b"set") for each in upstream[1:])
        heard = self.message(b"__keyspace@*__:user:*", channel, b"set")
        for size in (1, 3, 1000):
            talk.command(b"EXEC").command(b"GET", b"a")
            self.hear(
                talk,
                b"*2\r\n" + sent + b":1\r\n" + sent + b":2\r\n_\r\n",
                b"*2\r\n" + heard + b":1\r\n" + heard + b":2\r\n_\r\n",
                size,
            )

    def test_the_work_counts(self) -> None:
        """Many of such patterns must not hold other tenants up."""
        words = []
        for patterns in (
            [b"n*"],
            [b"*", b"*a", b"*b"],
            [b"*%d" % number for number in range(bounds.KEY_EVENT_PATTERNS + 1)],
        ):
            talk = logged_in()
            talk.session.work = mock.Mock(units=1000)
            talk.command(b"PSUBSCRIBE", *patterns)
            words.append(sum(call.args[0] for call in talk.session.work.use.call_args_list))
        self.assertEqual(words[0], 2)
        self.assertEqual(words[1], 4 + 3 * bounds.WORK_WORDS)
        self.assertGreater(words[2], bounds.KEY_EVENT_PATTERNS * 2)

    def test_many_of_them_are_found_in_several_turns(self) -> None:
        """499 patterns of 200 bytes, of which several ends match the same channel, took 3 s in one
        turn.
        """
        patterns = [b"*_?_?_?*_?_?e*" * 10 + b"%d" % number for number in range(20)]
        usual = logged_in().command(b"PSUBSCRIBE", *patterns)
        turns: list[Callable[[], None]] = []
        talk = logged_in()
        budget = talk.session.work = WorkQueue(lambda: 0.0, turns.append).of("blue")
        talk.command(b"PSUBSCRIBE", *patterns).command(b"PUNSUBSCRIBE")
        self.assertTrue(talk.session.stateful)
        self.assertEqual((talk.gets(), len(budget.waiting)), (b"", 1))
        count = 0
        while turns:
            turns.pop()()
            count += 1
        self.assertGreater(count, 3)
        self.assertEqual(len(budget.waiting), 0)
        sent = usual.gets()
        self.assertEqual(talk.gets()[: len(sent)], sent)
        self.assertEqual(talk.session.subscriptions.counts(), (0, 0, 0))

    def test_who_leaves_within_them_does_not_wait(self) -> None:
        talk = logged_in()
        budget = talk.session.work = WorkQueue(lambda: 0.0, lambda call: None).of("blue")
        talk.command(b"PSUBSCRIBE", *(b"*%d" % number for number in range(bounds.WORK_BUDGET)))
        self.assertEqual(len(budget.waiting), 1)
        talk.session.ending.at_once()
        self.assertEqual(len(budget.waiting), 0)

    def test_bounds(self) -> None:
        self.push = b"*"
        self.enterContext(mock.patch.object(bounds, "KEY_EVENT_PATTERNS", 2))
        talk = logged_in().command(b"PSUBSCRIBE", b"*", b"**", b"***")
        self.assertRefused(talk, b"-ERR this would be more than 2 patterns that match keyspace notifications")
        talk.command(b"PSUBSCRIBE", b"*", b"**").command(b"PSUBSCRIBE", b"*a")
        self.assertEqual(talk.gets().count(b"PSUBSCRIBE"), 1)
        patterns = list(talk.permitted)
        self.assertEqual(len(set(patterns)), 6)
        talk.redis(self.confirm(b"psubscribe", patterns, 0, 1))
        self.assertIn(b"-ERR this would be more than 2 patterns", talk.hears())
        talk.command(b"PUNSUBSCRIBE", b"*").redis(
            self.confirm(b"punsubscribe", [patterns[0], *patterns[2:4]], 6, -1)
        ).hears()
        talk.gets()
        talk.command(b"PSUBSCRIBE", b"*a")  # there is room again
        self.assertIn(b"blue:*a", talk.gets())
        self.enterContext(mock.patch.object(bounds, "SUBSCRIPTIONS", 2))
        self.assertRefused(logged_in().command(b"PSUBSCRIBE", b"*"), b"-ERR this would be more than 2 subscriptions")
        self.enterContext(mock.patch.object(bounds, "KEY_EVENT_SPELLINGS", 0))
        self.assertRefused(logged_in().command(b"PSUBSCRIBE", b"*"), b"-ERR this would be more than 2 patterns that match")
