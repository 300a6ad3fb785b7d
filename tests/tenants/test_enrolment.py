"""Tests the rules of enrolment."""

from __future__ import annotations

import unittest
from dataclasses import replace

from redisproxy import bounds
from redisproxy.tenants.documents import (
    PASSWORD,
    FullRead,
    NamespaceDocument,
    NeverRead,
    Problem,
    ReadFailure,
    ReadSummary,
    SecretDocument,
    Update,
)
from redisproxy.tenants.enrolment import CONNECTION_STRING, NAMED, Enrolment, MalformedError, parse_backend
from redisproxy.tenants.limits import UNLIMITED, Limits
from redisproxy.tenants.model import Snapshot

CLIENT = "redis-secret-master"


class SentinelUrlTests(unittest.TestCase):
    def test_defaults(self) -> None:
        backend = parse_backend({CONNECTION_STRING: b"redis+sentinel://a,a:26379/m", PASSWORD: b"p,w@/"})
        self.assertEqual((backend.sentinels, backend.master_name), ((("a", 26379),), "m"))
        self.assertEqual((backend.password, backend.sentinel_password, backend.tls), (b"p,w@/", b"", False))

    def test_a_password_may_have_commas_and_ats(self) -> None:
        backend = parse_backend({CONNECTION_STRING: b"redis+sentinel://:pw,@x@a:1,b:2/m"})
        self.assertEqual((backend.password, backend.sentinels), (b"pw,@x", (("a", 1), ("b", 2))))

    def test_what_is_malformed_is_named_without_its_value(self) -> None:
        for text, reason in (
            ("redis+sentinel://:s3cret@/m", "sentinel 1 is not a valid host and port"),
            ("redis+sentinel://:s3cret@a:1,,b/m", "sentinel 2 is not a valid host and port"),
            ("redis+sentinel://:s3cret@a:1,b:s3cret/m", "sentinel 2 is not a valid host and port"),
            ("redis+sentinel://:s3cret@a:1,2001:db8::1/m", "sentinel 2 is not a valid host and port"),
            ("redis+sentinel://:s3cret@a:70000/m", "a port that is not from 1 to 65535 for sentinel 1"),
            ("redis+sentinel://:s3cret@a:1", "the master's name is missing"),
            ("redis+sentinel://:s3cret@a:1/", "the master's name is missing"),
            ("redis+sentinel://:s3cret@a:1/s3cret!", "the master's name is missing"),
            ("redis+sentinel://:s3cret/x@a:1/m", "write / as %2F"),
            ("redis+sentinel://:s3cret@a:1/m/s3cret", "not the number of a database"),
            ("redis+sentinel://:s3cret@a:1/m/0/1", "not the number of a database"),
            ("redis+sentinel://:s3cret@a:1/m?sentinel_password=s3cret", "has a \\? or #"),
            ("redis+sentinel:a:1/m", "does not begin with"),
            ("redis-sentinel://:s3cret@a:1/m", "does not begin with redis:// or .* or redis\\+sentinel://"),
        ):
            with self.subTest(text), self.assertRaisesRegex(MalformedError, reason) as caught:
                parse_backend({CONNECTION_STRING: text.encode()})
            self.assertNotIn("s3cret", str(caught.exception))


class MasterTests(unittest.TestCase):
    def test_a_password_with_the_newline_of_echo_is_named(self) -> None:
        """A password that ends with a newline is an error: Redis would only answer WRONGPASS, and
        the password looks right.
        """
        url = b"redis+sentinel://a/m"
        for key in (PASSWORD, "sentinel-username", "sentinel-password"):
            for end in (b"\n", b"\r\n"):
                with self.assertRaisesRegex(MalformedError, f"^{key} ends with a newline .*echo -n") as caught:
                    parse_backend({CONNECTION_STRING: url, key: b"s3cret" + end})
                self.assertNotIn("s3cret", str(caught.exception))
        self.assertEqual(parse_backend({CONNECTION_STRING: url, PASSWORD: b"s3 \ncret "}).password, b"s3 \ncret ")


def enrolled(**namespaces: NamespaceDocument) -> FullRead:
    """Returns a full read with these namespaces. Each has a secret of its own, with its position as
    the index.
    """
    secrets = {
        one.name: (SecretDocument(one.name, CLIENT, 0.0, {CONNECTION_STRING: f"redis://:{one.name}@r/{index}".encode()}),)
        for index, one in enumerate(namespaces.values())
    }
    return FullRead(None, tuple(namespaces.values()), secrets)


class LimitsTests(unittest.TestCase):
    LIMIT = "redisproxy/commands-per-second"

    def setUp(self) -> None:
        self.enrolment = Enrolment(CLIENT, ("kube-system", CLIENT), limits=Limits(max_connections=7))

    def resolve(self, **annotations: str) -> tuple[Snapshot, list[Problem]]:
        a = NamespaceDocument("team-a", 0.0, {name.replace("_", "-"): text for name, text in annotations.items()})
        self.enrolment.use_full_read(enrolled(a=a, b=NamespaceDocument("team-b", 0.0)))
        snapshot, problems = self.enrolment.resolve()
        return snapshot, [problem for problem in problems if problem.namespace == "team-a"]

    def test_annotations_and_defaults(self) -> None:
        snapshot, _ = self.resolve(**{self.LIMIT: "100"})
        self.assertEqual(snapshot.limits_of("team-a"), Limits(7, 100))
        self.assertEqual(snapshot.limits_of("team-b"), Limits(7))
        self.assertEqual(snapshot.limits_of("team-c"), UNLIMITED)

    def test_a_malformed_one_is_a_problem_and_the_default_holds(self) -> None:
        snapshot, [problem] = self.resolve(**{"redisproxy/max-connections": "s3cret", self.LIMIT: "5"})
        self.assertEqual(snapshot.limits_of("team-a"), Limits(7, 5))
        self.assertRegex(
            str(problem),
            "^team-a: annotation redisproxy/max-connections is not a whole number from 0 to .*: the default, 7,",
        )
        self.assertNotIn("s3cret", str(problem))
        self.assertEqual(self.resolve()[1], [])

    def test_other_limits_are_another_directory_of_the_same_tenants(self) -> None:
        before, _ = self.resolve(**{self.LIMIT: "100"})
        self.assertIs(self.resolve(**{self.LIMIT: "100"})[0], before)
        after, _ = self.resolve(**{self.LIMIT: "200"})
        self.assertIsNot(after, before)
        self.assertEqual((after.credentials, after.tenants), (before.credentials, before.tenants))
        self.assertEqual({after.renewed(credential, 0.0) for credential in before.credentials}, set(before.credentials))

    def test_a_namespace_that_is_read_again_keeps_its_secrets(self) -> None:
        before, _ = self.resolve()
        self.enrolment.use_incremental_read(Update({"team-a": NamespaceDocument("team-a", 0.0, {self.LIMIT: "3"})}))
        after, _ = self.enrolment.resolve()
        self.assertEqual((after.limits_of("team-a"), after.credentials), (Limits(7, 3), before.credentials))


class EnrolmentTests(unittest.TestCase):
    def test_names_that_kubernetes_would_not_take(self) -> None:
        """Names that Kubernetes does not allow are refused: channels begin with the name, so one
        name must not begin with another or match it as a pattern.
        """
        bad = [
            "team-a:b",
            "team-*",
            "team-?",
            "team-[a]",
            "team-\\a",
            "Team-a",
            "team-a ",
            "team-a\n",
            "team-",
            "",
            "t" * 64,
            "team-é",
        ]
        good = ["team-a", "team-a2", "team-a-b", "t" * 63]
        enrolment = Enrolment(CLIENT, ("kube-system", CLIENT))
        secrets = {
            name: (
                SecretDocument(name, CLIENT, 0.0, {CONNECTION_STRING: f"redis://:pw{index}@redis:6379/{index}".encode()}),
            )
            for index, name in enumerate(bad + good)
        }
        enrolment.use_full_read(FullRead(None, tuple(NamespaceDocument(name, 0.0) for name in secrets), secrets))
        snapshot, problems = enrolment.resolve()
        self.assertEqual({tenant.namespace for tenant in snapshot.tenants}, set(good))
        refused = [problem for problem in problems if "is not a valid name of a namespace" in problem.reason]
        self.assertEqual(len(refused), len(bad))
        self.assertTrue(all(problem.namespace.isascii() and problem.namespace.isprintable() for problem in refused))

    def test_of_many_namespaces_with_one_password_a_few_are_named(self) -> None:
        names = [f"team-{number:03}" for number in range(NAMED + 5)]
        url = "redis://:same@redis:6379/"
        secrets = {
            name: (SecretDocument(name, CLIENT, 0.0, {CONNECTION_STRING: f"{url}{index}".encode()}),)
            for index, name in enumerate(names)
        }
        enrolment = Enrolment(CLIENT, ("kube-system", CLIENT))
        enrolment.use_full_read(FullRead(None, tuple(NamespaceDocument(name, 0.0) for name in names), secrets))
        _, problems = enrolment.resolve()
        refused = {problem.namespace: problem.reason for problem in problems if problem.namespace in names}
        self.assertEqual(set(refused), set(names))
        for name, reason in refused.items():
            others = [other for other in names if other in reason]
            self.assertEqual(len(others), NAMED)
            self.assertNotIn(name, others)
            self.assertIn(" and 4 more: only AUTH <namespace>", reason)

    def test_namespaces_without_a_secret_are_named(self) -> None:
        """Namespaces without a secret are listed, but not those with a malformed secret or with
        unread secrets.
        """
        names = ("team-z", "team-a", "team-other", "team-bad", "team-unknown", "team-b:c", "team-good")
        documents = tuple(NamespaceDocument(name, 0.0) for name in names)

        def one(namespace: str, name: str, **data: bytes) -> tuple[SecretDocument, ...]:
            return (SecretDocument(namespace, name, 0.0, data),)

        good = one("team-good", CLIENT, **{CONNECTION_STRING: b"redis://:pw@redis:6379/3"})
        secrets = {
            "team-z": (),
            "team-a": (),
            "team-other": one("team-other", "default-token-abc"),
            "team-bad": one("team-bad", CLIENT),
            "team-unknown": ReadFailure("403"),
            "team-b:c": (),
            "team-good": good,
        }
        enrolment = Enrolment(CLIENT, ("kube-system", CLIENT))
        enrolment.use_full_read(FullRead(None, documents, secrets))
        enrolment.resolve()
        self.assertEqual(enrolment.without_secret, ("team-a", "team-other", "team-z"))
        enrolment.use_incremental_read(Update({"team-a": None}, {"team-z": one("team-z", CLIENT)}))
        enrolment.resolve()
        self.assertEqual(enrolment.without_secret, ("team-other",))


class TemporaryTests(unittest.TestCase):
    def test_the_newest_are_valid(self) -> None:
        """As in a directory of manifests, which is read whole."""
        most = bounds.TEMPORARY_SECRETS

        def temporary(number: int, created: float | None) -> SecretDocument:
            data = {CONNECTION_STRING: b"redis://:temp-%d@redis:6379/3" % number}
            return SecretDocument("team-a", f"redis-secret-temp-{number:03}", created, data)

        client = SecretDocument("team-a", CLIENT, 0.0, {CONNECTION_STRING: b"redis://:pw@redis:6379/3"})
        for extra in (0, 1, 7):
            with self.subTest(extra):
                enrolment = Enrolment(CLIENT, ("kube-system", CLIENT))
                # The oldest ones have no creationTimestamp.
                secrets = [temporary(number, None if number < extra else 1000.0 + number) for number in range(most + extra)]
                document = NamespaceDocument("team-a", 0.0)
                enrolment.use_full_read(FullRead(None, (document,), {"team-a": (*secrets, client)}))
                snapshot, problems = enrolment.resolve()
                self.assertEqual(
                    [credential.secret for credential in snapshot.credentials],
                    [CLIENT, *(secret.name for secret in secrets[extra:])],
                )
                named = [str(problem) for problem in problems if problem.namespace == "team-a"]
                text = f"team-a: it has more than {most} temporary secrets: only the newest {most} are valid"
                self.assertEqual(named, [text] if extra else [])


class SummaryTests(unittest.TestCase):
    def setUp(self) -> None:
        self.enrolment = Enrolment(CLIENT, ("kube-system", CLIENT))
        self.documents = tuple(NamespaceDocument(name, 0.0) for name in ("team-blue", "team-green"))

    def summary(self, master: object, namespaces: object, secrets: object) -> ReadSummary:
        reading = FullRead(master, namespaces, secrets)
        self.enrolment.use_full_read(reading)
        return self.enrolment.summary(reading)

    def test_a_part_that_failed(self) -> None:
        """A namespace whose secrets could not be read exists, and its claims are unknown."""
        good = SecretDocument("kube-system", CLIENT, 0.0, {CONNECTION_STRING: b"redis://redis"})
        failure = ReadFailure("503")
        both = frozenset({"team-blue", "team-green"})
        found = self.summary(good, self.documents, {"team-blue": (), "team-green": failure})
        self.assertEqual(found, ReadSummary(True, True, both, frozenset({"team-green"})))
        self.assertEqual(self.summary(failure, self.documents, {}), ReadSummary(True, False, both))
        self.assertEqual(self.summary(good, failure, {}), ReadSummary(True, True, None))
        self.assertEqual(self.summary(None, self.documents, {}).master, False)
        self.enrolment.use_incremental_read(Update({"team-green": None}))
        self.assertEqual(self.enrolment.summary(None), ReadSummary(False, False, frozenset({"team-blue"})))

    def test_what_is_in_a_file_that_cannot_be_read_is_not_taken_for_gone(self) -> None:
        """What an unreadable file holds does not count as gone, and its earlier master secret does
        not count as the present one.
        """
        good = SecretDocument("kube-system", CLIENT, 0.0, {CONNECTION_STRING: b"redis://redis"})
        parts = {
            "never_read": (NeverRead("tenants.yaml", None),),
            "stale": (ReadFailure("tenants.yaml: line 3 is not YAML"),),
            "complete": False,  # a document of an unknown form may be a namespace
        }
        for part, value in parts.items():
            reading = replace(FullRead(good, self.documents, {}), **{part: value})
            self.enrolment.use_full_read(reading)
            self.assertEqual(self.enrolment.summary(reading), ReadSummary(True, part == "complete", None), part)
        self.assertIsNone(self.enrolment.summary(None).namespaces)
        self.assertEqual(self.summary(good, self.documents, {}).namespaces, {"team-blue", "team-green"})

    def test_a_master_secret_that_was_malformed_when_it_was_last_read(self) -> None:
        bad = SecretDocument("kube-system", CLIENT, 0.0, {})
        self.assertFalse(self.summary(bad, self.documents, {}).master)
        self.assertFalse(self.summary(ReadFailure("503"), self.documents, {}).master)

    def test_a_server_of_its_own_needs_no_master_secret(self) -> None:
        self.enrolment = Enrolment(CLIENT, ("kube-system", CLIENT), parse_backend({CONNECTION_STRING: b"redis://redis"}))
        self.assertTrue(self.summary(None, self.documents, {}).master)
