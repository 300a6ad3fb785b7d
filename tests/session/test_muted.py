"""CLIENT REPLY: discarded replies cost little, also where every second one is heard."""

from __future__ import annotations

from redisproxy.resp.framing import encode

from ..support.conversations import SharedCase
from ..support.conversations import logged_in_multiplexed as logged_in

SKIP = encode([b"CLIENT", b"REPLY", b"SKIP"])
GET = encode([b"GET", b"a"])


class MutedTests(SharedCase):
    def test_every_second_reply(self) -> None:
        conversation = logged_in().client((SKIP + GET + GET) * 1000)
        batches = conversation.tenant_pool.upstream.pending.batches
        self.assertLessEqual(len(batches), 2)
        self.assertEqual(sum(batch.count for batch in batches), 2000)
        for number in range(1000):
            conversation.shared_redis(b"$7\r\nskipped\r\n+%d\r\n" % number)
        self.assertHears(conversation, b"".join(b"+%d\r\n" % number for number in range(1000)))
        self.assertTrue(conversation.session.replies.drained)

    def test_errors_and_replies_in_pieces(self) -> None:
        conversation = logged_in().client((SKIP + GET + GET) * 3)
        for byte in b"-ERR 1\r\n-ERR 2\r\n*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n+3\r\n-ERR 4\r\n":
            conversation.shared_redis(bytes([byte]))
        self.assertHears(conversation, b"-ERR 2\r\n*1\r\n$1\r\nb\r\n-ERR 4\r\n")

    def test_all_are_discarded(self) -> None:
        conversation = logged_in().client(encode([b"CLIENT", b"REPLY", b"OFF"]) + (GET + encode([b"PING"])) * 100)
        self.assertEqual(len(conversation.tenant_pool.upstream.pending.batches), 1)
        conversation.shared_redis(b"+x\r\n" * 200)
        self.assertHears(conversation, b"")

    def test_of_a_client_that_left(self) -> None:
        conversation = logged_in().client((SKIP + GET + GET) * 3)
        pending = conversation.tenant_pool.upstream.pending
        conversation.session.ending.at_once()
        pending.received(b"+x\r\n" * 6)
        self.assertFalse(pending.batches)
