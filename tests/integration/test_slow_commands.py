"""Commands that are plain at first, and that Redis's log shows to be slow, against a real Redis:
they hold other tenants up for about as long as one of them takes.
"""

from __future__ import annotations

import threading
import time
import unittest

from redisproxy.resp.framing import encode

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, valkey
from ..support.waiting import until

BLUE, GREEN = (b"AUTH", b"blue-password"), (b"AUTH", b"green-password")
#: Adds entries to a stream, all in one node. To look for one, XDEL goes through the whole node.
FILL = "for number = 1, 100000 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. number, 'a', '') end"
#: Seconds that one command takes at least: more than a busy machine explains.
ONE = 0.15
#: Commands in one write.
COMMANDS = 16


class SlowCommandTests(unittest.TestCase):
    def setUp(self) -> None:
        server = RedisServer(valkey, "stream-node-max-bytes 0", "stream-node-max-entries 0", "slowlog-log-slower-than 1000")
        self.installation = Installation(server=server)
        self.addCleanup(self.installation.stop)
        self.blue, self.green = self.client(BLUE), self.client(GREEN)
        took, number = 0.0, 0
        # Not as the tenant: the log would name it.
        with server.client(3) as direct:
            while took < ONE:
                for _ in range(4):
                    number += 1
                    direct.eval(FILL, 1, "stream", number)
                identifier = f"{number}-200000"
                began = time.monotonic()
                direct.xdel("stream", identifier)
                took = time.monotonic() - began
        self.slow = encode([b"XDEL", b"stream", identifier.encode()])

    def client(self, login: tuple[bytes, ...]) -> RawClient:
        return raw_client(self, self.installation.proxy.port, *login)

    def worst(self, attackers: list[RawClient], count: int) -> tuple[float, float]:
        """Sends so many commands over each connection. Returns the seconds of the other tenant's
        slowest PING meanwhile, and those of all commands together.
        """
        ends, slowest = threading.Event(), [0.0]

        def ping() -> None:
            while not ends.is_set():
                began = time.monotonic()
                assert self.green.ask([b"PING"]) == b"+PONG\r\n"
                slowest[0] = max(slowest[0], time.monotonic() - began)
                time.sleep(0.002)

        thread = threading.Thread(target=ping)
        began = time.monotonic()
        thread.start()
        try:
            for client in attackers:
                client.send((self.slow + encode([b"ECHO", b"a"])) * count)
            for client in attackers:
                for _ in range(count):
                    self.assertEqual((client.reply(), client.reply()), (b":0\r\n", b"$1\r\na\r\n"))
        finally:
            took = time.monotonic() - began
            ends.set()
            thread.join()
        return slowest[0], took

    def test_one_at_a_time_once_the_log_confirms_it(self) -> None:
        before, all_of_them = self.worst([self.blue], COMMANDS)
        self.assertGreater(before, all_of_them / 2, "nothing is known yet: the other waits for all of them")
        until(lambda: "xdel of team-blue is slow" in self.installation.proxy.log, "the log says so", 30)
        after, all_of_them = self.worst([self.blue], COMMANDS)
        self.assertLess(after, all_of_them / 4)
        clients = [self.client(BLUE) for _ in range(COMMANDS // 2)]
        after, all_of_them = self.worst(clients, 2)
        self.assertLess(after, all_of_them / 4)
        self.assertEqual(self.installation.proxy.log.count("is slow: Redis logged it"), 1)
        self.assertNotIn("team-green is slow", self.installation.proxy.log)
        self.assertNotIn("Traceback", self.installation.proxy.log)
