"""Messages that a RESP3 subscriber causes itself: it gets the bytes that it would get straight from
Redis.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable

from redisproxy.resp.framing import encode

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, on_every_server
from ..support.waiting import LIMIT

#: Commands, as lines. Redis before 7.2 sends the message within the reply of EXEC and of ZPOPMIN.
COMMANDS = (
    "PUBLISH news hello",
    "MULTI; PUBLISH news hello; SET a 1; GET a; EXEC",
    "ZADD z 1 a 2 b; ZPOPMIN z 2",
    "MULTI; ZADD z 1 a 2 b; ZPOPMIN z 2; EXEC",
    "ZADD z 1 a 2 b; BZPOPMIN z 1; BZPOPMIN z 1; BZPOPMIN z 0.01",
    "MULTI; PUBLISH news 1; PUBLISH more 2; PUBLISH news 3; PUBLISH nobody 4; EXEC; ECHO end",
    "CLIENT REPLY SKIP; PUBLISH news unheard; ECHO end",
    "ZADD z 1 a; CLIENT REPLY SKIP; ZPOPMIN z 1; ECHO end",
)
LARGE = encode([b"MULTI"]) + encode([b"PUBLISH", b"news", b"x" * 300_000]) + encode([b"EXEC"])


def pipeline(line: str) -> bytes:
    return b"".join(encode(command.encode().split()) for command in line.split("; "))


@on_every_server
class ToItselfTests(unittest.TestCase):
    def each_message(self, binary: Callable[[], str]) -> None:
        installation = Installation(server=RedisServer(binary, "notify-keyspace-events KEA"))
        self.addCleanup(installation.stop)

        def heard(port: int, password: str, index: bytes) -> list[bytes]:
            client = raw_client(self, port, b"HELLO", b"3", b"AUTH", b"default", password.encode())
            client.ask([b"SELECT", index])
            replies = [client.ask([b"SUBSCRIBE", b"news"]), client.ask([b"SUBSCRIBE", b"more"])]
            replies += [client.ask([b"PSUBSCRIBE", b"__keyevent@3__:z*"]), client.ask([b"PSUBSCRIBE", b"n?ws"])]
            for line in COMMANDS:
                replies.append(self.until_end(client, pipeline(line)))
            replies.append(self.until_end(client, LARGE))
            self.until_end(client, pipeline("UNSUBSCRIBE news; UNSUBSCRIBE more; PUNSUBSCRIBE n?ws"))
            return replies

        straight = heard(installation.server.port, installation.server.password, b"3")
        installation.server.client(3).flushdb()
        self.assertEqual(heard(installation.proxy.port, Installation.BLUE, b"3"), straight)
        self.assertNotIn("redis-lost", installation.proxy.log)
        self.assertNotIn("Traceback", installation.proxy.log)

    def until_end(self, client: RawClient, commands: bytes) -> bytes:
        """Returns all that comes until Redis has answered the commands."""
        end = b"$9\r\n\0the end\0\r\n"
        client.send(commands + encode([b"ECHO", end[4:-2]]))
        heard = b""
        while not heard.endswith(end):
            self.assertTrue(some := client.some(), heard)
            heard += some
        return heard.removesuffix(end)

    def each_with_redis_py(self, binary: Callable[[], str]) -> None:
        """redis-py takes the message out of the reply of its EXEC."""
        installation = Installation(server=RedisServer(binary))
        self.addCleanup(installation.stop)
        for client in (installation.server.client(3, protocol=3), installation.blue(protocol=3)):
            with client, client.pubsub() as subscriber:
                subscriber.subscribe("news")
                self.assertEqual(subscriber.get_message(timeout=LIMIT)["type"], "subscribe")
                heard: list[object] = []
                subscriber.connection._parser.set_pubsub_push_handler(heard.append)
                for command in (("MULTI",), ("PUBLISH", "news", "hello"), ("INCR", "n"), ("EXEC",)):
                    subscriber.connection.send_command(*command)
                answers = [subscriber.connection.read_response() for _ in range(4)]
                self.assertEqual(answers[3][0], 1)
                self.assertEqual(len(answers[3]), 2)
                subscriber.connection.send_command("PING")
                subscriber.connection.read_response()
                self.assertEqual(heard, [[b"message", b"news", b"hello"]])
