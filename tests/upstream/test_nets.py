"""Redis's own limits: what is known, and when the proxy asks again."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.resp.value import Answer
from redisproxy.settings import Settings
from redisproxy.upstream.client import ControlError, ReplyError
from redisproxy.upstream.nets import Nets, NetsService, ask, connections_needed, missing

_NORMAL = b"normal 1073741824 268435456 60 slave 0 0 0 pubsub 33554432 8388608 60"


class FakeRedis:
    """Answers CONFIG GET of each setting with what it has, or with an error."""

    connected = True

    def __init__(self, **answers: Answer | Exception) -> None:
        self.answers = answers
        self.asked = 0

    def ask(self, *words: str) -> Awaitable[Answer]:
        self.asked += 1
        answer = self.answers.get(words[2].replace("-", "_"), [])
        if isinstance(answer, Exception):
            return defer.fail(answer)
        return defer.succeed([words[2].encode(), answer] if isinstance(answer, bytes) else answer)


def codes(nets: Nets, multiplexed: bool = True, connections: int = 100) -> list[str]:
    return [text.code for text in missing(nets, "redis://h:1", multiplexed, connections)]


class AskTests(unittest.TestCase):
    async def test_all(self) -> None:
        redis = FakeRedis(maxmemory=b"0", maxmemory_clients=b"25%", maxclients=b"10000", client_output_buffer_limit=_NORMAL)
        self.assertEqual(await ask(redis), Nets(0, "25%", 10000, 268435456))

    async def test_what_it_does_not_have_or_does_not_tell(self) -> None:
        redis = FakeRedis(maxmemory=ReplyError("NOPERM no"), maxclients=b"many", client_output_buffer_limit=b"slave 0 0 0")
        nets = await ask(redis)
        self.assertEqual(nets, Nets())
        self.assertEqual(codes(nets), [])


class MissingTests(unittest.TestCase):
    def test_unread_replies_need_one_of_two_limits(self) -> None:
        self.assertEqual(codes(Nets(output=0)), ["redis-no-output-limit"])
        self.assertEqual(codes(Nets(output=0, clients_memory="0")), ["redis-no-output-limit"])
        self.assertEqual(codes(Nets(output=0, clients_memory="25%")), [])
        self.assertEqual(codes(Nets(output=1 << 30)), [])

    def test_a_low_limit_closes_connections_that_sessions_share(self) -> None:
        self.assertEqual(codes(Nets(output=bounds.LOW_OUTPUT_LIMIT_BYTES - 1)), ["redis-output-limit"])
        self.assertEqual(codes(Nets(output=bounds.LOW_OUTPUT_LIMIT_BYTES - 1), multiplexed=False), [])
        self.assertEqual(codes(Nets(output=bounds.LOW_OUTPUT_LIMIT_BYTES)), [])

    def test_keys_and_connections(self) -> None:
        self.assertEqual(codes(Nets(memory=0)), ["redis-no-maxmemory"])
        self.assertEqual(codes(Nets(memory=1)), [])
        self.assertEqual(codes(Nets(clients=100)), ["redis-low-maxclients"])
        self.assertEqual(codes(Nets(clients=101)), [])

    def test_connections_needed(self) -> None:
        self.assertEqual(connections_needed(Settings(base_workers=3), 5), 3 + 3 + 20)
        self.assertEqual(connections_needed(Settings(base_workers=3, processes=2), 5), 2 * (3 + 3 + 20))
        self.assertEqual(connections_needed(Settings(connections="dedicated", max_workers=70, processes=2), 5), 140)


class ServiceTests(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.redis = FakeRedis(maxmemory=b"0")
        self.service = NetsService(self.clock, self.redis)
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def test_it_asks_again(self) -> None:
        self.service.look_now()
        self.assertEqual(self.service.nets.memory, 0)
        self.redis.answers["maxmemory"] = b"1000"
        self.clock.advance(bounds.NETS_SECONDS - 1)
        self.assertEqual(self.service.nets.memory, 0)
        self.clock.advance(1)
        self.assertEqual(self.service.nets.memory, 1000)

    def test_without_a_connection_it_keeps_what_it_knows(self) -> None:
        self.service.look_now()
        self.redis.answers["maxmemory"] = ControlError("gone")
        self.clock.advance(bounds.NETS_SECONDS)
        self.assertEqual(self.service.nets.memory, 0)
        self.redis.connected, asked = False, self.redis.asked
        self.clock.advance(bounds.NETS_SECONDS)
        self.assertEqual(self.redis.asked, asked)

    def test_it_asks_no_more_after_its_end(self) -> None:
        self.service.stopService()
        self.service.look_now()
        self.clock.advance(2 * bounds.NETS_SECONDS)
        self.assertEqual(self.redis.asked, 0)
