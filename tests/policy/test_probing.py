"""Tests the conclusions from a server's answers. `upstream.test_probe` and
`integration.test_probing` test them with real servers.
"""

from __future__ import annotations

from twisted.trial import unittest

from redisproxy.policy import probing
from redisproxy.policy.facts import Command, builtin, without
from redisproxy.policy.policy import make_policy
from redisproxy.policy.probing import ACL, ACL_DATABASES, COMMANDS, DATABASES, SEALED, ErrorReply, Facts, Refusal
from redisproxy.printable import clause

from ..support.redis_errors import ABSENT, FORBIDDEN, ODD, PASSING


class RefusalTests(unittest.SynchronousTestCase):
    def test_only_what_a_server_has_not_is_a_property_of_it(self) -> None:
        for texts, meaning in ((PASSING + ODD, Refusal.PASSING), (ABSENT, Refusal.ABSENT), (FORBIDDEN, Refusal.FORBIDDEN)):
            for text in texts:
                self.assertIs(probing.refusal(ErrorReply(text)), meaning, text)

    def test_with_acl_off_a_hosted_redis_may_refuse_in_its_own_words(self) -> None:
        for text in PASSING:
            self.assertIs(probing.refusal(ErrorReply(text), lenient=True), Refusal.PASSING, text)
        self.assertIs(probing.refusal(ErrorReply(ODD[0]), lenient=True), Refusal.ABSENT)

    def test_the_log_names_the_way_out_for_odd_words_alone(self) -> None:
        for text in PASSING:
            self.assertEqual(probing.explain({"COMMAND": ErrorReply(text)}), f"COMMAND: {clause(text)}")
        reason = probing.explain({"COMMAND": ErrorReply(ODD[0]), "EVAL": ErrorReply(ODD[0])})
        self.assertEqual(
            reason,
            f"COMMAND, EVAL: {ODD[0]}; if a hosted Redis always answers like this, set --acl off: the proxy then creates "
            f"no ACL users, and refuses scripts",
        )
        self.assertNotIn("\x1b", probing.explain({"COMMAND": ErrorReply("ERR \x1b[31m")}))

    def test_why_a_rule_was_refused(self) -> None:
        unknown = "ERR Error in ACL SETUSER modifier '+clusterscan': Unknown command or category name in ACL"
        self.assertEqual(probing.unfit_name(ErrorReply(unknown)), b"CLUSTERSCAN")
        for text in (*PASSING, *FORBIDDEN, ABSENT[0], ABSENT[5]):
            self.assertIsNone(probing.unfit_name(ErrorReply(text)), text)
        exists = (
            "ERR Error in ACL SETUSER modifier '~redisproxy': Adding a pattern after the * pattern (or the 'allkeys' flag) "
            "is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns"
        )
        self.assertTrue(probing.user_exists(ErrorReply(exists)))
        for text in (unknown, *PASSING, *FORBIDDEN, *ABSENT, *ODD):
            self.assertFalse(probing.user_exists(ErrorReply(text)), text)


class LearnTests(unittest.SynchronousTestCase):
    #: (question, a real server's answer, what it means, what follows if the server lacks the
    #: command)
    CASES = (
        (DATABASES, [b"databases", b"64"], 64, None),
        (ACL, b"OK", True, False),
        (ACL_DATABASES, "OK", True, False),
        (SEALED, 0, True, False),
    )

    def test_what_a_server_has_not_follows_at_its_first_probe_alone(self) -> None:
        for question, reply, value, refused in self.CASES:
            answers, again = probing.learn(Facts(), {question: reply})
            self.assertEqual((answers.answers, again), ({question: value}, {}))
            for text in (*ABSENT, *FORBIDDEN):
                first, again = probing.learn(Facts(), {question: ErrorReply(text)})
                self.assertEqual((first.answers, again), ({question: refused}, {}))
                # The server answered it before. Whatever it replies now is a fault, and it is asked
                # again.
                later, again = probing.learn(answers, {question: ErrorReply(text)})
                self.assertEqual((later, again), (answers, {question: ErrorReply(text)}))
                # The permission was given later.
                self.assertEqual(probing.learn(first, {question: reply})[0].answers, {question: value})

    def test_nothing_follows_from_what_passes_or_is_not_understood(self) -> None:
        for question, reply, value, _ in self.CASES:
            known = probing.learn(Facts(), {question: reply})[0]
            for error in (*PASSING, *ODD):
                for before in (Facts(), known):
                    facts, again = probing.learn(before, {question: ErrorReply(error)})
                    self.assertEqual((facts, again), (before, {question: ErrorReply(error)}))
            for answer in (None, b"", b"QUEUED", 7, [b"databases", b"many"], [1, 2, 3]):
                facts, again = probing.learn(known, {question: answer})
                self.assertEqual(facts.answers, {question: value})
                self.assertEqual(list(again), [question], answer)

    def test_a_server_without_acl_users_is_not_asked_about_them(self) -> None:
        gone = ErrorReply(ABSENT[0])
        _, again = probing.learn(Facts(), {ACL: gone, ACL_DATABASES: ErrorReply(PASSING[0]), SEALED: ErrorReply(PASSING[0])})
        self.assertEqual(again, {})

    def test_what_was_not_told_is_not_concluded(self) -> None:
        answers = {DATABASES: 16, COMMANDS: builtin(), ACL: True, ACL_DATABASES: False, SEALED: True}
        self.assertTrue(probing.conclude({}, Facts(answers), acl=True).acl)
        for missing in (DATABASES, COMMANDS, ACL, ACL_DATABASES):
            less = {question: value for question, value in answers.items() if question is not missing}
            self.assertIsNone(probing.conclude({}, Facts(less), acl=True), missing)
        del answers[SEALED]
        self.assertIsNone(probing.conclude({}, Facts(answers), acl=True).sealed)
        self.assertFalse(probing.conclude({}, Facts(answers), acl=False).acl)


class WithoutTests(unittest.SynchronousTestCase):
    def test_a_name_costs_itself(self) -> None:
        commands = without(builtin(), {b"CLUSTERSCAN", b"OBJECT|FREQ"})
        self.assertNotIn(b"CLUSTERSCAN", commands)
        self.assertEqual(len(commands), len([name for name in builtin() if name != b"CLUSTERSCAN"]))
        forwarded = make_policy(commands, scripts=True).forwarded
        self.assertNotIn("object|freq", forwarded)
        self.assertIn("object|encoding", forwarded)

    def test_a_container_is_not_taken_for_a_command(self) -> None:
        only = Command(b"BOX|OPEN", frozenset(("keys",)))
        commands = {b"GET": Command(b"GET", frozenset()), b"BOX": Command(b"BOX", frozenset(("keys",)), (only,))}
        self.assertEqual(list(without(commands, {b"BOX|OPEN"})), [b"GET"])
