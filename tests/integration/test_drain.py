"""Tests the end of a real process: the end of each kind of session, and how long the drain
takes.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import ssl
import tempfile
import threading
import time
import unittest
from collections import Counter
from pathlib import Path

import redis

from redisproxy.resp.framing import encode

from ..support.certificates import Authority
from ..support.processes import children, runs
from ..support.proxy import Installation, ProxyProcess, master, tenant
from ..support.raw import RawClient, raw_client
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, valkey
from ..support.status import ask, metrics, status_port
from ..support.waiting import LIMIT, until

LOGIN = (b"AUTH", b"blue-password")
LOCAL = Path(__file__).parents[2] / "deploy" / "local"


#: Seconds of a drain that no test waits for: a process that ends within LIMIT has not waited for
#: them.
LONG = 2 * LIMIT


class DrainCase(unittest.TestCase):
    def start(self, *options: str, seconds: float = LONG) -> Installation:
        self.installation = Installation("--drain-seconds", str(seconds), *options)
        self.addCleanup(self.installation.stop)
        self.proxy = self.installation.proxy
        self.redis = self.installation.server.client(3)
        return self.installation

    def connect(self, *commands: bytes) -> RawClient:
        """Returns a client that has logged in and whose commands had one-line replies."""
        connection = raw_client(self, self.proxy.port, *LOGIN)
        for command in commands:
            self.assertIn(connection.ask(command + b"\r\n")[:1], b"+:")
        return connection

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Sends the signal, and waits until the proxy drains."""
        self.began = time.monotonic()
        self.proxy.process.send_signal(number)
        for worker in range(self.proxy.processes):
            until(lambda: self.proxy.log.count("draining: ") > worker, "it drains")  # noqa: B023

    def assertEnds(self, cut_off: int = 0) -> None:
        """Waits for the end of the proxy: by itself, or after the short drain that the test gave to
        `start`. cut_off: the number of sessions that were cut off.
        """
        self.assertEqual(self.proxy.process.wait(LIMIT), 0, self.proxy.log)
        self.proxy._reader.join(LIMIT)
        counts = [
            int(line.split(" of them were cut off")[0].split()[-1]) for line in self.proxy.lines if "drained: " in line
        ]
        self.assertEqual((len(counts), sum(counts)), (self.proxy.processes, cut_off), self.proxy.log)
        self.assertEqual(self.proxy.log.count(": cut-off after "), cut_off)
        self.assertNotIn("Traceback", self.proxy.log)
        self.assertNotIn("Unhandled", self.proxy.log)


class SessionTests(DrainCase):
    def test_with_nothing_but_idle_sessions_it_ends_at_once(self) -> None:
        self.start("--log-level", "debug", seconds=LONG)
        idle = [self.connect(b"PING") for _ in range(20)]
        idle.append(raw_client(self, self.proxy.port))
        self.assertIn(b"-NOAUTH", idle[-1].ask(b"PING\r\n"))
        self.signal(signal.SIGINT)
        for connection in idle:
            self.assertEqual(connection.rest(), b"")
        # The sessions end although no client closes its own end.
        self.assertEnds()
        self.assertRegex(self.proxy.log, "shutdown after")

    def test_a_transaction_may_come_to_its_end(self) -> None:
        self.start()
        explicit, watching = self.connect(b"MULTI", b"INCR a"), self.connect(b"WATCH b")
        self.signal()
        explicit.send(b"INCR a\r\nEXEC\r\nINCR a\r\n")
        self.assertEqual(explicit.rest(), b"+QUEUED\r\n*2\r\n:1\r\n:2\r\n")
        self.assertEqual(watching.ask(b"GET b\r\n"), b"$-1\r\n")
        watching.send(b"MULTI\r\nINCR b\r\nEXEC\r\n")
        self.assertEqual(watching.rest(), b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n")
        explicit.close(), watching.close()
        self.assertEnds()
        self.assertEqual(self.redis.mget("a", "b"), [b"2", b"1"])

    def test_one_that_does_not_is_not_run(self) -> None:
        self.start(seconds=2)
        connection = self.connect(b"MULTI", b"INCR a")
        self.signal()
        self.assertEqual(connection.rest(), b"")
        self.assertEnds(cut_off=1)
        self.assertIsNone(self.redis.get("a"))

    def test_a_subscriber_is_idle(self) -> None:
        self.start()
        connection = self.connect()
        confirmation = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
        self.assertEqual(connection.ask(b"SUBSCRIBE news\r\n"), confirmation)
        self.signal()
        self.assertEqual(connection.rest(), b"")
        self.assertEnds()

    def test_a_large_value_may_be_sent_to_its_end(self) -> None:
        self.start()
        connection = self.connect()
        command = encode([b"SET", b"big", b"x" * 10_000_000])
        connection.send(command[:6_000_000])
        until(lambda: any(int(c["qbuf"]) > 100_000 for c in self.redis.client_list()), "Redis has a part of it")
        self.signal()
        connection.send(command[6_000_000:] + b"INCR a\r\n")
        self.assertEqual(connection.rest(), b"+OK\r\n")
        connection.close()
        self.assertEnds()
        self.assertEqual((self.redis.strlen("big"), self.redis.get("a")), (10_000_000, None))

    def test_one_that_is_not_is_not_run(self) -> None:
        self.start(seconds=2)
        connection = self.connect()
        connection.send(encode([b"SET", b"big", b"x" * 10_000_000])[:-1])
        self.signal()
        self.assertEqual(connection.rest(), b"")
        self.assertEnds(cut_off=1)
        self.assertEqual(self.redis.exists("big"), 0)

    def test_a_slow_reader_gets_what_is_pending(self) -> None:
        self.start(seconds=LONG)
        size = 6_000_000
        self.redis.set("big", b"x" * size)
        connection = raw_client(self, self.proxy.port, *LOGIN, receive_buffer=16384)
        connection.send(b"GET big\r\n")
        self.assertEqual(connection.line(), b"$6000000\r\n")
        self.signal()
        got, started = 0, time.monotonic()
        while data := connection.some():
            got += len(data)
            time.sleep(max(0.0, got / 2_000_000 - (time.monotonic() - started)))  # 2 MB a second
        self.assertEqual(got, size + 2)
        connection.close()
        self.assertEnds()

    def test_one_that_reads_nothing_is_cut_off(self) -> None:
        self.start(seconds=2)
        self.redis.set("big", b"x" * 10_000_000)
        connection = self.connect()
        connection.send(b"GET big\r\n" * 3)
        until(lambda: any(int(c["omem"]) + int(c["obl"]) > 0 for c in self.redis.client_list()), "it is stuck")
        self.signal()
        self.assertEnds(cut_off=1)

    def test_one_that_never_pauses_has_a_reply_to_each_command_that_was_run(self) -> None:
        self.start()
        connections = [self.connect() for _ in range(4)]
        replies = [0] * len(connections)

        def send(number: int) -> None:
            try:
                while True:
                    connections[number].send((b"*2\r\n$4\r\nINCR\r\n$7\r\ncount:%d\r\n" % number) * 50)
            except OSError:
                pass

        def read(number: int) -> None:
            try:
                while data := connections[number].some():
                    replies[number] += data.count(b"\n")
            except OSError:
                pass

        threads = [threading.Thread(target=f, args=(n,)) for n in range(len(connections)) for f in (send, read)]
        for thread in threads:
            thread.start()
        until(lambda: min(replies) > 1000, "all are at it")
        self.signal()
        self.assertEnds()
        for thread in threads:
            thread.join(LIMIT)
        counted = [int(self.redis.get(f"count:{number}")) for number in range(len(connections))]
        self.assertEqual(replies, counted)

    def test_those_who_wait_for_a_place_get_none(self) -> None:
        self.start("--max-workers", "1", "--work-queue-size", "5", "--processes", "1", "--status", "tcp:0", seconds=2)
        served = self.connect(b"MULTI")
        waiting = raw_client(self, self.proxy.port)
        waiting.send(b"AUTH blue-password\r\nINCR a\r\n")
        port = status_port(self.installation)
        until(lambda: metrics(port)["redisproxy_sessions", frozenset({("state", "waiting")})] == 1, "it waits")
        self.signal()
        self.assertEqual(waiting.rest(), b"")
        served.close()
        self.assertEnds()
        self.assertIsNone(self.redis.get("a"))

    def test_over_tls_one_that_says_nothing_more_keeps_nobody(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            authority = Authority(Path(directory))
            certificate, key = authority.issue("proxy", "127.0.0.1")
            port = free_port()
            tls = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
            self.start("--listen", tls, seconds=LONG)
            context = ssl.create_default_context(cafile=str(authority.path))
            connections = [raw_client(self, port, *LOGIN, tls=context) for _ in range(3)]
            connections[0].send(b"BLPOP queue 0\r\n")
            until(lambda: self.blocked(), "Redis has the BLPOP")
            self.signal()
            self.assertEqual(connections[0].rest(), b"")  # it tries again elsewhere
            self.redis.rpush("queue", "item")
            self.assertEqual(self.redis.llen("queue"), 1)
            self.assertEnds()

    def blocked(self) -> int:
        return sum(c["cmd"] == "blpop" for c in self.redis.client_list())


class BlockedTests(DrainCase):
    """No item may be taken from its list without reaching a client."""

    def blocked(self, wanted: int) -> None:
        until(lambda: sum(c["cmd"] == "blpop" for c in self.redis.client_list()) == wanted, "Redis has the BLPOPs")

    def assertGivenUp(self) -> None:
        connections = [self.connect() for _ in range(3)]
        for connection in connections:
            connection.send(b"BLPOP queue 0\r\n")
        self.blocked(3)
        self.signal()
        for connection in connections:
            # On a busy machine Redis unblocks the command too late for an orderly close.
            self.assertEqual(connection.rest(or_reset=True), b"", "it is not told, so that it tries again")
        self.redis.rpush("queue", "item")
        self.assertEqual(self.redis.llen("queue"), 1)
        for connection in connections:
            connection.close()
        self.assertEnds()

    def test_what_waits_is_given_up_in_its_turn(self) -> None:
        """Otherwise it would get its item just when its client is closed."""
        self.start(seconds=LONG)
        self.assertGivenUp()

    def test_where_redis_cannot_be_told_which_it_is(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            server = RedisServer(valkey, f"unixsocket {directory}/redis.sock", "unixsocketperm 700")

            class OverUnixSocket(Installation):
                def documents(self) -> list[dict]:
                    url = f"unix://:{MASTER_PASSWORD}@{directory}/redis.sock"
                    return [master(url), *tenant("team-blue", 3, self.BLUE)]

            self.installation = OverUnixSocket("--drain-seconds", "2", server=server)
            self.addCleanup(self.installation.stop)
            self.proxy, self.redis = self.installation.proxy, server.client(3)
            self.assertGivenUp()

    def test_another_proxys_are_left_alone(self) -> None:
        self.start(seconds=2)
        with RawClient(self.installation.server.port, b"AUTH", MASTER_PASSWORD.encode()) as other:
            other.send(b"BLPOP another 0\r\n")
            connection = self.connect()
            connection.send(b"BLPOP queue 0\r\n")
            self.blocked(2)
            self.signal()
            self.assertEqual(connection.rest(), b"")
            self.blocked(1)
            self.installation.server.client(0).rpush("another", "item")
            self.assertTrue(other.reply().endswith(b"$4\r\nitem\r\n"))
        connection.close()
        self.assertEnds()

    def test_replies_behind_it_stay_in_their_places(self) -> None:
        self.start(seconds=2)
        connection = self.connect()
        connection.send(b"BLPOP queue 0\r\nINCR a\r\n")
        self.blocked(1)
        self.signal()
        answer = connection.rest()
        self.assertTrue(answer.startswith(b"-UNBLOCKED ") and answer.endswith(b"\r\n:1\r\n"), answer)
        connection.close()
        self.assertEnds()

    def test_one_behind_another_is_given_up_too(self) -> None:
        """It is blocked only when the first one has ended."""
        self.start(seconds=2)
        connection = self.connect()
        connection.send(b"BLPOP queue 0\r\nBLPOP another 0\r\n")
        self.blocked(1)
        self.signal()
        answer = connection.rest()
        self.assertTrue(answer.startswith(b"-UNBLOCKED ") and answer.count(b"\r\n") == 1, answer)
        self.redis.rpush("another", "item")
        self.assertEqual(self.redis.llen("another"), 1)
        connection.close()
        self.assertEnds()

    def test_no_other_session_gets_the_connection_before_redis_is_asked(self) -> None:
        """Else its own blocked command would be ended, with an error that the client gets."""
        self.start(seconds=LONG)
        workers = {connection.socket.fileno(): connection for connection in (self.connect() for _ in range(300))}
        poll = select.poll()
        for number, worker in workers.items():
            poll.register(number, select.POLLIN)
            worker.send(b"BLPOP queue 0.3\r\n")
        self.signal()
        answers: Counter[bytes] = Counter()
        while workers:
            for number, _ in poll.poll():
                try:
                    answers[workers[number].reply()] += 1
                    workers[number].send(b"BLPOP queue 0.3\r\n")
                except (EOFError, OSError):
                    poll.unregister(number)
                    workers.pop(number).close()
        self.assertEqual(set(answers), {b"*-1\r\n"})
        self.assertEnds()

    def test_no_item_is_lost_at_that_moment(self) -> None:
        self.start(seconds=1)
        connections = [self.connect() for _ in range(50)]
        for connection in connections:
            connection.send(b"BLPOP queue 0\r\n")
        self.blocked(len(connections))
        pushed, stop = 0, threading.Event()

        def push() -> None:
            nonlocal pushed
            while not stop.is_set():
                self.redis.rpush("queue", f"item:{pushed}")
                pushed += 1
                time.sleep(0.03)

        pusher = threading.Thread(target=push)
        pusher.start()
        try:
            self.signal()
            answers = [connection.rest() for connection in connections]
        finally:
            stop.set()
            pusher.join()
        self.assertEqual(self.proxy.process.wait(LIMIT), 0)
        got = sum(answer.count(b"item:") for answer in answers)
        self.assertGreater(got, 0)
        self.assertGreater(answers.count(b""), 0)
        self.assertEqual(got + self.redis.llen("queue"), pushed)


class TimeTests(DrainCase):
    def test_redis_hangs(self) -> None:
        self.start("--status", "tcp:0", seconds=2)
        connections = [self.connect() for _ in range(3)]
        logging_in = raw_client(self, self.proxy.port)
        self.assertIn(b"-NOAUTH", logging_in.ask(b"PING\r\n"))
        connections[0].send(b"BLPOP queue 0\r\n")
        until(lambda: any(c["cmd"] == "blpop" for c in self.redis.client_list()), "Redis has the BLPOP")
        os.kill(self.installation.server.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.installation.server.pid, signal.SIGCONT)
        connections[1].send(b"GET a\r\n")
        connections[2].send(b"INFO\r\nGET a\r\n")
        logging_in.send(b"AUTH green-password\r\n")
        port = status_port(self.installation)
        until(lambda: metrics(port)["redisproxy_requests_in_flight", frozenset()] == 2, "the GET is under way")
        self.signal()
        self.assertEqual(logging_in.rest(), b"")
        self.assertEnds(cut_off=3)

    def test_for_the_delay_it_serves_on_and_is_not_ready(self) -> None:
        self.start("--status", "tcp:0", "--drain-delay", "2", seconds=4)
        port = status_port(self.installation)
        until(lambda: ask(port, "/readyz")[0] == 200, "ready")
        before = self.connect(b"MULTI")
        self.proxy.process.send_signal(signal.SIGTERM)
        self.began = time.monotonic()
        until(lambda: ask(port, "/readyz")[0] == 503, "not ready")
        self.assertEqual(ask(port, "/readyz")[2], "draining\n")
        self.assertEqual(ask(port, "/livez")[0], 200)
        later = self.connect(b"INCR a", b"INCR a")
        self.assertIn("<title>Redis Proxy: draining</title>", ask(port, "/")[2])
        self.assertNotIn("draining: ", self.proxy.log)
        # Then no new client is accepted, and probes are still answered.
        self.assertEqual(later.rest(), b"")
        self.assertGreater(time.monotonic() - self.began, 1.9)
        until(self.refuses, "nobody listens")
        self.assertEqual((ask(port, "/readyz")[2], ask(port, "/livez")[0]), ("draining\n", 200))
        before.send(b"INCR a\r\nEXEC\r\n")
        self.assertEqual(before.rest(), b"+QUEUED\r\n*1\r\n:3\r\n")
        before.close(), later.close()
        self.assertEnds()

    def refuses(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.proxy.port)) != 0

    def test_not_all_are_sent_to_the_others_at_once(self) -> None:
        self.start(seconds=LONG)
        connections = [self.connect() for _ in range(300)]
        self.signal()
        served = 0
        left = connections
        while left:
            served += sum(map(self.pings, left))
            left = [connection for connection in left if connection.socket.fileno() >= 0]
        # Each process closes 200 sessions a second, and serves them until then.
        self.assertGreater(served, 0)
        self.assertGreater(time.monotonic() - self.began, 1.2 / self.proxy.processes)
        self.assertEnds()

    def pings(self, connection: RawClient) -> bool:
        """Returns whether the connection is served. Closes the connection if it is not."""
        try:
            connection.ask(b"PING\r\n")
        except (OSError, EOFError):
            connection.close()
            return False
        return True

    def test_a_second_signal_ends_it_at_once_with_all_that_it_started(self) -> None:
        for processes, second in itertools.product(("1", "2"), (signal.SIGTERM, signal.SIGINT)):
            with tempfile.TemporaryDirectory() as directory:
                proxy = ProxyProcess(
                    *("--ns-prefix", "tenant-", "--embedded", "--manifests", str(LOCAL)),
                    *("--processes", processes, "--drain-seconds", "60"),
                    environ={"TMPDIR": directory},
                )
                self.addCleanup(proxy.stop)
                proxy.logged("Ctrl-C stops the proxy")
                client = redis.Redis(port=proxy.port, password="blue-example-password", single_connection_client=True)
                self.addCleanup(client.close)
                client.execute_command("MULTI")
                started = children(proxy.process.pid)
                # Valkey, its watchdog, and the workers if there are several processes.
                self.assertEqual(len(started), 2 if processes == "1" else 4)
                proxy.process.send_signal(signal.SIGTERM)
                proxy.logged("draining: [1-9]")
                proxy.process.send_signal(second)
                self.assertEqual(proxy.process.wait(LIMIT), -second)
                until(lambda: not any(map(runs, started)), "nothing of it is left")  # noqa: B023
                self.assertEqual(list(Path(directory).iterdir()), [])
