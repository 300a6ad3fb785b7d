"""Tests a tenant's ACL user: its name, password and rules."""

from __future__ import annotations

import hashlib
import unittest

from redisproxy.policy import acl
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.tenants.model import Tenant

BLUE = Tenant("team-blue", 3)


class AclTests(unittest.TestCase):
    def test_names_and_passwords_differ(self) -> None:
        self.assertEqual(acl.username(BLUE), "redisproxy:team-blue:3")
        moved = acl.username(Tenant("team-blue", 4))
        passwords = {
            acl.password(b"master", acl.username(BLUE)),
            acl.password(b"other", acl.username(BLUE)),
            acl.password(b"master", moved),
        }
        self.assertEqual(len(passwords), 3)
        self.assertEqual(acl.password(b"master", moved), acl.password(b"master", moved))

    def test_rules(self) -> None:
        policy = make_policy(builtin(), scripts=True)
        rules = acl.rules(BLUE, policy, b"secret", databases=True, new=True)
        self.assertIn(b"#" + hashlib.sha256(b"secret").hexdigest().encode(), rules)
        self.assertNotIn(b"secret", b" ".join(rules))
        self.assertLess(rules.index(b"resetchannels"), rules.index(b"&team-blue:*"))
        self.assertLess(rules.index(b"~redisproxy"), rules.index(b"resetkeys"), "it is not kept")
        self.assertLess(rules.index(b"-@all"), rules.index(b"+get"))
        self.assertEqual([r for r in rules if r.startswith(b"db=")], [b"db=3"])
        self.assertFalse(
            {b"+select", b"+swapdb", b"+move", b"+copy", b"+flushall", b"+info", b"+pubsub|channels"} & set(rules)
        )

    def test_only_the_own_index_may_be_selected(self) -> None:
        for scripts, expected in ((True, [b"-select", b"+select|3"]), (False, [])):
            for new in (True, False):
                rules = acl.rules(BLUE, make_policy(builtin(), scripts=scripts), b"secret", databases=False, new=new)
                self.assertEqual([rule for rule in rules if b"select" in rule], expected)
                if expected:
                    self.assertEqual(rules[-2:], expected, "no rule behind them gives the right to any index")

    def test_client_side_caching_only_where_it_is_allowed(self) -> None:
        policy = make_policy(builtin(), scripts=True)
        for new in (True, False):
            for tracking in (True, False):
                rules = acl.rules(BLUE, policy, b"secret", databases=False, new=new, tracking=tracking)
                found = [rule for rule in rules if b"client" in rule]
                self.assertEqual(found, acl.tracking_rules(policy) if tracking else [])
                self.assertEqual(rules[-2:], [b"-select", b"+select|3"])
        names = [b"+client|caching", b"+client|getredir", b"+client|tracking", b"+client|trackinginfo"]
        self.assertEqual(acl.tracking_rules(policy), names)

    def test_a_user_that_exists_keeps_its_patterns(self) -> None:
        rules = acl.rules(BLUE, make_policy(builtin(), scripts=True), b"secret", databases=False, new=False)
        self.assertNotIn(b"resetchannels", rules)
        self.assertNotIn(b"~redisproxy", rules)
        self.assertNotIn(b"resetdbs", rules)
