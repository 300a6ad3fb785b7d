"""Each pattern that a session uses in Redis is left exactly once, whichever way the session goes.

Another process counts a tenant's patterns by what is in use: one that is never left would count for
ever, and one that is left too early would be removed from the tenant's ACL user.
"""

from __future__ import annotations

import gc
import inspect

from redisproxy.resp.framing import encode
from redisproxy.session.key_events import key_events
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.model import Snapshot

from ..support.conversations import BLUE, GREEN, Conversation, ConversationCase, logged_in

WIDE = [b"blue:*", *key_events(BLUE.tenant, b"*", ())]


def confirmations(kind: bytes, patterns: list[bytes], push: bytes = b"*") -> bytes:
    return b"".join(
        b"%b3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (push, len(kind), kind, len(pattern), pattern) for pattern in patterns
    )


class UsesTests(ConversationCase):
    def subscribed(self, *patterns: bytes, protocol: int = 3) -> Conversation:
        """Returns a session that is subscribed to patterns, which its Redis has confirmed."""
        talk = logged_in(protocol).command(b"PSUBSCRIBE", *patterns)
        push = b">" if protocol == 3 else b"*"
        talk.redis(confirmations(b"psubscribe", talk.permitted, push)).gets(), talk.hears()
        return talk

    def assertUses(self, talk: Conversation, *patterns: bytes) -> None:
        self.assertEqual(talk.in_use, dict.fromkeys(patterns, 1))

    def test_unsubscribed(self) -> None:
        talk = self.subscribed(b"a*", b"n*", b"a*")
        self.assertUses(talk, b"blue:a*", b"blue:n*")
        talk.command(b"PUNSUBSCRIBE", b"a*")
        self.assertUses(talk, b"blue:a*", b"blue:n*")  # until Redis has done it
        talk.redis(confirmations(b"punsubscribe", [b"blue:a*"], b">"))
        self.assertUses(talk, b"blue:n*")
        talk.command(b"PUNSUBSCRIBE").redis(confirmations(b"punsubscribe", [b"blue:n*"], b">"))
        self.assertUses(talk)
        talk.session.ending.at_once()
        self.assertUses(talk)

    def test_patterns_for_key_events_are_patterns_too(self) -> None:
        talk = self.subscribed(b"*")
        self.assertEqual(len(WIDE), 3)
        self.assertUses(talk, *WIDE)
        talk.command(b"PUNSUBSCRIBE", b"*").redis(confirmations(b"punsubscribe", WIDE, b">"))
        self.assertUses(talk)

    def test_a_subscriber_that_left_leaves_nothing_to_the_garbage_collector(self) -> None:
        talk = self.subscribed(b"a*")
        talk.session.ending.at_once()
        talk.session.forget()
        self.assertFalse([each for each in gc.get_referrers(talk.session) if inspect.ismethod(each)])

    def test_others_do_not_count(self) -> None:
        talk = logged_in(3).command(b"SUBSCRIBE", b"a").command(b"SSUBSCRIBE", b"b")
        self.assertUses(talk)
        talk.command(b"PUNSUBSCRIBE", b"never").redis(
            confirmations(b"subscribe", [b"blue:a"], b">")
            + confirmations(b"ssubscribe", [b"blue:b"], b">")
            + confirmations(b"punsubscribe", [b"blue:never"], b">")
        )
        self.assertUses(talk)
        talk.session.ending.at_once()
        self.assertUses(talk)

    def test_the_same_again(self) -> None:
        talk = self.subscribed(b"a*").command(b"PSUBSCRIBE", b"a*", b"b*")
        self.assertUses(talk, b"blue:a*", b"blue:b*")
        talk.redis(confirmations(b"psubscribe", [b"blue:a*", b"blue:b*"], b">"))
        talk.command(b"PUNSUBSCRIBE", b"a*").command(b"PSUBSCRIBE", b"a*")
        talk.redis(confirmations(b"punsubscribe", [b"blue:a*"], b">"))
        self.assertUses(talk, b"blue:a*", b"blue:b*")  # it asks for it again already
        talk.redis(confirmations(b"psubscribe", [b"blue:a*"], b">"))
        self.assertUses(talk, b"blue:a*", b"blue:b*")

    def test_it_ends(self) -> None:
        """At once, without Redis, at its QUIT, when it is killed, and so on."""
        for protocol in (2, 3):
            for end in (
                lambda talk: talk.session.ending.at_once(),
                lambda talk: talk.session.upstream_lost(),
                lambda talk: talk.session.ending.killed(),
                lambda talk: talk.command(b"QUIT").redis(b"+OK\r\n"),
                lambda talk: talk.client(b"*1\r\n!"),
                lambda talk: talk.recheck(Snapshot(None, [])),
                lambda talk: talk.session.ending.hurry(),
                lambda talk: talk.session.close_for_memory(),
            ):
                talk = self.subscribed(b"a*", b"*", protocol=protocol)
                self.assertEqual(len(talk.in_use), 4)
                end(talk)
                self.assertTrue(talk.session.ended)
                if not talk.session.replies.drained:
                    talk.session.ending.at_once()
                self.assertUses(talk)
                talk.session.ending.at_once()
                self.assertUses(talk)

    def test_reset(self) -> None:
        for protocol in (2, 3):
            talk = self.subscribed(b"a*", b"*", protocol=protocol).command(b"RESET")
            self.assertIsNone(talk.session.credential)
            self.assertUses(talk)

    def test_it_changes_its_tenant(self) -> None:
        talk = self.subscribed(b"a*", b"*").command(b"AUTH", b"green")
        self.assertEqual(talk.session.credential, GREEN)
        self.assertUses(talk)
        talk = self.subscribed(b"a*").command(b"AUTH", b"blue")  # as the same tenant it stays subscribed
        self.assertUses(talk, b"blue:a*")

    def test_redis_refuses(self) -> None:
        talk = self.subscribed(b"a*").command(b"PSUBSCRIBE", b"*", b"a*", b"n*")
        self.assertEqual(len(talk.in_use), 5)
        talk.redis(b"-NOPERM no\r\n")
        self.assertUses(talk, b"blue:a*")

    def test_redis_refuses_and_more_is_under_way(self) -> None:
        talk = self.subscribed(b"a*").command(b"PSUBSCRIBE", b"b*").command(b"PSUBSCRIBE", b"b*", b"c*")
        talk.command(b"PUNSUBSCRIBE", b"a*").redis(b"-NOPERM no\r\n")
        self.assertUses(talk, b"blue:a*", b"blue:b*", b"blue:c*")
        talk.redis(confirmations(b"psubscribe", [b"blue:b*", b"blue:c*"], b">"))
        talk.redis(confirmations(b"punsubscribe", [b"blue:a*"], b">"))
        self.assertUses(talk, b"blue:b*", b"blue:c*")

    def test_they_are_not_allowed(self) -> None:
        talk = self.subscribed(b"a*")
        talk.permits_at_once = False
        talk.command(b"PSUBSCRIBE", b"b*").finish(Unavailable("ERR no more patterns"))
        self.assertRefused(talk, b"-ERR no more patterns")
        self.assertUses(talk, b"blue:a*")

    def test_it_waits_for_its_patterns_and_ends(self) -> None:
        """Whoever allows them learns that nobody waits any more."""
        talk = logged_in()
        talk.permits_at_once = False
        talk.command(b"PSUBSCRIBE", b"b*")
        talk.session.ending.at_once()
        self.assertFalse(talk.finish(None))
        self.assertUses(talk)

    def test_an_earlier_one_is_left_while_it_waits_for_the_same(self) -> None:
        talk = self.subscribed(b"a*")
        talk.permits_at_once = False
        talk.client(encode([b"PUNSUBSCRIBE", b"a*"]) + encode([b"PSUBSCRIBE", b"a*"]))
        talk.redis(confirmations(b"punsubscribe", [b"blue:a*"], b">"))
        self.assertUses(talk)
        talk.finish(None)
        self.assertUses(talk, b"blue:a*")
        talk.redis(confirmations(b"psubscribe", [b"blue:a*"], b">"))
        self.assertUses(talk, b"blue:a*")
