"""Tests the decisions about ACL users: which passwords end, which users are removed, and when."""

from __future__ import annotations

import unittest

from redisproxy.policy import acl
from redisproxy.policy.acl_users import Inventory
from redisproxy.tenants.documents import ReadSummary
from redisproxy.tenants.model import Tenant

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
NAME = acl.username(BLUE)
INTERVAL = 300.0


class FakeRedis:
    """The passwords of one user. Applies the rules about passwords as Redis does: all or none."""

    def __init__(self, *hashes: bytes) -> None:
        self.hashes = list(hashes)

    def set(self, rules: list[bytes]) -> bool:
        hashes = list(self.hashes)
        for rule in rules:
            if rule[:1] == b"#" and rule[1:] not in hashes:
                hashes.append(rule[1:])
            elif rule[:1] == b"!":
                if rule[1:] not in hashes:
                    return False
                hashes.remove(rule[1:])
        self.hashes = hashes
        return True


def whole(*namespaces: str, master: bool = True, uncertain: tuple[str, ...] = ()) -> ReadSummary:
    return ReadSummary(True, master, frozenset(namespaces), frozenset(uncertain))


def partly(*namespaces: str) -> ReadSummary:
    return ReadSummary(False, False, frozenset(namespaces))


class PasswordTests(unittest.TestCase):
    def setUp(self) -> None:
        self.inventory = Inventory("team-", INTERVAL)
        self.redis = FakeRedis(b"old")

    def look(self, now: float, own: bytes = b"new", inventory: Inventory | None = None) -> list[bytes]:
        rules = (inventory or self.inventory).password_rules(NAME, self.redis.hashes, own, now)
        if rules:
            self.assertTrue(self.redis.set(rules))
            if rules[0][:1] == b"#":
                (inventory or self.inventory).settled(NAME)
        return self.redis.hashes

    def read(self, began: float, inventory: Inventory | None = None, master: bool = True) -> None:
        (inventory or self.inventory).take_read(whole("team-blue", master=master), began, began + 1)

    def test_the_present_one_is_added_and_alone_one_interval_later(self) -> None:
        self.assertEqual(self.look(0), [b"old", b"new"])
        self.read(100)
        self.assertEqual(self.look(INTERVAL - 1), [b"old", b"new"])
        self.assertEqual(self.inventory.due(INTERVAL - 1), [])
        self.assertEqual(self.inventory.next_due(), INTERVAL)
        self.assertEqual(self.inventory.due(INTERVAL), [NAME])
        self.assertEqual(self.look(INTERVAL), [b"new"])
        self.assertEqual((self.inventory.due(2 * INTERVAL), self.inventory.next_due()), ([], None))

    def test_all_others_end(self) -> None:
        self.redis = FakeRedis(b"older", b"old", b"new", b"somebody's")
        self.look(0)
        self.read(1)
        self.assertEqual(self.look(INTERVAL), [b"new"])

    def test_what_was_seen_before_the_master_secret_was_read_last_goes_on(self) -> None:
        """A password seen before the last read of the master secret stays: a replica that has read
        a newer master secret than this process may have added it.
        """
        self.read(-1)
        self.redis = FakeRedis(b"old", b"new")
        self.assertEqual(self.look(0), [b"old", b"new"])
        self.assertEqual(self.look(10 * INTERVAL), [b"old", b"new"])
        self.read(10 * INTERVAL, master=False)
        self.assertEqual((self.look(10 * INTERVAL + 1), self.inventory.next_due()), ([b"old", b"new"], None))
        self.read(10 * INTERVAL + 2)
        self.assertEqual(self.look(10 * INTERVAL + 3), [b"new"])

    def test_one_that_somebody_changed_meanwhile_has_another_interval(self) -> None:
        """Passwords that changed get another interval, even if one was removed and came back:
        whoever put it back uses it.
        """
        self.redis = FakeRedis(b"old", b"new")
        self.look(0)
        self.read(1)
        self.redis = FakeRedis(b"new", b"old")
        self.assertEqual(self.look(INTERVAL), [b"new", b"old"])
        self.read(INTERVAL + 1)
        self.assertEqual(self.look(2 * INTERVAL - 1), [b"new", b"old"])
        self.assertEqual(self.look(2 * INTERVAL), [b"new"])

    def test_rules_fail_where_somebody_changed_it_since_it_was_read(self) -> None:
        added = self.inventory.password_rules(NAME, [b"old"], b"new", 0)
        self.read(1)
        removed = self.inventory.password_rules(NAME, [b"old", b"new"], b"new", INTERVAL)
        for rules in (added, removed):
            self.assertFalse(FakeRedis().set(rules), "a user that is gone is not made again")
            self.assertFalse(FakeRedis(b"new").set(rules), "another one was here first")
        self.assertEqual(added[-1], b"#new")
        self.assertEqual(self.inventory.due(INTERVAL), [NAME], "until Redis took it")

    def test_to_add_one_keeps_the_order_of_the_others(self) -> None:
        """Adding a password keeps the order of the others, because other replicas rely on the
        order.
        """
        self.redis = FakeRedis(b"older", b"old")
        self.assertEqual(self.look(0), [b"older", b"old", b"new"])

    def test_a_replica_that_does_not_know_the_new_one_yet(self) -> None:
        """A replica whose reads fail or are rarer adds its own password when it needs it, and
        removes no other.
        """
        late = Inventory("team-", INTERVAL)
        self.read(-1, late)
        self.assertEqual(self.look(0), [b"old", b"new"])
        self.look(1, b"old", late)
        self.read(2)
        self.look(5 * INTERVAL, b"old", late)
        self.assertEqual(self.redis.hashes, [b"old", b"new"])
        self.assertEqual(self.look(5 * INTERVAL), [b"new"])
        self.redis.set([b"#old"])  # a tenant connects through the late replica
        self.assertEqual(self.look(6 * INTERVAL), [b"new", b"old"])
        self.assertEqual(self.look(6 * INTERVAL + 1, b"old", late), [b"new", b"old"])
        self.read(8 * INTERVAL, late)  # from now on the late replica knows the new one
        self.assertEqual(self.look(8 * INTERVAL, b"new", late), [b"new"])

    def test_a_restart_in_between(self) -> None:
        self.look(0)
        again = Inventory("team-", INTERVAL)
        self.assertEqual(self.look(200, inventory=again), [b"old", b"new"])
        self.read(201, again)
        self.assertEqual(self.look(200 + INTERVAL, inventory=again), [b"new"])

    def test_another_rotation_before_the_first_is_over(self) -> None:
        self.look(0)
        self.read(1)
        self.assertEqual(self.look(INTERVAL - 1, b"newest"), [b"old", b"new", b"newest"])
        self.assertEqual(self.look(INTERVAL, b"newest"), [b"old", b"new", b"newest"])
        self.read(INTERVAL)
        self.assertEqual(self.look(2 * INTERVAL - 1, b"newest"), [b"newest"])

    def test_a_user_without_any_is_left_alone(self) -> None:
        self.redis = FakeRedis()
        self.assertEqual((self.look(0), self.inventory.due(INTERVAL)), ([], []))


class RemovalTests(unittest.TestCase):
    def setUp(self) -> None:
        self.inventory = Inventory("team-", INTERVAL)

    def assert_removable(self, certain: list[str], unless_used: list[str]) -> None:
        self.assertEqual(self.inventory.removable(), (certain, unless_used))

    def test_which_are_ours(self) -> None:
        ours = ["redisproxy:team-blue:3", "redisproxy:team-green:0", "redisproxy:team-a-b:12"]
        others = [
            "default",
            "redisproxy:probe",
            "redisproxy:tea:3",
            "redisproxy:team:3",
            "redisproxy:other-team-x:3",
            "redisproxy:team-blue",
            "redisproxy:team-blue:",
            "redisproxy:team-blue:03",
            "redisproxy:team-blue:3:4",
            "redisproxy:team-blue:3 ",
            "redisproxy:team-Blue:3",
            "redisproxy:team-blue-:3",
            "redisproxy:team-:3",
            "redisproxy:team-blue:\N{ARABIC-INDIC DIGIT THREE}",
            "Xredisproxy:team-blue:3",
            "team-blue",
        ]
        self.assertEqual(self.inventory.listed([*ours, *others], 0), ours)

    def test_one_that_two_reads_found_no_tenant_for(self) -> None:
        self.inventory.claim({BLUE}, 0)
        self.inventory.take_read(whole("team-blue", "team-green"), -1, 0)
        self.inventory.listed([NAME, acl.username(GREEN)], 1)
        self.assert_removable([], [])
        self.inventory.take_read(whole("team-blue", "team-green"), 300, 302)
        self.assert_removable([], [])
        self.inventory.take_read(whole("team-blue", "team-green"), 600, 602)
        self.assert_removable([], [acl.username(GREEN)])
        self.inventory.removed([acl.username(GREEN)])
        self.assert_removable([], [])

    def test_one_that_another_replica_made(self) -> None:
        """A user that another replica made stays: that replica knows a tenant that this process
        learns of with its next read, and earlier reads prove nothing.
        """
        self.inventory.claim({BLUE}, 0)
        for began in (0, 300, 600):
            self.inventory.take_read(whole("team-blue"), began, began + 2)
        self.inventory.listed([NAME, acl.username(GREEN)], 601)
        # A read that was under way may not know the tenant either.
        self.inventory.take_read(whole("team-blue"), 600, 602)
        self.assert_removable([], [])
        self.inventory.claim({BLUE, GREEN}, 902)
        self.inventory.take_read(whole("team-blue", "team-green"), 900, 902)
        self.inventory.take_read(whole("team-blue", "team-green"), 1200, 1202)
        self.assert_removable([], [])

    def test_the_former_database_of_a_tenant(self) -> None:
        self.inventory.claim({BLUE}, 0)
        self.inventory.take_read(whole("team-blue"), 0, 0)
        self.inventory.claim({Tenant("team-blue", 4)}, 10)
        self.inventory.take_read(whole("team-blue"), 9, 10)
        self.assert_removable([], [])
        self.inventory.take_read(whole("team-blue"), 300, 302)
        self.assert_removable([], [NAME])
        self.inventory.claim({BLUE}, 400)  # the tenant comes back
        self.assert_removable([], [])

    def test_a_namespace_whose_secrets_are_not_read_is_not_gone(self) -> None:
        self.inventory.claim({GREEN}, 0)
        self.inventory.listed([NAME], 0)
        for began in (300, 600, 900):
            self.inventory.take_read(whole("team-blue", "team-green", uncertain=("team-blue",)), began, began + 2)
        self.assert_removable([], [])

    def test_a_list_of_namespaces_that_is_not_read_says_nothing(self) -> None:
        self.inventory.claim({GREEN}, 0)
        self.inventory.take_read(whole("team-blue", "team-green"), 0, 0)
        self.inventory.listed([NAME], 0)
        for began in (300, 600, 900):
            self.inventory.take_read(ReadSummary(True, True, None), began, began + 2)
        self.assert_removable([], [])
        self.inventory.take_read(partly("team-blue", "team-green"), 1000, 1000)
        self.inventory.take_read(partly("team-blue", "team-green"), 1001, 1001)
        self.assert_removable([], [])  # reads of single objects are not whole reads

    def test_a_namespace_that_was_seen_to_be_deleted(self) -> None:
        self.inventory.claim({BLUE, GREEN}, 0)
        self.inventory.take_read(whole("team-blue", "team-green"), 0, 0)
        self.inventory.listed([NAME, "redisproxy:team-blue:9", acl.username(GREEN)], 0)
        self.inventory.claim({GREEN}, 100)
        self.inventory.take_read(partly("team-green"), 100, 100)
        self.assert_removable([], ["redisproxy:team-blue:9", NAME])
        # A read that began before the deletion proves nothing about what came after.
        self.inventory.take_read(whole("team-green"), 99, 101)
        self.assert_removable([], ["redisproxy:team-blue:9", NAME])
        self.inventory.take_read(ReadSummary(True, True, None), 300, 302)
        self.assert_removable([], ["redisproxy:team-blue:9", NAME])
        self.inventory.take_read(whole("team-green"), 600, 602)
        self.assert_removable(["redisproxy:team-blue:9", NAME], [])

    def test_a_namespace_that_is_made_again(self) -> None:
        self.inventory.claim({BLUE, GREEN}, 0)
        self.inventory.take_read(whole("team-blue", "team-green"), 0, 0)
        self.inventory.claim({GREEN}, 100)
        self.inventory.take_read(partly("team-green"), 100, 100)
        # The namespace has no secret so far.
        self.inventory.take_read(whole("team-blue", "team-green"), 300, 302)
        self.assert_removable([], [])
        self.inventory.claim({BLUE, GREEN}, 303)
        self.assert_removable([], [])

    def test_a_name_that_begins_another(self) -> None:
        longer = Tenant("team-blue-2", 4)
        self.inventory.claim({BLUE, longer}, 0)
        self.inventory.take_read(whole("team-blue", "team-blue-2"), 0, 0)
        self.inventory.claim({longer}, 100)
        self.inventory.take_read(partly("team-blue-2"), 100, 100)
        self.inventory.take_read(whole("team-blue-2"), 300, 302)
        self.assert_removable([NAME], [])

    def test_one_that_is_gone_is_forgotten(self) -> None:
        self.inventory.claim({GREEN}, 0)
        self.inventory.listed([NAME], 0)
        self.inventory.password_rules(NAME, [b"old"], b"new", 0)
        self.inventory.take_read(whole("team-blue", "team-green"), 1, 1)
        self.inventory.take_read(whole("team-blue", "team-green"), 2, 2)
        self.inventory.listed([], 3)
        self.assert_removable([], [])
        self.assertEqual(self.inventory.due(10 * INTERVAL), [])
