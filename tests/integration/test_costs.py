"""Tests limits of arguments that cost, through a real proxy to real servers: each from both sides,
in both protocols, inline, in MULTI, and without a limit. Within the limits each answer is that of
the server itself.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Sequence

from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.servers import RedisServer, on_every_server, redis_6, redis_7, valkey
from ..support.waiting import until

Words = Sequence[bytes]


def keys(number: int, name: bytes = b"k") -> list[bytes]:
    return [b"%b%d" % (name, n) for n in range(number)]


def n(number: int) -> bytes:
    return b"%d" % number


#: The data of both sides.
DATA: tuple[Words, ...] = (
    (b"SADD", b"s", *keys(50)),
    (b"HSET", b"h", *[word for key in keys(50) for word in (key, b"1")]),
    (b"ZADD", b"z", *[word for key in keys(50) for word in (b"1", key)]),
    (b"PFADD", b"p", *keys(50)),
    (b"SET", b"b", b"abc"),
    (b"XADD", b"x", b"1-1", b"a", b"b"),
    (b"XGROUP", b"CREATE", b"x", b"g", b"0"),
    (b"RPUSH", b"l", b"b", b"c", b"a"),
)


def within(many: int) -> list[Words]:
    """Returns commands with so many keys, of which only the last one is there, and with counts."""
    no = keys(many - 1, b"no")
    return [
        [b"SUNION", *no, b"empty"],
        [b"SUNIONSTORE", b"to", *no, b"s"],
        [b"SINTERSTORE", b"to", *no, b"s"],
        [b"SDIFFSTORE", b"to", b"s", *no],
        [b"SINTER", *no, b"s"],
        [b"SDIFF", *no, b"s"],
        [b"SINTERCARD", n(many), *no, b"s"],
        [b"ZUNIONSTORE", b"to", n(many), *no, b"z", b"WEIGHTS", *[b"2"] * many],
        [b"ZINTERSTORE", b"to", n(many), *no, b"z"],
        [b"ZDIFFSTORE", b"to", n(many), b"z", *no],
        [b"ZUNION", n(many), *no, b"z", b"WITHSCORES"],
        [b"ZINTER", n(many), *no, b"z"],
        [b"ZDIFF", n(many), b"z", *no],
        [b"ZINTERCARD", n(many), *no, b"z"],
        [b"PFCOUNT", *no, b"p"],
        [b"PFMERGE", b"to", *no, b"p"],
        [b"BITOP", b"OR", b"to", *no, b"b"],
        [b"SORT", b"l", b"ALPHA", *(word for key in no for word in (b"GET", key))],
        [b"BLPOP", *no, b"l", b"1"],
        [b"BRPOP", *no, b"l", b"1"],
        [b"BZPOPMIN", *no, b"z", b"1"],
        [b"BZPOPMAX", *no, b"z", b"1"],
        [b"BLMPOP", b"1", n(many), *no, b"l", b"LEFT"],
        [b"BZMPOP", b"1", n(many), *no, b"z", b"MIN"],
        [b"XREAD", b"STREAMS", *no, b"x", *[b"0"] * many],
        [b"XREAD", b"BLOCK", b"1000", b"STREAMS", *no, b"x", *[b"0"] * many],
        [b"WATCH", *no, b"s"],
        [b"SRANDMEMBER", b"none", n(-many)],
        [b"HRANDFIELD", b"none", n(-many), b"WITHVALUES"],
        [b"ZRANDMEMBER", b"none", n(-many)],
        [b"SRANDMEMBER", b"none", b"99999999"],
        [b"SRANDMEMBER", b"s", b"x"],
        [b"SRANDMEMBER", b"s", b"-" + b"9" * 30],
        [b"SRANDMEMBER", b"s", b"1", b"2"],
        [b"SRANDMEMBER"],
        [b"SRANDMEMBER", b"l", b"-1"],
    ]


#: Those of the commands above that have no keys.
COUNTED = (b"SRANDMEMBER", b"HRANDFIELD", b"ZRANDMEMBER")


class Costs(unittest.TestCase):
    def start(self, binary: Callable[[], str], *options: str) -> None:
        self.installation = Installation(*options, server=RedisServer(binary))
        self.addCleanup(self.installation.stop)

    def through(self, protocol: int = 2, password: str = Installation.BLUE) -> RawClient:
        client = raw_client(self, self.installation.proxy.port, b"AUTH", password.encode())
        if protocol == 3:
            client.ask([b"HELLO", b"3"])
        return client

    def straight(self, protocol: int = 2) -> RawClient:
        server = self.installation.server
        client = raw_client(self, server.port, b"AUTH", server.password.encode())
        if protocol == 3:
            client.ask([b"HELLO", b"3"])
        client.ask([b"SELECT", b"9"])  # no tenant's
        return client

    def compare(self, *sent: Words, protocol: int = 2, clear: bool = True) -> list[bytes]:
        """Sends commands to both, which have the same data, and returns the answers, which are the
        same.
        """
        both = []
        for client in (self.straight(protocol), self.through(protocol)):
            if clear:
                for words in ([b"FLUSHDB"], *DATA):
                    self.assertFalse(client.ask(words).startswith(b"-"), words)
            both.append([client.ask(words) for words in sent])
            client.close()
        self.assertEqual(both[1], both[0], [words[:3] for words in sent])
        return both[1]


@on_every_server
class FidelityTests(Costs):
    def each_answers_within_the_limits_are_the_servers(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        for protocol in (2, 3):
            for many in (3, 17, 1000):
                for words in within(many):
                    self.compare(words, protocol=protocol)

    def each_answers_in_a_transaction_are_the_servers(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        for many in (3, 1000):
            for words in within(many):
                self.compare([b"MULTI"], words, [b"GET", b"b"], [b"EXEC"])

    def each_negative_counts_repeat(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        client = self.through()
        client.ask([b"SADD", b"s", b"only"])
        self.assertEqual(client.ask([b"SRANDMEMBER", b"s", b"-100000"]), b"*100000\r\n" + b"$4\r\nonly\r\n" * 100_000)
        error = b"-ERR the count of 'srandmember' is -100001: at least -100000 is allowed, or a positive number\r\n"
        self.assertEqual(client.ask([b"SRANDMEMBER", b"s", b"-100001"]), error)
        self.assertEqual(client.ask(b"srandmember s -30000000\r\n"), error.replace(b"-100001", b"-30000000"))


class LimitTests(Costs):
    def refuses(self, client: RawClient, words: Words, *, many: int, most: int) -> None:
        name = words[0].lower()
        if name.upper() in COUNTED:
            error = b"-ERR the count of '%b' is -%d: at least -%d is allowed, or a positive number\r\n" % (name, many, most)
        elif name == b"watch":
            error = b"-ERR this connection would watch %d keys: at most %d are allowed until EXEC, DISCARD or UNWATCH\r\n"
            error %= (many, most)
        else:
            error = b"-ERR '%b' names %d keys: at most %d are allowed in one command\r\n" % (name, many, most)
        for sent in (words, b" ".join(words) + b"\r\n"):  # as an array and inline
            self.assertEqual(client.ask(sent), error)
        self.assertEqual(client.ask([b"MULTI"]), b"+OK\r\n")
        if name != b"watch":  # which no transaction takes
            self.assertEqual(client.ask(words), error)
            self.assertRegex(client.ask([b"EXEC"]), rb"\A-EXECABORT .*\r\n\Z")
        else:
            self.assertEqual(client.ask([b"DISCARD"]), b"+OK\r\n")
        self.assertEqual(client.ask([b"PING"]), b"+PONG\r\n")

    def test_what_is_beyond_is_refused(self) -> None:
        for most, options in ((1000, ()), (20, ("--command-max-keys", "20", "--command-max-count", "20"))):
            self.start(valkey, *options)
            for protocol in (2, 3):
                client = self.through(protocol)
                for words in within(most + 1):
                    name = words[0]
                    if name in COUNTED and (words[1:3] != [b"none", n(-most - 1)] or most == 1000):
                        continue
                    if name == b"SORT":  # the list counts as a key, too
                        words = [*words, b"GET", b"#"]
                    many = most + 1 + (name == b"SORT")
                    self.refuses(client, words, many=many, most=most)

    def test_without_limits_answers_are_the_servers(self) -> None:
        options = ("--command-max-keys", "0", "--command-max-count", "0", "--tenant-transaction-bytes", "0")
        self.start(redis_7, *options)
        for words in within(1500):
            self.compare(words)
        self.compare([b"SUNION", *[b"s"] * 40, b"empty"][:41:40])
        self.compare([b"PFCOUNT", *[b"p"] * 40])
        self.compare([b"SADD", b"one", b"only"], [b"SRANDMEMBER", b"one", b"-150000"])
        self.compare([b"WATCH", *keys(1000)], [b"WATCH", *keys(500, b"more")], [b"MULTI"], [b"EXEC"])

    def test_a_key_is_not_repeated_often(self) -> None:
        self.start(redis_6)
        self.compare([b"SUNIONSTORE", b"to", *keys(20, b"no"), *[b"s"] * 16])
        client = self.through()
        error = b"-ERR 'sunionstore' names one key 17 times: at most 16 times are allowed in one command\r\n"
        self.assertEqual(client.ask([b"SUNIONSTORE", b"to", *keys(20), *[b"s"] * 17]), error)

    def test_watched_keys_add_up(self) -> None:
        self.start(valkey)
        client = self.through()
        self.assertEqual(client.ask([b"WATCH", *keys(600)]), b"+OK\r\n")
        self.assertEqual(client.ask([b"WATCH", *keys(1000)]), b"+OK\r\n")
        self.assertRegex(client.ask([b"WATCH", b"another"]), rb"^-ERR this connection would watch 1001 keys: at most 1000 ")
        # The watch as such still works.
        self.assertEqual(self.through().ask([b"SET", b"k999", b"changed"]), b"+OK\r\n")
        self.assertEqual([client.ask([b"MULTI"]), client.ask([b"EXEC"])], [b"+OK\r\n", b"*-1\r\n"])
        self.assertEqual(client.ask([b"WATCH", b"another"]), b"+OK\r\n")

    def test_lolwut(self) -> None:
        self.start(redis_7)
        for words in ([b"LOLWUT"], [b"LOLWUT", b"VERSION", b"7"]):
            self.assertIn(b"Redis ver. 7.0", self.compare(words)[0])
        error = b"-NOPERM 'lolwut' takes no arguments here, or VERSION and a number: a large picture keeps Redis busy\r\n"
        for sent in ([b"LOLWUT", b"VERSION", b"6", b"1000", b"1000"], b"lolwut 1000\r\n"):
            self.assertEqual(self.through().ask(sent), error)


class TransactionTests(Costs):
    ERROR = (
        b"-ERR the open transactions of this namespace have more than %d bytes: DISCARD this one, and use smaller ones\r\n"
    )

    def fill(self, client: RawClient, size: int, each: int) -> None:
        """Sends SETs in MULTI, of so many bytes in all."""
        while size > 0:
            part = min(size, each)
            self.assertEqual(client.ask([b"SET", b"k", b"x" * (part - 40)]), b"+QUEUED\r\n")
            size -= part

    def test_up_to_the_limit_and_beyond(self) -> None:
        most = 4 << 20
        self.start(valkey, "--tenant-transaction-bytes", "4Mi")
        error = self.ERROR % most
        for protocol in (2, 3):
            for each in (30_000, 500_000):  # sent whole, and streamed
                client = self.through(protocol)
                self.assertEqual(client.ask([b"MULTI"]), b"+OK\r\n")
                self.fill(client, most - 1000, each)
                self.assertEqual(client.ask([b"SET", b"k", b"x" * 100_000]), error)
                for words in ([b"SET", b"k", b"1"], [b"BLPOP", b"a", b"0"], [b"PUBLISH", b"a", b"b"]):
                    self.assertEqual(client.ask(words), error)
                self.assertEqual(client.ask(b"GET k\r\n"), error)
                self.assertRegex(client.ask([b"EXEC"]), rb"\A-EXECABORT .*\r\n\Z")
                self.assertEqual(client.ask([b"EXISTS", b"k"]), b":0\r\n")
                # Within the limit it runs.
                self.assertEqual(client.ask([b"MULTI"]), b"+OK\r\n")
                self.fill(client, most - 1000, each)
                self.assertTrue(client.ask([b"EXEC"]).startswith(b"*"))
                self.assertEqual(client.ask([b"DEL", b"k"]), b":1\r\n")
                client.close()

    def test_all_of_a_tenant_share_it_and_no_other(self) -> None:
        self.start(redis_7, "--tenant-transaction-bytes", "1Mi", "--processes", "1")
        clients = [self.through() for _ in range(3)]
        for client in clients:
            self.assertEqual(client.ask([b"MULTI"]), b"+OK\r\n")
        for client in clients[:2]:
            self.fill(client, 500_000, 30_000)
        error = self.ERROR % (1 << 20)
        self.assertEqual(clients[2].ask([b"SET", b"k", b"x" * 60_000]), error)
        green = self.through(password=Installation.GREEN)
        self.assertEqual(green.ask([b"MULTI"]), b"+OK\r\n")
        self.fill(green, 900_000, 30_000)
        # A client that leaves gives its part back.
        clients[0].close()
        self.assertEqual(clients[2].ask([b"DISCARD"]), b"+OK\r\n")

        def begins() -> bool:
            client = self.through()
            client.ask([b"MULTI"])
            return client.ask([b"SET", b"k", b"x" * 400_000]) == b"+QUEUED\r\n"

        until(begins, "the part of the client that left is free")

    def test_a_transaction_in_one_write_does_not_count(self) -> None:
        """If it comes in one read. Else it counts, and is refused as a whole."""
        self.start(valkey, "--tenant-transaction-bytes", "1000")
        client = self.through()
        whole = b"".join(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000\r\n%b\r\n" % (b"x" * 2000) for _ in range(5))
        client.send(b"*1\r\n$5\r\nMULTI\r\n" + whole + b"*1\r\n$4\r\nEXEC\r\n")
        answers = [client.reply() for _ in range(7)]
        self.assertIn(answers[-1].split(b" ")[0], (b"*5\r\n" + b"+OK\r\n" * 5, b"-EXECABORT"))
