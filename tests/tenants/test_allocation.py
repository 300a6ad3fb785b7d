"""Tests what the operator's command decides from what was read."""

from __future__ import annotations

import unittest
from urllib.parse import urlsplit

from redisproxy.tenants import allocation
from redisproxy.tenants.allocation import Refused, Room
from redisproxy.tenants.documents import FullRead, NamespaceDocument, ReadFailure, SecretDocument
from redisproxy.tenants.enrolment import parse_tenant
from redisproxy.tenants.urls import tenant_url

NAME = "redis-secret-master"
ROOM = Room(16, {})


def held(namespace: str, url: str | bytes | None, name: str = NAME, error: str | None = None) -> SecretDocument:
    data = {} if url is None else {"redis-connection-string": url if isinstance(url, bytes) else url.encode()}
    return SecretDocument(namespace, name, 0.0, data, error)


def reading(**secrets: list[SecretDocument] | ReadFailure) -> FullRead:
    """Returns a full read with these namespaces, written with _ for -, and their secrets."""
    by_name = {name.replace("_", "-"): found for name, found in secrets.items()}
    return FullRead(
        None,
        tuple(NamespaceDocument(name, 0.0) for name in by_name),
        {name: found if isinstance(found, ReadFailure) else tuple(found) for name, found in by_name.items()},
    )


class IndexTests(unittest.TestCase):
    def choose(self, found: FullRead, wanted: int | None = None, room: Room = ROOM, **more: object) -> int:
        return allocation.choose_index(found, NAME, "team-", "team-new", wanted, room, **more)

    def refused(self, pattern: str, *arguments: object, **more: object) -> None:
        with self.assertRaisesRegex(Refused, pattern) as caught:
            self.choose(*arguments, **more)
        self.assertNotIn("\n", str(caught.exception))
        self.assertNotIn("pw", str(caught.exception))

    def test_the_lowest_that_nobody_names(self) -> None:
        found = reading(
            team_new=[], team_a=[held("team-a", "redis://:pw@h:1/1")], team_b=[held("team-b", "redis://:pw@h:1/3")]
        )
        self.assertEqual(self.choose(found), 2)
        self.assertEqual(self.choose(found, avoid={2}), 4)

    def test_never_0_but_when_it_is_asked_for(self) -> None:
        self.assertEqual(self.choose(reading(team_new=[])), 1)
        self.assertEqual(self.choose(reading(team_new=[]), 0), 0)

    def test_an_index_is_taken_by_whatever_names_it(self) -> None:
        """A secret takes the index that it names even if it is malformed, temporary, or of a
        namespace that is kept out, because it may be fixed.
        """
        for secret in (
            held("team-a", "redis://h:1/1"),  # without a password
            held("team-a", "redis://:pw@h:1/1\n"),
            held("team-a", "http://:pw@h:1/1"),
            held("team-a", "redis://:pw%@h:1/1"),
            held("team-a", "redis://:pw@h:1/1/"),
            held("team-a", "redis://:pw@h:1/1?timeout=3"),
            held("team-a", "redis://:pa@ss/1#x@h/25"),  # once read as database 1
            held("team-a", b"redis://:\xff@h:1/1"),
            held("team-a", "redis://:pw@h:1/1", error="data.valid_hours is not base64"),
            held("team-a", "redis://:pw@h:1/1", "redis-secret-temp-x"),
        ):
            self.assertEqual(self.choose(reading(team_new=[], team_a=[secret])), 2, secret)
        self.assertEqual(self.choose(reading(team_new=[], team_a=[held("team-a", None), held("team-a", "redis://h")])), 1)

    def test_what_could_not_be_read_may_be_taken(self) -> None:
        found = reading(team_new=[], team_a=ReadFailure("403 Forbidden"))
        self.refused(r"secrets of team-a could not be read \(403 Forbidden\)", found)
        self.refused("secrets of team-a could not be read", found, 5)
        self.refused("namespaces could not be read: gone", FullRead(None, ReadFailure("gone"), {}))
        self.refused("secrets of team-new could not be read: 500", reading(team_new=ReadFailure("500")))

    def test_a_database_that_holds_keys_of_nobody(self) -> None:
        """A database that has keys but no owner is not chosen, because the new tenant would see the
        keys of a deleted one.
        """
        found, room = reading(team_new=[]), Room(4, {1: 10, 2: 7})
        self.assertEqual(self.choose(found, room=room), 3)
        self.refused("database 2 belongs to no namespace, but holds 7 keys.*FLUSHDB", found, 2, room)
        self.assertEqual(self.choose(found, 2, room, keep_data=True), 2)
        self.refused("1, 2, 3 belong to no namespace, but are not empty", found, room=Room(4, {1: 1, 2: 1, 3: 1}))

    def test_none_is_left(self) -> None:
        found = reading(team_new=[], team_a=[held("team-a", "redis://:pw@h:1/1")])
        self.refused("none of Redis's 2 databases is free.*raise `databases`", found, room=Room(2, {}))

    def test_an_index_that_redis_does_not_have(self) -> None:
        self.refused("Redis has no database 16: it has databases 0 to 15", reading(team_new=[]), 16)

    def test_redis_that_does_not_tell_how_many_there_are(self) -> None:
        self.refused("--databases N", reading(team_new=[]), room=Room(None, {}))
        self.assertEqual(self.choose(reading(team_new=[]), 100, Room(None, {})), 100)

    def test_an_index_of_another(self) -> None:
        found = reading(team_new=[], team_a=[held("team-a", "redis://:pw@h:1/5")])
        self.refused("database 5 belongs to team-a", found, 5)

    def test_namespaces_that_cannot_be_enrolled(self) -> None:
        self.refused("^there is no namespace team-new$", reading())
        found = reading(team_new=[held("team-new", "redis://:pw@h:1/5")])
        self.refused("enrolled already, with database 5; redisproxy rotate team-new", found)
        self.refused(
            "is malformed: .* has no password: fix it, or delete it first", reading(team_new=[held("", "redis://h/5")])
        )
        error = "data.redis-connection-string is not base64"
        self.refused(error, reading(team_new=[held("", None, error=error)]))
        with self.assertRaisesRegex(Refused, "kube-system does not begin with 'team-'"):
            allocation.choose_index(reading(), NAME, "team-", "kube-system", None, Room(16, {}))

    def test_temporary_secrets_that_are_left_name_its_database(self) -> None:
        found = reading(team_new=[held("team-new", "redis://:pw@h:1/5", "redis-secret-temp-x")])
        self.refused(r"database 5 \(redis-secret-temp-x\): delete them, or use --index 5", found)
        self.refused("use --index 5", found, 6)
        self.assertEqual(self.choose(found, 5), 5)


class SecretTests(unittest.TestCase):
    def test_passwords_are_new_and_need_no_quotes(self) -> None:
        made = {allocation.make_password() for _ in range(100)}
        self.assertEqual(len(made), 100)
        for password in made:
            self.assertRegex(password, "^[A-Za-z0-9]{40}$")

    def test_what_is_written_is_what_the_proxy_reads(self) -> None:
        for given in (allocation.ADDRESS, "rediss://redis.example:7000", "redis://[::1]:6379"):
            url = tenant_url(given, "secret", 7)
            made = allocation.manifest("team-a", NAME, url)
            self.assertEqual(
                parse_tenant({"redis-connection-string": made["stringData"]["redis-connection-string"].encode()}),
                ("", b"secret", 7),
            )
            self.assertNotIn("valid_hours", made["stringData"])
        made = allocation.temporary_manifest("team-a", "x", "u", 5, "2026-01-01T00:00:00Z")
        self.assertEqual(made["stringData"]["valid_hours"], "5")
        self.assertEqual(made["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z")


class RotationTests(unittest.TestCase):
    def plan(self, url: str, **more: bytes) -> allocation.Rotation:
        data = {"redis-connection-string": url.encode(), **{key.replace("_", "-"): value for key, value in more.items()}}
        return allocation.plan_rotation(data, "NEW")

    def test_only_the_password_of_the_url_changes(self) -> None:
        for url, expected in (
            ("redis://:old@h:6379/3", "redis://:NEW@h:6379/3"),
            ("rediss://user:old@[::1]:7000/3", "rediss://user:NEW@[::1]:7000/3"),
            ("REDIS://us%40er:o%2Fl@d@h/3?timeout=5#x", "REDIS://us%40er:NEW@h/3?timeout=5#x"),
            ("redis://:a:b@h:6379/3", "redis://:NEW@h:6379/3"),
        ):
            planned = self.plan(url)
            self.assertEqual(planned.changes["redis-connection-string"].decode(), expected)
            self.assertEqual((planned.before, planned.index), (url, 3))
            self.assertEqual(urlsplit(expected).hostname, urlsplit(url).hostname)
            self.assertNotIn("old", repr(planned))

    def test_the_old_password_alone_is_replaced_wherever_it_is_a_value(self) -> None:
        planned = self.plan("redis://:o%40ld@h:6379/3", redis_password=b"o@ld", host=b"h", config=b"pass=o@ld\n")
        self.assertEqual(sorted(planned.changes), ["redis-connection-string", "redis-password"])
        self.assertEqual(planned.changes["redis-password"], b"NEW")
        self.assertEqual(planned.stale, ("config",))

    def test_a_malformed_secret(self) -> None:
        with self.assertRaisesRegex(Refused, "the secret is malformed: .*no password: fix it"):
            self.plan("redis://h:6379/3")
        with self.assertRaisesRegex(Refused, "malformed: it has no key"):
            allocation.plan_rotation({}, "NEW")
