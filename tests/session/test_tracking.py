"""CLIENT TRACKING and CLIENT CACHING: who may use them, and what the client hears."""

from __future__ import annotations

from redisproxy.resp.framing import ProtocolError, encode
from redisproxy.session.errors import OK
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.limits import Limits
from redisproxy.tenants.model import Snapshot

from ..support.conversations import (
    BLUE,
    DIRECTORY,
    GREEN,
    Conversation,
    ConversationCase,
    SharedCase,
    logged_in,
    logged_in_multiplexed,
)

ALLOWED = Snapshot(None, [BLUE, GREEN], {"blue": Limits(client_tracking=True)})
ON = encode([b"CLIENT", b"TRACKING", b"ON"])
OFF = encode([b"CLIENT", b"TRACKING", b"OFF"])


def invalidate(*keys: bytes) -> bytes:
    """What Redis sends; without keys: all of them."""
    named = b"*%d\r\n" % len(keys) + b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in keys) if keys else b"_\r\n"
    return b">2\r\n$10\r\ninvalidate\r\n" + named


def tracking(*options: bytes) -> Conversation:
    """Returns Blue's conversation after CLIENT TRACKING ON."""
    talk = logged_in(3, snapshot=ALLOWED).command(b"CLIENT", b"TRACKING", b"ON", *options)
    assert talk.gets() == encode([b"CLIENT", b"TRACKING", b"ON", *options])
    assert talk.redis(OK).hears() == OK
    return talk


class RefusedTests(ConversationCase):
    def test_who_may_not(self) -> None:
        for snapshot in (
            DIRECTORY,
            Snapshot(None, [BLUE, GREEN], {"green": Limits(client_tracking=True), "blue": Limits(5)}),
        ):
            for options in ((), (b"OPTIN",), (b"BCAST",), (b"REDIRECT", b"7"), (b"nonsense",)):
                talk = logged_in(3, snapshot=snapshot).command(b"CLIENT", b"TRACKING", b"ON", *options)
                self.assertRefused(talk, b"-NOPERM the command 'client|tracking' is not available here: turn ")
                self.assertEqual((talk.gets(), talk.audited, talk.tracking_allowed), (b"", ["client|tracking"], []))
            self.assertHears(logged_in(3, snapshot=snapshot).command(b"client", b"tracking", b"off"), OK)

    def test_modes_that_go_further(self) -> None:
        for options in (
            (b"BCAST",),
            (b"bcast", b"PREFIX", b"user:"),
            (b"PREFIX", b"user:"),
            (b"REDIRECT", b"7"),
            (b"OPTIN", b"redirect", b"7"),
            (b"NOLOOP", b"BCAST"),
        ):
            for talk in (logged_in(3, snapshot=ALLOWED), tracking()):
                talk.command(b"CLIENT", b"TRACKING", b"ON", *options)
                self.assertRefused(talk, b"-NOPERM CLIENT TRACKING with BCAST, PREFIX or REDIRECT")
                talk.command(b"CLIENT", b"TRACKING", b"OFF", *options)
                talk.hears()
                self.assertEqual(talk.gets(), b"")

    def test_malformed(self) -> None:
        for words, start in (
            ((b"TRACKING",), b"-ERR wrong number of arguments for 'client|tracking' command"),
            ((b"TRACKING", b"ON", *[b"NOLOOP"] * 9), b"-ERR wrong number of arguments for 'client|tracking' command"),
            ((b"TRACKING", b"MAYBE"), b"-ERR syntax error"),
            ((b"TRACKING", b"ON", b"OPTOUTS"), b"-ERR syntax error"),
            ((b"TRACKING", b"OFF", b"OPTIN"), b"-ERR syntax error"),
            ((b"CACHING",), b"-ERR wrong number of arguments for 'client|caching' command"),
            ((b"CACHING", b"YES"), b"-ERR CLIENT CACHING can be called only when the client is in tracking mode"),
        ):
            talk = logged_in(3, snapshot=ALLOWED).command(b"CLIENT", *words)
            self.assertRefused(talk, start)
            self.assertEqual(talk.gets(), b"")
        self.assertRefused(tracking().command(b"CLIENT", b"CACHING", b"MAYBE"), b"-ERR syntax error")
        talk = logged_in(2, snapshot=ALLOWED).command(b"CLIENT", b"TRACKING", b"ON")
        self.assertRefused(talk, b"-ERR CLIENT TRACKING needs RESP3 here: send HELLO 3 first")
        talk = logged_in(3, snapshot=ALLOWED).command(b"MULTI").redis(OK)
        talk.hears()
        talk.gets()
        self.assertNotIn(b"TRACKING", talk.command(b"CLIENT", b"TRACKING", b"ON").gets())

    def test_without_rights_in_redis(self) -> None:
        talk = logged_in(3, snapshot=ALLOWED)
        talk.permits_at_once = False
        talk.command(b"CLIENT", b"TRACKING", b"ON").finish(Unavailable("ERR no"))
        self.assertHears(talk, b"-ERR no\r\n")
        self.assertEqual(talk.gets(), b"")
        self.assertFalse(talk.session.stateful)

    def test_taken_back_while_redis_is_asked(self) -> None:
        talk = logged_in(3, snapshot=ALLOWED)
        talk.permits_at_once = False
        talk.command(b"CLIENT", b"TRACKING", b"ON")
        talk.snapshot = DIRECTORY
        talk.finish(None)
        self.assertRefused(talk, b"-NOPERM the command 'client|tracking'")
        self.assertEqual(talk.gets(), b"")

    def test_refused_by_redis_it_is_off(self) -> None:
        talk = logged_in(3, snapshot=ALLOWED).command(b"CLIENT", b"TRACKING", b"ON", b"OPTIN", b"OPTOUT")
        self.assertHears(talk.redis(b"-ERR both\r\n"), b"-ERR both\r\n")
        self.assertFalse(talk.session.tracking)
        self.assertRaises(ProtocolError, talk.redis, invalidate(b"a"))


class HeardTests(ConversationCase):
    def test_messages_at_any_depth_whole_and_split(self) -> None:
        one, two, every = invalidate(b"a"), invalidate(b"k" * 300, b"\r\n"), invalidate()
        for parts in (
            [one],
            [b"$1\r\nx\r\n", one],
            [one, every, b"$1\r\nx\r\n", two, b"*2\r\n:1\r\n:2\r\n"],
            [b"*2\r\n", one, b"*2\r\n", two, b":1\r\n", every, b"+OK\r\n", one, b"%1\r\n", one, b"+a\r\n", two, b":2\r\n"],
        ):
            data = b"".join(parts)
            for size in (1, 2, 7, 10_000):
                talk = tracking()
                for _ in range(3):
                    talk.command(b"GET", b"a").command(b"SELECT", b"3")
                for start in range(0, len(data), size):
                    talk.redis(data[start : start + size])
                heard = talk.hears()
                self.assertEqual(heard.replace(OK, b""), data.replace(OK, b""))
                self.assertFalse(talk.session.replies.mid_message)

    def test_together_with_channels(self) -> None:
        talk = tracking().command(b"SUBSCRIBE", b"news")
        confirmed = b">3\r\n$9\r\nsubscribe\r\n$9\r\nblue:news\r\n:1\r\n"
        message = b">3\r\n$7\r\nmessage\r\n$9\r\nblue:news\r\n$1\r\nx\r\n"
        gone = confirmed.replace(b"$9\r\nsubscribe", b"$11\r\nunsubscribe").replace(b":1\r\n", b":0\r\n")
        talk.redis(invalidate(b"a") + confirmed + message + invalidate() + message)
        talk.command(b"UNSUBSCRIBE").redis(gone + invalidate(b"b"))
        bare = [part.replace(b"$9\r\nblue:news", b"$4\r\nnews") for part in (confirmed, message, message, gone)]
        self.assertHears(talk, invalidate(b"a"), *bare[:2], invalidate(), *bare[2:], invalidate(b"b"))
        self.assertRaises(ProtocolError, talk.redis, message)

    def test_nothing_of_it_without_tracking(self) -> None:
        for talk in (
            logged_in(3, snapshot=ALLOWED),
            logged_in(3, snapshot=ALLOWED).command(b"GET", b"a"),
            logged_in(3, snapshot=ALLOWED).command(b"CLIENT", b"TRACKING", b"ON"),  # Redis has not answered
            tracking().command(b"CLIENT", b"TRACKING", b"OFF").redis(OK),
            tracking().command(b"CLIENT", b"TRACKING", b"OFF").redis(OK).command(b"SUBSCRIBE", b"a"),
        ):
            self.assertRaises(ProtocolError, talk.redis, invalidate(b"a"))
        for wrong in (b">3\r\n$10\r\ninvalidate\r\n*0\r\n:1\r\n", b">2\r\n$19\r\ntracking-redir-brok\r\n:1\r\n", b">0\r\n"):
            self.assertRaises(ProtocolError, tracking().redis, wrong)

    def test_until_redis_has_turned_it_off(self) -> None:
        talk = tracking().command(b"CLIENT", b"TRACKING", b"OFF")
        self.assertEqual(talk.gets(), OFF)
        talk.redis(invalidate(b"a") + OK)
        self.assertHears(talk, invalidate(b"a"), OK)
        self.assertFalse(talk.session.stateful)
        talk.command(b"CLIENT", b"TRACKING", b"ON").command(b"CLIENT", b"TRACKING", b"OFF")
        talk.command(b"CLIENT", b"TRACKING", b"ON", b"OPTIN").redis(OK * 3 + invalidate(b"b"))
        self.assertHears(talk, OK * 3, invalidate(b"b"))
        self.assertTrue(talk.session.stateful)

    def test_caching_and_what_is_asked(self) -> None:
        talk = tracking(b"OPTIN")
        for words in ((b"CACHING", b"yes"), (b"CACHING", b"NO"), (b"GETREDIR",), (b"TRACKINGINFO",)):
            talk.command(b"CLIENT", *words)
            self.assertEqual(talk.gets(), encode([b"CLIENT", *words]))
            self.assertHears(talk.redis(b":0\r\n"), b":0\r\n")
        talk.command(b"CLIENT", b"INFO")
        self.assertRegex(talk.hears(), rb" flags=t .* redir=0 ")

    def test_muted(self) -> None:
        talk = logged_in(3, snapshot=ALLOWED).command(b"CLIENT", b"REPLY", b"SKIP").command(b"CLIENT", b"TRACKING", b"ON")
        talk.command(b"GET", b"a").redis(OK + b"_\r\n" + invalidate(b"a"))
        self.assertHears(talk, b"_\r\n", invalidate(b"a"))


class EndTests(ConversationCase):
    """Nobody else gets a connection with tracking."""

    def test_the_connection_is_not_clean(self) -> None:
        for end in (
            lambda talk: talk.session.ending.at_once(),
            lambda talk: talk.command(b"RESET"),
            lambda talk: talk.command(b"QUIT"),
            lambda talk: talk.command(b"AUTH", b"green"),
            lambda talk: talk.recheck(Snapshot(None, [])),
            lambda talk: talk.session.close_for_tracking(),
        ):
            for talk in (tracking(), logged_in(3, snapshot=ALLOWED).command(b"CLIENT", b"TRACKING", b"ON")):
                first = talk.upstreams[0]
                end(talk)
                self.assertIsNot(first.released, True)
                self.assertFalse(first.pending.settled and first.released is None and talk.closed)

    def test_reset(self) -> None:
        talk = tracking().command(b"RESET")
        self.assertHears(talk, b"+RESET\r\n")
        self.assertIs(talk.upstreams[0].released, False)
        self.assertIsNone(talk.session.tracking)

    def test_another_tenant(self) -> None:
        """The client is told to forget what it has cached: nobody would tell it of changes."""
        talk = tracking().command(b"AUTH", b"green")
        self.assertHears(talk, invalidate(), OK)
        self.assertIs(talk.upstreams[0].released, False)
        self.assertFalse(talk.session.stateful)
        self.assertRefused(talk.command(b"CLIENT", b"TRACKING", b"ON"), b"-NOPERM")

    def test_the_same_tenant_again(self) -> None:
        talk = tracking().command(b"AUTH", b"blue")
        self.assertHears(talk.redis(invalidate(b"a")), OK, invalidate(b"a"))

    def test_redis_is_lost(self) -> None:
        """The client must forget what it has cached, so it is closed, even at rest."""
        for talk in (tracking(), logged_in_multiplexed(snapshot=ALLOWED)):
            if talk.multiplexes:
                talk.command(b"HELLO", b"3").shared_redis(b"%0\r\n")
                talk.command(b"CLIENT", b"TRACKING", b"ON").redis(OK)
            talk.session.upstream_lost()
            self.assertEqual(talk.closed, "redis-lost")

    def test_taken_back(self) -> None:
        talk = tracking().command(b"BLPOP", b"q", b"0")
        talk.session.close_for_tracking()
        self.assertEqual(talk.closed, "tracking-ended")
        self.assertIs(talk.upstreams[0].released, False)
        self.assertHears(talk)


class SharedTests(SharedCase):
    def test_its_own_connection_until_it_is_off(self) -> None:
        talk = logged_in_multiplexed(snapshot=ALLOWED)
        talk.command(b"HELLO", b"3").shared_redis(b"%0\r\n").hears()
        talk.shared_gets()
        talk.command(b"CLIENT", b"TRACKING", b"ON", b"OPTIN").command(b"GET", b"a")
        self.assertEqual(talk.gets(), encode([b"CLIENT", b"TRACKING", b"ON", b"OPTIN"]) + encode([b"GET", b"a"]))
        self.assertEqual(talk.shared_gets(), b"")
        talk.redis(OK + b"$1\r\nx\r\n" + invalidate(b"a"))
        self.assertHears(talk, OK, b"$1\r\nx\r\n", invalidate(b"a"))
        self.assertIsNone(talk.upstreams[0].released)
        talk.command(b"CLIENT", b"TRACKING", b"OFF").redis(OK)
        self.assertHome(talk)
        self.assertIs(talk.upstreams[0].released, True)
        talk.command(b"GET", b"a")
        self.assertEqual(talk.shared_gets(), encode([b"GET", b"a"]))

    def test_refused_it_goes_back(self) -> None:
        talk = logged_in_multiplexed(snapshot=ALLOWED)
        talk.command(b"HELLO", b"3").shared_redis(b"%0\r\n").hears()
        talk.command(b"CLIENT", b"TRACKING", b"ON").redis(b"-NOPERM no\r\n")
        self.assertHome(talk)
