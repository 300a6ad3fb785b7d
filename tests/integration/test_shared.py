"""Tests sessions that share connections to Redis: each gets its own replies, whatever the others do
and whatever breaks.
"""

from __future__ import annotations

import os
import random
import signal
import time
import unittest
from collections.abc import Callable, Iterator

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.proxy import Installation, master
from ..support.raw import RawClient, raw_client
from ..support.relay import Relay, hung_up
from ..support.servers import RedisServer, on_every_server, redis_5
from ..support.waiting import LIMIT, until

LOGIN = (b"AUTH", b"blue-password")
#: The seeds of RandomTests.
SEEDS = range(3)


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


class SharedCase(unittest.TestCase):
    def start(self, *options: str, relayed: bool = False, server: RedisServer | None = None) -> Installation:
        self.installation = Installation("--connections", "multiplexed", *options, server=server)
        self.addCleanup(self.installation.stop)
        if relayed:
            self.relay = Relay(self.installation.server.port)
            self.addCleanup(self.relay.stop)
            url = self.installation.server.url.replace(f":{self.installation.server.port}/", f":{self.relay.port}/")
            self.installation.manifests.write([master(url), *self.installation.documents()[1:]])
            self.installation.proxy.refresh()
            self.installation.proxy.logged(f"Redis is at redis://127.0.0.1:{self.relay.port}")
        return self.installation

    def client(self, receive_buffer: int = 0) -> RawClient:
        return raw_client(self, self.installation.proxy.port, *LOGIN, receive_buffer=receive_buffer)

    def upstreams(self) -> list[dict]:
        """Returns the proxy's connections to Redis that belong to a tenant."""
        return [c for c in self.installation.server.client().client_list() if c["user"].startswith("redisproxy")]

    def assertQuietLog(self) -> None:
        self.assertNotIn("Traceback", self.installation.proxy.log)
        self.assertNotIn("Unhandled", self.installation.proxy.log)


@on_every_server
class ConnectionsTests(SharedCase):
    def test_many_sessions_have_few_connections(self) -> None:
        self.start("--base-workers", "0")
        clients = [self.client() for _ in range(100)]
        for number, client in enumerate(clients):
            client.send(encode([b"ECHO", b"%d" % number]) * 3)
        for number, client in enumerate(clients):
            for _ in range(3):
                self.assertEqual(client.reply(), b"$%d\r\n%d\r\n" % (len(b"%d" % number), number))
        self.assertEqual(len(self.upstreams()), 1)
        self.assertEqual(clients[0].ask([b"HELLO", b"3"])[:1], b"%")
        self.assertEqual(len(self.upstreams()), 2)

    def test_a_blocked_session_blocks_nobody_and_its_upstream_connection_is_used_again(self) -> None:
        self.start("--base-workers", "0")
        blocked, other = self.client(), self.client()
        for number in range(5):
            blocked.send(encode([b"BLPOP", b"queue", b"0"]))
            until(lambda: any(c["cmd"] == "blpop" for c in self.upstreams()), "Redis has the BLPOP")
            self.assertEqual(other.ask([b"ECHO", b"x"]), b"$1\r\nx\r\n")
            other.ask([b"RPUSH", b"queue", b"%d" % number])
            self.assertEqual(blocked.reply(), b"*2\r\n$5\r\nqueue\r\n$1\r\n%d\r\n" % number)
        self.assertEqual(len(self.upstreams()), 3)  # one is kept ready

    def test_the_last_session_leaves_the_upstream_connection_to_the_next(self) -> None:
        self.start("--base-workers", "0", "--worker-idle-timeout", "1")
        seen = set()
        for _ in range(3):
            client = self.client()
            client.ask([b"PING"])
            seen |= {upstream["id"] for upstream in self.upstreams()}
            client.ask([b"QUIT"])
        self.assertEqual(len(seen), 1)
        until(lambda: not self.upstreams(), "the idle upstream connection is closed")

    def test_a_transaction_that_cannot_end_does_not_begin_on_a_multiplexed_connection(self) -> None:
        """MULTI gets a dedicated connection if EXEC may fail: an operator may refuse it, or Redis
        may have renamed it.
        """
        renamed = RedisServer(RedisServer.__init__.__defaults__[0], 'rename-command EXEC ""')
        for server, options, start in (
            (renamed, (), b"-ERR unknown command 'EXEC'"),
            (None, ("--deny-commands", "EXEC"), b"-NOPERM"),
        ):
            self.installation = Installation("--connections", "multiplexed", *options, server=server)
            self.addCleanup(self.installation.stop)
            client, other = self.client(), self.client()
            client.send(encode([b"MULTI"]) + encode([b"SET", b"a", b"1"]) + encode([b"EXEC"]))
            replies = [client.reply() for _ in range(3)]
            self.assertTrue(replies[2].startswith(start), replies)
            self.assertEqual(other.ask([b"ECHO", b"own"]), b"$3\r\nown\r\n")
            client.ask([b"DISCARD"])
            client.ask([b"QUIT"])
            self.assertEqual(other.ask([b"BLPOP", b"queue", b"0.01"]), b"*-1\r\n")

    def test_a_new_address_is_used_at_once(self) -> None:
        self.start()
        client = self.client()
        client.ask([b"SET", b"where", b"first"])
        second = RedisServer(password="another").start()
        self.addCleanup(second.stop)
        self.installation.manifests.write([master(second.url), *self.installation.documents()[1:]])
        self.installation.proxy.refresh()
        until(lambda: client.ask([b"EXISTS", b"where"]) == b":0\r\n", "the session uses the other Redis")
        until(lambda: not self.upstreams(), "the upstream connection to the old one is closed")
        self.assertQuietLog()

    def each_wait_counts_what_was_written_before(self, binary: Callable[[], str]) -> None:
        """WAIT uses the connection that wrote. On another connection Redis would answer that
        everything is replicated, although the replica does not answer.
        """
        self.start(server=RedisServer(binary))
        server = self.installation.server
        replica = RedisServer(binary, f"replicaof 127.0.0.1 {server.port}", f"masterauth {server.password}").start()
        self.addCleanup(replica.stop)
        until(lambda: replica.client().info("replication")["master_link_status"] == "up", "the replica is in step")
        client = self.client()
        client.ask([b"SET", b"a", b"1"])
        self.assertEqual(client.ask([b"WAIT", b"1", b"10000"]), b":1\r\n")
        os.kill(replica.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, replica.pid, signal.SIGCONT)
        client.ask([b"SET", b"a", b"2"])
        self.assertEqual(client.ask([b"WAIT", b"1", b"100"]), b":0\r\n")


class NextSessionTests(SharedCase):
    """A connection of its own is another session's later, without what the first one did there."""

    def next_one(self, *options: str, server: RedisServer) -> tuple[RawClient, Callable[[], None]]:
        """Returns a client, and what checks that the next one finds nothing of it."""
        self.start("--base-workers", "0", *options, server=server)
        client = self.client()

        def check() -> None:
            another = self.client()
            self.assertEqual(another.ask([b"SET", b"watched", b"x"]), b"+OK\r\n")
            answers = [another.ask(words) for words in ([b"MULTI"], [b"GET", b"watched"], [b"EXEC"])]
            self.assertEqual(answers, [b"+OK\r\n", b"+QUEUED\r\n", b"*1\r\n$1\r\nx\r\n"])

        return client, check

    def test_a_subscriber_cannot_end_its_watch(self) -> None:
        client, check = self.next_one(server=RedisServer())
        client.ask([b"WATCH", b"watched"]), client.ask([b"SUBSCRIBE", b"c"])
        error = client.ask([b"UNWATCH"])
        self.assertTrue(error.startswith(b"-ERR Can't execute 'unwatch': only "), error)
        client.ask([b"UNSUBSCRIBE", b"c"])
        check()

    def test_redis_5_keeps_a_transaction_that_it_does_not_end(self) -> None:
        client, check = self.next_one(server=RedisServer(redis_5, "bind 127.0.0.1"))
        master = self.installation.server.client()
        client.ask([b"MULTI"]), client.ask([b"GET", b"a"])
        master.config_set("maxmemory", "1")
        self.assertTrue(client.ask([b"DISCARD"]).startswith(b"-OOM "))
        master.config_set("maxmemory", "0")
        check()


class SlowReaderTests(SharedCase):
    def test_one_that_does_not_read_stalls_nobody_for_long(self) -> None:
        self.start()
        self.installation.server.client(3).set("big", b"x" * (32 << 20))
        other = self.client()
        deaf = self.client()
        # These commands are pending behind the replies that are not read. They must not wait longer
        # than SLOW_READER_SECONDS.
        deaf.send(encode([b"GET", b"big"]) * 3)
        slowest = 0.0
        for number in range(300):
            started = time.monotonic()
            self.assertEqual(other.ask([b"ECHO", b"%03d" % number]), b"$3\r\n%03d\r\n" % number)
            slowest = max(slowest, time.monotonic() - started)
        print(f"a deaf neighbour on a multiplexed connection: slowest ECHO {slowest * 1000:.1f} ms")
        self.assertLess(slowest, LIMIT)
        self.assertQuietLog()

    def test_many_that_do_not_read_stall_nobody_for_long(self) -> None:
        """One slow reader on each connection that the tenant may have: another session has nothing
        pending there, and must still be served.
        """
        self.start()
        self.installation.server.client(3).set("big", b"x" * (32 << 20))
        for number in range(bounds.MULTIPLEXED_CONNECTIONS):
            deaf = self.client(receive_buffer=65536)
            deaf.send(encode([b"GET", b"big"]))
            upstreams = min(number + 2, bounds.MULTIPLEXED_CONNECTIONS)
            until(
                lambda n=number, m=upstreams: (self.stuck(), len(self.upstreams())) == (n + 1, m),
                "another upstream connection is not read",
            )
        other = self.client()
        started = time.monotonic()
        self.assertEqual(other.ask([b"ECHO", b"x"]), b"$1\r\nx\r\n")
        self.assertLess(time.monotonic() - started, LIMIT)
        self.assertQuietLog()

    def stuck(self) -> int:
        """Returns the number of connections on which Redis has replies that the proxy does not
        read.
        """
        return sum(int(upstream["omem"]) > 1 << 20 for upstream in self.upstreams())

    def test_a_slow_one_that_nobody_waits_for_gets_everything(self) -> None:
        self.start()
        self.installation.server.client(3).set("big", b"x" * (16 << 20))
        slow = self.client(receive_buffer=65536)
        slow.send(encode([b"GET", b"big"]) + encode([b"ECHO", b"end"]))
        time.sleep(1.5)  # longer than SLOW_READER_SECONDS
        self.assertEqual(len(slow.reply()), (16 << 20) + len(b"$16777216\r\n\r\n"))
        self.assertEqual(slow.reply(), b"$3\r\nend\r\n")


class FaultTests(SharedCase):
    SESSIONS = 20
    EACH = 50

    def in_flight(self) -> list[RawClient]:
        """Returns 20 sessions with 1,000 commands in total that Redis has not answered."""
        clients = [self.client() for _ in range(self.SESSIONS)]
        for client in clients:
            self.assertEqual(client.ask([b"PING"]), b"+PONG\r\n")
        self.relay.stall()
        size = 0
        for number, client in enumerate(clients):
            commands = b"".join(encode([b"ECHO", b"%d-%d" % (number, n)]) for n in range(self.EACH))
            client.send(commands)
            size += len(commands)
        # A command that the proxy has not written yet would not be lost with the connection.
        until(lambda: self.relay.held() >= size, "all commands are on their way to Redis")
        return clients

    def replies(self, clients: list[RawClient]) -> list[list[bytes]]:
        return [[client.reply() for _ in range(self.EACH)] for client in clients]

    def assertClosed(self, clients: list[RawClient]) -> None:
        for client in clients:
            self.assertEqual(client.rest(or_reset=True), b"")
        self.assertQuietLog()

    def test_redis_is_killed(self) -> None:
        self.start(relayed=True)
        clients = self.in_flight()
        idle = [self.client() for _ in range(5)]
        self.installation.server.kill()
        self.relay.cut()
        self.relay.flow()
        self.assertClosed(clients)
        # Whoever had nothing in flight stays.
        for client in idle:
            client.send([b"PING"])
        self.installation.server.start()
        for client in idle:
            self.assertEqual(client.reply(), b"+PONG\r\n")
        self.assertEqual(len(self.upstreams()), 1)
        self.assertQuietLog()

    def test_the_connection_is_cut(self) -> None:
        self.start(relayed=True)
        clients = self.in_flight()
        self.relay.cut()
        self.relay.flow()
        self.assertClosed(clients)

    def test_the_connection_stalls_and_goes_on(self) -> None:
        self.start(relayed=True)
        clients = self.in_flight()
        time.sleep(0.5)
        self.relay.flow()
        for number, replies in enumerate(self.replies(clients)):
            self.assertEqual(replies, [_bulk(b"%d-%d" % (number, n)) for n in range(self.EACH)])
        self.assertQuietLog()

    def test_redis_answers_garbage(self) -> None:
        for garbage in (b"+what\r\n", b"hello\r\n", b"$-5\r\n", b">2\r\n+invalidate\r\n*1\r\n+key\r\n"):
            with self.subTest(garbage):
                self.start(relayed=True)
                clients = [self.client() for _ in range(3)]
                for client in clients:
                    client.ask([b"PING"])
                told = self.relay.say(garbage)
                self.installation.proxy.logged("sent a reply that the proxy did not expect")
                # Until then a command may be sent over one of them, and gets the garbage.
                until(lambda told=told: all(map(hung_up, told)), "the proxy has closed the connections")
                for client in clients:
                    until(lambda c=client: c.ask([b"ECHO", b"own"]) == b"$3\r\nown\r\n", "the session works again")
                self.assertQuietLog()

    def test_the_upstream_connection_is_killed_again_and_again_under_load(self) -> None:
        """A client gets its own replies in order, and then the end of its connection."""
        self.start()
        lost = 0
        for turn in range(20):
            clients = [self.client() for _ in range(10)]
            for number, client in enumerate(clients):
                client.send(b"".join(encode([b"ECHO", b"%d-%d-%d" % (turn, number, n)]) for n in range(200)))
            self.installation.server.client().client_kill_filter(_type="normal", skipme=True)
            for number, client in enumerate(clients):
                client.half_close()
                answered = client.rest(or_reset=True)
                whole = b"".join(_bulk(b"%d-%d-%d" % (turn, number, n)) for n in range(200))
                self.assertTrue(whole.startswith(answered), answered[-100:])
                lost += answered != whole
                client.close()
        print(f"{lost} of 200 clients lost their connection")
        self.assertQuietLog()

    def test_within_a_reply_the_session_ends(self) -> None:
        """A client that has a part of a reply is closed, because nothing valid could follow."""
        self.start(relayed=True)
        begun, other = self.client(), self.client()
        other.ask([b"PING"])
        begun.send(encode([b"ECHO", b"x"]))
        self.assertEqual(begun.reply(), b"$1\r\nx\r\n")
        self.relay.stall()
        for client, word in ((begun, b"y"), (other, b"z")):
            before = self.relay.held()
            client.send(encode([b"ECHO", word]))
            until(lambda n=before: self.relay.held() > n, "it is on its way to Redis, behind what others asked")
        self.relay.say(b"$100\r\nabc")
        self.assertEqual(begun.exactly(9), b"$100\r\nabc")
        self.relay.cut()
        self.relay.flow()
        begun.rest(or_reset=True)
        self.assertEqual(other.rest(or_reset=True), b"")


class DifferentialTests(unittest.TestCase):
    """Several sessions do many things at once: each gets the same replies as directly from
    Redis.
    """

    SESSIONS = 8
    STEPS = 400

    def test_as_straight_from_redis(self) -> None:
        for seed in (1, 2, 3):
            with self.subTest(seed):
                self.play(random.Random(seed))

    def play(self, chance: random.Random) -> None:
        installation = Installation("--connections", "multiplexed")
        self.addCleanup(installation.stop)
        through = [raw_client(self, installation.proxy.port, *LOGIN) for _ in range(self.SESSIONS)]
        other = RedisServer().start()
        self.addCleanup(other.stop)
        straight = [raw_client(self, other.port, b"AUTH", other.password.encode()) for _ in range(self.SESSIONS)]
        for client in straight:
            client.ask([b"SELECT", b"3"])
        for number in range(0, self.SESSIONS, 2):
            self.assertEqual({through[number].ask([b"HELLO", b"3"])[:1], straight[number].ask([b"HELLO", b"3"])[:1]}, {b"%"})
        unsent = [b""] * self.SESSIONS
        counts = [0] * self.SESSIONS
        for step in range(self.STEPS):
            number = chance.randrange(self.SESSIONS)
            said, replies = self.say(chance, b"%d" % number, step)
            unsent[number] += said
            straight[number].send(said)
            counts[number] += replies
            # In pieces that end anywhere, mixed with the pieces of other sessions.
            for talker in chance.sample(range(self.SESSIONS), 3):
                size = chance.choice((0, 1, 7, 50, 100_000, len(unsent[talker])))
                piece, unsent[talker] = unsent[talker][:size], unsent[talker][size:]
                if piece:
                    through[talker].send(piece)
        for number in range(self.SESSIONS):
            through[number].send(unsent[number])
        for number in range(self.SESSIONS):
            for n in range(counts[number]):
                expected, heard = straight[number].reply(), through[number].reply()
                self.assertEqual(heard[:200], expected[:200], (number, n))
                self.assertEqual(heard, expected)
        for client in (*through, *straight):
            self.assertEqual(client.ask([b"ECHO", b"the end"]), b"$7\r\nthe end\r\n")
        self.assertNotIn("Traceback", installation.proxy.log)

    def say(self, chance: random.Random, who: bytes, step: int) -> tuple[bytes, int]:
        """Returns a session's next commands, about its own keys and channels, and the number of
        their replies.
        """
        key = b"key-%b-%d" % (who, chance.randrange(3))
        value = b"%d" % step
        commands = chance.choice(
            (
                [[b"SET", key, value]] * chance.randrange(1, 20),
                [[b"GET", key], [b"APPEND", key, b"x"], [b"STRLEN", key]],
                [[b"RPUSH", b"list" + key, value], [b"BLPOP", b"list" + key, b"0"]],
                [[b"BLPOP", b"nothing" + key, b"0.01"], [b"GET", key]],
                [[b"MULTI"], [b"SET", key, value], [b"GET", key], [b"EXEC"]],
                [[b"MULTI"], [b"NOSUCH"], [b"GET", key], [b"EXEC"]],
                [[b"MULTI"], [b"BLPOP", b"nothing" + key, b"0"], [b"DISCARD"]],
                [[b"MULTI"], [b"LPUSH", key, b"wrong type"], [b"EXEC"]],
                [[b"WATCH", key], [b"GET", key], [b"MULTI"], [b"SET", key, value], [b"EXEC"]],
                [[b"WATCH", key], [b"SET", key, value], [b"MULTI"], [b"GET", key], [b"EXEC"]],
                [[b"WATCH", key], [b"UNWATCH"], [b"EXEC"]],
                [[b"SUBSCRIBE", b"c" + who], [b"PING"], [b"UNSUBSCRIBE", b"c" + who]],
                [[b"PSUBSCRIBE", b"p*" + who], [b"PUNSUBSCRIBE", b"p*" + who], [b"PING"]],
                [[b"PUBLISH", b"c" + who, value], [b"GET", key]],
                [[b"NOSUCH", key], [b"GET", key]],
                [[b"SELECT", b"3"], [b"CLIENT", b"SETNAME", who], [b"CLIENT", b"GETNAME"]],
                [[b"SET", b"large" + key, value * 60_000], [b"GET", b"large" + key], [b"STRLEN", b"large" + key]],
                [[b"GET", b"large" + key]] * 3,
                [[b"XADD", b"s" + key, b"%d-1" % (step + 1), b"f", value], [b"XREAD", b"STREAMS", b"s" + key, b"0"]],
                [[b"XREAD", b"BLOCK", b"10", b"STREAMS", b"s" + key, b"$"]],
                [[b"GET"], [b"SET", key], [b"EXEC"], [b"DISCARD"]],
                [[b"EVAL", b"return {KEYS[1], {1, 2}}", b"1", key]],
                [[b"PUBLISH", b"c" + who, value * 40_000], [b"PING"]],
            )
        )
        return b"".join(encode(words) for words in commands), len(commands)


class RandomTests(unittest.TestCase):
    """Sessions of two tenants send anything in any order: each gets the same replies as directly
    from Redis.

    Only the fact that a reply is an error is compared, and of HELLO's reply only its type, because
    that reply names the connection.
    """

    SESSIONS = 8
    STEPS = 60

    def test_as_straight_from_redis(self) -> None:
        installation = Installation("--connections", "multiplexed")
        self.addCleanup(installation.stop)
        straight = RedisServer().start()
        self.addCleanup(straight.stop)
        straight.client().acl_setuser("default", enabled=True, passwords=["+blue-password", "+green-password"])
        for seed in SEEDS:
            straight.client().flushall()
            installation.server.client().flushall()
            with self.subTest(seed):
                self.play(random.Random(seed), installation.proxy.port, straight.port)
        self.assertNotIn("Traceback", installation.proxy.log)

    def play(self, chance: random.Random, *ports: int) -> None:
        speakers = [Speaker(chance, n, b"green" if n % 2 else b"blue") for n in range(self.SESSIONS)]
        both = [[raw_client(self, port, b"AUTH", s.tenant + b"-password") for port in ports] for s in speakers]
        for speaker, (_, straight) in zip(speakers, both, strict=True):
            straight.ask([b"SELECT", speaker.index])
        for step in range(self.STEPS):
            said = {n: speakers[n].say() for n in chance.sample(range(self.SESSIONS), 4)}
            for number, commands in said.items():
                both[number][1].send(commands)
            while said:
                number = chance.choice(list(said))
                size = chance.choice((1, 7, 40, 1000, 65536, len(said[number])))
                piece, said[number] = said[number][:size], said[number][size:]
                both[number][0].send(piece)
                if not said[number]:
                    del said[number]
            if chance.random() < 0.1:  # one client leaves meanwhile
                number = chance.randrange(self.SESSIONS)
                for client in both[number]:
                    client.close()
                speakers[number] = Speaker(chance, number + self.SESSIONS * (step + 1), chance.choice((b"blue", b"green")))
                login = (b"AUTH", speakers[number].tenant + b"-password")
                both[number] = [raw_client(self, port, *login) for port in ports]
                both[number][1].ask([b"SELECT", speakers[number].index])
        for speaker, clients in zip(speakers, both, strict=True):
            end = speaker.end()
            for client in clients:
                client.send(end)
            # The proxy's own answer may come before a message that Redis sent earlier.
            heard, expected = (
                sorted(self.until_the_end(client), key=lambda reply: b"\r\nmessage\r\n" in reply) for client in clients
            )
            if heard != expected:
                at = next(n for n, (a, b) in enumerate(zip([*heard, b""], [*expected, b""], strict=False)) if a != b)
                shown = [[reply[:40] for reply in replies[max(0, at - 4) : at + 4]] for replies in (heard, expected)]
                self.fail(f"heard {shown[0]}, and straight {shown[1]}, by {speaker}")

    def until_the_end(self, client: RawClient) -> Iterator[bytes]:
        while (reply := client.reply()) != b"$7\r\nthe end\r\n":
            yield b"-" if reply.startswith(b"-") else reply[:1] if b"\r\nserver\r\n" in reply[:30] else reply


class Speaker:
    """Makes a client's commands: those to which Redis and the proxy answer the same in the client's
    state.
    """

    def __init__(self, chance: random.Random, number: int, tenant: bytes) -> None:
        self.tenant = tenant
        self._chance = chance
        self._who = b"%d" % number
        self._multi = self._resp3 = False
        self._subscribed: set[bytes] = set()
        self._step = 0
        self._channel = b"c" + self._who
        self.said: list[list[bytes]] = []

    def __repr__(self) -> str:
        return "\n".join(" ".join(word[:40].decode() for word in words) for words in self.said)

    @property
    def index(self) -> bytes:
        return {b"blue": b"3", b"green": b"5"}[self.tenant]

    def say(self) -> bytes:
        return b"".join(self._command() for _ in range(self._chance.choice((1, 2, 5, 30))))

    def end(self) -> bytes:
        """Returns commands that leave any state, so that the last reply arrives."""
        out = [b"DISCARD", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"CLIENT REPLY ON"]
        return b"".join(encode(words.split()) for words in out) + encode([b"ECHO", b"the end"])

    def _command(self) -> bytes:
        chance, who = self._chance, self._who
        self._step += 1
        key = b"%b-%d" % (who, chance.randrange(3))
        value = b"%b-%d" % (who, self._step)
        if chance.random() < 0.03:
            value = value.ljust(chance.choice((65536, 65500, 65536 - len(key), 131072)) - chance.randrange(60), b"x")
        plain = [
            [b"SET", key, value],
            [b"GET", key],
            [b"ECHO", value],
            [b"GET"],
            [b"PING"],
            [b"NOSUCH", value],
            [b"PUBLISH", self._channel, value],
            [b"BLPOP", b"l" + key, b"0.001"],
            [b"RPUSH", b"l" + key, value],
            [b"EVAL", b"return {1, {redis.call('get', KEYS[1])}, {err='ERR x'}}", b"1", key],
            [b"MULTI"],
            [b"multi"],
            [b"WATCH", key],
            [b"UNWATCH"],
            [b"EXEC"],
            [b"eXec"],
            [b"DISCARD"],
            [b"EXEC", b"x"],
            [b"DISCARD", b"x"],
            [b"MULTI", b"x"],
            [b"WATCH"],
        ]
        if not (self._subscribed and not self._resp3):
            plain += [[b"CLIENT", b"REPLY", mode] for mode in (b"ON", b"SKIP", b"SKIP", b"OFF", b"x")]
        if not self._multi:
            plain += [[b"SELECT", self.index]] * (not self._subscribed)
            plain += [
                [b"SUBSCRIBE", self._channel],
                [b"UNSUBSCRIBE", self._channel],
                [b"PSUBSCRIBE", b"p" + who],
                [b"UNSUBSCRIBE"],
            ]
            plain += [[b"PUNSUBSCRIBE"]]
            plain += [[b"RESET"], [b"HELLO", b"3"], [b"HELLO", b"2"], [b"HELLO", b"9"]]
            if not self._subscribed:
                plain += [[b"CLIENT", b"GETNAME"], [b"AUTH", b"green-password"], [b"AUTH", b"blue-password"]]
        words = chance.choice(plain)
        name = words[0].upper()
        before = more = b""
        if name == b"MULTI" and len(words) == 1 and (self._resp3 or not self._subscribed):
            self._multi = True
        elif name == b"EXEC" or (name == b"DISCARD" and len(words) == 1):
            self._multi = False
        elif name in (b"SUBSCRIBE", b"PSUBSCRIBE"):
            self._subscribed.add(name)
        elif name == b"UNSUBSCRIBE":
            self._subscribed.discard(b"SUBSCRIBE")
        elif name == b"PUNSUBSCRIBE":
            self._subscribed.discard(b"PSUBSCRIBE")
        elif name == b"HELLO" and words[1] != b"9" and (self._resp3 or not self._subscribed):
            self._resp3 = words[1] == b"3"
        elif name in (b"RESET", b"AUTH"):
            if name == b"RESET":
                self._subscribed.clear()
                # the connection that is subscribed to the old channel may live a moment longer
                self._channel += b"+"
                self._resp3 = False
                # otherwise a message to itself would come first directly, and never through the
                # proxy
                before = encode([b"PING"])
            self.tenant = chance.choice((b"blue", b"green"))
            if name == b"AUTH":
                words[1] = self.tenant + b"-password"
            else:
                more = encode([b"AUTH", self.tenant + b"-password"])
            more += encode([b"SELECT", self.index])
        self.said.append(words)
        # In Redis an empty command uses up a SKIP.
        if chance.random() < 0.1 and len(value) < 100 and name not in (b"EVAL", b"CLIENT"):
            return before + b" ".join(words) + b"\r\n" + chance.choice((b"", b"\r\n", b"*0\r\n")) + more
        return before + encode(words) + more
