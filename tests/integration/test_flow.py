"""Clients that write much before they read, or read slowly: the same as straight to Redis, up to
the bound of their tenant's memory. No other session waits for them.
"""

from __future__ import annotations

import threading
import time
import unittest
from collections.abc import Callable, Iterator

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD
from ..support.waiting import LIMIT, until

KIB, MIB = 1 << 10, 1 << 20
#: Seconds in which a session must be answered while another one reads slowly.
NOTICEABLE = 0.5


class FlowCase(unittest.TestCase):
    connections = "multiplexed"

    def start(self, *options: str) -> Installation:
        self.installation = Installation("--connections", self.connections, *options)
        self.addCleanup(self.installation.stop)
        self.addCleanup(lambda: self.assertNotIn("Traceback", self.installation.proxy.log))
        self.direct = self.installation.server.client(3)
        self.addCleanup(self.direct.close)
        return self.installation

    def connect(self, straight: bool = False, protocol: int = 2, receive_buffer: int = 0) -> RawClient:
        """A session with database 3."""
        port, password = (
            (self.installation.server.port, MASTER_PASSWORD)
            if straight
            else (self.installation.proxy.port, Installation.BLUE)
        )
        login = (b"HELLO", b"%d" % protocol, b"AUTH", b"default", password.encode())
        client = raw_client(self, port, *login, receive_buffer=receive_buffer)
        self.assertEqual(client.ask([b"SELECT", b"3"]), b"+OK\r\n")
        return client


def pipelines() -> Iterator[tuple[str, bytes, bytes, int]]:
    """What is written before anything is read: a name, bytes, the replies of one round, rounds."""
    value = b"w" * 4 * KIB
    big = b"$4096\r\n%b\r\n" % (b"x" * 4 * KIB)
    yield "GETs and SETs of 4 KiB", encode([b"GET", b"big"]) + encode([b"SET", b"w", value]), big + b"+OK\r\n", 8_000
    yield "GETs, then SETs", b"", b"", 8_000
    large = b"$%d\r\n%b\r\n" % (12 * MIB, b"y" * 12 * MIB)
    yield (
        "GETs and SETs of 12 MiB",
        encode([b"GET", b"large"]) + encode([b"SET", b"w", b"w" * 12 * MIB]),
        large + b"+OK\r\n",
        2,
    )
    yield "a million PINGs", encode([b"PING"]), b"+PONG\r\n", 1_000_000
    own = encode([b"CLIENT", b"SETNAME", b"me"]) + encode([b"SELECT", b"3"]) + encode([b"NOSUCH"])
    error = b"-ERR unknown command 'NOSUCH', with args beginning with: \r\n"
    yield "own answers", encode([b"GET", b"big"]) + own, big + b"+OK\r\n+OK\r\n" + error, 4_000
    yield "own answers alone", own, b"+OK\r\n+OK\r\n" + error, 50_000
    asked = encode([b"GET", b"big"]) * 50 + encode([b"CONFIG", b"GET", b"appendonly"])
    yield "what waits for all replies", asked, big * 50 + b"*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n", 100


class WriteFirstTests(FlowCase):
    def test_a_pipeline_that_is_written_before_it_is_read(self) -> None:
        self.start()
        self.direct.set("big", b"x" * 4 * KIB)
        self.direct.set("large", b"y" * 12 * MIB)
        for name, commands, replies, rounds in pipelines():
            for protocol in (2, 3):
                with self.subTest(name, protocol=protocol):
                    self.check(commands, replies, rounds, protocol)

    def check(self, commands: bytes, replies: bytes, rounds: int, protocol: int) -> None:
        if not commands:
            value = encode([b"SET", b"w", b"w" * 4 * KIB])
            written = encode([b"GET", b"big"]) * rounds + value * rounds
            expected = b"$4096\r\n%b\r\n" % (b"x" * 4 * KIB) * rounds + b"+OK\r\n" * rounds
        else:
            written, expected = commands * rounds, replies * rounds
        if protocol == 3:
            expected = expected.replace(b"*2\r\n$10\r\nappendonly", b"%1\r\n$10\r\nappendonly")
        for straight in (True, False):
            client = self.connect(straight, protocol)
            client.socket.settimeout(3 * LIMIT)
            began = time.monotonic()
            client.send(written)
            heard = client.exactly(len(expected))
            took = time.monotonic() - began
            print(
                f"{protocol=} {len(written) >> 10} KiB written, then {len(expected) >> 10} KiB read: {took:.2f} s, {straight=}"
            )
            if heard != expected:  # assertEqual would compare megabytes for minutes
                at = next(n for n, (one, other) in enumerate(zip(heard, expected, strict=True)) if one != other)
                self.fail(f"{straight=}, at {at}: {heard[at : at + 80]!r}, not {expected[at : at + 80]!r}")
            self.assertEqual(client.ask(b"PING\r\n"), b"+PONG\r\n")
            client.close()

    def test_a_subscriber_that_does_not_read(self) -> None:
        """It still writes, and gets all messages in order."""
        self.start()
        for straight in (True, False):
            subscriber, other = self.connect(straight), self.connect(straight)
            subscriber.ask([b"SUBSCRIBE", b"news"])
            for number in range(300):
                other.ask([b"PUBLISH", b"news", b"%06d" % number + b"m" * 10_000])
            subscriber.send(encode([b"PING"]) * 50_000 + encode([b"SUBSCRIBE", b"more"]) + encode([b"PING"]) * 50_000)
            numbers = [subscriber.reply().split(b"\r\n")[6][:6] for _ in range(300)]
            self.assertEqual(numbers, [b"%06d" % number for number in range(300)])
            for _ in range(50_000):
                subscriber.reply()
            self.assertIn(b"more", subscriber.reply())
            for _ in range(50_000):
                subscriber.reply()


class DedicatedWriteFirstTests(WriteFirstTests):
    connections = "dedicated"


class SlowReaderTests(FlowCase):
    def fetch(self, client: RawClient, size: int, speed: int) -> int:
        """Reads so many bytes at a speed in bytes a second. Returns how many came."""
        got, began = 0, time.monotonic()
        while got < size:
            data = client.socket.recv(64 * KIB)
            if not data:
                break
            got += len(data)
            time.sleep(max(0.0, began + got / speed - time.monotonic()))
        return got

    def slowest_beside(self, work: Callable[[], object], busy: bool = True) -> float:
        """Returns the seconds that the slowest ECHO of another session takes during this work."""
        over = threading.Event()
        thread = threading.Thread(target=lambda: (work(), over.set()))
        other = self.connect()
        thread.start()
        slowest = 0.0
        while not over.is_set():
            began = time.monotonic()
            self.assertEqual(other.ask([b"ECHO", b"x" * 100]), b"$100\r\n%b\r\n" % (b"x" * 100))
            slowest = max(slowest, time.monotonic() - began)
            if not busy:
                time.sleep(0.01)
        thread.join()
        return slowest

    def test_one_get_of_24_mib_at_2_mib_a_second(self) -> None:
        self.start()
        self.direct.set("big", b"x" * 24 * MIB)
        size = 24 * MIB + len(b"$25165824\r\n\r\n")
        slow = self.connect(receive_buffer=64 * KIB)
        slow.send([b"GET", b"big"])
        got: list[int] = []
        slowest = self.slowest_beside(lambda: got.append(self.fetch(slow, size, 2 * MIB)), busy=False)
        print(f"slowest ECHO beside a slow GET: {slowest * 1000:.0f} ms")
        self.assertEqual(got, [size])
        self.assertLess(slowest, NOTICEABLE)

    def test_many_slow_readers_on_one_tenants_connections(self) -> None:
        """More than it may have multiplexed connections: each gets everything, nobody waits."""
        self.start()
        self.direct.set("big", b"x" * 12 * MIB)
        size = 12 * MIB + len(b"$12582912\r\n\r\n")
        readers = [self.connect(receive_buffer=64 * KIB) for _ in range(7)]
        got: list[int] = []

        def read_all() -> None:
            for reader in readers:
                reader.send([b"GET", b"big"])
                time.sleep(0.1)
            threads = [
                threading.Thread(target=lambda r=reader: got.append(self.fetch(r, size, 4 * MIB))) for reader in readers
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        slowest = self.slowest_beside(read_all, busy=False)
        print(f"slowest ECHO beside seven slow GETs: {slowest * 1000:.0f} ms")
        self.assertEqual(got, [size] * 7)
        self.assertLess(slowest, NOTICEABLE)

    def test_a_large_value_that_nobody_waits_for_is_not_kept(self) -> None:
        """It streams in constant memory."""
        self.start()
        self.direct.set("big", b"x" * 100 * MIB)
        slow = self.connect(receive_buffer=64 * KIB)
        self.installation.proxy.reset_peak()
        before = self.installation.proxy.peak()
        slow.send([b"GET", b"big"])
        time.sleep(1)
        self.assertGreaterEqual(self.fetch(slow, 100 * MIB, 200 * MIB), 100 * MIB)
        self.assertLess(self.installation.proxy.peak() - before, 40 * MIB)

    def test_at_the_bound_a_client_that_reads_nothing_is_closed(self) -> None:
        """Its commands need more memory in the proxy than there is. Others are served."""
        self.start("--memory", "100Mi")
        self.direct.set("big", b"x" * 40 * MIB)
        before = self.installation.proxy.resident()
        hog = self.connect(receive_buffer=64 * KIB)
        other = raw_client(self, self.installation.proxy.port, b"AUTH", Installation.GREEN.encode())
        hog.socket.settimeout(2)
        with self.assertRaises(TimeoutError):
            hog.send((encode([b"GET", b"big"]) + encode([b"CONFIG", b"GET", b"save"])) * 20 + b"x" * 100 * MIB)
        for _ in range(50):
            self.assertEqual(other.ask([b"PING"]), b"+PONG\r\n")
        self.installation.proxy.logged("out-of-memory", 2 * bounds.SLOW_READER_SECONDS + LIMIT)
        self.assertLess(self.installation.proxy.peak() - before, 150 * MIB)

    def test_at_the_bound_scripts_behind_other_commands_are_no_way_around_it(self) -> None:
        """Their replies come over another connection than what the client fell behind with."""
        self.start("--memory", "100Mi", "--allow-commands", "EVAL")
        self.direct.set("big", b"x" * MIB)
        script = encode([b"EVAL", b"return redis.call('GET', 'big')", b"0"])
        self.assertEqual(len(self.connect().ask(script)), MIB + len(b"$1048576\r\n\r\n"))
        self.installation.proxy.reset_peak()
        before = self.installation.proxy.peak()
        hog = self.connect(receive_buffer=64 * KIB)
        hog.send(encode([b"GET", b"big"]) * 30 + script * 400)
        until(lambda: self._sent_or_kept() > 400 * MIB, "Redis has run all of it")
        for _ in range(40):
            self.assertTrue(hog.socket.recv(100))
            time.sleep(0.05)
        self.assertLess(self.installation.proxy.peak() - before, 150 * MIB)

    def _sent_or_kept(self) -> int:
        """The bytes of replies that Redis keeps for its clients, and of those that it has sent."""
        kept = sum(int(client["omem"]) for client in self.direct.client_list())
        return kept + self.direct.info("stats")["total_net_output_bytes"]

    def test_at_the_bound_a_client_that_reads_slowly_gets_everything(self) -> None:
        self.start("--memory", "100Mi")
        self.direct.set("big", b"x" * 40 * MIB)
        slow = self.connect(receive_buffer=64 * KIB)
        slow.send((encode([b"GET", b"big"]) + encode([b"CONFIG", b"GET", b"save"])) * 4)
        size = 160 * MIB
        self.assertEqual(self.fetch(slow, size, 16 * MIB) // size, 1)


class BlockedTests(FlowCase):
    def test_much_behind_a_blocked_command_of_a_client_that_leaves(self) -> None:
        """It takes no item, however much it sent."""
        self.start()
        for straight in (True, False):
            for behind in (b"SET", b"INFO"):
                self.direct.delete("l", "late")
                client = self.connect(straight)
                commands = encode([b"INFO"]) + encode([b"SET", b"late", b"v" * 1000]) * 8000
                if behind == b"SET":
                    commands = commands[len(encode([b"INFO"])) :]
                client.send(encode([b"BLPOP", b"l", b"0"]))
                until(lambda: self.direct.info("clients")["blocked_clients"] == 1, "it is blocked")
                client.send(commands)
                client.close()
                until(lambda: self.direct.info("clients")["blocked_clients"] == 0, "it is given up", 4)
                self.direct.rpush("l", "item")
                time.sleep(0.2)
                self.assertEqual((self.direct.llen("l"), self.direct.get("late")), (1, None), straight)
