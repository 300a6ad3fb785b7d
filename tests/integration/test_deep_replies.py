"""Tests replies that are nested as deep as a script can make them: they are forwarded unchanged,
and other sessions are not affected.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable

from redisproxy.resp.framing import encode

from ..support.proxy import Installation, master
from ..support.raw import RawClient, raw_client
from ..support.relay import Relay
from ..support.servers import RedisServer, on_every_server, valkey
from ..support.waiting import until

#: A script that returns a table which contains itself. Redis nests the reply as deep as it can, and
#: ends it with an error.
ENDLESS = encode([b"EVAL", b"local t = {} t[1] = t return t", b"0"])
#: Levels of that reply on every server: Lua's LUAI_MAXCSTACK, minus what is already on its stack.
DEEPEST = 7995
#: The other types that a script can nest, in RESP3.
MAPS = encode([b"EVAL", b"local t = {} t['map'] = {key = t} return t", b"0"])
SETS = encode([b"EVAL", b"local t = {} t['set'] = {[t] = true} return t", b"0"])


class DeepCase(unittest.TestCase):
    def raw(self, port: int, *login: bytes) -> RawClient:
        return raw_client(self, port, *login)


@on_every_server
class WhateverRedisSendsTests(DeepCase):
    def each_shared(self, binary: Callable[[], str]) -> None:
        self.check(binary, "multiplexed")

    def each_dedicated(self, binary: Callable[[], str]) -> None:
        self.check(binary, "dedicated")

    def check(self, binary: Callable[[], str], upstreams: str) -> None:
        installation = Installation("--connections", upstreams, "--allow-commands", "EVAL", server=RedisServer(binary))
        self.addCleanup(installation.stop)
        master_password = installation.server.password.encode()
        for protocol in (b"2", b"3"):
            straight = self.raw(installation.server.port, b"HELLO", protocol, b"AUTH", b"default", master_password)
            deep, other = (
                self.raw(installation.proxy.port, b"HELLO", protocol, b"AUTH", b"team-blue", b"blue-password")
                for _ in range(2)
            )
            self.assertEqual(straight.ask(ENDLESS), b"*1\r\n" * DEEPEST + b"-ERR reached lua stack limit\r\n")
            transaction = [encode([b"MULTI"]), ENDLESS, encode([b"EXEC"])]
            scripts = (ENDLESS, MAPS, SETS)
            expected = [*map(straight.ask, scripts), *map(straight.ask, transaction)]
            self.assertEqual(expected[-1].count(b"*1\r\n"), DEEPEST + 1)
            # First in one write between other commands; then one by one, with another session's
            # commands in between.
            deep.send(b"".join([*scripts, encode([b"ECHO", b"own"]), *transaction]))
            other.send(b"".join(encode([b"ECHO", b"%d" % number]) for number in range(100)))
            self.assertEqual([deep.reply() for _ in range(7)], [*expected[:3], b"$3\r\nown\r\n", *expected[3:]])
            for number in range(100):
                self.assertEqual(other.reply(), b"$%d\r\n%d\r\n" % (len(str(number)), number))
            for command, reply in zip((*scripts, *transaction), expected, strict=True):
                other.send(encode([b"ECHO", b"other"]))
                self.assertEqual(deep.ask(command), reply)
                self.assertEqual(other.reply(), b"$5\r\nother\r\n")
        for text in ("asked", "redis-lost", "Traceback"):
            self.assertNotIn(text, installation.proxy.log)


class WhatNoRedisSendsTests(DeepCase):
    """If a Redis ever sent a reply that deep, only its connection would end."""

    def test_others_get_a_clear_error_and_one_line_is_logged(self) -> None:
        installation = Installation("--connections", "multiplexed", server=RedisServer(valkey))
        self.addCleanup(installation.stop)
        relay = Relay(installation.server.port)
        self.addCleanup(relay.stop)
        url = installation.server.url.replace(f":{installation.server.port}/", f":{relay.port}/")
        installation.manifests.write([master(url), *installation.documents()[1:]])
        installation.proxy.refresh()
        installation.proxy.logged(f"Redis is at redis://127.0.0.1:{relay.port}")
        green = self.raw(installation.proxy.port, b"AUTH", b"green-password")
        for _ in range(20):
            deep = self.raw(installation.proxy.port, b"AUTH", b"blue-password")
            other = self.raw(installation.proxy.port, b"AUTH", b"blue-password")
            self.assertEqual(other.ask(encode([b"PING"])), b"+PONG\r\n")
            first, second = encode([b"ECHO", b"first" * 20]), encode([b"ECHO", b"second" * 20])
            relay.stall()
            deep.send(first)
            until(lambda: relay.held() >= len(first), "the first is on its way to Redis")  # noqa: B023
            other.send(second)
            until(lambda: relay.held() >= len(first + second), "so is the other")  # noqa: B023
            relay.say(b"*%d\r\n" % (10**18 - 1) * 5, held=len(first + second))
            self.assertRaises(EOFError, deep.reply)
            self.assertEqual(other.rest(), b"")  # its command was in flight on the same connection
            relay.flow()
            self.assertEqual(green.ask(encode([b"ECHO", b"green"])), b"$5\r\ngreen\r\n")
        lines = [line for line in installation.proxy.lines if "sent a reply that the proxy did not expect" in line]
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(
            lines[0], "for team-blue> sent a reply that the proxy did not expect: a reply announces too many elements$"
        )
        self.assertNotIn("Traceback", installation.proxy.log)
