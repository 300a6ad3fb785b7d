"""Tests the decisions from facts: which commands pass, which do not, and which no operator can
open.
"""

from __future__ import annotations

import unittest

from redisproxy.policy import opening, policy
from redisproxy.policy.facts import Command, builtin, parse
from redisproxy.policy.opening import closed
from redisproxy.policy.policy import make_policy, parse_names
from redisproxy.resp.framing import FORWARD, INSPECT, INSPECT_FIRST, INSPECT_KNOWN, INSPECT_TEXT, REFUSE, WINDOWED

#: Commands for the whole server or across databases: these never pass, whatever else a server has.
FOREIGN = b"""ACL ASKING BGREWRITEAOF BGSAVE CLUSTER CONFIG DEBUG FAILOVER FCALL FCALL_RO FUNCTION LATENCY MIGRATE
MODULE MONITOR MOVE PFDEBUG PFSELFTEST PSYNC READONLY READWRITE REPLCONF REPLICAOF RESTORE RESTORE-ASKING SAVE SHUTDOWN
SLAVEOF SLOWLOG SWAPDB SYNC COMMANDLOG""".split()
OWN = b"""APPEND GET SET DEL HSET LPUSH XADD ZADD GEOADD PFADD KEYS SCAN DBSIZE RANDOMKEY FLUSHDB PING
ECHO TIME TYPE OBJECT XGROUP XINFO DUMP COMMAND LASTSAVE EXPIRE RENAME UNLINK TOUCH BITFIELD LCS GETEX""".split()
#: Those of them whose arguments do not bound their time.
COSTLY = {b"KEYS", b"SCAN", b"XINFO", b"DUMP", b"LCS", b"SETBIT", b"SETRANGE", b"BITFIELD"}

SCRIPTING = ["EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO", "FUNCTION", "SCRIPT"]


class DecisionsTests(unittest.TestCase):
    def setUp(self) -> None:
        self.policy = make_policy(builtin(), scripts=True, databases=True)

    def assertRefused(self, made: policy.Policy, name: bytes) -> None:
        """Asserts that neither the command nor any of its subcommands is passed on."""
        self.assertEqual(made.table[name], INSPECT if name in made.known else REFUSE, name)
        self.assertFalse(made.subcommands.get(name), name)

    def test_what_passes_and_what_does_not(self) -> None:
        for name in OWN:
            kind = WINDOWED if name in COSTLY else FORWARD
            self.assertEqual(self.policy.table[name], kind, name)
            self.assertEqual(self.policy.table[name.lower()], kind, name)
        for name in (b"BLPOP", b"XREAD", b"WAIT"):
            self.assertEqual((self.policy.table[name], name in self.policy.blocking), (INSPECT, True), name)
        for name in FOREIGN:
            self.assertRefused(self.policy, name)
        for name in (
            b"SELECT",
            b"FLUSHALL",
            b"COPY",
            b"MULTI",
            b"SUBSCRIBE",
            b"INFO",
            b"CLIENT",
            b"MEMORY",
            b"ROLE",
            b"SCRIPT",
        ):
            self.assertEqual(self.policy.table[name], INSPECT, name)
        self.assertEqual(self.policy.table[b"PUBLISH"], INSPECT_FIRST)
        self.assertNotIn(b"NOSUCH", self.policy.table)

    def test_the_upstream_connections_user_may_what_passes_and_no_more(self) -> None:
        forwarded = set(self.policy.forwarded)
        for name in (*OWN, b"MULTI", b"EXEC", b"SUBSCRIBE", b"PUBLISH", b"COPY", b"HELLO", b"EVAL"):
            found = {f for f in forwarded if f.split("|")[0] == name.decode().lower()}
            self.assertTrue(found, name)
        for name in (*FOREIGN, b"SELECT", b"FLUSHALL", b"INFO", b"CLIENT", b"AUTH", b"ROLE"):
            self.assertFalse({f for f in forwarded if f.split("|")[0] == name.decode().lower()}, name)
        self.assertEqual({f for f in forwarded if f.startswith("pubsub")}, {"pubsub|help"})

    def test_a_name_is_one_that_the_server_knows(self) -> None:
        for name, known in (
            ("config|set", "CONFIG|SET"),
            ("config|<script>", "CONFIG"),
            ("move", "MOVE"),
            ("move|set", "MOVE"),
            ("hunter2", "unknown"),
            ("unknown", "unknown"),
            ("", "unknown"),
        ):
            self.assertEqual(self.policy.known_name(name), known)

    def test_scripts_need_the_second_layer(self) -> None:
        one_layer = make_policy(builtin(), scripts=False)
        for name in (b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"SCRIPT"):
            self.assertRefused(one_layer, name)
            self.assertNotEqual(self.policy.table[name], REFUSE)
        self.assertEqual(self.policy.subcommands[b"SCRIPT"], {b"LOAD", b"EXISTS", b"HELP", b"SHOW"})

    def test_a_tenant_without_scripts(self) -> None:
        opened = make_policy(builtin(), scripts=True, databases=True, allow=parse_names("FCALL,FCALL_RO,FUNCTION"))
        error = b"-NOPERM no scripts\r\n"
        denied = opened.without_scripts(error)
        for name in (b"EVAL", b"eval", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"FCALL", b"SCRIPT", b"script", b"FUNCTION"):
            self.assertEqual((denied.table[name], denied.refusal(name)), (REFUSE, error), name)
        self.assertEqual(denied.refusal(b"script|load"), error)
        self.assertEqual((denied.refusal(b"config"), denied.table[b"GET"]), (policy.refusal(b"config"), FORWARD))
        lost = set(opened.forwarded) - set(denied.forwarded)
        self.assertEqual({name.partition("|")[0] for name in lost}, {name.lower() for name in SCRIPTING})
        self.assertEqual((set(denied.forwarded) - set(opened.forwarded), denied.selects), (set(), False))
        self.assertIs(denied.without_scripts(b""), opened)
        self.assertIs(opened.without_scripts(b""), opened)
        self.assertIs(denied.without_scripts(error), denied)
        self.assertNotEqual(denied, opened)
        self.assertEqual(opened.refusal(b"eval"), policy.refusal(b"eval"))

    def test_scripts_that_publish_are_inspected(self) -> None:
        for name, verdict in ((b"EVAL", INSPECT_TEXT), (b"EVALSHA", INSPECT_KNOWN)):
            self.assertEqual([self.policy.table[each] for each in (name, name + b"_RO", name.lower())], [verdict] * 3)
        everything = make_policy(builtin(), scripts=True, allow=parse_names("SCRIPT SCRIPT|FLUSH SCRIPT|KILL"))
        self.assertEqual(everything.table[b"SCRIPT"], INSPECT)

    def test_the_own_index_may_be_selected_in_scripts(self) -> None:
        self.assertTrue(self.policy.selects)
        for other in (
            make_policy(builtin(), scripts=False),
            make_policy(builtin(), scripts=True, sealed=False),
            make_policy(builtin(), scripts=True, select_rule=False),
            make_policy(builtin(), scripts=True, deny=parse_names("SELECT")),
        ):
            self.assertFalse(other.selects)
        self.assertNotIn("select", self.policy.forwarded)

    def test_scripts_need_a_server_where_one_users_cannot_change_anothers(self) -> None:
        unsealed = make_policy(builtin(), scripts=True, databases=False, sealed=False)
        for name in (b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"SCRIPT"):
            self.assertRefused(unsealed, name)
        self.assertFalse(unsealed.runs_scripts)
        self.assertEqual(unsealed.table[b"COPY"], REFUSE)
        allowed = make_policy(builtin(), scripts=True, databases=False, sealed=False, allow=frozenset((b"EVAL",)))
        self.assertEqual((allowed.table[b"EVAL"], allowed.table[b"COPY"]), (INSPECT_TEXT, REFUSE))
        self.assertTrue(allowed.runs_scripts)

    def test_no_operators_word_opens_scripts_that_redis_does_not_hold(self) -> None:
        """No setting opens scripts if Redis does not enforce a user's limits: such scripts could
        SELECT.
        """
        allow = parse_names("EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO SCRIPT FUNCTION FUNCTION|LOAD SCRIPT|LOAD")
        for sealed in (True, False):
            made = make_policy(builtin(), scripts=False, sealed=sealed, allow=allow)
            for name in (b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"FCALL", b"FCALL_RO", b"SCRIPT", b"FUNCTION"):
                self.assertRefused(made, name)
            self.assertFalse({name for name in made.forwarded if name.startswith(("eval", "fcall", "script", "function"))})

    def test_copy_is_refused_where_a_script_could_copy_into_another_database(self) -> None:
        self.assertEqual(make_policy(builtin(), scripts=True, databases=False).table[b"COPY"], REFUSE)
        self.assertNotIn("copy", make_policy(builtin(), scripts=True, databases=False).forwarded)
        self.assertEqual(make_policy(builtin(), scripts=False, databases=False).table[b"COPY"], INSPECT)

    def test_new_commands_and_modules_are_judged_by_their_flags(self) -> None:
        commands = dict(builtin())
        for name, facts, kind in (
            (b"JSON.GET", {"keys"}, WINDOWED),
            (b"NEW.ADMIN", {"keys", "admin"}, REFUSE),
            (b"NEW.DANGER", {"keys", "dangerous"}, REFUSE),
            (b"NEW.PUBLISH", {"keys", "pubsub"}, REFUSE),
            (b"NEW.CALL", {"keys", "scripting"}, REFUSE),
            (b"NEW.GLOBAL", set(), REFUSE),
        ):
            commands[name] = Command(name, frozenset(facts))
            self.assertEqual(make_policy(commands, scripts=True).table[name], kind, name)

    def test_an_operators_words(self) -> None:
        def kind(name: bytes, allow: str = "", deny: str = "") -> int:
            return make_policy(builtin(), True, True, allow=parse_names(allow), deny=parse_names(deny)).table[name]

        self.assertEqual(kind(b"LATENCY", allow="LATENCY"), FORWARD)
        self.assertEqual(kind(b"LATENCY", allow="latency|latest"), INSPECT)
        self.assertEqual(kind(b"KEYS", deny="KEYS"), REFUSE)
        self.assertEqual(kind(b"SUBSCRIBE", deny="subscribe"), REFUSE)
        self.assertEqual(kind(b"KEYS", allow="KEYS", deny="KEYS"), REFUSE)
        self.assertEqual(kind(b"FLUSHALL", deny="FLUSHDB"), REFUSE)
        self.assertEqual(kind(b"OBJECT", deny="OBJECT|FREQ"), INSPECT)
        for name in opening.NEVER - policy.ANSWERED:
            if b"|" not in name:
                self.assertRefused(make_policy(builtin(), True, True, allow=parse_names(name.decode())), name)
        # SCRIPT DEBUG leaves a state on its connection. The others show what other tenants write
        # and read.
        made = make_policy(builtin(), True, allow=parse_names("SCRIPT,SCRIPT|DEBUG,SCRIPT|FLUSH,SLOWLOG,COMMANDLOG"))
        self.assertEqual(made.table[b"SCRIPT"], INSPECT)
        self.assertEqual(made.subcommands[b"SCRIPT"], {b"EXISTS", b"FLUSH", b"HELP", b"KILL", b"LOAD", b"SHOW"})
        self.assertEqual(made.subcommands[b"SLOWLOG"], {b"HELP", b"LEN", b"RESET"})
        self.assertEqual(made.subcommands[b"COMMANDLOG"], {b"HELP", b"LEN", b"RESET"})
        self.assertFalse({name for name in made.forwarded if name in ("script|debug", "slowlog|get", "commandlog|get")})
        for name in (b"SELECT", b"AUTH", b"HELLO", b"CLIENT"):
            self.assertEqual(kind(name, allow=name.decode()), INSPECT)

    def test_nothing_opens_config(self) -> None:
        """No setting opens CONFIG, because it shows the master password; the session itself answers
        the harmless part of CONFIG GET.
        """
        subcommands = {subcommand.name.decode() for subcommand in builtin()[b"CONFIG"].subcommands}
        for names in ("CONFIG", "config|get", "CONFIG|SET,CONFIG|GET,CONFIG", ",".join(subcommands)):
            made = make_policy(builtin(), True, True, allow=parse_names(names))
            self.assertRefused(made, b"CONFIG")
            self.assertFalse({name for name in made.forwarded if name.startswith("config")})
            self.assertEqual(made.answered, policy.ANSWERED_SUBCOMMANDS)

    def test_config_get_can_be_refused(self) -> None:
        for names in ("CONFIG", "config|get", "KEYS CONFIG|GET"):
            others = policy.ANSWERED_SUBCOMMANDS - {b"CONFIG|GET"}
            self.assertEqual(make_policy(builtin(), True, deny=parse_names(names)).answered, others, names)
        made = make_policy(builtin(), True, deny=parse_names("CONFIG|SET"))
        self.assertEqual(made.answered, policy.ANSWERED_SUBCOMMANDS)
        without = {name: command for name, command in builtin().items() if name != b"CONFIG"}
        self.assertEqual(make_policy(without, True).answered, others)

    def test_what_tools_ask_of_the_tenant_itself_can_be_refused(self) -> None:
        for name in policy.ANSWERED_SUBCOMMANDS:
            made = make_policy(builtin(), True, deny=frozenset((name,)))
            self.assertEqual(made.answered, policy.ANSWERED_SUBCOMMANDS - {name})
        self.assertEqual(make_policy(builtin(), True, deny=parse_names("ROLE")).table[b"ROLE"], REFUSE)

    def test_what_nothing_opens_is_told_with_the_reason(self) -> None:
        self.assertEqual(closed(parse_names("KEYS SLOWLOG SCRIPT|FLUSH LASTSAVE")), [])
        found = closed(parse_names("ACL|LIST Config slowlog|get client|list"))
        self.assertEqual([name.partition(" ")[0] for name in found], ["ACL|LIST", "CLIENT|LIST", "CONFIG", "SLOWLOG|GET"])
        self.assertIn("shows and changes the master password", found[2])
        self.assertIn("CONFIG GET of databases, maxmemory, maxmemory-policy, ", found[2])

    def test_what_is_opened_and_tells_of_others_is_told(self) -> None:
        def exposed(allow: str, **options: object) -> list[str]:
            options = {"scripts": True, "databases": True, **options}
            return [name for name, _ in make_policy(builtin(), allow=parse_names(allow), **options).exposed]

        self.assertEqual(exposed(""), [])
        # These need no opening, or show nothing of other tenants.
        self.assertEqual(exposed("GET KEYS EVAL SCRIPT|LOAD MEMORY|USAGE LASTSAVE INFO ROLE NOSUCH latency|help"), [])
        self.assertEqual(
            exposed("latency|latest slowlog memory|stats BGSAVE"), ["BGSAVE", "LATENCY|LATEST", "MEMORY|STATS", "SLOWLOG"]
        )
        self.assertEqual(exposed("BGSAVE SAVE", deny=parse_names("BGSAVE")), ["SAVE"])
        self.assertEqual(exposed("EVAL EVALSHA", sealed=False), ["EVAL", "EVALSHA"])
        self.assertEqual(exposed("FUNCTION EVAL", scripts=False, sealed=False), [])
        self.assertEqual(exposed("CONFIG MONITOR SLOWLOG|GET"), [], "never opened")

    def test_what_nobody_knows_is_told_of_when_it_is_opened(self) -> None:
        commands = {
            **builtin(),
            b"FT._LIST": Command(b"FT._LIST", frozenset()),
            b"JSON.GET": Command(b"JSON.GET", frozenset(("keys",))),
        }
        made = make_policy(commands, True, allow=parse_names("FT._LIST JSON.GET PFDEBUG"))
        self.assertEqual(made.exposed, (("FT._LIST", opening.EXPOSES_UNKNOWN), ("PFDEBUG", opening.EXPOSES_UNKNOWN)))

    def test_every_command_that_can_be_opened_is_known_to_tell_of_others_or_not(self) -> None:
        """Each command that any server of the matrix has and that can be opened is listed with what
        it shows or does.
        """
        named = set(builtin()) | {subcommand.name for command in builtin().values() for subcommand in command.subcommands}
        opened = make_policy(builtin(), True, True, allow=frozenset(named)).exposed
        self.assertGreater(len(opened), 20)
        self.assertEqual([name for name, what in opened if what == opening.EXPOSES_UNKNOWN], ["PFDEBUG"])
        opened += make_policy(builtin(), True, allow=policy.CALLS, sealed=False).exposed
        found = {name.encode() for name, _ in opened}
        self.assertEqual(opening.EXPOSES.keys() - found, set())

    def test_names_that_no_server_knows_are_told(self) -> None:
        made = make_policy(builtin(), True, allow=parse_names("NOSUCH, memory|nosuch get"), deny=parse_names("NEITHER"))
        self.assertEqual(made.unknown, ("MEMORY|NOSUCH", "NEITHER", "NOSUCH"))

    def test_names_are_checked(self) -> None:
        self.assertEqual(parse_names(" get,config|get  json.get,"), {b"GET", b"CONFIG|GET", b"JSON.GET"})
        for text in ("a|b|c", "|a", "a|", "a;b", "a\nb*"):
            self.assertRaises(ValueError, parse_names, text)

    def test_a_refusal_is_one_line_whatever_the_name(self) -> None:
        for name in (b"config", b"a\r\n+OK\r\n", b"\xff\xfe", b"x" * 1000, b"client|kill", b""):
            error = policy.refusal(name)
            self.assertTrue(error.startswith(b"-NOPERM ") and error.endswith(b"\r\n"))
            self.assertEqual((error.count(b"\r"), error.count(b"\n")), (1, 1))
            self.assertLess(len(error), 200)


class FactsTests(unittest.TestCase):
    def test_an_answer_of_redis_7(self) -> None:
        reply = [
            [b"get", 2, ["readonly", "fast"], 1, 1, 1, ["@read"], [], [], []],
            [
                b"config",
                -2,
                [],
                0,
                0,
                0,
                ["@slow"],
                [],
                [],
                [[b"config|get", -3, ["admin"], 0, 0, 0, ["@admin"], [], [], []]],
            ],
            [b"xread", -4, ["movablekeys", "blocking"], 0, 0, 0, ["@stream"], [], [], []],
        ]
        commands = parse(reply)
        self.assertEqual(commands[b"GET"].facts, {"keys"})
        self.assertEqual(commands[b"XREAD"].facts, {"keys", "blocking"})
        self.assertEqual(commands[b"CONFIG"].subcommands, (Command(b"CONFIG|GET", frozenset({"admin"})),))

    def test_an_answer_of_redis_6_gets_the_built_in_subcommands(self) -> None:
        commands = parse(
            [[b"get", 2, ["readonly"], 1, 1, 1, ["@read"]], [b"memory", -2, ["movablekeys"], 0, 0, 0, ["@read"]]]
        )
        self.assertIn(b"MEMORY|USAGE", {c.name for c in commands[b"MEMORY"].subcommands})

    def test_an_answer_of_redis_5_tells_no_categories(self) -> None:
        """RESTORE is dangerous also on Redis 5, which flags it only as a write."""
        entries = [
            [b"get", 2, ["readonly"], 1, 1, 1],
            [b"restore", -4, ["write", "denyoom"], 1, 1, 1],
            [b"eval", -3, ["noscript", "movablekeys"], 0, 0, 0],
            [b"keys", 2, ["readonly"], 0, 0, 0],
            [b"module.new", -2, ["write"], 1, 1, 1],
        ]
        commands = parse(entries)
        self.assertEqual(commands[b"RESTORE"].facts, {"keys", "dangerous"})
        self.assertEqual(commands[b"EVAL"].facts, {"keys", "scripting"})
        self.assertEqual(commands[b"KEYS"].facts, {"dangerous"})
        self.assertEqual(commands[b"MODULE.NEW"].facts, {"keys"})
        self.assertEqual(make_policy(commands, scripts=False).table[b"RESTORE"], REFUSE)
        parsed = parse([*entries[:1], [*entries[1], ["@keyspace", "@write"]]])
        # If the server reports categories, they win over the built-in facts.
        self.assertEqual(parsed[b"RESTORE"].facts, {"keys"})

    def test_what_is_no_answer(self) -> None:
        for reply in ([], [[]], [1], b"OK", [[b"set", -3, ["write"], 1, 1, 1]]):
            self.assertRaises(ValueError, parse, reply)
