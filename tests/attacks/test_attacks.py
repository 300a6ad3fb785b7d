"""Runs the corpus against the real proxy and real servers, and then against Redis itself, without
the first isolation layer.
"""

from __future__ import annotations

import itertools
import re
import sys
import time
import unittest
from collections.abc import Callable, Iterator

import redis

from redisproxy.policy import acl
from redisproxy.policy.facts import parse
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import encode
from redisproxy.tenants.model import Tenant

from ..support.proxy import Installation, master
from ..support.raw import RawClient
from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server, redis_5, valkey
from ..support.waiting import LIMIT, until
from .corpus import SECRETS, VICTIM_CHANNEL, VICTIM_KEY, VICTIM_NAME, VICTIM_VALUE, attempts

BLUE = Tenant("team-blue", 3)
END = b"end-of-attempt"
#: For a server before Redis 6.2, which does not know the usual setting's `-::1`.
IPV4_ONLY = "bind 127.0.0.1"
_numbers = itertools.count()


class Peer:
    """A connection that sends bytes to a port and reads the answer. lines: sent first; each must
    succeed.
    """

    def __init__(self, port: int, *lines: bytes) -> None:
        # Each connects from an address of its own. Otherwise the wrong passwords of all would slow
        # that one address down.
        source = f"127.{next(_numbers) % 250 + 1}.{next(_numbers) % 250 + 1}.1" if sys.platform == "linux" else ""
        self.raw = RawClient(port, source=source)
        self.raw.send(b"".join(lines))
        for _ in lines:
            answer = self.raw.reply()
            assert answer == b"+OK\r\n", answer

    def read(self, end: bytes = b"", quiet: float = LIMIT) -> bytes:
        """Returns the bytes until `end` has arrived (if given), the connection is closed, or
        nothing has arrived for `quiet` seconds.
        """
        got = b""
        self.raw.socket.settimeout(quiet)
        try:
            while not (end and end in got) and (data := self.raw.some()):
                got += data
        except OSError:
            pass
        return got

    def ask(self, data: bytes) -> bytes:
        """Returns the answer to commands that do not end the connection."""
        self.raw.send(data + encode([b"ECHO", END]))
        answer = self.read(END + b"\r\n")
        assert answer.endswith(END + b"\r\n"), answer
        return answer

    def attempt(self, data: bytes) -> bytes:
        """Returns all answers until the connection closes, which a QUIT behind the commands asks
        for.
        """
        try:
            self.raw.send(data + encode([b"ECHO", END]) + encode([b"QUIT"]))
        except OSError:
            pass
        return self.read(quiet=LIMIT)

    def close(self) -> None:
        self.raw.close()


class Victim:
    """team-green: a key, a subscriber and an open connection through the proxy, and a direct
    connection to Redis.
    """

    #: Read directly from Redis: all that an attacker must not change. Scripts are part of it,
    #: because the server runs all scripts in one interpreter.
    STATE = b"".join(
        encode(words)
        for words in (
            [b"GET", VICTIM_KEY],
            [b"TTL", VICTIM_KEY],
            [b"KEYS", b"*"],
            [
                b"EVAL",
                b"return {('x'):rep(2), tostring(5), string.rep('y', 2), redis.call('GET', KEYS[1]), redis.call('DBSIZE')}",
                b"1",
                VICTIM_KEY,
            ],
            [b"INFO", b"keyspace"],
        )
    )

    def __init__(self, installation: Installation) -> None:
        straight = installation.server.client(5)
        straight.set(VICTIM_KEY, VICTIM_VALUE)
        straight.set("victims-second-key", "victims-value")
        straight.close()
        port = installation.proxy.port
        auth = b"AUTH green-password\r\n"
        self.subscriber = Peer(port, auth)
        subscribe = encode([b"SUBSCRIBE", VICTIM_CHANNEL]) + encode([b"SSUBSCRIBE", VICTIM_CHANNEL])
        self.subscriber.raw.send(subscribe + encode([b"PING"]))
        assert b":1\r\n" in self.subscriber.read(b"$4\r\npong\r\n$0\r\n\r\n")
        self.connection = Peer(port, auth, encode([b"CLIENT", b"SETNAME", VICTIM_NAME]))
        master = encode([b"AUTH", MASTER_PASSWORD.encode()])
        self.straight = Peer(installation.server.port, master, encode([b"SELECT", b"5"]))
        self.state = self.now()

    def now(self) -> bytes:
        """Returns the answers to STATE, without the facts about the attacker's database."""
        return re.sub(rb"\$\d+\r\n(# Keyspace)", rb"\1", re.sub(rb"db3:.*\r\n", b"", self.straight.ask(self.STATE)))

    def heard(self) -> bytes:
        """Returns what the subscriber received since the last call."""
        raw = self.subscriber.raw
        return b"" if raw.is_silent() else raw.some() or b"closed"

    def served_within(self) -> float:
        started = time.monotonic()
        answer = self.connection.ask(encode([b"GET", VICTIM_KEY]))
        assert VICTIM_VALUE in answer, answer
        return time.monotonic() - started

    def close(self) -> None:
        for peer in (self.subscriber, self.connection, self.straight):
            peer.close()


def spoken(answer: bytes, sent: bytes) -> bytes:
    """Returns an answer without the words that repeat the attacker's own."""
    for word in (*SECRETS, *re.findall(rb"[A-Za-z:-]{8,}", sent)):
        if word in sent:
            answer = answer.replace(word, b"")
    return answer


class CorpusCase(unittest.TestCase):
    def installation(self, binary: Callable[[], str], *options: str, settings: tuple[str, ...] = ()) -> Installation:
        installation = Installation(*options, server=RedisServer(binary, "notify-keyspace-events KEA", *settings))
        self.addCleanup(installation.stop)
        return installation

    def attack(
        self, installation: Installation, connect: Callable[[], Peer], corpus: Iterator[tuple[str, bytes]], pieces: int = 1
    ) -> int:
        victim = Victim(installation)
        self.addCleanup(victim.close)
        count = 0
        for label, data in corpus:
            count += 1
            with self.subTest(label):
                attacker = connect()
                if pieces > 1:
                    for byte in range(len(data)):
                        attacker.raw.send(data[byte : byte + 1])
                answer = attacker.attempt(b"" if pieces > 1 else data)
                attacker.close()
                for secret in (*SECRETS, VICTIM_NAME, MASTER_PASSWORD.encode()):
                    self.assertNotIn(secret, spoken(answer, data + label.encode()))
                self.assertEqual(victim.now(), victim.state)
                self.assertEqual(victim.heard(), b"")
                # an attempt to stop Redis would stop it for longer
                self.assertLess(victim.served_within(), LIMIT)
        return count


@on_every_server
class FirstLayerTests(CorpusCase):
    def each_first_layer(self, binary: Callable[[], str], *options: str, settings: tuple[str, ...] = ()) -> None:
        installation = self.installation(binary, *options, settings=settings)
        port = installation.proxy.port

        def connect() -> Peer:
            return Peer(port, b"AUTH blue-password\r\n", encode([b"SET", b"attackers-key", b"x"]))

        count = self.attack(installation, connect, attempts(scripts=True))
        print(f"{count} attempts on {installation.proxy.logged('Redis is ((?:Valkey|Redis) [0-9.]+)')[1]}")
        self.assertGreater(count, 800)
        self.assertNotIn("Traceback", installation.proxy.log)
        self.assertNotIn(MASTER_PASSWORD, installation.proxy.log)

    def test_one_layer_only(self) -> None:
        self.each_first_layer(valkey, "--acl", "off")

    def test_one_layer_only_redis_5(self) -> None:
        self.each_first_layer(redis_5, settings=(IPV4_ONLY,))

    def test_framing_byte_by_byte(self) -> None:
        installation = self.installation(valkey)
        port = installation.proxy.port
        framing = ((label, data) for label, data in attempts() if label.startswith("framing") and len(data) < 1000)
        self.attack(installation, lambda: Peer(port, b"AUTH blue-password\r\n"), framing, pieces=2)


@on_every_server
class SecondLayerTests(CorpusCase):
    """The attacker connects to Redis without a proxy, as the user of its dedicated connections."""

    def straight(self, installation: Installation) -> Peer:
        name = acl.username(BLUE)
        secret = acl.password(MASTER_PASSWORD.encode(), name)
        return Peer(
            installation.server.port,
            b"AUTH %b\r\n" % MASTER_PASSWORD.encode(),
            b"SELECT 3\r\n",
            encode([b"AUTH", name.encode(), secret]),
        )

    def each_second_layer(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        installation.blue().set("attackers-key", "x")  # creates the attacker's user
        # Framing is Redis's own responsibility here.
        corpus = ((label, data) for label, data in attempts() if not label.startswith("framing"))
        self.attack(installation, lambda: self.straight(installation), corpus)

    def each_both_layers_say_the_same(self, binary: Callable[[], str]) -> None:
        """For every command of the server, the policy forwards exactly what the ACL user may
        run.
        """
        installation = self.installation(binary)
        with installation.blue() as blue:
            blue.ping()  # creates the user
        name = acl.username(BLUE)
        client = installation.server.client(3)  # DRYRUN checks the right to the own database
        connection = client.connection_pool.get_connection()

        def ask(*words: str | bytes) -> object:
            connection.send_command(*words)
            try:
                return connection.read_response()
            except redis.ResponseError as error:
                return error

        reply = ask("COMMAND")
        commands = parse(reply)
        databases = "limits to the tenant's database" in installation.proxy.log
        sealed = "scripts are refused: on this server" not in installation.proxy.log
        policy = make_policy(commands, scripts=True, databases=databases, sealed=sealed)
        dry = ask("ACL", "DRYRUN", name, "PING") == b"OK"
        if not dry:
            self.assertEqual(ask("AUTH", name, acl.password(MASTER_PASSWORD.encode(), name)), b"OK")
        checked = 0

        def may(words: list[str]) -> bool:
            if dry:
                return "has no permissions" not in _text(ask("ACL", "DRYRUN", name, *words))
            # Before Redis 7 the command is sent inside MULTI: Redis then checks the right and runs
            # nothing.
            self.assertEqual(ask("MULTI"), b"OK")
            answer = ask(*words)
            ask("DISCARD")
            return not isinstance(answer, redis.exceptions.NoPermissionError)

        def walk() -> Iterator[tuple[str, int]]:
            """Yields each name, and the least number of words that it takes. Before Redis 7 COMMAND
            lists no subcommands.
            """
            for entry in reply:
                command = _text(entry[0]).lower()
                arities = {_text(sub[0]).lower(): abs(sub[1]) for sub in (entry[9] if len(entry) > 9 else [])}
                subcommands = [sub.name.decode().lower() for sub in commands[command.upper().encode()].subcommands]
                yield from ((sub, arities.get(sub, 2)) for sub in subcommands)
                if not subcommands or abs(entry[1]) == 1:  # COMMAND alone is a command as well
                    yield command, abs(entry[1])

        for command, arity in walk():
            if command in ("auth", "hello", "quit", "reset"):
                continue  # Redis checks no rights for these
            words = command.split("|")
            words += ["1"] * (arity - len(words))
            if command.endswith(("subscribe", "publish")):
                words[1:2] = ["team-blue:*"] if len(words) > 1 else []
            forwarded = bool({command, command.split("|")[0]} & set(policy.forwarded))
            self.assertEqual(may(words), forwarded, command)
            checked += 1
        print(f"{checked} commands: both layers say the same")
        self.assertGreater(checked, 250)


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


@on_every_server
class ProvisioningTests(CorpusCase):
    def each_the_user_is_made_again(self, binary: Callable[[], str]) -> None:
        """The proxy creates the user again after ACL DELUSER, after a restart of Redis, and with a
        new master password.
        """
        installation = self.installation(binary)
        with installation.blue() as blue:
            blue.set("a", 1)
        straight = installation.server.client()
        self.assertIn("redisproxy:team-blue:3", straight.acl_users())
        straight.acl_deluser("redisproxy:team-blue:3")
        until(lambda: works(installation), "a new session has its user again")
        installation.server.kill()
        installation.server.start()
        until(lambda: works(installation), "likewise after a restart")
        straight = installation.server.client()
        old = straight.acl_getuser("redisproxy:team-blue:3")
        straight.config_set("requirepass", "another-master-password")
        installation.server.password = "another-master-password"
        installation.manifests.write([master(installation.server.url), *installation.documents()[1:]])
        installation.proxy.refresh()

        def new() -> dict:
            return installation.server.client().acl_getuser("redisproxy:team-blue:3")

        until(lambda: works(installation) and new()["passwords"] != old["passwords"], "likewise with a new master password")
        self.assertEqual({**new(), "passwords": []}, {**old, "passwords": []})
        self.assertNotIn("Traceback", installation.proxy.log)

    def each_scripts_where_one_users_cannot_change_anothers(self, binary: Callable[[], str]) -> None:
        """On other servers scripts are refused and the log gives the reason. An operator can allow
        them.
        """
        installation = self.installation(binary)
        straight = installation.server.client()
        shared = "local shared = getmetatable('') shared.__index = shared.__index return 1"
        try:
            sealed = straight.eval(shared, 0) != 1
        except redis.ResponseError:
            sealed = True
        refusal = "scripts are refused: on this server one tenant's script can change another tenant's script"
        with installation.blue(protocol=2) as blue:
            if sealed:
                self.assertEqual(blue.eval("return 1", 0), 1)
                self.assertNotIn(refusal, installation.proxy.log)
                return
            for call in (
                lambda: blue.eval("return 1", 0),
                lambda: blue.script_load("return 1"),
                lambda: blue.evalsha("0" * 40, 0),
            ):
                self.assertRaises(redis.exceptions.NoPermissionError, call)
        installation.proxy.logged(refusal)
        allowing = self.installation(binary, "--allow-commands", "EVAL")
        allowing.proxy.logged("--allow-commands allows scripts, though on this server one tenant's script can change")
        with allowing.blue(protocol=2) as blue:
            self.assertEqual(blue.eval("return 1", 0), 1)

    def each_a_connection_cannot_do_more_than_its_user(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary, "--acl", "require")
        with installation.blue() as blue:
            blue.set("a", 1)
            users = {c["user"] for c in installation.server.client().client_list() if c["db"] == "3"}
        self.assertEqual(users, {"redisproxy:team-blue:3"})
        channels = installation.server.client().acl_getuser("redisproxy:team-blue:3")["channels"]
        channels = (
            channels.split() if isinstance(channels, str) else [c.decode() if isinstance(c, bytes) else c for c in channels]
        )
        own = {"team-blue:*", "__keyspace@3__:*", "__keyevent@3__:*"}
        self.assertEqual({channel.removeprefix("&") for channel in channels}, own)


class OneLayerTests(CorpusCase):
    """Servers without ACL users for tenants: servers without ACLs, servers whose master may not use
    them, and a proxy with --acl off.
    """

    NO_ACL = 'rename-command ACL ""'
    MAY_NOT = f"user default on >{MASTER_PASSWORD} ~* &* +@all -acl"

    def auto(self, binary: Callable[[], str], setting: str) -> None:
        """The proxy serves, logs that there is one isolation layer, and refuses scripts."""
        installation = self.installation(binary, settings=(setting,))
        blue = installation.blue(protocol=2)
        self.addCleanup(blue.close)
        self.assertTrue(blue.set("a", 1))
        self.assertEqual(installation.server.client(3).get("a"), b"1")
        self.assertRaises(redis.exceptions.NoPermissionError, blue.eval, "return 1", 0)
        self.assertRaises(redis.exceptions.NoPermissionError, blue.script_load, "return 1")
        self.assertRaises(redis.exceptions.NoPermissionError, blue.restore, "b", 0, b"")
        with blue.pubsub() as subscriber:
            subscriber.psubscribe("news*")
            self.assertEqual(subscriber.get_message(timeout=LIMIT)["type"], "psubscribe")
        installation.proxy.logged("one isolation layer, the proxy's policy: .* scripts are refused")
        self.assertNotIn("nobody is served", installation.proxy.log)
        self.assertNotIn("Traceback", installation.proxy.log)

    def require(self, binary: Callable[[], str], setting: str) -> None:
        """The proxy serves nobody, and logs the reason."""
        installation = self.installation(binary, "--acl", "require", settings=(setting,))
        with (
            installation.blue(protocol=2) as blue,
            self.assertRaisesRegex(redis.ResponseError, "the operator finds the reason in the proxy's log"),
        ):
            blue.ping()
        installation.proxy.logged("nobody is served, because --acl is require")
        installation.proxy.logged("this Redis has no ACL users for the proxy, and --acl is require")
        self.assertNotIn("Traceback", installation.proxy.log)

    def test_auto_redis_5(self) -> None:
        self.auto(redis_5, IPV4_ONLY)

    def test_auto_without_the_command(self) -> None:
        self.auto(valkey, self.NO_ACL)

    def test_auto_without_the_right_to_it(self) -> None:
        self.auto(valkey, self.MAY_NOT)

    def test_require_redis_5(self) -> None:
        self.require(redis_5, IPV4_ONLY)

    def test_require_without_the_command(self) -> None:
        self.require(valkey, self.NO_ACL)

    def test_require_without_the_right_to_it(self) -> None:
        self.require(valkey, self.MAY_NOT)

    def test_off(self) -> None:
        """The proxy creates no ACL user, although it could."""
        installation = self.installation(valkey, "--acl", "off")
        installation.proxy.logged("one isolation layer, the proxy's policy: .* scripts are refused")
        blue = installation.blue()
        self.addCleanup(blue.close)
        self.assertTrue(blue.set("a", 1))
        self.assertTrue(blue.copy("a", "b"))
        self.assertRaises(redis.exceptions.NoPermissionError, blue.copy, "a", "b", 5)
        self.assertRaises(redis.exceptions.NoPermissionError, blue.eval, "return 1", 0)
        straight = installation.server.client()
        self.assertEqual(straight.acl_users(), ["default"])
        self.assertEqual({c["user"] for c in straight.client_list() if c["db"] == "3"}, {"default"})


def works(installation: Installation) -> bool:
    try:
        with installation.blue() as blue:
            return bool(blue.ping())
    except Exception:
        return False
