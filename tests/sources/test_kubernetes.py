"""What only the cluster source has: pages, identities, TLS, and all that an API server can do
wrong.

Over real HTTP, with the official client on our side and the small API on the other.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

from twisted.internet import defer, task
from twisted.logger import capturedLogs, formatEvent

from redisproxy.sources import kubernetes
from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.tenants import enrolment
from redisproxy.tenants.documents import ReadFailure
from redisproxy.tenants.model import NOT_LOADED, AuthenticationError, Snapshot

from ..support.apiserver import (
    ANY,
    HALF_WRITTEN,
    HANG,
    NAMESPACES,
    NOT_JSON,
    TOKEN,
    ApiServer,
    Fault,
    refusal,
    secrets_path,
)
from ..support.cluster_source import MASTER, ClusterCase
from ..support.kept import KeptSnapshot
from ..support.proxy import namespace, secret, tenant

MASTER_PATH = f"{secrets_path(MASTER[0])}/{MASTER[1]}"
BLUE, GREEN = secrets_path("team-blue"), secrets_path("team-green")
PLANTED = "planted-secret"


class UnchangedTests(ClusterCase):
    """What was read before and has not changed is neither parsed nor made into credentials
    again.
    """

    def setUp(self) -> None:
        super().setUp()
        for number in range(20):
            name = f"team-{number}"
            self.api.put(*tenant(name, number + 10, f"password-{number}"))
            for which in range(2):
                url = f"redis://:temp-{number}-{which}@redis:6379/{number + 10}"
                self.api.put(secret(name, f"redis-secret-temp-{which}", redis_connection_string=url))
        self.parsed = self.count(kubernetes, "read_secret", lambda item: item["metadata"]["name"])
        self.namespaces = self.count(kubernetes, "read_namespace", lambda item: item["metadata"]["name"])
        self.enrolled = self.count(enrolment, "parse_tenant", lambda data: "one")

    def count(self, module: object, name: str, noted: Callable[..., object]) -> list[object]:
        calls: list[object] = []
        function = getattr(module, name)

        def counted(*arguments: object) -> object:
            calls.append(noted(*arguments))
            return function(*arguments)

        self.patch(module, name, counted)
        return calls

    def after(self, *documents: dict) -> tuple[list[object], list[object], int]:
        """The secrets and the namespaces that a reading parses, and how many secrets are made into
        credentials.
        """
        self.api.put(*documents)
        for calls in (self.parsed, self.namespaces, self.enrolled):
            calls.clear()
        self.assertEqual(self.read().failures(), [])
        self.served()
        return self.parsed, self.namespaces, len(self.enrolled)

    def test_the_second_reading_parses_nothing(self) -> None:
        parsed, namespaces, enrolled = self.after()
        self.assertEqual((len(parsed), len(namespaces), enrolled), (1 + 2 + 20 * 3, 22, 2 + 20 * 3))
        before = self.enrolment.resolve()[0]
        self.assertEqual(self.after(), ([], [], 0))
        self.assertIs(self.enrolment.resolve()[0], before)

    def test_one_that_changed_costs_its_own_namespace(self) -> None:
        self.after()
        changed = secret("team-7", "redis-secret-temp-1", redis_connection_string="redis://:changed@redis:6379/17")
        self.assertEqual(self.after(changed), (["redis-secret-temp-1"], [], 3))
        snapshot, _ = self.enrolment.resolve()
        self.assertEqual(snapshot.authenticate(None, b"changed", 0).tenant.namespace, "team-7")
        self.assertRaises(AuthenticationError, snapshot.authenticate, None, b"temp-7-1", 0)
        self.assertEqual(self.after(), ([], [], 0))

    def test_one_that_is_gone_and_one_that_is_made_again(self) -> None:
        self.after()
        self.api.delete("team-7", "redis-secret-temp-1")
        self.assertEqual(self.after(), ([], [], 2))
        self.assertRaises(AuthenticationError, self.enrolment.resolve()[0].authenticate, None, b"temp-7-1", 0)
        again = secret("team-7", "redis-secret-temp-1", redis_connection_string="redis://:temp-7-1@redis:6379/17")
        self.assertEqual(self.after(again), (["redis-secret-temp-1"], [], 3))
        self.api.delete("team-7")
        self.assertEqual(self.after(*tenant("team-7", 17, "password-7")), (["redis-secret-master"], ["team-7"], 1))

    def test_a_malformed_one_is_told_as_long_as_it_is(self) -> None:
        self.after(*tenant("team-7", "x", "password-7"))
        problems = self.problems
        self.assertEqual([problem.namespace for problem in problems], ["team-7"])
        self.assertEqual(self.after(), ([], [], 0))
        self.assertEqual(self.problems, problems)

    def test_a_failure_forgets_nothing(self) -> None:
        self.after()
        self.api.fail(secrets_path("team-7"), refusal(500))
        self.read()
        self.api.fail(NAMESPACES, refusal(500))
        self.read()
        self.api.fix()
        self.assertEqual(self.after(), ([], [], 0))

    def test_a_server_that_tells_no_versions_is_not_taken_at_its_word(self) -> None:
        for metadata in ({}, {"uid": "1"}, {"resourceVersion": "1"}, {"uid": 1, "resourceVersion": 1}):
            for index in (3, 4):
                data = tenant("team-blue", index, "blue-password")[1]
                data["metadata"] |= metadata
                data["data"] = {
                    key: base64.b64encode(value.encode()).decode() for key, value in data.pop("stringData").items()
                }
                body = {"kind": "SecretList", "metadata": {}, "items": [data]}
                self.api.fail(BLUE, Fault(200, body=json.dumps(body).encode()))
                self.read()
                self.assertEqual(self.served()["team-blue"], index)

    def test_no_long_piece_of_work_is_without_a_rest(self) -> None:
        """However many tenants there are: a request, a namespace or a credential is what is done
        between two rests.
        """
        work: list[str] = []
        call = ClusterSource._call

        def noted(source: ClusterSource, *arguments: object, **options: object) -> object:
            work.append("request")
            return call(source, *arguments, **options)

        self.patch(ClusterSource, "_call", noted)
        self.enrolment.use_full_read(self.source.read(lambda: work.append("rest")))
        number = 2 + 22 + 2 + 20 * 3
        self.assertEqual(work, ["request", "rest"] * number, "the master secret, one page, 22 lists, each secret")
        work.clear()
        self.enrolment.resolve(None, lambda: work.append("rest"))
        self.assertEqual(len(work), 3 * 22 + 62)

    def test_secrets_in_which_helm_keeps_its_releases_are_not_fetched(self) -> None:
        release = secret("team-blue", "redis-secret-temp-1", redis_connection_string="redis://:planted@redis:6379/3")
        self.api.put({**release, "type": "helm.sh/release.v1"})
        self.assertGood({"team-blue": 3, "team-green": 5, **{f"team-{number}": number + 10 for number in range(20)}})
        self.assertEqual(len([c for c in self.enrolment.resolve()[0].credentials if c.tenant.index == 3]), 1)


class PagesTests(ClusterCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(kubernetes, "PAGE", 2)

    def test_all_pages_of_namespaces_and_of_secrets(self) -> None:
        served = {}
        for number in range(1, 8):
            name = f"team-{number}"
            served[name] = number + 10
            self.api.put(*tenant(name, number + 10, f"password-{number}"))
            for which in range(5):
                temporary = f"redis://:temp-{number}-{which}@redis:6379/{number + 10}"
                self.api.put(secret(name, f"redis-secret-temp-{which}", redis_connection_string=temporary))
        self.assertGood({"team-blue": 3, "team-green": 5, **served})
        snapshot, problems = self.enrolment.resolve()
        self.assertEqual((len(snapshot.credentials), problems), (2 + 7 * 6, []))
        self.assertEqual(snapshot.authenticate(None, b"temp-7-4", 0).tenant.index, 17)
        self.assertEqual(self.asked.count(NAMESPACES), 5)
        self.assertEqual(self.asked.count(secrets_path("team-7")), 3 + 6, "three pages, and six secrets")
        lists = [request for request in self.api.requests if request.path != MASTER_PATH]
        self.assertEqual({request.query["limit"] for request in lists}, {"2"})

    def test_a_last_page_that_is_full(self) -> None:
        self.assertGood()
        self.assertEqual(self.asked.count(NAMESPACES), 1)

    def test_pages_that_expire_are_read_anew_the_next_time(self) -> None:
        self.assertGood()
        self.api.put(*tenant("team-more", 7, "more-password"))
        self.api.expire_continues()
        self.assertEqual(self.read().namespaces, ReadFailure("410 Gone"))
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        self.api.fix()
        self.assertGood({"team-blue": 3, "team-green": 5, "team-more": 7})

    def test_secrets_whose_pages_expire_cost_their_namespace_alone(self) -> None:
        self.assertGood()
        for number in range(5):
            self.api.put(secret("team-blue", f"another-{number}"))
        self.api.delete("team-blue", "redis-secret-master")
        self.api.put(*tenant("team-green", 6, "green-password"))
        self.api.expire_continues()
        self.assertEqual(self.read().secrets["team-blue"], ReadFailure("410 Gone"))
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 6})

    def test_a_list_that_goes_round_in_circles(self) -> None:
        body = {"kind": "NamespaceList", "metadata": {"continue": "again"}, "items": []}
        self.api.fail(NAMESPACES, Fault(200, body=json.dumps(body).encode()))
        self.assertUnreachable("does not end")


class RefusalTests(ClusterCase):
    def test_401_spares_the_calls_that_would_follow(self) -> None:
        self.assertGood()
        self.api.tokens = {"another"}
        self.assertUnreachable("^401 Unauthorized$")
        self.assertEqual(self.asked, [MASTER_PATH])
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        self.api.tokens = {TOKEN}
        self.assertGood()

    def test_a_kubeconfig_that_is_rewritten_is_read_anew(self) -> None:
        self.api.tokens = {"another"}
        self.assertUnreachable("401")
        self.api.write_kubeconfig(self.api.directory / "kubeconfig", "another")
        self.assertGood()

    def test_403_on_one_namespace(self) -> None:
        self.assertGood()
        self.api.fail(BLUE, refusal(403))
        self.api.delete("team-blue", "redis-secret-master")
        self.api.put(*tenant("team-green", 6, "green-password"), *tenant("team-red", 7, "red-password"))
        self.assertEqual(self.read().failures(), [ReadFailure("403 Forbidden")])
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 6, "team-red": 7})
        self.assertEqual([str(p) for p in self.problems], ["team-blue: its secrets were not read: 403 Forbidden"])
        self.api.fix()
        self.assertGood({"team-green": 6, "team-red": 7})

    def test_a_namespace_that_comes_back_unreadable_is_not_the_one_that_was_deleted(self) -> None:
        self.assertGood()
        self.api.delete("team-blue")
        self.assertGood({"team-green": 5})
        self.api.put(*tenant("team-blue", 3, "blue-password"))
        self.api.fail(BLUE, refusal(403))
        self.read()
        self.assertEqual(self.served(), {"team-green": 5})

    def test_403_on_the_list_of_namespaces(self) -> None:
        self.assertGood()
        self.api.fail(NAMESPACES, refusal(403))
        self.assertUnreachable("^403 Forbidden$")
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})

    def test_403_on_the_master_secret_is_no_deletion_and_costs_no_tenant(self) -> None:
        self.assertGood()
        self.api.fail(MASTER_PATH, refusal(403))
        self.api.put(*tenant("team-green", 6, "green-password"))
        self.assertEqual(self.read().master, ReadFailure("403 Forbidden"))
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 6})
        self.assertEqual(self.enrolment.resolve()[0].backend.password, b"master-password")

    def test_404_on_a_list_is_no_deletion(self) -> None:
        self.assertGood()
        for path in (BLUE, NAMESPACES):
            self.api.fail(path, refusal(404))
            self.assertEqual(self.read().failures(), [ReadFailure("404 Not Found")])
            self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
            self.api.fix()

    def test_429_tells_when_to_come_again_and_is_left_alone_until_then(self) -> None:
        self.api.fail(BLUE, refusal(429, Retry_After="7"))
        reading = self.read()
        failure = ReadFailure("429 Too Many Requests", 7.0)
        self.assertEqual(reading.secrets, {"team-blue": failure, "team-green": failure})
        self.assertEqual(self.asked, [MASTER_PATH, NAMESPACES, BLUE])

    def test_a_failure_in_the_middle_is_one_problem(self) -> None:
        """However many namespaces there are. It says how many are concerned, and names none of
        them.
        """
        self.api.put(*tenant("team-amber", 7, "amber-password"), *tenant("team-red", 8, "red-password"))
        self.assertGood({"team-amber": 7, "team-blue": 3, "team-green": 5, "team-red": 8})
        for first, where, count in (
            ("team-blue", "some namespaces", "3 of 4"),
            ("team-amber", "all namespaces", "4 of 4"),
        ):
            self.api.fail(secrets_path(first), refusal(503))
            self.read()
            self.served()
            expected = f"{where}: the secrets of {count} were not read: 503 Service Unavailable"
            self.assertEqual([str(problem) for problem in self.problems], [expected])
            self.api.fix()
        self.api.fail(secrets_path("team-red"), refusal(503))
        self.read()
        self.served()
        self.assertEqual(
            [str(problem) for problem in self.problems], ["team-red: its secrets were not read: 503 Service Unavailable"]
        )
        # Refused one by one, each has its own reason: a Role is missing there.
        for name in ("team-amber", "team-blue"):
            self.api.fail(secrets_path(name), refusal(403))
        self.read()
        self.served()
        self.assertEqual([problem.namespace for problem in self.problems], ["team-amber", "team-blue", "team-red"])

    def test_a_retry_after_that_is_no_number_of_seconds(self) -> None:
        for value in ("Fri, 31 Dec 2027 23:59:59 GMT", "-1", "1.5", "\xb2", "999999999", ""):
            self.api.fail(NAMESPACES, refusal(429, Retry_After=value))
            self.assertEqual(self.read().namespaces, ReadFailure("429 Too Many Requests"))

    def test_500_on_one_namespace_does_not_starve_those_behind_it(self) -> None:
        self.api.fail(BLUE, refusal(500))
        self.assertEqual(self.read().secrets["team-blue"], ReadFailure("500 Internal Server Error"))
        self.assertEqual(self.served(), {"team-green": 5})

    def test_500_and_503_for_everything(self) -> None:
        self.assertGood()
        for status, asked in ((500, [MASTER_PATH, NAMESPACES]), (503, [MASTER_PATH])):
            self.api.fail(ANY, refusal(status))
            self.assertUnreachable(f"^{status} ")
            self.assertEqual(self.asked, asked)
            self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})

    def test_a_redirection_is_not_followed_with_our_token(self) -> None:
        other = ApiServer().start()
        self.addCleanup(other.remove)
        self.api.fail(ANY, Fault(302, headers={"Location": f"{other.url}{NAMESPACES}"}))
        self.assertUnreachable(f"^no answer from {self.api.url}: ResponseError$")
        self.assertEqual(other.requests, [])


class AnswerTests(ClusterCase):
    """Answers that are none."""

    def test_a_hung_connection(self) -> None:
        self.assertGood()
        self.source = self.kubeconfig_source(timeout=(2.0, 0.2))
        self.api.fail(BLUE, HANG)
        reading = self.read()
        self.assertRegex(reading.secrets["team-blue"].reason, f"^no answer from {self.api.url}: ReadTimeoutError")
        # One time-out, not one for each namespace that follows.
        self.assertEqual(self.asked, [MASTER_PATH, NAMESPACES, BLUE])
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        self.api.fix()
        self.assertGood()

    def test_a_half_written_answer(self) -> None:
        self.assertGood()
        for path in (MASTER_PATH, NAMESPACES, BLUE):
            self.api.fail(path, HALF_WRITTEN)
            reading = self.read()
            self.assertRegex(reading.failures()[0].reason, f"^no answer from {self.api.url}: ")
            self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
            self.api.fix()

    def test_what_is_not_json(self) -> None:
        self.assertGood()
        for fault in (
            NOT_JSON,
            Fault(200, body=b""),
            Fault(200, body=b'{"kind": "SecretList", "items": ['),
            Fault(200, body=b"[" * 200_000),
            Fault(200, body=b'"\xff"'),
        ):
            for path in (MASTER_PATH, NAMESPACES, BLUE):
                self.api.fail(path, fault)
                self.assertEqual(self.read().failures()[0].reason, f"the answer of {self.api.url} is not JSON")
                self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
                self.api.fix()

    def test_json_that_is_not_what_was_asked_for_is_no_deletion(self) -> None:
        self.assertGood()
        for body in (
            {},
            [],
            "text",
            None,
            {"status": "ok"},
            {"kind": "Status", "status": "Success"},
            {"items": []},
            {"kind": "SecretList"},
            {"kind": "SecretList", "items": {}},
            {"kind": "SecretList", "items": "x"},
            {"kind": "SecretList", "items": [1]},
            {"kind": "SecretList", "items": [], "metadata": []},
        ):
            for path in (NAMESPACES, BLUE):
                self.api.fail(path, Fault(200, body=json.dumps(body).encode()))
                reason = f"^the answer of {self.api.url} is not a (list of objects|JSON object)$"
                self.assertRegex(self.read().failures()[0].reason, reason)
                self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5}, body)
                self.api.fix()

    def test_a_list_of_none_may_say_null(self) -> None:
        self.api.fail(BLUE, Fault(200, body=b'{"kind": "SecretList", "metadata": {}, "items": null}'))
        self.assertGood({"team-green": 5})

    def test_items_without_a_name_cost_only_themselves(self) -> None:
        items = [{}, {"metadata": None}, {"metadata": []}, {"metadata": {"name": 3}}, {"metadata": {"name": None}}]
        for kind, path in (("NamespaceList", NAMESPACES), ("SecretList", BLUE)):
            good = [namespace("team-green")] if kind == "NamespaceList" else []
            self.api.fail(path, Fault(200, body=json.dumps({"kind": kind, "items": [*items, *good]}).encode()))
            self.assertGood({"team-green": 5})
            self.api.fix()

    def test_a_master_secret_that_is_no_secret(self) -> None:
        self.api.fail(MASTER_PATH, Fault(200, body=b"{}"))
        self.assertEqual(self.read().master, ReadFailure("it has no metadata.name"))

    def test_what_a_peer_writes_is_never_repeated(self) -> None:
        clock = task.Clock()
        service = KeptSnapshot(clock, self.source, self.enrolment, 300, in_thread=defer.maybeDeferred)
        body = json.dumps({"kind": "Status", "message": PLANTED, "reason": PLANTED}).encode()
        faults = [
            Fault(status, PLANTED, {"Retry-After": PLANTED, "X-Detail": PLANTED, "Location": f"/{PLANTED}"}, body)
            for status in (302, 400, 401, 403, 404, 409, 410, 418, 422, 429, 500, 502, 503, 504, 599)
        ]
        faults += [Fault(200, PLANTED, body=text) for text in (PLANTED.encode(), body, f'["{PLANTED}"]'.encode())]
        faults += [Fault(200, PLANTED, body=body, missing=10)]
        with capturedLogs() as events:
            service.startService()
            for fault in faults:
                for path in (ANY, NAMESPACES, BLUE):
                    self.api.fail(path, fault)
                    self.assertNotIn(PLANTED, repr(self.source.read()))
                    service.refresh()
                    self.assertNotIn(PLANTED, repr(service.problems))
                    self.api.fix()
            service.stopService()
        self.assertGreater(len(events), len(faults))
        for event in events:
            self.assertNotIn(PLANTED, f"{formatEvent(event)} {event}")
        self.assertEqual(self.flushLoggedErrors(), [])


class AwayTests(ClusterCase):
    """The API server is away for a while, and the service that keeps the snapshot goes on."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = task.Clock()
        self.clock.advance(1_800_000_000)
        self.service = KeptSnapshot(self.clock, self.source, self.enrolment, 300, in_thread=defer.maybeDeferred)
        self.seen: list[Snapshot] = []
        self.service.listeners.append(self.seen.append)

        def stop() -> None:
            self.service.stopService()
            self.assertEqual(self.clock.getDelayedCalls(), [])

        self.addCleanup(stop)

    def attempt_after(self, seconds: float) -> bool:
        before = len(self.api.requests)
        self.clock.advance(seconds)
        return len(self.api.requests) > before

    def test_away_at_the_start(self) -> None:
        self.api.stop()
        with capturedLogs() as events:
            self.service.startService()
            self.assertIsNone(self.service.snapshot)
            with self.assertRaises(AuthenticationError) as caught:
                self.service.authenticate(None, b"blue-password")
            self.assertEqual(str(caught.exception), NOT_LOADED)
            for _ in range(10):
                self.clock.advance(1)
            self.assertEqual(self.seen, [])
            self.api.start()
            # After attempts at 0, 1, 3 and 7 seconds at the latest, the next one comes before the
            # sixteenth.
            for _ in range(6):
                self.clock.advance(1)
        self.assertEqual(self.service.authenticate(None, b"blue-password").tenant.index, 3)
        warnings = [formatEvent(event) for event in events if event["log_level"].name == "warn"]
        self.assertEqual(len(warnings), 1, "one line, once")
        self.assertRegex(
            warnings[0],
            f"all namespaces and the master secret: not read: no answer from {self.api.url}: NewConnectionError: "
            "Connection refused$",
        )
        self.assertIn("the Kubernetes API can be read again", [formatEvent(event) for event in events])

    def test_away_and_back(self) -> None:
        self.service.startService()
        used, read = self.service.authenticate(None, b"blue-password"), self.service.reloaded_at
        self.api.stop()
        self.clock.pump([30] * 50)
        self.assertTrue(self.service.snapshot.renewed(used, self.clock.seconds()))
        self.assertEqual(self.service.authenticate(None, b"blue-password"), used)
        self.assertEqual(self.service.reloaded_at, read)
        self.assertTrue(self.service.problems)
        self.api.put(*tenant("team-red", 7, "red-password"))
        self.api.start()
        self.clock.pump([30] * 11)
        self.assertEqual(self.service.authenticate(None, b"red-password").tenant.index, 7)
        self.assertEqual(self.service.authenticate(None, b"blue-password"), used)
        self.assertGreater(self.service.reloaded_at, read)
        self.assertEqual(self.service.problems, [])

    def test_backoff_doubles_up_to_the_interval(self) -> None:
        self.api.fail(ANY, refusal(503))
        self.service.startService()
        # The refresh of every five minutes begins anew at 300: what is checked is before that.
        for seconds in (1, 2, 4, 8, 16, 32, 64):
            self.assertFalse(self.attempt_after(seconds * 0.74), seconds)
            self.assertTrue(self.attempt_after(seconds * 0.26), seconds)

    def test_retry_after_is_honoured(self) -> None:
        self.api.fail(NAMESPACES, refusal(429, Retry_After="40"))
        self.service.startService()
        self.assertFalse(self.attempt_after(39.9))
        self.api.fix()
        self.assertTrue(self.attempt_after(0.2))
        self.assertEqual(len(self.seen), 1)
        self.assertFalse(self.attempt_after(259))

    def test_retry_after_does_not_put_it_off_beyond_the_interval(self) -> None:
        self.api.fail(NAMESPACES, refusal(429, Retry_After="99999"))
        self.service.startService()
        latest = max(call.getTime() for call in self.clock.getDelayedCalls())
        self.assertEqual(latest - self.clock.seconds(), 300)
        self.assertFalse(self.attempt_after(299.9))
        self.assertTrue(self.attempt_after(0.2))

    def test_a_signal_does_not_wait_for_the_retry(self) -> None:
        self.api.fail(ANY, refusal(503, Retry_After="200"))
        self.service.startService()
        self.api.fix()
        self.service.refresh()
        self.assertEqual(len(self.seen), 1)
        self.assertFalse(self.attempt_after(299))
