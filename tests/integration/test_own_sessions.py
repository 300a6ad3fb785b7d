"""Tests what a tenant's own tools ask, through a real proxy and with real clients: CLIENT LIST,
CLIENT KILL, ROLE, MODULE LIST and the like. They are answered for the tenant alone.
"""

from __future__ import annotations

import re
import threading
import unittest
from collections.abc import Callable

import redis

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, on_every_server, redis_5
from ..support.waiting import LIMIT, until

#: Commands with the server's own answer, whatever the client's sessions are.
SAME = (
    [b"ROLE"],
    [b"role"],
    [b"ROLE", b"x"],
    [b"CLIENT", b"TRACKINGINFO"],
    [b"CLIENT", b"TRACKINGINFO", b"x"],
    [b"CLIENT", b"GETREDIR"],
    [b"CLIENT", b"GETREDIR", b"x"],
    [b"LASTSAVE"],
    [b"LASTSAVE", b"x"],
    [b"ACL", b"WHOAMI", b"x"],
    [b"ACL"],
    [b"MODULE", b"LIST", b"x"],
    [b"MODULE", b"NOSUCH"],
    [b"MODULE"],
    [b"CLUSTER", b"INFO"],
    [b"CLUSTER", b"NODES"],
    [b"CLUSTER", b"SLOTS"],
    [b"CLUSTER"],
    [b"CLIENT", b"LIST", b"TYPE"],
    [b"CLIENT", b"LIST", b"TYPE", b"nosuch"],
    [b"CLIENT", b"LIST", b"TYPE", b"replica"],
    [b"CLIENT", b"LIST", b"TYPE", b"MASTER"],
    [b"CLIENT", b"LIST", b"TYPE", b"pubsub", b"x"],
    [b"CLIENT", b"LIST", b"ID"],
    [b"CLIENT", b"LIST", b"ID", b"9999999"],
    [b"CLIENT", b"LIST", b"nosuch"],
    [b"CLIENT", b"LIST", b"nosuch", b"x"],
    [b"CLIENT", b"KILL"],
    [b"CLIENT", b"KILL", b"x"],
    [b"CLIENT", b"KILL", b"ID"],
    [b"CLIENT", b"KILL", b"nosuch", b"x"],
    [b"CLIENT", b"KILL", b"ID", b"9999999"],
    [b"CLIENT", b"KILL", b"ID", b"9999999", b"TYPE"],
    [b"CLIENT", b"KILL", b"ADDR", b"x"],
    [b"CLIENT", b"KILL", b"LADDR", b"x"],
    [b"CLIENT", b"KILL", b"USER", b"nosuch"],
    [b"CLIENT", b"KILL", b"TYPE", b"nosuch"],
    [b"CLIENT", b"KILL", b"TYPE", b"replica"],
    [b"CLIENT", b"KILL", b"TYPE", b"pubsub", b"SKIPME", b"no"],
    [b"CLIENT", b"KILL", b"SKIPME", b"nosuch"],
)
#: The same from some version on: Redis 7 and Valkey.
SAME_FROM_7 = ([b"CLIENT", b"KILL", b"ID", b"0"], [b"CLIENT", b"KILL", b"ID", b"-1"])


def named(lines: list[dict]) -> list[str]:
    return [line["name"] for line in lines if line["name"]]


@on_every_server
class OwnSessionsTests(unittest.TestCase):
    def installation(self, binary: Callable[[], str], *settings: str, options: tuple[str, ...] = ()) -> Installation:
        installation = Installation(*options, server=RedisServer(binary, *settings))
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        return installation

    def through(self, installation: Installation, password: str = Installation.BLUE) -> RawClient:
        return raw_client(self, installation.proxy.port, b"AUTH", password.encode())

    def straight(self, installation: Installation) -> RawClient:
        return raw_client(self, installation.server.port, b"AUTH", installation.server.password.encode())

    def closed(self, client: RawClient) -> None:
        """Checks that the client is closed, and gets nothing before."""
        with self.assertRaises((EOFError, OSError)) as caught:
            client.reply()
        self.assertNotIsInstance(caught.exception, TimeoutError)
        if isinstance(caught.exception, EOFError):
            self.assertFalse(caught.exception.args[-1] if isinstance(caught.exception.args[-1], bytes) else b"")

    def each_answers_are_this_servers_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        straight, through = self.straight(installation), self.through(installation)
        seven = not straight.ask([b"ACL", b"NOSUCH"]).startswith(b"-ERR Unknown")
        for protocol in (b"2", b"3"):
            for line in (straight, through):
                line.ask([b"HELLO", protocol])
            for words in (*SAME, *SAME_FROM_7 * seven):
                self.assertEqual(through.ask(words), straight.ask(words), (protocol, words))
            files = re.compile(rb"(\$4\r\npath\r\n)\$\d+\r\n.*?\r\n")
            expected = files.sub(rb"\1$0\r\n\r\n", straight.ask([b"MODULE", b"LIST"]))
            self.assertEqual(through.ask([b"MODULE", b"LIST"]), expected)
            self.assertEqual(through.ask([b"ACL", b"WHOAMI"]), b"$9\r\nteam-blue\r\n")
            wanted, found = straight.ask([b"CLIENT", b"LIST"]), through.ask([b"CLIENT", b"LIST"])
            self.assertEqual(found[:1], wanted[:1])
            fields = [set(re.findall(rb"([a-z0-9-]+)=", text)) for text in (wanted, found)]
            self.assertEqual(
                fields[0] - fields[1] - {b"io-thread", b"tot-net-in", b"tot-net-out", b"tot-cmds", b"capa"}, set()
            )

    def each_lists_the_tenants_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        blue, green = installation.blue(protocol=2), installation.green(protocol=3)
        names = ("bull:Y29s", "bull:Y29s:w:one", "other")
        others = [
            installation.blue(protocol=protocol, client_name=name) for protocol, name in zip((2, 3, 2), names, strict=True)
        ]
        foreign = installation.green(client_name="bull:foreign")
        for client in (blue, green, foreign, *others):
            self.addCleanup(client.close)
            client.ping()
        lines = blue.client_list()
        self.assertEqual(named(lines), list(names))
        self.assertEqual(len(lines), 4)
        self.assertEqual({line["user"] for line in lines}, {"team-blue"})
        self.assertEqual({line["db"] for line in lines}, {"3"})
        ids = [int(line["id"]) for line in lines]
        self.assertEqual(ids, sorted(set(ids)))
        self.assertEqual(ids[0], blue.client_id())
        self.assertEqual([int(line["id"]) for line in blue.client_list(client_id=ids[1:3])], ids[1:3])
        self.assertEqual(named(green.client_list()), ["bull:foreign"])
        self.assertEqual(blue.client_list(client_id=[foreign.client_id()]), [])
        with others[2].pubsub() as subscriber:
            subscriber.subscribe("news")
            self.assertIsNotNone(subscriber.get_message(timeout=LIMIT))
            (line,) = blue.client_list(_type="pubsub")
            self.assertEqual((line["flags"], line["sub"]), ("P", "1"))
            self.assertEqual(len(blue.client_list(_type="normal")), len(blue.client_list()) - 1)
            self.assertEqual(green.client_list(_type="pubsub"), [])
        waits = threading.Thread(target=lambda: others[0].blpop("queue", 20))
        waits.start()
        until(lambda: [line["flags"] for line in blue.client_list() if line["name"] == names[0]] == ["b"], "one is blocked")
        blue.rpush("queue", "x")
        waits.join()
        # Whatever Redis itself has: the proxy's connections, and the other tenant's.
        for answer in (blue.execute_command("CLIENT LIST"), blue.execute_command("CLIENT INFO")):
            self.assertNotIn("green", str(answer))
            self.assertNotIn("redisproxy", str(answer))

    def each_kills_the_tenants_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        blue = installation.blue(protocol=2)
        self.addCleanup(blue.close)
        foreign = self.through(installation, Installation.GREEN)

        def other() -> tuple[RawClient, int, str]:
            client = self.through(installation)
            number = int(client.ask([b"CLIENT", b"ID"])[1:])
            host, port = client.socket.getsockname()
            return client, number, f"{host}:{port}"

        number = int(foreign.ask([b"CLIENT", b"ID"])[1:])
        host, port = foreign.socket.getsockname()
        for options in ({"_id": number}, {"addr": f"{host}:{port}"}, {"_type": "pubsub", "skipme": False}):
            self.assertEqual(blue.client_kill_filter(**options), 0)
        for kill in (f"{host}:{port}", "x"):
            self.assertRaisesRegex(redis.ResponseError, "No such client", blue.client_kill, kill)
        self.assertRaisesRegex(redis.ResponseError, "No such user", blue.client_kill_filter, user="team-green")
        self.assertEqual(foreign.ask([b"PING"]), b"+PONG\r\n")

        client, number, _ = other()
        self.assertEqual(blue.client_kill_filter(_id=number), 1)
        self.closed(client)
        client, number, address = other()
        self.assertEqual(blue.client_kill_filter(addr=address), 1)
        self.closed(client)
        client, number, address = other()
        self.assertTrue(blue.client_kill(address))
        self.closed(client)
        several = [other()[0] for _ in range(3)]
        self.assertEqual(blue.client_kill_filter(laddr=f"127.0.0.1:{installation.proxy.port}"), 3)
        for client in several:
            self.closed(client)
        client = other()[0]
        self.assertEqual(blue.execute_command("CLIENT", "KILL", "USER", "team-blue", "TYPE", "normal"), 1)
        self.closed(client)
        self.assertEqual(blue.execute_command("CLIENT", "KILL", "MAXAGE", "1000", "SKIPME", "no"), 0)
        # Itself: the reply comes first.
        client, number, address = other()
        self.assertEqual(client.ask([b"CLIENT", b"KILL", b"ID", b"%d" % number]), b":0\r\n")
        self.assertEqual(client.ask([b"CLIENT", b"KILL", b"ID", b"%d" % number, b"SKIPME", b"no"]), b":1\r\n")
        self.closed(client)
        client, number, address = other()
        self.assertEqual(client.ask([b"CLIENT", b"KILL", address.encode()]), b"+OK\r\n")
        self.closed(client)
        self.assertEqual(len(blue.client_list()), 1)
        self.assertEqual(foreign.ask([b"PING"]), b"+PONG\r\n")

    def each_killed_one_gets_and_takes_nothing(self, binary: Callable[[], str]) -> None:
        """A blocked command ends and takes no item, a transaction is not run, and a subscriber
        hears nothing more.
        """
        installation = self.installation(binary)
        blue = installation.blue(protocol=2)
        self.addCleanup(blue.close)
        blocked, halfway, subscriber = (self.through(installation) for _ in range(3))
        numbers = [int(client.ask([b"CLIENT", b"ID"])[1:]) for client in (blocked, halfway, subscriber)]
        blocked.send([b"BLPOP", b"queue", b"0"])
        halfway.ask([b"MULTI"])
        halfway.ask([b"SET", b"never", b"x"])
        subscriber.ask([b"SUBSCRIBE", b"news"])
        until(lambda: blue.info("clients")["blocked_clients"] == 1, "one is blocked")
        self.assertEqual([blue.client_kill_filter(_id=number) for number in numbers], [1, 1, 1])
        until(lambda: blue.publish("news", "x") == 0, "Redis, too, has no subscriber")
        until(lambda: blue.info("clients")["blocked_clients"] == 0, "none is blocked")
        self.assertEqual(blue.rpush("queue", "kept"), 1)
        for client in (blocked, halfway, subscriber):
            self.closed(client)
        self.assertEqual(blue.lrange("queue", 0, -1), [b"kept"])
        self.assertIsNone(blue.get("never"))

    def each_refused_ones_have_words_that_clients_know(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        through = self.through(installation)
        for words in (
            b"ACL LIST",
            b"ACL SETUSER x",
            b"CONFIG SET maxmemory 1",
            b"SLOWLOG RESET",
            b"MEMORY STATS",
            b"LATENCY LATEST",
            b"MODULE LOAD x",
            b"CLIENT PAUSE 1",
            b"CLIENT UNBLOCK 1",
            b"MONITOR",
            b"RESTORE x 0 x",
        ):
            # What redis-py, Jedis and RedisInsight look for.
            self.assertRegex(through.ask(words.split()), rb"^-NOPERM ", words)

    def each_operator_refuses_them(self, binary: Callable[[], str]) -> None:
        denied = ("ROLE", "ACL|WHOAMI", "MODULE|LIST", "CLIENT|LIST", "CLIENT|KILL", "LASTSAVE")
        installation = self.installation(binary, options=("--deny-commands", ",".join(denied)))
        through = self.through(installation)
        for name in denied:
            self.assertRegex(through.ask(name.encode().split(b"|")), rb"^-NOPERM ", name)
        self.assertTrue(through.ask([b"CLIENT", b"INFO"]).startswith(b"$"))


class ProcessesTests(unittest.TestCase):
    def test_sessions_of_all_processes(self) -> None:
        """A tenant's sessions are in several processes: all are listed, and can be killed."""
        installation = Installation("--processes", "3")
        self.addCleanup(installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", installation.proxy.log))
        lines: list[RawClient] = []
        ids: list[int] = []
        while {number % 3 for number in ids} != {0, 1, 2}:
            self.assertLess(len(ids), 300, "all processes accept clients")
            lines.append(raw_client(self, installation.proxy.port, b"AUTH", Installation.BLUE.encode()))
            ids.append(int(lines[-1].ask([b"CLIENT", b"ID"])[1:]))
        foreign = raw_client(self, installation.proxy.port, b"AUTH", Installation.GREEN.encode())
        self.assertEqual(len(set(ids)), len(ids))
        # Two processes ask at once, and must not wait for each other.
        for line in lines:
            line.send([b"CLIENT", b"LIST"])
        for line in lines:
            listed = [int(number) for number in re.findall(rb"\bid=(\d+) ", line.reply())]
            self.assertEqual(listed, sorted(ids))
        self.assertEqual(re.findall(rb"user=(\S+)", foreign.ask([b"CLIENT", b"LIST"])), [b"team-green"])
        for number in ids[1:]:
            self.assertEqual(foreign.ask([b"CLIENT", b"KILL", b"ID", b"%d" % number]), b":0\r\n")
        self.assertEqual(lines[0].ask([b"CLIENT", b"KILL", b"ID", b"%d" % ids[-1]]), b":1\r\n")
        with self.assertRaises((EOFError, ConnectionError)):
            lines[-1].reply()
        self.assertEqual(lines[0].ask([b"CLIENT", b"KILL", b"TYPE", b"normal"]), b":%d\r\n" % (len(lines) - 2))
        for line in lines[1:-1]:
            with self.assertRaises((EOFError, ConnectionError)):
                line.reply()
        self.assertEqual(lines[0].ask([b"CLIENT", b"LIST"]).count(b"id="), 1)


class WithoutAclTests(unittest.TestCase):
    def test_redis_5(self) -> None:
        """Redis 5 has no ACL command and no tracking: the proxy answers as Redis 5 does."""
        server = RedisServer(redis_5, "bind 127.0.0.1")
        installation = Installation(server=server)
        self.addCleanup(installation.stop)
        through = raw_client(self, installation.proxy.port, b"AUTH", Installation.BLUE.encode())
        straight = raw_client(self, server.port, b"AUTH", server.password.encode())
        for words in (
            [b"ROLE"],
            [b"ACL", b"WHOAMI"],
            [b"MODULE", b"LIST"],
            [b"CLIENT", b"KILL"],
            [b"CLIENT", b"LIST", b"TYPE"],
            [b"LASTSAVE"],
        ):
            self.assertEqual(through.ask(words), straight.ask(words), words)
        self.assertRegex(through.ask([b"CLIENT", b"LIST"]), rb"^\$\d+\r\nid=\d+ addr=.* user=team-blue ")
