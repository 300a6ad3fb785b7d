"""Notifications about keys by the patterns of real libraries: the client hears what it would hear
straight from a Redis of its own, and nothing of other databases.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable

from redisproxy.resp.framing import encode

from ..support.proxy import Installation
from ..support.raw import raw_client
from ..support.servers import RedisServer, on_every_server, redis_5
from ..support.waiting import LIMIT

#: What a session sends, as lines; the events that it hears are those of EVENTS.
#: Redisson listens for ends of keys, and takes its listeners away. Spring's containers listen to
#: all. The others are what people write by hand.
SUBSCRIPTIONS = (
    "PSUBSCRIBE __keyevent@*:expired",
    "PSUBSCRIBE __keyevent@*__:expired; PSUBSCRIBE __keyevent@*:del",
    "PSUBSCRIBE __keyevent@*",
    "PSUBSCRIBE __keyspace@*__:user:*",
    "PSUBSCRIBE __key*__:*",
    "PSUBSCRIBE *",
    "PSUBSCRIBE [_]_key*:set; PSUBSCRIBE *:set; PSUBSCRIBE ?*:set",
    "PSUBSCRIBE * ** __keyevent@3__:* __keyevent@*; PUNSUBSCRIBE **",
    "SUBSCRIBE news; PSUBSCRIBE n?ws *; SUBSCRIBE more; UNSUBSCRIBE news; PSUBSCRIBE *; PUNSUBSCRIBE n?ws",
    "PSUBSCRIBE *:events* \\*; PSUBSCRIBE __keyspace@3__:__:events",
    "PSUBSCRIBE *:user:*:x __keyspace@[^5]__:[a-z]*",
    "PUNSUBSCRIBE __keyevent@*:expired; PUNSUBSCRIBE; PSUBSCRIBE __keyevent@*:expired; PUNSUBSCRIBE; PUNSUBSCRIBE",
    "PSUBSCRIBE __keyevent@*:set *; PUNSUBSCRIBE __keyevent@*:set; PUNSUBSCRIBE __keyevent@*:set nothing",
)
#: What another session of the tenant does.
EVENTS = "SET user:1 a; SET a:user:2:x b; DEL user:1; SET events:events c; PUBLISH news hello; SET __:events d; PUBLISH * x"
SETTINGS = ("notify-keyspace-events KEA", "bind 127.0.0.1")  # Redis 5 does not know "-::1"
#: What a tenant may try to hear of others.
HOSTILE = (
    rb"* ** ?* [_]* \* \__key* __key*@5* *@5__:* [_]_keyevent@5__:* ?_keyspace@5__:* __keyevent@[0-9]__:* __keyspace@?__:user:1"
    rb" __keyspace@5__:* *user* *:user:1 *:set *set team-green:* *:news [^x]* __key*__:set __key[a-z]*@*:* [_-`]* [a-_]*"
).split()
END = b"the end of this session"


def pipeline(line: str) -> bytes:
    return b"".join(encode(command.encode().split()) for command in line.split("; "))


class Both:
    """A proxy whose database 3 is a tenant's, and a Redis that has only the database 3 besides."""

    def __init__(self, case: unittest.TestCase, binary: Callable[[], str], *options: str) -> None:
        self.installation = Installation(*options, server=RedisServer(binary, *SETTINGS))
        case.addCleanup(self.installation.stop)
        self.alone = RedisServer(binary, *SETTINGS).start()
        case.addCleanup(self.alone.stop)
        self._case = case

    def assertSame(self, protocol: int, line: str) -> list[bytes]:
        """Asserts that a subscriber hears the same straight and through the proxy. Returns it."""
        straight = self._heard(self.alone.port, self.alone.password, protocol, line)
        through = self._heard(self.installation.proxy.port, Installation.BLUE, protocol, line)
        self._case.assertEqual(through, straight, line)
        return straight[0] + straight[1]

    def _heard(self, port: int, password: str, protocol: int, line: str) -> tuple[list[bytes], list[bytes]]:
        """Returns the answers to the subscriber's commands, and all messages, which Redis may send
        in any order.
        """
        login = [b"AUTH", password.encode()]
        if protocol == 3:
            login = [b"HELLO", b"3", b"AUTH", b"default", password.encode()]
        subscriber, other = raw_client(self._case, port, *login), raw_client(self._case, port, b"AUTH", password.encode())
        for client in (subscriber, other):
            client.ask([b"SELECT", b"3"])
        other.ask([b"FLUSHDB"])
        subscriber.send(pipeline(line + "; PING"))
        answers: list[bytes] = []
        while not answers or b"PONG" not in answers[-1].upper():
            answers.append(subscriber.reply())
        with self.installation.green(protocol=2) as green:
            for command in EVENTS.split("; "):
                green.execute_command(*command.split())  # what others do is not heard
                other.ask(command.encode().split())
        subscriber.send([b"PING", END])
        messages: list[bytes] = []
        while not messages or END not in messages[-1]:
            messages.append(subscriber.reply())
        for client in (subscriber, other):
            client.close()
        return answers, sorted(messages[:-1])


@on_every_server
class KeyEventsTests(unittest.TestCase):
    def check(self, both: Both, *protocols: int) -> None:
        for protocol in protocols:
            heard = [message for line in SUBSCRIPTIONS for message in both.assertSame(protocol, line)]
            # the patterns and the channels are those of the client, and something was heard
            self.assertTrue(any(b"__keyevent@*" in message and b"__keyevent@3__:del" in message for message in heard))
        self.assertNotIn("Traceback", both.installation.proxy.log)
        self.assertNotIn("redis-lost", both.installation.proxy.log)

    def each_pattern(self, binary: Callable[[], str]) -> None:
        self.check(Both(self, binary), 2, 3)

    def each_pattern_with_dedicated_connections(self, binary: Callable[[], str]) -> None:
        self.check(Both(self, binary, "--connections", "dedicated"), 2, 3)

    def each_end_of_a_key(self, binary: Callable[[], str]) -> None:
        """Redisson's listeners: the event comes although no client does anything."""
        both = Both(self, binary)
        for name, port, password in (
            ("straight", both.alone.port, both.alone.password),
            ("proxy", both.installation.proxy.port, Installation.BLUE),
        ):
            with self.subTest(name):
                client = raw_client(self, port, b"AUTH", password.encode())
                client.ask([b"SELECT", b"3"])
                client.ask([b"PSUBSCRIBE", b"__keyevent@*:expired"])
                other = raw_client(self, port, b"AUTH", password.encode())
                other.ask([b"SELECT", b"3"])
                other.ask([b"SET", b"lock", b"x", b"PX", b"1"])
                expected = [b"pmessage", b"__keyevent@*:expired", b"__keyevent@3__:expired", b"lock"]
                self.assertEqual(client.reply(), encode(expected))
                gone = b"*3\r\n$12\r\npunsubscribe\r\n$20\r\n__keyevent@*:expired\r\n:0\r\n"
                self.assertEqual(client.ask([b"PUNSUBSCRIBE", b"__keyevent@*:expired"]), gone)

    def each_hostile_pattern_hears_nothing_of_others(self, binary: Callable[[], str]) -> None:
        installation = Both(self, binary).installation
        master = raw_client(self, installation.server.port, b"AUTH", installation.server.password.encode())
        master.ask([b"PSUBSCRIBE", b"__key*"])
        spies = []
        for protocol in (b"2", b"3"):
            spy = raw_client(
                self, installation.proxy.port, b"HELLO", protocol, b"AUTH", b"default", Installation.BLUE.encode()
            )
            for pattern in HOSTILE:
                spy.ask([b"PSUBSCRIBE", pattern])  # accepted or refused
            spy.ask([b"PSUBSCRIBE", *[pattern for pattern in HOSTILE if not pattern.startswith(b"__key")]])
            spies.append(spy)
        with installation.green() as green:
            for command in EVENTS.split("; "):
                green.execute_command(*command.split())
            green.execute_command("PUBLISH", "__keyevent@5__:set", "spoofed")
        heard = b""
        while b"spoofed" not in heard and heard.count(b"pmessage") < 8:
            heard += master.some()
        self.assertIn(b"__keyevent@5__:set", heard)
        for spy in spies:
            spy.send([b"PING", END])
            while END not in (answer := spy.reply()):  # the rest of the confirmations, and no message
                self.assertIn(b"psubscribe", answer)

    def each_foreign_event_is_refused_by_redis_itself(self, binary: Callable[[], str]) -> None:
        """The rules of the tenant's ACL user name no other database's channels."""
        both = Both(self, binary)
        with both.installation.blue() as blue, blue.pubsub() as subscriber:
            subscriber.psubscribe("*", "__key*", "__keyevent@*", "[_]_keyspace@?__*")
            for _ in range(4):
                subscriber.get_message(timeout=LIMIT)
        with both.installation.server.client(decode_responses=True) as master:
            user = master.acl_getuser("redisproxy:team-blue:3")
            channels = user["channels"]
            rules = channels if isinstance(channels, list) else channels.split()
            for rule in rules:
                rule = rule.removeprefix("&").replace("\\", "")
                self.assertTrue(rule.startswith(("team-blue:", "__keyspace@3__:", "__keyevent@3__:")), rule)
            self.assertGreater(len(rules), 4 + 3)


class OneLayerTests(unittest.TestCase):
    def test_redis_5(self) -> None:
        """Without ACL users, the patterns that the proxy sends hold the tenants apart."""
        both = Both(self, redis_5)
        for line in SUBSCRIPTIONS:
            both.assertSame(2, line)
