"""What a tenant puts into its namespace costs little to read: many secrets, large ones, and many
temporary ones.
"""

from __future__ import annotations

import base64
import json

from redisproxy import bounds
from redisproxy.sources import kubernetes
from redisproxy.sources.kubernetes_api import KubernetesApi
from redisproxy.tenants.documents import Changes, ReadFailure
from redisproxy.tenants.model import AuthenticationError, Snapshot

from ..support.apiserver import NAMESPACES, Fault, secrets_path
from ..support.cluster_source import CLIENT, ClusterCase
from ..support.proxy import namespace, secret, tenant

LARGE = "x" * 600_000
BLUE = secrets_path("team-blue")


def temporary(number: int, where: str = "team-blue", **more: str) -> dict:
    found = secret(where, f"redis-secret-temp-{number:03}", redis_connection_string=f"redis://:temp-{number}@redis:6379/3")
    found["metadata"]["creationTimestamp"] = f"2026-01-01T{number // 60:02}:{number % 60:02}:00Z"
    found["stringData"] |= more
    return found


class LargeCase(ClusterCase):
    def setUp(self) -> None:
        super().setUp()
        self.sizes: list[int] = []
        body = json.loads

        def counted(text: bytes) -> object:
            self.sizes.append(len(text))
            return body(text)

        self.patch(KubernetesApi._answer.__globals__["json"], "loads", counted)

    def snapshot(self) -> Snapshot:
        snapshot, self.problems = self.enrolment.resolve()
        return snapshot

    def known(self, *numbers: int) -> list[int]:
        """Returns those whose temporary password is valid."""
        snapshot, found = self.snapshot(), []
        for number in numbers:
            try:
                snapshot.authenticate(None, b"temp-%d" % number, 0.0)
                found.append(number)
            except AuthenticationError:
                pass
        return found

    def change(self, *secrets: tuple[str, str]) -> None:
        update = self.source.read_changes(Changes(secrets=frozenset(secrets)))
        self.assertEqual(update.failures, ())
        self.enrolment.use_incremental_read(update)


class ContentsTests(LargeCase):
    def test_contents_of_other_secrets_are_never_sent(self) -> None:
        self.api.put(*(secret("team-blue", f"other-{number}", padding=LARGE) for number in range(5)))
        self.sizes.clear()
        self.assertGood()
        self.assertLess(max(self.sizes), 5000)
        for request in self.api.requests:
            if request.path == BLUE:
                whole = "as=PartialObjectMetadataList" not in request.accept
                self.assertEqual(whole, "metadata.name=" in request.query["fieldSelector"])
        self.assertEqual(self.asked.count(BLUE), 2)
        self.assertGood()
        self.assertEqual(self.asked.count(BLUE), 1, "the client secret has not changed")

    def test_a_server_that_does_not_know_lists_of_metadata(self) -> None:
        """It sends whole secrets. These are read few at a time if they are large."""
        self.api.knows_metadata = False
        self.assertGood()
        self.assertEqual(self.asked.count(BLUE), 1, "that has the contents")
        self.api.put(temporary(1), *(secret("team-blue", f"other-{number}", padding=LARGE) for number in range(5)))
        self.assertGood()
        self.assertEqual(self.known(1), [1])
        self.assertLess(max(self.sizes), 2 * len(LARGE))

    def test_a_secret_that_is_gone_between_the_two_requests(self) -> None:
        call = self.source._call

        def listed_and_gone(method: object, *arguments: object, **options: object) -> object:
            answer = call(method, *arguments, **options)
            if "as=PartialObjectMetadataList" in options.get("accept", "") and arguments == ("team-blue",):
                self.api.delete("team-blue", CLIENT)
            return answer

        self.patch(self.source, "_call", listed_and_gone)
        self.assertGood({"team-green": 5})

    def test_a_failure_of_the_second_request_keeps_what_was_read(self) -> None:
        self.assertGood()
        self.api.put(temporary(1))
        call = self.source._call

        def listed_and_refused(method: object, *arguments: object, **options: object) -> object:
            answer = call(method, *arguments, **options)
            if "as=PartialObjectMetadataList" in options.get("accept", "") and arguments == ("team-blue",):
                self.api.fail(BLUE, Fault(500, body=b"{}"))
            return answer

        self.patch(self.source, "_call", listed_and_refused)
        self.assertIsInstance(self.read().secrets["team-blue"], ReadFailure)
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})

    def test_many_new_tenants_are_not_asked_for_one_by_one(self) -> None:
        for number in range(100):
            self.api.put(*tenant(f"team-{number}", number + 10, f"password-{number}"))
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(len(self.served()), 102)
        # the master secret, namespaces, client secrets (with those of others), and each namespace
        self.assertEqual(len(self.asked), 1 + 3 + 3 + 102)


class SizeTests(LargeCase):
    def test_a_secret_that_is_too_large_costs_only_itself(self) -> None:
        self.api.put(temporary(1), temporary(2, padding=LARGE), temporary(3))
        for how in ("full read", "change"):
            with self.subTest(how):
                self.sizes.clear()
                if how == "full read":
                    self.assertEqual(self.read().failures(), [])
                else:
                    self.api.put(temporary(2, padding=LARGE + "y"))
                    self.sizes.clear()
                    self.change(("team-blue", "redis-secret-temp-002"))
                self.assertEqual(self.known(1, 2, 3), [1, 3])
                [problem] = self.problems
                self.assertEqual(
                    str(problem),
                    f"team-blue/redis-secret-temp-002: it has more than {bounds.SECRET_BYTES // 1024} KiB: the proxy does not "
                    "read it",
                )
                self.assertLess(max(self.sizes), bounds.LIST_BYTES)
        self.api.requests.clear()
        self.assertEqual(self.read().failures(), [])
        self.assertEqual([r.path for r in self.api.requests].count(BLUE), 1, "it is not asked for again and again")
        self.api.put(temporary(2))
        self.assertEqual((self.read().failures(), self.known(1, 2, 3), self.problems), ([], [1, 2, 3], []))

    def test_the_same_secrets_are_too_large_however_they_are_read(self) -> None:
        """By itself, together with others of its name, and in a list of whole secrets."""
        for size, valid in ((150_000, True), (250_000, False)):
            [space, client] = tenant("team-edge", 9, "edge")
            client["stringData"]["padding"] = "x" * size
            # As `kubectl apply` does.
            client["metadata"]["annotations"] = {"last-applied": "y" * 200_000}
            for how in ("alone", "together", "whole"):
                with self.subTest((size, how)):
                    self.api.put(space, client)
                    self.api.knows_metadata = how != "whole"
                    self.patch(kubernetes, "MANY", 1 if how == "together" else 100)
                    self.source = self.kubeconfig_source()
                    self.assertEqual(self.read().failures(), [])
                    self.assertEqual("team-edge" in self.served(), valid)
                    self.assertEqual(["too" in problem.reason.code for problem in self.problems], [True] * (not valid))

    def test_a_page_that_is_too_large_is_read_in_smaller_ones(self) -> None:
        for number in range(20):
            one = secret("team-blue", f"other-{number}")
            one["metadata"]["annotations"] = {"kubectl": "x" * 200_000}
            self.api.put(one)
        large = secret("team-blue", "other-large")
        large["metadata"]["annotations"] = {"kubectl": "x" * 1_000_000}
        self.api.put(large)
        self.sizes.clear()
        self.assertGood()
        self.assertLess(max(self.sizes), 1_100_000)

    def test_an_object_that_no_server_stores_is_a_failure(self) -> None:
        self.assertGood()
        items = [{"metadata": {"name": "x", "annotations": {"a": "x" * bounds.OBJECT_BYTES}}}]
        body = json.dumps({"kind": "PartialObjectMetadataList", "metadata": {}, "items": items}).encode()
        self.api.fail(BLUE, Fault(200, body=body))
        failure = self.read().secrets["team-blue"]
        self.assertIsInstance(failure, ReadFailure)
        self.assertIn("sent more than 4,096 KiB in one answer", failure.reason)
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        self.api.fail(NAMESPACES, Fault(200, body=body))
        self.assertUnreachable("sent more than")


class TemporaryTests(LargeCase):
    def test_the_newest_are_valid_and_one_problem_says_so(self) -> None:
        most = bounds.TEMPORARY_SECRETS
        self.api.put(*(temporary(number) for number in range(most + 30)))
        self.assertEqual(self.read().failures(), [])
        self.assertLess(self.asked.count(BLUE), most + 10)
        everything = list(range(most + 100))
        self.assertEqual(self.known(*everything), everything[30 : most + 30])
        text = f"team-blue: it has more than {most} temporary secrets: only the newest {most} are valid"
        self.assertEqual([str(problem) for problem in self.problems], [text])
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        # One more: no further problem, and the oldest is not valid any more.
        self.api.put(temporary(most + 30))
        self.change(("team-blue", f"redis-secret-temp-{most + 30:03}"))
        self.assertEqual(self.known(*everything), everything[31 : most + 31])
        self.assertEqual([str(problem) for problem in self.problems], [text])
        for number in range(31):
            self.api.delete("team-blue", f"redis-secret-temp-{number:03}")
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(self.known(*everything), everything[31 : most + 31])
        self.assertEqual(self.problems, [])

    def test_many_that_come_one_by_one_are_not_kept(self) -> None:
        self.assertGood()
        for number in range(bounds.TEMPORARY_SECRETS + 20):
            self.api.put(temporary(number))
            self.change(("team-blue", f"redis-secret-temp-{number:03}"))
        self.assertEqual(len(self.enrolment._secrets["team-blue"]), 1 + bounds.TEMPORARY_SECRETS + 1)
        self.assertEqual(self.known(0, 19, 20), [20])

    def test_neighbours_keep_theirs(self) -> None:
        self.api.put(*(temporary(number) for number in range(bounds.TEMPORARY_SECRETS + 5)))
        self.api.put(namespace("team-other"))
        url = base64.b64encode(b"redis://:other@redis:6379/9").decode()
        self.api.put(
            {
                "kind": "Secret",
                "metadata": {"name": CLIENT, "namespace": "team-other"},
                "data": {"redis-connection-string": url},
            }
        )
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5, "team-other": 9})
