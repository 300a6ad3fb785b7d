"""The maintenance of ACL users, with a real Redis and a clock of the tests.

The tests check when Redis is asked what, and what happens at errors. Several services stand for
replicas of the proxy.
"""

from __future__ import annotations

from collections.abc import Callable

import redis
from twisted.internet import task
from twisted.logger import LogLevel, formatEvent
from twisted.trial import unittest

from redisproxy.ops.logs import Log
from redisproxy.policy import acl
from redisproxy.policy.facts import parse
from redisproxy.policy.policy import make_policy
from redisproxy.policy.probing import Server
from redisproxy.tenants.documents import ReadSummary
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.acl_maintenance import LONGEST_PAUSE, PAUSE, PAUSES, REMOVED_AT_ONCE, RETRY, AclMaintenanceService
from redisproxy.upstream.acl_users import AclUsers
from redisproxy.upstream.client import ControlError

from ..support.clients import client_once
from ..support.control import Control, run
from ..support.servers import RedisServer, on_every_server, valkey
from ..support.waiting import until

BLUE, GREEN = Tenant("team-blue", 3), Tenant("team-green", 5)
NAME = acl.username(BLUE)
OLD, NEW = b"old-master-password", b"new-master-password"
INTERVAL = 300.0


async def settled(tenant: Tenant) -> None:
    """Nobody removes patterns."""


class Replica:
    """One proxy, as far as its ACL users are concerned.

    asked: what it asked of Redis, without secret arguments.
    """

    def __init__(self, case: unittest.TestCase, server: RedisServer, clock: task.Clock, prefix: str = "team-") -> None:
        self.clock = clock
        self.control = Control(server)
        case.addCleanup(self.control._client.close)
        self.asked: list[str] = []
        #: by the beginning of a question: the error that Redis answers
        self.errors: dict[str, str] = {}
        #: by the beginning of a question: what something in Redis's place answers
        self.answers: dict[str, object] = {}
        #: seconds that each answer takes
        self.takes = 0.0
        self.acl_users = AclUsers("auto", self)
        commands = parse(self.control._client.execute_command("COMMAND"))
        self.acl_users.use(Server("a Redis", 64, commands, True, False), make_policy(commands, scripts=True))
        self.events: list[dict] = []
        self.service = AclMaintenanceService(clock, self, prefix, INTERVAL, self.acl_users.forget)
        self.service._log = Log(observer=self.events.append)
        self.tenants: frozenset[Tenant] = frozenset()
        self.service.startService()
        case.addCleanup(self.service.stopService)

    async def ask(self, *words: bytes | str) -> object:
        asked = " ".join(word if isinstance(word, str) else "…" for word in words[:3])
        self.asked.append(asked)
        for beginning, text in self.errors.items():
            if asked.startswith(beginning):
                raise ControlError(text)
        for beginning, answer in self.answers.items():
            if asked.startswith(beginning):
                return answer
        if self.takes:
            await task.deferLater(self.clock, self.takes)
        return await self.control.ask(*words)

    def read(self, *tenants: Tenant, master: bool = True, whole: bool = True) -> None:
        """A read of the source that begins and ends now. It finds the tenants' namespaces alone."""
        self.tenants = frozenset(tenants)
        self.acl_users.keep_only(self.tenants)
        self.service.claim(self.tenants)
        namespaces = frozenset(tenant.namespace for tenant in tenants)
        self.service.take_read(ReadSummary(whole, master, namespaces), self.clock.seconds())

    def told(self, level: LogLevel = LogLevel.info) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_level"] == level]


class UsersCase(unittest.SynchronousTestCase):
    def start(self, binary: Callable[[], str] = valkey) -> None:
        self.server = RedisServer(binary).start()
        self.addCleanup(self.server.stop)
        self.admin = self.server.client()
        self.addCleanup(self.admin.close)
        self.clock = task.Clock()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.clock.advance(1000)

    def replica(self, *tenants: Tenant, prefix: str = "team-") -> Replica:
        replica = Replica(self, self.server, self.clock, prefix)
        replica.read(*tenants)
        return replica

    def go_on(self, seconds: float = 1.0) -> None:
        """Advances the clock in small steps, because each step may schedule the next."""
        end = self.clock.seconds() + seconds
        for _ in range(200):
            self.clock.advance(min(PAUSE, end - self.clock.seconds()))
        while self.clock.seconds() < end:
            self.clock.advance(min(1.0, end - self.clock.seconds()))

    def make_user(self, name: str, *masters: bytes) -> str:
        secrets = [b">" + acl.password(each, name) for each in masters]
        self.admin.execute_command("ACL", "SETUSER", name, "on", "~*", "+ping", *secrets)
        return name

    def opens(self, name: str, *masters: bytes) -> list[bool]:
        """Says of each master password whether the user's password that follows from it opens the
        user.
        """
        found = []
        for each in masters:
            try:
                with self.client(name, each):
                    found.append(True)
            except redis.AuthenticationError:
                found.append(False)
        return found

    def client(self, name: str, master: bytes) -> redis.Redis:
        secret = acl.password(master, name).decode()
        client = client_once(
            port=self.server.port, username=name, password=secret, protocol=2, single_connection_client=True
        )
        self.addCleanup(client.close)
        return client

    def users(self) -> set[str]:
        return {name.decode() for name in self.admin.execute_command("ACL", "USERS")}

    def log_in(self, replica: Replica, master: bytes, tenant: Tenant = BLUE) -> int:
        """Logs in as an upstream connection does: once more if Redis does not know the password.

        Returns the number of attempts.
        """
        for attempt in (1, 2):
            name, secret = run(replica.acl_users.login(tenant, master))
            try:
                client_once(port=self.server.port, username=name.decode(), password=secret.decode(), protocol=2).ping()
                return attempt
            except redis.AuthenticationError:
                replica.acl_users.forget(tenant)
        raise AssertionError("a log-in failed")


@on_every_server
class PasswordsTests(UsersCase):
    def each_the_old_password_ends_one_interval_later(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        names = (NAME, "redisproxy:team-gone:9", "redisproxy:other-x:3")
        idle, gone, other = (self.make_user(name, OLD) for name in names)
        replica = self.replica(BLUE)
        open_sessions = [self.client(name, OLD) for name in (idle, gone)]
        replica.service.use(NEW)
        self.go_on()
        for name in (idle, gone):
            self.assertEqual(self.opens(name, OLD, NEW), [True, True])
        self.go_on(INTERVAL - 2)
        replica.read(BLUE)
        self.go_on(0.5)
        self.assertEqual(self.opens(idle, OLD, NEW), [True, True])
        self.go_on(2)
        for name in (idle, gone):
            self.assertEqual(self.opens(name, OLD, NEW), [False, True])
        self.assertEqual(self.opens(other, OLD, NEW), [True, False], "somebody else's")
        for session in open_sessions:
            self.assertTrue(session.ping())
        self.assertEqual(
            replica.told()[:2],
            [
                "2 ACL users have a password derived from the new master password; their old passwords end in 300 s",
                "2 ACL users have only the password derived from the new master password",
            ],
        )

    def each_replicas_that_learn_of_it_one_after_the_other(self, binary: Callable[[], str]) -> None:
        """Each replica can log in, whichever master password it knows; in the end only the new one
        opens.
        """
        self.start(binary)
        early, late = self.replica(BLUE), self.replica(BLUE)
        known = {early: OLD, late: OLD}
        for replica in known:
            replica.service.use(OLD)
        again = 0

        def step(seconds: float) -> None:
            nonlocal again
            for _ in range(4):
                self.go_on(seconds / 4)
                for replica, master in known.items():
                    again += self.log_in(replica, master) - 1

        def learns(replica: Replica) -> None:
            known[replica] = NEW
            replica.acl_users.forget_all()
            replica.service.use(NEW)

        step(INTERVAL)
        learns(early)
        early.read(BLUE)
        started = [self.replica(BLUE), self.replica(BLUE)]
        for replica, master in zip(started, (OLD, NEW), strict=True):
            known[replica] = master
            replica.service.use(master)
        step(INTERVAL / 2)
        self.assertEqual((self.opens(NAME, OLD, NEW), again), ([True, True], 0))
        for _ in range(3):
            early.read(BLUE)
            started[1].read(BLUE)
            step(INTERVAL)  # the other replicas read nothing
        self.assertGreater(again, 0, "the old one was taken away, and added again by who needs it")
        self.assertTrue(self.opens(NAME, NEW)[0])
        for replica in (late, started[0]):
            learns(replica)
        for _ in range(3):
            for replica in known:
                replica.read(BLUE)
            step(INTERVAL)
        self.assertEqual(self.opens(NAME, OLD, NEW), [False, True])


class ThrottleTests(UsersCase):
    def test_one_question_at_a_time_and_a_pause_after_each(self) -> None:
        self.start()
        for number in range(40):
            self.make_user(f"redisproxy:team-{number}:{number}", OLD)
        replica = self.replica(BLUE)
        replica.service.use(NEW)
        for _ in range(100):
            before = len(replica.asked)
            self.clock.advance(PAUSE)
            self.assertLessEqual(len(replica.asked) - before, 2, "of one user: its passwords, and their change")
        self.assertEqual(len([each for each in replica.asked if each.startswith("ACL GETUSER")]), 40)

    def test_the_pause_is_as_many_times_as_long_as_the_answer_took(self) -> None:
        self.start()
        for number in range(3):
            self.make_user(f"redisproxy:team-{number}:{number}", NEW)
        replica = self.replica(BLUE)
        for takes, pause in ((0.02, 0.02 * PAUSES), (9.0, LONGEST_PAUSE)):
            replica.takes = takes
            replica.service.use(NEW)
            self.clock.pump([0, takes, pause - 0.001])
            replica.asked.clear()
            self.clock.advance(0.002)
            self.assertEqual(len(replica.asked), 1)
            self.clock.pump([takes, pause, takes, pause, takes, pause])

    def test_thousands_are_not_asked_for_again_before_the_last_ones_were(self) -> None:
        self.start()
        for number in range(50):
            self.make_user(f"redisproxy:team-{number}:{number}", NEW)
        replica = self.replica(BLUE)
        replica.takes = 2.0
        replica.service.use(NEW)
        self.go_on(INTERVAL - 10)
        replica.asked.clear()
        self.go_on(20)
        self.assertNotIn("ACL USERS", replica.asked)

    def test_all_are_checked_once_an_interval_and_nothing_is_changed(self) -> None:
        self.start()
        self.make_user(NAME, NEW)
        replica = self.replica(BLUE)
        replica.service.use(NEW)
        self.go_on(10)
        for _ in range(3):
            replica.asked.clear()
            self.go_on(INTERVAL)
            self.assertEqual(replica.asked, ["ACL USERS", f"ACL GETUSER {NAME}"])
        self.assertEqual(replica.told(), [])

    def test_a_user_that_is_deleted_meanwhile_is_not_made_again(self) -> None:
        self.start()
        self.make_user(NAME, OLD)
        replica = self.replica(BLUE)
        asked = replica.control.ask

        async def ask(*words: bytes | str) -> object:
            if words[1] == "SETUSER":
                self.admin.execute_command("ACL", "DELUSER", NAME)
            return await asked(*words)

        replica.control.ask = ask
        replica.service.use(NEW)
        self.go_on()
        self.assertNotIn(NAME, self.users())
        self.assertEqual((replica.told(), replica.told(LogLevel.warn)), ([], []))


class ErrorsTests(UsersCase):
    def setUp(self) -> None:
        self.start()
        for name in (NAME, acl.username(GREEN)):
            self.make_user(name, OLD)
        self.one = self.replica(BLUE, GREEN)

    def test_errors_that_pass(self) -> None:
        for question in ("ACL USERS", "ACL GETUSER", "ACL SETUSER"):
            for text in ("BUSY Redis is busy", "LOADING", "OOM", "the control connection is not there", "MASTERDOWN x"):
                for name in (NAME, acl.username(GREEN)):
                    self.admin.execute_command("ACL", "SETUSER", name, "resetpass")
                    self.make_user(name, OLD)
                self.one.errors = {question: text}
                self.one.service.use(NEW)
                self.go_on(RETRY / 2)
                self.assertEqual(self.opens(NAME, NEW), [False])
                self.one.errors = {}
                self.go_on(2 * RETRY)
                for name in (NAME, acl.username(GREEN)):
                    self.assertEqual(self.opens(name, NEW), [True], (question, text))
                self.one.service.use(None)
        self.assertEqual(self.one.told(LogLevel.warn), [])

    def test_answers_that_are_not_redis_s_pass(self) -> None:
        for question, answer in (("ACL USERS", 1), ("ACL USERS", [[]]), ("ACL GETUSER", [b"passwords", None])):
            for name in (NAME, acl.username(GREEN)):
                self.admin.execute_command("ACL", "SETUSER", name, "resetpass")
                self.make_user(name, OLD)
            self.one.answers = {question: answer}
            self.one.service.use(NEW)
            self.go_on(RETRY / 2)
            self.assertEqual(self.opens(NAME, NEW), [False])
            self.one.answers = {}
            self.go_on(2 * RETRY)
            for name in (NAME, acl.username(GREEN)):
                self.assertEqual(self.opens(name, NEW), [True], (question, answer))
            self.one.service.use(None)

    def test_the_end_of_a_password_is_tried_again_soon(self) -> None:
        self.one.service.use(NEW)
        self.go_on()
        self.one.read(BLUE, GREEN)
        self.one.errors = {"ACL SETUSER": "BUSY Redis is busy"}
        self.go_on(INTERVAL)
        self.assertEqual(self.opens(NAME, OLD), [True])
        self.one.errors = {}
        self.go_on(2 * RETRY)
        self.assertEqual(self.opens(NAME, OLD), [False])

    def test_one_user_that_cannot_be_checked_does_not_keep_the_others_from_it(self) -> None:
        self.one.errors = {f"ACL GETUSER {NAME}": "OOM"}
        self.one.service.use(NEW)
        self.go_on(3 * RETRY)
        self.assertEqual(self.opens(acl.username(GREEN), NEW), [True])

    def test_what_the_masters_user_may_not_do_is_told_once(self) -> None:
        denied = {
            "ACL USERS": "NOPERM this user has no permissions to run the 'acl|users' command",
            "ACL GETUSER": "ERR unknown subcommand 'GETUSER'. Try ACL HELP.",
            "ACL SETUSER": "ERR Unknown subcommand or wrong number of arguments for 'SETUSER'. Try ACL HELP.",
        }
        for question, text in denied.items():
            self.one.errors = {question: text}
            self.one.asked.clear()
            self.one.service.use(NEW)
            self.go_on(3 * INTERVAL)
            self.assertLessEqual(len([each for each in self.one.asked if each.startswith(question)]), 4)
        self.assertEqual(
            self.one.told(LogLevel.warn),
            [
                f"the tenants' ACL users cannot be maintained: Redis answered {question} with {text.partition(' ')[0]}"
                for question, text in denied.items()
            ],
        )

    def test_without_client_list_passwords_end_all_the_same(self) -> None:
        self.make_user("redisproxy:team-gone:9", OLD)
        self.one.errors = {"CLIENT LIST": "NOPERM no"}
        self.one.service.use(NEW)
        for _ in range(4):
            self.go_on(INTERVAL)
            self.one.read(BLUE, GREEN)
        self.go_on(5)
        self.assertEqual(self.opens(NAME, OLD, NEW), [False, True])
        self.assertIn("redisproxy:team-gone:9", self.users(), "it may be in use")
        self.assertEqual(len(self.one.told(LogLevel.warn)), 1)

    def test_no_hash_is_logged(self) -> None:
        self.one.errors = {"ACL SETUSER": f"ERR unknown modifier '!{'a' * 64}'"}
        self.one.service.use(NEW)
        self.go_on(2 * INTERVAL)
        self.assertNotIn("aaaa", repr([formatEvent(event) for event in self.one.events]))

    def test_redis_without_users_of_ours_is_not_asked(self) -> None:
        self.one.service.use(None)
        self.one.asked.clear()
        self.one.read(BLUE)
        self.go_on(2 * INTERVAL)
        self.assertEqual(self.one.asked, [])


@on_every_server
class RemovalTests(UsersCase):
    def each_who_is_gone_is_removed(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        unused, used, former, other, prefix = (
            self.make_user(name, NEW)
            for name in (
                "redisproxy:team-gone:9",
                "redisproxy:team-used:10",
                "redisproxy:team-blue:4",
                "redisproxy:other:3",
                "redisproxy:team:3",
            )
        )
        session = self.client(used, NEW)
        replica = self.replica(BLUE, GREEN)
        for tenant in (BLUE, GREEN):
            run(replica.acl_users.login(tenant, NEW))
        replica.service.use(NEW)
        self.go_on()
        self.assertTrue({unused, used, former, other, prefix} <= self.users())
        replica.read(BLUE, GREEN)
        self.go_on()
        self.assertTrue({unused, used, former} <= self.users(), "one read may be one of before")
        self.go_on(INTERVAL)
        replica.read(BLUE, GREEN)
        self.go_on()
        ours = {NAME, acl.username(GREEN)}
        self.assertEqual(self.users(), {"default", used, other, prefix, *ours})
        self.assertTrue(session.ping(), "nobody knows whose it is")
        session.close()
        until(lambda: f"user={used} ".encode() not in self.admin.execute_command("CLIENT", "LIST"), "its session ends")
        replica.read(BLUE, GREEN)
        self.go_on()
        self.assertEqual(self.users(), {"default", other, prefix, *ours})
        # The deletion of its namespace was seen: the next read that finds the same cuts its
        # sessions.
        green = self.client(acl.username(GREEN), NEW)
        replica.read(BLUE, whole=False)
        self.go_on()
        self.assertTrue(green.ping(), "it may be one that another replica serves, of a namespace that was made again")
        replica.read(BLUE)
        self.go_on()
        self.assertEqual(self.users(), {"default", other, prefix, NAME})
        with self.assertRaises((redis.ConnectionError, redis.AuthenticationError)):
            green.ping()
        # A user that no connection uses is removed at once.
        replica.read(BLUE, GREEN)
        run(replica.acl_users.login(GREEN, NEW))
        self.assertIn(acl.username(GREEN), self.users())
        replica.read(BLUE, whole=False)
        self.go_on()
        self.assertNotIn(acl.username(GREEN), self.users())

    def each_one_that_another_replica_made_stays(self, binary: Callable[[], str]) -> None:
        self.start(binary)
        behind, ahead = self.replica(BLUE), self.replica(BLUE, GREEN)
        for replica in (behind, ahead):
            replica.service.use(NEW)
        for _ in range(3):
            self.go_on(INTERVAL)
            behind.read(BLUE)
        run(ahead.acl_users.login(GREEN, NEW))
        self.go_on(INTERVAL)  # the user is seen without a tenant
        behind.read(BLUE, GREEN)
        self.go_on(3 * INTERVAL)
        self.assertIn(acl.username(GREEN), self.users())

    def each_a_tenant_that_is_back_has_its_patterns_anew(self, binary: Callable[[], str]) -> None:
        """After a tenant's user was removed, Redis is asked for the patterns of the next one."""
        self.start(binary)
        first, second = self.replica(BLUE), self.replica(BLUE)
        run(first.acl_users.login(BLUE, NEW))
        run(first.acl_users.permit(BLUE, [b"team-blue:news.*"], settled))
        first.read()
        first.service.use(NEW)
        for _ in range(2):
            self.go_on(INTERVAL)
            first.read()
        self.go_on()
        self.assertNotIn(NAME, self.users())
        first.read(BLUE)
        run(second.acl_users.login(BLUE, NEW))
        run(first.acl_users.login(BLUE, NEW))
        run(first.acl_users.permit(BLUE, [b"team-blue:news.*"], settled))
        pubsub = self.client(NAME, NEW).pubsub()
        self.addCleanup(pubsub.close)
        pubsub.psubscribe("team-blue:news.*")
        self.assertEqual(pubsub.get_message(timeout=5)["type"], "psubscribe")


class ManyTests(UsersCase):
    def test_many_are_removed_a_few_at_a_time(self) -> None:
        self.start()
        for number in range(2 * REMOVED_AT_ONCE + 1):
            self.make_user(f"redisproxy:team-{number}:{number}", NEW)
        replica = self.replica(BLUE)
        replica.service.use(NEW)
        self.go_on(2)
        replica.read(BLUE)
        self.go_on()
        replica.asked.clear()
        replica.read(BLUE)
        self.go_on()
        self.assertEqual(self.users(), {"default"})
        self.assertEqual([each.split(" ")[:2] for each in replica.asked], [["CLIENT", "LIST"], ["ACL", "DELUSER"]] * 3)
        self.assertRegex(
            replica.told()[0], rf"^removed {REMOVED_AT_ONCE} ACL users without a tenant: (redisproxy:\S+:\d+, ){{9}}\S+ …$"
        )
