"""What becomes of commands whose client sent its end of file, as transcripts.

`tests.support.transcripts` explains their lines.
"""

from __future__ import annotations

import unittest

from redisproxy.resp.framing import encode

from ..support.conversations import logged_in, logged_in_multiplexed
from ..support.transcripts import Transcript

LARGE = encode([b"SET", b"a", b"x" * 100_000])


def multiplexed(**texts: bytes) -> Transcript:
    """A session over multiplexed connections. A dedicated one opens at once."""
    return Transcript(logged_in_multiplexed(), **texts)


def slowly(**texts: bytes) -> Transcript:
    """The same session, but the transcript opens the dedicated connection."""
    return Transcript(logged_in_multiplexed(upstreams_at_once=False), **texts)


def dedicated(**texts: bytes) -> Transcript:
    """A session as with `--connections dedicated`."""
    return Transcript(logged_in(), **texts)


class BlockedTests(unittest.TestCase):
    """A command that is blocked at Redis is given up at once, with what stands behind it."""

    def test_given_up(self) -> None:
        for words in (
            "BLPOP q 0",
            "BRPOP q 0",
            "BLMOVE q r LEFT LEFT 0",
            "BLMPOP 0 1 q LEFT",
            "BZPOPMIN z 0",
            "XREAD BLOCK 0 STREAMS s $",
            "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
        ):
            for start in (multiplexed, dedicated):
                start().play(
                    f"""
                    client >> {words}; SET late 1
                    own    << {words}; SET late 1
                    -- eof
                    -- is own given up
                    -- is waiting
                    -- lost
                    -- is closed client-left
                    """
                )

    def test_wait_is_given_up(self) -> None:
        multiplexed().play(
            """
            client >> WAIT 1 0
            own    << SPUBLISH blue:\0redisproxy ""; WAIT 1 0
            own    >> :0
            -- eof
            -- is own given up
            -- lost
            -- is closed client-left
            """
        )

    def test_what_redis_had_answered_still_comes(self) -> None:
        multiplexed().play(
            """
            client >> GET a; BLPOP q 0; GET b; SELECT 3
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            own    << BLPOP q 0; GET b
            -- eof
            -- is own given up
            own    >> *2|$1|q|$4|item
            client << *2|$1|q|$4|item
            own    >> +2
            client << +2; +OK
            -- is closed client-left
            """
        )

    def test_what_waits_for_it_is_not_run(self) -> None:
        for behind in ("INFO", "AUTH blue", "PUBSUB NUMPAT", "RESET"):
            dedicated().play(
                f"""
                client >> BLPOP q 0; {behind}; SET late 1
                own    << BLPOP q 0
                -- eof
                -- is own given up
                own    >> *-1
                client << *-1
                -- is closed client-left
                """
            )

    def test_what_a_rate_holds_is_not_run(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            -- throttle
            client >> SET late 1
            -- eof
            -- is own given up
            -- rate
            -- lost
            -- is closed client-left
            """
        )

    def test_a_command_that_was_sent_in_part_is_not_run(self) -> None:
        multiplexed(part=LARGE[:90_000]).play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            client >> <part>
            own    << <part>
            -- eof
            -- is own given up
            -- lost
            -- is closed client-left
            """
        )

    def test_behind_it_the_session_had_ended(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0; QUIT
            own    << BLPOP q 0
            -- eof
            -- is own given up
            -- lost
            -- is closed quit
            """
        )

    def test_while_the_proxy_ends(self) -> None:
        multiplexed().play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            -- drain
            -- eof
            -- is own given up
            -- lost
            -- is closed shutdown
            """
        )
        multiplexed().play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            -- drain
            -- hurry
            -- eof
            -- is own given up
            -- lost
            -- is closed shutdown
            """
        )

    def test_a_subscriber_gets_the_rest_of_a_message(self) -> None:
        talk = logged_in(3)
        Transcript(talk).play(
            """
            client >> SUBSCRIBE c; BLPOP q 0
            own    << SUBSCRIBE blue:c; BLPOP q 0
            own    >> >3|$9|subscribe|$6|blue:c|:1
            client << >3|$9|subscribe|$1|c|:1
            own    >> >3|$7|message|$6|blue:c|$5|he~
            client << >3|$7|message|$1|c|$5|he~
            -- eof
            -- is own given up
            own    >> llo
            client << llo
            -- lost
            -- is closed client-left
            """
        )


class NotBlockedTests(unittest.TestCase):
    """Whatever cannot block is answered."""

    def test_plain_commands(self) -> None:
        for start, who in ((multiplexed, "multiplexed"), (dedicated, "own")):
            start().play(
                f"""
                client >> GET a; GET b
                {who} << GET a; GET b
                -- eof
                -- is waiting
                {who} >> +1; +2
                client << +1; +2
                -- is closed client-left
                """
            )

    def test_a_transaction(self) -> None:
        transcript = multiplexed().play(
            """
            client >> WATCH a
            own    << WATCH a
            client >> MULTI; GET a; EXEC
            own    << MULTI; GET a; EXEC
            -- eof
            own    >> +OK; +OK; +QUEUED; *1; +1
            client << +OK; +OK; +QUEUED; *1; +1
            -- is closed client-left
            """
        )
        self.assertIsNone(transcript.conversation.upstream.given_up)

    def test_a_command_that_blocked_before(self) -> None:
        transcript = dedicated().play(
            """
            client >> BLPOP q 0
            own    << BLPOP q 0
            own    >> *-1
            client << *-1
            client >> GET a
            own    << GET a
            -- eof
            own    >> +1
            client << +1
            -- is closed client-left
            """
        )
        self.assertIsNone(transcript.conversation.upstream.given_up)

    def test_a_command_behind_one_that_blocks_no_more(self) -> None:
        transcript = dedicated().play(
            """
            client >> BLPOP q 0; GET a; BLPOP r 0; GET b; GET c
            own    << BLPOP q 0; GET a; BLPOP r 0; GET b; GET c
            own    >> *-1; +1; *-1; +2
            client << *-1; +1; *-1; +2
            -- eof
            own    >> +3
            client << +3
            -- is closed client-left
            """
        )
        self.assertIsNone(transcript.conversation.upstream.given_up)

    def test_xread_without_block(self) -> None:
        multiplexed().play(
            """
            client >> XREAD STREAMS s 0
            multiplexed << XREAD STREAMS s 0
            -- eof
            multiplexed >> *-1
            client << *-1
            -- is closed client-left
            """
        )


class AfterTheEndOfFileTests(unittest.TestCase):
    """A command that may block, and waits when the end of file comes."""

    def test_it_is_sent_soon_after_and_given_up(self) -> None:
        """So `printf 'BLPOP q 0' | nc` gets an item that is there."""
        slowly().play(
            """
            client >> BLPOP q 0; GET a; INFO; SET late 1
            -- eof
            -- opened
            own    << BLPOP q 0; GET a
            -- is own given up
            own    >> *2|$1|q|$4|item; +1
            client << *2|$1|q|$4|item; +1
            -- is closed client-left
            """
        )

    def test_a_rate_does_not_keep_it_from_being_given_up(self) -> None:
        slowly().play(
            """
            client >> BLPOP q 0; SET late 1
            -- eof
            -- throttle
            -- opened
            own    << BLPOP q 0
            -- is own given up
            -- rate
            -- lost
            -- is closed client-left
            """
        )

    def test_later_it_is_not_sent(self) -> None:
        slowly().play(
            """
            client >> GET a; BLPOP q 0; SET late 1
            multiplexed << GET a
            -- eof
            -- gone
            multiplexed >> +1
            client << +1
            -- opened
            -- is closed client-left
            -- is own returned clean
            """
        )

    def test_later_it_is_not_sent_by_a_dedicated_connection(self) -> None:
        dedicated().play(
            """
            client >> GET a
            own    << GET a
            -- throttle
            client >> BLPOP q 0; SET late 1
            -- eof
            -- gone
            -- rate
            own    >> +1
            client << +1
            -- is closed client-left
            """
        )

    def test_a_client_that_left_while_it_was_not_read(self) -> None:
        """Its end of file was not read yet: the session is open."""
        multiplexed().play(
            """
            -- throttle
            client >> GET a; BLPOP q 0; SET late 1
            -- gone
            -- rate
            multiplexed << GET a
            multiplexed >> +1
            client << +1
            -- is closed client-left
            """
        )

    def test_within_a_transaction_nothing_blocks(self) -> None:
        slowly().play(
            """
            client >> MULTI; BLPOP q 0; EXEC
            -- eof
            -- gone
            -- opened
            own    << MULTI; BLPOP q 0; EXEC
            own    >> +OK; +QUEUED; *1|*-1
            client << +OK; +QUEUED; *1|*-1
            -- is closed client-left
            """
        )
