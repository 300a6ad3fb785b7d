"""What the page calls a problem, and what it says to do."""

from __future__ import annotations

import unittest
from pathlib import Path

from redisproxy.ops import page
from redisproxy.ops.history import INTERVAL, SAMPLES, History, Recent, Series
from redisproxy.ops.problems import OpenProblem, Sightings, open_problems
from redisproxy import messages
from redisproxy.messages import Reason
from redisproxy.ops.stats import REDIS_BOUNDS, Stats
from redisproxy.processes.merge import nothing

from ..support.stats import stats, tenant_stats

RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"
#: Why no client should come, as the proxy says it, and the runbook.
UNREADY = (
    ("no credentials have been read yet", "CredentialsNotLoaded"),
    ("the master secret, which says where Redis is, has not been read yet", "CredentialsNotLoaded"),
    ("Redis does not answer", "RedisUnreachable"),
    ("Redis has not told yet what it is", "NotReady"),
    ("Redis does not let the proxy make the tenants' ACL users, as it did before", "NotReady"),
    ("Redis takes no new connections of the proxy's", "RedisUnreachable"),
    ("Redis has no ACL users for tenants, and --acl is require", "OneIsolationLayer"),
    ("no worker serves yet", "WorkersMissing"),
)


class OpenProblemsTests(unittest.TestCase):
    def setUp(self) -> None:
        self.stats: Stats = stats()
        self.state = self.stats["state"]
        self.state["snapshot"]["problems"] = []
        self.state["workers"] = None

    def found(self, recent: Recent | None = None) -> list[OpenProblem]:
        found = open_problems(self.stats, Recent() if recent is None else recent)
        for problem in found:
            self.assertTrue((RUNBOOKS / f"{problem.runbook}.md").is_file(), problem)
            self.assertTrue(problem.where and problem.reason and problem.advice, problem)
        return found

    def test_a_proxy_that_is_well_has_none(self) -> None:
        self.assertEqual(self.found(), [])

    def test_each_reason_not_to_be_ready_is_one(self) -> None:
        for reason, runbook in UNREADY:
            self.state["unready"] = reason
            (problem,) = self.found()
            self.assertEqual((problem.reason, problem.runbook), (reason, f"RedisProxy{runbook}"))
            self.assertTrue(problem.advice)
        self.state["unready"] = DRAINING
        self.assertEqual(self.found(), [])

    def test_the_reasons_are_those_that_the_proxy_gives(self) -> None:
        source = "".join(path.read_text() for path in (RUNBOOKS.parents[1] / "redisproxy").rglob("*.py"))
        for reason, _ in UNREADY:
            self.assertIn(f'"{reason}"', source)

    def test_what_to_do_follows_from_the_cause(self) -> None:
        self.state["unready"] = "Redis does not answer"
        seen = set()
        for fault in (
            "redis://r:6379 cannot be reached: ConnectionRefusedError: errno 111",
            "redis://r:6379 cannot be reached: DNSLookupError: DNS lookup failed: no results for hostname lookup: r.",
            "rediss://r:6379 cannot be reached: certificate verify failed",
            "Redis answered AUTH with: -WRONGPASS invalid username-password pair or user is disabled.",
            "redis://r:6379 closes connections as soon as they are open",
            "redis://r:6379 is loading its data: until it has, it answers -LOADING to tenants' commands",
            "redis://r:6379 did not tell what it is, and is asked again: INFO server: BUSY a script",
            "redis://r:6379 did not tell what it is, and is asked again: INFO server: NOPERM no",
            "none of the sentinels tells where m is",
            "redis://r:6379 does not answer: it took too long",
            "something that nobody has thought of",
        ):
            self.state["redis"]["fault"] = fault
            (problem,) = self.found()
            self.assertEqual(problem.reason, f"Redis does not answer: {fault}")
            self.assertNotIn(problem.advice, seen, fault)
            seen.add(problem.advice)

    def test_workers(self) -> None:
        self.state["workers"] = {"wanted": 3, "serving": 3, "restarts": 1, "pids": {}, "unready": {}}
        self.assertEqual(self.found(), [])
        self.state["workers"] |= {"serving": 2, "unready": {"1": "Redis does not answer: redis://r cannot be reached"}}
        self.assertEqual([(problem.where, problem.reason) for problem in self.found()], [
            ("proxy", "2 of 3 workers serve clients"),
            ("worker 1", "Redis does not answer: redis://r cannot be reached"),
        ])  # fmt: skip
        # Of all workers it is told once.
        self.state["unready"] = "Redis does not answer"
        self.assertEqual([problem.where for problem in self.found()], ["Redis", "proxy"])

    def test_sessions(self) -> None:
        self.state["most_sessions"] = 100
        self.stats["counts"]["sessions"] = {"waiting": 0, "multiplexed": 80}
        self.assertEqual(self.found(), [])
        self.stats["counts"]["sessions"] = {"waiting": 0, "multiplexed": 81}
        self.assertEqual([(p.reason, p.runbook) for p in self.found()], [
            ("81 of 100 sessions are taken (MAX_WORKERS)", "RedisProxyConnectionsNearLimit")
        ])  # fmt: skip
        self.stats["counts"]["sessions"] = {"waiting": 5, "multiplexed": 100}
        self.assertEqual([(p.reason, p.runbook) for p in self.found()], [
            ("5 clients wait: 100 of 100 sessions are taken (MAX_WORKERS)", "RedisProxyQueueFilling")
        ])  # fmt: skip

    def test_the_watch(self) -> None:
        self.state["snapshot"]["watch"]["watching"] = False
        (problem,) = self.found()
        self.assertEqual((problem.where, problem.runbook), ("credentials", "RedisProxyNotWatching"))
        # Before anything was read that is another problem; with --no-watch it is none.
        self.state["snapshot"]["loaded"] = False
        self.assertEqual(self.found(), [])
        self.state["snapshot"] |= {"loaded": True, "watch": None}
        self.assertEqual(self.found(), [])

    def test_certificates(self) -> None:
        (certificate,) = self.state["tls"]["certificates"]
        certificate |= {"begins": 1000.0 - 90 * 86400, "expires": 1000.0 + 10 * 86400}
        self.assertRegex(self.found()[0].reason, "^its certificate ends in 10 d, 1970-01-11")
        certificate["expires"] = 1000.0 - 60
        self.assertEqual(self.found()[0].reason, "its certificate ended 1 min ago: clients refuse it")
        certificate |= {"expires": 1000.0 + 90 * 86400, "problem": "the key is not that of the certificate"}
        (problem,) = self.found()
        self.assertEqual(problem.reason, "a newer certificate: the key is not that of the certificate")
        self.assertIn("the last good one stays in force", problem.advice)

    def test_a_slow_redis(self) -> None:
        total = Series([0] * (len(REDIS_BOUNDS) + 1), 0)
        counts = [0] * (len(REDIS_BOUNDS) + 1)
        counts[3], counts[10] = 90, 9  # 9 of 0.1 to 0.25 s
        total.add(0, 0, counts, 0)
        self.assertEqual(self.found(Recent(total=total)), [], "that is too little to know")
        counts[10] += 1
        total.add(0, 0, counts, 0)
        (problem,) = self.found(Recent(total=total))
        self.assertEqual((problem.where, problem.runbook), ("Redis", "RedisProxyRedisSlow"))
        self.assertEqual(problem.reason, "slow: one PING in a hundred took 235 ms or longer")
        self.state["redis"]["connected"] = False
        self.assertEqual(self.found(Recent(total=total)), [], "one that is away is not slow")
        self.state["redis"]["connected"] = True
        counts[3] += 10_000
        total.add(0, 0, counts, 0)
        self.assertEqual(self.found(Recent(total=total)), [])

    def test_a_redis_that_hangs_or_is_busy(self) -> None:
        hung = "Redis has not answered a PING for 6 s: its clients wait"
        self.state["redis"] |= {"connected": False, "answers": "hung", "unanswered": 8.0, "fault": hung}
        (problem,) = self.found()
        self.assertEqual((problem.where, problem.reason, problem.runbook), ("Redis", hung, "RedisProxyRedisHung"))
        self.assertIn("It is stopped", problem.advice)
        self.state["unready"] = "Redis does not answer"
        (problem,) = self.found()
        self.assertEqual((problem.reason, problem.runbook), (f"Redis does not answer: {hung}", "RedisProxyRedisHung"))
        self.state["unready"] = ""
        busy = "Redis is busy with a script, and answers -BUSY to all else"
        self.state["redis"] |= {"connected": True, "answers": "busy", "unanswered": 0.0, "fault": busy}
        (problem,) = self.found()
        self.assertEqual((problem.reason, problem.runbook), (busy, "RedisProxyRedisHung"))
        self.assertIn("SCRIPT KILL", problem.advice)

    def test_wrong_passwords(self) -> None:
        seconds = SAMPLES * INTERVAL
        self.assertEqual(self.found(Recent(seconds, logins={"wrong": 300, "ok": 1000})), [])
        (problem,) = self.found(Recent(seconds, logins={"wrong": 301}))
        self.assertEqual(problem.runbook, "RedisProxyWrongPasswords")
        # A proxy that has just started: ten in its first seconds are not many.
        self.assertEqual(self.found(Recent(1.0, logins={"wrong": 10})), [])

    def test_a_tenant_that_is_full(self) -> None:
        history, counts = History(), nothing()
        counts["tenants"] = {"team-a": tenant_stats(), "team-gone": tenant_stats()}
        history.add(0.0, counts)
        counts["tenants"] = {name: tenant_stats(turned_away=12) for name in counts["tenants"]}
        history.add(10.0, counts)
        (problem,) = self.found(history.recent(10.0, counts))
        self.assertEqual((problem.where, problem.runbook), ("team-a", "RedisProxyTenantFull"))
        self.assertEqual(problem.reason, "it reached its limit of 50 connections: 12 log-ins were refused in the last 10 s")

    def test_those_of_namespaces_come_last(self) -> None:
        self.state["unready"] = "Redis does not answer"
        self.state["snapshot"]["problems"] = [
            {"namespace": "team-b", "secret": "s", "reason": "database 3 belongs to the older x"}
        ]
        self.assertEqual([problem.where for problem in self.found()], ["Redis", "team-b"])

    def test_every_advice_is_for_something(self) -> None:
        for reason in (
            "its password is also that of team-b",
            "Redis has no database 99",
            "it has no key redis-connection-string",
            "not read: 403 Forbidden",
            "the master secret does not exist",
            "annotation redisproxy/max-connections is not a whole number",
            "not read: no way to the Kubernetes API",
            "not read: /etc/redisproxy/manifests: Permission denied",
            "it is not YAML or JSON (somewhere): what was last read of it stays in force",
            "it has valid_hours, but no metadata.creationTimestamp, from which they count",
            "database 3 is also named by team-b, and not all have a creationTimestamp: none of them gets it",
        ):
            self.assertNotEqual(page.advice(reason), page.advice("what nobody thought of"), reason)


class SightingsTests(unittest.TestCase):
    def problem(self, where: str, reason: str = "wrong", kind: str = "") -> OpenProblem:
        return OpenProblem(where, "", reason, "fix it", "RedisProxyProblems", kind)

    def test_a_problem_is_known_since_it_was_first_seen(self) -> None:
        sightings = Sightings(10)
        sightings.see([self.problem("a"), self.problem("b")], 5.0)
        sightings.see([self.problem("a"), self.problem("c")], 9.0)
        self.assertEqual([sightings.since(self.problem(where)) for where in "abc"], [5.0, None, 9.0])
        # What was over in between is another one.
        sightings.see([self.problem("b")], 11.0)
        self.assertEqual(sightings.since(self.problem("b")), 11.0)

    def test_a_reason_may_change(self) -> None:
        sightings = Sightings(10)
        sightings.see([self.problem("proxy", "2 of 3 workers serve clients", "workers")], 5.0)
        later = self.problem("proxy", "1 of 3 workers serve clients", "workers")
        sightings.see([later], 9.0)
        self.assertEqual(sightings.since(later), 5.0)

    def test_so_many_are_remembered(self) -> None:
        sightings = Sightings(3)
        sightings.see((self.problem(str(number)) for number in range(10)), 5.0)
        self.assertEqual([sightings.since(self.problem(str(number))) for number in (0, 2, 3)], [5.0, 5.0, None])
