"""Tests that replies are byte for byte those of Redis: to commands with the wrong number of words
or with odd options, in MULTI, and of subscribers. Each is sent straight to a server and through a
real proxy.
"""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable, Iterable, Sequence

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, on_every_server, redis_6, redis_7, valkey

Words = Sequence[bytes]

#: Commands of which each answer is the server's. Where a server does not have one, its error is.
COMMANDS = """
    CLIENT; CLIENT ID x; CLIENT GETNAME; CLIENT GETNAME x; CLIENT SETNAME; CLIENT SETNAME abc; CLIENT SETNAME a b
    CLIENT SETINFO; CLIENT SETINFO lib-name a; CLIENT Setinfo lib-nam a; CLIENT SETINFO LIB-VER 1 2; CLIENT CAPA
    CLIENT NO-EVICT; CLIENT NO-EVICT ON; CLIENT no-evict off; CLIENT NO-EVICT x; CLIENT NO-EVICT ON x
    CLIENT NO-TOUCH; CLIENT NO-TOUCH ON; CLIENT no-touch off; CLIENT NO-TOUCH x; CLIENT NO-TOUCH ON x
    CLIENT HELP x; CLIENT REPLY; CLIENT REPLY x; CLIENT REPLY ON; CLIENT REPLY ON x; CLIENT CAPA redirect
    CLIENT INFO x; CLIENT NOSUCH; CLIENT NOSUCH a b
    PUBSUB; PUBSUB HELP; pubsub help; PUBSUB HELP x; PUBSUB CHANNELS; PUBSUB CHANNELS a b; PUBSUB NUMPAT x
    PUBSUB NUMSUB; PUBSUB NUMSUB a b; PUBSUB NOSUCH; PUBSUB SHARDCHANNELS; PUBSUB SHARDCHANNELS a b; PUBSUB SHARDNUMSUB
    RESET x; SELECT; SELECT 3; SELECT 3 4; SELECT x; SELECT 03; SELECT 3x; SELECT 1.5; SELECT 99999999999999999999
    HELLO; HELLO 2; HELLO 3; HELLO x; HELLO 1; HELLO 4; HELLO -1; HELLO 03; HELLO 99999999999999999999; HELLO 2 NOSUCH
    HELLO 2 SETNAME; HELLO 3 AUTH a; HELLO 2 AUTH; HELLO 2 SETNAME ab
    AUTH; AUTH a b c; FLUSHALL x; FLUSHALL ASYNC x; FLUSHALL ASYNC; FLUSHALL; FLUSHDB x
    EXEC; EXEC x; DISCARD; DISCARD x; MULTI x; WATCH; WATCH a; UNWATCH; UNWATCH x; QUIT
    SUBSCRIBE; PSUBSCRIBE; SUBSCRIBE a; UNSUBSCRIBE; UNSUBSCRIBE news; PUNSUBSCRIBE; UNSUBSCRIBE a b
    PUBLISH; PUBLISH a; PUBLISH a b c; SPUBLISH a; SCRIPT; SCRIPT NOSUCH; SCRIPT EXISTS; SCRIPT LOAD a b
    BLPOP; BLPOP a; BLPOP a x; BLPOP a -1; XREAD BLOCK x STREAMS a 0; XREAD STREAMS a; WAIT; WAIT x y; WAIT 0 0
    OBJECT; OBJECT HELP; OBJECT NOSUCH a; MEMORY; MEMORY USAGE; MEMORY NOSUCH; COMMAND NOSUCH; XINFO; XINFO STREAM; XGROUP NOSUCH
    ACL; ACL NOSUCH; ACL WHOAMI x; MODULE; MODULE NOSUCH a; MODULE LIST x; CLUSTER; CLUSTER NOSUCH; ROLE x; LASTSAVE x
    CLIENT LIST TYPE; CLIENT KILL; CLIENT TRACKINGINFO; CLIENT TRACKINGINFO x; CLIENT GETREDIR
    CONFIG; CONFIG GET; CONFIG NOSUCH; INFO a; PING; PING a; PING a b; ECHO; GET; GET a; GET a b; SET a b nosuch; NOSUCH a
"""
#: Those that a transaction does not take: what follows is no answer to the same command.
NOT_IN_MULTI = re.compile(
    rb"(?i)CLIENT|PUBSUB (?!HELP)|HELLO|AUTH|P?SUBSCRIBE|P?UNSUBSCRIBE|INFO|CONFIG GET.|QUIT|SELECT (?!3$)"
)
#: Commands that change the state of a connection, which then serves no other test.
CHANGES = re.compile(rb"(?i)HELLO|WATCH|P?UN|P?SUBSCRIBE|MULTI")
#: Commands with words that have spaces or other bytes.
ODD = (
    [b"CLIENT", b"SETNAME", b"a b"],
    [b"CLIENT", b"SETNAME", b""],
    [b"CLIENT", b"SETNAME", b"\xff"],
    [b"CLIENT", b"SETINFO", b"lib-name", b"a b"],
    [b"CLIENT", b"SETINFO", b"no such", b"x"],
    [b"HELLO", b"2", b"SETNAME", b"a b"],
    [b"HELLO", b"2", b"no such"],
    [b"HELLO", b""],
    [b"SELECT", b""],
    [b"SELECT", b" 3"],
    [b"", b""],
)
#: COPY, where a tenant has it: a server with rules for databases.
COPY = "COPY; COPY a; COPY a b; COPY a b DB; COPY a b DB x; COPY a b DB 3; COPY a b NOSUCH; COPY a a; COPY a a DB 3 REPLACE"
#: Behind each command, so that everything before its answer is read.
MARK = b"mark"
#: The id of a connection, which differs.
ID = re.compile(rb"(\$2\r\nid\r\n:)\d+")


def commands(text: str) -> list[list[bytes]]:
    return [command.split() for command in text.replace("\n", ";").encode().split(b";") if command.strip()]


def answers(client: RawClient, sent: Iterable[Words], mark: Words = (b"PING", MARK)) -> list[bytes]:
    """Sends commands, and returns all that comes in answer, without what differs."""
    for words in (*sent, mark):
        client.send(words)
    found: list[bytes] = []
    while not found or MARK not in found[-1]:
        try:
            found.append(client.reply())
        except (EOFError, ConnectionResetError):
            found.append(b"closed")
            break
    return [ID.sub(rb"\1", answer) for answer in found]


@on_every_server
class FidelityTests(unittest.TestCase):
    def start(self, binary: Callable[[], str], *options: str) -> None:
        # On some servers scripts are opened by the operator.
        self.installation = Installation("--allow-commands", "EVAL", *options, server=RedisServer(binary))
        self.addCleanup(self.installation.stop)
        # What the commands change is of no other client.
        self.reference = RedisServer(binary).start()
        self.addCleanup(self.reference.stop)

    def clients(self, protocol: int) -> tuple[RawClient, RawClient]:
        """Returns a client straight to a server, and one through the proxy."""
        straight = raw_client(self, self.reference.port, b"AUTH", self.reference.password.encode())
        through = raw_client(self, self.installation.proxy.port, b"AUTH", Installation.BLUE.encode())
        for client in (straight, through):
            client.ask([b"SELECT", b"3"])
            if protocol == 3:
                client.ask([b"HELLO", b"3"])
        return straight, through

    def compare(self, protocol: int, before: Sequence[Words], tests: Iterable[Sequence[Words]]) -> None:
        """Compares the answers to each series of commands. before: what clients do first."""
        straight = through = None
        for sent in tests:
            if straight is None or through is None:
                straight, through = self.clients(protocol)
                for client in (straight, through):
                    answers(client, before)
            expected = answers(straight, sent)
            self.assertEqual(answers(through, sent), expected, (protocol, *before, *sent))
            if CHANGES.match(sent[0][0]) or b"closed" in expected:
                straight.close()
                through.close()
                straight = None

    def each_answers_are_the_servers(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        for protocol in (2, 3):
            self.compare(protocol, [], ([words] for words in (*commands(COMMANDS), *ODD)))

    def each_answers_to_a_subscriber_are_the_servers(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        subscribed = ([b"SUBSCRIBE", b"news"], [b"PSUBSCRIBE", b"n*"])
        for protocol in (2, 3):
            more = ([b"MULTI"], [b"AUTH", b"x"], [b"CLIENT", b"REPLY", b"SKIP"]) if protocol == 2 else ()
            self.compare(protocol, subscribed, ([words] for words in (*commands(COMMANDS), *ODD, *more)))

    def each_answers_in_a_transaction_are_the_servers(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        # Redis 6 finds a wrong subcommand when it runs the command, the proxy at once.
        excluded = re.compile(
            NOT_IN_MULTI.pattern
            + rb"|.* NOSUCH|(ACL|MODULE|CLUSTER) |PUBSUB HELP x|MEMORY USAGE$|CONFIG GET$" * (binary is redis_6)
        )
        for protocol in (2, 3):
            passed = (words for words in commands(COMMANDS) if not excluded.match(b" ".join(words)))
            self.compare(protocol, [], ([[b"MULTI"], words, [b"GET", b"k"], [b"EXEC"]] for words in passed))
        selects = ([b"MULTI"], [b"SELECT", b"3"], [b"EXEC"])
        # A WATCH of which a key has changed.
        self.compare(2, [], (selects, [[b"WATCH", b"k"], [b"SET", b"k", b"1"], *selects]))
        self.assertEqual(answers(self.clients(2)[1], selects)[2], b"*1\r\n+OK\r\n")

    def each_copy_is_the_servers(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        through = self.clients(2)[1]
        if answers(through, [[b"COPY", b"a", b"b"]])[0].startswith(b"-NOPERM"):
            raise unittest.SkipTest("tenants have no COPY on this server")
        for protocol in (2, 3):
            self.compare(protocol, [], ([words] for words in commands(COPY)))

    def each_hello_has_the_id_of_client_id(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        for hello in ([b"HELLO"], [b"HELLO", b"2"], [b"HELLO", b"3"], [b"HELLO", b"3", b"SETNAME", b"x"]):
            for state in ([], [[b"WATCH", b"a"]]):
                for client in self.clients(2):
                    for words in state:
                        client.ask(words)
                    found = ID.search(client.ask(hello))
                    self.assertIsNotNone(found, hello)
                    self.assertEqual(found[0].removeprefix(found[1]), client.ask([b"CLIENT", b"ID"])[1:-2])
        through = raw_client(self, self.installation.proxy.port)
        found = ID.search(through.ask([b"HELLO", b"3", b"AUTH", b"default", Installation.BLUE.encode()]))
        self.assertEqual(found[0].removeprefix(found[1]), through.ask([b"CLIENT", b"ID"])[1:-2])

    def each_reset_of_a_subscriber(self, binary: Callable[[], str]) -> None:
        """RESET says nothing of the subscriptions, as in Redis."""
        self.start(binary)
        for protocol in (2, 3):
            for state in ([[b"SUBSCRIBE", b"a"]], [[b"MULTI"]], [[b"WATCH", b"a"]], [[b"CLIENT", b"REPLY", b"OFF"]]):
                straight, through = self.clients(protocol)
                sent = [*state, [b"RESET"], [b"PING"]]
                expected = answers(straight, sent, [b"QUIT"])
                self.assertEqual(answers(through, sent, [b"QUIT"]), expected, (protocol, state))
                self.assertIn(b"+RESET\r\n", expected)

    def each_log_in_as_another_tenant_ends_subscriptions(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        _, through = self.clients(3)
        subscriptions = ((b"subscribe", b"b"), (b"psubscribe", b"a*"), (b"subscribe", b"a"))
        for words in subscriptions:
            through.ask(words)
        self.assertEqual(through.ask([b"AUTH", Installation.BLUE.encode()]), b"+OK\r\n")
        through.send([b"AUTH", Installation.GREEN.encode()])
        straight, _ = self.clients(3)
        for words in subscriptions:
            straight.ask(words)
        for words in ([b"UNSUBSCRIBE", b"a", b"b"], [b"PUNSUBSCRIBE"]):
            straight.send(words)
        for _ in range(3):
            self.assertEqual(through.reply(), straight.reply())
        self.assertEqual(through.reply(), b"+OK\r\n")
        self.assertEqual(through.ask([b"UNSUBSCRIBE"]), straight.ask([b"UNSUBSCRIBE"]))

    def each_client_info_is_a_text(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        for protocol in (2, 3):
            straight, through = self.clients(protocol)
            kinds = [client.ask([b"CLIENT", b"INFO"])[:1] for client in (straight, through)]
            self.assertEqual(*kinds)


class InlineTests(unittest.TestCase):
    """Quotes in inline commands: as Valkey 9.1 splits them. Older servers refuse some lines, and
    agree about the others.
    """

    def split(self, port: int, password: bytes, line: bytes) -> bytes:
        with RawClient(port, b"AUTH", password) as client:
            answered = client.ask(b"RPUSH inline " + line + b"\r\n")
            if answered.startswith(b"-"):
                return answered[:5]
            answered = client.ask([b"LRANGE", b"inline", b"0", b"-1"])
            client.ask([b"DEL", b"inline"])
            return answered

    def test_quotes(self) -> None:
        parts = (b"a", b'"a"', b"'b c'", b'"x\\"y"', b'"', b"'", b" ", b'"\\x41\\n\\q"', b"'\\''", b"\\")
        lines = [x + y + z for x in parts for y in parts for z in parts]
        for binary, newest in ((valkey, True), (redis_7, False)):
            installation = Installation(server=RedisServer(binary))
            self.addCleanup(installation.stop)
            accepted = 0
            for line in lines:
                straight = self.split(installation.server.port, installation.server.password.encode(), line)
                through = self.split(installation.proxy.port, Installation.BLUE.encode(), line)
                if newest or not straight.startswith(b"-"):
                    self.assertEqual(through, straight, line)
                    accepted += not straight.startswith(b"-")
            self.assertGreater(accepted, 100)


class FlushallTests(unittest.TestCase):
    def test_its_refusal_names_it(self) -> None:
        for denied in ("FLUSHALL", "FLUSHDB", "FLUSHALL FLUSHDB"):
            installation = Installation("--deny-commands", denied)
            self.addCleanup(installation.stop)
            client = raw_client(self, installation.proxy.port, b"AUTH", Installation.BLUE.encode())
            self.assertRegex(client.ask([b"FlushAll"]), rb"^-NOPERM the command 'flushall' is")
            installation.proxy.logged(r"refused flushall to team-blue/")

    def test_an_error_of_redis_names_it(self) -> None:
        installation = Installation()
        self.addCleanup(installation.stop)
        client = raw_client(self, installation.proxy.port, b"AUTH", Installation.BLUE.encode())
        self.assertEqual(client.ask([b"FLUSHALL"]), b"+OK\r\n")
        master = installation.server.client()
        self.addCleanup(master.close)
        (name,) = (name for name in map(str, master.acl_users()) if "team-blue" in name)
        master.acl_setuser(name.removeprefix("b'").removesuffix("'"), commands=["-flushdb"])
        self.assertRegex(client.ask([b"FLUSHALL"]), rb"^-NOPERM .*'flushall'")
