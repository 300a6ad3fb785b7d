"""SLOWLOG GET, LEN and HELP, in conversations with one session."""

from __future__ import annotations

from redisproxy import bounds
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy, parse_names
from redisproxy.session.scripts import Scripts
from redisproxy.tenants.model import Tenant
from redisproxy.tenants.slow_log import ConnectionNames

from ..support.conversations import Conversation, ConversationCase, logged_in

NAMES = (ConnectionNames(), ConnectionNames())
OWN, OTHER = Tenant("blue", 3), Tenant("green", 4)
OLD = make_policy(builtin(), scripts=True, databases=True, before_7=True)


def logged(tenant: Tenant, at: int, *words: bytes, process: int = 0) -> list:
    """One entry of Redis's log. Its id is far from what the tenant gets."""
    return [123456, at, 42, list(words), b"10.0.0.1:7", NAMES[process].of(tenant)]


def entry(number: int, *words: bytes) -> bytes:
    head = b"*6\r\n:%d\r\n:%d\r\n:42\r\n*%d\r\n" % (number, number // 1000, len(words))
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words) + b"$0\r\n\r\n" * 2


LOG = [
    logged(OTHER, 8, b"GET", b"secret"),
    logged(OWN, 7, b"KEYS", b"*", process=1),
    logged(OWN, 7, b"SORT", b"a"),
    logged(Tenant("blue", 4), 6, b"GET", b"of a former database"),
    [1, 6, 1, [b"AUTH", b"s3cret"], b"10.0.0.1:7", b""],
    logged(OWN, 6, b"AUTH", b"s3cret"),
    logged(OWN, 5, b"GET", b"a"),
]


class SlowLogTests(ConversationCase):
    def asked(self, *words: bytes, log: list | None = None, protocol: int = 2) -> Conversation:
        conversation = logged_in(protocol).command(b"SLOWLOG", *words)
        self.assertEqual(conversation.questions, [[[b"SLOWLOG", b"GET", b"%d" % bounds.SLOW_LOG_ENTRIES]]])
        conversation.finish([LOG if log is None else log])
        self.assertEqual(conversation.gets(), b"", "Redis gets nothing over the tenant's connection")
        return conversation

    def test_the_own_part_alone(self) -> None:
        own = [entry(7001, b"KEYS", b"*"), entry(7000, b"SORT", b"a"), entry(5000, b"GET", b"a")]
        for protocol in (2, 3):
            self.assertHears(self.asked(b"get", protocol=protocol), b"*3\r\n", *own)
        self.assertHears(self.asked(b"GET", b"2"), b"*2\r\n", *own[:2])
        self.assertHears(self.asked(b"GET", b"0"), b"*0\r\n")
        self.assertHears(self.asked(b"GET", b"-1"), b"*3\r\n", *own)
        self.assertHears(self.asked(b"LEN"), b":3\r\n")
        self.assertHears(self.asked(b"GET", log=[]), b"*0\r\n")
        self.assertHears(self.asked(b"GET", log=[logged(OWN, 5, b"GET", b"a")] * 20), b"*10\r\n", *(
            entry(number, b"GET", b"a") for number in range(5019, 5009, -1)
        ))  # fmt: skip

    def test_an_id_stays_when_entries_come(self) -> None:
        """Redis's own ids would count what the others do."""
        self.assertHears(self.asked(b"GET", log=LOG[2:]), b"*2\r\n", entry(7000, b"SORT", b"a"), entry(5000, b"GET", b"a"))

    def test_channels_have_no_prefix(self) -> None:
        log = [
            logged(OWN, 3, b"publish", b"blue:news", b"blue:x"),
            logged(OWN, 2, b"PSUBSCRIBE", b"blue:a*", b"blue:b*"),
            logged(OWN, 1, b"SET", b"blue:a", b"blue:b"),
        ]
        self.assertHears(
            self.asked(b"GET", log=log),
            b"*3\r\n",
            entry(3000, b"publish", b"news", b"blue:x"),
            entry(2000, b"PSUBSCRIBE", b"a*", b"b*"),
            entry(1000, b"SET", b"blue:a", b"blue:b"),
        )

    def test_a_script_that_publishes_is_not_shown_as_redis_gets_it(self) -> None:
        for before in (b"", b"#!lua\n"):
            text = Scripts(b"blue:").rewrite(before + b"return redis.call('PUBLISH', 'a', 'b')").text
            cut = text[:128] + b"... (%d more bytes)" % (len(text) - 128)
            conversation = self.asked(b"GET", log=[logged(OWN, 1, b"EVAL", cut, b"0")])
            self.assertHears(conversation, b"*1\r\n", entry(1000, b"EVAL", before + b"...", b"0"))
        self.assertHears(
            self.asked(b"GET", log=[logged(OWN, 1, b"EVAL", b"return 1")]), b"*1\r\n", entry(1000, b"EVAL", b"return 1")
        )

    def test_malformed_ones_and_those_of_all(self) -> None:
        for words, old, new in (
            ((b"GET", b"1", b"2"), b"-ERR Unknown subcommand or wrong", b"-ERR unknown subcommand or wrong"),
            ((b"GET", b"x"), b"-ERR value is not an integer", b"-ERR count should be greater than or equal to -1"),
            ((b"LEN", b"x"), b"-ERR Unknown subcommand or wrong", b"-ERR wrong number of arguments for 'slowlog|len'"),
            ((b"RESET",), b"-NOPERM", b"-NOPERM"),
            ((b"NOSUCH",), b"-ERR Unknown subcommand", b"-ERR unknown subcommand 'NOSUCH'"),
        ):
            self.assertRefused(logged_in(policy=OLD).command(b"SLOWLOG", *words), old)
            self.assertRefused(logged_in().command(b"SLOWLOG", *words), new)
        self.assertRefused(logged_in().command(b"SLOWLOG", b"GET", b"-2"), b"-ERR count should be")
        self.assertRefused(logged_in().command(b"COMMANDLOG", b"GET", b"1", b"slow"), b"-NOPERM")
        conversation = logged_in().command(b"SLOWLOG", b"HELP")
        self.assertIn(b"+GET [<count>]\r\n", conversation.hears())

    def test_in_multi(self) -> None:
        conversation = logged_in().command(b"MULTI").redis(b"+OK\r\n")
        conversation.hears(), conversation.gets()
        self.assertRefused(conversation.command(b"SLOWLOG", b"GET").redis(b"-ERR\r\n"), b"-ERR ")
        self.assertEqual((conversation.gets(), conversation.questions), (b"*1\r\n$6\r\nSELECT\r\n", []))

    def test_an_operator_refuses_it(self) -> None:
        made = make_policy(builtin(), scripts=True, databases=True, deny=parse_names("SLOWLOG"))
        self.assertRefused(logged_in(policy=made).command(b"SLOWLOG", b"GET"), b"-NOPERM")
