"""Tests the table of what bounds each command, against COMMAND DOCS of real servers."""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable, Iterator

from redisproxy.policy import costs, facts, policy
from redisproxy.policy.costs import COSTS, WINDOWED, Bound, CommandLimits, windowed
from redisproxy.policy.policy import make_policy
from redisproxy.resp import framing
from redisproxy.resp.framing import FORWARD, INSPECT, INSPECT_ABOVE, WINDOWED_ABOVE

from ..support.raw import RawClient
from ..support.servers import MASTER_PASSWORD, MATRIX, RedisServer

#: A size within a logarithm: O(log(N)), O(log N).
_LOGARITHM = re.compile(r"log\s*\(\s*\w+\s*\)|log \w+\b")
#: An order that has a size: O(N), O(N*M), O(S+N).
_SIZE = re.compile(r"O\([^)]*\b[A-Z]\b")
#: Words by which a text takes back its O(1), or says nothing.
_DEPENDS = re.compile(r"(?i)depends|\bfor (each|every)\b|\bto add every\b|\bif \w+ is\b")


def grows(complexity: str) -> bool:
    """Whether a command with this text may take longer than the logarithm of something."""
    return not complexity or bool(_SIZE.search(_LOGARITHM.sub("1", complexity)) or _DEPENDS.search(complexity))


def complexities(reply: object) -> Iterator[tuple[bytes, str]]:
    """Yields (name, complexity) of all commands and subcommands in an answer to COMMAND DOCS."""
    assert isinstance(reply, list)
    for name, docs in zip(reply[::2], reply[1::2], strict=True):
        fields = dict(zip(docs[::2], docs[1::2], strict=True))
        yield name.upper(), fields.get(b"complexity", b"").decode()
        yield from complexities(fields.get(b"subcommands", []))


def ask(binary: Callable[[], str]) -> tuple[policy.Policy, dict[bytes, str]]:
    """Returns the policy for a server, and the complexities that the server tells, by name."""
    server = RedisServer(binary, "bind 127.0.0.1").start()
    try:
        with RawClient(server.port, b"AUTH", MASTER_PASSWORD.encode()) as client:
            commands = facts.parse(decoded(client.ask((b"COMMAND",))))
            docs = client.ask((b"COMMAND", b"DOCS"))
    finally:
        server.stop()
    made = make_policy(commands, scripts=True, databases=True, limits=CommandLimits(0, 0, 0))
    return made, dict(complexities(decoded(docs)))


def decoded(reply: bytes) -> list:
    """Returns a reply of RESP2 as lists, bytes, numbers and None."""

    def one(pos: int) -> tuple[object, int]:
        end = reply.index(b"\r\n", pos)
        kind, head, pos = reply[pos : pos + 1], reply[pos + 1 : end], end + 2
        if kind == b"$":
            size = int(head)
            return (None, pos) if size < 0 else (reply[pos : pos + size], pos + size + 2)
        if kind == b"*":
            items = []
            for _ in range(int(head)):
                item, pos = one(pos)
                items.append(item)
            return items, pos
        return (int(head) if kind == b":" else head), pos

    found, _ = one(0)
    assert isinstance(found, list)
    return found


def named(made: policy.Policy) -> Iterator[bytes]:
    """Yields the commands and subcommands that tenants may use, those of the session included."""
    for name in made.forwarded:
        yield name.upper().encode()
        yield from (name.upper().encode() + b"|" + subcommand for subcommand in made.known.get(name.upper().encode(), ()))


class ServersTests(unittest.TestCase):
    """Each server that is there, one test for each."""

    def compare(self, binary: Callable[[], str]) -> None:
        made, docs = ask(binary)
        names = set(named(made))
        # A module of Redis 8 tells no documentation of its commands.
        unbounded = {name for name in names if grows(docs.get(name, ""))} - made.known.keys()
        self.assertGreater(len(unbounded), 100)
        missing = {name.decode(): docs.get(name) for name in unbounded - COSTS.keys() if not windowed(name)}
        self.assertEqual(missing, {}, "commands that may take long, and are not in policy/costs.py")

    def test_what_grows(self) -> None:
        for text in (
            "",
            "O(N)",
            "O(N*M) worst case",
            "O(S+N) where",
            "O(log(N)+M) with",
            "O(L + (N-K)log(N))",
            "O(1) for each",
        ):
            self.assertTrue(grows(text), text)
        for text in ("O(1)", "O(log(N)) with N being the number", "O(1). The amortized time", "O(log N)"):
            self.assertFalse(grows(text), text)

    def test_no_entry_is_stale(self) -> None:
        """Each entry is a command of a server, or of the built-in table."""
        known = set(facts.builtin())
        known |= {subcommand.name for command in facts.builtin().values() for subcommand in command.subcommands}
        self.assertEqual(COSTS.keys() - known, set())


def _on(binary: Callable[[], str]) -> Callable[[ServersTests], None]:
    return lambda self: self.compare(binary)


for _name, _binary in MATRIX.items():
    if _name != "redis_6":  # It has no COMMAND DOCS.
        setattr(ServersTests, f"test_each_command_that_may_take_long_has_an_entry_{_name}", _on(_binary))


class TableTests(unittest.TestCase):
    def test_each_reason_is_a_sentence_and_no_command_is_there_twice(self) -> None:
        for name, cost in COSTS.items():
            self.assertRegex(cost.reason, r"\A[A-Z].*\.\Z", name)
        names = [name for _, _, line in costs._TABLE for name in line.split()]
        self.assertEqual(len(names), len(set(names)))

    def test_what_is_windowed(self) -> None:
        for (
            name
        ) in b"KEYS SORT BITCOUNT HGETALL SMEMBERS LRANGE ZRANGE SINTERSTORE SCAN SRANDMEMBER XRANGE LCS VSIM".split():
            self.assertIn(name, WINDOWED)
            self.assertTrue(windowed(name))
        for name in (b"GET", b"SET", b"MGET", b"MSET", b"DEL", b"LPOP", b"BLPOP", b"WATCH", b"ZADD", b"SCRIPT|LOAD"):
            self.assertFalse(windowed(name), name)
        self.assertTrue(windowed(b"GRAPH.QUERY"), "nobody knows what it costs")

    def test_each_command_with_a_number_is_inspected_above_it(self) -> None:
        made = make_policy(facts.builtin(), scripts=True).table
        self.assertEqual(made[b"LOLWUT"], INSPECT_ABOVE)
        self.assertEqual(made[b"srandmember"], WINDOWED_ABOVE + 1)
        self.assertEqual(made[b"SUNION"], WINDOWED_ABOVE + 16)
        self.assertEqual((made[b"SET"], made[b"KEYS"], made[b"BLPOP"]), (FORWARD, framing.WINDOWED, INSPECT))
        few = make_policy(facts.builtin(), scripts=True, limits=CommandLimits(keys=3)).table
        self.assertEqual(few[b"PFCOUNT"], WINDOWED_ABOVE + 3)
        none = make_policy(facts.builtin(), scripts=True, limits=CommandLimits(0, 0, 0)).table
        self.assertEqual(
            (none[b"SUNION"], none[b"SRANDMEMBER"], none[b"LOLWUT"]), (framing.WINDOWED, framing.WINDOWED, INSPECT_ABOVE)
        )

    def test_what_is_refused_stays_refused(self) -> None:
        made = make_policy(facts.builtin(), scripts=True, deny=frozenset((b"SRANDMEMBER", b"SORT")))
        usual = make_policy(facts.builtin(), scripts=True)
        self.assertEqual(made.table[b"SORT"], made.table[b"SRANDMEMBER"])
        self.assertNotEqual(made.table[b"SORT"], usual.table[b"SORT"])

    def test_each_bound_by_keys_or_counts_has_its_check(self) -> None:
        from redisproxy.session.costs import CHECKS

        checked = {name for name, cost in COSTS.items() if cost.bound & (Bound.KEYS | Bound.COUNT | Bound.FORM)}
        self.assertEqual(checked, set(CHECKS))
