"""One suite for every source of the snapshot: manifests, the small Kubernetes API, and a real
kube-apiserver.

The rules hold twice over an API: read as a whole each time, and taken up by a watch, where both
have to come to the same.

Owns the rules of the contract with Kubernetes. A world is where documents are put for a source to
read; what only one source has is in the test module of that source.
"""

from __future__ import annotations

import base64
import secrets
import time
import unittest
from collections.abc import Callable, Iterator

from twisted.internet import defer, task

from redisproxy.sources.hints import ChangeQueue
from redisproxy.sources.kubernetes_watch import ClusterWatches
from redisproxy.sources.watch import WatchService
from redisproxy.tenants.documents import Problem
from redisproxy.tenants.enrolment import Enrolment
from redisproxy.tenants.limits import UNLIMITED, Limits
from redisproxy.tenants.model import AuthenticationError, BackendAddress, Credential, Snapshot

from ..cluster.apiserver import shared_api_server
from ..support.kept import KeptSnapshot
from ..support.waiting import until
from ..support.worlds import HOUR, ManifestsWorld, RealApiWorld, SmallApiWorld, namespace, secret, url

#: Part of every password here: no text for the operator may have it.
MARK = "pw-"
#: Part of the names of what is made to see how far a watch has come.
MARKING = "watch-mark-"


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


class Contract:
    """The rules. Subclasses say in which world."""

    SECRET = "redis-secret-master"

    def make_world(self) -> object:
        raise NotImplementedError

    def setUp(self) -> None:
        self.world = self.make_world()
        self.addCleanup(self.world.remove)
        mine = secrets.token_hex(3)
        self.prefix = f"t{mine}-"
        self.master = (f"system-{mine}", "redis-secret-master")
        self.blue, self.green, self.red = (self.prefix + name for name in ("blue", "green", "red"))
        self.world.put(namespace(self.master[0]), self.master_secret(redis_connection_string=url("pw-master", 0)))
        self.use(self.SECRET)

    def use(self, secret_name: str) -> None:
        self.source = self.world.source(self.prefix, secret_name, self.master)
        self.enrolment = Enrolment(secret_name, self.master)
        self.now = 0.0

    def master_secret(self, **values: str) -> dict:
        return secret(*self.master, **values)

    def tenant(self, name: str, password: str, index: int | str, **values: str) -> list[dict]:
        return [namespace(name), secret(name, self.SECRET, redis_connection_string=url(password, index), **values)]

    def temporary(self, name: str, which: str, password: str, index: int, **values: str) -> dict:
        return secret(name, f"redis-secret-temp-{which}", redis_connection_string=url(password, index), **values)

    def read(self, databases: int | None = 16) -> Snapshot:
        """Reads as the service does. What it found wrong is in self.problems."""
        reading = self.source.read()
        self.assertEqual(reading.failures(), [])
        self.enrolment.use_full_read(reading)
        snapshot, self.problems = self.enrolment.resolve(databases)
        for text in (str(self.problems), "".join(map(str, self.problems)), repr(reading), repr(snapshot.credentials)):
            self.assertNotIn(MARK, text)
        return snapshot

    def good(self, databases: int | None = 16) -> Snapshot:
        """Reads, and nothing is wrong."""
        snapshot = self.read(databases)
        self.assertEqual(self.problems, [])
        return snapshot

    def indexes(self, snapshot: Snapshot) -> dict[str, int]:
        return {tenant.namespace: tenant.index for tenant in snapshot.tenants}

    def login(self, snapshot: Snapshot, password: str, username: str | None = None) -> Credential:
        return snapshot.authenticate(username, password.encode(), self.now)

    def refused(self, snapshot: Snapshot, password: str, username: str | None = None) -> str:
        with self.assertRaises(AuthenticationError) as caught:
            self.login(snapshot, password, username)
        return caught.exception.outcome

    def assertProblem(self, where: str, name: str, pattern: str) -> None:
        """The one problem is this."""
        self.assertEqual([(problem.namespace, problem.secret) for problem in self.problems], [(where, name)])
        self.assertRegex(self.problems[0].reason, pattern)

    # The master secret.

    def test_backend_is_the_master_secrets_url(self) -> None:
        self.assertEqual(self.good().backend, BackendAddress(host="redis", password=b"pw-master"))

    def test_redis_password_wins_over_the_url(self) -> None:
        self.world.put(self.master_secret(redis_connection_string=url("pw-in-url", 0), redis_password="pw-key"))
        self.assertEqual(self.good().backend.password, b"pw-key")

    def test_rediss_user_port_and_escapes(self) -> None:
        self.world.put(self.master_secret(redis_connection_string="rediss://admin:pw-%40%2F@[2001:db8::1]:7000/0"))
        backend = BackendAddress(host="2001:db8::1", port=7000, tls=True, username="admin", password=b"pw-@/")
        self.assertEqual(self.good().backend, backend)

    def test_sentinels(self) -> None:
        self.world.put(
            self.master_secret(
                redis_connection_string="rediss+sentinel://admin:pw-%40@s-0.s:26380,[2001:db8::1],s-2/tenants/0",
                sentinel_password="pw-sentinels",
                sentinel_username="asker",
            )
        )
        backend = BackendAddress(
            tls=True,
            username="admin",
            password=b"pw-@",
            sentinels=(("s-0.s", 26380), ("2001:db8::1", 26379), ("s-2", 26379)),
            master_name="tenants",
            sentinel_username="asker",
            sentinel_password=b"pw-sentinels",
        )
        self.assertEqual(self.good().backend, backend)
        self.assertNotIn("pw-", repr(backend))

    def test_missing_master_secret_is_named(self) -> None:
        self.world.delete(*self.master)
        self.assertIsNone(self.read().backend)
        self.assertProblem(*self.master, "does not exist")

    def test_malformed_or_deleted_master_secret_leaves_the_last_good_in_force(self) -> None:
        good = self.good().backend
        for value in (
            "redis://:pw-x@:6379/0",
            "http://:pw-x@redis:6379/0",
            url("pw-x", 0) + "\n",
            "redis://:pw-x@redis:0/0",
        ):
            self.world.put(self.master_secret(redis_connection_string=value))
            self.assertEqual(self.read().backend, good)
            self.assertProblem(*self.master, "malformed")
        self.world.delete(*self.master)
        self.assertEqual(self.read().backend, good)
        self.world.put(self.master_secret(redis_connection_string=url("pw-new", 0)))
        self.assertEqual(self.good().backend.password, b"pw-new")

    def test_the_master_secret_is_no_tenants_credential(self) -> None:
        self.master = (self.blue, self.SECRET)
        self.world.put(namespace(self.blue), self.master_secret(redis_connection_string=url("pw-master", 3)))
        self.use(self.SECRET)
        snapshot = self.good()
        self.assertEqual(snapshot.backend.password, b"pw-master")
        self.assertEqual(snapshot.credentials, ())

    # Limits.

    def test_limits_are_the_namespaces_annotations(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3))
        before = self.good()
        self.assertEqual(before.limits_of(self.blue), UNLIMITED)
        self.world.put(namespace(self.blue, max_connections="5", bytes_per_second="1000"))
        snapshot = self.good()
        self.assertEqual(snapshot.limits_of(self.blue), Limits(5, 0, 1000))
        self.assertEqual(snapshot.credentials, before.credentials)
        self.world.put(namespace(self.blue, max_connections="pw-many", bytes_per_second="7"))
        self.assertEqual(self.read().limits_of(self.blue), Limits(0, 0, 7))
        self.assertProblem(self.blue, "", "^annotation redisproxy/max-connections is not a whole number")
        self.world.put(namespace(self.blue))
        self.assertEqual(self.good().limits_of(self.blue), UNLIMITED)

    # Tenants and their secrets.

    def test_tenants_are_the_namespaces_with_the_prefix(self) -> None:
        other = f"other-{self.prefix}x"
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), *self.tenant(other, "pw-other", 4))
        snapshot = self.good()
        self.assertEqual(self.indexes(snapshot), {self.blue: 3})
        self.assertEqual(self.refused(snapshot, "pw-other"), "wrong")

    def test_a_namespace_without_secrets_is_none(self) -> None:
        self.world.put(namespace(self.blue))
        self.assertEqual(self.good().tenants, frozenset())

    def test_the_client_secret_has_the_name_that_was_set(self) -> None:
        self.world.put(
            *self.tenant(self.blue, "pw-default", 3),
            secret(self.blue, "redis-client", redis_connection_string=url("pw-blue", 4)),
            secret(self.blue, "redis-client-2", redis_connection_string=url("pw-near", 4)),
        )
        self.use("redis-client")
        snapshot = self.good()
        self.assertEqual(self.indexes(snapshot), {self.blue: 4})
        self.assertEqual(self.login(snapshot, "pw-blue").secret, "redis-client")
        for password in ("pw-default", "pw-near"):
            self.assertEqual(self.refused(snapshot, password), "wrong")

    def test_user_name_is_the_namespace_or_that_of_the_url(self) -> None:
        client = secret(self.blue, self.SECRET, redis_connection_string=url("pw-blue", 3, "app"))
        self.world.put(namespace(self.blue), client)
        snapshot = self.good()
        for username in (None, "default", "app", self.blue):
            self.assertEqual(self.login(snapshot, "pw-blue", username).tenant.index, 3)
        for username in ("", "other", "pw-blue"):
            self.assertEqual(self.refused(snapshot, "pw-blue", username), "wrong")
        self.assertEqual(self.refused(snapshot, self.blue), "wrong")

    def test_data_and_stringdata_say_the_same(self) -> None:
        value = encoded(url("pw-data", 3).encode())
        self.world.put(namespace(self.blue), secret(self.blue, self.SECRET, "data", redis_connection_string=value))
        self.assertEqual(self.login(self.good(), "pw-data").tenant.index, 3)

    def test_stringdata_wins_over_data(self) -> None:
        client = secret(self.blue, self.SECRET, redis_connection_string=url("pw-string", 3))
        client["data"] = {"redis-connection-string": encoded(url("pw-data", 4).encode())}
        self.world.put(namespace(self.blue), client)
        snapshot = self.good()
        self.assertEqual(self.login(snapshot, "pw-string").tenant.index, 3)
        self.assertEqual(self.refused(snapshot, "pw-data"), "wrong")

    def test_a_password_of_any_bytes(self) -> None:
        for number, (written, password) in enumerate(
            [("pw-%C3%A9", "pw-é"), ("pw-é", "pw-é"), ("pw-a@b:c", "pw-a@b:c"), ("pw-%0A", "pw-\n"), ("pw-+", "pw-+")]
        ):
            self.world.put(*self.tenant(f"{self.prefix}n{number}", written, number))
            self.assertEqual(self.login(self.read(), password, f"{self.prefix}n{number}").tenant.index, number)

    # Temporary credentials.

    def test_temporary_without_valid_hours_does_not_expire(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), self.temporary(self.blue, "a", "pw-temp", 3))
        snapshot = self.good()
        self.now = self.world.created(self.blue, "redis-secret-temp-a") + 1e9
        self.assertEqual(self.login(snapshot, "pw-temp").tenant, self.login(snapshot, "pw-blue").tenant)
        self.assertIsNone(snapshot.next_expiry(0))

    def test_temporary_alone_enrols_its_namespace(self) -> None:
        self.world.put(namespace(self.blue), self.temporary(self.blue, "a", "pw-temp", 3, valid_hours="1"))
        self.assertEqual(self.indexes(self.good()), {self.blue: 3})

    def test_valid_hours_count_from_the_creation_whatever_the_refreshes(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), self.temporary(self.blue, "a", "pw-temp", 3, valid_hours="2"))
        expires = self.world.created(self.blue, "redis-secret-temp-a") + 2 * HOUR
        for _ in range(3):
            snapshot = self.good()
            self.assertEqual(snapshot.next_expiry(0), expires)
            self.now = expires - 1
            used = self.login(snapshot, "pw-temp")
            self.assertTrue(snapshot.renewed(used, self.now))
            self.now = expires
            self.assertFalse(snapshot.renewed(used, self.now))
            self.assertEqual(self.refused(snapshot, "pw-temp"), "wrong")
            self.assertEqual(self.login(snapshot, "pw-blue").tenant.index, 3)
            # Written again with the same content: it is the same secret, of the same age.
            self.world.put(self.temporary(self.blue, "a", "pw-temp", 3, valid_hours="2"))

    def test_valid_hours_that_change_count_from_the_creation_too(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), self.temporary(self.blue, "a", "pw-temp", 3, valid_hours="2"))
        created = self.world.created(self.blue, "redis-secret-temp-a")
        self.assertEqual(self.good().next_expiry(0), created + 2 * HOUR)
        self.world.put(self.temporary(self.blue, "a", "pw-temp", 3, valid_hours="5"))
        self.assertEqual(self.good().next_expiry(0), created + 5 * HOUR)

    def test_valid_hours_in_a_client_secret_mean_nothing(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3, valid_hours="1"))
        self.assertIsNone(self.login(self.good(), "pw-blue").expires)

    def test_temporary_for_another_database_is_refused_and_named(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), self.temporary(self.blue, "a", "pw-temp", 4))
        snapshot = self.read()
        self.assertProblem(self.blue, "redis-secret-temp-a", "database 4.*gives the namespace database 3")
        self.assertEqual(self.refused(snapshot, "pw-temp"), "wrong")
        self.assertEqual(self.indexes(snapshot), {self.blue: 3})

    # What is malformed costs only itself.

    def malformed(self) -> Iterator[tuple[str, dict, str]]:
        """What it is; the data (as base64); what its problem says."""
        for what, value, says in (
            ("no URL", b"pw-blue", "does not begin with redis://"),
            ("another scheme", b"http://:pw-x@redis:6379/3", "does not begin with redis:// or rediss://"),
            ("not UTF-8", b"redis://:pw-\xff@redis:6379/3", "not UTF-8"),
            ("no password", b"redis://redis:6379/3", "no password"),
            ("an empty password", b"redis://pw-user:@redis:6379/3", "no password"),
            ("no index", b"redis://:pw-x@redis:6379", "/N"),
            ("an empty index", b"redis://:pw-x@redis:6379/", "/N"),
            ("an index that is no number", b"redis://:pw-x@redis:6379/three", "/N"),
            ("a sign", b"redis://:pw-x@redis:6379/+3", "/N"),
            ("an underscore", b"redis://:pw-x@redis:6379/1_0", "/N"),
            ("a leading zero", b"redis://:pw-x@redis:6379/03", "/N"),
            ("a digit of another script", "redis://:pw-x@redis:6379/٣".encode(), "/N"),
            ("a negative index", b"redis://:pw-x@redis:6379/-1", "/N"),
            ("an index without end", b"redis://:pw-x@redis:6379/" + b"9" * 5000, "/N"),
            (
                "an index that Redis does not have",
                b"redis://:pw-x@redis:6379/16",
                "no database 16: it has databases 0 to 15",
            ),
            ("a newline at the end", b"redis://:pw-x@redis:6379/3\n", "newline"),
            ("a space within", b"redis://:pw- x@redis:6379/3", "white space"),
            ("a NUL", b"redis://:pw-\0x@redis:6379/3", "control character"),
            ("a broken escape", b"redis://:pw-%zz@redis:6379/3", "%25"),
            ("a port that is no number", b"redis://:pw-x@redis:port/3", "not a URL"),
            ("an open bracket", b"redis://:pw-x@[::1:6379/3", "not a URL"),
            ("nothing", b"", "does not begin with"),
        ):
            yield what, {"redis-connection-string": encoded(value)}, says
        yield "no key", {"redis-password": encoded(b"pw-x")}, "no key redis-connection-string"
        yield "no data", {}, "no key redis-connection-string"
        if self.world.takes_what_is_not_base64:
            for what, text in (("not base64", "pw-*"), ("base64 cut short", encoded(b"redis://:pw-x@r/3")[:-2] + "x")):
                yield what, {"redis-connection-string": text}, "not base64"

    def test_a_malformed_client_secret_costs_only_itself(self) -> None:
        self.world.put(*self.tenant(self.green, "pw-green", 5), namespace(self.blue))
        for what, data, says in self.malformed():
            with self.subTest(what):
                self.world.put({**secret(self.blue, self.SECRET), "data": data})
                snapshot = self.read()
                self.assertProblem(self.blue, self.SECRET, says)
                self.assertEqual(self.indexes(snapshot), {self.green: 5})
                self.assertEqual(self.login(snapshot, "pw-green").tenant.index, 5)
        self.world.put(*self.tenant_secret(self.blue, "pw-blue", 3))
        self.assertEqual(self.indexes(self.good()), {self.green: 5, self.blue: 3})

    def tenant_secret(self, name: str, password: str, index: int | str) -> list[dict]:
        return self.tenant(name, password, index)[1:]

    def test_a_malformed_temporary_secret_costs_only_itself(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3))
        self.world.put(self.temporary(self.blue, "good", "pw-good", 3))
        for hours in ("", "1.5", "-1", "+1", "1_0", "1h", "pw-1", "9" * 40, "٣"):
            with self.subTest(hours):
                self.world.put(self.temporary(self.blue, "bad", "pw-bad", 3, valid_hours=hours))
                snapshot = self.read()
                self.assertProblem(self.blue, "redis-secret-temp-bad", "valid_hours is not a whole number")
                self.assertEqual(self.refused(snapshot, "pw-bad"), "wrong")
                for password in ("pw-blue", "pw-good"):
                    self.assertEqual(self.login(snapshot, password).tenant.index, 3)

    def test_a_namespace_with_a_malformed_client_secret_keeps_its_temporary_ones(self) -> None:
        self.world.put(namespace(self.blue), secret(self.blue, self.SECRET), self.temporary(self.blue, "a", "pw-temp", 3))
        self.assertEqual(self.login(self.read(), "pw-temp").tenant.index, 3)
        self.assertProblem(self.blue, self.SECRET, "no key")

    def test_what_is_wrong_with_other_secrets_is_nobodys_business(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), secret(self.blue, "tls", redis_connection_string="pw-"))
        self.good()

    # Tenants against each other.

    def test_a_shared_password_needs_the_namespace(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-same", 3), *self.tenant(self.green, "pw-same", 4))
        self.world.put(*self.tenant(self.red, "pw-red", 5))
        snapshot = self.read()
        self.assertEqual(
            [(p.namespace, p.secret) for p in self.problems], [(n, self.SECRET) for n in (self.blue, self.green)]
        )
        self.assertIn(f"same password as {self.green}", self.problems[0].reason)
        for username in (None, "default"):
            self.assertEqual(self.refused(snapshot, "pw-same", username), "ambiguous")
        self.assertEqual(self.login(snapshot, "pw-same", self.blue).tenant.index, 3)
        self.assertEqual(self.login(snapshot, "pw-same", self.green).tenant.index, 4)
        self.assertEqual(self.refused(snapshot, "pw-same", self.red), "wrong")
        self.assertEqual(self.login(snapshot, "pw-red").tenant.index, 5)

    def test_a_namespaces_name_in_anothers_url_does_not_help(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-same", 3), namespace(self.green))
        self.world.put(secret(self.green, self.SECRET, redis_connection_string=url("pw-same", 4, self.blue)))
        self.assertEqual(self.login(self.read(), "pw-same", self.blue).tenant.index, 3)

    def test_a_shared_password_of_which_one_has_expired(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-same", 3), namespace(self.green))
        self.world.put(self.temporary(self.green, "a", "pw-same", 4, valid_hours="1"))
        snapshot = self.read()
        self.now = self.world.created(self.green, "redis-secret-temp-a") + HOUR
        self.assertEqual(self.login(snapshot, "pw-same").tenant.index, 3)

    def test_one_password_twice_in_one_namespace_is_no_conflict(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-same", 3), self.temporary(self.blue, "a", "pw-same", 3, valid_hours="1"))
        self.assertIsNone(self.login(self.good(), "pw-same").expires)

    def test_of_two_namespaces_with_one_index_the_older_keeps_it(self) -> None:
        # Older, and behind in the order of names.
        self.world.put(*self.tenant(self.red, "pw-red", 3))
        self.good()
        self.world.pause()
        self.world.put(*self.tenant(self.blue, "pw-blue", 3))
        snapshot = self.read()
        self.assertProblem(self.blue, self.SECRET, f"database 3 belongs to the older {self.red}")
        self.assertEqual(self.indexes(snapshot), {self.red: 3})
        self.assertEqual(self.refused(snapshot, "pw-blue"), "wrong")
        # A rotation makes a namespace no younger.
        self.world.put(*self.tenant_secret(self.red, "pw-red-2", 3))
        self.assertEqual(self.indexes(self.read()), {self.red: 3})
        self.world.delete(self.red)
        self.assertEqual(self.indexes(self.good()), {self.blue: 3})

    def test_an_index_that_redis_does_not_have(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 15), *self.tenant(self.green, "pw-green", 16))
        self.assertEqual(self.indexes(self.good(databases=None)), {self.blue: 15, self.green: 16})
        self.assertEqual(self.indexes(self.read(databases=16)), {self.blue: 15})
        self.assertProblem(self.green, self.SECRET, "Redis has no database 16: it has databases 0 to 15")
        self.assertEqual(self.indexes(self.good(databases=17)), {self.blue: 15, self.green: 16})

    # What changes.

    def test_a_deleted_secret(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), self.temporary(self.blue, "a", "pw-temp", 3))
        snapshot = self.good()
        client, temporary = self.login(snapshot, "pw-blue"), self.login(snapshot, "pw-temp")
        self.world.delete(self.blue, "redis-secret-temp-a")
        snapshot = self.good()
        self.assertTrue(snapshot.renewed(client, self.now))
        self.assertFalse(snapshot.renewed(temporary, self.now))
        self.world.delete(self.blue, self.SECRET)
        self.assertEqual(self.good().tenants, frozenset())

    def test_a_deleted_namespace(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), *self.tenant(self.green, "pw-green", 4))
        used = self.login(self.good(), "pw-blue")
        self.world.delete(self.blue)
        snapshot = self.good()
        self.assertFalse(snapshot.renewed(used, self.now))
        self.assertEqual(self.indexes(snapshot), {self.green: 4})
        # Back again, without a secret: what was known of the one that was deleted is not taken for
        # it.
        self.world.put(namespace(self.blue))
        self.assertEqual(self.indexes(self.good()), {self.green: 4})

    def test_a_rotated_password(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-old", 3))
        used = self.login(self.good(), "pw-old")
        self.world.put(*self.tenant_secret(self.blue, "pw-new", 3))
        snapshot = self.good()
        self.assertFalse(snapshot.renewed(used, self.now))
        self.assertEqual(self.refused(snapshot, "pw-old"), "wrong")
        self.assertEqual(self.login(snapshot, "pw-new").tenant, used.tenant)

    def test_a_changed_index(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3))
        used = self.login(self.good(), "pw-blue")
        self.world.put(*self.tenant_secret(self.blue, "pw-blue", 4))
        snapshot = self.good()
        self.assertFalse(snapshot.renewed(used, self.now))
        self.assertEqual(self.login(snapshot, "pw-blue").tenant.index, 4)

    def test_what_does_not_change_holds(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), self.temporary(self.blue, "a", "pw-temp", 3, valid_hours="9"))
        snapshot = self.good()
        used = [self.login(snapshot, "pw-blue"), self.login(snapshot, "pw-temp")]
        snapshot = self.good()
        self.assertTrue(all(snapshot.renewed(credential, self.now) for credential in used))

    def test_a_secret_that_becomes_malformed_ends_what_it_gave(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3))
        used = self.login(self.good(), "pw-blue")
        self.world.put({**secret(self.blue, self.SECRET), "data": {"redis-connection-string": encoded(b"pw-x")}})
        self.assertFalse(self.read().renewed(used, self.now))
        self.assertProblem(self.blue, self.SECRET, "does not begin")

    # The service that reads it all.

    def serve(self, now: float) -> tuple[KeptSnapshot, task.Clock]:
        clock = task.Clock()
        clock.advance(now)
        service = KeptSnapshot(clock, self.source, self.enrolment, 300, in_thread=defer.maybeDeferred)
        service.startService()

        def stop() -> None:
            service.stopService()
            self.assertEqual(clock.getDelayedCalls(), [])

        self.addCleanup(stop)
        return service, clock

    def test_a_change_is_seen_at_the_next_refresh_or_signal(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-old", 3))
        service, clock = self.serve(time.time())
        self.world.put(*self.tenant_secret(self.blue, "pw-new", 3))
        clock.advance(299)
        self.assertEqual(service.authenticate(None, b"pw-old").tenant.index, 3)
        clock.advance(1)
        self.assertRaises(AuthenticationError, service.authenticate, None, b"pw-old")
        self.assertEqual(service.authenticate(None, b"pw-new").tenant.index, 3)
        self.world.put(*self.tenant_secret(self.blue, "pw-third", 3))
        service.refresh()
        self.assertEqual(service.authenticate(None, b"pw-third").tenant.index, 3)

    def test_an_hour_that_began_59_minutes_ago_ends_in_one(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", 3), self.temporary(self.blue, "a", "pw-temp", 3, valid_hours="1"))
        service, clock = self.serve(self.world.created(self.blue, "redis-secret-temp-a") + 59 * 60)
        used = service.authenticate(None, b"pw-temp")
        ended: list[float] = []
        start = clock.seconds()

        def changed(snapshot: Snapshot) -> None:
            if not snapshot.renewed(used, clock.seconds()):
                ended.append(clock.seconds() - start)

        service.listeners.append(changed)
        for _ in range(59):
            clock.advance(1)
            service.refresh()
        self.assertEqual(ended, [])
        self.assertEqual(service.authenticate(None, b"pw-temp"), used)
        clock.advance(1)
        self.assertEqual(ended[0], 60)
        self.assertRaises(AuthenticationError, service.authenticate, None, b"pw-temp")

    def test_problems_are_named_as_the_service_shows_them(self) -> None:
        self.world.put(*self.tenant(self.blue, "pw-blue", "x"))
        service, _ = self.serve(time.time())
        [problem] = service.problems
        self.assertIsInstance(problem, Problem)
        self.assertTrue(str(problem).startswith(f"{self.blue}/{self.SECRET}: "))


class Marked(ChangeQueue):
    """Notices the marks. All changes before a mark were reported before it."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: set[str] = set()

    def note(self, namespace: str, secret: str | None) -> bool:
        mark = namespace if secret is None else secret
        if MARKING not in mark:
            return super().note(namespace, secret)
        self.marks.add(mark)
        return False


class InThread:
    """A reactor for who needs only that: calls at once, in whatever thread."""

    def callFromThread(self, call: Callable, *arguments: object, **options: object) -> None:
        call(*arguments, **options)


class WatchedContract(Contract):
    """Everything is read once. From then on only what a watch tells of is, and that has to be
    enough.
    """

    def use(self, secret_name: str) -> None:
        super().use(secret_name)
        self.secret_name = secret_name
        self.watch: WatchService | None = None
        self.marks = 0

    def follow(self) -> None:
        self.queue = Marked()
        watches = ClusterWatches(self.source.api, self.prefix, self.secret_name, self.master)
        concerns = watches.concerns
        watches.concerns = lambda what, where, name: MARKING in name or concerns(what, where, name)
        self.watch = WatchService(InThread(), watches, self.master, self.queue, lambda: None, lambda: None)
        self.watch.startService()
        self.addCleanup(self.watch.stopService)
        until(lambda: self.watch.watching, "it watches")
        super().read()

    def take_up(self) -> None:
        self.marks += 1
        mark = f"{MARKING}{self.marks}"
        self.world.put(namespace(self.prefix + mark), secret(self.master[0], mark, other="x"))
        until(lambda: {mark, self.prefix + mark} <= self.queue.marks, "all changes were reported")
        while self.queue:
            update = self.source.read_changes(self.queue.pop_batch())
            self.assertEqual(update.failures, ())
            self.assertNotIn(MARK, repr(update))
            self.enrolment.use_incremental_read(update)

    def read(self, databases: int | None = 16) -> Snapshot:
        if self.watch is None:
            self.follow()
        else:
            self.take_up()
        snapshot, self.problems = self.enrolment.resolve(databases)
        whole = Enrolment(self.secret_name, self.master)
        whole.use_full_read(self.world.source(self.prefix, self.secret_name, self.master).read())
        read, problems = whole.resolve(databases)
        self.assertEqual((snapshot.credentials, self.problems), (read.credentials, problems))
        self.assertIn(read.backend, (snapshot.backend, None))
        return snapshot


class ManifestsContractTests(Contract, unittest.TestCase):
    def make_world(self) -> ManifestsWorld:
        return ManifestsWorld()


class SmallApiContractTests(Contract, unittest.TestCase):
    def make_world(self) -> SmallApiWorld:
        return SmallApiWorld()


class RealApiContractTests(Contract, unittest.TestCase):
    def make_world(self) -> RealApiWorld:
        return RealApiWorld(shared_api_server())


class WatchedSmallApiContractTests(WatchedContract, unittest.TestCase):
    def make_world(self) -> SmallApiWorld:
        return SmallApiWorld()


class WatchedRealApiContractTests(WatchedContract, unittest.TestCase):
    def make_world(self) -> RealApiWorld:
        return RealApiWorld(shared_api_server())
