"""Which commands of a tenant go through its window because Redis's log shows that they are slow."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet import task
from twisted.trial.unittest import SynchronousTestCase

from redisproxy import bounds, messages
from redisproxy.ops.logs import Log
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import FORWARD, WINDOWED
from redisproxy.tenants.model import Tenant
from redisproxy.tenants.slow_log import Entry
from redisproxy.tenants.window import Window
from redisproxy.upstream.slow_commands import SlowCommands

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 4)
TABLE = make_policy(builtin(), scripts=True, databases=True).table
GETRANGE = [b"getrange", b"a-key", b"0", b"-1"]
LONG = bounds.WINDOW_LONG_SECONDS


class SlowCommandsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.windows: dict[Tenant, Window] = {}
        self.told: list[Tenant] = []
        self.logged: list[tuple[object, dict]] = []
        self.patch(Log, "write", lambda _, line, **fields: self.logged.append((line, fields)))
        self.slow = SlowCommands(self.clock, self.window)
        self.slow.changed = self.changed
        self.addCleanup(self.stops)

    def stops(self) -> None:
        self.slow.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def window(self, tenant: Tenant) -> Window:
        return self.windows.setdefault(tenant, Window(self.clock.seconds, self.clock.callLater))

    def changed(self, tenants: Collection[Tenant]) -> None:
        self.told += tenants

    def add(self, words: list[bytes], seconds: float, tenant: Tenant = BLUE, at: int = 1000) -> bool:
        return self.slow.add(Entry(1, at, round(seconds * 1_000_000), words, tenant, b""), TABLE)

    def verdict(self, name: bytes, tenant: Tenant = BLUE) -> int:
        return self.slow.table(tenant, TABLE)[name]

    def confirm(self, tenant: Tenant = BLUE) -> None:
        answers = [self.add(GETRANGE, 0.05, tenant) for _ in range(bounds.CONFIRM_ENTRIES)]
        self.assertEqual(answers, [False, False, True])

    def test_some_entries_confirm_it_for_this_tenant_alone(self) -> None:
        self.confirm()
        self.assertEqual((self.verdict(b"GETRANGE"), self.verdict(b"getrange")), (WINDOWED, WINDOWED))
        self.assertEqual((self.verdict(b"GET"), self.verdict(b"KEYS")), (FORWARD, WINDOWED))
        self.assertIs(self.slow.table(GREEN, TABLE), TABLE)
        self.assertEqual(TABLE[b"GETRANGE"], FORWARD)
        self.assertEqual((self.told, self.windows.keys()), ([BLUE], {BLUE}))
        fields = {"command": "getrange", "namespace": "team-blue", "milliseconds": 50.0}
        self.assertEqual(self.logged, [(messages.COMMAND_SLOW, fields)])
        self.assertIs(self.slow.table(BLUE, TABLE), self.slow.table(BLUE, TABLE), "all sessions use one table")

    def test_its_window_begins_with_one_which_redis_times(self) -> None:
        self.confirm()
        window = self.windows[BLUE]
        self.assertEqual((window.size, window.times(1)), (1, True))

    def test_one_entry_proves_nothing(self) -> None:
        """Redis was stopped, or swapped, while the command ran."""
        self.add(GETRANGE, 30.0)
        for number in range(5):  # the log has one of these every minute
            self.assertFalse(self.add(GETRANGE, 30.0, at=2000 + 31 * number))
        self.assertIs(self.slow.table(BLUE, TABLE), TABLE)
        self.assertEqual((self.told, self.logged, self.windows), ([], [], {}))

    def test_entries_of_another_command_or_tenant_do_not_add_up(self) -> None:
        for words, tenant in ((GETRANGE, BLUE), (GETRANGE, GREEN), ([b"APPEND", b"k", b"x"], BLUE), (GETRANGE, BLUE)):
            self.assertFalse(self.add(words, 1.0, tenant))

    def test_a_busy_machine_makes_common_commands_late(self) -> None:
        """Those are quick by themselves, unless they are large, or take longer."""
        many, much = [b"MSET", b"a", b"... (1000 more arguments)"], [b"SET", b"k", b"vv... (200000 more bytes)"]
        for words, seconds, counts in (
            ([b"GET", b"k"], LONG - 0.01, False),
            ([b"GET", b"k"], LONG, True),
            ([b"XDEL", b"s", b"1-1"], LONG - 0.01, False),
            ([b"XDEL", b"s", b"1-1"], LONG, True),
            ([b"MSET", b"a", b"b"], LONG - 0.01, False),
            (many, bounds.LATE_SECONDS, True),
            (many, bounds.LATE_SECONDS - 0.001, False),
            (much, bounds.LATE_SECONDS, True),
            ([b"SET", b"k", b"vv... (900 more bytes)"], LONG - 0.01, False),
            ([b"OBJECT", b"ENCODING", b"k"], LONG, True),
            ([b"PING"], 10.0, False),  # it has nothing that could be slow
            ([b"TIME"], 10.0, False),
        ):
            self.slow.keep_only(())
            confirmed = [self.add(words, seconds) for _ in range(bounds.CONFIRM_ENTRIES)]
            self.assertEqual(any(confirmed), counts, (words, seconds))

    def test_what_is_not_plain_stays_as_it_is(self) -> None:
        """It is in the window already, or is a script, or may block, or is refused, or unknown."""
        for name in (b"KEYS", b"EVAL", b"BLPOP", b"PUBLISH", b"EXEC", b"CONFIG", b"NO.SUCH"):
            self.assertFalse(any(self.add([name, b"k"], 10.0) for _ in range(9)), name)
        self.assertEqual(self.logged, [])

    def test_after_some_minutes_without_an_entry_it_is_quick_again(self) -> None:
        self.confirm()
        self.clock.advance(bounds.CONFIRMED_SECONDS - 1)
        self.assertFalse(self.add(GETRANGE, 0.05))
        self.clock.advance(bounds.CONFIRMED_SECONDS - 1)
        self.assertEqual(self.verdict(b"GETRANGE"), WINDOWED)
        self.add(GETRANGE, 0.005)  # not a slow one, whatever Redis logs
        self.clock.advance(1)
        self.assertIs(self.slow.table(BLUE, TABLE), TABLE)
        self.assertEqual((self.told, len(self.logged)), ([BLUE, BLUE], 1))
        self.confirm()
        self.assertEqual((self.verdict(b"GETRANGE"), len(self.logged)), (WINDOWED, 2))

    def test_several_at_once_and_one_of_them_is_quick_again(self) -> None:
        self.confirm()
        self.clock.advance(10)
        for _ in range(bounds.CONFIRM_ENTRIES):
            self.add([b"APPEND", b"k", b"x"], 1.0)
        self.assertEqual((self.verdict(b"GETRANGE"), self.verdict(b"append")), (WINDOWED, WINDOWED))
        self.clock.advance(bounds.CONFIRMED_SECONDS - 10)
        self.assertEqual((self.verdict(b"GETRANGE"), self.verdict(b"append")), (FORWARD, WINDOWED))

    def test_another_policy(self) -> None:
        self.confirm()
        refused = make_policy(builtin(), scripts=True, databases=True, deny=frozenset((b"GETRANGE",))).table
        self.assertEqual(self.slow.table(BLUE, refused), refused)
        self.assertEqual(self.verdict(b"GETRANGE"), WINDOWED)

    def test_a_tenant_that_is_gone_is_forgotten(self) -> None:
        self.confirm()
        self.confirm(GREEN)
        self.slow.keep_only({GREEN})
        self.assertIs(self.slow.table(BLUE, TABLE), TABLE)
        self.assertEqual(self.verdict(b"GETRANGE", GREEN), WINDOWED)
        self.clock.advance(bounds.CONFIRMED_SECONDS)
        self.assertEqual(self.told, [BLUE, GREEN, GREEN])
