"""The status page, from numbers made here."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import math
import re

from twisted.internet import defer
from twisted.trial import unittest

from redisproxy import messages
from redisproxy.ops import page
from redisproxy.ops.history import INTERVAL, SAMPLES, History, Recent
from redisproxy.ops.page_parts import ROWS, plot, seconds_text, size_text
from redisproxy.ops.page_style import SCRIPT, style
from redisproxy.ops.page_tables import NAMED, NAMES, TABLES
from redisproxy.ops.problems import OpenProblem, open_problems
from redisproxy.ops.stats import Stats
from redisproxy.processes.merge import nothing

from ..support.reasons import set_fault, set_unready
from ..support.stats import EVIL, redis_seconds, stats, tenant_stats

RUNBOOKS = ("RedisProxyProblems", "RedisProxyRedisUnreachable", "RedisProxyTenantFull")


class Cells(html.parser.HTMLParser):
    """The text of each cell of the tables: by the table's class, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = self.tables.setdefault(dict(attributes)["class"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._in_cell = True
        elif tag in ("title", "small") and self._in_cell:
            self._table[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._table[-1][-1] += data


class PageCase(unittest.SynchronousTestCase):
    def render(self, found: Stats, recent: Recent | None = None, ago: float | None = None) -> str:
        recent = Recent() if recent is None else recent
        content = page.PageContent(found, recent, open_problems(found, recent), lambda _: ago, RUNBOOKS)
        return self.successResultOf(page.render(content)).decode()

    def cells(self, name: str, *arguments: object) -> list[list[str]]:
        """The rows of a table, without its head."""
        return Cells(self.render(*arguments)).tables[name][1:]

    def card(self, title: str, *arguments: object) -> str:
        """The text of a card."""
        found = re.search(rf"<dt>{re.escape(title)}</dt><dd>(.*?)</dd>", self.render(*arguments))
        return re.sub(r"<title>.*?</title>|<[^>]*>", " ", found[1]).strip()


class PageTests(PageCase):
    def test_limits_that_redis_does_not_have(self) -> None:
        found = stats()
        self.assertNotIn("Limits of Redis", self.render(found))
        found["state"]["redis"]["notices"] = [f"redis://h:1 has no {EVIL}. Set it."]
        self.assertIn("missing", self.card("Limits of Redis", found))
        self.assertNotIn(EVIL, self.render(found))

    def test_what_others_wrote_is_text(self) -> None:
        found = stats(**{EVIL: tenant_stats(refused_names={EVIL: 3}, refused={EVIL: 3}, wrong=1, turned_away=1)})
        found["counts"]["refused_names"] = {EVIL: 3}
        found["counts"]["logins"] = {EVIL: 3, "tenant-full": 1}
        state = found["state"]
        state["host"] = state["unready"] = state["redis"]["fault"] = state["redis"]["version"] = EVIL
        state["unready_code"], state["redis"]["fault_code"] = messages.REDIS_NO_ANSWER.code, messages.NET_OTHER.code
        state["redis"]["address"] = state["snapshot"]["source"] = EVIL
        state["snapshot"]["without_secret"] = [EVIL]
        state["tls"]["certificates"][0] |= {"listener": EVIL, "problem": EVIL}
        html = self.render(found)
        self.assertEqual(re.findall(r"<script[^>]*>", html), ["<script>"], "but for the page's own there is none")
        self.assertNotIn("alert('x')</script>", html)
        self.assertGreater(html.count("&lt;script&gt;"), 12)
        # Characters that a browser would not show as they are, too.
        state["host"] = "evil\u202ename\x1b[31m"
        self.assertIn(r"evil\u202ename\x1b[31m", self.render(found))

    def test_it_says_what_to_do(self) -> None:
        found = stats()
        ((where, since, wrong, what, runbook),) = [row for row in self.cells("problems", found) if "older" in row[2]]
        self.assertEqual((where, since), (f"team-b {EVIL}", "-"))
        self.assertIn("database 3 belongs to the older", wrong)
        self.assertIn("give this namespace another index", what)
        self.assertEqual(runbook, "Problems")
        self.assertIn('<a href="runbooks/RedisProxyProblems">', self.render(found))
        self.assertIn("in 2 h", self.render(found))

    def test_since_when_there_is_a_problem(self) -> None:
        for row in self.cells("problems", stats(), None, 330.0):
            self.assertEqual(row[1], "1970-01-01 00:11:10 UTC 5 min 30 s ago")

    def test_a_runbook_that_is_not_there_is_no_link(self) -> None:
        html = self.render(stats())
        self.assertIn("WorkersMissing", html)
        self.assertEqual(
            set(re.findall(r'href="([^"]*)"', html)),
            {"metrics", "readyz", "runbooks", "runbooks/RedisProxyProblems"},
        )

    def test_without_problems_there_are_none(self) -> None:
        found = stats()
        found["state"]["snapshot"]["problems"] = []
        found["state"]["workers"] = None
        self.assertIn('<h2>Problems</h2><p class="good">None.</p>', self.render(found))

    def test_it_says_why_it_is_not_ready(self) -> None:
        found = stats()
        found["state"]["snapshot"]["problems"] = []
        found["state"]["workers"] = None
        set_unready(found["state"], messages.REDIS_NO_ANSWER())
        refused = messages.NET_REFUSED(error="ConnectionRefusedError: errno 111")
        fault = messages.REDIS_UNREACHABLE(address="redis://r:6379", reason=refused)
        set_fault(found["state"]["redis"], fault, connected=False)
        html = self.render(found, None, 330.0)
        self.assertIn(
            "Not ready, since 1970-01-01 00:11:10 UTC (5 min 30 s): the proxy cannot use Redis: redis://r:6379", html
        )
        self.assertNotIn("None.", html)
        self.assertEqual(
            self.cells("problems", found, None, 330.0),
            [
                [
                    "Redis",
                    "1970-01-01 00:11:10 UTC 5 min 30 s ago",
                    "the proxy cannot use Redis: redis://r:6379 cannot be reached: ConnectionRefusedError: errno 111",
                    "Nothing listens at that address: start Redis, or fix the address in the master secret.",
                    "RedisUnreachable",
                ]
            ],
        )
        set_unready(found["state"], messages.DRAINING())
        html = self.render(found)
        self.assertIn("Draining: the proxy is about to end.", html)
        self.assertNotIn("not ready", html.lower())
        self.assertNotIn("None.", html)

    def test_what_redis_does(self) -> None:
        found = stats()
        redis = found["state"]["redis"]
        self.assertEqual(self.card("Redis", found), "answers  Redis 7.0.15 · redis://r:6379")
        for answers, connected, text in (
            ("busy", True, '<span class="warn">is busy with a script</span>'),
            ("loading", True, '<span class="warn">is loading its data</span>'),
            ("hung", False, '<span class="bad">has not answered for 8 s</span>'),
            ("down", False, '<span class="bad">no connection</span>'),
        ):
            redis |= {"answers": answers, "connected": connected, "unanswered": 8.0 if answers == "hung" else 0.0}
            self.assertIn(text, self.render(found))

    def test_workers(self) -> None:
        found = stats()
        self.assertIn('<span class="bad">2 of 3</span><small>5 restarts', self.render(found))
        found["state"]["workers"] |= {"serving": 3, "restarts": 0}
        self.assertIn('<span class="good">3 of 3</span><small>never restarted', self.render(found))
        found["state"]["workers"] = None
        self.assertNotIn("Workers", self.render(found))

    def test_certificates(self) -> None:
        found = stats()
        (certificate,) = found["state"]["tls"]["certificates"]
        self.assertIn("in 60 d", self.render(found))
        self.assertNotIn("clients refuse it", self.render(found))
        certificate |= {
            "expires": 1000.0 + 7 * 86400 - 1,
            "begins": 1000.0 - 29 * 86400,
            "problem": f"{EVIL} cannot be read",
        }
        html = self.render(found)
        self.assertRegex(html, 'class="warn">in 6 d 23 h')
        self.assertIn("the last good one stays in force", html)
        self.assertEqual(self.cells("certificates", found)[0][2], f"{EVIL} cannot be read")
        certificate["expires"] = 900.0
        self.assertIn("expired 1 min 40 s ago: clients refuse it", self.render(found))
        found["state"]["tls"]["certificates"] = []
        self.assertNotIn("Certificates", self.render(found))

    def test_whose_proxy_it_is_and_since_when_it_runs(self) -> None:
        html = self.render(stats())
        self.assertIn("redisproxy-5d9c7-x2x4z", html)
        self.assertEqual(self.card("Uptime", stats()), "1 d 2 h  since 1969-12-30 22:13:36 UTC")

    def test_sessions_and_databases_of_how_many(self) -> None:
        found = stats()
        self.assertEqual(self.card("Sessions", found), "2 of 1,000  2 multiplexed")
        self.assertEqual(self.card("Databases used", found), "1 of 16")
        found["state"]["redis"]["databases"] = None
        self.assertEqual(self.card("Databases used", found), "1  Redis has not reported how many it has")

    def test_namespaces_without_a_secret(self) -> None:
        found = stats()
        html = self.render(found)
        self.assertIn("<h2>Namespaces without a secret (2)</h2>", html)
        self.assertRegex(html, "<li>team-new\n</li><li>team-newer\n</li>")
        self.assertIn("redisproxy enroll", html)
        found["state"]["snapshot"]["without_secret"] = []
        self.assertNotIn("without a secret", self.render(found))


class LogInTests(PageCase):
    """What failed, and whose it was."""

    def test_failed_log_ins_by_outcome(self) -> None:
        found = stats(
            **{
                "team-a": tenant_stats(turned_away=120, wrong=3),
                "team-b": tenant_stats(turned_away=40),
                "team-c": tenant_stats(),
            }
        )
        found["counts"]["logins"] = {"ok": 9000, "wrong": 30, "tenant-full": 160, "not-loaded": 9, "ambiguous": 0}
        recent = Recent(303.0, logins={"tenant-full": 12})
        self.assertEqual(self.card("Failed log-ins", found), "199  160 tenant-full; 30 wrong; 9 not-loaded; 9,000 succeeded")
        self.assertEqual(
            [row[:4] for row in self.cells("logins", found, recent)],
            [
                ["tenant-full", "160", "12", "team-a 120, team-b 40"],
                ["wrong", "30", "0", "team-a 3, by their user names"],
                ["not-loaded", "9", "0", "-"],
            ],
        )
        self.assertIn("Recently means in the last 5 min 3 s.", self.render(found, recent))
        self.assertIn('<a href="runbooks/RedisProxyTenantFull">TenantFull</a>', self.render(found))

    def test_of_many_tenants_some_are_named(self) -> None:
        found = stats(**{f"team-{number}": tenant_stats(turned_away=number) for number in range(1, NAMED + 4)})
        found["counts"]["logins"] = {"tenant-full": 36}
        ((*_, named, _, _),) = self.cells("logins", found)
        self.assertEqual(named, "team-8 8, team-7 7, team-6 6, team-5 5, team-4 4 and 3 more")

    def test_without_any_there_is_no_table(self) -> None:
        found = stats()
        found["counts"]["logins"] = {"ok": 5, "wrong": 0}
        self.assertNotIn("<h2>Failed log-ins", self.render(found))

    def test_refused_commands_by_name(self) -> None:
        found = stats(
            **{
                "team-a": tenant_stats(refused_names={"CONFIG|SET": 100, "MONITOR": 4}),
                "team-b": tenant_stats(refused_names={"CONFIG|SET": 20}),
            }
        )
        # Of a tenant that is gone the sum alone is known.
        found["counts"]["refused_names"] = {"MONITOR": 4, "CONFIG|SET": 120, "MOVE": 1}
        self.assertEqual(self.card("Refused", found), "125  commands, since the start")
        self.assertEqual(
            self.cells("refused", found),
            [["CONFIG|SET", "120", "team-a 100, team-b 20"], ["MONITOR", "4", "team-a 4"], ["MOVE", "1", "-"]],
        )
        found["counts"]["refused_names"] = {f"COMMAND{number}": 1 for number in range(NAMES + 5)}
        self.assertEqual(len(self.cells("refused", found)), NAMES)
        self.assertIn("5 more are not shown.", self.render(found))
        found["counts"]["refused_names"] = {}
        self.assertNotIn("Refused commands", self.render(found))


class TenantTests(PageCase):
    def history(self) -> tuple[Stats, Recent]:
        """Of one minute, in which team-a did something; and of what is known now."""
        history, counts, now = History(), nothing(), 1000.0
        counts["redis_seconds"] = redis_seconds()
        counts["tenants"] = {"team-a": tenant_stats(), "team-b": tenant_stats()}
        history.add(now, counts)
        for _ in range(6):
            now += INTERVAL
            one = counts["tenants"]["team-a"]
            one["commands"]["plain"] = one["commands"].get("plain", 0) + 120
            one["received"] += 10_000
            one["replied"] += 15_000
            latency = one["latency"]["counts"]
            latency["0.0005"] = latency.get("0.0005", 0) + 8
            latency["0.05"] = latency.get("0.05", 0) + 2
            counts["redis_seconds"] = redis_seconds(*[0.0004] * int(now - 1000))
            history.add(now, counts)
        found = stats(**counts["tenants"])
        return found, history.recent(now, counts)

    def test_what_each_did(self) -> None:
        found, recent = self.history()
        found["state"]["snapshot"]["tenants"]["team-b"] |= {"expires": None, "limits": {}}
        a, b = self.cells("tenants", found, recent)
        self.assertEqual(a[:5], ["team-a", "3", "0 of 50", "12", "720"])
        self.assertEqual((a[5], b[5]), ("2.5 kB at most 2.5 kB", "0 B"))
        self.assertEqual(a[6:8], ["0.41 ms", "49 ms at most 49 ms"])
        self.assertEqual(b[6:8], ["-", "-"])
        self.assertEqual((a[9], b[9]), ("2 next expires in 2 h", "2"))
        self.assertEqual(self.card("Commands/s", found, recent).split()[0], "12")
        self.assertEqual(self.card("Bytes/s", found, recent).split()[:2], ["2.5", "kB"])
        self.assertRegex(self.card("Latency of Redis", found, recent), r"^0\.50 ms .*p99 of 60 PINGs in 1 min; p50 0\.38 ms")

    def test_the_busiest_come_first(self) -> None:
        found, recent = self.history()
        found["counts"]["tenants"]["team-0"] = tenant_stats(sessions=3)
        found["state"]["snapshot"]["tenants"]["team-0"] = found["state"]["snapshot"]["tenants"]["team-a"]
        self.assertEqual([row[0] for row in self.cells("tenants", found, recent)], ["team-a", "team-0", "team-b"])

    def test_limits_and_what_they_do(self) -> None:
        found = stats()
        (row,) = self.cells("tenants", found)
        limits = "50 connections, 1,000,000 bytes/s"
        self.assertEqual(
            row[10], f"{limits} throttled now, throttled for 1 min 10 s, 8 connections refused, 2.5 kB unread or waiting"
        )
        self.assertIn('<span class="warn">throttled now', self.render(found))
        found["counts"]["tenants"]["team-a"] |= {"held": 0, "throttled": 0.0, "turned_away": 0, "memory": 0}
        self.assertEqual(self.cells("tenants", found)[0][10], limits)
        # At its limit it cannot have more.
        found["counts"]["tenants"]["team-a"]["sessions"] = 50
        self.assertIn('<span class="warn">50 of 50</span>', self.render(found))

    def test_numbers_are_sorted_by_what_they_are(self) -> None:
        found, recent = self.history()
        html = self.render(found, recent)
        self.assertIn('<td data-v="2500">2.5 kB', html)
        self.assertRegex(html, r'<td data-v="0\.0487[0-9]*">49 ms')


class PartsTests(PageCase):
    def test_small_and_large_numbers(self) -> None:
        for value, text in ((None, "-"), (0.00004, "0.04 ms"), (0.0025, "2.5 ms"), (0.25, "250 ms"), (1.5, "1.5 s")):
            self.assertEqual(seconds_text(value), text)
        self.assertEqual(seconds_text(math.inf), "over 5 s")
        for value, text in (
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (123_456, "123 kB"),
            (2.5e6, "2.5 MB"),
            (3e12, "3,000 GB"),
        ):
            self.assertEqual(size_text(value), text)

    def paths(self, *lines: list[float]) -> list[str]:
        return [path.attributes["d"] for svg in plot(str, *lines) for path in svg.children[1:]]

    def test_a_plot_is_scaled_to_its_greatest_number(self) -> None:
        self.assertEqual(self.paths([0.0, 5.0, 10.0]), ["M0 21L44 11 87 1"])
        self.assertEqual(self.paths([0.0, 20.0], [0.0, 5.0]), ["M0 21L87 1", "M0 21L87 16"])

    def test_where_nothing_is_known_there_is_a_gap(self) -> None:
        nan = math.nan
        self.assertEqual(self.paths([nan, 10.0, nan, 5.0, 10.0]), ["M22 1h0M65 11L87 1"])
        self.assertEqual(self.paths([nan, nan]), [])
        self.assertEqual(self.paths([0.0, 0.0]), [])

    def test_what_has_no_measure_is_at_the_top(self) -> None:
        self.assertEqual(self.paths([math.inf, 10.0, 5.0]), ["M0 1L44 1 87 11"])
        self.assertEqual(self.paths([math.inf]), [])


class PolicyTests(PageCase):
    """What the browser may run and load."""

    def test_it_needs_nothing_from_elsewhere(self) -> None:
        html = self.render(stats())
        self.assertNotRegex(html, r"src=|@import|url\(|\bon[a-z]+=|style=")
        for link in re.findall(r'href="([^"]*)"', html):
            self.assertRegex(link, r"^[\w/]+$", "relative, and within this endpoint")

    def test_the_hashes_of_the_policy_are_those_of_what_the_browser_gets(self) -> None:
        policy = page.HEADERS[b"content-security-policy"].decode()
        html = self.render(stats())
        for tag in ("style", "script"):
            (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
            wanted = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            self.assertIn(f"{tag}-src 'sha256-{wanted}'", policy)
        self.assertTrue(policy.startswith("default-src 'none'; "))
        self.assertNotIn("unsafe", policy)

    def test_nothing_in_style_and_script_needs_escaping(self) -> None:
        self.assertNotRegex(SCRIPT + style({table.name: table.columns for table in TABLES}), "[<>&]")
        self.assertLess(len(SCRIPT), 4096)

    def test_runbooks_are_listed(self) -> None:
        html = self.successResultOf(page.render_runbooks(["RedisProxyDown", "RedisProxyA"])).decode()
        self.assertEqual(re.findall(r'href="([^"]*)"', html), ["./", "runbooks/RedisProxyA", "runbooks/RedisProxyDown"])
        self.assertNotIn("http-equiv", html)


class SizeTests(PageCase):
    def many(self) -> tuple[Stats, Recent]:
        """Of thousands, with names as long as they can be, and each with a plot."""
        names = [f"team-{number:05}-".ljust(63, "x") for number in range(5000)]
        history, counts, now = History(), nothing(), 1000.0
        counts["tenants"] = {name: tenant_stats(sessions=1000, turned_away=10**6, held=1, throttled=1e6) for name in names}
        history.add(now, counts)
        for sample in range(SAMPLES):
            now += INTERVAL
            for number, one in enumerate(counts["tenants"].values()):
                one["commands"]["plain"] = one["commands"].get("plain", 0) + number * (sample % 3)
                one["received"] += 10**9 * (sample % 4)
                one["latency"]["counts"]["0.0005"] = one["latency"]["counts"].get("0.0005", 0) + sample % 5
            history.add(now, counts)
        found = stats(**counts["tenants"])
        found["state"]["snapshot"]["problems"] = [
            {
                "namespace": name,
                "secret": "s" * 63,
                "reason": "database 3 belongs to the older " + "y" * 63,
                "code": "net-other",
            }
            for name in names
        ]
        found["state"]["snapshot"]["without_secret"] = names
        return found, history.recent(now, counts)

    def test_with_thousands_of_tenants_it_stays_small(self) -> None:
        found, recent = self.many()
        html = self.render(found, recent, 5.0)
        self.assertLess(len(html), 1_000_000)
        tables = Cells(html).tables
        self.assertEqual((len(tables["tenants"]), len(tables["problems"])), (ROWS + 1, ROWS + 1))
        self.assertEqual(html.count("<li>"), ROWS)
        self.assertEqual(html.count("4,500 more are not shown."), 2)
        self.assertEqual(html.count("<svg>"), 2 * ROWS + 2)
        self.assertIn("Only the busiest are shown.", html)
        self.assertEqual(tables["tenants"][1][0][:10], "team-04999")

    def test_between_rows_clients_may_have_their_turn(self) -> None:
        names = {f"team-{number}": tenant_stats() for number in range(10)}
        waits: list[defer.Deferred[str]] = []

        def pause() -> defer.Deferred[str] | None:
            waits.append(defer.Deferred())
            return waits[-1] if len(waits) % 3 == 0 else None

        content = page.PageContent(stats(**names), problems=[OpenProblem("a", "", "b", "c", "")] * 2)
        rendering = page.render(content, pause)
        self.assertNoResult(rendering)
        for _ in range(4):
            self.assertNoResult(rendering)
            waits[-1].callback("")
        html = self.successResultOf(rendering).decode()
        self.assertEqual(len(waits), 12)
        self.assertEqual(len(Cells(html).tables["tenants"]), 11)
        self.assertTrue(html.endswith("</html>"))
