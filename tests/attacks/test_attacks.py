"""The corpus against the real proxy and real servers; then against Redis itself, with the first wall taken away."""

from __future__ import annotations

import itertools
import re
import socket
import sys
import time
import unittest
from collections.abc import Callable, Iterator

from redisproxy.core import acl
from redisproxy.core.commands import parse
from redisproxy.core.policy import make_policy
from redisproxy.core.resp import encode
from redisproxy.core.tenants import Tenant

from ..support.proxy import Installation
from ..support.servers import MASTER_PASSWORD, RedisServer, debian, redis_8, valkey
from ..support.waiting import until
from .corpus import SECRETS, VICTIM_CHANNEL, VICTIM_KEY, VICTIM_NAME, VICTIM_VALUE, attempts

BLUE = Tenant("team-blue", 3)
END = b"end-of-attempt"
_numbers = itertools.count()


class Peer:
    """Bytes to a port, and what comes back."""

    def __init__(self, port: int, *lines: bytes) -> None:
        # Each from an address of its own: one address would be slowed down for the wrong passwords of all.
        source = f"127.{next(_numbers) % 250 + 1}.{next(_numbers) % 250 + 1}.1" if sys.platform == "linux" else ""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for line in lines:
            self.socket.sendall(line)
            answer = self.read(b"\r\n")
            assert answer.startswith((b"+OK", b"*", b">")), answer

    def read(self, end: bytes) -> bytes:
        """All until end has come, or the connection was closed, or nothing comes for a while."""
        got = b""
        self.socket.settimeout(0.7)
        try:
            while end not in got and (data := self.socket.recv(65536)):
                got += data
        except OSError:
            pass
        return got

    def attempt(self, data: bytes) -> bytes:
        """What is answered, with the answer to an ECHO behind it, where the connection still lives."""
        try:
            self.socket.sendall(data + encode([b"ECHO", END]))
        except OSError:
            pass
        return self.read(END)

    def close(self) -> None:
        self.socket.close()


class Victim:
    """team-green: a key, a subscriber, an open connection, through the proxy or not."""

    def __init__(self, installation: Installation) -> None:
        self.straight = installation.server.client(5)
        self.straight.set(VICTIM_KEY, VICTIM_VALUE)
        self.straight.set("victims-second-key", "victims-value")
        port = installation.proxy.port
        auth = b"AUTH green-password\r\n"
        self.subscriber = Peer(port, auth)
        self.subscriber.socket.sendall(encode([b"SUBSCRIBE", VICTIM_CHANNEL]) + encode([b"SSUBSCRIBE", VICTIM_CHANNEL]))
        self.subscriber.read(b":2\r\n")
        self.connection = Peer(port, auth, encode([b"CLIENT", b"SETNAME", VICTIM_NAME]))
        self.all = installation.server.client(0)
        self.state = self.now()

    def now(self) -> object:
        """All that an attacker must not change."""
        keyspace = {k: v["keys"] for k, v in self.all.info("keyspace").items() if k != "db3"}
        return self.straight.get(VICTIM_KEY), self.straight.ttl(VICTIM_KEY), sorted(self.straight.keys()), keyspace

    def heard(self) -> bytes:
        """What the subscriber was told since."""
        self.subscriber.socket.setblocking(False)
        try:
            return self.subscriber.socket.recv(1000) or b"closed"
        except BlockingIOError:
            return b""

    def served_within(self) -> float:
        started = time.monotonic()
        answer = self.connection.attempt(encode([b"GET", VICTIM_KEY]))
        assert VICTIM_VALUE in answer, answer
        return time.monotonic() - started

    def close(self) -> None:
        self.subscriber.close()
        self.connection.close()


def spoken(answer: bytes, sent: bytes) -> bytes:
    """An answer without what it repeats of the attacker's own words."""
    for word in (*SECRETS, *re.findall(rb"[A-Za-z:-]{8,}", sent)):
        if word in sent:
            answer = answer.replace(word, b"")
    return answer


class CorpusCase(unittest.TestCase):
    def installation(self, binary: Callable[[], str], *options: str) -> Installation:
        binary()  # or skip, before anything was started
        installation = Installation(*options, server=RedisServer(binary, "notify-keyspace-events KEA"))
        self.addCleanup(installation.stop)
        return installation

    def attack(
        self, installation: Installation, connect: Callable[[], Peer], corpus: Iterator[tuple[str, bytes]], pieces: int = 1
    ) -> int:
        victim = Victim(installation)
        self.addCleanup(victim.close)
        count = 0
        for told, data in corpus:
            count += 1
            with self.subTest(told):
                attacker = connect()
                if pieces > 1:
                    for byte in range(len(data)):
                        attacker.socket.sendall(data[byte : byte + 1])
                answer = attacker.attempt(b"" if pieces > 1 else data)
                attacker.close()
                for secret in (*SECRETS, VICTIM_NAME):
                    self.assertNotIn(secret, spoken(answer, data + told.encode()))
                self.assertEqual(victim.now(), victim.state)
                self.assertEqual(victim.heard(), b"")
                self.assertLess(victim.served_within(), 0.9)
        return count


class FirstWallTests(CorpusCase):
    def check(self, binary: Callable[[], str], *options: str, scripts: bool = True) -> None:
        installation = self.installation(binary, *options)
        port = installation.proxy.port

        def connect() -> Peer:
            return Peer(port, b"AUTH blue-password\r\n", encode([b"SET", b"attackers-key", b"x"]))

        count = self.attack(installation, connect, attempts(scripts=True))
        print(f"{count} attempts on {installation.proxy.logged('Redis is ((?:Valkey|Redis) [0-9.]+)')[1]}")
        self.assertGreater(count, 800)
        self.assertNotIn("Traceback", installation.proxy.log)
        self.assertNotIn(MASTER_PASSWORD, installation.proxy.log)

    def test_valkey_9(self) -> None:
        self.check(valkey)

    def test_redis_8(self) -> None:
        self.check(redis_8)

    def test_redis_7(self) -> None:
        self.check(lambda: debian("redis-server"))

    def test_one_wall_only(self) -> None:
        self.check(valkey, "--acl", "off")

    def test_framing_byte_by_byte(self) -> None:
        installation = self.installation(valkey)
        port = installation.proxy.port
        framing = ((told, data) for told, data in attempts() if told.startswith("framing") and len(data) < 1000)
        self.attack(installation, lambda: Peer(port, b"AUTH blue-password\r\n"), framing, pieces=2)


class SecondWallTests(CorpusCase):
    """No proxy: the attacker speaks to Redis itself, as the user of its own lanes."""

    def straight(self, installation: Installation) -> Peer:
        name = acl.username(BLUE)
        secret = acl.password(MASTER_PASSWORD.encode(), name)
        return Peer(
            installation.server.port,
            b"AUTH %b\r\n" % MASTER_PASSWORD.encode(),
            b"SELECT 3\r\n",
            encode([b"AUTH", name.encode(), secret]),
        )

    def check(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        installation.blue().set("attackers-key", "x")  # so that its user exists
        # The framing is Redis's own business here.
        corpus = ((told, data) for told, data in attempts() if not told.startswith("framing"))
        self.attack(installation, lambda: self.straight(installation), corpus)

    def test_valkey_9(self) -> None:
        self.check(valkey)

    def test_redis_8(self) -> None:
        self.check(redis_8)

    def test_redis_7(self) -> None:
        self.check(lambda: debian("redis-server"))

    def compare(self, binary: Callable[[], str]) -> None:
        """Every command of the server: what policy forwards and what the user may do are the same."""
        installation = self.installation(binary)
        installation.blue().ping()
        client = installation.server.client(3)  # DRYRUN asks for the right to the own database
        connection = client.connection_pool.get_connection()
        connection.send_command("COMMAND")
        reply = connection.read_response()
        commands = parse(reply)
        databases = "keeps to its database" in installation.proxy.log
        policy = make_policy(commands, scripts=True, databases=databases)
        checked = 0

        def walk(entries: list) -> Iterator[tuple[str, int]]:
            for entry in entries:
                subcommands = entry[9] if len(entry) > 9 else []
                yield from walk(subcommands)
                if not subcommands or abs(entry[1]) == 1:  # COMMAND alone is a command as well
                    yield (entry[0].decode() if isinstance(entry[0], bytes) else entry[0]), entry[1]

        for name, arity in walk(reply):
            words = [*name.split("|"), *["1"] * (abs(arity) - 1 - name.count("|"))]
            if name.split("|")[0].endswith(("subscribe", "publish")):
                words[1:2] = ["team-blue:*"] if len(words) > 1 else []
            connection.send_command("ACL", "DRYRUN", acl.username(BLUE), *words)
            try:
                answer = connection.read_response()
            except Exception as error:  # arguments that DRYRUN itself judges
                answer = str(error).encode()
            answer = answer if isinstance(answer, bytes) else str(answer).encode()
            may = b"has no permissions" not in answer
            forwarded = bool({name.lower(), name.lower().split("|")[0]} & set(policy.forwarded))
            always = name in ("auth", "hello", "quit", "reset")  # Redis asks no rights for these
            if not always:
                self.assertEqual(may, forwarded, (name, answer))
                checked += 1
        print(f"{checked} commands: both walls say the same")
        self.assertGreater(checked, 300)

    def test_both_walls_say_the_same_valkey_9(self) -> None:
        self.compare(valkey)

    def test_both_walls_say_the_same_redis_8(self) -> None:
        self.compare(redis_8)

    def test_both_walls_say_the_same_redis_7(self) -> None:
        self.compare(lambda: debian("redis-server"))


class ProvisioningTests(CorpusCase):
    def test_the_user_is_made_again(self) -> None:
        """After ACL DELUSER, a restart, and a new master password."""
        installation = self.installation(valkey)
        blue = installation.blue()
        blue.set("a", 1)
        straight = installation.server.client()
        self.assertIn("redisproxy:team-blue:3", straight.acl_users())
        straight.acl_deluser("redisproxy:team-blue:3")
        until(lambda: works(installation), "a new session has its user again")
        installation.server.kill()
        installation.server.start()
        until(lambda: works(installation), "likewise after a restart")
        self.assertIn("redisproxy:team-blue:3", installation.server.client().acl_users())
        self.assertNotIn("Traceback", installation.proxy.log)

    def test_a_lane_cannot_do_more_than_its_user(self) -> None:
        installation = self.installation(valkey)
        with installation.blue().client() as connection:
            connection.set("a", 1)
            users = {c["user"] for c in installation.server.client().client_list() if c["db"] == "3"}
        self.assertEqual(users, {"redisproxy:team-blue:3"})

    def test_require(self) -> None:
        installation = self.installation(valkey, "--acl", "require")
        self.assertTrue(installation.blue().ping())


def works(installation: Installation) -> bool:
    try:
        return bool(installation.blue().ping())
    except Exception:
        return False
