"""Tests that a snapshot becomes bytes and is the same when it is read back."""

from __future__ import annotations

import unittest

from redisproxy.tenants import model, wire_form
from redisproxy.tenants.limits import UNLIMITED, Limits
from redisproxy.tenants.model import AuthenticationError, BackendAddress, Credential, Snapshot, Tenant, digest

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-grün", 5)
CREDENTIALS = (
    Credential(BLUE, "redis-secret-master", digest(b"blue-password"), "some user \n", None),
    Credential(BLUE, "redis-secret-temp-a", digest(b"\xff\n\x00"), "", 1767225600.25),
    Credential(GREEN, "redis-secret-master", digest(b"blue-password")),
)
BACKENDS = (
    None,
    BackendAddress(),
    BackendAddress("redis.example", 6380, "", True, "master", b'master-\xff"\n'),
    BackendAddress(path="/run/redis.sock", password=b"x"),
    BackendAddress(
        tls=True,
        sentinels=(("one", 26379), ("::1", 26380)),
        master_name="main",
        sentinel_username="watcher",
        sentinel_password=b"\xffsentinel",
    ),
)


class SnapshotTests(unittest.TestCase):
    def test_there_and_back(self) -> None:
        for backend in BACKENDS:
            for count in range(len(CREDENTIALS) + 1):
                before = Snapshot(backend, CREDENTIALS[:count])
                after = wire_form.load(wire_form.dump(before))
                self.assertEqual((after.backend, after.credentials), (before.backend, before.credentials))
                self.assertEqual((after.tenants, after.limits), (before.tenants, {}))
        used = after.authenticate("team-blue", b"blue-password", 0.0)
        self.assertEqual(used, CREDENTIALS[0])
        self.assertEqual(after.renewed(used, 0.0), used)
        self.assertEqual(after.next_expiry(0.0), 1767225600.25)

    def test_paused_tenants(self) -> None:
        before = Snapshot(None, CREDENTIALS, {"team-blue": Limits(1)}, {"team-grün"})
        after = wire_form.load(wire_form.dump(before))
        self.assertEqual((after.paused, after.limits), ({"team-grün"}, before.limits))
        self.assertEqual(after.paused_tenants, {GREEN})

    def test_a_process_with_another_key_makes_nothing_of_the_digests(self) -> None:
        self.addCleanup(model.use_digest_key, model.digest_key())
        snapshot = wire_form.load(wire_form.dump(Snapshot(None, CREDENTIALS[:1])))
        ours = model.digest_key()
        model.use_digest_key(b"another".ljust(32))
        self.assertRaises(AuthenticationError, snapshot.authenticate, None, b"blue-password", 0.0)
        model.use_digest_key(ours)
        self.assertTrue(snapshot.authenticate(None, b"blue-password", 0.0))

    def test_no_tenants_password_is_in_it(self) -> None:
        self.assertNotIn(b"blue-password", wire_form.dump(Snapshot(None, CREDENTIALS)))

    def test_limits(self) -> None:
        for limits in ({"team-blue": Limits(1, 2, 3)}, {"team-blue": Limits(1), "team-grün": Limits(0, 0, 10**9, True)}):
            after = wire_form.load(wire_form.dump(Snapshot(BACKENDS[2], CREDENTIALS, limits)))
            self.assertEqual((after.limits, after.credentials), (limits, CREDENTIALS))
            self.assertEqual(after.limits_of("team-red"), UNLIMITED)

    def test_it_rests_between_lines(self) -> None:
        rests: list[None] = []
        snapshot = Snapshot(None, CREDENTIALS, {"team-blue": Limits(1), "team-grün": Limits(2)})
        wire_form.load(wire_form.dump(snapshot), lambda: rests.append(None))
        self.assertEqual(len(rests), len(CREDENTIALS) + 2)
