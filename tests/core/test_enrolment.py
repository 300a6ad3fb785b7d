"""What the rules of enrolment cost where there is much of something."""

from __future__ import annotations

import unittest

from redisproxy.core.enrolment import CONNECTION_STRING, NAMED, Enrolment, NamespaceDocument, Reading, SecretDocument

CLIENT = "redis-secret-master"


class EnrolmentTests(unittest.TestCase):
    def test_of_many_namespaces_with_one_password_a_few_are_named(self) -> None:
        names = [f"team-{number:03}" for number in range(NAMED + 5)]
        url = "redis://:same@redis:6379/"
        secrets = {
            name: (SecretDocument(name, CLIENT, 0.0, {CONNECTION_STRING: f"{url}{index}".encode()}),)
            for index, name in enumerate(names)
        }
        enrolment = Enrolment(CLIENT, ("kube-system", CLIENT))
        enrolment.absorb(Reading(None, tuple(NamespaceDocument(name, 0.0) for name in names), secrets))
        _, problems = enrolment.resolve()
        told = {problem.namespace: problem.reason for problem in problems if problem.namespace in names}
        self.assertEqual(set(told), set(names))
        for name, reason in told.items():
            others = [other for other in names if other in reason]
            self.assertEqual(len(others), NAMED)
            self.assertNotIn(name, others)
            self.assertIn(" and 4 more: only AUTH <namespace>", reason)
