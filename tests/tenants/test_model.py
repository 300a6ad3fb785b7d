"""Tests who may log in, and that texts about credentials hide passwords."""

from __future__ import annotations

import unittest

from redisproxy.tenants.model import AuthenticationError, BackendAddress, Credential, Snapshot, Tenant, digest

BLUE, GREEN = Tenant("blue", 3), Tenant("green", 5)


def credential(tenant: Tenant, password: bytes, secret: str = "main", **more: object) -> Credential:
    return Credential(tenant, secret, digest(password), **more)


class DirectoryTests(unittest.TestCase):
    def assertOutcome(
        self, snapshot: Snapshot, username: str | None, password: bytes, outcome: object, now: float = 0.0
    ) -> None:
        if isinstance(outcome, Tenant):
            self.assertEqual(snapshot.authenticate(username, password, now).tenant, outcome)
        else:
            with self.assertRaises(AuthenticationError) as caught:
                snapshot.authenticate(username, password, now)
            self.assertEqual(caught.exception.outcome, outcome)
            self.assertNotIn(password.decode(), str(caught.exception))

    def test_by_password(self) -> None:
        snapshot = Snapshot(None, [credential(BLUE, b"blue-pw"), credential(GREEN, b"green-pw")])
        self.assertOutcome(snapshot, None, b"blue-pw", BLUE)
        self.assertOutcome(snapshot, "default", b"green-pw", GREEN)
        self.assertOutcome(snapshot, None, b"other-pw", "wrong")
        self.assertOutcome(snapshot, None, b"Blue-pw", "wrong")

    def test_by_user_name(self) -> None:
        snapshot = Snapshot(None, [credential(BLUE, b"blue-pw", username="app")])
        for username in ("blue", "app"):
            self.assertOutcome(snapshot, username, b"blue-pw", BLUE)
        for username in ("", "BLUE", "green", "blue "):
            self.assertOutcome(snapshot, username, b"blue-pw", "wrong")

    def test_a_shared_password_needs_the_namespace(self) -> None:
        snapshot = Snapshot(None, [credential(BLUE, b"same-pw"), credential(GREEN, b"same-pw")])
        self.assertOutcome(snapshot, None, b"same-pw", "ambiguous")
        self.assertOutcome(snapshot, "default", b"same-pw", "ambiguous")
        self.assertOutcome(snapshot, "blue", b"same-pw", BLUE)
        self.assertOutcome(snapshot, "green", b"same-pw", GREEN)

    def test_a_user_name_in_a_url_does_not_take_over_a_namespaces(self) -> None:
        snapshot = Snapshot(None, [credential(BLUE, b"same-pw"), credential(GREEN, b"same-pw", username="blue")])
        self.assertOutcome(snapshot, "blue", b"same-pw", BLUE)

    def test_more_than_two_with_one_password(self) -> None:
        tenants = [Tenant(f"team-{number}", number) for number in range(4)]
        snapshot = Snapshot(None, [credential(tenant, b"same-pw") for tenant in tenants] + [credential(BLUE, b"blue-pw")])
        for tenant in tenants:
            self.assertOutcome(snapshot, tenant.namespace, b"same-pw", tenant)
            self.assertEqual(snapshot.renewed(credential(tenant, b"same-pw"), 0.0).tenant, tenant)
        self.assertOutcome(snapshot, None, b"blue-pw", BLUE)
        self.assertEqual([len(sharing) for sharing in snapshot.shared()], [4])

    def test_expired_is_wrong(self) -> None:
        snapshot = Snapshot(None, [credential(BLUE, b"temp-pw", expires=100.0)])
        self.assertOutcome(snapshot, None, b"temp-pw", BLUE, now=99.0)
        self.assertOutcome(snapshot, None, b"temp-pw", "wrong", now=100.0)

    def test_of_two_secrets_with_one_password_the_one_that_lasts_counts(self) -> None:
        temporary = credential(BLUE, b"pw", "temp", expires=100.0)
        later = credential(BLUE, b"pw", "temp-2", expires=200.0)
        lasting = credential(BLUE, b"pw", "main")
        self.assertEqual(Snapshot(None, [temporary, lasting, later]).authenticate(None, b"pw", 0.0), lasting)
        self.assertEqual(Snapshot(None, [later, temporary]).authenticate(None, b"pw", 0.0), later)

    def test_next_expiry(self) -> None:
        snapshot = Snapshot(
            None, [credential(BLUE, b"a", expires=5.0), credential(BLUE, b"b", expires=9.0), credential(GREEN, b"c")]
        )
        self.assertEqual([snapshot.next_expiry(now) for now in (0.0, 5.0, 9.0)], [5.0, 9.0, None])


class SecrecyTests(unittest.TestCase):
    def test_reprs(self) -> None:
        backend = BackendAddress(host="h", username="user", password=b"pw")
        self.assertNotIn("pw", repr(backend))
        self.assertNotIn("user", repr(backend).replace("username", ""))
        self.assertNotIn(digest(b"pw").hex(), repr(credential(BLUE, b"pw")))

    def test_addresses(self) -> None:
        for backend, address in (
            (BackendAddress(host="h"), "redis://h:6379"),
            (BackendAddress(host="::1", port=1, tls=True), "rediss://[::1]:1"),
            (BackendAddress(path="/run/r.sock"), "unix:///run/r.sock"),
            (
                BackendAddress(sentinels=(("s", 26379), ("::1", 1)), master_name="m", sentinel_password=b"pw"),
                "redis+sentinel://s:26379,[::1]:1/m",
            ),
        ):
            self.assertEqual(backend.shown, address)
