"""Messages of RESP3 that come within a reply.

Redis before 7.2 sends a message to the client that causes it at once: in the midst of the reply of
that client's EXEC, or of its ZPOPMIN under notifications about keys. A message there is no element
of the reply.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from redisproxy.resp.framing import ProtocolError, encode
from redisproxy.session.errors import OK
from redisproxy.tenants.model import Snapshot

from ..support.conversations import Conversation, ConversationCase, logged_in

#: Channels and payloads. Some payloads look like RESP.
CHANNELS = (b"news", b"blue:", b"")
PAYLOADS = (b"", b"hello", b"\r\n>3\r\n$7\r\nmessage\r\n", b"x" * 200)
#: How messages begin, with how many channels follow.
KINDS = ((b"message", 1), (b"pmessage", 2), (b"smessage", 1))
#: Type bytes of aggregates, with the number of elements that one of their entries has.
AGGREGATES = ((b"*", 1), (b"~", 1), (b"%", 2), (b"|", 2))
LEAVES = (b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"_\r\n", b"*0\r\n", b"$5\r\n>3\r\n\n\r\n", b",1.5\r\n", b"-ERR no\r\n")

#: Returns bytes, with this prefix before each channel.
Bytes = Callable[[bytes], bytes]


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def push(word: bytes, channels: list[bytes], payload: bytes) -> Bytes:
    def with_prefix(prefix: bytes) -> bytes:
        words = [word, *(prefix + channel for channel in channels), payload]
        return b">%d\r\n" % len(words) + b"".join(map(bulk, words))

    return with_prefix


def plain(data: bytes) -> Bytes:
    return lambda _: data


@st.composite
def pushes(draw: st.DrawFn) -> list[Bytes]:
    """Messages that come before an element: often none."""
    found = []
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        word, count = draw(st.sampled_from(KINDS))
        found.append(push(word, [draw(st.sampled_from(CHANNELS)) for _ in range(count)], draw(st.sampled_from(PAYLOADS))))
    return found


@st.composite
def replies(draw: st.DrawFn, depth: int = 3) -> list[Bytes]:
    """One reply, with messages between its elements at all levels."""
    if not depth or draw(st.booleans()):
        return [plain(draw(st.sampled_from(LEAVES)))]
    kind, each = draw(st.sampled_from(AGGREGATES))
    count = draw(st.integers(1, 3))
    parts = [plain(b"%b%d\r\n" % (kind, count))]
    for _ in range(count * each + (kind == b"|")):  # an attribute belongs to the reply behind it
        parts += draw(pushes()) + draw(replies(depth - 1))
    return parts


def subscribed() -> Conversation:
    talk = logged_in(3).command(b"SUBSCRIBE", b"news")
    talk.redis(b">3\r\n$9\r\nsubscribe\r\n$9\r\nblue:news\r\n:1\r\n").hears()
    return talk


def joined(parts: list[Bytes], prefix: bytes) -> bytes:
    return b"".join(part(prefix) for part in parts)


MESSAGE = push(b"message", [b"news"], b"hello")


class WithinAReplyTests(ConversationCase):
    def test_the_replies_of_real_servers_whole_and_split(self) -> None:
        """Redis 7.0 sent these to a client that was subscribed to what it caused."""
        popped = push(b"message", [b"__keyevent@3__:zpopmin"], b"z")(b"")  # such a channel has no prefix
        for parts in (
            [plain(b"*3\r\n"), MESSAGE, plain(b":1\r\n"), plain(b"+OK\r\n$1\r\n1\r\n")],
            [plain(b"*2\r\n" + popped + b"*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\nb\r\n,2\r\n")],
            [plain(b"*2\r\n:2\r\n*2\r\n" + popped + b"*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\nb\r\n,2\r\n")],
            [plain(b"*1\r\n"), MESSAGE, MESSAGE, plain(b"*2\r\n:1\r\n:2\r\n")],
        ):
            sent, heard = joined(parts, b"blue:"), joined(parts, b"")
            for size in (1, 2, 3, 7, 1000):
                talk = subscribed().command(b"EXEC").command(b"SELECT", b"3").command(b"PING")
                data = sent + b"+PONG\r\n"
                for start in range(0, len(data), size):
                    talk.redis(data[start : start + size])
                self.assertHears(talk, heard, OK, b"+PONG\r\n")
                self.assertTrue(talk.session.replies.drained)
            for cut in range(len(sent)):
                talk = subscribed().command(b"EXEC").redis(sent[:cut]).redis(sent[cut:])
                self.assertHears(talk, heard)

    @given(st.lists(st.tuples(pushes(), replies()), min_size=1, max_size=4), st.lists(st.integers(1, 40), max_size=40))
    def test_any_messages_in_any_replies_in_any_chunks(
        self, conversation: list[tuple[list[Bytes], list[Bytes]]], sizes: list[int]
    ) -> None:
        talk = subscribed()
        parts: list[Bytes] = []
        for number, (before, reply) in enumerate(conversation):
            talk.command(*((b"GET", b"a"), (b"BLPOP", b"q", b"0"))[number % 2])
            parts += before + reply
        data, start = joined(parts, b"blue:"), 0
        for size in sizes:
            talk.redis(data[start : start + size])
            start += size
        talk.redis(data[start:])
        self.assertHears(talk, joined(parts, b""))
        self.assertEqual(
            (talk.session.replies.pending, talk.upstream.pending.batches), (0, type(talk.upstream.pending.batches)())
        )

    @given(st.lists(replies(), min_size=1, max_size=4))
    def test_byte_by_byte(self, conversation: list[list[Bytes]]) -> None:
        talk = subscribed()
        for reply in conversation:
            talk.command(b"GET", b"a")
            for byte in joined(reply, b"blue:"):
                talk.redis(bytes([byte]))
        self.assertHears(talk, *(joined(reply, b"") for reply in conversation))

    def test_a_reply_that_the_client_does_not_hear(self) -> None:
        """CLIENT REPLY OFF and SKIP discard replies, and no messages, as in Redis."""
        for mode in (b"SKIP", b"OFF"):
            talk = subscribed().command(b"CLIENT", b"REPLY", mode).command(b"ZPOPMIN", b"z")
            sent = b"*2\r\n" + MESSAGE(b"blue:") + b"$1\r\na\r\n,1\r\n"
            for byte in sent:
                talk.redis(bytes([byte]))
            self.assertHears(talk, MESSAGE(b""))

    def test_after_a_revocation_the_reply_comes_and_no_message(self) -> None:
        talk = subscribed().command(b"EXEC").redis(b"*1\r\n")
        talk.recheck(Snapshot(None, []))
        talk.redis(MESSAGE(b"blue:") + b":1\r\n")
        self.assertHears(talk, b"*1\r\n:1\r\n")
        self.assertEqual(talk.closed, "revoked")

    def test_a_large_one_passes_in_pieces(self) -> None:
        large = push(b"message", [b"news"], b"y" * 100_000)
        talk = subscribed().command(b"EXEC").command(b"SELECT", b"3")
        sent = b"*1\r\n" + large(b"blue:") + b":1\r\n"
        talk.redis(sent[:50_000])
        self.assertEqual(talk.hears(), (b"*1\r\n" + large(b""))[: 50_000 - len(b"blue:")])
        self.assertTrue(talk.session.replies.mid_message)
        talk.redis(sent[50_000:])
        self.assertEqual(talk.hears(), (b"*1\r\n" + large(b"") + b":1\r\n")[50_000 - len(b"blue:") :] + OK)

    def test_nothing_else_may_come_there(self) -> None:
        inside = b"*1\r\n%b:1\r\n"
        invalidate = b">2\r\n$10\r\ninvalidate\r\n*0\r\n"
        confirmed = b">3\r\n$9\r\nsubscribe\r\n$9\r\nblue:more\r\n:2\r\n"
        nested = b">3\r\n$7\r\nmessage\r\n$9\r\nblue:news\r\n" + MESSAGE(b"blue:")
        for wrong in (inside % invalidate, inside % confirmed, inside % nested, nested, inside % b">0\r\n"):
            for chunks in ([wrong], [wrong[n : n + 1] for n in range(len(wrong))]):
                talk = subscribed().command(b"EXEC").command(b"SUBSCRIBE", b"more")
                with self.subTest(wrong), self.assertRaises(ProtocolError):
                    for chunk in chunks:
                        talk.redis(chunk)
        for protocol in (2, 3):  # nobody is subscribed
            talk = logged_in(protocol).command(b"EXEC")
            self.assertRaises(ProtocolError, talk.redis, inside % MESSAGE(b"blue:"))
        # In RESP2 there are no pushes.
        talk = logged_in().command(b"SUBSCRIBE", b"news").redis(b"*3\r\n$9\r\nsubscribe\r\n$9\r\nblue:news\r\n:1\r\n")
        self.assertRaises(ProtocolError, talk.client(encode([b"PING"])).redis, inside % MESSAGE(b"blue:"))

    def test_a_session_that_leaves_within_one(self) -> None:
        """The connection is not clean: nobody else gets the rest."""
        talk = subscribed().command(b"EXEC")
        sent = b"*1\r\n" + MESSAGE(b"blue:") + b":1\r\n"
        talk.redis(sent[:20])
        self.assertTrue(talk.upstream.pending.partial)
        self.assertFalse(talk.upstream.pending.settled)
        talk.session.ending.at_once()
        self.assertIs(talk.upstream.released, False)
