"""Tenants' users in a real Redis, made by several processes or replicas of the proxy at once."""

from __future__ import annotations

from collections.abc import Callable

import redis
from twisted.internet import defer
from twisted.trial import unittest

from redisproxy.core.commands import parse
from redisproxy.core.policy import make_policy
from redisproxy.core.tenants import Tenant
from redisproxy.net.control import ControlError, Server
from redisproxy.net.wall import PATTERN_BYTES, PATTERNS, Wall

from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server
from ..support.waiting import LIMIT

BLUE = Tenant("team-blue", 3)
MASTER = MASTER_PASSWORD.encode()


class Control:
    """Asks at once. before: called before each question, once, with its words."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()
        self._client.response_callbacks.clear()  # answers as they come
        self.before: Callable[[tuple], object] | None = None

    async def ask(self, *words: bytes | str) -> object:
        before, self.before = self.before, None
        if before is not None:
            before(words)
        try:
            return self._client.execute_command(*words)
        except redis.ResponseError as error:
            raise ControlError(str(error)) from None


def run(work: object) -> object:
    results: list[object] = []
    defer.Deferred.fromCoroutine(work).addBoth(results.append)
    [result] = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


def fails(words: tuple) -> None:
    raise ControlError("Redis did not answer")


@on_every_server
class ReplicasTests(unittest.SynchronousTestCase):
    def wall(self, server: RedisServer) -> Wall:
        control = Control(server)
        self.addCleanup(control._client.close)
        wall = Wall("require", control)
        wall.control = control
        commands = parse(control._client.execute_command("COMMAND"))
        wall.use(Server("a Redis", 64, commands, True, False), make_policy(commands, scripts=True))
        return wall

    def start(self, binary: Callable[[], str]) -> RedisServer:
        server = RedisServer(binary).start()
        self.addCleanup(server.stop)
        return server

    def subscribed(self, server: RedisServer, wall: Wall) -> redis.client.PubSub:
        """A session of the wall's process that is subscribed to a pattern."""
        name, password = run(wall.login(BLUE, MASTER))
        run(wall.permit(BLUE, [b"team-blue:news.*"]))
        client = redis.Redis(port=server.port, username=name.decode(), password=password.decode())
        pubsub = client.pubsub()
        self.addCleanup(client.close)
        self.addCleanup(pubsub.close)
        pubsub.psubscribe("team-blue:news.*")
        self.assertEqual(pubsub.get_message(timeout=LIMIT)["type"], "psubscribe")
        return pubsub

    def assertHears(self, server: RedisServer, pubsub: redis.client.PubSub) -> None:
        self.assertEqual(server.client().publish("team-blue:news.today", "x"), 1, "it was not disconnected")
        self.assertEqual(pubsub.get_message(timeout=LIMIT)["data"], b"x")

    def each_another_one_provisions_the_user_again(self, binary: Callable[[], str]) -> None:
        server = self.start(binary)
        first, second = self.wall(server), self.wall(server)
        pubsub = self.subscribed(server, first)
        self.assertEqual(run(second.login(BLUE, MASTER)), run(first.login(BLUE, MASTER)))
        self.assertHears(server, pubsub)
        run(second.permit(BLUE, [b"team-blue:other.*"]))
        self.assertHears(server, pubsub)

    def each_patterns_that_redis_cannot_be_told_of(self, binary: Callable[[], str]) -> None:
        wall = self.wall(self.start(binary))
        run(wall.login(BLUE, MASTER))
        for pattern in (b"team-blue:a b", b"team-blue:\0", b"team-blue:a\r\n", b"team-blue:\t", b"team-blue:\v"):
            with self.assertRaises(ControlError) as caught:
                run(wall.permit(BLUE, [b"team-blue:fit", pattern]))
            self.assertIn("spaces or NUL bytes", caught.exception.told)
        with self.assertRaises(ControlError) as caught:
            run(wall.permit(BLUE, [b"team-blue:" + b"x" * PATTERN_BYTES]))
        self.assertIn(f"more than {PATTERN_BYTES} bytes", caught.exception.told)
        run(wall.permit(BLUE, [b"team-blue:\xff\x01", b"team-blue:fit"]))

    def each_two_make_it_at_the_same_moment(self, binary: Callable[[], str]) -> None:
        """Before one of its questions to Redis the other one is through with all of its own: before the first, the second …"""
        reached = []
        for questions in range(3):
            server = self.start(binary)
            first, second = self.wall(server), self.wall(server)
            subscribed = self.meanwhile(second.control, questions, lambda: self.subscribed(server, first))  # noqa: B023
            run(second.login(BLUE, MASTER))
            reached.append(bool(subscribed))
            for pubsub in subscribed:
                self.assertHears(server, pubsub)
        self.assertTrue(reached[0])

    def each_sessions_at_once_have_the_patterns_of_one(self, binary: Callable[[], str]) -> None:
        """What Redis is being told of counts, too, and what it was not told of does not."""
        wall = self.wall(self.start(binary))
        run(wall.login(BLUE, MASTER))
        many = [b"team-blue:%d" % number for number in range(PATTERNS)]

        def meanwhile(words: tuple) -> None:
            run(wall.permit(BLUE, many[:1]))  # by another session, at once: of one that both name
            with self.assertRaises(ControlError) as caught:
                run(wall.permit(BLUE, [b"team-blue:one_more"]))
            self.assertIn(f"{PATTERNS} different patterns", caught.exception.told)

        wall.control.before = fails
        with self.assertRaises(ControlError):
            run(wall.permit(BLUE, many))
        wall.control.before = meanwhile
        run(wall.permit(BLUE, many[:-1]))
        run(wall.permit(BLUE, many))
        with self.assertRaises(ControlError):
            run(wall.permit(BLUE, [b"team-blue:one_more"]))

    def meanwhile(self, control: Control, questions: int, call: Callable[[], object]) -> list[object]:
        """After so many questions it calls, before the next one. What that gave, as long as it came to it."""
        found: list[object] = []

        def before(left: int) -> None:
            if left:
                control.before = lambda words: before(left - 1)
            else:
                found.append(call())

        control.before = lambda words: before(questions)
        return found
