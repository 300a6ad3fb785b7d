"""Eight things that a change of the session can break, as transcripts.

`tests.support.transcripts` explains their lines.
"""

from __future__ import annotations

import unittest

from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import encode

from ..support.conversations import Conversation, logged_in, logged_in_multiplexed
from ..support.transcripts import Transcript

LARGE = encode([b"SET", b"a", b"x" * 100_000])
LARGE_PUBLISH = encode([b"PUBLISH", b"c", b"x" * 100_000])
LARGE_SCRIPT = encode([b"EVAL", b"return 1", b"0", b"x" * 100_000])


def multiplexed(**texts: bytes) -> Transcript:
    """A session over multiplexed connections, logged in as blue. A dedicated one opens at once."""
    return Transcript(logged_in_multiplexed(), **texts)


def slowly(**texts: bytes) -> Transcript:
    """The same session, but the transcript opens the dedicated connection."""
    return Transcript(logged_in_multiplexed(upstreams_at_once=False), **texts)


def dedicated(**texts: bytes) -> Transcript:
    """A session that has a dedicated connection for good, as with `--connections dedicated`."""
    return Transcript(logged_in(), **texts)


class AcquireTests(unittest.TestCase):
    """(1) A connection opens at once, later, or when the session has ended."""

    def test_at_once(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0; GET a
            own    << BLPOP q 0; GET a
            own    >> *-1
            client << *-1
            -- is own kept
            own    >> +1
            client << +1
            -- is own returned clean
            """
        )

    def test_many_at_once_do_not_nest(self) -> None:
        talk = logged_in_multiplexed(upstreams_at_once=False)
        talk.open_upstream = lambda: talk.refuse_upstream("ERR none")
        talk.upstreams_at_once = True
        talk.client(encode([b"BLPOP", b"q", b"0"]) * 2000)
        self.assertEqual(talk.hears(), b"-ERR none\r\n" * 2000)

    def test_later_and_what_stands_behind_waits(self) -> None:
        slowly().play(
            """
            client >> GET a; BLPOP q 0; GET b
            multiplexed << GET a
            -- is asking 0
            multiplexed >> +1
            client << +1
            -- is asking 1
            -- is waiting
            client >> GET c
            -- opened
            own    << BLPOP q 0; GET b; GET c
            own    >> *-1; +2; +3
            client << *-1; +2; +3
            -- is own returned clean
            client >> GET d
            multiplexed << GET d
            """
        )

    def test_refused(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0; GET a
            -- refused ERR none
            client << -ERR none
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            -- is open
            """
        )

    def test_after_the_client_left_it_goes_back(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0
            -- left
            -- opened
            -- is own returned clean
            """
        )

    def test_after_the_session_was_revoked_it_goes_back(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0; GET a
            -- revoke
            -- is closed revoked
            -- opened
            -- is own returned clean
            """
        )

    def test_after_the_session_was_cut_off_it_goes_back(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0
            -- drain
            -- is open
            -- hurry
            -- is closed cut-off
            -- opened
            -- is own returned clean
            """
        )

    def test_after_the_session_ended_a_refusal_is_not_heard(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0
            -- hurry
            -- is closed cut-off
            -- refused ERR none
            """
        )

    def test_for_a_login(self) -> None:
        Transcript(Conversation(upstreams_at_once=False)).play(
            """
            client >> AUTH blue; GET a
            -- is waiting
            -- opened
            client << +OK
            own    << GET a
            """
        )

    def test_for_a_login_that_came_to_nothing(self) -> None:
        Transcript(Conversation(upstreams_at_once=False)).play(
            """
            client >> AUTH blue
            -- left
            -- opened
            -- is own returned clean
            """
        )

    def test_for_another_tenant_the_session_stays_as_it_was_until_then(self) -> None:
        talk = logged_in()
        talk.upstreams_at_once = False
        Transcript(talk).play(
            """
            client >> GET a; AUTH green; GET b
            own    << GET a
            own    >> +1
            client << +1
            -- is own kept
            -- refused ERR none
            client << -ERR none
            own    << GET b
            """
        )

    def test_it_comes_while_the_client_does_not_read(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0
            -- slow
            -- opened
            own    << BLPOP q 0
            -- is own paused
            own    >> *-1
            client << *-1
            -- is own kept
            -- reads
            -- is own returned clean
            """
        )


class StreamedCommandTests(unittest.TestCase):
    """(2) A command that is too large to be read whole waits for its connection, or is refused."""

    def test_it_waits(self) -> None:
        slowly(begin=LARGE[:70_000], rest=LARGE[70_000:]).play(
            """
            client >> GET a; <begin>
            multiplexed << GET a
            client >> <rest>; GET b
            multiplexed >> +1
            client << +1
            -- is asking 1
            -- opened
            own    << <begin>; <rest>; GET b
            own    >> +OK; +2
            client << +OK; +2
            -- is own returned clean
            -- is commands 4
            """
        )

    def test_its_connection_is_kept_until_its_end(self) -> None:
        multiplexed(begin=LARGE[:70_000], middle=LARGE[70_000:90_000], rest=LARGE[90_000:]).play(
            """
            client >> <begin>
            own    << <begin>
            client >> <middle>
            own    << <middle>
            -- reads
            -- is own kept
            client >> <rest>
            own    << <rest>
            own    >> +OK
            client << +OK
            -- is own returned clean
            """
        )

    def test_refused_it_is_skipped(self) -> None:
        slowly(begin=LARGE[:70_000], rest=LARGE[70_000:]).play(
            """
            client >> <begin>
            -- refused ERR none
            client << -ERR none
            client >> <rest>; GET a
            multiplexed << GET a
            -- is commands 3
            """
        )

    def test_its_second_argument_streams_behind_a_channel_of_the_tenant(self) -> None:
        published = encode([b"PUBLISH", b"blue:c", b"x" * 100_000])
        slowly(begin=LARGE_PUBLISH[:70_000], rest=LARGE_PUBLISH[70_000:], sent=published).play(
            """
            client >> <begin>
            -- is asking 1
            client >> <rest>
            -- opened
            own    << <sent>
            own    >> :0
            client << :0
            -- is own returned clean
            """
        )

    def test_a_policy_that_came_meanwhile_refuses_it(self) -> None:
        texts = {"begin": LARGE_SCRIPT[:70_000], "rest": LARGE_SCRIPT[70_000:]}
        for first in ("", "client >> GET a\nmultiplexed << GET a\n"):
            slowly(**texts).policies(stricter=make_policy(builtin(), scripts=False)).play(
                first
                + "client >> <begin>\n-- policy stricter\n"
                + ("multiplexed >> +1\nclient << +1\n" if first else "")
                + """
                -- opened
                client << -ERR...
                -- is own returned clean
                client >> <rest>; GET b
                multiplexed << GET b
                """
            )

    def test_a_policy_that_came_meanwhile_refuses_an_inspected_one_that_waited(self) -> None:
        stricter = make_policy(builtin(), True, True, deny=frozenset((b"INFO",)))
        multiplexed().policies(stricter=stricter).play(
            """
            client >> GET a; INFO; GET b
            multiplexed << GET a
            -- policy stricter
            multiplexed >> +1
            client << +1; -NOPERM...
            multiplexed << GET b
            """
        )

    def test_a_policy_that_came_meanwhile_refuses_one_that_waited_for_a_connection(self) -> None:
        stricter = make_policy(builtin(), True, True, deny=frozenset((b"BLPOP",)))
        slowly().policies(stricter=stricter).play(
            """
            client >> BLPOP q 0; GET a
            -- policy stricter
            -- opened
            client << -NOPERM...
            -- is own returned clean
            multiplexed << GET a
            """
        )

    def test_revoked_within_it(self) -> None:
        multiplexed(begin=LARGE[:70_000]).play(
            """
            client >> <begin>
            own    << <begin>
            -- revoke
            -- is closed revoked
            -- is own returned dirty
            """
        )

    def test_revoked_within_it_while_another_reply_is_pending(self) -> None:
        multiplexed(begin=LARGE[:70_000]).play(
            """
            client >> BLPOP q 0; <begin>
            own    << BLPOP q 0; <begin>
            -- hurry
            -- is own kept
            own    >> *-1
            client << *-1
            -- is closed cut-off
            -- is own returned dirty
            """
        )

    def test_malformed_in_its_middle(self) -> None:
        multiplexed(begin=LARGE[:70_000], wrong=b"x" * 100_000).play(
            """
            client >> GET a; <begin>
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            own    << <begin>
            """
        )
        data = b"*4\r\n$3\r\nSET\r\n$70000\r\n" + b"a" * 70_000 + b"\r\n"
        dedicated(begin=data, wrong=b"$x\r\n").play(
            """
            client >> GET a; <begin>
            own    << GET a; <begin>
            client >> <wrong>
            own    >> +1
            client << +1; -ERR Protocol error...
            -- is closed protocol-error
            -- is own returned dirty
            """
        )


class ClientReplyTests(unittest.TestCase):
    """(3) One command uses up CLIENT REPLY SKIP, whatever happens to that command."""

    def test_by_a_plain_command(self) -> None:
        multiplexed().play(
            """
            client >> CLIENT REPLY SKIP; GET a; GET b; GET c
            multiplexed << GET a; GET b; GET c
            multiplexed >> +1; +2; +3
            client << +2; +3
            """
        )

    def test_by_one_that_the_proxy_answers(self) -> None:
        multiplexed().play(
            """
            client >> CLIENT REPLY SKIP; CLIENT ID; CLIENT ID
            client << :7
            client >> CLIENT REPLY SKIP; CONFIG SET a b; CLIENT ID
            client << :7
            client >> CLIENT REPLY SKIP; NOSUCH; CLIENT ID
            client << :7
            client >> CLIENT REPLY SKIP; SELECT 3; SELECT 3
            client << +OK
            """
        )

    def test_by_a_transaction_that_goes_out_whole(self) -> None:
        multiplexed().play(
            """
            client >> CLIENT REPLY SKIP; MULTI; GET a; EXEC; GET b
            multiplexed << MULTI; GET a; EXEC; GET b
            multiplexed >> +OK; +QUEUED; *1|+1; +2
            client << +QUEUED; *1|+1; +2
            """
        )

    def test_by_commands_that_fail_in_bulk(self) -> None:
        multiplexed().play(
            """
            -- unavailable ERR away
            client >> CLIENT REPLY SKIP; GET a; GET b; GET c
            client << -ERR away; -ERR away
            client >> CLIENT REPLY OFF; GET a; GET b
            client >> CLIENT REPLY ON; GET a
            client << +OK; -ERR away
            client >> CLIENT REPLY SKIP; BLPOP q 0; BLPOP q 0
            client << -ERR away
            """
        )

    def test_by_one_that_waits_for_its_connection(self) -> None:
        slowly().play(
            """
            client >> CLIENT REPLY SKIP; BLPOP q 0; GET a
            -- opened
            own    << BLPOP q 0; GET a
            own    >> *-1; +1
            client << +1
            client >> CLIENT REPLY SKIP; BLPOP q 0; GET a
            -- refused ERR none
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            """
        )

    def test_by_a_query(self) -> None:
        multiplexed().play(
            """
            client >> CLIENT REPLY SKIP; INFO keyspace; CLIENT ID
            -- answer # Keyspace
            client << :7
            """
        )

    def test_by_a_log_in(self) -> None:
        multiplexed().play(
            """
            client >> CLIENT REPLY SKIP; AUTH green; AUTH green
            client << +OK
            client >> CLIENT REPLY SKIP; AUTH wrong; CLIENT ID
            client << :7
            """
        )

    def test_by_a_hello(self) -> None:
        multiplexed().play(
            """
            client >> CLIENT REPLY SKIP; HELLO 2; GET a
            multiplexed << HELLO 2; GET a
            multiplexed >> *0; +1
            client << +1
            client >> CLIENT REPLY SKIP; HELLO 3; GET a
            multiplexed << HELLO 3; GET a
            multiplexed >> %0; +1
            client << +1
            """
        )

    def test_confirmations_are_heard_and_use_it_up(self) -> None:
        multiplexed().play(
            """
            client >> CLIENT REPLY SKIP; SUBSCRIBE a; PING
            own    << SUBSCRIBE blue:a; PING
            own    >> *3|$9|subscribe|$6|blue:a|:1; *2|$4|pong|$0|
            client << *3|$9|subscribe|$1|a|:1; *2|$4|pong|$0|
            """
        )

    def test_by_a_hello_with_an_own_id(self) -> None:
        multiplexed().play(
            """
            client >> HELLO; CLIENT REPLY SKIP; HELLO 2; GET a
            multiplexed << HELLO; HELLO 2; GET a
            multiplexed >> *4|$5|proto|:2|$2|id|:99; *2|$2|id|:99; +1
            client << *4|$5|proto|:2|$2|id|:7; +1
            """
        )

    def test_by_a_refusal_within_a_transaction(self) -> None:
        dedicated().play(
            """
            client >> MULTI; CLIENT REPLY SKIP; SELECT 9; EXEC
            own    << MULTI; SELECT; SELECT; EXEC
            own    >> +OK; -ERR; -ERR; -EXECABORT
            client << +OK; -ERR CLIENT inside MULTI...; -NOPERM...; -EXECABORT
            """
        )


class DrainTests(unittest.TestCase):
    """(4) A drain ends a session only when it has no Step, no transaction is open, and no command
    has begun.
    """

    def test_not_while_it_waits_for_a_connection(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0
            -- drain
            -- is open
            -- opened
            own    << BLPOP q 0
            own    >> *-1
            client << *-1
            -- is closed shutdown
            """
        )

    def test_not_while_a_command_waits_for_replies(self) -> None:
        multiplexed().play(
            """
            client >> GET a; AUTH green; GET b
            multiplexed << GET a
            -- drain
            -- is open
            multiplexed >> +1
            client << +1; +OK
            multiplexed << GET b
            multiplexed >> +2
            client << +2
            -- is closed shutdown
            """
        )

    def test_not_while_it_queries(self) -> None:
        multiplexed().play(
            """
            client >> INFO keyspace; GET a
            -- drain
            -- is open
            -- answer # Keyspace|db3:keys=1
            client << $0|
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            -- is closed shutdown
            """
        )

    def test_not_while_the_protocol_may_change(self) -> None:
        dedicated().play(
            """
            client >> HELLO 3; CLIENT GETNAME
            own    << HELLO 3
            -- drain
            -- is open
            own    >> %0
            client << %0; _
            -- is closed shutdown
            """
        )

    def test_not_within_a_transaction(self) -> None:
        multiplexed().play(
            """
            client >> MULTI
            own    << MULTI
            own    >> +OK
            client << +OK
            -- drain
            -- is open
            client >> GET a
            own    << GET a
            own    >> +QUEUED
            client << +QUEUED
            -- is open
            client >> EXEC; GET b
            own    << EXEC
            own    >> *0
            client << *0
            -- is closed shutdown
            """
        )

    def test_not_within_a_command(self) -> None:
        half = encode([b"GET", b"a"])
        multiplexed(begin=half[:9], rest=half[9:]).play(
            """
            client >> <begin>
            -- drain
            -- is open
            client >> <rest>; GET b
            multiplexed << GET a; GET b
            multiplexed >> +1; +2
            client << +1; +2
            -- is closed shutdown
            """
        )

    def test_nor_within_one_that_streams(self) -> None:
        multiplexed(begin=LARGE[:70_000], rest=LARGE[70_000:]).play(
            """
            client >> <begin>
            own    << <begin>
            -- drain
            -- is open
            client >> <rest>; GET b
            own    << <rest>
            own    >> +OK
            client << +OK
            -- is closed shutdown
            """
        )

    def test_after_a_refusal(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0
            -- drain
            -- refused ERR none
            client << -ERR none
            -- is closed shutdown
            """
        )

    def test_while_the_multiplexed_connection_is_busy(self) -> None:
        multiplexed().play(
            """
            -- busy
            client >> GET a
            -- drain
            -- is open
            -- free
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            -- is closed shutdown
            """
        )

    def test_an_end_of_file_ends_it_with_half_a_command(self) -> None:
        multiplexed(begin=encode([b"GET", b"a"])[:9]).play(
            """
            client >> GET a; <begin>
            multiplexed << GET a
            -- eof
            multiplexed >> +1
            client << +1
            -- is closed client-left
            """
        )


class MessageTests(unittest.TestCase):
    """(5) While the client has only a part of a message, answers wait, and the session does not
    move to another connection.
    """

    SUBSCRIBED = """
        client >> SUBSCRIBE a
        own    << SUBSCRIBE blue:a
        own    >> *3|$9|subscribe|$6|blue:a|:1
        client << *3|$9|subscribe|$1|a|:1
        own    >> *3|$7|message|$6|blue:a|$4|ab~
        client << *3|$7|message|$1|a|$4|ab~
        """

    def test_answers_come_behind_it(self) -> None:
        multiplexed().play(
            self.SUBSCRIBED
            + """
            client >> MONITOR; CONFIG SET a
            own    >> cd
            client << cd; -NOPERM...; -NOPERM...
            """
        )

    def test_a_reset_waits(self) -> None:
        multiplexed().play(
            self.SUBSCRIBED
            + """
            client >> RESET
            -- is waiting
            own    >> cd
            client << cd; +RESET
            -- is own returned dirty
            """
        )

    def test_a_log_in_waits(self) -> None:
        dedicated().play(
            """
            client >> HELLO 3
            own    << HELLO 3
            own    >> %0
            client << %0
            client >> SUBSCRIBE a
            own    << SUBSCRIBE blue:a
            own    >> >3|$9|subscribe|$6|blue:a|:1; >3|$7|message|$6|blue:a|$4|ab~
            client << >3|$9|subscribe|$1|a|:1; >3|$7|message|$1|a|$4|ab~
            client >> AUTH green
            -- is waiting
            own    >> cd
            client << cd; >3|$11|unsubscribe|$1|a|:0; +OK
            """
        )

    def test_the_session_stays_where_it_is(self) -> None:
        multiplexed().play(
            self.SUBSCRIBED
            + """
            -- slow
            -- reads
            -- is own kept
            """
        )

    def test_one_that_begins_while_another_connection_is_opened_ends_the_session(self) -> None:
        talk = logged_in(3)
        talk.upstreams_at_once = False
        Transcript(talk).play(
            """
            client >> SUBSCRIBE a
            own    << SUBSCRIBE blue:a
            own    >> >3|$9|subscribe|$6|blue:a|:1
            client << >3|$9|subscribe|$1|a|:1
            client >> AUTH green
            own    >> >3|$7|message|$6|blue:a|$4|ab~
            client << >3|$7|message|$1|a|$4|ab~
            -- opened
            -- is closed moved-within-a-message
            """
        )

    def test_a_revoked_session_is_closed_within_it(self) -> None:
        multiplexed().play(
            self.SUBSCRIBED
            + """
            -- revoke
            -- is closed revoked
            -- is own returned dirty
            """
        )

    def test_a_drain_waits_for_its_end(self) -> None:
        multiplexed().play(
            self.SUBSCRIBED
            + """
            -- drain
            own    >> cd
            client << cd
            -- is closed shutdown
            """
        )


class SlowReaderTests(unittest.TestCase):
    """(6) A client that does not read its replies gets a dedicated connection, though none of its
    commands needs one.
    """

    def talk(self, **options: object) -> Transcript:
        talk = logged_in_multiplexed(**options)
        talk.tenant_pool.upstream.slow_reader = talk.tenant_pool.upstream.read_everything = lambda *_: None
        return Transcript(talk)

    def test_and_comes_back(self) -> None:
        self.talk().play(
            """
            client >> GET a
            multiplexed << GET a
            -- slow
            client >> GET b
            -- is asking 0
            multiplexed >> +1
            client << +1
            own    << GET b
            -- is own paused
            -- reads
            own    >> +2
            client << +2
            -- is own returned clean
            client >> GET c
            multiplexed << GET c
            """
        )

    def test_where_none_can_be_had_no_command_fails(self) -> None:
        self.talk(upstreams_at_once=False).play(
            """
            -- slow
            client >> GET a
            -- is asking 1
            -- refused ERR none
            multiplexed << GET a
            """
        )

    def test_it_reads_before_the_connection_is_there(self) -> None:
        self.talk(upstreams_at_once=False).play(
            """
            -- slow
            client >> GET a
            -- reads
            -- is waiting
            -- opened
            -- is own returned clean
            multiplexed << GET a
            """
        )

    def test_it_reads_before_none_can_be_had(self) -> None:
        self.talk(upstreams_at_once=False).play(
            """
            -- slow
            client >> GET a
            -- reads
            -- refused ERR none
            multiplexed << GET a
            """
        )

    def test_it_leaves_meanwhile(self) -> None:
        self.talk(upstreams_at_once=False).play(
            """
            -- slow
            client >> GET a
            -- left
            -- opened
            -- is own returned clean
            """
        )

    def test_a_blocking_command_while_it_waits_for_that(self) -> None:
        self.talk(upstreams_at_once=False).play(
            """
            -- slow
            client >> BLPOP q 0; GET a
            -- is asking 1
            -- opened
            own    << BLPOP q 0; GET a
            -- is own paused
            """
        )


class UnblockTests(unittest.TestCase):
    """(7) The client does not get the error of a command unblocked for a drain, but gets any other
    reply.
    """

    def test_given_up(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            -- drain
            -- hurry
            -- unblock
            own    >> -UNBLOCKED client unblocked via CLIENT UNBLOCK
            -- is closed shutdown
            """
        )

    def test_an_item_that_came_first(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            -- hurry
            -- unblock
            own    >> *2|$1|q|$4~
            client << *2|$1|q|$4~
            own    >> |item
            client << |item
            -- is closed cut-off
            """
        )

    def test_not_where_more_is_pending(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0; GET a
            own    << BLPOP q 0; GET a
            -- hurry
            -- unblock
            own    >> -UNBLOCKED x; +1
            client << -UNBLOCKED x; +1
            -- is closed cut-off
            """
        )

    def test_the_connection_breaks_first(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            -- hurry
            -- unblock
            -- lost
            -- is closed cut-off
            """
        )


class OrderOfChecksTests(unittest.TestCase):
    """(8) If several errors apply to a command, the client gets the first in this order: no log-in,
    unknown or refused, malformed, within a transaction.
    """

    def test_without_a_log_in(self) -> None:
        Transcript(Conversation()).play(
            """
            client >> NOSUCH; SELECT; CONFIG; GET; MULTI x; SUBSCRIBE
            client << -NOAUTH...; -NOAUTH...; -NOAUTH...; -NOAUTH...; -NOAUTH...; -NOAUTH...
            client >> AUTH; AUTH a b c d; RESET x; HELLO x; HELLO 9; HELLO 3 NONSENSE; HELLO; HELLO 3
            client << -ERR wrong number...; -ERR syntax error; -ERR wrong number...; -ERR Protocol version...; -NOPROTO...; -ERR Syntax error in HELLO...; -NOAUTH HELLO...; -NOAUTH HELLO...
            client >> AUTH wrong
            client << -WRONGPASS...
            """
        )

    def test_with_one(self) -> None:
        multiplexed().play(
            """
            client >> NOSUCH; SELECT; SELECT x; SELECT 9; CONFIG; CONFIG NOSUCH; CONFIG SET a; CONFIG GET
            client << -ERR unknown command...; -ERR wrong number...; -ERR value is not...; -NOPERM this...; -ERR wrong number...; -ERR unknown subcommand...; -NOPERM the command...; -ERR wrong number...
            client >> AUTH; AUTH a b c d; AUTH wrong; HELLO x; HELLO 3 AUTH x; HELLO 3 SETNAME a\x01
            client << -ERR wrong number...; -ERR syntax error; -WRONGPASS...; -ERR Protocol version...; -ERR Syntax error in HELLO...; -ERR Client names...
            client >> SUBSCRIBE; PUBLISH; CLIENT; CLIENT NOSUCH; CLIENT PAUSE x; CLIENT ID x; CLIENT REPLY MAYBE; PUBSUB; PUBSUB NOSUCH; PUBSUB NUMPAT x; MEMORY; MEMORY NOSUCH; MEMORY STATS
            client << -ERR wrong number...; -ERR wrong number...; -ERR wrong number...; -ERR unknown subcommand...; -NOPERM...; -ERR wrong number...; -ERR syntax error; -ERR wrong number...; -ERR unknown subcommand...; -ERR wrong number...; -ERR wrong number...; -ERR unknown subcommand...; -NOPERM...
            """
        )

    def test_within_a_transaction(self) -> None:
        spoilers = "; ".join(["SELECT"] * 17)
        errors = "; ".join(["-ERR"] * 17)
        dedicated().play(
            f"""
            client >> MULTI
            own    << MULTI
            own    >> +OK
            client << +OK
            client >> NOSUCH; AUTH; AUTH a b c d; AUTH blue; AUTH wrong; HELLO; HELLO x; HELLO 9; HELLO 3; HELLO 3 AUTH blue wrong; SUBSCRIBE a; CLIENT ID; CLIENT NOSUCH; INFO; CONFIG GET; PUBSUB NOSUCH; PUBSUB NUMPAT
            own    << {spoilers}
            own    >> {errors}
            client << -ERR unknown command...; -ERR wrong number...; -ERR syntax error; -ERR AUTH inside MULTI...; -ERR AUTH inside MULTI...; -ERR HELLO inside MULTI...; -ERR Protocol version...; -NOPROTO...; -ERR HELLO inside MULTI...; -ERR HELLO inside MULTI...; -ERR SUBSCRIBE inside MULTI...; -ERR CLIENT inside MULTI...; -ERR unknown subcommand...; -ERR INFO inside MULTI...; -ERR wrong number...; -ERR unknown subcommand...; -ERR PUBSUB inside MULTI...
            client >> EXEC
            own    << EXEC
            own    >> -EXECABORT
            client << -EXECABORT
            """
        )

    def test_within_a_transaction_a_wrong_number_of_arguments_comes_first(self) -> None:
        dedicated().play(
            """
            client >> MULTI; SUBSCRIBE; PSUBSCRIBE
            own    << MULTI; SELECT; SELECT
            own    >> +OK; -ERR; -ERR
            client << +OK; -ERR wrong number...; -ERR wrong number...
            """
        )

    def test_malformed_commands_do_not_wait_for_replies(self) -> None:
        """Malformed commands are refused without a wait, and their errors keep their places."""
        multiplexed().play(
            """
            client >> GET a; AUTH; HELLO x; RESET x; CONFIG GET; SELECT 9; GET b
            multiplexed << GET a; GET b
            multiplexed >> +1
            client << +1; -ERR wrong number...; -ERR Protocol version...; -ERR wrong number...; -ERR wrong number...; -NOPERM...
            multiplexed >> +2
            client << +2
            """
        )

    def test_a_wrong_password_is_checked_when_all_replies_are_there(self) -> None:
        multiplexed().play(
            """
            client >> GET a; AUTH wrong; GET b
            multiplexed << GET a
            -- is waiting
            multiplexed >> +1
            client << +1; -WRONGPASS...
            multiplexed << GET b
            """
        )

    def test_a_channel_of_others_is_checked_on_the_dedicated_connection(self) -> None:
        slowly().play(
            """
            client >> SUBSCRIBE __keyspace@5__:a
            -- is asking 1
            -- refused ERR none
            client << -ERR none
            client >> SUBSCRIBE __keyspace@5__:a
            -- opened
            client << -NOPERM...
            -- is own returned clean
            """
        )
