"""Sessions with scripts, and while Redis is busy with a script: which connection a command goes to,
and what a client hears.
"""

from __future__ import annotations

from redisproxy import bounds, messages
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import encode
from redisproxy.session.errors import OK
from redisproxy.session.ports import Unavailable
from redisproxy.tenants.model import Snapshot

from ..support.conversations import (
    Conversation,
    ConversationCase,
    RecordingUpstream,
    SharedCase,
    SharedConversation,
    logged_in,
    logged_in_multiplexed,
)
from ..support.transcripts import Transcript

BUSY = "BUSY Redis is busy running a script."
ERROR = b"-%b\r\n" % BUSY.encode()
HELLO_2 = b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:2\r\n"
HELLO_3 = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"


def play(text: str, **texts: bytes) -> Transcript:
    return Transcript(logged_in_multiplexed(upstreams_at_once=False), **texts).play(text)


class ScriptConnectionTests(SharedCase):
    """A session with multiplexed connections."""

    def test_scripts_go_over_their_own_connection(self) -> None:
        play(
            """
            client >> EVAL x 0; EVALSHA y 0; EVAL_RO x 0
            scripts << EVAL x 0; EVALSHA y 0; EVAL_RO x 0
            scripts >> +1; +2; +3
            client << +1; +2; +3
            client >> GET a
            multiplexed << GET a
            multiplexed >> +4
            client << +4
            client >> EVAL x 0
            scripts << EVAL x 0
            scripts >> +5
            client << +5
            -- is asking 0
            """
        )

    def test_a_transaction_with_a_script_too(self) -> None:
        play(
            """
            client >> MULTI; GET a; EVAL x 0; EXEC; GET b
            scripts << MULTI; GET a; EVAL x 0; EXEC; GET b
            scripts >> +OK; +QUEUED; +QUEUED; *0; +b
            client << +OK; +QUEUED; +QUEUED; *0; +b
            -- is commands 6
            """
        )

    def test_what_stands_behind_a_script_follows_it(self) -> None:
        """Commands run in the order in which the client sent them, whatever they are."""
        play(
            """
            client >> EVAL x 0; GET a; PUBLISH c m
            scripts << EVAL x 0; GET a; PUBLISH blue:c m
            client >> EVAL y 0
            scripts << EVAL y 0
            scripts >> +1; +2; :3
            client << +1; +2; :3
            client >> GET b
            scripts << GET b
            scripts >> +4; +5
            client << +4; +5
            client >> GET c
            multiplexed << GET c
            multiplexed >> +6
            client << +6
            """
        )

    def test_a_script_waits_for_the_replies_before_it(self) -> None:
        play(
            """
            client >> GET a; EVAL x 0; EVAL y 0; GET b
            multiplexed << GET a
            -- is waiting
            multiplexed >> +1
            client << +1
            scripts << EVAL x 0; EVAL y 0; GET b
            scripts >> +2; +3; +4
            client << +2; +3; +4
            """
        )

    def test_a_command_that_blocks_waits_for_the_scripts_before_it(self) -> None:
        play(
            """
            client >> EVAL x 0; BLPOP q 0
            scripts << EVAL x 0
            -- is waiting
            scripts >> +1
            client << +1
            -- opened
            own << BLPOP q 0
            own >> *-1
            client << *-1
            client >> EVAL x 0
            scripts << EVAL x 0
            scripts >> +2
            client << +2
            """
        )

    def test_on_a_dedicated_connection_they_stay_there(self) -> None:
        play(
            """
            client >> WATCH a; EVAL x 0
            -- opened
            own << WATCH a; EVAL x 0
            own >> +OK; +1
            client << +OK; +1
            client >> EVAL x 0
            own << EVAL x 0
            own >> +2
            client << +2
            """
        )

    def test_a_script_that_takes_long_keeps_no_other_script(self) -> None:
        """Further scripts get connections of their own, until it has ended."""
        play(
            """
            -- scripts slow
            client >> EVAL x 0; EVAL y 0; GET a
            -- is asking 1
            -- opened
            own << EVAL x 0; EVAL y 0; GET a
            own >> +1; +2; +3
            client << +1; +2; +3
            -- is own returned clean
            -- scripts quick
            client >> EVAL x 0
            scripts << EVAL x 0
            scripts >> +4
            client << +4
            """
        )

    def test_it_keeps_what_its_own_session_sent(self) -> None:
        """As on one connection straight to Redis."""
        play(
            """
            client >> EVAL x 0
            scripts << EVAL x 0
            -- scripts slow
            client >> EVAL y 0; GET a
            scripts << EVAL y 0; GET a
            scripts >> +1; +2; +3
            client << +1; +2; +3
            """
        )

    def test_without_a_connection_each_script_is_answered(self) -> None:
        for way in ("", "client >> CLIENT REPLY SKIP"):
            errors = f"-{BUSY}; -{BUSY}; -{BUSY}" if not way else f"-{BUSY}; -{BUSY}"
            play(
                f"""
                -- scripts slow
                {way}
                client >> EVAL x 0; EVAL y 0; EVAL z 0; GET a
                -- refused {BUSY}
                client << {errors}
                multiplexed << GET a
                multiplexed >> +1
                client << +1
                """
            )

    def test_while_their_connection_is_opened_they_wait(self) -> None:
        play(
            """
            -- scripts opening
            client >> EVAL x 0; GET a
            -- is waiting
            -- scripts replaced
            scripts << EVAL x 0; GET a
            scripts >> +1; +2
            client << +1; +2
            -- scripts broken
            client >> GET a
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            client >> EVAL x 0
            -- is waiting
            -- scripts ERR away
            client << -ERR away
            client >> GET a
            multiplexed << GET a
            multiplexed >> +2
            client << +2
            """
        )

    def test_where_redis_is_away_they_fail_at_once(self) -> None:
        play(
            """
            -- unavailable ERR away
            client >> EVAL x 0; EVAL y 0; MULTI; EVAL z 0; EXEC
            client << -ERR away; -ERR away; -ERR away; -ERR away; -ERR away
            -- replaced
            client >> EVAL x 0
            scripts << EVAL x 0
            scripts >> +1
            client << +1
            """
        )

    def test_a_lost_connection_closes_whoever_has_a_script_there(self) -> None:
        play(
            """
            client >> EVAL x 0; GET a
            scripts << EVAL x 0; GET a
            -- scripts broken
            -- is closed redis-lost
            """
        )

    def test_where_redis_was_away_for_too_long_it_is_closed(self) -> None:
        for event in ("unavailable", "scripts opening"):
            transcript = Transcript(logged_in_multiplexed(upstreams_at_once=False))
            if event == "unavailable":
                transcript.conversation.tenant_pool.goes_away(closes=True)
                transcript.play("client >> EVAL x 0")
            else:
                transcript.play(f"-- {event}\nclient >> EVAL x 0\n-- is waiting")
                transcript.conversation.tenant_pool.scripts.upstream = Unavailable(closes=True)
                transcript.conversation.tenant_pool.scripts.ready()
            self.assertEqual(transcript.conversation.closed, "redis-away")
            self.assertHears(transcript.conversation)

    def test_a_full_connection_is_awaited(self) -> None:
        play(
            """
            -- scripts busy
            client >> EVAL x 0
            -- is waiting
            -- scripts free
            scripts << EVAL x 0
            -- scripts busy
            client >> GET a
            scripts >> +1
            client << +1
            multiplexed << GET a
            multiplexed >> +2
            client << +2
            """
        )

    def test_a_policy_that_came_meanwhile(self) -> None:
        script = "client >> EVAL x 0; EVAL y 0\n"
        for first in ("-- scripts opening\n" + script, "client >> GET a\nmultiplexed << GET a\n" + script):
            transcript = Transcript(logged_in_multiplexed())
            transcript.policies(stricter=make_policy(builtin(), scripts=False)).play(first + "-- policy stricter")
            if "opening" in first:
                transcript.conversation.tenant_pool.scripts.upstream = RecordingUpstream(transcript.conversation)
                transcript.conversation.tenant_pool.scripts.ready()
                heard = transcript.conversation.hears()
            else:
                heard = transcript.conversation.shared_redis(b"+1\r\n").hears().removeprefix(b"+1\r\n")
            self.assertEqual(heard, messages.REPLACED.reply() * 2)

    def test_it_ends_while_it_waits(self) -> None:
        for event in ("left", "revoke", "hurry"):
            transcript = Transcript(logged_in_multiplexed()).play("-- scripts opening\nclient >> EVAL x 0")
            transcript.play(f"-- {event}\n-- scripts replaced")
            self.assertEqual(transcript.conversation.scripts_gets(), b"")

    def test_a_client_that_does_not_read(self) -> None:
        transcript = Transcript(logged_in_multiplexed(upstreams_at_once=False))
        behind: list[int] = []
        upstream = transcript.conversation.tenant_pool.scripts.upstream
        upstream.slow_reader = lambda session, size: behind.append(size)
        upstream.read_everything = lambda session: behind.clear()
        transcript.play(
            """
            client >> EVAL x 0
            scripts << EVAL x 0
            -- slow
            client >> GET a
            -- is waiting
            scripts >> +1
            client << +1
            -- opened
            own << GET a
            own >> +2
            client << +2
            """
        )
        self.assertEqual(behind, [4])
        transcript.play("-- reads\n-- is own returned clean")
        self.assertEqual(behind, [])

    def test_a_client_that_does_not_read_what_it_asked_before_a_script(self) -> None:
        """What the script replies counts where it comes from, so that it can be stopped there."""
        transcript = Transcript(logged_in_multiplexed())
        pool = transcript.conversation.tenant_pool
        behind = {"plain": 0, "scripts": 0}
        for name, upstream in (("plain", pool.upstream), ("scripts", pool.scripts.upstream)):
            upstream.slow_reader = lambda session, size, name=name: behind.update({name: behind[name] + size})
            upstream.read_everything = lambda session, name=name: behind.update({name: 0})
        transcript.play(
            """
            client >> GET a; EVAL x 0; EVAL y 0
            multiplexed << GET a
            -- slow
            multiplexed >> +1
            client << +1
            scripts << EVAL x 0; EVAL y 0
            """
        )
        self.assertEqual(behind, {"plain": 4, "scripts": 0})
        transcript.play("scripts >> +2; +3\nclient << +2; +3")
        self.assertEqual(behind, {"plain": 0, "scripts": 8})
        transcript.play("-- reads")
        self.assertEqual(behind, {"plain": 0, "scripts": 0})

    def test_a_replaced_connection_gets_no_more_commands(self) -> None:
        """It may lead to another Redis. A client that always has replies pending leaves it, too."""
        transcript = Transcript(logged_in_multiplexed()).play("client >> EVAL x 0; GET a\nscripts << EVAL x 0; GET a")
        replaced = transcript.conversation.tenant_pool.scripts.upstream
        transcript.play("-- scripts replaced\nclient >> GET b; EVAL y 0\n-- is waiting")
        replaced.pending.received(b"+1\r\n+2\r\n")
        transcript.play(
            """
            client << +1; +2
            multiplexed << GET b
            multiplexed >> +3
            client << +3
            scripts << EVAL y 0
            scripts >> +4
            client << +4
            """
        )

    def test_scripts_that_publish_and_large_ones(self) -> None:
        text = b"return redis.call('PUBLISH', 'a', 'x')"
        conversation = logged_in_multiplexed().command(b"GET", b"a").command(b"EVAL", text, b"0")
        self.assertEqual(conversation.scripts_gets(), b"")
        conversation.shared_gets()
        conversation.shared_redis(b"+1\r\n")
        self.assertIn(b"PUBLISH", conversation.scripts_gets())
        conversation.scripts_redis(b":1\r\n")
        self.assertHears(conversation, b"+1\r\n:1\r\n")
        large = encode([b"EVAL", b"x", b"0", b"y" * (bounds.WHOLE_COMMAND_BYTES + 1)])
        self.assertEqual(conversation.client(large).gets(), large)

    def test_a_revoked_session_has_its_replies(self) -> None:
        conversation = logged_in_multiplexed().command(b"EVAL", b"x", b"0")
        conversation.recheck(Snapshot(None, []))
        conversation.scripts_redis(b"+1\r\n")
        self.assertHears(conversation, b"+1\r\n")
        self.assertEqual(conversation.closed, "revoked")


class BusyLoginTests(ConversationCase):
    """Redis runs a script for too long at the log-in. AUTH and HELLO succeed, as in Redis."""

    def talk(self, protocol: int = 2) -> SharedConversation:
        conversation = SharedConversation()
        conversation.busy_pools = Unavailable(BUSY, hello=HELLO_3 if protocol == 3 else HELLO_2)
        return conversation

    def test_auth(self) -> None:
        conversation = self.talk()
        self.assertHears(conversation.command(b"AUTH", b"blue"), OK)
        for words in (
            [b"GET", b"a"],
            [b"EVAL", b"x", b"0"],
            [b"BLPOP", b"q", b"0"],
            [b"SUBSCRIBE", b"c"],
            [b"PUBLISH", b"c", b"m"],
        ):
            self.assertHears(conversation.command(*words), ERROR)
        self.assertHears(conversation.command(b"HELLO"), HELLO_2)
        self.assertHears(conversation.command(b"HELLO", b"2", b"SETNAME", b"me"), HELLO_2)
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$2\r\nme\r\n")
        conversation.tenant_pool.upstream = RecordingUpstream(conversation)
        self.assertEqual(conversation.command(b"GET", b"a").shared_gets(), encode([b"GET", b"a"]))
        self.assertHears(conversation.shared_redis(b"+1\r\n"), b"+1\r\n")

    def test_hello(self) -> None:
        conversation = self.talk(3)
        self.assertHears(conversation.command(b"HELLO", b"3", b"AUTH", b"default", b"blue", b"SETNAME", b"me"), HELLO_3)
        self.assertEqual((conversation.session.protocol, conversation.asked_protocol), (3, 3))
        self.assertHears(conversation.command(b"GET", b"a"), ERROR)
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$2\r\nme\r\n")

    def test_another_protocol_later(self) -> None:
        """There are connections in one protocol, and none in the other."""
        conversation = logged_in_multiplexed()
        conversation.busy_pools = Unavailable(BUSY, hello=HELLO_3)
        self.assertHears(conversation.command(b"HELLO", b"3"), HELLO_3)
        self.assertHears(conversation.command(b"GET", b"a"), ERROR)

    def test_a_wrong_password_is_wrong(self) -> None:
        self.assertRefused(self.talk().command(b"AUTH", b"wrong"), b"-WRONGPASS")

    def test_client_reply(self) -> None:
        conversation = self.talk()
        conversation.command(b"AUTH", b"blue").hears()
        conversation.command(b"CLIENT", b"REPLY", b"SKIP").command(b"HELLO").command(b"GET", b"a")
        self.assertHears(conversation, ERROR)


class BusyDedicatedTests(ConversationCase):
    """The same where connections are not multiplexed: each command tries to acquire one."""

    def talk(self, hello: bytes = HELLO_2) -> Conversation:
        conversation = Conversation(upstreams_at_once=False)
        self.hello = hello
        return conversation

    def refuse(self, conversation: Conversation) -> Conversation:
        conversation.finish(Unavailable(BUSY, hello=self.hello))
        return conversation

    def test_each_command_tries_again(self) -> None:
        conversation = self.refuse(self.talk().command(b"AUTH", b"blue"))
        self.assertHears(conversation, OK)
        conversation.command(b"GET", b"a").command(b"GET", b"b")
        self.assertHears(conversation)
        self.assertHears(self.refuse(conversation), ERROR * 2)
        self.assertHears(self.refuse(conversation.command(b"BLPOP", b"q", b"0")))
        self.assertHears(self.refuse(conversation), ERROR)
        conversation.command(b"GET", b"a")
        conversation.open_upstream()
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n")
        self.assertEqual(conversation.command(b"GET", b"b").gets(), encode([b"GET", b"b"]))

    def test_hello(self) -> None:
        conversation = self.refuse(self.talk(HELLO_3).command(b"HELLO", b"3", b"AUTH", b"default", b"blue"))
        self.assertHears(conversation, HELLO_3)
        conversation.command(b"HELLO")
        self.assertHears(self.refuse(conversation), HELLO_3)
        conversation.command(b"GET", b"a")
        self.assertEqual(conversation.asked_protocol, 3)
        conversation.command(b"HELLO", b"2")
        self.refuse(conversation)
        self.assertHears(self.refuse(conversation), ERROR)
        self.hello = HELLO_2
        self.assertHears(self.refuse(conversation), HELLO_2)
        self.assertEqual(conversation.session.protocol, 2)

    def test_another_login(self) -> None:
        conversation = logged_in()
        conversation.upstreams_at_once = False
        self.hello = HELLO_2
        self.assertHears(self.refuse(conversation.command(b"AUTH", b"green")), OK)
        self.assertEqual(conversation.upstreams[0].released, True)
        conversation.command(b"RESET")
        self.assertHears(self.refuse(conversation), b"+RESET\r\n")
        self.assertRefused(conversation.command(b"GET", b"a"), b"-NOAUTH")

    def test_it_leaves_while_it_waits(self) -> None:
        conversation = self.refuse(self.talk().command(b"AUTH", b"blue")).command(b"GET", b"a")
        conversation.session.ending.at_once()
        conversation.open_upstream()
        self.assertIs(conversation.upstream.released, True)
