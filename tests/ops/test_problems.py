"""What the page calls a problem, and what it says to do."""

from __future__ import annotations

import unittest
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.error import ConnectionRefusedError, DNSLookupError

from redisproxy import messages
from redisproxy.ops.history import INTERVAL, SAMPLES, History, Recent, Series
from redisproxy.ops.problems import OpenProblem, Sightings, open_problems
from redisproxy.ops.stats import REDIS_BOUNDS, Stats
from redisproxy.policy import probing
from redisproxy.processes.merge import nothing
from redisproxy.resp.value import ErrorReply
from redisproxy.upstream.endpoint import why

from ..support.reasons import reason, set_fault, set_unready
from ..support.stats import stats, tenant_stats

RUNBOOKS = Path(__file__).parents[2] / "docs/runbooks"
#: Why no client should come, and the runbook.
UNREADY = (
    (messages.NO_CREDENTIALS, "CredentialsNotLoaded"),
    (messages.NO_MASTER, "CredentialsNotLoaded"),
    (messages.REDIS_NO_ANSWER, "RedisUnreachable"),
    (messages.REDIS_NOT_PROBED, "NotReady"),
    (messages.REDIS_REFUSES_USERS, "NotReady"),
    (messages.REDIS_REFUSES_CONNECTIONS, "RedisUnreachable"),
    (messages.REDIS_WITHOUT_ACL, "OneIsolationLayer"),
    (messages.NO_WORKER, "WorkersMissing"),
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
        for why_unready, runbook in UNREADY:
            set_unready(self.state, why_unready())
            (problem,) = self.found()
            self.assertEqual((problem.reason, problem.runbook), (why_unready.text, f"RedisProxy{runbook}"))
        set_unready(self.state, messages.DRAINING())
        self.assertEqual(self.found(), [])

    def test_these_are_all_reasons_not_to_be_ready(self) -> None:
        known = {message for _, message in messages.all_messages() if isinstance(message, messages.NotReady)}
        self.assertEqual(known, {*(reason for reason, _ in UNREADY), messages.DRAINING})

    def test_what_to_do_follows_from_the_cause(self) -> None:
        set_unready(self.state, messages.REDIS_NO_ANSWER())
        seen = set()
        for fault in (
            messages.REDIS_UNREACHABLE(address="redis://r", reason=why(ConnectionRefusedError(111))),
            messages.REDIS_UNREACHABLE(address="redis://r", reason=why(DNSLookupError("no results"))),
            messages.REDIS_UNREACHABLE(
                address="redis://r", reason=why(SSL.Error([("a", "b", "certificate verify failed")]))
            ),
            messages.REDIS_ANSWERED_AUTH(error=messages.redis_error("-WRONGPASS invalid username-password pair")),
            messages.REDIS_CLOSES(address="redis://r"),
            messages.REDIS_IS(address="redis://r", state=messages.REDIS_IS_LOADING()),
            messages.REDIS_NOT_REPORTED(reason=probing.explain({"INFO server": ErrorReply("BUSY a script")})),
            messages.REDIS_NOT_REPORTED(reason=probing.explain({"INFO server": ErrorReply("NOPERM no")})),
            messages.SENTINELS_SILENT(name="m"),
            messages.REDIS_SILENT(address="redis://r"),
            reason("something that nobody has thought of"),
        ):
            set_fault(self.state["redis"], fault)
            (problem,) = self.found()
            self.assertEqual(problem.reason, f"the proxy cannot use Redis: {fault}")
            self.assertNotIn(problem.advice, seen, fault)
            seen.add(problem.advice)

    def test_workers(self) -> None:
        self.state["workers"] = {"wanted": 3, "serving": 3, "restarts": 1, "pids": {}, "unready": {}}
        self.assertEqual(self.found(), [])
        self.state["workers"] |= {
            "serving": 2,
            "unready": {"1": ("the proxy cannot use Redis: redis://r cannot be reached", "net-refused")},
        }
        self.assertEqual([(problem.where, problem.reason) for problem in self.found()], [
            ("proxy", "2 of 3 workers serve clients"),
            ("worker 1", "the proxy cannot use Redis: redis://r cannot be reached"),
        ])  # fmt: skip
        # It is reported once, not by each worker.
        set_unready(self.state, messages.REDIS_NO_ANSWER())
        self.assertEqual([problem.where for problem in self.found()], ["Redis", "proxy"])

    def test_sessions(self) -> None:
        self.state["most_sessions"] = 100
        self.stats["counts"]["sessions"] = {"waiting": 0, "unauthenticated": 500, "multiplexed": 80}
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
        self.assertRegex(self.found()[0].reason, "^its certificate expires in 10 d, 1970-01-11")
        certificate["expires"] = 1000.0 - 60
        self.assertEqual(self.found()[0].reason, "its certificate expired 1 min ago: clients refuse it")
        certificate |= {"expires": 1000.0 + 90 * 86400, "problem": "the key is not that of the certificate"}
        (problem,) = self.found()
        self.assertEqual(problem.reason, "a newer certificate cannot be used: the key is not that of the certificate")
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
        hung = messages.REDIS_HUNG(seconds=6)
        set_fault(self.state["redis"], hung, connected=False, answers="hung", unanswered=8.0)
        (problem,) = self.found()
        self.assertEqual((problem.where, problem.reason, problem.runbook), ("Redis", hung, "RedisProxyRedisHung"))
        self.assertIn("somebody stopped it", problem.advice)
        set_unready(self.state, messages.REDIS_NO_ANSWER())
        (problem,) = self.found()
        self.assertEqual((problem.reason, problem.runbook), (f"the proxy cannot use Redis: {hung}", "RedisProxyRedisHung"))
        set_unready(self.state, None)
        busy = messages.REDIS_BUSY()
        set_fault(self.state["redis"], busy, connected=True, answers="busy", unanswered=0.0)
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

    def test_scripts_that_were_ended(self) -> None:
        history, counts = History(), nothing()
        counts["tenants"] = {"team-a": tenant_stats(scripts_ended=2), "team-gone": tenant_stats(scripts_ended=2)}
        history.add(0.0, counts)
        self.assertEqual(self.found(history.recent(5.0, counts)), [])
        counts["tenants"] = {name: tenant_stats(scripts_ended=5) for name in counts["tenants"]}
        (problem,) = self.found(history.recent(10.0, counts))
        self.assertEqual((problem.where, problem.runbook), ("team-a", "RedisProxyScriptsEnded"))
        self.assertIn("3 of its scripts ran for too long in the last 10 s", problem.reason)

    def test_those_of_namespaces_come_last(self) -> None:
        set_unready(self.state, messages.REDIS_NO_ANSWER())
        self.state["snapshot"]["problems"] = [
            {
                "namespace": "team-b",
                "secret": "s",
                "reason": "database 3 belongs to the older x",
                "code": messages.DATABASE_OF_OLDER.code,
            }
        ]
        self.assertEqual([problem.where for problem in self.found()], ["Redis", "team-b"])


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
